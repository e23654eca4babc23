/* SPDX-License-Identifier: MIT */
#include "data/text.h"

#include "base/os.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char separator[] = "<|endoftext|>";

int pg_tokens_add(struct pg_tokens *t, const pg_vocab *vocab, struct pg_str text, unsigned flags,
                  struct pg_err *err)
{
    for (size_t room = text.n / 2 + 16;;) {
        if (pg_reserve(&t->id, &t->cap, t->n + room + 1, sizeof(int32_t)))
            return pg_fail(err, PG_ENOMEM, "out of memory: a text of %zu bytes", text.n);
        struct pg_ids out = {t->id + t->n, room, 0};
        int rc = pg_tokenize(vocab, text.s, text.n, flags, &out, err);
        if (!rc)
            t->n += out.n;
        if (rc != PG_EARG || out.n <= room)
            return rc;
        room = out.n;
    }
}

static int add_document(struct pg_docs *d, const struct pg_docs_options *o, const char *text,
                        size_t n_text, struct pg_err *err)
{
    int32_t end = o->end_token ? pg_vocab_eos(o->vocab) : -1;
    struct pg_tokens t = {d->token, d->first[d->n], d->cap_tokens};
    int rc = pg_tokens_add(&t, o->vocab, (struct pg_str){text, n_text}, PG_TOKENIZE_BOS, err);
    d->token = t.id;
    d->cap_tokens = t.cap;
    PG_TRY(rc);
    if (end >= 0)
        d->token[t.n++] = end;
    if (pg_reserve(&d->first, &d->cap_docs, (size_t)d->n + 2, sizeof(size_t)))
        return pg_fail(err, PG_ENOMEM, "out of memory");
    d->first[++d->n] = t.n;
    return 0;
}

static bool is_blank(char c)
{
    return c == '\n' || c == '\r' || c == ' ' || c == '\t';
}

static int add_trimmed(struct pg_docs *d, const struct pg_docs_options *o, const char *text,
                       size_t n, struct pg_err *err)
{
    size_t from = 0, line = 0;
    for (; line < n && is_blank(text[line]); line++)
        from = text[line] == '\n' ? line + 1 : from; /* blank lines go, an indent stays */
    if (line == n)
        return 0;
    while (is_blank(text[n - 1]))
        n--;
    return add_document(d, o, text + from, n - from, err);
}

static bool enough(const struct pg_docs *d, const struct pg_docs_options *o)
{
    return o->max_tokens && d->first[d->n] >= o->max_tokens;
}

/* A file as it is read: the document under way begins at `from`, and lines before `line` have been
 * looked at. */
struct reader {
    FILE *file;
    char *text;
    size_t n, cap, from, line;
    bool pipe; /* which may have no end */
    uint64_t got;
};

enum { READ_BYTES = 1 << 20, MOST_BYTES_A_TOKEN = 32 };

/* The document ends before `end`, and the next one begins at `next`. */
static int end_document(struct pg_docs *d, const struct pg_docs_options *o, struct reader *r,
                        size_t end, size_t next, struct pg_err *err)
{
    size_t from = r->from;
    r->from = r->line = next;
    return enough(d, o) ? 0 : add_trimmed(d, o, r->text + from, end - from, err);
}

/* Documents that have ended make room. */
static void drop_done(struct reader *r)
{
    if (r->from) {
        memmove(r->text, r->text + r->from, r->n - r->from);
        r->n -= r->from;
        r->line -= r->from;
        r->from = 0;
    }
}

static bool is_separator(const char *line, size_t n)
{
    n -= n && line[n - 1] == '\r';
    return n == sizeof(separator) - 1 && memcmp(line, separator, n) == 0;
}

/* Looks at the lines that are there; the last one may be unfinished until the end of the file. */
static int take_lines(struct pg_docs *d, const struct pg_docs_options *o, struct reader *r,
                      bool at_end, struct pg_err *err)
{
    while (r->line < r->n && !enough(d, o)) {
        const char *from = r->text + r->line, *stop = memchr(from, '\n', r->n - r->line);
        if (!stop && !at_end)
            return 0;
        size_t end = stop ? (size_t)(stop - r->text) : r->n, next = end + (stop != NULL);
        if (is_separator(from, end - r->line))
            PG_TRY(end_document(d, o, r, r->line, next, err));
        else
            r->line = next;
    }
    return 0;
}

/* What is read at once is bounded by the largest document; where the number of tokens is, that is
 * bounded, too, by cutting a document that would be more than all of them. */
static int read_documents(struct pg_docs *d, const struct pg_docs_options *o, struct reader *r,
                          struct pg_err *err)
{
    size_t most = o->max_tokens && o->max_tokens < SIZE_MAX / (2 * MOST_BYTES_A_TOKEN)
                      ? o->max_tokens * MOST_BYTES_A_TOKEN + READ_BYTES
                      : SIZE_MAX;
    for (size_t got = 1; got && !enough(d, o);) {
        drop_done(r);
        if (pg_reserve(&r->text, &r->cap, r->n + READ_BYTES, 1)) {
            return pg_fail(err, PG_ENOMEM, "out of memory: a document of more than %zu bytes",
                           r->n);
        }
        got = fread(r->text + r->n, 1, READ_BYTES, r->file);
        if (ferror(r->file))
            return pg_fail_os(err, PG_EIO, errno, "reading");
        r->n += got;
        r->got += got;
        if (r->pipe && r->got > PG_PIPE_MAX)
            return pg_fail(err, PG_EARG,
                           "more than 1 GiB came out of this pipe; write it to a file");
        PG_TRY(take_lines(d, o, r, got == 0, err));
        if (r->n - r->from > most)
            PG_TRY(end_document(d, o, r, r->n, r->n, err));
    }
    return end_document(d, o, r, r->n, r->n, err);
}

static int add_file(struct pg_docs *d, const struct pg_docs_options *o, const char *path,
                    struct pg_err *err)
{
    int before = d->n;
    struct reader r = {0};
    PG_TRY(pg_open_text(&r.file, path, &r.pipe, err));
    int rc = read_documents(d, o, &r, err);
    if (!rc && d->n == before)
        rc = pg_fail(err, PG_EFORMAT, "no text found in it");
    fclose(r.file);
    free(r.text);
    return rc ? pg_fail_in(err, rc, path) : 0;
}

int pg_docs_open(struct pg_docs *d, const struct pg_docs_options *opt, struct pg_err *err)
{
    int rc = 0;
    *d = (struct pg_docs){0};
    if (pg_reserve(&d->first, &d->cap_docs, 64, sizeof(size_t)))
        return pg_fail(err, PG_ENOMEM, "out of memory");
    d->first[0] = 0;
    for (int i = 0; i < opt->n_paths && !rc && !enough(d, opt); i++)
        rc = add_file(d, opt, opt->paths[i], err);
    if (rc)
        pg_docs_close(d);
    return rc;
}

void pg_docs_close(struct pg_docs *d)
{
    free(d->token);
    free(d->first);
    *d = (struct pg_docs){0};
}
