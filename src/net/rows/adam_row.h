/* SPDX-License-Identifier: MIT
 * One step of AdamW (Loshchilov and Hutter, 2019) over a row of values:
 *
 *   m = b1 m + (1 - b1) g        v = b2 v + (1 - b2) g^2
 *   w = w - lr * (m^ / (sqrt(v^) + eps) + decay * w),   m^ = m / (1 - b1^t), v^ = v / (1 - b2^t)
 */
#ifndef PG_NET_ROWS_ADAM_ROW_H
#define PG_NET_ROWS_ADAM_ROW_H

#include <stddef.h>

/* The corrections 1 - b^t and the decay are applied to each value (first, second, lr, decay) or,
 * with first 0, folded into what is the same for all (rate, root, keep). The last bits differ, so
 * each of the two trainers keeps to its way. */
struct pg_adam_row {
    float beta1, beta2, rest1, rest2; /* rest: 1 - beta */
    float eps;
    float scale;                    /* of the gradient: clipping */
    float rate;                     /* lr / (1 - b1^t) */
    float root;                     /* 1 / sqrt(1 - b2^t) */
    float keep;                     /* 1 - lr * decay */
    float first, second, lr, decay; /* 1 - b^t, of m and of v */
};

/* Weights, gradient and the two moments, n of each; no two overlap. */
struct pg_adam_state {
    float *w, *g, *m, *v;
};

void pg_adam_row(const struct pg_adam_row *how, const struct pg_adam_state *s, size_t n);

#endif
