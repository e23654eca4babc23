/* SPDX-License-Identifier: MIT
 * Carving named buffers out of one block. The same carving code runs twice: with base NULL it only
 * measures, so that what the plan promises is what is taken.
 */
#ifndef PG_BASE_ARENA_H
#define PG_BASE_ARENA_H

#include "base/err.h"

struct pg_arena {
    char *base;        /* NULL: measuring */
    size_t size, used; /* bytes */
};

/* The next size_bytes, 64-byte aligned. While measuring the result must not be touched. */
static inline void *pg_arena_take(struct pg_arena *a, size_t size_bytes)
{
    size_t at = (a->used + 63) & ~(size_t)63;
    a->used = at + size_bytes;
    PG_ASSERT(a->base == NULL || a->used <= a->size);
    return a->base ? a->base + at : NULL;
}

#endif
