/* SPDX-License-Identifier: MIT
 * pg_quantize: a GGUF in another type, some rows at a time.
 */
#include "base/os.h"
#include "base/ranges.h"
#include "format/gguf.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK = 1 << 20 }; /* values that are under way; a row at least */

struct job {
    const struct pg_quantize_options *opt;
    struct pg_gguf *g;
    struct pg_gguf_writer *w;
    enum pg_type type;
    float *rows;
    char *raw;
    uint64_t done, total; /* bytes read */
};

static bool ends_in(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && !strcmp(s + n - m, end);
}

/* Merged, or, in old files, with its number: blk.3.ffn_up.5.weight. */
static bool is_expert(const char *name)
{
    int il, e, n = 0;
    char kind[8];
    return ends_in(name, "_exps.weight") ||
           (sscanf(name, "blk.%d.ffn_%4[a-z].%d.weight%n", &il, kind, &e, &n) == 3 && n &&
            !name[n]);
}

/* Routers and biases of positions are small and decide much; gains and biases are vectors. */
static bool is_changed(const struct job *j, const struct pg_gguf_tensor *t)
{
    if (t->n_dims < 2 || !ends_in(t->name, ".weight") || strstr(t->name, "ffn_gate_inp") ||
        strstr(t->name, "ffn_pregate") || strstr(t->name, "attn_rel_b"))
        return false;
    return !j->opt->experts_only || is_expert(t->name);
}

static enum pg_type type_of(const struct job *j, const struct pg_gguf_tensor *t)
{
    const bool output = !strcmp(t->name, "output.weight");
    if (!is_changed(j, t))
        return t->type;
    return pg_type_for_row(output && j->type == PG_TYPE_Q4_K ? PG_TYPE_Q6_K : j->type, t->ne[0]);
}

static int write_keys(struct job *j, struct pg_err *err)
{
    for (int i = 0; i < pg_gguf_n_keys(j->g); i++) {
        const struct pg_gguf_key *k = pg_gguf_key_at(j->g, i);
        if (strncmp(k->name, "split.", 6) != 0 && strcmp(k->name, "general.file_type") != 0 &&
            strcmp(k->name, "general.alignment") != 0) /* those speak of the file */
            PG_TRY(pg_gguf_writer_copy(j->w, k, err));
    }
    for (int i = 0; i < pg_gguf_n_tensors(j->g); i++) {
        const struct pg_gguf_tensor *t = pg_gguf_tensor_at(j->g, i);
        PG_TRY(pg_gguf_writer_tensor(j->w, t->name, type_of(j, t), t->n_dims, t->ne, err));
        j->total += t->bytes;
    }
    return 0;
}

static int write_rows(struct job *j, const struct pg_gguf_tensor *t, int64_t first, int64_t n,
                      struct pg_err *err)
{
    const size_t row = pg_type_bytes(t->type, t->ne[0]);
    const enum pg_type type = type_of(j, t);
    PG_TRY(pg_gguf_read_part(j->g, t, (uint64_t)first * row, (size_t)n * row, j->raw, err));
    if (type != t->type) {
        pg_type_traits((uint32_t)t->type)->to_float(j->raw, j->rows, n * t->ne[0]);
        for (int64_t i = 0; i < n * t->ne[0]; i++)
            if (!(fabsf(j->rows[i]) <= pg_type_most(type)))
                return pg_fail(err, PG_EFORMAT, "%s: value %lld is %g, %s holds up to %g", t->name,
                               (long long)(first * t->ne[0] + i), (double)j->rows[i],
                               pg_type_traits((uint32_t)type)->name, (double)pg_type_most(type));
        pg_from_float(type, j->rows, j->raw, n * t->ne[0]);
    }
    j->done += (uint64_t)n * row;
    return pg_gguf_writer_data(j->w, j->raw, pg_type_bytes(type, n * t->ne[0]), err);
}

static int write_tensor(struct job *j, const struct pg_gguf_tensor *t, struct pg_err *err)
{
    const struct pg_quantize_options *opt = j->opt;
    const int64_t n_rows = t->ne[1] * t->ne[2] * t->ne[3], step = PG_MAX(1, CHUNK / t->ne[0]);
    for (int64_t at = 0; at < n_rows; at += step) {
        PG_TRY(write_rows(j, t, at, PG_MIN(step, n_rows - at), err));
        if (opt->progress && opt->progress(opt->user, "quantizing", j->done, j->total))
            return pg_fail(err, PG_ECANCELLED, "%s: cancelled", opt->out);
    }
    return 0;
}

static int check_any(const struct job *j, struct pg_err *err)
{
    for (int i = 0; i < pg_gguf_n_tensors(j->g); i++) {
        const struct pg_gguf_tensor *t = pg_gguf_tensor_at(j->g, i);
        if (type_of(j, t) != t->type)
            return 0;
    }
    return pg_fail(err, PG_EARG, "%s: none of its %d tensors would be another%s", j->opt->model,
                   pg_gguf_n_tensors(j->g), j->opt->experts_only ? ", with the experts alone" : "");
}

static int write_all(struct job *j, struct pg_err *err)
{
    int64_t most = CHUNK;
    for (int i = 0; i < pg_gguf_n_tensors(j->g); i++)
        most = PG_MAX(most, pg_gguf_tensor_at(j->g, i)->ne[0]);
    j->rows = pg_calloc((size_t)most, sizeof(*j->rows));
    j->raw = pg_calloc((size_t)most, sizeof(float));
    if (!j->rows || !j->raw)
        return pg_fail(err, PG_ENOMEM, "out of memory");
    PG_TRY(write_keys(j, err));
    for (int i = 0; i < pg_gguf_n_tensors(j->g); i++)
        PG_TRY(write_tensor(j, pg_gguf_tensor_at(j->g, i), err));
    return 0;
}

static int quantize(struct job *j, struct pg_err *err)
{
    PG_TRY(pg_gguf_open(&j->g, j->opt->model, err));
    for (int i = 0; i < pg_gguf_n_parts(j->g); i++)
        if (pg_same_file(pg_gguf_part_path(j->g, i), j->opt->out))
            return pg_fail(err, PG_EARG,
                           "%s is the model itself; the result needs a file of its own",
                           j->opt->out);
    PG_TRY(check_any(j, err));
    PG_TRY(pg_gguf_writer_open(&j->w, j->opt->out, err));
    return pg_gguf_writer_end(j->w, write_all(j, err), err);
}

int pg_quantize(const struct pg_quantize_options *options, struct pg_err *err)
{
    struct pg_quantize_options opt = {PG_QUANTIZE_OPTIONS_INIT};
    struct job j = {.opt = &opt};
    PG_TRY(pg_options_take(PG_OPTIONS_QUANTIZE, &opt, options, err));
    const int type = pg_type_parse(opt.type);
    if (type < 0)
        return pg_fail(err, PG_EARG, "type '%s' is not known; F32, F16, BF16, Q8_0, Q4_K … are",
                       pg_quote(opt.type, strlen(opt.type)).s);
    j.type = (enum pg_type)type;
    int rc = quantize(&j, err);
    pg_gguf_close(j.g);
    free(j.rows);
    free(j.raw);
    return rc;
}
