/* SPDX-License-Identifier: MIT
 * Tokens to trees of statements.
 */
#include "text/jinja_impl.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int pg_jinja_wrong(const struct pg_jinja *t, struct pg_err *err, uint32_t at, const char *fmt, ...)
{
    char what[sizeof(((struct pg_err *)NULL)->text) - 64];
    uint32_t line = 1, column = 1;
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(what, sizeof(what), fmt, ap);
    va_end(ap);
    for (uint32_t i = 0; i < at && i < t->n; i++) {
        /* Columns are characters: bytes that go on with one are not counted. */
        column += ((unsigned char)t->source[i] & 0xC0) != 0x80;
        if (t->source[i] == '\n') {
            line++;
            column = 1;
        }
    }
    return pg_fail(err, PG_EFORMAT, "chat template, line %u, column %u: %s", line, column, what);
}

/* Statements until a block that begins with one of `ends`, of which the name is next; NULL: until
 * the end of the template. */
static int parse_body(struct pg_jinja_parser *p, const char *const *ends, struct pg_node **out);

static int end_block(struct pg_jinja_parser *p)
{
    return pg_jinja_want(p, PG_T_BLOCK_END, "the end of the block");
}

/* Statements until {% NAME %}, which is passed. */
static int parse_to(struct pg_jinja_parser *p, const char *name, struct pg_node **out)
{
    const char *ends[] = {name, NULL};
    PG_TRY(end_block(p));
    PG_TRY(parse_body(p, ends, out));
    p->at++;
    return 0;
}

static int parse_if(struct pg_jinja_parser *p, struct pg_node **out)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    PG_TRY(pg_jinja_node(p, PG_N_IF, out));
    struct pg_node **tail = &(*out)->kid[0];
    for (bool last = false;;) {
        PG_TRY(pg_jinja_node(p, PG_N_BRANCH, tail));
        if (!last)
            PG_TRY(pg_jinja_exprs(p, false, &(*tail)->kid[0]));
        PG_TRY(end_block(p));
        PG_TRY(parse_body(p, last ? ends + 2 : ends, &(*tail)->kid[1]));
        PG_TRY(pg_jinja_deepen(p, *tail));
        tail = &(*tail)->next;
        if (pg_jinja_eat(p, "endif"))
            return pg_jinja_deepen(p, *out);
        last = pg_jinja_at(p, "else");
        p->at++;
    }
}

static int parse_for(struct pg_jinja_parser *p, struct pg_node **out)
{
    static const char *const ends[] = {"else", "endfor", NULL};
    PG_TRY(pg_jinja_node(p, PG_N_FOR, out));
    PG_TRY(pg_jinja_target(p, false, &(*out)->kid[0]));
    if (!pg_jinja_eat(p, "in"))
        return pg_jinja_unexpected(p, "'in'");
    PG_TRY(pg_jinja_exprs(p, false, &(*out)->kid[1]));
    if (pg_jinja_eat(p, "if"))
        PG_TRY(pg_jinja_expr(p, true, &(*out)->kid[2]));
    if (pg_jinja_at(p, "recursive"))
        return pg_jinja_unexpected(p, "a loop that is not recursive");
    PG_TRY(end_block(p));
    p->loops++;
    PG_TRY(parse_body(p, ends, &(*out)->kid[3]));
    p->loops--;
    if (pg_jinja_eat(p, "else"))
        PG_TRY(parse_to(p, "endfor", &(*out)->kid[4]));
    else
        p->at++;
    return pg_jinja_deepen(p, *out);
}

/* What a set block or a filter block prints goes through filters. */
static int parse_capture(struct pg_jinja_parser *p, const char *end, struct pg_node *n)
{
    struct pg_node **chain = &n->kid[1];
    PG_TRY(pg_jinja_node(p, PG_N_BODY, chain));
    if (pg_jinja_at_op(p, '|'))
        PG_TRY(pg_jinja_filters(p, chain));
    PG_TRY(parse_to(p, end, &n->kid[2]));
    return pg_jinja_deepen(p, n);
}

static int parse_set(struct pg_jinja_parser *p, struct pg_node **out)
{
    PG_TRY(pg_jinja_node(p, PG_N_SET, out));
    PG_TRY(pg_jinja_target(p, true, &(*out)->kid[0]));
    if (pg_jinja_eat_op(p, '=')) {
        PG_TRY(pg_jinja_exprs(p, true, &(*out)->kid[1]));
        return pg_jinja_deepen(p, *out);
    }
    (*out)->kind = PG_N_CAPTURE;
    return parse_capture(p, "endset", *out);
}

/* {% filter NAME|NAME %}: as if the block stood before a "|". */
static int parse_filter_block(struct pg_jinja_parser *p, struct pg_node **out)
{
    PG_TRY(pg_jinja_node(p, PG_N_CAPTURE, out));
    /* The token before is the word "filter", which a "|" takes the place of. */
    p->at--;
    p->token[p->at].kind = PG_T_OP;
    p->token[p->at].op = '|';
    return parse_capture(p, "endfilter", *out);
}

/* Parameters with their defaults, behind "(". */
static int parse_params(struct pg_jinja_parser *p, struct pg_node **tail)
{
    bool optional = false;
    while (!pg_jinja_at_op(p, ')')) {
        const struct pg_jinja_token *t = &p->token[p->at];
        PG_TRY(pg_jinja_node(p, PG_N_PARAM, tail));
        PG_TRY(pg_jinja_want(p, PG_T_NAME, "a name"));
        PG_TRY(pg_jinja_symbol(p, t, &(*tail)->op));
        (*tail)->value = pg_jinja_name_of(p, t);
        if (pg_jinja_eat_op(p, '='))
            PG_TRY(pg_jinja_expr(p, true, &(*tail)->kid[0]));
        else if (optional)
            return pg_jinja_unexpected(p, "a default, as the parameter before has one,");
        optional = (*tail)->kid[0] != NULL;
        PG_TRY(pg_jinja_deepen(p, *tail));
        tail = &(*tail)->next;
        if (!pg_jinja_eat_op(p, ','))
            break;
    }
    return pg_jinja_want_op(p, ')');
}

/* Parameters, if there are any, and statements. */
static int parse_macro_rest(struct pg_jinja_parser *p, const char *end, struct pg_node *n)
{
    int varargs = p->varargs, kwargs = p->kwargs, caller = p->caller, loops = p->loops;
    p->loops = 0;
    if (pg_jinja_eat_op(p, '('))
        PG_TRY(parse_params(p, &n->kid[0]));
    PG_TRY(parse_to(p, end, &n->kid[1]));
    p->loops = loops;
    n->takes_varargs = p->varargs > varargs;
    n->takes_kwargs = p->kwargs > kwargs;
    n->takes_caller = p->caller > caller;
    return pg_jinja_deepen(p, n);
}

static int parse_macro(struct pg_jinja_parser *p, struct pg_node **out)
{
    const struct pg_jinja_token *t = &p->token[p->at];
    PG_TRY(pg_jinja_node(p, PG_N_MACRO, out));
    PG_TRY(pg_jinja_want(p, PG_T_NAME, "the name of a macro"));
    PG_TRY(pg_jinja_symbol(p, t, &(*out)->op));
    (*out)->value = pg_jinja_name_of(p, t);
    if (!pg_jinja_at_op(p, '('))
        return pg_jinja_unexpected(p, "'('");
    return parse_macro_rest(p, "endmacro", *out);
}

/* {% call(x) macro(y) %}: what it has between its tags is given as caller(x). */
static int parse_calling(struct pg_jinja_parser *p, struct pg_node **out)
{
    struct pg_node *macro;
    PG_TRY(pg_jinja_node(p, PG_N_CALLING, out));
    PG_TRY(pg_jinja_node(p, PG_N_MACRO, &macro));
    macro->value = (struct pg_value){.kind = PG_V_STR, .n = 6, .s = "caller"};
    (*out)->kid[1] = macro;
    if (pg_jinja_eat_op(p, '('))
        PG_TRY(parse_params(p, &macro->kid[0]));
    PG_TRY(pg_jinja_expr(p, true, &(*out)->kid[0]));
    if ((*out)->kid[0]->kind != PG_N_CALL)
        return pg_jinja_unexpected(p, "a call before the end of the block");
    struct pg_node *params = macro->kid[0];
    PG_TRY(parse_macro_rest(p, "endcall", macro));
    macro->kid[0] = params;
    return pg_jinja_deepen(p, *out);
}

static int parse_with(struct pg_jinja_parser *p, struct pg_node **out)
{
    PG_TRY(pg_jinja_node(p, PG_N_WITH, out));
    for (struct pg_node **tail = &(*out)->kid[0]; p->token[p->at].kind != PG_T_BLOCK_END;) {
        PG_TRY(pg_jinja_node(p, PG_N_SET, tail));
        PG_TRY(pg_jinja_target(p, false, &(*tail)->kid[0]));
        PG_TRY(pg_jinja_want_op(p, '='));
        PG_TRY(pg_jinja_expr(p, true, &(*tail)->kid[1]));
        PG_TRY(pg_jinja_deepen(p, *tail));
        tail = &(*tail)->next;
        if (!pg_jinja_eat_op(p, ','))
            break;
    }
    PG_TRY(parse_to(p, "endwith", &(*out)->kid[1]));
    return pg_jinja_deepen(p, *out);
}

static int parse_jump(struct pg_jinja_parser *p, enum pg_node_kind kind, struct pg_node **out)
{
    if (!p->loops)
        return pg_jinja_unexpected(p, "a loop around break and continue");
    return pg_jinja_node(p, kind, out);
}

static int parse_break(struct pg_jinja_parser *p, struct pg_node **out)
{
    return parse_jump(p, PG_N_BREAK, out);
}

static int parse_continue(struct pg_jinja_parser *p, struct pg_node **out)
{
    return parse_jump(p, PG_N_CONTINUE, out);
}

/* Hugging Face marks with it what the model has said. It changes nothing of the text, and in its
 * implementation it is a scope of its own. */
static int parse_generation(struct pg_jinja_parser *p, struct pg_node **out)
{
    PG_TRY(pg_jinja_node(p, PG_N_WITH, out));
    PG_TRY(parse_to(p, "endgeneration", &(*out)->kid[1]));
    return pg_jinja_deepen(p, *out);
}

static int parse_statement(struct pg_jinja_parser *p, struct pg_node **out)
{
    static const struct {
        const char *name;
        int (*parse)(struct pg_jinja_parser *p, struct pg_node **out);
    } statements[] = {{"if", parse_if},
                      {"for", parse_for},
                      {"set", parse_set},
                      {"macro", parse_macro},
                      {"call", parse_calling},
                      {"filter", parse_filter_block},
                      {"with", parse_with},
                      {"break", parse_break},
                      {"continue", parse_continue},
                      {"generation", parse_generation}};
    if (++p->depth > PG_JINJA_PARSE_DEPTH)
        return pg_jinja_wrong(p->t, p->err, p->token[p->at].at, "nested deeper than %d",
                              PG_JINJA_PARSE_DEPTH);
    for (size_t i = 0; i < PG_COUNT(statements); i++) {
        if (pg_jinja_eat(p, statements[i].name)) {
            PG_TRY(statements[i].parse(p, out));
            p->depth--;
            return end_block(p);
        }
    }
    return pg_jinja_unexpected(p, "a statement");
}

static bool at_any(const struct pg_jinja_parser *p, const char *const *names)
{
    for (; names && *names; names++)
        if (pg_jinja_at(p, *names))
            return true;
    return false;
}

static int parse_text(struct pg_jinja_parser *p, struct pg_node **out)
{
    PG_TRY(pg_jinja_node(p, PG_N_TEXT, out));
    (*out)->value = pg_jinja_name_of(p, &p->token[p->at]);
    p->at++;
    return 0;
}

static int parse_print(struct pg_jinja_parser *p, struct pg_node **out)
{
    PG_TRY(pg_jinja_node(p, PG_N_PRINT, out));
    p->at++;
    PG_TRY(pg_jinja_exprs(p, true, &(*out)->kid[0]));
    PG_TRY(pg_jinja_deepen(p, *out));
    return pg_jinja_want(p, PG_T_PRINT_END, "'}}'");
}

static int parse_body(struct pg_jinja_parser *p, const char *const *ends, struct pg_node **out)
{
    for (struct pg_node **tail = out;; tail = &(*tail)->next) {
        switch (p->token[p->at].kind) {
        case PG_T_TEXT:
            PG_TRY(parse_text(p, tail));
            break;
        case PG_T_PRINT_BEGIN:
            PG_TRY(parse_print(p, tail));
            break;
        case PG_T_BLOCK_BEGIN:
            p->at++;
            if (at_any(p, ends))
                return 0;
            PG_TRY(parse_statement(p, tail));
            break;
        default:
            return ends ? pg_jinja_unexpected(p, ends[0]) : 0;
        }
    }
}

int pg_jinja_parse(struct pg_jinja_parser *p, struct pg_node **out)
{
    return parse_body(p, NULL, out);
}
