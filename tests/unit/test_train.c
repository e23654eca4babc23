/* SPDX-License-Identifier: MIT
 * A trainer from within: where weights come from, how the learning rate goes, that a checkpoint
 * brings back every bit, and that no damaged one does harm.
 */
#include "helpers.h"

#include "tiny_train.h"
#include "train/train.h"

#include <fcntl.h>
#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

#define MOE PG_TEST_DATA "/gguf_moe/"

static char model[128], text[128], out[128], checkpoint[128];

static int setup(void **state)
{
    struct pg_err err = {0};
    if (make_dir(state))
        return -1;
    in_dir(model, "tiny.gguf");
    in_dir(text, "text");
    in_dir(out, "out.gguf");
    in_dir(checkpoint, "out.gguf.checkpoint");
    return tiny_write(model, text, &err);
}

static const char *const texts[] = {text};

static struct pg_train_options options(void)
{
    return (struct pg_train_options){
        PG_TRAIN_OPTIONS_INIT, .model = model, .data = texts, .n_data = 1,   .out = out,
        .n_steps = 8,          .n_seq = 2,     .seq_len = 8,  .n_threads = 1};
}

/* Two trainers of one result are compared here, so neither keeps the other out. */
static pg_trainer *open_good(const struct pg_train_options *o)
{
    struct pg_err err = {0};
    pg_trainer *t;
    must(pg_trainer_open(&t, o, &err), &err);
    pg_lock_drop(&t->lock);
    return t;
}

static void steps(pg_trainer *t, int n)
{
    struct pg_train_report r;
    for (int i = 0; i < n; i++)
        assert_int_equal(pg_trainer_step(t, &r, NULL), 0);
}

/* ------------------------------------------------------------------ weights ----------------- */

/* All parameters of a file, as the trainer would read them. */
static float *read_all(const char *path, size_t *n)
{
    struct pg_source s;
    struct pg_pool *pool;
    struct pg_net *net;
    struct pg_err err = {0};
    assert_int_equal(pg_source_open(&s, path, &err), 0);
    assert_int_equal(pg_pool_open(&pool, 1, &err), 0);
    const struct pg_net_options o = {
        .model = &s.model, .n_seq = 1, .seq_len = 2, .sticky_cache = 2, .pool = pool};
    assert_int_equal(pg_net_open(&net, &o, &err), 0);
    const struct pg_params *params = pg_net_params(net);
    float *w = calloc(params->n_values, sizeof(float));
    assert_non_null(w);
    for (int i = 0; i < params->n; i++)
        assert_int_equal(pg_source_param(&s, &params->p[i], w + params->p[i].at, &err), 0);
    *n = params->n_values;
    pg_net_close(net);
    pg_pool_close(pool);
    pg_source_close(&s);
    return w;
}

/* One tensor an expert, and a set of files, hold what the plain file holds. */
static void test_layouts(void **state)
{
    (void)state;
    const char *pairs[][2] = {
        {MOE "single_mixtral.gguf", MOE "full_mixtral.gguf"},
        {MOE "split_qwen-00001-of-00003.gguf", MOE "qwen_moe_tiny.gguf"},
    };
    for (size_t i = 0; i < PG_COUNT(pairs); i++) {
        size_t n, m;
        float *a = read_all(pairs[i][0], &n), *b = read_all(pairs[i][1], &m);
        assert_int_equal(n, m);
        assert_memory_equal(a, b, n * sizeof(float));
        free(a);
        free(b);
    }
}

/* Values come out of F16, Q8_0 and F32 as they were put in, and lie where their tensor does. */
static void test_values(void **state)
{
    (void)state;
    struct pg_train_options o = options();
    pg_trainer *t = open_good(&o);
    for (int i = 0; i < TINY_TENSORS; i++) {
        char name[64];
        const struct tiny_tensor *x = tiny_at(i, name);
        const struct pg_param *p = pg_params_find(t->params, name);
        assert_non_null(p);
        for (size_t k = 0; k < p->n; k++) {
            int r = (int)(pg_random_at(9, (uint64_t)i, k) >> 56) - 128;
            double want = (x->ne[1] ? 0 : 1) + r * 0.001;
            assert_true(fabs((double)t->s.w[p->at + k] - want) < 1e-4);
        }
    }
    pg_trainer_close(t);
}

/* New weights have the deviation that is promised, norms are 1, and a seed is a seed. */
static void test_scratch(void **state)
{
    (void)state;
    struct pg_train_options o = options();
    o.from_scratch = true;
    o.gate = PG_GATE_PREGATE;
    pg_trainer *t = open_good(&o);
    o.seed = 1;
    pg_trainer *other = open_good(&o);
    for (int i = 0; i < t->params->n; i++) {
        const struct pg_param *p = &t->params->p[i];
        const float *w = t->s.w + p->at;
        double sum = 0, squares = 0, want = 0.02;
        for (size_t k = 0; k < p->n; k++) {
            sum += (double)w[k];
            squares += (double)w[k] * (double)w[k];
        }
        if (strstr(p->name, "norm")) {
            assert_true(sum == (double)p->n && squares == (double)p->n);
            continue;
        }
        want /= strstr(p->name, "attn_output") || strstr(p->name, "ffn_down") ? sqrt(6) : 1;
        assert_true(fabs(sqrt(squares / (double)p->n) - want) < 5 * want / sqrt(2 * (double)p->n));
        assert_true(fabs(sum / (double)p->n) < 5 * want / sqrt((double)p->n));
        assert_memory_not_equal(w, other->s.w + p->at, p->n * sizeof(float));
    }
    pg_trainer_close(t);
    pg_trainer_close(other);
}

/* ------------------------------------------------------------------ rates ------------------- */

static void test_schedules(void **state)
{
    (void)state;
    const double part[] = {0, 0, 0, 1.0 / 6, 2.0 / 6, 3.0 / 6, 4.0 / 6, 5.0 / 6};
    for (int schedule = PG_LR_CONSTANT; schedule <= PG_LR_LINEAR; schedule++) {
        struct pg_train_options o = options();
        struct pg_train_report r;
        o.schedule = (enum pg_lr_schedule)schedule;
        o.lr = 0.01f;
        o.lr_end = 0.2f;
        o.n_warmup = 2;
        pg_trainer *t = open_good(&o);
        steps(t, 8);
        for (int i = 0; i < 8; i++) {
            double want = 0.01;
            if (i < 2)
                want = 0.01 * (i + 1) / 2;
            else if (schedule == PG_LR_COSINE)
                want = 0.002 + 0.008 * (1 + cos(acos(-1) * part[i])) / 2;
            else if (schedule == PG_LR_LINEAR)
                want = 0.01 - 0.008 * part[i];
            assert_int_equal(pg_trainer_report_at(t, i + 1, &r), 0);
            assert_true(fabs(r.lr - want) < 1e-8);
            assert_true(r.step == i + 1 && r.n_steps == 8 && r.n_tokens == 16u * (unsigned)r.step);
            assert_true(isfinite(r.loss) && r.loss > 0 && r.grad_norm > 0);
        }
        assert_int_equal(pg_trainer_report_at(t, 0, &r), PG_EARG);
        assert_int_equal(pg_trainer_report_at(t, 9, &r), PG_EARG);
        assert_int_equal(pg_trainer_step(t, &r, NULL), PG_EARG); /* all are done */
        pg_trainer_close(t);
    }
    unlink(checkpoint);
}

/* ------------------------------------------------------------------ checkpoints ------------- */

static void same_state(const pg_trainer *a, const pg_trainer *b)
{
    assert_int_equal(a->step, b->step);
    assert_memory_equal(a->s.w, b->s.w, a->params->n_values * sizeof(float));
    assert_memory_equal(a->s.m, b->s.m, a->params->n_values * sizeof(float));
    assert_memory_equal(a->s.v, b->s.v, a->params->n_values * sizeof(float));
    assert_memory_equal(a->metrics, b->metrics, (size_t)a->step * PG_METRIC_COUNT * sizeof(float));
}

static void test_round_trip(void **state)
{
    (void)state;
    struct pg_train_options o = options();
    o.gate = PG_GATE_PREGATE;
    for (int done = 0; done <= 8; done += 4) { /* 0: nothing but the beginning */
        pg_trainer *t = open_good(&o);
        steps(t, done);
        assert_int_equal(pg_trainer_checkpoint(t, NULL), 0);
        o.resume = true;
        pg_trainer *again = open_good(&o);
        same_state(t, again);
        steps(t, 8 - done);
        steps(again, 8 - done);
        assert_memory_equal(t->s.w, again->s.w, t->params->n_values * sizeof(float));
        assert_true(pg_trainer_done(again));
        pg_trainer_close(t);
        pg_trainer_close(again);
        o.resume = false;
    }
    unlink(checkpoint);
}

/* Loads what lies there: it is refused with a sentence that names the file, or it changes nothing.
 * Returns whether it was refused. */
static bool refused(pg_trainer *t, const pg_trainer *want)
{
    struct pg_err err = {0};
    bool found;
    int rc = pg_checkpoint_load(t, &found, &err);
    if (rc) {
        assert_int_equal(rc, err.code);
        assert_non_null(strstr(err.text, checkpoint));
        return true;
    }
    same_state(t, want);
    return false;
}

static void test_hostile(void **state)
{
    (void)state;
    struct pg_train_options o = options();
    pg_trainer *t = open_good(&o), *victim = open_good(&o);
    size_t n, n_refused = 0, n_tried = 0, header = 2048;
    steps(t, 3);
    assert_int_equal(pg_trainer_checkpoint(t, NULL), 0);
    char *good = whole_file(checkpoint, &n);
    assert_false(refused(victim, t));
    for (size_t at = 0; at < n; at += at < header ? 7 : 20011) {
        put_file(checkpoint, good, at);
        assert_true(refused(victim, t));
    }
    for (size_t at = 0; at < n; at += at < header ? 3 : 20011) {
        good[at] ^= (char)(1 << at % 8);
        put_file(checkpoint, good, n);
        n_refused += refused(victim, t);
        n_tried++;
        good[at] ^= (char)(1 << at % 8);
    }
    /* What may change unseen is padding, and a key that nobody reads. */
    assert_true(n_refused > n_tried * 9 / 10);
    put_file(checkpoint, good, n);
    assert_false(refused(victim, t));
    free(good);
    pg_trainer_close(t);
    pg_trainer_close(victim);
    unlink(checkpoint);
}

/* Right in form and sum, wrong in content. */
static void test_not_finite(void **state)
{
    (void)state;
    struct pg_train_options o = options();
    struct pg_err err = {0};
    pg_trainer *t = open_good(&o), *victim = open_good(&o);
    bool found;
    steps(t, 1);
    t->s.v[7] = NAN;
    assert_int_equal(pg_checkpoint_save(t, &err), 0);
    assert_int_equal(pg_checkpoint_load(victim, &found, &err), PG_EFORMAT);
    assert_non_null(strstr(err.text, "v: value 7 is not finite"));
    pg_trainer_close(t);
    pg_trainer_close(victim);
    unlink(checkpoint);
}

/* A step that fails is the end: neither a checkpoint nor a model is made of what it left. */
static void test_broken(void **state)
{
    (void)state;
    struct pg_train_options o = options();
    struct pg_train_report r;
    struct pg_err err = {0};
    pg_trainer *t = open_good(&o);
    steps(t, 2);
    t->s.w[t->params->p[0].at] = NAN;
    for (size_t i = 0; i < t->params->p[0].n; i++)
        t->s.w[t->params->p[0].at + i] = NAN;
    assert_int_equal(pg_trainer_step(t, &r, &err), PG_ENUMERIC);
    assert_non_null(strstr(err.text, "step 3"));
    assert_int_equal(pg_trainer_step(t, &r, &err), PG_EARG);
    assert_int_equal(pg_trainer_checkpoint(t, &err), PG_EARG);
    assert_int_equal(pg_trainer_finish(t, &err), PG_EARG);
    assert_int_equal(access(checkpoint, F_OK), -1);
    assert_int_equal(access(out, F_OK), -1);
    pg_trainer_close(t);
}

/* A weight that F16 cannot hold is named, and no file appears. */
static void test_too_large(void **state)
{
    (void)state;
    struct pg_train_options o = options();
    struct pg_err err = {0};
    pg_trainer *t = open_good(&o);
    const struct pg_param *p = pg_params_find(t->params, "blk.1.attn_v.weight");
    t->s.w[p->at + 5] = 70000;
    assert_int_equal(pg_trainer_finish(t, &err), PG_ENUMERIC);
    assert_non_null(strstr(err.text, "blk.1.attn_v.weight"));
    assert_int_equal(access(out, F_OK), -1);
    pg_trainer_close(t);
}

static void test_bad_options(void **state)
{
    (void)state;
    const struct pg_train_options good = options();
    struct pg_train_options o[12];
    struct pg_err err;
    pg_trainer *t;
    for (size_t i = 0; i < PG_COUNT(o); i++)
        o[i] = good;
    o[0].size = sizeof(good) + 1;
    o[1].model = NULL;
    o[2].out = NULL;
    o[3].n_data = 0;
    o[4].n_seq = -1;
    o[5].seq_len = 65; /* the context is 64 */
    o[6].lr = NAN;
    o[7].beta2 = 1;
    o[8].sticky_cache = TINY_EXPERTS + 1;
    o[9].from_scratch = true;
    o[9].from_model = model;
    o[10].n_steps = -5;
    o[11].level = TINY_LAYERS;
    o[11].gate = PG_GATE_PREGATE;
    for (size_t i = 0; i < PG_COUNT(o); i++) {
        err.text[0] = 0;
        assert_int_equal(pg_trainer_open(&t, &o[i], &err), PG_EARG);
        assert_null(t);
        assert_true(err.text[0]);
    }
    pg_trainer_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layouts),    cmocka_unit_test(test_values),
        cmocka_unit_test(test_scratch),    cmocka_unit_test(test_schedules),
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_hostile),
        cmocka_unit_test(test_not_finite), cmocka_unit_test(test_broken),
        cmocka_unit_test(test_too_large),  cmocka_unit_test(test_bad_options),
    };
    return cmocka_run_group_tests(tests, setup, remove_dir);
}
