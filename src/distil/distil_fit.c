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

static int n_gates_of(const struct pg_fit_options *o, int stack)
{
    return PG_MAX(0, o->stack[stack].moe.n - o->level);
}

struct pg_fit_place pg_fit_place(const struct pg_fit_options *o, int gate)
{
    int stack = 0;
    for (; gate >= n_gates_of(o, stack); stack++)
        gate -= n_gates_of(o, stack);
    return (struct pg_fit_place){stack, gate, o->stack[stack].moe.first + gate};
}

void pg_fit_carve(struct pg_fit *f, const struct pg_fit_options *opt, struct pg_arena *a)
{
    *f = (struct pg_fit){.opt = *opt};
    for (int i = 0; i < opt->n_stacks; i++)
        f->n_gate += n_gates_of(opt, i);
    f->n_values = pg_fit_parts(opt).end;
    f->gate = pg_arena_take(a, (size_t)f->n_gate * sizeof(*f->gate));
    f->scratch = pg_arena_take(a, (size_t)opt->n_threads * sizeof(*f->scratch));
    for (int i = 0; i < opt->n_stacks; i++)
        f->order[i] = pg_arena_take(a, opt->stack[i].max_tokens * sizeof(int32_t));
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
    const struct pg_states *s; /* [n_stacks] */
    int from, to, n;           /* minibatches of the stack `most`, and how many a pass has */
    float part;                /* of the rates */
};

static int n_minibatches(size_t n_tokens)
{
    return (int)((n_tokens + PG_MINIBATCH - 1) / PG_MINIBATCH);
}

static struct pg_fit_batch batch_of(const struct pg_states *s, const int32_t *order, int i)
{
    size_t from = (size_t)i * PG_MINIBATCH;
    int n = (int)PG_MIN(PG_MINIBATCH, s->n - from);
    return (struct pg_fit_batch){s, order, from, n};
}

static void learn(void *arg, int gate, int thread)
{
    const struct work *work = arg;
    struct pg_fit *f = work->f;
    struct pg_fit_scratch *s = &f->scratch[thread];
    struct pg_fit_gate *p = &f->gate[gate];
    struct pg_fit_parts at = pg_fit_parts(&f->opt);
    const struct pg_fit_place place = pg_fit_place(&f->opt, gate);
    const struct pg_states *states = &work->s[place.stack];
    const int64_t n = n_minibatches(states->n);
    const int64_t in_pass = n * PG_MAX(1, f->opt.stack[place.stack].n_repeats);
    const int64_t to = work->to * in_pass / work->n; /* as large a part of the pass */
    for (int64_t i = work->from * in_pass / work->n; i < to && !p->stopped; i++) {
        struct pg_fit_batch b = batch_of(states, f->order[place.stack], (int)(i % n));
        pg_fit_gradient(f, place.block, p->w, &b, s);
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
    const struct pg_fit_place place = pg_fit_place(&f->opt, gate);
    size_t n_expert = (size_t)rule->n_expert;
    struct sums sums = {0};
    for (size_t at = from; at < to; at += PG_MINIBATCH) {
        struct pg_fit_batch b = {&work->s[place.stack], NULL, at,
                                 (int)PG_MIN(PG_MINIBATCH, to - at)};
        sums.loss += pg_fit_loss(f, place.block, w, &b, s);
        for (int t = 0; t < b.n; t++) {
            float *own = s->z + (size_t)t * n_expert;
            memcpy(s->p, pg_states_logits(b.states, place.block + f->opt.level, at + (size_t)t),
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
    size_t n = (work->s[pg_fit_place(&f->opt, gate).stack].n + 1) / 2;
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
    const struct pg_fit_place place = pg_fit_place(&f->opt, gate);
    size_t end = work->s[place.stack].n;
    struct sums sums = measure(work, gate, p->best, end / 2, end, &f->scratch[thread]);
    p->agree = pg_agreement_of(&sums.agreement, place.moe + f->opt.level, f->opt.rule.n_used);
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
    int n_batches = n_minibatches(train[f->opt.most].n);
    uint64_t stream = (uint64_t)f->round * (uint64_t)f->opt.n_passes + (uint64_t)f->pass;
    for (int i = 0; i < f->opt.n_stacks; i++)
        pg_shuffle(f->order[i], (int)train[i].n, f->opt.seed, PG_STREAM_PASS + stream);
    while (f->minibatch < n_batches) {
        int to = PG_MIN(n_batches, f->minibatch + AT_ONCE);
        uint64_t done = (uint64_t)f->pass * (uint64_t)n_batches + (uint64_t)to;
        struct work work = {f, train, f->minibatch, to, n_batches, part_at(f, n_batches)};
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
