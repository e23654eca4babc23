/* SPDX-License-Identifier: MIT
 * The object around a call: {"name": …, "arguments": {…}}, its keys in any order, "parameters" as
 * good as "arguments". Of the arguments, and of values that nobody wants, only brackets and strings
 * are followed. An object that no mark announced must be nothing but a call.
 */
#include "text/reply_impl.h"

#include <string.h>

static bool is_word(const struct pg_word *w, const char *text)
{
    return w->n == strlen(text) && !memcmp(w->s, text, w->n);
}

/* Whether the object may go on behind this key. */
static bool key_done(pg_reply *r)
{
    const bool id = is_word(&r->word, "id") || is_word(&r->word, "type");
    r->key = PG_KEY_OTHER;
    if (is_word(&r->word, "name") && !r->has_name)
        r->key = PG_KEY_NAME;
    if ((is_word(&r->word, "arguments") || is_word(&r->word, "parameters")) && !r->has_args)
        r->key = PG_KEY_ARGS;
    r->json = PG_JSON_COLON;
    return r->key != PG_KEY_OTHER || !r->bare || r->sure || id;
}

/* A key or a name, up to the quotes behind it: 1 done, 0 goes on, -1 broken. Escapes are in no name
 * of a tool. */
static int word_step(struct pg_word *w, char c)
{
    if (c == '"')
        return 1;
    return c == '\\' || (unsigned char)c < ' ' || !pg_reply_word_put(w, c) ? -1 : 0;
}

static bool value_begins(pg_reply *r, char c)
{
    r->depth = 0;
    if (r->key == PG_KEY_NAME) {
        r->json = PG_JSON_NAME;
        return c == '"';
    }
    if (r->key == PG_KEY_ARGS && c == '{' && r->has_name) {
        pg_reply_sure(r);
        r->state = PG_AT_ARGS;
        return true;
    }
    if (r->key == PG_KEY_ARGS && c == '{') {
        r->json = PG_JSON_EARLY;
        r->early_at = r->n_held;
    } else if (c == '{' || c == '[' || c == '"') {
        r->json = c == '"' ? PG_JSON_STRING : PG_JSON_NESTED;
    } else {
        r->json = PG_JSON_SCALAR;
    }
    pg_reply_bracket(r, c);
    /* Arguments that are no object: null is as good as none. */
    const bool args = r->json == PG_JSON_EARLY || c == 'n';
    return r->key == PG_KEY_ARGS ? args : strchr("{[\"-0123456789tfn", c) && c;
}

static bool object_done(pg_reply *r)
{
    if (!r->sure) {
        if (!r->has_name || r->bare)
            return false;
        pg_reply_sure(r);
        if (!r->has_args)
            pg_reply_out(r, PG_REPLY_ARGUMENTS, "{}", 2);
    }
    pg_reply_call_done(r);
    return true;
}

static bool name_step(pg_reply *r, char c)
{
    const int step = word_step(&r->name, c);
    if (step < 0 || (step > 0 && !r->name.n))
        return false;
    if (step > 0) {
        r->has_name = true;
        r->json = PG_JSON_COMMA;
        if (r->has_args)
            pg_reply_sure(r);
    }
    return true;
}

static bool skip_step(pg_reply *r, char c)
{
    const bool closed = pg_reply_bracket(r, c);
    if (r->json == PG_JSON_STRING ? !r->in_string : closed) {
        if (r->json == PG_JSON_EARLY) {
            r->has_args = true;
            r->early_n = r->n_held + 1 - r->early_at;
        }
        r->json = PG_JSON_COMMA;
    }
    return true;
}

static bool is_scalar(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c && strchr("+-.E", c));
}

/* Whether the object may go on with the byte. */
static bool step(pg_reply *r, char c)
{
    if (r->json == PG_JSON_SCALAR && !is_scalar(c))
        r->json = PG_JSON_COMMA;
    if (pg_reply_is_space(c) && r->json != PG_JSON_KEY && r->json < PG_JSON_NAME)
        return true;
    int word;
    switch (r->json) {
    case PG_JSON_OBJECT:
        r->json = PG_JSON_FIRST_KEY;
        return c == '{';
    case PG_JSON_FIRST_KEY:
    case PG_JSON_NEXT_KEY:
        if (c == '}' && r->json == PG_JSON_FIRST_KEY)
            return object_done(r);
        r->word.n = 0;
        r->json = PG_JSON_KEY;
        return c == '"';
    case PG_JSON_KEY:
        word = word_step(&r->word, c);
        return word > 0 ? key_done(r) : word == 0;
    case PG_JSON_COLON:
        r->json = PG_JSON_VALUE;
        return c == ':';
    case PG_JSON_VALUE:
        return value_begins(r, c);
    case PG_JSON_NAME:
        return name_step(r, c);
    case PG_JSON_STRING:
    case PG_JSON_NESTED:
    case PG_JSON_EARLY:
        return skip_step(r, c);
    case PG_JSON_SCALAR:
        return true;
    case PG_JSON_COMMA:
        break;
    }
    if (c == '}')
        return object_done(r);
    if (c == ',')
        r->json = PG_JSON_NEXT_KEY;
    return c == ',' || pg_reply_is_space(c);
}

bool pg_reply_json_take(pg_reply *r, char c)
{
    if (step(r, c)) {
        if (r->state == PG_AT_ARGS) /* whose first bracket goes out with the rest */
            return false;
        if (pg_reply_held_put(r, &c, 1))
            return true;
    }
    pg_reply_give_up(r);
    return false;
}
