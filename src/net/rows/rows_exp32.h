/* SPDX-License-Identifier: MIT
 * What vectors of sixteen floats need beside the compiler's operators; exp is the engine's own, see
 * cpu/kernels.h.
 */
#ifndef PG_NET_ROWS_ROWS_EXP32_H
#define PG_NET_ROWS_ROWS_EXP32_H

#include "cpu/kernels.h"
#include "net/rows/rows_vec.h"

typedef int32_t ivec __attribute__((vector_size(64)));

static inline vec either(ivec mask, vec a, vec b)
{
    return (vec)((mask & (ivec)a) | (~mask & (ivec)b));
}

/* Lanes [from, to) of v, in the others `other`. */
static inline vec within(vec v, int from, int to, pg_real other)
{
    const ivec lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return either((lane >= from) & (lane < to), v, all(other));
}

/* A NaN stays, in b. */
static inline vec larger(vec a, vec b)
{
    return either(a > b, a, b);
}

/* 1 where v is above 0, else 0. */
static inline vec positive(vec v)
{
    return (vec)((v > 0) & (ivec)all(1));
}

#define TURN(v, a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p)                                    \
    __builtin_shufflevector(v, v, a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p)
#define HALVES(v)   TURN(v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7)
#define QUARTERS(v) TURN(v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11)
#define PAIRS(v)    TURN(v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13)
#define ONES(v)     TURN(v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14)

static inline pg_real tree(vec v)
{
    v = v + HALVES(v);
    v = v + QUARTERS(v);
    v = v + PAIRS(v);
    return (v + ONES(v))[0];
}

static inline pg_real largest(vec v)
{
    v = larger(v, HALVES(v));
    v = larger(v, QUARTERS(v));
    v = larger(v, PAIRS(v));
    return larger(v, ONES(v))[0];
}

static inline vec v_exp(vec x)
{
    vec v = either(x > PG_EXP_MAX, all(PG_EXP_MAX), x);
    vec t = v * PG_EXP_LOG2E + PG_EXP_MAGIC, k = t - PG_EXP_MAGIC;
    vec r = v - k * PG_EXP_LN2_HI;
    r = r - k * PG_EXP_LN2_LO;
    vec p = PG_EXP_C6 * r + PG_EXP_C5;
    p = p * r + PG_EXP_C4;
    p = p * r + PG_EXP_C3;
    p = p * r + PG_EXP_C2;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    vec factor = (vec)(((ivec)t + 127) << 23);
    return (vec)(~(x < PG_EXP_MIN) & (ivec)(p * factor));
}

#endif
