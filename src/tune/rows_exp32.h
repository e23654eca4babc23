/* SPDX-License-Identifier: MIT
 * exp of sixteen floats: the engine's own, see cpu/kernels.h.
 */
#ifndef PG_TUNE_ROWS_EXP32_H
#define PG_TUNE_ROWS_EXP32_H

#include "cpu/kernels.h"
#include "tune/rows_vec.h"

typedef int32_t ivec __attribute__((vector_size(64)));

static inline vec either(ivec mask, vec a, vec b)
{
    return (vec)((mask & (ivec)a) | (~mask & (ivec)b));
}

/* A NaN stays, in b. */
static inline vec larger(vec a, vec b)
{
    return either(a > b, a, b);
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
