/* SPDX-License-Identifier: MIT
 * Asynchronous reads: io_uring, a pool of pread threads, or a simulated disk behind one header.
 *
 * One thread at a time submits and reaps. A read belongs to the io from submit until reap hands it
 * back, with its buffer. It starts at once: submit is one system call, and nothing waits for a
 * flush. Reads are never short: a backend goes on until `need` bytes are there or the read has
 * failed. Nothing allocates after open.
 */
#ifndef PG_IO_IO_H
#define PG_IO_IO_H

#include "base/os.h"

struct pg_io;

struct pg_read {
    int file;        /* index in pg_io_options.paths */
    uint64_t offset; /* multiple of PG_PAGE */
    size_t size;     /* multiple of PG_PAGE */
    size_t need;     /* bytes that must arrive; less than size only at the end of the file */
    void *buf;       /* aligned to PG_PAGE */
    void *user;      /* the submitter's */
    int os_error;    /* after reap: 0, or an errno; -1: end of file before `need` */
    size_t got;
    uint64_t begin_ns, end_ns; /* by pg_io_now */
    struct pg_read *next;      /* the io's while under way */
};

struct pg_io_options {
    const char *const *paths;
    int n_paths;
    const struct pg_stamp *const *stamps; /* [n_paths] what is wanted there; NULL: what is found */
    enum pg_io_path path; /* AUTO: io_uring, else pread; a named path that is refused is an error */
    int depth;            /* reads under way at most; 0 = 16 */
    bool buffered;        /* do not try O_DIRECT; each read leaves the page cache afterwards */
};

/* Opens each file with O_DIRECT, proves it by a real transfer, falls back to buffered reads. Paths
 * are copied. What is buffered is dropped from the page cache after reading, so that the cache does
 * not grow inside a memory limit. */
int pg_io_open(struct pg_io **out, const struct pg_io_options *opt, struct pg_err *err);
void pg_io_close(struct pg_io *io); /* waits for what is under way */

int pg_io_depth(const struct pg_io *io);
int pg_io_n_pending(const struct pg_io *io);
/* False when `depth` reads are pending: submitted and not yet handed back. */
bool pg_io_submit(struct pg_io *io, struct pg_read *r);
/* Finished reads, at most max. wait: blocks until there is one at least (0 only if none pending).
 */
int pg_io_reap(struct pg_io *io, struct pg_read **done, int max, bool wait);
uint64_t pg_io_now(const struct pg_io *io);         /* real, or the simulation's */
const char *pg_io_describe(const struct pg_io *io); /* "io_uring, direct" */
/* Time with at least one read under way. io_uring sees an end when pg_io_* is next called, so there
 * it is exact to the time between two calls; the others are exact. */
uint64_t pg_io_busy_ns(const struct pg_io *io);
/* "FILE: read of 884736 bytes at 4096 failed: Input/output error (got 0)". Returns PG_EIO. */
int pg_io_error(const struct pg_io *io, const struct pg_read *r, struct pg_err *err);

/* PG_EIO, naming the file, when one that was read since the last check has been written to since it
 * was opened: what came may be a mixture. Stays so. Asks only files that were read, one fstat each.
 * Renaming another file over the path is none of our business. */
int pg_io_check(struct pg_io *io, struct pg_err *err);

/* A simulated disk with a virtual clock: time passes only in pg_io_reap and pg_io_sim_advance. A
 * read waits its latency, then shares the bandwidth with all others that are past theirs, or has
 * all of it when its turn comes. Data is
 * made from (file, offset), so that a test can check what arrived. Deterministic for a seed. */
struct pg_io_sim {
    uint64_t seed;
    uint64_t latency_ns;       /* of each read, and of each piece of one */
    uint64_t jitter_ns;        /* added, uniform */
    uint64_t bytes_per_s;      /* shared by all reads under way; 0 = no limit */
    int depth;                 /* 0 = 16 */
    bool shuffle;              /* completions in random order */
    bool in_order;             /* one moves at a time, as they were submitted: a copy engine */
    bool sparse;               /* write only the first and last 64 bytes of each page */
    bool blank;                /* write nothing: buffers are addresses, for time alone */
    uint64_t fail_at;          /* the n-th read (from 1) fails with EIO; 0 = none */
    uint64_t short_at;         /* the n-th read comes in pieces */
    uint64_t late_at, late_ns; /* the n-th read takes late_ns longer */
    uint64_t change_at;        /* the file is written to before the n-th read */
    double fail_rate;          /* each read fails with this probability */
    double short_rate;         /* each read comes in pieces with this probability */
    uint64_t file_bytes;       /* length of every file; 0 = endless */
};
int pg_io_open_sim(struct pg_io **out, const struct pg_io_sim *sim, struct pg_err *err);
void pg_io_sim_advance(struct pg_io *io, uint64_t ns);
void pg_io_sim_fill(int file, uint64_t offset, void *buf, size_t n); /* what such a read gives */
/* Faults put in so far, and reads submitted so far. */
uint64_t pg_io_sim_n_faults(const struct pg_io *io);
uint64_t pg_io_sim_n_reads(const struct pg_io *io);

#endif
