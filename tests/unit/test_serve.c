/* SPDX-License-Identifier: MIT
 * Requests beside each other get the text that each gets alone, bit for bit: with little room,
 * after others with the same beginning, when they give way and come again, beside some that fail or
 * are cancelled.
 */
#include "helpers.h"

#include "base/random.h"
#include "serve/scheduler.h"

#include <dirent.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MODEL PG_MODELS "/tinystories-moe.gguf"

enum { N_CTX = 128, N_REQ = 24, MOST = 100 };

struct one {
    int32_t prompt[N_CTX];
    int n_prompt, n_predict;
    struct pg_sampling how;
    int32_t want[N_CTX], got[N_CTX];
    int n_want, n_got, n_progress, last_done, cancel_after, n_ended;
    uint64_t id;
    pg_scheduler *s;
    struct pg_request_report report;
    float logprob;
};

static pg_engine *open_engine(int n_sessions, int n_kv, int n_batch)
{
    struct pg_options opt = {PG_OPTIONS_INIT,    .model = MODEL,           .n_ctx = N_CTX,
                             .n_threads = 1,     .n_sessions = n_sessions, .n_kv = n_kv,
                             .n_batch = n_batch, .mode = PG_MODE_ONDEMAND, .n_slots = 24};
    struct pg_err err;
    pg_engine *e;
    must(pg_engine_open(&e, &opt, &err), &err);
    return e;
}

/* Prompts of 2 to 60 tokens and up to 34 after them, of which some begin alike; greedy and seeded.
 */
static void make(struct one *r, int i, int n_vocab)
{
    uint64_t random = (uint64_t)i, alike = (uint64_t)(i % 3);
    memset(r, 0, sizeof(*r));
    r->n_prompt = 2 + (int)(pg_random_next(&random) % 59);
    r->n_predict = 1 + (int)(pg_random_next(&random) % 34);
    for (int j = 0; j < r->n_prompt; j++)
        r->prompt[j] =
            (int32_t)(pg_random_next(j < 40 ? &alike : &random) % (uint64_t)(n_vocab - 3)) + 3;
    r->how = (struct pg_sampling){PG_SAMPLING_INIT, .temp = i % 2 ? 0.9f : 0, .seed = (uint64_t)i,
                                  .repeat_penalty = 1.1f};
}

/* What a session alone writes. */
static void run_alone(pg_engine *e, struct one *r)
{
    struct pg_err err;
    pg_session *s;
    must(pg_session_open(&s, e, NULL, &err), &err);
    must(pg_session_sync(s, r->prompt, (size_t)r->n_prompt, &err), &err);
    for (r->n_want = 0; r->n_want < r->n_predict;) {
        int32_t id;
        must(pg_session_next(s, &r->how, &id, &err), &err);
        if (pg_vocab_is_end(pg_engine_vocab(e), id))
            break;
        r->want[r->n_want++] = id;
    }
    pg_session_close(s);
}

static void make_all(struct one *all, int n)
{
    pg_engine *e = open_engine(1, 0, 64);
    for (int i = 0; i < n; i++) {
        make(&all[i], i, e->model.h.n_vocab);
        run_alone(e, &all[i]);
    }
    pg_engine_close(e);
}

static void on_progress(void *user, int done, int total)
{
    struct one *r = user;
    assert_true(done > r->last_done && done <= total && total == r->n_prompt);
    r->last_done = done;
    r->n_progress++;
}

static int on_token(void *user, const struct pg_token *t)
{
    struct one *r = user;
    assert_true(r->n_got < N_CTX);
    r->got[r->n_got++] = t->id;
    r->logprob = t->logprob;
    if (r->cancel_after && r->n_got == r->cancel_after)
        pg_scheduler_cancel(r->s, r->id);
    return 0;
}

static void on_end(void *user, const struct pg_request_report *report)
{
    struct one *r = user;
    r->report = *report;
    r->n_ended++;
}

static struct pg_request request_of(struct one *r)
{
    return (struct pg_request){
        PG_REQUEST_INIT,           .tokens = r->prompt, .n_tokens = (size_t)r->n_prompt,
        .n_predict = r->n_predict, .sampling = &r->how, .progress = on_progress,
        .token = on_token,         .end = on_end,       .user = r};
}

static void submit(pg_scheduler *s, struct one *r)
{
    struct pg_request q = request_of(r);
    struct pg_err err;
    r->s = s;
    r->n_got = r->n_progress = r->last_done = r->n_ended = 0;
    must(pg_scheduler_submit(s, &q, &r->id, &err), &err);
}

/* Steps until nothing runs or waits. */
static void finish(pg_scheduler *s)
{
    struct pg_err err;
    int n_rows = 1;
    while (n_rows) {
        const int rc = pg_scheduler_step(s, &n_rows, &err);
        n_rows = rc == PG_ECANCELLED ? 1 : n_rows;
        assert_true(rc == 0 || rc == PG_ECANCELLED);
    }
}

static void check(const struct one *r)
{
    assert_int_equal(r->n_ended, 1);
    assert_int_equal(r->n_got, r->n_want);
    assert_memory_equal(r->got, r->want, (size_t)r->n_want * sizeof(r->want[0]));
    assert_int_equal(r->report.n_prompt, r->n_prompt);
    assert_int_equal(r->report.n_predicted, r->n_want);
    assert_int_equal(r->last_done, r->report.n_reused == r->n_prompt ? 0 : r->n_prompt);
    assert_int_equal(r->report.stop, r->n_want < r->n_predict ? PG_STOP_END : PG_STOP_LENGTH);
}

static pg_scheduler *open_with_disk(pg_engine *e, const char *folder, uint64_t bytes)
{
    struct pg_scheduler_options o = {PG_SCHEDULER_OPTIONS_INIT, .engine = e, .cache_dir = folder,
                                     .cache_bytes = bytes};
    struct pg_err err;
    pg_scheduler *s;
    must(pg_scheduler_open(&s, &o, &err), &err);
    return s;
}

static pg_scheduler *open_scheduler(pg_engine *e, int n_parallel)
{
    struct pg_scheduler_options o = {PG_SCHEDULER_OPTIONS_INIT, .engine = e,
                                     .n_parallel = n_parallel, .itl_ms = 5};
    struct pg_err err;
    pg_scheduler *s;
    must(pg_scheduler_open(&s, &o, &err), &err);
    return s;
}

static void run_all(struct one *all, int n_sessions, int n_kv, int n_batch)
{
    pg_engine *e = open_engine(n_sessions, n_kv, n_batch);
    pg_scheduler *s = open_scheduler(e, 0);
    struct pg_scheduler_state state;
    for (int round = 0; round < 2; round++) { /* the second finds what the first has left */
        for (int i = 0; i < N_REQ; i++)
            submit(s, &all[i]);
        finish(s);
        for (int i = 0; i < N_REQ; i++)
            check(&all[i]);
    }
    pg_scheduler_state(s, &state);
    assert_int_equal(state.n_done, 2 * N_REQ);
    assert_int_equal(state.n_kv_used, 0);
    uint64_t n_written = 0;
    for (int i = 0; i < N_REQ; i++)
        n_written += (uint64_t)all[i].n_want;
    assert_int_equal(state.n_predicted, 2 * n_written);
    assert_true(state.n_reused > 0 && state.n_reused < state.n_prompt);
    assert_true(n_kv == 0 || n_kv >= 2 * N_CTX || n_sessions == 1 || state.n_preempted > 0);
    pg_scheduler_close(s);
    pg_engine_close(e);
}

static void test_same_text(void **state)
{
    struct one *all = calloc(N_REQ, sizeof(*all));
    (void)state;
    assert_non_null(all);
    make_all(all, N_REQ);
    run_all(all, 1, 0, 16);
    run_all(all, 16, 0, 64);
    run_all(all, 8, N_CTX, 32); /* room for one context: they give way */
    run_all(all, 3, 2 * N_CTX, 8);
    free(all);
}

/* The second turn of a conversation: only what is new is evaluated, also when two go on from it. */
static void test_second_turn(void **state)
{
    struct one first, more[2];
    pg_engine *e = open_engine(2, 0, 64);
    (void)state;
    make(&first, 5, e->model.h.n_vocab);
    first.n_prompt = 50;
    for (int i = 0; i < 50; i++)
        first.prompt[i] = 10 + i;
    first.n_predict = 20;
    first.how.temp = 0;
    run_alone(e, &first);
    pg_scheduler *s = open_scheduler(e, 0);
    submit(s, &first);
    finish(s);
    check(&first);
    assert_int_equal(first.n_got, 20);
    for (int i = 0; i < 2; i++) {
        more[i] = first;
        memcpy(more[i].prompt + 50, first.got, 20 * sizeof(first.got[0]));
        more[i].n_prompt = 73;
        for (int j = 70; j < 73; j++)
            more[i].prompt[j] = 100 + i;
        submit(s, &more[i]);
    }
    finish(s);
    for (int i = 0; i < 2; i++)
        assert_int_equal(more[i].report.n_reused, 69); /* the last token was never evaluated */
    struct pg_request q = request_of(&more[0]);
    struct pg_err err;
    q.no_reuse = true;
    more[0].last_done = 0;
    must(pg_scheduler_submit(s, &q, &more[0].id, &err), &err);
    finish(s);
    assert_int_equal(more[0].report.n_reused, 0);
    pg_scheduler_close(s);
    pg_engine_close(e);
}

static void test_cancel(void **state)
{
    struct one *all = calloc(N_REQ, sizeof(*all));
    (void)state;
    assert_non_null(all);
    make_all(all, N_REQ);
    pg_engine *e = open_engine(4, 0, 32);
    pg_scheduler *s = open_scheduler(e, 0);
    for (int i = 0; i < N_REQ; i++) {
        all[i].cancel_after = i % 3 == 0 ? 3 : 0;
        submit(s, &all[i]);
    }
    pg_scheduler_cancel(s, all[1].id); /* before it runs */
    pg_scheduler_cancel(s, 999999);
    finish(s);
    for (int i = 0; i < N_REQ; i++) {
        const bool ended = all[i].n_want <= 3 && i != 1;
        if (i % 3 && i != 1) {
            check(&all[i]);
            continue;
        }
        assert_int_equal(all[i].n_ended, 1);
        assert_true(ended || all[i].report.stop == PG_STOP_CANCELLED);
        assert_true(all[i].n_got <= 4 &&
                    !memcmp(all[i].got, all[i].want, (size_t)all[i].n_got * sizeof(all[i].got[0])));
    }
    for (int i = 0; i < 6; i++)
        submit(s, &all[i]);
    pg_scheduler_close(s); /* what waits and runs ends */
    for (int i = 0; i < 6; i++)
        assert_true(all[i].n_ended == 1 && all[i].report.stop == PG_STOP_CANCELLED);
    pg_engine_close(e);
    free(all);
}

/* One owner has sent all of its requests before another sends one: that one does not wait for them.
 */
static void test_owners_take_turns(void **state)
{
    enum { N_OWN = 8 };
    struct one *all = calloc(N_OWN + 1, sizeof(*all));
    int n_before = 0;
    (void)state;
    assert_non_null(all);
    pg_engine *e = open_engine(2, 0, 32);
    pg_scheduler *s = open_scheduler(e, 0);
    for (int i = 0; i <= N_OWN; i++) {
        struct pg_err err;
        make(&all[i], i, e->model.h.n_vocab);
        all[i].n_predict = 10;
        struct pg_request q = request_of(&all[i]);
        q.owner = i < N_OWN ? "one" : "other";
        q.ignore_eos = true;
        must(pg_scheduler_submit(s, &q, &all[i].id, &err), &err);
    }
    while (!all[N_OWN].n_ended) {
        struct pg_err err;
        int n_rows;
        const int rc = pg_scheduler_step(s, &n_rows, &err);
        assert_true(rc == 0 || rc == PG_ECANCELLED);
    }
    for (int i = 0; i < N_OWN; i++)
        n_before += all[i].n_ended;
    assert_in_range(n_before, 0, 3); /* at most those beside which it ran */
    finish(s);
    pg_scheduler_close(s);
    pg_engine_close(e);
    free(all);
}

static void test_refuses(void **state)
{
    struct one r;
    struct pg_err err;
    uint64_t id;
    (void)state;
    pg_engine *e = open_engine(1, 0, 16);
    struct pg_scheduler_options o = {PG_SCHEDULER_OPTIONS_INIT, .engine = e, .n_waiting = 2};
    pg_scheduler *s;
    must(pg_scheduler_open(&s, &o, &err), &err);
    make(&r, 1, e->model.h.n_vocab);
    struct pg_request q = request_of(&r);
    q.n_predict = N_CTX;
    assert_int_equal(pg_scheduler_submit(s, &q, &id, &err), PG_ECONTEXT);
    q.n_predict = 4;
    q.n_tokens = 0;
    assert_int_equal(pg_scheduler_submit(s, &q, &id, &err), PG_EARG);
    q.n_tokens = 2;
    r.prompt[1] = e->model.h.n_vocab;
    assert_int_equal(pg_scheduler_submit(s, &q, &id, &err), PG_EARG);
    r.prompt[1] = -1;
    assert_int_equal(pg_scheduler_submit(s, &q, &id, &err), PG_EARG);
    r.prompt[1] = 5;
    q.n_top = PG_TOP_LOGPROBS + 1;
    assert_int_equal(pg_scheduler_submit(s, &q, &id, &err), PG_EARG);
    q.n_top = 0;
    for (int j = 0; j < 3; j++) /* one for the lane, two that wait for it */
        must(pg_scheduler_submit(s, &q, &id, &err), &err);
    assert_int_equal(pg_scheduler_submit(s, &q, &id, &err), PG_EBUSY);
    assert_non_null(strstr(err.text, "3 requests wait"));
    pg_scheduler_close(s);
    o.n_waiting = 4; /* one owner leaves a place for the others */
    must(pg_scheduler_open(&s, &o, &err), &err);
    q.owner = "a";
    for (int i = 0; i < 4; i++)
        must(pg_scheduler_submit(s, &q, &id, &err), &err);
    assert_int_equal(pg_scheduler_submit(s, &q, &id, &err), PG_EBUSY);
    assert_non_null(strstr(err.text, "4 requests of one owner wait"));
    q.owner = "b";
    must(pg_scheduler_submit(s, &q, &id, &err), &err);
    pg_scheduler_close(s);
    o.n_parallel = 2;
    assert_int_equal(pg_scheduler_open(&s, &o, &err), PG_EARG);
    pg_engine_close(e);
}

/* Log probabilities sum to one, the best come first, and the token's own is among them. */
static void test_logprobs(void **state)
{
    enum { N = 50 };
    float logits[N], top[PG_TOP_LOGPROBS];
    int32_t id[PG_TOP_LOGPROBS];
    uint64_t random = 3;
    (void)state;
    for (int i = 0; i < N; i++)
        logits[i] = (float)(pg_random_next(&random) % 12) - 100; /* with equals */
    double sum = 0;
    for (int i = 0; i < N; i++) {
        struct pg_token t = {.id = i, .n_top = i % 21};
        pg_logprobs(logits, N, &t, id, top);
        sum += exp((double)t.logprob);
        for (int j = 0; j < t.n_top; j++) {
            int better = 0; /* whoever comes before it in order */
            for (int k = 0; k < N; k++)
                better += logits[k] > logits[id[j]] || (logits[k] == logits[id[j]] && k < id[j]);
            assert_int_equal(better, j);
            assert_true(fabs((double)(top[j] - t.logprob) - (double)(logits[id[j]] - logits[i])) <
                        1e-5);
        }
    }
    assert_true(fabs(sum - 1) < 1e-5);
}

/* ------------------------------------------------------------------ files ------------------- */

enum { N_LONG = 4, LONG = 100 };

static void make_long(struct one *all)
{
    pg_engine *e = open_engine(1, 0, 64);
    for (int i = 0; i < N_LONG; i++) {
        make(&all[i], i, e->model.h.n_vocab);
        all[i].n_prompt = LONG;
        all[i].n_predict = 10;
        for (int j = 0; j < LONG; j++)
            all[i].prompt[j] = 7 + (i * 31 + j * 17) % 500;
        run_alone(e, &all[i]);
    }
    pg_engine_close(e);
}

/* All of them through a new engine; how many tokens came from files. */
static uint64_t run_long(struct one *all, const char *folder, uint64_t bytes)
{
    struct pg_scheduler_state state;
    pg_engine *e = open_engine(N_LONG, 0, 32); /* room for all when they are saved */
    pg_scheduler *s = open_with_disk(e, folder, bytes);
    for (int i = 0; i < N_LONG; i++)
        submit(s, &all[i]);
    finish(s);
    for (int i = 0; i < N_LONG; i++)
        check(&all[i]);
    pg_scheduler_state(s, &state);
    pg_scheduler_close(s); /* which saves */
    pg_engine_close(e);
    return state.n_restored;
}

static int for_each_file(const char *folder, void (*what)(const char *path))
{
    int n = 0;
    DIR *dir = opendir(folder);
    assert_non_null(dir);
    for (struct dirent *each; (each = readdir(dir));) {
        char path[512];
        snprintf(path, sizeof(path), "%s/%s", folder, each->d_name);
        if (each->d_name[0] == '.')
            continue;
        n++;
        if (what)
            what(path);
    }
    closedir(dir);
    return n;
}

static void damage(const char *path)
{
    FILE *f = fopen(path, "r+");
    assert_non_null(f);
    fseek(f, -40, SEEK_END); /* in the last page */
    const int c = fgetc(f);
    fseek(f, -40, SEEK_END);
    fputc(c ^ 1, f);
    fclose(f);
}

static void cut(const char *path)
{
    assert_int_equal(truncate(path, 5000), 0);
}

static void spoil_tokens(const char *path)
{
    FILE *f = fopen(path, "r+");
    assert_non_null(f);
    fseek(f, 100, SEEK_SET);
    fputc(77, f);
    fclose(f);
}

static void remove_it(const char *path)
{
    unlink(path);
}

/* What another process has left gives the same text; what is damaged is not believed. */
static void test_disk(void **state)
{
    struct one *all = calloc(N_LONG, sizeof(*all));
    char folder[] = "/tmp/pregate-contexts-XXXXXX";
    (void)state;
    assert_true(all && mkdtemp(folder));
    make_long(all);
    assert_int_equal(run_long(all, folder, 0), 0);
    assert_int_equal(for_each_file(folder, NULL), N_LONG);
    assert_int_equal(run_long(all, folder, 0), N_LONG * 96); /* whole pages */
    for_each_file(folder, damage);
    assert_int_equal(run_long(all, folder, 0), N_LONG * 64);
    assert_int_equal(for_each_file(folder, NULL), N_LONG);
    for_each_file(folder, cut);
    assert_int_equal(run_long(all, folder, 0), 0);
    for_each_file(folder, spoil_tokens);
    assert_int_equal(run_long(all, folder, 0), 0);
    assert_int_equal(run_long(all, folder, 1), 0); /* no room: all go */
    assert_int_equal(for_each_file(folder, remove_it), 0);
    rmdir(folder);
    free(all);
}

/* ------------------------------------------------------------------ threads ----------------- */

struct client {
    pthread_t thread;
    pg_scheduler *s;
    struct one *r;
    int n;
};

static void *runs(void *arg)
{
    struct pg_err err;
    must(pg_scheduler_run(arg, &err), &err);
    return NULL;
}

static void *submits(void *arg)
{
    struct client *c = arg;
    static const struct timespec pause = {0, 300000};
    for (int i = 0; i < c->n; i++) {
        struct pg_scheduler_state state;
        struct pg_request_state each[4];
        uint8_t picture[16];
        submit(c->s, &c->r[i]);
        pg_scheduler_state(c->s, &state);
        pg_scheduler_requests(c->s, each, 4);
        pg_scheduler_look(c->s, picture, sizeof(picture));
        if (i % 4 == 3)
            pg_scheduler_cancel(c->s, c->r[i].id);
        nanosleep(&pause, NULL);
    }
    return NULL;
}

static void test_threads(void **state)
{
    enum { N_CLIENTS = 4 };
    struct one *all = calloc(N_REQ, sizeof(*all));
    struct client client[N_CLIENTS];
    pthread_t engine;
    struct pg_scheduler_state st;
    (void)state;
    assert_non_null(all);
    make_all(all, N_REQ);
    pg_engine *e = open_engine(6, 3 * N_CTX, 32);
    pg_scheduler *s = open_scheduler(e, 0);
    assert_int_equal(pthread_create(&engine, NULL, runs, s), 0);
    for (int i = 0; i < N_CLIENTS; i++) {
        const int each = N_REQ / N_CLIENTS;
        client[i] = (struct client){.s = s, .r = all + i * each, .n = each};
        assert_int_equal(pthread_create(&client[i].thread, NULL, submits, &client[i]), 0);
    }
    for (int i = 0; i < N_CLIENTS; i++)
        pthread_join(client[i].thread, NULL);
    do {
        usleep(1000);
        pg_scheduler_state(s, &st);
    } while (st.n_done + st.n_cancelled < N_REQ);
    pg_scheduler_stop(s);
    pthread_join(engine, NULL);
    for (int i = 0; i < N_REQ; i++) {
        if (i % (N_REQ / N_CLIENTS) % 4 != 3)
            check(&all[i]);
        assert_int_equal(all[i].n_ended, 1);
    }
    pg_scheduler_close(s);
    pg_engine_close(e);
    free(all);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_text), cmocka_unit_test(test_second_turn),
        cmocka_unit_test(test_cancel),    cmocka_unit_test(test_owners_take_turns),
        cmocka_unit_test(test_refuses),   cmocka_unit_test(test_logprobs),
        cmocka_unit_test(test_disk),      cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests_name("serve", tests, NULL, NULL);
}
