/* SPDX-License-Identifier: MIT */
#include "data/pairs.h"

#include "base/hash.h"
#include "base/lines.h"
#include "format/json.h"

#include <stdlib.h>
#include <string.h>

struct reader {
    struct pg_pairs *p;
    const struct pg_pairs_options *opt;
    int32_t end; /* the vocabulary's end token */
};

static bool enough(const struct reader *r)
{
    const struct pg_pairs_options *o = r->opt;
    return (o->max_tokens && r->p->n_tokens >= o->max_tokens) ||
           (o->max_docs && r->p->n_docs >= o->max_docs);
}

static int add(struct pg_pairs *p, const struct pg_pair *pair, struct pg_err *err)
{
    if (p->n == INT32_MAX || pg_reserve(&p->at, &p->cap, (size_t)p->n + 1, sizeof(*pair)))
        return pg_fail(err, PG_ENOMEM, "out of memory after %d pairs", p->n);
    p->at[p->n++] = *pair;
    p->longest_source = PG_MAX(p->longest_source, pair->n_source);
    p->longest_target = PG_MAX(p->longest_target, pair->n_target);
    return 0;
}

/* ------------------------------------------------------------------ lines ------------------- */

/* Tokens of a text that were put behind those that were there. */
struct put {
    int n;
    bool cut;
};

/* What is too long loses its end: the text's alone where `ends`, else the end token as well. */
static int put_text(const struct reader *r, const json_t *text, int most, bool ends,
                    struct put *out, struct pg_err *err)
{
    struct pg_pairs *p = r->p;
    struct pg_tokens t = {p->token, p->n_tokens, p->cap_tokens};
    struct pg_str s = {json_string_value(text), json_string_length(text)};
    int rc = pg_tokens_add(&t, r->opt->vocab, s, 0, err);
    p->token = t.id;
    p->cap_tokens = t.cap;
    PG_TRY(rc);
    size_t n = t.n - p->n_tokens, room = (size_t)most - 1;
    out->cut = n > room;
    n = PG_MIN(n, room + !ends);
    if (ends || !out->cut)
        p->token[p->n_tokens + n++] = r->end;
    p->n_tokens += n;
    out->n = (int)n;
    return 0;
}

static int get_texts(const json_t *line, const json_t *found[2], struct pg_err *err)
{
    if (!json_is_object(line))
        return pg_json_wrong("pair", line, "an object", err);
    found[0] = json_object_get(line, "source");
    found[1] = json_object_get(line, "target");
    if (!json_is_string(found[0]))
        return pg_json_wrong("source", found[0], "a text", err);
    if (json_is_array(found[1]) && json_array_size(found[1]) == 0)
        return pg_fail(err, PG_EFORMAT, "target: a list of nothing found, a text in it wanted");
    if (json_is_array(found[1]) && !json_is_string(json_array_get(found[1], 0)))
        return pg_json_wrong("target[0]", json_array_get(found[1], 0), "a text", err);
    found[1] = json_is_array(found[1]) ? json_array_get(found[1], 0) : found[1];
    return json_is_string(found[1])
               ? 0
               : pg_json_wrong("target", found[1], "a text or a list of texts", err);
}

static int read_pair(const struct reader *r, const json_t *line, struct pg_err *err)
{
    const struct pg_pairs_options *o = r->opt;
    struct pg_pairs *p = r->p;
    const json_t *text[2] = {NULL, NULL};
    struct put source, target;
    struct pg_pair pair = {.source = p->n_tokens, .doc = p->n_docs};
    PG_TRY(get_texts(line, text, err));
    PG_TRY(put_text(r, text[0], o->n_source, true, &source, err));
    pair.target = p->n_tokens;
    PG_TRY(put_text(r, text[1], o->n_target, false, &target, err));
    pair.n_source = source.n;
    pair.n_target = target.n;
    pair.more = target.cut;
    p->n_cut += source.cut || target.cut;
    p->n_docs++;
    return add(p, &pair, err);
}

static bool is_blank(const struct pg_lines *l)
{
    for (size_t i = 0; i < l->n; i++)
        if (l->text[i] != ' ' && l->text[i] != '\t')
            return false;
    return true;
}

static int read_line(const struct reader *r, const struct pg_lines *l, struct pg_err *err)
{
    json_t *line = NULL;
    int rc = pg_json_parse(&line, l->text, l->n, err);
    rc = rc ? rc : read_pair(r, line, err);
    json_decref(line);
    if (rc) {
        char where[32];
        snprintf(where, sizeof(where), "line %d", l->number);
        pg_fail_in(err, rc, where);
        return pg_fail_in(err, rc, l->path);
    }
    return 0;
}

static int add_lines(const struct reader *r, const char *path, struct pg_err *err)
{
    struct pg_lines l;
    int rc, before = r->p->n;
    PG_TRY(pg_lines_open(&l, path, err));
    do {
        rc = enough(r) ? 0 : pg_lines_next(&l, err);
        int bad = rc > 0 && !is_blank(&l) ? read_line(r, &l, err) : 0;
        rc = bad ? bad : rc;
    } while (rc > 0);
    if (!rc && r->p->n == before)
        rc = pg_fail(err, PG_EFORMAT, "%s: no pair of a source and a target found", path);
    pg_lines_close(&l);
    return rc;
}

/* ------------------------------------------------------------------ text -------------------- */

/* The piece is tokens [from, from + n) of the text, where its document ends or goes on. */
static int add_piece(const struct reader *r, const int32_t *token, size_t n, bool more,
                     struct pg_err *err)
{
    struct pg_pairs *p = r->p;
    const size_t source = (size_t)r->opt->n_source - 1, target = (size_t)r->opt->n_target;
    const bool ends = !more && n < source + target; /* the end token has room, too */
    size_t first = (n + ends) * source / (source + target);
    first = PG_MAX(1, PG_MIN(first, n - 1));
    if (pg_reserve(&p->token, &p->cap_tokens, p->n_tokens + n + 2, sizeof(*token)))
        return pg_fail(err, PG_ENOMEM, "out of memory after %zu tokens", p->n_tokens);
    struct pg_pair pair = {.source = p->n_tokens,
                           .target = p->n_tokens + first + 1,
                           .n_source = (int)first + 1,
                           .n_target = (int)(n - first + ends),
                           .doc = p->n_docs,
                           .more = !ends};
    memcpy(p->token + pair.source, token, first * sizeof(*token));
    p->token[pair.source + first] = r->end;
    memcpy(p->token + pair.target, token + first, (n - first) * sizeof(*token));
    if (ends)
        p->token[pair.target + n - first] = r->end;
    p->n_tokens += n + 1 + ends;
    return add(p, &pair, err);
}

static int add_document(const struct reader *r, const int32_t *token, size_t n, struct pg_err *err)
{
    const size_t full = (size_t)r->opt->n_source - 1 + (size_t)r->opt->n_target;
    r->p->n_cut += n > full;
    for (size_t from = 0; from + 1 < n && !enough(r); from += full) {
        size_t length = PG_MIN(full, n - from);
        PG_TRY(add_piece(r, token + from, length, from + length < n, err));
        if (r->opt->first_only)
            break;
    }
    r->p->n_docs++;
    return 0;
}

static int add_text(const struct reader *r, const char *path, struct pg_err *err)
{
    const struct pg_pairs_options *o = r->opt;
    struct pg_docs_options of = {.vocab = o->vocab, .paths = &path, .n_paths = 1};
    struct pg_docs d;
    int rc = 0, before = r->p->n;
    of.max_tokens = o->max_tokens ? o->max_tokens - r->p->n_tokens : 0;
    PG_TRY(pg_docs_open(&d, &of, err));
    for (int i = 0; i < d.n && !rc && !enough(r); i++)
        rc = add_document(r, d.token + d.first[i], d.first[i + 1] - d.first[i], err);
    if (!rc && r->p->n == before)
        rc = pg_fail(err, PG_EFORMAT, "%s: %d documents found, none of which has two tokens", path,
                     d.n);
    pg_docs_close(&d);
    return rc;
}

/* ------------------------------------------------------------------ all --------------------- */

bool pg_pairs_are_lines(const char *path)
{
    size_t n = strlen(path);
    return n >= 6 && strcmp(path + n - 6, ".jsonl") == 0;
}

static int check(const struct reader *r, struct pg_err *err)
{
    const struct pg_pairs_options *o = r->opt;
    if (r->end < 0 && pg_vocab_n(o->vocab) > 0) /* else there is more that is missing */
        return pg_fail(err, PG_ENOTSUP,
                       "the vocabulary has no end token, which sources and targets end with");
    if (o->n_source < 2 || o->n_target < 2)
        return pg_fail(err, PG_EARG,
                       "pairs of a source of %d tokens and a target of %d: 2 at least wanted, end "
                       "token included",
                       o->n_source, o->n_target);
    return 0;
}

int pg_pairs_open(struct pg_pairs *p, const struct pg_pairs_options *opt, struct pg_err *err)
{
    const struct reader r = {p, opt, pg_vocab_eos(opt->vocab)};
    *p = (struct pg_pairs){0};
    int rc = check(&r, err);
    for (int i = 0; i < opt->n_paths && !rc && !enough(&r); i++)
        rc = pg_pairs_are_lines(opt->paths[i]) ? add_lines(&r, opt->paths[i], err)
                                               : add_text(&r, opt->paths[i], err);
    if (rc)
        pg_pairs_close(p);
    return rc;
}

void pg_pairs_close(struct pg_pairs *p)
{
    free(p->token);
    free(p->at);
    *p = (struct pg_pairs){0};
}

uint64_t pg_pairs_hash(const struct pg_pairs *p)
{
    uint64_t hash = pg_hash_bytes(PG_HASH_START, p->token, p->n_tokens * sizeof(int32_t));
    for (int i = 0; i < p->n; i++) {
        const struct pg_pair *x = &p->at[i];
        const uint64_t border[] = {x->source, x->target, (uint64_t)x->n_target, x->more};
        hash = pg_hash_bytes(hash, border, sizeof(border));
    }
    return hash;
}
