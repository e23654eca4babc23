/* SPDX-License-Identifier: MIT
 * What is asked of an open directory: by number, by name, and as a checked value.
 */
#include "format/gguf_dir.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    size_t bytes;
} kinds[] = {
    [PG_GGUF_U8] = {"u8", 1},       [PG_GGUF_I8] = {"i8", 1},     [PG_GGUF_U16] = {"u16", 2},
    [PG_GGUF_I16] = {"i16", 2},     [PG_GGUF_U32] = {"u32", 4},   [PG_GGUF_I32] = {"i32", 4},
    [PG_GGUF_F32] = {"f32", 4},     [PG_GGUF_BOOL] = {"bool", 1}, [PG_GGUF_STRING] = {"string", 0},
    [PG_GGUF_ARRAY] = {"array", 0}, [PG_GGUF_U64] = {"u64", 8},   [PG_GGUF_I64] = {"i64", 8},
    [PG_GGUF_F64] = {"f64", 8},
};

const char *pg_gguf_kind_name(uint32_t kind)
{
    return kind < PG_COUNT(kinds) ? kinds[kind].name : NULL;
}

size_t pg_gguf_kind_bytes(uint32_t kind)
{
    return kind < PG_COUNT(kinds) ? kinds[kind].bytes : 0;
}

bool pg_gguf_name_ok(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (s[i] <= 0x20 || s[i] >= 0x7f)
            return false;
    return n > 0;
}

int pg_gguf_tensor_bytes(uint32_t type, int n_dims, const int64_t *ne, uint64_t *bytes,
                         struct pg_err *err)
{
    const struct pg_type_traits *traits = pg_type_traits(type);
    uint64_t total;

    if (!traits->name)
        return pg_fail(err, PG_ENOTSUP, "type number %u is not supported", type);
    if (ne[0] % traits->block)
        return pg_fail(err, PG_EFORMAT,
                       "rows have %" PRId64 " values; a multiple of %s's block of %d is wanted",
                       ne[0], traits->name, traits->block);
    total = (uint64_t)(ne[0] / traits->block);
    if (__builtin_mul_overflow(total, (uint64_t)traits->block_bytes, &total))
        return pg_fail(err, PG_EFORMAT, "its size overflows 64 bits");
    for (int d = 1; d < n_dims; d++)
        if (__builtin_mul_overflow(total, (uint64_t)ne[d], &total))
            return pg_fail(err, PG_EFORMAT, "its size overflows 64 bits");
    /* Counts of values are int64 everywhere, whatever the bits of one. */
    if (total > (uint64_t)INT64_MAX / 8)
        return pg_fail(err, PG_EFORMAT, "its size of %" PRIu64 " bytes is beyond any file", total);
    *bytes = total;
    return 0;
}

int pg_gguf_version(const struct pg_gguf *g)
{
    return g->version;
}

int pg_gguf_n_parts(const struct pg_gguf *g)
{
    return g->n_parts;
}

const char *pg_gguf_part_path(const struct pg_gguf *g, int part)
{
    PG_ASSERT(part >= 0 && part < g->n_parts);
    return g->parts[part].path;
}

const struct pg_stamp *pg_gguf_part_stamp(const struct pg_gguf *g, int part)
{
    return &g->parts[part].stamp;
}

uint64_t pg_gguf_file_bytes(const struct pg_gguf *g)
{
    uint64_t sum = 0;

    for (int i = 0; i < g->n_parts; i++)
        sum += g->parts[i].file_bytes;
    return sum;
}

static uint64_t dict_bytes(const struct pg_gguf_dict *d)
{
    return d->cap * sizeof(*d->names) + d->n_slots * sizeof(*d->slots);
}

uint64_t pg_gguf_heap_bytes(const struct pg_gguf *g)
{
    uint64_t sum = sizeof(*g) + (uint64_t)g->n_parts * sizeof(*g->parts);

    for (int i = 0; i < g->n_parts; i++)
        sum += g->parts[i].n_bytes + strlen(g->parts[i].path) + 1;
    sum += g->cap_keys * sizeof(*g->keys) + g->cap_tensors * sizeof(*g->tensors);
    sum += g->cap_strs * sizeof(*g->strs) + g->cap_first_str * sizeof(*g->first_str);
    return sum + dict_bytes(&g->key_dict) + dict_bytes(&g->tensor_dict);
}

int pg_gguf_n_keys(const struct pg_gguf *g)
{
    return (int)g->key_dict.n;
}

const struct pg_gguf_key *pg_gguf_key_at(const struct pg_gguf *g, int i)
{
    PG_ASSERT(i >= 0 && i < pg_gguf_n_keys(g));
    return &g->keys[i];
}

const struct pg_gguf_key *pg_gguf_find(const struct pg_gguf *g, const char *key)
{
    int64_t i = pg_gguf_dict_find(&g->key_dict, key, strlen(key));

    return i < 0 ? NULL : &g->keys[i];
}

struct pg_str pg_gguf_string_at(const struct pg_gguf *g, const struct pg_gguf_key *k, uint64_t i)
{
    (void)g;
    PG_ASSERT(k->elem == PG_GGUF_STRING && i < k->n);
    return ((const struct pg_str *)k->data)[i];
}

int pg_gguf_n_tensors(const struct pg_gguf *g)
{
    return (int)g->tensor_dict.n;
}

const struct pg_gguf_tensor *pg_gguf_tensor_at(const struct pg_gguf *g, int i)
{
    PG_ASSERT(i >= 0 && i < pg_gguf_n_tensors(g));
    return &g->tensors[i];
}

const struct pg_gguf_tensor *pg_gguf_find_tensor(const struct pg_gguf *g, const char *name)
{
    int64_t i = pg_gguf_dict_find(&g->tensor_dict, name, strlen(name));

    return i < 0 ? NULL : &g->tensors[i];
}

/* ---- typed values */

PG_PRINTF(5, 6)
static int fail_key(const struct pg_gguf *g, int code, const char *key, struct pg_err *err,
                    const char *fmt, ...)
{
    char text[256];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    return pg_fail(err, code, "%s: key %s: %s", g->parts[0].path, pg_quote(key, strlen(key)).s,
                   text);
}

/* *k = NULL and 0 for an absent optional key. */
static int find_scalar(const struct pg_gguf *g, const char *key, enum pg_gguf_want want,
                       const struct pg_gguf_key **k, struct pg_err *err)
{
    *k = pg_gguf_find(g, key);
    if (!*k && want == PG_GGUF_REQUIRED)
        return fail_key(g, PG_EFORMAT, key, err, "is missing");
    return 0;
}

static int fail_kind(const struct pg_gguf *g, const struct pg_gguf_key *k, const char *wanted,
                     struct pg_err *err)
{
    return fail_key(g, PG_EFORMAT, k->name, err, "is of type %s%s%s; %s is wanted",
                    k->kind == PG_GGUF_ARRAY ? "array of " : "", pg_gguf_kind_name(k->elem),
                    k->kind == PG_GGUF_ARRAY ? "s" : "", wanted);
}

/* Integers of all widths as int64. False: not an integer. *fits is false beyond int64. */
static bool load_int(const struct pg_gguf_key *k, int64_t *v, bool *fits)
{
    size_t n = pg_gguf_kind_bytes(k->kind);
    bool is_signed = k->kind == PG_GGUF_I8 || k->kind == PG_GGUF_I16 || k->kind == PG_GGUF_I32 ||
                     k->kind == PG_GGUF_I64;
    bool is_unsigned = k->kind == PG_GGUF_U8 || k->kind == PG_GGUF_U16 || k->kind == PG_GGUF_U32 ||
                       k->kind == PG_GGUF_U64;
    uint64_t bits = 0;

    if (!is_signed && !is_unsigned)
        return false;
    memcpy(&bits, k->data, n);
    if (is_signed && n < 8 && bits >> (n * 8 - 1))
        bits |= UINT64_MAX << (n * 8);
    memcpy(v, &bits, sizeof(*v));
    *fits = is_signed || bits <= INT64_MAX;
    return true;
}

int pg_gguf_get_int(const struct pg_gguf *g, const char *key, enum pg_gguf_want want,
                    const int64_t range[2], int64_t *out, struct pg_err *err)
{
    const struct pg_gguf_key *k;
    int64_t v = 0;
    bool fits = false;

    PG_TRY(find_scalar(g, key, want, &k, err));
    if (!k)
        return 0;
    if (!load_int(k, &v, &fits))
        return fail_kind(g, k, "an integer", err);
    if (!fits)
        return fail_key(g, PG_EFORMAT, key, err,
                        "is %" PRIu64 "; %" PRId64 " to %" PRId64 " is wanted", (uint64_t)v,
                        range[0], range[1]);
    if (v < range[0] || v > range[1])
        return fail_key(g, PG_EFORMAT, key, err,
                        "is %" PRId64 "; %" PRId64 " to %" PRId64 " is wanted", v, range[0],
                        range[1]);
    *out = v;
    return 0;
}

int pg_gguf_get_f32(const struct pg_gguf *g, const char *key, enum pg_gguf_want want,
                    const double range[2], float *out, struct pg_err *err)
{
    const struct pg_gguf_key *k;
    double v;
    float f;

    PG_TRY(find_scalar(g, key, want, &k, err));
    if (!k)
        return 0;
    if (k->kind == PG_GGUF_F32) {
        memcpy(&f, k->data, sizeof(f));
        v = (double)f;
    } else if (k->kind == PG_GGUF_F64) {
        memcpy(&v, k->data, sizeof(v));
    } else {
        return fail_kind(g, k, "a float", err);
    }
    if (!isfinite(v) || v < range[0] || v > range[1] || !isfinite((float)v))
        return fail_key(g, PG_EFORMAT, key, err, "is %g; %g to %g is wanted", v, range[0],
                        range[1]);
    *out = (float)v;
    return 0;
}

int pg_gguf_get_bool(const struct pg_gguf *g, const char *key, enum pg_gguf_want want, bool *out,
                     struct pg_err *err)
{
    const struct pg_gguf_key *k;

    PG_TRY(find_scalar(g, key, want, &k, err));
    if (!k)
        return 0;
    if (k->kind != PG_GGUF_BOOL)
        return fail_kind(g, k, "a bool", err);
    *out = *(const char *)k->data != 0;
    return 0;
}

int pg_gguf_get_str(const struct pg_gguf *g, const char *key, enum pg_gguf_want want,
                    struct pg_str *out, struct pg_err *err)
{
    const struct pg_gguf_key *k;

    PG_TRY(find_scalar(g, key, want, &k, err));
    if (!k)
        return 0;
    if (k->kind != PG_GGUF_STRING)
        return fail_kind(g, k, "a string", err);
    *out = pg_gguf_string_at(g, k, 0);
    return 0;
}

/* ---- tensors */

struct shape_text {
    char s[96];
};

static struct shape_text shape_text(const int64_t *ne, int n_dims)
{
    struct shape_text t = {"["};
    size_t n = 1;

    for (int d = 0; d < n_dims; d++) {
        int k = snprintf(t.s + n, sizeof(t.s) - n, "%s%" PRId64, d ? ", " : "", ne[d]);
        n += (size_t)k;
    }
    snprintf(t.s + n, sizeof(t.s) - n, "]");
    return t;
}

int pg_gguf_get_tensor(const struct pg_gguf *g, const char *name, enum pg_gguf_want want,
                       const int64_t ne[4], const struct pg_gguf_tensor **out, struct pg_err *err)
{
    const struct pg_gguf_tensor *t = pg_gguf_find_tensor(g, name);
    int n_dims = 0;
    bool same = true;

    *out = NULL;
    if (!t && want == PG_GGUF_OPTIONAL)
        return 0;
    if (!t)
        return pg_fail(err, PG_EFORMAT, "%s: tensor %s: is missing", g->parts[0].path, name);
    while (n_dims < 4 && ne[n_dims])
        n_dims++;
    for (int d = 0; d < 4; d++)
        same = same && t->ne[d] == (d < n_dims ? ne[d] : 1);
    if (!same)
        return pg_fail(err, PG_EFORMAT, "%s: tensor %s: shape %s; %s is wanted",
                       g->parts[t->part].path, name, shape_text(t->ne, t->n_dims).s,
                       shape_text(ne, n_dims).s);
    *out = t;
    return 0;
}
