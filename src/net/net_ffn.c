/* SPDX-License-Identifier: MIT
 * x = x1 + feed-forward(norm(x1)): experts, a shared expert, or a dense block; and back.
 *
 * An expert's rows lie together. Its output's derivative with respect to a token's weight is
 * dy · (act downᵀ) = (dy down) · act, so the outputs themselves need not be kept.
 */
#include "net/net_impl.h"

#include <math.h>
#include <string.h>

/* ------------------------------------------------------------------ dense and shared -------- */

/* The matrices of a feed-forward layer that every token passes: act(gate h) up h goes into `down`,
 * or without an `up` act(gate h); what GGUF calls up is the `gate` here then. */
struct ffn {
    enum pg_block_part gate, up, down;
    pg_real *gate_ff, *up_ff, *s; /* kept; up_ff NULL: there is no up; s NULL: not weighted */
    int n_ff;
};

static bool ffn_of(const struct pg_net *n, int il, struct ffn *f)
{
    const struct pg_net_block *l = &n->block[il];
    if (n->model->block[il].moe < 0) {
        *f = (struct ffn){n->h->gated ? PG_PART_GATE : PG_PART_UP,
                          PG_PART_UP,
                          PG_PART_DOWN,
                          l->gate,
                          l->up,
                          NULL,
                          n->h->n_ff};
        return true;
    }
    *f = (struct ffn){PG_PART_SH_GATE, PG_PART_SH_UP, PG_PART_SH_DOWN, l->sh_gate,
                      l->sh_up,        l->s,          n->h->n_ff_shexp};
    return pg_net_has(n, il, PG_PART_SH_DOWN);
}

/* y = x w^T, or with beta 1 added to y. */
static void times_rows(const struct pg_gemm *like, const pg_real *x, const pg_real *w, pg_real *y)
{
    struct pg_gemm g = *like;
    g.a = x;
    g.b = w;
    g.c = y;
    g.lda = g.ldb = g.k;
    g.ldc = g.n;
    pg_gemm_nt(&g);
}

/* dx = dy w, likewise. */
static void times_rows_back(const struct pg_gemm *like, const pg_real *dy, const pg_real *w,
                            pg_real *dx)
{
    struct pg_gemm g = *like;
    g.a = dy;
    g.b = w;
    g.c = dx;
    g.lda = g.k;
    g.ldb = g.ldc = g.n;
    pg_gemm_nn(&g);
}

static pg_real *row_or_null(pg_real *x, int t, int len)
{
    return x ? pg_net_row(x, t, len) : NULL;
}

/* gate h2, up h2, and s */
static void ffn_rows_in(struct pg_net *n, const struct pg_net_span *s, int il, const struct ffn *f)
{
    int n_embd = n->h->n_embd;
    pg_real *h = pg_net_row(n->block[il].h2, s->t0, n_embd);
    struct pg_gemm in = {.by = &n->blas, .m = s->n, .n = f->n_ff, .k = n_embd};
    times_rows(&in, h, pg_net_w(n, il, f->gate), pg_net_row(f->gate_ff, s->t0, f->n_ff));
    if (f->up_ff)
        times_rows(&in, h, pg_net_w(n, il, f->up), pg_net_row(f->up_ff, s->t0, f->n_ff));
    for (int i = 0; f->s && i < s->n; i++) {
        pg_real z = n->ops->dot(pg_net_w(n, il, PG_PART_SH_INP), pg_net_row(h, i, n_embd), n_embd);
        f->s[s->t0 + i] = (pg_real)(1 / (1 + exp(-(double)z)));
    }
}

/* x_out += s down(act(gate h2) up h2) */
static void ffn_rows(struct pg_net *n, const struct pg_net_span *s, int il)
{
    struct ffn f;
    int n_embd = n->h->n_embd;
    if (!ffn_of(n, il, &f))
        return;
    pg_real *act = pg_net_row(n->ff[0], s->t0, f.n_ff);
    struct pg_gemm out = {.by = &n->blas, .m = s->n, .n = n_embd, .k = f.n_ff, .beta = 1};
    ffn_rows_in(n, s, il, &f);
    for (int t = s->t0; t < s->t0 + s->n; t++) {
        pg_real *row = pg_net_row(n->ff[0], t, f.n_ff);
        n->act->of(pg_net_row(f.gate_ff, t, f.n_ff), row_or_null(f.up_ff, t, f.n_ff), row, f.n_ff);
        if (f.s)
            n->ops->scale(f.s[t], row, row, f.n_ff);
    }
    times_rows(&out, act, pg_net_w(n, il, f.down), pg_net_row(pg_net_x_out(n, il), s->t0, n_embd));
}

/* Derivatives inside the layer to n->ff, act times s in ff[0]; dh += that of h2. */
static void ffn_rows_back(struct pg_net *n, const struct pg_net_span *s, int il)
{
    struct ffn f;
    int n_embd = n->h->n_embd;
    if (!ffn_of(n, il, &f))
        return;
    struct pg_gemm in = {.by = &n->blas, .m = s->n, .n = f.n_ff, .k = n_embd};
    struct pg_gemm out = {.by = &n->blas, .m = s->n, .n = n_embd, .k = f.n_ff, .beta = 1};
    pg_real *dh = pg_net_row(n->dh, s->t0, n_embd), *dgate = pg_net_row(n->ff[1], s->t0, f.n_ff),
            *dup = pg_net_row(n->ff[2], s->t0, f.n_ff);
    times_rows_back(&in, pg_net_row(n->dy, s->t0, n_embd), pg_net_w(n, il, f.down), dup);
    for (int t = s->t0; t < s->t0 + s->n; t++) {
        pg_real *act = pg_net_row(n->ff[0], t, f.n_ff), *d = pg_net_row(n->ff[2], t, f.n_ff);
        struct pg_act_back b = {.gate = pg_net_row(f.gate_ff, t, f.n_ff),
                                .up = row_or_null(f.up_ff, t, f.n_ff),
                                .dact = d,
                                .times = f.s ? f.s[t] : 1,
                                .act = act,
                                .dgate = pg_net_row(n->ff[1], t, f.n_ff),
                                .dup = d};
        pg_real ds = n->act->back(&b, f.n_ff);
        if (f.s) {
            pg_real dz = ds * f.s[t] * (1 - f.s[t]);
            n->ops->scale(f.s[t], act, act, f.n_ff);
            n->ops->axpy(dz, pg_net_w(n, il, PG_PART_SH_INP), pg_net_row(n->dh, t, n_embd), n_embd);
            n->ops->axpy(dz, pg_net_row(n->block[il].h2, t, n_embd), s->part + n->sums.sh_inp,
                         n_embd);
        }
    }
    times_rows_back(&out, dgate, pg_net_w(n, il, f.gate), dh);
    if (f.up_ff)
        times_rows_back(&out, dup, pg_net_w(n, il, f.up), dh);
}

/* ------------------------------------------------------------------ experts ----------------- */

/* The expert that a task computes: its matrices, and room to work in. up NULL: as in struct ffn. */
struct expert {
    const pg_real *gate, *up, *down;
    pg_real *room;
};

/* Flat: where the matrices are. All three have the same number of values. */
static struct expert expert_of(const struct pg_net *n, int il, int e, int thread)
{
    size_t at = (size_t)e * (size_t)n->h->n_ff_exp * (size_t)n->h->n_embd;
    const pg_real *up = pg_net_w(n, il, PG_PART_EXP_UP) + at;
    return (struct expert){n->h->gated ? pg_net_w(n, il, PG_PART_EXP_GATE) + at : up,
                           n->h->gated ? up : NULL, pg_net_w(n, il, PG_PART_EXP_DOWN) + at,
                           n->room + (size_t)thread * n->room_len};
}

/* Frozen: unpacked from the slot that the store has brought them to, into the thread's room. */
static struct expert expert_in(struct pg_net *n, int il, const struct pg_lease *lease, int thread)
{
    size_t each = (size_t)n->h->n_ff_exp * (size_t)n->h->n_embd;
    pg_real *room = n->room + (size_t)thread * n->room_len;
    for (int slab = n->h->gated ? 0 : 1; slab < PG_SLABS; slab++) {
        struct pg_weight w = n->model->block[il].exps[slab];
        w.data = lease->slab[slab];
        pg_net_unpack(&w, 0, w.n_out, room + (size_t)slab * each);
        pg_net_poll(n, thread);
    }
    return (struct expert){n->h->gated ? room : room + each, n->h->gated ? room + each : NULL,
                           room + 2 * each, room + 3 * each};
}

static void gather(const pg_real *x, const int32_t *token, int n, int len, pg_real *to)
{
    for (int i = 0; i < n; i++) {
        memcpy(to + (size_t)i * (size_t)len, x + (size_t)token[i] * (size_t)len,
               (size_t)len * sizeof(x[0]));
    }
}

/* gate h, up h of a chunk whose rows of h lie together. */
static void chunk_in(struct pg_net *n, const struct pg_net_chunk *c, const struct expert *x,
                     const pg_real *h, pg_real *const ff[2])
{
    struct pg_gemm in = {.by = &n->blas, .m = c->n, .n = n->h->n_ff_exp, .k = n->h->n_embd};
    times_rows(&in, h, x->gate, ff[0]);
    if (x->up)
        times_rows(&in, h, x->up, ff[1]);
}

/* Where a chunk's gate h and up h (NULL: there is no up) are: kept, or, frozen, in the task's room
 * behind `room`. */
static void chunk_ff(const struct pg_net *n, int il, const struct pg_net_chunk *c, pg_real *room,
                     pg_real *out[2])
{
    const struct pg_net_block *l = &n->block[il];
    int n_ff = n->h->n_ff_exp;
    out[0] = n->opt.frozen ? room : pg_net_row(l->gate, c->row, n_ff);
    out[1] = n->opt.frozen ? pg_net_row(room, c->n, n_ff) : row_or_null(l->up, c->row, n_ff);
    out[1] = n->h->gated ? out[1] : NULL;
}

/* One chunk of an expert's rows, to y. */
static void chunk(struct pg_net *n, int il, const struct pg_net_chunk *c, const struct expert *x)
{
    const struct pg_net_route *r = &n->route[n->model->block[il].moe];
    int n_embd = n->h->n_embd, n_ff = n->h->n_ff_exp;
    pg_real *h = x->room, *act = pg_net_row(h, c->n, n_embd), *ff[2];
    struct pg_gemm out = {.by = &n->blas, .m = c->n, .n = n_embd, .k = n_ff};
    chunk_ff(n, il, c, pg_net_row(act, c->n, n_ff), ff);
    gather(n->block[il].h2, r->token_of + c->row, c->n, n_embd, h);
    chunk_in(n, c, x, h, ff);
    for (int i = 0; i < c->n; i++) {
        n->act->of(pg_net_row(ff[0], i, n_ff), row_or_null(ff[1], i, n_ff),
                   pg_net_row(act, i, n_ff), n_ff);
    }
    times_rows(&out, act, x->down, pg_net_row(n->y, c->row, n_embd));
}

/* Task: one chunk. */
static void expert(void *arg, int task, int thread)
{
    struct pg_net_pass *p = arg;
    const struct pg_net_chunk *c = &p->n->chunk[task];
    struct expert x = expert_of(p->n, p->il, c->expert, thread);
    chunk(p->n, p->il, c, &x);
}

/* Task: the expert of a lease. */
static void expert_brought(void *arg, int task, int thread)
{
    struct pg_net_pass *p = arg;
    struct pg_net *n = p->n;
    const struct pg_net_route *r = &n->route[n->model->block[p->il].moe];
    struct expert x = expert_in(n, p->il, &n->lease[task], thread);
    int e = n->lease[task].expert;
    for (int row = r->first[e]; row < r->first[e + 1]; row += PG_NET_ROWS) {
        struct pg_net_chunk c = {e, row, PG_MIN(PG_NET_ROWS, r->first[e + 1] - row)};
        chunk(n, p->il, &c, &x);
        pg_net_poll(n, thread);
    }
}

/* g [n_out, n_in] += dy^T x of the chunk. */
static void outer(const struct pg_net *n, const struct pg_net_outer *o)
{
    pg_gemm_tn(&(struct pg_gemm){.by = &n->blas,
                                 .m = o->n_out,
                                 .n = o->n_in,
                                 .k = o->n_rows,
                                 .a = o->dy,
                                 .lda = o->n_out,
                                 .b = o->x,
                                 .ldb = o->n_in,
                                 .beta = 1,
                                 .c = o->g,
                                 .ldc = o->n_in});
}

/* Gradients of a chunk's matrices; dy and the derivatives of gate h and up h lie in the room. */
static void chunk_outers(struct pg_net *n, int il, const struct pg_net_chunk *c,
                         const pg_real *const in[5])
{
    const pg_real *h = in[0], *dy = in[1], *act = in[2], *dgate = in[3], *dup = in[4];
    int n_embd = n->h->n_embd, n_ff = n->h->n_ff_exp;
    size_t at = (size_t)c->expert * (size_t)n_ff * (size_t)n_embd;
    outer(n, &(struct pg_net_outer){pg_net_g(n, il, PG_PART_EXP_DOWN) + at, dy, act, n_embd, n_ff,
                                    c->n});
    const enum pg_block_part gate = n->h->gated ? PG_PART_EXP_GATE : PG_PART_EXP_UP;
    outer(n, &(struct pg_net_outer){pg_net_g(n, il, gate) + at, dgate, h, n_ff, n_embd, c->n});
    if (!n->h->gated)
        return;
    outer(n,
          &(struct pg_net_outer){pg_net_g(n, il, PG_PART_EXP_UP) + at, dup, h, n_ff, n_embd, c->n});
}

static void chunk_back(struct pg_net *n, int il, const struct pg_net_chunk *c,
                       const struct expert *x)
{
    const struct pg_net_route *r = &n->route[n->model->block[il].moe];
    int n_embd = n->h->n_embd, n_ff = n->h->n_ff_exp;
    pg_real *h = x->room, *dy = pg_net_row(h, c->n, n_embd), *act = pg_net_row(dy, c->n, n_embd);
    pg_real *dgate = pg_net_row(act, c->n, n_ff), *dup = pg_net_row(dgate, c->n, n_ff), *ff[2];
    pg_real *dh = pg_net_row(n->y, c->row, n_embd);
    struct pg_gemm in = {.by = &n->blas, .m = c->n, .n = n_ff, .k = n_embd};
    struct pg_gemm out = {.by = &n->blas, .m = c->n, .n = n_embd, .k = n_ff};
    chunk_ff(n, il, c, pg_net_row(dup, c->n, n_ff), ff);
    gather(n->block[il].h2, r->token_of + c->row, c->n, n_embd, h);
    gather(n->dy, r->token_of + c->row, c->n, n_embd, dy);
    if (n->opt.frozen)
        chunk_in(n, c, x, h, ff);
    times_rows_back(&in, dy, x->down, dup);
    for (int i = 0; i < c->n; i++) {
        int row = c->row + i;
        pg_real weight = r->weight[r->pair_of[row]];
        struct pg_act_back b = {.gate = pg_net_row(ff[0], i, n_ff),
                                .up = row_or_null(ff[1], i, n_ff),
                                .dact = pg_net_row(dup, i, n_ff),
                                .times = weight,
                                .act = pg_net_row(act, i, n_ff),
                                .dgate = pg_net_row(dgate, i, n_ff),
                                .dup = pg_net_row(dup, i, n_ff)};
        n->dweight[row] = n->act->back(&b, n_ff);
        n->ops->scale(weight, pg_net_row(dy, i, n_embd), pg_net_row(dy, i, n_embd), n_embd);
    }
    if (!n->opt.frozen)
        chunk_outers(n, il, c, (const pg_real *const[5]){h, dy, act, dgate, dup});
    if (pg_net_way_back(n, il) < PG_WAY_THROUGH)
        return;
    times_rows_back(&out, dgate, x->gate, dh);
    out.beta = 1;
    if (x->up)
        times_rows_back(&out, dup, x->up, dh);
}

/* All chunks of an expert, one after another, since they add to the same gradients. */
static void chunks_back(struct pg_net *n, int il, int e, const struct expert *x, int thread)
{
    const struct pg_net_route *r = &n->route[n->model->block[il].moe];
    for (int row = r->first[e]; row < r->first[e + 1]; row += PG_NET_ROWS) {
        struct pg_net_chunk c = {e, row, PG_MIN(PG_NET_ROWS, r->first[e + 1] - row)};
        chunk_back(n, il, &c, x);
        pg_net_poll(n, thread);
    }
}

/* Task: an expert. */
static void expert_back(void *arg, int task, int thread)
{
    struct pg_net_pass *p = arg;
    int e = p->n->order[task];
    struct expert x = expert_of(p->n, p->il, e, thread);
    chunks_back(p->n, p->il, e, &x, thread);
}

/* Task: the expert of a lease. */
static void expert_brought_back(void *arg, int task, int thread)
{
    struct pg_net_pass *p = arg;
    const struct pg_lease *lease = &p->n->lease[task];
    struct expert x = expert_in(p->n, p->il, lease, thread);
    chunks_back(p->n, p->il, lease->expert, &x, thread);
}

/* Experts by falling number of rows, so that no thread is left with a long one at the end. */
static void order_experts(struct pg_net *n, const struct pg_net_route *r)
{
    for (int e = 0; e < n->h->n_expert; e++) {
        int n_rows = r->first[e + 1] - r->first[e], at = e;
        for (; at > 0 && r->first[n->order[at - 1] + 1] - r->first[n->order[at - 1]] < n_rows; at--)
            n->order[at] = n->order[at - 1];
        n->order[at] = e;
    }
}

static void end(struct pg_net *n, int il, const struct pg_net_span *s)
{
    pg_net_end_add(n, il, PG_DROP_FFN, s, n->block[il].x1, pg_net_x_out(n, il));
}

/* x_out += the weighted outputs, in the order of the route. */
static void combine(void *arg, int task, int thread)
{
    struct pg_net_pass *p = arg;
    struct pg_net *n = p->n;
    const struct pg_net_route *r = &n->route[n->model->block[p->il].moe];
    struct pg_net_span s = pg_net_span(n, task);
    int n_rank = n->n_rank, n_embd = n->h->n_embd;
    (void)thread;
    for (int i = s.t0 * n_rank; i < (s.t0 + s.n) * n_rank; i++) {
        n->ops->axpy(r->weight[i], pg_net_row(n->y, r->row_of[i], n_embd),
                     pg_net_row(pg_net_x_out(n, p->il), i / n_rank, n_embd), n_embd);
    }
    end(n, p->il, &s);
}

/* ------------------------------------------------------------------ a block ----------------- */

static void norm_rows(struct pg_net *n, const struct pg_net_span *s, int il)
{
    const struct pg_net_block *l = &n->block[il];
    int n_embd = n->h->n_embd;
    for (int t = s->t0; t < s->t0 + s->n; t++) {
        l->s1[t] = n->ops->norm(pg_net_row(l->x1, t, n_embd), pg_net_w(n, il, PG_PART_FFN_NORM),
                                n->eps, pg_net_row(l->h2, t, n_embd), n_embd);
    }
}

/* Norm, decisions, and what every token passes. */
static void begin(void *arg, int task, int thread)
{
    struct pg_net_pass *p = arg;
    struct pg_net *n = p->n;
    const struct pg_net_block *l = &n->block[p->il];
    struct pg_net_span s = pg_net_span(n, task);
    int n_embd = n->h->n_embd;
    (void)thread;
    norm_rows(n, &s, p->il);
    pg_net_begin_add(n, pg_net_row(l->x1, s.t0, n_embd),
                     pg_net_row(pg_net_x_out(n, p->il), s.t0, n_embd),
                     (size_t)s.n * (size_t)n_embd);
    if (n->model->block[p->il].moe >= 0)
        pg_net_decide(n, &s, p->il);
    ffn_rows(n, &s, p->il);
    if (n->model->block[p->il].moe < 0)
        end(n, p->il, &s);
}

int pg_net_ffn(struct pg_net *n, int il, struct pg_err *err)
{
    struct pg_net_pass p = {n, il};
    int moe = n->model->block[il].moe;
    pg_net_over_spans(n, begin, il);
    if (moe < 0)
        return 0;
    pg_net_routed(n, moe);
    if (n->opt.frozen) {
        order_experts(n, &n->route[moe]);
        PG_TRY(pg_net_bring(n, il, false, expert_brought, err));
    } else {
        pg_pool_run(n->opt.pool, expert, &p, n->n_chunks);
    }
    pg_net_over_spans(n, combine, il);
    return 0;
}

static void again(void *arg, int task, int thread)
{
    struct pg_net_pass *p = arg;
    struct pg_net *n = p->n;
    struct pg_net_span s = pg_net_span(n, task);
    struct ffn f;
    (void)thread;
    norm_rows(n, &s, p->il);
    pg_net_early(n, &s, p->il);
    if (pg_net_way_back(n, p->il) == PG_WAY_THROUGH && ffn_of(n, p->il, &f))
        ffn_rows_in(n, &s, p->il, &f);
}

void pg_net_ffn_again(struct pg_net *n, int il)
{
    pg_net_over_spans(n, again, il);
}

/* dh: the derivative of h2. */
static void begin_back(void *arg, int task, int thread)
{
    struct pg_net_pass *p = arg;
    struct pg_net *n = p->n;
    struct pg_net_span s = pg_net_span(n, task);
    int moe = n->model->block[p->il].moe, n_rank = n->n_rank, n_embd = n->h->n_embd;
    bool through = pg_net_way_back(n, p->il) == PG_WAY_THROUGH;
    (void)thread;
    memset(s.part, 0, n->sums.n * sizeof(pg_real));
    memset(pg_net_row(n->dh, s.t0, n_embd), 0, (size_t)s.n * (size_t)n_embd * sizeof(pg_real));
    if (moe >= 0) {
        for (int i = s.t0 * n_rank; through && i < (s.t0 + s.n) * n_rank; i++) {
            n->ops->add(pg_net_row(n->y, n->route[moe].row_of[i], n_embd),
                        pg_net_row(n->dh, i / n_rank, n_embd), n_embd);
        }
        pg_net_decide_back(n, &s, p->il);
    }
    if (through)
        ffn_rows_back(n, &s, p->il);
}

static void norm_rows_back(void *arg, int task, int thread)
{
    struct pg_net_pass *p = arg;
    struct pg_net *n = p->n;
    const struct pg_net_block *l = &n->block[p->il];
    struct pg_net_span s = pg_net_span(n, task);
    int n_embd = n->h->n_embd;
    (void)thread;
    for (int t = s.t0; t < s.t0 + s.n; t++) {
        pg_real *dx = pg_net_row(n->dx, t, n_embd);
        struct pg_norm_back b = {.x = pg_net_row(l->x1, t, n_embd),
                                 .gain = pg_net_w(n, p->il, PG_PART_FFN_NORM),
                                 .dy = pg_net_row(n->dh, t, n_embd),
                                 .add = dx,
                                 .s = l->s1[t],
                                 .dx = dx,
                                 .dgain = s.part + n->sums.norm};
        n->ops->norm_back(&b, n_embd);
    }
}

/* Gradients of a pre-gate's hidden layer. Returns how many. */
static int outers_early(struct pg_net *n, int il, int to, struct pg_net_outer *o)
{
    const struct pg_net_block *l = &n->block[il];
    int n_hidden = n->opt.pregate_hidden;
    if (n_hidden == 0)
        return 0;
    o[0] = (struct pg_net_outer){pg_net_g(n, il, PG_PART_PREGATE_UP),
                                 n->route[to].dlogits,
                                 l->early_act,
                                 n->h->n_expert,
                                 n_hidden,
                                 n->n_tok};
    o[1] = (struct pg_net_outer){
        pg_net_g(n, il, PG_PART_PREGATE_DOWN), n->dearly, l->h2, n_hidden, n->h->n_embd, n->n_tok};
    return 2;
}

/* Gradients of the gates' maps, and of the layer that every token passes. */
static void outers(struct pg_net *n, int il)
{
    const struct pg_net_block *l = &n->block[il];
    struct pg_net_gate gate[2] = {{.to = -1}, {.to = -1}};
    struct pg_net_outer o[7];
    struct ffn f;
    int n_o = 0, n_embd = n->h->n_embd, moe = n->model->block[il].moe;
    if (moe >= 0)
        pg_net_gates(n, moe, gate);
    for (int i = 0; i < 2; i++) {
        if (gate[i].to >= 0) {
            o[n_o++] = (struct pg_net_outer){pg_net_g(n, il, gate[i].part),
                                             gate[i].dlogits,
                                             l->h2,
                                             n->h->n_expert,
                                             n_embd,
                                             n->n_tok};
        }
    }
    if (gate[1].to >= 0)
        n_o += outers_early(n, il, gate[1].to, o + n_o);
    if (ffn_of(n, il, &f)) {
        o[n_o++] = (struct pg_net_outer){
            pg_net_g(n, il, f.gate), n->ff[1], l->h2, f.n_ff, n_embd, n->n_tok};
        if (f.up_ff) {
            o[n_o++] = (struct pg_net_outer){
                pg_net_g(n, il, f.up), n->ff[2], l->h2, f.n_ff, n_embd, n->n_tok};
        }
        o[n_o++] = (struct pg_net_outer){
            pg_net_g(n, il, f.down), n->dy, n->ff[0], n_embd, f.n_ff, n->n_tok};
    }
    pg_net_outers(n, o, n_o);
}

static int experts_back(struct pg_net *n, int il, struct pg_err *err)
{
    struct pg_net_pass p = {n, il};
    int moe = n->model->block[il].moe;
    if (moe < 0 || pg_net_way_back(n, il) < PG_WAY_WEIGH)
        return 0;
    order_experts(n, &n->route[moe]);
    if (n->opt.frozen)
        return pg_net_bring(n, il, true, expert_brought_back, err);
    pg_pool_run(n->opt.pool, expert_back, &p, n->h->n_expert);
    return 0;
}

/* dx: from the derivative of the block's output to that of x1, where the way goes through. */
int pg_net_ffn_back(struct pg_net *n, int il, struct pg_err *err)
{
    pg_net_drop_back(n, il, PG_DROP_FFN);
    PG_TRY(experts_back(n, il, err));
    pg_net_over_spans(n, begin_back, il);
    outers(n, il);
    if (pg_net_way_back(n, il) == PG_WAY_THROUGH)
        pg_net_over_spans(n, norm_rows_back, il);
    pg_net_sum_parts(n, n->sums.norm, n->h->n_embd, pg_net_g(n, il, PG_PART_FFN_NORM));
    if (pg_net_has(n, il, PG_PART_PREGATE_BIAS)) {
        pg_net_sum_parts(n, n->sums.early_bias, n->h->n_expert,
                         pg_net_g(n, il, PG_PART_PREGATE_BIAS));
    }
    if (pg_net_has(n, il, PG_PART_PREGATE_DOWN_BIAS)) {
        pg_net_sum_parts(n, n->sums.early_down_bias, n->opt.pregate_hidden,
                         pg_net_g(n, il, PG_PART_PREGATE_DOWN_BIAS));
    }
    if (pg_net_has(n, il, PG_PART_SH_INP))
        pg_net_sum_parts(n, n->sums.sh_inp, n->h->n_embd, pg_net_g(n, il, PG_PART_SH_INP));
    return 0;
}
