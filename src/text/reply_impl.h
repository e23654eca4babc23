/* SPDX-License-Identifier: MIT
 * The inside of a reply's reader, shared by its files and by nobody else.
 *
 *   reply.c          tokens to bytes and marks; parts out; text and reasoning
 *   reply_forms.c    which marks a family has
 *   reply_call.c     where a call begins and ends: what is held until it is one
 *   reply_json.c     the object {"name": …, "arguments": {…}}
 *   reply_xml.c      <function=NAME><parameter=KEY>…
 *   reply_harmony.c  messages on channels
 *
 * Bytes go one by one to the state's function, `take`, marks to its `mark`. Each returns whether it
 * used the thing up; if not, it has changed the state, and the thing is for that one. So that what
 * only looked like a call can be text, it is kept in `held` until it is sure to be one.
 */
#ifndef PG_TEXT_REPLY_IMPL_H
#define PG_TEXT_REPLY_IMPL_H

#include "base/err.h"
#include "text/reply.h"

enum {
    PG_REPLY_HELD = 32768, /* bytes of what may be a call, before its name is known */
    PG_REPLY_NAME = 256,   /* bytes of a name or a key */
    PG_REPLY_SPACE = 64,   /* of white space that a call may follow */
    PG_REPLY_OUT = 512
};

enum pg_reply_state {
    PG_AT_TEXT,
    PG_AT_THINK,
    PG_AT_OPEN,      /* behind the mark of calls */
    PG_AT_NAME,      /* a name without quotes */
    PG_AT_ID,        /* of the call, which nobody wants */
    PG_AT_OPEN_ARGS, /* arguments without an object around them begin */
    PG_AT_JSON,      /* in the object around name and arguments */
    PG_AT_ARGS,      /* in the arguments, which go out as they come */
    PG_AT_AFTER,     /* behind a call */
    PG_AT_HEADER,    /* of a message */
    PG_AT_XML_NAME,
    PG_AT_XML_BETWEEN,
    PG_AT_XML_KEY,
    PG_AT_XML_VALUE,
    PG_AT_STATES
};

/* Where the object around a call is. */
enum pg_json_at {
    PG_JSON_OBJECT, /* before it */
    PG_JSON_FIRST_KEY,
    PG_JSON_NEXT_KEY,
    PG_JSON_KEY,
    PG_JSON_COLON,
    PG_JSON_VALUE,
    PG_JSON_NAME,   /* in the text of the name */
    PG_JSON_STRING, /* in a value that nobody wants, and the next two */
    PG_JSON_NESTED,
    PG_JSON_SCALAR,
    PG_JSON_EARLY, /* in arguments before the name */
    PG_JSON_COMMA
};

enum pg_json_key { PG_KEY_OTHER, PG_KEY_NAME, PG_KEY_ARGS };

struct pg_word {
    char s[PG_REPLY_NAME];
    size_t n;
};

struct pg_reply {
    struct pg_reply_form form;
    const pg_vocab *vocab;
    struct pg_detok detok;
    int32_t id[PG_MARKS]; /* -1: the vocabulary has no token for it */
    bool has_tools, inlined, raw;
    bool ended;
    int failed; /* PG_E… of a call in progress */
    void (*part)(void *user, const struct pg_reply_part *part);
    void *user;

    enum pg_reply_state state;
    int n_calls;
    bool begun;    /* text has come that is not white space */
    bool reasoned; /* reasoning has come */
    bool skips;    /* white space goes */

    char pending[PG_MARK_MAX]; /* may become a mark */
    int n_pending;
    char space[PG_REPLY_SPACE]; /* may stand before a call */
    int n_space;
    enum pg_reply_kind out_kind;
    char out[PG_REPLY_OUT + 3]; /* and what stands for half a character */
    size_t n_out;

    /* a call */
    char *held; /* [PG_REPLY_HELD] */
    size_t n_held;
    bool sure;  /* it is one, and its name has gone out */
    bool bare;  /* no mark stands before it */
    bool array; /* it is in a list */
    bool alone; /* no object is around its arguments */
    bool open;  /* a mark that closes is yet to come */
    bool has_name, has_args;
    struct pg_word name, word; /* word: a key */
    enum pg_json_at json;
    enum pg_json_key key;
    size_t early_at, early_n; /* arguments in `held` */
    size_t depth;             /* of brackets */
    bool in_string, escaped;

    /* of XML */
    int n_parameters;
    bool newline, first, is_text; /* of a value: one is held back; none has come; not JSON */
};

typedef bool pg_reply_take(pg_reply *r, char c);
typedef bool pg_reply_mark(pg_reply *r, enum pg_mark m);

/* ---- reply.c ---- */

void pg_reply_out(pg_reply *r, enum pg_reply_kind kind, const char *s, size_t n);
/* The same of text and reasoning, minding white space. */
void pg_reply_say(pg_reply *r, enum pg_reply_kind kind, const char *s, size_t n);
/* The mark itself, where reasoning stays in the text. */
void pg_reply_say_mark(pg_reply *r, enum pg_mark m);
void pg_reply_think(pg_reply *r);
void pg_reply_think_end(pg_reply *r);

/* ---- reply_call.c ---- */

/* Something that may be a call begins with the mark, or with nothing (PG_MARKS). */
void pg_reply_hold(pg_reply *r, enum pg_reply_state state, enum pg_mark m);
bool pg_reply_held_put(pg_reply *r, const char *s, size_t n); /* false: it is too much */
void pg_reply_give_up(pg_reply *r); /* it is none: text, or nothing more */
void pg_reply_sure(pg_reply *r);    /* it is one */
void pg_reply_call_done(pg_reply *r);
/* Where the reply ends. */
void pg_reply_call_end(pg_reply *r);
/* Follows brackets and strings; whether the last bracket has closed. */
bool pg_reply_bracket(pg_reply *r, char c);
bool pg_reply_word_put(struct pg_word *w, char c); /* false: it is too long */
bool pg_reply_is_name(char c);                     /* of names without quotes */

/* ---- reply_xml.c and reply_harmony.c, where the reply ends in them ---- */

void pg_reply_xml_end(pg_reply *r);
void pg_reply_header_end(pg_reply *r);

/* ---- a byte, and a mark ---- */

pg_reply_take pg_reply_open_take, pg_reply_name_take, pg_reply_id_take, pg_reply_open_args_take,
    pg_reply_args_take, pg_reply_after_take, pg_reply_json_take, pg_reply_header_take,
    pg_reply_xml_take;
pg_reply_mark pg_reply_open_mark, pg_reply_call_mark, pg_reply_after_mark, pg_reply_header_mark,
    pg_reply_message_mark, pg_reply_xml_mark;

static inline bool pg_reply_is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

#endif
