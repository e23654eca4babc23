/* SPDX-License-Identifier: MIT
 * What we ask of the operating system: clock, pages, memory limits, whole files, atomic output.
 */
#ifndef PG_BASE_OS_H
#define PG_BASE_OS_H

#include "base/err.h"

#define PG_PAGE 4096u /* alignment of direct I/O and of arenas */

uint64_t pg_now_ns(void); /* monotonic */

/* Zeroed pages, aligned to PG_PAGE, huge pages advised when larger than 2 MiB. NULL when refused.
 * Only touched pages count against memory. */
void *pg_pages_map(size_t size_bytes);
void pg_pages_unmap(void *p, size_t size_bytes);

/* Overflow-checked zeroed array; NULL when refused. Freed with free(). */
void *pg_calloc(size_t n, size_t size_bytes);

int pg_os_n_cpu(void);                  /* that this process may run on */
uint64_t pg_os_memory_total(void);      /* of the machine */
/* The smallest of cgroup v1 and v2 limits up the tree (max and high), RLIMIT_AS and the machine. */
uint64_t pg_os_memory_limit(void);
/* Of that, what is left now: the limit less what others in the group hold that cannot be reclaimed. */
uint64_t pg_os_memory_available(void);

/* A file that appears whole or not at all: written beside `path`, then renamed over it. */
struct pg_outfile {
    int fd;
    char *path, *temp;
};
int pg_outfile_open(struct pg_outfile *f, const char *path, struct pg_err *err);
int pg_outfile_write(struct pg_outfile *f, const void *data, size_t n, struct pg_err *err);
int pg_outfile_commit(struct pg_outfile *f, struct pg_err *err); /* fsync, rename, fsync directory */
void pg_outfile_abandon(struct pg_outfile *f);                   /* fine after commit */

#endif
