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

void pg_agreement_add(struct pg_agreement *a, const struct pg_gate_rule *rule, const float *p,
                      const int32_t *chosen, const int32_t *named)
{
    double covered = 0, own = 0;
    for (int i = 0; i < rule->n_used; i++) {
        bool right = false;
        for (int j = 0; j < rule->n_used; j++)
            right |= chosen[j] == named[i];
        own += (double)p[chosen[i]];
        covered += (double)p[named[i]];
        a->found += right;
        if (i < PG_AGREE_RANKS)
            a->at_rank[i] += right;
    }
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
    };
    for (int r = 0; r < PG_MIN(n_used, (int)PG_AGREE_RANKS); r++)
        b.precision[r] = (double)a->at_rank[r] / tokens;
    return b;
}
