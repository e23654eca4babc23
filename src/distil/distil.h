/* SPDX-License-Identifier: MIT
 * Distilling pre-gates out of runs of a model that stays as it is. Shared by the files of pg_tune:
 *
 *   distil.c          the order of things, what is said of them, the report
 *   distil_text.c     documents to pieces, or pairs, that fit the context; which are held out
 *   distil_memory.c   how the budget is divided between engine, states and optimiser
 *   distil_collect.c  pieces through the engine, states of the gates out of it
 *   distil_fit.c      passes over states, AdamW, early stop, agreement
 *   distil_gate.c     one pre-gate: the loss and its gradient
 *   distil_file.c     the checkpoint and the sidecar
 *   lm.h              going on from there by the loss of the language model
 *
 * A round fills a buffer with the states of as many tokens as it holds and then passes over them
 * some times; there are as many rounds as the text needs. The held-out text has a buffer of its
 * own, filled once. Of a model with an encoder the text is pairs; a stack's gates learn from the
 * tokens that go through it, and each stack has buffers of its own. Nothing depends on the number
 * of threads, the batch of the engine or where a run was interrupted; the size of the buffers,
 * which follows from the memory, does decide where a round ends.
 */
#ifndef PG_DISTIL_DISTIL_H
#define PG_DISTIL_DISTIL_H

#include "data/pairs.h"
#include "data/pieces.h"
#include "distil/distil_fit.h"
#include "engine/lanes.h"

/* ------------------------------------------------------------------ text -------------------- */

/* What goes through one stack. */
struct pg_distil_tokens {
    bool learns; /* it has gates */
    uint64_t n_train, n_held;
    int longest; /* of a piece */
};

struct pg_distil_text {
    struct pg_docs docs;
    int32_t bos;
    struct pg_pieces pieces; /* those held out, then those that are learnt from */
    struct pg_pairs pairs;   /* instead of documents and pieces, where there are two stacks */
    int n, n_held;           /* pieces or pairs */
    struct pg_distil_tokens stack[PG_STACKS];
    int n_stacks, most; /* the stack that learns and has the most tokens, and its tokens: */
    uint64_t n_train_tokens, n_held_tokens;
};

struct pg_distil_split {
    uint64_t n_tokens; /* at most */
    int n_ctx;
    float holdout;
    uint64_t seed;
};

/* Shuffles the documents, holds some out and cuts all of them. text->docs and bos are there. */
int pg_distil_cut(struct pg_distil_text *text, const struct pg_distil_split *how,
                  struct pg_err *err);
/* The same for text->pairs, of two stacks; text->stack[].learns is set. */
int pg_distil_pair(struct pg_distil_text *text, const struct pg_distil_split *how,
                   struct pg_err *err);
/* The piece after the last of a round that begins at `first` and holds n_tokens. */
int pg_distil_round_end(const struct pg_distil_text *text, int first, size_t n_tokens);
/* Tokens of a stack's buffer, where that of the stack `most` holds n_tokens. */
size_t pg_distil_cap(const struct pg_distil_text *text, int stack, size_t n_tokens);
/* Tokens of pieces [first, end) in all stacks. */
uint64_t pg_distil_count(const struct pg_distil_text *text, int first, int end);
void pg_distil_text_close(struct pg_distil_text *text);

/* ------------------------------------------------------------------ memory ------------------ */

/* How the budget is divided. */
struct pg_distil_memory {
    uint64_t budget, engine_bytes, fit_bytes, state_bytes;
    enum pg_mode mode; /* of the engine, as the next three */
    int n_sessions, n_batch, n_slots;
    size_t n_train, n_held; /* tokens that the buffers hold */
};

/* Of both buffers, what does not grow with them. */
uint64_t pg_distil_spare_bytes(const struct pg_distil_text *text, const struct pg_states *shape);
/* e has been begun (pg_engine_begin) for the model with the context of the longest piece; its
 * options are overwritten. shape: [n_stacks]. fit_bytes is set; so are n_train and n_held where a
 * checkpoint has fixed them, else they are 0. PG_EBUDGET names the least budget. */
int pg_distil_divide(struct pg_distil_memory *m, struct pg_engine *e,
                     const struct pg_distil_text *text, const struct pg_states *shape,
                     struct pg_err *err);

/* ------------------------------------------------------------------ files ------------------- */

/* What a run is, and how far it has come; names and numbers of the checkpoint's head. */
struct pg_distil_head {
    char model[17], text[17]; /* hashes */
    /* What was asked for. */
    uint64_t seed, decides, level, n_embd, n_expert, n_used, n_moe, n_hidden, n_ctx;
    uint64_t n_pieces, n_held_pieces;
    /* What followed from the memory: tokens that the buffers hold, and so on. */
    uint64_t n_train, n_held, n_rounds, n_passes;
    /* What is to be done next. */
    uint64_t round, pass, minibatch;
};

/* What the sidecar will say. */
struct pg_sidecar_head pg_distil_head_of(const struct pg_tune_options *opt);
/* Whether a model, of that path, has pre-gates of this level. */
int pg_distil_check_model(const struct pg_model *m, const char *path, int level,
                          struct pg_err *err);

int pg_distil_save(const char *path, const struct pg_distil_head *head, const struct pg_fit *f,
                   struct pg_err *err);
/* Before anything is loaded: whether there is a file, that it is of this text and these options,
 * and its n_train and n_held into *want. */
int pg_distil_peek(const char *path, struct pg_distil_head *want, const struct pg_distil_text *text,
                   bool *found, struct pg_err *err);
/* Reads the file into f, which has the shapes of `want`; but for its place it must be as `want`
 * says.
 */
int pg_distil_load(const char *path, const struct pg_distil_head *want, struct pg_fit *f,
                   struct pg_err *err);

/* ------------------------------------------------------------------ collecting -------------- */

/* Listens to an engine's gates while pieces run through it. */
struct pg_collector {
    const struct pg_distil_text *text;
    struct pg_lanes lanes;
    int next, end;       /* pieces that no lane has taken */
    struct pg_states *s; /* [n_stacks] that are filled */
    size_t *first;       /* [n_lanes, PG_STACKS] where the states of a lane's piece begin */
};

/* `total` tokens will be run in all, for the progress. After an error it is closed. */
int pg_collector_open(struct pg_collector *c, struct pg_engine *e,
                      const struct pg_distil_text *text, uint64_t total, struct pg_err *err);
void pg_collector_close(struct pg_collector *c);
/* Runs pieces [first, end), which fit into s. */
int pg_collect(struct pg_collector *c, struct pg_states *s, int first, int end, struct pg_err *err);

#endif
