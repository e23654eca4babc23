/* SPDX-License-Identifier: MIT
 * What vectors of eight doubles need beside the compiler's operators, for the tests; exp is the C
 * library's.
 */
#ifndef PG_NET_ROWS_ROWS_EXP64_H
#define PG_NET_ROWS_ROWS_EXP64_H

#include "net/rows/rows_vec.h"

#include <math.h>

static inline vec larger(vec a, vec b)
{
    for (int i = 0; i < LANES; i++)
        b[i] = a[i] > b[i] ? a[i] : b[i];
    return b;
}

/* 1 where v is above 0, else 0. */
static inline vec positive(vec v)
{
    for (int i = 0; i < LANES; i++)
        v[i] = v[i] > 0;
    return v;
}

/* Lanes [from, to) of v, in the others `other`. */
static inline vec within(vec v, int from, int to, pg_real other)
{
    for (int i = 0; i < LANES; i++)
        v[i] = i >= from && i < to ? v[i] : other;
    return v;
}

static inline pg_real tree(vec v)
{
    for (int step = LANES / 2; step > 0; step /= 2)
        for (int i = 0; i < step; i++)
            v[i] += v[i + step];
    return v[0];
}

static inline pg_real largest(vec v)
{
    for (int i = 1; i < LANES; i++)
        v[0] = v[i] > v[0] ? v[i] : v[0];
    return v[0];
}

static inline vec v_exp(vec x)
{
    for (int i = 0; i < LANES; i++)
        x[i] = exp(x[i]);
    return x;
}

#endif
