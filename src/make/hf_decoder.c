/* SPDX-License-Identifier: MIT
 * Llama and the models that descend from it: Mixtral, Qwen2-MoE, Qwen3-MoE, OLMoE.
 */
#include "make/hf_impl.h"

#include <stdio.h>
#include <string.h>

/* Where each family differs in names. */
struct names {
    const char *router, *gate, *up, *down; /* of an expert; "%d" is its number */
};
static const struct names of_mixtral = {
    "block_sparse_moe.gate.weight", "block_sparse_moe.experts.%d.w1.weight",
    "block_sparse_moe.experts.%d.w3.weight", "block_sparse_moe.experts.%d.w2.weight"};
static const struct names of_qwen = {"mlp.gate.weight", "mlp.experts.%d.gate_proj.weight",
                                     "mlp.experts.%d.up_proj.weight",
                                     "mlp.experts.%d.down_proj.weight"};

static bool is(const struct pg_hf *f, const char *model_type)
{
    return !strcmp(f->family->model_type, model_type);
}

/* ------------------------------------------------------------------ sizes ------------------- */

/* An object of the configuration; NULL where there is none. */
static int get_object(const struct pg_hf *f, const char *key, const json_t **out,
                      struct pg_err *err)
{
    *out = pg_hf_value(f, key);
    return !*out || json_is_object(*out)
               ? 0
               : pg_fail(err, PG_EFORMAT, "%s: %s: something else found, an object wanted",
                         f->config_path, key);
}

/* The kind of rotation that an object names; only one of the two may change it. */
static int get_rope_kind(struct pg_hf *f, const char *key, struct pg_err *err)
{
    const json_t *in, *type, *factor;
    PG_TRY(get_object(f, key, &in, err));
    if (!in)
        return 0;
    type = json_object_get(in, "rope_type");
    type = type ? type : json_object_get(in, "type");
    factor = json_object_get(in, "factor");
    const char *kind = type ? json_string_value(type) : "default";
    if (kind && !strcmp(kind, "linear") && json_is_number(factor) &&
        json_number_value(factor) >= 1e-3) {
        f->d.rope_factor = json_number_value(factor);
        return 0;
    }
    if (kind && !strcmp(kind, "default"))
        return 0;
    return pg_fail(err, PG_ENOTSUP,
                   "%s: %s: rope_type '%s' found; default, and linear with a factor, can be run",
                   f->config_path, key, kind ? pg_quote(kind, strlen(kind)).s : "no text");
}

/* rope_theta, and rope_scaling; newer folders have both in rope_parameters. */
static int get_rope(struct pg_hf *f, struct pg_err *err)
{
    const json_t *both;
    f->d.rope_factor = 1;
    PG_TRY(get_object(f, "rope_parameters", &both, err));
    const json_t *theta = json_object_get(both, "rope_theta");
    if (json_is_number(theta))
        f->d.theta = json_number_value(theta);
    else
        PG_TRY(pg_hf_real(f, "rope_theta", PG_HF_NEEDED, &f->d.theta, err));
    if (!(f->d.theta >= 1 && f->d.theta <= 1e12))
        return pg_fail(err, PG_EFORMAT, "%s: rope_theta: %g found, 1 to 1e12 wanted",
                       f->config_path, f->d.theta);
    PG_TRY(get_rope_kind(f, "rope_parameters", err));
    return get_rope_kind(f, "rope_scaling", err);
}

/* What would make it another model than the engine runs. */
static int check_kind(const struct pg_hf *f, struct pg_err *err)
{
    double partial;
    PG_TRY(pg_hf_only(f, "hidden_act", "silu", err));
    PG_TRY(pg_hf_real(f, "partial_rotary_factor", 1, &partial, err));
    if (partial != 1)
        return pg_fail(err, PG_ENOTSUP, "%s: partial_rotary_factor: %g found, 1 can be run",
                       f->config_path, partial);
    if (pg_hf_value(f, "clip_qkv"))
        return pg_fail(err, PG_ENOTSUP, "%s: clip_qkv: a number found, null can be run",
                       f->config_path);
    if (pg_hf_value(f, "sliding_window") && pg_hf_true(f, "use_sliding_window", is(f, "mixtral")))
        return pg_fail(err, PG_ENOTSUP, "%s: sliding_window: a number found, null can be run",
                       f->config_path);
    return 0;
}

/* What one number says of another. */
static int check_dims(const struct pg_hf *f, struct pg_err *err)
{
    const struct pg_hf_dims *d = &f->d;
    if (d->n_head % d->n_head_kv)
        return pg_fail(err, PG_EFORMAT,
                       "%s: num_attention_heads: %lld found, a multiple of num_key_value_heads "
                       "(%lld) wanted",
                       f->config_path, (long long)d->n_head, (long long)d->n_head_kv);
    if (d->head_dim < 2 || d->head_dim % 2)
        return pg_fail(err, PG_EFORMAT, "%s: head_dim: %lld found, an even number wanted",
                       f->config_path, (long long)d->head_dim);
    if (d->n_used > d->n_expert)
        return pg_fail(err, PG_EFORMAT,
                       "%s: num_experts_per_tok: %lld found, %lld experts are there",
                       f->config_path, (long long)d->n_used, (long long)d->n_expert);
    return 0;
}

enum { MANY = 1 << 24, HEADS = 4096, BLOCKS = 1024, EXPERTS = 4096 };

static int dims(struct pg_hf *f, struct pg_err *err)
{
    struct pg_hf_dims *d = &f->d;
    const bool mixtral = is(f, "mixtral"), moe = !is(f, "llama"), qwen2 = is(f, "qwen2_moe");
    const struct pg_hf_number numbers[] = {
        {"vocab_size", 1, MANY, PG_HF_NEEDED, &d->n_vocab},
        {"max_position_embeddings", 1, INT32_MAX, 2048, &d->n_ctx},
        {"hidden_size", 1, 65536, PG_HF_NEEDED, &d->n_embd},
        {"num_hidden_layers", 1, BLOCKS, PG_HF_NEEDED, &d->n_layer},
        {"num_attention_heads", 1, HEADS, PG_HF_NEEDED, &d->n_head},
        {"intermediate_size", 1, MANY, PG_HF_NEEDED, &d->n_ff},
        {mixtral ? "num_local_experts" : "num_experts", 1, EXPERTS, PG_HF_NEEDED, &d->n_expert},
        {"num_experts_per_tok", 1, EXPERTS, PG_HF_NEEDED, &d->n_used},
    };
    PG_TRY(pg_hf_numbers(f, numbers, PG_COUNT(numbers) - (moe ? 0 : 2), err));
    const bool alike = is(f, "llama") || is(f, "olmoe"); /* where keys have as many heads */
    const struct pg_hf_number more[] = {
        {"num_key_value_heads", 1, d->n_head, alike ? d->n_head : PG_HF_NEEDED, &d->n_head_kv},
        {"head_dim", 2, 4096, d->n_embd / d->n_head, &d->head_dim},
        {"moe_intermediate_size", 1, MANY, mixtral || alike ? d->n_ff : PG_HF_NEEDED, &d->n_ff_exp},
        {"shared_expert_intermediate_size", 1, MANY, qwen2 ? PG_HF_NEEDED : 0, &d->n_ff_shexp},
    };
    PG_TRY(pg_hf_numbers(f, more, PG_COUNT(more), err));
    PG_TRY(pg_hf_real(f, "rms_norm_eps", PG_HF_NEEDED, &d->eps, err));
    d->tied = pg_hf_true(f, "tie_word_embeddings", false);
    /* Mixtral's always sum to one, whatever its file says. */
    d->renormalise = mixtral || pg_hf_true(f, "norm_topk_prob", false);
    PG_TRY(get_rope(f, err));
    PG_TRY(check_kind(f, err));
    return check_dims(f, err);
}

/* ------------------------------------------------------------------ tensors ----------------- */

struct block {
    struct pg_hf *f;
    int il;
    char out[64], from[96];
    struct pg_err *err;
};

static const char *out_name(struct block *b, const char *name)
{
    snprintf(b->out, sizeof(b->out), "blk.%d.%s", b->il, name);
    return b->out;
}

static const char *hf_name(struct block *b, const char *name)
{
    snprintf(b->from, sizeof(b->from), "model.layers.%d.%s", b->il, name);
    return b->from;
}

static int one(struct block *b, const char *out, const char *from, int64_t rows, int64_t n)
{
    return pg_hf_copy(b->f, out_name(b, out), hf_name(b, from), rows, n, b->err);
}

static int attention(struct block *b)
{
    const struct pg_hf_dims *d = &b->f->d;
    const int64_t q = d->n_head * d->head_dim, kv = d->n_head_kv * d->head_dim;
    const bool pairs = is(b->f, "llama") || is(b->f, "mixtral");
    const bool a_head = is(b->f, "qwen3_moe");
    PG_TRY(one(b, "attn_norm.weight", "input_layernorm.weight", 1, d->n_embd));
    PG_TRY(one(b, "attn_q.weight", "self_attn.q_proj.weight", q, d->n_embd));
    pg_hf_last(b->f)->n_head_rotated = pairs ? (int)d->n_head : 0;
    PG_TRY(one(b, "attn_k.weight", "self_attn.k_proj.weight", kv, d->n_embd));
    pg_hf_last(b->f)->n_head_rotated = pairs ? (int)d->n_head_kv : 0;
    PG_TRY(one(b, "attn_v.weight", "self_attn.v_proj.weight", kv, d->n_embd));
    PG_TRY(one(b, "attn_output.weight", "self_attn.o_proj.weight", d->n_embd, q));
    if (is(b->f, "qwen2_moe")) {
        PG_TRY(one(b, "attn_q.bias", "self_attn.q_proj.bias", 1, q));
        PG_TRY(one(b, "attn_k.bias", "self_attn.k_proj.bias", 1, kv));
        PG_TRY(one(b, "attn_v.bias", "self_attn.v_proj.bias", 1, kv));
    }
    if (is(b->f, "qwen3_moe") || is(b->f, "olmoe")) {
        PG_TRY(
            one(b, "attn_q_norm.weight", "self_attn.q_norm.weight", 1, a_head ? d->head_dim : q));
        PG_TRY(
            one(b, "attn_k_norm.weight", "self_attn.k_norm.weight", 1, a_head ? d->head_dim : kv));
    }
    return one(b, "ffn_norm.weight", "post_attention_layernorm.weight", 1, d->n_embd);
}

static int dense(struct block *b)
{
    const struct pg_hf_dims *d = &b->f->d;
    PG_TRY(one(b, "ffn_gate.weight", "mlp.gate_proj.weight", d->n_ff, d->n_embd));
    PG_TRY(one(b, "ffn_up.weight", "mlp.up_proj.weight", d->n_ff, d->n_embd));
    return one(b, "ffn_down.weight", "mlp.down_proj.weight", d->n_embd, d->n_ff);
}

/* Merged tensors of one file's experts: each by itself, or, as newer folders have it, gate and up
 * of all in one tensor. */
static int experts(struct block *b, const struct names *names)
{
    const struct pg_hf_dims *d = &b->f->d;
    const int64_t ff = d->n_ff_exp;
    char single[3][96], fused[2][96], out[3][64];
    snprintf(fused[0], sizeof(fused[0]), "%s", hf_name(b, "mlp.experts.gate_up_proj"));
    snprintf(fused[1], sizeof(fused[1]), "%s", hf_name(b, "mlp.experts.down_proj"));
    const char *const kinds[3] = {names->gate, names->up, names->down};
    static const char *const outs[3] = {"ffn_gate_exps.weight", "ffn_up_exps.weight",
                                        "ffn_down_exps.weight"};
    for (int i = 0; i < 3; i++) {
        const bool down = i == 2;
        snprintf(single[i], sizeof(single[i]), "model.layers.%d.%s", b->il, kinds[i]);
        snprintf(out[i], sizeof(out[i]), "%s", out_name(b, outs[i]));
        const struct pg_hf_experts x = {
            .out = out[i],
            .single = single[i],
            .fused = fused[down],
            .rows = down ? d->n_embd : ff,
            .n = down ? ff : d->n_embd,
            .all = down ? d->n_embd : 2 * ff,
            .first = i == 1 ? ff : 0,
            .n_expert = d->n_expert,
        };
        PG_TRY(pg_hf_merge(b->f, &x, b->err));
    }
    return 0;
}

static int shared(struct block *b)
{
    const struct pg_hf_dims *d = &b->f->d;
    const int64_t ff = d->n_ff_shexp;
    PG_TRY(one(b, "ffn_gate_inp_shexp.weight", "mlp.shared_expert_gate.weight", 1, d->n_embd));
    PG_TRY(one(b, "ffn_gate_shexp.weight", "mlp.shared_expert.gate_proj.weight", ff, d->n_embd));
    PG_TRY(one(b, "ffn_up_shexp.weight", "mlp.shared_expert.up_proj.weight", ff, d->n_embd));
    return one(b, "ffn_down_shexp.weight", "mlp.shared_expert.down_proj.weight", d->n_embd, ff);
}

static int block(struct block *b)
{
    const struct pg_hf_dims *d = &b->f->d;
    const bool classic = pg_hf_has(b->f, hf_name(b, of_mixtral.router));
    const struct names *names = classic ? &of_mixtral : &of_qwen;
    PG_TRY(attention(b));
    if (!d->n_expert || !pg_hf_has(b->f, hf_name(b, names->router)))
        return dense(b);
    PG_TRY(one(b, "ffn_gate_inp.weight", names->router, d->n_expert, d->n_embd));
    pg_hf_last(b->f)->is_small = true;
    PG_TRY(experts(b, names));
    return d->n_ff_shexp ? shared(b) : 0;
}

static int tensors(struct pg_hf *f, struct pg_err *err)
{
    const struct pg_hf_dims *d = &f->d;
    PG_TRY(pg_hf_copy(f, "token_embd.weight", "model.embed_tokens.weight", d->n_vocab, d->n_embd,
                      err));
    for (int il = 0; il < d->n_layer; il++) {
        struct block b = {.f = f, .il = il, .err = err};
        PG_TRY(block(&b));
        pg_hf_ignore(f, hf_name(&b, "self_attn.rotary_emb.inv_freq"));
    }
    PG_TRY(pg_hf_copy(f, "output_norm.weight", "model.norm.weight", 1, d->n_embd, err));
    if (d->tied) {
        pg_hf_ignore(f, "lm_head.weight");
        return 0;
    }
    return pg_hf_copy(f, "output.weight", "lm_head.weight", d->n_vocab, d->n_embd, err);
}

/* ------------------------------------------------------------------ keys -------------------- */

static void keys(const struct pg_hf *f, struct pg_hf_keys *k)
{
    const struct pg_hf_dims *d = &f->d;
    const bool default_norm = is(f, "mixtral") || is(f, "qwen3_moe") || !d->n_expert;
    pg_hf_f32(k, "rope.freq_base", d->theta);
    pg_hf_u32(k, "rope.dimension_count", d->head_dim);
    if (d->rope_factor != 1) {
        char key[96];
        snprintf(key, sizeof(key), "%s.rope.scaling.type", k->arch);
        k->rc = k->rc ? k->rc : pg_gguf_writer_str(k->w, key, "linear", k->err);
        pg_hf_f32(k, "rope.scaling.factor", d->rope_factor);
    }
    if (!strncmp(f->family->model_type, "qwen", 4))
        pg_hf_u32(k, "expert_feed_forward_length", d->n_ff_exp);
    if (d->n_ff_shexp)
        pg_hf_u32(k, "expert_shared_feed_forward_length", d->n_ff_shexp);
    if (d->n_expert && d->renormalise != default_norm)
        pg_hf_flag(k, "expert_weights_norm", d->renormalise);
}

const struct pg_hf_family pg_hf_llama = {"llama", "llama", dims, tensors, keys};
const struct pg_hf_family pg_hf_mixtral = {"mixtral", "llama", dims, tensors, keys};
const struct pg_hf_family pg_hf_qwen2moe = {"qwen2_moe", "qwen2moe", dims, tensors, keys};
const struct pg_hf_family pg_hf_qwen3moe = {"qwen3_moe", "qwen3moe", dims, tensors, keys};
const struct pg_hf_family pg_hf_olmoe = {"olmoe", "olmoe", dims, tensors, keys};
