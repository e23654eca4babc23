/* SPDX-License-Identifier: MIT
 * The directory behind struct pg_gguf, shared by the files of format/ only.
 *
 *   parts[i].bytes   exactly the header of file i, on the heap; every name and string of the
 *                    directory points into one of them
 *   keys, names      parallel arrays; the dictionary finds an index by its name
 *   strs             the strings of all string keys; key.data points to the first of its own
 */
#ifndef PG_FORMAT_GGUF_DIR_H
#define PG_FORMAT_GGUF_DIR_H

#include "base/os.h"
#include "format/gguf.h"

#define PG_GGUF_ALIGNMENT     32u /* when the file does not say */
#define PG_GGUF_ALIGNMENT_MAX (1u << 20)
#define PG_GGUF_KEY_MAX       65535u /* bytes of a key */
#define PG_GGUF_NAME_MAX      63u    /* bytes of a tensor's name */
#define PG_GGUF_HEADER_MAX    (256u << 20)
#define PG_GGUF_KEY_ALIGNMENT "general.alignment"

/* Names in the order they came, found by a keyed hash: a hostile file cannot choose names that
 * collide. */
struct pg_gguf_dict {
    struct pg_str *names;
    size_t n, cap;
    uint32_t *slots; /* index + 1; 0 is free */
    size_t n_slots;  /* a power of two, or 0 */
    uint64_t seed[2];
};
void pg_gguf_dict_init(struct pg_gguf_dict *d);
void pg_gguf_dict_fini(struct pg_gguf_dict *d);
/* 0, PG_EARG when the name is there already, PG_ENOMEM. The name is borrowed. */
int pg_gguf_dict_add(struct pg_gguf_dict *d, const char *s, size_t n);
/* Its index, or -1. */
int64_t pg_gguf_dict_find(const struct pg_gguf_dict *d, const char *s, size_t n);
void pg_gguf_dict_clear(struct pg_gguf_dict *d);

struct pg_gguf_part {
    char *path, *bytes;
    size_t n_bytes; /* of the header */
    uint64_t file_bytes;
    struct pg_stamp stamp; /* when the header was read */
};

struct pg_gguf {
    int version, n_parts;
    struct pg_gguf_part *parts;
    struct pg_gguf_dict key_dict, tensor_dict;
    struct pg_gguf_key *keys;
    struct pg_gguf_tensor *tensors;
    struct pg_str *strs;
    size_t *first_str; /* of each key, while strs can still move */
    size_t n_strs, cap_keys, cap_first_str, cap_tensors, cap_strs;
};

/* Opens one file; of a split set, only that file. */
int pg_gguf_open_one(struct pg_gguf **out, const char *path, struct pg_err *err);
/* Returns rc; if that is an error, closes *g and makes it NULL. */
int pg_gguf_finish(struct pg_gguf **g, int rc);

/* NULL for numbers that are no kind. */
const char *pg_gguf_kind_name(uint32_t kind);
/* Bytes of a scalar; 0 for strings, arrays and numbers that are no kind. */
size_t pg_gguf_kind_bytes(uint32_t kind);
/* Printable ASCII without spaces, not empty. */
bool pg_gguf_name_ok(const char *s, size_t n);

/* What a tensor of this type and shape takes. 0, or PG_EFORMAT / PG_ENOTSUP with a sentence that
 * does not name the tensor. */
int pg_gguf_tensor_bytes(uint32_t type, int n_dims, const int64_t *ne, uint64_t *bytes,
                         struct pg_err *err);

#endif
