/* SPDX-License-Identifier: MIT
 * What is read ahead of demand, and whether that pays.
 *
 * Reading for an uncertain hint pays with time in which the disk would have been idle, and costs
 * the reads that were for nothing. A hint that comes true is neither: its bytes had to be read
 * anyway. So, with bytes for disk time, such hints pay in a window of decode rows when
 *
 *     bytes read while only hinted reads were under way  >  bytes read for nothing
 *
 * where the left side is the time when that was so, times the bandwidth of the window, and the
 * right side includes experts that left for a hint and were demanded within a cycle. If they do
 * not pay, they are not read for some windows (what they say still guides eviction), then tried
 * for one window again; each failure doubles the pause. Certain hints are always read.
 */
#include "store/store_impl.h"

#include <string.h>

#define WINDOW      16 /* decode rows; whole steps */
#define PAUSE_LEAST 4  /* windows */
#define PAUSE_MOST  64

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
    struct pg_hint *h = &s->hints[block];
    const int32_t *ids = ids_of(s, block);
    PG_ASSERT(h->next <= h->n && s->n_hints_queued >= h->n - h->next);
    s->n_hints_queued -= h->n - h->next;
    for (int i = 0; i < h->n; i++)
        set_hinted(s, block * s->opt.n_expert + ids[i], 0);
    *h = (struct pg_hint){0};
}

void pg_store_hint(struct pg_store *s, int block, const int32_t *ids, int n, bool certain)
{
    PG_ASSERT(block >= s->span.first && block < s->span.first + s->span.n);
    PG_ASSERT(n >= 0 && n <= s->opt.n_expert);
    if (s->opt.hints == PG_HINTS_OFF)
        return;
    pg_store_hint_forget(s, block);
    int distance = block - s->block;
    if (distance <= 0)
        distance += s->span.n;
    struct pg_hint *h = &s->hints[block];
    h->certain = certain;
    for (int i = 0; i < n; i++) {
        PG_ASSERT(ids[i] >= 0 && ids[i] < s->opt.n_expert);
        int key = block * s->opt.n_expert + ids[i];
        ids_of(s, block)[h->n++] = ids[i];
        set_hinted(s, key, certain ? 2 : 1);
        pg_policy_hint(s->policy, key, distance, certain);
    }
    if (!certain && !s->stats.hints_active)
        h->next = h->n;
    s->n_hints_queued += h->n - h->next;
    pg_store_poll(s);
}

/* Takes the next id that is not in a slot from the nearest block's queue; -1: none. */
static int next_key(struct pg_store *s, bool *certain)
{
    for (int ahead = 1; ahead <= s->span.n && s->n_hints_queued; ahead++) {
        int block = s->span.first + (s->block - s->span.first + ahead) % s->span.n;
        struct pg_hint *h = &s->hints[block];
        for (; h->next < h->n; h->next++, s->n_hints_queued--) {
            int key = block * s->opt.n_expert + ids_of(s, block)[h->next];
            *certain = h->certain;
            if (s->slot_of[key] < 0)
                return key;
        }
    }
    return -1;
}

/* Demand that comes next has to share the disk with what is under way, so that is kept as small as
 * for demand itself. Certain hints are demand that is known early: more of them may be under way,
 * so that the disk does not run dry while the engine computes; but beside demand, which is waited
 * for first, only one that fits into the window whole (docs/decisions/021-behind-demand.md). */
static bool has_room(const struct pg_store *s, int key, bool certain)
{
    uint64_t under_way = s->demand.bytes + s->hint.bytes;
    if (certain && s->demand.n)
        return under_way + pg_store_expert_bytes(s, key) <= s->window_bytes;
    return under_way < (certain ? 3 : 1) * s->window_bytes;
}

void pg_store_hint_pump(struct pg_store *s)
{
    for (;;) {
        bool certain = false;
        if (s->hint_slot >= 0) {
            if (!pg_store_submit(s, s->hint_slot))
                return;
            if (!s->slots[s->hint_slot].todo)
                s->hint_slot = -1;
            continue;
        }
        int key = next_key(s, &certain);
        if (key < 0 || !has_room(s, key, certain) || pg_io_n_pending(s->opt.io) == s->depth)
            return;
        int evicted;
        int slot = pg_store_take_slot(s, true, &evicted);
        if (slot < 0)
            return;
        if (evicted >= 0 && !certain)
            s->ghost[evicted] = s->n_waves;
        s->hints[key / s->opt.n_expert].next++;
        s->n_hints_queued--;
        pg_store_load(s, slot, key, true);
        s->slots[slot].uncertain = !certain;
        if (s->slots[slot].todo)
            s->hint_slot = slot;
        else
            pg_store_arrived(s, slot);
    }
}

/* ---- whether it pays ----------------------------------------------------------------------- */

void pg_store_hint_used(struct pg_store *s, int slot)
{
    uint64_t bytes = pg_store_expert_bytes(s, s->slots[slot].key);
    PG_ASSERT(s->slots[slot].by_hint);
    s->stats.hint_bytes_used += bytes;
    if (s->slots[slot].uncertain)
        s->check.used += bytes;
}

/* A read has begun, or has ended, or has become one on demand. */
void pg_store_watch(struct pg_store *s, const struct pg_read *ended)
{
    bool alone = s->hint.n && !s->demand.n;
    if (alone == s->alone)
        return;
    uint64_t now = ended ? ended->end_ns : pg_io_now(s->opt.io);
    if (s->alone && now > s->alone_since_ns)
        s->check.alone_ns += now - s->alone_since_ns;
    s->alone = alone;
    s->alone_since_ns = now;
}

void pg_store_hint_missed(struct pg_store *s, int key)
{
    if (s->ghost[key] && s->n_waves - s->ghost[key] <= (uint32_t)s->opt.n_block)
        s->check.evicted += pg_store_expert_bytes(s, key);
    s->ghost[key] = 0;
}

static bool window_pays(const struct pg_store *s)
{
    const struct pg_self_check *c = &s->check;
    uint64_t busy_ns = pg_io_busy_ns(s->opt.io) - c->busy0_ns;
    double bytes_per_ns = busy_ns ? (double)(s->stats.bytes_read - c->bytes0) / (double)busy_ns : 0;
    double idle = PG_MIN((double)c->alone_ns * bytes_per_ns, (double)c->read);
    uint64_t in_vain = (c->read > c->used ? c->read - c->used : 0) + c->evicted;
    return idle >= (double)in_vain;
}

static void close_window(struct pg_store *s)
{
    struct pg_self_check *c = &s->check;
    if (c->pause > 0) {
        s->stats.hints_active = --c->pause == 0;
    } else if (c->read && !window_pays(s)) {
        s->stats.hints_active = false;
        c->pause = PG_MAX(c->next_pause, PAUSE_LEAST);
        c->next_pause = PG_MIN(2 * c->pause, PAUSE_MOST);
    } else if (c->read) {
        c->next_pause = 0;
    }
    *c = (struct pg_self_check){.pause = c->pause, .next_pause = c->next_pause};
    c->bytes0 = s->stats.bytes_read;
    c->busy0_ns = pg_io_busy_ns(s->opt.io);
}

void pg_store_step(struct pg_store *s, int n_decode)
{
    PG_ASSERT(n_decode >= 0);
    if (!n_decode || s->opt.hints != PG_HINTS_AUTO || s->opt.steady)
        return; /* what pays is a question of time */
    s->check.n_rows += n_decode;
    if (s->check.n_rows > WINDOW)
        close_window(s);
}
