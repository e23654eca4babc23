/* SPDX-License-Identifier: MIT
 * The text that pre-gates learn from by the loss, and the part of it that is only measured on:
 * whole documents, those that distilling holds out; of a single one its beginning.
 */
#include "base/random.h"
#include "distil/distil.h"
#include "distil/lm.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MEASURED_BATCHES = 8 }; /* at most */

static int n_held_of(const struct pg_lm *t, int n_docs)
{
    return (int)PG_MAX(1, PG_MIN((long)n_docs - 1, lroundf((float)n_docs * t->opt.holdout)));
}

/* ------------------------------------------------------------------ documents --------------- */

/* Room for n_docs documents of n_tokens together. */
static int docs_open(struct pg_docs *d, size_t n_tokens, size_t n_docs, struct pg_err *err)
{
    *d = (struct pg_docs){.token = pg_calloc(n_tokens + 1, sizeof(*d->token)),
                          .first = pg_calloc(n_docs + 1, sizeof(*d->first))};
    return d->token && d->first ? 0
                                : pg_fail(err, PG_ENOMEM, "out of memory for %zu tokens", n_tokens);
}

static void docs_add(struct pg_docs *d, const int32_t *token, size_t n)
{
    size_t at = d->first[d->n];
    memcpy(d->token + at, token, n * sizeof(*token));
    d->first[++d->n] = at + n;
}

static int split(struct pg_lm *t, const struct pg_docs *all, struct pg_err *err)
{
    size_t n_tokens = all->first[all->n], n_docs = (size_t)all->n;
    PG_TRY(docs_open(&t->train, n_tokens, n_docs, err));
    PG_TRY(docs_open(&t->held, n_tokens, n_docs, err));
    if (all->n == 1) {
        size_t n = (size_t)((double)n_tokens * (double)t->opt.holdout);
        docs_add(&t->held, all->token, n);
        docs_add(&t->train, all->token + n, n_tokens - n);
        return 0;
    }
    int n_held = n_held_of(t, all->n);
    int32_t *order = pg_calloc(n_docs, sizeof(*order));
    if (!order)
        return pg_fail(err, PG_ENOMEM, "out of memory");
    pg_shuffle(order, all->n, t->opt.seed, PG_STREAM_DOCS);
    for (int i = 0; i < all->n; i++) {
        size_t from = all->first[order[i]];
        docs_add(i < n_held ? &t->held : &t->train, all->token + from,
                 all->first[order[i] + 1] - from);
    }
    free(order);
    return 0;
}

static int read_docs(struct pg_lm *t, const pg_vocab *vocab, struct pg_err *err)
{
    struct pg_docs all = {0};
    struct pg_docs_options d = {
        .vocab = vocab,
        .paths = t->opt.data,
        .n_paths = t->opt.n_data,
        .end_token = true,
        .max_tokens = (size_t)PG_MIN(t->opt.n_tokens, SIZE_MAX),
    };
    int rc = pg_docs_open(&all, &d, err);
    rc = rc ? rc : split(t, &all, err);
    pg_docs_close(&all);
    return rc;
}

/* ------------------------------------------------------------------ pairs ------------------- */

static void pair_add(struct pg_pairs *to, const struct pg_pair *pair)
{
    to->at[to->n++] = *pair;
    to->longest_source = PG_MAX(to->longest_source, pair->n_source);
    to->longest_target = PG_MAX(to->longest_target, pair->n_target);
}

/* held[doc]: whether a document is held out. */
static int choose_docs(const struct pg_lm *t, uint8_t **held, struct pg_err *err)
{
    const int n = t->pairs.n_docs;
    int32_t *order = pg_calloc((size_t)n, sizeof(*order));
    *held = pg_calloc((size_t)n, 1);
    if (order && *held) {
        pg_shuffle(order, n, t->opt.seed, PG_STREAM_DOCS);
        for (int i = 0; n > 1 && i < n_held_of(t, n); i++)
            (*held)[order[i]] = 1;
    }
    const bool failed = !order || !*held;
    free(order);
    return failed ? pg_fail(err, PG_ENOMEM, "out of memory") : 0;
}

/* The two parts have lists of their own, and the tokens in common. */
static int split_pairs(struct pg_lm *t, struct pg_err *err)
{
    const struct pg_pairs *all = &t->pairs;
    const int n_first = all->n_docs > 1 ? 0 : n_held_of(t, all->n);
    uint8_t *held;
    t->train_pairs = (struct pg_pairs){.token = all->token, .n_tokens = all->n_tokens};
    t->held_pairs = t->train_pairs;
    t->train_pairs.at = pg_calloc((size_t)all->n, sizeof(struct pg_pair));
    t->held_pairs.at = pg_calloc((size_t)all->n, sizeof(struct pg_pair));
    if (!t->train_pairs.at || !t->held_pairs.at)
        return pg_fail(err, PG_ENOMEM, "out of memory for %d pairs", all->n);
    if (all->n < 2)
        return pg_fail(err, PG_EFORMAT,
                       "1 pair found, 2 wanted at least: one to learn from, one to measure on");
    int rc = choose_docs(t, &held, err);
    for (int i = 0; !rc && i < all->n; i++)
        pair_add(held[all->at[i].doc] || i < n_first ? &t->held_pairs : &t->train_pairs,
                 &all->at[i]);
    free(held);
    return rc;
}

static int read_pairs(struct pg_lm *t, const pg_vocab *vocab, struct pg_err *err)
{
    const struct pg_pairs_options o = {
        .vocab = vocab,
        .paths = t->opt.data,
        .n_paths = t->opt.n_data,
        .n_source = t->opt.source_len,
        .n_target = t->opt.seq_len,
        .max_tokens = (size_t)PG_MIN(t->opt.n_tokens, SIZE_MAX),
    };
    PG_TRY(pg_pairs_open(&t->pairs, &o, err));
    return split_pairs(t, err);
}

/* ------------------------------------------------------------------ both -------------------- */

int pg_lm_text(struct pg_lm *t, const pg_vocab *vocab, struct pg_err *err)
{
    return t->opt.source_len ? read_pairs(t, vocab, err) : read_docs(t, vocab, err);
}

void pg_lm_text_close(struct pg_lm *t)
{
    pg_docs_close(&t->train);
    pg_docs_close(&t->held);
    free(t->train_pairs.at);
    free(t->held_pairs.at);
    pg_pairs_close(&t->pairs);
}

static uint64_t n_held_tokens(const struct pg_lm *t)
{
    uint64_t sum = t->opt.source_len ? 0 : t->held.first[t->held.n];
    for (int i = 0; i < t->held_pairs.n; i++)
        sum += (uint64_t)t->held_pairs.at[i].n_target;
    return sum;
}

int pg_lm_batches(struct pg_lm *t, const struct pg_hparams *h, struct pg_err *err)
{
    const bool of_pairs = t->opt.source_len > 0;
    struct pg_batches_options o = {.docs = of_pairs ? NULL : &t->train,
                                   .pairs = of_pairs ? &t->train_pairs : NULL,
                                   .n_vocab = h->n_vocab,
                                   .n_seq = t->opt.n_seq,
                                   .seq_len = t->opt.seq_len,
                                   .source_len = t->opt.source_len,
                                   .decoder_start = h->decoder_start,
                                   .seed = t->opt.seed};
    uint64_t n_tok = (uint64_t)o.n_seq * (uint64_t)o.seq_len;
    uint64_t all = (n_held_tokens(t) + n_tok - 1) / n_tok;
    uint64_t most = (uint64_t)PG_MIN(MEASURED_BATCHES, t->opt.n_steps / 8);
    t->n_held = (int)PG_MAX(1, PG_MIN(all, most));
    PG_TRY(pg_batches_open(&t->batches, &o, err));
    o.docs = of_pairs ? NULL : &t->held;
    o.pairs = of_pairs ? &t->held_pairs : NULL;
    int rc = pg_batches_open(&t->held_batches, &o, err);
    return rc ? pg_fail_in(err, rc, "held-out text") : 0;
}
