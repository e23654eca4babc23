/* SPDX-License-Identifier: MIT
 * The text of HTTP/1.1 requests: heads and chunked bodies. Bytes in, structs out; no sockets.
 *
 * Strict where two readers could understand differently: lines end with CRLF, a header has no space
 * before its colon and goes on in no second line, there is one Host, one length, and not both a
 * length and chunks.
 */
#ifndef PG_HTTP_PARSE_H
#define PG_HTTP_PARSE_H

#include "limits.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct http_text {
    const char *p;
    size_t n;
};

enum http_method { HTTP_OTHER, HTTP_GET, HTTP_HEAD, HTTP_POST, HTTP_OPTIONS };

struct http_header {
    struct http_text name, value;
};

/* A request's head; its texts lie in what was parsed. */
struct http_head {
    enum http_method method;
    struct http_text method_text, path, query; /* as they were sent, printable ASCII */
    int minor;                                 /* of HTTP/1.x: 0 or 1 */
    int n_headers;
    struct http_header header[LIMIT_HEADERS];
    int64_t length; /* of the body; -1: chunked */
    bool keep_alive, wants_continue;
};

/* Bytes up to and with the empty line that ends a head, or 0 while there is none. */
size_t http_head_end(const char *text, size_t n);
/* 0, or the status that refuses it; *why says what is wrong. */
int http_head_parse(struct http_head *out, const char *text, size_t n, const char **why);
/* The header's value; p NULL where there is none. */
struct http_text http_header_find(const struct http_head *h, const char *name);
bool http_text_is(struct http_text t, const char *word);      /* exactly */
bool http_text_is_like(struct http_text t, const char *word); /* in any case */
/* Whether `word` is one of the value's items, which have commas between. */
bool http_text_lists(struct http_text t, const char *word);

/* Chunks of a body. Start zeroed. */
struct http_chunks {
    enum {
        CHUNK_SIZE,
        CHUNK_EXTENSION,
        CHUNK_LINE_END,
        CHUNK_DATA,
        CHUNK_DATA_CR,
        CHUNK_DATA_LF,
        CHUNK_TRAILER,
        CHUNK_TRAILER_LF,
        CHUNK_DONE
    } state;
    uint64_t left;
    int n_digits, n_line, n_trailers;
    bool line_empty;
};
/* Takes from in[n], and writes what is body to out[n]. Returns 1 when the body is whole, 0 when it
 * is not yet, -1 when it is malformed. */
int http_chunks_take(struct http_chunks *c, struct http_text in, size_t *n_used, char *out,
                     size_t *n_out);

#endif
