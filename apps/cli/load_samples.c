/* SPDX-License-Identifier: MIT
 * Samples, all of them kept, and what is said of them. A percentile is a sample that was seen: the
 * smallest that at least so many per cent of all do not exceed (nearest rank).
 */
#include "load.h"

#include <math.h>
#include <stdlib.h>

int load_samples_add(struct load_samples *s, double v)
{
    if (s->n == s->cap) {
        const size_t want = s->cap ? 2 * s->cap : 1024;
        double *larger = realloc(s->v, want * sizeof(*larger));
        if (!larger)
            return PG_ENOMEM;
        s->v = larger;
        s->cap = want;
    }
    s->v[s->n++] = v;
    return 0;
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double percentile(const struct load_samples *s, size_t p)
{
    return s->v[(s->n * p + 99) / 100 - 1];
}

struct load_summary load_summarise(struct load_samples *s)
{
    struct load_summary y = {.n = s->n};
    double sum = 0, squares = 0;
    if (s->n == 0)
        return y;
    qsort(s->v, s->n, sizeof(*s->v), by_value);
    for (size_t i = 0; i < s->n; i++)
        sum += s->v[i];
    y.mean = sum / (double)s->n;
    for (size_t i = 0; i < s->n; i++)
        squares += (s->v[i] - y.mean) * (s->v[i] - y.mean);
    y.sd = s->n > 1 ? sqrt(squares / (double)(s->n - 1)) : 0;
    y.min = s->v[0];
    y.p5 = percentile(s, 5);
    y.p50 = percentile(s, 50);
    y.p90 = percentile(s, 90);
    y.p95 = percentile(s, 95);
    y.p99 = percentile(s, 99);
    y.max = s->v[s->n - 1];
    return y;
}
