/* SPDX-License-Identifier: MIT
 * Pieces sorted by text: finding those that a text begins with, a byte at a time. What a trie would
 * do, in four bytes a piece.
 */
#ifndef PG_TEXT_SORTED_H
#define PG_TEXT_SORTED_H

#include "pregate.h"

struct pg_sorted {
    uint32_t *id;       /* by text, equal texts by id; no empty ones */
    uint32_t from[257]; /* those that begin with byte b: id[from[b], from[b + 1]) */
};

/* Pieces whose text begins with the bytes read so far: id[lo, hi), the shortest first. */
struct pg_sorted_range {
    uint32_t lo, hi;
    size_t depth;
};

/* Lists the pieces of these types (a set of 1 << type). */
int pg_sorted_init(struct pg_sorted *s, struct pg_vocab *v, unsigned types, struct pg_err *err);
struct pg_sorted_range pg_sorted_begin(const struct pg_sorted *s, char first);
/* The first piece of the range if its text is the bytes read, which takes it out; or -1. */
int32_t pg_sorted_take(const struct pg_sorted *s, const struct pg_vocab *v,
                       struct pg_sorted_range *r);
/* Reads one byte more, after all pieces that end here were taken. */
void pg_sorted_step(const struct pg_sorted *s, const struct pg_vocab *v, struct pg_sorted_range *r,
                    char next);

#endif
