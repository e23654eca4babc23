/* SPDX-License-Identifier: MIT
 * What a step does about logits: none where none are wanted, and none that are not finite, whoever
 * asks for them.
 */
#include "helpers.h"

#include "engine/engine.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MODEL PG_TEST_DATA "/gen_moe/qwen3moe.gguf"

enum { N = 20, N_BATCH = 8 };

static pg_engine *open_model(const char *path, int n_sessions)
{
    struct pg_options opt = {PG_OPTIONS_INIT, .model = path,      .mode = PG_MODE_RESIDENT,
                             .n_ctx = N + 4,  .n_batch = N_BATCH, .n_sessions = n_sessions,
                             .n_threads = 1};
    struct pg_err err;
    pg_engine *e;
    must(pg_engine_open(&e, &opt, &err), &err);
    return e;
}

static pg_session *open_session(pg_engine *e)
{
    struct pg_err err;
    pg_session *s;
    must(pg_session_open(&s, e, NULL, &err), &err);
    return s;
}

static void make_tokens(int32_t token[N])
{
    for (int i = 0; i < N; i++)
        token[i] = 3 + i * 3;
}

/* ------------------------------------------------------------------ wanted or not ----------- */

static int n_rows_computed; /* by the operation below */

static void count_logits(void *self, const struct pg_op_logits *op)
{
    n_rows_computed += op->n_row;
    pg_ops_cpu.logits(self, op);
}

static void test_rows_without_logits(void **state)
{
    pg_engine *e = open_model(MODEL, 2);
    pg_session *a = open_session(e), *b = open_session(e);
    size_t size = (size_t)e->model.h.n_vocab * sizeof(float);
    float *want = malloc(size);
    struct pg_ops counting = pg_ops_cpu;
    struct pg_err err;
    int32_t token[N];
    (void)state;
    assert_non_null(want);
    make_tokens(token);
    counting.logits = count_logits;
    e->forward.ops = &counting;
    must(pg_session_eval(a, token, 5, NULL, &err), &err);
    memcpy(want, pg_session_logits(a), size);
    pg_session_truncate(a, 0);
    n_rows_computed = 0;
    const struct pg_row first[] = {{a, token, 4, true}, {b, token, 4, false}};
    must(pg_step(e, first, 2, &err), &err);
    assert_int_equal(n_rows_computed, 1);
    assert_null(pg_session_logits(a));
    assert_non_null(pg_session_logits(b));
    const struct pg_row second[] = {{a, token + 4, 1, false}, {b, token + 4, 1, true}};
    must(pg_step(e, second, 2, &err), &err);
    assert_int_equal(n_rows_computed, 2);
    assert_memory_equal(pg_session_logits(a), want, size);
    assert_null(pg_session_logits(b));
    assert_int_equal(pg_session_n_tokens(b), 5);
    int32_t next;
    assert_int_equal(pg_session_next(b, NULL, &next, &err), PG_EARG);
    must(pg_session_sync(b, token, 5, &err), &err); /* computes what is missing */
    assert_memory_equal(pg_session_logits(b), want, size);
    free(want);
    pg_session_close(a);
    pg_session_close(b);
    pg_engine_close(e);
}

/* Of a prompt in three steps, one row meets the output matrix. */
static void test_prompt_computes_last_only(void **state)
{
    pg_engine *e = open_model(MODEL, 1);
    pg_session *s = open_session(e);
    struct pg_ops counting = pg_ops_cpu;
    struct pg_err err;
    int32_t token[N];
    (void)state;
    make_tokens(token);
    counting.logits = count_logits;
    e->forward.ops = &counting;
    n_rows_computed = 0;
    must(pg_session_eval(s, token, N, NULL, &err), &err);
    assert_int_equal(n_rows_computed, 1);
    assert_non_null(pg_session_logits(s));
    pg_session_close(s);
    pg_engine_close(e);
}

/* ------------------------------------------------------------------ not finite -------------- */

static void test_all_finite(void **state)
{
    static const float bad[] = {NAN, -NAN, INFINITY, -INFINITY};
    float x[40] = {0, -0.0f, 3.4e38f, -3.4e38f, 1e-45f};
    (void)state;
    for (size_t n = 0; n <= 40; n++) {
        assert_true(pg_all_finite(x, n));
        for (size_t at = 0; at < 40; at++)
            for (size_t j = 0; j < PG_COUNT(bad); j++) {
                float was = x[at];
                x[at] = bad[j];
                assert_int_equal(pg_all_finite(x, n), at >= n);
                x[at] = was;
            }
    }
}

/* A copy of the model in which one value of a tensor is another. */
static pg_engine *open_damaged(const char *tensor, size_t at, float value, int n_sessions)
{
    size_t n;
    struct pg_err err;
    struct pg_gguf *g;
    char *bytes = whole_file(MODEL, &n);
    must(pg_gguf_open(&g, MODEL, &err), &err);
    const struct pg_gguf_tensor *t = pg_gguf_find_tensor(g, tensor);
    assert_true(t && t->type == PG_TYPE_F32);
    memcpy(bytes + t->offset + at * sizeof(float), &value, sizeof(float));
    put_file(IN_DIR("damaged.gguf"), bytes, n);
    pg_gguf_close(g);
    free(bytes);
    return open_model(IN_DIR("damaged.gguf"), n_sessions);
}

static int position_in(const struct pg_err *err)
{
    says(err->text, "not finite");
    const char *at = strstr(err->text, "position ");
    assert_non_null(at);
    return atoi(at + strlen("position "));
}

/* One expert of the last block: the tokens that choose it are refused, those before are not. */
static void test_damaged_expert(void **state)
{
    pg_engine *e = open_damaged("blk.1.ffn_down_exps.weight", 3 * 16 * 32, NAN, 1);
    pg_session *s = open_session(e);
    float *logits = malloc((size_t)(N * e->model.h.n_vocab) * sizeof(float));
    struct pg_err err = {0};
    int32_t token[N];
    (void)state;
    assert_non_null(logits);
    make_tokens(token);
    assert_int_equal(pg_session_eval(s, token, N, logits, &err), PG_ENUMERIC);
    int bad = position_in(&err), n = (int)pg_session_n_tokens(s);
    assert_true(n % N_BATCH == 0 && bad >= n && bad < PG_MIN(n + N_BATCH, N));
    pg_session_truncate(s, 0);
    if (bad > 0)
        must(pg_session_eval(s, token, (size_t)bad, logits, &err), &err);
    assert_int_equal(pg_session_eval(s, token + bad, 1, NULL, &err), PG_ENUMERIC);
    assert_int_equal(position_in(&err), bad);
    assert_int_equal(pg_session_n_tokens(s), bad);
    assert_null(pg_session_logits(s));
    free(logits);
    pg_session_close(s);
    pg_engine_close(e);
}

/* An infinity in the output matrix: every way to logits is refused, and no session grows. */
static void test_damaged_output(void **state)
{
    pg_engine *e = open_damaged("output.weight", 7 * 32 + 3, INFINITY, 2);
    pg_session *a = open_session(e), *b = open_session(e);
    float *logits = malloc((size_t)(N * e->model.h.n_vocab) * sizeof(float));
    struct pg_err err = {0};
    int32_t token[N];
    (void)state;
    assert_non_null(logits);
    make_tokens(token);
    assert_int_equal(pg_session_eval(a, token, N, logits, &err), PG_ENUMERIC);
    assert_int_equal(position_in(&err), 0);
    assert_int_equal(pg_session_sync(a, token, 5, &err), PG_ENUMERIC);
    assert_int_equal(position_in(&err), 4);
    const struct pg_row rows[] = {{a, token, 3, false}, {b, token, 1, false}};
    assert_int_equal(pg_step(e, rows, 2, &err), PG_ENUMERIC);
    assert_int_equal(position_in(&err), 2);
    assert_int_equal(pg_session_n_tokens(a) + pg_session_n_tokens(b), 0);
    assert_true(!pg_session_logits(a) && !pg_session_logits(b));
    const struct pg_row unseen = {a, token, 3, true};
    must(pg_step(e, &unseen, 1, &err), &err);
    free(logits);
    pg_session_close(a);
    pg_session_close(b);
    pg_engine_close(e);
}

/* The token that is sampled is one whose own logits may fail. */
static void test_next(void **state)
{
    pg_engine *e = open_model(MODEL, 1);
    pg_session *s = open_session(e);
    float *weight = (float *)(uintptr_t)e->model.output.data, was = *weight;
    struct pg_err err = {0};
    int32_t token[N], next;
    (void)state;
    make_tokens(token);
    must(pg_session_sync(s, token, 5, &err), &err);
    *weight = NAN;
    assert_int_equal(pg_session_next(s, NULL, &next, &err), PG_ENUMERIC);
    assert_int_equal(position_in(&err), 5);
    assert_int_equal(pg_session_n_tokens(s), 5);
    assert_null(pg_session_logits(s));
    *weight = was;
    must(pg_session_sync(s, token, 5, &err), &err);
    must(pg_session_next(s, NULL, &next, &err), &err);
    pg_session_close(s);
    pg_engine_close(e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows_without_logits),
        cmocka_unit_test(test_prompt_computes_last_only),
        cmocka_unit_test(test_all_finite),
        cmocka_unit_test(test_damaged_expert),
        cmocka_unit_test(test_damaged_output),
        cmocka_unit_test(test_next),
    };
    return cmocka_run_group_tests_name("logits", tests, make_dir, remove_dir);
}
