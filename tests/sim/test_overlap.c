/* SPDX-License-Identifier: MIT
 * How near a step comes to its floor, max(compute, bytes / bandwidth), on a simulated disk with
 * modelled compute: the schedule of an engine, block after block, with experts that are known one
 * block early.
 */
#include "helpers.h"

#include "sim/sim_world.h"

#define SLAB_BYTES (8 * PG_PAGE)
#define DISK       100000000u /* bytes/s: an expert in a millisecond, as of 1 MB at 1 GB/s */

enum { N_BLOCK = 24, N_EXPERT = 64, N_USED = 8, N_STEPS = 120 };

struct machine {
    uint64_t bytes_per_s;
    uint64_t attention_ns, expert_ns; /* compute of a block, and of an expert */
    uint64_t slice_ns;                /* between two polls */
};

struct result {
    double compute_s, disk_s, total_s;
    struct pg_store_stats st;
};

static void compute(struct world *w, const struct machine *m, uint64_t ns)
{
    while (ns) {
        uint64_t slice = PG_MIN(ns, m->slice_ns);
        pg_io_sim_advance(w->io, slice);
        pg_store_poll(w->store);
        ns -= slice;
    }
}

/* A route that keeps about half of a block's experts from step to step, as real ones do. */
static void next_route(struct random *r, int32_t *ids)
{
    bool in[N_EXPERT] = {false};
    int n = 0;
    for (int i = 0; i < N_USED; i++) {
        if (random_chance(r, 0.4) && !in[ids[i]]) {
            in[ids[i]] = true;
            ids[n++] = ids[i];
        }
    }
    while (n < N_USED) {
        int e = random_below(r, N_EXPERT);
        if (!in[e])
            ids[n++] = e;
        in[e] = true;
    }
}

static void run_block(struct world *w, const struct machine *m, int block, const int32_t *ids)
{
    struct pg_lease lease[N_USED];
    struct pg_err err;
    pg_store_acquire(w->store, block, ids, N_USED);
    for (;;) {
        int n = PG_MAX(1, pg_store_n_ready(w->store));
        for (int i = 0; i < n; i++) {
            int rc = pg_store_next(w->store, &lease[i], &err);
            assert_true(rc >= 0);
            if (!rc)
                return;
        }
        compute(w, m, m->expert_ns * (uint64_t)n);
        for (int i = 0; i < n; i++)
            pg_store_release(w->store, &lease[i]);
    }
}

static int32_t routes[N_STEPS + 1][N_BLOCK][N_USED];

static void make_routes(struct random *r)
{
    for (int block = 0; block < N_BLOCK; block++)
        random_ids(r, N_EXPERT, routes[0][block], N_USED);
    for (int step = 1; step <= N_STEPS; step++) {
        for (int block = 0; block < N_BLOCK; block++) {
            memcpy(routes[step][block], routes[step - 1][block], sizeof(routes[step][block]));
            next_route(r, routes[step][block]);
        }
    }
}

/* right: the share of the hinted ids that are the right ones. */
static void run_step(struct world *w, const struct machine *m, struct random *r, int step,
                     bool certain, double right)
{
    pg_store_step(w->store, 1);
    for (int block = 0; block < N_BLOCK; block++) {
        int next = (block + 1) % N_BLOCK;
        int32_t hinted[N_USED];
        compute(w, m, m->attention_ns);
        for (int i = 0; i < N_USED; i++) {
            bool is_right = random_chance(r, right);
            int wrong = random_below(r, N_EXPERT);
            hinted[i] = is_right ? routes[step + (block + 1) / N_BLOCK][next][i] : wrong;
        }
        pg_store_hint(w->store, next, hinted, N_USED, certain);
        run_block(w, m, block, routes[step][block]);
    }
}

static struct result run(const struct machine *m, enum pg_hints hints, bool certain, double right)
{
    struct random r = {12345};
    struct world w;
    struct world_options opt = {
        .n_block = N_BLOCK,
        .n_expert = N_EXPERT,
        .n_slots = N_BLOCK * N_USED * 13 / 10,
        .slab_bytes = SLAB_BYTES,
        .hints = hints,
        .window_bytes = 5 * SLAB_BYTES, /* less than two experts */
        .sim = {.seed = 5,
                .latency_ns = 100000,
                .jitter_ns = 50000,
                .bytes_per_s = m->bytes_per_s,
                .sparse = true},
    };
    const int n_warm = 10; /* the slots are filled by then */
    uint64_t begin_ns = 0, begin_bytes = 0;
    world_open(&w, &opt);
    make_routes(&r);
    for (int step = 0; step < N_STEPS; step++) {
        if (step == n_warm) {
            begin_ns = pg_io_now(w.io);
            begin_bytes = world_stats(&w).bytes_read;
        }
        run_step(&w, m, &r, step, certain, right);
    }
    struct result out = {.st = world_stats(&w)};
    out.total_s = (double)(pg_io_now(w.io) - begin_ns) * 1e-9;
    out.disk_s = (double)(out.st.bytes_read - begin_bytes) / (double)m->bytes_per_s;
    out.compute_s =
        (double)(m->attention_ns + N_USED * m->expert_ns) * 1e-9 * N_BLOCK * (N_STEPS - n_warm);
    world_close(&w);
    return out;
}

static double efficiency(const struct result *x)
{
    return PG_MAX(x->compute_s, x->disk_s) / x->total_s;
}

static void test_disk_bound(void **state)
{
    (void)state;
    struct machine m = {DISK, 300000, 100000, 100000};
    struct result x = run(&m, PG_HINTS_AUTO, true, 1);
    assert_true(x.disk_s > 1.5 * x.compute_s);
    assert_true(efficiency(&x) >= 0.95);
}

static void test_balanced(void **state)
{
    (void)state;
    struct machine m = {DISK, 1200000, 400000, 100000};
    struct result x = run(&m, PG_HINTS_AUTO, true, 1);
    assert_true(x.disk_s > 0.7 * x.compute_s && x.disk_s < 1.4 * x.compute_s);
    assert_true(efficiency(&x) >= 0.9);
}

static void test_compute_bound(void **state)
{
    (void)state;
    struct machine m = {4 * DISK, 1200000, 400000, 200000};
    struct result x = run(&m, PG_HINTS_AUTO, true, 1);
    assert_true(x.compute_s > 1.5 * x.disk_s);
    assert_true(efficiency(&x) >= 0.95);
}

/* Uncertain hints that are mostly right fill a disk that would idle. */
static void test_hints_pay(void **state)
{
    (void)state;
    struct machine m = {DISK, 1200000, 400000, 100000};
    struct result without = run(&m, PG_HINTS_OFF, false, 0.75);
    struct result with = run(&m, PG_HINTS_AUTO, false, 0.75);
    assert_true(without.st.hint_bytes_read == 0);
    assert_true(with.total_s < 0.9 * without.total_s);
    assert_true(with.st.hints_active);
}

/* The same hints lose where the disk has no idle time; the self-check finds out by itself and
 * gives nearly all of it back. So it does when the hints are mostly wrong. */
static void test_hints_stop(void **state)
{
    (void)state;
    struct machine busy = {DISK / 2, 300000, 100000, 100000};
    struct machine idle = {DISK, 1200000, 400000, 100000};
    struct result without = run(&busy, PG_HINTS_OFF, false, 0.75);
    struct result always = run(&busy, PG_HINTS_ON, false, 0.75);
    struct result with = run(&busy, PG_HINTS_AUTO, false, 0.75);
    assert_true(always.total_s > 1.05 * without.total_s && always.st.hints_active);
    assert_true(with.total_s < 1.03 * without.total_s && !with.st.hints_active);
    without = run(&idle, PG_HINTS_OFF, false, 0.1);
    with = run(&idle, PG_HINTS_AUTO, false, 0.1);
    assert_true(with.total_s < 1.03 * without.total_s && !with.st.hints_active);
}

/* Everything fits: the store is loaded block by block at the speed of the disk. */
static void test_load_all(void **state)
{
    (void)state;
    struct world w;
    struct world_options opt = {
        .n_block = N_BLOCK,
        .n_expert = N_EXPERT,
        .n_slots = N_BLOCK * N_EXPERT,
        .slab_bytes = SLAB_BYTES,
        .sim = {.seed = 5, .latency_ns = 100000, .bytes_per_s = DISK, .sparse = true},
    };
    int32_t ids[N_EXPERT];
    struct pg_lease lease;
    struct pg_err err;
    world_open(&w, &opt);
    for (int e = 0; e < N_EXPERT; e++)
        ids[e] = e;
    for (int block = 0; block < N_BLOCK; block++) {
        pg_store_acquire(w.store, block, ids, N_EXPERT);
        while (pg_store_next(w.store, &lease, &err) == 1)
            pg_store_release(w.store, &lease);
    }
    double total_s = (double)pg_io_now(w.io) * 1e-9;
    double disk_s = (double)world_stats(&w).bytes_read / DISK;
    assert_true(disk_s / total_s > 0.97);
    assert_true(world_stats(&w).bytes_read == (uint64_t)N_BLOCK * N_EXPERT * 3 * SLAB_BYTES);
    world_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_disk_bound),    cmocka_unit_test(test_balanced),
        cmocka_unit_test(test_compute_bound), cmocka_unit_test(test_hints_pay),
        cmocka_unit_test(test_hints_stop),    cmocka_unit_test(test_load_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
