/* SPDX-License-Identifier: MIT */
#include "net/rows/adam_row.h"

#include <math.h>
#include <stdbool.h>

/* `each`: the corrections are applied to each value. A constant, so that each way is a loop of its
 * own: dividing all by 1 would change nothing but the time, which it makes longer by a third. */
static inline void step(const struct pg_adam_row *how, const struct pg_adam_state *s, size_t n,
                        bool each)
{
    const struct pg_adam_row f = *how;
    float *restrict w = s->w, *restrict m = s->m, *restrict v = s->v;
    const float *restrict g = s->g;
    for (size_t i = 0; i < n; i++) {
        float x = g[i] * f.scale;
        m[i] = f.beta1 * m[i] + f.rest1 * x;
        v[i] = f.beta2 * v[i] + f.rest2 * x * x;
        if (each)
            w[i] -= f.lr * (m[i] / f.first / (sqrtf(v[i] / f.second) + f.eps) + f.decay * w[i]);
        else
            w[i] = w[i] * f.keep - f.rate * m[i] / (sqrtf(v[i]) * f.root + f.eps);
    }
}

void pg_adam_row(const struct pg_adam_row *how, const struct pg_adam_state *s, size_t n)
{
    if (how->first > 0)
        step(how, s, n, true);
    else
        step(how, s, n, false);
}
