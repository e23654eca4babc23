/* SPDX-License-Identifier: MIT
 * Times every matrix slot at every level: one token from weights that no cache holds, against the
 * memory roof measured in the same run, then 16 and 128 tokens.
 */
#ifndef PG_TESTS_KERN_BENCH_H
#define PG_TESTS_KERN_BENCH_H

#include "base/os.h"
#include "base/pool.h"
#include "kern/kern_data.h"

#include <stdio.h>
#include <strings.h>

enum { BENCH_N = 2048, BENCH_ROWS = 256, BENCH_MS = 400 }; /* values a row; rows a task */
#define BENCH_BYTES ((size_t)256 << 20)

struct job {
    const struct pg_kernels *k;
    struct pg_matmul m;
    int first; /* task */
};

static inline void job_task(void *arg, int task, int thread)
{
    struct job *j = arg;
    int row = (j->first + task) * BENCH_ROWS;
    (void)thread;
    j->k->matmul[j->m.type](&j->m, row, row + BENCH_ROWS);
}

/* Seconds that n_tasks take, the best of many runs of the next n_tasks of all n_rows / BENCH_ROWS
 * in turn: with n_tasks a small part of them the weights come from memory, and a run is short
 * enough to find the machine idle now and then. */
static inline double job_time(struct job *j, struct pg_pool *pool, int n_tasks, int n_all)
{
    double best = 1e9;
    uint64_t end = pg_now_ns() + (uint64_t)BENCH_MS * 1000000;
    j->first = 0;
    do {
        uint64_t begin = pg_now_ns();
        pg_pool_run(pool, job_task, j, n_tasks);
        double s = (double)(pg_now_ns() - begin) * 1e-9;
        best = s < best ? s : best;
        j->first = j->first + 2 * n_tasks <= n_all ? j->first + n_tasks : 0;
    } while (pg_now_ns() < end);
    return best;
}

struct bench {
    struct pg_pool *pool;
    int n_threads;
    double roof;
    uint8_t *w;
    float *y;
};

static inline double gmacs(double rows, int n_tok, double seconds)
{
    return rows * BENCH_N * n_tok / seconds * 1e-9;
}

static inline void bench_slot(struct bench *b, const struct pg_kernels *k, enum pg_type type)
{
    const struct pg_type_traits *t = pg_type_traits(type);
    size_t row_bytes = pg_type_bytes(type, BENCH_N);
    int n_all = (int)(BENCH_BYTES / row_bytes / BENCH_ROWS), part = n_all / 16;
    struct acts x = acts_open(k, t->act, BENCH_N, 128);
    struct job j = {k, {b->w, type, &x.a, NULL, 1, b->y, (size_t)n_all * BENCH_ROWS}, 0};
    if (strcmp(k->name, "ref") == 0) /* so slow that little says enough */
        part = b->n_threads;
    double rows = (double)part * BENCH_ROWS, s = job_time(&j, b->pool, part, n_all);
    double rate = rows * (double)row_bytes / s;
    printf("%-5s %-7s %7.2f %5.0f%% %8.1f", t->name, k->name, rate * 1e-9, rate / b->roof * 100,
           gmacs(rows, 1, s));
    part = b->n_threads;
    rows = (double)part * BENCH_ROWS;
    for (j.m.n_tok = 16; j.m.n_tok <= 128; j.m.n_tok *= 8) {
        j.m.y_stride = (size_t)rows;
        printf(" %8.1f", gmacs(rows, j.m.n_tok, job_time(&j, b->pool, part, part)));
    }
    printf("\n");
    fflush(stdout);
    acts_close(&x);
}

static inline void bench_type(struct bench *b, enum pg_type type)
{
    static const enum pg_cpu_level levels[] = {PG_CPU_REF, PG_CPU_AVX2, PG_CPU_AVX512, PG_CPU_NEON};
    size_t some = pg_type_bytes(type, BENCH_N) * BENCH_ROWS;
    fill_weights(type, b->w, some, TAME);
    for (size_t at = some; at + some <= BENCH_BYTES; at += some)
        memcpy(b->w + at, b->w, some);
    for (size_t i = 0; i < PG_COUNT(levels); i++) {
        struct pg_kernels k;
        if (pg_kernels_init(&k, levels[i], NULL) == 0)
            bench_slot(b, &k, type);
    }
}

static inline int bench(int n_threads, const char *only)
{
    struct bench b = {.n_threads = n_threads};
    struct pg_err err = {0};
    if (pg_roof_dram(n_threads, 2.0, &b.roof, &err) || pg_pool_open(&b.pool, n_threads, &err)) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    b.w = pg_pages_map(BENCH_BYTES);
    b.y = memory(BENCH_BYTES / 64);
    PG_ASSERT(b.w);
    printf("threads %d, memory roof %.2f GB/s, rows of %d values\n", n_threads, b.roof * 1e-9,
           BENCH_N);
    printf("%-5s %-7s %7s %6s %8s %8s %8s\n", "", "", "GB/s", "roof", "GMAC/s", "16 tok",
           "128 tok");
    for (uint32_t t = 0; t < PG_TYPE_LIMIT; t++)
        if (pg_type_traits(t)->name && (!only || strcasecmp(only, pg_type_traits(t)->name) == 0))
            bench_type(&b, (enum pg_type)t);
    pg_pool_close(b.pool);
    pg_pages_unmap(b.w, BENCH_BYTES);
    free(b.y);
    return 0;
}

#endif
