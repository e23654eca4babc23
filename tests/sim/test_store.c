/* SPDX-License-Identifier: MIT
 * The store on a simulated disk: random routes, hints, latencies, failures and sizes, with every
 * invariant derived anew; and the promises of store.h one by one.
 */
#include "helpers.h"

#include "base/os.h"
#include "sim/sim_world.h"
#include "sim/store_check.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- random worlds ------------------------------------------------------------------------- */

struct run {
    struct world w;
    struct random r;
    bool clean; /* no read fails and no wave is abandoned */
    double hint_rate, check_rate;
    uint64_t n_delivered, n_failed_waves, demand_bytes, n_requests;
    struct pg_lease held[64];
    int n_held;
};

static void release_some(struct run *x, int block, int keep)
{
    while (x->n_held > keep) {
        int i = random_below(&x->r, x->n_held);
        world_check_lease(&x->w, block, &x->held[i]);
        pg_store_release(x->w.store, &x->held[i]);
        x->held[i] = x->held[--x->n_held];
    }
}

static void random_hints(struct run *x, int block)
{
    int32_t ids[64];
    if (!random_chance(&x->r, x->hint_rate))
        return;
    int ahead = 1 + random_below(&x->r, x->w.n_block);
    int n = random_below(&x->r, x->w.n_expert + 1);
    random_ids(&x->r, x->w.n_expert, ids, n);
    pg_store_hint(x->w.store, (block + ahead) % x->w.n_block, ids, n, random_chance(&x->r, 0.5));
}

static void random_pause(struct run *x)
{
    if (random_chance(&x->r, 0.3))
        pg_io_sim_advance(x->w.io, (uint64_t)random_below(&x->r, 400000));
    if (random_chance(&x->r, 0.3))
        pg_store_poll(x->w.store);
    if (random_chance(&x->r, x->check_rate))
        pg_store_check(x->w.store);
}

/* Delivers the wave; each id exactly once, at most n_slots - 1 held at a time. */
static void run_wave(struct run *x, int block, const int32_t *ids, int n)
{
    bool seen[64] = {false};
    int n_seen = 0, rc = 0;
    int most = PG_MIN(x->w.n_slots - 1, (int)PG_COUNT(x->held));
    struct pg_err err = {0};
    pg_store_acquire(x->w.store, block, ids, n);
    x->n_requests += (uint64_t)n;
    for (;;) {
        random_pause(x);
        if (!x->clean && random_chance(&x->r, 0.002)) {
            release_some(x, block, 0);
            pg_store_abandon(x->w.store);
            return;
        }
        if (random_chance(&x->r, 0.3))
            random_hints(x, block);
        release_some(x, block, random_below(&x->r, most));
        struct pg_lease lease;
        int n_ready = pg_store_n_ready(x->w.store);
        uint64_t before = pg_io_now(x->w.io);
        rc = pg_store_next(x->w.store, &lease, &err);
        assert_true(n_ready == 0 || (rc == 1 && pg_io_now(x->w.io) == before));
        if (rc != 1)
            break;
        assert_int_equal(ids[lease.index], lease.expert);
        assert_false(seen[lease.expert]);
        seen[lease.expert] = true;
        n_seen++;
        x->held[x->n_held++] = lease;
    }
    if (rc < 0) {
        assert_int_equal(rc, PG_EIO);
        assert_int_equal(err.code, PG_EIO);
        assert_false(x->clean);
        x->n_held = 0;
        x->n_failed_waves++;
        return;
    }
    assert_int_equal(n_seen, n);
    x->n_delivered += (uint64_t)n;
    release_some(x, block, 0);
}

static uint64_t run_world(uint64_t seed, int n_steps, uint64_t *n_failed_waves)
{
    struct run x = {.r = {seed * 0x9e3779b97f4a7c15u + 1}};
    struct random *r = &x.r;
    int n_block = 1 + random_below(r, 6), n_expert = 1 + random_below(r, 24);
    bool faulty = random_chance(r, 0.4);
    struct world_options opt = {
        .n_block = n_block,
        .n_expert = n_expert,
        .n_slots = 2 + (random_chance(r, 0.3) ? 0 : random_below(r, n_block * n_expert + 3)),
        .slab_bytes = random_chance(r, 0.3) ? 4096 : 0,
        .packed = random_chance(r, 0.4),
        .evict = (enum pg_evict)random_below(r, PG_EVICT_COUNT),
        .hints = (enum pg_hints)random_below(r, 3),
        .window_bytes = random_chance(r, 0.5) ? 1 + (size_t)random_below(r, 100000) : 0,
        .sim = {.seed = seed,
                .latency_ns = (uint64_t)random_below(r, 100000),
                .jitter_ns = (uint64_t)random_below(r, 100000),
                .bytes_per_s = random_chance(r, 0.2) ? 0 : 1000000000u,
                .depth = 1 + random_below(r, 20),
                .shuffle = random_chance(r, 0.5),
                .sparse = true,
                .fail_rate = faulty ? (random_chance(r, 0.3) ? 0.3 : 0.01) : 0,
                .short_rate = random_chance(r, 0.3) ? 0.2 : 0},
    };
    world_open(&x.w, &opt);
    x.clean = !faulty;
    x.hint_rate = random_chance(r, 0.3) ? 0 : 0.5;
    x.check_rate = 0.02;
    int wave_most = random_chance(r, 0.5) ? PG_MIN(4, n_expert) : n_expert;
    for (int step = 0; step < n_steps; step++) {
        pg_store_step(x.w.store, random_chance(r, 0.9) ? 1 + random_below(r, 3) : 0);
        for (int block = 0; block < n_block; block++) {
            int32_t ids[64];
            int n = random_below(r, wave_most + 1);
            random_ids(r, n_expert, ids, n);
            random_hints(&x, block);
            run_wave(&x, block, ids, n);
        }
        if (random_chance(r, 0.01)) {
            pg_store_drain(x.w.store);
            assert_int_equal(pg_io_n_pending(x.w.io), 0);
            pg_store_check(x.w.store);
        }
    }
    struct pg_store_stats st = world_stats(&x.w);
    assert_true(st.requests == x.n_requests);
    assert_true(st.requests == st.hits + st.hinted_in_time + st.hinted_late + st.missed);
    assert_true(st.hint_bytes_read <= st.bytes_read);
    if (!faulty) {
        assert_true(st.read_errors == 0);
        assert_true(st.hint_bytes_used <= st.hint_bytes_read);
    }
    if (opt.hints == PG_HINTS_OFF || x.hint_rate == 0)
        assert_true(st.hint_bytes_read == 0 && st.hinted_in_time + st.hinted_late == 0);
    *n_failed_waves += x.n_failed_waves;
    world_close(&x.w);
    return x.n_delivered;
}

static void test_random_worlds(void **state)
{
    (void)state;
    uint64_t n_delivered = 0, n_failed = 0;
    for (uint64_t seed = 1; seed <= 1500; seed++)
        n_delivered += run_world(seed, 60, &n_failed);
    assert_true(n_delivered > 1000000);
    assert_true(n_failed > 1000);
}

/* ---- the promises of store.h, one by one --------------------------------------------------- */

/* Four blocks of eight experts of three pages each; a millisecond an expert. */
static struct world_options plain(int n_slots)
{
    return (struct world_options){
        .n_block = 4,
        .n_expert = 8,
        .n_slots = n_slots,
        .slab_bytes = PG_PAGE,
        .hints = PG_HINTS_ON,
        .window_bytes = 5 * PG_PAGE, /* less than two experts */
        .sim = {.seed = 1, .bytes_per_s = 3 * PG_PAGE * 1000, .sparse = true},
    };
}
#define EXPERT_BYTES (3 * PG_PAGE)
#define EXPERT_NS    1000000u

static const int32_t id[8] = {0, 1, 2, 3, 4, 5, 6, 7};

/* Takes and gives back the whole wave; returns the order as digits. */
static int finish_wave(struct world *w, int block)
{
    struct pg_lease lease;
    struct pg_err err;
    int order = 0, rc;
    while ((rc = pg_store_next(w->store, &lease, &err)) == 1) {
        world_check_lease(w, block, &lease);
        pg_store_release(w->store, &lease);
        order = order * 10 + lease.expert;
    }
    assert_int_equal(rc, 0);
    pg_store_check(w->store);
    return order;
}

static int run_ids(struct world *w, int block, const int32_t *ids, int n)
{
    pg_store_acquire(w->store, block, ids, n);
    return finish_wave(w, block);
}

static void test_hits_first(void **state)
{
    (void)state;
    struct world w;
    struct world_options opt = plain(8);
    opt.sim.depth = PG_SLABS; /* one after the other */
    world_open(&w, &opt);
    int32_t some[] = {5, 6}, all[] = {1, 5, 2, 6};
    assert_int_equal(run_ids(&w, 0, some, 2), 56);
    pg_store_acquire(w.store, 0, all, 4);
    assert_int_equal(pg_store_n_ready(w.store), 2);
    assert_int_equal(finish_wave(&w, 0), 5612);
    struct pg_store_stats st = world_stats(&w);
    assert_int_equal(st.requests, 6);
    assert_int_equal(st.hits, 2);
    assert_int_equal(st.missed, 4);
    assert_int_equal(st.bytes_read, 4 * EXPERT_BYTES);
    /* What is there is not read again, wanted or hinted. */
    uint64_t n_reads = pg_io_sim_n_reads(w.io);
    pg_store_hint(w.store, 0, all, 4, true);
    pg_store_poll(w.store);
    run_ids(&w, 0, all, 4);
    assert_int_equal(pg_io_sim_n_reads(w.io), n_reads);
    world_close(&w);
}

/* Slabs that touch come with one read, in whatever order they lie, and so do those a page apart;
 * what is further away, or in another file, is a read of its own. */
static void test_packed_is_one_read(void **state)
{
    (void)state;
    static const struct {
        uint64_t at[PG_SLABS], bytes[PG_SLABS]; /* of expert 0; the others follow */
        int file[PG_SLABS], n_reads;
        uint64_t read; /* bytes */
    } cases[] = {
        {{0, 4096, 8192}, {4096, 4096, 4096}, {0}, 1, 12288},
        {{100, 5000, 9000}, {4900, 4000, 50}, {0}, 1, 12288},
        {{20000, 100, 9000}, {4000, 8900, 11000}, {0}, 1, 24576},
        {{0, 8192, 16384}, {4096, 4096, 4096}, {0}, 1, 20480}, /* a page between them */
        {{0, 12288, 24576}, {4096, 4096, 4096}, {0}, 3, 12288},
        {{0, 12288, 4096}, {4096, 4096, 8192}, {0}, 1, 16384}, /* the last joins the first two */
        {{0, 4096, 16384}, {4096, 4096, 4096}, {0}, 2, 12288},
        {{0, 4096, 8192}, {0, 4096, 4096}, {0}, 1, 8192}, /* two slabs, as Switch has */
        {{0, 4096, 8192}, {4096, 4096, 4096}, {0, 1, 0}, 2, 16384},
    };
    for (size_t c = 0; c < PG_COUNT(cases); c++) {
        struct world w;
        struct world_options opt = plain(8);
        struct pg_place place;
        memcpy(place.file, cases[c].file, sizeof(place.file));
        memcpy(place.offset, cases[c].at, sizeof(place.offset));
        memcpy(place.bytes, cases[c].bytes, sizeof(place.bytes));
        opt.place = &place;
        opt.sim.sparse = false;
        world_open(&w, &opt);
        run_ids(&w, 0, id, 4);
        assert_int_equal(pg_io_sim_n_reads(w.io), 4 * cases[c].n_reads);
        assert_int_equal(world_stats(&w).bytes_read, 4 * cases[c].read);
        world_close(&w);
    }
}

static void test_late_hint_is_joined(void **state)
{
    (void)state;
    struct world w;
    struct world_options opt = plain(8);
    world_open(&w, &opt);
    pg_store_hint(w.store, 1, id, 1, false);
    pg_io_sim_advance(w.io, EXPERT_NS / 2);
    uint64_t begin = pg_io_now(w.io);
    run_ids(&w, 1, id, 1);
    assert_true(pg_io_now(w.io) - begin <= EXPERT_NS / 2 + 10);
    assert_int_equal(pg_io_sim_n_reads(w.io), PG_SLABS);
    struct pg_store_stats st = world_stats(&w);
    assert_int_equal(st.hinted_late, 1);
    assert_int_equal(st.requests, 1);
    assert_int_equal(st.hint_bytes_read, EXPERT_BYTES);
    assert_int_equal(st.hint_bytes_used, EXPERT_BYTES);
    assert_true(st.stall_ns >= EXPERT_NS / 2 - 10);
    world_close(&w);
}

static void test_hint_in_time(void **state)
{
    (void)state;
    struct world w;
    struct world_options opt = plain(4);
    world_open(&w, &opt);
    pg_store_hint(w.store, 1, id, 2, false);
    pg_io_sim_advance(w.io, 3 * EXPERT_NS);
    run_ids(&w, 1, id, 1);
    struct pg_store_stats st = world_stats(&w);
    assert_int_equal(st.hinted_in_time, 1);
    assert_int_equal(st.stall_ns, 0);
    run_ids(&w, 1, id, 1);
    assert_int_equal(world_stats(&w).hits, 1);
    /* The other one is not wanted, and leaves unused. */
    for (int block = 2; block < 4; block++)
        run_ids(&w, block, id, 2);
    run_ids(&w, 0, id, 4);
    st = world_stats(&w);
    assert_int_equal(st.hinted_unused, 1);
    assert_int_equal(st.hint_bytes_read, 2 * EXPERT_BYTES);
    assert_int_equal(st.hint_bytes_used, EXPERT_BYTES);
    world_close(&w);
}

/* A demand read is delayed by no more than the two hinted ones that may be under way. */
static void test_demand_before_hints(void **state)
{
    (void)state;
    struct world w;
    struct world_options opt = plain(16);
    world_open(&w, &opt);
    pg_store_hint(w.store, 1, id, 8, false);
    pg_store_hint(w.store, 2, id, 8, false);
    assert_int_equal(pg_io_n_pending(w.io), 2 * PG_SLABS);
    uint64_t begin = pg_io_now(w.io);
    run_ids(&w, 3, id, 1);
    assert_true(pg_io_now(w.io) - begin <= 3 * EXPERT_NS + 1000);
    /* While demand has reads that are not submitted yet, no hint is. */
    opt.sim.depth = 2;
    world_close(&w);
    world_open(&w, &opt);
    pg_store_acquire(w.store, 0, id, 4);
    pg_store_hint(w.store, 1, id, 8, true);
    finish_wave(&w, 0);
    assert_true(world_stats(&w).stall_ns <= 5 * EXPERT_NS);
    world_close(&w);
}

/* A certain hint is not read beside demand that it does not fit into the window with: the demand
 * takes its own time and no more, and the hint follows at once. In a larger window both are read,
 * and share the disk. */
static void test_certain_hint_behind_demand(void **state)
{
    (void)state;
    const size_t windows[] = {5 * PG_PAGE, 6 * PG_PAGE};
    for (int i = 0; i < 2; i++) {
        struct world w;
        struct world_options opt = plain(8);
        opt.window_bytes = windows[i];
        world_open(&w, &opt);
        pg_store_acquire(w.store, 0, id, 1);
        pg_store_hint(w.store, 1, id, 1, true);
        assert_int_equal(pg_io_n_pending(w.io), (i + 1) * PG_SLABS);
        finish_wave(&w, 0);
        assert_true(pg_io_now(w.io) <= (uint64_t)(i + 1) * EXPERT_NS + 1000);
        run_ids(&w, 1, id, 1);
        assert_true(pg_io_now(w.io) <= 2 * EXPERT_NS + 1000);
        world_close(&w);
    }
}

/* The disk serves what it has all at once, so not too much is given to it: the first expert arrives
 * long before the last, and the last no later than it would otherwise. */
static void test_first_comes_first(void **state)
{
    (void)state;
    struct world w;
    struct pg_lease lease;
    struct pg_err err;
    struct world_options opt = plain(8);
    world_open(&w, &opt);
    pg_store_acquire(w.store, 0, id, 6);
    assert_int_equal(pg_store_next(w.store, &lease, &err), 1);
    pg_store_release(w.store, &lease);
    assert_true(pg_io_now(w.io) <= 5 * EXPERT_NS / 2);
    finish_wave(&w, 0);
    assert_true(pg_io_now(w.io) <= 6 * EXPERT_NS + 1000);
    world_close(&w);
}

/* Hints neither take what the wave holds, nor what is hinted already. */
static void test_hint_takes_nothing_needed(void **state)
{
    (void)state;
    struct world w;
    struct pg_lease lease[2];
    struct pg_err err;
    struct world_options opt = plain(4);
    world_open(&w, &opt);
    run_ids(&w, 3, id, 4);
    pg_store_acquire(w.store, 0, id, 2);
    for (int i = 0; i < 2; i++)
        assert_int_equal(pg_store_next(w.store, &lease[i], &err), 1);
    pg_store_hint(w.store, 1, id, 8, true);
    pg_store_hint(w.store, 2, id, 8, true);
    pg_io_sim_advance(w.io, 20 * EXPERT_NS);
    pg_store_poll(w.store);
    pg_store_check(w.store);
    for (int i = 0; i < 2; i++) {
        world_check_lease(&w, 0, &lease[i]);
        pg_store_release(w.store, &lease[i]);
    }
    finish_wave(&w, 0);
    pg_io_sim_advance(w.io, 20 * EXPERT_NS);
    run_ids(&w, 1, id, 2); /* the first two of the nearest block are there */
    assert_int_equal(world_stats(&w).hinted_in_time, 2);
    world_close(&w);
}

static void test_new_hint_replaces(void **state)
{
    (void)state;
    struct world w;
    struct world_options opt = plain(16);
    world_open(&w, &opt);
    int32_t other[] = {6, 7};
    pg_store_hint(w.store, 1, id, 6, false); /* two of them are submitted at once */
    pg_store_hint(w.store, 1, other, 2, false);
    pg_io_sim_advance(w.io, 2 * EXPERT_NS);
    for (int i = 0; i < 8; i++) {
        pg_store_poll(w.store);
        pg_io_sim_advance(w.io, 2 * EXPERT_NS);
    }
    assert_int_equal(pg_io_sim_n_reads(w.io), 4 * PG_SLABS);
    pg_store_drain(w.store);
    run_ids(&w, 1, other, 2);
    assert_int_equal(world_stats(&w).hinted_in_time, 2);
    world_close(&w);
}

static void test_wave_larger_than_slots(void **state)
{
    (void)state;
    for (int n_slots = PG_SLOTS_MIN; n_slots < 8; n_slots++) {
        struct world w;
        struct world_options opt = plain(n_slots);
        world_open(&w, &opt);
        for (int block = 0; block < 4; block++) {
            run_ids(&w, block, id, 8);
            pg_store_hint(w.store, (block + 1) % 4, id, 8, block & 1);
        }
        assert_int_equal(world_stats(&w).requests, 32);
        world_close(&w);
    }
}

/* As the engine does: all that is there is computed together and released in that order. */
static void run_groups(struct world *w)
{
    struct pg_lease lease[64];
    int n_held = 0, rc = 1;
    for (; rc == 1; n_held = 0) {
        while ((n_held == 0 || pg_store_n_ready(w->store) > 0) &&
               (rc = pg_store_next(w->store, &lease[n_held], NULL)) == 1)
            n_held++;
        for (int i = 0; i < n_held; i++)
            pg_store_release(w->store, &lease[i]);
    }
    assert_int_equal(rc, 0);
}

/* Random waves, some larger than the slots, with hints of which some are right. */
static struct pg_store_stats run_steady(uint64_t seed, const struct pg_io_sim *sim, int n_slots)
{
    struct world w;
    struct world_options opt = {.sim = *sim,
                                .n_block = 4,
                                .n_expert = 16,
                                .n_slots = n_slots,
                                .evict = (enum pg_evict)(seed % PG_EVICT_COUNT),
                                .steady = true,
                                .window_bytes = 30000};
    struct random r = {seed * 2 + 1}, time = {sim->latency_ns * 2 + 1};
    world_open(&w, &opt);
    for (int step = 0; step < 200; step++) {
        int32_t ids[16], next[16];
        int n = 1 + random_below(&r, step % 10 ? 6 : 16);
        bool certain = random_chance(&r, 0.5);
        random_ids(&r, 16, ids, n);
        random_ids(&r, 16, next, 4);
        pg_store_step(w.store, 1);
        pg_store_acquire(w.store, step % 4, ids, n);
        pg_store_hint(w.store, (step + 1) % 4, next, 4, certain);
        pg_io_sim_advance(w.io, (uint64_t)random_below(&time, 300000));
        run_groups(&w);
        pg_store_check(w.store);
        for (int i = random_below(&time, 3); i > 0; i--) {
            pg_io_sim_advance(w.io, (uint64_t)random_below(&time, 300000));
            pg_store_poll(w.store);
        }
    }
    struct pg_store_stats st = world_stats(&w);
    world_close(&w);
    return st;
}

/* How fast the disk is, in which order it answers and how much it takes at a time: the same counts.
 */
static void test_steady(void **state)
{
    (void)state;
    static const struct pg_io_sim disks[] = {
        {.seed = 7, .latency_ns = 1000, .bytes_per_s = 0, .depth = 64},
        {.seed = 7, .latency_ns = 90000, .jitter_ns = 200000, .shuffle = true, .depth = 16},
        {.seed = 7, .latency_ns = 20000, .bytes_per_s = 100 << 20, .depth = 2, .shuffle = true},
    };
    for (uint64_t seed = 1; seed <= 30; seed++) {
        int n_slots = 2 + (int)(seed % 23);
        struct pg_store_stats first = run_steady(seed, &disks[0], n_slots);
        assert_true(first.hint_bytes_read > 0 && first.hints_active);
        for (size_t i = 1; i < PG_COUNT(disks); i++) {
            struct pg_store_stats st = run_steady(seed, &disks[i], n_slots);
            assert_int_equal(st.bytes_read, first.bytes_read);
            assert_int_equal(st.hint_bytes_read, first.hint_bytes_read);
            assert_int_equal(st.hits, first.hits);
            assert_int_equal(st.hinted_in_time, first.hinted_in_time);
            assert_int_equal(st.hinted_late, first.hinted_late);
            assert_int_equal(st.missed, first.missed);
            assert_int_equal(st.hinted_unused, first.hinted_unused);
        }
    }
}

/* Read n fails once, for n = 1, 2, 3 ...: nobody notices. */
static void test_failed_once(void **state)
{
    (void)state;
    for (uint64_t n = 1; n <= 4 * PG_SLABS; n++) {
        struct world w;
        struct world_options opt = plain(4);
        opt.sim.fail_at = n;
        world_open(&w, &opt);
        assert_true(run_ids(&w, 0, id, 4) > 0);
        struct pg_store_stats st = world_stats(&w);
        assert_int_equal(st.read_errors, 1);
        assert_int_equal(st.missed, 4);
        assert_int_equal(st.bytes_read, 4 * EXPERT_BYTES);
        world_close(&w);
    }
}

static void test_failed_twice(void **state)
{
    (void)state;
    struct world w;
    struct pg_lease lease;
    struct pg_err err;
    struct world_options opt = plain(8);
    opt.sim.file_bytes = 10 * PG_PAGE; /* expert 9 on is past the end of the files */
    world_open(&w, &opt);
    run_ids(&w, 0, id, 8);
    pg_store_acquire(w.store, 1, id, 8);
    int rc;
    while ((rc = pg_store_next(w.store, &lease, &err)) == 1)
        ; /* keeps what it gets */
    assert_int_equal(rc, PG_EIO);
    assert_int_equal(err.code, PG_EIO);
    assert_true(err.text[0]);
    pg_store_check(w.store);
    assert_true(world_stats(&w).read_errors >= 2);
    pg_store_drain(w.store);
    run_ids(&w, 0, id, 8);
    world_close(&w);
}

/* A file that is written to: no wave of the last block is done any more, though every read went
 * well, and what the failed one had given out is nobody's. */
static void test_changed_file(void **state)
{
    (void)state;
    struct world w;
    struct pg_lease lease;
    struct pg_err err;
    struct world_options opt = plain(8);
    opt.sim.change_at = 2 * PG_SLABS;
    world_open(&w, &opt);
    run_ids(&w, 3, id, 1);
    for (int i = 0; i < 2; i++) {
        int rc;
        run_ids(&w, 2, id, 4);
        pg_store_acquire(w.store, 3, id, 4);
        while ((rc = pg_store_next(w.store, &lease, &err)) == 1)
            ; /* keeps what it gets */
        assert_int_equal(rc, PG_EIO);
        assert_non_null(strstr(err.text, "changed"));
        pg_store_check(w.store);
    }
    run_ids(&w, 0, id, 8);
    world_close(&w);
}

static void test_failed_hint(void **state)
{
    (void)state;
    struct world w;
    struct world_options opt = plain(8);
    opt.sim.fail_at = 2;
    world_open(&w, &opt);
    pg_store_hint(w.store, 1, id, 1, true);
    pg_io_sim_advance(w.io, 5 * EXPERT_NS);
    pg_store_poll(w.store);
    pg_store_check(w.store);
    run_ids(&w, 1, id, 1);
    struct pg_store_stats st = world_stats(&w);
    assert_int_equal(st.read_errors, 1);
    assert_int_equal(st.missed, 1);
    assert_int_equal(st.hinted_in_time + st.hinted_late, 0);
    world_close(&w);
}

/* What an abandoned wave has under way arrives, and what it had not submitted is not read. */
static void test_abandon(void **state)
{
    (void)state;
    struct world w;
    struct world_options opt = plain(8);
    opt.sim.depth = 4;
    world_open(&w, &opt);
    pg_store_abandon(w.store);
    pg_store_acquire(w.store, 0, id, 8);
    pg_store_abandon(w.store);
    pg_store_check(w.store);
    pg_store_drain(w.store);
    assert_int_equal(pg_io_sim_n_reads(w.io), 4);
    run_ids(&w, 0, id, 8);
    assert_int_equal(world_stats(&w).hits, 1);
    world_close(&w);
}

static void test_hints_off(void **state)
{
    (void)state;
    struct world w;
    struct world_options opt = plain(8);
    opt.hints = PG_HINTS_OFF;
    world_open(&w, &opt);
    pg_store_hint(w.store, 1, id, 8, true);
    assert_int_equal(pg_io_n_pending(w.io), 0);
    assert_false(world_stats(&w).hints_active);
    world_close(&w);
}

/* Uncertain hints that never come true stop and are tried again after a while; certain ones go on.
 */
static int count_stops(bool certain, int n_decode)
{
    struct world w;
    struct world_options opt = plain(8);
    opt.hints = PG_HINTS_AUTO;
    world_open(&w, &opt);
    int n_stops = 0;
    uint64_t read_while_off = 0;
    for (int step = 0; step < 400; step++) {
        bool before = world_stats(&w).hints_active;
        uint64_t bytes = world_stats(&w).hint_bytes_read;
        pg_store_step(w.store, n_decode);
        for (int block = 0; block < 4; block++) {
            int32_t wrong[] = {4 + step % 4};
            pg_store_hint(w.store, (block + 1) % 4, wrong, 1, certain);
            run_ids(&w, block, id + step % 3, 2);
            pg_io_sim_advance(w.io, EXPERT_NS / 4);
        }
        struct pg_store_stats st = world_stats(&w);
        n_stops += before && !st.hints_active;
        if (!before && !st.hints_active)
            read_while_off += st.hint_bytes_read - bytes;
    }
    if (!certain) /* what was under way when they stopped */
        assert_true(read_while_off <= (uint64_t)n_stops * 2 * EXPERT_BYTES);
    world_close(&w);
    return n_stops;
}

static void test_self_check(void **state)
{
    (void)state;
    assert_int_equal(count_stops(true, 1), 0);
    assert_int_equal(count_stops(false, 0), 0); /* prompts alone say nothing */
    int n = count_stops(false, 1);
    assert_true(n > 1);
    /* Decode rows count, however few or many a step has and whatever stands beside them. */
    assert_true(count_stops(false, 4) > n);
    assert_true(count_stops(false, 40) > n);
}

/* What a caller may not do, one wrong call each. */
static void misuse(struct world *w, int which)
{
    struct pg_lease lease;
    struct pg_err err;
    const int32_t twice[] = {1, 1};
    pg_store_acquire(w->store, 0, id, 2);
    PG_ASSERT(pg_store_next(w->store, &lease, &err) == 1);
    switch (which) {
    case 0: /* a second wave beside the first */
        pg_store_acquire(w->store, 1, id, 2);
        break;
    case 1: /* released twice */
        pg_store_release(w->store, &lease);
        pg_store_release(w->store, &lease);
        break;
    case 2: /* ended with a lease out */
        pg_store_abandon(w->store);
        break;
    case 3: /* the next wave with a lease of this one out */
        while (pg_store_next(w->store, &(struct pg_lease){0}, &err) == 1)
            continue;
        pg_store_acquire(w->store, 1, id, 2);
        break;
    case 4: /* ids that are not distinct */
        pg_store_release(w->store, &lease);
        pg_store_abandon(w->store);
        pg_store_drain(w->store);
        pg_store_acquire(w->store, 0, twice, 2);
        break;
    case 5: /* no such block */
        pg_store_hint(w->store, w->n_block, id, 1, true);
        break;
    }
}

static void test_misuse_is_caught(void **state)
{
    (void)state;
    for (int which = 0; which < 6; which++) {
        int status;
        fflush(NULL);
        pid_t child = fork();
        if (child == 0) {
            struct world w;
            struct world_options opt = plain(8);
            signal(SIGABRT, SIG_DFL); /* cmocka would take it for a failed test */
            close(STDERR_FILENO);
            world_open(&w, &opt);
            misuse(&w, which);
            _exit(0);
        }
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    }
}

/* Each expert read is an event, named for what asked for it, and so is each wait. */
static void test_trace_events(void **state)
{
    (void)state;
    struct world w;
    struct world_options opt = plain(8);
    struct pg_err err;
    char path[128];
    size_t n_text;
    assert_int_equal(pg_trace_open(&opt.trace, 64, &err), 0);
    world_open(&w, &opt);
    pg_store_hint(w.store, 1, id, 1, false);
    pg_io_sim_advance(w.io, 2 * EXPERT_NS);
    run_ids(&w, 1, id, 3);
    assert_int_equal(pg_trace_save(opt.trace, in_dir(path, "trace"), &err), 0);
    char *text = whole_file(path, &n_text);
    static const char *const names[] = {"\"hint\"", "\"demand\"", "\"stall\""};
    static const int counts[] = {1, 2, 1};
    for (int i = 0; i < 3; i++) {
        int n = 0;
        for (const char *at = text; (at = strstr(at, names[i])); at++)
            n++;
        assert_true(n >= counts[i]);
    }
    free(text);
    world_close(&w);
    pg_trace_close(opt.trace);
}

static void test_open_arguments(void **state)
{
    (void)state;
    struct world w;
    struct pg_store *s = NULL;
    struct pg_err err;
    struct world_options opt = plain(4);
    world_open(&w, &opt);
    struct pg_store_options good = {.io = w.io,
                                    .n_block = 4,
                                    .n_expert = 8,
                                    .place = w.place,
                                    .n_slots = 4,
                                    .slot_bytes = EXPERT_BYTES,
                                    .arena = w.arena};
    struct pg_store_options bad = good;
    bad.n_slots = 1;
    assert_int_equal(pg_store_open(&s, &bad, &err), PG_EBUDGET);
    bad = good;
    bad.slot_bytes = EXPERT_BYTES - PG_PAGE;
    assert_int_equal(pg_store_open(&s, &bad, &err), PG_EARG);
    bad = good;
    bad.arena = (char *)w.arena + 64;
    assert_int_equal(pg_store_open(&s, &bad, &err), PG_EARG);
    bad = good;
    bad.n_block = 0;
    assert_int_equal(pg_store_open(&s, &bad, &err), PG_EARG);
    bad = good;
    bad.evict = PG_EVICT_COUNT;
    assert_int_equal(pg_store_open(&s, &bad, &err), PG_EARG);
    assert_null(s);
    pg_store_close(NULL);
    w.place[3].bytes[1] = UINT64_MAX - 100;
    assert_int_equal(pg_store_open(&s, &good, &err), PG_EARG);
    w.place[3].bytes[1] = PG_PAGE;
    world_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hits_first),
        cmocka_unit_test(test_late_hint_is_joined),
        cmocka_unit_test(test_packed_is_one_read),
        cmocka_unit_test(test_hint_in_time),
        cmocka_unit_test(test_demand_before_hints),
        cmocka_unit_test(test_certain_hint_behind_demand),
        cmocka_unit_test(test_first_comes_first),
        cmocka_unit_test(test_hint_takes_nothing_needed),
        cmocka_unit_test(test_new_hint_replaces),
        cmocka_unit_test(test_wave_larger_than_slots),
        cmocka_unit_test(test_failed_once),
        cmocka_unit_test(test_failed_twice),
        cmocka_unit_test(test_failed_hint),
        cmocka_unit_test(test_abandon),
        cmocka_unit_test(test_hints_off),
        cmocka_unit_test(test_self_check),
        cmocka_unit_test(test_trace_events),
        cmocka_unit_test(test_open_arguments),
        cmocka_unit_test(test_random_worlds),
        cmocka_unit_test(test_changed_file),
        cmocka_unit_test(test_misuse_is_caught),
        cmocka_unit_test(test_steady),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
