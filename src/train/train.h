/* SPDX-License-Identifier: MIT
 * What a trainer is made of. Shared by the files of training:
 *
 *   train.c             open, step, close: the loop of the paper
 *   weights.c           where weights come from
 *   freeze.c            which tensors stay as they are
 *   net/net.h           loss and gradient
 *   data/batches.h      documents to batches
 *   net/adam.h          the optimiser
 *   train_checkpoint.c  OUT.gguf.checkpoint
 *   train_export.c      OUT.gguf and OUT.pregate.gguf
 *
 * All memory is taken at open: weights, gradient and the two moments of AdamW in one block, what
 * the net needs for a batch, the text, and a report for each step.
 */
#ifndef PG_TRAIN_TRAIN_H
#define PG_TRAIN_TRAIN_H

#include "data/batches.h"
#include "net/adam.h"
#include "train/weights.h"

/* What is kept of a step's report: F32, so that a resumed run reports the same numbers. */
enum pg_metric {
    PG_METRIC_LOSS,
    PG_METRIC_BALANCE,
    PG_METRIC_STICKY,
    PG_METRIC_MISSES,
    PG_METRIC_KL,
    PG_METRIC_IMITATE,
    PG_METRIC_NORM,
    PG_METRIC_LR,
    PG_METRIC_SECONDS,
    PG_METRIC_COUNT
};

struct pg_train_paths {
    char out[4000], sidecar[4096], checkpoint[4096];
};

struct pg_trainer {
    struct pg_train_options opt; /* defaults filled in; its strings are copies */
    struct pg_train_paths path;
    enum pg_type type;           /* of matrices in OUT.gguf */
    struct pg_source source;     /* MODEL */
    struct pg_sidecar_head from; /* of the sidecar that training starts from, or zero */
    pg_vocab *vocab;
    struct pg_docs docs; /* or, of a model with an encoder: */
    struct pg_pairs pairs;
    struct pg_batches batches;
    struct pg_pool *pool;
    struct pg_net *net;
    const struct pg_params *params;
    bool *frozen; /* [params->n] */
    struct pg_adam adam;
    struct pg_adam_state s;
    size_t bytes_of_state;
    float *ref;          /* [n_values] the weights that training began with, or NULL */
    float *bias;         /* [n_moe] the cache's, or NULL */
    float *metrics;      /* [n_steps, PG_METRIC_COUNT] */
    struct pg_lock lock; /* on OUT */
    int step;            /* steps done */
    bool finished;
    bool broken; /* a step has failed half-way */
    char start_hash[17], data_hash[17], bias_hash[17];
};

/* train_checkpoint.c */
int pg_checkpoint_save(const struct pg_trainer *t, struct pg_err *err);
/* Fills weights, moments, metrics and step. *found: whether there is a checkpoint at all. */
int pg_checkpoint_load(struct pg_trainer *t, bool *found, struct pg_err *err);

/* train_export.c: both files, then the checkpoint goes. */
int pg_train_export(struct pg_trainer *t, struct pg_err *err);
/* Paths beside `out`, and that none of them is a file that is read. */
int pg_train_paths_make(struct pg_train_paths *p, const struct pg_train_options *opt,
                        struct pg_err *err);
/* "F16", "BF16" or "F32". */
int pg_train_type(const char *name, enum pg_type *out, struct pg_err *err);

#endif
