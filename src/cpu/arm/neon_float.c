/* SPDX-License-Identifier: MIT
 * NEON: everything whose numbers are floats. The sixteen partial sums are four registers; what is
 * left of a length goes element by element, into the sums that the registers were written to.
 */
#include "cpu/arm/neon.h"

#include <arm_neon.h>
#include <math.h>

struct sums {
    float32x4_t v[4];
};

static inline struct sums no_sums(void)
{
    float32x4_t zero = vdupq_n_f32(0);
    return (struct sums){{zero, zero, zero, zero}};
}

static inline void store(const struct sums *s, float out[16])
{
    for (int i = 0; i < 4; i++)
        vst1q_f32(out + 4 * i, s->v[i]);
}

static float tree(float *s)
{
    for (int step = 8; step > 0; step /= 2)
        for (int j = 0; j < step; j++)
            s[j] += s[j + step];
    return s[0];
}

static inline float32x4_t halves(const uint16_t *p)
{
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
}

static float dot(const float *a, const float *b, int n)
{
    struct sums s = no_sums();
    float part[16];
    int i = 0;
    for (; i + 16 <= n; i += 16)
        for (int k = 0; k < 4; k++)
            s.v[k] = vfmaq_f32(s.v[k], vld1q_f32(a + i + 4 * k), vld1q_f32(b + i + 4 * k));
    store(&s, part);
    for (int k = 0; i + k < n; k++)
        part[k] = fmaf(a[i + k], b[i + k], part[k]);
    return tree(part);
}

static float dot_f16(const uint16_t *a, const float *b, int n)
{
    struct sums s = no_sums();
    float part[16];
    int i = 0;
    for (; i + 16 <= n; i += 16)
        for (int k = 0; k < 4; k++)
            s.v[k] = vfmaq_f32(s.v[k], halves(a + i + 4 * k), vld1q_f32(b + i + 4 * k));
    store(&s, part);
    for (int k = 0; i + k < n; k++)
        part[k] = fmaf(pg_f16_to_f32(a[i + k]), b[i + k], part[k]);
    return tree(part);
}

static void matmul_f32(const struct pg_matmul *m, int row0, int row1)
{
    int n = m->x->n;
    for (int r = row0; r < row1; r++)
        for (int j = 0; j < m->n_tok; j++)
            m->y[(size_t)j * m->y_stride + (size_t)r] =
                dot((const float *)m->w + (size_t)r * (size_t)n, m->x->f32 + pg_token_at(m, j), n);
}

static void matmul_f16(const struct pg_matmul *m, int row0, int row1)
{
    int n = m->x->n;
    for (int r = row0; r < row1; r++)
        for (int j = 0; j < m->n_tok; j++)
            m->y[(size_t)j * m->y_stride + (size_t)r] = dot_f16(
                (const uint16_t *)m->w + (size_t)r * (size_t)n, m->x->f32 + pg_token_at(m, j), n);
}

/* ------------------------------------------------------------------ vectors ----------------- */

static void axpy(float s, const float *x, float *y, int n)
{
    int i = 0;
    for (; i + 4 <= n; i += 4)
        vst1q_f32(y + i, vfmaq_n_f32(vld1q_f32(y + i), vld1q_f32(x + i), s));
    for (; i < n; i++)
        y[i] = fmaf(s, x[i], y[i]);
}

static void axpy_f16(float s, const uint16_t *x, float *y, int n)
{
    int i = 0;
    for (; i + 4 <= n; i += 4)
        vst1q_f32(y + i, vfmaq_n_f32(vld1q_f32(y + i), halves(x + i), s));
    for (; i < n; i++)
        y[i] = fmaf(s, pg_f16_to_f32(x[i]), y[i]);
}

#include "cpu/table_body.h"

static void rms_norm(const float *x, const float *g, float eps, float *y, int n)
{
    float scale = 1.0f / sqrtf(dot(x, x, n) / (float)n + eps);
    int i = 0;
    for (; i + 4 <= n; i += 4)
        vst1q_f32(y + i, vmulq_f32(vmulq_n_f32(vld1q_f32(x + i), scale), vld1q_f32(g + i)));
    for (; i < n; i++)
        y[i] = x[i] * scale * g[i];
}

/* pg_expf of four. */
static inline float32x4_t exp_4(float32x4_t x)
{
    float32x4_t v = vminq_f32(x, vdupq_n_f32(PG_EXP_MAX)); /* a NaN stays */
    float32x4_t magic = vdupq_n_f32(PG_EXP_MAGIC), one = vdupq_n_f32(1.0f);
    float32x4_t t = vfmaq_n_f32(magic, v, PG_EXP_LOG2E), k = vsubq_f32(t, magic);
    float32x4_t r = vfmaq_n_f32(v, k, -PG_EXP_LN2_HI);
    r = vfmaq_n_f32(r, k, -PG_EXP_LN2_LO);
    float32x4_t p = vfmaq_f32(vdupq_n_f32(PG_EXP_C5), vdupq_n_f32(PG_EXP_C6), r);
    p = vfmaq_f32(vdupq_n_f32(PG_EXP_C4), p, r);
    p = vfmaq_f32(vdupq_n_f32(PG_EXP_C3), p, r);
    p = vfmaq_f32(vdupq_n_f32(PG_EXP_C2), p, r);
    p = vfmaq_f32(one, p, r);
    p = vfmaq_f32(one, p, r);
    uint32x4_t bits = vaddq_u32(vreinterpretq_u32_f32(t), vdupq_n_u32(127));
    p = vmulq_f32(p, vreinterpretq_f32_u32(vshlq_n_u32(bits, 23)));
    return vbslq_f32(vcltq_f32(x, vdupq_n_f32(PG_EXP_MIN)), vdupq_n_f32(0), p);
}

static void softmax(float *x, int n)
{
    struct sums s = no_sums();
    float max = -INFINITY, part[16];
    int i = 0;
    for (; i < n; i++)
        max = x[i] > max ? x[i] : max;
    for (i = 0; i + 16 <= n; i += 16)
        for (int k = 0; k < 4; k++) {
            float *at = x + i + 4 * k;
            float32x4_t e = exp_4(vsubq_f32(vld1q_f32(at), vdupq_n_f32(max)));
            vst1q_f32(at, e);
            s.v[k] = vaddq_f32(s.v[k], e);
        }
    store(&s, part);
    for (int k = 0; i + k < n; k++) {
        x[i + k] = pg_expf(x[i + k] - max);
        part[k] += x[i + k];
    }
    float scale = 1.0f / tree(part);
    for (i = 0; i < n; i++)
        x[i] = x[i] * scale;
}

static void silu_mul(const float *gate, const float *up, float *y, int n)
{
    int i = 0;
    for (; i + 4 <= n; i += 4) {
        float32x4_t g = vld1q_f32(gate + i);
        float32x4_t e = vaddq_f32(vdupq_n_f32(1.0f), exp_4(vnegq_f32(g)));
        vst1q_f32(y + i, vmulq_f32(vdivq_f32(g, e), vld1q_f32(up + i)));
    }
    for (; i < n; i++)
        y[i] = gate[i] / (1.0f + pg_expf(-gate[i])) * up[i];
}

static void add(const float *x, float *y, int n)
{
    int i = 0;
    for (; i + 4 <= n; i += 4)
        vst1q_f32(y + i, vaddq_f32(vld1q_f32(y + i), vld1q_f32(x + i)));
    for (; i < n; i++)
        y[i] += x[i];
}

static void to_f16(const float *x, uint16_t *y, int n)
{
    int i = 0;
    for (; i + 4 <= n; i += 4)
        vst1_u16(y + i, vreinterpret_u16_f16(vcvt_f16_f32(vld1q_f32(x + i))));
    for (; i < n; i++)
        y[i] = pg_f32_to_f16(x[i]);
}

/* BF16 matrices and the rounding of activations are left to the reference. */
void pg_neon_fill_float(struct pg_kernels *k)
{
    k->matmul[PG_TYPE_F32] = matmul_f32;
    k->matmul[PG_TYPE_F16] = matmul_f16;
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
