/* SPDX-License-Identifier: MIT
 * pg_tune: the order of things, what is said of them, the report.
 */
#include "distil/distil.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/ranges.h"
#include "distil/lm.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum {
    DEFAULT_TOKENS = 200000,
    DEFAULT_CTX = 512,
    DEFAULT_HIDDEN = 64,
    GOOD_STEPS = 6000, /* minibatches that a gate should learn from, in fewer or more passes */
    FEW_PASSES = 10,
    MANY_PASSES = 40,
};

struct tune {
    struct pg_tune_options opt; /* defaults filled in */
    char *checkpoint;           /* its path */
    struct pg_lock lock;        /* on OUT */
    struct pg_distil_text text;
    struct pg_distil_head head;
    struct pg_distil_memory memory;
    struct pg_fit_options fit_options;
    struct pg_engine *engine;
    struct pg_collector collector;
    struct pg_states train[PG_STACKS], held[PG_STACKS];
    struct pg_fit fit;
    void *base; /* of states and fit */
    size_t bytes;
};

static double mib(uint64_t bytes)
{
    return (double)bytes / (1 << 20);
}

/* ------------------------------------------------------------------ options ----------------- */

struct pg_sidecar_head pg_distil_head_of(const struct pg_tune_options *o)
{
    return (struct pg_sidecar_head){
        .level = o->level ? o->level : 1,
        .decides = o->decide,
        .weigher = o->weigher,
        .form = {.bias = true, .n_hidden = o->n_hidden ? PG_MAX(o->n_hidden, 0) : DEFAULT_HIDDEN}};
}

static int check_options(struct tune *t, const struct pg_tune_options *opt, struct pg_err *err)
{
    struct pg_tune_options *o = &t->opt;
    PG_TRY(pg_options_take(PG_OPTIONS_TUNE, o, opt, err));
    const struct pg_sidecar_head made = pg_distil_head_of(o);
    o->level = made.level;
    o->n_hidden = made.form.n_hidden;
    o->n_tokens = o->n_tokens ? o->n_tokens : DEFAULT_TOKENS;
    o->holdout = o->holdout > 0 ? o->holdout : 0.1f;
    for (int i = 0; i < o->n_data; i++) {
        if (pg_same_file(o->data[i], o->out)) {
            return pg_fail(err, PG_EARG, "%s is a file of the text; the sidecar needs its own",
                           o->out);
        }
    }
    if (pg_same_file(o->model, o->out)) {
        return pg_fail(err, PG_EARG, "%s is the model itself; the sidecar needs a file of its own",
                       o->out);
    }
    return asprintf(&t->checkpoint, "%s.checkpoint", o->out) < 0
               ? pg_fail(err, PG_ENOMEM, "out of memory")
               : 0;
}

int pg_distil_check_model(const struct pg_model *m, const char *path, int level, struct pg_err *err)
{
    const int most = pg_most_level(m);
    if (most < 1) {
        return pg_fail(err, PG_EARG,
                       "%s: %d blocks with experts found, 2 wanted at least: a pre-gate names the "
                       "experts of a later block",
                       path, m->n_moe);
    }
    if (level < 1 || level > most) {
        return pg_fail(err, PG_EARG,
                       "level %d: the model has %d blocks with experts, so 1 to %d is possible",
                       level, most + 1, most);
    }
    return 0;
}

/* ------------------------------------------------------------------ text and memory --------- */

static int read_docs(struct tune *t, const struct pg_engine *e, struct pg_err *err)
{
    struct pg_docs_options d = {
        .vocab = e->vocab,
        .paths = t->opt.data,
        .n_paths = t->opt.n_data,
        .end_token = true,
        .max_tokens = (size_t)PG_MIN(t->opt.n_tokens, SIZE_MAX),
    };
    struct pg_distil_split split = {t->opt.n_tokens, e->opt.n_ctx, t->opt.holdout, t->opt.seed};
    PG_TRY(pg_docs_open(&t->text.docs, &d, err));
    t->text.bos = pg_vocab_bos(e->vocab);
    return pg_distil_cut(&t->text, &split, err);
}

static int read_pairs(struct tune *t, const struct pg_engine *e, struct pg_err *err)
{
    struct pg_pairs_options p = {
        .vocab = e->vocab,
        .paths = t->opt.data,
        .n_paths = t->opt.n_data,
        .n_source = e->opt.n_ctx,
        .n_target = e->opt.n_ctx,
        .max_tokens = (size_t)PG_MIN(t->opt.n_tokens, SIZE_MAX),
    };
    struct pg_distil_split split = {t->opt.n_tokens, e->opt.n_ctx, t->opt.holdout, t->opt.seed};
    PG_TRY(pg_pairs_open(&t->text.pairs, &p, err));
    for (int i = 0; i < PG_STACKS; i++)
        t->text.stack[i].learns = e->model.moe_of[i].n > t->opt.level;
    return pg_distil_pair(&t->text, &split, err);
}

static int read_text(struct tune *t, const struct pg_engine *e, struct pg_err *err)
{
    const struct pg_distil_text *text = &t->text;
    const bool pairs = e->model.h.n_stack > 1;
    PG_TRY(pairs ? read_pairs(t, e, err) : read_docs(t, e, err));
    pg_say(PG_LOG_OF(&t->opt), PG_LOG_INFO,
           "text: %d documents, %llu tokens to learn from, %llu held out",
           pairs ? text->pairs.n_docs : text->docs.n,
           (unsigned long long)pg_distil_count(text, text->n_held, text->n),
           (unsigned long long)pg_distil_count(text, 0, text->n_held));
    return 0;
}

static uint64_t hash_text(const struct pg_distil_text *text)
{
    const struct pg_docs *d = &text->docs;
    if (text->n_stacks > 1)
        return pg_pairs_hash(&text->pairs);
    return pg_hash_bytes(PG_HASH_START, d->token, d->first[d->n] * sizeof(*d->token));
}

/* What this run is, as far as it is known before memory is divided. */
static void begin_head(struct tune *t, const struct pg_model *m, int n_ctx)
{
    t->head = (struct pg_distil_head){
        .seed = t->opt.seed,
        .decides = t->opt.decide,
        .level = (uint64_t)t->opt.level,
        .n_embd = (uint64_t)m->h.n_embd,
        .n_expert = (uint64_t)m->h.n_expert,
        .n_used = (uint64_t)m->h.rule.n_used,
        .n_moe = (uint64_t)m->n_moe,
        .n_hidden = (uint64_t)t->opt.n_hidden,
        .n_ctx = (uint64_t)n_ctx,
        .n_pieces = (uint64_t)t->text.n,
        .n_held_pieces = (uint64_t)t->text.n_held,
    };
    pg_hash_text(hash_text(&t->text), t->head.text);
}

/* Nothing is kept of a stack that has no pre-gates. */
static void shape_states(struct tune *t, const struct pg_model *m)
{
    for (int i = 0; i < t->text.n_stacks; i++) {
        const int n = t->text.stack[i].learns ? m->moe_of[i].n : 0;
        t->train[i] = (struct pg_states){.n_moe = n,
                                         .n_gate = PG_MAX(0, n - t->opt.level),
                                         .n_embd = m->h.n_embd,
                                         .n_expert = m->h.n_expert};
        t->held[i] = t->train[i];
    }
}

static int n_rounds_of(const struct pg_distil_text *text, size_t n_train)
{
    int n = 0;
    for (int i = text->n_held; i < text->n; n++)
        i = pg_distil_round_end(text, i, n_train);
    return n;
}

static uint64_t fit_bytes(const struct tune *t)
{
    struct pg_arena measure = {0};
    struct pg_fit unused;
    pg_fit_carve(&unused, &t->fit_options, &measure);
    return measure.used;
}

/* Over states of so many tokens in all. */
static int n_passes_of(uint64_t n_tokens)
{
    int n_batches = (int)(n_tokens / PG_MINIBATCH) + 1;
    return PG_MAX(FEW_PASSES, PG_MIN(MANY_PASSES, GOOD_STEPS / n_batches));
}

static void follow_memory(struct tune *t)
{
    struct pg_distil_head *h = &t->head;
    int n_passes = n_passes_of(t->text.n_train_tokens);
    h->n_train = t->memory.n_train;
    h->n_held = t->memory.n_held;
    h->n_rounds = (uint64_t)n_rounds_of(&t->text, t->memory.n_train);
    h->n_passes = (uint64_t)n_passes;
    t->fit_options.n_rounds = (int)h->n_rounds;
    t->fit_options.n_passes = n_passes;
    for (int i = 0; i < t->text.n_stacks; i++) {
        struct pg_fit_stack *s = &t->fit_options.stack[i];
        s->max_tokens = pg_distil_cap(&t->text, i, t->memory.n_train);
        s->n_repeats = n_passes_of(t->text.stack[i].n_train) / n_passes;
    }
}

/* The largest order of tokens is counted, as the number of tokens is not known yet. */
static void begin_fit_options(struct tune *t, const struct pg_engine *e)
{
    t->fit_options = (struct pg_fit_options){
        .rule = e->model.h.rule,
        .n_embd = e->model.h.n_embd,
        .n_hidden = t->opt.n_hidden,
        .n_stacks = t->text.n_stacks,
        .most = t->text.most,
        .level = t->opt.level,
        .n_threads = e->opt.n_threads,
        .decides = t->opt.decide,
        .seed = t->opt.seed,
        .progress = t->opt.progress,
        .user = t->opt.user,
    };
    for (int i = 0; i < t->text.n_stacks; i++) {
        t->fit_options.stack[i].moe = e->model.moe_of[i];
        t->fit_options.stack[i].max_tokens = pg_distil_cap(&t->text, i, t->text.n_train_tokens);
    }
}

/* The engine's contexts are those of the longest piece, or pair. */
static void fit_context(const struct pg_distil_text *text, struct pg_options *o)
{
    o->n_ctx = text->stack[text->n_stacks - 1].longest;
    o->n_source = text->n_stacks > 1 ? text->stack[0].longest : 0;
}

static int divide(struct tune *t, struct pg_engine *e, struct pg_err *err)
{
    bool found = false;
    PG_TRY(pg_distil_check_model(&e->model, t->opt.model, t->opt.level, err));
    PG_TRY(read_text(t, e, err));
    begin_head(t, &e->model, e->opt.n_ctx);
    if (t->opt.resume) {
        PG_TRY(pg_distil_peek(t->checkpoint, &t->head, &t->text, &found, err));
        if (!found) {
            pg_say(PG_LOG_OF(&t->opt), PG_LOG_INFO, "%s is not there: this run begins anew",
                   t->checkpoint);
            t->opt.resume = false;
        }
    }
    fit_context(&t->text, &e->opt);
    shape_states(t, &e->model);
    begin_fit_options(t, e);
    t->memory = (struct pg_distil_memory){
        .fit_bytes = fit_bytes(t) + pg_distil_spare_bytes(&t->text, t->train) + 2 * PG_PAGE,
        .n_train = (size_t)t->head.n_train,
        .n_held = (size_t)t->head.n_held,
    };
    PG_TRY(pg_distil_divide(&t->memory, e, &t->text, t->train, err));
    follow_memory(t);
    return 0;
}

static struct pg_options engine_options(const struct tune *t)
{
    return (struct pg_options){
        PG_OPTIONS_INIT,
        .model = t->opt.model,
        .mode = PG_MODE_ONDEMAND,
        .memory_bytes = t->opt.memory_bytes,
        .n_threads = t->opt.n_threads,
        .n_ctx = t->opt.n_ctx,
        .log = t->opt.log,
        .progress = t->opt.progress,
        .user = t->opt.user,
    };
}

/* Reads the directory and the text and divides the memory, with an engine that is never loaded. */
static int plan(struct tune *t, struct pg_err *err)
{
    struct pg_options opt = engine_options(t);
    struct pg_engine *e = pg_calloc(1, sizeof(*e));
    if (!e)
        return pg_fail(err, PG_ENOMEM, "out of memory");
    int rc = pg_engine_begin(e, &opt, err);
    if (!rc && !t->opt.n_ctx)
        e->opt.n_ctx = PG_MIN(e->opt.n_ctx, DEFAULT_CTX);
    rc = rc ? rc : divide(t, e, err);
    pg_engine_close(e);
    return rc;
}

/* ------------------------------------------------------------------ opening ----------------- */

static void carve_states(struct pg_states *s, size_t n_tokens, struct pg_arena *a)
{
    s->cap = n_tokens;
    s->n = 0;
    s->h = pg_arena_take(a, (size_t)s->n_gate * n_tokens * (size_t)s->n_embd * sizeof(uint16_t));
    s->logits = pg_arena_take(a, (size_t)s->n_moe * n_tokens * (size_t)s->n_expert * sizeof(float));
}

static void carve(struct tune *t, struct pg_arena *a)
{
    pg_fit_carve(&t->fit, &t->fit_options, a);
    for (int i = 0; i < t->text.n_stacks; i++) {
        carve_states(&t->train[i], pg_distil_cap(&t->text, i, t->memory.n_train), a);
        carve_states(&t->held[i], pg_distil_cap(&t->text, i, t->memory.n_held), a);
    }
}

static int take_memory(struct tune *t, struct pg_err *err)
{
    struct pg_arena a = {0};
    carve(t, &a);
    t->bytes = a.used;
    t->base = pg_pages_map(t->bytes);
    if (!t->base) {
        return pg_fail(err, PG_ENOMEM, "out of memory: %zu bytes for states and optimiser",
                       t->bytes);
    }
    if (pg_engine_touches(t->engine))
        pg_pages_touch(t->base, t->bytes);
    a = (struct pg_arena){t->base, t->bytes, 0};
    carve(t, &a);
    return 0;
}

/* Standard deviation for rows whose product with a normalised state should be about 1. */
static float hidden_scale(const struct pg_model *m, int moe)
{
    const float *gain = m->block[pg_block_of_moe(m, moe)].ffn_norm.data;
    float sum = 0;
    for (int i = 0; i < m->h.n_embd; i++)
        sum += gain[i] * gain[i];
    return sum > 0 && isfinite(sum) ? 1 / sqrtf(sum) : 1;
}

static int start_weights(struct tune *t, struct pg_err *err)
{
    const struct pg_model *m = &t->engine->model;
    float *table = pg_calloc((size_t)m->h.n_expert, (size_t)m->h.n_embd * sizeof(float));
    if (!table)
        return pg_fail(err, PG_ENOMEM, "out of memory");
    for (int i = 0; i < t->fit.n_gate; i++) {
        const int moe = pg_fit_place(&t->fit_options, i).moe;
        pg_pregate_fold(m, moe, t->opt.level, table);
        pg_fit_start(&t->fit, i, table, hidden_scale(m, moe));
    }
    free(table);
    return 0;
}

/* Those that the buffer has room for. */
static int n_held_pieces(const struct tune *t)
{
    int n = pg_distil_round_end(&t->text, 0, t->memory.n_held);
    return PG_MIN(n, t->text.n_held);
}

static int open_all(struct tune *t, struct pg_err *err)
{
    struct pg_options opt = engine_options(t);
    opt.mode = t->memory.mode;
    opt.memory_bytes = t->memory.engine_bytes;
    opt.n_sessions = t->memory.n_sessions;
    opt.n_batch = t->memory.n_batch;
    fit_context(&t->text, &opt);
    pg_say(PG_LOG_OF(&t->opt), PG_LOG_INFO,
           "memory: %.1f MiB: engine %.1f, states of %zu + %zu tokens %.1f, optimiser %.1f",
           mib(t->memory.budget), mib(t->memory.engine_bytes), t->memory.n_train, t->memory.n_held,
           mib(t->memory.state_bytes), mib(t->memory.fit_bytes));
    PG_TRY(pg_engine_open(&t->engine, &opt, err));
    t->fit_options.k = &t->engine->compute.k;
    t->fit_options.pool = t->engine->compute.pool;
    PG_TRY(take_memory(t, err));
    PG_TRY(start_weights(t, err));
    pg_model_hash(&t->engine->model, t->engine->routers, t->head.model);
    uint64_t total = pg_distil_count(&t->text, t->text.n_held, t->text.n) +
                     pg_distil_count(&t->text, 0, n_held_pieces(t));
    return pg_collector_open(&t->collector, t->engine, &t->text, total, err);
}

/* ------------------------------------------------------------------ rounds ------------------ */

static int collect(struct tune *t, struct pg_states *s, int first, int end, struct pg_err *err)
{
    struct pg_stats before, after;
    uint64_t begin = pg_now_ns();
    pg_engine_stats(t->engine, &before);
    PG_TRY(pg_collect(&t->collector, s, first, end, err));
    pg_engine_stats(t->engine, &after);
    double seconds = (double)(pg_now_ns() - begin) * 1e-9;
    uint64_t n = pg_distil_count(&t->text, first, end);
    pg_say(PG_LOG_OF(&t->opt), PG_LOG_INFO,
           "ran %llu tokens of %s text in %.1f s (%.0f tok/s), %.1f MiB of experts read",
           (unsigned long long)n, s == t->held ? "held-out" : "the", seconds, (double)n / seconds,
           mib(after.expert_bytes_read - before.expert_bytes_read));
    return 0;
}

static int save_checkpoint(struct tune *t, struct pg_err *err)
{
    t->head.round = (uint64_t)t->fit.round;
    t->head.pass = (uint64_t)t->fit.pass;
    t->head.minibatch = (uint64_t)t->fit.minibatch;
    return pg_distil_save(t->checkpoint, &t->head, &t->fit, err);
}

static void say_round(const struct tune *t)
{
    double first = 0, best = 0, before = 0, after = 0;
    int n = t->fit.n_gate, n_stopped = 0;
    for (int i = 0; i < n; i++) {
        const struct pg_fit_gate *g = &t->fit.gate[i];
        first += g->first_loss / n;
        best += g->best_loss / n;
        before += g->before.recall / n;
        after += g->agree.recall / n;
        n_stopped += g->stopped;
    }
    pg_say(PG_LOG_OF(&t->opt), PG_LOG_INFO,
           "round %d of %d: held-out loss %.4f -> %.4f, recall %.1f %% -> %.1f %% (%d of %d "
           "pre-gates have stopped)",
           t->fit.round, t->fit_options.n_rounds, first, best, 100 * before, 100 * after, n_stopped,
           n);
}

/* First piece of round `round`. */
static int piece_of_round(const struct tune *t, int round)
{
    int i = t->text.n_held;
    for (int r = 0; r < round; r++)
        i = pg_distil_round_end(&t->text, i, t->memory.n_train);
    return i;
}

static int run_round(struct tune *t, struct pg_err *err)
{
    int first = piece_of_round(t, t->fit.round), end = piece_of_round(t, t->fit.round + 1);
    PG_TRY(collect(t, t->train, first, end, err));
    PG_TRY(pg_fit_round(&t->fit, t->train, t->held, err));
    PG_TRY(save_checkpoint(t, err));
    pg_fit_agree(&t->fit, t->held);
    say_round(t);
    return 0;
}

/* A round that is interrupted while it fits is gone on with from there, after its text has been run
 * again. */
static int run_rounds(struct tune *t, struct pg_err *err)
{
    int rc = 0;
    PG_TRY(collect(t, t->held, 0, n_held_pieces(t), err));
    if (t->opt.resume) {
        PG_TRY(pg_distil_load(t->checkpoint, &t->head, &t->fit, err));
        pg_say(PG_LOG_OF(&t->opt), PG_LOG_INFO, "%s: gone on with in round %d, pass %d",
               t->checkpoint, t->fit.round + 1, t->fit.pass + 1);
        t->collector.lanes.done +=
            pg_distil_count(&t->text, t->text.n_held, piece_of_round(t, t->fit.round));
    } else {
        pg_fit_begin(&t->fit, t->held);
    }
    while (!rc && !pg_fit_done(&t->fit))
        rc = run_round(t, err);
    if (rc == PG_ECANCELLED) {
        struct pg_err other;
        return save_checkpoint(t, &other) ? pg_fail(err, other.code, "%s", other.text) : rc;
    }
    pg_fit_agree(&t->fit, t->held);
    return rc;
}

/* ------------------------------------------------------------------ the end ----------------- */

static int write_sidecar(const struct tune *t, struct pg_err *err)
{
    struct pg_sidecar s = {.model = &t->engine->model,
                           .hash = t->head.model,
                           .level = t->opt.level,
                           .decides = t->opt.decide,
                           .weigher = t->opt.weigher};
    struct pg_pregate *gates = pg_calloc((size_t)t->engine->model.n_moe, sizeof(*gates));
    if (!gates)
        return pg_fail(err, PG_ENOMEM, "out of memory");
    for (int i = 0; i < t->fit.n_gate; i++)
        gates[pg_fit_place(&t->fit_options, i).moe] = pg_fit_pregate(&t->fit, i);
    s.gates = gates;
    int rc = pg_sidecar_save(&s, t->opt.out, err);
    free(gates);
    return rc;
}

/* Half of what was held out, in all stacks. */
static uint64_t n_measured_on(const struct tune *t)
{
    uint64_t n = 0;
    for (int i = 0; i < t->fit.n_gate; i++)
        if (pg_fit_place(&t->fit_options, i).block == 0)
            n += t->fit.gate[i].agree.n_tokens;
    return n;
}

static int report(const struct tune *t, struct pg_tune_report *out, struct pg_err *err)
{
    size_t n = (size_t)t->fit.n_gate;
    struct pg_agree_block *blocks = pg_calloc(2 * n, sizeof(*blocks));
    if (!blocks)
        return pg_fail(err, PG_ENOMEM, "out of memory");
    for (size_t i = 0; i < n; i++) {
        blocks[i] = t->fit.gate[i].before;
        blocks[n + i] = t->fit.gate[i].agree;
    }
    *out = (struct pg_tune_report){
        .n_tokens = pg_distil_count(&t->text, t->text.n_held, t->text.n),
        .n_tokens_held = n_measured_on(t),
        .n_blocks = (int)n,
        .n_used = t->fit_options.rule.n_used,
        .before = blocks,
        .after = blocks + n,
    };
    return 0;
}

void pg_tune_report_free(struct pg_tune_report *r)
{
    if (!r)
        return;
    free((void *)r->before);
    *r = (struct pg_tune_report){0};
}

static void close_all(struct tune *t)
{
    pg_collector_close(&t->collector);
    pg_engine_close(t->engine);
    pg_distil_text_close(&t->text);
    if (t->base)
        pg_pages_unmap(t->base, t->bytes);
    pg_lock_drop(&t->lock);
    free(t->checkpoint);
}

static int distil(const struct pg_tune_options *opt, struct pg_tune_report *out, struct pg_err *err)
{
    struct tune t = {0};
    *out = (struct pg_tune_report){0};
    int rc = check_options(&t, opt, err);
    rc = rc ? rc : pg_lock_take(&t.lock, t.opt.out, err);
    rc = rc ? rc : plan(&t, err);
    rc = rc ? rc : open_all(&t, err);
    rc = rc ? rc : run_rounds(&t, err);
    rc = rc ? rc : report(&t, out, err);
    rc = rc ? rc : write_sidecar(&t, err);
    if (!rc)
        pg_outfile_remove(t.checkpoint); /* one that stays would lead to the same file again */
    else
        pg_tune_report_free(out);
    close_all(&t);
    return rc;
}

/* Distils first, into OUT, unless there is something to begin or to go on with. */
static int tune_by_loss(struct pg_tune_options *o, struct pg_tune_report *out, struct pg_err *err)
{
    if (!o->decide) {
        return pg_fail(err, PG_EARG,
                       "the loss of the language model: pre-gates that hint do not change it; "
                       "pre-gates that decide are wanted");
    }
    if (!o->from_sidecar && !(o->resume && pg_lm_is_begun(o))) {
        PG_TRY(pg_lm_check(o, err)); /* it may need more memory than distilling does */
        PG_TRY(distil(o, out, err));
        pg_tune_report_free(out);
        o->resume = false;
    }
    o->from_sidecar = o->from_sidecar ? o->from_sidecar : o->out;
    return pg_lm_tune(o, out, err);
}

/* What only the loss of the language model has a use for. */
static int check_unused(const struct pg_tune_options *o, struct pg_err *err)
{
    const struct {
        const char *name;
        bool given;
    } asked[] = {
        {"pre-gates to begin with", o->from_sidecar},
        {"steps", o->n_steps},
        {"a batch", o->n_seq || o->seq_len},
        {"a rate", o->lr > 0},
        {"stickiness", o->sticky > 0},
        {"a cache", o->sticky_cache || o->cache_bias > 0 || o->n_block_bias},
        {"a divergence", o->kl > 0},
        {"runners-up", o->n_runners_up},
        {"imitation", o->imitate > 0},
        {"steps between measurements", o->eval_every},
        {"steps between checkpoints", o->checkpoint_every},
    };
    for (size_t i = 0; o->loss != PG_TUNE_LM && i < PG_COUNT(asked); i++)
        if (asked[i].given)
            return pg_fail(err, PG_EARG,
                           "%s asked for, which only the loss of the language model has a use for: "
                           "loss lm is wanted",
                           asked[i].name);
    return 0;
}

int pg_tune(const struct pg_tune_options *opt, struct pg_tune_report *out, struct pg_err *err)
{
    struct pg_tune_options whole;
    *out = (struct pg_tune_report){0};
    PG_TRY(pg_options_take(PG_OPTIONS_TUNE, &whole, opt, err));
    PG_TRY(check_unused(&whole, err));
    return whole.loss == PG_TUNE_LM ? tune_by_loss(&whole, out, err) : distil(&whole, out, err);
}
