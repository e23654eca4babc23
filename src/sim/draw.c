/* SPDX-License-Identifier: MIT
 * Which experts the rows of a step use: drawn evenly, so many that a block has a given number of
 * distinct ones, or those of a trace. A step's draw depends on the seed and its number alone.
 */
#include "sim/sim.h"

#include "base/random.h"

#include <math.h>
#include <stdlib.h>

int pg_sim_draw_open(struct pg_sim_draw *d, struct pg_err *err)
{
    const int k = d->shape->n_used;
    const double most = ceil(d->active);
    d->n_used = PG_MAX(k, (int)ceil(most / d->n_row));
    if (d->active > 0 && (d->active < k || most > d->shape->n_expert))
        return pg_fail(
            err, PG_EARG,
            "%s: %g active experts of a block found, %d (what a token uses) to %d wanted",
            d->shape->name, d->active, k, d->shape->n_expert);
    if (d->active > 0 && d->active < most && d->n_used > (int)most - 1)
        return pg_fail(err, PG_EARG,
                       "%s: %g active experts of a block are more than %d rows use: a whole number "
                       "wanted",
                       d->shape->name, d->active, d->n_row);
    const size_t n = (size_t)d->n_row * (size_t)d->shape->n_moe * (size_t)d->n_used;
    d->to = (pg_routes){.n_tokens = d->n_row,
                        .n_blocks = d->shape->n_moe,
                        .n_used = d->n_used,
                        .n_expert = d->shape->n_expert};
    d->to.ids = pg_calloc(n, sizeof(*d->to.ids));
    d->set = pg_calloc((size_t)d->shape->n_expert, sizeof(*d->set));
    return d->to.ids && d->set ? 0 : pg_fail(err, PG_ENOMEM, "out of memory");
}

void pg_sim_draw_close(struct pg_sim_draw *d)
{
    free(d->to.ids);
    free(d->set);
}

static uint16_t *ids_of(struct pg_sim_draw *d, int row, int block)
{
    const size_t at = (size_t)row * (size_t)d->to.n_blocks + (size_t)block;
    return d->to.ids + at * (size_t)d->n_used;
}

static int below(uint64_t *random, int n)
{
    return (int)(pg_random_next(random) % (uint64_t)n);
}

/* The first n of d->set are n distinct experts, each set as likely as any other. */
static void draw_set(struct pg_sim_draw *d, uint64_t *random, int n)
{
    const int n_expert = d->shape->n_expert;
    for (int i = 0; i < n_expert; i++)
        d->set[i] = i;
    for (int i = 0; i < n; i++) {
        const int j = i + below(random, n_expert - i);
        const int32_t other = d->set[j];
        d->set[j] = d->set[i];
        d->set[i] = other;
    }
}

static void draw_even(struct pg_sim_draw *d, uint64_t *random, int block)
{
    for (int row = 0; row < d->n_row; row++) {
        uint16_t *ids = ids_of(d, row, block);
        for (int n = 0; n < d->n_used;) {
            bool is_new = true;
            ids[n] = (uint16_t)below(random, d->shape->n_expert);
            for (int i = 0; i < n; i++)
                is_new = is_new && ids[i] != ids[n];
            n += is_new;
        }
    }
}

/* So many experts, dealt out to the rows in turn. */
static void draw_active(struct pg_sim_draw *d, uint64_t *random, int block)
{
    const double part = d->active - floor(d->active);
    const double u = (double)(pg_random_next(random) >> 11) * 0x1p-53;
    int n = (int)d->active + (u < part);
    n = PG_MAX(n, d->n_used);
    draw_set(d, random, n);
    for (int i = 0; i < d->n_row * d->n_used; i++)
        ids_of(d, i / d->n_used, block)[i % d->n_used] = (uint16_t)d->set[i % n];
}

/* Each row is at another place of the trace, as far apart as goes, among the tokens that go through
 * the block. */
static void copy_trace(struct pg_sim_draw *d, uint64_t step, int block)
{
    const int n = pg_routes_n_forced(d->trace, block);
    for (int row = 0; row < d->n_row; row++) {
        const uint64_t first = (uint64_t)row * (uint64_t)n / (uint64_t)d->n_row;
        const uint16_t *ids =
            pg_routes_forced(d->trace, (int)((first + step) % (uint64_t)n), block);
        for (int i = 0; i < d->n_used; i++)
            ids_of(d, row, block)[i] = ids[i];
    }
}

void pg_sim_draw_step(struct pg_sim_draw *d, uint64_t step)
{
    for (int block = d->moe.first; block < d->moe.first + d->moe.n; block++) {
        uint64_t random = pg_random_at(d->seed, (uint64_t)block, step);
        if (d->trace)
            copy_trace(d, step, block);
        else if (d->active > 0)
            draw_active(d, &random, block);
        else
            draw_even(d, &random, block);
    }
}

int pg_sim_draw_widest(struct pg_sim_draw *d, uint64_t n)
{
    int widest = 0;
    for (uint64_t step = 0; step < n; step++) {
        pg_sim_draw_step(d, step);
        for (int block = d->moe.first; block < d->moe.first + d->moe.n; block++) {
            int distinct = 0;
            for (int e = 0; e < d->shape->n_expert; e++)
                d->set[e] = 0;
            for (int i = 0; i < d->n_row * d->n_used; i++)
                distinct += !d->set[ids_of(d, i / d->n_used, block)[i % d->n_used]]++;
            widest = PG_MAX(widest, distinct);
        }
    }
    return widest;
}
