/* SPDX-License-Identifier: MIT
 * pregate bench: modes, budgets and eviction policies compared on one model.
 *
 * Repetitions are interleaved (repetition outside, rows inside), so that a slow minute of the
 * machine falls on all rows. Each measurement opens an engine of its own. The roofs of memory and
 * disk are measured before the first and after each repetition; the best seen counts as the roof,
 * which makes the floor the lowest and the reported efficiency the most severe.
 *
 * Of a model with an encoder the prompt is the source: its time is that of encoding it, and of the
 * token that the timeline begins with.
 *
 * Decoding goes on with tokens that the model itself samples from a fixed seed: the exact modes
 * then all decode the same tokens. Sampling is outside the measured time.
 */
#include "bench.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---------------------------------------------------------------- derived numbers ----------- */

struct bench_spread bench_roof(const double *samples, int n)
{
    struct bench_spread s = {0, 0};
    for (int i = 0; i < n; i++) {
        s.min = i == 0 || samples[i] < s.min ? samples[i] : s.min;
        s.max = samples[i] > s.max ? samples[i] : s.max;
    }
    return s;
}

double bench_roof_disk(const struct bench *b)
{
    return bench_roof(b->roof_disk, b->n_roofs).max;
}

double bench_roof_dram(const struct bench *b)
{
    return bench_roof(b->roof_dram, b->n_roofs).max;
}

int bench_n_decoded(const struct bench *b)
{
    return b->args->n_predict * b->n_parallel;
}

double bench_per_token(const struct bench *b, double total)
{
    return cli_ratio(total, bench_n_decoded(b));
}

double bench_share(const struct bench_row *row, uint64_t count)
{
    return cli_ratio((double)count, (double)row->typical->decode.expert_requests);
}

static int by_decode_time(const void *a, const void *b)
{
    const struct bench_rep *x = a, *y = b;
    return (x->decode_seconds > y->decode_seconds) - (x->decode_seconds < y->decode_seconds);
}

static void row_summarise(const struct bench *b, struct bench_row *row)
{
    double prefill = 0, sum = 0, squares = 0;
    const int n = row->n_reps, n_prompt = b->args->n_prompt * b->n_parallel;
    if (n == 0) {
        if (!row->error[0])
            snprintf(row->error, sizeof(row->error), "interrupted before it was measured");
        return;
    }
    for (int i = 0; i < n; i++) {
        prefill += cli_ratio(n_prompt, row->reps[i].prefill_seconds) / n;
        sum += cli_ratio(bench_n_decoded(b), row->reps[i].decode_seconds) / n;
    }
    for (int i = 0; i < n; i++) {
        const double d = cli_ratio(bench_n_decoded(b), row->reps[i].decode_seconds) - sum;
        squares += d * d;
    }
    row->prefill_tps = prefill;
    row->decode_tps = sum;
    row->decode_tps_sd = n > 1 ? sqrt(squares / (n - 1)) : 0;
    qsort(row->reps, (size_t)n, sizeof(*row->reps), by_decode_time);
    const struct bench_rep *rep = row->typical = &row->reps[n / 2];
    const double disk = cli_ratio((double)rep->decode.expert_bytes_read, bench_roof_disk(b));
    row->floor_seconds = fmax(rep->decode.compute_seconds, disk);
    row->overlap_efficiency = cli_ratio(row->floor_seconds, rep->decode_seconds);
}

/* ---------------------------------------------------------------- measuring ----------------- */

/* One bar for the whole bench, counted in decoded tokens. */
static int tick(struct bench *b, int n_tokens)
{
    const uint64_t n = (uint64_t)b->args->n_predict;
    return cli_progress_step(&b->progress, "bench", (uint64_t)b->n_before * n + (uint64_t)n_tokens,
                             (uint64_t)(b->args->reps * b->n_rows) * n + 1);
}

static int on_progress(void *user, const char *what, uint64_t done, uint64_t total)
{
    (void)what;
    (void)done;
    (void)total;
    return tick(user, 0);
}

static void on_log(void *user, enum pg_log_level level, const char *text)
{
    struct bench *b = user;
    if (level <= PG_LOG_WARN) { /* engines are opened again and again; once is enough */
        if (strcmp(b->said, text) == 0)
            return;
        snprintf(b->said, sizeof(b->said), "%s", text);
    }
    cli_progress_log(&b->progress, level, text);
}

static void roofs_measure(struct bench *b, double seconds)
{
    struct pg_err err = {0};
    const int at = b->n_roofs;
    if (at == BENCH_ROOFS_MAX || b->args->no_measure || cli_interrupted())
        return;
    b->n_roofs++;
    const int n_threads = b->args->n_threads ? b->args->n_threads : b->machine.n_cpu;
    if (pg_roof_dram(n_threads, seconds, &b->roof_dram[at], &err))
        cli_error("memory bandwidth: %s", err.text);
    if (pg_roof_disk(b->args->subject, seconds, &b->roof_disk[at], &err))
        cli_error("disk bandwidth: %s", err.text);
}

static uint64_t random_next(uint64_t *state)
{
    /* splitmix64: one line, and every seed is good. */
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* The prompts need the vocabulary, which the first engine that opens brings. Of a text each has the
 * tokens that follow those of the one before. */
static int prompt_make(struct bench *b, const pg_engine *e, struct pg_err *err)
{
    const size_t n = (size_t)b->args->n_prompt * (size_t)b->n_parallel;
    uint64_t state = b->args->seed;
    if (b->prompt)
        return 0;
    if (b->prompt_text) {
        struct pg_ids ids = {0};
        const int rc = cli_ids_make(&ids, pg_engine_vocab(e), b->prompt_text, b->n_prompt_text,
                                    cli_prompt_flags(e), err);
        b->prompt = ids.id;
        if (!rc && ids.n < n)
            return cli_fail(err, PG_EARG,
                            "%s: the text has %zu tokens, -p and --parallel ask "
                            "for %zu",
                            b->args->file, ids.n, n);
        return rc;
    }
    b->prompt = malloc(n * sizeof(*b->prompt));
    if (!b->prompt)
        return cli_fail(err, PG_ENOMEM, "no memory for %zu tokens", n);
    for (size_t i = 0; i < n; i++)
        b->prompt[i] = (int32_t)(random_next(&state) % (uint64_t)b->model.n_vocab);
    return 0;
}

static double seconds_since(uint64_t start_ns)
{
    return (double)(cli_now_ns() - start_ns) * 1e-9;
}

/* The texts of a measurement. */
struct texts {
    pg_engine *engine;
    pg_session *session[BENCH_PARALLEL_MAX];
    int32_t id[BENCH_PARALLEL_MAX]; /* the next token of each */
    struct pg_row row[BENCH_PARALLEL_MAX];
    int n;
};

static int texts_open(struct texts *t, struct bench *b, struct pg_err *err)
{
    struct pg_plan plan;
    pg_engine_plan(t->engine, &plan);
    if (plan.n_batch < b->n_parallel)
        return cli_fail(err, PG_EARG,
                        "a step has room for %d tokens, and %d texts are to be decoded side by "
                        "side; give -b %d",
                        plan.n_batch, b->n_parallel, b->n_parallel);
    for (; t->n < b->n_parallel; t->n++) {
        const int rc = pg_session_open(&t->session[t->n], t->engine, NULL, err);
        if (rc)
            return rc;
        t->row[t->n] = (struct pg_row){.session = t->session[t->n], .tokens = &t->id[t->n], .n = 1};
    }
    return 0;
}

static void texts_close(struct texts *t)
{
    while (t->n > 0)
        pg_session_close(t->session[--t->n]);
}

static int prefill(const struct bench *b, struct texts *t, struct pg_err *err)
{
    const size_t n = (size_t)b->args->n_prompt;
    int rc = 0;
    for (int i = 0; i < t->n && !rc; i++) {
        const struct pg_ids prompt = {b->prompt + (size_t)i * n, n, n};
        rc = cli_prompt_run(t->engine, t->session[i], &prompt, err);
    }
    return rc;
}

/* FNV-1a: two runs that decode the same tokens have the same number. */
static uint64_t hash_id(uint64_t hash, int32_t id)
{
    for (int i = 0; i < 4; i++)
        hash = (hash ^ ((uint32_t)id >> 8 * i & 0xff)) * 0x100000001B3u;
    return hash;
}

static int sample_all(const struct bench *b, struct texts *t, struct bench_rep *rep,
                      struct pg_err *err)
{
    struct pg_sampling how = {PG_SAMPLING_INIT, .temp = 1, .top_k = 40};
    for (int i = 0; i < t->n; i++) {
        how.seed = b->args->seed + (uint64_t)i;
        const int rc = pg_session_sample(t->session[i], &how, &t->id[i], err);
        if (rc)
            return rc;
        rep->tokens_hash = hash_id(rep->tokens_hash, t->id[i]);
    }
    return 0;
}

static int decode(struct bench *b, struct texts *t, struct bench_rep *rep, struct pg_err *err)
{
    rep->decode_seconds = 0;
    rep->tokens_hash = 0xCBF29CE484222325u;
    for (int i = 0; i < b->args->n_predict; i++) {
        int rc = sample_all(b, t, rep, err);
        const uint64_t start = cli_now_ns();
        rc = rc ? rc : pg_step(t->engine, t->row, t->n, err);
        rep->decode_seconds += seconds_since(start);
        if (!rc && tick(b, i))
            rc = cli_fail(err, PG_ECANCELLED, "interrupted");
        if (rc)
            return rc;
    }
    return 0;
}

/* Adds, or with a sign of -1 takes away, what the engine has counted so far. */
static void blocks_add(const struct bench *b, const pg_engine *e, int sign, double *seconds)
{
    for (int i = 0; i < b->model.n_layer; i++)
        seconds[i] += sign * pg_engine_block_seconds(e, i);
}

static int measure_texts(struct bench *b, struct texts *t, struct bench_rep *rep,
                         struct pg_err *err)
{
    struct pg_stats before, after;
    int rc = prompt_make(b, t->engine, err);
    rc = rc ? rc : texts_open(t, b, err);
    if (rc)
        return rc;
    rep->block_seconds = calloc((size_t)b->model.n_layer, sizeof(*rep->block_seconds));
    if (!rep->block_seconds)
        return cli_fail(err, PG_ENOMEM, "no memory for the times of %d blocks", b->model.n_layer);
    const uint64_t start = cli_now_ns();
    rc = prefill(b, t, err);
    rep->prefill_seconds = seconds_since(start);
    pg_engine_stats(t->engine, &before);
    blocks_add(b, t->engine, -1, rep->block_seconds);
    rc = rc ? rc : decode(b, t, rep, err);
    blocks_add(b, t->engine, 1, rep->block_seconds);
    pg_engine_stats(t->engine, &after);
    rep->decode = cli_stats_since(&before, &after);
    return rc;
}

static int measure_engine(struct bench *b, pg_engine *e, struct bench_rep *rep, struct pg_err *err)
{
    struct texts *t = calloc(1, sizeof(*t));
    if (!t)
        return cli_fail(err, PG_ENOMEM, "no memory for %d texts", b->n_parallel);
    t->engine = e;
    const int rc = measure_texts(b, t, rep, err);
    texts_close(t);
    free(t);
    return rc;
}

/* What the texts take beside the engine: prompts and answers, and the record of the texts. */
static uint64_t own_bytes(const struct bench *b)
{
    const uint64_t n_tokens = (uint64_t)(b->args->n_prompt + b->args->n_predict);
    return 8 * n_tokens * (uint64_t)b->n_parallel + sizeof(struct texts);
}

/* As much room as is used, unless told otherwise. A timeline begins with a token of its own where
 * the prompt is a source. */
static void contexts_set(const struct bench *b, struct pg_options *opt)
{
    const struct cli_args *a = b->args;
    if (b->encodes && !opt->n_source)
        opt->n_source = a->n_prompt;
    if (!opt->n_ctx)
        opt->n_ctx = (b->encodes ? 1 : a->n_prompt) + a->n_predict;
}

static void options_of_row(struct bench *b, const struct bench_row *row, struct pg_options *opt)
{
    cli_engine_options(opt, b->args, &b->progress);
    opt->progress = on_progress;
    opt->log = on_log;
    opt->user = b;
    opt->memory_bytes = row->memory_bytes;
    opt->mode = row->mode;
    opt->evict = row->evict;
    opt->routes = b->routes;
    opt->caller_bytes = own_bytes(b);
    opt->n_sessions = b->n_parallel;
    opt->steady = b->args->steady;
    contexts_set(b, opt);
}

static void reps_free(struct bench_row *row)
{
    while (row->n_reps > 0)
        free(row->reps[--row->n_reps].block_seconds);
}

static void row_measure(struct bench *b, struct bench_row *row)
{
    struct pg_err err = {0};
    struct pg_options opt;
    struct pg_plan plan;
    pg_engine *e = NULL;
    struct bench_rep rep = {0};
    options_of_row(b, row, &opt);
    pg_peak_rss_reset();
    int rc = pg_engine_open(&e, &opt, &err);
    if (!rc) {
        pg_engine_plan(e, &plan);
        row->n_slots = plan.n_slots;
        row->memory_bytes = plan.budget;
        pg_engine_info(e, &b->model);
        b->model_known = true;
        rc = measure_engine(b, e, &rep, &err);
        snprintf(row->io_path, sizeof(row->io_path), "%s",
                 rep.decode.io_path ? rep.decode.io_path : "");
    }
    rep.decode.io_path = rep.decode.cpu_level = NULL; /* they go with the engine */
    pg_engine_close(e);
    const uint64_t peak = pg_peak_rss();
    if (!rc) {
        row->reps[row->n_reps++] = rep;
        row->peak_rss_bytes = peak > row->peak_rss_bytes ? peak : row->peak_rss_bytes;
        return;
    }
    free(rep.block_seconds);
    if (!cli_interrupted()) {
        snprintf(row->error, sizeof(row->error), "%s", err.text);
        reps_free(row);
    }
}

static void measure_all(struct bench *b)
{
    char what[96];
    roofs_measure(b, 0.5);
    for (int rep = 0; rep < b->args->reps; rep++) {
        int n_left = 0;
        for (int i = 0; i < b->n_rows && !cli_interrupted(); i++) {
            struct bench_row *row = &b->rows[i];
            if (row->error[0])
                continue;
            snprintf(what, sizeof(what), "repetition %d of %d, row %d of %d: %s", rep + 1,
                     b->args->reps, i + 1, b->n_rows, pg_mode_name(row->mode));
            b->progress.prefix = what;
            b->n_before = rep * b->n_rows + i;
            row_measure(b, row);
            n_left += !row->error[0];
        }
        if (n_left == 0)
            break;
        roofs_measure(b, 0.3);
    }
    cli_progress_clear();
    for (int i = 0; i < b->n_rows; i++)
        row_summarise(b, &b->rows[i]);
}

/* ---------------------------------------------------------------- rows ---------------------- */

struct lists {
    int n_modes, n_memories, n_policies;
    enum pg_mode modes[BENCH_LIST_MAX];
    uint64_t memories[BENCH_LIST_MAX];
    enum pg_evict policies[BENCH_LIST_MAX];
};

static int names_parse(const char *option, const char *text, int (*parse)(const char *), int *out)
{
    char items[BENCH_LIST_MAX][CLI_ITEM];
    const int n = cli_list_split(text, items, BENCH_LIST_MAX);
    if (n < 0)
        return -cli_usage("--%s: \"%s\" is not a list of 1 to %d names", option, text,
                          BENCH_LIST_MAX);
    for (int i = 0; i < n; i++) {
        out[i] = parse(items[i]);
        if (out[i] < 0)
            return -cli_usage("--%s: unknown name \"%s\"; `pregate run --help` lists them", option,
                              items[i]);
    }
    return n;
}

/* A budget that is not given is what `run` would take: what cgroup and machine leave. */
static int memories_default(const struct bench *b, struct lists *l)
{
    struct pg_err err = {0};
    struct cli_progress progress = {0};
    struct pg_options opt;
    struct pg_plan plan = {0};
    cli_engine_options(&opt, b->args, &progress);
    opt.mode = PG_MODE_ONDEMAND;
    contexts_set(b, &opt);
    const int rc = pg_plan_make(&plan, &opt, &err);
    if (rc && rc != PG_EBUDGET)
        return cli_failed(&err);
    l->n_memories = 1;
    l->memories[0] = plan.budget;
    return CLI_OK;
}

static int memories_parse(const struct bench *b, struct lists *l)
{
    const struct cli_args *args = b->args;
    char items[BENCH_LIST_MAX][CLI_ITEM];
    struct pg_machine machine;
    if (!args->memories && args->n_slots) { /* each row has what its slots take */
        l->n_memories = 1;
        l->memories[0] = 0;
        return CLI_OK;
    }
    if (!args->memories)
        return memories_default(b, l);
    pg_machine_info(&machine);
    l->n_memories = cli_list_split(args->memories, items, BENCH_LIST_MAX);
    if (l->n_memories < 0)
        return cli_usage("--memory: \"%s\" is not a list of 1 to %d sizes", args->memories,
                         BENCH_LIST_MAX);
    for (int i = 0; i < l->n_memories; i++)
        if (!cli_size_parse(items[i], machine.memory_limit, &l->memories[i]))
            return cli_usage("--memory: \"%s\" is not a size such as 8G, 512MiB or 60%%", items[i]);
    return CLI_OK;
}

static int lists_parse(const struct bench *b, struct lists *l)
{
    const struct cli_args *args = b->args;
    int modes[BENCH_LIST_MAX], policies[BENCH_LIST_MAX];
    l->n_modes = PG_MODE_COUNT - PG_MODE_RESIDENT;
    for (int i = 0; i < l->n_modes; i++)
        modes[i] = PG_MODE_RESIDENT + i;
    if (args->modes)
        l->n_modes = names_parse("modes", args->modes, pg_mode_parse, modes);
    l->n_policies = 1;
    policies[0] = PG_EVICT_CYCLE;
    if (args->policies)
        l->n_policies = names_parse("evict", args->policies, pg_evict_parse, policies);
    if (l->n_modes < 0 || l->n_policies < 0)
        return CLI_USAGE;
    for (int i = 0; i < l->n_modes; i++)
        l->modes[i] = (enum pg_mode)modes[i];
    for (int i = 0; i < l->n_policies; i++)
        l->policies[i] = (enum pg_evict)policies[i];
    return memories_parse(b, l);
}

static int rows_make(struct bench *b, const struct lists *l)
{
    const size_t cap = (size_t)(l->n_memories * l->n_modes * l->n_policies);
    b->rows = calloc(cap, sizeof(*b->rows));
    if (!b->rows)
        return CLI_FAILED;
    for (int i = 0; i < l->n_memories; i++)
        for (int m = 0; m < l->n_modes; m++)
            for (int p = 0; p < l->n_policies; p++) {
                struct bench_row *row = &b->rows[b->n_rows];
                if (p > 0 && l->modes[m] == PG_MODE_RESIDENT)
                    continue; /* nothing is ever evicted */
                row->mode = l->modes[m];
                row->evict = l->policies[p];
                row->memory_bytes = l->memories[i];
                row->reps = calloc((size_t)b->args->reps, sizeof(*row->reps));
                b->n_rows++;
                if (!row->reps)
                    return CLI_FAILED;
            }
    return CLI_OK;
}

/* ---------------------------------------------------------------- the command --------------- */

static int print_result(const struct bench *b, const char *format)
{
    if (!strcmp(format, "json"))
        return bench_print_json(b);
    if (!strcmp(format, "csv"))
        bench_print_csv(b);
    else if (!strcmp(format, "html"))
        bench_print_html(b);
    else
        bench_print_md(b);
    return CLI_OK;
}

/* What cannot be planned will say why when it is measured. */
static bool has_encoder(const struct cli_args *args)
{
    const struct pg_options opt = {PG_OPTIONS_INIT, .model = args->subject,
                                   .mode = PG_MODE_ONDEMAND};
    struct pg_err err = {0};
    struct pg_plan plan = {0};
    (void)pg_plan_make(&plan, &opt, &err);
    return plan.n_source > 0;
}

static int bench_open(struct bench *b)
{
    struct pg_err err = {0};
    struct lists l = {0};
    const struct cli_args *args = b->args;
    b->encodes = has_encoder(args);
    const int code = lists_parse(b, &l);
    if (code)
        return code;
    if (args->routes && pg_routes_open(&b->routes, args->routes, &err))
        return cli_failed(&err);
    if (args->file && cli_file_read(args->file, &b->prompt_text, &b->n_prompt_text, &err))
        return cli_failed(&err);
    pg_machine_info(&b->machine);
    if (rows_make(b, &l)) {
        cli_error("out of memory");
        return CLI_FAILED;
    }
    return CLI_OK;
}

static void bench_close(struct bench *b)
{
    for (int i = 0; i < b->n_rows; i++) {
        reps_free(&b->rows[i]);
        free(b->rows[i].reps);
    }
    free(b->rows);
    free(b->prompt);
    free(b->prompt_text);
    pg_routes_close(b->routes);
}

int cli_bench(const struct cli_args *args)
{
    static const char *const formats[] = {"md", "json", "csv", "html", NULL};
    struct bench b = {.args = args, .n_parallel = args->n_parallel ? args->n_parallel : 1};
    const char *format = args->format ? args->format : "md";
    bool known = false;
    for (int i = 0; formats[i]; i++)
        known = known || !strcmp(format, formats[i]);
    if (!known)
        return cli_usage("--format: \"%s\" is not one of md, json, csv, html", format);
    int code = bench_open(&b);
    if (!code) {
        bool any = false;
        measure_all(&b);
        for (int i = 0; i < b.n_rows; i++)
            any = any || b.rows[i].n_reps > 0;
        code = print_result(&b, format);
        if (!code && !any && !cli_interrupted()) {
            cli_error("no row could be run; each says why");
            code = CLI_FAILED;
        }
    }
    if (!code && cli_interrupted())
        code = cli_interrupt_code();
    bench_close(&b);
    return code;
}
