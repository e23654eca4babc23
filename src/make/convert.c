/* SPDX-License-Identifier: MIT
 * pg_convert: a Hugging Face folder to a GGUF. Some rows at a time are read, turned into floats,
 * and written in the type that is wanted, so that memory is what a few rows and the vocabulary
 * take.
 */
#include "base/os.h"
#include "base/ranges.h"
#include "make/hf_vocab.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK = 1 << 20 }; /* values that are under way; a row at least */

struct job {
    const struct pg_convert_options *opt;
    struct pg_hf hf;
    struct pg_hf_vocab vocab;
    struct pg_gguf_writer *w;
    int type; /* -1: as they are */
    float *rows;
    char *raw;
    uint64_t done, total; /* bytes read */
};

/* ------------------------------------------------------------------ types ------------------- */

/* That of all pieces; where they differ, the one that holds any. */
static enum pg_type common_type(const struct job *j, const struct pg_hf_out *o)
{
    const struct pg_hf_piece *p = &j->hf.piece[o->piece];
    for (int i = 1; i < o->n_pieces; i++)
        if (pg_st_type(p[i].t) != pg_st_type(p[0].t))
            return PG_TYPE_F32;
    return (enum pg_type)pg_st_type(p[0].t);
}

static enum pg_type type_of(const struct job *j, const struct pg_hf_out *o)
{
    if (o->is_small)
        return PG_TYPE_F32;
    if (j->type < 0)
        return common_type(j, o);
    /* The output is kept in more bits than the rest, as in the files that people have. */
    const bool output = !strcmp(o->name, "output.weight");
    const enum pg_type type =
        output && j->type == PG_TYPE_Q4_K ? PG_TYPE_Q6_K : (enum pg_type)j->type;
    return pg_type_for_row(type, o->ne[0]);
}

static int declare(struct job *j, struct pg_err *err)
{
    for (int i = 0; i < j->hf.n_out; i++) {
        const struct pg_hf_out *o = &j->hf.out[i];
        PG_TRY(pg_gguf_writer_tensor(j->w, o->name, type_of(j, o), o->n_dims, o->ne, err));
    }
    return 0;
}

/* ------------------------------------------------------------------ rows -------------------- */

/* Row r of the tensor, of heads whose halves are rotated together, where pairs are wanted. */
static int64_t row_in_halves(const struct pg_hf_out *o, int64_t r)
{
    const int64_t dim = o->ne[1] / o->n_head_rotated, at = r % dim;
    return r - at + at % 2 * (dim / 2) + at / 2;
}

static int read_rows(struct job *j, const struct pg_hf_out *o, const struct pg_hf_piece *p,
                     int64_t first, int64_t n, struct pg_err *err)
{
    const enum pg_type type = (enum pg_type)pg_st_type(p->t);
    const size_t row = pg_type_bytes(type, o->ne[0]);
    const float most = pg_type_most(type_of(j, o));
    if (o->n_head_rotated) {
        for (int64_t i = 0; i < n; i++)
            PG_TRY(pg_st_read(j->hf.st, p->t,
                              (uint64_t)(p->first + row_in_halves(o, first + i)) * row, row,
                              j->raw + (size_t)i * row, err));
    } else {
        PG_TRY(pg_st_read(j->hf.st, p->t, (uint64_t)(p->first + first) * row, (size_t)n * row,
                          j->raw, err));
    }
    pg_type_traits((uint32_t)type)->to_float(j->raw, j->rows, n * o->ne[0]);
    for (int64_t i = 0; i < n * o->ne[0]; i++)
        if (!(fabsf(j->rows[i]) <= most))
            return pg_fail(err, PG_EFORMAT, "%s: tensor %s: value %lld is %g, %s holds up to %g",
                           pg_st_path(j->hf.st, p->t->part), p->t->name,
                           (long long)((p->first + first) * o->ne[0] + i), (double)j->rows[i],
                           pg_type_traits((uint32_t)type_of(j, o))->name, (double)most);
    j->done += (uint64_t)n * row;
    return 0;
}

static int write_rows(struct job *j, const struct pg_hf_out *o, int64_t n, struct pg_err *err)
{
    const enum pg_type type = type_of(j, o);
    pg_from_float(type, j->rows, j->raw, n * o->ne[0]);
    return pg_gguf_writer_data(j->w, j->raw, pg_type_bytes(type, n * o->ne[0]), err);
}

static int write_out(struct job *j, const struct pg_hf_out *o, struct pg_err *err)
{
    const struct pg_convert_options *opt = j->opt;
    const int64_t step = PG_MAX(1, CHUNK / o->ne[0]);
    for (int i = o->piece; i < o->piece + o->n_pieces; i++) {
        const struct pg_hf_piece *p = &j->hf.piece[i];
        for (int64_t at = 0; at < p->n; at += step) {
            const int64_t n = PG_MIN(step, p->n - at);
            PG_TRY(read_rows(j, o, p, at, n, err));
            PG_TRY(write_rows(j, o, n, err));
            if (opt->progress && opt->progress(opt->user, "converting", j->done, j->total))
                return pg_fail(err, PG_ECANCELLED, "%s: cancelled", opt->out);
        }
    }
    return 0;
}

static int take_memory(struct job *j, struct pg_err *err)
{
    int64_t most = CHUNK;
    for (int i = 0; i < j->hf.n_out; i++)
        most = PG_MAX(most, j->hf.out[i].ne[0]);
    j->rows = pg_calloc((size_t)most, sizeof(*j->rows));
    j->raw = pg_calloc((size_t)most, sizeof(float)); /* no type takes more */
    return j->rows && j->raw ? 0 : pg_fail(err, PG_ENOMEM, "out of memory");
}

static int write_all(struct job *j, struct pg_err *err)
{
    PG_TRY(pg_hf_keys(&j->hf, j->w, err));
    PG_TRY(pg_hf_vocab_write(&j->vocab, j->w, err));
    PG_TRY(declare(j, err));
    PG_TRY(take_memory(j, err));
    for (int i = 0; i < j->hf.n_out; i++)
        PG_TRY(write_out(j, &j->hf.out[i], err));
    return 0;
}

/* The result is none of the files that it is made of. */
static int check_out(const struct job *j, struct pg_err *err)
{
    static const char *const names[] = {"config.json",           "model.safetensors.index.json",
                                        "tokenizer.json",        "tokenizer.model",
                                        "tokenizer_config.json", "spiece.model"};
    bool same = false;
    for (int i = 0; i < pg_st_n_parts(j->hf.st); i++)
        same |= pg_same_file(pg_st_path(j->hf.st, i), j->opt->out);
    for (size_t i = 0; i < PG_COUNT(names); i++) {
        char path[PG_HF_PATH];
        same |= pg_hf_path(&j->hf, names[i], path) && pg_same_file(path, j->opt->out);
    }
    return same ? pg_fail(err, PG_EARG,
                          "%s is a file of the model itself; the result needs another", j->opt->out)
                : 0;
}

static int convert(struct job *j, struct pg_err *err)
{
    PG_TRY(pg_hf_open(&j->hf, j->opt->folder, err));
    j->total = pg_st_bytes(j->hf.st);
    PG_TRY(pg_hf_vocab_read(&j->vocab, &j->hf, err));
    PG_TRY(check_out(j, err));
    PG_TRY(pg_gguf_writer_open(&j->w, j->opt->out, err));
    return pg_gguf_writer_end(j->w, write_all(j, err), err);
}

int pg_convert(const struct pg_convert_options *options, struct pg_err *err)
{
    struct pg_convert_options opt = {PG_CONVERT_OPTIONS_INIT};
    struct job j = {.opt = &opt, .type = -1};
    PG_TRY(pg_options_take(PG_OPTIONS_CONVERT, &opt, options, err));
    if (opt.type && strcmp(opt.type, "keep") != 0) {
        j.type = pg_type_parse(opt.type);
        if (j.type < 0)
            return pg_fail(err, PG_EARG,
                           "type '%s' is not known; keep, F32, F16, BF16, Q8_0, Q4_K …",
                           pg_quote(opt.type, strlen(opt.type)).s);
    }
    int rc = convert(&j, err);
    pg_hf_vocab_free(&j.vocab);
    pg_hf_close(&j.hf);
    free(j.rows);
    free(j.raw);
    return rc;
}
