/* SPDX-License-Identifier: MIT
 * Pre-gates fitted to what routers say: rounds of passes of minibatches, one task a gate.
 */
#include "distil/distil_fit.h"
#include "net/rows/adam_row.h"

#include "gate/agreement.h"

#include <math.h>
#include <string.h>

enum { AT_ONCE = 8 }; /* minibatches between two looks at the user */

/* AdamW. Rates fall in a straight line to the last part of them; `rate` is that of all values but
 * the matrices that are multiplied with the state. */
static const float rate = 1e-3f, last_rate = 0.02f, decay = 0.01f;
static const float beta1 = 0.9f, beta2 = 0.999f, epsilon = 1e-8f;

void pg_fit_carve(struct pg_fit *f, const struct pg_fit_options *opt, struct pg_arena *a)
{
    *f = (struct pg_fit){.opt = *opt, .n_gate = opt->n_moe - opt->level};
    f->n_values = pg_fit_parts(opt).end;
    f->gate = pg_arena_take(a, (size_t)f->n_gate * sizeof(*f->gate));
    f->scratch = pg_arena_take(a, (size_t)opt->n_threads * sizeof(*f->scratch));
    f->order = pg_arena_take(a, opt->max_tokens * sizeof(int32_t));
    for (int i = 0; i < f->n_gate; i++) {
        struct pg_fit_gate g = {
            .w = pg_arena_take(a, f->n_values * sizeof(float)),
            .m = pg_arena_take(a, f->n_values * sizeof(float)),
            .v = pg_arena_take(a, f->n_values * sizeof(float)),
            .best = pg_arena_take(a, f->n_values * sizeof(float)),
        };
        if (a->base)
            f->gate[i] = g;
    }
    for (int i = 0; i < opt->n_threads; i++) {
        struct pg_fit_scratch s = pg_fit_scratch_carve(&f->opt, a);
        if (!a->base)
            continue;
        f->scratch[i] = s;
        for (int k = 0; k < opt->n_hidden; k++)
            s.ones[k] = 1;
    }
}

/* Values [from, to), with a decay where they are of matrices. */
static void adamw(struct pg_fit_gate *p, float *g, size_t from, size_t to, float lr, float less)
{
    const struct pg_adam_row how = {
        .beta1 = beta1,
        .beta2 = beta2,
        .rest1 = 1 - beta1,
        .rest2 = 1 - beta2,
        .eps = epsilon,
        .first = 1 - powf(beta1, (float)p->n_steps),
        .second = 1 - powf(beta2, (float)p->n_steps),
        .lr = lr,
        .decay = less,
        .scale = 1,
    };
    struct pg_adam_state s = {p->w + from, g + from, p->m + from, p->v + from};
    pg_adam_row(&how, &s, to - from);
}

/* ------------------------------------------------------------------ passes ------------------ */

struct work {
    struct pg_fit *f;
    const struct pg_states *s;
    int from, to; /* minibatches */
    float part;   /* of the rates */
};

static int n_minibatches(size_t n_tokens)
{
    return (int)((n_tokens + PG_MINIBATCH - 1) / PG_MINIBATCH);
}

static struct pg_fit_batch batch_of(const struct work *work, const int32_t *order, int i)
{
    size_t from = (size_t)i * PG_MINIBATCH;
    int n = (int)PG_MIN(PG_MINIBATCH, work->s->n - from);
    return (struct pg_fit_batch){work->s, order, from, n};
}

static void learn(void *arg, int gate, int thread)
{
    const struct work *work = arg;
    struct pg_fit *f = work->f;
    struct pg_fit_scratch *s = &f->scratch[thread];
    struct pg_fit_gate *p = &f->gate[gate];
    struct pg_fit_parts at = pg_fit_parts(&f->opt);
    for (int i = work->from; i < work->to && !p->stopped; i++) {
        struct pg_fit_batch b = batch_of(work, f->order, i);
        pg_fit_gradient(f, gate, p->w, &b, s);
        p->n_steps++;
        adamw(p, s->g, at.w, at.u, p->rate * work->part, decay);
        adamw(p, s->g, at.u, at.b, rate * work->part, decay);
        adamw(p, s->g, at.b, at.end, rate * work->part, 0);
    }
}

/* ------------------------------------------------------------------ measuring --------------- */

/* Over tokens. */
struct sums {
    double loss;
    struct pg_agreement agreement;
};

/* The weights w over held-out tokens [from, to). */
static struct sums measure(const struct work *work, int gate, const float *w, size_t from,
                           size_t to, const struct pg_fit_scratch *s)
{
    const struct pg_fit *f = work->f;
    const struct pg_gate_rule *rule = &f->opt.rule;
    size_t n_expert = (size_t)rule->n_expert;
    struct sums sums = {0};
    for (size_t at = from; at < to; at += PG_MINIBATCH) {
        struct pg_fit_batch b = {work->s, NULL, at, (int)PG_MIN(PG_MINIBATCH, to - at)};
        sums.loss += pg_fit_loss(f, gate, w, &b, s);
        for (int t = 0; t < b.n; t++) {
            float *own = s->z + (size_t)t * n_expert;
            memcpy(s->p, pg_states_logits(b.states, gate + f->opt.level, at + (size_t)t),
                   n_expert * sizeof(float));
            pg_agreement_name(rule, f->opt.k, s->p, s->id[0], s->weight);
            pg_agreement_name(rule, f->opt.k, own, s->id[1], s->weight);
            pg_agreement_add(&sums.agreement, s->p, (struct pg_named){s->id[0], rule->n_used},
                             (struct pg_named){s->id[1], rule->n_used});
        }
    }
    return sums;
}

/* A pre-gate that hints is chosen by the experts it misses, one that decides by its loss. */
static void judge(void *arg, int gate, int thread)
{
    const struct work *work = arg;
    const struct pg_fit *f = work->f;
    struct pg_fit_gate *p = &f->gate[gate];
    size_t n = (work->s->n + 1) / 2;
    if (!p->stopped) {
        struct sums sums = measure(work, gate, p->w, 0, n, &f->scratch[thread]);
        p->loss = sums.loss / (double)n;
        p->score = f->opt.decides
                       ? p->loss
                       : 1 - (double)sums.agreement.found / ((double)n * f->opt.rule.n_used);
    }
}

static void agree(void *arg, int gate, int thread)
{
    const struct work *work = arg;
    const struct pg_fit *f = work->f;
    struct pg_fit_gate *p = &f->gate[gate];
    size_t end = work->s->n;
    struct sums sums = measure(work, gate, p->best, end / 2, end, &f->scratch[thread]);
    p->agree = pg_agreement_of(&sums.agreement, gate + f->opt.level, f->opt.rule.n_used);
}

void pg_fit_agree(struct pg_fit *f, const struct pg_states *held)
{
    struct work work = {.f = f, .s = held};
    pg_pool_run(f->opt.pool, agree, &work, f->n_gate);
}

void pg_fit_begin(struct pg_fit *f, const struct pg_states *held)
{
    struct work work = {.f = f, .s = held};
    pg_pool_run(f->opt.pool, judge, &work, f->n_gate);
    pg_fit_agree(f, held);
    for (int i = 0; i < f->n_gate; i++) {
        struct pg_fit_gate *p = &f->gate[i];
        p->best_score = p->score;
        p->first_loss = p->best_loss = p->loss;
        p->before = p->agree;
    }
}

/* ------------------------------------------------------------------ rounds ------------------ */

/* After a pass: the best weights are kept; a gate that got no better for long has stopped. */
static void keep_best(struct pg_fit *f, const struct pg_states *held)
{
    struct work work = {.f = f, .s = held};
    int n_passes = f->opt.n_rounds * f->opt.n_passes;
    uint32_t patience = (uint32_t)PG_MAX(4, n_passes / 3);
    pg_pool_run(f->opt.pool, judge, &work, f->n_gate);
    for (int i = 0; i < f->n_gate; i++) {
        struct pg_fit_gate *p = &f->gate[i];
        if (p->stopped)
            continue;
        if (p->score < p->best_score) {
            p->best_score = p->score;
            p->best_loss = p->loss;
            p->n_since = 0;
            memcpy(p->best, p->w, f->n_values * sizeof(float));
        } else {
            p->stopped = ++p->n_since >= patience;
        }
    }
}

/* What is left of the rates: they fall over all passes of all rounds. */
static float part_at(const struct pg_fit *f, int n_batches)
{
    double n_passes = (double)f->opt.n_rounds * f->opt.n_passes;
    double done = (double)f->round * f->opt.n_passes + f->pass;
    done = (done + (double)f->minibatch / n_batches) / n_passes;
    return (float)(1 - (1 - (double)last_rate) * done);
}

static int run_pass(struct pg_fit *f, const struct pg_states *train, struct pg_err *err)
{
    int n_batches = n_minibatches(train->n);
    uint64_t stream = (uint64_t)f->round * (uint64_t)f->opt.n_passes + (uint64_t)f->pass;
    pg_shuffle(f->order, (int)train->n, f->opt.seed, PG_STREAM_PASS + stream);
    while (f->minibatch < n_batches) {
        int to = PG_MIN(n_batches, f->minibatch + AT_ONCE);
        uint64_t done = (uint64_t)f->pass * (uint64_t)n_batches + (uint64_t)to;
        struct work work = {f, train, f->minibatch, to, part_at(f, n_batches)};
        pg_pool_run(f->opt.pool, learn, &work, f->n_gate);
        f->minibatch = to;
        if (f->opt.progress && f->opt.progress(f->opt.user, "fitting", done,
                                               (uint64_t)f->opt.n_passes * (uint64_t)n_batches))
            return pg_fail(err, PG_ECANCELLED, "cancelled in round %d while fitting", f->round + 1);
    }
    return 0;
}

int pg_fit_round(struct pg_fit *f, const struct pg_states *train, const struct pg_states *held,
                 struct pg_err *err)
{
    for (; f->pass < f->opt.n_passes; f->pass++) {
        PG_TRY(run_pass(f, train, err));
        keep_best(f, held);
        f->minibatch = 0;
    }
    f->pass = 0;
    f->round++;
    return 0;
}

bool pg_fit_done(const struct pg_fit *f)
{
    return f->round == f->opt.n_rounds;
}
