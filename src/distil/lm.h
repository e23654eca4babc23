/* SPDX-License-Identifier: MIT
 * Pre-gates that learn from the loss of the language model, which stays as it is. Shared by
 *
 *   lm.c         the order of things: steps, measurements on held-out text, what is said
 *   lm_open.c    memory, weights
 *   lm_text.c    what is learnt from, and what is held out
 *   lm_file.c    the checkpoint
 *   net/net.h    loss and gradient, the model frozen
 *   net/adam.h   the optimiser
 *
 * The engine gives dense weights as they lie in the file and a store of experts; it runs no step.
 * What the net and the optimiser take is what the engine's plan calls the caller's.
 *
 * The result is a function of the model, the sidecar that it began with, the text, the seed, the
 * steps and the batch. The batch follows from the memory unless it is given; slots and threads
 * change nothing.
 */
#ifndef PG_DISTIL_LM_H
#define PG_DISTIL_LM_H

#include "base/os.h"
#include "data/batches.h"
#include "engine/engine.h"
#include "net/adam.h"

/* What a run is, and how far it has come: the head of the checkpoint. */
struct pg_lm_head {
    /* Hashes; start: of the weights that it began with, bias: of the cache's, block by block. */
    char model[17], text[17], start[17], bias[17];
    uint64_t seed, level, n_hidden, n_steps, n_seq, seq_len, n_held, eval_every, sticky_cache,
        cache_form, n_runners_up, weigher;
    double lr, sticky, kl, imitate;
    /* Its place. */
    uint64_t step, n_measured; /* steps done; measurements on held-out text */
    uint64_t best_step;
    double first_nll, best_nll;   /* of held-out text */
    double first_loss, best_loss; /* with the other losses and their weights */
    double seconds;               /* of steps */
};

struct pg_lm {
    struct pg_tune_options opt; /* defaults filled in */
    char *checkpoint;           /* its path */
    struct pg_lock lock;        /* on OUT */
    struct pg_sidecar_head from;
    struct pg_docs train, held;                     /* or, of a model with an encoder: */
    struct pg_pairs pairs, train_pairs, held_pairs; /* all; parts, which borrow their tokens */
    struct pg_batches batches, held_batches;
    int n_held; /* batches that are measured on */
    struct pg_engine *engine;
    float *bias; /* [n_moe], or NULL */
    char bias_hash[17];
    struct pg_net_options net_options;
    struct pg_net *net;
    const struct pg_params *params;
    struct pg_adam adam;
    struct pg_adam_state s;
    float *best; /* the weights with the least loss on held-out text */
    void *base;  /* of the five vectors */
    size_t bytes;
    struct pg_plan plan; /* of the engine, with what we take as its caller */
    struct pg_lm_head head;
    int n_ticks;    /* blocks of the step under way */
    bool measuring; /* it is a measurement */
    /* Of the steps of this process. */
    int n_steps;
    uint64_t bytes_read; /* of experts */
    double seconds, cpu_seconds, stall_seconds;
};

/* lm_open.c: everything that a step needs. */
/* Whether a run could be opened, before distilling makes the sidecar that it would begin with. */
int pg_lm_check(const struct pg_tune_options *opt, struct pg_err *err);
int pg_lm_open(struct pg_lm *t, const struct pg_tune_options *opt, struct pg_err *err);
void pg_lm_close(struct pg_lm *t);

/* lm_text.c: reads the text and divides it; then, with the batch's size, the batches. */
int pg_lm_text(struct pg_lm *t, const pg_vocab *vocab, struct pg_err *err);
int pg_lm_batches(struct pg_lm *t, const struct pg_hparams *h, struct pg_err *err);
void pg_lm_text_close(struct pg_lm *t);

/* lm.c: after each block of a step. */
int pg_lm_tick(void *user);

/* lm_file.c */
int pg_lm_save(const struct pg_lm *t, struct pg_err *err);
/* Weights, moments and place of a run that is otherwise this one. */
int pg_lm_load(struct pg_lm *t, bool *found, struct pg_err *err);
/* Whether the file is there: then there is no need to distil first. */
bool pg_lm_is_begun(const struct pg_tune_options *opt);
char *pg_lm_checkpoint(const struct pg_tune_options *opt); /* for free() */

/* lm.c: pg_tune for the loss of the language model, from the sidecar opt->from_sidecar. */
int pg_lm_tune(const struct pg_tune_options *opt, struct pg_tune_report *out, struct pg_err *err);

#endif
