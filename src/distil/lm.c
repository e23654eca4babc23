/* SPDX-License-Identifier: MIT
 * Pre-gates by the loss of the language model: the order of things.
 */
#include "distil/lm.h"

#include "base/log.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ------------------------------------------------------------------ progress ---------------- */

/* Blocks of a step: there, and back. */
static int n_ticks_of(const struct pg_lm *t)
{
    return 2 * t->engine->model.h.n_layer;
}

int pg_lm_tick(void *user)
{
    struct pg_lm *t = user;
    uint64_t step = t->head.n_seq * t->head.seq_len;
    t->n_ticks++;
    if (!t->opt.progress)
        return 0;
    uint64_t part = step * (uint64_t)PG_MIN(t->n_ticks, n_ticks_of(t)) / (uint64_t)n_ticks_of(t);
    return t->opt.progress(t->opt.user, "tokens", t->head.step * step + (t->measuring ? 0 : part),
                           t->head.n_steps * step);
}

/* ------------------------------------------------------------------ held-out text ----------- */

/* Means over the targets of the held-out batches. */
static int measure(struct pg_lm *t, struct pg_net_loss *mean, struct pg_err *err)
{
    *mean = (struct pg_net_loss){0};
    pg_batches_seek(&t->held_batches, 0);
    t->measuring = true;
    for (int i = 0; i < t->n_held; i++) {
        struct pg_batch b;
        struct pg_net_loss loss;
        pg_batches_next(&t->held_batches, &b);
        const struct pg_net_batch batch = {b.token,  b.target,       b.start,
                                           b.source, b.source_start, b.source_of};
        PG_TRY(
            pg_net_run(t->net, (struct pg_net_point){.w = t->s.w, .scale = 1}, &batch, &loss, err));
        mean->total += loss.total * (double)loss.n_targets;
        mean->nll += loss.nll * (double)loss.n_targets;
        mean->n_targets += loss.n_targets;
    }
    t->measuring = false;
    mean->total /= (double)mean->n_targets;
    mean->nll /= (double)mean->n_targets;
    return 0;
}

static bool is_due(const struct pg_lm_head *h)
{
    bool at = h->step % h->eval_every == 0 || h->step == h->n_steps;
    return at && h->n_measured <= (h->step + h->eval_every - 1) / h->eval_every;
}

static int judge(struct pg_lm *t, struct pg_err *err)
{
    struct pg_lm_head *h = &t->head;
    struct pg_net_loss now;
    PG_TRY(measure(t, &now, err));
    if (h->n_measured++ == 0) {
        h->first_nll = now.nll;
        h->first_loss = now.total;
    }
    if (h->n_measured == 1 || now.total < h->best_loss) {
        h->best_nll = now.nll;
        h->best_loss = now.total;
        h->best_step = h->step;
        memcpy(t->best, t->s.w, t->params->n_values * sizeof(float));
    }
    double n_tok = (double)(h->step * h->n_seq * h->seq_len);
    pg_say(PG_LOG_OF(&t->opt), PG_LOG_INFO,
           "step %d of %d: held-out nll %.4f, began with %.4f; loss %.4f, least %.4f; %.0f tok/s",
           (int)h->step, (int)h->n_steps, now.nll, h->first_nll, now.total, h->best_loss,
           h->seconds > 0 ? n_tok / h->seconds : 0.0);
    return 0;
}

/* ------------------------------------------------------------------ steps ------------------- */

static int not_finite(const struct pg_lm *t, const char *what, struct pg_err *err)
{
    return pg_fail(err, PG_ENUMERIC,
                   "step %d: the %s is not finite; a smaller learning rate may help. The last "
                   "checkpoint is as it was",
                   (int)t->head.step + 1, what);
}

static int update(struct pg_lm *t, struct pg_err *err)
{
    const struct pg_rate_plan plan = {.schedule = PG_LR_COSINE,
                                      .lr = t->opt.lr,
                                      .end = 0.1f,
                                      .n_warmup = t->opt.n_steps / 20,
                                      .n_steps = t->opt.n_steps};
    double norm = pg_adam_norm(&t->adam, t->s.g);
    if (!isfinite(norm))
        return not_finite(t, "gradient", err);
    const struct pg_adam_rates rates = {
        .step = (int)t->head.step + 1,
        .lr = pg_rate_at(&plan, (int)t->head.step),
        .beta1 = 0.9f,
        .beta2 = 0.95f,
        .eps = 1e-8f,
        .scale = (float)PG_MIN(1.0, 1 / (norm + 1e-6)),
    };
    return pg_adam_step(&t->adam, &rates, &t->s) ? 0 : not_finite(t, "new weight", err);
}

/* Processor time of all threads. */
static double cpu_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int take_step(struct pg_lm *t, struct pg_err *err)
{
    struct pg_stats before, after;
    struct pg_batch b;
    struct pg_net_loss loss;
    uint64_t begin = pg_now_ns();
    double cpu = cpu_now();
    t->n_ticks = 0;
    pg_engine_stats(t->engine, &before);
    pg_batches_next(&t->batches, &b);
    const struct pg_net_batch batch = {b.token,  b.target,       b.start,
                                       b.source, b.source_start, b.source_of};
    int rc = pg_net_run(t->net, (struct pg_net_point){.w = t->s.w, .g = t->s.g, .scale = 1}, &batch,
                        &loss, err);
    if (rc == PG_ENUMERIC)
        return not_finite(t, "loss", err);
    PG_TRY(rc);
    PG_TRY(update(t, err));
    pg_engine_stats(t->engine, &after);
    t->bytes_read += after.expert_bytes_read - before.expert_bytes_read;
    t->stall_seconds += after.stall_seconds - before.stall_seconds;
    t->n_steps++;
    t->head.step++;
    double seconds = (double)(pg_now_ns() - begin) * 1e-9;
    t->seconds += seconds;
    t->cpu_seconds += cpu_now() - cpu;
    t->head.seconds += seconds;
    return 0;
}

static int run_steps(struct pg_lm *t, struct pg_err *err)
{
    struct pg_lm_head *h = &t->head;
    for (;;) {
        if (is_due(h))
            PG_TRY(judge(t, err));
        if (h->step == h->n_steps)
            return 0;
        PG_TRY(take_step(t, err));
        if (h->step % (uint64_t)t->opt.checkpoint_every == 0)
            PG_TRY(pg_lm_save(t, err));
    }
}

static int begin(struct pg_lm *t, struct pg_err *err)
{
    bool found = false;
    if (t->opt.resume) {
        PG_TRY(pg_lm_load(t, &found, err));
        if (found)
            pg_say(PG_LOG_OF(&t->opt), PG_LOG_INFO, "%s: gone on with after step %d", t->checkpoint,
                   (int)t->head.step);
        else
            pg_say(PG_LOG_OF(&t->opt), PG_LOG_INFO, "%s is not there: this run begins anew",
                   t->checkpoint);
    }
    pg_batches_seek(&t->batches, t->head.step * t->head.n_seq);
    return found ? 0 : pg_lm_save(t, err); /* what distilling has brought is not to be lost */
}

/* ------------------------------------------------------------------ the end ----------------- */

static int write_sidecar(struct pg_lm *t, struct pg_err *err)
{
    const struct pg_model *m = &t->engine->model;
    struct pg_pregate *gates = pg_calloc((size_t)m->n_moe, sizeof(*gates));
    if (!gates)
        return pg_fail(err, PG_ENOMEM, "out of memory");
    pg_pregates_in(m, t->params, t->best, gates);
    struct pg_sidecar s = {.model = m,
                           .hash = t->head.model,
                           .level = t->from.level,
                           .decides = true,
                           .weigher = t->opt.weigher,
                           .gates = gates};
    int rc = pg_sidecar_save(&s, t->opt.out, err);
    free(gates);
    return rc;
}

static void report(const struct pg_lm *t, struct pg_tune_report *out)
{
    const struct pg_lm_head *h = &t->head;
    const struct pg_plan *p = &t->engine->plan;
    *out = (struct pg_tune_report){
        .n_tokens = h->step * h->n_seq * h->seq_len,
        .n_tokens_held = (uint64_t)t->n_held * h->n_seq * h->seq_len,
        .lm = {.n_steps = (int)h->n_steps,
               .best_step = (int)h->best_step,
               .n_seq = (int)h->n_seq,
               .seq_len = (int)h->seq_len,
               .level = t->from.level,
               .n_pregates = t->engine->model.n_moe - t->from.level,
               .nll_before = h->first_nll,
               .nll_after = h->best_nll,
               .loss_before = h->first_loss,
               .loss_after = h->best_loss,
               .n_counted = t->n_steps,
               .bytes_read = t->bytes_read,
               .bytes_missing = (uint64_t)(p->n_expert_total - p->n_slots) * p->slot_bytes,
               .flop = pg_net_flop(&t->net_options, true) * t->n_steps,
               .seconds = t->seconds,
               .cpu_seconds = t->cpu_seconds,
               .stall_seconds = t->stall_seconds},
    };
}

static int run(struct pg_lm *t, struct pg_err *err)
{
    PG_TRY(begin(t, err));
    int rc = run_steps(t, err);
    if (rc == PG_ECANCELLED) {
        struct pg_err other;
        return pg_lm_save(t, &other) ? pg_fail(err, other.code, "%s", other.text) : rc;
    }
    return rc;
}

int pg_lm_tune(const struct pg_tune_options *opt, struct pg_tune_report *out, struct pg_err *err)
{
    struct pg_lm t;
    int rc = pg_lm_open(&t, opt, err);
    rc = rc ? rc : run(&t, err);
    rc = rc ? rc : write_sidecar(&t, err);
    if (!rc) {
        report(&t, out);
        pg_outfile_remove(t.checkpoint); /* one that stays would lead to the same file again */
    }
    pg_lm_close(&t);
    return rc;
}
