/* SPDX-License-Identifier: MIT
 * Matrix products in float.
 */
#include "tune/blas.h"

#include <cblas.h>

void pg_gemm_init(void)
{
    openblas_set_num_threads(1);
}

void pg_gemm_nn(const struct pg_gemm *g)
{
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, g->m, g->n, g->k, 1, g->a, g->lda, g->b,
                g->ldb, g->beta, g->c, g->ldc);
}

void pg_gemm_nt(const struct pg_gemm *g)
{
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, g->m, g->n, g->k, 1, g->a, g->lda, g->b,
                g->ldb, g->beta, g->c, g->ldc);
}

void pg_gemm_tn(const struct pg_gemm *g)
{
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, g->m, g->n, g->k, 1, g->a, g->lda, g->b,
                g->ldb, g->beta, g->c, g->ldc);
}
