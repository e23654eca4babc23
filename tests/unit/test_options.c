/* SPDX-License-Identifier: MIT
 * The size that each option struct begins with, through the public header: what no header ever had
 * is refused everywhere with the same sentence, and a shorter, older struct is taken, what it lacks
 * being zero whatever lies behind it in memory.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "pregate.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define MODEL        PG_MODELS "/tinystories-moe.gguf"

static pg_engine *engine;
static pg_session *session; /* with logits to sample from */
static char dir[] = "/tmp/pg-test-options-XXXXXX", out[64];

static const struct pg_options small = {PG_OPTIONS_INIT, .model = MODEL, .n_ctx = 16,
                                        .n_sessions = 2, .n_threads = 1, .mode = PG_MODE_RESIDENT};

static int open_model(void **state)
{
    struct pg_err err;
    (void)state;
    if (!mkdtemp(dir))
        return -1;
    snprintf(out, sizeof(out), "%s/out.gguf", dir);
    if (pg_engine_open(&engine, &small, &err) || pg_session_open(&session, engine, NULL, &err) ||
        pg_session_eval(session, (int32_t[]){5}, 1, NULL, &err)) {
        print_error("%s\n", err.text);
        return -1;
    }
    return 0;
}

static int close_model(void **state)
{
    (void)state;
    pg_session_close(session);
    pg_engine_close(engine);
    unlink(out);
    return rmdir(dir);
}

/* ------------------------------------------------------------------ each function ----------- */

static int plan(const void *opt, struct pg_err *err)
{
    struct pg_plan p;
    return pg_plan_make(&p, opt, err);
}

static int open_engine(const void *opt, struct pg_err *err)
{
    pg_engine *e;
    int rc = pg_engine_open(&e, opt, err);
    pg_engine_close(e);
    return rc;
}

static int open_session(const void *opt, struct pg_err *err)
{
    pg_session *s;
    int rc = pg_session_open(&s, engine, opt, err);
    pg_session_close(s);
    return rc;
}

static int sample(const void *how, struct pg_err *err)
{
    int32_t token;
    return pg_session_sample(session, how, &token, err);
}

static int synth(const void *opt, struct pg_err *err)
{
    return pg_synth(opt, err);
}

static int open_trainer(const void *opt, struct pg_err *err)
{
    pg_trainer *t;
    int rc = pg_trainer_open(&t, opt, err);
    pg_trainer_close(t);
    return rc;
}

static int tune(const void *opt, struct pg_err *err)
{
    struct pg_tune_report r;
    int rc = pg_tune(opt, &r, err);
    pg_tune_report_free(&r);
    return rc;
}

static int evaluate(const void *opt, struct pg_err *err)
{
    struct pg_eval_report r;
    pg_engine *e; /* without a session */
    assert_int_equal(pg_engine_open(&e, &small, err), 0);
    int rc = pg_eval(e, opt, &r, err); /* of what is refused nothing is to be freed */
    pg_engine_close(e);
    return rc;
}

/* Options that are good up to `old` bytes, where a first header may have ended; the result of the
 * call with those is `rc`. What is read from no file shows by PG_EIO that options were taken. */
static const char *const text[] = {PG_TEST_DATA "/first20/stories.txt"};
static const struct pg_options engine_options = {PG_OPTIONS_INIT, .model = MODEL};
static const struct pg_session_options session_options = {PG_SESSION_OPTIONS_INIT};
static const struct pg_sampling sampling = {PG_SAMPLING_INIT, .temp = 0.5f};
static const struct pg_synth_options synth_options = {PG_SYNTH_OPTIONS_INIT, .shape = "olmoe-tiny",
                                                      .type = "Q4_K", .out = out};
static const struct pg_train_options train_options = {PG_TRAIN_OPTIONS_INIT, .model = MODEL,
                                                      .data = text, .n_data = 1, .out = out};
static const struct pg_tune_options tune_options = {PG_TUNE_OPTIONS_INIT, .model = "none.gguf",
                                                    .data = text, .n_data = 1, .out = out};
static const struct pg_eval_options eval_options = {PG_EVAL_OPTIONS_INIT, .data = "none.txt"};

static const struct user {
    int (*call)(const void *opt, struct pg_err *err);
    const void *good;
    size_t whole, old;
    const char *init;
    int rc;
} users[] = {
    {plan, &engine_options, sizeof(struct pg_options), offsetof(struct pg_options, sidecar),
     "PG_OPTIONS_INIT", 0},
    {open_engine, &engine_options, sizeof(struct pg_options), offsetof(struct pg_options, sidecar),
     "PG_OPTIONS_INIT", 0},
    {open_session, &session_options, sizeof(struct pg_session_options), sizeof(size_t),
     "PG_SESSION_OPTIONS_INIT", 0},
    {sample, &sampling, sizeof(struct pg_sampling), offsetof(struct pg_sampling, top_k),
     "PG_SAMPLING_INIT", 0},
    {synth, &synth_options, sizeof(struct pg_synth_options),
     offsetof(struct pg_synth_options, seed), "PG_SYNTH_OPTIONS_INIT", 0},
    {open_trainer, &train_options, sizeof(struct pg_train_options),
     offsetof(struct pg_train_options, from_scratch), "PG_TRAIN_OPTIONS_INIT", 0},
    {tune, &tune_options, sizeof(struct pg_tune_options), offsetof(struct pg_tune_options, level),
     "PG_TUNE_OPTIONS_INIT", PG_EIO},
    {evaluate, &eval_options, sizeof(struct pg_eval_options),
     offsetof(struct pg_eval_options, n_max), "PG_EVAL_OPTIONS_INIT", PG_EIO},
};

/* The good options with another size, and nonsense from `keep` on. */
static void *options_of(const struct user *u, size_t size, size_t keep)
{
    char *o = malloc(u->whole);
    assert_non_null(o);
    memset(o, 0xee, u->whole);
    memcpy(o, u->good, keep);
    memcpy(o, &size, sizeof(size));
    return o;
}

static void test_impossible_sizes(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(users); i++) {
        const struct user *u = &users[i];
        const size_t sizes[] = {0, sizeof(size_t) - 1, u->whole + 1, SIZE_MAX};
        for (size_t k = 0; k < COUNT(sizes); k++) {
            char want[160];
            struct pg_err err = {0};
            void *o = options_of(u, sizes[k], u->whole);
            snprintf(want, sizeof(want), "options: size %zu found, %zu to %zu wanted (use %s)",
                     sizes[k], sizeof(size_t), u->whole, u->init);
            assert_int_equal(u->call(o, &err), PG_EARG);
            assert_string_equal(err.text, want);
            free(o);
        }
    }
}

static void test_older_struct(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(users); i++) {
        const struct user *u = &users[i];
        struct pg_err err = {0};
        void *o = options_of(u, u->old, u->old);
        int rc = u->call(o, &err);
        if (rc != u->rc)
            fail_msg("%s: %d: %s", u->init, rc, err.text);
        free(o);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_impossible_sizes),
        cmocka_unit_test(test_older_struct),
    };
    return cmocka_run_group_tests(tests, open_model, close_model);
}
