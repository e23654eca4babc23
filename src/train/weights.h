/* SPDX-License-Identifier: MIT
 * Where the weights of a training come from: a GGUF of any type that can be read, merged experts or
 * one tensor an expert, one file or a split set; random numbers; pre-gates out of a sidecar, or
 * folded out of routers.
 */
#ifndef PG_TRAIN_WEIGHTS_H
#define PG_TRAIN_WEIGHTS_H

#include "model/pregates.h"
#include "net/net.h"

struct pg_source {
    const char *path; /* borrowed */
    struct pg_gguf *gguf;
    struct pg_model model; /* shapes; no data */
};

int pg_source_open(struct pg_source *s, const char *path, struct pg_err *err);
void pg_source_close(struct pg_source *s);
/* Values of a parameter, which may be several tensors of the file; all finite. */
int pg_source_param(struct pg_source *s, const struct pg_param *p, float *out, struct pg_err *err);
/* pg_model_hash of the file's routers, which are read for it. */
int pg_source_hash(struct pg_source *s, char out[17], struct pg_err *err);

/* New values of parameter `index`: matrices normal with deviation 0.02, those that write into the
 * residual stream narrower by 1 / sqrt(2 n_layer), and of models with an encoder as T5's; norms 1,
 * biases 0. */
void pg_draw_param(const struct pg_param *p, const struct pg_hparams *h, uint64_t seed, int index,
                   float *out);

/* ---- pre-gates */

bool pg_is_pregate(const struct pg_param *p);
/* Out of the routers in w, gains folded in. */
void pg_fold_pregates(const struct pg_model *m, const struct pg_params *params, int level,
                      float *w);

#endif
