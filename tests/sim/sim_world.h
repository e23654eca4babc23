/* SPDX-License-Identifier: MIT
 * A store on a simulated disk, with what a test needs to know about it.
 */
#ifndef PG_TESTS_SIM_WORLD_H
#define PG_TESTS_SIM_WORLD_H

#include "base/os.h"
#include "store/store.h"

#include <stdlib.h>
#include <string.h>

struct world {
    struct pg_io *io;
    struct pg_store *store;
    struct pg_place *place;
    void *arena;
    size_t arena_bytes;
    int n_block, n_expert, n_slots;
};

struct world_options {
    struct pg_io_sim sim;
    int n_block, n_expert, n_slots;
    uint64_t slab_bytes; /* of each slab; 0: random sizes, some slabs absent, odd offsets */
    const struct pg_place *place; /* of the first expert, others 64 KiB further each; NULL: below */
    bool packed; /* an expert's slabs lie together, in any order, mostly without a gap */
    enum pg_evict evict;
    enum pg_hints hints;
    bool steady;
    size_t window_bytes;
    struct pg_trace *trace;
};

struct random {
    uint64_t state;
};

static inline uint64_t random_next(struct random *r)
{
    r->state ^= r->state << 13;
    r->state ^= r->state >> 7;
    r->state ^= r->state << 17;
    return r->state * 0x2545f4914f6cdd1du;
}

static inline int random_below(struct random *r, int n)
{
    return (int)((random_next(r) >> 33) % (uint64_t)n);
}

static inline bool random_chance(struct random *r, double p)
{
    return (double)(random_next(r) >> 11) * 0x1p-53 < p;
}

/* n distinct ids below n_expert, in random order. */
static inline void random_ids(struct random *r, int n_expert, int32_t *ids, int n)
{
    int32_t all[1024];
    PG_ASSERT(n <= n_expert && n_expert <= (int)PG_COUNT(all));
    for (int i = 0; i < n_expert; i++)
        all[i] = i;
    for (int i = 0; i < n; i++) {
        int j = i + random_below(r, n_expert - i);
        ids[i] = all[j];
        all[j] = all[i];
    }
}

/* Slabs one after the other in three files, as in a GGUF file; in each a gap of a few bytes. */
static inline void place_all(struct world *w, const struct world_options *opt)
{
    struct random r = {opt->sim.seed * 2 + 1};
    uint64_t at[PG_SLABS] = {0};
    for (int key = 0; key < w->n_block * w->n_expert; key++) {
        for (int k = 0; k < PG_SLABS; k++) {
            uint64_t bytes = opt->slab_bytes;
            if (!bytes && !random_chance(&r, 0.1))
                bytes = 1 + (uint64_t)random_below(&r, 9000);
            at[k] += opt->slab_bytes ? 0 : (uint64_t)random_below(&r, 100);
            w->place[key].file[k] = k;
            w->place[key].offset[k] = at[k];
            w->place[key].bytes[k] = bytes;
            at[k] += bytes;
        }
    }
}

/* An expert's slabs one after the other in one file, in any order. Without sizes of its own a world
 * has gaps, too: none, some bytes, or so many that a read of its own is cheaper. */
static inline void pack_all(struct world *w, const struct world_options *opt)
{
    struct random r = {opt->sim.seed * 2 + 1};
    uint64_t at = opt->slab_bytes ? 0 : 100;
    for (int key = 0; key < w->n_block * w->n_expert; key++) {
        int32_t order[PG_SLABS];
        random_ids(&r, PG_SLABS, order, PG_SLABS);
        for (int i = 0; i < PG_SLABS; i++) {
            const int k = opt->slab_bytes ? i : order[i];
            uint64_t bytes = opt->slab_bytes;
            if (!bytes && !random_chance(&r, 0.1))
                bytes = 1 + (uint64_t)random_below(&r, 9000);
            if (!opt->slab_bytes && random_chance(&r, 0.4))
                at += (uint64_t)random_below(&r, 20000);
            w->place[key].file[k] = 0;
            w->place[key].offset[k] = at;
            w->place[key].bytes[k] = bytes;
            at += bytes;
        }
    }
}

static inline void place_alike(struct world *w, const struct pg_place *first)
{
    for (int key = 0; key < w->n_block * w->n_expert; key++) {
        w->place[key] = *first;
        for (int k = 0; k < PG_SLABS; k++)
            w->place[key].offset[k] += (uint64_t)key << 16;
    }
}

static inline void world_open(struct world *w, const struct world_options *opt)
{
    struct pg_err err;
    *w =
        (struct world){.n_block = opt->n_block, .n_expert = opt->n_expert, .n_slots = opt->n_slots};
    w->place = pg_calloc((size_t)(w->n_block * w->n_expert), sizeof(*w->place));
    PG_ASSERT(w->place);
    if (opt->place)
        place_alike(w, opt->place);
    else if (opt->packed)
        pack_all(w, opt);
    else
        place_all(w, opt);
    size_t slot_bytes = pg_store_slot_bytes(w->place, w->n_block * w->n_expert);
    w->arena_bytes = slot_bytes * (size_t)w->n_slots;
    w->arena = pg_pages_map(w->arena_bytes);
    PG_ASSERT(w->arena);
    PG_ASSERT(pg_io_open_sim(&w->io, &opt->sim, &err) == 0);
    struct pg_store_options o = {
        .io = w->io,
        .n_block = w->n_block,
        .n_expert = w->n_expert,
        .place = w->place,
        .n_slots = w->n_slots,
        .slot_bytes = slot_bytes,
        .arena = w->arena,
        .evict = opt->evict,
        .hints = opt->hints,
        .steady = opt->steady,
        .window_bytes = opt->window_bytes,
        .trace = opt->trace,
    };
    PG_ASSERT(pg_store_open(&w->store, &o, &err) == 0);
}

static inline void world_close(struct world *w)
{
    pg_store_close(w->store);
    pg_io_close(w->io);
    pg_pages_unmap(w->arena, w->arena_bytes);
    free(w->place);
}

/* Bytes that reading an expert takes. */
static inline uint64_t world_expert_bytes(const struct world *w, int block, int expert)
{
    return pg_store_slot_bytes(&w->place[block * w->n_expert + expert], 1);
}

/* Asserts that the lease shows the bytes of that expert. A sparse disk writes only the ends of
 * pages; both ends of each slab and the first page boundary in it are looked at. */
static inline void world_check_lease(const struct world *w, int block, const struct pg_lease *lease)
{
    const struct pg_place *place = &w->place[block * w->n_expert + lease->expert];
    for (int k = 0; k < PG_SLABS; k++) {
        const char *slab = lease->slab[k];
        size_t n = (size_t)place->bytes[k];
        PG_ASSERT((slab != NULL) == (n != 0));
        if (!n)
            continue;
        uint64_t ends[2] = {place->offset[k], place->offset[k] + n - 1};
        for (int e = 0; e < 2; e++) {
            unsigned char want;
            uint64_t in_page = ends[e] % PG_PAGE;
            if (in_page >= 64 && in_page < PG_PAGE - 64)
                continue; /* not written by a sparse disk */
            pg_io_sim_fill(place->file[k], ends[e], &want, 1);
            PG_ASSERT((unsigned char)slab[e ? n - 1 : 0] == want);
        }
        /* The last byte before a page boundary inside the slab, and the first after it. */
        uint64_t edge = (place->offset[k] / PG_PAGE + 1) * PG_PAGE;
        if (edge > place->offset[k] && edge < place->offset[k] + n) {
            char want[2];
            pg_io_sim_fill(place->file[k], edge - 1, want, 2);
            PG_ASSERT(!memcmp(slab + (edge - 1 - place->offset[k]), want, 2));
        }
    }
}

static inline struct pg_store_stats world_stats(const struct world *w)
{
    struct pg_store_stats st;
    pg_store_stats(w->store, &st);
    return st;
}

#endif
