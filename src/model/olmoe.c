/* SPDX-License-Identifier: MIT
 * OLMoE. Queries and keys are normalised over their whole row before they are split into heads. The
 * chosen experts' weights are left as the softmax gave them.
 */
#include "model/model.h"

static int hparams(const struct pg_gguf *g, struct pg_hparams *h, struct pg_err *err)
{
    (void)g;
    (void)err;
    h->n_ff_exp = h->n_ff; /* the key speaks of an expert here */
    h->rope = PG_ROPE_HALVES;
    return 0;
}

static int tensors(struct pg_loader *l, struct pg_block *w, int il, struct pg_err *err)
{
    const struct pg_hparams *h = pg_loader_hparams(l);
    int64_t n_q = (int64_t)h->n_head * h->head_dim, n_kv = (int64_t)h->n_head_kv * h->head_dim;
    PG_TRY(pg_loader_attention(l, il, err));
    PG_TRY(pg_loader_weight(l, il, PG_PART_Q_NORM, (int64_t[]){n_q, 1}, err));
    PG_TRY(pg_loader_weight(l, il, PG_PART_K_NORM, (int64_t[]){n_kv, 1}, err));
    return pg_loader_experts(l, w, il, err);
}

const struct pg_family pg_family_olmoe = {"olmoe", hparams, tensors};
