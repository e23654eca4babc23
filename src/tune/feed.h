/* SPDX-License-Identifier: MIT
 * Documents through an engine, as many side by side as it has sessions and a batch has room for.
 *
 * A document begins in an empty context. One that is longer than the context counts with its first
 * n_ctx tokens only, or, with `windows`, is cut into pieces that begin in an empty context each; a
 * piece begins with the beginning-of-text token if its document does. A piece's last token is a
 * target and is not run.
 */
#ifndef PG_TUNE_FEED_H
#define PG_TUNE_FEED_H

#include "engine/engine.h"
#include "tune/text.h"

/* A row of a step: the token of a piece that was run, and the one that should be predicted. */
struct pg_feed_row {
    int piece; /* in the order of the text; rows of one piece come in their order */
    int32_t target;
};

struct pg_piece {
    size_t from; /* first token of the text in it */
    int n;       /* tokens, the target of the last row included; at least 2 */
    bool opened; /* a beginning-of-text token is put before the text */
};

struct pg_feed_options {
    struct pg_engine *engine; /* no session of it is open */
    const struct pg_docs *docs;
    bool windows;
    int n_max; /* documents at most; 0 = all */
    /* Called after each step, while the engine still holds its rows' states. */
    int (*step)(void *user, const struct pg_feed_row *rows, int n, struct pg_err *err);
    void *user;
    int (*progress)(void *user, const char *what, uint64_t done, uint64_t total);
    void *progress_user;
};

struct pg_feed {
    struct pg_feed_options opt;
    struct pg_piece *piece;
    int n_pieces, n_docs, n_lanes;
    uint64_t n_cut;    /* documents longer than the context */
    uint64_t n_tokens; /* targets of all pieces */
    struct pg_lane *lane;
    struct pg_feed_row *row; /* [n_batch] */
    struct pg_row *part;     /* [n_lanes] */
    int next;                /* piece that no lane has taken */
    uint64_t done;
};

/* Cuts the documents; opens a session for each lane. */
int pg_feed_open(struct pg_feed *f, const struct pg_feed_options *opt, struct pg_err *err);
int pg_feed_run(struct pg_feed *f, struct pg_err *err);
void pg_feed_close(struct pg_feed *f);

#endif
