/* SPDX-License-Identifier: MIT
 * Documents to pieces that fit the context; which of them are held out.
 *
 * What is held out are whole documents, drawn by the seed. Of a text of a
 * single document its beginning is. A line of pairs is a document.
 */
#include "distil/distil.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Tokens of a piece in a stack. */
static int n_tokens_of(const struct pg_distil_text *t, int i, int stack)
{
    if (t->n_stacks == 1)
        return t->pieces.at[i].n;
    return stack == 0 ? t->pairs.at[i].n_source : t->pairs.at[i].n_target;
}

uint64_t pg_distil_count(const struct pg_distil_text *t, int first, int end)
{
    uint64_t sum = 0;
    for (int i = first; i < end; i++)
        for (int stack = 0; stack < t->n_stacks; stack++)
            sum += (uint64_t)n_tokens_of(t, i, stack);
    return sum;
}

static void count_stack(struct pg_distil_text *t, int stack)
{
    struct pg_distil_tokens *x = &t->stack[stack];
    for (int i = 0; i < t->n; i++) {
        const int n = n_tokens_of(t, i, stack);
        *(i < t->n_held ? &x->n_held : &x->n_train) += (uint64_t)n;
        x->longest = PG_MAX(x->longest, n);
    }
}

/* What is there, when all is cut. */
static int count(struct pg_distil_text *t, const struct pg_distil_split *how, int n_docs,
                 struct pg_err *err)
{
    if (t->n_held == 0 || t->n_held == t->n) {
        return pg_fail(err, PG_EARG,
                       "%d documents found, of which %llu tokens are taken at most: two documents "
                       "are wanted, or one longer than the context of %d tokens, so that one part "
                       "can be held out",
                       n_docs, (unsigned long long)how->n_tokens, how->n_ctx);
    }
    uint64_t most = 0;
    for (int i = 0; i < t->n_stacks; i++) {
        const struct pg_distil_tokens *x = &t->stack[i];
        count_stack(t, i);
        if (x->learns && x->n_train + x->n_held > most) {
            most = x->n_train + x->n_held;
            t->most = i;
        }
    }
    t->n_train_tokens = t->stack[t->most].n_train;
    t->n_held_tokens = t->stack[t->most].n_held;
    return 0;
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
    text->n = text->pieces.n;
    text->n_stacks = 1;
    text->stack[0].learns = true;
    return count(text, how, d->n, err);
}

/* The first pair of each document that has one, and behind the last the number of pairs; into
 * `first`, [n + 1]. Returns how many documents. */
static int find_docs(const struct pg_pairs *p, int32_t *first)
{
    int n = 0;
    for (int i = 0; i < p->n; i++)
        if (i == 0 || p->at[i].doc != p->at[i - 1].doc)
            first[n++] = i;
    first[n] = p->n;
    return n;
}

/* Documents in the order that the seed draws. */
static void shuffle_pairs(struct pg_distil_text *t, const struct pg_distil_split *how,
                          const struct pg_pair *from, int32_t *first, int32_t *order)
{
    const int n_docs = find_docs(&t->pairs, first);
    const int n_held = n_docs > 1 ? n_held_of(n_docs, how->holdout) : 0;
    int n = 0;
    pg_shuffle(order, n_docs, how->seed, PG_STREAM_DOCS);
    for (int i = 0; i < n_docs; i++) {
        t->n_held = i == n_held ? n : t->n_held;
        for (int k = first[order[i]]; k < first[order[i] + 1]; k++)
            t->pairs.at[n++] = from[k];
    }
    if (n_docs == 1 && t->n > 1)
        t->n_held = n_held_of(t->n, how->holdout);
}

int pg_distil_pair(struct pg_distil_text *text, const struct pg_distil_split *how,
                   struct pg_err *err)
{
    struct pg_pairs *p = &text->pairs;
    for (; p->n > 2 && p->n_tokens > how->n_tokens; p->n--) /* the last may be more than is left */
        p->n_tokens -= (size_t)p->at[p->n - 1].n_source + (size_t)p->at[p->n - 1].n_target;
    size_t n = (size_t)p->n;
    struct pg_pair *from = pg_calloc(n, sizeof(*from));
    int32_t *first = pg_calloc(n + 1, sizeof(*first)), *order = pg_calloc(n, sizeof(*order));
    int rc = from && first && order ? 0 : pg_fail(err, PG_ENOMEM, "out of memory");
    text->n = p->n;
    text->n_stacks = 2;
    if (!rc) {
        memcpy(from, p->at, n * sizeof(*from));
        shuffle_pairs(text, how, from, first, order);
        rc = count(text, how, p->n_docs, err);
    }
    free(from);
    free(first);
    free(order);
    return rc;
}

/* How many tokens of a stack come with one of the stack `most`, in that part of the text where they
 * are more. */
static double share_of(const struct pg_distil_text *t, int stack)
{
    const struct pg_distil_tokens *x = &t->stack[stack], *most = &t->stack[t->most];
    double train = (double)x->n_train / (double)PG_MAX(most->n_train, 1u);
    double held = (double)x->n_held / (double)PG_MAX(most->n_held, 1u);
    return PG_MAX(train, held);
}

/* Rounds of few tokens have other shares, by a piece or two. */
size_t pg_distil_cap(const struct pg_distil_text *t, int stack, size_t n_tokens)
{
    if (stack == t->most)
        return n_tokens;
    return (size_t)ceil((double)n_tokens * share_of(t, stack)) +
           2 * (size_t)t->stack[stack].longest;
}

int pg_distil_round_end(const struct pg_distil_text *t, int first, size_t n_tokens)
{
    size_t sum[PG_STACKS] = {0};
    int i = first;
    for (bool fits = true; i < t->n && fits; i += fits) {
        for (int k = 0; k < t->n_stacks; k++) {
            sum[k] += (size_t)n_tokens_of(t, i, k);
            fits = fits && (!t->stack[k].learns || sum[k] <= pg_distil_cap(t, k, n_tokens));
        }
    }
    PG_ASSERT(i > first || first == t->n);
    return i;
}

void pg_distil_text_close(struct pg_distil_text *text)
{
    pg_docs_close(&text->docs);
    pg_pieces_close(&text->pieces);
    pg_pairs_close(&text->pairs);
    *text = (struct pg_distil_text){0};
}
