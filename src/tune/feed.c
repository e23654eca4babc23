/* SPDX-License-Identifier: MIT */
#include "tune/feed.h"

#include <stdlib.h>
#include <string.h>

/* A session and the piece that it is at. */
struct pg_lane {
    pg_session *session;
    int32_t *token; /* [n_ctx] of the piece */
    int piece, n, done;
};

/* ------------------------------------------------------------------ pieces ------------------ */

static int add_piece(struct pg_feed *f, size_t *cap, struct pg_piece piece, struct pg_err *err)
{
    if (piece.n < 2)
        return 0; /* nothing to predict */
    if ((size_t)f->n_pieces == *cap) {
        size_t more = *cap + *cap / 2 + 64, bytes;
        bool ok = more < INT32_MAX && !__builtin_mul_overflow(more, sizeof(*f->piece), &bytes);
        struct pg_piece *p = ok ? realloc(f->piece, bytes) : NULL;
        if (!p)
            return pg_fail(err, PG_ENOMEM, "out of memory after %d pieces of text", f->n_pieces);
        f->piece = p;
        *cap = more;
    }
    f->piece[f->n_pieces++] = piece;
    f->n_tokens += (uint64_t)piece.n - 1;
    return 0;
}

static int cut(struct pg_feed *f, struct pg_err *err)
{
    const struct pg_feed_options *o = &f->opt;
    size_t n_ctx = (size_t)o->engine->opt.n_ctx, cap = 0;
    int32_t bos = pg_vocab_bos(o->engine->vocab);
    f->n_docs = o->n_max ? PG_MIN(o->n_max, o->docs->n) : o->docs->n;
    for (int i = 0; i < f->n_docs; i++) {
        size_t from = o->docs->first[i], end = o->docs->first[i + 1];
        bool opens = from < end && bos >= 0 && o->docs->token[from] == bos;
        f->n_cut += end - from > n_ctx;
        struct pg_piece piece = {from, (int)PG_MIN(end - from, n_ctx), false};
        PG_TRY(add_piece(f, &cap, piece, err));
        for (from += (size_t)piece.n; o->windows && from < end;) {
            size_t n = PG_MIN(end - from, n_ctx - opens);
            piece = (struct pg_piece){from, (int)n + opens, opens};
            PG_TRY(add_piece(f, &cap, piece, err));
            from += n;
        }
    }
    if (f->n_tokens == 0)
        return pg_fail(err, PG_EARG, "no token to predict: each document is a single token");
    return 0;
}

/* ------------------------------------------------------------------ lanes ------------------- */

static int open_lanes(struct pg_feed *f, struct pg_err *err)
{
    struct pg_engine *e = f->opt.engine;
    uint64_t room = e->session_bytes_left / pg_session_bytes(e, e->opt.n_ctx);
    int n = (int)PG_MIN(PG_MIN(room, (uint64_t)e->opt.n_batch), (uint64_t)f->n_pieces);
    n = PG_MAX(n, 1); /* an engine without room for one says so when it is asked */
    f->lane = pg_calloc((size_t)n, sizeof(*f->lane));
    f->part = pg_calloc((size_t)n, sizeof(*f->part));
    f->row = pg_calloc((size_t)e->opt.n_batch, sizeof(*f->row));
    if (!f->lane || !f->part || !f->row)
        return pg_fail(err, PG_ENOMEM, "out of memory");
    for (; f->n_lanes < n; f->n_lanes++) {
        struct pg_lane *l = &f->lane[f->n_lanes];
        l->token = pg_calloc((size_t)e->opt.n_ctx, sizeof(*l->token));
        if (!l->token)
            return pg_fail(err, PG_ENOMEM, "out of memory");
        int rc = pg_session_open(&l->session, e, NULL, err);
        if (rc) {
            free(l->token);
            return rc;
        }
    }
    return 0;
}

int pg_feed_open(struct pg_feed *f, const struct pg_feed_options *opt, struct pg_err *err)
{
    *f = (struct pg_feed){.opt = *opt};
    int rc = 0;
    if (opt->engine->opt.n_ctx < 2) {
        rc = pg_fail(err, PG_EARG, "a context of %d token predicts nothing: 2 at least are wanted",
                     opt->engine->opt.n_ctx);
    }
    rc = rc ? rc : cut(f, err);
    rc = rc ? rc : open_lanes(f, err);
    if (rc)
        pg_feed_close(f);
    return rc;
}

void pg_feed_close(struct pg_feed *f)
{
    for (int i = 0; i < f->n_lanes; i++) {
        pg_session_close(f->lane[i].session);
        free(f->lane[i].token);
    }
    free(f->lane);
    free(f->part);
    free(f->row);
    free(f->piece);
    *f = (struct pg_feed){0};
}

/* ------------------------------------------------------------------ steps ------------------- */

/* Gives the lane the next piece. False when there is none. */
static bool take_piece(struct pg_feed *f, struct pg_lane *l)
{
    if (f->next == f->n_pieces)
        return false;
    const struct pg_piece *p = &f->piece[f->next];
    const int32_t *text = f->opt.docs->token + p->from;
    l->token[0] = pg_vocab_bos(f->opt.engine->vocab);
    memcpy(l->token + p->opened, text, (size_t)(p->n - p->opened) * sizeof(*text));
    l->piece = f->next++;
    l->n = p->n;
    l->done = 0;
    pg_session_truncate(l->session, 0);
    return true;
}

/* The rows of the next step; returns how many parts they are, and in *n how many rows. */
static int fill_batch(struct pg_feed *f, int *n)
{
    int n_parts = 0, room = f->opt.engine->opt.n_batch;
    *n = 0;
    for (int i = 0; i < f->n_lanes && *n < room; i++) {
        struct pg_lane *l = &f->lane[i];
        if (l->done + 1 >= l->n && !take_piece(f, l))
            continue;
        int take = PG_MIN(l->n - 1 - l->done, room - *n);
        f->part[n_parts++] = (struct pg_row){l->session, l->token + l->done, take};
        for (int j = 0; j < take; j++)
            f->row[(*n)++] = (struct pg_feed_row){l->piece, l->token[l->done + 1 + j]};
        l->done += take;
    }
    return n_parts;
}

int pg_feed_run(struct pg_feed *f, struct pg_err *err)
{
    const struct pg_feed_options *o = &f->opt;
    int n, n_parts;
    while ((n_parts = fill_batch(f, &n)) > 0) {
        PG_TRY(pg_step(o->engine, f->part, n_parts, err));
        PG_TRY(o->step(o->user, f->row, n, err));
        f->done += (uint64_t)n;
        if (o->progress && o->progress(o->progress_user, "tokens", f->done, f->n_tokens)) {
            return pg_fail(err, PG_ECANCELLED, "cancelled after %llu of %llu tokens",
                           (unsigned long long)f->done, (unsigned long long)f->n_tokens);
        }
    }
    return 0;
}
