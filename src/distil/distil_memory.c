/* SPDX-License-Identifier: MIT
 * How the budget is divided between the engine, the states that are kept, and the optimiser.
 *
 * If the whole model can be in memory beside enough states, it is. Else the states take at most
 * half of what the engine's least leaves; the rest is the engine's, whose batch is chosen so that
 * the fewest bytes are read: a step reads nearly every expert that is not in memory, so a larger
 * batch reads less, until it takes the memory of too many experts.
 */
#include "distil/distil.h"

#include <math.h>

/* What the engine is given beyond its minimum: it is opened after others have used the heap. */
#define SLACK ((uint64_t)512 << 10)

enum {
    SMALL_BATCH = 64,     /* of the least engine */
    RESIDENT_BATCH = 512, /* nothing is read again, so more is not faster */
    MOST_BATCH = 8192,    /* nor is more than this where experts are read */
    GOOD_TOKENS = 8192,   /* states for which it is worth to have the model in memory */
    HELD_PART = 5,        /* one part in so many of the states is of held-out text */
};

static double mib(uint64_t bytes)
{
    return (double)bytes / (1 << 20);
}

/* Tokens that a session may have in a step: a source is one. */
static int session_tokens(const struct pg_engine *e)
{
    return PG_MAX(e->opt.n_ctx, e->opt.n_source);
}

static int small_batch(const struct pg_engine *e)
{
    return PG_MAX(PG_MIN(e->opt.n_ctx, SMALL_BATCH), e->opt.n_source);
}

/* The engine's plan for n_sessions contexts whose tokens are one batch (n_batch 0), and whether it
 * fits into `bytes`. */
static bool plan_for(struct pg_engine *e, enum pg_mode mode, int n_sessions, int n_batch,
                     uint64_t bytes)
{
    struct pg_err unused;
    e->opt.mode = mode;
    e->opt.n_sessions = n_sessions;
    e->opt.n_batch = n_batch ? n_batch : PG_MIN(n_sessions * session_tokens(e), 1 << 16);
    e->opt.memory_bytes = bytes;
    /* What fits barely may not when it is opened; the minimum has that to spare. */
    return pg_engine_plan_memory(e, &unused) == 0 && e->plan.minimum <= e->plan.budget;
}

static void take_plan(struct pg_distil_memory *m, const struct pg_engine *e)
{
    m->mode = e->plan.mode;
    m->n_sessions = e->opt.n_sessions;
    m->n_batch = e->plan.n_batch;
    m->n_slots = e->plan.n_slots;
}

/* Bytes of states that come with a token of the stack that has the most. */
static uint64_t token_bytes(const struct pg_distil_text *text, const struct pg_states *shape)
{
    uint64_t most = pg_states_bytes(&shape[text->most], 1), sum = most;
    for (int i = 0; i < text->n_stacks; i++) {
        enum { MANY = 1 << 20 };
        uint64_t all = pg_states_bytes(&shape[i], pg_distil_cap(text, i, MANY));
        sum += i == text->most ? 0 : all / MANY + 1;
    }
    return sum;
}

uint64_t pg_distil_spare_bytes(const struct pg_distil_text *text, const struct pg_states *shape)
{
    uint64_t sum = 0;
    for (int i = 0; i < text->n_stacks; i++)
        sum += i == text->most ? 0 : pg_states_bytes(&shape[i], pg_distil_cap(text, i, 0) + 1);
    return 2 * sum;
}

/* Divides n_tokens of states, at least the longest piece's for each, between the two texts. */
static void split_tokens(struct pg_distil_memory *m, const struct pg_distil_text *text,
                         uint64_t n_tokens, uint64_t longest)
{
    uint64_t held = PG_MIN(text->n_held_tokens, PG_MAX(longest, n_tokens / HELD_PART));
    m->n_held = (size_t)PG_MAX(held, PG_MIN(text->n_held_tokens, longest));
    m->n_train = (size_t)PG_MIN(text->n_train_tokens, PG_MAX(n_tokens - m->n_held, longest));
}

/* The whole model in memory, and enough states beside it. */
static bool try_resident(struct pg_distil_memory *m, struct pg_engine *e,
                         const struct pg_distil_text *text, const struct pg_states *shape)
{
    uint64_t token = token_bytes(text, shape), all = text->n_train_tokens + text->n_held_tokens;
    uint64_t fixed = m->n_train + m->n_held, longest = (uint64_t)text->stack[text->most].longest;
    int many = PG_MAX(1, PG_MIN(RESIDENT_BATCH / session_tokens(e), text->n));
    for (int n = many; n > 0; n = n > 1 ? 1 : 0) {
        plan_for(e, PG_MODE_RESIDENT, n, 0, 1);
        uint64_t taken = e->plan.minimum + m->fit_bytes;
        uint64_t room = m->budget > taken ? (m->budget - taken) / token : 0;
        uint64_t n_tokens = fixed ? fixed : PG_MIN(all, room);
        if (n_tokens <= room && n_tokens >= (fixed ? fixed : PG_MIN(all, GOOD_TOKENS))) {
            if (!fixed)
                split_tokens(m, text, n_tokens, longest);
            m->state_bytes = token * (m->n_train + m->n_held);
            m->engine_bytes = m->budget - m->fit_bytes - m->state_bytes;
            if (plan_for(e, PG_MODE_RESIDENT, n, 0, m->engine_bytes)) {
                take_plan(m, e);
                return true;
            }
        }
    }
    return false;
}

/* Experts that are read for the whole text, more or less, with the engine's plan. */
static double n_reads(const struct pg_engine *e, const struct pg_distil_text *text)
{
    double all = (double)(text->n_train_tokens + text->n_held_tokens);
    double piece = all / text->n;
    double batch =
        e->opt.n_sessions > 1 ? piece * e->opt.n_sessions : PG_MIN(piece, (double)e->plan.n_batch);
    return ceil(all / batch) * (e->plan.n_expert_total - e->plan.n_slots);
}

/* Sessions and batch that read the least. */
static void choose_batch(struct pg_distil_memory *m, struct pg_engine *e,
                         const struct pg_distil_text *text)
{
    int each = session_tokens(e), floor = e->model.h.n_expert / 4;
    plan_for(e, PG_MODE_ONDEMAND, 1, small_batch(e), m->engine_bytes);
    take_plan(m, e);
    double least = n_reads(e, text);
    for (int n = 1; n == 1 || (n * each <= MOST_BATCH && n < 2 * text->n); n *= 2) {
        if (!plan_for(e, PG_MODE_ONDEMAND, n, 0, m->engine_bytes) ||
            e->plan.n_slots < PG_MIN(floor, m->n_slots))
            break;
        if (n_reads(e, text) < least) {
            least = n_reads(e, text);
            take_plan(m, e);
        }
    }
}

static int too_little(const struct pg_distil_memory *m, uint64_t engine, uint64_t n_tokens,
                      uint64_t states, struct pg_err *err)
{
    uint64_t step = 256 << 10, minimum = (engine + m->fit_bytes + states + step - 1) / step * step;
    return pg_fail(err, PG_EBUDGET,
                   "%llu bytes are too little to tune: the minimum is %.2f MiB (engine %.1f, "
                   "pre-gates and optimiser %.1f, states of %llu tokens %.1f)",
                   (unsigned long long)m->budget, mib(minimum), mib(engine), mib(m->fit_bytes),
                   (unsigned long long)n_tokens, mib(states));
}

int pg_distil_divide(struct pg_distil_memory *m, struct pg_engine *e,
                     const struct pg_distil_text *text, const struct pg_states *shape,
                     struct pg_err *err)
{
    uint64_t token = token_bytes(text, shape);
    uint64_t longest = (uint64_t)text->stack[text->most].longest;
    uint64_t all = text->n_train_tokens + text->n_held_tokens, limit = pg_os_memory_now().limit;
    uint64_t n_tokens = m->n_train + m->n_held;
    plan_for(e, PG_MODE_ONDEMAND, 1, small_batch(e), e->opt.memory_bytes);
    m->budget = e->plan.budget;
    uint64_t engine = e->plan.minimum + SLACK;
    if (m->budget / PG_PAGE > limit / PG_PAGE) {
        return pg_fail(
            err, PG_EBUDGET,
            "a budget of %llu bytes is more than the %llu bytes that this machine or its "
            "control group allows",
            (unsigned long long)m->budget, (unsigned long long)limit);
    }
    uint64_t least = n_tokens ? n_tokens : PG_MIN(all, 2 * longest);
    if (m->budget < engine + m->fit_bytes + token * least)
        return too_little(m, engine, least, token * least, err);
    if (try_resident(m, e, text, shape))
        return 0;
    if (!n_tokens) {
        uint64_t room = m->budget - engine - m->fit_bytes;
        split_tokens(m, text, PG_MAX(least, PG_MIN(all, room / 2 / token)), longest);
    }
    m->state_bytes = token * (m->n_train + m->n_held);
    m->engine_bytes = m->budget - m->fit_bytes - m->state_bytes;
    choose_batch(m, e, text);
    return 0;
}
