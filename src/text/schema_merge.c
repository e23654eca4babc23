/* SPDX-License-Identifier: MIT
 * Schemas that hold at once. Keys that only one has are taken; those that both have must be such
 * that one key says both, or they are refused.
 */
#include "text/schema.h"

#include <string.h>

enum { APART_DEPTH = 3 };

/* ------------------------------------------------------------------ one key ----------------- */

static bool is_in(const json_t *list, const json_t *value)
{
    const json_t *one;
    size_t i;
    json_array_foreach(list, i, one) if (json_equal(one, value)) return true;
    return false;
}

/* Of lists: all values, or those that are in both. NULL when out of memory. */
static json_t *list_of(const json_t *a, const json_t *b, bool all)
{
    json_t *both = all ? pg_schema_copy(a) : json_array(), *one;
    size_t i;
    json_array_foreach(b, i, one)
    {
        if (is_in(a, one) == all)
            continue;
        if (!both || json_array_append(both, one)) {
            json_decref(both);
            return NULL;
        }
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
        if (kinds[0] & kinds[1] & 1u << i && json_array_append_new(both, json_string(names[i])))
            rc = pg_schema_fail(s, PG_ENOMEM, "out of memory");
    if (!rc && json_array_size(both))
        return both;
    json_decref(both);
    if (!rc)
        pg_schema_fail(s, PG_EFORMAT, "no 'type' keeps to both schemas");
    return NULL;
}

/* Schemas of the same names hold both. NULL when out of memory. */
static json_t *both_properties(const json_t *a, const json_t *b)
{
    json_t *both = pg_schema_copy(a), *one;
    const char *key;
    json_object_foreach((json_t *)(uintptr_t)b, key, one)
    {
        json_t *have = json_object_get(a, key);
        json_t *value = have ? json_pack("{s:[O,O]}", "allOf", have, one) : json_incref(one);
        if (!both || json_object_set_new(both, key, value)) {
            json_decref(both);
            return NULL;
        }
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

/* What `key` says in both, as one value. NULL after an error. */
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
    json_t *both = NULL;
    const bool lists = json_is_array(a) && json_is_array(b);
    if (lists && (!strcmp(key, "required") || !strcmp(key, "allOf")))
        both = list_of(a, b, true);
    else if (lists && !strcmp(key, "enum"))
        both = list_of(a, b, false);
    else if (json_is_object(a) && json_is_object(b) && !strcmp(key, "properties"))
        both = both_properties(a, b);
    else
        pg_schema_fail(s, PG_ENOTSUP, "'%s' in two schemas that both hold is not supported",
                       pg_quote(key, strlen(key)).s);
    if (!both && !s->err->code)
        pg_schema_fail(s, PG_ENOMEM, "out of memory");
    return both;
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
    json_t *have = json_object_get(into, key), *both;
    if (have && pg_schema_ignores(key))
        return 0;
    s->err->code = 0;
    both = have ? both_of(s, key, have, value) : json_incref(value);
    if (!both)
        return s->err->code;
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
    both = pg_schema_copy(a);
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

/* The i-th of the values that a schema lists; NULL after the last, and where it lists none. */
static const json_t *listed(const json_t *v, size_t i)
{
    const json_t *one = json_object_get(v, "const");
    if (one)
        return i ? NULL : one;
    return json_array_get(json_object_get(v, "enum"), i);
}

static bool values_apart(const json_t *a, const json_t *b)
{
    const json_t *x, *y;
    for (size_t i = 0; (x = listed(a, i)); i++)
        for (size_t k = 0; (y = listed(b, k)); k++)
            if (json_equal(x, y) || (json_is_number(x) && json_is_number(y) &&
                                     json_number_value(x) == json_number_value(y)))
                return false;
    return listed(a, 0) && listed(b, 0);
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

static unsigned kinds_of(struct pg_schema *s, const json_t *v)
{
    unsigned kinds = 0;
    const json_t *one;
    if (json_is_true(json_object_get(v, "nullable")) || json_object_get(v, "allOf") ||
        json_object_get(v, "anyOf") || json_object_get(v, "oneOf") || json_object_get(v, "$ref"))
        return ~0u;
    for (size_t i = 0; (one = listed(v, i)); i++)
        kinds |= pg_json_kinds(one);
    if (kinds)
        return kinds;
    /* What a schema without a type does not speak of keeps to it. */
    if (!json_object_get(v, "type") || pg_schema_kinds(s, v, &kinds))
        return ~0u;
    return kinds | (kinds & 1u << PG_KIND_INTEGER ? 1u << PG_KIND_NUMBER : 0);
}

bool pg_schema_apart(struct pg_schema *s, const json_t *a, const json_t *b, int depth)
{
    a = pg_schema_target(s, a);
    b = a ? pg_schema_target(s, b) : NULL;
    if (!b || depth == APART_DEPTH || !json_is_object(a) || !json_is_object(b))
        return false;
    unsigned kinds_a = kinds_of(s, a), kinds_b = kinds_of(s, b);
    if (!(kinds_a & kinds_b) || values_apart(a, b))
        return true;
    return kinds_a == 1u << PG_KIND_OBJECT && kinds_b == kinds_a &&
           properties_apart(s, a, b, depth);
}
