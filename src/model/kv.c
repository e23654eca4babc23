/* SPDX-License-Identifier: MIT */
#include "model/kv.h"

#include <string.h>

static size_t value_bytes(enum pg_kv_type type)
{
    return type == PG_KV_F32 ? sizeof(float) : sizeof(uint16_t);
}

static bool is_paged(const struct pg_cache *c)
{
    return c->rows == PG_ROWS_TIMELINE && !c->window && !c->state_bytes;
}

/* Bytes of n positions of one block: of its keys, and of both. */
static size_t key_bytes(const struct pg_cache *c, enum pg_kv_type type, int n)
{
    PG_ASSERT(c->n_head > 0 && c->k_dim > 0 && c->v_dim > 0 && c->window >= 0);
    return (size_t)c->n_head * (size_t)n * (size_t)c->k_dim * value_bytes(type);
}

static size_t row_bytes(const struct pg_cache *c, enum pg_kv_type type, int n)
{
    return key_bytes(c, type, n) +
           (size_t)c->n_head * (size_t)n * (size_t)c->v_dim * value_bytes(type);
}

size_t pg_kv_page_bytes(const struct pg_cache *cache, int n_cache, enum pg_kv_type type)
{
    size_t bytes = 0;
    for (int i = 0; i < n_cache; i++)
        if (is_paged(&cache[i]))
            bytes += row_bytes(&cache[i], type, PG_KV_PAGE);
    return bytes;
}

static void carve_block(struct pg_kv_block *l, const struct pg_kv_shape *s, struct pg_arena *a)
{
    const struct pg_cache *c = l->cache;
    if (c->state_bytes) {
        l->k = pg_arena_take(a, c->state_bytes);
        return;
    }
    l->n_rows = c->rows == PG_ROWS_TIMELINE ? s->n_ctx : s->n_source;
    if (c->window)
        l->n_rows = (int)PG_MIN((int64_t)l->n_rows, (int64_t)c->window + s->n_step);
    const size_t keys = key_bytes(c, s->type, l->n_rows);
    l->k = pg_arena_take(a, keys);
    l->v = pg_arena_take(a, row_bytes(c, s->type, l->n_rows) - keys);
}

/* The next block of a page, whose rows begin at *at. */
static void place_block(struct pg_kv_block *l, const struct pg_kv_shape *s, size_t *at)
{
    l->n_rows = s->n_ctx;
    l->k_at = *at;
    l->v_at = *at + key_bytes(l->cache, s->type, PG_KV_PAGE);
    *at += row_bytes(l->cache, s->type, PG_KV_PAGE);
}

void pg_kv_carve(struct pg_kv *kv, const struct pg_cache *cache, int n_cache,
                 const struct pg_kv_shape *shape, struct pg_arena *a)
{
    struct pg_kv_block passing = {0};
    size_t at = 0;
    *kv = (struct pg_kv){.shape = *shape, .n_cache = n_cache, .pool = shape->pool};
    kv->block = pg_arena_take(a, (size_t)n_cache * sizeof(struct pg_kv_block));
    kv->page = pg_arena_take(a, (size_t)pg_kv_pages_of(shape->n_ctx) * sizeof(*kv->page));
    for (int i = 0; i < n_cache; i++) {
        struct pg_kv_block l = {.cache = &cache[i]};
        bool passes = cache[i].rows == PG_ROWS_PASSING;
        if (passes && passing.cache)
            l = passing; /* blocks of a stack are alike */
        else if (is_paged(&cache[i]))
            place_block(&l, shape, &at);
        else
            carve_block(&l, shape, a);
        if (passes)
            passing = l;
        if (a->base)
            kv->block[i] = l;
    }
}

/* ------------------------------------------------------------------ pages ------------------- */

bool pg_kv_reserve(struct pg_kv *kv, int n)
{
    const int wanted = pg_kv_pages_of(PG_MIN(n, kv->shape.n_ctx));
    const int more = wanted - kv->n_reserved;
    if (more > kv->pool->n_pages - kv->pool->n_reserved)
        return false;
    PG_ASSERT(wanted >= kv->n_pages);
    kv->pool->n_reserved += more;
    kv->n_reserved = wanted;
    return true;
}

/* The last first, since it goes on from those before. */
static void drop_pages(struct pg_kv *kv, int n_left)
{
    while (kv->n_pages > n_left)
        pg_kv_pool_drop(kv->pool, kv->page[--kv->n_pages]);
}

/* The first m positions of a page in another one; in the memory of a page lie [n_head, PG_KV_PAGE]
 * rows of keys and as many of values, block after block. */
static void copy_page(const struct pg_kv *kv, int32_t to, int32_t from, int m)
{
    const size_t value = value_bytes(kv->shape.type);
    char *out = pg_kv_pool_rows(kv->pool, to);
    const char *in = pg_kv_pool_rows(kv->pool, from);
    for (int i = 0; i < kv->n_cache; i++) {
        const struct pg_kv_block *l = &kv->block[i];
        const struct pg_cache *c = l->cache;
        if (!is_paged(c))
            continue;
        for (int head = 0; head < c->n_head; head++) {
            const size_t k = (size_t)c->k_dim * value, v = (size_t)c->v_dim * value;
            const size_t row = (size_t)head * PG_KV_PAGE, n = (size_t)m;
            memcpy(out + l->k_at + row * k, in + l->k_at + row * k, n * k);
            memcpy(out + l->v_at + row * v, in + l->v_at + row * v, n * v);
        }
    }
    struct pg_kv_page *page = &kv->pool->page[to];
    memcpy(page->token, kv->pool->page[from].token, (size_t)m * sizeof(page->token[0]));
    page->n = m;
}

/* Page number i of the timeline, of which m positions are there, can be written from then on. */
static void make_writable(struct pg_kv *kv, int i, int m)
{
    struct pg_kv_page *page = &kv->pool->page[kv->page[i]];
    const bool alone = page->n_have == 1 && page->n_children == 0;
    if (alone && page->n <= m)
        return;
    const int32_t own = pg_kv_pool_take(kv->pool, page->parent);
    PG_ASSERT(own >= 0 || alone); /* who shares has reserved pages that are not had */
    if (own < 0) {
        page->n = m;
        return;
    }
    copy_page(kv, own, kv->page[i], m);
    pg_kv_pool_drop(kv->pool, kv->page[i]);
    kv->page[i] = own;
}

void pg_kv_write(struct pg_kv *kv, int from, int n)
{
    PG_ASSERT(from <= n && n <= kv->shape.n_ctx && pg_kv_pages_of(n) <= kv->n_reserved);
    pg_kv_drop_ahead(kv, from);
    for (int i = from / PG_KV_PAGE; i < pg_kv_pages_of(n); i++) {
        if (i < kv->n_pages) {
            make_writable(kv, i, PG_MAX(0, from - i * PG_KV_PAGE));
            continue;
        }
        kv->page[i] = pg_kv_pool_take(kv->pool, i ? kv->page[i - 1] : -1);
        PG_ASSERT(kv->page[i] >= 0);
        kv->n_pages++;
    }
    kv->n_high = PG_MAX(kv->n_high, n);
}

void pg_kv_written(struct pg_kv *kv, int from, const int32_t *tokens, int n)
{
    for (int i = 0; i < n; i++) {
        struct pg_kv_page *page = &kv->pool->page[kv->page[(from + i) / PG_KV_PAGE]];
        const int at = (from + i) % PG_KV_PAGE;
        page->token[at] = tokens[i];
        page->n = at + 1;
    }
}

bool pg_kv_is_paged(const struct pg_kv *kv)
{
    for (int i = 0; i < kv->n_cache; i++)
        if (!is_paged(kv->block[i].cache))
            return false;
    return true;
}

int pg_kv_find(struct pg_kv *kv, const int32_t *tokens, int n)
{
    struct pg_kv_found found = {.page = kv->page};
    PG_ASSERT(kv->n_pages == 0 && pg_kv_is_paged(kv));
    pg_kv_pool_find(kv->pool, tokens, PG_MIN(n, kv->n_reserved * PG_KV_PAGE), &found);
    kv->n_pages = found.n_pages;
    kv->n_high = found.n;
    return found.n;
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

static void share_pages(struct pg_kv *to, const struct pg_kv *from, int n)
{
    PG_ASSERT(to->pool == from->pool && pg_kv_pages_of(n) <= to->n_reserved);
    for (int i = 0; i < pg_kv_pages_of(n); i++)
        pg_kv_pool_hold(to->pool, from->page[i]);
    drop_pages(to, 0);
    to->n_pages = pg_kv_pages_of(n);
    memcpy(to->page, from->page, (size_t)to->n_pages * sizeof(to->page[0]));
}

void pg_kv_copy(struct pg_kv *to, const struct pg_kv *from, int n, int n_source)
{
    PG_ASSERT(to->n_cache == from->n_cache && to->shape.type == from->shape.type);
    PG_ASSERT(n <= to->shape.n_ctx && n_source <= to->shape.n_source);
    share_pages(to, from, n);
    for (int i = 0; i < from->n_cache; i++) {
        const struct pg_cache *c = from->block[i].cache;
        PG_ASSERT(!c->window); /* rings of other lengths would have to be turned */
        if (c->state_bytes)
            memcpy(to->block[i].k, from->block[i].k, c->state_bytes);
        else if (c->rows == PG_ROWS_SOURCE)
            copy_rows(to, from, i, n_source);
    }
    to->n_high = n;
}

/* ------------------------------------------------------------------ forgetting -------------- */

static bool can_forget(const struct pg_kv *kv, const struct pg_kv_block *l, int n)
{
    if (n == 0 || n == kv->n_high || l->cache->rows != PG_ROWS_TIMELINE)
        return true;
    if (l->cache->state_bytes)
        return false;
    int oldest = l->cache->window ? PG_MAX(0, n + 1 - l->cache->window) : 0;
    return oldest >= kv->n_high - l->n_rows;
}

void pg_kv_drop_ahead(struct pg_kv *kv, int n)
{
    drop_pages(kv, pg_kv_pages_of(n));
}

int pg_kv_truncate(struct pg_kv *kv, int n)
{
    PG_ASSERT(n >= 0 && n <= kv->n_high);
    for (int i = 0; i < kv->n_cache; i++)
        if (!can_forget(kv, &kv->block[i], n))
            return PG_ENOTSUP;
    drop_pages(kv, pg_kv_pages_of(n));
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

/* Where a block's rows of a page begin, and those of a head and position there. */
static char *in_page(const struct pg_kv *kv, int pos, size_t at)
{
    PG_ASSERT(pos >= 0 && pos / PG_KV_PAGE < kv->n_pages);
    return pg_kv_pool_rows(kv->pool, kv->page[pos / PG_KV_PAGE]) + at;
}

static size_t row_in_page(const struct pg_kv *kv, int head, int pos)
{
    return ((size_t)head * PG_KV_PAGE + (size_t)(pos % PG_KV_PAGE)) * value_bytes(kv->shape.type);
}

void *pg_kv_k(const struct pg_kv *kv, int il, int head, int pos)
{
    const struct pg_kv_block *l = &kv->block[il];
    if (!l->k)
        return in_page(kv, pos, l->k_at) + row_in_page(kv, head, pos) * (size_t)l->cache->k_dim;
    return l->k + row_at(kv, l, head, pos) * (size_t)l->cache->k_dim;
}

void *pg_kv_v(const struct pg_kv *kv, int il, int head, int pos)
{
    const struct pg_kv_block *l = &kv->block[il];
    if (!l->v)
        return in_page(kv, pos, l->v_at) + row_in_page(kv, head, pos) * (size_t)l->cache->v_dim;
    return l->v + row_at(kv, l, head, pos) * (size_t)l->cache->v_dim;
}
