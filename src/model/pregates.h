/* SPDX-License-Identifier: MIT
 * Sidecars: pre-gates in a GGUF beside an unchanged model.
 *
 *   general.type "pregate", general.architecture "pregate"
 *   pregate.base.hash    names the base model (pg_model_hash)
 *   pregate.level        MoE blocks ahead
 *   pregate.trained_for  "hint" or "decide"
 *   pregate.weigher      "router" or "pregate": who weighs the experts that a pre-gate has chosen;
 *                        "pregate" where the key is missing
 *   blk.N.ffn_pregate_inp.weight   [n_expert, n_embd]; N counts the model's blocks
 *   blk.N.ffn_pregate_inp.bias     [n_expert]
 *   blk.N.ffn_pregate_down.weight  [n_hidden, n_embd]
 *   blk.N.ffn_pregate_down.bias    [n_hidden]
 *   blk.N.ffn_pregate_up.weight    [n_expert, n_hidden]
 *
 * The first is in all pre-gates; the second, and the last three together, in all or in none. Their
 * type is one whose values F32 holds exactly: F32, F16 or BF16. They are kept and written as F32.
 */
#ifndef PG_MODEL_PREGATES_H
#define PG_MODEL_PREGATES_H

#include "base/log.h"
#include "model/model.h"

/* What the pre-gates of one sidecar have beside their matrix. */
struct pg_pregate_form {
    bool bias;
    int n_hidden; /* 0: no hidden layer */
};
/* Shapes of the parts in that form (the others have no values), and their places one behind the
 * other from `at` on, which may be NULL. Returns how many values they have together. */
size_t pg_pregate_place(const struct pg_model *m, const struct pg_pregate_form *form, float *at,
                        struct pg_pregate *out);
/* The untrained pre-gate of MoE block `moe`: router moe + level, gains folded in. Needs loaded
 * weights; out [n_expert, n_embd]. */
void pg_pregate_fold(const struct pg_model *m, int moe, int level, float *out);

/* What a sidecar says without its weights. */
struct pg_sidecar_head {
    int level;
    bool decides;              /* trained for that, else to hint */
    enum pg_gate_kind weigher; /* pre-gates, where the file does not say */
    struct pg_pregate_form form;
};
/* Refuses what is no sidecar for a model of this shape: keys, tensors, their shapes and types. The
 * hash is not looked at. */
int pg_sidecar_peek(const struct pg_model *m, const char *path, struct pg_sidecar_head *out,
                    struct pg_err *err);
/* Says so where pre-gates that were made to decide begin a run in which another weighs. */
void pg_sidecar_say_weigher(struct pg_log log, const char *path, const struct pg_sidecar_head *head,
                            enum pg_gate_kind weigher);

/* A sidecar in memory: what it says, and the pre-gates, [n_moe]: of the MoE blocks that have one,
 * which all have the same parts. */
struct pg_sidecar {
    const struct pg_model *model; /* name, architecture, shapes; no weight of it is read */
    const char *hash;             /* pg_model_hash of the base model */
    int level;
    bool decides;
    enum pg_gate_kind weigher;
    const struct pg_pregate *gates;
};
/* Fills the memory that the parts of s->gates point to. Refused when the file is for another hash
 * or level, or has other parts; `decides` and `weigher` are not looked at. s->gates NULL: only that
 * the file is for this hash. */
int pg_sidecar_load(const struct pg_sidecar *s, const char *path, struct pg_err *err);
/* The file appears whole or not at all. */
int pg_sidecar_save(const struct pg_sidecar *s, const char *path, struct pg_err *err);

#endif
