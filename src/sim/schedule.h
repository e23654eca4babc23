/* SPDX-License-Identifier: MIT
 * The steps of a request in virtual time: the order of model/block.c, with the real gates and the
 * real store, and time instead of arithmetic.
 */
#ifndef PG_SIM_SCHEDULE_H
#define PG_SIM_SCHEDULE_H

#include "gate/gate.h"
#include "sim/sim.h"

/* What the steps of one kind took. Virtual nanoseconds. */
struct pg_sim_sums {
    uint64_t n_steps, n_blocks, n_windows, n_active; /* blocks: layers with experts */
    uint64_t ns, compute_ns, block_ns, block_compute_ns, first_ns, window_ns;
    struct pg_store_stats store; /* what was added */
};

/* Rows of a step, of one stack. */
struct pg_sim_step {
    int stack, n_row, n_seq;
    int n_seen, n_source; /* positions that a row looks at, here and of the source */
};

/* One stack's gates. */
struct pg_sim_gates {
    struct pg_gate gate;
    struct pg_sim_draw draw;
    void *memory;
    size_t n_width;
    float *h; /* [n_row, n_width] rows that say what is hinted */
    struct pg_input in;
    int32_t *pos, *count, *wanted; /* [n_row], [n_expert] of the wave */
    struct pg_lease *lease;        /* [n_expert] */
};

struct pg_sim {
    const struct pg_sim_options *opt;
    struct pg_sim_machine machine;
    struct pg_sim_shape shape;
    struct pg_compute compute;
    struct pg_io *io;
    struct pg_store *store;
    int n_slots, level;
    struct pg_sim_gates of[2];
    struct pg_pregate *maps; /* [n_moe] all of them the same map */
    float *identity;         /* its matrix */
    uint64_t random;         /* of what hints get wrong */
    uint64_t compute_ns;     /* computing so far */
    struct pg_sim_named {
        bool is;
        uint64_t ns;          /* of computing */
    } named, next;            /* when the experts of this block, and of the next, were named */
    struct pg_sim_sums *sums; /* of the steps under way */
    struct pg_err *err;
};

/* The gates of a stack in a mode, for n_row rows; draw has what is to be set before it is opened.
 */
int pg_sim_gates_open(struct pg_sim *s, int stack, enum pg_mode mode, struct pg_err *err);
void pg_sim_gates_close(struct pg_sim_gates *g);
/* A step; its sums go to `to`. nth: its number, for the draw. */
int pg_sim_step_run(struct pg_sim *s, const struct pg_sim_step *step, uint64_t nth,
                    struct pg_sim_sums *to);
/* Keys and values of the source for all layers of the decoder: the end of encoding. */
void pg_sim_source_run(struct pg_sim *s, int n_row, struct pg_sim_sums *to);
/* All experts in their slots. */
int pg_sim_load_all(struct pg_sim *s, struct pg_err *err);

#endif
