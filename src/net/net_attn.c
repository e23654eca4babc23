/* SPDX-License-Identifier: MIT
 * x + attention(norm(x)), to the rows before or, in cross attention, to the source; and back.
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
    int half = n->h->n_rot / 2;
    size_t at = (size_t)(t % n->seq_len - n->now->from[t]) * (size_t)half;
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

/* ------------------------------------------------------------------ what there is ----------- */

static const struct parts {
    enum pg_block_part norm, q, k, v, out;
} own_parts = {PG_PART_ATTN_NORM, PG_PART_Q, PG_PART_K, PG_PART_V, PG_PART_ATTN_OUT},
  cross_parts = {PG_PART_CROSS_NORM, PG_PART_CROSS_Q, PG_PART_CROSS_K, PG_PART_CROSS_V,
                 PG_PART_CROSS_OUT};

/* One of a block's attentions, and what a task of it needs. */
struct attention {
    struct pg_net *n;
    int il;
    bool cross;
    struct parts parts;
    struct pg_net_attn *a;
    pg_real *out;           /* [T, n_embd] x and what this adds */
    const pg_real *keys_of; /* [n_keys, n_embd] what keys and values are made of */
    pg_real *dkeys_of;
    int n_keys, key_len;      /* rows of it, and of a sequence's */
    const int32_t *from, *to; /* [T] keys that a query sees, in its sequence */
    pg_real *rel, *drel;      /* as in struct pg_net_stack, or NULL */
};

static struct attention attention_of(struct pg_net *n, int il)
{
    struct pg_net_block *l = &n->block[il];
    return (struct attention){.n = n,
                              .il = il,
                              .parts = own_parts,
                              .a = &l->self,
                              .out = l->cross.x ? l->cross.x : l->x1,
                              .keys_of = l->self.h,
                              .dkeys_of = n->dh,
                              .n_keys = n->n_tok,
                              .key_len = n->seq_len,
                              .from = n->now->from,
                              .to = n->now->to,
                              .rel = n->now->rel,
                              .drel = n->now->drel};
}

static struct attention cross_attention_of(struct pg_net *n, int il)
{
    struct pg_net_block *l = &n->block[il];
    return (struct attention){.n = n,
                              .il = il,
                              .cross = true,
                              .parts = cross_parts,
                              .a = &l->cross,
                              .out = l->x1,
                              .keys_of = n->stack[0].h_end,
                              .dkeys_of = n->dsource,
                              .n_keys = n->stack[0].n_tok,
                              .key_len = n->stack[0].seq_len,
                              .from = n->source_from,
                              .to = n->source_to};
}

static void over_rows(struct attention *x, pg_task_fn *fn)
{
    pg_pool_run(x->n->opt.pool, fn, x, x->n->n_spans);
}

static void over_keys(struct attention *x, pg_task_fn *fn)
{
    pg_pool_run(x->n->opt.pool, fn, x, (x->n_keys + PG_NET_ROWS - 1) / PG_NET_ROWS);
}

/* Queries, or keys: their norm (over each head or the whole row), then their rotation. In cross
 * attention they have neither, nor a bias. */
struct side {
    pg_real *raw, *s, *v, *d; /* d: derivative, on the way back */
    int len, norm_len, n_head;
    enum pg_block_part gain, bias; /* PG_N_PARTS: there is none */
    size_t gain_at, bias_at;       /* in a span's sums */
};

static struct side queries_of(const struct attention *x)
{
    const struct pg_net *n = x->n;
    const enum pg_block_part bias = x->cross ? PG_N_PARTS : PG_PART_Q_BIAS;
    return (struct side){x->a->q_raw, x->a->q_s,      x->a->q,       n->dq,
                         n->n_q,      n->q_norm_len,  n->h->n_head,  PG_PART_Q_NORM,
                         bias,        n->sums.q_norm, n->sums.q_bias};
}

static struct side keys_of(const struct attention *x)
{
    const struct pg_net *n = x->n;
    const enum pg_block_part bias = x->cross ? PG_N_PARTS : PG_PART_K_BIAS;
    return (struct side){x->a->k_raw, x->a->k_s,      x->a->k,         n->dk,
                         n->n_kv,     n->k_norm_len,  n->h->n_head_kv, PG_PART_K_NORM,
                         bias,        n->sums.k_norm, n->sums.k_bias};
}

static bool has(const struct attention *x, enum pg_block_part part)
{
    return part != PG_N_PARTS && pg_net_has(x->n, x->il, part);
}

/* ------------------------------------------------------------------ queries, keys, values --- */

/* y = in w^T + bias, of the span's rows. */
struct linear {
    enum pg_block_part part, bias;
    const pg_real *in; /* [.., n_embd] */
    pg_real *y;        /* [.., len] */
    int len;
};

static void linear(const struct attention *x, const struct pg_net_span *s, const struct linear *l)
{
    const struct pg_net *n = x->n;
    int n_embd = n->h->n_embd;
    pg_gemm_nt(&(struct pg_gemm){.by = &n->blas,
                                 .m = s->n,
                                 .n = l->len,
                                 .k = n_embd,
                                 .a = l->in + (size_t)s->t0 * (size_t)n_embd,
                                 .lda = n_embd,
                                 .b = pg_net_w(n, x->il, l->part),
                                 .ldb = n_embd,
                                 .c = pg_net_row(l->y, s->t0, l->len),
                                 .ldc = l->len});
    for (int t = s->t0; has(x, l->bias) && t < s->t0 + s->n; t++)
        n->ops->add(pg_net_w(n, x->il, l->bias), pg_net_row(l->y, t, l->len), l->len);
}

/* din (+)= dy w */
static void linear_back(const struct attention *x, const struct pg_net_span *s,
                        const struct linear *l, pg_real *din, pg_real beta)
{
    const struct pg_net *n = x->n;
    int n_embd = n->h->n_embd;
    pg_gemm_nn(&(struct pg_gemm){.by = &n->blas,
                                 .m = s->n,
                                 .n = n_embd,
                                 .k = l->len,
                                 .a = pg_net_row(l->y, s->t0, l->len),
                                 .lda = l->len,
                                 .b = pg_net_w(n, x->il, l->part),
                                 .ldb = n_embd,
                                 .beta = beta,
                                 .c = pg_net_row(din, s->t0, n_embd),
                                 .ldc = n_embd});
}

static void norm_and_rotate(const struct attention *x, const struct side *side, int t)
{
    const struct pg_net *n = x->n;
    pg_real *v = pg_net_row(side->v, t, side->len);
    const pg_real *gain = side->norm_len ? pg_net_w(n, x->il, side->gain) : NULL;
    int norms = side->norm_len ? side->len / side->norm_len : 0;
    for (int i = 0; i < norms; i++) {
        pg_net_row(side->s, t, norms)[i] =
            n->ops->norm(pg_net_row(side->raw, t, side->len) + i * side->norm_len, gain, n->eps,
                         v + i * side->norm_len, side->norm_len);
    }
    if (n->h->n_rot)
        rotate(n, t, v, side->n_head, 1);
}

static void project_queries(void *arg, int task, int thread)
{
    const struct attention *x = arg;
    struct pg_net *n = x->n;
    struct pg_net_span s = pg_net_span(n, task);
    const struct side q = queries_of(x);
    int n_embd = n->h->n_embd;
    (void)thread;
    for (int t = s.t0; t < s.t0 + s.n; t++) {
        x->a->s[t] = n->ops->norm(pg_net_row(x->a->x, t, n_embd), pg_net_w(n, x->il, x->parts.norm),
                                  n->eps, pg_net_row(x->a->h, t, n_embd), n_embd);
    }
    linear(x, &s, &(struct linear){x->parts.q, q.bias, x->a->h, q.norm_len ? q.raw : q.v, n->n_q});
    for (int t = s.t0; t < s.t0 + s.n; t++)
        norm_and_rotate(x, &q, t);
}

static void project_keys(void *arg, int task, int thread)
{
    const struct attention *x = arg;
    struct pg_net *n = x->n;
    struct pg_net_span s = pg_net_span_of(n, x->n_keys, task);
    const struct side k = keys_of(x);
    const enum pg_block_part v_bias = x->cross ? PG_N_PARTS : PG_PART_V_BIAS;
    (void)thread;
    linear(x, &s,
           &(struct linear){x->parts.k, k.bias, x->keys_of, k.norm_len ? k.raw : k.v, n->n_kv});
    linear(x, &s, &(struct linear){x->parts.v, v_bias, x->keys_of, x->a->v, n->n_kv});
    for (int t = s.t0; t < s.t0 + s.n; t++)
        norm_and_rotate(x, &k, t);
}

/* From the derivative of the rotated to that of the raw, in place. */
static void norm_and_rotate_back(const struct attention *x, const struct side *side, int t,
                                 pg_real *part)
{
    const struct pg_net *n = x->n;
    pg_real *d = pg_net_row(side->d, t, side->len);
    const pg_real *gain = side->norm_len ? pg_net_w(n, x->il, side->gain) : NULL;
    int norms = side->norm_len ? side->len / side->norm_len : 0;
    if (n->h->n_rot)
        rotate(n, t, d, side->n_head, -1);
    for (int i = 0; i < norms; i++) {
        pg_real *di = d + i * side->norm_len;
        struct pg_norm_back b = {.x = pg_net_row(side->raw, t, side->len) + i * side->norm_len,
                                 .gain = gain,
                                 .dy = di,
                                 .s = pg_net_row(side->s, t, norms)[i],
                                 .dx = di,
                                 .dgain = part + side->gain_at};
        n->ops->norm_back(&b, side->norm_len);
    }
    if (has(x, side->bias))
        n->ops->add(d, part + side->bias_at, side->len);
}

/* dh: what the queries bring. */
static void project_queries_back(void *arg, int task, int thread)
{
    const struct attention *x = arg;
    struct pg_net *n = x->n;
    struct pg_net_span s = pg_net_span(n, task);
    const struct side q = queries_of(x);
    (void)thread;
    memset(s.part, 0, n->sums.n * sizeof(pg_real));
    for (int t = s.t0; t < s.t0 + s.n; t++)
        norm_and_rotate_back(x, &q, t, s.part);
    linear_back(x, &s, &(struct linear){.part = x->parts.q, .y = n->dq, .len = n->n_q}, n->dh, 0);
}

/* The derivative of what keys and values are made of += what they bring. In cross attention nothing
 * is summed over a span's rows. */
static void project_keys_back(void *arg, int task, int thread)
{
    const struct attention *x = arg;
    struct pg_net *n = x->n;
    struct pg_net_span s = pg_net_span_of(n, x->n_keys, task);
    const struct side k = keys_of(x);
    (void)thread;
    for (int t = s.t0; t < s.t0 + s.n; t++) {
        norm_and_rotate_back(x, &k, t, s.part);
        if (!x->cross && pg_net_has(n, x->il, PG_PART_V_BIAS))
            n->ops->add(pg_net_row(n->dv, t, n->n_kv), s.part + n->sums.v_bias, n->n_kv);
    }
    linear_back(x, &s, &(struct linear){.part = x->parts.k, .y = n->dk, .len = n->n_kv},
                x->dkeys_of, 1);
    linear_back(x, &s, &(struct linear){.part = x->parts.v, .y = n->dv, .len = n->n_kv},
                x->dkeys_of, 1);
}

static void norm_back(void *arg, int task, int thread)
{
    const struct attention *x = arg;
    struct pg_net *n = x->n;
    struct pg_net_span s = pg_net_span(n, task);
    int n_embd = n->h->n_embd;
    (void)thread;
    for (int t = s.t0; t < s.t0 + s.n; t++) {
        pg_real *dx = pg_net_row(n->dx, t, n_embd);
        struct pg_norm_back b = {.x = pg_net_row(x->a->x, t, n_embd),
                                 .gain = pg_net_w(n, x->il, x->parts.norm),
                                 .dy = pg_net_row(n->dh, t, n_embd),
                                 .add = dx,
                                 .s = x->a->s[t],
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
    size_t q_at, k_at;    /* values from the start of q and of k to theirs */
    int head, seq, t0;    /* the sequence, and its first token */
};

static struct block block_of(const struct attention *x, int seq, int head, int i0)
{
    const struct pg_net *n = x->n;
    int dim = n->h->head_dim, kv_head = head / (n->h->n_head / n->h->n_head_kv);
    struct block b = {
        .i0 = i0, .n_q = PG_MIN(PG_NET_QUERIES, n->seq_len - i0), .head = head, .seq = seq};
    b.t0 = seq * n->seq_len;
    b.j0 = x->from[b.t0 + i0];
    b.n_k = x->to[b.t0 + i0 + b.n_q - 1] - b.j0;
    b.ld = (b.n_k + PG_ROW_STEP - 1) / PG_ROW_STEP * PG_ROW_STEP;
    b.q_at = (size_t)(b.t0 + i0) * (size_t)n->n_q + (size_t)(head * dim);
    b.k_at = (size_t)(seq * x->key_len + b.j0) * (size_t)n->n_kv + (size_t)(kv_head * dim);
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

/* What the distances from query i to the block's keys add to its scores, or their derivative. */
static pg_real *apart(const struct attention *x, const struct block *b, int i, pg_real *of)
{
    const int most = x->n->seq_len - 1;
    return pg_net_row(of, b->head, 2 * most + 1) + (most - (b->i0 + i) + b->j0);
}

/* Scores with what positions say. */
static void scores_apart(const struct attention *x, const struct block *b, pg_real *c)
{
    const struct pg_net *n = x->n;
    scores(n, b, x->a->q, x->a->k, c);
    for (int i = 0; x->rel && i < b->n_q; i++)
        n->ops->add(apart(x, b, i, x->rel), pg_net_row(c, i, b->ld), b->n_k);
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
static struct pg_window window(const struct attention *x, const struct block *b, int i)
{
    int t = b->t0 + b->i0 + i;
    return (struct pg_window){x->from[t] - b->j0, x->to[t] - b->j0, b->ld};
}

static void attend_block(const struct attention *x, const struct block *b, pg_real *p)
{
    struct pg_net *n = x->n;
    pg_real times[PG_NET_QUERIES];
    scores_apart(x, b, p);
    for (int i = 0; i < b->n_q; i++) {
        struct pg_window w = window(x, b, i);
        struct pg_attend a = n->ops->attend(pg_net_row(p, i, b->ld), &w, n->attn_scale);
        pg_net_row(x->a->lse, b->t0 + b->i0 + i, n->h->n_head)[b->head] = a.lse;
        times[i] = a.times;
    }
    mix(n, b, p, x->a->v, x->a->att);
    for (int i = 0; i < b->n_q; i++) {
        pg_real *att = pg_net_row(x->a->att + b->q_at, i, n->n_q);
        n->ops->scale(times[i], att, att, n->h->head_dim);
    }
}

static void attend_block_back(const struct attention *x, const struct block *b, pg_real *p)
{
    struct pg_net *n = x->n;
    pg_real *dp = p + (size_t)b->n_q * (size_t)b->ld;
    scores_apart(x, b, p);
    scores(n, b, n->datt, x->a->v, dp);
    for (int i = 0; i < b->n_q; i++) {
        struct pg_window w = window(x, b, i);
        size_t at = b->q_at + (size_t)i * (size_t)n->n_q;
        struct pg_attend_back how = {
            .scale = n->attn_scale,
            .lse = pg_net_row(x->a->lse, b->t0 + b->i0 + i, n->h->n_head)[b->head],
            .mean = n->ops->dot(n->datt + at, x->a->att + at, n->h->head_dim)};
        n->ops->attend_back(pg_net_row(p, i, b->ld), pg_net_row(dp, i, b->ld), &w, &how);
    }
    for (int i = 0; x->drel && i < b->n_q; i++) {
        pg_real *of_row = pg_net_row(x->drel, b->seq * n->h->n_head, 2 * n->seq_len - 1);
        n->ops->add(pg_net_row(dp, i, b->ld), apart(x, b, i, of_row), b->n_k);
    }
    mix_back(n, b, p, n->datt, n->dv);
    mix(n, b, dp, x->a->k, n->dq);
    mix_back(n, b, dp, x->a->q, n->dk);
}

/* Task: one sequence and key head, with the query heads that share it. */
static void attend(void *arg, int task, int thread)
{
    const struct attention *x = arg;
    struct pg_net *n = x->n;
    int group = n->h->n_head / n->h->n_head_kv, kv_head = task % n->h->n_head_kv;
    pg_real *room = n->room + (size_t)thread * n->room_len;
    pg_net_poll(n, thread);
    for (int i = 0; i < group; i++) {
        for (int i0 = 0; i0 < n->seq_len; i0 += PG_NET_QUERIES) {
            struct block b = block_of(x, task / n->h->n_head_kv, kv_head * group + i, i0);
            attend_block(x, &b, room);
        }
    }
}

static void attend_back(void *arg, int task, int thread)
{
    const struct attention *x = arg;
    struct pg_net *n = x->n;
    int group = n->h->n_head / n->h->n_head_kv, kv_head = task % n->h->n_head_kv;
    int seq = task / n->h->n_head_kv, dim = n->h->head_dim;
    pg_real *room = n->room + (size_t)thread * n->room_len;
    pg_net_poll(n, thread);
    for (int t = seq * x->key_len; t < (seq + 1) * x->key_len; t++) {
        memset(pg_net_row(n->dk, t, n->n_kv) + kv_head * dim, 0, (size_t)dim * sizeof(pg_real));
        memset(pg_net_row(n->dv, t, n->n_kv) + kv_head * dim, 0, (size_t)dim * sizeof(pg_real));
    }
    for (int i = 0; i < group; i++) {
        for (int i0 = 0; i0 < n->seq_len; i0 += PG_NET_QUERIES) {
            struct block b = block_of(x, seq, kv_head * group + i, i0);
            attend_block_back(x, &b, room);
        }
    }
}

static enum pg_net_drop dropped(const struct attention *x)
{
    return x->cross ? PG_DROP_CROSS : PG_DROP_SELF;
}

/* out = x + att w^T */
static void put_out(void *arg, int task, int thread)
{
    const struct attention *x = arg;
    struct pg_net *n = x->n;
    struct pg_net_span s = pg_net_span(n, task);
    int n_embd = n->h->n_embd;
    size_t at = (size_t)s.t0 * (size_t)n_embd;
    (void)thread;
    pg_net_begin_add(n, x->a->x + at, x->out + at, (size_t)s.n * (size_t)n_embd);
    pg_gemm_nt(&(struct pg_gemm){.by = &n->blas,
                                 .m = s.n,
                                 .n = n_embd,
                                 .k = n->n_q,
                                 .a = pg_net_row(x->a->att, s.t0, n->n_q),
                                 .lda = n->n_q,
                                 .b = pg_net_w(n, x->il, x->parts.out),
                                 .ldb = n->n_q,
                                 .beta = 1,
                                 .c = x->out + at,
                                 .ldc = n_embd});
    pg_net_end_add(n, x->il, dropped(x), &s, x->a->x, x->out);
}

static void put_out_back(void *arg, int task, int thread)
{
    const struct attention *x = arg;
    struct pg_net *n = x->n;
    struct pg_net_span s = pg_net_span(n, task);
    (void)thread;
    pg_gemm_nn(&(struct pg_gemm){.by = &n->blas,
                                 .m = s.n,
                                 .n = n->n_q,
                                 .k = n->h->n_embd,
                                 .a = pg_net_row(n->dy, s.t0, n->h->n_embd),
                                 .lda = n->h->n_embd,
                                 .b = pg_net_w(n, x->il, x->parts.out),
                                 .ldb = n->n_q,
                                 .c = pg_net_row(n->datt, s.t0, n->n_q),
                                 .ldc = n->n_q});
}

static void forward(struct attention *x)
{
    struct pg_net *n = x->n;
    over_rows(x, project_queries);
    over_keys(x, project_keys);
    pg_pool_run(n->opt.pool, attend, x, n->opt.n_seq * n->h->n_head_kv);
    over_rows(x, put_out);
}

void pg_net_attention(struct pg_net *n, int il)
{
    struct attention own = attention_of(n, il), cross = cross_attention_of(n, il);
    forward(&own);
    if (cross.a->x)
        forward(&cross);
}

static void sum_side(const struct attention *x, const struct side *side)
{
    struct pg_net *n = x->n;
    if (side->norm_len)
        pg_net_sum_parts(n, side->gain_at, side->norm_len, pg_net_g(n, x->il, side->gain));
    if (has(x, side->bias))
        pg_net_sum_parts(n, side->bias_at, side->len, pg_net_g(n, x->il, side->bias));
}

/* dx: from the derivative of what came out to that of the input. */
static void backward(struct attention *x)
{
    struct pg_net *n = x->n;
    const struct side q = queries_of(x), k = keys_of(x);
    const int n_embd = n->h->n_embd, n_q = n->n_q, n_kv = n->n_kv, rows = n->n_tok;
    struct pg_net_outer out = {
        pg_net_g(n, x->il, x->parts.out), n->dy, x->a->att, n_embd, n_q, rows};
    struct pg_net_outer in[3] = {
        {pg_net_g(n, x->il, x->parts.q), n->dq, x->a->h, n_q, n_embd, rows},
        {pg_net_g(n, x->il, x->parts.k), n->dk, x->keys_of, n_kv, n_embd, x->n_keys},
        {pg_net_g(n, x->il, x->parts.v), n->dv, x->keys_of, n_kv, n_embd, x->n_keys}};
    pg_net_drop_back(n, x->il, dropped(x));
    over_rows(x, put_out_back);
    pg_net_outers(n, &out, 1);
    pg_pool_run(n->opt.pool, attend_back, x, n->opt.n_seq * n->h->n_head_kv);
    over_rows(x, project_queries_back);
    over_keys(x, project_keys_back);
    over_rows(x, norm_back);
    pg_net_outers(n, in, 3);
    pg_net_sum_parts(n, n->sums.norm, n_embd, pg_net_g(n, x->il, x->parts.norm));
    sum_side(x, &q);
    sum_side(x, &k);
    if (!x->cross && pg_net_has(n, x->il, PG_PART_V_BIAS))
        pg_net_sum_parts(n, n->sums.v_bias, n_kv, pg_net_g(n, x->il, PG_PART_V_BIAS));
}

void pg_net_attention_back(struct pg_net *n, int il)
{
    struct attention own = attention_of(n, il), cross = cross_attention_of(n, il);
    if (cross.a->x)
        backward(&cross);
    backward(&own);
}
