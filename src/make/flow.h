/* SPDX-License-Identifier: MIT
 * Weights from files to a GGUF, in another type or as they are: what convert, quantize and pack do.
 *
 * A tensor of the result is rows of source files one behind the other. They go through three
 * stages, a batch of some 32 MiB in each: while one is read, the one before it is converted on all
 * threads, and the one before that is written. Both sides of that go past the page cache. Where a
 * batch's bytes come to lie is known before they are, so they do not depend on the threads.
 */
#ifndef PG_MAKE_FLOW_H
#define PG_MAKE_FLOW_H

#include "format/gguf.h"

/* Rows of one type, one behind the other in a file. */
struct pg_flow_rows {
    int file;        /* of pg_flow.paths */
    uint64_t offset; /* in it */
    int64_t n;
    enum pg_type type;
    const char *name; /* of the tensor that they belong to, for messages, */
    int64_t first;    /* and which of its rows the first is */
};

struct pg_flow_tensor {
    char name[64];
    enum pg_type type;
    int n_dims;
    int64_t ne[4];
    int n_head_rotated; /* rows of so many heads from halves to pairs; 0: as they are */
    int rows, n_rows;   /* of pg_flow.rows */
    int place;          /* pg_flow_pack's */
};

struct pg_flow {
    /* Where rows lie; borrowed. stamps: what is wanted there. */
    const char **paths;
    const struct pg_stamp **stamps;
    int n_paths;

    struct pg_flow_tensor *tensor;
    struct pg_flow_rows *rows;
    size_t n_tensors, cap_tensors, n_rows, cap_rows;

    bool check;  /* also what is not converted is looked at: a float that is no number is refused */
    bool packed; /* tensors begin at pages */
    int n_threads;    /* 0: the machine's */
    const char *what; /* it is doing */
    const char *out;
    int (*progress)(void *user, const char *what, uint64_t done, uint64_t total);
    void *user;
};

/* A file that rows may lie in; they are counted from 0. */
int pg_flow_file(struct pg_flow *f, const char *path, const struct pg_stamp *stamp,
                 struct pg_err *err);
/* Another tensor, and behind its rows some more. */
int pg_flow_tensor(struct pg_flow *f, struct pg_flow_tensor t, struct pg_err *err);
int pg_flow_rows(struct pg_flow *f, struct pg_flow_rows rows, struct pg_err *err);
void pg_flow_free(struct pg_flow *f);

/* Declares the tensors, behind the keys that are written already, and writes them all. */
int pg_flow_run(struct pg_flow *f, struct pg_gguf_writer *w, struct pg_err *err);

/* pack.c: one tensor an expert and matrix, so that gate, up and down of an expert lie together; or
 * merged ones again, as llama.cpp has them. PG_EARG where there are no experts, or where nothing
 * would be another. */
int pg_flow_pack(struct pg_flow *f, const char *model, struct pg_err *err);
int pg_flow_merge(struct pg_flow *f, const char *model, struct pg_err *err);
/* Whether it is a matrix of experts, merged or of one. */
bool pg_is_expert(const char *name);

#endif
