/* SPDX-License-Identifier: MIT
 * The AVX-512 level: what it overrides, and where that is.
 */
#include "cpu/x86/avx512.h"

void pg_kernels_avx512(struct pg_kernels *k)
{
    k->row_tile = 16;
    pg_avx512_matmul_fill(k);
    pg_avx512_float_fill(k);
    pg_avx512_vec_fill(k);
}
