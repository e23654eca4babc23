/* SPDX-License-Identifier: MIT
 * Arguments to functions, attributes and items of values, and the functions that every template
 * has. An attribute is an item of a dict or one of the methods listed here and in jinja_str.c:
 * nothing else can be reached.
 */
#include "text/jinja_impl.h"

#include <string.h>
#include <time.h>

/* ---- arguments ---- */

/* The place of a name in "a b c", -1: it is not there. */
static int param_at(const char *params, const struct pg_value *name)
{
    for (int i = 0;; i++) {
        size_t n = strcspn(params, " ");
        if (n == name->n && !memcmp(params, name->s, n))
            return i;
        if (!params[n])
            return -1;
        params += n + 1;
    }
}

static int n_params(const char *params)
{
    int n = *params != '\0';
    for (; *params; params++)
        n += *params == ' ';
    return n;
}

static int bind_args(struct pg_jinja_call *c, const struct pg_jinja_function *f)
{
    const struct pg_jinja_args *args = c->all;
    struct pg_jinja_run *r = c->run;
    int n = n_params(f->params);
    if (args->n > (uint32_t)n)
        return pg_jinja_fail(r, "%s has %u arguments, wanted %d at most", f->name, args->n, n);
    for (uint32_t i = 0; i < args->n; i++)
        c->arg[i] = args->v[i];
    for (uint32_t i = 0; i < args->n_by_name; i++) {
        int at = param_at(f->params, &args->by_name[i].key);
        if (at < 0 || c->arg[at].kind != PG_V_ABSENT)
            return pg_jinja_fail(r, "%s cannot have the argument '%s'", f->name,
                                 pg_quote(args->by_name[i].key.s, args->by_name[i].key.n).s);
        c->arg[at] = args->by_name[i].value;
    }
    for (int i = 0; i < f->n_needed; i++)
        if (c->arg[i].kind == PG_V_ABSENT)
            return pg_jinja_fail(r, "%s has too few arguments, wanted %d", f->name, f->n_needed);
    return 0;
}

int pg_jinja_apply(struct pg_jinja_run *r, const struct pg_jinja_function *f,
                   const struct pg_value *self, const struct pg_jinja_args *args,
                   struct pg_value *out)
{
    struct pg_jinja_call c = {.run = r, .self = *self, .all = args, .out = out};
    if (strcmp(f->params, "*") != 0)
        PG_TRY(bind_args(&c, f));
    return f->call(&c);
}

int pg_jinja_int_arg(struct pg_jinja_call *c, int i, int64_t none, int64_t *out)
{
    *out = none;
    if (c->arg[i].kind == PG_V_ABSENT || c->arg[i].kind == PG_V_NONE)
        return 0;
    PG_TRY(pg_value_need(c->run, &c->arg[i], PG_V_INT, "an argument"));
    *out = c->arg[i].integer;
    return 0;
}

int pg_jinja_invoke(struct pg_jinja_run *r, const struct pg_value *f,
                    const struct pg_jinja_args *args, struct pg_value *out)
{
    static const struct pg_value none;
    switch ((enum pg_value_kind)f->kind) {
    case PG_V_FUNCTION:
        return pg_jinja_apply(r, f->function, &none, args, out);
    case PG_V_METHOD:
        return pg_jinja_apply(r, f->method->function, &f->method->self, args, out);
    case PG_V_MACRO:
        return pg_jinja_call_macro(r, f->macro, args, out);
    case PG_V_UNDEFINED:
        return pg_jinja_fail(r, "'%s' is called and is undefined", pg_quote(f->s, f->n).s);
    default:
        return pg_jinja_fail(r, "%s is called, wanted a function", pg_value_type(f));
    }
}

/* ---- methods ---- */

static int dict_get(struct pg_jinja_call *c)
{
    int rc;
    const struct pg_value *v = pg_dict_get(c->run, c->self.dict, &c->arg[0], &rc);
    if (v)
        *c->out = *v;
    else if (c->arg[1].kind != PG_V_ABSENT)
        *c->out = c->arg[1];
    else
        *c->out = (struct pg_value){.kind = PG_V_NONE};
    return rc;
}

static int dict_keys(struct pg_jinja_call *c)
{
    return pg_value_items(c->run, &c->self, c->out);
}

static int dict_values(struct pg_jinja_call *c)
{
    const struct pg_dict *d = c->self.dict;
    struct pg_value *item;
    PG_TRY(pg_value_list(c->run, d->n, &item, c->out));
    for (uint32_t i = 0; i < d->n; i++)
        item[i] = d->pair[i].value;
    return 0;
}

static int dict_items(struct pg_jinja_call *c)
{
    const struct pg_dict *d = c->self.dict;
    struct pg_value *item;
    PG_TRY(pg_value_list(c->run, d->n, &item, c->out));
    for (uint32_t i = 0; i < d->n; i++) {
        struct pg_value *pair;
        PG_TRY(pg_value_list(c->run, 2, &pair, &item[i]));
        item[i].kind = PG_V_TUPLE;
        pair[0] = d->pair[i].key;
        pair[1] = d->pair[i].value;
    }
    return 0;
}

static int same_again(struct pg_jinja_call *c)
{
    *c->out = c->self;
    return 0;
}

static int list_index(struct pg_jinja_call *c)
{
    for (uint32_t i = 0; i < c->self.n; i++) {
        bool same;
        PG_TRY(pg_value_equal(c->run, (struct pg_value[]){c->self.item[i], c->arg[0]}, &same));
        if (same) {
            *c->out = pg_value_int(i);
            return 0;
        }
    }
    return pg_jinja_fail(c->run, "index() of a value that is not in the list");
}

static int list_count(struct pg_jinja_call *c)
{
    int64_t n = 0;
    for (uint32_t i = 0; i < c->self.n; i++) {
        bool same;
        PG_TRY(pg_value_equal(c->run, (struct pg_value[]){c->self.item[i], c->arg[0]}, &same));
        n += same;
    }
    *c->out = pg_value_int(n);
    return 0;
}

static int loop_cycle(struct pg_jinja_call *c)
{
    if (!c->all->n)
        return pg_jinja_fail(c->run, "loop.cycle() has no arguments, wanted one at least");
    *c->out = c->all->v[c->self.loop->i % c->all->n];
    return 0;
}

static const struct pg_jinja_function *find(const struct pg_jinja_function *list, size_t n,
                                            const struct pg_value *name)
{
    for (size_t i = 0; i < n; i++)
        if (pg_value_is(name, list[i].name))
            return &list[i];
    return NULL;
}

static const struct pg_jinja_function *find_method(const struct pg_value *v,
                                                   const struct pg_value *name)
{
    static const struct pg_jinja_function of_dict[] = {{"get", "key default", 1, dict_get},
                                                       {"keys", "", 0, dict_keys},
                                                       {"values", "", 0, dict_values},
                                                       {"items", "", 0, dict_items},
                                                       {"copy", "", 0, same_again}};
    static const struct pg_jinja_function of_list[] = {{"index", "value", 1, list_index},
                                                       {"count", "value", 1, list_count},
                                                       {"copy", "", 0, same_again}};
    static const struct pg_jinja_function of_loop[] = {{"cycle", "*", 0, loop_cycle}};
    switch ((enum pg_value_kind)v->kind) {
    case PG_V_DICT:
        return find(of_dict, PG_COUNT(of_dict), name);
    case PG_V_LIST:
    case PG_V_TUPLE:
        return find(of_list, PG_COUNT(of_list), name);
    case PG_V_LOOP:
        return find(of_loop, PG_COUNT(of_loop), name);
    case PG_V_STR:
        return pg_jinja_str_method((struct pg_str){name->s, name->n});
    default:
        return NULL;
    }
}

/* ---- attributes and items ---- */

static struct pg_value loop_attr(const struct pg_jinja_loop *l, const struct pg_value *name)
{
    const struct {
        const char *name;
        struct pg_value v;
    } attrs[] = {{"index", pg_value_int((int64_t)l->i + 1)},
                 {"index0", pg_value_int(l->i)},
                 {"revindex", pg_value_int((int64_t)l->n - l->i)},
                 {"revindex0", pg_value_int((int64_t)l->n - l->i - 1)},
                 {"first", pg_value_bool(l->i == 0)},
                 {"last", pg_value_bool(l->i + 1 == l->n)},
                 {"length", pg_value_int(l->n)},
                 {"depth", pg_value_int(1)},
                 {"depth0", pg_value_int(0)}};
    for (size_t i = 0; i < PG_COUNT(attrs); i++)
        if (pg_value_is(name, attrs[i].name))
            return attrs[i].v;
    if (pg_value_is(name, "previtem") && l->i > 0)
        return l->item[l->i - 1];
    if (pg_value_is(name, "nextitem") && l->i + 1 < l->n)
        return l->item[l->i + 1];
    return pg_value_undefined(name);
}

static int undefined_used(struct pg_jinja_run *r, const struct pg_value *v,
                          const struct pg_value *name)
{
    return pg_jinja_fail(r, "'%s' is undefined, its '%s' is wanted", pg_quote(v->s, v->n).s,
                         pg_quote(name->s, name->n).s);
}

/* v.name, or what v has of that name if it is no item: a method, or nothing. */
static int method_of(struct pg_jinja_run *r, const struct pg_value *v, const struct pg_value *name,
                     struct pg_value *out)
{
    const struct pg_jinja_function *f = find_method(v, name);
    struct pg_jinja_method *m;
    if (!f) {
        *out = v->kind == PG_V_LOOP ? loop_attr(v->loop, name) : pg_value_undefined(name);
        return 0;
    }
    m = pg_jinja_take(&r->pile, sizeof(*m));
    if (!m)
        return pg_jinja_full(r);
    *m = (struct pg_jinja_method){f, *v};
    *out = (struct pg_value){.kind = PG_V_METHOD, .method = m};
    return 0;
}

/* As Jinja does it: methods first, then items. */
int pg_jinja_attr(struct pg_jinja_run *r, const struct pg_value *v, const struct pg_value *name,
                  struct pg_value *out)
{
    const struct pg_value *item = NULL;
    struct pg_value from = *v;
    int rc = 0;
    if (from.kind == PG_V_UNDEFINED)
        return undefined_used(r, &from, name);
    PG_TRY(method_of(r, &from, name, out));
    if (out->kind == PG_V_UNDEFINED && (from.kind == PG_V_DICT || from.kind == PG_V_SPACE))
        item = pg_dict_get(r, from.dict, name, &rc);
    if (item)
        *out = *item;
    return rc;
}

static int item_at(const struct pg_value *v, int64_t i, struct pg_value *out)
{
    int64_t n = v->kind == PG_V_STR ? (int64_t)pg_str_chars(v) : v->n;
    struct pg_value from = *v;
    i += i < 0 ? n : 0;
    if (i < 0 || i >= n)
        return -1;
    if (from.kind != PG_V_STR) {
        *out = from.item[i];
        return 0;
    }
    size_t begin = pg_str_at(&from, (size_t)i);
    struct pg_value rest = pg_value_part(&from, begin, from.n - begin);
    *out = pg_value_part(&rest, 0, pg_str_at(&rest, 1));
    return 0;
}

/* As Jinja does it: items first, then methods. */
int pg_jinja_item(struct pg_jinja_run *r, const struct pg_value *v, const struct pg_value *key,
                  struct pg_value *out)
{
    const struct pg_value *item = NULL;
    struct pg_value from = *v, name = *key;
    bool number = name.kind == PG_V_INT || name.kind == PG_V_BOOL;
    int rc = 0;
    if (from.kind == PG_V_UNDEFINED)
        return undefined_used(r, &from, name.kind == PG_V_STR ? &name : &from);
    if (from.kind == PG_V_DICT && !pg_is_list(&name) && name.kind != PG_V_DICT)
        item = pg_dict_get(r, from.dict, &name, &rc);
    if (item)
        *out = *item;
    if (item || rc)
        return rc;
    if (name.kind == PG_V_STR)
        return method_of(r, &from, &name, out);
    if (number && (from.kind == PG_V_STR || pg_is_list(&from))) {
        int64_t i = name.kind == PG_V_BOOL ? name.truth : name.integer;
        PG_TRY(pg_jinja_scan(r, from.kind == PG_V_STR ? from.n : 0));
        if (!item_at(&from, i, out))
            return 0;
    }
    *out = pg_value_undefined(&name);
    return 0;
}

/* ---- functions of every template ---- */

static int call_range(struct pg_jinja_call *c)
{
    struct pg_value *item;
    int64_t v[3] = {0, 0, 1}, n;
    int n_args = (int)c->all->n;
    for (int i = 0; i < n_args; i++) {
        PG_TRY(pg_value_need(c->run, &c->arg[i], PG_V_INT, "range()"));
        v[n_args == 1 ? 1 : i] = c->arg[i].integer;
    }
    if (!v[2] || v[2] == INT64_MIN)
        return pg_jinja_fail(c->run, "range() has steps of %lld", (long long)v[2]);
    bool over =
        v[2] > 0 ? __builtin_sub_overflow(v[1], v[0], &n) : __builtin_sub_overflow(v[0], v[1], &n);
    int64_t step = v[2] > 0 ? v[2] : -v[2];
    n = over ? INT64_MAX : n <= 0 ? 0 : (n - 1) / step + 1;
    if (n > PG_JINJA_RANGE)
        return pg_jinja_fail(c->run, "range() of %lld numbers, wanted %d at most", (long long)n,
                             PG_JINJA_RANGE);
    PG_TRY(pg_value_list(c->run, (size_t)n, &item, c->out));
    for (int64_t i = 0; i < n; i++)
        item[i] = pg_value_int(v[0] + i * v[2]);
    return 0;
}

/* dict() and namespace(): of a dict, and of named arguments. */
static int make_dict(struct pg_jinja_call *c, enum pg_value_kind kind)
{
    const struct pg_jinja_args *args = c->all;
    const struct pg_dict *from = args->n ? args->v[0].dict : NULL;
    if (args->n > 1 || (args->n && args->v[0].kind != PG_V_DICT))
        return pg_jinja_fail(c->run, "dict() and namespace() have other arguments than a dict");
    PG_TRY(pg_dict_open(c->run, args->n_by_name + (from ? from->n : 0u) + 4, kind, c->out));
    for (uint32_t i = 0; from && i < from->n; i++)
        PG_TRY(pg_dict_set(c->run, c->out->dict, &from->pair[i].key, &from->pair[i].value));
    for (uint32_t i = 0; i < args->n_by_name; i++)
        PG_TRY(pg_dict_set(c->run, c->out->dict, &args->by_name[i].key, &args->by_name[i].value));
    return 0;
}

static int call_dict(struct pg_jinja_call *c)
{
    return make_dict(c, PG_V_DICT);
}

static int call_namespace(struct pg_jinja_call *c)
{
    return make_dict(c, PG_V_SPACE);
}

/* Control characters would disturb whoever prints the sentence. */
static int call_raise(struct pg_jinja_call *c)
{
    struct pg_jinja_run *r = c->run;
    struct pg_value s;
    PG_TRY(pg_value_text(r, &c->arg[0], &s));
    size_t n = PG_MIN((size_t)s.n, sizeof(r->what) - 1);
    while (n < s.n && n && ((unsigned char)s.s[n] & 0xC0) == 0x80)
        n--;
    pg_jinja_fail(r, "%.*s", (int)n, s.s);
    for (char *p = r->what; *p; p++)
        *p = (unsigned char)*p < 0x20 || *p == 0x7F ? ' ' : *p;
    return r->rc = PG_EARG;
}

/* In UTC: what the machine's zone is, is not the library's to ask. */
static int call_strftime(struct pg_jinja_call *c)
{
    char format[128], text[256];
    time_t now = (time_t)c->run->now;
    struct tm tm;
    PG_TRY(pg_value_need(c->run, &c->arg[0], PG_V_STR, "strftime_now()"));
    if (c->arg[0].n >= sizeof(format) || memchr(c->arg[0].s, 0, c->arg[0].n))
        return pg_jinja_fail(c->run, "strftime_now() has a format of %u bytes, wanted %zu at most",
                             c->arg[0].n, sizeof(format) - 1);
    memcpy(format, c->arg[0].s, c->arg[0].n);
    format[c->arg[0].n] = '\0';
    if (!gmtime_r(&now, &tm))
        return pg_jinja_fail(c->run, "strftime_now(): the date has no year");
    struct pg_buf b = {.run = c->run};
    pg_buf_put(&b, text, strftime(text, sizeof(text), format, &tm), c->arg[0].content);
    return pg_buf_end(&b, c->out);
}

const struct pg_jinja_function *pg_jinja_global(int i)
{
    static const struct pg_jinja_function functions[] = {
        {"range", "start stop step", 1, call_range},
        {"dict", "*", 0, call_dict},
        {"namespace", "*", 0, call_namespace},
        {"raise_exception", "message", 1, call_raise},
        {"strftime_now", "format", 1, call_strftime}};
    return i < (int)PG_COUNT(functions) ? &functions[i] : NULL;
}
