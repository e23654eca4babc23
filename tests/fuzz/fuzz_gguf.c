/* SPDX-License-Identifier: MIT
 * Any bytes as a GGUF header, then everything a caller can ask of what was accepted. Each string
 * and value is read to its end, so that a pointer that leads outside is seen.
 */
#include "format/gguf.h"

#include <stdint.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

static volatile unsigned sink;

static void touch(const void *p, size_t n)
{
    const unsigned char *b = p;
    unsigned sum = 0;

    for (size_t i = 0; i < n; i++)
        sum += b[i];
    sink += sum;
}

static size_t element_bytes(enum pg_gguf_kind kind)
{
    switch (kind) {
    case PG_GGUF_U16:
    case PG_GGUF_I16:
        return 2;
    case PG_GGUF_U32:
    case PG_GGUF_I32:
    case PG_GGUF_F32:
        return 4;
    case PG_GGUF_U64:
    case PG_GGUF_I64:
    case PG_GGUF_F64:
        return 8;
    default:
        return 1;
    }
}

static void ask_key(const struct pg_gguf *g, const struct pg_gguf_key *k)
{
    struct pg_err err;
    struct pg_str s;
    int64_t v;
    float f;
    bool b;

    if (k->elem == PG_GGUF_STRING) {
        for (uint64_t i = 0; i < k->n; i++) {
            s = pg_gguf_string_at(g, k, i);
            touch(s.s, s.n);
        }
    } else {
        touch(k->data, k->n * element_bytes(k->elem));
    }
    if (!pg_gguf_get_int(g, k->name, PG_GGUF_REQUIRED, (int64_t[]){-1000, 1000}, &v, &err))
        PG_ASSERT(v >= -1000 && v <= 1000);
    if (!pg_gguf_get_f32(g, k->name, PG_GGUF_REQUIRED, (double[]){0, 1}, &f, &err))
        PG_ASSERT(f >= 0 && f <= 1);
    if (!pg_gguf_get_bool(g, k->name, PG_GGUF_OPTIONAL, &b, &err))
        sink += b;
    if (!pg_gguf_get_str(g, k->name, PG_GGUF_REQUIRED, &s, &err))
        touch(s.s, s.n);
    PG_ASSERT(pg_gguf_find(g, k->name) == k);
}

static void ask_tensor(const struct pg_gguf *g, const struct pg_gguf_tensor *t, uint64_t file_bytes)
{
    const struct pg_gguf_tensor *found;
    int64_t values = 1;

    PG_ASSERT(strlen(t->name) > 0 && strlen(t->name) < 64);
    PG_ASSERT(t->offset <= file_bytes && t->bytes <= file_bytes - t->offset);
    for (int d = 0; d < 4; d++)
        PG_ASSERT(t->ne[d] >= 1 && !__builtin_mul_overflow(values, t->ne[d], &values));
    PG_ASSERT(pg_type_bytes(t->type, values) == t->bytes);
    PG_ASSERT(pg_gguf_find_tensor(g, t->name) == t);
    PG_ASSERT(!pg_gguf_get_tensor(g, t->name, PG_GGUF_REQUIRED, t->ne, &found, NULL));
    PG_ASSERT(found == t);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    struct pg_gguf *g;
    struct pg_err err;
    /* The first byte says how much larger the file is than the bytes at hand. */
    uint64_t file_bytes = n ? n - 1 + ((uint64_t)bytes[0] << bytes[0] % 32) : 0;

    if (!n || pg_gguf_parse(&g, bytes + 1, n - 1, file_bytes, "fuzz", &err))
        return 0;
    PG_ASSERT(pg_gguf_heap_bytes(g) < 64 * n + 8192);
    for (int i = 0; i < pg_gguf_n_keys(g); i++)
        ask_key(g, pg_gguf_key_at(g, i));
    for (int i = 0; i < pg_gguf_n_tensors(g); i++)
        ask_tensor(g, pg_gguf_tensor_at(g, i), file_bytes);
    pg_gguf_close(g);
    return 0;
}
