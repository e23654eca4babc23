/* SPDX-License-Identifier: MIT
 * Qwen1.5-MoE and Qwen2-MoE. Biases on queries, keys and values; a shared expert that every token
 * passes, weighted by a sigmoid gate of its own. The chosen experts' weights are not renormalised.
 */
#include "model/model.h"

static int hparams(const struct pg_gguf *g, struct pg_hparams *h, struct pg_err *err)
{
    int64_t n_ff_exp = h->n_ff, n_ff_shexp = h->n_ff;
    PG_TRY(pg_gguf_get_int(g, "qwen2moe.expert_feed_forward_length", PG_GGUF_OPTIONAL,
                           (int64_t[]){1, 1 << 24}, &n_ff_exp, err));
    PG_TRY(pg_gguf_get_int(g, "qwen2moe.expert_shared_feed_forward_length", PG_GGUF_OPTIONAL,
                           (int64_t[]){1, 1 << 24}, &n_ff_shexp, err));
    h->n_ff_exp = (int)n_ff_exp;
    h->n_ff_shexp = (int)n_ff_shexp;
    h->rope = PG_ROPE_HALVES;
    return 0;
}

static int tensors(struct pg_loader *l, struct pg_block *w, int il, struct pg_err *err)
{
    const struct pg_hparams *h = pg_loader_hparams(l);
    const int64_t n_q[2] = {(int64_t)h->n_head * h->head_dim, 1};
    const int64_t n_kv[2] = {(int64_t)h->n_head_kv * h->head_dim, 1};
    const int64_t in[2] = {h->n_embd, h->n_ff_shexp}, out[2] = {h->n_ff_shexp, h->n_embd};
    PG_TRY(pg_loader_attention(l, il, err));
    PG_TRY(pg_loader_weight(l, il, PG_PART_Q_BIAS, n_q, err));
    PG_TRY(pg_loader_weight(l, il, PG_PART_K_BIAS, n_kv, err));
    PG_TRY(pg_loader_weight(l, il, PG_PART_V_BIAS, n_kv, err));
    PG_TRY(pg_loader_experts(l, w, il, err));
    if (w->moe < 0)
        return 0;
    PG_TRY(pg_loader_weight(l, il, PG_PART_SH_INP, (int64_t[]){h->n_embd, 1}, err));
    PG_TRY(pg_loader_weight(l, il, PG_PART_SH_GATE, in, err));
    PG_TRY(pg_loader_weight(l, il, PG_PART_SH_UP, in, err));
    return pg_loader_weight(l, il, PG_PART_SH_DOWN, out, err);
}

const struct pg_family pg_family_qwen2moe = {"qwen2moe", hparams, tensors};
