/* SPDX-License-Identifier: MIT
 * What clients send is checked here, so that a template sees well-formed messages, and a request
 * that is none is refused with the member's name.
 */
#include "text/chat_request.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { NESTED = 64 }; /* lists and objects in each other, of a request or of arguments */

static int no_memory(struct pg_err *err)
{
    return pg_fail(err, PG_ENOMEM, "out of memory for a request");
}

/* Before it is parsed: the parser goes as deep as a text goes. */
static bool too_deep(const char *s, size_t n)
{
    int depth = 0;
    bool quoted = false;
    for (size_t i = 0; i < n && depth <= NESTED; i++)
        if (quoted && s[i] == '\\')
            i++;
        else if (s[i] == '"')
            quoted = !quoted;
        else if (!quoted)
            depth += (s[i] == '[' || s[i] == '{') - (s[i] == ']' || s[i] == '}');
    return depth > NESTED;
}

static int parse(json_t **out, const char *s, size_t n, struct pg_err *err)
{
    *out = NULL;
    if (too_deep(s, n))
        return pg_fail(err, PG_EARG, "the request is nested deeper than %d", NESTED);
    int rc = pg_json_parse(out, s, n, err);
    return rc == PG_EFORMAT ? pg_fail_in(err, PG_EARG, "the request") : rc;
}

static int wrong(const char *what, const json_t *found, const char *wanted, struct pg_err *err)
{
    return pg_fail(err, PG_EARG, "%s: %s found, %s wanted", what, pg_json_kind(found), wanted);
}

/* ---- messages ---- */

static int add_choice(struct pg_chat_request *q, struct pg_chat_choice c, struct pg_err *err)
{
    if (c.form[1] && q->n == q->cap) {
        size_t cap = 2 * q->cap + 8;
        struct pg_chat_choice *more = realloc(q->choice, cap * sizeof(*more));
        if (more) {
            q->choice = more;
            q->cap = cap;
        }
    }
    if (!c.form[1] || q->n == q->cap) {
        json_decref(c.form[0]);
        json_decref(c.form[1]);
        return no_memory(err);
    }
    q->choice[q->n++] = c;
    return 0;
}

/* Arguments come as the text of an object; most templates want to write the object themselves. */
static int check_arguments(struct pg_chat_request *q, json_t *function, struct pg_err *err)
{
    json_t *text = json_object_get(function, "arguments"), *object;
    if (!json_is_string(text))
        return 0;
    const char *s = json_string_value(text);
    size_t n = json_string_length(text);
    if (s[strspn(s, " \t\r\n")] != '{' || too_deep(s, n))
        return 0;
    int rc = pg_json_parse(&object, s, n, err);
    if (rc)
        return rc == PG_EFORMAT ? 0 : rc;
    q->has_arguments = true;
    return add_choice(
        q, (struct pg_chat_choice){function, "arguments", {object, json_incref(text)}}, err);
}

static int check_calls(struct pg_chat_request *q, json_t *message, struct pg_err *err)
{
    json_t *calls = json_object_get(message, "tool_calls"), *call;
    size_t i;
    if (calls && !json_is_null(calls) && !json_is_array(calls))
        return wrong("tool_calls", calls, "a list", err);
    json_array_foreach(calls, i, call)
    {
        json_t *function = json_object_get(call, "function");
        if (!json_is_object(call))
            return wrong("tool_calls", call, "a list of objects", err);
        PG_TRY(check_arguments(q, json_is_object(function) ? function : call, err));
    }
    json_t *function = json_object_get(message, "function_call");
    return json_is_object(function) ? check_arguments(q, function, err) : 0;
}

static int check_part(const json_t *part, struct pg_err *err)
{
    const json_t *type = json_object_get(part, "type");
    const char *name = json_string_value(type);
    if (!json_is_object(part))
        return wrong("a part of content", part, "an object", err);
    if (!name)
        return wrong("the type of a part of content", type, "a text", err);
    if (strcmp(name, "text") != 0)
        return pg_fail(err, PG_ENOTSUP, "content has a part of type '%s', wanted 'text'",
                       pg_quote(name, strlen(name)).s);
    if (!json_is_string(json_object_get(part, "text")))
        return wrong("the text of a part of content", json_object_get(part, "text"), "a text", err);
    return 0;
}

static int check_content(struct pg_chat_request *q, json_t *message, struct pg_err *err)
{
    json_t *content = json_object_get(message, "content"), *part;
    size_t i;
    if (json_is_null(content)) {
        q->has_nulls = true;
        return add_choice(
            q, (struct pg_chat_choice){message, "content", {json_null(), json_string("")}}, err);
    }
    if (content && !json_is_string(content) && !json_is_array(content))
        return wrong("content", content, "a text, null or a list of parts", err);
    json_array_foreach(content, i, part) PG_TRY(check_part(part, err));
    return 0;
}

static int check_messages(struct pg_chat_request *q, struct pg_err *err)
{
    json_t *messages = json_object_get(q->vars, "messages"), *m;
    size_t i;
    if (!json_is_array(messages))
        return wrong("messages", messages, "a list", err);
    json_array_foreach(messages, i, m)
    {
        if (!json_is_object(m))
            return wrong("messages", m, "a list of objects", err);
        if (!json_is_string(json_object_get(m, "role")))
            return wrong("the role of a message", json_object_get(m, "role"), "a text", err);
        PG_TRY(check_content(q, m, err));
        PG_TRY(check_calls(q, m, err));
    }
    return 0;
}

/* ---- the other members ---- */

static int set_new(json_t *o, const char *name, json_t *value, struct pg_err *err)
{
    return json_object_set_new(o, name, value) ? no_memory(err) : 0;
}

static int check_tools(struct pg_chat_request *q, struct pg_err *err)
{
    const json_t *tools = json_object_get(q->vars, "tools");
    if (tools && !json_is_null(tools) && !json_is_array(tools))
        return wrong("tools", tools, "a list", err);
    q->has_tools = json_array_size(tools) > 0;
    return q->has_tools ? 0 : set_new(q->vars, "tools", json_null(), err);
}

static int check_prompt(struct pg_chat_request *q, struct pg_err *err)
{
    const json_t *prompt = json_object_get(q->vars, "add_generation_prompt");
    if (prompt && !json_is_boolean(prompt))
        return wrong("add_generation_prompt", prompt, "true or false", err);
    return prompt ? 0 : set_new(q->vars, "add_generation_prompt", json_true(), err);
}

static int check_now(struct pg_chat_request *q, struct pg_err *err)
{
    const json_t *now = json_object_get(q->vars, "now");
    struct tm tm = {0};
    if (!now) {
        q->now = (int64_t)time(NULL);
    } else if (json_is_integer(now)) {
        q->now = json_integer_value(now);
    } else {
        const char *s = json_string_value(now), *end = s ? strptime(s, "%Y-%m-%d", &tm) : NULL;
        if (!end || (*end && *end != 'T'))
            return wrong("now", now, "seconds since 1970 or a date as 2025-12-31", err);
        q->now = (int64_t)timegm(&tm);
    }
    return 0;
}

static int check_all(struct pg_chat_request *q, struct pg_err *err)
{
    if (!json_is_object(q->vars))
        return wrong("the request", q->vars, "an object", err);
    PG_TRY(check_messages(q, err));
    PG_TRY(check_tools(q, err));
    PG_TRY(check_prompt(q, err));
    PG_TRY(check_now(q, err));
    /* What Hugging Face defines in any case. */
    return json_object_get(q->vars, "documents") ? 0
                                                 : set_new(q->vars, "documents", json_null(), err);
}

int pg_chat_request_open(struct pg_chat_request *out, const char *text, size_t n,
                         struct pg_err *err)
{
    *out = (struct pg_chat_request){.n_bytes = n};
    int rc = parse(&out->vars, text, n, err);
    rc = rc ? rc : check_all(out, err);
    if (rc)
        pg_chat_request_close(out);
    return rc;
}

void pg_chat_request_close(struct pg_chat_request *q)
{
    for (size_t i = 0; i < q->n; i++) {
        json_decref(q->choice[i].form[0]);
        json_decref(q->choice[i].form[1]);
    }
    free(q->choice);
    json_decref(q->vars);
    *q = (struct pg_chat_request){0};
}

/* ---- forms ---- */

static json_t *joined(const json_t *parts)
{
    const json_t *part;
    size_t i, n = 0, at = 0;
    json_array_foreach(parts, i, part) n += json_string_length(json_object_get(part, "text")) + 1;
    char *s = malloc(n + 1);
    json_array_foreach(parts, i, part)
    {
        const json_t *text = json_object_get(part, "text");
        if (!s)
            return NULL;
        if (i)
            s[at++] = '\n';
        memcpy(s + at, json_string_value(text), json_string_length(text));
        at += json_string_length(text);
    }
    json_t *out = s ? json_stringn(s, at) : NULL;
    free(s);
    return out;
}

int pg_chat_request_parts(struct pg_chat_request *q, enum pg_chat_parts how, struct pg_err *err)
{
    const json_t *messages = json_object_get(q->vars, "messages");
    json_t *m;
    size_t i;
    json_array_foreach(messages, i, m)
    {
        json_t *content = json_object_get(m, "content");
        if (how == PG_CHAT_TEXTS && json_is_array(content))
            PG_TRY(set_new(m, "content", joined(content), err));
        else if (how == PG_CHAT_PARTS && json_is_string(content))
            PG_TRY(set_new(m, "content", json_pack("[{s:s,s:O}]", "type", "text", "text", content),
                           err));
    }
    return 0;
}

int pg_chat_request_choose(struct pg_chat_request *q, int nulls, int arguments, struct pg_err *err)
{
    for (size_t i = 0; i < q->n; i++) {
        const struct pg_chat_choice *c = &q->choice[i];
        json_t *form = c->form[c->name[0] == 'a' ? arguments : nulls];
        if (json_object_set(c->in, c->name, form))
            return no_memory(err);
    }
    return 0;
}
