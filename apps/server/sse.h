/* SPDX-License-Identifier: MIT
 * Pieces of a stream: server-sent events, and JSON a line. Each takes j.
 */
#ifndef PG_SERVER_SSE_H
#define PG_SERVER_SSE_H

#include <jansson.h>

struct conn;

/* "data: …", after "event: NAME" where there is one. */
void sse_send(struct conn *c, const char *event, json_t *j);
void ndjson_send(struct conn *c, json_t *j);

#define SSE_TYPE    "text/event-stream; charset=utf-8"
#define NDJSON_TYPE "application/x-ndjson"

#endif
