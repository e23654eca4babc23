/* SPDX-License-Identifier: MIT */
#include "text/sorted.h"
#include "text/vocab_impl.h"

#include <stdlib.h>
#include <string.h>

static int by_text(const void *a, const void *b, void *vocab)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    struct pg_str s = pg_vocab_piece_at(vocab, x), t = pg_vocab_piece_at(vocab, y);
    int diff = memcmp(s.s, t.s, PG_MIN(s.n, t.n));
    if (diff)
        return diff;
    if (s.n != t.n)
        return s.n < t.n ? -1 : 1;
    return x < y ? -1 : 1;
}

static bool is_listed(const struct pg_vocab *v, uint32_t id, unsigned types)
{
    return (types >> v->pieces.type[id] & 1) && pg_pieces_text(&v->pieces, id).n;
}

int pg_sorted_init(struct pg_sorted *s, struct pg_vocab *v, unsigned types, struct pg_err *err)
{
    uint32_t n = 0;

    for (uint32_t id = 0; id < v->pieces.n; id++)
        n += is_listed(v, id, types);
    s->id = pg_vocab_alloc(v, n, sizeof(*s->id), err);
    if (!s->id)
        return PG_ENOMEM;
    n = 0;
    for (uint32_t id = 0; id < v->pieces.n; id++)
        if (is_listed(v, id, types))
            s->id[n++] = id;
    qsort_r(s->id, n, sizeof(*s->id), by_text, v);
    for (uint32_t i = 0; i < n; i++)
        s->from[(unsigned char)pg_pieces_text(&v->pieces, s->id[i]).s[0] + 1]++;
    for (int b = 0; b < 256; b++)
        s->from[b + 1] += s->from[b];
    return 0;
}

struct pg_sorted_range pg_sorted_begin(const struct pg_sorted *s, char first)
{
    unsigned char b = (unsigned char)first;
    return (struct pg_sorted_range){s->from[b], s->from[b + 1], 1};
}

int32_t pg_sorted_take(const struct pg_sorted *s, const struct pg_vocab *v,
                       struct pg_sorted_range *r)
{
    if (r->lo == r->hi || pg_pieces_text(&v->pieces, s->id[r->lo]).n != r->depth)
        return -1;
    return (int32_t)s->id[r->lo++];
}

/* The first of id[lo, hi) whose byte at `depth` is at least c. */
static uint32_t lower_bound(const struct pg_sorted *s, const struct pg_vocab *v,
                            struct pg_sorted_range r, int c)
{
    while (r.lo < r.hi) {
        uint32_t mid = r.lo + (r.hi - r.lo) / 2;
        if ((unsigned char)pg_pieces_text(&v->pieces, s->id[mid]).s[r.depth] < c)
            r.lo = mid + 1;
        else
            r.hi = mid;
    }
    return r.lo;
}

void pg_sorted_step(const struct pg_sorted *s, const struct pg_vocab *v, struct pg_sorted_range *r,
                    char next)
{
    int c = (unsigned char)next;
    r->lo = lower_bound(s, v, *r, c);
    r->hi = lower_bound(s, v, *r, c + 1);
    r->depth++;
}
