/* SPDX-License-Identifier: MIT
 * Random numbers: SplitMix64 (Steele, Lea, Flood 2014), a counter through a mixing function. Every
 * seed is good.
 */
#ifndef PG_BASE_RANDOM_H
#define PG_BASE_RANDOM_H

#include <stdint.h>

#define PG_RANDOM_STEP 0x9e3779b97f4a7c15u

static inline uint64_t pg_random_mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static inline uint64_t pg_random_next(uint64_t *state)
{
    return pg_random_mix(*state += PG_RANDOM_STEP);
}

/* The n-th number of a stream, so that resuming needs no state. */
static inline uint64_t pg_random_at(uint64_t seed, uint64_t stream, uint64_t n)
{
    uint64_t start = pg_random_mix(pg_random_mix(seed + PG_RANDOM_STEP) + stream * PG_RANDOM_STEP);
    return pg_random_mix(start + (n + 1) * PG_RANDOM_STEP);
}

/* A permutation of [0, n) that depends on seed and stream alone. */
static inline void pg_shuffle(int32_t *order, int n, uint64_t seed, uint64_t stream)
{
    for (int i = 0; i < n; i++)
        order[i] = i;
    for (int i = n - 1; i > 0; i--) {
        int j = (int)(pg_random_at(seed, stream, (uint64_t)i) % (uint64_t)(i + 1));
        int32_t other = order[j];
        order[j] = order[i];
        order[i] = other;
    }
}

#endif
