/* SPDX-License-Identifier: MIT
 * Every invariant of the store, derived anew from the slots.
 */
#ifndef PG_TESTS_STORE_CHECK_H
#define PG_TESTS_STORE_CHECK_H

#include "store/store_impl.h"

static inline void check_slot(const struct pg_store *s, int slot)
{
    const struct pg_slot *it = &s->slots[slot];
    if (it->state == SLOT_FREE) {
        PG_ASSERT(it->key == -1 && it->wave == -1 && !it->todo && !it->pending);
        PG_ASSERT(!it->queued && !s->may[MAY_DEMAND][slot] && !s->may[MAY_CERTAIN][slot] &&
                  !s->may[MAY_HINT][slot]);
        return;
    }
    PG_ASSERT(it->key >= 0 && it->key < s->opt.n_block * s->opt.n_expert);
    PG_ASSERT(s->slot_of[it->key] == slot);
    bool may = it->state == SLOT_READY && it->wave < 0;
    PG_ASSERT(s->may[MAY_DEMAND][slot] == may);
    PG_ASSERT(s->may[MAY_CERTAIN][slot] == (may && s->hinted[it->key] < 2));
    PG_ASSERT(s->may[MAY_HINT][slot] == (may && !s->hinted[it->key]));
    if (it->state == SLOT_READY || it->state == SLOT_PINNED) {
        PG_ASSERT(!it->todo && !it->failed && !it->pending && !it->queued);
        return;
    }
    PG_ASSERT(it->state == SLOT_LOADING);
    PG_ASSERT(!(it->todo & it->failed) && !(it->pending & (it->todo | it->failed)));
    PG_ASSERT((it->pending || it->todo));
    PG_ASSERT(!it->todo || it->queued || s->hint_slot == slot);
    PG_ASSERT(!it->queued || (it->todo && it->wave >= 0 && !it->waits));
    PG_ASSERT(!it->waits || (it->wave < 0 && it->by_hint && it->hinted));
}

static inline void add(struct pg_under_way *sum, struct pg_under_way u)
{
    sum->n += u.n;
    sum->bytes += u.bytes;
}

static inline void check_slots(const struct pg_store *s)
{
    struct pg_under_way demand = {0}, hint = {0};
    int n_free = 0, n_queued = 0, n_keys = 0, n_pinned = 0;
    for (int slot = 0; slot < s->opt.n_slots; slot++) {
        const struct pg_slot *it = &s->slots[slot];
        check_slot(s, slot);
        n_free += it->state == SLOT_FREE;
        n_pinned += it->state == SLOT_PINNED;
        add(it->waits ? &hint : &demand, pg_store_under_way(s, slot));
        n_queued += it->queued;
    }
    PG_ASSERT(n_free == s->n_free && n_pinned == s->n_pinned);
    for (int i = 0; i < n_free; i++)
        PG_ASSERT(s->slots[s->free_slots[i]].state == SLOT_FREE);
    PG_ASSERT(demand.n == s->demand.n && demand.bytes == s->demand.bytes);
    PG_ASSERT(hint.n == s->hint.n && hint.bytes == s->hint.bytes);
    PG_ASSERT(demand.n + hint.n == pg_io_n_pending(s->opt.io));
    PG_ASSERT(s->alone == (hint.n && !demand.n));
    PG_ASSERT(n_queued == s->n_queue);
    for (int i = 0; i < n_queued; i++)
        PG_ASSERT(s->slots[s->queue[(s->queue_head + i) % s->opt.n_slots]].queued);
    for (int key = 0; key < s->opt.n_block * s->opt.n_expert; key++)
        n_keys += s->slot_of[key] >= 0;
    PG_ASSERT(n_keys == s->opt.n_slots - n_free);
}

static inline void check_wave(const struct pg_store *s)
{
    const struct pg_store_wave *w = &s->wave;
    int n_of[WANT_DELIVERED + 1] = {0}, n_with_wave = 0;
    for (int slot = 0; slot < s->opt.n_slots; slot++)
        n_with_wave += s->slots[slot].wave >= 0;
    if (!w->active) {
        PG_ASSERT(!n_with_wave && !s->n_queue);
        return;
    }
    int n_here = 0;
    for (int i = 0; i < w->n; i++) {
        int slot = s->slot_of[w->block * s->opt.n_expert + s->ids[i]];
        n_of[s->want[i]]++;
        bool here = slot >= 0 && s->slots[slot].wave == i;
        n_here += here;
        /* A delivered one may have left and come again by a hint for the next step. */
        PG_ASSERT(here == (slot >= 0) || (s->want[i] == WANT_DELIVERED && !here));
        PG_ASSERT(s->want[i] != WANT_MISSING || (slot < 0 && i >= w->next_missing));
        PG_ASSERT(s->want[i] != WANT_READY || (here && s->slots[slot].state == SLOT_READY));
        PG_ASSERT(s->want[i] != WANT_LOADING || w->failed ||
                  (here && s->slots[slot].state == SLOT_LOADING));
    }
    PG_ASSERT(n_here == n_with_wave);
    PG_ASSERT(n_of[WANT_MISSING] == w->n_missing && n_of[WANT_DELIVERED] == w->n_delivered);
    PG_ASSERT(n_of[WANT_READY] == w->n_ready - w->next_ready);
    for (int i = w->next_ready; i < w->n_ready; i++)
        PG_ASSERT(s->want[s->ready[i]] == WANT_READY);
}

static inline void check_hints(const struct pg_store *s)
{
    int n_queued = 0, n_marked = 0, n_ids = 0;
    for (int key = 0; key < s->opt.n_block * s->opt.n_expert; key++)
        n_marked += s->hinted[key] != 0;
    for (int block = 0; block < s->opt.n_block; block++) {
        const struct pg_hint *h = &s->hints[block];
        PG_ASSERT(h->next >= 0 && h->next <= h->n && h->n <= s->opt.n_expert);
        n_queued += h->n - h->next;
        n_ids += h->n;
        for (int i = 0; i < h->n; i++)
            PG_ASSERT(s->hinted[block * s->opt.n_expert +
                                s->hint_ids[(size_t)block * (size_t)s->opt.n_expert + (size_t)i]] ==
                      (h->certain ? 2 : 1));
    }
    PG_ASSERT(n_queued == s->n_hints_queued && n_marked <= n_ids);
    PG_ASSERT(s->hint_slot < 0 || (s->slots[s->hint_slot].waits && s->slots[s->hint_slot].todo));
}

/* Re-derives every invariant (slots, index, counts, lists) and asserts it. */
static inline void pg_store_check(const struct pg_store *s)
{
    const struct pg_store_stats *st = &s->stats;
    check_slots(s);
    check_wave(s);
    check_hints(s);
    PG_ASSERT(st->requests == st->hits + st->hinted_in_time + st->hinted_late + st->missed);
    PG_ASSERT(st->hint_bytes_read <= st->bytes_read);
}

#endif
