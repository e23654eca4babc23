/* SPDX-License-Identifier: MIT
 * pg_file: the directory of a GGUF file for people, every value as short text.
 */
#include "base/os.h"
#include "format/gguf.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct pg_file {
    struct pg_gguf *gguf;
};

int pg_file_open(pg_file **out, const char *path, struct pg_err *err)
{
    struct pg_file *f = pg_calloc(1, sizeof(*f));
    int rc;

    *out = NULL;
    if (!f)
        return pg_fail(err, PG_ENOMEM, "%s: out of memory", path);
    rc = pg_gguf_open(&f->gguf, path, err);
    if (rc) {
        pg_file_close(f);
        return rc;
    }
    *out = f;
    return 0;
}

void pg_file_close(pg_file *f)
{
    if (f)
        pg_gguf_close(f->gguf);
    free(f);
}

int pg_file_n_keys(const pg_file *f)
{
    return pg_gguf_n_keys(f->gguf);
}

int pg_file_n_tensors(const pg_file *f)
{
    return pg_gguf_n_tensors(f->gguf);
}

uint64_t pg_file_bytes(const pg_file *f)
{
    return pg_gguf_file_bytes(f->gguf);
}

int pg_file_version(const pg_file *f)
{
    return pg_gguf_version(f->gguf);
}

/* ---- values as text */

static const char *kind_text(const struct pg_gguf_key *k)
{
    static const char *const scalar[] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                         "bool", "string", "array", "u64", "i64", "f64"};
    static const char *const array[] = {"array[u8]",     "array[i8]",  "array[u16]", "array[i16]",
                                        "array[u32]",    "array[i32]", "array[f32]", "array[bool]",
                                        "array[string]", "array",      "array[u64]", "array[i64]",
                                        "array[f64]"};

    return k->kind == PG_GGUF_ARRAY ? array[k->elem] : scalar[k->kind];
}

/* Element i of a packed array of numbers. */
#define LOAD(type, name)                                                                           \
    static type name(const struct pg_gguf_key *k, uint64_t i)                                      \
    {                                                                                              \
        type v;                                                                                    \
        memcpy(&v, (const char *)k->data + i * sizeof(v), sizeof(v));                              \
        return v;                                                                                  \
    }
LOAD(uint8_t, load_u8)
LOAD(int8_t, load_i8)
LOAD(uint16_t, load_u16)
LOAD(int16_t, load_i16)
LOAD(uint32_t, load_u32)
LOAD(int32_t, load_i32)
LOAD(uint64_t, load_u64)
LOAD(int64_t, load_i64)
LOAD(float, load_f32)
LOAD(double, load_f64)

static void string_text(const pg_file *f, const struct pg_gguf_key *k, uint64_t i, char *out,
                        size_t size)
{
    struct pg_str s = pg_gguf_string_at(f->gguf, k, i);
    struct pg_quoted q = pg_quote(s.s, s.n);

    snprintf(out, size, k->kind == PG_GGUF_ARRAY ? "\"%s\"" : "%s", q.s);
}

static void element_text(const pg_file *f, const struct pg_gguf_key *k, uint64_t i, char *out,
                         size_t size)
{
    switch (k->elem) {
    case PG_GGUF_U8:
        snprintf(out, size, "%u", load_u8(k, i));
        break;
    case PG_GGUF_I8:
        snprintf(out, size, "%d", load_i8(k, i));
        break;
    case PG_GGUF_U16:
        snprintf(out, size, "%u", load_u16(k, i));
        break;
    case PG_GGUF_I16:
        snprintf(out, size, "%d", load_i16(k, i));
        break;
    case PG_GGUF_U32:
        snprintf(out, size, "%" PRIu32, load_u32(k, i));
        break;
    case PG_GGUF_I32:
        snprintf(out, size, "%" PRId32, load_i32(k, i));
        break;
    case PG_GGUF_U64:
        snprintf(out, size, "%" PRIu64, load_u64(k, i));
        break;
    case PG_GGUF_I64:
        snprintf(out, size, "%" PRId64, load_i64(k, i));
        break;
    case PG_GGUF_F32:
        snprintf(out, size, "%.7g", (double)load_f32(k, i));
        break;
    case PG_GGUF_F64:
        snprintf(out, size, "%.15g", load_f64(k, i));
        break;
    case PG_GGUF_BOOL:
        snprintf(out, size, "%s", load_u8(k, i) ? "true" : "false");
        break;
    default:
        string_text(f, k, i, out, size);
        break;
    }
}

/* "[1, 2, 3, ...]", as many elements as fit. */
static void array_text(const pg_file *f, const struct pg_gguf_key *k, char *out, size_t size)
{
    const size_t end = sizeof(", ...]");
    size_t n = 0;
    uint64_t i;

    out[n++] = '[';
    for (i = 0; i < k->n; i++) {
        char one[96];
        element_text(f, k, i, one, sizeof(one));
        size_t len = strlen(one) + (i ? 2 : 0);
        if (n + len + end > size)
            break;
        n += (size_t)snprintf(out + n, size - n, "%s%s", i ? ", " : "", one);
    }
    snprintf(out + n, size - n, "%s", i == k->n ? "]" : i ? ", ...]" : "...]");
}

void pg_file_key_at(const pg_file *f, int i, struct pg_file_key *out)
{
    *out = (struct pg_file_key){0};
    if (i < 0 || i >= pg_file_n_keys(f))
        return;
    const struct pg_gguf_key *k = pg_gguf_key_at(f->gguf, i);
    *out = (struct pg_file_key){.name = k->name, .type = kind_text(k), .n = k->n};
    if (k->kind == PG_GGUF_ARRAY)
        array_text(f, k, out->value, sizeof(out->value));
    else
        element_text(f, k, 0, out->value, sizeof(out->value));
}

void pg_file_tensor_at(const pg_file *f, int i, struct pg_file_tensor *out)
{
    *out = (struct pg_file_tensor){0};
    if (i < 0 || i >= pg_file_n_tensors(f))
        return;
    const struct pg_gguf_tensor *t = pg_gguf_tensor_at(f->gguf, i);
    *out = (struct pg_file_tensor){.name = t->name,
                                   .type = pg_type_traits(t->type)->name,
                                   .n_dims = t->n_dims,
                                   .offset = t->offset,
                                   .bytes = t->bytes,
                                   .part = t->part};
    memcpy(out->ne, t->ne, sizeof(out->ne));
}
