/* SPDX-License-Identifier: MIT
 * x86-64: AVX2 with FMA and F16C, then AVX-512 with the byte permutes and dot products.
 */
#include "cpu/kernels.h"

#include <cpuid.h>

/* clang 14 does not know the name "f16c". */
static bool has_f16c(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

static bool has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
}

static bool has_avx512(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi");
}

const struct pg_level pg_levels[] = {
    {PG_CPU_AVX2, "avx2", has_avx2, pg_kernels_avx2},
    {PG_CPU_AVX512, "avx512", has_avx512, pg_kernels_avx512},
};
const int pg_n_levels = PG_COUNT(pg_levels);
