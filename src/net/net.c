/* SPDX-License-Identifier: MIT */
#include "net/net_impl.h"

#include "base/os.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------ memory ------------------ */

/* n * m things of `size` bytes. */
static void *take(struct pg_net *n, struct pg_arena *a, size_t count, size_t each, size_t size)
{
    size_t bytes;
    n->too_large |= __builtin_mul_overflow(count, each, &bytes) ||
                    __builtin_mul_overflow(bytes, size, &bytes) || bytes > SIZE_MAX / 2 - a->used;
    return n->too_large ? NULL : pg_arena_take(a, bytes);
}

static pg_real *reals(struct pg_net *n, struct pg_arena *a, size_t count, int each)
{
    return take(n, a, count, (size_t)each, sizeof(pg_real));
}

static int32_t *ints(struct pg_net *n, struct pg_arena *a, size_t count, int each)
{
    return take(n, a, count, (size_t)each, sizeof(int32_t));
}

/* What an attention of T rows has, that looks at n_keys rows. */
static void carve_attention(struct pg_net *n, struct pg_arena *a, size_t t, size_t n_keys,
                            struct pg_net_attn *out)
{
    const struct pg_hparams *h = n->h;
    struct pg_net_attn l = {.x = out->x};
    l.s = reals(n, a, t, 1);
    l.h = reals(n, a, t, h->n_embd);
    if (n->q_norm_len) {
        l.q_raw = reals(n, a, t, n->n_q);
        l.k_raw = reals(n, a, n_keys, n->n_kv);
        l.q_s = reals(n, a, t, n->n_q / n->q_norm_len);
        l.k_s = reals(n, a, n_keys, n->n_kv / n->k_norm_len);
    }
    l.q = reals(n, a, t, n->n_q);
    l.k = reals(n, a, n_keys, n->n_kv);
    l.v = reals(n, a, n_keys, n->n_kv);
    l.att = reals(n, a, t, n->n_q);
    l.lse = reals(n, a, t, h->n_head);
    *out = l;
}

/* A block's attentions, and the norm behind them. self.x is there. */
static void carve_attentions(struct pg_net *n, struct pg_arena *a, int il, struct pg_net_block *l)
{
    const struct pg_hparams *h = n->h;
    size_t t = (size_t)n->stack[pg_stack_of(h, il)].n_tok;
    carve_attention(n, a, t, t, &l->self);
    if (n->model->block[il].cross_attn_q.n_in) {
        l->cross.x = reals(n, a, t, h->n_embd);
        carve_attention(n, a, t, (size_t)n->stack[0].n_tok, &l->cross);
    }
    l->x1 = reals(n, a, t, h->n_embd);
    l->s1 = reals(n, a, t, 1);
    l->h2 = reals(n, a, t, h->n_embd);
}

static void carve_shared(struct pg_net *n, struct pg_arena *a, size_t t, struct pg_net_block *l)
{
    l->sh_gate = reals(n, a, t, n->h->n_ff_shexp);
    l->sh_up = reals(n, a, t, n->h->n_ff_shexp);
    l->s = reals(n, a, t, 1);
}

static void carve_early(struct pg_net *n, struct pg_arena *a, size_t t, struct pg_net_block *l)
{
    l->early = reals(n, a, t, n->opt.pregate_hidden);
    l->early_act = reals(n, a, t, n->opt.pregate_hidden);
}

static void carve_block(struct pg_net *n, struct pg_arena *a, int il)
{
    const struct pg_hparams *h = n->h;
    struct pg_net_block l = {0};
    size_t t = (size_t)n->stack[pg_stack_of(h, il)].n_tok, pairs = t * (size_t)n->n_rank;
    bool moe = n->model->block[il].moe >= 0;
    l.self.x = reals(n, a, t, h->n_embd);
    carve_attentions(n, a, il, &l);
    l.gate = reals(n, a, moe ? pairs : t, moe ? h->n_ff_exp : h->n_ff);
    if (h->gated)
        l.up = reals(n, a, moe ? pairs : t, moe ? h->n_ff_exp : h->n_ff);
    if (moe && h->n_ff_shexp)
        carve_shared(n, a, t, &l);
    if (n->opt.pregate_hidden && pg_net_has_pregate(n, il))
        carve_early(n, a, t, &l);
    if (a->base)
        n->block[il] = l;
}

/* One set of activations for all blocks of a stack, but for their inputs. */
static void carve_frozen_stack(struct pg_net *n, struct pg_arena *a, const struct pg_net_stack *s)
{
    const struct pg_hparams *h = n->h;
    struct pg_net_block l = {0};
    size_t t = (size_t)s->n_tok;
    carve_attentions(n, a, s->first, &l);
    l.gate = reals(n, a, t, h->n_ff);
    if (h->gated)
        l.up = reals(n, a, t, h->n_ff);
    carve_shared(n, a, t, &l);
    carve_early(n, a, t, &l);
    for (int il = s->first; il < s->end; il++) {
        l.self.x = reals(n, a, t, h->n_embd);
        if (a->base)
            n->block[il] = l;
    }
}

static void carve_frozen(struct pg_net *n, struct pg_arena *a)
{
    const struct pg_hparams *h = n->h;
    for (int i = 0; i < n->n_stack; i++)
        carve_frozen_stack(n, a, &n->stack[i]);
    n->block_w = reals(n, a, n->block_len, 1);
    n->end_w = reals(n, a, (size_t)n->n_stack * (size_t)h->n_embd + (size_t)h->n_rot, 1);
    n->tile = reals(n, a, (size_t)n->tile_rows, h->n_embd);
    n->lease = take(n, a, (size_t)h->n_expert, 1, sizeof(n->lease[0]));
    n->wanted = ints(n, a, (size_t)h->n_expert, 1);
}

static void carve_route(struct pg_net *n, struct pg_arena *a, int moe)
{
    const struct pg_hparams *h = n->h;
    struct pg_net_route r = {0};
    int stack = pg_stack_of(h, pg_block_of_moe(n->model, moe));
    size_t t = (size_t)n->stack[stack].n_tok, pairs = t * (size_t)n->n_rank;
    r.p = reals(n, a, t, h->n_expert);
    r.dlogits = reals(n, a, t, h->n_expert);
    if (n->opt.gate == PG_GATE_PREGATE && n->opt.weigher == PG_GATE_ROUTER &&
        pg_is_decided_early(n->model, moe, n->opt.level)) {
        r.q = reals(n, a, t, h->n_expert);
        r.dq = reals(n, a, t, h->n_expert);
    }
    r.id = ints(n, a, pairs, 1);
    r.weight = reals(n, a, pairs, 1);
    if (n->opt.sticky_cache)
        r.missed = take(n, a, t, (size_t)h->n_expert, 1);
    r.first = ints(n, a, (size_t)h->n_expert + 1, 1);
    r.token_of = ints(n, a, pairs, 1);
    r.pair_of = ints(n, a, pairs, 1);
    r.row_of = ints(n, a, pairs, 1);
    r.d_balance = reals(n, a, (size_t)h->n_expert, 1);
    if (a->base)
        n->route[moe] = r;
}

/* What the passes need for themselves. */
static void carve_passes(struct pg_net *n, struct pg_arena *a)
{
    const struct pg_hparams *h = n->h;
    size_t t = (size_t)n->max_tok, pairs = t * (size_t)n->n_rank;
    size_t n_threads = (size_t)pg_pool_n_threads(n->opt.pool);
    n->y = reals(n, a, pairs, h->n_embd);
    n->dweight = reals(n, a, pairs, 1);
    for (int i = 0; i < 3; i++)
        n->ff[i] = reals(n, a, t, n->max_ff);
    n->dearly = reals(n, a, t, n->opt.pregate_hidden);
    n->dx = reals(n, a, t, h->n_embd);
    n->dy = n->opt.dropout > 0 ? reals(n, a, t, h->n_embd) : n->dx;
    n->dh = reals(n, a, t, h->n_embd);
    n->dq = reals(n, a, t, n->n_q);
    n->datt = reals(n, a, t, n->n_q);
    n->dk = reals(n, a, t, n->n_kv);
    n->dv = reals(n, a, t, n->n_kv);
    n->logits = reals(n, a, (size_t)n->out_rows, h->n_vocab);
    n->nll = take(n, a, t, 1, sizeof(double));
    if (n->opt.kl_weight > 0) {
        n->ref_h = reals(n, a, t, h->n_embd);
        n->ref_logits = reals(n, a, (size_t)n->out_rows, h->n_vocab);
        n->kl = take(n, a, t, 1, sizeof(double));
    }
    n->of_row = take(n, a, (size_t)n->opt.n_seq, 1, sizeof(double));
    n->part = reals(n, a, n->sums.n, n->max_spans);
    n->room = reals(n, a, n->room_len, (int)n_threads);
    n->recent = ints(n, a, n_threads, h->n_expert);
    n->here = take(n, a, n_threads, (size_t)h->n_expert, 1);
    n->chunk = take(n, a, pairs / PG_NET_ROWS + (size_t)h->n_expert, 1, sizeof(n->chunk[0]));
    n->order = ints(n, a, (size_t)h->n_expert, 1);
}

static void carve_stack(struct pg_net *n, struct pg_arena *a, int i)
{
    struct pg_net_stack *s = &n->stack[i];
    size_t t = (size_t)s->n_tok, n_head = (size_t)n->h->n_head, n_seq = (size_t)n->opt.n_seq;
    s->from = ints(n, a, t, 1);
    s->to = ints(n, a, t, 1);
    s->x_end = reals(n, a, t, n->h->n_embd);
    s->s_end = reals(n, a, t, 1);
    s->h_end = reals(n, a, t, n->h->n_embd);
    if (n->h->n_buckets)
        s->rel = reals(n, a, n_head, 2 * s->seq_len - 1);
    if (n->h->n_buckets && !n->opt.frozen)
        s->drel = reals(n, a, n_head * n_seq, 2 * s->seq_len - 1);
}

static void carve(struct pg_net *n, struct pg_arena *a)
{
    const struct pg_hparams *h = n->h;
    n->block = take(n, a, (size_t)h->n_layer, 1, sizeof(n->block[0]));
    n->route = take(n, a, (size_t)n->model->n_moe, 1, sizeof(n->route[0]));
    for (int i = 0; i < n->n_stack; i++)
        carve_stack(n, a, i);
    if (n->n_stack > 1) {
        n->source_from = ints(n, a, (size_t)n->stack[1].n_tok, 1);
        n->source_to = ints(n, a, (size_t)n->stack[1].n_tok, 1);
        n->dsource = reals(n, a, (size_t)n->stack[0].n_tok, h->n_embd);
    }
    n->rope_cos = reals(n, a, (size_t)n->opt.seq_len, h->n_rot / 2);
    n->rope_sin = reals(n, a, (size_t)n->opt.seq_len, h->n_rot / 2);
    if (n->opt.frozen)
        carve_frozen(n, a);
    for (int il = 0; !n->opt.frozen && il < h->n_layer; il++)
        carve_block(n, a, il);
    for (int moe = 0; moe < n->model->n_moe; moe++)
        carve_route(n, a, moe);
    carve_passes(n, a);
}

/* ------------------------------------------------------------------ open -------------------- */

static int check_length(const struct pg_net_options *o, int len, struct pg_err *err)
{
    const int n_expert = PG_MAX(1, o->model->h.n_expert);
    int64_t n_tok = (int64_t)o->n_seq * len;
    return o->n_seq < 1 || len < 1 || n_tok > 1 << 24 || n_tok * n_expert > INT32_MAX
               ? pg_fail(err, PG_EARG,
                         "a batch of %d rows of %d tokens: 1 to %d tokens are possible", o->n_seq,
                         len, PG_MIN(1 << 24, INT32_MAX / n_expert))
               : 0;
}

static int check_options(const struct pg_net_options *o, struct pg_err *err)
{
    const struct pg_hparams *h = &o->model->h;
    PG_TRY(check_length(o, o->seq_len, err));
    if (h->n_stack > 1)
        PG_TRY(check_length(o, o->source_len, err));
    if (o->gate == PG_GATE_PREGATE && (o->level < 1 || o->level > pg_most_level(o->model))) {
        return pg_fail(err, PG_EARG,
                       "pre-gates %d MoE blocks early asked for, and the model has %d such blocks: "
                       "1 to %d are possible",
                       o->level, o->model->n_moe, pg_most_level(o->model));
    }
    if (o->pregate_hidden < 0 || o->pregate_hidden > 1 << 16) {
        return pg_fail(err, PG_EARG, "a pre-gate's hidden layer of %d: 0 to %d is possible",
                       o->pregate_hidden, 1 << 16);
    }
    if (o->frozen && o->gate != PG_GATE_PREGATE) {
        return pg_fail(err, PG_EARG,
                       "a frozen model whose routers decide: pre-gates are wanted, or nothing "
                       "would learn");
    }
    if (!(o->dropout >= 0 && o->dropout < 1) || (o->frozen && o->dropout > 0)) {
        return pg_fail(err, PG_EARG, "dropout of %g asked for: 0 to below 1 is possible%s",
                       (double)o->dropout, o->frozen ? ", in a frozen model 0" : "");
    }
    if (o->sticky_cache < 0) {
        return pg_fail(err, PG_EARG, "a cache of %d experts asked for, 0 at least is wanted",
                       o->sticky_cache);
    }
    if (o->cache_bias && !o->sticky_cache) {
        return pg_fail(err, PG_EARG,
                       "a cache of 0 experts asked for, 1 at least is wanted where gates are "
                       "biased towards what it holds");
    }
    return 0;
}

static void lay_out_sums(struct pg_net *n)
{
    struct pg_net_sums *s = &n->sums;
    size_t n_embd = (size_t)n->h->n_embd, n_q = (size_t)n->n_q, n_kv = (size_t)n->n_kv;
    s->norm = 0;
    s->sh_inp = n_embd;
    s->q_bias = s->sh_inp + n_embd;
    s->k_bias = s->q_bias + n_q;
    s->v_bias = s->k_bias + n_kv;
    s->q_norm = s->v_bias + n_kv;
    s->k_norm = s->q_norm + n_q;
    s->early_bias = s->k_norm + n_kv;
    s->early_down_bias = s->early_bias + (size_t)n->h->n_expert;
    s->n = s->early_down_bias + (size_t)n->opt.pregate_hidden;
}

int pg_net_check_runners_up(const struct pg_hparams *h, int n, struct pg_err *err)
{
    int most = h->n_expert - h->n_expert_used;
    return n <= most
               ? 0
               : pg_fail(err, PG_EARG,
                         "runners-up: %d found, 0 to %d wanted: of %d experts a token uses %d", n,
                         most, h->n_expert, h->n_expert_used);
}

/* Sizes that follow from the options. */
static void prepare(struct pg_net *n, const struct pg_net_options *o)
{
    const int logits = o->frozen ? 1 << 24 : 1 << 22, tile = 1 << 22;
    const struct pg_hparams *h = &o->model->h;
    const struct pg_block *first = &o->model->block[0];
    int out_rows = logits / h->n_vocab / PG_NET_OUT_ROWS * PG_NET_OUT_ROWS;
    *n = (struct pg_net){.opt = *o, .model = o->model, .h = h, .ops = pg_row_ops(0)};
    n->rope_pairs = h->rope == PG_ROPE_PAIRS;
    n->eps = (pg_real)h->rms_eps;
    n->attn_scale = (pg_real)(h->attn_scale == 1 ? 1 : 1 / sqrt((double)h->head_dim));
    n->logit_scale = (pg_real)h->logit_scale;
    n->act = h->activation == PG_RELU   ? &n->ops->relu
             : h->activation == PG_GELU ? &n->ops->gelu
                                        : &n->ops->silu;
    pg_net_stacks(n);
    PG_ASSERT(o->n_runners_up <= h->n_expert - h->n_expert_used);
    n->n_rank = h->n_expert_used + o->n_runners_up;
    n->n_q = h->n_head * h->head_dim;
    n->n_kv = h->n_head_kv * h->head_dim;
    n->q_norm_len = first->attn_q_norm.n_in;
    n->k_norm_len = first->attn_k_norm.n_in;
    n->max_ff = PG_MAX(h->n_ff, h->n_ff_shexp);
    n->out_rows = PG_MIN(PG_MAX(out_rows, PG_NET_OUT_ROWS), n->stack[pg_last_stack(h)].n_tok);
    n->tile_rows =
        o->frozen ? PG_MIN(h->n_vocab, PG_MAX(64, tile / h->n_embd / 64 * 64)) : h->n_vocab;
    for (int il = 0; o->frozen && il < h->n_layer; il++)
        n->block_len = PG_MAX(n->block_len, pg_net_lay_out(n, il, NULL));
    lay_out_sums(n);
    size_t longest = (size_t)PG_MAX(o->seq_len, n->n_stack > 1 ? o->source_len : 0);
    size_t attention = 2 * (size_t)PG_NET_QUERIES * (longest + PG_ROW_STEP);
    size_t experts = PG_NET_ROWS * (2 * (size_t)h->n_embd + 3 * (size_t)h->n_ff_exp);
    if (o->frozen) /* its matrices, and what is not kept */
        experts += (3 * (size_t)h->n_embd + 2 * PG_NET_ROWS) * (size_t)h->n_ff_exp;
    size_t row = (size_t)PG_MAX(h->n_expert, o->kl_weight > 0 ? h->n_vocab : 0);
    n->room_len = PG_MAX(PG_MAX(attention, experts), row);
}

uint64_t pg_net_bytes(const struct pg_net_options *opt)
{
    struct pg_net n;
    struct pg_arena measure = {0};
    prepare(&n, opt);
    carve(&n, &measure);
    return n.too_large ? UINT64_MAX : measure.used + pg_net_cache_bytes(opt);
}

static int open_net(struct pg_net *n, struct pg_err *err)
{
    struct pg_arena a = {0};
    carve(n, &a);
    if (!n->too_large) {
        n->bytes = a.size = a.used;
        n->memory = a.base = pg_pages_map(a.size);
    }
    if (!n->memory) {
        return pg_fail(err, PG_ENOMEM, "out of memory: %zu bytes for a batch of %d tokens",
                       n->bytes, n->max_tok);
    }
    a.used = 0;
    carve(n, &a);
    return pg_net_list(n, err);
}

int pg_net_open(struct pg_net **out, const struct pg_net_options *opt, struct pg_err *err)
{
    *out = NULL;
    PG_TRY(check_options(opt, err));
    struct pg_net *n = pg_calloc(1, sizeof(*n));
    if (!n)
        return pg_fail(err, PG_ENOMEM, "out of memory");
    prepare(n, opt);
    int rc = pg_net_check(n, err);
    rc = rc ? rc : open_net(n, err);
    rc = rc ? rc : pg_net_cache_open(n, err);
    rc = rc ? rc : pg_blas_open(&n->blas, err);
    if (rc) {
        pg_net_close(n);
        return rc;
    }
    *out = n;
    return 0;
}

void pg_net_close(struct pg_net *n)
{
    if (!n)
        return;
    if (n->memory)
        pg_pages_unmap(n->memory, n->bytes);
    pg_net_cache_close(n);
    free(n->at);
    free(n->params.p);
    free(n);
}

const struct pg_params *pg_net_params(const struct pg_net *n)
{
    return &n->params;
}

const int32_t *pg_net_route(const struct pg_net *n, int moe)
{
    return n->route[moe].id;
}

/* ------------------------------------------------------------------ run --------------------- */

static int sum_up(const struct pg_net *n, struct pg_net_loss *out, struct pg_err *err)
{
    *out = (struct pg_net_loss){.n_targets = n->n_targets};
    const int n_tok = n->stack[pg_last_stack(n->h)].n_tok;
    for (int t = 0; t < n_tok; t++)
        out->nll += n->nll[t];
    out->nll /= (double)n->n_targets;
    for (int t = 0; n->kl && t < n_tok; t++)
        out->kl += n->kl[t] / (double)n->n_targets;
    for (int moe = 0; moe < n->model->n_moe; moe++) {
        out->balance += n->route[moe].balance / n->model->n_moe;
        out->sticky += n->route[moe].sticky / n->model->n_moe;
        out->misses += n->route[moe].misses;
        out->imitate += n->route[moe].imitate / n->model->n_moe;
    }
    out->total = out->nll + (double)n->opt.balance_weight * out->balance +
                 (double)n->opt.sticky_weight * out->sticky + (double)n->opt.kl_weight * out->kl +
                 (double)n->opt.imitate_weight * out->imitate;
    if (!isfinite(out->total)) {
        return pg_fail(err, PG_ENUMERIC,
                       "numerical error: the loss is %g (too large a learning rate, or damaged "
                       "weights)",
                       out->total);
    }
    return 0;
}

/* A block's dense weights, and in the way back its activations, unless they are there. */
static void come_to(struct pg_net *n, int il, bool back)
{
    if (!n->opt.frozen || n->under_way == il)
        return;
    pg_net_unpack_block(n, il);
    n->under_way = il;
    if (back)
        pg_net_attention(n, il);
}

/* To the output of the last block of each stack. */
static int forward(struct pg_net *n, const pg_real *w, struct pg_err *err)
{
    n->w = w;
    n->of_blocks = n->opt.frozen ? n->block_w : w;
    n->of_ends = n->opt.frozen ? n->end_w : w;
    pg_net_rope(n);
    pg_net_positions(n);
    for (int stack = 0; stack < n->n_stack; stack++) {
        pg_net_enter(n, stack);
        pg_net_embed(n);
        for (int il = n->now->first; il < n->now->end; il++) {
            come_to(n, il, false);
            pg_net_attention(n, il);
            PG_TRY(pg_net_ffn(n, il, err));
            PG_TRY(pg_net_tick(n, err));
        }
        if (stack < n->n_stack - 1)
            pg_net_source(n);
    }
    return 0;
}

/* What the model says whose routers decide. */
static int refer(struct pg_net *n, const pg_real *w, struct pg_err *err)
{
    PG_ASSERT(w || n->opt.frozen);
    n->ref_w = w;
    n->gate = PG_GATE_ROUTER;
    n->bias = NULL;
    n->refers = true;
    PG_TRY(forward(n, w, err));
    pg_net_reference(n);
    return 0;
}

static int blocks_back(struct pg_net *n, struct pg_err *err)
{
    for (int il = n->now->end - 1; il >= n->now->first; il--) {
        enum pg_net_way way = pg_net_way_back(n, il);
        if (way == PG_WAY_NONE)
            continue;
        come_to(n, il, true);
        if (n->opt.frozen)
            pg_net_ffn_again(n, il);
        PG_TRY(pg_net_ffn_back(n, il, err));
        if (way == PG_WAY_THROUGH)
            pg_net_attention_back(n, il);
        PG_TRY(pg_net_tick(n, err));
    }
    return 0;
}

/* Each stack's way back ends in its embeddings; the encoder's begins with what the decoder's cross
 * attention brings. */
static int backward(struct pg_net *n, struct pg_err *err)
{
    const size_t n_embd = (size_t)n->h->n_embd, n_head = (size_t)n->h->n_head;
    if (n->dsource)
        memset(n->dsource, 0, (size_t)n->stack[0].n_tok * n_embd * sizeof(pg_real));
    for (int stack = n->n_stack - 1; stack >= 0; stack--) {
        pg_net_enter(n, stack);
        if (stack < n->n_stack - 1)
            pg_net_source_back(n);
        if (n->now->drel) {
            size_t width = (size_t)(2 * n->seq_len - 1);
            memset(n->now->drel, 0, (size_t)n->opt.n_seq * n_head * width * sizeof(pg_real));
        }
        PG_TRY(blocks_back(n, err));
        pg_net_positions_back(n);
        if (!n->opt.frozen)
            pg_net_embed_back(n);
    }
    return 0;
}

int pg_net_run(struct pg_net *n, struct pg_net_point at, const struct pg_net_batch *batch,
               struct pg_net_loss *out, struct pg_err *err)
{
    PG_TRY(pg_net_check_batch(n, batch, err));
    n->g = at.g;
    n->scale = at.scale;
    n->draw = at.draw;
    n->batch = batch;
    pg_net_see(n);
    n->under_way = -1;
    if (n->opt.frozen) {
        pg_net_unpack_ends(n);
        pg_store_span(n->opt.store, (struct pg_span){0, n->model->n_moe});
    }
    if (n->ref_h)
        PG_TRY(refer(n, at.reference, err));
    n->gate = n->opt.gate;
    n->bias = n->opt.cache_bias;
    n->refers = false;
    PG_TRY(forward(n, at.w, err));
    pg_net_output(n);
    if (at.g)
        PG_TRY(backward(n, err));
    return sum_up(n, out, err);
}
