/* SPDX-License-Identifier: MIT
 * The dictionary of names: an open hash table over SipHash-1-3, so that finding and refusing
 * duplicates stays linear whatever names a file holds.
 */
#include "format/gguf_dir.h"

#include "base/os.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

void pg_gguf_dict_init(struct pg_gguf_dict *d)
{
    *d = (struct pg_gguf_dict){0};
    /* Without entropy the clock and an address must do; the result never depends on the seed. */
    if (getrandom(d->seed, sizeof(d->seed), GRND_NONBLOCK) != (ssize_t)sizeof(d->seed)) {
        d->seed[0] = pg_now_ns();
        d->seed[1] = (uintptr_t)d;
    }
}

void pg_gguf_dict_fini(struct pg_gguf_dict *d)
{
    free(d->names);
    free(d->slots);
    *d = (struct pg_gguf_dict){0};
}

void pg_gguf_dict_clear(struct pg_gguf_dict *d)
{
    d->n = 0;
    if (d->slots)
        memset(d->slots, 0, d->n_slots * sizeof(*d->slots));
}

static uint64_t rotate(uint64_t x, int n)
{
    return x << n | x >> (64 - n);
}

static void sip_round(uint64_t v[4])
{
    v[0] += v[1];
    v[2] += v[3];
    v[1] = rotate(v[1], 13) ^ v[0];
    v[3] = rotate(v[3], 16) ^ v[2];
    v[0] = rotate(v[0], 32) + v[3];
    v[2] += v[1];
    v[3] = rotate(v[3], 21) ^ v[0];
    v[1] = rotate(v[1], 17) ^ v[2];
    v[2] = rotate(v[2], 32);
}

static uint64_t hash(const struct pg_gguf_dict *d, const char *s, size_t n)
{
    uint64_t v[4] = {d->seed[0] ^ 0x736f6d6570736575u, d->seed[1] ^ 0x646f72616e646f6du,
                     d->seed[0] ^ 0x6c7967656e657261u, d->seed[1] ^ 0x7465646279746573u};
    uint64_t word = 0;

    for (size_t i = 0; i <= n / 8; i++) {
        word = i == n / 8 ? (uint64_t)n << 56 : 0;
        uint64_t bytes = 0;
        memcpy(&bytes, s + i * 8, PG_MIN(n - i * 8, (size_t)8));
        word |= bytes;
        v[3] ^= word;
        sip_round(v);
        v[0] ^= word;
    }
    v[2] ^= 0xff;
    for (int i = 0; i < 3; i++)
        sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

/* The slot that holds the name, or the free one where it belongs. */
static size_t seek(const struct pg_gguf_dict *d, const char *s, size_t n)
{
    size_t mask = d->n_slots - 1, i = (size_t)hash(d, s, n) & mask;

    while (d->slots[i]) {
        const struct pg_str *name = &d->names[d->slots[i] - 1];
        if (name->n == n && !memcmp(name->s, s, n))
            break;
        i = (i + 1) & mask;
    }
    return i;
}

static int grow(struct pg_gguf_dict *d)
{
    size_t n_slots = d->n_slots ? d->n_slots * 2 : 64;
    uint32_t *slots = pg_calloc(n_slots, sizeof(*slots));

    if (!slots)
        return PG_ENOMEM;
    free(d->slots);
    d->slots = slots;
    d->n_slots = n_slots;
    for (size_t i = 0; i < d->n; i++)
        d->slots[seek(d, d->names[i].s, d->names[i].n)] = (uint32_t)(i + 1);
    return 0;
}

int pg_gguf_dict_add(struct pg_gguf_dict *d, const char *s, size_t n)
{
    if (d->n >= INT32_MAX)
        return PG_ENOMEM;
    if ((d->n + 1) * 2 > d->n_slots)
        PG_TRY(grow(d));
    PG_TRY(pg_reserve(&d->names, &d->cap, d->n + 1, sizeof(*d->names)));
    size_t slot = seek(d, s, n);
    if (d->slots[slot])
        return PG_EARG;
    d->names[d->n++] = (struct pg_str){s, n};
    d->slots[slot] = (uint32_t)d->n;
    return 0;
}

int64_t pg_gguf_dict_find(const struct pg_gguf_dict *d, const char *s, size_t n)
{
    if (!d->n)
        return -1;
    return (int64_t)d->slots[seek(d, s, n)] - 1;
}
