/* SPDX-License-Identifier: MIT
 * From logits to a token: bias, grammar, penalties, top-k, typical, top-p, min-p, temperature,
 * draw, in this order.
 *
 * All work is done in the engine's candidate array. Ties go to the lower id, so that the same seed
 * gives the same text everywhere. What may not come has a logit of minus infinity, and is taken out
 * of the array before anything is cut or drawn. Without top-k the array is a whole vocabulary: its
 * best candidate is brought to the front, and more is sorted only as far as top-p looks.
 */
#include "base/random.h"
#include "base/ranges.h"
#include "engine/engine.h"
#include "text/matcher.h"

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

static void best_first(struct pg_candidate *c, int n)
{
    int best = 0;
    for (int i = 1; i < n; i++)
        best = before(&c[i], &c[best]) ? i : best;
    swap(&c[0], &c[best]);
}

/* The best is the first. */
static void to_probabilities(struct pg_candidate *c, int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++) {
        c[i].p = pg_expf(c[i].logit - c[0].logit);
        sum += (double)c[i].p;
    }
    for (int i = 0; i < n; i++)
        c[i].p = (float)((double)c[i].p / sum);
}

/* Of candidates in order with their probabilities: those whose logit is nearest to the expected
 * one, which is as near as their surprise is to the entropy, until they sum to typical_p. They lie
 * side by side. Returns how many; they are moved to the beginning. */
static int cut_typical(struct pg_candidate *c, int n, float typical_p)
{
    float mean = 0, sum = 0;
    for (int i = 0; i < n; i++)
        mean += c[i].p > 0 ? c[i].p * (c[i].logit - c[0].logit) : 0;
    mean += c[0].logit;
    int to = 0;
    while (to < n && c[to].logit >= mean)
        to++;
    int from = to;
    while (from + n - to > 0 && (sum < typical_p || from == to)) {
        bool up = to == n || (from > 0 && c[from - 1].logit - mean <= mean - c[to].logit);
        sum += up ? c[--from].p : c[to++].p;
    }
    memmove(c, c + from, (size_t)(to - from) * sizeof(*c));
    return to - from;
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

/* The same of candidates that are in no order: as many are put in order as it looks at. */
static int sort_to_top_p(struct pg_candidate *c, int n, float top_p)
{
    enum { FIRST = 32, GROWTH = 4 };
    float sum = 0;
    for (int from = 0, more = FIRST; from < n; more *= GROWTH) {
        const int end = from + PG_MIN(more, n - from);
        sort_first(c + from, n - from, end - from);
        for (; from < end; from++) {
            sum += c[from].p;
            if (sum >= top_p)
                return from + 1;
        }
    }
    return n;
}

/* In whatever order they are, but for the first. */
static int cut_min_p(struct pg_candidate *c, int n, float min_p)
{
    int to = 1;
    for (int i = 1; i < n; i++)
        if (c[i].p >= min_p * c[0].p)
            c[to++] = c[i];
    return to;
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

/* ------------------------------------------------------------------ what may come ----------- */

static int check_extras(const pg_session *s, const struct pg_sampling *h, struct pg_err *err)
{
    const int n = s->engine->model.h.n_vocab;
    if (h->n_bias && (!h->bias_id || !h->bias))
        return pg_fail(err, PG_EARG, "options: n_bias is %d, and there is no bias", h->n_bias);
    for (int i = 0; i < h->n_bias; i++) {
        if (h->bias_id[i] < 0 || h->bias_id[i] >= n)
            return pg_fail(err, PG_EARG, "options: bias_id[%d] is %d, 0 to %d wanted", i,
                           (int)h->bias_id[i], n - 1);
        if (!(h->bias[i] < INFINITY)) /* nor is it no number */
            return pg_fail(err, PG_EARG, "options: bias[%d] is %g, a number or -inf wanted", i,
                           (double)h->bias[i]);
    }
    if (h->matcher && pg_matcher_n_vocab(h->matcher) != pg_vocab_n(s->engine->vocab))
        return pg_fail(err, PG_EARG, "options: matcher: one for %d tokens found, %d wanted",
                       pg_matcher_n_vocab(h->matcher), pg_vocab_n(s->engine->vocab));
    return 0;
}

static void add_bias(const struct pg_sampling *h, struct pg_candidate *c)
{
    for (int i = 0; i < h->n_bias; i++)
        c[h->bias_id[i]].logit += h->bias[i];
}

/* Forbids what the grammar does not allow; the array is indexed by id. */
static int forbid(const pg_session *s, pg_matcher *m, struct pg_candidate *c, struct pg_err *err)
{
    uint32_t *bits = s->engine->mask;
    const int n = pg_matcher_n_vocab(m);
    PG_TRY(pg_matcher_mask(m, bits, err));
    for (int i = 0; i < s->engine->model.h.n_vocab; i++)
        if (i >= n || !(bits[i / 32] >> (i % 32) & 1))
            c[i].logit = -INFINITY;
    return 0;
}

static int take_out_forbidden(struct pg_candidate *c, int n)
{
    int to = 0;
    for (int i = 0; i < n; i++)
        if (c[i].logit > -INFINITY)
            c[to++] = c[i];
    return to;
}

/* The candidates by id, biased and penalised. With a greedy choice nothing is forbidden yet: the
 * first in order nearly always may come, and then all others do not matter. */
static int begin_candidates(const pg_session *s, const struct pg_sampling *h, bool strict,
                            struct pg_err *err)
{
    struct pg_candidate *c = s->engine->cand;
    for (int i = 0; i < s->engine->model.h.n_vocab; i++)
        c[i] = (struct pg_candidate){s->logits[i], 0, i};
    add_bias(h, c);
    if (h->matcher && strict)
        PG_TRY(forbid(s, h->matcher, c, err));
    penalise(s, h, c);
    return 0;
}

static int check_best(const struct pg_candidate *c, int n, struct pg_err *err)
{
    if (n == 0)
        return pg_fail(err, PG_EARG, "options: all tokens that may come are forbidden by a bias");
    /* A penalty may make infinity of what was finite. */
    if (!isfinite(c[0].logit))
        return pg_fail(err, PG_ENUMERIC, "numerical error: the largest of the logits is %g",
                       (double)c[0].logit);
    return 0;
}

/* The first k of all candidates in order into the engine's array, or all with the best in front; *n
 * is how many. */
static int first_of(const pg_session *s, const struct pg_sampling *h, int k, int *n,
                    struct pg_err *err)
{
    const int n_vocab = s->engine->model.h.n_vocab;
    struct pg_candidate *c = s->engine->cand;
    const bool greedy = h->matcher && k == 1;
    for (int strict = !greedy; strict < 2; strict++) {
        PG_TRY(begin_candidates(s, h, strict, err));
        *n = h->matcher || h->n_bias ? take_out_forbidden(c, n_vocab) : n_vocab;
        if (k < n_vocab)
            *n = *n ? sort_first(c, *n, PG_MIN(k, *n)) : 0;
        else
            best_first(c, *n);
        PG_TRY(check_best(c, *n, err));
        if (!strict && pg_matcher_allows(h->matcher, c[0].id))
            break;
    }
    return 0;
}

/* Of n candidates that are in order, or whose best is in front. */
static int32_t choose(pg_session *s, const struct pg_sampling *h, int n, bool in_order)
{
    struct pg_candidate *c = s->engine->cand;
    if (h->temp == 0 || n == 1)
        return c[0].id;
    if (!s->seeded) {
        s->random = h->seed;
        s->seeded = true;
    }
    to_probabilities(c, n);
    if (h->typical_p > 0 && h->typical_p < 1) {
        if (!in_order)
            sort_first(c, n, n);
        in_order = true;
        n = cut_typical(c, n, h->typical_p);
        to_probabilities(c, n);
    }
    if (h->top_p > 0 && h->top_p < 1)
        n = in_order ? cut_top_p(c, n, h->top_p) : sort_to_top_p(c, n, h->top_p);
    if (h->min_p > 0)
        n = cut_min_p(c, n, h->min_p);
    return draw(c, n, h->temp, &s->random);
}

int pg_session_sample(pg_session *s, const struct pg_sampling *how, int32_t *token,
                      struct pg_err *err)
{
    struct pg_sampling h = {PG_SAMPLING_INIT};
    if (how)
        PG_TRY(pg_options_take(PG_OPTIONS_SAMPLING, &h, how, err));
    if (!s->has_logits)
        return pg_fail(err, PG_EARG, "nothing to sample from: the session has no logits yet");
    PG_TRY(check_extras(s, &h, err));
    int n = s->engine->model.h.n_vocab;
    int k = h.temp == 0 ? 1 : h.top_k > 0 ? PG_MIN(h.top_k, n) : n;
    PG_TRY(first_of(s, &h, k, &n, err));
    int32_t chosen = choose(s, &h, n, k < s->engine->model.h.n_vocab);
    if (h.matcher)
        PG_TRY(pg_matcher_accept(h.matcher, chosen, err));
    *token = chosen;
    return 0;
}
