/* SPDX-License-Identifier: MIT
 * Calls as <function=NAME><parameter=KEY>\nVALUE\n</parameter>…</function>, of which a JSON object
 * is made as they come. What a tool wants is not known here: a value that is a JSON number, truth
 * value, null, object or list is passed as it is, all else is a string. What may still be such a
 * value is held; a string goes out at once.
 */
#include "text/reply_impl.h"

#include <jansson.h>
#include <string.h>

static void args_out(pg_reply *r, const char *s, size_t n)
{
    pg_reply_out(r, PG_REPLY_ARGUMENTS, s, n);
}

/* The inside of a JSON string. */
static void escape_out(pg_reply *r, const char *s, size_t n)
{
    static const char hex[] = "0123456789abcdef";
    static const char names[] = "\"\"\\\\\nn\tt\rr"; /* what is escaped, and by which letter */
    for (size_t i = 0; i < n; i++) {
        const unsigned char c = (unsigned char)s[i];
        const char *name = names;
        while (*name && *name != s[i])
            name += 2;
        if (*name)
            args_out(r, (char[2]){'\\', name[1]}, 2);
        else if (c < ' ')
            args_out(r, (char[6]){'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15]}, 6);
        else
            args_out(r, s + i, 1);
    }
}

/* ---- values ---- */

/* Whether the value so far may become JSON that is no string. */
static bool may_be_json(const pg_reply *r)
{
    static const char *const words[] = {"true", "false", "null"};
    const char first = r->held[0], last = r->held[r->n_held - 1];
    if (first == '{' || first == '[')
        return true;
    if (first == '-' || (first >= '0' && first <= '9'))
        return (last >= '0' && last <= '9') || (last && strchr("+-.eE", last));
    for (size_t i = 0; i < PG_COUNT(words); i++)
        if (r->n_held <= strlen(words[i]) && !memcmp(words[i], r->held, r->n_held))
            return true;
    return false;
}

static bool is_json(pg_reply *r)
{
    json_error_t why;
    if (!r->n_held)
        return false;
    json_t *v = json_loadb(r->held, r->n_held, JSON_DECODE_ANY, &why);
    if (!v && json_error_code(&why) == json_error_out_of_memory)
        r->failed = PG_ENOMEM;
    json_decref(v);
    return v;
}

static void to_text(pg_reply *r)
{
    r->is_text = true;
    args_out(r, "\"", 1);
    escape_out(r, r->held, r->n_held);
    r->n_held = 0;
}

static void value_put(pg_reply *r, char c)
{
    if (!r->is_text && r->n_held == PG_REPLY_HELD)
        to_text(r);
    if (r->is_text) {
        escape_out(r, &c, 1);
        return;
    }
    r->held[r->n_held++] = c;
    if (!may_be_json(r))
        to_text(r);
}

static void value_begin(pg_reply *r)
{
    if (r->n_parameters++)
        args_out(r, ", ", 2);
    args_out(r, "\"", 1);
    escape_out(r, r->word.s, r->word.n);
    args_out(r, "\": ", 3);
    r->state = PG_AT_XML_VALUE;
    r->first = true;
    r->newline = r->is_text = false;
    r->n_held = 0;
}

/* One line break at each end belongs to the form. */
static void value_take(pg_reply *r, char c)
{
    const bool first = r->first;
    r->first = false;
    if (first && c == '\n')
        return;
    if (r->newline)
        value_put(r, '\n');
    r->newline = c == '\n';
    if (!r->newline)
        value_put(r, c);
}

static void value_end(pg_reply *r)
{
    if (!r->is_text && is_json(r)) {
        args_out(r, r->held, r->n_held);
        return;
    }
    if (!r->is_text)
        to_text(r);
    args_out(r, "\"", 1);
}

void pg_reply_xml_end(pg_reply *r)
{
    if (r->newline)
        value_put(r, '\n');
    args_out(r, r->held, r->is_text ? 0 : r->n_held);
}

/* ---- around values ---- */

static void object_begin(pg_reply *r)
{
    if (r->sure)
        return;
    pg_reply_sure(r);
    args_out(r, "{", 1);
    r->n_parameters = 0;
}

static void object_end(pg_reply *r)
{
    object_begin(r);
    args_out(r, "}", 1);
    pg_reply_call_done(r);
}

/* Neither a parameter nor the end. */
static void between_broken(pg_reply *r)
{
    if (r->sure)
        object_end(r);
    else
        pg_reply_give_up(r);
}

static void key_broken(pg_reply *r)
{
    const char *text = r->form.mark[PG_MARK_PARAMETER];
    object_end(r);
    r->state = PG_AT_TEXT;
    pg_reply_say(r, PG_REPLY_TEXT, text, strlen(text));
    pg_reply_say(r, PG_REPLY_TEXT, r->word.s, r->word.n);
}

static bool name_take(pg_reply *r, char c)
{
    if (c == '>' && r->name.n && pg_reply_held_put(r, &c, 1)) {
        r->has_name = true;
        r->state = PG_AT_XML_BETWEEN;
        return true;
    }
    if (pg_reply_is_name(c) && pg_reply_word_put(&r->name, c) && pg_reply_held_put(r, &c, 1))
        return true;
    pg_reply_give_up(r);
    return false;
}

bool pg_reply_xml_take(pg_reply *r, char c)
{
    switch (r->state) {
    case PG_AT_XML_NAME:
        return name_take(r, c);
    case PG_AT_XML_VALUE:
        value_take(r, c);
        return true;
    case PG_AT_XML_KEY:
        if (c == '>' && r->word.n) {
            value_begin(r);
            return true;
        }
        if (pg_reply_is_name(c) && pg_reply_word_put(&r->word, c))
            return true;
        key_broken(r);
        return false;
    default:
        if (pg_reply_is_space(c) && pg_reply_held_put(r, &c, 1))
            return true;
        between_broken(r);
        return false;
    }
}

static bool between_mark(pg_reply *r, enum pg_mark m)
{
    if (m == PG_MARK_PARAMETER) {
        object_begin(r);
        r->word.n = 0;
        r->state = PG_AT_XML_KEY;
        return true;
    }
    if (m == PG_MARK_FUNCTION_END || m == PG_MARK_CALL_END)
        object_end(r);
    else
        between_broken(r);
    return m == PG_MARK_FUNCTION_END;
}

bool pg_reply_xml_mark(pg_reply *r, enum pg_mark m)
{
    switch (r->state) {
    case PG_AT_XML_BETWEEN:
        return between_mark(r, m);
    case PG_AT_XML_KEY:
        key_broken(r);
        return false;
    case PG_AT_XML_VALUE:
        value_end(r);
        r->state = PG_AT_XML_BETWEEN;
        if (m == PG_MARK_PARAMETER_END)
            return true;
        object_end(r);
        return false;
    default:
        pg_reply_give_up(r);
        return false;
    }
}
