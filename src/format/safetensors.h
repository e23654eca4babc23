/* SPDX-License-Identifier: MIT
 * Safetensors: the directory of a Hugging Face folder's weights, in one file or in shards.
 *
 * Nothing is trusted: the header is JSON without duplicate names, tensors lie in their file one
 * behind the other without gap or overlap to its very end, and have the bytes that their shape and
 * type say. An index names files of its own folder, and each tensor is in the file that it says. A
 * name in the folder may be a link, as in the hub's cache.
 */
#ifndef PG_FORMAT_SAFETENSORS_H
#define PG_FORMAT_SAFETENSORS_H

#include "quant/quant.h"

enum { PG_ST_DIMS = 6 };

struct pg_st_tensor {
    const char *name;
    char dtype[12]; /* "BF16"; */
    int n_dims;     /* slowest first, as PyTorch counts */
    int64_t shape[PG_ST_DIMS];
    int part;               /* which file */
    uint64_t offset, bytes; /* from the start of that file */
};

struct pg_st;
struct pg_stamp; /* base/os.h */

/* A folder with model.safetensors, or with model.safetensors.index.json and the files it names. */
int pg_st_open(struct pg_st **out, const char *folder, struct pg_err *err);
/* The header's JSON in memory, of a file of file_bytes; no data can be read. `name` is used in
 * messages. */
int pg_st_parse(struct pg_st **out, const char *text, size_t n, uint64_t file_bytes,
                const char *name, struct pg_err *err);
void pg_st_close(struct pg_st *s);

int pg_st_n_tensors(const struct pg_st *s);
const struct pg_st_tensor *pg_st_at(const struct pg_st *s, int i);              /* by name */
const struct pg_st_tensor *pg_st_find(const struct pg_st *s, const char *name); /* or NULL */
int pg_st_n_parts(const struct pg_st *s);
const char *pg_st_path(const struct pg_st *s, int part);
uint64_t pg_st_bytes(const struct pg_st *s); /* of all tensors */

/* The file as it was when its header was read: who opens it again for the data compares. */
const struct pg_stamp *pg_st_stamp(const struct pg_st *s, int part);
/* F32, F16 or BF16; -1: a type that no weight of ours has. */
int pg_st_type(const struct pg_st_tensor *t);

#endif
