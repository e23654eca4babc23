/* SPDX-License-Identifier: MIT
 * One step of the model over a batch of rows: forward.c begins and ends it, block.c is the order of
 * a block, wave.c brings and computes experts.
 *
 * Scratch of a step, carved from one block at open (T = max_tok, U = n_expert_used, R = max_rows):
 *
 *   x    [T, n_embd]             the residual stream
 *   h    [T, n_embd]             its norm, input of attention and of the experts
 *   q    [T, n_head * head_dim]  k, v [T, n_head_kv * head_dim]
 *   att  [T, n_head * head_dim]  output of attention before attn_output
 *   proj [T, n_embd]             what attention, a dense or a shared feed-forward adds to x
 *   rope [T, n_rot / 2] cos and sin of each row's position
 *   score [n_threads, n_ctx]     one head's softmax; the longer of timeline and source
 *   bias  [n_head, 2 * reach + 1] of each stack that has relative positions
 *   y    [T * U, n_embd]         one row for each (token, chosen expert), an expert's rows
 * together; they are added up at the end, so that the order in which experts arrive changes nothing
 *   gate_ff, up_ff [R, n_ff]     inside the experts that are computed together
 */
#ifndef PG_MODEL_FORWARD_H
#define PG_MODEL_FORWARD_H

#include "model/model.h"

/* T5's buckets of relative positions, of n: half of them for one distance each, the others for
 * ranges that grow as its logarithm up to the reach. Where both directions are seen each has half
 * of all. `from`: place of the key less that of the query. */
enum { PG_POSITION_REACH = 128 };
int pg_bucket_of(int from, bool causal, int n);

struct pg_forward_options {
    const struct pg_model *model;
    struct pg_compute *compute;
    struct pg_gate *gate; /* NULL for a dense model, store likewise */
    struct pg_store *store;
    struct pg_trace *trace;
    const struct pg_ops *ops; /* get `compute` as their self */
    int max_tok, n_ctx, n_threads;
};

/* A step's rows sorted by expert: expert wanted[i] makes rows [first[i], first[i + 1]) of y.
 * Between sorting and combining experts do not meet: any part of `wanted` may be acquired and
 * computed by itself, in any order, and in another place. */
struct pg_wave {
    int n;
    int32_t *wanted, *first; /* [n_expert], [n_expert + 1] */
    int32_t *count;          /* [n_expert] tokens of each; then the next free row */
    int32_t *token_of;       /* [T * U] row of y -> token */
    int32_t *row_of;         /* [T * U] (token, rank) -> row of y */
    int32_t *iota;           /* [R] 0, 1, 2, … */
};
struct pg_part {
    int begin, n; /* wanted[begin], … */
};

struct pg_forward {
    struct pg_forward_options opt;
    const struct pg_ops *ops;
    const struct pg_model *model;
    struct pg_compute *c;

    int n_tok;                        /* of this step */
    const int32_t *token, *pos;       /* [n_tok] */
    const int32_t *n_seen, *n_source; /* [n_tok] positions that attention, and that cross attention,
                                         looks at */
    struct pg_kv *const *kv;          /* [n_tok] the session of each row */
    struct pg_err *err;
    const _Atomic bool *interrupted; /* the run ends at the next block with PG_ECANCELLED */

    float *x, *h, *q, *k, *v, *att, *proj, *rope_cos, *rope_sin, *score;
    float *y, *gate_ff, *up_ff;
    double *rope_freq; /* [n_rot / 2] radians a position */
    struct pg_position_bias bias[PG_STACKS];
    struct pg_input in_h, in_att, in_ff;

    struct pg_wave wave;
    int max_rows, max_group;       /* R, and experts computed together */
    uint64_t *block_ns;            /* [n_layer] since init, waiting for experts included */
    uint64_t attend_ns;            /* since init, of that: rows looking at positions */
    struct pg_lease *lease;        /* [max_group] */
    struct pg_op_product *product; /* [2 * max_group] */
};

/* With an arena that only measures, f is not to be used. */
void pg_forward_init(struct pg_forward *f, const struct pg_forward_options *opt,
                     struct pg_arena *a);

/* Rows [0, n_tok) through all blocks of a stack; x holds the result before the output norm. */
int pg_forward_run(struct pg_forward *f, int stack, struct pg_err *err);
/* After the encoder: the keys and values that cross attention will look at, of each row into the
 * cache of each block of the decoder. */
void pg_forward_source(struct pg_forward *f);
/* logits[i] [n_vocab] of row rows[i], i < n. */
void pg_forward_logits(struct pg_forward *f, const int32_t *rows, int n, float *logits);

/* x of all rows through block il. */
int pg_block(struct pg_forward *f, int il);
/* gate_ff = activation(gate_ff) * up_ff, n_row rows of n_ff, which become in_ff. */
void pg_activate(struct pg_forward *f, int n_ff, int n_row);

/* The route's rows into f->wave. */
void pg_wave_sort(struct pg_forward *f, const struct pg_route *route);
/* Asks the store for the experts of a part of the wave; one part at a time. */
void pg_wave_acquire(struct pg_forward *f, int il, struct pg_part part);
/* The part's rows of y, as its experts arrive. */
int pg_wave_compute(struct pg_forward *f, int il, struct pg_part part);

#endif
