/* SPDX-License-Identifier: MIT
 * Chooses the level: the reference first, then what the machine has, each overriding upward.
 */
#include "cpu/kernels.h"

unsigned pg_kernels_present(void)
{
    unsigned mask = 1u << PG_CPU_REF;
    for (int i = 0; i < pg_n_levels && pg_levels[i].present(); i++)
        mask |= 1u << pg_levels[i].level;
    return mask;
}

int pg_kernels_init(struct pg_kernels *k, enum pg_cpu_level level, struct pg_err *err)
{
    static const char *const names[] = {"auto", "ref", "avx2", "avx512", "neon"};
    unsigned present = pg_kernels_present();
    if ((unsigned)level >= PG_COUNT(names))
        return pg_fail(err, PG_EARG, "cpu level %d is none of the %zu that exist", (int)level,
                       PG_COUNT(names));
    if (level != PG_CPU_AUTO && !(present & 1u << level))
        return pg_fail(err, PG_ENOTSUP, "cpu level %s is not present on this machine",
                       names[level]);
    *k = (struct pg_kernels){0};
    pg_kernels_ref(k);
    for (int i = 0; i < pg_n_levels; i++) {
        const struct pg_level *l = &pg_levels[i];
        if (!(present & 1u << l->level) || (level != PG_CPU_AUTO && l->level > level))
            break;
        l->fill(k);
        k->name = l->name;
    }
    return 0;
}
