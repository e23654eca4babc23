/* SPDX-License-Identifier: MIT
 * What `pregate load` reads from a server: HTTP/1.1 replies, server-sent events, the chunks of a
 * completion in them, and counters in Prometheus' text. No sockets and no clock, so that tests and
 * fuzzing reach all of it. Bytes come in pieces of any size; every buffer has a bound, and a reply
 * that passes one is an error, not a wait.
 */
#ifndef PG_LOAD_WIRE_H
#define PG_LOAD_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    LOAD_LINE_MAX = 8 << 10,    /* of a header, or of a chunk's size */
    LOAD_HEAD_MAX = 64 << 10,   /* all headers of a reply, its trailers too */
    LOAD_EVENT_MAX = 256 << 10, /* data of an event */
    LOAD_BODY_MAX = 256 << 20,  /* a reply */
    LOAD_CHUNKS_MAX = 1 << 20,  /* pieces of text in a reply */
    LOAD_SAID = 240
};

/* How a request ended. */
enum load_cause {
    LOAD_DONE,
    LOAD_CONNECT,     /* no connection */
    LOAD_STATUS,      /* a status other than 200 */
    LOAD_TIMEOUT,     /* not done in time */
    LOAD_CUT,         /* the connection, or the stream, ended in the middle */
    LOAD_HTTP,        /* not HTTP/1.1 as the standard has it */
    LOAD_SSE,         /* not events with the chunks of a completion */
    LOAD_SAID_ERROR,  /* an event that says what went wrong in the server */
    LOAD_NOT_SENT,    /* this program could not: too many under way, no memory */
    LOAD_INTERRUPTED, /* the user had enough: neither done nor failed */
    LOAD_CAUSES,
    LOAD_GOING = LOAD_CAUSES
};
const char *load_cause_name(enum load_cause cause);

/* ---------------------------------------------------------------- HTTP ---------------------- */

enum load_http_at {
    LOAD_AT_STATUS,
    LOAD_AT_HEADER,
    LOAD_AT_LENGTH, /* a body whose length was said */
    LOAD_AT_SIZE,   /* the line before a chunk */
    LOAD_AT_CHUNK,
    LOAD_AT_CRLF, /* the line end after a chunk */
    LOAD_AT_TRAILER,
    LOAD_AT_REST, /* a body that ends with the connection */
    LOAD_AT_END
};

/* One reply. Zeroed, with body and user set, it is ready. */
struct load_http {
    /* Takes the next bytes of the body; not 0 ends the reading. */
    int (*body)(void *user, const char *bytes, size_t n);
    void *user;
    enum load_http_at at;
    int status;       /* 0: not read yet */
    bool keep;        /* the connection may have another request afterwards */
    bool is_stream;   /* text/event-stream */
    const char *what; /* is wrong with it, or NULL */
    bool has_length, is_chunked;
    uint64_t left;   /* bytes of this chunk or body */
    uint64_t n_body; /* bytes so far */
    int n_interim;   /* replies of 1xx before this one */
    size_t n_head, n_line;
    char line[LOAD_LINE_MAX];
};
/* Reads on. Returns how many bytes were taken: fewer than n once the reply has ended, is wrong
 * (`what`), or body() said so. */
size_t load_http_put(struct load_http *h, const char *bytes, size_t n);
/* The connection has ended: whether the reply is whole. */
bool load_http_close(struct load_http *h);

/* ---------------------------------------------------------------- server-sent events -------- */

/* Zeroed, with event and user set, it is ready; load_sse_fini frees what it took. */
struct load_sse {
    /* The data of one event, lines joined by \n; not 0 ends the reading. */
    int (*event)(void *user, const char *data, size_t n);
    void *user;
    char *line, *data;
    size_t n_line, cap_line, n_data, cap_data;
    bool has_data, after_cr, begun;
    const char *what; /* is wrong with it, or NULL */
};
/* 0, or not: `what` is wrong, or event() said so. */
int load_sse_put(struct load_sse *s, const char *bytes, size_t n);
void load_sse_fini(struct load_sse *s);

/* ---------------------------------------------------------------- a completion -------------- */

/* A streamed reply to a request for a completion. */
struct load_reply {
    struct load_http http;
    struct load_sse sse;
    /* A piece of text has come. */
    void (*piece)(void *user);
    void *user;
    enum load_cause cause;
    bool is_done;         /* [DONE] was read */
    bool closed;          /* no more can be read on this connection */
    char said[LOAD_SAID]; /* what was wrong, in words */
    char finish[24];      /* finish_reason; "" = none was given */
    int64_t n_tokens;     /* usage; -1: not given */
    int64_t n_prompt;     /* the same */
    int64_t n_cached;     /* the same */
    int64_t n_pieces;     /* events with text */
    uint64_t text_bytes;
    uint64_t text_hash; /* FNV-1a of the text, 64 bits */
    char *rest;         /* the beginning of a body that is no stream */
    size_t n_rest;
};
void load_reply_init(struct load_reply *r, void (*piece)(void *user), void *user);
void load_reply_fini(struct load_reply *r);
/* Reads on, and says whether that was all: LOAD_GOING, or how it ended. After [DONE] it goes on
 * until the HTTP reply is whole, so that the connection can be used again. */
enum load_cause load_reply_put(struct load_reply *r, const char *bytes, size_t n);
/* The connection has ended. */
enum load_cause load_reply_close(struct load_reply *r);
/* It is given up, for a cause that the wire does not show. */
enum load_cause load_reply_give_up(struct load_reply *r, enum load_cause cause, const char *said);

/* ---------------------------------------------------------------- counters ------------------ */

/* The sum of all series of this name in Prometheus' text, or of the one series that is named with
 * its labels. Returns whether there is one, and all are numbers. */
bool load_counter(const char *text, size_t n, const char *name, double *out);

#endif
