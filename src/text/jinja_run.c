/* SPDX-License-Identifier: MIT
 * Statements, scopes and macros. Each turn of a loop, each macro and each block that captures has a
 * scope of its own, so that what is set there is not seen outside; "if" has none.
 */
#include "text/jinja_impl.h"
#include "text/utf8.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FLOW_BREAK = 1, FLOW_CONTINUE = 2 }; /* beside 0 and errors, which are negative */

/* ---- errors and bounds ---- */

int pg_jinja_fail(struct pg_jinja_run *r, const char *fmt, ...)
{
    va_list ap;
    if (r->rc)
        return r->rc;
    va_start(ap, fmt);
    vsnprintf(r->what, sizeof(r->what), fmt, ap);
    va_end(ap);
    return r->rc = PG_EFORMAT;
}

int pg_jinja_full(struct pg_jinja_run *r)
{
    if (r->pile.exhausted)
        return pg_jinja_fail(r, "the template needs more than %zu bytes of memory", r->pile.limit);
    pg_jinja_fail(r, "out of memory");
    return r->rc = PG_ENOMEM;
}

int pg_jinja_steps(struct pg_jinja_run *r, uint64_t n)
{
    r->steps += n;
    if (r->steps > r->max_steps)
        return pg_jinja_fail(r, "the template takes more than %llu steps",
                             (unsigned long long)r->max_steps);
    return 0;
}

int pg_jinja_scan(struct pg_jinja_run *r, uint64_t n)
{
    return pg_jinja_steps(r, n / 8);
}

int pg_jinja_locate(struct pg_jinja_run *r, const struct pg_node *n, int rc)
{
    if (rc < 0 && !r->located) {
        r->located = true;
        r->where = n->at;
    }
    return rc;
}

/* ---- scopes ---- */

static struct pg_scope *new_scope(struct pg_jinja_run *r, struct pg_scope *up)
{
    struct pg_scope *s = pg_jinja_take(&r->pile, sizeof(*s));
    if (s)
        *s = (struct pg_scope){.up = up};
    else
        pg_jinja_full(r);
    return s;
}

/* What was bound here is forgotten, unless a macro may still look. */
static void empty_scope(struct pg_jinja_run *r, struct pg_scope *s)
{
    while (!s->kept && s->first) {
        struct pg_binding *b = s->first;
        s->first = b->next;
        b->next = r->spare;
        r->spare = b;
    }
}

static int bind(struct pg_jinja_run *r, struct pg_scope *s, int symbol, const struct pg_value *v)
{
    struct pg_binding *b = s->first;
    while (b && b->symbol != symbol)
        b = b->next;
    if (!b) {
        b = r->spare;
        if (b)
            r->spare = b->next;
        else if (!(b = pg_jinja_take(&r->pile, sizeof(*b))))
            return pg_jinja_full(r);
        b->symbol = symbol;
        b->next = s->first;
        s->first = b;
    }
    b->value = *v;
    return 0;
}

static int bind_name(struct pg_jinja_run *r, const char *name, const struct pg_value *v)
{
    int symbol = pg_jinja_find_symbol(r->t, name);
    return symbol < 0 ? 0 : bind(r, r->scope, symbol, v);
}

static int set_in_space(struct pg_jinja_run *r, const struct pg_node *n, const struct pg_value *v)
{
    struct pg_node name = {.kind = PG_N_NAME, .op = n->op, .at = n->at};
    struct pg_value space;
    PG_TRY(pg_jinja_eval(r, &name, &space));
    if (space.kind != PG_V_SPACE)
        return pg_jinja_fail(r, "an attribute of %s is set, wanted one of a namespace",
                             pg_value_type(&space));
    return pg_dict_set(r, space.dict, &n->value, v);
}

/* A name, an attribute of a namespace, or names for the items of a list. Tuples in tuples are as
 * deep as the parser lets them be. */
static int assign(struct pg_jinja_run *r, const struct pg_node *target, const struct pg_value *v)
{
    struct pg_value list;
    uint32_t i = 0;
    if (target->kind == PG_N_SPACE_TARGET)
        return set_in_space(r, target, v);
    if (target->kind == PG_N_NAME)
        return bind(r, r->scope, target->op, v);
    PG_TRY(pg_value_items(r, v, &list));
    for (const struct pg_node *t = target->kid[0]; t; t = t->next, i++)
        if (i < list.n)
            PG_TRY(assign(r, t, &list.item[i]));
    if (i != list.n)
        return pg_jinja_fail(r, "%u values are unpacked, wanted %u", list.n, i);
    return 0;
}

/* ---- statements ---- */

static int run_list(struct pg_jinja_run *r, const struct pg_node *n);

static int run_print(struct pg_jinja_run *r, const struct pg_node *n)
{
    struct pg_value v;
    PG_TRY(pg_jinja_eval(r, n->kid[0], &v));
    PG_TRY(pg_value_text(r, &v, &v));
    pg_buf_put_str(r->out, &v);
    return r->out->rc;
}

static int run_if(struct pg_jinja_run *r, const struct pg_node *n)
{
    for (const struct pg_node *b = n->kid[0]; b; b = b->next) {
        struct pg_value v = pg_value_bool(true);
        if (b->kid[0])
            PG_TRY(pg_jinja_eval(r, b->kid[0], &v));
        if (pg_value_true(&v))
            return run_list(r, b->kid[1]);
    }
    return 0;
}

/* The items for which the loop's condition holds. */
static int select_items(struct pg_jinja_run *r, const struct pg_node *n, struct pg_value *list)
{
    struct pg_value *kept, out, v;
    uint32_t n_kept = 0;
    PG_TRY(pg_value_list(r, list->n, &kept, &out));
    struct pg_scope *outer = r->scope, *s = new_scope(r, outer);
    if (!s)
        return r->rc;
    r->scope = s;
    int rc = 0;
    for (uint32_t i = 0; i < list->n && !rc; i++) {
        rc = assign(r, n->kid[0], &list->item[i]);
        rc = rc ? rc : pg_jinja_eval(r, n->kid[2], &v);
        if (!rc && pg_value_true(&v))
            kept[n_kept++] = list->item[i];
        empty_scope(r, s);
    }
    r->scope = outer;
    out.n = n_kept;
    *list = out;
    return rc;
}

static int run_turn(struct pg_jinja_run *r, const struct pg_node *n, struct pg_jinja_loop *loop)
{
    struct pg_value v = {.kind = PG_V_LOOP, .loop = loop};
    PG_TRY(bind_name(r, "loop", &v));
    PG_TRY(assign(r, n->kid[0], &loop->item[loop->i]));
    return run_list(r, n->kid[3]);
}

static int run_loop(struct pg_jinja_run *r, const struct pg_node *n, const struct pg_value *list)
{
    struct pg_scope *outer = r->scope;
    struct pg_jinja_loop *loop = pg_jinja_take(&r->pile, sizeof(*loop));
    int rc = loop ? 0 : pg_jinja_full(r);
    if (rc)
        return rc;
    *loop = (struct pg_jinja_loop){.item = list->item, .n = list->n};
    r->scope = NULL;
    for (; loop->i < loop->n && rc >= 0 && rc != FLOW_BREAK; loop->i++) {
        if ((!r->scope || r->scope->kept) && !(r->scope = new_scope(r, outer)))
            rc = r->rc;
        else if (!(rc = pg_jinja_steps(r, 1)))
            rc = run_turn(r, n, loop);
        if (r->scope)
            empty_scope(r, r->scope);
    }
    r->scope = outer;
    return PG_MIN(rc, 0);
}

static int run_in_scope(struct pg_jinja_run *r, const struct pg_node *list)
{
    struct pg_scope *outer = r->scope, *s = new_scope(r, outer);
    if (!s)
        return r->rc;
    r->scope = s;
    int rc = run_list(r, list);
    empty_scope(r, s);
    r->scope = outer;
    return rc;
}

static int run_for(struct pg_jinja_run *r, const struct pg_node *n)
{
    struct pg_value v, list;
    PG_TRY(pg_jinja_eval(r, n->kid[1], &v));
    PG_TRY(pg_value_items(r, &v, &list));
    if (n->kid[2])
        PG_TRY(select_items(r, n, &list));
    return list.n ? run_loop(r, n, &list) : run_in_scope(r, n->kid[4]);
}

/* What the statements print, as a value. */
static int capture(struct pg_jinja_run *r, const struct pg_node *list, struct pg_value *out)
{
    struct pg_buf b = {.run = r}, *outer = r->out;
    r->out = &b;
    int rc = run_in_scope(r, list);
    r->out = outer;
    return rc ? rc : pg_buf_end(&b, out);
}

static int run_capture(struct pg_jinja_run *r, const struct pg_node *n)
{
    struct pg_value v;
    PG_TRY(capture(r, n->kid[2], &r->body));
    PG_TRY(pg_jinja_eval(r, n->kid[1], &v));
    if (n->kid[0])
        return assign(r, n->kid[0], &v);
    PG_TRY(pg_value_text(r, &v, &v));
    pg_buf_put_str(r->out, &v);
    return r->out->rc;
}

static int run_set(struct pg_jinja_run *r, const struct pg_node *n)
{
    struct pg_value v;
    PG_TRY(pg_jinja_eval(r, n->kid[1], &v));
    return assign(r, n->kid[0], &v);
}

/* Values are those of outside, also where a name before them is the same. */
static int run_with(struct pg_jinja_run *r, const struct pg_node *n)
{
    struct pg_scope *outer = r->scope, *inner = new_scope(r, outer);
    struct pg_value v;
    int rc = inner ? 0 : r->rc;
    for (const struct pg_node *s = n->kid[0]; s && !rc; s = s->next) {
        rc = pg_jinja_eval(r, s->kid[1], &v);
        r->scope = inner;
        rc = rc ? rc : assign(r, s->kid[0], &v);
        r->scope = outer;
    }
    if (rc)
        return rc;
    r->scope = inner;
    rc = run_list(r, n->kid[1]);
    r->scope = outer;
    return rc;
}

static int make_macro(struct pg_jinja_run *r, const struct pg_node *n, struct pg_value *out)
{
    struct pg_jinja_macro *m = pg_jinja_take(&r->pile, sizeof(*m));
    if (!m)
        return pg_jinja_full(r);
    *m = (struct pg_jinja_macro){n, r->scope};
    *out = (struct pg_value){.kind = PG_V_MACRO, .macro = m};
    for (struct pg_scope *s = r->scope; s && !s->kept; s = s->up)
        s->kept = true;
    return 0;
}

static int run_macro(struct pg_jinja_run *r, const struct pg_node *n)
{
    struct pg_value v;
    PG_TRY(make_macro(r, n, &v));
    return bind(r, r->scope, n->op, &v);
}

/* The call of a call block, with the block as its argument "caller". */
static int run_calling(struct pg_jinja_run *r, const struct pg_node *n)
{
    struct pg_value v;
    struct pg_node last = {.kind = PG_N_KEYWORD, .at = n->at, .value = n->kid[1]->value};
    struct pg_node made = {.kind = PG_N_CONST, .at = n->at}, call = *n->kid[0];
    struct pg_node copy[16];
    int i = 0;
    PG_TRY(make_macro(r, n->kid[1], &made.value));
    last.kid[0] = &made;
    call.kid[1] = &last;
    for (const struct pg_node *a = n->kid[0]->kid[1]; a; a = a->next, i++) {
        if (i == (int)PG_COUNT(copy))
            return pg_jinja_fail(r, "a call block has more than %d arguments", i);
        copy[i] = *a;
        copy[i].next = a->next ? &copy[i + 1] : &last;
        call.kid[1] = copy;
    }
    PG_TRY(pg_jinja_eval(r, &call, &v));
    PG_TRY(pg_value_text(r, &v, &v));
    pg_buf_put_str(r->out, &v);
    return r->out->rc;
}

static int run_one(struct pg_jinja_run *r, const struct pg_node *n)
{
    switch ((enum pg_node_kind)n->kind) {
    case PG_N_TEXT:
        pg_buf_put_str(r->out, &n->value);
        return r->out->rc;
    case PG_N_PRINT:
        return run_print(r, n);
    case PG_N_IF:
        return run_if(r, n);
    case PG_N_FOR:
        return run_for(r, n);
    case PG_N_SET:
        return run_set(r, n);
    case PG_N_CAPTURE:
        return run_capture(r, n);
    case PG_N_MACRO:
        return run_macro(r, n);
    case PG_N_CALLING:
        return run_calling(r, n);
    case PG_N_WITH:
        return run_with(r, n);
    case PG_N_BREAK:
        return FLOW_BREAK;
    default:
        PG_ASSERT(n->kind == PG_N_CONTINUE);
        return FLOW_CONTINUE;
    }
}

static int run_list(struct pg_jinja_run *r, const struct pg_node *n)
{
    int rc = 0;
    if (++r->depth > PG_JINJA_DEPTH)
        return pg_jinja_fail(r, "the template runs deeper than %d", PG_JINJA_DEPTH);
    for (; n && !rc; n = n->next) {
        rc = pg_jinja_steps(r, 1);
        rc = pg_jinja_locate(r, n, rc ? rc : run_one(r, n));
    }
    r->depth--;
    return rc;
}

/* ---- macros ---- */

static const struct pg_value *named(const struct pg_jinja_args *args, const struct pg_value *name)
{
    for (uint32_t i = 0; i < args->n_by_name; i++) {
        const struct pg_value *key = &args->by_name[i].key;
        if (key->n == name->n && !memcmp(key->s, name->s, name->n))
            return &args->by_name[i].value;
    }
    return NULL;
}

/* Parameters by place, by name, by default; a default may name the parameters before it. */
static int bind_params(struct pg_jinja_run *r, const struct pg_node *macro,
                       const struct pg_jinja_args *args, uint32_t *n_by_name)
{
    uint32_t i = 0;
    for (const struct pg_node *p = macro->kid[0]; p; p = p->next, i++) {
        const struct pg_value *given = named(args, &p->value);
        struct pg_value v = pg_value_undefined(&p->value);
        if (given && i < args->n)
            return pg_jinja_fail(r, "the argument '%.*s' is given twice", (int)p->value.n,
                                 p->value.s);
        *n_by_name += given != NULL;
        if (given || i < args->n)
            v = given ? *given : args->v[i];
        else if (p->kid[0])
            PG_TRY(pg_jinja_eval(r, p->kid[0], &v));
        PG_TRY(bind(r, r->scope, p->op, &v));
    }
    struct pg_value rest = {.kind = PG_V_TUPLE};
    if (args->n > i) {
        rest.item = args->v + i;
        rest.n = args->n - i;
    }
    if (rest.n && !macro->takes_varargs)
        return pg_jinja_fail(r, "the macro '%.*s' is called with %u arguments, wanted %u at most",
                             (int)macro->value.n, macro->value.s, args->n, i);
    return macro->takes_varargs ? bind_name(r, "varargs", &rest) : 0;
}

/* Arguments with names that are no parameters: "caller", or for "kwargs". */
static int bind_rest(struct pg_jinja_run *r, const struct pg_node *macro,
                     const struct pg_jinja_args *args, uint32_t n_used)
{
    static const struct pg_value caller = {.kind = PG_V_STR, .n = 6, .s = "caller"};
    const struct pg_value *calling = named(args, &caller);
    struct pg_value rest;
    if (calling && macro->takes_caller) {
        PG_TRY(bind_name(r, "caller", calling));
        n_used++;
    }
    if (!macro->takes_kwargs) {
        if (n_used < args->n_by_name)
            return pg_jinja_fail(r, "the macro '%.*s' is called with an argument that it has not",
                                 (int)macro->value.n, macro->value.s);
        return 0;
    }
    PG_TRY(pg_dict_open(r, args->n_by_name, PG_V_DICT, &rest));
    for (uint32_t i = 0; i < args->n_by_name; i++) {
        const struct pg_pair *a = &args->by_name[i];
        bool param = pg_value_is(&a->key, "caller");
        for (const struct pg_node *p = macro->kid[0]; p && !param; p = p->next)
            param = p->value.n == a->key.n && !memcmp(p->value.s, a->key.s, a->key.n);
        if (!param)
            PG_TRY(pg_dict_set(r, rest.dict, &a->key, &a->value));
    }
    return bind_name(r, "kwargs", &rest);
}

static int run_macro_body(struct pg_jinja_run *r, const struct pg_node *macro,
                          const struct pg_jinja_args *args)
{
    uint32_t n_used = 0;
    PG_TRY(bind_params(r, macro, args, &n_used));
    PG_TRY(bind_rest(r, macro, args, n_used));
    return run_list(r, macro->kid[1]);
}

int pg_jinja_call_macro(struct pg_jinja_run *r, const struct pg_jinja_macro *m,
                        const struct pg_jinja_args *args, struct pg_value *out)
{
    struct pg_scope *outer = r->scope, *inner = new_scope(r, m->scope);
    struct pg_buf b = {.run = r}, *printing = r->out;
    if (!inner)
        return r->rc;
    if (++r->calls > PG_JINJA_CALLS)
        return pg_jinja_fail(r, "macros call each other deeper than %d", PG_JINJA_CALLS);
    r->scope = inner;
    r->out = &b;
    int rc = run_macro_body(r, m->node, args);
    r->out = printing;
    empty_scope(r, inner);
    r->scope = outer;
    r->calls--;
    return rc ? rc : pg_buf_end(&b, out);
}

/* ---- opening ---- */

int pg_jinja_find_symbol(const struct pg_jinja *t, const char *name)
{
    for (int i = 0; i < t->n_names; i++)
        if (t->name[i].n == strlen(name) && !memcmp(t->name[i].s, name, t->name[i].n))
            return i;
    return -1;
}

/* Copies the source, newlines as \n; one at the end is no text. */
static int copy_source(struct pg_jinja *t, const char *s, size_t n, struct pg_err *err)
{
    t->source = pg_jinja_take(&t->pile, n + 2);
    t->name = pg_jinja_take(&t->pile, PG_JINJA_NAMES * sizeof(*t->name));
    if (!t->source || !t->name)
        return pg_fail(err, PG_ENOMEM, "out of memory for a template of %zu bytes", n);
    for (size_t i = 0; i < n;) {
        int len = pg_utf8_scan(s + i, n - i);
        if (len <= 0 || !s[i])
            return pg_fail(err, PG_EFORMAT, "chat template: byte %zu is no UTF-8 text", i);
        if (s[i] == '\r') {
            i += i + 1 < n && s[i + 1] == '\n';
            t->source[t->n++] = '\n';
        } else {
            memcpy(t->source + t->n, s + i, (size_t)len);
            t->n += (size_t)len;
        }
        i += (size_t)len;
    }
    t->n -= t->n && t->source[t->n - 1] == '\n';
    t->source[t->n] = t->source[t->n + 1] = '\0';
    return 0;
}

int pg_jinja_open(struct pg_jinja **out, const char *source, size_t n, struct pg_err *err)
{
    struct pg_jinja *t = *out = NULL;
    if (n > PG_JINJA_SOURCE)
        return pg_fail(err, PG_EFORMAT, "chat template: %zu bytes found, %d at most wanted", n,
                       PG_JINJA_SOURCE);
    t = calloc(1, sizeof(*t));
    if (!t)
        return pg_fail(err, PG_ENOMEM, "out of memory for a template of %zu bytes", n);
    t->pile.limit = SIZE_MAX / 2;
    struct pg_jinja_parser p = {.t = t, .err = err};
    int rc = copy_source(t, source, n, err);
    rc = rc ? rc : pg_jinja_lex(&p);
    rc = rc ? rc : pg_jinja_parse(&p, &t->body);
    free(p.token);
    if (rc)
        pg_jinja_close(t);
    else
        *out = t;
    return rc;
}

void pg_jinja_close(struct pg_jinja *t)
{
    if (t)
        pg_jinja_drop(&t->pile);
    free(t);
}

const char *pg_jinja_source(const struct pg_jinja *t)
{
    return t->source;
}

/* ---- rendering ---- */

/* Some templates write a message's role into their markup, '<|' + role + '|>'. A role that is one
 * of these words says nothing that the template does not say, and is markup. */
static bool is_role(const struct pg_value *v)
{
    static const char *const roles[] = {"system",    "developer", "user",
                                        "assistant", "tool",      "function"};
    for (size_t i = 0; i < PG_COUNT(roles); i++)
        if (pg_value_is(v, roles[i]))
            return true;
    return false;
}

static void mark_roles(const struct pg_value *messages)
{
    for (uint32_t i = 0; messages->kind == PG_V_LIST && i < messages->n; i++) {
        const struct pg_value *m = &messages->item[i];
        for (uint32_t k = 0; m->kind == PG_V_DICT && k < m->dict->n; k++) {
            struct pg_pair *pair = &m->dict->pair[k];
            if (pg_value_is(&pair->key, "role") && is_role(&pair->value))
                pair->value.content = false;
        }
    }
}

static int bind_input(struct pg_jinja_run *r, const struct pg_jinja_input *in)
{
    struct pg_value v;
    const struct pg_jinja_function *f;
    for (int i = 0; (f = pg_jinja_global(i)); i++) {
        v = (struct pg_value){.kind = PG_V_FUNCTION, .function = f};
        PG_TRY(bind_name(r, f->name, &v));
    }
    for (size_t i = 0; i < PG_COUNT(in->markup) && in->markup[i].name; i++) {
        v = (struct pg_value){.kind = PG_V_STR, .n = (uint32_t)in->markup[i].value.n};
        v.s = in->markup[i].value.s;
        PG_TRY(bind_name(r, in->markup[i].name, &v));
    }
    for (int i = 0; i < r->t->n_names; i++) {
        const char *name = r->t->name[i].s;
        const json_t *j = json_object_get(in->vars, name);
        if (!j)
            continue;
        PG_TRY(pg_value_from_json(r, j, &v));
        if (!strcmp(name, "messages"))
            mark_roles(&v);
        PG_TRY(bind(r, r->scope, i, &v));
    }
    return 0;
}

static int copy_out(struct pg_jinja_run *r, const struct pg_buf *b, struct pg_jinja_text *out)
{
    out->text = malloc(b->n + 1);
    out->content = malloc(b->n + 1);
    if (!out->text || !out->content) {
        free(out->text);
        free(out->content);
        *out = (struct pg_jinja_text){0};
        pg_jinja_fail(r, "out of memory");
        return r->rc = PG_ENOMEM;
    }
    if (b->n) {
        memcpy(out->text, b->s, b->n);
        memcpy(out->content, b->mark, b->n);
    }
    out->text[b->n] = '\0';
    out->n = b->n;
    out->said_none = r->said_none;
    out->said_arguments = r->said_arguments;
    return 0;
}

static int render(struct pg_jinja_run *r, const struct pg_jinja_input *in,
                  struct pg_jinja_text *out)
{
    struct pg_buf b = {.run = r};
    r->out = &b;
    r->scope = new_scope(r, NULL);
    if (!r->scope)
        return r->rc;
    PG_TRY(bind_input(r, in));
    PG_TRY(run_list(r, r->t->body));
    PG_TRY(b.rc);
    return copy_out(r, &b, out);
}

int pg_jinja_render(const struct pg_jinja *t, const struct pg_jinja_input *in,
                    struct pg_jinja_text *out, struct pg_err *err)
{
    uint64_t memory = PG_JINJA_MEMORY + (uint64_t)in->n_bytes * PG_JINJA_MEMORY_BYTE;
    struct pg_jinja_run r = {.t = t, .now = in->now};
    r.max_steps = PG_JINJA_STEPS + (uint64_t)in->n_bytes * PG_JINJA_STEPS_BYTE;
    r.pile.limit = PG_MIN(memory, PG_JINJA_MEMORY_LIMIT);
    *out = (struct pg_jinja_text){0};
    int rc = render(&r, in, out);
    pg_jinja_drop(&r.pile);
    if (rc == PG_EFORMAT)
        return pg_jinja_wrong(t, err, r.where, "%s", r.what);
    return rc ? pg_fail(err, rc, "%s", r.what) : 0;
}
