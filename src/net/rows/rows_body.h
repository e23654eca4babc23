/* SPDX-License-Identifier: MIT
 * The rows of rows.h, in vectors of 64 bytes (a compiler's vector type: whatever the level has for
 * them). The file that includes this has defined ROWS_TABLE, the name of the table, and brings
 * v_exp() by including rows_exp32.h or rows_exp64.h, which include rows_vec.h.
 */
#ifndef PG_NET_ROWS_ROWS_BODY_H
#define PG_NET_ROWS_ROWS_BODY_H

#include "net/rows/rows.h"

#include <math.h>

static pg_real dot(const pg_real *a, const pg_real *b, int n)
{
    vec sum = {0};
    for (int i = 0; i < n; i += LANES)
        sum += take(a + i, n - i) * take(b + i, n - i);
    return tree(sum);
}

static void add(const pg_real *x, pg_real *y, int n)
{
    for (int i = 0; i < n; i += LANES)
        put(y + i, take(y + i, n - i) + take(x + i, n - i), n - i);
}

static void axpy(pg_real s, const pg_real *x, pg_real *y, int n)
{
    vec vs = all(s);
    for (int i = 0; i < n; i += LANES)
        put(y + i, take(y + i, n - i) + vs * take(x + i, n - i), n - i);
}

static void scale_row(pg_real s, const pg_real *x, pg_real *y, int n)
{
    vec vs = all(s);
    for (int i = 0; i < n; i += LANES)
        put(y + i, vs * take(x + i, n - i), n - i);
}

static pg_real norm(const pg_real *x, const pg_real *gain, pg_real eps, pg_real *y, int n)
{
    pg_real s = (pg_real)(1 / sqrt((double)(dot(x, x, n) / (pg_real)n + eps)));
    vec vs = all(s);
    for (int i = 0; i < n; i += LANES)
        put(y + i, take(x + i, n - i) * vs * take(gain + i, n - i), n - i);
    return s;
}

static void norm_back(const struct pg_norm_back *b, int n)
{
    vec sum = {0}, vs = all(b->s);
    for (int i = 0; i < n; i += LANES) {
        int k = n - i;
        sum += take(b->dy + i, k) * take(b->gain + i, k) * take(b->x + i, k);
    }
    vec along = all(b->s * b->s * b->s * tree(sum) / (pg_real)n);
    for (int i = 0; i < n; i += LANES) {
        int k = n - i;
        vec x = take(b->x + i, k), dy = take(b->dy + i, k) * vs;
        vec dx = dy * take(b->gain + i, k) - along * x;
        put(b->dgain + i, take(b->dgain + i, k) + dy * x, k);
        put(b->dx + i, b->add ? dx + take(b->add + i, k) : dx, k);
    }
}

static pg_real softmax(pg_real *x, pg_real scale, pg_real times, int n)
{
    vec most = all(x[0]), sum = {0}, vs = all(scale);
    for (int i = 0; i < n; i += LANES) {
        vec v = n - i >= LANES ? load(x + i) : take_or(x + i, n - i, x[0]);
        most = larger(most, v);
    }
    pg_real max = largest(most) * scale;
    vec vmax = all(max);
    for (int i = 0; i < n; i += LANES) {
        vec e = v_exp(take_or(x + i, n - i, (pg_real)-INFINITY) * vs - vmax);
        put(x + i, e, n - i);
        sum += e;
    }
    pg_real total = tree(sum);
    scale_row(times / total, x, x, n);
    return max + (pg_real)log((double)total);
}

static void softmax_back(const pg_real *p, pg_real *dp, pg_real mean, int n)
{
    vec vm = all(mean);
    for (int i = 0; i < n; i += LANES)
        put(dp + i, take(p + i, n - i) * (take(dp + i, n - i) - vm), n - i);
}

/* exp(scale x - most) of the window's part of the vector at i, 0 elsewhere. */
static vec window_exp(const pg_real *x, int i, const struct pg_window *w, vec scale, vec most)
{
    return within(v_exp(load(x + i) * scale - most), w->from - i, w->to - i, 0);
}

static void clear(pg_real *x, int from, int to)
{
    for (int i = from; i < to; i += LANES)
        put(x + i, (vec){0}, LANES);
}

static struct pg_attend attend(pg_real *x, const struct pg_window *w, pg_real scale)
{
    int begin = w->from / LANES * LANES, end = (w->to + LANES - 1) / LANES * LANES;
    vec most = all(x[w->from]), sum = {0}, vs = all(scale);
    for (int i = begin; i < end; i += LANES)
        most = larger(most, within(load(x + i), w->from - i, w->to - i, x[w->from]));
    pg_real max = largest(most) * scale;
    vec vmax = all(max);
    clear(x, 0, begin);
    for (int i = begin; i < end; i += LANES) {
        vec e = window_exp(x, i, w, vs, vmax);
        put(x + i, e, LANES);
        sum += e;
    }
    clear(x, end, w->n);
    pg_real total = tree(sum);
    return (struct pg_attend){max + (pg_real)log((double)total), 1 / total};
}

static void attend_back(pg_real *x, pg_real *dp, const struct pg_window *w,
                        const struct pg_attend_back *b)
{
    int begin = w->from / LANES * LANES, end = (w->to + LANES - 1) / LANES * LANES;
    vec scale = all(b->scale), lse = all(b->lse), mean = all(b->mean);
    clear(x, 0, begin);
    clear(dp, 0, begin);
    for (int i = begin; i < end; i += LANES) {
        vec p = window_exp(x, i, w, scale, lse);
        put(x + i, p, LANES);
        put(dp + i, within(p * (load(dp + i) - mean) * scale, w->from - i, w->to - i, 0), LANES);
    }
    clear(x, end, w->n);
    clear(dp, end, w->n);
}

/* up of the vector at i, or 1 */
static vec up_at(const pg_real *up, int i, int n)
{
    return up ? take(up + i, n - i) : all(1);
}

static void silu(const pg_real *gate, const pg_real *up, pg_real *act, int n)
{
    vec one = all(1);
    for (int i = 0; i < n; i += LANES) {
        vec g = take(gate + i, n - i);
        put(act + i, g / (one + v_exp(-g)) * up_at(up, i, n), n - i);
    }
}

/* The vector at i: f(gate) and its derivative in, act, dgate and dup out. Returns dact act. */
static vec act_back_at(const struct pg_act_back *b, int i, int n, vec f, vec df)
{
    int k = n - i;
    vec u = up_at(b->up, i, n), d = take(b->dact + i, k), along = d * f * u;
    d = d * all(b->times);
    put(b->act + i, f * u, k);
    if (b->up)
        put(b->dup + i, d * f, k);
    put(b->dgate + i, d * u * df, k);
    return along;
}

/* With s = sigmoid(g): d silu / d g = s (1 + g (1 - s)). */
static pg_real silu_back(const struct pg_act_back *b, int n)
{
    vec one = all(1), sum = {0};
    for (int i = 0; i < n; i += LANES) {
        vec g = take(b->gate + i, n - i);
        vec s = one / (one + v_exp(-g)), gs = g * s;
        sum += act_back_at(b, i, n, gs, s + gs * (one - s));
    }
    return tree(sum);
}

/* GELU is g sigmoid(z), z = GELU_1 g + GELU_3 g^3: 2 sqrt(2 / pi), and 0.044715 times that. */
#define GELU_1 1.5957691216057308
#define GELU_3 0.07135481627159276

static vec gelu_sigmoid(vec g)
{
    return all(1) / (all(1) + v_exp(-g * (all((pg_real)GELU_1) + all((pg_real)GELU_3) * g * g)));
}

static void gelu(const pg_real *gate, const pg_real *up, pg_real *act, int n)
{
    for (int i = 0; i < n; i += LANES) {
        vec g = take(gate + i, n - i);
        put(act + i, g * gelu_sigmoid(g) * up_at(up, i, n), n - i);
    }
}

static pg_real gelu_back(const struct pg_act_back *b, int n)
{
    vec sum = {0};
    for (int i = 0; i < n; i += LANES) {
        vec g = take(b->gate + i, n - i), s = gelu_sigmoid(g), gs = g * s;
        vec dz = all((pg_real)GELU_1) + all((pg_real)(3 * GELU_3)) * g * g;
        sum += act_back_at(b, i, n, gs, s + gs * (all(1) - s) * dz);
    }
    return tree(sum);
}

static void relu(const pg_real *gate, const pg_real *up, pg_real *act, int n)
{
    for (int i = 0; i < n; i += LANES)
        put(act + i, larger((vec){0}, take(gate + i, n - i)) * up_at(up, i, n), n - i);
}

/* At 0 the derivative is 0. */
static pg_real relu_back(const struct pg_act_back *b, int n)
{
    vec sum = {0};
    for (int i = 0; i < n; i += LANES) {
        vec f = larger((vec){0}, take(b->gate + i, n - i));
        sum += act_back_at(b, i, n, f, positive(f));
    }
    return tree(sum);
}

const struct pg_row_ops ROWS_TABLE = {
    .dot = dot,
    .add = add,
    .axpy = axpy,
    .scale = scale_row,
    .norm = norm,
    .norm_back = norm_back,
    .softmax = softmax,
    .softmax_back = softmax_back,
    .attend = attend,
    .attend_back = attend_back,
    .silu = {silu, silu_back},
    .gelu = {gelu, gelu_back},
    .relu = {relu, relu_back},
};

#endif
