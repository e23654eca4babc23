/* SPDX-License-Identifier: MIT
 * Vectors of 64 bytes, in the compiler's own vector type, and the ends of rows that do not fill
 * one.
 */
#ifndef PG_NET_ROWS_ROWS_VEC_H
#define PG_NET_ROWS_ROWS_VEC_H

#include "net/rows/real.h"

#include <stdint.h>
#include <string.h>

enum { LANES = 64 / sizeof(pg_real) };

typedef pg_real vec __attribute__((vector_size(64)));
typedef pg_real vec_at __attribute__((vector_size(64), aligned(sizeof(pg_real)), may_alias));

static inline vec load(const pg_real *p)
{
    return *(const vec_at *)p;
}

static inline vec all(pg_real x)
{
    return x - (vec){0};
}

/* The first n of a vector, the rest `other`. */
static inline vec take_or(const pg_real *p, int n, pg_real other)
{
    pg_real part[LANES];
    if (n >= LANES)
        return load(p);
    for (int i = 0; i < LANES; i++)
        part[i] = other;
    memcpy(part, p, (size_t)n * sizeof(pg_real));
    return load(part);
}

static inline vec take(const pg_real *p, int n)
{
    return take_or(p, n, 0);
}

static inline void put(pg_real *p, vec v, int n)
{
    if (n >= LANES)
        *(vec_at *)p = v;
    else
        memcpy(p, &v, (size_t)n * sizeof(pg_real));
}

#endif
