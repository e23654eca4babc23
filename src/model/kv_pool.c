/* SPDX-License-Identifier: MIT */
#include "model/kv_pool.h"

#include <string.h>

void pg_kv_pool_carve(struct pg_kv_pool *p, size_t page_bytes, int n_pages, struct pg_arena *a)
{
    *p = (struct pg_kv_pool){.page_bytes = page_bytes, .n_pages = n_pages, .first = -1};
    p->page = pg_arena_take(a, (size_t)n_pages * sizeof(*p->page));
    p->rows = pg_arena_take(a, (size_t)n_pages * page_bytes);
}

char *pg_kv_pool_rows(const struct pg_kv_pool *p, int32_t id)
{
    return p->rows + (size_t)id * p->page_bytes;
}

/* ------------------------------------------------------------------ the forest -------------- */

static int32_t *children_of(struct pg_kv_pool *p, int32_t parent)
{
    return parent < 0 ? &p->first : &p->page[parent].child;
}

static void link_page(struct pg_kv_pool *p, int32_t id, int32_t parent)
{
    struct pg_kv_page *g = &p->page[id];
    int32_t *head = children_of(p, parent);
    g->parent = parent;
    g->before = -1;
    g->after = *head;
    if (*head >= 0)
        p->page[*head].before = id;
    *head = id;
    if (parent >= 0)
        p->page[parent].n_children++;
}

static void unlink_page(struct pg_kv_pool *p, int32_t id)
{
    struct pg_kv_page *g = &p->page[id];
    if (g->before >= 0)
        p->page[g->before].after = g->after;
    else
        *children_of(p, g->parent) = g->after;
    if (g->after >= 0)
        p->page[g->after].before = g->before;
    if (g->parent >= 0)
        p->page[g->parent].n_children--;
}

static void release(struct pg_kv_pool *p, int32_t id)
{
    PG_ASSERT(p->page[id].n_have == 0 && p->page[id].n_children == 0);
    unlink_page(p, id);
    p->page[id].used = 0;
}

/* A page whose memory is free, else the longest unused of those that nobody has; -1: there is none.
 */
static int32_t choose(const struct pg_kv_pool *p)
{
    int32_t oldest = -1;
    for (int32_t i = 0; i < p->n_pages; i++) {
        const struct pg_kv_page *g = &p->page[i];
        if (!g->used)
            return i;
        if (g->n_have == 0 && g->n_children == 0 && (oldest < 0 || g->used < p->page[oldest].used))
            oldest = i;
    }
    return oldest;
}

int32_t pg_kv_pool_take(struct pg_kv_pool *p, int32_t parent)
{
    const int32_t id = choose(p);
    if (id < 0)
        return -1;
    struct pg_kv_page *g = &p->page[id];
    if (g->used)
        release(p, id);
    *g = (struct pg_kv_page){.child = -1, .n_have = 1, .used = ++p->now};
    link_page(p, id, parent);
    p->n_held++;
    return id;
}

void pg_kv_pool_hold(struct pg_kv_pool *p, int32_t id)
{
    struct pg_kv_page *g = &p->page[id];
    p->n_held += g->n_have == 0;
    g->n_have++;
    g->used = ++p->now;
}

void pg_kv_pool_drop(struct pg_kv_pool *p, int32_t id)
{
    struct pg_kv_page *g = &p->page[id];
    PG_ASSERT(g->n_have > 0 && g->used);
    g->n_have--;
    g->used = ++p->now;
    p->n_held -= g->n_have == 0;
    if (g->n_have == 0 && g->n_children == 0 && g->n == 0) /* nothing to find in it */
        release(p, id);
}

/* ------------------------------------------------------------------ finding ----------------- */

static int n_same(const struct pg_kv_page *g, const int32_t *tokens, int n)
{
    int same = 0;
    while (same < n && same < g->n && g->token[same] == tokens[same])
        same++;
    return same;
}

void pg_kv_pool_find(struct pg_kv_pool *p, const int32_t *tokens, int n, struct pg_kv_found *out)
{
    int32_t at = p->first;
    out->n_pages = out->n = 0;
    while (at >= 0 && out->n < n) {
        int32_t best = -1;
        int same = 0;
        for (; at >= 0; at = p->page[at].after) {
            const int here = n_same(&p->page[at], tokens + out->n, n - out->n);
            if (here > same) {
                same = here;
                best = at;
            }
        }
        if (best < 0)
            return;
        pg_kv_pool_hold(p, best);
        out->page[out->n_pages++] = best;
        out->n += same;
        at = same == PG_KV_PAGE ? p->page[best].child : -1;
    }
}

int pg_kv_pool_kept(const struct pg_kv_pool *p)
{
    int n = 0;
    for (int32_t i = 0; i < p->n_pages; i++)
        if (p->page[i].used && p->page[i].n_have == 0)
            n += p->page[i].n;
    return n;
}
