/* SPDX-License-Identifier: MIT
 * Vectors: rounding of activations, norms, softmax and what else goes over a row of floats.
 * Sixteen values at a time, the last ones under a mask. Sums over rows are those of AVX2.
 */
#include "cpu/x86/avx512.h"
#include "cpu/x86/avx512_util.h"

#include <math.h>

/* Lanes that have a value when i of n are behind us. */
PG_INLINE __mmask16 lanes_at(int i, int n)
{
    return n - i >= PG_LANES ? 0xffff : pg_first_lanes(n - i);
}

/* s[j] += s[j + 8], + 4, + 2, + 1 */
static float tree(__m512 s)
{
    __m256 a = _mm256_add_ps(_mm512_castps512_ps256(s), _mm512_extractf32x8_ps(s, 1));
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}

/* ------------------------------------------------------------------ rounding ---------------- */

/* What a block is multiplied by; *d: what its integers stand for. */
static float block_scale(const float *x, int n, float *d)
{
    __m512i largest = _mm512_setzero_si512(), magnitude = _mm512_set1_epi32(0x7fffffff);
    for (int i = 0; i < n; i += PG_LANES)
        largest = _mm512_max_epu32(largest, _mm512_and_si512(_mm512_loadu_si512(x + i), magnitude));
    uint32_t bits = _mm512_reduce_max_epu32(largest);
    float amax;
    memcpy(&amax, &bits, sizeof(amax));
    return pg_act_scale(amax, n, d);
}

PG_INLINE void act_block(const float *x, int n, int8_t *q, float *d, int16_t *sums)
{
    __m512 scale = _mm512_set1_ps(block_scale(x, n, d)), limit = _mm512_set1_ps(127.0f);
    for (int i = 0; i < n; i += PG_LANES) {
        __m512 v = _mm512_mul_ps(_mm512_loadu_ps(x + i), scale);
        v = _mm512_max_ps(_mm512_min_ps(v, limit), _mm512_set1_ps(-127.0f));
        __m512i k = _mm512_cvtps_epi32(v);
        _mm_storeu_si128((__m128i *)(void *)(q + i), _mm512_cvtepi32_epi8(k));
        sums[i / PG_LANES] = (int16_t)_mm512_reduce_add_epi32(k);
    }
}

#include "cpu/act_body.h"

/* ------------------------------------------------------------------ sums -------------------- */

static float dot(const float *a, const float *b, int n)
{
    __m512 s = _mm512_setzero_ps();
    for (int i = 0; i < n; i += PG_LANES) {
        __mmask16 lanes = lanes_at(i, n);
        s = _mm512_mask3_fmadd_ps(_mm512_maskz_loadu_ps(lanes, a + i),
                                  _mm512_maskz_loadu_ps(lanes, b + i), s, lanes);
    }
    return tree(s);
}

static void axpy(float s, const float *x, float *y, int n)
{
    __m512 v = _mm512_set1_ps(s);
    for (int i = 0; i < n; i += PG_LANES) {
        __mmask16 lanes = lanes_at(i, n);
        _mm512_mask_storeu_ps(y + i, lanes,
                              _mm512_fmadd_ps(v, _mm512_maskz_loadu_ps(lanes, x + i),
                                              _mm512_maskz_loadu_ps(lanes, y + i)));
    }
}

static void axpy_f16(float s, const uint16_t *x, float *y, int n)
{
    __m512 v = _mm512_set1_ps(s);
    for (int i = 0; i < n; i += PG_LANES) {
        __mmask16 lanes = lanes_at(i, n);
        __m512 from = _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lanes, x + i));
        _mm512_mask_storeu_ps(y + i, lanes,
                              _mm512_fmadd_ps(v, from, _mm512_maskz_loadu_ps(lanes, y + i)));
    }
}

static void rms_norm(const float *x, const float *g, float eps, float *y, int n)
{
    __m512 scale = _mm512_set1_ps(1.0f / sqrtf(dot(x, x, n) / (float)n + eps));
    for (int i = 0; i < n; i += PG_LANES) {
        __mmask16 lanes = lanes_at(i, n);
        __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(lanes, x + i), scale);
        _mm512_mask_storeu_ps(y + i, lanes, _mm512_mul_ps(v, _mm512_maskz_loadu_ps(lanes, g + i)));
    }
}

/* ------------------------------------------------------------------ exp --------------------- */

/* pg_expf of every lane. */
PG_INLINE __m512 exp_16(__m512 x)
{
    __m512 magic = _mm512_set1_ps(PG_EXP_MAGIC), one = _mm512_set1_ps(1.0f);
    __m512 v = _mm512_min_ps(_mm512_set1_ps(PG_EXP_MAX), x); /* x if it is NaN */
    __m512 t = _mm512_fmadd_ps(v, _mm512_set1_ps(PG_EXP_LOG2E), magic);
    __m512 k = _mm512_sub_ps(t, magic);
    __m512 r = _mm512_fmadd_ps(k, _mm512_set1_ps(-PG_EXP_LN2_HI), v);
    r = _mm512_fmadd_ps(k, _mm512_set1_ps(-PG_EXP_LN2_LO), r);
    __m512 p = _mm512_set1_ps(PG_EXP_C6);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(PG_EXP_C5));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(PG_EXP_C4));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(PG_EXP_C3));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(PG_EXP_C2));
    p = _mm512_fmadd_ps(p, r, one);
    p = _mm512_fmadd_ps(p, r, one);
    __m512i bits = _mm512_add_epi32(_mm512_castps_si512(t), _mm512_set1_epi32(127));
    __m512 factor = _mm512_castsi512_ps(_mm512_slli_epi32(bits, 23));
    __mmask16 large = _mm512_cmp_ps_mask(x, _mm512_set1_ps(PG_EXP_MIN), _CMP_NLT_UQ);
    return _mm512_maskz_mul_ps(large, p, factor);
}

static void softmax(float *x, int n)
{
    __m512 low = _mm512_set1_ps(-INFINITY), largest = low, s = _mm512_setzero_ps();
    for (int i = 0; i < n; i += PG_LANES) /* of x and what was, what was if x is NaN */
        largest = _mm512_max_ps(_mm512_mask_loadu_ps(low, lanes_at(i, n), x + i), largest);
    __m512 max = _mm512_set1_ps(_mm512_reduce_max_ps(largest));
    for (int i = 0; i < n; i += PG_LANES) {
        __mmask16 lanes = lanes_at(i, n);
        __m512 e = exp_16(_mm512_sub_ps(_mm512_maskz_loadu_ps(lanes, x + i), max));
        _mm512_mask_storeu_ps(x + i, lanes, e);
        s = _mm512_mask_add_ps(s, lanes, s, e);
    }
    __m512 scale = _mm512_set1_ps(1.0f / tree(s));
    for (int i = 0; i < n; i += PG_LANES) {
        __mmask16 lanes = lanes_at(i, n);
        _mm512_mask_storeu_ps(x + i, lanes,
                              _mm512_mul_ps(_mm512_maskz_loadu_ps(lanes, x + i), scale));
    }
}

static void silu_mul(const float *gate, const float *up, float *y, int n)
{
    __m512 one = _mm512_set1_ps(1.0f), sign = _mm512_set1_ps(-0.0f);
    for (int i = 0; i < n; i += PG_LANES) {
        __mmask16 lanes = lanes_at(i, n);
        __m512 g = _mm512_maskz_loadu_ps(lanes, gate + i);
        __m512 v = _mm512_div_ps(g, _mm512_add_ps(one, exp_16(_mm512_xor_ps(g, sign))));
        _mm512_mask_storeu_ps(y + i, lanes, _mm512_mul_ps(v, _mm512_maskz_loadu_ps(lanes, up + i)));
    }
}

/* ------------------------------------------------------------------ the rest ---------------- */

static void add(const float *x, float *y, int n)
{
    for (int i = 0; i < n; i += PG_LANES) {
        __mmask16 lanes = lanes_at(i, n);
        _mm512_mask_storeu_ps(y + i, lanes,
                              _mm512_add_ps(_mm512_maskz_loadu_ps(lanes, y + i),
                                            _mm512_maskz_loadu_ps(lanes, x + i)));
    }
}

static void to_f16(const float *x, uint16_t *y, int n)
{
    for (int i = 0; i < n; i += PG_LANES) {
        __mmask16 lanes = lanes_at(i, n);
        __m256i h = _mm512_cvtps_ph(_mm512_maskz_loadu_ps(lanes, x + i),
                                    _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        _mm256_mask_storeu_epi16(y + i, lanes, h);
    }
}

void pg_avx512_vec_fill(struct pg_kernels *k)
{
    k->act_q8 = act_q8;
    k->act_q8k = act_q8k;
    k->dot = dot;
    k->axpy = axpy;
    k->axpy_f16 = axpy_f16;
    k->rms_norm = rms_norm;
    k->softmax = softmax;
    k->silu_mul = silu_mul;
    k->add = add;
    k->to_f16 = to_f16;
}
