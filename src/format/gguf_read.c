/* SPDX-License-Identifier: MIT
 * The GGUF reader.
 *
 *   magic "GGUF" | version u32 | n_tensors u64 | n_keys u64 | keys | tensor infos | padding | data
 *
 * A cursor walks over the bytes that are in memory. Lengths are compared with the end of the file,
 * so a lie is refused before anything is allocated for it; when a true length lies beyond the bytes
 * that were read so far, the walk stops, more is read, and it begins anew (the amount read grows
 * geometrically, so this costs a constant factor). Only when the whole header has been understood
 * is it copied to a block of its own size, where the names are then zero-terminated in place: the
 * byte behind a name belongs to a number that has been read already.
 */
#include "format/gguf_dir.h"

#include "base/os.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define NEED_MORE  1 /* beside 0 and the negative codes: the header goes on behind the bytes */
#define FIRST_READ ((size_t)256 << 10)
#define KEY_MIN    14u /* bytes of the smallest key: length, one letter, kind, one byte */
#define TENSOR_MIN 33u /* length, one letter, n_dims, one dimension, type, offset */

struct cursor {
    struct pg_gguf *g;
    const char *file; /* for messages */
    const char *bytes;
    size_t at, n; /* n bytes are in memory */
    uint64_t file_bytes;
    size_t need;        /* with NEED_MORE: how many bytes must be in memory */
    const char *item;   /* "key" or "tensor" while in one, for messages */
    struct pg_str name; /* of that item; n = 0 before it is known */
    uint64_t index;
    struct pg_err *err;
};

PG_PRINTF(3, 4)
static int fail(const struct cursor *c, int code, const char *fmt, ...)
{
    char text[384];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    if (!c->item)
        return pg_fail(c->err, code, "%s: %s", c->file, text);
    if (!c->name.n)
        return pg_fail(c->err, code, "%s: %s number %" PRIu64 ": %s", c->file, c->item, c->index,
                       text);
    return pg_fail(c->err, code, "%s: %s %s: %s", c->file, c->item,
                   pg_quote(c->name.s, c->name.n).s, text);
}

static int no_memory(const struct cursor *c)
{
    return fail(c, PG_ENOMEM, "out of memory while reading the header");
}

/* ---- bytes */

static int take(struct cursor *c, uint64_t n, const char *what, const char **out)
{
    if (n > c->file_bytes - c->at)
        return fail(c, PG_EFORMAT,
                    "%s at byte %zu takes %" PRIu64 " bytes, but the file has %" PRIu64 " left",
                    what, c->at, n, c->file_bytes - c->at);
    if (n > PG_GGUF_HEADER_MAX - c->at)
        return fail(c, PG_EFORMAT,
                    "%s at byte %zu takes %" PRIu64 " bytes; a header of at most %u is read", what,
                    c->at, n, PG_GGUF_HEADER_MAX);
    if (n > c->n - c->at) {
        c->need = c->at + (size_t)n;
        return NEED_MORE;
    }
    *out = c->bytes + c->at;
    c->at += (size_t)n;
    return 0;
}

static int take_u32(struct cursor *c, const char *what, uint32_t *v)
{
    const char *p = NULL;

    PG_TRY(take(c, sizeof(*v), what, &p));
    memcpy(v, p, sizeof(*v));
    return 0;
}

static int take_u64(struct cursor *c, const char *what, uint64_t *v)
{
    const char *p = NULL;

    PG_TRY(take(c, sizeof(*v), what, &p));
    memcpy(v, p, sizeof(*v));
    return 0;
}

static int take_str(struct cursor *c, const char *what, struct pg_str *s)
{
    uint64_t n;

    PG_TRY(take_u64(c, what, &n));
    PG_TRY(take(c, n, what, &s->s));
    s->n = (size_t)n;
    return 0;
}

/* Refuses a count of things of at least `min` bytes each that the rest of the file cannot hold. */
static int check_count(const struct cursor *c, uint64_t n, uint64_t min, const char *what)
{
    uint64_t left = PG_MIN(c->file_bytes, (uint64_t)PG_GGUF_HEADER_MAX) - c->at;

    if (n > left / min)
        return fail(c, PG_EFORMAT,
                    "%" PRIu64 " %s are declared, but the %" PRIu64
                    " bytes that are left hold at most %" PRIu64,
                    n, what, left, left / min);
    return 0;
}

static int take_name(struct cursor *c, const char *what, size_t max, struct pg_str *name)
{
    uint64_t n;

    PG_TRY(take_u64(c, what, &n));
    if (n == 0 || n > max)
        return fail(c, PG_EFORMAT, "%s has %" PRIu64 " bytes; 1 to %zu are wanted", what, n, max);
    PG_TRY(take(c, n, what, &name->s));
    name->n = (size_t)n;
    if (!pg_gguf_name_ok(name->s, name->n))
        return fail(c, PG_EFORMAT, "%s %s holds bytes other than printable ASCII", what,
                    pg_quote(name->s, name->n).s);
    return 0;
}

/* ---- keys */

static int check_bools(const struct cursor *c, const char *v, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        if (v[i] != 0 && v[i] != 1)
            return fail(c, PG_EFORMAT,
                        "element %" PRIu64 " is a bool of value %u; 0 or 1 is wanted", i,
                        (unsigned)(unsigned char)v[i]);
    return 0;
}

static int take_strings(struct cursor *c, uint64_t n)
{
    struct pg_gguf *g = c->g;

    PG_TRY(check_count(c, n, sizeof(uint64_t), "strings"));
    for (uint64_t i = 0; i < n; i++) {
        if (pg_reserve(&g->strs, &g->cap_strs, g->n_strs + 1, sizeof(*g->strs)))
            return no_memory(c);
        PG_TRY(take_str(c, "a string", &g->strs[g->n_strs]));
        g->n_strs++;
    }
    return 0;
}

static int take_elements(struct cursor *c, struct pg_gguf_key *k, enum pg_gguf_kind elem)
{
    size_t size = pg_gguf_kind_bytes(elem);
    const char *p = NULL;

    if (elem == PG_GGUF_STRING)
        return take_strings(c, k->n);
    PG_TRY(check_count(c, k->n, size, "array elements"));
    PG_TRY(take(c, k->n * size, "the value", &p));
    k->data = p;
    return elem == PG_GGUF_BOOL ? check_bools(c, p, k->n) : 0;
}

static int take_kind(struct cursor *c, const char *what, enum pg_gguf_kind *kind)
{
    uint32_t v;

    PG_TRY(take_u32(c, what, &v));
    if (!pg_gguf_kind_name(v))
        return fail(c, PG_EFORMAT, "%s is number %u; 0 to %d are known", what, v, PG_GGUF_F64);
    *kind = (enum pg_gguf_kind)v;
    return 0;
}

static int take_value(struct cursor *c, struct pg_gguf_key *k)
{
    PG_TRY(take_kind(c, "the value type", &k->kind));
    k->elem = k->kind;
    k->n = 1;
    if (k->kind == PG_GGUF_ARRAY) {
        PG_TRY(take_kind(c, "the type of the array's elements", &k->elem));
        if (k->elem == PG_GGUF_ARRAY)
            return fail(c, PG_EFORMAT, "an array of arrays; scalars or strings are wanted in it");
        PG_TRY(take_u64(c, "the array's length", &k->n));
    }
    return take_elements(c, k, k->elem);
}

static int take_key(struct cursor *c)
{
    struct pg_gguf *g = c->g;
    size_t i = g->key_dict.n;
    struct pg_str name;

    c->name.n = 0;
    PG_TRY(take_name(c, "the key", PG_GGUF_KEY_MAX, &name));
    c->name = name;
    int rc = pg_gguf_dict_add(&g->key_dict, name.s, name.n);
    if (rc == PG_EARG)
        return fail(c, PG_EFORMAT, "occurs twice");
    if (rc || pg_reserve(&g->keys, &g->cap_keys, i + 1, sizeof(*g->keys)) ||
        pg_reserve(&g->first_str, &g->cap_first_str, i + 1, sizeof(*g->first_str)))
        return no_memory(c);
    g->keys[i] = (struct pg_gguf_key){.name = name.s};
    g->first_str[i] = g->n_strs;
    return take_value(c, &g->keys[i]);
}

static int read_alignment(struct cursor *c, uint32_t *alignment)
{
    const int64_t i =
        pg_gguf_dict_find(&c->g->key_dict, PG_GGUF_KEY_ALIGNMENT, strlen(PG_GGUF_KEY_ALIGNMENT));

    *alignment = PG_GGUF_ALIGNMENT;
    if (i < 0)
        return 0;
    const struct pg_gguf_key *k = &c->g->keys[i];
    if (k->kind != PG_GGUF_U32)
        return pg_fail(c->err, PG_EFORMAT,
                       "%s: key " PG_GGUF_KEY_ALIGNMENT ": is of type %s; u32 is wanted", c->file,
                       pg_gguf_kind_name(k->kind));
    memcpy(alignment, k->data, sizeof(*alignment));
    if (*alignment < 8 || *alignment > PG_GGUF_ALIGNMENT_MAX || (*alignment & (*alignment - 1)))
        return pg_fail(c->err, PG_EFORMAT,
                       "%s: key " PG_GGUF_KEY_ALIGNMENT
                       ": is %u; a power of two from 8 to %u is wanted",
                       c->file, *alignment, PG_GGUF_ALIGNMENT_MAX);
    return 0;
}

/* ---- tensors */

static int take_dims(struct cursor *c, struct pg_gguf_tensor *t)
{
    uint32_t n_dims;

    PG_TRY(take_u32(c, "the number of dimensions", &n_dims));
    if (n_dims < 1 || n_dims > 4)
        return fail(c, PG_EFORMAT, "has %u dimensions; 1 to 4 are wanted", n_dims);
    t->n_dims = (int)n_dims;
    for (int d = 0; d < 4; d++)
        t->ne[d] = 1;
    for (int d = 0; d < t->n_dims; d++) {
        uint64_t ne;
        PG_TRY(take_u64(c, "a dimension", &ne));
        if (ne < 1 || ne > INT64_MAX)
            return fail(c, PG_EFORMAT, "dimension %d is %" PRId64 "; at least 1 is wanted", d,
                        (int64_t)ne);
        t->ne[d] = (int64_t)ne;
    }
    return 0;
}

static int take_tensor(struct cursor *c)
{
    struct pg_gguf *g = c->g;
    size_t i = g->tensor_dict.n;
    struct pg_gguf_tensor t = {0};
    struct pg_str name;
    uint32_t type;

    c->name.n = 0;
    PG_TRY(take_name(c, "the name", PG_GGUF_NAME_MAX, &name));
    c->name = name;
    int rc = pg_gguf_dict_add(&g->tensor_dict, name.s, name.n);
    if (rc == PG_EARG)
        return fail(c, PG_EFORMAT, "occurs twice");
    if (rc || pg_reserve(&g->tensors, &g->cap_tensors, i + 1, sizeof(*g->tensors)))
        return no_memory(c);
    PG_TRY(take_dims(c, &t));
    PG_TRY(take_u32(c, "the type", &type));
    PG_TRY(take_u64(c, "the offset", &t.offset));
    struct pg_err why;
    rc = pg_gguf_tensor_bytes(type, t.n_dims, t.ne, &t.bytes, &why);
    if (rc)
        return fail(c, rc, "%s", why.text);
    t.name = name.s;
    t.type = (enum pg_type)type;
    g->tensors[i] = t;
    return 0;
}

/* Makes the offset one of the file and checks that the data lies inside it. */
static int place_tensor(struct cursor *c, struct pg_gguf_tensor *t, uint64_t data, uint32_t align)
{
    uint64_t begin, end;

    if (t->offset % align)
        return fail(c, PG_EFORMAT, "offset %" PRIu64 " is not a multiple of the alignment %u",
                    t->offset, align);
    if (__builtin_add_overflow(data, t->offset, &begin) ||
        __builtin_add_overflow(begin, t->bytes, &end) || end > c->file_bytes)
        return fail(c, PG_EFORMAT,
                    "%" PRIu64 " bytes at offset %" PRIu64 " of the data at byte %" PRIu64
                    " reach beyond the file's %" PRIu64 " bytes",
                    t->bytes, t->offset, data, c->file_bytes);
    t->offset = begin;
    return 0;
}

static int by_offset(const void *a, const void *b)
{
    const struct pg_gguf_tensor *x = *(const struct pg_gguf_tensor *const *)a;
    const struct pg_gguf_tensor *y = *(const struct pg_gguf_tensor *const *)b;

    return (x->offset > y->offset) - (x->offset < y->offset);
}

static void set_tensor(struct cursor *c, const struct pg_gguf_tensor *t)
{
    c->index = (uint64_t)(t - c->g->tensors);
    c->name = c->g->tensor_dict.names[c->index];
}

static int check_overlap(struct cursor *c)
{
    size_t n = c->g->tensor_dict.n;
    const struct pg_gguf_tensor **sorted = pg_calloc(n, sizeof(*sorted));
    int rc = 0;

    if (!sorted)
        return no_memory(c);
    for (size_t i = 0; i < n; i++)
        sorted[i] = &c->g->tensors[i];
    qsort(sorted, n, sizeof(*sorted), by_offset);
    for (size_t i = 1; i < n && !rc; i++) {
        const struct pg_gguf_tensor *before = sorted[i - 1], *t = sorted[i];
        if (before->offset + before->bytes <= t->offset)
            continue;
        struct pg_str other = c->g->tensor_dict.names[before - c->g->tensors];
        set_tensor(c, t);
        rc = fail(c, PG_EFORMAT,
                  "begins at byte %" PRIu64 ", inside %s, which ends at byte %" PRIu64, t->offset,
                  pg_quote(other.s, other.n).s, before->offset + before->bytes);
    }
    free(sorted);
    return rc;
}

static int place_tensors(struct cursor *c)
{
    uint32_t align;

    c->item = NULL;
    PG_TRY(read_alignment(c, &align));
    uint64_t data = ((uint64_t)c->at + align - 1) / align * align;
    c->item = "tensor";
    for (size_t i = 0; i < c->g->tensor_dict.n; i++) {
        set_tensor(c, &c->g->tensors[i]);
        PG_TRY(place_tensor(c, &c->g->tensors[i], data, align));
    }
    return check_overlap(c);
}

/* ---- one file */

static int take_version(struct cursor *c)
{
    const char *magic;
    uint32_t v;

    PG_TRY(take(c, 4, "the magic", &magic));
    if (memcmp(magic, "GGUF", 4))
        return fail(c, PG_EFORMAT, "begins with \"%s\"; \"GGUF\" is wanted", pg_quote(magic, 4).s);
    PG_TRY(take_u32(c, "the version", &v));
    if (v > 0xffff && (v & 0xffff) == 0)
        return fail(c, PG_ENOTSUP, "is big-endian (version 0x%08x); little-endian is wanted", v);
    if (v != 2 && v != 3)
        return fail(c, PG_ENOTSUP, "is GGUF version %u; 2 or 3 is wanted", v);
    c->g->version = (int)v;
    return 0;
}

/* Walks over the whole header and fills the directory, whose names and strings still point into the
 * cursor's bytes. */
static int take_header(struct cursor *c)
{
    uint64_t n_tensors, n_keys;

    pg_gguf_dict_clear(&c->g->key_dict);
    pg_gguf_dict_clear(&c->g->tensor_dict);
    c->g->n_strs = 0;
    c->at = 0;
    c->item = NULL;
    PG_TRY(take_version(c));
    PG_TRY(take_u64(c, "the number of tensors", &n_tensors));
    PG_TRY(take_u64(c, "the number of keys", &n_keys));
    PG_TRY(check_count(c, n_tensors, TENSOR_MIN, "tensors"));
    PG_TRY(check_count(c, n_keys, KEY_MIN, "keys"));
    c->item = "key";
    for (c->index = 0; c->index < n_keys; c->index++)
        PG_TRY(take_key(c));
    c->item = "tensor";
    for (c->index = 0; c->index < n_tensors; c->index++)
        PG_TRY(take_tensor(c));
    return place_tensors(c);
}

/* Copies the header to a block of its own and lets everything point there. */
static int keep_header(struct cursor *c)
{
    struct pg_gguf *g = c->g;
    struct pg_gguf_part *part = &g->parts[0];
    char *copy = pg_calloc(c->at, 1);

    if (!copy)
        return pg_fail(c->err, PG_ENOMEM, "%s: no memory for a header of %zu bytes", c->file,
                       c->at);
    memcpy(copy, c->bytes, c->at);
    part->bytes = copy;
    part->n_bytes = c->at;
    part->file_bytes = c->file_bytes;
    for (size_t i = 0; i < g->n_strs; i++)
        g->strs[i].s = copy + (g->strs[i].s - c->bytes);
    for (size_t i = 0; i < g->key_dict.n; i++) {
        struct pg_gguf_key *k = &g->keys[i];
        struct pg_str *name = &g->key_dict.names[i];
        name->s = k->name = copy + (name->s - c->bytes);
        copy[name->s - copy + (ptrdiff_t)name->n] = 0;
        if (k->elem != PG_GGUF_STRING)
            k->data = copy + ((const char *)k->data - c->bytes);
        else if (k->n)
            k->data = g->strs + g->first_str[i];
    }
    for (size_t i = 0; i < g->tensor_dict.n; i++) {
        struct pg_str *name = &g->tensor_dict.names[i];
        name->s = g->tensors[i].name = copy + (name->s - c->bytes);
        copy[name->s - copy + (ptrdiff_t)name->n] = 0;
    }
    free(g->first_str);
    g->first_str = NULL;
    g->cap_first_str = 0;
    return 0;
}

static int new_directory(struct pg_gguf **out, const char *path, struct pg_err *err)
{
    struct pg_gguf *g = pg_calloc(1, sizeof(*g));

    *out = g;
    if (!g)
        return pg_fail(err, PG_ENOMEM, "%s: out of memory", path);
    pg_gguf_dict_init(&g->key_dict);
    pg_gguf_dict_init(&g->tensor_dict);
    g->parts = pg_calloc(1, sizeof(*g->parts));
    g->n_parts = g->parts ? 1 : 0;
    if (g->parts)
        g->parts[0].path = strdup(path);
    if (!g->parts || !g->parts[0].path)
        return pg_fail(err, PG_ENOMEM, "%s: out of memory", path);
    return 0;
}

int pg_gguf_parse(struct pg_gguf **out, const void *data, size_t n, uint64_t file_bytes,
                  const char *name, struct pg_err *err)
{
    int rc = new_directory(out, name, err);

    if (!rc) {
        struct cursor c = {.g = *out,
                           .file = name,
                           .bytes = data,
                           .n = n,
                           .file_bytes = PG_MAX(file_bytes, (uint64_t)n),
                           .err = err};
        rc = take_header(&c);
        if (rc == NEED_MORE)
            rc = fail(&c, PG_EFORMAT, "the header goes on to byte %zu at least, but %zu were given",
                      c.need, n);
        if (!rc)
            rc = keep_header(&c);
    }
    return pg_gguf_finish(out, rc);
}

/* Reads on until the buffer holds the first n bytes. */
static int read_until(int fd, struct cursor *c, char **buf, size_t n)
{
    char *more = realloc(*buf, n);

    if (!more)
        return pg_fail(c->err, PG_ENOMEM, "%s: no memory for a header of %zu bytes", c->file, n);
    *buf = more;
    c->bytes = more;
    while (c->n < n) {
        ssize_t got = pread(fd, more + c->n, n - c->n, (off_t)c->n);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return pg_fail_os(c->err, PG_EIO, errno, "%s: reading at byte %zu", c->file, c->n);
        if (got == 0)
            return pg_fail(c->err, PG_EIO,
                           "%s: the file ends at byte %zu, but had %" PRIu64 " bytes when opened",
                           c->file, c->n, c->file_bytes);
        c->n += (size_t)got;
    }
    return 0;
}

static int read_header(int fd, struct cursor *c)
{
    char *buf = NULL;
    size_t want = FIRST_READ;
    int rc;

    do {
        rc = read_until(fd, c, &buf, (size_t)PG_MIN((uint64_t)want, c->file_bytes));
        if (!rc)
            rc = take_header(c);
        want = PG_MAX(c->need, c->n * 4);
    } while (rc == NEED_MORE);
    if (!rc)
        rc = keep_header(c);
    free(buf);
    return rc;
}

int pg_gguf_open_one(struct pg_gguf **out, const char *path, struct pg_err *err)
{
    /* Without O_NONBLOCK a pipe would hold us here. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct pg_stamp stamp;
    struct stat st;
    int rc;

    *out = NULL;
    if (fd < 0)
        return pg_fail_os(err, PG_EIO, errno, "%s: cannot be opened", path);
    if (fstat(fd, &st) || pg_stamp_take(&stamp, fd))
        rc = pg_fail_os(err, PG_EIO, errno, "%s: its size cannot be found", path);
    else if (!S_ISREG(st.st_mode))
        rc = pg_fail(err, PG_EARG, "%s: is not a regular file", path);
    else if (st.st_size == 0)
        rc = pg_fail(err, PG_EFORMAT, "%s: is empty; \"GGUF\" is wanted", path);
    else
        rc = new_directory(out, path, err);
    if (!rc) {
        struct cursor c = {.g = *out, .file = path, .file_bytes = (uint64_t)st.st_size, .err = err};
        rc = read_header(fd, &c);
        if (!rc)
            rc = pg_stamp_check(&stamp, fd, path, err);
        if (!rc)
            (*out)->parts[0].stamp = stamp;
    }
    close(fd);
    return pg_gguf_finish(out, rc);
}

int pg_gguf_finish(struct pg_gguf **g, int rc)
{
    if (rc) {
        pg_gguf_close(*g);
        *g = NULL;
    }
    return rc;
}

void pg_gguf_close(struct pg_gguf *g)
{
    if (!g)
        return;
    for (int i = 0; i < g->n_parts; i++) {
        free(g->parts[i].path);
        free(g->parts[i].bytes);
    }
    free(g->parts);
    free(g->keys);
    free(g->tensors);
    free(g->strs);
    free(g->first_str);
    pg_gguf_dict_fini(&g->key_dict);
    pg_gguf_dict_fini(&g->tensor_dict);
    free(g);
}
