/* SPDX-License-Identifier: MIT
 * pg_simulate: what is opened for a simulation, the request, and what is reported of it.
 */
#include "sim/schedule.h"

#include "base/arena.h"
#include "base/os.h"
#include "base/ranges.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What is opened beside the gates. */
struct world {
    struct pg_sim s;
    struct pg_place *place; /* [n_moe * n_expert] */
    void *arena;            /* addresses only */
    size_t slot_bytes, arena_bytes;
};

static bool encodes(const struct pg_sim *s)
{
    return s->shape.n_stack > 1;
}

static int last_stack(const struct pg_sim *s)
{
    return s->shape.n_stack - 1;
}

/* ---- what is wanted */

static int check_trace(const struct pg_sim *s, struct pg_err *err)
{
    const pg_routes *r = s->opt->routes;
    if (!r)
        return 0;
    if (s->opt->n_active > 0 || s->opt->n_active_source > 0)
        return pg_fail(err, PG_EARG, "routes and a number of active experts: one of them wanted");
    if (r->n_blocks == s->shape.n_moe && r->n_used == s->shape.n_used &&
        r->n_expert <= s->shape.n_expert)
        return pg_routes_gap(r) < 0 ? 0
                                    : pg_fail(err, PG_EARG,
                                              "the route trace has no token that goes through "
                                              "block %d, and all are drawn from it",
                                              pg_routes_gap(r));
    return pg_fail(err, PG_EARG,
                   "routes of %d blocks, %d of %d experts each, found; %s has %d blocks, %d of %d",
                   r->n_blocks, r->n_used, r->n_expert, s->shape.name, s->shape.n_moe,
                   s->shape.n_used, s->shape.n_expert);
}

static int open_draws(struct pg_sim *s, struct pg_err *err)
{
    PG_TRY(check_trace(s, err));
    if (s->opt->n_active_source > 0 && s->shape.n_stack == 1)
        return pg_fail(err, PG_EARG, "%s: %g active experts of a source found, it has no encoder",
                       s->shape.name, (double)s->opt->n_active_source);
    for (int stack = 0; stack < s->shape.n_stack; stack++) {
        const bool source = stack < last_stack(s);
        struct pg_sim_draw *d = &s->of[stack].draw;
        *d = (struct pg_sim_draw){
            .shape = &s->shape,
            .trace = s->opt->routes,
            .seed = s->opt->seed,
            .active = (double)(source ? s->opt->n_active_source : s->opt->n_active),
            .n_row = source ? s->opt->n_batch * s->opt->n_source : s->opt->n_batch,
            .moe = s->shape.moe[stack],
        };
        PG_TRY(pg_sim_draw_open(d, err));
    }
    return 0;
}

/* As many slots as the mode needs at once: of one block on demand, of two where the next are on
 * their way, of level + 1 where they are known so early. */
static int least_slots(struct pg_sim *s)
{
    const int total = s->shape.n_moe * s->shape.n_expert;
    if (s->opt->mode == PG_MODE_RESIDENT)
        return total;
    if (s->opt->mode == PG_MODE_PREFETCH_ALL)
        return PG_MIN(total, 2 * s->shape.n_expert);
    const int widest =
        pg_sim_draw_widest(&s->of[last_stack(s)].draw, 2 * (uint64_t)s->opt->n_steps);
    const int blocks = s->opt->mode == PG_MODE_ONDEMAND ? 1 : s->level + 1;
    return PG_MIN(total, PG_MAX(PG_SLOTS_MIN, blocks * widest));
}

static int choose_slots(struct pg_sim *s, struct pg_err *err)
{
    const int total = s->shape.n_moe * s->shape.n_expert;
    if (s->opt->n_slots && s->opt->cache > 0)
        return pg_fail(err, PG_EARG, "slots and a cached part: one of them wanted");
    s->n_slots = s->opt->n_slots;
    if (s->opt->cache > 0)
        s->n_slots = PG_MAX(PG_SLOTS_MIN, (int)((double)s->opt->cache * total + 0.5));
    if (s->opt->mode == PG_MODE_RESIDENT || !s->n_slots)
        s->n_slots = least_slots(s);
    if (s->n_slots > total || s->n_slots < PG_SLOTS_MIN)
        return pg_fail(err, PG_EARG, "%s: %d slots found, %d to %d wanted", s->shape.name,
                       s->n_slots, PG_SLOTS_MIN, total);
    return 0;
}

/* ---- opening */

/* Maps that the gates run: where what is hinted has to be said, the identity; else of one value. */
static int open_maps(struct pg_sim *s, struct pg_err *err)
{
    const bool hints = s->opt->mode == PG_MODE_LOOKAHEAD || s->opt->mode == PG_MODE_HINT;
    const size_t n_expert = (size_t)s->shape.n_expert, width = hints ? n_expert : 1;
    s->maps = pg_calloc((size_t)s->shape.n_moe, sizeof(*s->maps));
    s->identity = pg_calloc(n_expert * width, sizeof(*s->identity));
    if (!s->maps || !s->identity)
        return pg_fail(err, PG_ENOMEM, "out of memory");
    for (size_t i = 0; i < n_expert && hints; i++)
        s->identity[i * width + i] = 1;
    for (int i = 0; i < s->shape.n_moe; i++)
        s->maps[i].inp = (struct pg_weight){PG_TYPE_F32, (int)width, (int)n_expert, s->identity};
    PG_TRY(pg_kernels_init(&s->compute.k, PG_CPU_AUTO, err));
    return pg_pool_open(&s->compute.pool, 1, err);
}

/* An expert is one copy, and they lie one after the other. */
static int open_places(struct world *w, struct pg_err *err)
{
    const struct pg_sim_shape *shape = &w->s.shape;
    const int n = shape->n_moe * shape->n_expert;
    uint64_t at = 0;
    w->place = pg_calloc((size_t)n, sizeof(*w->place));
    if (!w->place)
        return pg_fail(err, PG_ENOMEM, "out of memory");
    for (int il = 0; il < shape->n_layer; il++) {
        const struct pg_sim_layer *l = &shape->layer[il];
        for (int e = 0; l->moe >= 0 && e < shape->n_expert; e++) {
            struct pg_place *p = &w->place[l->moe * shape->n_expert + e];
            p->offset[0] = at;
            p->bytes[0] = l->expert.bytes;
            at += (l->expert.bytes + PG_PAGE - 1) / PG_PAGE * PG_PAGE;
        }
    }
    w->slot_bytes = pg_store_slot_bytes(w->place, n);
    return 0;
}

static double staged_s(const struct pg_sim *s, double bytes)
{
    return s->machine.copy.is_staged ? 2 * bytes / s->machine.bytes_per_s : 0;
}

static int open_store(struct world *w, struct pg_err *err)
{
    struct pg_sim *s = &w->s;
    const struct pg_sim_copy *copy = &s->machine.copy;
    const double latency = copy->latency_s + staged_s(s, (double)w->slot_bytes);
    const struct pg_io_sim sim = {.seed = s->opt->seed,
                                  .latency_ns = (uint64_t)(latency * 1e9 + 0.5),
                                  .bytes_per_s = (uint64_t)copy->bytes_per_s,
                                  .depth = PG_MAX(16, 4 * copy->in_flight),
                                  .in_order = copy->in_order,
                                  .blank = true};
    const bool cached = s->opt->n_slots || s->opt->cache > 0;
    w->arena_bytes = (size_t)s->n_slots * w->slot_bytes;
    w->arena = pg_pages_reserve(w->arena_bytes);
    if (!w->arena)
        return pg_fail(err, PG_ENOMEM, "%zu bytes of addresses for %d slots are refused",
                       w->arena_bytes, s->n_slots);
    PG_TRY(pg_io_open_sim(&s->io, &sim, err));
    const struct pg_store_options o = {
        .io = s->io,
        .n_block = s->shape.n_moe,
        .n_expert = s->shape.n_expert,
        .place = w->place,
        .n_slots = s->n_slots,
        .slot_bytes = w->slot_bytes,
        .arena = w->arena,
        .evict = cached ? s->opt->evict : PG_EVICT_LRU,
        .hints = s->opt->hints,
        .n_exposed = s->opt->mode == PG_MODE_PREGATE ? s->level : 0,
        .window_bytes = copy->in_flight ? (size_t)(copy->in_flight - 1) * w->slot_bytes + 1 : 0,
    };
    return pg_store_open(&s->store, &o, err);
}

static int check_level(const struct pg_sim *s, struct pg_err *err)
{
    const int n = s->shape.moe[last_stack(s)].n;
    if (s->level < n)
        return 0;
    return pg_fail(err, PG_EARG, "%s: level %d found, less than its %d MoE blocks wanted",
                   s->shape.name, s->level, n);
}

static int open_all(struct world *w, struct pg_err *err)
{
    struct pg_sim *s = &w->s;
    const struct pg_sim_options *o = s->opt;
    int type = -1;
    if (o->type && (type = pg_type_parse(o->type)) < 0)
        return pg_fail(err, PG_EARG, "type \"%s\": a format such as F32, F16 or Q4_K is wanted",
                       pg_quote(o->type, strlen(o->type)).s);
    PG_TRY(pg_sim_machine_load(&s->machine, o->machine, err));
    PG_TRY(pg_sim_shape_open(&s->shape, o->shape, type,
                             s->machine.type < 0 ? PG_TYPE_Q4_K : s->machine.type, err));
    PG_TRY(check_level(s, err));
    PG_TRY(open_draws(s, err));
    PG_TRY(choose_slots(s, err));
    PG_TRY(open_places(w, err));
    PG_TRY(open_maps(s, err));
    PG_TRY(open_store(w, err));
    for (int stack = 0; stack < s->shape.n_stack; stack++) {
        const bool hintless = stack < last_stack(s) && s->machine.encoder_ondemand;
        const bool all = o->mode == PG_MODE_RESIDENT;
        PG_TRY(pg_sim_gates_open(s, stack, hintless && !all ? PG_MODE_ONDEMAND : o->mode, err));
    }
    return 0;
}

static void close_all(struct world *w)
{
    struct pg_sim *s = &w->s;
    pg_store_close(s->store);
    pg_io_close(s->io);
    for (int stack = 0; stack < 2; stack++)
        pg_sim_gates_close(&s->of[stack]);
    pg_pool_close(s->compute.pool);
    pg_pages_unmap(w->arena, w->arena_bytes);
    free(s->maps);
    free(s->identity);
    free(w->place);
    pg_sim_shape_close(&s->shape);
}

/* ---- the request */

static int run_request(struct pg_sim *s, int nth, struct pg_sim_sums *encode,
                       struct pg_sim_sums *decode)
{
    const struct pg_sim_options *o = s->opt;
    const int last = last_stack(s);
    if (encodes(s)) {
        const struct pg_sim_step source = {
            .n_row = o->n_batch * o->n_source, .n_seq = o->n_batch, .n_seen = o->n_source};
        PG_TRY(pg_sim_step_run(s, &source, (uint64_t)nth, encode));
        pg_sim_source_run(s, source.n_row, encode);
    }
    for (int i = 0; i < o->n_steps; i++) {
        const struct pg_sim_step step = {.stack = last,
                                         .n_row = o->n_batch,
                                         .n_seq = o->n_batch,
                                         .n_seen = (encodes(s) ? 0 : o->n_source) + i + 1,
                                         .n_source = encodes(s) ? o->n_source : 0};
        PG_TRY(
            pg_sim_step_run(s, &step, (uint64_t)nth * (uint64_t)o->n_steps + (uint64_t)i, decode));
    }
    return 0;
}

/* ---- the report */

static double per(uint64_t sum_ns, uint64_t n)
{
    return n ? (double)sum_ns * 1e-9 / (double)n : 0;
}

/* What is outside of the blocks hides copies as well. */
static void report_floors(struct pg_sim_report *r, double bytes_per_s)
{
    const double copies = (double)r->step_bytes / bytes_per_s;
    const double outside = r->step_compute - r->n_blocks * r->block_compute;
    r->step_floor = fmax(r->step_compute, copies);
    r->block_floor = fmax(r->block_compute, (copies - outside) / r->n_blocks);
    r->encode_floor = fmax(r->encode_compute, (double)r->encode_bytes / bytes_per_s);
    const double floor = r->encode_floor + r->n_steps * r->step_floor;
    r->tps_floor = floor > 0 ? r->n_batch * r->n_steps / floor : 0;
}

static void report_sizes(struct pg_sim_report *r, const struct world *w)
{
    const struct pg_sim *s = &w->s;
    r->n_batch = s->opt->n_batch;
    r->n_steps = s->opt->n_steps;
    r->n_source = s->opt->n_source;
    r->n_slots = s->n_slots;
    r->n_blocks = s->shape.moe[last_stack(s)].n;
    r->n_expert = s->shape.n_expert;
    r->n_used = s->shape.n_used;
    r->n_expert_total = s->shape.n_moe * s->shape.n_expert;
    r->expert_bytes = w->slot_bytes;
    r->dense_bytes = s->shape.dense_bytes;
    r->all_bytes = r->dense_bytes;
    for (int il = 0; il < s->shape.n_layer; il++)
        r->all_bytes += s->shape.layer[il].expert.bytes * (uint64_t)s->shape.n_expert;
    r->peak_bytes = r->dense_bytes + w->arena_bytes;
    r->memory_bytes = s->machine.memory_bytes;
    r->fits = !r->memory_bytes || r->peak_bytes <= r->memory_bytes;
    r->copy = s->machine.copy.latency_s + staged_s(s, (double)w->slot_bytes) +
              (double)w->slot_bytes / s->machine.copy.bytes_per_s;
    snprintf(r->shape, sizeof(r->shape), "%s", s->shape.name);
    snprintf(r->machine, sizeof(r->machine), "%s", s->machine.name);
    snprintf(r->type, sizeof(r->type), "%s", s->shape.type);
}

static void report(struct pg_sim_report *r, const struct world *w, const struct pg_sim_sums *encode,
                   const struct pg_sim_sums *decode)
{
    const struct pg_store_stats *st = &decode->store;
    *r = (struct pg_sim_report){
        .block = per(decode->block_ns, decode->n_blocks),
        .block_first = per(decode->first_ns, decode->n_steps),
        .block_compute = per(decode->block_compute_ns, decode->n_blocks),
        .step = per(decode->ns, decode->n_steps),
        .step_compute = per(decode->compute_ns, decode->n_steps),
        .encode = per(encode->ns, 1),
        .encode_compute = per(encode->compute_ns, 1),
        .request = per(encode->ns + decode->ns, 1),
        .window = per(decode->window_ns, decode->n_windows),
        .active = (double)decode->n_active / (double)decode->n_blocks,
        .active_source = encode->n_blocks ? (double)encode->n_active / (double)encode->n_blocks : 0,
        .step_bytes = st->bytes_read / decode->n_steps,
        .encode_bytes = encode->store.bytes_read,
        .requests = st->requests,
        .hits = st->hits,
        .hinted_in_time = st->hinted_in_time,
        .hinted_late = st->hinted_late,
        .missed = st->missed,
        .hinted_unused = st->hinted_unused,
    };
    report_sizes(r, w);
    r->tps = r->request > 0 ? r->n_batch * r->n_steps / r->request : 0;
    report_floors(r, w->s.machine.copy.bytes_per_s);
}

static int run(struct world *w, struct pg_sim_report *out, struct pg_err *err)
{
    struct pg_sim *s = &w->s;
    struct pg_sim_sums encode = {0}, decode = {0};
    s->err = err;
    if (s->opt->mode == PG_MODE_RESIDENT)
        PG_TRY(pg_sim_load_all(s, err));
    PG_TRY(run_request(s, 0, &encode, &decode));
    encode = decode = (struct pg_sim_sums){0};
    PG_TRY(run_request(s, 1, &encode, &decode));
    report(out, w, &encode, &decode);
    return 0;
}

static void set_defaults(struct pg_sim_options *o)
{
    o->level = o->level ? o->level : 1;
    o->n_batch = o->n_batch ? o->n_batch : 1;
    o->n_steps = o->n_steps ? o->n_steps : 64;
    o->n_source = o->n_source ? o->n_source : 256;
    o->hint_right = o->hint_right > 0 ? o->hint_right : 0.75f;
}

int pg_simulate(const struct pg_sim_options *opt, struct pg_sim_report *out, struct pg_err *err)
{
    struct pg_sim_options o;
    PG_TRY(pg_options_take(PG_OPTIONS_SIM, &o, opt, err));
    set_defaults(&o);
    if (o.mode == PG_MODE_AUTO)
        return pg_fail(err, PG_EARG, "mode auto: a simulation wants one of the others");
    if ((uint64_t)o.n_batch * (uint64_t)o.n_source > 1 << 18)
        return pg_fail(err, PG_EARG, "%d rows with %d tokens of source: %d tokens at most wanted",
                       o.n_batch, o.n_source, 1 << 18);
    struct world w = {.s = {.opt = &o, .level = o.level, .random = o.seed}};
    int rc = open_all(&w, err);
    if (!rc)
        rc = run(&w, out, err);
    close_all(&w);
    return rc;
}
