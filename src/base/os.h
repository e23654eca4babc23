/* SPDX-License-Identifier: MIT
 * What we ask of the operating system: clock, pages, memory limits, whole files, atomic output.
 */
#ifndef PG_BASE_OS_H
#define PG_BASE_OS_H

#include "base/err.h"

#include <stdio.h>

#define PG_PAGE 4096u /* alignment of direct I/O and of arenas */

uint64_t pg_now_ns(void); /* monotonic */

/* Zeroed pages, aligned to PG_PAGE, huge pages advised when larger than 2 MiB. NULL when refused.
 * Only touched pages count against memory. */
void *pg_pages_map(size_t size_bytes);
void pg_pages_unmap(void *p, size_t size_bytes);
/* Addresses without memory behind them, aligned to PG_PAGE: nothing may be read or written there.
 * NULL when refused. Given back by pg_pages_unmap. */
void *pg_pages_reserve(size_t size_bytes);
/* Touches them all. Threads that touch one huge page at once are each charged a whole one until all
 * but one have lost, which a control group that is nearly full answers with a kill. */
void pg_pages_touch(void *p, size_t size_bytes);
#define PG_PAGE_HUGE ((size_t)2 << 20)

/* Overflow-checked zeroed array; NULL when refused. Freed with free(). */
void *pg_calloc(size_t n, size_t size_bytes);
/* Room for n values in the array at *p, which may move; *cap is for how many there is room.
 * PG_ENOMEM leaves it as it is. Freed with free(). */
int pg_reserve(void *p, size_t *cap, size_t n, size_t size_bytes);

/* What a waiting loop executes between two looks. */
#if defined(__x86_64__) || defined(__i386__)
#define pg_cpu_relax() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define pg_cpu_relax() __asm__ volatile("yield" ::: "memory")
#else
#define pg_cpu_relax() __asm__ volatile("" ::: "memory")
#endif

int pg_os_n_cpu(void); /* that this process may run on, and no more than its quota */

/* Bytes. */
struct pg_os_memory {
    uint64_t total;     /* of the machine; 0: not known */
    uint64_t limit;     /* the smallest of cgroup v1 and v2 limits up the tree (max and high),
                           RLIMIT_AS and the machine */
    uint64_t available; /* of that, what is left now: less what others in the group hold that cannot
                           be reclaimed */
};
/* Reads some twenty small files. */
struct pg_os_memory pg_os_memory_now(void);
/* The whole text of a small file, zero-terminated, for free(); NULL when it cannot be read. */
char *pg_os_read_text(const char *path);
/* The number after `key` at the beginning of a line; `none` when there is no such line. */
uint64_t pg_os_number_after(const char *text, const char *key, uint64_t none);

/* The three numbers above as the files under `root` ("" for this machine) tell them: proc/meminfo,
 * proc/self/cgroup, proc/self/mountinfo, and the cgroup file systems that those name. RLIMIT_AS is
 * not in it. */
void pg_os_memory_read(const char *root, struct pg_os_memory *out);
/* Processors' worth of time that the smallest quota up the tree gives, rounded up; 0: no quota. */
int pg_os_cpu_quota(const char *root);

uint64_t
pg_os_rss(void); /* resident memory of this process now (VmRSS); 0 where /proc is unreadable */
/* The most that what is there now takes: program and libraries as if each of their pages were
 * touched, what is allocated, the caller's stack. The same for the same allocations, which VmRSS is
 * not; no less than VmRSS, for what we cannot know of. */
uint64_t pg_os_held(void);

/* Which file it was and when it was last written. Renaming another one over its path changes
 * neither for those that have it open. */
struct pg_stamp {
    uint64_t device, inode, bytes;
    int64_t written_ns;
};
int pg_stamp_take(struct pg_stamp *s, int fd); /* 0 or an errno */
/* PG_EIO and a sentence that names `path` when the open file is not as it was then. */
int pg_stamp_check(const struct pg_stamp *s, int fd, const char *path, struct pg_err *err);

bool pg_same_file(const char *a, const char *b); /* both are there and are one; NULL: no file */

/* Opens what can be read to its end: a regular file, or if `pipe` is not NULL a pipe, and says in
 * *pipe which it is. PG_EARG and a sentence that names `path` and what it is for all else, such as
 * a folder or /dev/zero. */
int pg_open_text(FILE **out, const char *path, bool *pipe, struct pg_err *err);
#define PG_PIPE_MAX ((uint64_t)1 << 30) /* bytes that come out of one pipe; more may be endless */

/* The right to write `path` and what belongs to it, for as long as the work takes: an empty file
 * PATH.lock that is locked. Who comes second gets PG_EIO and is told. A process that is killed
 * leaves the file, and no lock. PG_EARG for a `path` that pg_outfile would not replace. */
struct pg_lock {
    int fd;
    char *name; /* NULL: not held */
};
int pg_lock_take(struct pg_lock *l, const char *path, struct pg_err *err);
void pg_lock_drop(struct pg_lock *l); /* fine for a zeroed one */

/* A file that appears whole or not at all: written to PATH.tmp, then renamed over it. Where PATH is
 * a link, PATH is here and above what it leads to. Locked until then; what a killed process has
 * left of PATH.tmp is written over. */
struct pg_outfile {
    int fd;
    char *path, *temp;
    bool direct;
    char *block;     /* NULL: what is written goes through the page cache */
    size_t n_block;  /* bytes in it: the next to go to the disk */
    uint64_t n_done; /* bytes on the disk */
};
int pg_outfile_open(struct pg_outfile *f, const char *path, struct pg_err *err);
/* For large files, before anything is written: room for `bytes` is taken at once, so that a full
 * disk shows before the work, and whole pages go past the page cache, or leave it again where the
 * file system wants one. Data whose address and place in the file have the same place in a page is
 * not copied. */
int pg_outfile_stream(struct pg_outfile *f, uint64_t bytes, struct pg_err *err);
int pg_outfile_write(struct pg_outfile *f, const void *data, size_t n, struct pg_err *err);
int pg_outfile_commit(struct pg_outfile *f,
                      struct pg_err *err);     /* fsync, rename, fsync directory */
void pg_outfile_abandon(struct pg_outfile *f); /* fine after commit */
/* Removes `path`, and what a killed process has left of one to come. */
void pg_outfile_remove(const char *path);

#endif
