/* SPDX-License-Identifier: MIT
 * POST /v1/messages and /v1/messages/count_tokens, as Anthropic's API has them.
 */
#include "chat_in.h"
#include "openai.h"
#include "route.h"
#include "server.h"
#include "spec.h"
#include "sse.h"

#include <stdlib.h>
#include <string.h>

/* ---------------------------------------------------------------- messages in --------------- */

/* Agents put a line in front that changes with each request, and no prefix would ever be found
 * again. It is about billing and nothing that the model should read. */
static const char *without_billing(const char *text)
{
    static const char sign[] = "x-anthropic-billing-header:";
    if (strncmp(text, sign, sizeof(sign) - 1) != 0)
        return text;
    text += strcspn(text, "\n");
    return text + strspn(text, "\n");
}

static void add_text(struct bytes *all, const char *text, struct fault *f)
{
    if (all->n && !bytes_add(all, "\n", 1))
        fault_set(f, 503, NULL, "out of memory");
    if (!bytes_add(all, text, strlen(text)))
        fault_set(f, 503, NULL, "out of memory");
}

/* A string, or blocks of text, as one text. */
static json_t *text_of(const struct in *in, const char *key, bool is_system)
{
    json_t *j = in_get(in, key);
    struct bytes all = {0};
    if (json_is_string(j)) {
        const char *text = json_string_value(j);
        return json_string(is_system ? without_billing(text) : text);
    }
    if (j && (!json_is_array(j) || json_array_size(j) > LIMIT_PARTS))
        in_wrong(in, key, "a string or a list of at most %d blocks is wanted", LIMIT_PARTS);
    for (size_t i = 0; i < json_array_size(j) && !in->fault->status; i++) {
        const struct in block = {json_array_get(j, i), in->fault, in->path};
        const char *text = in_text(&block, "text");
        if (!text)
            in_wrong(in, key, "block %zu is not text, and this model reads text alone", i);
        else if (*(text = is_system ? without_billing(text) : text))
            add_text(&all, text, in->fault);
    }
    json_t *out = gen_text(&all);
    bytes_fini(&all);
    return out;
}

/* What the blocks of one message become: results of tools come first, as messages of their own. */
struct turn {
    struct bytes text, reasoning;
    json_t *calls, *out;
};

static void block_in(struct turn *t, const struct in *block)
{
    static const char *const types[] = {"text",     "tool_use",          "tool_result",
                                        "thinking", "redacted_thinking", NULL};
    const char *text, *id, *name;
    switch (in_choice(block, "type", types)) {
    case 0:
        text = in_text(block, "text");
        add_text(&t->text, text ? text : "", block->fault);
        break;
    case 1:
        id = in_text(block, "id");
        name = in_text(block, "name");
        if (!name)
            in_wrong(block, "name", "it is missing");
        else
            json_array_append_new(t->calls, json_pack("{s:s*, s:s, s:{s:s, s:O*}}", "id", id,
                                                      "type", "function", "function", "name", name,
                                                      "arguments", in_object(block, "input")));
        break;
    case 2:
        id = in_text(block, "tool_use_id");
        json_array_append_new(t->out, json_pack("{s:s, s:s*, s:o}", "role", "tool", "tool_call_id",
                                                id, "content", text_of(block, "content", false)));
        break;
    case 3:
        text = in_text(block, "thinking");
        add_text(&t->reasoning, text ? text : "", block->fault);
        break;
    case 4:
        break;
    default:
        in_wrong(block, "type", "it is missing");
    }
}

static void message_in(json_t *out, const struct in *m)
{
    static const char *const roles[] = {"user", "assistant", "system", NULL};
    const int role = in_choice(m, "role", roles);
    json_t *content = in_get(m, "content");
    if (role < 0 || (!json_is_string(content) && !json_is_array(content)))
        in_wrong(m, role < 0 ? "role" : "content", "it is missing, or of another type");
    if (m->fault->status)
        return;
    if (json_is_string(content)) {
        json_array_append_new(out,
                              json_pack("{s:s, s:O}", "role", roles[role], "content", content));
        return;
    }
    struct turn t = {.calls = json_array(), .out = out};
    const size_t before = json_array_size(out);
    if (json_array_size(content) > LIMIT_PARTS)
        in_wrong(m, "content", "there are more than %d blocks", LIMIT_PARTS);
    for (size_t i = 0; i < json_array_size(content) && !m->fault->status; i++)
        block_in(&t, &(struct in){json_array_get(content, i), m->fault, m->path});
    if (t.text.n || json_array_size(t.calls) || json_array_size(out) == before) {
        json_t *o = json_pack("{s:s, s:o}", "role", roles[role], "content", gen_text(&t.text));
        if (t.reasoning.n)
            json_object_set_new(o, "reasoning_content", gen_text(&t.reasoning));
        if (json_array_size(t.calls))
            json_object_set(o, "tool_calls", t.calls);
        json_array_append_new(out, o);
    }
    json_decref(t.calls);
    bytes_fini(&t.text);
    bytes_fini(&t.reasoning);
}

static void messages_in(struct chat_in *chat, const struct in *body)
{
    json_t *system = text_of(body, "system", true);
    const json_t *list = in_array(body, "messages", LIMIT_MESSAGES);
    chat->path = "messages";
    chat->messages = json_array();
    if (json_string_length(system))
        json_array_append_new(chat->messages,
                              json_pack("{s:s, s:O}", "role", "system", "content", system));
    json_decref(system);
    if (!list)
        in_wrong(body, "messages", "a list of messages is wanted");
    for (size_t i = 0; i < json_array_size(list) && !body->fault->status; i++) {
        char path[48];
        snprintf(path, sizeof(path), "messages[%zu].", i);
        message_in(chat->messages, &(struct in){json_array_get(list, i), body->fault, path});
    }
}

/* ---------------------------------------------------------------- tools in ------------------ */

static void tools_in(struct chat_in *chat, const struct in *body)
{
    const json_t *list = in_array(body, "tools", LIMIT_TOOLS);
    chat->tools = json_array();
    for (size_t i = 0; i < json_array_size(list) && !body->fault->status; i++) {
        char path[48];
        snprintf(path, sizeof(path), "tools[%zu].", i);
        const struct in tool = {json_array_get(list, i), body->fault, path};
        const char *type = in_text(&tool, "type"), *name = in_text(&tool, "name");
        if (type && strcmp(type, "custom"))
            in_wrong(&tool, "type", "\"%.40s\" would run here, and nothing does", type);
        json_array_append_new(
            chat->tools, json_pack("{s:s, s:{s:s*, s:s*, s:O*}}", "type", "function", "function",
                                   "name", name, "description", in_text(&tool, "description"),
                                   "parameters", in_object(&tool, "input_schema")));
    }
}

static void choice_in(struct chat_in *chat, struct gen *g, const struct in *body)
{
    static const char *const types[] = {"auto", "none", "any", "tool", NULL};
    const struct in choice = {in_object(body, "tool_choice"), body->fault, "tool_choice."};
    const int type = in_choice(&choice, "type", types);
    chat->choice = type < 0 ? TOOLS_AUTO : (enum tool_choice)type;
    in_bool(&choice, "disable_parallel_tool_use", &g->one_call);
    chat->tool = in_text(&choice, "name");
    if (chat->choice == TOOLS_NAMED && !chat->tool)
        in_wrong(&choice, "name", "it is missing");
}

static void thinking_in(struct chat_in *chat, const struct in *body)
{
    static const char *const types[] = {"disabled", "enabled", "adaptive", "between_tools", NULL};
    const struct in thinking = {in_object(body, "thinking"), body->fault, "thinking."};
    const int type = in_choice(&thinking, "type", types);
    chat->variables = json_object();
    if (type >= 0)
        json_object_set_new(chat->variables, "enable_thinking", json_boolean(type > 0));
}

/* ---------------------------------------------------------------- the answer ---------------- */

/* Of a stream: the block that is open. */
struct blocks {
    int index; /* the next one's */
    bool is_open;
    enum piece_kind kind;
    int call;
};

static const char *stop_reason(const struct choice *c)
{
    if (c->report.stop == PG_STOP_LENGTH)
        return "max_tokens";
    if (c->report.stop == PG_STOP_CONTEXT)
        return "model_context_window_exceeded";
    if (c->stopped)
        return "stop_sequence";
    return c->n_calls ? "tool_use" : "end_turn";
}

static json_t *usage(const struct gen *g)
{
    const int n_reused = gen_n_reused(g);
    return json_pack("{s:i, s:i, s:i, s:i}", "input_tokens", gen_n_prompt(g) - n_reused,
                     "cache_creation_input_tokens", 0, "cache_read_input_tokens", n_reused,
                     "output_tokens", gen_n_predicted(g));
}

static json_t *message(const struct gen *g, json_t *content)
{
    return json_pack("{s:s, s:s, s:s, s:s, s:o, s:n, s:n}", "id", g->id, "type", "message", "role",
                     "assistant", "model", g->server->model_id, "content", content, "stop_reason",
                     "stop_sequence");
}

static void message_open(struct gen *g)
{
    json_t *m = message(g, json_array());
    json_object_set_new(
        m, "usage",
        json_pack("{s:i, s:i}", "input_tokens", (int)g->prompt[0].n, "output_tokens", 0));
    conn_stream(g->conn, SSE_TYPE);
    sse_send(g->conn, "message_start",
             json_pack("{s:s, s:o}", "type", "message_start", "message", m));
    sse_send(g->conn, "ping", json_pack("{s:s}", "type", "ping"));
}

static void block_delta(struct gen *g, const char *type, const char *key, const char *text,
                        size_t n)
{
    const struct blocks *b = g->state;
    sse_send(g->conn, "content_block_delta",
             json_pack("{s:s, s:i, s:{s:s, s:s%}}", "type", "content_block_delta", "index",
                       b->index, "delta", "type", type, key, text, n));
}

static void block_close(struct gen *g)
{
    struct blocks *b = g->state;
    if (!b->is_open)
        return;
    if (b->kind == PIECE_REASONING)
        block_delta(g, "signature_delta", "signature", "", 0);
    sse_send(g->conn, "content_block_stop",
             json_pack("{s:s, s:i}", "type", "content_block_stop", "index", b->index));
    b->is_open = false;
    b->index++;
}

static void block_open(struct gen *g, const struct choice *c, const struct piece *p)
{
    struct blocks *b = g->state;
    json_t *block;
    block_close(g);
    *b =
        (struct blocks){b->index, true, p->kind == PIECE_ARGUMENTS ? PIECE_CALL : p->kind, p->call};
    if (p->kind == PIECE_TEXT)
        block = json_pack("{s:s, s:s}", "type", "text", "text", "");
    else if (p->kind == PIECE_REASONING)
        block = json_pack("{s:s, s:s, s:s}", "type", "thinking", "thinking", "", "signature", "");
    else
        block = json_pack("{s:s, s:s, s:s, s:{}}", "type", "tool_use", "id", c->calls[p->call].id,
                          "name", c->calls[p->call].name, "input");
    sse_send(g->conn, "content_block_start",
             json_pack("{s:s, s:i, s:o}", "type", "content_block_start", "index", b->index,
                       "content_block", block));
}

static void message_part(struct gen *g, struct choice *c, const struct piece *p)
{
    const struct blocks *b = g->state;
    const bool goes_on =
        b->is_open && (p->kind == PIECE_ARGUMENTS ? b->kind == PIECE_CALL && b->call == p->call
                                                  : b->kind == p->kind && p->kind != PIECE_CALL);
    if (!goes_on)
        block_open(g, c, p);
    if (p->kind == PIECE_TEXT)
        block_delta(g, "text_delta", "text", p->text, p->n);
    else if (p->kind == PIECE_REASONING)
        block_delta(g, "thinking_delta", "thinking", p->text, p->n);
    else if (p->kind == PIECE_ARGUMENTS)
        block_delta(g, "input_json_delta", "partial_json", p->text, p->n);
}

static json_t *input_of(const struct call *call)
{
    json_t *j = json_loadb(call->arguments.p ? call->arguments.p : "", call->arguments.n, 0, NULL);
    return j ? j : json_object();
}

static json_t *content_of(const struct choice *c)
{
    json_t *list = json_array();
    if (c->reasoning.n)
        json_array_append_new(list, json_pack("{s:s, s:o, s:s}", "type", "thinking", "thinking",
                                              gen_text(&c->reasoning), "signature", ""));
    if (c->text.n || !c->n_calls)
        json_array_append_new(list,
                              json_pack("{s:s, s:o}", "type", "text", "text", gen_text(&c->text)));
    for (int i = 0; i < c->n_calls; i++)
        json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:o}", "type", "tool_use", "id",
                                              c->calls[i].id, "name", c->calls[i].name, "input",
                                              input_of(&c->calls[i])));
    return list;
}

static void message_end(struct gen *g)
{
    const struct choice *c = &g->choice[0];
    if (!g->stream) {
        json_t *m = message(g, content_of(c));
        json_object_set_new(m, "stop_reason", json_string(stop_reason(c)));
        if (c->stopped)
            json_object_set_new(m, "stop_sequence", json_string(c->stopped));
        json_object_set_new(m, "usage", usage(g));
        reply_json(g->conn, 200, m);
        return;
    }
    block_close(g);
    sse_send(g->conn, "message_delta",
             json_pack("{s:s, s:{s:s, s:s?}, s:o}", "type", "message_delta", "delta", "stop_reason",
                       stop_reason(c), "stop_sequence", c->stopped, "usage", usage(g)));
    sse_send(g->conn, "message_stop", json_pack("{s:s}", "type", "message_stop"));
}

static void message_error(struct gen *g, const struct fault *f)
{
    sse_send(g->conn, "error", fault_json(g->conn, f));
}

static const struct gen_api message_api = {
    .open = message_open,
    .part = message_part,
    .end = message_end,
    .error = message_error,
    .ping = "event: ping\ndata: {\"type\": \"ping\"}\n\n",
};

/* ---------------------------------------------------------------- the request --------------- */

static void format_in(struct gen *g, const struct in *body)
{
    static const char *const types[] = {"json_schema", NULL};
    const struct in config = {in_object(body, "output_config"), body->fault, "output_config."};
    const struct in format = {in_object(&config, "format"), body->fault, "output_config.format."};
    if (format.object && in_choice(&format, "type", types) == 0)
        spec_schema(g, &format, "schema", in_object(&format, "schema"));
}

static void conversation_in(struct chat_in *chat, struct gen *g, const struct in *body)
{
    messages_in(chat, body);
    tools_in(chat, body);
    choice_in(chat, g, body);
    thinking_in(chat, body);
}

static void body_in(struct chat_in *chat, struct gen *g, const struct in *body)
{
    g->state = calloc(1, sizeof(struct blocks));
    if (!g->state)
        fault_set(body->fault, 503, NULL, "out of memory");
    spec_defaults_openai(g);
    spec_sampling(g, body);
    spec_stops(g, body, "stop_sequences", LIMIT_STOPS);
    in_bool(body, "stream", &g->stream);
    in_int32(body, "max_tokens", 1, INT32_MAX, &g->n_predict);
    g->clamps = true;
    if (!g->n_predict)
        in_wrong(body, "max_tokens", "it is missing");
    format_in(g, body);
    conversation_in(chat, g, body);
}

void anthropic_messages(struct conn *c)
{
    const struct chat_way way = {&message_api, "msg_", body_in};
    chat_in_serve(c, &way);
}

void anthropic_count(struct conn *c)
{
    struct fault f = {0};
    struct chat_in chat = {0};
    json_t *body = json_body(c, &f);
    struct gen *g = body ? openai_gen(c, NULL, "", &f) : NULL;
    if (g) {
        conversation_in(&chat, g, &(struct in){body, &f, NULL});
        chat_in_prompt(&chat, g, &f);
        if (!f.status)
            reply_json(c, 200, json_pack("{s:i}", "input_tokens", (int)g->prompt[0].n));
        gen_close(g);
    }
    if (f.status)
        fault_reply(c, &f);
    chat_in_fini(&chat);
    json_decref(body);
}
