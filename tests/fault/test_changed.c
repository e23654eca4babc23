/* SPDX-License-Identifier: MIT
 * A model that is overwritten in place while it is used: an error that names it, never text of two
 * models. And one that another is renamed over: no error, since its bytes stay.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/err.h"
#include "pregate.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SMALL PG_TEST_DATA "/gen_moe/qwen3moe.gguf"

struct fixture {
    char path[64], other[64];
    char *data;
    size_t n;
};

/* As `cp` does it: the file is the same, what is in it is not. */
static void put(const char *path, const struct fixture *x, size_t n)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(x->data, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static int setup(void **state)
{
    static struct fixture x;
    FILE *f = fopen(SMALL, "rb");
    assert_non_null(f);
    x = (struct fixture){.data = malloc(1 << 20)};
    x.n = fread(x.data, 1, 1 << 20, f);
    fclose(f);
    snprintf(x.path, sizeof(x.path), "test_changed.%d.gguf", (int)getpid());
    snprintf(x.other, sizeof(x.other), "test_changed.%d.other", (int)getpid());
    put(x.path, &x, x.n);
    put(x.other, &x, x.n);
    *state = &x;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *x = *state;
    unlink(x->path);
    unlink(x->other);
    free(x->data);
    return 0;
}

static struct pg_options options_of(const struct fixture *x, enum pg_mode mode)
{
    return (struct pg_options){PG_OPTIONS_INIT, .model = x->path, .mode = mode,
                               .n_threads = 1,  .n_ctx = 256,     .n_batch = 4};
}

/* With so few slots that experts are read again and again. */
static pg_engine *open_tight(struct pg_options opt)
{
    struct pg_err err;
    pg_engine *e;
    opt.n_slots = 4;
    if (pg_engine_open(&e, &opt, &err))
        fail_msg("%s", err.text);
    return e;
}

/* Up to n tokens, or the first error. */
static int go_on(pg_session *s, int n, struct pg_err *err)
{
    for (int32_t i = 0; i < n; i++) {
        int32_t id = i * 7 % 60;
        PG_TRY(pg_session_eval(s, &id, 1, NULL, err));
    }
    return 0;
}

static void test_while_it_runs(void **state)
{
    const struct fixture *x = *state;
    for (enum pg_mode mode = PG_MODE_ONDEMAND; mode <= PG_MODE_LOOKAHEAD; mode++) {
        struct pg_err err;
        pg_session *s;
        pg_engine *e = open_tight(options_of(x, mode));
        assert_int_equal(pg_session_open(&s, e, NULL, &err), 0);
        assert_int_equal(go_on(s, 10, &err), 0);
        put(x->other, x, x->n);
        assert_int_equal(rename(x->other, x->path), 0);
        assert_int_equal(go_on(s, 60, &err), 0);
        pg_session_close(s);
        pg_engine_close(e);

        e = open_tight(options_of(x, mode));
        assert_int_equal(pg_session_open(&s, e, NULL, &err), 0);
        assert_int_equal(go_on(s, 10, &err), 0);
        put(x->path, x, x->n);
        size_t n = pg_session_n_tokens(s);
        assert_int_equal(go_on(s, 60, &err), PG_EIO);
        assert_non_null(strstr(err.text, x->path));
        assert_non_null(strstr(err.text, "changed"));
        assert_true(pg_session_n_tokens(s) < n + 60);
        assert_int_equal(go_on(s, 60, &err), PG_EIO); /* and it stays so */
        pg_session_close(s);
        pg_engine_close(e);
    }
}

/* While it is loaded: the first report of progress of that kind comes with the file half read. */
struct loading {
    const struct fixture *x;
    const char *what;
    bool renamed;
};

static int on_progress(void *user, const char *what, uint64_t done, uint64_t total)
{
    struct loading *l = user;
    (void)done;
    (void)total;
    if (!l->what || strcmp(l->what, what))
        return 0;
    l->what = NULL;
    if (l->renamed)
        put(l->x->other, l->x, l->x->n), rename(l->x->other, l->x->path);
    else
        put(l->x->path, l->x, l->x->n);
    return 0;
}

static void test_while_it_is_loaded(void **state)
{
    const struct fixture *x = *state;
    static const char *const phases[] = {"loading", "loading experts"};
    for (int i = 0; i < 4; i++) {
        struct loading l = {x, phases[i / 2], i % 2};
        struct pg_options opt = options_of(x, PG_MODE_RESIDENT);
        struct pg_err err;
        pg_engine *e;
        opt.progress = on_progress;
        opt.user = &l;
        int rc = pg_engine_open(&e, &opt, &err);
        assert_null(l.what);
        assert_int_equal(rc, l.renamed ? 0 : PG_EIO);
        if (rc)
            assert_non_null(strstr(err.text, x->path));
        pg_engine_close(e);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_while_it_runs, setup, teardown),
        cmocka_unit_test_setup_teardown(test_while_it_is_loaded, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
