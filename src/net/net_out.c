/* SPDX-License-Identifier: MIT
 * The ends of the model: the table of token embeddings, and the output with the loss of its logits.
 *
 * Logits are made for out_rows rows at a time, turned into their own derivative where they lie, and
 * used up before the next rows: a batch times a vocabulary would be the largest array by far.
 */
#include "net/net_impl.h"

#include <math.h>
#include <string.h>

/* ------------------------------------------------------------------ table ------------------- */

static void embed(void *arg, int task, int thread)
{
    struct pg_net_pass *p = arg;
    struct pg_net *n = p->n;
    struct pg_net_span s = pg_net_span(n, task);
    int n_embd = n->h->n_embd;
    (void)thread;
    for (int t = s.t0; t < s.t0 + s.n; t++) {
        memcpy(pg_net_row(n->block[0].x0, t, n_embd),
               n->w + n->at_embd + (size_t)n->batch->token[t] * (size_t)n_embd,
               (size_t)n_embd * sizeof(pg_real));
    }
}

void pg_net_embed(struct pg_net *n)
{
    pg_net_over_spans(n, embed, 0);
}

enum { COLUMNS = 64 };

/* Task: some columns of the table, for all tokens in order, since tokens repeat. */
static void embed_back(void *arg, int task, int thread)
{
    struct pg_net *n = arg;
    int n_embd = n->h->n_embd, first = task * COLUMNS, len = PG_MIN(COLUMNS, n_embd - first);
    (void)thread;
    for (int t = 0; t < n->n_tok; t++) {
        n->ops->add(pg_net_row(n->dx, t, n_embd) + first,
                    n->g + n->at_embd + (size_t)n->batch->token[t] * (size_t)n_embd + first, len);
    }
}

void pg_net_embed_back(struct pg_net *n)
{
    pg_pool_run(n->opt.pool, embed_back, n, (n->h->n_embd + COLUMNS - 1) / COLUMNS);
}

/* ------------------------------------------------------------------ output ------------------ */

struct out {
    struct pg_net *n;
    int t0, n_rows; /* the rows whose logits are there */
};

/* Logits to the loss and, times scale / n_targets, to its derivative. */
static void loss_row(struct pg_net *n, int t, pg_real *logits)
{
    int target = n->batch->target[t], n_vocab = n->h->n_vocab;
    if (target < 0) {
        n->nll[t] = 0;
        memset(logits, 0, (size_t)n_vocab * sizeof(logits[0]));
        return;
    }
    pg_real times = n->scale / (pg_real)n->n_targets, z = logits[target];
    n->nll[t] = (double)(n->ops->softmax(logits, 1, times, n_vocab) - z);
    logits[target] -= times;
}

static void out_rows(void *arg, int task, int thread)
{
    struct out *o = arg;
    struct pg_net *n = o->n;
    int n_embd = n->h->n_embd, n_vocab = n->h->n_vocab, first = task * PG_NET_OUT_ROWS;
    int t0 = o->t0 + first, n_rows = PG_MIN(PG_NET_OUT_ROWS, o->n_rows - first);
    pg_real *logits = pg_net_row(n->logits, first, n_vocab);
    struct pg_gemm to_logits = {.by = &n->blas,
                                .m = n_rows,
                                .n = n_vocab,
                                .k = n_embd,
                                .a = pg_net_row(n->h_end, t0, n_embd),
                                .lda = n_embd,
                                .b = n->w + n->at_output,
                                .ldb = n_embd,
                                .c = logits,
                                .ldc = n_vocab};
    struct pg_gemm back = {.by = &n->blas,
                           .m = n_rows,
                           .n = n_embd,
                           .k = n_vocab,
                           .a = logits,
                           .lda = n_vocab,
                           .b = n->w + n->at_output,
                           .ldb = n_embd,
                           .c = pg_net_row(n->dh, t0, n_embd),
                           .ldc = n_embd};
    (void)thread;
    for (int i = 0; i < n_rows; i++) {
        int t = t0 + i;
        n->s_end[t] = n->ops->norm(pg_net_row(n->x_end, t, n_embd), n->w + n->at_norm, n->eps,
                                   pg_net_row(n->h_end, t, n_embd), n_embd);
    }
    pg_gemm_nt(&to_logits);
    for (int i = 0; i < n_rows; i++)
        loss_row(n, t0 + i, pg_net_row(logits, i, n_vocab));
    if (n->g)
        pg_gemm_nn(&back);
}

static void norm_rows_back(void *arg, int task, int thread)
{
    struct pg_net_pass *p = arg;
    struct pg_net *n = p->n;
    struct pg_net_span s = pg_net_span(n, task);
    int n_embd = n->h->n_embd;
    (void)thread;
    memset(s.part, 0, n->sums.n * sizeof(pg_real));
    for (int t = s.t0; t < s.t0 + s.n; t++) {
        struct pg_norm_back b = {.x = pg_net_row(n->x_end, t, n_embd),
                                 .gain = n->w + n->at_norm,
                                 .dy = pg_net_row(n->dh, t, n_embd),
                                 .s = n->s_end[t],
                                 .dx = pg_net_row(n->dx, t, n_embd),
                                 .dgain = s.part + n->sums.norm};
        n->ops->norm_back(&b, n_embd);
    }
}

void pg_net_output(struct pg_net *n)
{
    for (int t0 = 0; t0 < n->n_tok; t0 += n->out_rows) {
        struct out o = {n, t0, PG_MIN(n->out_rows, n->n_tok - t0)};
        pg_pool_run(n->opt.pool, out_rows, &o, (o.n_rows + PG_NET_OUT_ROWS - 1) / PG_NET_OUT_ROWS);
        if (n->g) {
            struct pg_net_outer g = {
                n->g + n->at_output, n->logits,    pg_net_row(n->h_end, t0, n->h->n_embd),
                n->h->n_vocab,       n->h->n_embd, o.n_rows};
            pg_net_outers(n, &g, 1);
        }
    }
    if (n->g) {
        pg_net_over_spans(n, norm_rows_back, 0);
        pg_net_sum_parts(n, n->sums.norm, n->h->n_embd, n->g + n->at_norm);
    }
}
