/* SPDX-License-Identifier: MIT */
#include "gate/gate.h"

#define REAL float
#include "gate/rule_body.h"

#include "base/hash.h"

#include <math.h>
#include <string.h>

static struct pg_route take_route(struct pg_arena *a, int n_tok, int n_used)
{
    size_t n = (size_t)n_tok * (size_t)n_used;
    struct pg_route r;
    r.id = pg_arena_take(a, n * sizeof(int32_t));
    r.weight = pg_arena_take(a, n * sizeof(float));
    return r;
}

void pg_gate_init(struct pg_gate *g, const struct pg_gate_options *opt, struct pg_arena *a)
{
    size_t n_expert = (size_t)opt->rule.n_expert;
    struct pg_route ring;
    PG_ASSERT(opt->mode != PG_MODE_AUTO && opt->n_block >= 1 && opt->max_tok >= 1);
    PG_ASSERT(!opt->pregates || opt->level >= 1);
    PG_ASSERT(opt->n_stack >= 1);
    PG_ASSERT(opt->rule.n_used >= 1 && opt->rule.n_used <= opt->rule.n_expert);
    *g = (struct pg_gate){.opt = *opt, .named = opt->rule};
    if (opt->mode == PG_MODE_LOOKAHEAD || opt->mode == PG_MODE_HINT)
        g->named.n_used = PG_MIN(opt->rule.n_used + opt->n_extra, opt->rule.n_expert);
    g->logits = pg_arena_take(a, (size_t)opt->max_tok * n_expert * sizeof(float));
    if (opt->cache_bias) {
        g->ranked = pg_arena_take(a, (size_t)opt->max_tok * n_expert * sizeof(float));
        g->here = pg_arena_take(a, n_expert);
    }
    if (opt->n_hidden) {
        g->hidden = pg_arena_take(a, (size_t)opt->max_tok * (size_t)opt->n_hidden * sizeof(float));
        g->added = pg_arena_take(a, (size_t)opt->max_tok * n_expert * sizeof(float));
    }
    g->now = take_route(a, opt->max_tok, opt->rule.n_used);
    g->hint_ids = pg_arena_take(a, n_expert * sizeof(int32_t));
    g->votes = pg_arena_take(a, n_expert * sizeof(uint32_t));
    g->ahead = pg_arena_take(a, (size_t)(opt->level + 1) * sizeof(struct pg_route));
    for (int i = 0; i <= opt->level; i++) {
        ring = take_route(a, opt->max_tok, g->named.n_used);
        if (a->base)
            g->ahead[i] = ring;
    }
}

static void to_probabilities(const struct pg_gate_rule *rule, const struct pg_kernels *k, float *x)
{
    if (!rule->sigmoid) {
        k->softmax(x, rule->n_expert);
        return;
    }
    for (int i = 0; i < rule->n_expert; i++)
        x[i] = 1.0f / (1.0f + pg_expf(-x[i]));
}

bool pg_gate_rule_weigh(const struct pg_gate_rule *rule, const struct pg_kernels *k, float *logits,
                        const int32_t *id, float *weight)
{
    if (!pg_all_finite(logits, (size_t)rule->n_expert))
        return false;
    to_probabilities(rule, k, logits);
    rule_weights(rule, logits, id, weight);
    return true;
}

void pg_gate_rule_rank(const struct pg_gate_rule *rule, const float *x, int32_t *id)
{
    rule_rank(rule, x, id);
}

bool pg_gate_rule_apply(const struct pg_gate_rule *rule, const struct pg_kernels *k, float *logits,
                        int32_t *id, float *weight)
{
    if (!pg_all_finite(logits, (size_t)rule->n_expert))
        return false;
    pg_gate_rule_rank(rule, logits, id);
    return pg_gate_rule_weigh(rule, k, logits, id, weight);
}

/* One batch of logits turned into a route. */
struct ruling {
    struct pg_gate *g;
    const struct pg_gate_rule *rule;
    int from, block; /* whose state is read, and for which the experts are chosen */
    const int32_t *pos;
    struct pg_route *to;
    bool forced; /* a recorded trace decides, not the logits */
    bool *failed;
};

/* What the row's experts are ranked by, beside the cache. */
static void prefer_row(const struct ruling *r, const float *logits, float *ranked)
{
    const struct pg_gate_options *o = &r->g->opt;
    const struct pg_gate_bias by = {o->cache_form, o->cache_bias[r->block]};
    memcpy(ranked, logits, (size_t)o->rule.n_expert * sizeof(ranked[0]));
    if (by.form == PG_CACHE_MARGIN)
        to_probabilities(&o->rule, &o->compute->k, ranked);
    rule_prefer(&o->rule, by, r->g->here, ranked);
}

static void rule_row(void *arg, int t, int thread)
{
    struct ruling *r = arg;
    const struct pg_gate_options *o = &r->g->opt;
    const struct pg_gate_rule *rule = r->rule;
    float *logits = r->g->logits + (size_t)t * (size_t)rule->n_expert;
    int32_t *id = r->to->id + (size_t)t * (size_t)rule->n_used;
    float *weight = r->to->weight + (size_t)t * (size_t)rule->n_used;
    bool ok;
    (void)thread;
    if (r->forced) {
        const uint16_t *ids = pg_routes_forced(o->routes, r->pos[t], r->block);
        for (int i = 0; i < rule->n_used; i++)
            id[i] = ids[i];
        ok = pg_gate_rule_weigh(rule, &o->compute->k, logits, id, weight);
    } else if (r->g->ranked) {
        float *ranked = r->g->ranked + (size_t)t * (size_t)rule->n_expert;
        prefer_row(r, logits, ranked);
        pg_gate_rule_rank(rule, ranked, id);
        ok = pg_gate_rule_weigh(rule, &o->compute->k, logits, id, weight);
    } else {
        ok = pg_gate_rule_apply(rule, &o->compute->k, logits, id, weight);
    }
    if (!ok) {
        memset(weight, 0, (size_t)rule->n_used * sizeof(float));
        __atomic_store_n(r->failed, true, __ATOMIC_RELAXED);
    }
}

/* A batch through one pre-gate. */
struct mapping {
    struct pg_gate *g;
    const struct pg_pregate *map;
};

/* The biases and the hidden layer of row t, whose products with h are there. */
static void finish_row(void *arg, int t, int thread)
{
    const struct mapping *m = arg;
    struct pg_gate *g = m->g;
    const struct pg_kernels *k = &g->opt.compute->k;
    int n_expert = g->opt.rule.n_expert, n_hidden = m->map->down.n_out;
    float *logits = g->logits + (size_t)t * (size_t)n_expert;
    (void)thread;
    if (m->map->bias.data)
        k->add(m->map->bias.data, logits, n_expert);
    if (!m->map->down.data)
        return;
    float *u = g->hidden + (size_t)t * (size_t)n_hidden;
    float *added = g->added + (size_t)t * (size_t)n_expert;
    k->add(m->map->down_bias.data, u, n_hidden);
    for (int i = 0; i < n_hidden; i++)
        u[i] = u[i] / (1 + pg_expf(-u[i]));
    struct pg_acts row = {.kind = PG_ACT_F32, .n = n_hidden, .f32 = u};
    struct pg_matmul up = {.w = m->map->up.data,
                           .type = PG_TYPE_F32,
                           .x = &row,
                           .n_tok = 1,
                           .y = added,
                           .y_stride = (size_t)n_expert};
    k->matmul[PG_TYPE_F32](&up, 0, n_expert);
    k->add(added, logits, n_expert);
}

/* The rows of h through `map` to logits. */
static void run_map(struct pg_gate *g, const struct pg_pregate *map, struct pg_input *h)
{
    struct pg_compute *c = g->opt.compute;
    struct mapping m = {g, map};
    struct pg_product p[2];
    p[0] = pg_product(c, &map->inp, h, g->logits);
    if (map->down.data)
        p[1] = pg_product(c, &map->down, h, g->hidden);
    pg_products(c, p, map->down.data ? 2 : 1);
    if (map->bias.data || map->down.data)
        pg_rows(c, finish_row, &m, h->n_tok);
}

/* The rows of h through `map`, then the rule: r->to for r->block. */
static int choose(struct ruling *r, const struct pg_pregate *map, struct pg_input *h)
{
    bool failed = false;
    r->failed = &failed;
    run_map(r->g, map, h);
    if (r->g->tap.seen)
        r->g->tap.seen(r->g->tap.user, r->from, r->block, h, r->g->logits);
    if (r->g->ranked)
        pg_store_here(r->g->opt.store, r->block, r->g->here);
    pg_rows(r->g->opt.compute, rule_row, r, h->n_tok);
    return failed ? PG_ENUMERIC : 0;
}

static int numeric(int block, struct pg_err *err)
{
    return pg_fail(err, PG_ENUMERIC,
                   "numerical error: the router of MoE block %d got values that are not finite "
                   "(damaged weights, or a model that overflows)",
                   block);
}

static void check_call(const struct pg_gate_options *o, int block, const struct pg_input *h)
{
    PG_ASSERT(block >= 0 && block < o->n_block);
    PG_ASSERT(h->n_tok >= 1 && h->n_tok <= o->max_tok);
}

/* What router `block` makes of experts that are chosen already. */
struct weighing {
    struct pg_gate *g;
    struct pg_route *route;
    bool failed;
};

static void weigh_row(void *arg, int t, int thread)
{
    struct weighing *w = arg;
    const struct pg_gate_options *o = &w->g->opt;
    float *logits = w->g->logits + (size_t)t * (size_t)o->rule.n_expert;
    size_t at = (size_t)t * (size_t)o->rule.n_used;
    (void)thread;
    if (pg_all_finite(logits, (size_t)o->rule.n_expert)) {
        to_probabilities(&o->rule, &o->compute->k, logits);
        rule_weights_late(&o->rule, logits, w->route->id + at, w->route->weight + at);
    } else {
        memset(w->route->weight + at, 0, (size_t)o->rule.n_used * sizeof(float));
        __atomic_store_n(&w->failed, true, __ATOMIC_RELAXED);
    }
}

static int weigh(struct pg_gate *g, int block, struct pg_input *h, struct pg_route *route)
{
    struct weighing w = {g, route, false};
    run_map(g, &g->opt.routers[block], h);
    pg_rows(g->opt.compute, weigh_row, &w, h->n_tok);
    return w.failed ? PG_ENUMERIC : 0;
}

/* The blocks of the stack that has this one. */
static struct pg_span stack_of(const struct pg_gate_options *o, int block)
{
    const struct pg_span *s = o->stack;
    while (block >= s->first + s->n)
        s++;
    return *s;
}

static int decide(struct pg_gate *g, int block, struct pg_input *h, const int32_t *pos,
                  const struct pg_route **out, struct pg_err *err)
{
    const struct pg_gate_options *o = &g->opt;
    const int first = stack_of(o, block).first;
    check_call(o, block, h);
    if (block == first)
        g->n_decided = 0;
    if (o->mode == PG_MODE_PREGATE && block >= first + o->level) {
        PG_ASSERT(block < g->n_decided && g->n_decided <= block + o->level);
        struct pg_route *chosen = &g->ahead[block % (o->level + 1)];
        *out = chosen;
        bool late = o->weigher == PG_GATE_ROUTER;
        return late && weigh(g, block, h, chosen) ? numeric(block, err) : 0;
    }
    struct ruling r = {.g = g,
                       .rule = &o->rule,
                       .from = block,
                       .block = block,
                       .pos = pos,
                       .to = &g->now,
                       .forced = o->routes};
    *out = &g->now;
    return choose(&r, &o->routers[block], h) ? numeric(block, err) : 0;
}

/* Beyond its capacity an expert counts nothing. A source's rows follow one another from 0 on. */
static void keep_capacity(struct pg_gate *g, const struct pg_route *r, const int32_t *pos,
                          int n_tok)
{
    const int n_used = g->opt.rule.n_used;
    for (int t = 0; t < n_tok; t++) {
        if (pos[t] == 0)
            memset(g->votes, 0, (size_t)g->opt.rule.n_expert * sizeof(g->votes[0]));
        for (int i = t * n_used; i < (t + 1) * n_used; i++)
            if (++g->votes[r->id[i]] > (uint32_t)g->opt.capacity)
                r->weight[i] = 0;
    }
}

int pg_gate_decide(struct pg_gate *g, int block, struct pg_input *h, const int32_t *pos,
                   const struct pg_route **out, struct pg_err *err)
{
    PG_TRY(decide(g, block, h, pos, out, err));
    if (g->opt.capacity && g->opt.n_stack > 1 && block < g->opt.stack[0].n)
        keep_capacity(g, *out, pos, h->n_tok);
    if (g->opt.routes_out)
        pg_routes_out_add(g->opt.routes_out, block, (*out)->id, h->n_tok);
    return 0;
}

/* Votes of all tokens' experts of ranks [from, to); those that are new follow the n of hint_ids.
 * Returns how many there are now. */
static int vote(struct pg_gate *g, const struct pg_route *r, int n_tok, int from, int to, int n)
{
    size_t n_named = (size_t)g->named.n_used;
    for (int rank = from; rank < to; rank++) {
        for (int t = 0; t < n_tok; t++) {
            int32_t id = r->id[(size_t)t * n_named + (size_t)rank];
            PG_ASSERT(id >= 0 && id < g->named.n_expert);
            if (g->votes[id]++ == 0)
                g->hint_ids[n++] = id;
        }
    }
    return n;
}

/* hint_ids [from, n), the most votes first: a stable insertion sort, as n is small or nearly
 * sorted. */
static void most_wanted_first(struct pg_gate *g, int from, int n)
{
    for (int i = from + 1; i < n; i++) {
        int32_t id = g->hint_ids[i];
        int at = i;
        for (; at > from && g->votes[g->hint_ids[at - 1]] < g->votes[id]; at--)
            g->hint_ids[at] = g->hint_ids[at - 1];
        g->hint_ids[at] = id;
    }
}

/* The union of a route's experts, the most wanted first: by number of tokens, then by how high the
 * first of them ranks it. Those that are only named beyond what a token uses come after all others.
 */
static int union_of(struct pg_gate *g, const struct pg_route *r, int n_tok)
{
    int n_used = g->opt.rule.n_used, n_named = g->named.n_used;
    memset(g->votes, 0, (size_t)g->named.n_expert * sizeof(uint32_t));
    int n_likely = vote(g, r, n_tok, 0, n_used, 0);
    most_wanted_first(g, 0, n_likely);
    int n = vote(g, r, n_tok, n_used, n_named, n_likely);
    most_wanted_first(g, n_likely, n);
    for (int i = 0; i < n; i++)
        PG_ASSERT(g->votes[g->hint_ids[i]] <= (uint32_t)n_tok); /* a token's ids are distinct */
    return n;
}

static void hint_all(struct pg_gate *g, int block)
{
    for (int i = 0; i < g->opt.rule.n_expert; i++)
        g->hint_ids[i] = i;
    pg_store_hint(g->opt.store, block, g->hint_ids, g->opt.rule.n_expert, false);
}

int pg_gate_hint(struct pg_gate *g, int block, struct pg_input *h, const int32_t *pos,
                 struct pg_err *err)
{
    const struct pg_gate_options *o = &g->opt;
    if (o->mode == PG_MODE_RESIDENT || o->mode == PG_MODE_ONDEMAND)
        return 0;
    const struct pg_span stack = stack_of(o, block);
    const int end = stack.first + stack.n;
    if (o->mode == PG_MODE_PREFETCH_ALL) {
        if (block + 1 < end)
            hint_all(g, block + 1);
        return 0;
    }
    int to = block + o->level;
    if (to >= end)
        return 0;
    check_call(o, block, h);
    bool decides = o->mode == PG_MODE_PREGATE;
    struct ruling r = {.g = g,
                       .rule = &g->named,
                       .from = block,
                       .block = to,
                       .pos = pos,
                       .to = &g->ahead[to % (o->level + 1)],
                       .forced = decides && o->routes};
    /* A state that is not finite gives no hint; the router of that block will speak. */
    PG_ASSERT(o->pregates[block].inp.data);
    if (choose(&r, &o->pregates[block], h))
        return decides ? numeric(to, err) : 0;
    g->n_decided = to + 1;
    int n = union_of(g, r.to, h->n_tok);
    pg_store_hint(o->store, to, g->hint_ids, n, decides);
    return 0;
}

static int biases_check(const struct pg_gate_biases *b, int n_block, struct pg_err *err)
{
    if (n_block == 0 && (b->each || b->one > 0))
        return pg_fail(err, PG_EARG,
                       "a cache bias or margin is asked for, but the model has no experts");
    if (b->each && b->one > 0)
        return pg_fail(err, PG_EARG,
                       "cache bias or margin: %g for all blocks and one for each found, one of "
                       "the two wanted",
                       (double)b->one);
    if (b->each && b->n != n_block)
        return pg_fail(
            err, PG_EARG,
            "cache bias or margin: %d values found, %d wanted, one for each block with experts",
            b->n, n_block);
    for (int i = 0; i < n_block; i++) {
        const float x = b->each ? b->each[i] : b->one;
        if (!(x >= 0 && x <= 1))
            return pg_fail(err, PG_EARG,
                           "cache bias or margin of block %d: %g found, 0 to 1 wanted", i,
                           (double)x);
    }
    return 0;
}

int pg_gate_biases_make(const struct pg_gate_biases *b, int n_block, float **out,
                        struct pg_err *err)
{
    bool any = false;
    *out = NULL;
    PG_TRY(biases_check(b, n_block, err));
    for (int i = 0; i < n_block; i++)
        any |= (b->each ? b->each[i] : b->one) > 0;
    if (!any)
        return 0;
    *out = pg_calloc((size_t)n_block, sizeof(**out));
    if (!*out)
        return pg_fail(err, PG_ENOMEM, "out of memory");
    for (int i = 0; i < n_block; i++)
        (*out)[i] = b->each ? b->each[i] : b->one;
    return 0;
}

void pg_gate_biases_hash(const float *bias, int n_block, char out[17])
{
    uint64_t hash = PG_HASH_START;
    for (int i = 0; i < n_block; i++) {
        const float x = bias ? bias[i] : 0;
        hash = pg_hash_bytes(hash, &x, sizeof(x));
    }
    pg_hash_text(hash, out);
}

void pg_gate_fold(const struct pg_weight *router, const float *gain_from, const float *gain_to,
                  float *out)
{
    const struct pg_type_traits *tr = pg_type_traits((uint32_t)router->type);
    size_t row_bytes = pg_type_bytes(router->type, router->n_in);
    for (int e = 0; e < router->n_out; e++) {
        float *row = out + (size_t)e * (size_t)router->n_in;
        tr->to_float((const char *)router->data + (size_t)e * row_bytes, row, router->n_in);
        for (int i = 0; i < router->n_in; i++) {
            /* Where the own gain is zero the pre-gate's input is zero as well. */
            float ratio = gain_to[i] / gain_from[i];
            row[i] = isfinite(ratio) ? row[i] * ratio : 0.0f;
        }
    }
}
