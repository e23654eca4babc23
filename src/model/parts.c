/* SPDX-License-Identifier: MIT
 * The list of a block's tensors. A new one is a member of struct pg_block, a name in enum
 * pg_block_part and a row here; loading goes by this list, and training refuses what it does not
 * know of it.
 */
#include "model/model.h"

#include <stdio.h>

#define BLOCK(member) offsetof(struct pg_block, member)
#define MATRIX(member)                                                                             \
    {                                                                                              \
#member ".weight", BLOCK(member), true, false                                              \
    }
#define VECTOR(member)                                                                             \
    {                                                                                              \
#member ".weight", BLOCK(member), false, false                                             \
    }
#define BIAS(member)                                                                               \
    {                                                                                              \
#member ".bias", BLOCK(member##_bias), false, false                                        \
    }
#define EXPERTS(name, slab)                                                                        \
    {                                                                                              \
#name "_exps.weight", BLOCK(exps[slab]), true, true                                        \
    }
#define PREGATE(name, member, is_matrix)                                                           \
    {                                                                                              \
        "ffn_pregate_" name, offsetof(struct pg_pregate, member), is_matrix, false                 \
    }

const struct pg_part_info pg_parts[PG_N_PARTS] = {
    [PG_PART_ATTN_NORM] = VECTOR(attn_norm),
    [PG_PART_Q] = MATRIX(attn_q),
    [PG_PART_K] = MATRIX(attn_k),
    [PG_PART_V] = MATRIX(attn_v),
    [PG_PART_ATTN_OUT] = MATRIX(attn_output),
    [PG_PART_Q_BIAS] = BIAS(attn_q),
    [PG_PART_K_BIAS] = BIAS(attn_k),
    [PG_PART_V_BIAS] = BIAS(attn_v),
    [PG_PART_Q_NORM] = VECTOR(attn_q_norm),
    [PG_PART_K_NORM] = VECTOR(attn_k_norm),
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

struct pg_tensor_name pg_part_name(int il, enum pg_block_part part)
{
    struct pg_tensor_name n;
    snprintf(n.s, sizeof(n.s), "blk.%d.%s", il, pg_parts[part].suffix);
    return n;
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
