/* SPDX-License-Identifier: MIT
 * What pre-gates say of a block, compared with what its router says then: a listener at the gates.
 */
#ifndef PG_EVAL_AGREE_H
#define PG_EVAL_AGREE_H

#include "engine/engine.h"
#include "gate/agreement.h"

struct pg_agree {
    const struct pg_engine *engine;
    struct pg_gate_rule rule, named; /* the router's; the pre-gate's, which may name more */
    int level, max_tok;
    int32_t *said;          /* [level + 1][max_tok, n_named] pre-gate's experts of a later block */
    float *logits, *weight; /* [n_expert], [n_named] of one row */
    int32_t *id;            /* [n_used] */
    struct pg_agreement *sums; /* [n_moe] by the block whose router decides */
};

/* Listens to the open engine's gates until it is closed. The mode must be lookahead or hint. */
int pg_agree_open(struct pg_agree *a, struct pg_engine *e, struct pg_err *err);
void pg_agree_close(struct pg_agree *a, struct pg_engine *e);
/* The blocks that have a pre-gate before them, in order; for free(). *n how many. */
int pg_agree_blocks(const struct pg_agree *a, struct pg_agree_block **out, int *n,
                    struct pg_err *err);

#endif
