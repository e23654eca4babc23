/* SPDX-License-Identifier: MIT
 * Clock, pages, what this machine has and leaves, and atomic files on Linux.
 */
#include "base/os.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <link.h>
#include <malloc.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define STACK_BYTES ((uint64_t)256 << 10) /* of the thread that calls us */

uint64_t pg_now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- memory */

static size_t round_up(size_t n, size_t unit)
{
    return (n + unit - 1) / unit * unit;
}

static size_t pages_length(size_t size_bytes)
{
    return round_up(PG_MAX(size_bytes, (size_t)1), PG_PAGE);
}

void *pg_pages_map(size_t size_bytes)
{
    if (size_bytes > SIZE_MAX / 2)
        return NULL;
    size_t n = pages_length(size_bytes);
    size_t slack = n > PG_PAGE_HUGE ? PG_PAGE_HUGE : 0;
    char *p = mmap(NULL, n + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    if (slack) {
        /* Begin at a huge page's border and give back what lies around. */
        size_t before = round_up((uintptr_t)p, PG_PAGE_HUGE) - (uintptr_t)p;
        if (before)
            munmap(p, before);
        if (slack - before)
            munmap(p + before + n, slack - before);
        p += before;
        madvise(p, n, MADV_HUGEPAGE); /* a wish; kernels without it refuse */
    }
    return p;
}

void *pg_pages_reserve(size_t size_bytes)
{
    if (size_bytes > SIZE_MAX / 2)
        return NULL;
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void *p = mmap(NULL, pages_length(size_bytes), PROT_NONE, flags, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

void pg_pages_unmap(void *p, size_t size_bytes)
{
    if (p)
        munmap(p, pages_length(size_bytes));
}

void pg_pages_touch(void *p, size_t size_bytes)
{
    for (size_t at = 0; at < size_bytes; at += PG_PAGE)
        ((volatile char *)p)[at] = 0;
}

void *pg_calloc(size_t n, size_t size_bytes)
{
    size_t total;

    if (__builtin_mul_overflow(n, size_bytes, &total))
        return NULL;
    return calloc(PG_MAX(total, (size_t)1), 1);
}

int pg_reserve(void *p, size_t *cap, size_t n, size_t size_bytes)
{
    void *array;
    size_t want = PG_MAX(PG_MAX(n, 16), *cap + *cap / 2), bytes;
    if (n <= *cap)
        return 0;
    memcpy(&array, p, sizeof(array)); /* *p is a pointer of any type */
    array = __builtin_mul_overflow(want, size_bytes, &bytes) ? NULL : realloc(array, bytes);
    if (!array)
        return PG_ENOMEM;
    memcpy(p, &array, sizeof(array));
    *cap = want;
    return 0;
}

static int affinity(void)
{
    for (int n_max = 1024; n_max <= 1 << 20; n_max *= 4) {
        cpu_set_t *set = CPU_ALLOC((size_t)n_max);
        size_t size = CPU_ALLOC_SIZE((size_t)n_max);
        if (!set)
            break;
        int rc = sched_getaffinity(0, size, set);
        int n = rc ? 0 : CPU_COUNT_S(size, set);
        CPU_FREE(set);
        if (!rc)
            return PG_MAX(n, 1);
        if (errno != EINVAL)
            break;
    }
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (int)n : 1;
}

int pg_os_n_cpu(void)
{
    int n = affinity(), quota = pg_os_cpu_quota("");

    return quota ? PG_MIN(n, quota) : n;
}

/* ---- memory limits */

/* Files of /proc have no size, so the buffer grows. */
char *pg_os_read_text(const char *path)
{
    size_t n = 0, room = 4096;
    char *text = malloc(room);
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    while (text && fd >= 0) {
        ssize_t got = read(fd, text + n, room - n - 1);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0) {
            text[n] = 0;
            close(fd);
            if (got == 0)
                return text;
            free(text);
            return NULL;
        }
        n += (size_t)got;
        if (room - n < 2048) {
            char *more = room < (64u << 20) ? realloc(text, room *= 2) : NULL;
            if (!more)
                break;
            text = more;
        }
    }
    free(text);
    if (fd >= 0)
        close(fd);
    return NULL;
}

uint64_t pg_os_number_after(const char *text, const char *key, uint64_t none)
{
    size_t n = strlen(key);

    for (const char *line = text; line && *line;) {
        if (!strncmp(line, key, n) && (line[n] == ' ' || line[n] == ':' || line[n] == '\t'))
            return strtoull(line + n + 1, NULL, 10);
        line = strchr(line, '\n');
        line = line ? line + 1 : NULL;
    }
    return none;
}

/* The value of a "VmX: N kB" line of our status, in bytes; 0 when it is not there. */
static uint64_t status_bytes(const char *key)
{
    char *text = pg_os_read_text("/proc/self/status");
    uint64_t kib = pg_os_number_after(text, key, 0);

    free(text);
    return kib * 1024;
}

struct pg_os_memory pg_os_memory_now(void)
{
    struct pg_os_memory m;
    struct rlimit r;

    pg_os_memory_read("", &m);
    if (!getrlimit(RLIMIT_AS, &r) && r.rlim_cur != RLIM_INFINITY) {
        uint64_t limit = r.rlim_cur, used = status_bytes("VmSize");
        m.limit = PG_MIN(m.limit, limit);
        m.available = PG_MIN(m.available, limit - PG_MIN(limit, used));
    }
    return m;
}

uint64_t pg_os_rss(void)
{
    return status_bytes("VmRSS");
}

/* A loaded object's segments in whole pages. */
static int add_image(struct dl_phdr_info *info, size_t size, void *sum)
{
    uint64_t *bytes = sum;
    (void)size;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *p = &info->dlpi_phdr[i];
        if (p->p_type == PT_LOAD)
            *bytes += round_up(p->p_vaddr % PG_PAGE + p->p_memsz, PG_PAGE);
    }
    return 0;
}

uint64_t pg_os_held(void)
{
    uint64_t images = 0;
    malloc_trim(0); /* what is free, but resident, would be held beside the rest */
    struct mallinfo2 heap = mallinfo2();
    dl_iterate_phdr(add_image, &images);
    /* Pages of the heap that are not full, at about a sixteenth. */
    uint64_t held = images + heap.uordblks + heap.uordblks / 16 + heap.hblkhd + STACK_BYTES;
    return PG_MAX(held, pg_os_rss());
}

/* The system's own count has the peak of whoever started us in it: better too much than nothing. */
uint64_t pg_peak_rss(void)
{
    uint64_t peak = status_bytes("VmHWM");
    struct rusage usage;
    if (!peak && !getrusage(RUSAGE_SELF, &usage))
        peak = (uint64_t)usage.ru_maxrss * 1024;
    return peak;
}

bool pg_peak_rss_reset(void)
{
    int fd = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);
    bool done = fd >= 0 && write(fd, "5", 1) == 1;

    if (fd >= 0)
        close(fd);
    return done;
}

/* ---- files that stay as they are */

int pg_stamp_take(struct pg_stamp *s, int fd)
{
    struct stat st;

    if (fstat(fd, &st))
        return errno;
    *s = (struct pg_stamp){
        .device = st.st_dev,
        .inode = st.st_ino,
        .bytes = (uint64_t)st.st_size,
        .written_ns = (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec,
    };
    return 0;
}

int pg_stamp_check(const struct pg_stamp *s, int fd, const char *path, struct pg_err *err)
{
    struct pg_stamp now = {0};
    int os_error = pg_stamp_take(&now, fd);

    if (os_error)
        return pg_fail_os(err, PG_EIO, os_error, "%s: cannot be looked at", path);
    if (now.device != s->device || now.inode != s->inode)
        return pg_fail(err, PG_EIO, "%s: another file has taken its place while it was opened",
                       path);
    if (now.bytes != s->bytes)
        return pg_fail(err, PG_EIO,
                       "%s: changed while it was in use: %" PRIu64 " bytes found, %" PRIu64
                       " when it was opened",
                       path, now.bytes, s->bytes);
    if (now.written_ns != s->written_ns)
        return pg_fail(err, PG_EIO, "%s: changed while it was in use: it was written to", path);
    return 0;
}

static const char *file_kind(mode_t mode)
{
    if (S_ISDIR(mode))
        return "a folder";
    if (S_ISFIFO(mode))
        return "a pipe";
    return S_ISSOCK(mode) ? "a socket" : "a device";
}

int pg_open_text(FILE **out, const char *path, bool *pipe, struct pg_err *err)
{
    struct stat st;

    *out = NULL;
    if (!path)
        return pg_fail(err, PG_EARG, "no file given");
    if (stat(path, &st)) /* before the open, which may do something to a device */
        return pg_fail_os(err, PG_EIO, errno, "%s", path);
    if (pipe)
        *pipe = S_ISFIFO(st.st_mode);
    if (!S_ISREG(st.st_mode) && !(pipe && *pipe))
        return pg_fail(err, PG_EARG, "%s: is %s; a file%s is wanted", path, file_kind(st.st_mode),
                       pipe ? " or a pipe" : "");
    *out = fopen(path, "rbe");
    return *out ? 0 : pg_fail_os(err, PG_EIO, errno, "%s", path);
}

bool pg_same_file(const char *a, const char *b)
{
    struct stat x, y;
    return a && b && stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev &&
           x.st_ino == y.st_ino;
}
