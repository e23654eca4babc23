/* SPDX-License-Identifier: MIT
 * A model's shapes, weights and forward pass. One file a family (llama.c, qwen2moe.c, qwen3moe.c,
 * olmoe.c, t5.c): hyperparameters and tensor names. What families share is in load.c (files to
 * weights) and block.c (the block, one for all: it asks the hyperparameters, and which weights are
 * there).
 *
 * Sizes carry GGUF's names. Matrices are [n_out, n_in], a row per output.
 */
#ifndef PG_MODEL_MODEL_H
#define PG_MODEL_MODEL_H

#include "format/gguf.h"
#include "gate/gate.h"
#include "model/ops.h"

enum { PG_STACKS = 2 };

struct pg_hparams {
    int n_vocab, n_ctx_train, n_layer, n_embd;
    int n_head, n_head_kv, head_dim;
    int n_ff;                    /* of dense blocks; 0: none */
    int n_expert, n_expert_used; /* 0: a dense model */
    int n_ff_exp, n_ff_shexp;    /* of an expert; of the shared expert, 0: none */
    int n_rot;                   /* leading values of each head that are rotated; 0: no rotation */
    float rms_eps, rope_base, rope_scale;
    float attn_scale;  /* of q · k */
    float logit_scale; /* of what goes into the output matrix */
    struct pg_gate_rule rule;
    /* What the arch itself says, not a key of the file. */
    enum pg_rope_kind rope;
    enum pg_activation activation;
    bool gated; /* act(gate) * up of three matrices; else act(up) of two */
    /* A stack runs from its first block to its last. A decoder alone is one; of an encoder and a
     * decoder the encoder is first, its tokens see each other in both directions, and each block of
     * the decoder looks at what it made of them (cross attention). */
    int n_stack;
    struct pg_stack {
        const char *prefix; /* of its tensors' names */
        int first, n_layer;
        bool causal;
    } stack[PG_STACKS];
    int decoder_start; /* token that a decoder begins with, of two stacks */
    int n_buckets;     /* of relative positions; 0: positions add nothing to q · k */
};

/* One block. data NULL: the family or the file does not have it. */
struct pg_block {
    struct pg_weight attn_norm, attn_q, attn_k, attn_v, attn_output; /* norms: n_out 1 */
    struct pg_weight attn_q_bias, attn_k_bias, attn_v_bias;
    struct pg_weight attn_q_norm, attn_k_norm;
    struct pg_weight attn_rel_b; /* [n_buckets, n_head], of a stack's first block for all */
    struct pg_weight cross_attn_norm, cross_attn_q, cross_attn_k, cross_attn_v, cross_attn_output;
    struct pg_weight ffn_norm;
    struct pg_weight ffn_gate, ffn_up, ffn_down; /* dense; no gate where nothing is gated */
    struct pg_weight ffn_gate_inp;               /* the router [n_expert, n_embd] */
    struct pg_weight exps[PG_SLABS]; /* gate, up, down of one expert; data NULL, see store */
    struct pg_weight ffn_gate_inp_shexp, ffn_gate_shexp, ffn_up_shexp, ffn_down_shexp;
    int moe; /* index among MoE blocks, -1: dense; the only member that is no weight */
};

/* The tensors that a block may have: those of struct pg_block, and those of its pre-gate, which
 * come from a sidecar. */
enum pg_block_part {
    PG_PART_ATTN_NORM,
    PG_PART_Q,
    PG_PART_K,
    PG_PART_V,
    PG_PART_ATTN_OUT,
    PG_PART_Q_BIAS,
    PG_PART_K_BIAS,
    PG_PART_V_BIAS,
    PG_PART_Q_NORM,
    PG_PART_K_NORM,
    PG_PART_REL_B,
    PG_PART_CROSS_NORM,
    PG_PART_CROSS_Q,
    PG_PART_CROSS_K,
    PG_PART_CROSS_V,
    PG_PART_CROSS_OUT,
    PG_PART_FFN_NORM,
    PG_PART_GATE,
    PG_PART_UP,
    PG_PART_DOWN,
    PG_PART_ROUTER,
    PG_PART_EXP_GATE,
    PG_PART_EXP_UP,
    PG_PART_EXP_DOWN,
    PG_PART_SH_INP,
    PG_PART_SH_GATE,
    PG_PART_SH_UP,
    PG_PART_SH_DOWN,
    PG_BLOCK_PARTS,
    PG_PART_PREGATE = PG_BLOCK_PARTS,
    PG_PART_PREGATE_BIAS,
    PG_PART_PREGATE_DOWN,
    PG_PART_PREGATE_DOWN_BIAS,
    PG_PART_PREGATE_UP,
    PG_N_PARTS
};
struct pg_part_info {
    const char *suffix;    /* GGUF's name: "attn_q.weight" */
    const char *in_stacks; /* the same where there are two stacks, as T5 has it; NULL: no other */
    size_t at;             /* in struct pg_block, or struct pg_pregate */
    bool is_matrix;        /* else a gain or a bias */
    bool is_expert;        /* there is one for each expert */
};
extern const struct pg_part_info pg_parts[PG_N_PARTS];
struct pg_weight *pg_block_part(struct pg_block *l, enum pg_block_part part);
struct pg_weight *pg_pregate_part(struct pg_pregate *p, enum pg_block_part part);
struct pg_tensor_name {
    char s[64];
};

struct pg_model;
struct pg_loader;

struct pg_family {
    const char *arch;
    /* Keys beyond the common ones, and what the arch itself says. */
    int (*hparams)(const struct pg_gguf *g, struct pg_hparams *h, struct pg_err *err);
    /* Names the tensors of block il. */
    int (*tensors)(struct pg_loader *l, struct pg_block *w, int il, struct pg_err *err);
};

extern const struct pg_family pg_family_llama, pg_family_qwen2moe, pg_family_qwen3moe,
    pg_family_olmoe, pg_family_t5, pg_family_switch;

struct pg_model {
    char arch[32], name[96];
    const struct pg_family *family;
    struct pg_hparams h;
    int n_used_of_file; /* h.n_expert_used before pg_model_use */
    struct pg_weight token_embd, output, rope_freqs;
    struct pg_weight output_norm[PG_STACKS];
    struct pg_block *block; /* [n_layer] of all stacks */
    struct pg_cache *cache; /* [n_cache] of each block; then those of cross attention */
    int n_cache;
    int n_moe;                        /* MoE blocks */
    struct pg_span moe_of[PG_STACKS]; /* a stack's */
    struct pg_place *place;           /* [n_moe * n_expert] */
    struct pg_extent *extent;         /* what is read into the dense arena */
    int n_extents;
    struct pg_resident *resident; /* weights to be pointed into it */
    int n_resident;
    uint64_t dense_bytes;        /* of the arena */
    uint64_t token_dense_bytes;  /* dense weights that one token reads */
    uint64_t expert_bytes;       /* all experts */
    uint64_t token_expert_bytes; /* experts that one token reads */
    uint64_t n_params, n_params_active;
    enum pg_type main_type; /* that most weights have */
};

/* Shapes and places from the directory; no weight is read. Refuses what it does not know, tensors
 * that the family has no use for included. */
int pg_model_open(struct pg_model *m, const struct pg_gguf *g, struct pg_err *err);
void pg_model_close(struct pg_model *m);
/* n_used experts a token from now on; what the model is known by (pg_model_hash) stays. */
int pg_model_use(struct pg_model *m, int n_used, struct pg_err *err);

struct pg_load {
    struct pg_io *io; /* opened on the parts of the file, in order */
    void *arena;      /* dense_bytes, page-aligned */
    int (*progress)(void *user, const char *what, uint64_t done, uint64_t total);
    void *user;
};
/* Reads the dense weights; afterwards every pg_weight has its data. */
int pg_model_load(struct pg_model *m, const struct pg_load *load, struct pg_err *err);
/* "blk.3.attn_q.weight"; blocks of a stack are counted from 0. */
struct pg_tensor_name pg_part_name(const struct pg_model *m, int il, enum pg_block_part part);
/* The block that a tensor of this name belongs to, and what follows in the name; -1: to none. */
int pg_block_of_name(const struct pg_model *m, const char *name, const char **suffix);
/* Block of the model that is MoE block `moe`, of [0, n_moe). */
int pg_block_of_moe(const struct pg_model *m, int moe);
/* The stack that a block belongs to, and the last of them, which ends in logits. */
int pg_stack_of(const struct pg_hparams *h, int il);
int pg_last_stack(const struct pg_hparams *h);
/* The cache of the cross attention of block il. */
int pg_cross_cache(const struct pg_hparams *h, int il);
/* Pre-gates: MoE block for which that of `moe` chooses, `level` on in the same stack; -1: none. */
int pg_moe_ahead(const struct pg_model *m, int moe, int level);
/* Whether that of an earlier block chooses for it. */
bool pg_is_decided_early(const struct pg_model *m, int moe, int level);
int pg_n_pregates(const struct pg_model *m, int level);
int pg_most_level(const struct pg_model *m);
/* 16 hex digits that name the base model of a sidecar: architecture, shapes and router weights, so
 * that one sidecar serves every quantisation of a model. routers [n_moe], as they lie in the file.
 */
void pg_model_hash(const struct pg_model *m, const struct pg_pregate *routers, char out[17]);
/* The routers of a loaded model, [n_moe]. */
void pg_model_routers(const struct pg_model *m, struct pg_pregate *out);

/* ---- what a family file uses to name tensors */

/* A part of block il, of n_in x n_out (n_out 1: a vector of F32); it must be there. */
int pg_loader_weight(struct pg_loader *l, int il, enum pg_block_part part, const int64_t shape[2],
                     struct pg_err *err);
/* The tensors of attention, and its cache: rows without a window. */
int pg_loader_attention(struct pg_loader *l, int il, struct pg_err *err);
/* Router and experts (merged or one tensor an expert); or the dense three when the block has no
 * router. */
int pg_loader_experts(struct pg_loader *l, struct pg_block *w, int il, struct pg_err *err);
int pg_loader_dense_ffn(struct pg_loader *l, struct pg_block *w, int il, struct pg_err *err);
/* The tensors of cross attention, and its cache: rows of the source. */
int pg_loader_cross(struct pg_loader *l, int il, struct pg_err *err);
const struct pg_hparams *pg_loader_hparams(const struct pg_loader *l);
bool pg_loader_has(const struct pg_loader *l, int il, const char *suffix);
/* A tensor that a file may have, and that the model has no use for. */
void pg_loader_ignore(struct pg_loader *l, int il, const char *suffix);

#endif
