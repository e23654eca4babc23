/* SPDX-License-Identifier: MIT
 * Timelines that share pages, at random: each always has the rows that it would have alone,
 * whatever others write, forget and copy; what is found of a text is a beginning of it, with its
 * rows; and no page is lost.
 */
#include "helpers.h"

#include "base/random.h"
#include "model/kv.h"

#include <stdlib.h>
#include <string.h>

enum { N_KV = 6, N_CTX = 200, N_WORDS = 3, N_PAGES_EACH = (N_CTX + PG_KV_PAGE - 1) / PG_KV_PAGE };

static const struct pg_cache cache[] = {{.n_head = 2, .k_dim = 3, .v_dim = 1},
                                        {.n_head = 1, .k_dim = 1, .v_dim = 2}};

struct world {
    struct pg_kv_pool pool;
    char *memory;
    struct pg_kv kv[N_KV];
    int32_t token[N_KV][N_CTX];
    int n[N_KV];
    uint64_t random;
    int n_found, n_copied;
};

static void open_world(struct world *w, int n_pages)
{
    struct pg_arena measure = {0};
    const size_t page = pg_kv_page_bytes(cache, 2, PG_KV_F32);
    struct pg_kv_shape shape = {PG_KV_F32, N_CTX, 0, N_CTX, &w->pool};
    memset(w, 0, sizeof(*w));
    pg_kv_pool_carve(&w->pool, page, n_pages, &measure);
    for (int i = 0; i < N_KV; i++)
        pg_kv_carve(&w->kv[i], cache, 2, &shape, &measure);
    w->memory = calloc(1, measure.used);
    assert_non_null(w->memory);
    struct pg_arena a = {w->memory, measure.used, 0};
    pg_kv_pool_carve(&w->pool, page, n_pages, &a);
    for (int i = 0; i < N_KV; i++)
        pg_kv_carve(&w->kv[i], cache, 2, &shape, &a);
}

static int below(struct world *w, int n)
{
    return (int)(pg_random_next(&w->random) % (uint64_t)n);
}

/* What a row has: a function of all tokens up to it, as keys and values are. */
static float row_of(const int32_t *token, int pos, int salt)
{
    uint32_t h = (uint32_t)salt;
    for (int i = 0; i <= pos; i++)
        h = h * 31 + (uint32_t)token[i] + 1;
    return (float)(h & 0xFFFFF);
}

static void write_rows(struct pg_kv *kv, const int32_t *token, int from, int n)
{
    pg_kv_write(kv, from, n);
    for (int pos = from; pos < n; pos++)
        for (int il = 0; il < 2; il++)
            for (int head = 0; head < cache[il].n_head; head++) {
                float *k = pg_kv_k(kv, il, head, pos), *v = pg_kv_v(kv, il, head, pos);
                for (int i = 0; i < cache[il].k_dim; i++)
                    k[i] = row_of(token, pos, il * 100 + head * 10 + i);
                for (int i = 0; i < cache[il].v_dim; i++)
                    v[i] = row_of(token, pos, 1000 + il * 100 + head * 10 + i);
            }
    pg_kv_written(kv, from, token + from, n - from);
}

static void check_rows(const struct pg_kv *kv, const int32_t *token, int n)
{
    for (int pos = 0; pos < n; pos++)
        for (int il = 0; il < 2; il++)
            for (int head = 0; head < cache[il].n_head; head++) {
                const float *k = pg_kv_k(kv, il, head, pos), *v = pg_kv_v(kv, il, head, pos);
                for (int i = 0; i < cache[il].k_dim; i++)
                    assert_true(k[i] == row_of(token, pos, il * 100 + head * 10 + i));
                for (int i = 0; i < cache[il].v_dim; i++)
                    assert_true(v[i] == row_of(token, pos, 1000 + il * 100 + head * 10 + i));
            }
}

/* The pool's own books, counted again from what timelines and pages say. */
static void check_books(const struct world *w)
{
    const struct pg_kv_pool *p = &w->pool;
    int *have = calloc((size_t)p->n_pages, sizeof(*have)), n_held = 0, n_reserved = 0;
    assert_non_null(have);
    for (int i = 0; i < N_KV; i++) {
        n_reserved += w->kv[i].n_reserved;
        assert_true(w->kv[i].n_pages <= w->kv[i].n_reserved);
        for (int j = 0; j < w->kv[i].n_pages; j++) {
            const int32_t id = w->kv[i].page[j];
            n_held += have[id]++ == 0;
            assert_true(p->page[id].used > 0);
        }
    }
    for (int i = 0; i < p->n_pages; i++) {
        int n_children = 0;
        for (int32_t c = p->page[i].child; p->page[i].used && c >= 0; c = p->page[c].after) {
            assert_int_equal(p->page[c].parent, i);
            assert_true(p->page[i].n == PG_KV_PAGE || p->page[c].n == 0);
            n_children++;
        }
        assert_true(!p->page[i].used || p->page[i].n_have == have[i]);
        assert_true(!p->page[i].used || p->page[i].n_children == n_children);
    }
    assert_int_equal(n_held, p->n_held);
    assert_int_equal(n_reserved, p->n_reserved);
    free(have);
}

static void append(struct world *w, int i)
{
    const int room = w->kv[i].n_reserved * PG_KV_PAGE, from = w->n[i];
    const int most = room < N_CTX ? room : N_CTX;
    if (from == most)
        return;
    const int n = from + 1 + below(w, most - from < 70 ? most - from : 70);
    for (int j = from; j < n; j++)
        w->token[i][j] = below(w, N_WORDS);
    if (below(w, 5) == 0) { /* a step that fails: it is done again with other tokens */
        pg_kv_write(&w->kv[i], from, n);
        return;
    }
    write_rows(&w->kv[i], w->token[i], from, n);
    w->n[i] = n;
}

static void find(struct world *w, int i)
{
    const int from = below(w, N_KV);
    int32_t text[N_CTX];
    memcpy(text, w->token[from], sizeof(text));
    if (below(w, 2))
        text[below(w, N_CTX)] = N_WORDS; /* parts from it there */
    assert_int_equal(pg_kv_truncate(&w->kv[i], 0), 0);
    w->n[i] = pg_kv_find(&w->kv[i], text, N_CTX);
    memcpy(w->token[i], text, sizeof(text));
    w->n_found += w->n[i] > 0;
}

static void copy(struct world *w, int i)
{
    const int from = below(w, N_KV);
    if (from == i || pg_kv_pages_of(w->n[from]) > w->kv[i].n_reserved)
        return;
    pg_kv_copy(&w->kv[i], &w->kv[from], w->n[from], 0);
    memcpy(w->token[i], w->token[from], sizeof(w->token[i]));
    w->n[i] = w->n[from];
    w->n_copied++;
}

static void reserve(struct world *w, int i)
{
    const int n = below(w, N_CTX + 1);
    if (n < w->n[i]) {
        assert_int_equal(pg_kv_truncate(&w->kv[i], n), 0);
        w->n[i] = n;
    }
    assert_int_equal(pg_kv_truncate(&w->kv[i], w->n[i]), 0); /* pages of a failed step */
    const int more = pg_kv_pages_of(n) - w->kv[i].n_reserved;
    const bool fits = more <= w->pool.n_pages - w->pool.n_reserved;
    assert_int_equal(pg_kv_reserve(&w->kv[i], n), fits);
}

static void one_thing(struct world *w)
{
    const int i = below(w, N_KV);
    switch (below(w, 6)) {
    case 0:
        find(w, i);
        break;
    case 1:
        copy(w, i);
        break;
    case 2:
        w->n[i] = below(w, w->n[i] + 1);
        assert_int_equal(pg_kv_truncate(&w->kv[i], w->n[i]), 0);
        break;
    case 3:
        reserve(w, i);
        break;
    default:
        append(w, i);
    }
}

static void run(int n_pages, uint64_t seed)
{
    struct world w;
    open_world(&w, n_pages);
    w.random = seed;
    for (int step = 0; step < 4000; step++) {
        one_thing(&w);
        check_books(&w);
        if (step % 16 == 0)
            for (int i = 0; i < N_KV; i++)
                check_rows(&w.kv[i], w.token[i], w.n[i]);
    }
    assert_true(w.n_found > 20 && w.n_copied > 20);
    free(w.memory);
}

static void test_random(void **state)
{
    (void)state;
    run(N_PAGES_EACH, 1);            /* one timeline's worth for all */
    run(2 * N_PAGES_EACH + 3, 2);    /* the usual: they compete */
    run(N_KV * N_PAGES_EACH + 5, 3); /* more than can be had */
}

/* Two texts that part in the middle of a page: both are found whole afterwards. */
static void test_fork(void **state)
{
    struct world w;
    int32_t a[100], b[100];
    (void)state;
    open_world(&w, 20);
    for (int i = 0; i < 100; i++)
        a[i] = b[i] = i % 7;
    b[70] = 9;
    for (int i = 0; i < 3; i++)
        assert_true(pg_kv_reserve(&w.kv[i], 100));
    write_rows(&w.kv[0], a, 0, 100);
    pg_kv_truncate(&w.kv[0], 0);
    assert_int_equal(pg_kv_find(&w.kv[1], b, 100), 70);
    write_rows(&w.kv[1], b, 70, 100);
    pg_kv_truncate(&w.kv[1], 0);
    assert_int_equal(w.pool.n_held, 0);
    assert_int_equal(pg_kv_find(&w.kv[0], a, 100), 100);
    assert_int_equal(pg_kv_find(&w.kv[1], b, 100), 100);
    check_rows(&w.kv[0], a, 100);
    check_rows(&w.kv[1], b, 100);
    assert_int_equal(w.pool.n_held, 2 + 2 * 2); /* two pages in common */
    pg_kv_truncate(&w.kv[1], 0);
    assert_int_equal(pg_kv_pool_kept(&w.pool), 2 * PG_KV_PAGE - 64 + 32 + 4);
    assert_int_equal(pg_kv_find(&w.kv[1], b + 1, 99), 0);
    free(w.memory);
}

/* The longest unused goes first, and the end of a text before its beginning. */
static void test_oldest_first(void **state)
{
    struct world w;
    int32_t text[3][64];
    (void)state;
    open_world(&w, 6);
    assert_true(pg_kv_reserve(&w.kv[0], 64));
    for (int t = 0; t < 3; t++) {
        for (int i = 0; i < 64; i++)
            text[t][i] = 10 * t + i % 5;
        write_rows(&w.kv[0], text[t], 0, 64);
        pg_kv_truncate(&w.kv[0], 0);
    }
    assert_int_equal(pg_kv_find(&w.kv[0], text[0], 64), 64); /* used again: text 1 is the oldest */
    pg_kv_truncate(&w.kv[0], 0);
    int32_t other[32] = {99};
    write_rows(&w.kv[0], other, 0, 32);
    pg_kv_truncate(&w.kv[0], 0);
    assert_int_equal(pg_kv_find(&w.kv[0], text[1], 64), 32);
    pg_kv_truncate(&w.kv[0], 0);
    assert_int_equal(pg_kv_find(&w.kv[0], text[0], 64), 64);
    pg_kv_truncate(&w.kv[0], 0);
    assert_int_equal(pg_kv_find(&w.kv[0], text[2], 64), 64);
    free(w.memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_fork),
        cmocka_unit_test(test_oldest_first),
    };
    return cmocka_run_group_tests_name("kv_pool", tests, NULL, NULL);
}
