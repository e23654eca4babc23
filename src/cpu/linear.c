/* SPDX-License-Identifier: MIT */
#include "cpu/linear.h"

void pg_input_carve(struct pg_input *in, struct pg_arena *a, int max_n, int max_tok)
{
    size_t n = (size_t)max_n, t = (size_t)max_tok;
    *in = (struct pg_input){0};
    in->acts[PG_ACT_F32].kind = PG_ACT_F32;
    for (int kind = PG_ACT_Q8; kind <= PG_ACT_Q8K; kind++) {
        size_t block = kind == PG_ACT_Q8 ? 32 : 256;
        in->acts[kind] = (struct pg_acts){
            .kind = (enum pg_act)kind,
            .q = pg_arena_take(a, t * n),
            .d = pg_arena_take(a, t * (n / block) * sizeof(float)),
            .sums = pg_arena_take(a, t * (n / 16) * sizeof(int16_t)),
        };
    }
}

void pg_input_set(struct pg_input *in, const float *x, int n, int n_tok)
{
    in->n = n;
    in->n_tok = n_tok;
    for (int kind = 0; kind < PG_ACT_COUNT; kind++) {
        in->acts[kind].n = n;
        in->acts[kind].f32 = x;
        in->ready[kind] = kind == PG_ACT_F32;
    }
}

void pg_rows(struct pg_compute *c, void (*fn)(void *arg, int row, int thread), void *arg, int n)
{
    if (n < 4) {
        for (int row = 0; row < n; row++)
            fn(arg, row, 0);
        return;
    }
    pg_pool_run(c->pool, fn, arg, n);
}

struct round_rows {
    struct pg_compute *c;
    struct pg_acts *a;
};

static void round_row(void *arg, int row, int thread)
{
    struct round_rows *r = arg;
    struct pg_acts *a = r->a;
    size_t n = (size_t)a->n, t = (size_t)row;
    bool q8 = a->kind == PG_ACT_Q8;
    size_t n_block = n / (q8 ? 32 : 256);
    (void)thread;
    (q8 ? r->c->k.act_q8 : r->c->k.act_q8k)(a->f32 + t * n, a->n, a->q + t * n, a->d + t * n_block,
                                            a->sums + t * (n / 16));
}

const struct pg_acts *pg_input_for(struct pg_input *in, struct pg_compute *c, enum pg_type type)
{
    enum pg_act kind = pg_type_traits((uint32_t)type)->act;
    if (!in->ready[kind]) {
        struct round_rows r = {c, &in->acts[kind]};
        pg_rows(c, round_row, &r, in->n_tok);
        in->ready[kind] = true;
    }
    return &in->acts[kind];
}

struct products {
    struct pg_compute *c;
    struct pg_product *p;
    int n;
};

static void product_task(void *arg, int task, int thread)
{
    struct products *ps = arg;
    struct pg_product *p = ps->p;
    (void)thread;
    while (task >= p->n_tasks) {
        task -= p->n_tasks;
        p++;
    }
    int row0 = task * p->chunk;
    ps->c->k.matmul[p->m.type](&p->m, row0, PG_MIN(row0 + p->chunk, p->n_out));
}

/* Bytes of weights for a task of one token: some tasks a thread so that none waits long for the
 * others, within bounds: a range that ends too soon never gets memory up to speed. */
static size_t task_bytes(struct pg_compute *c, const struct pg_product *p, int n)
{
    size_t total = 0, each;
    for (int i = 0; i < n; i++)
        total += pg_type_bytes(p[i].m.type, p[i].m.x->n) * (size_t)p[i].n_out;
    each = total / (size_t)(2 * pg_pool_n_threads(c->pool));
    return PG_MIN(PG_MAX(each, (size_t)64 << 10), (size_t)512 << 10);
}

/* Rows of a task. With several tokens the rows are unpacked once for all, and few rows suffice. */
static int chunk_rows(const struct pg_product *p, size_t bytes, int tile)
{
    size_t row_bytes = pg_type_bytes(p->m.type, p->m.x->n);
    size_t rows = p->m.n_tok == 1 ? bytes / row_bytes : 32;
    return (int)PG_MAX(1, rows / (size_t)tile) * tile;
}

void pg_products(struct pg_compute *c, struct pg_product *p, int n)
{
    int n_tasks = 0;
    size_t bytes = task_bytes(c, p, n);
    for (int i = 0; i < n; i++) {
        p[i].chunk = chunk_rows(&p[i], bytes, c->k.row_tile);
        p[i].n_tasks = (p[i].n_out + p[i].chunk - 1) / p[i].chunk;
        n_tasks += p[i].n_tasks;
    }
    struct products ps = {c, p, n};
    pg_pool_run(c->pool, product_task, &ps, n_tasks);
}

struct pg_product pg_product(struct pg_compute *c, const struct pg_weight *w, struct pg_input *in,
                             float *y)
{
    PG_ASSERT(w->data && w->n_in == in->n);
    return (struct pg_product){
        .m = {.w = w->data,
              .type = w->type,
              .x = pg_input_for(in, c, w->type),
              .n_tok = in->n_tok,
              .y = y,
              .y_stride = (size_t)w->n_out},
        .n_out = w->n_out,
    };
}

void pg_linear(struct pg_compute *c, const struct pg_weight *w, struct pg_input *in, float *y)
{
    struct pg_product p = pg_product(c, w, in, y);
    pg_products(c, &p, 1);
}
