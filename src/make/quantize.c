/* SPDX-License-Identifier: MIT
 * pg_quantize: a GGUF in another type. pg_pack: one in another layout.
 */
#include "base/os.h"
#include "base/ranges.h"
#include "make/flow.h"

#include <stdio.h>
#include <string.h>

enum layout { AS_IT_IS, PACKED, MERGED };

struct job {
    const char *model, *out;
    struct pg_gguf *g;
    struct pg_flow flow;
    struct pg_gguf_writer *w;
    int type; /* -1: as they are */
    bool experts_only;
    enum layout layout;
};

static bool ends_in(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && !strcmp(s + n - m, end);
}

/* Routers and biases of positions are small and decide much; gains and biases are vectors. */
static bool is_changed(const struct job *j, const struct pg_gguf_tensor *t)
{
    if (j->type < 0 || t->n_dims < 2 || !ends_in(t->name, ".weight") ||
        strstr(t->name, "ffn_gate_inp") || strstr(t->name, "ffn_pregate") ||
        strstr(t->name, "attn_rel_b"))
        return false;
    return !j->experts_only || pg_is_expert(t->name);
}

static enum pg_type type_of(const struct job *j, const struct pg_gguf_tensor *t)
{
    const bool output = !strcmp(t->name, "output.weight");
    if (!is_changed(j, t))
        return t->type;
    return pg_type_for_row(output && j->type == PG_TYPE_Q4_K ? PG_TYPE_Q6_K : (enum pg_type)j->type,
                           t->ne[0]);
}

static int add_tensor(struct job *j, const struct pg_gguf_tensor *x, struct pg_err *err)
{
    struct pg_flow_tensor t = {.type = type_of(j, x), .n_dims = x->n_dims};
    memcpy(t.ne, x->ne, sizeof(t.ne));
    snprintf(t.name, sizeof(t.name), "%s", x->name);
    PG_TRY(pg_flow_tensor(&j->flow, t, err));
    return pg_flow_rows(&j->flow,
                        (struct pg_flow_rows){.file = x->part,
                                              .offset = x->offset,
                                              .n = x->ne[1] * x->ne[2] * x->ne[3],
                                              .type = x->type,
                                              .name = x->name},
                        err);
}

static int check_any(const struct job *j, struct pg_err *err)
{
    for (int i = 0; i < pg_gguf_n_tensors(j->g); i++) {
        const struct pg_gguf_tensor *t = pg_gguf_tensor_at(j->g, i);
        if (type_of(j, t) != t->type)
            return 0;
    }
    return pg_fail(err, PG_EARG, "%s: none of its %d tensors would be another%s", j->model,
                   pg_gguf_n_tensors(j->g), j->experts_only ? ", with the experts alone" : "");
}

/* A file that is packed stays so. */
static int lay_out(struct job *j, struct pg_err *err)
{
    static const int64_t range[2] = {1, 1 << 20};
    int64_t alignment = 32;
    PG_TRY(pg_gguf_get_int(j->g, "general.alignment", PG_GGUF_OPTIONAL, range, &alignment, err));
    j->flow.packed = alignment >= PG_PAGE;
    if (j->layout == MERGED)
        return pg_flow_merge(&j->flow, j->model, err);
    return j->layout == PACKED ? pg_flow_pack(&j->flow, j->model, err) : 0;
}

static int plan(struct job *j, struct pg_err *err)
{
    for (int i = 0; i < pg_gguf_n_parts(j->g); i++) {
        const char *path = pg_gguf_part_path(j->g, i);
        if (pg_same_file(path, j->out))
            return pg_fail(err, PG_EARG,
                           "%s is the model itself; the result needs a file of its own", j->out);
        PG_TRY(pg_flow_file(&j->flow, path, pg_gguf_part_stamp(j->g, i), err));
    }
    for (int i = 0; i < pg_gguf_n_tensors(j->g); i++)
        PG_TRY(add_tensor(j, pg_gguf_tensor_at(j->g, i), err));
    if (j->layout == AS_IT_IS)
        PG_TRY(check_any(j, err));
    return lay_out(j, err);
}

/* Keys of the file rather than of the model are the writer's, or hold no more. */
static bool is_of_file(const struct job *j, const char *key)
{
    return !strncmp(key, "split.", 6) || !strcmp(key, "general.alignment") ||
           (j->type >= 0 && !strcmp(key, "general.file_type"));
}

static int write_all(struct job *j, struct pg_err *err)
{
    for (int i = 0; i < pg_gguf_n_keys(j->g); i++) {
        const struct pg_gguf_key *k = pg_gguf_key_at(j->g, i);
        if (!is_of_file(j, k->name))
            PG_TRY(pg_gguf_writer_copy(j->w, k, err));
    }
    return pg_flow_run(&j->flow, j->w, err);
}

static int make(struct job *j, struct pg_err *err)
{
    PG_TRY(pg_gguf_open(&j->g, j->model, err));
    if (pg_gguf_n_tensors(j->g) == 0)
        return pg_fail(err, PG_EFORMAT, "%s: has no tensors", j->model);
    PG_TRY(plan(j, err));
    PG_TRY(pg_gguf_writer_open(&j->w, j->out, err));
    return pg_gguf_writer_end(j->w, write_all(j, err), err);
}

static int run(struct job *j, struct pg_err *err)
{
    const int rc = make(j, err);
    pg_flow_free(&j->flow);
    pg_gguf_close(j->g);
    return rc;
}

int pg_quantize(const struct pg_quantize_options *options, struct pg_err *err)
{
    struct pg_quantize_options opt = {PG_QUANTIZE_OPTIONS_INIT};
    PG_TRY(pg_options_take(PG_OPTIONS_QUANTIZE, &opt, options, err));
    struct job j = {.model = opt.model,
                    .out = opt.out,
                    .type = pg_type_parse(opt.type),
                    .experts_only = opt.experts_only,
                    .layout = opt.pack ? PACKED : AS_IT_IS,
                    .flow = {.n_threads = opt.n_threads,
                             .what = "quantizing",
                             .out = opt.out,
                             .progress = opt.progress,
                             .user = opt.user}};
    if (j.type < 0)
        return pg_fail(err, PG_EARG, "type '%s' is not known; F32, F16, BF16, Q8_0, Q4_K … are",
                       pg_quote(opt.type, strlen(opt.type)).s);
    return run(&j, err);
}

int pg_pack(const struct pg_pack_options *options, struct pg_err *err)
{
    struct pg_pack_options opt = {PG_PACK_OPTIONS_INIT};
    PG_TRY(pg_options_take(PG_OPTIONS_PACK, &opt, options, err));
    struct job j = {.model = opt.model,
                    .out = opt.out,
                    .type = -1,
                    .layout = opt.undo ? MERGED : PACKED,
                    .flow = {.n_threads = opt.n_threads,
                             .what = opt.undo ? "unpacking" : "packing",
                             .out = opt.out,
                             .progress = opt.progress,
                             .user = opt.user}};
    return run(&j, err);
}
