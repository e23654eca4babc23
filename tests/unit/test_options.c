/* SPDX-License-Identifier: MIT
 * Option structs through the public header. The size that each begins with: what no header ever had
 * is refused everywhere with the same sentence, and a shorter, older struct is taken, what it lacks
 * being zero whatever lies behind it in memory. And each number and enum: what is outside its range
 * is refused by name.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "pregate.h"

#include <limits.h>
#include <math.h>
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

static int convert(const void *opt, struct pg_err *err)
{
    return pg_convert(opt, err);
}

static int quantize(const void *opt, struct pg_err *err)
{
    return pg_quantize(opt, err);
}

static int simulate(const void *opt, struct pg_err *err)
{
    struct pg_sim_report r;
    return pg_simulate(opt, &r, err);
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

static int open_chat(const void *opt, struct pg_err *err)
{
    pg_chat *c;
    int rc = pg_chat_open(&c, opt, err);
    pg_chat_close(c);
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
static const struct pg_convert_options convert_options = {PG_CONVERT_OPTIONS_INIT, .folder = "none",
                                                          .out = out};
static const struct pg_quantize_options quantize_options = {
    PG_QUANTIZE_OPTIONS_INIT, .model = "none.gguf", .out = out, .type = "Q8_0"};
static const struct pg_train_options train_options = {PG_TRAIN_OPTIONS_INIT, .model = MODEL,
                                                      .data = text, .n_data = 1, .out = out};
static const struct pg_tune_options tune_options = {PG_TUNE_OPTIONS_INIT, .model = "none.gguf",
                                                    .data = text, .n_data = 1, .out = out};
static const struct pg_eval_options eval_options = {PG_EVAL_OPTIONS_INIT, .data = "none.txt"};
static const struct pg_sim_options sim_options = {PG_SIM_OPTIONS_INIT, .shape = "switch-tiny",
                                                  .machine = "none.json", .mode = PG_MODE_PREGATE};
static const struct pg_chat_options chat_options = {PG_CHAT_OPTIONS_INIT, .model = "none.gguf"};

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
    {sample, &sampling, sizeof(struct pg_sampling), offsetof(struct pg_sampling, top_p),
     "PG_SAMPLING_INIT", 0},
    {synth, &synth_options, sizeof(struct pg_synth_options),
     offsetof(struct pg_synth_options, seed), "PG_SYNTH_OPTIONS_INIT", 0},
    {open_trainer, &train_options, sizeof(struct pg_train_options),
     offsetof(struct pg_train_options, from_scratch), "PG_TRAIN_OPTIONS_INIT", 0},
    {tune, &tune_options, sizeof(struct pg_tune_options),
     offsetof(struct pg_tune_options, n_hidden), "PG_TUNE_OPTIONS_INIT", PG_EIO},
    {evaluate, &eval_options, sizeof(struct pg_eval_options),
     offsetof(struct pg_eval_options, n_max), "PG_EVAL_OPTIONS_INIT", PG_EIO},
    {convert, &convert_options, sizeof(struct pg_convert_options),
     offsetof(struct pg_convert_options, type), "PG_CONVERT_OPTIONS_INIT", PG_EIO},
    {quantize, &quantize_options, sizeof(struct pg_quantize_options),
     offsetof(struct pg_quantize_options, experts_only), "PG_QUANTIZE_OPTIONS_INIT", PG_EIO},
    {simulate, &sim_options, sizeof(struct pg_sim_options), offsetof(struct pg_sim_options, cache),
     "PG_SIM_OPTIONS_INIT", PG_EIO},
    {open_chat, &chat_options, sizeof(struct pg_chat_options),
     offsetof(struct pg_chat_options, variant), "PG_CHAT_OPTIONS_INIT", PG_EIO},
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
        const size_t sizes[] = {
            0, sizeof(size_t) - 1, sizeof(size_t) + 1, u->whole - 1, u->whole + 1, SIZE_MAX};
        for (size_t k = 0; k < COUNT(sizes); k++) {
            char want[160];
            struct pg_err err = {0};
            void *o = options_of(u, sizes[k], u->whole);
            snprintf(want, sizeof(want),
                     "options: size %zu found, a multiple of %zu up to %zu wanted (use %s)",
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

/* ------------------------------------------------------------------ ranges ------------------ */

enum { WHOLE = 1, REAL };

struct bad {
    enum {
        PLAN,
        ENGINE,
        SESSION,
        SAMPLE,
        SYNTH,
        TRAIN,
        TUNE,
        EVAL,
        CONVERT,
        QUANTIZE,
        SIMULATE
    } user; /* of users[] */
    const char *name;
    size_t offset;
    int kind;
    float v[5];
};
#define AT(type, field) #field, offsetof(struct type, field)

static const struct bad bad[] = {
    {ENGINE, AT(pg_options, mode), WHOLE, {-1, PG_MODE_COUNT}},
    {PLAN, AT(pg_options, evict), WHOLE, {-1, PG_EVICT_COUNT}},
    {ENGINE, AT(pg_options, hints), WHOLE, {-1, 9}},
    {PLAN, AT(pg_options, lookahead), WHOLE, {-1, 1e6}},
    {ENGINE, AT(pg_options, n_threads), WHOLE, {-1, 257}},
    {PLAN, AT(pg_options, n_ctx), WHOLE, {-1, 2e9}},
    {PLAN, AT(pg_options, n_sessions), WHOLE, {-1, 5000}},
    {PLAN, AT(pg_options, n_batch), WHOLE, {-1, 1e6}},
    {ENGINE, AT(pg_options, kv_type), WHOLE, {-1, 2}},
    {ENGINE, AT(pg_options, io_path), WHOLE, {-1, 3}},
    {ENGINE, AT(pg_options, cpu), WHOLE, {-1, 5}},
    {ENGINE, AT(pg_options, trace_events), WHOLE, {-1, 2e9}},
    {PLAN, AT(pg_options, cache_bias), REAL, {-0.1, 1.1, NAN, INFINITY}},
    {PLAN, AT(pg_options, cache_form), WHOLE, {-1, 2}},
    {PLAN, AT(pg_options, n_block_bias), WHOLE, {-1}},
    {PLAN, AT(pg_options, n_logit_rows), WHOLE, {-1, INT_MIN}},
    {PLAN, AT(pg_options, n_source), WHOLE, {-1, 1e6}},
    {PLAN, AT(pg_options, capacity), WHOLE, {-1, 1e6}},
    {SESSION, AT(pg_session_options, n_ctx), WHOLE, {-1, 2e9}},
    {SAMPLE, AT(pg_sampling, temp), REAL, {-1, NAN, INFINITY, 1e30}},
    {SAMPLE, AT(pg_sampling, top_k), WHOLE, {-1}},
    {SAMPLE, AT(pg_sampling, top_p), REAL, {-0.5, 1.5, NAN}},
    {SAMPLE, AT(pg_sampling, min_p), REAL, {-0.5, 1.5, NAN}},
    {SAMPLE, AT(pg_sampling, repeat_penalty), REAL, {-1, NAN, INFINITY}},
    {SAMPLE, AT(pg_sampling, presence_penalty), REAL, {-1e9, NAN, INFINITY}},
    {SAMPLE, AT(pg_sampling, frequency_penalty), REAL, {1e9, NAN, -INFINITY}},
    {SAMPLE, AT(pg_sampling, penalty_last_n), WHOLE, {-1}},
    {TRAIN, AT(pg_train_options, n_data), WHOLE, {-1}},
    {TRAIN, AT(pg_train_options, gate), WHOLE, {-1, 2}},
    {TRAIN, AT(pg_train_options, level), WHOLE, {-1, 5000}},
    {TRAIN, AT(pg_train_options, n_steps), WHOLE, {-1}},
    {TRAIN, AT(pg_train_options, n_seq), WHOLE, {-1, 1e6}},
    {TRAIN, AT(pg_train_options, seq_len), WHOLE, {-1, 2e6}},
    {TRAIN, AT(pg_train_options, n_accumulate), WHOLE, {-1, 1e6}},
    {TRAIN, AT(pg_train_options, lr), REAL, {-1, NAN, INFINITY}},
    {TRAIN, AT(pg_train_options, schedule), WHOLE, {-1, 3}},
    {TRAIN, AT(pg_train_options, lr_end), REAL, {1.5, NAN, -INFINITY}},
    {TRAIN, AT(pg_train_options, n_warmup), WHOLE, {-1}},
    {TRAIN, AT(pg_train_options, beta1), REAL, {-1, 1, NAN}},
    {TRAIN, AT(pg_train_options, beta2), REAL, {-1, 1, NAN}},
    {TRAIN, AT(pg_train_options, eps), REAL, {-1, 2, NAN}},
    {TRAIN, AT(pg_train_options, dropout), REAL, {1, -0.1, NAN}},
    {TRAIN, AT(pg_train_options, weight_decay), REAL, {1e9, NAN, -INFINITY}},
    {TRAIN, AT(pg_train_options, clip), REAL, {NAN, INFINITY, -INFINITY}},
    {TRAIN, AT(pg_train_options, balance), REAL, {1e9, NAN, -INFINITY}},
    {TRAIN, AT(pg_train_options, sticky), REAL, {-1, NAN, INFINITY}},
    {TRAIN, AT(pg_train_options, sticky_cache), WHOLE, {-1, 1e6}},
    {TRAIN, AT(pg_train_options, cache_bias), REAL, {-0.1, 1.1, NAN, INFINITY}},
    {TRAIN, AT(pg_train_options, kl), REAL, {-1, 1e7, NAN, INFINITY}},
    {TRAIN, AT(pg_train_options, cache_form), WHOLE, {-1, 2}},
    {TRAIN, AT(pg_train_options, n_block_bias), WHOLE, {-1}},
    {TRAIN, AT(pg_train_options, n_runners_up), WHOLE, {-1, 1e6}},
    {TRAIN, AT(pg_train_options, weigher), WHOLE, {-1, 2}},
    {TRAIN, AT(pg_train_options, imitate), REAL, {1e7, NAN, INFINITY}},
    {TRAIN, AT(pg_train_options, checkpoint_every), WHOLE, {-1}},
    {TRAIN, AT(pg_train_options, n_threads), WHOLE, {-1, 257}},
    {TUNE, AT(pg_tune_options, n_data), WHOLE, {-1}},
    {TUNE, AT(pg_tune_options, level), WHOLE, {-1, 5000}},
    {TUNE, AT(pg_tune_options, n_hidden), WHOLE, {5000}},
    {TUNE, AT(pg_tune_options, holdout), REAL, {-0.1, 1, NAN, INFINITY}},
    {TUNE, AT(pg_tune_options, n_threads), WHOLE, {-1, 257}},
    {TUNE, AT(pg_tune_options, n_ctx), WHOLE, {-1, 2e9}},
    {TUNE, AT(pg_tune_options, loss), WHOLE, {-1, 2}},
    {TUNE, AT(pg_tune_options, n_steps), WHOLE, {-1}},
    {TUNE, AT(pg_tune_options, n_seq), WHOLE, {-1, 1e6}},
    {TUNE, AT(pg_tune_options, seq_len), WHOLE, {-1, 2e6}},
    {TUNE, AT(pg_tune_options, lr), REAL, {-1, NAN, INFINITY}},
    {TUNE, AT(pg_tune_options, sticky), REAL, {-1, 1e7, NAN, INFINITY}},
    {TUNE, AT(pg_tune_options, sticky_cache), WHOLE, {-1, 1e6}},
    {TUNE, AT(pg_tune_options, eval_every), WHOLE, {-1}},
    {TUNE, AT(pg_tune_options, checkpoint_every), WHOLE, {-1}},
    {TUNE, AT(pg_tune_options, cache_bias), REAL, {-0.1, 1.1, NAN, INFINITY}},
    {TUNE, AT(pg_tune_options, kl), REAL, {-1, 1e7, NAN, INFINITY}},
    {TUNE, AT(pg_tune_options, n_runners_up), WHOLE, {-1, 1e6}},
    {TUNE, AT(pg_tune_options, weigher), WHOLE, {-1, 2}},
    {TUNE, AT(pg_tune_options, imitate), REAL, {1e7, NAN, INFINITY}},
    {EVAL, AT(pg_eval_options, task), WHOLE, {-1, PG_EVAL_COUNT}},
    {EVAL, AT(pg_eval_options, n_max), WHOLE, {-1}},
    {EVAL, AT(pg_eval_options, n_predict), WHOLE, {-1}},
    {SIMULATE, AT(pg_sim_options, mode), WHOLE, {-1, PG_MODE_COUNT}},
    {SIMULATE, AT(pg_sim_options, evict), WHOLE, {-1, PG_EVICT_COUNT}},
    {SIMULATE, AT(pg_sim_options, hints), WHOLE, {-1, 9}},
    {SIMULATE, AT(pg_sim_options, level), WHOLE, {-1, 5000}},
    {SIMULATE, AT(pg_sim_options, n_batch), WHOLE, {-1, 2000}},
    {SIMULATE, AT(pg_sim_options, n_steps), WHOLE, {-1, 1e6}},
    {SIMULATE, AT(pg_sim_options, n_source), WHOLE, {-1, 1e6}},
    {SIMULATE, AT(pg_sim_options, n_slots), WHOLE, {-1, 2e9}},
    {SIMULATE, AT(pg_sim_options, cache), REAL, {-0.1, 1.1, NAN, INFINITY}},
    {SIMULATE, AT(pg_sim_options, n_active), REAL, {-1, 1e6, NAN}},
    {SIMULATE, AT(pg_sim_options, n_active_source), REAL, {-1, 1e6, NAN}},
    {SIMULATE, AT(pg_sim_options, hint_right), REAL, {-0.1, 1.1, NAN}},
};

static void test_ranges(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(bad); i++) {
        const struct bad *b = &bad[i];
        const struct user *u = &users[b->user];
        for (size_t k = 0; k < COUNT(b->v) && b->v[k] != 0; k++) {
            char want[80];
            struct pg_err err = {0};
            char *o = options_of(u, u->whole, u->whole);
            const int whole = b->kind == WHOLE ? (int)b->v[k] : 0;
            const float real = b->v[k];
            memcpy(o + b->offset, b->kind == WHOLE ? (const void *)&whole : &real, 4);
            snprintf(want, sizeof(want), "options: %s: ", b->name);
            if (u->call(o, &err) != PG_EARG || strncmp(err.text, want, strlen(want)))
                fail_msg("%s of %g: %s", b->name, (double)b->v[k], err.text);
            free(o);
        }
    }
}

/* What must be given, one after the other left out. */
static const struct {
    int user;
    const char *name;
    size_t offset;
} given[] = {
    {PLAN, AT(pg_options, model)},
    {ENGINE, AT(pg_options, model)},
    {SYNTH, AT(pg_synth_options, out)},
    {TRAIN, AT(pg_train_options, model)},
    {TRAIN, AT(pg_train_options, data)},
    {TRAIN, AT(pg_train_options, out)},
    {TUNE, AT(pg_tune_options, model)},
    {TUNE, AT(pg_tune_options, data)},
    {TUNE, AT(pg_tune_options, out)},
    {EVAL, AT(pg_eval_options, data)},
    {CONVERT, AT(pg_convert_options, folder)},
    {CONVERT, AT(pg_convert_options, out)},
    {QUANTIZE, AT(pg_quantize_options, model)},
    {QUANTIZE, AT(pg_quantize_options, out)},
    {QUANTIZE, AT(pg_quantize_options, type)},
    {SIMULATE, AT(pg_sim_options, shape)},
    {SIMULATE, AT(pg_sim_options, machine)},
};

static void test_not_given(void **state)
{
    static const char *const no_texts[1];
    (void)state;
    for (size_t i = 0; i < COUNT(given); i++) {
        const struct user *u = &users[given[i].user];
        char want[80];
        struct pg_err err = {0};
        char *o = options_of(u, u->whole, u->whole);
        memset(o + given[i].offset, 0, sizeof(void *));
        snprintf(want, sizeof(want), "options: %s: none given", given[i].name);
        assert_int_equal(u->call(o, &err), PG_EARG);
        assert_string_equal(err.text, want);
        free(o);
    }
    for (int i = PLAN; i <= SIMULATE; i++) {
        struct pg_err err = {0};
        bool needed = i != SESSION && i != SAMPLE;
        assert_int_equal(users[i].call(NULL, &err), needed ? PG_EARG : 0);
        assert_string_equal(err.text, needed ? "options: none given" : "");
    }
    struct pg_err err = {0};
    struct pg_train_options train = train_options;
    train.data = no_texts;
    assert_int_equal(open_trainer(&train, &err), PG_EARG);
    assert_string_equal(err.text, "no file given");
}

/* What a caller takes beside all that can be had is too much, and no sum of it comes round to
 * little. */
static void test_caller_takes_all(void **state)
{
    (void)state;
    const uint64_t bytes[] = {UINT64_MAX, UINT64_MAX - (1 << 20), UINT64_MAX / 2, 1ull << 59};
    for (size_t i = 0; i < COUNT(bytes); i++) {
        struct pg_options o = small;
        struct pg_plan p;
        o.memory_bytes = 64 << 20;
        o.caller_bytes = bytes[i];
        assert_true(pg_plan_make(&p, &o, NULL) == (bytes[i] > 1ull << 60 ? PG_EARG : PG_EBUDGET));
    }
}

/* What is not there is refused or does nothing. */
static void test_nothing(void **state)
{
    struct pg_err err;
    pg_routes *routes = (void *)&err;
    double speed;
    struct pg_file_key key;
    struct pg_file_tensor tensor;
    pg_file *f;
    pg_vocab *v;
    (void)state;
    pg_tune_report_free(NULL);
    pg_eval_report_free(NULL);
    assert_int_equal(pg_vocab_open(&v, NULL, &err), PG_EARG);
    assert_null(v);
    pg_engine_close(NULL);
    pg_session_close(NULL);
    pg_vocab_close(NULL);
    pg_file_close(NULL);
    pg_trainer_close(NULL);
    pg_routes_close(NULL);
    assert_int_equal(pg_mode_parse(NULL), -1);
    assert_int_equal(pg_evict_parse(NULL), -1);
    assert_int_equal(pg_routes_open(&routes, NULL, &err), PG_EARG);
    assert_null(routes);
    assert_int_equal(pg_roof_disk(NULL, 0.1, &speed, &err), PG_EARG);
    assert_int_equal(pg_sidecar_write(NULL, out, 1, &err), PG_EARG);
    assert_int_equal(pg_sidecar_write(MODEL, NULL, 1, &err), PG_EARG);
    assert_int_equal(pg_trace_write(engine, NULL, &err), PG_EARG);
    assert_int_equal(pg_file_open(&f, NULL, &err), PG_EARG);
    assert_null(f);
    assert_int_equal(pg_file_open(&f, MODEL, &err), 0);
    const int at[] = {-1, INT_MIN, pg_file_n_keys(f), INT_MAX};
    for (size_t i = 0; i < COUNT(at); i++) {
        pg_file_key_at(f, at[i], &key);
        assert_true(!key.name && !key.n);
    }
    pg_file_tensor_at(f, pg_file_n_tensors(f), &tensor);
    assert_true(!tensor.name && !tensor.bytes);
    pg_file_tensor_at(f, -1, &tensor);
    assert_null(tensor.name);
    pg_file_close(f);

    struct pg_synth_options nowhere = synth_options;
    nowhere.out = "";
    assert_int_equal(pg_synth(&nowhere, &err), PG_EARG);
}

/* What only the loss of the language model uses is refused without it, before a file is opened. */
static void test_of_one_loss(void **state)
{
    (void)state;
    struct pg_tune_options o[11];
    struct pg_err err;
    for (int i = 0; i < 11; i++)
        o[i] = tune_options;
    o[0].n_steps = o[1].n_seq = o[2].sticky_cache = o[3].n_runners_up = o[4].eval_every = 1;
    o[5].lr = o[6].sticky = o[7].kl = o[8].imitate = 0.5f;
    o[9].from_sidecar = "none.gguf";
    o[10].checkpoint_every = 1;
    for (int i = 0; i < 11; i++) {
        assert_int_equal(tune(&o[i], &err), PG_EARG);
        assert_non_null(strstr(err.text, "loss lm is wanted"));
    }
    assert_int_equal(tune(&tune_options, &err), PG_EIO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_impossible_sizes), cmocka_unit_test(test_older_struct),
        cmocka_unit_test(test_ranges),           cmocka_unit_test(test_not_given),
        cmocka_unit_test(test_of_one_loss),      cmocka_unit_test(test_caller_takes_all),
        cmocka_unit_test(test_nothing),
    };
    return cmocka_run_group_tests(tests, open_model, close_model);
}
