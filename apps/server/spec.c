/* SPDX-License-Identifier: MIT */
#include "spec.h"
#include "server.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

void spec_defaults_openai(struct gen *g)
{
    g->how.temp = 1;
    g->how.top_p = 1;
}

void spec_defaults_native(struct gen *g)
{
    g->how.temp = 0.8f;
    g->how.top_k = 40;
    g->how.top_p = 0.95f;
    g->how.min_p = 0.05f;
}

void spec_failed(const struct in *in, const char *key, const struct pg_err *err)
{
    if (in->fault->status)
        return;
    fault_of(in->fault, err);
    snprintf(in->fault->param, sizeof(in->fault->param), "%s", key);
}

/* ---------------------------------------------------------------- sampling ------------------ */

static const char *const refused[] = {"mirostat",
                                      "dry_multiplier",
                                      "xtc_probability",
                                      "dynatemp_range",
                                      "top_n_sigma",
                                      "adaptive_target",
                                      "min_tokens",
                                      "stop_token_ids",
                                      "bad_words",
                                      "allowed_token_ids",
                                      "min_keep",
                                      "use_beam_search",
                                      "lora",
                                      "samplers",
                                      "t_max_predict_ms",
                                      "n_indent",
                                      "truncate_prompt_tokens",
                                      "prompt_logprobs",
                                      "logits_processors",
                                      "guided_regex",
                                      "guided_choice",
                                      "guided_json",
                                      "guided_grammar",
                                      "structured_outputs",
                                      "audio",
                                      "functions",
                                      "function_call",
                                      "web_search_options",
                                      NULL};

static void bias_add(struct gen *g, const struct in *in, int64_t id, const json_t *value)
{
    const int n = g->how.n_bias;
    const double v = json_is_false(value) ? (double)-INFINITY : json_number_value(value);
    if (id < 0 || id >= pg_vocab_n(g->server->vocab))
        in_wrong(in, "logit_bias", "there is no token %lld; there are %d", (long long)id,
                 pg_vocab_n(g->server->vocab));
    else if (!json_is_false(value) && (!json_is_number(value) || !(v >= -100 && v <= 100)))
        in_wrong(in, "logit_bias", "a bias is a number from -100 to 100, or false");
    if (in->fault->status)
        return;
    g->bias_id[n] = (int32_t)id;
    g->bias[n] = (float)v;
    g->how.n_bias++;
}

static void bias_of_object(struct gen *g, const struct in *in, json_t *o)
{
    const char *key;
    json_t *value;
    json_object_foreach(o, key, value)
    {
        char *end;
        errno = 0;
        const long id = strtol(key, &end, 10);
        if (key[0] < '0' || key[0] > '9' || *end || errno)
            in_wrong(in, "logit_bias", "\"%.40s\" is no token's number", key);
        else
            bias_add(g, in, id, value);
    }
}

static void bias_of_list(struct gen *g, const struct in *in, const json_t *list)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *pair = json_array_get(list, i), *id = json_array_get(pair, 0);
        if (json_array_size(pair) != 2 || !json_is_integer(id))
            in_wrong(in, "logit_bias", "an item is [token, bias]");
        else
            bias_add(g, in, json_integer_value(id), json_array_get(pair, 1));
    }
}

static void spec_bias(struct gen *g, const struct in *in)
{
    json_t *j = in_get(in, "logit_bias");
    const size_t n = json_is_array(j) ? json_array_size(j) : json_object_size(j);
    if (!j)
        return;
    if (!json_is_array(j) && !json_is_object(j))
        in_wrong(in, "logit_bias", "an object of token: bias is wanted");
    else if (n > LIMIT_BIAS)
        in_wrong(in, "logit_bias", "%zu tokens are more than %d", n, LIMIT_BIAS);
    if (in->fault->status || !n)
        return;
    g->bias_id = calloc(n, sizeof(*g->bias_id));
    g->bias = calloc(n, sizeof(*g->bias));
    if (!g->bias_id || !g->bias)
        fault_set(in->fault, 503, NULL, "out of memory");
    else if (json_is_array(j))
        bias_of_list(g, in, j);
    else
        bias_of_object(g, in, j);
    g->how.bias_id = g->bias_id;
    g->how.bias = g->bias;
}

/* As llama.cpp has it: 0 looks back on nothing, -1 on the whole context. */
static void spec_penalties(struct gen *g, const struct in *in)
{
    int last_n = 64;
    in_real(in, "repetition_penalty", 0, 100, &g->how.repeat_penalty);
    in_real(in, "repeat_penalty", 0, 100, &g->how.repeat_penalty);
    in_real(in, "presence_penalty", -2, 2, &g->how.presence_penalty);
    in_real(in, "frequency_penalty", -2, 2, &g->how.frequency_penalty);
    in_int32(in, "repeat_last_n", -1, INT32_MAX, &last_n);
    g->how.penalty_last_n = last_n < 0 ? g->server->n_ctx : last_n;
    if (last_n == 0)
        g->how.repeat_penalty = g->how.presence_penalty = g->how.frequency_penalty = 0;
}

void spec_sampling(struct gen *g, const struct in *in)
{
    bool cache = true;
    int top_k = g->how.top_k;
    in_real(in, "temperature", 0, 100, &g->how.temp);
    in_real(in, "top_p", 0, 1, &g->how.top_p);
    if (!(g->how.top_p > 0))
        g->how.top_p = 1e-6f; /* the likeliest alone; 0 would be "off" to the library */
    in_int32(in, "top_k", -1, INT32_MAX, &top_k);
    g->how.top_k = top_k < 0 ? 0 : top_k;
    in_real(in, "min_p", 0, 1, &g->how.min_p);
    in_real(in, "typical_p", 0, 1, &g->how.typical_p);
    spec_penalties(g, in);
    spec_bias(g, in);
    spec_seed(g, in);
    in_bool(in, "ignore_eos", &g->ignore_eos);
    in_bool(in, "cache_prompt", &cache);
    g->no_reuse = !cache;
    in_refuse(in, refused);
}

void spec_seed(struct gen *g, const struct in *in)
{
    int64_t seed = -1;
    uint32_t random = 0;
    in_int(in, "seed", INT64_MIN, INT64_MAX, &seed);
    if (seed == -1 && getrandom(&random, sizeof(random), 0) != (ssize_t)sizeof(random))
        random = (uint32_t)server_now_ns();
    g->how.seed = seed == -1 ? random : (uint64_t)seed;
}

void spec_stops(struct gen *g, const struct in *in, const char *key, size_t most)
{
    const json_t *j = in_get(in, key);
    const bool one = json_is_string(j);
    const size_t n = one ? 1 : json_array_size(j);
    if (j && !one && !json_is_array(j))
        in_wrong(in, key, "a string or a list of strings is wanted");
    if (n > most)
        in_wrong(in, key, "%zu strings are more than %zu", n, most);
    for (size_t i = 0; i < n && !in->fault->status; i++) {
        const json_t *item = one ? j : json_array_get(j, i);
        const size_t len = json_string_length(item);
        if (!json_is_string(item) || len > LIMIT_STOP_BYTES)
            in_wrong(in, key, "a stop string has at most %d bytes", LIMIT_STOP_BYTES);
        else if (len && !(g->stop[g->n_stops++] = strdup(json_string_value(item))))
            fault_set(in->fault, 503, NULL, "out of memory");
    }
    if (g->n_stops && !g->stop[g->n_stops - 1])
        g->n_stops--;
}

void spec_most(struct gen *g, const struct in *in, const char *const *names)
{
    for (; *names; names++) {
        int n = g->n_predict ? g->n_predict : -1;
        in_int32(in, *names, -1, INT32_MAX, &n);
        if (n == 0)
            in_wrong(in, *names, "0 tokens are none; -1 is as many as the context has room for");
        g->n_predict = n < 0 ? 0 : n;
    }
}

void spec_stream(struct gen *g, const struct in *in)
{
    in_bool(in, "stream", &g->stream);
    const struct in options = {in_object(in, "stream_options"), in->fault, "stream_options."};
    in_bool(&options, "include_usage", &g->include_usage);
    in_int32(in, "n", 1, LIMIT_CHOICES, &g->n_choices);
    in_bool(in, "timings_per_token", &g->timings_per_token);
    in_bool(in, "return_progress", &g->return_progress);
}

/* ---------------------------------------------------------------- grammars ------------------ */

static bool take_grammar(struct gen *g, const struct in *in, const char *key)
{
    if (g->grammar)
        in_wrong(in, key,
                 "the answer has one form already; grammar, json_schema and "
                 "response_format exclude each other");
    return !in->fault->status;
}

void spec_schema(struct gen *g, const struct in *in, const char *key, const json_t *schema)
{
    struct pg_err err = {0};
    char *text = schema ? json_dumps(schema, JSON_COMPACT) : NULL;
    const size_t n = text ? strlen(text) : 0;
    if (schema && !text)
        in_wrong(in, key, "the schema cannot be read");
    if (n > LIMIT_GRAMMAR)
        in_wrong(in, key, "the schema has more than %d bytes", LIMIT_GRAMMAR);
    if (take_grammar(g, in, key) && pg_grammar_of_schema(&g->grammar, text ? text : "", n, &err))
        spec_failed(in, key, &err);
    g->ends_thinking = true;
    free(text);
}

static void spec_response_format(struct gen *g, const struct in *in)
{
    static const char *const types[] = {"text", "json_object", "json_schema", NULL};
    json_t *o = in_object(in, "response_format");
    if (!o)
        return;
    const struct in format = {o, in->fault, "response_format."};
    const int type = in_choice(&format, "type", types);
    if (type < 0)
        in_wrong(&format, "type", "text, json_object or json_schema is wanted");
    const struct in holder = {type == 2 ? in_object(&format, "json_schema") : o, in->fault,
                              type == 2 ? "response_format.json_schema." : format.path};
    if (type == 2 && !holder.object)
        in_wrong(&format, "json_schema", "an object with a schema is wanted");
    const json_t *schema = type > 0 ? in_get(&holder, "schema") : NULL;
    if (schema && !json_is_object(schema) && !json_is_boolean(schema))
        in_wrong(&holder, "schema", "a JSON schema is wanted");
    if (type == 2 && !schema)
        in_wrong(&holder, "schema", "a JSON schema is wanted");
    if (type > 0)
        spec_schema(g, in, "response_format", schema);
}

void spec_grammar(struct gen *g, const struct in *in)
{
    struct pg_err err = {0};
    const char *text = in_text(in, "grammar");
    const json_t *schema = in_get(in, "json_schema");
    spec_response_format(g, in);
    if (schema && !json_is_object(schema))
        in_wrong(in, "json_schema", "an object is wanted");
    if (schema && json_object_size(schema))
        spec_schema(g, in, "json_schema", schema);
    if (!text || !*text)
        return;
    if (strlen(text) > LIMIT_GRAMMAR)
        in_wrong(in, "grammar", "it has more than %d bytes", LIMIT_GRAMMAR);
    if (take_grammar(g, in, "grammar") && pg_grammar_open(&g->grammar, text, strlen(text), &err))
        spec_failed(in, "grammar", &err);
}

/* ---------------------------------------------------------------- prompts ------------------- */

/* A byte is rarely more than a token: what surely is too long is not even tokenized. */
static bool text_fits(const struct gen *g, size_t n, struct fault *f)
{
    if (n / PG_PIECE_MAX < (size_t)g->server->n_ctx)
        return true;
    fault_set(f, 400, "prompt", "a prompt of %zu bytes is more than the context's %d tokens hold",
              n, g->server->n_ctx);
    f->code = "context_length_exceeded";
    return false;
}

void spec_prompt_text(struct gen *g, const char *text, size_t n, struct fault *f)
{
    struct pg_err err = {0};
    const pg_vocab *v = g->server->vocab;
    struct pg_ids ids = {.cap = n + 16};
    if (f->status || !text_fits(g, n, f))
        return;
    int rc;
    do {
        free(ids.id);
        ids.id = calloc(ids.cap, sizeof(*ids.id));
        if (!ids.id) {
            fault_set(f, 503, NULL, "out of memory");
            return;
        }
        rc = pg_tokenize(v, text, n, PG_TOKENIZE_BOS | PG_TOKENIZE_SPECIAL, &ids, &err);
    } while (rc == PG_EARG && ids.n > ids.cap && (ids.cap = ids.n));
    if (rc)
        fault_of(f, &err);
    if (!rc && !ids.n && pg_vocab_bos(v) >= 0)
        ids.id[ids.n++] = pg_vocab_bos(v);
    gen_add_prompt(g, ids.id, rc ? 0 : ids.n);
    if (!rc && !ids.n)
        fault_set(f, 400, "prompt",
                  "the prompt is empty, and this model has no token to begin with");
}

void spec_prompt_ids(struct gen *g, const struct in *in, const char *key, const json_t *list)
{
    const size_t n = json_array_size(list);
    if (in->fault->status)
        return;
    int32_t *ids = calloc(n + 1, sizeof(*ids));
    if (!ids)
        fault_set(in->fault, 503, NULL, "out of memory");
    else if (!n)
        in_wrong(in, key, "the list is empty");
    for (size_t i = 0; i < n && !in->fault->status; i++) {
        const json_t *j = json_array_get(list, i);
        const json_int_t id = json_integer_value(j);
        if (!json_is_integer(j) || id < 0 || id >= pg_vocab_n(g->server->vocab))
            in_wrong(in, key, "item %zu is no token; they are from 0 to %d", i,
                     pg_vocab_n(g->server->vocab) - 1);
        ids[i] = (int32_t)id;
    }
    gen_add_prompt(g, ids, n);
}
