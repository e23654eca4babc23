/* SPDX-License-Identifier: MIT
 * Pre-gates. A sidecar is a GGUF beside an unchanged model:
 *
 *   general.type "pregate", general.architecture "pregate"
 *   pregate.base.hash    names the base model (pg_model_hash)
 *   pregate.level        blocks ahead
 *   pregate.trained_for  "hint" or "decide"
 *   blk.N.ffn_pregate_inp.weight  F32 [n_expert, n_embd]; N counts the model's blocks
 *
 * In lookahead mode the same tables are made in memory from the next routers, so that a sidecar
 * made of those routers warns the same, bit for bit.
 */
#include "engine/engine.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static bool needs_sidecar(enum pg_mode m)
{
    return m == PG_MODE_HINT || m == PG_MODE_PREGATE;
}

/* ------------------------------------------------------------------ finding ----------------- */

static bool try_path(struct pg_engine *e, const char *dir_and_stem, int n, const char *rest)
{
    size_t size = sizeof(e->sidecar_path);
    if (snprintf(e->sidecar_path, size, "%.*s%s", n, dir_and_stem, rest) >= (int)size ||
        access(e->sidecar_path, R_OK) != 0) {
        e->sidecar_path[0] = 0;
        return false;
    }
    return true;
}

/* MODEL.pregate.gguf, or pregate-MODEL.gguf, in the model's folder. */
static bool find_beside(struct pg_engine *e)
{
    char rest[512];
    const char *path = e->opt.model, *base = strrchr(path, '/');
    size_t n = strlen(path);
    int stem = n > 5 && strcmp(path + n - 5, ".gguf") == 0 ? (int)n - 5 : (int)n;
    base = base ? base + 1 : path;
    return try_path(e, path, stem, ".pregate.gguf") ||
           (snprintf(rest, sizeof(rest), "pregate-%s", base) < (int)sizeof(rest) &&
            try_path(e, path, (int)(base - path), rest));
}

static bool str_is(const struct pg_str *s, const char *text)
{
    return s->n == strlen(text) && memcmp(s->s, text, s->n) == 0;
}

static int read_purpose(struct pg_engine *e, const struct pg_gguf *g, struct pg_err *err)
{
    struct pg_str purpose = {"hint", 4};
    PG_TRY(pg_gguf_get_str(g, "pregate.trained_for", PG_GGUF_OPTIONAL, &purpose, err));
    e->trained_to_decide = str_is(&purpose, "decide");
    if (!e->trained_to_decide && !str_is(&purpose, "hint")) {
        return pg_fail(err, PG_EFORMAT,
                       "pregate.trained_for: '%s' found, 'hint' or 'decide' wanted",
                       pg_quote(purpose.s, purpose.n).s);
    }
    return 0;
}

static int read_level(struct pg_engine *e, struct pg_err *err)
{
    struct pg_gguf *g;
    struct pg_str type;
    int64_t level = 1;
    PG_TRY(pg_gguf_open(&g, e->sidecar_path, err));
    int rc = pg_gguf_get_str(g, "general.type", PG_GGUF_REQUIRED, &type, err);
    if (!rc && !str_is(&type, "pregate")) {
        rc = pg_fail(err, PG_EFORMAT, "general.type: '%s' found, 'pregate' wanted",
                     pg_quote(type.s, type.n).s);
    }
    if (!rc) {
        rc = pg_gguf_get_int(g, "pregate.level", PG_GGUF_REQUIRED, 1, PG_MAX(1, e->model.n_moe - 1),
                             &level, err);
    }
    if (!rc) {
        rc = read_purpose(e, g, err);
    }
    pg_gguf_close(g);
    if (!rc && e->opt.lookahead && e->opt.lookahead != level) {
        rc = pg_fail(err, PG_EARG, "pregate.level: %d found, --lookahead %d wanted", (int)level,
                     e->opt.lookahead);
    }
    e->level = (int)level;
    return rc ? pg_fail_in(err, rc, e->sidecar_path) : 0;
}

int pg_sidecar_find(struct pg_engine *e, struct pg_err *err)
{
    if (!needs_sidecar(e->opt.mode)) {
        return 0;
    }
    if (e->opt.sidecar) {
        size_t n = strlen(e->opt.sidecar);
        if (n >= sizeof(e->sidecar_path)) {
            return pg_fail(err, PG_EARG, "the path of the sidecar has %zu bytes, %zu are the most",
                           n, sizeof(e->sidecar_path) - 1);
        }
        memcpy(e->sidecar_path, e->opt.sidecar, n + 1);
    } else if (!find_beside(e)) {
        return pg_fail(err, PG_EARG,
                       "mode %s needs pre-gates, and there is no sidecar beside %s; name one, or "
                       "make one with `pregate sidecar MODEL -o FILE`",
                       pg_mode_name(e->opt.mode), e->opt.model);
    }
    return read_level(e, err);
}

/* ------------------------------------------------------------------ tables ------------------ */

static size_t table_values(const struct pg_model *m)
{
    return (size_t)m->h.n_expert * (size_t)m->h.n_embd;
}

static int n_tables(const struct pg_engine *e)
{
    bool any = e->opt.mode == PG_MODE_LOOKAHEAD || needs_sidecar(e->opt.mode);
    return any ? PG_MAX(0, e->model.n_moe - e->level) : 0;
}

size_t pg_tables_bytes(const struct pg_engine *e)
{
    return (size_t)n_tables(e) * table_values(&e->model) * sizeof(float);
}

/* The model's block that is MoE block `moe`. */
static int block_of(const struct pg_model *m, int moe)
{
    int il = 0;
    while (m->layer[il].moe != moe) {
        il++;
    }
    return il;
}

/* The pre-gate of MoE block `moe` that its untrained router `level` blocks on makes. */
static void fold_table(const struct pg_model *m, int moe, int level, float *out)
{
    const struct pg_layer *from = &m->layer[block_of(m, moe)];
    const struct pg_layer *to = &m->layer[block_of(m, moe + level)];
    pg_gate_fold(&to->ffn_gate_inp, from->ffn_norm.data, to->ffn_norm.data, out);
}

static int read_at(int fd, uint64_t offset, void *buf, size_t n)
{
    char *p = buf;
    while (n) {
        ssize_t got = pread(fd, p, n, (off_t)offset);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            return got < 0 ? errno : EIO;
        }
        p += got;
        offset += (uint64_t)got;
        n -= (size_t)got;
    }
    return 0;
}

static int read_table(const struct pg_engine *e, const struct pg_gguf *g, int fd, int moe,
                      float *out, struct pg_err *err)
{
    char name[96];
    const struct pg_gguf_tensor *t;
    const int64_t ne[4] = {e->model.h.n_embd, e->model.h.n_expert, 0, 0};
    snprintf(name, sizeof(name), "blk.%d.ffn_pregate_inp.weight", block_of(&e->model, moe));
    PG_TRY(pg_gguf_get_tensor(g, name, PG_GGUF_REQUIRED, ne, &t, err));
    if (t->type != PG_TYPE_F32) {
        return pg_fail(err, PG_ENOTSUP, "%s: type %s found, F32 wanted", name,
                       pg_type_traits((uint32_t)t->type)->name);
    }
    int os_error = read_at(fd, t->offset, out, t->bytes);
    if (os_error) {
        return pg_fail_os(err, PG_EIO, os_error, "%s: reading %llu bytes at %llu", name,
                          (unsigned long long)t->bytes, (unsigned long long)t->offset);
    }
    for (size_t i = 0; i < table_values(&e->model); i++) {
        if (!isfinite(out[i])) {
            return pg_fail(err, PG_EFORMAT, "%s: value %zu is not finite", name, i);
        }
    }
    return 0;
}

static int read_tables(struct pg_engine *e, const struct pg_gguf *g, int fd, struct pg_err *err)
{
    char hash[17];
    struct pg_str found;
    if (pg_gguf_n_parts(g) != 1) {
        return pg_fail(err, PG_ENOTSUP, "pre-gates: a set of %d files found, one file wanted",
                       pg_gguf_n_parts(g));
    }
    pg_model_hash(&e->model, hash);
    PG_TRY(pg_gguf_get_str(g, "pregate.base.hash", PG_GGUF_REQUIRED, &found, err));
    if (found.n != 16 || memcmp(found.s, hash, 16) != 0) {
        return pg_fail(err, PG_EFORMAT,
                       "pregate.base.hash: '%s' found, '%s' wanted: these pre-gates belong to "
                       "another model",
                       pg_quote(found.s, found.n).s, hash);
    }
    if (pg_gguf_n_tensors(g) != n_tables(e)) {
        return pg_fail(err, PG_EFORMAT, "%d tensors found, %d pre-gates wanted",
                       pg_gguf_n_tensors(g), n_tables(e));
    }
    for (int moe = 0; moe < n_tables(e); moe++) {
        PG_TRY(read_table(e, g, fd, moe,
                          (float *)e->tables.base + (size_t)moe * table_values(&e->model), err));
    }
    return 0;
}

static int open_tables(struct pg_engine *e, struct pg_err *err)
{
    struct pg_gguf *g;
    PG_TRY(pg_gguf_open(&g, e->sidecar_path, err));
    int fd = open(e->sidecar_path, O_RDONLY | O_CLOEXEC);
    int rc = fd < 0 ? pg_fail_os(err, PG_EIO, errno, "open") : read_tables(e, g, fd, err);
    if (fd >= 0) {
        close(fd);
    }
    pg_gguf_close(g);
    return rc ? pg_fail_in(err, rc, e->sidecar_path) : 0;
}

int pg_tables_fill(struct pg_engine *e, struct pg_err *err)
{
    const struct pg_model *m = &e->model;
    if (n_tables(e) == 0) {
        return 0;
    }
    if (needs_sidecar(e->opt.mode)) {
        PG_TRY(open_tables(e, err));
    }
    for (int moe = 0; moe < n_tables(e); moe++) {
        float *table = (float *)e->tables.base + (size_t)moe * table_values(m);
        if (e->opt.mode == PG_MODE_LOOKAHEAD) {
            fold_table(m, moe, e->level, table);
        }
        e->pregates[moe] = (struct pg_weight){PG_TYPE_F32, m->h.n_embd, m->h.n_expert, table};
    }
    return 0;
}

/* ------------------------------------------------------------------ making ------------------ */

static int write_keys(struct pg_gguf_writer *w, const struct pg_model *m, int level,
                      struct pg_err *err)
{
    char hash[17];
    pg_model_hash(m, hash);
    PG_TRY(pg_gguf_writer_str(w, "general.architecture", "pregate", err));
    PG_TRY(pg_gguf_writer_str(w, "general.type", "pregate", err));
    PG_TRY(pg_gguf_writer_str(w, "general.name", m->name, err));
    PG_TRY(pg_gguf_writer_str(w, "pregate.base.hash", hash, err));
    PG_TRY(pg_gguf_writer_str(w, "pregate.base.architecture", m->arch, err));
    PG_TRY(pg_gguf_writer_u32(w, "pregate.level", (uint32_t)level, err));
    return pg_gguf_writer_str(w, "pregate.trained_for", "hint", err);
}

static int write_tables(struct pg_gguf_writer *w, const struct pg_model *m, int level, float *table,
                        struct pg_err *err)
{
    int n = m->n_moe - level;
    PG_TRY(write_keys(w, m, level, err));
    for (int moe = 0; moe < n; moe++) {
        char name[96];
        snprintf(name, sizeof(name), "blk.%d.ffn_pregate_inp.weight", block_of(m, moe));
        PG_TRY(pg_gguf_writer_tensor(w, name, PG_TYPE_F32, 2,
                                     (int64_t[]){m->h.n_embd, m->h.n_expert}, err));
    }
    for (int moe = 0; moe < n; moe++) {
        fold_table(m, moe, level, table);
        PG_TRY(pg_gguf_writer_data(w, table, table_values(m) * sizeof(float), err));
    }
    return 0;
}

static int write_file(const struct pg_model *m, const char *out, int level, struct pg_err *err)
{
    struct pg_gguf_writer *w;
    float *table = pg_calloc(table_values(m), sizeof(float));
    if (!table) {
        return pg_fail(err, PG_ENOMEM, "out of memory");
    }
    int rc = pg_gguf_writer_open(&w, out, err);
    if (!rc) {
        rc = write_tables(w, m, level, table, err);
        if (rc) {
            pg_gguf_writer_abandon(w);
        } else {
            rc = pg_gguf_writer_commit(w, err);
        }
    }
    free(table);
    return rc;
}

static bool same_file(const char *a, const char *b)
{
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

int pg_sidecar_write(const char *model, const char *out, int level, struct pg_err *err)
{
    pg_engine *e;
    struct pg_options opt = {PG_OPTIONS_INIT, .model = model, .mode = PG_MODE_ONDEMAND, .n_ctx = 1,
                             .n_threads = 1};
    level = level ? level : 1;
    if (same_file(model, out)) {
        return pg_fail(err, PG_EARG, "%s is the model itself; the sidecar needs a file of its own",
                       out);
    }
    PG_TRY(pg_engine_open(&e, &opt, err));
    int rc;
    if (e->model.n_moe < 2) {
        rc = pg_fail(err, PG_EARG,
                     "%s: %d blocks with experts found, 2 wanted at least: a pre-gate is made of a "
                     "later block's router",
                     model, e->model.n_moe);
    } else if (level < 1 || level >= e->model.n_moe) {
        rc = pg_fail(err, PG_EARG,
                     "level %d: the model has %d blocks with experts, so 1 to %d is possible",
                     level, e->model.n_moe, e->model.n_moe - 1);
    } else {
        rc = write_file(&e->model, out, level, err);
    }
    pg_engine_close(e);
    return rc;
}
