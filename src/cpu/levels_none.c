/* SPDX-License-Identifier: MIT
 * Processors that have the reference only.
 */
#include "cpu/kernels.h"

const struct pg_level pg_levels[] = {{PG_CPU_REF, "ref", NULL, pg_kernels_ref}}; /* not counted */
const int pg_n_levels = 0;
