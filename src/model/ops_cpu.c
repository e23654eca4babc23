/* SPDX-License-Identifier: MIT
 * The operations over the thread pool and the kernels. Each is one parallel loop, over rows, over
 * heads, or over ranges of a matrix; small ones run on the caller's thread.
 */
#include "model/ops.h"

#include <math.h>
#include <string.h>

/* An operation's struct on its way through pg_rows. */
struct work {
    struct pg_compute *c;
    const void *op;
    int n;
};

static void embed_row(void *arg, int t, int thread)
{
    const struct pg_op_embed *o = ((struct work *)arg)->op;
    const struct pg_weight *w = o->table;
    size_t n = (size_t)w->n_in, at = (size_t)t * (size_t)o->n_freq;
    const char *row = (const char *)w->data + (size_t)o->token[t] * pg_type_bytes(w->type, w->n_in);
    (void)thread;
    pg_type_traits((uint32_t)w->type)->to_float(row, o->x + (size_t)t * n, w->n_in);
    for (int i = 0; i < o->n_freq; i++) {
        double angle = o->pos[t] * o->freq[i];
        o->cosines[at + (size_t)i] = (float)cos(angle);
        o->sines[at + (size_t)i] = (float)sin(angle);
    }
}

static void embed(void *self, const struct pg_op_embed *op)
{
    struct work w = {self, op, 1};
    pg_rows(self, embed_row, &w, op->n_row);
}

/* ------------------------------------------------------------------ norms and products ------ */

static void norm_row(void *arg, int t, int thread)
{
    const struct work *w = arg;
    const struct pg_op_norm *o = w->op, *end = o + w->n;
    (void)thread;
    for (; o < end; o++) {
        size_t at = (size_t)t * (size_t)o->n;
        for (int i = 0; i < o->n; i += o->gain->n_in)
            w->c->k.rms_norm(o->x + at + i, o->gain->data, o->eps, o->y + at + i, o->gain->n_in);
    }
}

static void norm(void *self, const struct pg_op_norm *op, int n)
{
    struct work w = {self, op, n};
    pg_rows(self, norm_row, &w, op->n_row);
}

static void product(void *self, const struct pg_op_product *op, int n)
{
    struct pg_compute *c = self;
    struct pg_product p[PG_PRODUCTS_MAX];
    PG_ASSERT(n >= 1 && n <= PG_PRODUCTS_MAX);
    for (int i = 0; i < n; i++) {
        p[i] = pg_product(c, &op[i].w, op[i].in, op[i].y);
        p[i].m.x_row = op[i].row;
        p[i].m.n_tok = op[i].n_row;
    }
    pg_products(c, p, n);
    for (int i = 0; i < n; i++) {
        const struct pg_weight *bias = op[i].bias;
        for (int t = 0; bias && bias->data && t < op[i].n_row; t++)
            c->k.add(bias->data, op[i].y + (size_t)t * (size_t)bias->n_in, bias->n_in);
    }
}

/* ------------------------------------------------------------------ attention --------------- */

static void rotate(const struct pg_op_rope *o, int t, float *head)
{
    const float *cosines = o->cosines + (size_t)t * (size_t)o->n_freq;
    const float *sines = o->sines + (size_t)t * (size_t)o->n_freq;
    bool pairs = o->kind == PG_ROPE_PAIRS;
    int step = pairs ? 2 : 1, other = pairs ? 1 : o->n_freq;
    for (int i = 0; i < o->n_freq; i++) {
        float *a = head + i * step, *b = a + other;
        float x = *a, y = *b;
        *a = x * cosines[i] - y * sines[i];
        *b = x * sines[i] + y * cosines[i];
    }
}

static void rope_row(void *arg, int t, int thread)
{
    const struct pg_op_rope *o = ((struct work *)arg)->op;
    size_t dim = (size_t)o->head_dim;
    (void)thread;
    for (int i = 0; i < o->n_head; i++)
        rotate(o, t, o->q + ((size_t)t * (size_t)o->n_head + (size_t)i) * dim);
    for (int i = 0; i < o->n_head_kv; i++)
        rotate(o, t, o->k + ((size_t)t * (size_t)o->n_head_kv + (size_t)i) * dim);
}

static void rope(void *self, const struct pg_op_rope *op)
{
    struct work w = {self, op, 1};
    pg_rows(self, rope_row, &w, op->n_row);
}

static void put_values(const struct pg_kernels *k, enum pg_kv_type type, const float *x, void *to,
                       int n)
{
    if (type == PG_KV_F32)
        memcpy(to, x, (size_t)n * sizeof(float));
    else
        k->to_f16(x, to, n);
}

static void append_row(void *arg, int t, int thread)
{
    const struct work *w = arg;
    const struct pg_op_append *o = w->op;
    const struct pg_kv *kv = o->kv[t];
    const struct pg_cache *cache = kv->block[o->cache].cache;
    (void)thread;
    for (int head = 0; head < cache->n_head; head++) {
        size_t row = (size_t)t * (size_t)cache->n_head + (size_t)head;
        put_values(&w->c->k, kv->shape.type, o->k + row * (size_t)cache->k_dim,
                   pg_kv_k(kv, o->cache, head, o->pos[t]), cache->k_dim);
        put_values(&w->c->k, kv->shape.type, o->v + row * (size_t)cache->v_dim,
                   pg_kv_v(kv, o->cache, head, o->pos[t]), cache->v_dim);
    }
}

static void append(void *self, const struct pg_op_append *op)
{
    struct work w = {self, op, 1};
    pg_rows(self, append_row, &w, op->n_row);
}

/* One head of one row over n positions. */
struct head {
    const struct pg_kv *kv;
    int cache, head; /* of keys and values */
    const float *q;
    float *score, *out; /* [n], [v_dim] */
    int n, k_dim, v_dim;
    float scale;
    struct pg_position_bias bias; /* of the head; at NULL: none */
    int pos;
};

static void add_bias(const struct head *h)
{
    if (!h->bias.at)
        return;
    for (int j = 0; j < h->n; j++) {
        int from = PG_MAX(-h->bias.reach, PG_MIN(h->bias.reach, j - h->pos));
        h->score[j] += h->bias.at[h->bias.reach + from];
    }
}

/* Positions from `at` on whose rows lie behind each other. */
static int run_of(const struct head *h, int at)
{
    return PG_MIN(PG_KV_PAGE, h->n - at);
}

static void attend_over(const struct pg_kernels *k, const struct head *h)
{
    const bool f32 = h->kv->shape.type == PG_KV_F32;
    for (int at = 0; at < h->n; at += PG_KV_PAGE) {
        const struct pg_table keys = {pg_kv_k(h->kv, h->cache, h->head, at), run_of(h, at),
                                      h->k_dim};
        (f32 ? k->dots : k->dots_f16)(&keys, h->q, h->scale, h->score + at);
    }
    add_bias(h);
    k->softmax(h->score, h->n);
    memset(h->out, 0, (size_t)h->v_dim * sizeof(float));
    for (int at = 0; at < h->n; at += PG_KV_PAGE) {
        const struct pg_table values = {pg_kv_v(h->kv, h->cache, h->head, at), run_of(h, at),
                                        h->v_dim};
        (f32 ? k->axpys : k->axpys_f16)(&values, h->score + at, h->out);
    }
}

/* Task: one head of one row. */
static void attend_head(void *arg, int task, int thread)
{
    const struct work *w = arg;
    const struct pg_op_attend *o = w->op;
    int t = task / o->n_head, head = task % o->n_head;
    const struct pg_kv *kv = o->kv[t];
    const struct pg_cache *cache = kv->block[o->cache].cache;
    int head_kv = head / (o->n_head / cache->n_head);
    struct head h = {
        .kv = kv,
        .cache = o->cache,
        .head = head_kv,
        .q = o->q + (size_t)task * (size_t)cache->k_dim,
        .score = o->score + (size_t)thread * (size_t)o->n_ctx,
        .out = o->out + (size_t)task * (size_t)cache->v_dim,
        .n = o->n_seen[t],
        .k_dim = cache->k_dim,
        .v_dim = cache->v_dim,
        .scale = o->scale,
    };
    if (o->bias) {
        h.bias = *o->bias;
        h.bias.at += (size_t)head * (size_t)(2 * h.bias.reach + 1);
        h.pos = o->pos[t];
    }
    /* Positions from the first; a window's ring would begin elsewhere. */
    PG_ASSERT(h.n >= 1 && h.n <= kv->block[o->cache].n_rows && h.n <= o->n_ctx);
    attend_over(&w->c->k, &h);
}

static void attend(void *self, const struct pg_op_attend *op)
{
    struct work w = {self, op, 1};
    pg_pool_run(w.c->pool, attend_head, &w, op->n_row * op->n_head);
}

/* ------------------------------------------------------------------ feed-forward ------------ */

static float relu(float x)
{
    return x > 0 ? x : 0;
}

/* By tanh, as T5 and Hugging Face's gelu_new: x / 2 (1 + tanh u) is x / (1 + e^-2u). */
static float gelu(float x)
{
    const float u = 0.7978845608f * (x + 0.044715f * x * x * x);
    return x / (1 + pg_expf(-2 * u));
}

static void activate_row(void *arg, int t, int thread)
{
    const struct work *w = arg;
    const struct pg_op_activate *o = w->op;
    size_t at = (size_t)t * (size_t)o->n;
    const float *gate = o->gate + at, *up = o->up ? o->up + at : NULL;
    float *y = o->y + at;
    (void)thread;
    if (o->kind == PG_SILU) {
        w->c->k.silu_mul(gate, up, y, o->n);
        return;
    }
    for (int i = 0; i < o->n; i++) {
        float a = o->kind == PG_RELU ? relu(gate[i]) : gelu(gate[i]);
        y[i] = up ? a * up[i] : a;
    }
}

static void activate(void *self, const struct pg_op_activate *op)
{
    struct work w = {self, op, 1};
    PG_ASSERT(op->up || op->kind != PG_SILU);
    pg_rows(self, activate_row, &w, op->n_row);
}

static void combine_row(void *arg, int t, int thread)
{
    const struct work *w = arg;
    const struct pg_op_combine *o = w->op;
    const struct pg_kernels *k = &w->c->k;
    size_t n = (size_t)o->n, at = (size_t)t * n;
    (void)thread;
    for (int i = t * o->n_used; i < (t + 1) * o->n_used; i++)
        k->axpy(o->weight[i], o->y + (size_t)o->row_of[i] * n, o->x + at, o->n);
    if (o->shared) {
        float s = k->dot(o->shared_gate->data, o->h + at, o->n);
        k->axpy(1.0f / (1.0f + pg_expf(-s)), o->shared + at, o->x + at, o->n);
    }
}

static void combine(void *self, const struct pg_op_combine *op)
{
    struct work w = {self, op, 1};
    pg_rows(self, combine_row, &w, op->n_row);
}

static void add_row(void *arg, int t, int thread)
{
    const struct work *w = arg;
    const struct pg_op_add *o = w->op;
    size_t at = (size_t)t * (size_t)o->n;
    (void)thread;
    w->c->k.add(o->x + at, o->y + at, o->n);
}

static void add(void *self, const struct pg_op_add *op)
{
    struct work w = {self, op, 1};
    pg_rows(self, add_row, &w, op->n_row);
}

static void logits(void *self, const struct pg_op_logits *op)
{
    struct pg_compute *c = self;
    int n = op->output->n_in;
    for (int i = 0; i < op->n_row; i++)
        c->k.rms_norm(op->x + (size_t)op->row[i] * (size_t)n, op->gain->data, op->eps,
                      op->h + (size_t)i * (size_t)n, n);
    for (size_t i = 0; op->scale != 1 && i < (size_t)op->n_row * (size_t)n; i++)
        op->h[i] *= op->scale;
    pg_input_set(op->in, op->h, n, op->n_row);
    pg_linear(c, op->output, op->in, op->logits);
}

const struct pg_ops pg_ops_cpu = {
    .embed = embed,
    .norm = norm,
    .product = product,
    .rope = rope,
    .append = append,
    .attend = attend,
    .activate = activate,
    .combine = combine,
    .add = add,
    .logits = logits,
};
