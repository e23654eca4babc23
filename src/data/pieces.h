/* SPDX-License-Identifier: MIT
 * Documents cut into pieces, each of which is run, or learnt from, from an empty context.
 */
#ifndef PG_DATA_PIECES_H
#define PG_DATA_PIECES_H

#include "data/text.h"

struct pg_piece {
    size_t from; /* first token of the text in it */
    int n;       /* tokens, the one put before included */
    bool opened; /* a beginning-of-text token is put before the text */
    bool more;   /* its document goes on */
};

struct pg_pieces {
    struct pg_piece *at;
    int n, longest;
    size_t cap;
};

struct pg_cut {
    size_t n_ctx;    /* tokens of a piece at most */
    int32_t bos;     /* pieces of a document that begins with it begin with it, too; -1 = none do */
    bool first_only; /* what is behind a document's first piece is left out */
    bool targets;    /* a piece without a token that is followed by one is left out */
    uint64_t left;   /* tokens that may still be taken */
};

/* Puts the pieces of a document behind those that are there, and counts how->left down. */
int pg_pieces_cut(struct pg_pieces *p, const struct pg_docs *docs, int doc, struct pg_cut *how,
                  struct pg_err *err);
void pg_pieces_close(struct pg_pieces *p);
/* The piece's tokens, piece->n of them. */
void pg_piece_tokens(const struct pg_piece *piece, const struct pg_docs *docs, int32_t bos,
                     int32_t *out);

#endif
