/* SPDX-License-Identifier: MIT
 * Tokens to trees of expressions. From loosest to tightest: if-else, or, and, not, comparisons,
 * + and -, ~, * / // %, **, signs, and what follows a value: attributes, calls, filters, tests.
 */
#include "text/jinja_impl.h"
#include "text/utf8.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- tokens ---- */

static const struct pg_jinja_token *peek(const struct pg_jinja_parser *p)
{
    return &p->token[p->at];
}

static bool token_is(const struct pg_jinja_parser *p, const struct pg_jinja_token *t,
                     const char *name)
{
    return t->kind == PG_T_NAME && t->n == strlen(name) &&
           !memcmp(p->t->source + t->at, name, t->n);
}

bool pg_jinja_at(const struct pg_jinja_parser *p, const char *name)
{
    return token_is(p, peek(p), name);
}

bool pg_jinja_at_op(const struct pg_jinja_parser *p, int op)
{
    return peek(p)->kind == PG_T_OP && peek(p)->op == op;
}

bool pg_jinja_eat(struct pg_jinja_parser *p, const char *name)
{
    bool found = pg_jinja_at(p, name);
    p->at += found;
    return found;
}

bool pg_jinja_eat_op(struct pg_jinja_parser *p, int op)
{
    bool found = pg_jinja_at_op(p, op);
    p->at += found;
    return found;
}

int pg_jinja_unexpected(struct pg_jinja_parser *p, const char *wanted)
{
    const struct pg_jinja_token *t = peek(p);
    const char *s = p->t->source + t->at;
    switch (t->kind) {
    case PG_T_END:
        return pg_jinja_wrong(p->t, p->err, t->at, "the template ends, %s is wanted", wanted);
    case PG_T_BLOCK_END:
    case PG_T_PRINT_END:
        return pg_jinja_wrong(p->t, p->err, t->at, "the tag ends, %s is wanted", wanted);
    case PG_T_TEXT:
        return pg_jinja_wrong(p->t, p->err, t->at, "text is found, %s is wanted", wanted);
    default:
        return pg_jinja_wrong(p->t, p->err, t->at, "'%s' is found, %s is wanted",
                              pg_quote(s, t->n).s, wanted);
    }
}

int pg_jinja_want(struct pg_jinja_parser *p, enum pg_token_kind kind, const char *what)
{
    if (peek(p)->kind != kind)
        return pg_jinja_unexpected(p, what);
    p->at++;
    return 0;
}

int pg_jinja_want_op(struct pg_jinja_parser *p, int op)
{
    const char what[] = {'\'', (char)op, '\'', '\0'};
    return pg_jinja_eat_op(p, op) ? 0 : pg_jinja_unexpected(p, what);
}

/* ---- nodes ---- */

int pg_jinja_node(struct pg_jinja_parser *p, enum pg_node_kind kind, struct pg_node **out)
{
    struct pg_node *n = *out = pg_jinja_take(&p->t->pile, sizeof(*n));
    if (!n)
        return pg_fail(p->err, PG_ENOMEM, "out of memory for a template of %zu bytes", p->t->n);
    *n = (struct pg_node){.kind = (uint8_t)kind, .at = peek(p)->at, .op = -1};
    return 0;
}

int pg_jinja_deepen(struct pg_jinja_parser *p, struct pg_node *n)
{
    for (size_t i = 0; i < PG_COUNT(n->kid); i++)
        for (const struct pg_node *k = n->kid[i]; k; k = k->next)
            n->depth = PG_MAX(n->depth, k->depth + 1);
    if (n->depth > PG_JINJA_PARSE_DEPTH)
        return pg_jinja_wrong(p->t, p->err, n->at, "what begins here is nested deeper than %d",
                              PG_JINJA_PARSE_DEPTH);
    return 0;
}

struct pg_value pg_jinja_name_of(const struct pg_jinja_parser *p, const struct pg_jinja_token *t)
{
    struct pg_value v = {.kind = PG_V_STR, .n = t->n};
    v.s = p->t->source + t->at;
    return v;
}

int pg_jinja_symbol(struct pg_jinja_parser *p, const struct pg_jinja_token *t, int *symbol)
{
    struct pg_str name = {p->t->source + t->at, t->n};
    p->varargs += token_is(p, t, "varargs");
    p->kwargs += token_is(p, t, "kwargs");
    p->caller += token_is(p, t, "caller");
    for (*symbol = 0; *symbol < p->t->n_names; ++*symbol) {
        const struct pg_str *known = &p->t->name[*symbol];
        if (known->n == name.n && !memcmp(known->s, name.s, name.n))
            return 0;
    }
    if (*symbol == PG_JINJA_NAMES)
        return pg_jinja_wrong(p->t, p->err, t->at, "more than %d different names", PG_JINJA_NAMES);
    char *copy = pg_jinja_take(&p->t->pile, name.n + 1);
    if (!copy)
        return pg_fail(p->err, PG_ENOMEM, "out of memory for a template of %zu bytes", p->t->n);
    memcpy(copy, name.s, name.n);
    copy[name.n] = '\0';
    p->t->name[p->t->n_names++] = (struct pg_str){copy, name.n};
    return 0;
}

/* A node over what has been parsed, which becomes its first kid. */
static int wrap(struct pg_jinja_parser *p, enum pg_node_kind kind, struct pg_node **n)
{
    struct pg_node *outer;
    PG_TRY(pg_jinja_node(p, kind, &outer));
    outer->kid[0] = *n;
    *n = outer;
    return 0;
}

/* ---- constants ---- */

/* The number of up to n digits at s; how many there were. */
static size_t read_digits(const char *s, size_t n, int base, uint32_t *out)
{
    size_t i = 0;
    *out = 0;
    for (; i < n; i++) {
        char c = s[i];
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : base;
        if (digit >= base)
            break;
        *out = *out * (uint32_t)base + (uint32_t)digit;
    }
    return i;
}

/* An escape at s[0..n), behind its backslash: writes what it means, *used bytes were read. False:
 * it is none that Python knows. */
static bool unescape(const char *s, size_t n, char *out, int *n_out, size_t *used)
{
    static const char names[] = "abfnrtv\\'\"", meant[] = "\a\b\f\n\r\t\v\\'\"";
    const char *known = memchr(names, s[0], sizeof(names) - 1);
    size_t digits = s[0] == 'x' ? 2 : s[0] == 'u' ? 4 : s[0] == 'U' ? 8 : 0;
    uint32_t cp;

    *used = 1;
    *n_out = 0;
    if (s[0] == '\n')
        return true;
    if (known) {
        out[(*n_out)++] = meant[known - names];
        return true;
    }
    if (digits && n > digits && read_digits(s + 1, digits, 16, &cp) == digits)
        *used += digits;
    else if (s[0] >= '0' && s[0] <= '7')
        *used = read_digits(s, PG_MIN(n, 3u), 8, &cp);
    else
        return false;
    if (cp > 0x10FFFF || (cp >= 0xD800 && cp < 0xE000))
        return false;
    *n_out = pg_utf8_encode(cp, out);
    return true;
}

/* Appends the text of a string token to `to`, which has room; returns its length. */
static size_t read_string(const struct pg_jinja_parser *p, const struct pg_jinja_token *t, char *to)
{
    const char *s = p->t->source + t->at;
    size_t n = 0;
    for (size_t i = 0; i < t->n;) {
        size_t used = 0;
        int len = 0;
        if (s[i] == '\\' && i + 1 < t->n &&
            unescape(s + i + 1, t->n - i - 1, to + n, &len, &used)) {
            n += (size_t)len;
            i += 1 + used;
        } else {
            to[n++] = s[i++];
        }
    }
    return n;
}

/* Neighbouring strings are one. */
static int parse_strings(struct pg_jinja_parser *p, struct pg_node *n)
{
    size_t room = 0, end = p->at;
    for (; p->token[end].kind == PG_T_STR; end++)
        room += p->token[end].n;
    char *s = pg_jinja_take(&p->t->pile, room);
    if (!s)
        return pg_fail(p->err, PG_ENOMEM, "out of memory for a template of %zu bytes", p->t->n);
    n->value.kind = PG_V_STR;
    n->value.s = s;
    for (; p->at < end; p->at++)
        n->value.n += (uint32_t)read_string(p, peek(p), s + n->value.n);
    return 0;
}

static int parse_number(struct pg_jinja_parser *p, struct pg_node *n)
{
    const struct pg_jinja_token *t = peek(p);
    struct pg_value text = pg_jinja_name_of(p, t);
    int64_t i;
    double x;
    if (t->kind == PG_T_INT && pg_str_to_int(&text, 10, &i))
        n->value = pg_value_int(i);
    else if (t->kind == PG_T_FLOAT && pg_str_to_float(&text, &x))
        n->value = pg_value_float(x);
    else
        return pg_jinja_wrong(p->t, p->err, t->at, "the number '%s' is too large",
                              pg_quote(text.s, text.n).s);
    p->at++;
    return 0;
}

/* True, none, or a variable. */
static int parse_name(struct pg_jinja_parser *p, struct pg_node *n)
{
    bool yes = pg_jinja_at(p, "true") || pg_jinja_at(p, "True");
    bool no = pg_jinja_at(p, "false") || pg_jinja_at(p, "False");
    if (yes || no) {
        n->value = pg_value_bool(yes);
    } else if (pg_jinja_at(p, "none") || pg_jinja_at(p, "None")) {
        n->value.kind = PG_V_NONE;
    } else {
        n->kind = PG_N_NAME;
        PG_TRY(pg_jinja_symbol(p, peek(p), &n->op));
    }
    p->at++;
    return 0;
}

/* ---- values ---- */

/* Expressions with commas between, to the closing bracket. */
static int parse_list(struct pg_jinja_parser *p, struct pg_node *n)
{
    struct pg_node **tail = &n->kid[0];
    while (!pg_jinja_at_op(p, ']')) {
        PG_TRY(pg_jinja_expr(p, true, tail));
        tail = &(*tail)->next;
        if (!pg_jinja_eat_op(p, ','))
            break;
    }
    PG_TRY(pg_jinja_want_op(p, ']'));
    return pg_jinja_deepen(p, n);
}

static int parse_dict(struct pg_jinja_parser *p, struct pg_node *n)
{
    struct pg_node **tail = &n->kid[0];
    while (!pg_jinja_at_op(p, '}')) {
        PG_TRY(pg_jinja_node(p, PG_N_PAIR, tail));
        PG_TRY(pg_jinja_expr(p, true, &(*tail)->kid[0]));
        PG_TRY(pg_jinja_want_op(p, ':'));
        PG_TRY(pg_jinja_expr(p, true, &(*tail)->kid[1]));
        PG_TRY(pg_jinja_deepen(p, *tail));
        tail = &(*tail)->next;
        if (!pg_jinja_eat_op(p, ','))
            break;
    }
    PG_TRY(pg_jinja_want_op(p, '}'));
    return pg_jinja_deepen(p, n);
}

static int parse_parentheses(struct pg_jinja_parser *p, struct pg_node **out)
{
    if (pg_jinja_eat_op(p, ')'))
        return pg_jinja_node(p, PG_N_TUPLE, out);
    PG_TRY(pg_jinja_exprs(p, true, out));
    return pg_jinja_want_op(p, ')');
}

static int parse_primary(struct pg_jinja_parser *p, struct pg_node **out)
{
    if (pg_jinja_eat_op(p, '('))
        return parse_parentheses(p, out);
    PG_TRY(pg_jinja_node(p, PG_N_CONST, out));
    if (pg_jinja_eat_op(p, '[')) {
        (*out)->kind = PG_N_LIST;
        return parse_list(p, *out);
    }
    if (pg_jinja_eat_op(p, '{')) {
        (*out)->kind = PG_N_DICT;
        return parse_dict(p, *out);
    }
    switch (peek(p)->kind) {
    case PG_T_NAME:
        return parse_name(p, *out);
    case PG_T_STR:
        return parse_strings(p, *out);
    case PG_T_INT:
    case PG_T_FLOAT:
        return parse_number(p, *out);
    default:
        return pg_jinja_unexpected(p, "a value");
    }
}

/* ---- what follows a value ---- */

/* Behind "(" of a call. */
static int parse_args(struct pg_jinja_parser *p, struct pg_node **tail)
{
    bool named = false;
    while (!pg_jinja_at_op(p, ')')) {
        const struct pg_jinja_token *t = peek(p);
        if (t->kind == PG_T_NAME && t[1].kind == PG_T_OP && t[1].op == '=') {
            PG_TRY(pg_jinja_node(p, PG_N_KEYWORD, tail));
            (*tail)->value = pg_jinja_name_of(p, t);
            p->at += 2;
            named = true;
            PG_TRY(pg_jinja_expr(p, true, &(*tail)->kid[0]));
            PG_TRY(pg_jinja_deepen(p, *tail));
        } else if (named) {
            return pg_jinja_unexpected(p, "an argument with a name");
        } else {
            PG_TRY(pg_jinja_expr(p, true, tail));
        }
        tail = &(*tail)->next;
        if (!pg_jinja_eat_op(p, ','))
            break;
    }
    return pg_jinja_want_op(p, ')');
}

static int parse_call(struct pg_jinja_parser *p, struct pg_node **n)
{
    PG_TRY(wrap(p, PG_N_CALL, n));
    p->at++;
    PG_TRY(parse_args(p, &(*n)->kid[1]));
    return pg_jinja_deepen(p, *n);
}

/* Behind ".": a name, or a number as a place in a list. */
static int parse_attr(struct pg_jinja_parser *p, struct pg_node **n)
{
    const struct pg_jinja_token *t = peek(p);
    PG_TRY(wrap(p, t->kind == PG_T_INT ? PG_N_ITEM : PG_N_ATTR, n));
    if (t->kind == PG_T_INT) {
        PG_TRY(pg_jinja_node(p, PG_N_CONST, &(*n)->kid[1]));
        PG_TRY(parse_number(p, (*n)->kid[1]));
    } else {
        (*n)->value = pg_jinja_name_of(p, t);
        PG_TRY(pg_jinja_want(p, PG_T_NAME, "a name"));
    }
    return pg_jinja_deepen(p, *n);
}

/* Behind "[": an expression, or up to three with colons between. */
static int parse_item(struct pg_jinja_parser *p, struct pg_node **n)
{
    int part = 1;
    PG_TRY(wrap(p, PG_N_ITEM, n));
    if (pg_jinja_at_op(p, ']'))
        return pg_jinja_unexpected(p, "a value");
    for (;;) {
        if (!pg_jinja_at_op(p, ':') && !pg_jinja_at_op(p, ']'))
            PG_TRY(pg_jinja_expr(p, true, &(*n)->kid[part]));
        if (part == 3 || !pg_jinja_eat_op(p, ':'))
            break;
        (*n)->kind = PG_N_SLICE;
        part++;
    }
    PG_TRY(pg_jinja_want_op(p, ']'));
    return pg_jinja_deepen(p, *n);
}

static int parse_filter(struct pg_jinja_parser *p, struct pg_node **n)
{
    const struct pg_jinja_token *t = peek(p);
    PG_TRY(wrap(p, PG_N_FILTER, n));
    (*n)->value = pg_jinja_name_of(p, t);
    PG_TRY(pg_jinja_want(p, PG_T_NAME, "the name of a filter"));
    (*n)->op = pg_jinja_find_filter((struct pg_str){(*n)->value.s, (*n)->value.n});
    if (pg_jinja_eat_op(p, '('))
        PG_TRY(parse_args(p, &(*n)->kid[1]));
    return pg_jinja_deepen(p, *n);
}

/* Whether what is next can be a test's argument without parentheses. */
static bool at_argument(const struct pg_jinja_parser *p)
{
    const struct pg_jinja_token *t = peek(p);
    bool value = t->kind == PG_T_NAME || t->kind == PG_T_STR || t->kind == PG_T_INT ||
                 t->kind == PG_T_FLOAT || pg_jinja_at_op(p, '(') || pg_jinja_at_op(p, '[') ||
                 pg_jinja_at_op(p, '{');
    return value && !pg_jinja_at(p, "else") && !pg_jinja_at(p, "or") && !pg_jinja_at(p, "and");
}

/* Behind "is". */
static int parse_test(struct pg_jinja_parser *p, struct pg_node **n)
{
    bool negate = pg_jinja_eat(p, "not");
    const struct pg_jinja_token *t = peek(p);
    PG_TRY(wrap(p, PG_N_TEST, n));
    (*n)->negate = negate;
    (*n)->value = pg_jinja_name_of(p, t);
    PG_TRY(pg_jinja_want(p, PG_T_NAME, "the name of a test"));
    (*n)->op = pg_jinja_find_test((struct pg_str){(*n)->value.s, (*n)->value.n});
    if (pg_jinja_eat_op(p, '(')) {
        PG_TRY(parse_args(p, &(*n)->kid[1]));
    } else if (pg_jinja_at(p, "is")) {
        return pg_jinja_unexpected(p, "one test only");
    } else if (at_argument(p)) {
        PG_TRY(parse_primary(p, &(*n)->kid[1]));
        PG_TRY(pg_jinja_postfix(p, &(*n)->kid[1], false));
    }
    return pg_jinja_deepen(p, *n);
}

int pg_jinja_postfix(struct pg_jinja_parser *p, struct pg_node **n, bool filters)
{
    for (;;)
        if (pg_jinja_at_op(p, '('))
            PG_TRY(parse_call(p, n));
        else if (pg_jinja_eat_op(p, '.'))
            PG_TRY(parse_attr(p, n));
        else if (pg_jinja_eat_op(p, '['))
            PG_TRY(parse_item(p, n));
        else
            break;
    return filters ? pg_jinja_filters(p, n) : 0;
}

int pg_jinja_filters(struct pg_jinja_parser *p, struct pg_node **n)
{
    for (;;)
        if (pg_jinja_eat_op(p, '|'))
            PG_TRY(parse_filter(p, n));
        else if (pg_jinja_eat(p, "is"))
            PG_TRY(parse_test(p, n));
        else if (pg_jinja_at_op(p, '('))
            PG_TRY(parse_call(p, n));
        else
            return 0;
}

/* ---- operators ---- */

static int deeper(struct pg_jinja_parser *p)
{
    if (++p->depth > PG_JINJA_PARSE_DEPTH)
        return pg_jinja_wrong(p->t, p->err, peek(p)->at, "nested deeper than %d",
                              PG_JINJA_PARSE_DEPTH);
    return 0;
}

static int parse_unary(struct pg_jinja_parser *p, bool filters, struct pg_node **out)
{
    bool minus = pg_jinja_at_op(p, '-');
    if (minus || pg_jinja_at_op(p, '+')) {
        PG_TRY(deeper(p));
        PG_TRY(pg_jinja_node(p, minus ? PG_N_MINUS : PG_N_PLUS, out));
        p->at++;
        PG_TRY(parse_unary(p, false, &(*out)->kid[0]));
        PG_TRY(pg_jinja_deepen(p, *out));
        p->depth--;
    } else {
        PG_TRY(parse_primary(p, out));
    }
    return pg_jinja_postfix(p, out, filters);
}

/* Operators of one strength, from the left; `ops` ends with 0. */
struct level {
    int (*tighter)(struct pg_jinja_parser *p, struct pg_node **out);
    int ops[5];
};

static int parse_binary(struct pg_jinja_parser *p, const struct level *l, struct pg_node **out)
{
    PG_TRY(l->tighter(p, out));
    for (;;) {
        int op = 0;
        for (int i = 0; l->ops[i] && !op; i++)
            op = pg_jinja_at_op(p, l->ops[i]) ? l->ops[i] : 0;
        if (!op)
            return 0;
        PG_TRY(wrap(p, PG_N_BINARY, out));
        p->at++;
        (*out)->op = op;
        PG_TRY(l->tighter(p, &(*out)->kid[1]));
        PG_TRY(pg_jinja_deepen(p, *out));
    }
}

static int parse_signed(struct pg_jinja_parser *p, struct pg_node **out)
{
    return parse_unary(p, true, out);
}

static int parse_power(struct pg_jinja_parser *p, struct pg_node **out)
{
    return parse_binary(p, &(struct level){parse_signed, {PG_OP('*', '*')}}, out);
}

static int parse_product(struct pg_jinja_parser *p, struct pg_node **out)
{
    return parse_binary(p, &(struct level){parse_power, {'*', '/', PG_OP('/', '/'), '%'}}, out);
}

static int parse_concat(struct pg_jinja_parser *p, struct pg_node **out)
{
    PG_TRY(parse_product(p, out));
    if (!pg_jinja_at_op(p, '~'))
        return 0;
    PG_TRY(wrap(p, PG_N_CONCAT, out));
    for (struct pg_node *last = (*out)->kid[0]; pg_jinja_eat_op(p, '~'); last = last->next)
        PG_TRY(parse_product(p, &last->next));
    return pg_jinja_deepen(p, *out);
}

static int parse_sum(struct pg_jinja_parser *p, struct pg_node **out)
{
    return parse_binary(p, &(struct level){parse_concat, {'+', '-'}}, out);
}

/* The comparison that is next, and is passed; 0: none. */
static int eat_comparison(struct pg_jinja_parser *p)
{
    static const int ops[] = {PG_OP('=', '='), PG_OP('!', '='), '<', '>',
                              PG_OP('<', '='), PG_OP('>', '=')};
    for (size_t i = 0; i < PG_COUNT(ops); i++)
        if (pg_jinja_eat_op(p, ops[i]))
            return ops[i];
    if (pg_jinja_eat(p, "in"))
        return PG_OP_IN;
    if (!pg_jinja_at(p, "not") || !token_is(p, peek(p) + 1, "in"))
        return 0;
    p->at += 2;
    return PG_OP_NOT_IN;
}

static int parse_compare(struct pg_jinja_parser *p, struct pg_node **out)
{
    PG_TRY(parse_sum(p, out));
    struct pg_node *inner = *out, **tail = NULL;
    for (int op; (op = eat_comparison(p));) {
        if (!tail) {
            PG_TRY(wrap(p, PG_N_COMPARE, &inner));
            tail = &inner->kid[1];
        }
        PG_TRY(pg_jinja_node(p, PG_N_OPERAND, tail));
        (*tail)->op = op;
        PG_TRY(parse_sum(p, &(*tail)->kid[0]));
        PG_TRY(pg_jinja_deepen(p, *tail));
        tail = &(*tail)->next;
    }
    *out = inner;
    return pg_jinja_deepen(p, inner);
}

static int parse_not(struct pg_jinja_parser *p, struct pg_node **out)
{
    if (!pg_jinja_at(p, "not"))
        return parse_compare(p, out);
    PG_TRY(deeper(p));
    PG_TRY(pg_jinja_node(p, PG_N_NOT, out));
    p->at++;
    PG_TRY(parse_not(p, &(*out)->kid[0]));
    p->depth--;
    return pg_jinja_deepen(p, *out);
}

static int parse_and(struct pg_jinja_parser *p, struct pg_node **out)
{
    PG_TRY(parse_not(p, out));
    while (pg_jinja_eat(p, "and")) {
        PG_TRY(wrap(p, PG_N_AND, out));
        PG_TRY(parse_not(p, &(*out)->kid[1]));
        PG_TRY(pg_jinja_deepen(p, *out));
    }
    return 0;
}

static int parse_or(struct pg_jinja_parser *p, struct pg_node **out)
{
    PG_TRY(parse_and(p, out));
    while (pg_jinja_eat(p, "or")) {
        PG_TRY(wrap(p, PG_N_OR, out));
        PG_TRY(parse_and(p, &(*out)->kid[1]));
        PG_TRY(pg_jinja_deepen(p, *out));
    }
    return 0;
}

int pg_jinja_expr(struct pg_jinja_parser *p, bool with_if, struct pg_node **out)
{
    PG_TRY(deeper(p));
    PG_TRY(parse_or(p, out));
    while (with_if && pg_jinja_eat(p, "if")) {
        PG_TRY(wrap(p, PG_N_COND, out));
        PG_TRY(parse_or(p, &(*out)->kid[1]));
        if (pg_jinja_eat(p, "else"))
            PG_TRY(pg_jinja_expr(p, true, &(*out)->kid[2]));
        PG_TRY(pg_jinja_deepen(p, *out));
    }
    p->depth--;
    return 0;
}

static bool at_end(const struct pg_jinja_parser *p)
{
    return peek(p)->kind == PG_T_BLOCK_END || peek(p)->kind == PG_T_PRINT_END ||
           pg_jinja_at_op(p, ')') || pg_jinja_at(p, "in") || pg_jinja_at(p, "recursive");
}

/* What `one` reads, with commas between: the thing itself, or a tuple. */
static int parse_tuple(struct pg_jinja_parser *p,
                       int (*one)(struct pg_jinja_parser *p, struct pg_node **out),
                       struct pg_node **out)
{
    PG_TRY(one(p, out));
    if (!pg_jinja_at_op(p, ','))
        return 0;
    PG_TRY(wrap(p, PG_N_TUPLE, out));
    for (struct pg_node *last = (*out)->kid[0]; pg_jinja_eat_op(p, ',') && !at_end(p);
         last = last->next)
        PG_TRY(one(p, &last->next));
    return pg_jinja_deepen(p, *out);
}

static int parse_with_if(struct pg_jinja_parser *p, struct pg_node **out)
{
    return pg_jinja_expr(p, true, out);
}

static int parse_without_if(struct pg_jinja_parser *p, struct pg_node **out)
{
    return pg_jinja_expr(p, false, out);
}

int pg_jinja_exprs(struct pg_jinja_parser *p, bool with_if, struct pg_node **out)
{
    return parse_tuple(p, with_if ? parse_with_if : parse_without_if, out);
}

/* ---- targets ---- */

static int parse_target(struct pg_jinja_parser *p, struct pg_node **out)
{
    if (pg_jinja_eat_op(p, '(')) {
        PG_TRY(deeper(p));
        PG_TRY(pg_jinja_target(p, false, out));
        p->depth--;
        return pg_jinja_want_op(p, ')');
    }
    PG_TRY(pg_jinja_node(p, PG_N_NAME, out));
    if (peek(p)->kind != PG_T_NAME)
        return pg_jinja_unexpected(p, "a name");
    PG_TRY(pg_jinja_symbol(p, peek(p), &(*out)->op));
    p->at++;
    return 0;
}

int pg_jinja_target(struct pg_jinja_parser *p, bool with_space, struct pg_node **out)
{
    PG_TRY(parse_tuple(p, parse_target, out));
    if (!with_space || (*out)->kind != PG_N_NAME || !pg_jinja_eat_op(p, '.'))
        return 0;
    (*out)->kind = PG_N_SPACE_TARGET;
    (*out)->value = pg_jinja_name_of(p, peek(p));
    return pg_jinja_want(p, PG_T_NAME, "a name");
}
