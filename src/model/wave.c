/* SPDX-License-Identifier: MIT
 * The experts of a step: rows sorted by expert, and each expert's computed as it arrives, as many
 * together as fit.
 */
#include "base/os.h"
#include "model/forward.h"

#include <string.h>

void pg_wave_sort(struct pg_forward *f, const struct pg_route *route)
{
    struct pg_wave *v = &f->wave;
    int n_used = f->model->h.n_expert_used, n_expert = f->model->h.n_expert;
    int n_pairs = f->n_tok * n_used, row = 0;
    memset(v->count, 0, (size_t)n_expert * sizeof(v->count[0]));
    for (int i = 0; i < n_pairs; i++) {
        PG_ASSERT(route->id[i] >= 0 && route->id[i] < n_expert);
        v->count[route->id[i]]++;
    }
    v->n = 0;
    for (int e = 0; e < n_expert; e++) {
        int n = v->count[e];
        if (n) {
            v->wanted[v->n] = e;
            v->first[v->n++] = row;
            v->count[e] = row;
            row += n;
        }
    }
    v->first[v->n] = row;
    PG_ASSERT(row == n_pairs);
    for (int i = 0; i < n_pairs; i++) {
        int at = v->count[route->id[i]]++;
        v->token_of[at] = i / n_used;
        v->row_of[i] = at;
    }
}

void pg_wave_acquire(struct pg_forward *f, int il, struct pg_part part)
{
    PG_ASSERT(part.begin >= 0 && part.begin + part.n <= f->wave.n);
    pg_store_acquire(f->opt.store, f->model->block[il].moe, f->wave.wanted + part.begin, part.n);
}

/* The leases that are computed together. */
struct group {
    struct pg_part part;
    int n;
    struct pg_lease spare; /* one that no longer fitted is kept for the next group */
    bool has_spare;
};

/* Rows of y that a lease's expert makes: the first of them, and how many. */
static int lease_rows(const struct pg_forward *f, const struct group *g, const struct pg_lease *l,
                      int *first)
{
    int i = g->part.begin + l->index;
    PG_ASSERT(f->wave.wanted[i] == l->expert);
    *first = f->wave.first[i];
    return f->wave.first[i + 1] - *first;
}

/* A product of one slab with some rows of the input. */
static struct pg_op_product slab_product(const struct pg_block *w, const struct pg_lease *l,
                                         int slab)
{
    struct pg_op_product p = {.w = w->exps[slab]};
    p.w.data = l->slab[slab];
    return p;
}

/* The group's experts, whose tokens are at most max_rows together, in three parallel loops. */
static void compute_group(struct pg_forward *f, const struct pg_block *w, const struct group *g)
{
    int n_ff = f->model->h.n_ff_exp, n_in = f->model->h.gated ? 2 : 1, row = 0, first;
    struct pg_op_product *p = f->product;
    for (int i = 0; i < g->n; i++) {
        int n = lease_rows(f, g, &f->lease[i], &first);
        float *y[2] = {f->gate_ff + (size_t)row * (size_t)n_ff,
                       f->up_ff + (size_t)row * (size_t)n_ff};
        for (int j = 0; j < n_in; j++) {
            struct pg_op_product *in = &p[n_in * i + j];
            *in = slab_product(w, &f->lease[i], PG_SLABS - 1 - n_in + j);
            in->in = &f->in_h;
            in->row = f->wave.token_of + first;
            in->n_row = n;
            in->y = y[j];
        }
        row += n;
    }
    f->ops->product(f->c, p, n_in * g->n);
    pg_store_poll(f->opt.store);
    pg_activate(f, n_ff, row);
    row = 0;
    for (int i = 0; i < g->n; i++) {
        int n = lease_rows(f, g, &f->lease[i], &first);
        p[i] = slab_product(w, &f->lease[i], PG_SLABS - 1);
        p[i].in = &f->in_ff;
        p[i].row = f->wave.iota + row;
        p[i].n_row = n;
        p[i].y = f->y + (size_t)first * (size_t)f->model->h.n_embd;
        row += n;
    }
    f->ops->product(f->c, p, g->n);
}

/* Takes leases while experts are there and their rows fit together; waits for the first one only.
 * Returns their number, or an error. */
static int gather_group(struct pg_forward *f, struct group *g)
{
    int rows = 0, rc, first;
    g->n = 0;
    if (g->has_spare) {
        f->lease[g->n++] = g->spare;
        rows = lease_rows(f, g, &g->spare, &first);
        g->has_spare = false;
    }
    while (g->n < f->max_group && (g->n == 0 || pg_store_n_ready(f->opt.store) > 0)) {
        struct pg_lease l;
        rc = pg_store_next(f->opt.store, &l, f->err);
        if (rc <= 0)
            return rc < 0 ? rc : g->n;
        int n = lease_rows(f, g, &l, &first);
        if (g->n && rows + n > f->max_rows) {
            g->spare = l;
            g->has_spare = true;
            break;
        }
        f->lease[g->n++] = l;
        rows += n;
    }
    return g->n;
}

int pg_wave_compute(struct pg_forward *f, int il, struct pg_part part)
{
    struct group g = {.part = part};
    int rc;
    while ((rc = gather_group(f, &g)) > 0) {
        uint64_t begin = f->opt.trace ? pg_now_ns() : 0;
        compute_group(f, &f->model->block[il], &g);
        for (int i = 0; i < g.n; i++)
            pg_store_release(f->opt.store, &f->lease[i]);
        if (f->opt.trace)
            pg_trace_add(f->opt.trace,
                         (struct pg_trace_event){"experts", begin, pg_now_ns(), PG_TRACK_COMPUTE,
                                                 il, g.n == 1 ? f->lease[0].expert : -1});
    }
    return rc;
}
