/* SPDX-License-Identifier: MIT
 * String -> small number, for strings that live elsewhere.
 *
 * Open addressing over (hash, number) pairs; the owner tells the map how to get a number's string.
 * The hash is seeded, because vocabularies come from strangers who might choose colliding strings.
 */
#ifndef PG_TEXT_STRMAP_H
#define PG_TEXT_STRMAP_H

#include "format/gguf.h"

struct pg_strmap_slot {
    uint32_t hash;
    uint32_t number; /* plus one; 0 is an empty slot */
};

struct pg_strmap {
    struct pg_strmap_slot *slot;
    uint32_t mask;
    uint64_t seed;
    struct pg_str (*at)(const void *owner, uint32_t number);
    const void *owner; /* kept until fini */
};

/* Room for n strings. A map of zeros is valid and empty. */
int pg_strmap_init(struct pg_strmap *m, uint32_t n, uint64_t seed, struct pg_err *err);
void pg_strmap_fini(struct pg_strmap *m);
uint64_t pg_strmap_heap_bytes(const struct pg_strmap *m);
/* Adds `number`, unless an equal string is there already: the first number stays. */
void pg_strmap_add(struct pg_strmap *m, uint32_t number);
int32_t pg_strmap_find(const struct pg_strmap *m, const char *s, size_t n); /* -1: none */

/* Seeded mixing of one number, for tables of other keys. */
static inline uint64_t pg_mix64(uint64_t x)
{
    x ^= x >> 32;
    x *= 0xD6E8FEB86659FD93u;
    x ^= x >> 32;
    x *= 0xD6E8FEB86659FD93u;
    return x ^ x >> 32;
}

#endif
