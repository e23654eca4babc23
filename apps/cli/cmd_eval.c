/* SPDX-License-Identifier: MIT
 * pregate eval: how good a model's answers are, in the mode and under the budget that it is run
 * with.
 *
 * What the data takes in memory belongs to the budget: the engine is opened with what is left.
 * Several texts run side by side, so that a batch is wide and each expert is read for all of them.
 */
#include "cli.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct evaluation {
    const struct cli_args *args;
    struct cli_progress progress;
    pg_engine *engine;
    struct pg_plan plan;
    uint64_t budget; /* that was asked for; 0: what the machine leaves */
    struct pg_stats stats;
    struct pg_eval_report report;
    double seconds;
};

/* ---------------------------------------------------------------- opening ------------------- */

/* Whether there is a sidecar, given or beside the model: then agree is about its pre-gates. */
static bool has_sidecar(const struct pg_options *base)
{
    struct pg_options opt = *base;
    struct pg_plan plan;
    struct pg_err err = {0};
    opt.mode = PG_MODE_HINT;
    return opt.sidecar || pg_plan_make(&plan, &opt, &err) != PG_EARG;
}

/* Bytes that a byte of the data will take: text is held once as it is and once as tokens, and for a
 * model with an encoder in normal form, too, pairs besides as JSON; all other JSON as the values
 * that it is made of. */
static uint64_t times_of(const struct cli_args *args, bool has_encoder)
{
    const size_t n = strlen(args->data_file);
    if (args->task != PG_EVAL_PPL && args->task != PG_EVAL_AGREE)
        return 16;
    if (!has_encoder)
        return 4;
    return n >= 6 && !strcmp(args->data_file + n - 6, ".jsonl") ? 8 : 7;
}

/* Bytes that the data will take. Each session has a piece of text beside it, and perhaps a source.
 */
static uint64_t data_bytes(const struct cli_args *args, const struct pg_options *opt,
                           bool has_encoder)
{
    struct stat st;
    const int piece = (opt->n_ctx ? opt->n_ctx : 4096) + (opt->n_source ? opt->n_source : 512);
    const uint64_t pieces = (uint64_t)opt->n_sessions * (uint64_t)piece;
    if (stat(args->data_file, &st) || !S_ISREG(st.st_mode))
        return 0; /* pg_eval will say so */
    return (uint64_t)st.st_size * times_of(args, has_encoder) + pieces * sizeof(int32_t) +
           (1u << 16);
}

/* As many sessions as fill a batch with short texts, while their caches take a small part of the
 * budget, and what fits with one session fits with them. */
static void choose_sessions(struct pg_options *opt, const struct cli_args *args)
{
    struct pg_plan one, plan;
    struct pg_err err = {0};
    opt->n_sessions = 1;
    opt->caller_bytes = data_bytes(args, opt, false);
    if (pg_plan_make(&one, opt, &err))
        return; /* opening will say why */
    const bool has_encoder = one.n_source > 0;
    opt->caller_bytes = data_bytes(args, opt, has_encoder);
    if (has_encoder && pg_plan_make(&one, opt, &err))
        return;
    for (opt->n_sessions = 16; opt->n_sessions > 0; opt->n_sessions /= 2) {
        opt->caller_bytes = data_bytes(args, opt, has_encoder);
        /* What opens barely now may not in a moment; the minimum has that to spare. */
        const bool fits =
            !pg_plan_make(&plan, opt, &err) && plan.mode == one.mode && plan.minimum <= plan.budget;
        /* With --slots the texts side by side depend on nothing that moves. */
        const uint64_t whole = args->n_slots ? plan.dense + plan.slots : plan.budget;
        if (opt->n_sessions == 1 || (fits && plan.kv <= whole / 8))
            return;
    }
}

static int eval_open(struct evaluation *v, struct pg_err *err)
{
    struct pg_options opt;
    cli_engine_options(&opt, v->args, &v->progress);
    v->budget = opt.memory_bytes;
    if (v->args->task == PG_EVAL_AGREE && opt.mode == PG_MODE_AUTO)
        opt.mode = has_sidecar(&opt) ? PG_MODE_HINT : PG_MODE_LOOKAHEAD;
    opt.steady = v->args->n_slots > 0;
    opt.routes_out = v->args->routes_out;
    opt.n_logit_rows = 8; /* as many as are held at a time */
    choose_sessions(&opt, v->args);
    const int rc = pg_engine_open(&v->engine, &opt, err);
    if (rc)
        return rc;
    pg_engine_plan(v->engine, &v->plan);
    v->budget = v->budget ? v->budget : v->plan.budget;
    if (opt.sidecar && v->plan.mode != PG_MODE_HINT && v->plan.mode != PG_MODE_PREGATE)
        cli_error("mode %s does not use the pre-gates of %s; --mode pregate or --mode hint does",
                  pg_mode_name(v->plan.mode), opt.sidecar);
    return 0;
}

/* ---------------------------------------------------------------- reports ------------------- */

static double n_evaluated(const struct evaluation *v)
{
    return (double)(v->stats.n_prompt + v->stats.n_decode);
}

static double hit_rate(const struct evaluation *v)
{
    return cli_ratio((double)v->stats.hits, (double)v->stats.expert_requests);
}

static double read_per_token(const struct evaluation *v)
{
    return cli_ratio((double)v->stats.expert_bytes_read, n_evaluated(v));
}

static void print_blocks(const struct pg_eval_report *r)
{
    printf("block  recall@%-2d  set right  mass    precision by rank\n", r->n_used);
    for (int i = 0; i < r->n_blocks; i++) {
        const struct pg_agree_block *b = &r->blocks[i];
        printf("%5d  %9.4f  %9.4f  %.4f ", b->block, b->recall, b->set_right, b->mass);
        for (int k = 0; k < r->n_named && k < 16; k++)
            printf(" %.4f", b->precision[k]);
        putchar('\n');
    }
}

static struct pg_agree_block blocks_mean(const struct pg_eval_report *r)
{
    struct pg_agree_block mean = {0};
    for (int i = 0; i < r->n_blocks; i++) {
        mean.recall += r->blocks[i].recall / r->n_blocks;
        mean.set_right += r->blocks[i].set_right / r->n_blocks;
        mean.mass += r->blocks[i].mass / r->n_blocks;
        for (int k = 0; k < 16; k++)
            mean.precision[k] += r->blocks[i].precision[k] / r->n_blocks;
    }
    return mean;
}

static void print_agree(const struct pg_eval_report *r)
{
    const struct pg_agree_block mean = blocks_mean(r);
    print_blocks(r);
    printf(" mean  %9.4f  %9.4f  %.4f ", mean.recall, mean.set_right, mean.mass);
    for (int k = 0; k < r->n_named && k < 16; k++)
        printf(" %.4f", mean.precision[k]);
    putchar('\n');
}

static void print_result(const struct pg_eval_report *r)
{
    switch (r->task) {
    case PG_EVAL_PPL:
        printf("perplexity       %.4f\nnll per token    %.6f\n", r->ppl, r->nll_per_token);
        return;
    case PG_EVAL_AGREE:
        print_agree(r);
        return;
    case PG_EVAL_QA:
        printf("exact match      %.2f\nF1               %.2f\n", r->exact_match, r->f1);
        return;
    default:
        printf("ROUGE-1          %.2f\nROUGE-2          %.2f\nROUGE-L          %.2f\n", r->rouge1,
               r->rouge2, r->rougeL);
    }
}

static void print_table(const struct evaluation *v)
{
    const struct pg_eval_report *r = &v->report;
    char read[16], peak[16], budget[16];
    print_result(r);
    printf("tokens           %llu\n", (unsigned long long)r->n_tokens);
    printf("documents        %llu, %llu longer than the context\n", (unsigned long long)r->n_docs,
           (unsigned long long)r->n_cut);
    if (r->n_skipped)
        printf("left out         %llu without an answer\n", (unsigned long long)r->n_skipped);
    printf("mode             %s\n", pg_mode_name(v->plan.mode));
    printf("time             %.2f s, %.0f tok/s, stalled %.2f s\n", v->seconds,
           cli_ratio(n_evaluated(v), v->seconds), v->stats.stall_seconds);
    printf("experts          %.1f %% hits, %s read/token, %d slots\n", 100 * hit_rate(v),
           cli_size_text((uint64_t)read_per_token(v), read), v->plan.n_slots);
    printf("memory           peak %s of %s\n", cli_size_text(pg_peak_rss(), peak),
           cli_size_text(v->budget, budget));
}

static json_t *json_of_block(const struct pg_agree_block *b, int n_named)
{
    json_t *o = json_object(), *precision = json_array();
    cli_put_real(o, "recall", b->recall);
    cli_put_real(o, "set_right", b->set_right);
    cli_put_real(o, "mass", b->mass);
    for (int k = 0; k < n_named && k < 16; k++)
        json_array_append_new(precision, cli_json_real(b->precision[k]));
    json_object_set_new(o, "precision", precision);
    return o;
}

static void put_agree(json_t *o, const struct pg_eval_report *r)
{
    const struct pg_agree_block mean = blocks_mean(r);
    json_t *list = json_array();
    for (int i = 0; i < r->n_blocks; i++) {
        json_t *b = json_of_block(&r->blocks[i], r->n_named);
        cli_put_size(b, "block", (uint64_t)r->blocks[i].block);
        cli_put_size(b, "tokens", r->blocks[i].n_tokens);
        json_array_append_new(list, b);
    }
    cli_put_size(o, "n_used", (uint64_t)r->n_used);
    cli_put_size(o, "n_named", (uint64_t)r->n_named);
    json_object_set_new(o, "mean", json_of_block(&mean, r->n_named));
    json_object_set_new(o, "blocks", list);
}

static void put_result(json_t *o, const struct pg_eval_report *r)
{
    switch (r->task) {
    case PG_EVAL_PPL:
        cli_put_real(o, "ppl", r->ppl);
        cli_put_real(o, "nll_per_token", r->nll_per_token);
        return;
    case PG_EVAL_AGREE:
        put_agree(o, r);
        return;
    case PG_EVAL_QA:
        cli_put_real(o, "exact_match", r->exact_match);
        cli_put_real(o, "f1", r->f1);
        cli_put_size(o, "skipped", r->n_skipped);
        return;
    default:
        cli_put_real(o, "rouge1", r->rouge1);
        cli_put_real(o, "rouge2", r->rouge2);
        cli_put_real(o, "rougeL", r->rougeL);
    }
}

static int print_json(const struct evaluation *v)
{
    const struct pg_eval_report *r = &v->report;
    const char *path = v->args->data_file;
    struct pg_model_info info;
    json_t *o = json_object(), *data = json_object();
    pg_engine_info(v->engine, &info);
    json_object_set_new(o, "task", json_string(pg_eval_task_name(r->task)));
    put_result(o, r);
    cli_put_size(o, "tokens", r->n_tokens);
    cli_put_size(o, "docs", r->n_docs);
    cli_put_size(o, "cut", r->n_cut);
    json_object_set_new(data, "file", cli_json_text(path, strlen(path)));
    json_object_set_new(data, "sha256", json_string(r->data_sha256));
    json_object_set_new(o, "data", data);
    json_object_set_new(o, "mode", json_string(pg_mode_name(v->plan.mode)));
    cli_put_real(o, "seconds", v->seconds);
    cli_put_real(o, "tps", cli_ratio(n_evaluated(v), v->seconds));
    cli_put_real(o, "bytes_read_per_token", read_per_token(v));
    cli_put_size(o, "n_slots", (uint64_t)v->plan.n_slots);
    cli_put_real(o, "hit_rate", hit_rate(v));
    cli_put_real(o, "stall_seconds", v->stats.stall_seconds);
    cli_put_size(o, "memory_bytes", v->budget);
    cli_put_size(o, "peak_rss_bytes", pg_peak_rss());
    json_object_set_new(o, "stats", cli_json_stats(&v->stats));
    json_object_set_new(o, "plan", cli_json_plan(&v->plan));
    json_object_set_new(o, "model", cli_json_model(&info));
    return cli_json_print(o);
}

/* ---------------------------------------------------------------- the command --------------- */

static int eval_run(struct evaluation *v, struct pg_err *err)
{
    const struct cli_args *a = v->args;
    struct pg_eval_options opt = {PG_EVAL_OPTIONS_INIT,          .task = (enum pg_eval_task)a->task,
                                  .data = a->data_file,          .n_max = a->n_max,
                                  .windows = a->windows,         .n_predict = a->n_predict,
                                  .progress = cli_progress_step, .user = &v->progress,
                                  .predictions = a->predictions};
    const uint64_t start = cli_now_ns();
    const int rc = pg_eval(v->engine, &opt, &v->report, err);
    cli_progress_clear();
    v->seconds = (double)(cli_now_ns() - start) * 1e-9;
    pg_engine_stats(v->engine, &v->stats);
    return rc || !a->routes_out ? rc : pg_routes_finish(v->engine, err);
}

/* Options that would do nothing. */
static int check_needs(const struct cli_args *a)
{
    const bool answers = a->task == PG_EVAL_QA || a->task == PG_EVAL_SUMMARIZE;
    const bool any = a->mode == PG_MODE_AUTO, ahead = any || a->mode == PG_MODE_LOOKAHEAD;
    const struct cli_needs needs[] = {
        {"predictions", answers, "--task qa and summarize, which write answers"},
        {"n-predict", answers, "--task qa and summarize, which write answers"},
        {"windows", !answers, "--task ppl and agree, whose texts may be longer than the context"},
        {"lookahead", ahead, "--mode lookahead"},
        {"extra", ahead || a->mode == PG_MODE_HINT, "--mode lookahead and hint"},
    };
    return cli_needs_check(a, needs, (int)(sizeof(needs) / sizeof(needs[0])));
}

int cli_eval(const struct cli_args *args)
{
    struct pg_err err = {0};
    struct evaluation v = {.args = args};
    if (!args->data_file)
        return cli_usage("eval: on which text? give --data FILE");
    const int bad = check_needs(args);
    if (bad)
        return bad;
    int rc = eval_open(&v, &err);
    rc = rc ? rc : eval_run(&v, &err);
    int code = rc ? cli_failed(&err) : CLI_OK;
    if (!rc && args->json)
        code = print_json(&v);
    else if (!rc)
        print_table(&v);
    pg_eval_report_free(&v.report);
    pg_engine_close(v.engine);
    return code;
}
