/* SPDX-License-Identifier: MIT */
#include "model/kv.h"

#include <string.h>

static size_t value_bytes(enum pg_kv_type type)
{
    return type == PG_KV_F32 ? sizeof(float) : sizeof(uint16_t);
}

static void carve_block(struct pg_kv_block *l, const struct pg_kv_shape *s, struct pg_arena *a)
{
    const struct pg_cache *c = l->cache;
    if (c->state_bytes) {
        l->k = pg_arena_take(a, c->state_bytes);
        return;
    }
    PG_ASSERT(c->n_head > 0 && c->k_dim > 0 && c->v_dim > 0 && c->window >= 0);
    l->n_rows = c->rows == PG_ROWS_TIMELINE ? s->n_ctx : s->n_source;
    if (c->window)
        l->n_rows = (int)PG_MIN((int64_t)l->n_rows, (int64_t)c->window + s->n_step);
    size_t rows = (size_t)c->n_head * (size_t)l->n_rows * value_bytes(s->type);
    l->k = pg_arena_take(a, rows * (size_t)c->k_dim);
    l->v = pg_arena_take(a, rows * (size_t)c->v_dim);
}

void pg_kv_carve(struct pg_kv *kv, const struct pg_cache *cache, int n_cache,
                 const struct pg_kv_shape *shape, struct pg_arena *a)
{
    struct pg_kv_block passing = {0};
    *kv = (struct pg_kv){.shape = *shape, .n_cache = n_cache};
    kv->block = pg_arena_take(a, (size_t)n_cache * sizeof(struct pg_kv_block));
    for (int i = 0; i < n_cache; i++) {
        struct pg_kv_block l = {.cache = &cache[i]};
        bool passes = cache[i].rows == PG_ROWS_PASSING;
        if (passes && passing.cache)
            l = passing; /* blocks of a stack are alike */
        else
            carve_block(&l, shape, a);
        if (passes)
            passing = l;
        if (a->base)
            kv->block[i] = l;
    }
}

static void copy_rows(struct pg_kv *to, const struct pg_kv *from, int i, int n)
{
    const struct pg_cache *c = from->block[i].cache;
    const size_t value = value_bytes(from->shape.type);
    for (int head = 0; head < c->n_head && n > 0; head++) {
        memcpy(pg_kv_k(to, i, head, 0), pg_kv_k(from, i, head, 0),
               (size_t)n * (size_t)c->k_dim * value);
        memcpy(pg_kv_v(to, i, head, 0), pg_kv_v(from, i, head, 0),
               (size_t)n * (size_t)c->v_dim * value);
    }
}

void pg_kv_copy(struct pg_kv *to, const struct pg_kv *from, int n, int n_source)
{
    PG_ASSERT(to->n_cache == from->n_cache && to->shape.type == from->shape.type);
    PG_ASSERT(n <= to->shape.n_ctx && n_source <= to->shape.n_source);
    for (int i = 0; i < from->n_cache; i++) {
        const struct pg_cache *c = from->block[i].cache;
        PG_ASSERT(!c->window); /* rings of other lengths would have to be turned */
        if (c->state_bytes)
            memcpy(to->block[i].k, from->block[i].k, c->state_bytes);
        else if (c->rows != PG_ROWS_PASSING)
            copy_rows(to, from, i, c->rows == PG_ROWS_SOURCE ? n_source : n);
    }
    to->n_high = n;
}

void pg_kv_write(struct pg_kv *kv, int n)
{
    PG_ASSERT(n <= kv->shape.n_ctx);
    kv->n_high = PG_MAX(kv->n_high, n);
}

static bool can_forget(const struct pg_kv *kv, const struct pg_kv_block *l, int n)
{
    if (n == 0 || n == kv->n_high || l->cache->rows != PG_ROWS_TIMELINE)
        return true;
    if (l->cache->state_bytes)
        return false;
    int oldest = l->cache->window ? PG_MAX(0, n + 1 - l->cache->window) : 0;
    return oldest >= kv->n_high - l->n_rows;
}

int pg_kv_truncate(struct pg_kv *kv, int n)
{
    PG_ASSERT(n >= 0 && n <= kv->n_high);
    for (int i = 0; i < kv->n_cache; i++)
        if (!can_forget(kv, &kv->block[i], n))
            return PG_ENOTSUP;
    if (n > 0)
        return 0; /* rows behind n are written again */
    kv->n_high = 0;
    for (int i = 0; i < kv->n_cache; i++)
        if (kv->block[i].cache->state_bytes)
            memset(kv->block[i].k, 0, kv->block[i].cache->state_bytes);
    return 0;
}

static size_t row_at(const struct pg_kv *kv, const struct pg_kv_block *l, int head, int pos)
{
    int n = l->cache->rows == PG_ROWS_TIMELINE ? kv->shape.n_ctx : kv->shape.n_source;
    PG_ASSERT(head < l->cache->n_head && pos >= 0 && pos < n);
    return ((size_t)head * (size_t)l->n_rows + (size_t)(pos % l->n_rows)) *
           value_bytes(kv->shape.type);
}

void *pg_kv_k(const struct pg_kv *kv, int il, int head, int pos)
{
    const struct pg_kv_block *l = &kv->block[il];
    return l->k + row_at(kv, l, head, pos) * (size_t)l->cache->k_dim;
}

void *pg_kv_v(const struct pg_kv *kv, int il, int head, int pos)
{
    const struct pg_kv_block *l = &kv->block[il];
    return l->v + row_at(kv, l, head, pos) * (size_t)l->cache->v_dim;
}
