/* SPDX-License-Identifier: MIT
 * JSON schemas: what they are made of. A key that is not in the list below is refused by its name,
 * for it might restrict what a text may be.
 */
#include "text/schema.h"

#include "base/os.h"
#include "text/grammar.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ONE_OF_MAX = 256, JSON_DEPTH_MAX = 512 };

/* ------------------------------------------------------------------ places ------------------ */

int pg_schema_fail(const struct pg_schema *s, int code, const char *format, ...)
{
    char what[300];
    va_list ap;
    va_start(ap, format);
    vsnprintf(what, sizeof(what), format, ap);
    va_end(ap);
    return pg_fail(s->err, code, "schema: #%s: %s", s->path, what);
}

int pg_schema_part(struct pg_schema *s, const char *key, const json_t *v, struct pg_rule_name *name)
{
    size_t n = s->n_path;
    int more = snprintf(s->path + n, sizeof(s->path) - n, "/%s", pg_quote(key, strlen(key)).s);
    if (more > 0)
        s->n_path = PG_MIN(n + (size_t)more, sizeof(s->path) - 1);
    PG_TRY(pg_schema_rule(s, v, name)); /* an error ends it all, so that the path may stay */
    s->n_path = n;
    s->path[n] = '\0';
    return 0;
}

/* ------------------------------------------------------------------ keys -------------------- */

enum group { IGNORED, APPLIES, OBJECT, ARRAY, STRING, NUMBER };

static const struct {
    const char *key;
    enum group group;
} keys[] = {
    {"title", IGNORED},
    {"description", IGNORED},
    {"default", IGNORED},
    {"examples", IGNORED},
    {"example", IGNORED},
    {"deprecated", IGNORED},
    {"readOnly", IGNORED},
    {"writeOnly", IGNORED},
    {"$schema", IGNORED},
    {"$id", IGNORED},
    {"$comment", IGNORED},
    {"$defs", IGNORED},
    {"definitions", IGNORED},
    {"contentEncoding", IGNORED},
    {"contentMediaType", IGNORED},
    {"$ref", APPLIES},
    {"type", APPLIES},
    {"enum", APPLIES},
    {"const", APPLIES},
    {"anyOf", APPLIES},
    {"oneOf", APPLIES},
    {"allOf", APPLIES},
    {"nullable", APPLIES},
    {"properties", OBJECT},
    {"required", OBJECT},
    {"additionalProperties", OBJECT},
    {"minProperties", OBJECT},
    {"maxProperties", OBJECT},
    {"items", ARRAY},
    {"prefixItems", ARRAY},
    {"additionalItems", ARRAY},
    {"minItems", ARRAY},
    {"maxItems", ARRAY},
    {"uniqueItems", ARRAY},
    {"minLength", STRING},
    {"maxLength", STRING},
    {"pattern", STRING},
    {"format", STRING},
    {"minimum", NUMBER},
    {"maximum", NUMBER},
    {"exclusiveMinimum", NUMBER},
    {"exclusiveMaximum", NUMBER},
};

/* The group of a key, or -1. */
static int group_of(const char *key)
{
    for (size_t i = 0; i < PG_COUNT(keys); i++)
        if (!strcmp(key, keys[i].key))
            return (int)keys[i].group;
    return strncmp(key, "x-", 2) ? -1 : (int)IGNORED;
}

static int check_keys(const struct pg_schema *s, const json_t *v)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)v, key,
                        value) if (group_of(key) <
                                   0) return pg_schema_fail(s, PG_ENOTSUP, "'%s' is not supported",
                                                            pg_quote(key, strlen(key)).s);
    return 0;
}

bool pg_schema_ignores(const char *key)
{
    return group_of(key) == IGNORED;
}

bool pg_schema_restricts(const json_t *v, const char *const *but)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)v, key, value)
    {
        bool listed = pg_schema_ignores(key);
        for (int i = 0; *but[i] && !listed; i++)
            listed = !strcmp(key, but[i]);
        if (!listed)
            return true;
    }
    return false;
}

int pg_schema_count(const struct pg_schema *s, const json_t *v, const char *key, int64_t *out)
{
    const json_t *n = json_object_get(v, key);
    if (!n)
        return 0;
    double value = json_number_value(n);
    if (!json_is_number(n) || value < 0 || value != (double)(int64_t)PG_MIN(value, 1e15))
        return pg_schema_fail(s, PG_EFORMAT, "'%s' is no whole number from 0 on", key);
    if (value > PG_SCHEMA_COUNT_MAX)
        return pg_schema_fail(s, PG_ENOTSUP, "'%s' is %.0f, %d is the most that is supported", key,
                              value, PG_SCHEMA_COUNT_MAX);
    *out = (int64_t)value;
    return 0;
}

/* ------------------------------------------------------------------ kinds ------------------- */

static const char *const kind_names[PG_KIND_COUNT] = {
    "null", "boolean", "object", "array", "string", "integer", "number",
};

unsigned pg_json_kinds(const json_t *value)
{
    switch (json_typeof(value)) {
    case JSON_NULL:
        return 1u << PG_KIND_NULL;
    case JSON_TRUE:
    case JSON_FALSE:
        return 1u << PG_KIND_BOOLEAN;
    case JSON_OBJECT:
        return 1u << PG_KIND_OBJECT;
    case JSON_ARRAY:
        return 1u << PG_KIND_ARRAY;
    case JSON_STRING:
        return 1u << PG_KIND_STRING;
    case JSON_INTEGER:
        return 1u << PG_KIND_INTEGER | 1u << PG_KIND_NUMBER;
    default:
        return 1u << PG_KIND_NUMBER;
    }
}

static int add_kind(const struct pg_schema *s, const json_t *name, unsigned *kinds)
{
    for (int i = 0; i < PG_KIND_COUNT; i++) {
        if (json_is_string(name) && !strcmp(json_string_value(name), kind_names[i])) {
            *kinds |= 1u << i;
            return 0;
        }
    }
    return pg_schema_fail(s, PG_EFORMAT, "'type' names a type that there is not");
}

/* Without a type, keys tell what a schema is about; with none of those it may be anything. */
int pg_schema_kinds(const struct pg_schema *s, const json_t *v, unsigned *kinds)
{
    static const unsigned of_group[] = {[OBJECT] = 1u << PG_KIND_OBJECT,
                                        [ARRAY] = 1u << PG_KIND_ARRAY,
                                        [STRING] = 1u << PG_KIND_STRING,
                                        [NUMBER] = 1u << PG_KIND_NUMBER};
    const json_t *type = json_object_get(v, "type");
    const char *key;
    json_t *value;
    size_t i;
    *kinds = 0;
    if (type && !json_is_array(type))
        return add_kind(s, type, kinds);
    if (type) {
        json_array_foreach(type, i, value) PG_TRY(add_kind(s, value, kinds));
        return *kinds ? 0 : pg_schema_fail(s, PG_EFORMAT, "'type' is empty");
    }
    json_object_foreach((json_t *)(uintptr_t)v, key, value) *kinds |=
        group_of(key) > APPLIES ? of_group[group_of(key)] : 0;
    if (!*kinds)
        *kinds = (1u << PG_KIND_COUNT) - 1;
    return 0;
}

static int rule_of_kind(struct pg_schema *s, const json_t *v, int kind, struct pg_rule_name *name)
{
    static const enum pg_schema_base base[] = {
        [PG_KIND_NULL] = PG_BASE_NULL, [PG_KIND_BOOLEAN] = PG_BASE_BOOLEAN};
    switch (kind) {
    case PG_KIND_OBJECT:
        return pg_schema_object(s, v, name);
    case PG_KIND_ARRAY:
        return pg_schema_array(s, v, name);
    case PG_KIND_STRING:
        return pg_schema_string(s, v, name);
    case PG_KIND_INTEGER:
        return pg_schema_integer(s, v, name);
    case PG_KIND_NUMBER:
        return pg_schema_number(s, v, name);
    default:
        *name = pg_schema_base(s, base[kind]);
        return 0;
    }
}

static int rule_of_kinds(struct pg_schema *s, const json_t *v, struct pg_rule_name *name)
{
    struct pg_out body = {0};
    unsigned kinds;
    int rc = pg_schema_kinds(s, v, &kinds);
    if (kinds & 1u << PG_KIND_NUMBER) /* which has the integers in it */
        kinds &= ~(1u << PG_KIND_INTEGER);
    for (int i = 0; i < PG_KIND_COUNT && !rc; i++) {
        if (!(kinds >> i & 1))
            continue;
        rc = rule_of_kind(s, v, i, name);
        if (!rc)
            pg_out_put(&body, "%s%s", body.n ? " | " : "", name->s);
    }
    if (!rc && (kinds & (kinds - 1))) {
        *name = pg_schema_new_name(s, "type");
        pg_schema_define(s, *name, &body);
    }
    pg_out_free(&body);
    return rc;
}

/* ------------------------------------------------------------------ values ------------------ */

/* Numbers in as few digits as give them back. */
static char *dump(const json_t *value)
{
    char *text = NULL;
    for (int digits = 15; digits <= 17; digits++) {
        free(text);
        text =
            json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION((size_t)digits));
        json_t *back = text ? json_loads(text, JSON_DECODE_ANY, NULL) : NULL;
        bool same = back && json_equal(back, (json_t *)(uintptr_t)value);
        json_decref(back);
        if (same)
            break;
    }
    return text;
}

static int put_value(struct pg_schema *s, const json_t *value, struct pg_out *body)
{
    char *text = dump(value);
    if (!text)
        return pg_schema_fail(s, PG_ENOMEM, "out of memory");
    pg_out_put(body, "%s", body->n ? " | " : "");
    pg_out_literal(body, text, strlen(text));
    free(text);
    return 0;
}

/* The values of `enum` or `const` that the type allows. */
static int rule_of_values(struct pg_schema *s, const json_t *v, struct pg_rule_name *name)
{
    static const char *const with[] = {"enum", "const", "type", "nullable", ""};
    const json_t *list = json_object_get(v, "enum"), *one = json_object_get(v, "const"), *value;
    struct pg_out body = {0};
    unsigned kinds = ~0u;
    int rc = 0;
    size_t i;
    if (pg_schema_restricts(v, with))
        return pg_schema_fail(s, PG_ENOTSUP, "'%s' beside other restrictions is not supported",
                              list ? "enum" : "const");
    if (list && !json_is_array(list))
        return pg_schema_fail(s, PG_EFORMAT, "'enum' is no list");
    if (json_object_get(v, "type"))
        PG_TRY(pg_schema_kinds(s, v, &kinds));
    json_array_foreach(list, i, value) if ((pg_json_kinds(value) & kinds) &&
                                           (!one || json_equal(value, one)) && !rc) rc =
        put_value(s, value, &body);
    if (!list && (pg_json_kinds(one) & kinds))
        rc = put_value(s, one, &body);
    if (!rc && !body.n && !body.failed)
        rc = pg_schema_fail(s, PG_EFORMAT, "no value of '%s' keeps to the rest",
                            list ? "enum" : "const");
    if (!rc) {
        *name = pg_schema_new_name(s, list ? "enum" : "const");
        pg_schema_define(s, *name, &body);
    }
    pg_out_free(&body);
    return rc;
}

/* ------------------------------------------------------------------ references -------------- */

static int hex(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* The next step of a JSON pointer in a URI, without its escapes; returns what follows. */
static const char *take_step(const char *at, char *out, size_t room)
{
    size_t n = 0;
    for (; *at && *at != '/' && n + 1 < room; n++) {
        if (*at == '~' && (at[1] == '0' || at[1] == '1')) {
            out[n] = at[1] == '0' ? '~' : '/';
            at += 2;
        } else if (*at == '%' && hex(at[1]) >= 0 && hex(at[2]) >= 0) {
            out[n] = (char)(hex(at[1]) << 4 | hex(at[2]));
            at += 3;
        } else {
            out[n] = *at++;
        }
    }
    out[n] = '\0';
    return at;
}

static const json_t *follow(const struct pg_schema *s, const char *pointer)
{
    const json_t *at = s->root;
    char step[256], *end;
    while (at && *pointer == '/') {
        pointer = take_step(pointer + 1, step, sizeof(step));
        if (json_is_array(at)) {
            unsigned long i = strtoul(step, &end, 10);
            at = *step && !*end ? json_array_get(at, i) : NULL;
        } else {
            at = json_object_get(at, step);
        }
    }
    return *pointer ? NULL : at;
}

static const json_t *target_of(struct pg_schema *s, const json_t *ref)
{
    const char *text = json_string_value(ref);
    const json_t *to = NULL;
    if (!text)
        pg_schema_fail(s, PG_EFORMAT, "'$ref' is no text");
    else if (*text != '#')
        pg_schema_fail(s, PG_ENOTSUP, "$ref '%s' leads out of the schema",
                       pg_quote(text, strlen(text)).s);
    else if (!(to = follow(s, text + 1)))
        pg_schema_fail(s, PG_EFORMAT, "$ref '%s' leads to nothing", pg_quote(text, strlen(text)).s);
    return to;
}

const json_t *pg_schema_target(struct pg_schema *s, const json_t *v)
{
    static const char *const alone[] = {"$ref", ""};
    for (int i = 0; i < PG_SCHEMA_DEPTH_MAX; i++) {
        const json_t *ref = json_object_get(v, "$ref");
        if (!ref || pg_schema_restricts(v, alone))
            return v;
        v = target_of(s, ref);
        if (!v)
            return NULL;
    }
    pg_schema_fail(s, PG_EFORMAT, "'$ref' leads back to itself");
    return NULL;
}

static struct pg_schema_ref *find_ref(const struct pg_schema *s, const json_t *target)
{
    for (size_t i = 0; i < s->n_ref; i++)
        if (s->ref[i].target == target)
            return &s->ref[i];
    return NULL;
}

static int rule_of_target(struct pg_schema *s, const json_t *target, struct pg_rule_name *name)
{
    struct pg_schema_ref *have = find_ref(s, target);
    struct pg_out body = {0};
    size_t at = s->n_ref;
    if (have) {
        *name = have->name;
        if (have->open && have->n_objects == s->n_objects)
            return pg_schema_fail(s, PG_EFORMAT, "'$ref' leads back to itself");
        return 0;
    }
    if (pg_reserve(&s->ref, &s->cap_ref, s->n_ref + 1, sizeof(*s->ref)))
        return pg_schema_fail(s, PG_ENOMEM, "out of memory");
    *name = pg_schema_new_name(s, "ref");
    if (target == s->root)
        snprintf(name->s, sizeof(name->s), "root");
    s->ref[s->n_ref++] = (struct pg_schema_ref){target, *name, true, s->n_objects};
    struct pg_rule_name inner;
    int rc = pg_schema_rule(s, target, &inner);
    if (!rc) {
        pg_out_put(&body, "%s", inner.s);
        pg_schema_define(s, *name, &body);
    }
    s->ref[at].open = false;
    pg_out_free(&body);
    return rc;
}

/* ------------------------------------------------------------------ several schemas --------- */

json_t *pg_schema_copy(const json_t *v)
{
    json_t *copy = json_copy((json_t *)(uintptr_t)v);
    if (json_object_size(copy) == json_object_size(v) &&
        json_array_size(copy) == json_array_size(v))
        return copy;
    json_decref(copy);
    return NULL;
}

/* A copy without the key, kept in s->made. */
static json_t *without(struct pg_schema *s, const json_t *v, const char *key)
{
    json_t *copy = pg_schema_copy(v);
    if (!copy || json_array_append_new(s->made, copy)) {
        pg_schema_fail(s, PG_ENOMEM, "out of memory");
        return NULL;
    }
    json_object_del(copy, key);
    return copy;
}

static int rule_of_all(struct pg_schema *s, const json_t *v, struct pg_rule_name *name)
{
    const json_t *list = json_object_get(v, "allOf"), *one, *all = without(s, v, "allOf");
    size_t i;
    if (!all)
        return PG_ENOMEM;
    if (!json_is_array(list) || !json_array_size(list))
        return pg_schema_fail(s, PG_EFORMAT, "'allOf' is no list of schemas");
    json_array_foreach(list, i, one)
    {
        all = pg_schema_merge(s, all, one);
        if (!all)
            return s->err->code;
    }
    return pg_schema_rule(s, all, name);
}

static int rule_of_ref(struct pg_schema *s, const json_t *v, struct pg_rule_name *name)
{
    static const char *const alone[] = {"$ref", ""};
    const json_t *target = target_of(s, json_object_get(v, "$ref"));
    if (!target)
        return s->err->code;
    if (!pg_schema_restricts(v, alone))
        return rule_of_target(s, target, name);
    const json_t *rest = without(s, v, "$ref"),
                 *all = rest ? pg_schema_merge(s, rest, target) : NULL;
    return all ? pg_schema_rule(s, all, name) : s->err->code;
}

static int check_apart(struct pg_schema *s, const json_t *list)
{
    size_t i, k;
    const json_t *a, *b;
    if (json_array_size(list) > ONE_OF_MAX)
        return pg_schema_fail(s, PG_ENOTSUP, "'oneOf' has %zu schemas, %d at most are supported",
                              json_array_size(list), ONE_OF_MAX);
    json_array_foreach(list, i, a)
    {
        json_array_foreach(list, k, b)
        {
            if (k > i && !pg_schema_apart(s, a, b, 0))
                return pg_schema_fail(s, PG_ENOTSUP,
                                      "'oneOf': a value might keep to both %zu and %zu, which is "
                                      "not looked at; 'anyOf' allows that",
                                      i, k);
        }
    }
    return 0;
}

/* One of a list; what stands beside it holds in addition for each. */
static int rule_of_any(struct pg_schema *s, const json_t *v, const char *key,
                       struct pg_rule_name *name)
{
    const char *const alone[] = {key, ""};
    const json_t *list = json_object_get(v, key), *one, *rest = without(s, v, key);
    const bool more = pg_schema_restricts(v, alone);
    struct pg_out body = {0};
    int rc = rest ? 0 : PG_ENOMEM;
    size_t i;
    if (!json_is_array(list) || !json_array_size(list))
        return pg_schema_fail(s, PG_EFORMAT, "'%s' is no list of schemas", key);
    if (!rc && !strcmp(key, "oneOf"))
        rc = check_apart(s, list);
    json_array_foreach(list, i, one)
    {
        const json_t *both = rc ? NULL : more ? pg_schema_merge(s, rest, one) : one;
        if (!both) {
            rc = rc ? rc : s->err->code;
            break;
        }
        rc = pg_schema_part(s, key, both, name);
        if (!rc)
            pg_out_put(&body, "%s%s", i ? " | " : "", name->s);
    }
    if (!rc) {
        *name = pg_schema_new_name(s, "any");
        pg_schema_define(s, *name, &body);
    }
    pg_out_free(&body);
    return rc;
}

static int rule_or_null(struct pg_schema *s, const json_t *v, struct pg_rule_name *name)
{
    struct pg_out body = {0};
    const json_t *rest = without(s, v, "nullable");
    int rc = rest ? pg_schema_rule(s, rest, name) : PG_ENOMEM;
    if (!rc) {
        pg_out_put(&body, "%s | %s", name->s, pg_schema_base(s, PG_BASE_NULL).s);
        *name = pg_schema_new_name(s, "nullable");
        pg_schema_define(s, *name, &body);
    }
    pg_out_free(&body);
    return rc;
}

/* ------------------------------------------------------------------ a schema ---------------- */

static int rule_of(struct pg_schema *s, const json_t *v, struct pg_rule_name *name)
{
    PG_TRY(check_keys(s, v));
    if (json_is_true(json_object_get(v, "nullable")))
        return rule_or_null(s, v, name);
    if (json_object_get(v, "allOf"))
        return rule_of_all(s, v, name);
    if (json_object_get(v, "$ref"))
        return rule_of_ref(s, v, name);
    if (json_object_get(v, "anyOf"))
        return rule_of_any(s, v, "anyOf", name);
    if (json_object_get(v, "oneOf"))
        return rule_of_any(s, v, "oneOf", name);
    if (json_object_get(v, "enum") || json_object_get(v, "const"))
        return rule_of_values(s, v, name);
    return rule_of_kinds(s, v, name);
}

int pg_schema_rule(struct pg_schema *s, const json_t *v, struct pg_rule_name *name)
{
    if (json_is_false(v))
        return pg_schema_fail(s, PG_EFORMAT, "'false' allows nothing");
    if (json_is_true(v)) {
        *name = pg_schema_base(s, PG_BASE_VALUE);
        return 0;
    }
    if (!json_is_object(v))
        return pg_schema_fail(s, PG_EFORMAT, "%s found, a schema wanted", pg_json_kind(v));
    if (s->depth == PG_SCHEMA_DEPTH_MAX)
        return pg_schema_fail(s, PG_ENOTSUP, "more than %d schemas inside each other",
                              PG_SCHEMA_DEPTH_MAX);
    if (s->n_done++ == PG_SCHEMA_WORK_MAX || s->out.n > PG_SCHEMA_TEXT_MAX * 4)
        return pg_schema_fail(s, PG_ENOTSUP,
                              "with references written out where they are "
                              "restricted there is more than %d schemas or %d bytes of rules",
                              PG_SCHEMA_WORK_MAX, PG_SCHEMA_TEXT_MAX * 4);
    s->depth++;
    int rc = rule_of(s, v, name);
    s->depth--;
    return rc;
}

/* Before it is parsed, which follows its depth. */
static int check_depth(const char *text, size_t n, struct pg_err *err)
{
    int depth = 0;
    bool quoted = false;
    for (size_t i = 0; i < n; i++) {
        if (quoted && text[i] == '\\')
            i++;
        else if (text[i] == '"')
            quoted = !quoted;
        else if (!quoted && (text[i] == '{' || text[i] == '['))
            depth++;
        else if (!quoted && (text[i] == '}' || text[i] == ']'))
            depth--;
        if (depth > JSON_DEPTH_MAX)
            return pg_fail(err, PG_ENOTSUP, "schema: JSON of more than %d levels", JSON_DEPTH_MAX);
    }
    return 0;
}

static int write_grammar(struct pg_schema *s)
{
    struct pg_rule_name root;
    s->made = json_array();
    if (!s->made)
        return pg_schema_fail(s, PG_ENOMEM, "out of memory");
    PG_TRY(rule_of_target(s, s->root, &root));
    pg_schema_define_bases(s);
    return s->out.failed ? pg_schema_fail(s, PG_ENOMEM, "out of memory") : 0;
}

int pg_grammar_of_schema(pg_grammar **out, const char *schema, size_t n, struct pg_err *err)
{
    struct pg_err own;
    struct pg_schema s = {.err = err ? err : &own};
    *out = NULL;
    if (!n) {
        schema = "{\"type\":\"object\"}";
        n = strlen(schema);
    }
    if (!schema)
        return pg_fail(err, PG_EARG, "schema: none given");
    if (n > PG_SCHEMA_TEXT_MAX)
        return pg_fail(err, PG_ENOTSUP, "schema: %zu bytes found, %d at most wanted", n,
                       PG_SCHEMA_TEXT_MAX);
    PG_TRY(check_depth(schema, n, err));
    PG_TRY(pg_json_parse(&s.root, schema, n, err));
    int rc = write_grammar(&s);
    json_decref(s.root);
    json_decref(s.made);
    free(s.ref);
    if (rc) {
        pg_out_free(&s.out);
        return rc;
    }
    return pg_grammar_make(out, s.out.s, s.out.n, err); /* which takes the text */
}
