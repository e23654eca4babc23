/* SPDX-License-Identifier: MIT
 * Which rows: by what the processor has.
 */
#include "cpu/kernels.h"
#include "net/rows/rows.h"

#include <stddef.h>

const struct pg_row_ops *pg_row_ops(int below)
{
    static const struct {
        unsigned needs;
        const struct pg_row_ops *ops;
    } levels[] = {
        {1u << PG_CPU_AVX512, &pg_row_ops_avx512},
        {1u << PG_CPU_AVX2, &pg_row_ops_avx2},
        {0, &pg_row_ops_base},
    };
    unsigned present = pg_kernels_present();
    for (size_t i = 0; i < PG_COUNT(levels); i++)
        if ((present & levels[i].needs) == levels[i].needs && below-- == 0)
            return levels[i].ops;
    return NULL;
}
