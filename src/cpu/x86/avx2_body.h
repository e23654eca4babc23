/* SPDX-License-Identifier: MIT
 * The way of eight rows through a quantised matrix, for avx2_k.c and avx2_32.c. The file that
 * includes this has defined, for a type t that is a constant,
 *
 *   BLOCK           values of a block
 *   bytes_of(t)     of a block
 *   struct heads    what eight rows' blocks say beside their values, which heads() reads
 *   struct panel    a block of eight rows taken apart, its heads h among it, which unpack() fills
 *   finish()        adds a block to the rows' results: `sum` is that of the products, `sums` the
 *                   activations' sums
 *   dots()          heads of block b of each row, and its products with one token, not yet summed
 *                   across lanes
 *   TILE, tile()    tokens that meet a panel together, and their sums with it
 */
#ifndef PG_CPU_X86_AVX2_BODY_H
#define PG_CPU_X86_AVX2_BODY_H

#include "cpu/x86/avx2.h"

PG_INLINE void decode(enum pg_type t, const struct pg_rows8 *r, const struct pg_tokens *x,
                      int n_blocks)
{
    struct heads h;
    __m256 acc = _mm256_setzero_ps();
    for (int b = 0; b < n_blocks; b++) {
        __m256i v[8];
        dots(t, &h, r, b, x->q[0] + b * BLOCK, v);
        acc = finish(t, &h, acc, x->d[0][b], sum_each(v), x->sums[0] + b * (BLOCK / 16));
    }
    store_rows(r, x->y[0], acc);
}

/* All tokens against a panel; tokens beyond the last repeat it and are dropped. */
PG_INLINE void multiply(enum pg_type t, const struct panel *p, const struct pg_tokens *x, int b,
                        __m256 *acc)
{
    for (int j = 0; j < x->n; j += TILE) {
        const int8_t *q[TILE];
        __m256i sum[TILE];
        int n = PG_MIN(x->n - j, TILE);
        for (int i = 0; i < TILE; i++)
            q[i] = x->q[j + PG_MIN(i, n - 1)] + b * BLOCK;
        tile(t, p, q, sum);
        for (int i = 0; i < n; i++)
            acc[j + i] = finish(t, &p->h, acc[j + i], x->d[j + i][b], sum[i],
                                x->sums[j + i] + b * (BLOCK / 16));
    }
}

PG_INLINE void prefill(enum pg_type t, const struct pg_rows8 *r, const struct pg_tokens *x,
                       int n_blocks)
{
    struct panel p;
    __m256 acc[PG_TOKENS];
    for (int j = 0; j < x->n; j++)
        acc[j] = _mm256_setzero_ps();
    for (int b = 0; b < n_blocks; b++) {
        unpack(t, &p, r, (size_t)b * bytes_of(t));
        multiply(t, &p, x, b, acc);
    }
    for (int j = 0; j < x->n; j++)
        store_rows(r, x->y[j], acc[j]);
}

PG_INLINE void matmul(enum pg_type t, const struct pg_matmul *m, int row0, int row1)
{
    int n_blocks = m->x->n / BLOCK;
    size_t row_bytes = (size_t)n_blocks * bytes_of(t);
    struct pg_tokens x;
    for (int j = 0; j < m->n_tok; j += PG_TOKENS) {
        tokens_at(&x, m, j, BLOCK);
        for (int row = row0; row < row1; row += 8) {
            struct pg_rows8 r = rows_at(m, row_bytes, row, row1);
            if (x.n == 1 && row == row0)
                prefetch_first(&r, row_bytes);
            if (x.n == 1)
                decode(t, &r, &x, n_blocks);
            else
                prefill(t, &r, &x, n_blocks);
        }
    }
}

/* One function a type, since its numbers must be constants. */
#define MATMUL(NAME)                                                                               \
    static void matmul_##NAME(const struct pg_matmul *m, int row0, int row1)                       \
    {                                                                                              \
        matmul(PG_TYPE_##NAME, m, row0, row1);                                                     \
    }

#endif
