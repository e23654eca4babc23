/* SPDX-License-Identifier: MIT
 * 64-bit ARM: every such processor has NEON.
 */
#include "cpu/kernels.h"

static bool always(void)
{
    return true;
}

const struct pg_level pg_levels[] = {{PG_CPU_NEON, "neon", always, pg_kernels_neon}};
const int pg_n_levels = PG_COUNT(pg_levels);
