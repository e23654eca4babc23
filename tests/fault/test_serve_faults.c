/* SPDX-License-Identifier: MIT
 * Requests side by side while reads of experts fail: who needs what cannot be read ends with an
 * error that says so, the others get the text that they get alone, and afterwards all is as before.
 */
#include "helpers.h"

#include "io_faults.h"
#include "pregate.h"

#include <string.h>

#define MODEL PG_MODELS "/tinystories-moe.gguf"

enum { N_REQ = 6, N_PROMPT = 5, N_PREDICT = 12 };

struct one {
    int32_t prompt[N_PROMPT], got[N_PREDICT], want[N_PREDICT];
    int n_got, n_want, n_ended;
    struct pg_request_report report;
};

struct many {
    pg_scheduler *s;
    struct one one[N_REQ];
    int n_running;
};
static struct many all;

static int on_token(void *user, const struct pg_token *t)
{
    struct one *r = user;
    assert_true(r->n_got < N_PREDICT);
    r->got[r->n_got++] = t->id;
    return 0;
}

static void on_end(void *user, const struct pg_request_report *report)
{
    struct one *r = user;
    r->report = *report;
    r->n_ended++;
    if (--all.n_running == 0)
        pg_scheduler_stop(all.s);
}

static void run(int first, int n)
{
    struct pg_err err;
    all.n_running = n;
    for (int i = first; i < first + n; i++) {
        struct one *r = &all.one[i];
        struct pg_request q = {PG_REQUEST_INIT,   .tokens = r->prompt,    .n_tokens = N_PROMPT,
                               .token = on_token, .n_predict = N_PREDICT, .end = on_end,
                               .user = r,         .no_reuse = true,       .ignore_eos = true};
        uint64_t id;
        r->n_got = r->n_ended = 0;
        must(pg_scheduler_submit(all.s, &q, &id, &err), &err);
    }
    must(pg_scheduler_run(all.s, &err), &err);
}

static pg_engine *open_all(enum pg_io_path path)
{
    struct pg_options opt = {PG_OPTIONS_INIT, .model = MODEL,           .n_ctx = 32,
                             .n_threads = 1,  .n_sessions = N_REQ,      .n_batch = 16,
                             .io_path = path, .mode = PG_MODE_ONDEMAND, .n_slots = 12};
    struct pg_scheduler_options o = {PG_SCHEDULER_OPTIONS_INIT};
    struct pg_err err;
    pg_engine *e;
    must(pg_engine_open(&e, &opt, &err), &err);
    o.engine = e;
    must(pg_scheduler_open(&all.s, &o, &err), &err);
    return e;
}

static void check(int n_may_fail)
{
    int n_failed = 0;
    for (int i = 0; i < N_REQ; i++) {
        const struct one *r = &all.one[i];
        assert_int_equal(r->n_ended, 1);
        assert_memory_equal(r->got, r->want, (size_t)r->n_got * sizeof(r->got[0]));
        if (r->report.stop == PG_STOP_ERROR) {
            n_failed++;
            assert_int_equal(r->report.err.code, PG_EIO);
            assert_non_null(strstr(r->report.err.text, "tinystories-moe.gguf"));
        } else {
            assert_int_equal(r->report.stop, PG_STOP_LENGTH);
            assert_int_equal(r->n_got, N_PREDICT);
        }
    }
    assert_true(n_failed <= n_may_fail);
}

static void run_with(enum pg_io_path path)
{
    int n_some = 0;
    pg_engine *e = open_all(path);
    for (int i = 0; i < N_REQ; i++) {
        for (int j = 0; j < N_PROMPT; j++)
            all.one[i].prompt[j] = 20 + 13 * i + j;
        run(i, 1);
        all.one[i].n_want = all.one[i].n_got;
        memcpy(all.one[i].want, all.one[i].got, sizeof(all.one[i].want));
    }
    for (uint64_t at = 1; at < 400; at += 133)
        for (uint64_t times = 1; times < 300; times *= 16) {
            io_faults_set(IO_FAULT_ERROR, at, times);
            run(0, N_REQ);
            assert_true(io_faults_clear() > 0);
            check(times == 1 ? 0 : N_REQ); /* one failure is tried again */
            for (int i = 0; i < N_REQ; i++)
                n_some += all.one[i].report.stop == PG_STOP_ERROR;
            run(0, N_REQ);
            check(0);
        }
    assert_true(n_some > 0);
    pg_scheduler_close(all.s);
    pg_engine_close(e);
}

static void test_pread(void **state)
{
    (void)state;
    run_with(PG_IO_PREAD);
}

/* From within a read of a step: somebody comes and goes. That interrupts a step which takes all it
 * can, and what it did is lost; who is there must get to its end all the same. */
enum { MOST_VISITS = 20000 };
static _Atomic int n_visits;

static void visit_ends(void *user, const struct pg_request_report *report)
{
    (void)user, (void)report;
}

static void visit(void)
{
    static const int32_t prompt[4] = {5, 6, 7, 8};
    struct pg_request q = {PG_REQUEST_INIT, .tokens = prompt, .n_tokens = 4, .n_predict = 1,
                           .end = visit_ends};
    struct pg_err err;
    uint64_t id;
    if (n_visits < MOST_VISITS && pg_scheduler_submit(all.s, &q, &id, &err) == 0) {
        pg_scheduler_cancel(all.s, id);
        n_visits++;
    }
}

static void test_visits(void **state)
{
    (void)state;
    pg_engine *e = open_all(PG_IO_PREAD);
    io_faults.each = visit;
    run(0, 1);
    io_faults.each = NULL;
    assert_int_equal(all.one[0].report.stop, PG_STOP_LENGTH);
    assert_in_range(n_visits, 1, MOST_VISITS - 1);
    pg_scheduler_close(all.s);
    pg_engine_close(e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_pread), cmocka_unit_test(test_visits)};
    return cmocka_run_group_tests_name("serve_faults", tests, NULL, NULL);
}
