/* SPDX-License-Identifier: MIT */
#include "sse.h"
#include "bytes.h"
#include "conn.h"

#include <stdlib.h>
#include <string.h>

static void send_text(struct conn *c, const char *before, const char *event, json_t *j)
{
    struct bytes b = {0};
    char *text = j ? json_dumps(j, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    bool good = text != NULL;
    if (event)
        good = good && bytes_add(&b, "event: ", 7) && bytes_add(&b, event, strlen(event)) &&
               bytes_add(&b, "\n", 1);
    good = good && bytes_add(&b, before, strlen(before)) && bytes_add(&b, text, strlen(text)) &&
           bytes_add(&b, "\n\n", *before ? 2 : 1);
    if (good)
        conn_send(c, b.p, b.n);
    bytes_fini(&b);
    free(text);
    json_decref(j);
}

void sse_send(struct conn *c, const char *event, json_t *j)
{
    send_text(c, "data: ", event, j);
}

void ndjson_send(struct conn *c, json_t *j)
{
    send_text(c, "", NULL, j);
}
