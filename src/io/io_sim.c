/* SPDX-License-Identifier: MIT
 * A simulated disk: discrete events on a virtual clock, so that millions of reads with any latency,
 * order and failure cost seconds of ours and come out the same for the same seed.
 *
 * A read waits (its latency), then moves: all that move share the bandwidth equally; or one moves
 * after the other, while those behind it wait. A read in pieces waits again before each piece. What
 * becomes of a read is drawn when it is submitted.
 */
#include "base/random.h"
#include "io/io_impl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SPARSE_BYTES 64u

struct transfer {
    uint64_t start_ns; /* waits until then */
    bool moving;
    double piece; /* bytes of this piece that are still to be moved */
    size_t later; /* bytes of the pieces after it */
    uint64_t nth; /* submitted */
};

struct sim_io {
    struct pg_io base;
    struct pg_io_sim sim;
    struct transfer *transfers; /* [depth], beside base.flights */
    uint64_t now_ns, random;
    uint64_t n_reads, n_faults;
    int n_moving;
};

static uint64_t draw(struct sim_io *s)
{
    return pg_random_next(&s->random);
}

static uint64_t draw_below(struct sim_io *s, uint64_t n)
{
    return draw(s) % n;
}

static bool draw_chance(struct sim_io *s, double p)
{
    return p > 0 && (double)(draw(s) >> 11) * 0x1p-53 < p;
}

/* ---- contents ---- */

void pg_io_sim_fill(int file, uint64_t offset, void *buf, size_t n)
{
    unsigned char *to = buf;
    uint64_t salt = pg_random_mix((uint64_t)file + 1);
    while (n) {
        uint64_t word = pg_random_mix((offset / 8 + 1) * PG_RANDOM_STEP ^ salt);
        size_t at = offset % 8, take = PG_MIN(8 - at, n);
        memcpy(to, (char *)&word + at, take);
        to += take;
        offset += take;
        n -= take;
    }
}

static void read_fill(const struct sim_io *s, struct pg_read *r, size_t n)
{
    if (s->sim.blank)
        return;
    if (!s->sim.sparse) {
        pg_io_sim_fill(r->file, r->offset, r->buf, n);
        return;
    }
    for (size_t at = 0; at < n; at += PG_PAGE) {
        size_t tail = at + PG_PAGE - SPARSE_BYTES;
        char *page = (char *)r->buf + at;
        pg_io_sim_fill(r->file, r->offset + at, page, PG_MIN(SPARSE_BYTES, n - at));
        if (n > tail)
            pg_io_sim_fill(r->file, r->offset + tail, (char *)r->buf + tail,
                           PG_MIN(SPARSE_BYTES, n - tail));
    }
}

/* ---- one transfer ---- */

static void piece_wait(struct sim_io *s, struct transfer *t)
{
    t->start_ns = s->now_ns + s->sim.latency_ns;
    if (s->sim.jitter_ns)
        t->start_ns += draw_below(s, s->sim.jitter_ns);
}

/* Cuts the piece in two at a random byte; nothing is left for later when it is a byte long. */
static void piece_cut(struct sim_io *s, struct transfer *t, size_t n)
{
    size_t first = n > 1 ? 1 + (size_t)draw_below(s, n - 1) : n;
    t->piece = (double)first;
    t->later = n - first;
}

static void sim_submit(struct pg_io *io, struct pg_read *r)
{
    struct sim_io *s = (struct sim_io *)io;
    const struct pg_io_sim *o = &s->sim;
    struct pg_io_flight *f = pg_io_flight_start(io, r);
    struct transfer *t = &s->transfers[f - io->flights];
    uint64_t nth = ++s->n_reads;
    io->sim_changed = io->sim_changed || nth == o->change_at;
    bool fails = nth == o->fail_at || draw_chance(s, o->fail_rate);
    bool in_pieces = nth == o->short_at || draw_chance(s, o->short_rate);

    uint64_t there = UINT64_MAX;
    if (o->file_bytes)
        there = o->file_bytes > r->offset ? o->file_bytes - r->offset : 0;
    f->got = (size_t)PG_MIN(there, (uint64_t)f->size);
    f->os_error = f->got < r->need ? -1 : 0;
    if (fails) {
        f->got = (size_t)draw_below(s, f->got + 1);
        f->os_error = EIO;
    }
    *t = (struct transfer){.piece = (double)f->got, .nth = nth};
    if (in_pieces)
        piece_cut(s, t, f->got);
    piece_wait(s, t);
    if (nth == o->late_at)
        t->start_ns += o->late_ns;
    s->n_faults += (uint64_t)fails + in_pieces + (nth == o->late_at);
}

/* The piece of flight i is there: on to its next piece, or the read is over. */
static void piece_end(struct sim_io *s, int i)
{
    struct transfer *t = &s->transfers[i];
    struct pg_io_flight *f = &s->base.flights[i];
    PG_ASSERT(t->moving && f->in_use);
    t->moving = false;
    s->n_moving--;
    if (t->later) {
        t->piece = (double)t->later;
        t->later = 0;
        piece_wait(s, t);
        return;
    }
    read_fill(s, f->read, f->got);
    pg_io_flight_land(&s->base, f, s->now_ns);
}

/* ---- time ---- */

/* The moving flight that ends first, or -1. */
static int moving_first(const struct sim_io *s)
{
    int first = -1;
    for (int i = 0; i < s->base.depth; i++)
        if (s->transfers[i].moving &&
            (first < 0 || s->transfers[i].piece < s->transfers[first].piece))
            first = i;
    return first;
}

static bool starts_before(const struct sim_io *s, int i, int j)
{
    const struct transfer *a = &s->transfers[i], *b = &s->transfers[j];
    return s->sim.in_order ? a->nth < b->nth : a->start_ns < b->start_ns;
}

/* The waiting flight that starts first, or -1. */
static int waiting_first(const struct sim_io *s)
{
    int first = -1;
    if (s->sim.in_order && s->n_moving)
        return -1;
    for (int i = 0; i < s->base.depth; i++)
        if (s->base.flights[i].in_use && !s->transfers[i].moving &&
            (first < 0 || starts_before(s, i, first)))
            first = i;
    return first;
}

static void time_pass(struct sim_io *s, uint64_t until_ns)
{
    PG_ASSERT(until_ns >= s->now_ns);
    if (s->n_moving && s->sim.bytes_per_s) {
        double share = (double)s->sim.bytes_per_s * 1e-9 / s->n_moving;
        double moved = (double)(until_ns - s->now_ns) * share;
        for (int i = 0; i < s->base.depth; i++)
            if (s->transfers[i].moving)
                s->transfers[i].piece -= moved;
    }
    s->now_ns = until_ns;
}

/* With shuffling the disk has served another of the moving flights than the one whose turn it was;
 * that one takes over what is left of the other, so the bandwidth stays what it is. */
static int shuffled(struct sim_io *s, int first)
{
    int skip = (int)draw_below(s, (uint64_t)s->n_moving);
    for (int i = 0; i < s->base.depth; i++) {
        if (!s->transfers[i].moving || skip-- > 0)
            continue;
        double left = s->transfers[first].piece;
        s->transfers[first].piece = s->transfers[i].piece;
        s->transfers[i].piece = left;
        return i;
    }
    return first;
}

/* Goes to the next event, at most to until_ns. False: there was none before it. */
static bool event_next(struct sim_io *s, uint64_t until_ns)
{
    int ends = moving_first(s), starts = waiting_first(s);
    uint64_t end_ns = UINT64_MAX;
    if (ends >= 0) {
        double left = PG_MAX(s->transfers[ends].piece, 0.0);
        double rate = (double)s->sim.bytes_per_s * 1e-9 / s->n_moving;
        end_ns = s->now_ns + (s->sim.bytes_per_s ? (uint64_t)(left / rate + 0.5) : 0);
    }
    uint64_t start_ns = UINT64_MAX;
    if (starts >= 0) /* whose turn has come late has waited enough */
        start_ns = PG_MAX(s->transfers[starts].start_ns, s->now_ns);
    uint64_t event_ns = PG_MIN(end_ns, start_ns);
    if (event_ns > until_ns || (ends < 0 && starts < 0)) {
        time_pass(s, until_ns);
        return false;
    }
    time_pass(s, event_ns);
    if (start_ns <= end_ns) {
        s->transfers[starts].moving = true;
        s->n_moving++;
    } else {
        piece_end(s, s->sim.shuffle ? shuffled(s, ends) : ends);
    }
    return true;
}

static int sim_reap(struct pg_io *io, struct pg_read **done, int max, bool wait)
{
    struct sim_io *s = (struct sim_io *)io;
    while (wait && !io->landed)
        PG_ASSERT(event_next(s, UINT64_MAX));
    return pg_io_take(io, done, max);
}

void pg_io_sim_advance(struct pg_io *io, uint64_t ns)
{
    struct sim_io *s = (struct sim_io *)io;
    uint64_t until_ns = s->now_ns + ns;
    while (event_next(s, until_ns))
        continue;
}

static uint64_t sim_now(const struct pg_io *io)
{
    return ((const struct sim_io *)io)->now_ns;
}

static uint64_t sim_busy_ns(const struct pg_io *io)
{
    return pg_io_busy_at(io, sim_now(io));
}

uint64_t pg_io_sim_n_faults(const struct pg_io *io)
{
    return ((const struct sim_io *)io)->n_faults;
}

uint64_t pg_io_sim_n_reads(const struct pg_io *io)
{
    return ((const struct sim_io *)io)->n_reads;
}

static void sim_close(struct pg_io *io)
{
    struct sim_io *s = (struct sim_io *)io;
    free(s->transfers);
    pg_io_fini(io);
    free(s);
}

static const struct pg_io_ops sim_ops = {
    .close = sim_close,
    .submit = sim_submit,
    .reap = sim_reap,
    .now = sim_now,
    .busy_ns = sim_busy_ns,
};

static int sim_open(struct sim_io *s, struct pg_err *err)
{
    PG_TRY(pg_io_init(&s->base, s->sim.depth, err));
    s->transfers = pg_calloc((size_t)s->base.depth, sizeof(*s->transfers));
    if (!s->transfers)
        return pg_fail(err, PG_ENOMEM, "no memory for %d simulated reads", s->base.depth);
    snprintf(s->base.describe, sizeof(s->base.describe), "simulated");
    return 0;
}

int pg_io_open_sim(struct pg_io **out, const struct pg_io_sim *sim, struct pg_err *err)
{
    struct sim_io *s = pg_calloc(1, sizeof(*s));
    *out = NULL;
    if (!s)
        return pg_fail(err, PG_ENOMEM, "no memory for the simulated disk");
    s->base.ops = &sim_ops;
    s->sim = *sim;
    s->random = sim->seed;
    int rc = sim_open(s, err);
    if (rc)
        sim_close(&s->base);
    else
        *out = &s->base;
    return rc;
}
