/* SPDX-License-Identifier: MIT
 * What requests side by side bring, and what the scheduler costs, without a network:
 *
 *     bench_requests MODEL [MEMORY_MIB [TOKENS [REQUESTS...]]]
 *     bench_requests MODEL MEMORY_MIB turn [ROUNDS]
 *
 * A line for a session alone, stepped by hand, then one for each number of requests at once (1 2 4
 * 8 16): tokens a second of all together, expert bytes read a token, the part of experts found in
 * slots. Prompts are 16 tokens each, different ones; greedy. Run it on a quiet machine.
 */
#include <pregate.h>

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { N_PROMPT = 16, MOST = 256 };

struct bench {
    pg_engine *engine;
    pg_scheduler *scheduler;
    int n_predict, n_vocab, n_left;
    double decode_seconds;
    uint64_t first_ns;
};

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int die(const struct pg_err *err)
{
    fprintf(stderr, "%s\n", err->text);
    exit(1);
}

static void prompt_of(const struct bench *b, int i, int32_t *out)
{
    uint32_t x = (uint32_t)i * 2654435761u + 1;
    for (int j = 0; j < N_PROMPT; j++) {
        x = x * 1664525u + 1013904223u;
        out[j] = (int32_t)(x >> 8) % b->n_vocab;
    }
}

static void report(const char *what, int n_tokens, double seconds, const struct pg_stats *from,
                   const struct pg_stats *to)
{
    const double requests = (double)(to->expert_requests - from->expert_requests);
    const double bytes = (double)(to->expert_bytes_read - from->expert_bytes_read);
    printf("%-16s %9.2f tok/s %10.2f MB/token %6.1f %% hits\n", what, n_tokens / seconds,
           bytes / n_tokens / 1e6,
           requests > 0 ? 100 * (double)(to->hits - from->hits) / requests : 100);
    fflush(stdout);
}

static void alone(struct bench *b)
{
    struct pg_stats from, to;
    struct pg_err err;
    int32_t prompt[N_PROMPT], id;
    pg_session *s;
    prompt_of(b, 0, prompt);
    if (pg_session_open(&s, b->engine, NULL, &err) || pg_session_sync(s, prompt, N_PROMPT, &err))
        die(&err);
    pg_engine_stats(b->engine, &from);
    const uint64_t begin = now_ns();
    for (int i = 0; i < b->n_predict; i++)
        if (pg_session_next(s, NULL, &id, &err))
            die(&err);
    const double seconds = (double)(now_ns() - begin) * 1e-9;
    pg_engine_stats(b->engine, &to);
    report("by hand", b->n_predict, seconds, &from, &to);
    pg_session_close(s);
}

static int on_token(void *user, const struct pg_token *t)
{
    struct bench *b = user;
    (void)t;
    if (!b->first_ns)
        b->first_ns = now_ns();
    return 0;
}

static void on_end(void *user, const struct pg_request_report *r)
{
    struct bench *b = user;
    if (r->stop == PG_STOP_ERROR)
        die(&r->err);
    if (--b->n_left == 0)
        pg_scheduler_stop(b->scheduler);
}

/* All at once. What is counted goes from the first token to the end; prompts are read in there,
 * too, of all but the first. */
static void together(struct bench *b, int n)
{
    struct pg_stats from, to;
    struct pg_err err;
    char what[32];
    b->n_left = n;
    b->first_ns = 0;
    for (int i = 0; i < n; i++) {
        int32_t prompt[N_PROMPT];
        uint64_t id;
        struct pg_request r = {PG_REQUEST_INIT,           .tokens = prompt,   .n_tokens = N_PROMPT,
                               .token = on_token,         .end = on_end,      .user = b,
                               .n_predict = b->n_predict, .ignore_eos = true, .no_reuse = true};
        prompt_of(b, i, prompt);
        if (pg_scheduler_submit(b->scheduler, &r, &id, &err))
            die(&err);
    }
    pg_engine_stats(b->engine, &from);
    if (pg_scheduler_run(b->scheduler, &err))
        die(&err);
    const double seconds = (double)(now_ns() - b->first_ns) * 1e-9;
    pg_engine_stats(b->engine, &to);
    snprintf(what, sizeof(what), "%d request%s", n, n > 1 ? "s" : "");
    report(what, n * b->n_predict, seconds, &from, &to);
}

/* ------------------------------------------------------------------ the second turn --------- */

enum { OLD = 2000, NEW = 20, STEPS = 8, MOST_ROUNDS = 64 };

static void text_of(const struct bench *b, uint32_t seed, int32_t *out, int n)
{
    uint32_t x = seed * 2654435761u + 1;
    for (int j = 0; j < n; j++) {
        x = x * 1664525u + 1013904223u;
        out[j] = (int32_t)(x >> 8) % b->n_vocab;
    }
}

struct turn_times {
    double new_tokens, step, first;
};

static void turn_by_hand(struct bench *b, pg_session *s, uint32_t seed, struct turn_times *out)
{
    struct pg_err err;
    int32_t text[OLD + NEW], id;
    text_of(b, seed, text, OLD + NEW);
    pg_session_truncate(s, 0);
    if (pg_session_eval(s, text, OLD, NULL, &err))
        die(&err);
    uint64_t begin = now_ns();
    if (pg_session_eval(s, text + OLD, NEW, NULL, &err))
        die(&err);
    out->new_tokens = (double)(now_ns() - begin) * 1e-9;
    begin = now_ns();
    for (int i = 0; i < STEPS; i++)
        if (pg_session_next(s, NULL, &id, &err))
            die(&err);
    out->step = (double)(now_ns() - begin) * 1e-9 / STEPS;
}

static void ask(struct bench *b, const int32_t *text, int n, int n_predict)
{
    struct pg_err err;
    uint64_t id;
    const struct pg_request r = {PG_REQUEST_INIT,        .tokens = text,    .n_tokens = (size_t)n,
                                 .token = on_token,      .end = on_end,     .user = b,
                                 .n_predict = n_predict, .ignore_eos = true};
    b->n_left = 1;
    b->first_ns = 0;
    if (pg_scheduler_submit(b->scheduler, &r, &id, &err) || pg_scheduler_run(b->scheduler, &err))
        die(&err);
}

static void turn_by_scheduler(struct bench *b, uint32_t seed, struct turn_times *out)
{
    int32_t text[OLD + NEW];
    text_of(b, seed, text, OLD + NEW);
    ask(b, text, OLD, 1);
    const uint64_t begin = now_ns();
    ask(b, text, OLD + NEW, 1);
    out->first = (double)(b->first_ns - begin) * 1e-9;
}

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *x, int n)
{
    qsort(x, (size_t)n, sizeof(*x), by_size);
    return x[n / 2];
}

static void second_turn(struct bench *b, int rounds)
{
    double new_tokens[MOST_ROUNDS], step[MOST_ROUNDS], first[MOST_ROUNDS], part[MOST_ROUNDS];
    struct pg_scheduler_state state;
    struct pg_err err;
    pg_session *s;
    if (pg_session_open(&s, b->engine, NULL, &err))
        die(&err);
    struct pg_scheduler_options so = {PG_SCHEDULER_OPTIONS_INIT, .engine = b->engine,
                                      .n_parallel = 1};
    if (pg_scheduler_open(&b->scheduler, &so, &err))
        die(&err);
    for (int i = 0; i < rounds; i++) {
        struct turn_times t;
        turn_by_hand(b, s, 2 * (uint32_t)i, &t);
        turn_by_scheduler(b, 2 * (uint32_t)i + 1, &t);
        new_tokens[i] = t.new_tokens;
        step[i] = t.step;
        first[i] = t.first;
        part[i] = t.first / (1.2 * t.step + t.new_tokens);
    }
    pg_scheduler_state(b->scheduler, &state);
    printf("evaluated of the second turns' prompts: %.1f tokens each\n",
           (double)(state.n_prompt - state.n_reused) / rounds - OLD);
    printf("by hand: %d new tokens %.1f ms, a step %.1f ms\n", NEW,
           1e3 * median(new_tokens, rounds), 1e3 * median(step, rounds));
    printf("by the scheduler: first token after %.1f ms, %.2f of (1.2 steps + the new tokens), "
           "%.2f to %.2f\n",
           1e3 * median(first, rounds), median(part, rounds), part[0], part[rounds - 1]);
    pg_session_close(s);
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fputs("usage: bench_requests MODEL [MEMORY_MIB [TOKENS [REQUESTS...]]]\n", stderr);
        return 2;
    }
    struct pg_err err;
    struct pg_model_info info;
    const bool turns = argc > 3 && !strcmp(argv[3], "turn");
    struct bench b = {.n_predict = argc > 3 ? atoi(argv[3]) : 128};
    struct pg_options opt = {PG_OPTIONS_INIT, .model = argv[1],
                             .memory_bytes = argc > 2 ? (uint64_t)atoll(argv[2]) << 20 : 0,
                             .n_ctx = turns ? OLD + NEW + 64 : N_PROMPT + b.n_predict + 32,
                             .n_sessions = turns ? 2 : MOST / 4};
    struct pg_scheduler_options so = {PG_SCHEDULER_OPTIONS_INIT, .n_waiting = MOST};
    if (pg_engine_open(&b.engine, &opt, &err))
        die(&err);
    pg_engine_info(b.engine, &info);
    b.n_vocab = info.n_vocab;
    if (turns) {
        const int rounds = argc > 4 ? atoi(argv[4]) : 5;
        second_turn(&b, rounds < 1 ? 1 : rounds > MOST_ROUNDS ? MOST_ROUNDS : rounds);
        pg_scheduler_close(b.scheduler);
        pg_engine_close(b.engine);
        return 0;
    }
    alone(&b);
    so.engine = b.engine;
    if (pg_scheduler_open(&b.scheduler, &so, &err))
        die(&err);
    static const int usual[] = {1, 2, 4, 8, 16};
    for (int i = 0; i < (argc > 4 ? argc - 4 : 5); i++)
        together(&b, argc > 4 ? atoi(argv[4 + i]) : usual[i]);
    pg_scheduler_close(b.scheduler);
    pg_engine_close(b.engine);
    return 0;
}
