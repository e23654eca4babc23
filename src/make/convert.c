/* SPDX-License-Identifier: MIT
 * pg_convert: a Hugging Face folder to a GGUF.
 */
#include "base/os.h"
#include "base/ranges.h"
#include "make/flow.h"
#include "make/hf_vocab.h"

#include <string.h>

struct job {
    const struct pg_convert_options *opt;
    struct pg_hf hf;
    struct pg_hf_vocab vocab;
    struct pg_flow flow;
    struct pg_gguf_writer *w;
    int type; /* -1: as they are */
};

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

static int add_out(struct job *j, const struct pg_hf_out *o, struct pg_err *err)
{
    struct pg_flow_tensor t = {.type = type_of(j, o),
                               .n_dims = o->n_dims,
                               .ne = {o->ne[0], o->ne[1], o->ne[2], 1},
                               .n_head_rotated = o->n_head_rotated};
    memcpy(t.name, o->name, sizeof(t.name));
    PG_TRY(pg_flow_tensor(&j->flow, t, err));
    for (int i = o->piece; i < o->piece + o->n_pieces; i++) {
        const struct pg_hf_piece *p = &j->hf.piece[i];
        const enum pg_type type = (enum pg_type)pg_st_type(p->t);
        PG_TRY(pg_flow_rows(&j->flow,
                            (struct pg_flow_rows){
                                .file = p->t->part,
                                .offset = p->t->offset + pg_type_bytes(type, p->first * o->ne[0]),
                                .n = p->n,
                                .type = type,
                                .name = p->t->name,
                                .first = p->first,
                            },
                            err));
    }
    return 0;
}

static int plan(struct job *j, struct pg_err *err)
{
    const struct pg_convert_options *opt = j->opt;
    j->flow = (struct pg_flow){.check = true,
                               .n_threads = opt->n_threads,
                               .what = "converting",
                               .out = opt->out,
                               .progress = opt->progress,
                               .user = opt->user};
    for (int i = 0; i < pg_st_n_parts(j->hf.st); i++)
        PG_TRY(pg_flow_file(&j->flow, pg_st_path(j->hf.st, i), pg_st_stamp(j->hf.st, i), err));
    for (int i = 0; i < j->hf.n_out; i++)
        PG_TRY(add_out(j, &j->hf.out[i], err));
    return opt->pack ? pg_flow_pack(&j->flow, opt->folder, err) : 0;
}

static int write_all(struct job *j, struct pg_err *err)
{
    PG_TRY(pg_hf_keys(&j->hf, j->w, err));
    PG_TRY(pg_hf_vocab_write(&j->vocab, j->w, err));
    return pg_flow_run(&j->flow, j->w, err);
}

/* The result is none of the files that it is made of. */
static int check_out(const struct job *j, struct pg_err *err)
{
    static const char *const names[] = {"config.json",
                                        "model.safetensors.index.json",
                                        "tokenizer.json",
                                        "tokenizer.model",
                                        "tokenizer_config.json",
                                        "spiece.model",
                                        "vocab.json",
                                        "merges.txt",
                                        "added_tokens.json"};
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
    PG_TRY(pg_hf_vocab_read(&j->vocab, &j->hf, err));
    PG_TRY(check_out(j, err));
    PG_TRY(plan(j, err));
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
    pg_flow_free(&j.flow);
    pg_hf_close(&j.hf);
    return rc;
}
