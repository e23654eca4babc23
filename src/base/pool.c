/* SPDX-License-Identifier: MIT
 * The thread pool: one ticket, one count of finished tasks.
 *
 *   ticket = generation << 32 | tasks that are left        done = tasks that are finished
 *
 * A thread takes a task by lowering `left` with a compare-and-swap. The loop's function and
 * argument are written only while left is 0, and a swap succeeds only in the generation that was
 * read before them, so a thread that wakes late from an old loop can never run a new loop's task by
 * mistake and nobody has to wait for it. The last finished task ends the loop.
 *
 * Waiting is done in two steps on both sides: spin, then sleep on a condition variable. Whoever
 * goes to sleep first announces it and then looks once more, and whoever has news first publishes
 * it and then looks for sleepers; both with sequentially consistent operations, so one of the two
 * sees the other. With more threads than processors spinning would only keep the others from
 * working.
 */
#include "base/pool.h"

#include "base/os.h"

#include <pthread.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#define SPIN_NS        1000000u /* about as long as an expert's read: decision 002 */
#define SPIN_LOOKS     32
#define CACHE_LINE     64
#define LEFT_MASK      0xffffffffu
#define ONE_GENERATION (1ull << 32)

struct worker {
    struct pg_pool *pool;
    pthread_t thread;
    int index;
    uint64_t begin_ns, end_ns; /* of its part in the last loop it had one in; only when traced */
};

struct pg_pool {
    alignas(CACHE_LINE) atomic_ullong ticket;
    _Atomic(pg_task_fn *) fn;
    _Atomic(void *) arg;
    atomic_int n_tasks;
    atomic_bool closing;

    alignas(CACHE_LINE) atomic_int done;

    alignas(CACHE_LINE) atomic_int n_asleep; /* workers */
    atomic_bool caller_asleep;
    pthread_mutex_t lock; /* held only around the two conditions */
    pthread_cond_t work, finished;

    bool spin, has_lock, has_work, has_finished, running;
    int n_threads, n_started;
    struct worker *workers;
    struct pg_trace *trace; /* NULL: none */
};

/* Takes tasks until none is left; returns how many it ran. */
static int run_tasks(struct pg_pool *p, int thread)
{
    int n_run = 0;
    unsigned long long t = atomic_load_explicit(&p->ticket, memory_order_acquire);

    while (t & LEFT_MASK) {
        pg_task_fn *fn = atomic_load_explicit(&p->fn, memory_order_relaxed);
        void *arg = atomic_load_explicit(&p->arg, memory_order_relaxed);
        int n = atomic_load_explicit(&p->n_tasks, memory_order_relaxed);
        if (!atomic_compare_exchange_weak_explicit(&p->ticket, &t, t - 1, memory_order_acq_rel,
                                                   memory_order_acquire))
            continue;
        fn(arg, n - (int)(t & LEFT_MASK), thread);
        n_run++;
        t = atomic_load_explicit(&p->ticket, memory_order_acquire);
    }
    return n_run;
}

static bool work_waits(const struct pg_pool *p)
{
    return (atomic_load(&p->ticket) & LEFT_MASK) || atomic_load(&p->closing);
}

static bool loop_finished(const struct pg_pool *p)
{
    return atomic_load(&p->done) == atomic_load_explicit(&p->n_tasks, memory_order_relaxed);
}

static bool spin_until(const struct pg_pool *p, bool (*ready)(const struct pg_pool *))
{
    if (ready(p))
        return true;
    if (!p->spin)
        return false;
    uint64_t end = pg_now_ns() + SPIN_NS;
    do {
        for (int i = 0; i < SPIN_LOOKS; i++) {
            pg_cpu_relax();
            if (ready(p))
                return true;
        }
    } while (pg_now_ns() < end);
    return false;
}

static void wait_for_work(struct pg_pool *p)
{
    if (spin_until(p, work_waits))
        return;
    pthread_mutex_lock(&p->lock);
    atomic_fetch_add(&p->n_asleep, 1);
    while (!work_waits(p))
        pthread_cond_wait(&p->work, &p->lock);
    atomic_fetch_sub(&p->n_asleep, 1);
    pthread_mutex_unlock(&p->lock);
}

static void *worker_main(void *arg)
{
    struct worker *w = arg;
    struct pg_pool *p = w->pool;

    for (;;) {
        wait_for_work(p);
        if (atomic_load(&p->closing))
            return NULL;
        uint64_t begin_ns = p->trace ? pg_now_ns() : 0;
        int n_run = run_tasks(p, w->index);
        if (!n_run)
            continue;
        if (p->trace) {
            w->begin_ns = begin_ns;
            w->end_ns = pg_now_ns();
        }
        /* After this addition the caller may begin the next loop: touch only the lock from here. */
        int n = atomic_load_explicit(&p->n_tasks, memory_order_relaxed);
        bool last = atomic_fetch_add(&p->done, n_run) + n_run == n;
        if (last && atomic_load(&p->caller_asleep)) {
            pthread_mutex_lock(&p->lock);
            pthread_cond_signal(&p->finished);
            pthread_mutex_unlock(&p->lock);
        }
    }
}

static int start_workers(struct pg_pool *p, struct pg_err *err)
{
    for (int i = 0; i < p->n_threads - 1; i++) {
        struct worker *w = &p->workers[i];
        *w = (struct worker){.pool = p, .index = i + 1};
        int rc = pthread_create(&w->thread, NULL, worker_main, w);
        if (rc)
            return pg_fail_os(err, PG_ESYSTEM, rc, "starting thread %d of %d", i + 2, p->n_threads);
        p->n_started++;
        char name[24];
        snprintf(name, sizeof(name), "pg-%d", i + 1);
        pthread_setname_np(w->thread, name);
    }
    return 0;
}

static int open_pool(struct pg_pool *p, struct pg_err *err)
{
    p->has_lock = !pthread_mutex_init(&p->lock, NULL);
    p->has_work = !pthread_cond_init(&p->work, NULL);
    p->has_finished = !pthread_cond_init(&p->finished, NULL);
    if (!p->has_lock || !p->has_work || !p->has_finished)
        return pg_fail(err, PG_ESYSTEM, "thread pool: no lock could be made");
    if (p->n_threads == 1)
        return 0;
    p->workers = pg_calloc((size_t)p->n_threads - 1, sizeof(*p->workers));
    if (!p->workers)
        return pg_fail(err, PG_ENOMEM, "thread pool: no memory for %d threads", p->n_threads);
    return start_workers(p, err);
}

int pg_pool_open(struct pg_pool **out, int n_threads, struct pg_err *err)
{
    struct pg_pool *p;
    int rc;

    *out = NULL;
    if (n_threads < 1 || n_threads > PG_THREADS_MAX)
        return pg_fail(err, PG_EARG, "%d threads asked for; 1 to %d are possible", n_threads,
                       PG_THREADS_MAX);
    p = aligned_alloc(CACHE_LINE, sizeof(*p));
    if (!p)
        return pg_fail(err, PG_ENOMEM, "thread pool: no memory");
    *p = (struct pg_pool){.n_threads = n_threads, .spin = n_threads <= pg_os_n_cpu()};
    rc = open_pool(p, err);
    if (rc) {
        pg_pool_close(p);
        return rc;
    }
    *out = p;
    return 0;
}

void pg_pool_close(struct pg_pool *p)
{
    if (!p)
        return;
    if (p->n_started) {
        pthread_mutex_lock(&p->lock);
        atomic_store(&p->closing, true);
        pthread_cond_broadcast(&p->work);
        pthread_mutex_unlock(&p->lock);
    }
    for (int i = 0; i < p->n_started; i++)
        pthread_join(p->workers[i].thread, NULL);
    if (p->has_finished)
        pthread_cond_destroy(&p->finished);
    if (p->has_work)
        pthread_cond_destroy(&p->work);
    if (p->has_lock)
        pthread_mutex_destroy(&p->lock);
    free(p->workers);
    free(p);
}

int pg_pool_n_threads(const struct pg_pool *p)
{
    return p->n_threads;
}

static void publish(struct pg_pool *p, pg_task_fn *fn, void *arg, int n_tasks)
{
    atomic_store_explicit(&p->fn, fn, memory_order_relaxed);
    atomic_store_explicit(&p->arg, arg, memory_order_relaxed);
    atomic_store_explicit(&p->n_tasks, n_tasks, memory_order_relaxed);
    atomic_store_explicit(&p->done, 0, memory_order_relaxed);
    unsigned long long t = atomic_load_explicit(&p->ticket, memory_order_relaxed);
    atomic_store(&p->ticket, ((t & ~(unsigned long long)LEFT_MASK) + ONE_GENERATION) |
                                 (unsigned long long)n_tasks);
    if (atomic_load(&p->n_asleep)) {
        pthread_mutex_lock(&p->lock);
        pthread_cond_broadcast(&p->work);
        pthread_mutex_unlock(&p->lock);
    }
}

static void wait_for_end(struct pg_pool *p)
{
    if (spin_until(p, loop_finished))
        return;
    pthread_mutex_lock(&p->lock);
    atomic_store(&p->caller_asleep, true);
    while (!loop_finished(p))
        pthread_cond_wait(&p->finished, &p->lock);
    atomic_store(&p->caller_asleep, false);
    pthread_mutex_unlock(&p->lock);
}

void pg_pool_trace(struct pg_pool *p, struct pg_trace *trace)
{
    PG_ASSERT(!p->running);
    p->trace = trace;
}

/* The parts that workers had in the loop that began at begin_ns and has ended. */
static void trace_workers(struct pg_pool *p, uint64_t begin_ns)
{
    for (int i = 0; i < p->n_started; i++) {
        const struct worker *w = &p->workers[i];
        if (w->end_ns >= begin_ns)
            pg_trace_add(p->trace, (struct pg_trace_event){"loop", PG_MAX(w->begin_ns, begin_ns),
                                                           w->end_ns, PG_TRACK_WORKER + i, -1, -1});
    }
}

void pg_pool_run(struct pg_pool *p, pg_task_fn *fn, void *arg, int n_tasks)
{
    PG_ASSERT(!p->running);
    p->running = true;
    if (p->n_threads == 1 || n_tasks <= 1) {
        for (int i = 0; i < n_tasks; i++)
            fn(arg, i, 0);
    } else {
        uint64_t begin_ns = p->trace ? pg_now_ns() : 0;
        publish(p, fn, arg, n_tasks);
        atomic_fetch_add(&p->done, run_tasks(p, 0));
        wait_for_end(p);
        if (p->trace)
            trace_workers(p, begin_ns);
    }
    p->running = false;
}
