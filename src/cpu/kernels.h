/* SPDX-License-Identifier: MIT
 * The arithmetic: one table of function pointers, filled by the plain C reference (ref.c) and
 * overridden upward by the files under x86/ and arm/, chosen at run time.
 *
 * Every level gives the same bits. That is possible because each sum has one written order:
 *
 *   quantised dot   for each scale block b of the row, in order:
 *                       S = exact integer sum of the block (all sub-block scales applied), int32
 *                       acc += scale * (float)S          (one multiply, one add, both rounded)
 *                   (formats with minima also: acc -= scale_min * (float)M, right after)
 *                   An exact integer may be summed in any order, so any tiling is allowed.
 *   float dot       sixteen partial sums, element i goes to sum i % 16 by fused multiply-add in
 *                   order of i; then the tree  s[j] += s[j + 8], + 4, + 2, + 1.
 *   elementwise     as written in ref.c; exp is ours (pg_expf), a polynomial with a written order.
 *
 * Because a result element depends on its own row and its own token only, batch size, tiling and
 * thread count do not change it either.
 */
#ifndef PG_CPU_KERNELS_H
#define PG_CPU_KERNELS_H

#include "quant/quant.h"

/* Rows of activations, rounded for the format they will meet. Row t of kind
 *   F32: f32 + t * n          Q8, Q8K: q + t * n, d + t * (n / block), sums + t * (n / 16)
 * `sums` are the sums of each 16 values of q, for formats whose values have an offset or minimum. */
struct pg_acts {
    enum pg_act kind;
    int n;          /* values a row, a multiple of the block of every format that reads it */
    const float *f32;
    int8_t *q;      /* 64-byte aligned rows when n is a multiple of 64 */
    float *d;
    int16_t *sums;
};

/* y[j * y_stride + r] = dot(row r of w, activation row x_row[j]), for j in [0, n_tok) and
 * r in [row0, row1). */
struct pg_matmul {
    const void *w;        /* [n_out, n] in `type`; rows follow each other without a gap */
    enum pg_type type;
    const struct pg_acts *x;
    const int32_t *x_row; /* [n_tok]; NULL: row j */
    int n_tok;
    float *y;
    size_t y_stride;      /* floats between tokens */
};

struct pg_kernels {
    const char *name; /* "ref", "avx2", "avx512" */

    /* One slot a format. Any row range, any n_tok >= 1: matrix-vector and matrix-matrix. */
    void (*matmul[PG_TYPE_LIMIT])(const struct pg_matmul *m, int row0, int row1);
    int row_tile; /* a good multiple for row ranges handed to threads */

    /* Round n values (multiple of 32 / 256). Scale: max|x| / 127, q = round half to even(x / d). */
    void (*act_q8)(const float *x, int n, int8_t *q, float *d, int16_t *sums);
    void (*act_q8k)(const float *x, int n, int8_t *q, float *d, int16_t *sums);

    float (*dot)(const float *a, const float *b, int n);
    float (*dot_f16)(const uint16_t *a, const float *b, int n);
    /* y += s * x */
    void (*axpy)(float s, const float *x, float *y, int n);
    void (*axpy_f16)(float s, const uint16_t *x, float *y, int n);
    /* y = x / sqrt(mean(x^2) + eps) * g */
    void (*rms_norm)(const float *x, const float *g, float eps, float *y, int n);
    /* x = exp(x - max) / sum; returns nothing useful for NaN, which callers check. */
    void (*softmax)(float *x, int n);
    /* y = silu(gate) * up */
    void (*silu_mul)(const float *gate, const float *up, float *y, int n);
    void (*add)(const float *x, float *y, int n); /* y += x */
    void (*to_f16)(const float *x, uint16_t *y, int n);
};

/* Fills *k for the highest level present that is not above `level` (AUTO: the highest).
 * PG_ENOTSUP when `level` is not present on this machine. */
int pg_kernels_init(struct pg_kernels *k, enum pg_cpu_level level, struct pg_err *err);
/* Levels present, as a bit mask of 1u << enum pg_cpu_level. */
unsigned pg_kernels_present(void);

/* Each fills the slots it has. Only those compiled in are called; see levels.c. */
void pg_kernels_ref(struct pg_kernels *k);
void pg_kernels_avx2(struct pg_kernels *k);
void pg_kernels_avx512(struct pg_kernels *k);

float pg_expf(float x); /* the exp of every level */

#endif
