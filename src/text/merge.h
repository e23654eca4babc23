/* SPDX-License-Identifier: MIT
 * Joining pairs of neighbours, best pair first, leftmost of equals, until none can be joined.
 *
 * The pairs wait in a heap of (priority, position) keys. A key is stale when its position now has
 * another priority or is gone; stale keys are skipped when they come up. Each join adds at most two
 * keys, so n symbols take O(n log n).
 */
#ifndef PG_TEXT_MERGE_H
#define PG_TEXT_MERGE_H

#include "pregate.h"

struct pg_sym {
    uint32_t at, n;     /* the text it covers */
    int32_t prev, next; /* -1: none */
    int32_t id;         /* -1: no piece yet */
    int32_t pair;       /* the piece that it and its next make; -1: none */
    uint32_t priority;  /* of the pair; 0 is joined first */
};

struct pg_joiner {
    /* Sets pair and priority of left. */
    void (*look)(const struct pg_joiner *j, struct pg_sym *left, const struct pg_sym *right);
    const pg_vocab *vocab;
    const char *text; /* what at and n speak of */
    struct pg_sym *sym;
    size_t n_sym, cap_sym;
    uint64_t *heap;
    size_t n_heap, cap_heap;
};

/* Starts over with no symbols; keeps the memory. */
void pg_joiner_start(struct pg_joiner *j, const char *text);
int pg_joiner_add(struct pg_joiner *j, uint32_t at, uint32_t n, int32_t id, struct pg_err *err);
/* Afterwards the remaining symbols are the chain from sym[0] along next. */
int pg_joiner_run(struct pg_joiner *j, struct pg_err *err);
void pg_joiner_fini(struct pg_joiner *j);

#endif
