/* SPDX-License-Identifier: MIT
 * Random matrices and activations for the kernels, shared by the checks and the measurements.
 */
#ifndef PG_TESTS_KERN_DATA_H
#define PG_TESTS_KERN_DATA_H

#include "cpu/kernels.h"

#include <stdlib.h>
#include <string.h>

static uint64_t seed = 0x9e3779b97f4a7c15;

static inline uint32_t any(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (uint32_t)(seed >> 32);
}

static inline int any_below(int n)
{
    return (int)(any() % (uint32_t)n);
}

static inline float any_float(void) /* (-1, 1) */
{
    return (float)(int32_t)any() * 0x1p-31f;
}

/* Where a block keeps its half floats; the rest of it is any bytes. */
static inline int half_places(enum pg_type t, int at[2])
{
    switch (t) {
    case PG_TYPE_Q4_1:
    case PG_TYPE_Q5_1:
    case PG_TYPE_Q4_K:
    case PG_TYPE_Q5_K:
        at[0] = 0, at[1] = 2;
        return 2;
    case PG_TYPE_Q2_K:
        at[0] = 80, at[1] = 82;
        return 2;
    case PG_TYPE_Q3_K:
        at[0] = 108;
        return 1;
    case PG_TYPE_Q6_K:
        at[0] = 208;
        return 1;
    default:
        at[0] = 0;
        return 1;
    }
}

enum wild { TAME, EXTREME, NOT_FINITE };

/* Scales of usual size; or now and then zero, subnormal and the largest; or infinity and NaN too.
 */
static inline uint16_t any_half(enum wild wild)
{
    static const uint16_t extremes[] = {0,      0x8000, 1,      0x83ff, 0x7bff,
                                        0xfbff, 0x7c00, 0xfc00, 0x7e01};
    if (wild != TAME && any_below(4) == 0)
        return extremes[any_below(wild == EXTREME ? 6 : 9)];
    return pg_f32_to_f16(any_float() * 0.02f);
}

static inline void fill_weights(enum pg_type type, uint8_t *w, size_t bytes, enum wild wild)
{
    const struct pg_type_traits *t = pg_type_traits(type);
    int at[2], n_halves = half_places(type, at);
    for (size_t i = 0; i < bytes; i++)
        w[i] = (uint8_t)any();
    for (size_t b = 0; b < bytes; b += (size_t)t->block_bytes) {
        float f = any_float() * (wild == EXTREME ? 1e4f : 0.02f);
        uint16_t h = pg_f32_to_f16(f);
        if (type == PG_TYPE_F32)
            memcpy(w + b, &f, sizeof(f));
        else if (type == PG_TYPE_BF16)
            h = pg_f32_to_bf16(f), memcpy(w + b, &h, sizeof(h));
        else
            for (int i = 0; i < n_halves; i++) {
                h = any_half(wild);
                memcpy(w + b + at[i], &h, sizeof(h));
            }
    }
}

/* Memory that ends where it should: sanitizers see a read or write beyond. */
static inline void *memory(size_t bytes)
{
    void *p = aligned_alloc(64, (bytes + 63) / 64 * 64);
    PG_ASSERT(p);
    memset(p, 0, (bytes + 63) / 64 * 64);
    return p;
}

struct acts {
    struct pg_acts a;
    float *x;
};

static inline struct acts acts_open(const struct pg_kernels *k, enum pg_act kind, int n, int n_rows)
{
    struct acts s = {.a = {.kind = kind, .n = n}};
    size_t all = (size_t)n * (size_t)n_rows;
    s.x = memory(all * sizeof(*s.x));
    s.a.q = memory(all);
    s.a.d = memory(all * sizeof(*s.a.d));
    s.a.sums = memory(all * sizeof(*s.a.sums));
    s.a.f32 = s.x;
    for (size_t i = 0; i < all; i++)
        s.x[i] = any_float();
    if (kind == PG_ACT_Q8)
        k->act_q8(s.x, (int)all, s.a.q, s.a.d, s.a.sums);
    if (kind == PG_ACT_Q8K)
        k->act_q8k(s.x, (int)all, s.a.q, s.a.d, s.a.sums);
    return s;
}

static inline void acts_close(struct acts *s)
{
    free(s->x);
    free(s->a.q);
    free(s->a.d);
    free(s->a.sums);
}

#endif
