/* SPDX-License-Identifier: MIT */
#include "net/rows/blas.h"

#include "base/os.h"

#include <dlfcn.h>
#include <sched.h>
#include <sys/mman.h>

#define LIBRARY "libopenblas.so.0"
/* Address space of a buffer that OpenBLAS maps for each thread that calls it. */
#define BUFFER_BYTES ((size_t)128 << 20)

/* CBLAS's names for the order of a matrix. */
enum { ROW_MAJOR = 101, NO_TRANS = 111, TRANS = 112 };

/* OpenBLAS makes a thread for each processor that the loading thread may run on, and those that it
 * makes never end when memory is short: it is shown a single processor. */
static void *load(void)
{
    cpu_set_t all, one;
    int cpu = sched_getcpu();
    bool bound = cpu >= 0 && cpu < CPU_SETSIZE && !sched_getaffinity(0, sizeof(all), &all);
    if (bound) {
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        bound = !sched_setaffinity(0, sizeof(one), &one);
    }
    void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (bound)
        sched_setaffinity(0, sizeof(all), &all);
    return library;
}

int pg_blas_open(struct pg_blas *b, struct pg_err *err)
{
    const char *name = sizeof(pg_real) == sizeof(float) ? "cblas_sgemm" : "cblas_dgemm";
    void (*set_num_threads)(int) = NULL;
    int (*get_parallel)(void) = NULL; /* 0: built for one thread */
    void *library = load();
    if (!library) {
        return pg_fail(err, PG_ENOTSUP,
                       "training needs OpenBLAS (Debian: libopenblas0-pthread): %s", dlerror());
    }
    *(void **)&b->gemm = dlsym(library, name);
    *(void **)&set_num_threads = dlsym(library, "openblas_set_num_threads");
    *(void **)&get_parallel = dlsym(library, "openblas_get_parallel");
    dlclose(library); /* it stays */
    if (!b->gemm || !set_num_threads || !get_parallel)
        return pg_fail(err, PG_ENOTSUP, LIBRARY ": no OpenBLAS, it lacks %s", name);
    if (get_parallel() == 0) {
        return pg_fail(err, PG_ENOTSUP,
                       LIBRARY ": an OpenBLAS for one thread found, one that several threads may "
                               "call wanted (Debian: libopenblas0-pthread instead of "
                               "libopenblas0-serial)");
    }
    set_num_threads(1);
    return 0;
}

int pg_blas_check(int n_threads, struct pg_err *err)
{
    size_t bytes = (size_t)n_threads * BUFFER_BYTES;
    void *p = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        return pg_fail(err, PG_ENOMEM,
                       "OpenBLAS takes %zu MiB of address space with %d threads, which the process "
                       "may not have",
                       bytes >> 20, n_threads);
    }
    munmap(p, bytes);
    return 0;
}

static void gemm(const struct pg_gemm *g, int trans_a, int trans_b)
{
    g->by->gemm(ROW_MAJOR, trans_a, trans_b, g->m, g->n, g->k, 1, g->a, g->lda, g->b, g->ldb,
                g->beta, g->c, g->ldc);
}

void pg_gemm_nn(const struct pg_gemm *g)
{
    gemm(g, NO_TRANS, NO_TRANS);
}

void pg_gemm_nt(const struct pg_gemm *g)
{
    gemm(g, NO_TRANS, TRANS);
}

void pg_gemm_tn(const struct pg_gemm *g)
{
    gemm(g, TRANS, NO_TRANS);
}
