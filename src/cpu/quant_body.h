/* SPDX-License-Identifier: MIT
 * Quantised matrices, a block at a time: it is taken apart once and meets every token, and the
 * result itself is the accumulator. The file that includes this has defined
 *
 *   unpack_block()   takes the block of type t at w apart
 *   dot_int()        S of kernels.h: n products of integers, with their scales
 */
#ifndef PG_CPU_QUANT_BODY_H
#define PG_CPU_QUANT_BODY_H

#include "cpu/kernels.h"

static int32_t dot_min(const struct pg_unpacked *u, const int16_t *sums, int n)
{
    int32_t sum = 0;
    for (int g = 0; g < n / 16; g++)
        sum += u->min[g] * sums[g];
    return sum;
}

/* y[j * y_stride] += block b of a row with block b of each token. */
static void add_block(const struct pg_matmul *m, const struct pg_unpacked *u, int b, float *y)
{
    const struct pg_type_traits *t = pg_type_traits(m->type);
    const struct pg_acts *x = m->x;
    int n = t->block;
    for (int j = 0; j < m->n_tok; j++) {
        size_t at = pg_token_at(m, j) + (size_t)b * (size_t)n;
        float dx = x->d[at / (size_t)n], *acc = y + (size_t)j * m->y_stride;
        float scale = u->d * dx;
        float sum = scale * (float)dot_int(u, x->q + at, n);
        *acc = *acc + sum;
        if (!t->has_min)
            continue;
        scale = u->m * dx;
        sum = scale * (float)dot_min(u, x->sums + at / 16, n);
        *acc = *acc - sum;
    }
}

static void matmul_quant(const struct pg_matmul *m, int row0, int row1)
{
    const struct pg_type_traits *t = pg_type_traits(m->type);
    int n_blocks = m->x->n / t->block;
    size_t row_bytes = pg_type_bytes(m->type, m->x->n);
    struct pg_unpacked u;
    for (int r = row0; r < row1; r++) {
        const uint8_t *w = (const uint8_t *)m->w + (size_t)r * row_bytes;
        for (int j = 0; j < m->n_tok; j++)
            m->y[(size_t)j * m->y_stride + (size_t)r] = 0;
        for (int b = 0; b < n_blocks; b++) {
            unpack_block(m->type, w + (size_t)b * (size_t)t->block_bytes, &u);
            add_block(m, &u, b, m->y + r);
        }
    }
}

#endif
