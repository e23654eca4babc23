/* SPDX-License-Identifier: MIT
 * What a trainable model is made of. Shared by
 *
 *   net.c         open, close, one run
 *   net_loops.c   the loops that all of them run in parallel
 *   net_params.c  the list of parameters
 *   net_attn.c    norm, queries, keys, values, attention, and back
 *   net_gate.c    who decides: probabilities, top-k, balance and sticky losses, and back
 *   net_ffn.c     experts, dense and shared feed-forward, and back
 *   net_out.c     output, loss, and the beginning of the way back
 *
 * T = n_seq * seq_len tokens, U = n_expert_used, E = n_embd, F = n_ff_exp.
 *
 * Tasks: PG_NET_ROWS rows of a batch; one (sequence, key head); one (expert, PG_NET_ROWS of its
 * rows) forward and one expert back; one block of rows of a weight gradient, summed over the whole
 * batch. The derivative of a vector (gain, bias) is summed per span of rows in `part` and then over
 * the spans.
 */
#ifndef PG_NET_NET_IMPL_H
#define PG_NET_NET_IMPL_H

#include "base/arena.h"
#include "net/net.h"
#include "net/rows/blas.h"
#include "net/rows/rows.h"

enum { PG_NET_ROWS = 256, PG_NET_QUERIES = 64, PG_NET_OUT_ROWS = 64 };

#define PG_NO_PART SIZE_MAX

struct pg_net_at {
    size_t part[PG_N_PARTS]; /* where in the flat vectors, or PG_NO_PART */
};

/* What the way back needs of a block. */
struct pg_net_block {
    pg_real *x0, *s0, *h1;        /* [T, E] input, [T] 1 / rms, [T, E] its norm */
    pg_real *q_raw, *k_raw;       /* before their norm; NULL without one */
    pg_real *q_s, *k_s;           /* [T, norms a row] 1 / rms */
    pg_real *q, *k, *v, *att;     /* rotated; output of attention */
    pg_real *lse;                 /* [T, n_head] of the scores */
    pg_real *x1, *s1, *h2;        /* after attention, likewise */
    pg_real *gate, *up;           /* [T * U, F] experts, by expert; or [T, n_ff] dense */
    pg_real *sh_gate, *sh_up, *s; /* [T, n_ff_shexp]; [T] sigmoid of the shared gate */
    pg_real *early, *early_act;   /* [T, pregate_hidden] of its pre-gate: z, silu(z); or NULL */
};

/* Rows of one expert that are computed together. */
struct pg_net_chunk {
    int expert, row, n;
};

/* The decision for one MoE block. */
struct pg_net_route {
    pg_real *p, *dlogits; /* [T, n_expert] probabilities; derivative of the logits */
    int32_t *id;          /* [T, U] by falling logit, ties by lower id */
    pg_real *weight;      /* [T, U] */
    uint8_t *missed;      /* [T, n_expert] not in the imagined cache, which is full; or NULL */
    int32_t *first;       /* [n_expert + 1] expert e has rows [first[e], first[e + 1]) */
    int32_t *token_of;    /* [T * U] row -> token */
    int32_t *pair_of;     /* [T * U] row -> (token, rank) */
    int32_t *row_of;      /* [T * U] (token, rank) -> row */
    pg_real *d_balance;   /* [n_expert] derivative of each token's probability */
    double balance, sticky;
};

/* Places in a span's row of `part`. */
struct pg_net_sums {
    size_t norm, q_bias, k_bias, v_bias, q_norm, k_norm, sh_inp, early_bias, early_down_bias, n;
};

struct pg_net {
    struct pg_net_options opt;
    const struct pg_model *model;
    const struct pg_hparams *h;
    const struct pg_row_ops *ops;
    struct pg_blas blas;
    struct pg_params params;
    size_t n_pregate_values; /* of them */
    struct pg_net_at *at;    /* [n_layer] */
    size_t at_embd, at_norm, at_output, at_freqs;
    bool rope_pairs;
    pg_real eps; /* of the norms */

    int n_tok, n_spans, n_q, n_kv;
    int q_norm_len, k_norm_len; /* 0: none */
    int max_ff;                 /* of dense and shared */
    int out_rows;               /* rows whose logits are there at once */
    struct pg_net_sums sums;
    void *memory;
    size_t bytes;
    bool too_large; /* while carving: a size that no number holds */

    struct pg_net_block *block; /* [n_layer] */
    struct pg_net_route *route; /* [n_moe] */
    pg_real *x_end, *s_end, *h_end;
    pg_real *rope_cos, *rope_sin; /* [seq_len, n_rot / 2] */
    pg_real *y;                   /* [T * U, E] an expert's output, back: derivative of its input */
    pg_real *dweight;             /* [T * U] by row */
    pg_real *ff[3];               /* [T, max_ff] back: act, dgate, dup of dense or shared */
    pg_real *dsh;                 /* [T] of the shared gate's logit */
    pg_real *dearly;              /* [T, pregate_hidden] of a pre-gate's z */
    pg_real *ones;                /* [pregate_hidden] */
    pg_real *dx, *dh, *dq, *dk, *dv, *datt;
    pg_real *logits; /* [out_rows, n_vocab] */
    double *nll;     /* [T] */
    double *miss;    /* [n_seq] */
    pg_real *part;   /* [n_spans, sums.n] */
    pg_real *room;   /* [n_threads, room_len] */
    size_t room_len;
    int32_t *recent; /* [n_threads, n_expert] */
    struct pg_net_chunk *chunk;
    int n_chunks;
    int32_t *order; /* [n_expert] */

    /* Of the run. */
    const pg_real *w;
    pg_real *g, scale;
    const struct pg_net_batch *batch;
    int64_t n_targets;
};

/* A task's block and net. */
struct pg_net_pass {
    struct pg_net *n;
    int il;
};

/* The weights, and where their derivatives go. */
static inline const pg_real *pg_net_w(const struct pg_net *n, int il, enum pg_block_part p)
{
    return n->w + n->at[il].part[p];
}
static inline pg_real *pg_net_g(const struct pg_net *n, int il, enum pg_block_part p)
{
    return n->g + n->at[il].part[p];
}
static inline bool pg_net_has(const struct pg_net *n, int il, enum pg_block_part p)
{
    return n->at[il].part[p] != PG_NO_PART;
}
/* The block's output: the next one's input. */
static inline pg_real *pg_net_x_out(const struct pg_net *n, int il)
{
    return il + 1 < n->h->n_layer ? n->block[il + 1].x0 : n->x_end;
}
/* Whether the block's state decides for a later one. */
static inline bool pg_net_has_pregate(const struct pg_net *n, int il)
{
    int moe = n->model->block[il].moe;
    return n->opt.gate == PG_GATE_PREGATE && moe >= 0 && moe + n->opt.level < n->model->n_moe;
}
static inline pg_real *pg_net_row(pg_real *x, int t, int len)
{
    return x + (size_t)t * (size_t)len;
}

/* net_loops.c */
struct pg_net_span {
    int t0, n; /* rows [t0, t0 + n) */
    pg_real *part;
};
struct pg_net_span pg_net_span(const struct pg_net *n, int task);
void pg_net_over_spans(struct pg_net *n, pg_task_fn *fn, int il);
/* g [n_out, n_in] += dy^T x over all rows of the batch; several at once. */
struct pg_net_outer {
    pg_real *g;
    const pg_real *dy, *x; /* [n_rows, n_out], [n_rows, n_in] */
    int n_out, n_in, n_rows;
};
void pg_net_outers(struct pg_net *n, const struct pg_net_outer *o, int n_outers);
/* g [len] += the sum over spans of part[at ..]. */
void pg_net_sum_parts(struct pg_net *n, size_t at, int len, pg_real *g);

/* net_params.c */
/* Refuses a model that the way forward would not be that of, by the name of what it has no use for.
 */
int pg_net_check(const struct pg_net *n, struct pg_err *err);
int pg_net_list(struct pg_net *n, struct pg_err *err);

/* net_attn.c */
void pg_net_rope(struct pg_net *n);
void pg_net_attention(struct pg_net *n, int il);
void pg_net_attention_back(struct pg_net *n, int il);

/* net_gate.c */
/* Who decides for block `to`, from the state of block `from`. */
struct pg_net_gate {
    int to; /* -1: nobody is decided here */
    enum pg_block_part part;
};
/* What the MoE block decides: for itself by its router, and for a later one by its pre-gate. */
void pg_net_gates(const struct pg_net *n, int moe, struct pg_net_gate out[2]);
void pg_net_decide(struct pg_net *n, const struct pg_net_span *s, int il);
/* After all rows have been decided: rows by expert, balance and sticky loss. */
void pg_net_routed(struct pg_net *n, int moe);
/* The block's own dlogits, from dweight and the losses; then dh += what it decides for. */
void pg_net_decide_back(struct pg_net *n, const struct pg_net_span *s, int il);

/* net_ffn.c */
void pg_net_ffn(struct pg_net *n, int il);
void pg_net_ffn_back(struct pg_net *n, int il);

/* net_out.c */
void pg_net_embed(struct pg_net *n);
void pg_net_embed_back(struct pg_net *n);
/* Losses to n->nll; with a gradient wanted, dx of the last block's output. */
void pg_net_output(struct pg_net *n);

#endif
