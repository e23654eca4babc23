/* SPDX-License-Identifier: MIT
 * x1 = x0 + attention(norm(x0)), and back.
 *
 * Attention goes over PG_NET_QUERIES rows of one head at a time: their scores with the keys of the
 * documents they lie in, a softmax of what each may see, and the values by it. On the way back the
 * scores are made again rather than kept.
 */
#include "net/net_impl.h"

#include <math.h>
#include <string.h>

void pg_net_rope(struct pg_net *n)
{
    const struct pg_hparams *h = n->h;
    int half = h->n_rot / 2;
    for (int i = 0; i < half; i++) {
        double freq = pow((double)h->rope_base, -2.0 * i / h->n_rot) * (double)h->rope_scale;
        if (n->at_freqs != PG_NO_PART)
            freq /= (double)n->of_ends[n->at_freqs + (size_t)i];
        for (int pos = 0; pos < n->opt.seq_len; pos++) {
            size_t at = (size_t)pos * (size_t)half + (size_t)i;
            n->rope_cos[at] = (pg_real)cos(pos * freq);
            n->rope_sin[at] = (pg_real)sin(pos * freq);
        }
    }
}

/* By the angle of t's position in its document; sign -1 turns back. */
static void rotate(const struct pg_net *n, int t, pg_real *row, int n_head, pg_real sign)
{
    int half = n->h->n_rot / 2, seq_len = n->opt.seq_len;
    size_t at = (size_t)(t % seq_len - n->batch->start[t]) * (size_t)half;
    const pg_real *cosines = n->rope_cos + at, *sines = n->rope_sin + at;
    int step = n->rope_pairs ? 2 : 1, other = n->rope_pairs ? 1 : half;
    for (int head = 0; head < n_head; head++) {
        pg_real *v = row + head * n->h->head_dim;
        for (int i = 0; i < half; i++) {
            pg_real *a = v + i * step, *b = a + other;
            pg_real x = *a, y = *b, s = sign * sines[i];
            *a = x * cosines[i] - y * s;
            *b = x * s + y * cosines[i];
        }
    }
}

/* ------------------------------------------------------------------ queries, keys, values --- */

/* y = h w^T + bias */
static void linear(struct pg_net *n, const struct pg_net_pass *p, const struct pg_net_span *s,
                   enum pg_block_part part, enum pg_block_part bias, pg_real *y)
{
    int len = part == PG_PART_Q ? n->n_q : n->n_kv, n_embd = n->h->n_embd;
    pg_gemm_nt(&(struct pg_gemm){.by = &n->blas,
                                 .m = s->n,
                                 .n = len,
                                 .k = n_embd,
                                 .a = pg_net_row(n->block[p->il].h1, s->t0, n_embd),
                                 .lda = n_embd,
                                 .b = pg_net_w(n, p->il, part),
                                 .ldb = n_embd,
                                 .c = pg_net_row(y, s->t0, len),
                                 .ldc = len});
    for (int t = s->t0; pg_net_has(n, p->il, bias) && t < s->t0 + s->n; t++)
        n->ops->add(pg_net_w(n, p->il, bias), pg_net_row(y, t, len), len);
}

/* Queries, or keys: their norm (over each head or the whole row), then their rotation. */
struct side {
    pg_real *raw, *s, *v, *d; /* d: derivative, on the way back */
    int len, norm_len, n_head;
    enum pg_block_part gain, bias;
    size_t gain_at, bias_at; /* in a span's sums */
};

static void sides(const struct pg_net *n, int il, struct side out[2])
{
    const struct pg_net_block *l = &n->block[il];
    out[0] = (struct side){l->q_raw,       l->q_s,         l->q,          n->dq,
                           n->n_q,         n->q_norm_len,  n->h->n_head,  PG_PART_Q_NORM,
                           PG_PART_Q_BIAS, n->sums.q_norm, n->sums.q_bias};
    out[1] = (struct side){l->k_raw,        l->k_s,         l->k,
                           n->dk,           n->n_kv,        n->k_norm_len,
                           n->h->n_head_kv, PG_PART_K_NORM, PG_PART_K_BIAS,
                           n->sums.k_norm,  n->sums.k_bias};
}

static void norm_and_rotate(struct pg_net *n, int il, const struct side *x, int t)
{
    pg_real *v = pg_net_row(x->v, t, x->len);
    const pg_real *gain = x->norm_len ? pg_net_w(n, il, x->gain) : NULL;
    int norms = x->norm_len ? x->len / x->norm_len : 0;
    for (int i = 0; i < norms; i++) {
        pg_net_row(x->s, t, norms)[i] =
            n->ops->norm(pg_net_row(x->raw, t, x->len) + i * x->norm_len, gain, n->eps,
                         v + i * x->norm_len, x->norm_len);
    }
    rotate(n, t, v, x->n_head, 1);
}

static void project(void *arg, int task, int thread)
{
    struct pg_net_pass *p = arg;
    struct pg_net *n = p->n;
    struct pg_net_block *l = &n->block[p->il];
    struct pg_net_span s = pg_net_span(n, task);
    struct side x[2];
    int n_embd = n->h->n_embd;
    (void)thread;
    sides(n, p->il, x);
    for (int t = s.t0; t < s.t0 + s.n; t++) {
        l->s0[t] = n->ops->norm(pg_net_row(l->x0, t, n_embd), pg_net_w(n, p->il, PG_PART_ATTN_NORM),
                                n->eps, pg_net_row(l->h1, t, n_embd), n_embd);
    }
    linear(n, p, &s, PG_PART_Q, PG_PART_Q_BIAS, x[0].norm_len ? l->q_raw : l->q);
    linear(n, p, &s, PG_PART_K, PG_PART_K_BIAS, x[1].norm_len ? l->k_raw : l->k);
    linear(n, p, &s, PG_PART_V, PG_PART_V_BIAS, l->v);
    for (int t = s.t0; t < s.t0 + s.n; t++) {
        norm_and_rotate(n, p->il, &x[0], t);
        norm_and_rotate(n, p->il, &x[1], t);
    }
}

/* From the derivative of the rotated to that of the raw, in place. */
static void norm_and_rotate_back(struct pg_net *n, int il, const struct side *x, int t,
                                 pg_real *part)
{
    pg_real *d = pg_net_row(x->d, t, x->len);
    const pg_real *gain = x->norm_len ? pg_net_w(n, il, x->gain) : NULL;
    int norms = x->norm_len ? x->len / x->norm_len : 0;
    rotate(n, t, d, x->n_head, -1);
    for (int i = 0; i < norms; i++) {
        pg_real *di = d + i * x->norm_len;
        struct pg_norm_back b = {.x = pg_net_row(x->raw, t, x->len) + i * x->norm_len,
                                 .gain = gain,
                                 .dy = di,
                                 .s = pg_net_row(x->s, t, norms)[i],
                                 .dx = di,
                                 .dgain = part + x->gain_at};
        n->ops->norm_back(&b, x->norm_len);
    }
    if (pg_net_has(n, il, x->bias))
        n->ops->add(d, part + x->bias_at, x->len);
}

/* dh (+)= dy w */
static void linear_back(struct pg_net *n, const struct pg_net_pass *p, const struct pg_net_span *s,
                        enum pg_block_part part, pg_real *dy, pg_real beta)
{
    int len = part == PG_PART_Q ? n->n_q : n->n_kv, n_embd = n->h->n_embd;
    pg_gemm_nn(&(struct pg_gemm){.by = &n->blas,
                                 .m = s->n,
                                 .n = n_embd,
                                 .k = len,
                                 .a = pg_net_row(dy, s->t0, len),
                                 .lda = len,
                                 .b = pg_net_w(n, p->il, part),
                                 .ldb = n_embd,
                                 .beta = beta,
                                 .c = pg_net_row(n->dh, s->t0, n_embd),
                                 .ldc = n_embd});
}

static void project_back(void *arg, int task, int thread)
{
    struct pg_net_pass *p = arg;
    struct pg_net *n = p->n;
    const struct pg_net_block *l = &n->block[p->il];
    struct pg_net_span s = pg_net_span(n, task);
    struct side x[2];
    int n_embd = n->h->n_embd;
    (void)thread;
    sides(n, p->il, x);
    memset(s.part, 0, n->sums.n * sizeof(pg_real));
    for (int t = s.t0; t < s.t0 + s.n; t++) {
        norm_and_rotate_back(n, p->il, &x[0], t, s.part);
        norm_and_rotate_back(n, p->il, &x[1], t, s.part);
        if (pg_net_has(n, p->il, PG_PART_V_BIAS))
            n->ops->add(pg_net_row(n->dv, t, n->n_kv), s.part + n->sums.v_bias, n->n_kv);
    }
    linear_back(n, p, &s, PG_PART_Q, n->dq, 0);
    linear_back(n, p, &s, PG_PART_K, n->dk, 1);
    linear_back(n, p, &s, PG_PART_V, n->dv, 1);
    for (int t = s.t0; t < s.t0 + s.n; t++) {
        pg_real *dx = pg_net_row(n->dx, t, n_embd);
        struct pg_norm_back b = {.x = pg_net_row(l->x0, t, n_embd),
                                 .gain = pg_net_w(n, p->il, PG_PART_ATTN_NORM),
                                 .dy = pg_net_row(n->dh, t, n_embd),
                                 .add = dx,
                                 .s = l->s0[t],
                                 .dx = dx,
                                 .dgain = s.part + n->sums.norm};
        n->ops->norm_back(&b, n_embd);
    }
}

/* ------------------------------------------------------------------ attention --------------- */

/* Some queries of one head, and the keys that any of them sees. */
struct block {
    int i0, n_q, j0, n_k; /* rows of the sequence */
    int ld;               /* values from one query's scores to the next's */
    const int32_t *start; /* of the sequence */
    size_t q_at, k_at;    /* values from the start of q and of k to theirs */
    int head, t0;         /* the sequence's first token */
};

static struct block block_of(const struct pg_net *n, int seq, int head, int i0)
{
    int seq_len = n->opt.seq_len, dim = n->h->head_dim;
    int kv_head = head / (n->h->n_head / n->h->n_head_kv);
    struct block b = {.i0 = i0, .n_q = PG_MIN(PG_NET_QUERIES, seq_len - i0), .head = head};
    b.t0 = seq * seq_len;
    b.start = n->batch->start + b.t0;
    b.j0 = b.start[i0];
    b.n_k = i0 + b.n_q - b.j0;
    b.ld = (b.n_k + PG_ROW_STEP - 1) / PG_ROW_STEP * PG_ROW_STEP;
    b.q_at = (size_t)(b.t0 + i0) * (size_t)n->n_q + (size_t)(head * dim);
    b.k_at = (size_t)(b.t0 + b.j0) * (size_t)n->n_kv + (size_t)(kv_head * dim);
    return b;
}

/* c [n_q, n_k] = a b^T, a rows of queries' length, b of keys'. */
static void scores(const struct pg_net *n, const struct block *b, const pg_real *a,
                   const pg_real *keys, pg_real *c)
{
    pg_gemm_nt(&(struct pg_gemm){.by = &n->blas,
                                 .m = b->n_q,
                                 .n = b->n_k,
                                 .k = n->h->head_dim,
                                 .a = a + b->q_at,
                                 .lda = n->n_q,
                                 .b = keys + b->k_at,
                                 .ldb = n->n_kv,
                                 .c = c,
                                 .ldc = b->ld});
}

/* y [n_q, dim] = p [n_q, n_k] v, y of queries' place, v of keys'. */
static void mix(const struct pg_net *n, const struct block *b, const pg_real *p, const pg_real *v,
                pg_real *y)
{
    pg_gemm_nn(&(struct pg_gemm){.by = &n->blas,
                                 .m = b->n_q,
                                 .n = n->h->head_dim,
                                 .k = b->n_k,
                                 .a = p,
                                 .lda = b->ld,
                                 .b = v + b->k_at,
                                 .ldb = n->n_kv,
                                 .c = y + b->q_at,
                                 .ldc = n->n_q});
}

/* y of keys' place += p^T x, x of queries' place. */
static void mix_back(const struct pg_net *n, const struct block *b, const pg_real *p,
                     const pg_real *x, pg_real *y)
{
    pg_gemm_tn(&(struct pg_gemm){.by = &n->blas,
                                 .m = b->n_k,
                                 .n = n->h->head_dim,
                                 .k = b->n_q,
                                 .a = p,
                                 .lda = b->ld,
                                 .b = x + b->q_at,
                                 .ldb = n->n_q,
                                 .beta = 1,
                                 .c = y + b->k_at,
                                 .ldc = n->n_kv});
}

/* What query i of the block sees. */
static struct pg_window window(const struct block *b, int i)
{
    return (struct pg_window){b->start[b->i0 + i] - b->j0, b->i0 + i + 1 - b->j0, b->ld};
}

static pg_real score_scale(const struct pg_net *n)
{
    return (pg_real)(1 / sqrt((double)n->h->head_dim));
}

static void attend_block(struct pg_net *n, struct pg_net_block *l, const struct block *b,
                         pg_real *p)
{
    pg_real times[PG_NET_QUERIES], scale = score_scale(n);
    scores(n, b, l->q, l->k, p);
    for (int i = 0; i < b->n_q; i++) {
        struct pg_window w = window(b, i);
        struct pg_attend a = n->ops->attend(pg_net_row(p, i, b->ld), &w, scale);
        pg_net_row(l->lse, b->t0 + b->i0 + i, n->h->n_head)[b->head] = a.lse;
        times[i] = a.times;
    }
    mix(n, b, p, l->v, l->att);
    for (int i = 0; i < b->n_q; i++) {
        pg_real *att = pg_net_row(l->att + b->q_at, i, n->n_q);
        n->ops->scale(times[i], att, att, n->h->head_dim);
    }
}

static void attend_block_back(struct pg_net *n, struct pg_net_block *l, const struct block *b,
                              pg_real *p)
{
    pg_real *dp = p + (size_t)b->n_q * (size_t)b->ld;
    scores(n, b, l->q, l->k, p);
    scores(n, b, n->datt, l->v, dp);
    for (int i = 0; i < b->n_q; i++) {
        struct pg_window w = window(b, i);
        size_t at = b->q_at + (size_t)i * (size_t)n->n_q;
        struct pg_attend_back how = {
            .scale = score_scale(n),
            .lse = pg_net_row(l->lse, b->t0 + b->i0 + i, n->h->n_head)[b->head],
            .mean = n->ops->dot(n->datt + at, l->att + at, n->h->head_dim)};
        n->ops->attend_back(pg_net_row(p, i, b->ld), pg_net_row(dp, i, b->ld), &w, &how);
    }
    mix_back(n, b, p, n->datt, n->dv);
    mix(n, b, dp, l->k, n->dq);
    mix_back(n, b, dp, l->q, n->dk);
}

/* Task: one sequence and key head, with the query heads that share it. */
static void attend(void *arg, int task, int thread)
{
    struct pg_net_pass *p = arg;
    struct pg_net *n = p->n;
    int group = n->h->n_head / n->h->n_head_kv, kv_head = task % n->h->n_head_kv;
    pg_real *room = n->room + (size_t)thread * n->room_len;
    pg_net_poll(n, thread);
    for (int i = 0; i < group; i++) {
        for (int i0 = 0; i0 < n->opt.seq_len; i0 += PG_NET_QUERIES) {
            struct block b = block_of(n, task / n->h->n_head_kv, kv_head * group + i, i0);
            attend_block(n, &n->block[p->il], &b, room);
        }
    }
}

static void attend_back(void *arg, int task, int thread)
{
    struct pg_net_pass *p = arg;
    struct pg_net *n = p->n;
    int group = n->h->n_head / n->h->n_head_kv, kv_head = task % n->h->n_head_kv;
    int seq = task / n->h->n_head_kv, dim = n->h->head_dim;
    pg_real *room = n->room + (size_t)thread * n->room_len;
    pg_net_poll(n, thread);
    for (int t = seq * n->opt.seq_len; t < (seq + 1) * n->opt.seq_len; t++) {
        memset(pg_net_row(n->dk, t, n->n_kv) + kv_head * dim, 0, (size_t)dim * sizeof(pg_real));
        memset(pg_net_row(n->dv, t, n->n_kv) + kv_head * dim, 0, (size_t)dim * sizeof(pg_real));
    }
    for (int i = 0; i < group; i++) {
        for (int i0 = 0; i0 < n->opt.seq_len; i0 += PG_NET_QUERIES) {
            struct block b = block_of(n, seq, kv_head * group + i, i0);
            attend_block_back(n, &n->block[p->il], &b, room);
        }
    }
}

/* x1 = x0 + att w^T */
static void put_out(void *arg, int task, int thread)
{
    struct pg_net_pass *p = arg;
    struct pg_net *n = p->n;
    struct pg_net_block *l = &n->block[p->il];
    struct pg_net_span s = pg_net_span(n, task);
    int n_embd = n->h->n_embd;
    size_t at = (size_t)s.t0 * (size_t)n_embd;
    (void)thread;
    memcpy(l->x1 + at, l->x0 + at, (size_t)s.n * (size_t)n_embd * sizeof(pg_real));
    pg_gemm_nt(&(struct pg_gemm){.by = &n->blas,
                                 .m = s.n,
                                 .n = n_embd,
                                 .k = n->n_q,
                                 .a = pg_net_row(l->att, s.t0, n->n_q),
                                 .lda = n->n_q,
                                 .b = pg_net_w(n, p->il, PG_PART_ATTN_OUT),
                                 .ldb = n->n_q,
                                 .beta = 1,
                                 .c = l->x1 + at,
                                 .ldc = n_embd});
}

static void put_out_back(void *arg, int task, int thread)
{
    struct pg_net_pass *p = arg;
    struct pg_net *n = p->n;
    struct pg_net_span s = pg_net_span(n, task);
    (void)thread;
    pg_gemm_nn(&(struct pg_gemm){.by = &n->blas,
                                 .m = s.n,
                                 .n = n->n_q,
                                 .k = n->h->n_embd,
                                 .a = pg_net_row(n->dx, s.t0, n->h->n_embd),
                                 .lda = n->h->n_embd,
                                 .b = pg_net_w(n, p->il, PG_PART_ATTN_OUT),
                                 .ldb = n->n_q,
                                 .c = pg_net_row(n->datt, s.t0, n->n_q),
                                 .ldc = n->n_q});
}

void pg_net_attention(struct pg_net *n, int il)
{
    struct pg_net_pass p = {n, il};
    pg_net_over_spans(n, project, il);
    pg_pool_run(n->opt.pool, attend, &p, n->opt.n_seq * n->h->n_head_kv);
    pg_net_over_spans(n, put_out, il);
}

/* dx: from the derivative of x1 to that of x0. */
void pg_net_attention_back(struct pg_net *n, int il)
{
    struct pg_net_pass p = {n, il};
    const struct pg_net_block *l = &n->block[il];
    int n_embd = n->h->n_embd, n_q = n->n_q, n_kv = n->n_kv, rows = n->n_tok;
    pg_real *g[4];
    struct side x[2];
    for (int i = 0; i < 4; i++)
        g[i] = pg_net_g(n, il, (enum pg_block_part)(PG_PART_Q + i));
    struct pg_net_outer out = {g[3], n->dx, l->att, n_embd, n_q, rows};
    struct pg_net_outer in[3] = {{g[0], n->dq, l->h1, n_q, n_embd, rows},
                                 {g[1], n->dk, l->h1, n_kv, n_embd, rows},
                                 {g[2], n->dv, l->h1, n_kv, n_embd, rows}};
    pg_net_over_spans(n, put_out_back, il);
    pg_net_outers(n, &out, 1);
    pg_pool_run(n->opt.pool, attend_back, &p, n->opt.n_seq * n->h->n_head_kv);
    pg_net_over_spans(n, project_back, il);
    pg_net_outers(n, in, 3);
    sides(n, il, x);
    pg_net_sum_parts(n, n->sums.norm, n_embd, pg_net_g(n, il, PG_PART_ATTN_NORM));
    for (int i = 0; i < 2; i++) {
        if (x[i].norm_len)
            pg_net_sum_parts(n, x[i].gain_at, x[i].norm_len, pg_net_g(n, il, x[i].gain));
        if (pg_net_has(n, il, x[i].bias))
            pg_net_sum_parts(n, x[i].bias_at, x[i].len, pg_net_g(n, il, x[i].bias));
    }
    if (pg_net_has(n, il, PG_PART_V_BIAS))
        pg_net_sum_parts(n, n->sums.v_bias, n_kv, pg_net_g(n, il, PG_PART_V_BIAS));
}
