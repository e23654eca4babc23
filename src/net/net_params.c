/* SPDX-License-Identifier: MIT
 * The list of parameters: the tensors of the GGUF file, in the order of the way forward.
 */
#include "net/net_impl.h"

#include "base/os.h"
#include "model/pregates.h"

#include <stdio.h>
#include <string.h>

/* Where the way forward uses a part of struct pg_block. One that is not named it does not use. */
static const enum use {
    NOWHERE,
    ALWAYS,
    WHERE_THERE,
    AS_FIRST,
    OF_STACK, /* in a stack's first block, for all */
    CROSS,
    GATED_DENSE,
    DENSE,
    MOE,
    GATED_MOE,
    SHARED
} uses[] = {
    [PG_PART_ATTN_NORM] = ALWAYS,   [PG_PART_Q] = ALWAYS,           [PG_PART_K] = ALWAYS,
    [PG_PART_V] = ALWAYS,           [PG_PART_ATTN_OUT] = ALWAYS,    [PG_PART_Q_BIAS] = WHERE_THERE,
    [PG_PART_K_BIAS] = WHERE_THERE, [PG_PART_V_BIAS] = WHERE_THERE, [PG_PART_Q_NORM] = AS_FIRST,
    [PG_PART_K_NORM] = AS_FIRST,    [PG_PART_REL_B] = OF_STACK,     [PG_PART_CROSS_NORM] = CROSS,
    [PG_PART_CROSS_Q] = CROSS,      [PG_PART_CROSS_K] = CROSS,      [PG_PART_CROSS_V] = CROSS,
    [PG_PART_CROSS_OUT] = CROSS,    [PG_PART_FFN_NORM] = ALWAYS,    [PG_PART_GATE] = GATED_DENSE,
    [PG_PART_UP] = DENSE,           [PG_PART_DOWN] = DENSE,         [PG_PART_ROUTER] = MOE,
    [PG_PART_EXP_GATE] = GATED_MOE, [PG_PART_EXP_UP] = MOE,         [PG_PART_EXP_DOWN] = MOE,
    [PG_PART_SH_INP] = SHARED,      [PG_PART_SH_GATE] = SHARED,     [PG_PART_SH_UP] = SHARED,
    [PG_PART_SH_DOWN] = SHARED,     [PG_BLOCK_PARTS] = NOWHERE,
};

static const struct pg_weight *part_of(const struct pg_net *n, int il, enum pg_block_part part)
{
    return pg_block_part(&n->model->block[il], part);
}

/* What the model has and what the way forward wants are the same. */
static int check_part(const struct pg_net *n, int il, enum pg_block_part part, struct pg_err *err)
{
    const bool moe = n->model->block[il].moe >= 0, there = part_of(n, il, part)->n_in != 0;
    const struct pg_stack *stack = &n->h->stack[pg_stack_of(n->h, il)];
    const bool wanted[] = {
        [NOWHERE] = false,
        [ALWAYS] = true,
        [WHERE_THERE] = there,
        [AS_FIRST] = n->q_norm_len && n->k_norm_len,
        [OF_STACK] = n->h->n_buckets && il == stack->first,
        [CROSS] = n->h->n_stack > 1 && stack->causal,
        [GATED_DENSE] = !moe && n->h->gated,
        [DENSE] = !moe,
        [MOE] = moe,
        [GATED_MOE] = moe && n->h->gated,
        [SHARED] = moe && n->h->n_ff_shexp,
    };
    if (there == wanted[uses[part]])
        return 0;
    return pg_fail(err, PG_ENOTSUP,
                   there ? "%s: training has no use for this tensor; without it the model would be "
                           "another"
                         : "%s: missing, and training needs it",
                   pg_part_name(n->model, il, part).s);
}

/* Of what the architecture says besides its tensors. */
static int check_shape(const struct pg_net *n, struct pg_err *err)
{
    const struct pg_hparams *h = n->h;
    if (h->rope != PG_ROPE_PAIRS && h->rope != PG_ROPE_HALVES)
        return pg_fail(err, PG_ENOTSUP, "rotation: kind %d cannot be trained", (int)h->rope);
    if (h->activation != PG_SILU && h->activation != PG_RELU && h->activation != PG_GELU) {
        return pg_fail(err, PG_ENOTSUP, "activation: kind %d cannot be trained",
                       (int)h->activation);
    }
    if (h->n_buckets && h->attn_scale != 1) {
        return pg_fail(err, PG_ENOTSUP,
                       "relative positions beside a scale of %g: 1 alone can be trained",
                       (double)h->attn_scale);
    }
    for (int il = 0; il < h->n_layer; il++) {
        const struct pg_cache *c = &n->model->cache[il];
        if (c->window || c->state_bytes || c->k_dim != h->head_dim || c->v_dim != h->head_dim ||
            c->n_head != h->n_head_kv) {
            return pg_fail(
                err, PG_ENOTSUP,
                "block %d: attention over all of a text can be trained, with keys and "
                "values of %d heads of %d; a window of %d, a state of %zu bytes or heads "
                "of %d and %d cannot",
                il, h->n_head_kv, h->head_dim, c->window, c->state_bytes, c->k_dim, c->v_dim);
        }
    }
    return 0;
}

int pg_net_check(const struct pg_net *n, struct pg_err *err)
{
    PG_TRY(check_shape(n, err));
    for (int il = 0; il < n->h->n_layer; il++)
        for (enum pg_block_part part = 0; part < PG_BLOCK_PARTS; part++)
            PG_TRY(check_part(n, il, part, err));
    return 0;
}

/* n_in 0: there is none. */
static struct pg_weight shape_of(const struct pg_net *n, int il, enum pg_block_part part)
{
    const struct pg_pregate_form form = {n->opt.pregate_bias, n->opt.pregate_hidden};
    struct pg_pregate gate = {0};
    if (part < PG_BLOCK_PARTS)
        return *part_of(n, il, part);
    if (pg_net_has_pregate(n, il))
        pg_pregate_place(n->model, &form, NULL, &gate);
    return *pg_pregate_part(&gate, part);
}

/* Appends one; p->n_mat, n_out, n_in and is_matrix are set. Returns where its values begin. */
static size_t append(struct pg_net *n, const struct pg_param *like, const char *name)
{
    struct pg_param *p = &n->params.p[n->params.n++];
    *p = *like;
    snprintf(p->name, sizeof(p->name), "%s", name);
    p->at = n->params.n_values;
    p->n = (size_t)p->n_mat * (size_t)p->n_out * (size_t)p->n_in;
    n->params.n_values += p->n;
    return p->at;
}

size_t pg_net_lay_out(const struct pg_net *n, int il, struct pg_net_at *at)
{
    enum { STEP = 16 }; /* each begins a line of the cache */
    size_t len = 0;
    for (enum pg_block_part part = 0; part < PG_BLOCK_PARTS; part++) {
        const struct pg_weight *w = part_of(n, il, part);
        bool there = w->n_in && w->n_out;
        if (at)
            at->part[part] = there ? len : PG_NO_PART;
        if (there && !pg_parts[part].is_expert)
            len += ((size_t)w->n_in * (size_t)w->n_out + STEP - 1) / STEP * STEP;
    }
    return len;
}

static void list_block(struct pg_net *n, int il)
{
    enum pg_block_part first = n->opt.frozen ? PG_BLOCK_PARTS : 0;
    if (n->opt.frozen)
        pg_net_lay_out(n, il, &n->at[il]);
    for (enum pg_block_part part = first; part < PG_N_PARTS; part++) {
        struct pg_weight shape = shape_of(n, il, part);
        n->at[il].part[part] = PG_NO_PART;
        if (shape.n_in && shape.n_out) {
            struct pg_param like = {.n_mat = pg_parts[part].is_expert ? n->h->n_expert : 1,
                                    .n_out = shape.n_out,
                                    .n_in = shape.n_in,
                                    .is_matrix = pg_parts[part].is_matrix};
            n->at[il].part[part] = append(n, &like, pg_part_name(n->model, il, part).s);
            n->n_pregate_values += part < PG_BLOCK_PARTS ? 0 : n->params.p[n->params.n - 1].n;
        }
    }
}

/* A stack's last norm; a name that begins as its tensors do. */
static struct pg_tensor_name norm_name(const struct pg_net *n, int stack)
{
    struct pg_tensor_name name;
    snprintf(name.s, sizeof(name.s), "%soutput_norm.weight", n->h->stack[stack].prefix);
    return name;
}

/* A tied output is absent in the directory, and the table once weights are loaded. */
static bool has_output(const struct pg_model *m)
{
    return m->output.n_out != 0 && (!m->output.data || m->output.data != m->token_embd.data);
}

/* Frozen: pre-gates alone. */
static void list_pregates(struct pg_net *n)
{
    n->at_embd = n->at_output = PG_NO_PART;
    for (int i = 0; i < n->n_stack; i++)
        n->stack[i].at_norm = (size_t)i * (size_t)n->h->n_embd;
    n->at_freqs =
        n->model->rope_freqs.n_in ? (size_t)n->n_stack * (size_t)n->h->n_embd : PG_NO_PART;
    for (int il = 0; il < n->h->n_layer; il++)
        list_block(n, il);
}

static int list_all(struct pg_net *n, struct pg_err *err)
{
    const struct pg_hparams *h = n->h;
    struct pg_param table = {.n_mat = 1, .n_out = h->n_vocab, .n_in = h->n_embd, .is_matrix = true};
    struct pg_param gain = {.n_mat = 1, .n_out = 1, .n_in = h->n_embd};
    struct pg_param freqs = {.n_mat = 1, .n_out = 1, .n_in = h->n_rot / 2};
    n->at_embd = append(n, &table, "token_embd.weight");
    n->at_freqs = n->model->rope_freqs.n_in ? append(n, &freqs, "rope_freqs.weight") : PG_NO_PART;
    for (int i = 0; i < n->n_stack; i++) {
        for (int il = n->stack[i].first; il < n->stack[i].end; il++)
            list_block(n, il);
        n->stack[i].at_norm = append(n, &gain, norm_name(n, i).s);
    }
    n->at_output = has_output(n->model) ? append(n, &table, "output.weight") : n->at_embd;
    uint64_t used = n->params.n_values - n->n_pregate_values;
    if (used != n->model->n_params) {
        return pg_fail(err, PG_ENOTSUP,
                       "the model has %llu parameters and training would use %llu of them: it has "
                       "a tensor outside its blocks that training does not know",
                       (unsigned long long)n->model->n_params, (unsigned long long)used);
    }
    return 0;
}

int pg_net_list(struct pg_net *n, struct pg_err *err)
{
    size_t n_layer = (size_t)n->h->n_layer;
    n->at = pg_calloc(n_layer, sizeof(n->at[0]));
    n->params.p = pg_calloc(n_layer * PG_N_PARTS + 3 + PG_STACKS, sizeof(n->params.p[0]));
    if (!n->at || !n->params.p)
        return pg_fail(err, PG_ENOMEM, "out of memory for the list of parameters");
    if (!n->opt.frozen)
        return list_all(n, err);
    list_pregates(n);
    return 0;
}

const struct pg_param *pg_params_find(const struct pg_params *p, const char *name)
{
    for (int i = 0; i < p->n; i++)
        if (strcmp(p->p[i].name, name) == 0)
            return &p->p[i];
    return NULL;
}

void pg_pregates_in(const struct pg_model *m, const struct pg_params *params, float *w,
                    struct pg_pregate *gates)
{
    for (int moe = 0; moe < m->n_moe; moe++) {
        for (enum pg_block_part part = PG_PART_PREGATE; part < PG_N_PARTS; part++) {
            struct pg_tensor_name name = pg_part_name(m, pg_block_of_moe(m, moe), part);
            const struct pg_param *p = pg_params_find(params, name.s);
            *pg_pregate_part(&gates[moe], part) =
                p ? (struct pg_weight){PG_TYPE_F32, p->n_in, p->n_out, w + p->at}
                  : (struct pg_weight){0};
        }
    }
}
