/* SPDX-License-Identifier: MIT
 * base/: sentences, the thread pool, memory limits read from made-up machines, files that appear
 * whole or not at all, and the trace.
 */
#include "helpers.h"

#include "base/lines.h"
#include "base/os.h"
#include "base/pool.h"
#include "base/trace.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- sentences ---------------------------------------------------------------------------------
 */

static void test_errors(void **state)
{
    (void)state;
    struct pg_err e = {0};

    assert_int_equal(pg_fail(&e, PG_EARG, "%s is %d", "n", 5), PG_EARG);
    assert_int_equal(e.code, PG_EARG);
    assert_string_equal(e.text, "n is 5");
    assert_int_equal(pg_fail_in(&e, PG_EARG, "file"), PG_EARG);
    assert_string_equal(e.text, "file: n is 5");
    pg_fail_in(&e, PG_EARG, "file"); /* once is enough */
    assert_string_equal(e.text, "file: n is 5");
    /* The sentence may be made of the one it replaces. */
    pg_fail(&e, PG_EIO, "again: %s", e.text);
    assert_string_equal(e.text, "again: file: n is 5");
    assert_int_equal(pg_fail_os(&e, PG_EIO, ENOENT, "x"), PG_EIO);
    assert_string_equal(e.text, "x: No such file or directory");
    assert_int_equal(pg_fail(NULL, PG_EIO, "nobody listens"), PG_EIO);
    assert_int_equal(pg_fail_os(NULL, PG_EIO, EIO, "nobody listens"), PG_EIO);
    assert_int_equal(pg_fail_in(NULL, PG_EIO, "nobody"), PG_EIO);
    for (int i = 0; i < 300; i++)
        pg_fail_in(&e, PG_EIO, i % 2 ? "0123456789" : "abcdefghij");
    assert_int_equal(strlen(e.text), sizeof(e.text) - 1);
    assert_string_equal(pg_error_text(PG_EBUDGET), "memory budget too small");
    assert_string_equal(pg_error_text(12345), "unknown error");
}

static void test_quote(void **state)
{
    (void)state;
    char all[256];

    assert_string_equal(pg_quote("plain", 5).s, "plain");
    assert_string_equal(pg_quote("", 0).s, "");
    assert_string_equal(pg_quote("a\0b\n\x1b[1m", 8).s, "a\\x00b\\x0a\\x1b[1m");
    assert_string_equal(pg_quote("\\x41", 4).s, "\\x5cx41");
    assert_string_equal(pg_quote("\xc3\xa9", 2).s, "\\xc3\\xa9");
    for (int i = 0; i < 256; i++)
        all[i] = (char)i;
    for (size_t n = 0; n <= sizeof(all); n++)
        for (size_t from = 0; from < 256 - n; from += 31) {
            struct pg_quoted q = pg_quote(all + from, n);
            size_t len = strlen(q.s);
            assert_true(len < sizeof(q.s));
            for (size_t i = 0; i < len; i++)
                assert_true(q.s[i] >= 0x20 && q.s[i] < 0x7f);
        }
    assert_non_null(strstr(pg_quote(all, 256).s, "..."));
}

/* ---- lines -------------------------------------------------------------------------------------
 */

static void test_lines(void **state)
{
    (void)state;
    static const char *const want[] = {"one", "", "two\r and", "last"};
    struct pg_lines l;
    struct pg_err err;
    must(pg_lines_open(&l, put_text(IN_DIR("lines"), "one\r\n\ntwo\r and\nlast"), &err), &err);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(pg_lines_next(&l, &err), 1);
        assert_int_equal(l.number, i + 1);
        assert_int_equal(l.n, strlen(want[i]));
        assert_true(l.n == 0 || memcmp(l.text, want[i], l.n) == 0);
    }
    assert_int_equal(pg_lines_next(&l, &err), 0);
    pg_lines_close(&l);
    assert_int_equal(pg_lines_open(&l, IN_DIR("nowhere"), &err), PG_EIO);
    pg_lines_close(&l);
}

static void test_long_lines(void **state)
{
    (void)state;
    struct pg_lines l;
    struct pg_err err;
    char *text = malloc(PG_LINE_MAX + 2);
    assert_non_null(text);
    memset(text, 'x', PG_LINE_MAX + 2);
    text[PG_LINE_MAX] = '\n';
    put_file(IN_DIR("lines"), text, PG_LINE_MAX + 1);
    must(pg_lines_open(&l, IN_DIR("lines"), &err), &err);
    assert_int_equal(pg_lines_next(&l, &err), 1);
    assert_int_equal(l.n, PG_LINE_MAX);
    pg_lines_close(&l);
    text[PG_LINE_MAX] = 'x';
    put_file(IN_DIR("lines"), text, PG_LINE_MAX + 2);
    must(pg_lines_open(&l, IN_DIR("lines"), &err), &err);
    assert_int_equal(pg_lines_next(&l, &err), PG_EFORMAT);
    says(err.text, "lines:1: a line of more than 16777216 bytes");
    pg_lines_close(&l);
    free(text);
}

/* ---- the pool ----------------------------------------------------------------------------------
 */

#define TASKS_MAX 1000

struct job {
    int done[TASKS_MAX];
    int by_thread[64][16]; /* a cache line a thread */
    int n_threads;
    unsigned input; /* written by the caller before each loop, read by the tasks */
    unsigned output[TASKS_MAX];
};

static void count_task(void *arg, int task, int thread)
{
    struct job *j = arg;

    /* An assertion of cmocka may not be made in another thread. */
    if (task < 0 || task >= TASKS_MAX || thread < 0 || thread >= j->n_threads)
        abort();
    j->done[task]++;
    j->by_thread[thread][0]++;
    j->output[task] = j->input * 31 + (unsigned)task;
}

static void run_loops(int n_threads, int n_loops)
{
    static struct job j;
    struct pg_pool *p;
    int total = 0, sum = 0;

    memset(&j, 0, sizeof(j));
    j.n_threads = n_threads;
    assert_int_equal(pg_pool_open(&p, n_threads, NULL), 0);
    assert_int_equal(pg_pool_n_threads(p), n_threads);
    for (int k = 0; k < n_loops; k++) {
        int n = k % 7 ? k % 9 : (k * 37) % TASKS_MAX;
        memset(j.done, 0, sizeof(j.done));
        j.input = (unsigned)k;
        pg_pool_run(p, count_task, &j, n);
        for (int i = 0; i < TASKS_MAX; i++) {
            assert_int_equal(j.done[i], i < n);
            if (i < n)
                assert_int_equal(j.output[i], (unsigned)k * 31 + (unsigned)i);
        }
        total += n;
        if (k % 500 == 0)
            usleep(400); /* long enough for the workers to fall asleep */
    }
    for (int t = 0; t < n_threads; t++)
        sum += j.by_thread[t][0];
    assert_int_equal(sum, total);
    pg_pool_close(p);
}

static void test_pool(void **state)
{
    (void)state;
    run_loops(1, 2000);
    run_loops(2, 8000);
    run_loops(3, 3000);
    run_loops(8, 2000);
}

static void slow_task(void *arg, int task, int thread)
{
    int *max = arg;

    usleep(2000);
    max[thread * 16] = PG_MAX(max[thread * 16], task);
}

/* The caller finds nothing left while others still work: it has to wait for them, asleep. */
static void test_pool_waits(void **state)
{
    (void)state;
    struct pg_pool *p;
    int max[3 * 16] = {0};

    assert_int_equal(pg_pool_open(&p, 3, NULL), 0);
    for (int i = 0; i < 20; i++)
        pg_pool_run(p, slow_task, max, 4);
    assert_int_equal(PG_MAX(max[0], PG_MAX(max[16], max[32])), 3);
    pg_pool_close(p);
}

static int n_of_threads(void)
{
    char line[256];
    int n = 0;
    FILE *f = fopen("/proc/self/status", "r");

    while (f && fgets(line, sizeof(line), f))
        if (sscanf(line, "Threads: %d", &n) == 1)
            break;
    if (f)
        fclose(f);
    return n;
}

static void test_pool_open(void **state)
{
    (void)state;
    struct pg_pool *p;
    struct pg_err err;
    int before = n_of_threads();

    assert_int_equal(pg_pool_open(&p, 0, &err), PG_EARG);
    assert_null(p);
    assert_int_equal(pg_pool_open(&p, 100000, &err), PG_EARG);
    assert_non_null(strstr(err.text, "100000"));
    assert_int_equal(pg_pool_open(&p, 1, &err), 0);
    if (PG_EMULATED)
        say_skipped(__func__, "qemu-user counts its own threads in /proc");
    else
        assert_int_equal(n_of_threads(), before);
    pg_pool_close(p);
    pg_pool_close(NULL);
    for (int i = 0; i < 50; i++) { /* closed before the workers have run */
        assert_int_equal(pg_pool_open(&p, 4, &err), 0);
        pg_pool_close(p);
    }
}

/* ---- pages -------------------------------------------------------------------------------------
 */

static void test_pages(void **state)
{
    (void)state;
    static const size_t sizes[] = {0, 1, 4096, 4097, 2 << 20, (2 << 20) + 1, 9 << 20};

    for (size_t i = 0; i < PG_COUNT(sizes); i++) {
        char *p = pg_pages_map(sizes[i]);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % PG_PAGE, 0);
        for (size_t k = 0; k < sizes[i]; k += 1000)
            assert_int_equal(p[k], 0);
        if (sizes[i])
            p[sizes[i] - 1] = 1;
        pg_pages_unmap(p, sizes[i]);
    }
    assert_null(pg_pages_map(SIZE_MAX));
    assert_null(pg_pages_map(SIZE_MAX / 2));
    pg_pages_unmap(NULL, 5);
    assert_null(pg_calloc(SIZE_MAX / 2, 4));
    void *p = pg_calloc(0, 4);
    assert_non_null(p);
    free(p);
    uint64_t t = pg_now_ns();
    assert_true(pg_now_ns() >= t);
    assert_true(pg_os_n_cpu() >= 1);
}

/* ---- memory limits -----------------------------------------------------------------------------
 */

static char root[128];

static void new_machine(void)
{
    static int i;

    snprintf(root, sizeof(root), "%s/machine-%d", test_dir, i++);
}

/* Writes a file of the made-up machine, with the folders on the way. */
static void set(const char *path, const char *text)
{
    char full[512];

    int n = snprintf(full, sizeof(full), "%s%s", root, path);
    for (int i = 1; i < n; i++)
        if (full[i] == '/') {
            full[i] = 0;
            mkdir(full, 0700);
            full[i] = '/';
        }
    put_text(full, text);
}

#define MIB(n) ((uint64_t)(n) << 20)

static void expect(uint64_t limit, uint64_t available)
{
    struct pg_os_memory m;

    pg_os_memory_read(root, &m);
    assert_int_equal(m.total, MIB(16384));
    assert_int_equal(m.limit, limit);
    assert_int_equal(m.available, available);
}

#define MEMINFO "MemTotal:       16777216 kB\nMemFree: 1 kB\nMemAvailable:    8388608 kB\n"
#define MOUNT_V1(from)                                                                             \
    "24 1 0:1 / / rw - ext4 /dev/vda rw\n"                                                         \
    "31 24 0:28 " from " /cg/cpu rw,relatime - cgroup cgroup rw,cpu\n"                             \
    "32 24 0:29 " from " /cg/memory rw,relatime shared:4 - cgroup cgroup rw,memory\n"
#define MOUNT_V2(from)                                                                             \
    "40 24 0:30 " from " /cg/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate\n"

static void test_no_cgroup(void **state)
{
    (void)state;
    new_machine();
    set("/proc/meminfo", MEMINFO);
    expect(MIB(16384), MIB(8192));
    set("/proc/self/cgroup", "nonsense\n:::\n\n0:\n");
    set("/proc/self/mountinfo", "1 2 3\n - \n5 - cgroup2\n");
    expect(MIB(16384), MIB(8192));
}

static void test_cgroup_v1(void **state)
{
    (void)state;
    new_machine();
    set("/proc/meminfo", MEMINFO);
    set("/proc/self/cgroup", "9:cpu:/a/b\n4:hugetlb,memory:/a/b\n0::/\n");
    set("/proc/self/mountinfo", MOUNT_V1("/"));
    set("/cg/memory/memory.limit_in_bytes", "9223372036854771712\n");
    set("/cg/memory/a/b/memory.limit_in_bytes", "9223372036854771712\n");
    expect(MIB(16384), MIB(8192));
    /* The group itself. */
    set("/cg/memory/a/b/memory.limit_in_bytes", "4294967296\n");
    set("/cg/memory/a/b/memory.usage_in_bytes", "3221225472\n");
    set("/cg/memory/a/b/memory.stat",
        "cache 1\ninactive_file 7\ntotal_inactive_file 1073741824\ntotal_active_file 536870912\n");
    expect(MIB(4096), MIB(4096 - (3072 - 1536)));
    /* A parent that is tighter. */
    set("/cg/memory/a/memory.limit_in_bytes", "2147483648\n");
    set("/cg/memory/a/memory.usage_in_bytes", "3221225472\n");
    expect(MIB(2048), 0);
    /* A parent that cannot be seen. */
    set("/cg/memory/a/memory.limit_in_bytes", "9223372036854771712\n");
    set("/cg/memory/a/b/memory.stat", "hierarchical_memory_limit 1073741824\n");
    expect(MIB(1024), MIB(1024));
    /* The cpu hierarchy has nothing to say about memory. */
    set("/cg/cpu/a/b/memory.limit_in_bytes", "1\n");
    expect(MIB(1024), MIB(1024));
}

static void test_cgroup_v2(void **state)
{
    (void)state;
    new_machine();
    set("/proc/meminfo", MEMINFO);
    set("/proc/self/cgroup", "0::/user.slice/app\n");
    set("/proc/self/mountinfo", MOUNT_V2("/"));
    set("/cg/unified/user.slice/app/memory.max", "max\n");
    set("/cg/unified/user.slice/app/memory.high", "max\n");
    expect(MIB(16384), MIB(8192));
    set("/cg/unified/user.slice/app/memory.max", "4294967296\n");
    expect(MIB(4096), MIB(4096));
    set("/cg/unified/user.slice/app/memory.high", "3221225472\n");
    set("/cg/unified/user.slice/app/memory.current", "2147483648\n");
    set("/cg/unified/user.slice/app/memory.stat",
        "anon 5\nfile 9\nactive_file 268435456\ninactive_file 268435456\n");
    expect(MIB(3072), MIB(3072 - 1536));
    set("/cg/unified/user.slice/memory.max", "1073741824\n");
    expect(MIB(1024), MIB(1024));
    set("/cg/unified/user.slice/app/memory.max", "0\n");
    expect(0, 0);
}

/* In a container the mount's root is the group, or the path is that of another namespace. */
static void test_cgroup_containers(void **state)
{
    (void)state;
    new_machine();
    set("/proc/meminfo", MEMINFO);
    set("/proc/self/cgroup", "4:memory:/docker/abc\n0::/docker/abc\n");
    set("/proc/self/mountinfo", MOUNT_V1("/docker/abc") MOUNT_V2("/docker/abc"));
    set("/cg/memory/memory.limit_in_bytes", "2147483648\n");
    expect(MIB(2048), MIB(2048));
    set("/cg/unified/memory.max", "1073741824\n");
    expect(MIB(1024), MIB(1024));
    /* A sub-group under it. */
    set("/proc/self/cgroup", "4:memory:/docker/abc/job\n0::/docker/abc/job\n");
    set("/cg/unified/job/memory.max", "536870912\n");
    expect(MIB(512), MIB(512));
    /* The mount does not show where we are: then it is the best that is known. */
    set("/proc/self/cgroup", "4:memory:/elsewhere\n0::/../../other\n");
    expect(MIB(1024), MIB(1024));
    /* A name that only begins like the mount's root. */
    set("/proc/self/cgroup", "4:memory:/docker/abcdef\n");
    expect(MIB(2048), MIB(2048));
}

static void test_cgroup_names(void **state)
{
    (void)state;
    new_machine();
    set("/proc/meminfo", MEMINFO);
    set("/proc/self/cgroup", "0::/with space:and colon\n");
    set("/proc/self/mountinfo", "40 24 0:30 / /c\\040g rw - cgroup2 none rw\n");
    set("/c g/with space:and colon/memory.max", "1048576\n");
    expect(MIB(1), MIB(1));
    set("/c g/with space:and colon/memory.max", "not a number\n");
    expect(MIB(16384), MIB(8192));
}

static void test_cpu_quota(void **state)
{
    (void)state;
    new_machine();
    assert_int_equal(pg_os_cpu_quota(root), 0);
    set("/proc/self/cgroup", "9:cpu,cpuacct:/a/b\n4:memory:/a/b\n0::/c\n");
    set("/proc/self/mountinfo",
        "31 24 0:28 / /cg/cpu rw - cgroup cgroup rw,cpu,cpuacct\n" MOUNT_V2("/"));
    set("/cg/cpu/a/b/cpu.cfs_quota_us", "-1\n");
    set("/cg/cpu/a/b/cpu.cfs_period_us", "100000\n");
    assert_int_equal(pg_os_cpu_quota(root), 0);
    set("/cg/cpu/a/cpu.cfs_quota_us", "250000\n");
    set("/cg/cpu/a/cpu.cfs_period_us", "100000\n");
    assert_int_equal(pg_os_cpu_quota(root), 3);
    set("/cg/unified/c/cpu.max", "max 100000\n");
    assert_int_equal(pg_os_cpu_quota(root), 3);
    set("/cg/unified/c/cpu.max", "50000 100000\n");
    assert_int_equal(pg_os_cpu_quota(root), 1);
    set("/cg/unified/c/cpu.max", "50000 0\n");
    assert_int_equal(pg_os_cpu_quota(root), 3);
}

static void test_this_machine(void **state)
{
    (void)state;
    const struct pg_os_memory now = pg_os_memory_now();
    uint64_t total = now.total, limit = now.limit;

    assert_true(total > MIB(64));
    assert_true(limit > 0 && limit <= total);
    assert_true(now.available <= limit);
    assert_true(pg_peak_rss() > MIB(1) / 4 && pg_peak_rss() < total);
}

/* Sanitizers reserve terabytes of address space and cannot live under RLIMIT_AS. */
static void test_address_space_limit(void **state)
{
    (void)state;
    pid_t child;
    int status;

    if (PG_EMULATED)
        skip_because("qemu-user sets no limit of address space");
    if (SANITIZED)
        skip_because("a sanitizer cannot live under a limit of address space");
    child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct rlimit r = {MIB(900), MIB(900)};
        bool good = !setrlimit(RLIMIT_AS, &r) && pg_os_memory_now().limit == MIB(900) &&
                    pg_os_memory_now().available < MIB(900) &&
                    pg_os_memory_now().available > MIB(500);
        _exit(good ? 0 : 1);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

static void test_peak_rss(void **state)
{
    (void)state;
    const size_t n = 64 << 20;
    char *p;

    if (!pg_peak_rss_reset())
        skip_because("the peak of a process cannot be set back here (/proc/self/clear_refs)");
    uint64_t before = pg_peak_rss();
    p = pg_pages_map(n);
    assert_non_null(p);
    for (size_t i = 0; i < n; i += 4096)
        p[i] = 1;
    assert_true(pg_peak_rss() >= before + n - MIB(1));
    pg_pages_unmap(p, n);
    assert_true(pg_peak_rss() >= before + n - MIB(1));
    assert_true(pg_peak_rss_reset());
    assert_true(pg_peak_rss() < before + n / 2);
}

/* ---- output files ------------------------------------------------------------------------------
 */

static int count_files(const char *path)
{
    char command[192];
    int n = -1;

    snprintf(command, sizeof(command), "ls -A %s | wc -l", path);
    FILE *f = popen(command, "r");
    assert_non_null(f);
    assert_int_equal(fscanf(f, "%d", &n), 1);
    pclose(f);
    return n;
}

static void test_outfile(void **state)
{
    (void)state;
    char box[128], path[160];
    struct pg_outfile f;
    struct pg_err err;
    struct stat st;

    in_dir(box, "box");
    snprintf(path, sizeof(path), "%s/out", box);
    assert_int_equal(mkdir(box, 0700), 0);
    umask(022);
    assert_int_equal(pg_outfile_open(&f, path, &err), 0);
    assert_int_equal(pg_outfile_write(&f, "first", 5, &err), 0);
    assert_int_not_equal(access(path, F_OK), 0);
    assert_int_equal(pg_outfile_commit(&f, &err), 0);
    pg_outfile_abandon(&f);
    file_says(path, "first");
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0644);

    /* Given up: the old file stays, nothing else does. */
    assert_int_equal(pg_outfile_open(&f, path, &err), 0);
    assert_int_equal(pg_outfile_write(&f, "second", 6, &err), 0);
    pg_outfile_abandon(&f);
    pg_outfile_abandon(&f);
    file_says(path, "first");
    assert_int_equal(count_files(box), 1);

    /* Two writers of one file: the second is told, and may when the first is done. */
    struct pg_outfile other;
    for (int i = 0; i < 2; i++) {
        assert_int_equal(pg_outfile_open(&f, path, &err), 0);
        assert_int_equal(pg_outfile_open(&other, path, &err), PG_EIO);
        assert_non_null(strstr(err.text, path));
        assert_non_null(strstr(err.text, "another process is writing it"));
        assert_int_equal(pg_outfile_write(&f, "AAAA", 4, &err), 0);
        assert_int_equal(pg_outfile_commit(&f, &err), 0);
    }
    file_says(path, "AAAA");
    assert_int_equal(count_files(box), 1);

    /* What a killed process has left is written over; what is no such file is not. */
    char temp[200];
    snprintf(temp, sizeof(temp), "%s.tmp", path);
    put_file(temp, "a longer text", 13);
    assert_int_equal(pg_outfile_open(&f, path, &err), 0);
    assert_int_equal(pg_outfile_write(&f, "BB", 2, &err), 0);
    assert_int_equal(pg_outfile_commit(&f, &err), 0);
    file_says(path, "BB");
    assert_int_equal(count_files(box), 1);
    put_file(temp, "a longer text", 13);
    pg_outfile_remove(path);
    assert_int_equal(count_files(box), 0);
    put_file(path, "BB", 2);
    assert_int_equal(symlink(path, temp), 0);
    assert_int_equal(pg_outfile_open(&f, path, &err), PG_EIO);
    assert_non_null(strstr(err.text, temp));
    assert_int_equal(unlink(temp), 0);
    assert_int_equal(link(path, temp), 0);
    assert_int_equal(pg_outfile_open(&f, path, &err), PG_EARG);
    file_says(path, "BB");
    assert_int_equal(unlink(temp), 0);
}

/* The lock of a process goes with it; the file that it has left is in nobody's way. */
static void test_lock(void **state)
{
    (void)state;
    char path[160], name[200], c;
    struct pg_lock l = {0}, other = {0};
    struct pg_err err;
    int ready[2];

    in_dir(path, "locked");
    snprintf(name, sizeof(name), "%s.lock", path);
    assert_int_equal(pipe(ready), 0);
    pid_t child = fork();
    if (child == 0) {
        c = pg_lock_take(&l, path, NULL) ? 'n' : 'y';
        if (write(ready[1], &c, 1) == 1)
            pause();
        _exit(1);
    }
    assert_true(child > 0);
    assert_int_equal(read(ready[0], &c, 1), 1);
    assert_int_equal(c, 'y');
    assert_int_equal(pg_lock_take(&l, path, &err), PG_EIO);
    assert_non_null(strstr(err.text, "another process is writing it"));
    pg_lock_drop(&l);
    assert_int_equal(kill(child, SIGKILL), 0);
    assert_int_equal(waitpid(child, NULL, 0), child);
    assert_int_equal(access(name, F_OK), 0);
    assert_int_equal(pg_lock_take(&l, path, &err), 0);
    assert_int_equal(pg_lock_take(&other, path, &err), PG_EIO);
    pg_lock_drop(&l);
    assert_int_not_equal(access(name, F_OK), 0);
    /* What the result could not replace is refused before there is one. */
    assert_int_equal(pg_lock_take(&l, test_dir, &err), PG_EARG);
    assert_non_null(strstr(err.text, test_dir));
    assert_int_equal(pg_lock_take(&l, "/dev/full", &err), PG_EARG);
    assert_int_equal(pg_lock_take(&l, "", &err), PG_EARG);
    close(ready[0]);
    close(ready[1]);
}

/* Where a link leads is replaced, and the link stays. */
static void test_outfile_link(void **state)
{
    (void)state;
    char path[160], link[160], said[4] = "";
    struct pg_outfile f;
    struct pg_err err;
    struct stat st;

    in_dir(path, "aim");
    in_dir(link, "link");
    assert_int_equal(symlink("aim", link), 0);
    assert_int_equal(pg_outfile_open(&f, link, &err), PG_EARG); /* it leads nowhere yet */
    assert_non_null(strstr(err.text, "a link that cannot be followed"));
    for (int i = 0; i < 2; i++) {
        assert_int_equal(pg_outfile_open(&f, i ? link : path, &err), 0);
        assert_int_equal(pg_outfile_write(&f, i ? "new" : "old", 3, &err), 0);
        assert_int_equal(pg_outfile_commit(&f, &err), 0);
    }
    assert_int_equal(lstat(link, &st), 0);
    assert_true(S_ISLNK(st.st_mode));
    FILE *aim = fopen(path, "rb");
    assert_non_null(aim);
    assert_int_equal(fread(said, 1, 3, aim), 3);
    assert_string_equal(said, "new");
    fclose(aim);
    assert_int_equal(unlink(link) | unlink(path), 0);
}

/* A streamed file has the bytes that it was given, in whatever pieces they came and wherever these
 * lay in memory; past the page cache and through it. */
static void test_outfile_stream(void **state)
{
    (void)state;
    enum { MOST = 5 << 20 };
    char path[128];
    char *bytes = pg_pages_map(2 * MOST);
    char *found = malloc(MOST);
    uint64_t random = 7;

    assert_true(bytes && found);
    for (size_t i = 0; i < 2 * MOST; i++)
        bytes[i] = (char)(i * 2654435761u >> 24);
    in_dir(path, "streamed");
    for (int round = 0; round < 24; round++) {
        struct pg_outfile f;
        struct pg_err err;
        const size_t n = round == 0 ? 0 : (size_t)round * 200003 % MOST, skew = (size_t)round % 3;
        assert_int_equal(pg_outfile_open(&f, path, &err), 0);
        assert_int_equal(pg_outfile_stream(&f, n + (round % 4 == 1 ? 70000 : 0), &err), 0);
        if (round % 2) {
            f.direct = false;
            assert_int_equal(fcntl(f.fd, F_SETFL, 0), 0);
        }
        for (size_t at = 0; at < n;) {
            random = random * 6364136223846793005u + 1442695040888963407u;
            const size_t piece = PG_MIN(n - at, (size_t)(random >> 40) >> (random >> 20) % 20);
            assert_int_equal(pg_outfile_write(&f, bytes + skew + at, piece, &err), 0);
            at += piece;
        }
        assert_int_equal(pg_outfile_commit(&f, &err), 0);
        FILE *in = fopen(path, "rb");
        assert_int_equal(fread(found, 1, MOST, in), n);
        assert_true(feof(in) || fgetc(in) == EOF);
        fclose(in);
        assert_memory_equal(found, bytes + skew, n);
    }
    /* No room: known before anything is written. */
    struct pg_outfile f;
    struct pg_err err;
    assert_int_equal(pg_outfile_open(&f, path, &err), 0);
    assert_int_equal(pg_outfile_stream(&f, (uint64_t)1 << 43, &err), PG_EIO);
    assert_non_null(strstr(err.text, "8796093022208"));
    pg_outfile_abandon(&f);
    assert_int_equal(unlink(path), 0);
    free(found);
    pg_pages_unmap(bytes, 2 * MOST);
}

static void test_outfile_fails(void **state)
{
    (void)state;
    struct pg_outfile f;
    struct pg_err err;
    char path[128];

    in_dir(path, "none/out");
    assert_int_equal(pg_outfile_open(&f, path, &err), PG_EIO);
    assert_non_null(strstr(err.text, "No such file"));
    pg_outfile_abandon(&f);
    assert_int_equal(pg_outfile_open(&f, "/dev/null", &err), PG_EARG);
    assert_non_null(strstr(err.text, "/dev/null: exists and is not a regular file"));
    assert_int_equal(pg_outfile_open(&f, test_dir, &err), PG_EARG);
    /* A full disk. */
    in_dir(path, "full");
    assert_int_equal(pg_outfile_open(&f, path, &err), 0);
    int full = open("/dev/full", O_WRONLY);
    assert_true(full >= 0 && dup2(full, f.fd) >= 0);
    close(full);
    assert_int_equal(pg_outfile_write(&f, "x", 1, &err), PG_EIO);
    assert_non_null(strstr(err.text, "No space left"));
    pg_outfile_abandon(&f);
    assert_int_not_equal(access(path, F_OK), 0);
}

/* ---- trace -------------------------------------------------------------------------------------
 */

static json_t *saved_events(struct pg_trace *t)
{
    char path[128];
    json_error_t why;
    struct pg_err err;

    in_dir(path, "trace.json");
    assert_int_equal(pg_trace_save(t, path, &err), 0);
    json_t *all = json_load_file(path, JSON_REJECT_DUPLICATES, &why);
    if (!all)
        fail_msg("line %d: %s", why.line, why.text);
    json_t *events = json_incref(json_object_get(all, "traceEvents"));
    json_decref(all);
    assert_true(json_is_array(events));
    return events;
}

static const char *text_of(const json_t *event, const char *key)
{
    return json_string_value(json_object_get(event, key));
}

/* The name that the metadata gives to a thread; NULL: none. */
static const char *thread_name(json_t *events, json_int_t tid)
{
    size_t i;
    json_t *e;

    json_array_foreach(events, i, e) if (!strcmp(text_of(e, "name"), "thread_name") &&
                                         json_integer_value(json_object_get(e, "tid")) ==
                                             tid) return text_of(json_object_get(e, "args"),
                                                                 "name");
    return NULL;
}

static void test_trace(void **state)
{
    (void)state;
    struct pg_trace *t;
    struct pg_err err;
    json_t *e, *events;
    size_t i;
    int n_reads = 0, n_other = 0;
    double lane_end[8] = {0};

    pg_trace_add(NULL, (struct pg_trace_event){"off", 1, 2, 0, -1, -1});
    assert_int_equal(pg_trace_open(&t, 0, &err), PG_EARG);
    assert_int_equal(pg_trace_open(&t, 100, &err), 0);
    pg_trace_add(t,
                 (struct pg_trace_event){"attention", 5000000, 5002500, PG_TRACK_COMPUTE, 3, -1});
    pg_trace_add(
        t, (struct pg_trace_event){"wait \"quoted\\\n", 5002500, 5003000, PG_TRACK_STALL, 3, 7});
    pg_trace_add(t,
                 (struct pg_trace_event){"expert", 5000100, 5000200, PG_TRACK_WORKER + 2, -1, -1});
    for (int k = 0; k < 12; k++) /* three under way at a time, recorded as they end */
        pg_trace_add(t, (struct pg_trace_event){"read", 5000000 + (uint64_t)k * 1000,
                                                5002500 + (uint64_t)k * 1000, PG_TRACK_READ, k,
                                                k * 2});
    events = saved_events(t);
    json_array_foreach(events, i, e)
    {
        if (strcmp(text_of(e, "ph"), "X"))
            continue;
        json_int_t tid = json_integer_value(json_object_get(e, "tid"));
        double ts = json_number_value(json_object_get(e, "ts"));
        double end = ts + json_number_value(json_object_get(e, "dur"));
        const char *track = thread_name(events, tid);
        json_t *args = json_object_get(e, "args");
        int lane;
        assert_non_null(track);
        if (sscanf(track, "reads %d", &lane) == 1) {
            assert_in_range(lane, 1, 3);
            assert_true(lane_end[lane] <= ts); /* no overlap in a lane */
            lane_end[lane] = end;
            assert_int_equal(json_integer_value(json_object_get(args, "expert")),
                             2 * json_integer_value(json_object_get(args, "block")));
            n_reads++;
            continue;
        }
        n_other++;
        if (!strcmp(text_of(e, "name"), "attention")) {
            assert_string_equal(track, "compute");
            assert_true(ts == 0 && end == 2.5);
            assert_int_equal(json_integer_value(json_object_get(args, "block")), 3);
            assert_null(json_object_get(args, "expert"));
        } else if (!strcmp(text_of(e, "name"), "expert")) {
            assert_string_equal(track, "worker 2");
            assert_int_equal(json_object_size(args), 0);
        } else {
            assert_string_equal(text_of(e, "name"), "wait \"quoted\\\n");
            assert_string_equal(track, "stalls");
        }
    }
    assert_int_equal(n_reads, 12);
    assert_int_equal(n_other, 3);
    json_decref(events);
    pg_trace_close(t);
}

static void nap(void *arg, int task, int thread)
{
    (void)arg;
    (void)task;
    (void)thread;
    usleep(2000);
}

/* Workers of a traced pool show on tracks of their own, each inside its loop; untraced loops do
 * not. */
static void test_trace_pool(void **state)
{
    (void)state;
    struct pg_trace *t;
    struct pg_pool *p;
    struct pg_err err;
    json_t *e, *events;
    size_t i;
    int n[2] = {0};

    assert_int_equal(pg_trace_open(&t, 1000, &err), 0);
    assert_int_equal(pg_pool_open(&p, 3, &err), 0);
    pg_pool_run(p, nap, NULL, 6);
    pg_pool_trace(p, t);
    uint64_t begin = pg_now_ns();
    for (int k = 0; k < 5; k++)
        pg_pool_run(p, nap, NULL, 6);
    double us = (double)(pg_now_ns() - begin) * 1e-3;
    pg_pool_trace(p, NULL);
    pg_pool_run(p, nap, NULL, 6);
    events = saved_events(t);
    json_array_foreach(events, i, e)
    {
        int worker;
        if (strcmp(text_of(e, "ph"), "X"))
            continue;
        const char *track = thread_name(events, json_integer_value(json_object_get(e, "tid")));
        assert_int_equal(sscanf(track, "worker %d", &worker), 1);
        assert_in_range(worker, 0, 1);
        double dur = json_number_value(json_object_get(e, "dur"));
        assert_true(dur >= 1900 && dur <= us);
        n[worker]++;
    }
    assert_in_range(n[0] + n[1], 1, 10);
    assert_true(n[0] <= 5 && n[1] <= 5);
    json_decref(events);
    pg_pool_close(p);
    pg_trace_close(t);
}

static int count_spans(json_t *events, double *last)
{
    size_t i;
    json_t *e;
    int n = 0;

    json_array_foreach(events, i, e) if (!strcmp(text_of(e, "ph"), "X"))
    {
        n++;
        *last = json_number_value(json_object_get(e, "ts"));
    }
    return n;
}

/* The ring keeps the last events. An empty one is valid JSON too. */
static void test_trace_ring(void **state)
{
    (void)state;
    struct pg_trace *t;
    double last = 0;

    assert_int_equal(pg_trace_open(&t, 1000, NULL), 0);
    json_t *events = saved_events(t);
    assert_int_equal(count_spans(events, &last), 0);
    json_decref(events);
    for (uint64_t k = 0; k < 5500; k++)
        pg_trace_add(t, (struct pg_trace_event){"step", k * 1000, k * 1000 + 900, PG_TRACK_COMPUTE,
                                                (int)k, -1});
    events = saved_events(t);
    assert_int_equal(count_spans(events, &last), 1000);
    assert_true(last == 999);
    json_decref(events);
    pg_trace_close(t);
    struct pg_err err;
    assert_int_equal(pg_trace_save(NULL, "x", &err), PG_EARG);
    pg_trace_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_errors),         cmocka_unit_test(test_quote),
        cmocka_unit_test(test_pool),           cmocka_unit_test(test_pool_waits),
        cmocka_unit_test(test_pool_open),      cmocka_unit_test(test_pages),
        cmocka_unit_test(test_no_cgroup),      cmocka_unit_test(test_cgroup_v1),
        cmocka_unit_test(test_cgroup_v2),      cmocka_unit_test(test_cgroup_containers),
        cmocka_unit_test(test_cgroup_names),   cmocka_unit_test(test_cpu_quota),
        cmocka_unit_test(test_this_machine),   cmocka_unit_test(test_address_space_limit),
        cmocka_unit_test(test_peak_rss),       cmocka_unit_test(test_outfile),
        cmocka_unit_test(test_outfile_link),   cmocka_unit_test(test_outfile_fails),
        cmocka_unit_test(test_outfile_stream), cmocka_unit_test(test_trace),
        cmocka_unit_test(test_lock),           cmocka_unit_test(test_trace_ring),
        cmocka_unit_test(test_trace_pool),     cmocka_unit_test(test_lines),
        cmocka_unit_test(test_long_lines),
    };

    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
