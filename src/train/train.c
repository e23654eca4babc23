/* SPDX-License-Identifier: MIT
 * Training: open, step, close.
 */
#include "train/train.h"

#include "base/hash.h"
#include "base/log.h"
#include "base/os.h"
#include "base/random.h"
#include "base/ranges.h"
#include "net/rows/blas.h"
#include "train/freeze.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ------------------------------------------------------------------ options ----------------- */

static void or_default(float *v, float normal)
{
    *v = *v == 0 ? normal : *v < 0 ? 0 : *v;
}

static int or_int(int v, int normal)
{
    return v == 0 ? normal : v;
}

/* 0 means the default, below 0 none. */
static void fill_in(struct pg_train_options *o, const struct pg_hparams *h)
{
    const bool pregate = o->gate == PG_GATE_PREGATE;
    o->level = pregate ? or_int(o->level, 1) : o->level;
    o->n_steps = or_int(o->n_steps, 600);
    o->n_seq = or_int(o->n_seq, 16);
    o->seq_len = or_int(o->seq_len, PG_MIN(256, h->n_ctx_train));
    if (h->n_stack > 1)
        o->source_len = or_int(o->source_len, PG_MIN(256, h->n_ctx_train));
    o->n_accumulate = or_int(o->n_accumulate, 1);
    o->checkpoint_every = or_int(o->checkpoint_every, 100);
    o->sticky_cache = or_int(o->sticky_cache, PG_MIN(2 * h->n_expert_used, h->n_expert));
    o->n_threads = or_int(o->n_threads, PG_MIN(pg_os_n_cpu(), PG_THREADS_MAX));
    or_default(&o->lr, 3e-4f);
    or_default(&o->lr_end, 0.1f);
    or_default(&o->beta1, 0.9f);
    or_default(&o->beta2, 0.95f);
    or_default(&o->eps, 1e-8f);
    or_default(&o->weight_decay, 0.01f);
    or_default(&o->clip, 1);
    or_default(&o->balance, 0.01f);
    or_default(&o->sticky, 0);
    or_default(&o->imitate, pregate && o->weigher == PG_GATE_ROUTER ? 10 : 0);
}

/* What depends on the model. */
static int check_sizes(const struct pg_train_options *o, const struct pg_model *m,
                       struct pg_err *err)
{
    const int longest = PG_MIN(m->h.n_ctx_train, 1 << 20), least = m->n_moe > 0;
    if (o->seq_len < 2 || o->seq_len > longest)
        return pg_fail(err, PG_EARG, "tokens of a sequence: %d found, 2 to %d wanted", o->seq_len,
                       longest);
    if (m->h.n_stack == 1 && o->source_len)
        return pg_fail(err, PG_EARG,
                       "sources of %d tokens are asked for, but the model has no encoder",
                       o->source_len);
    if (m->h.n_stack > 1 && (o->source_len < 2 || o->source_len > longest))
        return pg_fail(err, PG_EARG, "tokens of a source: %d found, 2 to %d wanted", o->source_len,
                       longest);
    if (o->sticky_cache < least || o->sticky_cache > m->h.n_expert)
        return pg_fail(err, PG_EARG, "experts of the imagined cache: %d found, %d to %d wanted",
                       o->sticky_cache, least, m->h.n_expert);
    if (o->sticky > 0 && m->n_moe == 0)
        return pg_fail(err, PG_EARG, "stickiness of %g is asked for, but the model has no experts",
                       (double)o->sticky);
    return pg_net_check_runners_up(&m->h, o->n_runners_up, err);
}

static int check_gates(const struct pg_train_options *o, const struct pg_model *m,
                       struct pg_err *err)
{
    if (o->imitate > 0 && (o->gate != PG_GATE_PREGATE || o->weigher != PG_GATE_ROUTER)) {
        return pg_fail(err, PG_EARG,
                       "imitation has weight %g: pre-gates whose choice routers weigh are wanted, "
                       "and there are none",
                       (double)o->imitate);
    }
    if (o->gate != PG_GATE_PREGATE) {
        if (o->weigher == PG_GATE_PREGATE)
            return pg_fail(err, PG_EARG,
                           "pre-gates that weigh are asked for, but routers are trained; --gate "
                           "pregate is wanted");
        if (o->level)
            return pg_fail(err, PG_EARG,
                           "level %d: only pre-gates have one; --gate pregate is wanted", o->level);
        return o->from_sidecar ? pg_fail(err, PG_EARG,
                                         "pre-gates to start from are given (%s), but routers are "
                                         "trained; --gate pregate is wanted",
                                         o->from_sidecar)
                               : 0;
    }
    const int most = pg_most_level(m);
    if (most < 1) {
        return pg_fail(err, PG_EARG,
                       "%s: %d blocks with experts found, 2 wanted at least: a pre-gate decides "
                       "for a later block",
                       o->model, m->n_moe);
    }
    if (o->level < 1 || o->level > most) {
        return pg_fail(err, PG_EARG,
                       "level %d: the model has %d blocks with experts, so 1 to %d is possible",
                       o->level, m->n_moe, most);
    }
    return 0;
}

/* The strings that are needed after open. */
static int keep_strings(struct pg_train_options *o)
{
    const char **const kept[] = {&o->model, &o->freeze};
    int rc = 0;
    for (size_t i = 0; i < PG_COUNT(kept); i++) {
        const char *copy = *kept[i] ? strdup(*kept[i]) : NULL;
        rc = *kept[i] && !copy ? PG_ENOMEM : rc;
        *kept[i] = copy;
    }
    return rc;
}

static void drop_strings(struct pg_train_options *o)
{
    free((void *)(uintptr_t)o->model);
    free((void *)(uintptr_t)o->freeze);
}

static int check_options(const struct pg_train_options *opt, struct pg_err *err)
{
    if (opt->from_scratch && opt->from_model) {
        return pg_fail(err, PG_EARG, "to start from scratch and from %s is one too many",
                       opt->from_model);
    }
    if (opt->from_scratch && opt->kl > 0) {
        return pg_fail(err, PG_EARG,
                       "a divergence from the model that training starts from has weight %g, and "
                       "training starts from scratch; from a model is wanted",
                       (double)opt->kl);
    }
    return 0;
}

/* ------------------------------------------------------------------ weights ----------------- */

static int check_same_shape(const struct pg_model *have, const struct pg_model *want,
                            struct pg_err *err)
{
    if (strcmp(have->arch, want->arch) != 0 || have->n_params != want->n_params) {
        return pg_fail(err, PG_EARG,
                       "%s of %" PRIu64 " parameters found, %s of %" PRIu64
                       " wanted: the weights to start from have another shape",
                       have->arch, have->n_params, want->arch, want->n_params);
    }
    return 0;
}

/* Factors of RoPE are part of the shape: they are never trained, and never new. */
static bool is_constant(const struct pg_param *p)
{
    return strcmp(p->name, "rope_freqs.weight") == 0;
}

static int fill_weights(struct pg_trainer *t, struct pg_source *from, struct pg_err *err)
{
    const struct pg_train_options *o = &t->opt;
    for (int i = 0; i < t->params->n; i++) {
        const struct pg_param *p = &t->params->p[i];
        float *w = t->s.w + p->at;
        if (o->from_scratch && !is_constant(p))
            pg_draw_param(p, &t->source.model.h, o->seed, i, w);
        else if (!pg_is_pregate(p))
            PG_TRY(pg_source_param(from, p, w, err));
        if (o->progress && o->progress(o->user, "weights", (uint64_t)i + 1, (uint64_t)t->params->n))
            return pg_fail(err, PG_ECANCELLED, "loading was cancelled");
    }
    return 0;
}

static int fill_pregates(struct pg_trainer *t, struct pg_source *from, struct pg_err *err)
{
    const struct pg_train_options *o = &t->opt;
    char hash[17];
    if (o->gate != PG_GATE_PREGATE || (o->from_scratch && !o->from_sidecar))
        return 0;
    if (!o->from_sidecar) {
        pg_fold_pregates(&t->source.model, t->params, o->level, t->s.w);
        return 0;
    }
    PG_TRY(pg_source_hash(from, hash, err));
    struct pg_pregate *gates = pg_calloc((size_t)from->model.n_moe, sizeof(gates[0]));
    if (!gates)
        return pg_fail(err, PG_ENOMEM, "out of memory");
    pg_pregates_in(&from->model, t->params, t->s.w, gates);
    const struct pg_sidecar s = {
        .model = &from->model, .hash = hash, .level = o->level, .gates = gates};
    int rc = pg_sidecar_load(&s, o->from_sidecar, err);
    free(gates);
    return rc;
}

/* The weights that training begins with, and the names of all that a checkpoint must agree with. */
static int begin_weights(struct pg_trainer *t, struct pg_err *err)
{
    struct pg_source other = {0}, *from = &t->source;
    uint64_t hash = PG_HASH_START;
    int rc = 0;
    if (t->opt.from_model) {
        PG_TRY(pg_source_open(&other, t->opt.from_model, err));
        from = &other;
        rc = check_same_shape(&other.model, &t->source.model, err);
        rc = rc ? pg_fail_in(err, rc, t->opt.from_model) : 0;
    }
    rc = rc ? rc : fill_weights(t, from, err);
    rc = rc ? rc : fill_pregates(t, from, err);
    pg_source_close(&other);
    PG_TRY(rc);
    for (int i = 0; i < t->params->n; i++) {
        const struct pg_param *p = &t->params->p[i];
        hash = pg_hash_bytes(hash, p->name, strlen(p->name));
        hash = pg_hash_bytes(hash, t->s.w + p->at, p->n * sizeof(float));
    }
    pg_hash_text(hash, t->start_hash);
    pg_hash_text(pg_batches_hash(&t->batches), t->data_hash);
    return 0;
}

/* Whether it is the router of a block that a pre-gate decides. */
static bool is_decided_for(const struct pg_model *m, const char *name, int level)
{
    const char *suffix;
    const int il = pg_block_of_name(m, name, &suffix);
    const bool router = il >= 0 && strcmp(suffix, pg_parts[PG_PART_ROUTER].suffix) == 0;
    return router && pg_is_decided_early(m, m->block[il].moe, level);
}

/* Tensors that are named, and those that say nothing: where a pre-gate decides and weighs, the
 * router does not. */
static int begin_frozen(struct pg_trainer *t, struct pg_err *err)
{
    const struct pg_model *m = &t->source.model;
    const bool alone = t->opt.gate == PG_GATE_PREGATE && t->opt.weigher == PG_GATE_PREGATE;
    bool any = false;
    t->frozen = pg_calloc((size_t)t->params->n, sizeof(t->frozen[0]));
    if (!t->frozen)
        return pg_fail(err, PG_ENOMEM, "out of memory");
    PG_TRY(pg_freeze(t->params, t->opt.freeze, t->frozen, err));
    for (int i = 0; i < t->params->n; i++) {
        const struct pg_param *p = &t->params->p[i];
        bool idle = alone && is_decided_for(m, p->name, t->opt.level);
        t->frozen[i] = t->frozen[i] || is_constant(p) || idle;
        any = any || !t->frozen[i];
    }
    return any ? 0
               : pg_fail(err, PG_EARG, "freeze: all tensors are frozen, nothing is left to train");
}

/* ------------------------------------------------------------------ open -------------------- */

static int begin_data(struct pg_trainer *t, const struct pg_train_options *opt, struct pg_err *err)
{
    const struct pg_docs_options docs = {
        .vocab = t->vocab, .paths = opt->data, .n_paths = opt->n_data, .end_token = true};
    const struct pg_pairs_options pairs = {.vocab = t->vocab,
                                           .paths = opt->data,
                                           .n_paths = opt->n_data,
                                           .n_source = t->opt.source_len,
                                           .n_target = t->opt.seq_len};
    const bool of_pairs = t->source.model.h.n_stack > 1;
    PG_TRY(of_pairs ? pg_pairs_open(&t->pairs, &pairs, err) : pg_docs_open(&t->docs, &docs, err));
    const struct pg_batches_options batches = {
        .docs = of_pairs ? NULL : &t->docs,
        .pairs = of_pairs ? &t->pairs : NULL,
        .n_vocab = t->source.model.h.n_vocab,
        .n_seq = t->opt.n_seq,
        .seq_len = t->opt.seq_len,
        .source_len = t->opt.source_len,
        .decoder_start = t->source.model.h.decoder_start,
        .seed = t->opt.seed,
    };
    return pg_batches_open(&t->batches, &batches, err);
}

static struct pg_net_options net_options(const struct pg_trainer *t)
{
    return (struct pg_net_options){
        .model = &t->source.model,
        .gate = t->opt.gate,
        .level = t->opt.level,
        .pregate_bias = t->from.form.bias,
        .pregate_hidden = t->from.form.n_hidden,
        .n_seq = t->opt.n_seq,
        .seq_len = t->opt.seq_len,
        .source_len = t->opt.source_len,
        .balance_weight = t->opt.balance,
        .sticky_weight = t->opt.sticky,
        .sticky_cache = t->opt.sticky_cache,
        .cache_bias = t->bias,
        .cache_form = t->opt.cache_form,
        .kl_weight = t->opt.kl,
        .imitate_weight = t->opt.imitate,
        .n_runners_up = t->opt.n_runners_up,
        .weigher = t->opt.weigher,
        .dropout = t->opt.dropout,
        .pool = t->pool,
    };
}

static int begin_state(struct pg_trainer *t, struct pg_err *err)
{
    size_t n = t->params->n_values, bytes;
    float *all = NULL;
    if (!__builtin_mul_overflow(n, (t->opt.kl > 0 ? 5 : 4) * sizeof(float), &bytes)) {
        t->bytes_of_state = bytes;
        all = pg_pages_map(bytes);
    }
    t->metrics = pg_calloc((size_t)t->opt.n_steps, PG_METRIC_COUNT * sizeof(float));
    if (all)
        t->s = (struct pg_adam_state){all, all + n, all + 2 * n, all + 3 * n};
    t->ref = all && t->opt.kl > 0 ? all + 4 * n : NULL;
    if (!all || !t->metrics) {
        return pg_fail(err, PG_ENOMEM,
                       "out of memory: %zu parameters with gradient and moments, and the reports "
                       "of %d steps",
                       n, t->opt.n_steps);
    }
    return 0;
}

static int begin_bias(struct pg_trainer *t, struct pg_err *err)
{
    const struct pg_gate_biases given = {t->opt.cache_bias, t->opt.block_bias, t->opt.n_block_bias};
    const int n_moe = t->source.model.n_moe;
    PG_TRY(pg_gate_biases_make(&given, n_moe, &t->bias, err));
    pg_gate_biases_hash(t->bias, n_moe, t->bias_hash);
    return 0;
}

static int begin_net(struct pg_trainer *t, struct pg_err *err)
{
    PG_TRY(begin_bias(t, err));
    PG_TRY(pg_pool_open(&t->pool, t->opt.n_threads, err));
    const struct pg_net_options net = net_options(t);
    PG_TRY(pg_net_open(&t->net, &net, err));
    t->params = pg_net_params(t->net);
    PG_TRY(begin_state(t, err));
    PG_TRY(begin_weights(t, err));
    if (t->ref)
        memcpy(t->ref, t->s.w, t->params->n_values * sizeof(float));
    PG_TRY(begin_frozen(t, err));
    PG_TRY(pg_adam_open(&t->adam, t->params, t->frozen, t->pool, err));
    return pg_blas_check(t->opt.n_threads, err);
}

static int begin_step(struct pg_trainer *t, struct pg_err *err)
{
    bool found = false;
    if (t->opt.resume) {
        PG_TRY(pg_checkpoint_load(t, &found, err));
        if (!found) {
            pg_say(PG_LOG_OF(&t->opt), PG_LOG_WARN,
                   "%s is not there: training starts from the beginning", t->path.checkpoint);
        }
    } else if (access(t->path.checkpoint, F_OK) == 0) {
        pg_say(PG_LOG_OF(&t->opt), PG_LOG_WARN,
               "%s of an earlier run will be replaced; --resume would go on from it",
               t->path.checkpoint);
    }
    const uint64_t rows = (uint64_t)t->step * (uint64_t)t->opt.n_accumulate;
    pg_batches_seek(&t->batches, rows * (uint64_t)t->opt.n_seq);
    return 0;
}

static void say_what(const struct pg_trainer *t)
{
    const struct pg_net_options net = net_options(t);
    const bool of_pairs = t->opt.source_len > 0;
    uint64_t n_trained = 0, bytes = t->bytes_of_state + pg_net_bytes(&net);
    char from[48] = "", row[48];
    for (int i = 0; i < t->params->n; i++)
        n_trained += t->frozen[i] ? 0 : t->params->p[i].n;
    if (t->step)
        snprintf(from, sizeof(from), ", going on after step %d", t->step);
    snprintf(row, sizeof(row), of_pairs ? "(%d + %d)" : "%d",
             of_pairs ? t->opt.source_len : t->opt.seq_len, t->opt.seq_len);
    pg_say(PG_LOG_OF(&t->opt), PG_LOG_INFO,
           "%zu parameters, %" PRIu64 " of them trained; %d %s of %zu tokens; %d x %d x %s "
           "tokens a step, %d steps%s; %.1f MiB, %d threads",
           t->params->n_values, n_trained, of_pairs ? t->pairs.n : t->docs.n,
           of_pairs ? "pairs" : "documents",
           of_pairs ? t->pairs.n_tokens : t->docs.first[t->docs.n], t->opt.n_accumulate,
           t->opt.n_seq, row, t->opt.n_steps, from, (double)bytes / (1 << 20), t->opt.n_threads);
}

static int open_trainer(struct pg_trainer *t, const struct pg_train_options *opt,
                        struct pg_err *err)
{
    const struct pg_model *m = &t->source.model;
    t->opt = *opt;
    if (keep_strings(&t->opt))
        return pg_fail(err, PG_ENOMEM, "out of memory");
    PG_TRY(pg_train_type(opt->type, &t->type, err));
    PG_TRY(pg_train_paths_make(&t->path, &t->opt, err));
    PG_TRY(pg_lock_take(&t->lock, t->path.out, err));
    PG_TRY(pg_source_open(&t->source, t->opt.model, err));
    fill_in(&t->opt, &m->h);
    PG_TRY(check_sizes(&t->opt, m, err));
    PG_TRY(check_gates(&t->opt, m, err));
    if (t->opt.from_sidecar) {
        PG_TRY(pg_sidecar_peek(m, t->opt.from_sidecar, &t->from, err));
        pg_sidecar_say_weigher(PG_LOG_OF(&t->opt), t->opt.from_sidecar, &t->from, t->opt.weigher);
    }
    PG_TRY(pg_vocab_from_gguf(&t->vocab, t->source.gguf, err));
    PG_TRY(begin_data(t, &t->opt, err));
    PG_TRY(begin_net(t, err));
    PG_TRY(begin_step(t, err));
    say_what(t);
    return 0;
}

int pg_trainer_open(pg_trainer **out, const struct pg_train_options *opt, struct pg_err *err)
{
    *out = NULL;
    struct pg_train_options whole;
    PG_TRY(pg_options_take(PG_OPTIONS_TRAIN, &whole, opt, err));
    PG_TRY(check_options(&whole, err));
    struct pg_trainer *t = pg_calloc(1, sizeof(*t));
    if (!t)
        return pg_fail(err, PG_ENOMEM, "out of memory");
    int rc = open_trainer(t, &whole, err);
    if (rc) {
        pg_trainer_close(t);
        return rc;
    }
    /* Borrowed for the call only. */
    t->opt.data = NULL;
    t->opt.block_bias = NULL;
    t->opt.out = t->opt.from_model = t->opt.from_sidecar = t->opt.type = NULL;
    *out = t;
    return 0;
}

void pg_trainer_close(pg_trainer *t)
{
    if (!t)
        return;
    pg_adam_close(&t->adam);
    pg_net_close(t->net);
    pg_pool_close(t->pool);
    pg_batches_close(&t->batches);
    pg_docs_close(&t->docs);
    pg_pairs_close(&t->pairs);
    pg_vocab_close(t->vocab);
    pg_pages_unmap(t->s.w, t->bytes_of_state);
    pg_source_close(&t->source);
    free(t->metrics);
    free(t->bias);
    free(t->frozen);
    pg_lock_drop(&t->lock);
    drop_strings(&t->opt);
    free(t);
}

/* ------------------------------------------------------------------ step -------------------- */

static float rate_at(const struct pg_train_options *o, int step)
{
    const struct pg_rate_plan plan = {o->schedule, o->lr, o->lr_end, o->n_warmup, o->n_steps};
    return pg_rate_at(&plan, step);
}

enum { DROPOUT = 1 << 30 }; /* a stream of random numbers, far from those of weights */

/* Of the step's batch i: not 0, and the same when training has been gone on with. */
static uint64_t draw_of(const struct pg_trainer *t, int i)
{
    return pg_random_at(t->opt.seed, DROPOUT,
                        (uint64_t)t->step * (uint64_t)t->opt.n_accumulate + (uint64_t)i) |
           1;
}

/* g is the gradient of the mean loss over the accumulated batches. */
static int run_batches(struct pg_trainer *t, struct pg_net_loss *mean, struct pg_err *err)
{
    const int n = t->opt.n_accumulate;
    *mean = (struct pg_net_loss){0};
    for (int i = 0; i < n; i++) {
        struct pg_batch b;
        struct pg_net_loss loss;
        pg_batches_next(&t->batches, &b);
        const struct pg_net_batch batch = {b.token,  b.target,       b.start,
                                           b.source, b.source_start, b.source_of};
        const struct pg_net_point at = {t->s.w, t->s.g, 1.0f / (float)n, t->ref, draw_of(t, i)};
        PG_TRY(pg_net_run(t->net, at, &batch, &loss, err));
        mean->total += loss.total / n;
        mean->nll += loss.nll / n;
        mean->balance += loss.balance / n;
        mean->sticky += loss.sticky / n;
        mean->misses += loss.misses / n;
        mean->kl += loss.kl / n;
        mean->imitate += loss.imitate / n;
    }
    return 0;
}

static int not_finite(const struct pg_trainer *t, const char *what, struct pg_err *err)
{
    return pg_fail(err, PG_ENUMERIC,
                   "step %d: the %s is not finite; a smaller learning rate may help. The last "
                   "checkpoint is as it was",
                   t->step + 1, what);
}

static int take_step(struct pg_trainer *t, float *metrics, struct pg_err *err)
{
    const struct pg_train_options *o = &t->opt;
    struct pg_net_loss loss;
    int rc = run_batches(t, &loss, err);
    if (rc == PG_ENUMERIC || (!rc && !isfinite(loss.total)))
        return not_finite(t, "loss", err);
    PG_TRY(rc);
    const double norm = pg_adam_norm(&t->adam, t->s.g);
    if (!isfinite(norm))
        return not_finite(t, "gradient", err);
    const struct pg_adam_rates rates = {
        .step = t->step + 1,
        .lr = rate_at(o, t->step),
        .beta1 = o->beta1,
        .beta2 = o->beta2,
        .eps = o->eps,
        .decay = o->weight_decay,
        .scale = o->clip > 0 ? (float)PG_MIN(1.0, (double)o->clip / (norm + 1e-6)) : 1.0f,
    };
    if (!pg_adam_step(&t->adam, &rates, &t->s))
        return not_finite(t, "new weight of a parameter", err);
    metrics[PG_METRIC_LOSS] = (float)loss.nll;
    metrics[PG_METRIC_BALANCE] = (float)loss.balance;
    metrics[PG_METRIC_STICKY] = (float)loss.sticky;
    metrics[PG_METRIC_MISSES] = (float)loss.misses;
    metrics[PG_METRIC_KL] = (float)loss.kl;
    metrics[PG_METRIC_IMITATE] = (float)loss.imitate;
    metrics[PG_METRIC_NORM] = (float)norm;
    metrics[PG_METRIC_LR] = rates.lr;
    return 0;
}

int pg_trainer_step(pg_trainer *t, struct pg_train_report *out, struct pg_err *err)
{
    const uint64_t start = pg_now_ns();
    if (t->broken)
        return pg_fail(err, PG_EARG, "an earlier step has failed; open the trainer anew");
    if (pg_trainer_done(t))
        return pg_fail(err, PG_EARG, "all %d steps are done", t->opt.n_steps);
    float *metrics = t->metrics + (size_t)t->step * PG_METRIC_COUNT;
    int rc = take_step(t, metrics, err);
    if (rc) {
        t->broken = true;
        return rc;
    }
    t->step++;
    metrics[PG_METRIC_SECONDS] = (float)((double)(pg_now_ns() - start) * 1e-9);
    if (out)
        pg_trainer_report_at(t, t->step, out);
    bool due = t->step % t->opt.checkpoint_every == 0 || pg_trainer_done(t);
    return due ? pg_trainer_checkpoint(t, err) : 0;
}

int pg_trainer_report_at(const pg_trainer *t, int step, struct pg_train_report *out)
{
    const struct pg_train_options *o = &t->opt;
    if (step < 1 || step > t->step)
        return PG_EARG;
    const float *m = t->metrics + (size_t)(step - 1) * PG_METRIC_COUNT;
    *out = (struct pg_train_report){
        .step = step,
        .n_steps = o->n_steps,
        .loss = (double)m[PG_METRIC_LOSS],
        .balance = (double)m[PG_METRIC_BALANCE],
        .sticky = (double)m[PG_METRIC_STICKY],
        .misses = (double)m[PG_METRIC_MISSES],
        .kl = (double)m[PG_METRIC_KL],
        .imitate = (double)m[PG_METRIC_IMITATE],
        .grad_norm = (double)m[PG_METRIC_NORM],
        .lr = (double)m[PG_METRIC_LR],
        .n_tokens = (uint64_t)step * (uint64_t)o->n_accumulate * (uint64_t)o->n_seq *
                    (uint64_t)(o->source_len + o->seq_len),
        .seconds = (double)m[PG_METRIC_SECONDS],
    };
    return 0;
}

bool pg_trainer_done(const pg_trainer *t)
{
    return t->step >= t->opt.n_steps;
}

int pg_trainer_checkpoint(pg_trainer *t, struct pg_err *err)
{
    if (t->broken)
        return pg_fail(err, PG_EARG, "a step has failed, and what it left is no checkpoint");
    if (t->finished)
        return pg_fail(err, PG_EARG, "the training is finished; a checkpoint would begin it again");
    return pg_checkpoint_save(t, err);
}

int pg_trainer_finish(pg_trainer *t, struct pg_err *err)
{
    if (t->broken)
        return pg_fail(err, PG_EARG, "a step has failed, and what it left is no model");
    PG_TRY(pg_train_export(t, err));
    t->finished = true;
    return 0;
}
