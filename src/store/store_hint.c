/* SPDX-License-Identifier: MIT
 * What is read ahead of demand, and whether that pays.
 */
#include "store/store_impl.h"

#include <string.h>

/* Reads under way at most while a guess is among them: the demand read that comes next shares the
 * disk with these, so they are about two experts; fewer would leave the disk idle between two calls
 * of the engine. */
#define GUESS_READS (2 * PG_SLABS)

static int32_t *ids_of(struct pg_store *s, int block)
{
    return s->hint_ids + (size_t)block * (size_t)s->opt.n_expert;
}

static void set_hinted(struct pg_store *s, int key, int how)
{
    s->hinted[key] = (uint8_t)how;
    if (s->slot_of[key] >= 0)
        pg_store_mark(s, s->slot_of[key]);
}

/* The block's hint is over: its wave has begun, or there is a new one. */
void pg_store_hint_forget(struct pg_store *s, int block)
{
    struct hint *h = &s->hints[block];
    const int32_t *ids = ids_of(s, block);
    s->n_hints_queued -= h->n - h->next;
    for (int i = 0; i < h->n; i++)
        set_hinted(s, block * s->opt.n_expert + ids[i], 0);
    *h = (struct hint){0};
}

void pg_store_hint(struct pg_store *s, int block, const int32_t *ids, int n, bool certain)
{
    PG_ASSERT(block >= 0 && block < s->opt.n_block && n >= 0 && n <= s->opt.n_expert);
    if (s->opt.hints == PG_HINTS_OFF)
        return;
    pg_store_hint_forget(s, block);
    int distance = block - s->block;
    if (distance <= 0)
        distance += s->opt.n_block;
    struct hint *h = &s->hints[block];
    h->certain = certain;
    for (int i = 0; i < n; i++) {
        PG_ASSERT(ids[i] >= 0 && ids[i] < s->opt.n_expert);
        int key = block * s->opt.n_expert + ids[i];
        ids_of(s, block)[h->n++] = ids[i];
        set_hinted(s, key, certain ? 2 : 1);
        pg_policy_expect(s->policy, key, distance, certain);
    }
    s->n_hints_queued += h->n;
    pg_store_poll(s);
}

/* Takes the next id that is not in a slot from the nearest block's queue; -1: none. */
static int next_key(struct pg_store *s, bool *certain)
{
    for (int ahead = 1; ahead <= s->opt.n_block && s->n_hints_queued; ahead++) {
        int block = (s->block + ahead) % s->opt.n_block;
        struct hint *h = &s->hints[block];
        for (; h->next < h->n; h->next++, s->n_hints_queued--) {
            int key = block * s->opt.n_expert + ids_of(s, block)[h->next];
            *certain = h->certain;
            if (s->slot_of[key] < 0)
                return key;
        }
    }
    return -1;
}

static bool has_room(const struct pg_store *s, bool certain)
{
    int n = pg_io_n_pending(s->opt.io);
    int most = certain && n == s->n_hint_pending ? s->depth : PG_MIN(s->depth, GUESS_READS);
    return n < most;
}

void pg_store_hint_pump(struct pg_store *s)
{
    for (;;) {
        bool certain = false;
        if (s->hint_slot >= 0) {
            if (!has_room(s, s->hinted[s->slots[s->hint_slot].key] == 2) ||
                !pg_store_submit(s, s->hint_slot))
                return;
            if (!s->slots[s->hint_slot].todo)
                s->hint_slot = -1;
            continue;
        }
        int key = next_key(s, &certain);
        if (key < 0 || !has_room(s, certain))
            return;
        int slot = pg_store_take_slot(s, true);
        if (slot < 0)
            return;
        s->hints[key / s->opt.n_expert].next++;
        s->n_hints_queued--;
        pg_store_load(s, slot, key, true);
        if (s->slots[slot].todo)
            s->hint_slot = slot;
        else
            pg_store_arrived(s, slot);
    }
}

void pg_store_step(struct pg_store *s, bool is_decode)
{
    (void)s;
    (void)is_decode;
}
