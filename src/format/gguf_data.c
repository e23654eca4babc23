/* SPDX-License-Identifier: MIT
 * The data of tensors, for what is read once and at leisure: routers, pre-gates, weights to train.
 */
#include "base/os.h"
#include "format/gguf.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <unistd.h>

enum { PIECE = 4096 }; /* values that are converted at once; a multiple of every format's block */

struct span {
    const struct pg_gguf_tensor *t;
    const char *path;
    int fd;
    uint64_t at; /* bytes of the tensor that are read */
};

static int read_next(struct span *s, void *out, size_t n, struct pg_err *err)
{
    char *to = out;
    while (n) {
        uint64_t offset = s->t->offset + s->at;
        ssize_t got = pread(s->fd, to, n, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0) {
            return pg_fail_os(err, PG_EIO, got < 0 ? errno : EIO,
                              "%s: %s: reading %zu bytes at %llu", s->path, s->t->name, n,
                              (unsigned long long)offset);
        }
        to += got;
        s->at += (uint64_t)got;
        n -= (size_t)got;
    }
    return 0;
}

static int read_floats(struct span *s, float *out, struct pg_err *err)
{
    const struct pg_type_traits *traits = pg_type_traits((uint32_t)s->t->type);
    size_t n_values = (size_t)(s->t->ne[0] * s->t->ne[1] * s->t->ne[2] * s->t->ne[3]);
    uint32_t raw[PIECE]; /* no format takes more than F32 */
    for (size_t at = 0; at < n_values;) {
        size_t n = PG_MIN(n_values - at, (size_t)PIECE);
        PG_TRY(read_next(s, raw, pg_type_bytes(s->t->type, (int64_t)n), err));
        traits->to_float(raw, out + at, (int64_t)n);
        for (size_t end = at + n; at < end; at++)
            if (!isfinite(out[at]))
                return pg_fail(err, PG_EFORMAT, "%s: value %zu is not finite", s->t->name, at);
    }
    return 0;
}

static int open_span(struct span *s, const struct pg_gguf *g, const struct pg_gguf_tensor *t,
                     struct pg_err *err)
{
    *s = (struct span){.t = t, .path = pg_gguf_part_path(g, t->part)};
    s->fd = open(s->path, O_RDONLY | O_CLOEXEC);
    return s->fd >= 0 ? 0 : pg_fail_os(err, PG_EIO, errno, "%s", s->path);
}

/* What came may be a mixture when the file was written to since its header was read. */
static int close_span(struct span *s, const struct pg_gguf *g, int rc, struct pg_err *err)
{
    rc = rc ? rc : pg_stamp_check(pg_gguf_part_stamp(g, s->t->part), s->fd, s->path, err);
    close(s->fd);
    return rc;
}

int pg_gguf_read(const struct pg_gguf *g, const struct pg_gguf_tensor *t, void *out,
                 struct pg_err *err)
{
    struct span s;
    PG_TRY(open_span(&s, g, t, err));
    return close_span(&s, g, read_next(&s, out, t->bytes, err), err);
}

int pg_gguf_read_f32(const struct pg_gguf *g, const struct pg_gguf_tensor *t, float *out,
                     struct pg_err *err)
{
    struct span s;
    PG_TRY(open_span(&s, g, t, err));
    return close_span(&s, g, read_floats(&s, out, err), err);
}
