/* SPDX-License-Identifier: MIT
 * Error sentences. A sentence is first made in a buffer of its own, because its arguments may point
 * into the pg_err that it will replace.
 */
#include "base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *pg_error_text(int code)
{
    switch (code) {
#define X(name, value, text)                                                                       \
    case value:                                                                                    \
        return text;
        PG_ERROR_MAP(X)
#undef X
    default:
        return "unknown error";
    }
}

static int fill(struct pg_err *err, int code, const char *text)
{
    if (err) {
        err->code = code;
        snprintf(err->text, sizeof(err->text), "%s", text);
    }
    return code;
}

int pg_fail(struct pg_err *err, int code, const char *fmt, ...)
{
    char text[sizeof(err->text)];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    return fill(err, code, text);
}

int pg_fail_os(struct pg_err *err, int code, int os_error, const char *fmt, ...)
{
    char text[sizeof(err->text)], why[128];
    va_list ap;
    int n;

    va_start(ap, fmt);
    n = vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    if (n >= 0 && (size_t)n < sizeof(text))
        snprintf(text + n, sizeof(text) - (size_t)n, ": %s",
                 strerror_r(os_error, why, sizeof(why)));
    return fill(err, code, text);
}

int pg_fail_in(struct pg_err *err, int code, const char *prefix)
{
    char text[sizeof(err->text)];

    if (err && strncmp(err->text, prefix, strlen(prefix)) != 0) {
        int n = snprintf(text, sizeof(text), "%s: ", prefix);
        if (n >= 0 && (size_t)n < sizeof(text))
            snprintf(text + n, sizeof(text) - (size_t)n, "%s", err->text);
        fill(err, code, text);
    }
    return code;
}

struct pg_quoted pg_quote(const char *s, size_t n)
{
    static const char hex[] = "0123456789abcdef";
    struct pg_quoted q;
    const size_t room = sizeof(q.s) - sizeof("...");
    size_t at = 0;

    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        bool plain = c >= 0x20 && c < 0x7f && c != '\\';
        if (at + (plain ? 1 : 4) > room) {
            memcpy(q.s + at, "...", 3);
            at += 3;
            break;
        }
        if (plain) {
            q.s[at++] = (char)c;
        } else {
            q.s[at++] = '\\';
            q.s[at++] = 'x';
            q.s[at++] = hex[c >> 4];
            q.s[at++] = hex[c & 15];
        }
    }
    q.s[at] = 0;
    return q;
}

void pg_assert_failed(const char *file, int line, const char *expr)
{
    fprintf(stderr, "%s:%d: assertion failed: %s\n", file, line, expr);
    abort();
}
