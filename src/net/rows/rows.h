/* SPDX-License-Identifier: MIT
 * What training does to single rows beside matrix products: norms, softmax, activations, and their
 * derivatives. One table of function pointers, filled from rows_body.h, which is compiled once for
 * each instruction level (rows_base.c, rows_avx2.c, rows_avx512.c) and for the tests in double
 * (rows_double.c).
 *
 * Sums go to as many partial sums as fit 64 bytes, element i to sum i modulo their number, and are
 * added as a tree: a fixed order. Unlike the engine's kernels the levels do not give the same bits
 * (some fuse a product with an addition); nor do OpenBLAS's.
 */
#ifndef PG_NET_ROWS_ROWS_H
#define PG_NET_ROWS_ROWS_H

#include "net/rows/real.h"

/* y = x s gain, s = 1 / rms(x). From dy: dx = add + the derivative (add NULL: 0; dx may be dy, add
 * may be dx), and dgain += its part. */
struct pg_norm_back {
    const pg_real *x, *gain, *dy, *add;
    pg_real s;
    pg_real *dx, *dgain;
};

/* act = f(gate) up, and from times dact the derivatives of gate and up. Without up (NULL) it is 1,
 * and there is no dup. Each output may be any input. */
struct pg_act_back {
    const pg_real *gate, *up, *dact;
    pg_real times;
    pg_real *act, *dgate, *dup;
};
struct pg_act_ops {
    void (*of)(const pg_real *gate, const pg_real *up, pg_real *act, int n);
    /* Returns the sum of dact act. */
    pg_real (*back)(const struct pg_act_back *b, int n);
};

/* Of a row of n values, a multiple of PG_ROW_STEP, only [from, to) count; the others, whatever they
 * were, become 0. */
enum { PG_ROW_STEP = 64 / sizeof(pg_real) };
struct pg_window {
    int from, to, n;
};
struct pg_attend {
    pg_real lse, times; /* logarithm of the sum of exp(scale x); 1 / sum of what x became */
};
struct pg_attend_back {
    pg_real scale, lse, mean;
};

struct pg_row_ops {
    pg_real (*dot)(const pg_real *a, const pg_real *b, int n);
    void (*add)(const pg_real *x, pg_real *y, int n);              /* y += x */
    void (*axpy)(pg_real s, const pg_real *x, pg_real *y, int n);  /* y += s x */
    void (*scale)(pg_real s, const pg_real *x, pg_real *y, int n); /* y = s x */
    /* y = x s gain; returns s = 1 / sqrt(mean of x x + eps). */
    pg_real (*norm)(const pg_real *x, const pg_real *gain, pg_real eps, pg_real *y, int n);
    void (*norm_back)(const struct pg_norm_back *b, int n);
    /* x = times softmax(scale x), scale > 0; returns the logarithm of the sum of exp(scale x). */
    pg_real (*softmax)(pg_real *x, pg_real scale, pg_real times, int n);
    /* dp = p (dp - mean), `mean` the sum of p dp. */
    void (*softmax_back)(const pg_real *p, pg_real *dp, pg_real mean, int n);
    /* One query's scores become exp(scale x - max), without the division by their sum. */
    struct pg_attend (*attend)(pg_real *x, const struct pg_window *w, pg_real scale);
    /* Scores become probabilities p = exp(scale x - lse), and dp becomes p (dp - mean) scale, the
     * derivative of the scores; `mean` is the sum of p dp. */
    void (*attend_back)(pg_real *x, pg_real *dp, const struct pg_window *w,
                        const struct pg_attend_back *b);
    /* x sigmoid(x); x sigmoid(1.5958 x + 0.07136 x^3), GELU in its form with tanh; the larger of x
     * and 0. */
    struct pg_act_ops silu, gelu, relu;
};

/* The table of the highest level that this machine has, and those `below` it; NULL after the base.
 */
const struct pg_row_ops *pg_row_ops(int below);

/* One a file; a level above the base is used only where it is present. */
extern const struct pg_row_ops pg_row_ops_base, pg_row_ops_avx2, pg_row_ops_avx512;

#endif
