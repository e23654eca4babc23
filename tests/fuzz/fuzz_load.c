/* SPDX-License-Identifier: MIT
 * What a server sends to `pregate load`. The first byte says what it is: R a reply, M metrics. A
 * reply must come out the same whether it arrives at once or in pieces.
 */
#include "base/err.h"

#include <load_wire.h>

#include <stdlib.h>
#include <string.h>

static void count(void *user)
{
    ++*(int *)user;
}

/* Whole with size 0, or in pieces of 1 to `size` bytes, each in memory of its own. */
static void feed(struct load_reply *r, const char *bytes, size_t n, size_t size)
{
    uint32_t state = (uint32_t)n;
    for (size_t i = 0; i < n && r->cause == LOAD_GOING;) {
        state = state * 1664525 + 1013904223;
        size_t take = size ? 1 + (state >> 16) % size : n;
        take = take < n - i ? take : n - i;
        char *piece = malloc(take);
        PG_ASSERT(piece);
        memcpy(piece, bytes + i, take);
        load_reply_put(r, piece, take);
        free(piece);
        i += take;
    }
    if (r->cause == LOAD_GOING)
        load_reply_close(r);
    PG_ASSERT(r->cause < LOAD_CAUSES);
    PG_ASSERT(r->cause != LOAD_DONE || (r->is_done && r->http.status == 200));
    PG_ASSERT(r->cause == LOAD_DONE || memchr(r->said, '\0', sizeof(r->said)));
}

static void reply(const char *bytes, size_t n)
{
    int n_whole = 0, n_pieces = 0;
    struct load_reply whole, pieces;
    load_reply_init(&whole, count, &n_whole);
    load_reply_init(&pieces, count, &n_pieces);
    feed(&whole, bytes, n, 0);
    feed(&pieces, bytes, n, n % 7 + 1);
    PG_ASSERT(whole.cause == pieces.cause && !strcmp(whole.said, pieces.said));
    PG_ASSERT(whole.n_pieces == pieces.n_pieces && n_whole == n_pieces);
    PG_ASSERT(whole.n_tokens == pieces.n_tokens && whole.n_prompt == pieces.n_prompt);
    PG_ASSERT(whole.text_hash == pieces.text_hash && whole.text_bytes == pieces.text_bytes);
    PG_ASSERT(!strcmp(whole.finish, pieces.finish));
    load_reply_fini(&whole);
    load_reply_fini(&pieces);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    double v;
    if (n == 0)
        return 0;
    if (bytes[0] == 'M') {
        load_counter((const char *)bytes + 1, n - 1, "a_total", &v);
        load_counter((const char *)bytes + 1, n - 1, "a_total{b=\"c\"}", &v);
    } else {
        reply((const char *)bytes + 1, n - 1);
    }
    return 0;
}
