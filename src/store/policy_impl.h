/* SPDX-License-Identifier: MIT
 * Inside of the policies: the ranking that all share, and what each adds to it.
 *
 * Each policy gives a slot a *cost of keeping*: the slot with the largest leaves. Costs are split
 * in two, cost(slot) + bias(block), such that cost(slot) changes only when its own block has a wave
 * (or a hint). So every block keeps its slots sorted by cost, a sort is due once a wave at most,
 * and a victim is the best of n_block list heads: about a hundred steps, however many slots there
 * are.
 */
#ifndef PG_STORE_POLICY_IMPL_H
#define PG_STORE_POLICY_IMPL_H

#include "store/policy.h"

/* What is remembered of an expert, in a slot or not. */
struct pg_key_history {
    uint64_t last;     /* serial of its last use, 0: never */
    uint32_t count;    /* uses */
    uint32_t round;    /* the block's wave number at its last use */
    uint32_t expected; /* the block's wave number for which it is expected, 0: none */
    float fast, slow;  /* decayed frequencies, as of `round` */
    bool certain;
};

struct pg_policy {
    enum pg_evict kind;
    int n_block, n_expert, n_slots;
    int block;       /* of the wave that began last */
    uint64_t serial; /* grows with each use and admission */
    void *memory;

    struct pg_key_history *history; /* [n_block * n_expert] */
    int32_t *key_of;                /* [n_slots], -1: empty */
    uint64_t *cost;                 /* [n_slots] */
    uint64_t *admitted;             /* [n_slots] serial */

    int32_t *ranked; /* [n_block][n_expert] slots of the block, largest cost first when not stale */
    int32_t *n_ranked; /* [n_block] */
    uint32_t *round;   /* [n_block] waves so far, from 1 */
    uint32_t *known;   /* [n_block] the wave for which all that it wants is known, 0: none */
    bool *stale;       /* [n_block] */
};

uint64_t pg_policy_cycle_cost(const struct pg_policy *p, int key);
uint64_t pg_policy_cycle_bias(const struct pg_policy *p, int block);
void pg_policy_cycle_use(struct pg_policy *p, int key);

#endif
