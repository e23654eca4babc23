/* SPDX-License-Identifier: MIT */
#include "chat_in.h"
#include "openai.h"
#include "server.h"
#include "spec.h"
#include "tool_grammar.h"

#include <stdlib.h>
#include <string.h>

void chat_in_fini(struct chat_in *in)
{
    json_decref(in->messages);
    json_decref(in->tools);
    json_decref(in->variables);
    *in = (struct chat_in){0};
}

/* ---------------------------------------------------------------- messages ------------------ */

/* Text parts become one text: templates take a string. */
static json_t *content_of(const struct in *m)
{
    json_t *j = in_get(m, "content");
    struct bytes all = {0};
    if (!j || json_is_string(j))
        return j ? json_incref(j) : json_null();
    if (!json_is_array(j) || json_array_size(j) > LIMIT_PARTS) {
        in_wrong(m, "content", "a string or a list of at most %d parts is wanted", LIMIT_PARTS);
        return NULL;
    }
    for (size_t i = 0; i < json_array_size(j) && !m->fault->status; i++) {
        const struct in part = {json_array_get(j, i), m->fault, m->path};
        const char *type = in_text(&part, "type"), *text = in_text(&part, "text");
        if (!text || (type && strcmp(type, "text") && strcmp(type, "input_text") &&
                      strcmp(type, "output_text")))
            in_wrong(m, "content", "part %zu is not text, and this model reads text alone", i);
        else if (!bytes_add(&all, text, strlen(text)))
            fault_set(m->fault, 503, NULL, "out of memory");
    }
    json_t *text = json_stringn(all.p ? all.p : "", all.n);
    bytes_fini(&all);
    return text;
}

/* Templates want the arguments as an object; OpenAI's form has them as JSON in a string. */
static json_t *arguments_of(const struct in *function, struct conn *c)
{
    json_t *j = in_get(function, "arguments"), *object = NULL;
    if (!j)
        return json_object();
    if (json_is_string(j))
        object = json_inner(c, json_string_value(j), json_string_length(j), function->fault);
    if (object)
        return object;
    if (!json_is_string(j) && !json_is_object(j))
        in_wrong(function, "arguments", "a string with JSON, or an object, is wanted");
    return json_incref(j);
}

static void add_calls(json_t *message, const struct in *m, struct conn *c)
{
    const json_t *calls = in_array(m, "tool_calls", LIMIT_TOOLS);
    if (!json_array_size(calls))
        return;
    json_t *out = json_array();
    json_object_set_new(message, "tool_calls", out);
    for (size_t i = 0; i < json_array_size(calls) && !m->fault->status; i++) {
        const struct in call = {json_array_get(calls, i), m->fault, m->path};
        const struct in function = {in_object(&call, "function"), m->fault, m->path};
        const char *name = in_text(&function, "name"), *id = in_text(&call, "id");
        if (!name) {
            in_wrong(m, "tool_calls", "item %zu has no function with a name", i);
            return;
        }
        json_array_append_new(out, json_pack("{s:s*, s:s, s:{s:s, s:o}}", "id", id, "type",
                                             "function", "function", "name", name, "arguments",
                                             arguments_of(&function, c)));
    }
}

static json_t *message_of(const struct in *m, struct conn *c)
{
    static const char *const roles[] = {"system",    "user",     "assistant", "tool",
                                        "developer", "function", NULL};
    static const char *const theirs[] = {"system", "user", "assistant", "tool", "system", "tool"};
    static const char *const texts[] = {"name", "tool_call_id", "reasoning_content", NULL};
    const int role = in_choice(m, "role", roles);
    if (role < 0)
        in_wrong(m, "role", "it is missing");
    json_t *content = content_of(m);
    if (m->fault->status) {
        json_decref(content);
        return NULL;
    }
    json_t *out = json_pack("{s:s, s:o}", "role", theirs[role], "content", content);
    for (int i = 0; texts[i]; i++) {
        const char *text = in_text(m, texts[i]);
        if (text)
            json_object_set_new(out, texts[i], json_string(text));
    }
    add_calls(out, m, c);
    return out;
}

static bool is_assistant(const json_t *m)
{
    const char *role = json_string_value(json_object_get(m, "role"));
    return role && !strcmp(role, "assistant") && !json_object_get(m, "tool_calls");
}

static bool is_system(const json_t *m)
{
    const char *role = json_string_value(json_object_get(m, "role"));
    return role && !strcmp(role, "system");
}

/* Templates know one system message, at the beginning: more of them there become one. Takes the
 * message if it does that. */
static bool join_system(json_t *messages, json_t *message)
{
    json_t *first = json_array_get(messages, 0);
    if (json_array_size(messages) != 1 || !is_system(first) || !is_system(message))
        return false;
    const char *a = json_string_value(json_object_get(first, "content"));
    const char *b = json_string_value(json_object_get(message, "content"));
    if (a && b)
        json_object_set_new(first, "content", json_sprintf("%s\n\n%s", a, b));
    json_decref(message);
    return true;
}

static json_t *messages_of(const struct chat_in *in, struct conn *c, struct fault *f)
{
    json_t *out = json_array();
    for (size_t i = 0; i < json_array_size(in->messages) && !f->status; i++) {
        char path[48];
        snprintf(path, sizeof(path), "%s[%zu].", in->path, i);
        const json_t *j = json_array_get(in->messages, i);
        const struct in m = {j, f, path};
        if (!json_is_object(j))
            fault_set(f, 400, in->path, "%s[%zu] is no object", in->path, i);
        json_t *message = f->status ? NULL : message_of(&m, c);
        if (message && !join_system(out, message))
            json_array_append_new(out, message);
    }
    /* Some clients end with an answer that has not begun. */
    const size_t n = json_array_size(out);
    const json_t *last = json_array_get(out, n - 1);
    if (n && is_assistant(last) && !json_string_length(json_object_get(last, "content")))
        json_array_remove(out, n - 1);
    if (!f->status && !json_array_size(out))
        fault_set(f, 400, in->path, "%s: there is no message", in->path);
    return out;
}

/* ---------------------------------------------------------------- tools --------------------- */

static bool name_is_good(const char *name)
{
    const size_t n = name ? strlen(name) : 0;
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)name[i] < ' ' || name[i] == '"' || name[i] == '\\')
            return false;
    return n > 0 && n <= LIMIT_TOOL_NAME;
}

static void check_tools(const struct chat_in *in, struct fault *f)
{
    bool found = in->choice != TOOLS_NAMED;
    for (size_t i = 0; i < json_array_size(in->tools) && !f->status; i++) {
        char path[48];
        snprintf(path, sizeof(path), "tools[%zu].", i);
        const struct in tool = {json_array_get(in->tools, i), f, path};
        const char *type = in_text(&tool, "type");
        const struct in function = {in_object(&tool, "function"), f, path};
        const char *name = in_text(&function, "name");
        in_object(&function, "parameters");
        in_text(&function, "description");
        if (type && strcmp(type, "function"))
            in_wrong(&tool, "type", "\"%.40s\" is not \"function\"", type);
        else if (!function.object || !name_is_good(name))
            in_wrong(&tool, "function", "a function with a name of 1 to %d characters is wanted",
                     LIMIT_TOOL_NAME);
        else
            found = found || !strcmp(name, in->tool);
    }
    if (!found)
        fault_set(f, 400, "tool_choice", "tool_choice: there is no tool \"%.64s\"", in->tool);
    if (in->choice == TOOLS_REQUIRED && !json_array_size(in->tools))
        fault_set(f, 400, "tool_choice", "tool_choice: a call is required, and there are no tools");
}

static void read_choice(struct chat_in *in, const struct in *body)
{
    static const char *const names[] = {"auto", "none", "required", NULL};
    json_t *j = in_get(body, "tool_choice");
    if (json_is_object(j)) {
        const struct in choice = {j, body->fault, "tool_choice."};
        const struct in function = {in_object(&choice, "function"), body->fault, "tool_choice."};
        in->tool = in_text(&function, "name");
        in->choice = TOOLS_NAMED;
        if (!in->tool)
            in_wrong(body, "tool_choice", "a function with a name is wanted");
        return;
    }
    const int choice = in_choice(body, "tool_choice", names);
    in->choice = choice < 0 ? TOOLS_AUTO : (enum tool_choice)choice;
}

/* ---------------------------------------------------------------- the body ------------------ */

void chat_in_variables(struct chat_in *in, const struct in *body, const char *effort)
{
    static const char *const ours[] = {"messages", "tools", "add_generation_prompt", NULL};
    json_t *given = in_object(body, "chat_template_kwargs");
    for (int i = 0; ours[i]; i++)
        if (json_object_get(given, ours[i]))
            in_wrong(body, "chat_template_kwargs", "%s has a field of its own", ours[i]);
    in->variables = json_object();
    if (effort)
        json_object_set_new(in->variables, "reasoning_effort", json_string(effort));
    if (given)
        json_object_update(in->variables, given);
}

void chat_in_read(struct chat_in *in, struct gen *g, const struct in *body)
{
    static const char *const formats[] = {"none", "auto", "deepseek", "deepseek-legacy", NULL};
    bool parallel = true, begins = true, goes_on = true;
    in->path = "messages";
    in->messages = json_incref(in_array(body, "messages", LIMIT_MESSAGES));
    in->tools = json_incref(in_array(body, "tools", LIMIT_TOOLS));
    if (!in->messages)
        in_wrong(body, "messages", "a list of messages is wanted");
    read_choice(in, body);
    chat_in_variables(in, body, in_text(body, "reasoning_effort"));
    in_bool(body, "parallel_tool_calls", &parallel);
    in_bool(body, "add_generation_prompt", &begins);
    in_bool(body, "continue_final_message", &goes_on);
    g->one_call = !parallel;
    g->inline_reasoning = in_choice(body, "reasoning_format", formats) == 0;
    in->no_generation = !begins;
    in->no_prefill = !goes_on;
}

/* ---------------------------------------------------------------- the prompt ---------------- */

/* The last message of the assistant, which the answer goes on from; a new reference. */
static json_t *take_prefill(const struct chat_in *in, json_t *messages)
{
    const size_t n = json_array_size(messages);
    json_t *last = json_array_get(messages, n - 1);
    if (in->no_prefill || n < 2 || !is_assistant(last))
        return NULL;
    json_t *text = json_incref(json_object_get(last, "content"));
    json_array_remove(messages, n - 1);
    return text;
}

static char *request_text(const struct chat_in *in, json_t *messages)
{
    json_t *o = in->variables ? json_copy(in->variables) : json_object();
    json_object_set(o, "messages", messages);
    if (json_array_size(in->tools) && in->choice != TOOLS_NONE)
        json_object_set(o, "tools", in->tools);
    json_object_set_new(o, "add_generation_prompt", json_boolean(!in->no_generation));
    char *text = json_dumps(o, JSON_COMPACT);
    json_decref(o);
    return text;
}

/* The template's text, and what is put behind it. */
struct prompt {
    struct pg_chat_text text; /* of the template */
    struct pg_chat_text whole;
    struct pg_segment *segments;
    char *joined[3]; /* texts of segments that are the template's last with more behind it */
    int n_joined;
    json_t *prefill; /* its text is a segment's */
};

static void prompt_fini(struct prompt *p)
{
    pg_chat_text_free(&p->text);
    free(p->segments);
    for (int i = 0; i < p->n_joined; i++)
        free(p->joined[i]);
    json_decref(p->prefill);
}

static bool prompt_begin(struct prompt *p)
{
    const size_t n = (size_t)p->text.n;
    p->segments = calloc(n + 3, sizeof(*p->segments));
    if (p->segments && n)
        memcpy(p->segments, p->text.segment, n * sizeof(*p->segments));
    p->whole = (struct pg_chat_text){p->segments, p->text.n};
    return p->segments != NULL;
}

/* At most three times. The text is borrowed. */
static bool prompt_append(struct prompt *p, const struct pg_segment *more)
{
    struct pg_segment *last = &p->segments[p->whole.n - 1];
    if (!more->n)
        return true;
    if (!p->whole.n || last->content != more->content) {
        p->segments[p->whole.n++] = *more;
        return true;
    }
    char *joined = malloc(last->n + more->n); /* neighbours differ in kind */
    if (!joined)
        return false;
    p->joined[p->n_joined++] = joined;
    memcpy(joined, last->text, last->n);
    memcpy(joined + last->n, more->text, more->n);
    *last = (struct pg_segment){joined, last->n + more->n, more->content};
    return true;
}

static bool prompt_join(struct prompt *p)
{
    const struct pg_segment more = {json_string_value(p->prefill), json_string_length(p->prefill),
                                    true};
    return prompt_begin(p) && prompt_append(p, &more);
}

static void prompt_make(struct prompt *p, struct chat_in *in, struct gen *g, struct fault *f)
{
    struct pg_err err = {0};
    if (!g->server->chat) {
        fault_set(f, 501, NULL, "%s; --chat-template FILE gives it one", g->server->chat_why);
        return;
    }
    json_t *messages = messages_of(in, g->conn, f);
    check_tools(in, f);
    char *request = NULL;
    if (!f->status) {
        p->prefill = take_prefill(in, messages);
        request = request_text(in, messages);
        if (!request)
            fault_set(f, 503, NULL, "out of memory");
        else if (pg_chat_render(g->server->chat, request, strlen(request), &p->text, &err))
            fault_of(f, &err);
        else if (!prompt_join(p))
            fault_set(f, 503, NULL, "out of memory");
    }
    json_decref(messages);
    free(request);
}

static size_t prompt_length(const struct prompt *p)
{
    size_t n = 0;
    for (int i = 0; i < p->whole.n; i++)
        n += p->whole.segment[i].n;
    return n;
}

static void tokenize(struct gen *g, const struct prompt *p, struct fault *f)
{
    struct pg_err err = {0};
    struct pg_ids ids = {.cap = prompt_length(p) + 16};
    int rc;
    if (ids.cap / PG_PIECE_MAX > (size_t)g->server->n_ctx) {
        fault_set(f, 400, "messages", "a prompt of %zu bytes is more than the context's %d tokens",
                  ids.cap, g->server->n_ctx);
        f->code = "context_length_exceeded";
        return;
    }
    do {
        free(ids.id);
        ids.id = calloc(ids.cap, sizeof(*ids.id));
        if (!ids.id) {
            fault_set(f, 503, NULL, "out of memory");
            return;
        }
        rc = pg_chat_tokenize(g->server->vocab, &p->whole, &ids, &err);
    } while (rc == PG_EARG && ids.n > ids.cap && (ids.cap = ids.n));
    gen_add_prompt(g, ids.id, rc ? 0 : ids.n);
    if (rc)
        fault_of(f, &err);
    else if (!ids.n)
        fault_set(f, 400, "messages", "the template makes an empty prompt of them");
}

static void keep_tail(struct gen *g, const struct prompt *p)
{
    for (int i = p->whole.n - 1; i >= 0 && g->n_tail < LIMIT_TAIL; i--) {
        const struct pg_segment *s = &p->whole.segment[i];
        const size_t room = LIMIT_TAIL - g->n_tail, n = s->n < room ? s->n : room;
        memmove(g->tail + n, g->tail, g->n_tail);
        memcpy(g->tail, s->text + s->n - n, n);
        g->n_tail += n;
    }
}

/* Whether the prompt ends inside of reasoning. */
static bool has_opened_thinking(const struct gen *g)
{
    static const char mark[] = "<think>";
    size_t n = g->n_tail;
    while (n && (g->tail[n - 1] == '\n' || g->tail[n - 1] == ' '))
        n--;
    return n >= sizeof(mark) - 1 &&
           !memcmp(g->tail + n - (sizeof(mark) - 1), mark, sizeof(mark) - 1);
}

/* An answer whose form is given begins at once. */
static void end_thinking(struct gen *g, struct prompt *p, struct fault *f)
{
    static const char mark[] = "\n</think>\n\n";
    const struct pg_segment done = {mark, has_opened_thinking(g) ? sizeof(mark) - 1 : 0, false};
    if (!done.n)
        return;
    if (!prompt_append(p, &done))
        fault_set(f, 503, NULL, "out of memory");
    g->n_tail = 0;
}

/* A call that is insisted on: its mark is in the prompt, and what follows is an object. */
static void force_call(struct chat_in *in, struct gen *g, struct prompt *p, struct fault *f)
{
    const char *mark = tool_grammar(g, in, f);
    const struct pg_segment more = {mark, mark ? strlen(mark) : 0, false};
    end_thinking(g, p, f);
    if (!f->status && !prompt_append(p, &more))
        fault_set(f, 503, NULL, "out of memory");
    g->n_tail = 0;
    g->forced = true;
}

void chat_in_prompt(struct chat_in *in, struct gen *g, struct fault *f)
{
    struct prompt p = {0};
    if (!f->status)
        prompt_make(&p, in, g, f);
    if (!f->status) {
        keep_tail(g, &p);
        g->is_chat = true;
        g->has_tools = json_array_size(in->tools) > 0 && in->choice != TOOLS_NONE;
        if (in->choice == TOOLS_REQUIRED || in->choice == TOOLS_NAMED)
            force_call(in, g, &p, f);
        else if (g->ends_thinking)
            end_thinking(g, &p, f);
    }
    if (!f->status)
        tokenize(g, &p, f);
    prompt_fini(&p);
}

char *chat_in_text(struct chat_in *in, struct gen *g, struct fault *f)
{
    struct prompt p = {0};
    struct bytes all = {0};
    prompt_make(&p, in, g, f);
    bool good = true;
    for (int i = 0; i < p.whole.n; i++)
        good = good && bytes_add(&all, p.whole.segment[i].text, p.whole.segment[i].n);
    if (!bytes_add(&all, "", 1) || !good)
        fault_set(f, 503, NULL, "out of memory");
    prompt_fini(&p);
    return all.p;
}

void chat_in_serve(struct conn *c, const struct chat_way *way)
{
    struct fault f = {0};
    struct chat_in chat = {0};
    json_t *body = json_body(c, &f);
    struct gen *g = body ? openai_gen(c, way->api, way->prefix, &f) : NULL;
    if (g) {
        way->read(&chat, g, &(struct in){body, &f, NULL});
        chat_in_prompt(&chat, g, &f);
        gen_submit(g, &f);
    }
    if (f.status)
        fault_reply(c, &f);
    chat_in_fini(&chat);
    json_decref(body);
}
