/* SPDX-License-Identifier: MIT
 * POST /v1/completions: a text goes on.
 */
#include "openai.h"
#include "route.h"
#include "server.h"
#include "spec.h"
#include "sse.h"

#include <string.h>

/* The older form of logprobs, of tokens in the newer one. */
static json_t *old_logprobs(struct choice *c)
{
    json_t *list = gen_take_tokens(c), *tokens = json_array(), *logs = json_array(),
           *tops = json_array(), *offsets = json_array();
    size_t at = c->n_sent;
    for (size_t i = 0; i < json_array_size(list); i++) {
        json_t *t = json_array_get(list, i), *top = json_object(), *one;
        size_t k;
        json_array_append(tokens, json_object_get(t, "token"));
        json_array_append(logs, json_object_get(t, "logprob"));
        json_array_append_new(offsets, json_integer((json_int_t)at));
        at += json_string_length(json_object_get(t, "token"));
        json_array_foreach(json_object_get(t, "top_logprobs"), k, one) json_object_set(
            top, json_string_value(json_object_get(one, "token")), json_object_get(one, "logprob"));
        json_array_append_new(tops, top);
    }
    c->n_sent = at;
    json_decref(list);
    return json_pack("{s:o, s:o, s:o, s:o}", "tokens", tokens, "token_logprobs", logs,
                     "top_logprobs", tops, "text_offset", offsets);
}

static json_t *choice_json(struct choice *c, json_t *text, const char *finish)
{
    json_t *logprobs = c->gen->n_logprobs >= 0 ? old_logprobs(c) : json_null();
    return json_pack("{s:o, s:i, s:o, s:s?}", "text", text, "index", c->index, "logprobs", logprobs,
                     "finish_reason", finish);
}

static json_t *object(const struct gen *g, json_t *choices)
{
    return json_pack("{s:s, s:s, s:I, s:s, s:s, s:o}", "id", g->id, "object", "text_completion",
                     "created", (json_int_t)g->created, "model", g->server->model_id,
                     "system_fingerprint", OPENAI_FINGERPRINT, "choices", choices);
}

static void send_choice(struct gen *g, struct choice *c, json_t *text, const char *finish)
{
    json_t *j = object(g, json_pack("[o]", choice_json(c, text, finish)));
    if (finish && g->n_over == g->n_submitted)
        json_object_set_new(j, "timings", gen_timings(g));
    else if (g->timings_per_token)
        json_object_set_new(j, "timings", gen_timings_now(g));
    sse_send(g->conn, NULL, j);
}

static void completion_open(struct gen *g)
{
    conn_stream(g->conn, SSE_TYPE);
    for (int i = 0; i < gen_n_all(g) && g->state; i++) /* echo */
        send_choice(g, &g->choice[i], json_string(g->state), NULL);
}

static void completion_part(struct gen *g, struct choice *c, const struct piece *p)
{
    send_choice(g, c, json_stringn(p->text, p->n), NULL);
}

static void completion_progress(struct gen *g, int done, int total)
{
    json_t *j = object(g, json_array());
    json_object_set_new(j, "prompt_progress", openai_progress(g, done, total));
    sse_send(g->conn, NULL, j);
}

static void completion_over(struct gen *g, struct choice *c)
{
    send_choice(g, c, json_string(""), gen_finish_reason(c));
}

static json_t *whole_text(const struct gen *g, const struct choice *c)
{
    struct bytes all = {0};
    const char *echo = g->state ? g->state : "";
    if (!bytes_add(&all, echo, strlen(echo)) || !bytes_add(&all, c->text.p, c->text.n))
        all.n = 0;
    json_t *j = gen_text(&all);
    bytes_fini(&all);
    return j;
}

static void completion_end(struct gen *g)
{
    json_t *choices = json_array();
    if (!g->stream) {
        for (int i = 0; i < gen_n_all(g); i++)
            json_array_append_new(choices, choice_json(&g->choice[i], whole_text(g, &g->choice[i]),
                                                       gen_finish_reason(&g->choice[i])));
        json_t *j = object(g, choices);
        json_object_set_new(j, "usage", openai_usage(g));
        json_object_set_new(j, "timings", gen_timings(g));
        reply_json(g->conn, 200, j);
        return;
    }
    json_t *j = object(g, choices);
    json_object_set_new(j, "usage", openai_usage(g));
    if (g->include_usage)
        sse_send(g->conn, NULL, j);
    else
        json_decref(j);
    openai_done(g);
}

static const struct gen_api completion_api = {.open = completion_open,
                                              .part = completion_part,
                                              .progress = completion_progress,
                                              .choice_over = completion_over,
                                              .end = completion_end,
                                              .error = openai_error,
                                              .ping = ": ping\n\n"};

/* ---------------------------------------------------------------- the request --------------- */

static void read_prompts(struct gen *g, const struct in *in, const json_t *list)
{
    const size_t n = json_array_size(list);
    if (n > LIMIT_PROMPTS)
        in_wrong(in, "prompt", "%zu prompts are more than %d", n, LIMIT_PROMPTS);
    for (size_t i = 0; i < n && !in->fault->status; i++) {
        const json_t *item = json_array_get(list, i);
        if (json_is_string(item))
            spec_prompt_text(g, json_string_value(item), json_string_length(item), in->fault);
        else if (json_is_array(item))
            spec_prompt_ids(g, in, "prompt", item);
        else
            in_wrong(in, "prompt", "item %zu is neither a text nor a list of tokens", i);
    }
}

static void read_prompt(struct gen *g, const struct in *in)
{
    const json_t *j = in_get(in, "prompt");
    const json_t *first = json_array_get(j, 0);
    if (json_is_string(j))
        spec_prompt_text(g, json_string_value(j), json_string_length(j), in->fault);
    else if (json_is_array(j) && (!first || json_is_integer(first)))
        spec_prompt_ids(g, in, "prompt", j);
    else if (json_is_array(j))
        read_prompts(g, in, j);
    else
        in_wrong(in, "prompt", "a text, a list of texts or a list of tokens is wanted");
}

static void read_echo(struct gen *g, const struct in *in)
{
    bool echo = false;
    in_bool(in, "echo", &echo);
    if (!echo)
        return;
    const char *text = json_string_value(in_get(in, "prompt"));
    if (!text || g->n_logprobs >= 0)
        in_wrong(in, "echo", "it is for one text without logprobs");
    else if (!(g->state = strdup(text)))
        fault_set(in->fault, 503, NULL, "out of memory");
}

static void read_body(struct gen *g, const struct in *in)
{
    static const char *const refused[] = {"suffix", NULL};
    static const char *const most[] = {"n_predict", "max_tokens", "max_completion_tokens", NULL};
    int best_of = 1;
    g->n_predict = 16;
    spec_defaults_openai(g);
    spec_sampling(g, in);
    spec_stops(g, in, "stop", 4);
    spec_stream(g, in);
    spec_grammar(g, in);
    spec_most(g, in, most);
    in_int32(in, "logprobs", 0, 5, &g->n_logprobs);
    best_of = g->n_choices;
    in_int32(in, "best_of", 1, INT32_MAX, &best_of);
    if (best_of != g->n_choices)
        in_wrong(in, "best_of", "only n answers are made, none is thrown away");
    in_refuse(in, refused);
    read_prompt(g, in);
    read_echo(g, in);
}

void openai_completions(struct conn *c)
{
    struct fault f = {0};
    json_t *body = json_body(c, &f);
    struct gen *g = body ? openai_gen(c, &completion_api, "cmpl-", &f) : NULL;
    if (g) {
        read_body(g, &(struct in){body, &f, NULL});
        gen_submit(g, &f);
    }
    if (f.status)
        fault_reply(c, &f);
    json_decref(body);
}
