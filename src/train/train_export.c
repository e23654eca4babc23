/* SPDX-License-Identifier: MIT
 * OUT.gguf: the keys of MODEL and its tensors in its order, experts merged, with the trained
 * weights; and for pre-gates OUT.pregate.gguf beside it.
 *
 * Two files cannot appear in one moment, and a sidecar must never be found beside a model that it
 * was not trained with. So the old sidecar goes first, then the model appears, then its sidecar,
 * and the checkpoint goes last: whatever happens in between, a model is whole, has its own sidecar
 * or none, and --resume finishes the rest.
 */
#include "base/os.h"
#include "train/train.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PIECE = 1 << 14 }; /* values that are converted at once */

/* ------------------------------------------------------------------ names ------------------- */

/* Whether one of the files that will be written is `input`. */
static int check_input(const struct pg_train_paths *p, const char *input, struct pg_err *err)
{
    const char *const written[] = {p->out, p->sidecar, p->checkpoint};
    for (size_t i = 0; i < PG_COUNT(written); i++) {
        if (pg_same_file(written[i], input)) {
            return pg_fail(err, PG_EARG, "%s would be written, but it is an input: %s", written[i],
                           input);
        }
    }
    return 0;
}

int pg_train_paths_make(struct pg_train_paths *p, const struct pg_train_options *opt,
                        struct pg_err *err)
{
    size_t n = strlen(opt->out);
    bool named = n > 5 && strcmp(opt->out + n - 5, ".gguf") == 0;
    if (n >= sizeof(p->out)) {
        return pg_fail(err, PG_EARG, "the name of the result has %zu bytes, %zu are the most", n,
                       sizeof(p->out) - 1);
    }
    memcpy(p->out, opt->out, n + 1);
    snprintf(p->sidecar, sizeof(p->sidecar), "%.*s.pregate.gguf", (int)(named ? n - 5 : n), p->out);
    snprintf(p->checkpoint, sizeof(p->checkpoint), "%s.checkpoint", p->out);
    PG_TRY(check_input(p, opt->model, err));
    PG_TRY(check_input(p, opt->from_model, err));
    PG_TRY(check_input(p, opt->from_sidecar, err));
    for (int i = 0; i < opt->n_data; i++)
        PG_TRY(check_input(p, opt->data[i], err));
    return 0;
}

int pg_train_type(const char *name, enum pg_type *out, struct pg_err *err)
{
    int type = name ? pg_type_parse(name) : PG_TYPE_F16;
    if (type != PG_TYPE_F32 && type != PG_TYPE_F16 && type != PG_TYPE_BF16) {
        return pg_fail(err, type < 0 ? PG_EARG : PG_ENOTSUP,
                       "type '%s': weights can be written as F16, BF16 or F32",
                       pg_quote(name, strlen(name)).s);
    }
    *out = (enum pg_type)type;
    return 0;
}

/* ------------------------------------------------------------------ tensors ----------------- */

/* A tensor of OUT.gguf: a parameter, or one of MODEL that is not trained. */
struct output {
    const char *name;
    enum pg_type type;
    int n_dims;
    int64_t ne[4];
    const struct pg_param *p;       /* or NULL: */
    const struct pg_gguf_tensor *t; /* taken over as it is */
};

/* Routers stay F32, whatever the matrices are: they are small, and what they decide is not. */
static enum pg_type type_of(const struct pg_trainer *t, const struct pg_param *p)
{
    bool small = !p->is_matrix || (p->n_out == 1 && p->n_mat == 1);
    return small || strstr(p->name, ".ffn_gate_inp") ? PG_TYPE_F32 : t->type;
}

/* What becomes of tensor i of MODEL; false when nothing does: expert 1 and up of a file that has a
 * tensor for each. */
static bool output_of(const struct pg_trainer *t, int i, struct output *o)
{
    const struct pg_gguf_tensor *x = pg_gguf_tensor_at(t->source.gguf, i);
    const struct pg_param *p = pg_params_find(t->params, x->name);
    const struct pg_model *m = &t->source.model;
    const char *suffix;
    int il = pg_block_of_name(m, x->name, &suffix), expert, n = 0;
    char part[8], merged[64];
    *o = (struct output){.name = x->name, .type = x->type, .n_dims = x->n_dims, .p = p, .t = x};
    memcpy(o->ne, x->ne, sizeof(o->ne));
    if (!p && il >= 0 && sscanf(suffix, "ffn_%7[a-z].%d.weight%n", part, &expert, &n) == 2 && n) {
        if (expert > 0)
            return false;
        snprintf(merged, sizeof(merged), "%.*sffn_%s_exps.weight", (int)(suffix - x->name), x->name,
                 part);
        p = o->p = pg_params_find(t->params, merged);
        PG_ASSERT(p);
        o->name = p->name;
        o->n_dims = 3;
        o->ne[2] = p->n_mat;
    }
    if (p)
        o->type = type_of(t, p);
    return true;
}

static int write_values(struct pg_gguf_writer *w, const struct output *o, const float *x, size_t n,
                        struct pg_err *err)
{
    uint16_t half[PIECE];
    const bool is_f16 = o->type == PG_TYPE_F16;
    for (size_t i = 0; i < n; i++) {
        half[i] = is_f16 ? pg_f32_to_f16(x[i]) : pg_f32_to_bf16(x[i]);
        if (!isfinite(is_f16 ? pg_f16_to_f32(half[i]) : pg_bf16_to_f32(half[i]))) {
            return pg_fail(err, PG_ENUMERIC, "%s: a weight of %g is too large for %s", o->name,
                           (double)x[i], pg_type_traits((uint32_t)o->type)->name);
        }
    }
    return pg_gguf_writer_data(w, half, n * sizeof(half[0]), err);
}

static int write_param(struct pg_gguf_writer *w, const struct pg_trainer *t, const struct output *o,
                       struct pg_err *err)
{
    const float *x = t->s.w + o->p->at;
    if (o->type == PG_TYPE_F32)
        return pg_gguf_writer_data(w, x, o->p->n * sizeof(float), err);
    for (size_t at = 0; at < o->p->n; at += PIECE)
        PG_TRY(write_values(w, o, x + at, PG_MIN(o->p->n - at, (size_t)PIECE), err));
    return 0;
}

/* Such a tensor (RoPE factors) is a vector of F32 (pg_loader_weight). */
static int write_untrained(struct pg_gguf_writer *w, struct pg_trainer *t, const struct output *o,
                           struct pg_err *err)
{
    float *x = pg_calloc(1, o->t->bytes);
    PG_ASSERT(o->type == PG_TYPE_F32);
    int rc = x ? pg_gguf_read_f32(t->source.gguf, o->t, x, err)
               : pg_fail(err, PG_ENOMEM, "%s: out of memory", o->name);
    rc = rc ? rc : pg_gguf_writer_data(w, x, o->t->bytes, err);
    free(x);
    return rc;
}

/* ------------------------------------------------------------------ OUT.gguf ---------------- */

static int write_file_type(struct pg_gguf_writer *w, enum pg_type type, struct pg_err *err)
{
    /* GGUF's numbers for "mostly" this type. */
    uint32_t number = type == PG_TYPE_F32 ? 0 : type == PG_TYPE_F16 ? 1 : 32;
    return pg_gguf_writer_u32(w, "general.file_type", number, err);
}

/* All keys, but those that speak of the file and not of the model. */
static int write_keys(struct pg_gguf_writer *w, const struct pg_trainer *t, struct pg_err *err)
{
    const struct pg_gguf *g = t->source.gguf;
    for (int i = 0; i < pg_gguf_n_keys(g); i++) {
        const struct pg_gguf_key *k = pg_gguf_key_at(g, i);
        if (strcmp(k->name, "general.file_type") == 0)
            PG_TRY(write_file_type(w, t->type, err));
        else if (strcmp(k->name, "general.alignment") != 0 && strncmp(k->name, "split.", 6) != 0)
            PG_TRY(pg_gguf_writer_copy(w, k, err));
    }
    return 0;
}

static int write_model(struct pg_gguf_writer *w, struct pg_trainer *t, struct pg_err *err)
{
    struct output o;
    PG_TRY(write_keys(w, t, err));
    for (int i = 0; i < pg_gguf_n_tensors(t->source.gguf); i++)
        if (output_of(t, i, &o))
            PG_TRY(pg_gguf_writer_tensor(w, o.name, o.type, o.n_dims, o.ne, err));
    for (int i = 0; i < pg_gguf_n_tensors(t->source.gguf); i++)
        if (output_of(t, i, &o))
            PG_TRY(o.p ? write_param(w, t, &o, err) : write_untrained(w, t, &o, err));
    return 0;
}

/* ------------------------------------------------------------------ OUT.pregate.gguf -------- */

/* The hash of OUT.gguf, whose routers are the F32 values that lie in w. */
static int hash_result(const struct pg_trainer *t, char out[17], struct pg_err *err)
{
    const struct pg_model *m = &t->source.model;
    struct pg_pregate *routers = pg_calloc((size_t)m->n_moe, sizeof(routers[0]));
    if (!routers)
        return pg_fail(err, PG_ENOMEM, "out of memory");
    for (int moe = 0; moe < m->n_moe; moe++) {
        struct pg_tensor_name name = pg_part_name(m, pg_block_of_moe(m, moe), PG_PART_ROUTER);
        const struct pg_param *p = pg_params_find(t->params, name.s);
        routers[moe].inp = (struct pg_weight){PG_TYPE_F32, p->n_in, p->n_out, t->s.w + p->at};
    }
    pg_model_hash(m, routers, out);
    free(routers);
    return 0;
}

static int write_sidecar(const struct pg_trainer *t, struct pg_err *err)
{
    const struct pg_model *m = &t->source.model;
    char hash[17];
    PG_TRY(hash_result(t, hash, err));
    struct pg_pregate *gates = pg_calloc((size_t)m->n_moe, sizeof(gates[0]));
    if (!gates)
        return pg_fail(err, PG_ENOMEM, "out of memory");
    pg_pregates_in(m, t->params, t->s.w, gates);
    const struct pg_sidecar s = {.model = m,
                                 .hash = hash,
                                 .level = t->opt.level,
                                 .decides = true,
                                 .weigher = t->opt.weigher,
                                 .gates = gates};
    int rc = pg_sidecar_save(&s, t->path.sidecar, err);
    free(gates);
    return rc;
}

static int remove_file(const char *path, struct pg_err *err)
{
    return unlink(path) == 0 || errno == ENOENT ? 0 : pg_fail_os(err, PG_EIO, errno, "%s", path);
}

int pg_train_export(struct pg_trainer *t, struct pg_err *err)
{
    struct pg_gguf_writer *w;
    const bool has_gates = t->opt.gate == PG_GATE_PREGATE;
    PG_TRY(pg_gguf_writer_open(&w, t->path.out, err));
    int rc = write_model(w, t, err);
    rc = rc || !has_gates ? rc : remove_file(t->path.sidecar, err);
    if (rc) {
        pg_gguf_writer_abandon(w);
        return pg_fail_in(err, rc, t->path.out);
    }
    PG_TRY(pg_gguf_writer_commit(w, err));
    if (has_gates)
        PG_TRY(write_sidecar(t, err));
    PG_TRY(remove_file(t->path.checkpoint, err));
    pg_outfile_remove(t->path.checkpoint);
    return 0;
}
