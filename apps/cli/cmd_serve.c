/* SPDX-License-Identifier: MIT
 * pregate serve: the HTTP server of apps/server, over the engine that the options ask for.
 */
#include "../server/serve.h"
#include "cli.h"

#include <string.h>

struct serving {
    const struct cli_args *args;
    struct cli_progress progress;
    atomic_bool cancel;
};

static int on_progress(void *user, const char *what, uint64_t done, uint64_t total)
{
    struct serving *s = user;
    cli_progress_step(&s->progress, what, done, total);
    return atomic_load(&s->cancel);
}

static void on_log(void *user, enum pg_log_level level, const char *text)
{
    struct serving *s = user;
    cli_progress_log(&s->progress, level, text);
}

static struct pg_options engine_options(struct serving *s, uint64_t caller_bytes)
{
    struct pg_options opt;
    cli_engine_options(&opt, s->args, &s->progress);
    opt.n_sessions = s->args->n_parallel;
    opt.n_kv = s->args->n_kv;
    opt.caller_bytes = caller_bytes;
    opt.progress = on_progress;
    opt.log = on_log;
    opt.user = s;
    return opt;
}

static int open_engine(void *user, pg_engine **out, uint64_t caller_bytes, struct pg_err *err)
{
    const struct pg_options opt = engine_options(user, caller_bytes);
    return pg_engine_open(out, &opt, err);
}

/* What the budget has beyond the least that opens; 0 where that is not known: opening says why. */
static uint64_t spare_of(struct serving *s, const struct serve_options *serve)
{
    const struct pg_options opt = engine_options(s, serve_least_bytes(serve));
    struct pg_plan plan = {0};
    const int rc = pg_plan_make(&plan, &opt, NULL);
    return !rc && plan.budget > plan.minimum ? plan.budget - plan.minimum : 0;
}

static int open_chat(void *user, pg_chat **out, struct pg_err *err)
{
    const struct serving *s = user;
    return cli_template_open(out, s->args, err);
}

int cli_serve(const struct cli_args *args)
{
    struct pg_err err = {0};
    struct serving s = {.args = args};
    struct serve_options opt = {.host = args->host,
                                .port = args->port,
                                .key_file = args->key_file,
                                .origins = args->origins,
                                .names = args->names,
                                .no_page = args->no_page,
                                .drain_seconds = args->drain_seconds,
                                .alias = args->alias,
                                .has_template = args->chat_template != NULL,
                                .n_parallel = args->n_parallel,
                                .itl_ms = (float)args->itl_ms,
                                .cache_dir = args->cache_dir,
                                .cache_bytes = args->cache_bytes,
                                .verbose = args->verbose,
                                .model = args->subject,
                                .open_engine = open_engine,
                                .open_chat = open_chat,
                                .n_ctx = args->n_ctx,
                                .cancel = &s.cancel,
                                .user = &s};
    if (args->cache_bytes && !args->cache_dir)
        return cli_usage("serve: --prompt-cache-size is of the folder that --prompt-cache names");
    opt.spare_bytes = spare_of(&s, &opt);
    return serve_run(&opt, &err) ? cli_failed(&err) : CLI_OK;
}
