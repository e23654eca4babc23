/* SPDX-License-Identifier: MIT
 * What a family's file of the converter is made of: numbers of the configuration, and tensors.
 */
#ifndef PG_MAKE_HF_IMPL_H
#define PG_MAKE_HF_IMPL_H

#include "make/hf.h"

struct pg_hf_keys {
    struct pg_gguf_writer *w;
    const char *arch;
    struct pg_err *err;
    int rc; /* the first failure; the rest is skipped */
};

struct pg_hf_family {
    const char *model_type, *arch;                    /* of config.json, of the GGUF */
    int (*dims)(struct pg_hf *f, struct pg_err *err); /* fills f->d */
    int (*tensors)(struct pg_hf *f, struct pg_err *err);
    void (*keys)(const struct pg_hf *f, struct pg_hf_keys *k); /* beyond those of all */
};
extern const struct pg_hf_family pg_hf_llama, pg_hf_mixtral, pg_hf_qwen2moe, pg_hf_qwen3moe,
    pg_hf_olmoe, pg_hf_t5, pg_hf_switch;

/* ---- configuration. A value that is null counts as absent. */
const json_t *pg_hf_value(const struct pg_hf *f, const char *key);
#define PG_HF_NEEDED (-1) /* instead of a default: the key must be there */
int pg_hf_real(const struct pg_hf *f, const char *key, double none, double *out,
               struct pg_err *err);
bool pg_hf_true(const struct pg_hf *f, const char *key, bool none);
/* NULL: none. */
int pg_hf_text(const struct pg_hf *f, const char *key, const char **out, struct pg_err *err);
/* PG_ENOTSUP where there is another text. */
int pg_hf_only(const struct pg_hf *f, const char *key, const char *wanted, struct pg_err *err);
/* A whole number within a range; `none` where it is absent. */
int pg_hf_int(const struct pg_hf *f, const char *key, const int64_t range[2], int64_t none,
              int64_t *out, struct pg_err *err);
struct pg_hf_number {
    const char *key;
    int64_t least, most, none;
    int64_t *out;
};
int pg_hf_numbers(const struct pg_hf *f, const struct pg_hf_number *n, size_t count,
                  struct pg_err *err);

/* ---- tensors */
bool pg_hf_has(const struct pg_hf *f, const char *name);
/* A tensor that has no use: one of another's values, or of an older version. */
void pg_hf_ignore(struct pg_hf *f, const char *name);
/* out: [rows, n], or a vector where rows is 1; of the tensor `from` of that shape. */
int pg_hf_copy(struct pg_hf *f, const char *out, const char *from, int64_t rows, int64_t n,
               struct pg_err *err);
struct pg_hf_out *pg_hf_last(struct pg_hf *f);
/* Experts' matrices [rows, n] of one kind, merged. */
struct pg_hf_experts {
    const char *out;    /* name in the GGUF */
    const char *single; /* of expert %d; or, if that is there, */
    const char *fused;  /* [n_expert, all, n], of which these are rows [first, first + rows) */
    int64_t rows, n, all, first, n_expert;
};
int pg_hf_merge(struct pg_hf *f, const struct pg_hf_experts *x, struct pg_err *err);

/* ---- keys, with the architecture before their names */
void pg_hf_u32(struct pg_hf_keys *k, const char *name, int64_t v);
void pg_hf_f32(struct pg_hf_keys *k, const char *name, double v);
void pg_hf_flag(struct pg_hf_keys *k, const char *name, bool v);

#endif
