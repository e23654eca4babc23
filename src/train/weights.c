/* SPDX-License-Identifier: MIT */
#include "train/weights.h"

#include "base/os.h"
#include "base/random.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------ source ------------------ */

int pg_source_open(struct pg_source *s, const char *path, struct pg_err *err)
{
    *s = (struct pg_source){.path = path};
    int rc = pg_gguf_open(&s->gguf, path, err);
    rc = rc ? rc : pg_model_open(&s->model, s->gguf, err);
    if (rc) {
        pg_source_close(s);
        return pg_fail_in(err, rc, path);
    }
    return 0;
}

void pg_source_close(struct pg_source *s)
{
    pg_model_close(&s->model);
    pg_gguf_close(s->gguf);
    *s = (struct pg_source){0};
}

static int wrong_size(const char *name, const struct pg_gguf_tensor *t, size_t want,
                      struct pg_err *err)
{
    return pg_fail(err, PG_EFORMAT,
                   "%s: %lld x %lld x %lld found, and in all %zu values wanted: the shape is that "
                   "of another model",
                   name, (long long)t->ne[0], (long long)t->ne[1], (long long)t->ne[2], want);
}

static int tensor_of(struct pg_source *s, const char *name, const struct pg_param *p, size_t n,
                     float *out, struct pg_err *err)
{
    const struct pg_gguf_tensor *t = pg_gguf_find_tensor(s->gguf, name);
    if (!t)
        return pg_fail(err, PG_EFORMAT, "tensor %s is missing", name);
    if (t->ne[0] != p->n_in || (size_t)(t->ne[0] * t->ne[1]) * (size_t)(t->ne[2] * t->ne[3]) != n)
        return wrong_size(name, t, n, err);
    return pg_gguf_read_f32(s->gguf, t, out, err);
}

/* "blk.3.ffn_up_exps.weight" as a file with a tensor for each expert calls expert e. */
static struct pg_tensor_name single_name(const char *merged, int e)
{
    struct pg_tensor_name name;
    const char *end = strstr(merged, "_exps.");
    snprintf(name.s, sizeof(name.s), "%.*s.%d.weight", end ? (int)(end - merged) : 0, merged, e);
    return name;
}

int pg_source_param(struct pg_source *s, const struct pg_param *p, float *out, struct pg_err *err)
{
    bool merged = p->n_mat == 1 || pg_gguf_find_tensor(s->gguf, p->name);
    size_t each = p->n / (size_t)p->n_mat;
    int rc = merged ? tensor_of(s, p->name, p, p->n, out, err) : 0;
    for (int e = 0; !merged && !rc && e < p->n_mat; e++)
        rc = tensor_of(s, single_name(p->name, e).s, p, each, out + (size_t)e * each, err);
    return rc ? pg_fail_in(err, rc, s->path) : 0;
}

/* ------------------------------------------------------------------ identity ---------------- */

/* The router of a MoE block as it lies in the file; its data is for free(). */
static int read_router(struct pg_source *s, int moe, struct pg_pregate *out, struct pg_err *err)
{
    int il = pg_block_of_moe(&s->model, moe);
    struct pg_tensor_name name = pg_part_name(&s->model, il, PG_PART_ROUTER);
    const struct pg_gguf_tensor *t = pg_gguf_find_tensor(s->gguf, name.s);
    void *data = malloc(t->bytes);
    out->inp = s->model.block[il].ffn_gate_inp;
    out->inp.data = data;
    return data ? pg_gguf_read(s->gguf, t, data, err)
                : pg_fail(err, PG_ENOMEM, "%s: out of memory", name.s);
}

int pg_source_hash(struct pg_source *s, char out[17], struct pg_err *err)
{
    int n_moe = s->model.n_moe, rc = 0;
    struct pg_pregate *routers = pg_calloc((size_t)n_moe, sizeof(routers[0]));
    if (!routers)
        return pg_fail(err, PG_ENOMEM, "out of memory");
    for (int moe = 0; !rc && moe < n_moe; moe++)
        rc = read_router(s, moe, &routers[moe], err);
    if (!rc)
        pg_model_hash(&s->model, routers, out);
    for (int moe = 0; moe < n_moe; moe++)
        free((void *)(uintptr_t)routers[moe].inp.data);
    free(routers);
    return rc;
}

/* ------------------------------------------------------------------ from scratch ------------ */

/* Uniform in (0, 1): never 0, whose logarithm there is not. */
static double uniform(uint64_t bits)
{
    return ((double)(bits >> 11) + 0.5) * 0x1p-53;
}

/* Box and Muller (1958): a pair of uniform numbers makes a pair of normal ones. */
static void draw(float *out, size_t n, double deviation, uint64_t seed, uint64_t stream)
{
    for (size_t i = 0; i < n; i += 2) {
        double radius = sqrt(-2 * log(uniform(pg_random_at(seed, stream, i)))) * deviation;
        double angle = 2 * 3.14159265358979323846 * uniform(pg_random_at(seed, stream, i + 1));
        out[i] = (float)(radius * cos(angle));
        if (i + 1 < n)
            out[i + 1] = (float)(radius * sin(angle));
    }
}

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), k = strlen(end);
    return n >= k && strcmp(s + n - k, end) == 0;
}

/* With nothing to scale q · k, nor the sum of what blocks add, T5 begins with rows of length 1: the
 * table's values have a deviation of 1, all others that of a row whose input has (Raffel et al.
 * 2020, as their code has it). */
static double deviation_in_stacks(const struct pg_hparams *h, const struct pg_param *p)
{
    if (strcmp(p->name, "token_embd.weight") == 0)
        return 1;
    if (ends_with(p->name, "attn_q.weight"))
        return 1 / sqrt((double)h->n_embd * h->head_dim);
    return 1 / sqrt((double)(ends_with(p->name, "attn_rel_b.weight") ? h->n_embd : p->n_in));
}

static double deviation(const struct pg_hparams *h, const struct pg_param *p)
{
    bool into_stream = strstr(p->name, ".attn_output.") || strstr(p->name, ".ffn_down");
    if (h->n_stack > 1)
        return deviation_in_stacks(h, p);
    return into_stream ? 0.02 / sqrt(2.0 * h->n_layer) : 0.02;
}

void pg_draw_param(const struct pg_param *p, const struct pg_hparams *h, uint64_t seed, int index,
                   float *out)
{
    /* Streams below are those of the epochs. */
    const uint64_t stream = ((uint64_t)1 << 40) + (uint64_t)index;
    bool is_norm = ends_with(p->name, "norm.weight"), is_bias = ends_with(p->name, ".bias");
    if (is_norm || is_bias) {
        for (size_t i = 0; i < p->n; i++)
            out[i] = is_norm ? 1.0f : 0.0f;
        return;
    }
    draw(out, p->n, deviation(h, p), seed, stream);
}

/* ------------------------------------------------------------------ pre-gates --------------- */

bool pg_is_pregate(const struct pg_param *p)
{
    return strstr(p->name, ".ffn_pregate_") != NULL;
}

static float *values_of(const struct pg_model *m, const struct pg_params *params, float *w, int il,
                        enum pg_block_part part)
{
    const struct pg_param *p = pg_params_find(params, pg_part_name(m, il, part).s);
    PG_ASSERT(p);
    return w + p->at;
}

void pg_fold_pregates(const struct pg_model *m, const struct pg_params *params, int level, float *w)
{
    for (int moe = 0; moe < m->n_moe; moe++) {
        if (pg_moe_ahead(m, moe, level) < 0)
            continue;
        int from = pg_block_of_moe(m, moe), to = pg_block_of_moe(m, moe + level);
        const struct pg_weight router = {
            .type = PG_TYPE_F32,
            .n_in = m->h.n_embd,
            .n_out = m->h.n_expert,
            .data = values_of(m, params, w, to, PG_PART_ROUTER),
        };
        pg_gate_fold(&router, values_of(m, params, w, from, PG_PART_FFN_NORM),
                     values_of(m, params, w, to, PG_PART_FFN_NORM),
                     values_of(m, params, w, from, PG_PART_PREGATE));
    }
}
