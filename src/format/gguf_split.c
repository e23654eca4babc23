/* SPDX-License-Identifier: MIT
 * Split sets: name-00001-of-0000N.gguf and its further files, seen as one directory.
 *
 * Each file has a header of its own. The first one's keys are the model's; a further file adds
 * tensors, and must agree about the set: its number, the count of files, the count of tensors, and
 * every key that both have.
 */
#include "format/gguf_dir.h"

#include "base/os.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PARTS_MAX     65535
#define SPLIT_NO      "split.no"
#define SPLIT_COUNT   "split.count"
#define SPLIT_TENSORS "split.tensors.count"
#define SPLIT_PREFIX  "split."

struct split {
    int64_t no, count, n_tensors;
};

static int get_split(const struct pg_gguf *g, struct split *s, struct pg_err *err)
{
    *s = (struct split){.count = 1, .n_tensors = -1};
    PG_TRY(pg_gguf_get_int(g, SPLIT_COUNT, PG_GGUF_OPTIONAL, (int64_t[]){0, PARTS_MAX}, &s->count,
                           err));
    if (s->count <= 1)
        return 0;
    PG_TRY(
        pg_gguf_get_int(g, SPLIT_NO, PG_GGUF_REQUIRED, (int64_t[]){0, s->count - 1}, &s->no, err));
    return pg_gguf_get_int(g, SPLIT_TENSORS, PG_GGUF_OPTIONAL, (int64_t[]){0, INT32_MAX},
                           &s->n_tensors, err);
}

/* Length of the path before "-00001-of-0000N.gguf"; an error when it does not end so. */
static int split_stem(const char *path, int64_t count, size_t *stem, struct pg_err *err)
{
    char want[48];
    size_t n = strlen(path);
    int k = snprintf(want, sizeof(want), "-%05d-of-%05" PRId64 ".gguf", 1, count);

    if (n <= (size_t)k || strcmp(path + n - (size_t)k, want))
        return pg_fail(err, PG_EFORMAT,
                       "%s: is the first of a set of %" PRId64
                       " files, but its name does not end in \"%s\"",
                       path, count, want);
    *stem = n - (size_t)k;
    return 0;
}

static bool same_value(const struct pg_gguf *a, const struct pg_gguf_key *x,
                       const struct pg_gguf *b, const struct pg_gguf_key *y)
{
    if (x->kind != y->kind || x->elem != y->elem || x->n != y->n)
        return false;
    if (x->elem != PG_GGUF_STRING)
        return !memcmp(x->data, y->data, x->n * pg_gguf_kind_bytes(x->elem));
    for (uint64_t i = 0; i < x->n; i++) {
        struct pg_str s = pg_gguf_string_at(a, x, i), t = pg_gguf_string_at(b, y, i);
        if (s.n != t.n || memcmp(s.s, t.s, s.n))
            return false;
    }
    return true;
}

/* A further file may repeat keys of the first, but not contradict them. */
static int check_same_model(const struct pg_gguf *g, const struct pg_gguf *shard,
                            struct pg_err *err)
{
    for (size_t i = 0; i < shard->key_dict.n; i++) {
        const struct pg_gguf_key *k = &shard->keys[i], *first = pg_gguf_find(g, k->name);
        if (!strncmp(k->name, SPLIT_PREFIX, strlen(SPLIT_PREFIX)) ||
            !strcmp(k->name, PG_GGUF_KEY_ALIGNMENT) || !first)
            continue;
        if (!same_value(g, first, shard, k))
            return pg_fail(
                err, PG_EFORMAT, "%s: belongs to another model than %s: key %s has another value",
                shard->parts[0].path, g->parts[0].path, pg_quote(k->name, strlen(k->name)).s);
    }
    return 0;
}

static int check_shard(const struct pg_gguf *g, const struct pg_gguf *shard,
                       const struct split *want, struct pg_err *err)
{
    const char *path = shard->parts[0].path;
    struct split s;

    PG_TRY(get_split(shard, &s, err));
    if (s.count != want->count)
        return pg_fail(err, PG_EFORMAT,
                       "%s: key " SPLIT_COUNT ": is %" PRId64 "; the first file's %" PRId64
                       " is wanted",
                       path, s.count, want->count);
    if (s.no != want->no)
        return pg_fail(err, PG_EFORMAT,
                       "%s: key " SPLIT_NO ": is %" PRId64 "; %" PRId64 " is wanted", path, s.no,
                       want->no);
    if (s.n_tensors >= 0 && want->n_tensors >= 0 && s.n_tensors != want->n_tensors)
        return pg_fail(err, PG_EFORMAT,
                       "%s: belongs to another model than %s: key " SPLIT_TENSORS ": is %" PRId64
                       "; %" PRId64 " is wanted",
                       path, g->parts[0].path, s.n_tensors, want->n_tensors);
    return check_same_model(g, shard, err);
}

/* Moves the shard's tensors, and the header that their names stand in, into part `i` of the set. */
static int merge_shard(struct pg_gguf *g, struct pg_gguf *shard, int i, struct pg_err *err)
{
    const char *path = shard->parts[0].path;
    size_t n = shard->tensor_dict.n, n_old = g->tensor_dict.n;

    if (pg_reserve(&g->tensors, &g->cap_tensors, n_old + n, sizeof(*g->tensors)))
        return pg_fail(err, PG_ENOMEM, "%s: out of memory", path);
    for (size_t j = 0; j < n; j++) {
        const struct pg_gguf_tensor *t = &shard->tensors[j];
        int rc = pg_gguf_dict_add(&g->tensor_dict, t->name, shard->tensor_dict.names[j].n);
        if (rc == PG_EARG) {
            int64_t k = pg_gguf_dict_find(&g->tensor_dict, t->name, strlen(t->name));
            return pg_fail(err, PG_EFORMAT, "%s: tensor %s: is already in %s", path,
                           pg_quote(t->name, strlen(t->name)).s, g->parts[g->tensors[k].part].path);
        }
        if (rc)
            return pg_fail(err, PG_ENOMEM, "%s: out of memory", path);
        g->tensors[n_old + j] = *t;
        g->tensors[n_old + j].part = i;
    }
    g->parts[i] = shard->parts[0];
    shard->parts[0] = (struct pg_gguf_part){0};
    return 0;
}

static int add_shard(struct pg_gguf *g, const char *path, const struct split *want,
                     struct pg_err *err)
{
    struct pg_gguf *shard;
    int rc = pg_gguf_open_one(&shard, path, err);

    if (rc) {
        char in[96];
        snprintf(in, sizeof(in), "file %" PRId64 " of a set of %" PRId64, want->no + 1,
                 want->count);
        return pg_fail_in(err, rc, in);
    }
    rc = check_shard(g, shard, want, err);
    if (!rc)
        rc = merge_shard(g, shard, (int)want->no, err);
    pg_gguf_close(shard);
    return rc;
}

static int open_shards(struct pg_gguf *g, struct split s, struct pg_err *err)
{
    const char *first = g->parts[0].path;
    size_t stem = 0;
    int rc = 0;

    if (s.no != 0)
        return pg_fail(err, PG_EARG,
                       "%s: is file %" PRId64 " of a set of %" PRId64 "; the first is wanted",
                       first, s.no + 1, s.count);
    PG_TRY(split_stem(first, s.count, &stem, err));
    size_t room = stem + 48, cap = 1;
    if (pg_reserve(&g->parts, &cap, (size_t)s.count, sizeof(*g->parts)))
        return pg_fail(err, PG_ENOMEM, "%s: out of memory", first);
    char *path = pg_calloc(room, 1);
    if (!path)
        return pg_fail(err, PG_ENOMEM, "%s: out of memory", first);
    for (int i = 1; i < (int)s.count && !rc; i++) {
        s.no = i;
        memcpy(path, first, stem);
        snprintf(path + stem, room - stem, "-%05d-of-%05d.gguf", i + 1, (int)s.count);
        g->parts[i] = (struct pg_gguf_part){0};
        rc = add_shard(g, path, &s, err);
        g->n_parts += rc == 0;
    }
    free(path);
    if (!rc && s.n_tensors >= 0 && (uint64_t)s.n_tensors != g->tensor_dict.n)
        rc = pg_fail(err, PG_EFORMAT,
                     "%s: the set has %zu tensors; " SPLIT_TENSORS " wants %" PRId64, first,
                     g->tensor_dict.n, s.n_tensors);
    return rc;
}

int pg_gguf_open(struct pg_gguf **out, const char *path, struct pg_err *err)
{
    struct split s;
    int rc;

    *out = NULL;
    if (!path)
        return pg_fail(err, PG_EARG, "no file given");
    PG_TRY(pg_gguf_open_one(out, path, err));
    rc = get_split(*out, &s, err);
    if (!rc && s.count > 1)
        rc = open_shards(*out, s, err);
    return pg_gguf_finish(out, rc);
}
