/* SPDX-License-Identifier: MIT
 * One request at the scheduler, whatever interface it came by.
 *
 * The engine's thread takes tokens apart (text, reasoning, calls), looks for stop strings, and puts
 * events into the queue of the request; the loop's thread pumps them to the interface. Of a reply
 * that is wanted whole nobody is woken before its end.
 */
#ifndef PG_SERVER_GEN_H
#define PG_SERVER_GEN_H

#include "bytes.h"
#include "error.h"
#include "limits.h"

#include <jansson.h>
#include <pregate.h>
#include <stdatomic.h>

struct server;
struct conn;
struct gen;

struct call {
    char id[40];
    char *name;
    struct bytes arguments;
};

/* One of the n answers. */
struct choice {
    struct gen *gen;
    int index;
    /* Engine's thread, until it is over. */
    pg_reply *reply; /* of a chat */
    struct pg_detok detok;
    pg_matcher *matcher; /* of the grammar, if there is one */
    size_t matcher_bytes;
    struct bytes held;   /* text that may be the beginning of a stop string */
    const char *stopped; /* the stop string that was found */
    atomic_int n_put;    /* tokens so far; the loop may look */
    bool enough;         /* it was a second call, and one is wanted */
    bool overflow;       /* the queue is full, or memory is */
    bool submitted;
    uint64_t id;
    struct pg_request_report report;
    /* Loop's thread. */
    bool over;
    size_t n_sent;                /* for the interface: bytes of the text so far */
    struct bytes text, reasoning; /* the answer, where it is kept */
    struct call *calls;
    int n_calls;
    json_t *logprobs;      /* of the tokens since it was last taken; an array of token objects */
    size_t logprobs_bytes; /* for them in the ledger; loop's thread */
};

enum piece_kind { PIECE_TEXT, PIECE_REASONING, PIECE_CALL, PIECE_ARGUMENTS };
struct piece {
    enum piece_kind kind;
    int call;
    const char *text; /* whole characters; of PIECE_CALL the name */
    size_t n;
};

/* An interface. Of a stream: open, parts, choice_over for each, end. Else end alone, with the
 * answers kept. */
struct gen_api {
    void (*open)(struct gen *g);
    void (*part)(struct gen *g, struct choice *c, const struct piece *p);
    void (*progress)(struct gen *g, int done, int total); /* may be NULL */
    void (*choice_over)(struct gen *g, struct choice *c); /* may be NULL */
    void (*end)(struct gen *g);
    void (*error)(struct gen *g, const struct fault *f); /* the stream ends with it */
    const char *ping;                                    /* sent into silence; NULL: nothing */
    void (*forget)(void *state);                         /* frees what it holds; NULL: nothing */
    bool keeps; /* a stream, too, needs the whole answer at its end */
};

struct gen {
    struct server *server;
    struct conn *conn; /* NULL: nobody listens any more */
    struct gen *prev, *next;
    const struct gen_api *api;
    char id[40];
    int64_t created;

    /* What is asked: a handler fills it in. All of it is freed with the gen. */
    struct gen_prompt {
        int32_t *id;
        size_t n;
    } prompt[LIMIT_PROMPTS];
    int n_prompts;
    struct pg_sampling how;
    int32_t *bias_id;
    float *bias;
    pg_grammar *grammar;
    bool ends_thinking; /* it is of what comes after reasoning, which the prompt ends then */
    char *stop[LIMIT_STOPS];
    int n_stops;
    int n_predict;  /* 0: as the context has room */
    int n_choices;  /* of each prompt */
    int n_logprobs; /* below 0: none */
    bool ignore_eos, no_reuse;
    bool is_chat, has_tools, one_call, inline_reasoning;
    bool forced; /* the answer is JSON of calls, whose mark is in the prompt */
    bool stream, include_usage, return_progress, timings_per_token;
    char tail[LIMIT_TAIL]; /* the end of the prompt's text */
    size_t n_tail;
    char owner[65];
    void *state; /* the interface's own, freed with the rest */
    bool clamps; /* n_predict is what the context has room for, if that is less */

    /* Under the server's mutex. */
    struct bytes queue;
    size_t charged; /* in the ledger */
    unsigned over;  /* a bit for each choice that has ended */
    bool woken;
    struct gen *next_woken;

    /* Loop's thread. */
    struct choice choice[LIMIT_CHOICES];
    struct bytes taken, piece;
    bool opened, failed, ended;
    int n_submitted, n_over;
    uint64_t start_ns, first_ns;
};

struct gen *gen_open(struct conn *c, const struct gen_api *api);
/* Takes ids, which were malloced. */
void gen_add_prompt(struct gen *g, int32_t *ids, size_t n);
/* For one that was not submitted. */
void gen_close(struct gen *g);
/* Gives it to the scheduler, or fills in the fault; takes g in either case. */
void gen_submit(struct gen *g, struct fault *f);
/* What the engine's thread has put into the queue. */
void gen_pump(struct gen *g);
/* Every second. */
void gen_tick(struct gen *g, uint64_t now_ns);
void gen_cancel(struct gen *g);

/* ---------------------------------------------------------------- the engine's side --------- */

/* Where a record of the queue begins; n bytes follow. */
enum event_kind { EVENT_PIECE, EVENT_TOKEN, EVENT_PROGRESS };
struct event_head {
    uint8_t event, choice, piece;
    int32_t call;
    uint32_t n;
};
/* What follows of EVENT_TOKEN; then n_top ids, and as many logarithms. */
struct event_token {
    int32_t id;
    float logprob;
    int32_t n_top;
};
struct event_progress {
    int32_t done, total;
};
/* Opens what turns tokens of this choice into text. */
int tokens_open(struct choice *c, struct pg_err *err);
void tokens_close(struct choice *c);
/* For struct pg_request; user is the choice. */
int tokens_put(void *user, const struct pg_token *t);
void tokens_progress(void *user, int done, int total);
void tokens_end(void *user, const struct pg_request_report *report);

/* ---------------------------------------------------------------- for interfaces ------------ */

const char *gen_finish_reason(const struct choice *c); /* as OpenAI has it */
int gen_n_all(const struct gen *g);                    /* answers */
int gen_n_prompt(const struct gen *g);
int gen_n_reused(const struct gen *g);
int gen_n_predicted(const struct gen *g);
/* While it runs: what of its prompt was found. */
int gen_n_reused_now(const struct gen *g);
json_t *gen_timings(const struct gen *g);
json_t *gen_timings_now(const struct gen *g); /* of the first answer so far */
json_t *gen_take_tokens(struct choice *c);    /* their logprobs since the last time; a list */
json_t *gen_take_logprobs(struct choice *c);  /* as "logprobs" of OpenAI's chat; null without */
json_t *gen_text(const struct bytes *b);

#endif
