/* SPDX-License-Identifier: MIT
 * AVX2 with FMA and F16C: the table's slots.
 */
#include "cpu/x86/avx2.h"

void pg_kernels_avx2(struct pg_kernels *k)
{
    pg_avx2_fill_k(k);
    pg_avx2_fill_32(k);
    pg_avx2_fill_float(k);
    k->row_tile = 8;
}
