/* SPDX-License-Identifier: MIT
 * pregate tune: pre-gates distilled out of runs of a model that stays as it is.
 */
#include "cli.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* pregate-<name of the model> beside it, where the engine looks for it; for free(). */
static char *default_output(const char *model)
{
    const char *slash = strrchr(model, '/'), *base = slash ? slash + 1 : model;
    char *out;
    return asprintf(&out, "%.*spregate-%s", (int)(base - model), model, base) < 0 ? NULL : out;
}

/* The name that the engine tries first would hide what was written under the second one. */
static void note_hidden(const char *model)
{
    const size_t n = strlen(model);
    const size_t stem = n > 5 && !strcmp(model + n - 5, ".gguf") ? n - 5 : n;
    char *other;
    if (asprintf(&other, "%.*s.pregate.gguf", (int)stem, model) < 0)
        return;
    if (!access(other, F_OK))
        cli_error("%s is there and found first; name the new one with --pregate", other);
    free(other);
}

static double mean(const struct pg_agree_block *b, int n,
                   double (*of)(const struct pg_agree_block *))
{
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += of(&b[i]);
    return n ? sum / n : 0;
}

static double recall_of(const struct pg_agree_block *b)
{
    return b->recall;
}

static double set_of(const struct pg_agree_block *b)
{
    return b->set_right;
}

static double mass_of(const struct pg_agree_block *b)
{
    return b->mass;
}

static double first_of(const struct pg_agree_block *b)
{
    return b->precision[0];
}

static void print_table(const struct pg_tune_report *r)
{
    const struct pg_agree_block *a = r->before, *b = r->after;
    const int n = r->n_blocks;
    puts("| block | recall before | after | set right before | after | mass before | after | "
         "first right before | after |\n"
         "|---|---|---|---|---|---|---|---|---|");
    for (int i = 0; i < n; i++)
        printf("| %d | %.3f | %.3f | %.3f | %.3f | %.3f | %.3f | %.3f | %.3f |\n", b[i].block,
               a[i].recall, b[i].recall, a[i].set_right, b[i].set_right, a[i].mass, b[i].mass,
               a[i].precision[0], b[i].precision[0]);
    printf("| mean | %.3f | %.3f | %.3f | %.3f | %.3f | %.3f | %.3f | %.3f |\n",
           mean(a, n, recall_of), mean(b, n, recall_of), mean(a, n, set_of), mean(b, n, set_of),
           mean(a, n, mass_of), mean(b, n, mass_of), mean(a, n, first_of), mean(b, n, first_of));
}

static json_t *json_block(const struct pg_agree_block *b, int n_used)
{
    json_t *precision = json_array();
    for (int i = 0; i < n_used && i < 16; i++)
        json_array_append_new(precision, cli_json_real(b->precision[i]));
    json_t *j = json_object();
    json_object_set_new(j, "block", json_integer(b->block));
    json_object_set_new(j, "recall", cli_json_real(b->recall));
    json_object_set_new(j, "set_right", cli_json_real(b->set_right));
    json_object_set_new(j, "mass", cli_json_real(b->mass));
    json_object_set_new(j, "precision", precision);
    return j;
}

static json_t *json_blocks(const struct pg_agree_block *b, int n, int n_used)
{
    json_t *j = json_array();
    for (int i = 0; i < n; i++)
        json_array_append_new(j, json_block(&b[i], n_used));
    return j;
}

static int print_json(const struct pg_tune_report *r, const char *out, double seconds)
{
    json_t *j = json_object();
    json_object_set_new(j, "sidecar", json_string(out));
    json_object_set_new(j, "tokens", json_integer((json_int_t)r->n_tokens));
    json_object_set_new(j, "tokens_held_out", json_integer((json_int_t)r->n_tokens_held));
    json_object_set_new(j, "seconds", cli_json_real(seconds));
    json_object_set_new(j, "peak_rss_bytes", json_integer((json_int_t)pg_peak_rss()));
    json_object_set_new(j, "before", json_blocks(r->before, r->n_blocks, r->n_used));
    json_object_set_new(j, "after", json_blocks(r->after, r->n_blocks, r->n_used));
    return cli_json_print(j);
}

/* ---- by the loss of the language model */

static int print_lm_json(const struct pg_tune_report *r, const char *out)
{
    const struct pg_tune_lm *l = &r->lm;
    json_t *j = json_object();
    json_object_set_new(j, "sidecar", json_string(out));
    json_object_set_new(j, "steps", json_integer(l->n_steps));
    json_object_set_new(j, "best_step", json_integer(l->best_step));
    json_object_set_new(j, "rows", json_integer(l->n_seq));
    json_object_set_new(j, "row_tokens", json_integer(l->seq_len));
    cli_put_size(j, "tokens", r->n_tokens);
    cli_put_size(j, "tokens_held_out", r->n_tokens_held);
    cli_put_real(j, "nll_before", l->nll_before);
    cli_put_real(j, "nll_after", l->nll_after);
    cli_put_real(j, "loss_before", l->loss_before);
    cli_put_real(j, "loss_after", l->loss_after);
    json_object_set_new(j, "steps_counted", json_integer(l->n_counted));
    cli_put_size(j, "expert_bytes_read", l->bytes_read);
    cli_put_size(j, "expert_bytes_missing", l->bytes_missing);
    cli_put_real(j, "flop", l->flop);
    cli_put_real(j, "seconds", l->seconds);
    cli_put_real(j, "cpu_seconds", l->cpu_seconds);
    cli_put_real(j, "stall_seconds", l->stall_seconds);
    cli_put_size(j, "peak_rss_bytes", pg_peak_rss());
    return cli_json_print(j);
}

static int print_lm(const struct cli_args *args, const struct pg_tune_report *r, const char *out)
{
    const struct pg_tune_lm *l = &r->lm;
    int code = CLI_OK;
    if (args->json)
        code = print_lm_json(r, out);
    else
        printf(
            "| best step | held-out loss before | after | nll before | after | perplexity before "
            "| after |\n|---|---|---|---|---|---|---|\n"
            "| %d of %d | %.4f | %.4f | %.4f | %.4f | %.4f | %.4f |\n",
            l->best_step, l->n_steps, l->loss_before, l->loss_after, l->nll_before, l->nll_after,
            exp(l->nll_before), exp(l->nll_after));
    fprintf(stderr, "%s: %d pre-gates of level %d, to decide; %.1f s, peak %.1f MiB\n", out,
            l->n_pregates, l->level, l->seconds, (double)pg_peak_rss() / (1 << 20));
    return code;
}

/* Options that would do nothing. */
static int check_needs(const struct cli_args *a)
{
    static const char *const of_lm[] = {
        "from",         "steps",      "batch",           "lr", "sticky",
        "sticky-cache", "cache-bias", "cache-margin",    "kl", "runners-up",
        "imitate",      "eval-every", "checkpoint-every"};
    const bool lm = a->loss == PG_TUNE_LM, distils = !a->from;
    const char *const what = "pre-gates that are distilled first, and --from names others";
    const struct cli_needs needs[] = {{"hidden", distils, what}, {"ctx", distils, what}};
    for (size_t i = 0; i < sizeof(of_lm) / sizeof(of_lm[0]); i++) {
        const struct cli_needs one = {of_lm[i], lm, "--for decide --loss lm"};
        const int bad = cli_needs_check(a, &one, 1);
        if (bad)
            return bad;
    }
    return cli_needs_check(a, needs, 2);
}

static int check_lm(const struct cli_args *a, struct pg_tune_options *opt)
{
    const int bad = check_needs(a);
    if (bad)
        return bad;
    if (a->loss == PG_TUNE_LM && !a->trained_for)
        return cli_usage("tune: --loss lm is for pre-gates that decide; add --for decide");
    struct cli_batch batch = {0};
    if (a->batch && !cli_batch_parse(a->batch, &batch))
        return cli_usage("--batch: \"%s\" is not two numbers such as 16x256, nor three such as "
                         "16x256x64",
                         a->batch);
    opt->n_seq = batch.n_seq;
    opt->source_len = batch.source_len;
    opt->seq_len = batch.seq_len;
    return CLI_OK;
}

static struct pg_tune_options options_of(const struct cli_args *args, const char *out,
                                         struct cli_progress *progress)
{
    const struct cli_bias bias = cli_bias_of(args);
    return (struct pg_tune_options){
        PG_TUNE_OPTIONS_INIT,
        .model = args->subject,
        .data = args->data.path,
        .n_data = args->data.n,
        .out = out,
        .decide = args->trained_for,
        .level = args->level,
        .n_hidden = args->n_hidden ? args->n_hidden : -1,
        .memory_bytes = args->memory,
        .n_tokens = args->n_tokens,
        .holdout = (float)args->holdout,
        .seed = args->seed,
        .resume = args->resume,
        .n_threads = args->n_threads,
        .n_ctx = args->n_ctx,
        .log = cli_progress_log,
        .progress = cli_progress_step,
        .user = progress,
        .loss = (enum pg_tune_loss)args->loss,
        .n_steps = args->n_steps,
        .from_sidecar = args->from,
        .lr = (float)args->lr,
        .sticky = (float)args->sticky,
        .sticky_cache = args->sticky_cache,
        .eval_every = args->eval_every,
        .checkpoint_every = args->checkpoint_every,
        .cache_bias = bias.one,
        .cache_form = bias.form,
        .block_bias = bias.each,
        .n_block_bias = bias.n,
        .kl = (float)args->kl,
        .imitate = cli_imitate_of(args),
        .n_runners_up = args->n_runners_up,
        .weigher = (enum pg_gate_kind)args->weigher,
    };
}

static int run(const struct cli_args *args, const char *out)
{
    struct cli_progress progress = {.verbose = true};
    struct pg_tune_options opt = options_of(args, out, &progress);
    struct pg_tune_report report;
    struct pg_err err = {0};
    const int bad = check_lm(args, &opt);
    if (bad)
        return bad;
    const uint64_t begin = cli_now_ns();
    const int rc = pg_tune(&opt, &report, &err);
    const double seconds = (double)(cli_now_ns() - begin) * 1e-9;
    cli_progress_clear();
    if (rc)
        return cli_failed(&err);
    if (args->loss == PG_TUNE_LM)
        return print_lm(args, &report, out);
    const int code =
        args->json ? print_json(&report, out, seconds) : (print_table(&report), CLI_OK);
    fprintf(stderr, "%s: %d pre-gates of level %d, to %s; %.1f s, peak %.1f MiB\n", out,
            report.n_blocks, args->level ? args->level : 1, args->trained_for ? "decide" : "hint",
            seconds, (double)pg_peak_rss() / (1 << 20));
    pg_tune_report_free(&report);
    return code;
}

int cli_tune(const struct cli_args *args)
{
    if (args->data.n == 0)
        return cli_usage("tune: which text? give --data FILE...");
    char *made = args->output ? NULL : default_output(args->subject);
    if (!args->output && !made)
        return cli_usage("tune: out of memory");
    const int code = run(args, args->output ? args->output : made);
    if (!code && made)
        note_hidden(args->subject);
    free(made);
    return code;
}
