/* SPDX-License-Identifier: MIT
 * A connection: reads requests, finds out who answers, sends what they say. Loop thread only.
 *
 *   HEAD -> BODY -> BUSY -> FLUSH -> HEAD ...
 *                              \-> LINGER -> closed
 *
 * A handler (route.h) is called in BUSY. It replies at once, or makes itself the owner of the
 * connection and replies or streams later; after that, and never inside a handler, conn_run sends
 * and goes on. conn_run may close the connection and free it.
 */
#ifndef PG_CONN_H
#define PG_CONN_H

#include "http_parse.h"

#include <event2/buffer.h>
#include <event2/event.h>
#include <event2/event_struct.h>

struct server;
struct route;
struct conn;

/* Who answers later. */
struct conn_owner {
    void (*gone)(void *owner); /* the client has; forget the connection */
    void (*room)(void *owner); /* the reader has taken enough for more; may be NULL */
    void (*tick)(void *owner); /* about once a second; may be NULL */
};

enum conn_timer { TIMER_NONE, TIMER_IDLE, TIMER_HEAD, TIMER_BODY, TIMER_WRITE, TIMER_LINGER };

struct conn {
    struct server *server;
    struct conn *prev, *next;
    int fd;
    struct event on_read, on_write, on_timer;
    struct evbuffer *in, *out;
    enum { CONN_HEAD, CONN_BODY, CONN_BUSY, CONN_FLUSH, CONN_LINGER, CONN_DEAD } state;
    enum conn_timer timer;
    bool reads, keep_alive;
    size_t n_lingered;
    uint64_t idled; /* of TIMER_IDLE: in which order */

    /* The request. */
    char *head_text;
    struct http_head head;
    struct http_chunks chunks;
    char *body; /* [n_body], a 0 behind it; cap_body is in the ledger */
    size_t n_body, cap_body;
    size_t n_made; /* bytes that are made of it, also in the ledger */
    const struct route *route;
    struct http_text path_rest; /* of a route that takes what follows */
    struct http_text origin;    /* a page that may read the answer; p NULL: none */

    /* The answer. */
    const struct conn_owner *owner_kind;
    void *owner;
    char more_headers[512];
    int status;
    bool streams, chunked;
    uint64_t start_ns, sent_ns;
    uint64_t n_sent;
    struct {
        int n_prompt, n_reused, n_predicted;
        double queue_ms, prompt_ms, decode_ms;
    } work; /* for the log */
};

/* Takes over fd. */
void conn_open(struct server *s, int fd);
void conn_run(struct conn *c);
/* The owner gives the connection up, which closes: no more is said. Not inside a handler. */
void conn_drop(struct conn *c);

/* The connection that has been between requests for longest, and still is; NULL: none is. */
struct conn *conn_idlest(struct server *s);

void conn_own(struct conn *c, const struct conn_owner *kind, void *owner);
/* Of the reply that follows. */
__attribute__((format(printf, 3, 4))) void conn_header(struct conn *c, const char *name,
                                                       const char *fmt, ...);
void conn_reply(struct conn *c, int status, const char *type, const void *body, size_t n);
void conn_stream(struct conn *c, const char *type);
void conn_send(struct conn *c, const void *data, size_t n); /* a piece of the stream */
void conn_finish(struct conn *c);                           /* the stream is whole */
/* Whether the reader has so much to take already that the stream should wait. */
bool conn_is_full(const struct conn *c);

#endif
