/* SPDX-License-Identifier: MIT
 * Dropout. What becomes of a value is a function of the run's draw, the place and the row, so it
 * need not be kept for the way back, and no thread has a say in it.
 */
#include "net/net_impl.h"

#include "base/random.h"

#include <string.h>

enum { EACH = 4, BITS = 64 / EACH }; /* values of a random number */

static uint64_t place_of(const struct pg_net *n, int il, enum pg_net_drop what)
{
    return (uint64_t)(il < 0 ? n->h->n_layer + pg_stack_of(n->h, n->now->first) : il) *
               PG_NET_DROPS +
           (uint64_t)what;
}

void pg_net_drop_row(const struct pg_net *n, int il, enum pg_net_drop what, int t, pg_real *x)
{
    const int n_embd = n->h->n_embd;
    const uint64_t least = (uint64_t)((double)n->opt.dropout * (1u << BITS) + 0.5);
    const pg_real times = 1 / (1 - (pg_real)least / (1u << BITS));
    uint64_t state = pg_random_at(n->draw, place_of(n, il, what), (uint64_t)t);
    for (int i = 0; i < n_embd; i += EACH) {
        uint64_t bits = pg_random_next(&state);
        for (int k = i; k < PG_MIN(i + EACH, n_embd); k++, bits >>= BITS)
            x[k] = (bits & ((1u << BITS) - 1)) < least ? 0 : x[k] * times;
    }
}

struct drop {
    struct pg_net *n;
    int il;
    enum pg_net_drop what;
    pg_real *x;
    const pg_real *from; /* or NULL: x */
};

static void drop_rows(void *arg, int task, int thread)
{
    const struct drop *d = arg;
    struct pg_net_span s = pg_net_span(d->n, task);
    const int n_embd = d->n->h->n_embd;
    (void)thread;
    for (int t = s.t0; t < s.t0 + s.n; t++) {
        pg_real *x = pg_net_row(d->x, t, n_embd);
        if (d->from)
            memcpy(x, d->from + (size_t)t * (size_t)n_embd, (size_t)n_embd * sizeof(x[0]));
        if (pg_net_drops(d->n))
            pg_net_drop_row(d->n, d->il, d->what, t, x);
    }
}

void pg_net_drop(struct pg_net *n, int il, enum pg_net_drop what, pg_real *x)
{
    struct drop d = {n, il, what, x, NULL};
    if (pg_net_drops(n))
        pg_pool_run(n->opt.pool, drop_rows, &d, n->n_spans);
}

void pg_net_drop_back(struct pg_net *n, int il, enum pg_net_drop what)
{
    struct drop d = {n, il, what, n->dy, n->dx};
    if (n->dy != n->dx)
        pg_pool_run(n->opt.pool, drop_rows, &d, n->n_spans);
}

void pg_net_begin_add(const struct pg_net *n, const pg_real *x, pg_real *out, size_t len)
{
    if (pg_net_drops(n))
        memset(out, 0, len * sizeof(out[0]));
    else
        memcpy(out, x, len * sizeof(out[0]));
}

void pg_net_end_add(const struct pg_net *n, int il, enum pg_net_drop what,
                    const struct pg_net_span *s, const pg_real *x, pg_real *out)
{
    const int n_embd = n->h->n_embd;
    for (int t = s->t0; pg_net_drops(n) && t < s->t0 + s->n; t++) {
        pg_net_drop_row(n, il, what, t, pg_net_row(out, t, n_embd));
        n->ops->add(x + (size_t)t * (size_t)n_embd, pg_net_row(out, t, n_embd), n_embd);
    }
}
