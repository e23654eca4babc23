/* SPDX-License-Identifier: MIT
 * Requests in the form that OpenAI's clients send, made into the variables that templates expect.
 */
#ifndef PG_TEXT_CHAT_REQUEST_H
#define PG_TEXT_CHAT_REQUEST_H

#include "format/json.h"

/* A member that a template may want in one of two forms: null content or "", the arguments of a
 * call as an object or as their text. */
struct pg_chat_choice {
    json_t *in; /* borrowed from vars */
    const char *name;
    json_t *form[2]; /* owned */
};

struct pg_chat_request {
    json_t *vars; /* what the template sees */
    size_t n_bytes;
    bool has_tools, has_nulls, has_arguments;
    int64_t now;
    struct pg_chat_choice *choice;
    size_t n, cap;
};

/* Reads n bytes, checks their form, and adds what every template may look for. */
int pg_chat_request_open(struct pg_chat_request *out, const char *text, size_t n,
                         struct pg_err *err);
void pg_chat_request_close(struct pg_chat_request *q);
/* How the template wants content: texts made parts, parts left alone, or parts made a text. */
enum pg_chat_parts { PG_CHAT_TEXTS, PG_CHAT_BOTH, PG_CHAT_PARTS };
int pg_chat_request_parts(struct pg_chat_request *q, enum pg_chat_parts how, struct pg_err *err);
/* Form 0 or 1 of the choices. */
int pg_chat_request_choose(struct pg_chat_request *q, int nulls, int arguments, struct pg_err *err);

#endif
