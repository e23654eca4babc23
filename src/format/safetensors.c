/* SPDX-License-Identifier: MIT */
#include "format/safetensors.h"

#include "base/os.h"
#include "format/json.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define HEADER_MAX ((uint64_t)100 << 20)

enum { PARTS_MAX = 4096 };

struct part {
    char *path;
    int fd; /* while its header is read */
    struct pg_stamp stamp;
    json_t *header; /* names of tensors belong to it */
};

struct pg_st {
    struct part *part;
    struct pg_st_tensor *tensor; /* by name */
    int n_parts, n_tensors;
    size_t cap;
    uint64_t bytes;
};

static const struct {
    const char *name;
    int bytes, type; /* -1: no weight of ours */
} dtypes[] = {
    {"F32", 4, PG_TYPE_F32}, {"F16", 2, PG_TYPE_F16}, {"BF16", 2, PG_TYPE_BF16},
    {"F64", 8, -1},          {"I64", 8, -1},          {"I32", 4, -1},
    {"I16", 2, -1},          {"I8", 1, -1},           {"U64", 8, -1},
    {"U32", 4, -1},          {"U16", 2, -1},          {"U8", 1, -1},
    {"BOOL", 1, -1},         {"F8_E4M3", 1, -1},      {"F8_E5M2", 1, -1},
};

static int dtype_of(const char *name)
{
    for (size_t i = 0; i < PG_COUNT(dtypes); i++)
        if (!strcmp(name, dtypes[i].name))
            return (int)i;
    return -1;
}

int pg_st_type(const struct pg_st_tensor *t)
{
    return dtypes[dtype_of(t->dtype)].type;
}

/* ------------------------------------------------------------------ reading bytes ----------- */

static int read_at(const struct part *p, uint64_t at, size_t n, void *out, struct pg_err *err)
{
    for (size_t done = 0; done < n;) {
        ssize_t got =
            pread(p->fd, (char *)out + done, PG_MIN(n - done, (size_t)1 << 30), (off_t)(at + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return pg_fail(err, PG_EIO, "%s: %zu bytes at %llu wanted, %zu found%s%s", p->path, n,
                           (unsigned long long)at, done, got ? ": " : "; the file has changed",
                           got ? strerror(errno) : "");
        done += (size_t)got;
    }
    return 0;
}

/* ------------------------------------------------------------------ one header -------------- */

static int get_shape(const char *path, const json_t *shape, struct pg_st_tensor *t, uint64_t *n,
                     struct pg_err *err)
{
    if (!json_is_array(shape) || json_array_size(shape) > PG_ST_DIMS)
        return pg_fail(err, PG_EFORMAT, "%s: %s: shape: a list of at most %d numbers is wanted",
                       path, t->name, PG_ST_DIMS);
    *n = 1;
    t->n_dims = (int)json_array_size(shape);
    for (int i = 0; i < t->n_dims; i++) {
        const json_t *v = json_array_get(shape, (size_t)i);
        t->shape[i] = json_is_integer(v) ? json_integer_value(v) : -1;
        if (t->shape[i] < 1 || __builtin_mul_overflow(*n, (uint64_t)t->shape[i], n))
            return pg_fail(err, PG_EFORMAT,
                           "%s: %s: shape: dimension %d is %lld; 1 or more is wanted, and a "
                           "product of 64 bits",
                           path, t->name, i, (long long)t->shape[i]);
    }
    return 0;
}

static int get_offsets(const char *path, const json_t *offsets, struct pg_st_tensor *t,
                       struct pg_err *err)
{
    const json_t *begin = json_array_get(offsets, 0), *end = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(begin) || !json_is_integer(end) ||
        json_integer_value(begin) < 0 || json_integer_value(end) < json_integer_value(begin))
        return pg_fail(err, PG_EFORMAT, "%s: %s: data_offsets: [begin, end] is wanted", path,
                       t->name);
    t->offset = (uint64_t)json_integer_value(begin);
    t->bytes = (uint64_t)json_integer_value(end) - t->offset;
    return 0;
}

static int get_tensor(const char *path, const char *name, const json_t *v, struct pg_st_tensor *t,
                      struct pg_err *err)
{
    const char *dtype = json_string_value(json_object_get(v, "dtype"));
    uint64_t n = 1, bytes;
    t->name = name;
    if (!dtype || dtype_of(dtype) < 0)
        return pg_fail(err, PG_EFORMAT, "%s: %s: dtype: '%s' found, F32, F16, BF16, … wanted", path,
                       name, dtype ? pg_quote(dtype, strlen(dtype)).s : "nothing");
    snprintf(t->dtype, sizeof(t->dtype), "%s", dtype);
    PG_TRY(get_shape(path, json_object_get(v, "shape"), t, &n, err));
    PG_TRY(get_offsets(path, json_object_get(v, "data_offsets"), t, err));
    if (__builtin_mul_overflow(n, (uint64_t)dtypes[dtype_of(dtype)].bytes, &bytes) ||
        bytes != t->bytes)
        return pg_fail(err, PG_EFORMAT,
                       "%s: %s: data_offsets say %llu bytes, shape and dtype another number", path,
                       name, (unsigned long long)t->bytes);
    return 0;
}

static int by_offset(const void *a, const void *b)
{
    const struct pg_st_tensor *x = a, *y = b;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* One behind the other, from the first byte of the data to the last; then counted from the start of
 * the file. */
static int check_places(const char *path, struct pg_st_tensor *t, int n, uint64_t data,
                        uint64_t file_bytes, struct pg_err *err)
{
    uint64_t at = 0;
    qsort(t, (size_t)n, sizeof(*t), by_offset);
    for (int i = 0; i < n; i++) {
        if (t[i].offset != at)
            return pg_fail(err, PG_EFORMAT,
                           "%s: %s: begins at %llu of the data, %llu wanted, where the one before "
                           "ends",
                           path, t[i].name, (unsigned long long)t[i].offset,
                           (unsigned long long)at);
        if (__builtin_add_overflow(at, t[i].bytes, &at))
            return pg_fail(err, PG_EFORMAT, "%s: %s: ends beyond 64 bits", path, t[i].name);
        t[i].offset += data;
    }
    if (at != file_bytes - data)
        return pg_fail(err, PG_EFORMAT,
                       "%s: the tensors take %llu bytes, behind the header are %llu: %s", path,
                       (unsigned long long)at, (unsigned long long)(file_bytes - data),
                       at > file_bytes - data ? "the file is cut off" : "there is something else");
    return 0;
}

static int take_tensors(struct pg_st *s, int part, uint64_t data, uint64_t file_bytes,
                        struct pg_err *err)
{
    struct part *p = &s->part[part];
    size_t n = json_object_size(p->header), first = (size_t)s->n_tensors;
    const char *name;
    json_t *v;
    if (n > INT32_MAX - first || pg_reserve(&s->tensor, &s->cap, first + n, sizeof(*s->tensor)))
        return pg_fail(err, PG_ENOMEM, "%s: out of memory for %zu tensors", p->path, n);
    json_object_foreach(p->header, name, v)
    {
        if (!strcmp(name, "__metadata__"))
            continue;
        struct pg_st_tensor *t = &s->tensor[s->n_tensors];
        *t = (struct pg_st_tensor){.part = part};
        PG_TRY(get_tensor(p->path, name, v, t, err));
        s->n_tensors++;
    }
    if ((size_t)s->n_tensors == first)
        return pg_fail(err, PG_EFORMAT, "%s: no tensor in it", p->path);
    return check_places(p->path, s->tensor + first, s->n_tensors - (int)first, data, file_bytes,
                        err);
}

static int parse_header(struct part *p, const char *text, size_t n, struct pg_err *err)
{
    json_error_t at;
    if (text[0] != '{')
        return pg_fail(err, PG_EFORMAT, "%s: the header begins with '%s', '{' wanted", p->path,
                       pg_quote(text, 1).s);
    p->header = json_loadb(text, n, JSON_REJECT_DUPLICATES, &at);
    if (!p->header)
        return pg_fail(err, PG_EFORMAT, "%s: header: %s (at byte %d)", p->path, at.text,
                       at.position);
    return 0;
}

static int open_part(struct pg_st *s, int part, struct pg_err *err)
{
    struct part *p = &s->part[part];
    struct stat st;
    uint8_t head[8];
    uint64_t n = 0;
    p->fd = open(p->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (p->fd < 0 || fstat(p->fd, &st))
        return pg_fail(err, PG_EIO, "%s: %s", p->path, strerror(errno));
    const int os_error = pg_stamp_take(&p->stamp, p->fd);
    if (os_error)
        return pg_fail_os(err, PG_EIO, os_error, "%s", p->path);
    if (!S_ISREG(st.st_mode) || st.st_size < 10)
        return pg_fail(err, PG_EFORMAT, "%s: %lld bytes found, a file of 10 at least wanted",
                       p->path, (long long)st.st_size);
    PG_TRY(read_at(p, 0, 8, head, err));
    for (int i = 7; i >= 0; i--)
        n = n << 8 | head[i];
    if (n < 2 || n > HEADER_MAX || n > (uint64_t)st.st_size - 8)
        return pg_fail(err, PG_EFORMAT,
                       "%s: a header of %llu bytes found, 2 to %llu wanted: no safetensors file",
                       p->path, (unsigned long long)n,
                       (unsigned long long)PG_MIN(HEADER_MAX, (uint64_t)st.st_size - 8));
    char *text = malloc(n);
    if (!text)
        return pg_fail(err, PG_ENOMEM, "%s: out of memory for a header of %llu bytes", p->path,
                       (unsigned long long)n);
    int rc = read_at(p, 8, n, text, err);
    rc = rc ? rc : parse_header(p, text, n, err);
    free(text);
    close(p->fd);
    p->fd = -1;
    return rc ? rc : take_tensors(s, part, 8 + n, (uint64_t)st.st_size, err);
}

/* ------------------------------------------------------------------ a folder ---------------- */

static int add_part(struct pg_st *s, const char *folder, const char *name, struct pg_err *err)
{
    struct part *p = &s->part[s->n_parts];
    p->fd = -1;
    if (asprintf(&p->path, "%s/%s", folder, name) < 0) {
        p->path = NULL;
        return pg_fail(err, PG_ENOMEM, "out of memory");
    }
    s->n_parts++;
    return 0;
}

/* Opens the file that an index names, if it is new; `seen` has the names. */
static int open_named(struct pg_st *s, const char *folder, const char *index, const json_t *file,
                      json_t *seen, struct pg_err *err)
{
    const char *name = json_string_value(file);
    if (!name || !*name || strchr(name, '/') || !strcmp(name, "..") || !strcmp(name, "."))
        return pg_fail(err, PG_EFORMAT, "%s: weight_map: '%s' found, a file of this folder wanted",
                       index, name ? pg_quote(name, strlen(name)).s : "no text");
    if (json_object_get(seen, name))
        return 0;
    if (s->n_parts == PARTS_MAX)
        return pg_fail(err, PG_EFORMAT, "%s: weight_map: more than %d files", index, PARTS_MAX);
    if (json_object_set_new(seen, name, json_true()))
        return pg_fail(err, PG_ENOMEM, "out of memory");
    PG_TRY(add_part(s, folder, name, err));
    return open_part(s, s->n_parts - 1, err);
}

static int by_name(const void *a, const void *b)
{
    const struct pg_st_tensor *x = a, *y = b;
    int order = strcmp(x->name, y->name);
    return order ? order : x->part - y->part;
}

/* The files have the tensors that the index says, each where it says, and no others. */
static int check_map(const struct pg_st *s, const char *index, const json_t *map,
                     struct pg_err *err)
{
    for (int i = 0; i < s->n_tensors; i++) {
        const struct pg_st_tensor *t = &s->tensor[i];
        const char *file = json_string_value(json_object_get(map, t->name));
        const char *is = strrchr(s->part[t->part].path, '/') + 1;
        if (!file || strcmp(file, is))
            return pg_fail(err, PG_EFORMAT, "%s: %s: %s says it is in %s", s->part[t->part].path,
                           t->name, index, file ? pg_quote(file, strlen(file)).s : "none");
    }
    if ((size_t)s->n_tensors != json_object_size(map))
        return pg_fail(err, PG_EFORMAT, "%s: names %zu tensors, its files have %d", index,
                       json_object_size(map), s->n_tensors);
    return 0;
}

static int read_map(struct pg_st *s, const char *folder, const char *index, json_t *map,
                    struct pg_err *err)
{
    const char *name;
    json_t *file, *seen;
    int rc = 0;
    if (!json_is_object(map) || json_object_size(map) == 0)
        return pg_fail(err, PG_EFORMAT, "%s: weight_map: names of tensors with files wanted",
                       index);
    seen = json_object();
    json_object_foreach(map, name, file)
    {
        rc = rc ? rc : open_named(s, folder, index, file, seen, err);
    }
    json_decref(seen);
    return rc ? rc : check_map(s, index, map, err);
}

static int open_index(struct pg_st *s, const char *folder, const char *index, struct pg_err *err)
{
    json_t *root;
    PG_TRY(pg_json_load(&root, index, err));
    int rc = read_map(s, folder, index, json_object_get(root, "weight_map"), err);
    json_decref(root);
    return rc;
}

static int nothing(const char *folder, struct pg_err *err)
{
    char path[4200];
    snprintf(path, sizeof(path), "%s/pytorch_model.bin", folder);
    if (!access(path, F_OK))
        return pg_fail(err, PG_ENOTSUP,
                       "%s: pickled weights can run code, and are not read; make safetensors of "
                       "them: python3 -c \"from transformers import AutoModel as m; "
                       "m.from_pretrained('.').save_pretrained('.')\" in that folder",
                       path);
    return pg_fail(err, PG_EIO,
                   "%s: no model.safetensors there, and no model.safetensors.index.json", folder);
}

static int open_folder(struct pg_st *s, const char *folder, struct pg_err *err)
{
    char *index = NULL, *alone = NULL;
    int rc;
    if (asprintf(&index, "%s/model.safetensors.index.json", folder) < 0 ||
        asprintf(&alone, "%s/model.safetensors", folder) < 0) {
        rc = pg_fail(err, PG_ENOMEM, "out of memory");
    } else if (!access(index, F_OK)) {
        rc = open_index(s, folder, index, err);
    } else if (!access(alone, F_OK)) {
        rc = add_part(s, folder, "model.safetensors", err);
        rc = rc ? rc : open_part(s, 0, err);
    } else {
        rc = nothing(folder, err);
    }
    free(index);
    free(alone);
    return rc;
}

static int open_all(struct pg_st **out, struct pg_err *err)
{
    struct pg_st *s = pg_calloc(1, sizeof(*s));
    *out = s;
    if (s)
        s->part = pg_calloc(PARTS_MAX, sizeof(*s->part));
    return s && s->part ? 0 : pg_fail(err, PG_ENOMEM, "out of memory");
}

static int close_if(int rc, struct pg_st **s)
{
    if (rc) {
        pg_st_close(*s);
        *s = NULL;
        return rc;
    }
    qsort((*s)->tensor, (size_t)(*s)->n_tensors, sizeof(*(*s)->tensor), by_name);
    for (int i = 0; i < (*s)->n_tensors; i++)
        (*s)->bytes += (*s)->tensor[i].bytes;
    return 0;
}

int pg_st_open(struct pg_st **out, const char *folder, struct pg_err *err)
{
    int rc = open_all(out, err);
    return close_if(rc ? rc : open_folder(*out, folder, err), out);
}

int pg_st_parse(struct pg_st **out, const char *text, size_t n, uint64_t file_bytes,
                const char *name, struct pg_err *err)
{
    int rc = open_all(out, err);
    rc = rc ? rc : add_part(*out, "", name, err);
    if (!rc && (n < 2 || file_bytes < 8 || n > file_bytes - 8))
        rc = pg_fail(err, PG_EFORMAT, "%s: a header of %zu bytes in a file of %llu", name, n,
                     (unsigned long long)file_bytes);
    rc = rc ? rc : parse_header(&(*out)->part[0], text, n, err);
    rc = rc ? rc : take_tensors(*out, 0, 8 + n, file_bytes, err);
    return close_if(rc, out);
}

void pg_st_close(struct pg_st *s)
{
    for (int i = 0; s && s->part && i < s->n_parts; i++) {
        if (s->part[i].fd >= 0)
            close(s->part[i].fd);
        json_decref(s->part[i].header);
        free(s->part[i].path);
    }
    if (s) {
        free(s->part);
        free(s->tensor);
    }
    free(s);
}

int pg_st_n_tensors(const struct pg_st *s)
{
    return s->n_tensors;
}

const struct pg_st_tensor *pg_st_at(const struct pg_st *s, int i)
{
    return &s->tensor[i];
}

const struct pg_st_tensor *pg_st_find(const struct pg_st *s, const char *name)
{
    int lo = 0, hi = s->n_tensors;
    while (lo < hi) {
        int mid = lo + (hi - lo) / 2, order = strcmp(s->tensor[mid].name, name);
        if (order == 0)
            return &s->tensor[mid];
        if (order < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return NULL;
}

int pg_st_n_parts(const struct pg_st *s)
{
    return s->n_parts;
}

const struct pg_stamp *pg_st_stamp(const struct pg_st *s, int part)
{
    return &s->part[part].stamp;
}

const char *pg_st_path(const struct pg_st *s, int part)
{
    return s->part[part].path;
}

uint64_t pg_st_bytes(const struct pg_st *s)
{
    return s->bytes;
}
