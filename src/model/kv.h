/* SPDX-License-Identifier: MIT
 * What a session remembers for each block. A cache is described, and whoever depends on what it is
 * asks the description: how many bytes, where a row lies, how far it can be cut back.
 *
 * Rows of all positions of the timeline lie in pages of a pool (kv_pool.h); all else is the
 * session's own memory. A window of w positions keeps w + n_step rows as a ring. A step writes all
 * its rows before its first token looks back w, and one that fails has overwritten as many for
 * nothing.
 */
#ifndef PG_MODEL_KV_H
#define PG_MODEL_KV_H

#include "model/kv_pool.h"

enum pg_rows_of {
    PG_ROWS_TIMELINE, /* the session's tokens */
    PG_ROWS_SOURCE,   /* the source's; they stay while the timeline grows and shrinks */
    PG_ROWS_PASSING,  /* the source's while its block runs: all such blocks share one memory */
};

/* Of one block: rows of keys and values, or a recurrent state. */
struct pg_cache {
    enum pg_rows_of rows;
    int n_head, k_dim, v_dim; /* a row a head and position */
    int window;               /* positions that a token sees, its own included; 0: all */
    size_t state_bytes;       /* 0: rows. A state cannot be rewound */
};

struct pg_kv_shape {
    enum pg_kv_type type; /* of rows */
    int n_ctx, n_source;  /* positions of the timeline and of the source */
    int n_step;           /* the most tokens of one step */
    struct pg_kv_pool *pool;
};

struct pg_kv_block {
    const struct pg_cache *cache;
    int n_rows;
    char *k, *v;       /* [n_head, n_rows, dim]; k of a state: its bytes; of paged rows NULL */
    size_t k_at, v_at; /* of paged rows: where a page has them, [n_head, PG_KV_PAGE, dim] */
};

/* Of one session. */
struct pg_kv {
    struct pg_kv_shape shape;
    int n_cache, n_high; /* positions of the timeline that have been written since the start */
    struct pg_kv_block *block;
    struct pg_kv_pool *pool; /* the shape's */
    int32_t *page;           /* [n_pages] of the timeline, in order */
    int n_pages;
    int n_reserved; /* of the pool's pages that it may count on */
};

/* Bytes that a page of the pool has of these blocks. */
size_t pg_kv_page_bytes(const struct pg_cache *cache, int n_cache, enum pg_kv_type type);
/* cache [n_cache] and pool are borrowed. The memory must be zeros. */
void pg_kv_carve(struct pg_kv *kv, const struct pg_cache *cache, int n_cache,
                 const struct pg_kv_shape *shape, struct pg_arena *a);
/* May count on pages for n positions from now on, instead of those before. Returns whether the pool
 * has so many. What is there already is kept either way. */
bool pg_kv_reserve(struct pg_kv *kv, int n);
/* What `from` has of n positions and of n_source of the source. The caches are of one model, the
 * pages of one pool. */
void pg_kv_copy(struct pg_kv *to, const struct pg_kv *from, int n, int n_source);
/* Positions [from, n) are about to be written, which are the first that are not there. */
void pg_kv_write(struct pg_kv *kv, int from, int n);
/* They have been: their tokens. */
void pg_kv_written(struct pg_kv *kv, int from, const int32_t *tokens, int n);
/* Whether all that a block remembers of the timeline lies in pages, so that timelines can share it.
 */
bool pg_kv_is_paged(const struct pg_kv *kv);
/* An empty timeline becomes the longest beginning of tokens [n] that the pool still has; how many.
 */
int pg_kv_find(struct pg_kv *kv, const int32_t *tokens, int n);
/* n positions are there: gives back the pages that a step which failed has taken for more. */
void pg_kv_drop_ahead(struct pg_kv *kv, int n);
/* Forgets positions from n on. PG_ENOTSUP, and nothing is changed, if a block no longer has what
 * the next token would look back on; all forget everything. */
int pg_kv_truncate(struct pg_kv *kv, int n);
/* The row of a head and position: k_dim, v_dim values of the type. Rows of positions whose numbers
 * differ in what is left after PG_KV_PAGE alone lie behind each other, but in a window. */
void *pg_kv_k(const struct pg_kv *kv, int il, int head, int pos);
void *pg_kv_v(const struct pg_kv *kv, int il, int head, int pos);

#endif
