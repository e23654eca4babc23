/* SPDX-License-Identifier: MIT
 * Filters. Where Jinja gives a generator there is a list.
 */
#include "text/jinja_impl.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool absent(const struct pg_value *v)
{
    return v->kind == PG_V_ABSENT || v->kind == PG_V_NONE;
}

static int as_text(struct pg_jinja_call *c)
{
    return pg_value_text(c->run, &c->self, &c->self);
}

/* ---- texts ---- */

static int filter_trim(struct pg_jinja_call *c)
{
    bool spaces = absent(&c->arg[0]);
    PG_TRY(as_text(c));
    if (!spaces)
        PG_TRY(pg_value_need(c->run, &c->arg[0], PG_V_STR, "trim"));
    return pg_str_trim(c->run, &c->self, spaces ? NULL : &c->arg[0], 3, c->out);
}

static int in_case(struct pg_jinja_call *c, enum pg_case how)
{
    PG_TRY(as_text(c));
    return pg_str_case(c->run, &c->self, how, c->out);
}

static int filter_upper(struct pg_jinja_call *c)
{
    return in_case(c, PG_CASE_UPPER);
}

static int filter_lower(struct pg_jinja_call *c)
{
    return in_case(c, PG_CASE_LOWER);
}

static int filter_title(struct pg_jinja_call *c)
{
    return in_case(c, PG_CASE_WORDS);
}

static int filter_capitalize(struct pg_jinja_call *c)
{
    return in_case(c, PG_CASE_CAPITAL);
}

static int filter_replace(struct pg_jinja_call *c)
{
    struct pg_value v[3];
    int64_t count;
    PG_TRY(pg_value_text(c->run, &c->self, &v[0]));
    PG_TRY(pg_value_text(c->run, &c->arg[0], &v[1]));
    PG_TRY(pg_value_text(c->run, &c->arg[1], &v[2]));
    PG_TRY(pg_jinja_int_arg(c, 2, -1, &count));
    return pg_str_replace(c->run, v, count, c->out);
}

/* What has no line break in it stays as it is. */
static int filter_indent(struct pg_jinja_call *c)
{
    struct pg_buf b = {.run = c->run};
    struct pg_value by = c->arg[0], lines, space = pg_value_str(" ");
    bool first = pg_value_true(&c->arg[1]), blank = pg_value_true(&c->arg[2]);
    PG_TRY(as_text(c));
    if (by.kind != PG_V_STR) {
        int64_t width;
        PG_TRY(pg_jinja_int_arg(c, 0, 4, &width));
        PG_TRY(pg_jinja_binary(c->run, '*', (struct pg_value[]){space, pg_value_int(width)}, &by));
    }
    PG_TRY(pg_str_lines(c->run, &c->self, false, &lines));
    bool open = c->self.n && strchr("\n\r", c->self.s[c->self.n - 1]); /* an empty last line */
    uint32_t n = PG_MAX(lines.n + open, 1u);
    for (uint32_t i = 0; i < n; i++) {
        const struct pg_value *line = i < lines.n ? &lines.item[i] : NULL;
        if (i)
            pg_buf_put(&b, "\n", 1, false);
        if (i ? blank || (line && line->n) : first)
            pg_buf_put_str(&b, &by);
        if (line)
            pg_buf_put_str(&b, line);
    }
    return pg_buf_end(&b, c->out);
}

static int filter_escape(struct pg_jinja_call *c)
{
    static const char *const from[] = {"&", "<", ">", "'", "\""};
    static const char *const to[] = {"&amp;", "&lt;", "&gt;", "&#39;", "&#34;"};
    PG_TRY(pg_value_text(c->run, &c->self, c->out));
    for (size_t i = 0; i < PG_COUNT(from); i++) {
        struct pg_value v[3] = {*c->out, pg_value_str(from[i]), pg_value_str(to[i])};
        v[2].content = c->self.content || c->self.mark;
        PG_TRY(pg_str_replace(c->run, v, -1, c->out));
    }
    return 0;
}

static int filter_string(struct pg_jinja_call *c)
{
    return pg_value_text(c->run, &c->self, c->out);
}

static int filter_format(struct pg_jinja_call *c)
{
    struct pg_value v[2] = {c->self, {.kind = PG_V_TUPLE, .n = c->all->n, .item = c->all->v}};
    PG_TRY(pg_value_need(c->run, &v[0], PG_V_STR, "format"));
    return pg_jinja_percent(c->run, v, c->out);
}

static int filter_tojson(struct pg_jinja_call *c)
{
    /* Hugging Face's: ensure_ascii, indent, separators, sort_keys. */
    const struct pg_value *indent = &c->arg[1], *pair = &c->arg[2];
    struct pg_json_style how = {.ascii = pg_value_true(&c->arg[0]),
                                .sorted = pg_value_true(&c->arg[3]),
                                .lines = !absent(indent)};
    how.comma = pg_value_str(how.lines ? "," : ", ");
    how.colon = pg_value_str(": ");
    how.indent = pg_value_str("");
    if (indent->kind == PG_V_STR) {
        how.indent = *indent;
    } else if (how.lines) {
        struct pg_value v[2] = {pg_value_str(" "), *indent};
        PG_TRY(pg_value_need(c->run, indent, PG_V_INT, "tojson's indent"));
        PG_TRY(pg_jinja_binary(c->run, '*', v, &how.indent));
    }
    if (!absent(pair)) {
        if (!pg_is_list(pair) || pair->n != 2 || pair->item[0].kind != PG_V_STR ||
            pair->item[1].kind != PG_V_STR)
            return pg_jinja_fail(c->run, "tojson's separators are no two texts");
        how.comma = pair->item[0];
        how.colon = pair->item[1];
    }
    return pg_value_json(c->run, &c->self, &how, c->out);
}

/* ---- numbers ---- */

static int filter_int(struct pg_jinja_call *c)
{
    const struct pg_value *v = &c->self;
    int64_t base, i = 0;
    double x = 0;
    PG_TRY(pg_jinja_int_arg(c, 1, 10, &base));
    *c->out = absent(&c->arg[0]) ? pg_value_int(0) : c->arg[0];
    if (v->kind == PG_V_UNDEFINED)
        return pg_jinja_fail(c->run, "int: '%s' is undefined", pg_quote(v->s, v->n).s);
    if (v->kind == PG_V_INT || v->kind == PG_V_BOOL) {
        *c->out = pg_value_int(v->kind == PG_V_BOOL ? v->truth : v->integer);
    } else if (v->kind == PG_V_STR && pg_str_to_int(v, base, &i)) {
        *c->out = pg_value_int(i);
    } else if (v->kind == PG_V_FLOAT || (v->kind == PG_V_STR && pg_str_to_float(v, &x))) {
        x = v->kind == PG_V_FLOAT ? v->real : x;
        if (isfinite(x) && fabs(x) >= 0x1p63)
            return pg_jinja_fail(c->run, "a number is too large, wanted one of 64 bits");
        if (isfinite(x))
            *c->out = pg_value_int((int64_t)x);
    }
    c->out->content |= v->content || v->mark;
    return 0;
}

static int filter_float(struct pg_jinja_call *c)
{
    const struct pg_value *v = &c->self;
    double x;
    *c->out = absent(&c->arg[0]) ? pg_value_float(0) : c->arg[0];
    if (v->kind == PG_V_UNDEFINED)
        return pg_jinja_fail(c->run, "float: '%s' is undefined", pg_quote(v->s, v->n).s);
    if (v->kind == PG_V_FLOAT)
        *c->out = *v;
    else if (pg_is_number(v))
        *c->out = pg_value_float(v->kind == PG_V_BOOL ? (double)v->truth : (double)v->integer);
    else if (v->kind == PG_V_STR && pg_str_to_float(v, &x))
        *c->out = pg_value_float(x);
    c->out->content |= v->content || v->mark;
    return 0;
}

static int filter_abs(struct pg_jinja_call *c)
{
    struct pg_value v[2] = {pg_value_int(0), c->self};
    if (!pg_is_number(&c->self))
        return pg_jinja_fail(c->run, "abs of %s, wanted a number", pg_value_type(&c->self));
    if (c->self.kind == PG_V_FLOAT) {
        *c->out = c->self;
        c->out->real = fabs(c->out->real);
        return 0;
    }
    bool below = c->self.kind == PG_V_INT && c->self.integer < 0;
    return pg_jinja_binary(c->run, below ? '-' : '+', v, c->out);
}

/* printf rounds as Python does: by the number's exact value, a half to the even digit. */
static int filter_round(struct pg_jinja_call *c)
{
    char text[400];
    int64_t precision;
    struct pg_value how = absent(&c->arg[1]) ? pg_value_str("common") : c->arg[1], v = c->self;
    PG_TRY(pg_jinja_int_arg(c, 0, 0, &precision));
    if (!pg_is_number(&v) || precision < 0 || precision > 30)
        return pg_jinja_fail(c->run, "round of %s to %lld digits", pg_value_type(&v),
                             (long long)precision);
    double x = v.kind == PG_V_FLOAT ? v.real : v.kind == PG_V_BOOL ? v.truth : (double)v.integer;
    bool up = pg_value_is(&how, "ceil"), down = pg_value_is(&how, "floor");
    if (!up && !down && !pg_value_is(&how, "common"))
        return pg_jinja_fail(c->run, "round has a method that is not common, ceil or floor");
    if (up || down) {
        double unit = pow(10, (double)precision);
        *c->out = pg_value_float((up ? ceil(x * unit) : floor(x * unit)) / unit);
    } else if (v.kind != PG_V_FLOAT) {
        *c->out = pg_value_int(v.kind == PG_V_BOOL ? v.truth : v.integer);
    } else {
        snprintf(text, sizeof(text), "%.*f", (int)precision, x);
        *c->out = pg_value_float(strtod(text, NULL));
    }
    c->out->content = v.content;
    return 0;
}

/* ---- lists and dicts ---- */

static int filter_length(struct pg_jinja_call *c)
{
    int64_t n;
    PG_TRY(pg_value_length(c->run, &c->self, &n));
    *c->out = pg_value_int(n);
    return 0;
}

static int filter_list(struct pg_jinja_call *c)
{
    return pg_value_items(c->run, &c->self, c->out);
}

static int end_of(struct pg_jinja_call *c, bool last)
{
    struct pg_value list, name = pg_value_str(last ? "last" : "first");
    PG_TRY(pg_value_items(c->run, &c->self, &list));
    *c->out = list.n ? list.item[last ? list.n - 1 : 0] : pg_value_undefined(&name);
    return 0;
}

static int filter_first(struct pg_jinja_call *c)
{
    return end_of(c, false);
}

static int filter_last(struct pg_jinja_call *c)
{
    return end_of(c, true);
}

static int filter_reverse(struct pg_jinja_call *c)
{
    struct pg_value v[4] = {c->self, {0}, {0}, pg_value_int(-1)};
    if (c->self.kind != PG_V_STR)
        PG_TRY(pg_value_items(c->run, &c->self, &v[0]));
    return pg_jinja_slice(c->run, v, c->out);
}

static int filter_items(struct pg_jinja_call *c)
{
    static const struct pg_value items = {.kind = PG_V_STR, .n = 5, .s = "items"};
    static const struct pg_jinja_args none;
    struct pg_value f, *no_item;
    if (c->self.kind == PG_V_UNDEFINED)
        return pg_value_list(c->run, 0, &no_item, c->out);
    PG_TRY(pg_value_need(c->run, &c->self, PG_V_DICT, "items"));
    PG_TRY(pg_jinja_attr(c->run, &c->self, &items, &f));
    return pg_jinja_invoke(c->run, &f, &none, c->out);
}

static int filter_default(struct pg_jinja_call *c)
{
    bool use =
        c->self.kind == PG_V_UNDEFINED || (pg_value_true(&c->arg[1]) && !pg_value_true(&c->self));
    *c->out = c->self;
    if (use)
        *c->out = c->arg[0].kind == PG_V_ABSENT ? pg_value_str("") : c->arg[0];
    return 0;
}

static int filter_safe(struct pg_jinja_call *c)
{
    return pg_value_text(c->run, &c->self, c->out);
}

/* v.a.b.0 of an attribute that is given as a text or a number. */
static int attribute(struct pg_jinja_run *r, const struct pg_value *path, struct pg_value *v)
{
    if (path->kind != PG_V_STR)
        return pg_jinja_item(r, v, path, v);
    for (size_t at = 0; at <= path->n;) {
        const char *dot = path->n > at ? memchr(path->s + at, '.', path->n - at) : NULL;
        size_t end = dot ? (size_t)(dot - path->s) : path->n;
        struct pg_value part = pg_value_part(path, at, end - at);
        int64_t i;
        if (pg_str_to_int(&part, 10, &i))
            part = pg_value_int(i);
        PG_TRY(pg_jinja_item(r, v, &part, v));
        at = end + 1;
    }
    return 0;
}

/* Of what a filter chooses from, nothing is as good as an empty list. */
static int items_of(struct pg_jinja_call *c, struct pg_value *list)
{
    struct pg_value *item;
    if (!pg_value_true(&c->self))
        return pg_value_list(c->run, 0, &item, list);
    return pg_value_items(c->run, &c->self, list);
}

/* All items, or an attribute of each. */
static int attributes(struct pg_jinja_run *r, const struct pg_value *path, struct pg_value *list)
{
    struct pg_value *item, from = *list;
    if (absent(path))
        return 0;
    PG_TRY(pg_value_list(r, from.n, &item, list));
    for (uint32_t i = 0; i < from.n; i++) {
        item[i] = from.item[i];
        PG_TRY(attribute(r, path, &item[i]));
    }
    return 0;
}

static int filter_join(struct pg_jinja_call *c)
{
    struct pg_value list, by = pg_value_str("");
    PG_TRY(pg_value_items(c->run, &c->self, &list));
    PG_TRY(attributes(c->run, &c->arg[1], &list));
    if (!absent(&c->arg[0]))
        PG_TRY(pg_value_text(c->run, &c->arg[0], &by));
    return pg_str_join(c->run, &by, &list, c->out);
}

static int filter_sum(struct pg_jinja_call *c)
{
    struct pg_value list, sum = absent(&c->arg[1]) ? pg_value_int(0) : c->arg[1];
    PG_TRY(pg_value_items(c->run, &c->self, &list));
    PG_TRY(attributes(c->run, &c->arg[0], &list));
    for (uint32_t i = 0; i < list.n; i++)
        PG_TRY(pg_jinja_binary(c->run, '+', (struct pg_value[]){sum, list.item[i]}, &sum));
    *c->out = sum;
    return 0;
}

/* The first or second argument's rest: what a filter that is named in an argument is given. */
static struct pg_jinja_args rest_of(const struct pg_jinja_args *all, uint32_t from)
{
    struct pg_jinja_args rest = *all;
    rest.n -= PG_MIN(from, all->n);
    if (all->n)
        rest.v += PG_MIN(from, all->n);
    return rest;
}

static const struct pg_value *by_name(const struct pg_jinja_args *all, const char *name)
{
    for (uint32_t i = 0; i < all->n_by_name; i++)
        if (pg_value_is(&all->by_name[i].key, name))
            return &all->by_name[i].value;
    return NULL;
}

static int map_attribute(struct pg_jinja_call *c, const struct pg_value *path)
{
    const struct pg_value *none = by_name(c->all, "default");
    struct pg_value *item = (struct pg_value *)c->out->item; /* ours, made by pg_value_list */
    for (uint32_t i = 0; i < c->out->n; i++) {
        PG_TRY(attribute(c->run, path, &item[i]));
        if (none && item[i].kind == PG_V_UNDEFINED)
            item[i] = *none;
    }
    return 0;
}

static int filter_map(struct pg_jinja_call *c)
{
    const struct pg_value *path = by_name(c->all, "attribute");
    struct pg_jinja_args rest = rest_of(c->all, 1);
    struct pg_value list, *item;
    PG_TRY(items_of(c, &list));
    PG_TRY(pg_value_list(c->run, list.n, &item, c->out));
    if (list.n)
        memcpy(item, list.item, list.n * sizeof(*item));
    if (path)
        return map_attribute(c, path);
    if (!c->all->n)
        return pg_jinja_fail(c->run, "map has neither a filter nor an attribute");
    PG_TRY(pg_value_need(c->run, &c->all->v[0], PG_V_STR, "map"));
    int f = pg_jinja_find_filter((struct pg_str){c->all->v[0].s, c->all->v[0].n});
    if (f < 0)
        return pg_jinja_fail(c->run, "there is no filter '%s'",
                             pg_quote(c->all->v[0].s, c->all->v[0].n).s);
    for (uint32_t i = 0; i < list.n; i++)
        PG_TRY(pg_jinja_apply(c->run, pg_jinja_filter(f), &list.item[i], &rest, &item[i]));
    return 0;
}

/* Items that pass a test, or of which an attribute does; without a test, those that are true. */
static int choose(struct pg_jinja_call *c, bool wanted, uint32_t n_path)
{
    const struct pg_jinja_args *all = c->all;
    struct pg_jinja_args rest = rest_of(all, n_path + 1);
    struct pg_value list, *kept;
    int test = -1;
    if (all->n < n_path)
        return pg_jinja_fail(c->run, "selectattr and rejectattr want an attribute");
    if (all->n > n_path) {
        const struct pg_value *name = &all->v[n_path];
        PG_TRY(pg_value_need(c->run, name, PG_V_STR, "the name of a test"));
        test = pg_jinja_find_test((struct pg_str){name->s, name->n});
        if (test < 0)
            return pg_jinja_fail(c->run, "there is no test '%s'", pg_quote(name->s, name->n).s);
    }
    PG_TRY(items_of(c, &list));
    PG_TRY(pg_value_list(c->run, list.n, &kept, c->out));
    uint32_t n = 0;
    for (uint32_t i = 0; i < list.n; i++) {
        struct pg_value v = list.item[i];
        if (n_path)
            PG_TRY(attribute(c->run, &all->v[0], &v));
        if (test >= 0)
            PG_TRY(pg_jinja_apply(c->run, pg_jinja_test(test), &v, &rest, &v));
        if (pg_value_true(&v) == wanted)
            kept[n++] = list.item[i];
    }
    c->out->n = n;
    return pg_jinja_steps(c->run, list.n);
}

static int filter_select(struct pg_jinja_call *c)
{
    return choose(c, true, 0);
}

static int filter_reject(struct pg_jinja_call *c)
{
    return choose(c, false, 0);
}

static int filter_selectattr(struct pg_jinja_call *c)
{
    return choose(c, true, 1);
}

static int filter_rejectattr(struct pg_jinja_call *c)
{
    return choose(c, false, 1);
}

/* ---- order ---- */

struct sorted_item {
    struct pg_value key, value;
    uint32_t at;
};

struct sorting {
    struct pg_jinja_run *run;
    bool backwards;
    int rc;
};

static int by_value(const void *a, const void *b, void *user)
{
    const struct sorted_item *x = a, *y = b;
    struct sorting *s = user;
    int order = 0;
    if (!s->rc)
        s->rc = pg_value_order(s->run, (struct pg_value[]){x->key, y->key}, &order);
    if (s->backwards)
        order = -order;
    return order ? order : (x->at > y->at) - (x->at < y->at);
}

/* What items are compared by: texts without regard to case unless that is wanted. */
static int sort_key(struct pg_jinja_run *r, bool with_case, struct pg_value *v)
{
    if (with_case || v->kind != PG_V_STR)
        return 0;
    return pg_str_case(r, v, PG_CASE_LOWER, v);
}

struct order {
    bool backwards, with_case;
    const struct pg_value *path; /* of an item, NULL: itself */
};

static int sort_list(struct pg_jinja_run *r, const struct pg_value *list, const struct order *o,
                     struct pg_value *out)
{
    struct sorting s = {.run = r, .backwards = o->backwards};
    struct pg_value *item;
    struct sorted_item *sorted = pg_jinja_take(&r->pile, list->n * sizeof(*sorted));
    if (!sorted)
        return pg_jinja_full(r);
    for (uint32_t i = 0; i < list->n; i++) {
        sorted[i] = (struct sorted_item){list->item[i], list->item[i], i};
        if (o->path)
            PG_TRY(attribute(r, o->path, &sorted[i].key));
        PG_TRY(sort_key(r, o->with_case, &sorted[i].key));
    }
    if (list->n)
        qsort_r(sorted, list->n, sizeof(*sorted), by_value, &s);
    PG_TRY(s.rc);
    PG_TRY(pg_value_list(r, list->n, &item, out));
    for (uint32_t i = 0; i < out->n; i++)
        item[i] = sorted[i].value;
    return 0;
}

/* reverse, case_sensitive, attribute */
static int filter_sort(struct pg_jinja_call *c)
{
    struct order o = {.backwards = pg_value_true(&c->arg[0]),
                      .with_case = pg_value_true(&c->arg[1]),
                      .path = absent(&c->arg[2]) ? NULL : &c->arg[2]};
    struct pg_value list;
    PG_TRY(pg_value_items(c->run, &c->self, &list));
    return sort_list(c->run, &list, &o, c->out);
}

/* case_sensitive, by, reverse */
static int filter_dictsort(struct pg_jinja_call *c)
{
    struct pg_value pairs, place, by = absent(&c->arg[1]) ? pg_value_str("key") : c->arg[1];
    struct order o = {.backwards = pg_value_true(&c->arg[2]),
                      .with_case = pg_value_true(&c->arg[0]),
                      .path = &place};
    struct pg_jinja_call items = {.run = c->run, .self = c->self, .out = &pairs};
    if (!pg_value_is(&by, "key") && !pg_value_is(&by, "value"))
        return pg_jinja_fail(c->run, "dictsort is by key or by value");
    place = pg_value_int(pg_value_is(&by, "value"));
    PG_TRY(filter_items(&items));
    return sort_list(c->run, &pairs, &o, c->out);
}

/* The least or largest of the items, of equal ones the first. */
static int extreme(struct pg_jinja_call *c, int sign)
{
    bool with_case = pg_value_true(&c->arg[0]);
    struct pg_value list, best = pg_value_undefined(&c->self), v[2];
    PG_TRY(pg_value_items(c->run, &c->self, &list));
    for (uint32_t i = 0; i < list.n; i++) {
        int order = sign;
        v[0] = list.item[i];
        if (!absent(&c->arg[1]))
            PG_TRY(attribute(c->run, &c->arg[1], &v[0]));
        PG_TRY(sort_key(c->run, with_case, &v[0]));
        if (i)
            PG_TRY(pg_value_order(c->run, v, &order));
        if (!i || order * sign > 0) {
            best = list.item[i];
            v[1] = v[0];
        }
    }
    *c->out = best;
    return 0;
}

static int filter_min(struct pg_jinja_call *c)
{
    return extreme(c, -1);
}

static int filter_max(struct pg_jinja_call *c)
{
    return extreme(c, 1);
}

/* case_sensitive, attribute. Each item is compared with all that are kept, in steps. */
static int filter_unique(struct pg_jinja_call *c)
{
    struct pg_value list, keys, *key, *kept;
    uint32_t n = 0;
    PG_TRY(pg_value_items(c->run, &c->self, &list));
    PG_TRY(pg_value_list(c->run, list.n, &key, &keys));
    PG_TRY(pg_value_list(c->run, list.n, &kept, c->out));
    for (uint32_t i = 0; i < list.n; i++) {
        bool seen = false;
        key[n] = list.item[i];
        if (!absent(&c->arg[1]))
            PG_TRY(attribute(c->run, &c->arg[1], &key[n]));
        PG_TRY(sort_key(c->run, pg_value_true(&c->arg[0]), &key[n]));
        for (uint32_t k = 0; k < n && !seen; k++)
            PG_TRY(pg_value_equal(c->run, (struct pg_value[]){key[k], key[n]}, &seen));
        if (!seen)
            kept[n++] = list.item[i];
    }
    c->out->n = n;
    return 0;
}

/* linecount, fill_with */
static int filter_batch(struct pg_jinja_call *c)
{
    struct pg_value list, *batch, *item;
    int64_t size;
    PG_TRY(pg_jinja_int_arg(c, 0, 0, &size));
    if (size < 1 || size > PG_JINJA_ITEMS)
        return pg_jinja_fail(c->run, "batch of %lld items", (long long)size);
    PG_TRY(pg_value_items(c->run, &c->self, &list));
    PG_TRY(pg_value_list(c->run, (list.n + (size_t)size - 1) / (size_t)size, &batch, c->out));
    for (uint32_t at = 0; at < list.n; at += (uint32_t)size, batch++) {
        uint32_t n = (uint32_t)PG_MIN(size, (int64_t)list.n - at);
        uint32_t full = absent(&c->arg[1]) ? n : (uint32_t)size;
        PG_TRY(pg_value_list(c->run, full, &item, batch));
        for (uint32_t i = 0; i < full; i++)
            item[i] = i < n ? list.item[at + i] : c->arg[1];
    }
    return 0;
}

static int filter_attr(struct pg_jinja_call *c)
{
    PG_TRY(pg_value_need(c->run, &c->arg[0], PG_V_STR, "attr"));
    return pg_jinja_attr(c->run, &c->self, &c->arg[0], c->out);
}

static const struct pg_jinja_function filters[] = {
    {"trim", "chars", 0, filter_trim},
    {"upper", "", 0, filter_upper},
    {"lower", "", 0, filter_lower},
    {"title", "", 0, filter_title},
    {"capitalize", "", 0, filter_capitalize},
    {"replace", "old new count", 2, filter_replace},
    {"indent", "width first blank", 0, filter_indent},
    {"escape", "", 0, filter_escape},
    {"e", "", 0, filter_escape},
    {"safe", "", 0, filter_safe},
    {"string", "", 0, filter_string},
    {"format", "*", 0, filter_format},
    {"tojson", "ensure_ascii indent separators sort_keys", 0, filter_tojson},
    {"int", "default base", 0, filter_int},
    {"float", "default", 0, filter_float},
    {"abs", "", 0, filter_abs},
    {"round", "precision method", 0, filter_round},
    {"length", "", 0, filter_length},
    {"count", "", 0, filter_length},
    {"list", "", 0, filter_list},
    {"first", "", 0, filter_first},
    {"last", "", 0, filter_last},
    {"reverse", "", 0, filter_reverse},
    {"items", "", 0, filter_items},
    {"default", "default_value boolean", 0, filter_default},
    {"d", "default_value boolean", 0, filter_default},
    {"join", "d attribute", 0, filter_join},
    {"sum", "attribute start", 0, filter_sum},
    {"map", "*", 0, filter_map},
    {"select", "*", 0, filter_select},
    {"reject", "*", 0, filter_reject},
    {"selectattr", "*", 0, filter_selectattr},
    {"rejectattr", "*", 0, filter_rejectattr},
    {"sort", "reverse case_sensitive attribute", 0, filter_sort},
    {"dictsort", "case_sensitive by reverse", 0, filter_dictsort},
    {"min", "case_sensitive attribute", 0, filter_min},
    {"max", "case_sensitive attribute", 0, filter_max},
    {"unique", "case_sensitive attribute", 0, filter_unique},
    {"batch", "linecount fill_with", 1, filter_batch},
    {"attr", "name", 1, filter_attr},
};

int pg_jinja_find_filter(struct pg_str name)
{
    for (size_t i = 0; i < PG_COUNT(filters); i++)
        if (strlen(filters[i].name) == name.n && !memcmp(filters[i].name, name.s, name.n))
            return (int)i;
    return -1;
}

const struct pg_jinja_function *pg_jinja_filter(int i)
{
    return &filters[i];
}
