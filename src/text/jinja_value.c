/* SPDX-License-Identifier: MIT
 * Values: truth, equality, order, membership, dicts.
 */
#include "text/jinja_impl.h"

#include <stdlib.h>
#include <string.h>

struct pg_value pg_value_str(const char *s)
{
    struct pg_value v = {.kind = PG_V_STR, .n = (uint32_t)strlen(s)};
    v.s = s;
    return v;
}

struct pg_value pg_value_undefined(const struct pg_value *name)
{
    struct pg_value v = {.kind = PG_V_UNDEFINED, .s = "it"};
    v.n = 2;
    if (name->kind == PG_V_STR && name->n) {
        v.s = name->s;
        v.n = name->n;
    }
    return v;
}

const char *pg_value_type(const struct pg_value *v)
{
    static const char *const names[] = {
        [PG_V_ABSENT] = "nothing",    [PG_V_UNDEFINED] = "an undefined value",
        [PG_V_NONE] = "None",         [PG_V_BOOL] = "a bool",
        [PG_V_INT] = "an int",        [PG_V_FLOAT] = "a float",
        [PG_V_STR] = "a str",         [PG_V_LIST] = "a list",
        [PG_V_TUPLE] = "a tuple",     [PG_V_DICT] = "a dict",
        [PG_V_SPACE] = "a namespace", [PG_V_FUNCTION] = "a function",
        [PG_V_METHOD] = "a method",   [PG_V_MACRO] = "a macro",
        [PG_V_LOOP] = "a loop"};
    return names[v->kind];
}

int pg_value_need(struct pg_jinja_run *r, const struct pg_value *v, enum pg_value_kind kind,
                  const char *what)
{
    struct pg_value wanted = {.kind = (uint8_t)kind};
    if (v->kind == kind)
        return 0;
    if (v->kind == PG_V_UNDEFINED)
        return pg_jinja_fail(r, "%s: '%s' is undefined, wanted %s", what, pg_quote(v->s, v->n).s,
                             pg_value_type(&wanted));
    return pg_jinja_fail(r, "%s: %s found, wanted %s", what, pg_value_type(v),
                         pg_value_type(&wanted));
}

bool pg_value_true(const struct pg_value *v)
{
    switch ((enum pg_value_kind)v->kind) {
    case PG_V_ABSENT:
    case PG_V_UNDEFINED:
    case PG_V_NONE:
        return false;
    case PG_V_BOOL:
        return v->truth;
    case PG_V_INT:
        return v->integer != 0;
    case PG_V_FLOAT:
        return v->real != 0;
    case PG_V_STR:
    case PG_V_LIST:
    case PG_V_TUPLE:
        return v->n > 0;
    case PG_V_DICT:
        return v->dict->n > 0;
    default:
        return true;
    }
}

int pg_value_list(struct pg_jinja_run *r, size_t n, struct pg_value **item, struct pg_value *out)
{
    if (n > PG_JINJA_ITEMS)
        return pg_jinja_fail(r, "a list has %zu values, wanted %d at most", n, PG_JINJA_ITEMS);
    *item = pg_jinja_take(&r->pile, n * sizeof(**item));
    if (!*item)
        return pg_jinja_full(r);
    *out = (struct pg_value){.kind = PG_V_LIST, .n = (uint32_t)n, .item = *item};
    return 0;
}

int pg_value_length(struct pg_jinja_run *r, const struct pg_value *v, int64_t *out)
{
    switch ((enum pg_value_kind)v->kind) {
    case PG_V_STR:
        *out = (int64_t)pg_str_chars(v);
        return pg_jinja_scan(r, v->n);
    case PG_V_LIST:
    case PG_V_TUPLE:
        *out = v->n;
        return 0;
    case PG_V_DICT:
        *out = v->dict->n;
        return 0;
    case PG_V_LOOP:
        *out = v->loop->n;
        return 0;
    case PG_V_UNDEFINED:
        *out = 0;
        return 0;
    default:
        return pg_jinja_fail(r, "the length of %s is wanted", pg_value_type(v));
    }
}

static int chars_of(struct pg_jinja_run *r, const struct pg_value *s, struct pg_value *out)
{
    struct pg_value *item, from = *s;
    size_t n = pg_str_chars(&from), at = 0;
    PG_TRY(pg_value_list(r, n, &item, out));
    for (size_t i = 0; i < n; i++) {
        size_t end = at + 1;
        while (end < from.n && ((unsigned char)from.s[end] & 0xC0) == 0x80)
            end++;
        item[i] = pg_value_part(&from, at, end - at);
        at = end;
    }
    return 0;
}

int pg_value_items(struct pg_jinja_run *r, const struct pg_value *v, struct pg_value *out)
{
    struct pg_value *item;
    const struct pg_dict *d;
    switch ((enum pg_value_kind)v->kind) {
    case PG_V_LIST:
    case PG_V_TUPLE:
        *out = *v;
        out->kind = PG_V_LIST;
        return pg_jinja_steps(r, 1);
    case PG_V_DICT:
        d = v->dict;
        PG_TRY(pg_value_list(r, d->n, &item, out));
        for (uint32_t i = 0; i < d->n; i++)
            item[i] = d->pair[i].key;
        return 0;
    case PG_V_STR:
        return chars_of(r, v, out);
    case PG_V_UNDEFINED:
        return pg_value_list(r, 0, &item, out);
    default:
        return pg_jinja_fail(r, "%s has no items, wanted a list, a dict or a str",
                             pg_value_type(v));
    }
}

/* One that is nested too much to be looked through counts as given. */
static bool given(const struct pg_value *v, int depth, uint32_t *looks)
{
    if (v->content || v->mark || depth == PG_JINJA_VALUES || !*looks)
        return true;
    --*looks;
    for (uint32_t i = 0; pg_is_list(v) && i < v->n; i++)
        if (given(&v->item[i], depth + 1, looks))
            return true;
    bool dict = v->kind == PG_V_DICT || v->kind == PG_V_SPACE;
    for (uint32_t i = 0; dict && i < v->dict->n; i++)
        if (given(&v->dict->pair[i].key, depth + 1, looks) ||
            given(&v->dict->pair[i].value, depth + 1, looks))
            return true;
    return false;
}

bool pg_value_given(const struct pg_value *v)
{
    uint32_t looks = 1 << 16;
    return given(v, 0, &looks);
}

/* ---- equality and order ---- */

static double real(const struct pg_value *v)
{
    return v->kind == PG_V_FLOAT  ? v->real
           : v->kind == PG_V_BOOL ? (double)v->truth
                                  : (double)v->integer;
}

static int order_numbers(const struct pg_value *a, const struct pg_value *b)
{
    if (a->kind == PG_V_INT && b->kind == PG_V_INT)
        return (a->integer > b->integer) - (a->integer < b->integer);
    double x = real(a), y = real(b);
    return (x > y) - (x < y);
}

static int order_strings(const struct pg_value *a, const struct pg_value *b)
{
    uint32_t n = PG_MIN(a->n, b->n);
    int order = n ? memcmp(a->s, b->s, n) : 0;
    return order ? order : (a->n > b->n) - (a->n < b->n);
}

static int deeper(struct pg_jinja_run *r, int depth)
{
    if (depth == PG_JINJA_VALUES)
        return pg_jinja_fail(r, "values are nested deeper than %d", PG_JINJA_VALUES);
    return pg_jinja_steps(r, 1);
}

static int equal(struct pg_jinja_run *r, const struct pg_value *a, const struct pg_value *b,
                 int depth, bool *out);

static int equal_items(struct pg_jinja_run *r, const struct pg_value *a, const struct pg_value *b,
                       int depth, bool *out)
{
    *out = a->n == b->n;
    for (uint32_t i = 0; i < a->n && *out; i++)
        PG_TRY(equal(r, &a->item[i], &b->item[i], depth, out));
    return 0;
}

static int equal_dicts(struct pg_jinja_run *r, const struct pg_dict *a, struct pg_dict *b,
                       int depth, bool *out)
{
    int rc;
    *out = a->n == b->n;
    for (uint32_t i = 0; i < a->n && *out; i++) {
        const struct pg_value *v = pg_dict_get(r, b, &a->pair[i].key, &rc);
        PG_TRY(rc);
        *out = v != NULL;
        if (v)
            PG_TRY(equal(r, &a->pair[i].value, v, depth, out));
    }
    return 0;
}

static int equal(struct pg_jinja_run *r, const struct pg_value *a, const struct pg_value *b,
                 int depth, bool *out)
{
    PG_TRY(deeper(r, depth));
    if (pg_is_number(a) && pg_is_number(b)) {
        bool whole = a->kind == PG_V_INT && b->kind == PG_V_INT;
        *out = whole ? a->integer == b->integer : real(a) == real(b);
        return 0;
    }
    *out = a->kind == b->kind;
    if (!*out)
        return 0;
    switch ((enum pg_value_kind)a->kind) {
    case PG_V_STR:
        *out = a->n == b->n && (!a->n || !memcmp(a->s, b->s, a->n));
        return pg_jinja_steps(r, *out ? a->n / 256 : 0);
    case PG_V_LIST:
    case PG_V_TUPLE:
        return equal_items(r, a, b, depth + 1, out);
    case PG_V_DICT:
        return equal_dicts(r, a->dict, b->dict, depth + 1, out);
    case PG_V_NONE:
    case PG_V_UNDEFINED:
        return 0;
    default:
        *out = a->dict == b->dict;
        return 0;
    }
}

int pg_value_equal(struct pg_jinja_run *r, const struct pg_value v[2], bool *out)
{
    return equal(r, &v[0], &v[1], 0, out);
}

static int order(struct pg_jinja_run *r, const struct pg_value *a, const struct pg_value *b,
                 int depth, int *out)
{
    PG_TRY(deeper(r, depth));
    if (pg_is_number(a) && pg_is_number(b)) {
        *out = order_numbers(a, b);
        return 0;
    }
    if (a->kind == PG_V_STR && b->kind == PG_V_STR) {
        *out = order_strings(a, b);
        return pg_jinja_steps(r, PG_MIN(a->n, b->n) / 256);
    }
    if (!pg_is_list(a) || a->kind != b->kind)
        return pg_jinja_fail(r, "%s and %s have no order", pg_value_type(a), pg_value_type(b));
    *out = (a->n > b->n) - (a->n < b->n);
    for (uint32_t i = 0; i < a->n && i < b->n; i++) {
        bool same;
        PG_TRY(equal(r, &a->item[i], &b->item[i], depth + 1, &same));
        if (!same)
            return order(r, &a->item[i], &b->item[i], depth + 1, out);
    }
    return 0;
}

int pg_value_order(struct pg_jinja_run *r, const struct pg_value v[2], int *out)
{
    return order(r, &v[0], &v[1], 0, out);
}

int pg_value_in(struct pg_jinja_run *r, const struct pg_value v[2], bool *out)
{
    int rc = 0;
    *out = false;
    switch ((enum pg_value_kind)v[1].kind) {
    case PG_V_STR:
        PG_TRY(pg_value_need(r, &v[0], PG_V_STR, "'in' a text"));
        *out = !v[0].n || (v[1].n && memmem(v[1].s, v[1].n, v[0].s, v[0].n));
        return pg_jinja_scan(r, v[1].n);
    case PG_V_DICT:
        if (pg_is_list(&v[0]) || v[0].kind == PG_V_DICT)
            return pg_jinja_fail(r, "%s is no key of a dict", pg_value_type(&v[0]));
        *out = pg_dict_get(r, v[1].dict, &v[0], &rc) != NULL;
        return rc;
    case PG_V_LIST:
    case PG_V_TUPLE:
        for (uint32_t i = 0; i < v[1].n && !*out; i++)
            PG_TRY(equal(r, &v[0], &v[1].item[i], 0, out));
        return 0;
    case PG_V_UNDEFINED:
        return 0;
    default:
        return pg_jinja_fail(r, "'in' %s, wanted a list, a dict or a str", pg_value_type(&v[1]));
    }
}

/* ---- dicts ---- */

enum { DICT_SORTED = 16 }; /* from this size on keys are looked up in a sorted list */

int pg_dict_open(struct pg_jinja_run *r, size_t cap, enum pg_value_kind kind, struct pg_value *out)
{
    struct pg_dict *d = pg_jinja_take(&r->pile, sizeof(*d));
    if (cap > PG_JINJA_ITEMS)
        return pg_jinja_fail(r, "a dict has %zu values, wanted %d at most", cap, PG_JINJA_ITEMS);
    if (!d)
        return pg_jinja_full(r);
    *d = (struct pg_dict){.pair = pg_jinja_take(&r->pile, cap * sizeof(*d->pair))};
    if (!d->pair)
        return pg_jinja_full(r);
    d->cap = (uint32_t)cap;
    *out = (struct pg_value){.kind = (uint8_t)kind, .dict = d};
    return 0;
}

static int by_key(const void *a, const void *b, void *pairs)
{
    const struct pg_pair *pair = pairs;
    return order_strings(&pair[*(const uint32_t *)a].key, &pair[*(const uint32_t *)b].key);
}

static int sort_keys(struct pg_jinja_run *r, struct pg_dict *d)
{
    uint32_t *sorted = pg_jinja_take(&r->pile, d->n * sizeof(*sorted));
    if (!sorted)
        return pg_jinja_full(r);
    for (uint32_t i = 0; i < d->n; i++) {
        if (d->pair[i].key.kind != PG_V_STR)
            return pg_jinja_steps(r, d->n);
        sorted[i] = i;
    }
    PG_TRY(pg_jinja_steps(r, d->n));
    qsort_r(sorted, d->n, sizeof(*sorted), by_key, d->pair);
    d->sorted = sorted;
    return 0;
}

static struct pg_pair *find_sorted(const struct pg_dict *d, const struct pg_value *key)
{
    uint32_t lo = 0, hi = d->n;
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        int o = order_strings(key, &d->pair[d->sorted[mid]].key);
        if (!o)
            return &d->pair[d->sorted[mid]];
        if (o < 0)
            hi = mid;
        else
            lo = mid + 1;
    }
    return NULL;
}

static struct pg_pair *find_pair(struct pg_jinja_run *r, struct pg_dict *d,
                                 const struct pg_value *key, int *rc)
{
    *rc = 0;
    if (d->n >= DICT_SORTED && !d->sorted && key->kind == PG_V_STR)
        *rc = sort_keys(r, d);
    if (*rc)
        return NULL;
    if (d->sorted && key->kind == PG_V_STR)
        return find_sorted(d, key);
    for (uint32_t i = 0; i < d->n; i++) {
        bool same;
        *rc = equal(r, key, &d->pair[i].key, 0, &same);
        if (*rc || same)
            return *rc ? NULL : &d->pair[i];
    }
    return NULL;
}

const struct pg_value *pg_dict_get(struct pg_jinja_run *r, struct pg_dict *d,
                                   const struct pg_value *key, int *rc)
{
    struct pg_pair *p = find_pair(r, d, key, rc);
    return p ? &p->value : NULL;
}

static int grow(struct pg_jinja_run *r, struct pg_dict *d)
{
    uint32_t cap = 2 * d->cap + 4;
    struct pg_pair *pair =
        cap > PG_JINJA_ITEMS ? NULL : pg_jinja_take(&r->pile, cap * sizeof(*pair));
    if (cap > PG_JINJA_ITEMS)
        return pg_jinja_fail(r, "a dict has %u values, wanted %d at most", cap, PG_JINJA_ITEMS);
    if (!pair)
        return pg_jinja_full(r);
    if (d->n)
        memcpy(pair, d->pair, d->n * sizeof(*pair));
    d->pair = pair;
    d->cap = cap;
    return 0;
}

/* A dict that is being made has no sorted list: it is looked through, and each look costs steps. */
int pg_dict_set(struct pg_jinja_run *r, struct pg_dict *d, const struct pg_value *key,
                const struct pg_value *value)
{
    bool same = false;
    if (pg_is_list(key) || key->kind == PG_V_DICT || key->kind == PG_V_SPACE)
        return pg_jinja_fail(r, "%s is no key of a dict", pg_value_type(key));
    for (uint32_t i = 0; i < d->n; i++) {
        PG_TRY(equal(r, key, &d->pair[i].key, 0, &same));
        if (same) {
            d->pair[i].value = *value;
            return 0;
        }
    }
    if (d->n == d->cap)
        PG_TRY(grow(r, d));
    d->pair[d->n++] = (struct pg_pair){*key, *value};
    d->sorted = NULL;
    return 0;
}

/* ---- what was given ---- */

static int object_from_json(struct pg_jinja_run *r, const json_t *j, struct pg_value *out)
{
    const char *name;
    json_t *value, *object = (json_t *)j; /* jansson's loop wants one that may change */
    PG_TRY(pg_dict_open(r, json_object_size(j), PG_V_DICT, out));
    json_object_foreach(object, name, value)
    {
        struct pg_pair *p = &out->dict->pair[out->dict->n++];
        struct pg_dict *d = out->dict;
        p->key = pg_value_str(name);
        p->key.content = true;
        PG_TRY(pg_value_from_json(r, value, &p->value));
        if (pg_value_is(&p->key, "arguments") && p->value.kind == PG_V_DICT)
            p->value.dict->arguments = true;
        PG_ASSERT(d->n <= d->cap);
    }
    return 0;
}

static int array_from_json(struct pg_jinja_run *r, const json_t *j, struct pg_value *out)
{
    struct pg_value *item;
    PG_TRY(pg_value_list(r, json_array_size(j), &item, out));
    for (uint32_t i = 0; i < out->n; i++)
        PG_TRY(pg_value_from_json(r, json_array_get(j, i), &item[i]));
    return 0;
}

/* Texts stay where they are. The nesting was bounded when the JSON was read. */
int pg_value_from_json(struct pg_jinja_run *r, const json_t *j, struct pg_value *out)
{
    *out = (struct pg_value){.kind = PG_V_NONE};
    switch (json_typeof(j)) {
    case JSON_OBJECT:
        PG_TRY(object_from_json(r, j, out));
        break;
    case JSON_ARRAY:
        PG_TRY(array_from_json(r, j, out));
        break;
    case JSON_STRING:
        if (json_string_length(j) > UINT32_MAX / 2)
            return pg_jinja_fail(r, "a text of %zu bytes is given", json_string_length(j));
        *out = (struct pg_value){.kind = PG_V_STR, .n = (uint32_t)json_string_length(j)};
        out->s = json_string_value(j);
        break;
    case JSON_INTEGER:
        *out = pg_value_int(json_integer_value(j));
        break;
    case JSON_REAL:
        *out = pg_value_float(json_real_value(j));
        break;
    case JSON_TRUE:
    case JSON_FALSE:
        *out = pg_value_bool(json_is_true(j));
        break;
    case JSON_NULL:
        break;
    }
    out->content = true;
    return 0;
}
