/* SPDX-License-Identifier: MIT
 * pregate load: how a server that speaks OpenAI's interface does under load.
 */
#include "load.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

enum { ROWS_MAX = 64, CLIENTS_MAX = 16384 };
#define RATE_MAX     100000.0
#define FILE_SECONDS 10.0

/* ---------------------------------------------------------------- options ------------------- */

static int list_bad(const char *option, const char *text, const char *wanted)
{
    return cli_usage("load: --%s: \"%s\" is not %s", option, text, wanted);
}

static int rows_make(struct load *l)
{
    static const char clients_wanted[] = "up to 64 whole numbers from 1 to 16384, commas between";
    static const char rate_wanted[] = "up to 64 numbers above 0, 100000 at most, commas between";
    const struct cli_args *a = l->args;
    const char *list = a->rates ? a->rates : a->clients ? a->clients : "1";
    char item[ROWS_MAX][CLI_ITEM];
    const char *option = a->rates ? "rate" : "clients";
    const char *wanted = a->rates ? rate_wanted : clients_wanted;
    const int n = cli_list_split(list, item, ROWS_MAX);
    if (n < 1)
        return list_bad(option, list, wanted);
    l->rows = calloc((size_t)n, sizeof(*l->rows));
    if (!l->rows)
        return cli_usage("load: out of memory");
    for (int i = 0; i < n; i++) {
        struct load_row *r = &l->rows[i];
        char *end;
        const double v = strtod(item[i], &end);
        if (item[i][strspn(item[i], "0123456789.")] || *end || !(v > 0) ||
            v > (a->rates ? RATE_MAX : CLIENTS_MAX) || (!a->rates && v != floor(v)))
            return list_bad(option, item[i], wanted);
        r->rate = a->rates ? v : 0;
        r->n_clients = a->rates ? 0 : (int)v;
    }
    l->n_rows = n;
    return 0;
}

static int options_check(struct load *l)
{
    const struct cli_args *a = l->args;
    if (a->clients && a->rates)
        return cli_usage("load: --clients is a closed loop and --rate an open one; one is wanted");
    if (a->chat && a->completions)
        return cli_usage("load: --chat and --completions are two kinds of request; one is wanted");
    if (cli_given(a, "requests") && cli_given(a, "duration"))
        return cli_usage("load: --requests and --duration both say when a row ends; one is wanted");
    if (!a->prompts == !a->prompt)
        return cli_usage("load: wanted is one of --prompts FILE and -p TEXT: what to ask");
    if (a->output && !strcmp(a->output, "-"))
        return cli_usage("load: --out -: the table goes to standard output; give a file");
    if (a->svg && !strcmp(a->svg, "-"))
        return cli_usage("load: --svg -: the table goes to standard output; give a file");
    if (a->metrics) {
        l->counters.n = cli_list_split(a->metrics, l->counters.name, LOAD_COUNTERS);
        if (l->counters.n < 1)
            return cli_usage("load: --metrics: \"%s\" is not up to %d names of up to %d letters, "
                             "commas between",
                             a->metrics, LOAD_COUNTERS, CLI_ITEM - 1);
    }
    return rows_make(l);
}

/* The first line of the file; what could end a header is refused. */
static int key_read(struct load *l, struct pg_err *err)
{
    char *data;
    size_t n;
    const char *path = l->args->api_key;
    const int rc = path ? cli_file_read(path, &data, &n, err) : 0;
    if (rc || !path)
        return rc;
    const size_t len = strcspn(data, "\r\n");
    bool good = len > 0 && len < sizeof(l->target.key);
    for (size_t i = 0; i < len && good; i++)
        good = data[i] > 0x20 && data[i] < 0x7F;
    if (good)
        memcpy(l->target.key, data, len);
    free(data);
    return good ? 0
                : cli_fail(err, PG_EFORMAT,
                           "%s: wanted is a key of 1 to %zu printable ASCII characters", path,
                           sizeof(l->target.key) - 1);
}

/* ---------------------------------------------------------------- the server ---------------- */

/* Without --model, what the server names first; where it names nothing, it hardly cares. */
static int model_find(struct load *l, struct pg_err *err)
{
    struct load_file f;
    const char *name = l->args->model_name;
    snprintf(l->model, sizeof(l->model), "%s", name ? name : "default");
    if (name)
        return strlen(name) < sizeof(l->model)
                   ? 0
                   : cli_fail(err, PG_EARG, "--model: longer than %zu bytes", sizeof(l->model) - 1);
    const int rc = load_target_get(&l->target, "/v1/models", FILE_SECONDS, &f, err);
    if (rc)
        return rc;
    json_t *o = f.status == 200 ? json_loadb(f.data ? f.data : "", f.n, 0, NULL) : NULL;
    const char *id =
        json_string_value(json_object_get(json_array_get(json_object_get(o, "data"), 0), "id"));
    if (id && strlen(id) < sizeof(l->model))
        snprintf(l->model, sizeof(l->model), "%s", id);
    json_decref(o);
    free(f.data);
    return 0;
}

/* Adds sign times what the counters are now. What is not there is said once, and left out. */
static void counters_read(struct load *l, struct load_row *r, double sign)
{
    struct pg_err err;
    struct load_file f;
    if (l->counters.n == 0)
        return;
    const int rc = load_target_get(&l->target, "/metrics", FILE_SECONDS, &f, &err);
    if (rc || f.status != 200) {
        if (sign < 0 && r == l->rows)
            cli_error("--metrics: %s%s", rc ? err.text : "GET /metrics: the server has none",
                      "; they are left out");
        f.n = 0;
    }
    for (int c = 0; c < l->counters.n; c++) {
        double v;
        const bool there = f.n && load_counter(f.data, f.n, l->counters.name[c], &v);
        if (there)
            r->counter[c] += sign * v;
        else if (f.n && sign > 0)
            cli_error("--metrics: the server does not count %s", l->counters.name[c]);
        r->counted[c] = there && (sign < 0 || r->counted[c]);
    }
    free(f.data);
}

/* ---------------------------------------------------------------- rows ---------------------- */

static void say_failures(const struct load_row *r)
{
    const int64_t failed = load_row_failed(r);
    if (!failed)
        return;
    char what[48];
    if (r->n_clients)
        snprintf(what, sizeof(what), "%d client%s", r->n_clients, r->n_clients > 1 ? "s" : "");
    else
        snprintf(what, sizeof(what), "%g requests a second", r->rate);
    cli_error("%s: %" PRId64 " of %" PRId64 " requests FAILED", what, failed, r->n_sent);
    for (int c = 0; c < LOAD_CAUSES; c++) {
        if (c == LOAD_DONE || c == LOAD_INTERRUPTED || !r->n_cause[c])
            continue;
        char statuses[64] = "";
        for (int s = 0; s < 600 && c == LOAD_STATUS; s++)
            if (r->n_status[s] && strlen(statuses) < 48)
                snprintf(statuses + strlen(statuses), 16, " %d", s);
        cli_error("  %" PRId64 " %s%s; the first: %s", r->n_cause[c],
                  load_cause_name((enum load_cause)c), statuses,
                  r->said[c][0] ? r->said[c] : "nothing was said");
    }
}

static void row_free(struct load_row *r)
{
    free(r->samples_first.v);
    free(r->samples_gap.v);
    free(r->samples_whole.v);
    free(r->samples_late.v);
    free(r->samples_stream.v);
}

/* Requests that are not counted. A server that cannot answer them is not worth measuring. */
static int warm_up(struct load *l, struct pg_err *err)
{
    const int most = l->rows[0].n_clients ? l->rows[0].n_clients : 1, n = l->args->n_warmup;
    struct load_row r = {.n_clients = n < most ? n : most};
    int rc = n ? load_row_run(l, &r, -1, err) : 0;
    if (!rc && n && cli_interrupted())
        rc = cli_fail(err, PG_ECANCELLED, "interrupted");
    if (!rc && load_row_failed(&r)) {
        say_failures(&r);
        rc = cli_fail(err, PG_EIO, "the warm-up failed; nothing was measured");
    }
    row_free(&r);
    l->n_prompts_sent = 0;
    return rc;
}

static int rows_run(struct load *l, struct pg_err *err)
{
    int rc = warm_up(l, err);
    for (int i = 0; i < l->n_rows && !rc && !cli_interrupted(); i++) {
        struct load_row *r = &l->rows[i];
        counters_read(l, r, -1);
        rc = load_row_run(l, r, i, err);
        counters_read(l, r, 1);
        say_failures(r);
    }
    return rc;
}

/* ---------------------------------------------------------------- the command --------------- */

static int load_open(struct load *l, struct pg_err *err)
{
    struct rlimit files;
    if (!getrlimit(RLIMIT_NOFILE, &files)) { /* a client is a connection */
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    const char *svg = l->args->svg, *out = l->args->output;
    int rc = key_read(l, err);
    rc = rc || !svg ? rc : cli_outfile_check(svg, true, err);
    rc = rc || !out ? rc : cli_outfile_open(&l->out, out, err);
    l->has_out = out && !rc;
    rc = rc ? rc : load_target_connect(&l->target, err);
    rc = rc ? rc : model_find(l, err);
    const struct load_prompts_options opt = {l->args, &l->target, l->model};
    rc = rc ? rc : load_prompts_open(&l->prompts, &opt, err);
    return rc ? rc : load_client_open(&l->client, &l->target, l->args->timeout, err);
}

static int load_finish(struct load *l)
{
    struct pg_err err = {0};
    int64_t failed = 0;
    for (int i = 0; i < l->n_rows; i++)
        failed += load_row_failed(&l->rows[i]);
    int code = CLI_OK;
    if (l->args->json)
        code = load_print_json(l);
    else
        load_print(l);
    if ((l->has_out && cli_outfile_commit(&l->out, &err)) ||
        (l->args->svg && load_write_svg(l, l->args->svg, &err)))
        code = cli_failed(&err);
    l->has_out = false;
    if (!code && failed)
        code = CLI_FAILED;
    return !code && cli_interrupted() ? cli_interrupt_code() : code;
}

int cli_load(const struct cli_args *args)
{
    struct pg_err err = {0};
    struct load l = {.args = args};
    int code = load_target_parse(&l.target, args->subject);
    code = code ? code : options_check(&l);
    if (!code && (load_open(&l, &err) || rows_run(&l, &err)))
        code = cli_failed(&err);
    if (!code)
        code = load_finish(&l);
    if (l.has_out)
        cli_outfile_abandon(&l.out);
    load_client_close(&l.client);
    load_prompts_close(&l.prompts);
    for (int i = 0; i < l.n_rows; i++)
        row_free(&l.rows[i]);
    free(l.rows);
    return code;
}
