/* SPDX-License-Identifier: MIT
 * The memory budget. Everything that will be taken is known from the directory of the file, so the
 * plan is made before a weight is read, and what is left over becomes expert slots.
 */
#include "engine/engine.h"

#include "base/hash.h"
#include "base/ranges.h"

#include <stdio.h>
#include <stdlib.h>

enum { MIN_BATCH = 8, MAX_BATCH = 512, DEFAULT_CTX = 4096, DEFAULT_SOURCE = 512 };

static struct pg_forward_options forward_options(struct pg_engine *e, int n_batch)
{
    return (struct pg_forward_options){
        .model = &e->model,
        .compute = &e->compute,
        .gate = e->store ? &e->gate : NULL,
        .store = e->store,
        .trace = e->trace,
        .ops = &pg_ops_cpu,
        .max_tok = n_batch,
        .n_ctx = PG_MAX(e->opt.n_ctx, e->opt.n_source),
        .n_threads = e->opt.n_threads,
    };
}

void pg_engine_carve(struct pg_engine *e, int n_batch, struct pg_arena *a)
{
    size_t n = (size_t)n_batch;
    struct pg_forward_options fo = forward_options(e, n_batch);
    if (e->model.n_moe) {
        struct pg_gate_options go = {
            .mode = e->opt.mode,
            .rule = e->model.h.rule,
            .n_block = e->model.n_moe,
            .stack = e->model.moe_of,
            .n_stack = e->model.h.n_stack,
            .level = e->level,
            .weigher = e->weigher,
            .n_hidden = e->form.n_hidden,
            .max_tok = n_batch,
            .routers = e->routers,
            .pregates = e->pregates,
            .routes = e->opt.routes,
            .routes_out = e->opt.routes_out ? &e->routes_out : NULL,
            .cache_bias = e->cache_bias,
            .cache_form = e->opt.cache_form,
            .n_extra = e->opt.hint_extra,
            .capacity = e->opt.capacity,
            .store = e->store,
            .compute = &e->compute,
        };
        pg_gate_init(&e->gate, &go, a);
    }
    if (e->opt.routes_out) {
        e->routes_out.n_blocks = e->model.n_moe;
        e->routes_out.n_used = e->model.h.n_expert_used;
        pg_routes_out_carve(&e->routes_out, n_batch, a);
    }
    pg_forward_init(&e->forward, &fo, a);
    e->token = pg_arena_take(a, n * sizeof(int32_t));
    e->pos = pg_arena_take(a, n * sizeof(int32_t));
    e->n_seen = pg_arena_take(a, n * sizeof(int32_t));
    e->n_source = pg_arena_take(a, n * sizeof(int32_t));
    e->last_row = pg_arena_take(a, n * sizeof(int32_t));
    e->kv = pg_arena_take(a, n * sizeof(struct pg_kv *));
    e->cand = pg_arena_take(a, (size_t)e->model.h.n_vocab * sizeof(struct pg_candidate));
    e->mask = pg_arena_take(a, ((size_t)pg_vocab_n(e->vocab) + 31) / 32 * sizeof(*e->mask));
    if (e->opt.n_sessions > 1)
        e->logits = pg_arena_take(a, PG_LOGIT_ROWS * (size_t)e->model.h.n_vocab * sizeof(float));
}

static uint64_t scratch_bytes(struct pg_engine *e, int n_batch)
{
    struct pg_arena measure = {0};
    pg_engine_carve(e, n_batch, &measure);
    return measure.used + PG_PAGE;
}

/* What the process holds besides the parts that the plan names: itself, the vocabulary and the
 * directory (which are there by now), the store's tables, threads, and a margin for small things of
 * the caller and of libraries. The kernel's own memory for us is in it, as a control group counts
 * it: a quarter of a MiB, 32 KiB for a thread beside as much of its stack, and a part of the budget
 * (KERNEL_PART) for page tables and what is rounded up. */
static uint64_t overhead_bytes(const struct pg_engine *e, int n_slots)
{
    const struct pg_model *m = &e->model;
    uint64_t margin = (uint64_t)(384 + 256) << 10;
    uint64_t threads = ((uint64_t)e->opt.n_threads * 64 + 8 * 40) << 10; /* ours, and pread's */
    uint64_t trace = (uint64_t)e->opt.trace_events * 64;
    uint64_t store = m->n_moe ? pg_store_heap_bytes(m->n_moe, m->h.n_expert, n_slots) : 0;
    return pg_os_held() + margin + threads + trace + store;
}

/* Tokens that all contexts together could take in one step. */
static int most_in_step(const struct pg_engine *e)
{
    int64_t contexts = PG_MIN((int64_t)e->opt.n_ctx * e->opt.n_sessions, pg_contexts_tokens(e));
    int64_t sources = (int64_t)e->opt.n_source * e->opt.n_sessions;
    return (int)PG_MIN(PG_MAX(contexts, sources), 1 << 16);
}

static uint64_t caller_bytes(const struct pg_engine *e, int n_batch)
{
    uint64_t rows = (uint64_t)PG_MAX(PG_MIN(n_batch, e->opt.n_logit_rows), 0);
    return e->opt.caller_bytes + rows * (uint64_t)e->model.h.n_vocab * sizeof(float);
}

/* What a step of n_batch tokens needs, and the caller with it. */
static uint64_t step_bytes(struct pg_engine *e, int n_batch)
{
    return scratch_bytes(e, n_batch) + caller_bytes(e, n_batch);
}

/* A source goes through the encoder in one step, and all sessions can write in one. */
static int least_batch_of(const struct pg_engine *e)
{
    int n = PG_MAX(MIN_BATCH, e->opt.n_sessions);
    n = PG_MAX(PG_MIN(n, most_in_step(e)), e->opt.n_source);
    return e->opt.n_batch ? e->opt.n_batch : n;
}

/* The largest batch whose scratch takes at most a sixteenth of what is there for slots. */
static int choose_batch(struct pg_engine *e, uint64_t room)
{
    int n_batch = PG_MIN(MAX_BATCH, most_in_step(e)), least = least_batch_of(e);
    if (e->opt.n_batch)
        return e->opt.n_batch;
    while (n_batch > MIN_BATCH && step_bytes(e, n_batch) - e->opt.caller_bytes > room / 16)
        n_batch /= 2;
    return PG_MAX(n_batch, least);
}

enum { KERNEL_PART = 128 };
/* A minimum is told with this to spare and in whole steps: what is measured of the heap may differ
 * a little until the engine is opened, and one command should name one number. */
#define MINIMUM_SPARE ((uint64_t)128 << 10)
#define MINIMUM_STEP  ((uint64_t)256 << 10)

static uint64_t sub(uint64_t a, uint64_t b)
{
    return a > b ? a - b : 0;
}

bool pg_engine_touches(const struct pg_engine *e)
{
    return ((uint64_t)e->opt.n_threads + 8) * PG_PAGE_HUGE > e->plan.budget / KERNEL_PART;
}

/* Slots without which the mode, or the caller, is not content. */
static int least_slots(const struct pg_engine *e, int total)
{
    if (e->opt.n_slots)
        return e->opt.n_slots;
    return e->opt.mode == PG_MODE_RESIDENT ? total : PG_MIN(total, PG_SLOTS_MIN);
}

/* Only the slots are given: the budget is what a step that goes well with them needs. */
static bool is_sized_by_slots(const struct pg_engine *e)
{
    return e->opt.n_slots && !e->opt.memory_bytes;
}

/* The disk writes into huge pages faster (docs/decisions/020-huge-pages.md), and what an arena has
 * beyond its last whole one are small pages. One of some MiB is rounded up, where that is asked for
 * anyway; more bytes have so few at their end that it does not matter. */
static uint64_t whole_pages(uint64_t bytes)
{
    const uint64_t rounded = (bytes + PG_PAGE_HUGE - 1) / PG_PAGE_HUGE * PG_PAGE_HUGE;
    return bytes > 2 * PG_PAGE_HUGE ? rounded : bytes;
}

/* What so many slots need at least. */
static uint64_t least_of_slots(const struct pg_engine *e, int n_slots)
{
    const uint64_t bytes = (uint64_t)n_slots * e->plan.slot_bytes;
    return is_sized_by_slots(e) ? whole_pages(bytes) : bytes;
}

/* The budget's room for slots and batch, in which a model that fits whole leaves the rest to the
 * batch; otherwise slots come first. A given number of slots is all that the batch depends on, so
 * that it moves neither with the threads nor with what the program is found to take. */
static uint64_t room_of_batch(const struct pg_engine *e, uint64_t room)
{
    const struct pg_plan *p = &e->plan;
    uint64_t beside = (uint64_t)p->n_expert_total * p->slot_bytes;
    if (e->opt.n_slots)
        return (uint64_t)e->opt.n_slots * p->slot_bytes;
    return room > beside + room / 16 ? 16 * (room - beside) : room;
}

/* Fills the plan for e->opt.mode. Returns whether it fits. */
static bool fill_plan(struct pg_engine *e)
{
    const struct pg_model *m = &e->model;
    struct pg_plan *p = &e->plan;
    int total = m->n_moe * m->h.n_expert;
    int least = least_slots(e, total);
    p->mode = e->opt.mode;
    p->dense = m->dense_bytes + pg_tables_bytes(e);
    p->kv = pg_contexts_bytes(e) + (uint64_t)e->opt.n_sessions * pg_session_bytes(e, e->opt.n_ctx);
    p->n_kv = pg_contexts_tokens(e);
    p->slot_bytes = total ? pg_store_slot_bytes(m->place, total) : 0;
    p->expert_bytes = m->expert_bytes;
    p->token_expert_bytes = m->token_expert_bytes;
    p->token_dense_bytes = m->token_dense_bytes;
    p->n_expert_total = total;
    p->n_expert_token = m->moe_of[pg_last_stack(&m->h)].n * m->h.n_expert;
    p->n_source = e->opt.n_source;
    uint64_t base = overhead_bytes(e, total);
    int least_batch = least_batch_of(e);
    if (is_sized_by_slots(e))
        least_batch = choose_batch(e, room_of_batch(e, 0));
    uint64_t need = p->dense + p->kv + base + step_bytes(e, least_batch) + least_of_slots(e, least);
    need += need / (KERNEL_PART - 1) + 1;
    p->minimum = (need + MINIMUM_SPARE + MINIMUM_STEP - 1) / MINIMUM_STEP * MINIMUM_STEP;
    if (is_sized_by_slots(e))
        p->budget = p->minimum;
    p->overhead = base + PG_MAX(p->budget, need) / KERNEL_PART;

    uint64_t fixed = p->dense + p->kv + p->overhead;
    p->n_batch = choose_batch(e, room_of_batch(e, sub(p->budget, fixed + e->opt.caller_bytes)));
    if (p->budget < fixed + step_bytes(e, p->n_batch) + (uint64_t)least * p->slot_bytes)
        p->n_batch = least_batch;
    p->scratch = scratch_bytes(e, p->n_batch);
    p->caller = caller_bytes(e, p->n_batch);
    uint64_t room = sub(p->budget, fixed + p->scratch + p->caller);
    uint64_t n_slots = total ? room / p->slot_bytes : 0;
    p->n_slots = (int)PG_MIN(n_slots, (uint64_t)(e->opt.n_slots ? e->opt.n_slots : total));
    p->slots = (uint64_t)p->n_slots * p->slot_bytes;
    p->slots = whole_pages(p->slots) <= room ? whole_pages(p->slots) : p->slots;
    return p->budget >= need && p->n_slots >= least;
}

static double mib(uint64_t bytes)
{
    return (double)bytes / (1 << 20);
}

/* All that is left, less a sixteenth for the rest of the machine; UINT64_MAX where that is not
 * known. */
static uint64_t memory_left(void)
{
    const struct pg_os_memory now = pg_os_memory_now();
    uint64_t there = PG_MIN(PG_MIN(now.available, now.limit) + pg_os_rss(), now.limit);
    return now.total == 0 ? UINT64_MAX : there - there / 16;
}

/* Returns PG_EBUDGET with the numbers. */
static int too_little(const struct pg_engine *e, struct pg_err *err)
{
    const struct pg_plan *p = &e->plan;
    char what[48] = "two experts";
    if (p->mode == PG_MODE_RESIDENT)
        snprintf(what, sizeof(what), "all experts");
    else if (e->opt.n_slots)
        snprintf(what, sizeof(what), "%d experts", e->opt.n_slots);
    return pg_fail(
        err, PG_EBUDGET,
        "%llu bytes are too little for mode %s: the minimum is %.2f MiB (dense weights "
        "%.1f, context of %d tokens %.1f, program %.1f, the caller's data %.1f, scratch and %s "
        "%.1f)",
        (unsigned long long)p->budget, pg_mode_name(p->mode), mib(p->minimum), mib(p->dense),
        e->opt.n_ctx, mib(p->kv), mib(p->overhead), mib(p->caller), what,
        mib(p->minimum - p->dense - p->kv - p->overhead - p->caller));
}

static bool plan_as(struct pg_engine *e, enum pg_mode mode)
{
    e->opt.mode = mode;
    pg_sidecar_settle(e);
    return fill_plan(e);
}

/* Whether the pre-gates of the mode that is planned now are paid back. What they take of n_slots is
 * certain, and is this part of the reads, if routing is even; what their hints hide of the rest is
 * not, and is nothing where the disk is what a step waits for. */
static bool pays(const struct pg_engine *e, int n_slots)
{
    enum { MOST = 3, OF = 200 }; /* docs/decisions/013-hints.md */
    int lost = n_slots - e->plan.n_slots, missing = e->plan.n_expert_total - n_slots;
    bool asked = e->opt.hints == PG_HINTS_ON || e->opt.lookahead || e->opt.hint_extra;
    return asked || lost * OF <= missing * MOST;
}

/* Mode auto: the whole model if it fits; else the best hints that are paid back. */
static bool choose_mode(struct pg_engine *e)
{
    bool tried[] = {e->opt.hints != PG_HINTS_OFF && pg_sidecar_may_hint(e),
                    e->opt.hints != PG_HINTS_OFF};
    static const enum pg_mode hinting[] = {PG_MODE_HINT, PG_MODE_LOOKAHEAD};
    bool fits = plan_as(e, PG_MODE_ONDEMAND);
    int n_slots = e->plan.n_slots;
    uint64_t minimum = e->plan.minimum;
    bool done = plan_as(e, PG_MODE_RESIDENT);
    minimum = PG_MIN(minimum, e->plan.minimum);
    for (size_t i = 0; i < PG_COUNT(hinting) && !done; i++)
        done = fits && tried[i] && plan_as(e, hinting[i]) && pays(e, n_slots);
    if (!done)
        plan_as(e, PG_MODE_ONDEMAND);
    e->plan.minimum = minimum;
    if (e->sidecar_found && e->opt.mode != PG_MODE_HINT)
        e->sidecar_path[0] = 0;
    return done || fits;
}

int pg_engine_plan_memory(struct pg_engine *e, struct pg_err *err)
{
    const uint64_t left = e->opt.memory_bytes ? e->opt.memory_bytes : memory_left();
    if (!e->opt.memory_bytes && !e->opt.n_slots && left == UINT64_MAX) /* no licence for it all */
        return pg_fail(err, PG_ENOMEM,
                       "how much memory this machine has cannot be read; give a budget");
    e->plan.budget = left;
    bool fits = e->opt.mode == PG_MODE_AUTO ? choose_mode(e) : fill_plan(e);
    e->opt.n_batch = e->plan.n_batch;
    if (!fits)
        return too_little(e, err);
    if (is_sized_by_slots(e) && e->plan.budget > left) {
        return pg_fail(err, PG_EBUDGET,
                       "%d expert slots take a budget of %llu bytes, %llu are left on this machine "
                       "or in its control group",
                       e->opt.n_slots, (unsigned long long)e->plan.budget,
                       (unsigned long long)left);
    }
    return 0;
}

static int check_routes(const struct pg_engine *e, struct pg_err *err)
{
    const pg_routes *r = e->opt.routes;
    const struct pg_model *m = &e->model;
    if (r && (pg_routes_n_blocks(r) != m->n_moe || pg_routes_n_used(r) != m->h.n_expert_used ||
              pg_routes_n_expert(r) > m->h.n_expert)) {
        return pg_fail(err, PG_EARG,
                       "the route trace has %d blocks with %d of (at least) %d experts, the model "
                       "has %d blocks with %d of %d",
                       pg_routes_n_blocks(r), pg_routes_n_used(r), pg_routes_n_expert(r), m->n_moe,
                       m->h.n_expert_used, m->h.n_expert);
    }
    if (r && pg_routes_gap(r) >= 0)
        return pg_fail(
            err, PG_EARG,
            "the route trace has no token that goes through block %d, and all are forced",
            pg_routes_gap(r));
    if (e->opt.routes_out && m->n_moe == 0)
        return pg_fail(err, PG_EARG, "routes: the model has no experts, so no routes to write");
    return 0;
}

/* A given number of slots: as many as there are experts at most, and no fewer in resident mode. */
static int check_slots(struct pg_engine *e, struct pg_err *err)
{
    int n = e->opt.n_slots, total = e->model.n_moe * e->model.h.n_expert;
    int least = e->opt.mode == PG_MODE_RESIDENT ? total : PG_MIN(total, PG_SLOTS_MIN);
    if (!n)
        return 0;
    if (total == 0)
        return pg_fail(err, PG_EARG, "expert slots: %d found, but the model has no experts", n);
    if (n < least || n > total)
        return pg_fail(err, PG_EARG, "expert slots: %d found, %d to %d wanted%s", n, least, total,
                       e->opt.mode == PG_MODE_RESIDENT ? " (mode resident keeps all experts)" : "");
    if (e->opt.mode == PG_MODE_AUTO)
        e->opt.mode = PG_MODE_LOOKAHEAD;
    return 0;
}

static int take_bias(struct pg_engine *e, struct pg_err *err)
{
    const struct pg_gate_biases given = {e->opt.cache_bias, e->opt.block_bias, e->opt.n_block_bias};
    e->opt.block_bias = NULL;
    return pg_gate_biases_make(&given, e->model.n_moe, &e->cache_bias, err);
}

static int resolve_source(struct pg_engine *e, struct pg_err *err)
{
    struct pg_options *o = &e->opt;
    if (e->model.h.n_stack < 2) {
        return o->n_source || o->capacity
                   ? pg_fail(err, PG_EARG, "%s: %d found, but the model has no encoder",
                             o->n_source ? "source" : "capacity",
                             o->n_source ? o->n_source : o->capacity)
                   : 0;
    }
    if (o->capacity && e->model.moe_of[0].n == 0)
        return pg_fail(err, PG_EARG, "capacity: %d found, but the encoder has no experts",
                       o->capacity);
    o->n_source = o->n_source ? o->n_source : PG_MIN(e->model.h.n_ctx_train, DEFAULT_SOURCE);
    if (o->n_batch && o->n_batch < o->n_source)
        return pg_fail(err, PG_EARG,
                       "batch: %d found, %d at least wanted: a source goes through the encoder in "
                       "one step",
                       o->n_batch, o->n_source);
    return 0;
}

static int check_contexts(const struct pg_engine *e, struct pg_err *err)
{
    const struct pg_options *o = &e->opt;
    if (o->n_kv && o->n_kv < o->n_ctx)
        return pg_fail(err, PG_EARG, "n_kv: %d found, the context of %d tokens at least wanted",
                       o->n_kv, o->n_ctx);
    return 0;
}

/* Defaults and bounds of the options that need the model's shape. */
static int resolve_options(struct pg_engine *e, struct pg_err *err)
{
    struct pg_options *o = &e->opt;
    int train = e->model.h.n_ctx_train;
    o->n_ctx = o->n_ctx ? o->n_ctx : PG_MIN(train, DEFAULT_CTX);
    o->n_sessions = o->n_sessions ? o->n_sessions : 1;
    PG_TRY(check_contexts(e, err));
    o->n_threads = o->n_threads ? o->n_threads : PG_MIN(pg_os_n_cpu(), PG_THREADS_MAX);
    if (o->lookahead > PG_MAX(1, pg_most_level(&e->model)))
        return pg_fail(err, PG_EARG, "lookahead: %d found, 0 to %d wanted", o->lookahead,
                       PG_MAX(1, pg_most_level(&e->model)));
    PG_TRY(resolve_source(e, err));
    o->n_batch = PG_MIN(o->n_batch, most_in_step(e));
    e->level = o->lookahead ? o->lookahead : 1;
    if (e->model.n_moe == 0 && o->mode != PG_MODE_AUTO) {
        if (o->mode == PG_MODE_HINT || o->mode == PG_MODE_PREGATE) {
            return pg_fail(err, PG_EARG, "mode %s: the model has no experts, so no pre-gates",
                           pg_mode_name(o->mode));
        }
        o->mode = PG_MODE_RESIDENT; /* a model without experts is the same in all of them */
    }
    PG_TRY(check_slots(e, err));
    PG_TRY(take_bias(e, err));
    return check_routes(e, err);
}

int pg_engine_begin(struct pg_engine *e, const struct pg_options *opt, struct pg_err *err)
{
    PG_TRY(pg_options_take(PG_OPTIONS_ENGINE, &e->opt, opt, err));
    PG_TRY(pg_gguf_open(&e->gguf, e->opt.model, err));
    int rc = pg_model_open(&e->model, e->gguf, err);
    if (!rc)
        rc = pg_vocab_from_gguf(&e->vocab, e->gguf, err);
    if (rc)
        return pg_fail_in(err, rc, e->opt.model);
    if (pg_vocab_n(e->vocab) > e->model.h.n_vocab) {
        return pg_fail(err, PG_EFORMAT,
                       "%s: tokenizer.ggml.tokens has %d entries, token_embd.weight only %d rows",
                       e->opt.model, pg_vocab_n(e->vocab), e->model.h.n_vocab);
    }
    e->file_bytes = pg_gguf_file_bytes(e->gguf);
    e->files_hash = PG_HASH_START;
    for (int i = 0; i < pg_gguf_n_parts(e->gguf); i++) {
        const struct pg_stamp *stamp = pg_gguf_part_stamp(e->gguf, i);
        const uint64_t what[] = {stamp->bytes, (uint64_t)stamp->written_ns};
        e->files_hash = pg_hash_bytes(e->files_hash, what, sizeof(what));
    }
    if (e->opt.n_expert_used)
        PG_TRY(pg_model_use(&e->model, e->opt.n_expert_used, err));
    PG_TRY(resolve_options(e, err));
    return pg_sidecar_find(e, err);
}

int pg_plan_make(struct pg_plan *out, const struct pg_options *opt, struct pg_err *err)
{
    struct pg_engine *e = pg_calloc(1, sizeof(*e));
    if (!e)
        return pg_fail(err, PG_ENOMEM, "out of memory");
    int rc = pg_engine_begin(e, opt, err);
    if (!rc)
        rc = pg_engine_plan_memory(e, err);
    *out = e->plan;
    pg_engine_close(e);
    return rc;
}
