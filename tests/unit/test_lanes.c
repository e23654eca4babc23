/* SPDX-License-Identifier: MIT
 * Lanes beside the same sequences run one by one, bit for bit; and what ends a run early.
 */
#include "helpers.h"

#include "engine/lanes.h"
#include "fault/alloc_faults.h"

#define MODEL PG_MODELS "/tinystories-moe.gguf"

enum { N_CTX = 40, N_SEQ = 14, N_STOP = 9 };

/* What each sequence is, and what its run gave. */
struct job {
    int n, n_stop; /* tokens given; sampled before it is stopped, 0: never */
    enum pg_lane_logits logits;
    bool writes;
    struct pg_sampling how;
    int32_t given[N_CTX], written[N_CTX + 1];
    int n_written, n_logits, n_ended;
    float *row; /* [N_CTX, n_vocab] */
};

struct jobs {
    struct job job[N_SEQ];
    pg_engine *e;
    struct pg_lanes lanes;
    int n, next, n_vocab;
    int n_steps, cancel_at, fail_at; /* of progress, of logits; 0: never */
    int wait_at;                     /* before this one `take` has none once */
    uint64_t last_done;
};

static pg_engine *open_with(int n_sessions, int n_batch)
{
    struct pg_options opt = {PG_OPTIONS_INIT,         .model = MODEL,           .n_ctx = N_CTX,
                             .n_threads = 1,          .n_sessions = n_sessions, .n_batch = n_batch,
                             .mode = PG_MODE_RESIDENT};
    struct pg_err err;
    pg_engine *e;
    must(pg_engine_open(&e, &opt, &err), &err);
    return e;
}

/* Lengths from one token to the whole context; every third sequence writes. */
static void begin(struct jobs *x, int n_sessions, int n_batch)
{
    static const int length[N_SEQ] = {5, 1, N_CTX, 17, 2, 33, 8, 8, N_CTX, 1, 12, 25, 3, 30};
    memset(x, 0, sizeof(*x));
    x->n = N_SEQ;
    x->wait_at = -1;
    x->e = open_with(n_sessions, n_batch);
    x->n_vocab = x->e->model.h.n_vocab;
    for (int i = 0; i < N_SEQ; i++) {
        struct job *j = &x->job[i];
        j->n = length[i];
        j->logits = (enum pg_lane_logits)(i % 4 % 3);
        j->writes = i % 3 == 0;
        j->n_stop = i % 2 ? N_STOP : 0;
        j->how = (struct pg_sampling){PG_SAMPLING_INIT, .temp = i % 2 ? 0.9f : 0, .seed = 7};
        for (int t = 0; t < j->n; t++)
            j->given[t] = 3 + (i * 31 + t * 17) % 200;
        j->row = calloc(N_CTX * (size_t)x->n_vocab, sizeof(float));
        assert_non_null(j->row);
    }
}

static void end(struct jobs *x)
{
    pg_lanes_close(&x->lanes);
    assert_int_equal(x->e->n_sessions, 0);
    for (int i = 0; i < N_SEQ; i++)
        free(x->job[i].row);
    pg_engine_close(x->e);
}

/* ------------------------------------------------------------------ callbacks --------------- */

static int take(void *user, struct pg_sequence *s, struct pg_err *err)
{
    struct jobs *x = user;
    (void)err;
    if (x->next == x->wait_at) {
        x->wait_at = -1;
        return 0;
    }
    if (x->next == x->n)
        return 0;
    const struct job *j = &x->job[x->next];
    assert_int_equal(s->number, x->next);
    assert_true(!s->how && !s->tag && !s->n && s->logits == PG_LANE_NONE);
    memcpy(s->token, j->given, (size_t)PG_MAX(0, PG_MIN(j->n, N_CTX)) * sizeof(*s->token));
    s->n = j->n;
    s->logits = j->logits;
    s->how = j->writes ? &j->how : NULL;
    s->tag = (uint64_t)x->next++;
    return 1;
}

static int keep_logits(void *user, const struct pg_lane_row *row, int n, const float *logits,
                       struct pg_err *err)
{
    struct jobs *x = user;
    size_t n_vocab = (size_t)x->n_vocab;
    assert_in_range(n, 1, PG_LOGIT_ROWS);
    for (int i = 0; i < n; i++) {
        struct job *j = &x->job[row[i].seq->tag];
        assert_int_equal(row[i].at, j->logits == PG_LANE_ALL ? j->n_logits : j->n - 1);
        assert_int_equal(row[i].seq->token[row[i].at], j->given[row[i].at]);
        memcpy(j->row + (size_t)row[i].at * n_vocab, logits + (size_t)i * n_vocab,
               n_vocab * sizeof(float));
        j->n_logits++;
    }
    if (x->fail_at && --x->fail_at == 0)
        return pg_fail(err, PG_ENUMERIC, "this is the one");
    return 0;
}

static int keep_token(void *user, const struct pg_sequence *s, int32_t token, struct pg_err *err)
{
    struct jobs *x = user;
    struct job *j = &x->job[s->tag];
    (void)err;
    assert_int_equal(s->n - s->n_given, j->n_written);
    j->written[j->n_written++] = token;
    return j->n_written != j->n_stop;
}

static int count_end(void *user, const struct pg_sequence *s, struct pg_err *err)
{
    struct jobs *x = user;
    (void)err;
    x->job[s->tag].n_ended++;
    return 0;
}

static int watch(void *user, const char *what, uint64_t done, uint64_t total)
{
    struct jobs *x = user;
    assert_string_equal(what, "sequences");
    assert_int_equal(total, x->n);
    assert_true(done >= x->last_done && done <= total);
    x->last_done = done;
    return ++x->n_steps == x->cancel_at;
}

static int open_lanes(struct jobs *x, struct pg_err *err)
{
    struct pg_lanes_options o = {.engine = x->e,
                                 .take = take,
                                 .logits = keep_logits,
                                 .token = keep_token,
                                 .end = count_end,
                                 .user = x,
                                 .progress = watch,
                                 .progress_user = x,
                                 .what = "sequences",
                                 .total = (uint64_t)x->n,
                                 .count_sequences = true};
    return pg_lanes_open(&x->lanes, &o, err);
}

/* ------------------------------------------------------------------ one by one -------------- */

static void run_alone(struct jobs *x, struct job *j)
{
    struct pg_err err;
    pg_session *s;
    must(pg_session_open(&s, x->e, NULL, &err), &err);
    must(pg_session_eval(s, j->given, (size_t)j->n, j->row, &err), &err);
    for (int n = j->n; j->writes; n++) {
        int32_t token;
        must(pg_session_sample(s, &j->how, &token, &err), &err);
        j->written[j->n_written++] = token;
        if (j->n_written == j->n_stop || n == N_CTX)
            break;
        must(pg_session_eval(s, &token, 1, NULL, &err), &err);
    }
    pg_session_close(s);
}

static void same_as_alone(const struct jobs *x, const struct jobs *alone)
{
    size_t n_vocab = (size_t)x->n_vocab;
    for (int i = 0; i < x->n; i++) {
        const struct job *j = &x->job[i], *a = &alone->job[i];
        assert_int_equal(j->n_ended, 1);
        assert_int_equal(j->n_written, a->n_written);
        assert_memory_equal(j->written, a->written, sizeof(j->written));
        int first = j->logits == PG_LANE_ALL ? 0 : j->n - 1, n = j->n - first;
        n = j->logits == PG_LANE_NONE ? 0 : n;
        assert_int_equal(j->n_logits, n);
        for (int t = first; t < first + n; t++)
            assert_memory_equal(j->row + (size_t)t * n_vocab, a->row + (size_t)t * n_vocab,
                                n_vocab * sizeof(float));
    }
}

static struct jobs x, alone;

static void test_as_one_by_one(void **state)
{
    static const int with[][2] = {{1, 1}, {1, 13}, {3, 7}, {4, 2}, {5, 64}, {20, 200}};
    struct pg_err err;
    (void)state;
    begin(&alone, 1, 16);
    for (int i = 0; i < N_SEQ; i++)
        run_alone(&alone, &alone.job[i]);
    assert_int_equal(alone.job[0].n_written, N_CTX - 5 + 1);
    assert_int_equal(alone.job[3].n_written, N_STOP);
    for (size_t i = 0; i < PG_COUNT(with); i++) {
        begin(&x, with[i][0], with[i][1]);
        must(open_lanes(&x, &err), &err);
        assert_int_equal(x.lanes.n_lanes, PG_MIN(with[i][0], with[i][1]));
        must(pg_lanes_run(&x.lanes, &err), &err);
        assert_int_equal(x.last_done, N_SEQ);
        same_as_alone(&x, &alone);
        end(&x);
    }
}

/* ------------------------------------------------------------------ more, and fewer --------- */

/* As a server does: what comes later is taken later, and a run that had nothing to do goes on. */
static void test_more_comes_later(void **state)
{
    struct pg_err err;
    int n;
    (void)state;
    begin(&x, 3, 16);
    x.n = 0;
    must(open_lanes(&x, &err), &err);
    must(pg_lanes_step(&x.lanes, &n, &err), &err);
    assert_int_equal(n, 0);
    x.lanes.opt.total = x.n = N_SEQ;
    x.wait_at = 1;
    must(pg_lanes_step(&x.lanes, &n, &err), &err);
    assert_int_equal(n, 5);
    must(pg_lanes_run(&x.lanes, &err), &err);
    must(pg_lanes_step(&x.lanes, &n, &err), &err);
    assert_int_equal(n, 0);
    same_as_alone(&x, &alone);
    end(&x);
}

static void test_fewest_lanes(void **state)
{
    struct pg_err err;
    struct pg_lanes_options o = {.n_most = 2, .take = take, .user = &x};
    (void)state;
    begin(&x, 4, 16);
    o.engine = x.e;
    x.n = 0;
    must(pg_lanes_open(&x.lanes, &o, &err), &err);
    assert_int_equal(x.lanes.n_lanes, 2);
    assert_null(x.lanes.own);
    must(pg_lanes_run(&x.lanes, &err), &err);
    end(&x);
}

static void test_steps_do_not_allocate(void **state)
{
    struct pg_err err;
    (void)state;
    begin(&x, 3, 16);
    must(open_lanes(&x, &err), &err);
    alloc_faults_begin(0, 0);
    must(pg_lanes_run(&x.lanes, &err), &err);
    assert_int_equal(alloc_faults.n_calls, 0);
    assert_true(alloc_faults_clean());
    end(&x);
}

/* ------------------------------------------------------------------ early ends -------------- */

static void refused(int code, const char *words)
{
    struct pg_err err = {0};
    must(open_lanes(&x, &err), &err);
    assert_int_equal(pg_lanes_run(&x.lanes, &err), code);
    says(err.text, words);
    pg_lanes_close(&x.lanes);
    /* The engine is as good as before. */
    assert_int_equal(x.e->n_sessions, 0);
    run_alone(&x, &x.job[1]);
    end(&x);
}

static void test_lengths(void **state)
{
    (void)state;
    begin(&x, 3, 16);
    x.job[2].n = 0;
    refused(PG_EARG, "sequence 2: 0 tokens found, 1 to 40 wanted");
    begin(&x, 3, 16);
    x.job[6].n = N_CTX + 1;
    refused(PG_EARG, "sequence 6: 41 tokens found");
}

static void test_error_in_the_middle(void **state)
{
    (void)state;
    begin(&x, 3, 16);
    x.job[5].given[20] = x.n_vocab;
    refused(PG_EARG, "token id");
    begin(&x, 3, 16);
    x.fail_at = 4;
    refused(PG_ENUMERIC, "this is the one");
}

static void test_cancel(void **state)
{
    (void)state;
    begin(&x, 3, 16);
    x.cancel_at = 6;
    refused(PG_ECANCELLED, " of 14 sequences");
    assert_int_equal(x.n_steps, 6);
}

static int open_and_close(const void *arg, struct pg_err *err)
{
    (void)arg;
    int rc = open_lanes(&x, err);
    if (!rc)
        pg_lanes_close(&x.lanes);
    return rc;
}

static void test_no_memory(void **state)
{
    (void)state;
    begin(&x, 1, 16);
    assert_in_range(fault_each(open_and_close, NULL, false, PG_ENOMEM), 5, 40);
    end(&x);
}

static int close_alone(void **state)
{
    (void)state;
    end(&alone);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_as_one_by_one), cmocka_unit_test(test_more_comes_later),
        cmocka_unit_test(test_fewest_lanes),  cmocka_unit_test(test_steps_do_not_allocate),
        cmocka_unit_test(test_lengths),       cmocka_unit_test(test_error_in_the_middle),
        cmocka_unit_test(test_cancel),        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, close_alone);
}
