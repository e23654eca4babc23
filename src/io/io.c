/* SPDX-License-Identifier: MIT
 * The front of the reading layer: which backend, the files, and the life of a read that all
 * backends share (see io_impl.h).
 */
#include "io/io_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- opening ---- */

int pg_io_init(struct pg_io *io, int depth, struct pg_err *err)
{
    io->depth = depth > 0 ? PG_MIN(depth, PG_IO_DEPTH_MAX) : PG_IO_DEPTH_DEFAULT;
    io->landed_tail = &io->landed;
    io->flights = pg_calloc((size_t)io->depth, sizeof(*io->flights));
    if (!io->flights)
        return pg_fail(err, PG_ENOMEM, "no memory for %d reads under way", io->depth);
    for (int i = io->depth - 1; i >= 0; i--) {
        io->flights[i].next = io->free;
        io->free = &io->flights[i];
    }
    return 0;
}

static int paths_copy(struct pg_io *io, const struct pg_io_options *opt, struct pg_err *err)
{
    size_t total = 0;
    for (int i = 0; i < opt->n_paths; i++)
        total += strlen(opt->paths[i]) + 1;
    io->files = pg_calloc((size_t)opt->n_paths, sizeof(*io->files));
    io->path_text = pg_calloc(total, 1);
    if (!io->files || !io->path_text)
        return pg_fail(err, PG_ENOMEM, "no memory for the names of %d files", opt->n_paths);
    io->n_files = opt->n_paths;
    char *at = io->path_text;
    for (int i = 0; i < opt->n_paths; i++) {
        size_t n = strlen(opt->paths[i]) + 1;
        memcpy(at, opt->paths[i], n);
        io->files[i] = (struct pg_io_file){.fd = -1, .path = at};
        at += n;
    }
    return 0;
}

/* One page, at an offset that is not 0 where the file is long enough, so that a file system which
 * wants a larger alignment than ours shows it. */
static int file_prove(int fd, const struct stat *st)
{
    _Alignas(PG_PAGE) unsigned char page[PG_PAGE];
    off_t at = st->st_size >= 2 * (off_t)PG_PAGE ? (off_t)PG_PAGE : 0;
    ssize_t n;
    int tries = 0;
    do
        n = pread(fd, page, sizeof(page), at);
    while (n < 0 && errno == EINTR && ++tries < PG_IO_TRIES);
    return n < 0 ? errno : 0;
}

/* O_NONBLOCK keeps open() of a pipe from waiting for a writer; it comes off again because io_uring
 * would take it as a wish to fail rather than wait. Returns 0 or an errno. */
static int file_try(struct pg_io_file *f, int flags)
{
    struct stat st;
    f->fd = open(f->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | flags);
    if (f->fd < 0)
        return errno;
    int rc = 0;
    if (fstat(f->fd, &st))
        rc = errno;
    else if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
        rc = S_ISDIR(st.st_mode) ? EISDIR : ESPIPE;
    else if (fcntl(f->fd, F_SETFL, flags))
        rc = errno;
    else
        rc = file_prove(f->fd, &st);
    if (rc) {
        close(f->fd);
        f->fd = -1;
    }
    return rc;
}

static int file_open(struct pg_io_file *f, bool buffered, struct pg_err *err)
{
    f->direct = !buffered && !file_try(f, O_DIRECT);
    int os_error = f->direct ? 0 : file_try(f, 0);
    if (!os_error)
        os_error = pg_stamp_take(&f->stamp, f->fd);
    if (os_error)
        return pg_fail_os(err, PG_EIO, os_error, "%s: cannot be opened and read", f->path);
    /* Read-ahead would bring pages that nobody asked for and nobody drops. */
    if (!f->direct)
        posix_fadvise(f->fd, 0, 0, POSIX_FADV_RANDOM);
    return 0;
}

int pg_io_files_open(struct pg_io *io, const struct pg_io_options *opt, struct pg_err *err)
{
    PG_TRY(paths_copy(io, opt, err));
    for (int i = 0; i < io->n_files; i++) {
        struct pg_io_file *f = &io->files[i];
        PG_TRY(file_open(f, opt->buffered, err));
        if (opt->stamps)
            PG_TRY(pg_stamp_check(opt->stamps[i], f->fd, f->path, err));
    }
    return 0;
}

void pg_io_files_describe(struct pg_io *io, const char *backend)
{
    int n_direct = 0;
    for (int i = 0; i < io->n_files; i++)
        n_direct += io->files[i].direct;
    const char *how = n_direct == io->n_files ? "direct" : n_direct ? "mixed" : "buffered";
    snprintf(io->describe, sizeof(io->describe), "%s, %s", backend, how);
}

void pg_io_fini(struct pg_io *io)
{
    for (int i = 0; i < io->n_files; i++)
        if (io->files[i].fd >= 0)
            close(io->files[i].fd);
    free(io->files);
    free(io->path_text);
    free(io->flights);
}

int pg_io_open(struct pg_io **out, const struct pg_io_options *opt, struct pg_err *err)
{
    PG_ASSERT(opt->n_paths > 0);
    *out = NULL;
    if (opt->path == PG_IO_URING)
        return pg_io_open_uring(out, opt, err);
    if (opt->path == PG_IO_AUTO) {
        struct pg_err refused;
        int rc = pg_io_open_uring(out, opt, &refused);
        if (rc != PG_ENOTSUP) {
            if (rc && err)
                *err = refused;
            return rc;
        }
    }
    return pg_io_open_pread(out, opt, err);
}

/* ---- flights ---- */

struct pg_io_flight *pg_io_flight_start(struct pg_io *io, struct pg_read *r)
{
    struct pg_io_flight *f = io->free;
    PG_ASSERT(f && !f->in_use && io->n_flying < io->depth);
    io->free = f->next;
    *f = (struct pg_io_flight){
        .read = r,
        .size = (r->need + PG_PAGE - 1) / PG_PAGE * PG_PAGE,
        .direct = io->files && io->files[r->file].direct,
        .in_use = true,
    };
    r->os_error = 0;
    r->got = 0;
    r->begin_ns = io->ops->now(io);
    r->end_ns = 0;
    if (io->n_flying++ == 0)
        io->busy_since_ns = r->begin_ns;
    return f;
}

/* A direct read starts on a page, so the part of one that has arrived is read again. */
static size_t flight_at(const struct pg_io_flight *f)
{
    return f->direct ? f->got / PG_PAGE * PG_PAGE : f->got;
}

void *pg_io_flight_buf(const struct pg_io_flight *f)
{
    return (char *)f->read->buf + flight_at(f);
}

uint64_t pg_io_flight_offset(const struct pg_io_flight *f)
{
    return f->read->offset + flight_at(f);
}

size_t pg_io_flight_left(const struct pg_io_flight *f)
{
    return f->size - flight_at(f);
}

static bool flight_over(const struct pg_io *io, struct pg_io_flight *f, int os_error)
{
    const struct pg_read *r = f->read;
    f->os_error = os_error;
    if (!f->direct)
        posix_fadvise(io->files[r->file].fd, (off_t)r->offset, (off_t)f->size, POSIX_FADV_DONTNEED);
    return false;
}

bool pg_io_flight_advance(const struct pg_io *io, struct pg_io_flight *f, int64_t res)
{
    if (res == -EINTR || res == -EAGAIN)
        return ++f->tries < PG_IO_TRIES || flight_over(io, f, (int)-res);
    if (res < 0)
        return flight_over(io, f, (int)-res);
    PG_ASSERT(f->in_use && f->got < f->read->need);
    size_t end = flight_at(f) + PG_MIN((size_t)res, pg_io_flight_left(f));
    f->tries = end > f->got ? 0 : f->tries + 1;
    f->got = PG_MAX(f->got, end);
    if (f->got >= f->read->need)
        return flight_over(io, f, 0);
    if (res == 0 || f->tries >= PG_IO_TRIES)
        return flight_over(io, f, -1);
    return true;
}

void pg_io_flight_land(struct pg_io *io, struct pg_io_flight *f, uint64_t now_ns)
{
    struct pg_read *r = f->read;
    PG_ASSERT(f->in_use && io->n_flying > 0);
    PG_ASSERT(f->os_error || f->got >= r->need);
    r->os_error = f->os_error;
    r->got = f->got;
    r->end_ns = now_ns;
    r->next = NULL;
    *io->landed_tail = r;
    io->landed_tail = &r->next;
    if (--io->n_flying == 0)
        io->busy_ns += now_ns - io->busy_since_ns;
    f->in_use = false;
    f->next = io->free;
    io->free = f;
}

int pg_io_take(struct pg_io *io, struct pg_read **done, int max)
{
    int n = 0;
    while (n < max && io->landed) {
        struct pg_read *r = io->landed;
        io->landed = r->next;
        r->next = NULL;
        if (io->files)
            io->files[r->file].unchecked = true;
        done[n++] = r;
    }
    if (!io->landed)
        io->landed_tail = &io->landed;
    PG_ASSERT(n <= io->n_pending);
    io->n_pending -= n;
    return n;
}

uint64_t pg_io_busy_at(const struct pg_io *io, uint64_t now_ns)
{
    return io->busy_ns + (io->n_flying ? now_ns - io->busy_since_ns : 0);
}

/* ---- the public face ---- */

void pg_io_close(struct pg_io *io)
{
    if (io)
        io->ops->close(io);
}

int pg_io_depth(const struct pg_io *io)
{
    return io->depth;
}

int pg_io_n_pending(const struct pg_io *io)
{
    return io->n_pending;
}

bool pg_io_submit(struct pg_io *io, struct pg_read *r)
{
    PG_ASSERT(r->file >= 0 && (!io->files || r->file < io->n_files));
    PG_ASSERT(r->offset % PG_PAGE == 0 && r->size % PG_PAGE == 0);
    PG_ASSERT((uintptr_t)r->buf % PG_PAGE == 0);
    PG_ASSERT(r->need > 0 && r->need <= r->size && r->size <= INT32_MAX);
    PG_ASSERT(r->offset <= (uint64_t)INT64_MAX - r->size);
    if (io->n_pending == io->depth)
        return false;
    io->n_pending++;
    io->ops->submit(io, r);
    return true;
}

int pg_io_reap(struct pg_io *io, struct pg_read **done, int max, bool wait)
{
    if (!io->n_pending || max <= 0)
        return 0;
    return io->ops->reap(io, done, max, wait);
}

uint64_t pg_io_now(const struct pg_io *io)
{
    return io->ops->now(io);
}

const char *pg_io_describe(const struct pg_io *io)
{
    return io->describe;
}

uint64_t pg_io_busy_ns(const struct pg_io *io)
{
    return io->ops->busy_ns(io);
}

int pg_io_check(struct pg_io *io, struct pg_err *err)
{
    if (io->sim_changed)
        return pg_fail(err, PG_EIO, "simulated disk: changed while it was in use");
    for (int i = 0; i < io->n_files; i++) {
        struct pg_io_file *f = &io->files[i];
        if (f->unchecked)
            PG_TRY(pg_stamp_check(&f->stamp, f->fd, f->path, err));
        f->unchecked = false;
    }
    return 0;
}

int pg_io_error(const struct pg_io *io, const struct pg_read *r, struct pg_err *err)
{
    const char *name = io->files ? io->files[r->file].path : "simulated disk";
    if (r->os_error < 0)
        return pg_fail(err, PG_EIO,
                       "%s: read of %zu bytes at %" PRIu64 " failed: end of file (got %zu)", name,
                       r->need, r->offset, r->got);
    char reason[96];
    const char *text = strerror_r(r->os_error, reason, sizeof(reason));
    return pg_fail(err, PG_EIO, "%s: read of %zu bytes at %" PRIu64 " failed: %s (got %zu)", name,
                   r->need, r->offset, text, r->got);
}
