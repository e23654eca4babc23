/* SPDX-License-Identifier: MIT
 * From the directory of a file to a model: hyperparameters within stated bounds, every tensor found
 * with the shape the family says, and nothing left over. Dense weights lie in memory as they lie in
 * the file: neighbouring tensors become one extent that is read in large pieces. Experts only get
 * their places.
 */
#include "base/hash.h"
#include "base/os.h"
#include "io/io.h"
#include "model/model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A run of a file that is read into the dense arena as it is. */
struct pg_extent {
    int part;
    uint64_t offset, bytes; /* whole pages */
    uint64_t need;          /* bytes that exist; less than bytes only at the end of the file */
    uint64_t at;            /* in the arena */
};

/* A dense tensor and who wants its address. */
struct pg_resident {
    struct pg_weight *w;
    const struct pg_gguf_tensor *t;
    const void *data;
};

struct pg_loader {
    const struct pg_gguf *g;
    struct pg_model *m;
    uint8_t *used; /* [n_tensors] */
};

static const struct pg_family *const families[] = {&pg_family_llama,    &pg_family_qwen2moe,
                                                   &pg_family_qwen3moe, &pg_family_olmoe,
                                                   &pg_family_t5,       &pg_family_switch};

/* ------------------------------------------------------------------ hyperparameters --------- */

static int get_f32(const struct pg_gguf *g, const char *arch, const char *name,
                   const double range[2], float *out, struct pg_err *err)
{
    char key[128];
    snprintf(key, sizeof(key), "%s.%s", arch, name);
    return pg_gguf_get_f32(g, key, PG_GGUF_OPTIONAL, range, out, err);
}

/* "<arch>.<name>" */
struct int_key {
    const char *name;
    enum pg_gguf_want want;
    int64_t range[2];
    int *out;
};

static int get_ints(const struct pg_gguf *g, const char *arch, const struct int_key *keys, size_t n,
                    struct pg_err *err)
{
    for (size_t i = 0; i < n; i++) {
        char key[128];
        int64_t v = *keys[i].out;
        snprintf(key, sizeof(key), "%s.%s", arch, keys[i].name);
        PG_TRY(pg_gguf_get_int(g, key, keys[i].want, keys[i].range, &v, err));
        *keys[i].out = (int)v;
    }
    return 0;
}

static int get_rope(const struct pg_gguf *g, const char *arch, struct pg_hparams *h,
                    struct pg_err *err)
{
    char key[128];
    struct pg_str type = {"none", 4};
    float factor = 1;
    const struct int_key keys[] = {
        {"rope.dimension_count", PG_GGUF_OPTIONAL, {2, h->head_dim}, &h->n_rot},
    };
    h->rope_base = 10000;
    h->rope_scale = 1;
    h->n_rot = h->head_dim;
    PG_TRY(get_ints(g, arch, keys, PG_COUNT(keys), err));
    PG_TRY(get_f32(g, arch, "rope.freq_base", (double[]){1, 1e12}, &h->rope_base, err));
    PG_TRY(get_f32(g, arch, "rope.scale_linear", (double[]){1e-3, 1e6}, &factor, err));
    PG_TRY(get_f32(g, arch, "rope.scaling.factor", (double[]){1e-3, 1e6}, &factor, err));
    snprintf(key, sizeof(key), "%s.rope.scaling.type", arch);
    PG_TRY(pg_gguf_get_str(g, key, PG_GGUF_OPTIONAL, &type, err));
    if (type.n == 6 && memcmp(type.s, "linear", 6) == 0) {
        h->rope_scale = 1.0f / factor;
    } else if (type.n != 4 || memcmp(type.s, "none", 4) != 0) {
        return pg_fail(err, PG_ENOTSUP, "%s: '%s' is not supported, only none and linear are", key,
                       pg_quote(type.s, type.n).s);
    }
    if (h->n_rot % 2) {
        return pg_fail(err, PG_EFORMAT, "%s.rope.dimension_count: %d found, an even number wanted",
                       arch, h->n_rot);
    }
    return 0;
}

static int get_heads(const struct pg_gguf *g, const char *arch, struct pg_hparams *h,
                     struct pg_err *err)
{
    int value_length = 0, window = 0;
    h->n_head_kv = h->n_head;
    h->head_dim = h->n_embd / h->n_head;
    const struct int_key keys[] = {
        {"attention.head_count_kv", PG_GGUF_OPTIONAL, {1, h->n_head}, &h->n_head_kv},
        {"attention.key_length", PG_GGUF_OPTIONAL, {2, 4096}, &h->head_dim},
        {"attention.value_length", PG_GGUF_OPTIONAL, {2, 4096}, &value_length},
        {"attention.sliding_window", PG_GGUF_OPTIONAL, {0, INT32_MAX}, &window},
    };
    PG_TRY(get_ints(g, arch, keys, PG_COUNT(keys), err));
    if (h->n_head % h->n_head_kv) {
        return pg_fail(err, PG_EFORMAT,
                       "%s.attention.head_count: %d is not a multiple of head_count_kv %d", arch,
                       h->n_head, h->n_head_kv);
    }
    if (value_length && value_length != h->head_dim) {
        return pg_fail(err, PG_ENOTSUP, "%s.attention.value_length: %d found, key_length %d wanted",
                       arch, value_length, h->head_dim);
    }
    if (h->head_dim < 2) {
        return pg_fail(err, PG_EFORMAT, "%s.attention.key_length: %d found, 2 at least wanted",
                       arch, h->head_dim);
    }
    if (window > 0) {
        return pg_fail(err, PG_ENOTSUP,
                       "%s.attention.sliding_window: %d found, and windowed "
                       "attention is not supported",
                       arch, window);
    }
    return 0;
}

static int get_experts(const struct pg_gguf *g, const char *arch, struct pg_hparams *h,
                       struct pg_err *err)
{
    int func = 1;
    char key[128];
    const struct int_key keys[] = {
        {"expert_count", PG_GGUF_OPTIONAL, {0, 4096}, &h->n_expert},
        {"expert_used_count", PG_GGUF_OPTIONAL, {0, 4096}, &h->n_expert_used},
        {"expert_gating_func", PG_GGUF_OPTIONAL, {1, 2}, &func},
    };
    PG_TRY(get_ints(g, arch, keys, PG_COUNT(keys), err));
    if (h->n_expert == 0)
        return 0;
    if (h->n_expert_used < 1 || h->n_expert_used > h->n_expert) {
        return pg_fail(err, PG_EFORMAT,
                       "%s.expert_used_count: %d found, 1 to expert_count (%d) wanted", arch,
                       h->n_expert_used, h->n_expert);
    }
    h->rule.n_expert = h->n_expert;
    h->rule.n_used = h->n_expert_used;
    h->rule.sigmoid = func == 2;
    h->rule.scale = 1;
    PG_TRY(get_f32(g, arch, "expert_weights_scale", (double[]){1e-6, 1e6}, &h->rule.scale, err));
    snprintf(key, sizeof(key), "%s.expert_weights_norm", arch);
    return pg_gguf_get_bool(g, key, PG_GGUF_OPTIONAL, &h->rule.renormalise, err);
}

static int get_hparams(const struct pg_gguf *g, const struct pg_family *fam, struct pg_hparams *h,
                       struct pg_err *err)
{
    const char *arch = fam->arch;
    const struct int_key keys[] = {
        {"block_count", PG_GGUF_REQUIRED, {1, 1024}, &h->n_layer},
        {"embedding_length", PG_GGUF_REQUIRED, {1, 65536}, &h->n_embd},
        {"context_length", PG_GGUF_REQUIRED, {1, INT32_MAX}, &h->n_ctx_train},
        {"attention.head_count", PG_GGUF_REQUIRED, {1, 4096}, &h->n_head},
        {"feed_forward_length", PG_GGUF_OPTIONAL, {0, 1 << 24}, &h->n_ff},
    };
    h->rms_eps = 1e-5f;
    PG_TRY(get_ints(g, arch, keys, PG_COUNT(keys), err));
    if (h->n_head > h->n_embd) {
        return pg_fail(err, PG_EFORMAT,
                       "%s.attention.head_count: %d found, embedding_length %d is "
                       "the most",
                       arch, h->n_head, h->n_embd);
    }
    PG_TRY(
        get_f32(g, arch, "attention.layer_norm_rms_epsilon", (double[]){0, 1}, &h->rms_eps, err));
    PG_TRY(get_heads(g, arch, h, err));
    PG_TRY(get_rope(g, arch, h, err));
    h->attn_scale = 1.0f / sqrtf((float)h->head_dim);
    h->logit_scale = 1;
    h->gated = true;
    h->n_stack = 1;
    h->stack[0] = (struct pg_stack){"", 0, h->n_layer, true};
    h->rule.renormalise = false;
    PG_TRY(fam->hparams(g, h, err)); /* sets the family's rule; keys of the file come after it */
    PG_TRY(get_experts(g, arch, h, err));
    if (h->n_expert && h->n_ff_exp < 1) {
        return pg_fail(err, PG_EFORMAT,
                       "%s: the file has experts but no length of an expert's "
                       "feed-forward layer",
                       arch);
    }
    return 0;
}

/* ------------------------------------------------------------------ tensors ----------------- */

const struct pg_hparams *pg_loader_hparams(const struct pg_loader *l)
{
    return &l->m->h;
}

static const struct pg_gguf_tensor *find_in(const struct pg_loader *l, int il, const char *suffix)
{
    const struct pg_stack *stack = &l->m->h.stack[pg_stack_of(&l->m->h, il)];
    char name[96];
    snprintf(name, sizeof(name), "%sblk.%d.%s", stack->prefix, il - stack->first, suffix);
    return pg_gguf_find_tensor(l->g, name);
}

bool pg_loader_has(const struct pg_loader *l, int il, const char *suffix)
{
    return find_in(l, il, suffix) != NULL;
}

static void mark_used(struct pg_loader *l, const struct pg_gguf_tensor *t)
{
    struct pg_model *m = l->m;
    l->used[t - pg_gguf_tensor_at(l->g, 0)] = 1;
    m->n_params +=
        (uint64_t)t->ne[0] * (uint64_t)t->ne[1] * (uint64_t)t->ne[2] * (uint64_t)t->ne[3];
}

void pg_loader_ignore(struct pg_loader *l, int il, const char *suffix)
{
    const struct pg_gguf_tensor *t = find_in(l, il, suffix);
    if (t)
        l->used[t - pg_gguf_tensor_at(l->g, 0)] = 1;
}

/* A dense tensor: noted for loading, its address goes to *w. */
static void keep(struct pg_loader *l, struct pg_weight *w, const struct pg_gguf_tensor *t)
{
    struct pg_model *m = l->m;
    mark_used(l, t);
    *w = (struct pg_weight){.type = t->type, .n_in = (int)t->ne[0], .n_out = (int)t->ne[1]};
    m->resident[m->n_resident++] = (struct pg_resident){w, t, NULL};
}

static int weight(struct pg_loader *l, struct pg_weight *w, const char *name,
                  const int64_t shape[2], enum pg_gguf_want want, struct pg_err *err)
{
    const struct pg_gguf_tensor *t;
    bool vector = shape[1] == 1;
    int64_t ne[4] = {shape[0], vector ? 0 : shape[1], 0, 0};
    PG_TRY(pg_gguf_get_tensor(l->g, name, want, ne, &t, err));
    if (!t)
        return 0;
    if (vector && t->type != PG_TYPE_F32) {
        return pg_fail(err, PG_ENOTSUP, "%s: type %s found, F32 wanted", name,
                       pg_type_traits((uint32_t)t->type)->name);
    }
    if (t->offset % 4) {
        return pg_fail(err, PG_ENOTSUP, "%s: data at offset %llu, a multiple of 4 wanted", name,
                       (unsigned long long)t->offset);
    }
    keep(l, w, t);
    return 0;
}

int pg_loader_weight(struct pg_loader *l, int il, enum pg_block_part part, const int64_t shape[2],
                     struct pg_err *err)
{
    return weight(l, pg_block_part(&l->m->block[il], part), pg_part_name(l->m, il, part).s, shape,
                  PG_GGUF_REQUIRED, err);
}

int pg_loader_attention(struct pg_loader *l, int il, struct pg_err *err)
{
    const struct pg_hparams *h = &l->m->h;
    int64_t n_q = (int64_t)h->n_head * h->head_dim, n_kv = (int64_t)h->n_head_kv * h->head_dim;
    l->m->cache[il] = (struct pg_cache){
        .n_head = h->n_head_kv,
        .k_dim = h->head_dim,
        .v_dim = h->head_dim,
        .rows = h->stack[pg_stack_of(h, il)].causal ? PG_ROWS_TIMELINE : PG_ROWS_PASSING};
    PG_TRY(pg_loader_weight(l, il, PG_PART_ATTN_NORM, (int64_t[]){h->n_embd, 1}, err));
    PG_TRY(pg_loader_weight(l, il, PG_PART_Q, (int64_t[]){h->n_embd, n_q}, err));
    PG_TRY(pg_loader_weight(l, il, PG_PART_K, (int64_t[]){h->n_embd, n_kv}, err));
    PG_TRY(pg_loader_weight(l, il, PG_PART_V, (int64_t[]){h->n_embd, n_kv}, err));
    PG_TRY(pg_loader_weight(l, il, PG_PART_ATTN_OUT, (int64_t[]){n_q, h->n_embd}, err));
    return pg_loader_weight(l, il, PG_PART_FFN_NORM, (int64_t[]){h->n_embd, 1}, err);
}

int pg_loader_cross(struct pg_loader *l, int il, struct pg_err *err)
{
    const struct pg_hparams *h = &l->m->h;
    const int64_t n_q = (int64_t)h->n_head * h->head_dim,
                  n_kv = (int64_t)h->n_head_kv * h->head_dim;
    l->m->cache[pg_cross_cache(h, il)] = (struct pg_cache){
        .n_head = h->n_head_kv, .k_dim = h->head_dim, .v_dim = h->head_dim, .rows = PG_ROWS_SOURCE};
    PG_TRY(pg_loader_weight(l, il, PG_PART_CROSS_NORM, (int64_t[]){h->n_embd, 1}, err));
    PG_TRY(pg_loader_weight(l, il, PG_PART_CROSS_Q, (int64_t[]){h->n_embd, n_q}, err));
    PG_TRY(pg_loader_weight(l, il, PG_PART_CROSS_K, (int64_t[]){h->n_embd, n_kv}, err));
    PG_TRY(pg_loader_weight(l, il, PG_PART_CROSS_V, (int64_t[]){h->n_embd, n_kv}, err));
    return pg_loader_weight(l, il, PG_PART_CROSS_OUT, (int64_t[]){n_q, h->n_embd}, err);
}

int pg_loader_dense_ffn(struct pg_loader *l, struct pg_block *w, int il, struct pg_err *err)
{
    const struct pg_hparams *h = &l->m->h;
    const int64_t in[2] = {h->n_embd, h->n_ff}, out[2] = {h->n_ff, h->n_embd};
    w->moe = -1;
    if (h->gated)
        PG_TRY(pg_loader_weight(l, il, PG_PART_GATE, in, err));
    PG_TRY(pg_loader_weight(l, il, PG_PART_UP, in, err));
    return pg_loader_weight(l, il, PG_PART_DOWN, out, err);
}

static const char *const slab_name[PG_SLABS] = {"ffn_gate", "ffn_up", "ffn_down"};

/* One merged tensor [n_expert][n_out][n_in]: expert e is a contiguous slab of it. */
static int place_merged(struct pg_loader *l, struct pg_block *w, int il, int slab,
                        struct pg_err *err)
{
    struct pg_model *m = l->m;
    struct pg_weight *e = &w->exps[slab];
    const struct pg_gguf_tensor *t;
    PG_TRY(pg_gguf_get_tensor(
        l->g, pg_part_name(m, il, (enum pg_block_part)(PG_PART_EXP_GATE + slab)).s,
        PG_GGUF_REQUIRED, (int64_t[]){e->n_in, e->n_out, m->h.n_expert, 0}, &t, err));
    mark_used(l, t);
    e->type = t->type;
    uint64_t bytes = t->bytes / (uint64_t)m->h.n_expert;
    for (int i = 0; i < m->h.n_expert; i++) {
        struct pg_place *p = &m->place[w->moe * m->h.n_expert + i];
        p->file[slab] = t->part;
        p->offset[slab] = t->offset + (uint64_t)i * bytes;
        p->bytes[slab] = bytes;
    }
    return 0;
}

/* Files from before experts were merged have a tensor for each. */
static int place_single(struct pg_loader *l, struct pg_block *w, int il, int slab,
                        struct pg_err *err)
{
    struct pg_model *m = l->m;
    const struct pg_stack *stack = &m->h.stack[pg_stack_of(&m->h, il)];
    struct pg_weight *e = &w->exps[slab];
    for (int i = 0; i < m->h.n_expert; i++) {
        char name[96];
        const struct pg_gguf_tensor *t;
        snprintf(name, sizeof(name), "%sblk.%d.%s.%d.weight", stack->prefix, il - stack->first,
                 slab_name[slab], i);
        PG_TRY(pg_gguf_get_tensor(l->g, name, PG_GGUF_REQUIRED,
                                  (int64_t[]){e->n_in, e->n_out, 0, 0}, &t, err));
        if (i > 0 && t->type != e->type) {
            return pg_fail(err, PG_ENOTSUP, "%s: type %s found, %s as in expert 0 wanted", name,
                           pg_type_traits((uint32_t)t->type)->name,
                           pg_type_traits((uint32_t)e->type)->name);
        }
        mark_used(l, t);
        e->type = t->type;
        struct pg_place *p = &m->place[w->moe * m->h.n_expert + i];
        p->file[slab] = t->part;
        p->offset[slab] = t->offset;
        p->bytes[slab] = t->bytes;
    }
    return 0;
}

int pg_loader_experts(struct pg_loader *l, struct pg_block *w, int il, struct pg_err *err)
{
    struct pg_model *m = l->m;
    const struct pg_hparams *h = &m->h;
    if (h->n_expert == 0 || !pg_loader_has(l, il, "ffn_gate_inp.weight"))
        return pg_loader_dense_ffn(l, w, il, err);
    struct pg_span *moe_of = &m->moe_of[pg_stack_of(h, il)];
    w->moe = m->n_moe++;
    moe_of->first = moe_of->n++ ? moe_of->first : w->moe;
    PG_TRY(pg_loader_weight(l, il, PG_PART_ROUTER, (int64_t[]){h->n_embd, h->n_expert}, err));
    for (int slab = h->gated ? 0 : 1; slab < PG_SLABS; slab++) {
        bool down = slab == PG_SLABS - 1;
        char single[64];
        w->exps[slab].n_in = down ? h->n_ff_exp : h->n_embd;
        w->exps[slab].n_out = down ? h->n_embd : h->n_ff_exp;
        snprintf(single, sizeof(single), "%s.0.weight", slab_name[slab]);
        PG_TRY(pg_loader_has(l, il, single) ? place_single(l, w, il, slab, err)
                                            : place_merged(l, w, il, slab, err));
    }
    return 0;
}

/* ------------------------------------------------------------------ open -------------------- */

static int check_all_used(const struct pg_loader *l, struct pg_err *err)
{
    for (int i = 0; i < pg_gguf_n_tensors(l->g); i++) {
        if (!l->used[i]) {
            return pg_fail(err, PG_ENOTSUP,
                           "%s: the architecture '%s' has no use for this tensor; running without "
                           "it would give wrong answers",
                           pg_gguf_tensor_at(l->g, i)->name, l->m->family->arch);
        }
    }
    return 0;
}

static int open_tensors(struct pg_loader *l, struct pg_err *err)
{
    struct pg_model *m = l->m;
    const struct pg_hparams *h = &m->h;
    const struct pg_gguf_tensor *embd = pg_gguf_find_tensor(l->g, "token_embd.weight");
    if (!embd || embd->n_dims != 2 || embd->ne[1] > 1 << 24)
        return pg_fail(err, PG_EFORMAT, "token_embd.weight: missing, or not n_embd x n_vocab");
    m->h.n_vocab = (int)embd->ne[1];
    if (h->decoder_start >= h->n_vocab)
        return pg_fail(err, PG_EFORMAT, "%s.decoder_start_token_id: %d found, 0 to %d wanted",
                       m->family->arch, h->decoder_start, h->n_vocab - 1);
    const int64_t table[2] = {h->n_embd, h->n_vocab};
    PG_TRY(weight(l, &m->token_embd, "token_embd.weight", table, PG_GGUF_REQUIRED, err));
    for (int i = 0; i < h->n_stack; i++) {
        char name[64];
        snprintf(name, sizeof(name), "%soutput_norm.weight", h->stack[i].prefix);
        PG_TRY(
            weight(l, &m->output_norm[i], name, (int64_t[]){h->n_embd, 1}, PG_GGUF_REQUIRED, err));
    }
    PG_TRY(weight(l, &m->output, "output.weight", table, PG_GGUF_OPTIONAL, err));
    PG_TRY(weight(l, &m->rope_freqs, "rope_freqs.weight", (int64_t[]){h->n_rot / 2, 1},
                  PG_GGUF_OPTIONAL, err));
    for (int il = 0; il < h->n_layer; il++)
        PG_TRY(m->family->tensors(l, &m->block[il], il, err));
    return check_all_used(l, err);
}

static int by_place(const void *a, const void *b)
{
    const struct pg_gguf_tensor *x = ((const struct pg_resident *)a)->t;
    const struct pg_gguf_tensor *y = ((const struct pg_resident *)b)->t;
    if (x->part != y->part)
        return x->part < y->part ? -1 : 1;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* Sorted dense tensors to extents; a gap smaller than a read is worth is read over. */
static void make_extents(struct pg_model *m)
{
    enum { GAP = 65536 };
    qsort(m->resident, (size_t)m->n_resident, sizeof(m->resident[0]), by_place);
    for (int i = 0; i < m->n_resident; i++) {
        const struct pg_gguf_tensor *t = m->resident[i].t;
        uint64_t begin = t->offset / PG_PAGE * PG_PAGE, end = t->offset + t->bytes;
        struct pg_extent *x = m->n_extents ? &m->extent[m->n_extents - 1] : NULL;
        if (!x || x->part != t->part || begin > x->offset + x->need + GAP) {
            x = &m->extent[m->n_extents++];
            *x = (struct pg_extent){.part = t->part, .offset = begin, .at = m->dense_bytes};
        }
        m->dense_bytes -= x->bytes;
        x->need = end - x->offset;
        x->bytes = (x->need + PG_PAGE - 1) / PG_PAGE * PG_PAGE;
        m->dense_bytes += x->bytes;
    }
}

/* Whether a token of the timeline reads this weight: not what only a source meets. */
static bool is_for_token(struct pg_model *m, const struct pg_weight *w)
{
    const int first = m->h.stack[pg_last_stack(&m->h)].first;
    if (w == &m->token_embd)
        return !m->output.n_out;
    for (int i = 0; i < pg_last_stack(&m->h); i++)
        if (w == &m->output_norm[i])
            return false;
    for (int il = 0; il < first; il++)
        for (enum pg_block_part part = 0; part < PG_BLOCK_PARTS; part++)
            if (w == pg_block_part(&m->block[il], part))
                return false;
    for (int il = first; il < m->h.n_layer; il++)
        if (w == &m->block[il].cross_attn_k || w == &m->block[il].cross_attn_v)
            return false;
    return true;
}

/* The bytes a token reads, the parameters it meets, and the type that most weights have. */
static void count_sizes(struct pg_model *m)
{
    uint64_t by_type[PG_TYPE_LIMIT] = {0};
    m->token_dense_bytes = m->expert_bytes = m->token_expert_bytes = m->n_params_active = 0;
    for (int i = 0; i < m->n_resident; i++) {
        const struct pg_gguf_tensor *t = m->resident[i].t;
        by_type[t->type] += t->bytes;
        if (is_for_token(m, m->resident[i].w)) {
            m->token_dense_bytes += t->bytes;
            m->n_params_active += (uint64_t)t->ne[0] * (uint64_t)t->ne[1];
        }
    }
    for (int il = 0; il < m->h.n_layer; il++) {
        const struct pg_block *w = &m->block[il];
        for (int slab = 0; w->moe >= 0 && slab < PG_SLABS; slab++) {
            uint64_t bytes = m->place[w->moe * m->h.n_expert].bytes[slab];
            by_type[w->exps[slab].type] += bytes * (uint64_t)m->h.n_expert;
            m->expert_bytes += bytes * (uint64_t)m->h.n_expert;
            if (il < m->h.stack[pg_last_stack(&m->h)].first)
                continue;
            m->token_expert_bytes += bytes * (uint64_t)m->h.n_expert_used;
            m->n_params_active += (uint64_t)w->exps[slab].n_in * (uint64_t)w->exps[slab].n_out *
                                  (uint64_t)m->h.n_expert_used;
        }
    }
    for (int type = 0; type < PG_TYPE_LIMIT; type++)
        if (by_type[type] > by_type[m->main_type])
            m->main_type = (enum pg_type)type;
}

static int find_family(struct pg_model *m, const struct pg_gguf *g, struct pg_err *err)
{
    struct pg_str arch, name = {"", 0};
    PG_TRY(pg_gguf_get_str(g, "general.architecture", PG_GGUF_REQUIRED, &arch, err));
    PG_TRY(pg_gguf_get_str(g, "general.name", PG_GGUF_OPTIONAL, &name, err));
    snprintf(m->name, sizeof(m->name), "%s", pg_quote(name.s, name.n).s);
    for (size_t i = 0; i < PG_COUNT(families); i++) {
        const char *known = families[i]->arch;
        if (arch.n == strlen(known) && memcmp(arch.s, known, arch.n) == 0) {
            m->family = families[i];
            snprintf(m->arch, sizeof(m->arch), "%s", known);
            return 0;
        }
    }
    return pg_fail(err, PG_ENOTSUP,
                   "general.architecture: '%s' is not supported; llama, qwen2moe, qwen3moe, olmoe, "
                   "t5 and switch are",
                   pg_quote(arch.s, arch.n).s);
}

static int open_model(struct pg_loader *l, struct pg_err *err)
{
    struct pg_model *m = l->m;
    size_t n_tensors = (size_t)pg_gguf_n_tensors(l->g);
    PG_TRY(find_family(m, l->g, err));
    PG_TRY(get_hparams(l->g, m->family, &m->h, err));
    if (n_tensors == 0)
        return pg_fail(err, PG_EFORMAT, "the file has a vocabulary but no weights");
    l->used = pg_calloc(n_tensors, 1);
    m->block = pg_calloc((size_t)m->h.n_layer, sizeof(m->block[0]));
    m->n_cache = m->h.n_layer + (m->h.n_stack > 1 ? m->h.stack[1].n_layer : 0);
    m->cache = pg_calloc((size_t)m->n_cache, sizeof(m->cache[0]));
    m->place =
        pg_calloc((size_t)m->h.n_layer * (size_t)PG_MAX(1, m->h.n_expert), sizeof(m->place[0]));
    m->resident = pg_calloc(n_tensors, sizeof(m->resident[0]));
    m->extent = pg_calloc(n_tensors, sizeof(m->extent[0]));
    if (!l->used || !m->block || !m->cache || !m->place || !m->resident || !m->extent)
        return pg_fail(err, PG_ENOMEM, "out of memory for the directory of %zu tensors", n_tensors);
    PG_TRY(open_tensors(l, err));
    make_extents(m);
    m->n_used_of_file = m->h.n_expert_used;
    count_sizes(m);
    return 0;
}

int pg_model_use(struct pg_model *m, int n_used, struct pg_err *err)
{
    if (m->h.n_expert == 0)
        return pg_fail(err, PG_EARG, "experts a token: %d found, but the model has no experts",
                       n_used);
    if (n_used < 1 || n_used > m->h.n_expert)
        return pg_fail(err, PG_EARG, "experts a token: %d found, 1 to the model's %d wanted",
                       n_used, m->h.n_expert);
    m->h.n_expert_used = m->h.rule.n_used = n_used;
    count_sizes(m);
    return 0;
}

int pg_model_open(struct pg_model *m, const struct pg_gguf *g, struct pg_err *err)
{
    struct pg_loader l = {g, m, NULL};
    *m = (struct pg_model){0};
    int rc = open_model(&l, err);
    free(l.used);
    if (rc)
        pg_model_close(m);
    return rc;
}

void pg_model_close(struct pg_model *m)
{
    free(m->block);
    free(m->cache);
    free(m->place);
    free(m->resident);
    free(m->extent);
    *m = (struct pg_model){0};
}

/* ------------------------------------------------------------------ load -------------------- */

enum { PIECE = 1 << 20, PIECES = 16 };

/* Where the reading of all extents stands. */
struct loading {
    struct pg_model *m;
    const struct pg_load *load;
    struct pg_read read[PIECES];
    struct pg_read *free[PIECES];
    int n_free;
    int extent;   /* being cut into pieces */
    uint64_t cut; /* bytes of it that are */
    uint64_t done;
};

static void submit_pieces(struct loading *s)
{
    while (s->n_free && s->extent < s->m->n_extents) {
        const struct pg_extent *x = &s->m->extent[s->extent];
        struct pg_read *r = s->free[s->n_free - 1];
        uint64_t left = x->bytes - s->cut;
        size_t size = (size_t)PG_MIN(left, (uint64_t)PIECE);
        *r = (struct pg_read){
            .file = x->part,
            .offset = x->offset + s->cut,
            .size = size,
            .need = (size_t)PG_MIN((uint64_t)size, x->need - s->cut),
            .buf = (char *)s->load->arena + x->at + s->cut,
        };
        if (!pg_io_submit(s->load->io, r))
            return;
        s->n_free--;
        s->cut += size;
        if (s->cut == x->bytes) {
            s->extent++;
            s->cut = 0;
        }
    }
}

static int load_extents(struct loading *s, struct pg_err *err)
{
    struct pg_read *got[PIECES];
    int rc = 0;
    for (;;) {
        if (!rc)
            submit_pieces(s);
        int n = pg_io_reap(s->load->io, got, PIECES, true);
        if (n == 0)
            return rc ? rc : pg_io_check(s->load->io, err);
        for (int i = 0; i < n; i++) {
            s->done += got[i]->size;
            s->free[s->n_free++] = got[i];
            if (got[i]->os_error && !rc)
                rc = pg_io_error(s->load->io, got[i], err);
        }
        if (!rc && s->load->progress &&
            s->load->progress(s->load->user, "loading", s->done, s->m->dense_bytes))
            rc = pg_fail(err, PG_ECANCELLED, "loading was cancelled");
    }
}

static void point_weights(struct pg_model *m, const char *arena)
{
    const struct pg_extent *x = m->extent;
    for (int i = 0; i < m->n_resident; i++) {
        const struct pg_gguf_tensor *t = m->resident[i].t;
        while (x->part != t->part || t->offset >= x->offset + x->need)
            x++;
        m->resident[i].data = arena + x->at + (t->offset - x->offset);
        m->resident[i].w->data = m->resident[i].data;
    }
    if (!m->output.data)
        m->output = m->token_embd;
}

int pg_model_load(struct pg_model *m, const struct pg_load *load, struct pg_err *err)
{
    struct loading s = {.m = m, .load = load, .n_free = PIECES};
    for (int i = 0; i < PIECES; i++)
        s.free[i] = &s.read[i];
    PG_TRY(load_extents(&s, err));
    point_weights(m, load->arena);
    return 0;
}

/* ------------------------------------------------------------------ identity ---------------- */

int pg_block_of_moe(const struct pg_model *m, int moe)
{
    int il = 0;
    while (m->block[il].moe != moe)
        il++;
    return il;
}

int pg_moe_ahead(const struct pg_model *m, int moe, int level)
{
    const struct pg_span *s = m->moe_of;
    while (moe >= s->first + s->n)
        s++;
    return moe + level < s->first + s->n ? moe + level : -1;
}

bool pg_is_decided_early(const struct pg_model *m, int moe, int level)
{
    return moe >= level && pg_moe_ahead(m, moe - level, level) == moe;
}

int pg_n_pregates(const struct pg_model *m, int level)
{
    int n = 0;
    for (int i = 0; i < m->h.n_stack; i++)
        n += PG_MAX(0, m->moe_of[i].n - level);
    return n;
}

int pg_most_level(const struct pg_model *m)
{
    int n = 0;
    for (int i = 0; i < m->h.n_stack; i++)
        n = PG_MAX(n, m->moe_of[i].n);
    return n - 1;
}

void pg_model_routers(const struct pg_model *m, struct pg_pregate *out)
{
    for (int moe = 0; moe < m->n_moe; moe++)
        out[moe] = (struct pg_pregate){.inp = m->block[pg_block_of_moe(m, moe)].ffn_gate_inp};
}

static uint64_t hash_weight(uint64_t hash, const struct pg_weight *w)
{
    size_t n = w->data ? pg_type_bytes(w->type, w->n_in) * (size_t)w->n_out : 0;
    return pg_fnv1a(hash, w->data, n);
}

void pg_model_hash(const struct pg_model *m, const struct pg_pregate *routers, char out[17])
{
    const int shape[] = {m->h.n_vocab,  m->h.n_layer,  m->h.n_embd,      m->h.n_head,
                         m->h.n_ff_exp, m->h.n_expert, m->n_used_of_file};
    uint64_t hash = pg_fnv1a(PG_HASH_START, m->arch, strlen(m->arch));
    hash = pg_fnv1a(hash, shape, sizeof(shape));
    for (int moe = 0; moe < m->n_moe; moe++) {
        hash = hash_weight(hash, &routers[moe].inp);
        hash = hash_weight(hash, &routers[moe].bias);
    }
    pg_hash_text(hash, out);
}
