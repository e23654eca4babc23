/* SPDX-License-Identifier: MIT */
#include "model/forward.h"

#include "base/os.h"

#include <math.h>
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

static void carve_ffn(struct pg_forward *f, struct pg_arena *a)
{
    enum { GROUP = 32 };
    const struct pg_hparams *h = &f->model->h;
    size_t t = (size_t)f->opt.max_tok;
    int n_ff = PG_MAX(h->n_ff, PG_MAX(h->n_ff_exp, h->n_ff_shexp));
    f->max_rows = PG_MAX(f->opt.max_tok, h->n_expert_used);
    f->max_group = PG_MAX(1, PG_MIN(GROUP, h->n_expert));
    f->gate_ff = floats(a, (size_t)f->max_rows, (size_t)n_ff);
    f->up_ff = floats(a, (size_t)f->max_rows, (size_t)n_ff);
    pg_input_carve(&f->in_ff, a, n_ff, f->max_rows);
    f->product = pg_arena_take(a, 2 * (size_t)f->max_group * sizeof(struct pg_product));
    if (h->n_expert == 0)
        return;
    size_t n_rows = t * (size_t)h->n_expert_used;
    f->y = floats(a, n_rows, (size_t)h->n_embd);
    f->wanted = ints(a, (size_t)h->n_expert);
    f->first = ints(a, (size_t)h->n_expert + 1);
    f->count = ints(a, (size_t)h->n_expert);
    f->token_of = ints(a, n_rows);
    f->row_of = ints(a, n_rows);
    f->iota = ints(a, (size_t)f->max_rows);
    f->lease = pg_arena_take(a, (size_t)f->max_group * sizeof(struct pg_lease));
}

void pg_forward_init(struct pg_forward *f, const struct pg_forward_options *opt, struct pg_arena *a)
{
    *f = (struct pg_forward){.opt = *opt, .model = opt->model, .c = opt->compute};
    carve_attention(f, a);
    carve_ffn(f, a);
    if (!a->base)
        return;
    const struct pg_hparams *h = &f->model->h;
    const float *factor = f->model->rope_freqs.data;
    for (int i = 0; i < h->n_rot / 2; i++) {
        double freq = pow((double)h->rope_base, -2.0 * i / h->n_rot) * (double)h->rope_scale;
        f->rope_freq[i] = factor ? freq / (double)factor[i] : freq;
    }
    for (int i = 0; h->n_expert && i < f->max_rows; i++)
        f->iota[i] = i;
}

/* x = token_embd[token], and the rotations of each row's position. */
static void begin_row(void *arg, int t, int thread)
{
    struct pg_forward *f = arg;
    const struct pg_weight *w = &f->model->token_embd;
    size_t n_embd = (size_t)w->n_in, half = (size_t)f->model->h.n_rot / 2;
    const char *row =
        (const char *)w->data + (size_t)f->token[t] * pg_type_bytes(w->type, (int64_t)n_embd);
    (void)thread;
    pg_type_traits((uint32_t)w->type)->to_float(row, f->x + (size_t)t * n_embd, (int64_t)n_embd);
    for (size_t i = 0; i < half; i++) {
        double angle = f->pos[t] * f->rope_freq[i];
        f->rope_cos[(size_t)t * half + i] = (float)cos(angle);
        f->rope_sin[(size_t)t * half + i] = (float)sin(angle);
    }
}

int pg_forward_run(struct pg_forward *f, struct pg_err *err)
{
    PG_ASSERT(f->n_tok >= 1 && f->n_tok <= f->opt.max_tok);
    f->err = err;
    pg_rows(f->c, begin_row, f, f->n_tok);
    for (int il = 0; il < f->model->h.n_layer; il++)
        PG_TRY(pg_block(f, il));
    return 0;
}

void pg_forward_logits(struct pg_forward *f, const int32_t *rows, int n, float *logits)
{
    size_t n_embd = (size_t)f->model->h.n_embd;
    for (int i = 0; i < n; i++) {
        f->c->k.rms_norm(f->x + (size_t)rows[i] * n_embd, f->model->output_norm.data,
                         f->model->h.rms_eps, f->h + (size_t)i * n_embd, (int)n_embd);
    }
    pg_input_set(&f->in_h, f->h, (int)n_embd, n);
    pg_linear(f->c, &f->model->output, &f->in_h, logits);
}
