/* SPDX-License-Identifier: MIT
 * POST /v1/responses, without a memory of earlier ones.
 *
 * An answer is a list of items: reasoning, a message, calls. In a stream each is announced, told in
 * pieces, told whole, and closed, before the next begins; events are numbered.
 */
#include "chat_in.h"
#include "openai.h"
#include "route.h"
#include "server.h"
#include "spec.h"
#include "sse.h"

#include <stdlib.h>
#include <string.h>

struct answer {
    json_t *frame;  /* the response, without what comes of generating */
    json_t *output; /* items that are done */
    int sequence;
    /* The item that is open. */
    bool is_open;
    enum piece_kind kind;
    int call;
    char item[40];
    struct bytes text;
};

static void answer_forget(void *state)
{
    struct answer *a = state;
    json_decref(a->frame);
    json_decref(a->output);
    bytes_fini(&a->text);
}

/* ---------------------------------------------------------------- items in ------------------ */

/* A text, or parts with texts. */
static json_t *text_of(const struct in *in, const char *key)
{
    const json_t *j = in_get(in, key);
    struct bytes all = {0};
    if (json_is_string(j))
        return json_string(json_string_value(j));
    if (j && (!json_is_array(j) || json_array_size(j) > LIMIT_PARTS))
        in_wrong(in, key, "a string or a list of at most %d parts is wanted", LIMIT_PARTS);
    for (size_t i = 0; i < json_array_size(j) && !in->fault->status; i++) {
        const struct in part = {json_array_get(j, i), in->fault, in->path};
        const char *text = in_text(&part, "text");
        if (!text)
            in_wrong(in, key, "part %zu is not text, and this model reads text alone", i);
        else if (!bytes_add(&all, text, strlen(text)))
            fault_set(in->fault, 503, NULL, "out of memory");
    }
    json_t *out = gen_text(&all);
    bytes_fini(&all);
    return out;
}

/* The message of the assistant at the end, which calls and messages that follow reasoning join. */
static json_t *assistant_at_end(json_t *messages)
{
    json_t *last = json_array_get(messages, json_array_size(messages) - 1);
    const char *role = json_string_value(json_object_get(last, "role"));
    if (json_array_size(messages) && role && !strcmp(role, "assistant"))
        return last;
    last = json_pack("{s:s, s:s}", "role", "assistant", "content", "");
    json_array_append_new(messages, last);
    return last;
}

static void call_in(json_t *messages, const struct in *item)
{
    json_t *message = assistant_at_end(messages);
    json_t *calls = json_object_get(message, "tool_calls");
    const char *id = in_text(item, "call_id"), *name = in_text(item, "name");
    const char *arguments = in_text(item, "arguments");
    if (!name)
        in_wrong(item, "name", "it is missing");
    if (!calls)
        json_object_set_new(message, "tool_calls", calls = json_array());
    json_array_append_new(calls,
                          json_pack("{s:s*, s:s, s:{s:s*, s:s*}}", "id", id, "type", "function",
                                    "function", "name", name, "arguments", arguments));
}

static void message_in(json_t *messages, const struct in *item)
{
    const char *role = in_text(item, "role");
    json_t *text = text_of(item, "content");
    json_t *last = json_array_get(messages, json_array_size(messages) - 1);
    const bool joins = role && !strcmp(role, "assistant") && json_array_size(messages) &&
                       json_object_get(last, "reasoning_content") &&
                       !json_string_length(json_object_get(last, "content"));
    if (!role)
        in_wrong(item, "role", "it is missing");
    if (joins)
        json_object_set_new(last, "content", text);
    else
        json_array_append_new(messages, json_pack("{s:s*, s:o}", "role", role, "content", text));
}

static void item_in(json_t *messages, const struct in *item)
{
    static const char *const types[] = {"message", "function_call", "function_call_output",
                                        "reasoning", NULL};
    json_t *text;
    switch (in_choice(item, "type", types)) {
    case 1:
        call_in(messages, item);
        break;
    case 2:
        json_array_append_new(messages, json_pack("{s:s, s:s*, s:o}", "role", "tool",
                                                  "tool_call_id", in_text(item, "call_id"),
                                                  "content", text_of(item, "output")));
        break;
    case 3:
        text = text_of(item, "content");
        if (json_string_length(text))
            json_object_set(assistant_at_end(messages), "reasoning_content", text);
        json_decref(text);
        break;
    default:
        message_in(messages, item);
    }
}

static void input_in(struct chat_in *chat, const struct in *body)
{
    const char *instructions = in_text(body, "instructions");
    const json_t *input = in_get(body, "input");
    chat->path = "input";
    chat->messages = json_array();
    if (instructions)
        json_array_append_new(chat->messages,
                              json_pack("{s:s, s:s}", "role", "system", "content", instructions));
    if (json_is_string(input))
        json_array_append_new(chat->messages, json_pack("{s:s, s:s}", "role", "user", "content",
                                                        json_string_value(input)));
    else if (!json_is_array(input) || json_array_size(input) > LIMIT_MESSAGES)
        in_wrong(body, "input", "a text or a list of at most %d items is wanted", LIMIT_MESSAGES);
    for (size_t i = 0; i < json_array_size(input) && !body->fault->status; i++) {
        char path[48];
        snprintf(path, sizeof(path), "input[%zu].", i);
        const json_t *item = json_array_get(input, i);
        if (!json_is_object(item))
            fault_set(body->fault, 400, "input", "input[%zu] is no object", i);
        item_in(chat->messages, &(struct in){item, body->fault, path});
    }
}

/* Tools that OpenAI runs itself are left out: the model is not told of them. */
static void tools_in(struct chat_in *chat, const struct in *body)
{
    const json_t *list = in_array(body, "tools", LIMIT_TOOLS);
    chat->tools = json_array();
    for (size_t i = 0; i < json_array_size(list) && !body->fault->status; i++) {
        char path[48];
        snprintf(path, sizeof(path), "tools[%zu].", i);
        const struct in tool = {json_array_get(list, i), body->fault, path};
        const char *type = in_text(&tool, "type");
        if (type && strcmp(type, "function"))
            continue;
        json_array_append_new(chat->tools,
                              json_pack("{s:s, s:{s:s*, s:s*, s:O*}}", "type", "function",
                                        "function", "name", in_text(&tool, "name"), "description",
                                        in_text(&tool, "description"), "parameters",
                                        in_object(&tool, "parameters")));
    }
}

static void choice_in(struct chat_in *chat, const struct in *body)
{
    static const char *const names[] = {"auto", "none", "required", NULL};
    static const char *const types[] = {"function", NULL};
    json_t *j = in_get(body, "tool_choice");
    if (json_is_object(j)) {
        const struct in choice = {j, body->fault, "tool_choice."};
        in_choice(&choice, "type", types);
        chat->choice = TOOLS_NAMED;
        chat->tool = in_text(&choice, "name");
        if (!chat->tool)
            in_wrong(&choice, "name", "it is missing");
        return;
    }
    const int choice = in_choice(body, "tool_choice", names);
    chat->choice = choice < 0 ? TOOLS_AUTO : (enum tool_choice)choice;
}

static void format_in(struct gen *g, const struct in *body)
{
    static const char *const types[] = {"text", "json_object", "json_schema", NULL};
    const struct in text = {in_object(body, "text"), body->fault, "text."};
    const struct in format = {in_object(&text, "format"), body->fault, "text.format."};
    const int type = format.object ? in_choice(&format, "type", types) : 0;
    const json_t *schema = in_object(&format, "schema");
    if (type == 2 && !schema)
        in_wrong(&format, "schema", "it is missing");
    if (type > 0)
        spec_schema(g, &format, "type", type == 2 ? schema : NULL);
}

/* The response as far as it is the request's. */
static json_t *frame_of(const struct gen *g, const struct in *body)
{
    static const char *const echoed[] = {
        "instructions", "max_output_tokens", "metadata", "parallel_tool_calls",
        "temperature",  "tool_choice",       "tools",    "top_p",
        "text",         "reasoning",         "user",     NULL};
    json_t *o = json_pack("{s:s, s:s, s:I, s:s, s:s, s:b, s:n, s:n, s:n, s:b, s:s, s:n}", "id",
                          g->id, "object", "response", "created_at", (json_int_t)g->created,
                          "status", "in_progress", "model", g->server->model_id, "background", 0,
                          "error", "incomplete_details", "previous_response_id", "store", 0,
                          "truncation", "disabled", "usage");
    for (int i = 0; echoed[i]; i++) {
        json_t *v = json_object_get(body->object, echoed[i]);
        json_object_set(o, echoed[i], v ? v : json_null());
    }
    json_t *defaults =
        json_pack("{s:b, s:f, s:s, s:[], s:f, s:{s:{s:s}}, s:{}}", "parallel_tool_calls", 1,
                  "temperature", 1.0, "tool_choice", "auto", "tools", "top_p", 1.0, "text",
                  "format", "type", "text", "metadata");
    const char *key;
    json_t *value;
    json_object_foreach(defaults, key, value) if (json_is_null(json_object_get(o, key)))
        json_object_set(o, key, value);
    json_decref(defaults);
    json_object_set_new(o, "output", json_array());
    return o;
}

/* ---------------------------------------------------------------- items out ----------------- */

static json_t *part_json(const char *type, json_t *text)
{
    if (!strcmp(type, "reasoning_text"))
        return json_pack("{s:s, s:o}", "type", type, "text", text);
    return json_pack("{s:s, s:o, s:[], s:[]}", "type", type, "text", text, "annotations",
                     "logprobs");
}

/* An item; text NULL while it has only begun. */
static json_t *item_json(enum piece_kind kind, const char *id, const struct call *call,
                         json_t *text, bool cut)
{
    const char *status = !text ? "in_progress" : cut ? "incomplete" : "completed";
    json_t *content = json_array();
    if (kind == PIECE_CALL) {
        json_decref(content);
        return json_pack("{s:s, s:s, s:s, s:s, s:s, s:o}", "id", id, "type", "function_call",
                         "status", status, "call_id", call->id, "name", call->name, "arguments",
                         text ? text : json_string(""));
    }
    if (text)
        json_array_append_new(
            content, part_json(kind == PIECE_TEXT ? "output_text" : "reasoning_text", text));
    if (kind == PIECE_REASONING)
        return json_pack("{s:s, s:s, s:s, s:[], s:o}", "id", id, "type", "reasoning", "status",
                         status, "summary", "content", content);
    return json_pack("{s:s, s:s, s:s, s:s, s:o}", "id", id, "type", "message", "status", status,
                     "role", "assistant", "content", content);
}

static void tell(struct gen *g, const char *type, json_t *j)
{
    struct answer *a = g->state;
    json_t *o = json_pack("{s:s, s:i}", "type", type, "sequence_number", a->sequence++);
    json_object_update(o, j);
    json_decref(j);
    sse_send(g->conn, type, o);
}

/* An event of the item that is open, with one field of its own. */
static json_t *of_item(const struct answer *a, const char *key, json_t *value)
{
    json_t *j = json_pack("{s:s, s:i, s:o}", "item_id", a->item, "output_index",
                          (int)json_array_size(a->output), key, value);
    if (a->kind != PIECE_CALL)
        json_object_set_new(j, "content_index", json_integer(0));
    return j;
}

static json_t *item_event(const struct answer *a, json_t *item)
{
    return json_pack("{s:i, s:o}", "output_index", (int)json_array_size(a->output), "item", item);
}

/* cut: the answer ended in it, for want of room. */
static void item_close(struct gen *g, const struct choice *c, bool cut)
{
    struct answer *a = g->state;
    const struct call *call = a->kind == PIECE_CALL ? &c->calls[a->call] : NULL;
    json_t *text = gen_text(&a->text);
    if (!a->is_open) {
        json_decref(text);
        return;
    }
    if (a->kind == PIECE_CALL) {
        tell(g, "response.function_call_arguments.done",
             of_item(a, "arguments", json_incref(text)));
    } else {
        const bool is_text = a->kind == PIECE_TEXT;
        json_t *done = of_item(a, "text", json_incref(text));
        if (is_text)
            json_object_set_new(done, "logprobs", json_array());
        tell(g, is_text ? "response.output_text.done" : "response.reasoning_text.done", done);
        tell(g, "response.content_part.done",
             of_item(a, "part",
                     part_json(is_text ? "output_text" : "reasoning_text", json_incref(text))));
    }
    json_t *item = item_json(a->kind, a->item, call, text, cut);
    tell(g, "response.output_item.done", item_event(a, json_incref(item)));
    json_array_append_new(a->output, item);
    a->is_open = false;
    a->text.n = 0;
}

static void item_open(struct gen *g, const struct choice *c, const struct piece *p)
{
    struct answer *a = g->state;
    item_close(g, c, false);
    a->is_open = true;
    a->kind = p->kind == PIECE_ARGUMENTS ? PIECE_CALL : p->kind;
    a->call = p->call;
    const struct call *call = a->kind == PIECE_CALL ? &c->calls[a->call] : NULL;
    server_id(a->item, sizeof(a->item), call ? "fc_" : a->kind == PIECE_TEXT ? "msg_" : "rs_");
    tell(g, "response.output_item.added",
         item_event(a, item_json(a->kind, a->item, call, NULL, false)));
    if (!call)
        tell(g, "response.content_part.added",
             of_item(a, "part",
                     part_json(a->kind == PIECE_TEXT ? "output_text" : "reasoning_text",
                               json_string(""))));
}

static void answer_open(struct gen *g)
{
    struct answer *a = g->state;
    conn_stream(g->conn, SSE_TYPE);
    tell(g, "response.created", json_pack("{s:o}", "response", json_deep_copy(a->frame)));
    tell(g, "response.in_progress", json_pack("{s:o}", "response", json_deep_copy(a->frame)));
}

static void answer_part(struct gen *g, struct choice *c, const struct piece *p)
{
    static const char *const deltas[] = {[PIECE_TEXT] = "response.output_text.delta",
                                         [PIECE_REASONING] = "response.reasoning_text.delta",
                                         [PIECE_ARGUMENTS] =
                                             "response.function_call_arguments.delta"};
    struct answer *a = g->state;
    const bool goes_on =
        a->is_open && (p->kind == PIECE_ARGUMENTS ? a->kind == PIECE_CALL && a->call == p->call
                                                  : a->kind == p->kind && p->kind != PIECE_CALL);
    if (!goes_on)
        item_open(g, c, p);
    if (p->kind == PIECE_CALL)
        return;
    bytes_add(&a->text, p->text, p->n);
    json_t *delta = of_item(a, "delta", json_stringn(p->text, p->n));
    if (p->kind == PIECE_TEXT)
        json_object_set_new(delta, "logprobs", json_array());
    tell(g, deltas[p->kind], delta);
}

static json_t *usage(const struct gen *g)
{
    const int n_prompt = gen_n_prompt(g), n_predicted = gen_n_predicted(g);
    return json_pack("{s:i, s:{s:i, s:i}, s:i, s:{s:i}, s:i}", "input_tokens", n_prompt,
                     "input_tokens_details", "cached_tokens", gen_n_reused(g), "cache_write_tokens",
                     0, "output_tokens", n_predicted, "output_tokens_details", "reasoning_tokens",
                     0, "total_tokens", n_prompt + n_predicted);
}

static json_t *whole_output(const struct choice *c, bool cut)
{
    const bool has_text = c->text.n || (!c->n_calls && !(cut && c->reasoning.n));
    json_t *list = json_array();
    char id[40];
    server_id(id, sizeof(id), "rs_");
    if (c->reasoning.n)
        json_array_append_new(list, item_json(PIECE_REASONING, id, NULL, gen_text(&c->reasoning),
                                              cut && !has_text && !c->n_calls));
    server_id(id, sizeof(id), "msg_");
    if (has_text)
        json_array_append_new(
            list, item_json(PIECE_TEXT, id, NULL, gen_text(&c->text), cut && !c->n_calls));
    for (int i = 0; i < c->n_calls; i++) {
        server_id(id, sizeof(id), "fc_");
        json_array_append_new(list, item_json(PIECE_CALL, id, &c->calls[i],
                                              gen_text(&c->calls[i].arguments),
                                              cut && i == c->n_calls - 1));
    }
    return list;
}

static void answer_end(struct gen *g)
{
    struct answer *a = g->state;
    const struct choice *c = &g->choice[0];
    const bool cut = !strcmp(gen_finish_reason(c), "length");
    if (g->stream)
        item_close(g, c, cut);
    json_t *r = json_copy(a->frame);
    json_object_set_new(r, "status", json_string(cut ? "incomplete" : "completed"));
    if (cut)
        json_object_set_new(r, "incomplete_details",
                            json_pack("{s:s}", "reason", "max_output_tokens"));
    json_object_set_new(r, "output", g->stream ? json_incref(a->output) : whole_output(c, cut));
    json_object_set_new(r, "usage", usage(g));
    if (g->stream)
        tell(g, cut ? "response.incomplete" : "response.completed",
             json_pack("{s:o}", "response", r));
    else
        reply_json(g->conn, 200, r);
}

static void answer_error(struct gen *g, const struct fault *f)
{
    const struct answer *a = g->state;
    json_t *r = json_copy(a->frame);
    json_object_set_new(r, "status", json_string("failed"));
    json_object_set(r, "output", a->output);
    json_object_set_new(
        r, "error",
        json_pack("{s:s, s:s}", "code", f->code ? f->code : "server_error", "message", f->text));
    tell(g, "response.failed", json_pack("{s:o}", "response", r));
}

static const struct gen_api answer_api = {.open = answer_open,
                                          .part = answer_part,
                                          .end = answer_end,
                                          .error = answer_error,
                                          .forget = answer_forget,
                                          .ping = ": ping\n\n"};

/* ---------------------------------------------------------------- the request --------------- */

/* More that the response may have; what is of tools that are not here is passed over. */
static void include_in(const struct in *body)
{
    const json_t *list = in_array(body, "include", LIMIT_PARTS);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *name = json_string_value(json_array_get(list, i));
        if (name && !strcmp(name, "message.output_text.logprobs"))
            in_wrong(body, "include", "%s is not supported", name);
    }
}

static void body_in(struct chat_in *chat, struct gen *g, const struct in *body)
{
    static const char *const refused[] = {
        "previous_response_id", "conversation", "background", "prompt",
        "max_tool_calls",       "top_logprobs", NULL};
    struct answer *a = calloc(1, sizeof(*a));
    const struct in reasoning = {in_object(body, "reasoning"), body->fault, "reasoning."};
    bool parallel = true;
    g->state = a;
    if (!a) {
        fault_set(body->fault, 503, NULL, "out of memory");
        return;
    }
    a->output = json_array();
    a->frame = frame_of(g, body);
    spec_defaults_openai(g);
    spec_sampling(g, body);
    in_refuse(body, refused);
    include_in(body);
    in_bool(body, "stream", &g->stream);
    in_bool(body, "parallel_tool_calls", &parallel);
    g->one_call = !parallel;
    in_int32(body, "max_output_tokens", 1, INT32_MAX, &g->n_predict);
    format_in(g, body);
    chat_in_variables(chat, body, in_text(&reasoning, "effort"));
    input_in(chat, body);
    tools_in(chat, body);
    choice_in(chat, body);
}

void openai_responses(struct conn *c)
{
    const struct chat_way way = {&answer_api, "resp_", body_in};
    chat_in_serve(c, &way);
}
