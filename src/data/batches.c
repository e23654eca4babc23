/* SPDX-License-Identifier: MIT */
#include "data/batches.h"

#include "base/hash.h"
#include "base/os.h"
#include "base/random.h"

#include <stdlib.h>
#include <string.h>

static int check_tokens(const struct pg_batches_options *o, struct pg_err *err)
{
    const int32_t *token = o->pairs ? o->pairs->token : o->docs->token;
    const size_t n = o->pairs ? o->pairs->n_tokens : o->docs->first[o->docs->n];
    for (size_t i = 0; i < n; i++) {
        if (token[i] < 0 || token[i] >= o->n_vocab) {
            return pg_fail(err, PG_EFORMAT,
                           "token %zu of the text is %d, but the model has only %d embeddings", i,
                           token[i], o->n_vocab);
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
    return 0;
}

/* What is shuffled. */
static int open_order(struct pg_batches *b, struct pg_err *err)
{
    if (!b->opt.pairs)
        PG_TRY(cut(b, err));
    b->n = b->opt.pairs ? b->opt.pairs->n : b->pieces.n;
    b->order = pg_calloc((size_t)b->n, sizeof(b->order[0]));
    return b->order ? 0 : pg_fail(err, PG_ENOMEM, "out of memory for %d pieces of text", b->n);
}

static int open_rows(struct pg_batches *b, struct pg_err *err)
{
    const struct pg_batches_options *o = &b->opt;
    size_t n = (size_t)o->n_seq * (size_t)o->seq_len;
    size_t n_source = o->pairs ? (size_t)o->n_seq * (size_t)o->source_len : 0;
    b->ids = pg_calloc(4 * n + 2 * n_source, sizeof(int32_t));
    if (!b->ids)
        return pg_fail(err, PG_ENOMEM, "out of memory for a batch of %zu tokens", n + n_source);
    b->rows = (struct pg_rows){.token = b->ids, .target = b->ids + n, .start = b->ids + 2 * n};
    if (o->pairs) {
        b->rows.source_of = b->ids + 3 * n;
        b->rows.source = b->ids + 4 * n;
        b->rows.source_start = b->rows.source + n_source;
    }
    return 0;
}

int pg_batches_open(struct pg_batches *b, const struct pg_batches_options *opt, struct pg_err *err)
{
    *b = (struct pg_batches){.opt = *opt};
    int rc = check_tokens(opt, err);
    rc = rc ? rc : open_order(b, err);
    rc = rc ? rc : open_rows(b, err);
    if (rc) {
        pg_batches_close(b);
        return rc;
    }
    pg_shuffle(b->order, b->n, opt->seed, 0);
    return 0;
}

void pg_batches_close(struct pg_batches *b)
{
    pg_pieces_close(&b->pieces);
    free(b->order);
    free(b->ids);
    *b = (struct pg_batches){0};
}

/* The next piece or pair, which stays the next until `at` moves on. */
static int32_t peek(struct pg_batches *b)
{
    if (b->at == b->n) {
        b->at = 0;
        pg_shuffle(b->order, b->n, b->opt.seed, ++b->epoch);
    }
    return b->order[b->at];
}

static const struct pg_piece *next_piece(struct pg_batches *b)
{
    const struct pg_piece *p = &b->pieces.at[peek(b)];
    b->at++;
    return p;
}

static void fill_row(struct pg_batches *b, const struct pg_rows *r)
{
    for (int at = 0; at < b->opt.seq_len;) {
        const struct pg_piece *p = next_piece(b);
        const int32_t *text = b->opt.docs->token + p->from;
        int n = PG_MIN(p->n, b->opt.seq_len - at);
        for (int i = 0; i < n; i++) {
            bool has_next = i + 1 < p->n || p->more;
            r->token[at + i] = text[i];
            r->target[at + i] = has_next ? text[i + 1] : -1;
            r->start[at + i] = at;
        }
        at += n;
    }
}

/* The next pair, where it has room behind those of the row. */
static const struct pg_pair *next_pair(struct pg_batches *b, int used, int used_source)
{
    const struct pg_pair *p = &b->opt.pairs->at[peek(b)];
    if (p->n_target > b->opt.seq_len - used || p->n_source > b->opt.source_len - used_source)
        return NULL;
    b->at++;
    return p;
}

static void pad(int32_t *token, int32_t *start, int from, int n)
{
    for (int i = from; i < n; i++) {
        token[i] = -1;
        start[i] = from;
    }
}

static void fill_pairs(struct pg_batches *b, const struct pg_rows *r)
{
    const int32_t *text = b->opt.pairs->token;
    const struct pg_pair *p;
    int at = 0, source_at = 0;
    while ((p = next_pair(b, at, source_at))) {
        for (int i = 0; i < p->n_target; i++) {
            r->token[at + i] = i ? text[p->target + (size_t)i - 1] : b->opt.decoder_start;
            r->target[at + i] = text[p->target + (size_t)i];
            r->start[at + i] = at;
            r->source_of[at + i] = source_at;
        }
        for (int i = 0; i < p->n_source; i++) {
            r->source[source_at + i] = text[p->source + (size_t)i];
            r->source_start[source_at + i] = source_at;
        }
        at += p->n_target;
        source_at += p->n_source;
    }
    pad(r->token, r->start, at, b->opt.seq_len);
    pad(r->source, r->source_start, source_at, b->opt.source_len);
    for (int i = at; i < b->opt.seq_len; i++) {
        r->target[i] = -1;
        r->source_of[i] = 0;
    }
}

static void skip_row(struct pg_batches *b)
{
    int used = 0, used_source = 0;
    const struct pg_pair *p;
    while (!b->opt.pairs && used < b->opt.seq_len)
        used += next_piece(b)->n; /* more than fits is cut */
    while (b->opt.pairs && (p = next_pair(b, used, used_source))) {
        used += p->n_target;
        used_source += p->n_source;
    }
}

void pg_batches_seek(struct pg_batches *b, uint64_t row)
{
    b->epoch = 0;
    b->at = 0;
    pg_shuffle(b->order, b->n, b->opt.seed, 0);
    for (; row; row--)
        skip_row(b);
}

void pg_batches_next(struct pg_batches *b, struct pg_batch *out)
{
    const struct pg_batches_options *o = &b->opt;
    struct pg_rows r = b->rows;
    *out = (struct pg_batch){r.token, r.target, r.start, r.source, r.source_start, r.source_of};
    for (int s = 0; s < o->n_seq; s++) {
        if (o->pairs)
            fill_pairs(b, &r);
        else
            fill_row(b, &r);
        r.token += o->seq_len;
        r.target += o->seq_len;
        r.start += o->seq_len;
        if (o->pairs) {
            r.source_of += o->seq_len;
            r.source += o->source_len;
            r.source_start += o->source_len;
        }
    }
}

uint64_t pg_batches_hash(const struct pg_batches *b)
{
    const struct pg_docs *d = b->opt.docs;
    if (b->opt.pairs)
        return pg_pairs_hash(b->opt.pairs);
    uint64_t hash = pg_hash_bytes(PG_HASH_START, d->token, d->first[d->n] * sizeof(int32_t));
    for (int i = 0; i <= d->n; i++) {
        uint64_t first = d->first[i];
        hash = pg_hash_bytes(hash, &first, sizeof(first));
    }
    return hash;
}
