/* SPDX-License-Identifier: MIT
 * Text files to documents of tokens. Documents are separated by a line "<|endoftext|>"; a file
 * without one is one document. Blank lines at the ends of a document are not part of it; a document
 * of nothing is none.
 */
#ifndef PG_DATA_TEXT_H
#define PG_DATA_TEXT_H

#include "text/vocab.h"

/* Ids that grow; for free(). */
struct pg_tokens {
    int32_t *id;
    size_t n, cap;
};

/* The ids of a text behind those that are there, and room for one more. */
int pg_tokens_add(struct pg_tokens *t, const pg_vocab *vocab, struct pg_str text, unsigned flags,
                  struct pg_err *err);

struct pg_docs {
    int32_t *token;
    size_t *first; /* document i is token [first[i], first[i + 1]) */
    int n;
    size_t cap_tokens, cap_docs;
};

struct pg_docs_options {
    const pg_vocab *vocab;
    const char *const *paths;
    int n_paths;
    bool end_token;    /* append the end-of-text token, where the vocabulary has one */
    size_t max_tokens; /* no further document once there are so many; 0 = no bound */
};

/* Each document begins with the beginning-of-text token where the vocabulary wants one. A file with
 * no text at all is an error. */
int pg_docs_open(struct pg_docs *d, const struct pg_docs_options *opt, struct pg_err *err);
void pg_docs_close(struct pg_docs *d);

#endif
