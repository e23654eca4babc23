/* SPDX-License-Identifier: MIT */
#include "engine/engine.h"

#include "base/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int map_block(const struct pg_engine *e, struct pg_block_memory *b, uint64_t bytes,
                     const char *what, struct pg_err *err)
{
    if (bytes == 0)
        return 0;
    b->base = pg_pages_map(bytes);
    if (!b->base) {
        return pg_fail(err, PG_ENOMEM, "out of memory: %llu bytes for %s",
                       (unsigned long long)bytes, what);
    }
    b->bytes = bytes;
    if (pg_engine_touches(e))
        pg_pages_touch(b->base, bytes);
    return 0;
}

static void unmap_block(struct pg_block_memory *b)
{
    if (b->base)
        pg_pages_unmap(b->base, b->bytes);
    *b = (struct pg_block_memory){0};
}

static int map_memory(struct pg_engine *e, struct pg_err *err)
{
    PG_TRY(map_block(e, &e->dense, e->model.dense_bytes, "dense weights", err));
    PG_TRY(map_block(e, &e->slots, e->plan.slots, "expert slots", err));
    PG_TRY(map_block(e, &e->tables, pg_tables_bytes(e), "pre-gates", err));
    PG_TRY(map_block(e, &e->contexts, pg_contexts_bytes(e), "contexts", err));
    return map_block(e, &e->scratch, e->plan.scratch, "scratch", err);
}

static int open_io(struct pg_engine *e, struct pg_err *err)
{
    int n = pg_gguf_n_parts(e->gguf);
    const char **paths = pg_calloc((size_t)n, sizeof(*paths));
    const struct pg_stamp **stamps = pg_calloc((size_t)n, sizeof(*stamps));
    for (int i = 0; i < n && paths && stamps; i++) {
        paths[i] = pg_gguf_part_path(e->gguf, i);
        stamps[i] = pg_gguf_part_stamp(e->gguf, i);
    }
    struct pg_io_options io = {
        .paths = paths, .n_paths = n, .stamps = stamps, .path = e->opt.io_path};
    int rc =
        paths && stamps ? pg_io_open(&e->io, &io, err) : pg_fail(err, PG_ENOMEM, "out of memory");
    free(paths);
    free(stamps);
    return rc;
}

static int load_dense(struct pg_engine *e, struct pg_err *err)
{
    struct pg_load load = {e->io, e->dense.base, e->opt.progress, e->opt.user};
    PG_TRY(pg_model_load(&e->model, &load, err));
    pg_model_routers(&e->model, e->routers);
    return 0;
}

static int open_store(struct pg_engine *e, struct pg_err *err)
{
    struct pg_store_options so = {
        .io = e->io,
        .n_block = e->model.n_moe,
        .n_expert = e->model.h.n_expert,
        .place = e->model.place,
        .n_slots = e->plan.n_slots,
        .slot_bytes = e->plan.slot_bytes,
        .arena = e->slots.base,
        .evict = e->opt.evict,
        .hints = e->opt.hints,
        .steady = e->opt.steady,
        .n_exposed = e->opt.mode == PG_MODE_PREGATE ? e->level : 0,
        .trace = e->trace,
        .block_of = e->block_of,
    };
    return pg_store_open(&e->store, &so, err);
}

/* Resident: all experts are brought now, block by block. */
static int load_experts(struct pg_engine *e, struct pg_err *err)
{
    int n = e->model.h.n_expert, rc = 0;
    uint64_t each = e->model.expert_bytes / (uint64_t)e->model.n_moe;
    int32_t *ids = pg_calloc((size_t)n, sizeof(*ids));
    if (!ids)
        return pg_fail(err, PG_ENOMEM, "out of memory");
    for (int i = 0; i < n; i++)
        ids[i] = i;
    for (int block = 0; block < e->model.n_moe && !rc; block++) {
        struct pg_lease lease;
        pg_store_acquire(e->store, block, ids, n);
        while ((rc = pg_store_next(e->store, &lease, err)) == 1)
            pg_store_release(e->store, &lease);
        if (!rc && e->opt.progress &&
            e->opt.progress(e->opt.user, "loading experts", each * (uint64_t)(block + 1),
                            e->model.expert_bytes))
            rc = pg_fail(err, PG_ECANCELLED, "loading was cancelled");
    }
    free(ids);
    return rc;
}

/* A plan may be made for another machine; what is opened must be able to keep it on this one. */
static int check_limit(const struct pg_engine *e, struct pg_err *err)
{
    uint64_t limit = pg_os_memory_now().limit;
    if (e->plan.budget / PG_PAGE > limit / PG_PAGE) { /* groups count whole pages */
        return pg_fail(
            err, PG_EBUDGET,
            "a budget of %llu bytes is more than the %llu bytes that this machine or its "
            "control group allows",
            (unsigned long long)e->plan.budget, (unsigned long long)limit);
    }
    return 0;
}

static int open_parts(struct pg_engine *e, const struct pg_options *opt, struct pg_err *err)
{
    PG_TRY(pg_engine_begin(e, opt, err));
    PG_TRY(pg_kernels_init(&e->compute.k, e->opt.cpu, err));
    PG_TRY(pg_engine_plan_memory(e, err));
    PG_TRY(check_limit(e, err));
    if (e->opt.routes_out) /* before the work, not after it */
        PG_TRY(pg_routes_out_open(&e->routes_out, e->opt.routes_out, err));
    PG_TRY(pg_pool_open(&e->compute.pool, e->opt.n_threads, err));
    if (e->opt.trace_events) {
        PG_TRY(pg_trace_open(&e->trace, e->opt.trace_events, err));
        pg_pool_trace(e->compute.pool, e->trace);
    }
    PG_TRY(map_memory(e, err));
    PG_TRY(open_io(e, err));
    if (e->model.n_moe) {
        e->block_of = pg_calloc((size_t)e->model.n_moe, sizeof(*e->block_of));
        e->routers = pg_calloc((size_t)e->model.n_moe, sizeof(*e->routers));
        e->pregates = pg_calloc((size_t)e->model.n_moe, sizeof(*e->pregates));
        if (!e->block_of || !e->routers || !e->pregates)
            return pg_fail(err, PG_ENOMEM, "out of memory");
        for (int moe = 0; moe < e->model.n_moe; moe++)
            e->block_of[moe] = pg_block_of_moe(&e->model, moe);
        PG_TRY(open_store(e, err));
    }
    PG_TRY(load_dense(e, err));
    PG_TRY(pg_tables_fill(e, err));
    struct pg_arena scratch = {e->scratch.base, e->scratch.bytes, 0};
    pg_engine_carve(e, e->plan.n_batch, &scratch);
    struct pg_arena contexts = {e->contexts.base, e->contexts.bytes, 0};
    pg_contexts_carve(e, &e->pool, &contexts);
    e->session_bytes_left = e->plan.kv - e->contexts.bytes;
    pg_gguf_close(e->gguf);
    e->gguf = NULL;
    if (e->store && e->opt.mode == PG_MODE_RESIDENT) {
        PG_TRY(load_experts(e, err));
        pg_store_stats(e->store, &e->at_open);
    }
    return 0;
}

static void log_open(const struct pg_engine *e)
{
    struct pg_log log = PG_LOG_OF(&e->opt);
    pg_say(log, PG_LOG_INFO, "%s: mode %s, %d of %d experts fit, batch %d, %s, %s, %d threads",
           e->model.name, pg_mode_name(e->plan.mode), e->plan.n_slots, e->plan.n_expert_total,
           e->plan.n_batch, pg_io_describe(e->io), e->compute.k.name, e->opt.n_threads);
    if (e->opt.mode == PG_MODE_PREGATE && !e->trained_to_decide) {
        pg_say(log, PG_LOG_WARN,
               "these pre-gates were made to hint, not to decide: expect worse text than the "
               "model's own routers give");
    }
}

int pg_engine_open(pg_engine **out, const struct pg_options *opt, struct pg_err *err)
{
    struct pg_engine *e = pg_calloc(1, sizeof(*e));
    *out = NULL;
    if (!e)
        return pg_fail(err, PG_ENOMEM, "out of memory");
    int rc = open_parts(e, opt, err);
    if (rc) {
        pg_engine_close(e);
        return rc;
    }
    e->opt.model = e->opt.sidecar = e->opt.routes_out = NULL;
    log_open(e);
    *out = e;
    return 0;
}

void pg_engine_close(pg_engine *e)
{
    if (!e)
        return;
    PG_ASSERT(e->n_sessions == 0);
    pg_store_close(e->store);
    pg_io_close(e->io);
    pg_pool_close(e->compute.pool);
    pg_trace_close(e->trace);
    pg_routes_out_close(&e->routes_out);
    pg_vocab_close(e->vocab);
    pg_model_close(&e->model);
    pg_gguf_close(e->gguf);
    unmap_block(&e->dense);
    unmap_block(&e->slots);
    unmap_block(&e->tables);
    unmap_block(&e->scratch);
    unmap_block(&e->contexts);
    free(e->block_of);
    free(e->routers);
    free(e->cache_bias);
    free(e->pregates);
    free(e);
}

void pg_engine_plan(const pg_engine *e, struct pg_plan *out)
{
    *out = e->plan;
}

const pg_vocab *pg_engine_vocab(const pg_engine *e)
{
    return e->vocab;
}

void pg_engine_info(const pg_engine *e, struct pg_model_info *out)
{
    const struct pg_model *m = &e->model;
    *out = (struct pg_model_info){
        .file_bytes = e->file_bytes,
        .n_params = m->n_params,
        .n_params_active = m->n_params_active,
        .n_layer = m->h.n_layer,
        .n_moe_layer = m->n_moe,
        .n_embd = m->h.n_embd,
        .n_head = m->h.n_head,
        .n_head_kv = m->h.n_head_kv,
        .n_ff = m->n_moe ? m->h.n_ff_exp : m->h.n_ff,
        .n_expert = m->h.n_expert,
        .n_expert_used = m->h.n_expert_used,
        .n_vocab = m->h.n_vocab,
        .n_ctx_train = m->h.n_ctx_train,
        .decoder_start = m->h.n_stack > 1 ? m->h.decoder_start : -1,
    };
    snprintf(out->arch, sizeof(out->arch), "%s", m->arch);
    snprintf(out->name, sizeof(out->name), "%s", m->name);
    snprintf(out->file_type, sizeof(out->file_type), "%s",
             pg_type_traits((uint32_t)m->main_type)->name);
}

void pg_engine_stats(const pg_engine *e, struct pg_stats *out)
{
    struct pg_store_stats s = {.hints_active = true}, s0 = e->at_open;
    *out = e->stats;
    if (e->store)
        pg_store_stats(e->store, &s);
    out->expert_requests = s.requests - s0.requests;
    out->hits = s.hits - s0.hits;
    out->hinted_in_time = s.hinted_in_time;
    out->hinted_late = s.hinted_late;
    out->missed = s.missed - s0.missed;
    out->hinted_unused = s.hinted_unused;
    out->expert_bytes_read = s.bytes_read - s0.bytes_read;
    out->hint_bytes_read = s.hint_bytes_read;
    out->hint_bytes_used = s.hint_bytes_used;
    out->io_busy_seconds = (double)(s.io_busy_ns - s0.io_busy_ns) * 1e-9;
    out->read_errors = s.read_errors - s0.read_errors;
    out->hints_active = s.hints_active;
    out->stall_seconds = (double)(s.stall_ns - s0.stall_ns) * 1e-9;
    out->compute_seconds = out->prompt_seconds + out->decode_seconds - out->stall_seconds;
    out->peak_rss_bytes = pg_peak_rss();
    out->io_path = pg_io_describe(e->io);
    out->cpu_level = e->compute.k.name;
}

double pg_engine_block_seconds(const pg_engine *e, int block)
{
    const bool is_there = block >= 0 && block < e->model.h.n_layer;
    return is_there ? (double)e->forward.block_ns[block] * 1e-9 : 0;
}

int pg_routes_finish(pg_engine *e, struct pg_err *err)
{
    if (!e->routes_out.open)
        return pg_fail(err, PG_EARG, "the engine has no routes_out, or no longer");
    return pg_routes_out_finish(&e->routes_out, err);
}

int pg_trace_write(const pg_engine *e, const char *path, struct pg_err *err)
{
    if (!e->trace)
        return pg_fail(err, PG_EARG, "the engine was opened without trace_events");
    return pg_trace_save(e->trace, path, err);
}
