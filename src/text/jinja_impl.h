/* SPDX-License-Identifier: MIT
 * The inside of the template interpreter, shared by the jinja_*.c files and by nobody else.
 *
 *   jinja_lex.c     source -> tokens, and the rules of white space
 *   jinja_expr.c    tokens -> trees of expressions
 *   jinja_parse.c   tokens -> trees of statements
 *   jinja_run.c     statements, scopes, macros; opens, renders
 *   jinja_eval.c    expressions
 *   jinja_ops.c     operators
 *   jinja_call.c    arguments, attributes, functions
 *   jinja_filter.c  filters;  jinja_test.c  tests;  jinja_str.c  what is done to texts
 *   jinja_value.c   values: truth, equality, order;  jinja_print.c  values -> text
 *   jinja_buf.c     memory, and texts that grow
 *
 * Values are Python's, and are never changed once made, but for namespaces. All memory of a
 * rendering is one bounded pile, which goes when the rendering ends.
 */
#ifndef PG_TEXT_JINJA_IMPL_H
#define PG_TEXT_JINJA_IMPL_H

#include "text/jinja.h"

/* ---- memory ---- */

struct pg_jinja_block;
struct pg_jinja_pile {
    struct pg_jinja_block *block;
    size_t used, limit; /* bytes of all blocks */
    bool exhausted;     /* more than the limit was asked for */
};
/* 16-byte aligned, not zeroed; NULL: the limit is reached, or there is no memory. */
void *pg_jinja_take(struct pg_jinja_pile *p, size_t n);
void pg_jinja_drop(struct pg_jinja_pile *p);

/* ---- values ---- */

enum pg_value_kind {
    PG_V_ABSENT, /* an argument that was not given */
    PG_V_UNDEFINED,
    PG_V_NONE,
    PG_V_BOOL,
    PG_V_INT,
    PG_V_FLOAT,
    PG_V_STR,
    PG_V_LIST,
    PG_V_TUPLE,
    PG_V_DICT,
    PG_V_SPACE, /* namespace(): a dict that changes */
    PG_V_FUNCTION,
    PG_V_METHOD, /* a function with the value that it belongs to */
    PG_V_MACRO,
    PG_V_LOOP,
};

struct pg_dict;
struct pg_jinja_function;
struct pg_jinja_method;
struct pg_jinja_macro;
struct pg_jinja_loop;

struct pg_value {
    uint8_t kind;
    bool content;        /* came from what was given; of texts, where mark is NULL */
    uint32_t n;          /* bytes of a text (a name, if undefined), items of a list or tuple */
    const uint8_t *mark; /* text: [n] 1 for content, or NULL */
    union {
        bool truth;
        int64_t integer;
        double real;
        const char *s;
        const struct pg_value *item;
        struct pg_dict *dict;
        const struct pg_jinja_function *function;
        const struct pg_jinja_method *method;
        const struct pg_jinja_macro *macro;
        const struct pg_jinja_loop *loop;
    };
};

struct pg_pair {
    struct pg_value key, value;
};
struct pg_dict {
    struct pg_pair *pair;
    uint32_t n, cap;
    uint32_t *sorted; /* [n] by key, made when a large one is first looked up; all keys are texts */
    bool arguments;   /* was given as the arguments of a call */
};

static inline bool pg_is_number(const struct pg_value *v)
{
    return v->kind == PG_V_BOOL || v->kind == PG_V_INT || v->kind == PG_V_FLOAT;
}
static inline bool pg_is_list(const struct pg_value *v)
{
    return v->kind == PG_V_LIST || v->kind == PG_V_TUPLE;
}
static inline struct pg_value pg_value_bool(bool truth)
{
    return (struct pg_value){.kind = PG_V_BOOL, .truth = truth};
}
static inline struct pg_value pg_value_int(int64_t i)
{
    return (struct pg_value){.kind = PG_V_INT, .integer = i};
}
static inline struct pg_value pg_value_float(double x)
{
    return (struct pg_value){.kind = PG_V_FLOAT, .real = x};
}
/* Markup; s is kept. */
struct pg_value pg_value_str(const char *s);
/* s[from, from + n) with its marks. */
static inline struct pg_value pg_value_part(const struct pg_value *s, size_t from, size_t n)
{
    struct pg_value part = *s;
    part.s += from;
    part.n = (uint32_t)n;
    part.mark = s->mark ? s->mark + from : NULL;
    return part;
}
static inline bool pg_value_is(const struct pg_value *v, const char *text)
{
    size_t i = 0;
    while (i < v->n && text[i] && text[i] == v->s[i])
        i++;
    return v->kind == PG_V_STR && i == v->n && !text[i];
}

/* ---- trees ---- */

enum pg_node_kind {
    PG_N_CONST,
    PG_N_NAME, /* op: symbol */
    PG_N_LIST, /* kid 0: items, by next */
    PG_N_TUPLE,
    PG_N_DICT, /* kid 0: pairs of kids 0 and 1 */
    PG_N_PAIR,
    PG_N_ATTR,    /* kid 0, value: name */
    PG_N_ITEM,    /* kid 0 [kid 1] */
    PG_N_SLICE,   /* kid 0 [kid 1 : kid 2 : kid 3], each of these may be NULL */
    PG_N_CALL,    /* kid 0 (kid 1: arguments, by next) */
    PG_N_KEYWORD, /* an argument: value is its name, kid 0 */
    PG_N_FILTER,  /* kid 0 | op: number of the filter, -1 none; value its name; kid 1: arguments */
    PG_N_TEST,    /* likewise, a test */
    PG_N_COND,    /* kid 0 if kid 1 else kid 2, which may be NULL */
    PG_N_NOT,
    PG_N_MINUS,
    PG_N_PLUS,
    PG_N_BINARY, /* kid 0 op kid 1 */
    PG_N_AND,
    PG_N_OR,
    PG_N_CONCAT,  /* kid 0: what is joined, by next */
    PG_N_COMPARE, /* kid 0, kid 1: PG_N_OPERAND by next */
    PG_N_OPERAND, /* op, kid 0 */
    PG_N_BODY,    /* what a filter or set block has printed; stands in a chain of filters */

    PG_N_TEXT,         /* value */
    PG_N_PRINT,        /* kid 0 */
    PG_N_IF,           /* kid 0: branches, by next */
    PG_N_BRANCH,       /* if kid 0 (NULL: else), statements kid 1 */
    PG_N_FOR,          /* target kid 0 in kid 1 if kid 2: kid 3 else kid 4 */
    PG_N_SET,          /* target kid 0 = kid 1 */
    PG_N_CAPTURE,      /* target kid 0 (NULL: print) = kid 1, over kid 2's PG_N_BODY: statements */
    PG_N_SPACE_TARGET, /* op: symbol of the namespace, value: attribute */
    PG_N_MACRO,        /* op: symbol, value: name, kid 0: parameters, kid 1: statements */
    PG_N_PARAM,        /* op: symbol, value: name, kid 0: default or NULL */
    PG_N_CALLING,      /* kid 0: PG_N_CALL, kid 1: PG_N_MACRO, the caller */
    PG_N_WITH,         /* kid 0: PG_N_SET by next, kid 1: statements */
    PG_N_BREAK,
    PG_N_CONTINUE,
};

struct pg_node {
    uint8_t kind;
    bool negate;                                    /* of a test */
    bool takes_varargs, takes_kwargs, takes_caller; /* a macro that names these */
    int op;
    uint32_t at;    /* byte of the source */
    uint32_t depth; /* of the tree under it */
    struct pg_node *kid[5];
    struct pg_node *next;
    struct pg_value value;
};

enum pg_token_kind {
    PG_T_END,
    PG_T_TEXT,
    PG_T_PRINT_BEGIN,
    PG_T_PRINT_END,
    PG_T_BLOCK_BEGIN,
    PG_T_BLOCK_END,
    PG_T_NAME,
    PG_T_STR, /* without its quotes, escapes as they are written */
    PG_T_INT,
    PG_T_FLOAT,
    PG_T_OP, /* op: its character, or PG_OP(first, second) */
};
#define PG_OP(a, b) ((a) << 8 | (b))
enum { PG_OP_IN = PG_OP('i', 'n'), PG_OP_NOT_IN = PG_OP('n', 'i') };

struct pg_jinja_token {
    uint8_t kind;
    int op;
    uint32_t at, n; /* where its text begins in the source, and its length */
};

struct pg_jinja {
    struct pg_jinja_pile pile; /* all below */
    char *source;              /* [n] and a zero, newlines as \n */
    size_t n;
    struct pg_str *name; /* [n_names] by symbol, each with a zero behind it */
    int n_names;
    struct pg_node *body;
};
int pg_jinja_find_symbol(const struct pg_jinja *t, const char *name); /* -1: it is nowhere in it */

struct pg_jinja_parser {
    struct pg_jinja *t;
    struct pg_jinja_token *token; /* [n] ends with PG_T_END; malloc'd */
    size_t n, cap, at;
    int depth;
    int loops;                   /* that the statement is in */
    int varargs, kwargs, caller; /* times that these names were read */
    struct pg_err *err;
};

int pg_jinja_lex(struct pg_jinja_parser *p);
/* Statements until the end. */
int pg_jinja_parse(struct pg_jinja_parser *p, struct pg_node **out);
/* PG_EFORMAT with line and column of byte `at`. */
int pg_jinja_wrong(const struct pg_jinja *t, struct pg_err *err, uint32_t at, const char *fmt, ...)
    PG_PRINTF(4, 5);

/* jinja_expr.c, for jinja_parse.c */
int pg_jinja_node(struct pg_jinja_parser *p, enum pg_node_kind kind, struct pg_node **out);
int pg_jinja_deepen(struct pg_jinja_parser *p, struct pg_node *n); /* once its kids are there */
int pg_jinja_expr(struct pg_jinja_parser *p, bool with_if, struct pg_node **out);
/* One expression, or a tuple of them without parentheses. */
int pg_jinja_exprs(struct pg_jinja_parser *p, bool with_if, struct pg_node **out);
int pg_jinja_target(struct pg_jinja_parser *p, bool with_space, struct pg_node **out);
int pg_jinja_postfix(struct pg_jinja_parser *p, struct pg_node **n, bool filters);
int pg_jinja_filters(struct pg_jinja_parser *p, struct pg_node **n);
int pg_jinja_symbol(struct pg_jinja_parser *p, const struct pg_jinja_token *t, int *symbol);
bool pg_jinja_at(const struct pg_jinja_parser *p, const char *name); /* the next token is it */
bool pg_jinja_at_op(const struct pg_jinja_parser *p, int op);
bool pg_jinja_eat(struct pg_jinja_parser *p, const char *name); /* and it is passed */
bool pg_jinja_eat_op(struct pg_jinja_parser *p, int op);
int pg_jinja_want(struct pg_jinja_parser *p, enum pg_token_kind kind, const char *what);
int pg_jinja_want_op(struct pg_jinja_parser *p, int op);
int pg_jinja_unexpected(struct pg_jinja_parser *p, const char *wanted);
struct pg_value pg_jinja_name_of(const struct pg_jinja_parser *p, const struct pg_jinja_token *t);

/* ---- running ---- */

struct pg_binding {
    struct pg_binding *next;
    int symbol;
    struct pg_value value;
};
struct pg_scope {
    struct pg_scope *up;
    struct pg_binding *first;
    bool kept; /* a macro looks into it */
};

struct pg_jinja_run {
    const struct pg_jinja *t;
    struct pg_jinja_pile pile;
    struct pg_scope *scope;
    struct pg_binding *spare;
    struct pg_buf *out;   /* where statements print */
    struct pg_value body; /* what PG_N_BODY is */
    uint64_t steps, max_steps;
    int depth, calls;
    int64_t now;
    bool said_none, said_arguments;
    bool refused; /* by raise_exception */
    int rc;       /* of the first error, and where and what it was */
    uint32_t where;
    bool located;
    char what[sizeof(((struct pg_err *)NULL)->text) - 64];
};

/* A text that grows. What failed is said by pg_buf_end. */
struct pg_buf {
    struct pg_jinja_run *run;
    char *s;
    uint8_t *mark;
    size_t n, cap;
    int rc;
};
void pg_buf_put(struct pg_buf *b, const char *s, size_t n, bool content);
void pg_buf_put_str(struct pg_buf *b, const struct pg_value *s);
int pg_buf_end(struct pg_buf *b, struct pg_value *out);

struct pg_jinja_macro {
    const struct pg_node *node;
    struct pg_scope *scope; /* it was made in */
};
struct pg_jinja_loop {
    const struct pg_value *item;
    uint32_t n, i;
};

/* ---- calls ---- */

struct pg_jinja_args {
    struct pg_value *v; /* [n] by place */
    uint32_t n;
    struct pg_pair *by_name; /* [n_by_name] */
    uint32_t n_by_name;
};

enum { PG_JINJA_PARAMS = 5 };
struct pg_jinja_call {
    struct pg_jinja_run *run;
    struct pg_value self; /* what is filtered, tested, or has the method */
    struct pg_value arg[PG_JINJA_PARAMS];
    const struct pg_jinja_args *all;
    struct pg_value *out;
};
/* A function, filter, test or method. */
struct pg_jinja_function {
    const char *name;
    const char *params; /* names with spaces between; "*": takes `all` as it is */
    int n_needed;       /* of the params */
    int (*call)(struct pg_jinja_call *c);
};
struct pg_jinja_method {
    const struct pg_jinja_function *function;
    struct pg_value self;
};

int pg_jinja_find_filter(struct pg_str name); /* its number, -1: none */
int pg_jinja_find_test(struct pg_str name);
const struct pg_jinja_function *pg_jinja_filter(int i);
const struct pg_jinja_function *pg_jinja_test(int i);
/* By name; NULL: none. Of texts and others: */
const struct pg_jinja_function *pg_jinja_str_method(struct pg_str name);
const struct pg_jinja_function *pg_jinja_global(int i); /* NULL after the last */

/* All return 0 or what pg_jinja_fail returned. */
int pg_jinja_fail(struct pg_jinja_run *r, const char *fmt, ...) PG_PRINTF(2, 3);
int pg_jinja_full(struct pg_jinja_run *r); /* fails: no more memory */
/* Returns rc; the innermost node that failed says where. */
int pg_jinja_locate(struct pg_jinja_run *r, const struct pg_node *n, int rc);
int pg_jinja_steps(struct pg_jinja_run *r, uint64_t n);
int pg_jinja_scan(struct pg_jinja_run *r, uint64_t n); /* the steps of looking at n bytes */
int pg_jinja_apply(struct pg_jinja_run *r, const struct pg_jinja_function *f,
                   const struct pg_value *self, const struct pg_jinja_args *args,
                   struct pg_value *out);
/* Argument i as a whole number, or what it is where it is not given. */
int pg_jinja_int_arg(struct pg_jinja_call *c, int i, int64_t none, int64_t *out);
int pg_jinja_invoke(struct pg_jinja_run *r, const struct pg_value *f,
                    const struct pg_jinja_args *args, struct pg_value *out);
int pg_jinja_call_macro(struct pg_jinja_run *r, const struct pg_jinja_macro *m,
                        const struct pg_jinja_args *args, struct pg_value *out);
int pg_jinja_eval(struct pg_jinja_run *r, const struct pg_node *n, struct pg_value *out);
int pg_jinja_binary(struct pg_jinja_run *r, int op, const struct pg_value v[2],
                    struct pg_value *out);
int pg_jinja_percent(struct pg_jinja_run *r, const struct pg_value v[2], struct pg_value *out);
int pg_jinja_compare(struct pg_jinja_run *r, int op, const struct pg_value v[2], bool *out);
int pg_jinja_slice(struct pg_jinja_run *r, const struct pg_value v[4], struct pg_value *out);
int pg_jinja_attr(struct pg_jinja_run *r, const struct pg_value *v, const struct pg_value *name,
                  struct pg_value *out);
int pg_jinja_item(struct pg_jinja_run *r, const struct pg_value *v, const struct pg_value *key,
                  struct pg_value *out);

/* ---- values, again ---- */

bool pg_value_true(const struct pg_value *v);
int pg_value_equal(struct pg_jinja_run *r, const struct pg_value v[2], bool *out);
/* Below, at or above 0 as Python orders them. */
int pg_value_order(struct pg_jinja_run *r, const struct pg_value v[2], int *out);
int pg_value_in(struct pg_jinja_run *r, const struct pg_value v[2], bool *out);
const char *pg_value_type(const struct pg_value *v); /* Python's word */
bool pg_value_given(const struct pg_value *v);       /* it, or something in it, is content */
/* What a for loop would get, as a list. */
int pg_value_items(struct pg_jinja_run *r, const struct pg_value *v, struct pg_value *out);
int pg_value_list(struct pg_jinja_run *r, size_t n, struct pg_value **item, struct pg_value *out);
int pg_value_length(struct pg_jinja_run *r, const struct pg_value *v, int64_t *out);
struct pg_value pg_value_undefined(const struct pg_value *name);
int pg_value_need(struct pg_jinja_run *r, const struct pg_value *v, enum pg_value_kind kind,
                  const char *what);
int pg_value_from_json(struct pg_jinja_run *r, const json_t *j, struct pg_value *out);

int pg_dict_open(struct pg_jinja_run *r, size_t cap, enum pg_value_kind kind, struct pg_value *out);
int pg_dict_set(struct pg_jinja_run *r, struct pg_dict *d, const struct pg_value *key,
                const struct pg_value *value);
/* NULL: there is none such. *rc as pg_jinja_fail. */
const struct pg_value *pg_dict_get(struct pg_jinja_run *r, struct pg_dict *d,
                                   const struct pg_value *key, int *rc);

/* str(v), and repr(v) appended to b. */
int pg_value_text(struct pg_jinja_run *r, const struct pg_value *v, struct pg_value *out);
void pg_value_print(struct pg_buf *b, const struct pg_value *v);
enum { PG_FLOAT_TEXT = 48 };
void pg_float_repr(double x, char out[PG_FLOAT_TEXT]);
struct pg_json_style {
    bool ascii, sorted, lines;
    struct pg_value indent, comma, colon;
};
int pg_value_json(struct pg_jinja_run *r, const struct pg_value *v, const struct pg_json_style *how,
                  struct pg_value *out);

/* ---- texts ---- */

size_t pg_str_chars(const struct pg_value *s);        /* characters */
size_t pg_str_at(const struct pg_value *s, size_t i); /* the byte where character i begins */
bool pg_char_is_space(uint32_t c);
/* Without white space (chars NULL) or those characters at its start (1) or end (2). */
struct pg_value pg_str_strip(const struct pg_value *s, const struct pg_value *chars, int where);
int pg_str_trim(struct pg_jinja_run *r, const struct pg_value *s, const struct pg_value *chars,
                int where, struct pg_value *out);
enum pg_case { PG_CASE_UPPER, PG_CASE_LOWER, PG_CASE_TITLE, PG_CASE_CAPITAL, PG_CASE_WORDS };
int pg_str_case(struct pg_jinja_run *r, const struct pg_value *s, enum pg_case how,
                struct pg_value *out);
int pg_str_replace(struct pg_jinja_run *r, const struct pg_value v[3], int64_t count,
                   struct pg_value *out);
int pg_str_lines(struct pg_jinja_run *r, const struct pg_value *s, bool keep, struct pg_value *out);
int pg_str_join(struct pg_jinja_run *r, const struct pg_value *by, const struct pg_value *list,
                struct pg_value *out);
bool pg_str_is_case(const struct pg_value *s, bool upper);
/* Decimal digits, white space around and _ between allowed. */
bool pg_str_to_int(const struct pg_value *s, int64_t base, int64_t *out);
bool pg_str_to_float(const struct pg_value *s, double *out);

#endif
