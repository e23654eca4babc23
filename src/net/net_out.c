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
        pg_real *x = pg_net_row(n->block[n->now->first].self.x, t, n_embd);
        int token = n->now->token[t];
        if (token < 0) { /* padding */
            memset(x, 0, (size_t)n_embd * sizeof(pg_real));
        } else if (n->opt.frozen) {
            pg_net_unpack(&n->model->token_embd, token, 1, x);
        } else {
            memcpy(x, n->w + n->at_embd + (size_t)token * (size_t)n_embd,
                   (size_t)n_embd * sizeof(pg_real));
        }
    }
}

void pg_net_embed(struct pg_net *n)
{
    pg_net_over_spans(n, embed, 0);
    pg_net_drop(n, -1, PG_DROP_EMBD, n->block[n->now->first].self.x);
}

enum { COLUMNS = 64 };

/* Task: some columns of the table, for all tokens in order, since tokens repeat. */
static void embed_back(void *arg, int task, int thread)
{
    struct pg_net *n = arg;
    int n_embd = n->h->n_embd, first = task * COLUMNS, len = PG_MIN(COLUMNS, n_embd - first);
    (void)thread;
    for (int t = 0; t < n->n_tok; t++) {
        if (!pg_net_is_live(n, t))
            continue;
        n->ops->add(pg_net_row(n->dx, t, n_embd) + first,
                    n->g + n->at_embd + (size_t)n->now->token[t] * (size_t)n_embd + first, len);
    }
}

void pg_net_embed_back(struct pg_net *n)
{
    pg_net_drop(n, -1, PG_DROP_EMBD, n->dx);
    pg_pool_run(n->opt.pool, embed_back, n, (n->h->n_embd + COLUMNS - 1) / COLUMNS);
}

/* ------------------------------------------------------------------ output ------------------ */

struct out {
    struct pg_net *n;
    int t0, n_rows;      /* the rows whose logits are there */
    int first, n_out;    /* of the vocabulary, what is multiplied with */
    const pg_real *w;    /* [n_out, n_embd] */
    const pg_real *of;   /* the weights that it is part of */
    const pg_real *h;    /* [T, n_embd] what is multiplied */
    pg_real *logits;     /* [out_rows, n_vocab] */
    int n_groups, parts; /* of rows; of columns of a product, each a task of its own */
};

/* Rows [at, at + n) of those whose logits are there. */
struct group {
    int at, n;
};
static struct group group_of(const struct out *o, int task)
{
    int at = task % o->n_groups * PG_NET_OUT_ROWS;
    return (struct group){at, PG_MIN(PG_NET_OUT_ROWS, o->n_rows - at)};
}

/* The task's part of n columns: whole steps of a product's kernel. */
static struct group part_of(const struct out *o, int task, int n)
{
    int each = (n / o->parts + 63) / 64 * 64, at = PG_MIN(task / o->n_groups * each, n);
    return (struct group){at, PG_MIN(each, n - at)};
}

/* sum p_ref (z_ref - z) - lse_ref, which is the divergence less the lse of z; the reference's
 * logits become its probabilities. */
static pg_real diverge(const struct pg_net *n, const pg_real *logits, pg_real *ref, pg_real *room)
{
    int n_vocab = n->h->n_vocab;
    memcpy(room, ref, (size_t)n_vocab * sizeof(room[0]));
    n->ops->axpy(-1, logits, room, n_vocab);
    pg_real lse = n->ops->softmax(ref, 1, 1, n_vocab);
    return n->ops->dot(ref, room, n_vocab) - lse;
}

/* Logits to the losses and, times scale / n_targets, to their derivative. ref: the reference's, or
 * NULL. */
static void loss_row(struct pg_net *n, int t, pg_real *logits, pg_real *ref, pg_real *room)
{
    int target = n->batch->target[t], n_vocab = n->h->n_vocab;
    if (target < 0) {
        n->nll[t] = 0;
        if (ref)
            n->kl[t] = 0;
        memset(logits, 0, (size_t)n_vocab * sizeof(logits[0]));
        return;
    }
    pg_real times = n->scale / (pg_real)n->n_targets, z = logits[target];
    pg_real of_ref = ref ? times * (pg_real)n->opt.kl_weight : 0;
    pg_real apart = ref ? diverge(n, logits, ref, room) : 0;
    pg_real lse = n->ops->softmax(logits, 1, times + of_ref, n_vocab);
    n->nll[t] = (double)(lse - z);
    logits[target] -= times;
    if (ref) {
        n->kl[t] = (double)(apart + lse);
        n->ops->axpy(-of_ref, ref, logits, n_vocab);
    }
}

/* y = norm(x_end), as it goes into the output matrix; returns 1 / rms. */
static pg_real norm_row(const struct pg_net *n, int t, pg_real *y)
{
    const struct pg_net_stack *s = n->now;
    int n_embd = n->h->n_embd;
    pg_real by =
        n->ops->norm(pg_net_row(s->x_end, t, n_embd), n->of_ends + s->at_norm, n->eps, y, n_embd);
    if (n->h->logit_scale != 1)
        n->ops->scale(n->logit_scale, y, y, n_embd);
    return by;
}

static void norm_group(void *arg, int task, int thread)
{
    struct out *o = arg;
    struct pg_net *n = o->n;
    struct group g = group_of(o, task);
    (void)thread;
    for (int t = o->t0 + g.at; t < o->t0 + g.at + g.n; t++) {
        pg_real *h = pg_net_row(n->now->h_end, t, n->h->n_embd);
        n->now->s_end[t] = norm_row(n, t, h);
        if (pg_net_drops(n))
            pg_net_drop_row(n, -1, PG_DROP_END, t, h);
    }
}

/* Logits of some rows, of a part of the tile. */
static void to_logits(void *arg, int task, int thread)
{
    struct out *o = arg;
    struct pg_net *n = o->n;
    struct group g = group_of(o, task), c = part_of(o, task, o->n_out);
    int n_embd = n->h->n_embd, n_vocab = n->h->n_vocab;
    (void)thread;
    if (c.n == 0)
        return;
    pg_gemm_nt(&(struct pg_gemm){.by = &n->blas,
                                 .m = g.n,
                                 .n = c.n,
                                 .k = n_embd,
                                 .a = o->h + (size_t)(o->t0 + g.at) * (size_t)n_embd,
                                 .lda = n_embd,
                                 .b = o->w + (size_t)c.at * (size_t)n_embd,
                                 .ldb = n_embd,
                                 .c = pg_net_row(o->logits, g.at, n_vocab) + o->first + c.at,
                                 .ldc = n_vocab});
}

static void loss_group(void *arg, int task, int thread)
{
    struct out *o = arg;
    struct pg_net *n = o->n;
    struct group g = group_of(o, task);
    int n_vocab = n->h->n_vocab;
    for (int i = g.at; i < g.at + g.n; i++) {
        loss_row(n, o->t0 + i, pg_net_row(n->logits, i, n_vocab),
                 n->ref_h ? pg_net_row(n->ref_logits, i, n_vocab) : NULL,
                 n->room + (size_t)thread * n->room_len);
    }
}

/* dh of some rows, of a part of its values, += what the tile brings. */
static void from_logits(void *arg, int task, int thread)
{
    struct out *o = arg;
    struct pg_net *n = o->n;
    struct group g = group_of(o, task), c = part_of(o, task, n->h->n_embd);
    int n_embd = n->h->n_embd, n_vocab = n->h->n_vocab;
    (void)thread;
    if (c.n == 0)
        return;
    pg_gemm_nn(&(struct pg_gemm){.by = &n->blas,
                                 .m = g.n,
                                 .n = c.n,
                                 .k = o->n_out,
                                 .a = pg_net_row(n->logits, g.at, n_vocab) + o->first,
                                 .lda = n_vocab,
                                 .b = o->w + c.at,
                                 .ldb = n_embd,
                                 .beta = o->first > 0,
                                 .c = pg_net_row(n->dh, o->t0 + g.at, n_embd) + c.at,
                                 .ldc = n_embd});
}

/* fn with each tile of the output matrix in turn. */
static void over_tiles(struct out *o, pg_task_fn *fn)
{
    struct pg_net *n = o->n;
    for (o->first = 0; o->first < n->h->n_vocab; o->first += n->tile_rows) {
        o->n_out = PG_MIN(n->tile_rows, n->h->n_vocab - o->first);
        o->w = pg_net_output_rows(n, o->of, o->first, o->n_out);
        pg_pool_run(n->opt.pool, fn, o, o->n_groups * o->parts);
    }
}

/* The same rows' logits, of the reference. */
static void ref_logits(const struct out *o)
{
    struct pg_net *n = o->n;
    struct out ref = *o;
    ref.of = n->ref_w;
    ref.h = n->ref_h;
    ref.logits = n->ref_logits;
    over_tiles(&ref, to_logits);
}

static void reference(void *arg, int task, int thread)
{
    struct pg_net_pass *p = arg;
    struct pg_net *n = p->n;
    struct pg_net_span s = pg_net_span(n, task);
    (void)thread;
    for (int t = s.t0; t < s.t0 + s.n; t++)
        norm_row(n, t, pg_net_row(n->ref_h, t, n->h->n_embd));
}

void pg_net_reference(struct pg_net *n)
{
    pg_net_over_spans(n, reference, 0);
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
        pg_real *dh = pg_net_row(n->dh, t, n_embd);
        if (pg_net_drops(n))
            pg_net_drop_row(n, -1, PG_DROP_END, t, dh);
        if (n->h->logit_scale != 1)
            n->ops->scale(n->logit_scale, dh, dh, n_embd);
        struct pg_norm_back b = {.x = pg_net_row(n->now->x_end, t, n_embd),
                                 .gain = n->of_ends + n->now->at_norm,
                                 .dy = dh,
                                 .s = n->now->s_end[t],
                                 .dx = pg_net_row(n->dx, t, n_embd),
                                 .dgain = s.part + n->sums.norm};
        n->ops->norm_back(&b, n_embd);
    }
}

void pg_net_output(struct pg_net *n)
{
    /* Few rows of a large vocabulary would be few tasks. */
    bool large = n->opt.frozen && (int64_t)n->tile_rows * n->h->n_embd >= 1 << 20;
    for (int t0 = 0; t0 < n->n_tok; t0 += n->out_rows) {
        struct out o = {.n = n, .t0 = t0, .n_rows = PG_MIN(n->out_rows, n->n_tok - t0)};
        o.of = n->w;
        o.h = n->now->h_end;
        o.logits = n->logits;
        o.parts = large ? 4 : 1;
        o.n_groups = (o.n_rows + PG_NET_OUT_ROWS - 1) / PG_NET_OUT_ROWS;
        pg_pool_run(n->opt.pool, norm_group, &o, o.n_groups);
        over_tiles(&o, to_logits);
        if (n->ref_h)
            ref_logits(&o);
        pg_pool_run(n->opt.pool, loss_group, &o, o.n_groups);
        if (n->g)
            over_tiles(&o, from_logits);
        if (n->g && !n->opt.frozen) {
            struct pg_net_outer g = {
                n->g + n->at_output, n->logits,    pg_net_row(n->now->h_end, t0, n->h->n_embd),
                n->h->n_vocab,       n->h->n_embd, o.n_rows};
            pg_net_outers(n, &g, 1);
        }
    }
    if (n->g) {
        pg_net_over_spans(n, norm_rows_back, 0);
        pg_net_sum_parts(n, n->sums.norm, n->h->n_embd,
                         n->opt.frozen ? NULL : n->g + n->now->at_norm);
    }
}
