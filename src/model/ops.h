/* SPDX-License-Identifier: MIT
 * What a block is made of, as a table: block.c says in which order the operations come, an
 * implementation how they are done (ops_cpu.c; a GPU's would work on device memory). Each takes a
 * struct that names its rows and weights, and knows nothing of models, steps and blocks. So another
 * order of a block, or one more field of an operation, is not another table.
 *
 * x [n_row, n] are rows of n values, one behind the other. A row's result depends on its own row,
 * on weights and on its own cache, and on nothing else. Weights whose data is NULL are not there.
 */
#ifndef PG_MODEL_OPS_H
#define PG_MODEL_OPS_H

#include "cpu/linear.h"
#include "model/kv.h"

enum pg_rope_kind { PG_ROPE_PAIRS, PG_ROPE_HALVES }; /* (0,1),(2,3)… or (0,n/2),(1,n/2+1)… */
enum pg_activation { PG_SILU, PG_RELU, PG_GELU };

/* x = the table's row of token; cosines and sines of pos * freq. */
struct pg_op_embed {
    const struct pg_weight *table; /* [n_vocab, n] */
    const int32_t *token, *pos;    /* [n_row] */
    const double *freq;            /* [n_freq] radians a position */
    int n_row, n_freq;
    float *x, *cosines, *sines; /* [n_row, n], [n_row, n_freq] twice */
};

/* y = x / rms(x) * gain, each gain->n_in values of a row by themselves. */
struct pg_op_norm {
    const struct pg_weight *gain;
    float eps;
    int n_row, n;
    const float *x;
    float *y; /* may be x */
};

/* y[j] = w in[row[j]] + bias */
struct pg_op_product {
    struct pg_weight w;
    const struct pg_weight *bias; /* NULL: none */
    struct pg_input *in;
    const int32_t *row; /* [n_row]; NULL: j */
    int n_row;
    float *y; /* [n_row, w.n_out] */
};

/* The first 2 * n_freq values of each head are rotated. */
struct pg_op_rope {
    enum pg_rope_kind kind;
    const float *cosines, *sines; /* [n_row, n_freq] */
    int n_row, n_freq, head_dim, n_head, n_head_kv;
    float *q, *k; /* [n_row, n_head * head_dim], [n_row, n_head_kv * head_dim] */
};

/* Rows of k and v into cache number `cache` of each row's session, at its position. */
struct pg_op_append {
    struct pg_kv *const *kv; /* [n_row] */
    const int32_t *pos;      /* [n_row] */
    int n_row, cache;
    const float *k, *v; /* [n_row, n_head * k_dim], [n_row, n_head * v_dim] of the cache */
};

/* What relative positions add to a head's q · k: of position j beside the row's own p,
 * at[head][reach + (j - p)], and beyond the reach what stands at its end. */
struct pg_position_bias {
    const float *at; /* [n_head, 2 * reach + 1] */
    int reach;
};

/* out = softmax(q · K * scale + bias) V of each head, over the first n_seen positions. */
struct pg_op_attend {
    struct pg_kv *const *kv; /* [n_row] */
    const int32_t *pos;      /* [n_row] the row's own; for the bias */
    const int32_t *n_seen;   /* [n_row] */
    int n_row, cache, n_head;
    float scale;
    const struct pg_position_bias *bias; /* NULL: none */
    const float *q;                      /* [n_row, n_head * k_dim] */
    float *score;                        /* [n_threads, n_ctx], to work in */
    int n_ctx;
    float *out; /* [n_row, n_head * v_dim] */
};

/* y = activation(gate) * up; without the factor where up is NULL */
struct pg_op_activate {
    enum pg_activation kind;
    int n_row, n;
    const float *gate, *up;
    float *y; /* may be gate */
};

/* x += sum over a row's experts, in their order, of weight * y[row_of], then sigmoid(g · h) *
 * shared. */
struct pg_op_combine {
    int n_row, n, n_used;
    const float *weight; /* [n_row, n_used] */
    const int32_t *row_of;
    const float *y;
    const struct pg_weight *shared_gate; /* g [1, n] */
    const float *shared, *h;             /* [n_row, n]; NULL: there is no shared expert */
    float *x;
};

/* y += x */
struct pg_op_add {
    int n_row, n;
    const float *x;
    float *y;
};

/* logits[i] = output (scale * norm(x[row[i]])) */
struct pg_op_logits {
    const struct pg_weight *gain, *output;
    float eps, scale;
    const int32_t *row; /* [n_row] */
    int n_row;
    const float *x;
    float *h; /* [n_row, n], to work in; `in` becomes its input */
    struct pg_input *in;
    float *logits; /* [n_row, output->n_out] */
};

/* `self` is the implementation's own: struct pg_compute for the CPU's. Operations that come as
 * several have as many rows each, and are done together. */
struct pg_ops {
    void (*embed)(void *self, const struct pg_op_embed *op);
    void (*norm)(void *self, const struct pg_op_norm *op, int n);
    void (*product)(void *self, const struct pg_op_product *op, int n); /* of any number of rows */
    void (*rope)(void *self, const struct pg_op_rope *op);
    void (*append)(void *self, const struct pg_op_append *op);
    void (*attend)(void *self, const struct pg_op_attend *op);
    void (*activate)(void *self, const struct pg_op_activate *op);
    void (*combine)(void *self, const struct pg_op_combine *op);
    void (*add)(void *self, const struct pg_op_add *op);
    void (*logits)(void *self, const struct pg_op_logits *op);
};
enum { PG_PRODUCTS_MAX = 64 }; /* that may come together */

extern const struct pg_ops pg_ops_cpu;

#endif
