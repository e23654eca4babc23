/* SPDX-License-Identifier: MIT
 * Forms of replies: what a family of models writes around its reasoning and its calls of tools. The
 * public face is in pregate.h ("replies"); here is what tests and the fuzzer use besides.
 */
#ifndef PG_TEXT_REPLY_H
#define PG_TEXT_REPLY_H

#include "pregate.h"

/* How calls are written. */
enum pg_calls {
    PG_CALLS_NONE,
    PG_CALLS_TAGGED, /* <tool_call>{"name": …, "arguments": {…}}</tool_call> */
    PG_CALLS_XML, /* <tool_call><function=NAME><parameter=KEY>…</parameter></function></tool_call>
                   */
    PG_CALLS_MISTRAL, /* [TOOL_CALLS][{…}, …], or [TOOL_CALLS]NAME[ARGS]{…} */
    PG_CALLS_LLAMA,   /* {"name": …, "parameters": {…}}, perhaps after <|python_tag|> */
    PG_CALLS_HARMONY, /* messages on channels */
    PG_CALLS_DEEPSEEK,
    PG_CALLS_PLAIN /* the reply is a JSON object, perhaps in a fence */
};

/* What marks mean; a form has a text for those it uses. */
enum pg_mark {
    PG_MARK_THINK,
    PG_MARK_THINK_END,
    PG_MARK_CALL, /* calls begin */
    PG_MARK_CALL_END,
    PG_MARK_ONE, /* one of several calls */
    PG_MARK_ONE_END,
    PG_MARK_ARGS, /* between name and arguments */
    PG_MARK_ID,   /* between name and the call's id */
    PG_MARK_FENCE,
    PG_MARK_FENCE_END,
    PG_MARK_FUNCTION,
    PG_MARK_FUNCTION_END,
    PG_MARK_PARAMETER,
    PG_MARK_PARAMETER_END,
    PG_MARK_START,
    PG_MARK_CHANNEL,
    PG_MARK_CONSTRAIN,
    PG_MARK_MESSAGE,
    PG_MARK_MESSAGE_END,
    PG_MARK_RETURN,
    PG_MARKS
};
#define PG_MARK_MAX 40 /* bytes, and the longest is shorter */

struct pg_reply_form {
    enum pg_calls calls;
    const char *mark[PG_MARKS]; /* NULL: the form has none */
};

/* What the source of a chat template writes, and so its models. NULL: no calls. */
struct pg_reply_form pg_reply_form_of(const char *source, size_t n);

/* pg_reply_open with the form given. opt->chat is not looked at; opt->vocab may be NULL, then all
 * marks are told by text, and pg_reply_text takes the place of pg_reply_put. */
int pg_reply_open_form(pg_reply **out, const struct pg_reply_options *opt,
                       const struct pg_reply_form *form, struct pg_err *err);
/* The next bytes of the reply; any number, also of half a character. */
int pg_reply_text(pg_reply *r, const char *text, size_t n, struct pg_err *err);

#endif
