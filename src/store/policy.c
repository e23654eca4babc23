/* SPDX-License-Identifier: MIT
 * The ranking that all policies share, and the three of the paper: lru, lfu, lifo.
 */
#include "store/policy_impl.h"

#include "base/arena.h"
#include "base/os.h"

#include <stdlib.h>
#include <string.h>

static const char *const evict_names[PG_EVICT_COUNT] = {
    [PG_EVICT_CYCLE] = "cycle",
    [PG_EVICT_LRU] = "lru",
    [PG_EVICT_LFU] = "lfu",
    [PG_EVICT_LIFO] = "lifo",
};

const char *pg_evict_name(enum pg_evict p)
{
    return (unsigned)p < PG_EVICT_COUNT ? evict_names[p] : "unknown";
}

int pg_evict_parse(const char *name)
{
    for (int i = 0; i < PG_EVICT_COUNT; i++)
        if (!strcmp(name, evict_names[i]))
            return i;
    return -1;
}

/* Hands out the arrays of *p; run without memory it only measures. */
static size_t carve(struct pg_policy *p, struct pg_arena *a)
{
    size_t n_key = (size_t)p->n_block * (size_t)p->n_expert;
    size_t n_slots = (size_t)p->n_slots;
    size_t n_block = (size_t)p->n_block;
#define TAKE(field, n) (p->field = pg_arena_take(a, (n) * sizeof(*p->field)))
    TAKE(history, n_key);
    TAKE(cost, n_slots);
    TAKE(key_of, n_slots);
    TAKE(admitted, n_slots);
    TAKE(ranked, n_key);
    TAKE(n_ranked, n_block);
    TAKE(round, n_block);
    TAKE(known, n_block);
    TAKE(stale, n_block);
#undef TAKE
    return a->used;
}

size_t pg_policy_heap_bytes(int n_block, int n_expert, int n_slots)
{
    struct pg_policy p = {.n_block = n_block, .n_expert = n_expert, .n_slots = n_slots};
    struct pg_arena a = {0};
    return sizeof p + carve(&p, &a);
}

int pg_policy_open(struct pg_policy **out, enum pg_evict kind, int n_block, int n_expert,
                   int n_slots, struct pg_err *err)
{
    *out = NULL;
    if ((unsigned)kind >= PG_EVICT_COUNT)
        return pg_fail(err, PG_EARG, "eviction policy %d: want 0 to %d", (int)kind,
                       PG_EVICT_COUNT - 1);
    if (n_block < 1 || n_expert < 1 || n_slots < 1)
        return pg_fail(err, PG_EARG,
                       "eviction policy for %d blocks, %d experts, %d slots: want 1 of each at "
                       "least",
                       n_block, n_expert, n_slots);
    struct pg_policy *p = pg_calloc(1, sizeof *p);
    if (!p)
        return pg_fail(err, PG_ENOMEM, "eviction policy: out of memory");
    p->kind = kind;
    p->n_block = n_block;
    p->n_expert = n_expert;
    p->n_slots = n_slots;
    struct pg_arena a = {0};
    size_t bytes = carve(p, &a);
    p->memory = pg_calloc(1, bytes);
    if (!p->memory) {
        pg_policy_close(p);
        return pg_fail(err, PG_ENOMEM, "eviction policy: out of memory (%zu bytes)", bytes);
    }
    a = (struct pg_arena){.base = p->memory, .size = bytes};
    carve(p, &a);
    for (int i = 0; i < n_slots; i++)
        p->key_of[i] = -1;
    *out = p;
    return 0;
}

void pg_policy_close(struct pg_policy *p)
{
    if (!p)
        return;
    free(p->memory);
    free(p);
}

/* ---- costs --------------------------------------------------------------------------------- */

static uint64_t cost_of(const struct pg_policy *p, int slot)
{
    int key = p->key_of[slot];
    const struct pg_key_history *h = &p->history[key];
    switch (p->kind) {
    case PG_EVICT_LRU:
        return UINT64_MAX - PG_MAX(h->last, p->admitted[slot]);
    case PG_EVICT_LFU: /* of those used equally often, the one unused for longest */
        return (uint64_t)(UINT32_MAX - h->count) << 32 | (UINT32_MAX - (uint32_t)h->last);
    case PG_EVICT_LIFO:
        return p->admitted[slot];
    default:
        return pg_policy_cycle_cost(p, key);
    }
}

static uint64_t bias_of(const struct pg_policy *p, int block)
{
    return p->kind == PG_EVICT_CYCLE ? pg_policy_cycle_bias(p, block) : 0;
}

/* ---- ranking ------------------------------------------------------------------------------- */

/* Shell sort: no allocation, and quick on the nearly sorted lists that a wave leaves. Equal costs
 * are ordered by slot, so that the order does not depend on how the list was before. */
static void sort_block(struct pg_policy *p, int block)
{
    int32_t *a = p->ranked + (size_t)block * (size_t)p->n_expert;
    int n = p->n_ranked[block];
    for (int i = 0; i < n; i++)
        p->cost[a[i]] = cost_of(p, a[i]);
    static const int gaps[] = {301, 132, 57, 23, 10, 4, 1};
    for (size_t g = 0; g < PG_COUNT(gaps); g++) {
        for (int i = gaps[g]; i < n; i++) {
            int32_t slot = a[i];
            uint64_t cost = p->cost[slot];
            int j = i;
            for (; j >= gaps[g]; j -= gaps[g]) {
                int32_t other = a[j - gaps[g]];
                if (p->cost[other] > cost || (p->cost[other] == cost && other < slot))
                    break;
                a[j] = other;
            }
            a[j] = slot;
        }
    }
    p->stale[block] = false;
}

void pg_policy_tick(struct pg_policy *p, int block)
{
    p->block = block;
    p->round[block]++;
    p->stale[block] = true;
}

void pg_policy_use(struct pg_policy *p, int key)
{
    struct pg_key_history *h = &p->history[key];
    if (p->kind == PG_EVICT_CYCLE)
        pg_policy_cycle_use(p, key);
    h->last = ++p->serial;
    h->count++;
    h->round = p->round[key / p->n_expert];
    p->stale[key / p->n_expert] = true;
}

void pg_policy_admit(struct pg_policy *p, int slot, int key)
{
    int block = key / p->n_expert;
    int32_t *a = p->ranked + (size_t)block * (size_t)p->n_expert;
    PG_ASSERT(p->key_of[slot] < 0 && p->n_ranked[block] < p->n_expert);
    p->key_of[slot] = key;
    p->admitted[slot] = ++p->serial;
    int n = p->n_ranked[block]++;
    if (!p->stale[block]) {
        uint64_t cost = p->cost[slot] = cost_of(p, slot);
        for (; n > 0; n--) {
            int32_t other = a[n - 1];
            if (p->cost[other] > cost || (p->cost[other] == cost && other < slot))
                break;
            a[n] = other;
        }
    }
    a[n] = slot;
}

void pg_policy_remove(struct pg_policy *p, int slot)
{
    int block = p->key_of[slot] / p->n_expert;
    int32_t *a = p->ranked + (size_t)block * (size_t)p->n_expert;
    int n = p->n_ranked[block];
    int i = 0;
    while (i < n && a[i] != slot)
        i++;
    PG_ASSERT(i < n);
    memmove(a + i, a + i + 1, (size_t)(n - i - 1) * sizeof *a);
    p->n_ranked[block]--;
    p->key_of[slot] = -1;
}

void pg_policy_expect(struct pg_policy *p, int key, int distance, bool certain)
{
    int block = key / p->n_expert;
    struct pg_key_history *h = &p->history[key];
    if (distance > p->n_block)
        return; /* more than a cycle away: the block has another wave before */
    h->expected = p->round[block] + 1;
    h->certain = certain;
    if (certain)
        p->known[block] = h->expected;
    p->stale[block] = true;
}

int pg_policy_victim(struct pg_policy *p, const uint8_t *may)
{
    int best = -1;
    uint64_t best_cost = 0;
    for (int block = 0; block < p->n_block; block++) {
        if (p->stale[block])
            sort_block(p, block);
        const int32_t *a = p->ranked + (size_t)block * (size_t)p->n_expert;
        int n = p->n_ranked[block];
        int i = 0;
        while (i < n && !may[a[i]])
            i++;
        if (i == n)
            continue;
        uint64_t cost = p->cost[a[i]] + bias_of(p, block);
        if (best < 0 || cost > best_cost) {
            best = a[i];
            best_cost = cost;
        }
    }
    return best;
}
