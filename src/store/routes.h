/* SPDX-License-Identifier: MIT
 * A route trace in memory, for the replay and for the engine's forced routing; and one that an
 * engine writes.
 */
#ifndef PG_STORE_ROUTES_H
#define PG_STORE_ROUTES_H

#include "base/arena.h"
#include "base/os.h"

struct pg_routes {
    int n_tokens, n_blocks, n_used, n_expert;
    uint16_t *ids; /* [n_tokens][n_blocks][n_used] */
};

/* The n_used ids of a token in a block, distinct, in the file's order. */
const uint16_t *pg_routes_ids(const pg_routes *r, int token, int block);

/* What a step runs is added block by block, and becomes text when the step is done. Nothing
 * allocates between open and finish. */
struct pg_routes_out {
    int n_blocks, n_used; /* set before carving */
    uint16_t *ids;        /* [max_tok, n_blocks, n_used] of the step under way */
    char *text;           /* [cap_text] not yet in the file */
    size_t n_text, cap_text;
    uint64_t n_tokens;
    struct pg_outfile file;
    bool open;
};

void pg_routes_out_carve(struct pg_routes_out *o, int max_tok, struct pg_arena *a);
int pg_routes_out_open(struct pg_routes_out *o, const char *path, struct pg_err *err);
/* Without a file; fine for a zeroed one. */
void pg_routes_out_close(struct pg_routes_out *o);
/* id: [n_tok, n_used] of the step's rows. */
void pg_routes_out_add(struct pg_routes_out *o, int block, const int32_t *id, int n_tok);
int pg_routes_out_step(struct pg_routes_out *o, int n_tok, struct pg_err *err);
/* The file is there; or not, after an error. */
int pg_routes_out_finish(struct pg_routes_out *o, struct pg_err *err);

#endif
