/* SPDX-License-Identifier: MIT
 * Qwen3-MoE. Each head of queries and keys is normalised by itself. The chosen experts' weights sum
 * to one. Some checkpoints have dense blocks between.
 */
#include "model/model.h"

static int hparams(const struct pg_gguf *g, struct pg_hparams *h, struct pg_err *err)
{
    int64_t n_ff_exp = h->n_ff;
    PG_TRY(pg_gguf_get_int(g, "qwen3moe.expert_feed_forward_length", PG_GGUF_OPTIONAL,
                           (int64_t[]){1, 1 << 24}, &n_ff_exp, err));
    h->n_ff_exp = (int)n_ff_exp;
    h->rule.renormalise = true;
    h->rope = PG_ROPE_HALVES;
    return 0;
}

static int tensors(struct pg_loader *l, struct pg_block *w, int il, struct pg_err *err)
{
    const int64_t head[2] = {pg_loader_hparams(l)->head_dim, 1};
    PG_TRY(pg_loader_attention(l, il, err));
    PG_TRY(pg_loader_weight(l, il, PG_PART_Q_NORM, head, err));
    PG_TRY(pg_loader_weight(l, il, PG_PART_K_NORM, head, err));
    return pg_loader_experts(l, w, il, err);
}

const struct pg_family pg_family_qwen3moe = {"qwen3moe", hparams, tensors};
