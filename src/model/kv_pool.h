/* SPDX-License-Identifier: MIT
 * The memory of timelines: pages of PG_KV_PAGE positions with the rows of all blocks, in one pool
 * that an engine's sessions share.
 *
 * Pages are a forest: a page goes on from its parent, which has the positions before. Timelines
 * that begin alike have pages in common. Rows that are there are not written over while there is
 * another page to take: a timeline that parts from what a page holds gets a copy of the rows
 * before. A page that nobody has any more stays, with its tokens, until its memory is needed, the
 * longest unused first and a page that others go on from never before those.
 */
#ifndef PG_MODEL_KV_POOL_H
#define PG_MODEL_KV_POOL_H

#include "base/arena.h"
#include "pregate.h"

enum { PG_KV_PAGE = 32 };

struct pg_kv_page {
    int32_t parent, child; /* -1: none; of several children the latest */
    int32_t before, after; /* its siblings */
    int32_t n_have;        /* timelines that have it */
    int32_t n_children;
    int32_t n;     /* tokens whose rows are there */
    uint64_t used; /* when it was last had; 0: its memory is free */
    int32_t token[PG_KV_PAGE];
};

struct pg_kv_pool {
    char *rows; /* [n_pages, page_bytes] */
    size_t page_bytes;
    struct pg_kv_page *page;
    int n_pages;
    int n_reserved; /* pages that sessions may count on */
    int n_held;     /* that timelines have */
    int32_t first;  /* of those without a parent the latest; -1: none */
    uint64_t now;   /* counts uses */
};

/* What is found of a text: pages [n_pages], held for the caller, whose first n tokens are the
 * text's. */
struct pg_kv_found {
    int32_t *page;
    int n_pages, n;
};

void pg_kv_pool_carve(struct pg_kv_pool *p, size_t page_bytes, int n_pages, struct pg_arena *a);
/* Pages that hold so many positions. */
static inline int pg_kv_pages_of(int n)
{
    return (n + PG_KV_PAGE - 1) / PG_KV_PAGE;
}
/* An empty page that goes on from `parent` (-1: begins), had once; -1 when all are had. */
int32_t pg_kv_pool_take(struct pg_kv_pool *p, int32_t parent);
void pg_kv_pool_hold(struct pg_kv_pool *p, int32_t id);
void pg_kv_pool_drop(struct pg_kv_pool *p, int32_t id);
/* The longest beginning of tokens [n] that a chain of pages has; out->page has room for as many
 * pages as the tokens take. */
void pg_kv_pool_find(struct pg_kv_pool *p, const int32_t *tokens, int n, struct pg_kv_found *out);
/* Tokens in pages that nobody has now. */
int pg_kv_pool_kept(const struct pg_kv_pool *p);
char *pg_kv_pool_rows(const struct pg_kv_pool *p, int32_t id);

#endif
