/* SPDX-License-Identifier: MIT
 * What a trainable model is made of. Shared by
 *
 *   net.c         open, close, one run
 *   net_loops.c   the loops that all of them run in parallel
 *   net_params.c  the list of parameters
 *   net_frozen.c  weights of a model that stays as it is: unpacked, and brought by the store
 *   net_stack.c   the rows that go through a stack: what each sees, where positions say something
 *   net_attn.c    norm, queries, keys, values, attention to the rows before or to the source, and
 *                 back
 *   net_gate.c    who decides: probabilities, top-k, balance loss, and back
 *   net_cache.c   the imagined cache: choice with its bias, misses, sticky loss
 *   net_ffn.c     experts, dense and shared feed-forward, and back
 *   net_out.c     output, loss, and the beginning of the way back
 *   net_drop.c    dropout
 *
 * T = n_seq * seq_len tokens of the stack under way, U = n_rank, E = n_embd, F = n_ff_exp.
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
#include "store/policy.h"
#include "store/store.h"

enum { PG_NET_ROWS = 256, PG_NET_QUERIES = 64, PG_NET_OUT_ROWS = 64 };

#define PG_NO_PART SIZE_MAX

struct pg_net_at {
    /* Where in the flat vectors, or PG_NO_PART; frozen and not of a pre-gate: in the block buffer,
     * in which experts have no place. */
    size_t part[PG_N_PARTS];
};

/* What the way back needs of an attention. */
struct pg_net_attn {
    pg_real *x, *s, *h;       /* [T, E] input, [T] 1 / rms, [T, E] its norm */
    pg_real *q_raw, *k_raw;   /* before their norm; NULL without one */
    pg_real *q_s, *k_s;       /* [T, norms a row] 1 / rms */
    pg_real *q, *k, *v, *att; /* rotated; output of attention. k, v: of the source's rows in cross
                               * attention */
    pg_real *lse;             /* [T, n_head] of the scores */
};

/* What the way back needs of a block. */
struct pg_net_block {
    struct pg_net_attn self, cross; /* cross: all NULL where there is none */
    pg_real *x1, *s1, *h2;          /* after both: what comes out, [T] 1 / rms, its norm */
    pg_real *gate, *up;             /* [T * U, F] experts, by expert; or [T, n_ff] dense. Frozen:
                                     * dense only */
    pg_real *sh_gate, *sh_up, *s;   /* [T, n_ff_shexp]; [T] sigmoid of the shared gate */
    pg_real *early, *early_act;     /* [T, pregate_hidden] of its pre-gate: z, silu(z); or NULL */
};

/* Rows of one expert that are computed together. */
struct pg_net_chunk {
    int expert, row, n;
};

/* The decision for one MoE block. */
struct pg_net_route {
    /* [T, n_expert] probabilities of what decides; derivative of its logits. Where another weighs,
     * the same of the router, else NULL. */
    pg_real *p, *dlogits, *q, *dq;
    int32_t *id;        /* [T, U] by falling logit, ties by lower id */
    pg_real *weight;    /* [T, U] */
    uint8_t *missed;    /* [T, n_expert] not in the imagined cache, which is full; or NULL */
    int32_t *first;     /* [n_expert + 1] expert e has rows [first[e], first[e + 1]) */
    int32_t *token_of;  /* [T * U] row -> token */
    int32_t *pair_of;   /* [T * U] row -> (token, rank) */
    int32_t *row_of;    /* [T * U] (token, rank) -> row */
    pg_real *d_balance; /* [n_expert] derivative of each token's probability */
    double balance, sticky, misses, imitate;
};

/* How far the way back goes through a block. */
enum pg_net_way {
    PG_WAY_NONE,   /* nothing below learns, nor does the block */
    PG_WAY_READ,   /* its state alone is wanted: its pre-gate reads it */
    PG_WAY_WEIGH,  /* and the derivative of its experts' weights: its pre-gate is the first */
    PG_WAY_THROUGH /* and that of its input */
};

/* The rows of the batch that go through a stack. */
struct pg_net_stack {
    int first, end; /* its blocks */
    int seq_len, n_tok, n_spans;
    int32_t *from, *to;             /* [T] of its row, what a token sees: tokens [from, to) */
    const int32_t *token;           /* [T] of the run, below 0: padding */
    int n_live;                     /* tokens that are none */
    size_t at_norm;                 /* of its last norm, in of_ends */
    pg_real *x_end, *s_end, *h_end; /* its output, [T] 1 / rms, its norm */
    /* Where positions say something: what a token that is i - (seq_len - 1) behind adds to the
     * score, [n_head, 2 seq_len - 1], and the derivative, the same for each row of the batch. */
    pg_real *rel, *drel;
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
    size_t n_pregate_values;             /* of them */
    struct pg_net_at *at;                /* [n_layer] */
    size_t at_embd, at_output, at_freqs; /* the first two: flat only */
    bool rope_pairs;
    pg_real eps; /* of the norms */
    pg_real attn_scale, logit_scale;
    const struct pg_act_ops *act;

    struct pg_net_stack stack[PG_STACKS];
    int n_stack, max_tok, max_spans;
    int n_q, n_kv;
    int n_rank; /* experts of a token: those used, then the runners-up, whose weight is 0 */
    int q_norm_len, k_norm_len; /* 0: none */
    int max_ff;                 /* of dense and shared */
    int out_rows;               /* rows whose logits are there at once */
    struct pg_net_sums sums;
    void *memory;
    size_t bytes;
    bool too_large; /* while carving: a size that no number holds */

    struct pg_net_block *block; /* [n_layer] */
    struct pg_net_route *route; /* [n_moe] */
    /* Of two stacks: what each token sees of its row's source, [T]; derivative of what the encoder
     * made, [T of the source, E]. */
    int32_t *source_from, *source_to;
    pg_real *dsource;
    pg_real *rope_cos, *rope_sin; /* [seq_len, n_rot / 2] */
    pg_real *y;                   /* [T * U, E] an expert's output, back: derivative of its input */
    pg_real *dweight;             /* [T * U] by row */
    pg_real *ff[3];               /* [T, max_ff] back: act, dgate, dup of dense or shared */
    pg_real *dsh;                 /* [T] of the shared gate's logit */
    pg_real *dearly;              /* [T, pregate_hidden] of a pre-gate's z */
    pg_real *dx, *dh, *dq, *dk, *dv, *datt;
    pg_real *dy;     /* [T, E] of what a layer adds: without dropout dx itself */
    pg_real *logits; /* [out_rows, n_vocab] */
    double *nll;     /* [T] */
    /* Of the reference, or NULL: its h_end and logits, and its divergence, [T]. */
    pg_real *ref_h, *ref_logits;
    double *kl;
    double *of_row; /* [n_seq] sums over a row of the batch */
    pg_real *part;  /* [n_spans, sums.n] */
    pg_real *room;  /* [n_threads, room_len] */
    size_t room_len;
    int32_t *recent;            /* [n_threads, n_expert] */
    uint8_t *here;              /* [n_threads, n_expert] in the imagined cache */
    struct pg_net_cache *cache; /* [n_threads], or NULL */
    struct pg_net_chunk *chunk;
    int n_chunks;
    int32_t *order; /* [n_expert] */

    /* Frozen; else no memory. */
    size_t block_len;       /* of the longest block's tensors */
    pg_real *block_w;       /* [block_len] */
    pg_real *end_w;         /* output norm, factors of the rotation */
    pg_real *tile;          /* [tile_rows, n_embd] of the output matrix */
    int tile_rows;          /* flat: all */
    struct pg_lease *lease; /* [n_expert] */
    int32_t *wanted;        /* [n_expert] */
    int under_way;          /* the block whose activations are there */

    /* The stack under way. */
    struct pg_net_stack *now;
    int n_tok, n_spans, seq_len;

    /* Of the run. Where parts of blocks lie, and norm and factors: w, or the buffers above. */
    const pg_real *w, *of_blocks, *of_ends, *ref_w;
    enum pg_gate_kind gate;
    const float *bias; /* [n_moe], or NULL */
    bool refers;       /* it is the reference's way forward */
    uint64_t draw;     /* of its dropout; 0: none */
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
    return (p < PG_BLOCK_PARTS ? n->of_blocks : n->w) + n->at[il].part[p];
}
/* NULL: it is frozen. */
static inline pg_real *pg_net_g(const struct pg_net *n, int il, enum pg_block_part p)
{
    return p < PG_BLOCK_PARTS && n->opt.frozen ? NULL : n->g + n->at[il].part[p];
}
static inline bool pg_net_has(const struct pg_net *n, int il, enum pg_block_part p)
{
    return n->at[il].part[p] != PG_NO_PART;
}
/* The block's output: the next one's input. */
static inline pg_real *pg_net_x_out(const struct pg_net *n, int il)
{
    const struct pg_net_stack *stack = &n->stack[pg_stack_of(n->h, il)];
    return il + 1 < stack->end ? n->block[il + 1].self.x : stack->x_end;
}
/* Whether the block's state decides for a later one. */
static inline bool pg_net_has_pregate(const struct pg_net *n, int il)
{
    int moe = n->model->block[il].moe;
    return n->opt.gate == PG_GATE_PREGATE && moe >= 0 &&
           pg_moe_ahead(n->model, moe, n->opt.level) >= 0;
}
/* Of the stack under way: a token, and no padding. */
static inline bool pg_net_is_live(const struct pg_net *n, int t)
{
    return n->now->token[t] >= 0;
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
/* The same of n_rows rows that may be another stack's. */
struct pg_net_span pg_net_span_of(const struct pg_net *n, int n_rows, int task);
void pg_net_over_spans(struct pg_net *n, pg_task_fn *fn, int il);
/* g [n_out, n_in] += dy^T x over all rows of the batch; several at once, none where g is NULL. */
struct pg_net_outer {
    pg_real *g;
    const pg_real *dy, *x; /* [n_rows, n_out], [n_rows, n_in] */
    int n_out, n_in, n_rows;
};
void pg_net_outers(struct pg_net *n, const struct pg_net_outer *o, int n_outers);
/* g [len] += the sum over spans of part[at ..], unless g is NULL. */
void pg_net_sum_parts(struct pg_net *n, size_t at, int len, pg_real *g);

/* net_params.c */
/* Refuses a model that the way forward would not be that of, by the name of what it has no use for.
 */
int pg_net_check(const struct pg_net *n, struct pg_err *err);
int pg_net_list(struct pg_net *n, struct pg_err *err);
/* Frozen: where the block's tensors but experts lie in block_w (at NULL: not asked); how many
 * values they have together. */
size_t pg_net_lay_out(const struct pg_net *n, int il, struct pg_net_at *at);

/* net_frozen.c */
void pg_net_unpack(const struct pg_weight *w, int row, int n_rows, pg_real *out);
void pg_net_unpack_ends(struct pg_net *n);
/* The block's tensors but experts into block_w. */
void pg_net_unpack_block(struct pg_net *n, int il);
/* Rows [row, row + n_rows) of the output matrix: into `tile` unless they are there. */
const pg_real *pg_net_output_rows(struct pg_net *n, const pg_real *w, int row, int n_rows);
/* fn once for each expert of the block that has rows, as they are brought. `task` is the place of
 * its lease in n->lease. */
int pg_net_bring(struct pg_net *n, int il, bool back, pg_task_fn *fn, struct pg_err *err);
/* Lets reads go on; of use on the caller's thread. */
static inline void pg_net_poll(const struct pg_net *n, int thread)
{
    if (n->opt.frozen && thread == 0)
        pg_store_poll(n->opt.store);
}
/* Asks whoever gave the options whether to go on. */
int pg_net_tick(const struct pg_net *n, struct pg_err *err);
enum pg_net_way pg_net_way_back(const struct pg_net *n, int il);

/* net_stack.c */
/* The stacks as the model has them, and how many tokens go through each. */
void pg_net_stacks(struct pg_net *n);
/* What follows goes through the stack. */
void pg_net_enter(struct pg_net *n, int stack);
int pg_net_check_batch(struct pg_net *n, const struct pg_net_batch *b, struct pg_err *err);
/* What each token of the run's batch sees. */
void pg_net_see(struct pg_net *n);
/* rel, from the tables of both stacks; after the way back of a stack's blocks, its table's
 * gradient. */
void pg_net_positions(struct pg_net *n);
void pg_net_positions_back(struct pg_net *n);
/* h_end of the encoder; from dsource the derivative of its last block's output. */
void pg_net_source(struct pg_net *n);
void pg_net_source_back(struct pg_net *n);

/* net_drop.c */
/* Of a block, or with a block of -1 of the stack under way. */
enum pg_net_drop {
    PG_DROP_SELF,
    PG_DROP_CROSS,
    PG_DROP_FFN,
    PG_DROP_EMBD,
    PG_DROP_END,
    PG_NET_DROPS
};
static inline bool pg_net_drops(const struct pg_net *n)
{
    return n->draw && n->opt.dropout > 0 && !n->refers;
}
/* A row of n_embd values, of a run that drops; the same again for its derivative. */
void pg_net_drop_row(const struct pg_net *n, int il, enum pg_net_drop what, int t, pg_real *x);
/* All rows of the stack under way, if the run drops. */
void pg_net_drop(struct pg_net *n, int il, enum pg_net_drop what, pg_real *x);
/* dy, the derivative of what the layer adds, from dx. */
void pg_net_drop_back(struct pg_net *n, int il, enum pg_net_drop what);
/* out = x + a layer: between the two the layer's products are added to out. */
void pg_net_begin_add(const struct pg_net *n, const pg_real *x, pg_real *out, size_t len);
void pg_net_end_add(const struct pg_net *n, int il, enum pg_net_drop what,
                    const struct pg_net_span *s, const pg_real *x, pg_real *out);

/* net_attn.c */
void pg_net_rope(struct pg_net *n);
void pg_net_attention(struct pg_net *n, int il);
void pg_net_attention_back(struct pg_net *n, int il);

/* net_gate.c */
/* A map from the state of a block to logits for block `to`. */
struct pg_net_gate {
    int to; /* -1: there is none */
    enum pg_block_part part;
    bool chooses;         /* else it weighs what is chosen */
    pg_real *p, *dlogits; /* [T, n_expert] where its probabilities are, and their derivative */
};
/* Those of the MoE block: its router for itself, and its pre-gate for a later one. */
void pg_net_gates(const struct pg_net *n, int moe, struct pg_net_gate out[2]);
void pg_net_decide(struct pg_net *n, const struct pg_net_span *s, int il);
/* Hidden values of the block's pre-gate. */
void pg_net_early(struct pg_net *n, const struct pg_net_span *s, int il);
/* What row t's experts are ranked by beside a cache: its logits in r->p stay as they are. */
void pg_net_prefer(const struct pg_net *n, int moe, int t, const uint8_t *here, pg_real *ranked);
/* Row t's experts, the n_used largest of `ranked`, and their weights: its logits in r->p become
 * probabilities. `ranked` may be the logits. */
void pg_net_choose(const struct pg_net *n, struct pg_net_route *r, int t, const pg_real *ranked);
/* After all rows have been through pg_net_decide: what is left of its decisions; then of this block
 * rows by expert, balance and sticky loss. */
void pg_net_routed(struct pg_net *n, int moe);
/* The block's own dlogits and dq, from dweight and the losses; then dh += what its gates bring. */
void pg_net_decide_back(struct pg_net *n, const struct pg_net_span *s, int il);

/* net_cache.c */
size_t pg_net_cache_bytes(const struct pg_net_options *o); /* on the heap */
int pg_net_cache_open(struct pg_net *n, struct pg_err *err);
void pg_net_cache_close(struct pg_net *n);
/* When the logits of all rows are there: the experts, if the gate is biased, and their misses. */
void pg_net_cache(struct pg_net *n, int moe);
void pg_net_sticky(struct pg_net *n, int moe);

/* net_ffn.c */
int pg_net_ffn(struct pg_net *n, int il, struct pg_err *err);
/* After attention, what else the way back needs of the block and is not kept. */
void pg_net_ffn_again(struct pg_net *n, int il);
int pg_net_ffn_back(struct pg_net *n, int il, struct pg_err *err);

/* net_out.c */
void pg_net_embed(struct pg_net *n);
void pg_net_embed_back(struct pg_net *n);
/* After the way forward: ref_h. */
void pg_net_reference(struct pg_net *n);
/* Losses to n->nll and n->kl; with a gradient wanted, dx of the last block's output. */
void pg_net_output(struct pg_net *n);

#endif
