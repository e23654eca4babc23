/* SPDX-License-Identifier: MIT */
#include "json_in.h"
#include "server.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* The end of a string that begins behind text[i]: its quote, or n. */
static size_t string_end(const char *text, size_t n, size_t i)
{
    while (i < n && text[i] != '"')
        i += text[i] == '\\' ? 2 : 1;
    return i < n ? i : n;
}

size_t json_weight(const char *text, size_t n, struct fault *f)
{
    size_t weight = 2 * n + 64;
    int depth = 0;
    for (size_t i = 0; i < n; i++) {
        const char c = text[i];
        if (c == '"') {
            i = string_end(text, n, i + 1);
            weight += LIMIT_JSON_VALUE;
        } else if (c == '[' || c == '{') {
            weight += LIMIT_JSON_ARRAY;
            depth++;
        } else if (c == ',' || c == ':') {
            weight += LIMIT_JSON_VALUE;
        } else if ((c == ']' || c == '}') && depth > 0) {
            depth--;
        }
        if (depth > LIMIT_JSON_DEPTH) {
            fault_set(f, 400, NULL, "the JSON is deeper than %d levels", LIMIT_JSON_DEPTH);
            return 0;
        }
    }
    return weight;
}

json_t *json_read_object(const char *text, size_t n, struct fault *f)
{
    json_error_t err;
    json_t *j = json_loadb(text, n, JSON_REJECT_DUPLICATES, &err);
    if (!j) {
        fault_set(f, 400, NULL, "the JSON is malformed at line %d, column %d: %s", err.line,
                  err.column, err.text);
    } else if (!json_is_object(j)) {
        fault_set(f, 400, NULL, "the JSON is not an object");
        json_decref(j);
        j = NULL;
    }
    return j;
}

/* More that is made of the body, and given back with it. */
static bool charge(struct conn *c, size_t n, struct fault *f)
{
    struct ledger *l = &c->server->ledger;
    const size_t all = c->n_made + n, most = l->total / 4 * 3;
    if (all > most)
        fault_set(f, 413, NULL, "the body would take %zu bytes of memory; there are %zu for it",
                  all, most);
    else if (!ledger_take(l, n))
        fault_set(f, 503, NULL, "other requests take the memory there is for their bodies");
    if (f->status)
        return false;
    c->n_made = all;
    return true;
}

json_t *json_body(struct conn *c, struct fault *f)
{
    const size_t weight = json_weight(c->body, c->n_body, f);
    if (!weight)
        return NULL;
    /* What is made of it: the request of the template and its text, each once more, and tokens. */
    if (!charge(c, weight + LIMIT_MADE_PART * c->n_body, f))
        return NULL;
    return json_read_object(c->body, c->n_body, f);
}

json_t *json_inner(struct conn *c, const char *text, size_t n, struct fault *f)
{
    struct fault none = {0};
    const size_t weight = json_weight(text, n, &none);
    if (!weight || !charge(c, 2 * weight, f)) /* the template's request has it once more */
        return NULL;
    return json_read_object(text, n, &none);
}

/* ---------------------------------------------------------------- fields -------------------- */

void in_wrong(const struct in *in, const char *key, const char *fmt, ...)
{
    char name[64], text[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    snprintf(name, sizeof(name), "%s%s", in->path ? in->path : "", key);
    fault_set(in->fault, 400, name, "%s: %s", name, text);
}

static const char *type_name(const json_t *j)
{
    switch (json_typeof(j)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "a list";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "a whole number";
    case JSON_REAL:
        return "a number";
    case JSON_NULL:
        return "null";
    default:
        return "true or false";
    }
}

json_t *in_get(const struct in *in, const char *key)
{
    json_t *j = in->fault->status ? NULL : json_object_get(in->object, key);
    return json_is_null(j) ? NULL : j;
}

/* The field where it is of the type. */
static json_t *get_typed(const struct in *in, const char *key, bool good, const char *wanted)
{
    json_t *j = in_get(in, key);
    if (!j || good)
        return j;
    in_wrong(in, key, "%s is wanted, %s found", wanted, type_name(j));
    return NULL;
}

void in_bool(const struct in *in, const char *key, bool *out)
{
    const json_t *j = get_typed(in, key, json_is_boolean(in_get(in, key)), "true or false");
    if (j)
        *out = json_is_true(j);
}

void in_int(const struct in *in, const char *key, int64_t min, int64_t max, int64_t *out)
{
    const json_t *j = in_get(in, key);
    double whole = json_is_real(j) ? json_real_value(j) : 0.5;
    const bool is_whole = whole > -9e15 && whole < 9e15 && whole == (double)(int64_t)whole;
    j = get_typed(in, key, json_is_integer(j) || is_whole, "a whole number");
    if (!j)
        return;
    const int64_t v = json_is_integer(j) ? json_integer_value(j) : (int64_t)whole;
    if (v < min || v > max)
        in_wrong(in, key, "%lld is not from %lld to %lld", (long long)v, (long long)min,
                 (long long)max);
    else
        *out = v;
}

void in_int32(const struct in *in, const char *key, int min, int max, int *out)
{
    int64_t v = *out;
    in_int(in, key, min, max, &v);
    *out = (int)v;
}

void in_real(const struct in *in, const char *key, double min, double max, float *out)
{
    const json_t *j = get_typed(in, key, json_is_number(in_get(in, key)), "a number");
    if (!j)
        return;
    const double v = json_number_value(j);
    if (!(v >= min && v <= max))
        in_wrong(in, key, "%g is not from %g to %g", v, min, max);
    else
        *out = (float)v;
}

const char *in_text(const struct in *in, const char *key)
{
    return json_string_value(get_typed(in, key, json_is_string(in_get(in, key)), "a string"));
}

json_t *in_array(const struct in *in, const char *key, size_t most)
{
    json_t *j = get_typed(in, key, json_is_array(in_get(in, key)), "a list");
    if (j && json_array_size(j) > most) {
        in_wrong(in, key, "%zu items are more than %zu", json_array_size(j), most);
        return NULL;
    }
    return j;
}

json_t *in_object(const struct in *in, const char *key)
{
    return get_typed(in, key, json_is_object(in_get(in, key)), "an object");
}

int in_choice(const struct in *in, const char *key, const char *const *names)
{
    char list[200] = "";
    const char *text = in_text(in, key);
    if (!text)
        return -1;
    for (int i = 0; names[i]; i++) {
        const size_t n = strlen(list);
        if (!strcmp(text, names[i]))
            return i;
        snprintf(list + n, sizeof(list) - n, "%s%s", i ? ", " : "", names[i]);
    }
    in_wrong(in, key, "\"%.60s\" is none of %s", text, list);
    return -1;
}

static bool says_nothing(const json_t *j)
{
    switch (json_typeof(j)) {
    case JSON_OBJECT:
        return json_object_size(j) == 0;
    case JSON_ARRAY:
        return json_array_size(j) == 0;
    case JSON_STRING:
        return json_string_length(j) == 0;
    case JSON_INTEGER:
    case JSON_REAL:
        return !(json_number_value(j) < 0 || json_number_value(j) > 0);
    default:
        return !json_is_true(j);
    }
}

void in_refuse(const struct in *in, const char *const *names)
{
    for (; *names; names++) {
        const json_t *j = in_get(in, *names);
        if (j && !says_nothing(j))
            in_wrong(in, *names, "is not supported, and would change the answer");
    }
}
