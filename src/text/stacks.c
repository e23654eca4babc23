/* SPDX-License-Identifier: MIT
 * Sets of stacks. Two sets are united place by place, so that a set never holds one position twice
 * and is never larger than the grammar, however ambiguous that is.
 */
#include "text/stacks.h"

#include "text/token_index.h"

#include <string.h>

enum {
    SLOTS = 2 * PG_SETS_MAX,
    UNIONS = 4096,
    TODO_MAX = 1 << 16,
    MERGE_MAX = 1 << 16,
    UNION_DEPTH = 1000,
    WORK_MAX = 1 << 24 /* items looked at in one call from outside */
};

static uint32_t n_rows(const struct pg_grammar *g)
{
    return PG_ROWS_BYTES / ((uint32_t)g->n_class * (uint32_t)sizeof(uint32_t));
}

static void clear_tables(struct pg_stacks *s)
{
    memset(s->slot, 0, SLOTS * sizeof(*s->slot));
    memset(s->unions, 0, UNIONS * sizeof(*s->unions));
    s->n_row = 0;
}

void pg_stacks_carve(struct pg_stacks *s, const struct pg_grammar *g, struct pg_arena *a)
{
    s->g = g;
    s->n_row_max = n_rows(g);
    s->set = pg_arena_take(a, PG_SETS_MAX * sizeof(*s->set));
    s->item = pg_arena_take(a, PG_ITEMS_MAX * sizeof(*s->item));
    s->slot = pg_arena_take(a, SLOTS * sizeof(*s->slot));
    s->row = pg_arena_take(a, PG_ROWS_BYTES);
    s->unions = pg_arena_take(a, UNIONS * sizeof(*s->unions));
    s->united = pg_arena_take(a, UNIONS * sizeof(*s->united));
    s->moved = pg_arena_take(a, PG_SETS_MAX * sizeof(*s->moved));
    s->seen = pg_arena_take(a, g->n_pos * sizeof(*s->seen));
    s->seen_below = pg_arena_take(a, g->n_pos * sizeof(*s->seen_below));
    s->reached = pg_arena_take(a, g->n_pos * sizeof(*s->reached));
    s->todo = pg_arena_take(a, TODO_MAX * sizeof(*s->todo));
    s->merge = pg_arena_take(a, MERGE_MAX * sizeof(*s->merge));
    if (!a->base)
        return;
    clear_tables(s);
    s->n_set = 1; /* PG_SET_NONE, which no list of items is */
    pg_stacks_begin(s);
    pg_stacks_intern(s, &(struct pg_item){PG_AT_ACCEPT, PG_SET_NONE}, 1);
    pg_stacks_intern(s, &(struct pg_item){PG_AT_HOLE, PG_SET_NONE}, 1);
    PG_ASSERT(s->n_set == PG_SET_FIRST);
}

void pg_stacks_begin(struct pg_stacks *s)
{
    s->work = WORK_MAX;
    s->full = false;
    s->n_merge = 0;
}

/* ------------------------------------------------------------------ sets -------------------- */

static uint32_t hash_of(const struct pg_item *item, uint32_t n)
{
    uint64_t h = n;
    for (uint32_t i = 0; i < n; i++) {
        h = (h ^ item[i].pos) * 0x9e3779b97f4a7c15u;
        h = (h ^ item[i].below) * 0xbf58476d1ce4e5b9u;
        h ^= h >> 29;
    }
    return (uint32_t)(h ^ h >> 32);
}

static uint32_t *find_slot(const struct pg_stacks *s, uint32_t hash, const struct pg_item *item,
                           uint32_t n)
{
    for (uint32_t i = hash % SLOTS;; i = (i + 1) % SLOTS) {
        if (!s->slot[i])
            return &s->slot[i];
        const struct pg_set *set = &s->set[s->slot[i] - 1];
        if (set->hash == hash && set->n == n && !memcmp(s->item + set->at, item, n * sizeof(*item)))
            return &s->slot[i];
    }
}

/* Marks are the first positions that there are. */
static bool has_hole(const struct pg_item *item, uint32_t n)
{
    return item[0].pos == PG_AT_HOLE || (n > 1 && item[1].pos == PG_AT_HOLE);
}

uint32_t pg_stacks_intern(struct pg_stacks *s, const struct pg_item *item, uint32_t n)
{
    if (!n || s->full)
        return PG_SET_NONE;
    uint32_t hash = hash_of(item, n), *slot = find_slot(s, hash, item, n);
    if (*slot)
        return *slot - 1;
    if (s->n_set == PG_SETS_MAX || n > PG_ITEMS_MAX - s->n_item) {
        s->full = true;
        return PG_SET_NONE;
    }
    memcpy(s->item + s->n_item, item, n * sizeof(*item));
    s->set[s->n_set] = (struct pg_set){.at = s->n_item, .n = n, .hash = hash};
    s->set[s->n_set].has_hole = has_hole(item, n);
    s->n_item += n;
    *slot = s->n_set + 1;
    return s->n_set++;
}

bool pg_stacks_has(const struct pg_stacks *s, uint32_t set, uint32_t mark)
{
    const struct pg_set *x = &s->set[set]; /* marks are the first positions there are */
    for (uint32_t i = 0; set && i < x->n && s->item[x->at + i].pos <= PG_AT_HOLE; i++)
        if (s->item[x->at + i].pos == mark)
            return true;
    return false;
}

static bool spend(struct pg_stacks *s, uint32_t work)
{
    if (s->work < work)
        s->full = true;
    else
        s->work -= work;
    return !s->full;
}

static uint32_t unite(struct pg_stacks *s, uint32_t a, uint32_t b, int depth);

/* The items of both, which are on top of s->merge afterwards. Returns how many. */
static uint32_t merge_items(struct pg_stacks *s, uint32_t a, uint32_t b, int depth)
{
    uint32_t i = 0, j = 0, from = s->n_merge;
    const uint32_t n = s->set[a].n, m = s->set[b].n;
    const struct pg_item *x = s->item + s->set[a].at, *y = s->item + s->set[b].at;
    if (n + m > MERGE_MAX - from || !spend(s, n + m)) {
        s->full = true;
        return 0;
    }
    s->n_merge += n + m; /* room for what this one writes; unions below write above it */
    uint32_t to = from;
    while ((i < n || j < m) && !s->full) {
        if (j == m || (i < n && x[i].pos < y[j].pos)) {
            s->merge[to++] = x[i++];
        } else if (i == n || y[j].pos < x[i].pos) {
            s->merge[to++] = y[j++];
        } else {
            uint32_t below = unite(s, x[i].below, y[j].below, depth + 1);
            s->merge[to++] = (struct pg_item){x[i].pos, below};
            i++;
            j++;
        }
    }
    return to - from;
}

static uint32_t unite(struct pg_stacks *s, uint32_t a, uint32_t b, int depth)
{
    if (a == b || !b)
        return a;
    if (!a)
        return b;
    struct pg_item pair = {PG_MIN(a, b), PG_MAX(a, b)};
    uint32_t at = (pair.pos * 0x9e3779b1u ^ pair.below * 0x85ebca6bu) >> 20;
    if (s->unions[at].pos == pair.pos && s->unions[at].below == pair.below)
        return s->united[at];
    if (depth == UNION_DEPTH) {
        s->full = true;
        return PG_SET_NONE;
    }
    uint32_t from = s->n_merge, n = merge_items(s, pair.pos, pair.below, depth);
    uint32_t set = pg_stacks_intern(s, s->merge + from, n);
    s->n_merge = from;
    if (s->full)
        return PG_SET_NONE;
    s->unions[at] = pair;
    s->united[at] = set;
    return set;
}

uint32_t pg_stacks_union(struct pg_stacks *s, uint32_t a, uint32_t b)
{
    return unite(s, a, b, 0);
}

/* ------------------------------------------------------------------ closing ----------------- */

static void closing_begin(struct pg_stacks *s)
{
    s->n_reached = s->n_todo = 0;
    if (++s->mark == 0) { /* after 2^32 calls */
        memset(s->seen, 0, s->g->n_pos * sizeof(*s->seen));
        s->mark = 1;
    }
}

/* Goes on at the position with `below` under it: what was not known yet is to be done. */
static void reach(struct pg_stacks *s, uint32_t pos, uint32_t below)
{
    if (!s->g->pos[pos].live || s->full)
        return;
    if (s->seen[pos] == s->mark) {
        uint32_t both = pg_stacks_union(s, s->seen_below[pos], below);
        if (both == s->seen_below[pos] || s->full)
            return;
        s->seen_below[pos] = both;
    } else {
        s->seen[pos] = s->mark;
        s->seen_below[pos] = below;
        s->reached[s->n_reached++] = pos;
    }
    if (s->g->pos[pos].kind <= PG_POS_MARK || s->g->pos[pos].kind == PG_POS_BYTE)
        return;
    if (s->n_todo == TODO_MAX || !spend(s, 1))
        s->full = true;
    else
        s->todo[s->n_todo++] = (struct pg_item){pos, below};
}

static void reach_all(struct pg_stacks *s, uint32_t set)
{
    const struct pg_set x = s->set[set];
    for (uint32_t i = 0; i < x.n && spend(s, 1); i++)
        reach(s, s->item[x.at + i].pos, s->item[x.at + i].below);
}

static void expand(struct pg_stacks *s, struct pg_item at)
{
    const struct pg_pos *p = &s->g->pos[at.pos];
    struct pg_item after = {p->next, at.below};
    switch (p->kind) {
    case PG_POS_SPLIT:
        reach(s, p->next, at.below);
        reach(s, p->other, at.below);
        break;
    case PG_POS_CALL: /* the last call of a rule needs nothing to come back to */
        reach(s, p->other, p->next == PG_AT_END ? at.below : pg_stacks_intern(s, &after, 1));
        break;
    default: /* an end */
        reach_all(s, at.below);
    }
}

/* Puts v[0, n) in order without memory (Shell's sort; nearly always few). */
static void sort(uint32_t *v, uint32_t n)
{
    for (uint32_t gap = n / 2; gap > 0; gap = gap == 2 ? 1 : gap * 5 / 11) {
        for (uint32_t i = gap; i < n; i++) {
            uint32_t x = v[i], j = i;
            for (; j >= gap && v[j - gap] > x; j -= gap)
                v[j] = v[j - gap];
            v[j] = x;
        }
    }
}

static uint32_t closing_end(struct pg_stacks *s)
{
    uint32_t n = 0;
    while (s->n_todo && !s->full)
        expand(s, s->todo[--s->n_todo]);
    for (uint32_t i = 0; i < s->n_reached; i++) {
        uint8_t kind = s->g->pos[s->reached[i]].kind;
        if (kind == PG_POS_BYTE || kind == PG_POS_MARK)
            s->reached[n++] = s->reached[i];
    }
    sort(s->reached, n);
    if (s->full || n > MERGE_MAX || !spend(s, n)) {
        s->full = true;
        return PG_SET_NONE;
    }
    for (uint32_t i = 0; i < n; i++)
        s->merge[i] = (struct pg_item){s->reached[i], s->seen_below[s->reached[i]]};
    return pg_stacks_intern(s, s->merge, n);
}

uint32_t pg_stacks_close(struct pg_stacks *s, uint32_t set)
{
    if (!s->set[set].closed && set) {
        closing_begin(s);
        reach_all(s, set);
        s->set[set].closed = closing_end(s);
    }
    return s->set[set].closed;
}

/* ------------------------------------------------------------------ steps ------------------- */

uint32_t pg_stacks_step(struct pg_stacks *s, uint32_t set, uint8_t byte)
{
    const struct pg_set x = s->set[set];
    closing_begin(s);
    for (uint32_t i = 0; i < x.n && spend(s, 1); i++) {
        struct pg_item at = s->item[x.at + i];
        const struct pg_pos *p = &s->g->pos[at.pos];
        if (p->kind == PG_POS_BYTE && byte >= p->lo && byte <= p->hi)
            reach(s, p->next, at.below);
    }
    return closing_end(s);
}

uint32_t pg_stacks_fill(struct pg_stacks *s, uint32_t set, uint8_t byte)
{
    const size_t n = (size_t)s->g->n_class, c = s->g->class_of[byte];
    if (!s->set[set].row) {
        if (s->n_row == s->n_row_max) {
            s->full = true;
            return PG_SET_NONE;
        }
        memset(s->row + s->n_row * n, 0xFF, n * sizeof(*s->row));
        s->set[set].row = ++s->n_row;
    }
    uint32_t to = pg_stacks_step(s, set, s->g->byte_of[c]);
    if (!s->full)
        s->row[(s->set[set].row - 1) * n + c] = to;
    return to;
}

/* The bytes of longer characters: lo and hi of each. */
static const uint8_t longer[][8] = {
    {0xC2, 0xDF, 0x80, 0xBF},
    {0xE0, 0xE0, 0xA0, 0xBF, 0x80, 0xBF},
    {0xE1, 0xEC, 0x80, 0xBF, 0x80, 0xBF},
    {0xED, 0xED, 0x80, 0x9F, 0x80, 0xBF},
    {0xEE, 0xEF, 0x80, 0xBF, 0x80, 0xBF},
    {0xF0, 0xF0, 0x90, 0xBF, 0x80, 0xBF, 0x80, 0xBF},
    {0xF1, 0xF3, 0x80, 0xBF, 0x80, 0xBF, 0x80, 0xBF},
    {0xF4, 0xF4, 0x80, 0x8F, 0x80, 0xBF, 0x80, 0xBF},
};

/* Whether all ways through these ranges lead to the set, and past no hole. */
static bool all_lead(struct pg_stacks *s, uint32_t set, const uint8_t *range, int n, uint32_t to)
{
    for (int b = range[0]; b <= range[1]; b++) {
        if (b > range[0] && s->g->class_of[b] == s->g->class_of[b - 1])
            continue;
        const uint32_t next = pg_stacks_next(s, set, (uint8_t)b);
        const bool last = n == 1 || !range[2];
        if (last ? next != to
                 : !next || s->set[next].has_hole || !all_lead(s, next, range + 2, n - 1, to))
            return false;
    }
    return true;
}

static bool long_lead(struct pg_stacks *s, uint32_t set, uint32_t to)
{
    for (size_t i = 0; i < PG_COUNT(longer); i++)
        if (!all_lead(s, set, longer[i], 4, to))
            return false;
    return true;
}

/* Finds the kinds that go the way of a letter, a digit or a space. */
static void find_run(struct pg_stacks *s, uint32_t set)
{
    uint32_t to = PG_SET_NONE, run = ~(uint32_t)(PG_KINDS_WITHIN | PG_KINDS_ILL);
    for (const char *c = "e0 "; *c && !to; c++)
        to = pg_stacks_next(s, set, (uint8_t)*c);
    for (int b = 0; b < 0x80 && to && !s->full; b++)
        if (pg_stacks_next(s, set, (uint8_t)b) != to)
            run &= ~(1u << pg_byte_kind[b]);
    if (to && !long_lead(s, set, to))
        run &= ~PG_KINDS_LONG;
    s->set[set].run_to = to ? to : set;
    s->set[set].run = !to || s->set[to].has_hole || s->full ? 0 : run;
}

bool pg_stacks_run(struct pg_stacks *s, uint32_t set, uint32_t kinds, uint8_t n)
{
    for (int i = 0; i < n; i++) {
        const struct pg_set *x = &s->set[set];
        if (!x->run_to)
            find_run(s, set);
        if (kinds & ~x->run)
            return false;
        if (x->run_to == set)
            return true;
        set = x->run_to;
    }
    return n < 255;
}

/* ------------------------------------------------------------------ making room ------------- */

void pg_stacks_keep(struct pg_stacks *s, uint32_t set)
{
    s->set[set].marked = true;
}

/* What is below a set has a smaller number, so that one pass each way is enough. */
void pg_stacks_sweep(struct pg_stacks *s)
{
    uint32_t n_set = 1, n_item = 0;
    for (uint32_t i = s->n_set; i-- > PG_SET_FIRST;)
        for (uint32_t k = 0; s->set[i].marked && k < s->set[i].n; k++)
            s->set[s->item[s->set[i].at + k].below].marked = true;
    clear_tables(s);
    for (uint32_t i = 1; i < s->n_set; i++) {
        struct pg_set x = s->set[i];
        if (!x.marked && i >= PG_SET_FIRST)
            continue;
        for (uint32_t k = 0; k < x.n; k++) {
            struct pg_item one = s->item[x.at + k];
            one.below = pg_stacks_moved(s, one.below);
            s->item[n_item + k] = one;
        }
        const struct pg_item *item = s->item + n_item;
        uint32_t hash = hash_of(item, x.n);
        s->set[n_set] =
            (struct pg_set){.at = n_item, .n = x.n, .hash = hash, .has_hole = x.has_hole};
        *find_slot(s, hash, item, x.n) = n_set + 1;
        n_item += x.n;
        s->moved[i] = n_set++;
    }
    s->n_set = n_set;
    s->n_item = n_item;
}

uint32_t pg_stacks_moved(const struct pg_stacks *s, uint32_t set)
{
    return set ? s->moved[set] : PG_SET_NONE;
}
