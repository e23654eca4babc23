/* SPDX-License-Identifier: MIT
 * Inside of the policies: the choice that all share, and what each adds to it.
 *
 * Each policy gives a slot a value, and the slot with the smallest leaves. A value is a product,
 * worth(slot) * weight(block), such that the worth changes only when something is learned about its
 * block. So every block remembers its least worthy slot, and a victim is the least of those: a few
 * hundred steps, however many slots there are.
 */
#ifndef PG_STORE_POLICY_IMPL_H
#define PG_STORE_POLICY_IMPL_H

#include "base/arena.h"
#include "store/policy.h"

struct pg_policy;
struct pg_cycle;

/* What a policy adds to the choice. All functions are there. */
struct pg_policy_kind {
    uint64_t (*worth)(const struct pg_policy *p, int slot);
    uint64_t (*weight)(const struct pg_policy *p, int block);
    void (*carve)(struct pg_policy *p, struct pg_arena *a); /* its memory, after that of all */
    void (*span)(struct pg_policy *p);                      /* it has changed */
    void (*tick)(struct pg_policy *p, int block);
    void (*use)(struct pg_policy *p, int key);
    void (*hint)(struct pg_policy *p, int key, bool certain); /* for the block's next wave */
    /* Before a victim is chosen: marks blocks whose worths have changed as stale. */
    void (*forecast)(struct pg_policy *p);
};

struct pg_policy {
    const struct pg_policy_kind *kind;
    int n_block, n_expert, n_slots, n_exposed;
    struct pg_span span;
    uint64_t serial; /* grows with each use and admission */
    void *memory;
    size_t bytes;           /* of it */
    struct pg_cycle *cycle; /* of PG_EVICT_CYCLE, else NULL */

    uint64_t *last;     /* [n_block * n_expert] serial of the last use, 0: never */
    uint32_t *count;    /* [n_block * n_expert] uses */
    int32_t *key_of;    /* [n_slots], -1: empty */
    uint64_t *worth;    /* [n_slots] */
    uint64_t *admitted; /* [n_slots] serial */

    int32_t *members;   /* [n_block][n_expert] the slots of a block, in any order */
    int32_t *n_members; /* [n_block] */
    int32_t *least;     /* [n_block] the member of least worth, -1: to be found */
    bool *stale;        /* [n_block] worths are to be computed anew */
};

/* policy_cycle.c */
void pg_cycle_carve(struct pg_policy *p, struct pg_arena *a);
void pg_cycle_span(struct pg_policy *p);
void pg_cycle_tick(struct pg_policy *p, int block);
void pg_cycle_use(struct pg_policy *p, int key);
void pg_cycle_hint(struct pg_policy *p, int key, bool certain);
void pg_cycle_forecast(struct pg_policy *p); /* having learned from the wave */
uint64_t pg_cycle_worth(const struct pg_policy *p, int slot);
uint64_t pg_cycle_weight(const struct pg_policy *p, int block);

#endif
