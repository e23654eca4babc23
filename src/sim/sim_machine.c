/* SPDX-License-Identifier: MIT
 * Machine files. Each value is a number of the unit that its key names; any object may say in
 * "source" where its numbers are from.
 */
#include "sim/sim.h"

#include "format/json.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

enum kind { NUMBER, COUNT, FLAG };

/* A key that an object may have. */
struct key {
    const char *name;
    enum kind kind;
    size_t at; /* in struct pg_sim_machine */
    double unit, least, most;
    bool needed;
};

#define AT(field) offsetof(struct pg_sim_machine, field)
#define US        1e-6
#define GB        1e9
#define MOST_US   1e9

static const struct key copy_keys[] = {
    {"gb_per_s", NUMBER, AT(copy.bytes_per_s), GB, 1e-3, 1e6, true},
    {"latency_us", NUMBER, AT(copy.latency_s), US, 0, MOST_US, false},
    {"in_flight", COUNT, AT(copy.in_flight), 1, 1, 64, false},
    {"in_order", FLAG, AT(copy.in_order), 1, 0, 1, false},
    {"staged", FLAG, AT(copy.is_staged), 1, 0, 1, false},
    {0},
};
static const struct key compute_keys[] = {
    {"memory_gb_per_s", NUMBER, AT(bytes_per_s), GB, 1e-3, 1e7, false},
    {"tflop_per_s", NUMBER, AT(flop_per_s), 1e12, 1e-6, 1e7, false},
    {"poll_us", NUMBER, AT(poll_s), US, 1, MOST_US, false},
    {0},
};
static const struct key overhead_keys[] = {
    {"attention", NUMBER, AT(overhead_s[PG_SIM_ATTENTION]), US, 0, MOST_US, false},
    {"cross_attention", NUMBER, AT(overhead_s[PG_SIM_CROSS]), US, 0, MOST_US, false},
    {"ffn", NUMBER, AT(overhead_s[PG_SIM_FFN]), US, 0, MOST_US, false},
    {"router", NUMBER, AT(overhead_s[PG_SIM_ROUTER]), US, 0, MOST_US, false},
    {"experts", NUMBER, AT(overhead_s[PG_SIM_EXPERTS]), US, 0, MOST_US, false},
    {"more_experts", NUMBER, AT(overhead_s[PG_SIM_MORE]), US, 0, MOST_US, false},
    {"head", NUMBER, AT(overhead_s[PG_SIM_HEAD]), US, 0, MOST_US, false},
    {"source_rows", NUMBER, AT(overhead_s[PG_SIM_SOURCE]), US, 0, MOST_US, false},
    {0},
};
static const struct key software_keys[] = {
    {"lockstep", FLAG, AT(lockstep), 1, 0, 1, false},
    {"prefetch_waits", FLAG, AT(prefetch_waits), 1, 0, 1, false},
    {"encoder_ondemand", FLAG, AT(encoder_ondemand), 1, 0, 1, false},
    {0},
};
static const struct key top_keys[] = {{0}};

/* The file, for messages. */
struct reading {
    const char *path;
    struct pg_sim_machine *m;
    struct pg_err *err;
};

static int bad(const struct reading *r, const char *where, const char *key, const char *wanted)
{
    return pg_fail(r->err, PG_EFORMAT, "%s: %s%s%s: %s wanted", r->path, where, *where ? "." : "",
                   pg_quote(key, strlen(key)).s, wanted);
}

/* The same of a value that is there. */
static int wrong(const struct reading *r, const char *where, const char *key, const json_t *v,
                 const char *wanted)
{
    char found[80], what[160];
    const char *text = json_string_value(v);
    if (json_is_number(v))
        snprintf(found, sizeof(found), "%g", json_number_value(v));
    else if (text)
        snprintf(found, sizeof(found), "\"%.60s\"", pg_quote(text, strlen(text)).s);
    else
        snprintf(found, sizeof(found), "%s",
                 json_is_null(v)      ? "null"
                 : json_is_boolean(v) ? "true or false"
                                      : "a list or an object");
    snprintf(what, sizeof(what), "%s found, %s", found, wanted);
    return bad(r, where, key, what);
}

static int take(const struct reading *r, const char *where, const struct key *k, const json_t *v)
{
    char wanted[80];
    void *at = (char *)r->m + k->at;
    double x = json_number_value(v);
    if (k->kind == FLAG) {
        if (!json_is_boolean(v))
            return wrong(r, where, k->name, v, "true or false");
        *(bool *)at = json_is_true(v);
        return 0;
    }
    snprintf(wanted, sizeof(wanted), "a %s from %g to %g",
             k->kind == COUNT ? "whole number" : "number", k->least, k->most);
    if (!json_is_number(v) || !(x >= k->least && x <= k->most) ||
        (k->kind == COUNT && !json_is_integer(v)))
        return wrong(r, where, k->name, v, wanted);
    if (k->kind == COUNT)
        *(int *)at = (int)x;
    else
        *(double *)at = x * k->unit;
    return 0;
}

static const struct key *find(const struct key *keys, const char *name)
{
    for (; keys->name; keys++)
        if (!strcmp(keys->name, name))
            return keys;
    return NULL;
}

/* An object whose keys are `keys`, and those of `other`, which somebody else looks at. */
static int take_object(const struct reading *r, const char *where, const json_t *o,
                       const struct key *keys, const char *const *other)
{
    const char *name;
    json_t *v;
    if (!json_is_object(o))
        return bad(r, "", *where ? where : "the file", "an object");
    json_object_foreach((json_t *)o, name, v)
    {
        const struct key *k = find(keys, name);
        bool known = !strcmp(name, "source");
        for (int i = 0; other && other[i]; i++)
            known = known || !strcmp(name, other[i]);
        if (k)
            PG_TRY(take(r, where, k, v));
        else if (!known)
            return bad(r, where, name, "found, no such key is");
    }
    for (; keys->name; keys++)
        if (keys->needed && !json_object_get(o, keys->name))
            return bad(r, where, keys->name, "missing; a number");
    return 0;
}

static int take_top(const struct reading *r, const json_t *o)
{
    static const char *const other[] = {"name",     "type", "fast_memory_gb", "copy", "compute",
                                        "software", NULL};
    const json_t *type = json_object_get(o, "type"), *gb = json_object_get(o, "fast_memory_gb");
    const char *name = json_string_value(json_object_get(o, "name"));
    PG_TRY(take_object(r, "", o, top_keys, other));
    if (!name || !*name)
        return bad(r, "", "name", "a text");
    snprintf(r->m->name, sizeof(r->m->name), "%.63s", pg_quote(name, strlen(name)).s);
    r->m->type = type ? pg_type_parse(json_string_value(type) ? json_string_value(type) : "") : -1;
    if (type && r->m->type < 0)
        return wrong(r, "", "type", type, "a format such as F32, F16 or Q4_K");
    if (gb && !(json_number_value(gb) > 0 && json_number_value(gb) < 1e9))
        return wrong(r, "", "fast_memory_gb", gb, "a number above 0 and below 1e9");
    r->m->memory_bytes = (uint64_t)(json_number_value(gb) * GB);
    return 0;
}

static int take_all(const struct reading *r, const json_t *o)
{
    static const char *const nested[] = {"overhead_us", NULL};
    const json_t *copy = json_object_get(o, "copy"), *compute = json_object_get(o, "compute");
    const json_t *overhead = json_object_get(compute, "overhead_us");
    const json_t *software = json_object_get(o, "software");
    PG_TRY(take_top(r, o));
    if (!copy)
        return bad(r, "", "copy", "missing; an object with gb_per_s");
    if (!compute)
        return bad(r, "", "compute", "missing; an object with rates, or with overhead_us");
    PG_TRY(take_object(r, "copy", copy, copy_keys, NULL));
    PG_TRY(take_object(r, "compute", compute, compute_keys, nested));
    if (overhead)
        PG_TRY(take_object(r, "compute.overhead_us", overhead, overhead_keys, NULL));
    if (software)
        PG_TRY(take_object(r, "software", software, software_keys, NULL));
    if (r->m->copy.is_staged && r->m->bytes_per_s <= 0)
        return bad(r, "copy", "staged", "compute.memory_gb_per_s beside it is");
    return 0;
}

int pg_sim_machine_load(struct pg_sim_machine *m, const char *path, struct pg_err *err)
{
    json_t *o;
    *m = (struct pg_sim_machine){.poll_s = 50 * US};
    PG_TRY(pg_json_load(&o, path, err));
    const int rc = take_all(&(struct reading){path, m, err}, o);
    json_decref(o);
    return rc;
}
