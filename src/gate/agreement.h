/* SPDX-License-Identifier: MIT
 * How well pre-gates name the experts that a router chooses, over tokens. All sums are of whole
 * numbers, so that the order in which tokens come changes nothing.
 */
#ifndef PG_GATE_AGREEMENT_H
#define PG_GATE_AGREEMENT_H

#include "gate/gate.h"

enum { PG_AGREE_RANKS = PG_COUNT(((struct pg_agree_block *)0)->precision) };

struct pg_agreement {
    uint64_t n_tokens, found, whole, at_rank[PG_AGREE_RANKS];
    uint64_t mass; /* parts of the router's probability, in units of 2^-32 */
};

/* The experts that logits [n_expert] name, to id [n_used], and probabilities in their place.
 * Logits that are not finite name nobody, for whom the first experts stand. weight [n_used] is
 * scratch. The n_used are the rule's: a pre-gate may name more than a router chooses. */
void pg_agreement_name(const struct pg_gate_rule *rule, const struct pg_kernels *k, float *logits,
                       int32_t *id, float *weight);
/* One token: of n experts. */
struct pg_named {
    const int32_t *id; /* best first */
    int n;
};
/* The router's probabilities, the experts it chose, and those that were named. */
void pg_agreement_add(struct pg_agreement *a, const float *p, struct pg_named chosen,
                      struct pg_named named);
/* The same in parts, of MoE block `block`, whose router chooses n_used. */
struct pg_agree_block pg_agreement_of(const struct pg_agreement *a, int block, int n_used);

#endif
