/* SPDX-License-Identifier: MIT
 * Chat templates: an interpreter of the Jinja that they are written in, with trim_blocks and
 * lstrip_blocks as Hugging Face sets them. A template sees what it is given and nothing else, and
 * each of its renderings is bounded in steps, depth and memory
 * (docs/decisions/023-chat-templates.md).
 *
 * Each byte of a text is markup (the template's own) or content (of what it was given), through
 * all that is done with it.
 */
#ifndef PG_TEXT_JINJA_H
#define PG_TEXT_JINJA_H

#include "format/gguf.h"
#include "format/json.h"

enum {
    PG_JINJA_SOURCE = 512 << 10, /* bytes of a template */
    PG_JINJA_NAMES = 1024,       /* different names in it */
    PG_JINJA_PARSE_DEPTH = 200,  /* of what is nested in its source, */
    PG_JINJA_DEPTH = 1200,       /* of what is nested while it runs, */
    PG_JINJA_CALLS = 100,        /* of macros that call each other, */
    PG_JINJA_VALUES = 200,       /* and of values in values */
    PG_JINJA_RANGE = 100000,     /* numbers of a range, as in Jinja's own sandbox */
    PG_JINJA_ITEMS = 1 << 20,    /* values of a list */
};
/* Of one rendering; and as much more for each byte that it is given. */
#define PG_JINJA_STEPS        10000000u
#define PG_JINJA_STEPS_BYTE   16u
#define PG_JINJA_MEMORY       (64u << 20)
#define PG_JINJA_MEMORY_BYTE  64u
#define PG_JINJA_MEMORY_LIMIT (1u << 30) /* however much that is */

struct pg_jinja; /* a template, constant once open */

int pg_jinja_open(struct pg_jinja **out, const char *source, size_t n, struct pg_err *err);
void pg_jinja_close(struct pg_jinja *t);
const char *pg_jinja_source(const struct pg_jinja *t); /* with newlines as the template has them */

/* A variable whose text is markup though it is given; NULL value: there is none such. */
struct pg_jinja_markup {
    const char *name;
    struct pg_str value;
};

struct pg_jinja_input {
    const json_t *vars; /* object: name -> value */
    size_t n_bytes;     /* that they had as a text, for the bounds */
    struct pg_jinja_markup markup[4];
    int64_t now; /* for strftime_now: seconds since 1970 */
};

/* What a template made: text, and for each byte 1 if it is content. For free(), both of them. */
struct pg_jinja_text {
    char *text;
    uint8_t *content;
    size_t n;
    bool said_none;      /* a null that was given became the word None, */
    bool said_arguments; /* or an object "arguments" Python's spelling of it */
};
/* Zeroed where it fails: PG_EARG with the template's own sentence, PG_EFORMAT with line and
 * column. */
int pg_jinja_render(const struct pg_jinja *t, const struct pg_jinja_input *in,
                    struct pg_jinja_text *out, struct pg_err *err);

#endif
