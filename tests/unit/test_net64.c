/* SPDX-License-Identifier: MIT
 * Every derivative, in double: for each tensor of each tiny model the gradient of the loss is that
 * of a five-point difference, at its largest value and along a random direction.
 * Which experts are chosen is held constant by the gradient, so a difference counts only where they
 * stay the same on both sides; otherwise it is made over a smaller step.
 */
#include "net_case.h"

struct net_test {
    const char *file;
    int level; /* 0: routers decide */
    bool sigmoid, other_rule;
    int n_seq, seq_len, longest;
    int hidden; /* of pre-gates, which then have a bias, too */
};

static const struct net_test tests64[] = {
    {"gguf_moe/full_mixtral.gguf", 0, false, false, 3, 21, 12, 0},
    {"gguf_moe/gqa_mixtral.gguf", 1, false, false, 3, 21, 12, 0},
    {"gguf_moe/single_mixtral.gguf", 0, false, true, 2, 17, 30, 0},
    {"gguf_moe/qwen_moe_tiny.gguf", 0, false, false, 3, 21, 12, 0},
    {"gguf_moe/split_qwen-00001-of-00003.gguf", 1, false, false, 2, 19, 8, 0},
    {"gen_moe/qwen3moe.gguf", 0, false, false, 3, 21, 12, 0},
    {"gen_moe/qwen3moe.gguf", 1, true, false, 2, 21, 12, 0},
    {"gen_moe/qwen3moe.gguf", 0, true, true, 2, 21, 12, 0},
    {"gen_moe/qwen3moe.gguf", 1, false, false, 2, 21, 12, 5},
    {"gen_moe/mixed.gguf", 2, false, false, 2, 21, 12, 19},
    {"gen_moe/olmoe.gguf", 0, false, false, 3, 21, 12, 0},
    {"gen_moe/olmoe.gguf", 1, false, true, 2, 21, 12, 0},
    {"gen_moe/mixed.gguf", 0, false, false, 3, 21, 12, 0},
    {"gen_moe/mixed.gguf", 1, false, false, 3, 21, 12, 0},
    {"gen_moe/mixed.gguf", 2, false, false, 3, 21, 12, 0},
    {"stories260K/stories260K.gguf", 0, false, false, 2, 19, 12, 0},
};

static int32_t *routes_of(const struct net_case *c)
{
    size_t n = (size_t)(c->opt.n_seq * c->opt.seq_len) * (size_t)c->model.h.n_expert_used;
    int32_t *all = calloc(n * (size_t)c->model.n_moe + 1, sizeof(int32_t));
    assert_non_null(all);
    for (int moe = 0; moe < c->model.n_moe; moe++)
        memcpy(all + n * (size_t)moe, pg_net_route(c->net, moe), n * sizeof(int32_t));
    return all;
}

static bool routes_are(const struct net_case *c, const int32_t *all)
{
    size_t n = (size_t)(c->opt.n_seq * c->opt.seq_len) * (size_t)c->model.h.n_expert_used;
    for (int moe = 0; moe < c->model.n_moe; moe++)
        if (memcmp(all + n * (size_t)moe, pg_net_route(c->net, moe), n * sizeof(int32_t)))
            return false;
    return true;
}

struct direction {
    const struct pg_param *p;
    const double *d; /* [p->n] */
    double derivative, loss;
    const double *w;       /* weights to move away from */
    const int32_t *routes; /* there */
};

static bool loss_at(struct net_case *c, const struct direction *v, double h, double *loss)
{
    struct pg_err err;
    struct pg_net_loss l;
    for (size_t i = 0; i < v->p->n; i++)
        c->w[v->p->at + i] = v->w[v->p->at + i] + h * v->d[i];
    assert_int_equal(pg_net_run(c->net, (struct pg_net_point){c->w, NULL, 1}, &c->batch, &l, &err),
                     0);
    memcpy(c->w + v->p->at, v->w + v->p->at, v->p->n * sizeof(double));
    *loss = l.total;
    return routes_are(c, v->routes);
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

/* Routers of blocks that a pre-gate decides, and factors of the rotation, are not trained. */
static bool is_unused(const struct net_case *c, const struct pg_param *p)
{
    int il = atoi(p->name + 4);
    return strcmp(p->name, "rope_freqs.weight") == 0 ||
           (strstr(p->name, "ffn_gate_inp.weight") && c->opt.gate == PG_GATE_PREGATE &&
            c->model.block[il].moe >= c->opt.level);
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
        .pregate_bias = t->hidden > 0,
        .pregate_hidden = t->hidden,
        .n_seq = t->n_seq,
        .seq_len = t->seq_len,
        .balance_weight = 0.3f,
        .sticky_weight = 0.5f,
        .sticky_cache = 3,
    };
    net_case_open(&c, t->file, &opt, 2);
    net_case_fill(&c, t->longest, seed);
    c.model.h.rule.sigmoid = t->sigmoid;
    if (t->other_rule) {
        c.model.h.rule.renormalise = !c.model.h.rule.renormalise;
        c.model.h.rule.scale = 1.75f;
    }
    struct pg_net_loss loss = net_case_run(&c, true);
    int32_t *routes = routes_of(&c);
    double *w = malloc(c.params->n_values * sizeof(double));
    assert_non_null(w);
    memcpy(w, c.w, c.params->n_values * sizeof(double));
    assert_true(loss.sticky > 0 || c.model.n_moe == 0);
    for (int i = 0; i < c.params->n; i++) {
        struct direction v = {&c.params->p[i], NULL, 0, loss.total, w, routes};
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
    struct direction v = {&all, d, 0, loss.total, w, routes};
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(derivatives_are_differences),
        cmocka_unit_test(large_batch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
