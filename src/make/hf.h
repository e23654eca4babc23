/* SPDX-License-Identifier: MIT
 * From a Hugging Face folder's weights to a GGUF's: which tensor is made of which, and what the
 * configuration says. Tensors and keys are named, and queries and keys of Llama permuted, as
 * llama.cpp's converter has them.
 */
#ifndef PG_MAKE_HF_H
#define PG_MAKE_HF_H

#include "format/gguf.h"
#include "format/safetensors.h"

#include <jansson.h>

/* Rows of a source tensor, which is matrices one behind the other. */
struct pg_hf_piece {
    const struct pg_st_tensor *t;
    int64_t first, n; /* rows */
};

/* A tensor of the GGUF: the rows of its pieces, one behind the other. */
struct pg_hf_out {
    char name[64];
    int n_dims;
    int64_t ne[3];      /* GGUF's order; rows have ne[0] values */
    bool is_small;      /* a gain, a bias, a router: always F32 */
    bool is_expert;     /* one for each expert */
    int n_head_rotated; /* rows of so many heads from halves to pairs; 0: as they are */
    int piece, n_pieces;
};

struct pg_hf_family;

/* Sizes that the configuration names; 0 where a family has none. */
struct pg_hf_dims {
    int64_t n_vocab, n_ctx, n_embd, n_layer, n_decoder, n_head, n_head_kv, head_dim, n_ff, n_ff_exp,
        n_ff_shexp, n_expert, n_used, n_buckets, start, capacity;
    double eps, theta, rope_factor;
    bool tied, renormalise, gated;
};

enum { PG_HF_PATH = 4300 };

struct pg_hf {
    const char *folder;
    char config_path[PG_HF_PATH];
    json_t *config;
    struct pg_st *st;
    uint8_t *used; /* [tensors] */
    const struct pg_hf_family *family;
    struct pg_hf_dims d;
    struct pg_hf_out *out;
    struct pg_hf_piece *piece;
    int n_out, n_pieces;
    size_t cap_out, cap_pieces;
};

/* FOLDER/name, and whether it is there. */
bool pg_hf_path(const struct pg_hf *f, const char *name, char path[PG_HF_PATH]);
/* Reads the configuration and the directory of weights, and makes the lists. Refuses a tensor that
 * nothing is made of. */
int pg_hf_open(struct pg_hf *f, const char *folder, struct pg_err *err);
void pg_hf_close(struct pg_hf *f);
/* The keys of the architecture, not of its vocabulary. */
int pg_hf_keys(const struct pg_hf *f, struct pg_gguf_writer *w, struct pg_err *err);

#endif
