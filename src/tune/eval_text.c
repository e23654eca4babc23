/* SPDX-License-Identifier: MIT
 * What is measured on running text: perplexity, and agreement of pre-gates with the routers.
 *
 * The negative log-likelihood of a piece is summed in its order, and the pieces in theirs, so that
 * what runs side by side changes no bit of the result.
 */
#include "tune/agree.h"
#include "tune/eval.h"
#include "tune/feed.h"

#include <math.h>
#include <stdlib.h>

static int open_docs(struct pg_docs *docs, const struct pg_evaluation *v, struct pg_err *err)
{
    struct pg_docs_options o = {
        .vocab = v->engine->vocab, .paths = &v->opt.data, .n_paths = 1, .end_token = false};
    return pg_docs_open(docs, &o, err);
}

static struct pg_feed_options feed_options(const struct pg_evaluation *v,
                                           const struct pg_docs *docs)
{
    return (struct pg_feed_options){.engine = v->engine,
                                    .docs = docs,
                                    .windows = v->opt.windows,
                                    .n_max = v->opt.n_max,
                                    .progress = v->opt.progress,
                                    .progress_user = v->opt.user};
}

static void report_feed(struct pg_evaluation *v, const struct pg_feed *f)
{
    v->report->n_docs = (uint64_t)f->n_docs;
    v->report->n_cut = f->n_cut;
    v->report->n_tokens = f->n_tokens;
}

/* ------------------------------------------------------------------ perplexity -------------- */

struct likelihood {
    struct pg_engine *e;
    float *logits;                /* [PG_LOGIT_ROWS, n_vocab] */
    double nll[PG_LOGIT_ROWS];    /* of the rows at hand */
    const struct pg_feed_row *at; /* the first of them */
    double *piece;                /* [n_pieces] sums */
};

/* -log softmax(logits)[target]: log of the sum of all, less the target's own. */
static void row_likelihood(void *arg, int row, int thread)
{
    struct likelihood *l = arg;
    int n_vocab = l->e->model.h.n_vocab;
    const float *x = l->logits + (size_t)row * (size_t)n_vocab;
    float most = x[0];
    double sum = 0;
    (void)thread;
    for (int i = 1; i < n_vocab; i++)
        most = PG_MAX(most, x[i]);
    for (int i = 0; i < n_vocab; i++)
        sum += exp((double)(x[i] - most));
    l->nll[row] = log(sum) + (double)most - (double)x[l->at[row].target];
}

static int step_likelihood(void *user, const struct pg_feed_row *rows, int n, struct pg_err *err)
{
    struct likelihood *l = user;
    int32_t wanted[PG_LOGIT_ROWS];
    for (int from = 0; from < n; from += PG_LOGIT_ROWS) {
        int some = PG_MIN(PG_LOGIT_ROWS, n - from);
        for (int i = 0; i < some; i++)
            wanted[i] = from + i;
        pg_forward_logits(&l->e->forward, wanted, some, l->logits);
        l->at = rows + from;
        pg_rows(&l->e->compute, row_likelihood, l, some);
        for (int i = 0; i < some; i++) {
            if (!isfinite(l->nll[i])) {
                return pg_fail(err, PG_ENUMERIC,
                               "numerical error: a token has the log-likelihood %g (damaged "
                               "weights, or a model that overflows)",
                               -l->nll[i]);
            }
            l->piece[l->at[i].piece] += l->nll[i];
        }
    }
    return 0;
}

static void report_ppl(struct pg_evaluation *v, const struct likelihood *l, const struct pg_feed *f)
{
    double sum = 0;
    for (int i = 0; i < f->n_pieces; i++)
        sum += l->piece[i];
    report_feed(v, f);
    v->report->nll_per_token = sum / (double)f->n_tokens;
    v->report->ppl = exp(v->report->nll_per_token);
}

static int feed_ppl(struct pg_evaluation *v, const struct pg_docs *docs, struct pg_err *err)
{
    struct likelihood l = {.e = v->engine};
    struct pg_feed_options o = feed_options(v, docs);
    struct pg_feed f;
    float *own = NULL; /* the engine has such a buffer, between steps, if it has several sessions */
    o.step = step_likelihood;
    o.user = &l;
    int rc = pg_feed_open(&f, &o, err);
    if (!rc) {
        size_t n = PG_LOGIT_ROWS * (size_t)l.e->model.h.n_vocab;
        own = l.e->logits ? NULL : pg_calloc(n, sizeof(float));
        l.logits = own ? own : l.e->logits;
        l.piece = pg_calloc((size_t)f.n_pieces, sizeof(double));
        rc = l.logits && l.piece ? pg_feed_run(&f, err) : pg_fail(err, PG_ENOMEM, "out of memory");
    }
    if (!rc)
        report_ppl(v, &l, &f);
    free(own);
    free(l.piece);
    pg_feed_close(&f);
    return rc;
}

int pg_eval_ppl(struct pg_evaluation *v, struct pg_err *err)
{
    struct pg_docs docs;
    PG_TRY(open_docs(&docs, v, err));
    int rc = feed_ppl(v, &docs, err);
    pg_docs_close(&docs);
    return rc;
}

/* ------------------------------------------------------------------ agreement --------------- */

/* The listener at the gates has seen it all by then. */
static int step_nothing(void *user, const struct pg_feed_row *rows, int n, struct pg_err *err)
{
    (void)user;
    (void)rows;
    (void)n;
    (void)err;
    return 0;
}

static int feed_agree(struct pg_evaluation *v, const struct pg_docs *docs, struct pg_err *err)
{
    struct pg_feed_options o = feed_options(v, docs);
    struct pg_agree_block *blocks = NULL;
    struct pg_agree a;
    struct pg_feed f;
    o.step = step_nothing;
    PG_TRY(pg_agree_open(&a, v->engine, err));
    int rc = pg_feed_open(&f, &o, err);
    rc = rc ? rc : pg_feed_run(&f, err);
    rc = rc ? rc : pg_agree_blocks(&a, &blocks, &v->report->n_blocks, err);
    if (!rc) {
        report_feed(v, &f);
        v->report->n_used = a.rule.n_used;
        v->report->blocks = blocks;
    }
    pg_feed_close(&f);
    pg_agree_close(&a, v->engine);
    return rc;
}

int pg_eval_agree(struct pg_evaluation *v, struct pg_err *err)
{
    struct pg_docs docs;
    PG_TRY(open_docs(&docs, v, err));
    int rc = feed_agree(v, &docs, err);
    pg_docs_close(&docs);
    return rc;
}
