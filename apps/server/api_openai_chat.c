/* SPDX-License-Identifier: MIT
 * POST /v1/chat/completions.
 */
#include "chat_in.h"
#include "openai.h"
#include "route.h"
#include "server.h"
#include "spec.h"
#include "sse.h"

#include <string.h>

/* ---------------------------------------------------------------- streams ------------------- */

static json_t *chunk(const struct gen *g, json_t *choices)
{
    return json_pack("{s:s, s:s, s:I, s:s, s:s, s:o}", "id", g->id, "object",
                     "chat.completion.chunk", "created", (json_int_t)g->created, "model",
                     g->server->model_id, "system_fingerprint", OPENAI_FINGERPRINT, "choices",
                     choices);
}

static json_t *chunk_of(const struct gen *g, const struct choice *c, json_t *delta,
                        const char *finish)
{
    return chunk(g, json_pack("[{s:i, s:o, s:n, s:s?}]", "index", c->index, "delta", delta,
                              "logprobs", "finish_reason", finish));
}

static void put_logprobs(json_t *j, json_t *logprobs)
{
    json_object_set_new(json_array_get(json_object_get(j, "choices"), 0), "logprobs", logprobs);
}

static void chat_open(struct gen *g)
{
    conn_stream(g->conn, SSE_TYPE);
    for (int i = 0; i < gen_n_all(g); i++)
        sse_send(g->conn, NULL,
                 chunk_of(g, &g->choice[i],
                          json_pack("{s:s, s:s}", "role", "assistant", "content", ""), NULL));
}

static json_t *delta_of(const struct choice *c, const struct piece *p)
{
    switch (p->kind) {
    case PIECE_TEXT:
        return json_pack("{s:s%}", "content", p->text, p->n);
    case PIECE_REASONING:
        return json_pack("{s:s%}", "reasoning_content", p->text, p->n);
    case PIECE_CALL:
        return json_pack("{s:[{s:i, s:s, s:s, s:{s:s%, s:s}}]}", "tool_calls", "index", p->call,
                         "id", c->calls[p->call].id, "type", "function", "function", "name",
                         p->text, p->n, "arguments", "");
    case PIECE_ARGUMENTS:
        break;
    }
    return json_pack("{s:[{s:i, s:{s:s%}}]}", "tool_calls", "index", p->call, "function",
                     "arguments", p->text, p->n);
}

static void chat_part(struct gen *g, struct choice *c, const struct piece *p)
{
    json_t *j = chunk_of(g, c, delta_of(c, p), NULL);
    if (g->n_logprobs >= 0)
        put_logprobs(j, gen_take_logprobs(c));
    if (g->timings_per_token)
        json_object_set_new(j, "timings", gen_timings_now(g));
    sse_send(g->conn, NULL, j);
}

static void chat_progress(struct gen *g, int done, int total)
{
    json_t *j = chunk(g, json_array());
    json_object_set_new(j, "prompt_progress", openai_progress(g, done, total));
    sse_send(g->conn, NULL, j);
}

static void chat_choice_over(struct gen *g, struct choice *c)
{
    json_t *j = chunk_of(g, c, json_object(), gen_finish_reason(c));
    if (g->n_logprobs >= 0 && c->logprobs)
        put_logprobs(j, gen_take_logprobs(c));
    if (g->n_over == g->n_submitted)
        json_object_set_new(j, "timings", gen_timings(g));
    sse_send(g->conn, NULL, j);
}

/* ---------------------------------------------------------------- whole --------------------- */

static json_t *calls_of(const struct choice *c)
{
    json_t *calls = json_array();
    for (int i = 0; i < c->n_calls; i++)
        json_array_append_new(calls, json_pack("{s:s, s:s, s:{s:s, s:o}}", "id", c->calls[i].id,
                                               "type", "function", "function", "name",
                                               c->calls[i].name ? c->calls[i].name : "",
                                               "arguments", gen_text(&c->calls[i].arguments)));
    return calls;
}

static json_t *message_of(const struct choice *c)
{
    json_t *m = json_pack("{s:s, s:o, s:n}", "role", "assistant", "content",
                          c->n_calls && !c->text.n ? json_null() : gen_text(&c->text), "refusal");
    if (c->reasoning.n)
        json_object_set_new(m, "reasoning_content", gen_text(&c->reasoning));
    if (c->n_calls)
        json_object_set_new(m, "tool_calls", calls_of(c));
    return m;
}

static void chat_reply(struct gen *g)
{
    json_t *choices = json_array();
    for (int i = 0; i < gen_n_all(g); i++) {
        struct choice *c = &g->choice[i];
        json_array_append_new(choices, json_pack("{s:i, s:o, s:o, s:s}", "index", i, "message",
                                                 message_of(c), "logprobs", gen_take_logprobs(c),
                                                 "finish_reason", gen_finish_reason(c)));
    }
    json_t *j = chunk(g, choices);
    json_object_set_new(j, "object", json_string("chat.completion"));
    json_object_set_new(j, "usage", openai_usage(g));
    json_object_set_new(j, "timings", gen_timings(g));
    reply_json(g->conn, 200, j);
}

static void chat_end(struct gen *g)
{
    if (!g->stream) {
        chat_reply(g);
        return;
    }
    if (g->include_usage) {
        json_t *j = chunk(g, json_array());
        json_object_set_new(j, "usage", openai_usage(g));
        json_object_set_new(j, "timings", gen_timings(g));
        sse_send(g->conn, NULL, j);
    }
    openai_done(g);
}

static const struct gen_api chat_api = {.open = chat_open,
                                        .part = chat_part,
                                        .progress = chat_progress,
                                        .choice_over = chat_choice_over,
                                        .end = chat_end,
                                        .error = openai_error,
                                        .ping = ": ping\n\n"};

/* ---------------------------------------------------------------- the request --------------- */

static void read_logprobs(struct gen *g, const struct in *in)
{
    bool wanted = false;
    int n_top = -1;
    in_bool(in, "logprobs", &wanted);
    in_int32(in, "top_logprobs", 0, LIMIT_TOP_LOGPROBS, &n_top);
    if (n_top > 0 && !wanted)
        in_wrong(in, "top_logprobs", "logprobs has to be true for it");
    if (wanted)
        g->n_logprobs = n_top > 0 ? n_top : 0;
}

static void read_modalities(const struct in *in)
{
    const json_t *list = in_array(in, "modalities", 8);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *word = json_string_value(json_array_get(list, i));
        if (!word || strcmp(word, "text"))
            in_wrong(in, "modalities", "only text is written");
    }
}

static void body_in(struct chat_in *chat, struct gen *g, const struct in *in)
{
    static const char *const most[] = {"n_predict", "max_tokens", "max_completion_tokens", NULL};
    spec_defaults_openai(g);
    spec_sampling(g, in);
    spec_stops(g, in, "stop", 4);
    spec_stream(g, in);
    spec_grammar(g, in);
    spec_most(g, in, most);
    read_logprobs(g, in);
    read_modalities(in);
    chat_in_read(chat, g, in);
}

void openai_chat(struct conn *c)
{
    const struct chat_way way = {&chat_api, "chatcmpl-", body_in};
    chat_in_serve(c, &way);
}
