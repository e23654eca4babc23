/* SPDX-License-Identifier: MIT
 * Ranges of numbers, digit by digit. Of integers any range is written exactly. Of other numbers the
 * bounds must be whole, so that the digits before the point decide; those after it are so few that
 * reading them back as a double rounds across no bound.
 */
#include "text/schema.h"

#include <math.h>
#include <string.h>

/* What is written where a side has no bound; beyond it, if the other side's bound is there. */
#define USUAL_LIMIT INT64_C(9999999999999999)
#define REAL_LIMIT  INT64_C(1000000000) /* of the bounds of numbers with a point */

struct bounds {
    int64_t lo, hi;
    bool has_lo, has_hi;
    bool open_lo, open_hi; /* the bound itself is outside; of numbers with a point only */
};

/* ------------------------------------------------------------------ digits ------------------ */

static int64_t power(int n)
{
    int64_t p = 1;
    while (n-- > 0)
        p *= 10;
    return p;
}

static void put_digits(struct pg_out *o, int n)
{
    if (n > 0)
        pg_out_put(o, " [0-9]{%d}", n);
}

/* The numbers lo … hi written in exactly n digits, zeros first. */
static void put_same_length(struct pg_out *o, int64_t lo, int64_t hi, int n)
{
    int64_t p = power(n - 1), first = lo / p, last = hi / p;
    const char *between = "";
    if (n == 0)
        return;
    if (first == last) {
        pg_out_put(o, "\"%d\" ", (int)first);
        put_same_length(o, lo % p, hi % p, n - 1);
        return;
    }
    pg_out_put(o, "(");
    if (lo % p != 0) {
        pg_out_put(o, "\"%d\" ", (int)first++);
        put_same_length(o, lo % p, p - 1, n - 1);
        between = " | ";
    }
    if (hi % p != p - 1) {
        pg_out_put(o, "%s\"%d\" ", between, (int)last--);
        put_same_length(o, 0, hi % p, n - 1);
        between = " | ";
    }
    if (first <= last) {
        pg_out_put(o, "%s[%d-%d]", between, (int)first, (int)last);
        put_digits(o, n - 1);
    }
    pg_out_put(o, ")");
}

/* The whole numbers lo … hi, 0 or more, in parentheses. */
static void put_range(struct pg_out *o, int64_t lo, int64_t hi)
{
    const char *between = "";
    pg_out_put(o, "(");
    for (int n = 1; n <= 19; n++) {
        int64_t least = n == 1 ? 0 : power(n - 1), most = n == 19 ? INT64_MAX : power(n) - 1;
        if (lo > most || hi < least)
            continue;
        pg_out_put(o, "%s", between);
        put_same_length(o, PG_MAX(lo, least), PG_MIN(hi, most), n);
        between = " | ";
    }
    pg_out_put(o, ")");
}

/* ------------------------------------------------------------------ bounds ------------------ */

static int take_number(const struct pg_schema *s, const json_t *v, const char *key,
                       const json_t **out)
{
    *out = json_object_get(v, key);
    if (*out && !json_is_number(*out))
        return pg_schema_fail(s, *out && json_is_boolean(*out) ? PG_ENOTSUP : PG_EFORMAT,
                              "'%s' is no number", key);
    return 0;
}

/* The least whole number that is at least (above: more than) the bound. */
static int64_t ceiling(const json_t *bound, bool above)
{
    if (json_is_integer(bound)) {
        int64_t v = json_integer_value(bound);
        return above && v < INT64_MAX ? v + 1 : v;
    }
    double v = json_real_value(bound), up = ceil(v);
    if (up >= 0x1p63)
        return INT64_MAX;
    if (up < -0x1p63)
        return INT64_MIN + 1;
    return (int64_t)up + (above && up == v && up < 0x1p62);
}

static int64_t floor_of(const json_t *bound, bool under)
{
    if (json_is_integer(bound)) {
        int64_t v = json_integer_value(bound);
        return under && v > INT64_MIN ? v - 1 : v;
    }
    double v = json_real_value(bound), down = floor(v);
    if (down >= 0x1p63)
        return INT64_MAX;
    if (down < -0x1p63)
        return INT64_MIN + 1;
    return (int64_t)down - (under && down == v && down > -0x1p62);
}

static void narrow(struct bounds *b, const json_t *least, const json_t *above, const json_t *most,
                   const json_t *under)
{
    *b = (struct bounds){.lo = INT64_MIN + 1, .hi = INT64_MAX};
    if (least)
        b->lo = PG_MAX(b->lo, ceiling(least, false));
    if (above)
        b->lo = PG_MAX(b->lo, ceiling(above, true));
    if (most)
        b->hi = PG_MIN(b->hi, floor_of(most, false));
    if (under)
        b->hi = PG_MIN(b->hi, floor_of(under, true));
    b->has_lo = least || above;
    b->has_hi = most || under;
}

static const char *const bound_keys[] = {"minimum", "exclusiveMinimum", "maximum",
                                         "exclusiveMaximum"};

static int take_bounds(const struct pg_schema *s, const json_t *v, const json_t *bound[4],
                       bool *any)
{
    *any = false;
    for (int i = 0; i < 4; i++) {
        PG_TRY(take_number(s, v, bound_keys[i], &bound[i]));
        *any = *any || bound[i];
    }
    return 0;
}

static int no_number(const struct pg_schema *s)
{
    return pg_schema_fail(s, PG_EFORMAT, "no number lies between the bounds");
}

/* ------------------------------------------------------------------ integers ---------------- */

int pg_schema_integer(struct pg_schema *s, const json_t *v, struct pg_rule_name *name)
{
    const json_t *bound[4];
    struct pg_out body = {0};
    struct bounds b;
    bool any;
    PG_TRY(take_bounds(s, v, bound, &any));
    if (!any) {
        *name = pg_schema_base(s, PG_BASE_INTEGER);
        return 0;
    }
    narrow(&b, bound[0], bound[1], bound[2], bound[3]);
    if (!b.has_lo)
        b.lo = b.hi > -USUAL_LIMIT ? -USUAL_LIMIT : INT64_MIN + 1;
    if (!b.has_hi)
        b.hi = b.lo < USUAL_LIMIT ? USUAL_LIMIT : INT64_MAX;
    if (b.lo > b.hi)
        return no_number(s);
    *name = pg_schema_new_name(s, "integer");
    if (b.lo < 0) {
        pg_out_put(&body, "\"-\" ");
        put_range(&body, b.hi < 0 ? -b.hi : 1, -b.lo);
        pg_out_put(&body, b.hi >= 0 ? " | " : "");
    }
    if (b.hi >= 0)
        put_range(&body, PG_MAX(b.lo, 0), b.hi);
    pg_schema_define(s, *name, &body);
    pg_out_free(&body);
    return 0;
}

/* ------------------------------------------------------------------ numbers with a point ---- */

/* Numbers from b.lo on, 0 or more, up to b.hi. False, and nothing is put, if there are none. */
static bool put_reals(struct pg_out *o, struct bounds b)
{
    static const char fraction[] = " (\".\" [0-9]{1,6})?";
    const char *between = "";
    size_t from = o->n;
    pg_out_put(o, "(");
    if (b.lo < b.hi) {
        pg_out_put(o, "\"%lld\"", (long long)b.lo);
        pg_out_put(o, b.open_lo ? " \".\" [0-9]{0,5} [1-9]" : fraction);
        between = " | ";
    }
    if (b.lo + 1 < b.hi) {
        pg_out_put(o, "%s", between);
        put_range(o, b.lo + 1, b.hi - 1);
        pg_out_put(o, fraction);
    }
    if (!b.open_hi && (b.lo < b.hi || !b.open_lo)) {
        pg_out_put(o, "%s\"%lld\" (\".\" \"0\"{1,6})?", between, (long long)b.hi);
        between = " | ";
    }
    pg_out_put(o, ")");
    if (*between || o->failed)
        return true;
    o->n = from;
    o->s[from] = '\0';
    return false;
}

static bool is_whole(const json_t *bound)
{
    double v = json_number_value(bound);
    return fabs(v) <= (double)REAL_LIMIT && v == floor(v);
}

/* The tighter of two bounds of one side. */
static void tighten(const json_t *closed, const json_t *open, bool low, int64_t *at, bool *is_open)
{
    double sign = low ? 1 : -1;
    *is_open =
        open && (!closed || sign * json_number_value(open) >= sign * json_number_value(closed));
    const json_t *bound = *is_open ? open : closed;
    if (bound)
        *at = (int64_t)json_number_value(bound);
}

static void put_both_signs(struct pg_out *body, struct bounds b)
{
    size_t from = body->n;
    bool any = false;
    if (b.lo < 0) {
        struct bounds mirror = {.lo = 0, .hi = -b.lo, .open_hi = b.open_lo};
        if (b.hi <= 0) {
            mirror.lo = -b.hi;
            mirror.open_lo = b.open_hi;
        }
        pg_out_put(body, "\"-\" ");
        any = put_reals(body, mirror);
        if (!any)
            body->n = from;
    }
    if (b.hi >= 0) {
        from = body->n;
        if (b.lo < 0)
            b.lo = b.open_lo = 0;
        pg_out_put(body, any ? " | " : "");
        if (!put_reals(body, b))
            body->n = from;
    }
    if (body->s)
        body->s[body->n] = '\0';
}

int pg_schema_number(struct pg_schema *s, const json_t *v, struct pg_rule_name *name)
{
    const json_t *bound[4];
    struct pg_out body = {0};
    struct bounds b = {.lo = -REAL_LIMIT, .hi = REAL_LIMIT};
    bool any;
    PG_TRY(take_bounds(s, v, bound, &any));
    if (!any) {
        *name = pg_schema_base(s, PG_BASE_NUMBER);
        return 0;
    }
    for (int i = 0; i < 4; i++)
        if (bound[i] && !is_whole(bound[i]))
            return pg_schema_fail(s, PG_ENOTSUP,
                                  "'%s' of a number that is no integer has to be a whole number of "
                                  "at most %lld",
                                  bound_keys[i], (long long)REAL_LIMIT);
    tighten(bound[0], bound[1], true, &b.lo, &b.open_lo);
    tighten(bound[2], bound[3], false, &b.hi, &b.open_hi);
    if (b.lo <= b.hi)
        put_both_signs(&body, b);
    int rc = body.n || body.failed ? 0 : no_number(s);
    if (!rc) {
        *name = pg_schema_new_name(s, "number");
        pg_schema_define(s, *name, &body);
    }
    pg_out_free(&body);
    return rc;
}
