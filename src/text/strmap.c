/* SPDX-License-Identifier: MIT */
#include "text/strmap.h"
#include "base/err.h"

#include <stdlib.h>
#include <string.h>

static uint32_t hash_of(uint64_t seed, const char *s, size_t n)
{
    uint64_t h = seed ^ n, w;
    for (; n >= 8; s += 8, n -= 8) {
        memcpy(&w, s, 8);
        h = pg_mix64(h ^ w);
    }
    if (n) {
        w = 0;
        memcpy(&w, s, n);
        h = pg_mix64(h ^ w);
    }
    return (uint32_t)pg_mix64(h + seed);
}

int pg_strmap_init(struct pg_strmap *m, uint32_t n, uint64_t seed, struct pg_err *err)
{
    uint64_t cap = 16;
    while (cap < n + (uint64_t)n / 2)
        cap *= 2;
    m->slot = calloc(cap, sizeof(*m->slot));
    if (!m->slot)
        return pg_fail(err, PG_ENOMEM, "out of memory for a table of %u strings", n);
    m->mask = (uint32_t)(cap - 1);
    m->seed = seed;
    return 0;
}

void pg_strmap_fini(struct pg_strmap *m)
{
    free(m->slot);
    m->slot = NULL;
}

uint64_t pg_strmap_heap_bytes(const struct pg_strmap *m)
{
    return m->slot ? ((uint64_t)m->mask + 1) * sizeof(*m->slot) : 0;
}

/* The slot that holds the string, or the empty one where it belongs. */
static struct pg_strmap_slot *find_slot(const struct pg_strmap *m, uint32_t hash, const char *s,
                                        size_t n)
{
    for (uint32_t i = hash & m->mask;; i = (i + 1) & m->mask) {
        struct pg_strmap_slot *slot = &m->slot[i];
        if (!slot->number)
            return slot;
        if (slot->hash == hash) {
            struct pg_str have = m->at(m->owner, slot->number - 1);
            if (have.n == n && !memcmp(have.s, s, n))
                return slot;
        }
    }
}

void pg_strmap_add(struct pg_strmap *m, uint32_t number)
{
    struct pg_str text = m->at(m->owner, number);
    uint32_t hash = hash_of(m->seed, text.s, text.n);
    struct pg_strmap_slot *slot = find_slot(m, hash, text.s, text.n);
    if (slot->number)
        return;
    slot->hash = hash;
    slot->number = number + 1;
}

int32_t pg_strmap_find(const struct pg_strmap *m, const char *s, size_t n)
{
    if (!m->slot)
        return -1;
    return (int32_t)find_slot(m, hash_of(m->seed, s, n), s, n)->number - 1;
}
