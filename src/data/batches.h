/* SPDX-License-Identifier: MIT
 * From documents, or pairs of a source and a target, to batches.
 *
 * A document longer than a row is cut into pieces of a row's length; a later piece stands alone,
 * without beginning-of-text. Each epoch shuffles the pieces anew (pg_shuffle, stream = epoch). Rows
 * are filled with pieces one after another, and a row always begins with the beginning of a piece:
 * the last piece of a row is cut to fit, and its rest is dropped for this epoch. The last row of an
 * epoch goes on with the first pieces of the next, so that no row is padded and a text of any
 * length will do.
 *
 * The target of a token is the next token of its document, of which there is none after the last
 * (-1).
 *
 * A row of pairs is two: one of sources, one of timelines. A timeline is the token that a decoder
 * begins with and its pair's target but the last token; the targets are the pair's target. Each
 * epoch shuffles the pairs anew. A row takes one after another as long as both sides have room; the
 * rest of each is padding (-1). Here, too, the last row of an epoch goes on with the next one's.
 *
 * What row n holds depends on the seed and n alone, so that to resume is to seek.
 */
#ifndef PG_DATA_BATCHES_H
#define PG_DATA_BATCHES_H

#include "data/pairs.h"
#include "data/pieces.h"

/* Row s of n_seq has tokens [s * seq_len, (s + 1) * seq_len). start[t] is the index in the row of
 * the first token of t's piece or timeline, or of the padding. */
struct pg_batch {
    const int32_t *token, *target, *start; /* [n_seq * seq_len] */
    /* Of pairs, else NULL: likewise; and the index in its row of sources of the first token of the
     * one that t's timeline answers to. */
    const int32_t *source, *source_start; /* [n_seq * source_len] */
    const int32_t *source_of;             /* [n_seq * seq_len] */
};

struct pg_batches_options {
    const struct pg_docs *docs;   /* borrowed; or: */
    const struct pg_pairs *pairs; /* of at most source_len and seq_len tokens */
    int n_vocab;                  /* ids the model has */
    int n_seq, seq_len;
    int source_len, decoder_start; /* of pairs */
    uint64_t seed;
};

struct pg_batches {
    struct pg_batches_options opt;
    struct pg_pieces pieces;
    int n;          /* pieces, or pairs */
    int32_t *order; /* [n] of the epoch under way */
    uint64_t epoch;
    int at;       /* in order, of the next row's first */
    int32_t *ids; /* all of the below */
    struct pg_rows {
        int32_t *token, *target, *start, *source_of, *source, *source_start;
    } rows;
};

int pg_batches_open(struct pg_batches *b, const struct pg_batches_options *opt, struct pg_err *err);
void pg_batches_close(struct pg_batches *b);
/* The next batch is that of rows [row, row + n_seq). */
void pg_batches_seek(struct pg_batches *b, uint64_t row);
/* Valid until the next call. */
void pg_batches_next(struct pg_batches *b, struct pg_batch *out);
/* Names the documents or pairs: their tokens and borders. */
uint64_t pg_batches_hash(const struct pg_batches *b);

#endif
