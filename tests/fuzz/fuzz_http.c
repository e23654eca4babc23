/* SPDX-License-Identifier: MIT
 * What clients send to the server. The first byte says what it is: H a head, C the chunks of a
 * body, J its JSON. Chunks must come out the same whether they arrive at once or in pieces.
 */
#include "base/err.h"

#include "../../apps/server/http_parse.h"
#include "../../apps/server/json_in.h"

#include <stdlib.h>
#include <string.h>

static bool lies_in(struct http_text t, const char *text, size_t n)
{
    return !t.p || (t.p >= text && t.p + t.n <= text + n);
}

static void head(const char *text, size_t n)
{
    struct http_head h;
    const char *why = NULL;
    const size_t end = http_head_end(text, n);
    PG_ASSERT(end <= n && (!end || !memcmp(text + end - 4, "\r\n\r\n", 4)));
    const int status = http_head_parse(&h, text, end ? end : n, &why);
    PG_ASSERT(status == 0 || (status >= 400 && status <= 505 && why));
    if (status)
        return;
    PG_ASSERT(end && h.n_headers <= LIMIT_HEADERS && h.length >= -1);
    PG_ASSERT(lies_in(h.path, text, n) && lies_in(h.query, text, n) && h.path.p[0] == '/');
    for (int i = 0; i < h.n_headers; i++)
        PG_ASSERT(lies_in(h.header[i].name, text, n) && lies_in(h.header[i].value, text, n));
    PG_ASSERT(!memchr(h.path.p, '\0', h.path.n));
    http_text_lists(http_header_find(&h, "Connection"), "close");
}

/* In pieces of `size` bytes, each in memory of its own; the body is in out[n], its length is
 * returned, and the state at the end is in *rc. */
static size_t chunks(const char *text, size_t n, size_t size, char *out, int *rc)
{
    struct http_chunks c = {0};
    size_t n_out = 0;
    *rc = 0;
    for (size_t at = 0; at < n && !*rc;) {
        const size_t take = size < n - at ? size : n - at;
        char *in = malloc(take), *body = malloc(take);
        size_t used, made;
        PG_ASSERT(in && body);
        memcpy(in, text + at, take);
        *rc = http_chunks_take(&c, (struct http_text){in, take}, &used, body, &made);
        PG_ASSERT(used <= take && made <= used && (*rc || used == take));
        memcpy(out + n_out, body, made);
        n_out += made;
        at += take;
        free(in);
        free(body);
    }
    return n_out;
}

static void body(const char *text, size_t n)
{
    char *whole = malloc(n + 1), *pieces = malloc(n + 1);
    int rc, rc_pieces;
    PG_ASSERT(whole && pieces);
    const size_t n_whole = chunks(text, n, n ? n : 1, whole, &rc);
    for (size_t size = 1; size < 8; size++) {
        const size_t n_pieces = chunks(text, n, size, pieces, &rc_pieces);
        PG_ASSERT(rc == rc_pieces && n_whole == n_pieces && !memcmp(whole, pieces, n_whole));
    }
    free(whole);
    free(pieces);
}

static void json(const char *text, size_t n)
{
    struct fault f = {0};
    float real = 1;
    int64_t whole = 1;
    json_t *j = json_weight(text, n, &f) ? json_read_object(text, n, &f) : NULL;
    PG_ASSERT((j == NULL) == (f.status != 0));
    if (!j)
        return;
    const struct in in = {j, &f, NULL};
    in_int(&in, "n", -5, 5, &whole);
    in_real(&in, "t", 0, 2, &real);
    in_text(&in, "s");
    in_array(&in, "l", 3);
    PG_ASSERT(whole >= -5 && whole <= 5 && real >= 0 && real <= 2);
    PG_ASSERT(f.status == 0 || (f.status == 400 && f.param[0]));
    json_decref(j);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data + 1;
    if (size == 0)
        return 0;
    char *copy = malloc(size); /* so that reading past its end is seen */
    PG_ASSERT(copy);
    memcpy(copy, text, size - 1);
    if (data[0] == 'H')
        head(copy, size - 1);
    else if (data[0] == 'C')
        body(copy, size - 1);
    else if (data[0] == 'J')
        json(copy, size - 1);
    free(copy);
    return 0;
}
