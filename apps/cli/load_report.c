/* SPDX-License-Identifier: MIT
 * The rows of `pregate load` as tables and as JSON.
 */
#include "load.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

int64_t load_row_failed(const struct load_row *r)
{
    int64_t n = 0;
    for (int c = 0; c < LOAD_CAUSES; c++)
        n += c == LOAD_DONE || c == LOAD_INTERRUPTED ? 0 : r->n_cause[c];
    return n;
}

static double requests_a_second(const struct load_row *r)
{
    return cli_ratio((double)r->n_done_in_time, r->seconds);
}

static double tps_of(const struct load_row *r)
{
    return cli_ratio(r->window_tokens, r->seconds);
}

/* ---------------------------------------------------------------- text ---------------------- */

static const char *row_name(const struct load_row *r, char out[24])
{
    if (r->n_clients)
        snprintf(out, 24, "%d", r->n_clients);
    else
        snprintf(out, 24, "%g/s", r->rate);
    return out;
}

static void print_head(const struct load *l)
{
    const struct cli_args *a = l->args;
    char span[48];
    if (a->n_requests)
        snprintf(span, sizeof(span), "%d requests a row", a->n_requests);
    else
        snprintf(span, sizeof(span), "%g s a row", a->duration);
    cli_print_safe(stdout, l->target.url, strlen(l->target.url));
    fputs(", model ", stdout);
    cli_print_safe(stdout, l->model, strlen(l->model));
    printf(", %s\n%s, %s, %d prompts, %d tokens at most%s\n\n",
           a->completions ? "completions" : "chat",
           l->rows[0].n_clients ? "Closed loop" : "Open loop, Poisson arrivals", span, l->prompts.n,
           a->n_max_tokens, a->ignore_eos ? ", ends ignored" : "");
}

static void print_counts(const struct load *l)
{
    char name[24];
    printf(
        "| %8s |  sent |  done | failed | requests/s | tokens/s | a reply's tokens/s, p50 (p5 to "
        "max) | prompt tokens | cached %% |\n"
        "|---------:|------:|------:|-------:|-----------:|---------:|"
        "-----------------------------------:|--------------:|---------:|\n",
        l->rows[0].n_clients ? "clients" : "rate");
    for (int i = 0; i < l->n_rows; i++) {
        const struct load_row *r = &l->rows[i];
        char stream[64], cached[16] = "-";
        if (!r->ran)
            continue;
        snprintf(stream, sizeof(stream), "%.2f (%.2f to %.2f)", r->stream.p50, r->stream.p5,
                 r->stream.max);
        if (r->cached_known)
            snprintf(cached, sizeof(cached), "%.1f",
                     100 * cli_ratio((double)r->n_cached, (double)r->n_prompt));
        printf("| %8s | %5" PRId64 " | %5" PRId64 " | %6" PRId64
               " | %10.2f | %8.1f | %34s | %13" PRId64 " | %8s |\n",
               row_name(r, name), r->n_sent, r->n_cause[LOAD_DONE], load_row_failed(r),
               requests_a_second(r), tps_of(r), stream, r->n_prompt, cached);
    }
}

static void print_times(const struct load_row *r, const char *what, const struct load_summary *s,
                        bool first)
{
    char name[24];
    printf("| %8s | %-19s | %7zu |", first ? row_name(r, name) : "", what, s->n);
    if (!s->n)
        puts("          - |          - |          - |          - |          - |                 - "
             "|");
    else
        printf(" %10.1f | %10.1f | %10.1f | %10.1f | %10.1f | %8.1f ± %6.1f |\n", s->p50 * 1e3,
               s->p90 * 1e3, s->p95 * 1e3, s->p99 * 1e3, s->max * 1e3, s->mean * 1e3, s->sd * 1e3);
}

static void print_latencies(const struct load *l)
{
    printf(
        "\n| %8s | milliseconds        |       n |        p50 |        p90 |        p95 |        "
        "p99 |        max |       mean ± sd |\n"
        "|---------:|---------------------|--------:|-----------:|-----------:|-----------:|----"
        "-------:|-----------:|----------------:|\n",
        l->rows[0].n_clients ? "clients" : "rate");
    for (int i = 0; i < l->n_rows; i++) {
        const struct load_row *r = &l->rows[i];
        if (!r->ran)
            continue;
        print_times(r, "to the first token", &r->first, true);
        print_times(r, "between tokens", &r->gap, false);
        print_times(r, "the whole request", &r->whole, false);
        if (!r->n_clients)
            print_times(r, "sent after due", &r->late, false);
    }
}

static void print_counters(const struct load *l)
{
    char name[24];
    for (int c = 0; c < l->counters.n; c++)
        for (int i = 0; i < l->n_rows; i++) {
            const struct load_row *r = &l->rows[i];
            if (!r->ran || !r->counted[c])
                continue;
            printf("%s%s, %s: %.9g, %.6g a token written\n", i ? "" : "\n", l->counters.name[c],
                   row_name(r, name), r->counter[c], cli_ratio(r->counter[c], (double)r->n_tokens));
        }
}

/* What makes the numbers above mean less than they seem to. */
static void print_remarks(const struct load_row *r)
{
    char name[24];
    row_name(r, name);
    if (r->n_uncounted)
        printf("%s: %" PRId64 " replies came without usage; their tokens are pieces of text.\n",
               name, r->n_uncounted);
    if (r->n_pieces != r->n_tokens)
        printf("%s: %" PRId64 " tokens came in %" PRId64
               " pieces of text; times between tokens are those between pieces.\n",
               name, r->n_tokens, r->n_pieces);
    if (r->n_empty)
        printf("%s: %" PRId64 " replies had no text.\n", name, r->n_empty);
    if (r->n_resent)
        printf("%s: %" PRId64 " requests were sent again: their idle connection had been closed.\n",
               name, r->n_resent);
    if (r->client_cpu > 0.8)
        printf("%s: this program itself was busy for %.0f %% of the time, so that times may be its "
               "own.\n",
               name, 100 * r->client_cpu);
    if (r->interrupted)
        printf("%s: interrupted; %" PRId64 " requests under way count nowhere.\n", name,
               r->n_cause[LOAD_INTERRUPTED]);
}

void load_print(const struct load *l)
{
    print_head(l);
    print_counts(l);
    print_latencies(l);
    print_counters(l);
    putchar('\n');
    for (int i = 0; i < l->n_rows; i++)
        if (l->rows[i].ran)
            print_remarks(&l->rows[i]);
    if (l->n_prompts_sent > l->prompts.n)
        printf("%d requests were sent of %d prompts: what is sent again may be in a server's "
               "cache.\n",
               l->n_prompts_sent, l->prompts.n);
}

/* ---------------------------------------------------------------- JSON ---------------------- */

static void put_summary(json_t *o, const char *key, const struct load_summary *s)
{
    json_t *y = json_object();
    cli_put_size(y, "n", s->n);
    if (s->n) {
        cli_put_real(y, "mean", s->mean);
        cli_put_real(y, "sd", s->sd);
        cli_put_real(y, "min", s->min);
        cli_put_real(y, "p5", s->p5);
        cli_put_real(y, "p50", s->p50);
        cli_put_real(y, "p90", s->p90);
        cli_put_real(y, "p95", s->p95);
        cli_put_real(y, "p99", s->p99);
        cli_put_real(y, "max", s->max);
    }
    json_object_set_new(o, key, y);
}

static json_t *json_failures(const struct load_row *r)
{
    json_t *o = json_object();
    for (int c = 0; c < LOAD_CAUSES; c++) {
        if (c == LOAD_DONE || c == LOAD_INTERRUPTED || !r->n_cause[c])
            continue;
        json_t *f = json_object();
        cli_put_size(f, "n", (uint64_t)r->n_cause[c]);
        json_object_set_new(f, "first", cli_json_text(r->said[c], strlen(r->said[c])));
        for (int status = 0; status < 600 && c == LOAD_STATUS; status++) {
            char name[16];
            snprintf(name, sizeof(name), "%d", status);
            if (r->n_status[status])
                cli_put_size(f, name, (uint64_t)r->n_status[status]);
        }
        json_object_set_new(o, load_cause_name((enum load_cause)c), f);
    }
    return o;
}

static json_t *json_counters(const struct load *l, const struct load_row *r)
{
    json_t *o = json_object();
    for (int c = 0; c < l->counters.n; c++) {
        json_t *v = r->counted[c] ? json_object() : json_null();
        if (r->counted[c]) {
            cli_put_real(v, "difference", r->counter[c]);
            cli_put_real(v, "per_token",
                         r->n_tokens ? r->counter[c] / (double)r->n_tokens : HUGE_VAL);
        }
        json_object_set_new(o, l->counters.name[c], v);
    }
    return o;
}

static json_t *json_row(const struct load *l, const struct load_row *r)
{
    json_t *o = json_object();
    if (r->n_clients)
        cli_put_size(o, "clients", (uint64_t)r->n_clients);
    else
        cli_put_real(o, "rate", r->rate);
    cli_put_real(o, "seconds", r->seconds);
    json_object_set_new(o, "interrupted", json_boolean(r->interrupted));
    cli_put_size(o, "sent", (uint64_t)r->n_sent);
    cli_put_size(o, "done", (uint64_t)r->n_cause[LOAD_DONE]);
    cli_put_size(o, "failed", (uint64_t)load_row_failed(r));
    cli_put_size(o, "cancelled", (uint64_t)r->n_cause[LOAD_INTERRUPTED]);
    json_object_set_new(o, "failures", json_failures(r));
    put_summary(o, "first_token_seconds", &r->first);
    put_summary(o, "gap_seconds", &r->gap);
    put_summary(o, "request_seconds", &r->whole);
    put_summary(o, "reply_tps", &r->stream);
    if (!r->n_clients)
        put_summary(o, "late_seconds", &r->late);
    cli_put_real(o, "requests_per_second", requests_a_second(r));
    cli_put_real(o, "tps", tps_of(r));
    cli_put_real(o, "tokens_in_time", r->window_tokens);
    cli_put_size(o, "tokens", (uint64_t)r->n_tokens);
    cli_put_size(o, "pieces", (uint64_t)r->n_pieces);
    cli_put_size(o, "without_usage", (uint64_t)r->n_uncounted);
    cli_put_size(o, "without_text", (uint64_t)r->n_empty);
    cli_put_size(o, "sent_again", (uint64_t)r->n_resent);
    cli_put_size(o, "prompt_tokens", (uint64_t)r->n_prompt);
    json_object_set_new(o, "cached_tokens",
                        r->cached_known ? json_integer((json_int_t)r->n_cached) : json_null());
    json_object_set_new(o, "counters", json_counters(l, r));
    cli_put_real(o, "client_cpu", r->client_cpu);
    return o;
}

static json_t *json_settings(const struct load *l)
{
    const struct cli_args *a = l->args;
    json_t *o = json_object();
    json_object_set_new(o, "url", cli_json_text(l->target.url, strlen(l->target.url)));
    json_object_set_new(o, "model", cli_json_text(l->model, strlen(l->model)));
    json_object_set_new(o, "kind", json_string(a->completions ? "completions" : "chat"));
    cli_put_size(o, "prompts", (uint64_t)l->prompts.n);
    json_object_set_new(o, "shuffle", json_boolean(a->shuffle));
    cli_put_size(o, "max_tokens", (uint64_t)a->n_max_tokens);
    json_object_set_new(o, "ignore_eos", json_boolean(a->ignore_eos));
    json_object_set_new(o, "temperature", cli_given(a, "temp") ? json_real(a->temp) : json_null());
    cli_put_size(o, "seed", a->seed);
    cli_put_size(o, "warmup", (uint64_t)a->n_warmup);
    cli_put_real(o, "timeout", a->timeout);
    json_object_set_new(o, "requests", a->n_requests ? json_integer(a->n_requests) : json_null());
    json_object_set_new(o, "duration", a->n_requests ? json_null() : json_real(a->duration));
    return o;
}

int load_print_json(const struct load *l)
{
    json_t *o = json_object(), *rows = json_array();
    for (int i = 0; i < l->n_rows; i++)
        if (l->rows[i].ran)
            json_array_append_new(rows, json_row(l, &l->rows[i]));
    json_object_set_new(o, "settings", json_settings(l));
    json_object_set_new(o, "rows", rows);
    return cli_json_print(o);
}
