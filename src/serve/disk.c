/* SPDX-License-Identifier: MIT */
#include "serve/disk.h"

#include "base/hash.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static const char suffix[] = ".context", magic[8] = "PGCTX01";
enum { MOST_FILES = 4096 };

struct head {
    char magic[8];
    uint32_t n_pages, zero;
    uint64_t id, page_bytes;
    uint64_t hash; /* of all above, of the pages' hashes and the tokens */
};

/* ------------------------------------------------------------------ layout ------------------ */

static size_t front_bytes(int n_pages)
{
    const size_t page = sizeof(uint64_t) + PG_KV_PAGE * sizeof(int32_t);
    const size_t bytes = sizeof(struct head) + (size_t)n_pages * page;
    return (bytes + PG_PAGE - 1) / PG_PAGE * PG_PAGE;
}

static uint64_t file_bytes(const struct pg_disk *d, int n_pages)
{
    return front_bytes(n_pages) + (uint64_t)n_pages * d->page_bytes;
}

static uint64_t front_hash(const struct head *h, const uint64_t *page_hash, const int32_t *token)
{
    uint64_t hash = pg_hash_bytes(PG_HASH_START, h, offsetof(struct head, hash));
    hash = pg_hash_bytes(hash, page_hash, h->n_pages * sizeof(*page_hash));
    return pg_hash_bytes(hash, token, (size_t)h->n_pages * PG_KV_PAGE * sizeof(*token));
}

/* What the rows of a context are a function of, beside its tokens. */
static uint64_t disk_id(const struct pg_engine *e)
{
    char model[17];
    pg_model_hash(&e->model, e->routers, model);
    const uint64_t what[] = {e->files_hash,
                             e->opt.kv_type,
                             (uint64_t)e->model.h.n_expert_used,
                             PG_KV_PAGE,
                             e->pool.page_bytes,
                             e->opt.mode == PG_MODE_PREGATE,
                             (uint64_t)e->level * (e->opt.mode == PG_MODE_PREGATE)};
    uint64_t hash = pg_hash_bytes(PG_HASH_START, model, sizeof(model));
    hash = pg_hash_bytes(hash, what, sizeof(what));
    return e->opt.mode == PG_MODE_PREGATE ? pg_hash_bytes(hash, e->tables.base, pg_tables_bytes(e))
                                          : hash;
}

/* ------------------------------------------------------------------ the list ---------------- */

/* Of each whole page the hash of all tokens up to its end. */
static uint64_t *chain_make(const int32_t *token, int n_pages)
{
    uint64_t *chain = pg_calloc((size_t)n_pages + 1, sizeof(*chain)), hash = PG_HASH_START;
    for (int i = 0; i < n_pages && chain; i++) {
        hash = pg_hash_bytes(hash, token + (size_t)i * PG_KV_PAGE, PG_KV_PAGE * sizeof(*token));
        chain[i] = hash;
    }
    return chain;
}

static void list_drop(struct pg_disk *d, size_t i)
{
    d->bytes -= d->file[i].bytes;
    free(d->file[i].chain);
    d->file[i] = d->file[--d->n_files];
}

static void remove_file(struct pg_disk *d, size_t i)
{
    unlinkat(d->folder, d->file[i].name, 0);
    list_drop(d, i);
}

/* Whole pages that a file and the chain of a text have in common. */
static int n_common(const struct pg_disk_file *f, const uint64_t *chain, int n_pages)
{
    int n = 0;
    if (!f->chain)
        return 0;
    while (n < n_pages && n < f->n_pages && f->chain[n] == chain[n])
        n++;
    return n;
}

static struct pg_disk_file *longest(struct pg_disk *d, const uint64_t *chain, int n_pages,
                                    int *n_same)
{
    struct pg_disk_file *best = NULL;
    *n_same = 0;
    for (size_t i = 0; i < d->n_files; i++) {
        const int n = n_common(&d->file[i], chain, n_pages);
        if (n > *n_same) {
            *n_same = n;
            best = &d->file[i];
        }
    }
    return best;
}

/* The longest unused go until so many bytes more are within the bound. */
static void make_room(struct pg_disk *d, uint64_t bytes)
{
    while (d->n_files > 0 && (d->bytes + bytes > d->cap_bytes || d->n_files >= MOST_FILES)) {
        size_t oldest = 0;
        for (size_t i = 1; i < d->n_files; i++)
            if (d->file[i].used_ns < d->file[oldest].used_ns)
                oldest = i;
        remove_file(d, oldest);
    }
}

/* ------------------------------------------------------------------ reading ----------------- */

static bool read_all(int fd, void *out, size_t n, uint64_t at)
{
    char *to = out;
    while (n > 0) {
        const ssize_t got = pread(fd, to, PG_MIN(n, (size_t)1 << 30), (off_t)at);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return false;
        to += got;
        at += (uint64_t)got;
        n -= (size_t)got;
    }
    return true;
}

/* A file's head, hashes and tokens, checked; for free(). NULL: it is not one of ours, or damaged.
 */
static struct head *front_read(const struct pg_disk *d, int fd, int n_most, uint64_t bytes)
{
    struct head h;
    if (!read_all(fd, &h, sizeof(h), 0) || memcmp(h.magic, magic, sizeof(magic)) || h.id != d->id ||
        h.page_bytes != d->page_bytes || h.n_pages < 1 ||
        h.n_pages > (uint32_t)(n_most / PG_KV_PAGE) || bytes != file_bytes(d, (int)h.n_pages))
        return NULL;
    struct head *front = malloc(front_bytes((int)h.n_pages));
    if (front && read_all(fd, front, front_bytes((int)h.n_pages), 0)) {
        const uint64_t *page_hash = (const uint64_t *)(front + 1);
        const int32_t *token = (const int32_t *)(page_hash + h.n_pages);
        if (!memcmp(front, &h, sizeof(h)) && front_hash(front, page_hash, token) == h.hash)
            return front;
    }
    free(front);
    return NULL;
}

static int list_add(struct pg_disk *d, const struct pg_disk_file *f, struct pg_err *err)
{
    PG_TRY(pg_reserve(&d->file, &d->cap_files, d->n_files + 1, sizeof(*d->file))
               ? pg_fail(err, PG_ENOMEM, "out of memory for the list of contexts")
               : 0);
    d->file[d->n_files++] = *f;
    d->bytes += f->bytes;
    return 0;
}

static int scan_one(struct pg_disk *d, const char *name, int n_most, struct pg_err *err)
{
    struct stat st;
    struct pg_disk_file f = {0};
    const int fd = openat(d->folder, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return 0;
    if (fstat(fd, &st) || !S_ISREG(st.st_mode)) {
        close(fd);
        return 0;
    }
    memcpy(f.name, name, strlen(name)); /* is_ours: it is shorter */
    f.bytes = (uint64_t)st.st_size;
    f.used_ns = st.st_mtim.tv_sec * 1000000000ll + st.st_mtim.tv_nsec;
    struct head *front = front_read(d, fd, n_most, f.bytes);
    close(fd);
    if (front) {
        const uint64_t *page_hash = (const uint64_t *)(front + 1);
        f.n_pages = (int)front->n_pages;
        f.chain = chain_make((const int32_t *)(page_hash + front->n_pages), f.n_pages);
    }
    free(front);
    const int rc = list_add(d, &f, err);
    if (rc)
        free(f.chain);
    return rc;
}

static bool is_ours(const char *name)
{
    const size_t n = strlen(name);
    return n == 16 + sizeof(suffix) - 1 && !strcmp(name + 16, suffix) &&
           strspn(name, "0123456789abcdef") == 16;
}

static int scan(struct pg_disk *d, int n_most, struct pg_err *err)
{
    const int fd = dup(d->folder);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    int rc = 0;
    if (!dir) {
        rc = pg_fail_os(err, PG_EIO, errno, "%s", d->path);
        if (fd >= 0)
            close(fd);
        return rc;
    }
    for (struct dirent *each; !rc && (each = readdir(dir));)
        if (is_ours(each->d_name))
            rc = scan_one(d, each->d_name, n_most, err);
    closedir(dir);
    return rc;
}

int pg_disk_open(struct pg_disk *d, const struct pg_disk_options *opt, struct pg_err *err)
{
    const struct pg_engine *e = opt->engine;
    *d = (struct pg_disk){.folder = -1, .cap_bytes = opt->cap_bytes, .log = opt->log};
    if (e->cache_bias || e->opt.routes)
        return pg_fail(
            err, PG_EARG,
            "contexts on disk: with a cache's bias or forced routes what a context has is "
            "not a function of its tokens");
    if (snprintf(d->path, sizeof(d->path), "%s", opt->path) >= (int)sizeof(d->path))
        return pg_fail(err, PG_EARG, "contexts on disk: the path is too long");
    if (mkdir(d->path, 0700) && errno != EEXIST)
        return pg_fail_os(err, PG_EIO, errno, "%s", d->path);
    d->folder = open(d->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (d->folder < 0)
        return pg_fail_os(err, PG_EIO, errno, "%s", d->path);
    d->page_bytes = e->pool.page_bytes;
    d->id = disk_id(e);
    const int rc = scan(d, e->opt.n_ctx, err);
    if (rc)
        pg_disk_close(d);
    else
        make_room(d, 0);
    return rc;
}

void pg_disk_close(struct pg_disk *d)
{
    while (d->n_files > 0)
        list_drop(d, d->n_files - 1);
    if (d->folder >= 0)
        close(d->folder);
    free(d->file);
    *d = (struct pg_disk){.folder = -1};
}

/* ------------------------------------------------------------------ loading ----------------- */

/* Now is when it was used, also for the next process. */
static void touch(struct pg_disk_file *f, int fd)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    f->used_ns = now.tv_sec * 1000000000ll + now.tv_nsec;
    if (fd >= 0)
        futimens(fd, (const struct timespec[]){now, now}); /* only its age is lost if it cannot */
}

/* Pages [first, n_pages) of the file behind what the session has. Returns pages that it has then.
 */
static int load_pages(const struct pg_disk *d, pg_session *s, int fd, const struct head *front,
                      int n_pages)
{
    const uint64_t *page_hash = (const uint64_t *)(front + 1);
    const int32_t *token = (const int32_t *)(page_hash + front->n_pages);
    int i = s->n_tokens / PG_KV_PAGE;
    PG_ASSERT(s->n_tokens == i * PG_KV_PAGE);
    for (; i < n_pages; i++) {
        const int at = i * PG_KV_PAGE;
        pg_kv_write(&s->kv, at, at + PG_KV_PAGE);
        char *rows = pg_kv_pool_rows(s->kv.pool, s->kv.page[i]);
        const uint64_t from = front_bytes((int)front->n_pages) + (uint64_t)i * d->page_bytes;
        if (!read_all(fd, rows, d->page_bytes, from) ||
            pg_hash_bytes(PG_HASH_START, rows, d->page_bytes) != page_hash[i])
            break;
        pg_kv_written(&s->kv, at, token + at, PG_KV_PAGE);
        memcpy(s->tokens + at, token + at, PG_KV_PAGE * sizeof(*token));
        s->n_tokens = at + PG_KV_PAGE;
    }
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED); /* the page cache is in the budget of a group */
    return i;
}

/* Whether the file was as it should be. */
static bool load_file(struct pg_disk *d, struct pg_disk_file *f, pg_session *s,
                      const int32_t *tokens, int n_pages)
{
    const int fd = openat(d->folder, f->name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return false;
    struct head *front = front_read(d, fd, s->n_ctx, f->bytes);
    bool good = false;
    if (front) {
        const int32_t *token = (const int32_t *)((const uint64_t *)(front + 1) + front->n_pages);
        good = n_pages <= (int)front->n_pages && /* hashes of chains may collide, tokens do not */
               !memcmp(token, tokens, (size_t)n_pages * PG_KV_PAGE * sizeof(*token));
        if (good)
            good = load_pages(d, s, fd, front, n_pages) == n_pages;
        touch(f, fd);
    }
    free(front);
    close(fd);
    return good;
}

int pg_disk_load(struct pg_disk *d, pg_session *s, const int32_t *tokens, int n)
{
    int n_same;
    const int n_pages = n / PG_KV_PAGE;
    uint64_t *chain = chain_make(tokens, n_pages);
    struct pg_disk_file *f = chain ? longest(d, chain, n_pages, &n_same) : NULL;
    free(chain);
    if (!f || n_same * PG_KV_PAGE < s->n_tokens + PG_DISK_LEAST)
        return s->n_tokens;
    pg_session_truncate(s, (size_t)s->n_tokens / PG_KV_PAGE * PG_KV_PAGE);
    if (!load_file(d, f, s, tokens, n_same)) {
        pg_say(d->log, PG_LOG_WARN, "%s/%s: is damaged or gone; %d of %d tokens of it are used",
               d->path, f->name, s->n_tokens, n_same * PG_KV_PAGE);
        remove_file(d, (size_t)(f - d->file));
    }
    return s->n_tokens;
}

/* ------------------------------------------------------------------ saving ------------------ */

static struct head *front_make(const struct pg_disk *d, const pg_session *s)
{
    const int n_pages = s->n_tokens / PG_KV_PAGE;
    struct head *front = pg_calloc(1, front_bytes(n_pages));
    if (!front)
        return NULL;
    uint64_t *page_hash = (uint64_t *)(front + 1);
    int32_t *token = (int32_t *)(page_hash + n_pages);
    *front = (struct head){.n_pages = (uint32_t)n_pages, .id = d->id, .page_bytes = d->page_bytes};
    memcpy(front->magic, magic, sizeof(magic));
    memcpy(token, s->tokens, (size_t)n_pages * PG_KV_PAGE * sizeof(*token));
    for (int i = 0; i < n_pages; i++)
        page_hash[i] =
            pg_hash_bytes(PG_HASH_START, pg_kv_pool_rows(s->kv.pool, s->kv.page[i]), d->page_bytes);
    front->hash = front_hash(front, page_hash, token);
    return front;
}

struct saving {
    struct pg_disk *d;
    const pg_session *s;
    const struct head *front;
    bool (*give_up)(void *user);
    void *user;
};

static int write_pages(const struct saving *x, struct pg_outfile *out, struct pg_err *err)
{
    PG_TRY(pg_outfile_write(out, x->front, front_bytes((int)x->front->n_pages), err));
    for (int i = 0; i < (int)x->front->n_pages; i++) {
        if (x->give_up && x->give_up(x->user))
            return pg_fail(err, PG_ECANCELLED, "something better to do");
        const char *rows = pg_kv_pool_rows(x->s->kv.pool, x->s->kv.page[i]);
        PG_TRY(pg_outfile_write(out, rows, x->d->page_bytes, err));
    }
    return pg_outfile_commit(out, err);
}

static int write_file(const struct saving *x, const char *name, struct pg_err *err)
{
    char path[sizeof(x->d->path) + 40];
    struct pg_outfile out;
    snprintf(path, sizeof(path), "%s/%s", x->d->path, name);
    PG_TRY(pg_outfile_open(&out, path, err));
    int rc = pg_outfile_stream(&out, file_bytes(x->d, (int)x->front->n_pages), err);
    rc = rc ? rc : write_pages(x, &out, err);
    pg_outfile_abandon(&out);
    return rc;
}

/* Files of which the text is a continuation say nothing that the new one does not; and a damaged
 * one of its name has been written over. */
static void remove_beginnings(struct pg_disk *d, const struct pg_disk_file *f)
{
    for (size_t i = d->n_files; i-- > 0;) {
        const struct pg_disk_file *old = &d->file[i];
        if (!strcmp(old->name, f->name))
            list_drop(d, i);
        else if (old->chain && n_common(old, f->chain, f->n_pages) == old->n_pages)
            remove_file(d, i);
    }
}

int pg_disk_save(struct pg_disk *d, const pg_session *s, bool (*give_up)(void *user), void *user,
                 struct pg_err *err)
{
    struct pg_disk_file f = {.n_pages = s->n_tokens / PG_KV_PAGE};
    int n_same, rc;
    f.bytes = file_bytes(d, f.n_pages);
    if (s->n_tokens < PG_DISK_LEAST || f.bytes > d->cap_bytes)
        return 0;
    f.chain = chain_make(s->tokens, f.n_pages);
    struct saving x = {d, s, NULL, give_up, user};
    if (f.chain && longest(d, f.chain, f.n_pages, &n_same) && n_same == f.n_pages) {
        free(f.chain);
        return 0;
    }
    struct head *front = f.chain ? front_make(d, s) : NULL;
    x.front = front;
    if (front) {
        char hash[17];
        pg_hash_text(front->hash, hash);
        snprintf(f.name, sizeof(f.name), "%s%s", hash, suffix);
        make_room(d, f.bytes);
        rc = write_file(&x, f.name, err);
    } else {
        rc = pg_fail(err, PG_ENOMEM, "out of memory for a context of %d tokens", s->n_tokens);
    }
    if (!rc) {
        touch(&f, -1);
        remove_beginnings(d, &f);
        rc = list_add(d, &f, err);
    }
    if (rc)
        free(f.chain);
    free(front);
    return rc;
}
