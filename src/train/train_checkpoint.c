/* SPDX-License-Identifier: MIT
 * Checkpoints: a GGUF of general.type "pregate-checkpoint" with
 *
 *   pregate.train.step     steps done
 *   pregate.train.start    names the tensors and the weights that training began with
 *   pregate.train.data     names the text
 *   pregate.train.*        the options that the coming steps depend on
 *   pregate.train.sum      of all data below
 *   w, m, v                F32: weights and moments, flat
 *   metrics                F32 [step, PG_METRIC_COUNT]
 *
 * Which batch comes next follows from the seed and the step. Only n_steps may differ from that of
 * the run that wrote the checkpoint.
 */
#include "train/train.h"

#include "base/hash.h"
#include "base/os.h"

#include <errno.h>
#include <fcntl.h>
#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char type_name[] = "pregate-checkpoint";

/* ------------------------------------------------------------------ what must match --------- */

enum kind { INT, REAL, TEXT };

struct matter {
    const char *key;
    enum kind kind;
    int64_t i;
    float f;
    const char *s;
};

enum { MATTERS_MAX = 32 };

/* Everything that the bits of the coming steps depend on. */
static int list_matters(const struct pg_trainer *t, char seed[24], struct matter *out)
{
    const struct pg_train_options *o = &t->opt;
    snprintf(seed, 24, "%" PRIu64, o->seed);
    const struct matter all[] = {
        {"pregate.train.start", TEXT, 0, 0, t->start_hash},
        {"pregate.train.data", TEXT, 0, 0, t->data_hash},
        {"pregate.train.block_bias", TEXT, 0, 0, t->bias_hash},
        {"pregate.train.seed", TEXT, 0, 0, seed},
        {"pregate.train.freeze", TEXT, 0, 0, o->freeze ? o->freeze : ""},
        {"pregate.train.gate", INT, o->gate, 0, NULL},
        {"pregate.train.level", INT, o->level, 0, NULL},
        {"pregate.train.n_seq", INT, o->n_seq, 0, NULL},
        {"pregate.train.seq_len", INT, o->seq_len, 0, NULL},
        {"pregate.train.n_accumulate", INT, o->n_accumulate, 0, NULL},
        {"pregate.train.schedule", INT, o->schedule, 0, NULL},
        {"pregate.train.n_warmup", INT, o->n_warmup, 0, NULL},
        {"pregate.train.cache_form", INT, o->cache_form, 0, NULL},
        {"pregate.train.sticky_cache", INT, o->sticky_cache, 0, NULL},
        {"pregate.train.n_runners_up", INT, o->n_runners_up, 0, NULL},
        {"pregate.train.weigher", INT, o->weigher, 0, NULL},
        {"pregate.train.cache_bias", REAL, 0, o->cache_bias, NULL},
        {"pregate.train.kl", REAL, 0, o->kl, NULL},
        {"pregate.train.imitate", REAL, 0, o->imitate, NULL},
        {"pregate.train.dropout", REAL, 0, o->dropout, NULL},
        {"pregate.train.lr", REAL, 0, o->lr, NULL},
        {"pregate.train.lr_end", REAL, 0, o->lr_end, NULL},
        {"pregate.train.beta1", REAL, 0, o->beta1, NULL},
        {"pregate.train.beta2", REAL, 0, o->beta2, NULL},
        {"pregate.train.eps", REAL, 0, o->eps, NULL},
        {"pregate.train.weight_decay", REAL, 0, o->weight_decay, NULL},
        {"pregate.train.clip", REAL, 0, o->clip, NULL},
        {"pregate.train.balance", REAL, 0, o->balance, NULL},
        {"pregate.train.sticky", REAL, 0, o->sticky, NULL},
    };
    _Static_assert(PG_COUNT(all) < MATTERS_MAX, "the caller's array is too small");
    memcpy(out, all, sizeof(all));
    if (!o->source_len)
        return (int)PG_COUNT(all);
    out[PG_COUNT(all)] = (struct matter){"pregate.train.source_len", INT, o->source_len, 0, NULL};
    return (int)PG_COUNT(all) + 1;
}

static int write_matter(struct pg_gguf_writer *w, const struct matter *m, struct pg_err *err)
{
    switch (m->kind) {
    case INT:
        return pg_gguf_writer_u32(w, m->key, (uint32_t)m->i, err);
    case REAL:
        return pg_gguf_writer_f32(w, m->key, m->f, err);
    case TEXT:
        return pg_gguf_writer_str(w, m->key, m->s, err);
    }
    return 0;
}

static int check_matter(const struct pg_gguf *g, const struct matter *m, struct pg_err *err)
{
    struct pg_str s = {0};
    int64_t i = 0;
    float f = 0;
    switch (m->kind) {
    case INT:
        PG_TRY(pg_gguf_get_int(g, m->key, PG_GGUF_REQUIRED, (int64_t[]){0, UINT32_MAX}, &i, err));
        return i == m->i ? 0
                         : pg_fail(err, PG_EARG, "%s: %lld found, %lld wanted", m->key,
                                   (long long)i, (long long)m->i);
    case REAL:
        PG_TRY(pg_gguf_get_f32(g, m->key, PG_GGUF_REQUIRED,
                               (double[]){-(double)FLT_MAX, (double)FLT_MAX}, &f, err));
        return f == m->f ? 0
                         : pg_fail(err, PG_EARG, "%s: %.7g found, %.7g wanted", m->key, (double)f,
                                   (double)m->f);
    case TEXT:
        PG_TRY(pg_gguf_get_str(g, m->key, PG_GGUF_REQUIRED, &s, err));
        return s.n == strlen(m->s) && memcmp(s.s, m->s, s.n) == 0
                   ? 0
                   : pg_fail(err, PG_EARG, "%s: '%s' found, '%s' wanted", m->key,
                             pg_quote(s.s, s.n).s, pg_quote(m->s, strlen(m->s)).s);
    }
    return 0;
}

/* ------------------------------------------------------------------ data -------------------- */

struct block {
    const char *name;
    float *data;
    size_t n;
};
enum { N_BLOCKS = 4 };

/* Without metrics while no step is done: a tensor is never empty. */
static int list_blocks(const struct pg_trainer *t, int step, struct block out[N_BLOCKS])
{
    const size_t n = t->params->n_values;
    const struct block all[N_BLOCKS] = {
        {"w", t->s.w, n},
        {"m", t->s.m, n},
        {"v", t->s.v, n},
        {"metrics", t->metrics, (size_t)step * PG_METRIC_COUNT},
    };
    memcpy(out, all, sizeof(all));
    return step ? N_BLOCKS : N_BLOCKS - 1;
}

static void sum_blocks(const struct block *b, int n, char out[17])
{
    uint64_t hash = PG_HASH_START;
    for (int i = 0; i < n; i++)
        hash = pg_hash_bytes(hash, b[i].data, b[i].n * sizeof(float));
    pg_hash_text(hash, out);
}

/* ------------------------------------------------------------------ save -------------------- */

static int write_keys(struct pg_gguf_writer *w, const struct pg_trainer *t, const char *sum,
                      struct pg_err *err)
{
    struct matter matters[MATTERS_MAX];
    char seed[24];
    int n = list_matters(t, seed, matters);
    PG_TRY(pg_gguf_writer_str(w, "general.architecture", type_name, err));
    PG_TRY(pg_gguf_writer_str(w, "general.type", type_name, err));
    PG_TRY(pg_gguf_writer_u32(w, "pregate.train.step", (uint32_t)t->step, err));
    for (int i = 0; i < n; i++)
        PG_TRY(write_matter(w, &matters[i], err));
    return pg_gguf_writer_str(w, "pregate.train.sum", sum, err);
}

static int write_all(struct pg_gguf_writer *w, const struct pg_trainer *t, struct pg_err *err)
{
    struct block b[N_BLOCKS];
    char sum[17];
    int n = list_blocks(t, t->step, b);
    sum_blocks(b, n, sum);
    PG_TRY(write_keys(w, t, sum, err));
    for (int i = 0; i < n; i++) {
        PG_TRY(
            pg_gguf_writer_tensor(w, b[i].name, PG_TYPE_F32, 1, (int64_t[]){(int64_t)b[i].n}, err));
    }
    for (int i = 0; i < n; i++)
        PG_TRY(pg_gguf_writer_data(w, b[i].data, b[i].n * sizeof(float), err));
    return 0;
}

int pg_checkpoint_save(const struct pg_trainer *t, struct pg_err *err)
{
    struct pg_gguf_writer *w;
    PG_TRY(pg_gguf_writer_open(&w, t->path.checkpoint, err));
    int rc = write_all(w, t, err);
    return pg_gguf_writer_end(w, rc, err);
}

/* ------------------------------------------------------------------ load -------------------- */

static int check_keys(const struct pg_gguf *g, const struct pg_trainer *t, int64_t *step,
                      struct pg_err *err)
{
    struct matter matters[MATTERS_MAX];
    const struct matter type = {"general.type", TEXT, 0, 0, type_name};
    char seed[24];
    int n = list_matters(t, seed, matters);
    PG_TRY(check_matter(g, &type, err));
    for (int i = 0; i < n; i++)
        PG_TRY(check_matter(g, &matters[i], err));
    PG_TRY(pg_gguf_get_int(g, "pregate.train.step", PG_GGUF_REQUIRED, (int64_t[]){0, INT32_MAX},
                           step, err));
    return *step <= t->opt.n_steps
               ? 0
               : pg_fail(err, PG_EARG,
                         "pregate.train.step: %d found, at most the %d steps asked for wanted",
                         (int)*step, t->opt.n_steps);
}

static int read_block(const struct pg_gguf *g, int fd, const struct block *b, struct pg_err *err)
{
    const struct pg_gguf_tensor *t;
    char *at = (char *)b->data;
    PG_TRY(pg_gguf_get_tensor(g, b->name, PG_GGUF_REQUIRED, (int64_t[]){(int64_t)b->n, 0, 0, 0}, &t,
                              err));
    if (t->type != PG_TYPE_F32) {
        return pg_fail(err, PG_EFORMAT, "%s: type %s found, F32 wanted", b->name,
                       pg_type_traits((uint32_t)t->type)->name);
    }
    for (uint64_t done = 0; done < t->bytes;) {
        ssize_t got = pread(fd, at + done, t->bytes - done, (off_t)(t->offset + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return pg_fail_os(err, PG_EIO, got < 0 ? errno : EIO, "%s: reading", b->name);
        done += (uint64_t)got;
    }
    return 0;
}

static int check_data(const struct pg_gguf *g, const struct block *b, int n, struct pg_err *err)
{
    char sum[17];
    sum_blocks(b, n, sum);
    const struct matter want = {"pregate.train.sum", TEXT, 0, 0, sum};
    PG_TRY(check_matter(g, &want, err));
    for (int i = 0; i < n; i++) {
        for (size_t k = 0; k < b[i].n; k++)
            if (!isfinite(b[i].data[k]))
                return pg_fail(err, PG_EFORMAT, "%s: value %zu is not finite", b[i].name, k);
    }
    return 0;
}

static int load_from(struct pg_trainer *t, const struct pg_gguf *g, int fd, struct pg_err *err)
{
    struct block b[N_BLOCKS];
    int64_t step = 0;
    if (pg_gguf_n_parts(g) != 1) {
        return pg_fail(err, PG_EFORMAT, "a set of %d files found, one file wanted",
                       pg_gguf_n_parts(g));
    }
    PG_TRY(check_keys(g, t, &step, err));
    int n = list_blocks(t, (int)step, b);
    for (int i = 0; i < n; i++)
        PG_TRY(read_block(g, fd, &b[i], err));
    PG_TRY(check_data(g, b, n, err));
    t->step = (int)step;
    return 0;
}

int pg_checkpoint_load(struct pg_trainer *t, bool *found, struct pg_err *err)
{
    struct pg_gguf *g = NULL;
    int fd = open(t->path.checkpoint, O_RDONLY | O_CLOEXEC);
    *found = fd >= 0;
    if (fd < 0)
        return errno == ENOENT ? 0 : pg_fail_os(err, PG_EIO, errno, "%s", t->path.checkpoint);
    int rc = pg_gguf_open(&g, t->path.checkpoint, err);
    rc = rc ? rc : load_from(t, g, fd, err);
    pg_gguf_close(g);
    close(fd);
    return rc ? pg_fail_in(err, rc, t->path.checkpoint) : 0;
}
