/* SPDX-License-Identifier: MIT
 * The order of a block, one for all families: attention, then the gate, the wave of its experts and
 * their sum; or a dense feed-forward layer. What differs is said by the hyperparameters and by
 * which weights are there. What is done to rows is in the table of operations (ops.h).
 */
#include "base/os.h"
#include "model/forward.h"

/* Called between parallel loops: reads that are done make room for the next. */
static void poll_reads(struct pg_forward *f)
{
    if (f->opt.store)
        pg_store_poll(f->opt.store);
}

/* h = norm(x) */
static void norm_x(struct pg_forward *f, const struct pg_weight *gain)
{
    const struct pg_hparams *hp = &f->model->h;
    const struct pg_op_norm op = {gain, hp->rms_eps, f->n_tok, hp->n_embd, f->x, f->h};
    f->ops->norm(f->c, &op, 1);
    pg_input_set(&f->in_h, f->h, hp->n_embd, f->n_tok);
}

/* y = w in of all rows of the step */
static struct pg_op_product product(struct pg_forward *f, const struct pg_weight *w,
                                    struct pg_input *in, float *y)
{
    return (struct pg_op_product){.w = *w, .in = in, .n_row = f->n_tok, .y = y};
}

static void add_proj(struct pg_forward *f)
{
    const struct pg_op_add op = {f->n_tok, f->model->h.n_embd, f->proj, f->x};
    f->ops->add(f->c, &op);
}

/* q, k and v of h, as they go into attention */
static void project(struct pg_forward *f, const struct pg_block *w)
{
    const struct pg_hparams *hp = &f->model->h;
    struct pg_op_product qkv[] = {
        product(f, &w->attn_q, &f->in_h, f->q),
        product(f, &w->attn_k, &f->in_h, f->k),
        product(f, &w->attn_v, &f->in_h, f->v),
    };
    const struct pg_op_norm norms[] = {
        {&w->attn_q_norm, hp->rms_eps, f->n_tok, hp->n_head * hp->head_dim, f->q, f->q},
        {&w->attn_k_norm, hp->rms_eps, f->n_tok, hp->n_head_kv * hp->head_dim, f->k, f->k},
    };
    const struct pg_op_rope rope = {
        .kind = hp->rope,
        .cosines = f->rope_cos,
        .sines = f->rope_sin,
        .n_row = f->n_tok,
        .n_freq = hp->n_rot / 2,
        .head_dim = hp->head_dim,
        .n_head = hp->n_head,
        .n_head_kv = hp->n_head_kv,
        .q = f->q,
        .k = f->k,
    };
    qkv[0].bias = &w->attn_q_bias;
    qkv[1].bias = &w->attn_k_bias;
    qkv[2].bias = &w->attn_v_bias;
    poll_reads(f);
    f->ops->product(f->c, qkv, 3);
    poll_reads(f);
    if (w->attn_q_norm.data)
        f->ops->norm(f->c, norms, 2);
    if (hp->n_rot)
        f->ops->rope(f->c, &rope);
}

/* x += output attention(q) over cache number `cache` */
static void attend(struct pg_forward *f, int cache, const struct pg_op_attend *how,
                   const struct pg_weight *output)
{
    const struct pg_hparams *hp = &f->model->h;
    const struct pg_op_product out = product(f, output, &f->in_att, f->proj);
    struct pg_op_attend op = *how;
    op.kv = f->kv;
    op.pos = f->pos;
    op.n_row = f->n_tok;
    op.cache = cache;
    op.n_head = hp->n_head;
    op.scale = hp->attn_scale;
    op.q = f->q;
    op.score = f->score;
    op.n_ctx = f->opt.n_ctx;
    op.out = f->att;
    const uint64_t begin = pg_now_ns();
    f->ops->attend(f->c, &op);
    f->attend_ns += pg_now_ns() - begin;
    poll_reads(f);
    pg_input_set(&f->in_att, f->att, hp->n_head * hp->head_dim, f->n_tok);
    f->ops->product(f->c, &out, 1);
    add_proj(f);
    poll_reads(f);
}

/* x += attention(h) */
static void attention(struct pg_forward *f, int il)
{
    const struct pg_block *w = &f->model->block[il];
    const struct pg_position_bias *bias = &f->bias[pg_stack_of(&f->model->h, il)];
    const struct pg_op_append append = {f->kv, f->pos, f->n_tok, il, f->k, f->v};
    const struct pg_op_attend how = {.n_seen = f->n_seen, .bias = bias->at ? bias : NULL};
    project(f, w);
    uint64_t begin = f->opt.trace ? pg_now_ns() : 0;
    f->ops->append(f->c, &append);
    attend(f, il, &how, &w->attn_output);
    if (f->opt.trace)
        pg_trace_add(f->opt.trace, (struct pg_trace_event){"attention", begin, pg_now_ns(),
                                                           PG_TRACK_COMPUTE, il, -1});
}

/* x += attention(norm(x)) over what the encoder made of the source */
static void cross_attention(struct pg_forward *f, int il)
{
    const struct pg_block *w = &f->model->block[il];
    const struct pg_op_product q = product(f, &w->cross_attn_q, &f->in_h, f->q);
    const struct pg_op_attend how = {.n_seen = f->n_source};
    norm_x(f, &w->cross_attn_norm);
    f->ops->product(f->c, &q, 1);
    attend(f, pg_cross_cache(&f->model->h, il), &how, &w->cross_attn_output);
}

void pg_forward_source(struct pg_forward *f)
{
    const struct pg_hparams *hp = &f->model->h;
    const struct pg_stack *decoder = &hp->stack[1];
    norm_x(f, &f->model->output_norm[0]);
    for (int il = decoder->first; il < decoder->first + decoder->n_layer; il++) {
        const struct pg_block *w = &f->model->block[il];
        const struct pg_op_product kv[] = {product(f, &w->cross_attn_k, &f->in_h, f->k),
                                           product(f, &w->cross_attn_v, &f->in_h, f->v)};
        const struct pg_op_append append = {f->kv, f->pos, f->n_tok, pg_cross_cache(hp, il),
                                            f->k,  f->v};
        f->ops->product(f->c, kv, 2);
        f->ops->append(f->c, &append);
        poll_reads(f);
    }
}

void pg_activate(struct pg_forward *f, int n_ff, int n_row)
{
    const struct pg_hparams *hp = &f->model->h;
    const struct pg_op_activate op = {
        hp->activation, n_row, n_ff, f->gate_ff, hp->gated ? f->up_ff : NULL, f->gate_ff};
    f->ops->activate(f->c, &op);
    pg_input_set(&f->in_ff, f->gate_ff, n_ff, n_row);
}

/* proj = down(act(gate h) * up h), or down(act(up h)) */
static void ffn(struct pg_forward *f, const struct pg_weight *gate, const struct pg_weight *up,
                const struct pg_weight *down)
{
    const bool gated = f->model->h.gated;
    const struct pg_op_product in[] = {product(f, gated ? gate : up, &f->in_h, f->gate_ff),
                                       product(f, up, &f->in_h, f->up_ff)};
    const struct pg_op_product out = product(f, down, &f->in_ff, f->proj);
    f->ops->product(f->c, in, gated ? 2 : 1);
    pg_activate(f, up->n_out, f->n_tok);
    f->ops->product(f->c, &out, 1);
}

/* x += the experts that the gate chose, and the shared one, of h */
static int experts(struct pg_forward *f, int il)
{
    const struct pg_block *w = &f->model->block[il];
    const struct pg_route *route;
    PG_TRY(pg_gate_decide(f->opt.gate, w->moe, &f->in_h, f->pos, &route, f->err));
    pg_wave_sort(f, route);
    struct pg_part all = {0, f->wave.n};
    pg_wave_acquire(f, il, all);
    int rc = pg_gate_hint(f->opt.gate, w->moe, &f->in_h, f->pos, f->err);
    if (rc) {
        pg_store_abandon(f->opt.store);
        return rc;
    }
    if (w->ffn_down_shexp.data) /* while experts arrive */
        ffn(f, &w->ffn_gate_shexp, &w->ffn_up_shexp, &w->ffn_down_shexp);
    PG_TRY(pg_wave_compute(f, il, all));
    const struct pg_op_combine op = {
        .n_row = f->n_tok,
        .n = f->model->h.n_embd,
        .n_used = f->model->h.n_expert_used,
        .weight = route->weight,
        .row_of = f->wave.row_of,
        .y = f->y,
        .shared_gate = &w->ffn_gate_inp_shexp,
        .shared = w->ffn_down_shexp.data ? f->proj : NULL,
        .h = f->h,
        .x = f->x,
    };
    f->ops->combine(f->c, &op);
    return 0;
}

/* x += attention, cross attention where there is one, and experts or a dense layer */
static int run_block(struct pg_forward *f, int il)
{
    const struct pg_block *w = &f->model->block[il];
    norm_x(f, &w->attn_norm);
    attention(f, il);
    if (w->cross_attn_q.data)
        cross_attention(f, il);
    norm_x(f, &w->ffn_norm);
    if (w->moe >= 0)
        return experts(f, il);
    ffn(f, &w->ffn_gate, &w->ffn_up, &w->ffn_down);
    add_proj(f);
    return 0;
}

int pg_block(struct pg_forward *f, int il)
{
    const uint64_t begin = pg_now_ns();
    const int rc = run_block(f, il);
    const uint64_t end = pg_now_ns();
    f->block_ns[il] += end - begin;
    if (f->opt.trace)
        pg_trace_add(f->opt.trace,
                     (struct pg_trace_event){"block", begin, end, PG_TRACK_COMPUTE, il, -1});
    return rc;
}
