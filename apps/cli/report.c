/* SPDX-License-Identifier: MIT
 * Options for the engine out of the command line; statistics, plan and model as JSON. JSON keys are
 * the names of include/pregate.h.
 */
#include "cli.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct cli_bias cli_bias_of(const struct cli_args *args)
{
    const bool margin = args->cache_margin.n > 0;
    const struct cli_reals *r = margin ? &args->cache_margin : &args->cache_bias;
    struct cli_bias b = {.form = margin ? PG_CACHE_MARGIN : PG_CACHE_LOGITS};
    if (r->n == 1)
        b.one = r->v[0];
    else if (r->n > 1)
        b.each = r->v, b.n = r->n;
    return b;
}

float cli_or_none(double v)
{
    return v > 0 ? (float)v : -1;
}

float cli_imitate_of(const struct cli_args *args)
{
    return args->imitate < 0 ? 0 : cli_or_none(args->imitate);
}

void cli_engine_options(struct pg_options *opt, const struct cli_args *args,
                        struct cli_progress *progress)
{
    const struct cli_bias bias = cli_bias_of(args);
    progress->verbose = args->verbose;
    *opt = (struct pg_options){PG_OPTIONS_INIT,
                               .model = args->subject,
                               .sidecar = args->sidecar,
                               .memory_bytes = args->memory,
                               .mode = (enum pg_mode)args->mode,
                               .evict = (enum pg_evict)args->evict,
                               .hints = (enum pg_hints)args->hints,
                               .lookahead = args->lookahead,
                               .hint_extra = args->hint_extra,
                               .n_threads = args->n_threads,
                               .n_ctx = args->n_ctx,
                               .n_source = args->n_source,
                               .capacity = args->capacity,
                               .n_expert_used = args->n_experts,
                               .n_batch = args->n_batch,
                               .n_slots = args->n_slots,
                               .kv_type = (enum pg_kv_type)args->kv,
                               .io_path = (enum pg_io_path)args->io_path,
                               .cpu = (enum pg_cpu_level)args->cpu,
                               .cache_bias = bias.one,
                               .cache_form = bias.form,
                               .block_bias = bias.each,
                               .n_block_bias = bias.n,
                               .log = cli_progress_log,
                               .progress = cli_progress_step,
                               .user = progress};
}

struct pg_sampling cli_sampling_of(const struct cli_args *a, uint64_t seed)
{
    return (struct pg_sampling){PG_SAMPLING_INIT,
                                .temp = (float)a->temp,
                                .top_k = a->top_k,
                                .top_p = (float)a->top_p,
                                .min_p = (float)a->min_p,
                                .repeat_penalty = (float)a->repeat_penalty,
                                .presence_penalty = (float)a->presence_penalty,
                                .frequency_penalty = (float)a->frequency_penalty,
                                .penalty_last_n = a->last_n,
                                .seed = seed};
}

static int32_t decoder_start(const pg_engine *e)
{
    struct pg_model_info info;
    pg_engine_info(e, &info);
    return info.decoder_start;
}

int cli_prompt_run(pg_engine *e, pg_session *s, const struct pg_ids *prompt, struct pg_err *err)
{
    const int32_t start = decoder_start(e);
    if (start < 0)
        return pg_session_sync(s, prompt->id, prompt->n, err);
    const int rc = pg_session_encode(s, prompt->id, prompt->n, err);
    return rc ? rc : pg_session_eval(s, &start, 1, NULL, err);
}

unsigned cli_prompt_flags(const pg_engine *e)
{
    return decoder_start(e) < 0 ? PG_TOKENIZE_BOS : PG_TOKENIZE_EOS;
}

// clang-format off
/* The counters, S whole numbers and R seconds. */
#define COUNTERS(S, R)                                                                             \
    S(n_prompt) S(n_decode) R(prompt_seconds) R(decode_seconds) R(compute_seconds)                 \
    R(stall_seconds) S(expert_requests) S(hits) S(hinted_in_time) S(hinted_late) S(hinted_unused)  \
    S(missed) S(expert_bytes_read) S(expert_bytes_read_decode) S(hint_bytes_read)                  \
    S(hint_bytes_used) R(io_busy_seconds) R(io_busy_decode_seconds) S(read_errors)

struct pg_stats cli_stats_since(const struct pg_stats *a, const struct pg_stats *b)
{
    struct pg_stats d = *b;
#define SINCE(field) d.field -= a->field;
    COUNTERS(SINCE, SINCE)
    return d;
}
// clang-format on

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

void cli_put_size(json_t *o, const char *key, uint64_t v)
{
    json_object_set_new(o, key, json_integer((json_int_t)v));
}

void cli_put_real(json_t *o, const char *key, double v)
{
    json_object_set_new(o, key, cli_json_real(v));
}

// clang-format off
#define SIZE(field) cli_put_size(o, #field, (uint64_t)from->field);
#define REAL(field) cli_put_real(o, #field, from->field);

json_t *cli_json_plan(const struct pg_plan *from)
{
    json_t *o = json_object();
    json_object_set_new(o, "mode", json_string(pg_mode_name(from->mode)));
    SIZE(budget) SIZE(minimum) SIZE(dense) SIZE(kv) SIZE(scratch) SIZE(overhead)
    SIZE(caller) SIZE(slots) SIZE(slot_bytes) SIZE(n_slots) SIZE(n_expert_total) SIZE(expert_bytes)
    SIZE(token_expert_bytes) SIZE(token_dense_bytes) SIZE(n_batch) SIZE(n_expert_token)
    SIZE(n_source) SIZE(n_kv)
    return o;
}

json_t *cli_json_model(const struct pg_model_info *from)
{
    json_t *o = json_object();
    json_object_set_new(o, "arch", cli_json_text(from->arch, strlen(from->arch)));
    json_object_set_new(o, "name", cli_json_text(from->name, strlen(from->name)));
    json_object_set_new(o, "file_type", cli_json_text(from->file_type, strlen(from->file_type)));
    SIZE(file_bytes) SIZE(n_params) SIZE(n_params_active) SIZE(n_layer) SIZE(n_moe_layer)
    SIZE(n_embd) SIZE(n_head) SIZE(n_head_kv) SIZE(n_ff) SIZE(n_expert) SIZE(n_expert_used)
    SIZE(n_vocab) SIZE(n_ctx_train)
    return o;
}

void cli_put_hinted(json_t *o, const struct pg_stats *from)
{
    SIZE(hinted_in_time) SIZE(hinted_late) SIZE(hinted_unused)
    cli_put_size(o, "warned_in_time", from->hinted_in_time);
    cli_put_size(o, "warned_late", from->hinted_late);
    cli_put_size(o, "warned_unused", from->hinted_unused);
}

json_t *cli_json_stats(const struct pg_stats *from)
{
    json_t *o = json_object();
    COUNTERS(SIZE, REAL)
    cli_put_hinted(o, from);
    SIZE(peak_rss_bytes)
    json_object_set_new(o, "hints_active", json_boolean(from->hints_active));
    json_object_set_new(o, "io_path", json_string(from->io_path ? from->io_path : ""));
    json_object_set_new(o, "cpu_level", json_string(from->cpu_level ? from->cpu_level : ""));
    return o;
}
// clang-format on

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
