/* SPDX-License-Identifier: MIT
 * A net whose model is frozen, with its experts in an engine's store, against the flat one with the
 * unpacked weights: the same loss, the same decisions, and the same gradient of each pre-gate, bit
 * by bit. Slots, threads and what is still in a slot change nothing, and each expert is read no
 * more often than it must be.
 */
#include "net_case.h"

#include "engine/engine.h"
#include "net/net_impl.h"

enum { N_SEQ = 3, SEQ_LEN = 110, SOURCE_LEN = 170 };

struct shape {
    const char *file; /* of tests/data, or a shape of pg_synth */
    const char *type; /* of the latter */
    int level, n_hidden;
    bool bias;
    bool beside; /* a cache that biases its gates, and the model as it was */
    enum pg_gate_kind weigher;
    int n_runners_up;
};
static const float cache_bias[16] = {0.1f, 0.2f, 0.1f, 0.2f, 0.1f, 0.2f, 0.1f, 0.2f};
static const struct shape shapes[] = {
    {"gguf_moe/full_mixtral.gguf", NULL, 1, 0, false, false, PG_GATE_PREGATE, 0},
    {"gguf_moe/single_mixtral.gguf", NULL, 1, 8, true, false, PG_GATE_ROUTER, 0},
    {"gguf_moe/qwen_moe_tiny.gguf", NULL, 1, 0, true, false, PG_GATE_PREGATE, 1},
    {"gen_moe/qwen3moe.gguf", NULL, 1, 8, true, false, PG_GATE_ROUTER, 2},
    {"gen_moe/olmoe.gguf", NULL, 1, 0, false, false, PG_GATE_PREGATE, 0},
    /* Dense blocks between; 3 with experts. */
    {"gen_moe/mixed.gguf", NULL, 1, 8, true, true, PG_GATE_PREGATE, 0},
    {"gen_moe/mixed.gguf", NULL, 1, 8, true, true, PG_GATE_ROUTER, 1},
    {"gen_moe/mixed.gguf", NULL, 2, 0, false, false, PG_GATE_ROUTER, 0},
    {"olmoe-tiny", "Q4_K", 1, 16, true, false, PG_GATE_ROUTER, 2},
    {"qwen3-tiny", "Q6_K", 2, 0, true, false, PG_GATE_PREGATE, 0},
    {"qwen2moe-tiny", "Q8_0", 1, 16, false, true, PG_GATE_ROUTER, 1}, /* a shared expert */
    {"mixtral-tiny", "BF16", 1, 0, false, false, PG_GATE_PREGATE, 2},
    /* An encoder before the decoder. */
    {"gen_moe/switch.gguf", NULL, 1, 8, true, false, PG_GATE_PREGATE, 0},
    {"switch-tiny", "Q8_0", 1, 0, false, true, PG_GATE_ROUTER, 1},
};

static const char *made(const struct shape *s, char path[128])
{
    struct pg_synth_options o = {PG_SYNTH_OPTIONS_INIT, .shape = s->file, .type = s->type,
                                 .out = path, .seed = 1};
    struct pg_err err;
    if (!s->type)
        return s->file;
    in_dir(path, "made.gguf");
    if (pg_synth(&o, &err))
        fail_msg("%s: %s", s->file, err.text);
    return path;
}

/* The frozen net beside the flat one's case. */
struct frozen {
    pg_engine *engine;
    struct pg_net *net;
    struct pg_net_options opt;
    float *w, *g;
};

/* n_slots 0: all. */
static void frozen_open(struct frozen *f, const struct net_case *c, int n_slots, int n_threads)
{
    struct pg_options o = {PG_OPTIONS_INIT, .model = c->path, .n_threads = n_threads, .n_ctx = 8};
    struct pg_err err = {0};
    o.evict = PG_EVICT_LRU;
    o.hints = PG_HINTS_ON;
    o.mode = n_slots ? PG_MODE_ONDEMAND : PG_MODE_RESIDENT;
    *f = (struct frozen){.opt = c->opt};
    o.n_slots = n_slots ? PG_SLOTS_MIN + n_slots : 0;
    if (pg_engine_open(&f->engine, &o, &err))
        fail_msg("%s: %s", c->path, err.text);
    f->opt.model = &f->engine->model;
    f->opt.pool = f->engine->compute.pool;
    f->opt.frozen = true;
    f->opt.store = f->engine->store;
    f->opt.n_slots = f->engine->plan.n_slots;
    if (pg_net_open(&f->net, &f->opt, &err))
        fail_msg("%s: %s", c->path, err.text);
    size_t n = pg_net_params(f->net)->n_values;
    f->w = calloc(n, sizeof(float));
    f->g = calloc(n, sizeof(float));
    assert_true(f->w && f->g);
    for (int i = 0; i < pg_net_params(f->net)->n; i++) {
        const struct pg_param *p = &pg_net_params(f->net)->p[i];
        const struct pg_param *flat = pg_params_find(c->params, p->name);
        assert_true(flat && flat->n == p->n && strstr(p->name, "ffn_pregate"));
        memcpy(f->w + p->at, c->w + flat->at, p->n * sizeof(float));
    }
}

static void frozen_close(struct frozen *f)
{
    pg_net_close(f->net);
    pg_engine_close(f->engine);
    free(f->w);
    free(f->g);
}

static struct pg_net_loss frozen_run(struct frozen *f, const struct net_case *c, bool gradient)
{
    struct pg_net_loss loss;
    struct pg_err err = {0};
    memset(f->g, 0, pg_net_params(f->net)->n_values * sizeof(float));
    if (pg_net_run(f->net, (struct pg_net_point){f->w, gradient ? f->g : NULL, 1, NULL, 0},
                   &c->batch, &loss, &err))
        fail_msg("%s: %s", c->path, err.text);
    return loss;
}

static void open_flat(struct net_case *c, const char *file, const struct shape *s)
{
    struct pg_net_options opt = {.gate = PG_GATE_PREGATE,
                                 .level = s->level,
                                 .weigher = s->weigher,
                                 .n_runners_up = s->n_runners_up,
                                 .pregate_bias = s->bias,
                                 .pregate_hidden = s->n_hidden,
                                 .n_seq = N_SEQ,
                                 .seq_len = SEQ_LEN,
                                 .balance_weight = 0.05f,
                                 .sticky_weight = 0.1f,
                                 .sticky_cache = 2};
    opt.source_len = strstr(s->file, "switch") ? SOURCE_LEN : 0;
    if (s->beside) {
        opt.cache_bias = cache_bias;
        opt.kl_weight = 0.3f;
        opt.imitate_weight = 0.2f;
    }
    net_case_open(c, file, &opt, 2);
    net_case_fill(c, 90, 5);
    if (c->ref) /* the frozen net's is its model */
        memcpy(c->ref, c->w, c->params->n_values * sizeof(float));
}

static void same_gradient(const struct frozen *f, const struct net_case *c)
{
    for (int i = 0; i < pg_net_params(f->net)->n; i++) {
        const struct pg_param *p = &pg_net_params(f->net)->p[i];
        const float *wanted = c->g + pg_params_find(c->params, p->name)->at;
        double largest = 0;
        for (size_t k = 0; k < p->n; k++) {
            largest = fmax(largest, fabs((double)wanted[k]));
            if (memcmp(&f->g[p->at + k], &wanted[k], sizeof(float)) != 0)
                fail_msg("%s: %s: value %zu: %.9g found, %.9g wanted", c->path, p->name, k,
                         (double)f->g[p->at + k], (double)wanted[k]);
        }
        assert_true(largest > 0);
    }
}

static void the_flat_net_has_the_same_bits(void **state)
{
    (void)state;
    for (size_t i = 0; i < PG_COUNT(shapes); i++) {
        char path[128];
        struct net_case c;
        open_flat(&c, made(&shapes[i], path), &shapes[i]);
        int n_rank = c.model.h.n_expert_used + shapes[i].n_runners_up;
        struct pg_net_loss wanted = net_case_run(&c, true);
        const int slots[][2] = {{1, 2}, {4, 1}, {0, 2}}; /* and threads */
        for (size_t k = 0; k < PG_COUNT(slots); k++) {
            struct frozen f;
            frozen_open(&f, &c, slots[k][0], slots[k][1]);
            assert_true(pg_net_params(f.net)->n_values < c.params->n_values);
            for (int again = 0; again < (k ? 1 : 2);
                 again++) { /* slots are as the first run left them */
                struct pg_net_loss found = frozen_run(&f, &c, true);
                if (memcmp(&found, &wanted, sizeof(found)) != 0)
                    fail_msg("%s, %d slots: loss %.17g found, %.17g wanted (%.9g, %.9g sticky)",
                             c.path, f.opt.n_slots, found.nll, wanted.nll, found.sticky,
                             wanted.sticky);
                same_gradient(&f, &c);
            }
            struct pg_net_loss alone = frozen_run(&f, &c, false);
            assert_memory_equal(&alone, &wanted, sizeof(alone));
            for (int moe = 0; moe < c.model.n_moe; moe++) {
                int stack = pg_stack_of(&c.model.h, pg_block_of_moe(&c.model, moe));
                size_t n_tok = (size_t)c.net->stack[stack].n_tok;
                assert_memory_equal(pg_net_route(f.net, moe), pg_net_route(c.net, moe),
                                    n_tok * (size_t)n_rank * sizeof(int32_t));
            }
            frozen_close(&f);
        }
        net_case_close(&c);
    }
}

/* What net.h says of the pre-gate's logits in plain loops, for the lowest block that a pre-gate
 * decides: the last on the way back that has derivatives by its weights. */
static double check_estimate(const struct frozen *f, int moe, int n_used, int n_rank)
{
    const struct pg_net *n = f->net;
    const struct pg_net_route *r = &n->route[moe];
    int n_expert = n->h->n_expert;
    double by = (double)n->opt.imitate_weight / n->model->n_moe / n->n_tok, largest = 0, apart = 0;
    int n_others = 0;
    for (int t = 0; t < n->n_tok; t++) {
        const float *p = r->p + t * n_expert, *q = r->q + t * n_expert;
        const float *by_logit = r->dlogits + t * n_expert;
        const int32_t *id = r->id + t * n_rank;
        double sum = 0, wanted[256] = {0};
        bool taken[256] = {false};
        for (int i = 0; i < n_used; i++) { /* the router's own */
            int best = -1;
            for (int e = 0; e < n_expert; e++)
                best = !taken[e] && (best < 0 || q[e] > q[best]) ? e : best;
            taken[best] = true;
            sum += (double)q[best];
        }
        for (int i = 0; i < n_rank; i++) {
            double w = (double)q[id[i]] / sum;
            wanted[id[i]] = w * (double)n->dweight[r->row_of[t * n_rank + i]];
            n_others += i < n_used && !taken[id[i]];
            if (i < n_used)
                assert_true(fabs((double)r->weight[t * n_rank + i] - w) < 1e-5);
        }
        for (int e = 0; e < n_expert; e++) {
            wanted[e] += by * (double)(p[e] - q[e]);
            apart += (double)q[e] * log((double)(q[e] / p[e])) / n->n_tok / n->model->n_moe;
            assert_true(fabs((double)by_logit[e] - wanted[e]) < 1e-8 + 1e-6 * fabs(wanted[e]));
            largest = fmax(largest, fabs(wanted[e]));
        }
    }
    assert_true(n_others > 0);
    return apart;
    assert_true(largest > 1e-5);
}

static void estimates_are_as_defined(void **state)
{
    const struct shape s = {"qwen3-tiny", "Q6_K", 1, 8, true, false, PG_GATE_ROUTER, 2};
    char path[128];
    struct net_case c;
    struct frozen f;
    (void)state;
    open_flat(&c, made(&s, path), &s);
    assert_true(c.model.h.n_expert <= 256 && c.model.h.rule.renormalise);
    c.opt.balance_weight = c.opt.sticky_weight = 0;
    c.opt.imitate_weight = 0.4f;
    frozen_open(&f, &c, 0, 2);
    struct pg_net_loss loss = frozen_run(&f, &c, true);
    int n_rank = c.model.h.n_expert_used + s.n_runners_up;
    double apart = check_estimate(&f, s.level, c.model.h.n_expert_used, n_rank);
    assert_true(apart > 1e-4 && loss.imitate > apart * 0.999);
    assert_true(fabs(loss.total - loss.nll - (double)0.4f * loss.imitate) < 1e-6);
    frozen_close(&f);
    net_case_close(&c);
}

/* With s slots for n experts that are all used, a step reads n on its way forward but those that
 * the last one left, and on its way back those that are no longer there; none for the blocks below
 * the lowest that a pre-gate decides. */
static void experts_are_read_twice_a_step(void **state)
{
    const struct shape s = {"olmoe-tiny", "Q4_K", 1, 0, false, false, PG_GATE_ROUTER, 0};
    char path[128];
    struct net_case c;
    struct frozen f;
    struct pg_stats before, after;
    (void)state;
    open_flat(&c, made(&s, path), &s);
    frozen_open(&f, &c, 6, 2);
    int n = c.model.n_moe * c.model.h.n_expert, n_below = c.model.h.n_expert * s.level;
    int n_slots = f.engine->plan.n_slots;
    assert_true(n_slots >= 4 && n_slots < n / 2);
    frozen_run(&f, &c, true);
    for (int moe = 0; moe < c.model.n_moe; moe++) { /* each expert has rows */
        uint8_t seen[256] = {0};
        int n_seen = 0;
        for (int i = 0; i < N_SEQ * SEQ_LEN * c.model.h.n_expert_used; i++)
            seen[pg_net_route(f.net, moe)[i]] = 1;
        for (int e = 0; e < c.model.h.n_expert; e++)
            n_seen += seen[e];
        assert_int_equal(n_seen, c.model.h.n_expert);
    }
    pg_engine_stats(f.engine, &before);
    frozen_run(&f, &c, true);
    pg_engine_stats(f.engine, &after);
    uint64_t reads =
        (after.expert_bytes_read - before.expert_bytes_read) / f.engine->plan.slot_bytes;
    int least = 2 * (n - n_slots) - n_below;
    if (reads > (uint64_t)(least + n_below + 4))
        fail_msg("%d experts, %d slots: %d reads found, %d wanted", n, n_slots, (int)reads, least);
    assert_int_equal((int)(after.expert_requests - before.expert_requests), 2 * n - n_below);
    frozen_close(&f);
    net_case_close(&c);
}

static int stop(void *user)
{
    return ++*(int *)user == 3;
}

static void it_can_be_stopped_and_refused(void **state)
{
    const struct shape s = {"gen_moe/olmoe.gguf", NULL, 1, 0, false, false, PG_GATE_ROUTER, 0};
    struct net_case c;
    struct frozen f;
    struct pg_net_loss loss, wanted;
    struct pg_net *other;
    struct pg_err err;
    int asked = 0;
    (void)state;
    open_flat(&c, s.file, &s);
    frozen_open(&f, &c, 4, 2);
    wanted = frozen_run(&f, &c, true);
    pg_net_close(f.net);
    f.opt.tick = stop;
    f.opt.user = &asked;
    assert_int_equal(pg_net_open(&f.net, &f.opt, &err), 0);
    assert_int_equal(
        pg_net_run(f.net, (struct pg_net_point){f.w, f.g, 1, NULL, 0}, &c.batch, &loss, &err),
        PG_ECANCELLED);
    loss = frozen_run(&f, &c, true); /* the store is as usable as before */
    assert_memory_equal(&loss, &wanted, sizeof(loss));
    same_gradient(&f, (net_case_run(&c, true), &c));
    f.opt.gate = PG_GATE_ROUTER;
    assert_int_equal(pg_net_open(&other, &f.opt, &err), PG_EARG);
    says(err.text, "pre-gates are wanted");
    assert_true(pg_net_flop(&f.opt, false) > 0);
    frozen_close(&f);
    net_case_close(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_flat_net_has_the_same_bits),
        cmocka_unit_test(estimates_are_as_defined),
        cmocka_unit_test(experts_are_read_twice_a_step),
        cmocka_unit_test(it_can_be_stopped_and_refused),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
