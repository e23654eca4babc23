/* SPDX-License-Identifier: MIT
 * Source to tokens. White space: a tag's "-" takes all of it on that side; else what stands before
 * a block or comment on its line goes (lstrip_blocks), and the newline behind it (trim_blocks),
 * unless the tag has a "+" there.
 */
#include "text/jinja_impl.h"
#include "text/utf8.h"

#include <stdlib.h>
#include <string.h>

enum { BRACKETS = PG_JINJA_PARSE_DEPTH };

struct lexer {
    struct pg_jinja_parser *p;
    const char *s; /* [n] and a zero */
    size_t n, at;
    bool line_starts; /* what was read last ended with a newline */
    char bracket[BRACKETS];
    int n_brackets;
};

static int put(struct lexer *x, enum pg_token_kind kind, int op, size_t at, size_t n)
{
    struct pg_jinja_parser *p = x->p;
    if (p->n == p->cap) {
        size_t cap = 2 * p->cap + 256;
        struct pg_jinja_token *t = realloc(p->token, cap * sizeof(*t));
        if (!t)
            return pg_fail(p->err, PG_ENOMEM, "out of memory for a template of %zu bytes", x->n);
        p->token = t;
        p->cap = cap;
    }
    p->token[p->n++] =
        (struct pg_jinja_token){.kind = kind, .op = op, .at = (uint32_t)at, .n = (uint32_t)n};
    return 0;
}

static int wrong(const struct lexer *x, size_t at, const char *what)
{
    return pg_jinja_wrong(x->p->t, x->p->err, (uint32_t)at, "%s", what);
}

/* Bytes of the white space that s[0..n) begins with; 0: it begins with none. */
static size_t space_at(const char *s, size_t n)
{
    int len = n ? pg_utf8_scan(s, n) : 0;
    return len > 0 && pg_char_is_space(pg_utf8_decode(s, len)) ? (size_t)len : 0;
}

static size_t skip_spaces(const struct lexer *x, size_t at)
{
    for (size_t n; (n = space_at(x->s + at, x->n - at));)
        at += n;
    return at;
}

/* Text [from, to) before a tag with that sign. */
static int put_text(struct lexer *x, size_t from, size_t to, char sign, bool block)
{
    struct pg_value text = {.kind = PG_V_STR, .n = (uint32_t)(to - from)};
    text.s = x->s + from;
    if (sign == '-') {
        to = from + pg_str_strip(&text, NULL, 2).n;
    } else if (sign != '+' && block) {
        const char *newline = memrchr(text.s, '\n', text.n);
        size_t line = newline ? (size_t)(newline - x->s) + 1 : from;
        if ((newline || x->line_starts) && skip_spaces(x, line) >= to)
            to = line;
    }
    return to > from ? put(x, PG_T_TEXT, 0, from, to - from) : 0;
}

/* Behind a tag's end at x->at, of whose two characters the second is passed. */
static void end_tag(struct lexer *x, char sign, bool block)
{
    if (sign == '-')
        x->at = skip_spaces(x, x->at);
    else if (block && sign != '+' && x->s[x->at] == '\n')
        x->at++;
    x->line_starts = x->s[x->at - 1] == '\n';
}

static char sign_at(const struct lexer *x, size_t at)
{
    return x->s[at] == '-' || x->s[at] == '+' ? x->s[at] : '\0';
}

/* Whether the tag's end is here, "%}" or "}}" with a sign before it that it may have; passes it. */
static bool eat_end(struct lexer *x, bool block)
{
    char sign = sign_at(x, x->at);
    const char *s = x->s + x->at + (sign != '\0');
    if (s[0] != (block ? '%' : '}') || s[1] != '}' || (sign == '+' && !block))
        return false;
    x->at += 2 + (sign != '\0');
    end_tag(x, sign, block);
    return true;
}

static int lex_comment(struct lexer *x)
{
    size_t begin = x->at;
    x->at += 2;
    x->at += sign_at(x, x->at) != '\0';
    const char *end = strstr(x->s + x->at, "#}");
    if (!end)
        return wrong(x, begin, "a comment does not end, '#}' is wanted");
    char sign = end > x->s + x->at ? sign_at(x, (size_t)(end - x->s) - 1) : '\0';
    x->at = (size_t)(end - x->s) + 2;
    end_tag(x, sign, true);
    return 0;
}

/* If there is the tag {% NAME %} at `at`, the sign at its begin and where its inside ends. */
static bool tag_is(const struct lexer *x, size_t at, const char *name, size_t *inside_end)
{
    at += 2;
    at += sign_at(x, at) != '\0';
    at = skip_spaces(x, at);
    if (strncmp(x->s + at, name, strlen(name)))
        return false;
    at = skip_spaces(x, at + strlen(name));
    *inside_end = at;
    at += sign_at(x, at) != '\0';
    return x->s[at] == '%' && x->s[at + 1] == '}';
}

/* x->at is behind {% raw: all is text until {% endraw %}. */
static int lex_raw(struct lexer *x, size_t begin)
{
    char sign = sign_at(x, x->at);
    x->at += 2 + (sign != '\0');
    end_tag(x, sign, false); /* the newline behind it stays */
    for (size_t at = x->at; at < x->n; at++) {
        size_t inside;
        if (x->s[at] != '{' || x->s[at + 1] != '%' || !tag_is(x, at, "endraw", &inside))
            continue;
        PG_TRY(put_text(x, x->at, at, sign_at(x, at + 2), true));
        x->at = inside;
        return eat_end(x, true) ? 0 : wrong(x, at, "a raw block does not end well");
    }
    return wrong(x, begin, "a raw block does not end, 'endraw' is wanted");
}

static bool is_name(char c, bool first)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
           (!first && c >= '0' && c <= '9');
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static size_t digits_end(const char *s, size_t at)
{
    while (is_digit(s[at]) || (s[at] == '_' && is_digit(s[at + 1])))
        at++;
    return at;
}

static int lex_number(struct lexer *x)
{
    size_t begin = x->at, end = digits_end(x->s, begin);
    bool real = false, after_dot = begin && x->s[begin - 1] == '.';
    if (!after_dot && x->s[end] == '.' && is_digit(x->s[end + 1])) {
        real = true;
        end = digits_end(x->s, end + 1);
    }
    if (!after_dot && (x->s[end] == 'e' || x->s[end] == 'E')) {
        size_t digits = end + 1 + (x->s[end + 1] == '+' || x->s[end + 1] == '-');
        if (is_digit(x->s[digits])) {
            real = true;
            end = digits_end(x->s, digits);
        }
    }
    x->at = end;
    return put(x, real ? PG_T_FLOAT : PG_T_INT, 0, begin, end - begin);
}

static int lex_string(struct lexer *x)
{
    size_t begin = x->at, at = begin + 1;
    while (at < x->n && x->s[at] != x->s[begin])
        at += 1 + (x->s[at] == '\\' && at + 1 < x->n);
    if (at >= x->n)
        return wrong(x, begin, "a string does not end");
    x->at = at + 1;
    return put(x, PG_T_STR, 0, begin + 1, at - begin - 1);
}

static int lex_bracket(struct lexer *x, char c)
{
    static const char pairs[] = "()[]{}";
    if (strchr("([{", c)) {
        if (x->n_brackets == BRACKETS)
            return pg_jinja_wrong(x->p->t, x->p->err, (uint32_t)x->at,
                                  "brackets are nested deeper than %d", BRACKETS);
        x->bracket[x->n_brackets++] = strchr(pairs, c)[1];
    } else if (!x->n_brackets || x->bracket[--x->n_brackets] != c) {
        return pg_jinja_wrong(x->p->t, x->p->err, (uint32_t)x->at, "an unexpected '%c'", c);
    }
    return 0;
}

static int lex_operator(struct lexer *x)
{
    static const char two[][3] = {"//", "**", "==", "!=", "<=", ">="};
    size_t begin = x->at;
    char c = x->s[begin];
    for (size_t i = 0; i < PG_COUNT(two); i++) {
        if (!strncmp(x->s + begin, two[i], 2)) {
            x->at += 2;
            return put(x, PG_T_OP, PG_OP(c, x->s[begin + 1]), begin, 2);
        }
    }
    if (!c || !strchr("+-/*%~[](){}<>=.:|,;", c))
        return pg_jinja_wrong(x->p->t, x->p->err, (uint32_t)begin, "an unexpected '%s'",
                              pg_quote(x->s + begin, 1).s);
    if (strchr("([{)]}", c))
        PG_TRY(lex_bracket(x, c));
    x->at++;
    return put(x, PG_T_OP, c, begin, 1);
}

/* The inside of a tag and its end. */
static int lex_tag(struct lexer *x, bool block)
{
    size_t begin = x->at;
    PG_TRY(put(x, block ? PG_T_BLOCK_BEGIN : PG_T_PRINT_BEGIN, 0, begin, 2));
    x->at += 2;
    x->at += sign_at(x, x->at) != '\0';
    for (;;) {
        x->at = skip_spaces(x, x->at);
        size_t at = x->at;
        if (at >= x->n)
            return wrong(x, begin,
                         block ? "a block does not end, '%}' is wanted"
                               : "an expression does not end, '}}' is wanted");
        if (!x->n_brackets && eat_end(x, block))
            return put(x, block ? PG_T_BLOCK_END : PG_T_PRINT_END, 0, at, 0);
        char c = x->s[at];
        if (is_name(c, true)) {
            while (is_name(x->s[x->at], false))
                x->at++;
            PG_TRY(put(x, PG_T_NAME, 0, at, x->at - at));
        } else if (is_digit(c)) {
            PG_TRY(lex_number(x));
        } else if (c == '"' || c == '\'') {
            PG_TRY(lex_string(x));
        } else {
            PG_TRY(lex_operator(x));
        }
    }
}

/* The first tag from `at` on, or the end. */
static size_t find_tag(const struct lexer *x, size_t at)
{
    for (; at < x->n; at++) {
        const char *brace = memchr(x->s + at, '{', x->n - at);
        if (!brace)
            break;
        at = (size_t)(brace - x->s);
        if (brace[1] == '{' || brace[1] == '%' || brace[1] == '#')
            return at;
    }
    return x->n;
}

int pg_jinja_lex(struct pg_jinja_parser *p)
{
    struct lexer x = {.p = p, .s = p->t->source, .n = p->t->n, .line_starts = true};
    while (x.at < x.n) {
        size_t begin = find_tag(&x, x.at), inside;
        if (begin == x.n) {
            PG_TRY(put(&x, PG_T_TEXT, 0, x.at, x.n - x.at));
            break;
        }
        char what = x.s[begin + 1];
        PG_TRY(put_text(&x, x.at, begin, sign_at(&x, begin + 2), what != '{'));
        x.at = begin;
        if (what == '#') {
            PG_TRY(lex_comment(&x));
        } else if (what == '%' && tag_is(&x, begin, "raw", &inside)) {
            x.at = inside;
            PG_TRY(lex_raw(&x, begin));
        } else {
            PG_TRY(lex_tag(&x, what == '%'));
        }
    }
    return put(&x, PG_T_END, 0, x.n, 0);
}
