/* SPDX-License-Identifier: MIT
 * Where a text stands in a grammar: a set of stacks of positions, which may be many and deep.
 *
 * A set is a list of (position, set below), each position once. The same set is stored once and is
 * a number, so that comparing is cheap and common parts are shared: stacks that differ at one place
 * only share what is above and below. Sets live in pools that were taken at open; when one is full,
 * the call that needed more has failed, `full` says so, and pg_stacks_sweep makes room by dropping
 * all that is not kept.
 *
 * A set is *closed* if each of its positions reads a byte or marks the bottom. What is below a
 * position is not closed: it holds what follows the calls under way.
 */
#ifndef PG_TEXT_STACKS_H
#define PG_TEXT_STACKS_H

#include "base/arena.h"
#include "text/grammar.h"

enum {                /* sets that are always there */
       PG_SET_NONE,   /* no stack: nothing can follow */
       PG_SET_ACCEPT, /* { the bottom } */
       PG_SET_HOLE,   /* { the hole } */
       PG_SET_FIRST
};

enum {
    PG_SETS_MAX = 1 << 14,  /* sets */
    PG_ITEMS_MAX = 1 << 17, /* of all of them together */
    PG_ROWS_BYTES = 1 << 20 /* of transitions that are kept */
};

struct pg_item {
    uint32_t pos, below;
};

struct pg_set {
    uint32_t at, n; /* items */
    uint32_t hash;
    uint32_t closed; /* the set of what can be read from here; 0: not known yet */
    uint32_t row;    /* + 1; 0: none */
    /* Kinds (token_index.h) of which any character leads to run_to; valid if that is not 0. */
    uint32_t run, run_to;
    bool has_hole, marked;
};

struct pg_stacks {
    const struct pg_grammar *g;
    bool full; /* a pool is, or the work of one call is bounded and done */

    struct pg_set *set;
    struct pg_item *item;
    uint32_t *slot; /* hash -> set + 1 */
    uint32_t n_set, n_item;
    uint32_t *row; /* [n_row_max, n_class] what a byte leads to; UINT32_MAX: not known yet */
    uint32_t n_row, n_row_max;
    struct pg_item *unions; /* pairs whose union has just been made; result beside them */
    uint32_t *united;
    uint32_t *moved; /* [PG_SETS_MAX] new numbers, of the last sweep */

    /* of the call under way */
    uint32_t *seen, *seen_below; /* [n_pos] `mark` and what is below, of positions reached */
    uint32_t mark;
    uint32_t *reached; /* [n_pos] */
    uint32_t n_reached;
    struct pg_item *todo;
    uint32_t n_todo;
    struct pg_item *merge; /* items of unions under way, a stack */
    uint32_t n_merge;
    uint32_t work; /* left */
};

/* Measures where a->base is NULL, and begins where it is not. */
void pg_stacks_carve(struct pg_stacks *s, const struct pg_grammar *g, struct pg_arena *a);
/* Before each call from outside: it may do so much. */
void pg_stacks_begin(struct pg_stacks *s);

/* The set of these items, sorted by position. All of these are PG_SET_NONE when `full`. */
uint32_t pg_stacks_intern(struct pg_stacks *s, const struct pg_item *item, uint32_t n);
uint32_t pg_stacks_union(struct pg_stacks *s, uint32_t a, uint32_t b);
/* What can be read where `set` is to be gone on with: a closed set. */
uint32_t pg_stacks_close(struct pg_stacks *s, uint32_t set);
/* After this byte; of a closed set. */
uint32_t pg_stacks_step(struct pg_stacks *s, uint32_t set, uint8_t byte);
/* The same, put into a table; and out of it, if it is there. */
uint32_t pg_stacks_fill(struct pg_stacks *s, uint32_t set, uint8_t byte);
static inline uint32_t pg_stacks_next(struct pg_stacks *s, uint32_t set, uint8_t byte)
{
    const uint32_t row = s->set[set].row;
    if (row) {
        const size_t n = (size_t)s->g->n_class;
        const uint32_t next = s->row[(row - 1) * n + s->g->class_of[byte]];
        if (next != UINT32_MAX)
            return next;
    }
    return pg_stacks_fill(s, set, byte);
}
/* Whether all texts of up to `n` bytes of these kinds (255: of any length) can follow a closed set,
 * and reach no hole: whole characters, but for the last. False if that is not plain. */
bool pg_stacks_run(struct pg_stacks *s, uint32_t set, uint32_t kinds, uint8_t n);
bool pg_stacks_has(const struct pg_stacks *s, uint32_t set, uint32_t mark); /* PG_AT_ACCEPT, … */

/* Drops all tables and every set but those marked by pg_stacks_keep since the last time. Sets get
 * new numbers: pg_stacks_moved is that of an old one that was kept, until the next call. */
void pg_stacks_keep(struct pg_stacks *s, uint32_t set);
void pg_stacks_sweep(struct pg_stacks *s);
uint32_t pg_stacks_moved(const struct pg_stacks *s, uint32_t set);

#endif
