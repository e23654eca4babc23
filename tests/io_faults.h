/* SPDX-License-Identifier: MIT
 * Faults in real reads, put in between our code and the operating system by the linker: a program
 * that includes this file once is linked with PG_WRAP_IO (see CMakeLists.txt), and its calls of
 * open, pread, io_uring_queue_init and io_uring_submit come here first.
 *
 * A transfer is one pread or one entry of the ring. For io_uring the entry itself is changed before
 * the kernel sees it (a smaller length, no file), so that completions are short or fail for real.
 */
#ifndef PG_TESTS_IO_FAULTS_H
#define PG_TESTS_IO_FAULTS_H

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>
#include <unistd.h>

enum io_fault { IO_FAULT_NONE, IO_FAULT_ERROR, IO_FAULT_SHORT, IO_FAULT_LATE, IO_FAULT_EOF };

struct io_faults {
    /* The submitting thread's. */
    bool refuse_direct_open;                    /* with EINVAL, as file systems do */
    int uring_init_error;                       /* negative errno */
    int uring_submit_error, uring_submit_times; /* negative errno, how often; -1: for ever */

    /* Under the lock, since reads may be under way when they are set. */
    bool refuse_direct_read;
    enum io_fault kind;
    uint64_t at, times; /* the transfers that it happens to: from the at-th (from 1) on */
    size_t short_bytes;
    uint64_t n_transfers, n_injected;
    void (*each)(void); /* called before each pread, if not NULL; set while nothing is read */
};
static struct io_faults io_faults;
static pthread_mutex_t io_faults_lock = PTHREAD_MUTEX_INITIALIZER;

static inline void io_faults_set(enum io_fault kind, uint64_t at, uint64_t times)
{
    pthread_mutex_lock(&io_faults_lock);
    io_faults = (struct io_faults){.kind = kind, .at = at, .times = times, .short_bytes = 4096};
    pthread_mutex_unlock(&io_faults_lock);
}

/* Returns how often something was put in since the last set or clear. */
static inline uint64_t io_faults_clear(void)
{
    pthread_mutex_lock(&io_faults_lock);
    uint64_t n = io_faults.n_injected;
    io_faults = (struct io_faults){0};
    pthread_mutex_unlock(&io_faults_lock);
    return n;
}

static inline void io_faults_count(void)
{
    pthread_mutex_lock(&io_faults_lock);
    io_faults.n_injected++;
    pthread_mutex_unlock(&io_faults_lock);
}

static inline bool io_faults_refuse_read(int fd)
{
    bool direct = fcntl(fd, F_GETFL) & O_DIRECT;
    pthread_mutex_lock(&io_faults_lock);
    bool refused = io_faults.refuse_direct_read && direct;
    io_faults.n_injected += refused;
    pthread_mutex_unlock(&io_faults_lock);
    return refused;
}

/* What happens to the transfer that begins now. Short ones bring *most bytes at most. */
static inline enum io_fault io_faults_next(size_t *most)
{
    pthread_mutex_lock(&io_faults_lock);
    struct io_faults *f = &io_faults;
    uint64_t nth = ++f->n_transfers;
    enum io_fault kind = nth >= f->at && nth - f->at < f->times ? f->kind : IO_FAULT_NONE;
    f->n_injected += kind != IO_FAULT_NONE;
    *most = f->short_bytes;
    pthread_mutex_unlock(&io_faults_lock);
    if (kind == IO_FAULT_LATE)
        nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
    return kind;
}

int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);
ssize_t __real_pread(int fd, void *buf, size_t n, off_t at);
ssize_t __wrap_pread(int fd, void *buf, size_t n, off_t at);

int __wrap_open(const char *path, int flags, ...)
{
    va_list ap;
    va_start(ap, flags);
    mode_t mode = flags & O_CREAT ? va_arg(ap, mode_t) : 0;
    va_end(ap);
    if (io_faults.refuse_direct_open && flags & O_DIRECT) {
        io_faults_count();
        errno = EINVAL;
        return -1;
    }
    return __real_open(path, flags, mode);
}

ssize_t __wrap_pread(int fd, void *buf, size_t n, off_t at)
{
    if (io_faults_refuse_read(fd)) {
        errno = EINVAL;
        return -1;
    }
    size_t most;
    if (io_faults.each)
        io_faults.each();
    switch (io_faults_next(&most)) {
    case IO_FAULT_ERROR:
        errno = EIO;
        return -1;
    case IO_FAULT_SHORT:
        return __real_pread(fd, buf, n < most ? n : most, at);
    case IO_FAULT_EOF:
        return 0;
    default:
        return __real_pread(fd, buf, n, at);
    }
}

#if __has_include(<liburing.h>)
#include <liburing.h>

int __real_io_uring_queue_init(unsigned entries, struct io_uring *ring, unsigned flags);
int __wrap_io_uring_queue_init(unsigned entries, struct io_uring *ring, unsigned flags);
int __real_io_uring_submit(struct io_uring *ring);
int __wrap_io_uring_submit(struct io_uring *ring);

int __wrap_io_uring_queue_init(unsigned entries, struct io_uring *ring, unsigned flags)
{
    if (io_faults.uring_init_error) {
        io_faults_count();
        return io_faults.uring_init_error;
    }
    return __real_io_uring_queue_init(entries, ring, flags);
}

/* Entries between sqe_head and sqe_tail are written and not yet shown to the kernel. */
int __wrap_io_uring_submit(struct io_uring *ring)
{
    if (io_faults.uring_submit_times) {
        io_faults.uring_submit_times -= io_faults.uring_submit_times > 0;
        io_faults_count();
        return io_faults.uring_submit_error;
    }
    for (unsigned i = ring->sq.sqe_head; i != ring->sq.sqe_tail; i++) {
        struct io_uring_sqe *sqe = &ring->sq.sqes[i & (ring->sq.ring_entries - 1)];
        size_t most;
        switch (io_faults_next(&most)) {
        case IO_FAULT_ERROR:
            sqe->flags &= (unsigned char)~IOSQE_FIXED_FILE;
            sqe->fd = -1;
            break;
        case IO_FAULT_SHORT:
            if (sqe->len > most)
                sqe->len = (unsigned)most;
            break;
        case IO_FAULT_EOF:
            sqe->len = 0;
            break;
        default:
            break;
        }
    }
    return __real_io_uring_submit(ring);
}

#endif
#endif
