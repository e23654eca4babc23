/* SPDX-License-Identifier: MIT
 * What the NEON files share.
 */
#ifndef PG_CPU_ARM_NEON_H
#define PG_CPU_ARM_NEON_H

#include "cpu/kernels.h"

void pg_neon_fill_quant(struct pg_kernels *k);
void pg_neon_fill_float(struct pg_kernels *k);

#endif
