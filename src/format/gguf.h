/* SPDX-License-Identifier: MIT
 * GGUF v2 and v3: bytes -> a directory of keys and tensors, and back.
 *
 * The reader trusts nothing: every count is bounded by the bytes that remain, every size is checked
 * for overflow, every tensor must lie inside its file, and each refusal names the key or tensor,
 * the value found and the value wanted. Memory is proportional to the header's bytes.
 * A split set (name-00001-of-0000N.gguf) is opened by its first file and appears as one directory.
 */
#ifndef PG_FORMAT_GGUF_H
#define PG_FORMAT_GGUF_H

#include "quant/quant.h"

enum pg_gguf_kind { /* GGUF's value type numbers */
                    PG_GGUF_U8,
                    PG_GGUF_I8,
                    PG_GGUF_U16,
                    PG_GGUF_I16,
                    PG_GGUF_U32,
                    PG_GGUF_I32,
                    PG_GGUF_F32,
                    PG_GGUF_BOOL,
                    PG_GGUF_STRING,
                    PG_GGUF_ARRAY,
                    PG_GGUF_U64,
                    PG_GGUF_I64,
                    PG_GGUF_F64
};

struct pg_str { /* not zero-terminated, may hold any bytes */
    const char *s;
    size_t n;
};

struct pg_gguf_key {
    const char *name;
    enum pg_gguf_kind kind; /* ARRAY: elements are of `elem` */
    enum pg_gguf_kind elem;
    uint64_t n;       /* elements; 1 for a scalar */
    const void *data; /* little-endian scalars, packed; strings: see pg_gguf_string_at */
};

struct pg_gguf_tensor {
    const char *name;
    enum pg_type type;
    int n_dims;
    int64_t ne[4];   /* fastest dimension first, unused are 1 */
    int part;        /* which file of the set */
    uint64_t offset; /* of the data, from the start of that file */
    uint64_t bytes;
};

struct pg_gguf;
struct pg_stamp; /* base/os.h */

int pg_gguf_open(struct pg_gguf **out, const char *path, struct pg_err *err);
/* Parses the header of a file of `file_bytes` from its first n bytes in memory (no split set, no
 * tensor data needed). `name` is used in messages. The bytes are copied. */
int pg_gguf_parse(struct pg_gguf **out, const void *data, size_t n, uint64_t file_bytes,
                  const char *name, struct pg_err *err);
void pg_gguf_close(struct pg_gguf *g);

int pg_gguf_version(const struct pg_gguf *g);
int pg_gguf_n_parts(const struct pg_gguf *g);
const char *pg_gguf_part_path(const struct pg_gguf *g, int part);
/* The file as it was when its header was read: who opens it again for the data compares. */
const struct pg_stamp *pg_gguf_part_stamp(const struct pg_gguf *g, int part);
uint64_t pg_gguf_file_bytes(const struct pg_gguf *g); /* all parts */
uint64_t pg_gguf_heap_bytes(const struct pg_gguf *g); /* memory the directory holds */

int pg_gguf_n_keys(const struct pg_gguf *g);
const struct pg_gguf_key *pg_gguf_key_at(const struct pg_gguf *g, int i);
const struct pg_gguf_key *pg_gguf_find(const struct pg_gguf *g, const char *key); /* or NULL */
struct pg_str pg_gguf_string_at(const struct pg_gguf *g, const struct pg_gguf_key *k, uint64_t i);

int pg_gguf_n_tensors(const struct pg_gguf *g);
const struct pg_gguf_tensor *pg_gguf_tensor_at(const struct pg_gguf *g, int i);
const struct pg_gguf_tensor *pg_gguf_find_tensor(const struct pg_gguf *g, const char *name);

/* Typed values. `want` is PG_GGUF_REQUIRED or PG_GGUF_OPTIONAL; an absent optional key leaves *out
 * as it is and returns 0. A value of the wrong kind or outside the range, whose ends belong to it,
 * is an error. Integers of any width and sign are accepted where the value fits. */
enum pg_gguf_want { PG_GGUF_REQUIRED, PG_GGUF_OPTIONAL };
int pg_gguf_get_int(const struct pg_gguf *g, const char *key, enum pg_gguf_want want,
                    const int64_t range[2], int64_t *out, struct pg_err *err);
int pg_gguf_get_f32(const struct pg_gguf *g, const char *key, enum pg_gguf_want want,
                    const double range[2], float *out, struct pg_err *err); /* finite only */
int pg_gguf_get_bool(const struct pg_gguf *g, const char *key, enum pg_gguf_want want, bool *out,
                     struct pg_err *err);
int pg_gguf_get_str(const struct pg_gguf *g, const char *key, enum pg_gguf_want want,
                    struct pg_str *out, struct pg_err *err);

/* Finds a tensor and checks its shape; ne[] of 0 ends the list (1 to 4 dimensions). Optional and
 * absent: *out = NULL. */
int pg_gguf_get_tensor(const struct pg_gguf *g, const char *name, enum pg_gguf_want want,
                       const int64_t ne[4], const struct pg_gguf_tensor **out, struct pg_err *err);

/* ---- data. The tensor's file is opened for the call. */
/* t->bytes as they lie in the file. */
int pg_gguf_read(const struct pg_gguf *g, const struct pg_gguf_tensor *t, void *out,
                 struct pg_err *err);
/* The values, of any type that can be read; refused when one is not finite. */
int pg_gguf_read_f32(const struct pg_gguf *g, const struct pg_gguf_tensor *t, float *out,
                     struct pg_err *err);

/* ---- writing. Keys and tensors first, then the data in the order the tensors were added. */
struct pg_gguf_writer;
int pg_gguf_writer_open(struct pg_gguf_writer **out, const char *path, struct pg_err *err);
/* Where data and each tensor of it begin: at multiples of this power of two, 32 (which is so
 * without a call) to PG_PAGE. Before any tensor. */
int pg_gguf_writer_align(struct pg_gguf_writer *w, uint32_t alignment, struct pg_err *err);
int pg_gguf_writer_u32(struct pg_gguf_writer *w, const char *key, uint32_t v, struct pg_err *err);
int pg_gguf_writer_f32(struct pg_gguf_writer *w, const char *key, float v, struct pg_err *err);
int pg_gguf_writer_bool(struct pg_gguf_writer *w, const char *key, bool v, struct pg_err *err);
int pg_gguf_writer_str(struct pg_gguf_writer *w, const char *key, const char *v,
                       struct pg_err *err);
int pg_gguf_writer_strs(struct pg_gguf_writer *w, const char *key, const struct pg_str *v,
                        uint64_t n, struct pg_err *err);
int pg_gguf_writer_i32s(struct pg_gguf_writer *w, const char *key, const int32_t *v, uint64_t n,
                        struct pg_err *err);
int pg_gguf_writer_f32s(struct pg_gguf_writer *w, const char *key, const float *v, uint64_t n,
                        struct pg_err *err);
/* A key of another file, whatever its kind. */
int pg_gguf_writer_copy(struct pg_gguf_writer *w, const struct pg_gguf_key *key,
                        struct pg_err *err);
int pg_gguf_writer_tensor(struct pg_gguf_writer *w, const char *name, enum pg_type type, int n_dims,
                          const int64_t *ne, struct pg_err *err);
/* The next n bytes of tensor data, in any pieces; padding between tensors is the writer's. */
int pg_gguf_writer_data(struct pg_gguf_writer *w, const void *data, size_t n, struct pg_err *err);
/* For large files, instead of pg_gguf_writer_data: the header is written, past the page cache as
 * what follows is (base/os.h, pg_outfile_stream), and *at is where data begins in the file; */
int pg_gguf_writer_start(struct pg_gguf_writer *w, uint64_t *at, struct pg_err *err);
/* then come its bytes as they lie in the file, each tensor's and the zeros that align the next one
 * (behind the last, too), in any pieces. */
int pg_gguf_writer_image(struct pg_gguf_writer *w, const void *data, size_t n, struct pg_err *err);
int pg_gguf_writer_commit(struct pg_gguf_writer *w, struct pg_err *err); /* file appears; frees w */
void pg_gguf_writer_abandon(struct pg_gguf_writer *w);                   /* no file; frees w */
/* Commits what was written if rc is 0, abandons it otherwise; returns rc or the error of it. */
int pg_gguf_writer_end(struct pg_gguf_writer *w, int rc, struct pg_err *err);

#endif
