/* SPDX-License-Identifier: MIT
 * Options for the engine out of the command line; statistics, plan and model as JSON. JSON keys are
 * the names of include/pregate.h.
 */
#include "cli.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

void cli_engine_options(struct pg_options *opt, const struct cli_args *args,
                        struct cli_progress *progress)
{
    progress->verbose = args->verbose;
    *opt = (struct pg_options){PG_OPTIONS_INIT,
                               .model = args->subject,
                               .sidecar = args->sidecar,
                               .memory_bytes = args->memory,
                               .mode = (enum pg_mode)args->mode,
                               .evict = (enum pg_evict)args->evict,
                               .hints = (enum pg_hints)args->hints,
                               .lookahead = args->lookahead,
                               .n_threads = args->n_threads,
                               .n_ctx = args->n_ctx,
                               .n_batch = args->n_batch,
                               .kv_type = (enum pg_kv_type)args->kv,
                               .io_path = (enum pg_io_path)args->io_path,
                               .cpu = (enum pg_cpu_level)args->cpu,
                               .cache_bias = (float)args->cache_bias,
                               .log = cli_progress_log,
                               .progress = cli_progress_step,
                               .user = progress};
}

struct pg_stats cli_stats_since(const struct pg_stats *a, const struct pg_stats *b)
{
    struct pg_stats d = *b;
    d.n_prompt -= a->n_prompt;
    d.n_decode -= a->n_decode;
    d.prompt_seconds -= a->prompt_seconds;
    d.decode_seconds -= a->decode_seconds;
    d.compute_seconds -= a->compute_seconds;
    d.stall_seconds -= a->stall_seconds;
    d.expert_requests -= a->expert_requests;
    d.hits -= a->hits;
    d.hinted_in_time -= a->hinted_in_time;
    d.hinted_late -= a->hinted_late;
    d.missed -= a->missed;
    d.hinted_unused -= a->hinted_unused;
    d.expert_bytes_read -= a->expert_bytes_read;
    d.hint_bytes_read -= a->hint_bytes_read;
    d.hint_bytes_used -= a->hint_bytes_used;
    d.io_busy_seconds -= a->io_busy_seconds;
    d.io_busy_decode_seconds -= a->io_busy_decode_seconds;
    d.expert_bytes_read_decode -= a->expert_bytes_read_decode;
    d.read_errors -= a->read_errors;
    return d;
}

bool cli_hints_stopped(enum pg_mode mode, const struct pg_stats *s, const struct cli_args *args)
{
    const bool uncertain =
        mode == PG_MODE_PREFETCH_ALL || mode == PG_MODE_LOOKAHEAD || mode == PG_MODE_HINT;
    return uncertain && !s->hints_active && args->hints != PG_HINTS_OFF;
}

double cli_stats_seconds(const struct pg_stats *s)
{
    return s->prompt_seconds + s->decode_seconds;
}

double cli_ratio(double a, double b)
{
    return b > 0 ? a / b : 0;
}

json_t *cli_json_real(double v)
{
    return isfinite(v) ? json_real(v) : json_null();
}

/* Length of the UTF-8 character at text[0..n), 0 when it is not one. */
static size_t utf8_length(const unsigned char *s, size_t n)
{
    const unsigned char c = s[0];
    const size_t len = c < 0x80                ? 1
                       : c >= 0xC2 && c < 0xE0 ? 2
                       : (c & 0xF0) == 0xE0    ? 3
                       : c >= 0xF0 && c < 0xF5 ? 4
                                               : 0;
    if (len == 0 || len > n)
        return 0;
    for (size_t i = 1; i < len; i++)
        if ((s[i] & 0xC0) != 0x80)
            return 0;
    const bool overlong = (c == 0xE0 && s[1] < 0xA0) || (c == 0xF0 && s[1] < 0x90);
    const bool surrogate = c == 0xED && s[1] >= 0xA0;
    const bool beyond = c == 0xF4 && s[1] >= 0x90;
    return overlong || surrogate || beyond ? 0 : len;
}

json_t *cli_json_text(const char *text, size_t n)
{
    char *clean = malloc(3 * n + 1);
    size_t n_clean = 0;
    if (!clean)
        return NULL;
    for (size_t i = 0; i < n;) {
        const size_t len = utf8_length((const unsigned char *)text + i, n - i);
        memcpy(clean + n_clean, len ? text + i : "\xEF\xBF\xBD", len ? len : 3);
        n_clean += len ? len : 3;
        i += len ? len : 1;
    }
    json_t *j = json_stringn(clean, n_clean);
    free(clean);
    return j;
}

static void put_size(json_t *o, const char *key, uint64_t v)
{
    json_object_set_new(o, key, json_integer((json_int_t)v));
}

static void put_real(json_t *o, const char *key, double v)
{
    json_object_set_new(o, key, cli_json_real(v));
}

json_t *cli_json_plan(const struct pg_plan *p)
{
    json_t *o = json_object();
    json_object_set_new(o, "mode", json_string(pg_mode_name(p->mode)));
    put_size(o, "budget", p->budget);
    put_size(o, "minimum", p->minimum);
    put_size(o, "dense", p->dense);
    put_size(o, "kv", p->kv);
    put_size(o, "scratch", p->scratch);
    put_size(o, "overhead", p->overhead);
    put_size(o, "caller", p->caller);
    put_size(o, "slots", p->slots);
    put_size(o, "slot_bytes", p->slot_bytes);
    put_size(o, "n_slots", (uint64_t)p->n_slots);
    put_size(o, "n_expert_total", (uint64_t)p->n_expert_total);
    put_size(o, "expert_bytes", p->expert_bytes);
    put_size(o, "token_expert_bytes", p->token_expert_bytes);
    put_size(o, "token_dense_bytes", p->token_dense_bytes);
    put_size(o, "n_batch", (uint64_t)p->n_batch);
    return o;
}

json_t *cli_json_model(const struct pg_model_info *m)
{
    json_t *o = json_object();
    json_object_set_new(o, "arch", cli_json_text(m->arch, strlen(m->arch)));
    json_object_set_new(o, "name", cli_json_text(m->name, strlen(m->name)));
    json_object_set_new(o, "file_type", cli_json_text(m->file_type, strlen(m->file_type)));
    put_size(o, "file_bytes", m->file_bytes);
    put_size(o, "n_params", m->n_params);
    put_size(o, "n_params_active", m->n_params_active);
    put_size(o, "n_layer", (uint64_t)m->n_layer);
    put_size(o, "n_moe_layer", (uint64_t)m->n_moe_layer);
    put_size(o, "n_embd", (uint64_t)m->n_embd);
    put_size(o, "n_head", (uint64_t)m->n_head);
    put_size(o, "n_head_kv", (uint64_t)m->n_head_kv);
    put_size(o, "n_ff", (uint64_t)m->n_ff);
    put_size(o, "n_expert", (uint64_t)m->n_expert);
    put_size(o, "n_expert_used", (uint64_t)m->n_expert_used);
    put_size(o, "n_vocab", (uint64_t)m->n_vocab);
    put_size(o, "n_ctx_train", (uint64_t)m->n_ctx_train);
    return o;
}

void cli_json_put_hinted(json_t *o, const struct pg_stats *s)
{
    put_size(o, "hinted_in_time", s->hinted_in_time);
    put_size(o, "hinted_late", s->hinted_late);
    put_size(o, "hinted_unused", s->hinted_unused);
    put_size(o, "warned_in_time", s->hinted_in_time);
    put_size(o, "warned_late", s->hinted_late);
    put_size(o, "warned_unused", s->hinted_unused);
}

json_t *cli_json_stats(const struct pg_stats *s)
{
    json_t *o = json_object();
    put_size(o, "n_prompt", s->n_prompt);
    put_size(o, "n_decode", s->n_decode);
    put_real(o, "prompt_seconds", s->prompt_seconds);
    put_real(o, "decode_seconds", s->decode_seconds);
    put_real(o, "compute_seconds", s->compute_seconds);
    put_real(o, "stall_seconds", s->stall_seconds);
    put_size(o, "expert_requests", s->expert_requests);
    put_size(o, "hits", s->hits);
    cli_json_put_hinted(o, s);
    put_size(o, "missed", s->missed);
    put_size(o, "expert_bytes_read", s->expert_bytes_read);
    put_size(o, "hint_bytes_read", s->hint_bytes_read);
    put_size(o, "hint_bytes_used", s->hint_bytes_used);
    put_real(o, "io_busy_seconds", s->io_busy_seconds);
    put_size(o, "read_errors", s->read_errors);
    put_size(o, "peak_rss_bytes", s->peak_rss_bytes);
    json_object_set_new(o, "hints_active", json_boolean(s->hints_active));
    json_object_set_new(o, "io_path", json_string(s->io_path ? s->io_path : ""));
    json_object_set_new(o, "cpu_level", json_string(s->cpu_level ? s->cpu_level : ""));
    return o;
}

int cli_json_print(json_t *j)
{
    const int rc = j ? json_dumpf(j, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) : -1;
    json_decref(j);
    if (rc && !ferror(stdout))
        cli_error("no memory for the JSON");
    if (rc)
        return CLI_FAILED; /* what was wrong with standard output is said at the end */
    putchar('\n');
    return CLI_OK;
}
