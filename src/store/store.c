/* SPDX-License-Identifier: MIT
 * Slots, leases and waves.
 *
 * pump() is the heart. It is run at every call and keeps the io fed, in this order: reads of slots
 * that the wave has already taken (`queue`), then slots for the wave's missing experts, then hints.
 * A slot is taken only when the io has room for its reads, so that an expert is not evicted earlier
 * than it must be, and a wave larger than the slots needs no case of its own: its missing experts
 * wait until others are released.
 *
 * Who leaves for a demand read, in this order: an expert that is not hinted for certain (other
 * hints are the policy's to weigh); one of the wave itself that has been released; any. For a hint
 * only an expert leaves that no hint names.
 */
#include "store/store_impl.h"

#include "base/arena.h"
#include "base/os.h"

#include <stdlib.h>
#include <string.h>

#define WINDOW_BYTES ((size_t)3 << 20)
#define RUN_MOST     ((uint64_t)1 << 30)

/* ---- places -------------------------------------------------------------------------------- */

/* What one read brings: the whole pages around slabs of a file that lie together. */
struct run {
    int file;
    uint64_t begin, end; /* pages */
    uint64_t need;       /* bytes that must arrive, from begin */
    unsigned slabs;      /* a bit each */
};

/* Slabs apart by a page at most are read as one: the page costs less than a second request does. A
 * read has a size that every backend takes. */
static bool join_runs(struct run *a, const struct run *b)
{
    const uint64_t begin = PG_MIN(a->begin, b->begin), end = PG_MAX(a->end, b->end);
    if (a->file != b->file || b->begin > a->end + PG_PAGE || a->begin > b->end + PG_PAGE ||
        end - begin > RUN_MOST)
        return false;
    a->need = PG_MAX(a->begin + a->need, b->begin + b->need) - begin;
    a->begin = begin;
    a->end = end;
    a->slabs |= b->slabs;
    return true;
}

/* Three at most, so every pair is looked at again when two have become one. */
static int join_all(struct run *run, int n)
{
    for (int i = 0; i < n; i++)
        for (int k = i + 1; k < n; k++)
            if (join_runs(&run[i], &run[k])) {
                run[k] = run[--n];
                i = -1;
                break;
            }
    return n;
}

/* The reads of an expert, in the order of their first slabs. */
static int runs_of(const struct pg_place *place, struct run out[PG_SLABS])
{
    int n = 0;
    for (int k = 0; k < PG_SLABS; k++) {
        const uint64_t lead = place->offset[k] % PG_PAGE, need = lead + place->bytes[k];
        const uint64_t begin = place->offset[k] - lead;
        if (place->bytes[k])
            out[n++] = (struct run){.file = place->file[k],
                                    .begin = begin,
                                    .end = begin + (need + PG_PAGE - 1) / PG_PAGE * PG_PAGE,
                                    .need = need,
                                    .slabs = 1u << k};
    }
    return join_all(out, n);
}

static size_t place_extent(const struct pg_place *place)
{
    struct run run[PG_SLABS];
    size_t bytes = 0;
    for (int i = runs_of(place, run) - 1; i >= 0; i--)
        bytes += (size_t)(run[i].end - run[i].begin);
    return bytes;
}

size_t pg_store_slot_bytes(const struct pg_place *place, int n_place)
{
    size_t most = PG_PAGE;
    for (int i = 0; i < n_place; i++)
        most = PG_MAX(most, place_extent(&place[i]));
    return most;
}

const struct pg_place *pg_store_place(const struct pg_store *s, int key)
{
    return &s->opt.place[key];
}

uint64_t pg_store_expert_bytes(const struct pg_store *s, int key)
{
    return place_extent(pg_store_place(s, key));
}

/* ---- open and close ------------------------------------------------------------------------ */

/* Hands out the arrays of *s; run without memory it only measures. */
static size_t carve(struct pg_store *s, struct pg_arena *a)
{
    size_t n_slots = (size_t)s->opt.n_slots;
    size_t n_expert = (size_t)s->opt.n_expert;
    size_t n_block = (size_t)s->opt.n_block;
    size_t n_key = n_block * n_expert;
#define TAKE(field, n) (s->field = pg_arena_take(a, (n) * sizeof(*s->field)))
    TAKE(slots, n_slots);
    TAKE(reads, n_slots * PG_SLABS);
    TAKE(slot_of, n_key);
    TAKE(free_slots, n_slots);
    for (int i = 0; i < N_MAY; i++)
        TAKE(may[i], n_slots);
    TAKE(ids, n_expert);
    TAKE(want, n_expert);
    TAKE(ready, n_expert);
    TAKE(placed, n_expert);
    TAKE(queue, n_slots);
    TAKE(hints, n_block);
    TAKE(hint_ids, n_key);
    TAKE(hinted, n_key);
    TAKE(used, n_key);
    TAKE(ghost, n_key);
#undef TAKE
    return a->used;
}

size_t pg_store_heap_bytes(int n_block, int n_expert, int n_slots)
{
    struct pg_store s = {.opt = {.n_block = n_block, .n_expert = n_expert, .n_slots = n_slots}};
    struct pg_arena a = {0};
    return sizeof(s) + carve(&s, &a) + pg_policy_heap_bytes(n_block, n_expert, n_slots);
}

static int check_options(const struct pg_store_options *opt, struct pg_err *err)
{
    if (opt->n_block < 1 || opt->n_expert < 1 || opt->n_block > INT32_MAX / opt->n_expert)
        return pg_fail(err, PG_EARG, "store of %d blocks with %d experts: want 1 of each at least",
                       opt->n_block, opt->n_expert);
    if (opt->n_slots < PG_SLOTS_MIN)
        return pg_fail(err, PG_EBUDGET, "store with %d slots: want %d at least", opt->n_slots,
                       PG_SLOTS_MIN);
    if ((uintptr_t)opt->arena % PG_PAGE || opt->slot_bytes % PG_PAGE)
        return pg_fail(err, PG_EARG, "store: slots of %zu bytes at %p: want whole pages of %u",
                       opt->slot_bytes, opt->arena, PG_PAGE);
    for (int key = 0; key < opt->n_block * opt->n_expert; key++) {
        for (int k = 0; k < PG_SLABS; k++)
            if (opt->place[key].bytes[k] > opt->slot_bytes) /* before sums of them can overflow */
                return pg_fail(err, PG_EARG,
                               "store: a slab of expert %d of block %d has %llu bytes, a slot %zu",
                               key % opt->n_expert, key / opt->n_expert,
                               (unsigned long long)opt->place[key].bytes[k], opt->slot_bytes);
        size_t need = place_extent(&opt->place[key]);
        if (need > opt->slot_bytes)
            return pg_fail(err, PG_EARG,
                           "store: expert %d of block %d takes %zu bytes, a slot has %zu",
                           key % opt->n_expert, key / opt->n_expert, need, opt->slot_bytes);
    }
    return 0;
}

int pg_store_open(struct pg_store **out, const struct pg_store_options *opt, struct pg_err *err)
{
    *out = NULL;
    PG_TRY(check_options(opt, err));
    struct pg_store *s = pg_calloc(1, sizeof(*s));
    if (!s)
        return pg_fail(err, PG_ENOMEM, "store: out of memory");
    s->opt = *opt;
    s->hint_slot = -1;
    struct pg_arena a = {0};
    size_t bytes = carve(s, &a);
    s->memory = pg_calloc(1, bytes);
    if (!s->memory) {
        pg_store_close(s);
        return pg_fail(err, PG_ENOMEM, "store: out of memory (%zu bytes)", bytes);
    }
    a = (struct pg_arena){.base = s->memory, .size = bytes};
    carve(s, &a);
    int rc = pg_policy_open(&s->policy, opt->evict, opt->n_block, opt->n_expert, opt->n_slots, err);
    if (rc) {
        pg_store_close(s);
        return rc;
    }
    pg_policy_expose(s->policy, opt->n_exposed);
    s->depth = pg_io_depth(opt->io);
    s->window_bytes = opt->window_bytes ? opt->window_bytes : WINDOW_BYTES;
    s->span = (struct pg_span){0, opt->n_block};
    s->block = opt->n_block - 1;
    for (int key = 0; key < opt->n_block * opt->n_expert; key++)
        s->slot_of[key] = -1;
    for (int i = opt->n_slots - 1; i >= 0; i--) {
        s->slots[i] = (struct pg_slot){.key = -1, .wave = -1};
        s->free_slots[s->n_free++] = i;
    }
    s->stats.hints_active = opt->hints != PG_HINTS_OFF;
    *out = s;
    return 0;
}

void pg_store_close(struct pg_store *s)
{
    if (!s)
        return;
    if (s->policy) { /* reads under way still write to the arena */
        pg_store_abandon(s);
        pg_store_drain(s);
    }
    pg_policy_close(s->policy);
    free(s->memory);
    free(s);
}

/* ---- slots --------------------------------------------------------------------------------- */

void pg_store_mark(struct pg_store *s, int slot)
{
    const struct pg_slot *it = &s->slots[slot];
    bool may = it->state == SLOT_READY && it->wave < 0;
    int hinted = may ? s->hinted[it->key] : 0;
    s->may[MAY_DEMAND][slot] = may;
    s->may[MAY_CERTAIN][slot] = may && hinted < 2;
    s->may[MAY_HINT][slot] = may && hinted < 1;
}

/* The only way from state to state. */
static void slot_to(struct pg_store *s, int slot, enum pg_slot_state to)
{
    static const uint8_t from[] = {[SLOT_FREE] = 1 << SLOT_LOADING | 1 << SLOT_READY,
                                   [SLOT_LOADING] = 1 << SLOT_FREE,
                                   [SLOT_READY] = 1 << SLOT_LOADING | 1 << SLOT_PINNED,
                                   [SLOT_PINNED] = 1 << SLOT_READY};
    struct pg_slot *it = &s->slots[slot];
    PG_ASSERT(from[to] >> it->state & 1);
    s->n_pinned += (to == SLOT_PINNED) - (it->state == SLOT_PINNED);
    it->state = (uint8_t)to;
    pg_store_mark(s, slot);
}

static void slot_empty(struct pg_store *s, int slot)
{
    struct pg_slot *it = &s->slots[slot];
    PG_ASSERT(!it->pending && !it->queued && s->hint_slot != slot);
    PG_ASSERT(s->slot_of[it->key] == slot);
    pg_policy_remove(s->policy, slot);
    if (it->state == SLOT_READY && it->hinted)
        s->stats.hinted_unused++;
    s->slot_of[it->key] = -1;
    slot_to(s, slot, SLOT_FREE);
    *it = (struct pg_slot){.key = -1, .wave = -1};
    s->free_slots[s->n_free++] = slot;
}

/* Where the wave's id at this position is; -1: nowhere. */
static int slot_of_id(const struct pg_store *s, int i)
{
    return s->slot_of[s->wave.block * s->opt.n_expert + s->ids[i]];
}

/* An expert of the wave that was delivered and released: its place is free for the wave's rest. */
static int released_slot(const struct pg_store *s)
{
    for (int i = 0; i < s->wave.n; i++) {
        int slot = slot_of_id(s, i);
        if (s->want[i] == WANT_DELIVERED && slot >= 0 && s->slots[slot].state == SLOT_READY)
            return slot;
    }
    return -1;
}

/* The one of the wave that has had a slot for longest. */
static int first_placed(struct pg_store *s)
{
    struct pg_store_wave *w = &s->wave;
    while (w->next_out < w->n_placed && slot_of_id(s, s->placed[w->next_out]) < 0)
        w->next_out++;
    return w->next_out < w->n_placed ? s->placed[w->next_out] : -1;
}

/* Who leaves for a demand read when all others are hinted for certain, or are of the wave. */
static int last_resort(struct pg_store *s)
{
    int i = s->opt.steady && !s->wave.held ? first_placed(s) : -1;
    if (i >= 0) { /* this one, when it is released */
        int slot = slot_of_id(s, i);
        bool released = s->want[i] == WANT_DELIVERED && s->slots[slot].state == SLOT_READY;
        return released ? slot : -1;
    }
    int slot = released_slot(s);
    return slot >= 0 ? slot : pg_policy_victim(s->policy, s->may[MAY_DEMAND]);
}

int pg_store_take_slot(struct pg_store *s, bool for_hint, int *evicted)
{
    *evicted = -1;
    if (!s->n_free) {
        int victim = pg_policy_victim(s->policy, s->may[for_hint ? MAY_HINT : MAY_CERTAIN]);
        if (victim < 0 && !for_hint)
            victim = last_resort(s);
        if (victim < 0)
            return -1;
        *evicted = s->slots[victim].key;
        slot_empty(s, victim);
    }
    return s->free_slots[--s->n_free];
}

/* Makes the slot the one of `key`, with all its reads to be submitted. */
void pg_store_load(struct pg_store *s, int slot, int key, bool by_hint)
{
    const struct pg_place *place = pg_store_place(s, key);
    struct pg_slot *it = &s->slots[slot];
    char *at = (char *)s->opt.arena + (size_t)slot * s->opt.slot_bytes;
    PG_ASSERT(it->key < 0 && s->slot_of[key] < 0);
    slot_to(s, slot, SLOT_LOADING);
    *it = (struct pg_slot){.key = key, .wave = -1, .state = it->state};
    it->by_hint = it->waits = it->hinted = by_hint;
    it->begin_ns = UINT64_MAX;
    s->slot_of[key] = slot;
    pg_policy_admit(s->policy, slot, key); /* in the order of the calls, not of arrival */
    struct run run[PG_SLABS];
    const int n = runs_of(place, run);
    for (int i = 0; i < n; i++) {
        const size_t size = (size_t)(run[i].end - run[i].begin);
        s->reads[slot * PG_SLABS + i] = (struct pg_read){
            .file = run[i].file,
            .offset = run[i].begin,
            .size = size,
            .need = (size_t)run[i].need,
            .buf = at,
            .user = it,
        };
        at += size;
        it->todo |= (uint8_t)(1u << i);
    }
}

struct pg_under_way pg_store_under_way(const struct pg_store *s, int slot)
{
    struct pg_under_way u = {0};
    for (int k = 0; k < PG_SLABS; k++) {
        if (s->slots[slot].pending >> k & 1) {
            u.n++;
            u.bytes += s->reads[slot * PG_SLABS + k].size;
        }
    }
    return u;
}

bool pg_store_submit(struct pg_store *s, int slot)
{
    struct pg_slot *it = &s->slots[slot];
    PG_ASSERT(it->state == SLOT_LOADING && it->todo);
    int k = __builtin_ctz(it->todo);
    if (!pg_io_submit(s->opt.io, &s->reads[slot * PG_SLABS + k]))
        return false;
    it->todo &= (uint8_t) ~(1u << k);
    it->pending |= (uint8_t)(1u << k);
    struct pg_under_way *u = it->waits ? &s->hint : &s->demand;
    u->n++;
    u->bytes += s->reads[slot * PG_SLABS + k].size;
    pg_store_watch(s, NULL);
    return true;
}

/* ---- demand queue -------------------------------------------------------------------------- */

static void queue_back(struct pg_store *s, int slot)
{
    PG_ASSERT(!s->slots[slot].queued && s->n_queue < s->opt.n_slots);
    s->slots[slot].queued = true;
    s->queue[(s->queue_head + s->n_queue++) % s->opt.n_slots] = slot;
}

static void queue_front(struct pg_store *s, int slot)
{
    PG_ASSERT(!s->slots[slot].queued && s->n_queue < s->opt.n_slots);
    s->slots[slot].queued = true;
    s->queue_head = (s->queue_head + s->opt.n_slots - 1) % s->opt.n_slots;
    s->queue[s->queue_head] = slot;
    s->n_queue++;
}

static int queue_pop(struct pg_store *s)
{
    int slot = s->queue[s->queue_head];
    s->queue_head = (s->queue_head + 1) % s->opt.n_slots;
    s->n_queue--;
    s->slots[slot].queued = false;
    return slot;
}

/* ---- arrivals ------------------------------------------------------------------------------ */

void pg_store_arrived(struct pg_store *s, int slot)
{
    struct pg_slot *it = &s->slots[slot];
    PG_ASSERT(!it->todo && !it->pending && !it->failed);
    slot_to(s, slot, SLOT_READY);
    if (it->wave >= 0) {
        s->want[it->wave] = WANT_READY;
        s->ready[s->wave.n_ready++] = it->wave;
    }
}

/* All of a slot's reads are back, some of them failed. One that the wave waits for is tried once
 * more; what a hint asked for is dropped, demand will decide. */
static void slot_failed(struct pg_store *s, int slot)
{
    struct pg_slot *it = &s->slots[slot];
    PG_ASSERT(it->failed && !it->todo && !it->pending);
    if (it->wave >= 0 && !it->retried) {
        it->retried = true;
        it->todo = it->failed;
        it->failed = 0;
        queue_front(s, slot);
        return;
    }
    if (it->wave >= 0 && !s->wave.failed) {
        s->wave.failed = true;
        s->wave.bad = s->reads[slot * PG_SLABS + __builtin_ctz(it->failed)];
    }
    slot_empty(s, slot);
}

static int traced_block(const struct pg_store *s, int block)
{
    return s->opt.block_of ? s->opt.block_of[block] : block;
}

static void read_done(struct pg_store *s, struct pg_read *r)
{
    struct pg_slot *it = r->user;
    int slot = (int)(it - s->slots);
    int k = (int)(r - s->reads) - slot * PG_SLABS;
    PG_ASSERT(it->state == SLOT_LOADING && it->pending >> k & 1);
    it->pending &= (uint8_t) ~(1u << k);
    struct pg_under_way *u = it->waits ? &s->hint : &s->demand;
    u->n--;
    u->bytes -= r->size;
    pg_store_watch(s, r);
    it->begin_ns = PG_MIN(it->begin_ns, r->begin_ns);
    if (r->os_error) {
        s->stats.read_errors++;
        it->failed |= (uint8_t)(1u << k);
    } else {
        s->stats.bytes_read += r->size;
        if (it->by_hint)
            s->stats.hint_bytes_read += r->size;
        if (it->uncertain)
            s->check.read += r->size;
    }
    if (it->pending || it->todo)
        return;
    int n_expert = s->opt.n_expert;
    if (s->opt.trace)
        pg_trace_add(s->opt.trace, (struct pg_trace_event){it->by_hint ? "hint" : "demand",
                                                           it->begin_ns, r->end_ns, PG_TRACK_READ,
                                                           traced_block(s, it->key / n_expert),
                                                           it->key % n_expert});
    if (it->failed)
        slot_failed(s, slot);
    else
        pg_store_arrived(s, slot);
}

static bool reap(struct pg_store *s, bool wait)
{
    struct pg_read *done[64];
    int n = pg_io_reap(s->opt.io, done, (int)PG_COUNT(done), wait);
    for (int i = 0; i < n; i++)
        read_done(s, done[i]);
    return n > 0;
}

/* ---- keeping the io fed -------------------------------------------------------------------- */

/* Gives the wave's next missing expert a slot. */
static bool take_missing(struct pg_store *s)
{
    struct pg_store_wave *w = &s->wave;
    if (!w->active || w->failed || !w->n_missing)
        return false;
    while (s->want[w->next_missing] != WANT_MISSING)
        w->next_missing++;
    PG_ASSERT(w->next_missing < w->n);
    int evicted;
    int slot = pg_store_take_slot(s, false, &evicted);
    if (slot < 0)
        return false;
    pg_store_load(s, slot, w->block * s->opt.n_expert + s->ids[w->next_missing], false);
    s->slots[slot].wave = w->next_missing;
    s->want[w->next_missing] = WANT_LOADING;
    s->placed[w->n_placed++] = w->next_missing;
    w->n_missing--;
    if (s->slots[slot].todo)
        queue_back(s, slot);
    else
        pg_store_arrived(s, slot); /* an expert without slabs */
    return true;
}

static void pump(struct pg_store *s)
{
    while (pg_io_n_pending(s->opt.io) < s->depth) {
        if (s->n_queue) {
            int slot = s->queue[s->queue_head];
            if (!pg_store_submit(s, slot))
                return;
            if (!s->slots[slot].todo)
                queue_pop(s);
        } else if (s->demand.bytes >= s->window_bytes || !take_missing(s)) {
            break;
        }
    }
    if (!s->opt.steady && !s->n_queue && !(s->wave.active && s->wave.n_missing))
        pg_store_hint_pump(s);
}

/* Of a steady store: all hints for which there is room, read and arrived. */
static void settle(struct pg_store *s)
{
    if (!s->opt.steady || (s->wave.active && s->wave.n_missing))
        return;
    do
        pg_store_hint_pump(s);
    while ((s->n_hints_queued || s->hint.n) && pg_io_n_pending(s->opt.io) && reap(s, true));
}

/* Of a steady store: as many slots for the wave as reads may be under way, whatever else is. */
static void place_first(struct pg_store *s)
{
    uint64_t bytes = 0;
    while (s->opt.steady && bytes < s->window_bytes && s->wave.n_missing) {
        int next = s->wave.n_placed;
        if (!take_missing(s))
            return;
        bytes +=
            pg_store_expert_bytes(s, s->wave.block * s->opt.n_expert + s->ids[s->placed[next]]);
    }
}

void pg_store_here(const struct pg_store *s, int block, uint8_t *here)
{
    PG_ASSERT(block >= 0 && block < s->opt.n_block);
    const int32_t *slot_of = s->slot_of + (size_t)block * (size_t)s->opt.n_expert;
    for (int e = 0; e < s->opt.n_expert; e++)
        here[e] = slot_of[e] >= 0;
}

void pg_store_look(struct pg_store *s, uint8_t *out)
{
    const int n = s->opt.n_block * s->opt.n_expert;
    for (int key = 0; key < n; key++) {
        const int slot = s->slot_of[key];
        const bool loading = slot >= 0 && s->slots[slot].state == SLOT_LOADING;
        out[key] = (uint8_t)(slot < 0 ? 0 : loading ? PG_EXPERT_ARRIVING : PG_EXPERT_SLOT);
        out[key] |= s->used[key] ? PG_EXPERT_USED : 0;
        s->used[key] = 0;
    }
}

void pg_store_span(struct pg_store *s, struct pg_span span)
{
    PG_ASSERT(!s->wave.active);
    if (span.first == s->span.first && span.n == s->span.n)
        return;
    for (int block = 0; block < s->opt.n_block; block++)
        pg_store_hint_forget(s, block);
    s->span = span;
    s->block = span.first + span.n - 1;
    pg_policy_span(s->policy, span);
}

void pg_store_poll(struct pg_store *s)
{
    while (pg_io_n_pending(s->opt.io) && reap(s, false))
        ;
    pump(s);
}

/* ---- waves --------------------------------------------------------------------------------- */

/* A hinted read that is under way becomes the wave's. */
static void join(struct pg_store *s, int slot)
{
    struct pg_slot *it = &s->slots[slot];
    PG_ASSERT(it->state == SLOT_LOADING && !it->queued);
    if (it->waits) {
        struct pg_under_way moved = pg_store_under_way(s, slot);
        s->hint.n -= moved.n;
        s->hint.bytes -= moved.bytes;
        s->demand.n += moved.n;
        s->demand.bytes += moved.bytes;
        pg_store_watch(s, NULL);
    }
    it->waits = false;
    if (s->hint_slot == slot) {
        s->hint_slot = -1;
        queue_front(s, slot);
    }
}

static void want_id(struct pg_store *s, int i)
{
    int key = s->wave.block * s->opt.n_expert + s->ids[i];
    int slot = s->slot_of[key];
    struct pg_slot *it = slot < 0 ? NULL : &s->slots[slot];
    bool hinted = it && it->hinted;
    bool ready = it && it->state == SLOT_READY;
    s->used[key] = 1;
    pg_policy_use(s->policy, key);
    s->stats.requests++;
    s->stats.hits += ready && !hinted;
    s->stats.hinted_in_time += ready && hinted;
    s->stats.hinted_late += !ready && hinted;
    s->stats.missed += !ready && !hinted;
    if (!it) {
        s->want[i] = WANT_MISSING;
        s->wave.n_missing++;
        pg_store_hint_missed(s, key);
        return;
    }
    if (hinted)
        pg_store_hint_used(s, slot);
    PG_ASSERT(it->wave < 0); /* ids are distinct */
    it->wave = i;
    it->hinted = false;
    s->placed[s->wave.n_placed++] = i;
    if (ready) {
        s->want[i] = WANT_READY;
        s->ready[s->wave.n_ready++] = i;
    } else {
        s->want[i] = WANT_LOADING;
        join(s, slot);
    }
    pg_store_mark(s, slot);
}

void pg_store_acquire(struct pg_store *s, int block, const int32_t *ids, int n)
{
    PG_ASSERT(!s->wave.active && !s->n_pinned && !s->n_queue);
    PG_ASSERT(block >= s->span.first && block < s->span.first + s->span.n);
    PG_ASSERT(n >= 0 && n <= s->opt.n_expert);
    while (pg_io_n_pending(s->opt.io) && reap(s, false))
        ;
    s->block = block;
    s->n_waves++;
    s->wave = (struct pg_store_wave){.active = true, .block = block, .n = n};
    pg_policy_tick(s->policy, block);
    for (int i = 0; i < n; i++) {
        PG_ASSERT(ids[i] >= 0 && ids[i] < s->opt.n_expert);
        s->ids[i] = ids[i];
        want_id(s, i);
    }
    pg_store_hint_forget(s, block);
    place_first(s);
    pump(s);
}

/* Its slots are everybody's again. What is pinned stays so until it is released. What is still
 * under way has its second try before it for the wave that wants it next. */
static void end_wave(struct pg_store *s)
{
    struct pg_store_wave *w = &s->wave;
    PG_ASSERT(w->active);
    for (int i = 0; i < w->n; i++) {
        int slot = s->slot_of[w->block * s->opt.n_expert + s->ids[i]];
        if (slot < 0)
            continue;
        s->slots[slot].wave = -1;
        s->slots[slot].retried = false;
        pg_store_mark(s, slot);
    }
    w->active = false;
}

/* Nobody waits for this slot any more: what is under way goes on, what is not submitted yet counts
 * as failed, so that the slot is emptied, or tried again if it is wanted by then. */
static void drop_load(struct pg_store *s, int slot)
{
    struct pg_slot *it = &s->slots[slot];
    PG_ASSERT(it->state == SLOT_LOADING && it->wave < 0);
    it->failed |= it->todo;
    it->todo = 0;
    it->retried = false;
    if (!it->pending)
        slot_empty(s, slot);
}

void pg_store_abandon(struct pg_store *s)
{
    if (!s->wave.active)
        return;
    PG_ASSERT(!s->n_pinned);
    end_wave(s);
    while (s->n_queue)
        drop_load(s, queue_pop(s));
    pump(s);
}

static void fail_wave(struct pg_store *s)
{
    for (int i = 0; i < s->wave.n; i++) {
        int slot = s->slot_of[s->wave.block * s->opt.n_expert + s->ids[i]];
        if (slot >= 0 && s->slots[slot].state == SLOT_PINNED)
            slot_to(s, slot, SLOT_READY);
    }
    pg_store_abandon(s);
}

/* Waits until something can be delivered, or the wave has failed. */
static void wait_ready(struct pg_store *s)
{
    struct pg_store_wave *w = &s->wave;
    uint64_t begin = pg_io_now(s->opt.io);
    while (w->next_ready == w->n_ready && !w->failed) {
        if (!pg_io_n_pending(s->opt.io)) {
            w->held = true;
            pump(s);
        }
        /* Nothing under way and nothing to deliver: the caller holds every slot. */
        PG_ASSERT(pg_io_n_pending(s->opt.io) > 0);
        reap(s, true);
        pump(s);
    }
    uint64_t end = pg_io_now(s->opt.io);
    s->stats.stall_ns += end - begin;
    if (s->opt.trace && end > begin)
        pg_trace_add(s->opt.trace, (struct pg_trace_event){"stall", begin, end, PG_TRACK_STALL,
                                                           traced_block(s, w->block), -1});
}

/* Where its read has put each slab; NULL: the expert has none. */
static void point_slabs(const struct pg_store *s, int slot, const void *slab[PG_SLABS])
{
    const struct pg_place *place = pg_store_place(s, s->slots[slot].key);
    struct run run[PG_SLABS];
    const int n = runs_of(place, run);
    for (int i = 0; i < n; i++)
        for (int k = 0; k < PG_SLABS; k++)
            if (run[i].slabs >> k & 1)
                slab[k] = (const char *)s->reads[slot * PG_SLABS + i].buf +
                          (place->offset[k] - run[i].begin);
}

int pg_store_next(struct pg_store *s, struct pg_lease *out, struct pg_err *err)
{
    struct pg_store_wave *w = &s->wave;
    PG_ASSERT(w->active);
    pg_store_poll(s);
    settle(s);
    if (w->n_delivered < w->n && w->next_ready == w->n_ready && !w->failed)
        wait_ready(s);
    if (w->failed) {
        fail_wave(s);
        return pg_io_error(s->opt.io, &w->bad, err);
    }
    if (w->n_delivered == w->n) {
        /* Once a step, before anybody has seen what came of it. */
        int rc = w->block == s->span.first + s->span.n - 1 ? pg_io_check(s->opt.io, err) : 0;
        if (rc)
            fail_wave(s);
        else
            end_wave(s);
        pump(s);
        settle(s);
        return rc;
    }
    int i = s->ready[w->next_ready++];
    int slot = s->slot_of[w->block * s->opt.n_expert + s->ids[i]];
    PG_ASSERT(s->want[i] == WANT_READY && s->slots[slot].wave == i);
    s->want[i] = WANT_DELIVERED;
    w->n_delivered++;
    slot_to(s, slot, SLOT_PINNED);
    *out = (struct pg_lease){.index = i, .expert = s->ids[i], .slot = slot};
    point_slabs(s, slot, out->slab);
    return 1;
}

int pg_store_n_ready(struct pg_store *s)
{
    pg_store_poll(s);
    return s->wave.active && !s->wave.failed ? s->wave.n_ready - s->wave.next_ready : 0;
}

void pg_store_release(struct pg_store *s, const struct pg_lease *lease)
{
    PG_ASSERT(lease->slot >= 0 && lease->slot < s->opt.n_slots);
    PG_ASSERT(s->slots[lease->slot].key % s->opt.n_expert == lease->expert);
    slot_to(s, lease->slot, SLOT_READY);
    pg_store_poll(s);
}

/* ---- the rest ------------------------------------------------------------------------------ */

void pg_store_drain(struct pg_store *s)
{
    PG_ASSERT(!s->wave.active && !s->n_queue);
    for (int block = 0; block < s->opt.n_block; block++)
        pg_store_hint_forget(s, block);
    if (s->hint_slot >= 0) {
        int slot = s->hint_slot;
        s->hint_slot = -1;
        drop_load(s, slot);
    }
    while (pg_io_n_pending(s->opt.io))
        reap(s, true);
}

void pg_store_stats(const struct pg_store *s, struct pg_store_stats *out)
{
    *out = s->stats;
    out->io_busy_ns = pg_io_busy_ns(s->opt.io);
}
