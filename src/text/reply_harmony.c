/* SPDX-License-Identifier: MIT
 * Replies made of messages: <|start|>assistant<|channel|>CHANNEL to=RECIPIENT<|message|>…<|end|>.
 * The prompt ends with the first <|start|>assistant. Analysis is reasoning; what goes to
 * functions.X calls X; all else is text.
 */
#include "format/gguf.h"
#include "text/reply_impl.h"

#include <string.h>

enum { HEADER_MAX = PG_REPLY_NAME + 128 };

static bool header_put(pg_reply *r, const char *s, size_t n)
{
    return r->n_held + n <= HEADER_MAX && pg_reply_held_put(r, s, n);
}

/* A header without a mark can only begin with a recipient; else it is text that has none. */
static bool may_be_recipient(const pg_reply *r)
{
    static const char to[] = " to=";
    const size_t n = PG_MIN(r->n_held, strlen(to));
    return (n && r->held[0] == '<') || !memcmp(r->held, to, n);
}

bool pg_reply_header_take(pg_reply *r, char c)
{
    if (c != '\n' && header_put(r, &c, 1)) {
        if (may_be_recipient(r))
            return true;
        r->n_held--;
    }
    pg_reply_give_up(r);
    return false;
}

/* The text behind the word in the header, up to a space or a mark. */
static struct pg_str value_of(const pg_reply *r, const char *word)
{
    const char *end = r->held + r->n_held;
    const char *s = memmem(r->held, r->n_held, word, strlen(word));
    struct pg_str v = {s ? s + strlen(word) : end, 0};
    while (v.s + v.n < end && v.s[v.n] != ' ' && v.s[v.n] != '<')
        v.n++;
    return v;
}

/* The name of the function that the message is for, or nothing. */
static struct pg_str function_of(const pg_reply *r)
{
    static const char prefix[] = "functions.";
    struct pg_str to = value_of(r, " to=");
    if (!r->has_tools || to.n <= strlen(prefix) || memcmp(to.s, prefix, strlen(prefix)))
        return (struct pg_str){0};
    return (struct pg_str){to.s + strlen(prefix), to.n - strlen(prefix)};
}

static bool header_done(pg_reply *r)
{
    static const char analysis[] = "analysis";
    const struct pg_str channel = value_of(r, r->form.mark[PG_MARK_CHANNEL]);
    const struct pg_str function = function_of(r);
    if (function.n > PG_REPLY_NAME) {
        pg_reply_give_up(r);
        return true;
    }
    if (function.n) {
        memcpy(r->name.s, function.s, function.n);
        r->name.n = function.n;
        r->has_name = r->alone = true;
        r->bare = false;
        r->state = PG_AT_OPEN_ARGS;
        return true;
    }
    const bool thinks = channel.n == strlen(analysis) && !memcmp(channel.s, analysis, channel.n);
    if (thinks && r->inlined)
        pg_reply_out(r, PG_REPLY_TEXT, r->held, r->n_held);
    r->n_held = 0;
    r->state = PG_AT_TEXT;
    if (thinks)
        pg_reply_think(r);
    return true;
}

bool pg_reply_header_mark(pg_reply *r, enum pg_mark m)
{
    if (m == PG_MARK_START)
        r->n_held = 0;
    const char *text = r->form.mark[m];
    const bool part = m == PG_MARK_START || m == PG_MARK_CHANNEL || m == PG_MARK_CONSTRAIN ||
                      m == PG_MARK_MESSAGE;
    if (part && header_put(r, text, strlen(text)))
        return m != PG_MARK_MESSAGE || header_done(r);
    pg_reply_give_up(r);
    return false;
}

bool pg_reply_message_mark(pg_reply *r, enum pg_mark m)
{
    const bool begins = m == PG_MARK_START || m == PG_MARK_CHANNEL;
    if (r->state == PG_AT_THINK) {
        if (r->inlined && !begins)
            pg_reply_say_mark(r, m);
        pg_reply_think_end(r);
    }
    r->state = PG_AT_TEXT;
    if (begins)
        pg_reply_hold(r, PG_AT_HEADER, m);
    return true;
}

/* A header without a recipient is the form's own; all else may have been a call. */
void pg_reply_header_end(pg_reply *r)
{
    if (!r->n_held || r->held[0] != '<' || memmem(r->held, r->n_held, " to=", 4))
        pg_reply_give_up(r);
}
