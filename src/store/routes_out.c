/* SPDX-License-Identifier: MIT
 * Routes on their way to a file: a line a token, when the step that ran it is done.
 */
#include "store/routes.h"

#include <stdio.h>

#define TEXT_BYTES ((size_t)1 << 16)

/* Of one token, with all that stands between the ids. */
static size_t line_bytes(const struct pg_routes_out *o)
{
    return 64 + (size_t)o->n_blocks * (4 + 7 * (size_t)o->n_used);
}

void pg_routes_out_carve(struct pg_routes_out *o, int max_tok, struct pg_arena *a)
{
    size_t n = (size_t)max_tok * (size_t)o->n_blocks * (size_t)o->n_used;
    o->cap_text = PG_MAX(TEXT_BYTES, line_bytes(o));
    o->ids = pg_arena_take(a, n * sizeof(*o->ids));
    o->text = pg_arena_take(a, o->cap_text);
}

int pg_routes_out_open(struct pg_routes_out *o, const char *path, struct pg_err *err)
{
    o->n_tokens = 0;
    o->n_text = 0;
    int rc = pg_outfile_open(&o->file, path, err);
    o->open = !rc;
    return rc;
}

void pg_routes_out_close(struct pg_routes_out *o)
{
    if (o->open)
        pg_outfile_abandon(&o->file);
    o->open = false;
}

static uint16_t *ids_of(const struct pg_routes_out *o, int token, int block)
{
    return o->ids + ((size_t)token * (size_t)o->n_blocks + (size_t)block) * (size_t)o->n_used;
}

void pg_routes_out_add(struct pg_routes_out *o, int block, const int32_t *id, int n_tok)
{
    PG_ASSERT(block >= 0 && block < o->n_blocks);
    for (int t = 0; t < n_tok; t++)
        for (int i = 0; i < o->n_used; i++)
            ids_of(o, t, block)[i] = (uint16_t)id[(size_t)t * (size_t)o->n_used + (size_t)i];
}

static int flush(struct pg_routes_out *o, struct pg_err *err)
{
    size_t n = o->n_text;
    o->n_text = 0;
    return n ? pg_outfile_write(&o->file, o->text, n, err) : 0;
}

/* The lists of other blocks are empty. */
static void put_token(struct pg_routes_out *o, struct pg_span span, int t)
{
    char *at = o->text + o->n_text;
    at += sprintf(at, "{\"tok\": %llu, \"layers\": [", (unsigned long long)o->n_tokens++);
    for (int block = 0; block < o->n_blocks; block++) {
        const uint16_t *id = ids_of(o, t, block);
        const bool there = block >= span.first && block < span.first + span.n;
        at += sprintf(at, "%s", block ? ", [" : "[");
        for (int i = 0; there && i < o->n_used; i++)
            at += sprintf(at, "%s%u", i ? ", " : "", id[i]);
        *at++ = ']';
    }
    at += sprintf(at, "]}\n");
    o->n_text = (size_t)(at - o->text);
    PG_ASSERT(o->n_text <= o->cap_text);
}

int pg_routes_out_step(struct pg_routes_out *o, struct pg_span span, int n_tok, struct pg_err *err)
{
    for (int t = 0; t < n_tok && span.n > 0; t++) {
        if (o->cap_text - o->n_text < line_bytes(o))
            PG_TRY(flush(o, err));
        put_token(o, span, t);
    }
    return 0;
}

int pg_routes_out_finish(struct pg_routes_out *o, struct pg_err *err)
{
    int rc = flush(o, err);
    rc = rc ? rc : pg_outfile_commit(&o->file, err);
    if (rc)
        pg_outfile_abandon(&o->file);
    o->open = false;
    return rc;
}
