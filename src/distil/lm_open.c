/* SPDX-License-Identifier: MIT */
#include "distil/lm.h"

#include "base/hash.h"
#include "base/log.h"
#include "base/random.h"
#include "distil/distil.h"
#include "net/rows/blas.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    DEFAULT_STEPS = 300,
    DEFAULT_LEN = 256,
    MOST_SEQ = 16, /* rows of a batch that is not given */
    N_VECTORS = 5, /* weights, gradient, two moments, the best weights */
};
/* Memory that OpenBLAS packs a thread's matrices in. */
#define BLAS_BYTES ((uint64_t)16 << 20)

/* ------------------------------------------------------------------ options ----------------- */

static void fill_in(struct pg_tune_options *o)
{
    o->n_steps = o->n_steps ? o->n_steps : DEFAULT_STEPS;
    o->lr = o->lr > 0 ? o->lr : 3e-4f;
    if (o->imitate == 0)
        o->imitate = o->weigher == PG_GATE_ROUTER ? 10 : 0;
    o->imitate = PG_MAX(o->imitate, 0);
    o->holdout = o->holdout > 0 ? o->holdout : 0.1f;
    o->eval_every = o->eval_every ? o->eval_every : PG_MAX(1, o->n_steps / 10);
    o->checkpoint_every = o->checkpoint_every ? o->checkpoint_every : 100;
}

static int check_options(const struct pg_tune_options *o, struct pg_err *err)
{
    if (o->imitate > 0 && o->weigher != PG_GATE_ROUTER)
        return pg_fail(err, PG_EARG,
                       "imitation has weight %g: routers that weigh are wanted, and pre-gates do",
                       (double)o->imitate);
    if (pg_same_file(o->model, o->out))
        return pg_fail(err, PG_EARG, "%s is the model itself; the sidecar needs a file of its own",
                       o->out);
    for (int i = 0; i < o->n_data; i++)
        if (pg_same_file(o->data[i], o->out))
            return pg_fail(err, PG_EARG, "%s is a file of the text; the sidecar needs its own",
                           o->out);
    return 0;
}

/* ------------------------------------------------------------------ memory ------------------ */

static double mib(uint64_t bytes)
{
    return (double)bytes / (1 << 20);
}

static struct pg_options engine_options(const struct pg_lm *t)
{
    return (struct pg_options){
        PG_OPTIONS_INIT,
        .model = t->opt.model,
        .mode = PG_MODE_ONDEMAND,
        .evict = PG_EVICT_LRU, /* blocks come there and back, not round */
        .hints = PG_HINTS_ON,
        .memory_bytes = t->opt.memory_bytes,
        .n_threads = t->opt.n_threads,
        .n_ctx = 8,
        .log = t->opt.log,
        .progress = t->opt.progress,
        .user = t->opt.user,
    };
}

static void set_net_options(struct pg_lm *t, const struct pg_model *m, struct pg_pool *pool)
{
    t->net_options = (struct pg_net_options){
        .model = m,
        .gate = PG_GATE_PREGATE,
        .level = t->from.level,
        .pregate_bias = t->from.form.bias,
        .pregate_hidden = t->from.form.n_hidden,
        .n_seq = t->opt.n_seq,
        .seq_len = t->opt.seq_len,
        .source_len = t->opt.source_len,
        .sticky_weight = t->opt.sticky,
        .sticky_cache = t->opt.sticky > 0 || t->bias ? t->opt.sticky_cache : 0,
        .cache_bias = t->bias,
        .cache_form = t->opt.cache_form,
        .kl_weight = t->opt.kl,
        .imitate_weight = t->opt.imitate,
        .n_runners_up = t->opt.n_runners_up,
        .weigher = t->opt.weigher,
        .pool = pool,
        .frozen = true,
    };
}

static uint64_t state_bytes(const struct pg_lm *t, const struct pg_model *m)
{
    struct pg_pregate unused;
    size_t each = pg_pregate_place(m, &t->from.form, NULL, &unused);
    return (uint64_t)each * (uint64_t)pg_n_pregates(m, t->from.level) * N_VECTORS * sizeof(float);
}

/* Whether the mode fits beside batches of n_seq rows; e->plan says how. */
static int plan_for(struct pg_lm *t, struct pg_engine *e, enum pg_mode mode, struct pg_err *err)
{
    uint64_t caller = pg_net_bytes(&t->net_options);
    uint64_t blas = (uint64_t)pg_pool_n_threads(t->net_options.pool) * BLAS_BYTES;
    if (caller > (uint64_t)1 << 60)
        return pg_fail(err, PG_EBUDGET, "a batch of %d x %d tokens is larger than any memory",
                       t->net_options.n_seq, t->net_options.seq_len);
    e->opt.mode = mode;
    e->opt.n_batch = 1;
    e->opt.n_source = e->model.h.n_stack > 1; /* it runs no step */
    e->opt.memory_bytes = t->opt.memory_bytes;
    e->opt.caller_bytes = caller + state_bytes(t, &e->model) + blas + 4 * PG_PAGE;
    PG_TRY(pg_engine_plan_memory(e, err));
    /* What fits barely may not when it is opened; the minimum has that to spare. */
    return e->plan.minimum <= e->plan.budget
               ? 0
               : pg_fail(err, PG_EBUDGET,
                         "%llu bytes are too little for batches of %d x %d tokens: the minimum is "
                         "%.2f MiB; --batch makes them smaller",
                         (unsigned long long)e->plan.budget, t->net_options.n_seq,
                         t->net_options.seq_len, mib(e->plan.minimum));
}

/* The whole model in memory; else the batch that reads the least for a token: the larger it is, the
 * fewer slots there are, and the fewer times they are read. */
static int choose_batch(struct pg_lm *t, struct pg_engine *e, struct pg_err *err)
{
    bool given = t->opt.n_seq > 0;
    double least = HUGE_VAL;
    int best = 0, rc = 0;
    for (int n = given ? t->opt.n_seq : MOST_SEQ; n > 0 && least > 0; n = given ? 0 : n / 2) {
        t->net_options.n_seq = n;
        if (plan_for(t, e, PG_MODE_RESIDENT, err) != 0) {
            rc = plan_for(t, e, PG_MODE_ONDEMAND, err);
            if (rc == PG_EBUDGET)
                continue;
            PG_TRY(rc);
        }
        double reads = (double)(e->plan.n_expert_total - e->plan.n_slots) / n;
        if (reads < least) {
            least = reads;
            best = n;
            t->plan = e->plan;
        }
    }
    t->opt.n_seq = t->net_options.n_seq = best;
    return best ? 0 : rc;
}

static int begin_bias(struct pg_lm *t, int n_moe, struct pg_err *err)
{
    const struct pg_gate_biases given = {t->opt.cache_bias, t->opt.block_bias, t->opt.n_block_bias};
    PG_TRY(pg_gate_biases_make(&given, n_moe, &t->bias, err));
    pg_gate_biases_hash(t->bias, n_moe, t->bias_hash);
    return 0;
}

static int check_cache(const struct pg_lm *t, int n_expert, struct pg_err *err)
{
    int n = t->opt.sticky_cache;
    if (n > n_expert)
        return pg_fail(err, PG_EARG, "experts of the imagined cache: %d found, 1 to %d wanted", n,
                       n_expert);
    return !n || t->bias || t->opt.sticky > 0
               ? 0
               : pg_fail(err, PG_EARG,
                         "a cache of %d experts is imagined, but neither stickiness nor a cache "
                         "bias or margin above 0 looks at it",
                         n);
}

/* The pre-gates that learning begins with, or those that distilling will make first. */
static int take_form(struct pg_lm *t, const struct pg_model *m, struct pg_err *err)
{
    const struct pg_tune_options *o = &t->opt;
    if (!o->from_sidecar) {
        t->from = pg_distil_head_of(o);
        return pg_distil_check_model(m, o->model, t->from.level, err);
    }
    PG_TRY(pg_sidecar_peek(m, o->from_sidecar, &t->from, err));
    if (o->level && o->level != t->from.level)
        return pg_fail(err, PG_EARG, "%s: pregate.level: %d found, %d wanted", o->from_sidecar,
                       t->from.level, o->level);
    pg_sidecar_say_weigher(PG_LOG_OF(o), o->from_sidecar, &t->from, o->weigher);
    return 0;
}

static int take_lengths(struct pg_lm *t, const struct pg_model *m, struct pg_err *err)
{
    struct pg_tune_options *o = &t->opt;
    const int most = m->h.n_ctx_train, usual = PG_MIN(DEFAULT_LEN, most);
    o->seq_len = o->seq_len ? o->seq_len : usual;
    if (m->h.n_stack > 1 && !o->source_len)
        o->source_len = usual;
    if (o->seq_len < 2 || o->seq_len > most)
        return pg_fail(err, PG_EARG, "tokens of a sequence: %d found, 2 to %d wanted", o->seq_len,
                       most);
    if (m->h.n_stack == 1 && o->source_len)
        return pg_fail(err, PG_EARG,
                       "sources of %d tokens are asked for, but the model has no encoder",
                       o->source_len);
    if (m->h.n_stack > 1 && (o->source_len < 2 || o->source_len > most))
        return pg_fail(err, PG_EARG, "tokens of a source: %d found, 2 to %d wanted", o->source_len,
                       most);
    return 0;
}

static int divide(struct pg_lm *t, struct pg_engine *e, struct pg_err *err)
{
    const struct pg_model *m = &e->model;
    struct pg_pool *pool;
    PG_TRY(take_form(t, m, err));
    PG_TRY(take_lengths(t, m, err));
    PG_TRY(pg_net_check_runners_up(&m->h, t->opt.n_runners_up, err));
    PG_TRY(begin_bias(t, m->n_moe, err));
    PG_TRY(check_cache(t, m->h.n_expert, err));
    if (!t->opt.sticky_cache)
        t->opt.sticky_cache = PG_MIN(2 * m->h.n_expert_used, m->h.n_expert);
    PG_TRY(pg_lm_text(t, e->vocab, err));
    PG_TRY(pg_pool_open(&pool, e->opt.n_threads, err)); /* asked for how many it has */
    set_net_options(t, m, pool);
    int rc = choose_batch(t, e, err);
    pg_pool_close(pool);
    return rc ? rc : pg_lm_batches(t, &m->h, err);
}

/* Reads the directory and the text and divides the memory, with an engine that is never loaded.
 * OpenBLAS is loaded before, so that it is counted in what the process holds. */
static int plan(struct pg_lm *t, struct pg_err *err)
{
    struct pg_options opt = engine_options(t);
    struct pg_blas blas;
    PG_TRY(pg_blas_open(&blas, err));
    struct pg_engine *e = pg_calloc(1, sizeof(*e));
    if (!e)
        return pg_fail(err, PG_ENOMEM, "out of memory");
    int rc = pg_engine_begin(e, &opt, err);
    rc = rc ? rc : divide(t, e, err);
    pg_engine_close(e);
    return rc;
}

/* ------------------------------------------------------------------ weights ----------------- */

static int take_state(struct pg_lm *t, struct pg_err *err)
{
    size_t n = t->params->n_values;
    t->bytes = N_VECTORS * n * sizeof(float);
    t->base = pg_pages_map(t->bytes);
    if (!t->base)
        return pg_fail(err, PG_ENOMEM, "out of memory: %zu bytes for the optimiser", t->bytes);
    float *all = t->base;
    t->s = (struct pg_adam_state){all, all + n, all + 2 * n, all + 3 * n};
    t->best = all + 4 * n;
    return 0;
}

static int read_weights(struct pg_lm *t, struct pg_err *err)
{
    const struct pg_model *m = &t->engine->model;
    struct pg_pregate *gates = pg_calloc((size_t)m->n_moe, sizeof(*gates));
    if (!gates)
        return pg_fail(err, PG_ENOMEM, "out of memory");
    pg_pregates_in(m, t->params, t->s.w, gates);
    struct pg_sidecar s = {
        .model = m, .hash = t->head.model, .level = t->from.level, .decides = true, .gates = gates};
    int rc = pg_sidecar_load(&s, t->opt.from_sidecar, err);
    free(gates);
    return rc;
}

static void begin_head(struct pg_lm *t)
{
    const struct pg_tune_options *o = &t->opt;
    struct pg_lm_head *h = &t->head;
    uint64_t text = pg_batches_hash(&t->batches);
    *h = (struct pg_lm_head){.seed = o->seed,
                             .level = (uint64_t)t->from.level,
                             .n_hidden = (uint64_t)t->from.form.n_hidden,
                             .n_steps = (uint64_t)o->n_steps,
                             .n_seq = (uint64_t)o->n_seq,
                             .seq_len = (uint64_t)o->seq_len,
                             .n_held = (uint64_t)t->n_held,
                             .eval_every = (uint64_t)o->eval_every,
                             .sticky_cache = (uint64_t)o->sticky_cache,
                             .cache_form = (uint64_t)o->cache_form,
                             .lr = (double)o->lr,
                             .sticky = (double)o->sticky,
                             .kl = (double)o->kl,
                             .imitate = (double)o->imitate,
                             .n_runners_up = (uint64_t)o->n_runners_up,
                             .weigher = (uint64_t)o->weigher};
    text ^= pg_batches_hash(&t->held_batches) * 31 + (uint64_t)o->source_len * PG_RANDOM_STEP;
    pg_hash_text(text, h->text);
    memcpy(h->bias, t->bias_hash, sizeof(h->bias));
    pg_model_hash(&t->engine->model, t->engine->routers, h->model);
}

/* ------------------------------------------------------------------ open and close ---------- */

static void say_memory(const struct pg_lm *t)
{
    const struct pg_plan *p = &t->engine->plan;
    pg_say(PG_LOG_OF(&t->opt), PG_LOG_INFO,
           "memory: %.1f MiB: dense weights %.1f, %d of %d experts %.1f, batch of %d x %d and "
           "optimiser %.1f",
           mib(p->budget), mib(p->dense), p->n_slots, p->n_expert_total, mib(p->slots),
           t->opt.n_seq, t->opt.seq_len, mib(p->caller));
}

static int open_all(struct pg_lm *t, struct pg_err *err)
{
    struct pg_options opt = engine_options(t);
    opt.mode = t->plan.mode;
    opt.n_batch = 1;
    opt.n_source = t->opt.source_len > 0;
    opt.memory_bytes = t->plan.budget;
    opt.caller_bytes = t->plan.caller;
    PG_TRY(pg_engine_open(&t->engine, &opt, err));
    struct pg_engine *e = t->engine;
    set_net_options(t, &e->model, e->compute.pool);
    t->net_options.store = e->store;
    t->net_options.n_slots = e->plan.n_slots;
    t->net_options.tick = pg_lm_tick;
    t->net_options.user = t;
    PG_TRY(pg_net_open(&t->net, &t->net_options, err));
    t->params = pg_net_params(t->net);
    begin_head(t);
    PG_TRY(take_state(t, err));
    PG_TRY(read_weights(t, err));
    PG_TRY(pg_adam_open(&t->adam, t->params, NULL, e->compute.pool, err));
    pg_hash_text(pg_hash_bytes(PG_HASH_START, t->s.w, t->params->n_values * sizeof(float)),
                 t->head.start);
    say_memory(t);
    return pg_blas_check(e->opt.n_threads, err);
}

int pg_lm_check(const struct pg_tune_options *opt, struct pg_err *err)
{
    struct pg_lm t = {.opt = *opt};
    fill_in(&t.opt);
    int rc = check_options(&t.opt, err);
    rc = rc ? rc : plan(&t, err);
    pg_lm_close(&t);
    return rc;
}

int pg_lm_open(struct pg_lm *t, const struct pg_tune_options *opt, struct pg_err *err)
{
    *t = (struct pg_lm){.opt = *opt};
    fill_in(&t->opt);
    PG_TRY(check_options(&t->opt, err));
    t->checkpoint = pg_lm_checkpoint(&t->opt);
    if (!t->checkpoint)
        return pg_fail(err, PG_ENOMEM, "out of memory");
    PG_TRY(pg_lock_take(&t->lock, t->opt.out, err));
    PG_TRY(plan(t, err));
    return open_all(t, err);
}

void pg_lm_close(struct pg_lm *t)
{
    pg_net_close(t->net);
    pg_adam_close(&t->adam);
    pg_batches_close(&t->batches);
    pg_batches_close(&t->held_batches);
    pg_lm_text_close(t);
    pg_engine_close(t->engine);
    if (t->base)
        pg_pages_unmap(t->base, t->bytes);
    pg_lock_drop(&t->lock);
    free(t->bias);
    free(t->checkpoint);
}
