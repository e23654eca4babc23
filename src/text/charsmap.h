/* SPDX-License-Identifier: MIT
 * SentencePiece's precompiled normaliser: strings and what replaces them, as a double-array trie.
 *
 *   uint32 bytes of the trie | the trie's uint32 units | replacements, each ended by a zero
 *
 * A unit has a label (the byte that leads to it), an offset to its children, and a flag that says
 * that a value hangs below; a value is a position in the replacements.
 */
#ifndef PG_TEXT_CHARSMAP_H
#define PG_TEXT_CHARSMAP_H

#include "format/gguf.h"

struct pg_charsmap {
    uint32_t *unit;
    uint32_t n_unit;
    char *text;
    uint32_t n_text; /* the last byte is zero */
};

/* An absent key gives an empty map. */
int pg_charsmap_init(struct pg_charsmap *m, const struct pg_gguf *g, struct pg_err *err);
void pg_charsmap_fini(struct pg_charsmap *m);
uint64_t pg_charsmap_heap_bytes(const struct pg_charsmap *m);
/* The longest string of the map that s[0..n) begins with: its length, or 0; and its replacement. */
size_t pg_charsmap_match(const struct pg_charsmap *m, const char *s, size_t n, struct pg_str *out);

#endif
