/* SPDX-License-Identifier: MIT
 * What control groups allow.
 *
 * A group is found as a program in a container must find it: the group's path comes from
 * /proc/self/cgroup, the place where its file system is mounted from /proc/self/mountinfo, and
 * every directory from the group up to that mount can hold a limit. Where the path is not visible
 * under the mount (another cgroup namespace), the mount itself is the group. Version 1 and version
 * 2 may both be there; the smallest limit counts.
 */
#include "base/os.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char *read_text_in(const char *dir, const char *name)
{
    char *path = NULL, *text = NULL;

    if (asprintf(&path, "%s/%s", dir, name) >= 0) {
        text = pg_os_read_text(path);
        free(path);
    }
    return text;
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

static void visit_memory(const char *dir, bool v2, void *out)
{
    const struct group_files *f = v2 ? &group_v2 : &group_v1;
    struct pg_os_memory *m = out;
    char *stat = read_text_in(dir, "memory.stat");
    uint64_t limit = PG_MIN(read_limit(dir, f->limit[0]), read_limit(dir, f->limit[1]));

    if (limit != UINT64_MAX) {
        uint64_t usage = read_limit(dir, f->usage);
        uint64_t cache =
            pg_os_number_after(stat, f->inactive, 0) + pg_os_number_after(stat, f->active, 0);
        usage = usage == UINT64_MAX ? 0 : usage;
        usage -= PG_MIN(usage, cache);
        m->limit = PG_MIN(m->limit, limit);
        m->available = PG_MIN(m->available, limit - PG_MIN(limit, usage));
    }
    /* Version 1 tells here about limits of parents that a container cannot see. */
    m->limit = PG_MIN(m->limit, pg_os_number_after(stat, "hierarchical_memory_limit", UINT64_MAX));
    free(stat);
}

/* Version 1: -1 is no quota. Version 2 writes "max 100000" or "QUOTA PERIOD" into one file. */
static void visit_cpu(const char *dir, bool v2, void *out)
{
    char *quota_text = read_text_in(dir, v2 ? "cpu.max" : "cpu.cfs_quota_us");
    char *period_text = v2 ? NULL : read_text_in(dir, "cpu.cfs_period_us");
    long long quota = 0, period = 0;
    int *least = out;

    if (quota_text && v2) {
        if (sscanf(quota_text, "%lld %lld", &quota, &period) != 2)
            quota = 0;
    } else if (quota_text && period_text) {
        quota = strtoll(quota_text, NULL, 10);
        period = strtoll(period_text, NULL, 10);
    }
    if (quota > 0 && period > 0) {
        long long n = quota / period + (quota % period != 0);
        if (n < INT_MAX && (!*least || (int)n < *least))
            *least = (int)n;
    }
    free(quota_text);
    free(period_text);
}

/* What is looked for, and what each directory on the way is given to. */
struct walk {
    const char *root, *controller;
    void (*visit)(const char *dir, bool v2, void *out);
    void *out;
};

/* Whether the item stands in the n bytes of a list with commas. */
static bool list_has(const char *list, size_t n, const char *item)
{
    size_t len = strlen(item);

    while (n) {
        const char *end = memchr(list, ',', n);
        size_t k = end ? (size_t)(end - list) : n;
        if (k == len && !memcmp(list, item, len))
            return true;
        k += end != NULL;
        list += k;
        n -= k;
    }
    return false;
}

/* The path of our group, of version 2 or of version 1's controller, from the text of
 * /proc/self/cgroup. The text is cut in place. NULL: none. */
static char *group_path(char *text, const char *controller, bool v2)
{
    for (char *line = text; line && *line;) {
        char *next = strchr(line, '\n');
        char *list = strchr(line, ':');
        char *path = list ? strchr(list + 1, ':') : NULL;
        bool found = false;
        if (path && (!next || path < next)) {
            size_t n = (size_t)(path - list - 1);
            found = v2 ? n == 0 && line[0] == '0' && list == line + 1
                       : list_has(list + 1, n, controller);
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
    bool v1, v2;        /* of the controller; of all */
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
static bool parse_mount(char *line, const char *controller, struct mount *m)
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
    m->v2 = !strcmp(type, "cgroup2");
    m->v1 = !strcmp(type, "cgroup") && super && list_has(super, strlen(super), controller);
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

/* Visits every directory from the group up to the mount. */
static void visit_chain(const struct walk *w, const char *point, const char *under, bool v2)
{
    char *dir = NULL;
    int n_base = 0;
    int n = asprintf(&dir, "%s%s%n%s", w->root, point, &n_base, under ? under : "");

    if (n < 0)
        return;
    for (;;) {
        while (n > n_base && dir[n - 1] == '/')
            dir[--n] = 0;
        w->visit(dir, v2, w->out);
        if (n <= n_base)
            break;
        while (n > n_base && dir[n - 1] != '/')
            dir[--n] = 0;
    }
    free(dir);
}

/* Takes the mount that shows the group best: one that has it below its root, else any. The texts
 * are cut up. */
static void walk_version(const struct walk *w, char *mounts, char *cgroups, bool v2)
{
    const char *path = group_path(cgroups, w->controller, v2), *under = NULL;
    struct mount best = {0};
    char *save = NULL;

    if (!path)
        return;
    for (char *line = strtok_r(mounts, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        struct mount one;
        if (!parse_mount(line, w->controller, &one) || !(v2 ? one.v2 : one.v1))
            continue;
        const char *u = path_under(one.root, path);
        if (!best.point || (u && !under)) {
            best = one;
            under = u;
        }
    }
    if (best.point)
        visit_chain(w, best.point, under, v2);
}

static void walk(const struct walk *w)
{
    char proc[4096];

    snprintf(proc, sizeof(proc), "%s/proc/self", w->root);
    for (int v2 = 0; v2 < 2; v2++) {
        char *cgroups = read_text_in(proc, "cgroup");
        char *mounts = read_text_in(proc, "mountinfo");
        if (cgroups && mounts)
            walk_version(w, mounts, cgroups, v2);
        free(cgroups);
        free(mounts);
    }
}

int pg_os_cpu_quota(const char *root)
{
    int least = 0;

    walk(&(struct walk){root, "cpu", visit_cpu, &least});
    return least;
}

void pg_os_memory_read(const char *root, struct pg_os_memory *out)
{
    char proc[4096];
    char *info;

    snprintf(proc, sizeof(proc), "%s/proc", root);
    info = read_text_in(proc, "meminfo");
    out->total = pg_os_number_after(info, "MemTotal", 0) * 1024;
    out->limit = out->total ? out->total : UINT64_MAX;
    out->available = pg_os_number_after(info, "MemAvailable", out->limit / 1024) * 1024;
    free(info);
    walk(&(struct walk){root, "memory", visit_memory, out});
    out->available = PG_MIN(out->available, out->limit);
}
