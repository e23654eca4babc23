/* SPDX-License-Identifier: MIT
 * Quantised matrices times one token: limited by memory, so what counts is that the weights are
 * read as one stream, and the instructions a byte.
 *
 * A vector holds values of one row, and rows are taken one after the other, in the order of their
 * bytes. The integer sums of a few blocks stay spread over the lanes of a vector, which is put
 * aside. When 16 rows are through (a part of them, where rows are long), transposing additions
 * turn what was put aside into vectors whose lanes are rows, at about three instructions a block,
 * and the float sums run over the blocks in the written order.
 *
 * Offsets of stored values (stored 0 .. 63 means -32 .. 31) are where the integer sums start: minus
 * offset times the activations, the same for all rows.
 */
#ifndef PG_CPU_X86_AVX512_DECODE_H
#define PG_CPU_X86_AVX512_DECODE_H

#include "cpu/x86/avx512.h"
#include "cpu/x86/avx512_util.h"

enum {
    PG_PART_VALUES = 4096, /* of a row that are taken at once */
    PG_PART_STEPS = PG_PART_VALUES / 256,
    PG_FETCH_AHEAD = 8192, /* bytes */
};

/* Activations as the weights of 256 values lie: vector v has 32 of them from 32 place[2 v] and 32
 * from 32 place[2 v + 1]. */
struct pg_step_acts {
    __m512i q[4], start[4];
};

/* The part of a row tile that is being read. */
struct pg_part {
    const uint8_t *w; /* of the first row */
    size_t row_bytes, part_bytes;
    int n_rows, rows_left; /* of the tile, of the call */
    int value0, n_values;
};

static inline void pg_part_set(struct pg_part *p, const struct pg_matmul *m, int row, int row1,
                               int value0)
{
    p->value0 = value0;
    p->n_values = PG_MIN(PG_PART_VALUES, m->x->n - value0);
    p->row_bytes = pg_type_bytes(m->type, m->x->n);
    p->part_bytes = pg_type_bytes(m->type, p->n_values);
    p->rows_left = row1 - row;
    p->n_rows = PG_MIN(PG_LANES, p->rows_left);
    p->w = (const uint8_t *)m->w + (size_t)row * p->row_bytes + pg_type_bytes(m->type, value0);
}

/* Past the last row: the last again, summed but not stored. */
PG_INLINE const uint8_t *pg_part_row(const struct pg_part *p, int r)
{
    return p->w + (size_t)PG_MIN(r, p->n_rows - 1) * p->row_bytes;
}

PG_INLINE void pg_fetch(const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i += 64)
        _mm_prefetch((const char *)p + i, _MM_HINT_T1);
}

/* Rows between what is read and what is asked for. */
static inline int pg_part_ahead(const struct pg_part *p)
{
    return (int)((PG_FETCH_AHEAD + p->part_bytes - 1) / p->part_bytes);
}

/* For the first rows of a call, which nobody has asked for. */
static inline void pg_part_fetch_first(const struct pg_part *p)
{
    int n = PG_MIN(pg_part_ahead(p), p->rows_left);
    for (int r = 0; r < n; r++)
        pg_fetch(p->w + (size_t)r * p->row_bytes, p->part_bytes);
}

PG_INLINE __m512i pg_two_halves(const void *low, const void *high)
{
    __m512i v = _mm512_castsi256_si512(_mm256_loadu_si256(low));
    return _mm512_inserti64x4(v, _mm256_loadu_si256(high), 1);
}

/* n: values that there are from q on; places past them repeat the last 32. */
PG_INLINE void pg_step_acts_load(struct pg_step_acts *a, const int8_t *q, int n,
                                 const uint8_t place[8], int offset)
{
    __m512i zero = _mm512_setzero_si512();
    for (int v = 0; v < 4; v++) {
        int low = PG_MIN(32 * place[2 * v], n - 32), high = PG_MIN(32 * place[2 * v + 1], n - 32);
        a->q[v] = pg_two_halves(q + low, q + high);
        a->start[v] =
            _mm512_sub_epi32(zero, _mm512_dpbusd_epi32(zero, pg_each_byte(offset), a->q[v]));
    }
}

/* Each lane of four lanes apart: lane i of the result is the sums of v[0] .. v[3], lane i. */
PG_INLINE __m512i pg_add_in_lanes(__m512i v0, __m512i v1, __m512i v2, __m512i v3)
{
    __m512i a = _mm512_add_epi32(_mm512_unpacklo_epi32(v0, v1), _mm512_unpackhi_epi32(v0, v1));
    __m512i b = _mm512_add_epi32(_mm512_unpacklo_epi32(v2, v3), _mm512_unpackhi_epi32(v2, v3));
    return _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
}

/* Pairs of lanes of four lanes: a.0 + a.1, a.2 + a.3, the same of b. */
PG_INLINE __m512i pg_add_lanes(__m512i a, __m512i b)
{
    return _mm512_add_epi32(_mm512_shuffle_i32x4(a, b, 0x88), _mm512_shuffle_i32x4(a, b, 0xdd));
}

#endif
