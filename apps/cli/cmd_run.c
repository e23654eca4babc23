/* SPDX-License-Identifier: MIT
 * pregate run: continue a prompt.
 *
 * A token is shown as soon as it is sampled, before it is evaluated: what the reader waits for is
 * never behind a step that only the next token needs.
 */
#include "cli.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

struct run {
    const struct cli_args *args;
    struct cli_progress progress;
    pg_engine *engine;
    pg_session *session;
    pg_routes *routes; /* forced; may be NULL */
    struct cli_grammar grammar;
    struct pg_sampling sampling;
    struct pg_detok detok;
    char *prompt; /* text */
    size_t n_prompt_text;
    int32_t *ids; /* the prompt and what followed it */
    size_t n_prompt, n_ids, cap_ids;
    char *text; /* what followed, kept for --json */
    size_t n_text, cap_text;
    const char *stop; /* why it ended */
    double score;     /* of beam search */
    struct pg_plan plan;
    struct pg_stats at_open, at_prompt, at_end;
    double load_seconds, first_token_seconds; /* since the program began its work */
    uint64_t start_ns;
};

/* ---------------------------------------------------------------- output -------------------- */

static int text_keep(struct run *r, const char *text, size_t n, struct pg_err *err)
{
    if (n == 0)
        return 0;
    if (r->n_text + n > r->cap_text) {
        const size_t cap = 2 * (r->n_text + n) + 4096;
        char *larger = realloc(r->text, cap);
        if (!larger)
            return cli_fail(err, PG_ENOMEM, "no memory for %zu bytes of text", cap);
        r->text = larger;
        r->cap_text = cap;
    }
    memcpy(r->text + r->n_text, text, n);
    r->n_text += n;
    return 0;
}

static int text_emit(struct run *r, int32_t id, struct pg_err *err)
{
    char piece[PG_PIECE_MAX];
    const size_t n = pg_detokenize(&r->detok, id, piece);
    if (r->args->json)
        return text_keep(r, piece, n, err);
    cli_progress_clear();
    cli_print_safe(stdout, piece, n);
    if (n && fflush(stdout))
        return cli_stdout_failed(err);
    return 0;
}

/* ---------------------------------------------------------------- prompt -------------------- */

static int prompt_read(struct run *r, struct pg_err *err)
{
    const struct cli_args *a = r->args;
    char *file = NULL;
    size_t n_file = 0;
    const bool from_stdin = !a->prompt && !a->file;
    if ((a->file || from_stdin) && cli_file_read(a->file ? a->file : "-", &file, &n_file, err))
        return err->code;
    /* With both, the text follows the file: a long document, then the question. */
    const size_t n_text = a->prompt ? strlen(a->prompt) : 0;
    r->prompt = malloc(n_file + n_text + 1);
    if (!r->prompt) {
        free(file);
        return cli_fail(err, PG_ENOMEM, "no memory for the prompt");
    }
    if (n_file)
        memcpy(r->prompt, file, n_file);
    if (n_text)
        memcpy(r->prompt + n_file, a->prompt, n_text);
    r->n_prompt_text = n_file + n_text;
    r->prompt[r->n_prompt_text] = '\0';
    free(file);
    return 0;
}

enum { MOST_TOKENS = 1 << 20 }; /* of a text; more than contexts have */

/* As far as the context is known before the model is open. */
static int most_tokens(const struct run *r)
{
    int n = r->args->n_ctx ? r->args->n_ctx : 4096;
    n = n < MOST_TOKENS ? n : MOST_TOKENS;
    return r->args->n_predict < 0 || r->args->n_predict > n ? n : r->args->n_predict;
}

static int prompt_tokenize(struct run *r, struct pg_err *err)
{
    const pg_vocab *vocab = pg_engine_vocab(r->engine);
    const int wanted = r->args->n_predict;
    const size_t n_more = wanted < 0 || wanted > MOST_TOKENS ? MOST_TOKENS : (size_t)wanted;
    const unsigned flags =
        cli_prompt_flags(r->engine) | (r->args->special ? PG_TOKENIZE_SPECIAL : 0);
    struct pg_ids ids = {.cap = n_more};
    const int rc = cli_ids_make(&ids, vocab, r->prompt, r->n_prompt_text, flags, err);
    r->ids = ids.id;
    r->cap_ids = ids.cap;
    r->n_prompt = ids.n;
    if (rc)
        return rc;
    if (r->n_prompt == 0 && pg_vocab_bos(vocab) >= 0)
        r->ids[r->n_prompt++] = pg_vocab_bos(vocab);
    if (r->n_prompt == 0)
        return cli_fail(err, PG_EARG,
                        "the prompt is empty, and this model has no token to begin "
                        "a text with; give -p TEXT");
    r->n_ids = r->n_prompt;
    return 0;
}

/* ---------------------------------------------------------------- generation ---------------- */

static int generate_one(struct run *r, int done, bool *ended, struct pg_err *err)
{
    const pg_vocab *vocab = pg_engine_vocab(r->engine);
    int32_t id;
    *ended = true;
    int rc = pg_session_sample(r->session, &r->sampling, &id, err);
    if (rc)
        return rc;
    if (done == 0)
        r->first_token_seconds = (double)(cli_now_ns() - r->start_ns) * 1e-9;
    const bool end = pg_vocab_is_end(vocab, id);
    if (end && (r->grammar.matcher || !r->args->ignore_eos)) {
        r->stop = "end";
        return 0;
    }
    r->ids[r->n_ids++] = id;
    rc = text_emit(r, id, err);
    if (cli_grammar_ends(&r->grammar))
        r->stop = "end";
    if (rc || cli_grammar_ends(&r->grammar) || done + 1 == r->args->n_predict)
        return rc; /* the last token need not be evaluated */
    const struct pg_row row = {.session = r->session, .tokens = &id, .n = 1};
    rc = pg_step(r->engine, &row, 1, err);
    if (rc == PG_ECONTEXT) {
        r->stop = "context";
        return 0;
    }
    *ended = rc != 0;
    return rc;
}

static int generate(struct run *r, struct pg_err *err)
{
    bool ended = cli_grammar_ends(&r->grammar);
    r->stop = ended ? "end" : "length";
    for (int done = 0; !ended && done != r->args->n_predict; done++) {
        if (cli_interrupted()) {
            r->stop = "interrupted";
            return 0;
        }
        if (r->n_ids == r->cap_ids)
            return 0;
        const int rc = generate_one(r, done, &ended, err);
        if (rc == PG_ECANCELLED && cli_interrupted()) {
            r->stop = "interrupted";
            return 0;
        }
        if (rc)
            return rc;
    }
    return 0;
}

/* The text that beam search finds, whole. */
static int generate_beams(struct run *r, struct pg_err *err)
{
    const struct cli_beams opt = {.engine = r->engine,
                                  .session = r->session,
                                  .n_beams = r->args->n_beams,
                                  .n_predict = most_tokens(r),
                                  .ignore_eos = r->args->ignore_eos,
                                  .progress = &r->progress};
    struct cli_beams_found found = {.ids = r->ids + r->n_ids};
    int rc = cli_beams_run(&opt, &found, err);
    if (rc == PG_ECANCELLED && cli_interrupted()) {
        r->stop = "interrupted";
        return 0;
    }
    r->first_token_seconds = (double)(cli_now_ns() - r->start_ns) * 1e-9;
    r->stop = found.ended ? "end" : found.full ? "context" : "length";
    r->score = found.score;
    for (size_t i = 0; !rc && i < found.n; i++)
        rc = text_emit(r, r->ids[r->n_ids++], err);
    return rc;
}

/* Sampling does nothing for beam search, which needs to know where a text ends at most. */
static int beams_check(const struct cli_args *a)
{
    static const char *const of_sampling[] = {"temp",
                                              "top-k",
                                              "top-p",
                                              "min-p",
                                              "repeat-penalty",
                                              "presence-penalty",
                                              "frequency-penalty",
                                              "repeat-last-n",
                                              "seed",
                                              "grammar",
                                              "json-schema"};
    const bool samples = a->n_beams == 0;
    for (size_t i = 0; i < sizeof(of_sampling) / sizeof(of_sampling[0]); i++) {
        const struct cli_needs one = {of_sampling[i], samples, "sampling, and --beams does not"};
        const int bad = cli_needs_check(a, &one, 1);
        if (bad)
            return bad;
    }
    if (!samples && a->n_predict < 1)
        return cli_usage("run: --beams needs the most tokens of a text: give -n N, 1 at least");
    return CLI_OK;
}

/* ---------------------------------------------------------------- summary ------------------- */

/* Tokens that steps evaluated between two looks at the statistics. */
static double evaluated(const struct pg_stats *s)
{
    return (double)(s->n_prompt + s->n_decode);
}

static double found_rate(const struct pg_stats *s)
{
    return cli_ratio((double)s->hits, (double)s->expert_requests);
}

/* What the reads were like: only steps can say, and a text of one token needs none. */
static void print_reads(const struct pg_stats *d, double n)
{
    char read[16];
    const double hinted = (double)(d->hinted_in_time + d->hinted_late);
    fprintf(stderr, " %.2f tok/s | hits %.1f %%", cli_ratio(n, cli_stats_seconds(d)),
            100 * found_rate(d));
    if (hinted > 0)
        fprintf(stderr, " + %.1f %% hinted", 100 * cli_ratio(hinted, (double)d->expert_requests));
    fprintf(stderr, " | %s read/token | stalled %.2f s of %.2f s",
            cli_size_text((uint64_t)cli_ratio((double)d->expert_bytes_read, n), read),
            d->stall_seconds, cli_stats_seconds(d));
}

static void print_summary(const struct run *r, const struct pg_stats *p, const struct pg_stats *d)
{
    char peak[16], budget[16];
    const bool colour = isatty(STDERR_FILENO) && !getenv("NO_COLOR");
    cli_progress_clear();
    fputs(colour ? "\033[2m" : "", stderr);
    fprintf(stderr, "prompt %zu tokens %.2f tok/s | decode %zu tokens", r->n_prompt,
            cli_ratio(evaluated(p), cli_stats_seconds(p)), r->n_ids - r->n_prompt);
    if (evaluated(d) > 0)
        print_reads(d, evaluated(d));
    fprintf(stderr, " | peak %s of %s | %s, %s, %s%s", cli_size_text(pg_peak_rss(), peak),
            cli_size_text(r->plan.budget, budget), pg_mode_name(r->plan.mode),
            d->io_path ? d->io_path : "-", d->cpu_level ? d->cpu_level : "-",
            cli_hints_stopped(r->plan.mode, d, r->args) ? ", hinted reads off: they did not pay"
                                                        : "");
    if (r->sampling.temp > 0 && !r->args->n_beams)
        fprintf(stderr, " | seed %llu", (unsigned long long)r->sampling.seed);
    if (!strcmp(r->stop, "context"))
        fputs(" | stopped: the context is full, -c N makes it larger", stderr);
    fprintf(stderr, "%s\n", colour ? "\033[0m" : "");
}

static int print_json(const struct run *r, const struct pg_stats *p, const struct pg_stats *d)
{
    struct pg_model_info info;
    json_t *o = json_object(), *tokens = json_array();
    for (size_t i = r->n_prompt; i < r->n_ids; i++)
        json_array_append_new(tokens, json_integer(r->ids[i]));
    pg_engine_info(r->engine, &info);
    json_object_set_new(o, "text", cli_json_text(r->text ? r->text : "", r->n_text));
    json_object_set_new(o, "tokens", tokens);
    json_object_set_new(o, "stop", json_string(r->stop));
    if (r->args->n_beams)
        cli_put_real(o, "score", r->score);
    json_object_set_new(o, "mode", json_string(pg_mode_name(r->plan.mode)));
    cli_put_size(o, "seed", r->sampling.seed);
    cli_put_size(o, "n_prompt", r->n_prompt);
    cli_put_size(o, "n_decode", (r->n_ids - r->n_prompt));
    cli_put_real(o, "prompt_tps", cli_ratio(evaluated(p), cli_stats_seconds(p)));
    cli_put_real(o, "decode_tps", cli_ratio(evaluated(d), cli_stats_seconds(d)));
    cli_put_real(o, "hit_rate", found_rate(d));
    cli_put_real(o, "bytes_read_per_token", cli_ratio((double)d->expert_bytes_read, evaluated(d)));
    cli_put_size(o, "n_slots", (uint64_t)r->plan.n_slots);
    cli_put_real(o, "stall_seconds", d->stall_seconds);
    cli_put_size(o, "peak_rss_bytes", pg_peak_rss());
    cli_put_size(o, "memory_bytes", r->plan.budget);
    json_object_set_new(o, "io_path", json_string(d->io_path ? d->io_path : ""));
    json_object_set_new(o, "cpu_level", json_string(d->cpu_level ? d->cpu_level : ""));
    cli_put_real(o, "load_seconds", r->load_seconds);
    cli_put_real(o, "first_token_seconds", r->first_token_seconds);
    json_object_set_new(o, "prompt_stats", cli_json_stats(p));
    json_object_set_new(o, "decode_stats", cli_json_stats(d));
    json_object_set_new(o, "plan", cli_json_plan(&r->plan));
    json_object_set_new(o, "model", cli_json_model(&info));
    return cli_json_print(o);
}

/* ---------------------------------------------------------------- the command --------------- */

static void sampling_init(struct run *r)
{
    const struct cli_args *a = r->args;
    uint32_t random = 1;
    if (!a->seed_given && getrandom(&random, sizeof(random), 0) != (ssize_t)sizeof(random))
        random = (uint32_t)cli_now_ns();
    r->sampling = cli_sampling_of(a, a->seed_given ? a->seed : random);
}

/* Events kept for --trace: at most a 64th of the budget, at about 64 bytes each. */
static int trace_events(const struct cli_args *a)
{
    const uint64_t most = 1 << 18, least = 1 << 12;
    const uint64_t room = a->memory ? a->memory / 64 / 64 : most;
    if (!a->trace)
        return 0;
    return (int)(room < least ? least : room > most ? most : room);
}

/* The prompt as tokens, and what is kept of each token that is written. */
static uint64_t own_bytes(const struct run *r)
{
    const uint64_t n_tokens = (uint64_t)most_tokens(r);
    const uint64_t n_beams = (uint64_t)r->args->n_beams;
    return 4 * r->n_prompt_text + n_tokens * (r->args->json ? 128 : sizeof(*r->ids)) +
           3 * n_beams * n_tokens * sizeof(*r->ids);
}

static int run_open(struct run *r, struct pg_err *err)
{
    struct pg_options opt;
    uint64_t bytes = 0;
    cli_engine_options(&opt, r->args, &r->progress);
    opt.trace_events = trace_events(r->args);
    opt.routes_out = r->args->routes_out;
    int rc = r->args->trace ? cli_outfile_check(r->args->trace, false, err) : 0;
    rc = rc ? rc : cli_grammar_open(&r->grammar, r->args, &bytes, err);
    rc = rc ? rc : prompt_read(r, err);
    opt.caller_bytes = own_bytes(r) + bytes;
    opt.n_sessions = r->args->n_beams;
    if (!rc && r->args->routes)
        rc = pg_routes_open(&r->routes, r->args->routes, err);
    opt.routes = r->routes;
    rc = rc ? rc : pg_engine_open(&r->engine, &opt, err);
    if (rc)
        return rc;
    pg_engine_plan(r->engine, &r->plan);
    rc = pg_session_open(&r->session, r->engine, NULL, err);
    rc = rc ? rc : cli_grammar_begin(&r->grammar, r->engine, err);
    r->sampling.matcher = r->grammar.matcher;
    rc = rc ? rc : prompt_tokenize(r, err);
    /* The space before the first word belongs to the text when the text goes on from a prompt. */
    const bool goes_on = r->n_prompt_text > 0 && cli_prompt_flags(r->engine) == PG_TOKENIZE_BOS;
    r->detok = (struct pg_detok){.vocab = pg_engine_vocab(r->engine), .not_first = goes_on};
    r->load_seconds = (double)(cli_now_ns() - r->start_ns) * 1e-9;
    pg_engine_stats(r->engine, &r->at_open);
    return rc;
}

static int run_text(struct run *r, struct pg_err *err)
{
    if (r->args->echo && !r->args->json) {
        cli_print_safe(stdout, r->prompt, r->n_prompt_text);
        if (fflush(stdout))
            return cli_stdout_failed(err);
    }
    const struct pg_ids prompt = {r->ids, r->n_prompt, r->n_prompt};
    int rc = cli_prompt_run(r->engine, r->session, &prompt, err);
    cli_progress_clear();
    pg_engine_stats(r->engine, &r->at_prompt);
    if (rc == PG_ECANCELLED && cli_interrupted()) {
        r->stop = "interrupted";
        rc = 0;
    } else if (!rc) {
        rc = r->args->n_beams ? generate_beams(r, err) : generate(r, err);
    }
    pg_engine_stats(r->engine, &r->at_end);
    if (rc)
        return rc;
    rc = text_emit(r, -1, err);
    if (!rc && !r->args->json) {
        putchar('\n');
        fflush(stdout);
    }
    return rc;
}

static int run_report(struct run *r, struct pg_err *err)
{
    const struct pg_stats p = cli_stats_since(&r->at_open, &r->at_prompt);
    const struct pg_stats d = cli_stats_since(&r->at_prompt, &r->at_end);
    if (!r->args->json)
        print_summary(r, &p, &d);
    int code = r->args->json ? print_json(r, &p, &d) : CLI_OK;
    if (r->args->trace && pg_trace_write(r->engine, r->args->trace, err))
        code = cli_failed(err);
    if (r->args->routes_out && pg_routes_finish(r->engine, err))
        code = cli_failed(err);
    return code;
}

int cli_run(const struct cli_args *args)
{
    struct pg_err err = {0};
    struct run r = {.args = args, .start_ns = cli_now_ns(), .stop = "length"};
    if (!args->prompt && !args->file && isatty(STDIN_FILENO))
        return cli_usage("run: what is the prompt? give -p TEXT or -f FILE");
    const int bad = beams_check(args) ? CLI_USAGE : cli_grammar_check(args);
    if (bad)
        return bad;
    sampling_init(&r);
    int rc = run_open(&r, &err);
    rc = rc ? rc : run_text(&r, &err);
    int code = rc ? cli_failed(&err) : run_report(&r, &err);
    if (!code && cli_interrupted())
        code = cli_interrupt_code();
    cli_grammar_close(&r.grammar);
    pg_session_close(r.session);
    pg_engine_close(r.engine);
    pg_routes_close(r.routes);
    free(r.prompt);
    free(r.ids);
    free(r.text);
    return code;
}
