/* SPDX-License-Identifier: MIT
 * Preloaded by tools/soak: reads of the model's file that fail, come short or come late, as often
 * as a file says that both processes have mapped. Other reads are left alone.
 *
 *   SOAK_MODEL    the model's file
 *   SOAK_CONTROL  struct control
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* Of a million reads; and what has been done. */
struct control {
    _Atomic uint32_t fail, shorten, delay, delay_us;
    _Atomic uint32_t reads, failed, shortened, delayed;
};

typedef ssize_t pread_fn(int fd, void *buf, size_t n, off64_t at);

static struct control *control;
static struct stat model;
static pread_fn *real;

__attribute__((constructor)) static void soak_open(void)
{
    const char *path = getenv("SOAK_MODEL"), *shared = getenv("SOAK_CONTROL");
    real = (pread_fn *)dlsym(RTLD_NEXT, "pread64");
    const int fd = path && shared && !stat(path, &model) ? open(shared, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *p = mmap(NULL, sizeof(*control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    control = p == MAP_FAILED ? NULL : p;
    close(fd);
}

/* A number below a million, from the count of reads. */
static uint32_t draw(uint32_t n, uint32_t salt)
{
    uint32_t x = n * 0x9E3779B9u ^ salt;
    x = (x ^ x >> 16) * 0x7FEB352Du;
    x = (x ^ x >> 15) * 0x846CA68Bu;
    return (x ^ x >> 16) % 1000000;
}

static int is_model(int fd)
{
    struct stat s;
    return !fstat(fd, &s) && s.st_ino == model.st_ino && s.st_dev == model.st_dev;
}

static ssize_t read_badly(int fd, void *buf, size_t n, off64_t at)
{
    const uint32_t i = atomic_fetch_add(&control->reads, 1);
    if (draw(i, 1) < control->delay) {
        const struct timespec t = {.tv_nsec = 1000 * (long)(control->delay_us % 1000000)};
        atomic_fetch_add(&control->delayed, 1);
        nanosleep(&t, NULL);
    }
    if (draw(i, 2) < control->fail) {
        atomic_fetch_add(&control->failed, 1);
        errno = EIO;
        return -1;
    }
    if (draw(i, 3) < control->shorten && n > 4096) {
        atomic_fetch_add(&control->shortened, 1);
        n = n / 2 & ~(size_t)4095;
    }
    return real(fd, buf, n, at);
}

ssize_t pread64(int fd, void *buf, size_t n, off64_t at)
{
    return control && is_model(fd) ? read_badly(fd, buf, n, at) : real(fd, buf, n, at);
}

ssize_t pread(int fd, void *buf, size_t n, off_t at)
{
    return pread64(fd, buf, n, at);
}
