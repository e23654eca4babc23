/* SPDX-License-Identifier: MIT
 * Which rows: by what the processor has.
 */
#include "cpu/kernels.h"
#include "tune/rows.h"

const struct pg_row_ops *pg_row_ops(void)
{
    unsigned present = pg_kernels_present();
    if (present & (1u << PG_CPU_AVX512)) {
        return &pg_row_ops_avx512;
    }
    return present & (1u << PG_CPU_AVX2) ? &pg_row_ops_avx2 : &pg_row_ops_base;
}
