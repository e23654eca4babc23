/* SPDX-License-Identifier: MIT
 * Timelines of tokens. A step flattens rows of several sessions into one batch; the session's count
 * of tokens grows only when the step has succeeded, so a failed one leaves it as it was (what was
 * written behind the count in its cache is written again).
 */
#include "engine/engine.h"

#include "base/ranges.h"

#include <stdlib.h>
#include <string.h>

/* Memory of a session, its own record included; a measuring arena only counts. */
static void carve(pg_session *s, const struct pg_engine *e, int n_ctx, struct pg_arena *a)
{
    struct pg_kv_shape shape = {.type = e->opt.kv_type,
                                .n_ctx = n_ctx,
                                .n_source = e->opt.n_source,
                                .pool = (struct pg_kv_pool *)&e->pool,
                                .n_step = PG_MIN(n_ctx, e->opt.n_batch ? e->opt.n_batch : n_ctx)};
    pg_kv_carve(&s->kv, e->model.cache, e->model.n_cache, &shape, a);
    s->n_ctx = n_ctx;
    s->tokens = pg_arena_take(a, (size_t)n_ctx * sizeof(int32_t));
    s->logits = pg_arena_take(a, (size_t)e->model.h.n_vocab * sizeof(float));
}

int pg_contexts_tokens(const struct pg_engine *e)
{
    const int64_t all = (int64_t)e->opt.n_sessions * pg_kv_pages_of(e->opt.n_ctx) * PG_KV_PAGE;
    const int64_t wanted = e->opt.n_kv ? PG_MIN(all, e->opt.n_kv) : all;
    return (int)PG_MIN(wanted, INT32_MAX - PG_KV_PAGE); /* a context is 2^24 at most */
}

void pg_contexts_carve(const struct pg_engine *e, struct pg_kv_pool *pool, struct pg_arena *a)
{
    const struct pg_model *m = &e->model;
    const size_t page = pg_kv_page_bytes(m->cache, m->n_cache, e->opt.kv_type);
    pg_kv_pool_carve(pool, page, pg_kv_pages_of(pg_contexts_tokens(e)), a);
}

uint64_t pg_contexts_bytes(const struct pg_engine *e)
{
    struct pg_kv_pool pool;
    struct pg_arena measure = {0};
    pg_contexts_carve(e, &pool, &measure);
    return (measure.used / PG_PAGE + 1) * PG_PAGE;
}

int pg_sessions_left(const struct pg_engine *e, int n_ctx)
{
    const uint64_t own = e->session_bytes_left / pg_session_bytes(e, n_ctx);
    const int pages = (e->pool.n_pages - e->pool.n_reserved) / pg_kv_pages_of(n_ctx);
    return (int)PG_MIN(own, (uint64_t)pages);
}

bool pg_session_reserve(pg_session *s, int n)
{
    return pg_kv_reserve(&s->kv, n);
}

uint64_t pg_session_bytes(const struct pg_engine *e, int n_ctx)
{
    pg_session s;
    struct pg_arena measure = {0};
    carve(&s, e, n_ctx, &measure);
    return (measure.used / PG_PAGE + 1) * PG_PAGE;
}

static int no_room(const struct pg_engine *e, struct pg_err *err)
{
    return pg_fail(
        err, PG_EBUDGET,
        "the plan made room for %d sessions and %d tokens of theirs; open the engine with "
        "more n_sessions or n_kv",
        e->opt.n_sessions, pg_contexts_tokens(e));
}

int pg_session_open(pg_session **out, pg_engine *e, const struct pg_session_options *opt,
                    struct pg_err *err)
{
    struct pg_session_options o = {PG_SESSION_OPTIONS_INIT};
    *out = NULL;
    if (opt)
        PG_TRY(pg_options_take(PG_OPTIONS_SESSION, &o, opt, err));
    int n_ctx = o.n_ctx ? o.n_ctx : e->opt.n_ctx;
    if (n_ctx < 1 || n_ctx > e->opt.n_ctx) {
        return pg_fail(err, PG_EARG, "session context: %d found, 1 to the engine's %d wanted",
                       n_ctx, e->opt.n_ctx);
    }
    uint64_t bytes = pg_session_bytes(e, n_ctx);
    if (bytes > e->session_bytes_left)
        return no_room(e, err);
    pg_session *s = pg_calloc(1, sizeof(*s));
    if (!s)
        return pg_fail(err, PG_ENOMEM, "out of memory");
    s->memory = (struct pg_block_memory){pg_pages_map(bytes), bytes};
    if (!s->memory.base) {
        free(s);
        return pg_fail(err, PG_ENOMEM, "out of memory: %llu bytes for a context of %d tokens",
                       (unsigned long long)bytes, n_ctx);
    }
    if (pg_engine_touches(e))
        pg_pages_touch(s->memory.base, bytes);
    struct pg_arena a = {s->memory.base, bytes, 0};
    carve(s, e, n_ctx, &a);
    if (!pg_session_reserve(s, n_ctx)) {
        pg_pages_unmap(s->memory.base, bytes);
        free(s);
        return no_room(e, err);
    }
    s->engine = e;
    e->session_bytes_left -= bytes;
    e->n_sessions++;
    *out = s;
    return 0;
}

void pg_session_close(pg_session *s)
{
    if (!s)
        return;
    pg_kv_truncate(&s->kv, 0);
    pg_session_reserve(s, 0);
    s->engine->session_bytes_left += s->memory.bytes;
    s->engine->n_sessions--;
    pg_pages_unmap(s->memory.base, s->memory.bytes);
    free(s);
}

size_t pg_session_n_tokens(const pg_session *s)
{
    return (size_t)s->n_tokens;
}

const float *pg_session_logits(const pg_session *s)
{
    return s->has_logits ? s->logits : NULL;
}

int pg_session_truncate(pg_session *s, size_t n)
{
    if (n > (size_t)s->n_tokens)
        return PG_EARG;
    if (n == (size_t)s->n_tokens) {
        pg_kv_drop_ahead(&s->kv, (int)n);
    } else {
        PG_TRY(pg_kv_truncate(&s->kv, (int)n));
        s->n_tokens = (int)n;
        s->has_logits = false;
    }
    return 0;
}

int pg_session_copy(pg_session *to, const pg_session *from, struct pg_err *err)
{
    if (to->engine != from->engine)
        return pg_fail(err, PG_EARG, "a session is copied to one of its own engine");
    if (from->n_tokens > to->n_ctx || pg_kv_pages_of(from->n_tokens) > to->kv.n_reserved)
        return pg_fail(err, PG_ECONTEXT, "session context: %d found, %d tokens are to be copied",
                       to->n_ctx, from->n_tokens);
    if (to == from)
        return 0;
    pg_kv_copy(&to->kv, &from->kv, from->n_tokens, from->n_source);
    memcpy(to->tokens, from->tokens, (size_t)from->n_tokens * sizeof(to->tokens[0]));
    memcpy(to->logits, from->logits, (size_t)from->engine->model.h.n_vocab * sizeof(float));
    to->n_tokens = from->n_tokens;
    to->n_source = from->n_source;
    to->has_logits = from->has_logits;
    return 0;
}

/* ------------------------------------------------------------------ steps ------------------- */

static int check_room(const pg_session *s, int n, struct pg_err *err)
{
    if (n > s->n_ctx - s->n_tokens) {
        return pg_fail(err, PG_ECONTEXT,
                       "context is full: %d tokens are there, %d more wanted, %d is the most",
                       s->n_tokens, n, s->n_ctx);
    }
    if (s->engine->model.h.n_stack > 1 && !s->n_source)
        return pg_fail(err, PG_EARG, "the session has no source; encode one first");
    return 0;
}

static int check_source(const pg_session *s, int n, struct pg_err *err)
{
    if (n > s->engine->opt.n_source)
        return pg_fail(err, PG_ECONTEXT,
                       "source of %d tokens found, %d at most wanted (n_source, --source)", n,
                       s->engine->opt.n_source);
    return 0;
}

static int check_row(const struct pg_engine *e, const struct pg_row *row, bool source,
                     struct pg_err *err)
{
    const pg_session *s = row->session;
    if (s->engine != e || row->n < 1)
        return pg_fail(err, PG_EARG, "a row needs a session of this engine and one token at least");
    PG_TRY(source ? check_source(s, row->n, err) : check_room(s, row->n, err));
    for (int i = 0; i < row->n; i++) {
        if (row->tokens[i] < 0 || row->tokens[i] >= e->model.h.n_vocab) {
            return pg_fail(err, PG_EARG, "token id %d found, 0 to %d wanted", row->tokens[i],
                           e->model.h.n_vocab - 1);
        }
    }
    return 0;
}

/* Rows to the flat batch, of a source or of the timeline. Returns the number of tokens or an error.
 */
static int flatten(struct pg_engine *e, const struct pg_row *rows, int n_rows, bool source,
                   struct pg_err *err)
{
    int n = 0;
    for (int i = 0; i < n_rows; i++) {
        pg_session *s = rows[i].session;
        PG_TRY(check_row(e, &rows[i], source, err));
        if (rows[i].n > e->opt.n_batch - n) {
            return pg_fail(err, PG_EARG, "more tokens in a step than the batch of %d",
                           e->opt.n_batch);
        }
        for (int j = 0; j < i; j++)
            if (rows[j].session == s)
                return pg_fail(err, PG_EARG, "a session stands in two rows of a step");
        for (int j = 0; j < rows[i].n; j++, n++) {
            e->token[n] = rows[i].tokens[j];
            e->pos[n] = source ? j : s->n_tokens + j;
            e->n_seen[n] = source ? rows[i].n : e->pos[n] + 1;
            e->n_source[n] = s->n_source;
            e->kv[n] = &s->kv;
        }
        e->last_row[i] = n - 1;
    }
    for (int i = 0; i < n_rows && !source; i++)
        pg_kv_write(&rows[i].session->kv, rows[i].session->n_tokens,
                    rows[i].session->n_tokens + rows[i].n);
    return n;
}

/* The n rows of the flat batch through one stack. */
static int run_stack(struct pg_engine *e, int stack, int n, struct pg_err *err)
{
    struct pg_forward *f = &e->forward;
    const struct pg_span moe = e->model.moe_of[stack];
    if (moe.n)
        pg_store_span(e->store, moe);
    f->n_tok = n;
    f->interrupted = &e->interrupted;
    f->token = e->token;
    f->pos = e->pos;
    f->n_seen = e->n_seen;
    f->n_source = e->n_source;
    f->kv = (struct pg_kv *const *)e->kv;
    return pg_forward_run(f, stack, err);
}

static int write_routes(struct pg_engine *e, int stack, int n, struct pg_err *err)
{
    if (!e->routes_out.open)
        return 0;
    return pg_routes_out_step(&e->routes_out, e->model.moe_of[stack], n, err);
}

/* A step of n tokens, n_decode of them decoded, which take their share of what the step took. */
static void account(struct pg_engine *e, int n, int n_decode, uint64_t begin_ns,
                    const struct pg_store_stats *before)
{
    struct pg_store_stats now = *before;
    struct pg_stats *to = &e->stats;
    double seconds = (double)(pg_now_ns() - begin_ns) * 1e-9, share = (double)n_decode / n;
    if (e->store)
        pg_store_stats(e->store, &now);
    to->n_decode += (uint64_t)n_decode;
    to->n_prompt += (uint64_t)(n - n_decode);
    to->decode_seconds += share * seconds;
    to->prompt_seconds += (1 - share) * seconds;
    to->expert_bytes_read_decode +=
        (now.bytes_read - before->bytes_read) * (uint64_t)n_decode / (uint64_t)n;
    to->io_busy_decode_seconds += share * (double)(now.io_busy_ns - before->io_busy_ns) * 1e-9;
}

static void advance(const struct pg_row *row)
{
    pg_session *s = row->session;
    memcpy(s->tokens + s->n_tokens, row->tokens, (size_t)row->n * sizeof(int32_t));
    pg_kv_written(&s->kv, s->n_tokens, row->tokens, row->n);
    s->n_tokens += row->n;
    s->has_logits = !row->no_logits;
}

int pg_step_logits(struct pg_engine *e, const int32_t *at, int n, float *logits, struct pg_err *err)
{
    size_t n_vocab = (size_t)e->model.h.n_vocab;
    pg_forward_logits(&e->forward, at, n, logits);
    for (int i = 0; i < n; i++) {
        if (!pg_all_finite(logits + (size_t)i * n_vocab, n_vocab)) {
            return pg_fail(err, PG_ENUMERIC,
                           "numerical error: the logits of the token at position %d are not finite "
                           "(damaged weights, or a model that overflows)",
                           e->pos[at[i]]);
        }
    }
    return 0;
}

/* The logits of the last tokens of some rows, which the output matrix is read once for. */
static int keep_some(struct pg_engine *e, const struct pg_row *const *row, const int32_t *at, int n,
                     struct pg_err *err)
{
    size_t n_vocab = (size_t)e->model.h.n_vocab;
    float *to = n == 1 ? row[0]->session->logits : e->logits;
    PG_TRY(pg_step_logits(e, at, n, to, err));
    for (int i = 0; i < n && n > 1; i++)
        memcpy(row[i]->session->logits, to + (size_t)i * n_vocab, n_vocab * sizeof(float));
    return 0;
}

static int keep_logits(struct pg_engine *e, const struct pg_row *rows, int n_rows,
                       struct pg_err *err)
{
    const struct pg_row *some[PG_LOGIT_ROWS];
    int32_t at[PG_LOGIT_ROWS];
    for (int i = 0, n = 0; i < n_rows; i++) {
        if (!rows[i].no_logits) {
            at[n] = e->last_row[i];
            some[n++] = &rows[i];
        }
        if (n == PG_LOGIT_ROWS || (n > 0 && i == n_rows - 1)) {
            PG_TRY(keep_some(e, some, at, n, err));
            n = 0;
        }
    }
    return 0;
}

/* Logits of all n tokens of the only row. */
static int all_logits_of(struct pg_engine *e, const struct pg_row *row, int n, float *logits,
                         struct pg_err *err)
{
    size_t n_vocab = (size_t)e->model.h.n_vocab;
    for (int i = 0; i < n; i++)
        e->token[i] = i; /* the step has read its tokens by now */
    PG_TRY(pg_step_logits(e, e->token, n, logits, err));
    memcpy(row->session->logits, logits + (size_t)(n - 1) * n_vocab, n_vocab * sizeof(float));
    return 0;
}

int pg_step_run(struct pg_engine *e, const struct pg_row *rows, int n_rows, int n_decode,
                float *all_logits, struct pg_err *err)
{
    struct pg_store_stats before = {0};
    uint64_t begin = pg_now_ns();
    int n = flatten(e, rows, n_rows, false, err);
    if (n <= 0)
        return n;
    if (e->store) {
        pg_store_step(e->store, n_decode);
        pg_store_stats(e->store, &before);
    }
    PG_TRY(run_stack(e, pg_last_stack(&e->model.h), n, err));
    for (int i = 0; i < n_rows; i++)
        rows[i].session->has_logits = false; /* their memory is written to */
    PG_TRY(all_logits ? all_logits_of(e, &rows[0], n, all_logits, err)
                      : keep_logits(e, rows, n_rows, err));
    PG_TRY(write_routes(e, pg_last_stack(&e->model.h), n, err));
    for (int i = 0; i < n_rows; i++)
        advance(&rows[i]);
    account(e, n, n_decode, begin, &before);
    return 0;
}

int pg_step(pg_engine *e, const struct pg_row *rows, int n_rows, struct pg_err *err)
{
    int n_decode = 0;
    if (n_rows < 1 || n_rows > e->opt.n_batch) {
        return pg_fail(err, PG_EARG, "rows of a step: %d found, 1 to %d wanted", n_rows,
                       e->opt.n_batch);
    }
    for (int i = 0; i < n_rows; i++)
        n_decode += rows[i].n == 1;
    return pg_step_run(e, rows, n_rows, n_decode, NULL, err);
}

int pg_encode(pg_engine *e, const struct pg_row *rows, int n_rows, struct pg_err *err)
{
    struct pg_store_stats before = {0};
    uint64_t begin = pg_now_ns();
    if (e->model.h.n_stack < 2)
        return pg_fail(err, PG_ENOTSUP, "the model has no encoder");
    if (n_rows < 1 || n_rows > e->opt.n_batch) {
        return pg_fail(err, PG_EARG, "rows of a step: %d found, 1 to %d wanted", n_rows,
                       e->opt.n_batch);
    }
    int n = flatten(e, rows, n_rows, true, err);
    if (n <= 0)
        return n;
    for (int i = 0; i < n_rows; i++) { /* what they have is written over */
        PG_TRY(pg_session_truncate(rows[i].session, 0));
        rows[i].session->n_source = 0;
    }
    if (e->store)
        pg_store_stats(e->store, &before);
    PG_TRY(run_stack(e, 0, n, err));
    PG_TRY(write_routes(e, 0, n, err));
    pg_forward_source(&e->forward);
    for (int i = 0; i < n_rows; i++)
        rows[i].session->n_source = rows[i].n;
    account(e, n, 0, begin, &before);
    return 0;
}

int pg_session_encode(pg_session *s, const int32_t *tokens, size_t n, struct pg_err *err)
{
    PG_TRY(check_source(s, (int)PG_MIN(n, (size_t)INT32_MAX), err));
    struct pg_row row = {.session = s, .tokens = tokens, .n = (int)n};
    return pg_encode(s->engine, &row, 1, err);
}

size_t pg_session_n_source(const pg_session *s)
{
    return (size_t)s->n_source;
}

int pg_session_eval(pg_session *s, const int32_t *tokens, size_t n, float *logits,
                    struct pg_err *err)
{
    struct pg_engine *e = s->engine;
    if (n > (size_t)(s->n_ctx - s->n_tokens)) {
        return pg_fail(err, PG_ECONTEXT,
                       "context is full: %d tokens are there, %zu more wanted, %d is the most",
                       s->n_tokens, n, s->n_ctx);
    }
    for (size_t done = 0; done < n;) {
        struct pg_row row = {.session = s,
                             .tokens = tokens + done,
                             .n = (int)PG_MIN(n - done, (size_t)e->opt.n_batch)};
        row.no_logits = !logits && done + (size_t)row.n < n;
        PG_TRY(pg_step_run(e, &row, 1, 0,
                           logits ? logits + done * (size_t)e->model.h.n_vocab : NULL, err));
        done += (size_t)row.n;
        if (n > (size_t)e->opt.n_batch && e->opt.progress &&
            e->opt.progress(e->opt.user, "prompt", done, n))
            return pg_fail(err, PG_ECANCELLED, "cancelled after %zu of %zu prompt tokens", done, n);
    }
    return 0;
}

size_t pg_session_reuse(pg_session *s, const int32_t *tokens, size_t n)
{
    if (s->engine->model.h.n_stack > 1 || !pg_kv_is_paged(&s->kv) || n > (size_t)s->n_ctx)
        return 0;
    pg_session_truncate(s, 0);
    s->n_tokens = pg_kv_find(&s->kv, tokens, (int)n);
    memcpy(s->tokens, tokens, (size_t)s->n_tokens * sizeof(s->tokens[0]));
    return (size_t)s->n_tokens;
}

int pg_session_sync(pg_session *s, const int32_t *tokens, size_t n, struct pg_err *err)
{
    size_t same = 0;
    while (same < n && same < (size_t)s->n_tokens && tokens[same] == s->tokens[same])
        same++;
    /* The last token is evaluated again if its logits are gone. */
    if (same == n && n > 0 && (n < (size_t)s->n_tokens || !s->has_logits))
        same--;
    if (pg_session_truncate(s, same)) { /* a cache that cannot go back starts again */
        same = 0;
        PG_TRY(pg_session_truncate(s, 0));
    }
    return pg_session_eval(s, tokens + same, n - same, NULL, err);
}

int pg_session_next(pg_session *s, const struct pg_sampling *how, int32_t *token,
                    struct pg_err *err)
{
    if (s->n_tokens == s->n_ctx)
        return pg_fail(err, PG_ECONTEXT, "context of %d tokens is full", s->n_ctx);
    PG_TRY(pg_session_sample(s, how, token, err));
    struct pg_row row = {.session = s, .tokens = token, .n = 1};
    return pg_step_run(s->engine, &row, 1, 1, NULL, err);
}
