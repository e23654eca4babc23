/* SPDX-License-Identifier: MIT
 * Patterns: regular expressions as JSON schemas have them (ECMA 262), of which this is taken:
 * characters, `.`, classes, \d \w \s and their opposites, groups, |, * + ? {m,n} also lazy, and ^
 * and $ at the ends of the whole or of its alternatives. A pattern is about the text; what is
 * written is its JSON, so that quotes, backslashes and control characters become escapes.
 *
 * Without an anchor a pattern may be found anywhere in the text.
 */
#include "text/schema.h"

#include "text/utf8.h"

#include <stdlib.h>
#include <string.h>

enum { RANGES_MAX = 256, NEST_MAX = 60 };

struct range {
    uint32_t lo, hi;
};

struct set {
    struct range range[RANGES_MAX];
    int n;
};

struct regex {
    struct pg_schema *s;
    const char *text;
    size_t n, at;
    int depth;
    struct pg_out *out;
};

static int refuse(const struct regex *r, const char *what)
{
    return pg_schema_fail(r->s, PG_ENOTSUP, "'pattern' '%s', byte %zu: %s is not supported",
                          pg_quote(r->text, r->n).s, r->at, what);
}

static int bad(const struct regex *r, const char *what)
{
    return pg_schema_fail(r->s, PG_EFORMAT, "'pattern' '%s', byte %zu: %s",
                          pg_quote(r->text, r->n).s, r->at, what);
}

static char peek(const struct regex *r)
{
    return r->at < r->n ? r->text[r->at] : '\0';
}

/* ------------------------------------------------------------------ sets -------------------- */

static int add_range(const struct regex *r, struct set *x, uint32_t lo, uint32_t hi)
{
    if (x->n == RANGES_MAX)
        return refuse(r, "a class of so many parts");
    x->range[x->n++] = (struct range){lo, hi};
    return 0;
}

static int by_lo(const void *a, const void *b)
{
    const struct range *x = a, *y = b;
    return x->lo < y->lo ? -1 : x->lo > y->lo;
}

static void settle(struct set *x)
{
    int n = 0;
    qsort(x->range, (size_t)x->n, sizeof(*x->range), by_lo);
    for (int i = 0; i < x->n; i++)
        if (n && x->range[i].lo <= x->range[n - 1].hi + 1)
            x->range[n - 1].hi = PG_MAX(x->range[n - 1].hi, x->range[i].hi);
        else
            x->range[n++] = x->range[i];
    x->n = n;
}

static int invert(const struct regex *r, struct set *x)
{
    struct set out = {.n = 0};
    uint32_t lo = 0;
    settle(x);
    for (int i = 0; i < x->n; i++) {
        if (x->range[i].lo > lo)
            PG_TRY(add_range(r, &out, lo, x->range[i].lo - 1));
        lo = x->range[i].hi + 1;
    }
    if (lo <= 0x10FFFF)
        PG_TRY(add_range(r, &out, lo, 0x10FFFF));
    *x = out;
    return 0;
}

static bool has(const struct set *x, uint32_t cp)
{
    for (int i = 0; i < x->n; i++)
        if (cp >= x->range[i].lo && cp <= x->range[i].hi)
            return true;
    return false;
}

/* \d, \w, \s and what is neither. What may count as a space in one reading of the standard and not
 * in the other is in neither \s nor \S. */
static int add_named(const struct regex *r, struct set *x, char c)
{
    static const struct range digit[] = {{'0', '9'}};
    static const struct range word[] = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
    static const struct range space[] = {{'\t', '\r'}, {' ', ' '}};
    static const struct range other_space[] = {{0x09, 0x0D},     {0x1C, 0x20},     {0x85, 0x85},
                                               {0xA0, 0xA0},     {0x1680, 0x1680}, {0x2000, 0x200A},
                                               {0x2028, 0x2029}, {0x202F, 0x202F}, {0x205F, 0x205F},
                                               {0x3000, 0x3000}, {0xFEFF, 0xFEFF}};
    static const struct range not_ascii[] = {{0x80, 0x10FFFF}};
    struct set own = {.n = 0};
    const struct range *from = c == 'd' || c == 'D' ? digit : c == 'w' || c == 'W' ? word : space;
    size_t n = from == digit ? 1 : from == word ? PG_COUNT(word) : PG_COUNT(space);
    if (c == 'S') {
        from = other_space;
        n = PG_COUNT(other_space);
    }
    for (size_t i = 0; i < n; i++)
        PG_TRY(add_range(r, &own, from[i].lo, from[i].hi));
    /* Letters and digits of other scripts are in \W and \D only for some. */
    if (c == 'D' || c == 'W')
        PG_TRY(add_range(r, &own, not_ascii[0].lo, not_ascii[0].hi));
    if (c == 'D' || c == 'W' || c == 'S')
        PG_TRY(invert(r, &own));
    for (int i = 0; i < own.n; i++)
        PG_TRY(add_range(r, x, own.range[i].lo, own.range[i].hi));
    return 0;
}

/* ------------------------------------------------------------------ what is written --------- */

/* The letter that stands for a character after a backslash in JSON, or 0. */
static char short_escape(uint32_t cp)
{
    static const char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt";
    const char *at = cp && cp < 0x80 ? strchr(from, (int)cp) : NULL;
    return at ? to[at - from] : '\0';
}

static void put_char(struct pg_out *o, uint32_t cp)
{
    char text[8] = {'\\', short_escape(cp)};
    if (text[1])
        pg_out_literal(o, text, 2);
    else if (cp < 0x20)
        pg_out_put(o, "\"\\\\u%04x\"", cp);
    else
        pg_out_literal(o, text, (size_t)pg_utf8_encode(cp, text));
}

static int put_set(const struct regex *r, struct set *x)
{
    static const uint32_t escaped[] = {'"', '\\', '\b', '\f', '\n', '\r', '\t'};
    struct pg_out *o = r->out;
    bool any = false, raw = false;
    settle(x);
    pg_out_put(o, "(");
    for (int i = 0; i < x->n; i++) {
        /* What may stand as it is lies between those that may not. */
        static const struct range plain[] = {
            {0x20, 0x21}, {0x23, 0x5B}, {0x5D, 0xD7FF}, {0xE000, 0x10FFFF}};
        for (size_t k = 0; k < PG_COUNT(plain); k++) {
            uint32_t lo = PG_MAX(plain[k].lo, x->range[i].lo);
            uint32_t hi = PG_MIN(plain[k].hi, x->range[i].hi);
            if (lo > hi)
                continue;
            pg_out_put(o, raw ? "" : "[");
            pg_out_class_char(o, lo);
            pg_out_put(o, "-");
            pg_out_class_char(o, hi);
            any = raw = true;
        }
    }
    pg_out_put(o, raw ? "]" : "");
    for (size_t i = 0; i < PG_COUNT(escaped); i++) {
        if (has(x, escaped[i])) {
            pg_out_put(o, any ? " | " : "");
            put_char(o, escaped[i]);
            any = true;
        }
    }
    pg_out_put(o, ")");
    return any ? 0 : refuse(r, "a class of control characters alone");
}

/* ------------------------------------------------------------------ what is read ------------ */

static int take_cp(struct regex *r, uint32_t *cp)
{
    int len = r->at < r->n ? pg_utf8_scan(r->text + r->at, r->n - r->at) : 0;
    if (len <= 0)
        return bad(r, "it ends within something");
    *cp = pg_utf8_decode(r->text + r->at, len);
    r->at += (size_t)len;
    return 0;
}

static int take_hex(struct regex *r, int n, uint32_t *cp)
{
    *cp = 0;
    for (int i = 0; i < n; i++, r->at++) {
        char c = peek(r);
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0)
            return bad(r, "a hexadecimal digit is missing");
        *cp = *cp << 4 | (uint32_t)digit;
    }
    return *cp >= 0xD800 && *cp < 0xE000 ? refuse(r, "half of a character") : 0;
}

/* What follows a backslash: a character, or *named is the letter of a set. */
static int take_escape(struct regex *r, uint32_t *cp, char *named)
{
    static const char letters[] = "nrtfv", meaning[] = "\n\r\t\f\v";
    char c = peek(r);
    *named = '\0';
    if (c && strchr("dwsDWS", c)) {
        *named = c;
        r->at++;
        return 0;
    }
    if (c == 'x' || c == 'u') {
        r->at++;
        return take_hex(r, c == 'x' ? 2 : 4, cp);
    }
    const char *letter = c ? strchr(letters, c) : NULL;
    if (letter) {
        *cp = (unsigned char)meaning[letter - letters];
        r->at++;
        return 0;
    }
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9'))
        return refuse(r, "this escape");
    return take_cp(r, cp);
}

static int take_class_one(struct regex *r, struct set *x, uint32_t *cp, char *named)
{
    PG_TRY(take_cp(r, cp));
    *named = '\0';
    if (*cp != '\\')
        return 0;
    if (peek(r) == 'b') { /* which is a character here */
        r->at++;
        *cp = '\b';
        return 0;
    }
    PG_TRY(take_escape(r, cp, named));
    return *named ? add_named(r, x, *named) : 0;
}

static int take_class(struct regex *r)
{
    struct set x = {.n = 0};
    bool inverse;
    r->at++;
    inverse = peek(r) == '^';
    r->at += inverse;
    while (peek(r) != ']') {
        uint32_t lo, hi;
        char named;
        PG_TRY(take_class_one(r, &x, &lo, &named));
        hi = lo;
        if (peek(r) == '-' && r->at + 1 < r->n && r->text[r->at + 1] != ']') {
            char other;
            r->at++;
            PG_TRY(take_class_one(r, &x, &hi, &other));
            if (named || other)
                return refuse(r, "a range that begins or ends with a set");
            if (lo > hi)
                return bad(r, "the range ends before it begins");
        }
        if (!named)
            PG_TRY(add_range(r, &x, lo, hi));
    }
    r->at++;
    if (inverse)
        PG_TRY(invert(r, &x));
    return put_set(r, &x);
}

static int take_alternatives(struct regex *r);

static int take_group(struct regex *r)
{
    r->at++;
    if (peek(r) == '?') {
        if (r->at + 1 >= r->n || r->text[r->at + 1] != ':')
            return refuse(r, "a group of this kind");
        r->at += 2;
    }
    if (r->depth == NEST_MAX)
        return refuse(r, "so many groups inside each other");
    r->depth++;
    pg_out_put(r->out, "(");
    PG_TRY(take_alternatives(r));
    pg_out_put(r->out, ")");
    r->depth--;
    if (peek(r) != ')')
        return bad(r, "')' is missing");
    r->at++;
    return 0;
}

static int take_one(struct regex *r)
{
    struct set x = {.n = 0};
    uint32_t cp;
    char named = '\0', c = peek(r);
    if (c == '(')
        return take_group(r);
    if (c == '[')
        return take_class(r);
    if (c == '^' || c == '$')
        return refuse(r, "'^' or '$' in the middle");
    if (c && strchr("*+?{}]", c))
        return c == '}' || c == ']' ? refuse(r, "this character without a backslash")
                                    : bad(r, "there is nothing to repeat");
    PG_TRY(take_cp(r, &cp));
    if (c == '.') { /* not the end of a line */
        static const struct range ends[] = {{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}};
        for (size_t i = 0; i < PG_COUNT(ends); i++)
            PG_TRY(add_range(r, &x, ends[i].lo, ends[i].hi));
        PG_TRY(invert(r, &x));
        return put_set(r, &x);
    }
    if (c == '\\')
        PG_TRY(take_escape(r, &cp, &named));
    if (named) {
        PG_TRY(add_named(r, &x, named));
        return put_set(r, &x);
    }
    put_char(r->out, cp);
    return 0;
}

static int take_number(struct regex *r, int *n)
{
    for (*n = 0; peek(r) >= '0' && peek(r) <= '9'; r->at++) {
        *n = *n * 10 + (peek(r) - '0');
        if (*n > PG_SCHEMA_COUNT_MAX)
            return refuse(r, "so large a count");
    }
    return 0;
}

static int take_counts(struct regex *r)
{
    int least, most;
    r->at++;
    if (peek(r) < '0' || peek(r) > '9')
        return refuse(r, "'{' without a backslash");
    PG_TRY(take_number(r, &least));
    if (peek(r) != ',') {
        pg_out_put(r->out, "{%d}", least);
    } else {
        r->at++;
        if (peek(r) == '}') {
            pg_out_put(r->out, "{%d,}", least);
        } else {
            PG_TRY(take_number(r, &most));
            if (most < least)
                return bad(r, "the most is less than the least");
            pg_out_put(r->out, "{%d,%d}", least, most);
        }
    }
    if (peek(r) != '}')
        return bad(r, "'}' is missing");
    r->at++;
    return 0;
}

/* A lazy repetition finds another match first, but takes the same texts. */
static int take_repeat(struct regex *r)
{
    char c = peek(r);
    if (c == '{') {
        PG_TRY(take_counts(r));
    } else if (c == '*' || c == '+' || c == '?') {
        pg_out_put(r->out, "%c", c);
        r->at++;
    } else {
        return 0;
    }
    r->at += peek(r) == '?';
    return 0;
}

/* One alternative; at the top it may have anchors, and what it has not goes on at that end. */
static int take_sequence(struct regex *r)
{
    const bool top = r->depth == 0, begins = top && peek(r) == '^';
    r->at += begins;
    if (top && !begins)
        pg_out_put(r->out, "%s* ", pg_schema_base(r->s, PG_BASE_CHAR).s);
    pg_out_put(r->out, "\"\"");
    while (r->at < r->n && peek(r) != '|' && peek(r) != ')') {
        bool last = r->at + 1 == r->n || r->text[r->at + 1] == '|';
        if (top && peek(r) == '$' && last) {
            r->at++;
            return 0;
        }
        pg_out_put(r->out, " ");
        PG_TRY(take_one(r));
        PG_TRY(take_repeat(r));
    }
    if (top)
        pg_out_put(r->out, " %s*", pg_schema_base(r->s, PG_BASE_CHAR).s);
    return 0;
}

static int take_alternatives(struct regex *r)
{
    for (;;) {
        PG_TRY(take_sequence(r));
        if (peek(r) != '|')
            return 0;
        r->at++;
        pg_out_put(r->out, " | ");
    }
}

int pg_schema_regex(struct pg_schema *s, const char *pattern, size_t n, struct pg_out *body)
{
    struct regex r = {.s = s, .text = pattern, .n = n, .out = body};
    PG_TRY(take_alternatives(&r));
    return r.at < n ? bad(&r, "there is no group to end") : 0;
}
