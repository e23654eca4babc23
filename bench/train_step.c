/* SPDX-License-Identifier: MIT
 * One training step's forward and backward of a model's shape over random tokens, beside what this
 * machine's matrix products of such sizes reach:
 *
 *     bench_train_step MODEL.gguf [THREADS [N_SEQ SEQ_LEN [REPEATS]]]
 *
 * Weights are drawn at random, so that experts are used about evenly. Each repeat times one run of
 * forward alone, one of forward and backward, and the same number of threads doing nothing but
 * products of [256, n_embd] with [n_ff, n_embd], on data of their own; printed are the medians.
 * Operations are those of the matrix products that the shape needs, an addition and a
 * multiplication counted as two; the backward's recomputed scores are not counted.
 */
#include "base/os.h"
#include "base/random.h"
#include "format/gguf.h"
#include "net/net.h"
#include "net/rows/blas.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { MAX_REPEATS = 99, ROWS = 256, PRODUCTS = 2000 };

struct bench {
    struct pg_gguf *gguf;
    struct pg_model model;
    struct pg_pool *pool;
    struct pg_net *net;
    struct pg_blas blas;
    struct pg_net_options opt;
    float *w, *g, *roof;
    int32_t *token;
    struct pg_net_batch batch;
};

static double random_value(uint64_t stream, uint64_t n)
{
    double sum = 0; /* four uniform numbers: nearly normal, deviation 1 */
    for (uint64_t i = 0; i < 4; i++)
        sum += (double)(pg_random_at(1, stream, 4 * n + i) >> 11) * 0x1p-53 - 0.5;
    return sum * sqrt(3.0);
}

static double forward_flop(const struct bench *b)
{
    const struct pg_hparams *h = &b->model.h;
    double n_q = (double)h->n_head * h->head_dim, n_kv = (double)h->n_head_kv * h->head_dim;
    double sum = (double)h->n_embd * h->n_vocab, seen = (b->opt.seq_len + 1) / 2.0;
    for (int il = 0; il < h->n_layer; il++) {
        sum += 2.0 * h->n_embd * (n_q + n_kv) + 2 * n_q * seen;
        if (b->model.block[il].moe < 0) {
            sum += 3.0 * h->n_embd * h->n_ff;
        } else {
            sum += (double)h->n_embd *
                   (h->n_expert + 3.0 * h->n_ff_exp * h->n_expert_used + 3.0 * h->n_ff_shexp);
        }
    }
    return 2 * sum;
}

static void fill(struct bench *b)
{
    const struct pg_params *params = pg_net_params(b->net);
    int n_tok = b->opt.n_seq * b->opt.seq_len;
    for (int i = 0; i < params->n; i++) {
        const struct pg_param *p = &params->p[i];
        for (size_t j = 0; j < p->n; j++) {
            b->w[p->at + j] =
                p->is_matrix ? (float)(random_value((uint64_t)i, j) / sqrt(p->n_in)) : 1.0f;
        }
    }
    for (int t = 0; t < n_tok; t++) {
        b->token[t] = (int32_t)(pg_random_at(1, 1000, (uint64_t)t) % (uint64_t)b->model.h.n_vocab);
        b->token[n_tok + t] =
            (int32_t)(pg_random_at(1, 1001, (uint64_t)t) % (uint64_t)b->model.h.n_vocab);
    }
}

static int open_bench(struct bench *b, const char *path, int n_threads, struct pg_err *err)
{
    size_t n_tok = (size_t)b->opt.n_seq * (size_t)b->opt.seq_len;
    PG_TRY(pg_gguf_open(&b->gguf, path, err));
    PG_TRY(pg_model_open(&b->model, b->gguf, err));
    PG_TRY(pg_pool_open(&b->pool, n_threads, err));
    b->opt.model = &b->model;
    b->opt.pool = b->pool;
    PG_TRY(pg_net_open(&b->net, &b->opt, err));
    PG_TRY(pg_blas_open(&b->blas, err));
    size_t n = pg_net_params(b->net)->n_values;
    size_t len =
        ((size_t)b->model.h.n_embd + (size_t)PG_MAX(b->model.h.n_ff_exp, b->model.h.n_ff)) * 2 *
        ROWS;
    len += (size_t)b->model.h.n_embd * (size_t)PG_MAX(b->model.h.n_ff_exp, b->model.h.n_ff);
    b->w = pg_calloc(n, sizeof(float));
    b->g = pg_calloc(n, sizeof(float));
    b->token = pg_calloc(3 * n_tok, sizeof(int32_t));
    b->roof = pg_calloc(len * (size_t)n_threads, sizeof(float));
    if (!b->w || !b->g || !b->token || !b->roof)
        return pg_fail(err, PG_ENOMEM, "out of memory");
    b->batch = (struct pg_net_batch){
        .token = b->token, .target = b->token + n_tok, .start = b->token + 2 * n_tok};
    fill(b);
    return 0;
}

/* Task: products of one thread. */
static void roof_task(void *arg, int task, int thread)
{
    struct bench *b = arg;
    int n_embd = b->model.h.n_embd, n_ff = PG_MAX(b->model.h.n_ff_exp, b->model.h.n_ff);
    size_t len = ((size_t)n_embd + (size_t)n_ff) * 2 * ROWS + (size_t)n_embd * (size_t)n_ff;
    float *x = b->roof + (size_t)task * len, *w = x + (size_t)n_embd * ROWS;
    (void)thread;
    for (int i = 0; i < PRODUCTS; i++) {
        pg_gemm_nt(&(struct pg_gemm){.by = &b->blas,
                                     .m = ROWS,
                                     .n = n_ff,
                                     .k = n_embd,
                                     .a = x,
                                     .lda = n_embd,
                                     .b = w,
                                     .ldb = n_embd,
                                     .c = w + (size_t)n_embd * (size_t)n_ff,
                                     .ldc = n_ff});
    }
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(double *v, int n)
{
    qsort(v, (size_t)n, sizeof(v[0]), compare);
    return v[n / 2];
}

/* Wall time, and processor time of all threads: on a machine that does other things as well the
 * second says more. */
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

struct times {
    double wall[MAX_REPEATS], cpu[MAX_REPEATS];
    int n;
};

static void note(struct times *t, struct seconds begin)
{
    struct seconds end = now();
    t->wall[t->n] = end.wall - begin.wall;
    t->cpu[t->n++] = end.cpu - begin.cpu;
}

static void print(const char *what, struct times *t, double n_tok, double flop)
{
    double wall = median(t->wall, t->n), cpu = median(t->cpu, t->n);
    printf("%-18s %8.1f ms (%.1f to %.1f)  %8.0f tok/s  %6.1f GFLOP/s; %8.1f ms of processor time, "
           "%.1f GFLOP/s\n",
           what, wall * 1e3, t->wall[0] * 1e3, t->wall[t->n - 1] * 1e3, n_tok / wall,
           flop / wall * 1e-9, cpu * 1e3, flop / cpu * 1e-9);
}

static int measure(struct bench *b, int repeats, struct pg_err *err)
{
    struct times forward = {.n = 0}, both = {.n = 0}, roof = {.n = 0};
    int n_threads = pg_pool_n_threads(b->pool), n_tok = b->opt.n_seq * b->opt.seq_len;
    double product = 2.0 * ROWS * b->model.h.n_embd * PG_MAX(b->model.h.n_ff_exp, b->model.h.n_ff);
    double flop = forward_flop(b) * n_tok;
    struct pg_net_loss loss;
    PG_TRY(pg_net_run(b->net, (struct pg_net_point){b->w, b->g, 1, NULL}, &b->batch, &loss,
                      err)); /* pages touched */
    for (int i = 0; i < repeats; i++) {
        struct seconds begin = now();
        PG_TRY(
            pg_net_run(b->net, (struct pg_net_point){b->w, NULL, 1, NULL}, &b->batch, &loss, err));
        note(&forward, begin);
        begin = now();
        PG_TRY(
            pg_net_run(b->net, (struct pg_net_point){b->w, b->g, 1, NULL}, &b->batch, &loss, err));
        note(&both, begin);
        begin = now();
        pg_pool_run(b->pool, roof_task, b, n_threads);
        note(&roof, begin);
    }
    printf("%d threads, %d x %d tokens, loss %.4f, balance %.3f, %.1f MiB\n", n_threads,
           b->opt.n_seq, b->opt.seq_len, loss.nll, loss.balance,
           (double)pg_net_bytes(&b->opt) / 0x1p20);
    print("forward", &forward, n_tok, flop);
    print("forward, backward", &both, n_tok, 3 * flop);
    print("products alone", &roof, 0, n_threads * PRODUCTS * product);
    printf("of the roof        %.2f; of processor time %.2f\n",
           3 * flop / median(both.wall, repeats) /
               (n_threads * PRODUCTS * product / median(roof.wall, repeats)),
           3 * flop / median(both.cpu, repeats) /
               (n_threads * PRODUCTS * product / median(roof.cpu, repeats)));
    return 0;
}

int main(int argc, char **argv)
{
    struct pg_err err = {0};
    struct bench b = {.opt = {.n_seq = 16, .seq_len = 256, .balance_weight = 0.01f}};
    int n_threads = argc > 2 ? atoi(argv[2]) : pg_os_n_cpu(),
        repeats = argc > 5 ? atoi(argv[5]) : 5;
    if (argc > 4) {
        b.opt.n_seq = atoi(argv[3]);
        b.opt.seq_len = atoi(argv[4]);
    }
    if (argc < 2 || repeats < 1 || repeats > MAX_REPEATS) {
        fprintf(stderr, "usage: bench_train_step MODEL.gguf [THREADS [N_SEQ SEQ_LEN [REPEATS]]]\n");
        return 2;
    }
    int rc = open_bench(&b, argv[1], n_threads, &err);
    rc = rc ? rc : measure(&b, repeats, &err);
    if (rc)
        fprintf(stderr, "bench_train_step: %s\n", err.text);
    pg_net_close(b.net);
    pg_pool_close(b.pool);
    pg_model_close(&b.model);
    pg_gguf_close(b.gguf);
    free(b.w);
    free(b.g);
    free(b.roof);
    free(b.token);
    return rc ? 1 : 0;
}
