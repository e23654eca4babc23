/* SPDX-License-Identifier: MIT
 * Matrix products of row-major matrices, by OpenBLAS: blas_f32.c in the product, blas_f64.c in the
 * tests' double build. Each call runs on the thread that makes it; our own pool is what brings
 * several threads to work, so that the tasks, and with them the order of each sum, do not depend on
 * their number.
 */
#ifndef PG_TUNE_BLAS_H
#define PG_TUNE_BLAS_H

#include "tune/real.h"

/* c [m, n] = beta c + A B, over k. A row of a (b, c) is lda (ldb, ldc) values after the one before.
 * With beta 0 c is written without being read. */
struct pg_gemm {
    int m, n, k;
    const pg_real *a;
    int lda;
    const pg_real *b;
    int ldb;
    pg_real beta;
    pg_real *c;
    int ldc;
};

void pg_gemm_nn(const struct pg_gemm *g); /* a [m, k], b [k, n] */
void pg_gemm_nt(const struct pg_gemm *g); /* a [m, k], b [n, k] */
void pg_gemm_tn(const struct pg_gemm *g); /* a [k, m], b [k, n] */

/* Tells OpenBLAS, for the whole process, to start no threads for a product. */
void pg_gemm_init(void);

#endif
