/* SPDX-License-Identifier: MIT
 * The choice of a victim that all policies share, the three of the paper (lru, lfu, lifo), and the
 * baseline (random).
 */
#include "store/policy_impl.h"

#include "base/os.h"
#include "base/random.h"

#include <stdlib.h>
#include <string.h>

static const char *const evict_names[PG_EVICT_COUNT] = {
    [PG_EVICT_CYCLE] = "cycle", [PG_EVICT_LRU] = "lru",       [PG_EVICT_LFU] = "lfu",
    [PG_EVICT_LIFO] = "lifo",   [PG_EVICT_RANDOM] = "random",
};

const char *pg_evict_name(enum pg_evict p)
{
    return (unsigned)p < PG_EVICT_COUNT ? evict_names[p] : "unknown";
}

int pg_evict_parse(const char *name)
{
    for (int i = 0; i < PG_EVICT_COUNT; i++)
        if (name && !strcmp(name, evict_names[i]))
            return i;
    return -1;
}

/* ---- the policies -------------------------------------------------------------------------- */

static uint64_t lru_worth(const struct pg_policy *p, int slot)
{
    return PG_MAX(p->last[p->key_of[slot]], p->admitted[slot]);
}

/* Of those used equally often, the one unused for longest. */
static uint64_t lfu_worth(const struct pg_policy *p, int slot)
{
    int key = p->key_of[slot];
    return (uint64_t)p->count[key] << 32 | (uint32_t)p->last[key];
}

static uint64_t lifo_worth(const struct pg_policy *p, int slot)
{
    return UINT64_MAX - p->admitted[slot];
}

/* Drawn anew for each victim: between two of them one expert at least is admitted. */
static uint64_t random_worth(const struct pg_policy *p, int slot)
{
    enum { SEED = 1 };
    uint64_t x = p->serial << 32 ^ (uint64_t)(uint32_t)p->key_of[slot] ^ (uint64_t)SEED << 63;
    return pg_random_mix(x);
}

static void random_forecast(struct pg_policy *p)
{
    for (int block = 0; block < p->n_block; block++)
        p->stale[block] = true;
}

static uint64_t no_weight(const struct pg_policy *p, int block)
{
    (void)p, (void)block;
    return 1;
}

/* What came first or was used most in another stack says nothing of this one, and would never
 * leave. */
static uint64_t span_weight(const struct pg_policy *p, int block)
{
    return block >= p->span.first && block < p->span.first + p->span.n;
}

static void no_carve(struct pg_policy *p, struct pg_arena *a)
{
    (void)p, (void)a;
}

static void no_span(struct pg_policy *p)
{
    (void)p;
}

static void no_event(struct pg_policy *p, int which)
{
    (void)p, (void)which;
}

static void no_hint(struct pg_policy *p, int key, bool certain)
{
    (void)p, (void)key, (void)certain;
}

static void no_forecast(struct pg_policy *p)
{
    (void)p;
}

/* Those that look at the past alone. */
#define PAST(worth, weight)                                                                        \
    {                                                                                              \
        worth, weight, no_carve, no_span, no_event, no_event, no_hint, no_forecast                 \
    }

static const struct pg_policy_kind kinds[PG_EVICT_COUNT] = {
    [PG_EVICT_CYCLE] = {pg_cycle_worth, pg_cycle_weight, pg_cycle_carve, pg_cycle_span,
                        pg_cycle_tick, pg_cycle_use, pg_cycle_hint, pg_cycle_forecast},
    [PG_EVICT_LRU] = PAST(lru_worth, no_weight),
    [PG_EVICT_LFU] = PAST(lfu_worth, span_weight),
    [PG_EVICT_LIFO] = PAST(lifo_worth, span_weight),
    [PG_EVICT_RANDOM] = {random_worth, no_weight, no_carve, no_span, no_event, no_event, no_hint,
                         random_forecast},
};

/* ---- open and close ------------------------------------------------------------------------ */

/* Hands out the arrays of *p; run without memory it only measures. */
static size_t carve(struct pg_policy *p, struct pg_arena *a)
{
    size_t n_key = (size_t)p->n_block * (size_t)p->n_expert;
    size_t n_slots = (size_t)p->n_slots;
    size_t n_block = (size_t)p->n_block;
#define TAKE(field, n) (p->field = pg_arena_take(a, (n) * sizeof(*p->field)))
    TAKE(last, n_key);
    TAKE(count, n_key);
    TAKE(key_of, n_slots);
    TAKE(worth, n_slots);
    TAKE(admitted, n_slots);
    TAKE(members, n_key);
    TAKE(n_members, n_block);
    TAKE(least, n_block);
    TAKE(stale, n_block);
#undef TAKE
    p->kind->carve(p, a);
    return a->used;
}

size_t pg_policy_heap_bytes(int n_block, int n_expert, int n_slots)
{
    struct pg_policy p = {.kind = &kinds[PG_EVICT_CYCLE],
                          .n_block = n_block,
                          .n_expert = n_expert,
                          .n_slots = n_slots};
    struct pg_arena a = {0};
    return sizeof(p) + carve(&p, &a);
}

/* From memory that is zero. */
static void begin(struct pg_policy *p)
{
    struct pg_arena a = {.base = p->memory, .size = p->bytes};
    p->span = (struct pg_span){0, p->n_block};
    carve(p, &a);
    memset(p->key_of, 0xff, (size_t)p->n_slots * sizeof(*p->key_of));
    memset(p->least, 0xff, (size_t)p->n_block * sizeof(*p->least));
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
    struct pg_policy *p = pg_calloc(1, sizeof(*p));
    if (!p)
        return pg_fail(err, PG_ENOMEM, "eviction policy: out of memory");
    /* With a slot for every expert nothing ever leaves, and nothing needs to be forecast. */
    bool all_fit = n_slots / n_block >= n_expert;
    p->kind = &kinds[kind == PG_EVICT_CYCLE && all_fit ? PG_EVICT_LRU : kind];
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
    p->bytes = bytes;
    begin(p);
    *out = p;
    return 0;
}

void pg_policy_reset(struct pg_policy *p)
{
    memset(p->memory, 0, p->bytes);
    p->serial = 0;
    begin(p);
}

void pg_policy_close(struct pg_policy *p)
{
    if (!p)
        return;
    free(p->memory);
    free(p);
}

/* ---- the choice ---------------------------------------------------------------------------- */

static int32_t *members_of(const struct pg_policy *p, int block)
{
    return p->members + (size_t)block * (size_t)p->n_expert;
}

/* Equal worths are ordered by slot, so that the order of the members does not matter. */
static bool leaves_before(const struct pg_policy *p, int slot, int other)
{
    return p->worth[slot] < p->worth[other] || (p->worth[slot] == p->worth[other] && slot < other);
}

/* The least worthy member among those with may[slot] != 0, or among all; -1: none. */
static int find_least(const struct pg_policy *p, int block, const uint8_t *may)
{
    const int32_t *a = members_of(p, block);
    int least = -1;
    for (int i = 0; i < p->n_members[block]; i++)
        if ((!may || may[a[i]]) && (least < 0 || leaves_before(p, a[i], least)))
            least = a[i];
    return least;
}

static int least_of(struct pg_policy *p, int block, const uint8_t *may)
{
    const int32_t *a = members_of(p, block);
    if (p->stale[block]) {
        for (int i = 0; i < p->n_members[block]; i++)
            p->worth[a[i]] = p->kind->worth(p, a[i]);
        p->stale[block] = false;
        p->least[block] = -1;
    }
    if (p->least[block] < 0)
        p->least[block] = find_least(p, block, NULL);
    int least = p->least[block];
    return least < 0 || may[least] ? least : find_least(p, block, may);
}

void pg_policy_expose(struct pg_policy *p, int n_block)
{
    PG_ASSERT(n_block >= 0);
    p->n_exposed = n_block;
}

void pg_policy_span(struct pg_policy *p, struct pg_span span)
{
    PG_ASSERT(span.first >= 0 && span.n >= 1 && span.first + span.n <= p->n_block);
    if (span.first == p->span.first && span.n == p->span.n)
        return;
    p->span = span;
    p->kind->span(p);
}

void pg_policy_tick(struct pg_policy *p, int block)
{
    PG_ASSERT(block >= p->span.first && block < p->span.first + p->span.n);
    p->kind->tick(p, block);
}

void pg_policy_use(struct pg_policy *p, int key)
{
    PG_ASSERT(key >= 0 && key < p->n_block * p->n_expert);
    p->last[key] = ++p->serial;
    p->count[key]++;
    p->kind->use(p, key);
    p->stale[key / p->n_expert] = true;
}

void pg_policy_admit(struct pg_policy *p, int slot, int key)
{
    int block = key / p->n_expert;
    PG_ASSERT(slot >= 0 && slot < p->n_slots && key >= 0 && block < p->n_block);
    PG_ASSERT(p->key_of[slot] < 0 && p->n_members[block] < p->n_expert);
    p->key_of[slot] = key;
    p->admitted[slot] = ++p->serial;
    p->worth[slot] = p->kind->worth(p, slot);
    members_of(p, block)[p->n_members[block]++] = slot;
    if (p->least[block] >= 0 && leaves_before(p, slot, p->least[block]))
        p->least[block] = slot;
}

void pg_policy_remove(struct pg_policy *p, int slot)
{
    PG_ASSERT(p->key_of[slot] >= 0);
    int block = p->key_of[slot] / p->n_expert;
    int32_t *a = members_of(p, block);
    int n = p->n_members[block];
    int i = 0;
    while (i < n && a[i] != slot)
        i++;
    PG_ASSERT(i < n);
    a[i] = a[n - 1];
    p->n_members[block]--;
    p->key_of[slot] = -1;
    if (p->least[block] == slot)
        p->least[block] = -1;
}

void pg_policy_hint(struct pg_policy *p, int key, int distance, bool certain)
{
    PG_ASSERT(key >= 0 && key < p->n_block * p->n_expert && distance > 0);
    /* More than a cycle away the block has another wave before. */
    if (distance <= p->n_block)
        p->kind->hint(p, key, certain);
}

int pg_policy_victim(struct pg_policy *p, const uint8_t *may)
{
    int best = -1;
    uint64_t best_value = 0;
    p->kind->forecast(p);
    for (int block = 0; block < p->n_block; block++) {
        int slot = p->n_members[block] ? least_of(p, block, may) : -1;
        if (slot < 0)
            continue;
        uint64_t value = p->worth[slot] * p->kind->weight(p, block);
        if (best < 0 || value < best_value) {
            best = slot;
            best_value = value;
        }
    }
    PG_ASSERT(best < 0 || may[best]);
    return best;
}
