/* SPDX-License-Identifier: MIT
 * Questions and documents with the answers that are right, out of JSON.
 *
 *   questions   SQuAD v1.1 and v2.0: data[] of paragraphs[] of context and qas[] of question and
 *               answers[] of text. Those with is_impossible, or without an answer, are left out.
 *   summaries   an object a line: source, document or article, a text or a list of its sentences;
 *               and target, summary or highlights, a text or a list of which each is right
 *
 * Further keys are passed over. What is not JSON, not UTF-8 or of another shape is refused whole.
 */
#ifndef PG_EVAL_EVAL_ITEMS_H
#define PG_EVAL_EVAL_ITEMS_H

#include "base/err.h"

struct pg_item {
    const char *passage, *question; /* question NULL: the passage is to be summed up */
    const char *id;                 /* of a question; NULL: the data has none */
    const char *const *answer;      /* [n_answers] each is right */
    int n_answers;
};

struct pg_items {
    struct pg_item *item;
    int n;
    uint64_t n_skipped;
    bool has_version;
    bool v2;   /* questions of SQuAD v2.0, by `version`, or where there is none by is_impossible */
    int n_max; /* no more than these; 0 = all */
    size_t cap, n_owned, cap_owned;
    void **owned; /* texts and lists that the items point to */
};

/* A whole file. No item at all is an error. */
int pg_items_open(struct pg_items *out, const char *path, bool questions, int n_max,
                  struct pg_err *err);
/* The same out of memory. */
int pg_items_parse(struct pg_items *out, const char *text, size_t n, bool questions, int n_max,
                   struct pg_err *err);
void pg_items_close(struct pg_items *it);

#endif
