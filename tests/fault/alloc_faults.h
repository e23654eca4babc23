/* SPDX-License-Identifier: MIT
 * Allocation n fails: a program that includes this file once is linked with PG_WRAP_ALLOC (see
 * CMakeLists.txt), and every allocation that our objects ask for comes here first. What libraries
 * take for themselves is seen where our code or the test hands them our malloc.
 *
 * While watching, calls are counted, the fail_at-th is refused, and what is live is remembered, so
 * that a leak is found in every build. pthread_create is counted and refused the same way, apart.
 */
#ifndef PG_TESTS_FAULT_ALLOC_FAULTS_H
#define PG_TESTS_FAULT_ALLOC_FAULTS_H

#include "base/err.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define LIVE_MAX  (1u << 17)
#define LIVE_GONE ((void *)1)

struct alloc_faults {
    pthread_mutex_t lock;
    bool watching;
    uint64_t fail_at, n_calls; /* allocations */
    uint64_t fail_thread_at, n_threads;
    uint64_t n_injected;
    int64_t n_live, mapped_bytes;
    void *live[LIVE_MAX]; /* open addressing */
    int fd_next;          /* the lowest free one when watching began */
};
static struct alloc_faults alloc_faults = {.lock = PTHREAD_MUTEX_INITIALIZER};

static size_t live_home(const void *p)
{
    return (size_t)(((uintptr_t)p >> 4) * 0x9e3779b97f4a7c15u >> 40) % LIVE_MAX;
}

static void live_add(struct alloc_faults *a, void *p)
{
    size_t i = live_home(p);
    PG_ASSERT(a->n_live < (int64_t)LIVE_MAX / 2);
    while ((uintptr_t)a->live[i] > (uintptr_t)LIVE_GONE)
        i = (i + 1) % LIVE_MAX;
    a->live[i] = p;
    a->n_live++;
}

/* Memory that is not ours (a library's, or from before) is not there. */
static void live_remove(struct alloc_faults *a, const void *p)
{
    for (size_t i = live_home(p), n = 0; a->live[i] && n < LIVE_MAX; i = (i + 1) % LIVE_MAX, n++)
        if (a->live[i] == p) {
            a->live[i] = LIVE_GONE;
            a->n_live--;
            return;
        }
}

/* Whether the allocation that begins now is refused. */
static bool alloc_refused(void)
{
    struct alloc_faults *a = &alloc_faults;
    pthread_mutex_lock(&a->lock);
    bool refused = a->watching && ++a->n_calls == a->fail_at;
    a->n_injected += refused;
    pthread_mutex_unlock(&a->lock);
    if (refused)
        errno = ENOMEM;
    return refused;
}

static void *alloc_watch(void *p)
{
    struct alloc_faults *a = &alloc_faults;
    pthread_mutex_lock(&a->lock);
    if (p && a->watching)
        live_add(a, p);
    pthread_mutex_unlock(&a->lock);
    return p;
}

static void alloc_forget(const void *p)
{
    struct alloc_faults *a = &alloc_faults;
    pthread_mutex_lock(&a->lock);
    if (p && a->watching)
        live_remove(a, p);
    pthread_mutex_unlock(&a->lock);
}

static void alloc_mapped(int64_t bytes)
{
    pthread_mutex_lock(&alloc_faults.lock);
    if (alloc_faults.watching)
        alloc_faults.mapped_bytes += bytes;
    pthread_mutex_unlock(&alloc_faults.lock);
}

static int64_t page_rounded(size_t n)
{
    return (int64_t)((n + 4095) / 4096 * 4096);
}

static int alloc_fd_next(void)
{
    int fd = dup(0);
    close(fd);
    return fd;
}

static void alloc_faults_begin(uint64_t fail_at, uint64_t fail_thread_at)
{
    struct alloc_faults *a = &alloc_faults;
    memset(a->live, 0, sizeof(a->live));
    a->n_calls = a->n_threads = a->n_injected = 0;
    a->n_live = a->mapped_bytes = 0;
    a->fail_at = fail_at;
    a->fail_thread_at = fail_thread_at;
    a->fd_next = alloc_fd_next();
    a->watching = true;
}

/* Ends watching. Everything is closed by now: says what is left. */
static bool alloc_faults_clean(void)
{
    struct alloc_faults *a = &alloc_faults;
    a->watching = false;
    int fd_next = alloc_fd_next();
    if (!a->n_live && !a->mapped_bytes && fd_next == a->fd_next)
        return true;
    fprintf(stderr, "left after refusal %d: %d allocations, %d bytes mapped, lowest file %d (%d)\n",
            (int)a->fail_at, (int)a->n_live, (int)a->mapped_bytes, fd_next, a->fd_next);
    return false;
}

/* ---- what the linker puts in the place of libc's ---- */

void *__real_malloc(size_t n);
void *__wrap_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__wrap_realloc(void *p, size_t n);
void *__real_aligned_alloc(size_t align, size_t n);
void *__wrap_aligned_alloc(size_t align, size_t n);
int __real_posix_memalign(void **p, size_t align, size_t n);
int __wrap_posix_memalign(void **p, size_t align, size_t n);
char *__real_strdup(const char *s);
char *__wrap_strdup(const char *s);
char *__real_strndup(const char *s, size_t n);
char *__wrap_strndup(const char *s, size_t n);
void __real_free(void *p);
void __wrap_free(void *p);
void *__real_mmap(void *at, size_t n, int prot, int flags, int fd, off_t offset);
void *__wrap_mmap(void *at, size_t n, int prot, int flags, int fd, off_t offset);
int __real_munmap(void *p, size_t n);
int __wrap_munmap(void *p, size_t n);
int __real_pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*fn)(void *), void *arg);
int __wrap_pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*fn)(void *), void *arg);

void *__wrap_malloc(size_t n)
{
    return alloc_refused() ? NULL : alloc_watch(__real_malloc(n));
}

void *__wrap_calloc(size_t n, size_t size)
{
    return alloc_refused() ? NULL : alloc_watch(__real_calloc(n, size));
}

void *__wrap_realloc(void *p, size_t n)
{
    if (alloc_refused())
        return NULL;
    alloc_forget(p); /* before another thread may be given the same address */
    void *q = __real_realloc(p, n);
    return alloc_watch(q ? q : p) == q ? q : NULL;
}

void *__wrap_aligned_alloc(size_t align, size_t n)
{
    return alloc_refused() ? NULL : alloc_watch(__real_aligned_alloc(align, n));
}

int __wrap_posix_memalign(void **p, size_t align, size_t n)
{
    if (alloc_refused())
        return ENOMEM;
    int rc = __real_posix_memalign(p, align, n);
    if (!rc)
        alloc_watch(*p);
    return rc;
}

char *__wrap_strdup(const char *s)
{
    return alloc_refused() ? NULL : alloc_watch(__real_strdup(s));
}

char *__wrap_strndup(const char *s, size_t n)
{
    return alloc_refused() ? NULL : alloc_watch(__real_strndup(s, n));
}

void __wrap_free(void *p)
{
    alloc_forget(p);
    __real_free(p);
}

void *__wrap_mmap(void *at, size_t n, int prot, int flags, int fd, off_t offset)
{
    if (alloc_refused())
        return MAP_FAILED;
    void *p = __real_mmap(at, n, prot, flags, fd, offset);
    if (p != MAP_FAILED)
        alloc_mapped(page_rounded(n));
    return p;
}

int __wrap_munmap(void *p, size_t n)
{
    int rc = __real_munmap(p, n);
    if (!rc)
        alloc_mapped(-page_rounded(n));
    return rc;
}

int __wrap_pthread_create(pthread_t *t, const pthread_attr_t *attr, void *(*fn)(void *), void *arg)
{
    struct alloc_faults *a = &alloc_faults;
    pthread_mutex_lock(&a->lock);
    bool refused = a->watching && ++a->n_threads == a->fail_thread_at;
    a->n_injected += refused;
    pthread_mutex_unlock(&a->lock);
    return refused ? EAGAIN : __real_pthread_create(t, attr, fn, arg);
}

/* ---- n = 1, 2, 3 … ---- */

/* Opens, uses and closes something. Returns what went wrong, everything closed. */
typedef int fault_operation(const void *arg, struct pg_err *err);

/* Runs the operation with every allocation refused in turn (or every thread), until none is left
 * to refuse. A refusal may be coped with; if not, the error is `want` and says something. Returns
 * how many refusals there were. */
static int fault_each(fault_operation *operation, const void *arg, bool threads, int want)
{
    for (int n = 1;; n++) {
        struct pg_err err = {0};
        alloc_faults_begin(threads ? 0 : (uint64_t)n, threads ? (uint64_t)n : 0);
        int rc = operation(arg, &err);
        uint64_t n_injected = alloc_faults.n_injected;
        assert_true(alloc_faults_clean());
        if (rc && (!n_injected || rc != want || err.code != rc || !err.text[0]))
            fail_msg("refusal %d: code %d, wanted %d: %d \"%s\"", n, rc, want, err.code, err.text);
        if (!n_injected)
            return n - 1;
        assert_int_equal(n_injected, 1);
    }
}

#endif
