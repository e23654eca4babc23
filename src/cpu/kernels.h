/* SPDX-License-Identifier: MIT
 * The arithmetic: one table of function pointers, filled by the plain C reference (ref.c) and
 * overridden upward by the files under x86/ and arm/, chosen at run time.
 *
 * Every level gives the same bits. That is possible because each sum has one written order:
 *
 *   quantised dot   with struct pg_unpacked of a weight block, and q, d of the activation block:
 *                       S = sum of scale[i / 16] * w.q[i] * x.q[i]     exact, int32
 *                       M = sum of min[i / 16] * x.q[i]                exact, int32
 *                       acc = acc + (w.d * x.d) * (float)S
 *                       acc = acc - (w.m * x.d) * (float)M             only formats with a minimum
 *                   from acc = 0, blocks in order; each product, conversion and sum rounded by
 *                   itself, nothing fused. An exact integer may be summed in any order, so any
 *                   tiling is allowed. acc is never -0, so that  acc + (w.m * x.d) * (float)-M
 *                   is the same.
 *   float dot       sixteen partial sums, element i goes to sum i % 16 by fused multiply-add in
 *                   order of i (a tail of n % 16 elements adds to the first n % 16 sums only);
 *                   then the tree  s[j] += s[j + 8] for j < 8, s[j + 4] for j < 4, + 2, + 1.
 *   plain sum       the same sums and tree with an addition in place of the fused operation.
 *   elementwise     as written in ref.c; exp is ours (pg_expf), a polynomial with a written order.
 *
 * Numbers that are not finite give the same infinities and NaNs at every level, but which NaN (sign
 * and payload) is not promised. The n of the float slots is any number, 0 too.
 *
 * Because a result element depends on its own row and its own token only, batch size, tiling and
 * thread count do not change it either.
 */
#ifndef PG_CPU_KERNELS_H
#define PG_CPU_KERNELS_H

#include "quant/quant.h"

#include <string.h>

/* Rows of activations, rounded for the format they will meet. Row t of kind
 *   F32: f32 + t * n          Q8, Q8K: q + t * n, d + t * (n / block), sums + t * (n / 16)
 * `sums` are the sums of each 16 values of q, for formats whose values have an offset or minimum.
 */
struct pg_acts {
    enum pg_act kind;
    int n; /* values a row, a multiple of the block of every format that reads it */
    const float *f32;
    int8_t *q; /* 64-byte aligned rows when n is a multiple of 64 */
    float *d;
    int16_t *sums;
};

/* y[j * y_stride + r] = dot(row r of w, activation row x_row[j]), for j in [0, n_tok) and
 * r in [row0, row1). */
struct pg_matmul {
    const void *w; /* [n_out, n] in `type`; rows follow each other without a gap */
    enum pg_type type;
    const struct pg_acts *x;
    const int32_t *x_row; /* [n_tok]; NULL: row j */
    int n_tok;
    float *y;
    size_t y_stride; /* floats between tokens */
};

/* Where the first activation of token j lies. */
static inline size_t pg_token_at(const struct pg_matmul *m, int j)
{
    return (size_t)(m->x_row ? m->x_row[j] : j) * (size_t)m->x->n;
}

/* n_row rows of n values each, behind each other: floats or halves. */
struct pg_table {
    const void *x;
    int n_row, n;
};

struct pg_kernels {
    const char *name; /* "ref", "avx2", "avx512", "neon" */

    /* One slot a format. Any row range, any n_tok >= 1: matrix-vector and matrix-matrix. */
    void (*matmul[PG_TYPE_LIMIT])(const struct pg_matmul *m, int row0, int row1);
    int row_tile; /* a good multiple for row ranges handed to threads */

    /* Round n values (a multiple of 32, of 256). For each block, with amax the largest |x|:
     *     v = x * (127 / amax), q = v rounded half to even, d as pg_act_scale below says,
     * with v above 127 or NaN made 127, then v below -127 made -127. amax compares the bits of |x|
     * as integers, so a NaN in the block makes d NaN. sums[i] is the sum of q[16 i .. 16 i + 15].
     */
    void (*act_q8)(const float *x, int n, int8_t *q, float *d, int16_t *sums);
    void (*act_q8k)(const float *x, int n, int8_t *q, float *d, int16_t *sums);

    float (*dot)(const float *a, const float *b, int n);
    /* y[j] = dot(row j, q) * scale */
    void (*dots)(const struct pg_table *rows, const float *q, float scale, float *y);
    void (*dots_f16)(const struct pg_table *rows, const float *q, float scale, float *y);
    /* y = fma(s[j], row j, y), for each j in order */
    void (*axpys)(const struct pg_table *rows, const float *s, float *y);
    void (*axpys_f16)(const struct pg_table *rows, const float *s, float *y);
    /* y = fma(s, x, y) */
    void (*axpy)(float s, const float *x, float *y, int n);
    void (*axpy_f16)(float s, const uint16_t *x, float *y, int n);
    /* y = (x * s) * g, s = 1 / sqrtf(sum / n + eps), sum of x * x as a float dot of x with x */
    void (*rms_norm)(const float *x, const float *g, float eps, float *y, int n);
    /* x = e * (1 / sum), e = exp(x - max), sum: plain sum of e; all NaN if an x is NaN or +inf. */
    void (*softmax)(float *x, int n);
    /* y = gate / (1 + exp(-gate)) * up */
    void (*silu_mul)(const float *gate, const float *up, float *y, int n);
    void (*add)(const float *x, float *y, int n); /* y += x */
    void (*to_f16)(const float *x, uint16_t *y, int n);
};

/* Fills *k for the highest level present that is not above `level` (AUTO: the highest).
 * PG_ENOTSUP when `level` is not present on this machine. */
int pg_kernels_init(struct pg_kernels *k, enum pg_cpu_level level, struct pg_err *err);
/* Levels present, as a bit mask of 1u << enum pg_cpu_level. */
unsigned pg_kernels_present(void);

/* Each fills the slots it has. A level above the reference is called when it is present only. */
void pg_kernels_ref(struct pg_kernels *k);
void pg_kernels_avx2(struct pg_kernels *k);
void pg_kernels_avx512(struct pg_kernels *k);
void pg_kernels_neon(struct pg_kernels *k);

/* The exp of every level, within 1.5 units in the last place. Written order, with x the argument:
 *     t = fma(x', PG_EXP_LOG2E, PG_EXP_MAGIC), k = t - PG_EXP_MAGIC    x' = min(x, PG_EXP_MAX)
 *     r = fma(k, -PG_EXP_LN2_HI, x'), then r = fma(k, -PG_EXP_LN2_LO, r)
 *     p = PG_EXP_C6, then p = fma(p, r, c) for c = C5, C4, C3, C2, 1, 1
 *     result p * 2^k, its factor made of the low bits of t; 0 where x < PG_EXP_MIN; NaN stays. */
float pg_expf(float x);
#define PG_EXP_MAX    88.376259f  /* largest x whose k is 127; more counts as this */
#define PG_EXP_MIN    -87.336540f /* below, the result would be subnormal */
#define PG_EXP_LOG2E  0x1.715476p+0f
#define PG_EXP_MAGIC  0x1.8p+23f /* adding it rounds to an integer, which its low bits then hold */
#define PG_EXP_LN2_HI 0x1.63p-1f
#define PG_EXP_LN2_LO -0x1.bd0106p-13f
#define PG_EXP_C6     0x1.6a2318p-10f
#define PG_EXP_C5     0x1.123a8ep-7f
#define PG_EXP_C4     0x1.5558f6p-5f
#define PG_EXP_C3     0x1.555490p-3f
#define PG_EXP_C2     0x1.fffffcp-2f

/* Neither NaN nor infinity: such have all bits of the exponent, and one more in its lowest place
 * carries into the sign. Blocks are for the compiler, which makes vectors of them. */
static inline bool pg_all_finite(const float *x, size_t n)
{
    uint32_t u[16] = {0}, bad = 0;
    for (size_t i = 0; i < n; i += 16) {
        memcpy(u, x + i, PG_MIN(n - i, (size_t)16) * sizeof(float));
        for (int j = 0; j < 16; j++)
            bad |= (u[j] & 0x7f800000u) + 0x00800000u;
    }
    return bad >> 31 == 0;
}

/* What a processor family brings; one of levels_x86.c, levels_arm.c, levels_none.c is built. */
struct pg_level {
    enum pg_cpu_level level;
    const char *name;
    bool (*present)(void);
    void (*fill)(struct pg_kernels *k);
};
/* Levels above the reference, lowest first. Each builds on those before it. */
extern const struct pg_level pg_levels[];
extern const int pg_n_levels;

/* What a block whose largest |x| is amax is multiplied by before rounding; *d is what its integers
 * stand for. Blocks of 32 keep eleven bits of d, since other engines store it as f16; blocks of 256
 * keep the reciprocal of the multiplier. Rounding as they do keeps our logits next to theirs: a
 * difference of 2^-12 here flips a few roundings of the next block's input, and grows from there to
 * the size of the rounding itself. */
static inline float pg_act_scale(float amax, int block, float *d)
{
    *d = 0;
    if (amax < 0x1p-100f)
        return 0;
    float scale = 127.0f / amax;
    *d = block == 32 ? amax / 127.0f : 1.0f / scale;
    uint32_t u;
    memcpy(&u, d, sizeof(u));
    if (block == 32 && u < 0x7f800000) {
        u += 0xfff + ((u >> 13) & 1);
        u &= ~(uint32_t)0x1fff;
        memcpy(d, &u, sizeof(u));
    }
    return scale;
}

#endif
