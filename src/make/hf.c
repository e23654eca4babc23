/* SPDX-License-Identifier: MIT */
#include "make/hf_impl.h"

#include "base/os.h"
#include "format/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ------------------------------------------------------------------ configuration ----------- */

const json_t *pg_hf_value(const struct pg_hf *f, const char *key)
{
    const json_t *v = json_object_get(f->config, key);
    return json_is_null(v) ? NULL : v;
}

int pg_hf_int(const struct pg_hf *f, const char *key, const int64_t range[2], int64_t none,
              int64_t *out, struct pg_err *err)
{
    const json_t *v = pg_hf_value(f, key);
    if (!v && none != PG_HF_NEEDED) {
        *out = none;
        return 0;
    }
    *out = json_is_integer(v) ? json_integer_value(v) : -1;
    if (!json_is_integer(v) || *out < range[0] || *out > range[1])
        return pg_fail(err, PG_EFORMAT, "%s: %s: %s, a whole number of %lld to %lld wanted",
                       f->config_path, key, v ? "something else found" : "missing",
                       (long long)range[0], (long long)range[1]);
    return 0;
}

int pg_hf_real(const struct pg_hf *f, const char *key, double none, double *out, struct pg_err *err)
{
    const json_t *v = pg_hf_value(f, key);
    *out = v ? json_number_value(v) : none;
    if ((v && !json_is_number(v)) || !(*out > 0 && *out < 1e12))
        return pg_fail(err, PG_EFORMAT, "%s: %s: %s, a positive number wanted", f->config_path, key,
                       v ? "something else found" : "missing");
    return 0;
}

int pg_hf_numbers(const struct pg_hf *f, const struct pg_hf_number *n, size_t count,
                  struct pg_err *err)
{
    for (size_t i = 0; i < count; i++)
        PG_TRY(
            pg_hf_int(f, n[i].key, (int64_t[]){n[i].least, n[i].most}, n[i].none, n[i].out, err));
    return 0;
}

bool pg_hf_true(const struct pg_hf *f, const char *key, bool none)
{
    const json_t *v = pg_hf_value(f, key);
    return v ? json_is_true(v) : none;
}

int pg_hf_text(const struct pg_hf *f, const char *key, const char **out, struct pg_err *err)
{
    const json_t *v = pg_hf_value(f, key);
    *out = json_string_value(v);
    return v && !*out ? pg_fail(err, PG_EFORMAT, "%s: %s: something else found, a text wanted",
                                f->config_path, key)
                      : 0;
}

int pg_hf_only(const struct pg_hf *f, const char *key, const char *wanted, struct pg_err *err)
{
    const char *found;
    PG_TRY(pg_hf_text(f, key, &found, err));
    return !found || !strcmp(found, wanted)
               ? 0
               : pg_fail(err, PG_ENOTSUP, "%s: %s: '%s' found, %s can be run", f->config_path, key,
                         pg_quote(found, strlen(found)).s, wanted);
}

/* ------------------------------------------------------------------ tensors ----------------- */

static int find(struct pg_hf *f, const char *name, const struct pg_st_tensor **out,
                struct pg_err *err)
{
    *out = pg_st_find(f->st, name);
    if (!*out)
        return pg_fail(err, PG_EFORMAT, "%s: tensor %s: is missing", f->folder, name);
    if (pg_st_type(*out) < 0)
        return pg_fail(err, PG_ENOTSUP, "%s: tensor %s: %s found; F32, F16 and BF16 can be read",
                       f->folder, name, (*out)->dtype);
    f->used[*out - pg_st_at(f->st, 0)] = 1;
    return 0;
}

bool pg_hf_has(const struct pg_hf *f, const char *name)
{
    return pg_st_find(f->st, name) != NULL;
}

void pg_hf_ignore(struct pg_hf *f, const char *name)
{
    const struct pg_st_tensor *t = pg_st_find(f->st, name);
    if (t)
        f->used[t - pg_st_at(f->st, 0)] = 1;
}

static int add_out(struct pg_hf *f, const char *name, struct pg_hf_out **out, struct pg_err *err)
{
    size_t n = (size_t)f->n_out;
    if (pg_reserve(&f->out, &f->cap_out, n + 1, sizeof(*f->out)))
        return pg_fail(err, PG_ENOMEM, "out of memory");
    *out = &f->out[f->n_out++];
    **out = (struct pg_hf_out){.piece = f->n_pieces, .ne = {1, 1, 1}};
    snprintf((*out)->name, sizeof((*out)->name), "%s", name);
    return 0;
}

static int add_piece(struct pg_hf *f, struct pg_hf_piece piece, struct pg_err *err)
{
    size_t n = (size_t)f->n_pieces;
    if (pg_reserve(&f->piece, &f->cap_pieces, n + 1, sizeof(*f->piece)))
        return pg_fail(err, PG_ENOMEM, "out of memory");
    f->piece[f->n_pieces++] = piece;
    f->out[f->n_out - 1].n_pieces++;
    return 0;
}

static int bad_shape(const struct pg_hf *f, const struct pg_st_tensor *t, int64_t rows, int64_t n,
                     struct pg_err *err)
{
    char found[120] = "";
    for (int i = 0, at = 0; i < t->n_dims && at < (int)sizeof(found) - 24; i++)
        at += snprintf(found + at, sizeof(found) - (size_t)at, i ? ", %lld" : "%lld",
                       (long long)t->shape[i]);
    return pg_fail(err, PG_EFORMAT, "%s: tensor %s: shape [%s] found, [%lld, %lld] wanted",
                   f->folder, t->name, found, (long long)rows, (long long)n);
}

static int64_t n_values(const struct pg_st_tensor *t)
{
    int64_t n = 1;
    for (int i = 0; i < t->n_dims; i++)
        n *= t->shape[i];
    return n;
}

int pg_hf_copy(struct pg_hf *f, const char *out, const char *from, int64_t rows, int64_t n,
               struct pg_err *err)
{
    const struct pg_st_tensor *t;
    struct pg_hf_out *o;
    PG_TRY(find(f, from, &t, err));
    int64_t wanted;
    if (__builtin_mul_overflow(rows, n, &wanted) || n_values(t) != wanted ||
        t->shape[t->n_dims ? t->n_dims - 1 : 0] != n)
        return bad_shape(f, t, rows, n, err);
    PG_TRY(add_out(f, out, &o, err));
    o->n_dims = rows == 1 ? 1 : 2;
    o->ne[0] = n;
    o->ne[1] = rows;
    o->is_small = rows == 1;
    return add_piece(f, (struct pg_hf_piece){t, 0, rows}, err);
}

struct pg_hf_out *pg_hf_last(struct pg_hf *f)
{
    return &f->out[f->n_out - 1];
}

int pg_hf_merge(struct pg_hf *f, const struct pg_hf_experts *x, struct pg_err *err)
{
    const struct pg_st_tensor *t = pg_st_find(f->st, x->fused);
    struct pg_hf_out *o;
    char name[160];
    PG_TRY(add_out(f, x->out, &o, err));
    *o = (struct pg_hf_out){.piece = o->piece, .n_dims = 3, .is_expert = true};
    snprintf(o->name, sizeof(o->name), "%s", x->out);
    o->ne[0] = x->n;
    o->ne[1] = x->rows;
    o->ne[2] = x->n_expert;
    if (t) {
        PG_TRY(find(f, x->fused, &t, err));
        if (t->n_dims != 3 || t->shape[0] != x->n_expert || t->shape[1] != x->all ||
            t->shape[2] != x->n)
            return bad_shape(f, t, x->n_expert * x->all, x->n, err);
    }
    for (int64_t e = 0; e < x->n_expert; e++) {
        struct pg_hf_piece p = {t, e * x->all + x->first, x->rows};
        if (!t) {
            snprintf(name, sizeof(name), x->single, (int)e);
            PG_TRY(find(f, name, &p.t, err));
            p.first = 0;
            if (p.t->n_dims != 2 || p.t->shape[0] != x->rows || p.t->shape[1] != x->n)
                return bad_shape(f, p.t, x->rows, x->n, err);
        }
        PG_TRY(add_piece(f, p, err));
    }
    return 0;
}

/* ------------------------------------------------------------------ the folder -------------- */

static const struct pg_hf_family *const families[] = {
    &pg_hf_llama, &pg_hf_mixtral, &pg_hf_qwen2moe, &pg_hf_qwen3moe,
    &pg_hf_olmoe, &pg_hf_t5,      &pg_hf_switch,
};

static int find_family(struct pg_hf *f, struct pg_err *err)
{
    const char *type;
    PG_TRY(pg_hf_text(f, "model_type", &type, err));
    for (size_t i = 0; i < PG_COUNT(families); i++)
        if (type && !strcmp(type, families[i]->model_type))
            f->family = families[i];
    if (f->family)
        return 0;
    return pg_fail(
        err, PG_ENOTSUP,
        "%s: model_type: '%s' found; llama, mixtral, qwen2_moe, qwen3_moe, olmoe, t5 and "
        "switch_transformers can be converted",
        f->config_path, type ? pg_quote(type, strlen(type)).s : "nothing");
}

static int check_all_used(const struct pg_hf *f, struct pg_err *err)
{
    for (int i = 0; i < pg_st_n_tensors(f->st); i++)
        if (!f->used[i])
            return pg_fail(err, PG_ENOTSUP,
                           "%s: tensor %s: '%s' has no use for it; without it the model would be "
                           "another",
                           pg_st_path(f->st, pg_st_at(f->st, i)->part), pg_st_at(f->st, i)->name,
                           f->family->model_type);
    return 0;
}

bool pg_hf_path(const struct pg_hf *f, const char *name, char path[PG_HF_PATH])
{
    const int n = snprintf(path, PG_HF_PATH, "%s/%s", f->folder, name);
    return n < PG_HF_PATH && access(path, F_OK) == 0;
}

static int open_folder(struct pg_hf *f, struct pg_err *err)
{
    if (strlen(f->folder) + 64 > PG_HF_PATH)
        return pg_fail(err, PG_EARG, "the name of the folder is too long");
    pg_hf_path(f, "config.json", f->config_path);
    PG_TRY(pg_json_load(&f->config, f->config_path, err));
    PG_TRY(find_family(f, err));
    PG_TRY(pg_st_open(&f->st, f->folder, err));
    f->used = pg_calloc((size_t)pg_st_n_tensors(f->st) + 1, 1);
    if (!f->used)
        return pg_fail(err, PG_ENOMEM, "out of memory");
    PG_TRY(f->family->dims(f, err));
    PG_TRY(f->family->tensors(f, err));
    return check_all_used(f, err);
}

int pg_hf_open(struct pg_hf *f, const char *folder, struct pg_err *err)
{
    *f = (struct pg_hf){.folder = folder};
    int rc = open_folder(f, err);
    if (rc)
        pg_hf_close(f);
    return rc;
}

void pg_hf_close(struct pg_hf *f)
{
    json_decref(f->config);
    pg_st_close(f->st);
    free(f->used);
    free(f->out);
    free(f->piece);
    *f = (struct pg_hf){0};
}

/* ------------------------------------------------------------------ keys -------------------- */

void pg_hf_u32(struct pg_hf_keys *k, const char *name, int64_t v)
{
    char key[96];
    snprintf(key, sizeof(key), "%s.%s", k->arch, name);
    k->rc = k->rc ? k->rc : pg_gguf_writer_u32(k->w, key, (uint32_t)v, k->err);
}

void pg_hf_f32(struct pg_hf_keys *k, const char *name, double v)
{
    char key[96];
    snprintf(key, sizeof(key), "%s.%s", k->arch, name);
    k->rc = k->rc ? k->rc : pg_gguf_writer_f32(k->w, key, (float)v, k->err);
}

void pg_hf_flag(struct pg_hf_keys *k, const char *name, bool v)
{
    char key[96];
    snprintf(key, sizeof(key), "%s.%s", k->arch, name);
    k->rc = k->rc ? k->rc : pg_gguf_writer_bool(k->w, key, v, k->err);
}

/* The folder's own name, and nothing of where it lies. */
static int write_name(const struct pg_hf *f, struct pg_gguf_writer *w, struct pg_err *err)
{
    char name[96];
    size_t end = strlen(f->folder), begin;
    while (end > 0 && f->folder[end - 1] == '/')
        end--;
    for (begin = end; begin > 0 && f->folder[begin - 1] != '/'; begin--)
        ;
    snprintf(name, sizeof(name), "%.*s", (int)PG_MIN(end - begin, sizeof(name) - 1),
             f->folder + begin);
    return pg_gguf_writer_str(w, "general.name", name[0] ? name : "model", err);
}

int pg_hf_keys(const struct pg_hf *f, struct pg_gguf_writer *w, struct pg_err *err)
{
    struct pg_hf_keys k = {.w = w, .arch = f->family->arch, .err = err};
    const struct pg_hf_dims *d = &f->d;
    PG_TRY(pg_gguf_writer_str(w, "general.architecture", f->family->arch, err));
    PG_TRY(write_name(f, w, err));
    pg_hf_u32(&k, "block_count", d->n_layer);
    pg_hf_u32(&k, "context_length", d->n_ctx);
    pg_hf_u32(&k, "embedding_length", d->n_embd);
    pg_hf_u32(&k, "feed_forward_length", d->n_ff);
    pg_hf_u32(&k, "attention.head_count", d->n_head);
    pg_hf_u32(&k, "attention.head_count_kv", d->n_head_kv);
    pg_hf_u32(&k, "attention.key_length", d->head_dim);
    pg_hf_u32(&k, "attention.value_length", d->head_dim);
    pg_hf_f32(&k, "attention.layer_norm_rms_epsilon", d->eps);
    pg_hf_u32(&k, "vocab_size", d->n_vocab);
    if (d->n_expert) {
        pg_hf_u32(&k, "expert_count", d->n_expert);
        pg_hf_u32(&k, "expert_used_count", d->n_used);
    }
    f->family->keys(f, &k);
    return k.rc;
}
