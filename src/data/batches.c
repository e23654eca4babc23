/* SPDX-License-Identifier: MIT */
#include "data/batches.h"

#include "base/hash.h"
#include "base/os.h"
#include "base/random.h"

#include <stdlib.h>
#include <string.h>

static int check_tokens(const struct pg_batches_options *o, struct pg_err *err)
{
    const struct pg_docs *d = o->docs;
    for (size_t i = 0; i < d->first[d->n]; i++) {
        if (d->token[i] < 0 || d->token[i] >= o->n_vocab) {
            return pg_fail(err, PG_EFORMAT,
                           "token %zu of the text is %d, but the model has only %d embeddings", i,
                           d->token[i], o->n_vocab);
        }
    }
    return 0;
}

static int cut(struct pg_batches *b, struct pg_err *err)
{
    const struct pg_docs *d = b->opt.docs;
    struct pg_cut how = {
        .n_ctx = (size_t)b->opt.seq_len, .bos = -1, .targets = true, .left = UINT64_MAX};
    for (int i = 0; i < d->n; i++)
        PG_TRY(pg_pieces_cut(&b->pieces, d, i, &how, err));
    if (b->pieces.n == 0) {
        return pg_fail(err, PG_EFORMAT,
                       "%d documents found, none of which has two tokens: there is nothing to "
                       "learn from",
                       d->n);
    }
    b->order = pg_calloc((size_t)b->pieces.n, sizeof(b->order[0]));
    return b->order ? 0
                    : pg_fail(err, PG_ENOMEM, "out of memory for %d pieces of text", b->pieces.n);
}

int pg_batches_open(struct pg_batches *b, const struct pg_batches_options *opt, struct pg_err *err)
{
    size_t n = (size_t)opt->n_seq * (size_t)opt->seq_len;
    *b = (struct pg_batches){.opt = *opt};
    b->token = pg_calloc(n, sizeof(int32_t));
    b->target = pg_calloc(n, sizeof(int32_t));
    b->start = pg_calloc(n, sizeof(int32_t));
    int rc = 0;
    if (!b->token || !b->target || !b->start)
        rc = pg_fail(err, PG_ENOMEM, "out of memory for a batch of %zu tokens", n);
    rc = rc ? rc : check_tokens(opt, err);
    rc = rc ? rc : cut(b, err);
    if (rc) {
        pg_batches_close(b);
        return rc;
    }
    pg_shuffle(b->order, b->pieces.n, opt->seed, 0);
    return 0;
}

void pg_batches_close(struct pg_batches *b)
{
    pg_pieces_close(&b->pieces);
    free(b->order);
    free(b->token);
    free(b->target);
    free(b->start);
    *b = (struct pg_batches){0};
}

static const struct pg_piece *next_piece(struct pg_batches *b)
{
    if (b->at == b->pieces.n) {
        b->at = 0;
        pg_shuffle(b->order, b->pieces.n, b->opt.seed, ++b->epoch);
    }
    return &b->pieces.at[b->order[b->at++]];
}

void pg_batches_seek(struct pg_batches *b, uint64_t row)
{
    b->epoch = 0;
    b->at = 0;
    pg_shuffle(b->order, b->pieces.n, b->opt.seed, 0);
    for (; row; row--)
        for (int filled = 0; filled < b->opt.seq_len;)
            filled += next_piece(b)->n; /* more than fits is cut */
}

static void fill_row(struct pg_batches *b, int32_t *token, int32_t *target, int32_t *start)
{
    for (int at = 0; at < b->opt.seq_len;) {
        const struct pg_piece *p = next_piece(b);
        const int32_t *text = b->opt.docs->token + p->from;
        int n = PG_MIN(p->n, b->opt.seq_len - at);
        for (int i = 0; i < n; i++) {
            bool has_next = i + 1 < p->n || p->more;
            token[at + i] = text[i];
            target[at + i] = has_next ? text[i + 1] : -1;
            start[at + i] = at;
        }
        at += n;
    }
}

void pg_batches_next(struct pg_batches *b, struct pg_batch *out)
{
    for (int s = 0; s < b->opt.n_seq; s++) {
        size_t at = (size_t)s * (size_t)b->opt.seq_len;
        fill_row(b, b->token + at, b->target + at, b->start + at);
    }
    *out = (struct pg_batch){b->token, b->target, b->start};
}

uint64_t pg_batches_hash(const struct pg_batches *b)
{
    const struct pg_docs *d = b->opt.docs;
    uint64_t hash = pg_hash_bytes(PG_HASH_START, d->token, d->first[d->n] * sizeof(int32_t));
    for (int i = 0; i <= d->n; i++) {
        uint64_t first = d->first[i];
        hash = pg_hash_bytes(hash, &first, sizeof(first));
    }
    return hash;
}
