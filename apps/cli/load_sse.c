/* SPDX-License-Identifier: MIT
 * Server-sent events: lines that end with \n, \r\n or \r; an empty one ends an event.
 */
#include "load_wire.h"

#include <stdlib.h>
#include <string.h>

static int add(struct load_sse *s, char **buffer, size_t *n, size_t *cap, const char *bytes,
               size_t n_bytes)
{
    if (n_bytes > LOAD_EVENT_MAX - *n) {
        s->what = "an event of more than 256 KiB";
        return -1;
    }
    if (*n + n_bytes > *cap) {
        const size_t want = 2 * (*n + n_bytes) + 256;
        char *larger = realloc(*buffer, want);
        if (!larger) {
            s->what = "out of memory";
            return -1;
        }
        *buffer = larger;
        *cap = want;
    }
    if (n_bytes)
        memcpy(*buffer + *n, bytes, n_bytes);
    *n += n_bytes;
    return 0;
}

static int end_event(struct load_sse *s)
{
    const int rc = s->has_data ? s->event(s->user, s->data ? s->data : "", s->n_data) : 0;
    s->n_data = 0;
    s->has_data = false;
    return rc;
}

/* Of the fields only `data` is wanted: comments, names, ids and times to retry are passed over. */
static int end_line(struct load_sse *s)
{
    const char *at = s->line;
    size_t n = s->n_line;
    s->n_line = 0;
    if (!s->begun && n >= 3 && !memcmp(at, "\xEF\xBB\xBF", 3)) {
        at += 3;
        n -= 3;
    }
    s->begun = true;
    if (n == 0)
        return end_event(s);
    if (n < 4 || memcmp(at, "data", 4) || (n > 4 && at[4] != ':'))
        return 0;
    const size_t skip = n > 5 && at[5] == ' ' ? 6 : n > 4 ? 5 : 4;
    if (s->has_data && add(s, &s->data, &s->n_data, &s->cap_data, "\n", 1))
        return -1;
    s->has_data = true;
    return add(s, &s->data, &s->n_data, &s->cap_data, at + skip, n - skip);
}

int load_sse_put(struct load_sse *s, const char *bytes, size_t n)
{
    int rc = 0;
    for (size_t i = 0; i < n && !rc;) {
        if (s->after_cr && bytes[i] == '\n') {
            s->after_cr = false;
            i++;
            continue;
        }
        s->after_cr = false;
        size_t len = 0;
        while (i + len < n && bytes[i + len] != '\n' && bytes[i + len] != '\r')
            len++;
        rc = add(s, &s->line, &s->n_line, &s->cap_line, bytes + i, len);
        i += len;
        if (!rc && i < n) {
            s->after_cr = bytes[i++] == '\r';
            rc = end_line(s);
        }
    }
    return rc;
}

void load_sse_fini(struct load_sse *s)
{
    free(s->line);
    free(s->data);
    s->line = s->data = NULL;
    s->n_line = s->cap_line = s->n_data = s->cap_data = 0;
}
