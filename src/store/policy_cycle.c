/* SPDX-License-Identifier: MIT
 * The policy `cycle`: keep what is most likely to be used for the time that it has to be kept.
 *
 * A block's experts have a chance once a step, so an expert of the block that comes next costs one
 * tick of a slot per chance, and one of the block that has just passed costs a whole cycle. With p
 * the probability of use in the block's next wave and d the ticks until then, the value of keeping
 * is p / (d + NEAR * n_block), and the least value leaves. Where pre-gates decide, the first blocks
 * are the only ones whose misses are waited for; theirs count EXPOSED times.
 *
 * p is a forecast in four stages. Each stage looks at the history in its own way and corrects the
 * one before by a share of the difference:
 *
 *     long    the rate of use over many steps        what is popular at all
 *     slow    the rate over the last 30 or so        what the text is about
 *     fast    the rate over the last 3 or so         what goes on right now
 *     recall  what came next where the last ticks were like now, earlier in the text
 *
 * The shares are the least-squares ones of what has happened so far: sum of error * difference over
 * sum of difference squared. A stage that explains nothing (routes without memory, say) gets no
 * share and does no harm, so nothing has to be tuned to a model.
 *
 * Recall keeps the routes of the last N_PAST steps. For each lag j it has a running score of how
 * alike the routes j steps ago are to those now (overlap, as part of the larger, fading by FADE a
 * tick; the score of a lag stays with it as both move on), and forecasts what the best lags did
 * next. A wave of more than three quarters of the experts (a prompt) is not kept and matches
 * nothing.
 *
 * The constants were chosen on the first halves of the two traces in tests/data/traces, one set for
 * both; docs/decisions/003-eviction.md has the study. All are on a plateau.
 */
#include "store/policy_impl.h"

#include <string.h>

#define NEAR   0.2f /* of a cycle: how much a near chance counts for more */
#define FADE   0.89f
#define SHARP  0.23f /* weight of a lag: e to the SHARP * score */
#define N_PAST 512   /* a power of two */
#define N_LAGS 32    /* best lags that forecast */

enum { LONG, SLOW, FAST, N_RATES, RECALL = N_RATES, N_STAGES };

static const float rate_step[N_RATES] = {[LONG] = 1 / 512.0f, [SLOW] = 0.03f, [FAST] = 0.3f};
static const float first_share[N_STAGES] = {[SLOW] = 1, [FAST] = 0.3f, [RECALL] = 0.5f};
#define FAR         64      /* cycles until a block outside of a step's comes again */
#define EXPOSED     4       /* how much more a miss costs that nothing hides */
#define SHARE_PRIOR 20.0f   /* how firmly: in sums of squares */
#define SHARE_FADE  0.9995f /* a tick */
#define BEHIND      0.1f    /* what recall does not expect: not before the wave after the next */
#define LATER       0.25f   /* what is not named for certain: not before the wave after the next */
#define HINT_RIGHT  0.75f   /* of the experts that an uncertain hint names, how many are wanted */

/* What is known about a block. */
struct outlook {
    uint32_t round;  /* waves so far */
    int n_used;      /* by the last */
    int n_hinted;    /* for wave `hinted` */
    uint32_t hinted; /* 0: nothing */
    bool certain;
    bool recalled; /* the recall forecast is for the next wave */
    uint32_t recall_tick;
};

struct pg_cycle {
    int n_block, n_expert;
    int block;  /* of the last wave, -1: none */
    bool open;  /* that wave is not learned from yet */
    bool fresh; /* the forecast knows that wave */
    int n_used; /* by it so far */
    uint32_t tick, step;

    struct outlook *outlook; /* [n_block] */
    uint32_t *weight;        /* [n_block + 1] by ticks until the wave */
    uint32_t far;            /* weight of a block that steps do not go through now */
    float *rate[N_RATES];    /* [n_block * n_expert] */
    float *recall;           /* [n_block * n_expert] */
    uint32_t *hinted;        /* [n_block * n_expert] wave for which it is hinted, 0: none */
    int32_t *used;           /* [n_expert] by the wave */
    float *is_used;          /* [n_expert] 1 or 0 */
    float share[N_STAGES], moment[N_STAGES], square[N_STAGES];

    int n_words;
    uint64_t *past;  /* [n_block][N_PAST][n_words] by step: the wave, a bit an expert */
    int32_t *n_past; /* [n_block][N_PAST] how many they were, 0: not kept */
    float *score;    /* [N_PAST] by lag */
    float best_score;
    int n_lags, lag[N_LAGS];
    float lag_weight[N_LAGS];
};

static uint32_t weight_of(float cycles)
{
    return (uint32_t)((float)(1 << 20) / (cycles + NEAR));
}

static void set_weights(struct pg_policy *p)
{
    struct pg_cycle *c = p->cycle;
    for (int wait = 0; wait <= c->n_block; wait++)
        c->weight[wait] = weight_of((float)wait / (float)p->span.n);
    c->far = weight_of(FAR);
}

void pg_cycle_carve(struct pg_policy *p, struct pg_arena *a)
{
    int n_block = p->n_block, n_expert = p->n_expert;
    size_t n_key = (size_t)n_block * (size_t)n_expert;
    struct pg_cycle measured;
    struct pg_cycle *c = pg_arena_take(a, sizeof(*c));
    struct pg_cycle *to = c ? c : &measured;
    to->outlook = pg_arena_take(a, (size_t)n_block * sizeof(*to->outlook));
    for (int i = 0; i < N_RATES; i++)
        to->rate[i] = pg_arena_take(a, n_key * sizeof(*to->rate[i]));
    to->recall = pg_arena_take(a, n_key * sizeof(*to->recall));
    to->hinted = pg_arena_take(a, n_key * sizeof(*to->hinted));
    to->used = pg_arena_take(a, (size_t)n_expert * sizeof(*to->used));
    to->is_used = pg_arena_take(a, (size_t)n_expert * sizeof(*to->is_used));
    to->weight = pg_arena_take(a, ((size_t)n_block + 1) * sizeof(*to->weight));
    to->n_words = (n_expert + 63) / 64;
    size_t n_past = (size_t)n_block * N_PAST;
    to->past = pg_arena_take(a, n_past * (size_t)to->n_words * sizeof(*to->past));
    to->n_past = pg_arena_take(a, n_past * sizeof(*to->n_past));
    to->score = pg_arena_take(a, N_PAST * sizeof(*to->score));
    p->cycle = c;
    if (!c)
        return;
    c->n_block = n_block;
    c->n_expert = n_expert;
    c->block = -1;
    set_weights(p);
    for (int i = 0; i < N_STAGES; i++) {
        c->share[i] = first_share[i];
        c->square[i] = SHARE_PRIOR;
        c->moment[i] = SHARE_PRIOR * first_share[i];
    }
}

static bool is_in(struct pg_span span, int block)
{
    return block >= span.first && block < span.first + span.n;
}

/* Which of N_PAST waves of the block it is. */
static size_t past_wave(int block, uint32_t step)
{
    return (size_t)block * N_PAST + step % N_PAST;
}

static const uint64_t *past_bits(const struct pg_cycle *c, size_t wave)
{
    return c->past + wave * (size_t)c->n_words;
}

/* ---- learning from a wave ------------------------------------------------------------------ */

/* A wave of nearly all experts (a prompt) says nothing of what comes next. */
static bool tells(const struct pg_cycle *c)
{
    return 4 * c->n_used <= 3 * c->n_expert;
}

/* The share of each stage, from how the forecasts of this block compare with what came. */
static void learn_shares(struct pg_cycle *c, const struct outlook *o)
{
    size_t at = (size_t)c->block * (size_t)c->n_expert;
    int n_stages = o->recalled ? N_STAGES : N_RATES;
    const float *stage[N_STAGES] = {c->rate[LONG] + at, c->rate[SLOW] + at, c->rate[FAST] + at,
                                    c->recall + at};
    float moment[N_STAGES] = {0}, square[N_STAGES] = {0};
    for (int e = 0; e < c->n_expert; e++) {
        float p = stage[LONG][e];
        for (int i = SLOW; i < n_stages; i++) {
            float difference = stage[i][e] - p;
            moment[i] += (c->is_used[e] - p) * difference;
            square[i] += difference * difference;
            p += c->share[i] * difference;
        }
    }
    for (int i = SLOW; i < n_stages; i++) {
        c->moment[i] = SHARE_FADE * c->moment[i] + moment[i];
        c->square[i] = SHARE_FADE * c->square[i] + square[i];
        float share = c->square[i] > 1e-6f ? c->moment[i] / c->square[i] : 0;
        c->share[i] = PG_MIN(1.0f, PG_MAX(0.0f, share));
    }
}

/* Averages of what was and was not used; over few waves they are plain means. */
static void learn_rates(struct pg_cycle *c, const struct outlook *o)
{
    size_t at = (size_t)c->block * (size_t)c->n_expert;
    for (int i = 0; i < N_RATES; i++) {
        float *rate = c->rate[i] + at;
        float step = PG_MAX(rate_step[i], 1.0f / (float)(o->round + 1));
        if (o->round == 1)
            for (int e = 0; e < c->n_expert; e++)
                rate[e] = (float)c->n_used / (float)c->n_expert;
        for (int e = 0; e < c->n_expert; e++)
            rate[e] += step * (c->is_used[e] - rate[e]);
    }
}

/* Scores each lag by how much of this wave was used then. */
static void learn_past(struct pg_cycle *c)
{
    size_t wave = past_wave(c->block, c->step);
    uint64_t *now = c->past + wave * (size_t)c->n_words;
    memset(now, 0, (size_t)c->n_words * sizeof(*now));
    int n = tells(c) ? c->n_used : 0;
    c->n_past[wave] = n;
    for (int i = 0; i < n; i++)
        now[c->used[i] / 64] |= (uint64_t)1 << c->used[i] % 64;
    int n_lags = (int)PG_MIN(c->step, N_PAST - 1u);
    c->best_score = 0;
    for (int lag = 1; lag <= n_lags; lag++) {
        size_t past = past_wave(c->block, c->step - (uint32_t)lag);
        const uint64_t *then = past_bits(c, past);
        int overlap = 0;
        for (int i = 0; i < c->n_words; i++)
            overlap += __builtin_popcountll(now[i] & then[i]);
        float unit = 8.0f / (float)PG_MAX(1, PG_MAX(n, c->n_past[past]));
        c->score[lag] = FADE * c->score[lag] + unit * (float)overlap;
        c->best_score = PG_MAX(c->best_score, c->score[lag]);
    }
}

static void learn(struct pg_policy *p)
{
    struct pg_cycle *c = p->cycle;
    struct outlook *o = &c->outlook[c->block];
    o->round++;
    o->n_used = c->n_used;
    for (int i = 0; i < c->n_used; i++)
        c->is_used[c->used[i]] = 1;
    if (tells(c) && o->round > 1)
        learn_shares(c, o);
    learn_rates(c, o);
    learn_past(c);
    for (int i = 0; i < c->n_used; i++)
        c->is_used[c->used[i]] = 0;
    o->recalled = false;
    c->open = false;
    c->fresh = false;
    p->stale[c->block] = true;
}

/* The next wave is the first of a step. */
void pg_cycle_span(struct pg_policy *p)
{
    struct pg_cycle *c = p->cycle;
    if (c->open)
        learn(p);
    if (c->block >= 0)
        c->block = p->span.first + p->span.n - 1;
    set_weights(p);
}

/* Blocks that the step does not go through have no wave in it. */
static void begin_step(struct pg_policy *p)
{
    struct pg_cycle *c = p->cycle;
    c->step++;
    for (int block = 0; block < c->n_block; block++) {
        if (is_in(p->span, block))
            continue;
        size_t wave = past_wave(block, c->step);
        c->n_past[wave] = 0;
        memset(c->past + wave * (size_t)c->n_words, 0, (size_t)c->n_words * sizeof(*c->past));
    }
}

void pg_cycle_tick(struct pg_policy *p, int block)
{
    struct pg_cycle *c = p->cycle;
    if (c->open)
        learn(p);
    if (block <= c->block)
        begin_step(p);
    c->tick++;
    c->block = block;
    c->open = true;
    c->n_used = 0;
}

void pg_cycle_use(struct pg_policy *p, int key)
{
    struct pg_cycle *c = p->cycle;
    PG_ASSERT(c->open && key / c->n_expert == c->block && c->n_used < c->n_expert);
    c->used[c->n_used++] = key % c->n_expert;
}

/* ---- forecast ------------------------------------------------------------------------------ */

/* (1 + x/16)^16, which is e^x closely enough here, and 0 from -16 on. */
static float exp_about(float x)
{
    float y = PG_MAX(0.0f, 1 + x / 16);
    y *= y;
    y *= y;
    y *= y;
    return y * y;
}

/* The lags with the best scores, best first; none whose weight would be below e^-5. */
static void find_lags(struct pg_cycle *c)
{
    int n = 0, n_past = (int)PG_MIN(c->step, N_PAST - 1u);
    float enough = c->best_score - 5 / SHARP;
    for (int lag = 1; lag <= n_past; lag++) {
        float score = c->score[lag];
        if (score <= enough)
            continue;
        int i = n < N_LAGS ? n++ : n - 1;
        for (; i > 0 && c->score[c->lag[i - 1]] < score; i--)
            c->lag[i] = c->lag[i - 1];
        c->lag[i] = lag;
        if (n == N_LAGS)
            enough = c->score[c->lag[n - 1]];
    }
    c->n_lags = n;
    for (int i = 0; i < n; i++)
        c->lag_weight[i] = exp_about(SHARP * (c->score[c->lag[i]] - c->score[c->lag[0]]));
}

/* What the block did in the past at the point that compares with its next wave. */
static void recall(struct pg_policy *p, int block)
{
    struct pg_cycle *c = p->cycle;
    struct outlook *o = &c->outlook[block];
    float *to = c->recall + (size_t)block * (size_t)c->n_expert;
    float sum = 0;
    uint32_t next = c->step + (block <= c->block);
    memset(to, 0, (size_t)c->n_expert * sizeof(*to));
    for (int i = 0; i < c->n_lags; i++) {
        size_t past = past_wave(block, next - (uint32_t)c->lag[i]);
        const uint64_t *then = past_bits(c, past);
        if (c->n_past[past])
            sum += c->lag_weight[i];
        for (int k = 0; k < c->n_words; k++)
            for (uint64_t rest = then[k]; rest; rest &= rest - 1)
                to[64 * k + __builtin_ctzll(rest)] += c->lag_weight[i];
    }
    o->recalled = sum > 0;
    o->recall_tick = c->tick;
    for (int e = 0; e < c->n_expert && o->recalled; e++)
        to[e] /= sum;
    p->stale[block] = true;
}

void pg_cycle_forecast(struct pg_policy *p)
{
    struct pg_cycle *c = p->cycle;
    if (c->block < 0)
        return;
    if (c->open)
        learn(p);
    if (c->fresh)
        return;
    /* All blocks would be better but slower; a quarter of a cycle is old enough to be done anew. */
    uint32_t age = PG_MAX(1u, (uint32_t)p->span.n / 4);
    find_lags(c);
    for (int block = p->span.first; block < p->span.first + p->span.n; block++) {
        const struct outlook *o = &c->outlook[block];
        if (block == c->block || (o->round && c->tick - o->recall_tick >= age))
            recall(p, block);
    }
    c->fresh = true;
}

void pg_cycle_hint(struct pg_policy *p, int key, bool certain)
{
    struct pg_cycle *c = p->cycle;
    struct outlook *o = &c->outlook[key / c->n_expert];
    uint32_t wave = o->round + 1 + (c->open && c->block == key / c->n_expert);
    if (o->hinted != wave) {
        o->hinted = wave;
        o->n_hinted = 0;
        o->certain = certain;
    }
    o->n_hinted += c->hinted[key] != wave;
    c->hinted[key] = wave;
    p->stale[key / c->n_expert] = true;
}

/* The probability that the block's next wave wants it, given the hint for it. */
static float with_hint(const struct pg_cycle *c, int key, float p)
{
    const struct outlook *o = &c->outlook[key / c->n_expert];
    bool named = c->hinted[key] == o->hinted;
    if (o->certain)
        return named ? 1 : p * LATER;
    float n_used = (float)PG_MAX(1, o->n_used);
    float right = HINT_RIGHT * PG_MIN(1.0f, n_used / (float)o->n_hinted);
    if (named)
        return PG_MAX(p, right);
    float rest = 1 - right * (float)o->n_hinted / n_used;
    return p * PG_MAX(0.25f, rest);
}

uint64_t pg_cycle_worth(const struct pg_policy *p, int slot)
{
    const struct pg_cycle *c = p->cycle;
    int key = p->key_of[slot];
    const struct outlook *o = &c->outlook[key / c->n_expert];
    float chance = c->rate[LONG][key];
    chance += c->share[SLOW] * (c->rate[SLOW][key] - chance);
    chance += c->share[FAST] * (c->rate[FAST][key] - chance);
    const float later = BEHIND * chance; /* or, once recall is sure, nothing would rank the rest */
    if (o->recalled)
        chance += c->share[RECALL] * (c->recall[key] - chance);
    chance = PG_MAX(chance, later);
    if (o->hinted > o->round)
        chance = with_hint(c, key, chance);
    return (uint64_t)(chance * (float)(1 << 30));
}

uint64_t pg_cycle_weight(const struct pg_policy *p, int block)
{
    const struct pg_cycle *c = p->cycle;
    int ahead = block - c->block;
    if (!is_in(p->span, block))
        return c->far;
    uint64_t weight = c->weight[ahead > 0 ? ahead : ahead + p->span.n];
    return block - p->span.first < p->n_exposed ? EXPOSED * weight : weight;
}
