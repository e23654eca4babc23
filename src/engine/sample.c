/* SPDX-License-Identifier: MIT
 * From logits to a token: penalties, top-k, top-p, min-p, temperature, draw, in this order.
 *
 * All work is done in the engine's candidate array. Ties go to the lower id, so that the same seed
 * gives the same text everywhere.
 */
#include "base/random.h"
#include "base/ranges.h"
#include "engine/engine.h"

#include <math.h>
#include <string.h>

enum { DEFAULT_LAST_N = 64 };

static bool before(const struct pg_candidate *a, const struct pg_candidate *b)
{
    return a->logit > b->logit || (a->logit == b->logit && a->id < b->id);
}

static void swap(struct pg_candidate *a, struct pg_candidate *b)
{
    struct pg_candidate t = *a;
    *a = *b;
    *b = t;
}

/* Restores the heap (the last in order on top) below i. */
static void sift(struct pg_candidate *c, int n, int i)
{
    for (;;) {
        int child = 2 * i + 1;
        if (child + 1 < n && before(&c[child], &c[child + 1]))
            child++;
        if (child >= n || !before(&c[i], &c[child]))
            return;
        swap(&c[i], &c[child]);
        i = child;
    }
}

/* The first k of n in order, sorted, by a heap of k: no memory, n log k. */
static int sort_first(struct pg_candidate *c, int n, int k)
{
    for (int i = k / 2 - 1; i >= 0; i--)
        sift(c, k, i);
    for (int i = k; i < n; i++) {
        if (before(&c[i], &c[0])) {
            swap(&c[i], &c[0]);
            sift(c, k, 0);
        }
    }
    for (int i = k - 1; i > 0; i--) {
        swap(&c[0], &c[i]);
        sift(c, i, 0);
    }
    return k;
}

/* Each token that occurs in the last n is pushed down; the array is indexed by id here. */
static void penalise(const pg_session *s, const struct pg_sampling *how, struct pg_candidate *c)
{
    int last = how->penalty_last_n ? how->penalty_last_n : DEFAULT_LAST_N;
    int begin = PG_MAX(0, s->n_tokens - last);
    float repeat = how->repeat_penalty > 0 ? how->repeat_penalty : 1.0f;
    if (repeat == 1.0f && how->presence_penalty == 0 && how->frequency_penalty == 0)
        return;
    for (int i = begin; i < s->n_tokens; i++)
        c[s->tokens[i]].p += 1; /* counts, until probabilities are made */
    for (int i = begin; i < s->n_tokens; i++) {
        struct pg_candidate *x = &c[s->tokens[i]];
        if (x->p > 0) {
            x->logit = x->logit > 0 ? x->logit / repeat : x->logit * repeat;
            x->logit -= how->presence_penalty + x->p * how->frequency_penalty;
            x->p = 0;
        }
    }
}

static void to_probabilities(struct pg_candidate *c, int n)
{
    float sum = 0;
    for (int i = 0; i < n; i++) {
        c[i].p = pg_expf(c[i].logit - c[0].logit);
        sum += c[i].p;
    }
    for (int i = 0; i < n; i++)
        c[i].p /= sum;
}

static int cut_top_p(struct pg_candidate *c, int n, float top_p)
{
    float sum = 0;
    for (int i = 0; i < n; i++) {
        sum += c[i].p;
        if (sum >= top_p)
            return i + 1;
    }
    return n;
}

static int cut_min_p(struct pg_candidate *c, int n, float min_p)
{
    int keep = 1;
    while (keep < n && c[keep].p >= min_p * c[0].p)
        keep++;
    return keep;
}

static int32_t draw(struct pg_candidate *c, int n, float temp, uint64_t *random)
{
    for (int i = n - 1; i >= 0; i--)
        c[i].logit = (c[i].logit - c[0].logit) / temp;
    to_probabilities(c, n);
    double u = (double)(pg_random_next(random) >> 11) * 0x1p-53, sum = 0;
    for (int i = 0; i < n; i++) {
        sum += (double)c[i].p;
        if (u < sum)
            return c[i].id;
    }
    return c[n - 1].id;
}

int pg_session_sample(pg_session *s, const struct pg_sampling *how, int32_t *token,
                      struct pg_err *err)
{
    struct pg_sampling h = {PG_SAMPLING_INIT};
    if (how)
        PG_TRY(pg_options_take(PG_OPTIONS_SAMPLING, &h, how, err));
    if (!s->has_logits)
        return pg_fail(err, PG_EARG, "nothing to sample from: the session has no logits yet");
    int n = s->engine->model.h.n_vocab;
    struct pg_candidate *c = s->engine->cand;
    for (int i = 0; i < n; i++)
        c[i] = (struct pg_candidate){s->logits[i], 0, i};
    penalise(s, &h, c);
    int k = h.temp == 0 ? 1 : h.top_k > 0 ? PG_MIN(h.top_k, n) : n;
    n = sort_first(c, n, k);
    /* A penalty may make infinity of what was finite. */
    if (!isfinite(c[0].logit)) {
        return pg_fail(err, PG_ENUMERIC, "numerical error: the largest of the logits is %g",
                       (double)c[0].logit);
    }
    if (h.temp == 0 || n == 1) {
        *token = c[0].id;
        return 0;
    }
    if (!s->seeded) {
        s->random = h.seed;
        s->seeded = true;
    }
    to_probabilities(c, n);
    if (h.top_p > 0 && h.top_p < 1)
        n = cut_top_p(c, n, h.top_p);
    if (h.min_p > 0)
        n = cut_min_p(c, n, h.min_p);
    *token = draw(c, n, h.temp, &s->random);
    return 0;
}
