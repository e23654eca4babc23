/* SPDX-License-Identifier: MIT
 * The tokens of a vocabulary as a tree of the bytes that they print, for walks over all of them.
 *
 * Nodes are numbered so that a node's descendants follow it: those of i are [i + 1, end[i]). Node 0
 * is the root, which has no byte. Tokens that print nothing, and those that end a text, are not in
 * it.
 */
#ifndef PG_TEXT_TOKEN_INDEX_H
#define PG_TEXT_TOKEN_INDEX_H

#include "base/err.h"

struct pg_token_index {
    uint32_t n_node, n_token, max_depth;
    uint32_t *end;   /* [n_node] */
    uint32_t *first; /* [n_node + 1] tokens of i: token[first[i], first[i + 1]) */
    uint32_t *kinds; /* [n_node] of its byte and those of all descendants, and enum pg_kinds */
    uint16_t *depth; /* [n_node] */
    uint8_t *height; /* [n_node] bytes from it to its deepest descendant; 255: that or more */
    uint8_t *byte;   /* [n_node] */
    int32_t *token;  /* [n_token] by what they print */
    uint32_t space;  /* the child of the root with the byte ' '; 0: none */
    uint64_t bytes;  /* of memory */
};

/* Kinds are bits: bytes that often go together. Those of longer characters are one. */
enum pg_kinds {
    PG_KINDS_WITHIN = 1 << 29, /* the node's own byte goes on with a character */
    PG_KINDS_ILL = 1 << 30     /* what is printed from here on may be no UTF-8 */
};
#define PG_KINDS_LONG (1u << 31)        /* bytes from 0x80 on */
extern const uint8_t pg_byte_kind[256]; /* the number of the bit */

/* That of v: made by the first who asks, and kept. NULL when out of memory. */
const struct pg_token_index *pg_token_index_of(const pg_vocab *v);

/* What v keeps it in. */
struct pg_token_home;
struct pg_token_home *pg_token_home_open(void);
void pg_token_home_close(struct pg_token_home *h); /* NULL is fine */

/* What a token prints in the middle of a text, written to `out` of PG_PIECE_MAX bytes; 0: nothing.
 */
size_t pg_token_text(const pg_vocab *v, int32_t id, char *out);

#endif
