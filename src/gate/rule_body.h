/* SPDX-License-Identifier: MIT
 * How probabilities become experts and weights, in the number type that the file which includes
 * this has defined as REAL: float where models run, and what training is built in.
 */
#include "gate/gate.h"

/* A sum of probabilities below this is taken for this: 1 / sum, times any scale, stays finite. */
#define LEAST_SUM ((REAL)0x1p-100)

/* The n_used largest of x, by falling value, ties by lower id: one pass with insertion. */
static void rule_rank(const struct pg_gate_rule *rule, const REAL *x, int32_t *id)
{
    int have = 0;
    for (int i = 0; i < rule->n_expert; i++) {
        int at = have;
        if (have == rule->n_used) {
            if (x[i] <= x[id[have - 1]])
                continue;
            at = have - 1;
        } else {
            have++;
        }
        for (; at > 0 && x[i] > x[id[at - 1]]; at--)
            id[at] = id[at - 1];
        id[at] = i;
    }
}

/* What experts are ranked by beside a cache, of which `here` says what it holds: from logits, or
 * with PG_CACHE_MARGIN from probabilities. */
static void rule_prefer(const struct pg_gate_rule *rule, struct pg_gate_bias by,
                        const uint8_t *here, REAL *x)
{
    REAL least = x[0];
    int first = 0;
    for (int i = 1; i < rule->n_expert; i++) {
        least = PG_MIN(least, x[i]);
        first = x[i] > x[first] ? i : first;
    }
    bool margin = by.form == PG_CACHE_MARGIN;
    REAL bonus = margin ? (REAL)by.bias : (REAL)by.bias * (x[first] - least);
    for (int i = 0; i < rule->n_expert; i++)
        x[i] += here[i] ? bonus : 0;
    if (margin)
        x[first] = 3; /* above any probability and margin */
}

static REAL rule_sum(const struct pg_gate_rule *rule, const REAL *p, const int32_t *id)
{
    REAL sum = 0;
    for (int i = 0; i < rule->n_used; i++)
        sum += p[id[i]];
    return sum;
}

/* What the probability of each of the chosen is multiplied with. */
static REAL rule_scale(const struct pg_gate_rule *rule, const REAL *p, const int32_t *id)
{
    REAL scale = (REAL)rule->scale;
    return rule->renormalise ? scale / PG_MAX(rule_sum(rule, p, id), LEAST_SUM) : scale;
}

static void rule_weights(const struct pg_gate_rule *rule, const REAL *p, const int32_t *id,
                         REAL *weight)
{
    REAL scale = rule_scale(rule, p, id);
    for (int i = 0; i < rule->n_used; i++)
        weight[i] = p[id[i]] * scale;
}

/* The sum of the n_used largest of p, which `largest` [n_used] gets by falling value. */
static REAL rule_sum_largest(const struct pg_gate_rule *rule, const REAL *p, REAL *largest)
{
    int have = 0;
    REAL sum = 0;
    for (int e = 0; e < rule->n_expert; e++) {
        if (have == rule->n_used && p[e] <= largest[have - 1])
            continue;
        have += have < rule->n_used;
        int at = have - 1;
        for (; at > 0 && p[e] > largest[at - 1]; at--)
            largest[at] = largest[at - 1];
        largest[at] = p[e];
    }
    for (int i = 0; i < rule->n_used; i++)
        sum += largest[i];
    return sum;
}

/* Weights of experts that another has chosen: each what it would be among those of the largest p.
 */
static void rule_weights_late(const struct pg_gate_rule *rule, const REAL *p, const int32_t *id,
                              REAL *weight)
{
    REAL scale = (REAL)rule->scale;
    if (rule->renormalise)
        scale /= PG_MAX(rule_sum_largest(rule, p, weight), LEAST_SUM);
    for (int i = 0; i < rule->n_used; i++)
        weight[i] = p[id[i]] * scale;
}
