/* SPDX-License-Identifier: MIT
 * What is measured on running text: perplexity, and agreement of pre-gates with the routers. A
 * model with an encoder reads pairs of a source and a target (data/pairs.h).
 *
 * The negative log-likelihood of a piece is summed in its order, and the pieces in theirs, so that
 * what runs side by side changes no bit of the result.
 */
#include "data/pairs.h"
#include "data/pieces.h"
#include "engine/lanes.h"
#include "eval/agree.h"
#include "eval/eval.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------ reading ----------------- */

/* The text in pieces, or in pairs. The last token of a piece, or of a target, is not run: what is
 * run before is what it is predicted from. */
struct reading {
    const struct pg_evaluation *v;
    struct pg_docs docs;
    struct pg_pieces pieces;
    struct pg_pairs pairs;
    int n, n_docs, next; /* pieces or pairs; one that no lane has taken */
    uint64_t n_cut;      /* documents longer than the context */
    uint64_t n_targets;  /* of all pieces or pairs */
    uint64_t n_sources;  /* tokens of sources */
    enum pg_lane_logits logits;
};

static bool has_pairs(const struct reading *r)
{
    return r->v->engine->model.h.n_stack > 1;
}

static int cut(struct reading *r, struct pg_err *err)
{
    const struct pg_eval_options *o = &r->v->opt;
    struct pg_cut how = {.n_ctx = (size_t)r->v->engine->opt.n_ctx,
                         .bos = pg_vocab_bos(r->v->engine->vocab),
                         .first_only = !o->windows,
                         .targets = true,
                         .left = UINT64_MAX};
    r->n_docs = o->n_max ? PG_MIN(o->n_max, r->docs.n) : r->docs.n;
    for (int i = 0; i < r->n_docs; i++) {
        r->n_cut += r->docs.first[i + 1] - r->docs.first[i] > how.n_ctx;
        PG_TRY(pg_pieces_cut(&r->pieces, &r->docs, i, &how, err));
    }
    r->n = r->pieces.n;
    for (int i = 0; i < r->n; i++)
        r->n_targets += (uint64_t)r->pieces.at[i].n - 1;
    if (r->n_targets == 0)
        return pg_fail(err, PG_EARG, "no token to predict: each document is a single token");
    return 0;
}

static int open_pieces(struct reading *r, struct pg_err *err)
{
    const struct pg_evaluation *v = r->v;
    struct pg_docs_options o = {
        .vocab = v->engine->vocab, .paths = &v->opt.data, .n_paths = 1, .end_token = false};
    if (v->engine->opt.n_ctx < 2) {
        return pg_fail(err, PG_EARG,
                       "a context of %d token predicts nothing: 2 at least are wanted",
                       v->engine->opt.n_ctx);
    }
    PG_TRY(pg_docs_open(&r->docs, &o, err));
    return cut(r, err);
}

/* A timeline begins with a token of its own, so that a target has the rest of the context. */
static int open_pairs(struct reading *r, struct pg_err *err)
{
    const struct pg_evaluation *v = r->v;
    struct pg_pairs_options o = {.vocab = v->engine->vocab,
                                 .paths = &v->opt.data,
                                 .n_paths = 1,
                                 .n_source = v->engine->opt.n_source,
                                 .n_target = v->engine->opt.n_ctx - 1,
                                 .max_docs = v->opt.n_max,
                                 .first_only = !v->opt.windows};
    if (v->opt.windows && pg_pairs_are_lines(v->opt.data))
        return pg_fail(err, PG_EARG,
                       "%s: pairs of a source and a target are not cut into pieces; windows are of "
                       "running text",
                       v->opt.data);
    PG_TRY(pg_pairs_open(&r->pairs, &o, err));
    r->n = r->pairs.n;
    r->n_docs = r->pairs.n_docs;
    r->n_cut = (uint64_t)r->pairs.n_cut;
    for (int i = 0; i < r->n; i++) {
        r->n_sources += (uint64_t)r->pairs.at[i].n_source;
        r->n_targets += (uint64_t)r->pairs.at[i].n_target;
    }
    return 0;
}

static void close_reading(struct reading *r)
{
    pg_pieces_close(&r->pieces);
    pg_docs_close(&r->docs);
    pg_pairs_close(&r->pairs);
}

static int open_reading(struct reading *r, const struct pg_evaluation *v, struct pg_err *err)
{
    *r = (struct reading){.v = v};
    int rc = has_pairs(r) ? open_pairs(r, err) : open_pieces(r, err);
    if (rc)
        close_reading(r);
    return rc;
}

static void put_piece(const struct reading *r, struct pg_sequence *s)
{
    const struct pg_piece *p = &r->pieces.at[s->tag];
    pg_piece_tokens(p, &r->docs, pg_vocab_bos(r->v->engine->vocab), s->token);
    s->n = p->n - 1;
}

/* The target behind what the timeline begins with. */
static void put_pair(const struct reading *r, struct pg_sequence *s)
{
    const struct pg_pair *p = &r->pairs.at[s->tag];
    memcpy(s->source, r->pairs.token + p->source, (size_t)p->n_source * sizeof(*s->source));
    memcpy(s->token + 1, r->pairs.token + p->target, (size_t)p->n_target * sizeof(*s->token));
    s->n_source = p->n_source;
    s->n = p->n_target;
}

/* Tagged with the number of the piece or pair. */
static int take_next(void *user, struct pg_sequence *s, struct pg_err *err)
{
    struct reading *r = user;
    (void)err;
    if (r->next == r->n)
        return 0;
    s->tag = (uint64_t)r->next++;
    if (has_pairs(r))
        put_pair(r, s);
    else
        put_piece(r, s);
    s->logits = r->logits;
    return 1;
}

/* The whole text through the engine; `logits` may be NULL. */
static int read_all(struct reading *r, struct pg_lanes_options *o, struct pg_err *err)
{
    struct pg_lanes lanes;
    o->engine = r->v->engine;
    o->n_most = r->n;
    o->take = take_next;
    o->user = r;
    o->progress = r->v->opt.progress;
    o->progress_user = r->v->opt.user;
    o->what = "tokens";
    o->total = r->n_targets + r->n_sources;
    PG_TRY(pg_lanes_open(&lanes, o, err));
    int rc = pg_lanes_run(&lanes, err);
    pg_lanes_close(&lanes);
    return rc;
}

static void report_reading(const struct reading *r)
{
    r->v->report->n_docs = (uint64_t)r->n_docs;
    r->v->report->n_cut = r->n_cut;
    r->v->report->n_tokens = r->n_targets;
}

/* ------------------------------------------------------------------ perplexity -------------- */

struct likelihood {
    struct reading reading; /* the first: what the lanes hand back is both */
    const float *logits;    /* [n, n_vocab] of the rows at hand */
    const struct pg_lane_row *row;
    double nll[PG_LOGIT_ROWS];
    double *piece; /* [reading.n] sums */
};

/* -log softmax(logits)[target]: log of the sum of all, less the target's own. */
static void row_likelihood(void *arg, int row, int thread)
{
    struct likelihood *l = arg;
    const struct pg_lane_row *at = &l->row[row];
    int n_vocab = l->reading.v->engine->model.h.n_vocab;
    const float *x = l->logits + (size_t)row * (size_t)n_vocab;
    float most = x[0];
    double sum = 0;
    (void)thread;
    for (int i = 1; i < n_vocab; i++)
        most = PG_MAX(most, x[i]);
    for (int i = 0; i < n_vocab; i++)
        sum += exp((double)(x[i] - most));
    l->nll[row] = log(sum) + (double)most - (double)x[at->seq->token[at->at + 1]];
}

static int add_likelihood(void *user, const struct pg_lane_row *row, int n, const float *logits,
                          struct pg_err *err)
{
    struct likelihood *l = user;
    l->logits = logits;
    l->row = row;
    pg_rows(&l->reading.v->engine->compute, row_likelihood, l, n);
    for (int i = 0; i < n; i++) {
        if (!isfinite(l->nll[i])) {
            return pg_fail(err, PG_ENUMERIC,
                           "numerical error: a token has the log-likelihood %g (damaged weights, "
                           "or a model that overflows)",
                           -l->nll[i]);
        }
        l->piece[row[i].seq->tag] += l->nll[i];
    }
    return 0;
}

static void report_ppl(const struct likelihood *l)
{
    const struct reading *r = &l->reading;
    double sum = 0;
    for (int i = 0; i < r->n; i++)
        sum += l->piece[i];
    report_reading(r);
    r->v->report->nll_per_token = sum / (double)r->n_targets;
    r->v->report->ppl = exp(r->v->report->nll_per_token);
}

int pg_eval_ppl(struct pg_evaluation *v, struct pg_err *err)
{
    struct likelihood l;
    struct pg_lanes_options o = {.logits = add_likelihood};
    PG_TRY(open_reading(&l.reading, v, err));
    l.reading.logits = PG_LANE_ALL;
    l.piece = pg_calloc((size_t)l.reading.n, sizeof(double));
    int rc = l.piece ? read_all(&l.reading, &o, err) : pg_fail(err, PG_ENOMEM, "out of memory");
    if (!rc)
        report_ppl(&l);
    free(l.piece);
    close_reading(&l.reading);
    return rc;
}

/* ------------------------------------------------------------------ agreement --------------- */

/* The listener at the gates sees it all. */
static int read_agree(struct reading *r, struct pg_err *err)
{
    struct pg_lanes_options o = {0};
    struct pg_agree_block *blocks = NULL;
    struct pg_agree a;
    PG_TRY(pg_agree_open(&a, r->v->engine, err));
    int rc = read_all(r, &o, err);
    rc = rc ? rc : pg_agree_blocks(&a, &blocks, &r->v->report->n_blocks, err);
    if (!rc) {
        report_reading(r);
        r->v->report->n_tokens += r->n_sources; /* both stacks have gates */
        r->v->report->n_used = a.rule.n_used;
        r->v->report->n_named = a.named.n_used;
        r->v->report->blocks = blocks;
    }
    pg_agree_close(&a, r->v->engine);
    return rc;
}

int pg_eval_agree(struct pg_evaluation *v, struct pg_err *err)
{
    struct reading r;
    PG_TRY(open_reading(&r, v, err));
    int rc = read_agree(&r, err);
    close_reading(&r);
    return rc;
}
