/* SPDX-License-Identifier: MIT
 * Reads by a few threads that block in pread: for kernels and containers that refuse io_uring.
 *
 * One lock guards the queue, the flights and the landed list. A thread takes the oldest flight,
 * reads without the lock until it is whole, lands it under the lock. `work` wakes a thread,
 * `finished` wakes the reaper.
 */
#include "io/io_impl.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define N_THREADS   8
#define STACK_BYTES (256u << 10)

struct pread_io {
    struct pg_io base;
    pthread_mutex_t lock;
    pthread_cond_t work, finished;
    pthread_t threads[N_THREADS];
    int n_threads;

    /* Under the lock, with the flights and lists of `base`. */
    struct pg_io_flight *queue, **queue_tail;
    bool stopping;
};

static struct pg_io_flight *queue_pop(struct pread_io *p)
{
    while (!p->queue && !p->stopping)
        pthread_cond_wait(&p->work, &p->lock);
    struct pg_io_flight *f = p->queue;
    if (f) {
        p->queue = f->next;
        if (!p->queue)
            p->queue_tail = &p->queue;
    }
    return f;
}

static void flight_read(struct pread_io *p, struct pg_io_flight *f)
{
    int fd = p->base.files[f->read->file].fd;
    ssize_t n;
    do {
        n = pread(fd, pg_io_flight_buf(f), pg_io_flight_left(f), (off_t)pg_io_flight_offset(f));
        if (n < 0)
            n = -errno;
    } while (pg_io_flight_advance(&p->base, f, n));
}

static void *thread_main(void *arg)
{
    struct pread_io *p = arg;
    struct pg_io_flight *f;
    pthread_mutex_lock(&p->lock);
    while ((f = queue_pop(p))) {
        pthread_mutex_unlock(&p->lock);
        flight_read(p, f);
        pthread_mutex_lock(&p->lock);
        pg_io_flight_land(&p->base, f, pg_now_ns());
        pthread_cond_signal(&p->finished);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

static void pread_submit(struct pg_io *io, struct pg_read *r)
{
    struct pread_io *p = (struct pread_io *)io;
    pthread_mutex_lock(&p->lock);
    struct pg_io_flight *f = pg_io_flight_start(io, r);
    *p->queue_tail = f;
    p->queue_tail = &f->next;
    pthread_cond_signal(&p->work);
    pthread_mutex_unlock(&p->lock);
}

static int pread_reap(struct pg_io *io, struct pg_read **done, int max, bool wait)
{
    struct pread_io *p = (struct pread_io *)io;
    pthread_mutex_lock(&p->lock);
    while (wait && !io->landed)
        pthread_cond_wait(&p->finished, &p->lock);
    int n = pg_io_take(io, done, max);
    pthread_mutex_unlock(&p->lock);
    return n;
}

static uint64_t pread_now(const struct pg_io *io)
{
    (void)io;
    return pg_now_ns();
}

static uint64_t pread_busy_ns(const struct pg_io *io)
{
    struct pread_io *p = (struct pread_io *)io;
    pthread_mutex_lock(&p->lock);
    uint64_t ns = pg_io_busy_at(io, pg_now_ns());
    pthread_mutex_unlock(&p->lock);
    return ns;
}

/* The threads empty the queue before they look at `stopping`. */
static void pread_close(struct pg_io *io)
{
    struct pread_io *p = (struct pread_io *)io;
    pthread_mutex_lock(&p->lock);
    p->stopping = true;
    pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->lock);
    for (int i = 0; i < p->n_threads; i++)
        pthread_join(p->threads[i], NULL);
    pthread_cond_destroy(&p->finished);
    pthread_cond_destroy(&p->work);
    pthread_mutex_destroy(&p->lock);
    pg_io_fini(io);
    free(p);
}

static const struct pg_io_ops pread_ops = {
    .close = pread_close,
    .submit = pread_submit,
    .reap = pread_reap,
    .now = pread_now,
    .busy_ns = pread_busy_ns,
};

/* Signals are the program's: the threads block them all. */
static int threads_start(struct pread_io *p, struct pg_err *err)
{
    sigset_t all, before;
    pthread_attr_t attr;
    int rc = pthread_attr_init(&attr);
    if (rc)
        return pg_fail_os(err, PG_ENOMEM, rc, "reading threads");
    pthread_attr_setstacksize(&attr, STACK_BYTES);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int n = PG_MIN(N_THREADS, p->base.depth);
    while (!rc && p->n_threads < n) {
        rc = pthread_create(&p->threads[p->n_threads], &attr, thread_main, p);
        p->n_threads += !rc;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    if (rc)
        return pg_fail_os(err, PG_ESYSTEM, rc, "cannot start %d reading threads", n);
    return 0;
}

static int pread_open(struct pread_io *p, const struct pg_io_options *opt, struct pg_err *err)
{
    PG_TRY(pg_io_init(&p->base, opt->depth, err));
    PG_TRY(pg_io_files_open(&p->base, opt, err));
    PG_TRY(threads_start(p, err));
    char name[16];
    snprintf(name, sizeof(name), "pread x%d", p->n_threads);
    pg_io_files_describe(&p->base, name);
    return 0;
}

int pg_io_open_pread(struct pg_io **out, const struct pg_io_options *opt, struct pg_err *err)
{
    struct pread_io *p = pg_calloc(1, sizeof(*p));
    if (!p)
        return pg_fail(err, PG_ENOMEM, "no memory for the reading threads");
    p->base.ops = &pread_ops;
    p->queue_tail = &p->queue;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->work, NULL);
    pthread_cond_init(&p->finished, NULL);
    int rc = pread_open(p, opt, err);
    if (rc)
        pread_close(&p->base);
    else
        *out = &p->base;
    return rc;
}
