/* SPDX-License-Identifier: MIT
 * Many sequences of tokens through one engine, as many side by side as it has sessions.
 *
 * A lane is a session with the sequence that it runs, from an empty context; when that has ended,
 * the lane takes the next one. A step runs the next token of each lane that writes and fills the
 * batch with given tokens of the others. What runs beside a sequence changes no bit of its logits,
 * and each has the random stream of a session of its own.
 *
 * Of a model with an encoder each sequence has a source: sources go through the encoder in steps of
 * their own, as many at a time as fit, before a token of their sequences is run.
 *
 * Sequences are numbered as they are taken and end in any order: results that are kept by number,
 * or by tag, lie in the order in which the sequences were given. Nothing allocates in a step.
 *
 * Who serves requests that come and go (serve/) has lanes without memory of their own: `take` gives
 * a sequence its tokens' place and its session room, `prompt` says which prompts a step takes.
 */
#ifndef PG_ENGINE_LANES_H
#define PG_ENGINE_LANES_H

#include "engine/engine.h"

enum pg_lane_logits { PG_LANE_NONE, PG_LANE_LAST, PG_LANE_ALL };

struct pg_sequence {
    /* Filled in by `take`; all but the two pointers are zero before. */
    int32_t *token;             /* [n_ctx] of the lane; what is sampled is put behind. Where there
                                 * is a source the first is there: what a timeline begins with. NULL
                                 * where lanes are open */
    int n;                      /* 1 to n_ctx; grows with what is sampled */
    int n_run;                  /* that the lane's session has already, fewer than n */
    int32_t *source;            /* [n_source of the engine] of the lane; NULL: no encoder */
    int n_source;               /* 1 to as many, of a model with an encoder */
    enum pg_lane_logits logits; /* which of the given tokens' are handed out */
    const struct pg_sampling *how; /* goes on with sampled tokens; NULL: ends with the last given */
    uint64_t tag;                  /* the caller's own */
    /* The lanes' part. */
    int lane, number, n_given;
    bool runs, encoded;
    pg_session *session;
};

/* A row of a step: the token at `at` of a sequence, or of its source. */
struct pg_lane_row {
    struct pg_sequence *seq;
    int at;
    bool is_source;
};

/* Callbacks return 0 or an error, which ends the run, unless they say otherwise. */
struct pg_lanes_options {
    struct pg_engine *engine; /* no session of it is open */
    int n_most;               /* lanes at most; 0 = as many as there is room for */
    /* n_most lanes, whose sessions have no room in the pool until `take` makes it, and no memory
     * for tokens: `take` gives it. */
    bool open;
    /* A lane is free: 1 with the next sequence filled in, 0 when there is none now. The lane's
     * session is empty and has no random stream yet. */
    int (*take)(void *user, struct pg_sequence *s, struct pg_err *err);
    /* Logits [n, n_vocab] of n rows, at most PG_LOGIT_ROWS and of any sequences; those of one come
     * in order. The engine still holds the step. */
    int (*logits)(void *user, const struct pg_lane_row *row, int n, const float *logits,
                  struct pg_err *err);
    /* The token that was sampled: 1 to go on with it, 0 to end here. */
    int (*token)(void *user, const struct pg_sequence *s, int32_t token, struct pg_err *err);
    /* The sequence has ended: by itself, by `token`, or because its context is full. May be NULL.
     */
    int (*end)(void *user, const struct pg_sequence *s, struct pg_err *err);
    /* The i-th prompt of a step, and how many of its tokens at most; NULL: no more. Without it
     * those of all lanes, as much as there is room for. */
    struct pg_sequence *(*prompt)(void *user, int i, int *n_most);
    /* A step is done, before anything is made of it. May be NULL. */
    void (*stepped)(void *user);
    /* A step has failed, and so has one with this sequence alone, which ends here without `end`.
     * The others go on. Without it the run ends. Not called when a step was interrupted: that is
     * PG_ECANCELLED, and all is as before the step. */
    void (*failed)(void *user, const struct pg_sequence *s, const struct pg_err *err);
    void *user;
    /* Called after each step; not 0 cancels. What is counted is `total` of `what`. May be NULL. */
    int (*progress)(void *user, const char *what, uint64_t done, uint64_t total);
    void *progress_user;
    const char *what;
    uint64_t total;
    bool count_sequences; /* else tokens that were run, those of sources as well */
};

struct pg_lanes {
    struct pg_lanes_options opt;
    struct pg_sequence *lane; /* [n_lanes] */
    int n_lanes, n_taken, n_parts, n_rows;
    int32_t *token;          /* [n_lanes, n_ctx] */
    int32_t *source;         /* [n_lanes, n_source]; NULL: no encoder */
    struct pg_row *part;     /* [n_lanes] */
    struct pg_sequence **of; /* [n_lanes] whose part it is */
    struct pg_lane_row
        *row;            /* [n_rows] of the step under way, as the listeners at the gates see it */
    float *logits, *own; /* [PG_LOGIT_ROWS, n_vocab] the engine's, or our own */
    uint64_t done;       /* for the progress; may be set between runs */
};

int pg_lanes_open(struct pg_lanes *l, const struct pg_lanes_options *opt, struct pg_err *err);
void pg_lanes_close(struct pg_lanes *l);
/* One step. *n_rows of it; 0: no lane runs, and there was nothing to take. */
int pg_lanes_step(struct pg_lanes *l, int *n_rows, struct pg_err *err);
/* The sequence of a lane that runs ends here, without a call of `end`; between steps, and in
 * `token` for others than its own. */
void pg_lanes_drop(struct pg_lanes *l, struct pg_sequence *s);
/* Steps until then; can be called again when there is more. After an error the lanes can only be
 * closed. */
int pg_lanes_run(struct pg_lanes *l, struct pg_err *err);

#endif
