/* SPDX-License-Identifier: MIT */
#include "model/forward.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static float *floats(struct pg_arena *a, size_t n, size_t m)
{
    return pg_arena_take(a, n * m * sizeof(float));
}

static int32_t *ints(struct pg_arena *a, size_t n)
{
    return pg_arena_take(a, n * sizeof(int32_t));
}

static void carve_attention(struct pg_forward *f, struct pg_arena *a)
{
    const struct pg_hparams *h = &f->model->h;
    size_t t = (size_t)f->opt.max_tok, n_embd = (size_t)h->n_embd;
    size_t n_q = (size_t)h->n_head * (size_t)h->head_dim;
    size_t n_kv = (size_t)h->n_head_kv * (size_t)h->head_dim;
    f->x = floats(a, t, n_embd);
    f->h = floats(a, t, n_embd);
    f->q = floats(a, t, n_q);
    f->k = floats(a, t, n_kv);
    f->v = floats(a, t, n_kv);
    f->att = floats(a, t, n_q);
    f->proj = floats(a, t, n_embd);
    f->rope_cos = floats(a, t, (size_t)h->n_rot / 2);
    f->rope_sin = floats(a, t, (size_t)h->n_rot / 2);
    f->rope_freq = pg_arena_take(a, (size_t)h->n_rot / 2 * sizeof(double));
    f->score = floats(a, (size_t)f->opt.n_threads, (size_t)f->opt.n_ctx);
    pg_input_carve(&f->in_h, a, h->n_embd, f->opt.max_tok);
    pg_input_carve(&f->in_att, a, (int)n_q, f->opt.max_tok);
}

enum { REACH = PG_POSITION_REACH, HEADS = 4096 };

int pg_bucket_of(int from, bool causal, int n)
{
    const int base = !causal && from > 0 ? n / 2 : 0;
    const int distance = causal ? PG_MAX(0, -from) : abs(from);
    n = causal ? n : n / 2;
    const int exact = n / 2;
    if (distance < exact || exact >= REACH) /* as many buckets as distances */
        return base + PG_MIN(n - 1, distance);
    const double part = log((double)distance / exact) / log((double)REACH / exact);
    return base + PG_MIN(n - 1, exact + (int)(part * (n - exact)));
}

static void carve_bias(struct pg_forward *f, struct pg_arena *a)
{
    const struct pg_hparams *h = &f->model->h;
    const size_t width = 2 * REACH + 1;
    for (int i = 0; h->n_buckets && i < h->n_stack; i++) {
        float *at = floats(a, (size_t)h->n_head, width);
        f->bias[i] = (struct pg_position_bias){at, REACH};
        const struct pg_weight *w = &f->model->block[h->stack[i].first].attn_rel_b;
        for (int from = -REACH; a->base && from <= REACH; from++) {
            const int bucket = pg_bucket_of(from, h->stack[i].causal, h->n_buckets);
            const char *row =
                (const char *)w->data + (size_t)bucket * pg_type_bytes(w->type, w->n_in);
            float bias[HEADS];
            pg_type_traits((uint32_t)w->type)->to_float(row, bias, w->n_in);
            for (int head = 0; head < h->n_head; head++)
                at[(size_t)head * width + (size_t)(from + REACH)] = bias[head];
        }
    }
}

static void carve_ffn(struct pg_forward *f, struct pg_arena *a)
{
    enum { GROUP = PG_PRODUCTS_MAX / 2 };
    const struct pg_hparams *h = &f->model->h;
    size_t t = (size_t)f->opt.max_tok;
    int n_ff = PG_MAX(h->n_ff, PG_MAX(h->n_ff_exp, h->n_ff_shexp));
    f->max_rows = PG_MAX(f->opt.max_tok, h->n_expert_used);
    f->max_group = PG_MAX(1, PG_MIN(GROUP, h->n_expert));
    f->gate_ff = floats(a, (size_t)f->max_rows, (size_t)n_ff);
    f->up_ff = floats(a, (size_t)f->max_rows, (size_t)n_ff);
    pg_input_carve(&f->in_ff, a, n_ff, f->max_rows);
    f->product = pg_arena_take(a, 2 * (size_t)f->max_group * sizeof(struct pg_op_product));
    if (h->n_expert == 0)
        return;
    size_t n_rows = t * (size_t)h->n_expert_used;
    f->y = floats(a, n_rows, (size_t)h->n_embd);
    f->wave.wanted = ints(a, (size_t)h->n_expert);
    f->wave.first = ints(a, (size_t)h->n_expert + 1);
    f->wave.count = ints(a, (size_t)h->n_expert);
    f->wave.token_of = ints(a, n_rows);
    f->wave.row_of = ints(a, n_rows);
    f->wave.iota = ints(a, (size_t)f->max_rows);
    f->lease = pg_arena_take(a, (size_t)f->max_group * sizeof(struct pg_lease));
}

void pg_forward_init(struct pg_forward *f, const struct pg_forward_options *opt, struct pg_arena *a)
{
    *f = (struct pg_forward){.opt = *opt, .model = opt->model, .c = opt->compute, .ops = opt->ops};
    carve_attention(f, a);
    carve_bias(f, a);
    carve_ffn(f, a);
    const struct pg_hparams *h = &f->model->h;
    f->block_ns = pg_arena_take(a, (size_t)h->n_layer * sizeof(*f->block_ns));
    if (!a->base)
        return;
    memset(f->block_ns, 0, (size_t)h->n_layer * sizeof(*f->block_ns));
    const float *factor = f->model->rope_freqs.data;
    for (int i = 0; i < h->n_rot / 2; i++) {
        double freq = pow((double)h->rope_base, -2.0 * i / h->n_rot) * (double)h->rope_scale;
        f->rope_freq[i] = factor ? freq / (double)factor[i] : freq;
    }
    for (int i = 0; h->n_expert && i < f->max_rows; i++)
        f->wave.iota[i] = i;
}

int pg_forward_run(struct pg_forward *f, int stack, struct pg_err *err)
{
    const struct pg_stack *s = &f->model->h.stack[stack];
    PG_ASSERT(f->n_tok >= 1 && f->n_tok <= f->opt.max_tok);
    f->err = err;
    const struct pg_op_embed op = {
        .table = &f->model->token_embd,
        .token = f->token,
        .pos = f->pos,
        .freq = f->rope_freq,
        .n_row = f->n_tok,
        .n_freq = f->model->h.n_rot / 2,
        .x = f->x,
        .cosines = f->rope_cos,
        .sines = f->rope_sin,
    };
    f->ops->embed(f->c, &op);
    for (int il = s->first; il < s->first + s->n_layer; il++) {
        if (f->interrupted && atomic_load_explicit(f->interrupted, memory_order_relaxed))
            return pg_fail(err, PG_ECANCELLED, "the step was interrupted before block %d", il);
        PG_TRY(pg_block(f, il));
    }
    return 0;
}

void pg_forward_logits(struct pg_forward *f, const int32_t *rows, int n, float *logits)
{
    const struct pg_op_logits op = {
        .gain = &f->model->output_norm[pg_last_stack(&f->model->h)],
        .output = &f->model->output,
        .eps = f->model->h.rms_eps,
        .scale = f->model->h.logit_scale,
        .row = rows,
        .n_row = n,
        .x = f->x,
        .h = f->h,
        .in = &f->in_h,
        .logits = logits,
    };
    PG_ASSERT(n >= 1 && n <= f->opt.max_tok);
    f->ops->logits(f->c, &op);
}
