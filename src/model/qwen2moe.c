/* SPDX-License-Identifier: MIT
 * Qwen1.5-MoE and Qwen2-MoE. Biases on queries, keys and values; a shared expert that every token
 * passes, weighted by a sigmoid gate of its own. The chosen experts' weights are not renormalised.
 */
#include "model/model.h"

static int hparams(const struct pg_gguf *g, struct pg_hparams *h, struct pg_err *err)
{
    int64_t n_ff_exp = h->n_ff, n_ff_shexp = h->n_ff;
    PG_TRY(pg_gguf_get_int(g, "qwen2moe.expert_feed_forward_length", PG_GGUF_OPTIONAL, 1, 1 << 24,
                           &n_ff_exp, err));
    PG_TRY(pg_gguf_get_int(g, "qwen2moe.expert_shared_feed_forward_length", PG_GGUF_OPTIONAL, 1,
                           1 << 24, &n_ff_shexp, err));
    h->n_ff_exp = (int)n_ff_exp;
    h->n_ff_shexp = (int)n_ff_shexp;
    h->rope = PG_ROPE_HALVES;
    return 0;
}

static int tensors(struct pg_loader *l, struct pg_layer *w, int il, struct pg_err *err)
{
    const struct pg_hparams *h = pg_loader_hparams(l);
    const int64_t n_q[2] = {(int64_t)h->n_head * h->head_dim, 1};
    const int64_t n_kv[2] = {(int64_t)h->n_head_kv * h->head_dim, 1};
    const int64_t in[2] = {h->n_embd, h->n_ff_shexp}, out[2] = {h->n_ff_shexp, h->n_embd};
    PG_TRY(pg_loader_attention(l, w, il, err));
    PG_TRY(pg_loader_weight(l, &w->attn_q_bias, il, "attn_q.bias", n_q, err));
    PG_TRY(pg_loader_weight(l, &w->attn_k_bias, il, "attn_k.bias", n_kv, err));
    PG_TRY(pg_loader_weight(l, &w->attn_v_bias, il, "attn_v.bias", n_kv, err));
    PG_TRY(pg_loader_experts(l, w, il, err));
    if (w->moe < 0)
        return 0;
    PG_TRY(pg_loader_weight(l, &w->ffn_gate_inp_shexp, il, "ffn_gate_inp_shexp.weight",
                            (int64_t[]){h->n_embd, 1}, err));
    PG_TRY(pg_loader_weight(l, &w->ffn_gate_shexp, il, "ffn_gate_shexp.weight", in, err));
    PG_TRY(pg_loader_weight(l, &w->ffn_up_shexp, il, "ffn_up_shexp.weight", in, err));
    return pg_loader_weight(l, &w->ffn_down_shexp, il, "ffn_down_shexp.weight", out, err);
}

const struct pg_family pg_family_qwen2moe = {"qwen2moe", hparams, tensors};
