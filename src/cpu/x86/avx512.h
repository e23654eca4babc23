/* SPDX-License-Identifier: MIT
 * The parts of the AVX-512 level; each overrides its slots.
 */
#ifndef PG_CPU_X86_AVX512_H
#define PG_CPU_X86_AVX512_H

#include "cpu/kernels.h"

void pg_avx512_matmul_fill(struct pg_kernels *k); /* quantised formats */
void pg_avx512_float_fill(struct pg_kernels *k);  /* F32, F16, BF16 */
void pg_avx512_vec_fill(struct pg_kernels *k);    /* everything else */
/* m->n_tok = 1 */
typedef void pg_decode_fn(const struct pg_matmul *m, int row0, int row1);
pg_decode_fn pg_avx512_decode_q4_0, pg_avx512_decode_q4_1, pg_avx512_decode_q5_0,
    pg_avx512_decode_q5_1, pg_avx512_decode_q8_0, pg_avx512_decode_q2_k, pg_avx512_decode_q3_k,
    pg_avx512_decode_q4_k, pg_avx512_decode_q5_k, pg_avx512_decode_q6_k;

#endif
