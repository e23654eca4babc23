/* SPDX-License-Identifier: MIT
 * The list of parameters: the tensors of the GGUF file, in the order of the way forward.
 */
#include "tune/net_impl.h"

#include "base/os.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

static const struct part {
    const char *suffix;
    size_t field; /* of struct pg_layer */
    bool is_matrix, is_expert;
} parts[PG_N_PARTS] = {
#define PART(name, is_matrix) #name ".weight", offsetof(struct pg_layer, name), is_matrix, false
#define BIAS(name)            #name ".bias", offsetof(struct pg_layer, name##_bias), false, false
#define EXPS(name, i)         #name "_exps.weight", offsetof(struct pg_layer, exps[i]), true, true
    [PG_PART_ATTN_NORM] = {PART(attn_norm, false)},
    [PG_PART_Q] = {PART(attn_q, true)},
    [PG_PART_K] = {PART(attn_k, true)},
    [PG_PART_V] = {PART(attn_v, true)},
    [PG_PART_ATTN_OUT] = {PART(attn_output, true)},
    [PG_PART_Q_BIAS] = {BIAS(attn_q)},
    [PG_PART_K_BIAS] = {BIAS(attn_k)},
    [PG_PART_V_BIAS] = {BIAS(attn_v)},
    [PG_PART_Q_NORM] = {PART(attn_q_norm, false)},
    [PG_PART_K_NORM] = {PART(attn_k_norm, false)},
    [PG_PART_FFN_NORM] = {PART(ffn_norm, false)},
    [PG_PART_GATE] = {PART(ffn_gate, true)},
    [PG_PART_UP] = {PART(ffn_up, true)},
    [PG_PART_DOWN] = {PART(ffn_down, true)},
    [PG_PART_ROUTER] = {PART(ffn_gate_inp, true)},
    [PG_PART_EXP_GATE] = {EXPS(ffn_gate, 0)},
    [PG_PART_EXP_UP] = {EXPS(ffn_up, 1)},
    [PG_PART_EXP_DOWN] = {EXPS(ffn_down, 2)},
    [PG_PART_SH_INP] = {PART(ffn_gate_inp_shexp, true)},
    [PG_PART_SH_GATE] = {PART(ffn_gate_shexp, true)},
    [PG_PART_SH_UP] = {PART(ffn_up_shexp, true)},
    [PG_PART_SH_DOWN] = {PART(ffn_down_shexp, true)},
    /* No tensors of the model: their shapes are below. */
    [PG_PART_PREGATE] = {"ffn_pregate_inp.weight", 0, true, false},
    [PG_PART_PREGATE_BIAS] = {"ffn_pregate_inp.bias", 0, false, false},
    [PG_PART_PREGATE_DOWN] = {"ffn_pregate_down.weight", 0, true, false},
    [PG_PART_PREGATE_DOWN_BIAS] = {"ffn_pregate_down.bias", 0, false, false},
    [PG_PART_PREGATE_UP] = {"ffn_pregate_up.weight", 0, true, false},
};

struct shape {
    int n_out, n_in; /* n_in 0: there is none */
};

static struct shape shape_of(const struct pg_net *n, int il, enum pg_net_part part)
{
    int n_expert = n->h->n_expert, n_embd = n->h->n_embd, n_hidden = n->opt.pregate_hidden;
    const struct shape pregate[] = {
        {n_expert, n_embd},
        {1, n->opt.pregate_bias ? n_expert : 0},
        {n_hidden, n_hidden ? n_embd : 0},
        {1, n_hidden},
        {n_expert, n_hidden},
    };
    if (part >= PG_PART_PREGATE)
        return pg_net_has_pregate(n, il) ? pregate[part - PG_PART_PREGATE] : (struct shape){0, 0};
    const char *layer = (const char *)&n->model->layer[il];
    const struct pg_weight *w = (const struct pg_weight *)(const void *)(layer + parts[part].field);
    return (struct shape){w->n_out, w->n_in};
}

/* Appends one; p->n_mat, n_out, n_in and is_matrix are set. Returns where its values begin. */
static size_t append(struct pg_net *n, const struct pg_param *like, int il, const char *suffix)
{
    struct pg_param *p = &n->params.p[n->params.n++];
    *p = *like;
    if (il < 0)
        snprintf(p->name, sizeof(p->name), "%s", suffix);
    else
        snprintf(p->name, sizeof(p->name), "blk.%d.%s", il, suffix);
    p->at = n->params.n_values;
    p->n = (size_t)p->n_mat * (size_t)p->n_out * (size_t)p->n_in;
    n->params.n_values += p->n;
    return p->at;
}

static void list_block(struct pg_net *n, int il)
{
    for (int i = 0; i < PG_N_PARTS; i++) {
        struct shape shape = shape_of(n, il, (enum pg_net_part)i);
        n->at[il].part[i] = PG_NO_PART;
        if (shape.n_in) {
            struct pg_param like = {.n_mat = parts[i].is_expert ? n->h->n_expert : 1,
                                    .n_out = shape.n_out,
                                    .n_in = shape.n_in,
                                    .is_matrix = parts[i].is_matrix};
            n->at[il].part[i] = append(n, &like, il, parts[i].suffix);
        }
    }
}

/* A tied output is absent in the directory, and the table once weights are loaded. */
static bool has_output(const struct pg_model *m)
{
    return m->output.n_out != 0 && (!m->output.data || m->output.data != m->token_embd.data);
}

int pg_net_list(struct pg_net *n, struct pg_err *err)
{
    const struct pg_hparams *h = n->h;
    size_t n_layer = (size_t)h->n_layer;
    struct pg_param table = {.n_mat = 1, .n_out = h->n_vocab, .n_in = h->n_embd, .is_matrix = true};
    struct pg_param gain = {.n_mat = 1, .n_out = 1, .n_in = h->n_embd};
    struct pg_param freqs = {.n_mat = 1, .n_out = 1, .n_in = h->n_rot / 2};
    n->at = pg_calloc(n_layer, sizeof(n->at[0]));
    n->params.p = pg_calloc(n_layer * PG_N_PARTS + 4, sizeof(n->params.p[0]));
    if (!n->at || !n->params.p)
        return pg_fail(err, PG_ENOMEM, "out of memory for the list of parameters");
    n->at_embd = append(n, &table, -1, "token_embd.weight");
    n->at_freqs =
        n->model->rope_freqs.n_in ? append(n, &freqs, -1, "rope_freqs.weight") : PG_NO_PART;
    for (int il = 0; il < h->n_layer; il++)
        list_block(n, il);
    n->at_norm = append(n, &gain, -1, "output_norm.weight");
    n->at_output = has_output(n->model) ? append(n, &table, -1, "output.weight") : n->at_embd;
    return 0;
}

const struct pg_param *pg_params_find(const struct pg_params *p, const char *name)
{
    for (int i = 0; i < p->n; i++)
        if (strcmp(p->p[i].name, name) == 0)
            return &p->p[i];
    return NULL;
}
