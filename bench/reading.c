/* SPDX-License-Identifier: MIT
 * How to read experts: bandwidth, latency and processor time of random direct reads by backend,
 * size, depth and number of pieces. Every round runs all variants once, so that what else happens
 * on the disk meets all of them; the table has medians over the rounds.
 *
 * "computing" is what the engine does: all processors compute, and the thread that reads looks for
 * completions three times a millisecond without waiting.
 *
 * "packed" is another question: what it costs that an expert's matrices lie in two or three places
 * of the file, and not in one. Pieces are then read from random places each.
 *
 *     reading FILE [ROUNDS] [SECONDS a variant and round] [packed]
 */
#include "base/os.h"
#include "base/pool.h"
#include "io/io.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

#define DEPTH_MAX  32
#define PIECES_MAX 4
#define EXPERT_MAX (10u << 20)
#define ROUNDS_MAX 32

struct variant {
    enum pg_io_path path;
    size_t bytes;
    int depth, pieces;
    bool buffered, computing, apart;
    double gb_per_s[ROUNDS_MAX], latency_ms[ROUNDS_MAX], cpu_s_per_gb[ROUNDS_MAX];
};

/* An expert that is being read, as `pieces` reads. */
struct expert {
    int n_left;
    uint64_t begin_ns;
    struct pg_read reads[PIECES_MAX];
};

struct run {
    struct pg_io *io;
    struct pg_pool *pool;
    struct variant *v;
    struct expert experts[DEPTH_MAX];
    char *arena;
    uint64_t file_bytes, random;
};

static double cpu_seconds(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           1e-6 * (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

/* A place that `bytes` fit at. */
static uint64_t place(struct run *r, size_t bytes)
{
    r->random = r->random * 6364136223846793005u + 1442695040888963407u;
    return (r->random >> 20) % ((r->file_bytes - bytes) / PG_PAGE) * PG_PAGE;
}

static void expert_start(struct run *r, int i)
{
    struct expert *e = &r->experts[i];
    size_t bytes = r->v->bytes;
    size_t piece = (bytes / (size_t)r->v->pieces + PG_PAGE - 1) / PG_PAGE * PG_PAGE;
    const uint64_t offset = place(r, bytes);
    e->n_left = r->v->pieces;
    e->begin_ns = pg_now_ns();
    for (int p = 0; p < e->n_left; p++) {
        size_t at = (size_t)p * piece, size = PG_MIN(piece, bytes - at);
        e->reads[p] = (struct pg_read){.offset = r->v->apart ? place(r, size) : offset + at,
                                       .size = size,
                                       .need = size,
                                       .buf = r->arena + (size_t)i * EXPERT_MAX + at,
                                       .user = e};
        PG_ASSERT(pg_io_submit(r->io, &e->reads[p]));
    }
}

static void compute(void *end_ns, int task, int thread)
{
    (void)task;
    (void)thread;
    while (pg_now_ns() < *(const uint64_t *)end_ns)
        continue;
}

static int take_one(struct run *r, struct pg_read **done)
{
    int n = pg_io_reap(r->io, done, 1, !r->v->computing);
    uint64_t end_ns = pg_now_ns() + 300000;
    if (!n && r->v->computing)
        pg_pool_run(r->pool, compute, &end_ns, pg_pool_n_threads(r->pool));
    return n;
}

static void measure(struct run *r, double seconds, int round)
{
    uint64_t begin_ns = pg_now_ns(), end_ns = begin_ns + (uint64_t)(seconds * 1e9), now_ns = 0;
    double cpu = cpu_seconds(), latency_ns = 0;
    int n = 0, n_under_way = r->v->depth;
    struct pg_read *done;
    for (int i = 0; i < r->v->depth; i++)
        expert_start(r, i);
    while (n_under_way) {
        if (!take_one(r, &done))
            continue;
        PG_ASSERT(!done->os_error);
        struct expert *e = done->user;
        if (--e->n_left)
            continue;
        now_ns = pg_now_ns();
        latency_ns += (double)(now_ns - e->begin_ns);
        n++;
        if (now_ns < end_ns)
            expert_start(r, (int)(e - r->experts));
        else
            n_under_way--;
    }
    double gb = (double)n * (double)r->v->bytes * 1e-9;
    r->v->gb_per_s[round] = gb / ((double)(now_ns - begin_ns) * 1e-9);
    r->v->latency_ms[round] = latency_ns / n * 1e-6;
    r->v->cpu_s_per_gb[round] = (cpu_seconds() - cpu) / gb;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int n)
{
    qsort(values, (size_t)n, sizeof(*values), compare);
    return (values[(n - 1) / 2] + values[n / 2]) / 2;
}

static void table_print(struct variant *v, int n, int rounds)
{
    puts("| backend | KiB | depth | pieces | GB/s median | min | max | latency ms | CPU s/GB |");
    puts("|---|---|---|---|---|---|---|---|---|");
    for (int i = 0; i < n; i++, v++) {
        double middle = median(v->gb_per_s, rounds);
        printf("| %s%s%s | %zu | %d | %d | %.2f | %.2f | %.2f | %.2f | %.3f |\n",
               v->path == PG_IO_URING ? "io_uring" : "pread", v->buffered ? " buffered" : "",
               v->computing ? " computing" : "", v->bytes >> 10, v->depth, v->pieces, middle,
               v->gb_per_s[0], v->gb_per_s[rounds - 1], median(v->latency_ms, rounds),
               median(v->cpu_s_per_gb, rounds));
    }
}

static int variants_make(struct variant *v)
{
    static const size_t bytes[] = {880u << 10, 1200u << 10};
    static const int depths[] = {1, 2, 4, 8, 16, 32};
    int n = 0;
    for (size_t b = 0; b < PG_COUNT(bytes); b++)
        for (size_t d = 0; d < PG_COUNT(depths); d++)
            for (int pieces = 1; pieces <= PIECES_MAX; pieces += PIECES_MAX - 1)
                for (int path = PG_IO_URING; path <= PG_IO_PREAD; path++)
                    v[n++] = (struct variant){.path = (enum pg_io_path)path,
                                              .bytes = bytes[b],
                                              .depth = depths[d],
                                              .pieces = pieces};
    for (size_t d = 1; d < PG_COUNT(depths); d++)
        for (int path = PG_IO_URING; path <= PG_IO_PREAD; path++)
            v[n++] = (struct variant){.path = (enum pg_io_path)path,
                                      .bytes = bytes[0],
                                      .depth = depths[d],
                                      .pieces = 1,
                                      .computing = true};
    v[n++] = (struct variant){
        .path = PG_IO_URING, .bytes = bytes[0], .depth = 8, .pieces = 1, .buffered = true};
    return n;
}

/* Three variants a line: an expert in one place, in two, in three. */
static int variants_packed(struct variant *v)
{
    static const size_t bytes[] = {96u << 10, 384u << 10, 880u << 10, 2640u << 10, 9216u << 10};
    static const int depths[] = {1, 2, 4, 8};
    int n = 0;
    for (size_t b = 0; b < PG_COUNT(bytes); b++)
        for (size_t d = 0; d < PG_COUNT(depths); d++)
            for (int pieces = 1; pieces <= 3; pieces++)
                v[n++] = (struct variant){.path = PG_IO_AUTO,
                                          .bytes = bytes[b],
                                          .depth = depths[d],
                                          .pieces = pieces,
                                          .apart = true};
    return n;
}

static void table_packed(struct variant *v, int n, int rounds)
{
    puts("| an expert, KiB | experts under way | GB/s in one read | in two | in three | one to two "
         "| "
         "one to three | ms in one | in two | in three |");
    puts("|---|---|---|---|---|---|---|---|---|---|");
    for (; n > 0; n -= 3, v += 3) {
        double ratio[2][ROUNDS_MAX], gb[3], ms[3];
        for (int i = 0; i < rounds; i++) /* before the medians sort them */
            for (int k = 0; k < 2; k++)
                ratio[k][i] = v[0].gb_per_s[i] / v[k + 1].gb_per_s[i];
        for (int k = 0; k < 3; k++) {
            gb[k] = median(v[k].gb_per_s, rounds);
            ms[k] = median(v[k].latency_ms, rounds);
        }
        printf("| %zu | %d | %.2f | %.2f | %.2f | %.2f | %.2f | %.2f | %.2f | %.2f |\n",
               v->bytes >> 10, v->depth, gb[0], gb[1], gb[2], median(ratio[0], rounds),
               median(ratio[1], rounds), ms[0], ms[1], ms[2]);
    }
}

int main(int argc, char **argv)
{
    static struct variant variants[96];
    struct run r = {.random = pg_now_ns(), .arena = pg_pages_map(DEPTH_MAX * EXPERT_MAX)};
    struct stat st;
    int rounds = argc > 2 ? PG_MIN(atoi(argv[2]), ROUNDS_MAX) : 5;
    double seconds = argc > 3 ? atof(argv[3]) : 0.3;
    const bool packed = argc > 4 && !strcmp(argv[4], "packed");
    if (argc < 2 || (argc > 4 && !packed) || rounds < 1 || stat(argv[1], &st) ||
        st.st_size < (off_t)EXPERT_MAX * 2)
        return fprintf(stderr, "usage: reading FILE [ROUNDS] [SECONDS] [packed]\n"), 2;
    r.file_bytes = (uint64_t)st.st_size;
    memset(r.arena, 1, (size_t)DEPTH_MAX * EXPERT_MAX);
    int n = packed ? variants_packed(variants) : variants_make(variants);
    if (pg_pool_open(&r.pool, pg_os_n_cpu(), NULL))
        return 1;
    for (int round = 0; round < rounds; round++)
        for (int i = 0; i < n; i++) {
            struct pg_err err;
            r.v = &variants[i];
            struct pg_io_options opt = {.paths = (const char *const *)&argv[1],
                                        .n_paths = 1,
                                        .path = r.v->path,
                                        .buffered = r.v->buffered,
                                        .depth = r.v->depth * r.v->pieces};
            if (pg_io_open(&r.io, &opt, &err))
                return fprintf(stderr, "%s\n", err.text), 1;
            measure(&r, seconds, round);
            pg_io_close(r.io);
        }
    if (packed)
        table_packed(variants, n, rounds);
    else
        table_print(variants, n, rounds);
    pg_pool_close(r.pool);
    return 0;
}
