/* SPDX-License-Identifier: MIT
 * Which experts, and when it is known: routers, pre-gates, and the hints they give.
 *
 * Blocks are counted over MoE blocks only, 0 … n_block - 1. A model of two stacks, an encoder and a
 * decoder, has the blocks of the one before those of the other; a step goes through one of them,
 * and nothing is known in it of the other's blocks. Per token and block one decision is
 * made (which experts run, with which weights) and one hint may be given earlier (which will
 * probably run). The mode names the pair:
 *
 *   mode          decides block b           hints, while block b runs
 *   resident      router b                  -
 *   ondemand      router b                  -
 *   prefetch-all  router b                  all experts of b + 1
 *   lookahead     router b                  pre-gate b, made of router b + level
 *   hint          router b                  pre-gate b, trained
 *   pregate       pre-gate b - level        the decision for b + level, which is final
 *
 * Who decides says which experts run. Their weights follow from the same logits; or, where the
 * sidecar names the router as weigher, from those that router b has when block b runs: nothing has
 * to be moved for them, so they need not be known early. Each of the chosen then weighs what it
 * would beside the router's own choice: where the rule lets weights sum to 1, it is the router's
 * n_used largest probabilities that do.
 *
 * A pre-gate is a map of the normalised input of a block's experts to logits, linear in the main
 * (struct pg_pregate), followed by the model's own rule. An untrained one is the router `level`
 * blocks on with the gains of the two norms folded in: norm_b(x) = g_b ⊙ x/rms(x), so W' =
 * W_{b+level} · diag(g_{b+level} / g_b) sees what that router would see if the residual stream
 * stood still.
 */
#ifndef PG_GATE_GATE_H
#define PG_GATE_GATE_H

#include "cpu/linear.h"
#include "store/routes.h"
#include "store/store.h"

/* How logits become experts and weights. */
struct pg_gate_rule {
    int n_expert, n_used;
    bool sigmoid;     /* else softmax over all experts */
    bool renormalise; /* the chosen weights sum to 1 */
    float scale;      /* applied last */
};

/* How experts that have a slot are preferred for a block (struct pg_options). */
struct pg_gate_bias {
    enum pg_cache_form form;
    float bias;
};

/* The map of one router or pre-gate: inp h + bias + up silu(down h + down_bias). Parts whose data
 * is NULL it does not have; without `inp` there is no gate. All but `inp` are F32. */
struct pg_pregate {
    struct pg_weight inp, bias;       /* [n_expert, n_embd], [1, n_expert] */
    struct pg_weight down, down_bias; /* [n_hidden, n_embd], [1, n_hidden]: both or none */
    struct pg_weight up;              /* [n_expert, n_hidden] */
};

/* A decision for a batch: row t's experts by falling weight, ties by lower id. */
struct pg_route {
    int32_t *id;   /* [n_tok, n_used] */
    float *weight; /* [n_tok, n_used] */
};

/* One who listens to the gates: called on the engine's thread for each batch that a router (to ==
 * block) or a pre-gate (to == block + level) has made logits of, before the rule is applied.
 * h: rows of the normalised input of `block`; logits [h->n_tok, n_expert]; valid for the call. */
struct pg_gate_tap {
    void (*seen)(void *user, int block, int to, const struct pg_input *h, const float *logits);
    void *user;
};

struct pg_gate_options {
    enum pg_mode mode; /* not AUTO */
    struct pg_gate_rule rule;
    enum pg_gate_kind weigher; /* of what pre-gates decide */
    int n_block, level, max_tok;
    const struct pg_span *stack; /* [n_stack] the blocks of each, borrowed */
    int n_stack;
    int n_hidden;                      /* the widest hidden layer; 0: there is none */
    const struct pg_pregate *routers;  /* [n_block], borrowed */
    const struct pg_pregate *pregates; /* [n_block], none in the last `level`; NULL: none */
    const pg_routes *routes;           /* forced decisions; NULL: none */
    struct pg_routes_out *routes_out;  /* told what is decided; NULL: nobody */
    const float *cache_bias;           /* [n_block], see struct pg_options; NULL: none */
    enum pg_cache_form cache_form;
    int n_extra;  /* experts that a hint names beyond those a token uses */
    int capacity; /* of two stacks: tokens of a source that an expert takes; 0: all */
    struct pg_store *store;
    struct pg_compute *compute;
};

struct pg_gate {
    struct pg_gate_options opt;
    struct pg_gate_rule named; /* what pre-gates name: of n_used, n_extra more where they hint */
    struct pg_gate_tap tap;    /* seen NULL: nobody listens */
    float *logits;             /* [max_tok, n_expert] */
    float *ranked;             /* the same with the cache's bias; NULL: there is none */
    uint8_t *here;             /* [n_expert] what the cache holds of the block that is decided */
    float *hidden;             /* [max_tok, n_hidden] */
    float *added;              /* [max_tok, n_expert] what the hidden layer adds */
    struct pg_route *ahead;    /* ring of level + 1 namings: block b is in b % (level + 1) */
    struct pg_route now;       /* where routers decide */
    int n_decided;             /* blocks of this step whose route is in `ahead`, or was */
    int32_t *hint_ids;         /* [n_expert] */
    uint32_t *votes;           /* [n_expert] of hints; and tokens taken */
};

/* Buffers come from the arena; nothing to close. */
void pg_gate_init(struct pg_gate *g, const struct pg_gate_options *opt, struct pg_arena *a);

/* The experts of `block` for the rows of h; pos[t] is row t's position in its session. *out is
 * valid until the block after next. PG_ENUMERIC when logits are not finite. */
int pg_gate_decide(struct pg_gate *g, int block, struct pg_input *h, const int32_t *pos,
                   const struct pg_route **out, struct pg_err *err);
/* What the mode knows, at block `block`, of later blocks; tells the store. In pregate mode this
 * decides block + level and may fail as pg_gate_decide does. */
int pg_gate_hint(struct pg_gate *g, int block, struct pg_input *h, const int32_t *pos,
                 struct pg_err *err);

/* The rule alone: logits [n_expert] to ids and weights [n_used]. Overwrites logits. False when they
 * are not finite. */
bool pg_gate_rule_apply(const struct pg_gate_rule *rule, const struct pg_kernels *k, float *logits,
                        int32_t *id, float *weight);
/* The n_used largest of x, by falling value, ties by lower id. */
void pg_gate_rule_rank(const struct pg_gate_rule *rule, const float *x, int32_t *id);
/* The same weights for ids that are given. */
bool pg_gate_rule_weigh(const struct pg_gate_rule *rule, const struct pg_kernels *k, float *logits,
                        const int32_t *id, float *weight);

/* `one` for all blocks, or the n of `each`, whose number must be that of the blocks. */
struct pg_gate_biases {
    float one;
    const float *each;
    int n;
};
/* One a block, for free(); NULL when none is above 0. */
int pg_gate_biases_make(const struct pg_gate_biases *b, int n_block, float **out,
                        struct pg_err *err);
/* What a checkpoint keeps of them; bias may be NULL. */
void pg_gate_biases_hash(const float *bias, int n_block, char out[17]);

/* out [n_expert, n_embd] = router rows (any format) times gain_to / gain_from. */
void pg_gate_fold(const struct pg_weight *router, const float *gain_from, const float *gain_to,
                  float *out);

#endif
