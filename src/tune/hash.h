/* SPDX-License-Identifier: MIT
 * A checksum against damage and mix-ups (FNV-1a), not against forgery. Whole words are taken at
 * once, since a checkpoint has hundreds of megabytes.
 */
#ifndef PG_TUNE_HASH_H
#define PG_TUNE_HASH_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define PG_HASH_START 0xcbf29ce484222325u

static inline uint64_t pg_hash_bytes(uint64_t hash, const void *data, size_t n)
{
    const unsigned char *p = data;
    for (; n >= sizeof(uint32_t); n -= sizeof(uint32_t), p += sizeof(uint32_t)) {
        uint32_t word;
        memcpy(&word, p, sizeof(word));
        hash = (hash ^ word) * 0x100000001b3u;
        hash ^= hash >> 32;
    }
    for (; n; n--, p++)
        hash = (hash ^ *p) * 0x100000001b3u;
    return hash;
}

/* 16 hex digits. */
static inline void pg_hash_text(uint64_t hash, char out[17])
{
    for (int i = 0; i < 16; i++)
        out[i] = "0123456789abcdef"[hash >> (60 - 4 * i) & 15];
    out[16] = 0;
}

#endif
