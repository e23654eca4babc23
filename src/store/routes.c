/* SPDX-License-Identifier: MIT
 * Route traces: which experts each token used in each block, one JSON object a line.
 *
 * The file is text from outside. Every line must have the shape of the first (as many blocks, as
 * many experts a block), each id in range and once a block.
 */
#include "store/routes.h"

#include "base/os.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_LINE  ((size_t)1 << 24)
#define MAX_ID    65535
#define MAX_TOKEN (1 << 24)

struct reader {
    pg_routes *r;
    const char *path;
    int line;
    size_t cap;     /* ids that r->ids has room for */
    uint64_t *seen; /* [MAX_ID + 1] the block (counted over the file) that had this id last */
    uint64_t n_seen;
    char *text; /* of the line */
    size_t text_cap;
    struct pg_err *err;
};

static int line_fail(const struct reader *in, const char *what)
{
    return pg_fail(in->err, PG_EFORMAT, "%s:%d: %s", in->path, in->line, what);
}

static int read_block(struct reader *in, const json_t *ids, int block)
{
    pg_routes *r = in->r;
    if (!json_is_array(ids))
        return pg_fail(in->err, PG_EFORMAT, "%s:%d: block %d is not an array", in->path, in->line,
                       block);
    if ((int)json_array_size(ids) != r->n_used)
        return pg_fail(in->err, PG_EFORMAT,
                       "%s:%d: block %d has %zu ids, want %d as in the first line", in->path,
                       in->line, block, json_array_size(ids), r->n_used);
    in->n_seen++;
    uint16_t *out =
        r->ids + ((size_t)r->n_tokens * (size_t)r->n_blocks + (size_t)block) * (size_t)r->n_used;
    for (int i = 0; i < r->n_used; i++) {
        const json_t *id = json_array_get(ids, (size_t)i);
        if (!json_is_integer(id))
            return pg_fail(in->err, PG_EFORMAT, "%s:%d: block %d: id %d is not an integer",
                           in->path, in->line, block, i);
        json_int_t value = json_integer_value(id);
        if (value < 0 || value > MAX_ID)
            return pg_fail(in->err, PG_EFORMAT, "%s:%d: block %d: id %lld, want 0 to %d", in->path,
                           in->line, block, (long long)value, MAX_ID);
        if (in->seen[value] == in->n_seen)
            return pg_fail(in->err, PG_EFORMAT, "%s:%d: block %d: id %lld stands there twice",
                           in->path, in->line, block, (long long)value);
        in->seen[value] = in->n_seen;
        r->n_expert = PG_MAX(r->n_expert, (int)value + 1);
        out[i] = (uint16_t)value;
    }
    return 0;
}

/* Room for one token more; doubles. */
static int reserve(struct reader *in)
{
    pg_routes *r = in->r;
    size_t per_token = (size_t)r->n_blocks * (size_t)r->n_used;
    size_t need = 0;
    if (__builtin_mul_overflow((size_t)r->n_tokens + 1, per_token, &need) ||
        r->n_tokens >= MAX_TOKEN)
        return line_fail(in, "too many tokens");
    if (need <= in->cap)
        return 0;
    size_t cap = need, bytes = 0;
    if (__builtin_mul_overflow(PG_MAX(need, in->cap), (size_t)2, &cap) ||
        __builtin_mul_overflow(cap, sizeof(*r->ids), &bytes))
        return line_fail(in, "too many tokens");
    uint16_t *ids = realloc(r->ids, bytes);
    if (!ids)
        return pg_fail(in->err, PG_ENOMEM, "%s: out of memory (%zu bytes)", in->path, bytes);
    r->ids = ids;
    in->cap = cap;
    return 0;
}

static int read_token(struct reader *in, const json_t *line)
{
    pg_routes *r = in->r;
    const json_t *layers = json_object_get(line, "layers");
    if (!json_is_array(layers) || !json_array_size(layers))
        return line_fail(in, "\"layers\" is not an array of arrays of ids");
    if (!r->n_blocks) {
        const json_t *first = json_array_get(layers, 0);
        if (!json_is_array(first) || !json_array_size(first))
            return line_fail(in, "block 0 is not an array of ids");
        if (json_array_size(layers) > MAX_ID || json_array_size(first) > MAX_ID)
            return line_fail(in, "too many blocks or ids");
        r->n_blocks = (int)json_array_size(layers);
        r->n_used = (int)json_array_size(first);
    }
    if ((int)json_array_size(layers) != r->n_blocks)
        return pg_fail(in->err, PG_EFORMAT, "%s:%d: %zu blocks, want %d as in the first line",
                       in->path, in->line, json_array_size(layers), r->n_blocks);
    PG_TRY(reserve(in));
    for (int block = 0; block < r->n_blocks; block++)
        PG_TRY(read_block(in, json_array_get(layers, (size_t)block), block));
    r->n_tokens++;
    return 0;
}

static int read_line(struct reader *in, const char *text, size_t n)
{
    json_error_t what;
    json_t *line = json_loadb(text, n, JSON_REJECT_DUPLICATES, &what);
    /* Jansson says what is wrong with the text, and nothing where it was short of memory. */
    if (!line && !what.text[0])
        return pg_fail(in->err, PG_ENOMEM, "%s:%d: no memory to read the line", in->path, in->line);
    if (!line && json_error_code(&what) == json_error_out_of_memory)
        return pg_fail(in->err, PG_ENOMEM, "%s:%d: out of memory", in->path, in->line);
    if (!line)
        return pg_fail(in->err, PG_EFORMAT, "%s:%d: %s", in->path, in->line,
                       pg_quote(what.text, strnlen(what.text, sizeof(what.text))).s);
    int rc = json_is_object(line) ? read_token(in, line) : line_fail(in, "not a JSON object");
    json_decref(line);
    return rc;
}

/* The next line without its end, into in->text; 0 at the end of the file with nothing left. */
static int next_line(struct reader *in, FILE *f, size_t *n, bool *more)
{
    int c;
    *n = 0;
    while ((c = getc_unlocked(f)) != EOF && c != '\n') {
        if (*n == in->text_cap) {
            if (in->text_cap >= MAX_LINE)
                return line_fail(in, "line too long");
            size_t cap = in->text_cap ? 2 * in->text_cap : 4096;
            char *text = realloc(in->text, cap);
            if (!text)
                return pg_fail(in->err, PG_ENOMEM, "%s: out of memory (%zu bytes)", in->path, cap);
            in->text = text;
            in->text_cap = cap;
        }
        in->text[(*n)++] = (char)c;
    }
    if (ferror(f))
        return pg_fail_os(in->err, PG_EIO, errno, "%s: read failed", in->path);
    *more = c != EOF || *n;
    while (*n && in->text[*n - 1] == '\r')
        --*n;
    return 0;
}

static int read_file(struct reader *in, FILE *f)
{
    for (;;) {
        size_t n = 0;
        bool more = false;
        in->line++;
        PG_TRY(next_line(in, f, &n, &more));
        if (!more)
            return 0;
        if (n)
            PG_TRY(read_line(in, in->text, n));
    }
}

int pg_routes_open(pg_routes **out, const char *path, struct pg_err *err)
{
    *out = NULL;
    struct reader in = {.path = path, .err = err};
    int rc = 0;
    FILE *f;
    bool pipe;
    PG_TRY(pg_open_text(&f, path, &pipe, err));
    in.r = pg_calloc(1, sizeof(*in.r));
    in.seen = pg_calloc(MAX_ID + 1, sizeof(*in.seen));
    if (!in.r || !in.seen)
        rc = pg_fail(err, PG_ENOMEM, "%s: out of memory", path);
    else
        rc = read_file(&in, f);
    if (!rc && !in.r->n_tokens)
        rc = pg_fail(err, PG_EFORMAT, "%s: no tokens", path);
    fclose(f);
    free(in.seen);
    free(in.text);
    if (rc) {
        pg_routes_close(in.r);
        return rc;
    }
    *out = in.r;
    return 0;
}

void pg_routes_close(pg_routes *r)
{
    if (!r)
        return;
    free(r->ids);
    free(r);
}

int pg_routes_n_tokens(const pg_routes *r)
{
    return r->n_tokens;
}

int pg_routes_n_blocks(const pg_routes *r)
{
    return r->n_blocks;
}

int pg_routes_n_used(const pg_routes *r)
{
    return r->n_used;
}

int pg_routes_n_expert(const pg_routes *r)
{
    return r->n_expert;
}

const uint16_t *pg_routes_ids(const pg_routes *r, int token, int block)
{
    PG_ASSERT(token >= 0 && token < r->n_tokens && block >= 0 && block < r->n_blocks);
    return r->ids + ((size_t)token * (size_t)r->n_blocks + (size_t)block) * (size_t)r->n_used;
}
