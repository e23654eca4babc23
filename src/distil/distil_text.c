/* SPDX-License-Identifier: MIT
 * Documents to pieces that fit the context; which of them are held out.
 *
 * What is held out are whole documents, drawn by the seed. Of a text of a
 * single document its beginning is.
 */
#include "distil/distil.h"

#include <math.h>
#include <stdlib.h>

static uint64_t count(const struct pg_pieces *p, int from, int end)
{
    uint64_t sum = 0;
    for (int i = from; i < end; i++)
        sum += (uint64_t)p->at[i].n;
    return sum;
}

/* Of n things, how many are held out: at least one, and not all. */
static int n_held_of(int n, float holdout)
{
    return (int)PG_MAX(1, PG_MIN((long)n - 1, lroundf((float)n * holdout)));
}

/* Held-out documents come first, so that a bound on the tokens does not leave them out. */
static int cut_all(struct pg_distil_text *t, const struct pg_distil_split *how,
                   const int32_t *order, struct pg_err *err)
{
    struct pg_cut cut = {.n_ctx = (size_t)how->n_ctx, .bos = t->bos, .left = how->n_tokens};
    int n_held = t->docs.n > 1 ? n_held_of(t->docs.n, how->holdout) : 0;
    for (int i = 0; i < t->docs.n; i++) {
        t->n_held = i == n_held ? t->pieces.n : t->n_held;
        PG_TRY(pg_pieces_cut(&t->pieces, &t->docs, order[i], &cut, err));
    }
    if (t->docs.n == 1 && t->pieces.n > 1)
        t->n_held = n_held_of(t->pieces.n, how->holdout);
    return 0;
}

int pg_distil_cut(struct pg_distil_text *text, const struct pg_distil_split *how,
                  struct pg_err *err)
{
    struct pg_docs *d = &text->docs;
    int32_t *order = pg_calloc((size_t)d->n, sizeof(*order));
    if (!order)
        return pg_fail(err, PG_ENOMEM, "out of memory");
    pg_shuffle(order, d->n, how->seed, PG_STREAM_DOCS);
    int rc = cut_all(text, how, order, err);
    free(order);
    PG_TRY(rc);
    if (text->n_held == 0 || text->n_held == text->pieces.n) {
        return pg_fail(err, PG_EARG,
                       "%d documents found, of which %llu tokens are taken at most: two documents "
                       "are wanted, or one longer than the context of %d tokens, so that one part "
                       "can be held out",
                       d->n, (unsigned long long)how->n_tokens, how->n_ctx);
    }
    text->n_held_tokens = count(&text->pieces, 0, text->n_held);
    text->n_train_tokens = count(&text->pieces, text->n_held, text->pieces.n);
    return 0;
}

int pg_distil_round_end(const struct pg_distil_text *text, int first, size_t n_tokens)
{
    size_t sum = 0;
    int i = first;
    while (i < text->pieces.n && sum + (size_t)text->pieces.at[i].n <= n_tokens)
        sum += (size_t)text->pieces.at[i++].n;
    PG_ASSERT(i > first || first == text->pieces.n);
    return i;
}

void pg_distil_text_close(struct pg_distil_text *text)
{
    pg_docs_close(&text->docs);
    pg_pieces_close(&text->pieces);
    *text = (struct pg_distil_text){0};
}
