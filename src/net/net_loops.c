/* SPDX-License-Identifier: MIT
 * The parallel loops that every piece of a net runs: over spans of rows, and over weight gradients.
 */
#include "net/net_impl.h"

struct pg_net_span pg_net_span_of(const struct pg_net *n, int n_rows, int task)
{
    int t0 = task * PG_NET_ROWS;
    return (struct pg_net_span){t0, PG_MIN(PG_NET_ROWS, n_rows - t0),
                                n->part + (size_t)task * n->sums.n};
}

struct pg_net_span pg_net_span(const struct pg_net *n, int task)
{
    return pg_net_span_of(n, n->n_tok, task);
}

void pg_net_over_spans(struct pg_net *n, pg_task_fn *fn, int il)
{
    struct pg_net_pass p = {n, il};
    pg_pool_run(n->opt.pool, fn, &p, n->n_spans);
}

void pg_net_sum_parts(struct pg_net *n, size_t at, int len, pg_real *g)
{
    for (int i = 0; g && i < n->n_spans; i++)
        n->ops->add(n->part + (size_t)i * n->sums.n + at, g, len);
}

struct outers {
    const struct pg_blas *blas;
    const struct pg_net_outer *o;
};
enum { OUTER_ROWS = 64, OUTER_DEPTH = 512 };

static int outer_tasks(const struct pg_net_outer *o)
{
    return o->g ? (o->n_out + OUTER_ROWS - 1) / OUTER_ROWS : 0;
}

static void outer(void *arg, int task, int thread)
{
    const struct outers *all = arg;
    const struct pg_net_outer *o = all->o;
    (void)thread;
    for (; task >= outer_tasks(o); o++)
        task -= outer_tasks(o);
    int first = task * OUTER_ROWS;
    for (int row = 0; row < o->n_rows; row += OUTER_DEPTH) { /* what a cache holds at a time */
        pg_gemm_tn(&(struct pg_gemm){.by = all->blas,
                                     .m = PG_MIN(OUTER_ROWS, o->n_out - first),
                                     .n = o->n_in,
                                     .k = PG_MIN(OUTER_DEPTH, o->n_rows - row),
                                     .a = o->dy + (size_t)row * (size_t)o->n_out + first,
                                     .lda = o->n_out,
                                     .b = o->x + (size_t)row * (size_t)o->n_in,
                                     .ldb = o->n_in,
                                     .beta = 1,
                                     .c = o->g + (size_t)first * (size_t)o->n_in,
                                     .ldc = o->n_in});
    }
}

void pg_net_outers(struct pg_net *n, const struct pg_net_outer *o, int n_outers)
{
    struct outers all = {&n->blas, o};
    int n_tasks = 0;
    for (int i = 0; i < n_outers; i++)
        n_tasks += outer_tasks(&o[i]);
    pg_pool_run(n->opt.pool, outer, &all, n_tasks);
}
