/* SPDX-License-Identifier: MIT
 * Trees to positions. Each is made with what follows it at hand, from the end of a rule to its
 * beginning.
 *
 * Short rules without loops are written out where they are called: a rule that is a single
 * character would otherwise end in the middle of most tokens, and what comes then is the work of
 * another stack (matcher.c).
 */
#include "text/grammar.h"

#include "base/os.h"
#include "text/gbnf.h"
#include "text/utf8.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { INLINE_MAX = 64, INLINE_DEPTH = 8, INLINE_HEIGHT = 16, WORK_MAX = 1 << 22 };

enum inlined { UNKNOWN, UNDER_WAY, NO, YES };

struct maker {
    const struct pg_gbnf *tree;
    struct pg_grammar *g;
    uint32_t *entry;  /* [n_rule] where a rule begins */
    uint8_t *inlined; /* [n_rule] enum inlined */
    size_t cap;
    bool may_inline, full;
    uint32_t work;
    int rc;
};

/* ------------------------------------------------------------------ which are short --------- */

static uint32_t cost(struct maker *m, uint32_t node, int depth);

static bool is_inlined(struct maker *m, uint32_t rule, int depth)
{
    if (m->inlined[rule] == UNKNOWN && m->may_inline) {
        uint32_t node = m->tree->rule[rule].node;
        m->inlined[rule] = UNDER_WAY;
        bool yes = depth < INLINE_DEPTH && m->tree->node[node].height <= INLINE_HEIGHT &&
                   cost(m, node, depth + 1) <= INLINE_MAX;
        m->inlined[rule] = yes ? YES : NO;
    }
    return m->inlined[rule] == YES;
}

/* About as many positions as the tree takes, and one for each rule in it, so that this bounds how
 * deep they call each other. More than INLINE_MAX where there is a loop. */
static uint32_t cost(struct maker *m, uint32_t node, int depth)
{
    const struct pg_gbnf_node *n = &m->tree->node[node];
    uint32_t sum = 0;
    switch (n->kind) {
    case PG_GBNF_TEXT:
        return PG_MIN(n->n, (uint32_t)INLINE_MAX + 1);
    case PG_GBNF_CLASS:
        for (uint32_t i = n->at; i < n->at + n->n && sum <= INLINE_MAX; i++)
            sum += m->tree->range[i].hi < 0x80 ? 1 : 6;
        return sum;
    case PG_GBNF_RULE:
        if (!is_inlined(m, n->at, depth))
            return INLINE_MAX + 1;
        return 1 + cost(m, m->tree->rule[n->at].node, depth + 1);
    default:
        for (uint32_t c = n->last_child; c != PG_GBNF_NONE && sum <= INLINE_MAX;
             c = m->tree->node[c].before)
            sum += cost(m, c, depth);
        if (n->kind == PG_GBNF_REPEAT)
            sum = n->n > INLINE_MAX ? INLINE_MAX + 1 : sum * n->n;
        return sum;
    }
}

/* ------------------------------------------------------------------ positions --------------- */

static uint32_t add(struct maker *m, struct pg_pos pos)
{
    struct pg_grammar *g = m->g;
    if (m->full || m->rc)
        return PG_AT_NOTHING;
    if (g->n_pos == PG_POS_MAX) {
        m->full = true;
        return PG_AT_NOTHING;
    }
    m->rc = pg_reserve(&g->pos, &m->cap, (size_t)g->n_pos + 1, sizeof(*g->pos));
    if (m->rc)
        return PG_AT_NOTHING;
    g->pos[g->n_pos] = pos;
    return g->n_pos++;
}

static uint32_t add_byte(struct maker *m, uint32_t lo, uint32_t hi, uint32_t next)
{
    return add(m, (struct pg_pos){
                      .kind = PG_POS_BYTE, .lo = (uint8_t)lo, .hi = (uint8_t)hi, .next = next});
}

static uint32_t add_split(struct maker *m, uint32_t one, uint32_t other)
{
    if (one == PG_AT_NOTHING || other == PG_AT_NOTHING)
        return one + other;
    return add(m, (struct pg_pos){.kind = PG_POS_SPLIT, .next = one, .other = other});
}

/* ------------------------------------------------------------------ characters -------------- */

/* A class under way. rest[k]: k bytes that go on with a character, any; 0: not made yet. */
struct class
{
    uint32_t rest[4];
};

static uint32_t any_rest(struct maker *m, struct class *c, int k)
{
    for (int i = 1; i <= k; i++)
        if (!c->rest[i])
            c->rest[i] = add_byte(m, 0x80, 0xBF, c->rest[i - 1]);
    return c->rest[k];
}

struct piece {
    uint32_t lo, hi; /* what the byte and the k after it say */
    int k;
    uint32_t mark; /* the bits of the byte that say what it is */
};

/* The byte sequences of the numbers lo … hi in k + 1 bytes. */
static uint32_t emit_piece(struct maker *m, struct class *c, struct piece p)
{
    uint32_t all = (1u << (6 * p.k)) - 1, first = p.lo >> (6 * p.k), last = p.hi >> (6 * p.k);
    uint32_t out = PG_AT_NOTHING;
    if (first == last && ((p.lo & all) != 0 || (p.hi & all) != all)) {
        struct piece rest = {p.lo & all, p.hi & all, p.k - 1, 0x80};
        return add_byte(m, p.mark | first, p.mark | first, emit_piece(m, c, rest));
    }
    if ((p.lo & all) != 0) {
        struct piece low = {p.lo, p.lo | all, p.k, p.mark};
        out = emit_piece(m, c, low);
        first++;
    }
    if ((p.hi & all) != all) {
        struct piece high = {p.hi & ~all, p.hi, p.k, p.mark};
        out = add_split(m, emit_piece(m, c, high), out);
        last--;
    }
    if (first <= last)
        out = add_split(m, add_byte(m, p.mark | first, p.mark | last, any_rest(m, c, p.k)), out);
    return out;
}

static uint32_t emit_class(struct maker *m, const struct pg_gbnf_node *n, uint32_t next)
{
    static const struct piece kinds[] = {
        {0, 0x7F, 0, 0},           {0x80, 0x7FF, 1, 0xC0},       {0x800, 0xD7FF, 2, 0xE0},
        {0xE000, 0xFFFF, 2, 0xE0}, {0x10000, 0x10FFFF, 3, 0xF0},
    };
    struct class c = {.rest = {next}};
    uint32_t out = PG_AT_NOTHING;
    for (uint32_t i = n->at; i < n->at + n->n && !m->full; i++) {
        for (size_t k = 0; k < PG_COUNT(kinds); k++) {
            struct piece p = kinds[k];
            p.lo = PG_MAX(p.lo, m->tree->range[i].lo);
            p.hi = PG_MIN(p.hi, m->tree->range[i].hi);
            if (p.lo <= p.hi)
                out = add_split(m, emit_piece(m, &c, p), out);
        }
    }
    return out;
}

/* ------------------------------------------------------------------ trees ------------------- */

static uint32_t emit(struct maker *m, uint32_t node, uint32_t next);

static uint32_t emit_repeat(struct maker *m, const struct pg_gbnf_node *n, uint32_t next)
{
    uint32_t at = next, n_least = n->at;
    if (n->n == PG_GBNF_NONE) {
        uint32_t loop = add_split(m, PG_AT_HOLE, next); /* to be set */
        at = emit(m, n->last_child, loop);
        if (m->full || m->rc)
            return PG_AT_NOTHING;
        m->g->pos[loop].next = at;
        if (!n_least)
            return loop;
        n_least--;
    }
    for (uint32_t i = n->at; n->n != PG_GBNF_NONE && i < n->n && !m->full; i++)
        at = add_split(m, emit(m, n->last_child, at), next);
    for (uint32_t i = 0; i < n_least && !m->full; i++)
        at = emit(m, n->last_child, at);
    return at;
}

/* Where what the node says begins, and then `next`. */
static uint32_t emit(struct maker *m, uint32_t node, uint32_t next)
{
    const struct pg_gbnf_node *n = &m->tree->node[node];
    uint32_t out = next;
    m->full = m->full || m->work++ == WORK_MAX;
    if (m->full || m->rc)
        return PG_AT_NOTHING;
    switch (n->kind) {
    case PG_GBNF_TEXT:
        for (uint32_t i = n->n; i-- > 0;) {
            unsigned char b = (unsigned char)m->tree->bytes[n->at + i];
            out = add_byte(m, b, b, out);
        }
        return out;
    case PG_GBNF_CLASS:
        return emit_class(m, n, next);
    case PG_GBNF_SEQ:
        for (uint32_t c = n->last_child; c != PG_GBNF_NONE; c = m->tree->node[c].before)
            out = emit(m, c, out);
        return out;
    case PG_GBNF_ALT:
        out = PG_AT_NOTHING;
        for (uint32_t c = n->last_child; c != PG_GBNF_NONE; c = m->tree->node[c].before)
            out = add_split(m, emit(m, c, next), out);
        return out;
    case PG_GBNF_REPEAT:
        return emit_repeat(m, n, next);
    default:
        if (is_inlined(m, n->at, 0))
            return emit(m, m->tree->rule[n->at].node, next);
        return add(m, (struct pg_pos){.kind = PG_POS_CALL, .next = next, .other = n->at});
    }
}

static int too_large(const struct maker *m, struct pg_err *err)
{
    return pg_fail(err, PG_ENOTSUP,
                   "grammar: more than %d positions with all repetitions written out (%zu rules)",
                   PG_POS_MAX, m->tree->n_rule);
}

static int emit_rules(struct maker *m)
{
    struct pg_grammar *g = m->g;
    m->full = false;
    m->work = 0;
    g->n_pos = 0;
    add(m, (struct pg_pos){.kind = PG_POS_DEAD});
    if (m->rc)
        return m->rc;
    g->n_pos = PG_AT_FIRST;
    g->pos[PG_AT_ACCEPT] = (struct pg_pos){.kind = PG_POS_MARK};
    g->pos[PG_AT_HOLE] = (struct pg_pos){.kind = PG_POS_MARK};
    g->pos[PG_AT_END] = (struct pg_pos){.kind = PG_POS_END};
    for (size_t r = 0; r < m->tree->n_rule && !m->full && !m->rc; r++)
        m->entry[r] = emit(m, m->tree->rule[r].node, PG_AT_END);
    g->root = m->entry[m->tree->root];
    for (uint32_t i = 0; i < g->n_pos && !m->full; i++)
        if (g->pos[i].kind == PG_POS_CALL)
            g->pos[i].other = m->entry[g->pos[i].other];
    return m->rc;
}

/* ------------------------------------------------------------------ checks ------------------ */

/* Who asks about each position: the users of i are user[from[i], from[i + 1]). */
struct users {
    uint32_t *from, *user;
};

/* The positions that i is defined by; at most two. */
static int parts_of(const struct pg_pos *p, uint32_t out[2])
{
    out[0] = p->next;
    out[1] = p->other;
    return p->kind == PG_POS_BYTE ? 1 : p->kind == PG_POS_SPLIT || p->kind == PG_POS_CALL ? 2 : 0;
}

static int find_users(struct users *u, const struct pg_grammar *g)
{
    uint32_t part[2];
    u->from = pg_calloc((size_t)g->n_pos + 2, sizeof(*u->from));
    u->user = pg_calloc(2 * (size_t)g->n_pos, sizeof(*u->user));
    if (!u->from || !u->user)
        return PG_ENOMEM;
    for (uint32_t i = 0; i < g->n_pos; i++)
        for (int k = parts_of(&g->pos[i], part); k-- > 0;)
            u->from[part[k] + 2]++;
    for (uint32_t i = 0; i < g->n_pos; i++)
        u->from[i + 2] += u->from[i + 1];
    for (uint32_t i = 0; i < g->n_pos; i++)
        for (int k = parts_of(&g->pos[i], part); k-- > 0;)
            u->user[u->from[part[k] + 1]++] = i;
    return 0;
}

/* Marks what reaches an end: a byte if `bytes` and what follows does, a split if one side does, a
 * call if both what it calls and what follows do. `todo` has room for all positions. */
static void mark_reaching(const struct pg_grammar *g, const struct users *u, bool bytes,
                          uint8_t *reaches, uint32_t *todo)
{
    size_t n = 0;
    memset(reaches, 0, g->n_pos);
    for (uint32_t i = PG_AT_ACCEPT; i <= PG_AT_END; i++) {
        reaches[i] = 1;
        todo[n++] = i;
    }
    while (n) {
        uint32_t at = todo[--n];
        for (uint32_t k = u->from[at]; k < u->from[at + 1]; k++) {
            uint32_t i = u->user[k];
            const struct pg_pos *p = &g->pos[i];
            bool yes = p->kind == PG_POS_SPLIT || (p->kind == PG_POS_BYTE && bytes) ||
                       (p->kind == PG_POS_CALL && reaches[p->next] && reaches[p->other]);
            if (yes && !reaches[i]) {
                reaches[i] = 1;
                todo[n++] = i;
            }
        }
    }
}

/* Which rules a rule may call before any byte: those of r are call[from[r], from[r + 1]). */
struct first {
    const struct pg_grammar *g;
    const uint8_t *empty;    /* [n_pos] what may be no byte at all */
    const uint32_t *rule_at; /* [n_pos] the rule that begins there, + 1 */
    uint32_t *seen, *todo;   /* [n_pos] */
    uint32_t *from, *call;
    size_t n_call;
};

static void see(struct first *f, uint32_t rule, uint32_t pos, size_t *n)
{
    if (f->seen[pos] != rule + 1) {
        f->seen[pos] = rule + 1;
        f->todo[(*n)++] = pos;
    }
}

static void find_first(struct first *f, uint32_t rule, uint32_t entry)
{
    size_t n = 0;
    f->from[rule] = (uint32_t)f->n_call;
    see(f, rule, entry, &n);
    while (n) {
        const struct pg_pos *p = &f->g->pos[f->todo[--n]];
        if (p->kind == PG_POS_CALL && f->rule_at[p->other])
            f->call[f->n_call++] = f->rule_at[p->other] - 1;
        if (p->kind == PG_POS_SPLIT || (p->kind == PG_POS_CALL && f->empty[p->other]))
            see(f, rule, p->next, &n);
        if (p->kind == PG_POS_SPLIT)
            see(f, rule, p->other, &n);
    }
    f->from[rule + 1] = (uint32_t)f->n_call;
}

/* A rule that may call itself before any byte, or -1. `path` and `at` have room for all rules. */
static int64_t find_circle(const struct first *f, size_t n_rule, uint32_t *path, uint32_t *at)
{
    enum { NEW, OPEN, DONE };
    uint8_t *state = (uint8_t *)f->seen; /* whose work is done */
    memset(state, NEW, n_rule);
    for (uint32_t r = 0; r < n_rule; r++) {
        size_t n = 0;
        if (state[r] != NEW)
            continue;
        path[n++] = r;
        state[r] = OPEN;
        at[r] = f->from[r];
        while (n) {
            uint32_t top = path[n - 1];
            if (at[top] == f->from[top + 1]) {
                state[top] = DONE;
                n--;
                continue;
            }
            uint32_t to = f->call[at[top]++];
            if (state[to] == OPEN)
                return to;
            if (state[to] == NEW) {
                state[to] = OPEN;
                at[to] = f->from[to];
                path[n++] = to;
            }
        }
    }
    return -1;
}

static int fail_rule(const struct maker *m, uint32_t rule, const char *why, struct pg_err *err)
{
    const struct pg_gbnf_rule *r = &m->tree->rule[rule];
    char what[200];
    snprintf(what, sizeof(what), "rule '%s' %s", pg_quote(m->tree->text + r->name, r->n_name).s,
             why);
    return pg_gbnf_fail(m->tree, r->seen, PG_EFORMAT, what, err);
}

/* Working memory of the checks. */
struct checks {
    struct users users;
    uint8_t *reaches;
    uint32_t *rule_at, *a, *b, *from, *call;
};

static int check_circles(struct maker *m, struct checks *c, struct pg_err *err)
{
    size_t n_rule = m->tree->n_rule;
    struct first f = {.g = m->g,
                      .empty = c->reaches,
                      .rule_at = c->rule_at,
                      .seen = c->a,
                      .todo = c->b,
                      .from = c->from,
                      .call = c->call};
    mark_reaching(m->g, &c->users, false, c->reaches, c->b);
    for (uint32_t r = 0; r < n_rule; r++)
        c->rule_at[m->entry[r]] = r + 1;
    for (uint32_t r = 0; r < n_rule; r++)
        find_first(&f, r, m->entry[r]);
    int64_t circle = find_circle(&f, n_rule, c->b, c->rule_at);
    if (circle < 0)
        return 0;
    return fail_rule(m, (uint32_t)circle, "calls itself before any character (left recursion)",
                     err);
}

static int check(struct maker *m, struct pg_err *err)
{
    struct checks c = {0};
    struct pg_grammar *g = m->g;
    size_t n = PG_MAX((size_t)g->n_pos, m->tree->n_rule) + 2;
    int rc = find_users(&c.users, g);
    c.reaches = pg_calloc(n, 1);
    c.rule_at = pg_calloc(n, sizeof(*c.rule_at));
    c.a = pg_calloc(n, sizeof(*c.a));
    c.b = pg_calloc(n, sizeof(*c.b));
    c.from = pg_calloc(n, sizeof(*c.from));
    c.call = pg_calloc(n, sizeof(*c.call));
    if (rc || !c.reaches || !c.rule_at || !c.a || !c.b || !c.from || !c.call)
        rc = pg_fail(err, PG_ENOMEM, "out of memory for a grammar of %u positions", g->n_pos);
    rc = rc ? rc : check_circles(m, &c, err);
    if (!rc) {
        mark_reaching(g, &c.users, true, c.reaches, c.b);
        for (uint32_t i = 0; i < g->n_pos; i++)
            g->pos[i].live = c.reaches[i];
        if (!g->pos[g->root].live)
            rc = fail_rule(m, m->tree->root, "has no end: no text of it is finite", err);
    }
    free(c.users.from);
    free(c.users.user);
    free(c.reaches);
    free(c.rule_at);
    free(c.a);
    free(c.b);
    free(c.from);
    free(c.call);
    return rc;
}

/* ------------------------------------------------------------------ opening ----------------- */

static void find_classes(struct pg_grammar *g)
{
    bool begins[257] = {true};
    for (uint32_t i = 0; i < g->n_pos; i++) {
        if (g->pos[i].kind == PG_POS_BYTE) {
            begins[g->pos[i].lo] = true;
            begins[g->pos[i].hi + 1] = true;
        }
    }
    for (int b = 0; b < 256; b++) {
        if (begins[b])
            g->byte_of[g->n_class++] = (uint8_t)b;
        g->class_of[b] = (uint8_t)(g->n_class - 1);
    }
}

static int make(struct maker *m, struct pg_err *err)
{
    const struct pg_gbnf *tree = m->tree;
    m->entry = pg_calloc(tree->n_rule, sizeof(*m->entry));
    m->inlined = pg_calloc(tree->n_rule, 1);
    if (!m->entry || !m->inlined)
        return pg_fail(err, PG_ENOMEM, "out of memory for a grammar of %zu rules", tree->n_rule);
    m->may_inline = true;
    int rc = emit_rules(m);
    if (m->full) { /* calls take less room */
        memset(m->inlined, NO, tree->n_rule);
        m->may_inline = false;
        rc = emit_rules(m);
    }
    if (rc)
        return pg_fail(err, PG_ENOMEM, "out of memory for a grammar of %zu rules", tree->n_rule);
    if (m->full)
        return too_large(m, err);
    PG_TRY(check(m, err));
    find_classes(m->g);
    return 0;
}

int pg_grammar_make(pg_grammar **out, char *text, size_t n, struct pg_err *err)
{
    struct pg_gbnf tree = {0};
    struct pg_grammar *g = *out = calloc(1, sizeof(*g));
    struct maker m = {.tree = &tree, .g = g};
    int rc = 0;
    if (!g) {
        free(text);
        return pg_fail(err, PG_ENOMEM, "out of memory for a grammar");
    }
    g->text = text;
    rc = pg_gbnf_parse(&tree, text, n, err);
    rc = rc ? rc : make(&m, err);
    pg_gbnf_free(&tree);
    free(m.entry);
    free(m.inlined);
    if (rc) {
        pg_grammar_close(g);
        *out = NULL;
    }
    return rc;
}

int pg_grammar_open(pg_grammar **out, const char *gbnf, size_t n, struct pg_err *err)
{
    *out = NULL;
    if (!gbnf)
        return pg_fail(err, PG_EARG, "grammar: none given");
    if (n > PG_GBNF_TEXT_MAX)
        return pg_fail(err, PG_EFORMAT, "grammar: %zu bytes found, %d at most wanted", n,
                       PG_GBNF_TEXT_MAX);
    char *text = malloc(n + 1);
    if (!text)
        return pg_fail(err, PG_ENOMEM, "out of memory for a grammar of %zu bytes", n);
    memcpy(text, gbnf, n);
    text[n] = '\0';
    return pg_grammar_make(out, text, n, err);
}

const char *pg_grammar_text(const pg_grammar *g)
{
    return g->text;
}

void pg_grammar_close(pg_grammar *g)
{
    if (!g)
        return;
    free(g->text);
    free(g->pos);
    free(g);
}
