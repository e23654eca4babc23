/* SPDX-License-Identifier: MIT
 * What an engine and a session are made of. Shared by the files of this folder.
 *
 *   names.c    names of modes
 *   plan.c     the memory budget, before anything is loaded
 *   engine.c   open, close, statistics
 *   session.c  timelines of tokens, steps over several of them
 *   lanes.c    many sequences of tokens, side by side (lanes.h)
 *   sample.c   from logits to a token
 *   sidecar.c  pre-gates: a sidecar found, tables filled
 *
 * Memory of an engine, all of it mapped at open and bounded by the plan:
 *
 *   dense    weights that are always in memory, as they lie in the file
 *   slots    n_slots * slot_bytes, experts
 *   tables   pre-gates (F32) of the modes that have them
 *   scratch  buffers of one step
 *   contexts pages of the KV cache, which sessions take and share
 * A session maps its tokens, its logits, and what of its cache is not in pages.
 */
#ifndef PG_ENGINE_ENGINE_H
#define PG_ENGINE_ENGINE_H

#include "base/os.h"
#include "model/forward.h"
#include "model/pregates.h"
#include "text/vocab.h"

enum { PG_LOGIT_ROWS = 8 };

struct pg_block_memory {
    void *base;
    size_t bytes;
};

struct pg_candidate {
    float logit, p;
    int32_t id;
};

struct pg_engine {
    struct pg_options opt; /* defaults filled in; strings are not kept */
    struct pg_plan plan;
    struct pg_gguf *gguf; /* until open is done */
    struct pg_model model;
    pg_vocab *vocab;
    struct pg_compute compute;
    struct pg_io *io;
    struct pg_store *store; /* NULL for a dense model */
    struct pg_trace *trace;
    struct pg_gate gate;
    struct pg_routes_out routes_out;
    struct pg_forward forward;
    struct pg_block_memory dense, slots, tables, scratch, contexts;
    struct pg_kv_pool pool;      /* in `contexts` */
    int *block_of;               /* [n_moe] among all blocks, for the trace */
    struct pg_pregate *routers;  /* [n_moe] */
    float *cache_bias;           /* [n_moe]; NULL: none */
    struct pg_pregate *pregates; /* [n_moe] */
    char sidecar_path[4096];     /* empty: none */
    bool sidecar_found;          /* beside the model; nobody has named it */
    struct pg_sidecar_head head; /* of the sidecar */
    int level;
    bool trained_to_decide;      /* of the sidecar: its purpose */
    enum pg_gate_kind weigher;   /* likewise */
    struct pg_pregate_form form; /* of the pre-gates */
    uint64_t file_bytes;
    uint64_t files_hash;      /* of the sizes of the model's files and of when they were written */
    _Atomic bool interrupted; /* the step under way ends at its next block */

    int32_t *token, *pos;       /* [n_batch] of the step under way */
    int32_t *n_seen, *n_source; /* likewise */
    struct pg_kv **kv;          /* [n_batch] */
    int32_t *last_row;          /* [n_batch] rows whose logits are wanted */
    float *logits; /* [PG_LOGIT_ROWS, n_vocab] when several sessions are stepped together */
    struct pg_candidate *cand;     /* [n_vocab] of the sampling under way */
    uint32_t *mask;                /* a bit for each: what a grammar allows */
    int n_sessions;                /* open now */
    uint64_t session_bytes_left;   /* of what the plan has for sessions beside the pool */
    struct pg_stats stats;         /* the engine's own part */
    struct pg_store_stats at_open; /* what loading counted; not part of the statistics */
};

struct pg_session {
    struct pg_engine *engine;
    struct pg_kv kv;
    struct pg_block_memory memory; /* of all that a session has */
    int n_ctx, n_tokens;
    int n_source;    /* tokens of the source; 0: none was encoded */
    int32_t *tokens; /* [n_ctx] */
    float *logits;   /* [n_vocab] of the last token */
    bool has_logits, seeded;
    uint64_t random;
};

/* plan.c. `e` has its options, gguf, model and vocab; fills e->plan, resolves e->opt. On PG_EBUDGET
 * the plan is filled too. */
int pg_engine_plan_memory(struct pg_engine *e, struct pg_err *err);
/* Whether the margin is less than what threads are charged that touch one huge page at once: then
 * one thread touches all memory when it is mapped. */
bool pg_engine_touches(const struct pg_engine *e);
/* The part that plan and open share: options, directory, model, vocabulary, sidecar. */
int pg_engine_begin(struct pg_engine *e, const struct pg_options *opt, struct pg_err *err);
/* How scratch is carved; with a measuring arena nothing is written outside *e. */
void pg_engine_carve(struct pg_engine *e, int n_batch, struct pg_arena *a);

/* sidecar.c */
int pg_sidecar_find(struct pg_engine *e, struct pg_err *err);
/* Mode auto: whether there is a sidecar that was made to hint. */
bool pg_sidecar_may_hint(const struct pg_engine *e);
/* Mode auto has become e->opt.mode: level and form of its pre-gates, and no sidecar that it does
 * not use, unless that was named. */
void pg_sidecar_settle(struct pg_engine *e);
/* The tables of the mode's pre-gates, block after block: made from routers, or read. */
size_t pg_tables_bytes(const struct pg_engine *e);
int pg_tables_fill(struct pg_engine *e, struct pg_err *err);

/* session.c */
/* What a session of n_ctx tokens takes beside pages, measured by the code that takes it. */
uint64_t pg_session_bytes(const struct pg_engine *e, int n_ctx);
/* Positions of all contexts together, and the pages that hold them, likewise. */
int pg_contexts_tokens(const struct pg_engine *e);
uint64_t pg_contexts_bytes(const struct pg_engine *e);
void pg_contexts_carve(const struct pg_engine *e, struct pg_kv_pool *pool, struct pg_arena *a);
/* Sessions of n_ctx tokens that there is room for. */
int pg_sessions_left(const struct pg_engine *e, int n_ctx);
/* Room in the pool for n of the session's n_ctx tokens, instead of what it had; false: there is
 * not. */
bool pg_session_reserve(pg_session *s, int n);
/* Logits [n, n_vocab] of rows of the step that has just been run. PG_ENUMERIC names the position of
 * the first whose logits are not finite. */
int pg_step_logits(struct pg_engine *e, const int32_t *at, int n, float *logits,
                   struct pg_err *err);
/* n_decode: rows of one token that a session has just sampled; all others are prompt. */
int pg_step_run(struct pg_engine *e, const struct pg_row *rows, int n_rows, int n_decode,
                float *all_logits, struct pg_err *err);

#endif
