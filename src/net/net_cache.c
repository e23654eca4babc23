/* SPDX-License-Identifier: MIT
 * The imagined cache of a block: experts chosen with its bias, what they miss in it, and the sticky
 * loss. Each row of the batch is walked in the order of its tokens.
 *
 * What the imagined cache keeps is what the engine's policy would keep of this block: its misses
 * are nearer to the engine's, whose blocks share all slots, than those of the experts used last
 * (2.8 a token and 3.3, where the engine has 2.2).
 */
#include "net/net_impl.h"

#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------ cache ------------------- */

/* A thread's. */
struct pg_net_cache {
    struct pg_policy *policy;
    int32_t *slot_of; /* [n_expert], -1: not there */
    int32_t *key_of;  /* [n_slots], -1: empty */
    uint8_t *may;     /* [n_slots] be given up */
    int n_expert, n_slots, n_free;
};

static int n_slots_of(const struct pg_net_options *o)
{
    return PG_MIN(o->sticky_cache, o->model->h.n_expert);
}

size_t pg_net_cache_bytes(const struct pg_net_options *o)
{
    const int n_slots = n_slots_of(o), n_expert = o->model->h.n_expert;
    const size_t n_slot = (size_t)n_slots, n_threads = (size_t)pg_pool_n_threads(o->pool);
    if (n_slots == 0)
        return 0;
    size_t each = sizeof(struct pg_net_cache) + (size_t)n_expert * sizeof(int32_t) +
                  n_slot * (sizeof(int32_t) + 1);
    return n_threads * (each + pg_policy_heap_bytes(1, n_expert, n_slots));
}

static int open_cache(struct pg_net_cache *c, int n_expert, int n_slots, struct pg_err *err)
{
    c->n_expert = n_expert;
    c->n_slots = n_slots;
    c->slot_of = pg_calloc((size_t)n_expert, sizeof(c->slot_of[0]));
    c->key_of = pg_calloc((size_t)n_slots, sizeof(c->key_of[0]));
    c->may = pg_calloc((size_t)n_slots, 1);
    if (!c->slot_of || !c->key_of || !c->may)
        return pg_fail(err, PG_ENOMEM, "out of memory");
    return pg_policy_open(&c->policy, PG_EVICT_CYCLE, 1, n_expert, n_slots, err);
}

int pg_net_cache_open(struct pg_net *n, struct pg_err *err)
{
    const int n_threads = pg_pool_n_threads(n->opt.pool), n_slots = n_slots_of(&n->opt);
    if (n_slots == 0)
        return 0;
    n->cache = pg_calloc((size_t)n_threads, sizeof(n->cache[0]));
    if (!n->cache)
        return pg_fail(err, PG_ENOMEM, "out of memory");
    for (int i = 0; i < n_threads; i++)
        PG_TRY(open_cache(&n->cache[i], n->h->n_expert, n_slots, err));
    return 0;
}

void pg_net_cache_close(struct pg_net *n)
{
    for (int i = 0; n->cache && i < pg_pool_n_threads(n->opt.pool); i++) {
        pg_policy_close(n->cache[i].policy);
        free(n->cache[i].slot_of);
        free(n->cache[i].key_of);
        free(n->cache[i].may);
    }
    free(n->cache);
}

static void empty(struct pg_net_cache *c)
{
    pg_policy_reset(c->policy);
    memset(c->slot_of, 0xff, (size_t)c->n_expert * sizeof(c->slot_of[0]));
    memset(c->key_of, 0xff, (size_t)c->n_slots * sizeof(c->key_of[0]));
    memset(c->may, 0, (size_t)c->n_slots);
    c->n_free = c->n_slots;
}

/* An expert that is not there comes, where one may go. */
static void admit(struct pg_net_cache *c, int32_t id)
{
    int slot = c->n_free ? --c->n_free : pg_policy_victim(c->policy, c->may);
    if (slot < 0)
        return; /* the token uses more than there are slots */
    if (c->key_of[slot] >= 0) {
        c->slot_of[c->key_of[slot]] = -1;
        pg_policy_remove(c->policy, slot);
    }
    pg_policy_admit(c->policy, slot, id);
    c->slot_of[id] = slot;
    c->key_of[slot] = id;
    c->may[slot] = 0;
}

/* What a token uses, none of which leaves for another. Returns how many were not there. */
static int use(struct pg_net_cache *c, const int32_t *id, int n_used)
{
    int n_missed = 0;
    pg_policy_tick(c->policy, 0);
    for (int i = 0; i < n_used; i++) {
        int slot = c->slot_of[id[i]];
        pg_policy_use(c->policy, id[i]);
        n_missed += slot < 0;
        if (slot >= 0)
            c->may[slot] = 0;
    }
    for (int i = 0; i < n_used; i++)
        if (c->slot_of[id[i]] < 0)
            admit(c, id[i]);
    for (int i = 0; i < n_used; i++)
        if (c->slot_of[id[i]] >= 0)
            c->may[c->slot_of[id[i]]] = 1;
    return n_missed;
}

/* ------------------------------------------------------------------ choice ------------------ */

/* Task: one row of the batch. The cache is empty before its first token, and keeps what the
 * documents before have used at the beginning of the next. */
static void walk(void *arg, int task, int thread)
{
    const struct pg_net_pass *p = arg; /* il: the MoE block */
    struct pg_net *n = p->n;
    struct pg_net_route *r = &n->route[p->il];
    struct pg_net_cache *c = &n->cache[thread];
    int n_used = n->h->n_expert_used, n_expert = n->h->n_expert, seq_len = n->seq_len;
    uint8_t *here = n->here + (size_t)thread * (size_t)n_expert;
    pg_real *ranked = n->room + (size_t)thread * n->room_len;
    int64_t misses = 0;
    empty(c);
    for (int t = task * seq_len; t < (task + 1) * seq_len; t++) {
        int32_t *id = r->id + (size_t)t * (size_t)n->n_rank;
        for (int e = 0; n->bias && e < n_expert; e++)
            here[e] = c->slot_of[e] >= 0;
        if (n->bias) {
            pg_net_prefer(n, p->il, t, here, ranked);
            pg_net_choose(n, r, t, ranked);
        }
        misses += pg_net_is_live(n, t) ? use(c, id, n_used) : 0;
    }
    n->of_row[task] = (double)misses;
}

/* ------------------------------------------------------------------ sticky ------------------ */

/* The experts that were used last, the latest first. */
struct recent {
    int32_t *id; /* [most] */
    int n, most;
};

static struct recent no_recent(const struct pg_net *n, int thread)
{
    int n_expert = n->h->n_expert;
    return (struct recent){.id = n->recent + (size_t)thread * (size_t)n_expert,
                           .most = PG_MIN(n->opt.sticky_cache, n_expert)};
}

static void touch(struct recent *c, int32_t id)
{
    int at = 0;
    while (at < c->n && c->id[at] != id)
        at++;
    if (at == c->n && c->n < c->most)
        c->n++;
    at = PG_MIN(at, c->most - 1);
    memmove(c->id + 1, c->id, (size_t)at * sizeof(c->id[0]));
    c->id[0] = id;
}

/* Of the experts that one token used, the first rank counts as the last used. */
static void touch_all(struct recent *c, const int32_t *id, int n_used)
{
    for (int rank = n_used - 1; rank >= 0; rank--)
        touch(c, id[rank]);
}

/* The token's expected miss, with a full cache. */
static double miss_of(const struct pg_net *n, struct pg_net_route *r, int t,
                      const struct recent *cache)
{
    int n_expert = n->h->n_expert;
    const pg_real *p = pg_net_row(r->p, t, n_expert);
    uint8_t *missed = r->missed + (size_t)t * (size_t)n_expert;
    double sum = 0;
    memset(missed, 1, (size_t)n_expert);
    for (int i = 0; i < cache->n; i++)
        missed[cache->id[i]] = 0;
    for (int e = 0; e < n_expert; e++)
        sum += missed[e] ? (double)p[e] : 0;
    return sum;
}

/* Task: one row of the batch. */
static void sticky(void *arg, int task, int thread)
{
    const struct pg_net_pass *p = arg; /* il: the MoE block */
    struct pg_net *n = p->n;
    struct pg_net_route *r = &n->route[p->il];
    struct recent cache = no_recent(n, thread);
    int n_expert = n->h->n_expert, n_used = n->h->n_expert_used, seq_len = n->seq_len;
    double sum = 0;
    for (int i = 0; i < seq_len; i++) {
        int t = task * seq_len + i;
        cache.n = n->now->from[t] == i ? 0 : cache.n;
        memset(r->missed + (size_t)t * (size_t)n_expert, 0, (size_t)n_expert);
        if (!pg_net_is_live(n, t))
            continue;
        if (cache.n == n->opt.sticky_cache)
            sum += miss_of(n, r, t, &cache);
        touch_all(&cache, r->id + (size_t)t * (size_t)n->n_rank, n_used);
    }
    n->of_row[task] = sum;
}

static double over_rows(struct pg_net *n, pg_task_fn *fn, int moe)
{
    struct pg_net_pass p = {n, moe};
    double sum = 0;
    pg_pool_run(n->opt.pool, fn, &p, n->opt.n_seq);
    for (int s = 0; s < n->opt.n_seq; s++)
        sum += n->of_row[s];
    return sum / n->now->n_live;
}

void pg_net_cache(struct pg_net *n, int moe)
{
    n->route[moe].misses = n->cache && !n->refers ? over_rows(n, walk, moe) : 0;
}

void pg_net_sticky(struct pg_net *n, int moe)
{
    n->route[moe].sticky = n->opt.sticky_cache && !n->refers ? over_rows(n, sticky, moe) : 0;
}
