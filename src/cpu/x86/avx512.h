/* SPDX-License-Identifier: MIT
 * The parts of the AVX-512 level; each overrides its slots.
 */
#ifndef PG_CPU_X86_AVX512_H
#define PG_CPU_X86_AVX512_H

#include "cpu/kernels.h"

void pg_avx512_matmul_fill(struct pg_kernels *k); /* quantised formats */
/* Quantised formats, m->n_tok = 1. */
void pg_avx512_decode(const struct pg_matmul *m, int row0, int row1);

#endif
