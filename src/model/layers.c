/* SPDX-License-Identifier: MIT
 * The pieces that a block is made of. Each works on all rows of the step; a row's result depends on
 * its own row, its own session's cache and nothing else.
 */
#include "base/os.h"
#include "model/forward.h"

#include <math.h>
#include <string.h>

/* ------------------------------------------------------------------ norms and rotation ------ */

/* Called between parallel loops: reads that are done make room for the next. */
static void poll_reads(struct pg_forward *f)
{
    if (f->opt.store)
        pg_store_poll(f->opt.store);
}

struct norm_rows {
    struct pg_forward *f;
    const float *gain;
};

static void norm_row(void *arg, int t, int thread)
{
    struct norm_rows *r = arg;
    struct pg_forward *f = r->f;
    int n = f->model->h.n_embd;
    (void)thread;
    f->c->k.rms_norm(f->x + (size_t)t * (size_t)n, r->gain, f->model->h.rms_eps,
                     f->h + (size_t)t * (size_t)n, n);
}

static void norm_rows_of(struct pg_forward *f, const struct pg_weight *gain)
{
    struct norm_rows r = {f, gain->data};
    pg_rows(f->c, norm_row, &r, f->n_tok);
    pg_input_set(&f->in_h, f->h, f->model->h.n_embd, f->n_tok);
}

static void add_bias(struct pg_forward *f, const struct pg_weight *bias, float *y)
{
    for (int t = 0; bias->data && t < f->n_tok; t++)
        f->c->k.add(bias->data, y + (size_t)t * (size_t)bias->n_in, bias->n_in);
}

static void qkv(struct pg_forward *f, const struct pg_layer *w)
{
    struct pg_product p[] = {
        pg_product(f->c, &w->attn_q, &f->in_h, f->q),
        pg_product(f->c, &w->attn_k, &f->in_h, f->k),
        pg_product(f->c, &w->attn_v, &f->in_h, f->v),
    };
    poll_reads(f);
    pg_products(f->c, p, 3);
    poll_reads(f);
    add_bias(f, &w->attn_q_bias, f->q);
    add_bias(f, &w->attn_k_bias, f->k);
    add_bias(f, &w->attn_v_bias, f->v);
}

struct qk_rows {
    struct pg_forward *f;
    const struct pg_layer *w;
};

/* One row of n_head heads: the gain covers a head, or the whole row. */
static void norm_heads(struct pg_forward *f, const struct pg_weight *gain, float *row, int n_head)
{
    int n = gain->n_in, n_row = n_head * f->model->h.head_dim;
    for (int i = 0; i < n_row; i += n)
        f->c->k.rms_norm(row + i, gain->data, f->model->h.rms_eps, row + i, n);
}

static void qk_norm_row(void *arg, int t, int thread)
{
    struct qk_rows *r = arg;
    const struct pg_hparams *h = &r->f->model->h;
    (void)thread;
    norm_heads(r->f, &r->w->attn_q_norm, r->f->q + (size_t)t * (size_t)(h->n_head * h->head_dim),
               h->n_head);
    norm_heads(r->f, &r->w->attn_k_norm, r->f->k + (size_t)t * (size_t)(h->n_head_kv * h->head_dim),
               h->n_head_kv);
}

static void qk_norm(struct pg_forward *f, const struct pg_layer *w)
{
    struct qk_rows r = {.f = f, .w = w};
    pg_rows(f->c, qk_norm_row, &r, f->n_tok);
}

static void rotate(float *head, const float *cosines, const float *sines, int n_rot,
                   enum pg_rope_kind kind)
{
    int half = n_rot / 2;
    int step = kind == PG_ROPE_PAIRS ? 2 : 1, other = kind == PG_ROPE_PAIRS ? 1 : half;
    for (int i = 0; i < half; i++) {
        float *a = head + i * step, *b = a + other;
        float x = *a, y = *b;
        *a = x * cosines[i] - y * sines[i];
        *b = x * sines[i] + y * cosines[i];
    }
}

static void rope_row(void *arg, int t, int thread)
{
    struct qk_rows *r = arg;
    struct pg_forward *f = r->f;
    const struct pg_hparams *h = &f->model->h;
    const float *cosines = f->rope_cos + (size_t)t * (size_t)(h->n_rot / 2);
    const float *sines = f->rope_sin + (size_t)t * (size_t)(h->n_rot / 2);
    float *q = f->q + (size_t)t * (size_t)(h->n_head * h->head_dim);
    float *k = f->k + (size_t)t * (size_t)(h->n_head_kv * h->head_dim);
    (void)thread;
    for (int i = 0; i < h->n_head; i++)
        rotate(q + i * h->head_dim, cosines, sines, h->n_rot, h->rope);
    for (int i = 0; i < h->n_head_kv; i++)
        rotate(k + i * h->head_dim, cosines, sines, h->n_rot, h->rope);
}

static void rope(struct pg_forward *f)
{
    struct qk_rows r = {.f = f};
    pg_rows(f->c, rope_row, &r, f->n_tok);
}

/* ------------------------------------------------------------------ attention --------------- */

struct attention {
    struct pg_forward *f;
    int il;
};

static void append_row(void *arg, int t, int thread)
{
    struct attention *a = arg;
    struct pg_forward *f = a->f;
    const struct pg_hparams *h = &f->model->h;
    const struct pg_kv *kv = f->kv[t];
    size_t dim = (size_t)h->head_dim;
    (void)thread;
    for (int head = 0; head < h->n_head_kv; head++) {
        void *keys = pg_kv_k(kv, a->il, head, f->pos[t]);
        void *values = pg_kv_v(kv, a->il, head, f->pos[t]);
        const float *k = f->k + ((size_t)t * (size_t)h->n_head_kv + (size_t)head) * dim;
        const float *v = f->v + ((size_t)t * (size_t)h->n_head_kv + (size_t)head) * dim;
        if (kv->shape.type == PG_KV_F32) {
            memcpy(keys, k, dim * sizeof(float));
            memcpy(values, v, dim * sizeof(float));
        } else {
            f->c->k.to_f16(k, keys, h->head_dim);
            f->c->k.to_f16(v, values, h->head_dim);
        }
    }
}

/* One head of one row: out = softmax(q · K / sqrt(dim)) V over n positions. */
struct head {
    const float *q;
    const void *keys, *values; /* [n, dim] in the cache's type */
    float *score, *out;        /* [n], [dim] */
    int n, dim;
};

static void attend_f32(const struct pg_kernels *k, const struct head *h)
{
    const float *keys = h->keys, *values = h->values;
    float scale = 1.0f / sqrtf((float)h->dim);
    for (int j = 0; j < h->n; j++)
        h->score[j] = k->dot(keys + (size_t)j * (size_t)h->dim, h->q, h->dim) * scale;
    k->softmax(h->score, h->n);
    memset(h->out, 0, (size_t)h->dim * sizeof(float));
    for (int j = 0; j < h->n; j++)
        k->axpy(h->score[j], values + (size_t)j * (size_t)h->dim, h->out, h->dim);
}

static void attend_f16(const struct pg_kernels *k, const struct head *h)
{
    const uint16_t *keys = h->keys, *values = h->values;
    float scale = 1.0f / sqrtf((float)h->dim);
    for (int j = 0; j < h->n; j++)
        h->score[j] = k->dot_f16(keys + (size_t)j * (size_t)h->dim, h->q, h->dim) * scale;
    k->softmax(h->score, h->n);
    memset(h->out, 0, (size_t)h->dim * sizeof(float));
    for (int j = 0; j < h->n; j++)
        k->axpy_f16(h->score[j], values + (size_t)j * (size_t)h->dim, h->out, h->dim);
}

/* Task: one head of one row, over the positions up to the row's own. */
static void attend(void *arg, int task, int thread)
{
    struct attention *a = arg;
    struct pg_forward *f = a->f;
    const struct pg_hparams *hp = &f->model->h;
    int t = task / hp->n_head, head = task % hp->n_head;
    const struct pg_kv *kv = f->kv[t];
    int head_kv = head / (hp->n_head / hp->n_head_kv);
    struct head h = {
        .q = f->q + (size_t)task * (size_t)hp->head_dim,
        .keys = pg_kv_k(kv, a->il, head_kv, 0),
        .values = pg_kv_v(kv, a->il, head_kv, 0),
        .score = f->score + (size_t)thread * (size_t)f->opt.n_ctx,
        .out = f->att + (size_t)task * (size_t)hp->head_dim,
        .n = f->pos[t] + 1,
        .dim = hp->head_dim,
    };
    PG_ASSERT(h.n <= kv->layer[a->il].n_rows); /* a window's ring would need two runs */
    (kv->shape.type == PG_KV_F32 ? attend_f32 : attend_f16)(&f->c->k, &h);
}

/* x += proj */
static void add_proj_row(void *arg, int t, int thread)
{
    struct pg_forward *f = arg;
    int n = f->model->h.n_embd;
    (void)thread;
    f->c->k.add(f->proj + (size_t)t * (size_t)n, f->x + (size_t)t * (size_t)n, n);
}

static void attend_all(struct pg_forward *f, int il)
{
    const struct pg_hparams *h = &f->model->h;
    struct attention a = {f, il};
    uint64_t begin = f->opt.trace ? pg_now_ns() : 0;
    pg_rows(f->c, append_row, &a, f->n_tok);
    pg_pool_run(f->c->pool, attend, &a, f->n_tok * h->n_head);
    poll_reads(f);
    pg_input_set(&f->in_att, f->att, h->n_head * h->head_dim, f->n_tok);
    pg_linear(f->c, &f->model->layer[il].attn_output, &f->in_att, f->proj);
    pg_rows(f->c, add_proj_row, f, f->n_tok);
    poll_reads(f);
    if (f->opt.trace)
        pg_trace_add(f->opt.trace, PG_TRACK_COMPUTE, "attention", begin, pg_now_ns(), il, -1);
}

/* ------------------------------------------------------------------ feed-forward ------------ */

struct silu_rows {
    struct pg_forward *f;
    int n_ff;
};

static void silu_row(void *arg, int row, int thread)
{
    struct silu_rows *r = arg;
    size_t at = (size_t)row * (size_t)r->n_ff;
    (void)thread;
    r->f->c->k.silu_mul(r->f->gate_ff + at, r->f->up_ff + at, r->f->gate_ff + at, r->n_ff);
}

/* gate_ff = silu(gate_ff) * up_ff for n_rows rows, and the input of what follows. */
static void silu_mul_rows(struct pg_forward *f, int n_ff, int n_rows)
{
    struct silu_rows r = {f, n_ff};
    pg_rows(f->c, silu_row, &r, n_rows);
    pg_input_set(&f->in_ff, f->gate_ff, n_ff, n_rows);
}

/* proj = down(silu(gate h) * up h) */
static void ffn(struct pg_forward *f, const struct pg_weight *gate, const struct pg_weight *up,
                const struct pg_weight *down)
{
    struct pg_product p[] = {
        pg_product(f->c, gate, &f->in_h, f->gate_ff),
        pg_product(f->c, up, &f->in_h, f->up_ff),
    };
    pg_products(f->c, p, 2);
    silu_mul_rows(f, gate->n_out, f->n_tok);
    pg_linear(f->c, down, &f->in_ff, f->proj);
}

static void dense_ffn(struct pg_forward *f, const struct pg_layer *w)
{
    ffn(f, &w->ffn_gate, &w->ffn_up, &w->ffn_down);
    pg_rows(f->c, add_proj_row, f, f->n_tok);
}

/* ------------------------------------------------------------------ experts ----------------- */

/* Sorts the (token, rank) pairs of a route by expert. */
static void sort_by_expert(struct pg_forward *f, const struct pg_route *route)
{
    int n_used = f->model->h.n_expert_used, n_expert = f->model->h.n_expert;
    int n_pairs = f->n_tok * n_used, row = 0;
    memset(f->count, 0, (size_t)n_expert * sizeof(f->count[0]));
    for (int i = 0; i < n_pairs; i++) {
        PG_ASSERT(route->id[i] >= 0 && route->id[i] < n_expert);
        f->count[route->id[i]]++;
    }
    f->n_wanted = 0;
    for (int e = 0; e < n_expert; e++) {
        int n = f->count[e];
        if (n) {
            f->wanted[f->n_wanted] = e;
            f->first[f->n_wanted++] = row;
            f->count[e] = row;
            row += n;
        }
    }
    f->first[f->n_wanted] = row;
    for (int i = 0; i < n_pairs; i++) {
        int at = f->count[route->id[i]]++;
        f->token_of[at] = i / n_used;
        f->row_of[i] = at;
    }
}

/* A product of one expert's matrix with n_tok rows of the input. */
static struct pg_product expert_product(struct pg_forward *f, const struct pg_weight *w,
                                        const void *data, struct pg_input *in, float *y)
{
    struct pg_weight here = *w;
    here.data = data;
    return pg_product(f->c, &here, in, y);
}

/* The experts of `n` leases, whose tokens are at most max_rows together, in three parallel loops.
 */
static void compute_group(struct pg_forward *f, const struct pg_layer *w, int n)
{
    int n_ff = f->model->h.n_ff_exp, n_embd = f->model->h.n_embd, row = 0;
    for (int i = 0; i < n; i++) {
        const struct pg_lease *l = &f->lease[i];
        int first = f->first[l->index], n_tok = f->first[l->index + 1] - first;
        struct pg_product *p = &f->product[2 * i];
        float *y[2] = {f->gate_ff + (size_t)row * (size_t)n_ff,
                       f->up_ff + (size_t)row * (size_t)n_ff};
        for (int j = 0; j < 2; j++) {
            p[j] = expert_product(f, &w->exps[j], l->slab[j], &f->in_h, y[j]);
            p[j].m.x_row = f->token_of + first;
            p[j].m.n_tok = n_tok;
        }
        row += n_tok;
    }
    pg_products(f->c, f->product, 2 * n);
    poll_reads(f);
    silu_mul_rows(f, n_ff, row);
    row = 0;
    for (int i = 0; i < n; i++) {
        const struct pg_lease *l = &f->lease[i];
        int first = f->first[l->index], n_tok = f->first[l->index + 1] - first;
        struct pg_product *p = &f->product[i];
        *p = expert_product(f, &w->exps[2], l->slab[2], &f->in_ff,
                            f->y + (size_t)first * (size_t)n_embd);
        p->m.x_row = f->iota + row;
        p->m.n_tok = n_tok;
        row += n_tok;
    }
    pg_products(f->c, f->product, n);
}

static int lease_rows(const struct pg_forward *f, const struct pg_lease *l)
{
    return f->first[l->index + 1] - f->first[l->index];
}

/* Takes leases while experts are there and their rows fit together; waits for the first one only.
 * One that no longer fits is kept back for the next group. Returns the number, or an error. */
struct gathering {
    struct pg_lease spare;
    bool has_spare;
};

static int gather_group(struct pg_forward *f, struct gathering *g)
{
    int n = 0, rows = 0, rc;
    if (g->has_spare) {
        f->lease[n++] = g->spare;
        rows = lease_rows(f, &g->spare);
        g->has_spare = false;
    }
    while (n < f->max_group && (n == 0 || pg_store_n_ready(f->opt.store) > 0)) {
        struct pg_lease l;
        rc = pg_store_next(f->opt.store, &l, f->err);
        if (rc <= 0)
            return rc < 0 ? rc : n;
        if (n && rows + lease_rows(f, &l) > f->max_rows) {
            g->spare = l;
            g->has_spare = true;
            break;
        }
        f->lease[n++] = l;
        rows += lease_rows(f, &l);
    }
    return n;
}

struct combine {
    struct pg_forward *f;
    const struct pg_route *route;
};

/* x += sum over ranks of weight * y, in the order of the route. */
static void combine_row(void *arg, int t, int thread)
{
    struct combine *c = arg;
    struct pg_forward *f = c->f;
    int n_used = f->model->h.n_expert_used, n = f->model->h.n_embd;
    (void)thread;
    for (int i = t * n_used; i < (t + 1) * n_used; i++) {
        f->c->k.axpy(c->route->weight[i], f->y + (size_t)f->row_of[i] * (size_t)n,
                     f->x + (size_t)t * (size_t)n, n);
    }
}

/* x += sigmoid(g · h) * shared(h) */
static void add_shared(struct pg_forward *f, const struct pg_layer *w)
{
    int n = f->model->h.n_embd;
    for (int t = 0; t < f->n_tok; t++) {
        size_t at = (size_t)t * (size_t)n;
        float s = f->c->k.dot(w->ffn_gate_inp_shexp.data, f->h + at, n);
        f->c->k.axpy(1.0f / (1.0f + pg_expf(-s)), f->proj + at, f->x + at, n);
    }
}

static int run_experts(struct pg_forward *f, int il)
{
    const struct pg_layer *w = &f->model->layer[il];
    struct gathering g = {.has_spare = false};
    int n;
    while ((n = gather_group(f, &g)) > 0) {
        uint64_t begin = f->opt.trace ? pg_now_ns() : 0;
        compute_group(f, w, n);
        for (int i = 0; i < n; i++)
            pg_store_release(f->opt.store, &f->lease[i]);
        if (f->opt.trace) {
            pg_trace_add(f->opt.trace, PG_TRACK_COMPUTE, "experts", begin, pg_now_ns(), il,
                         n == 1 ? f->lease[0].expert : -1);
        }
    }
    return n;
}

static int moe(struct pg_forward *f, int il)
{
    const struct pg_layer *w = &f->model->layer[il];
    const struct pg_route *route;
    PG_TRY(pg_gate_decide(f->opt.gate, w->moe, &f->in_h, f->pos, &route, f->err));
    sort_by_expert(f, route);
    pg_store_acquire(f->opt.store, w->moe, f->wanted, f->n_wanted);
    int rc = pg_gate_hint(f->opt.gate, w->moe, &f->in_h, f->pos, f->err);
    if (rc) {
        pg_store_abandon(f->opt.store);
        return rc;
    }
    if (w->ffn_down_shexp.data) /* while experts arrive */
        ffn(f, &w->ffn_gate_shexp, &w->ffn_up_shexp, &w->ffn_down_shexp);
    PG_TRY(run_experts(f, il));
    struct combine c = {f, route};
    pg_rows(f->c, combine_row, &c, f->n_tok);
    if (w->ffn_down_shexp.data)
        add_shared(f, w);
    return 0;
}

int pg_block(struct pg_forward *f, int il)
{
    const struct pg_layer *w = &f->model->layer[il];
    norm_rows_of(f, &w->attn_norm);
    qkv(f, w);
    if (w->attn_q_norm.data)
        qk_norm(f, w);
    rope(f);
    attend_all(f, il);
    norm_rows_of(f, &w->ffn_norm);
    if (w->moe >= 0)
        return moe(f, il);
    dense_ffn(f, w);
    return 0;
}
