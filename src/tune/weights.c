/* SPDX-License-Identifier: MIT */
#include "tune/weights.h"

#include "base/os.h"
#include "engine/engine.h"
#include "tune/text.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PIECE = 1 << 16 }; /* values; a multiple of every format's block */

/* ------------------------------------------------------------------ source ------------------ */

static int open_directory(struct pg_source *s, const char *path, struct pg_err *err)
{
    int n;
    PG_TRY(pg_gguf_open(&s->gguf, path, err));
    n = pg_gguf_n_parts(s->gguf);
    s->fd = pg_calloc((size_t)n, sizeof(s->fd[0]));
    for (int i = 0; s->fd && i < n; i++)
        s->fd[i] = -1;
    s->raw = malloc(PIECE * sizeof(float));
    return s->fd && s->raw ? 0 : pg_fail(err, PG_ENOMEM, "out of memory");
}

int pg_source_open(struct pg_source *s, const char *path, struct pg_err *err)
{
    *s = (struct pg_source){.path = path};
    int rc = open_directory(s, path, err);
    rc = rc ? rc : pg_model_open(&s->model, s->gguf, err);
    if (rc) {
        pg_source_close(s);
        return pg_fail_in(err, rc, path);
    }
    return 0;
}

void pg_source_close(struct pg_source *s)
{
    for (int i = 0; s->fd && i < pg_gguf_n_parts(s->gguf); i++)
        if (s->fd[i] >= 0)
            close(s->fd[i]);
    pg_model_close(&s->model);
    pg_gguf_close(s->gguf);
    free(s->fd);
    free(s->raw);
    *s = (struct pg_source){0};
}

static int part_fd(struct pg_source *s, int part, struct pg_err *err)
{
    const char *path = pg_gguf_part_path(s->gguf, part);
    if (s->fd[part] < 0)
        s->fd[part] = open(path, O_RDONLY | O_CLOEXEC);
    return s->fd[part] >= 0 ? 0 : pg_fail_os(err, PG_EIO, errno, "%s", path);
}

static int read_at(struct pg_source *s, int part, uint64_t offset, size_t n, void *out,
                   struct pg_err *err)
{
    char *at = out;
    PG_TRY(part_fd(s, part, err));
    while (n) {
        ssize_t got = pread(s->fd[part], at, n, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0) {
            return pg_fail_os(err, PG_EIO, got < 0 ? errno : EIO, "%s: reading %zu bytes at %llu",
                              pg_gguf_part_path(s->gguf, part), n, (unsigned long long)offset);
        }
        at += got;
        offset += (uint64_t)got;
        n -= (size_t)got;
    }
    return pg_stamp_check(pg_gguf_part_stamp(s->gguf, part), s->fd[part],
                          pg_gguf_part_path(s->gguf, part), err);
}

static int check_finite(const char *name, const float *x, size_t n, struct pg_err *err)
{
    for (size_t i = 0; i < n; i++)
        if (!isfinite(x[i]))
            return pg_fail(err, PG_EFORMAT, "%s: value %zu is not finite", name, i);
    return 0;
}

int pg_source_tensor(struct pg_source *s, const struct pg_gguf_tensor *t, float *out,
                     struct pg_err *err)
{
    const struct pg_type_traits *traits = pg_type_traits((uint32_t)t->type);
    int64_t left = t->ne[0] * t->ne[1] * t->ne[2] * t->ne[3];
    uint64_t offset = t->offset;
    float *at = out;
    while (left) {
        int64_t n = PG_MIN(left, (int64_t)PIECE);
        size_t bytes = pg_type_bytes(t->type, n);
        PG_TRY(read_at(s, t->part, offset, bytes, s->raw, err));
        traits->to_float(s->raw, at, n);
        offset += bytes;
        at += n;
        left -= n;
    }
    return check_finite(t->name, out, (size_t)(at - out), err);
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
    return pg_source_tensor(s, t, out, err);
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

/* The routers of all blocks as they lie in the file, one behind the other in *out. */
static int read_routers(struct pg_source *s, char **out, struct pg_err *err)
{
    const struct pg_model *m = &s->model;
    size_t total = 0;
    for (int pass = 0; pass < 2; pass++) {
        size_t at = 0;
        for (int il = 0; il < m->h.n_layer; il++) {
            char name[64];
            snprintf(name, sizeof(name), "blk.%d.ffn_gate_inp.weight", il);
            const struct pg_gguf_tensor *t = pg_gguf_find_tensor(s->gguf, name);
            if (!t || m->layer[il].moe < 0)
                continue;
            if (pass == 1) {
                PG_TRY(read_at(s, t->part, t->offset, t->bytes, *out + at, err));
                m->layer[il].ffn_gate_inp.data = *out + at;
            }
            at += t->bytes;
        }
        total = at;
        *out = pass == 0 ? pg_calloc(total, 1) : *out;
        if (!*out)
            return pg_fail(err, PG_ENOMEM, "out of memory for routers of %zu bytes", total);
    }
    return 0;
}

int pg_source_hash(struct pg_source *s, char out[17], struct pg_err *err)
{
    char *routers = NULL;
    int rc = read_routers(s, &routers, err);
    if (!rc)
        pg_model_hash(&s->model, out);
    for (int il = 0; il < s->model.h.n_layer; il++)
        s->model.layer[il].ffn_gate_inp.data = NULL;
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

void pg_draw_param(const struct pg_param *p, int n_layer, uint64_t seed, int index, float *out)
{
    /* Streams below are those of the epochs. */
    const uint64_t stream = ((uint64_t)1 << 40) + (uint64_t)index;
    bool is_norm = ends_with(p->name, "norm.weight"), is_bias = ends_with(p->name, ".bias");
    bool into_stream = strstr(p->name, ".attn_output.") || strstr(p->name, ".ffn_down");
    if (is_norm || is_bias) {
        for (size_t i = 0; i < p->n; i++)
            out[i] = is_norm ? 1.0f : 0.0f;
        return;
    }
    draw(out, p->n, into_stream ? 0.02 / sqrt(2.0 * n_layer) : 0.02, seed, stream);
}

/* ------------------------------------------------------------------ pre-gates --------------- */

bool pg_is_pregate(const struct pg_param *p)
{
    return strstr(p->name, ".ffn_pregate_") != NULL;
}

struct pg_tensor_name pg_pregate_name(int block, const char *part)
{
    struct pg_tensor_name name;
    snprintf(name.s, sizeof(name.s), "blk.%d.ffn_pregate_%s", block, part);
    return name;
}

static float *values_of(const struct pg_params *params, float *w, int block, const char *suffix)
{
    char name[64];
    snprintf(name, sizeof(name), "blk.%d.%s", block, suffix);
    const struct pg_param *p = pg_params_find(params, name);
    PG_ASSERT(p);
    return w + p->at;
}

void pg_fold_pregates(const struct pg_model *m, const struct pg_params *params, int level, float *w)
{
    for (int moe = 0; moe + level < m->n_moe; moe++) {
        int from = pg_block_of_moe(m, moe), to = pg_block_of_moe(m, moe + level);
        const struct pg_weight router = {
            .type = PG_TYPE_F32,
            .n_in = m->h.n_embd,
            .n_out = m->h.n_expert,
            .data = values_of(params, w, to, "ffn_gate_inp.weight"),
        };
        pg_gate_fold(&router, values_of(params, w, from, "ffn_norm.weight"),
                     values_of(params, w, to, "ffn_norm.weight"),
                     values_of(params, w, from, "ffn_pregate_inp.weight"));
    }
}

static int check_text(const struct pg_gguf *g, const char *key, const char *want,
                      struct pg_err *err)
{
    struct pg_str found;
    PG_TRY(pg_gguf_get_str(g, key, PG_GGUF_REQUIRED, &found, err));
    if (found.n != strlen(want) || memcmp(found.s, want, found.n) != 0) {
        return pg_fail(err, PG_EFORMAT, "%s: '%s' found, '%s' wanted", key,
                       pg_quote(found.s, found.n).s, want);
    }
    return 0;
}

static int read_sidecar(struct pg_source *s, const struct pg_sidecar_source *from,
                        const struct pg_params *params, float *w, struct pg_err *err)
{
    int64_t level;
    int n = 0;
    PG_TRY(check_text(s->gguf, "general.type", "pregate", err));
    PG_TRY(check_text(s->gguf, "pregate.base.hash", from->hash, err));
    PG_TRY(pg_gguf_get_int(s->gguf, "pregate.level", PG_GGUF_REQUIRED, from->level, from->level,
                           &level, err));
    for (int i = 0; i < params->n; i++) {
        const struct pg_param *p = &params->p[i];
        if (pg_is_pregate(p)) {
            PG_TRY(tensor_of(s, p->name, p, p->n, w + p->at, err));
            n++;
        }
    }
    if (pg_gguf_n_tensors(s->gguf) != n) {
        return pg_fail(err, PG_EFORMAT, "%d tensors found, %d wanted: the pre-gates differ in form",
                       pg_gguf_n_tensors(s->gguf), n);
    }
    return 0;
}

/* By its tensors' names and sizes; that all blocks are alike shows when they are read. */
int pg_pregates_form(const char *path, struct pg_pregate_form *out, struct pg_err *err)
{
    struct pg_source s = {.path = path};
    int rc = open_directory(&s, path, err);
    *out = (struct pg_pregate_form){0};
    for (int i = 0; !rc && i < pg_gguf_n_tensors(s.gguf); i++) {
        const struct pg_gguf_tensor *t = pg_gguf_tensor_at(s.gguf, i);
        out->bias |= strstr(t->name, ".ffn_pregate_inp.bias") != NULL;
        if (strstr(t->name, ".ffn_pregate_down.weight"))
            out->n_hidden = (int)PG_MIN(t->ne[1], INT32_MAX);
    }
    pg_source_close(&s);
    return rc ? pg_fail_in(err, rc, path) : 0;
}

int pg_read_pregates(const struct pg_sidecar_source *from, const struct pg_params *params, float *w,
                     struct pg_err *err)
{
    struct pg_source s = {.path = from->path};
    int rc = open_directory(&s, from->path, err);
    rc = rc ? rc : read_sidecar(&s, from, params, w, err);
    pg_source_close(&s);
    return rc ? pg_fail_in(err, rc, from->path) : 0;
}
