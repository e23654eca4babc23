/* SPDX-License-Identifier: MIT
 * Descriptions of caches that no family has yet: their bytes, where rows lie, and what they refuse
 * to forget; and that a session asks them.
 */
#include "helpers.h"

#include "engine/engine.h"

#include <stdlib.h>
#include <string.h>

enum { N_CTX = 40, N_SOURCE = 12, N_STEP = 4 };

enum { N_PAGES = (N_CTX + PG_KV_PAGE - 1) / PG_KV_PAGE };

/* What a session takes beside pages. */
static size_t bytes_of(const struct pg_cache *c, int n, enum pg_kv_type type)
{
    struct pg_kv kv;
    struct pg_arena a = {0};
    const struct pg_kv_shape s = {type, N_CTX, N_SOURCE, N_STEP, NULL};
    pg_kv_carve(&kv, c, n, &s, &a);
    return a.used;
}

/* With a pool of its own, all of it reserved. */
static void open_kv(struct pg_kv *kv, const struct pg_cache *c, int n)
{
    const size_t size = bytes_of(c, n, PG_KV_F32);
    struct pg_kv_pool *pool = calloc(1, sizeof(*pool));
    struct pg_arena measure = {0}, a = {calloc(1, size), size, 0};
    assert_true(pool && a.base);
    pg_kv_pool_carve(pool, pg_kv_page_bytes(c, n, PG_KV_F32), N_PAGES, &measure);
    struct pg_arena pages = {calloc(1, measure.used), measure.used, 0};
    assert_non_null(pages.base);
    pg_kv_pool_carve(pool, pg_kv_page_bytes(c, n, PG_KV_F32), N_PAGES, &pages);
    pg_kv_carve(kv, c, n, &(struct pg_kv_shape){PG_KV_F32, N_CTX, N_SOURCE, N_STEP, pool}, &a);
    assert_int_equal(a.used, size);
    assert_true(pg_kv_reserve(kv, N_CTX));
}

static void close_kv(struct pg_kv *kv)
{
    free(kv->pool->page); /* carved first, as the blocks were */
    free(kv->pool);
    free(kv->block);
}

static size_t page_of(const struct pg_cache *c, enum pg_kv_type type)
{
    return pg_kv_page_bytes(c, 1, type);
}

static void test_bytes(void **state)
{
    const struct pg_cache rows = {.n_head = 2, .k_dim = 16, .v_dim = 16},
                          wide = {.n_head = 2, .k_dim = 24, .v_dim = 8};
    const struct pg_cache window = {.n_head = 2, .k_dim = 16, .v_dim = 16, .window = 8},
                          large = {.n_head = 2, .k_dim = 16, .v_dim = 16, .window = 38};
    const struct pg_cache recurrent = {.state_bytes = 1024};
    size_t own = 2 * 64; /* the block, and the list of pages */
    (void)state;
    assert_int_equal(bytes_of(&rows, 1, PG_KV_F32), own - 64 + N_PAGES * sizeof(int32_t));
    assert_int_equal(page_of(&rows, PG_KV_F32), 2 * 2 * PG_KV_PAGE * 16 * 4);
    assert_int_equal(page_of(&rows, PG_KV_F16), 2 * 2 * PG_KV_PAGE * 16 * 2);
    assert_int_equal(page_of(&wide, PG_KV_F32), 2 * PG_KV_PAGE * (24 + 8) * 4);
    assert_int_equal(bytes_of(&window, 1, PG_KV_F32), own + 2 * 2 * (8 + N_STEP) * 16 * 4);
    assert_int_equal(bytes_of(&large, 1, PG_KV_F32), own + 2 * 2 * N_CTX * 16 * 4);
    assert_int_equal(bytes_of(&recurrent, 1, PG_KV_F32), own + 1024);
    assert_int_equal(page_of(&window, PG_KV_F32) + page_of(&recurrent, PG_KV_F32), 0);
}

/* Rows of all blocks, heads and positions are written; each that must be there keeps its own. */
static void test_rows_apart(void **state)
{
    const struct pg_cache c[] = {{.n_head = 2, .k_dim = 3, .v_dim = 5},
                                 {.state_bytes = 12},
                                 {.n_head = 1, .k_dim = 4, .v_dim = 2, .window = 6}};
    struct pg_kv kv;
    (void)state;
    open_kv(&kv, c, 3);
    pg_kv_write(&kv, 0, N_CTX);
    for (int pos = 0; pos < N_CTX; pos++)
        for (int il = 0; il < 3; il += 2)
            for (int head = 0; head < c[il].n_head; head++) {
                float id = (float)((pos * 3 + il) * 2 + head), *k = pg_kv_k(&kv, il, head, pos);
                float *v = pg_kv_v(&kv, il, head, pos);
                for (int i = 0; i < c[il].k_dim; i++)
                    k[i] = id;
                for (int i = 0; i < c[il].v_dim; i++)
                    v[i] = -id;
            }
    for (int il = 0; il < 3; il += 2)
        for (int pos = il ? N_CTX - 6 - N_STEP : 0; pos < N_CTX; pos++)
            for (int head = 0; head < c[il].n_head; head++) {
                float id = (float)((pos * 3 + il) * 2 + head), *k = pg_kv_k(&kv, il, head, pos);
                float *v = pg_kv_v(&kv, il, head, pos);
                assert_true(k[0] == id && k[c[il].k_dim - 1] == id);
                assert_true(v[0] == -id && v[c[il].v_dim - 1] == -id);
            }
    assert_int_equal(kv.block[1].k[0] | kv.block[1].k[11], 0);
    close_kv(&kv);
}

/* Rows of the source are as many as the source, those that pass share one memory, and neither is
 * cut back with the timeline. */
static void test_source(void **state)
{
    const struct pg_cache passing = {.rows = PG_ROWS_PASSING, .n_head = 2, .k_dim = 4, .v_dim = 4};
    const struct pg_cache source = {.rows = PG_ROWS_SOURCE, .n_head = 1, .k_dim = 4, .v_dim = 4};
    const struct pg_cache c[] = {passing, passing, {.n_head = 1, .k_dim = 4, .v_dim = 4},
                                 source,  passing, source};
    size_t one = bytes_of(&source, 1, PG_KV_F32), two = bytes_of(&passing, 1, PG_KV_F32);
    size_t own = 2 * 64;
    struct pg_kv kv;
    (void)state;
    assert_int_equal(one, own + 2 * N_SOURCE * 4 * 4);
    assert_int_equal(two, own + 2 * 2 * N_SOURCE * 4 * 4);
    const struct pg_cache both[] = {passing, passing};
    assert_int_equal(bytes_of(both, 2, PG_KV_F32),
                     two - own + (2 * sizeof(struct pg_kv_block) + 63) / 64 * 64 + 64);
    open_kv(&kv, c, 6);
    assert_ptr_equal(pg_kv_k(&kv, 0, 1, 3), pg_kv_k(&kv, 4, 1, 3));
    assert_ptr_not_equal(pg_kv_k(&kv, 3, 0, 0), pg_kv_k(&kv, 5, 0, 0));
    *(float *)pg_kv_k(&kv, 5, 0, N_SOURCE - 1) = 7;
    pg_kv_write(&kv, 0, N_CTX);
    for (int n = N_CTX; n >= 0; n--)
        assert_int_equal(pg_kv_truncate(&kv, n), 0);
    assert_true(*(float *)pg_kv_k(&kv, 5, 0, N_SOURCE - 1) == 7);
    close_kv(&kv);
}

static void test_rows_forget_anything(void **state)
{
    const struct pg_cache c[] = {{.n_head = 2, .k_dim = 4, .v_dim = 4},
                                 {.n_head = 1, .k_dim = 4, .v_dim = 4, .window = 38}};
    struct pg_kv kv;
    (void)state;
    open_kv(&kv, c, 2);
    pg_kv_write(&kv, 0, N_CTX);
    for (int n = N_CTX; n >= 0; n--)
        assert_int_equal(pg_kv_truncate(&kv, n), 0);
    close_kv(&kv);
}

/* What is refused is exactly what a ring written position by position no longer has. */
static void test_window_forgets_what_it_can(void **state)
{
    const struct pg_cache c = {.n_head = 1, .k_dim = 1, .v_dim = 1, .window = 8};
    (void)state;
    for (int high = 1; high <= N_CTX; high++) {
        struct pg_kv kv;
        open_kv(&kv, &c, 1);
        pg_kv_write(&kv, 0, high);
        for (int pos = 0; pos < high; pos++)
            *(float *)pg_kv_k(&kv, 0, 0, pos) = (float)pos;
        for (int n = high; n > 0; n--) {
            bool there = true; /* all that the token at n sees before itself */
            for (int pos = PG_MAX(0, n + 1 - c.window); pos < n; pos++)
                there = there && *(float *)pg_kv_k(&kv, 0, 0, pos) == (float)pos;
            assert_int_equal(pg_kv_truncate(&kv, n), there ? 0 : PG_ENOTSUP);
            assert_true(there || high - n > N_STEP);
        }
        assert_int_equal(pg_kv_truncate(&kv, 0), 0);
        close_kv(&kv);
    }
}

static void test_state_starts_again_only(void **state)
{
    const struct pg_cache c[] = {{.n_head = 1, .k_dim = 2, .v_dim = 2}, {.state_bytes = 8}};
    struct pg_kv kv;
    (void)state;
    open_kv(&kv, c, 2);
    pg_kv_write(&kv, 0, 5);
    memset(kv.block[1].k, 7, 8);
    for (int n = 1; n < 5; n++)
        assert_int_equal(pg_kv_truncate(&kv, n), PG_ENOTSUP);
    assert_int_equal(pg_kv_truncate(&kv, 5), 0);
    assert_int_equal(kv.block[1].k[7], 7);
    assert_int_equal(pg_kv_truncate(&kv, 0), 0);
    assert_int_equal(kv.block[1].k[7], 0);
    assert_int_equal(pg_kv_truncate(&kv, 0), 0);
    close_kv(&kv);
}

/* ------------------------------------------------------------------ sessions ---------------- */

/* A window that is wider than its session's context computes the same, and may not be cut back far;
 * sync then starts again and comes to the same logits. */
static void test_session_asks(void **state)
{
    enum { N = 12, CTX = 16 };
    struct pg_options opt = {PG_OPTIONS_INIT, .model = PG_TEST_DATA "/gen_moe/olmoe.gguf",
                             .n_ctx = CTX,    .n_batch = 4,
                             .n_threads = 1,  .mode = PG_MODE_RESIDENT};
    int32_t token[N];
    struct pg_err err;
    pg_engine *e;
    pg_session *s;
    (void)state;
    for (int i = 0; i < N; i++)
        token[i] = 3 + i * 5;
    must(pg_engine_open(&e, &opt, &err), &err);
    size_t bytes = pg_session_bytes(e, CTX), row = (size_t)e->model.h.n_vocab * sizeof(float);
    float *want = malloc(row);
    assert_non_null(want);
    assert_true(e->plan.kv >= bytes);
    e->model.cache[1].window = 8;
    e->session_bytes_left +=
        pg_session_bytes(e, CTX); /* beside pages, which the plan did not know */
    must(pg_session_open(&s, e, NULL, &err), &err);
    must(pg_session_sync(s, token, 6, &err), &err);
    memcpy(want, pg_session_logits(s), row);
    must(pg_session_sync(s, token, N, &err), &err);
    pg_kv_write(&s->kv, N, CTX); /* as a step that failed has */
    assert_int_equal(pg_session_truncate(s, 3), PG_ENOTSUP);
    assert_int_equal(pg_session_n_tokens(s), N);
    assert_non_null(pg_session_logits(s));
    must(pg_session_sync(s, token, 6, &err), &err);
    assert_int_equal(pg_session_n_tokens(s), 6);
    assert_memory_equal(pg_session_logits(s), want, row);
    assert_int_equal(pg_session_truncate(s, 3), 0); /* it has not outgrown the ring */
    pg_session_close(s);
    free(want);
    pg_engine_close(e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_rows_apart),
        cmocka_unit_test(test_source),
        cmocka_unit_test(test_rows_forget_anything),
        cmocka_unit_test(test_window_forgets_what_it_can),
        cmocka_unit_test(test_state_starts_again_only),
        cmocka_unit_test(test_session_asks),
    };
    return cmocka_run_group_tests_name("kv", tests, NULL, NULL);
}
