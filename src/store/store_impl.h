/* SPDX-License-Identifier: MIT
 * Inside of the store: what store.c (slots and waves) and store_hint.c (what is read ahead, and
 * whether that pays) share.
 */
#ifndef PG_STORE_STORE_IMPL_H
#define PG_STORE_STORE_IMPL_H

#include "store/policy.h"
#include "store/store.h"

enum pg_slot_state { SLOT_FREE, SLOT_LOADING, SLOT_READY, SLOT_PINNED };

struct pg_slot {
    int32_t key;     /* -1: free */
    int32_t wave;    /* position in the wave's ids, -1: not of the wave */
    uint8_t state;   /* enum pg_slot_state */
    uint8_t todo;    /* reads still to be submitted, a bit each */
    uint8_t failed;  /* reads that failed */
    uint8_t pending; /* reads under way */
    bool retried;
    bool by_hint;   /* loaded for a hint: its bytes count as a hint's */
    bool waits;     /* nobody wants it yet: its reads go after demand */
    bool hinted;    /* brought by a hint and not wanted since */
    bool uncertain; /* so was the hint: the self-check watches it */
    bool queued;    /* in the demand queue */
    uint64_t begin_ns;
};

struct pg_under_way {
    int n;
    uint64_t bytes;
};

/* Who may be evicted: what is ready, not pinned and not of the wave; of that, what is not hinted
 * for certain; of that, what is not hinted at all. */
enum pg_may { MAY_DEMAND, MAY_CERTAIN, MAY_HINT, N_MAY };

/* Of each of the wave's ids. */
enum pg_want { WANT_MISSING, WANT_LOADING, WANT_READY, WANT_DELIVERED };

struct pg_store_wave {
    bool active;
    bool failed; /* `bad` failed twice */
    struct pg_read bad;
    int block;
    int n, n_delivered;
    int next_missing; /* first id that may be WANT_MISSING */
    int n_missing;
    int n_ready, next_ready; /* s->ready[next_ready .. n_ready) can be delivered */
    int n_placed, next_out;  /* s->placed[next_out .. n_placed) have a slot, or left out of turn */
    bool held;               /* the caller holds the one whose turn it is: any other may go */
};

/* What a block's last hint said. Its queue is ids[next .. n). */
struct pg_hint {
    int n, next;
    bool certain;
};

/* Whether uncertain hints pay; see store_hint.c. Counts of this window of decode rows. */
struct pg_self_check {
    uint64_t read, used;       /* bytes of uncertain hints */
    uint64_t evicted;          /* bytes demanded again soon after they left for one */
    uint64_t alone_ns;         /* with hinted reads under way and no others */
    uint64_t bytes0, busy0_ns; /* all bytes read and the io's busy time when the window began */
    int n_rows;
    int pause;      /* windows still to be passed without such reads */
    int next_pause; /* windows to pass when they do not pay again */
};

struct pg_store {
    struct pg_store_options opt;
    struct pg_policy *policy;
    int depth;
    uint64_t window_bytes;
    struct pg_span span;
    int block; /* of the last wave */

    struct pg_slot *slots; /* [n_slots] */
    struct pg_read
        *reads;       /* [n_slots][PG_SLABS] one a slab at most, fewer where slabs lie together */
    int32_t *slot_of; /* [n_block * n_expert], -1: nowhere */
    int32_t *free_slots; /* stack */
    int n_free, n_pinned;
    uint8_t *may[N_MAY]; /* [n_slots] who may be evicted; enum pg_may */

    struct pg_store_wave wave;
    int32_t *ids;    /* [n_expert] of the wave */
    uint8_t *want;   /* [n_expert] enum pg_want */
    int32_t *ready;  /* [n_expert] positions in ids, hits first, then as they arrive */
    int32_t *placed; /* [n_expert] positions, hits first, then as they were given slots */

    int32_t *queue; /* ring of slots with reads to submit on demand, [n_slots] */
    int queue_head, n_queue;

    struct pg_hint *hints;            /* [n_block] */
    int32_t *hint_ids;                /* [n_block][n_expert] */
    uint8_t *hinted;                  /* [n_block * n_expert] 0: no, 1: uncertain, 2: certain */
    uint8_t *used;                    /* [n_block * n_expert] wanted since the last look */
    int n_hints_queued;               /* over all blocks */
    int hint_slot;                    /* slot whose hinted reads are partly submitted, -1 */
    struct pg_under_way demand, hint; /* reads of slots that are wanted, and of slots that wait */
    bool alone;                       /* only hinted reads are under way */
    uint64_t alone_since_ns;
    uint32_t n_waves;
    uint32_t
        *ghost; /* [n_block * n_expert] n_waves when it left for an uncertain hint, 0: it did not */
    struct pg_self_check check;

    struct pg_store_stats stats;
    char *memory;
};

/* store.c for the others */
const struct pg_place *pg_store_place(const struct pg_store *s, int key);
void pg_store_mark(struct pg_store *s, int slot); /* may[][slot] anew */
void pg_store_load(struct pg_store *s, int slot, int key, bool by_hint);
bool pg_store_submit(struct pg_store *s, int slot);  /* one read; false: the io is full */
void pg_store_arrived(struct pg_store *s, int slot); /* it is ready */
int pg_store_take_slot(struct pg_store *s, bool for_hint, int *evicted);    /* empty, or -1 */
struct pg_under_way pg_store_under_way(const struct pg_store *s, int slot); /* of one slot */
uint64_t pg_store_expert_bytes(const struct pg_store *s, int key);          /* that a load reads */

/* store_hint.c */
void pg_store_hint_forget(struct pg_store *s, int block);
void pg_store_hint_pump(struct pg_store *s);
/* For the self-check: a hinted expert is wanted; a missing one is; reads began or ended. */
void pg_store_hint_used(struct pg_store *s, int slot);
void pg_store_hint_missed(struct pg_store *s, int key);
void pg_store_watch(struct pg_store *s, const struct pg_read *ended);

#endif
