/* SPDX-License-Identifier: MIT */
#include "gate/agreement.h"

#include <math.h>

/* 2^32 tokens of this do not overflow. */
#define MASS_UNIT 0x1p32

void pg_agreement_name(const struct pg_gate_rule *rule, const struct pg_kernels *k, float *logits,
                       int32_t *id, float *weight)
{
    if (!pg_gate_rule_apply(rule, k, logits, id, weight))
        for (int i = 0; i < rule->n_used; i++)
            id[i] = i;
}

static bool is_among(int32_t id, struct pg_named list)
{
    for (int i = 0; i < list.n; i++)
        if (list.id[i] == id)
            return true;
    return false;
}

void pg_agreement_add(struct pg_agreement *a, const float *p, struct pg_named chosen,
                      struct pg_named named)
{
    double covered = 0, own = 0;
    int n_right = 0;
    for (int i = 0; i < chosen.n; i++)
        own += (double)p[chosen.id[i]];
    for (int i = 0; i < named.n; i++) {
        bool right = is_among(named.id[i], chosen);
        covered += (double)p[named.id[i]];
        n_right += right;
        if (i < PG_AGREE_RANKS)
            a->at_rank[i] += right;
    }
    a->found += (uint64_t)n_right;
    a->whole += n_right == chosen.n;
    double part = own > 0 ? covered / own : 1; /* probabilities may all round to 0 */
    a->mass += (uint64_t)llround(PG_MIN(part, 1.0) * MASS_UNIT);
    a->n_tokens++;
}

struct pg_agree_block pg_agreement_of(const struct pg_agreement *a, int block, int n_used)
{
    double tokens = (double)PG_MAX(a->n_tokens, 1u);
    struct pg_agree_block b = {
        .block = block,
        .n_tokens = a->n_tokens,
        .recall = (double)a->found / (tokens * n_used),
        .mass = (double)a->mass / MASS_UNIT / tokens,
        .set_right = (double)a->whole / tokens,
    };
    for (int r = 0; r < (int)PG_AGREE_RANKS; r++)
        b.precision[r] = (double)a->at_rank[r] / tokens;
    return b;
}
