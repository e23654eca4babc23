/* SPDX-License-Identifier: MIT
 * The policy `cycle`: evict the expert whose next use is probably farthest away.
 */
#include "store/policy_impl.h"

#define TICK ((uint64_t)1 << 40) /* one wave, in units of cost */

uint64_t pg_policy_cycle_bias(const struct pg_policy *p, int block)
{
    int ahead = block - p->block;
    return (uint64_t)(ahead > 0 ? ahead : ahead + p->n_block) * TICK;
}

void pg_policy_cycle_use(struct pg_policy *p, int key)
{
    struct pg_key_history *h = &p->history[key];
    uint32_t now = p->round[key / p->n_expert];
    for (uint32_t r = h->round; r < now && h->slow > 1e-6f; r++)
        h->slow *= 0.85f;
    h->slow += 0.15f;
}

uint64_t pg_policy_cycle_cost(const struct pg_policy *p, int key)
{
    const struct pg_key_history *h = &p->history[key];
    uint32_t now = p->round[key / p->n_expert];
    float f = h->slow;
    for (uint32_t r = h->round; r < now && f > 1e-6f; r++)
        f *= 0.85f;
    if (h->expected > now)
        return 0;
    float rounds = 1.0f / (f > 1e-4f ? f : 1e-4f) - 1.0f;
    return (uint64_t)(rounds * (float)p->n_block * 1024.0f) * (TICK / 1024);
}
