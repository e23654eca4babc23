/* SPDX-License-Identifier: MIT
 * The parts of the AVX-512 level; each overrides its slots.
 */
#ifndef PG_CPU_X86_AVX512_H
#define PG_CPU_X86_AVX512_H

#include "cpu/kernels.h"

void pg_avx512_matmul_fill(struct pg_kernels *k); /* quantised formats */
void pg_avx512_float_fill(struct pg_kernels *k);  /* F32, F16, BF16 */
void pg_avx512_vec_fill(struct pg_kernels *k);    /* everything else */
/* Quantised formats, m->n_tok = 1. */
void pg_avx512_decode(const struct pg_matmul *m, int row0, int row1);

#endif
