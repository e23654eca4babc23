/* SPDX-License-Identifier: MIT
 * A route trace in memory, for the replay and for the engine's forced routing; and one that an
 * engine writes.
 */
#ifndef PG_STORE_ROUTES_H
#define PG_STORE_ROUTES_H

#include "base/arena.h"
#include "base/os.h"
#include "store/policy.h"

enum { PG_ROUTES_STACKS = 2 };

/* Blocks that some of the tokens go through, and those tokens. */
struct pg_routes_stack {
    struct pg_span span;
    int first, n; /* tokens line_of[first, first + n) */
};

struct pg_routes {
    int n_tokens, n_blocks, n_used, n_expert;
    uint16_t *ids; /* [n_tokens][n_blocks][n_used]; not set where a token does not go through */
    /* Of an encoder and a decoder, which share no block. NULL: all tokens go through all blocks. */
    uint8_t *stack_of; /* [n_tokens] */
    int32_t *line_of;  /* [n_tokens] stack after stack */
    struct pg_routes_stack stack[PG_ROUTES_STACKS];
    int n_stacks;
};

/* The n_used ids of a token in a block of its span, distinct, in the file's order. */
const uint16_t *pg_routes_ids(const pg_routes *r, int token, int block);
/* The blocks that a token goes through. */
struct pg_span pg_routes_span(const pg_routes *r, int token);
/* What is forced on position `pos` in a block: the ids of that one of the tokens that go through
 * it, counted round and round. */
const uint16_t *pg_routes_forced(const pg_routes *r, int pos, int block);
/* How many those are. */
int pg_routes_n_forced(const pg_routes *r, int block);
/* The first block that no token goes through; -1: there is none. */
int pg_routes_gap(const pg_routes *r);

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
/* The step went through these blocks; one that went through none has no routes. */
int pg_routes_out_step(struct pg_routes_out *o, struct pg_span span, int n_tok, struct pg_err *err);
/* The file is there; or not, after an error. */
int pg_routes_out_finish(struct pg_routes_out *o, struct pg_err *err);

#endif
