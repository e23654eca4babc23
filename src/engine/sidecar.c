/* SPDX-License-Identifier: MIT
 * Pre-gates. A sidecar is a GGUF beside an unchanged model:
 *
 *   general.type "pregate", general.architecture "pregate"
 *   pregate.base.hash    names the base model (pg_model_hash)
 *   pregate.level        blocks ahead
 *   pregate.trained_for  "hint" or "decide"
 *   blk.N.ffn_pregate_inp.weight   F32 [n_expert, n_embd]; N counts the model's blocks
 *   blk.N.ffn_pregate_inp.bias     [n_expert]
 *   blk.N.ffn_pregate_down.weight  [n_hidden, n_embd]
 *   blk.N.ffn_pregate_down.bias    [n_hidden]
 *   blk.N.ffn_pregate_up.weight    [n_expert, n_hidden]
 *
 * The first is in all pre-gates; the second, and the last three together, in all or in none.
 *
 * In lookahead mode the same tables are made in memory from the next routers, so that a sidecar
 * made of those routers hints the same, bit for bit.
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

/* ------------------------------------------------------------------ parts ------------------- */

enum { MAX_HIDDEN = 1 << 16 };

/* The tensors of one pre-gate, in the order of the file. */
enum part { PART_INP, PART_BIAS, PART_DOWN, PART_DOWN_BIAS, PART_UP, N_PARTS };

static const char *const suffix_of[N_PARTS] = {"ffn_pregate_inp.weight", "ffn_pregate_inp.bias",
                                               "ffn_pregate_down.weight", "ffn_pregate_down.bias",
                                               "ffn_pregate_up.weight"};

static struct pg_weight *part_of(struct pg_pregate *p, enum part part)
{
    struct pg_weight *const parts[N_PARTS] = {&p->inp, &p->bias, &p->down, &p->down_bias, &p->up};
    return parts[part];
}

static bool is_bias(enum part part)
{
    return part == PART_BIAS || part == PART_DOWN_BIAS;
}

/* Gives p the shapes of the parts that the engine's pre-gates have; the others have no values. */
static void shape_parts(struct pg_pregate *p, const struct pg_engine *e)
{
    int n_embd = e->model.h.n_embd, n_expert = e->model.h.n_expert;
    *p = (struct pg_pregate){
        .inp = {PG_TYPE_F32, n_embd, n_expert, NULL},
        .bias = {PG_TYPE_F32, n_expert, e->biased, NULL},
        .down = {PG_TYPE_F32, n_embd, e->n_hidden, NULL},
        .down_bias = {PG_TYPE_F32, e->n_hidden, 1, NULL},
        .up = {PG_TYPE_F32, e->n_hidden, n_expert, NULL},
    };
}

int pg_block_of_moe(const struct pg_model *m, int moe)
{
    int il = 0;
    while (m->layer[il].moe != moe)
        il++;
    return il;
}

static size_t n_values(const struct pg_weight *w)
{
    return (size_t)w->n_in * (size_t)w->n_out;
}

struct tensor_name {
    char s[96];
};

static struct tensor_name name_of(const struct pg_model *m, int moe, enum part part)
{
    struct tensor_name n;
    snprintf(n.s, sizeof(n.s), "blk.%d.%s", pg_block_of_moe(m, moe), suffix_of[part]);
    return n;
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

/* Which parts the pre-gates have: those of the first. */
static int read_form(struct pg_engine *e, const struct pg_gguf *g, struct pg_err *err)
{
    struct tensor_name down = name_of(&e->model, 0, PART_DOWN);
    const struct pg_gguf_tensor *t = pg_gguf_find_tensor(g, down.s);
    e->biased = pg_gguf_find_tensor(g, name_of(&e->model, 0, PART_BIAS).s) != NULL;
    if (t && (t->n_dims != 2 || t->ne[1] > MAX_HIDDEN)) {
        return pg_fail(err, PG_EFORMAT,
                       "%s: %d dimensions and %lld rows found, 2 and at most %d wanted", down.s,
                       t->n_dims, (long long)t->ne[1], MAX_HIDDEN);
    }
    e->n_hidden = t ? (int)t->ne[1] : 0;
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
    if (!rc)
        rc = read_purpose(e, g, err);
    if (!rc)
        rc = read_form(e, g, err);
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
    if (!needs_sidecar(e->opt.mode))
        return 0;
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

static int n_tables(const struct pg_engine *e)
{
    bool any = e->opt.mode == PG_MODE_LOOKAHEAD || needs_sidecar(e->opt.mode);
    return any ? PG_MAX(0, e->model.n_moe - e->level) : 0;
}

size_t pg_tables_bytes(const struct pg_engine *e)
{
    struct pg_pregate p;
    size_t n = 0;
    shape_parts(&p, e);
    for (int part = 0; part < N_PARTS; part++)
        n += n_values(part_of(&p, (enum part)part));
    return (size_t)n_tables(e) * n * sizeof(float);
}

void pg_pregate_fold(const struct pg_model *m, int moe, int level, float *out)
{
    const struct pg_layer *from = &m->layer[pg_block_of_moe(m, moe)];
    const struct pg_layer *to = &m->layer[pg_block_of_moe(m, moe + level)];
    pg_gate_fold(&to->ffn_gate_inp, from->ffn_norm.data, to->ffn_norm.data, out);
}

static int read_at(int fd, uint64_t offset, void *buf, size_t n)
{
    char *p = buf;
    while (n) {
        ssize_t got = pread(fd, p, n, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return got < 0 ? errno : EIO;
        p += got;
        offset += (uint64_t)got;
        n -= (size_t)got;
    }
    return 0;
}

static int read_table(const struct pg_gguf *g, int fd, const char *name, const struct pg_weight *w,
                      bool is_vector, struct pg_err *err)
{
    const struct pg_gguf_tensor *t;
    const int64_t ne[4] = {w->n_in, is_vector ? 0 : w->n_out, 0, 0};
    float *out = (float *)w->data;
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
    for (size_t i = 0; i < n_values(w); i++)
        if (!isfinite(out[i]))
            return pg_fail(err, PG_EFORMAT, "%s: value %zu is not finite", name, i);
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
    int n_parts = 1 + e->biased + (e->n_hidden ? 3 : 0);
    if (pg_gguf_n_tensors(g) != n_tables(e) * n_parts) {
        return pg_fail(err, PG_EFORMAT, "%d tensors found, %d pre-gates wanted (of %d each)",
                       pg_gguf_n_tensors(g), n_tables(e), n_parts);
    }
    for (int moe = 0; moe < n_tables(e); moe++) {
        for (int part = 0; part < N_PARTS; part++) {
            const struct pg_weight *w = part_of(&e->pregates[moe], (enum part)part);
            struct tensor_name name = name_of(&e->model, moe, (enum part)part);
            PG_TRY(w->data ? read_table(g, fd, name.s, w, is_bias((enum part)part), err) : 0);
        }
    }
    return pg_stamp_check(pg_gguf_part_stamp(g, 0), fd, e->sidecar_path, err);
}

static int open_tables(struct pg_engine *e, struct pg_err *err)
{
    struct pg_gguf *g;
    PG_TRY(pg_gguf_open(&g, e->sidecar_path, err));
    int fd = open(e->sidecar_path, O_RDONLY | O_CLOEXEC);
    int rc = fd < 0 ? pg_fail_os(err, PG_EIO, errno, "open") : read_tables(e, g, fd, err);
    if (fd >= 0)
        close(fd);
    pg_gguf_close(g);
    return rc ? pg_fail_in(err, rc, e->sidecar_path) : 0;
}

/* Gives the parts of all pre-gates their place in the tables. */
static void place_tables(struct pg_engine *e)
{
    float *at = e->tables.base;
    for (int moe = 0; moe < n_tables(e); moe++) {
        shape_parts(&e->pregates[moe], e);
        for (int part = 0; part < N_PARTS; part++) {
            struct pg_weight *w = part_of(&e->pregates[moe], (enum part)part);
            w->data = n_values(w) ? at : NULL;
            at += n_values(w);
        }
    }
}

int pg_tables_fill(struct pg_engine *e, struct pg_err *err)
{
    place_tables(e);
    if (e->opt.mode == PG_MODE_LOOKAHEAD)
        for (int moe = 0; moe < n_tables(e); moe++)
            pg_pregate_fold(&e->model, moe, e->level, (float *)e->pregates[moe].inp.data);
    return n_tables(e) && needs_sidecar(e->opt.mode) ? open_tables(e, err) : 0;
}

/* ------------------------------------------------------------------ making ------------------ */

static int write_keys(struct pg_gguf_writer *w, const struct pg_sidecar *s, struct pg_err *err)
{
    const char *purpose = s->decides ? "decide" : "hint";
    PG_TRY(pg_gguf_writer_str(w, "general.architecture", "pregate", err));
    PG_TRY(pg_gguf_writer_str(w, "general.type", "pregate", err));
    PG_TRY(pg_gguf_writer_str(w, "general.name", s->model->name, err));
    PG_TRY(pg_gguf_writer_str(w, "pregate.base.hash", s->hash, err));
    PG_TRY(pg_gguf_writer_str(w, "pregate.base.architecture", s->model->arch, err));
    PG_TRY(pg_gguf_writer_u32(w, "pregate.level", (uint32_t)s->level, err));
    return pg_gguf_writer_str(w, "pregate.trained_for", purpose, err);
}

typedef int part_fn(struct pg_gguf_writer *w, const char *name, const struct pg_weight *of,
                    bool is_vector, struct pg_err *err);

/* Calls `each` for all parts that there are, in the order of the file. */
static int each_part(struct pg_gguf_writer *w, const struct pg_sidecar *s, part_fn *each,
                     struct pg_err *err)
{
    for (int moe = 0; moe < s->model->n_moe - s->level; moe++) {
        struct pg_pregate gate = s->gates[moe];
        for (int part = 0; part < N_PARTS; part++) {
            const struct pg_weight *of = part_of(&gate, (enum part)part);
            struct tensor_name name = name_of(s->model, moe, (enum part)part);
            PG_TRY(of->data ? each(w, name.s, of, is_bias((enum part)part), err) : 0);
        }
    }
    return 0;
}

static int name_part(struct pg_gguf_writer *w, const char *name, const struct pg_weight *of,
                     bool is_vector, struct pg_err *err)
{
    return pg_gguf_writer_tensor(w, name, PG_TYPE_F32, is_vector ? 1 : 2,
                                 (int64_t[]){of->n_in, of->n_out}, err);
}

static int write_part(struct pg_gguf_writer *w, const char *name, const struct pg_weight *of,
                      bool is_vector, struct pg_err *err)
{
    (void)name;
    (void)is_vector;
    return pg_gguf_writer_data(w, of->data, n_values(of) * sizeof(float), err);
}

int pg_sidecar_save(const struct pg_sidecar *s, const char *out, struct pg_err *err)
{
    struct pg_gguf_writer *w;
    PG_TRY(pg_gguf_writer_open(&w, out, err));
    int rc = write_keys(w, s, err);
    rc = rc ? rc : each_part(w, s, name_part, err);
    rc = rc ? rc : each_part(w, s, write_part, err);
    if (rc) {
        pg_gguf_writer_abandon(w);
        return rc;
    }
    return pg_gguf_writer_commit(w, err);
}

/* The untrained pre-gates of a loaded model. */
static int write_folded(const struct pg_model *m, const char *out, int level, struct pg_err *err)
{
    char hash[17];
    size_t n = (size_t)(m->n_moe - level), each = (size_t)m->h.n_expert * (size_t)m->h.n_embd;
    struct pg_pregate *gates = pg_calloc(n, sizeof(*gates));
    float *table = pg_calloc(n, each * sizeof(float));
    int rc = PG_ENOMEM;
    if (gates && table) {
        for (size_t i = 0; i < n; i++) {
            gates[i].inp =
                (struct pg_weight){PG_TYPE_F32, m->h.n_embd, m->h.n_expert, table + i * each};
            pg_pregate_fold(m, (int)i, level, table + i * each);
        }
        pg_model_hash(m, hash);
        struct pg_sidecar s = {.model = m, .hash = hash, .level = level, .gates = gates};
        rc = pg_sidecar_save(&s, out, err);
    } else {
        pg_fail(err, rc, "out of memory");
    }
    free(table);
    free(gates);
    return rc;
}

bool pg_same_file(const char *a, const char *b)
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
    if (pg_same_file(model, out)) {
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
        rc = write_folded(&e->model, out, level, err);
    }
    pg_engine_close(e);
    return rc;
}
