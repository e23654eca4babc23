/* SPDX-License-Identifier: MIT
 * The imagined cache of a block: experts chosen with its bias, what they miss in it, and the sticky
 * loss. Each row of the batch is walked in the order of its tokens.
 */
#include "net/net_impl.h"

#include <string.h>

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

/* ------------------------------------------------------------------ choice ------------------ */

/* Task: one row of the batch. The cache is empty before its first token, and full of what the
 * documents before have used at the beginning of the next. */
static void walk(void *arg, int task, int thread)
{
    const struct pg_net_pass *p = arg; /* il: the MoE block */
    struct pg_net *n = p->n;
    struct pg_net_route *r = &n->route[p->il];
    struct recent cache = no_recent(n, thread);
    int n_used = n->h->n_expert_used, n_expert = n->h->n_expert, seq_len = n->opt.seq_len;
    uint8_t *here = n->here + (size_t)thread * (size_t)n_expert;
    pg_real *ranked = n->room + (size_t)thread * n->room_len;
    int64_t misses = 0;
    for (int t = task * seq_len; t < (task + 1) * seq_len; t++) {
        int32_t *id = r->id + (size_t)t * (size_t)n_used;
        memset(here, 0, (size_t)n_expert);
        for (int i = 0; i < cache.n; i++)
            here[cache.id[i]] = 1;
        if (n->bias) {
            pg_net_prefer(n, p->il, t, here, ranked);
            pg_net_choose(n, r, t, ranked);
        }
        for (int i = 0; i < n_used; i++)
            misses += !here[id[i]];
        touch_all(&cache, id, n_used);
    }
    n->of_row[task] = (double)misses;
}

/* ------------------------------------------------------------------ sticky ------------------ */

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
    int n_expert = n->h->n_expert, n_used = n->h->n_expert_used, seq_len = n->opt.seq_len;
    double sum = 0;
    for (int i = 0; i < seq_len; i++) {
        int t = task * seq_len + i;
        cache.n = n->batch->start[t] == i ? 0 : cache.n;
        memset(r->missed + (size_t)t * (size_t)n_expert, 0, (size_t)n_expert);
        if (cache.n == n->opt.sticky_cache)
            sum += miss_of(n, r, t, &cache);
        touch_all(&cache, r->id + (size_t)t * (size_t)n_used, n_used);
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
    return sum / n->n_tok;
}

void pg_net_cache(struct pg_net *n, int moe)
{
    n->route[moe].misses = n->opt.sticky_cache ? over_rows(n, walk, moe) : 0;
}

void pg_net_sticky(struct pg_net *n, int moe)
{
    n->route[moe].sticky = n->opt.sticky_cache ? over_rows(n, sticky, moe) : 0;
}
