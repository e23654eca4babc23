/* SPDX-License-Identifier: MIT
 * NEON of any 64-bit ARM processor: the table's slots.
 */
#include "cpu/arm/neon.h"

void pg_kernels_neon(struct pg_kernels *k)
{
    pg_neon_fill_quant(k);
    pg_neon_fill_float(k);
}
