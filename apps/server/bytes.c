/* SPDX-License-Identifier: MIT */
#include "bytes.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

bool bytes_room(struct bytes *b, size_t n)
{
    if (n <= b->cap - b->n)
        return true;
    if (n > SIZE_MAX / 4 - b->n)
        return false;
    const size_t cap = 2 * (b->n + n) + 64;
    char *p = realloc(b->p, cap);
    if (!p)
        return false;
    b->p = p;
    b->cap = cap;
    return true;
}

bool bytes_add(struct bytes *b, const void *p, size_t n)
{
    if (!bytes_room(b, n))
        return false;
    if (n)
        memcpy(b->p + b->n, p, n);
    b->n += n;
    return true;
}

void bytes_drop(struct bytes *b, size_t n)
{
    b->n -= n;
    if (b->n)
        memmove(b->p, b->p + n, b->n);
}

void bytes_fini(struct bytes *b)
{
    free(b->p);
    *b = (struct bytes){0};
}
