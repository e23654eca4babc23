/* SPDX-License-Identifier: MIT
 * Calls: where one begins, what is held until it is sure to be one, and where it ends.
 */
#include "text/reply_impl.h"

#include <string.h>

void pg_reply_hold(pg_reply *r, enum pg_reply_state state, enum pg_mark m)
{
    r->state = state;
    r->n_held = 0;
    r->sure = r->array = r->alone = false;
    r->bare = m == PG_MARKS;
    r->has_name = r->has_args = false;
    r->name.n = r->word.n = 0;
    r->json = PG_JSON_OBJECT;
    r->early_n = 0;
    r->depth = 0;
    r->in_string = r->escaped = false;
    if (m < PG_MARKS)
        pg_reply_held_put(r, r->form.mark[m], strlen(r->form.mark[m]));
}

bool pg_reply_held_put(pg_reply *r, const char *s, size_t n)
{
    if (r->sure)
        return true; /* it would not be text any more */
    if (n > PG_REPLY_HELD - r->n_held)
        return false;
    memcpy(r->held + r->n_held, s, n);
    r->n_held += n;
    return true;
}

void pg_reply_give_up(pg_reply *r)
{
    const size_t n = r->n_held;
    r->state = PG_AT_TEXT;
    r->n_held = 0;
    if (r->sure) {
        r->skips = true;
        return;
    }
    r->open = false;
    pg_reply_say(r, PG_REPLY_TEXT, r->held, n);
}

void pg_reply_sure(pg_reply *r)
{
    r->sure = true;
    r->n_space = 0;
    r->begun = true;
    pg_reply_out(r, PG_REPLY_CALL, "", 0);
    r->n_calls++;
    pg_reply_out(r, PG_REPLY_CALL, r->name.s, r->name.n);
    pg_reply_out(r, PG_REPLY_ARGUMENTS, r->held + r->early_at, r->early_n);
    r->n_held = 0;
}

void pg_reply_call_done(pg_reply *r)
{
    r->state = PG_AT_AFTER;
    r->skips = true;
}

bool pg_reply_bracket(pg_reply *r, char c)
{
    if (r->escaped) {
        r->escaped = false;
    } else if (r->in_string) {
        r->escaped = c == '\\';
        r->in_string = c != '"';
    } else if (c == '"') {
        r->in_string = true;
    } else if (c == '{' || c == '[') {
        r->depth++;
    } else if ((c == '}' || c == ']') && r->depth) {
        return --r->depth == 0;
    }
    return false;
}

bool pg_reply_word_put(struct pg_word *w, char c)
{
    if (w->n == sizeof(w->s))
        return false;
    w->s[w->n++] = c;
    return true;
}

bool pg_reply_is_name(char c)
{
    return (unsigned char)c > ' ' && c != 0x7F && !strchr("<>{}[]()\"'`,;", c);
}

/* The call is complete, and the model wrote no arguments. */
static void without_args(pg_reply *r)
{
    pg_reply_sure(r);
    pg_reply_out(r, PG_REPLY_ARGUMENTS, "{}", 2);
    pg_reply_call_done(r);
}

/* ---- bytes ---- */

bool pg_reply_open_take(pg_reply *r, char c)
{
    const bool deepseek = r->form.calls == PG_CALLS_DEEPSEEK;
    if (pg_reply_is_space(c) && pg_reply_held_put(r, &c, 1))
        return true;
    if (c == '{' && !deepseek) {
        r->state = PG_AT_JSON;
    } else if (c == '[' && !deepseek && pg_reply_held_put(r, &c, 1)) {
        r->array = true;
        r->state = PG_AT_JSON;
        return true;
    } else if (r->form.calls == PG_CALLS_MISTRAL && pg_reply_is_name(c)) {
        r->state = PG_AT_NAME;
    } else {
        pg_reply_give_up(r);
    }
    return false;
}

/* The name is whole; its arguments stand alone. */
static void name_done(pg_reply *r)
{
    r->has_name = true;
    r->alone = true;
    r->state = PG_AT_OPEN_ARGS;
}

bool pg_reply_name_take(pg_reply *r, char c)
{
    const bool deepseek = r->form.calls == PG_CALLS_DEEPSEEK;
    const bool ends = c == (deepseek ? '\n' : '{');
    if (ends && r->name.n) {
        name_done(r);
        return false;
    }
    if (pg_reply_is_name(c) && pg_reply_word_put(&r->name, c) && pg_reply_held_put(r, &c, 1))
        return true;
    pg_reply_give_up(r);
    return false;
}

bool pg_reply_id_take(pg_reply *r, char c)
{
    if (c == '{') {
        name_done(r);
        return false;
    }
    if (pg_reply_is_name(c) && pg_reply_word_put(&r->word, c) && pg_reply_held_put(r, &c, 1))
        return true;
    pg_reply_give_up(r);
    return false;
}

bool pg_reply_open_args_take(pg_reply *r, char c)
{
    if (pg_reply_is_space(c) && pg_reply_held_put(r, &c, 1))
        return true;
    if (c == '{') {
        pg_reply_sure(r);
        r->state = PG_AT_ARGS;
    } else {
        pg_reply_give_up(r);
    }
    return false;
}

bool pg_reply_args_take(pg_reply *r, char c)
{
    pg_reply_out(r, PG_REPLY_ARGUMENTS, &c, 1);
    if (!pg_reply_bracket(r, c))
        return true;
    r->has_args = true;
    if (r->alone) {
        pg_reply_call_done(r);
    } else {
        r->state = PG_AT_JSON;
        r->json = PG_JSON_COMMA;
    }
    return true;
}

/* Another object of the same list, or behind a bare one. */
static bool next_object(pg_reply *r, char c)
{
    const bool list = r->array, bare = r->bare;
    pg_reply_hold(r, list ? PG_AT_JSON : PG_AT_OPEN, PG_MARKS);
    r->array = list;
    r->bare = bare;
    return c != '{' && pg_reply_held_put(r, &c, 1);
}

bool pg_reply_after_take(pg_reply *r, char c)
{
    const bool bare = r->form.calls == PG_CALLS_LLAMA || r->form.calls == PG_CALLS_PLAIN;
    if (pg_reply_is_space(c))
        return true;
    if ((r->array && c == ',') || (bare && !r->array && (c == ';' || c == '{')))
        return next_object(r, c);
    if (r->array && c == ']') {
        r->array = false;
        return true;
    }
    r->state = PG_AT_TEXT;
    return false;
}

/* ---- marks ---- */

bool pg_reply_after_mark(pg_reply *r, enum pg_mark m)
{
    switch (m) {
    case PG_MARK_THINK:
    case PG_MARK_THINK_END:
        if (r->inlined)
            pg_reply_say_mark(r, m);
        if (m == PG_MARK_THINK)
            pg_reply_think(r);
        else
            pg_reply_think_end(r);
        return true;
    case PG_MARK_CALL:
        pg_reply_hold(r, PG_AT_OPEN, m);
        r->open = r->form.mark[PG_MARK_CALL_END];
        /* A fence is around any JSON. */
        r->bare = r->form.calls == PG_CALLS_PLAIN;
        return true;
    case PG_MARK_FUNCTION:
        pg_reply_hold(r, PG_AT_XML_NAME, m);
        r->open = true;
        return true;
    case PG_MARK_ONE:
        pg_reply_hold(r, PG_AT_NAME, m);
        return true;
    default:
        break;
    }
    if (r->form.calls == PG_CALLS_HARMONY)
        return pg_reply_message_mark(r, m);
    r->open &= m != PG_MARK_CALL_END;
    pg_reply_call_done(r);
    return true;
}

/* In what stands between the mark of a call and its arguments. */
bool pg_reply_open_mark(pg_reply *r, enum pg_mark m)
{
    static const char type[] = "function"; /* what a DeepSeek call is of, before its name */
    const char *text = r->form.mark[m];
    const bool held = pg_reply_held_put(r, text, strlen(text));
    if (r->state == PG_AT_OPEN && m == PG_MARK_FUNCTION && held) {
        r->state = PG_AT_XML_NAME;
    } else if (r->state == PG_AT_OPEN && m == PG_MARK_ONE && held) {
        r->state = PG_AT_NAME;
    } else if (r->state == PG_AT_NAME && m == PG_MARK_ID && r->name.n && held) {
        r->state = PG_AT_ID;
    } else if (r->state == PG_AT_NAME && m == PG_MARK_ARGS && r->name.n && held &&
               r->form.calls == PG_CALLS_DEEPSEEK && r->name.n == strlen(type) &&
               !memcmp(r->name.s, type, strlen(type))) {
        r->name.n = 0;
    } else if ((r->state == PG_AT_NAME || r->state == PG_AT_ID) && m == PG_MARK_ARGS && r->name.n &&
               held) {
        name_done(r);
    } else if (r->state != PG_AT_OPEN_ARGS || m != PG_MARK_FENCE || !held) {
        r->n_held -= held ? strlen(text) : 0;
        if (r->state == PG_AT_OPEN_ARGS)
            without_args(r);
        else
            pg_reply_give_up(r);
        return false;
    }
    return true;
}

/* In the middle of a call, which it cuts off. */
bool pg_reply_call_mark(pg_reply *r, enum pg_mark m)
{
    (void)m;
    if (r->state == PG_AT_ARGS)
        pg_reply_call_done(r);
    else
        pg_reply_give_up(r);
    return false;
}

void pg_reply_call_end(pg_reply *r)
{
    const bool in_call =
        r->state != PG_AT_TEXT && r->state != PG_AT_THINK && r->state != PG_AT_AFTER;
    if (r->state == PG_AT_XML_VALUE)
        pg_reply_xml_end(r);
    else if (r->state == PG_AT_HEADER)
        pg_reply_header_end(r);
    else if (in_call && !r->sure && r->has_name && !r->bare)
        pg_reply_sure(r);
    else if (in_call && !r->sure)
        pg_reply_give_up(r);
}
