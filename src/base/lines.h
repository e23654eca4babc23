/* SPDX-License-Identifier: MIT
 * Lines of a text file or pipe from outside, one at a time, each of bounded length.
 */
#ifndef PG_BASE_LINES_H
#define PG_BASE_LINES_H

#include "base/os.h"

#define PG_LINE_MAX ((size_t)1 << 24) /* bytes of a line */

struct pg_lines {
    const char *path; /* borrowed */
    FILE *file;
    bool pipe; /* which may have no end */
    uint64_t got;
    char *text; /* the line without its end, [n] */
    size_t n, cap;
    int number; /* its own, from 1 on */
};

int pg_lines_open(struct pg_lines *l, const char *path, struct pg_err *err);
/* 1: the next line is there; 0: there is none. */
int pg_lines_next(struct pg_lines *l, struct pg_err *err);
void pg_lines_close(struct pg_lines *l);

#endif
