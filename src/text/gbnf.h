/* SPDX-License-Identifier: MIT
 * GBNF text as trees, one for each rule: what positions.c makes an automaton of.
 */
#ifndef PG_TEXT_GBNF_H
#define PG_TEXT_GBNF_H

#include "base/err.h"

enum {
    PG_GBNF_TEXT_MAX = 8 << 20, /* bytes of a grammar */
    PG_GBNF_NEST_MAX = 128,     /* groups inside each other */
    PG_GBNF_HEIGHT_MAX = 512,   /* of a tree: groups, and repetitions of repetitions */
    PG_GBNF_REPEAT_MAX = 65536, /* m and n of {m,n} */
    PG_GBNF_RULES_MAX = 65536,
};
#define PG_GBNF_NONE UINT32_MAX

enum pg_gbnf_kind {
    PG_GBNF_TEXT,   /* bytes [at, at + n) of `bytes`; n = 0: nothing */
    PG_GBNF_CLASS,  /* one character out of range [at, at + n) */
    PG_GBNF_SEQ,    /* the children, one after the other */
    PG_GBNF_ALT,    /* one of the children */
    PG_GBNF_REPEAT, /* the child, `at` to `n` times; n = PG_GBNF_NONE: any number */
    PG_GBNF_RULE    /* rule `at` */
};

/* Children hang together from the last to the first, the order in which positions.c wants them. */
struct pg_gbnf_node {
    uint8_t kind;
    uint16_t height;
    uint32_t at, n;
    uint32_t last_child, before; /* PG_GBNF_NONE: there is none */
};

struct pg_gbnf_range {
    uint32_t lo, hi; /* code points */
};

struct pg_gbnf_rule {
    uint32_t name, n_name; /* in the grammar's text */
    uint32_t seen;         /* where it is first named there */
    uint32_t node;         /* PG_GBNF_NONE: it has no definition */
};

struct pg_gbnf {
    const char *text; /* borrowed */
    size_t n;
    struct pg_gbnf_node *node;
    struct pg_gbnf_range *range;
    char *bytes;
    struct pg_gbnf_rule *rule;
    uint32_t *slot; /* hash of a name -> rule + 1 */
    size_t n_node, n_range, n_bytes, n_rule;
    size_t cap_node, cap_range, cap_bytes, cap_rule;
    uint32_t slot_mask;
    uint32_t root;
    uint64_t seed;
};

/* PG_EFORMAT with line and column; every rule that is named has a definition, and one is "root". To
 * be freed after an error, too. */
int pg_gbnf_parse(struct pg_gbnf *g, const char *text, size_t n, struct pg_err *err);
void pg_gbnf_free(struct pg_gbnf *g);
/* A sentence that begins with the line and column of text[at]. */
int pg_gbnf_fail(const struct pg_gbnf *g, size_t at, int code, const char *what,
                 struct pg_err *err);

#endif
