/* SPDX-License-Identifier: MIT
 * The parts of training that need no model: text to batches, the optimiser against a plain one in
 * double precision, and which tensors a list of names freezes.
 */
#include "helpers.h"

#include "base/os.h"
#include "base/random.h"
#include "data/batches.h"
#include "net/adam.h"
#include "train/freeze.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------ batches ----------------- */

/* Documents of these lengths; token i of document d is 100 d + i. */
static void make_docs(struct pg_docs *d, const int *lengths, int n)
{
    *d = (struct pg_docs){.n = n};
    d->token = calloc(1024, sizeof(int32_t));
    d->first = calloc((size_t)n + 1, sizeof(size_t));
    assert_non_null(d->token);
    assert_non_null(d->first);
    for (int i = 0; i < n; i++) {
        d->first[i + 1] = d->first[i] + (size_t)lengths[i];
        for (int k = 0; k < lengths[i]; k++)
            d->token[d->first[i] + (size_t)k] = 100 * i + k;
    }
}

static const struct pg_batches_options plain = {
    .n_vocab = 1000, .n_seq = 2, .seq_len = 8, .seed = 5};

static void open_batches(struct pg_batches *b, const struct pg_docs *d)
{
    struct pg_err err;
    struct pg_batches_options o = plain;
    o.docs = d;
    assert_int_equal(pg_batches_open(b, &o, &err), 0);
}

/* What must hold of every row, whatever the order: pieces begin where a piece may, go on as their
 * document does, and have its next token as target. */
static void check_row(const struct pg_batches *b, const struct pg_docs *d, const int32_t *token,
                      const int32_t *target, const int32_t *start)
{
    assert_int_equal(start[0], 0);
    for (int i = 0; i < b->opt.seq_len; i++) {
        int doc = token[i] / 100, at = token[i] % 100;
        int length = (int)(d->first[doc + 1] - d->first[doc]);
        assert_int_equal(target[i], at + 1 < length ? token[i] + 1 : -1);
        if (i > 0 && start[i] == start[i - 1]) {
            assert_int_equal(token[i], token[i - 1] + 1);
        } else {
            assert_int_equal(start[i], i);
            assert_int_equal(at % b->opt.seq_len, 0);
        }
    }
}

static void test_batches(void **state)
{
    (void)state;
    /* One of a token is left out; of 17 the last token is, after two whole pieces. */
    const int lengths[] = {3, 17, 1, 5, 9, 12, 4};
    struct pg_docs d;
    struct pg_batches b;
    struct pg_batch batch;
    int seen[7] = {0};
    make_docs(&d, lengths, 7);
    open_batches(&b, &d);
    assert_int_equal(b.pieces.n, 1 + 2 + 1 + 1 + 2 + 1); /* 9 = 8 + 1 and 12 = 8 + 4 */
    for (int step = 0; step < 50; step++) {
        pg_batches_next(&b, &batch);
        for (int s = 0; s < 2; s++) {
            check_row(&b, &d, batch.token + 8 * s, batch.target + 8 * s, batch.start + 8 * s);
            seen[batch.token[8 * s] / 100]++;
        }
    }
    for (int i = 0; i < 7; i++)
        assert_true(i == 2 ? seen[i] == 0 : seen[i] > 0);
    assert_true(b.epoch > 10);
    pg_batches_close(&b);
    pg_docs_close(&d);
}

/* All pieces of an epoch come, each once, in an order of its own. */
static void test_epochs(void **state)
{
    (void)state;
    const int lengths[] = {8, 8, 8, 8, 8, 8, 8, 8};
    int first_order[8];
    struct pg_docs d;
    struct pg_batches b;
    struct pg_batch batch;
    make_docs(&d, lengths, 8);
    open_batches(&b, &d);
    for (int epoch = 0; epoch < 3; epoch++) {
        int seen = 0, same = 0;
        for (int step = 0; step < 4; step++) {
            pg_batches_next(&b, &batch);
            for (int s = 0; s < 2; s++) {
                int doc = batch.token[8 * s] / 100, at = step * 2 + s;
                seen |= 1 << doc;
                same += epoch > 0 && first_order[at] == doc;
                first_order[at] = epoch == 0 ? doc : first_order[at];
            }
        }
        assert_int_equal(seen, 255);
        assert_true(same < 8);
    }
    pg_batches_close(&b);
    pg_docs_close(&d);
}

/* Seeking gives what going there gives; a text shorter than a row will do. */
static void test_seek(void **state)
{
    (void)state;
    const int many[] = {3, 17, 1, 5, 9, 12, 4}, few[] = {3};
    for (int pass = 0; pass < 2; pass++) {
        struct pg_docs d;
        struct pg_batches a, b;
        struct pg_batch x, y;
        make_docs(&d, pass ? few : many, pass ? 1 : 7);
        open_batches(&a, &d);
        open_batches(&b, &d);
        for (int step = 0; step < 20; step++) {
            pg_batches_next(&a, &x);
            pg_batches_seek(&b, (uint64_t)step * 2);
            pg_batches_next(&b, &y);
            assert_memory_equal(x.token, y.token, 16 * sizeof(int32_t));
            assert_memory_equal(x.target, y.target, 16 * sizeof(int32_t));
            assert_memory_equal(x.start, y.start, 16 * sizeof(int32_t));
        }
        assert_true(pg_batches_hash(&a) == pg_batches_hash(&b));
        pg_batches_close(&a);
        pg_batches_close(&b);
        pg_docs_close(&d);
    }
}

static void test_bad_text(void **state)
{
    (void)state;
    struct pg_docs d, e;
    struct pg_batches a, b;
    struct pg_err err;
    struct pg_batches_options o = plain;
    make_docs(&d, (int[]){1, 1}, 2);
    o.docs = &d;
    assert_int_equal(pg_batches_open(&b, &o, &err), PG_EFORMAT);
    assert_non_null(strstr(err.text, "nothing to learn"));
    pg_docs_close(&d);
    make_docs(&d, (int[]){4, 5}, 2);
    o.n_vocab = 104; /* token 104 is there */
    assert_int_equal(pg_batches_open(&b, &o, &err), PG_EFORMAT);
    assert_non_null(strstr(err.text, "is 104"));
    /* The same tokens in other documents are another text. */
    make_docs(&e, (int[]){4, 5}, 2);
    e.first[1] = 3;
    open_batches(&a, &d);
    open_batches(&b, &e);
    assert_true(pg_batches_hash(&a) != pg_batches_hash(&b));
    pg_batches_close(&a);
    pg_batches_close(&b);
    pg_docs_close(&d);
    pg_docs_close(&e);
}

/* ------------------------------------------------------------------ batches of pairs -------- */

enum { SOURCE_LEN = 12, TARGET_LEN = 8, START = 7 };

/* Pairs of these lengths; source token i of pair p is 100 p + i, target token i 100 p + 50 + i. */
static void make_pairs(struct pg_pairs *d, const int (*lengths)[2], int n)
{
    *d = (struct pg_pairs){.n = n};
    d->token = calloc(1024, sizeof(int32_t));
    d->at = calloc((size_t)n, sizeof(*d->at));
    assert_true(d->token && d->at);
    for (int i = 0; i < n; i++) {
        struct pg_pair *p = &d->at[i];
        *p = (struct pg_pair){.n_source = lengths[i][0], .n_target = lengths[i][1]};
        p->source = d->n_tokens;
        p->target = p->source + (size_t)p->n_source;
        for (int k = 0; k < p->n_source; k++)
            d->token[d->n_tokens++] = 100 * i + k;
        for (int k = 0; k < p->n_target; k++)
            d->token[d->n_tokens++] = 100 * i + 50 + k;
    }
}

static void open_pair_batches(struct pg_batches *b, const struct pg_pairs *d)
{
    struct pg_err err;
    struct pg_batches_options o = plain;
    o.pairs = d;
    o.source_len = SOURCE_LEN;
    o.seq_len = TARGET_LEN;
    o.decoder_start = START;
    must(pg_batches_open(b, &o, &err), &err);
}

/* A row is whole pairs, one behind the other on both sides, and padding; seen[p]++ for each. */
static void check_pairs(const struct pg_pairs *d, const struct pg_batch *b, int row, int *seen)
{
    const int32_t *token = b->token + row * TARGET_LEN, *target = b->target + row * TARGET_LEN;
    const int32_t *start = b->start + row * TARGET_LEN,
                  *source_of = b->source_of + row * TARGET_LEN;
    const int32_t *source = b->source + row * SOURCE_LEN;
    const int32_t *source_start = b->source_start + row * SOURCE_LEN;
    int at = 0, source_at = 0;
    while (at < TARGET_LEN && token[at] >= 0) {
        int pair = target[at] / 100;
        assert_int_equal(token[at], START);
        for (int i = 0; i < d->at[pair].n_target; i++, at++) {
            assert_int_equal(target[at], 100 * pair + 50 + i);
            assert_true(i == 0 || token[at] == target[at - 1]);
            assert_int_equal(start[at], at - i);
            assert_int_equal(source_of[at], source_at);
        }
        for (int i = 0; i < d->at[pair].n_source; i++) {
            assert_int_equal(source[source_at + i], 100 * pair + i);
            assert_int_equal(source_start[source_at + i], source_at);
        }
        source_at += d->at[pair].n_source;
        seen[pair]++;
    }
    assert_true(at > 0);
    for (int i = at; i < TARGET_LEN; i++)
        assert_true(token[i] == -1 && target[i] == -1 && start[i] == at);
    for (int i = source_at; i < SOURCE_LEN; i++)
        assert_true(source[i] == -1 && source_start[i] == source_at);
}

/* Each epoch has every pair once, in another order; a row takes what has room on both sides; and
 * what row n holds depends on n alone. */
static void test_pair_batches(void **state)
{
    static const int lengths[][2] = {{12, 8}, {3, 2}, {5, 1}, {2, 5}, {9, 2}, {4, 4}, {1, 1}};
    struct pg_pairs d;
    struct pg_batches b, other;
    struct pg_batch batch, same;
    int seen[7] = {0}, n = 0;
    (void)state;
    make_pairs(&d, lengths, 7);
    open_pair_batches(&b, &d);
    open_pair_batches(&other, &d);
    for (int step = 0; step < 60; step++) {
        pg_batches_next(&b, &batch);
        for (int row = 0; row < 2; row++)
            check_pairs(&d, &batch, row, seen);
        pg_batches_seek(&other, (uint64_t)step * 2);
        pg_batches_next(&other, &same);
        assert_memory_equal(batch.token, same.token, 2 * TARGET_LEN * sizeof(int32_t));
        assert_memory_equal(batch.source, same.source, 2 * SOURCE_LEN * sizeof(int32_t));
    }
    for (int i = 0; i < 7; i++)
        n += seen[i];
    for (int i = 0; i < 7; i++)
        assert_true(abs(7 * seen[i] - n) <= 7);
    assert_true(n > 2 * 60 * 3 / 2); /* a pair that fills a row is one of seven */
    assert_true(pg_batches_hash(&b) == pg_pairs_hash(&d));
    d.token[3] = 1000;
    pg_batches_close(&other);
    struct pg_err err;
    struct pg_batches_options o = b.opt;
    assert_int_equal(pg_batches_open(&other, &o, &err), PG_EFORMAT);
    says(err.text, "token 3 of the text is 1000");
    pg_batches_close(&b);
    free(d.token);
    free(d.at);
}

/* ------------------------------------------------------------------ AdamW ------------------- */

enum { N_A = 3 * PG_ADAM_CHUNK + 77, N_B = 5, N_C = 40, N_ALL = N_A + N_B + N_C, STEPS = 7 };

/* A matrix of several chunks, a vector, and a frozen one. */
static struct pg_param adam_params[] = {
    {.name = "a.weight", .at = 0, .n = N_A, .is_matrix = true},
    {.name = "b.bias", .at = N_A, .n = N_B},
    {.name = "c.weight", .at = N_A + N_B, .n = N_C, .is_matrix = true},
};
static const struct pg_params adam_list = {adam_params, 3, N_ALL};
static const bool adam_frozen[] = {false, false, true};

static float noise(int stream, int i)
{
    return (float)((double)(pg_random_at(3, (uint64_t)stream, (uint64_t)i) >> 11) * 0x1p-52 - 1);
}

static struct pg_adam_state adam_state(void)
{
    float *all = pg_calloc(4 * N_ALL, sizeof(float));
    assert_non_null(all);
    struct pg_adam_state s = {all, all + N_ALL, all + 2 * N_ALL, all + 3 * N_ALL};
    for (int i = 0; i < N_ALL; i++)
        s.w[i] = noise(0, i);
    return s;
}

static const struct pg_adam_rates rates = {
    .lr = 0.01f, .beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-8f, .decay = 0.1f, .scale = 0.5f};

static void run_adam(struct pg_adam_state *s, int n_threads, double *norms)
{
    struct pg_pool *pool;
    struct pg_adam a;
    struct pg_err err;
    assert_int_equal(pg_pool_open(&pool, n_threads, &err), 0);
    assert_int_equal(pg_adam_open(&a, &adam_list, adam_frozen, pool, &err), 0);
    for (int step = 1; step <= STEPS; step++) {
        struct pg_adam_rates r = rates;
        r.step = step;
        for (int i = 0; i < N_ALL; i++)
            s->g[i] = noise(step, i);
        norms[step - 1] = pg_adam_norm(&a, s->g);
        assert_true(pg_adam_step(&a, &r, s));
        for (int i = 0; i < N_ALL; i++)
            assert_true(s->g[i] == 0);
    }
    pg_adam_close(&a);
    pg_pool_close(pool);
}

/* The formulas of the paper, value by value. */
static double plain_adamw(double w, int i, bool decays)
{
    double m = 0, v = 0;
    for (int t = 1; t <= STEPS; t++) {
        double g = (double)noise(t, i) * 0.5;
        m = 0.9 * m + 0.1 * g;
        v = 0.95 * v + 0.05 * g * g;
        double m_hat = m / (1 - pow(0.9, t)), v_hat = v / (1 - pow(0.95, t));
        w -= decays ? 0.01 * 0.1 * w : 0;
        w -= 0.01 * m_hat / (sqrt(v_hat) + 1e-8);
    }
    return w;
}

static void test_adam(void **state)
{
    (void)state;
    struct pg_adam_state s = adam_state(), two = adam_state();
    double norms[STEPS], again[STEPS], sum = 0;
    run_adam(&s, 1, norms);
    run_adam(&two, 3, again);
    assert_memory_equal(s.w, two.w, 4 * N_ALL * sizeof(float));
    assert_memory_equal(norms, again, sizeof(norms));
    for (int i = 0; i < N_A + N_B; i++) {
        double want = plain_adamw((double)noise(0, i), i, i < N_A);
        assert_true(fabs((double)s.w[i] - want) < 1e-6);
        sum += (double)noise(1, i) * (double)noise(1, i);
    }
    assert_true(fabs(norms[0] - sqrt(sum)) < 1e-9 * sqrt(sum)); /* without what is frozen */
    for (int i = N_A + N_B; i < N_ALL; i++)
        assert_true(s.w[i] == noise(0, i) && s.m[i] == 0 && s.v[i] == 0);
    free(s.w);
    free(two.w);
}

static void test_adam_not_finite(void **state)
{
    (void)state;
    struct pg_adam_state s = adam_state();
    struct pg_pool *pool;
    struct pg_adam a;
    struct pg_err err;
    struct pg_adam_rates r = rates;
    const int last = N_A - 1;
    r.step = 1;
    assert_int_equal(pg_pool_open(&pool, 2, &err), 0);
    assert_int_equal(pg_adam_open(&a, &adam_list, adam_frozen, pool, &err), 0);
    s.g[last] = NAN;
    assert_false(isfinite(pg_adam_norm(&a, s.g)));
    s.g[last] = INFINITY;
    assert_false(isfinite(pg_adam_norm(&a, s.g)));
    s.g[last] = 0;
    s.g[N_ALL - 1] = NAN; /* frozen: nobody looks at it */
    assert_true(pg_adam_norm(&a, s.g) == 0);
    assert_true(pg_adam_step(&a, &r, &s));
    s.g[last] = 1;
    r.lr = 3e38f;
    r.decay = 10;
    assert_false(pg_adam_step(&a, &r, &s));
    pg_adam_close(&a);
    pg_pool_close(pool);
    free(s.w);
}

/* ------------------------------------------------------------------ freeze ------------------ */

static void test_freeze(void **state)
{
    (void)state;
    struct pg_param p[] = {{.name = "token_embd.weight"},
                           {.name = "blk.0.attn_q.weight"},
                           {.name = "blk.1.attn_q.weight"},
                           {.name = "blk.10.attn_q.bias"},
                           {.name = "output.weight"}};
    const struct pg_params list = {p, 5, 0};
    const struct {
        const char *names;
        unsigned want; /* bit i: tensor i */
    } good[] = {
        {NULL, 0},
        {"", 0},
        {"output.weight", 16},
        {"*", 31},
        {"**", 31},
        {"token_embd*", 1},
        {"*.attn_*", 14},
        {"blk.1*", 12},
        {"blk.1.*", 4},
        {"*.weight", 23},
        {"*w*eig*t", 23},
        {"blk.*.attn_q.*,output*", 30},
        {"*.bias,*embd*", 9},
    };
    const char *bad[] = {"outpu",     "weight",   "*.attn_k.*",   "token_embd*,nothing",
                         ",",         "output*,", "utput.weight", "blk.?.attn_q.weight",
                         "*.weight.*"};
    struct pg_err err;
    for (size_t i = 0; i < PG_COUNT(good); i++) {
        bool frozen[5] = {0};
        unsigned got = 0;
        assert_int_equal(pg_freeze(&list, good[i].names, frozen, &err), 0);
        for (int k = 0; k < 5; k++)
            got |= (unsigned)frozen[k] << k;
        assert_int_equal(got, good[i].want);
    }
    for (size_t i = 0; i < PG_COUNT(bad); i++) {
        bool frozen[5] = {0};
        assert_int_equal(pg_freeze(&list, bad[i], frozen, &err), PG_EARG);
    }
    bool frozen[5] = {0};
    pg_freeze(&list, "token_embd*,nothing", frozen, &err);
    assert_non_null(strstr(err.text, "'nothing'"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pair_batches),    cmocka_unit_test(test_batches),
        cmocka_unit_test(test_epochs),          cmocka_unit_test(test_seek),
        cmocka_unit_test(test_bad_text),        cmocka_unit_test(test_adam),
        cmocka_unit_test(test_adam_not_finite), cmocka_unit_test(test_freeze),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
