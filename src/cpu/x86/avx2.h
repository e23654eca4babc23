/* SPDX-License-Identifier: MIT
 * What the AVX2 files share. Everything is static inline: each object keeps its own copy, so that
 * no AVX2 copy of a function can be picked by the linker for an older processor.
 *
 * Rows are taken eight at a time, one a 32-bit lane. A group with fewer rows repeats its last row,
 * and the repeated results are not stored.
 */
#ifndef PG_CPU_X86_AVX2_H
#define PG_CPU_X86_AVX2_H

#include "cpu/kernels.h"

#include <immintrin.h>
#include <string.h>

#define PG_INLINE static inline __attribute__((always_inline))

/* The format loops are written out, since the bit positions must be constants. */
#define PG_EACH_8(F) F(0) F(1) F(2) F(3) F(4) F(5) F(6) F(7)

enum { PG_TOKENS = 64 }; /* tokens that share an unpacked panel */

struct pg_rows8 {
    const uint8_t *w[8];
    const uint8_t *next; /* the eight rows that come next, to be prefetched; NULL: none */
    int first, n;
};

struct pg_tokens {
    const int8_t *q[PG_TOKENS];
    const float *d[PG_TOKENS];
    const int16_t *sums[PG_TOKENS];
    float *y[PG_TOKENS];
    int n;
};

void pg_avx2_fill_k(struct pg_kernels *k);
void pg_avx2_fill_32(struct pg_kernels *k);
void pg_avx2_fill_float(struct pg_kernels *k);

PG_INLINE __m256i load(const void *p)
{
    return _mm256_loadu_si256((const __m256i *)p);
}

PG_INLINE __m128i load128(const void *p)
{
    return _mm_loadu_si128((const __m128i *)p);
}

PG_INLINE int32_t load32(const void *p)
{
    int32_t v;
    memcpy(&v, p, sizeof(v));
    return v;
}

PG_INLINE int16_t load16(const void *p)
{
    int16_t v;
    memcpy(&v, p, sizeof(v));
    return v;
}

PG_INLINE __m256i broadcast32(const void *p)
{
    return _mm256_set1_epi32(load32(p));
}

PG_INLINE struct pg_rows8 rows_at(const struct pg_matmul *m, size_t row_bytes, int row, int row1)
{
    struct pg_rows8 r = {.first = row, .n = PG_MIN(row1 - row, 8)};
    const uint8_t *w = (const uint8_t *)m->w + (size_t)row * row_bytes;
    for (int i = 0; i < 8; i++)
        r.w[i] = w + (size_t)PG_MIN(i, r.n - 1) * row_bytes;
    r.next = row + 8 < row1 ? w + 8 * row_bytes : NULL;
    return r;
}

/* Tokens from j on, at most PG_TOKENS. */
PG_INLINE void tokens_at(struct pg_tokens *t, const struct pg_matmul *m, int j, int block)
{
    t->n = PG_MIN(m->n_tok - j, PG_TOKENS);
    for (int i = 0; i < t->n; i++) {
        size_t at = pg_token_at(m, j + i);
        t->q[i] = m->x->q + at;
        t->d[i] = m->x->d + at / (size_t)block;
        t->sums[i] = m->x->sums + at / 16;
        t->y[i] = m->y + (size_t)(j + i) * m->y_stride;
    }
}

/* What the next group's memory holds at the place of this step, in the order of its addresses:
 * memory that is read as eight streams, one a row, gives half as much. */
PG_INLINE void prefetch(const struct pg_rows8 *r, size_t step, size_t bytes)
{
    if (r->next)
        for (size_t i = 0; i < bytes; i += 64)
            _mm_prefetch((const char *)r->next + step * bytes + i, _MM_HINT_T0);
}

/* The first rows of a call, which nothing has asked for: more of them than the first level takes
 * requests for at once. */
PG_INLINE void prefetch_first(const struct pg_rows8 *r, size_t row_bytes)
{
    for (size_t at = 0; at < (size_t)r->n * row_bytes; at += 64)
        _mm_prefetch((const char *)r->w[0] + at, _MM_HINT_T1);
}

PG_INLINE void store_rows(const struct pg_rows8 *r, float *y, __m256 v)
{
    if (r->n == 8) {
        _mm256_storeu_ps(y + r->first, v);
        return;
    }
    __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    _mm256_maskstore_ps(y + r->first, _mm256_cmpgt_epi32(_mm256_set1_epi32(r->n), lane), v);
}

/* Lane i of the result: the sum of the lanes of v[i]. */
PG_INLINE __m256i sum_each(const __m256i v[8])
{
    __m256i a = _mm256_hadd_epi32(_mm256_hadd_epi32(v[0], v[1]), _mm256_hadd_epi32(v[2], v[3]));
    __m256i b = _mm256_hadd_epi32(_mm256_hadd_epi32(v[4], v[5]), _mm256_hadd_epi32(v[6], v[7]));
    return _mm256_add_epi32(_mm256_permute2x128_si256(a, b, 0x20),
                            _mm256_permute2x128_si256(a, b, 0x31));
}

/* 16 bytes of each of eight rows: out[i] has dword i of row r in lane r. */
PG_INLINE void transpose_16(const __m128i row[8], __m256i out[4])
{
    __m256i a0 = _mm256_set_m128i(row[4], row[0]), a1 = _mm256_set_m128i(row[5], row[1]);
    __m256i a2 = _mm256_set_m128i(row[6], row[2]), a3 = _mm256_set_m128i(row[7], row[3]);
    __m256i t0 = _mm256_unpacklo_epi32(a0, a1), t1 = _mm256_unpacklo_epi32(a2, a3);
    __m256i t2 = _mm256_unpackhi_epi32(a0, a1), t3 = _mm256_unpackhi_epi32(a2, a3);
    out[0] = _mm256_unpacklo_epi64(t0, t1);
    out[1] = _mm256_unpackhi_epi64(t0, t1);
    out[2] = _mm256_unpacklo_epi64(t2, t3);
    out[3] = _mm256_unpackhi_epi64(t2, t3);
}

PG_INLINE void store_quad(uint8_t *out, int i, __m256i v)
{
    _mm256_store_si256((__m256i *)(void *)(out + 32 * i), v);
}

/* Four rows: out[i] has dwords i and i + 4, each of rows 0 to 3, in its two halves. */
PG_INLINE void transpose_half(const __m256i row[4], __m256i out[4])
{
    __m256i t0 = _mm256_unpacklo_epi32(row[0], row[1]), t1 = _mm256_unpackhi_epi32(row[0], row[1]);
    __m256i t2 = _mm256_unpacklo_epi32(row[2], row[3]), t3 = _mm256_unpackhi_epi32(row[2], row[3]);
    out[0] = _mm256_unpacklo_epi64(t0, t2);
    out[1] = _mm256_unpackhi_epi64(t0, t2);
    out[2] = _mm256_unpacklo_epi64(t1, t3);
    out[3] = _mm256_unpackhi_epi64(t1, t3);
}

/* 32 bytes of each of eight rows: dword i of row r goes to out + 32 i, lane r. */
PG_INLINE void transpose_32(const __m256i row[8], uint8_t *out)
{
    __m256i a[4], b[4];
    transpose_half(row, a);
    transpose_half(row + 4, b);
#define QUAD(i)                                                                                    \
    store_quad(out, i, _mm256_permute2x128_si256(a[i], b[i], 0x20));                               \
    store_quad(out, i + 4, _mm256_permute2x128_si256(a[i], b[i], 0x31));
    QUAD(0) QUAD(1) QUAD(2) QUAD(3)
#undef QUAD
}

/* The half floats at w[r] + at, as floats in lane r. */
PG_INLINE __m256 halves_at(const struct pg_rows8 *r, size_t at)
{
#define HALF(i) load16(r->w[i] + at)
    return _mm256_cvtph_ps(
        _mm_setr_epi16(HALF(0), HALF(1), HALF(2), HALF(3), HALF(4), HALF(5), HALF(6), HALF(7)));
#undef HALF
}

/* A lane's low half float is d, its high one m. */
PG_INLINE void split_halves(__m256i pairs, __m256 *d, __m256 *m)
{
    __m256i low = _mm256_and_si256(pairs, _mm256_set1_epi32(0xffff));
    __m256i v = _mm256_packus_epi32(low, _mm256_srli_epi32(pairs, 16));
    v = _mm256_permute4x64_epi64(v, 0xd8);
    *d = _mm256_cvtph_ps(_mm256_castsi256_si128(v));
    *m = _mm256_cvtph_ps(_mm256_extracti128_si256(v, 1));
}

/* acc + (scale * dx) * (float)sum and acc - (scale * dx) * (float)sum, nothing fused */
PG_INLINE __m256 add_scaled(__m256 acc, __m256 scale, float dx, __m256i sum)
{
    __m256 s = _mm256_mul_ps(scale, _mm256_set1_ps(dx));
    return _mm256_add_ps(acc, _mm256_mul_ps(s, _mm256_cvtepi32_ps(sum)));
}

PG_INLINE __m256 sub_scaled(__m256 acc, __m256 scale, float dx, __m256i sum)
{
    __m256 s = _mm256_mul_ps(scale, _mm256_set1_ps(dx));
    return _mm256_sub_ps(acc, _mm256_mul_ps(s, _mm256_cvtepi32_ps(sum)));
}

#endif
