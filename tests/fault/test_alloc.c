/* SPDX-License-Identifier: MIT
 * Allocation n fails, thread n is refused: opening each layer with every failure in turn.
 */
#include "helpers.h"
#include <jansson.h>

#include "alloc_faults.h"
#include "base/os.h"
#include "base/pool.h"
#include "format/gguf.h"
#include "store/store.h"
#include "text/vocab.h"

static int gguf_open(const void *arg, struct pg_err *err)
{
    struct pg_gguf *g;
    int rc = pg_gguf_open(&g, arg, err);
    if (!rc)
        pg_gguf_close(g);
    else
        assert_null(g);
    return rc;
}

static void test_gguf(void **state)
{
    (void)state;
    assert_true(fault_each(gguf_open, PG_TEST_DATA "/gen_moe/qwen3moe.gguf", false, PG_ENOMEM) > 5);
}

static void test_gguf_split(void **state)
{
    (void)state;
    char path[] = PG_TEST_DATA "/gguf_moe/split_qwen-00001-of-00003.gguf";
    assert_true(fault_each(gguf_open, path, false, PG_ENOMEM) > 10);
}

static int gguf_write(const void *arg, struct pg_err *err)
{
    struct pg_gguf_writer *w;
    int64_t ne[] = {4};
    float data[] = {1, 2, 3, 4};
    PG_TRY(pg_gguf_writer_open(&w, arg, err));
    int rc = pg_gguf_writer_str(w, "general.architecture", "llama", err);
    for (int i = 0; i < 100 && !rc; i++) {
        char name[32];
        snprintf(name, sizeof(name), "tensor.%d", i);
        rc = pg_gguf_writer_tensor(w, name, PG_TYPE_F32, 1, ne, err);
    }
    for (int i = 0; i < 100 && !rc; i++)
        rc = pg_gguf_writer_data(w, data, sizeof(data), err);
    if (!rc)
        return pg_gguf_writer_commit(w, err);
    pg_gguf_writer_abandon(w);
    return rc;
}

static void test_gguf_writer(void **state)
{
    (void)state;
    char path[64];
    (void)snprintf(path, sizeof(path), "test_alloc.%d.gguf", (int)getpid());
    assert_true(fault_each(gguf_write, path, false, PG_ENOMEM) > 10);
    assert_int_equal(unlink(path), 0);
}

static int vocab_open(const void *arg, struct pg_err *err)
{
    pg_vocab *v;
    static const char text[] = "Once upon a time, it\xcc\x81 was \xe4\xbd\xa0\xe5\xa5\xbd 1234!";
    int32_t ids[sizeof(text) + 2];
    struct pg_ids out = {ids, PG_COUNT(ids), 0};
    int rc = pg_vocab_open(&v, arg, err);
    if (rc) {
        assert_null(v);
        return rc;
    }
    rc = pg_tokenize(v, text, sizeof(text) - 1, 0, &out, err);
    pg_vocab_close(v);
    return rc;
}

static void test_vocab(void **state)
{
    (void)state;
    assert_true(fault_each(vocab_open, PG_MODELS "/tinystories-moe.gguf", false, PG_ENOMEM) > 10);
    assert_true(fault_each(vocab_open, PG_TEST_DATA "/stories260K/stories260K.gguf", false,
                           PG_ENOMEM) > 10);
}

static int io_open(const void *arg, struct pg_err *err)
{
    const char *paths[] = {PG_TEST_DATA "/gen_moe/qwen3moe.gguf",
                           PG_TEST_DATA "/gen_moe/olmoe.gguf"};
    struct pg_io_options opt = {
        .paths = paths, .n_paths = 2, .path = *(const enum pg_io_path *)arg, .depth = 8};
    struct pg_io *io = NULL;
    int rc = pg_io_open(&io, &opt, err);
    pg_io_close(io);
    return rc;
}

static void test_io(void **state)
{
    (void)state;
    for (int path = PG_IO_AUTO; path <= PG_IO_PREAD; path++) {
        enum pg_io_path how = (enum pg_io_path)path;
        struct pg_err err;
        if (io_open(&how, &err) == PG_ENOTSUP) {
            say_skipped(__func__, "%s", err.text);
            continue;
        }
        assert_true(fault_each(io_open, &how, false, PG_ENOMEM) >= 4);
    }
    enum pg_io_path how = PG_IO_PREAD;
    assert_int_equal(fault_each(io_open, &how, true, PG_ESYSTEM), 8);
}

static int sim_open(const void *arg, struct pg_err *err)
{
    struct pg_io *io = NULL;
    int rc = pg_io_open_sim(&io, arg, err);
    pg_io_close(io);
    return rc;
}

#define N_BLOCK  3
#define N_EXPERT 8

/* The store on the simulated disk, with a few waves so that opening is proved to be enough. */
static int store_run(const void *arg, struct pg_err *err)
{
    static struct pg_place places[N_BLOCK * N_EXPERT];
    static const int32_t ids[] = {5, 0, 3};
    for (int i = 0; i < N_BLOCK * N_EXPERT; i++)
        for (int slab = 0; slab < PG_SLABS; slab++) {
            places[i].offset[slab] = (uint64_t)(i * PG_SLABS + slab) * 5000;
            places[i].bytes[slab] = 5000;
        }
    struct pg_store_options opt = {.n_block = N_BLOCK,
                                   .n_expert = N_EXPERT,
                                   .place = places,
                                   .n_slots = 4,
                                   .slot_bytes = pg_store_slot_bytes(places, PG_COUNT(places)),
                                   .evict = *(const enum pg_evict *)arg};
    size_t arena_bytes = (size_t)opt.n_slots * opt.slot_bytes;
    struct pg_store *store = NULL;
    int rc = pg_io_open_sim(&opt.io, &(struct pg_io_sim){.latency_ns = 1000}, err);
    if (rc)
        return rc;
    opt.arena = pg_pages_map(arena_bytes);
    rc = opt.arena ? pg_store_open(&store, &opt, err)
                   : pg_fail(err, PG_ENOMEM, "no memory for %zu bytes of slots", arena_bytes);
    for (int block = 0; block < N_BLOCK && !rc; block++) {
        struct pg_lease lease;
        uint64_t n_calls = alloc_faults.n_calls;
        pg_store_acquire(store, block, ids, PG_COUNT(ids));
        pg_store_hint(store, (block + 1) % N_BLOCK, ids, PG_COUNT(ids), false);
        while ((rc = pg_store_next(store, &lease, err)) == 1)
            pg_store_release(store, &lease);
        assert_int_equal(alloc_faults.n_calls, n_calls);
    }
    if (store)
        pg_store_drain(store);
    pg_store_close(store);
    pg_io_close(opt.io);
    if (opt.arena)
        pg_pages_unmap(opt.arena, arena_bytes);
    return rc;
}

static void test_store(void **state)
{
    (void)state;
    struct pg_io_sim sim = {.latency_ns = 1000};
    assert_true(fault_each(sim_open, &sim, false, PG_ENOMEM) >= 3);
    for (int e = 0; e < PG_EVICT_COUNT; e++) {
        enum pg_evict evict = (enum pg_evict)e;
        assert_true(fault_each(store_run, &evict, false, PG_ENOMEM) >= 5);
    }
}

static int routes_replay(const void *arg, struct pg_err *err)
{
    pg_routes *r;
    int rc = pg_routes_open(&r, arg, err);
    /* Jansson's lexer, short of memory, says that it expected another character. */
    if (rc == PG_EFORMAT && alloc_faults.n_injected)
        rc = pg_fail(err, PG_ENOMEM, "no memory");
    if (rc) {
        assert_null(r);
        return rc;
    }
    for (int policy = 0; policy <= PG_EVICT_BELADY && !rc; policy++)
        rc = pg_replay_run(r, &(struct pg_replay){policy, 64, 0, 3, 0, 0}, err);
    pg_routes_close(r);
    return rc;
}

static void test_routes(void **state)
{
    (void)state;
    char path[64];
    (void)snprintf(path, sizeof(path), "test_alloc.%d.jsonl", (int)getpid());
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    for (int i = 0; i < 3; i++)
        fprintf(f, "{\"tok\": %d, \"layers\": [[1, 2], [3, %d]]}\n", i, 4 + i);
    fclose(f);
    assert_true(fault_each(routes_replay, path, false, PG_ENOMEM) > 20);
    unlink(path);
}

static int pool_open(const void *arg, struct pg_err *err)
{
    struct pg_pool *p = NULL;
    (void)arg;
    int rc = pg_pool_open(&p, 4, err);
    pg_pool_close(p);
    return rc;
}

static void test_pool(void **state)
{
    (void)state;
    assert_true(fault_each(pool_open, NULL, false, PG_ENOMEM) >= 2);
    assert_int_equal(fault_each(pool_open, NULL, true, PG_ESYSTEM), 3);
}

/* The harness itself, by the names that the linker uses: compilers leave out a pair of malloc and
 * free. */
static int leak_none(const void *arg, struct pg_err *err)
{
    char *p = __wrap_malloc(16);
    (void)arg;
    if (!p)
        return pg_fail(err, PG_ENOMEM, "no memory");
    __wrap_free(p);
    return 0;
}

static void test_harness(void **state)
{
    (void)state;
    assert_int_equal(fault_each(leak_none, NULL, false, PG_ENOMEM), 1);
    alloc_faults_begin(0, 0);
    char *p = __wrap_malloc(16);
    assert_int_equal(alloc_faults.n_live, 1);
    p = __wrap_realloc(p, 4000);
    assert_int_equal(alloc_faults.n_live, 1);
    __wrap_free(p);
    assert_int_equal(alloc_faults.n_live, 0);
    void *pages = pg_pages_map(5u << 20);
    assert_int_equal(alloc_faults.mapped_bytes, 5 << 20);
    pg_pages_unmap(pages, 5u << 20);
    assert_true(alloc_faults_clean());
    alloc_faults_begin(2, 0);
    p = __wrap_malloc(16);
    assert_non_null(p);
    assert_null(__wrap_realloc(p, 32));
    __wrap_free(p);
    assert_int_equal(alloc_faults.n_injected, 1);
    assert_true(alloc_faults_clean());
}

static int simulate(const void *arg, struct pg_err *err)
{
    struct pg_sim_report r;
    int rc = pg_simulate(arg, &r, err);
    if (rc == PG_EFORMAT) /* jansson may take a refusal for an end of the text */
        rc = err->code = PG_ENOMEM;
    return rc;
}

static void test_simulation(void **state)
{
    (void)state;
    const struct pg_sim_options o = {PG_SIM_OPTIONS_INIT,
                                     .shape = "switch-tiny",
                                     .machine = PG_TEST_DATA "/../../bench/machines/h200.json",
                                     .mode = PG_MODE_LOOKAHEAD,
                                     .n_steps = 1,
                                     .n_source = 4};
    assert_true(fault_each(simulate, &o, false, PG_ENOMEM) > 15);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_harness),    cmocka_unit_test(test_gguf),
        cmocka_unit_test(test_gguf_split), cmocka_unit_test(test_gguf_writer),
        cmocka_unit_test(test_vocab),      cmocka_unit_test(test_io),
        cmocka_unit_test(test_store),      cmocka_unit_test(test_routes),
        cmocka_unit_test(test_pool),       cmocka_unit_test(test_simulation),
    };
    json_set_alloc_funcs(malloc, free); /* ours, so that its allocations fail too */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
