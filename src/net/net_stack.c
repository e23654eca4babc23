/* SPDX-License-Identifier: MIT
 * The rows of a batch that go through a stack: the timelines, and before them, where the model has
 * an encoder, their sources. What each token sees of its row and of its source; where positions
 * say something, what a distance adds to a score; and what the encoder hands on.
 */
#include "net/net_impl.h"

#include "model/forward.h"

#include <string.h>

void pg_net_stacks(struct pg_net *n)
{
    const struct pg_hparams *h = n->h;
    n->n_stack = h->n_stack;
    for (int i = 0; i < n->n_stack; i++) {
        struct pg_net_stack *s = &n->stack[i];
        s->first = h->stack[i].first;
        s->end = s->first + h->stack[i].n_layer;
        s->seq_len = i < pg_last_stack(h) ? n->opt.source_len : n->opt.seq_len;
        s->n_tok = n->opt.n_seq * s->seq_len;
        s->n_spans = (s->n_tok + PG_NET_ROWS - 1) / PG_NET_ROWS;
        n->max_tok = PG_MAX(n->max_tok, s->n_tok);
        n->max_spans = PG_MAX(n->max_spans, s->n_spans);
    }
}

void pg_net_enter(struct pg_net *n, int stack)
{
    n->now = &n->stack[stack];
    n->n_tok = n->now->n_tok;
    n->n_spans = n->now->n_spans;
    n->seq_len = n->now->seq_len;
}

/* ------------------------------------------------------------------ the batch --------------- */

/* Tokens and where their documents begin, of one stack; start [T]. */
static int check_rows(const struct pg_net *n, const struct pg_net_stack *s, const int32_t *start,
                      struct pg_err *err)
{
    const bool may_end = n->n_stack > 1;
    for (int t = 0; t < s->n_tok; t++) {
        const int i = t % s->seq_len, token = s->token[t];
        const bool padding = may_end && i > 0 && token == -1;
        const bool goes_on = i > 0 && start[t] == start[t - 1];
        const bool was_padding = i > 0 && s->token[t - 1] < 0;
        if ((token < 0 && !padding) || token >= n->h->n_vocab || (was_padding && token >= 0)) {
            return pg_fail(err, PG_EARG, "token %d in place %d of a row: ids below %d are wanted%s",
                           token, i, n->h->n_vocab,
                           may_end ? ", and at the row's end -1 where there is none" : "");
        }
        if (start[t] != i && (!goes_on || (padding && !was_padding))) {
            return pg_fail(err, PG_EARG,
                           "token %d of a row: its document begins at %d, at %d or "
                           "where that of the token before it does is wanted",
                           i, (int)start[t], i);
        }
    }
    return 0;
}

static int check_targets(struct pg_net *n, const struct pg_net_batch *b, struct pg_err *err)
{
    n->n_targets = 0;
    for (int t = 0; t < n->opt.n_seq * n->opt.seq_len; t++) {
        if (b->target[t] < -1 || b->target[t] >= n->h->n_vocab ||
            (b->token[t] < 0 && b->target[t] >= 0)) {
            return pg_fail(err, PG_EARG, "token %d with target %d: ids below %d are wanted",
                           (int)b->token[t], (int)b->target[t], n->h->n_vocab);
        }
        n->n_targets += b->target[t] >= 0;
    }
    return n->n_targets ? 0 : pg_fail(err, PG_EARG, "a batch without any target");
}

/* Sources come in the order of what answers to them, each for a whole document. */
static int check_sources(const struct pg_net *n, const struct pg_net_batch *b, struct pg_err *err)
{
    const int len = n->opt.seq_len, source_len = n->opt.source_len;
    for (int t = 0; t < n->opt.n_seq * len; t++) {
        const int i = t % len, at = b->source_of[t];
        const int before = i > 0 ? b->source_of[t - 1] : 0;
        const size_t place = (size_t)(t / len) * (size_t)source_len + (size_t)PG_MAX(at, 0);
        const bool inside = at >= before && at < source_len;
        if (b->token[t] < 0)
            continue;
        if (!inside || b->source[place] < 0 || b->source_start[place] != at ||
            (b->start[t] != i && at != before)) {
            return pg_fail(err, PG_EARG,
                           "token %d of a row: its source begins at %d, at the beginning of one "
                           "from %d on is wanted, and the same for a whole document",
                           i, at, before);
        }
    }
    return 0;
}

static int n_live(const struct pg_net_stack *s)
{
    int sum = 0;
    for (int t = 0; t < s->n_tok; t++)
        sum += s->token[t] >= 0;
    return sum;
}

int pg_net_check_batch(struct pg_net *n, const struct pg_net_batch *b, struct pg_err *err)
{
    const bool two = n->n_stack > 1;
    n->stack[pg_last_stack(n->h)].token = b->token;
    PG_TRY(check_rows(n, &n->stack[pg_last_stack(n->h)], b->start, err));
    PG_TRY(check_targets(n, b, err));
    if (two) {
        n->stack[0].token = b->source;
        PG_TRY(check_rows(n, &n->stack[0], b->source_start, err));
        PG_TRY(check_sources(n, b, err));
    }
    for (int i = 0; i < n->n_stack; i++)
        n->stack[i].n_live = n_live(&n->stack[i]);
    return 0;
}

/* ------------------------------------------------------------------ what is seen ------------ */

/* From the beginning of its document to itself, or to the document's end. */
static void see_own(const struct pg_net_stack *s, const int32_t *start, bool causal)
{
    for (int t = s->n_tok - 1; t >= 0; t--) {
        const int i = t % s->seq_len;
        const bool ends = i == s->seq_len - 1 || start[t + 1] != start[t];
        s->from[t] = start[t];
        s->to[t] = causal || ends ? i + 1 : s->to[t + 1];
    }
}

/* Padding sees what the token before it does. */
static void see_source(struct pg_net *n, const struct pg_net_batch *b)
{
    const struct pg_net_stack *source = &n->stack[0];
    for (int t = 0; t < n->opt.n_seq * n->opt.seq_len; t++) {
        if (b->token[t] < 0) {
            n->source_from[t] = n->source_from[t - 1];
            n->source_to[t] = n->source_to[t - 1];
        } else {
            n->source_from[t] = b->source_of[t];
            n->source_to[t] = source->to[t / n->opt.seq_len * source->seq_len + b->source_of[t]];
        }
    }
}

void pg_net_see(struct pg_net *n)
{
    const struct pg_net_batch *b = n->batch;
    const int last = pg_last_stack(n->h);
    for (int i = 0; i < n->n_stack; i++)
        see_own(&n->stack[i], i < last ? b->source_start : b->start, n->h->stack[i].causal);
    if (n->n_stack > 1)
        see_source(n, b);
}

/* ------------------------------------------------------------------ positions --------------- */

/* The biases of all heads for a bucket. */
static const pg_real *bucket_row(struct pg_net *n, const struct pg_net_stack *s, int bucket)
{
    const struct pg_weight *table = &n->model->block[s->first].attn_rel_b;
    if (!n->opt.frozen)
        return n->w + n->at[s->first].part[PG_PART_REL_B] + (size_t)bucket * (size_t)n->h->n_head;
    pg_net_unpack(table, bucket, 1, n->room);
    return n->room;
}

void pg_net_positions(struct pg_net *n)
{
    for (int i = 0; n->h->n_buckets && i < n->n_stack; i++) {
        const struct pg_net_stack *s = &n->stack[i];
        const int most = s->seq_len - 1, width = 2 * most + 1;
        for (int from = -most; from <= most; from++) {
            const int bucket = pg_bucket_of(from, n->h->stack[i].causal, n->h->n_buckets);
            const pg_real *row = bucket_row(n, s, bucket);
            for (int head = 0; head < n->h->n_head; head++)
                pg_net_row(s->rel, head, width)[from + most] = row[head];
        }
    }
}

void pg_net_positions_back(struct pg_net *n)
{
    const struct pg_net_stack *s = n->now;
    const int n_head = n->h->n_head, most = s->seq_len - 1, width = 2 * most + 1;
    const int stack = pg_stack_of(n->h, s->first);
    if (!n->h->n_buckets || n->opt.frozen)
        return;
    pg_real *g = pg_net_g(n, s->first, PG_PART_REL_B);
    for (int from = -most; from <= most; from++) {
        const int bucket = pg_bucket_of(from, n->h->stack[stack].causal, n->h->n_buckets);
        for (int row = 0; row < n->opt.n_seq * n_head; row++)
            g[bucket * n_head + row % n_head] += pg_net_row(s->drel, row, width)[from + most];
    }
}

/* ------------------------------------------------------------------ source ------------------ */

static void source_rows(void *arg, int task, int thread)
{
    const struct pg_net_pass *p = arg;
    struct pg_net *n = p->n;
    const struct pg_net_stack *s = n->now;
    const struct pg_net_span span = pg_net_span(n, task);
    const int n_embd = n->h->n_embd;
    (void)thread;
    for (int t = span.t0; t < span.t0 + span.n; t++) {
        s->s_end[t] = n->ops->norm(pg_net_row(s->x_end, t, n_embd), n->of_ends + s->at_norm, n->eps,
                                   pg_net_row(s->h_end, t, n_embd), n_embd);
    }
}

void pg_net_source(struct pg_net *n)
{
    pg_net_over_spans(n, source_rows, 0);
    pg_net_drop(n, -1, PG_DROP_END, n->now->h_end);
}

static void source_rows_back(void *arg, int task, int thread)
{
    const struct pg_net_pass *p = arg;
    struct pg_net *n = p->n;
    const struct pg_net_stack *s = n->now;
    const struct pg_net_span span = pg_net_span(n, task);
    const int n_embd = n->h->n_embd;
    (void)thread;
    memset(span.part, 0, n->sums.n * sizeof(pg_real));
    for (int t = span.t0; t < span.t0 + span.n; t++) {
        const struct pg_norm_back b = {.x = pg_net_row(s->x_end, t, n_embd),
                                       .gain = n->of_ends + s->at_norm,
                                       .dy = pg_net_row(n->dsource, t, n_embd),
                                       .s = s->s_end[t],
                                       .dx = pg_net_row(n->dx, t, n_embd),
                                       .dgain = span.part + n->sums.norm};
        n->ops->norm_back(&b, n_embd);
    }
}

void pg_net_source_back(struct pg_net *n)
{
    pg_net_drop(n, -1, PG_DROP_END, n->dsource);
    pg_net_over_spans(n, source_rows_back, 0);
    pg_net_sum_parts(n, n->sums.norm, n->h->n_embd, n->opt.frozen ? NULL : n->g + n->now->at_norm);
}
