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

/* What stopped a read or an open: perhaps a signal that asks for an end. */
static int read_failed(const char *name, struct pg_err *err)
{
    return cli_fail(err, cli_interrupted() ? PG_ECANCELLED : PG_EIO, "%s: %s", name,
                    strerror(errno));
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
        return read_failed(path, err);
    (*data)[*n] = '\0';
    return 0;
}

int cli_file_read(const char *path, char **data, size_t *n, struct pg_err *err)
{
    const bool is_stdin = !strcmp(path, "-");
    FILE *in = is_stdin ? stdin : fopen(path, "rb");
    *data = NULL;
    if (!in)
        return read_failed(path, err);
    const int rc = stream_read(in, is_stdin ? "standard input" : path, data, n, err);
    if (!is_stdin)
        fclose(in);
    if (rc) {
        free(*data);
        *data = NULL;
    }
    return rc;
}

int cli_outfile_failed(const struct cli_outfile *f, struct pg_err *err)
{
    if (f->stream == stdout)
        return cli_stdout_failed(err);
    return cli_fail(err, PG_EIO, "%s: %s", f->name, strerror(errno ? errno : EIO));
}

static int temp_open(struct cli_outfile *f, struct pg_err *err)
{
    const size_t n = strlen(f->name) + 32;
    f->temp = malloc(n);
    if (!f->temp)
        return cli_fail(err, PG_ENOMEM, "%s: out of memory", f->name);
    snprintf(f->temp, n, "%s.%ld.part", f->name, (long)getpid());
    const int fd = open(f->temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    f->stream = fd < 0 ? NULL : fdopen(fd, "wb");
    const int rc = f->stream ? 0 : cli_outfile_failed(f, err);
    if (rc && fd >= 0)
        close(fd);
    return rc;
}

int cli_outfile_open(struct cli_outfile *f, const char *path, struct pg_err *err)
{
    struct stat st;
    *f = (struct cli_outfile){.name = path};
    if (!path || !strcmp(path, "-")) {
        f->stream = stdout;
        return 0;
    }
    /* A device or a pipe is written to, not replaced: /dev/null must survive. */
    const bool replaced = stat(path, &st) || S_ISREG(st.st_mode);
    if (!replaced)
        f->stream = fopen(path, "wb");
    const int rc = replaced ? temp_open(f, err) : f->stream ? 0 : cli_outfile_failed(f, err);
    if (rc)
        cli_outfile_abandon(f);
    return rc;
}

int cli_outfile_commit(struct cli_outfile *f, struct pg_err *err)
{
    int rc = fflush(f->stream) || ferror(f->stream) ? cli_outfile_failed(f, err) : 0;
    if (!rc && f->temp && (fsync(fileno(f->stream)) || rename(f->temp, f->name)))
        rc = cli_outfile_failed(f, err);
    if (!rc) {
        free(f->temp);
        f->temp = NULL;
    }
    cli_outfile_abandon(f);
    return rc;
}

void cli_outfile_abandon(struct cli_outfile *f)
{
    if (f->stream && f->stream != stdout)
        fclose(f->stream);
    if (f->temp)
        unlink(f->temp);
    free(f->temp);
    *f = (struct cli_outfile){0};
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
