/* SPDX-License-Identifier: MIT
 * AdamW (adam_row.h) over the flat vectors of a net, of which only matrices decay.
 *
 * The vectors are cut into chunks that depend on the tensors alone, and each sum has one fixed
 * order, so the number of threads changes no bit. Frozen tensors are not touched, and their
 * gradient is not counted in the norm.
 */
#ifndef PG_NET_ADAM_H
#define PG_NET_ADAM_H

#include "net/net.h"
#include "net/rows/adam_row.h"

enum { PG_ADAM_CHUNK = 8192 }; /* values: four vectors of them stay in the second-level cache */

struct pg_adam_chunk {
    size_t at, n;
    bool decays, frozen;
    bool finite; /* after the last step */
    double sum;  /* of the squares of its gradient */
};

struct pg_adam {
    struct pg_adam_chunk *chunk;
    int n;
    struct pg_pool *pool;
};

struct pg_adam_rates {
    int step; /* counted from 1 */
    float lr, beta1, beta2, eps, decay;
    float scale; /* of the gradient: clipping */
};

/* What the learning rate is at which step: a linear rise, then the schedule, which reaches lr * end
 * with the step behind the last. */
struct pg_rate_plan {
    enum pg_lr_schedule schedule;
    float lr, end;
    int n_warmup, n_steps;
};
/* Of step `step`, counted from 0. */
float pg_rate_at(const struct pg_rate_plan *p, int step);

/* frozen[i]: tensor i stays as it is; NULL: none does. */
int pg_adam_open(struct pg_adam *a, const struct pg_params *params, const bool *frozen,
                 struct pg_pool *pool, struct pg_err *err);
void pg_adam_close(struct pg_adam *a);
/* Norm of the gradient; not finite when the gradient is not. */
double pg_adam_norm(struct pg_adam *a, const float *g);
/* One step; g is 0 afterwards. False when a weight is no longer finite. */
bool pg_adam_step(struct pg_adam *a, const struct pg_adam_rates *rates, struct pg_adam_state *s);

#endif
