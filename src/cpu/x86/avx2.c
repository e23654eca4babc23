/* SPDX-License-Identifier: MIT */
#include "cpu/kernels.h"

void pg_kernels_avx2(struct pg_kernels *k)
{
    (void)k;
}
