/* SPDX-License-Identifier: MIT
 * The paths of Ollama: /api/chat and /api/generate, and what its clients ask before. Streams are a
 * JSON object a line; times are in nanoseconds.
 */
#include "chat_in.h"
#include "openai.h"
#include "route.h"
#include "server.h"
#include "spec.h"
#include "sse.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

/* The version of the interface that is followed: clients ask for it. */
#define OLLAMA_VERSION "0.9.0"

static json_t *stamp(int64_t seconds)
{
    char text[32];
    struct tm tm;
    const time_t t = (time_t)seconds;
    gmtime_r(&t, &tm);
    strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &tm);
    return json_string(text);
}

/* ---------------------------------------------------------------- answers ------------------- */

static json_t *line(const struct gen *g, bool done)
{
    return json_pack("{s:s, s:o, s:b}", "model", g->server->model_id, "created_at",
                     stamp((int64_t)time(NULL)), "done", done);
}

static void put_end(json_t *j, const struct gen *g)
{
    const struct pg_request_report *r = &g->choice[0].report;
    const double ns = 1e9;
    const char *reason = gen_finish_reason(&g->choice[0]);
    json_t *end = json_pack("{s:s, s:I, s:i, s:i, s:I, s:i, s:I}", "done_reason",
                            strcmp(reason, "length") ? "stop" : reason, "total_duration",
                            (json_int_t)(server_now_ns() - g->start_ns), "load_duration", 0,
                            "prompt_eval_count", r->n_prompt, "prompt_eval_duration",
                            (json_int_t)(ns * r->prompt_seconds), "eval_count", r->n_predicted,
                            "eval_duration", (json_int_t)(ns * r->decode_seconds));
    json_object_update(j, end);
    json_decref(end);
}

static void lines_open(struct gen *g)
{
    conn_stream(g->conn, NDJSON_TYPE);
}

static json_t *calls_json(const struct choice *c)
{
    json_t *list = json_array();
    for (int i = 0; i < c->n_calls; i++) {
        const struct bytes *b = &c->calls[i].arguments;
        json_t *arguments = json_loadb(b->p ? b->p : "", b->n, 0, NULL);
        json_array_append_new(list,
                              json_pack("{s:{s:s, s:o}}", "function", "name", c->calls[i].name,
                                        "arguments", arguments ? arguments : json_object()));
    }
    return list;
}

static void chat_part(struct gen *g, struct choice *c, const struct piece *p)
{
    (void)c;
    if (p->kind != PIECE_TEXT && p->kind != PIECE_REASONING)
        return; /* calls are told whole */
    json_t *j = line(g, false);
    json_t *m = json_pack("{s:s, s:s}", "role", "assistant", "content", "");
    json_object_set_new(m, p->kind == PIECE_TEXT ? "content" : "thinking",
                        json_stringn(p->text, p->n));
    json_object_set_new(j, "message", m);
    ndjson_send(g->conn, j);
}

static void chat_end(struct gen *g)
{
    const struct choice *c = &g->choice[0];
    json_t *m = json_pack("{s:s, s:o}", "role", "assistant", "content",
                          g->stream ? json_string("") : gen_text(&c->text));
    if (!g->stream && c->reasoning.n)
        json_object_set_new(m, "thinking", gen_text(&c->reasoning));
    if (c->n_calls)
        json_object_set_new(m, "tool_calls", calls_json(c));
    json_t *j = line(g, true);
    json_object_set_new(j, "message", m);
    put_end(j, g);
    if (g->stream)
        ndjson_send(g->conn, j);
    else
        reply_json(g->conn, 200, j);
}

static void text_part(struct gen *g, struct choice *c, const struct piece *p)
{
    (void)c;
    if (p->kind != PIECE_TEXT && p->kind != PIECE_REASONING)
        return;
    json_t *j = line(g, false);
    json_object_set_new(j, "response", json_string(""));
    json_object_set_new(j, p->kind == PIECE_TEXT ? "response" : "thinking",
                        json_stringn(p->text, p->n));
    ndjson_send(g->conn, j);
}

static void text_end(struct gen *g)
{
    const struct choice *c = &g->choice[0];
    json_t *j = line(g, true);
    json_object_set_new(j, "response", g->stream ? json_string("") : gen_text(&c->text));
    if (!g->stream && c->reasoning.n)
        json_object_set_new(j, "thinking", gen_text(&c->reasoning));
    put_end(j, g);
    if (g->stream)
        ndjson_send(g->conn, j);
    else
        reply_json(g->conn, 200, j);
}

static void lines_error(struct gen *g, const struct fault *f)
{
    ndjson_send(g->conn, fault_json(g->conn, f));
}

static const struct gen_api chat_api = {
    .open = lines_open, .part = chat_part, .end = chat_end, .error = lines_error};
static const struct gen_api text_api = {
    .open = lines_open, .part = text_part, .end = text_end, .error = lines_error};

/* ---------------------------------------------------------------- requests ------------------ */

static void options_in(struct gen *g, const struct in *body)
{
    const struct in in = {in_object(body, "options"), body->fault, "options."};
    const int n_ctx = g->server->n_ctx;
    int n_predict = -1, n_wanted = 0;
    spec_defaults_native(g);
    g->how.top_p = 0.9f;
    g->how.min_p = 0;
    g->how.repeat_penalty = 1.1f;
    spec_sampling(g, &in);
    spec_stops(g, &in, "stop", LIMIT_STOPS);
    in_int32(&in, "num_predict", -2, INT32_MAX, &n_predict);
    g->n_predict = n_predict < 0 ? 0 : n_predict;
    if (n_predict == 0)
        in_wrong(&in, "num_predict", "0 tokens are none; -1 is as many as there is room for");
    in_int32(&in, "num_ctx", INT32_MIN, INT32_MAX, &n_wanted);
    if (n_wanted > n_ctx)
        in_wrong(&in, "num_ctx", "%d tokens are more than the context's %d", n_wanted, n_ctx);
    g->stream = true;
    in_bool(body, "stream", &g->stream);
}

static void format_in(struct gen *g, const struct in *body)
{
    const json_t *j = in_get(body, "format");
    const char *text = json_string_value(j);
    if (json_is_object(j))
        spec_schema(g, body, "format", j);
    else if (text && !strcmp(text, "json"))
        spec_schema(g, body, "format", NULL);
    else if (j && !(text && !*text))
        in_wrong(body, "format", "\"json\" or a JSON schema is wanted");
}

static void think_in(struct chat_in *chat, const struct in *body)
{
    const json_t *j = in_get(body, "think");
    chat->variables = json_object();
    if (json_is_boolean(j))
        json_object_set_new(chat->variables, "enable_thinking", json_boolean(json_is_true(j)));
    else if (json_is_string(j))
        json_object_set_new(chat->variables, "reasoning_effort", json_string(json_string_value(j)));
    else if (j)
        in_wrong(body, "think", "true, false or a word is wanted");
}

/* Ollama calls reasoning "thinking". */
static void messages_in(struct chat_in *chat, const struct in *body)
{
    static const char *const refused[] = {"images", NULL};
    const json_t *list = in_array(body, "messages", LIMIT_MESSAGES);
    chat->path = "messages";
    chat->messages = json_array();
    if (!list)
        in_wrong(body, "messages", "a list of messages is wanted");
    for (size_t i = 0; i < json_array_size(list) && !body->fault->status; i++) {
        json_t *m = json_copy(json_array_get(list, i));
        const char *thinking = json_string_value(json_object_get(m, "thinking"));
        in_refuse(&(struct in){m, body->fault, "messages."}, refused);
        if (thinking)
            json_object_set_new(m, "reasoning_content", json_string(thinking));
        json_array_append_new(chat->messages, m);
    }
}

static void finish(struct conn *c, struct chat_in *chat, json_t *body, const struct fault *f)
{
    if (f->status)
        fault_reply(c, f);
    chat_in_fini(chat);
    json_decref(body);
}

/* Clients that want the model to be there ask it nothing; that is answered here. */
static bool asks_nothing(struct conn *c, const json_t *body, const char *key, const char *answer)
{
    const json_t *j = json_object_get(body, key);
    const bool is_empty = !j || json_is_null(j) || (json_is_string(j) && !json_string_length(j)) ||
                          (json_is_array(j) && !json_array_size(j));
    if (!body || !is_empty)
        return false;
    json_t *o = json_pack("{s:s, s:o, s:b, s:s}", "model", c->server->model_id, "created_at",
                          stamp((int64_t)time(NULL)), "done", 1, "done_reason", "load");
    json_object_set_new(o, answer,
                        strcmp(answer, "message")
                            ? json_string("")
                            : json_pack("{s:s, s:s}", "role", "assistant", "content", ""));
    reply_json(c, 200, o);
    return true;
}

void ollama_chat(struct conn *c)
{
    struct fault f = {0};
    struct chat_in chat = {0};
    json_t *body = json_body(c, &f);
    const bool is_done = asks_nothing(c, body, "messages", "message");
    struct gen *g = body && !is_done ? openai_gen(c, &chat_api, "", &f) : NULL;
    if (g) {
        const struct in in = {body, &f, NULL};
        options_in(g, &in);
        format_in(g, &in);
        think_in(&chat, &in);
        messages_in(&chat, &in);
        chat.tools = json_incref(in_array(&in, "tools", LIMIT_TOOLS));
        chat_in_prompt(&chat, g, &f);
        gen_submit(g, &f);
    }
    finish(c, &chat, body, &f);
}

/* A prompt becomes a conversation of one message, unless it is raw. */
static void prompt_in(struct chat_in *chat, struct gen *g, const struct in *body)
{
    static const char *const refused[] = {"suffix", "images", "context", "template", NULL};
    const char *prompt = in_text(body, "prompt"), *system = in_text(body, "system");
    bool raw = false;
    in_bool(body, "raw", &raw);
    in_refuse(body, refused);
    if (body->fault->status)
        return;
    if (raw) {
        spec_prompt_text(g, prompt, strlen(prompt), body->fault);
        return;
    }
    chat->path = "prompt";
    chat->messages = json_array();
    if (system)
        json_array_append_new(chat->messages,
                              json_pack("{s:s, s:s}", "role", "system", "content", system));
    json_array_append_new(chat->messages,
                          json_pack("{s:s, s:s}", "role", "user", "content", prompt));
    chat_in_prompt(chat, g, body->fault);
}

void ollama_generate(struct conn *c)
{
    struct fault f = {0};
    struct chat_in chat = {0};
    json_t *body = json_body(c, &f);
    const bool is_done = asks_nothing(c, body, "prompt", "response");
    struct gen *g = body && !is_done ? openai_gen(c, &text_api, "", &f) : NULL;
    if (g) {
        const struct in in = {body, &f, NULL};
        options_in(g, &in);
        format_in(g, &in);
        think_in(&chat, &in);
        prompt_in(&chat, g, &in);
        gen_submit(g, &f);
    }
    finish(c, &chat, body, &f);
}

/* ---------------------------------------------------------------- models -------------------- */

static json_t *details(const struct server *s)
{
    const struct pg_model_info *m = &s->info;
    char size[24];
    const bool is_small = m->n_params < 1000000000;
    snprintf(size, sizeof(size), "%.1f%s", (double)m->n_params * (is_small ? 1e-6 : 1e-9),
             is_small ? "M" : "B");
    return json_pack("{s:s, s:s, s:s, s:[s], s:s, s:s}", "parent_model", "", "format", "gguf",
                     "family", m->arch, "families", m->arch, "parameter_size", size,
                     "quantization_level", m->file_type);
}

static json_t *model_json(const struct server *s)
{
    return json_pack("{s:s, s:s, s:o, s:I, s:s, s:o}", "name", s->model_id, "model", s->model_id,
                     "modified_at", stamp(s->created), "size", (json_int_t)s->info.file_bytes,
                     "digest", "", "details", details(s));
}

void ollama_tags(struct conn *c)
{
    reply_json(c, 200, json_pack("{s:[o]}", "models", model_json(c->server)));
}

void ollama_ps(struct conn *c)
{
    json_t *m = model_json(c->server);
    json_object_set_new(m, "size_vram", json_integer(0));
    json_object_set_new(m, "context_length", json_integer(c->server->n_ctx));
    json_object_set_new(m, "expires_at", stamp(c->server->created + 10 * 365 * 86400));
    reply_json(c, 200, json_pack("{s:[o]}", "models", m));
}

void ollama_show(struct conn *c)
{
    const struct server *s = c->server;
    char key[64];
    json_t *info = json_pack("{s:s, s:I}", "general.architecture", s->info.arch,
                             "general.parameter_count", (json_int_t)s->info.n_params);
    snprintf(key, sizeof(key), "%s.context_length", s->info.arch);
    json_object_set_new(info, key, json_integer(s->n_ctx));
    json_t *o =
        json_pack("{s:s, s:o, s:o, s:o, s:[s]}", "template", s->chat ? pg_chat_source(s->chat) : "",
                  "details", details(s), "model_info", info, "modified_at", stamp(s->created),
                  "capabilities", "completion");
    if (s->chat && strstr(pg_chat_source(s->chat), "tools"))
        json_array_append_new(json_object_get(o, "capabilities"), json_string("tools"));
    reply_json(c, 200, o);
}

void ollama_version(struct conn *c)
{
    reply_json(c, 200, json_pack("{s:s}", "version", OLLAMA_VERSION));
}
