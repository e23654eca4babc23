/* SPDX-License-Identifier: MIT
 * Checksums against damage and mix-ups, not against forgery.
 */
#ifndef PG_BASE_HASH_H
#define PG_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define PG_HASH_START 0xcbf29ce484222325u

/* FNV-1a. */
static inline uint64_t pg_fnv1a(uint64_t hash, const void *data, size_t n)
{
    const unsigned char *p = data;
    for (; n; n--, p++)
        hash = (hash ^ *p) * 0x100000001b3u;
    return hash;
}

/* The same by whole words, since a checkpoint has hundreds of megabytes. */
static inline uint64_t pg_hash_bytes(uint64_t hash, const void *data, size_t n)
{
    const unsigned char *p = data;
    for (; n >= sizeof(uint32_t); n -= sizeof(uint32_t), p += sizeof(uint32_t)) {
        uint32_t word;
        memcpy(&word, p, sizeof(word));
        hash = (hash ^ word) * 0x100000001b3u;
        hash ^= hash >> 32;
    }
    return pg_fnv1a(hash, p, n);
}

/* 16 hex digits. */
static inline void pg_hash_text(uint64_t hash, char out[17])
{
    for (int i = 0; i < 16; i++)
        out[i] = "0123456789abcdef"[hash >> (60 - 4 * i) & 15];
    out[16] = 0;
}

#endif
