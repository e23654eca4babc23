/* SPDX-License-Identifier: MIT
 * A route trace through a policy: which fraction of the experts would have been there.
 *
 * One wave for each token and block. What a wave wants is counted against what is in slots when it
 * begins; then its misses are admitted in order, and never at the cost of one of its own.
 */
#include "store/policy.h"
#include "store/routes.h"

#include "base/os.h"

#include <stdlib.h>
#include <string.h>

struct replay {
    const pg_routes *r;
    int n_slots, n_free;
    struct pg_policy *policy; /* NULL: Belady */
    int32_t *slot_of;         /* [n_blocks * n_expert] */
    int32_t *key_of;          /* [n_slots] */
    uint8_t *may;             /* [n_slots] */
    /* Belady: the wave of the next use, for each request of the trace and for each slot. */
    uint32_t *next_use;  /* [n_tokens * n_blocks * n_used] */
    uint32_t *slot_next; /* [n_slots] */
};

static void fini(struct replay *x)
{
    pg_policy_close(x->policy);
    free(x->slot_of);
    free(x->key_of);
    free(x->may);
    free(x->next_use);
    free(x->slot_next);
}

static bool is_wave(const pg_routes *r, int token, int block)
{
    const struct pg_span span = pg_routes_span(r, token);
    return block >= span.first && block < span.first + span.n;
}

/* For each request, the wave in which the same expert is wanted next; none: UINT32_MAX. */
static int find_next_uses(struct replay *x, int t1)
{
    const pg_routes *r = x->r;
    size_t n_keys = (size_t)r->n_blocks * (size_t)r->n_expert;
    uint32_t *next = pg_calloc(n_keys, sizeof(*next));
    x->slot_next = pg_calloc((size_t)x->n_slots, sizeof(*x->slot_next));
    x->next_use = pg_calloc((size_t)r->n_tokens * (size_t)r->n_blocks * (size_t)r->n_used,
                            sizeof(*x->next_use));
    if (next && x->next_use && x->slot_next) {
        memset(next, 0xff, n_keys * sizeof(*next));
        for (int w = t1 * r->n_blocks - 1; w >= 0; w--) {
            if (!is_wave(r, w / r->n_blocks, w % r->n_blocks))
                continue;
            const uint16_t *ids = pg_routes_ids(r, w / r->n_blocks, w % r->n_blocks);
            for (int i = 0; i < r->n_used; i++) {
                uint32_t *at = &next[w % r->n_blocks * r->n_expert + ids[i]];
                x->next_use[(size_t)w * (size_t)r->n_used + (size_t)i] = *at;
                *at = (uint32_t)w;
            }
        }
    }
    bool ok = next && x->next_use && x->slot_next;
    free(next);
    return ok ? 0 : PG_ENOMEM;
}

static int init(struct replay *x, int policy, int t1, struct pg_err *err)
{
    const pg_routes *r = x->r;
    size_t n_keys = (size_t)r->n_blocks * (size_t)r->n_expert;
    x->slot_of = pg_calloc(n_keys, sizeof(*x->slot_of));
    x->key_of = pg_calloc((size_t)x->n_slots, sizeof(*x->key_of));
    x->may = pg_calloc((size_t)x->n_slots, 1);
    if (!x->slot_of || !x->key_of || !x->may ||
        (policy == PG_EVICT_BELADY && find_next_uses(x, t1)))
        return pg_fail(err, PG_ENOMEM, "replay with %d slots: out of memory", x->n_slots);
    memset(x->slot_of, 0xff, n_keys * sizeof(*x->slot_of));
    if (policy != PG_EVICT_BELADY)
        PG_TRY(pg_policy_open(&x->policy, (enum pg_evict)policy, r->n_blocks, r->n_expert,
                              x->n_slots, err));
    return 0;
}

static int victim(const struct replay *x)
{
    if (x->policy)
        return pg_policy_victim(x->policy, x->may);
    int best = -1;
    for (int slot = 0; slot < x->n_slots; slot++)
        if (x->may[slot] && (best < 0 || x->slot_next[slot] > x->slot_next[best]))
            best = slot;
    return best;
}

static void admit(struct replay *x, int key)
{
    int slot = x->n_free ? --x->n_free : victim(x);
    if (slot < 0)
        return; /* the wave is larger than the slots */
    if (!x->may[slot])
        PG_ASSERT(x->key_of[slot] < 0);
    if (x->key_of[slot] >= 0) {
        x->slot_of[x->key_of[slot]] = -1;
        if (x->policy)
            pg_policy_remove(x->policy, slot);
    }
    if (x->policy)
        pg_policy_admit(x->policy, slot, key);
    x->slot_of[key] = slot;
    x->key_of[slot] = key;
    x->may[slot] = 0;
}

/* Returns how many of the wave's experts were there. */
static int replay_wave(struct replay *x, int token, int block)
{
    const pg_routes *r = x->r;
    const uint16_t *ids = pg_routes_ids(r, token, block);
    int base = block * r->n_expert;
    int hits = 0;
    if (x->policy)
        pg_policy_tick(x->policy, block);
    for (int i = 0; i < r->n_used; i++) {
        int slot = x->slot_of[base + ids[i]];
        if (x->policy)
            pg_policy_use(x->policy, base + ids[i]);
        if (slot >= 0)
            x->may[slot] = 0;
        hits += slot >= 0;
    }
    for (int i = 0; i < r->n_used; i++)
        if (x->slot_of[base + ids[i]] < 0)
            admit(x, base + ids[i]);
    size_t at = ((size_t)token * (size_t)r->n_blocks + (size_t)block) * (size_t)r->n_used;
    for (int i = 0; i < r->n_used; i++) {
        int slot = x->slot_of[base + ids[i]];
        if (slot < 0)
            continue;
        x->may[slot] = 1;
        if (!x->policy)
            x->slot_next[slot] = x->next_use[at + (size_t)i];
    }
    return hits;
}

/* The waves of a token, which are counted from `first` on. */
static void replay_token(struct replay *x, struct pg_replay *out, int token)
{
    const struct pg_span span = pg_routes_span(x->r, token);
    if (x->policy)
        pg_policy_span(x->policy, span);
    for (int block = span.first; block < span.first + span.n; block++) {
        int hits = replay_wave(x, token, block);
        if (token < out->first)
            continue;
        out->requests += (uint64_t)x->r->n_used;
        out->hits += (uint64_t)hits;
    }
}

int pg_replay_run(const pg_routes *r, struct pg_replay *out, struct pg_err *err)
{
    int n_slots = out->n_slots;
    out->requests = out->hits = 0;
    if (out->policy < 0 || out->policy > PG_EVICT_BELADY)
        return pg_fail(err, PG_EARG, "replay: policy %d, want 0 to %d", out->policy,
                       PG_EVICT_BELADY);
    if (n_slots < 1 || n_slots > 1 << 24)
        return pg_fail(err, PG_EARG, "replay: %d slots, want 1 to %d", n_slots, 1 << 24);
    if (out->first < 0 || out->first > out->end || out->end > r->n_tokens)
        return pg_fail(err, PG_EARG, "replay: tokens %d to %d, want them within 0 to %d",
                       out->first, out->end, r->n_tokens);
    struct replay x = {.r = r, .n_slots = n_slots, .n_free = n_slots};
    int rc = init(&x, out->policy, out->end, err);
    for (int slot = 0; slot < n_slots && !rc; slot++)
        x.key_of[slot] = -1;
    for (int token = 0; token < out->end && !rc; token++)
        replay_token(&x, out, token);
    fini(&x);
    return rc;
}
