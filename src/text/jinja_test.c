/* SPDX-License-Identifier: MIT
 * Tests: what stands behind "is".
 */
#include "text/jinja_impl.h"

#include <string.h>

static int say(struct pg_jinja_call *c, bool yes)
{
    *c->out = pg_value_bool(yes);
    return 0;
}

static int kind_is(struct pg_jinja_call *c, enum pg_value_kind kind)
{
    return say(c, c->self.kind == kind);
}

static int is_defined(struct pg_jinja_call *c)
{
    return say(c, c->self.kind != PG_V_UNDEFINED);
}

static int is_undefined(struct pg_jinja_call *c)
{
    return kind_is(c, PG_V_UNDEFINED);
}

static int is_none(struct pg_jinja_call *c)
{
    return kind_is(c, PG_V_NONE);
}

static int is_string(struct pg_jinja_call *c)
{
    return kind_is(c, PG_V_STR);
}

static int is_mapping(struct pg_jinja_call *c)
{
    return kind_is(c, PG_V_DICT);
}

static int is_boolean(struct pg_jinja_call *c)
{
    return kind_is(c, PG_V_BOOL);
}

static int is_true(struct pg_jinja_call *c)
{
    return say(c, c->self.kind == PG_V_BOOL && c->self.truth);
}

static int is_false(struct pg_jinja_call *c)
{
    return say(c, c->self.kind == PG_V_BOOL && !c->self.truth);
}

static int is_integer(struct pg_jinja_call *c)
{
    return kind_is(c, PG_V_INT);
}

static int is_float(struct pg_jinja_call *c)
{
    return kind_is(c, PG_V_FLOAT);
}

static int is_number(struct pg_jinja_call *c)
{
    return say(c, pg_is_number(&c->self));
}

static int is_iterable(struct pg_jinja_call *c)
{
    uint8_t k = c->self.kind;
    return say(c, k == PG_V_STR || pg_is_list(&c->self) || k == PG_V_DICT || k == PG_V_UNDEFINED);
}

static int is_callable(struct pg_jinja_call *c)
{
    uint8_t k = c->self.kind;
    return say(c, k == PG_V_FUNCTION || k == PG_V_METHOD || k == PG_V_MACRO || k == PG_V_UNDEFINED);
}

static int remainder_of(struct pg_jinja_call *c, int64_t by, int64_t *out)
{
    struct pg_value v;
    PG_TRY(pg_jinja_binary(c->run, '%', (struct pg_value[]){c->self, pg_value_int(by)}, &v));
    if (v.kind == PG_V_FLOAT)
        *out = v.real == 0 ? 0 : v.real == 1 ? 1 : 2;
    else
        PG_TRY(pg_value_need(c->run, &v, PG_V_INT, "a test of a number"));
    if (v.kind == PG_V_INT)
        *out = v.integer;
    return 0;
}

static int is_odd(struct pg_jinja_call *c)
{
    int64_t rest;
    PG_TRY(remainder_of(c, 2, &rest));
    return say(c, rest == 1);
}

static int is_even(struct pg_jinja_call *c)
{
    int64_t rest;
    PG_TRY(remainder_of(c, 2, &rest));
    return say(c, rest == 0);
}

static int is_divisible(struct pg_jinja_call *c)
{
    int64_t rest;
    PG_TRY(pg_value_need(c->run, &c->arg[0], PG_V_INT, "divisibleby"));
    PG_TRY(remainder_of(c, c->arg[0].integer, &rest));
    return say(c, rest == 0);
}

static int compared(struct pg_jinja_call *c, int op)
{
    bool yes;
    PG_TRY(pg_jinja_compare(c->run, op, (struct pg_value[]){c->self, c->arg[0]}, &yes));
    return say(c, yes);
}

static int is_equal(struct pg_jinja_call *c)
{
    return compared(c, PG_OP('=', '='));
}

static int is_different(struct pg_jinja_call *c)
{
    return compared(c, PG_OP('!', '='));
}

static int is_less(struct pg_jinja_call *c)
{
    return compared(c, '<');
}

static int is_at_most(struct pg_jinja_call *c)
{
    return compared(c, PG_OP('<', '='));
}

static int is_greater(struct pg_jinja_call *c)
{
    return compared(c, '>');
}

static int is_at_least(struct pg_jinja_call *c)
{
    return compared(c, PG_OP('>', '='));
}

static int is_in(struct pg_jinja_call *c)
{
    return compared(c, PG_OP_IN);
}

static int is_case(struct pg_jinja_call *c, bool upper)
{
    struct pg_value s;
    PG_TRY(pg_value_text(c->run, &c->self, &s));
    PG_TRY(pg_jinja_scan(c->run, (uint64_t)s.n * 4));
    return say(c, pg_str_is_case(&s, upper));
}

static int is_upper(struct pg_jinja_call *c)
{
    return is_case(c, true);
}

static int is_lower(struct pg_jinja_call *c)
{
    return is_case(c, false);
}

/* The same object: values that do not change are the same when they are equal and of one kind. */
static int is_same(struct pg_jinja_call *c)
{
    return c->self.kind == c->arg[0].kind ? compared(c, PG_OP('=', '=')) : say(c, false);
}

static const struct pg_jinja_function tests[] = {
    {"defined", "", 0, is_defined},    {"undefined", "", 0, is_undefined},
    {"none", "", 0, is_none},          {"string", "", 0, is_string},
    {"mapping", "", 0, is_mapping},    {"boolean", "", 0, is_boolean},
    {"true", "", 0, is_true},          {"false", "", 0, is_false},
    {"integer", "", 0, is_integer},    {"float", "", 0, is_float},
    {"number", "", 0, is_number},      {"iterable", "", 0, is_iterable},
    {"sequence", "", 0, is_iterable}, /* all that Jinja calls one can be iterated, and back */
    {"callable", "", 0, is_callable},  {"odd", "", 0, is_odd},
    {"even", "", 0, is_even},          {"divisibleby", "num", 1, is_divisible},
    {"eq", "other", 1, is_equal},      {"equalto", "other", 1, is_equal},
    {"ne", "other", 1, is_different},  {"lt", "other", 1, is_less},
    {"lessthan", "other", 1, is_less}, {"le", "other", 1, is_at_most},
    {"gt", "other", 1, is_greater},    {"greaterthan", "other", 1, is_greater},
    {"ge", "other", 1, is_at_least},   {"in", "seq", 1, is_in},
    {"upper", "", 0, is_upper},        {"lower", "", 0, is_lower},
    {"sameas", "other", 1, is_same},
};

int pg_jinja_find_test(struct pg_str name)
{
    for (size_t i = 0; i < PG_COUNT(tests); i++)
        if (strlen(tests[i].name) == name.n && !memcmp(tests[i].name, name.s, name.n))
            return (int)i;
    return -1;
}

const struct pg_jinja_function *pg_jinja_test(int i)
{
    return &tests[i];
}
