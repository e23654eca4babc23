/* SPDX-License-Identifier: MIT
 * Schemas that hold at once. Keys that only one has are taken; those that both have must be such
 * that one key says both, or they are refused.
 */
#include "text/schema.h"

#include <string.h>

enum { APART_DEPTH = 3 };

/* ------------------------------------------------------------------ one key ----------------- */

static json_t *union_of(const json_t *a, const json_t *b)
{
    json_t *both = json_copy((json_t *)(uintptr_t)a), *one;
    size_t i, k;
    json_array_foreach(b, i, one)
    {
        bool have = false;
        for (k = 0; k < json_array_size(a); k++)
            have = have || json_equal(json_array_get(a, k), one);
        if (both && !have)
            json_array_append(both, one);
    }
    return both;
}

static json_t *common_of(const json_t *a, const json_t *b)
{
    json_t *both = json_array(), *one;
    size_t i, k;
    json_array_foreach(b, i, one)
    {
        bool have = false;
        for (k = 0; k < json_array_size(a); k++)
            have = have || json_equal(json_array_get(a, k), one);
        if (both && have)
            json_array_append(both, one);
    }
    return both;
}

/* Types that both allow; an integer is a number. */
static json_t *common_types(struct pg_schema *s, const json_t *a, const json_t *b)
{
    static const char *const names[] = {"null",   "boolean", "object", "array",
                                        "string", "integer", "number"};
    json_t *x = json_pack("{s:O}", "type", a), *y = json_pack("{s:O}", "type", b),
           *both = json_array();
    unsigned kinds[2] = {0, 0};
    int rc = x && y && both ? 0 : pg_schema_fail(s, PG_ENOMEM, "out of memory");
    rc = rc ? rc : pg_schema_kinds(s, x, &kinds[0]);
    rc = rc ? rc : pg_schema_kinds(s, y, &kinds[1]);
    json_decref(x);
    json_decref(y);
    for (int i = 0; i < 2; i++)
        kinds[i] |= kinds[i] & 1u << PG_KIND_NUMBER ? 1u << PG_KIND_INTEGER : 0;
    for (int i = 0; i < PG_KIND_COUNT && !rc; i++)
        if (kinds[0] & kinds[1] & 1u << i)
            json_array_append_new(both, json_string(names[i]));
    if (!rc && json_array_size(both))
        return both;
    json_decref(both);
    if (!rc)
        pg_schema_fail(s, PG_EFORMAT, "no 'type' keeps to both schemas");
    return NULL;
}

/* Schemas of the same names hold both. */
static json_t *both_properties(const json_t *a, const json_t *b)
{
    json_t *both = json_copy((json_t *)(uintptr_t)a), *one;
    const char *key;
    json_object_foreach((json_t *)(uintptr_t)b, key, one)
    {
        json_t *have = json_object_get(a, key);
        if (both && have)
            json_object_set_new(both, key, json_pack("{s:[O,O]}", "allOf", have, one));
        else if (both)
            json_object_set(both, key, one);
    }
    return both;
}

static bool is_any(const char *key, const char *const *names)
{
    for (int i = 0; names[i]; i++)
        if (!strcmp(key, names[i]))
            return true;
    return false;
}

/* What `key` says in both, as one value. NULL: there is none that could be written. */
static json_t *both_of(struct pg_schema *s, const char *key, json_t *a, json_t *b)
{
    static const char *const larger[] = {"minimum",  "exclusiveMinimum", "minLength",
                                         "minItems", "minProperties",    NULL};
    static const char *const smaller[] = {"maximum",  "exclusiveMaximum", "maxLength",
                                          "maxItems", "maxProperties",    NULL};
    const bool numbers = json_is_number(a) && json_is_number(b);
    const bool a_larger = numbers && json_number_value(a) > json_number_value(b);
    if (json_equal(a, b))
        return json_incref(a);
    if (numbers && is_any(key, larger))
        return json_incref(a_larger ? a : b);
    if (numbers && is_any(key, smaller))
        return json_incref(a_larger ? b : a);
    if (!strcmp(key, "type"))
        return common_types(s, a, b);
    if ((!strcmp(key, "required") || !strcmp(key, "allOf")) && json_is_array(a) && json_is_array(b))
        return union_of(a, b);
    if (!strcmp(key, "enum") && json_is_array(a) && json_is_array(b))
        return common_of(a, b);
    if (!strcmp(key, "properties") && json_is_object(a) && json_is_object(b))
        return both_properties(a, b);
    return NULL;
}

/* ------------------------------------------------------------------ two schemas ------------- */

/* An object that allows no more properties than it names must name those of the other, too. */
static int check_closed(struct pg_schema *s, const json_t *a, const json_t *b)
{
    const json_t *more = json_object_get(a, "additionalProperties");
    const json_t *names = json_object_get(a, "properties");
    const char *key;
    json_t *value;
    if (!more || json_is_true(more))
        return 0;
    json_object_foreach(json_object_get(b, "properties"), key, value) if (
        !json_object_get(names, key)) return pg_schema_fail(s, PG_ENOTSUP,
                                                            "'%s' is in one schema, and another "
                                                            "that holds, too, restricts "
                                                            "further properties",
                                                            pg_quote(key, strlen(key)).s);
    return 0;
}

/* Null keeps to both only if it keeps to each, which is no key of one schema. */
static int check_nullable(struct pg_schema *s, const json_t *a, const json_t *b)
{
    if (json_is_true(json_object_get(a, "nullable")) ||
        json_is_true(json_object_get(b, "nullable")))
        return pg_schema_fail(s, PG_ENOTSUP,
                              "'nullable' in one of several schemas that hold is not supported");
    return 0;
}

static int merge_key(struct pg_schema *s, json_t *into, const char *key, json_t *value)
{
    static const char *const none[] = {""};
    json_t *have = json_object_get(into, key), *both;
    json_t *alone = json_pack("{s:O}", key, value);
    bool says = alone && pg_schema_restricts(alone, none);
    json_decref(alone);
    if (!have)
        return json_object_set(into, key, value) ? pg_schema_fail(s, PG_ENOMEM, "out of memory")
                                                 : 0;
    if (!says)
        return 0;
    s->err->code = 0;
    both = both_of(s, key, have, value);
    if (!both)
        return s->err->code ? s->err->code
                            : pg_schema_fail(s, PG_ENOTSUP,
                                             "'%s' in two schemas that both hold is not supported",
                                             pg_quote(key, strlen(key)).s);
    return json_object_set_new(into, key, both) ? pg_schema_fail(s, PG_ENOMEM, "out of memory") : 0;
}

const json_t *pg_schema_merge(struct pg_schema *s, const json_t *a, const json_t *b)
{
    const char *key;
    json_t *value, *both;
    a = pg_schema_target(s, a);
    b = a ? pg_schema_target(s, b) : NULL;
    if (!b || json_is_true(b) || json_is_false(a))
        return b ? a : NULL;
    if (json_is_true(a) || json_is_false(b))
        return b;
    if (s->n_done++ == PG_SCHEMA_WORK_MAX || !json_is_object(a) || !json_is_object(b)) {
        pg_schema_fail(s, PG_ENOTSUP, "schemas that hold at once are too many, or no objects");
        return NULL;
    }
    both = json_copy((json_t *)(uintptr_t)a);
    if (!both || json_array_append_new(s->made, both)) {
        pg_schema_fail(s, PG_ENOMEM, "out of memory");
        return NULL;
    }
    if (check_closed(s, a, b) || check_closed(s, b, a) || check_nullable(s, a, b))
        return NULL;
    json_object_foreach((json_t *)(uintptr_t)b, key,
                        value) if (merge_key(s, both, key, value)) return NULL;
    return both;
}

/* ------------------------------------------------------------------ apart ------------------- */

static bool values_apart(const json_t *a, const json_t *b)
{
    size_t i, k;
    const json_t *x, *y;
    json_array_foreach(a, i, x) json_array_foreach(
        b, k,
        y) if (json_equal(x, y) || (json_is_number(x) && json_is_number(y) &&
                                    json_number_value(x) == json_number_value(y))) return false;
    return true;
}

/* The values that a schema lists, as a new list; NULL: it lists none. */
static json_t *listed(const json_t *v)
{
    json_t *one = json_object_get(v, "const"), *list = json_object_get(v, "enum");
    return one ? json_pack("[O]", one) : json_is_array(list) ? json_incref(list) : NULL;
}

static bool is_required(const json_t *v, const char *name)
{
    const json_t *one;
    size_t i;
    json_array_foreach(json_object_get(v, "required"), i,
                       one) if (json_is_string(one) &&
                                !strcmp(json_string_value(one), name)) return true;
    return false;
}

/* A property that both must have, and of which no value keeps to both. */
static bool properties_apart(struct pg_schema *s, const json_t *a, const json_t *b, int depth)
{
    const json_t *of_b = json_object_get(b, "properties");
    const char *key;
    json_t *x;
    json_object_foreach(json_object_get(a, "properties"), key, x)
    {
        const json_t *y = json_object_get(of_b, key);
        if (y && is_required(a, key) && is_required(b, key) && pg_schema_apart(s, x, y, depth + 1))
            return true;
    }
    return false;
}

static unsigned kinds_of(struct pg_schema *s, const json_t *v, const json_t *list)
{
    unsigned kinds = 0;
    const json_t *one;
    size_t i;
    if (json_is_true(json_object_get(v, "nullable")) || json_object_get(v, "allOf") ||
        json_object_get(v, "anyOf") || json_object_get(v, "oneOf") || json_object_get(v, "$ref"))
        return ~0u;
    json_array_foreach(list, i, one) kinds |= pg_json_kinds(one);
    if (!list && pg_schema_kinds(s, v, &kinds))
        return ~0u;
    if (!list && !json_object_get(v, "type"))
        return ~0u; /* what it does not speak of keeps to it */
    return kinds | (kinds & 1u << PG_KIND_INTEGER ? 1u << PG_KIND_NUMBER : 0);
}

bool pg_schema_apart(struct pg_schema *s, const json_t *a, const json_t *b, int depth)
{
    a = pg_schema_target(s, a);
    b = a ? pg_schema_target(s, b) : NULL;
    if (!b || depth == APART_DEPTH || !json_is_object(a) || !json_is_object(b))
        return false;
    json_t *x = listed(a), *y = listed(b);
    unsigned kinds_a = kinds_of(s, a, x), kinds_b = kinds_of(s, b, y);
    bool apart = !(kinds_a & kinds_b) || (x && y && values_apart(x, y));
    if (!apart && kinds_a == 1u << PG_KIND_OBJECT && kinds_b == kinds_a)
        apart = properties_apart(s, a, b, depth);
    json_decref(x);
    json_decref(y);
    return apart;
}
