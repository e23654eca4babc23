/* SPDX-License-Identifier: MIT
 * The store on a simulated disk: random routes, hints, latencies, failures and sizes, with every
 * invariant derived anew; and the promises of store.h one by one.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/os.h"
#include "sim/sim_world.h"

#include <string.h>

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
        .evict = (enum pg_evict)random_below(r, PG_EVICT_COUNT),
        .hints = (enum pg_hints)random_below(r, 3),
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
        pg_store_step(x.w.store, random_chance(r, 0.9));
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
    assert_true(st.requests == st.hits + st.warned_in_time + st.warned_late + st.missed);
    assert_true(st.hint_bytes_read <= st.bytes_read);
    if (!faulty) {
        assert_true(st.read_errors == 0);
        assert_true(st.hint_bytes_used <= st.hint_bytes_read);
    }
    if (opt.hints == PG_HINTS_OFF || x.hint_rate == 0)
        assert_true(st.hint_bytes_read == 0 && st.warned_in_time + st.warned_late == 0);
    *n_failed_waves += x.n_failed_waves;
    world_close(&x.w);
    return x.n_delivered;
}

static void test_random_worlds(void **state)
{
    (void)state;
    uint64_t n_delivered = 0, n_failed = 0;
    for (uint64_t seed = 1; seed <= 4000; seed++)
        n_delivered += run_world(seed, 60, &n_failed);
    assert_true(n_delivered > 100000);
    assert_true(n_failed > 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_worlds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
