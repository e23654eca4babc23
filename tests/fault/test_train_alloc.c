/* SPDX-License-Identifier: MIT
 * Allocation n fails while a model is trained: opened, stepped, saved, resumed and finished. Every
 * refusal comes back as "out of memory", and nothing is left open or allocated.
 */
#include "helpers.h"

#include "alloc_faults.h"
#include "tiny_train.h"
#include "train/train.h"

#include <sys/stat.h>

static char model[128], text[128], out[128], sidecar[128];

static int setup(void **state)
{
    struct pg_err err = {0};
    if (make_dir(state))
        return -1;
    in_dir(model, "tiny.gguf");
    in_dir(text, "text");
    in_dir(out, "out.gguf");
    in_dir(sidecar, "out.pregate.gguf");
    return tiny_write(model, text, &err);
}

static int steps(const struct pg_train_options *o, int n, struct pg_err *err)
{
    pg_trainer *t;
    int rc = pg_trainer_open(&t, o, err);
    if (rc) {
        assert_null(t);
        return rc;
    }
    uint64_t n_calls = alloc_faults.n_calls;
    for (int i = 0; i < n && !rc; i++) {
        rc = pg_trainer_step(t, NULL, err);
        assert_int_equal(alloc_faults.n_calls, n_calls); /* all memory was taken at open */
    }
    rc = rc ? rc : n ? pg_trainer_checkpoint(t, err) : pg_trainer_finish(t, err);
    pg_trainer_close(t);
    return rc;
}

static struct pg_train_options options(bool resume)
{
    static const char *const texts[] = {text};
    return (struct pg_train_options){PG_TRAIN_OPTIONS_INIT,
                                     .model = model,
                                     .data = texts,
                                     .n_data = 1,
                                     .out = out,
                                     .gate = PG_GATE_PREGATE,
                                     .resume = resume,
                                     .n_steps = resume ? 2 : 3,
                                     .n_seq = 2,
                                     .seq_len = 8,
                                     .n_threads = 1};
}

/* Leaves a checkpoint of the second step. */
static int train(const void *arg, struct pg_err *err)
{
    const struct pg_train_options o = options(false);
    (void)arg;
    return steps(&o, 2, err);
}

static int finish(const void *arg, struct pg_err *err)
{
    const struct pg_train_options o = options(true);
    (void)arg;
    return steps(&o, 0, err);
}

static void test_train(void **state)
{
    (void)state;
    assert_true(fault_each(train, NULL, false, PG_ENOMEM) > 50);
}

static void test_finish(void **state)
{
    (void)state;
    struct pg_err err;
    assert_int_equal(train(NULL, &err), 0);
    assert_true(fault_each(finish, NULL, false, PG_ENOMEM) > 50);
    assert_int_equal(access(out, F_OK), 0);
    assert_int_equal(access(sidecar, F_OK), 0);
    assert_int_equal(access(IN_DIR("out.gguf.checkpoint"), F_OK), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_train),
        cmocka_unit_test(test_finish),
    };
    return cmocka_run_group_tests(tests, setup, remove_dir);
}
