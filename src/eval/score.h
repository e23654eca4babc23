/* SPDX-License-Identifier: MIT
 * Text to words, as the scores of answers and summaries need them.
 */
#ifndef PG_EVAL_SCORE_H
#define PG_EVAL_SCORE_H

#include "base/err.h"

/* The character at s[0..n), n > 0, and its length. A byte that begins none is U+FFFD, length 1. */
int pg_score_char(const char *s, size_t n, uint32_t *cp);
/* The small letter of a capital one, where that is a single character. */
uint32_t pg_score_lower(uint32_t cp);

/* SQuAD's normalisation: a string for free(); NULL when out of memory. */
char *pg_score_normalise(const char *text);
/* Whether nothing is left of it then; false when out of memory. */
bool pg_score_is_empty(const char *text);
/* F1 over words; NaN when out of memory. Where nothing is left of both texts v1.1 says 0, since
 * they share no word, and v2.0 says 1. */
double pg_score_f1(const char *answer, const char *truth, bool v2);

/* The words of a text as numbers, a-z and 0-9 alone, small letters made first. */
struct pg_words {
    int32_t *id;
    size_t n;
};
/* Of two texts, numbered alike. PG_ENOMEM is the only failure. */
int pg_words_open(struct pg_words out[2], const char *a, const char *b);
void pg_words_close(struct pg_words out[2]);

#endif
