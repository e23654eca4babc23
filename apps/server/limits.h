/* SPDX-License-Identifier: MIT
 * Every bound of the server, in one place; docs/serve.md has the same table in words.
 */
#ifndef PG_SERVER_LIMITS_H
#define PG_SERVER_LIMITS_H

enum {
    /* Connections. */
    LIMIT_HEAD = 16 << 10,        /* bytes of a request's line and headers */
    LIMIT_HEADERS = 64,           /* lines of it */
    LIMIT_TARGET = 4 << 10,       /* bytes of the path with its query */
    LIMIT_BODY = 8 << 20,         /* bytes of a body at most; less with a small budget */
    LIMIT_CHUNK_LINE = 256,       /* bytes of the line that gives a chunk's size */
    LIMIT_TRAILERS = 4 << 10,     /* bytes after a chunked body; they are ignored */
    LIMIT_CONNECTIONS = 1024,     /* open at once at most; fewer with a small budget */
    LIMIT_CONNECTIONS_LEAST = 16, /* however small the budget is */
    LIMIT_READ_AHEAD = 32 << 10,  /* bytes taken from a socket before they are needed */
    LIMIT_OUT = 256 << 10,        /* of a stream that its reader has not taken; then it pauses */
    LIMIT_LINGER = 4 << 20,       /* bytes thrown away after an error, so that it is read */
    LIMIT_ACCEPTS = 64,           /* connections taken in a row */

    /* Seconds. */
    LIMIT_HEAD_SECONDS = 10,  /* from the first byte to the end of the headers */
    LIMIT_IDLE_SECONDS = 60,  /* between requests */
    LIMIT_BODY_SECONDS = 60,  /* for the whole body */
    LIMIT_WRITE_SECONDS = 30, /* without the reader taking a byte */
    LIMIT_LINGER_SECONDS = 2,
    LIMIT_PING_SECONDS = 10, /* silence on a stream before a comment is sent */

    /* Microseconds in which tokens that come close together are gathered into one event. */
    LIMIT_GATHER_US = 8000,

    /* JSON of a body. */
    LIMIT_JSON_DEPTH = 64,
    LIMIT_JSON_ARRAY = 224, /* bytes an object or array takes in memory, and any value */
    LIMIT_JSON_VALUE = 144,

    LIMIT_MADE_PART = 8, /* bytes that are made of each byte of a body, besides */

    /* A request. */
    LIMIT_MESSAGES = 4096,
    LIMIT_PARTS = 1024, /* of a message */
    LIMIT_TOOLS = 128,
    LIMIT_TOOL_NAME = 64,
    LIMIT_CHOICES = 8, /* n */
    LIMIT_PROMPTS = 8, /* of a completion */
    LIMIT_STOPS = 16,  /* of the native form; OpenAI's has 4 */
    LIMIT_STOP_BYTES = 256,
    LIMIT_BIAS = 1024,
    LIMIT_TOP_LOGPROBS = 20,
    LIMIT_LOGPROB_BYTES = 1024,      /* that one takes as JSON in memory */
    LIMIT_LOGPROBS_PART = 128 << 10, /* bytes of them that a stream gathers for one event */
    LIMIT_GRAMMAR = 256 << 10,       /* bytes of GBNF or of a schema */
    LIMIT_TAIL = 256,                /* bytes of the prompt's end that are looked at for <think> */
    LIMIT_WAITING = 64,              /* requests in the queue, beside those that run */
    LIMIT_QUEUE = 8 << 20,           /* bytes of an answer that wait to be sent or are kept whole */
    LIMIT_LOOKERS = 16,              /* that watch the experts at once */

    /* Keys and names. */
    LIMIT_KEYS = 64,
    LIMIT_KEY = 255,
    LIMIT_NAMES = 32, /* of hosts, and of origins */
    LIMIT_NAME = 255,

    /* Memory of the server: a part of the budget, between these. */
    LIMIT_LEDGER_PART = 16,
    LIMIT_LEDGER_LEAST = 1 << 20,
    LIMIT_LEDGER_MOST = 128 << 20,
    LIMIT_BODY_PART = 12,        /* of that, the largest body */
    LIMIT_CONN_BYTES = 12 << 10, /* what a connection holds before its body */
};

#endif
