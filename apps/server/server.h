/* SPDX-License-Identifier: MIT
 * What the files of the server share.
 *
 *   limits.h       every bound
 *   http_parse     heads and chunks; bytes alone
 *   conn           connections: read, answer, stream
 *   guard          who may: Host, Origin, keys
 *   route          the table of paths
 *   error          what was wrong, in the form that each interface has
 *   json_in        typed fields of a request
 *   gen            one request at the scheduler: tokens to text, stop strings, queue, pump
 *   spec, chat_in  what of a body the interfaces have in common: sampling, messages and tools
 *   sse            events, and newline-delimited JSON
 *   api_*          an interface each: JSON to a struct gen, its events to JSON
 *   metrics, experts, page
 *
 * Threads: the loop's has everything in this struct but what lies under `mutex`, the ledger, which
 * is atomic, and `engine_*` until the phase is PHASE_READY, which the loop sets when the engine's
 * thread has told that it is done. The engine's thread has the engine, and runs the callbacks of
 * gen_tokens.c, which touch their own request's queue under `mutex`.
 */
#ifndef PG_SERVER_H
#define PG_SERVER_H

#include "conn.h"
#include "error.h"
#include "guard.h"
#include "limits.h"
#include "route.h"
#include "serve.h"

#include <pthread.h>
#include <stdatomic.h>

/* Bytes that the server holds, of those that it may. */
struct ledger {
    atomic_size_t used;
    size_t total;
};
bool ledger_take(struct ledger *l, size_t n);
void ledger_give(struct ledger *l, size_t n);

enum phase { PHASE_LOADING, PHASE_READY, PHASE_DRAINING, PHASE_OVER };

struct gen;
struct looker;

/* What the picture of the experts was last made of. */
struct look {
    uint64_t ns;
    struct pg_stats stats;
};

struct server {
    const struct serve_options *opt;
    enum phase phase;
    struct ledger ledger;
    size_t body_most;
    int conns_most;
    struct guard guard;

    /* The loop. */
    struct event_base *base;
    int listen_fd;
    char listen_text[300]; /* the address in a URL */
    int port;
    bool has_matched;      /* the vocabulary has what matchers of grammars keep with it */
    bool listens, is_late; /* late: the time to drain is over */
    struct event on_accept, on_wake, on_later, on_tick, on_drained, on_term, on_int, on_hup;
    bool has_events;
    uint64_t pumped_ns;
    struct conn *conns;
    int n_conns;
    uint64_t n_idled; /* times that a connection had no request */
    struct gen *gens; /* that have not ended */
    int n_gens;
    struct looker *lookers;
    int n_lookers;
    struct event on_look;
    struct look look;

    /* The engine, from its thread. */
    pthread_t engine_thread;
    bool has_thread;
    pg_engine *engine;
    pg_scheduler *scheduler;
    pg_chat *chat;       /* NULL: the model has no template */
    pg_chat *plain_chat; /* whose calls are JSON without marks */
    char chat_why[508];  /* then, why */
    const pg_vocab *vocab;
    struct pg_model_info info;
    struct pg_plan plan;
    int n_ctx;
    char model_id[128];
    int64_t created; /* seconds since 1970 */

    /* Between the threads. */
    pthread_mutex_t mutex;
    struct gen *woken; /* with something in their queue */
    bool engine_over;  /* its thread has ended, with engine_err where that has a code */
    bool engine_ready, engine_unwanted;
    struct pg_err engine_err;
    int wake_fd;

    /* Counters for /metrics. */
    uint64_t n_by_status[6]; /* 1xx … 5xx */
    uint64_t n_slow, n_gone;
    uint64_t start_ns;
    double prompt_seconds, decode_seconds;
    uint64_t n_ttft, n_e2e;
    double ttft_seconds, e2e_seconds;
};

uint64_t server_now_ns(void);
/* From any thread: the loop looks at `woken` and the engine's state. */
void server_wake(struct server *s);
/* Connections were too many, and now there is room. */
void server_listen_again(struct server *s);
void server_log_request(struct server *s, const struct conn *c);
/* A line "key=value" of printable text. */
__attribute__((format(printf, 2, 3))) void server_log(const char *level, const char *fmt, ...);
/* Random, for ids: `prefix` and 24 characters. */
void server_id(char *out, size_t cap, const char *prefix);

#endif
