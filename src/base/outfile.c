/* SPDX-License-Identifier: MIT
 * Files that appear whole, and locks. Both are an open file beside the one that is meant, locked by
 * flock: the lock goes with the process, however that ends, and the next one takes what is left of
 * the file. Who holds the lock alone renames or removes it.
 */
#include "base/os.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define TRIES 100
#define BLOCK ((size_t)1 << 20) /* of a file that is streamed */

static int busy(const char *path, struct pg_err *err)
{
    return pg_fail(err, PG_EIO, "%s: another process is writing it", path);
}

/* Where a file system knows no locks we go on without. 0, or negative; *fd is -1 where the file had
 * gone when we had the lock, because its holder was done with it. */
static int try_lock(const char *temp, const char *path, int *fd, struct pg_err *err)
{
    struct stat mine, there;

    *fd = open(temp, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0666);
    if (*fd < 0)
        return pg_fail_os(err, PG_EIO, errno, "%s: cannot be created", temp);
    bool held = flock(*fd, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK;
    bool gone = fstat(*fd, &mine) || lstat(temp, &there) || mine.st_ino != there.st_ino ||
                mine.st_dev != there.st_dev;
    bool strange = !gone && (!S_ISREG(mine.st_mode) || mine.st_nlink > 1);
    if (!held && !gone && !strange)
        return 0;
    close(*fd);
    *fd = -1;
    if (strange)
        return pg_fail(err, PG_EARG, "%s: is in the way of %s", temp, path);
    return held ? busy(path, err) : 0;
}

/* Opens path + suffix, made if need be, and locks it. *temp is its name, for free(). */
static int open_locked(const char *path, const char *suffix, char **temp, int *fd,
                       struct pg_err *err)
{
    *fd = -1;
    if (asprintf(temp, "%s%s", path, suffix) < 0) {
        *temp = NULL;
        return pg_fail(err, PG_ENOMEM, "%s: no memory for a file name", path);
    }
    int rc = 0;
    for (int i = 0; i < TRIES && *fd < 0 && !rc; i++)
        rc = try_lock(*temp, path, fd, err);
    if (!rc && *fd < 0)
        rc = busy(path, err);
    if (rc) {
        free(*temp);
        *temp = NULL;
    }
    return rc;
}

/* The file that `path` means, for free(): where a link leads, since the rename would replace the
 * link. A device or a pipe would be replaced, too. */
static int find_target(char **target, const char *path, struct pg_err *err)
{
    struct stat st;

    *target = NULL;
    if (!path || !*path)
        return pg_fail(err, PG_EARG, "no file to write given");
    if (!stat(path, &st) && !S_ISREG(st.st_mode))
        return pg_fail(err, PG_EARG, "%s: exists and is not a regular file", path);
    bool link = !lstat(path, &st) && S_ISLNK(st.st_mode);
    *target = link ? realpath(path, NULL) : strdup(path);
    if (!*target && link)
        return pg_fail_os(err, PG_EARG, errno, "%s: a link that cannot be followed", path);
    return *target ? 0 : pg_fail(err, PG_ENOMEM, "%s: no memory for a file name", path);
}

int pg_lock_take(struct pg_lock *l, const char *path, struct pg_err *err)
{
    char *target;
    PG_TRY(find_target(&target, path, err)); /* before the work, not after it */
    int rc = open_locked(target, ".lock", &l->name, &l->fd, err);
    free(target);
    return rc;
}

void pg_lock_drop(struct pg_lock *l)
{
    if (!l->name)
        return;
    unlink(l->name); /* before others can have the lock */
    close(l->fd);
    free(l->name);
    *l = (struct pg_lock){0};
}

int pg_outfile_open(struct pg_outfile *f, const char *path, struct pg_err *err)
{
    int rc;

    *f = (struct pg_outfile){.fd = -1};
    PG_TRY(find_target(&f->path, path, err));
    rc = open_locked(f->path, ".tmp", &f->temp, &f->fd, err);
    if (!rc && ftruncate(f->fd, 0)) /* what a killed process has left */
        rc = pg_fail_os(err, PG_EIO, errno, "%s: cannot be emptied", f->temp);
    if (rc)
        pg_outfile_abandon(f);
    return rc;
}

/* Behind a file that cannot be written past the page cache: what is there goes to the disk, and
 * what was there before it has arrived and leaves. */
static void drop_cached(struct pg_outfile *f, size_t n)
{
    const off_t at = (off_t)f->n_done;
    sync_file_range(f->fd, at, (off_t)n, SYNC_FILE_RANGE_WRITE);
    sync_file_range(f->fd, 0, at,
                    SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE |
                        SYNC_FILE_RANGE_WAIT_AFTER);
    posix_fadvise(f->fd, 0, at, POSIX_FADV_DONTNEED);
}

/* A file system may take O_DIRECT and refuse the transfer. */
static bool turn_buffered(struct pg_outfile *f)
{
    if (!f->direct || fcntl(f->fd, F_SETFL, 0))
        return false;
    f->direct = false;
    return true;
}

static int write_through(struct pg_outfile *f, const void *data, size_t n, struct pg_err *err)
{
    const char *at = data;

    while (n) {
        ssize_t done = write(f->fd, at, n);
        if (done < 0 && (errno == EINTR || (errno == EINVAL && turn_buffered(f))))
            continue;
        if (done < 0)
            return pg_fail_os(err, PG_EIO, errno, "%s: writing %zu bytes", f->path, n);
        if (done == 0)
            return pg_fail(err, PG_EIO, "%s: writing %zu bytes wrote none", f->path, n);
        if (f->block && !f->direct)
            drop_cached(f, (size_t)done);
        f->n_done += (uint64_t)done;
        at += done;
        n -= (size_t)done;
    }
    return 0;
}

int pg_outfile_stream(struct pg_outfile *f, uint64_t bytes, struct pg_err *err)
{
    PG_ASSERT(!f->block && !f->n_done);
    f->block = pg_pages_map(BLOCK);
    if (!f->block)
        return pg_fail(err, PG_ENOMEM, "%s: out of memory while writing", f->path);
    if (fallocate(f->fd, 0, 0, (off_t)bytes) && (errno == ENOSPC || errno == EFBIG))
        return pg_fail_os(err, PG_EIO, errno, "%s: taking room for %llu bytes", f->path,
                          (unsigned long long)bytes);
    f->direct = !fcntl(f->fd, F_SETFL, O_DIRECT);
    return 0;
}

/* Into the block, to its end or until what follows lies in memory as in the file. */
static size_t fill_block(struct pg_outfile *f, const char *data, size_t n)
{
    const size_t to_page = PG_PAGE - f->n_block % PG_PAGE;
    const bool meets = ((uintptr_t)data + to_page) % PG_PAGE == 0;
    const size_t k = PG_MIN(n, meets ? to_page : BLOCK - f->n_block);
    memcpy(f->block + f->n_block, data, k);
    f->n_block += k;
    return k;
}

static int write_streamed(struct pg_outfile *f, const char *data, size_t n, struct pg_err *err)
{
    while (n) {
        const bool aligned = !f->n_block && (uintptr_t)data % PG_PAGE == 0;
        size_t k = aligned ? n / PG_PAGE * PG_PAGE : 0;
        if (k) {
            PG_TRY(write_through(f, data, k, err));
        } else {
            k = fill_block(f, data, n);
            if (f->n_block == BLOCK || (k < n && f->n_block % PG_PAGE == 0)) {
                PG_TRY(write_through(f, f->block, f->n_block, err));
                f->n_block = 0;
            }
        }
        data += k;
        n -= k;
    }
    return 0;
}

int pg_outfile_write(struct pg_outfile *f, const void *data, size_t n, struct pg_err *err)
{
    return f->block ? write_streamed(f, data, n, err) : write_through(f, data, n, err);
}

/* What is no whole page goes through the page cache; room that was taken and not used goes back. */
static int finish_stream(struct pg_outfile *f, struct pg_err *err)
{
    turn_buffered(f);
    PG_TRY(write_through(f, f->block, f->n_block, err));
    f->n_block = 0;
    return ftruncate(f->fd, (off_t)f->n_done)
               ? pg_fail_os(err, PG_EIO, errno, "%s: cutting it to %llu bytes", f->path,
                            (unsigned long long)f->n_done)
               : 0;
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
    if (f->block)
        PG_TRY(finish_stream(f, err));
    if (fsync(f->fd))
        return pg_fail_os(err, PG_EIO, errno, "%s: writing to the disk", f->path);
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
    if (f->temp)
        unlink(f->temp); /* before others can have the lock */
    if (f->fd >= 0)
        close(f->fd);
    if (f->block)
        pg_pages_unmap(f->block, BLOCK);
    free(f->temp);
    free(f->path);
    *f = (struct pg_outfile){.fd = -1};
}

void pg_outfile_remove(const char *path)
{
    struct pg_outfile left;

    unlink(path);
    if (!pg_outfile_open(&left, path, NULL))
        pg_outfile_abandon(&left);
}
