/* SPDX-License-Identifier: MIT
 * Matrix products of row-major matrices, by OpenBLAS, in the numbers of net/rows/real.h. Each call
 * runs on the thread that makes it; our own pool is what brings several threads to work, so that
 * the tasks, and with them the order of each sum, do not depend on their number.
 *
 * The library is loaded when training begins and not before: its memory and its threads would be a
 * burden to every other use of Pregate.
 */
#ifndef PG_NET_ROWS_BLAS_H
#define PG_NET_ROWS_BLAS_H

#include "base/err.h"
#include "net/rows/real.h"

typedef void pg_cblas_gemm(int order, int trans_a, int trans_b, int m, int n, int k, pg_real alpha,
                           const pg_real *a, int lda, const pg_real *b, int ldb, pg_real beta,
                           pg_real *c, int ldc);

struct pg_blas {
    pg_cblas_gemm *gemm; /* of CBLAS */
};

/* Loads OpenBLAS, unless it is there, and tells it for the whole process to start no threads. It
 * stays loaded until the process ends. PG_ENOTSUP: not installed, or the kind that is built for one
 * thread: its products are wrong when several call it at once (docs/decisions/010). */
int pg_blas_open(struct pg_blas *b, struct pg_err *err);

/* To be called when all other memory is taken, before the first product: each of n_threads that
 * call OpenBLAS costs a buffer, and where one cannot be mapped OpenBLAS tries for ever. PG_ENOMEM
 * says so instead. */
int pg_blas_check(int n_threads, struct pg_err *err);

/* c [m, n] = beta c + A B, over k. A row of a (b, c) is lda (ldb, ldc) values after the one before.
 * With beta 0 c is written without being read. */
struct pg_gemm {
    const struct pg_blas *by;
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

#endif
