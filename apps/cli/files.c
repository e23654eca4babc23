/* SPDX-License-Identifier: MIT
 * Files that the program itself reads and writes; models are the library's.
 */
#include "cli.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
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

static bool same_file(const char *a, const char *b)
{
    struct stat x, y;
    return a && b && !stat(a, &x) && !stat(b, &y) && S_ISREG(x.st_mode) && x.st_dev == y.st_dev &&
           x.st_ino == y.st_ino;
}

/* The folder that a file is in, or will be, and its name there. */
static bool place_of(const char *path, struct stat *folder, const char **name)
{
    const char *slash = strrchr(path, '/');
    char *dir = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
    const bool found = dir && !stat(dir, folder);
    *name = slash ? slash + 1 : path;
    free(dir);
    return found;
}

bool cli_same_target(const char *a, const char *b)
{
    struct stat x, y;
    const char *name_a, *name_b;
    if (!a || !b)
        return false;
    return same_file(a, b) ||
           (place_of(a, &x, &name_a) && place_of(b, &y, &name_b) && x.st_dev == y.st_dev &&
            x.st_ino == y.st_ino && !strcmp(name_a, name_b));
}

/* Where standard output or standard error goes, if that is a regular file. */
static const char *stream_of(const char *path)
{
    static const char *const names[] = {NULL, "standard output", "standard error"};
    struct stat file, stream;
    for (int fd = 1; path && fd <= 2; fd++)
        if (!stat(path, &file) && S_ISREG(file.st_mode) && !fstat(fd, &stream) &&
            file.st_dev == stream.st_dev && file.st_ino == stream.st_ino)
            return names[fd];
    return NULL;
}

int cli_outputs_check(const struct cli_args *a)
{
    const char *const written[] = {a->output, a->trace,      a->csv,
                                   a->svg,    a->routes_out, a->predictions};
    const char *const read[] = {a->subject, a->file,        a->sidecar,      a->routes,
                                a->from,    a->data_file,   a->prompts,      a->api_key,
                                a->grammar, a->json_schema, a->chat_template};
    const int n_read = (int)(sizeof(read) / sizeof(read[0]));
    for (size_t i = 0; i < sizeof(written) / sizeof(written[0]); i++) {
        for (int j = 0; j < n_read + a->data.n; j++) {
            const char *input = j < n_read ? read[j] : a->data.path[j - n_read];
            if (same_file(written[i], input)) {
                cli_error("%s would be written, but it is an input: %s", written[i], input);
                return CLI_FAILED;
            }
        }
        for (size_t j = 0; j < i; j++)
            if (cli_same_target(written[i], written[j])) {
                cli_error("%s would be written twice, by two options; give each its own file",
                          written[i]);
                return CLI_FAILED;
            }
        if (stream_of(written[i])) {
            cli_error("%s would be replaced, but %s goes there; give another file", written[i],
                      stream_of(written[i]));
            return CLI_FAILED;
        }
    }
    return 0;
}

int cli_outfile_failed(const struct cli_outfile *f, struct pg_err *err)
{
    if (f->stream == stdout)
        return cli_stdout_failed(err);
    return cli_fail(err, PG_EIO, "%s: %s", f->name, strerror(errno ? errno : EIO));
}

/* Locks the file, as the library does with its own (base/outfile.c): 0, or -1 with errno. A file
 * that has gone meanwhile had a holder who was done with it; EEXIST is one that is not ours. */
static int temp_lock(int fd, const char *temp)
{
    struct stat mine, there;
    if (fd < 0 || (flock(fd, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK))
        return -1;
    const bool here = !fstat(fd, &mine) && !lstat(temp, &there) && mine.st_ino == there.st_ino;
    const bool ours = here && S_ISREG(mine.st_mode) && mine.st_nlink == 1;
    errno = here ? EEXIST : EWOULDBLOCK;
    return ours ? ftruncate(fd, 0) : -1;
}

static int temp_open(struct cli_outfile *f, struct pg_err *err)
{
    struct stat st;
    const bool link = !lstat(f->name, &st) && S_ISLNK(st.st_mode);
    f->target = link ? realpath(f->name, NULL) : strdup(f->name);
    if (!f->target)
        return cli_fail(err, PG_EIO, "%s: %s", f->name, strerror(errno));
    if (asprintf(&f->temp, "%s.tmp", f->target) < 0) {
        f->temp = NULL;
        return cli_fail(err, PG_ENOMEM, "%s: out of memory", f->name);
    }
    const int fd = open(f->temp, O_WRONLY | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0666);
    f->stream = temp_lock(fd, f->temp) ? NULL : fdopen(fd, "wb");
    if (f->stream)
        return 0;
    const int rc = errno == EWOULDBLOCK
                       ? cli_fail(err, PG_EIO, "%s: another process is writing it", f->name)
                       : cli_fail(err, PG_EIO, "%s: %s", f->temp, strerror(errno));
    if (fd >= 0)
        close(fd);
    free(f->temp); /* not ours to remove */
    f->temp = NULL;
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

int cli_outfile_check(const char *path, bool device, struct pg_err *err)
{
    struct stat st;
    struct cli_outfile f;
    const bool strange = !stat(path, &st) && !S_ISREG(st.st_mode);
    if (strange && (!device || S_ISDIR(st.st_mode)))
        return cli_fail(err, PG_EARG, "%s: exists and is not a regular file", path);
    if (strange)
        return 0;
    const int rc = cli_outfile_open(&f, path, err);
    cli_outfile_abandon(&f);
    return rc;
}

int cli_outfile_commit(struct cli_outfile *f, struct pg_err *err)
{
    int rc = fflush(f->stream) || ferror(f->stream) ? cli_outfile_failed(f, err) : 0;
    if (!rc && f->temp && (fsync(fileno(f->stream)) || rename(f->temp, f->target)))
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
    if (f->temp)
        unlink(f->temp); /* before others can have the lock */
    if (f->stream && f->stream != stdout)
        fclose(f->stream);
    free(f->temp);
    free(f->target);
    *f = (struct cli_outfile){0};
}

int cli_ids_make(struct pg_ids *out, const pg_vocab *vocab, const char *text, size_t n_text,
                 unsigned flags, struct pg_err *err)
{
    const size_t n_more = out->cap;
    size_t most = 3 * n_text + 3; /* enough but for rare vocabularies, which say what they need */
    for (;;) {
        *out = (struct pg_ids){.id = malloc((most + n_more) * sizeof(*out->id)), .cap = most};
        if (!out->id)
            return cli_fail(err, PG_ENOMEM, "no memory for %zu ids", most + n_more);
        const int rc = pg_tokenize(vocab, text, n_text, flags, out, err);
        if (rc != PG_EARG || out->n <= most) {
            out->cap += n_more;
            return rc;
        }
        most = out->n;
        free(out->id);
    }
}
