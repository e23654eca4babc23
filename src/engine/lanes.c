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
    }
    return 0;
}

int pg_lanes_open(struct pg_lanes *l, const struct pg_lanes_options *opt, struct pg_err *err)
{
    struct pg_engine *e = opt->engine;
    uint64_t room = e->session_bytes_left / pg_session_bytes(e, e->opt.n_ctx);
    int n = (int)PG_MIN(room, (uint64_t)e->opt.n_batch), rc;
    n = opt->n_most ? PG_MIN(n, opt->n_most) : n;
    n = PG_MAX(n, 1); /* an engine without room for one says so when it is asked */
    *l = (struct pg_lanes){.opt = *opt};
    if (e->model.h.n_stack > 1)
        return pg_fail(err, PG_ENOTSUP,
                       "architecture '%s': a model with an encoder cannot be evaluated or tuned",
                       e->model.arch);
    l->lane = pg_calloc((size_t)n, sizeof(*l->lane));
    l->token = pg_calloc((size_t)n * (size_t)e->opt.n_ctx, sizeof(*l->token));
    l->part = pg_calloc((size_t)n, sizeof(*l->part));
    l->row = pg_calloc((size_t)e->opt.n_batch, sizeof(*l->row));
    if (opt->logits && !e->logits) /* an engine of several sessions has such a buffer */
        l->own = pg_calloc(PG_LOGIT_ROWS * (size_t)e->model.h.n_vocab, sizeof(*l->own));
    l->logits = l->own ? l->own : e->logits;
    if (!l->lane || !l->token || !l->part || !l->row || (opt->logits && !l->logits))
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
    free(l->part);
    free(l->row);
    free(l->own);
    *l = (struct pg_lanes){0};
}

/* ------------------------------------------------------------------ one step ---------------- */

/* 1: the lane has the next sequence, 0: there is none. */
static int take(struct pg_lanes *l, struct pg_sequence *s, struct pg_err *err)
{
    int n_ctx = l->opt.engine->opt.n_ctx;
    *s = (struct pg_sequence){.token = l->token + (size_t)s->lane * (size_t)n_ctx,
                              .lane = s->lane,
                              .session = s->session,
                              .number = l->n_taken};
    int rc = l->opt.take(l->opt.user, s, err);
    if (rc <= 0)
        return rc;
    if (s->n < 1 || s->n > n_ctx) {
        return pg_fail(err, PG_EARG, "sequence %d: %d tokens found, 1 to %d wanted", s->number,
                       s->n, n_ctx);
    }
    pg_session_truncate(s->session, 0);
    s->session->seeded = false;
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

/* Rows of the lanes that write, or of those that do not yet. */
static void fill(struct pg_lanes *l, bool writes)
{
    for (int i = 0; i < l->n_lanes && l->n_rows < l->opt.engine->opt.n_batch; i++) {
        struct pg_sequence *s = &l->lane[i];
        if (!s->runs || (s->n_run >= s->n_given) != writes)
            continue;
        int n = PG_MIN(s->n - s->n_run, l->opt.engine->opt.n_batch - l->n_rows);
        bool samples = s->how && s->n_run + n == s->n; /* what is handed out is computed apart */
        l->part[l->n_parts++] = (struct pg_row){s->session, s->token + s->n_run, n, !samples};
        for (int k = 0; k < n; k++)
            l->row[l->n_rows++] = (struct pg_lane_row){s, s->n_run + k};
    }
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
        PG_TRY(pg_session_sample(s->session, s->how, &token, err));
        int rc = l->opt.token(l->opt.user, s, token, err);
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

int pg_lanes_step(struct pg_lanes *l, int *n_rows, struct pg_err *err)
{
    l->n_parts = l->n_rows = *n_rows = 0;
    PG_TRY(take_all(l, err));
    fill(l, true);
    fill(l, false);
    if (l->n_rows == 0)
        return 0;
    PG_TRY(pg_step(l->opt.engine, l->part, l->n_parts, err));
    for (int i = 0; i < l->n_rows; i++)
        l->row[i].seq->n_run++;
    l->done += l->opt.count_sequences ? 0 : (uint64_t)l->n_rows;
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
