/* SPDX-License-Identifier: MIT
 * Llama, and Mixtral, which is Llama with experts. Rows of attn_q and attn_k are stored permuted
 * for rotation in pairs. The chosen experts' weights sum to one.
 */
#include "model/model.h"

static int hparams(const struct pg_gguf *g, struct pg_hparams *h, struct pg_err *err)
{
    (void)g;
    (void)err;
    h->n_ff_exp = h->n_ff;
    h->rule.renormalise = true;
    h->rope = PG_ROPE_PAIRS;
    return 0;
}

static int tensors(struct pg_loader *l, struct pg_block *w, int il, struct pg_err *err)
{
    PG_TRY(pg_loader_attention(l, il, err));
    return pg_loader_experts(l, w, il, err);
}

const struct pg_family pg_family_llama = {"llama", hparams, tensors};
