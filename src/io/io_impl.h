/* SPDX-License-Identifier: MIT
 * What the backends share: the table that pg_io_* calls through, and one way to carry a read on
 * from transfer to transfer until it is whole.
 *
 * A read under way is a *flight*. A backend makes one transfer at a time for it (the kernel splits
 * it as the disk likes), hands the result to pg_io_flight_advance and goes on for as long as that
 * says so. When it is over, pg_io_flight_land puts the read on the list that pg_io_reap takes from.
 * Everything is allocated by pg_io_init; a flight is found by taking one from a free list.
 *
 * Locking is the backend's: flights on the free list, the landed list and the busy time are touched
 * in submit, land and take only, so a backend with threads holds its lock around those.
 */
#ifndef PG_IO_IO_IMPL_H
#define PG_IO_IO_IMPL_H

#include "base/os.h"
#include "io/io.h"

#define PG_IO_DEPTH_DEFAULT 16
#define PG_IO_DEPTH_MAX     1024
#define PG_IO_TRIES         8 /* transfers in a row that bring nothing before a read is given up */

struct pg_io_file {
    int fd;
    bool direct, unchecked; /* unchecked: read since pg_io_check looked at it */
    const char *path;
    struct pg_stamp stamp;
};

struct pg_io_flight {
    struct pg_read *read;
    size_t size; /* bytes to ask for: `need` rounded up to a page */
    size_t got;  /* bytes from the start that have arrived */
    int tries;   /* transfers in a row that brought nothing */
    int os_error;
    bool direct, in_use;
    struct pg_io_flight *next;
};

struct pg_io_ops {
    void (*close)(struct pg_io *io);
    void (*submit)(struct pg_io *io, struct pg_read *r); /* there is room */
    int (*reap)(struct pg_io *io, struct pg_read **done, int max, bool wait);
    uint64_t (*now)(const struct pg_io *io);
    uint64_t (*busy_ns)(const struct pg_io *io);
};

struct pg_io {
    const struct pg_io_ops *ops;
    struct pg_io_file *files; /* NULL: a simulation, which has no files to name */
    int n_files;
    bool sim_changed; /* a simulation's file */
    char *path_text;  /* storage of files[].path */
    char describe[32];

    int depth;
    int n_pending; /* submitted and not handed back; the submitting thread's alone */

    /* Under the backend's lock. */
    struct pg_io_flight *flights, *free;
    struct pg_read *landed, **landed_tail;
    int n_flying;
    uint64_t busy_since_ns, busy_ns;
};

/* Fields that every backend needs: flights, lists, depth. io is zeroed. */
int pg_io_init(struct pg_io *io, int depth, struct pg_err *err);
/* Opens opt->paths and proves each by a transfer with pread. */
int pg_io_files_open(struct pg_io *io, const struct pg_io_options *opt, struct pg_err *err);
void pg_io_files_describe(struct pg_io *io, const char *backend);
void pg_io_fini(struct pg_io *io); /* accepts the half-open */

struct pg_io_flight *pg_io_flight_start(struct pg_io *io, struct pg_read *r);
/* The next transfer of a flight: where it goes and what it reads. */
void *pg_io_flight_buf(const struct pg_io_flight *f);
uint64_t pg_io_flight_offset(const struct pg_io_flight *f);
size_t pg_io_flight_left(const struct pg_io_flight *f);
/* A transfer ended with `res` bytes or -errno. True: make another one. Touches only the flight. */
bool pg_io_flight_advance(const struct pg_io *io, struct pg_io_flight *f, int64_t res);
void pg_io_flight_land(struct pg_io *io, struct pg_io_flight *f, uint64_t now_ns);
int pg_io_take(struct pg_io *io, struct pg_read **done, int max); /* from the landed list */
uint64_t pg_io_busy_at(const struct pg_io *io, uint64_t now_ns);

/* The backends. PG_ENOTSUP: the kernel refuses this way of reading. */
int pg_io_open_uring(struct pg_io **out, const struct pg_io_options *opt, struct pg_err *err);
int pg_io_open_pread(struct pg_io **out, const struct pg_io_options *opt, struct pg_err *err);

#endif
