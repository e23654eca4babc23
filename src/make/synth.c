/* SPDX-License-Identifier: MIT
 * pg_synth: random-weight models of real shapes, for speed and plumbing where no trained weights
 * are at hand.
 *
 * What matters is that such a file behaves like a model: activations stay of order one, routers
 * spread over their experts, and no two experts are the same bytes. Weights are normal with the
 * standard deviation that the tensor's fan-in asks for; quantised blocks have uniformly random
 * payload and scales that give the same deviation. Small tensors are drawn afresh. Large ones are
 * cut at random places out of a pool of random bytes, and only the scale of each block is drawn, so
 * that the disk and not the generator sets the pace.
 *
 * All numbers come from integer arithmetic on one stream, so a seed gives the same bytes
 * everywhere.
 */
#include "make/synth.h"
#include "base/os.h"
#include "base/random.h"
#include "base/ranges.h"
#include "format/gguf.h"
#include "make/synth_vocab.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define POOL_BYTES  ((size_t)16 << 20)
#define CHUNK_BYTES ((size_t)4 << 20)
#define FRESH_BYTES ((uint64_t)8 << 20) /* smaller tensors are not cut from the pool */
#define JITTERS     4096
#define POOLS_MAX   8
#define NAME_BYTES  64

struct shape {
    const char *name, *arch;
    int n_layer, n_embd, n_head, n_head_kv, head_dim, n_ff, n_ff_shexp, n_expert, n_used, n_vocab;
    float rope_base;
};

/* n_ff is an expert's width, where there are experts. Of arch switch n_layer is that of the
 * encoder, and of the decoder as well; every second block has experts. */
static const struct shape shapes[] = {
    {"olmoe-7b", "olmoe", 16, 2048, 16, 16, 128, 1024, 0, 64, 8, 50304, 1e4f},
    {"qwen3-24l", "qwen3moe", 24, 2048, 32, 4, 128, 768, 0, 128, 8, 50304, 1e6f},
    {"qwen3-30b", "qwen3moe", 48, 2048, 32, 4, 128, 768, 0, 128, 8, 151936, 1e6f},
    {"mixtral-8x7b", "llama", 32, 4096, 32, 8, 128, 14336, 0, 8, 2, 32000, 1e6f},
    {"qwen2moe-a2.7b", "qwen2moe", 24, 2048, 16, 16, 128, 1408, 5632, 60, 4, 151936, 1e6f},
    {"switch-base-8", "switch", 12, 768, 12, 12, 64, 3072, 0, 8, 1, 32128, 1},
    {"switch-base-64", "switch", 12, 768, 12, 12, 64, 3072, 0, 64, 1, 32128, 1},
    {"switch-base-128", "switch", 12, 768, 12, 12, 64, 3072, 0, 128, 1, 32128, 1},
    {"switch-base-256", "switch", 12, 768, 12, 12, 64, 3072, 0, 256, 1, 32128, 1},
    {"switch-large-128", "switch", 24, 1024, 16, 16, 64, 4096, 0, 128, 1, 32128, 1},
    {"switch-xxl-128", "switch", 24, 4096, 64, 64, 64, 10240, 0, 128, 1, 32128, 1},
    {"olmoe-tiny", "olmoe", 4, 256, 4, 4, 64, 256, 0, 16, 4, 640, 1e4f},
    {"qwen3-tiny", "qwen3moe", 6, 256, 4, 2, 64, 256, 0, 16, 4, 640, 1e6f},
    {"mixtral-tiny", "llama", 4, 256, 4, 2, 64, 512, 0, 8, 2, 640, 1e6f},
    {"qwen2moe-tiny", "qwen2moe", 4, 256, 4, 4, 64, 256, 512, 12, 4, 640, 1e6f},
    {"switch-tiny", "switch", 4, 256, 4, 4, 64, 512, 0, 8, 1, 640, 1},
    {"llama-dense-tiny", "llama", 4, 256, 4, 2, 64, 512, 0, 0, 0, 640, 1e4f},
};

const char *pg_synth_shape_name(int i)
{
    return i >= 0 && (size_t)i < PG_COUNT(shapes) ? shapes[i].name : NULL;
}

bool pg_synth_dims(const char *name, struct pg_synth_dims *out)
{
    for (size_t i = 0; i < PG_COUNT(shapes); i++) {
        const struct shape *s = &shapes[i];
        if (strcmp(name, s->name))
            continue;
        *out = (struct pg_synth_dims){.has_encoder = !strcmp(s->arch, "switch"),
                                      .n_layer = s->n_layer,
                                      .n_embd = s->n_embd,
                                      .n_q = s->n_head * s->head_dim,
                                      .n_kv = s->n_head_kv * s->head_dim,
                                      .n_ff = s->n_ff,
                                      .n_ff_shexp = s->n_ff_shexp,
                                      .n_expert = s->n_expert,
                                      .n_used = s->n_used,
                                      .n_vocab = s->n_vocab};
        return true;
    }
    return false;
}

/* ---- random numbers */

/* The sum of twelve uniform numbers: variance exactly one, no function of the C library. */
static float next_normal(uint64_t *random)
{
    uint32_t sum = 0;

    for (int i = 0; i < 3; i++) {
        uint64_t u = pg_random_next(random);
        sum += (uint32_t)(u & 0xffff) + (uint32_t)(u >> 16 & 0xffff) +
               (uint32_t)(u >> 32 & 0xffff) + (uint32_t)(u >> 48);
    }
    return ((float)sum - 12 * 32767.5f) / 65536.0f;
}

static void fill_bytes(uint64_t *random, char *p, size_t n)
{
    for (; n >= 8; n -= 8, p += 8) {
        uint64_t u = pg_random_next(random);
        memcpy(p, &u, 8);
    }
    if (n) {
        uint64_t u = pg_random_next(random);
        memcpy(p, &u, n);
    }
}

/* ---- the tensors of a shape */

struct tensor {
    char name[NAME_BYTES];
    enum pg_type type;
    int n_dims;
    int64_t ne[4];
    float mean, std;
};

struct list {
    struct tensor *v;
    size_t n;
    enum pg_type type;
    const char *prefix; /* of the stack whose tensors are added */
};

/* Dimensions of 0 are left out. */
static struct tensor *add(struct list *l, int block, const char *name, enum pg_type type,
                          const int64_t ne[3])
{
    struct tensor *t = &l->v[l->n++];

    *t = (struct tensor){.type = pg_type_for_row(type, ne[0]), .ne = {1, 1, 1, 1}};
    if (block >= 0)
        snprintf(t->name, sizeof(t->name), "%sblk.%d.%s", l->prefix, block, name);
    else
        snprintf(t->name, sizeof(t->name), "%s%s", l->prefix, name);
    while (t->n_dims < 3 && ne[t->n_dims]) {
        t->ne[t->n_dims] = ne[t->n_dims];
        t->n_dims++;
    }
    return t;
}

static void add_norm(struct list *l, int block, const char *name, int64_t n)
{
    struct tensor *t = add(l, block, name, PG_TYPE_F32, (int64_t[3]){n});

    t->mean = 1;
    t->std = 0.1f;
}

/* A matrix, or n_expert of them, whose outputs are `gain` times its inputs in size. */
static void add_matrix(struct list *l, int block, const char *name, const int64_t ne[3], float gain)
{
    add(l, block, name, l->type, ne)->std = gain / sqrtf((float)ne[0]);
}

static void add_f32(struct list *l, int block, const char *name, const int64_t ne[3], float std)
{
    add(l, block, name, PG_TYPE_F32, ne)->std = std;
}

static void add_attention(struct list *l, const struct shape *s, int il)
{
    int64_t d = s->n_embd, n_q = (int64_t)s->n_head * s->head_dim;
    int64_t n_kv = (int64_t)s->n_head_kv * s->head_dim;

    add_norm(l, il, "attn_norm.weight", d);
    add_matrix(l, il, "attn_q.weight", (int64_t[3]){d, n_q}, 1);
    add_matrix(l, il, "attn_k.weight", (int64_t[3]){d, n_kv}, 1);
    add_matrix(l, il, "attn_v.weight", (int64_t[3]){d, n_kv}, 1);
    if (!strcmp(s->arch, "qwen2moe")) {
        add_f32(l, il, "attn_q.bias", (int64_t[3]){n_q}, 0.1f);
        add_f32(l, il, "attn_k.bias", (int64_t[3]){n_kv}, 0.1f);
        add_f32(l, il, "attn_v.bias", (int64_t[3]){n_kv}, 0.1f);
    }
    add(l, il, "attn_output.weight", l->type, (int64_t[3]){n_q, d})->std = 0.5f / sqrtf((float)d);
    if (!strcmp(s->arch, "qwen3moe")) {
        add_norm(l, il, "attn_q_norm.weight", s->head_dim);
        add_norm(l, il, "attn_k_norm.weight", s->head_dim);
    } else if (!strcmp(s->arch, "olmoe")) {
        add_norm(l, il, "attn_q_norm.weight", n_q);
        add_norm(l, il, "attn_k_norm.weight", n_kv);
    }
}

static void add_ffn(struct list *l, const struct shape *s, int il)
{
    int64_t d = s->n_embd, ff = s->n_ff, e = s->n_expert, shared = s->n_ff_shexp;

    add_norm(l, il, "ffn_norm.weight", d);
    if (!e) {
        add_matrix(l, il, "ffn_gate.weight", (int64_t[3]){d, ff}, 1);
        add_matrix(l, il, "ffn_up.weight", (int64_t[3]){d, ff}, 1);
        add_matrix(l, il, "ffn_down.weight", (int64_t[3]){ff, d}, 2);
        return;
    }
    add_f32(l, il, "ffn_gate_inp.weight", (int64_t[3]){d, e}, 2 / sqrtf((float)d));
    add_matrix(l, il, "ffn_gate_exps.weight", (int64_t[3]){d, ff, e}, 1);
    add_matrix(l, il, "ffn_up_exps.weight", (int64_t[3]){d, ff, e}, 1);
    add_matrix(l, il, "ffn_down_exps.weight", (int64_t[3]){ff, d, e}, 2);
    if (!shared)
        return;
    add_f32(l, il, "ffn_gate_inp_shexp.weight", (int64_t[3]){d}, 1 / sqrtf((float)d));
    add_matrix(l, il, "ffn_gate_shexp.weight", (int64_t[3]){d, shared}, 1);
    add_matrix(l, il, "ffn_up_shexp.weight", (int64_t[3]){d, shared}, 1);
    add_matrix(l, il, "ffn_down_shexp.weight", (int64_t[3]){shared, d}, 2);
}

/* T5 does not scale q · k: queries are made as small as that would. */
static void add_t5_attention(struct list *l, const struct shape *s, int il, const char *kind)
{
    int64_t d = s->n_embd, n = (int64_t)s->n_head * s->head_dim;
    const struct {
        const char *name;
        float gain;
    } in[] = {{"q", 1 / sqrtf((float)s->head_dim)}, {"k", 1}, {"v", 1}};
    char name[NAME_BYTES];

    snprintf(name, sizeof(name), "%sattn_norm.weight", kind);
    add_norm(l, il, name, d);
    for (size_t i = 0; i < PG_COUNT(in); i++) {
        snprintf(name, sizeof(name), "%sattn_%s.weight", kind, in[i].name);
        add_matrix(l, il, name, (int64_t[3]){d, n}, in[i].gain);
    }
    snprintf(name, sizeof(name), "%sattn_o.weight", kind);
    add(l, il, name, l->type, (int64_t[3]){n, d})->std = 0.5f / sqrtf((float)d);
}

static void add_t5_stack(struct list *l, const struct shape *s, const char *prefix, bool decoder)
{
    int64_t d = s->n_embd, ff = s->n_ff, e = s->n_expert;

    l->prefix = prefix;
    for (int il = 0; il < s->n_layer; il++) {
        add_t5_attention(l, s, il, "");
        if (il == 0)
            add_f32(l, il, "attn_rel_b.weight", (int64_t[3]){s->n_head, 32}, 1);
        if (decoder)
            add_t5_attention(l, s, il, "cross_");
        add_norm(l, il, "ffn_norm.weight", d);
        if (il % 2 == 0) {
            add_matrix(l, il, "ffn_up.weight", (int64_t[3]){d, ff}, 1);
            add_matrix(l, il, "ffn_down.weight", (int64_t[3]){ff, d}, 2);
        } else {
            add_f32(l, il, "ffn_gate_inp.weight", (int64_t[3]){d, e}, 2 / sqrtf((float)d));
            add_matrix(l, il, "ffn_up_exps.weight", (int64_t[3]){d, ff, e}, 1);
            add_matrix(l, il, "ffn_down_exps.weight", (int64_t[3]){ff, d, e}, 2);
        }
    }
    add_norm(l, -1, "output_norm.weight", d);
    l->prefix = "";
}

static bool is_switch(const struct shape *s)
{
    return !strcmp(s->arch, "switch");
}

static int make_list(struct list *l, const struct shape *s, enum pg_type type, struct pg_err *err)
{
    int64_t d = s->n_embd, v = s->n_vocab;

    *l = (struct list){
        .type = type, .v = pg_calloc((size_t)s->n_layer * 48 + 4, sizeof(*l->v)), .prefix = ""};
    if (!l->v)
        return pg_fail(err, PG_ENOMEM, "%s: out of memory", s->name);
    add(l, -1, "token_embd.weight", type, (int64_t[3]){d, v})->std = is_switch(s) ? 0.1f : 1;
    if (is_switch(s)) { /* the output is the table: larger, a token would be followed by itself */
        add_t5_stack(l, s, "enc.", false);
        add_t5_stack(l, s, "dec.", true);
        return 0;
    }
    for (int il = 0; il < s->n_layer; il++) {
        add_attention(l, s, il);
        add_ffn(l, s, il);
    }
    add_norm(l, -1, "output_norm.weight", d);
    /* The output is kept in more bits than the rest, as in the files that people have. */
    l->type = type == PG_TYPE_Q4_K ? PG_TYPE_Q6_K : type;
    add_matrix(l, -1, "output.weight", (int64_t[3]){d, v}, 1);
    return 0;
}

/* ---- keys */

struct keys {
    struct pg_gguf_writer *w;
    const char *arch;
    struct pg_err *err;
    int rc; /* the first failure; the rest is skipped */
};

static void key_u32(struct keys *k, const char *name, int v)
{
    char key[96];

    snprintf(key, sizeof(key), "%s.%s", k->arch, name);
    if (!k->rc)
        k->rc = pg_gguf_writer_u32(k->w, key, (uint32_t)v, k->err);
}

static void key_f32(struct keys *k, const char *name, float v)
{
    char key[96];

    snprintf(key, sizeof(key), "%s.%s", k->arch, name);
    if (!k->rc)
        k->rc = pg_gguf_writer_f32(k->w, key, v, k->err);
}

static int write_keys(struct pg_gguf_writer *w, const struct shape *s, struct pg_err *err)
{
    struct keys k = {.w = w, .arch = s->arch, .err = err};
    char name[64];

    snprintf(name, sizeof(name), "random-%s", s->name);
    PG_TRY(pg_gguf_writer_str(w, "general.architecture", s->arch, err));
    PG_TRY(pg_gguf_writer_str(w, "general.name", name, err));
    PG_TRY(pg_gguf_writer_u32(w, "general.alignment", 32, err));
    key_u32(&k, "block_count", s->n_layer);
    key_u32(&k, "context_length", is_switch(s) ? 512 : 4096);
    key_u32(&k, "embedding_length", s->n_embd);
    key_u32(&k, "feed_forward_length", s->n_ff_shexp ? s->n_ff_shexp : s->n_ff);
    key_u32(&k, "attention.head_count", s->n_head);
    key_u32(&k, "attention.head_count_kv", s->n_head_kv);
    key_f32(&k, "attention.layer_norm_rms_epsilon", strcmp(s->arch, "llama") ? 1e-6f : 1e-5f);
    if (is_switch(s)) {
        key_u32(&k, "decoder_block_count", s->n_layer);
        key_u32(&k, "decoder_start_token_id", 0);
        key_u32(&k, "attention.relative_buckets_count", 32);
        key_u32(&k, "moe_every_n_layers", 2);
    } else {
        key_f32(&k, "rope.freq_base", s->rope_base);
        key_u32(&k, "rope.dimension_count", s->head_dim);
    }
    key_u32(&k, "attention.key_length", s->head_dim);
    key_u32(&k, "attention.value_length", s->head_dim);
    if (s->n_expert) {
        key_u32(&k, "expert_count", s->n_expert);
        key_u32(&k, "expert_used_count", s->n_used);
    }
    if (!strncmp(s->arch, "qwen", 4))
        key_u32(&k, "expert_feed_forward_length", s->n_ff);
    if (s->n_ff_shexp)
        key_u32(&k, "expert_shared_feed_forward_length", s->n_ff_shexp);
    key_u32(&k, "vocab_size", s->n_vocab);
    PG_TRY(k.rc);
    return pg_synth_vocab(w, s->arch, s->n_vocab, err);
}

/* ---- data */

/* Where a block keeps its scale and minimum, and how they follow from the deviation that is wanted:
 * scale = std / spread, minimum = scale * min_ratio. The spread is that of the payload's values. */
struct block_rule {
    int scale_at, min_at; /* bytes; -1: there is none */
    float spread, min_ratio;
};
static const struct block_rule rules[PG_TYPE_LIMIT] = {
    [PG_TYPE_Q4_0] = {0, -1, 4.6f, 0},
    [PG_TYPE_Q4_1] = {0, 2, 4.6f, -7.5f},
    [PG_TYPE_Q5_0] = {0, -1, 9.2f, 0},
    [PG_TYPE_Q5_1] = {0, 2, 9.2f, -15.5f},
    [PG_TYPE_Q8_0] = {0, -1, 74, 0},
    [PG_TYPE_Q2_K] = {80, 82, 8 * 3 * 0.5f, 1.5f},
    [PG_TYPE_Q3_K] = {108, -1, 18.5f * 2.3f, 0},
    [PG_TYPE_Q4_K] = {0, 2, 32 * 15 * 0.5f, 7.5f},
    [PG_TYPE_Q5_K] = {0, 2, 32 * 31 * 0.5f, 15.5f},
    [PG_TYPE_Q6_K] = {208, -1, 74 * 18, 0},
};

struct float_pool {
    enum pg_type type;
    float std;
    char *bytes;
};

struct maker {
    struct pg_gguf_writer *w;
    const struct pg_synth_options *opt;
    struct pg_err *err;
    uint64_t random;
    uint64_t done, total;
    char *pool;  /* random bytes, [POOL_BYTES] */
    char *chunk; /* [CHUNK_BYTES] */
    struct float_pool float_pools[POOLS_MAX];
    int n_float_pools;
    uint16_t scale[JITTERS], min[JITTERS];
};

static void fill_floats(uint64_t *random, const struct tensor *t, char *p, size_t n_bytes)
{
    size_t size = t->type == PG_TYPE_F32 ? 4 : 2;

    for (size_t at = 0; at < n_bytes; at += size) {
        float v = t->mean + t->std * next_normal(random);
        uint16_t h = t->type == PG_TYPE_F16 ? pg_f32_to_f16(v) : pg_f32_to_bf16(v);
        if (size == 4)
            memcpy(p + at, &v, 4);
        else
            memcpy(p + at, &h, 2);
    }
}

/* Scales between 3/4 and 5/4 of what the deviation asks for. */
static void fill_jitters(struct maker *m, const struct tensor *t)
{
    const struct block_rule *rule = &rules[t->type];

    for (int i = 0; i < JITTERS; i++) {
        float jitter = 0.75f + 0.5f * ((float)i + 0.5f) / JITTERS;
        float scale = jitter * t->std / rule->spread;
        m->scale[i] = pg_f32_to_f16(scale);
        m->min[i] = pg_f32_to_f16(scale * rule->min_ratio);
    }
}

static void set_scales(struct maker *m, enum pg_type type, char *p, size_t n_bytes)
{
    const struct block_rule *rule = &rules[type];
    size_t step = (size_t)pg_type_traits(type)->block_bytes;
    uint64_t bits = 0;

    for (size_t at = 0, i = 0; at < n_bytes; at += step, i++) {
        bits = i % 5 ? bits >> 12 : pg_random_next(&m->random);
        size_t j = bits % JITTERS;
        memcpy(p + at + rule->scale_at, &m->scale[j], 2);
        if (rule->min_at >= 0)
            memcpy(p + at + rule->min_at, &m->min[j], 2);
    }
}

static const char *find_float_pool(struct maker *m, const struct tensor *t)
{
    for (int i = 0; i < m->n_float_pools; i++)
        if (m->float_pools[i].type == t->type && m->float_pools[i].std == t->std)
            return m->float_pools[i].bytes;
    if (m->n_float_pools == POOLS_MAX)
        return NULL;
    struct float_pool *p = &m->float_pools[m->n_float_pools];
    *p = (struct float_pool){t->type, t->std, pg_pages_map(POOL_BYTES)};
    if (!p->bytes)
        return NULL;
    m->n_float_pools++;
    fill_floats(&m->random, t, p->bytes, POOL_BYTES);
    return p->bytes;
}

/* n bytes from a random place of the pool, at a multiple of 4 so that floats stay whole. */
static void cut(struct maker *m, const char *pool, char *out, size_t n)
{
    size_t at = (size_t)(pg_random_next(&m->random) % ((POOL_BYTES - n) / 4 + 1)) * 4;

    memcpy(out, pool + at, n);
}

static int fill_chunk(struct maker *m, const struct tensor *t, bool fresh, size_t n)
{
    bool quantised = rules[t->type].spread > 0;
    const char *pool = NULL;

    if (!fresh)
        pool = quantised ? m->pool : find_float_pool(m, t);
    if (!fresh && !pool)
        return pg_fail(m->err, PG_ENOMEM, "%s: out of memory", m->opt->out);
    if (pool)
        cut(m, pool, m->chunk, n);
    else if (quantised)
        fill_bytes(&m->random, m->chunk, n);
    else
        fill_floats(&m->random, t, m->chunk, n);
    if (quantised)
        set_scales(m, t->type, m->chunk, n);
    return 0;
}

static int write_tensor(struct maker *m, const struct tensor *t)
{
    const struct pg_type_traits *traits = pg_type_traits(t->type);
    size_t step = CHUNK_BYTES / (size_t)traits->block_bytes * (size_t)traits->block_bytes;
    uint64_t left = pg_type_bytes(t->type, t->ne[0] * t->ne[1] * t->ne[2]);
    bool fresh = left < FRESH_BYTES;

    if (rules[t->type].spread > 0)
        fill_jitters(m, t);
    while (left) {
        size_t n = (size_t)PG_MIN(left, (uint64_t)step);
        PG_TRY(fill_chunk(m, t, fresh, n));
        PG_TRY(pg_gguf_writer_data(m->w, m->chunk, n, m->err));
        left -= n;
        m->done += n;
        if (m->opt->progress && m->opt->progress(m->opt->user, "writing", m->done, m->total))
            return pg_fail(m->err, PG_ECANCELLED, "%s: cancelled", m->opt->out);
    }
    return 0;
}

static void maker_close(struct maker *m)
{
    for (int i = 0; i < m->n_float_pools; i++)
        pg_pages_unmap(m->float_pools[i].bytes, POOL_BYTES);
    pg_pages_unmap(m->pool, POOL_BYTES);
    pg_pages_unmap(m->chunk, CHUNK_BYTES);
    free(m);
}

static int write_data(struct pg_gguf_writer *w, const struct pg_synth_options *opt,
                      const struct list *l, struct pg_err *err)
{
    struct maker *m = pg_calloc(1, sizeof(*m));
    int rc = 0;

    if (!m)
        return pg_fail(err, PG_ENOMEM, "%s: out of memory", opt->out);
    *m = (struct maker){.w = w, .opt = opt, .err = err, .random = opt->seed};
    m->pool = pg_pages_map(POOL_BYTES);
    m->chunk = pg_pages_map(CHUNK_BYTES);
    if (m->pool && m->chunk)
        fill_bytes(&m->random, m->pool, POOL_BYTES);
    else
        rc = pg_fail(err, PG_ENOMEM, "%s: out of memory", opt->out);
    for (size_t i = 0; i < l->n; i++)
        m->total += pg_type_bytes(l->v[i].type, l->v[i].ne[0] * l->v[i].ne[1] * l->v[i].ne[2]);
    for (size_t i = 0; i < l->n && !rc; i++)
        rc = write_tensor(m, &l->v[i]);
    maker_close(m);
    return rc;
}

static int write_model(struct pg_gguf_writer *w, const struct pg_synth_options *opt,
                       const struct shape *s, enum pg_type type, struct pg_err *err)
{
    struct list l;
    int rc;

    PG_TRY(write_keys(w, s, err));
    PG_TRY(make_list(&l, s, type, err));
    rc = 0;
    for (size_t i = 0; i < l.n && !rc; i++)
        rc = pg_gguf_writer_tensor(w, l.v[i].name, l.v[i].type, l.v[i].n_dims, l.v[i].ne, err);
    if (!rc)
        rc = write_data(w, opt, &l, err);
    free(l.v);
    return rc;
}

static const struct shape *find_shape(const char *name, struct pg_err *err)
{
    char known[256] = "";

    for (size_t i = 0; i < PG_COUNT(shapes); i++) {
        if (name && !strcmp(name, shapes[i].name))
            return &shapes[i];
        size_t n = strlen(known);
        snprintf(known + n, sizeof(known) - n, "%s%s", i ? ", " : "", shapes[i].name);
    }
    pg_fail(err, PG_EARG, "shape \"%s\": one of %s is wanted",
            pg_quote(name ? name : "", name ? strlen(name) : 0).s, known);
    return NULL;
}

/* Fewer layers than the shape has, or more. */
static int take_layers(struct shape *s, int n_layer, struct pg_err *err)
{
    const int least = is_switch(s) ? 2 : 1; /* the first has no experts */

    if (n_layer && n_layer < least)
        return pg_fail(err, PG_EARG, "layers of %s: %d found, %d at least wanted", s->name, n_layer,
                       least);
    s->n_layer = n_layer ? n_layer : s->n_layer;
    return 0;
}

int pg_synth(const struct pg_synth_options *opt, struct pg_err *err)
{
    struct pg_synth_options o;
    PG_TRY(pg_options_take(PG_OPTIONS_SYNTH, &o, opt, err));
    const char *type_name = o.type ? o.type : "Q4_K";
    const struct shape *known = find_shape(o.shape, err);
    int type = pg_type_parse(type_name);
    struct pg_gguf_writer *w;

    if (!known)
        return PG_EARG;
    struct shape s = *known;
    PG_TRY(take_layers(&s, o.n_layer, err));
    if (type < 0)
        return pg_fail(err, PG_EARG, "type \"%s\": a format such as Q4_K, Q8_0 or F16 is wanted",
                       pg_quote(type_name, strlen(type_name)).s);
    PG_TRY(pg_gguf_writer_open(&w, o.out, err));
    int rc = write_model(w, &o, &s, (enum pg_type)type, err);
    return pg_gguf_writer_end(w, rc, err);
}
