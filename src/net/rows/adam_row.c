/* SPDX-License-Identifier: MIT */
#include "net/rows/adam_row.h"

#include <math.h>

void pg_adam_row(const struct pg_adam_row *how, const struct pg_adam_state *s, size_t n)
{
    const struct pg_adam_row f = *how;
    float *restrict w = s->w, *restrict m = s->m, *restrict v = s->v;
    const float *restrict g = s->g;
    for (size_t i = 0; i < n; i++) {
        float x = g[i] * f.scale;
        m[i] = f.beta1 * m[i] + f.rest1 * x;
        v[i] = f.beta2 * v[i] + f.rest2 * x * x;
        float step = f.rate * m[i] / f.first / (sqrtf(v[i] / f.second) * f.root + f.eps);
        w[i] = w[i] * f.keep - f.lr * (step + f.decay * w[i]);
    }
}
