/* SPDX-License-Identifier: MIT
 * A route trace in memory, for the replay and for the engine's forced routing.
 */
#ifndef PG_STORE_ROUTES_H
#define PG_STORE_ROUTES_H

#include "base/err.h"

struct pg_routes {
    int n_tokens, n_blocks, n_used, n_expert;
    uint16_t *ids; /* [n_tokens][n_blocks][n_used] */
};

/* The n_used ids of a token in a block, distinct, in the file's order. */
const uint16_t *pg_routes_ids(const pg_routes *r, int token, int block);

#endif
