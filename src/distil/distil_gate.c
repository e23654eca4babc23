/* SPDX-License-Identifier: MIT
 * One pre-gate that is fitted: its values, its loss over a minibatch, and the gradient.
 *
 *     u = D h + c    a = silu(u)    z = W h + b + U a        no D, U, c where n_hidden is 0
 *
 * The loss of a token is KL(p || softmax(z)), and its derivative by z is softmax(z) - p. Where the
 * pre-gate is to decide, p is the router's distribution: the weights of the chosen matter. Where it
 * is to hint, p is the mean of that and of an equal part for each expert that the router chose: the
 * set is what is wanted, and the distribution keeps its order (docs/decisions/007-gate-forms.md).
 * Where a rule is sigmoid and the pre-gate is to decide, each expert is a coin of its own and the
 * loss is the sum of their divergences; the derivative has the same form. Where it is to hint, the
 * coins' shares of their sum are the distribution.
 *
 * W and D are both multiplied with h, so they lie one after the other and are one matrix.
 */
#include "distil/distil_fit.h"

#include <math.h>
#include <string.h>

/* How far a step of AdamW, which moves each value of a row by the rate, may move the row's product
 * with a state at the beginning. Wider states have more values that move together. */
#define REACH 0.2f

static float *floats(struct pg_arena *a, size_t n)
{
    return pg_arena_take(a, n * sizeof(float));
}

struct pg_fit_parts pg_fit_parts(const struct pg_fit_options *o)
{
    size_t n_embd = (size_t)o->n_embd, n_expert = (size_t)o->rule.n_expert;
    size_t n_hidden = (size_t)o->n_hidden;
    struct pg_fit_parts p = {.w = 0};
    p.d = p.w + n_expert * n_embd;
    p.u = p.d + n_hidden * n_embd;
    p.b = p.u + n_expert * n_hidden;
    p.c = p.b + n_expert;
    p.end = p.c + n_hidden;
    return p;
}

struct pg_fit_scratch pg_fit_scratch_carve(const struct pg_fit_options *o, struct pg_arena *a)
{
    size_t rows = PG_MINIBATCH, n_embd = (size_t)o->n_embd, n_expert = (size_t)o->rule.n_expert;
    size_t n_hidden = (size_t)o->n_hidden, n_used = (size_t)o->rule.n_used;
    return (struct pg_fit_scratch){
        .x = floats(a, rows * n_embd),
        .xt = floats(a, rows * n_embd),
        .wide = floats(a, rows * (n_expert + n_hidden)),
        .u = floats(a, rows * n_hidden),
        .a = floats(a, rows * n_hidden),
        .da = floats(a, rows * n_hidden),
        .ones = floats(a, n_hidden),
        .z = floats(a, rows * n_expert),
        .dz = floats(a, rows * n_expert),
        .dwide = floats(a, rows * (n_expert + n_hidden)),
        .at = floats(a, rows * n_hidden),
        .ut = floats(a, n_expert * n_hidden),
        .g = floats(a, pg_fit_parts(o).end),
        .p = floats(a, n_expert),
        .id = {pg_arena_take(a, n_used * sizeof(int32_t)),
               pg_arena_take(a, n_used * sizeof(int32_t))},
        .weight = floats(a, n_used),
    };
}

void pg_fit_start(struct pg_fit *f, int gate, const float *table, float hidden_scale)
{
    struct pg_fit_parts at = pg_fit_parts(&f->opt);
    struct pg_fit_gate *g = &f->gate[gate];
    memset(g->w, 0, f->n_values * sizeof(float));
    memcpy(g->w + at.w, table, (at.d - at.w) * sizeof(float));
    for (size_t i = 0; i < at.u - at.d; i++) {
        uint64_t r = pg_random_at(f->opt.seed, PG_STREAM_HIDDEN, (uint64_t)gate << 40 | i);
        float uniform = (float)(r >> 40) * 0x1p-23f - 1; /* [-1, 1) has a third for variance */
        g->w[at.d + i] = hidden_scale * sqrtf(3) * uniform;
    }
    memcpy(g->best, g->w, f->n_values * sizeof(float));
    g->rate = REACH * hidden_scale / sqrtf((float)f->opt.n_embd);
}

struct pg_pregate pg_fit_pregate(const struct pg_fit *f, int gate)
{
    struct pg_fit_parts at = pg_fit_parts(&f->opt);
    const float *w = f->gate[gate].best;
    int n_embd = f->opt.n_embd, n_expert = f->opt.rule.n_expert, n_hidden = f->opt.n_hidden;
    struct pg_pregate p = {
        .inp = {PG_TYPE_F32, n_embd, n_expert, w + at.w},
        .bias = {PG_TYPE_F32, n_expert, 1, w + at.b},
    };
    if (n_hidden) {
        p.down = (struct pg_weight){PG_TYPE_F32, n_embd, n_hidden, w + at.d};
        p.down_bias = (struct pg_weight){PG_TYPE_F32, n_hidden, 1, w + at.c};
        p.up = (struct pg_weight){PG_TYPE_F32, n_hidden, n_expert, w + at.u};
    }
    return p;
}

/* ------------------------------------------------------------------ loss -------------------- */

/* -log of sigmoid(x) */
static double softplus_of_minus(double x)
{
    return x > 0 ? log1p(exp(-x)) : log1p(exp(x)) - x;
}

static double of_coins(int n, const float *p, const float *z, float *dz)
{
    double kl = 0;
    for (int i = 0; i < n; i++) {
        double yes = (double)p[i], no = 1 - yes, x = (double)z[i];
        kl += yes * softplus_of_minus(x) + no * softplus_of_minus(-x);
        kl += yes > 0 ? yes * log(yes) : 0;
        kl += no > 0 ? no * log(no) : 0;
        dz[i] = (float)(1 / (1 + exp(-x)) - yes);
    }
    return kl;
}

/* log of the sum of exp(x) */
static double log_sum(const float *x, int n)
{
    float most = x[0], sum = 0;
    for (int i = 1; i < n; i++)
        most = PG_MAX(most, x[i]);
    for (int i = 0; i < n; i++)
        sum += pg_expf(x[i] - most);
    return (double)most + log((double)sum);
}

double pg_fit_divergence(const float *p, const float *z, int n, bool each_a_coin, float *dz)
{
    if (each_a_coin)
        return of_coins(n, p, z, dz);
    double log_z = log_sum(z, n), kl = 0;
    for (int i = 0; i < n; i++) {
        double log_q = (double)z[i] - log_z;
        kl += p[i] > 0 ? (double)p[i] * (log((double)p[i]) - log_q) : 0;
        dz[i] = pg_expf((float)log_q) - p[i];
    }
    return kl;
}

/* p becomes half of a distribution, or nothing where it is none: what is left for the set. */
static float halve(float *p, int n, bool any)
{
    float sum = 0;
    for (int i = 0; i < n && any; i++)
        sum += p[i];
    bool some = sum > 0x1p-100f; /* of which 1 / sum is finite */
    for (int i = 0; i < n; i++)
        p[i] = some ? p[i] / (2 * sum) : 0;
    return some ? 0.5f : 1;
}

/* s->p = what a token's pre-gate should say, of the router's logits. */
static void aim(const struct pg_fit *f, const float *router, const struct pg_fit_scratch *s)
{
    const struct pg_gate_rule *rule = &f->opt.rule;
    memcpy(s->p, router, (size_t)rule->n_expert * sizeof(float));
    bool ok = pg_gate_rule_apply(rule, f->opt.k, s->p, s->id[0], s->weight);
    if (f->opt.decides && ok)
        return; /* the rule has made probabilities of them */
    float left = halve(s->p, rule->n_expert, ok);
    for (int i = 0; i < rule->n_used; i++)
        s->p[s->id[0][i]] += left / (float)rule->n_used;
}

/* ------------------------------------------------------------------ gradient ---------------- */

/* to [n_in, n_out] = from [n_out, n_in] transposed, in squares that stay in the nearest cache. */
static void transpose(const float *from, int n_out, int n_in, float *to)
{
    enum { SIDE = 16 };
    for (int i0 = 0; i0 < n_out; i0 += SIDE) {
        for (int j0 = 0; j0 < n_in; j0 += SIDE) {
            int i1 = PG_MIN(i0 + SIDE, n_out), j1 = PG_MIN(j0 + SIDE, n_in);
            for (int j = j0; j < j1; j++) {
                for (int i = i0; i < i1; i++) {
                    to[(size_t)j * (size_t)n_out + (size_t)i] =
                        from[(size_t)i * (size_t)n_in + (size_t)j];
                }
            }
        }
    }
}

/* y [n_rows_x, n_rows_w] = x · wᵀ, rows of n values. */
struct product {
    const float *x, *w;
    int n_rows_x, n_rows_w, n;
    float *y;
};

static void multiply(const struct pg_kernels *k, const struct product *p)
{
    struct pg_acts x = {.kind = PG_ACT_F32, .n = p->n, .f32 = p->x};
    struct pg_matmul m = {.w = p->w,
                          .type = PG_TYPE_F32,
                          .x = &x,
                          .n_tok = p->n_rows_x,
                          .y = p->y,
                          .y_stride = (size_t)p->n_rows_w};
    k->matmul[PG_TYPE_F32](&m, 0, p->n_rows_w);
}

/* u, a and z of n rows of inputs. */
static void forward(const struct pg_fit *f, const float *w, const struct pg_fit_scratch *s, int n)
{
    struct pg_fit_parts at = pg_fit_parts(&f->opt);
    int n_expert = f->opt.rule.n_expert, n_hidden = f->opt.n_hidden, n_wide = n_expert + n_hidden;
    multiply(f->opt.k, &(struct product){s->x, w + at.w, n, n_wide, f->opt.n_embd, s->wide});
    for (int t = 0; t < n; t++) {
        const float *wide = s->wide + (size_t)t * (size_t)n_wide + n_expert;
        float *u = s->u + (size_t)t * (size_t)n_hidden;
        memcpy(u, wide, (size_t)n_hidden * sizeof(float));
        f->opt.k->add(w + at.c, u, n_hidden);
        f->opt.k->silu_mul(u, s->ones, s->a + (size_t)t * (size_t)n_hidden, n_hidden);
    }
    memset(s->z, 0, (size_t)n * (size_t)n_expert * sizeof(float));
    if (n_hidden)
        multiply(f->opt.k, &(struct product){s->a, w + at.u, n, n_expert, n_hidden, s->z});
    for (int t = 0; t < n; t++) {
        const float *wide = s->wide + (size_t)t * (size_t)n_wide;
        for (int i = 0; i < n_expert; i++)
            s->z[t * n_expert + i] += wide[i] + w[at.b + (size_t)i];
    }
}

/* The derivatives by u, out of those by z, into their rows of dwide; and g of U. */
static void backward_hidden(const struct pg_fit *f, const float *w, const struct pg_fit_scratch *s,
                            int n)
{
    struct pg_fit_parts at = pg_fit_parts(&f->opt);
    int n_expert = f->opt.rule.n_expert, n_hidden = f->opt.n_hidden;
    transpose(s->a, n, n_hidden, s->at);
    multiply(f->opt.k, &(struct product){s->dwide, s->at, n_expert, n_hidden, n, s->g + at.u});
    transpose(w + at.u, n_expert, n_hidden, s->ut);
    multiply(f->opt.k, &(struct product){s->dz, s->ut, n, n_hidden, n_expert, s->da});
    for (int i = 0; i < n * n_hidden; i++) { /* silu' = sigmoid (1 + u - silu) */
        float u = s->u[i], sigmoid = u == 0 ? 0.5f : s->a[i] / u;
        s->da[i] *= sigmoid * (1 + u - s->a[i]);
    }
    transpose(s->da, n, n_hidden, s->dwide + n_expert * n);
}

/* g = the mean of the n tokens' derivatives, out of those by z. */
static void backward(const struct pg_fit *f, const float *w, const struct pg_fit_scratch *s, int n)
{
    struct pg_fit_parts at = pg_fit_parts(&f->opt);
    int n_expert = f->opt.rule.n_expert, n_wide = n_expert + f->opt.n_hidden;
    for (int i = 0; i < n * n_expert; i++)
        s->dz[i] /= (float)n;
    transpose(s->dz, n, n_expert, s->dwide);
    if (f->opt.n_hidden)
        backward_hidden(f, w, s, n);
    transpose(s->x, n, f->opt.n_embd, s->xt);
    multiply(f->opt.k, &(struct product){s->dwide, s->xt, n_wide, f->opt.n_embd, n, s->g + at.w});
    for (int i = 0; i < n_wide; i++) { /* b, and c behind it */
        float sum = 0;
        for (int t = 0; t < n; t++)
            sum += s->dwide[i * n + t];
        s->g[at.b + (size_t)i] = sum;
    }
}

/* ------------------------------------------------------------------ minibatches ------------- */

static size_t token_at(const struct pg_fit_batch *b, int t)
{
    return b->order ? (size_t)b->order[b->from + (size_t)t] : b->from + (size_t)t;
}

void pg_fit_logits(const struct pg_fit *f, int block, const float *w, const struct pg_fit_batch *b,
                   const struct pg_fit_scratch *s)
{
    size_t n_embd = (size_t)f->opt.n_embd;
    memset(s->x, 0, (size_t)b->n * n_embd * sizeof(float));
    for (int t = 0; t < b->n; t++) {
        const uint16_t *h = pg_states_h(b->states, block, token_at(b, t));
        f->opt.k->axpy_f16(1, h, s->x + (size_t)t * n_embd, f->opt.n_embd);
    }
    forward(f, w, s, b->n);
}

double pg_fit_loss(const struct pg_fit *f, int block, const float *w, const struct pg_fit_batch *b,
                   const struct pg_fit_scratch *s)
{
    int n_expert = f->opt.rule.n_expert;
    bool coins = f->opt.rule.sigmoid && f->opt.decides;
    double sum = 0;
    pg_fit_logits(f, block, w, b, s);
    for (int t = 0; t < b->n; t++) {
        size_t row = (size_t)t * (size_t)n_expert;
        aim(f, pg_states_logits(b->states, block + f->opt.level, token_at(b, t)), s);
        sum += pg_fit_divergence(s->p, s->z + row, n_expert, coins, s->dz + row);
    }
    return sum;
}

double pg_fit_gradient(const struct pg_fit *f, int block, const float *w,
                       const struct pg_fit_batch *b, const struct pg_fit_scratch *s)
{
    double sum = pg_fit_loss(f, block, w, b, s);
    backward(f, w, s, b->n);
    return sum;
}
