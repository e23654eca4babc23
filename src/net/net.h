/* SPDX-License-Identifier: MIT
 * A model that can be trained: forward and backward over a batch, for every family of the engine.
 *
 * All weights are one flat vector w, all gradients one vector g of the same layout; struct
 * pg_params says where each tensor lies. Names and shapes are those of the GGUF file, so that
 * loading, freezing, saving and the optimiser are loops over one list. Matrices are
 * [n_out, n_in], merged experts [n_expert, n_out, n_in].
 *
 * The loss of one batch of T = n_seq * seq_len tokens, of which M have a target:
 *
 *   nll      mean over the M of -log softmax(logits)[target]
 *   balance  mean over MoE blocks of  E * sum_e f_e P_e        (Switch Transformer, eq. 4-6)
 *            f_e = (token, rank) pairs given to e / (T * n_expert_used), held constant
 *            P_e = mean over the T tokens of the gate's probability of e
 *   sticky   mean over MoE blocks, mean over the T tokens, of the expected miss
 *            sum_{e not in C_t} p_t(e), C_t the sticky_cache experts of this block that the tokens
 *            before t in its document used last (LRU; of one token's, the first rank counts as the
 *            last used); 0 while C_t is not full. C_t is held constant: the gradient goes through
 *            p_t only. Measured with sticky_cache > 0, whatever its weight.
 *   kl       mean over the M of  KL(p_ref || p) = sum_v p_ref(v) log(p_ref(v) / p(v)),
 *            p this model's distribution of the next token, p_ref that of the weights `reference`
 *            (struct pg_net_point; frozen: of the model) with routers deciding and no bias; p_ref
 *            is held constant. Only with kl_weight > 0
 *   imitate  mean over MoE blocks, mean over the T tokens, of
 *            KL(q || p) = sum_e q_e log(q_e / p_e),
 *            p the probabilities of the pre-gate that has chosen for the block, q those of the
 *            router that weighs; 0 for a block in which one gate does both. q is held constant: the
 *            pre-gate learns what the router says, and the state that it reads to show it early.
 *            Only with imitate_weight > 0
 *
 *   total = nll + balance_weight * balance + sticky_weight * sticky + kl_weight * kl
 *         + imitate_weight * imitate
 *
 * With a cache_bias the experts are chosen as the engine's gates choose them beside a cache (struct
 * pg_options): in each row of the batch, token after token, the experts of block b are ranked by
 * logit + cache_bias[b] * (largest - smallest logit) * here, where `here` is 1 for what an imagined
 * cache of this block holds, else 0; or, with PG_CACHE_MARGIN, by  probability + cache_bias[b] *
 * here,  the first by its logit before all others. Then the cache is given the chosen. It has
 * sticky_cache slots, keeps in them what the policy `cycle` (store/policy.h) keeps, is empty before
 * the row's first token, and goes on where a document ends, as the engine's does. The weights are
 * those of the logits without a bias, and the choice is held constant as ever. Counted with and
 * without a bias:
 *
 *   misses   mean over the T tokens of the chosen that the imagined cache did not hold, summed over
 *            MoE blocks: experts that would be read for a token
 *
 * "The gate" of a block is what decides it: its router, or with PG_GATE_PREGATE and block >= level
 * (counted over MoE blocks) the pre-gate of block - level on the normalised input of that block's
 * experts. Top-k is held constant; the gradient goes through the weights of the chosen, by the
 * family's rule (softmax or sigmoid over all, chosen weights renormalised or not, scaled).
 *
 * Where the router is the weigher of what a pre-gate has decided, w_e = scale * q_e of its own
 * probabilities, and where they are renormalised over the sum of its n_used largest, whichever are
 * chosen; the gradient goes through those, to the router. The pre-gate gets a straight-through
 * estimate: its logit of e the derivative  w_e dL/dw_e,  by how much the loss grows with e's part
 * of the answer; so the difference of two is what it would cost to take the one for the other.
 *
 * With n_runners_up > 0 the experts of the next ranks are computed, too, with a weight of 0. The
 * loss is as without them, but the gate is told of each how the loss would change with its weight,
 * by the same rule, as if that were p_e * scale: dp_e = scale * (dL/dw_e - along), along being the
 * mean of dL/dw over the chosen, by their weights (0 where they are not renormalised). This is a
 * straight-through estimate: the choice itself has no derivative, and without runners-up a gate
 * learns to divide between experts that it has chosen, never to choose others. Where the router
 * weighs, the estimate above is for those of the next ranks, too, with the w_e that they would
 * have.
 *
 * A router whose block a pre-gate decides and weighs is a parameter without a gradient, and so are
 * the factors of the rotation (rope_freqs.weight), which are read at each run.
 *
 * A model with an encoder has two rows for each of the n_seq: a source of source_len tokens, which
 * goes through the encoder, and the timeline of seq_len tokens, all of whose documents answer to a
 * source of that row. T is the number of tokens that go through a block's stack; padding is none of
 * them, has no part in any mean, and nothing sees it. Pre-gates choose within their stack.
 *
 * With dropout each value of the embeddings, of what an attention or feed-forward layer adds, and
 * of the last norms becomes 0 with this probability (to 1/65536), and is else divided by what is
 * left of 1. T5 does so, and besides inside of attention and feed-forward layers, which here is
 * not done. The reference's way forward drops nothing.
 *
 * Frozen, only pre-gates are in the flat vectors and have a gradient. Every other weight stays
 * where the engine has it, in its own format: the tensors of the block under way are unpacked into
 * one buffer, an expert's into the room of the thread that has its rows, as the store brings it.
 * What comes out is what the flat net has for the unpacked weights. A run keeps the input of each
 * block and the decisions; the way back makes a block's other activations again, and goes no
 * further down than a pre-gate's gradient needs. So each expert is read once on the way forward and
 * at most once back.
 *
 * Work is cut into tasks that do not depend on the number of threads, and each sum has one fixed
 * order, so the thread count changes no bit. (Another processor may: OpenBLAS's kernels differ.)
 */
#ifndef PG_NET_NET_H
#define PG_NET_NET_H

#include "base/pool.h"
#include "model/model.h"
#include "net/rows/real.h"

struct pg_param {
    char name[64];          /* GGUF's: "blk.0.ffn_gate_exps.weight" */
    int n_mat, n_out, n_in; /* n_mat: n_expert for experts, else 1; norms and biases: n_out 1 */
    size_t at, n;           /* values [at, at + n) of the flat vectors */
    bool is_matrix;         /* weight decay applies; drawn at random when trained from nothing. One
                             * of n_out 1, as any vector, is F32 in a file all the same */
};

struct pg_params {
    struct pg_param *p;
    int n;
    size_t n_values;
};
/* NULL when there is none of this name. */
const struct pg_param *pg_params_find(const struct pg_params *p, const char *name);

/* Where the pre-gates lie in w; parts that there are not have no values. gates [n_moe] */
void pg_pregates_in(const struct pg_model *m, const struct pg_params *params, float *w,
                    struct pg_pregate *gates);

struct pg_net_options {
    /* Shapes, family and which optional tensors there are (biases, tied output, dense blocks).
     * The directory is enough, no data is read; borrowed until close. */
    const struct pg_model *model;
    enum pg_gate_kind gate;
    int level;                 /* with PG_GATE_PREGATE: 1 … pg_most_level() */
    enum pg_gate_kind weigher; /* of what pre-gates decide */
    /* What pre-gates have beside their matrix (struct pg_pregate): a bias; a hidden layer of this
     * width, 0: none. */
    bool pregate_bias;
    int pregate_hidden;
    int n_seq, seq_len;
    int source_len; /* of a model with an encoder */
    float balance_weight, sticky_weight;
    int sticky_cache;        /* experts a block: of the sticky loss's cache and the imagined one */
    const float *cache_bias; /* [n_moe], borrowed until close; NULL: none */
    enum pg_cache_form cache_form;
    float kl_weight;
    float imitate_weight;
    int n_runners_up; /* experts a token beyond those used, which the gate learns from */
    float dropout;
    struct pg_pool *pool;
    /* Frozen: the model's dense weights are loaded when it runs, and its experts are in `store`,
     * which has n_slots and belongs to the net during a run. */
    bool frozen;
    int n_slots;
    struct pg_store *store;
    /* Frozen: after each block; what is not 0 ends the run with PG_ECANCELLED. NULL: nobody asks.
     */
    int (*tick)(void *user);
    void *user;
};

/* Row s of n_seq has tokens [s * seq_len, (s + 1) * seq_len). A row may hold several documents:
 * start[t] is the index in the row of the first token of t's document; attention looks no further
 * back, and positions count from there. target -1: no loss (end of a document, padding). */
struct pg_net_batch {
    const int32_t *token, *target, *start; /* [n_seq * seq_len] */
    /* Of a model with an encoder: the sources, likewise; and index in its row of sources of the
     * first token of the one that t's document answers to, later documents' not before earlier
     * ones'. At the end of either row a token of -1 is padding, a document of its own. */
    const int32_t *source, *source_start; /* [n_seq * source_len] */
    const int32_t *source_of;             /* [n_seq * seq_len] */
};

struct pg_net_loss {
    double total, nll, balance, sticky, misses, kl, imitate;
    int64_t n_targets;
};

struct pg_net;

/* Whether a model has so many experts beyond those that a token uses. */
int pg_net_check_runners_up(const struct pg_hparams *h, int n, struct pg_err *err);
/* Memory is taken here, all of it; pg_net_bytes says how much that would be. Loads OpenBLAS;
 * see pg_blas_check (net/rows/blas.h). */
int pg_net_open(struct pg_net **out, const struct pg_net_options *opt, struct pg_err *err);
void pg_net_close(struct pg_net *n);
uint64_t pg_net_bytes(const struct pg_net_options *opt);
const struct pg_params *pg_net_params(const struct pg_net *n);

/* Weights, and where scale times the loss's gradient at them is added (g NULL: forward only). */
struct pg_net_point {
    const pg_real *w;
    pg_real *g;
    pg_real scale;
    const pg_real *reference; /* [n_values], with kl_weight > 0 and not frozen; else NULL */
    uint64_t draw;            /* what this run drops, which is a function of it; 0: nothing */
};

/* The loss and the gradient. PG_EARG for a batch that is none (no target at all, ids out of range),
 * PG_ENUMERIC for a loss that is not finite; g is then of no use. */
int pg_net_run(struct pg_net *n, struct pg_net_point at, const struct pg_net_batch *batch,
               struct pg_net_loss *out, struct pg_err *err);
/* Additions and multiplications of the matrix products of a run, what is made again included. */
double pg_net_flop(const struct pg_net_options *opt, bool back);
/* Of the last run: ids the gate of MoE block `moe` chose, [n_seq * seq_len, n_expert_used +
 * n_runners_up]. */
const int32_t *pg_net_route(const struct pg_net *n, int moe);

#endif
