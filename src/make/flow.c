/* SPDX-License-Identifier: MIT
 * See flow.h. Reading is the io's, which has several reads under way; the pool's first task is the
 * writing, its others are the units of the batch between.
 */
#include "make/flow.h"

#include "base/os.h"
#include "base/pool.h"
#include "io/io.h"

#include <limits.h>
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define BATCH_BYTES                                                                                \
    ((uint64_t)32 << 20) /* of a batch, read and written; more where a unit has more */
#define READ_BYTES ((uint64_t)4 << 20) /* of a read */

enum {
    UNIT_VALUES = 1 << 18, /* of a unit, whole rows */
    STEP_VALUES = 1 << 14, /* that are floats at once, whole rows: what a cache holds */
    UNITS_MAX = 1024,
    DEPTH = 32,
    N_BATCHES = 3
};

/* Rows that one task converts. */
struct unit {
    const struct pg_flow_tensor *t;
    const struct pg_flow_rows *run;
    int64_t first, n; /* rows of the run */
    const char *in;   /* the first of them */
    char *out;
    size_t pad; /* zeros behind it */
};

struct batch {
    struct unit unit[UNITS_MAX];
    int n_units;
    char *in, *out; /* whole pages */
    size_t lead;    /* bytes of `out` before the first unit: they put it where it is in a page */
    size_t out_bytes;
    struct pg_read *read;
    int n_reads, n_submitted;
};

struct flow {
    const struct pg_flow *f;
    struct pg_gguf_writer *w;
    struct pg_io *io;
    struct pg_pool *pool;
    struct batch batch[N_BATCHES];
    struct batch *converting, *writing; /* NULL: none now */
    float *floats;                      /* STEP_VALUES, or a row, of each thread */
    size_t n_floats, in_size, out_size; /* of a thread; of a batch */
    int reads_max;

    size_t tensor; /* of these rows comes the next unit */
    int run;
    int64_t row;
    uint64_t at;          /* where it goes in the file */
    uint64_t done, total; /* bytes read */
    atomic_int first_bad; /* unit of `converting` that has a value which cannot be */
    struct pg_err why;    /* of the writing */
    int rc;
};

/* ------------------------------------------------------------------ lists ------------------- */

int pg_flow_file(struct pg_flow *f, const char *path, const struct pg_stamp *stamp,
                 struct pg_err *err)
{
    size_t n = (size_t)f->n_paths + 1, cap = (size_t)f->n_paths, cap_stamps = cap;
    if (pg_reserve(&f->paths, &cap, n, sizeof(*f->paths)) ||
        pg_reserve(&f->stamps, &cap_stamps, n, sizeof(*f->stamps)))
        return pg_fail(err, PG_ENOMEM, "out of memory");
    f->paths[f->n_paths] = path;
    f->stamps[f->n_paths++] = stamp;
    return 0;
}

int pg_flow_tensor(struct pg_flow *f, struct pg_flow_tensor t, struct pg_err *err)
{
    if (pg_reserve(&f->tensor, &f->cap_tensors, f->n_tensors + 1, sizeof(*f->tensor)))
        return pg_fail(err, PG_ENOMEM, "out of memory");
    t.rows = (int)f->n_rows;
    t.n_rows = 0;
    f->tensor[f->n_tensors++] = t;
    return 0;
}

int pg_flow_rows(struct pg_flow *f, struct pg_flow_rows rows, struct pg_err *err)
{
    if (f->n_rows == INT32_MAX ||
        pg_reserve(&f->rows, &f->cap_rows, f->n_rows + 1, sizeof(*f->rows)))
        return pg_fail(err, PG_ENOMEM, "out of memory");
    f->rows[f->n_rows++] = rows;
    f->tensor[f->n_tensors - 1].n_rows++;
    return 0;
}

void pg_flow_free(struct pg_flow *f)
{
    free(f->paths);
    free(f->stamps);
    free(f->tensor);
    free(f->rows);
    *f = (struct pg_flow){0};
}

/* ------------------------------------------------------------------ a batch ----------------- */

static uint32_t alignment(const struct flow *s)
{
    return s->f->packed ? PG_PAGE : 32;
}

static size_t in_bytes(const struct unit *u)
{
    return pg_type_bytes(u->run->type, u->t->ne[0] * u->n);
}

static size_t out_bytes(const struct unit *u)
{
    return pg_type_bytes(u->t->type, u->t->ne[0] * u->n);
}

/* Rows of a head that is rotated change places, so they stay together. */
static int64_t unit_rows(const struct pg_flow_tensor *t)
{
    const int64_t n = PG_MAX(1, UNIT_VALUES / t->ne[0]);
    const int64_t head = t->n_head_rotated ? t->ne[1] / t->n_head_rotated : 1;
    return PG_MAX(1, n / head) * head;
}

static struct unit next_unit(const struct flow *s)
{
    const struct pg_flow_tensor *t = &s->f->tensor[s->tensor];
    struct unit u = {.t = t, .run = &s->f->rows[t->rows + s->run], .first = s->row};
    u.n = PG_MIN(unit_rows(t), u.run->n - u.first);
    if (s->run + 1 == t->n_rows && u.first + u.n == u.run->n)
        u.pad = (size_t)(-(s->at + out_bytes(&u)) % alignment(s));
    return u;
}

static void go_on(struct flow *s, const struct unit *u)
{
    s->at += out_bytes(u) + u->pad;
    s->row += u->n;
    if (s->row < u->run->n)
        return;
    s->row = 0;
    if (++s->run == u->t->n_rows) {
        s->run = 0;
        s->tensor++;
    }
}

static uint64_t offset_of(const struct unit *u)
{
    return u->run->offset + pg_type_bytes(u->run->type, u->t->ne[0] * u->first);
}

static int by_place(const void *a, const void *b)
{
    const struct unit *x = *(struct unit *const *)a, *y = *(struct unit *const *)b;
    if (x->run->file != y->run->file)
        return x->run->file < y->run->file ? -1 : 1;
    return offset_of(x) < offset_of(y) ? -1 : offset_of(x) > offset_of(y);
}

/* Reads of [begin, end) of a file, of which bytes up to `need` are there, to `to`. */
static void add_reads(struct flow *s, struct batch *b, struct pg_read whole, uint64_t need)
{
    for (uint64_t at = 0; at < whole.size; at += READ_BYTES) {
        PG_ASSERT(b->n_reads < s->reads_max);
        b->read[b->n_reads] = whole;
        struct pg_read *r = &b->read[b->n_reads++];
        r->offset = whole.offset + at;
        r->size = (size_t)PG_MIN(READ_BYTES, whole.size - at);
        r->need = (size_t)PG_MIN((uint64_t)r->size, need - at);
        r->buf = (char *)whole.buf + at;
    }
}

/* Units whose pages touch in a file are read as one: experts of one matrix lie side by side. */
static void place_reads(struct flow *s, struct batch *b)
{
    struct unit *order[UNITS_MAX];
    char *to = b->in;
    for (int i = 0; i < b->n_units; i++)
        order[i] = &b->unit[i];
    qsort(order, (size_t)b->n_units, sizeof(order[0]), by_place);
    for (int i = 0; i < b->n_units;) {
        const int file = order[i]->run->file;
        const uint64_t begin = offset_of(order[i]) / PG_PAGE * PG_PAGE;
        uint64_t need = 0, size = 0;
        for (; i < b->n_units && order[i]->run->file == file; i++) {
            const uint64_t at = offset_of(order[i]) - begin;
            if (size && at > size)
                break;
            order[i]->in = to + at;
            need = PG_MAX(need, at + in_bytes(order[i]));
            size = (need + PG_PAGE - 1) / PG_PAGE * PG_PAGE;
        }
        add_reads(s, b,
                  (struct pg_read){.file = file, .offset = begin, .size = (size_t)size, .buf = to},
                  need);
        to += size;
    }
    PG_ASSERT(to <= b->in + s->in_size);
}

/* The next units of all, as many as there is room for. */
static void fill(struct flow *s, struct batch *b)
{
    size_t room = s->in_size, out = 0;
    b->n_units = b->n_reads = b->n_submitted = 0;
    b->lead = (size_t)(s->at % PG_PAGE);
    while (s->tensor < s->f->n_tensors && b->n_units < UNITS_MAX) {
        struct unit u = next_unit(s);
        const size_t in = in_bytes(&u) + 2 * (size_t)PG_PAGE, more = out_bytes(&u) + u.pad;
        if (b->n_units && (in > room || b->lead + out + more > s->out_size))
            break;
        u.out = b->out + b->lead + out;
        b->unit[b->n_units++] = u;
        room -= in;
        out += more;
        go_on(s, &u);
    }
    b->out_bytes = out;
    place_reads(s, b);
}

/* ------------------------------------------------------------------ reading ----------------- */

static void submit(struct flow *s, struct batch *b)
{
    while (b->n_submitted < b->n_reads && pg_io_submit(s->io, &b->read[b->n_submitted]))
        b->n_submitted++;
}

static int finish_reads(struct flow *s, struct batch *b, struct pg_err *err)
{
    struct pg_read *got[DEPTH];
    int rc = 0, n;
    while ((n = pg_io_reap(s->io, got, DEPTH, true)) > 0) {
        for (int i = 0; i < n && !rc; i++)
            rc = got[i]->os_error ? pg_io_error(s->io, got[i], err) : 0;
        if (!rc)
            submit(s, b);
    }
    for (int i = 0; i < b->n_units; i++)
        s->done += in_bytes(&b->unit[i]);
    return rc;
}

/* ------------------------------------------------------------------ converting -------------- */

/* Whether all are numbers, neither infinite nor NaN: not all bits of an exponent are set. */
static bool are_finite(enum pg_type type, const char *data, size_t bytes)
{
    const uint32_t all = type == PG_TYPE_F32 ? 0x7f800000 : type == PG_TYPE_F16 ? 0x7c00 : 0x7f80;
    uint32_t bad = 0;
    if (type == PG_TYPE_F32) {
        for (size_t i = 0; i < bytes; i += 4) {
            uint32_t v;
            memcpy(&v, data + i, 4);
            bad |= (v & all) == all;
        }
    } else if (type == PG_TYPE_F16 || type == PG_TYPE_BF16) {
        for (size_t i = 0; i < bytes; i += 2) {
            uint16_t v;
            memcpy(&v, data + i, 2);
            bad |= (v & all) == all;
        }
    }
    return !bad;
}

/* Row r of the tensor, of heads whose halves are rotated together, where pairs are wanted. */
static int64_t row_in_halves(const struct pg_flow_tensor *t, int64_t r)
{
    const int64_t dim = t->ne[1] / t->n_head_rotated, at = r % dim;
    return r - at + at % 2 * (dim / 2) + at / 2;
}

/* Rows [at, at + n) of the unit, which are not all side by side where it is rotated. */
static const char *source(const struct unit *u, int64_t at)
{
    const int64_t from = u->t->n_head_rotated ? row_in_halves(u->t, u->first + at) - u->first : at;
    return u->in + pg_type_bytes(u->run->type, u->t->ne[0]) * (size_t)from;
}

static bool copy_rows(const struct flow *s, const struct unit *u, int64_t at, int64_t n)
{
    const size_t row = pg_type_bytes(u->t->type, u->t->ne[0]);
    const int64_t step = u->t->n_head_rotated ? 1 : n;
    for (int64_t i = at; i < at + n; i += step) {
        char *out = u->out + row * (size_t)i;
        memcpy(out, source(u, i), row * (size_t)step);
        if (s->f->check && !are_finite(u->t->type, out, row * (size_t)step))
            return false;
    }
    return true;
}

static bool convert_rows(const struct unit *u, int64_t at, int64_t n, float *x)
{
    const int64_t row = u->t->ne[0], step = u->t->n_head_rotated ? 1 : n;
    const float most = pg_type_most(u->t->type);
    bool good = true;
    for (int64_t i = 0; i < n; i += step)
        pg_type_traits(u->run->type)->to_float(source(u, at + i), x + i * row, step * row);
    for (int64_t i = 0; i < n * row; i++)
        good &= fabsf(x[i]) <= most;
    if (good)
        pg_from_float(u->t->type, x, u->out + pg_type_bytes(u->t->type, row) * (size_t)at, n * row);
    return good;
}

static bool convert_unit(const struct flow *s, const struct unit *u, float *x)
{
    const int64_t step = PG_MAX(1, STEP_VALUES / u->t->ne[0]);
    const bool same = u->run->type == u->t->type;
    for (int64_t at = 0; at < u->n; at += step) {
        const int64_t n = PG_MIN(step, u->n - at);
        if (!(same ? copy_rows(s, u, at, n) : convert_rows(u, at, n, x)))
            return false;
    }
    memset(u->out + out_bytes(u), 0, u->pad);
    return true;
}

/* Task 0 writes a batch, the others convert the units of another. */
static void work(void *arg, int task, int thread)
{
    struct flow *s = arg;
    if (task == 0) {
        const struct batch *b = s->writing;
        if (b)
            s->rc = pg_gguf_writer_image(s->w, b->out + b->lead, b->out_bytes, &s->why);
        return;
    }
    const struct unit *u = &s->converting->unit[task - 1];
    if (convert_unit(s, u, s->floats + (size_t)thread * s->n_floats))
        return;
    int first = atomic_load(&s->first_bad);
    while (task - 1 < first && !atomic_compare_exchange_weak(&s->first_bad, &first, task - 1))
        ;
}

/* Says which value of the unit cannot be; the first, whoever has found one. */
static int bad_value(const struct flow *s, const struct unit *u, struct pg_err *err)
{
    const float most = pg_type_most(u->t->type);
    for (int64_t r = 0; r < u->n; r++) {
        const char *from = source(u, r);
        pg_type_traits(u->run->type)->to_float(from, s->floats, u->t->ne[0]);
        const int64_t row = (from - u->in) / (int64_t)pg_type_bytes(u->run->type, u->t->ne[0]);
        for (int64_t i = 0; i < u->t->ne[0]; i++)
            if (!(fabsf(s->floats[i]) <= most))
                return pg_fail(
                    err, PG_EFORMAT, "%s: tensor %s: value %lld is %g, %s holds up to %g",
                    s->f->paths[u->run->file], u->run->name,
                    (long long)((u->run->first + u->first + row) * u->t->ne[0] + i),
                    (double)s->floats[i], pg_type_traits(u->t->type)->name, (double)most);
    }
    return pg_fail(err, PG_EFORMAT, "%s: tensor %s: a value that is no number",
                   s->f->paths[u->run->file], u->run->name);
}

/* ------------------------------------------------------------------ all --------------------- */

/* One step: reads one batch, converts the one before, writes the one before that. */
static int step(struct flow *s, struct batch *reading, struct pg_err *err)
{
    struct batch *b = s->converting;
    if (reading)
        submit(s, reading);
    s->rc = 0;
    pg_pool_run(s->pool, work, s, 1 + (b ? b->n_units : 0));
    const int rc = reading ? finish_reads(s, reading, err) : 0;
    PG_TRY(rc);
    if (s->rc && err)
        *err = s->why;
    PG_TRY(s->rc);
    const int bad = atomic_load(&s->first_bad);
    return bad < INT_MAX ? bad_value(s, &b->unit[bad], err) : 0;
}

static int stream(struct flow *s, struct pg_err *err)
{
    const struct pg_flow *f = s->f;
    atomic_store(&s->first_bad, INT_MAX);
    for (int i = 0;; i++) {
        struct batch *reading = s->tensor < f->n_tensors ? &s->batch[i % N_BATCHES] : NULL;
        if (reading)
            fill(s, reading);
        else if (!s->converting && !s->writing)
            return pg_io_check(s->io, err);
        PG_TRY(step(s, reading, err));
        s->writing = s->converting;
        s->converting = reading;
        if (f->progress && f->progress(f->user, f->what, s->done, s->total))
            return pg_fail(err, PG_ECANCELLED, "%s: cancelled", f->out);
    }
}

/* The largest unit of all has to fit into a batch, and a row into a thread's floats. */
static void measure(struct flow *s)
{
    size_t in = (size_t)BATCH_BYTES, out = (size_t)BATCH_BYTES;
    s->n_floats = STEP_VALUES;
    for (size_t i = 0; i < s->f->n_tensors; i++) {
        const struct pg_flow_tensor *t = &s->f->tensor[i];
        const int64_t rows = unit_rows(t);
        s->n_floats = PG_MAX(s->n_floats, (size_t)t->ne[0]);
        for (int k = t->rows; k < t->rows + t->n_rows; k++) {
            const struct pg_flow_rows *r = &s->f->rows[k];
            const struct unit u = {.t = t, .run = r, .n = PG_MIN(rows, r->n)};
            in = PG_MAX(in, in_bytes(&u) + 2 * (size_t)PG_PAGE);
            out = PG_MAX(out, out_bytes(&u) + 2 * (size_t)PG_PAGE);
            s->total += pg_type_bytes(r->type, t->ne[0]) * (uint64_t)r->n;
        }
    }
    s->in_size = (in + PG_PAGE - 1) / PG_PAGE * PG_PAGE;
    s->out_size = (out + PG_PAGE - 1) / PG_PAGE * PG_PAGE;
    s->reads_max = UNITS_MAX + (int)(s->in_size / READ_BYTES) + 1;
}

static int take_memory(struct flow *s, struct pg_err *err)
{
    const size_t n_threads = (size_t)pg_pool_n_threads(s->pool);
    bool good = true;
    s->floats = pg_calloc(n_threads * s->n_floats, sizeof(*s->floats));
    for (int i = 0; i < N_BATCHES; i++) {
        struct batch *b = &s->batch[i];
        b->in = pg_pages_map(s->in_size);
        b->out = pg_pages_map(s->out_size);
        b->read = pg_calloc((size_t)s->reads_max, sizeof(*b->read));
        good = good && b->in && b->out && b->read;
    }
    return good && s->floats
               ? 0
               : pg_fail(err, PG_ENOMEM, "out of memory for %d batches of %zu and %zu MiB",
                         N_BATCHES, s->in_size >> 20, s->out_size >> 20);
}

static int declare(const struct pg_flow *f, struct pg_gguf_writer *w, struct pg_err *err)
{
    PG_TRY(pg_gguf_writer_align(w, f->packed ? PG_PAGE : 32, err));
    for (size_t i = 0; i < f->n_tensors; i++) {
        const struct pg_flow_tensor *t = &f->tensor[i];
        PG_TRY(pg_gguf_writer_tensor(w, t->name, t->type, t->n_dims, t->ne, err));
    }
    return 0;
}

static int run(struct flow *s, struct pg_err *err)
{
    const struct pg_flow *f = s->f;
    const struct pg_io_options io = {
        .paths = f->paths, .n_paths = f->n_paths, .stamps = f->stamps, .depth = DEPTH};
    PG_TRY(declare(f, s->w, err));
    PG_TRY(pg_io_open(&s->io, &io, err));
    /* One more, which writes and so waits for the disk most of the time. */
    const int n_threads = f->n_threads ? f->n_threads : pg_os_n_cpu();
    PG_TRY(pg_pool_open(&s->pool, PG_MIN(n_threads + 1, PG_THREADS_MAX), err));
    measure(s);
    PG_TRY(take_memory(s, err));
    PG_TRY(pg_gguf_writer_start(s->w, &s->at, err));
    return stream(s, err);
}

int pg_flow_run(struct pg_flow *f, struct pg_gguf_writer *w, struct pg_err *err)
{
    struct flow *s = pg_calloc(1, sizeof(*s));
    if (!s)
        return pg_fail(err, PG_ENOMEM, "out of memory");
    s->f = f;
    s->w = w;
    const int rc = run(s, err);
    pg_io_close(s->io); /* first: it waits for reads into batches */
    pg_pool_close(s->pool);
    for (int i = 0; i < N_BATCHES; i++) {
        struct batch *b = &s->batch[i];
        if (b->in)
            pg_pages_unmap(b->in, s->in_size);
        if (b->out)
            pg_pages_unmap(b->out, s->out_size);
        free(b->read);
    }
    free(s->floats);
    free(s);
    return rc;
}
