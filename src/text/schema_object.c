/* SPDX-License-Identifier: MIT
 * Objects and arrays. Properties come in the order of the schema; those that need not be there may
 * be left out in any combination: of each there is a rule for what follows when nothing has been
 * written yet, and one for when a comma has to come first.
 */
#include "text/schema.h"

#include "base/os.h"
#include "text/utf8.h"

#include <stdlib.h>
#include <string.h>

enum { NAME_MAX_CHARS = 128, PROPERTIES_MAX = 4096 };

/* ------------------------------------------------------------------ names ------------------- */

/* Names that further properties must not have, sorted. */
struct names {
    const char **name;
    size_t n;
};

/* Rules that write "KEY" without its first quote: any text but a name, spelled without escapes, so
 * that no name can be written in another way. Of the names [lo, hi), `at` bytes have been read. */
static int other_name(struct pg_schema *s, const struct names *k, size_t lo, size_t hi, size_t at,
                      struct pg_rule_name *name)
{
    struct pg_out body = {0}, class = {0};
    bool is_name = lo < hi && !k->name[lo][at];
    int rc = 0;
    if (s->n_done++ == PG_SCHEMA_WORK_MAX)
        return pg_schema_fail(s, PG_ENOTSUP, "names of properties are too many or too long");
    *name = pg_schema_new_name(s, "name");
    for (size_t i = lo + is_name; i < hi && !rc;) {
        struct pg_rule_name child;
        const char *text = k->name[i] + at;
        int len = pg_utf8_scan(text, strlen(text));
        size_t end = i + 1;
        while (end < hi && !strncmp(k->name[end] + at, text, (size_t)len))
            end++;
        rc = other_name(s, k, i, end, at + (size_t)len, &child);
        pg_out_class_char(&class, pg_utf8_decode(text, len));
        pg_out_literal(&body, text, (size_t)len);
        pg_out_put(&body, " %s | ", child.s);
        i = end;
    }
    pg_out_put(&body, "[^\"\\\\\\x00-\\x1F\\x7F%s] %s* \"\\\"\"%s", class.s ? class.s : "",
               pg_schema_base(s, PG_BASE_PLAIN).s, is_name ? "" : " | \"\\\"\"");
    body.failed = body.failed || class.failed;
    pg_schema_define(s, *name, &body);
    pg_out_free(&body);
    pg_out_free(&class);
    return rc;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static size_t chars_of(const char *text)
{
    size_t n = 0;
    for (; *text; text++)
        n += ((unsigned char)*text & 0xC0) != 0x80;
    return n;
}

/* Whether the name can be written without an escape. */
static bool is_plain(const char *name)
{
    for (; *name; name++)
        if ((unsigned char)*name < 0x20 || *name == '"' || *name == '\\' || *name == 0x7F)
            return false;
    return true;
}

/* ------------------------------------------------------------------ objects ----------------- */

struct object {
    const json_t *v, *properties, *more; /* more: additionalProperties, NULL: none may come */
    json_t *required;                    /* the names, as keys of an object */
    struct pg_rule_name name, more_name;
    struct pg_out body;
};

static int check_object(struct pg_schema *s, struct object *o)
{
    const json_t *list = json_object_get(o->v, "required"), *one;
    size_t i;
    o->properties = json_object_get(o->v, "properties");
    o->more = json_object_get(o->v, "additionalProperties");
    if (o->properties && !json_is_object(o->properties))
        return pg_schema_fail(s, PG_EFORMAT, "'properties' is no object");
    if (list && !json_is_array(list))
        return pg_schema_fail(s, PG_EFORMAT, "'required' is no list");
    if (json_object_size(o->properties) + json_array_size(list) > PROPERTIES_MAX)
        return pg_schema_fail(s, PG_ENOTSUP, "more than %d properties", PROPERTIES_MAX);
    json_array_foreach(list, i, one)
    {
        if (!json_is_string(one))
            return pg_schema_fail(s, PG_EFORMAT, "'required' names something that is no text");
        if (json_object_set_new(o->required, json_string_value(one), json_true()))
            return pg_schema_fail(s, PG_ENOMEM, "out of memory");
    }
    if (!o->more && !o->properties && !list)
        o->more = json_true();
    if (json_is_false(o->more))
        o->more = NULL;
    return 0;
}

/* Limits that what is written keeps to anyway are fine. */
static int check_limits(struct pg_schema *s, const struct object *o)
{
    int64_t least = 0, most = PG_SCHEMA_COUNT_MAX;
    PG_TRY(pg_schema_count(s, o->v, "minProperties", &least));
    PG_TRY(pg_schema_count(s, o->v, "maxProperties", &most));
    if (least > (int64_t)json_object_size(o->required))
        return pg_schema_fail(s, PG_ENOTSUP,
                              "'minProperties' beyond what is required is not "
                              "supported");
    if (json_object_get(o->v, "maxProperties") &&
        (o->more || most < (int64_t)json_object_size(o->properties)))
        return pg_schema_fail(s, PG_ENOTSUP,
                              "'maxProperties' below what there may be is not "
                              "supported");
    return 0;
}

/* The rule of a further property, `"key": value`. */
static int further_property(struct pg_schema *s, struct object *o)
{
    struct pg_rule_name value, key;
    struct names k = {0};
    const char *name;
    json_t *one;
    int rc = pg_schema_part(s, "additionalProperties", o->more, &value);
    k.name = pg_calloc(json_object_size(o->properties) + 1, sizeof(*k.name));
    if (!rc && !k.name)
        rc = pg_schema_fail(s, PG_ENOMEM, "out of memory");
    json_object_foreach((json_t *)(uintptr_t)o->properties, name, one)
    {
        if (!rc && chars_of(name) > NAME_MAX_CHARS)
            rc = pg_schema_fail(s, PG_ENOTSUP,
                                "a name of more than %d characters beside "
                                "'additionalProperties'",
                                NAME_MAX_CHARS);
        if (!rc && is_plain(name))
            k.name[k.n++] = name;
    }
    if (!rc) {
        qsort(k.name, k.n, sizeof(*k.name), by_name);
        rc = k.n ? other_name(s, &k, 0, k.n, 0, &key) : 0;
    }
    if (!rc) {
        o->more_name = pg_schema_new_name(s, "more");
        if (!k.n)
            key = pg_schema_base(s, PG_BASE_STRING);
        pg_out_put(&o->body, "%s%s ws \":\" ws %s", k.n ? "\"\\\"\" " : "", key.s, value.s);
        pg_schema_define(s, o->more_name, &o->body);
    }
    free(k.name);
    return rc;
}

/* Rules OBJECT-first-I and OBJECT-then-I: what may come from property I on. */
static void define_rest(struct pg_schema *s, struct object *o, size_t i, const char *member,
                        bool optional)
{
    struct pg_rule_name first, then;
    snprintf(first.s, sizeof(first.s), "%.16s-first-%zu", o->name.s, i);
    snprintf(then.s, sizeof(then.s), "%.16s-then-%zu", o->name.s, i);
    pg_out_put(&o->body, "%s %.16s-then-%zu", member, o->name.s, i + 1);
    if (optional)
        pg_out_put(&o->body, " | %.16s-first-%zu", o->name.s, i + 1);
    pg_schema_define(s, first, &o->body);
    pg_out_put(&o->body, "ws \",\" ws %s %.16s-then-%zu", member, o->name.s, i + 1);
    if (optional)
        pg_out_put(&o->body, " | %.16s-then-%zu", o->name.s, i + 1);
    pg_schema_define(s, then, &o->body);
}

static int define_property(struct pg_schema *s, struct object *o, size_t i, const char *name,
                           const json_t *value)
{
    struct pg_out member = {0};
    struct pg_rule_name rule;
    json_t *text = json_string(name);
    char *quoted = text ? json_dumps(text, JSON_ENCODE_ANY) : NULL;
    bool optional = !json_object_get(o->required, name);
    int rc = quoted ? 0 : pg_schema_fail(s, PG_ENOMEM, "out of memory");
    rc = rc ? rc : pg_schema_part(s, name, value, &rule);
    if (!rc) {
        pg_out_literal(&member, quoted, strlen(quoted));
        pg_out_put(&member, " ws \":\" ws %s", rule.s);
        o->body.failed = o->body.failed || member.failed;
        define_rest(s, o, i, member.s ? member.s : "", optional);
    }
    pg_out_free(&member);
    json_decref(text);
    free(quoted);
    return rc;
}

static int define_properties(struct pg_schema *s, struct object *o, size_t *n)
{
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)o->properties, name, value)
    {
        if (json_is_false(value) && !json_object_get(o->required, name))
            continue; /* it may not be there */
        PG_TRY(define_property(s, o, (*n)++, name, value));
    }
    json_object_foreach(o->required, name, value)
    {
        if (json_object_get(o->properties, name))
            continue;
        if (!o->more && json_object_get(o->v, "additionalProperties"))
            return pg_schema_fail(s, PG_EFORMAT, "'%s' is required, and no property may have it",
                                  pg_quote(name, strlen(name)).s);
        const json_t *any = o->more ? o->more : value; /* which is true */
        PG_TRY(define_property(s, o, (*n)++, name, any));
    }
    return 0;
}

static int define_object(struct pg_schema *s, struct object *o)
{
    size_t n = 0;
    struct pg_rule_name end;
    pg_schema_base(s, PG_BASE_WS);
    PG_TRY(check_object(s, o));
    PG_TRY(check_limits(s, o));
    PG_TRY(define_properties(s, o, &n));
    if (o->more)
        PG_TRY(further_property(s, o));
    const char *more = o->more_name.s;
    snprintf(end.s, sizeof(end.s), "%.16s-first-%zu", o->name.s, n);
    if (o->more)
        pg_out_put(&o->body, "(%s (ws \",\" ws %s)* ws)?", more, more);
    else
        pg_out_put(&o->body, "\"\"");
    pg_schema_define(s, end, &o->body);
    snprintf(end.s, sizeof(end.s), "%.16s-then-%zu", o->name.s, n);
    if (o->more)
        pg_out_put(&o->body, "(ws \",\" ws %s)* ws", more);
    else
        pg_out_put(&o->body, "ws");
    pg_schema_define(s, end, &o->body);
    pg_out_put(&o->body, "\"{\" ws %.16s-first-0 \"}\"", o->name.s);
    pg_schema_define(s, o->name, &o->body);
    return 0;
}

int pg_schema_object(struct pg_schema *s, const json_t *v, struct pg_rule_name *name)
{
    static const char *const plain[] = {"type", ""};
    struct object o = {.v = v, .required = json_object()};
    unsigned kinds;
    int rc = o.required ? pg_schema_kinds(s, v, &kinds) : PG_ENOMEM;
    if (!rc && !pg_schema_restricts(v, plain)) {
        *name = pg_schema_base(s, PG_BASE_OBJECT);
    } else if (!rc) {
        *name = o.name = pg_schema_new_name(s, "object");
        s->n_objects++;
        rc = define_object(s, &o);
        s->n_objects--;
    } else {
        pg_schema_fail(s, rc, "out of memory");
    }
    json_decref(o.required);
    pg_out_free(&o.body);
    return rc;
}

/* ------------------------------------------------------------------ arrays ------------------ */

struct array {
    const json_t *first,
        *rest;           /* first: schemas of the first items; rest: of all others, or NULL */
    int64_t least, most; /* most: -1: any number */
    size_t n_first;
};

static int check_array(struct pg_schema *s, const json_t *v, struct array *a)
{
    const json_t *items = json_object_get(v, "items");
    const bool older = json_is_array(items); /* before prefixItems had its name */
    a->first = older ? items : json_object_get(v, "prefixItems");
    a->rest = older ? json_object_get(v, "additionalItems") : items;
    a->n_first = json_array_size(a->first);
    a->most = -1;
    if (json_object_get(v, "uniqueItems") && !json_is_false(json_object_get(v, "uniqueItems")))
        return pg_schema_fail(s, PG_ENOTSUP, "'uniqueItems' is not supported");
    if (a->first && !json_is_array(a->first))
        return pg_schema_fail(s, PG_EFORMAT, "'prefixItems' is no list");
    PG_TRY(pg_schema_count(s, v, "minItems", &a->least));
    PG_TRY(pg_schema_count(s, v, "maxItems", &a->most));
    if (a->most >= 0 && a->most < a->least)
        return pg_schema_fail(s, PG_EFORMAT, "'maxItems' is less than 'minItems'");
    if (!a->rest && !a->first)
        a->rest = json_true();
    if (json_is_false(a->rest))
        a->rest = NULL;
    if (a->most >= 0)
        a->n_first = (size_t)PG_MIN((int64_t)a->n_first, a->most);
    if (!a->rest && (int64_t)a->n_first < a->least)
        return pg_schema_fail(s, PG_EFORMAT, "'minItems' is more than the items that there are");
    return 0;
}

/* Items after the first n, each with a comma before it: {least,most} of them. */
static void put_further(struct pg_out *body, const char *item, int64_t least, int64_t most)
{
    if (most < 0)
        pg_out_put(body, " (ws \",\" ws %s){%lld,}", item, (long long)least);
    else if (most > 0)
        pg_out_put(body, " (ws \",\" ws %s){%lld,%lld}", item, (long long)least, (long long)most);
}

static int define_array(struct pg_schema *s, const json_t *v, struct pg_out *body)
{
    struct array a = {0};
    struct pg_rule_name item;
    char key[32];
    PG_TRY(check_array(s, v, &a));
    pg_schema_base(s, PG_BASE_WS);
    pg_out_put(body, "\"[\" ws");
    for (size_t i = 0; i < a.n_first; i++) {
        snprintf(key, sizeof(key), "%zu", i);
        PG_TRY(pg_schema_part(s, key, json_array_get(a.first, i), &item));
        pg_out_put(body, "%s %s", i ? " ws \",\" ws" : "", item.s);
    }
    int64_t done = (int64_t)a.n_first, least = PG_MAX(a.least - done, 0);
    int64_t most = a.most < 0 ? -1 : a.most - done;
    if (a.rest && most)
        PG_TRY(pg_schema_part(s, "items", a.rest, &item));
    if (a.rest && most && done) {
        put_further(body, item.s, least, most);
    } else if (a.rest && most) {
        pg_out_put(body, " (%s", item.s);
        put_further(body, item.s, PG_MAX(least - 1, 0), most < 0 ? -1 : most - 1);
        pg_out_put(body, " ws)%s", least ? "" : "?");
    }
    pg_out_put(body, "%s \"]\"", done ? " ws" : "");
    return 0;
}

int pg_schema_array(struct pg_schema *s, const json_t *v, struct pg_rule_name *name)
{
    static const char *const plain[] = {"type", ""};
    struct pg_out body = {0};
    if (!pg_schema_restricts(v, plain)) {
        *name = pg_schema_base(s, PG_BASE_ARRAY);
        return 0;
    }
    s->n_objects++;
    int rc = define_array(s, v, &body);
    s->n_objects--;
    if (!rc) {
        *name = pg_schema_new_name(s, "array");
        pg_schema_define(s, *name, &body);
    }
    pg_out_free(&body);
    return rc;
}
