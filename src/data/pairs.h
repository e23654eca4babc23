/* SPDX-License-Identifier: MIT
 * Pairs of a source and a target, as a model with an encoder learns from and is measured on.
 *
 *   NAME.jsonl   an object a line with a text "source" and a text "target", or a list of texts of
 *                which the first is taken; further keys are passed over
 *   all else     text as data/text.h reads it. A document is cut into pieces of n_source - 1 +
 *                n_target tokens at most; of a full piece the source is the first n_source - 1
 *                tokens, of a shorter one as large a part, and the target is the rest
 *
 * A source ends with the vocabulary's end token, also where it was cut. A target ends with it where
 * its text does: what had to be cut, and what goes on in the next piece, has none.
 */
#ifndef PG_DATA_PAIRS_H
#define PG_DATA_PAIRS_H

#include "data/text.h"

struct pg_pair {
    size_t source, target; /* first tokens, in pg_pairs.token */
    int n_source, n_target;
    int doc;   /* what it is of: the document or line, counted over all files */
    bool more; /* the target's text goes on: it has no end token */
};

struct pg_pairs {
    int32_t *token;
    size_t n_tokens;
    struct pg_pair *at;
    int n, n_docs;
    int longest_source, longest_target;
    int n_cut; /* documents that are longer than a pair, and lines of which something was cut */
    size_t cap_tokens, cap;
};

struct pg_pairs_options {
    const pg_vocab *vocab;
    const char *const *paths;
    int n_paths;
    int n_source, n_target; /* tokens at most, end tokens included; 2 at least */
    size_t max_tokens;      /* no further pair once there are so many; 0 = no bound */
    int max_docs;           /* documents and lines at most; 0 = all */
    bool first_only;        /* of each document only the first piece */
};

/* Whether a file of this name is JSON lines. */
bool pg_pairs_are_lines(const char *path);
/* A file that gives no pair is an error. Ids are those of the vocabulary: whether the model has as
 * many is the caller's to check. */
int pg_pairs_open(struct pg_pairs *p, const struct pg_pairs_options *opt, struct pg_err *err);
void pg_pairs_close(struct pg_pairs *p);
/* Names the pairs: their tokens and borders. */
uint64_t pg_pairs_hash(const struct pg_pairs *p);

#endif
