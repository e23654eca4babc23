/* SPDX-License-Identifier: MIT
 * Sixteen rows of a matrix: where they are, how to read the same bytes of all of them, and how to
 * have the bytes of the next sixteen ready in time.
 */
#ifndef PG_CPU_X86_AVX512_TILE_H
#define PG_CPU_X86_AVX512_TILE_H

#include "cpu/x86/avx512_util.h"

struct pg_tile {
    const uint8_t *row[PG_LANES]; /* past the last row: the last again, read but not stored */
    const char *ahead, *end;      /* bytes that follow this tile and are not asked for yet */
    int n_rows;
};

static inline void pg_tile_set(struct pg_tile *t, const struct pg_matmul *m, int row, int row1)
{
    const uint8_t *w = m->w;
    size_t row_bytes = pg_type_bytes(m->type, m->x->n);
    t->n_rows = PG_MIN(PG_LANES, row1 - row);
    for (int i = 0; i < PG_LANES; i++)
        t->row[i] = w + (size_t)(row + PG_MIN(i, t->n_rows - 1)) * row_bytes;
    t->ahead = (const char *)w + (size_t)(row + t->n_rows) * row_bytes;
    t->end = (const char *)w + (size_t)row1 * row_bytes;
}

/* Called once a step with the bytes of the step, so that the next tile is asked for, as one linear
 * stream, while this one is computed. Into the second level: the first has too few requests under
 * way for the latency of memory. */
PG_INLINE void pg_tile_fetch(struct pg_tile *t, size_t step_bytes)
{
    size_t left = (size_t)(t->end - t->ahead);
    const char *end = t->ahead + PG_MIN(left, step_bytes);
    for (const char *p = t->ahead; p < end; p += 64)
        _mm_prefetch(p, _MM_HINT_T1);
    t->ahead = end;
}

/* Lane i of four lanes: the 16 bytes at `at` of row 4 i + k. */
PG_INLINE __m512i pg_tile_four(const struct pg_tile *t, int k, size_t at)
{
    __m512i v = _mm512_castsi128_si512(pg_load_16(t->row[k] + at));
    v = _mm512_mask_broadcast_i32x4(v, 0x00f0, pg_load_16(t->row[4 + k] + at));
    v = _mm512_mask_broadcast_i32x4(v, 0x0f00, pg_load_16(t->row[8 + k] + at));
    return _mm512_mask_broadcast_i32x4(v, 0xf000, pg_load_16(t->row[12 + k] + at));
}

/* v[k]: lanes of rows 4 i + k. c[j] lane r: dword j of row r. */
PG_INLINE void pg_transpose_rows(const __m512i v[4], __m512i c[4])
{
    __m512i a = _mm512_unpacklo_epi32(v[0], v[1]), b = _mm512_unpackhi_epi32(v[0], v[1]);
    __m512i e = _mm512_unpacklo_epi32(v[2], v[3]), f = _mm512_unpackhi_epi32(v[2], v[3]);
    c[0] = _mm512_unpacklo_epi64(a, e);
    c[1] = _mm512_unpackhi_epi64(a, e);
    c[2] = _mm512_unpacklo_epi64(b, f);
    c[3] = _mm512_unpackhi_epi64(b, f);
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
