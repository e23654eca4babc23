/* SPDX-License-Identifier: MIT
 * Steps of `tune --loss lm` beside their floor on this machine:
 *
 *     bench_tune_step MODEL.gguf SIDECAR.gguf TEXT.txt MIB [STEPS [ROWS LEN]]
 *
 * The floor of a step is the longer of two times, since reading goes on while threads compute: its
 * bytes by the disk's rate (twice the experts that have no slot: once there, once back), and its
 * matrix products by the rate of such products alone, [rows of an expert, n_embd] with [n_ff,
 * n_embd] on data of their own, with as many threads. Unpacking, softmax and the like are in what
 * is reached, not in the floor. Processor time says more than the clock on a machine that does
 * other things as well.
 */
#include "base/os.h"
#include "base/pool.h"
#include "format/gguf.h"
#include "model/model.h"
#include "net/rows/blas.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { MOST_ROWS = 256, PRODUCTS = 20 };

struct seconds {
    double wall, cpu;
};

static struct seconds now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (struct seconds){(double)pg_now_ns() * 1e-9,
                            (double)t.tv_sec + 1e-9 * (double)t.tv_nsec};
}

struct roof {
    struct pg_blas blas;
    float *data;
    size_t len; /* of a thread */
    int rows, n_embd, n_ff;
};

/* Task: products of one thread. */
static void products(void *arg, int task, int thread)
{
    const struct roof *r = arg;
    float *x = r->data + (size_t)task * r->len, *w = x + (size_t)r->rows * (size_t)r->n_embd;
    (void)thread;
    for (int i = 0; i < PRODUCTS; i++)
        pg_gemm_nt(&(struct pg_gemm){.by = &r->blas,
                                     .m = r->rows,
                                     .n = r->n_ff,
                                     .k = r->n_embd,
                                     .a = x,
                                     .lda = r->n_embd,
                                     .b = w,
                                     .ldb = r->n_embd,
                                     .c = w + (size_t)r->n_embd * (size_t)r->n_ff,
                                     .ldc = r->n_ff});
}

/* Operations a second: by the clock with all threads, and by processor time of one. */
static int measure_products(struct roof *r, int n_threads, double *rate, double *rate_cpu,
                            struct pg_err *err)
{
    struct pg_pool *pool;
    size_t rows = (size_t)r->rows, n_embd = (size_t)r->n_embd, n_ff = (size_t)r->n_ff;
    r->len = rows * n_embd + n_embd * n_ff + rows * n_ff;
    r->data = pg_calloc(r->len * (size_t)n_threads, sizeof(float));
    if (!r->data)
        return pg_fail(err, PG_ENOMEM, "out of memory");
    PG_TRY(pg_blas_open(&r->blas, err));
    PG_TRY(pg_pool_open(&pool, n_threads, err));
    pg_pool_run(pool, products, r, n_threads);
    struct seconds begin = now();
    pg_pool_run(pool, products, r, n_threads);
    struct seconds end = now();
    double flop = 2.0 * r->rows * r->n_embd * r->n_ff * PRODUCTS * n_threads;
    *rate = flop / (end.wall - begin.wall);
    *rate_cpu = flop / (end.cpu - begin.cpu);
    pg_pool_close(pool);
    free(r->data);
    return 0;
}

/* Rows that an expert has on the average, of which those of a chunk are multiplied together. */
static int shape(struct roof *r, const char *path, int n_tok, struct pg_err *err)
{
    struct pg_gguf *g;
    struct pg_model m;
    PG_TRY(pg_gguf_open(&g, path, err));
    int rc = pg_model_open(&m, g, err);
    if (!rc) {
        r->n_embd = m.h.n_embd;
        r->n_ff = m.h.n_ff_exp;
        r->rows = PG_MAX(1, PG_MIN(MOST_ROWS, n_tok * m.h.n_expert_used / m.h.n_expert));
        pg_model_close(&m);
    }
    pg_gguf_close(g);
    return rc;
}

static void say(void *user, enum pg_log_level level, const char *text)
{
    (void)user;
    if (level <= PG_LOG_INFO)
        fprintf(stderr, "%s\n", text);
}

static void print(const struct pg_tune_lm *l, double disk, double rate, double cpu_rate, double cpu)
{
    double n = l->n_counted, bytes = 2.0 * (double)l->bytes_missing;
    double by_disk = bytes / disk, by_product = l->flop / n / rate;
    double floor = by_disk > by_product ? by_disk : by_product;
    printf("%d steps of %d x %d tokens\n", l->n_counted, l->n_seq, l->seq_len);
    printf("bytes a step   %8.1f MiB read, %8.1f twice what has no slot; disk %.0f MiB/s: %.2f s\n",
           (double)l->bytes_read / n / 0x1p20, bytes / 0x1p20, disk / 0x1p20, by_disk);
    printf("products       %8.2f TFLOP a step, %.1f GFLOP/s alone: %.2f s\n", l->flop / n * 1e-12,
           rate * 1e-9, by_product);
    printf("a step         %8.2f s, of which waiting for reads %.2f; floor %.2f s: %.2f of it\n",
           l->seconds / n, l->stall_seconds / n, floor, floor / (l->seconds / n));
    printf("processor time %8.2f s a step; products alone %.2f s: %.2f of it\n", cpu / n,
           l->flop / n / cpu_rate, l->flop / n / cpu_rate / (cpu / n));
    printf("peak           %8.1f MiB\n", (double)pg_peak_rss() / 0x1p20);
}

static int measure(struct pg_tune_options *opt, struct pg_err *err)
{
    struct roof r = {.rows = 0};
    struct pg_tune_report report;
    double disk = 0, rate = 0, cpu_rate = 0, cpu;
    PG_TRY(pg_tune(opt, &report, err));
    cpu = report.lm.cpu_seconds;
    PG_TRY(shape(&r, opt->model, report.lm.n_seq * report.lm.seq_len, err));
    PG_TRY(pg_roof_disk(opt->model, 2, &disk, err));
    PG_TRY(measure_products(&r, pg_os_n_cpu(), &rate, &cpu_rate, err));
    print(&report.lm, disk, rate, cpu_rate, cpu);
    return 0;
}

int main(int argc, char **argv)
{
    struct pg_err err = {0};
    if (argc < 5 || argc == 7) {
        fprintf(stderr,
                "usage: bench_tune_step MODEL.gguf SIDECAR.gguf TEXT.txt MIB [STEPS [ROWS LEN]]\n");
        return 2;
    }
    char out[] = "/tmp/bench_tune_step.gguf";
    struct pg_tune_options opt = {PG_TUNE_OPTIONS_INIT,
                                  .model = argv[1],
                                  .from_sidecar = argv[2],
                                  .data = (const char *const *)&argv[3],
                                  .n_data = 1,
                                  .memory_bytes = (uint64_t)atoll(argv[4]) << 20,
                                  .n_steps = argc > 5 ? atoi(argv[5]) : 2,
                                  .n_seq = argc > 7 ? atoi(argv[6]) : 0,
                                  .seq_len = argc > 7 ? atoi(argv[7]) : 0,
                                  .out = out,
                                  .decide = true,
                                  .loss = PG_TUNE_LM,
                                  .log = say};
    int rc = measure(&opt, &err);
    if (rc)
        fprintf(stderr, "bench_tune_step: %s\n", err.text);
    remove(out);
    return rc ? 1 : 0;
}
