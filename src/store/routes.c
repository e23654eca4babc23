/* SPDX-License-Identifier: MIT
 * Route traces: which experts each token used in each block, one JSON object a line.
 *
 * The file is text from outside. Every line must have the shape of the first (as many blocks, as
 * many experts a block), each id in range and once a block. Blocks that a token does not go through
 * have an empty list: those of the other stack, of a model with an encoder.
 */
#include "store/routes.h"

#include "base/lines.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_ID    65535
#define MAX_TOKEN (1 << 24)

struct reader {
    pg_routes *r;
    struct pg_lines lines;
    size_t cap, cap_tokens; /* what r->ids and r->stack_of have room for */
    uint64_t *seen; /* [MAX_ID + 1] the block (counted over the file) that had this id last */
    uint64_t n_seen;
    struct pg_err *err;
};

static int line_fail(const struct reader *in, const char *what)
{
    return pg_fail(in->err, PG_EFORMAT, "%s:%d: %s", in->lines.path, in->lines.number, what);
}

static int read_block(struct reader *in, const json_t *ids, int block)
{
    pg_routes *r = in->r;
    if ((int)json_array_size(ids) != r->n_used)
        return pg_fail(in->err, PG_EFORMAT,
                       "%s:%d: block %d has %zu ids, want %d as in the first line", in->lines.path,
                       in->lines.number, block, json_array_size(ids), r->n_used);
    in->n_seen++;
    uint16_t *out =
        r->ids + ((size_t)r->n_tokens * (size_t)r->n_blocks + (size_t)block) * (size_t)r->n_used;
    for (int i = 0; i < r->n_used; i++) {
        const json_t *id = json_array_get(ids, (size_t)i);
        if (!json_is_integer(id))
            return pg_fail(in->err, PG_EFORMAT, "%s:%d: block %d: id %d is not an integer",
                           in->lines.path, in->lines.number, block, i);
        json_int_t value = json_integer_value(id);
        if (value < 0 || value > MAX_ID)
            return pg_fail(in->err, PG_EFORMAT, "%s:%d: block %d: id %lld, want 0 to %d",
                           in->lines.path, in->lines.number, block, (long long)value, MAX_ID);
        if (in->seen[value] == in->n_seen)
            return pg_fail(in->err, PG_EFORMAT, "%s:%d: block %d: id %lld stands there twice",
                           in->lines.path, in->lines.number, block, (long long)value);
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
    if (pg_reserve(&r->stack_of, &in->cap_tokens, (size_t)r->n_tokens + 1, 1))
        return pg_fail(in->err, PG_ENOMEM, "%s: out of memory", in->lines.path);
    if (need <= in->cap)
        return 0;
    size_t cap = need, bytes = 0;
    if (__builtin_mul_overflow(PG_MAX(need, in->cap), (size_t)2, &cap) ||
        __builtin_mul_overflow(cap, sizeof(*r->ids), &bytes))
        return line_fail(in, "too many tokens");
    uint16_t *ids = realloc(r->ids, bytes);
    if (!ids)
        return pg_fail(in->err, PG_ENOMEM, "%s: out of memory (%zu bytes)", in->lines.path, bytes);
    r->ids = ids;
    in->cap = cap;
    return 0;
}

/* The first line says how many blocks there are, and its first list that is not empty how many ids.
 */
static int find_shape(struct reader *in, const json_t *layers)
{
    pg_routes *r = in->r;
    size_t n_used = 0, n_blocks = json_array_size(layers);
    for (size_t i = 0; i < n_blocks && !n_used; i++)
        n_used = json_array_size(json_array_get(layers, i));
    if (!n_used)
        return line_fail(in, "block 0 is not an array of ids, and no other is");
    if (n_blocks > MAX_ID || n_used > MAX_ID)
        return line_fail(in, "too many blocks or ids");
    r->n_blocks = (int)n_blocks;
    r->n_used = (int)n_used;
    return 0;
}

/* The blocks that have ids, one after the other. */
static int find_span(struct reader *in, const json_t *layers, struct pg_span *out)
{
    *out = (struct pg_span){0, 0};
    for (int block = 0; block < in->r->n_blocks; block++) {
        const json_t *ids = json_array_get(layers, (size_t)block);
        if (!json_is_array(ids))
            return pg_fail(in->err, PG_EFORMAT, "%s:%d: block %d is not an array", in->lines.path,
                           in->lines.number, block);
        if (json_array_size(ids) == 0)
            continue;
        if (out->n && block != out->first + out->n)
            return pg_fail(in->err, PG_EFORMAT,
                           "%s:%d: block %d is empty between others that are not", in->lines.path,
                           in->lines.number, block - 1);
        out->first = out->n ? out->first : block;
        out->n++;
    }
    return out->n ? 0 : line_fail(in, "all blocks are empty");
}

/* Lines have at most two spans, which share no block. */
static int find_stack(struct reader *in, struct pg_span span, uint8_t *out)
{
    pg_routes *r = in->r;
    for (int i = 0; i < r->n_stacks; i++) {
        const struct pg_span *s = &r->stack[i].span;
        const bool apart = span.first >= s->first + s->n || s->first >= span.first + span.n;
        *out = (uint8_t)i;
        if (span.first == s->first && span.n == s->n)
            return 0;
        if (!apart || i + 1 == PG_ROUTES_STACKS)
            return pg_fail(in->err, PG_EFORMAT,
                           "%s:%d: blocks %d to %d have ids, in lines before %d to %d: one such "
                           "part wanted, or two that share no block",
                           in->lines.path, in->lines.number, span.first, span.first + span.n - 1,
                           s->first, s->first + s->n - 1);
    }
    *out = (uint8_t)r->n_stacks;
    r->stack[r->n_stacks++].span = span;
    return 0;
}

static int read_token(struct reader *in, const json_t *line)
{
    pg_routes *r = in->r;
    struct pg_span span;
    const json_t *layers = json_object_get(line, "layers");
    if (!json_is_array(layers) || !json_array_size(layers))
        return line_fail(in, "\"layers\" is not an array of arrays of ids");
    if (!r->n_blocks)
        PG_TRY(find_shape(in, layers));
    if ((int)json_array_size(layers) != r->n_blocks)
        return pg_fail(in->err, PG_EFORMAT, "%s:%d: %zu blocks, want %d as in the first line",
                       in->lines.path, in->lines.number, json_array_size(layers), r->n_blocks);
    PG_TRY(reserve(in));
    PG_TRY(find_span(in, layers, &span));
    PG_TRY(find_stack(in, span, &r->stack_of[r->n_tokens]));
    for (int block = span.first; block < span.first + span.n; block++)
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
        return pg_fail(in->err, PG_ENOMEM, "%s:%d: no memory to read the line", in->lines.path,
                       in->lines.number);
    if (!line && json_error_code(&what) == json_error_out_of_memory)
        return pg_fail(in->err, PG_ENOMEM, "%s:%d: out of memory", in->lines.path,
                       in->lines.number);
    if (!line)
        return pg_fail(in->err, PG_EFORMAT, "%s:%d: %s", in->lines.path, in->lines.number,
                       pg_quote(what.text, strnlen(what.text, sizeof(what.text))).s);
    int rc = json_is_object(line) ? read_token(in, line) : line_fail(in, "not a JSON object");
    json_decref(line);
    return rc;
}

static int read_file(struct reader *in)
{
    int rc;
    while ((rc = pg_lines_next(&in->lines, in->err)) > 0)
        if (in->lines.n)
            PG_TRY(read_line(in, in->lines.text, in->lines.n));
    return rc;
}

/* Each stack's tokens in their order. */
static int sort_tokens(struct reader *in)
{
    pg_routes *r = in->r;
    if (!r->n_tokens)
        return pg_fail(in->err, PG_EFORMAT, "%s: no tokens", in->lines.path);
    r->line_of = pg_calloc((size_t)r->n_tokens, sizeof(*r->line_of));
    if (!r->line_of)
        return pg_fail(in->err, PG_ENOMEM, "%s: out of memory", in->lines.path);
    for (int i = 0, n = 0; i < r->n_stacks; i++) {
        r->stack[i].first = n;
        for (int t = 0; t < r->n_tokens; t++)
            if (r->stack_of[t] == i)
                r->line_of[n++] = t;
        r->stack[i].n = n - r->stack[i].first;
    }
    return 0;
}

int pg_routes_open(pg_routes **out, const char *path, struct pg_err *err)
{
    *out = NULL;
    struct reader in = {.err = err};
    int rc;
    PG_TRY(pg_lines_open(&in.lines, path, err));
    in.r = pg_calloc(1, sizeof(*in.r));
    in.seen = pg_calloc(MAX_ID + 1, sizeof(*in.seen));
    if (!in.r || !in.seen)
        rc = pg_fail(err, PG_ENOMEM, "%s: out of memory", path);
    else
        rc = read_file(&in);
    rc = rc ? rc : sort_tokens(&in);
    pg_lines_close(&in.lines);
    free(in.seen);
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
    free(r->stack_of);
    free(r->line_of);
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

int pg_routes_n_token_experts(const pg_routes *r)
{
    int n = r->stack_of ? 0 : r->n_blocks;
    for (int i = 0; i < r->n_stacks; i++)
        n = PG_MAX(n, r->stack[i].span.n);
    return n * r->n_used;
}

const uint16_t *pg_routes_ids(const pg_routes *r, int token, int block)
{
    PG_ASSERT(token >= 0 && token < r->n_tokens && block >= 0 && block < r->n_blocks);
    return r->ids + ((size_t)token * (size_t)r->n_blocks + (size_t)block) * (size_t)r->n_used;
}

struct pg_span pg_routes_span(const pg_routes *r, int token)
{
    return r->stack_of ? r->stack[r->stack_of[token]].span : (struct pg_span){0, r->n_blocks};
}

/* NULL: there is none. */
static const struct pg_routes_stack *stack_with(const pg_routes *r, int block)
{
    for (int i = 0; i < r->n_stacks; i++)
        if (block >= r->stack[i].span.first && block < r->stack[i].span.first + r->stack[i].span.n)
            return &r->stack[i];
    return NULL;
}

const uint16_t *pg_routes_forced(const pg_routes *r, int pos, int block)
{
    if (!r->stack_of)
        return pg_routes_ids(r, pos % r->n_tokens, block);
    const struct pg_routes_stack *s = stack_with(r, block);
    PG_ASSERT(s);
    return pg_routes_ids(r, r->line_of[s->first + pos % s->n], block);
}

int pg_routes_n_forced(const pg_routes *r, int block)
{
    if (!r->stack_of)
        return r->n_tokens;
    const struct pg_routes_stack *s = stack_with(r, block);
    return s ? s->n : 0;
}

int pg_routes_gap(const pg_routes *r)
{
    for (int block = 0; r->stack_of && block < r->n_blocks; block++)
        if (!stack_with(r, block))
            return block;
    return -1;
}
