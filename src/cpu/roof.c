/* SPDX-License-Identifier: MIT
 * The machine's roof: how fast all threads together can read memory that no cache holds. The best
 * of many short sweeps counts, each over another quarter of the buffer, since a busy machine only
 * ever makes a sweep slower.
 */
#include "base/os.h"
#include "base/pool.h"

#include <stdlib.h>
#include <string.h>

enum { CHUNK = 1 << 20, PARTS = 4 };
#define PG_ROOF_MOST  ((uint64_t)512 << 20) /* of memory used; less where less is left */
#define PG_ROOF_LEAST ((uint64_t)64 << 20)

struct roof {
    uint8_t *data;
    uint64_t size;
    uint64_t *sums; /* one a thread, a cache line apart: the reads must have a use */
    struct pg_pool *pool;
    int first; /* chunk of the part that is read */
};

static void fill(void *arg, int task, int thread)
{
    struct roof *r = arg;
    (void)thread;
    memset(r->data + (size_t)task * CHUNK, task & 0xff, CHUNK);
}

static void sweep(void *arg, int task, int thread)
{
    struct roof *r = arg;
    const uint64_t *p =
        (const uint64_t *)(const void *)(r->data + (size_t)(r->first + task) * CHUNK);
    uint64_t a = 0, b = 0, c = 0, d = 0;
    for (size_t i = 0; i < CHUNK / sizeof(*p); i += 4) {
        a ^= p[i];
        b ^= p[i + 1];
        c ^= p[i + 2];
        d ^= p[i + 3];
    }
    r->sums[8 * thread] += a ^ b ^ c ^ d;
}

static void close_roof(struct roof *r)
{
    pg_pool_close(r->pool);
    free(r->sums);
    if (r->data)
        pg_pages_unmap(r->data, r->size);
}

static int open_roof(struct roof *r, int n_threads, struct pg_err *err)
{
    uint64_t left = pg_os_memory_now().available / 2;
    r->size = PG_ROOF_MOST;
    while (r->size > left && r->size > PG_ROOF_LEAST)
        r->size /= 2;
    if (r->size > left) {
        return pg_fail(err, PG_ENOMEM,
                       "%llu MiB are needed to measure bandwidth on, as much as is left at most",
                       (unsigned long long)(2 * r->size >> 20));
    }
    PG_TRY(pg_pool_open(&r->pool, n_threads, err));
    r->sums = pg_calloc((size_t)n_threads, 8 * sizeof(*r->sums));
    r->data = pg_pages_map(r->size);
    if (!r->sums || !r->data)
        return pg_fail(err, PG_ENOMEM, "no memory for %llu bytes to measure bandwidth on",
                       (unsigned long long)r->size);
    pg_pool_run(r->pool, fill, r, (int)(r->size / CHUNK));
    return 0;
}

int pg_roof_dram(int n_threads, double seconds, double *bytes_per_s, struct pg_err *err)
{
    struct roof r = {0};
    *bytes_per_s = 0;
    if (n_threads < 1)
        return pg_fail(err, PG_EARG, "bandwidth with %d threads, wanted at least 1", n_threads);
    int rc = open_roof(&r, n_threads, err);
    int n = (int)(r.size / CHUNK / PARTS);
    uint64_t begin = pg_now_ns(), now = begin;
    for (int i = 0; !rc && (i < 2 * PARTS || (double)(now - begin) < seconds * 1e9); i++) {
        uint64_t before = now;
        r.first = i % PARTS * n;
        pg_pool_run(r.pool, sweep, &r, n);
        now = pg_now_ns();
        double rate = (double)n * CHUNK * 1e9 / (double)PG_MAX(now - before, 1);
        *bytes_per_s = PG_MAX(*bytes_per_s, rate);
    }
    close_roof(&r);
    return rc;
}
