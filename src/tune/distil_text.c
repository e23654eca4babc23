/* SPDX-License-Identifier: MIT
 * Documents to pieces that fit the context; which of them are held out.
 *
 * What is held out are whole documents, drawn by the seed. Of a text of a
 * single document its beginning is.
 */
#include "tune/distil.h"

#include <math.h>
#include <stdlib.h>

struct cutter {
    struct pg_distil_text *text;
    const struct pg_distil_split *how;
    size_t cap;
    uint64_t left; /* tokens that may still be taken */
};

static int add_piece(struct cutter *c, struct pg_distil_piece piece, struct pg_err *err)
{
    struct pg_distil_text *t = c->text;
    if (t->n_pieces == (int)c->cap) {
        size_t more = c->cap + c->cap / 2 + 64, bytes;
        bool ok = more < INT32_MAX && !__builtin_mul_overflow(more, sizeof(*t->piece), &bytes);
        struct pg_distil_piece *p = ok ? realloc(t->piece, bytes) : NULL;
        if (!p)
            return pg_fail(err, PG_ENOMEM, "out of memory after %d pieces of text", t->n_pieces);
        t->piece = p;
        c->cap = more;
    }
    t->piece[t->n_pieces++] = piece;
    t->longest = PG_MAX(t->longest, piece.n);
    c->left -= (uint64_t)piece.n;
    return 0;
}

/* Pieces after the first begin with a beginning-of-text token of their own if the document does. */
static int cut_document(struct cutter *c, int doc, struct pg_err *err)
{
    const struct pg_docs *d = &c->text->docs;
    size_t from = d->first[doc], end = d->first[doc + 1], n_ctx = (size_t)c->how->n_ctx;
    bool opens = from < end && d->token[from] == c->text->bos && n_ctx > 1, opened = false;
    while (from < end && c->left > opened) {
        size_t n = PG_MIN(PG_MIN(end - from, n_ctx - opened), c->left - opened);
        PG_TRY(add_piece(c, (struct pg_distil_piece){from, (int)n + opened, opened}, err));
        from += n;
        opened = opens;
    }
    return 0;
}

static uint64_t count(const struct pg_distil_piece *piece, int n)
{
    uint64_t sum = 0;
    for (int i = 0; i < n; i++)
        sum += (uint64_t)piece[i].n;
    return sum;
}

/* Of n things, how many are held out: at least one, and not all. */
static int n_held_of(int n, float holdout)
{
    return (int)PG_MAX(1, PG_MIN((long)n - 1, lroundf((float)n * holdout)));
}

/* Held-out documents come first, so that a bound on the tokens does not leave them out. */
static int cut_all(struct cutter *c, const int32_t *order, int n_held, struct pg_err *err)
{
    struct pg_distil_text *t = c->text;
    for (int i = 0; i < t->docs.n; i++) {
        t->n_held = i == n_held ? t->n_pieces : t->n_held;
        PG_TRY(cut_document(c, order[i], err));
    }
    if (t->docs.n == 1 && t->n_pieces > 1)
        t->n_held = n_held_of(t->n_pieces, c->how->holdout);
    return 0;
}

int pg_distil_cut(struct pg_distil_text *text, const struct pg_distil_split *how,
                  struct pg_err *err)
{
    struct pg_docs *d = &text->docs;
    struct cutter c = {.text = text, .how = how, .left = how->n_tokens};
    int32_t *order = pg_calloc((size_t)d->n, sizeof(*order));
    if (!order)
        return pg_fail(err, PG_ENOMEM, "out of memory");
    pg_shuffle(order, d->n, how->seed, PG_STREAM_DOCS);
    int rc = cut_all(&c, order, d->n > 1 ? n_held_of(d->n, how->holdout) : 0, err);
    free(order);
    PG_TRY(rc);
    if (text->n_held == 0 || text->n_held == text->n_pieces) {
        return pg_fail(err, PG_EARG,
                       "%d document in %d piece found: two documents are wanted at least, or one "
                       "longer than the context of %d tokens, so that one part can be held out",
                       d->n, text->n_pieces, how->n_ctx);
    }
    text->n_held_tokens = count(text->piece, text->n_held);
    text->n_train_tokens = count(text->piece + text->n_held, text->n_pieces - text->n_held);
    return 0;
}

int pg_distil_round_end(const struct pg_distil_text *text, int first, size_t n_tokens)
{
    size_t sum = 0;
    int i = first;
    while (i < text->n_pieces && sum + (size_t)text->piece[i].n <= n_tokens)
        sum += (size_t)text->piece[i++].n;
    PG_ASSERT(i > first || first == text->n_pieces);
    return i;
}

void pg_distil_text_close(struct pg_distil_text *text)
{
    pg_docs_close(&text->docs);
    free(text->piece);
    *text = (struct pg_distil_text){0};
}
