/* SPDX-License-Identifier: MIT
 * The list of a block's tensors. A new one is a member of struct pg_block, a name in enum
 * pg_block_part and a row here; loading goes by this list, and training refuses what it does not
 * know of it.
 */
#include "model/model.h"

#include <stdio.h>
#include <string.h>

#define BLOCK(member) offsetof(struct pg_block, member)
#define MATRIX(member)                                                                             \
    {                                                                                              \
        .suffix = #member ".weight", .at = BLOCK(member), .is_matrix = true                        \
    }
#define OUT(name, member)                                                                          \
    {                                                                                              \
        .suffix = #member ".weight", .in_stacks = name ".weight", .at = BLOCK(member),             \
        .is_matrix = true                                                                          \
    }
#define VECTOR(member)                                                                             \
    {                                                                                              \
        .suffix = #member ".weight", .at = BLOCK(member)                                           \
    }
#define BIAS(member)                                                                               \
    {                                                                                              \
        .suffix = #member ".bias", .at = BLOCK(member##_bias)                                      \
    }
#define EXPERTS(name, slab)                                                                        \
    {                                                                                              \
        .suffix = #name "_exps.weight", .at = BLOCK(exps[slab]), .is_matrix = true,                \
        .is_expert = true                                                                          \
    }
#define PREGATE(name, member, matrix)                                                              \
    {                                                                                              \
        .suffix = "ffn_pregate_" name, .at = offsetof(struct pg_pregate, member),                  \
        .is_matrix = matrix                                                                        \
    }

const struct pg_part_info pg_parts[PG_N_PARTS] = {
    [PG_PART_ATTN_NORM] = VECTOR(attn_norm),
    [PG_PART_Q] = MATRIX(attn_q),
    [PG_PART_K] = MATRIX(attn_k),
    [PG_PART_V] = MATRIX(attn_v),
    [PG_PART_ATTN_OUT] = OUT("attn_o", attn_output),
    [PG_PART_Q_BIAS] = BIAS(attn_q),
    [PG_PART_K_BIAS] = BIAS(attn_k),
    [PG_PART_V_BIAS] = BIAS(attn_v),
    [PG_PART_Q_NORM] = VECTOR(attn_q_norm),
    [PG_PART_K_NORM] = VECTOR(attn_k_norm),
    [PG_PART_REL_B] = MATRIX(attn_rel_b),
    [PG_PART_CROSS_NORM] = VECTOR(cross_attn_norm),
    [PG_PART_CROSS_Q] = MATRIX(cross_attn_q),
    [PG_PART_CROSS_K] = MATRIX(cross_attn_k),
    [PG_PART_CROSS_V] = MATRIX(cross_attn_v),
    [PG_PART_CROSS_OUT] = OUT("cross_attn_o", cross_attn_output),
    [PG_PART_FFN_NORM] = VECTOR(ffn_norm),
    [PG_PART_GATE] = MATRIX(ffn_gate),
    [PG_PART_UP] = MATRIX(ffn_up),
    [PG_PART_DOWN] = MATRIX(ffn_down),
    [PG_PART_ROUTER] = MATRIX(ffn_gate_inp),
    [PG_PART_EXP_GATE] = EXPERTS(ffn_gate, 0),
    [PG_PART_EXP_UP] = EXPERTS(ffn_up, 1),
    [PG_PART_EXP_DOWN] = EXPERTS(ffn_down, 2),
    [PG_PART_SH_INP] = MATRIX(ffn_gate_inp_shexp),
    [PG_PART_SH_GATE] = MATRIX(ffn_gate_shexp),
    [PG_PART_SH_UP] = MATRIX(ffn_up_shexp),
    [PG_PART_SH_DOWN] = MATRIX(ffn_down_shexp),
    [PG_PART_PREGATE] = PREGATE("inp.weight", inp, true),
    [PG_PART_PREGATE_BIAS] = PREGATE("inp.bias", bias, false),
    [PG_PART_PREGATE_DOWN] = PREGATE("down.weight", down, true),
    [PG_PART_PREGATE_DOWN_BIAS] = PREGATE("down.bias", down_bias, false),
    [PG_PART_PREGATE_UP] = PREGATE("up.weight", up, true),
};

struct pg_tensor_name pg_part_name(const struct pg_model *m, int il, enum pg_block_part part)
{
    const struct pg_stack *stack = &m->h.stack[pg_stack_of(&m->h, il)];
    const struct pg_part_info *info = &pg_parts[part];
    const char *suffix = m->h.n_stack > 1 && info->in_stacks ? info->in_stacks : info->suffix;
    struct pg_tensor_name n;
    snprintf(n.s, sizeof(n.s), "%sblk.%d.%s", stack->prefix, il - stack->first, suffix);
    return n;
}

int pg_block_of_name(const struct pg_model *m, const char *name, const char **suffix)
{
    for (int i = 0; i < m->h.n_stack; i++) {
        const struct pg_stack *stack = &m->h.stack[i];
        const size_t n_prefix = strlen(stack->prefix);
        int il, n = 0;
        if (strncmp(name, stack->prefix, n_prefix) == 0 &&
            sscanf(name + n_prefix, "blk.%d.%n", &il, &n) == 1 && n && il >= 0 &&
            il < stack->n_layer) {
            *suffix = name + n_prefix + n;
            return stack->first + il;
        }
    }
    return -1;
}

int pg_stack_of(const struct pg_hparams *h, int il)
{
    return il < h->stack[0].n_layer ? 0 : 1;
}

int pg_last_stack(const struct pg_hparams *h)
{
    return h->n_stack - 1;
}

int pg_cross_cache(const struct pg_hparams *h, int il)
{
    return h->n_layer + il - h->stack[1].first;
}

struct pg_weight *pg_block_part(struct pg_block *l, enum pg_block_part part)
{
    PG_ASSERT(part < PG_BLOCK_PARTS);
    return (struct pg_weight *)(void *)((char *)l + pg_parts[part].at);
}

struct pg_weight *pg_pregate_part(struct pg_pregate *p, enum pg_block_part part)
{
    PG_ASSERT(part >= PG_BLOCK_PARTS && part < PG_N_PARTS);
    return (struct pg_weight *)(void *)((char *)p + pg_parts[part].at);
}

/* All members before the last are weights, and each has its row. */
_Static_assert(offsetof(struct pg_block, moe) == PG_BLOCK_PARTS * sizeof(struct pg_weight),
               "a weight of struct pg_block is not in the list");
_Static_assert(sizeof(struct pg_pregate) ==
                   (PG_N_PARTS - PG_BLOCK_PARTS) * sizeof(struct pg_weight),
               "a weight of struct pg_pregate is not in the list");
