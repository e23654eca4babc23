/* SPDX-License-Identifier: MIT
 * The GGUF writer. Keys and tensor infos collect in two buffers; the first byte of data (or the
 * commit) writes the header, and from then on data streams through to the file.
 */
#include "format/gguf_dir.h"

#include "base/os.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct buffer {
    char *p;
    size_t n, cap;
};

struct pg_gguf_writer {
    struct pg_outfile file;
    struct buffer keys, infos;
    struct pg_gguf_dict key_dict, tensor_dict; /* names point to copies of their own */
    uint64_t *tensor_bytes;
    size_t cap_tensors, at_tensor; /* at_tensor: whose data comes next */
    uint64_t done;                 /* bytes of that tensor that are written */
    uint64_t data_bytes;           /* of all tensors, padded */
    uint64_t image_done;           /* of these, given as they lie in the file */
    uint32_t alignment;
    bool header_done;
};

static uint64_t padding(const struct pg_gguf_writer *w, uint64_t n)
{
    return (w->alignment - n % w->alignment) % w->alignment;
}

static int no_memory(const struct pg_gguf_writer *w, struct pg_err *err)
{
    return pg_fail(err, PG_ENOMEM, "%s: out of memory while writing", w->file.path);
}

static int put(struct pg_gguf_writer *w, struct buffer *b, const void *data, size_t n,
               struct pg_err *err)
{
    size_t total;

    if (__builtin_add_overflow(b->n, n, &total) || pg_reserve(&b->p, &b->cap, total, 1))
        return no_memory(w, err);
    if (n)
        memcpy(b->p + b->n, data, n);
    b->n = total;
    return 0;
}

static int put_u32(struct pg_gguf_writer *w, struct buffer *b, uint32_t v, struct pg_err *err)
{
    return put(w, b, &v, sizeof(v), err);
}

static int put_u64(struct pg_gguf_writer *w, struct buffer *b, uint64_t v, struct pg_err *err)
{
    return put(w, b, &v, sizeof(v), err);
}

static int put_str(struct pg_gguf_writer *w, struct buffer *b, const char *s, size_t n,
                   struct pg_err *err)
{
    PG_TRY(put_u64(w, b, n, err));
    return put(w, b, s, n, err);
}

int pg_gguf_writer_open(struct pg_gguf_writer **out, const char *path, struct pg_err *err)
{
    struct pg_gguf_writer *w = pg_calloc(1, sizeof(*w));
    int rc;

    *out = NULL;
    if (!w)
        return pg_fail(err, PG_ENOMEM, "%s: out of memory", path);
    w->alignment = PG_GGUF_ALIGNMENT;
    pg_gguf_dict_init(&w->key_dict);
    pg_gguf_dict_init(&w->tensor_dict);
    rc = pg_outfile_open(&w->file, path, err);
    if (rc) {
        pg_gguf_writer_abandon(w);
        return rc;
    }
    *out = w;
    return 0;
}

static void free_names(struct pg_gguf_dict *d)
{
    for (size_t i = 0; i < d->n; i++)
        free((void *)(uintptr_t)d->names[i].s);
    pg_gguf_dict_fini(d);
}

void pg_gguf_writer_abandon(struct pg_gguf_writer *w)
{
    if (!w)
        return;
    pg_outfile_abandon(&w->file);
    free(w->keys.p);
    free(w->infos.p);
    free(w->tensor_bytes);
    free_names(&w->key_dict);
    free_names(&w->tensor_dict);
    free(w);
}

/* Refuses names that the reader would refuse. */
static int add_name(struct pg_gguf_writer *w, struct pg_gguf_dict *d, const char *name, size_t max,
                    struct pg_err *err)
{
    size_t n = strlen(name);

    if (w->header_done)
        return pg_fail(err, PG_EARG, "%s: %s: comes after the first data", w->file.path,
                       pg_quote(name, n).s);
    if (n > max || !pg_gguf_name_ok(name, n))
        return pg_fail(err, PG_EARG,
                       "%s: name \"%s\": 1 to %zu bytes of printable ASCII are wanted",
                       w->file.path, pg_quote(name, n).s, max);
    char *copy = strdup(name);
    if (!copy)
        return no_memory(w, err);
    int rc = pg_gguf_dict_add(d, copy, n);
    if (rc)
        free(copy);
    if (rc == PG_EARG)
        return pg_fail(err, PG_EARG, "%s: %s: is added twice", w->file.path, name);
    return rc ? no_memory(w, err) : 0;
}

static int put_key(struct pg_gguf_writer *w, const char *key, enum pg_gguf_kind kind,
                   struct pg_err *err)
{
    PG_TRY(add_name(w, &w->key_dict, key, PG_GGUF_KEY_MAX, err));
    PG_TRY(put_str(w, &w->keys, key, strlen(key), err));
    return put_u32(w, &w->keys, kind, err);
}

static int put_array(struct pg_gguf_writer *w, const char *key, enum pg_gguf_kind elem, uint64_t n,
                     struct pg_err *err)
{
    PG_TRY(put_key(w, key, PG_GGUF_ARRAY, err));
    PG_TRY(put_u32(w, &w->keys, elem, err));
    return put_u64(w, &w->keys, n, err);
}

int pg_gguf_writer_align(struct pg_gguf_writer *w, uint32_t alignment, struct pg_err *err)
{
    PG_ASSERT(!w->tensor_dict.n && alignment >= PG_GGUF_ALIGNMENT && alignment <= PG_PAGE);
    w->alignment = alignment;
    return alignment == PG_GGUF_ALIGNMENT
               ? 0
               : pg_gguf_writer_u32(w, PG_GGUF_KEY_ALIGNMENT, alignment, err);
}

int pg_gguf_writer_u32(struct pg_gguf_writer *w, const char *key, uint32_t v, struct pg_err *err)
{
    if (!strcmp(key, PG_GGUF_KEY_ALIGNMENT) && v != w->alignment)
        return pg_fail(err, PG_EARG, "%s: %s of %u: only %u is written", w->file.path, key, v,
                       w->alignment);
    PG_TRY(put_key(w, key, PG_GGUF_U32, err));
    return put_u32(w, &w->keys, v, err);
}

int pg_gguf_writer_f32(struct pg_gguf_writer *w, const char *key, float v, struct pg_err *err)
{
    PG_TRY(put_key(w, key, PG_GGUF_F32, err));
    return put(w, &w->keys, &v, sizeof(v), err);
}

int pg_gguf_writer_bool(struct pg_gguf_writer *w, const char *key, bool v, struct pg_err *err)
{
    char byte = v;

    PG_TRY(put_key(w, key, PG_GGUF_BOOL, err));
    return put(w, &w->keys, &byte, 1, err);
}

int pg_gguf_writer_str(struct pg_gguf_writer *w, const char *key, const char *v, struct pg_err *err)
{
    PG_TRY(put_key(w, key, PG_GGUF_STRING, err));
    return put_str(w, &w->keys, v, strlen(v), err);
}

int pg_gguf_writer_strs(struct pg_gguf_writer *w, const char *key, const struct pg_str *v,
                        uint64_t n, struct pg_err *err)
{
    PG_TRY(put_array(w, key, PG_GGUF_STRING, n, err));
    for (uint64_t i = 0; i < n; i++)
        PG_TRY(put_str(w, &w->keys, v[i].s, v[i].n, err));
    return 0;
}

int pg_gguf_writer_i32s(struct pg_gguf_writer *w, const char *key, const int32_t *v, uint64_t n,
                        struct pg_err *err)
{
    PG_TRY(put_array(w, key, PG_GGUF_I32, n, err));
    return put(w, &w->keys, v, n * sizeof(*v), err);
}

int pg_gguf_writer_f32s(struct pg_gguf_writer *w, const char *key, const float *v, uint64_t n,
                        struct pg_err *err)
{
    PG_TRY(put_array(w, key, PG_GGUF_F32, n, err));
    return put(w, &w->keys, v, n * sizeof(*v), err);
}

int pg_gguf_writer_copy(struct pg_gguf_writer *w, const struct pg_gguf_key *key, struct pg_err *err)
{
    const bool is_array = key->kind == PG_GGUF_ARRAY;

    if (key->elem == PG_GGUF_STRING && is_array)
        return pg_gguf_writer_strs(w, key->name, key->data, key->n, err);
    PG_TRY(is_array ? put_array(w, key->name, key->elem, key->n, err)
                    : put_key(w, key->name, key->kind, err));
    if (key->elem == PG_GGUF_STRING) {
        const struct pg_str *s = key->data;
        return put_str(w, &w->keys, s->s, s->n, err);
    }
    return put(w, &w->keys, key->data, (size_t)key->n * pg_gguf_kind_bytes(key->elem), err);
}

static int check_shape(const struct pg_gguf_writer *w, const char *name, int n_dims,
                       const int64_t *ne, struct pg_err *err)
{
    if (n_dims < 1 || n_dims > 4)
        return pg_fail(err, PG_EARG, "%s: tensor %s: %d dimensions; 1 to 4 are wanted",
                       w->file.path, name, n_dims);
    for (int d = 0; d < n_dims; d++)
        if (ne[d] < 1)
            return pg_fail(err, PG_EARG,
                           "%s: tensor %s: dimension %d is %" PRId64 "; at least 1 is wanted",
                           w->file.path, name, d, ne[d]);
    return 0;
}

int pg_gguf_writer_tensor(struct pg_gguf_writer *w, const char *name, enum pg_type type, int n_dims,
                          const int64_t *ne, struct pg_err *err)
{
    size_t i = w->tensor_dict.n;
    uint64_t bytes, end;
    struct pg_err why;

    PG_TRY(check_shape(w, name, n_dims, ne, err));
    int rc = pg_gguf_tensor_bytes(type, n_dims, ne, &bytes, &why);
    if (rc)
        return pg_fail(err, rc, "%s: tensor %s: %s", w->file.path, name, why.text);
    if (__builtin_add_overflow(w->data_bytes, bytes + padding(w, bytes), &end))
        return pg_fail(err, PG_EARG, "%s: tensor %s: the file's size overflows 64 bits",
                       w->file.path, name);
    if (pg_reserve(&w->tensor_bytes, &w->cap_tensors, i + 1, sizeof(*w->tensor_bytes)))
        return no_memory(w, err);
    PG_TRY(add_name(w, &w->tensor_dict, name, PG_GGUF_NAME_MAX, err));
    w->tensor_bytes[i] = bytes;
    PG_TRY(put_str(w, &w->infos, name, strlen(name), err));
    PG_TRY(put_u32(w, &w->infos, (uint32_t)n_dims, err));
    for (int d = 0; d < n_dims; d++)
        PG_TRY(put_u64(w, &w->infos, (uint64_t)ne[d], err));
    PG_TRY(put_u32(w, &w->infos, type, err));
    PG_TRY(put_u64(w, &w->infos, w->data_bytes, err));
    w->data_bytes = end;
    return 0;
}

static int write_padding(struct pg_gguf_writer *w, uint64_t n, struct pg_err *err)
{
    static const char zeros[PG_PAGE];

    return pg_outfile_write(&w->file, zeros, (size_t)padding(w, n), err);
}

static int write_header(struct pg_gguf_writer *w, struct pg_err *err)
{
    struct buffer head = {0};
    int rc = put(w, &head, "GGUF", 4, err);

    rc = rc ? rc : put_u32(w, &head, 3, err);
    rc = rc ? rc : put_u64(w, &head, w->tensor_dict.n, err);
    rc = rc ? rc : put_u64(w, &head, w->key_dict.n, err);
    rc = rc ? rc : pg_outfile_write(&w->file, head.p, head.n, err);
    free(head.p);
    PG_TRY(rc);
    PG_TRY(pg_outfile_write(&w->file, w->keys.p, w->keys.n, err));
    PG_TRY(pg_outfile_write(&w->file, w->infos.p, w->infos.n, err));
    w->header_done = true;
    return write_padding(w, head.n + w->keys.n + w->infos.n, err);
}

int pg_gguf_writer_start(struct pg_gguf_writer *w, uint64_t *at, struct pg_err *err)
{
    const uint64_t header = 24 + w->keys.n + w->infos.n;
    PG_ASSERT(!w->header_done);
    *at = header + padding(w, header);
    if (__builtin_add_overflow(*at, w->data_bytes, &(uint64_t){0}))
        return pg_fail(err, PG_EARG, "%s: the file's size overflows 64 bits", w->file.path);
    PG_TRY(pg_outfile_stream(&w->file, *at + w->data_bytes, err));
    return write_header(w, err);
}

int pg_gguf_writer_image(struct pg_gguf_writer *w, const void *data, size_t n, struct pg_err *err)
{
    PG_ASSERT(w->header_done && !w->at_tensor && !w->done && n <= w->data_bytes - w->image_done);
    PG_TRY(pg_outfile_write(&w->file, data, n, err));
    w->image_done += n;
    if (w->image_done == w->data_bytes)
        w->at_tensor = w->tensor_dict.n;
    return 0;
}

int pg_gguf_writer_data(struct pg_gguf_writer *w, const void *data, size_t n, struct pg_err *err)
{
    const char *at = data;

    if (!w->header_done)
        PG_TRY(write_header(w, err));
    while (n) {
        if (w->at_tensor == w->tensor_dict.n)
            return pg_fail(err, PG_EARG, "%s: %zu bytes of data beyond the last tensor",
                           w->file.path, n);
        uint64_t bytes = w->tensor_bytes[w->at_tensor];
        size_t k = (size_t)PG_MIN((uint64_t)n, bytes - w->done);
        PG_TRY(pg_outfile_write(&w->file, at, k, err));
        at += k;
        n -= k;
        w->done += k;
        if (w->done == bytes) {
            PG_TRY(write_padding(w, bytes, err));
            w->done = 0;
            w->at_tensor++;
        }
    }
    return 0;
}

int pg_gguf_writer_commit(struct pg_gguf_writer *w, struct pg_err *err)
{
    int rc = w->header_done ? 0 : write_header(w, err);

    if (!rc && w->at_tensor < w->tensor_dict.n) {
        struct pg_str name = w->tensor_dict.names[w->at_tensor];
        rc = pg_fail(err, PG_EARG,
                     "%s: tensor %s: %" PRIu64 " bytes of data were given; %" PRIu64 " are wanted",
                     w->file.path, name.s, w->done, w->tensor_bytes[w->at_tensor]);
    }
    if (!rc)
        rc = pg_outfile_commit(&w->file, err);
    pg_gguf_writer_abandon(w);
    return rc;
}

int pg_gguf_writer_end(struct pg_gguf_writer *w, int rc, struct pg_err *err)
{
    if (!rc)
        return pg_gguf_writer_commit(w, err);
    pg_gguf_writer_abandon(w);
    return rc;
}
