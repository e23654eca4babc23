/* SPDX-License-Identifier: MIT
 * The reading layer: every backend against the same checks, then what is particular to each.
 */
#include "helpers.h"

#include "base/os.h"
#include "io/io.h"
#include "io_faults.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define N_SLOTS    16
#define SLOT_BYTES (64u * PG_PAGE)
#define TAIL       1234u
#define FILE_BYTES (1280u * PG_PAGE + TAIL)

struct fixture {
    char path[64];
    char *arena; /* [N_SLOTS][SLOT_BYTES] */
    struct pg_read reads[N_SLOTS];
    uint64_t random;
};

/* The file holds what the simulated disk would give, so that one check serves all. */
static void file_write(const char *path, size_t n)
{
    char *text = malloc(n);
    assert_non_null(text);
    pg_io_sim_fill(0, 0, text, n);
    put_file(path, text, n);
    free(text);
}

static int setup(void **state)
{
    struct fixture *x = calloc(1, sizeof(*x));
    assert_non_null(x);
    snprintf(x->path, sizeof(x->path), "test_io.%d.bin", (int)getpid());
    file_write(x->path, FILE_BYTES);
    x->arena = pg_pages_map((size_t)N_SLOTS * SLOT_BYTES);
    assert_non_null(x->arena);
    x->random = 1;
    *state = x;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *x = *state;
    unlink(x->path);
    pg_pages_unmap(x->arena, (size_t)N_SLOTS * SLOT_BYTES);
    free(x);
    return 0;
}

static uint64_t draw(struct fixture *x, uint64_t n)
{
    x->random = x->random * 6364136223846793005u + 1442695040888963407u;
    return (x->random >> 33) % n;
}

/* ---- the backends ---- */

enum backend {
    URING,
    URING_BUFFERED,
    PREAD,
    PREAD_BUFFERED,
    SIM,
    SIM_SHUFFLED, /* and in pieces */
    N_BACKENDS
};

static const struct pg_io_sim sim_plain = {.seed = 7,
                                           .latency_ns = 80000,
                                           .bytes_per_s = 1000000000,
                                           .file_bytes = FILE_BYTES,
                                           .depth = N_SLOTS};
static const struct pg_io_sim sim_shuffled = {.seed = 8,
                                              .latency_ns = 80000,
                                              .jitter_ns = 50000,
                                              .bytes_per_s = 1000000000,
                                              .file_bytes = FILE_BYTES,
                                              .depth = N_SLOTS,
                                              .shuffle = true,
                                              .short_rate = 0.5};

static int open_path(struct pg_io **io, const char *path, enum pg_io_path how, bool buffered,
                     struct pg_err *err)
{
    const char *const paths[1] = {path};
    struct pg_io_options opt = {
        .paths = paths, .n_paths = 1, .path = how, .depth = N_SLOTS, .buffered = buffered};
    return pg_io_open(io, &opt, err);
}

/* NULL: this machine refuses io_uring. */
static struct pg_io *backend_open(struct fixture *x, enum backend b)
{
    struct pg_io *io = NULL;
    struct pg_err err = {0};
    int rc;
    if (b == SIM || b == SIM_SHUFFLED)
        rc = pg_io_open_sim(&io, b == SIM ? &sim_plain : &sim_shuffled, &err);
    else
        rc = open_path(&io, x->path, b <= URING_BUFFERED ? PG_IO_URING : PG_IO_PREAD,
                       b == URING_BUFFERED || b == PREAD_BUFFERED, &err);
    if (rc == PG_ENOTSUP && b <= URING_BUFFERED) {
        static bool said;
        if (!said)
            say_skipped("io_uring", "%s", err.text);
        said = true;
        return NULL;
    }
    if (rc)
        fail_msg("%s", err.text);
    return io;
}

#define FOR_EACH_BACKEND(b, io, x)                                                                 \
    for (int b = 0; b < N_BACKENDS; b++)                                                           \
        for (struct pg_io *io = backend_open(x, (enum backend)b); io; pg_io_close(io), io = NULL)

static void read_set(struct fixture *x, int slot, uint64_t offset, size_t size, size_t need)
{
    x->reads[slot] = (struct pg_read){.offset = offset,
                                      .size = size,
                                      .need = need,
                                      .buf = x->arena + (size_t)slot * SLOT_BYTES,
                                      .user = x};
    memset(x->reads[slot].buf, 0x5a, size);
}

/* Somewhere in the file; now and then its end. */
static void read_draw(struct fixture *x, int slot)
{
    uint64_t n_pages = 1 + draw(x, SLOT_BYTES / PG_PAGE);
    uint64_t last = FILE_BYTES / PG_PAGE + 1 - n_pages;
    uint64_t page = draw(x, 8) ? draw(x, last) : last;
    size_t size = n_pages * PG_PAGE;
    read_set(x, slot, page * PG_PAGE, size, page == last ? size - PG_PAGE + TAIL : size);
}

static void read_check(const struct pg_read *r)
{
    static char want[SLOT_BYTES];
    assert_int_equal(r->os_error, 0);
    assert_true(r->got >= r->need && r->got <= r->size);
    assert_true(r->begin_ns <= r->end_ns && r->end_ns > 0);
    pg_io_sim_fill(0, r->offset, want, r->need);
    assert_memory_equal(r->buf, want, r->need);
}

static struct pg_read *read_one(struct pg_io *io, struct fixture *x, uint64_t offset, size_t size,
                                size_t need)
{
    struct pg_read *done = NULL;
    read_set(x, 0, offset, size, need);
    assert_true(pg_io_submit(io, &x->reads[0]));
    assert_int_equal(pg_io_reap(io, &done, 1, true), 1);
    assert_ptr_equal(done, &x->reads[0]);
    assert_int_equal(pg_io_n_pending(io), 0);
    return done;
}

/* ---- checks of all backends ---- */

static void reads_in_flight(struct fixture *x, struct pg_io *io, int n_reads)
{
    struct pg_read *done[N_SLOTS];
    int n_started = 0, n_done = 0;
    uint64_t busy_ns = 0;
    for (; n_started < N_SLOTS; n_started++) {
        read_draw(x, n_started);
        assert_true(pg_io_submit(io, &x->reads[n_started]));
        assert_int_equal(pg_io_n_pending(io), n_started + 1);
    }
    while (n_done < n_reads) {
        int max = 1 + (int)draw(x, N_SLOTS);
        int n = pg_io_reap(io, done, max, draw(x, 4) != 0);
        assert_true(n >= 0 && n <= max);
        for (int i = 0; i < n; i++) {
            read_check(done[i]);
            assert_ptr_equal(done[i]->user, x);
            if (n_started == n_reads)
                continue;
            read_draw(x, (int)(done[i] - x->reads));
            assert_true(pg_io_submit(io, done[i]));
            n_started++;
        }
        n_done += n;
        assert_true(pg_io_busy_ns(io) >= busy_ns);
        busy_ns = pg_io_busy_ns(io);
    }
    assert_int_equal(pg_io_n_pending(io), 0);
    assert_true(busy_ns > 0 && busy_ns <= pg_io_now(io));
}

static void test_contents(void **state)
{
    struct fixture *x = *state;
    FOR_EACH_BACKEND(b, io, x)
    {
        assert_int_equal(pg_io_depth(io), N_SLOTS);
        reads_in_flight(x, io, 1000);
    }
}

static void test_end_of_file(void **state)
{
    struct fixture *x = *state;
    uint64_t last = FILE_BYTES / PG_PAGE * PG_PAGE;
    struct pg_err err;
    FOR_EACH_BACKEND(b, io, x)
    {
        read_check(read_one(io, x, last, PG_PAGE, TAIL));
        read_check(read_one(io, x, last - PG_PAGE, 2 * PG_PAGE, PG_PAGE + TAIL));

        struct pg_read *r = read_one(io, x, last, PG_PAGE, TAIL + 1);
        assert_int_equal(r->os_error, -1);
        assert_int_equal(r->got, TAIL);
        assert_int_equal(pg_io_error(io, r, &err), PG_EIO);
        assert_non_null(strstr(err.text, ": read of 1235 bytes at 5242880 failed: end of file "
                                         "(got 1234)"));

        r = read_one(io, x, last + 5 * PG_PAGE, PG_PAGE, PG_PAGE);
        assert_int_equal(r->os_error, -1);
        assert_int_equal(r->got, 0);

        reads_in_flight(x, io, 100); /* it works on after an error */
    }
}

static void test_full(void **state)
{
    struct fixture *x = *state;
    struct pg_read extra = {.size = PG_PAGE, .need = PG_PAGE, .buf = x->arena}, *done[N_SLOTS];
    FOR_EACH_BACKEND(b, io, x)
    {
        assert_int_equal(pg_io_reap(io, done, N_SLOTS, true), 0); /* none pending: no waiting */
        for (int i = 0; i < N_SLOTS; i++) {
            read_draw(x, i);
            assert_true(pg_io_submit(io, &x->reads[i]));
        }
        assert_false(pg_io_submit(io, &extra));
        for (int n = 0; n < N_SLOTS;)
            n += pg_io_reap(io, done, N_SLOTS, true);
        assert_int_equal(pg_io_reap(io, done, N_SLOTS, true), 0);
        assert_true(pg_io_submit(io, &extra));
        assert_int_equal(pg_io_reap(io, done, N_SLOTS, true), 1);
        read_check(&extra);
    }
}

/* Close waits, so the buffers are the caller's again (the sanitizers watch). */
static void test_close_under_way(void **state)
{
    struct fixture *x = *state;
    for (int b = 0; b < N_BACKENDS; b++) {
        struct pg_io *io = backend_open(x, (enum backend)b);
        if (!io)
            continue;
        for (int i = 0; i < N_SLOTS; i++) {
            read_draw(x, i);
            assert_true(pg_io_submit(io, &x->reads[i]));
        }
        pg_io_close(io);
        memset(x->arena, 0, (size_t)N_SLOTS * SLOT_BYTES);
        for (unsigned i = 0; i < N_SLOTS * SLOT_BYTES; i += PG_PAGE)
            assert_int_equal(x->arena[i], 0);
    }
    pg_io_close(NULL);
}

static void test_busy_is_not_idle(void **state)
{
    struct fixture *x = *state;
    FOR_EACH_BACKEND(b, io, x)
    {
        read_one(io, x, 0, SLOT_BYTES, SLOT_BYTES);
        uint64_t busy_ns = pg_io_busy_ns(io), now_ns = pg_io_now(io);
        assert_true(busy_ns > 0);
        if (b < SIM)
            nanosleep(&(struct timespec){.tv_nsec = 3000000}, NULL);
        else
            pg_io_sim_advance(io, 3000000);
        assert_true(pg_io_now(io) >= now_ns + 3000000);
        assert_int_equal(pg_io_busy_ns(io), busy_ns);
    }
}

/* ---- opening ---- */

static void test_refused_files(void **state)
{
    struct fixture *x = *state;
    static const enum pg_io_path how[] = {PG_IO_AUTO, PG_IO_URING, PG_IO_PREAD};
    char fifo[80];
    (void)snprintf(fifo, sizeof(fifo), "%s.fifo", x->path);
    assert_int_equal(mkfifo(fifo, 0600), 0);
    const char *bad[] = {"no such file.gguf", ".", fifo};
    const char *why[] = {"No such file or directory", "Is a directory", "Illegal seek"};
    for (size_t h = 0; h < PG_COUNT(how); h++)
        for (size_t i = 0; i < PG_COUNT(bad); i++) {
            struct pg_io *io = (struct pg_io *)x;
            struct pg_err err = {0};
            assert_int_equal(open_path(&io, bad[i], how[h], false, &err), PG_EIO);
            assert_null(io);
            assert_int_equal(err.code, PG_EIO);
            assert_non_null(strstr(err.text, bad[i]));
            assert_non_null(strstr(err.text, why[i]));
        }
    unlink(fifo);
}

/* The second of two files is missing: the first is closed again. */
static void test_half_open(void **state)
{
    struct fixture *x = *state;
    const char *paths[] = {x->path, "no such file"};
    struct pg_io_options opt = {.paths = paths, .n_paths = 2};
    struct pg_err err;
    int next = dup(0);
    close(next);
    for (int how = PG_IO_AUTO; how <= PG_IO_PREAD; how++) {
        struct pg_io *io;
        opt.path = (enum pg_io_path)how;
        assert_int_equal(pg_io_open(&io, &opt, &err), PG_EIO);
    }
    int after = dup(0);
    close(after);
    assert_int_equal(next, after);
}

static void open_and_read(struct fixture *x, const char *path, enum pg_io_path how,
                          const char *describe)
{
    struct pg_io *io;
    struct pg_err err;
    must(open_path(&io, path, how, false, &err), &err);
    if (describe)
        assert_string_equal(pg_io_describe(io), describe);
    reads_in_flight(x, io, 100);
    pg_io_close(io);
}

static bool have_uring(struct fixture *x)
{
    struct pg_io *io = backend_open(x, URING);
    pg_io_close(io);
    return io != NULL;
}

static void test_direct_refused(void **state)
{
    struct fixture *x = *state;
    for (int at_read = 0; at_read < 2; at_read++) {
        io_faults_clear();
        io_faults.refuse_direct_open = !at_read;
        io_faults.refuse_direct_read = at_read;
        open_and_read(x, x->path, PG_IO_PREAD, "pread x8, buffered");
        assert_true(io_faults.n_injected > 0);
        if (have_uring(x))
            open_and_read(x, x->path, PG_IO_URING, "io_uring, buffered");
    }
    io_faults_clear();
    open_and_read(x, x->path, PG_IO_PREAD, NULL);
}

static void test_uring_refused(void **state)
{
    struct fixture *x = *state;
    static const int why[] = {-EPERM, -ENOSYS, -ENOMEM};
    if (!have_uring(x))
        skip_because("io_uring is not there to be refused");
    for (size_t i = 0; i < PG_COUNT(why); i++) {
        struct pg_io *io;
        struct pg_err err;
        io_faults_clear();
        io_faults.uring_init_error = why[i];
        open_and_read(x, x->path, PG_IO_AUTO, NULL);
        assert_int_equal(io_faults.n_injected, 1);
        assert_int_equal(open_path(&io, x->path, PG_IO_URING, false, &err), PG_ENOTSUP);
        assert_non_null(strstr(err.text, "io_uring"));
    }
    /* The set-up is allowed, reading is not. */
    io_faults_set(IO_FAULT_ERROR, 2, 1); /* the first transfer is pread's */
    struct pg_io *io;
    struct pg_err err;
    assert_int_equal(open_path(&io, x->path, PG_IO_AUTO, false, &err), 0);
    assert_int_equal(io_faults.n_injected, 1);
    assert_memory_equal(pg_io_describe(io), "pread x8", 8);
    pg_io_close(io);
    io_faults_clear();
}

static void test_tmpfs(void **state)
{
    struct fixture *x = *state;
    char path[64];
    struct stat st;
    if (stat("/dev/shm", &st) || access("/dev/shm", W_OK))
        skip_because("/dev/shm cannot be written to");
    (void)snprintf(path, sizeof(path), "/dev/shm/test_io.%d.bin", (int)getpid());
    file_write(path, FILE_BYTES);
    open_and_read(x, path, PG_IO_AUTO, NULL);
    open_and_read(x, path, PG_IO_PREAD, NULL);
    unlink(path);
}

/* ---- faults of real reads ---- */

static void fault_check(struct fixture *x, enum backend b, enum io_fault kind, int want_error)
{
    struct pg_read *r;
    struct pg_io *io = backend_open(x, b);
    if (!io)
        return;
    io_faults_set(kind, 1, 1);
    r = read_one(io, x, 4 * PG_PAGE, SLOT_BYTES, SLOT_BYTES);
    assert_int_equal(io_faults.n_injected, 1);
    if (!want_error)
        read_check(r);
    else if (want_error < 0)
        assert_int_equal(r->os_error, -1);
    else
        assert_true(r->os_error > 0);
    read_check(read_one(io, x, 4 * PG_PAGE, SLOT_BYTES, SLOT_BYTES));
    io_faults_set(IO_FAULT_SHORT, 1, UINT64_MAX); /* every transfer brings a page */
    read_check(read_one(io, x, 0, SLOT_BYTES, SLOT_BYTES));
    assert_true(io_faults.n_injected >= SLOT_BYTES / PG_PAGE);
    io_faults_clear();
    pg_io_close(io);
}

static void test_faults(void **state)
{
    for (int b = URING; b <= PREAD_BUFFERED; b++) {
        fault_check(*state, (enum backend)b, IO_FAULT_ERROR, EIO);
        fault_check(*state, (enum backend)b, IO_FAULT_SHORT, 0);
        fault_check(*state, (enum backend)b, IO_FAULT_LATE, 0);
        fault_check(*state, (enum backend)b, IO_FAULT_EOF, -1);
    }
}

/* The part of a page that has come is read again by direct reads, and not by the others. */
static void test_odd_pieces(void **state)
{
    struct fixture *x = *state;
    struct pg_io *io = backend_open(x, PREAD_BUFFERED);
    io_faults_set(IO_FAULT_SHORT, 1, 40);
    io_faults.short_bytes = 1001;
    read_check(read_one(io, x, 0, SLOT_BYTES, SLOT_BYTES));
    assert_int_equal(io_faults.n_injected, 40);
    io_faults_clear();
    pg_io_close(io);
}

static void test_truncated_while_open(void **state)
{
    struct fixture *x = *state;
    FOR_EACH_BACKEND(b, io, x)
    {
        if (b >= SIM)
            continue;
        file_write(x->path, FILE_BYTES);
        read_check(read_one(io, x, 100 * PG_PAGE, SLOT_BYTES, SLOT_BYTES));
        assert_int_equal(truncate(x->path, 101 * PG_PAGE), 0);
        struct pg_read *r = read_one(io, x, 100 * PG_PAGE, SLOT_BYTES, SLOT_BYTES);
        assert_int_equal(r->os_error, -1);
        assert_int_equal(r->got, PG_PAGE);
    }
    file_write(x->path, FILE_BYTES);
}

/* Pages of the file that are in the page cache. */
static int n_cached(const char *path)
{
    unsigned char there[FILE_BYTES / PG_PAGE + 1];
    int n = 0, fd = open(path, O_RDONLY);
    void *p = mmap(NULL, FILE_BYTES, PROT_READ, MAP_SHARED, fd, 0);
    assert_true(p != MAP_FAILED);
    assert_int_equal(mincore(p, FILE_BYTES, there), 0);
    for (size_t i = 0; i < sizeof(there); i++)
        n += there[i] & 1;
    munmap(p, FILE_BYTES);
    close(fd);
    return n;
}

/* Neither direct nor buffered reads leave the file in the page cache. */
static void rewrite(const char *path, const char *mode)
{
    FILE *f = fopen(path, mode);
    assert_non_null(f);
    assert_int_equal(fputc('x', f), 'x');
    assert_int_equal(fclose(f), 0);
}

/* A file is asked about once it has been read. Written to in place, it has changed; another one
 * under its name is none of ours. */
static void test_changed(void **state)
{
    struct fixture *x = *state;
    char path[80], other[80];
    snprintf(path, sizeof(path), "%s.a", x->path);
    snprintf(other, sizeof(other), "%s.b", x->path);
    for (int how = PG_IO_AUTO; how <= PG_IO_PREAD; how++) {
        struct pg_io *io;
        struct pg_err err;
        file_write(path, 8 * PG_PAGE);
        file_write(other, 8 * PG_PAGE);
        int rc = open_path(&io, path, (enum pg_io_path)how, false, &err);
        if (rc == PG_ENOTSUP) {
            say_skipped(__func__, "%s", err.text);
            continue;
        }
        assert_int_equal(rc, 0);
        read_one(io, x, 0, PG_PAGE, PG_PAGE);
        assert_int_equal(rename(other, path), 0);
        read_one(io, x, 0, PG_PAGE, PG_PAGE);
        assert_int_equal(pg_io_check(io, &err), 0);
        pg_io_close(io);

        assert_int_equal(open_path(&io, path, (enum pg_io_path)how, false, &err), 0);
        read_one(io, x, 0, PG_PAGE, PG_PAGE);
        assert_int_equal(pg_io_check(io, &err), 0);
        rewrite(path, how == PG_IO_PREAD ? "ab" : "r+b");
        assert_int_equal(pg_io_check(io, &err), 0); /* nothing of it has been read since */
        for (int i = 0; i < 2; i++) {
            read_one(io, x, 0, PG_PAGE, PG_PAGE);
            assert_int_equal(pg_io_check(io, &err), PG_EIO);
            assert_non_null(strstr(err.text, path));
            assert_non_null(strstr(err.text, "changed"));
        }
        pg_io_close(io);
    }
    unlink(path);
    unlink(other);
}

static void test_cache_stays_empty(void **state)
{
    struct fixture *x = *state;
    int fd = open(x->path, O_RDWR);
    assert_int_equal(fsync(fd), 0); /* what is dirty cannot be dropped */
    assert_int_equal(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
    close(fd);
    if (n_cached(x->path))
        skip_because("the working folder lies in memory, where pages stay");
    FOR_EACH_BACKEND(b, io, x)
    {
        for (uint64_t at = 0; at < FILE_BYTES - SLOT_BYTES; at += SLOT_BYTES)
            read_check(read_one(io, x, at, SLOT_BYTES, SLOT_BYTES));
        read_check(read_one(io, x, FILE_BYTES - TAIL, PG_PAGE, TAIL));
        assert_in_range(n_cached(x->path), 0, 2); /* that opening has looked at */
    }
}

/* The kernel takes no entry for a while: nothing is lost. It never does again: reads fail, none
 * hangs, and so does every read after them. */
static void test_ring_refuses(void **state)
{
    struct fixture *x = *state;
    struct pg_io *io = backend_open(x, URING);
    if (!io)
        skip_because("io_uring is not there");
    io_faults_clear();
    io_faults.uring_submit_error = -EAGAIN;
    io_faults.uring_submit_times = 20;
    reads_in_flight(x, io, 200);
    assert_int_equal(io_faults.n_injected, 20);

    io_faults.uring_submit_error = -EBADF;
    io_faults.uring_submit_times = -1;
    for (int round = 0; round < 2; round++) {
        struct pg_read *done[N_SLOTS];
        for (int i = 0; i < N_SLOTS; i++) {
            read_draw(x, i);
            assert_true(pg_io_submit(io, &x->reads[i]));
        }
        int n = 0;
        while (n < N_SLOTS)
            n += pg_io_reap(io, done + n, N_SLOTS - n, true);
        for (int i = 0; i < n; i++)
            assert_int_equal(done[i]->os_error, EBADF);
        assert_int_equal(pg_io_n_pending(io), 0);
    }
    io_faults_clear();
    pg_io_close(io);
}

/* ---- the simulation ---- */

static struct pg_io *sim_open(const struct pg_io_sim *sim)
{
    struct pg_io *io;
    assert_int_equal(pg_io_open_sim(&io, sim, NULL), 0);
    return io;
}

/* Times are what the model says: latency, then the bandwidth, shared. */
static void test_sim_time(void **state)
{
    struct fixture *x = *state;
    struct pg_io *io = sim_open(&(struct pg_io_sim){.latency_ns = 100000, .bytes_per_s = 1u << 30});
    struct pg_read *done[2];
    uint64_t move_ns = (uint64_t)SLOT_BYTES * 1000000000u >> 30;
    struct pg_read *r = read_one(io, x, 0, SLOT_BYTES, SLOT_BYTES);
    assert_in_range(r->end_ns, 100000 + move_ns - 1, 100000 + move_ns + 1);
    assert_int_equal(pg_io_busy_ns(io), r->end_ns);

    uint64_t begin_ns = pg_io_now(io);
    for (int i = 0; i < 2; i++) {
        read_set(x, i, 0, SLOT_BYTES, SLOT_BYTES);
        assert_true(pg_io_submit(io, &x->reads[i]));
    }
    assert_int_equal(pg_io_reap(io, done, 2, false), 0); /* no time has passed */
    pg_io_sim_advance(io, 100000 + 2 * move_ns - 100);
    assert_int_equal(pg_io_reap(io, done, 2, false), 0);
    pg_io_sim_advance(io, 200);
    assert_int_equal(pg_io_reap(io, done, 2, false), 2);
    assert_in_range(done[1]->end_ns, begin_ns + 100000 + 2 * move_ns - 2,
                    begin_ns + 100000 + 2 * move_ns + 2);
    pg_io_close(io);
}

/* A copy engine: one after the other as they were submitted, each with all of the bandwidth, and
 * the latencies of those that wait pass meanwhile. Nothing is written: the buffer is an address. */
static void test_sim_in_order(void **state)
{
    (void)state;
    struct pg_io *io = sim_open(&(struct pg_io_sim){
        .latency_ns = 100000, .bytes_per_s = 1u << 30, .in_order = true, .blank = true});
    char *nowhere = pg_pages_reserve((size_t)1 << 32);
    struct pg_read reads[3] = {{.size = 3 << 20}, {.size = 1 << 20}, {.size = 2 << 20}};
    uint64_t move_ns = 0;
    assert_non_null(nowhere);
    for (int i = 0; i < 3; i++) {
        reads[i].buf = nowhere + ((size_t)i << 30);
        reads[i].need = reads[i].size;
        assert_true(pg_io_submit(io, &reads[i]));
    }
    for (int i = 0; i < 3; i++) {
        struct pg_read *done;
        move_ns += reads[i].size * 1000000000u >> 30;
        assert_int_equal(pg_io_reap(io, &done, 1, true), 1);
        assert_ptr_equal(done, &reads[i]);
        assert_in_range(pg_io_now(io), 100000 + move_ns - 10, 100000 + move_ns + 10);
    }
    pg_io_close(io);
    pg_pages_unmap(nowhere, (size_t)1 << 32);
}

/* The order of completions and their times, as one number. */
static uint64_t sim_trace(struct fixture *x, uint64_t seed, int *n_out_of_order)
{
    struct pg_io_sim sim = sim_shuffled;
    struct pg_read *done;
    uint64_t trace = 0;
    sim.seed = seed;
    struct pg_io *io = sim_open(&sim);
    *n_out_of_order = 0;
    x->random = 3;
    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < N_SLOTS; i++) {
            read_draw(x, i);
            assert_true(pg_io_submit(io, &x->reads[i]));
        }
        for (int i = 0; i < N_SLOTS; i++) {
            assert_int_equal(pg_io_reap(io, &done, 1, true), 1);
            read_check(done);
            *n_out_of_order += done != &x->reads[i];
            trace = (trace ^ done->end_ns ^ (uint64_t)(done - x->reads)) * 0x100000001b3u;
        }
    }
    pg_io_close(io);
    return trace;
}

static void test_sim_seed(void **state)
{
    int n[3];
    uint64_t a = sim_trace(*state, 5, &n[0]), b = sim_trace(*state, 5, &n[1]);
    assert_true(a == b && n[0] == n[1]);
    assert_true(sim_trace(*state, 6, &n[2]) != a);
    assert_true(n[0] > 20 * N_SLOTS / 2);
}

static void test_sim_faults(void **state)
{
    struct fixture *x = *state;
    struct pg_io *io = sim_open(&(struct pg_io_sim){
        .latency_ns = 1000, .fail_at = 3, .short_at = 4, .late_at = 5, .late_ns = 1000000});
    struct pg_err err;
    for (int i = 1; i <= 6; i++) {
        struct pg_read *r = read_one(io, x, 8 * PG_PAGE, SLOT_BYTES, SLOT_BYTES);
        uint64_t ns = r->end_ns - r->begin_ns;
        assert_int_equal(r->os_error, i == 3 ? EIO : 0);
        assert_int_equal(ns, i == 4 ? 2000 : i == 5 ? 1001000 : 1000);
        if (i != 3)
            read_check(r);
        else
            assert_int_equal(pg_io_error(io, r, &err), PG_EIO);
    }
    assert_non_null(strstr(err.text, "read of 262144 bytes at 32768 failed: Input/output error"));
    assert_int_equal(pg_io_sim_n_faults(io), 3);
    assert_int_equal(pg_io_sim_n_reads(io), 6);
    pg_io_close(io);

    int n_failed = 0;
    io = sim_open(&(struct pg_io_sim){.seed = 1, .fail_rate = 0.25});
    for (int i = 0; i < 1000; i++)
        n_failed += read_one(io, x, 0, PG_PAGE, PG_PAGE)->os_error == EIO;
    assert_in_range(n_failed, 200, 300);
    assert_int_equal(pg_io_sim_n_faults(io), n_failed);
    pg_io_close(io);
}

static void test_sim_sparse(void **state)
{
    struct fixture *x = *state;
    struct pg_io *io = sim_open(&(struct pg_io_sim){.sparse = true, .file_bytes = FILE_BYTES});
    char want[PG_PAGE];
    struct pg_read *r = read_one(io, x, PG_PAGE, 2 * PG_PAGE, 2 * PG_PAGE);
    pg_io_sim_fill(0, 2 * PG_PAGE, want, PG_PAGE);
    const char *page = (const char *)r->buf + PG_PAGE;
    assert_memory_equal(page, want, 64);
    assert_memory_equal(page + PG_PAGE - 64, want + PG_PAGE - 64, 64);
    for (unsigned i = 64; i < PG_PAGE - 64; i++)
        assert_int_equal(page[i], 0x5a);
    pg_io_close(io);

    char whole[64], parts[64]; /* contents do not depend on how they are asked for */
    pg_io_sim_fill(3, 1003, whole, sizeof(whole));
    for (unsigned i = 0; i < sizeof(parts); i++)
        pg_io_sim_fill(3, 1003 + i, parts + i, 1);
    assert_memory_equal(whole, parts, sizeof(whole));
}

/* ---- the roof ---- */

static void test_roof(void **state)
{
    struct fixture *x = *state;
    struct pg_err err;
    double bytes_per_s = 0;
    assert_int_equal(pg_roof_disk(x->path, 0.05, &bytes_per_s, &err), 0);
    assert_true(bytes_per_s > 1e6 && bytes_per_s < 1e12);
    assert_int_equal(pg_roof_disk("no such file", 0.05, &bytes_per_s, &err), PG_EIO);
    assert_non_null(strstr(err.text, "no such file"));
    file_write(x->path, PG_PAGE);
    assert_int_equal(pg_roof_disk(x->path, 0.05, &bytes_per_s, &err), PG_EARG);
    file_write(x->path, FILE_BYTES);
    io_faults_set(IO_FAULT_ERROR, 30, UINT64_MAX);
    assert_int_equal(pg_roof_disk(x->path, 0.5, &bytes_per_s, &err), PG_EIO);
    assert_true(io_faults.n_injected > 0);
    io_faults_clear();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_contents),
        cmocka_unit_test(test_end_of_file),
        cmocka_unit_test(test_full),
        cmocka_unit_test(test_close_under_way),
        cmocka_unit_test(test_busy_is_not_idle),
        cmocka_unit_test(test_refused_files),
        cmocka_unit_test(test_half_open),
        cmocka_unit_test(test_direct_refused),
        cmocka_unit_test(test_uring_refused),
        cmocka_unit_test(test_tmpfs),
        cmocka_unit_test(test_faults),
        cmocka_unit_test(test_odd_pieces),
        cmocka_unit_test(test_truncated_while_open),
        cmocka_unit_test(test_changed),
        cmocka_unit_test(test_cache_stays_empty),
        cmocka_unit_test(test_ring_refuses),
        cmocka_unit_test(test_sim_time),
        cmocka_unit_test(test_sim_in_order),
        cmocka_unit_test(test_sim_seed),
        cmocka_unit_test(test_sim_faults),
        cmocka_unit_test(test_sim_sparse),
        cmocka_unit_test(test_roof),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
