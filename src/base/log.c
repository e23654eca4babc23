/* SPDX-License-Identifier: MIT */
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>

void pg_say(struct pg_log log, enum pg_log_level level, const char *fmt, ...)
{
    char text[512];
    va_list ap;
    if (!log.to)
        return;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    log.to(log.user, level, text);
}
