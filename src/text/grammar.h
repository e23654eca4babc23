/* SPDX-License-Identifier: MIT
 * The inside of a grammar: an automaton over bytes that calls rules.
 *
 *   gbnf.c          GBNF text -> trees
 *   positions.c     trees -> positions, and the checks that make every position safe to walk
 *   schema.c        a JSON schema -> GBNF text; schema_*.c its parts
 *   stacks.c        sets of stacks of positions: where a text stands
 *   token_index.c   the vocabulary as a tree of bytes
 *   matcher.c       the tokens that may come next
 *
 * A position is what may happen next. Positions are numbers; characters have become bytes, and the
 * automaton takes well-formed UTF-8 only.
 */
#ifndef PG_TEXT_GRAMMAR_H
#define PG_TEXT_GRAMMAR_H

#include "base/err.h"

enum pg_pos_kind {
    PG_POS_DEAD,  /* nothing */
    PG_POS_MARK,  /* the bottom of a stack */
    PG_POS_END,   /* of a rule */
    PG_POS_BYTE,  /* one byte of lo … hi, then next */
    PG_POS_SPLIT, /* next, or other */
    PG_POS_CALL   /* what begins at other, to its end; then next */
};

enum { /* positions that every grammar has */
       PG_AT_NOTHING,
       PG_AT_ACCEPT, /* the text may end */
       PG_AT_HOLE,   /* what is below is not known (matcher.c) */
       PG_AT_END,
       PG_AT_FIRST
};

enum { PG_POS_MAX = 1 << 18 };

struct pg_pos {
    uint8_t kind, lo, hi;
    bool live; /* an end can be reached from here; all others are never entered */
    uint32_t next, other;
};

struct pg_grammar {
    char *text;
    struct pg_pos *pos;
    uint32_t n_pos;
    uint32_t root;         /* where the rule "root" begins */
    int n_class;           /* bytes of one class are the same to all positions */
    uint8_t class_of[256]; /* by byte */
    uint8_t byte_of[256];  /* by class: one of its bytes */
};

/* Takes `text`, which malloc gave, whatever comes of it. */
int pg_grammar_make(pg_grammar **out, char *text, size_t n, struct pg_err *err);

#endif
