/* SPDX-License-Identifier: MIT */
#include "serve/pace.h"

#include "base/err.h"

/* What was never seen is taken to cost in proportion to the next larger that was, or to go on from
 * the two smaller ones in a line. */
static void expect(const struct pg_pace *p, double rest[PG_CHUNK_SIZES])
{
    for (int i = PG_CHUNK_SIZES - 1; i >= 0; i--)
        rest[i] = p->rest[i] > 0 || i + 1 == PG_CHUNK_SIZES ? p->rest[i] : rest[i + 1] / 2;
    for (int i = 1; i < PG_CHUNK_SIZES; i++) {
        const double half = rest[i - 1], slope = PG_MAX(half - (i > 1 ? rest[i - 2] : 0), 0.0);
        rest[i] = rest[i] > 0 ? rest[i] : half + PG_MIN(2 * slope, half);
    }
}

/* Where even the least cannot keep the bound, since most experts have to be read for a few tokens
 * as for many, the bound is twice what that takes: little by little the prompt would hold up the
 * others for far longer in all. */
int pg_pace_chunk(const struct pg_pace *p, double bound, int at)
{
    double rest[PG_CHUNK_SIZES];
    int chunk = PG_CHUNK_LEAST;
    expect(p, rest);
    if (!(rest[0] > 0)) /* nothing is known yet */
        return chunk;
    for (int i = 0; i < PG_CHUNK_SIZES; i++) {
        const int n = 1 << i;
        const double seconds = rest[i] + p->look * n * (at + n / 2.0);
        if (n == PG_CHUNK_LEAST)
            bound = PG_MAX(bound, 2.1 * seconds); /* so that twice as many are tried */
        if (seconds <= bound && n > chunk)
            chunk = n;
    }
    return chunk;
}

/* Twice the tokens never cost less, and never more than twice as much: what says otherwise is older
 * than what has just been seen at size i. */
static void mend(struct pg_pace *p, int i)
{
    double least = p->rest[i], most = p->rest[i];
    for (int k = i + 1; k < PG_CHUNK_SIZES; k++) {
        most *= 2;
        if (p->rest[k] > 0)
            p->rest[k] = least = most = PG_MAX(least, PG_MIN(p->rest[k], most));
    }
    least = most = p->rest[i];
    for (int k = i - 1; k >= 0; k--) {
        least /= 2;
        if (p->rest[k] > 0)
            p->rest[k] = least = most = PG_MAX(least, PG_MIN(p->rest[k], most));
    }
}

void pg_pace_learn(struct pg_pace *p, int n, double rest, double attend, double looked)
{
    const double look = attend / PG_MAX(looked, 1.0);
    int i = 0;
    while (i + 1 < PG_CHUNK_SIZES && 3 << i <= 2 * n) /* the nearest */
        i++;
    rest = PG_MAX(rest, 1e-9); /* clocks */
    p->look = p->look > 0 ? (p->look + look) / 2 : look;
    p->rest[i] = p->rest[i] > 0 ? (p->rest[i] + rest) / 2 : rest;
    mend(p, i);
}
