/* SPDX-License-Identifier: MIT
 * The fit of pre-gates: derivatives against differences, a planted map that must be found, the same
 * bits for any number of threads and any interruption; the checkpoint, damaged in every way; how
 * text is cut and memory is divided.
 */
#include "helpers.h"

#include "distil/distil.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MODEL PG_MODELS "/tinystories-moe.gguf"

enum { N_EMBD = 24, N_EXPERT = 7, N_USED = 2, N_MOE = 3, N_VALUES_MOST = 4096, N_REPEATS = 3 };

/* [-1, 1) */
static float draw(uint64_t stream, uint64_t n)
{
    return (float)(pg_random_at(77, stream, n) >> 40) * 0x1p-23f - 1;
}

/* ------------------------------------------------------------------ a fit ------------------- */

/* A world in which the router of a block is a map of the state two numbers of blocks before. */
struct world {
    struct pg_states train[2], held[2]; /* of one stack, or of two */
    struct pg_fit fit;
    struct pg_kernels k;
    struct pg_pool *pool;
    void *memory;
    int stop_after; /* looks at the user; 0: never */
};

static int look(void *user, const char *what, uint64_t done, uint64_t total)
{
    struct world *w = user;
    (void)what;
    assert_true(done <= total);
    return w->stop_after && --w->stop_after == 0;
}

/* Logits of block `to` out of h: linear in the main, with a bend where `bent`. */
static float planted(const float *h, int to, int expert, bool bent)
{
    float z = 0, u = 0;
    for (int i = 0; i < N_EMBD; i++) {
        z += 0.6f * draw(100 + (uint64_t)to, (uint64_t)(expert * N_EMBD + i)) * h[i];
        u += draw(200 + (uint64_t)to, (uint64_t)(expert * N_EMBD + i)) * h[i];
    }
    return bent ? z + 2 * fabsf(u) : z;
}

static void fill(struct pg_states *s, size_t n, uint64_t stream, bool bent)
{
    *s = (struct pg_states){N_MOE, N_MOE - 1, N_EMBD, N_EXPERT, n, n, NULL, NULL};
    s->h = calloc((size_t)s->n_gate * n * N_EMBD, sizeof(*s->h));
    s->logits = calloc((size_t)s->n_moe * n * N_EXPERT, sizeof(*s->logits));
    assert_true(n == 0 || (s->h && s->logits));
    for (int gate = 0; gate < s->n_gate; gate++) {
        for (size_t t = 0; t < n; t++) {
            float h[N_EMBD];
            for (size_t i = 0; i < N_EMBD; i++) {
                uint16_t *to = pg_states_h(s, gate, t) + i;
                *to = pg_f32_to_f16(draw(stream + (uint64_t)gate, t * N_EMBD + i));
                h[i] = pg_f16_to_f32(*to);
            }
            for (int e = 0; e < N_EXPERT; e++)
                pg_states_logits(s, gate + 1, t)[e] = planted(h, gate + 1, e, bent);
        }
    }
}

struct form {
    int n_hidden, n_threads, n_rounds, n_passes;
    bool decides, sigmoid, bent;
};

/* n_second: tokens of a second stack; 0: there is none. */
static void open_stacks(struct world *w, const struct form *form, size_t n_second)
{
    static float table[N_EXPERT * N_EMBD];
    *w = (struct world){0};
    fill(&w->train[0], 1500, 1, form->bent);
    fill(&w->held[0], 300, 10, form->bent);
    fill(&w->train[1], n_second, 1, form->bent);
    fill(&w->held[1], n_second / 5, 10, form->bent);
    assert_int_equal(pg_kernels_init(&w->k, PG_CPU_AUTO, NULL), 0);
    assert_int_equal(pg_pool_open(&w->pool, form->n_threads, NULL), 0);
    struct pg_fit_options o = {
        .rule = {.n_expert = N_EXPERT, .n_used = N_USED, .sigmoid = form->sigmoid, .scale = 1},
        .n_embd = N_EMBD,
        .n_hidden = form->n_hidden,
        .stack = {{{0, N_MOE}, 1500, 0}, {{N_MOE, N_MOE}, n_second, N_REPEATS}},
        .n_stacks = n_second ? 2 : 1,
        .level = 1,
        .n_threads = form->n_threads,
        .decides = form->decides,
        .n_rounds = form->n_rounds,
        .n_passes = form->n_passes,
        .seed = 5,
        .k = &w->k,
        .pool = w->pool,
        .progress = look,
        .user = w,
    };
    struct pg_arena a = {0};
    pg_fit_carve(&w->fit, &o, &a);
    a.size = a.used + 64;
    a.base = w->memory = aligned_alloc(64, (a.size + 63) / 64 * 64);
    a.used = 0;
    assert_non_null(w->memory);
    memset(w->memory, 0, a.size);
    pg_fit_carve(&w->fit, &o, &a);
    for (int gate = 0; gate < w->fit.n_gate; gate++) {
        for (int i = 0; i < N_EXPERT * N_EMBD; i++)
            table[i] = 0.1f * draw(300, (uint64_t)i);
        pg_fit_start(&w->fit, gate, table, 0.3f);
    }
}

static void open_world(struct world *w, const struct form *form)
{
    open_stacks(w, form, 0);
}

static void close_world(struct world *w)
{
    pg_pool_close(w->pool);
    free(w->memory);
    for (int i = 0; i < 2; i++) {
        free(w->train[i].h);
        free(w->train[i].logits);
        free(w->held[i].h);
        free(w->held[i].logits);
    }
}

static void run_all(struct world *w)
{
    struct pg_err err;
    while (!pg_fit_done(&w->fit))
        must(pg_fit_round(&w->fit, w->train, w->held, &err), &err);
    pg_fit_agree(&w->fit, w->held);
}

/* ------------------------------------------------------------------ stacks ------------------ */

/* Gates of two stacks learn as each would alone: of as many tokens to the same bits; of fewer with
 * as many repeats as are asked for. */
static void test_two_stacks(void **state)
{
    static const struct form alone = {0, 1, 1, 20, false, false, false},
                             two = {0, 2, 1, 20, false, false, false};
    struct world a, b;
    (void)state;
    open_world(&a, &alone);
    pg_fit_begin(&a.fit, a.held);
    run_all(&a);
    open_stacks(&b, &two, 1500);
    assert_int_equal(b.fit.n_gate, 2 * (N_MOE - 1));
    b.fit.opt.stack[1].n_repeats = 0;
    pg_fit_begin(&b.fit, b.held);
    run_all(&b);
    for (int i = 0; i < b.fit.n_gate; i++) {
        const struct pg_fit_gate *x = &a.fit.gate[i % (N_MOE - 1)], *y = &b.fit.gate[i];
        const struct pg_fit_place at = pg_fit_place(&b.fit.opt, i);
        assert_int_equal(at.stack, i / (N_MOE - 1));
        assert_int_equal(at.moe, at.stack * N_MOE + i % (N_MOE - 1));
        assert_memory_equal(x->best, y->best, a.fit.n_values * sizeof(float));
        assert_int_equal(y->agree.block, at.moe + 1);
        assert_true(x->agree.recall == y->agree.recall && x->n_steps == y->n_steps);
    }
    close_world(&b);
    open_stacks(&b, &two, 600);
    pg_fit_begin(&b.fit, b.held);
    run_all(&b);
    for (int i = 0; i < b.fit.n_gate; i++) {
        const struct pg_fit_gate *y = &b.fit.gate[i];
        const bool second = i >= N_MOE - 1;
        const uint32_t pass = second ? N_REPEATS * 3 : 6; /* minibatches of 256 */
        assert_true(y->n_steps % pass == 0 && (y->stopped || y->n_steps == 20 * pass));
        assert_int_equal(y->agree.n_tokens, second ? 60 : 150);
        assert_true(y->agree.recall > y->before.recall + 0.02);
        if (!second)
            assert_memory_equal(a.fit.gate[i].best, y->best, a.fit.n_values * sizeof(float));
    }
    close_world(&a);
    close_world(&b);
}

/* ------------------------------------------------------------------ derivatives ------------- */

static void test_divergence(void **state)
{
    (void)state;
    for (int coins = 0; coins < 2; coins++) {
        for (uint64_t c = 0; c < 50; c++) {
            float p[N_EXPERT], z[N_EXPERT], dz[N_EXPERT], unused[N_EXPERT], sum = 0;
            for (int i = 0; i < N_EXPERT; i++) {
                p[i] = c % 5 == 0 && i < 3 ? 0 : 1 + draw(c, (uint64_t)i);
                z[i] = 5 * draw(1000 + c, (uint64_t)i);
                sum += p[i];
            }
            for (int i = 0; i < N_EXPERT; i++)
                p[i] = coins ? p[i] / 2 : p[i] / sum;
            assert_true(pg_fit_divergence(p, z, N_EXPERT, coins, dz) > -1e-6);
            for (int i = 0; i < N_EXPERT; i++) {
                float keep = z[i], up = keep + 0.01f, down = keep - 0.01f;
                z[i] = up;
                double more = pg_fit_divergence(p, z, N_EXPERT, coins, unused);
                z[i] = down;
                double less = pg_fit_divergence(p, z, N_EXPERT, coins, unused);
                z[i] = keep;
                assert_true(fabs((more - less) / (double)(up - down) - (double)dz[i]) < 1e-4);
            }
            if (!coins) { /* nothing is nearer than the aim itself */
                for (int i = 0; i < N_EXPERT; i++)
                    z[i] = logf(p[i]) + 3;
                if (c % 5)
                    assert_true(fabs(pg_fit_divergence(p, z, N_EXPERT, false, dz)) < 1e-5);
            }
        }
    }
}

/* Every value of a gate, by central differences of the loss of 200 tokens. */
static void test_gradient(void **state)
{
    static const struct form forms[] = {{5, 1, 1, 1, true, false, true},
                                        {0, 1, 1, 1, true, false, true},
                                        {5, 1, 1, 1, true, true, true},
                                        {5, 1, 1, 1, false, false, true},
                                        {5, 1, 1, 1, false, true, true}};
    (void)state;
    for (size_t i = 0; i < PG_COUNT(forms); i++) {
        struct world w;
        float values[N_VALUES_MOST], found[N_VALUES_MOST];
        open_world(&w, &forms[i]);
        const struct pg_fit_scratch *s = &w.fit.scratch[0];
        struct pg_fit_batch b = {w.train, NULL, 17, 200};
        size_t n = w.fit.n_values;
        double norm = 0, error = 0;
        assert_true(n <= N_VALUES_MOST);
        for (size_t v = 0; v < n; v++) /* also where all would be zero */
            values[v] = w.fit.gate[1].w[v] + 0.3f * draw(400, v);
        double loss = pg_fit_gradient(&w.fit, 1, values, &b, s);
        memcpy(found, s->g, n * sizeof(float));
        assert_true(pg_fit_loss(&w.fit, 1, values, &b, s) == loss);
        for (size_t v = 0; v < n; v++) {
            float keep = values[v], up = keep + 0x1p-7f, down = keep - 0x1p-7f;
            values[v] = up;
            double more = pg_fit_loss(&w.fit, 1, values, &b, s);
            values[v] = down;
            double less = pg_fit_loss(&w.fit, 1, values, &b, s);
            values[v] = keep;
            double wanted = (more - less) / (double)(up - down) / b.n;
            error += pow(wanted - (double)found[v], 2);
            norm += pow(wanted, 2);
        }
        if (!(norm > 1e-4) || sqrt(error / norm) > 1e-3)
            fail_msg("form %zu: relative error %g of %g", i, sqrt(error / norm), sqrt(norm));
        close_world(&w);
    }
}

/* What a pre-gate that hints should say of a token: half of what its router says, and half of the
 * set that it chooses. The divergence from that, in double, is the loss; a router whose sigmoids
 * are all 0 leaves the set alone. */
static void test_aim_of_hints(void **state)
{
    (void)state;
    for (int sigmoid = 0; sigmoid < 2; sigmoid++) {
        struct world w;
        open_world(&w, &(struct form){0, 1, 1, 1, false, sigmoid, true});
        const struct pg_fit_scratch *s = &w.fit.scratch[0];
        for (size_t t = 0; t < 50; t++) {
            struct pg_fit_batch b = {w.train, NULL, t, 1};
            float *z = pg_states_logits(w.train, 1, t);
            double p[N_EXPERT], sum = 0, all = 0, kl = 0;
            int first = 0, second = -1;
            for (int e = 0; e < N_EXPERT; e++)
                z[e] = sigmoid && t == 49 ? -1000 - (float)e : z[e];
            for (int e = 1; e < N_EXPERT; e++)
                first = z[e] > z[first] ? e : first;
            for (int e = 0; e < N_EXPERT; e++) {
                p[e] = sigmoid ? 1 / (1 + exp(-(double)z[e])) : exp((double)z[e]);
                sum += p[e];
                if (e != first && (second < 0 || z[e] > z[second]))
                    second = e;
            }
            double loss = pg_fit_loss(&w.fit, 0, w.fit.gate[0].w, &b, s);
            for (int e = 0; e < N_EXPERT; e++)
                all += exp((double)s->z[e]);
            for (int e = 0; e < N_EXPERT; e++) {
                bool none = sum < 1e-30;
                double set = e == first || e == second ? 0.5 : 0;
                double aim = none ? set : p[e] / sum / 2 + set / 2;
                double q = exp((double)s->z[e]) / all;
                kl += aim > 0 ? aim * log(aim / q) : 0;
                assert_true(fabs((double)s->dz[e] - (q - aim)) < 1e-5);
            }
            assert_true(fabs(loss - kl) < 1e-5);
        }
        close_world(&w);
    }
}

/* ------------------------------------------------------------------ fits -------------------- */

static void test_finds_planted(void **state)
{
    struct world w;
    (void)state;
    open_world(&w, &(struct form){0, 2, 3, 100, true, false, false});
    pg_fit_begin(&w.fit, w.held);
    run_all(&w);
    for (int i = 0; i < N_MOE - 1; i++) {
        const struct pg_fit_gate *g = &w.fit.gate[i];
        assert_true(g->first_loss > 0.1);
        assert_true(g->best_loss < g->first_loss / 30);
        assert_true(g->before.recall < 0.6);
        assert_true(g->agree.recall > 0.95 && g->agree.mass > 0.99);
        assert_true(g->agree.precision[0] > 0.97 && g->agree.precision[2] == 0);
        assert_int_equal(g->agree.block, i + 1);
        assert_int_equal(g->agree.n_tokens, 150);
    }
    close_world(&w);
}

/* Where the map bends, the hidden layer finds what the matrix cannot. */
static void test_hidden_helps(void **state)
{
    double recall[2] = {0};
    (void)state;
    for (int hidden = 0; hidden < 2; hidden++) {
        struct world w;
        open_world(&w, &(struct form){hidden ? 32 : 0, 2, 2, 120, false, false, true});
        pg_fit_begin(&w.fit, w.held);
        run_all(&w);
        recall[hidden] = (w.fit.gate[0].agree.recall + w.fit.gate[1].agree.recall) / 2;
        close_world(&w);
    }
    if (recall[1] < recall[0] + 0.05)
        fail_msg("recall %g with a hidden layer, %g without", recall[1], recall[0]);
}

static void same_fit(const struct pg_fit *a, const struct pg_fit *b)
{
    size_t bytes = a->n_values * sizeof(float);
    for (int i = 0; i < a->n_gate; i++) {
        const struct pg_fit_gate *x = &a->gate[i], *y = &b->gate[i];
        assert_memory_equal(x->w, y->w, bytes);
        assert_memory_equal(x->m, y->m, bytes);
        assert_memory_equal(x->v, y->v, bytes);
        assert_memory_equal(x->best, y->best, bytes);
        assert_memory_equal(&x->best_loss, &y->best_loss, sizeof(double));
        assert_memory_equal(&x->agree, &y->agree, sizeof(x->agree));
        assert_memory_equal(&x->before, &y->before, sizeof(x->before));
        assert_true(x->n_steps == y->n_steps && x->n_since == y->n_since);
        assert_true(x->stopped == y->stopped);
    }
}

static struct pg_distil_head head_of(const struct pg_fit *f)
{
    struct pg_distil_head h = {.model = "0123456789abcdef", .text = "fedcba9876543210"};
    h.seed = f->opt.seed;
    h.n_embd = N_EMBD;
    h.n_train = f->opt.stack[0].max_tokens;
    h.n_held = 300;
    h.n_rounds = (uint64_t)f->opt.n_rounds;
    h.n_passes = (uint64_t)f->opt.n_passes;
    h.round = (uint64_t)f->round;
    h.pass = (uint64_t)f->pass;
    h.minibatch = (uint64_t)f->minibatch;
    return h;
}

/* Two threads, and interrupted after any look at the user: the bits of one that was left alone. */
static void test_interrupted(void **state)
{
    static const struct form form = {6, 1, 2, 20, false, false, true},
                             two = {6, 2, 2, 20, false, false, true};
    struct world whole;
    char path[128];
    struct pg_err err;
    (void)state;
    open_world(&whole, &form);
    pg_fit_begin(&whole.fit, whole.held);
    run_all(&whole);
    for (int stop = 1; stop < 40; stop += stop < 3 ? 1 : 12) {
        struct world first, second;
        open_world(&first, &two);
        pg_fit_begin(&first.fit, first.held);
        first.stop_after = stop;
        int rc = 0;
        while (!rc && !pg_fit_done(&first.fit))
            rc = pg_fit_round(&first.fit, first.train, first.held, &err);
        assert_int_equal(rc, PG_ECANCELLED);
        struct pg_distil_head h = head_of(&first.fit);
        assert_int_equal(pg_distil_save(in_dir(path, "checkpoint"), &h, &first.fit, &err), 0);
        close_world(&first);
        open_world(&second, &two);
        must(pg_distil_load(path, &h, &second.fit, &err), &err);
        run_all(&second);
        same_fit(&whole.fit, &second.fit);
        close_world(&second);
    }
    close_world(&whole);
}

/* ------------------------------------------------------------------ the checkpoint ---------- */

static void refused(const char *path, const struct pg_distil_head *h, struct pg_fit *f,
                    const char *word)
{
    struct pg_err err = {0};
    int rc = pg_distil_load(path, h, f, &err);
    assert_true(rc == PG_EFORMAT || rc == PG_EARG || rc == PG_EIO);
    assert_int_equal(err.code, rc);
    assert_non_null(strstr(err.text, path));
    says(err.text, word);
}

static void test_damaged(void **state)
{
    struct world w;
    struct pg_err err;
    char path[128];
    size_t n;
    (void)state;
    open_world(&w, &(struct form){2, 1, 2, 30, false, false, false});
    pg_fit_begin(&w.fit, w.held);
    struct pg_distil_head h = head_of(&w.fit), other = h;
    refused(in_dir(path, "nowhere"), &h, &w.fit, "No such file");
    assert_int_equal(pg_distil_save(in_dir(path, "damaged"), &h, &w.fit, &err), 0);
    assert_int_equal(pg_distil_load(path, &h, &w.fit, &err), 0);
    char *bytes = whole_file(path, &n), *copy = malloc(n + 1);
    assert_non_null(copy);
    for (size_t at = 0; at < n; at += at < 256 ? 7 : n / 40) { /* shorter */
        put_file(path, bytes, at);
        refused(path, &h, &w.fit, "wanted");
    }
    memcpy(copy, bytes, n);
    copy[n] = 0;
    put_file(path, copy, n + 1); /* longer */
    refused(path, &h, &w.fit, "bytes found");
    for (size_t at = 0; at < n; at += at < 256 ? 5 : n / 60) { /* a bit is wrong */
        memcpy(copy, bytes, n);
        copy[at] ^= 0x10;
        put_file(path, copy, n);
        refused(path, &h, &w.fit, "");
    }
    put_file(path, bytes, n);
    other.seed++;
    refused(path, &other, &w.fit, "seed: 5 found, 6 wanted");
    other = h;
    other.model[3] = 'x';
    refused(path, &other, &w.fit, "another model");
    other = h;
    other.text[0] = 'x';
    refused(path, &other, &w.fit, "another text");
    other = h;
    other.n_passes = 7;
    refused(path, &other, &w.fit, "n_passes: 30 found, 7 wanted");
    assert_int_equal(pg_distil_load(path, &h, &w.fit, &err), 0);
    for (int i = 0; i < 3; i++) { /* places that are none */
        struct pg_distil_head far = h;
        (i == 0 ? &far.round : i == 1 ? &far.pass : &far.minibatch)[0] = i == 1 ? 30 : 99;
        assert_int_equal(pg_distil_save(path, &far, &w.fit, &err), 0);
        refused(path, &h, &w.fit, "at most");
    }
    w.fit.gate[1].best[3] = NAN;
    assert_int_equal(pg_distil_save(path, &h, &w.fit, &err), 0);
    refused(path, &h, &w.fit, "not finite");
    free(bytes);
    free(copy);
    close_world(&w);
}

/* ------------------------------------------------------------------ text -------------------- */

enum { N_PAIRS = 40 };

/* Documents of three pairs, of sources of 3 to 22 tokens and targets of 2 to 8. */
static void make_pairs(struct pg_distil_text *text)
{
    *text = (struct pg_distil_text){.bos = -1};
    text->stack[0].learns = text->stack[1].learns = true;
    text->pairs.at = calloc(N_PAIRS, sizeof(struct pg_pair));
    assert_non_null(text->pairs.at);
    for (int i = 0; i < N_PAIRS; i++) {
        struct pg_pair *p = &text->pairs.at[i];
        *p = (struct pg_pair){.source = text->pairs.n_tokens,
                              .n_source = 3 + i * 7 % 20,
                              .n_target = 2 + i * 5 % 7,
                              .doc = i / 3 + i / 20 * 2}; /* the eighth has none */
        text->pairs.n_tokens += (size_t)(p->n_source + p->n_target);
    }
    text->pairs.n = N_PAIRS;
    text->pairs.n_docs = 16;
}

/* Whole documents are held out; rounds hold what the buffers of both stacks do; all of it is in one
 * where there is room. */
static void test_pair(void **state)
{
    struct pg_distil_text text;
    struct pg_err err;
    (void)state;
    for (uint64_t seed = 0; seed < 20; seed++) {
        int held[N_PAIRS] = {0}, seen = 0;
        uint64_t sum[2] = {0};
        make_pairs(&text);
        struct pg_distil_split how = {100000, 32, 0.3f, seed};
        must(pg_distil_pair(&text, &how, &err), &err);
        assert_int_equal(text.n, N_PAIRS);
        assert_int_equal(text.most, 0);
        for (int i = 0; i < text.n; i++) {
            const struct pg_pair *p = &text.pairs.at[i];
            held[p->doc] |= i < text.n_held ? 1 : 2;
            sum[0] += i < text.n_held ? 0 : (uint64_t)p->n_source;
            sum[1] += i < text.n_held ? 0 : (uint64_t)p->n_target;
        }
        for (int i = 0; i < N_PAIRS; i++) {
            assert_true(held[i] < 3);
            seen += held[i] == 1;
        }
        assert_int_equal(seen, 5); /* of 15 documents */
        assert_int_equal(text.n_train_tokens, sum[0]);
        assert_int_equal(text.stack[1].n_train, sum[1]);
        assert_int_equal(pg_distil_round_end(&text, text.n_held, text.n_train_tokens), text.n);
        for (int end = text.n_held; end < text.n;) {
            int first = end;
            uint64_t n[2] = {0};
            end = pg_distil_round_end(&text, first, 60);
            for (int i = first; i < end; i++) {
                n[0] += (uint64_t)text.pairs.at[i].n_source;
                n[1] += (uint64_t)text.pairs.at[i].n_target;
            }
            assert_true(end > first && n[0] <= 60 && n[1] <= pg_distil_cap(&text, 1, 60));
        }
        pg_distil_text_close(&text);
    }
}

/* Of one document the first pairs are held out, and no more is taken than is asked for. */
static void test_pair_little(void **state)
{
    struct pg_distil_text text;
    struct pg_err err;
    (void)state;
    make_pairs(&text);
    for (int i = 0; i < N_PAIRS; i++)
        text.pairs.at[i].doc = 5;
    struct pg_distil_split how = {200, 32, 0.2f, 3};
    must(pg_distil_pair(&text, &how, &err), &err);
    assert_true(text.n < N_PAIRS && text.pairs.n_tokens <= 200);
    assert_int_equal(pg_distil_count(&text, 0, text.n), text.pairs.n_tokens);
    assert_int_equal(text.n_held, (text.n + 2) / 5);
    assert_int_equal(text.pairs.at[0].source, 0);
    pg_distil_text_close(&text);
    make_pairs(&text);
    text.pairs.n = 1;
    assert_int_equal(pg_distil_pair(&text, &how, &err), PG_EARG);
    says(err.text, "two documents");
    pg_distil_text_close(&text);
}

/* Documents of these numbers of tokens; document i's tokens are 1000 i + 1, … after a 0. */
static void make_docs(struct pg_distil_text *text, const int *lengths, int n)
{
    size_t sum = 0, at = 0;
    *text = (struct pg_distil_text){.bos = 0};
    for (int i = 0; i < n; i++)
        sum += (size_t)lengths[i];
    text->docs.token = calloc(sum, sizeof(int32_t));
    text->docs.first = calloc((size_t)n + 1, sizeof(size_t));
    assert_true(text->docs.token && text->docs.first);
    text->docs.n = n;
    for (int i = 0; i < n; i++) {
        for (int j = 0; j < lengths[i]; j++, at++)
            text->docs.token[at] = j ? 1000 * i + j : 0;
        text->docs.first[i + 1] = at;
    }
}

static void test_cut(void **state)
{
    static const int lengths[] = {5, 30, 12, 8, 1, 25, 10, 10, 40, 9};
    struct pg_distil_text text;
    struct pg_err err;
    (void)state;
    for (uint64_t seed = 0; seed < 20; seed++) {
        int held[PG_COUNT(lengths)] = {0}, taken[PG_COUNT(lengths)] = {0}, n_held = 0;
        make_docs(&text, lengths, PG_COUNT(lengths));
        struct pg_distil_split how = {1000, 12, 0.3f, seed};
        assert_int_equal(pg_distil_cut(&text, &how, &err), 0);
        for (int i = 0; i < text.pieces.n; i++) {
            const struct pg_piece *p = &text.pieces.at[i];
            size_t doc = 0;
            while (text.docs.first[doc + 1] <= p->from)
                doc++;
            assert_true(p->n >= 1 && p->n <= 12);
            assert_int_equal(p->opened, p->from != text.docs.first[doc]);
            taken[doc] += p->n - p->opened;
            held[doc] |= i < text.n_held ? 1 : 2;
        }
        for (size_t i = 0; i < PG_COUNT(lengths); i++) {
            assert_int_equal(taken[i], lengths[i]);
            assert_true(held[i] == 1 || held[i] == 2); /* whole documents */
            n_held += held[i] == 1;
        }
        assert_int_equal(n_held, 3);
        assert_int_equal(text.pieces.longest, 12);
        int end = text.n_held, n = 0;
        for (; end < text.pieces.n; n++) { /* rounds of 24 tokens */
            int first = end;
            size_t tokens = 0;
            end = pg_distil_round_end(&text, first, 24);
            for (int i = first; i < end; i++)
                tokens += (size_t)text.pieces.at[i].n;
            assert_true(end > first && tokens <= 24);
            assert_true(end == text.pieces.n || tokens + (size_t)text.pieces.at[end].n > 24);
        }
        assert_true(n >= (int)(text.n_train_tokens / 24));
        pg_distil_text_close(&text);
    }
}

static void test_cut_little(void **state)
{
    struct pg_distil_text text;
    struct pg_err err;
    (void)state;
    make_docs(&text, (const int[]){100}, 1); /* a single document, held out from its beginning */
    struct pg_distil_split how = {60, 10, 0.2f, 3};
    assert_int_equal(pg_distil_cut(&text, &how, &err), 0);
    assert_int_equal(text.n_held, 1);
    assert_int_equal(text.n_held_tokens + text.n_train_tokens, 60);
    assert_int_equal(text.pieces.at[0].from, 0);
    pg_distil_text_close(&text);
    make_docs(&text, (const int[]){9}, 1);
    assert_int_equal(pg_distil_cut(&text, &how, &err), PG_EARG);
    assert_non_null(strstr(err.text, "two documents"));
    pg_distil_text_close(&text);
    make_docs(&text, (const int[]){50, 50}, 2); /* what is held out takes all that may be run */
    how.n_tokens = 50;
    how.n_ctx = 50;
    assert_int_equal(pg_distil_cut(&text, &how, &err), PG_EARG);
    pg_distil_text_close(&text);
}

/* A file that is read in many parts, separators and ends of lines at all distances from where a
 * part ends, is the documents that were written. */
static void test_docs(void **state)
{
    enum { N = 1200 };
    pg_vocab *vocab;
    struct pg_docs docs;
    struct pg_err err;
    char path[128], text[8192];
    int32_t ids[8192];
    (void)state;
    assert_int_equal(pg_vocab_open(&vocab, MODEL, &err), 0);
    FILE *f = fopen(in_dir(path, "docs.txt"), "wb");
    assert_non_null(f);
    for (int pass = 0; pass < 2; pass++) {
        for (uint64_t i = 0; i < N; i++) {
            int n = 0, n_words = 1 + (int)(pg_random_at(1, 1, i) % 1500);
            for (int j = 0; j < n_words; j++) {
                n += snprintf(text + n, sizeof(text) - (size_t)n, "%s",
                              j % 9   ? "dog"
                              : j % 2 ? "a\n"
                                      : "x <|endoftext|> ");
            }
            while (text[n - 1] == '\n' || text[n - 1] == ' ')
                n--;
            if (pass == 0) {
                assert_int_equal(fwrite(text, 1, (size_t)n, f), n);
                fputs(i + 1 == N ? "" : i % 3 ? "\n<|endoftext|>\n" : "\r\n<|endoftext|>\r\n\n", f);
                continue;
            }
            struct pg_ids out = {ids, PG_COUNT(ids), 0};
            size_t from = docs.first[i], found = docs.first[i + 1] - from;
            must(pg_tokenize(vocab, text, (size_t)n, PG_TOKENIZE_BOS, &out, &err), &err);
            assert_int_equal(found, out.n);
            assert_memory_equal(docs.token + from, ids, out.n * sizeof(int32_t));
        }
        if (pass == 0) {
            assert_true(ftell(f) > 2 << 20);
            assert_int_equal(fclose(f), 0);
            struct pg_docs_options o = {vocab, (const char *const[]){path}, 1, false, 0};
            assert_int_equal(pg_docs_open(&docs, &o, &err), 0);
            assert_int_equal(docs.n, N);
        }
    }
    pg_docs_close(&docs);
    /* A bound on the tokens ends the reading, and cuts a document that is more than all. */
    memset(text, 'a', sizeof(text));
    f = fopen(path, "wb");
    assert_non_null(f);
    for (int i = 0; i < 400; i++)
        assert_int_equal(fwrite(text, 1, sizeof(text), f), sizeof(text));
    assert_int_equal(fclose(f), 0);
    struct pg_docs_options few = {vocab, (const char *const[]){path}, 1, false, 1000};
    assert_int_equal(pg_docs_open(&docs, &few, &err), 0);
    assert_int_equal(docs.n, 1);
    assert_true(docs.first[1] >= 1000);
    pg_docs_close(&docs);
    pg_vocab_close(vocab);
}

/* ------------------------------------------------------------------ memory ------------------ */

static void begin_engine(struct pg_engine *e, uint64_t bytes, int n_ctx)
{
    struct pg_options opt = {PG_OPTIONS_INIT,       .model = MODEL, .mode = PG_MODE_ONDEMAND,
                             .memory_bytes = bytes, .n_ctx = n_ctx, .n_threads = 2};
    struct pg_err err;
    must(pg_engine_begin(e, &opt, &err), &err);
}

/* From the least budget up: parts sum to no more than the budget, buffers hold the longest piece,
 * more memory holds no fewer tokens, and with enough the model is whole in memory. */
static void test_divide(void **state)
{
    enum { N_DOCS = 60, N_CTX = 64 };
    static int lengths[N_DOCS];
    struct pg_distil_text text;
    struct pg_err err;
    uint64_t minimum = 0;
    size_t before = 0;
    (void)state;
    for (int i = 0; i < N_DOCS; i++)
        lengths[i] = 200;
    make_docs(&text, lengths, N_DOCS);
    struct pg_distil_split how = {100000, N_CTX, 0.1f, 1};
    assert_int_equal(pg_distil_cut(&text, &how, &err), 0);
    for (uint64_t more = 0; more < 200 << 20; more = more ? 2 * more : 1 << 20) {
        uint64_t bytes = pg_os_held() + more; /* what this program takes itself is no part of it */
        struct pg_engine *e = calloc(1, sizeof(*e));
        begin_engine(e, bytes, N_CTX);
        struct pg_states shape = {6, 5, 128, 16, 0, 0, NULL, NULL};
        struct pg_distil_memory m = {.fit_bytes = 1 << 20};
        int rc = pg_distil_divide(&m, e, &text, &shape, &err);
        if (rc) {
            assert_int_equal(rc, PG_EBUDGET);
            assert_int_equal(before, 0);
            double named;
            assert_int_equal(sscanf(strstr(err.text, "minimum is"), "minimum is %lf", &named), 1);
            minimum = (uint64_t)(named * (1 << 20));
            assert_true(minimum > bytes);
        } else {
            assert_true(bytes >= minimum);
            assert_true(m.engine_bytes + m.fit_bytes + m.state_bytes <= bytes);
            assert_int_equal(m.state_bytes, pg_states_bytes(&shape, m.n_train + m.n_held));
            assert_true(m.n_train >= N_CTX && m.n_held >= N_CTX);
            assert_true(m.n_train <= text.n_train_tokens && m.n_held <= text.n_held_tokens);
            assert_true(m.n_train + m.n_held >= before);
            assert_true(m.n_sessions >= 1 && m.n_batch >= 1);
            before = m.n_train + m.n_held;
            if (more > 100 << 20)
                assert_int_equal(m.mode, PG_MODE_RESIDENT);
        }
        pg_engine_close(e);
    }
    assert_true(minimum > 0);
    assert_int_equal(before, text.n_train_tokens + text.n_held_tokens);
    pg_distil_text_close(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_divergence),   cmocka_unit_test(test_gradient),
        cmocka_unit_test(test_aim_of_hints), cmocka_unit_test(test_finds_planted),
        cmocka_unit_test(test_hidden_helps), cmocka_unit_test(test_interrupted),
        cmocka_unit_test(test_damaged),      cmocka_unit_test(test_cut),
        cmocka_unit_test(test_cut_little),   cmocka_unit_test(test_docs),
        cmocka_unit_test(test_divide),       cmocka_unit_test(test_two_stacks),
        cmocka_unit_test(test_pair),         cmocka_unit_test(test_pair_little),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
