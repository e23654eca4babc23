/* SPDX-License-Identifier: MIT
 * Clock, pages, memory limits and atomic files on Linux.
 *
 * The memory limit of a cgroup is found as a program in a container must find it: the group's path
 * comes from /proc/self/cgroup, the place where its file system is mounted from
 * /proc/self/mountinfo, and every directory from the group up to that mount can hold a limit. Where
 * the path is not visible under the mount (another cgroup namespace), the mount itself is the
 * group.
 */
#include "base/os.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define HUGE_PAGE  ((size_t)2 << 20)
#define TEMP_TRIES 100

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
    size_t slack = n > HUGE_PAGE ? HUGE_PAGE : 0;
    char *p = mmap(NULL, n + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    if (slack) {
        /* Begin at a huge page's border and give back what lies around. */
        size_t before = round_up((uintptr_t)p, HUGE_PAGE) - (uintptr_t)p;
        if (before)
            munmap(p, before);
        if (slack - before)
            munmap(p + before + n, slack - before);
        p += before;
        madvise(p, n, MADV_HUGEPAGE); /* a wish; kernels without it refuse */
    }
    return p;
}

void pg_pages_unmap(void *p, size_t size_bytes)
{
    if (p)
        munmap(p, pages_length(size_bytes));
}

void *pg_calloc(size_t n, size_t size_bytes)
{
    size_t total;

    if (__builtin_mul_overflow(n, size_bytes, &total))
        return NULL;
    return calloc(PG_MAX(total, (size_t)1), 1);
}

int pg_os_n_cpu(void)
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

/* ---- memory limits */

/* Whole text of a small file, zero-terminated; NULL when it cannot be read. Files of /proc have no
 * size, so the buffer grows. */
static char *read_text(const char *path)
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

static char *read_text_in(const char *dir, const char *name)
{
    char *path = NULL, *text = NULL;

    if (asprintf(&path, "%s/%s", dir, name) >= 0) {
        text = read_text(path);
        free(path);
    }
    return text;
}

/* The number after `key` at the beginning of a line; `none` when there is no such line. */
static uint64_t number_after(const char *text, const char *key, uint64_t none)
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

/* A limit file holds a number or "max". Version 1 writes a number near 2^63 for "none". */
static uint64_t read_limit(const char *dir, const char *name)
{
    char *text = read_text_in(dir, name), *end;
    uint64_t v = UINT64_MAX;

    if (text) {
        uint64_t n = strtoull(text, &end, 10);
        if (end != text && n < 1ull << 60)
            v = n;
    }
    free(text);
    return v;
}

struct group_files { /* where each version of the file system keeps its numbers */
    const char *limit[2], *usage, *inactive, *active;
};
static const struct group_files group_v1 = {
    {"memory.limit_in_bytes", "memory.limit_in_bytes"},
    "memory.usage_in_bytes",
    "total_inactive_file",
    "total_active_file",
};
static const struct group_files group_v2 = {
    {"memory.max", "memory.high"},
    "memory.current",
    "inactive_file",
    "active_file",
};

static void apply_group(const char *dir, const struct group_files *f, struct pg_os_memory *m)
{
    char *stat = read_text_in(dir, "memory.stat");
    uint64_t limit = PG_MIN(read_limit(dir, f->limit[0]), read_limit(dir, f->limit[1]));

    if (limit != UINT64_MAX) {
        uint64_t usage = read_limit(dir, f->usage);
        uint64_t cache = number_after(stat, f->inactive, 0) + number_after(stat, f->active, 0);
        usage = usage == UINT64_MAX ? 0 : usage;
        usage -= PG_MIN(usage, cache);
        m->limit = PG_MIN(m->limit, limit);
        m->available = PG_MIN(m->available, limit - PG_MIN(limit, usage));
    }
    /* Version 1 tells here about limits of parents that a container cannot see. */
    m->limit = PG_MIN(m->limit, number_after(stat, "hierarchical_memory_limit", UINT64_MAX));
    free(stat);
}

static bool list_has(const char *list, size_t n, char separator, const char *item)
{
    size_t len = strlen(item);

    while (n) {
        const char *end = memchr(list, separator, n);
        size_t k = end ? (size_t)(end - list) : n;
        if (k == len && !memcmp(list, item, len))
            return true;
        k += end != NULL;
        list += k;
        n -= k;
    }
    return false;
}

/* The path of our memory group, of version 1 or 2, from the text of /proc/self/cgroup. The text is
 * cut in place. NULL: none. */
static char *group_path(char *text, bool v2)
{
    for (char *line = text; line && *line;) {
        char *next = strchr(line, '\n');
        char *list = strchr(line, ':');
        char *path = list ? strchr(list + 1, ':') : NULL;
        bool found = false;
        if (path && (!next || path < next)) {
            size_t n = (size_t)(path - list - 1);
            found = v2 ? n == 0 && line[0] == '0' && list == line + 1
                       : list_has(list + 1, n, ',', "memory");
        }
        if (found) {
            if (next)
                *next = 0;
            return path + 1;
        }
        line = next ? next + 1 : NULL;
    }
    return NULL;
}

struct mount {
    char *root, *point; /* borrowed from the line, unescaped */
    bool is_v1_memory, is_v2;
};

/* mountinfo writes space, tab, newline and backslash as three octal digits. */
static void unescape(char *s)
{
    char *to = s;

    for (; *s; s++) {
        if (s[0] == '\\' && s[1] >= '0' && s[1] <= '3' && s[2] >= '0' && s[2] <= '7' &&
            s[3] >= '0' && s[3] <= '7') {
            *to++ = (char)((s[1] - '0') * 64 + (s[2] - '0') * 8 + (s[3] - '0'));
            s += 3;
        } else {
            *to++ = *s;
        }
    }
    *to = 0;
}

/* id parent major:minor root point options [tags…] - type source super-options */
static bool parse_mount(char *line, struct mount *m)
{
    char *dash = strstr(line, " - "), *save = NULL;
    char *field[5], *type, *super;

    if (!dash)
        return false;
    *dash = 0;
    for (int i = 0; i < 5; i++) {
        field[i] = strtok_r(i ? NULL : line, " ", &save);
        if (!field[i])
            return false;
    }
    type = strtok_r(dash + 3, " ", &save);
    if (!type || !strtok_r(NULL, " ", &save))
        return false;
    super = strtok_r(NULL, " ", &save);
    m->root = field[3];
    m->point = field[4];
    unescape(m->root);
    unescape(m->point);
    m->is_v2 = !strcmp(type, "cgroup2");
    m->is_v1_memory =
        !strcmp(type, "cgroup") && super && list_has(super, strlen(super), ',', "memory");
    return true;
}

/* What follows the mount's root in the group's path; NULL when the group is not under that root. */
static const char *path_under(const char *root, const char *path)
{
    size_t n = strlen(root);

    while (n && root[n - 1] == '/')
        n--;
    if (strncmp(root, path, n) || (path[n] && path[n] != '/') || strstr(path, "/.."))
        return NULL;
    return path + n;
}

/* Applies every directory from the group up to the mount. */
static void apply_chain(const char *root, const struct mount *mount, const char *under,
                        const struct group_files *files, struct pg_os_memory *m)
{
    char *dir = NULL;
    int n_base, n = asprintf(&dir, "%s%s%n%s", root, mount->point, &n_base, under ? under : "");

    if (n < 0)
        return;
    for (;;) {
        while (n > n_base && dir[n - 1] == '/')
            dir[--n] = 0;
        apply_group(dir, files, m);
        if (n <= n_base)
            break;
        while (n > n_base && dir[n - 1] != '/')
            dir[--n] = 0;
    }
    free(dir);
}

/* Applies the mount that shows the group best: one that has it below its root, else any. */
static void apply_version(const char *root, char *mounts, char *cgroups, bool v2,
                          struct pg_os_memory *m)
{
    const char *path = group_path(cgroups, v2), *under = NULL;
    struct mount best = {0};
    char *save = NULL;

    if (!path)
        return;
    for (char *line = strtok_r(mounts, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        struct mount one;
        if (!parse_mount(line, &one) || !(v2 ? one.is_v2 : one.is_v1_memory))
            continue;
        const char *u = path_under(one.root, path);
        if (!best.point || (u && !under)) {
            best = one;
            under = u;
        }
    }
    if (best.point)
        apply_chain(root, &best, under, v2 ? &group_v2 : &group_v1, m);
}

void pg_os_memory_read(const char *root, struct pg_os_memory *out)
{
    char proc[4096];
    char *info;

    snprintf(proc, sizeof(proc), "%s/proc", root);
    info = read_text_in(proc, "meminfo");
    out->total = number_after(info, "MemTotal", 0) * 1024;
    out->limit = out->total ? out->total : UINT64_MAX;
    out->available = number_after(info, "MemAvailable", out->limit / 1024) * 1024;
    free(info);
    for (int v2 = 0; v2 < 2; v2++) {
        char *cgroups = read_text_in(proc, "self/cgroup");
        char *mounts = read_text_in(proc, "self/mountinfo");
        if (cgroups && mounts)
            apply_version(root, mounts, cgroups, v2, out);
        free(cgroups);
        free(mounts);
    }
    out->available = PG_MIN(out->available, out->limit);
}

/* The value of a "VmX: N kB" line of our status, in bytes; 0 when it is not there. */
static uint64_t status_bytes(const char *key)
{
    char *text = read_text("/proc/self/status");
    uint64_t kib = number_after(text, key, 0);

    free(text);
    return kib * 1024;
}

static struct pg_os_memory memory_now(void)
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

uint64_t pg_os_memory_total(void)
{
    return memory_now().total;
}

uint64_t pg_os_memory_limit(void)
{
    return memory_now().limit;
}

uint64_t pg_os_memory_available(void)
{
    return memory_now().available;
}

uint64_t pg_os_rss(void)
{
    return status_bytes("VmRSS");
}

uint64_t pg_peak_rss(void)
{
    return status_bytes("VmHWM");
}

bool pg_peak_rss_reset(void)
{
    int fd = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);
    bool done = fd >= 0 && write(fd, "5", 1) == 1;

    if (fd >= 0)
        close(fd);
    return done;
}

/* ---- files that appear whole */

static int open_temp(struct pg_outfile *f, struct pg_err *err)
{
    for (int i = 0; i < TEMP_TRIES; i++) {
        if (asprintf(&f->temp, "%s.%ld-%d.tmp", f->path, (long)getpid(), i) < 0) {
            f->temp = NULL;
            return pg_fail(err, PG_ENOMEM, "%s: no memory for a file name", f->path);
        }
        f->fd = open(f->temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (f->fd >= 0)
            return 0;
        int why = errno;
        if (why != EEXIST || i == TEMP_TRIES - 1)
            pg_fail_os(err, PG_EIO, why, "%s: cannot be created", f->temp);
        free(f->temp);
        f->temp = NULL;
        if (why != EEXIST)
            break;
    }
    return PG_EIO;
}

int pg_outfile_open(struct pg_outfile *f, const char *path, struct pg_err *err)
{
    struct stat st;
    int rc;

    *f = (struct pg_outfile){.fd = -1};
    /* A device or a pipe would be replaced by the rename. */
    if (!stat(path, &st) && !S_ISREG(st.st_mode))
        return pg_fail(err, PG_EARG, "%s: exists and is not a regular file", path);
    f->path = strdup(path);
    if (!f->path)
        return pg_fail(err, PG_ENOMEM, "%s: no memory for a file name", path);
    rc = open_temp(f, err);
    if (rc)
        pg_outfile_abandon(f);
    return rc;
}

int pg_outfile_write(struct pg_outfile *f, const void *data, size_t n, struct pg_err *err)
{
    const char *at = data;

    while (n) {
        ssize_t done = write(f->fd, at, n);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return pg_fail_os(err, PG_EIO, errno, "%s: writing %zu bytes", f->path, n);
        if (done == 0)
            return pg_fail(err, PG_EIO, "%s: writing %zu bytes wrote none", f->path, n);
        at += done;
        n -= (size_t)done;
    }
    return 0;
}

/* Makes the new name itself durable. A file system that cannot do that has nothing to lose. */
static void sync_directory(const char *path)
{
    const char *slash = strrchr(path, '/');
    char *dir = slash ? strndup(path, (size_t)PG_MAX(slash - path, 1)) : strdup(".");
    int fd = dir ? open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;

    if (fd >= 0) {
        fsync(fd);
        close(fd);
    }
    free(dir);
}

int pg_outfile_commit(struct pg_outfile *f, struct pg_err *err)
{
    int rc;

    if (fsync(f->fd))
        return pg_fail_os(err, PG_EIO, errno, "%s: writing to the disk", f->path);
    rc = close(f->fd);
    f->fd = -1;
    if (rc)
        return pg_fail_os(err, PG_EIO, errno, "%s: closing", f->path);
    if (rename(f->temp, f->path))
        return pg_fail_os(err, PG_EIO, errno, "%s: renaming %s to it", f->path, f->temp);
    free(f->temp);
    f->temp = NULL;
    sync_directory(f->path);
    pg_outfile_abandon(f);
    return 0;
}

void pg_outfile_abandon(struct pg_outfile *f)
{
    if (f->fd >= 0)
        close(f->fd);
    if (f->temp)
        unlink(f->temp);
    free(f->temp);
    free(f->path);
    *f = (struct pg_outfile){.fd = -1};
}
