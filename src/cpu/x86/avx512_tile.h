/* SPDX-License-Identifier: MIT
 * Sixteen rows of a matrix: where they are, how to read the same bytes of all of them, and how to
 * have the bytes of the next sixteen ready in time.
 */
#ifndef PG_CPU_X86_AVX512_TILE_H
#define PG_CPU_X86_AVX512_TILE_H

#include "cpu/x86/avx512_util.h"

struct pg_tile {
    const uint8_t *row[PG_LANES]; /* past the last row: the last again, read but not stored */
    int n_rows;
    size_t row_bytes;
    bool more; /* rows follow */
};

static inline void pg_tile_set(struct pg_tile *t, const struct pg_matmul *m, int row, int row1)
{
    const uint8_t *w = m->w;
    t->row_bytes = pg_type_bytes(m->type, m->x->n);
    t->n_rows = PG_MIN(PG_LANES, row1 - row);
    t->more = row + PG_LANES < row1;
    for (int i = 0; i < PG_LANES; i++)
        t->row[i] = w + (size_t)(row + PG_MIN(i, t->n_rows - 1)) * t->row_bytes;
}

/* Asks for the bytes from `at` on of eight rows, which are those of the next tile where `at` is
 * past the end of the rows. Into the second level: the first has too few requests under way for the
 * latency of memory. Not of all rows at once, since what follows waits until all are accepted. */
PG_INLINE void pg_tile_fetch(const struct pg_tile *t, int half, size_t at, size_t n_bytes)
{
    if (at >= t->row_bytes) {
        if (!t->more)
            return;
        at += (PG_LANES - 1) * t->row_bytes;
    }
    for (int i = half * PG_LANES / 2; i < (half + 1) * PG_LANES / 2; i++)
        for (size_t j = 0; j < n_bytes; j += 64)
            _mm_prefetch((const char *)t->row[i] + at + j, _MM_HINT_T1);
}

/* Lane i of four lanes: the 16 bytes at `at` of row 4 i + k. */
PG_INLINE __m512i pg_tile_four(const struct pg_tile *t, int k, size_t at)
{
    __m512i v = _mm512_castsi128_si512(pg_load_16(t->row[k] + at));
    v = _mm512_mask_broadcast_i32x4(v, 0x00f0, pg_load_16(t->row[4 + k] + at));
    v = _mm512_mask_broadcast_i32x4(v, 0x0f00, pg_load_16(t->row[8 + k] + at));
    return _mm512_mask_broadcast_i32x4(v, 0xf000, pg_load_16(t->row[12 + k] + at));
}

/* c[j] lane r: bytes at + 4 j .. at + 4 j + 3 of row r. */
PG_INLINE void pg_tile_columns(const struct pg_tile *t, size_t at, __m512i c[4])
{
    __m512i v[4];
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++)
        v[k] = pg_tile_four(t, k, at);
    pg_transpose_rows(v, c);
}

#endif
