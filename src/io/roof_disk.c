/* SPDX-License-Identifier: MIT
 * The disk's roof: what reads of an expert's size at random places bring, at the engine's depth and
 * by its best backend. Every reported bandwidth is a percentage of this one.
 */
#include "base/os.h"
#include "io/io.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/stat.h>

#define READ_BYTES (1u << 20)

struct roof {
    struct pg_io *io;
    char *arena;
    struct pg_read *reads; /* [depth] */
    uint64_t n_places;     /* page-aligned offsets that a read fits at */
    uint64_t random;
};

static uint64_t place_next(struct roof *r)
{
    r->random ^= r->random << 13;
    r->random ^= r->random >> 7;
    r->random ^= r->random << 17;
    return r->random % r->n_places * PG_PAGE;
}

static void read_start(struct roof *r, struct pg_read *read)
{
    read->offset = place_next(r);
    PG_ASSERT(pg_io_submit(r->io, read));
}

/* The clock starts with the disk busy: the first reads to come are not counted. */
static int roof_measure(struct roof *r, double seconds, double *bytes_per_s, struct pg_err *err)
{
    int depth = pg_io_depth(r->io), n = 0;
    struct pg_read *done;
    uint64_t begin_ns = 0, now_ns = 0;
    for (int i = 0; i < depth; i++)
        read_start(r, &r->reads[i]);
    while (n <= depth || (double)(now_ns - begin_ns) < seconds * 1e9) {
        if (pg_io_reap(r->io, &done, 1, true) != 1)
            continue;
        now_ns = pg_io_now(r->io);
        if (done->os_error)
            return pg_io_error(r->io, done, err);
        if (n++ == 0)
            begin_ns = now_ns;
        read_start(r, done);
    }
    *bytes_per_s = (double)(n - 1) * READ_BYTES * 1e9 / (double)(now_ns - begin_ns);
    return 0;
}

static int roof_open(struct roof *r, const char *path, struct pg_err *err)
{
    struct stat st;
    if (!path)
        return pg_fail(err, PG_EARG, "no file given");
    if (stat(path, &st))
        return pg_fail_os(err, PG_EIO, errno, "%s", path);
    if (st.st_size < (off_t)READ_BYTES)
        return pg_fail(err, PG_EARG, "%s: %" PRId64 " bytes are too few to measure, wanted %u",
                       path, (int64_t)st.st_size, READ_BYTES);
    r->n_places = ((uint64_t)st.st_size - READ_BYTES) / PG_PAGE + 1;
    r->random = pg_now_ns() | 1;
    struct pg_io_options opt = {.paths = &path, .n_paths = 1};
    PG_TRY(pg_io_open(&r->io, &opt, err));
    size_t depth = (size_t)pg_io_depth(r->io);
    if (depth * READ_BYTES > pg_os_memory_now().available / 2) {
        return pg_fail(err, PG_ENOMEM,
                       "%zu MiB are needed to measure the disk with, and twice that are to be left",
                       depth * READ_BYTES >> 20);
    }
    r->arena = pg_pages_map(depth * READ_BYTES);
    r->reads = pg_calloc(depth, sizeof(*r->reads));
    if (!r->arena || !r->reads)
        return pg_fail(err, PG_ENOMEM, "no memory for %zu reads of %u bytes", depth, READ_BYTES);
    for (size_t i = 0; i < depth; i++)
        r->reads[i] = (struct pg_read){
            .size = READ_BYTES, .need = READ_BYTES, .buf = r->arena + i * READ_BYTES};
    return 0;
}

static void roof_close(struct roof *r)
{
    size_t depth = r->io ? (size_t)pg_io_depth(r->io) : 0;
    pg_io_close(r->io); /* first: it waits for reads into the arena */
    if (r->arena)
        pg_pages_unmap(r->arena, depth * READ_BYTES);
    free(r->reads);
}

int pg_roof_disk(const char *path, double seconds, double *bytes_per_s, struct pg_err *err)
{
    struct roof r = {0};
    int rc = roof_open(&r, path, err);
    if (!rc)
        rc = roof_measure(&r, seconds, bytes_per_s, err);
    roof_close(&r);
    return rc;
}
