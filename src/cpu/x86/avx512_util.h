/* SPDX-License-Identifier: MIT
 * Pieces that the AVX-512 files share.
 */
#ifndef PG_CPU_X86_AVX512_UTIL_H
#define PG_CPU_X86_AVX512_UTIL_H

#include "cpu/kernels.h"

#include <immintrin.h>
#include <string.h>

#define PG_INLINE static inline __attribute__((always_inline))

enum { PG_LANES = 16 };

/* Four bytes in every lane; as an operand it is folded into the instruction that uses it. */
PG_INLINE __m512i pg_each_i32(const void *p)
{
    int v;
    memcpy(&v, p, sizeof(v));
    return _mm512_set1_epi32(v);
}

PG_INLINE __m128i pg_load_16(const void *p)
{
    return _mm_loadu_si128((const __m128i *)p);
}

PG_INLINE __m512i pg_each_byte(int v)
{
    return _mm512_set1_epi8((char)v);
}

/* (a & mask) | b */
PG_INLINE __m512i pg_masked_or(__m512i a, __m512i mask, __m512i b)
{
    return _mm512_ternarylogic_epi32(a, mask, b, 0xea);
}

/* The first n lanes, n in [0, 16]. */
PG_INLINE __mmask16 pg_first_lanes(int n)
{
    return (__mmask16)((1u << n) - 1);
}

/* v >> n in every lane, v << -n when n is negative. */
PG_INLINE __m512i pg_shift_right(__m512i v, int n)
{
    return n >= 0 ? _mm512_srli_epi32(v, (unsigned)n) : _mm512_slli_epi32(v, (unsigned)-n);
}

/* (d * dx) * (float)sum, the term that an activation block of scale dx adds. */
PG_INLINE __m512 pg_scaled(__m512 d, const float *dx, __m512i sum)
{
    return _mm512_mul_ps(_mm512_mul_ps(d, _mm512_set1_ps(*dx)), _mm512_cvtepi32_ps(sum));
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

/* The half floats in the low 16 bits of each lane. */
PG_INLINE __m512 pg_f16_lanes(__m512i v)
{
    return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(v));
}

#endif
