/* SPDX-License-Identifier: MIT
 * pregate train: a model that is trained, with its routers or with pre-gates deciding.
 */
#include "cli.h"
#include "train_curve.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define METRICS_EVERY_NS 30000000000u

struct train {
    const struct cli_args *args;
    struct pg_train_options opt;
    struct cli_progress progress;
    pg_trainer *trainer;
    char csv[4096], svg[4096], prefix[160];
    int first;           /* steps that were done before this run */
    uint64_t start_ns;   /* of this run's first step */
    uint64_t written_ns; /* when the metrics were */
    struct pg_train_report last;
    double seconds; /* of all steps, resumed parts included */
};

/* ---------------------------------------------------------------- options ------------------- */

/* --from names a kind of start; what a file is stands in it. */
static int from_parse(const char *from, struct pg_train_options *opt)
{
    struct pg_err err = {0};
    struct pg_file_key key;
    pg_file *f;
    if (!from)
        return CLI_OK;
    if (!strcmp(from, "scratch")) {
        opt->from_scratch = true;
        return CLI_OK;
    }
    if (pg_file_open(&f, from, &err)) {
        const int code = cli_failed(&err);
        fputs("  --from takes \"scratch\", a model, or a sidecar with pre-gates.\n", stderr);
        return code;
    }
    opt->from_model = from;
    for (int i = 0; i < pg_file_n_keys(f); i++) {
        pg_file_key_at(f, i, &key);
        if (!strcmp(key.name, "general.type") && !strcmp(key.value, "pregate")) {
            opt->from_sidecar = from;
            opt->from_model = NULL;
        }
    }
    pg_file_close(f);
    return CLI_OK;
}

static int on_progress(void *user, const char *what, uint64_t done, uint64_t total)
{
    struct train *r = user;
    return cli_progress_step(&r->progress, what, done, total);
}

static void on_log(void *user, enum pg_log_level level, const char *text)
{
    (void)user;
    if (level <= PG_LOG_INFO)
        cli_error("%s", text);
}

/* What the paper says of its fine-tuning (Hwang et al., ISCA 2024, section V): 2,048 steps of 256
 * sequences of 256 tokens at a constant rate of 1e-4; and its pre-gates choose and weigh. What is
 * given beside it counts. */
static void recipe_of_the_paper(const struct cli_args *a, struct pg_train_options *o)
{
    if (!a->n_steps)
        o->n_steps = 2048;
    if (a->lr <= 0)
        o->lr = 1e-4f;
    if (!cli_given(a, "schedule"))
        o->schedule = PG_LR_CONSTANT;
    if (!cli_given(a, "weigher") && a->gate == PG_GATE_PREGATE)
        o->weigher = PG_GATE_PREGATE;
    if (!a->batch) {
        o->n_seq = 16;
        o->n_accumulate = a->n_accumulate ? a->n_accumulate : 16;
    }
}

/* Leaves what is not said. */
static int batch_parse(const char *text, struct pg_train_options *o)
{
    struct cli_batch batch = {0};
    if (text && !cli_batch_parse(text, &batch))
        return cli_usage("--batch: \"%s\" is not two numbers such as 16x256, nor three such as "
                         "16x256x64",
                         text);
    if (!text)
        return 0;
    o->n_seq = batch.n_seq;
    o->source_len = batch.source_len;
    o->seq_len = batch.seq_len;
    return 0;
}

static int options_make(struct train *r)
{
    const struct cli_args *a = r->args;
    const struct cli_bias bias = cli_bias_of(a);
    struct pg_train_options *o = &r->opt;
    *o = (struct pg_train_options){
        PG_TRAIN_OPTIONS_INIT,
        .model = a->subject,
        .data = a->data.path,
        .n_data = a->data.n,
        .out = a->output,
        .resume = a->resume,
        .gate = (enum pg_gate_kind)a->gate,
        .level = a->level,
        .n_steps = a->n_steps,
        .n_accumulate = a->n_accumulate,
        .lr = (float)a->lr,
        .schedule = (enum pg_lr_schedule)a->schedule,
        .lr_end = cli_or_none(a->lr_end),
        .n_warmup = a->n_warmup,
        .weight_decay = cli_or_none(a->weight_decay),
        .dropout = (float)a->dropout,
        .clip = cli_or_none(a->clip),
        .balance = cli_or_none(a->balance),
        .sticky = (float)a->sticky,
        .sticky_cache = a->sticky_cache,
        .freeze = a->freeze,
        .type = a->type,
        .checkpoint_every = a->checkpoint_every,
        .seed = a->seed,
        .n_threads = a->n_threads,
        .log = on_log,
        .progress = on_progress,
        .user = r,
        .cache_bias = bias.one,
        .cache_form = bias.form,
        .block_bias = bias.each,
        .n_block_bias = bias.n,
        .kl = (float)a->kl,
        .imitate = cli_imitate_of(a),
        .n_runners_up = a->n_runners_up,
        .weigher = (enum pg_gate_kind)a->weigher,
    };
    const struct cli_needs needs[] = {
        {"lr-end", a->schedule != PG_LR_CONSTANT, "--schedule cosine or linear"}};
    const int bad = cli_needs_check(a, needs, 1);
    if (bad)
        return bad;
    if (!a->output)
        return cli_usage("train: where to? give -o OUT.gguf");
    if (!a->data.n)
        return cli_usage("train: on what? give --data FILE...");
    if (a->recipe)
        recipe_of_the_paper(a, o);
    const int unread = batch_parse(a->batch, o);
    return unread ? unread : from_parse(a->from, o);
}

static void sidecar_path(const struct train *r, char *out, size_t size)
{
    const char *model = r->args->output;
    const size_t n = strlen(model);
    const bool named = n > 5 && !strcmp(model + n - 5, ".gguf");
    snprintf(out, size, "%.*s.pregate.gguf", (int)(named ? n - 5 : n), model);
}

static int paths_make(struct train *r)
{
    const char *out = r->args->output, *csv = r->args->csv, *svg = r->args->svg;
    const size_t size = sizeof(r->csv);
    if (snprintf(r->csv, size, "%s%s", csv ? csv : out, csv ? "" : ".csv") >= (int)size ||
        snprintf(r->svg, size, "%s%s", svg ? svg : out, svg ? "" : ".svg") >= (int)size)
        return cli_usage("train: the name of the result is too long");
    return CLI_OK;
}

/* Metrics have a file of their own: the rest belongs to the result. */
static int paths_check(const struct train *r)
{
    static const char *const suffix[] = {"", ".checkpoint", ".lock", ".tmp"};
    char taken[5][4200];
    sidecar_path(r, taken[4], sizeof(taken[4]));
    for (int i = 0; i < 5; i++) {
        if (i < 4)
            snprintf(taken[i], sizeof(taken[i]), "%s%s", r->args->output, suffix[i]);
        const bool csv = cli_same_target(r->csv, taken[i]);
        if (csv || cli_same_target(r->svg, taken[i]))
            return cli_usage("train: --%s %s: that name belongs to the result", csv ? "csv" : "svg",
                             csv ? r->csv : r->svg);
    }
    return cli_same_target(r->csv, r->svg)
               ? cli_usage("train: --csv and --svg name one file: %s", r->csv)
               : CLI_OK;
}

/* ---------------------------------------------------------------- while it runs ------------- */

static int write_metrics(struct train *r, struct pg_err *err)
{
    const int rc = train_write_csv(r->trainer, r->csv, err);
    r->written_ns = cli_now_ns();
    return rc ? rc : train_write_svg(r->trainer, r->svg, r->args->output, err);
}

static double speed(const struct train *r)
{
    const double steps = r->last.step - r->first;
    const double a_step = r->last.step ? (double)r->last.n_tokens / r->last.step : 0;
    return cli_ratio(steps * a_step, (double)(cli_now_ns() - r->start_ns) * 1e-9);
}

static void time_text(double seconds, char out[24])
{
    if (seconds < 100)
        snprintf(out, 24, "%.1f s", seconds);
    else if (seconds < 6000)
        snprintf(out, 24, "%.0f min", seconds / 60);
    else
        snprintf(out, 24, "%.1f h", seconds / 3600);
}

/* A line that is rewritten on a terminal; in a log one line every tenth of the way. */
static void show(struct train *r)
{
    const struct pg_train_report *s = &r->last;
    const int tenth = s->n_steps / 10 > 0 ? s->n_steps / 10 : 1;
    const double tps = speed(r);
    char left[24];
    if (isatty(STDERR_FILENO)) {
        snprintf(r->prefix, sizeof(r->prefix), "step %d of %d, loss %.4f, %.0f tok/s", s->step,
                 s->n_steps, s->loss, tps);
        r->progress.prefix = r->prefix;
        cli_progress_step(&r->progress, "train", (uint64_t)(s->step - r->first),
                          (uint64_t)(s->n_steps - r->first));
    } else if (s->step % tenth == 0 && s->step < s->n_steps) {
        const double a_step = (double)s->n_tokens / s->step;
        time_text(cli_ratio((s->n_steps - s->step) * a_step, tps), left);
        fprintf(stderr, "step %d of %d, loss %.4f, %.0f tok/s, %s left\n", s->step, s->n_steps,
                s->loss, tps, left);
    }
}

static int stop(struct train *r, struct pg_err *err)
{
    cli_progress_clear();
    if (pg_trainer_checkpoint(r->trainer, err) || write_metrics(r, err))
        return cli_failed(err);
    cli_error("interrupted after step %d of %d; the same command with --resume goes on",
              r->last.step, r->opt.n_steps ? r->opt.n_steps : r->last.n_steps);
    return cli_interrupt_code();
}

static int train_all(struct train *r, struct pg_err *err)
{
    r->start_ns = r->written_ns = cli_now_ns();
    while (!pg_trainer_done(r->trainer)) {
        if (cli_interrupted())
            return stop(r, err);
        if (pg_trainer_step(r->trainer, &r->last, err)) {
            struct pg_err other;
            const int code = cli_failed(err);
            if (write_metrics(r, &other))
                cli_error("%s", other.text);
            return code;
        }
        r->seconds += r->last.seconds;
        show(r);
        if (cli_now_ns() - r->written_ns > METRICS_EVERY_NS && write_metrics(r, err))
            return cli_failed(err);
    }
    cli_progress_clear();
    if (write_metrics(r, err) || pg_trainer_finish(r->trainer, err))
        return cli_failed(err);
    return CLI_OK;
}

/* ---------------------------------------------------------------- the command --------------- */

static int print_result(const struct train *r)
{
    const struct pg_train_report *s = &r->last;
    const bool has_gates = r->opt.gate == PG_GATE_PREGATE;
    const double tps = cli_ratio((double)s->n_tokens, r->seconds);
    char sidecar[4200], time[24];
    sidecar_path(r, sidecar, sizeof(sidecar));
    time_text(r->seconds, time);
    fprintf(stderr, "%d steps, %llu tokens in %s, %.0f tok/s, loss %.4f: %s%s%s\n", s->step,
            (unsigned long long)s->n_tokens, time, tps, s->loss, r->args->output,
            has_gates ? " and " : "", has_gates ? sidecar : "");
    if (!r->args->json)
        return CLI_OK;
    json_t *files = json_object(), *j = json_object();
    json_object_set_new(files, "model", cli_json_text(r->args->output, strlen(r->args->output)));
    if (has_gates)
        json_object_set_new(files, "sidecar", cli_json_text(sidecar, strlen(sidecar)));
    json_object_set_new(files, "csv", cli_json_text(r->csv, strlen(r->csv)));
    json_object_set_new(files, "svg", cli_json_text(r->svg, strlen(r->svg)));
    json_object_set_new(j, "steps", json_integer(s->step));
    json_object_set_new(j, "loss", cli_json_real(s->loss));
    json_object_set_new(j, "balance", cli_json_real(s->balance));
    json_object_set_new(j, "sticky", cli_json_real(s->sticky));
    json_object_set_new(j, "misses", cli_json_real(s->misses));
    json_object_set_new(j, "kl", cli_json_real(s->kl));
    json_object_set_new(j, "imitate", cli_json_real(s->imitate));
    json_object_set_new(j, "tokens", json_integer((json_int_t)s->n_tokens));
    json_object_set_new(j, "seconds", cli_json_real(r->seconds));
    json_object_set_new(j, "tps", cli_json_real(tps));
    json_object_set_new(j, "files", files);
    return cli_json_print(j);
}

int cli_train(const struct cli_args *args)
{
    struct pg_err err = {0};
    struct train *r = calloc(1, sizeof(*r));
    if (!r)
        return cli_fail(&err, PG_ENOMEM, "out of memory"), cli_failed(&err);
    r->args = args;
    r->progress.verbose = args->verbose;
    int code = paths_make(r);
    code = code ? code : options_make(r);
    code = code ? code : paths_check(r);
    if (!code && (pg_trainer_open(&r->trainer, &r->opt, &err) ||
                  cli_outfile_check(r->csv, true, &err) || cli_outfile_check(r->svg, true, &err)))
        code = cli_failed(&err);
    if (!code) {
        while (!pg_trainer_report_at(r->trainer, r->first + 1, &r->last)) {
            r->seconds += r->last.seconds;
            r->first++;
        }
        code = train_all(r, &err);
    }
    if (!code)
        code = print_result(r);
    pg_trainer_close(r->trainer);
    free(r);
    return code;
}
