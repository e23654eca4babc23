/* SPDX-License-Identifier: MIT
 * Expressions to values.
 */
#include "text/jinja_impl.h"

#include <string.h>

static int eval_name(struct pg_jinja_run *r, const struct pg_node *n, struct pg_value *out)
{
    for (const struct pg_scope *s = r->scope; s; s = s->up) {
        for (const struct pg_binding *b = s->first; b; b = b->next) {
            if (b->symbol == n->op) {
                *out = b->value;
                return 0;
            }
        }
    }
    struct pg_value name = {.kind = PG_V_STR, .n = (uint32_t)r->t->name[n->op].n};
    name.s = r->t->name[n->op].s;
    *out = pg_value_undefined(&name);
    return 0;
}

static size_t count(const struct pg_node *n)
{
    size_t i = 0;
    for (; n; n = n->next)
        i++;
    return i;
}

static int eval_list(struct pg_jinja_run *r, const struct pg_node *n, struct pg_value *out)
{
    struct pg_value *item;
    PG_TRY(pg_value_list(r, count(n->kid[0]), &item, out));
    for (const struct pg_node *k = n->kid[0]; k; k = k->next)
        PG_TRY(pg_jinja_eval(r, k, item++));
    out->kind = n->kind == PG_N_TUPLE ? PG_V_TUPLE : PG_V_LIST;
    return 0;
}

static int eval_dict(struct pg_jinja_run *r, const struct pg_node *n, struct pg_value *out)
{
    struct pg_value v[2];
    PG_TRY(pg_dict_open(r, count(n->kid[0]), PG_V_DICT, out));
    for (const struct pg_node *k = n->kid[0]; k; k = k->next) {
        PG_TRY(pg_jinja_eval(r, k->kid[0], &v[0]));
        PG_TRY(pg_jinja_eval(r, k->kid[1], &v[1]));
        PG_TRY(pg_dict_set(r, out->dict, &v[0], &v[1]));
    }
    return 0;
}

static int eval_slice(struct pg_jinja_run *r, const struct pg_node *n, struct pg_value *out)
{
    struct pg_value v[4] = {{0}};
    for (int i = 0; i < 4; i++)
        if (n->kid[i])
            PG_TRY(pg_jinja_eval(r, n->kid[i], &v[i]));
    return pg_jinja_slice(r, v, out);
}

static int eval_args(struct pg_jinja_run *r, const struct pg_node *first,
                     struct pg_jinja_args *args)
{
    size_t n = count(first);
    *args = (struct pg_jinja_args){0};
    if (!n)
        return 0;
    args->v = pg_jinja_take(&r->pile, n * sizeof(*args->v));
    args->by_name = pg_jinja_take(&r->pile, n * sizeof(*args->by_name));
    if (!args->v || !args->by_name)
        return pg_jinja_full(r);
    for (const struct pg_node *a = first; a; a = a->next) {
        if (a->kind != PG_N_KEYWORD) {
            PG_TRY(pg_jinja_eval(r, a, &args->v[args->n++]));
            continue;
        }
        struct pg_pair *pair = &args->by_name[args->n_by_name++];
        pair->key = a->value;
        PG_TRY(pg_jinja_eval(r, a->kid[0], &pair->value));
    }
    return 0;
}

static int eval_call(struct pg_jinja_run *r, const struct pg_node *n, struct pg_value *out)
{
    struct pg_value f;
    struct pg_jinja_args args;
    PG_TRY(pg_jinja_eval(r, n->kid[0], &f));
    PG_TRY(eval_args(r, n->kid[1], &args));
    return pg_jinja_invoke(r, &f, &args, out);
}

static int eval_applied(struct pg_jinja_run *r, const struct pg_node *n, struct pg_value *out)
{
    bool test = n->kind == PG_N_TEST;
    struct pg_value self;
    struct pg_jinja_args args;
    if (n->op < 0)
        return pg_jinja_fail(r, "there is no %s '%s'", test ? "test" : "filter",
                             pg_quote(n->value.s, n->value.n).s);
    PG_TRY(pg_jinja_eval(r, n->kid[0], &self));
    PG_TRY(eval_args(r, n->kid[1], &args));
    PG_TRY(
        pg_jinja_apply(r, test ? pg_jinja_test(n->op) : pg_jinja_filter(n->op), &self, &args, out));
    if (n->negate)
        *out = pg_value_bool(!pg_value_true(out));
    return 0;
}

static int eval_cond(struct pg_jinja_run *r, const struct pg_node *n, struct pg_value *out)
{
    static const struct pg_value nothing = {.kind = PG_V_STR, .s = ""};
    struct pg_value v;
    PG_TRY(pg_jinja_eval(r, n->kid[1], &v));
    if (pg_value_true(&v))
        return pg_jinja_eval(r, n->kid[0], out);
    if (n->kid[2])
        return pg_jinja_eval(r, n->kid[2], out);
    *out = pg_value_undefined(&nothing);
    return 0;
}

static int eval_logic(struct pg_jinja_run *r, const struct pg_node *n, struct pg_value *out)
{
    PG_TRY(pg_jinja_eval(r, n->kid[0], out));
    if (pg_value_true(out) == (n->kind == PG_N_AND))
        return pg_jinja_eval(r, n->kid[1], out);
    return 0;
}

static int eval_unary(struct pg_jinja_run *r, const struct pg_node *n, struct pg_value *out)
{
    PG_TRY(pg_jinja_eval(r, n->kid[0], out));
    if (n->kind == PG_N_NOT) {
        *out = pg_value_bool(!pg_value_true(out));
        return 0;
    }
    if (!pg_is_number(out))
        return pg_jinja_fail(r, "a sign before %s, wanted a number", pg_value_type(out));
    struct pg_value v[2] = {pg_value_int(0), *out};
    if (out->kind == PG_V_FLOAT) {
        out->real = n->kind == PG_N_MINUS ? -out->real : out->real;
        return 0;
    }
    return pg_jinja_binary(r, n->kind == PG_N_MINUS ? '-' : '+', v, out);
}

static int eval_binary(struct pg_jinja_run *r, const struct pg_node *n, struct pg_value *out)
{
    struct pg_value v[2];
    PG_TRY(pg_jinja_eval(r, n->kid[0], &v[0]));
    PG_TRY(pg_jinja_eval(r, n->kid[1], &v[1]));
    return pg_jinja_binary(r, n->op, v, out);
}

static int eval_concat(struct pg_jinja_run *r, const struct pg_node *n, struct pg_value *out)
{
    struct pg_buf b = {.run = r};
    struct pg_value v;
    for (const struct pg_node *k = n->kid[0]; k; k = k->next) {
        PG_TRY(pg_jinja_eval(r, k, &v));
        PG_TRY(pg_value_text(r, &v, &v));
        pg_buf_put_str(&b, &v);
    }
    return pg_buf_end(&b, out);
}

/* a < b < c is a < b and b < c. */
static int eval_compare(struct pg_jinja_run *r, const struct pg_node *n, struct pg_value *out)
{
    struct pg_value v[2];
    bool yes = true;
    PG_TRY(pg_jinja_eval(r, n->kid[0], &v[0]));
    for (const struct pg_node *k = n->kid[1]; k && yes; k = k->next) {
        PG_TRY(pg_jinja_eval(r, k->kid[0], &v[1]));
        PG_TRY(pg_jinja_compare(r, k->op, v, &yes));
        v[0] = v[1];
    }
    *out = pg_value_bool(yes);
    return 0;
}

static int eval_attr(struct pg_jinja_run *r, const struct pg_node *n, struct pg_value *out)
{
    struct pg_value v;
    PG_TRY(pg_jinja_eval(r, n->kid[0], &v));
    return pg_jinja_attr(r, &v, &n->value, out);
}

static int eval_item(struct pg_jinja_run *r, const struct pg_node *n, struct pg_value *out)
{
    struct pg_value v[2];
    PG_TRY(pg_jinja_eval(r, n->kid[0], &v[0]));
    PG_TRY(pg_jinja_eval(r, n->kid[1], &v[1]));
    return pg_jinja_item(r, &v[0], &v[1], out);
}

static int eval_const(struct pg_jinja_run *r, const struct pg_node *n, struct pg_value *out)
{
    *out = n->kind == PG_N_BODY ? r->body : n->value;
    return 0;
}

int pg_jinja_eval(struct pg_jinja_run *r, const struct pg_node *n, struct pg_value *out)
{
    static int (*const by_kind[])(struct pg_jinja_run * r, const struct pg_node *n,
                                  struct pg_value *out) = {
        [PG_N_CONST] = eval_const, [PG_N_BODY] = eval_const,     [PG_N_NAME] = eval_name,
        [PG_N_LIST] = eval_list,   [PG_N_TUPLE] = eval_list,     [PG_N_DICT] = eval_dict,
        [PG_N_ATTR] = eval_attr,   [PG_N_ITEM] = eval_item,      [PG_N_SLICE] = eval_slice,
        [PG_N_CALL] = eval_call,   [PG_N_FILTER] = eval_applied, [PG_N_TEST] = eval_applied,
        [PG_N_COND] = eval_cond,   [PG_N_NOT] = eval_unary,      [PG_N_MINUS] = eval_unary,
        [PG_N_PLUS] = eval_unary,  [PG_N_BINARY] = eval_binary,  [PG_N_AND] = eval_logic,
        [PG_N_OR] = eval_logic,    [PG_N_CONCAT] = eval_concat,  [PG_N_COMPARE] = eval_compare,
    };
    PG_ASSERT(n->kind < PG_COUNT(by_kind) && by_kind[n->kind]);
    if (++r->depth > PG_JINJA_DEPTH)
        return pg_jinja_fail(r, "the template runs deeper than %d", PG_JINJA_DEPTH);
    int rc = pg_jinja_steps(r, 1);
    rc = rc ? rc : by_kind[n->kind](r, n, out);
    r->depth--;
    return pg_jinja_locate(r, n, rc);
}
