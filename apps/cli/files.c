/* SPDX-License-Identifier: MIT
 * Files that the program itself reads and writes; models are the library's.
 */
#include "cli.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_MAX (1u << 30) /* a prompt larger than this is a mistake, perhaps /dev/zero */

int cli_fail(struct pg_err *err, int code, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    err->code = code;
    vsnprintf(err->text, sizeof(err->text), fmt, ap);
    va_end(ap);
    return code;
}

static int stream_read(FILE *in, const char *path, char **data, size_t *n, struct pg_err *err)
{
    size_t cap = 1 << 16;
    *n = 0;
    *data = malloc(cap + 1);
    while (*data) {
        *n += fread(*data + *n, 1, cap - *n, in);
        if (*n < cap)
            break;
        if (cap >= FILE_MAX)
            return cli_fail(err, PG_EARG, "%s: more than 1 GiB of text", path);
        cap *= 2;
        char *larger = realloc(*data, cap + 1);
        if (!larger)
            free(*data);
        *data = larger;
    }
    if (!*data)
        return cli_fail(err, PG_ENOMEM, "%s: out of memory", path);
    if (ferror(in))
        return cli_fail(err, PG_EIO, "%s: %s", path, strerror(errno));
    (*data)[*n] = '\0';
    return 0;
}

int cli_file_read(const char *path, char **data, size_t *n, struct pg_err *err)
{
    const bool is_stdin = !strcmp(path, "-");
    FILE *in = is_stdin ? stdin : fopen(path, "rb");
    *data = NULL;
    if (!in)
        return cli_fail(err, PG_EIO, "%s: %s", path, strerror(errno));
    const int rc = stream_read(in, is_stdin ? "standard input" : path, data, n, err);
    if (!is_stdin)
        fclose(in);
    if (rc) {
        free(*data);
        *data = NULL;
    }
    return rc;
}

int cli_outfile_open(struct cli_outfile *f, const char *path, struct pg_err *err)
{
    memset(f, 0, sizeof(*f));
    if (!path || !strcmp(path, "-")) {
        f->stream = stdout;
        return 0;
    }
    struct stat st;
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode)) {
        /* A device or a pipe is written to, not replaced: /dev/null must survive. */
        f->stream = fopen(path, "wb");
        return f->stream ? 0 : cli_fail(err, PG_EIO, "%s: %s", path, strerror(errno));
    }
    const size_t n = strlen(path) + 32;
    f->path = strdup(path);
    f->temp = malloc(n);
    if (!f->path || !f->temp) {
        cli_outfile_abandon(f);
        return cli_fail(err, PG_ENOMEM, "%s: out of memory", path);
    }
    snprintf(f->temp, n, "%s.%ld.part", path, (long)getpid());
    const int fd = open(f->temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    f->stream = fd < 0 ? NULL : fdopen(fd, "wb");
    if (f->stream)
        return 0;
    const int code = cli_fail(err, PG_EIO, "%s: %s", f->temp, strerror(errno));
    if (fd >= 0)
        close(fd);
    cli_outfile_abandon(f);
    return code;
}

int cli_outfile_commit(struct cli_outfile *f, struct pg_err *err)
{
    const char *name = f->path ? f->path : "standard output";
    bool ok = fflush(f->stream) == 0 && !ferror(f->stream);
    if (ok && f->temp)
        ok = fsync(fileno(f->stream)) == 0 && rename(f->temp, f->path) == 0;
    const int code = ok ? 0 : cli_fail(err, PG_EIO, "%s: %s", name, strerror(errno));
    if (ok) {
        free(f->temp);
        f->temp = NULL;
    }
    cli_outfile_abandon(f);
    return code;
}

void cli_outfile_abandon(struct cli_outfile *f)
{
    if (f->stream && f->stream != stdout)
        fclose(f->stream);
    if (f->temp)
        unlink(f->temp);
    free(f->temp);
    free(f->path);
    memset(f, 0, sizeof(*f));
}

int cli_ids_make(struct cli_ids *out, const pg_vocab *vocab, const char *text, size_t n_text,
                 unsigned flags, size_t n_more, struct pg_err *err)
{
    size_t most = 3 * n_text + 2; /* enough but for rare vocabularies, which say what they need */
    for (;;) {
        *out = (struct cli_ids){.id = malloc((most + n_more) * sizeof(*out->id))};
        if (!out->id)
            return cli_fail(err, PG_ENOMEM, "no memory for %zu ids", most + n_more);
        const int rc = pg_tokenize(vocab, text, n_text, flags, out->id, most, &out->n, err);
        if (rc != PG_EARG || out->n <= most) {
            out->cap = most + n_more;
            return rc;
        }
        most = out->n;
        free(out->id);
    }
}
