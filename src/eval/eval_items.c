/* SPDX-License-Identifier: MIT */
#include "eval/eval_items.h"

#include "base/os.h"
#include "format/json.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------ keeping ----------------- */

/* n zeroed bytes that live as long as the items. */
static void *keep(struct pg_items *it, size_t n, struct pg_err *err)
{
    bool room = !pg_reserve(&it->owned, &it->cap_owned, it->n_owned + 1, sizeof(void *));
    void *p = room ? pg_calloc(n, 1) : NULL;
    if (!p) {
        pg_fail(err, PG_ENOMEM, "out of memory: a text of %zu bytes", n);
        return NULL;
    }
    return it->owned[it->n_owned++] = p;
}

static const char *keep_text(struct pg_items *it, const json_t *string, struct pg_err *err)
{
    size_t n = json_string_length(string);
    char *s = keep(it, n + 1, err);
    return s ? memcpy(s, json_string_value(string), n) : NULL;
}

static int add_item(struct pg_items *it, const struct pg_item *item, struct pg_err *err)
{
    if (it->n == INT32_MAX)
        return pg_fail(err, PG_ENOTSUP, "more than %d items", it->n);
    if (pg_reserve(&it->item, &it->cap, (size_t)it->n + 1, sizeof(*item)))
        return pg_fail(err, PG_ENOMEM, "out of memory");
    it->item[it->n++] = *item;
    return 0;
}

static bool enough(const struct pg_items *it)
{
    return it->n_max && it->n >= it->n_max;
}

/* ------------------------------------------------------------------ JSON -------------------- */

static int get_list(const json_t *o, const char *key, json_t **out, struct pg_err *err)
{
    *out = json_object_get(o, key);
    return json_is_array(*out) ? 0 : pg_json_wrong(key, *out, "a list", err);
}

static int get_text(const json_t *o, const char *key, json_t **out, struct pg_err *err)
{
    *out = json_object_get(o, key);
    return json_is_string(*out) ? 0 : pg_json_wrong(key, *out, "a text", err);
}

/* Puts "name[i]: " before the sentence of an error. */
static int at_index(const char *name, size_t i, int rc, struct pg_err *err)
{
    char where[64];
    snprintf(where, sizeof(where), "%s[%zu]", name, i);
    return rc ? pg_fail_in(err, rc, where) : 0;
}

static int load(json_t **out, const char *text, size_t n, struct pg_err *err)
{
    json_error_t why;
    *out = json_loadb(text, n, 0, &why);
    if (!*out) {
        return pg_fail(err, PG_EFORMAT, "no JSON, line %d: %s", why.line,
                       pg_quote(why.text, strlen(why.text)).s);
    }
    return 0;
}

/* ------------------------------------------------------------------ questions --------------- */

static int keep_answers(struct pg_items *it, struct pg_item *item, const json_t *answers,
                        struct pg_err *err)
{
    size_t n = json_array_size(answers), i;
    json_t *a, *text;
    if (n > INT32_MAX)
        return pg_fail(err, PG_ENOTSUP, "%zu answers", n);
    const char **list = keep(it, n * sizeof(*list), err);
    if (!list)
        return PG_ENOMEM;
    json_array_foreach(answers, i, a)
    {
        PG_TRY(at_index("answers", i, get_text(a, "text", &text, err), err));
        list[i] = keep_text(it, text, err);
        if (!list[i])
            return PG_ENOMEM;
    }
    item->answer = list;
    item->n_answers = (int)n;
    return 0;
}

static int read_question(struct pg_items *it, const char *passage, const json_t *qa,
                         struct pg_err *err)
{
    struct pg_item item = {.passage = passage};
    json_t *question, *answers = json_object_get(qa, "answers"), *id = json_object_get(qa, "id");
    json_t *impossible = json_object_get(qa, "is_impossible");
    PG_TRY(get_text(qa, "question", &question, err));
    it->v2 = it->v2 || (impossible && !it->has_version);
    if (answers && !json_is_array(answers))
        return pg_json_wrong("answers", answers, "a list", err);
    if (json_is_true(impossible) || json_array_size(answers) == 0) {
        it->n_skipped++;
        return 0;
    }
    item.question = keep_text(it, question, err);
    item.id = json_is_string(id) ? keep_text(it, id, err) : NULL;
    if (!item.question || (json_is_string(id) && !item.id))
        return PG_ENOMEM;
    PG_TRY(keep_answers(it, &item, answers, err));
    return add_item(it, &item, err);
}

static int read_paragraph(struct pg_items *it, const json_t *paragraph, struct pg_err *err)
{
    json_t *context, *list, *qa;
    size_t i;
    PG_TRY(get_text(paragraph, "context", &context, err));
    PG_TRY(get_list(paragraph, "qas", &list, err));
    const char *passage = keep_text(it, context, err);
    if (!passage)
        return PG_ENOMEM;
    json_array_foreach(list, i, qa)
    {
        if (enough(it))
            break;
        PG_TRY(at_index("qas", i, read_question(it, passage, qa, err), err));
    }
    return 0;
}

static int read_article(struct pg_items *it, const json_t *article, struct pg_err *err)
{
    json_t *list, *paragraph;
    size_t i;
    PG_TRY(get_list(article, "paragraphs", &list, err));
    json_array_foreach(list, i, paragraph)
    {
        if (enough(it))
            break;
        PG_TRY(at_index("paragraphs", i, read_paragraph(it, paragraph, err), err));
    }
    return 0;
}

/* "1.1" or "v2.0" */
static void read_version(struct pg_items *it, const json_t *version)
{
    const char *s = json_is_string(version) ? json_string_value(version) : "";
    s += *s == 'v';
    it->has_version = *s >= '0' && *s <= '9';
    it->v2 = it->has_version && strtod(s, NULL) >= 2;
}

static int read_squad(struct pg_items *it, const json_t *root, struct pg_err *err)
{
    json_t *list, *article;
    size_t i;
    if (!json_is_object(root))
        return pg_json_wrong("SQuAD file", root, "an object", err);
    PG_TRY(get_list(root, "data", &list, err));
    read_version(it, json_object_get(root, "version"));
    json_array_foreach(list, i, article)
    {
        if (enough(it))
            break;
        PG_TRY(at_index("data", i, read_article(it, article, err), err));
    }
    return 0;
}

static int parse_questions(struct pg_items *it, const char *text, size_t n, struct pg_err *err)
{
    json_t *root;
    PG_TRY(load(&root, text, n, err));
    int rc = read_squad(it, root, err);
    json_decref(root);
    return rc;
}

/* ------------------------------------------------------------------ summaries --------------- */

/* The first of the keys that the object has. */
static const json_t *any_of(const json_t *o, const char *const keys[3], struct pg_err *err)
{
    const json_t *v = NULL;
    for (int i = 0; i < 3 && !v; i++)
        v = json_object_get(o, keys[i]);
    if (!v)
        pg_fail(err, PG_EFORMAT, "no %s, %s or %s found", keys[0], keys[1], keys[2]);
    return v;
}

/* All texts of a list are texts, and how long they are together with a space after each. */
static int total_length(const json_t *list, const char *what, size_t *n, struct pg_err *err)
{
    json_t *v;
    size_t i;
    *n = 0;
    json_array_foreach(list, i, v)
    {
        if (!json_is_string(v))
            return at_index(what, i, pg_json_wrong("sentence", v, "a text", err), err);
        *n += json_string_length(v) + 1; /* all of it is in memory, so it does not overflow */
    }
    return 0;
}

/* A text, or the texts of a list with a space between. */
static int keep_source(struct pg_items *it, struct pg_item *item, const json_t *source,
                       struct pg_err *err)
{
    json_t *v;
    size_t i, n, at = 0;
    if (json_is_string(source)) {
        item->passage = keep_text(it, source, err);
        return item->passage ? 0 : PG_ENOMEM;
    }
    if (!json_is_array(source))
        return pg_json_wrong("source", source, "a text or a list of texts", err);
    PG_TRY(total_length(source, "source", &n, err));
    char *s = keep(it, n + 1, err);
    if (!s)
        return PG_ENOMEM;
    json_array_foreach(source, i, v)
    {
        if (i > 0)
            s[at++] = ' ';
        memcpy(s + at, json_string_value(v), json_string_length(v));
        at += json_string_length(v);
    }
    item->passage = s;
    return 0;
}

static int keep_targets(struct pg_items *it, struct pg_item *item, const json_t *target,
                        struct pg_err *err)
{
    bool is_list = json_is_array(target);
    size_t n = is_list ? json_array_size(target) : 1, length;
    if (!is_list && !json_is_string(target))
        return pg_json_wrong("target", target, "a text or a list of texts", err);
    if (n == 0 || n > INT32_MAX) {
        return pg_fail(err, PG_EFORMAT, "target: a list of %zu texts found, one at least wanted",
                       n);
    }
    PG_TRY(is_list ? total_length(target, "target", &length, err) : 0);
    const char **list = keep(it, n * sizeof(*list), err);
    for (size_t i = 0; list && i < n; i++) {
        list[i] = keep_text(it, is_list ? json_array_get(target, i) : target, err);
        if (!list[i])
            return PG_ENOMEM;
    }
    item->answer = list;
    item->n_answers = (int)n;
    return list ? 0 : PG_ENOMEM;
}

static int read_summary(struct pg_items *it, const json_t *o, struct pg_err *err)
{
    static const char *const sources[] = {"source", "document", "article"};
    static const char *const targets[] = {"target", "summary", "highlights"};
    struct pg_item item = {0};
    if (!json_is_object(o))
        return pg_json_wrong("summary", o, "an object", err);
    const json_t *source = any_of(o, sources, err);
    const json_t *target = source ? any_of(o, targets, err) : NULL;
    if (!target)
        return PG_EFORMAT;
    PG_TRY(keep_source(it, &item, source, err));
    PG_TRY(keep_targets(it, &item, target, err));
    return add_item(it, &item, err);
}

static bool is_blank(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!strchr(" \t\r", s[i]) || !s[i])
            return false;
    return true;
}

static int parse_summaries(struct pg_items *it, const char *text, size_t n, struct pg_err *err)
{
    size_t line = 1;
    for (size_t at = 0; at < n && !enough(it); line++) {
        const char *stop = memchr(text + at, '\n', n - at);
        size_t length = stop ? (size_t)(stop - (text + at)) : n - at;
        json_t *o = NULL;
        if (!is_blank(text + at, length)) {
            int rc = load(&o, text + at, length, err);
            rc = rc ? rc : read_summary(it, o, err);
            json_decref(o);
            PG_TRY(at_index("line", line, rc, err));
        }
        at += length + 1;
    }
    return 0;
}

/* ------------------------------------------------------------------ the file ---------------- */

int pg_items_parse(struct pg_items *out, const char *text, size_t n, bool questions, int n_max,
                   struct pg_err *err)
{
    *out = (struct pg_items){.n_max = n_max};
    int rc = questions ? parse_questions(out, text, n, err) : parse_summaries(out, text, n, err);
    if (!rc && out->n == 0) {
        rc = pg_fail(err, PG_EFORMAT, "no %s found in %zu bytes",
                     questions ? "question that has an answer" : "summary", n);
    }
    if (rc)
        pg_items_close(out);
    return rc;
}

static char *read_whole(const char *path, size_t *n, struct pg_err *err)
{
    FILE *f;
    char *text = NULL;
    size_t cap = 0, got = 1;
    *n = 0;
    if (pg_open_text(&f, path, NULL, err))
        return NULL;
    while (got) {
        if (pg_reserve(&text, &cap, *n + (1 << 16), 1))
            break;
        got = fread(text + *n, 1, cap - *n, f);
        *n += got;
    }
    bool failed = got || ferror(f);
    if (failed) {
        (void)(got ? pg_fail(err, PG_ENOMEM, "%s: out of memory after %zu bytes", path, *n)
                   : pg_fail_os(err, PG_EIO, errno, "%s", path));
        free(text);
    }
    fclose(f);
    return failed ? NULL : text;
}

int pg_items_open(struct pg_items *out, const char *path, bool questions, int n_max,
                  struct pg_err *err)
{
    struct pg_err why = {0};
    size_t n;
    *out = (struct pg_items){0};
    char *text = read_whole(path, &n, &why);
    int rc = text ? pg_items_parse(out, text, n, questions, n_max, &why) : why.code;
    free(text);
    if (rc && err)
        *err = why;
    return rc && text ? pg_fail_in(err, rc, path) : rc;
}

void pg_items_close(struct pg_items *it)
{
    for (size_t i = 0; i < it->n_owned; i++)
        free(it->owned[i]);
    free(it->owned);
    free(it->item);
    *it = (struct pg_items){0};
}
