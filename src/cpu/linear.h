/* SPDX-License-Identifier: MIT
 * Matrix products over the thread pool.
 *
 * A pg_input is a batch of activation rows together with the roundings of them that products ask
 * for, each made once. Several products run as one parallel loop, cut into row ranges, so that
 * small matrices share one dispatch. A range is computed by one thread whole, hence the thread
 * count changes no bit.
 */
#ifndef PG_CPU_LINEAR_H
#define PG_CPU_LINEAR_H

#include "base/arena.h"
#include "base/pool.h"
#include "cpu/kernels.h"

struct pg_compute {
    struct pg_kernels k;
    struct pg_pool *pool;
};

/* A matrix [n_out, n_in] as it lies in memory. data NULL: absent. */
struct pg_weight {
    enum pg_type type;
    int n_in, n_out;
    const void *data;
};

struct pg_input {
    int n, n_tok;
    bool ready[PG_ACT_COUNT];
    struct pg_acts acts[PG_ACT_COUNT];
};

/* Room for max_tok rows of max_n values in all roundings. */
void pg_input_carve(struct pg_input *in, struct pg_arena *a, int max_n, int max_tok);
/* x [n_tok, n] is borrowed until the next set. */
void pg_input_set(struct pg_input *in, const float *x, int n, int n_tok);
/* The rows as a product with `type` wants them. */
const struct pg_acts *pg_input_for(struct pg_input *in, struct pg_compute *c, enum pg_type type);

/* Runs fn(arg, row) for rows [0, n), over the pool when there are enough of them. */
void pg_rows(struct pg_compute *c, void (*fn)(void *arg, int row, int thread), void *arg, int n);

struct pg_product {
    struct pg_matmul m;
    int n_out;
    int n_tasks, chunk; /* filled by pg_products */
};
/* All products, in one loop. */
void pg_products(struct pg_compute *c, struct pg_product *p, int n);
/* y [in->n_tok, w->n_out] = in · wᵀ; as a product to be run, or at once. */
struct pg_product pg_product(struct pg_compute *c, const struct pg_weight *w, struct pg_input *in,
                             float *y);
void pg_linear(struct pg_compute *c, const struct pg_weight *w, struct pg_input *in, float *y);

#endif
