/* SPDX-License-Identifier: MIT
 * Machines by formula in place of a clock: whether steps keep the bound, and whether a prompt gets
 * on.
 */
#include "helpers.h"

#include "serve/pace.h"

#include <math.h>

struct machine {
    double experts;   /* seconds to read all of them; n tokens want 1 - share^n of that */
    double share;     /* of the experts that a token does not want */
    double row, look; /* seconds a token, and a position that it looks at */
};

struct prompt {
    double longest; /* step, s, but for the first two of a machine */
    double all;     /* s */
    int n_steps;
};

/* A prompt of n tokens beside somebody who writes at position 1000. */
static struct prompt run(const struct machine *m, struct pg_pace *p, double bound, int n,
                         int n_batch)
{
    struct prompt out = {0};
    for (int at = 0, taken; at < n; at += taken, out.n_steps++) {
        taken = pg_pace_chunk(p, bound, at);
        taken = taken < n_batch ? taken : n_batch;
        taken = taken < n - at ? taken : n - at;
        const double looked = taken * (at + (taken + 1) / 2.0) + 1000;
        const double attend = m->look * looked;
        const double rest = m->experts * (1 - pow(m->share, taken + 1)) + m->row * (taken + 1);
        pg_pace_learn(p, taken, rest, attend, looked);
        out.all += rest + attend;
        if (out.n_steps > 1)
            out.longest = fmax(out.longest, rest + attend);
    }
    return out;
}

/* A small model in memory, whose steps grow by looking back: the machine and bound of bench/serve's
 * table. */
static void test_long_text(void **state)
{
    const struct machine m = {.row = 0.15e-3, .look = 0.16e-6};
    struct pg_pace p = {0};
    (void)state;
    struct prompt cold = run(&m, &p, 0.2, 4000, 512), warm = run(&m, &p, 0.2, 4000, 512);
    assert_true(cold.longest < 0.2 * 1.05);
    assert_true(warm.longest < 0.2 * 1.05);
    assert_true(warm.n_steps <= 20); /* at least 8 of 512 */
    struct pg_pace alone = {0};
    pg_pace_learn(&alone, 512, 512 * m.row, 512 * 256 * m.look,
                  512 * 256); /* a whole batch was first */
    struct prompt after = run(&m, &alone, 0.05, 4000, 512);
    assert_true(after.longest < 0.05 * 1.05);
}

/* Most experts are read for 16 tokens as for 512: no steps of 16, which would take forty times as
 * long. */
static void test_reading(void **state)
{
    const struct machine m = {.experts = 5, .share = 120.0 / 128, .row = 2e-3, .look = 0.2e-6};
    struct pg_pace p = {0};
    (void)state;
    struct prompt found = run(&m, &p, 0.2, 4000, 512);
    assert_true(found.n_steps <= 12);
    assert_true(found.longest < 2.1 * (m.experts * (1 - pow(m.share, 17)) + 17 * m.row));
}

/* The machine gets ten times slower, then as fast as before: both are noticed within a few steps.
 */
static void test_change(void **state)
{
    const struct machine fast = {.row = 0.1e-3, .look = 1e-9}, slow = {.row = 1e-3, .look = 1e-8};
    struct pg_pace p = {0};
    (void)state;
    run(&fast, &p, 0.05, 8192, 512);
    assert_in_range(pg_pace_chunk(&p, 0.05, 0), 256, 512);
    const struct prompt slower = run(&slow, &p, 0.05, 2048, 512);
    assert_true(slower.longest < 0.05 * 3);
    assert_true(pg_pace_chunk(&p, 0.05, 0) <= 32);
    run(&fast, &p, 0.05, 8192, 512);
    assert_true(pg_pace_chunk(&p, 0.05, 0) >= 256);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_long_text),
        cmocka_unit_test(test_reading),
        cmocka_unit_test(test_change),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
