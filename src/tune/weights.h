/* SPDX-License-Identifier: MIT
 * Where the weights of a training come from: a GGUF of any type that can be read, merged experts or
 * one tensor an expert, one file or a split set; random numbers; pre-gates out of a sidecar, or
 * folded out of routers.
 */
#ifndef PG_TUNE_WEIGHTS_H
#define PG_TUNE_WEIGHTS_H

#include "tune/net.h"

struct pg_source {
    const char *path; /* borrowed */
    struct pg_gguf *gguf;
    struct pg_model model; /* shapes; no data */
    int *fd;               /* [n_parts], -1: not opened yet */
    void *raw;             /* a piece of a tensor as it lies in the file */
};

int pg_source_open(struct pg_source *s, const char *path, struct pg_err *err);
void pg_source_close(struct pg_source *s);
/* Values of a tensor of the file. */
int pg_source_tensor(struct pg_source *s, const struct pg_gguf_tensor *t, float *out,
                     struct pg_err *err);
/* Values of a parameter, which may be several tensors of the file; all finite. */
int pg_source_param(struct pg_source *s, const struct pg_param *p, float *out, struct pg_err *err);
/* pg_model_hash of the file's routers, which are read for it. */
int pg_source_hash(struct pg_source *s, char out[17], struct pg_err *err);

/* New values of parameter `index`: matrices normal with deviation 0.02, those that write into the
 * residual stream narrower by 1 / sqrt(2 n_layer); norms 1, biases 0. */
void pg_draw_param(const struct pg_param *p, int n_layer, uint64_t seed, int index, float *out);

/* ---- pre-gates */

bool pg_is_pregate(const struct pg_param *p);
struct pg_tensor_name {
    char s[64];
};
/* "blk.3.ffn_pregate_inp.weight", of the block whose state is read and "inp.weight". */
struct pg_tensor_name pg_pregate_name(int block, const char *part);
/* What the pre-gates of a sidecar have beside their matrix. */
struct pg_pregate_form {
    bool bias;
    int n_hidden;
};
int pg_pregates_form(const char *path, struct pg_pregate_form *out, struct pg_err *err);
/* Out of the routers in w, gains folded in. */
void pg_fold_pregates(const struct pg_model *m, const struct pg_params *params, int level,
                      float *w);

struct pg_sidecar_source {
    const char *path;
    const char *hash; /* of the base model it must belong to */
    int level;
};
int pg_read_pregates(const struct pg_sidecar_source *from, const struct pg_params *params, float *w,
                     struct pg_err *err);

#endif
