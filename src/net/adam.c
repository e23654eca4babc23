/* SPDX-License-Identifier: MIT */
#include "net/adam.h"

#include "base/os.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

int pg_adam_open(struct pg_adam *a, const struct pg_params *params, const bool *frozen,
                 struct pg_pool *pool, struct pg_err *err)
{
    size_t n = 0;
    *a = (struct pg_adam){.pool = pool};
    for (int i = 0; i < params->n; i++)
        n += (params->p[i].n + PG_ADAM_CHUNK - 1) / PG_ADAM_CHUNK;
    a->chunk = n <= INT_MAX ? pg_calloc(n, sizeof(a->chunk[0])) : NULL;
    if (!a->chunk) {
        return pg_fail(err, PG_ENOMEM, "out of memory for the optimiser of %zu values",
                       params->n_values);
    }
    for (int i = 0; i < params->n; i++) {
        const struct pg_param *p = &params->p[i];
        for (size_t at = 0; at < p->n; at += PG_ADAM_CHUNK) {
            a->chunk[a->n++] = (struct pg_adam_chunk){
                .at = p->at + at,
                .n = PG_MIN(p->n - at, (size_t)PG_ADAM_CHUNK),
                .decays = p->is_matrix,
                .frozen = frozen && frozen[i],
            };
        }
    }
    return 0;
}

void pg_adam_close(struct pg_adam *a)
{
    free(a->chunk);
    *a = (struct pg_adam){0};
}

float pg_rate_at(const struct pg_rate_plan *p, int step)
{
    const double lr = (double)p->lr, end = lr * (double)p->end;
    if (step < p->n_warmup)
        return (float)(lr * (step + 1) / p->n_warmup);
    const double part = (double)(step - p->n_warmup) / PG_MAX(1, p->n_steps - p->n_warmup);
    if (p->schedule == PG_LR_COSINE)
        return (float)(end + (lr - end) * 0.5 * (1 + cos(3.14159265358979323846 * part)));
    return p->schedule == PG_LR_LINEAR ? (float)(lr + (end - lr) * part) : p->lr;
}

/* ------------------------------------------------------------------ norm -------------------- */

struct norm_job {
    struct pg_adam *a;
    const float *g;
};

static void sum_chunk(void *arg, int task, int thread)
{
    enum { LANES = 8 };
    struct norm_job *job = arg;
    struct pg_adam_chunk *c = &job->a->chunk[task];
    const float *g = job->g + c->at;
    double lane[LANES] = {0}, sum = 0;
    size_t i = 0;
    (void)thread;
    if (c->frozen)
        return;
    for (; i + LANES <= c->n; i += LANES)
        for (int k = 0; k < LANES; k++)
            lane[k] += (double)g[i + (size_t)k] * (double)g[i + (size_t)k];
    for (; i < c->n; i++)
        sum += (double)g[i] * (double)g[i];
    for (int k = 0; k < LANES; k++)
        sum += lane[k];
    c->sum = sum;
}

double pg_adam_norm(struct pg_adam *a, const float *g)
{
    struct norm_job job = {a, g};
    double sum = 0;
    pg_pool_run(a->pool, sum_chunk, &job, a->n);
    for (int i = 0; i < a->n; i++)
        sum += a->chunk[i].frozen ? 0.0 : a->chunk[i].sum;
    return sqrt(sum);
}

/* ------------------------------------------------------------------ step -------------------- */

struct step_job {
    struct pg_adam *a;
    struct pg_adam_state *s;
    struct pg_adam_row matrix, vector; /* vectors do not decay */
};

static void step_chunk(void *arg, int task, int thread)
{
    struct step_job *job = arg;
    struct pg_adam_chunk *c = &job->a->chunk[task];
    const struct pg_adam_state *s = job->s;
    (void)thread;
    c->finite = true;
    if (!c->frozen) {
        struct pg_adam_state at = {s->w + c->at, s->g + c->at, s->m + c->at, s->v + c->at};
        pg_adam_row(c->decays ? &job->matrix : &job->vector, &at, c->n);
        c->finite = pg_all_finite(at.w, c->n);
    }
    memset(s->g + c->at, 0, c->n * sizeof(float));
}

bool pg_adam_step(struct pg_adam *a, const struct pg_adam_rates *r, struct pg_adam_state *s)
{
    double first = 1 - pow((double)r->beta1, r->step), second = 1 - pow((double)r->beta2, r->step);
    struct pg_adam_row f = {
        .scale = r->scale,
        .beta1 = r->beta1,
        .beta2 = r->beta2,
        .rest1 = (float)(1 - (double)r->beta1),
        .rest2 = (float)(1 - (double)r->beta2),
        .keep = (float)(1 - (double)r->lr * (double)r->decay),
        .rate = (float)((double)r->lr / first),
        .root = (float)(1 / sqrt(second)),
        .eps = r->eps,
    };
    struct step_job job = {a, s, f, f};
    bool finite = true;
    job.vector.keep = 1;
    pg_pool_run(a->pool, step_chunk, &job, a->n);
    for (int i = 0; i < a->n; i++)
        finite = finite && a->chunk[i].finite;
    return finite;
}
