/* SPDX-License-Identifier: MIT
 * PCRE2 does the matching, compiled to machine code where the system lets it. Every match has
 * limits in proportion to the text, so that no text and no pattern can hold the program for long.
 */
#include "text/pretok.h"
#include "base/err.h"
#include "text/pretok_rules.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { JIT_STACK_START = 32 << 10, JIT_STACK_MAX = 8 << 20, HEAP_KIB = 64 << 10 };

struct pg_pretok {
    const struct pg_pretok_rule *rule;
    pcre2_general_context *memory;
    pcre2_code *stage[PG_PRETOK_MAX_STAGES];
    int n_stage;
};

/* A piece that a stage is splitting. The bytes [lo, hi) are its next match. */
struct level {
    struct pg_str text;
    size_t at, lo, hi;
};

struct pg_splitter {
    const struct pg_pretok *pretok;
    pcre2_match_data *match;
    pcre2_match_context *limits;
    pcre2_jit_stack *stack;
    struct level level[PG_PRETOK_MAX_STAGES];
    int depth; /* the level being split; -1 at the end */
};

/* PCRE2's memory goes through these so that a failing malloc is met in every place. */
static void *take(size_t n, void *unused)
{
    (void)unused;
    return malloc(n);
}

static void give(void *p, void *unused)
{
    (void)unused;
    free(p);
}

static int unknown_label(struct pg_str label, struct pg_err *err)
{
    char known[400];
    size_t n = 0;

    for (int i = 0; i < pg_pretok_n_labels; i++) {
        const char *name = pg_pretok_labels[i].name;
        if (n + strlen(name) + 3 < sizeof(known))
            n += (size_t)sprintf(known + n, "%s%s", i ? ", " : "", name);
    }
    return pg_fail(err, PG_ENOTSUP, "tokenizer.ggml.pre is '%s', known are %s",
                   pg_quote(label.s, label.n).s, known);
}

static int compile_stage(struct pg_pretok *p, const char *pattern, struct pg_err *err)
{
    int code;
    PCRE2_SIZE at;
    pcre2_compile_context *how = pcre2_compile_context_create(p->memory);

    if (!how)
        return pg_fail(err, PG_ENOMEM, "out of memory for a pre-tokenizer");
    pcre2_code *stage = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED,
                                      PCRE2_UTF | PCRE2_NO_UTF_CHECK, &code, &at, how);
    pcre2_compile_context_free(how);
    if (!stage && code == PCRE2_ERROR_HEAP_FAILED)
        return pg_fail(err, PG_ENOMEM, "out of memory for a pre-tokenizer");
    PG_ASSERT(stage); /* the patterns are ours */
    /* Where the system forbids writing code, the interpreter gives the same words. */
    pcre2_jit_compile(stage, PCRE2_JIT_COMPLETE);
    p->stage[p->n_stage++] = stage;
    return 0;
}

static int pretok_open(struct pg_pretok *p, struct pg_str label, struct pg_err *err)
{
    for (int i = 0; i < pg_pretok_n_labels && !p->rule; i++) {
        const char *name = pg_pretok_labels[i].name;
        if (strlen(name) == label.n && !memcmp(name, label.s, label.n))
            p->rule = pg_pretok_labels[i].rule;
    }
    if (!p->rule)
        return unknown_label(label, err);
    p->memory = pcre2_general_context_create(take, give, NULL);
    if (!p->memory)
        return pg_fail(err, PG_ENOMEM, "out of memory for a pre-tokenizer");
    for (int i = 0; i < PG_PRETOK_MAX_STAGES && p->rule->pattern[i]; i++)
        PG_TRY(compile_stage(p, p->rule->pattern[i], err));
    return 0;
}

int pg_pretok_open(struct pg_pretok **out, struct pg_str label, struct pg_err *err)
{
    struct pg_pretok *p = *out = calloc(1, sizeof(*p));
    if (!p)
        return pg_fail(err, PG_ENOMEM, "out of memory for a pre-tokenizer");
    int rc = pretok_open(p, label, err);
    if (rc) {
        pg_pretok_close(p);
        *out = NULL;
    }
    return rc;
}

void pg_pretok_close(struct pg_pretok *p)
{
    if (!p)
        return;
    for (int i = 0; i < p->n_stage; i++)
        pcre2_code_free(p->stage[i]);
    pcre2_general_context_free(p->memory);
    free(p);
}

const struct pg_pretok_rule *pg_pretok_rule(const struct pg_pretok *p)
{
    return p->rule;
}

uint64_t pg_pretok_heap_bytes(const struct pg_pretok *p)
{
    uint64_t n = p ? sizeof(*p) : 0;
    for (int i = 0; p && i < p->n_stage; i++) {
        size_t code = 0, jit = 0;
        pcre2_pattern_info(p->stage[i], PCRE2_INFO_SIZE, &code);
        pcre2_pattern_info(p->stage[i], PCRE2_INFO_JITSIZE, &jit);
        n += code + jit;
    }
    return n;
}

static int splitter_open(struct pg_splitter *s, struct pg_err *err)
{
    s->match = pcre2_match_data_create(1, s->pretok->memory);
    s->limits = pcre2_match_context_create(s->pretok->memory);
    s->stack = pcre2_jit_stack_create(JIT_STACK_START, JIT_STACK_MAX, s->pretok->memory);
    if (!s->match || !s->limits || !s->stack)
        return pg_fail(err, PG_ENOMEM, "out of memory for splitting text");
    pcre2_jit_stack_assign(s->limits, NULL, s->stack);
    pcre2_set_heap_limit(s->limits, HEAP_KIB);
    s->depth = -1;
    return 0;
}

int pg_splitter_open(struct pg_splitter **out, const struct pg_pretok *p, struct pg_err *err)
{
    struct pg_splitter *s = *out = calloc(1, sizeof(*s));
    if (!s)
        return pg_fail(err, PG_ENOMEM, "out of memory for splitting text");
    s->pretok = p;
    int rc = splitter_open(s, err);
    if (rc) {
        pg_splitter_close(s);
        *out = NULL;
    }
    return rc;
}

void pg_splitter_close(struct pg_splitter *s)
{
    if (!s)
        return;
    pcre2_match_data_free(s->match);
    pcre2_match_context_free(s->limits);
    pcre2_jit_stack_free(s->stack);
    free(s);
}

void pg_splitter_start(struct pg_splitter *s, struct pg_str text)
{
    uint64_t limit = 100000 + 64 * (uint64_t)text.n;
    limit = PG_MIN(limit, UINT32_MAX);
    pcre2_set_match_limit(s->limits, (uint32_t)limit);
    pcre2_set_depth_limit(s->limits, (uint32_t)limit);
    s->depth = 0;
    s->level[0] = (struct level){.text = text};
}

static int no_match(int rc, struct pg_err *err)
{
    PCRE2_UCHAR text[128];
    if (rc == PCRE2_ERROR_NOMEMORY)
        return pg_fail(err, PG_ENOMEM, "out of memory for splitting text");
    pcre2_get_error_message(rc, text, sizeof(text));
    return pg_fail(err, PG_EARG, "text cannot be split into words: %s", (const char *)text);
}

/* Finds the level's next match from `at` on; without one, [lo, hi) is empty at the end. */
static int find(struct pg_splitter *s, int stage, struct level *l, struct pg_err *err)
{
    const uint32_t flags = PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY;
    const pcre2_code *code = s->pretok->stage[stage];
    int rc = pcre2_match(code, (PCRE2_SPTR)l->text.s, l->text.n, l->at, flags, s->match, s->limits);

    if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
        rc = pcre2_match(code, (PCRE2_SPTR)l->text.s, l->text.n, l->at, flags | PCRE2_NO_JIT,
                         s->match, s->limits);
    if (rc == PCRE2_ERROR_NOMATCH) {
        l->lo = l->hi = l->text.n;
        return 0;
    }
    if (rc < 0)
        return no_match(rc, err);
    const PCRE2_SIZE *range = pcre2_get_ovector_pointer(s->match);
    l->lo = range[0];
    l->hi = range[1];
    return 0;
}

int pg_splitter_next(struct pg_splitter *s, struct pg_str *word, struct pg_err *err)
{
    while (s->depth >= 0) {
        struct level *l = &s->level[s->depth];
        if (l->at == l->text.n) {
            s->depth--;
            continue;
        }
        if (l->at == l->hi)
            PG_TRY(find(s, s->depth, l, err));
        size_t end = l->at < l->lo ? l->lo : l->hi;
        struct pg_str piece = {l->text.s + l->at, end - l->at};
        l->at = end;
        if (s->depth + 1 == s->pretok->n_stage) {
            *word = piece;
            return 1;
        }
        s->level[++s->depth] = (struct level){.text = piece};
    }
    return 0;
}
