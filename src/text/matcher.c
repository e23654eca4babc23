/* SPDX-License-Identifier: MIT
 * Which tokens may come next, for the whole vocabulary at once.
 *
 * The tokens that a text allows depend on all of its stacks, of which there are endlessly many. But
 * most tokens are decided by the top of a stack alone: inside of a string it does not matter what
 * the string is in. So the positions that have the same stack below them are looked at by
 * themselves, with a *hole* in the place of what is below: a kernel. Walking the tokens from a
 * kernel gives those that it allows, and those in the middle of which the hole is reached, as the
 * nodes of the token tree where that happens: a *forest*. What stands below the hole goes on there,
 * as kernels of its own. What a kernel says of a forest does not depend on what is below, so it is
 * kept and serves wherever these positions come again; a mask is then put together from a handful
 * of such finds.
 */
#include "text/matcher.h"

#include "base/os.h"
#include "text/stacks.h"
#include "text/token_index.h"
#include "text/vocab_impl.h"

#include <stdlib.h>
#include <string.h>

enum {
    FINDS_MAX = 1 << 13,
    FIND_SLOTS = 2 * FINDS_MAX,
    FULL_MASKS = 192,       /* masks of the whole vocabulary that there is room for, and */
    LIST_WORDS = 1 << 18,   /* numbers in lists */
    APPLY_MAX = 1 << 16,    /* finds that one mask may be put together from */
    FIRST_FOREST = 0,       /* the whole tree */
    AFTER_SPACE_FOREST = 1, /* what is below the token " " */
    OWN_FORESTS
};

/* What a kernel says of a forest. */
struct find {
    uint32_t kernel, forest; /* set; number of a find, whose nodes it is */
    uint32_t token, n_token; /* in `data`: ids, or where `mask` a bit for each */
    uint32_t node, n_node;   /* in `data`: the forest that is left to what is below */
    bool mask;
};

struct pg_matcher {
    const pg_vocab *vocab;
    const struct pg_token_index *tokens;
    struct pg_stacks stacks;
    uint32_t n_vocab, n_word;
    uint32_t at; /* the set of stacks, closed */
    bool at_beginning, ended;

    struct find *find;
    uint32_t *slot; /* hash -> find + 1 */
    uint32_t n_find;
    uint32_t *data;
    uint32_t n_data, cap_data;
    bool data_full;

    uint32_t *path;    /* [max_depth + 1] sets on the way to a node */
    uint32_t *scratch; /* [n_word] bits */
    uint32_t n_apply;

    void *memory;
    size_t n_memory;
};

/* ------------------------------------------------------------------ memory ------------------ */

static void forget_finds(struct pg_matcher *m)
{
    memset(m->slot, 0, FIND_SLOTS * sizeof(*m->slot));
    m->data[0] = 0;
    m->data[1] = m->tokens->space;
    m->find[FIRST_FOREST] = (struct find){.node = 0, .n_node = 1};
    m->find[AFTER_SPACE_FOREST] = (struct find){.node = 1, .n_node = 1};
    m->n_find = OWN_FORESTS;
    m->n_data = OWN_FORESTS;
    m->data_full = false;
}

static void carve(struct pg_matcher *m, const pg_grammar *g, struct pg_arena *a)
{
    m->n_vocab = m->vocab->pieces.n;
    m->n_word = (m->n_vocab + 31) / 32;
    m->cap_data = FULL_MASKS * m->n_word + LIST_WORDS;
    pg_stacks_carve(&m->stacks, g, a);
    m->find = pg_arena_take(a, FINDS_MAX * sizeof(*m->find));
    m->slot = pg_arena_take(a, FIND_SLOTS * sizeof(*m->slot));
    m->data = pg_arena_take(a, m->cap_data * sizeof(*m->data));
    m->path = pg_arena_take(a, ((size_t)m->tokens->max_depth + 1) * sizeof(*m->path));
    m->scratch = pg_arena_take(a, m->n_word * sizeof(*m->scratch));
}

static size_t measure(const pg_grammar *g, const pg_vocab *v, const struct pg_token_index *tokens)
{
    struct pg_matcher m = {.vocab = v, .tokens = tokens};
    struct pg_arena a = {0};
    carve(&m, g, &a);
    return a.used;
}

uint64_t pg_matcher_bytes(const pg_grammar *g, const pg_vocab *v)
{
    const struct pg_token_index *tokens = pg_token_index_of(v);
    if (!tokens)
        return 0;
    return g ? sizeof(struct pg_matcher) + measure(g, v, tokens) + PG_PAGE : tokens->bytes;
}

/* Room is made by forgetting: transitions, sets that only they lead to, and if that may not be
 * enough, all finds. */
static void make_room(struct pg_matcher *m, bool all)
{
    struct pg_stacks *s = &m->stacks;
    all = all || m->data_full;
    pg_stacks_keep(s, m->at);
    for (uint32_t i = OWN_FORESTS; i < m->n_find && !all; i++)
        pg_stacks_keep(s, m->find[i].kernel);
    pg_stacks_sweep(s);
    m->at = pg_stacks_moved(s, m->at);
    if (all) {
        forget_finds(m);
        return;
    }
    memset(m->slot, 0, FIND_SLOTS * sizeof(*m->slot));
    for (uint32_t i = OWN_FORESTS; i < m->n_find; i++)
        m->find[i].kernel = pg_stacks_moved(s, m->find[i].kernel);
}

/* ------------------------------------------------------------------ finds ------------------- */

static uint32_t *find_slot(const struct pg_matcher *m, uint32_t kernel, uint32_t forest)
{
    uint32_t hash = (kernel * 0x9e3779b1u ^ forest * 0x85ebca6bu) * 0xc2b2ae35u;
    for (uint32_t i = hash >> 18;; i = (i + 1) % FIND_SLOTS) {
        const struct find *f = &m->find[m->slot[i] - 1];
        if (!m->slot[i] || (f->kernel == kernel && f->forest == forest))
            return &m->slot[i];
    }
}

static void put_tokens(const struct pg_matcher *m, uint32_t from, uint32_t to)
{
    for (uint32_t i = from; i < to; i++) {
        uint32_t id = (uint32_t)m->tokens->token[i];
        m->scratch[id / 32] |= 1u << (id % 32);
    }
}

static void leave_node(struct pg_matcher *m, uint32_t node)
{
    if (m->n_data == m->cap_data)
        m->data_full = true;
    else
        m->data[m->n_data++] = node;
}

enum { RUN_NODES = 8 }; /* so many are worth the look whether all may come */

/* Walks the descendants of a node from a kernel: tokens go to scratch, nodes where the hole is
 * reached to data. */
static void walk(struct pg_matcher *m, uint32_t kernel, uint32_t top)
{
    const struct pg_token_index *x = m->tokens;
    struct pg_stacks *s = &m->stacks;
    const uint32_t end = x->end[top];
    m->path[x->depth[top]] = kernel;
    for (uint32_t i = top + 1; i < end && !s->full && !m->data_full;) {
        const uint32_t after = x->end[i], depth = x->depth[i], from = m->path[depth - 1];
        const uint8_t height = x->height[i];
        if (after - i > RUN_NODES &&
            pg_stacks_run(s, from, x->kinds[i], height < 255 ? height + 1 : 255)) {
            put_tokens(m, x->first[i], x->first[after]);
            i = after;
            continue;
        }
        const uint32_t to = pg_stacks_next(s, from, x->byte[i]);
        if (!to) {
            i = after;
            continue;
        }
        put_tokens(m, x->first[i], x->first[i + 1]);
        m->path[depth] = to;
        if (s->set[to].has_hole && after > i + 1)
            leave_node(m, i);
        i = to == PG_SET_HOLE ? after : i + 1;
    }
}

/* Moves the tokens in scratch to data, in the shorter form. */
static void keep_tokens(struct pg_matcher *m, struct find *f)
{
    uint32_t n = 0;
    for (uint32_t w = 0; w < m->n_word; w++)
        n += (uint32_t)__builtin_popcount(m->scratch[w]);
    f->mask = n > m->n_word;
    f->token = m->n_data;
    f->n_token = f->mask ? m->n_word : n;
    if (f->n_token > m->cap_data - m->n_data) {
        m->data_full = true;
        return;
    }
    if (f->mask)
        memcpy(m->data + m->n_data, m->scratch, m->n_word * sizeof(*m->scratch));
    m->n_data += f->n_token;
    for (uint32_t w = 0, to = f->token; !f->mask && w < m->n_word; w++)
        for (uint32_t bits = m->scratch[w]; bits; bits &= bits - 1)
            m->data[to++] = w * 32 + (uint32_t)__builtin_ctz(bits);
}

/* What the kernel says of the forest; NULL when there is no room. */
static const struct find *look(struct pg_matcher *m, uint32_t kernel, uint32_t forest)
{
    uint32_t *slot = find_slot(m, kernel, forest);
    if (*slot)
        return &m->find[*slot - 1];
    if (m->n_find == FINDS_MAX)
        m->data_full = true;
    struct find f = {.kernel = kernel, .forest = forest, .node = m->n_data};
    memset(m->scratch, 0, m->n_word * sizeof(*m->scratch));
    for (uint32_t i = 0; i < m->find[forest].n_node && !m->data_full; i++)
        walk(m, kernel, m->data[m->find[forest].node + i]);
    f.n_node = m->n_data - f.node;
    keep_tokens(m, &f);
    if (m->data_full || m->stacks.full)
        return NULL;
    m->find[m->n_find] = f;
    *slot = ++m->n_find;
    return &m->find[m->n_find - 1];
}

/* The positions of a closed set that have `below` under them, over a hole. Where the bottom is
 * below nothing goes on there, and no hole is needed. */
static uint32_t kernel_of(struct pg_matcher *m, uint32_t set, uint32_t below)
{
    struct pg_stacks *s = &m->stacks;
    const struct pg_set x = s->set[set];
    uint32_t hole = below == PG_SET_ACCEPT ? PG_SET_ACCEPT : PG_SET_HOLE, n = 0;
    for (uint32_t i = 0; i < x.n; i++)
        if (s->item[x.at + i].below == below)
            s->merge[n++] = (struct pg_item){s->item[x.at + i].pos, hole};
    return pg_stacks_intern(s, s->merge, n);
}

static void add_tokens(const struct pg_matcher *m, const struct find *f, uint32_t *bits)
{
    const uint32_t *data = m->data + f->token;
    for (uint32_t i = 0; f->mask && i < f->n_token; i++)
        bits[i] |= data[i];
    for (uint32_t i = 0; !f->mask && i < f->n_token; i++)
        bits[data[i] / 32] |= 1u << (data[i] % 32);
}

/* Whether no item of the set before this one has the same below. */
static bool is_first_of_below(const struct pg_stacks *s, const struct pg_set *x, uint32_t i)
{
    for (uint32_t k = 0; k < i; k++)
        if (s->item[x->at + k].below == s->item[x->at + i].below)
            return false;
    return true;
}

/* Adds the tokens of the forest that a closed set allows. Each level is at least a byte further in
 * a token, which bounds the depth. */
static void apply(struct pg_matcher *m, uint32_t set, uint32_t forest, uint32_t *bits)
{
    struct pg_stacks *s = &m->stacks;
    const struct pg_set x = s->set[set];
    for (uint32_t i = 0; i < x.n && !s->full && !m->data_full; i++) {
        const uint32_t below = s->item[x.at + i].below;
        if (!below || !is_first_of_below(s, &x, i))
            continue;
        if (m->n_apply++ == APPLY_MAX) {
            s->full = true;
            return;
        }
        uint32_t kernel = kernel_of(m, set, below);
        const struct find *f = s->full ? NULL : look(m, kernel, forest);
        if (!f)
            return;
        add_tokens(m, f, bits);
        uint32_t next = f->n_node ? pg_stacks_close(s, below) : PG_SET_NONE;
        if (next)
            apply(m, next, (uint32_t)(f - m->find), bits);
    }
}

/* ------------------------------------------------------------------ masks ------------------- */

static bool drops_space(const struct pg_matcher *m)
{
    return m->at_beginning && m->vocab->space_prefix && m->tokens->space;
}

static void set_bit(uint32_t *bits, int32_t id)
{
    bits[id / 32] |= 1u << (id % 32);
}

static bool fill_mask(struct pg_matcher *m, uint32_t *bits)
{
    const uint32_t space = m->tokens->space;
    memset(bits, 0, m->n_word * sizeof(*bits));
    pg_stacks_begin(&m->stacks);
    m->n_apply = 0;
    apply(m, m->at, FIRST_FOREST, bits);
    if (drops_space(m)) {
        apply(m, m->at, AFTER_SPACE_FOREST, bits);
        for (uint32_t i = m->tokens->first[space]; i < m->tokens->first[space + 1]; i++)
            set_bit(bits, m->tokens->token[i]);
    }
    for (int i = 0; i < m->vocab->n_ends && pg_matcher_may_end(m); i++)
        set_bit(bits, m->vocab->ends[i]);
    return !m->stacks.full && !m->data_full;
}

static int fail_full(struct pg_err *err)
{
    return pg_fail(err, PG_ENOTSUP,
                   "grammar: the text stands in more ways at once than there is room for (%d sets "
                   "of %d positions): make it less ambiguous, or nest less deeply",
                   PG_SETS_MAX, PG_ITEMS_MAX);
}

int pg_matcher_mask(pg_matcher *m, uint32_t *bits, struct pg_err *err)
{
    bool done = false;
    uint32_t any = 0;
    for (int i = 0; i < 3 && !done; i++) {
        if (i)
            make_room(m, i == 2);
        done = fill_mask(m, bits);
    }
    for (uint32_t w = 0; w < m->n_word; w++)
        any |= bits[w];
    if (!done)
        memset(bits, 0, m->n_word * sizeof(*bits));
    if (!done)
        return fail_full(err);
    if (!any)
        return pg_fail(err, PG_EFORMAT,
                       m->ended ? "grammar: the text has ended, nothing may come"
                                : "grammar: no token of the vocabulary may come next");
    return 0;
}

/* ------------------------------------------------------------------ tokens ------------------ */

/* Where the text stands after the token: PG_SET_NONE if it may not come, or there is no room. */
static uint32_t after_token(struct pg_matcher *m, int32_t id)
{
    char text[PG_PIECE_MAX];
    struct pg_stacks *s = &m->stacks;
    size_t n = pg_token_text(m->vocab, id, text);
    bool drops = drops_space(m) && n && text[0] == ' ';
    uint32_t at = n ? m->at : PG_SET_NONE, other = drops ? m->at : PG_SET_NONE;
    pg_stacks_begin(s);
    for (size_t i = 0; i < n && (at || other) && !s->full; i++) {
        at = at ? pg_stacks_step(s, at, (uint8_t)text[i]) : at;
        other = other && i ? pg_stacks_step(s, other, (uint8_t)text[i]) : other;
    }
    at = pg_stacks_union(s, at, other);
    return s->full ? PG_SET_NONE : at;
}

static uint32_t after_token_with_room(struct pg_matcher *m, int32_t id)
{
    uint32_t at = after_token(m, id);
    for (int i = 1; i < 3 && m->stacks.full; i++) {
        make_room(m, i == 2);
        at = after_token(m, id);
    }
    return at;
}

static bool in_vocab(const pg_matcher *m, int32_t id)
{
    return id >= 0 && (uint32_t)id < m->n_vocab;
}

bool pg_matcher_allows(pg_matcher *m, int32_t id)
{
    if (!in_vocab(m, id))
        return false;
    if (pg_vocab_is_end(m->vocab, id))
        return pg_matcher_may_end(m);
    return after_token_with_room(m, id) != PG_SET_NONE;
}

int pg_matcher_accept(pg_matcher *m, int32_t id, struct pg_err *err)
{
    bool end = in_vocab(m, id) && pg_vocab_is_end(m->vocab, id) && pg_matcher_may_end(m);
    m->stacks.full = false;
    uint32_t at = in_vocab(m, id) && !end ? after_token_with_room(m, id) : PG_SET_NONE;
    if (m->stacks.full)
        return fail_full(err);
    if (!at && !end)
        return pg_fail(err, PG_EARG, "grammar: token %d may not come next", (int)id);
    m->at = at;
    m->ended = end;
    m->at_beginning = false;
    return 0;
}

bool pg_matcher_may_end(const pg_matcher *m)
{
    return pg_stacks_has(&m->stacks, m->at, PG_AT_ACCEPT);
}

bool pg_matcher_must_end(const pg_matcher *m)
{
    return m->at == PG_SET_ACCEPT;
}

/* ------------------------------------------------------------------ opening ----------------- */

static uint32_t beginning(struct pg_matcher *m)
{
    struct pg_stacks *s = &m->stacks;
    struct pg_item root = {s->g->root, PG_SET_ACCEPT};
    pg_stacks_begin(s);
    return pg_stacks_close(s, pg_stacks_intern(s, &root, 1));
}

void pg_matcher_reset(pg_matcher *m)
{
    uint32_t at = beginning(m);
    if (m->stacks.full) { /* with everything forgotten there is room: there was at open */
        m->at = PG_SET_NONE;
        make_room(m, true);
        at = beginning(m);
    }
    m->at = at;
    m->at_beginning = true;
    m->ended = false;
}

int pg_matcher_n_vocab(const pg_matcher *m)
{
    return (int)m->n_vocab;
}

static int open_matcher(struct pg_matcher *m, const pg_grammar *g, struct pg_err *err)
{
    m->tokens = pg_token_index_of(m->vocab);
    if (!m->tokens)
        return pg_fail(err, PG_ENOMEM, "out of memory for the tokens of a vocabulary as a tree");
    m->n_memory = measure(g, m->vocab, m->tokens);
    m->memory = pg_pages_map(m->n_memory);
    if (!m->memory)
        return pg_fail(err, PG_ENOMEM, "out of memory for a matcher of %zu bytes", m->n_memory);
    struct pg_arena a = {.base = m->memory, .size = m->n_memory};
    carve(m, g, &a);
    forget_finds(m);
    pg_matcher_reset(m);
    return m->stacks.full ? fail_full(err) : 0;
}

int pg_matcher_open(pg_matcher **out, const pg_grammar *g, const pg_vocab *v, struct pg_err *err)
{
    struct pg_matcher *m = *out = calloc(1, sizeof(*m));
    if (!m)
        return pg_fail(err, PG_ENOMEM, "out of memory for a matcher");
    m->vocab = v;
    int rc = open_matcher(m, g, err);
    if (rc) {
        pg_matcher_close(m);
        *out = NULL;
    }
    return rc;
}

void pg_matcher_close(pg_matcher *m)
{
    if (!m)
        return;
    if (m->memory)
        pg_pages_unmap(m->memory, m->n_memory);
    free(m);
}
