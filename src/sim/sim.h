/* SPDX-License-Identifier: MIT
 * What is simulated: the sizes of a model, and a machine. pg_simulate itself is in pregate.h.
 */
#ifndef PG_SIM_SIM_H
#define PG_SIM_SIM_H

#include "quant/quant.h"
#include "store/policy.h"
#include "store/routes.h"

/* The parts of a step that take time. */
enum pg_sim_part {
    PG_SIM_ATTENTION, /* with its norms and projections */
    PG_SIM_CROSS,     /* the same over the source */
    PG_SIM_FFN,       /* dense, or the shared expert */
    PG_SIM_ROUTER,    /* or a pre-gate */
    PG_SIM_EXPERTS,   /* those of a block that are there first */
    PG_SIM_MORE,      /* each time that more of them have come */
    PG_SIM_HEAD,      /* the step's logits */
    PG_SIM_SOURCE,    /* keys and values of the source, for one layer of the decoder */
    PG_SIM_PARTS
};

struct pg_sim_machine {
    char name[64];
    int type; /* enum pg_type; -1: not said */
    uint64_t memory_bytes;
    double bytes_per_s, flop_per_s; /* of fast memory, and of computing; 0: no limit */
    double overhead_s[PG_SIM_PARTS];
    double poll_s; /* between two looks at the copies */
    struct pg_sim_copy {
        double bytes_per_s, latency_s;
        int in_flight;  /* copies under way; 0: the store's own choice, by bytes */
        bool in_order;  /* else they share the bandwidth */
        bool is_staged; /* copied once more within fast memory */
    } copy;
    /* What other software does, and this engine does not. */
    bool lockstep; /* one gate a block; then all of its experts are waited for, and only then the
                    * next block's named and its own computed */
    bool prefetch_waits;   /* prefetch-all waits for all experts of a block, wanted or not */
    bool encoder_ondemand; /* whatever the mode, the encoder is given no hints */
};
int pg_sim_machine_load(struct pg_sim_machine *m, const char *path, struct pg_err *err);

/* Weights that a step reads once, and the work of a row on them. */
struct pg_sim_piece {
    uint64_t bytes;
    double flop;
};

struct pg_sim_layer {
    struct pg_sim_piece attention, cross, source, ffn, router, expert;
    int moe; /* index among MoE blocks, -1: dense */
};

struct pg_sim_shape {
    char name[64];
    const char *type; /* of most weights */
    int n_stack, n_layer, n_moe, n_expert, n_used;
    struct pg_span layers[2], moe[2]; /* of each stack; the last writes */
    struct pg_sim_layer *layer;       /* [n_layer] */
    struct pg_sim_piece head;
    struct pg_sim_piece context; /* a position that a row looks at: its keys and values */
    uint64_t dense_bytes;
};
/* A GGUF file, which has types of its own; or a named shape with matrices of `type`, or of
 * `otherwise` where that is -1. */
int pg_sim_shape_open(struct pg_sim_shape *s, const char *name, int type, int otherwise,
                      struct pg_err *err);
void pg_sim_shape_close(struct pg_sim_shape *s);

/* Which experts the rows of a step use. */
struct pg_sim_draw {
    const struct pg_sim_shape *shape;
    const pg_routes *trace; /* NULL: drawn */
    uint64_t seed;
    double active;      /* distinct experts of a block on average; 0: as drawn */
    int n_row, n_used;  /* of a step; n_used: that a row is made to have */
    struct pg_span moe; /* the stack's blocks */
    pg_routes to;       /* [n_row, all blocks, n_used], of the step that was drawn last */
    int32_t *set;       /* [n_expert] */
};
int pg_sim_draw_open(struct pg_sim_draw *d, struct pg_err *err); /* the first fields are set */
void pg_sim_draw_close(struct pg_sim_draw *d);
void pg_sim_draw_step(struct pg_sim_draw *d, uint64_t step);
/* The most distinct experts that one block has in steps [0, n). */
int pg_sim_draw_widest(struct pg_sim_draw *d, uint64_t n);

#endif
