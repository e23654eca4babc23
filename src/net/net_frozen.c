/* SPDX-License-Identifier: MIT
 * Weights of a model that stays as it is: dense ones unpacked from the engine's memory, experts as
 * the store brings them.
 *
 * While threads compute with the experts that are there, the caller's thread lets reads go on
 * (pg_net_poll), and the next block of the pass is hinted, whose experts are known by then: on the
 * way forward a pre-gate has named them, on the way back they are those of the way forward.
 */
#include "net/net_impl.h"

#include "quant/quant.h"

#include <string.h>

/* ------------------------------------------------------------------ dense ------------------- */

void pg_net_unpack(const struct pg_weight *w, int row, int n_rows, pg_real *out)
{
    const struct pg_type_traits *t = pg_type_traits((uint32_t)w->type);
    const uint8_t *from = (const uint8_t *)w->data + pg_type_bytes(w->type, w->n_in) * (size_t)row;
    float piece[PG_BLOCK_MAX]; /* pg_real may be another type */
    for (size_t left = (size_t)n_rows * (size_t)w->n_in; left;) {
        int n = (int)PG_MIN(left, (size_t)PG_BLOCK_MAX);
        t->to_float(from, piece, n);
        for (int i = 0; i < n; i++)
            out[i] = (pg_real)piece[i];
        from += pg_type_bytes(w->type, n);
        out += n;
        left -= (size_t)n;
    }
}

void pg_net_unpack_ends(struct pg_net *n)
{
    for (int i = 0; i < n->n_stack; i++)
        pg_net_unpack(&n->model->output_norm[i], 0, 1, n->end_w + n->stack[i].at_norm);
    if (n->at_freqs != PG_NO_PART)
        pg_net_unpack(&n->model->rope_freqs, 0, 1, n->end_w + n->at_freqs);
}

/* Rows of some matrices, cut into tasks. */
struct unpack {
    const struct pg_weight *w[PG_BLOCK_PARTS];
    pg_real *to[PG_BLOCK_PARTS];
    int row0, n_rows; /* of each; 0: all */
    int n;
};
enum { TASK_VALUES = 1 << 16 };

static int rows_of(const struct unpack *u, int i)
{
    return u->n_rows ? u->n_rows : u->w[i]->n_out;
}

static int rows_each(const struct pg_weight *w)
{
    return PG_MAX(1, TASK_VALUES / w->n_in);
}

static int n_tasks(const struct unpack *u, int i)
{
    return (rows_of(u, i) + rows_each(u->w[i]) - 1) / rows_each(u->w[i]);
}

static void unpack_rows(void *arg, int task, int thread)
{
    const struct unpack *u = arg;
    int i = 0;
    (void)thread;
    for (; task >= n_tasks(u, i); i++)
        task -= n_tasks(u, i);
    int first = task * rows_each(u->w[i]);
    pg_net_unpack(u->w[i], u->row0 + first, PG_MIN(rows_each(u->w[i]), rows_of(u, i) - first),
                  u->to[i] + (size_t)first * (size_t)u->w[i]->n_in);
}

static void unpack_all(struct pg_net *n, struct unpack *u)
{
    int sum = 0;
    for (int i = 0; i < u->n; i++)
        sum += n_tasks(u, i);
    pg_pool_run(n->opt.pool, unpack_rows, u, sum);
}

void pg_net_unpack_block(struct pg_net *n, int il)
{
    struct unpack u = {.n = 0};
    for (enum pg_block_part part = 0; part < PG_BLOCK_PARTS; part++) {
        if (pg_net_has(n, il, part) && !pg_parts[part].is_expert) {
            u.w[u.n] = pg_block_part(&n->model->block[il], part);
            u.to[u.n++] = n->block_w + n->at[il].part[part];
        }
    }
    pg_net_poll(n, 0);
    unpack_all(n, &u);
}

const pg_real *pg_net_output_rows(struct pg_net *n, const pg_real *w, int row, int n_rows)
{
    struct unpack u = {{&n->model->output}, {n->tile}, row, n_rows, 1};
    if (!n->opt.frozen)
        return w + n->at_output + (size_t)row * (size_t)n->h->n_embd;
    unpack_all(n, &u);
    return n->tile;
}

/* ------------------------------------------------------------------ experts ----------------- */

static int n_rows_of(const struct pg_net_route *r, int e)
{
    return r->first[e + 1] - r->first[e];
}

/* The next block of the pass through this stack that will want experts; -1: none, or not known yet.
 * Its experts to n->wanted. */
static int next_block(struct pg_net *n, int moe, bool back, int *n_wanted)
{
    const struct pg_model *m = n->model;
    const struct pg_span of = m->moe_of[pg_stack_of(n->h, pg_block_of_moe(m, moe))];
    int next = back ? moe - 1 : moe + 1, n_pairs = n->n_tok * n->n_rank;
    if (next >= of.first + of.n || next < of.first + n->opt.level || n->gate == PG_GATE_ROUTER)
        return -1;
    const struct pg_net_route *r = &n->route[next];
    memset(n->wanted, 0, (size_t)n->h->n_expert * sizeof(n->wanted[0]));
    for (int i = 0; i < n_pairs; i++)
        n->wanted[r->id[i]] = 1;
    *n_wanted = 0;
    for (int e = 0; e < n->h->n_expert; e++)
        if (n->wanted[e])
            n->wanted[(*n_wanted)++] = e;
    return next;
}

/* Leases by falling number of rows, so that no thread is left with a long one at the end. */
static void sort_leases(struct pg_net *n, const struct pg_net_route *r, int n_leases)
{
    for (int i = 1; i < n_leases; i++) {
        struct pg_lease l = n->lease[i];
        int at = i;
        for (; at > 0 && n_rows_of(r, n->lease[at - 1].expert) < n_rows_of(r, l.expert); at--)
            n->lease[at] = n->lease[at - 1];
        n->lease[at] = l;
    }
}

/* Takes leases: one for each thread, for which it waits, and what else is there, up to half of the
 * slots, so that reads can go on into the others. Returns their number or an error; *done: they
 * were the wave's last. */
static int gather(struct pg_net *n, bool *done, struct pg_err *err)
{
    int least = PG_MIN(pg_pool_n_threads(n->opt.pool), n->opt.n_slots), taken = 0;
    int most = PG_MIN(PG_MAX(least, n->opt.n_slots / 2), n->h->n_expert);
    while (taken < most && (taken < least || pg_store_n_ready(n->opt.store) > 0)) {
        int rc = pg_store_next(n->opt.store, &n->lease[taken], err);
        if (rc < 0)
            return rc;
        *done = rc == 0;
        if (*done)
            break;
        taken++;
    }
    return taken;
}

int pg_net_bring(struct pg_net *n, int il, bool back, pg_task_fn *fn, struct pg_err *err)
{
    struct pg_net_pass p = {n, il};
    int moe = n->model->block[il].moe, n_wanted = 0;
    const struct pg_net_route *r = &n->route[moe];
    for (int i = 0; i < n->h->n_expert; i++)
        if (n_rows_of(r, n->order[i]))
            n->wanted[n_wanted++] = n->order[i];
    pg_store_acquire(n->opt.store, moe, n->wanted, n_wanted);
    int next = next_block(n, moe, back, &n_wanted);
    if (next >= 0)
        pg_store_hint(n->opt.store, next, n->wanted, n_wanted, true);
    for (bool done = false; !done;) {
        int taken = gather(n, &done, err);
        if (taken < 0)
            return taken;
        sort_leases(n, r, taken);
        pg_pool_run(n->opt.pool, fn, &p, taken);
        for (int i = 0; i < taken; i++)
            pg_store_release(n->opt.store, &n->lease[i]);
    }
    return 0;
}

/* ------------------------------------------------------------------ the way back ------------ */

/* The lowest block of the stack that a pre-gate decides; -1: there is none. */
static int first_decided(const struct pg_net *n, int stack)
{
    const struct pg_span of = n->model->moe_of[stack];
    return n->opt.level < of.n ? pg_block_of_moe(n->model, of.first + n->opt.level) : -1;
}

enum pg_net_way pg_net_way_back(const struct pg_net *n, int il)
{
    const int moe = n->model->block[il].moe, stack = pg_stack_of(n->h, il);
    const int first = first_decided(n, stack);
    const bool feeds = stack > 0 && first_decided(n, 0) >= 0; /* back to pre-gates of the encoder */
    if (!n->opt.frozen || feeds || (first >= 0 && il > first))
        return PG_WAY_THROUGH;
    if (first < 0)
        return PG_WAY_NONE;
    if (il == first)
        return PG_WAY_WEIGH;
    return moe >= 0 && pg_net_has_pregate(n, il) ? PG_WAY_READ : PG_WAY_NONE;
}

int pg_net_tick(const struct pg_net *n, struct pg_err *err)
{
    bool stop = n->opt.frozen && n->opt.tick && n->opt.tick(n->opt.user);
    return stop ? pg_fail(err, PG_ECANCELLED, "the run was cancelled") : 0;
}

/* ------------------------------------------------------------------ arithmetic -------------- */

/* Of a batch through a block. */
struct flop {
    double linear, attend, experts;
};

static struct flop flop_of(const struct pg_net_options *o, int il)
{
    const struct pg_hparams *h = &o->model->h;
    const struct pg_block *b = &o->model->block[il];
    const int stack = pg_stack_of(h, il), last = pg_last_stack(h);
    double n_q = (double)h->n_head * h->head_dim, n_kv = (double)h->n_head_kv * h->head_dim;
    double len = stack < last ? o->source_len : o->seq_len, n_tok = o->n_seq * len;
    double n_seen = h->stack[stack].causal ? (len + 1) / 2 : len;
    struct flop f = {.linear = 4.0 * h->n_embd * (n_q + n_kv) * n_tok,
                     .attend = 4 * n_q * n_seen * n_tok};
    if (b->cross_attn_q.n_in) {
        double n_source = (double)o->n_seq * o->source_len;
        f.linear += 4.0 * h->n_embd * (n_q * n_tok + n_kv * n_source);
        f.attend += 4 * n_q * o->source_len * n_tok;
    }
    double inside =
        b->moe < 0 ? (double)h->n_ff
                   : (double)h->n_ff_exp * (h->n_expert_used + o->n_runners_up) + h->n_ff_shexp;
    f.experts = (h->gated ? 6.0 : 4.0) * h->n_embd * inside * n_tok;
    return f;
}

double pg_net_flop(const struct pg_net_options *opt, bool back)
{
    const struct pg_model *m = opt->model;
    struct pg_net n = {.opt = *opt, .model = m, .h = &m->h};
    double sum = 2.0 * m->h.n_embd * m->h.n_vocab * (back ? 2 : 1) * opt->n_seq * opt->seq_len;
    const double part = m->h.gated ? 1.0 / 3 : 1.0 / 2; /* of an expert's, its last matrix */
    for (int il = 0; il < m->h.n_layer; il++) {
        struct flop f = flop_of(opt, il);
        double forward = f.linear + f.attend + f.experts;
        double again = opt->frozen ? f.linear + f.attend + f.experts * (1 - part) : 0;
        const double by_way[] = {
            [PG_WAY_NONE] = 0,
            [PG_WAY_READ] = f.linear + f.attend,
            [PG_WAY_WEIGH] = again + f.experts * part,
            [PG_WAY_THROUGH] =
                again + (opt->frozen ? 1 : 2) * (f.linear + f.experts) + 2 * f.attend,
        };
        sum += forward + (back ? by_way[pg_net_way_back(&n, il)] : 0);
    }
    return sum;
}
