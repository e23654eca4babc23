/* SPDX-License-Identifier: MIT
 * Errors: three kinds of trouble, never mixed.
 *   input or machine at fault -> negative PG_E... code and a sentence in struct pg_err
 *   our bug                   -> PG_ASSERT, on in release builds too
 *   cannot happen after open  -> made impossible by preparing at open
 */
#ifndef PG_BASE_ERR_H
#define PG_BASE_ERR_H

#include "pregate.h"

#define PG_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))

/* Fills *err (NULL is fine) and returns code, so that `return pg_fail(err, PG_EIO, "…")` reads
 * well. */
int pg_fail(struct pg_err *err, int code, const char *fmt, ...) PG_PRINTF(3, 4);
/* The same for a failed system call: appends ": " and the text of errno `os_error`. */
int pg_fail_os(struct pg_err *err, int code, int os_error, const char *fmt, ...) PG_PRINTF(4, 5);
/* Puts "prefix: " before the sentence that is already there, unless it begins so. Returns code. */
int pg_fail_in(struct pg_err *err, int code, const char *prefix);

/* Text made safe for a message: control and non-ASCII bytes as \xNN, cut to the buffer. */
struct pg_quoted {
    char s[80];
};
struct pg_quoted pg_quote(const char *s, size_t n);

_Noreturn void pg_assert_failed(const char *file, int line, const char *expr);
#define PG_ASSERT(expr) ((expr) ? (void)0 : pg_assert_failed(__FILE__, __LINE__, #expr))

#define PG_TRY(expr)                                                                               \
    do {                                                                                           \
        int pg_try_rc_ = (expr);                                                                   \
        if (pg_try_rc_)                                                                            \
            return pg_try_rc_;                                                                     \
    } while (0)

#define PG_COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define PG_MIN(a, b)    ((a) < (b) ? (a) : (b))
#define PG_MAX(a, b)    ((a) > (b) ? (a) : (b))

#endif
