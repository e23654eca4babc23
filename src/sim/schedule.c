/* SPDX-License-Identifier: MIT
 * A step in virtual time. Each part of a block takes the time that the machine says; meanwhile the
 * store is polled as an engine does between its loops.
 *
 * The gates are the engine's, run on maps that multiply nothing of a model: who decides is forced
 * by the drawn routes, and what lookahead and hint name is what their rows say, through a map that
 * is the identity.
 */
#include "sim/schedule.h"

#include "base/os.h"
#include "base/random.h"

#include <stdlib.h>
#include <string.h>

/* ---- time */

/* A part is looked up from at most so many times, so that a slow machine takes no time of ours. */
enum { POLLS_MAX = 4096 };

static void spend(struct pg_sim *s, double seconds)
{
    uint64_t left = (uint64_t)(seconds * 1e9 + 0.5);
    const uint64_t slice = PG_MAX((uint64_t)(s->machine.poll_s * 1e9), left / POLLS_MAX + 1);
    s->compute_ns += left;
    while (left) {
        const uint64_t ns = PG_MIN(left, slice);
        pg_io_sim_advance(s->io, ns);
        pg_store_poll(s->store);
        left -= ns;
    }
}

/* Of a piece for so many rows, without what a part costs in any case. */
static double piece_s(const struct pg_sim *s, struct pg_sim_piece p, double n_row)
{
    const struct pg_sim_machine *m = &s->machine;
    const double stream = m->bytes_per_s > 0 ? (double)p.bytes / m->bytes_per_s : 0;
    const double flop = m->flop_per_s > 0 ? p.flop * n_row / m->flop_per_s : 0;
    return PG_MAX(stream, flop);
}

static void part(struct pg_sim *s, enum pg_sim_part which, struct pg_sim_piece p, double n_row)
{
    if (p.bytes)
        spend(s, s->machine.overhead_s[which] + piece_s(s, p, n_row));
}

/* Attention with n_seen positions for each row, whose keys and values each sequence has once. */
static void attend(struct pg_sim *s, enum pg_sim_part which, struct pg_sim_piece p,
                   const struct pg_sim_step *step, int n_seen)
{
    const struct pg_sim_piece *c = &s->shape.context;
    p.bytes += (uint64_t)step->n_seq * (uint64_t)n_seen * c->bytes;
    p.flop += (double)n_seen * c->flop;
    part(s, which, p, step->n_row);
}

/* ---- gates */

static size_t gates_carve(struct pg_sim_gates *g, const struct pg_gate_options *opt,
                          struct pg_arena *a)
{
    const size_t n_row = (size_t)opt->max_tok, n_expert = (size_t)opt->rule.n_expert;
    pg_gate_init(&g->gate, opt, a);
    pg_input_carve(&g->in, a, (int)g->n_width, opt->max_tok);
    g->h = pg_arena_take(a, n_row * g->n_width * sizeof(*g->h));
    g->pos = pg_arena_take(a, n_row * sizeof(*g->pos));
    g->count = pg_arena_take(a, n_expert * sizeof(*g->count));
    g->wanted = pg_arena_take(a, n_expert * sizeof(*g->wanted));
    g->lease = pg_arena_take(a, n_expert * sizeof(*g->lease));
    return a->used;
}

int pg_sim_gates_open(struct pg_sim *s, int stack, enum pg_mode mode, struct pg_err *err)
{
    struct pg_sim_gates *g = &s->of[stack];
    struct pg_arena a = {0};
    const struct pg_gate_options opt = {
        .mode = mode,
        .rule = {.n_expert = s->shape.n_expert, .n_used = g->draw.n_used, .scale = 1},
        .weigher = PG_GATE_PREGATE,
        .n_block = s->shape.n_moe,
        .level = s->level,
        .max_tok = g->draw.n_row,
        .stack = s->shape.moe,
        .n_stack = s->shape.n_stack,
        .routers = s->maps,
        .pregates = s->maps,
        .routes = &g->draw.to,
        .store = s->store,
        .compute = &s->compute,
    };
    g->n_width = (size_t)s->maps[0].inp.n_in;
    a.size = gates_carve(g, &opt, &a);
    g->memory = a.base = pg_calloc(a.size, 1);
    if (!a.base)
        return pg_fail(err, PG_ENOMEM, "out of memory: %zu bytes for %d rows", a.size,
                       g->draw.n_row);
    a.used = 0;
    gates_carve(g, &opt, &a);
    for (int i = 0; i < g->draw.n_row; i++)
        g->pos[i] = i;
    pg_input_set(&g->in, g->h, (int)g->n_width, g->draw.n_row);
    return 0;
}

void pg_sim_gates_close(struct pg_sim_gates *g)
{
    pg_sim_draw_close(&g->draw);
    free(g->memory);
}

/* The rows say what is named for block `to`: the right experts, first ones first, some of them
 * replaced by others. */
static void say_hints(struct pg_sim *s, struct pg_sim_gates *g, int to)
{
    const int n_expert = s->shape.n_expert, n_used = g->draw.n_used;
    memset(g->h, 0, (size_t)g->draw.n_row * g->n_width * sizeof(*g->h));
    for (int row = 0; row < g->draw.n_row; row++) {
        const uint16_t *ids = pg_routes_ids(&g->draw.to, row, to);
        float *h = g->h + (size_t)row * g->n_width;
        for (int i = 0; i < n_used; i++) {
            const double u = (double)(pg_random_next(&s->random) >> 11) * 0x1p-53;
            uint64_t id = ids[i];
            while (u >= (double)s->opt->hint_right && (h[id] > 0 || id == ids[i]) && n_expert > 1)
                id = pg_random_next(&s->random) % (uint64_t)n_expert;
            h[id] = (float)(n_used - i);
        }
    }
    pg_input_set(&g->in, g->h, (int)g->n_width, g->draw.n_row);
}

/* ---- a block's experts */

/* The distinct experts of a route in wanted, in their order, with how many rows each has; or all of
 * the block's. */
static int sort_wave(struct pg_sim *s, struct pg_sim_gates *g, const struct pg_route *route)
{
    const int n_expert = s->shape.n_expert;
    int n = 0;
    memset(g->count, 0, (size_t)n_expert * sizeof(*g->count));
    for (int i = 0; i < g->draw.n_row * g->draw.n_used; i++)
        s->sums->n_active += g->count[route->id[i]]++ == 0;
    const bool all = s->machine.prefetch_waits && s->opt->mode == PG_MODE_PREFETCH_ALL;
    for (int e = 0; e < n_expert; e++)
        if (all || g->count[e])
            g->wanted[n++] = e;
    return n;
}

/* Computes leases [0, n), and gives them back. Returns whether there was anything to compute. */
static bool compute_group(struct pg_sim *s, struct pg_sim_gates *g, struct pg_sim_piece expert,
                          int n, enum pg_sim_part which)
{
    double seconds = s->machine.overhead_s[which];
    for (int i = 0; i < n; i++)
        seconds += piece_s(s, expert, g->count[g->lease[i].expert]);
    if (n)
        spend(s, seconds);
    for (int i = 0; i < n; i++)
        pg_store_release(s->store, &g->lease[i]);
    return n > 0;
}

/* The next lease; one that nobody has a row for is given back at once. */
static int next_lease(struct pg_sim *s, struct pg_sim_gates *g, int *n)
{
    const int rc = pg_store_next(s->store, &g->lease[*n], s->err);
    if (rc == 1 && !g->count[g->lease[*n].expert])
        pg_store_release(s->store, &g->lease[*n]);
    else if (rc == 1)
        ++*n;
    return rc;
}

/* Experts are computed as they come, those together that are there. */
static int run_wave(struct pg_sim *s, struct pg_sim_gates *g, struct pg_sim_piece expert)
{
    enum pg_sim_part which = PG_SIM_EXPERTS;
    int rc = 1;
    while (rc == 1) {
        const int there = PG_MAX(1, pg_store_n_ready(s->store));
        int n = 0;
        for (int i = 0; i < there && rc == 1; i++)
            rc = next_lease(s, g, &n);
        if (rc >= 0 && compute_group(s, g, expert, n, which))
            which = PG_SIM_MORE;
    }
    return rc;
}

/* All of a wave, kept until it is there. */
static int wait_wave(struct pg_sim *s, struct pg_sim_gates *g, int *n)
{
    int rc = 1;
    while (rc == 1)
        rc = next_lease(s, g, n);
    return rc;
}

/* Now the block's experts are needed: how much was computed since they were named. */
static void note_window(struct pg_sim *s, enum pg_mode mode)
{
    if (!s->named.is || mode == PG_MODE_RESIDENT || mode == PG_MODE_ONDEMAND)
        return;
    s->sums->window_ns += s->compute_ns - s->named.ns;
    s->sums->n_windows++;
}

/* What the gate of a block names of a later one. In lockstep one gate does both. */
static int run_hint(struct pg_sim *s, const struct pg_sim_layer *l, const struct pg_sim_step *step)
{
    struct pg_sim_gates *g = &s->of[step->stack];
    const enum pg_mode mode = g->gate.opt.mode;
    const struct pg_span moe = s->shape.moe[step->stack];
    const bool names = mode == PG_MODE_PREGATE || mode == PG_MODE_LOOKAHEAD || mode == PG_MODE_HINT;
    const bool has_next = l->moe + s->level < moe.first + moe.n;
    if (names && has_next && !s->machine.lockstep)
        part(s, PG_SIM_ROUTER, l->router, step->n_row);
    if (names && has_next && mode != PG_MODE_PREGATE)
        say_hints(s, g, l->moe + s->level);
    PG_TRY(pg_gate_hint(&g->gate, l->moe, &g->in, g->pos, s->err));
    s->next = (struct pg_sim_named){has_next, s->compute_ns};
    return 0;
}

/* What the engine does of a block (see model/block.c); in lockstep, what the paper's artifact does.
 */
static int run_experts(struct pg_sim *s, const struct pg_sim_layer *l,
                       const struct pg_sim_step *step)
{
    struct pg_sim_gates *g = &s->of[step->stack];
    const enum pg_mode mode = g->gate.opt.mode;
    const bool decides_early =
        mode == PG_MODE_PREGATE && l->moe >= s->shape.moe[step->stack].first + s->level;
    const struct pg_route *route;
    int n_there = 0;
    if (!decides_early || s->machine.lockstep)
        part(s, PG_SIM_ROUTER, l->router, step->n_row);
    PG_TRY(pg_gate_decide(&g->gate, l->moe, &g->in, g->pos, &route, s->err));
    const int n = sort_wave(s, g, route);
    const bool waits = s->machine.lockstep && n <= s->n_slots;
    pg_store_acquire(s->store, l->moe, g->wanted, n);
    if (waits) {
        note_window(s, mode);
        PG_TRY(wait_wave(s, g, &n_there));
    }
    PG_TRY(run_hint(s, l, step));
    part(s, PG_SIM_FFN, l->ffn, step->n_row);
    if (waits) {
        compute_group(s, g, l->expert, n_there, PG_SIM_EXPERTS);
    } else {
        note_window(s, mode);
        PG_TRY(run_wave(s, g, l->expert));
    }
    s->named = s->next;
    return 0;
}

/* ---- a step */

static int run_layer(struct pg_sim *s, const struct pg_sim_layer *l, const struct pg_sim_step *step)
{
    const uint64_t begin = pg_io_now(s->io), computed = s->compute_ns;
    attend(s, PG_SIM_ATTENTION, l->attention, step, step->n_seen);
    if (l->cross.bytes)
        attend(s, PG_SIM_CROSS, l->cross, step, step->n_source);
    if (l->moe < 0) {
        part(s, PG_SIM_FFN, l->ffn, step->n_row);
        return 0;
    }
    PG_TRY(run_experts(s, l, step));
    const uint64_t ns = pg_io_now(s->io) - begin;
    s->sums->n_blocks++;
    s->sums->block_ns += ns;
    s->sums->block_compute_ns += s->compute_ns - computed;
    if (l->moe == s->shape.moe[step->stack].first)
        s->sums->first_ns += ns;
    return 0;
}

static void store_add(struct pg_store_stats *to, const struct pg_store_stats *a,
                      const struct pg_store_stats *b)
{
    to->requests += b->requests - a->requests;
    to->hits += b->hits - a->hits;
    to->hinted_in_time += b->hinted_in_time - a->hinted_in_time;
    to->hinted_late += b->hinted_late - a->hinted_late;
    to->missed += b->missed - a->missed;
    to->hinted_unused += b->hinted_unused - a->hinted_unused;
    to->bytes_read += b->bytes_read - a->bytes_read;
}

int pg_sim_step_run(struct pg_sim *s, const struct pg_sim_step *step, uint64_t nth,
                    struct pg_sim_sums *to)
{
    const struct pg_span layers = s->shape.layers[step->stack];
    const bool writes = step->stack == s->shape.n_stack - 1;
    const uint64_t begin = pg_io_now(s->io), computed = s->compute_ns;
    struct pg_store_stats before, after;
    pg_store_stats(s->store, &before);
    s->sums = to;
    s->named = (struct pg_sim_named){0};
    pg_sim_draw_step(&s->of[step->stack].draw, nth);
    if (writes)
        pg_store_step(s->store, step->n_row);
    if (s->shape.moe[step->stack].n)
        pg_store_span(s->store, s->shape.moe[step->stack]);
    for (int il = layers.first; il < layers.first + layers.n; il++)
        PG_TRY(run_layer(s, &s->shape.layer[il], step));
    if (writes)
        part(s, PG_SIM_HEAD, s->shape.head, step->n_row);
    pg_store_stats(s->store, &after);
    store_add(&to->store, &before, &after);
    to->n_steps++;
    to->ns += pg_io_now(s->io) - begin;
    to->compute_ns += s->compute_ns - computed;
    return 0;
}

void pg_sim_source_run(struct pg_sim *s, int n_row, struct pg_sim_sums *to)
{
    const uint64_t begin = pg_io_now(s->io), computed = s->compute_ns;
    for (int il = 0; il < s->shape.n_layer; il++)
        part(s, PG_SIM_SOURCE, s->shape.layer[il].source, n_row);
    to->ns += pg_io_now(s->io) - begin;
    to->compute_ns += s->compute_ns - computed;
}

int pg_sim_load_all(struct pg_sim *s, struct pg_err *err)
{
    struct pg_sim_gates *g = &s->of[s->shape.n_stack - 1];
    for (int e = 0; e < s->shape.n_expert; e++)
        g->wanted[e] = e;
    for (int block = 0; block < s->shape.n_moe; block++) {
        int rc;
        pg_store_acquire(s->store, block, g->wanted, s->shape.n_expert);
        while ((rc = pg_store_next(s->store, &g->lease[0], err)) == 1)
            pg_store_release(s->store, &g->lease[0]);
        PG_TRY(rc);
    }
    return 0;
}
