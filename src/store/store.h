/* SPDX-License-Identifier: MIT
 * Where experts are: slots, leases, and what is read when.
 *
 * An expert is up to three slabs of a file (gate, up, down). A slot is memory for one expert; each
 * slab is read straight into it, page-aligned around the slab, and multiplied from there. Slabs
 * that lie side by side in a file, or a page apart, come with one read
 * (docs/decisions/018-packed.md).
 *
 *     slot:   free -> loading -> ready <-> pinned          (loading -> free when a read fails)
 *
 * A step works through a block's experts in a *wave*:
 *
 *     pg_store_acquire(s, block, ids, n)        wanted; reads of the missing start, demand first
 *     while (pg_store_next(s, &lease) == 1) {   hits first, then as they arrive; pins
 *         ... multiply from lease.slab[] ...
 *         pg_store_release(s, &lease);          unpins, exactly once each
 *     }
 *
 * A wave may be larger than the slots: experts are pinned as slots allow, and released ones make
 * room. One wave at a time. pg_store_hint says what will be wanted; it takes no lease, blocks on
 * nothing, evicts nothing that is pinned or wanted sooner, and may do nothing. A hinted read that
 * is under way when its expert is wanted is joined, not repeated. Demand reads always go before
 * hinted ones. Single-threaded: reads progress while the caller computes, and the queues are
 * refilled at each call; pg_store_poll does only that.
 *
 * Normally a slot is taken when the io has room for its reads, so who leaves, and which hints are
 * read at all, depends on how fast the disk is. A *steady* store takes slots at fixed points: for
 * the wave's experts in their order, for hints when all of these have a slot and when the wave is
 * over, waiting for the hinted reads there; and of a wave larger than the slots they leave in their
 * order. Then all counts are a function of the calls.
 */
#ifndef PG_STORE_STORE_H
#define PG_STORE_STORE_H

#include "base/trace.h"
#include "io/io.h"
#include "store/policy.h"

#define PG_SLABS 3

/* Where one expert's slabs lie. bytes 0: this slab does not exist. */
struct pg_place {
    int file[PG_SLABS];
    uint64_t offset[PG_SLABS];
    uint64_t bytes[PG_SLABS];
};

struct pg_store_options {
    struct pg_io *io;
    int n_block, n_expert;        /* key of an expert: block * n_expert + expert */
    const struct pg_place *place; /* [n_block * n_expert], borrowed while the store is open */
    int n_slots;                  /* >= PG_SLOTS_MIN */
    size_t slot_bytes;            /* pg_store_slot_bytes(place) */
    void *arena;                  /* n_slots * slot_bytes, page-aligned, borrowed */
    enum pg_evict evict;
    enum pg_hints hints;
    int n_exposed; /* the first of a step, when all others are hinted for certain; else 0 */
    bool steady;   /* placed at fixed points, see below; PG_HINTS_AUTO is as ON */
    struct pg_trace *trace; /* NULL: none */
    const int *block_of;    /* [n_block] the model's number of each, in the trace; NULL: the same */
    /* Another expert's reads begin only while fewer bytes are under way; 0 = 3 MiB. Disks serve
     * what they have all at once: with more, the first expert would arrive as late as the last. */
    size_t window_bytes;
};
#define PG_SLOTS_MIN 2

struct pg_lease {
    int index; /* position in the ids of pg_store_acquire */
    int expert;
    int slot;
    const void *slab[PG_SLABS];
};

struct pg_store_stats {
    uint64_t requests, hits, hinted_in_time, hinted_late, missed, hinted_unused;
    uint64_t bytes_read, hint_bytes_read, hint_bytes_used;
    uint64_t stall_ns, io_busy_ns, read_errors;
    bool hints_active;
};

struct pg_store;

size_t pg_store_slot_bytes(const struct pg_place *place, int n_place);
/* Heap that a store of this size needs besides the arena. */
size_t pg_store_heap_bytes(int n_block, int n_expert, int n_slots);
int pg_store_open(struct pg_store **out, const struct pg_store_options *opt, struct pg_err *err);
void pg_store_close(struct pg_store *s);

/* From now on steps go through these blocks, one after the other; until then through all. No wave
 * is under way, and no hint is kept. */
void pg_store_span(struct pg_store *s, struct pg_span span);
/* ids: distinct, in the order in which misses should be read. Never fails: errors show in _next. */
void pg_store_acquire(struct pg_store *s, int block, const int32_t *ids, int n);
/* 1: *out is pinned; 0: the wave is done; negative: a read failed twice, the wave is over, nothing
 * is pinned by it any more, and the store is usable. Waits when nothing is there yet. At the end of
 * a wave of a step's last block pg_io_check is asked: so no step that used a file which has changed
 * is ever done. */
int pg_store_next(struct pg_store *s, struct pg_lease *out, struct pg_err *err);
/* How many times pg_store_next would give a lease now, without waiting. The engine computes all
 * that is there in one parallel loop. */
int pg_store_n_ready(struct pg_store *s);
void pg_store_release(struct pg_store *s, const struct pg_lease *lease);
/* Ends a wave early (an error elsewhere); leases still held must be released first. */
void pg_store_abandon(struct pg_store *s);

/* here[e], e < n_expert: whether expert e of the block has a slot, arrived or on its way. */
void pg_store_here(const struct pg_store *s, int block, uint8_t *here);

/* out[block * n_expert + e]: PG_EXPERT_… of pregate.h; used since the last look. */
void pg_store_look(struct pg_store *s, uint8_t *out);

/* ids in order of confidence. certain: they will be wanted (a pre-gate has decided), so the policy
 * and the self-check treat them as such. A new hint for a block replaces what is still queued. */
void pg_store_hint(struct pg_store *s, int block, const int32_t *ids, int n, bool certain);
void pg_store_poll(struct pg_store *s);
/* Waits until all reads under way have arrived and drops queued hints. */
void pg_store_drain(struct pg_store *s);
/* A step with this many decode rows, beside others or not, has begun: the self-check's windows are
 * counted in them. */
void pg_store_step(struct pg_store *s, int n_decode);
void pg_store_stats(const struct pg_store *s, struct pg_store_stats *out);

#endif
