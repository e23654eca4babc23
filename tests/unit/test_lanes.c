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

/* ------------------------------------------------------------------ sources ----------------- */

enum { N_SOURCE = 24, N_PAIRS = 11 };

/* Pairs of a source and a timeline, and the logits that they gave. */
struct pairs {
    pg_engine *e;
    struct pg_lanes lanes;
    int next, n_source[N_PAIRS], n[N_PAIRS], n_rows[N_PAIRS];
    int32_t source[N_PAIRS][N_SOURCE], token[N_PAIRS][N_CTX];
    float *row[N_PAIRS]; /* [N_CTX, n_vocab] */
    uint64_t done;
};

static void begin_pairs(struct pairs *p, int n_sessions, int n_batch)
{
    static const int sources[N_PAIRS] = {7, 24, 1, 12, 3, 24, 24, 2, 9, 17, 5};
    struct pg_options opt = {PG_OPTIONS_INIT,    .model = PG_TEST_DATA "/gen_moe/switch.gguf",
                             .n_ctx = N_CTX,     .n_source = N_SOURCE,
                             .n_threads = 1,     .n_sessions = n_sessions,
                             .n_batch = n_batch, .mode = PG_MODE_ONDEMAND,
                             .n_slots = 3};
    struct pg_err err;
    memset(p, 0, sizeof(*p));
    must(pg_engine_open(&p->e, &opt, &err), &err);
    for (int i = 0; i < N_PAIRS; i++) {
        p->n_source[i] = sources[i];
        p->n[i] = 1 + i * 13 % N_CTX;
        p->row[i] = calloc(N_CTX * (size_t)p->e->model.h.n_vocab, sizeof(float));
        assert_non_null(p->row[i]);
        for (int t = 0; t < p->n_source[i]; t++)
            p->source[i][t] = 1 + (i * 29 + t * 7) % 60;
        for (int t = 1; t < p->n[i]; t++)
            p->token[i][t] = 1 + (i * 31 + t * 17) % 60;
        p->token[i][0] = p->e->model.h.decoder_start;
    }
}

static void end_pairs(struct pairs *p)
{
    for (int i = 0; i < N_PAIRS; i++)
        free(p->row[i]);
    pg_engine_close(p->e);
}

static int take_pair(void *user, struct pg_sequence *s, struct pg_err *err)
{
    struct pairs *p = user;
    (void)err;
    if (p->next == N_PAIRS)
        return 0;
    const int i = p->next++;
    assert_int_equal(s->token[0], p->e->model.h.decoder_start);
    memcpy(s->source, p->source[i], (size_t)PG_MIN(p->n_source[i], N_SOURCE) * sizeof(int32_t));
    memcpy(s->token + 1, p->token[i] + 1, (size_t)(p->n[i] - 1) * sizeof(int32_t));
    s->n_source = p->n_source[i];
    s->n = p->n[i];
    s->logits = PG_LANE_ALL;
    s->tag = (uint64_t)i;
    return 1;
}

static int keep_pair(void *user, const struct pg_lane_row *row, int n, const float *logits,
                     struct pg_err *err)
{
    struct pairs *p = user;
    size_t n_vocab = (size_t)p->e->model.h.n_vocab;
    (void)err;
    for (int i = 0; i < n; i++) {
        const uint64_t tag = row[i].seq->tag;
        assert_false(row[i].is_source);
        assert_int_equal(row[i].at, p->n_rows[tag]++);
        memcpy(p->row[tag] + (size_t)row[i].at * n_vocab, logits + (size_t)i * n_vocab,
               n_vocab * sizeof(float));
    }
    return 0;
}

static int count_done(void *user, const char *what, uint64_t done, uint64_t total)
{
    struct pairs *p = user;
    (void)what;
    assert_true(done > p->done && done <= total);
    p->done = done;
    return 0;
}

static int run_pairs(struct pairs *p, struct pg_err *err)
{
    struct pg_lanes_options o = {.engine = p->e,
                                 .take = take_pair,
                                 .logits = keep_pair,
                                 .user = p,
                                 .progress = count_done,
                                 .progress_user = p,
                                 .what = "tokens"};
    for (int i = 0; i < N_PAIRS; i++)
        o.total += (uint64_t)(p->n_source[i] + p->n[i]);
    must(pg_lanes_open(&p->lanes, &o, err), err);
    alloc_faults_begin(0, 0);
    int rc = pg_lanes_run(&p->lanes, err);
    assert_int_equal(alloc_faults.n_calls, 0);
    assert_true(alloc_faults_clean());
    pg_lanes_close(&p->lanes);
    assert_true(rc || p->done == o.total);
    return rc;
}

static struct pairs pairs, pairs_alone;

static void test_sources(void **state)
{
    static const int with[][2] = {{1, 24}, {2, 25}, {3, 48}, {11, 300}};
    struct pg_err err;
    pg_session *s;
    (void)state;
    begin_pairs(&pairs_alone, 1, N_SOURCE);
    for (int i = 0; i < N_PAIRS; i++) {
        struct pairs *p = &pairs_alone;
        must(pg_session_open(&s, p->e, NULL, &err), &err);
        must(pg_session_encode(s, p->source[i], (size_t)p->n_source[i], &err), &err);
        must(pg_session_eval(s, p->token[i], (size_t)p->n[i], p->row[i], &err), &err);
        pg_session_close(s);
    }
    size_t n_vocab = (size_t)pairs_alone.e->model.h.n_vocab;
    for (size_t k = 0; k < PG_COUNT(with); k++) {
        begin_pairs(&pairs, with[k][0], with[k][1]);
        must(run_pairs(&pairs, &err), &err);
        for (int i = 0; i < N_PAIRS; i++) {
            assert_int_equal(pairs.n_rows[i], pairs.n[i]);
            assert_memory_equal(pairs.row[i], pairs_alone.row[i],
                                (size_t)pairs.n[i] * n_vocab * sizeof(float));
        }
        end_pairs(&pairs);
    }
    end_pairs(&pairs_alone);
}

static void test_source_lengths(void **state)
{
    struct pg_err err;
    (void)state;
    begin_pairs(&pairs, 3, 48);
    pairs.n_source[4] = 0;
    assert_int_equal(run_pairs(&pairs, &err), PG_EARG);
    says(err.text, "sequence 4: 0 tokens of a source found, 1 to 24 wanted");
    end_pairs(&pairs);
    begin_pairs(&pairs, 3, 48);
    pairs.n_source[6] = N_SOURCE + 1;
    assert_int_equal(run_pairs(&pairs, &err), PG_EARG);
    says(err.text, "sequence 6: 25 tokens of a source found, 1 to 24 wanted");
    end_pairs(&pairs);
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
        cmocka_unit_test(test_sources),       cmocka_unit_test(test_source_lengths),
    };
    return cmocka_run_group_tests(tests, NULL, close_alone);
}
