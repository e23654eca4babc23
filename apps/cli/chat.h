/* SPDX-License-Identifier: MIT
 * The parts of `pregate chat`.
 *
 *   cmd_chat.c    the loop: messages, /commands, what is said when something goes wrong
 *   chat_talk.c   the conversation, as messages and as the tokens of a session
 *   chat_input.c  messages from a terminal or from a pipe
 */
#ifndef PG_CLI_CHAT_H
#define PG_CLI_CHAT_H

#include "cli.h"

/* Bytes that grow; what s has is freed by the owner. */
struct chat_buf {
    char *s;
    size_t n, cap;
};
int chat_buf_put(struct chat_buf *b, const char *s, size_t n, struct pg_err *err);

/* ---------------------------------------------------------------- lines --------------------- */

struct chat_lines;

enum chat_line {
    CHAT_MESSAGE,
    CHAT_END,        /* of the input */
    CHAT_INTERRUPTED /* Ctrl-C; `n` is what of a message is thrown away with it */
};

/* From standard input: with editing and history where it is a terminal. A message is a line of at
 * most `most` bytes, or several: behind a backslash it goes on, and from """ to """. */
int chat_lines_open(struct chat_lines **out, size_t most, struct pg_err *err);
void chat_lines_close(struct chat_lines *l);
/* *text lives until the next. PG_EARG when the message is too long. */
int chat_lines_read(struct chat_lines *l, enum chat_line *what, const char **text, size_t *n,
                    struct pg_err *err);

/* ---------------------------------------------------------------- talk ---------------------- */

enum chat_stop { CHAT_STOP_END, CHAT_STOP_LENGTH, CHAT_STOP_CONTEXT, CHAT_STOP_INTERRUPTED };

struct chat_talk {
    const struct cli_args *args;
    struct cli_progress progress;
    pg_engine *engine;
    pg_session *session;
    pg_chat *template;
    struct pg_plan plan;
    struct pg_sampling sampling;
    struct cli_grammar grammar; /* of each answer */
    int n_ctx;
    bool thinks_shown, colour; /* reasoning goes to the terminal, too; dim */

    json_t *messages; /* as OpenAI has them */
    /* What the last prompt and the answer to it are as text and as tokens. */
    struct chat_buf text;
    int32_t *ids;
    size_t n_ids;
    size_t n_prompt_text, n_prompt_ids; /* of these the prompt */
    bool went_on;                       /* the last prompt was what was there and more */

    struct chat_buf answer, reasoning; /* of the answer under way */
    bool in_reasoning;                 /* it is what was shown last */
    struct pg_err failed;              /* to keep them */
    enum chat_stop stop;
    size_t n_reused; /* tokens of the last prompt that were there already */
    struct pg_stats before, at_prompt, at_end;
};

int chat_talk_open(struct chat_talk *t, const struct cli_args *args, struct pg_err *err);
void chat_talk_close(struct chat_talk *t);
/* The most bytes that a message can sensibly have. */
size_t chat_talk_most(const struct chat_talk *t);

/* The message, and the answer to it, which is printed as it comes. What has no answer, because of
 * an error or an interrupt, is not in the conversation afterwards. */
int chat_talk_say(struct chat_talk *t, const char *text, size_t n, struct pg_err *err);
/* Another answer to the last message. */
int chat_talk_retry(struct chat_talk *t, struct pg_err *err);
/* Instead of what was the system's message; none when n is 0. */
int chat_talk_system(struct chat_talk *t, const char *text, size_t n, struct pg_err *err);
void chat_talk_clear(struct chat_talk *t); /* all but the system's message */
int chat_talk_save(const struct chat_talk *t, const char *path, struct pg_err *err);
int chat_talk_load(struct chat_talk *t, const char *path, struct pg_err *err);

#endif
