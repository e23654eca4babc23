/* SPDX-License-Identifier: MIT
 * AVX2: everything whose numbers are floats. The sixteen partial sums are two registers.
 */
#include "cpu/x86/avx2.h"

#include <math.h>

struct sums {
    __m256 lo, hi; /* partial sums 0 to 7, 8 to 15 */
};

PG_INLINE struct sums no_sums(void)
{
    return (struct sums){_mm256_setzero_ps(), _mm256_setzero_ps()};
}

/* The tree: + 8, + 4, + 2, + 1. */
PG_INLINE float tree(struct sums s)
{
    __m256 v8 = _mm256_add_ps(s.lo, s.hi);
    __m128 v4 = _mm_add_ps(_mm256_castps256_ps128(v8), _mm256_extractf128_ps(v8, 1));
    __m128 v2 = _mm_add_ps(v4, _mm_movehl_ps(v4, v4));
    return _mm_cvtss_f32(_mm_add_ss(v2, _mm_movehdup_ps(v2)));
}

/* Lanes i for which first + i < n. */
PG_INLINE __m256i lanes_below(int first, int n)
{
    __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n - first), lane);
}

PG_INLINE __m256 kept(__m256 old, __m256 new, __m256i lanes)
{
    return _mm256_blendv_ps(old, new, _mm256_castsi256_ps(lanes));
}

/* Eight elements of a float format, as floats. */
PG_INLINE __m256 eight(enum pg_type t, const void *p)
{
    if (t == PG_TYPE_F16)
        return _mm256_cvtph_ps(load128(p));
    if (t == PG_TYPE_BF16)
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load128(p)), 16));
    return _mm256_loadu_ps(p);
}

PG_INLINE size_t size_of(enum pg_type t)
{
    return t == PG_TYPE_F32 ? 4 : 2;
}

PG_INLINE const void *element(enum pg_type t, const void *p, int i)
{
    return (const uint8_t *)p + (size_t)i * size_of(t);
}

PG_INLINE struct sums step(enum pg_type t, struct sums s, const void *w, const float *x)
{
    s.lo = _mm256_fmadd_ps(eight(t, w), _mm256_loadu_ps(x), s.lo);
    s.hi = _mm256_fmadd_ps(eight(t, element(t, w, 8)), _mm256_loadu_ps(x + 8), s.hi);
    return s;
}

/* The last n % 16 elements; sums without an element stay as they are, down to the sign of zero. */
PG_INLINE struct sums last(enum pg_type t, struct sums s, const void *w, const float *x, int n)
{
    float wide[16] = {0}, other[16] = {0};
    int i = n & ~15;
    if (i == n)
        return s;
    memcpy(wide, element(t, w, i), (size_t)(n - i) * size_of(t));
    memcpy(other, x + i, (size_t)(n - i) * sizeof(*x));
    struct sums v = step(t, s, wide, other);
    s.lo = kept(s.lo, v.lo, lanes_below(0, n - i));
    s.hi = kept(s.hi, v.hi, lanes_below(8, n - i));
    return s;
}

PG_INLINE float dot_any(enum pg_type t, const void *w, const float *x, int n)
{
    struct sums s = no_sums();
    for (int i = 0; i + 16 <= n; i += 16)
        s = step(t, s, element(t, w, i), x + i);
    return tree(last(t, s, w, x, n));
}

/* ------------------------------------------------------------------ matrices ---------------- */

/* Four rows with one token: eight chains of additions hide each other's latency. */
PG_INLINE void rows_4(enum pg_type t, const uint8_t *const w[4], const float *x, int n, float y[4])
{
    struct sums a = no_sums(), b = a, c = a, d = a;
    for (int i = 0; i + 16 <= n; i += 16) {
        a = step(t, a, element(t, w[0], i), x + i);
        b = step(t, b, element(t, w[1], i), x + i);
        c = step(t, c, element(t, w[2], i), x + i);
        d = step(t, d, element(t, w[3], i), x + i);
    }
    y[0] = tree(last(t, a, w[0], x, n));
    y[1] = tree(last(t, b, w[1], x, n));
    y[2] = tree(last(t, c, w[2], x, n));
    y[3] = tree(last(t, d, w[3], x, n));
}

/* Two rows with two tokens: each load serves twice. */
PG_INLINE void rows_2x2(enum pg_type t, const uint8_t *const w[2], const float *const x[2], int n,
                        float y[4])
{
    struct sums a = no_sums(), b = a, c = a, d = a;
    for (int i = 0; i + 16 <= n; i += 16) {
        const void *w0 = element(t, w[0], i), *w1 = element(t, w[1], i);
        a = step(t, a, w0, x[0] + i);
        b = step(t, b, w1, x[0] + i);
        c = step(t, c, w0, x[1] + i);
        d = step(t, d, w1, x[1] + i);
    }
    y[0] = tree(last(t, a, w[0], x[0], n));
    y[1] = tree(last(t, b, w[1], x[0], n));
    y[2] = tree(last(t, c, w[0], x[1], n));
    y[3] = tree(last(t, d, w[1], x[1], n));
}

/* Rows r to r + 3 for every token; rows from row1 on repeat the last and are dropped. */
PG_INLINE void rows(enum pg_type t, const struct pg_matmul *m, int r, int row1)
{
    int n = m->x->n, n_rows = PG_MIN(row1 - r, 4), j = 0;
    const uint8_t *w[4];
    float v[4];
    for (int i = 0; i < 4; i++)
        w[i] = (const uint8_t *)m->w + (size_t)(r + PG_MIN(i, n_rows - 1)) * (size_t)n * size_of(t);
    for (; j + 2 <= m->n_tok; j += 2) {
        const float *x[2] = {m->x->f32 + pg_token_at(m, j), m->x->f32 + pg_token_at(m, j + 1)};
        float *y = m->y + (size_t)j * m->y_stride + r;
        for (int i = 0; i < n_rows; i += 2) {
            rows_2x2(t, w + i, x, n, v);
            size_t bytes = (size_t)PG_MIN(n_rows - i, 2) * sizeof(*v);
            memcpy(y + i, v, bytes);
            memcpy(y + m->y_stride + i, v + 2, bytes);
        }
    }
    if (j < m->n_tok) {
        rows_4(t, w, m->x->f32 + pg_token_at(m, j), n, v);
        memcpy(m->y + (size_t)j * m->y_stride + r, v, (size_t)n_rows * sizeof(*v));
    }
}

#define PG_FLOAT_MAP(X) X(F32) X(F16) X(BF16)

#define X(NAME)                                                                                    \
    static void matmul_##NAME(const struct pg_matmul *m, int row0, int row1)                       \
    {                                                                                              \
        for (int r = row0; r < row1; r += 4)                                                       \
            rows(PG_TYPE_##NAME, m, r, row1);                                                      \
    }
PG_FLOAT_MAP(X)
#undef X

/* ------------------------------------------------------------------ activations ------------- */

PG_INLINE __m256i larger(__m256i largest, __m256 x)
{
    __m256i bits = _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0x7fffffff));
    return _mm256_max_epi32(largest, bits);
}

PG_INLINE float across_max(__m256i v)
{
    __m128i m = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1));
    return _mm_cvtss_f32(_mm_castsi128_ps(m));
}

/* An operand order that gives the second one for a NaN: 127 above, then nothing below. */
PG_INLINE __m256i rounded(const float *x, __m256 scale)
{
    __m256 v = _mm256_mul_ps(_mm256_loadu_ps(x), scale);
    v = _mm256_min_ps(v, _mm256_set1_ps(127.0f));
    v = _mm256_max_ps(v, _mm256_set1_ps(-127.0f));
    return _mm256_cvtps_epi32(v);
}

PG_INLINE void round_32(const float *x, __m256 scale, int8_t *q, int16_t *sums)
{
    __m256i a = rounded(x, scale), b = rounded(x + 8, scale);
    __m256i c = rounded(x + 16, scale), d = rounded(x + 24, scale);
    __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
    __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    _mm256_storeu_si256((__m256i *)(void *)q, _mm256_permutevar8x32_epi32(bytes, order));
    __m256i s = _mm256_hadd_epi32(_mm256_add_epi32(a, b), _mm256_add_epi32(c, d));
    s = _mm256_hadd_epi32(s, s);
    __m128i both = _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));
    sums[0] = (int16_t)_mm_cvtsi128_si32(both);
    sums[1] = (int16_t)_mm_extract_epi32(both, 1);
}

PG_INLINE void act_block(const float *x, int n, int8_t *q, float *d, int16_t *sums)
{
    __m256i largest = _mm256_setzero_si256();
    for (int i = 0; i < n; i += 8)
        largest = larger(largest, _mm256_loadu_ps(x + i));
    float scale = pg_act_scale(across_max(largest), n, d);
    for (int i = 0; i < n; i += 32)
        round_32(x + i, _mm256_set1_ps(scale), q + i, sums + i / 16);
}

#include "cpu/act_body.h"

/* ------------------------------------------------------------------ vectors ----------------- */

static float dot(const float *a, const float *b, int n)
{
    return dot_any(PG_TYPE_F32, a, b, n);
}

/* tree but for its last two additions. */
PG_INLINE __m128 half_tree(struct sums s)
{
    __m256 v8 = _mm256_add_ps(s.lo, s.hi);
    return _mm_add_ps(_mm256_castps256_ps128(v8), _mm256_extractf128_ps(v8, 1));
}

/* The trees of four sums, side by side. */
PG_INLINE __m128 trees(struct sums a, struct sums b, struct sums c, struct sums d)
{
    __m128 a4 = half_tree(a), b4 = half_tree(b), c4 = half_tree(c), d4 = half_tree(d);
    __m128 ab = _mm_add_ps(_mm_unpacklo_ps(a4, b4), _mm_unpackhi_ps(a4, b4));
    __m128 cd = _mm_add_ps(_mm_unpacklo_ps(c4, d4), _mm_unpackhi_ps(c4, d4));
    return _mm_add_ps(_mm_movelh_ps(ab, cd), _mm_movehl_ps(cd, ab));
}

/* The dots of four rows that lie n values apart. */
PG_INLINE __m128 dots_4(enum pg_type t, const void *w, const float *q, int n)
{
    const void *w1 = element(t, w, n), *w2 = element(t, w1, n), *w3 = element(t, w2, n);
    struct sums a = no_sums(), b = a, c = a, d = a;
    for (int i = 0; i + 16 <= n; i += 16) {
        a = step(t, a, element(t, w, i), q + i);
        b = step(t, b, element(t, w1, i), q + i);
        c = step(t, c, element(t, w2, i), q + i);
        d = step(t, d, element(t, w3, i), q + i);
    }
    return trees(last(t, a, w, q, n), last(t, b, w1, q, n), last(t, c, w2, q, n),
                 last(t, d, w3, q, n));
}

PG_INLINE void dots_any(enum pg_type t, const struct pg_table *rows, const float *q, float scale,
                        float *y)
{
    const uint8_t *row = rows->x;
    const size_t bytes = (size_t)rows->n * size_of(t);
    int j = 0;
    for (; j + 4 <= rows->n_row; j += 4, row += 4 * bytes)
        _mm_storeu_ps(y + j, _mm_mul_ps(dots_4(t, row, q, rows->n), _mm_set1_ps(scale)));
    for (; j < rows->n_row; j++, row += bytes)
        y[j] = dot_any(t, row, q, rows->n) * scale;
}

static void dots(const struct pg_table *rows, const float *q, float scale, float *y)
{
    dots_any(PG_TYPE_F32, rows, q, scale, y);
}

static void dots_f16(const struct pg_table *rows, const float *q, float scale, float *y)
{
    dots_any(PG_TYPE_F16, rows, q, scale, y);
}

static void axpy(float s, const float *x, float *y, int n)
{
    int i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i, _mm256_fmadd_ps(_mm256_set1_ps(s), _mm256_loadu_ps(x + i),
                                                _mm256_loadu_ps(y + i)));
    for (; i < n; i++)
        y[i] = fmaf(s, x[i], y[i]);
}

static void axpy_f16(float s, const uint16_t *x, float *y, int n)
{
    int i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i, _mm256_fmadd_ps(_mm256_set1_ps(s), eight(PG_TYPE_F16, x + i),
                                                _mm256_loadu_ps(y + i)));
    for (; i < n; i++)
        y[i] = fmaf(s, pg_f16_to_f32(x[i]), y[i]);
}

/* Elements [i, i + 32) of y, which stay in registers over all rows. */
PG_INLINE void axpys_32(enum pg_type t, const struct pg_table *rows, const float *s, float *y,
                        int i)
{
    const uint8_t *x = element(t, rows->x, i);
    __m256 a = _mm256_loadu_ps(y + i), b = _mm256_loadu_ps(y + i + 8);
    __m256 c = _mm256_loadu_ps(y + i + 16), d = _mm256_loadu_ps(y + i + 24);
    for (int j = 0; j < rows->n_row; j++, x += (size_t)rows->n * size_of(t)) {
        __m256 v = _mm256_set1_ps(s[j]);
        a = _mm256_fmadd_ps(v, eight(t, x), a);
        b = _mm256_fmadd_ps(v, eight(t, element(t, x, 8)), b);
        c = _mm256_fmadd_ps(v, eight(t, element(t, x, 16)), c);
        d = _mm256_fmadd_ps(v, eight(t, element(t, x, 24)), d);
    }
    _mm256_storeu_ps(y + i, a);
    _mm256_storeu_ps(y + i + 8, b);
    _mm256_storeu_ps(y + i + 16, c);
    _mm256_storeu_ps(y + i + 24, d);
}

PG_INLINE void axpys_8(enum pg_type t, const struct pg_table *rows, const float *s, float *y, int i)
{
    const uint8_t *x = element(t, rows->x, i);
    __m256 v = _mm256_loadu_ps(y + i);
    for (int j = 0; j < rows->n_row; j++, x += (size_t)rows->n * size_of(t))
        v = _mm256_fmadd_ps(_mm256_set1_ps(s[j]), eight(t, x), v);
    _mm256_storeu_ps(y + i, v);
}

/* All but the last elements that are no eight; how many that were. */
PG_INLINE int axpys_any(enum pg_type t, const struct pg_table *rows, const float *s, float *y)
{
    int i = 0;
    for (; i + 32 <= rows->n; i += 32)
        axpys_32(t, rows, s, y, i);
    for (; i + 8 <= rows->n; i += 8)
        axpys_8(t, rows, s, y, i);
    return i;
}

static void axpys(const struct pg_table *rows, const float *s, float *y)
{
    const int done = axpys_any(PG_TYPE_F32, rows, s, y);
    for (int j = 0; j < rows->n_row && done < rows->n; j++)
        axpy(s[j], (const float *)rows->x + (size_t)j * (size_t)rows->n + done, y + done,
             rows->n - done);
}

static void axpys_f16(const struct pg_table *rows, const float *s, float *y)
{
    const int done = axpys_any(PG_TYPE_F16, rows, s, y);
    for (int j = 0; j < rows->n_row && done < rows->n; j++)
        axpy_f16(s[j], (const uint16_t *)rows->x + (size_t)j * (size_t)rows->n + done, y + done,
                 rows->n - done);
}

static void rms_norm(const float *x, const float *g, float eps, float *y, int n)
{
    float scale = 1.0f / sqrtf(dot(x, x, n) / (float)n + eps);
    int i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256 v = _mm256_mul_ps(_mm256_loadu_ps(x + i), _mm256_set1_ps(scale));
        _mm256_storeu_ps(y + i, _mm256_mul_ps(v, _mm256_loadu_ps(g + i)));
    }
    for (; i < n; i++)
        y[i] = x[i] * scale * g[i];
}

/* pg_expf of eight. */
PG_INLINE __m256 exp_8(__m256 x)
{
    __m256 v = _mm256_min_ps(_mm256_set1_ps(PG_EXP_MAX), x); /* this order keeps a NaN */
    __m256 magic = _mm256_set1_ps(PG_EXP_MAGIC), one = _mm256_set1_ps(1.0f);
    __m256 t = _mm256_fmadd_ps(v, _mm256_set1_ps(PG_EXP_LOG2E), magic);
    __m256 k = _mm256_sub_ps(t, magic);
    __m256 r = _mm256_fmadd_ps(k, _mm256_set1_ps(-PG_EXP_LN2_HI), v);
    r = _mm256_fmadd_ps(k, _mm256_set1_ps(-PG_EXP_LN2_LO), r);
    __m256 p = _mm256_fmadd_ps(_mm256_set1_ps(PG_EXP_C6), r, _mm256_set1_ps(PG_EXP_C5));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(PG_EXP_C4));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(PG_EXP_C3));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(PG_EXP_C2));
    p = _mm256_fmadd_ps(p, r, one);
    p = _mm256_fmadd_ps(p, r, one);
    __m256i bits = _mm256_add_epi32(_mm256_castps_si256(t), _mm256_set1_epi32(127));
    p = _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(bits, 23)));
    return _mm256_andnot_ps(_mm256_cmp_ps(x, _mm256_set1_ps(PG_EXP_MIN), _CMP_LT_OQ), p);
}

PG_INLINE float max_of(const float *x, int n)
{
    __m256 m = _mm256_set1_ps(-INFINITY);
    float v[8], max = -INFINITY;
    int i = 0;
    for (; i + 8 <= n; i += 8)
        m = _mm256_max_ps(_mm256_loadu_ps(x + i), m); /* a NaN in x gives m */
    _mm256_storeu_ps(v, m);
    for (int j = 0; j < 8; j++)
        max = v[j] > max ? v[j] : max;
    for (; i < n; i++)
        max = x[i] > max ? x[i] : max;
    return max;
}

/* exp(x - max) in place for elements i to i + 7, those below n; others count as 0. */
PG_INLINE __m256 exp_at(float *x, __m256 max, int i, int n)
{
    __m256i lanes = lanes_below(i, n);
    __m256 e = exp_8(_mm256_sub_ps(_mm256_maskload_ps(x + i, lanes), max));
    _mm256_maskstore_ps(x + i, lanes, e);
    return _mm256_and_ps(e, _mm256_castsi256_ps(lanes));
}

static void softmax(float *x, int n)
{
    __m256 max = _mm256_set1_ps(max_of(x, n));
    struct sums s = no_sums();
    int i = 0;
    for (; i + 16 <= n; i += 16) {
        s.lo = _mm256_add_ps(s.lo, exp_at(x, max, i, n));
        s.hi = _mm256_add_ps(s.hi, exp_at(x, max, i + 8, n));
    }
    if (i < n)
        s.lo = _mm256_add_ps(s.lo, exp_at(x, max, i, n));
    if (i + 8 < n)
        s.hi = _mm256_add_ps(s.hi, exp_at(x, max, i + 8, n));
    float scale = 1.0f / tree(s);
    for (i = 0; i + 8 <= n; i += 8)
        _mm256_storeu_ps(x + i, _mm256_mul_ps(_mm256_loadu_ps(x + i), _mm256_set1_ps(scale)));
    for (; i < n; i++)
        x[i] = x[i] * scale;
}

static void silu_mul(const float *gate, const float *up, float *y, int n)
{
    __m256 one = _mm256_set1_ps(1.0f), sign = _mm256_set1_ps(-0.0f);
    for (int i = 0; i < n; i += 8) {
        __m256i lanes = lanes_below(i, n);
        __m256 g = _mm256_maskload_ps(gate + i, lanes);
        __m256 e = _mm256_add_ps(one, exp_8(_mm256_xor_ps(g, sign)));
        __m256 v = _mm256_mul_ps(_mm256_div_ps(g, e), _mm256_maskload_ps(up + i, lanes));
        _mm256_maskstore_ps(y + i, lanes, v);
    }
}

static void add(const float *x, float *y, int n)
{
    int i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i, _mm256_add_ps(_mm256_loadu_ps(y + i), _mm256_loadu_ps(x + i)));
    for (; i < n; i++)
        y[i] += x[i];
}

static void to_f16(const float *x, uint16_t *y, int n)
{
    int i = 0;
    for (; i + 8 <= n; i += 8)
        _mm_storeu_si128((__m128i *)(void *)(y + i),
                         _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT));
    for (; i < n; i++)
        y[i] = pg_f32_to_f16(x[i]);
}

void pg_avx2_fill_float(struct pg_kernels *k)
{
#define X(NAME) k->matmul[PG_TYPE_##NAME] = matmul_##NAME;
    PG_FLOAT_MAP(X)
#undef X
    k->act_q8 = act_q8;
    k->act_q8k = act_q8k;
    k->dot = dot;
    k->dots = dots;
    k->dots_f16 = dots_f16;
    k->axpys = axpys;
    k->axpys_f16 = axpys_f16;
    k->axpy = axpy;
    k->axpy_f16 = axpy_f16;
    k->rms_norm = rms_norm;
    k->softmax = softmax;
    k->silu_mul = silu_mul;
    k->add = add;
    k->to_f16 = to_f16;
}
