/* SPDX-License-Identifier: MIT
 * What machine this is, for reports.
 */
#include "base/os.h"
#include "cpu/kernels.h"

#include <stdio.h>
#include <string.h>

/* The first "model name" line of /proc/cpuinfo; processors that have none are called by nothing. */
static void find_cpu_model(char *out, size_t size)
{
    static const char key[] = "model name";
    FILE *f = fopen("/proc/cpuinfo", "re");
    char line[256];

    while (f && fgets(line, sizeof(line), f)) {
        char *value = strchr(line, ':');
        if (!value || strncmp(line, key, sizeof(key) - 1))
            continue;
        value += 1 + strspn(value + 1, " \t");
        value[strcspn(value, "\n")] = 0;
        snprintf(out, size, "%s", value);
        break;
    }
    if (f)
        fclose(f);
}

void pg_machine_info(struct pg_machine *out)
{
    static const struct {
        enum pg_cpu_level level;
        const char *name;
    } levels[] = {{PG_CPU_NEON, "neon"}, {PG_CPU_AVX512, "avx512"}, {PG_CPU_AVX2, "avx2"}};
    const char *level = "ref";
    unsigned present = pg_kernels_present();

    for (size_t i = PG_COUNT(levels); i-- > 0;)
        if (present & 1u << levels[i].level)
            level = levels[i].name;
    const struct pg_os_memory memory = pg_os_memory_now();
    *out = (struct pg_machine){
        .n_cpu = pg_os_n_cpu(), .memory_total = memory.total, .memory_limit = memory.limit};
    snprintf(out->cpu_level, sizeof(out->cpu_level), "%s", level);
    find_cpu_model(out->cpu_model, sizeof(out->cpu_model));
}
