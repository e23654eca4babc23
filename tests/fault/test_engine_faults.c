/* SPDX-License-Identifier: MIT
 * The whole engine while memory, threads and the disk fail: allocation n, thread n, read n; each
 * with n = 1, 2, 3 … until there is nothing left to fail. And that after pg_session_open nothing
 * allocates, in any mode.
 */
#include "helpers.h"

#include "alloc_faults.h"
#include "io_faults.h"
#include "pregate.h"

#define SMALL    PG_TEST_DATA "/gen_moe/qwen3moe.gguf"
#define STORIES  PG_MODELS "/tinystories-moe.gguf"
#define N_PROMPT 2
#define N_NEXT   1

struct fixture {
    const char *model;
    char sidecar[64];
    int n_vocab;
    float *want, *got; /* [1 + N_NEXT][n_vocab] */
};

/* Freed memory that the address sanitizer holds back would grow the process, and with it the least
 * budget, from one opening to the next. */
PG_API const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "quarantine_size_mb=1";
}

static const int32_t prompt[N_PROMPT] = {5, 17};
static const struct pg_sampling greedy = {PG_SAMPLING_INIT};

/* Rows of the embedding: the small model has no vocabulary. */
static int n_vocab_of(const char *model)
{
    struct pg_err err = {0};
    struct pg_file_tensor t;
    pg_file *f;
    int n_vocab = 0;
    must(pg_file_open(&f, model, &err), &err);
    for (int i = 0; i < pg_file_n_tensors(f); i++) {
        pg_file_tensor_at(f, i, &t);
        if (!strcmp(t.name, "token_embd.weight"))
            n_vocab = (int)t.ne[1];
    }
    pg_file_close(f);
    assert_true(n_vocab > prompt[N_PROMPT - 1]);
    return n_vocab;
}

static int fixture_open(struct fixture *x, const char *model)
{
    struct pg_err err = {0};
    *x = (struct fixture){.model = model};
    (void)snprintf(x->sidecar, sizeof(x->sidecar), "test_engine_faults.%d.gguf", (int)getpid());
    must(pg_sidecar_write(model, x->sidecar, 1, &err), &err);
    x->n_vocab = n_vocab_of(model);
    x->want = calloc((size_t)(1 + N_NEXT) * (size_t)x->n_vocab, sizeof(float));
    x->got = calloc((size_t)(1 + N_NEXT) * (size_t)x->n_vocab, sizeof(float));
    assert_true(x->want && x->got);
    return 0;
}

static int setup(void **state)
{
    static struct fixture x;
    *state = &x;
    return fixture_open(&x, SMALL);
}

static void fixture_close(struct fixture *x)
{
    unlink(x->sidecar);
    free(x->want);
    free(x->got);
}

static int teardown(void **state)
{
    fixture_close(*state);
    return 0;
}

static struct pg_options options_of(const struct fixture *x, enum pg_mode mode,
                                    enum pg_io_path path)
{
    struct pg_options opt = {PG_OPTIONS_INIT, .model = x->model,    .mode = mode,
                             .io_path = path, .n_threads = 1,       .n_ctx = 96,
                             .n_batch = 4,    .kv_type = PG_KV_F32, .hints = PG_HINTS_ON};
    if (mode == PG_MODE_HINT || mode == PG_MODE_PREGATE)
        opt.sidecar = x->sidecar;
    return opt;
}

/* A budget with slots for less than half of the experts, so that most are read again and again.
 * A minimum is told with something to spare, so the budget is felt for. */
static pg_engine *open_small(struct pg_options *opt)
{
    struct pg_plan plan;
    struct pg_err err = {0};
    pg_engine *e = NULL;
    opt->memory_bytes = 1;
    assert_int_equal(pg_plan_make(&plan, opt, &err), PG_EBUDGET);
    opt->memory_bytes = plan.minimum - (512 << 10);
    for (int i = 0; i < 200; i++) {
        int rc = pg_engine_open(&e, opt, &err);
        if (rc) {
            assert_int_equal(rc, PG_EBUDGET);
            opt->memory_bytes += 16384;
            continue;
        }
        pg_engine_plan(e, &plan);
        if (opt->mode == PG_MODE_RESIDENT || plan.n_slots < plan.n_expert_total / 2)
            return e;
        pg_engine_close(e);
        opt->memory_bytes -= (uint64_t)(plan.n_slots - 2) * plan.slot_bytes;
    }
    fail_msg("no budget gives a few slots: %s", err.text);
    return NULL;
}

static bool is_refused_here(const struct fixture *x, enum pg_io_path path)
{
    struct pg_options opt = options_of(x, PG_MODE_RESIDENT, path);
    struct pg_err err;
    pg_engine *e;
    int rc = pg_engine_open(&e, &opt, &err);
    pg_engine_close(e);
    if (rc == PG_ENOTSUP)
        say_skipped("faults of reads", "%s", err.text);
    return rc == PG_ENOTSUP;
}

/* The prompt and a few tokens more; logits after each. */
static int walk(pg_session *s, int n_vocab, float *logits, struct pg_err *err)
{
    size_t row = (size_t)n_vocab;
    int32_t token;
    PG_TRY(pg_session_truncate(s, 0));
    PG_TRY(pg_session_sync(s, prompt, N_PROMPT, err));
    memcpy(logits, pg_session_logits(s), row * sizeof(float));
    for (int i = 1; i <= N_NEXT; i++) {
        PG_TRY(pg_session_next(s, &greedy, &token, err));
        memcpy(logits + (size_t)i * row, pg_session_logits(s), row * sizeof(float));
    }
    return 0;
}

static bool same_bits(const struct fixture *x)
{
    return !memcmp(x->want, x->got, (size_t)(1 + N_NEXT) * (size_t)x->n_vocab * sizeof(float));
}

/* ---- memory and threads ---- */

struct open_case {
    const struct fixture *x;
    struct pg_options opt;
};

static int engine_run(const void *arg, struct pg_err *err)
{
    const struct open_case *c = arg;
    pg_engine *e;
    pg_session *s = NULL;
    int rc = pg_engine_open(&e, &c->opt, err);
    if (rc) {
        assert_null(e);
        return rc;
    }
    rc = pg_session_open(&s, e, NULL, err);
    if (!rc)
        rc = walk(s, c->x->n_vocab, c->x->got, err);
    else
        assert_null(s);
    pg_session_close(s);
    pg_engine_close(e);
    return rc;
}

static void test_allocation_fails(void **state)
{
    const struct fixture *x = *state;
    static const enum pg_mode modes[] = {PG_MODE_RESIDENT, PG_MODE_LOOKAHEAD, PG_MODE_PREGATE};
    for (size_t m = 0; m < PG_COUNT(modes); m++) {
        struct open_case c = {x, options_of(x, modes[m], PG_IO_AUTO)};
        c.opt.trace_events = 64;
        assert_true(fault_each(engine_run, &c, false, PG_ENOMEM) > 30);
    }
}

static void test_thread_is_refused(void **state)
{
    const struct fixture *x = *state;
    struct open_case c = {x, options_of(x, PG_MODE_LOOKAHEAD, PG_IO_PREAD)};
    c.opt.n_threads = 2;
    assert_int_equal(fault_each(engine_run, &c, true, PG_ESYSTEM), 1 + 8);
}

static int plan_make(const void *arg, struct pg_err *err)
{
    struct pg_plan plan;
    return pg_plan_make(&plan, &((const struct open_case *)arg)->opt, err);
}

static int sidecar_write(const void *arg, struct pg_err *err)
{
    const struct fixture *x = ((const struct open_case *)arg)->x;
    return pg_sidecar_write(x->model, x->sidecar, 1, err);
}

static int file_list(const void *arg, struct pg_err *err)
{
    pg_file *f;
    int rc = pg_file_open(&f, ((const struct open_case *)arg)->x->model, err);
    if (!rc)
        pg_file_close(f);
    return rc;
}

static void test_allocation_fails_beside(void **state)
{
    const struct fixture *x = *state;
    struct open_case c = {x, options_of(x, PG_MODE_HINT, PG_IO_AUTO)};
    assert_true(fault_each(plan_make, &c, false, PG_ENOMEM) > 10);
    assert_true(fault_each(sidecar_write, &c, false, PG_ENOMEM) > 10);
    assert_true(fault_each(file_list, &c, false, PG_ENOMEM) > 5);
}

/* ---- nothing allocates ---- */

static void tokens_without_allocation(pg_engine *e, pg_session *s, pg_session *other)
{
    static const struct pg_sampling wild = {PG_SAMPLING_INIT,
                                            .temp = 1.1f,
                                            .top_k = 20,
                                            .top_p = 0.9f,
                                            .min_p = 0.01f,
                                            .repeat_penalty = 1.1f,
                                            .presence_penalty = 0.1f,
                                            .frequency_penalty = 0.1f,
                                            .seed = 3};
    struct pg_err err = {0};
    int32_t token;
    must(pg_session_sync(s, prompt, N_PROMPT, &err), &err);
    must(pg_session_eval(other, prompt, N_PROMPT, NULL, &err), &err);
    for (int i = 0; i < 50; i++)
        must(pg_session_next(s, i % 2 ? &wild : &greedy, &token, &err), &err);
    must(pg_session_sample(s, &wild, &token, &err), &err);
    const struct pg_row rows[] = {{s, &token, 1, false}, {other, prompt, N_PROMPT, false}};
    must(pg_step(e, rows, 2, &err), &err);
    must(pg_session_truncate(s, 1), &err);
    must(pg_session_sync(s, prompt, N_PROMPT, &err), &err);
}

static void test_nothing_allocates(void **state)
{
    struct fixture *x = *state;
    for (int mode = PG_MODE_RESIDENT; mode < PG_MODE_COUNT; mode++)
        for (int path = PG_IO_AUTO; path <= PG_IO_PREAD; path += 2) {
            struct pg_options opt = options_of(x, (enum pg_mode)mode, (enum pg_io_path)path);
            struct pg_err err = {0};
            pg_session *s, *other;
            opt.n_sessions = 2;
            opt.n_threads = 2;
            opt.trace_events = 64;
            alloc_faults_begin(0, 0);
            pg_engine *e = open_small(&opt);
            must(pg_session_open(&s, e, NULL, &err), &err);
            must(pg_session_open(&other, e, NULL, &err), &err);
            uint64_t n_calls = alloc_faults.n_calls;
            assert_true(n_calls > 30);
            tokens_without_allocation(e, s, other);
            assert_int_equal(alloc_faults.n_calls, n_calls);
            pg_session_close(s);
            pg_session_close(other);
            pg_engine_close(e);
            assert_true(alloc_faults_clean());
        }
}

/* ---- reads ---- */

static void error_names_the_read(const struct fixture *x, int rc, const struct pg_err *err,
                                 enum io_fault kind)
{
    if (rc != PG_EIO || err->code != PG_EIO || !strstr(err->text, x->model) ||
        !strstr(err->text, " at ") || !strstr(err->text, "bytes") ||
        (kind == IO_FAULT_EOF && !strstr(err->text, "end of file")))
        fail_msg("%d: %d \"%s\"", rc, err->code, err->text);
}

/* Fault at read n of the walk and at `times` - 1 more. The walk fails and says where, or copes and
 * gives the right bits; then the same session gives the right bits without the fault. */
static void read_faults(struct fixture *x, pg_session *s, enum io_fault kind, uint64_t times)
{
    int n_failed = 0, n = 0;
    for (;;) {
        struct pg_err err = {0};
        io_faults_set(kind, (uint64_t)++n, times);
        int rc = walk(s, x->n_vocab, x->got, &err);
        uint64_t n_injected = io_faults_clear();
        if (rc) {
            assert_true(n_injected > 0);
            error_names_the_read(x, rc, &err, kind);
            n_failed++;
            must(walk(s, x->n_vocab, x->got, &err), &err);
        }
        assert_true(same_bits(x));
        if (!n_injected)
            break;
    }
    assert_true(n > 10); /* there were reads to fail */
    bool may_fail = kind == IO_FAULT_ERROR || kind == IO_FAULT_EOF;
    if (!may_fail || times == 1)
        assert_int_equal(n_failed, 0); /* a read that fails once is tried again */
    else
        assert_true(n_failed > 5);
}

static void faults_of(struct fixture *x, enum pg_mode mode, enum pg_io_path path, bool thorough)
{
    struct pg_options opt = options_of(x, mode, path);
    struct pg_err err = {0};
    pg_session *s;
    pg_engine *e = open_small(&opt);
    must(pg_session_open(&s, e, NULL, &err), &err);
    must(walk(s, x->n_vocab, x->want, &err), &err);
    read_faults(x, s, IO_FAULT_ERROR, UINT64_MAX);
    if (thorough) {
        read_faults(x, s, IO_FAULT_ERROR, 1);
        read_faults(x, s, IO_FAULT_EOF, UINT64_MAX);
        read_faults(x, s, IO_FAULT_SHORT, UINT64_MAX);
        read_faults(x, s, IO_FAULT_LATE, 1);
    }
    pg_session_close(s);
    pg_engine_close(e);
}

static void test_read_fails(void **state)
{
    struct fixture *x = *state;
    static const enum pg_io_path paths[] = {PG_IO_URING, PG_IO_PREAD};
    for (size_t p = 0; p < PG_COUNT(paths); p++) {
        if (is_refused_here(x, paths[p]))
            continue;
        for (int mode = PG_MODE_ONDEMAND; mode < PG_MODE_COUNT; mode++)
            faults_of(x, (enum pg_mode)mode, paths[p], mode == PG_MODE_LOOKAHEAD);
    }
}

/* Read n of the opening itself. */
static void open_faults(const struct fixture *x, enum pg_io_path path, enum io_fault kind)
{
    struct open_case c = {x, options_of(x, PG_MODE_RESIDENT, path)};
    int n = 0;
    for (uint64_t n_injected = 1; n_injected;) {
        struct pg_err err = {0};
        io_faults_set(kind, (uint64_t)++n, UINT64_MAX);
        alloc_faults_begin(0, 0);
        int rc = engine_run(&c, &err);
        assert_true(alloc_faults_clean());
        n_injected = io_faults_clear();
        bool may = rc == PG_EIO || (rc == PG_ENOTSUP && path == PG_IO_URING) ||
                   (rc == PG_EFORMAT && kind == IO_FAULT_EOF);
        if (rc ? !n_injected || !may || !strstr(err.text, x->model)
               : n_injected && kind != IO_FAULT_SHORT)
            fail_msg("read %d of opening: %d \"%s\", %d put in", n, rc, err.text, (int)n_injected);
    }
    assert_true(n > 5);
}

static void test_read_fails_at_open(void **state)
{
    const struct fixture *x = *state;
    static const enum pg_io_path paths[] = {PG_IO_AUTO, PG_IO_URING, PG_IO_PREAD};
    for (size_t p = 0; p < PG_COUNT(paths); p++) {
        if (is_refused_here(x, paths[p]))
            continue;
        open_faults(x, paths[p], IO_FAULT_ERROR);
        open_faults(x, paths[p], IO_FAULT_EOF);
        open_faults(x, paths[p], IO_FAULT_SHORT);
    }
}

/* The model that ./demo uses, where each expert is larger than a page. */
static void test_stories(void **state)
{
    struct fixture x;
    (void)state;
    fixture_open(&x, STORIES);
    faults_of(&x, PG_MODE_ONDEMAND, PG_IO_AUTO, false);
    fixture_close(&x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_allocation_fails),
        cmocka_unit_test(test_thread_is_refused),
        cmocka_unit_test(test_allocation_fails_beside),
        cmocka_unit_test(test_nothing_allocates),
        cmocka_unit_test(test_read_fails),
        cmocka_unit_test(test_read_fails_at_open),
        cmocka_unit_test(test_stories),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
