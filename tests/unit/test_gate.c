/* SPDX-License-Identifier: MIT
 * The routing rule against a float64 computation, over random logits and over those made to hurt
 * (ties, extremes, numbers that are not finite), with the same bits at every kernel level that this
 * machine has; and the folding of a router into a pre-gate.
 */
#include "helpers.h"

#include "../sim/sim_world.h"
#include "gate/agreement.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_EXPERT = 260, N_LEVELS = 8 };

static struct pg_kernels table[N_LEVELS]; /* the reference first */
static int n_tables;
static uint64_t random_state = 20;

static int open_levels(void **state)
{
    static const enum pg_cpu_level levels[] = {PG_CPU_AVX2, PG_CPU_AVX512, PG_CPU_NEON};
    (void)state;
    pg_kernels_ref(&table[n_tables++]);
    for (size_t i = 0; i < PG_COUNT(levels); i++) {
        struct pg_err err;
        int rc = pg_kernels_init(&table[n_tables], levels[i], &err);
        if (rc == PG_ENOTSUP)
            say_skipped("levels", "%s", err.text);
        else
            must(rc, &err);
        n_tables += !rc;
    }
    return 0;
}

static double uniform(void) /* [0, 1) */
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (double)(random_state >> 11) * 0x1p-53;
}

static int any_below(int n)
{
    return (int)(uniform() * n);
}

struct chosen {
    int32_t id[MAX_EXPERT];
    float weight[MAX_EXPERT];
};

/* Applies the rule at one level; logits stay as they are, and nothing behind n_used is written. */
static bool apply(const struct pg_gate_rule *rule, const struct pg_kernels *k, const float *logits,
                  struct chosen *out)
{
    float own[MAX_EXPERT];
    memcpy(own, logits, (size_t)rule->n_expert * sizeof(float));
    memset(out, 0x5a, sizeof(*out));
    bool ok = pg_gate_rule_apply(rule, k, own, out->id, out->weight);
    for (int i = rule->n_used; i < MAX_EXPERT; i++) {
        assert_int_equal(out->id[i], 0x5a5a5a5a);
        assert_memory_equal(&out->weight[i], &out->id[i], sizeof(float));
    }
    return ok;
}

static bool weigh(const struct pg_gate_rule *rule, const struct pg_kernels *k, const float *logits,
                  const int32_t *id, float *weight)
{
    float own[MAX_EXPERT];
    memcpy(own, logits, (size_t)rule->n_expert * sizeof(float));
    return pg_gate_rule_weigh(rule, k, own, id, weight);
}

/* ------------------------------------------------------------------ in float64 -------------- */

struct by_logit {
    float logit;
    int id;
};

static int compare(const void *a, const void *b)
{
    const struct by_logit *x = a, *y = b;
    return x->logit != y->logit ? (x->logit < y->logit ? 1 : -1) : x->id - y->id;
}

static void weights_of(const struct pg_gate_rule *rule, const float *logits, const int32_t *id,
                       double *weight)
{
    double max = -HUGE_VAL, all = 0, sum = 0;
    for (int i = 0; i < rule->n_expert; i++)
        max = fmax(max, (double)logits[i]);
    for (int i = 0; i < rule->n_expert; i++)
        all += exp((double)logits[i] - max);
    for (int i = 0; i < rule->n_used; i++) {
        double x = (double)logits[id[i]];
        weight[i] = rule->sigmoid ? 1 / (1 + exp(-x)) : exp(x - max) / all;
        sum += weight[i];
    }
    for (int i = 0; i < rule->n_used; i++)
        weight[i] *= (double)rule->scale / (rule->renormalise ? sum : 1);
}

/* What the reference level chose is what float64 chooses, and every level gives its bits. */
static void check(const struct pg_gate_rule *rule, const float *logits, double tolerance)
{
    struct chosen ref, other;
    struct by_logit order[MAX_EXPERT];
    double want[MAX_EXPERT];
    assert_true(apply(rule, &table[0], logits, &ref));
    for (int i = 0; i < rule->n_expert; i++)
        order[i] = (struct by_logit){logits[i], i};
    qsort(order, (size_t)rule->n_expert, sizeof(*order), compare);
    weights_of(rule, logits, ref.id, want);
    for (int i = 0; i < rule->n_used; i++) {
        assert_int_equal(ref.id[i], order[i].id);
        if (!(fabs((double)ref.weight[i] - want[i]) <= tolerance * fabs(want[i]) + 1e-36)) {
            fail_msg("weight %d of %d experts: %.9g, in float64 %.9g", i, rule->n_expert,
                     (double)ref.weight[i], want[i]);
        }
    }
    for (int k = 0; k < n_tables; k++) {
        assert_true(apply(rule, &table[k], logits, &other));
        assert_memory_equal(&other, &ref, sizeof(ref));
        /* The ids that were chosen, given from outside, weigh the same. */
        assert_true(weigh(rule, &table[k], logits, ref.id, other.weight));
        assert_memory_equal(other.weight, ref.weight, (size_t)rule->n_used * sizeof(float));
    }
}

/* ------------------------------------------------------------------ the rule ---------------- */

static void test_order(void **state)
{
    static const float logits[] = {1, 3, -2, 3, 0, 3, 2, 1};
    static const int32_t wanted[] = {1, 3, 5, 6, 0, 7, 4, 2};
    (void)state;
    for (int n_used = 1; n_used <= 8; n_used++) {
        struct pg_gate_rule rule = {8, n_used, false, false, 1};
        struct chosen got;
        assert_true(apply(&rule, &table[0], logits, &got));
        assert_memory_equal(got.id, wanted, (size_t)n_used * sizeof(int32_t));
        check(&rule, logits, 1e-6);
    }
}

/* Values from a small set, so that most are tied, or from a normal-like range. */
static void fill(float *logits, int n)
{
    bool tied = any_below(2);
    float size = (float)(1 << any_below(5));
    for (int i = 0; i < n; i++)
        logits[i] = tied ? (float)any_below(4) - 2 : size * ((float)uniform() - 0.5f);
}

static void test_random(void **state)
{
    float logits[MAX_EXPERT];
    (void)state;
    for (int round = 0; round < 3000; round++) {
        int n = 1 + any_below(round % 8 ? 40 : MAX_EXPERT);
        int n_used = round % 5 == 0 ? 1 : round % 5 == 1 ? n : 1 + any_below(n);
        struct pg_gate_rule rule = {n, n_used, any_below(2), any_below(2),
                                    round % 3 ? 1.0f : 2.5f * (float)uniform() + 0.1f};
        fill(logits, n);
        check(&rule, logits, 4e-6);
    }
}

static void test_renormalised_sums_to_scale(void **state)
{
    float logits[64];
    (void)state;
    for (int sigmoid = 0; sigmoid < 2; sigmoid++) {
        for (int n_used = 1; n_used <= 64; n_used++) {
            struct pg_gate_rule rule = {64, n_used, sigmoid, true, 1.75f};
            struct chosen got;
            double sum = 0;
            fill(logits, 64);
            assert_true(apply(&rule, &table[0], logits, &got));
            for (int i = 0; i < n_used; i++)
                sum += (double)got.weight[i];
            assert_true(fabs(sum - 1.75) < 1e-5);
        }
    }
}

/* One loud expert makes the others' probabilities vanish; all quiet ones make every sigmoid tiny.
 * Weights stay finite, not negative and at most the scale. */
static void test_extremes(void **state)
{
    static const float levels[] = {FLT_MAX, -FLT_MAX, 1e30f, -1e30f, 100, -100, -88, -104, -95, 0};
    (void)state;
    for (int round = 0; round < 4000; round++) {
        float logits[16], weight[16];
        int32_t given[16];
        struct chosen got;
        struct pg_gate_rule rule = {16, 1 + any_below(16), any_below(2), any_below(2), 2.5f};
        float quiet = levels[any_below(PG_COUNT(levels))];
        float loud = levels[any_below(PG_COUNT(levels))];
        for (int i = 0; i < 16; i++) {
            logits[i] = any_below(8) ? quiet : loud;
            given[i] = 15 - i;
        }
        assert_true(apply(&rule, &table[0], logits, &got));
        assert_true(weigh(&rule, &table[0], logits, given, weight));
        for (int i = 0; i < rule.n_used; i++) {
            const float both[] = {got.weight[i], weight[i]};
            for (int j = 0; j < 2; j++) {
                if (!(both[j] >= 0 && both[j] <= 2.5001f)) {
                    fail_msg("%s, quiet %g, loud %g, %d used, renormalise %d: weight %g",
                             rule.sigmoid ? "sigmoid" : "softmax", (double)quiet, (double)loud,
                             rule.n_used, rule.renormalise, (double)both[j]);
                }
            }
        }
    }
}

static void test_not_finite(void **state)
{
    static const float bad[] = {NAN, -NAN, INFINITY, -INFINITY};
    (void)state;
    for (int n = 1; n <= 33; n++) {
        for (int at = 0; at < n; at++) {
            for (int i = 0; i < 16; i++) {
                float logits[33], weight[33];
                int32_t id[33] = {0};
                struct chosen got;
                struct pg_gate_rule rule = {n, i & 4 ? n : 1, i & 8, true, 1};
                fill(logits, n);
                logits[at] = bad[i % 4];
                if (at > 0 && uniform() < 0.5) /* infinities of two signs do not cancel */
                    logits[0] = -bad[i % 4];
                for (int k = 0; k < n_tables; k++) {
                    assert_false(apply(&rule, &table[k], logits, &got));
                    assert_false(weigh(&rule, &table[k], logits, id, weight));
                }
            }
        }
    }
}

/* The router's word is not needed for ids that are given: any may be weighed, in any order. */
static void test_weigh_given(void **state)
{
    (void)state;
    for (int round = 0; round < 500; round++) {
        float logits[24], weight[24];
        double want[24];
        int32_t id[24];
        int n_used = 1 + any_below(24);
        struct pg_gate_rule rule = {24, n_used, any_below(2), any_below(2), 1.5f};
        fill(logits, 24);
        for (int i = 0; i < 24; i++) {
            int other = any_below(i + 1);
            id[i] = i;
            id[i] = id[other];
            id[other] = i;
        }
        assert_true(weigh(&rule, &table[0], logits, id, weight));
        weights_of(&rule, logits, id, want);
        for (int i = 0; i < n_used; i++)
            assert_true(fabs((double)weight[i] - want[i]) <= 4e-6 * want[i]);
    }
}

/* ------------------------------------------------------------------ folding ----------------- */

enum { N_IN = 64, N_OUT = 3 };

/* The router's rows in `type`, and what these bytes mean. */
static struct pg_weight make_router(enum pg_type type, void *data, float *means)
{
    float *f32 = data;
    uint16_t *f16 = data;
    for (int i = 0; i < N_IN * N_OUT; i++) {
        float x = (float)uniform() * 4 - 2;
        if (type == PG_TYPE_F32) {
            f32[i] = means[i] = x;
        } else {
            f16[i] = type == PG_TYPE_F16 ? pg_f32_to_f16(x) : pg_f32_to_bf16(x);
            means[i] = type == PG_TYPE_F16 ? pg_f16_to_f32(f16[i]) : pg_bf16_to_f32(f16[i]);
        }
    }
    return (struct pg_weight){type, N_IN, N_OUT, data};
}

static void test_fold(void **state)
{
    static const enum pg_type types[] = {PG_TYPE_F32, PG_TYPE_F16, PG_TYPE_BF16};
    (void)state;
    for (size_t type = 0; type < PG_COUNT(types); type++) {
        float data[N_IN * N_OUT], means[N_IN * N_OUT], out[N_IN * N_OUT], from[N_IN], to[N_IN];
        struct pg_weight router = make_router(types[type], data, means);
        for (int i = 0; i < N_IN; i++) {
            from[i] = (float)uniform() + 0.25f;
            to[i] = (float)uniform() - 0.25f;
        }
        from[5] = 0;            /* x / 0 */
        from[9] = to[9] = 0;    /* 0 / 0 */
        from[11] = -0.0f;       /* the input is zero whatever its sign */
        from[13] = FLT_MIN / 4; /* a ratio that overflows */
        to[13] = 3;
        to[17] = 0;
        pg_gate_fold(&router, from, to, out);
        for (int i = 0; i < N_IN * N_OUT; i++) {
            int in = i % N_IN;
            bool zero = in == 5 || in == 9 || in == 11 || in == 13 || in == 17;
            double want = zero ? 0 : (double)means[i] * (double)to[in] / (double)from[in];
            if (!(fabs((double)out[i] - want) <= 2e-7 * fabs(want)))
                fail_msg("row %d, input %d: %.9g, wanted %.9g", i / N_IN, in, (double)out[i], want);
        }
    }
}

/* With its own gains a router stays what it is. */
static void test_fold_same_gain(void **state)
{
    float data[N_IN * N_OUT], means[N_IN * N_OUT], out[N_IN * N_OUT], gain[N_IN];
    struct pg_weight router = make_router(PG_TYPE_F16, data, means);
    (void)state;
    for (int i = 0; i < N_IN; i++)
        gain[i] = (float)uniform() + 0.01f;
    pg_gate_fold(&router, gain, gain, out);
    assert_memory_equal(out, means, sizeof(out));
}

/* ------------------------------------------------------------------ deciding ---------------- */

/* A router with all the parts that a pre-gate may have decides as computed by hand. Input (2, 3):
 *
 *   inp h                                    (2, 3, 5, -1)
 *   + bias (0, 4, -1, 0.5)                   (2, 7, 4, -0.5)
 *   + up silu(h1 + h2 - 5 = 0)               the same: silu(0) = 0
 *   or, with a down bias of 95: silu(100) = 100, up (0.1, -0.1, 0, 0)   (12, -3, 4, -0.5) */
static void test_router_with_bias(void **state)
{
    static const float h[64] = {2, 3};
    static const float bias[] = {0, 4, -1, 0.5f}, up[] = {0.1f, -0.1f, 0, 0}, low = -5, high = 95;
    static float inp[4 * 64], down[64] = {1, 1};
    static _Alignas(64) char room[1 << 16];
    static const struct {
        bool bias, hidden;
        const float *down_bias;
        int32_t id[2];
        float logit[2];
    } cases[] = {
        {false, false, NULL, {2, 1}, {5, 3}},
        {true, false, NULL, {1, 2}, {7, 4}},
        {true, true, &low, {1, 2}, {7, 4}},
        {true, true, &high, {0, 2}, {12, 4}},
    };
    (void)state;
    inp[0] = inp[64 + 1] = inp[2 * 64] = inp[2 * 64 + 1] = inp[3 * 64] = 1;
    inp[3 * 64 + 1] = -1;
    for (int level = 0; level < n_tables; level++) {
        struct pg_compute c = {.k = table[level]};
        assert_int_equal(pg_pool_open(&c.pool, 1, NULL), 0);
        for (size_t i = 0; i < PG_COUNT(cases); i++) {
            struct pg_arena a = {room, sizeof(room), 0};
            struct pg_pregate router = {.inp = {PG_TYPE_F32, 64, 4, inp}};
            struct pg_gate_options opt = {.mode = PG_MODE_ONDEMAND,
                                          .rule = {4, 2, true, false, 1},
                                          .n_block = 1,
                                          .stack = &(struct pg_span){0, 1},
                                          .n_stack = 1,
                                          .max_tok = 1,
                                          .n_hidden = cases[i].hidden,
                                          .routers = &router,
                                          .compute = &c};
            const struct pg_route *route;
            struct pg_input in;
            struct pg_gate g;
            if (cases[i].bias)
                router.bias = (struct pg_weight){PG_TYPE_F32, 4, 1, bias};
            if (cases[i].hidden) {
                router.down = (struct pg_weight){PG_TYPE_F32, 64, 1, down};
                router.down_bias = (struct pg_weight){PG_TYPE_F32, 1, 1, cases[i].down_bias};
                router.up = (struct pg_weight){PG_TYPE_F32, 1, 4, up};
            }
            pg_gate_init(&g, &opt, &a);
            pg_input_carve(&in, &a, 64, 1);
            pg_input_set(&in, h, 64, 1);
            assert_int_equal(pg_gate_decide(&g, 0, &in, &(int32_t){0}, &route, NULL), 0);
            assert_memory_equal(route->id, cases[i].id, sizeof(cases[i].id));
            for (int j = 0; j < 2; j++) {
                double want = 1 / (1 + exp(-(double)cases[i].logit[j]));
                assert_true(fabs((double)route->weight[j] - want) < 1e-6);
            }
        }
        pg_pool_close(c.pool);
    }
}

/* Two blocks of four experts, with a slot for each. */
static const struct world_options two_blocks = {.n_block = 2,
                                                .n_expert = 4,
                                                .n_slots = 8,
                                                .slab_bytes = 100,
                                                .hints = PG_HINTS_ON,
                                                .sim = {.seed = 1}};

/* The pre-gate of block 0 chooses experts 0 and 3 for block 1, with probabilities 0.7 and 0.2; the
 * router there would choose 0 and 1, and says 0.5, 0.26, 0.2, 0.04. */
static void test_who_weighs(void **state)
{
    enum { N_EXPERT = 4, N_EMBD = 64 };
    static const struct {
        enum pg_gate_kind weigher;
        bool renormalise;
        double weight[2];
    } cases[] = {
        {PG_GATE_ROUTER, true, {0.5 / 0.76, 0.04 / 0.76}},
        {PG_GATE_ROUTER, false, {0.5, 0.04}},
        {PG_GATE_PREGATE, true, {0.7 / 0.9, 0.2 / 0.9}},
        {PG_GATE_PREGATE, false, {0.7, 0.2}},
    };
    static const double early[N_EXPERT] = {0.7, 0.06, 0.04, 0.2},
                        late[N_EXPERT] = {0.5, 0.26, 0.2, 0.04};
    static float inp[N_EXPERT * N_EMBD], h[2][N_EMBD];
    static _Alignas(64) char room[1 << 16];
    const int32_t pos = 0;
    struct pg_compute c = {.k = table[0]};
    (void)state;
    assert_int_equal(pg_pool_open(&c.pool, 1, NULL), 0);
    for (int e = 0; e < N_EXPERT; e++) { /* states are their logits */
        inp[e * N_EMBD + e] = 1;
        h[0][e] = (float)log(early[e]);
        h[1][e] = (float)log(late[e]);
    }
    for (size_t i = 0; i < PG_COUNT(cases); i++) {
        struct world w;
        struct pg_arena a = {room, sizeof(room), 0};
        const struct pg_pregate map = {.inp = {PG_TYPE_F32, N_EMBD, N_EXPERT, inp}};
        const struct pg_pregate routers[2] = {map, map}, pregates[2] = {map};
        const struct pg_route *route;
        struct pg_gate g;
        struct pg_input in;
        world_open(&w, &two_blocks);
        struct pg_gate_options opt = {.mode = PG_MODE_PREGATE,
                                      .rule = {N_EXPERT, 2, false, cases[i].renormalise, 1},
                                      .weigher = cases[i].weigher,
                                      .n_block = 2,
                                      .stack = &(struct pg_span){0, 2},
                                      .n_stack = 1,
                                      .level = 1,
                                      .max_tok = 1,
                                      .routers = routers,
                                      .pregates = pregates,
                                      .store = w.store,
                                      .compute = &c};
        pg_gate_init(&g, &opt, &a);
        pg_input_carve(&in, &a, N_EMBD, 1);
        pg_input_set(&in, h[0], N_EMBD, 1);
        assert_int_equal(pg_gate_decide(&g, 0, &in, &pos, &route, NULL), 0);
        assert_int_equal(pg_gate_hint(&g, 0, &in, &pos, NULL), 0);
        pg_input_set(&in, h[1], N_EMBD, 1);
        assert_int_equal(pg_gate_decide(&g, 1, &in, &pos, &route, NULL), 0);
        assert_memory_equal(route->id, ((const int32_t[]){0, 3}), 2 * sizeof(int32_t));
        for (int j = 0; j < 2; j++)
            assert_true(fabs((double)route->weight[j] - cases[i].weight[j]) < 1e-6);
        h[1][2] = NAN; /* a router that says nothing is noticed where it is asked */
        pg_input_set(&in, h[1], N_EMBD, 1);
        assert_int_equal(pg_gate_decide(&g, 1, &in, &pos, &route, NULL),
                         cases[i].weigher == PG_GATE_ROUTER ? PG_ENUMERIC : 0);
        h[1][2] = (float)log(late[2]);
        pg_store_drain(w.store);
        world_close(&w);
    }
    pg_pool_close(c.pool);
}

/* ------------------------------------------------------------------ agreement --------------- */

/* Two tokens by hand: the router chooses 2, 0 with p 1/2, 1/4; then 1, 3 with p 3/8, 3/8. */
static void test_agreement(void **state)
{
    static const struct pg_gate_rule rule = {4, 2, false, false, 1};
    static const float p[2][4] = {{0.25f, 0.125f, 0.5f, 0.125f}, {0.125f, 0.375f, 0.125f, 0.375f}};
    static const int32_t chosen[2][2] = {{2, 0}, {1, 3}}, named[2][3] = {{0, 3, 2}, {3, 1, 0}};
    struct pg_agreement a = {0};
    float weight[2], spoilt[4] = {1, 2, NAN, 3}, fine[4] = {1, 2, 0, 3};
    int32_t id[2];
    (void)state;
    struct pg_agree_block none = pg_agreement_of(&a, 3, 2);
    assert_true(none.block == 3 && none.n_tokens == 0 && none.recall == 0 && none.mass == 0);
    for (int t = 0; t < 2; t++)
        pg_agreement_add(&a, p[t], (struct pg_named){chosen[t], 2}, (struct pg_named){named[t], 2});
    struct pg_agree_block b = pg_agreement_of(&a, 3, 2);
    assert_int_equal(b.n_tokens, 2);
    assert_true(b.recall == 3.0 / 4 && b.precision[0] == 1 && b.precision[1] == 0.5);
    assert_true(b.precision[2] == 0 && b.mass == 0.75); /* (3/8 of 6/8, and all) / 2 */
    assert_true(b.set_right == 0.5);
    /* One more is named: what the first token lacked, and what the second has no use for. */
    a = (struct pg_agreement){0};
    for (int t = 0; t < 2; t++)
        pg_agreement_add(&a, p[t], (struct pg_named){chosen[t], 2}, (struct pg_named){named[t], 3});
    b = pg_agreement_of(&a, 3, 2);
    assert_true(b.recall == 1 && b.set_right == 1 && b.mass == 1);
    assert_true(b.precision[0] == 1 && b.precision[1] == 0.5 && b.precision[2] == 0.5);
    pg_agreement_name(&rule, &table[0], fine, id, weight);
    assert_true(id[0] == 3 && id[1] == 1 && fine[3] < 1 && fine[3] > 0.5f);
    pg_agreement_name(&rule, &table[0], spoilt, id, weight);
    assert_true(id[0] == 0 && id[1] == 1 && spoilt[3] == 3);
    /* Probabilities that all rounded to zero cover each other. */
    a = (struct pg_agreement){0};
    pg_agreement_add(&a, (const float[4]){0}, (struct pg_named){chosen[0], 2},
                     (struct pg_named){named[0], 2});
    assert_true(pg_agreement_of(&a, 0, 2).mass == 1);
}

/* ------------------------------------------------------------------ hints ------------------- */

/* Three tokens whose states are their logits, one expert used and one more named: 0 (1), 0 (2) and
 * 3 (2). The store gets those that a token would use first, by votes, and then the others. */
static void test_extra(void **state)
{
    enum { N_EXPERT = 4, N_TOK = 3, N_EMBD = 64 };
    static const float h[N_TOK * N_EMBD] = {9, 8, [64] = 9, [66] = 8, [130] = 8, [131] = 9};
    static const int32_t order[] = {0, 3, 2, 1}, pos[N_TOK] = {0};
    static float inp[N_EXPERT * N_EMBD];
    static _Alignas(64) char room[1 << 16];
    struct pg_compute c = {.k = table[0]};
    (void)state;
    assert_int_equal(pg_pool_open(&c.pool, 1, NULL), 0);
    for (int i = 0; i < N_EXPERT; i++)
        inp[i * N_EMBD + i] = 1;
    for (int n_extra = 0; n_extra < 6; n_extra++) {
        struct world w;
        uint8_t here[N_EXPERT];
        struct pg_arena a = {room, sizeof(room), 0};
        const struct pg_pregate maps[2] = {{.inp = {PG_TYPE_F32, N_EMBD, N_EXPERT, inp}}};
        struct pg_gate g;
        struct pg_input in;
        world_open(&w, &two_blocks);
        struct pg_gate_options opt = {.mode = PG_MODE_HINT,
                                      .rule = {N_EXPERT, 1, false, false, 1},
                                      .n_block = 2,
                                      .stack = &(struct pg_span){0, 2},
                                      .n_stack = 1,
                                      .level = 1,
                                      .max_tok = N_TOK,
                                      .n_extra = n_extra,
                                      .pregates = maps,
                                      .store = w.store,
                                      .compute = &c};
        pg_gate_init(&g, &opt, &a);
        pg_input_carve(&in, &a, N_EMBD, N_TOK);
        pg_input_set(&in, h, N_EMBD, N_TOK);
        assert_int_equal(pg_gate_hint(&g, 0, &in, pos, NULL), 0);
        int n = n_extra ? 4 : 2;
        if (n_extra < 3) /* then all of them are named by all */
            assert_memory_equal(g.hint_ids, order, (size_t)n * sizeof(*order));
        pg_store_drain(w.store);
        pg_store_here(w.store, 1, here);
        for (int i = 0; i < N_EXPERT; i++)
            assert_int_equal(here[order[i]], i < n);
        opt.mode = PG_MODE_PREGATE; /* what is decided is as many as are used */
        a.used = 0;
        pg_gate_init(&g, &opt, &a);
        assert_int_equal(g.named.n_used, 1);
        world_close(&w);
    }
    pg_pool_close(c.pool);
}

/* ------------------------------------------------------------------ cache ------------------- */

/* By hand: probabilities 0.5, 0.26, 0.2, 0.04, of which two are used. An expert that is there
 * passes one that is more probable by less than the margin, but never the first; by logits it may
 * pass that, too. The chosen keep their own weights, and a block without a bias its own choice. */
static void test_prefer(void **state)
{
    enum { N_EXPERT = 4, N_EMBD = 64 };
    static const struct {
        enum pg_cache_form form;
        float bias;
        int n_here;
        int32_t here[2], id[2];
    } cases[] = {
        {PG_CACHE_MARGIN, 0.05f, 1, {2}, {0, 1}},   {PG_CACHE_MARGIN, 0.07f, 1, {2}, {0, 2}},
        {PG_CACHE_MARGIN, 0.9f, 2, {2, 3}, {0, 2}}, {PG_CACHE_MARGIN, 0.9f, 1, {3}, {0, 3}},
        {PG_CACHE_LOGITS, 0.1f, 1, {2}, {0, 1}},    {PG_CACHE_LOGITS, 0.9f, 2, {2, 3}, {2, 0}},
    };
    static const float p[N_EXPERT] = {0.5f, 0.26f, 0.2f, 0.04f};
    static float inp[N_EXPERT * N_EMBD], h[N_EMBD];
    static _Alignas(64) char room[1 << 16];
    struct pg_compute c = {.k = table[0]};
    (void)state;
    assert_int_equal(pg_pool_open(&c.pool, 1, NULL), 0);
    for (int i = 0; i < N_EXPERT; i++) {
        inp[i * N_EMBD + i] = 1;
        h[i] = logf(p[i]);
    }
    const struct pg_pregate maps[2] = {{.inp = {PG_TYPE_F32, N_EMBD, N_EXPERT, inp}},
                                       {.inp = {PG_TYPE_F32, N_EMBD, N_EXPERT, inp}}};
    for (size_t i = 0; i < PG_COUNT(cases); i++) {
        struct pg_arena a = {room, sizeof(room), 0};
        struct world w;
        struct pg_gate g;
        struct pg_input in;
        const struct pg_route *r;
        const float bias[2] = {cases[i].bias, 0};
        struct pg_gate_options opt = {.mode = PG_MODE_ONDEMAND,
                                      .rule = {N_EXPERT, 2, false, false, 1},
                                      .n_block = 2,
                                      .stack = &(struct pg_span){0, 2},
                                      .n_stack = 1,
                                      .max_tok = 1,
                                      .routers = maps,
                                      .cache_bias = bias,
                                      .cache_form = cases[i].form,
                                      .compute = &c};
        world_open(&w, &two_blocks);
        opt.store = w.store;
        for (int block = 0; block < 2; block++) {
            pg_store_hint(w.store, block, cases[i].here, cases[i].n_here, true);
            pg_store_drain(w.store);
        }
        pg_gate_init(&g, &opt, &a);
        pg_input_carve(&in, &a, N_EMBD, 1);
        pg_input_set(&in, h, N_EMBD, 1);
        assert_int_equal(pg_gate_decide(&g, 0, &in, &(int32_t){0}, &r, NULL), 0);
        for (int k = 0; k < 2; k++) {
            assert_int_equal(r->id[k], cases[i].id[k]);
            assert_true(fabsf(r->weight[k] - p[r->id[k]]) < 1e-5f);
        }
        assert_int_equal(pg_gate_decide(&g, 1, &in, &(int32_t){0}, &r, NULL), 0);
        assert_true(r->id[0] == 0 && r->id[1] == 1);
        world_close(&w);
    }
    pg_pool_close(c.pool);
}

/* One for all blocks or one for each; what is neither is named. */
static void test_biases(void **state)
{
    static const float each[3] = {0, 0.5f, 0}, none[3], bad[3] = {0, 1.5f, 0}, nan[3] = {0, 0, NAN};
    static const struct {
        struct pg_gate_biases given;
        const char *word;
    } wrong[] = {{{0, each, 2}, "2 values found, 3 wanted"},
                 {{0, each, 0}, "0 values found"},
                 {{0.1f, each, 3}, "one of the two"},
                 {{0, bad, 3}, "block 1: 1.5 found"},
                 {{0, nan, 3}, "block 2: nan found"}};
    const struct pg_gate_biases lists[] = {{0, each, 3}, {0, none, 3}, {0.25f, NULL, 0}};
    float *out[PG_COUNT(lists)];
    char hash[PG_COUNT(lists)][17], of_none[17];
    struct pg_err err;
    (void)state;
    for (size_t i = 0; i < PG_COUNT(lists); i++) {
        assert_int_equal(pg_gate_biases_make(&lists[i], 3, &out[i], &err), 0);
        pg_gate_biases_hash(out[i], 3, hash[i]);
    }
    assert_memory_equal(out[0], each, sizeof(each));
    assert_null(out[1]);
    assert_true(out[2][0] == 0.25f && out[2][2] == 0.25f);
    pg_gate_biases_hash(none, 3, of_none);
    assert_string_equal(hash[1], of_none);
    assert_string_not_equal(hash[0], hash[1]);
    for (size_t i = 0; i < PG_COUNT(lists); i++)
        free(out[i]);
    for (size_t i = 0; i < PG_COUNT(wrong); i++) {
        assert_int_equal(pg_gate_biases_make(&wrong[i].given, 3, &out[0], &err), PG_EARG);
        assert_null(out[0]);
        says(err.text, wrong[i].word);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_prefer),
        cmocka_unit_test(test_biases),
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_renormalised_sums_to_scale),
        cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_weigh_given),
        cmocka_unit_test(test_fold),
        cmocka_unit_test(test_fold_same_gain),
        cmocka_unit_test(test_router_with_bias),
        cmocka_unit_test(test_who_weighs),
        cmocka_unit_test(test_agreement),
        cmocka_unit_test(test_extra),
    };
    return cmocka_run_group_tests(tests, open_levels, NULL);
}
