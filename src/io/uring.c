/* SPDX-License-Identifier: MIT
 * Reads by io_uring: one system call starts a read, none is needed to see that it has ended.
 *
 * The ring is set up without task-run flags, so completions appear in memory shared with the kernel
 * while the caller computes; they are collected at each submit and reap. A flight has at most one
 * entry in the ring, queued (written, not yet taken by the kernel) or in the kernel, and the ring
 * has an entry for each flight, so it cannot overflow.
 *
 * Where the kernel for a time takes no entry (it is short of memory), the queued ones are offered
 * again. Where it never takes them, they fail and the ring is not used again. A flight that the
 * kernel has is always waited for: its buffer is the kernel's.
 */
#include "io/io_impl.h"

#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <time.h>

#define N_REFUSALS 1000 /* a millisecond apart */

struct uring_io {
    struct pg_io base;
    struct io_uring ring;
    bool ring_open, files_registered;
    int n_queued, n_kernel;
    int n_refusals; /* in a row */
    int broken;     /* errno of the ring that is not used any more */
};

static void flight_queue(struct uring_io *u, struct pg_io_flight *f)
{
    int file = f->read->file;
    struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);
    PG_ASSERT(sqe);
    io_uring_prep_read(sqe, u->files_registered ? file : u->base.files[file].fd,
                       pg_io_flight_buf(f), (unsigned)pg_io_flight_left(f), pg_io_flight_offset(f));
    if (u->files_registered)
        sqe->flags |= IOSQE_FIXED_FILE;
    io_uring_sqe_set_data(sqe, f);
    u->n_queued++;
}

/* Offers what is queued to the kernel. Returns 0 or the errno of its refusal. */
static int flush(struct uring_io *u)
{
    while (u->n_queued) {
        int n = io_uring_submit(&u->ring);
        if (n <= 0)
            return n ? -n : EAGAIN;
        PG_ASSERT(n <= u->n_queued);
        u->n_queued -= n;
        u->n_kernel += n;
        u->n_refusals = 0;
    }
    return 0;
}

/* Takes all completions that are there. A read that is not whole goes on. */
static void collect(struct uring_io *u)
{
    struct io_uring_cqe *cqe;
    while (u->n_kernel && io_uring_peek_cqe(&u->ring, &cqe) == 0) {
        struct pg_io_flight *f = io_uring_cqe_get_data(cqe);
        int res = cqe->res;
        io_uring_cqe_seen(&u->ring, cqe);
        u->n_kernel--;
        if (pg_io_flight_advance(&u->base, f, res))
            flight_queue(u, f);
        else
            pg_io_flight_land(&u->base, f, pg_now_ns());
    }
}

/* The kernel has none of our reads and takes none: those that are queued end here. */
static void give_up(struct uring_io *u, int os_error)
{
    PG_ASSERT(os_error && !u->n_kernel);
    u->broken = os_error;
    u->n_queued = 0;
    for (int i = 0; i < u->base.depth; i++) {
        struct pg_io_flight *f = &u->base.flights[i];
        if (!f->in_use)
            continue;
        f->os_error = os_error;
        pg_io_flight_land(&u->base, f, pg_now_ns());
    }
}

static void pause_ms(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

static bool is_passing(int os_error)
{
    return os_error == EAGAIN || os_error == EINTR || os_error == EBUSY || os_error == ENOMEM;
}

/* Sleeps until something has changed: a completion, or room in the kernel. */
static void wait_some(struct uring_io *u)
{
    struct io_uring_cqe *cqe;
    int refused = flush(u);
    if (u->n_kernel) {
        int rc = io_uring_wait_cqe(&u->ring, &cqe);
        if (rc && rc != -EINTR)
            pause_ms();
    } else if (refused && (!is_passing(refused) || ++u->n_refusals > N_REFUSALS)) {
        give_up(u, refused);
    } else if (refused) {
        pause_ms();
    }
}

static void uring_submit(struct pg_io *io, struct pg_read *r)
{
    struct uring_io *u = (struct uring_io *)io;
    collect(u);
    struct pg_io_flight *f = pg_io_flight_start(io, r);
    if (u->broken) {
        f->os_error = u->broken;
        pg_io_flight_land(io, f, pg_now_ns());
        return;
    }
    flight_queue(u, f);
    flush(u);
}

static int uring_reap(struct pg_io *io, struct pg_read **done, int max, bool wait)
{
    struct uring_io *u = (struct uring_io *)io;
    for (;;) {
        collect(u);
        flush(u);
        int n = pg_io_take(io, done, max);
        if (n || !wait)
            return n;
        wait_some(u);
    }
}

static uint64_t uring_now(const struct pg_io *io)
{
    (void)io;
    return pg_now_ns();
}

static uint64_t uring_busy_ns(const struct pg_io *io)
{
    return pg_io_busy_at(io, pg_now_ns());
}

static void uring_close(struct pg_io *io)
{
    struct uring_io *u = (struct uring_io *)io;
    while (u->n_kernel || u->n_queued) {
        wait_some(u);
        collect(u);
    }
    if (u->ring_open)
        io_uring_queue_exit(&u->ring);
    pg_io_fini(io);
    free(u);
}

static const struct pg_io_ops uring_ops = {
    .close = uring_close,
    .submit = uring_submit,
    .reap = uring_reap,
    .now = uring_now,
    .busy_ns = uring_busy_ns,
};

/* Saves the kernel a reference count for each read; going on without is fine. */
static int files_register(struct uring_io *u, struct pg_err *err)
{
    int *fds = pg_calloc((size_t)u->base.n_files, sizeof(*fds));
    if (!fds)
        return pg_fail(err, PG_ENOMEM, "no memory for %d file numbers", u->base.n_files);
    for (int i = 0; i < u->base.n_files; i++)
        fds[i] = u->base.files[i].fd;
    u->files_registered = !io_uring_register_files(&u->ring, fds, (unsigned)u->base.n_files);
    free(fds);
    return 0;
}

/* A real read of each file through the ring: sandboxes may allow the set-up and refuse the rest. */
static int files_prove(struct uring_io *u, struct pg_err *err)
{
    _Alignas(PG_PAGE) unsigned char page[PG_PAGE];
    for (int i = 0; i < u->base.n_files; i++) {
        struct pg_read r = {.file = i, .size = PG_PAGE, .need = 1, .buf = page}, *done;
        pg_io_submit(&u->base, &r);
        while (!pg_io_reap(&u->base, &done, 1, true))
            continue;
        if (r.os_error > 0)
            return pg_fail_os(err, PG_ENOTSUP, r.os_error, "%s: cannot be read by io_uring",
                              u->base.files[i].path);
    }
    u->base.busy_ns = 0;
    return 0;
}

static int uring_open(struct uring_io *u, const struct pg_io_options *opt, struct pg_err *err)
{
    PG_TRY(pg_io_init(&u->base, opt->depth, err));
    PG_TRY(pg_io_files_open(&u->base, opt, err));
    int rc = io_uring_queue_init((unsigned)u->base.depth, &u->ring, 0);
    if (rc)
        return pg_fail_os(err, PG_ENOTSUP, -rc, "io_uring is refused by the kernel");
    u->ring_open = true;
    PG_TRY(files_register(u, err));
    PG_TRY(files_prove(u, err));
    pg_io_files_describe(&u->base, "io_uring");
    return 0;
}

int pg_io_open_uring(struct pg_io **out, const struct pg_io_options *opt, struct pg_err *err)
{
    struct uring_io *u = pg_calloc(1, sizeof(*u));
    *out = NULL;
    if (!u)
        return pg_fail(err, PG_ENOMEM, "no memory for io_uring");
    u->base.ops = &uring_ops;
    u->base.landed_tail = &u->base.landed;
    int rc = uring_open(u, opt, err);
    if (rc)
        uring_close(&u->base);
    else
        *out = &u->base;
    return rc;
}
