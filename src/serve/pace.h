/* SPDX-License-Identifier: MIT
 * How many tokens of prompts a step may take so that those who write wait no longer than a bound:
 * learned from the steps before. Looking back over a text grows with its length, the rest of a step
 * with the number of tokens only.
 */
#ifndef PG_SERVE_PACE_H
#define PG_SERVE_PACE_H

enum {
    PG_CHUNK_LEAST = 16, /* tokens of prompts in a step, however long it takes */
    PG_CHUNK_SIZES = 18  /* powers of two up to the largest batch */
};

struct pg_pace {
    double rest[PG_CHUNK_SIZES]; /* seconds but for looking back, by powers of two; 0: never seen */
    double look;                 /* seconds for a token to look at a position */
};

/* A power of two of prompt tokens, behind `at` others, whose step is expected to take no more than
 * `bound` seconds. */
int pg_pace_chunk(const struct pg_pace *p, double bound, int at);
/* A step with n tokens of prompts took `rest` seconds and `attend` more, in which `looked`
 * positions were looked at. */
void pg_pace_learn(struct pg_pace *p, int n, double rest, double attend, double looked);

#endif
