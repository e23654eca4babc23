/* SPDX-License-Identifier: MIT
 * T5 and Switch Transformers (docs/switch.md).
 */
#include "make/hf_impl.h"

#include <stdio.h>
#include <string.h>

static bool is_switch(const struct pg_hf *f)
{
    return !strcmp(f->family->model_type, "switch_transformers");
}

static int check_kind(struct pg_hf *f, struct pg_err *err)
{
    const char *act;
    int64_t far;
    PG_TRY(pg_hf_text(f, "feed_forward_proj", &act, err));
    act = act ? act : "relu";
    f->d.gated = !strcmp(act, "gated-gelu");
    if (strcmp(act, "relu") != 0 && !f->d.gated)
        return pg_fail(err, PG_ENOTSUP,
                       "%s: feed_forward_proj: '%s' found, relu and gated-gelu can be run",
                       f->config_path, pg_quote(act, strlen(act)).s);
    PG_TRY(pg_hf_only(f, "dense_act_fn", f->d.gated ? "gelu_new" : "relu", err));
    PG_TRY(pg_hf_int(f, "relative_attention_max_distance", (int64_t[]){128, 128}, 128, &far, err));
    if (pg_hf_true(f, "router_bias", false))
        return pg_fail(err, PG_ENOTSUP, "%s: router_bias: true found, false can be run",
                       f->config_path);
    return 0;
}

static int dims(struct pg_hf *f, struct pg_err *err)
{
    enum { MANY = 1 << 24, BLOCKS = 1024 };
    struct pg_hf_dims *d = &f->d;
    const struct pg_hf_number numbers[] = {
        {"vocab_size", 1, MANY, PG_HF_NEEDED, &d->n_vocab},
        {"n_positions", 1, INT32_MAX, 512, &d->n_ctx},
        {"d_model", 1, 65536, PG_HF_NEEDED, &d->n_embd},
        {"d_ff", 1, MANY, PG_HF_NEEDED, &d->n_ff},
        {"d_kv", 2, 4096, PG_HF_NEEDED, &d->head_dim},
        {"num_heads", 1, 4096, PG_HF_NEEDED, &d->n_head},
        {"num_layers", 1, BLOCKS, PG_HF_NEEDED, &d->n_layer},
        {"relative_attention_num_buckets", 4, 256, 32, &d->n_buckets},
        {"num_experts", 1, 4096, PG_HF_NEEDED, &d->n_expert},
        {"num_selected_experts", 1, 1, 1, &d->n_used},
        {"expert_capacity", 0, INT32_MAX, 0, &d->capacity},
    };
    PG_TRY(pg_hf_numbers(f, numbers, PG_COUNT(numbers) - (is_switch(f) ? 0 : 3), err));
    const struct pg_hf_number more[] = {
        {"num_decoder_layers", 1, BLOCKS, d->n_layer, &d->n_decoder},
        {"decoder_start_token_id", 0, d->n_vocab - 1, 0, &d->start},
    };
    PG_TRY(pg_hf_numbers(f, more, PG_COUNT(more), err));
    PG_TRY(pg_hf_real(f, "layer_norm_epsilon", 1e-6, &d->eps, err));
    d->n_head_kv = d->n_head;
    d->tied = pg_hf_true(f, "tie_word_embeddings", true);
    return check_kind(f, err);
}

struct block {
    struct pg_hf *f;
    const char *stack, *out; /* "encoder", "enc" */
    int il, n_sub;           /* the number of the block's next part */
    char to[64], from[128];
    struct pg_err *err;
};

static const char *out_name(struct block *b, const char *name)
{
    snprintf(b->to, sizeof(b->to), "%s.blk.%d.%s", b->out, b->il, name);
    return b->to;
}

static const char *hf_name(struct block *b, const char *name)
{
    snprintf(b->from, sizeof(b->from), "%s.block.%d.layer.%d.%s", b->stack, b->il, b->n_sub, name);
    return b->from;
}

static int one(struct block *b, const char *out, const char *from, int64_t rows, int64_t n)
{
    return pg_hf_copy(b->f, out_name(b, out), hf_name(b, from), rows, n, b->err);
}

static int attention(struct block *b, const char *out, const char *from)
{
    static const char kinds[] = "qkvo";
    const struct pg_hf_dims *d = &b->f->d;
    const int64_t n = d->n_head * d->head_dim;
    char to[64], name[64];
    snprintf(to, sizeof(to), "%s_norm.weight", out);
    PG_TRY(one(b, to, "layer_norm.weight", 1, d->n_embd));
    for (int i = 0; i < 4; i++) {
        snprintf(to, sizeof(to), "%s_%c.weight", out, kinds[i]);
        snprintf(name, sizeof(name), "%s.%c.weight", from, kinds[i]);
        PG_TRY(one(b, to, name, i == 3 ? d->n_embd : n, i == 3 ? n : d->n_embd));
    }
    return 0;
}

/* T5 1.0 names the block's part DenseReluDense, Switch mlp. */
static int dense(struct block *b)
{
    const struct pg_hf_dims *d = &b->f->d;
    const bool old = pg_hf_has(b->f, hf_name(b, "DenseReluDense.wo.weight"));
    char wi[64], gate[64], wo[64];
    const char *part = old ? "DenseReluDense" : "mlp";
    snprintf(gate, sizeof(gate), "%s.wi_0.weight", part);
    snprintf(wo, sizeof(wo), "%s.wo.weight", part);
    snprintf(wi, sizeof(wi), "%s.%s.weight", part, d->gated ? "wi_1" : "wi");
    if (d->gated)
        PG_TRY(one(b, "ffn_gate.weight", gate, d->n_ff, d->n_embd));
    PG_TRY(one(b, "ffn_up.weight", wi, d->n_ff, d->n_embd));
    return one(b, "ffn_down.weight", wo, d->n_embd, d->n_ff);
}

static int experts(struct block *b)
{
    const struct pg_hf_dims *d = &b->f->d;
    char up[64], down[64], from[2][128];
    snprintf(up, sizeof(up), "%s", out_name(b, "ffn_up_exps.weight"));
    snprintf(down, sizeof(down), "%s", out_name(b, "ffn_down_exps.weight"));
    snprintf(from[0], sizeof(from[0]), "%s", hf_name(b, "mlp.experts.expert_%d.wi.weight"));
    snprintf(from[1], sizeof(from[1]), "%s", hf_name(b, "mlp.experts.expert_%d.wo.weight"));
    const struct pg_hf_experts x[2] = {
        {up, from[0], "-", d->n_ff, d->n_embd, d->n_ff, 0, d->n_expert},
        {down, from[1], "-", d->n_embd, d->n_ff, d->n_embd, 0, d->n_expert},
    };
    PG_TRY(one(b, "ffn_gate_inp.weight", "mlp.router.classifier.weight", d->n_expert, d->n_embd));
    pg_hf_last(b->f)->is_small = true;
    PG_TRY(pg_hf_merge(b->f, &x[0], b->err));
    return pg_hf_merge(b->f, &x[1], b->err);
}

static int block(struct block *b, bool decoder)
{
    const struct pg_hf_dims *d = &b->f->d;
    PG_TRY(attention(b, "attn", "SelfAttention"));
    if (b->il == 0) {
        PG_TRY(one(b, "attn_rel_b.weight", "SelfAttention.relative_attention_bias.weight",
                   d->n_buckets, d->n_head));
        pg_hf_last(b->f)->is_small = true;
    }
    b->n_sub++;
    if (decoder) {
        PG_TRY(attention(b, "cross_attn", "EncDecAttention"));
        pg_hf_ignore(b->f, hf_name(b, "EncDecAttention.relative_attention_bias.weight"));
        b->n_sub++;
    }
    PG_TRY(one(b, "ffn_norm.weight", "layer_norm.weight", 1, d->n_embd));
    return pg_hf_has(b->f, hf_name(b, "mlp.router.classifier.weight")) ? experts(b) : dense(b);
}

static int stack(struct pg_hf *f, const char *name, const char *out, struct pg_err *err)
{
    const bool decoder = !strcmp(out, "dec");
    char to[64], from[96];
    for (int il = 0; il < (decoder ? f->d.n_decoder : f->d.n_layer); il++) {
        struct block b = {.f = f, .stack = name, .out = out, .il = il, .err = err};
        PG_TRY(block(&b, decoder));
    }
    snprintf(to, sizeof(to), "%s.output_norm.weight", out);
    snprintf(from, sizeof(from), "%s.final_layer_norm.weight", name);
    return pg_hf_copy(f, to, from, 1, f->d.n_embd, err);
}

static int tensors(struct pg_hf *f, struct pg_err *err)
{
    const struct pg_hf_dims *d = &f->d;
    PG_TRY(pg_hf_copy(f, "token_embd.weight", "shared.weight", d->n_vocab, d->n_embd, err));
    pg_hf_ignore(f, "encoder.embed_tokens.weight"); /* the same table */
    pg_hf_ignore(f, "decoder.embed_tokens.weight");
    PG_TRY(stack(f, "encoder", "enc", err));
    PG_TRY(stack(f, "decoder", "dec", err));
    if (d->tied) {
        pg_hf_ignore(f, "lm_head.weight");
        return 0;
    }
    return pg_hf_copy(f, "output.weight", "lm_head.weight", d->n_vocab, d->n_embd, err);
}

static void keys(const struct pg_hf *f, struct pg_hf_keys *k)
{
    pg_hf_u32(k, "decoder_block_count", f->d.n_decoder);
    pg_hf_u32(k, "decoder_start_token_id", f->d.start);
    pg_hf_u32(k, "attention.relative_buckets_count", f->d.n_buckets);
    if (f->d.capacity)
        pg_hf_u32(k, "expert_capacity", f->d.capacity);
}

const struct pg_hf_family pg_hf_t5 = {"t5", "t5", dims, tensors, keys};
const struct pg_hf_family pg_hf_switch = {"switch_transformers", "switch", dims, tensors, keys};
