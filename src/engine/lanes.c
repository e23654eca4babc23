/* SPDX-License-Identifier: MIT */
#include "engine/lanes.h"

#include <stdlib.h>

/* ------------------------------------------------------------------ open -------------------- */

static int open_sessions(struct pg_lanes *l, int n, struct pg_err *err)
{
    struct pg_engine *e = l->opt.engine;
    for (; l->n_lanes < n; l->n_lanes++) {
        struct pg_sequence *s = &l->lane[l->n_lanes];
        s->lane = l->n_lanes;
        PG_TRY(pg_session_open(&s->session, e, NULL, err));
        if (l->opt.open)
            pg_session_reserve(s->session, 0);
    }
    return 0;
}

int pg_lanes_open(struct pg_lanes *l, const struct pg_lanes_options *opt, struct pg_err *err)
{
    struct pg_engine *e = opt->engine;
    int n = PG_MIN(pg_sessions_left(e, e->opt.n_ctx), e->opt.n_batch), rc;
    n = opt->open ? opt->n_most : opt->n_most ? PG_MIN(n, opt->n_most) : n;
    n = PG_MAX(n, 1); /* an engine without room for one says so when it is asked */
    *l = (struct pg_lanes){.opt = *opt};
    const bool encodes = e->model.h.n_stack > 1;
    l->lane = pg_calloc((size_t)n, sizeof(*l->lane));
    if (encodes)
        l->source = pg_calloc((size_t)n * (size_t)e->opt.n_source, sizeof(*l->source));
    if (!opt->open)
        l->token = pg_calloc((size_t)n * (size_t)e->opt.n_ctx, sizeof(*l->token));
    l->part = pg_calloc((size_t)n, sizeof(*l->part));
    l->of = pg_calloc((size_t)n, sizeof(struct pg_sequence *));
    l->row = pg_calloc((size_t)e->opt.n_batch, sizeof(*l->row));
    if (opt->logits && !e->logits) /* an engine of several sessions has such a buffer */
        l->own = pg_calloc(PG_LOGIT_ROWS * (size_t)e->model.h.n_vocab, sizeof(*l->own));
    l->logits = l->own ? l->own : e->logits;
    if (!l->lane || (!l->token && !opt->open) || !l->part || !l->of || !l->row ||
        (opt->logits && !l->logits) || (encodes && !l->source))
        rc = pg_fail(err, PG_ENOMEM, "out of memory for %d sequences side by side", n);
    else
        rc = open_sessions(l, n, err);
    if (rc)
        pg_lanes_close(l);
    return rc;
}

void pg_lanes_close(struct pg_lanes *l)
{
    for (int i = 0; i < l->n_lanes; i++)
        pg_session_close(l->lane[i].session);
    free(l->lane);
    free(l->token);
    free(l->source);
    free(l->part);
    free(l->of);
    free(l->row);
    free(l->own);
    *l = (struct pg_lanes){0};
}

/* ------------------------------------------------------------------ one step ---------------- */

static int check_length(const struct pg_sequence *s, const char *what, int n, int most,
                        struct pg_err *err)
{
    if (n < 1 || n > most)
        return pg_fail(err, PG_EARG, "sequence %d: %d tokens%s found, 1 to %d wanted", s->number, n,
                       what, most);
    return 0;
}

/* An empty one for the lane. */
static void clear(struct pg_lanes *l, struct pg_sequence *s)
{
    const struct pg_engine *e = l->opt.engine;
    *s = (struct pg_sequence){.lane = s->lane, .session = s->session, .number = l->n_taken};
    if (l->token)
        s->token = l->token + (size_t)s->lane * (size_t)e->opt.n_ctx;
    pg_session_truncate(s->session, 0);
    s->session->seeded = false;
    if (l->source) {
        s->source = l->source + (size_t)s->lane * (size_t)e->opt.n_source;
        s->token[0] = e->model.h.decoder_start;
    }
}

/* 1: the lane has the next sequence, 0: there is none. */
static int take(struct pg_lanes *l, struct pg_sequence *s, struct pg_err *err)
{
    const struct pg_options *o = &l->opt.engine->opt;
    clear(l, s);
    int rc = l->opt.take(l->opt.user, s, err);
    if (rc <= 0)
        return rc;
    PG_TRY(check_length(s, "", s->n, o->n_ctx, err));
    if (l->source)
        PG_TRY(check_length(s, " of a source", s->n_source, o->n_source, err));
    PG_ASSERT(s->n_run >= 0 && s->n_run < s->n);
    s->n_given = s->n;
    s->runs = true;
    l->n_taken++;
    return 1;
}

static int take_all(struct pg_lanes *l, struct pg_err *err)
{
    int rc = 1;
    for (int i = 0; i < l->n_lanes && rc > 0; i++)
        if (!l->lane[i].runs)
            rc = take(l, &l->lane[i], err);
    return PG_MIN(rc, 0);
}

static bool writes(const struct pg_sequence *s)
{
    return s->n_run >= s->n_given;
}

/* As many tokens of the sequence as there are and as there is room for, n_most at most. */
static void put(struct pg_lanes *l, struct pg_sequence *s, int n_most)
{
    int n = PG_MIN(s->n - s->n_run, l->opt.engine->opt.n_batch - l->n_rows);
    n = PG_MIN(n, n_most);
    if (n < 1)
        return;
    bool samples = s->how && s->n_run + n == s->n; /* what is handed out is computed apart */
    l->of[l->n_parts] = s;
    l->part[l->n_parts++] = (struct pg_row){s->session, s->token + s->n_run, n, !samples};
    for (int k = 0; k < n; k++)
        l->row[l->n_rows++] = (struct pg_lane_row){.seq = s, .at = s->n_run + k};
}

/* Rows of the lanes that write, then of those that do not yet. */
static void fill(struct pg_lanes *l)
{
    struct pg_sequence *s;
    l->n_parts = l->n_rows = 0;
    for (int i = 0; i < l->n_lanes; i++)
        if (l->lane[i].runs && writes(&l->lane[i]))
            put(l, &l->lane[i], INT32_MAX);
    for (int i = 0, n; l->opt.prompt && (s = l->opt.prompt(l->opt.user, i, &n)); i++) {
        PG_ASSERT(s->runs && !writes(s));
        put(l, s, n);
    }
    for (int i = 0; i < l->n_lanes && !l->opt.prompt; i++)
        if (l->lane[i].runs && !writes(&l->lane[i]))
            put(l, &l->lane[i], INT32_MAX);
}

static bool is_wanted(const struct pg_lane_row *row)
{
    const struct pg_sequence *s = row->seq;
    return row->at < s->n_given &&
           (s->logits == PG_LANE_ALL || (s->logits == PG_LANE_LAST && row->at == s->n_given - 1));
}

static int hand_out_logits(struct pg_lanes *l, struct pg_err *err)
{
    struct pg_lane_row some[PG_LOGIT_ROWS];
    int32_t at[PG_LOGIT_ROWS];
    for (int i = 0, n = 0; i < l->n_rows; i++) {
        if (is_wanted(&l->row[i])) {
            at[n] = i;
            some[n++] = l->row[i];
        }
        if (n == PG_LOGIT_ROWS || (n > 0 && i == l->n_rows - 1)) {
            PG_TRY(pg_step_logits(l->opt.engine, at, n, l->logits, err));
            PG_TRY(l->opt.logits(l->opt.user, some, n, l->logits, err));
            n = 0;
        }
    }
    return 0;
}

/* All tokens that there are have been run: one more, or the end. */
static int go_on(struct pg_lanes *l, struct pg_sequence *s, struct pg_err *err)
{
    if (s->how) {
        int32_t token;
        int rc = pg_session_sample(s->session, s->how, &token, err);
        if (rc && l->opt.failed) {
            s->runs = false;
            l->opt.failed(l->opt.user, s, err);
            return 0;
        }
        PG_TRY(rc);
        rc = l->opt.token(l->opt.user, s, token, err);
        if (rc < 0)
            return rc;
        if (rc > 0 && s->n < l->opt.engine->opt.n_ctx) {
            s->token[s->n++] = token;
            return 0;
        }
    }
    s->runs = false;
    l->done += l->opt.count_sequences;
    return l->opt.end ? l->opt.end(l->opt.user, s, err) : 0;
}

static int report(const struct pg_lanes *l, struct pg_err *err)
{
    const struct pg_lanes_options *o = &l->opt;
    if (!o->progress || !o->progress(o->progress_user, o->what, l->done, o->total))
        return 0;
    return pg_fail(err, PG_ECANCELLED, "cancelled after %llu of %llu %s",
                   (unsigned long long)l->done, (unsigned long long)o->total, o->what);
}

/* Rows of sources that are not encoded yet, as many whole ones as fit. */
static void fill_sources(struct pg_lanes *l)
{
    l->n_parts = l->n_rows = 0;
    for (int i = 0; i < l->n_lanes; i++) {
        struct pg_sequence *s = &l->lane[i];
        if (!s->runs || s->encoded || s->n_source > l->opt.engine->opt.n_batch - l->n_rows)
            continue;
        l->of[l->n_parts] = s;
        l->part[l->n_parts++] = (struct pg_row){s->session, s->source, s->n_source, true};
        for (int k = 0; k < s->n_source; k++)
            l->row[l->n_rows++] = (struct pg_lane_row){.seq = s, .at = k, .is_source = true};
        s->encoded = true;
    }
}

static int encode(struct pg_lanes *l, struct pg_err *err)
{
    for (fill_sources(l); l->n_rows > 0; fill_sources(l)) {
        PG_TRY(pg_encode(l->opt.engine, l->part, l->n_parts, err));
        l->done += l->opt.count_sequences ? 0 : (uint64_t)l->n_rows;
        PG_TRY(report(l, err));
    }
    return 0;
}

void pg_lanes_drop(struct pg_lanes *l, struct pg_sequence *s)
{
    PG_ASSERT(s == &l->lane[s->lane] && s->runs);
    s->runs = false;
}

/* Each part as a step of its own: the bits are the same, and who fails fails alone. */
static int run_parts(struct pg_lanes *l)
{
    struct pg_err own = {0};
    for (int i = 0; i < l->n_parts; i++) {
        struct pg_sequence *s = l->of[i];
        const int rc = pg_step(l->opt.engine, &l->part[i], 1, &own);
        if (rc == PG_ECANCELLED) /* the step was a shorter one */
            return 0;
        if (!rc) {
            s->n_run += l->part[i].n;
            continue;
        }
        s->runs = false;
        l->opt.failed(l->opt.user, s, &own);
    }
    return 0;
}

static int run_step(struct pg_lanes *l, struct pg_err *err)
{
    const int rc = pg_step(l->opt.engine, l->part, l->n_parts, err);
    if (rc && rc != PG_ECANCELLED && l->opt.failed)
        return run_parts(l);
    for (int i = 0; i < l->n_parts && !rc; i++)
        l->of[i]->n_run += l->part[i].n;
    return rc;
}

int pg_lanes_step(struct pg_lanes *l, int *n_rows, struct pg_err *err)
{
    *n_rows = 0;
    PG_TRY(take_all(l, err));
    if (l->source)
        PG_TRY(encode(l, err));
    fill(l);
    if (l->n_rows == 0)
        return 0;
    PG_TRY(run_step(l, err));
    if (l->opt.stepped)
        l->opt.stepped(l->opt.user);
    l->done += l->opt.count_sequences ? 0 : (uint64_t)l->n_rows;
    if (l->opt.logits)
        PG_TRY(hand_out_logits(l, err));
    for (int i = 0; i < l->n_lanes; i++)
        if (l->lane[i].runs && l->lane[i].n_run == l->lane[i].n)
            PG_TRY(go_on(l, &l->lane[i], err));
    *n_rows = l->n_rows;
    return report(l, err);
}

int pg_lanes_run(struct pg_lanes *l, struct pg_err *err)
{
    int n, rc;
    do
        rc = pg_lanes_step(l, &n, err);
    while (!rc && n > 0);
    return rc;
}
