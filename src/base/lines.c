/* SPDX-License-Identifier: MIT */
#include "base/lines.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>

int pg_lines_open(struct pg_lines *l, const char *path, struct pg_err *err)
{
    *l = (struct pg_lines){.path = path};
    return pg_open_text(&l->file, path, &l->pipe, err);
}

void pg_lines_close(struct pg_lines *l)
{
    if (l->file)
        fclose(l->file);
    free(l->text);
    *l = (struct pg_lines){0};
}

static int check_size(const struct pg_lines *l, struct pg_err *err)
{
    if (l->n == PG_LINE_MAX)
        return pg_fail(err, PG_EFORMAT, "%s:%d: a line of more than %zu bytes", l->path, l->number,
                       PG_LINE_MAX);
    if (l->pipe && l->got > PG_PIPE_MAX)
        return pg_fail(err, PG_EARG,
                       "%s: more than 1 GiB came out of this pipe; write it to a file", l->path);
    return 0;
}

int pg_lines_next(struct pg_lines *l, struct pg_err *err)
{
    int c;
    if (l->number == INT_MAX)
        return pg_fail(err, PG_EFORMAT, "%s: more than %d lines", l->path, INT_MAX);
    l->n = 0;
    l->number++;
    while ((c = getc_unlocked(l->file)) != EOF && c != '\n') {
        PG_TRY(check_size(l, err));
        if (pg_reserve(&l->text, &l->cap, l->n + 1, 1))
            return pg_fail(err, PG_ENOMEM, "%s:%d: out of memory after %zu bytes of a line",
                           l->path, l->number, l->n);
        l->text[l->n++] = (char)c;
        l->got++;
    }
    if (ferror(l->file))
        return pg_fail_os(err, PG_EIO, errno, "%s: read failed", l->path);
    const bool more = c != EOF || l->n;
    while (l->n && l->text[l->n - 1] == '\r')
        l->n--;
    return more;
}
