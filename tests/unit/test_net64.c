/* SPDX-License-Identifier: MIT
 * Every derivative, in double: for each tensor of each tiny model the gradient of the loss is that
 * of a five-point difference, at its largest value and along a random direction.
 * Which experts are chosen is held constant by the gradient, so a difference counts only where they
 * stay the same on both sides; otherwise it is made over a smaller step.
 * And which experts are chosen beside an imagined cache, against plain loops.
 */
#include "net_case.h"

#include "base/hash.h"
#include "net/net_impl.h"

struct net_test {
    const char *file;
    int level; /* 0: routers decide */
    bool sigmoid, other_rule;
    int n_seq, seq_len, longest;
    int hidden; /* of pre-gates, which then have a bias, too */
    float kl;
    float bias; /* of the cache, in the first MoE block; half of it in the others */
    int source_len;
    float dropout;
};

enum { BLOCKS = 16 };

static const float *biases(float first)
{
    static float bias[BLOCKS];
    for (int i = 0; i < BLOCKS; i++)
        bias[i] = i ? first / 2 : first;
    return first > 0 ? bias : NULL;
}

static const struct net_test tests64[] = {
    {"gguf_moe/full_mixtral.gguf", 0, false, false, 3, 21, 12, 0, 0, 0, 0, 0},
    {"gguf_moe/gqa_mixtral.gguf", 1, false, false, 3, 21, 12, 0, 0, 0, 0, 0},
    {"gguf_moe/single_mixtral.gguf", 0, false, true, 2, 17, 30, 0, 0, 0, 0, 0},
    {"gguf_moe/qwen_moe_tiny.gguf", 0, false, false, 3, 21, 12, 0, 0, 0, 0, 0},
    {"gguf_moe/split_qwen-00001-of-00003.gguf", 1, false, false, 2, 19, 8, 0, 0, 0, 0, 0},
    {"gen_moe/qwen3moe.gguf", 0, false, false, 3, 21, 12, 0, 0, 0, 0, 0},
    {"gen_moe/qwen3moe.gguf", 1, true, false, 2, 21, 12, 0, 0, 0, 0, 0},
    {"gen_moe/qwen3moe.gguf", 0, true, true, 2, 21, 12, 0, 0, 0, 0, 0},
    {"gen_moe/qwen3moe.gguf", 1, false, false, 2, 21, 12, 5, 0, 0, 0, 0},
    {"gen_moe/mixed.gguf", 2, false, false, 2, 21, 12, 19, 0, 0, 0, 0},
    {"gen_moe/olmoe.gguf", 0, false, false, 3, 21, 12, 0, 0, 0, 0, 0},
    {"gen_moe/olmoe.gguf", 1, false, true, 2, 21, 12, 0, 0, 0, 0, 0},
    {"gen_moe/mixed.gguf", 0, false, false, 3, 21, 12, 0, 0, 0, 0, 0},
    {"gen_moe/mixed.gguf", 1, false, false, 3, 21, 12, 0, 0, 0, 0, 0},
    {"gen_moe/mixed.gguf", 2, false, false, 3, 21, 12, 0, 0, 0, 0, 0},
    {"stories260K/stories260K.gguf", 0, false, false, 2, 19, 12, 0, 0, 0, 0, 0},
    {"gen_moe/qwen3moe.gguf", 0, false, false, 3, 21, 12, 0, 0, 0.3f, 0, 0},
    {"stories260K/stories260K.gguf", 0, false, false, 2, 19, 12, 0, 1, 0, 0, 0},
    {"gen_moe/olmoe.gguf", 1, false, true, 2, 21, 12, 0, 0.7f, 0.2f, 0, 0},
    {"gen_moe/mixed.gguf", 2, true, false, 2, 21, 12, 5, 2, 0.4f, 0, 0},
    {"gen_moe/t5dense.gguf", 0, false, false, 2, 9, 5, 0, 0, 0, 13, 0},
    {"gen_moe/switch.gguf", 0, false, false, 2, 11, 6, 0, 0, 0, 15, 0},
    {"gen_moe/switch.gguf", 1, false, false, 2, 11, 6, 5, 0, 0, 15, 0},
    {"gen_moe/switch.gguf", 1, false, true, 2, 9, 9, 0, 0.7f, 0.2f, 11, 0},
    {"gen_moe/mixed.gguf", 1, false, false, 3, 21, 12, 0, 0.7f, 0, 0, 0.2f},
    {"gen_moe/switch.gguf", 1, false, false, 2, 11, 6, 5, 0, 0, 15, 0.3f},
};

static size_t n_routed(const struct net_case *c, int moe)
{
    int stack = pg_stack_of(&c->model.h, pg_block_of_moe(&c->model, moe));
    return (size_t)c->net->stack[stack].n_tok * (size_t)c->model.h.n_expert_used;
}

/* Of a block, a part as long as the longest stack has. */
static size_t n_most(const struct net_case *c)
{
    return (size_t)c->net->max_tok * (size_t)c->model.h.n_expert_used;
}

static int32_t *routes_of(const struct net_case *c)
{
    int32_t *all = calloc(n_most(c) * (size_t)c->model.n_moe + 1, sizeof(int32_t));
    assert_non_null(all);
    for (int moe = 0; moe < c->model.n_moe; moe++) {
        memcpy(all + n_most(c) * (size_t)moe, pg_net_route(c->net, moe),
               n_routed(c, moe) * sizeof(int32_t));
    }
    return all;
}

static bool routes_are(const struct net_case *c, const int32_t *all)
{
    for (int moe = 0; moe < c->model.n_moe; moe++)
        if (memcmp(all + n_most(c) * (size_t)moe, pg_net_route(c->net, moe),
                   n_routed(c, moe) * sizeof(int32_t)))
            return false;
    return true;
}

/* Which side of its kink each ReLU is on. */
static uint64_t signs_of(const struct net_case *c)
{
    uint64_t hash = PG_HASH_START;
    for (int il = 0; c->model.h.activation == PG_RELU && il < c->model.h.n_layer; il++) {
        bool moe = c->model.block[il].moe >= 0;
        size_t n_tok = (size_t)c->net->stack[pg_stack_of(&c->model.h, il)].n_tok;
        size_t n = n_tok * (size_t)(moe ? c->net->n_rank * c->model.h.n_ff_exp : c->model.h.n_ff);
        for (size_t i = 0; i < n; i++) {
            uint8_t on = c->net->block[il].gate[i] > 0;
            hash = pg_hash_bytes(hash, &on, 1);
        }
    }
    return hash;
}

struct direction {
    const struct pg_param *p;
    const double *d; /* [p->n] */
    double derivative, loss;
    const double *w;       /* weights to move away from */
    const int32_t *routes; /* there */
    uint64_t signs;
};

static bool loss_at(struct net_case *c, const struct direction *v, double h, double *loss)
{
    struct pg_err err;
    struct pg_net_loss l;
    for (size_t i = 0; i < v->p->n; i++)
        c->w[v->p->at + i] = v->w[v->p->at + i] + h * v->d[i];
    assert_int_equal(pg_net_run(c->net, (struct pg_net_point){c->w, NULL, 1, c->ref, c->draw},
                                &c->batch, &l, &err),
                     0);
    memcpy(c->w + v->p->at, v->w + v->p->at, v->p->n * sizeof(double));
    *loss = l.total;
    return routes_are(c, v->routes) && signs_of(c) == v->signs;
}

/* False when the experts chosen change within the step. */
static bool difference(struct net_case *c, const struct direction *v, double h, double *out)
{
    double a, b, a2, b2;
    if (!loss_at(c, v, h, &a) || !loss_at(c, v, -h, &b) || !loss_at(c, v, 2 * h, &a2) ||
        !loss_at(c, v, -2 * h, &b2))
        return false;
    *out = (8 * (a - b) - (a2 - b2)) / (12 * h);
    return true;
}

/* Rounding of a loss is taken for 40 units of its last place. */
static void check_direction(struct net_case *c, const struct direction *v)
{
    double found, h = 1e-3, noise;
    while (!difference(c, v, h, &found)) {
        h /= 8;
        assert_true(h > 1e-8);
    }
    noise = 40 * 0x1p-52 * v->loss / h;
    if (!(fabs(found - v->derivative) <= 1e-6 * fabs(found) + noise)) {
        fail_msg("%s: %s: derivative %.12g, difference %.12g over %g", c->path, v->p->name,
                 v->derivative, found, h);
    }
}

static size_t largest(const double *g, size_t n)
{
    size_t at = 0;
    for (size_t i = 0; i < n; i++)
        at = fabs(g[i]) > fabs(g[at]) ? i : at;
    return at;
}

/* Routers of blocks that a pre-gate decides and weighs, and factors of the rotation, are not
 * trained. */
static bool is_unused(const struct net_case *c, const struct pg_param *p)
{
    const char *suffix = "";
    int il = pg_block_of_name(&c->model, p->name, &suffix);
    return strcmp(p->name, "rope_freqs.weight") == 0 ||
           (strcmp(suffix, "ffn_gate_inp.weight") == 0 && c->opt.gate == PG_GATE_PREGATE &&
            c->opt.weigher == PG_GATE_PREGATE &&
            pg_is_decided_early(&c->model, c->model.block[il].moe, c->opt.level));
}

static void check_param(struct net_case *c, struct direction *v, uint64_t *random)
{
    size_t n = v->p->n;
    const double *g = c->g + v->p->at;
    double *d = calloc(n, sizeof(double));
    assert_non_null(d);
    size_t at = largest(g, n);
    if (is_unused(c, v->p))
        assert_true(g[at] == 0);
    else
        assert_true(fabs(g[at]) > 1e-7); /* what is compared is no rounding */
    v->d = d;
    d[at] = 1;
    v->derivative = g[at];
    check_direction(c, v);
    v->derivative = 0;
    for (size_t i = 0; i < n; i++) {
        d[i] = 0.1 * net_uniform(random);
        v->derivative += d[i] * g[i];
    }
    check_direction(c, v);
    free(d);
}

static void check_model(const struct net_test *t, uint64_t seed)
{
    struct net_case c;
    struct pg_net_options opt = {
        .gate = t->level ? PG_GATE_PREGATE : PG_GATE_ROUTER,
        .level = t->level,
        .weigher = PG_GATE_PREGATE,
        .pregate_bias = t->hidden > 0,
        .pregate_hidden = t->hidden,
        .n_seq = t->n_seq,
        .seq_len = t->seq_len,
        .source_len = t->source_len,
        .balance_weight = 0.3f,
        .sticky_weight = 0.5f,
        .sticky_cache = 3,
        .cache_bias = biases(t->bias),
        .kl_weight = t->kl,
        .dropout = t->dropout,
    };
    net_case_open(&c, t->file, &opt, 2);
    c.draw = t->dropout > 0 ? 7 : 0;
    net_case_fill(&c, t->longest, seed);
    c.model.h.rule.sigmoid = t->sigmoid;
    if (t->other_rule) {
        c.model.h.rule.renormalise = !c.model.h.rule.renormalise;
        c.model.h.rule.scale = 1.75f;
    }
    struct pg_net_loss loss = net_case_run(&c, true);
    assert_true(loss.kl > 0 || t->kl == 0);
    int32_t *routes = routes_of(&c);
    uint64_t signs = signs_of(&c);
    double *w = malloc(c.params->n_values * sizeof(double));
    assert_non_null(w);
    memcpy(w, c.w, c.params->n_values * sizeof(double));
    assert_true(loss.sticky > 0 || c.model.n_moe == 0);
    for (int i = 0; i < c.params->n; i++) {
        struct direction v = {&c.params->p[i], NULL, 0, loss.total, w, routes, signs};
        check_param(&c, &v, &seed);
    }
    free(w);
    free(routes);
    net_case_close(&c);
}

static void derivatives_are_differences(void **state)
{
    (void)state;
    for (size_t i = 0; i < PG_COUNT(tests64); i++)
        check_model(&tests64[i], i + 1);
}

/* Where the router weighs what a pre-gate has chosen, all that lies behind the last pre-gate has a
 * derivative: the router, too. Before it lies the estimate, which is none (test_frozen.c). */
static void the_router_weighs(void **state)
{
    static const char *const files[] = {"gen_moe/qwen3moe.gguf", "gen_moe/mixed.gguf",
                                        "gguf_moe/qwen_moe_tiny.gguf", "gen_moe/olmoe.gguf"};
    uint64_t random = 3;
    (void)state;
    for (size_t i = 0; i < 2 * PG_COUNT(files); i++) {
        struct net_case c;
        struct pg_net_options opt = {.gate = PG_GATE_PREGATE,
                                     .level = 1,
                                     .n_seq = 2,
                                     .seq_len = 21,
                                     .balance_weight = 0.3f,
                                     .sticky_weight = 0.5f,
                                     .sticky_cache = 3,
                                     .cache_bias = biases(i % 2 ? 0.3f : 0),
                                     .n_runners_up = 1};
        net_case_open(&c, files[i / 2], &opt, 2);
        net_case_fill(&c, 12, 9);
        c.model.h.rule.sigmoid = i % 3 == 2;
        struct pg_net_loss loss = net_case_run(&c, true);
        int32_t *routes = routes_of(&c);
        uint64_t signs = signs_of(&c);
        double *w = malloc(c.params->n_values * sizeof(double));
        assert_non_null(w);
        memcpy(w, c.w, c.params->n_values * sizeof(double));
        int n_checked = 0, last = pg_block_of_moe(&c.model, c.model.n_moe - 1);
        for (int k = 0; k < c.params->n; k++) {
            struct direction v = {&c.params->p[k], NULL, 0, loss.total, w, routes, signs};
            if (strncmp(v.p->name, "blk.", 4) == 0 && atoi(v.p->name + 4) >= last) {
                check_param(&c, &v, &random);
                n_checked += strstr(v.p->name, "ffn_gate_inp.weight") != NULL;
            }
        }
        assert_int_equal(n_checked, 1);
        free(w);
        free(routes);
        net_case_close(&c);
    }
}

/* Several spans of rows, blocks of queries, chunks of an expert's rows: along one direction of all
 * weights together. */
static void large_batch(void **state)
{
    struct net_case c;
    struct pg_net_options opt = {.n_seq = 5,
                                 .seq_len = 150,
                                 .balance_weight = 0.3f,
                                 .sticky_weight = 0.5f,
                                 .sticky_cache = 3};
    struct pg_param all = {.name = "all"};
    uint64_t random = 99;
    (void)state;
    net_case_open(&c, "gen_moe/mixed.gguf", &opt, 2);
    net_case_fill(&c, 140, 7);
    all.n = c.params->n_values;
    double *d = malloc(all.n * sizeof(double)), *w = malloc(all.n * sizeof(double));
    assert_true(d && w);
    memcpy(w, c.w, all.n * sizeof(double));
    struct pg_net_loss loss = net_case_run(&c, true);
    int32_t *routes = routes_of(&c);
    uint64_t signs = signs_of(&c);
    struct direction v = {&all, d, 0, loss.total, w, routes, signs};
    for (size_t i = 0; i < all.n; i++) {
        d[i] = 0.01 * net_uniform(&random);
        v.derivative += d[i] * c.g[i];
    }
    check_direction(&c, &v);
    free(d);
    free(w);
    free(routes);
    net_case_close(&c);
}

/* ------------------------------------------------------------------ imagined cache ---------- */

/* A cache of one block under the policy: the expert in each slot, -1: none. */
struct use {
    struct pg_policy *policy;
    int holds[64], n_slots;
};

static int slot_of(const struct use *u, int e)
{
    for (int i = 0; i < u->n_slots; i++)
        if (u->holds[i] == e)
            return i;
    return -1;
}

static bool is_here(const struct use *u, int e)
{
    return slot_of(u, e) >= 0;
}

/* A token uses n experts. Empty slots are filled from the last one down. */
static void use_all(struct use *u, const int32_t *id, int n)
{
    pg_policy_tick(u->policy, 0);
    for (int i = 0; i < n; i++)
        pg_policy_use(u->policy, id[i]);
    for (int i = 0; i < n; i++) {
        uint8_t may[64];
        int slot = u->n_slots - 1;
        if (is_here(u, id[i]))
            continue;
        while (slot >= 0 && u->holds[slot] >= 0)
            slot--;
        for (int k = 0; k < u->n_slots; k++) {
            may[k] = 1;
            for (int j = 0; j < n; j++)
                may[k] = may[k] && u->holds[k] != id[j];
        }
        if (slot < 0) {
            slot = pg_policy_victim(u->policy, may);
            if (slot < 0)
                continue;
            pg_policy_remove(u->policy, slot);
        }
        pg_policy_admit(u->policy, slot, id[i]);
        u->holds[slot] = id[i];
    }
}

static void use_open(struct use *u, int n_expert, int n_slots)
{
    struct pg_err err;
    *u = (struct use){.n_slots = n_slots};
    assert_int_equal(pg_policy_open(&u->policy, PG_EVICT_CYCLE, 1, n_expert, n_slots, &err), 0);
    memset(u->holds, 0xff, sizeof(u->holds));
}

/* The next of the ranking that is not taken yet. */
static int best_of(const double *score, const bool *taken, int n_expert)
{
    int best = -1;
    for (int e = 0; e < n_expert; e++)
        if (!taken[e] && (best < 0 || score[e] > score[best]))
            best = e;
    return best;
}

/* One token of one block; returns how many of its experts were not there. */
static int check_token(const struct net_case *c, int moe, int t, double bias, struct use *u)
{
    int n_expert = c->model.h.n_expert, n_used = c->model.h.n_expert_used, missed = 0;
    const double *p = c->net->route[moe].p + t * n_expert;
    const double *weight = c->net->route[moe].weight + t * n_used;
    const int32_t *id = pg_net_route(c->net, moe) + t * n_used;
    double score[64], least = HUGE_VAL, most = -HUGE_VAL, sum = 0;
    bool taken[64] = {false};
    for (int e = 0; e < n_expert; e++) {
        score[e] = log(c->model.h.rule.sigmoid ? p[e] / (1 - p[e]) : p[e]); /* the logit, shifted */
        least = fmin(least, score[e]);
        most = fmax(most, score[e]);
    }
    for (int e = 0; e < n_expert; e++)
        score[e] = c->opt.cache_form == PG_CACHE_MARGIN
                       ? (score[e] == most ? 9 : p[e] + bias * is_here(u, e))
                       : score[e] + bias * (most - least) * is_here(u, e);
    for (int i = 0; i < n_used; i++) {
        int best = best_of(score, taken, n_expert);
        if (id[i] != best)
            fail_msg("%s: block %d, token %d, rank %d: %d found, %d wanted", c->path, moe, t, i,
                     (int)id[i], best);
        taken[best] = true;
        missed += !is_here(u, best);
        sum += p[best];
    }
    double scale = (double)c->model.h.rule.scale / (c->model.h.rule.renormalise ? sum : 1);
    for (int i = 0; i < n_used; i++)
        assert_true(fabs(weight[i] - p[id[i]] * scale) < 1e-12);
    use_all(u, id, n_used);
    return missed;
}

static double misses_of(const struct net_case *c)
{
    int n_tok = c->opt.n_seq * c->opt.seq_len, missed = 0;
    for (int moe = 0; moe < c->model.n_moe; moe++) {
        struct use u = {0};
        for (int t = 0; t < n_tok; t++) {
            if (t % c->opt.seq_len == 0) {
                pg_policy_close(u.policy);
                use_open(&u, c->model.h.n_expert, c->opt.sticky_cache);
            }
            double bias = c->opt.cache_bias ? (double)c->opt.cache_bias[moe] : 0;
            missed += check_token(c, moe, t, bias, &u);
        }
        pg_policy_close(u.policy);
    }
    return (double)missed / n_tok;
}

/* Rows of several documents, routers and pre-gates, both forms of a bias, more and fewer places
 * than a token uses; the more bias, the fewer misses. */
static void chosen_beside_a_cache(void **state)
{
    static const float bias[] = {0, 0.1f, 0.5f};
    (void)state;
    for (int level = 0; level < 6; level++) {
        for (int cache = 1; cache < 7; cache += 2) {
            double before = HUGE_VAL;
            for (size_t i = 0; i < PG_COUNT(bias); i++) {
                struct net_case c;
                struct pg_net_options opt = {.gate = level % 3 ? PG_GATE_PREGATE : PG_GATE_ROUTER,
                                             .level = level % 3,
                                             .weigher = PG_GATE_PREGATE,
                                             .n_seq = 3,
                                             .seq_len = 90,
                                             .sticky_cache = cache,
                                             .cache_bias = biases(bias[i]),
                                             .cache_form = (enum pg_cache_form)(level / 3)};
                net_case_open(&c, "gen_moe/mixed.gguf", &opt, 2);
                assert_true(c.model.h.n_expert <= 64 && c.model.n_moe <= BLOCKS);
                net_case_fill(&c, 40, 5);
                double found = net_case_run(&c, false).misses, wanted = misses_of(&c);
                assert_true(fabs(found - wanted) < 1e-9 && found > 0 && found < before);
                before = found;
                net_case_close(&c);
            }
        }
    }
}

/* ------------------------------------------------------------------ divergence -------------- */

/* From a model to itself there is none; else it is the sum over the vocabulary, whose terms are the
 * net's own nll with each token in turn as the target. */
static void diverges_as_defined(void **state)
{
    struct net_case c, plain;
    struct pg_net_options opt = {.n_seq = 1, .seq_len = 4, .kl_weight = 1}, other = opt;
    double log_p[2], wanted = 0;
    (void)state;
    other.kl_weight = 0;
    net_case_open(&c, "gen_moe/qwen3moe.gguf", &opt, 2);
    net_case_open(&plain, "gen_moe/qwen3moe.gguf", &other, 2);
    net_case_fill(&c, 4, 3);
    net_case_fill(&plain, 4, 3);
    memcpy(c.ref, c.w, c.params->n_values * sizeof(double));
    assert_true(fabs(net_case_run(&c, false).kl) < 1e-14);
    net_case_refer(&c);
    for (int t = 0; t < 4; t++)
        c.target[t] = plain.target[t] = t == 2 ? 0 : -1;
    double found = net_case_run(&c, false).kl;
    for (int v = 0; v < c.model.h.n_vocab; v++) {
        plain.target[2] = v;
        for (int i = 0; i < 2; i++) {
            memcpy(plain.w, i ? c.ref : c.w, c.params->n_values * sizeof(double));
            log_p[i] = -net_case_run(&plain, false).nll;
        }
        wanted += exp(log_p[1]) * (log_p[1] - log_p[0]);
    }
    assert_true(wanted > 1e-6 && fabs(found - wanted) < 1e-10 * wanted + 1e-14);
    net_case_close(&plain);
    net_case_close(&c);
}

/* ------------------------------------------------------------------ runners-up -------------- */

static bool is_gate(const struct pg_param *p)
{
    return strstr(p->name, "ffn_gate_inp.weight") || strstr(p->name, "ffn_pregate");
}

/* Block 0's derivative by its logits is what the header says, in plain loops over the derivatives
 * by the weights; that block is the last on the way back, so they are still there. */
static void check_estimate(const struct net_case *c, int n_rank)
{
    const struct pg_net *n = c->net;
    const struct pg_net_route *r = &n->route[0];
    int n_expert = c->model.h.n_expert, n_used = c->model.h.n_expert_used;
    for (int t = 0; t < n->n_tok; t++) {
        const double *p = r->p + t * n_expert, *by_logit = r->dlogits + t * n_expert;
        const int32_t *id = r->id + t * n_rank;
        double sum = 0, along = 0, dp[64] = {0}, mean = 0;
        for (int i = 0; i < n_used; i++)
            sum += p[id[i]];
        for (int i = 0; i < n_used; i++)
            along += p[id[i]] / sum * n->dweight[r->row_of[t * n_rank + i]];
        for (int i = 0; i < n_rank; i++)
            dp[id[i]] = (n->dweight[r->row_of[t * n_rank + i]] - along) / sum;
        for (int e = 0; e < n_expert; e++)
            mean += p[e] * dp[e];
        for (int e = 0; e < n_expert; e++)
            assert_true(fabs(by_logit[e] - p[e] * (dp[e] - mean)) < 1e-12);
    }
}

/* They change neither the answer nor a derivative, but those of the gates and of what lies before a
 * gate. */
static void runners_up_have_no_say(void **state)
{
    (void)state;
    for (int level = 0; level < 2; level++) {
        struct net_case c, plain;
        struct pg_net_options opt = {.gate = level ? PG_GATE_PREGATE : PG_GATE_ROUTER,
                                     .level = level,
                                     .weigher = PG_GATE_PREGATE,
                                     .n_seq = 2,
                                     .seq_len = 40,
                                     .sticky_cache = 3,
                                     .cache_bias = biases(0.1f)};
        net_case_open(&plain, "gen_moe/qwen3moe.gguf", &opt, 2);
        opt.n_runners_up = 2;
        net_case_open(&c, "gen_moe/qwen3moe.gguf", &opt, 2);
        net_case_fill(&c, 30, 5);
        net_case_fill(&plain, 30, 5);
        struct pg_net_loss with = net_case_run(&c, true), without = net_case_run(&plain, true);
        assert_true(with.nll == without.nll && with.misses == without.misses);
        bool learnt = false;
        char last[32]; /* the block that no gate lies behind */
        snprintf(last, sizeof(last), "blk.%d.", c.model.h.n_layer - 1);
        for (int i = 0; i < c.params->n; i++) {
            const struct pg_param *p = &c.params->p[i];
            bool same = strstr(p->name, "_exps") && !strncmp(p->name, last, strlen(last));
            for (size_t k = p->at; k < p->at + p->n; k++) {
                learnt = learnt || (is_gate(p) && fabs(c.g[k] - plain.g[k]) > 1e-9);
                assert_true(!same || fabs(c.g[k] - plain.g[k]) < 1e-13);
            }
        }
        assert_true(learnt);
        if (level == 0)
            check_estimate(&c, c.model.h.n_expert_used + opt.n_runners_up);
        net_case_close(&plain);
        net_case_close(&c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(runners_up_have_no_say), cmocka_unit_test(chosen_beside_a_cache),
        cmocka_unit_test(diverges_as_defined),    cmocka_unit_test(derivatives_are_differences),
        cmocka_unit_test(the_router_weighs),      cmocka_unit_test(large_batch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
