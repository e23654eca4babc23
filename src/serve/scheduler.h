/* SPDX-License-Identifier: MIT
 * Requests that come and go, over lanes (engine/lanes.h).
 *
 *   scheduler.c   open, submit, cancel, run; who waits, who is next
 *   steps.c       what a step takes, and what becomes of it: the callbacks of the lanes
 *   disk.c        contexts in a folder (disk.h)
 *   looks.c       statistics and pictures for other threads
 *   logprob.c     log probabilities of a step's tokens
 *
 * A request is in one of two lists: those that wait, in the order in which they came, and those
 * that run. Lists and counters are guarded by `lock`; the engine, the lanes and all else of a
 * running request are touched by the thread in pg_scheduler_run alone, which holds no lock in a
 * step or a callback.
 *
 * A request has room reserved for what it has so far and a little more, since most end long before
 * they may. When there is none to grow, the youngest gives up its own and waits again: its text so
 * far is its prompt then, of which it finds what was not needed meanwhile.
 */
#ifndef PG_SERVE_SCHEDULER_H
#define PG_SERVE_SCHEDULER_H

#include "engine/lanes.h"
#include "serve/disk.h"
#include "serve/pace.h"

#include <pthread.h>
#include <stdatomic.h>

enum {
    PG_ROOM_STEP = 64, /* tokens that a request's room grows by */
    PG_OWNER_BYTES = 64,
    PG_TO_SAVE = 16 /* texts that wait for a file */
};

/* Tokens of a text that has ended, to be saved when there is time. */
struct pg_ended {
    int32_t *tokens;
    int n;
};

struct pg_task {
    uint64_t id, came_ns, began_ns, first_ns;
    struct pg_request r; /* its pointers are the task's own, but callbacks and user */
    struct pg_sampling how;
    char owner[PG_OWNER_BYTES];
    int32_t *tokens; /* [n_ctx at most] prompt and answer */
    int n, n_ctx;    /* so far; at most */
    _Atomic int n_done, n_reused, n_predicted;
    _Atomic bool cancelled;
    bool seeded; /* its random stream, while it waits */
    uint64_t random;
    uint64_t bytes_read;
    enum pg_request_stop stop;
    struct pg_err err;
    bool waits_again;        /* it has run before: what it finds of itself is not reuse */
    uint64_t turn;           /* the last whose prompts it was among */
    uint64_t order;          /* in which they began to run: the youngest has the largest */
    struct pg_sequence *seq; /* while it runs */
    struct pg_task *next;
};

struct pg_task_list {
    struct pg_task *first;
    int n;
};

struct pg_scheduler {
    struct pg_scheduler_options opt;
    struct pg_engine *engine;
    struct pg_lanes lanes;
    struct pg_pace pace;
    uint64_t attend_ns; /* of the engine, before the step */
    int n_prompt_left;  /* of this step: tokens of prompts that it may still take */
    int n_prompt_taken;
    uint64_t n_turns;
    uint64_t n_written;           /* tokens since the beginning */
    struct pg_store_stats before; /* the step */
    struct pg_disk disk;
    struct pg_ended ended[PG_TO_SAVE]; /* the oldest first */
    int n_ended;
    int32_t *top_id; /* [PG_TOP_LOGPROBS] */
    float *top_logprob;

    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct pg_task_list waiting, running;
    _Atomic bool stopped;
    _Atomic bool greedy_now; /* the step takes all it can, since nobody waits */
    bool was_interrupted;    /* the last step: the next one must get somewhere */
    uint64_t next_id, next_order;
    struct pg_scheduler_state state; /* counters are exact, the rest as of looked_ns */
    uint64_t looked_ns, picture_ns, picture_wanted_ns;
    uint8_t *picture; /* [n_moe * n_expert] */
    size_t n_picture;
};

/* steps.c: for pg_lanes_options. */
int pg_scheduler_take(void *user, struct pg_sequence *s, struct pg_err *err);
struct pg_sequence *pg_scheduler_prompt(void *user, int i, int *n_most);
int pg_scheduler_token(void *user, const struct pg_sequence *s, int32_t token, struct pg_err *err);
int pg_scheduler_end(void *user, const struct pg_sequence *s, struct pg_err *err);
void pg_scheduler_stepped(void *user);
void pg_scheduler_failed(void *user, const struct pg_sequence *s, const struct pg_err *err);
/* What has ended as files, while nothing comes that waits; no lane runs. */
void pg_scheduler_save(pg_scheduler *s);
/* One step with what is to be done before and after it; *n_rows 0: nothing runs. */
int pg_scheduler_step(pg_scheduler *s, int *n_rows, struct pg_err *err);

/* scheduler.c */
/* The next to run of those that wait, taken out of their list; NULL. The lock is held. */
struct pg_task *pg_scheduler_next(pg_scheduler *s);
void pg_task_unlink(struct pg_task_list *list, struct pg_task *t);
void pg_task_link_last(struct pg_task_list *list, struct pg_task *t);
void pg_task_link_first(struct pg_task_list *list, struct pg_task *t);
/* Calls `end` and frees it; it is in no list. */
void pg_task_end(pg_scheduler *s, struct pg_task *t);

/* looks.c: after a step, `idle` when there is nothing more to do. */
void pg_scheduler_show(pg_scheduler *s, bool idle);

/* logprob.c: of logits [n_vocab] those of out->id and of the out->n_top most probable. */
void pg_logprobs(const float *logits, int n_vocab, struct pg_token *out, int32_t *top_id,
                 float *top_logprob);

#endif
