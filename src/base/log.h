/* SPDX-License-Identifier: MIT
 * Lines for whoever has asked for them in the options of the interface.
 */
#ifndef PG_BASE_LOG_H
#define PG_BASE_LOG_H

#include "base/err.h"

struct pg_log {
    void (*to)(void *user, enum pg_log_level level, const char *text); /* NULL: nobody has asked */
    void *user;
};
/* Of any options that have `log` and `user`. */
#define PG_LOG_OF(options) ((struct pg_log){(options)->log, (options)->user})

/* A line of at most 511 bytes. */
void pg_say(struct pg_log log, enum pg_log_level level, const char *fmt, ...) PG_PRINTF(3, 4);

#endif
