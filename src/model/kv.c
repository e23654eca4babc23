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
    l->n_rows =
        c->window ? (int)PG_MIN((int64_t)s->n_ctx, (int64_t)c->window + s->n_step) : s->n_ctx;
    size_t rows = (size_t)c->n_head * (size_t)l->n_rows * value_bytes(s->type);
    l->k = pg_arena_take(a, rows * (size_t)c->k_dim);
    l->v = pg_arena_take(a, rows * (size_t)c->v_dim);
}

void pg_kv_carve(struct pg_kv *kv, const struct pg_cache *cache, int n_layer,
                 const struct pg_kv_shape *shape, struct pg_arena *a)
{
    *kv = (struct pg_kv){.shape = *shape, .n_layer = n_layer};
    kv->block = pg_arena_take(a, (size_t)n_layer * sizeof(struct pg_kv_block));
    for (int il = 0; il < n_layer; il++) {
        struct pg_kv_block l = {.cache = &cache[il]};
        carve_block(&l, shape, a);
        if (a->base)
            kv->block[il] = l;
    }
}

void pg_kv_write(struct pg_kv *kv, int n)
{
    PG_ASSERT(n <= kv->shape.n_ctx);
    kv->n_high = PG_MAX(kv->n_high, n);
}

static bool can_forget(const struct pg_kv *kv, const struct pg_kv_block *l, int n)
{
    if (n == 0 || n == kv->n_high)
        return true;
    if (l->cache->state_bytes)
        return false;
    int oldest = l->cache->window ? PG_MAX(0, n + 1 - l->cache->window) : 0;
    return oldest >= kv->n_high - l->n_rows;
}

int pg_kv_truncate(struct pg_kv *kv, int n)
{
    PG_ASSERT(n >= 0 && n <= kv->n_high);
    for (int il = 0; il < kv->n_layer; il++)
        if (!can_forget(kv, &kv->block[il], n))
            return PG_ENOTSUP;
    if (n > 0)
        return 0; /* rows behind n are written again */
    kv->n_high = 0;
    for (int il = 0; il < kv->n_layer; il++)
        if (kv->block[il].cache->state_bytes)
            memset(kv->block[il].k, 0, kv->block[il].cache->state_bytes);
    return 0;
}

static size_t row_at(const struct pg_kv *kv, const struct pg_kv_block *l, int head, int pos)
{
    PG_ASSERT(head < l->cache->n_head && pos >= 0 && pos < kv->shape.n_ctx);
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
