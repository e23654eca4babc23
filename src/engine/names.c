/* SPDX-License-Identifier: MIT */
#include "pregate.h"

#include <string.h>

static const char *const mode_names[PG_MODE_COUNT] = {
    "auto", "resident", "ondemand", "prefetch-all", "lookahead", "hint", "pregate"};

const char *pg_mode_name(enum pg_mode m)
{
    return (unsigned)m < PG_MODE_COUNT ? mode_names[m] : "?";
}

int pg_mode_parse(const char *name)
{
    for (int i = 0; i < PG_MODE_COUNT; i++)
        if (name && strcmp(name, mode_names[i]) == 0)
            return i;
    return -1;
}
