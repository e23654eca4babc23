/* SPDX-License-Identifier: MIT
 * GBNF as llama.cpp's users write it. The text comes from strangers: nesting, repetition, rules and
 * bytes are bounded while they are read, so that trees are as small as the text.
 */
#include "text/gbnf.h"

#include "base/os.h"
#include "text/strmap.h"
#include "text/utf8.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct parser {
    struct pg_gbnf *g;
    size_t at;
    int depth; /* groups that are open */
    struct pg_err *err;
};

/* ------------------------------------------------------------------ errors ------------------ */

int pg_gbnf_fail(const struct pg_gbnf *g, size_t at, int code, const char *what, struct pg_err *err)
{
    size_t line = 1, begin = 0;
    for (size_t i = 0; i < at; i++) {
        if (g->text[i] == '\n') {
            line++;
            begin = i + 1;
        }
    }
    return pg_fail(err, code, "grammar: line %zu, column %zu: %s", line, at - begin + 1, what);
}

static int fail_at(const struct parser *p, size_t at, const char *what)
{
    return pg_gbnf_fail(p->g, at, PG_EFORMAT, what, p->err);
}

/* What stands here, and what was wanted. */
static int fail_wanted(const struct parser *p, const char *wanted)
{
    char what[256];
    struct pg_quoted found = {"the end"};
    if (p->at < p->g->n)
        found = pg_quote(p->g->text + p->at, 1);
    snprintf(what, sizeof(what), "'%s' found, %s wanted", found.s, wanted);
    return fail_at(p, p->at, what);
}

static int no_memory(const struct parser *p)
{
    return pg_fail(p->err, PG_ENOMEM, "out of memory for a grammar of %zu bytes", p->g->n);
}

/* ------------------------------------------------------------------ growing ----------------- */

static int add_node(struct parser *p, struct pg_gbnf_node node, uint32_t *id)
{
    struct pg_gbnf *g = p->g;
    if (pg_reserve(&g->node, &g->cap_node, g->n_node + 1, sizeof(*g->node)))
        return no_memory(p);
    node.last_child = node.before = PG_GBNF_NONE;
    *id = (uint32_t)g->n_node;
    g->node[g->n_node++] = node;
    return 0;
}

static int add_child(struct parser *p, uint32_t parent, uint32_t child)
{
    struct pg_gbnf_node *n = p->g->node;
    if (n[child].height >= PG_GBNF_HEIGHT_MAX)
        return fail_at(p, p->at, "repetitions of repetitions are nested too deeply");
    n[child].before = n[parent].last_child;
    n[parent].last_child = child;
    n[parent].height = (uint16_t)PG_MAX(n[parent].height, n[child].height + 1);
    return 0;
}

static int add_range(struct parser *p, uint32_t lo, uint32_t hi)
{
    struct pg_gbnf *g = p->g;
    if (pg_reserve(&g->range, &g->cap_range, g->n_range + 1, sizeof(*g->range)))
        return no_memory(p);
    g->range[g->n_range++] = (struct pg_gbnf_range){lo, hi};
    return 0;
}

static int add_char(struct parser *p, uint32_t cp)
{
    struct pg_gbnf *g = p->g;
    if (pg_reserve(&g->bytes, &g->cap_bytes, g->n_bytes + 4, 1))
        return no_memory(p);
    g->n_bytes += (size_t)pg_utf8_encode(cp, g->bytes + g->n_bytes);
    return 0;
}

/* ------------------------------------------------------------------ names ------------------- */

static bool is_name(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_';
}

static uint32_t *find_slot(const struct pg_gbnf *g, const char *name, size_t n)
{
    uint64_t h = g->seed;
    for (size_t i = 0; i < n; i++)
        h = pg_mix64(h ^ (unsigned char)name[i]);
    for (uint32_t i = (uint32_t)h & g->slot_mask;; i = (i + 1) & g->slot_mask) {
        if (!g->slot[i])
            return &g->slot[i];
        const struct pg_gbnf_rule *r = &g->rule[g->slot[i] - 1];
        if (r->n_name == n && !memcmp(g->text + r->name, name, n))
            return &g->slot[i];
    }
}

static int grow_slots(struct parser *p)
{
    struct pg_gbnf *g = p->g;
    uint32_t n = g->slot ? 2 * (g->slot_mask + 1) : 256;
    free(g->slot);
    g->slot = pg_calloc(n, sizeof(*g->slot));
    if (!g->slot)
        return no_memory(p);
    g->slot_mask = n - 1;
    for (size_t i = 0; i < g->n_rule; i++)
        *find_slot(g, g->text + g->rule[i].name, g->rule[i].n_name) = (uint32_t)i + 1;
    return 0;
}

/* The rule whose name stands here, which may be new. */
static int take_name(struct parser *p, uint32_t *rule)
{
    struct pg_gbnf *g = p->g;
    size_t from = p->at;
    while (p->at < g->n && is_name(g->text[p->at]))
        p->at++;
    if (p->at == from)
        return fail_wanted(p, "the name of a rule");
    if (!g->slot || 2 * g->n_rule > g->slot_mask)
        PG_TRY(grow_slots(p));
    uint32_t *slot = find_slot(g, g->text + from, p->at - from);
    if (!*slot) {
        if (g->n_rule == PG_GBNF_RULES_MAX)
            return fail_at(p, from, "more than 65536 rules");
        if (pg_reserve(&g->rule, &g->cap_rule, g->n_rule + 1, sizeof(*g->rule)))
            return no_memory(p);
        g->rule[g->n_rule++] = (struct pg_gbnf_rule){(uint32_t)from, (uint32_t)(p->at - from),
                                                     (uint32_t)from, PG_GBNF_NONE};
        *slot = (uint32_t)g->n_rule;
    }
    *rule = *slot - 1;
    return 0;
}

/* ------------------------------------------------------------------ characters -------------- */

static bool here(const struct parser *p, const char *s)
{
    size_t n = strlen(s);
    return p->g->n - p->at >= n && !memcmp(p->g->text + p->at, s, n);
}

static char peek(const struct parser *p)
{
    return p->at < p->g->n ? p->g->text[p->at] : '\0';
}

/* Spaces and comments, and where a line may go on the ends of lines. */
static void skip(struct parser *p, bool lines)
{
    for (; p->at < p->g->n; p->at++) {
        char c = p->g->text[p->at];
        if (c == '#')
            while (p->at + 1 < p->g->n && p->g->text[p->at + 1] != '\n')
                p->at++;
        else if (c != ' ' && c != '\t' && !(lines && (c == '\n' || c == '\r')))
            return;
    }
}

static int take_hex(struct parser *p, int n, uint32_t *cp)
{
    *cp = 0;
    for (int i = 0; i < n; i++, p->at++) {
        char c = peek(p);
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0)
            return fail_wanted(p, "a hexadecimal digit");
        *cp = *cp << 4 | (uint32_t)digit;
    }
    if (*cp > 0x10FFFF || (*cp >= 0xD800 && *cp < 0xE000))
        return fail_at(p, p->at - (size_t)n, "the escape names no character");
    return 0;
}

static int take_escape(struct parser *p, uint32_t *cp)
{
    char c = peek(p);
    p->at++;
    switch (c) {
    case 'x':
        return take_hex(p, 2, cp);
    case 'u':
        return take_hex(p, 4, cp);
    case 'U':
        return take_hex(p, 8, cp);
    case 't':
        *cp = '\t';
        return 0;
    case 'r':
        *cp = '\r';
        return 0;
    case 'n':
        *cp = '\n';
        return 0;
    case '\\':
    case '"':
    case '[':
    case ']':
        *cp = (unsigned char)c;
        return 0;
    default:
        p->at--;
        return fail_wanted(p, "x, u, U, t, r, n, \\, \", [ or ] after a backslash");
    }
}

static int take_char(struct parser *p, uint32_t *cp)
{
    if (p->at == p->g->n)
        return fail_wanted(p, "a character");
    if (peek(p) == '\\') {
        p->at++;
        return take_escape(p, cp);
    }
    int len = pg_utf8_scan(p->g->text + p->at, p->g->n - p->at);
    if (len <= 0)
        return fail_wanted(p, "UTF-8");
    *cp = pg_utf8_decode(p->g->text + p->at, len);
    p->at += (size_t)len;
    return 0;
}

static int take_literal(struct parser *p, uint32_t *id)
{
    size_t from = p->g->n_bytes, begin = p->at++;
    while (peek(p) != '"') {
        uint32_t cp;
        if (p->at == p->g->n)
            return fail_at(p, begin, "the text that begins here has no end");
        PG_TRY(take_char(p, &cp));
        PG_TRY(add_char(p, cp));
    }
    p->at++;
    return add_node(p,
                    (struct pg_gbnf_node){.kind = PG_GBNF_TEXT,
                                          .at = (uint32_t)from,
                                          .n = (uint32_t)(p->g->n_bytes - from)},
                    id);
}

static int by_lo(const void *a, const void *b)
{
    const struct pg_gbnf_range *x = a, *y = b;
    return x->lo != y->lo ? (x->lo < y->lo ? -1 : 1) : 0;
}

/* Sorts the ranges from `from` on, joins what touches, and turns them round if `inverse`. */
static int settle_ranges(struct parser *p, size_t from, bool inverse)
{
    struct pg_gbnf *g = p->g;
    PG_TRY(add_range(p, 0x110000, 0x110000)); /* the complement may be one more */
    size_t n = --g->n_range, to = from;
    struct pg_gbnf_range *r = g->range;
    qsort(r + from, n - from, sizeof(*r), by_lo);
    for (size_t i = from; i < n; i++)
        if (to > from && r[i].lo <= r[to - 1].hi + 1)
            r[to - 1].hi = PG_MAX(r[to - 1].hi, r[i].hi);
        else
            r[to++] = r[i];
    g->n_range = to;
    if (!inverse)
        return 0;
    uint32_t lo = 0;
    n = to;
    to = from;
    for (size_t i = from; i <= n; i++) {
        struct pg_gbnf_range gap = {lo, i < n ? r[i].lo - 1 : 0x10FFFF};
        bool none = i < n ? r[i].lo == lo : lo > 0x10FFFF;
        lo = i < n ? r[i].hi + 1 : lo;
        if (!none)
            r[to++] = gap; /* never beyond i: the one before has been read */
    }
    g->n_range = to;
    return 0;
}

static int take_class_range(struct parser *p)
{
    uint32_t lo, hi;
    size_t from = p->at;
    PG_TRY(take_char(p, &lo));
    hi = lo;
    if (peek(p) == '-' && !here(p, "-]")) {
        p->at++;
        PG_TRY(take_char(p, &hi));
    }
    if (lo > hi)
        return fail_at(p, from, "the range ends before it begins");
    return add_range(p, lo, hi);
}

static int take_class(struct parser *p, uint32_t *id)
{
    size_t from = p->g->n_range, begin = p->at++;
    bool inverse = peek(p) == '^';
    p->at += inverse;
    while (peek(p) != ']') {
        if (p->at == p->g->n)
            return fail_at(p, begin, "the class that begins here has no end");
        PG_TRY(take_class_range(p));
    }
    p->at++;
    if (p->g->n_range == from)
        return fail_at(p, begin, "the class is empty");
    PG_TRY(settle_ranges(p, from, inverse));
    return add_node(p,
                    (struct pg_gbnf_node){.kind = PG_GBNF_CLASS,
                                          .at = (uint32_t)from,
                                          .n = (uint32_t)(p->g->n_range - from)},
                    id);
}

/* ------------------------------------------------------------------ rules ------------------- */

static int take_alternatives(struct parser *p, uint32_t *id);

static int take_group(struct parser *p, uint32_t *id)
{
    size_t begin = p->at++;
    if (p->depth == PG_GBNF_NEST_MAX)
        return fail_at(p, begin, "more than 128 groups inside each other");
    p->depth++;
    skip(p, true);
    PG_TRY(take_alternatives(p, id));
    if (peek(p) != ')')
        return p->at < p->g->n ? fail_wanted(p, "')'")
                               : fail_at(p, begin, "the group that begins here has no end");
    p->at++;
    p->depth--;
    return 0;
}

static int take_one(struct parser *p, uint32_t *id)
{
    uint32_t rule;
    switch (peek(p)) {
    case '"':
        return take_literal(p, id);
    case '[':
        return take_class(p, id);
    case '(':
        return take_group(p, id);
    case '.':
        p->at++;
        PG_TRY(add_range(p, 0, 0x10FFFF));
        return add_node(
            p,
            (struct pg_gbnf_node){.kind = PG_GBNF_CLASS, .at = (uint32_t)p->g->n_range - 1, .n = 1},
            id);
    default:
        PG_TRY(take_name(p, &rule));
        return add_node(p, (struct pg_gbnf_node){.kind = PG_GBNF_RULE, .at = rule}, id);
    }
}

static int take_number(struct parser *p, uint32_t *n)
{
    size_t from = p->at;
    for (*n = 0; peek(p) >= '0' && peek(p) <= '9'; p->at++) {
        *n = *n * 10 + (uint32_t)(peek(p) - '0');
        if (*n > PG_GBNF_REPEAT_MAX)
            return fail_at(p, from, "repeated more than 65536 times");
    }
    return 0;
}

static bool is_digit(const struct parser *p)
{
    return peek(p) >= '0' && peek(p) <= '9';
}

/* What stands between { and }. */
static int take_counts(struct parser *p, struct pg_gbnf_node *r)
{
    bool lines = p->depth > 0;
    p->at++;
    skip(p, lines);
    if (!is_digit(p) && peek(p) != ',')
        return fail_wanted(p, "a number or ','");
    PG_TRY(take_number(p, &r->at));
    r->n = r->at;
    skip(p, lines);
    if (peek(p) == ',') {
        p->at++;
        skip(p, lines);
        r->n = PG_GBNF_NONE;
        if (is_digit(p))
            PG_TRY(take_number(p, &r->n));
        skip(p, lines);
    }
    if (peek(p) != '}')
        return fail_wanted(p, "'}'");
    if (r->n < r->at)
        return fail_at(p, p->at, "the most is less than the least");
    p->at++;
    return 0;
}

/* Whether *id is repeated, which puts a node over it. */
static int take_repeat(struct parser *p, uint32_t *id, bool *found)
{
    struct pg_gbnf_node r = {.kind = PG_GBNF_REPEAT, .n = PG_GBNF_NONE};
    uint32_t over;
    char c = peek(p);
    *found = c == '*' || c == '+' || c == '?' || c == '{';
    if (!*found)
        return 0;
    r.at = c == '+';
    if (c == '?')
        r.n = 1;
    if (c == '{')
        PG_TRY(take_counts(p, &r));
    else
        p->at++;
    PG_TRY(add_node(p, r, &over));
    PG_TRY(add_child(p, over, *id));
    *id = over;
    return 0;
}

static int take_sequence(struct parser *p, uint32_t *id)
{
    PG_TRY(add_node(p, (struct pg_gbnf_node){.kind = PG_GBNF_SEQ}, id));
    for (;;) {
        char c = peek(p);
        uint32_t one;
        bool more = true;
        if (c == '<' || c == '!')
            return pg_gbnf_fail(p->g, p->at, PG_ENOTSUP, "tokens in a grammar are not supported",
                                p->err);
        if (c != '"' && c != '[' && c != '(' && c != '.' && !is_name(c))
            return 0;
        PG_TRY(take_one(p, &one));
        while (more) {
            skip(p, p->depth > 0);
            PG_TRY(take_repeat(p, &one, &more));
        }
        PG_TRY(add_child(p, *id, one));
    }
}

static int take_alternatives(struct parser *p, uint32_t *id)
{
    uint32_t one;
    PG_TRY(add_node(p, (struct pg_gbnf_node){.kind = PG_GBNF_ALT}, id));
    for (;;) {
        PG_TRY(take_sequence(p, &one));
        PG_TRY(add_child(p, *id, one));
        if (peek(p) != '|')
            return 0;
        p->at++;
        skip(p, true);
    }
}

static int take_rule(struct parser *p)
{
    uint32_t rule, node;
    size_t from = p->at;
    PG_TRY(take_name(p, &rule));
    if (p->g->rule[rule].node != PG_GBNF_NONE)
        return fail_at(p, from, "the rule is defined a second time");
    skip(p, false);
    if (!here(p, "::="))
        return fail_wanted(p, "'::='");
    p->at += 3;
    skip(p, true);
    PG_TRY(take_alternatives(p, &node));
    p->g->rule[rule].node = node;
    if (p->at < p->g->n && peek(p) != '\n' && peek(p) != '\r')
        return fail_wanted(p, "the end of the rule");
    return 0;
}

static int check_names(const struct parser *p)
{
    char what[160];
    const struct pg_gbnf *g = p->g;
    for (size_t i = 0; i < g->n_rule; i++) {
        const struct pg_gbnf_rule *r = &g->rule[i];
        if (r->node != PG_GBNF_NONE)
            continue;
        snprintf(what, sizeof(what), "rule '%s' is not defined",
                 pg_quote(g->text + r->name, r->n_name).s);
        return fail_at(p, r->seen, what);
    }
    uint32_t root = g->slot ? *find_slot(g, "root", 4) : 0;
    if (!root)
        return pg_fail(p->err, PG_EFORMAT, "grammar: %zu rules found, none of them is 'root'",
                       g->n_rule);
    p->g->root = root - 1;
    return 0;
}

int pg_gbnf_parse(struct pg_gbnf *g, const char *text, size_t n, struct pg_err *err)
{
    struct parser p = {.g = g, .err = err};
    *g = (struct pg_gbnf){.text = text, .n = n, .seed = (uint64_t)(uintptr_t)g};
    if (n > PG_GBNF_TEXT_MAX)
        return pg_fail(err, PG_EFORMAT, "grammar: %zu bytes found, %d at most wanted", n,
                       PG_GBNF_TEXT_MAX);
    for (skip(&p, true); p.at < n; skip(&p, true))
        PG_TRY(take_rule(&p));
    return check_names(&p);
}

void pg_gbnf_free(struct pg_gbnf *g)
{
    free(g->node);
    free(g->range);
    free(g->bytes);
    free(g->rule);
    free(g->slot);
}
