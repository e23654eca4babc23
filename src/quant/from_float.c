/* SPDX-License-Identifier: MIT
 * Values to blocks: the scale and offset that lose least, and then what unpacking takes apart.
 *
 * A group of values shares a scale, x ≈ s q + o. For a number of scales about the one that the
 * largest value asks for, values are rounded, and the s and o of least squares for those q found;
 * the best is kept. K formats keep the groups' scales, and offsets, as small integers of two floats
 * a block, so the values are rounded once more to what these say.
 */
#include "quant/quant.h"

#include <float.h>
#include <math.h>
#include <string.h>

/* What integers a format has. */
struct form {
    int group;       /* values with a scale of their own */
    int lo, hi;      /* of q */
    int scale, min;  /* the largest integer of a group's scale and offset; 0: floats a block */
    bool has_min;    /* an offset */
    bool is_lowered; /* that is at most 0 */
    void (*pack)(const struct pg_unpacked *u, uint8_t *block);
};

/* ------------------------------------------------------------------ one group --------------- */

struct fit {
    float s, o;
    double error;
};

static int nearest(float x, int lo, int hi)
{
    const float r = rintf(x); /* what is no number, of a scale of 0, is the lowest */
    return r > (float)hi ? hi : r > (float)lo ? (int)r : lo;
}

/* The tries below are most of the time that quantising takes. Their loops are over a group of a
 * size that is known, 16 or 32, in lanes that do not meet, so that a compiler makes vectors of
 * them.
 */
enum { GROUP_MAX = 32, LANES = 4 };
#define INLINE static inline __attribute__((always_inline))

/* As nearest() has it: added to this, a small float has no bits behind its point. */
INLINE float whole(float x, float lo, float hi)
{
    const float point = 0x1.8p23f;
    x = x > lo ? x : lo;
    x = x < hi ? x : hi;
    return (x + point) - point;
}

INLINE double sum_of(const double lane[LANES])
{
    return (lane[0] + lane[1]) + (lane[2] + lane[3]);
}

/* Sums over a group of q, q q and x q. */
struct sums {
    double q, qq, xq;
};

INLINE struct sums sums_of(const double *x, const float *q, int n)
{
    float q1[LANES] = {0}, q2[LANES] = {0}; /* of integers, and exact: below 2^24 */
    double xq[LANES] = {0};
    for (int i = 0; i < n; i += LANES)
        for (int k = 0; k < LANES; k++) {
            q1[k] += q[i + k];
            q2[k] += q[i + k] * q[i + k];
            xq[k] += x[i + k] * (double)q[i + k];
        }
    return (struct sums){(double)((q1[0] + q1[1]) + (q1[2] + q1[3])),
                         (double)((q2[0] + q2[1]) + (q2[2] + q2[3])), sum_of(xq)};
}

/* A group, and sums that all tries need. */
struct group {
    const float *x;
    double v[GROUP_MAX]; /* the same */
    double x1, xx;
};

INLINE struct group group_of(const float *x, int n)
{
    struct group g = {.x = x};
    double x1[LANES] = {0}, xx[LANES] = {0};
    for (int i = 0; i < n; i += LANES)
        for (int k = 0; k < LANES; k++) {
            const double v = (double)x[i + k];
            g.v[i + k] = v;
            x1[k] += v;
            xx[k] += v * v;
        }
    g.x1 = sum_of(x1);
    g.xx = sum_of(xx);
    return g;
}

/* The s of least squares for q = x / try, no offset. */
INLINE struct fit try_scale(const struct group *g, const struct form *f, float inverse, int n)
{
    float q[GROUP_MAX];
    for (int i = 0; i < n; i++)
        q[i] = whole(g->x[i] * inverse, (float)f->lo, (float)f->hi);
    const struct sums s = sums_of(g->v, q, n);
    if (s.qq <= 0)
        return (struct fit){0, 0, g->xx};
    return (struct fit){(float)(s.xq / s.qq), 0, g->xx - s.xq * s.xq / s.qq};
}

/* The value furthest from 0 gets the integer furthest from it. */
INLINE struct fit fit_scale(const float *x, const struct form *f, int n)
{
    float most = 0;
    for (int i = 0; i < n; i++)
        if (fabsf(x[i]) > fabsf(most))
            most = x[i];
    struct fit best = {0, 0, 0};
    if (most == 0)
        return best;
    const struct group g = group_of(x, n);
    for (int k = -9; k <= 9; k++) {
        struct fit t = try_scale(&g, f, ((float)f->lo + 0.1f * (float)k) / most, n);
        if (k == -9 || t.error < best.error)
            best = t;
    }
    return best;
}

/* The squares that are lost with t's s and o. */
INLINE double error_of(const struct group *g, const struct form *f, const struct fit *t, int n)
{
    float q[GROUP_MAX];
    double sum[LANES] = {0};
    for (int i = 0; i < n; i++)
        q[i] = whole((g->x[i] - t->o) / t->s, 0, (float)f->hi);
    for (int i = 0; i < n; i += LANES)
        for (int k = 0; k < LANES; k++) {
            const double e = (double)t->s * (double)q[i + k] + (double)t->o - g->v[i + k];
            sum[k] += e * e;
        }
    return sum_of(sum);
}

/* s and o of least squares for q = (x - o) / s. */
INLINE struct fit try_offset(const struct group *g, const struct form *f, float s, float o, int n)
{
    float q[GROUP_MAX];
    struct fit t = {s, o, 0};
    for (int i = 0; i < n; i++)
        q[i] = whole((g->x[i] - o) / s, 0, (float)f->hi);
    const struct sums u = sums_of(g->v, q, n);
    const double det = n * u.qq - u.q * u.q;
    if (det > 0) {
        t.s = (float)((n * u.xq - u.q * g->x1) / det);
        t.o = (float)((u.qq * g->x1 - u.q * u.xq) / det);
    }
    if (f->is_lowered && t.o > 0) {
        t.o = 0;
        t.s = u.qq > 0 ? (float)(u.xq / u.qq) : 0;
    }
    if (!(t.s > 0))
        t.s = s;
    t.error = error_of(g, f, &t, n);
    return t;
}

INLINE struct fit fit_offset(const float *x, const struct form *f, int n)
{
    float least = x[0], most = x[0];
    for (int i = 1; i < n; i++) {
        least = fminf(least, x[i]);
        most = fmaxf(most, x[i]);
    }
    if (f->is_lowered)
        least = fminf(least, 0);
    struct fit best = {0, least, 0};
    if (most <= least)
        return best;
    const struct group g = group_of(x, n);
    for (int k = -5; k <= 15; k++) {
        struct fit t =
            try_offset(&g, f, (most - least) / ((float)f->hi + 0.1f * (float)k), least, n);
        if (k == -5 || t.error < best.error)
            best = t;
    }
    return best;
}

static struct fit fit_group(const float *x, const struct form *f)
{
    if (f->has_min)
        return f->group == 16 ? fit_offset(x, f, 16) : fit_offset(x, f, 32);
    return f->group == 16 ? fit_scale(x, f, 16) : fit_scale(x, f, 32);
}

/* ------------------------------------------------------------------ one block --------------- */

/* As a block keeps it: without an infinity, of which its values would be no numbers. */
static float to_half(float x)
{
    const float most = 65504;
    return pg_f16_to_f32(pg_f32_to_f16(x > most ? most : x < -most ? -most : x));
}

/* The largest of the groups' numbers is `most` of the unit. */
static float unit_of(const float *v, int n, int most)
{
    float top = 0;
    for (int i = 0; i < n; i++)
        top = fmaxf(top, fabsf(v[i]));
    return to_half(top / (float)most);
}

static int in_units(float v, float unit, int lo, int hi)
{
    return unit > 0 ? nearest(v / unit, lo, hi) : 0;
}

/* Groups to integers of 16 values each, as struct pg_unpacked has them. */
static void set_heads(const struct form *f, const struct fit *fit, int n, struct pg_unpacked *u)
{
    float s[16], o[16];
    const int each = f->group / 16;
    for (int g = 0; g < n; g++) {
        s[g] = fit[g].s;
        o[g] = fit[g].o;
    }
    if (!f->scale) {
        u->d = to_half(s[0]);
        u->m = f->has_min ? to_half(o[0]) : 0;
    } else {
        u->d = unit_of(s, n, f->scale);
        u->m = f->has_min ? unit_of(o, n, f->min) : 0;
    }
    for (int g = 0; g < n; g++) {
        const int scale = f->scale ? in_units(s[g], u->d, f->has_min ? 0 : -f->scale, f->scale) : 1;
        const int min = f->scale ? in_units(-o[g], u->m, 0, f->min) : f->has_min ? -1 : 0;
        for (int i = g * each; i < (g + 1) * each; i++) {
            u->scale[i] = (int16_t)scale;
            u->min[i] = (int16_t)min;
        }
    }
}

static void set_values(const struct form *f, const float *x, int n, struct pg_unpacked *u)
{
    for (int i = 0; i < n; i++) {
        const float d = u->d * (float)u->scale[i / 16], m = u->m * (float)u->min[i / 16];
        u->q[i] = d != 0 ? (int8_t)nearest((x[i] + m) / d, f->lo, f->hi) : (int8_t)PG_MAX(f->lo, 0);
    }
}

static void quantize_block(const struct form *f, int n, const float *x, uint8_t *out)
{
    struct pg_unpacked u = {0};
    struct fit fit[16];
    for (int g = 0; g < n / f->group; g++)
        fit[g] = fit_group(x + g * f->group, f);
    set_heads(f, fit, n / f->group, &u);
    set_values(f, x, n, &u);
    f->pack(&u, out);
}

/* ------------------------------------------------------------------ packing ----------------- */

static void put_half(uint8_t *p, float x)
{
    uint16_t h = pg_f32_to_f16(x);
    p[0] = (uint8_t)h;
    p[1] = (uint8_t)(h >> 8);
}

static void put_32(const int8_t *q, int offset, uint8_t *nibbles, uint8_t *fifth)
{
    for (int i = 0; i < 32; i++) {
        const int v = q[i] + offset;
        uint8_t *at = &nibbles[i % 16];
        *at = (uint8_t)(i < 16 ? v & 15 : *at | (v & 15) << 4);
        if (fifth)
            fifth[i / 8] |= (uint8_t)((v >> 4 & 1) << i % 8);
    }
}

static void pack_q4_0(const struct pg_unpacked *u, uint8_t *p)
{
    put_half(p, u->d);
    put_32(u->q, 8, p + 2, NULL);
}

static void pack_q4_1(const struct pg_unpacked *u, uint8_t *p)
{
    put_half(p, u->d);
    put_half(p + 2, u->m);
    put_32(u->q, 0, p + 4, NULL);
}

static void pack_q5_0(const struct pg_unpacked *u, uint8_t *p)
{
    put_half(p, u->d);
    put_32(u->q, 16, p + 6, p + 2);
}

static void pack_q5_1(const struct pg_unpacked *u, uint8_t *p)
{
    put_half(p, u->d);
    put_half(p + 2, u->m);
    put_32(u->q, 0, p + 8, p + 4);
}

static void pack_q8_0(const struct pg_unpacked *u, uint8_t *p)
{
    put_half(p, u->d);
    memcpy(p + 2, u->q, 32);
}

static void put_two_bits(uint8_t *p, int i, int v)
{
    p[i / 128 * 32 + i % 32] |= (uint8_t)((v & 3) << i % 128 / 32 * 2);
}

static void pack_q2_k(const struct pg_unpacked *u, uint8_t *p)
{
    for (int g = 0; g < 16; g++)
        p[g] = (uint8_t)(u->scale[g] | u->min[g] << 4);
    for (int i = 0; i < 256; i++)
        put_two_bits(p + 16, i, u->q[i]);
    put_half(p + 80, u->d);
    put_half(p + 82, u->m);
}

static void pack_q3_k(const struct pg_unpacked *u, uint8_t *p)
{
    uint8_t *scales = p + 96;
    for (int g = 0; g < 16; g++) {
        const int v = u->scale[g] + 32;
        scales[g % 8] |= (uint8_t)((v & 15) << g / 8 * 4);
        scales[8 + g % 4] |= (uint8_t)((v >> 4) << g / 4 * 2);
    }
    for (int i = 0; i < 256; i++) {
        const int v = u->q[i] + 4;
        put_two_bits(p + 32, i, v);
        p[i % 32] |= (uint8_t)((v >> 2) << i / 32);
    }
    put_half(p + 108, u->d);
}

static void put_heads_k(const struct pg_unpacked *u, uint8_t *p)
{
    uint8_t *s = p + 4;
    put_half(p, u->d);
    put_half(p + 2, u->m);
    for (int g = 0; g < 8; g++) {
        const int scale = u->scale[2 * g], min = u->min[2 * g];
        if (g < 4) {
            s[g] |= (uint8_t)scale;
            s[g + 4] |= (uint8_t)min;
        } else {
            s[g + 4] |= (uint8_t)((scale & 15) | (min & 15) << 4);
            s[g - 4] |= (uint8_t)(scale >> 4 << 6);
            s[g] |= (uint8_t)(min >> 4 << 6);
        }
    }
}

static void pack_q4_k(const struct pg_unpacked *u, uint8_t *p)
{
    put_heads_k(u, p);
    for (int i = 0; i < 256; i++)
        p[16 + i / 64 * 32 + i % 32] |= (uint8_t)(u->q[i] << i % 64 / 32 * 4);
}

static void pack_q5_k(const struct pg_unpacked *u, uint8_t *p)
{
    put_heads_k(u, p);
    for (int i = 0; i < 256; i++) {
        p[48 + i / 64 * 32 + i % 32] |= (uint8_t)((u->q[i] & 15) << i % 64 / 32 * 4);
        p[16 + i % 32] |= (uint8_t)((u->q[i] >> 4) << i / 32);
    }
}

static void pack_q6_k(const struct pg_unpacked *u, uint8_t *p)
{
    for (int i = 0; i < 256; i++) {
        const int v = u->q[i] + 32;
        p[i / 128 * 64 + i % 64] |= (uint8_t)((v & 15) << i % 128 / 64 * 4);
        put_two_bits(p + 128, i, v >> 4);
    }
    for (int g = 0; g < 16; g++)
        p[192 + g] = (uint8_t)u->scale[g];
    put_half(p + 208, u->d);
}

/* ------------------------------------------------------------------ the table --------------- */

static const struct form forms[PG_TYPE_LIMIT] = {
    [PG_TYPE_Q4_0] = {32, -8, 7, 0, 0, false, false, pack_q4_0},
    [PG_TYPE_Q4_1] = {32, 0, 15, 0, 0, true, false, pack_q4_1},
    [PG_TYPE_Q5_0] = {32, -16, 15, 0, 0, false, false, pack_q5_0},
    [PG_TYPE_Q5_1] = {32, 0, 31, 0, 0, true, false, pack_q5_1},
    [PG_TYPE_Q8_0] = {32, -127, 127, 0, 0, false, false, pack_q8_0},
    [PG_TYPE_Q2_K] = {16, 0, 3, 15, 15, true, true, pack_q2_k},
    [PG_TYPE_Q3_K] = {16, -4, 3, 31, 0, false, false, pack_q3_k},
    [PG_TYPE_Q4_K] = {32, 0, 15, 63, 63, true, true, pack_q4_k},
    [PG_TYPE_Q5_K] = {32, 0, 31, 63, 63, true, true, pack_q5_k},
    [PG_TYPE_Q6_K] = {16, -32, 31, 127, 0, false, false, pack_q6_k},
};

float pg_type_most(enum pg_type type)
{
    return type == PG_TYPE_F16 ? 65504 : type == PG_TYPE_BF16 ? 0x1.fep127f : FLT_MAX;
}

static enum pg_type smaller_block(enum pg_type type)
{
    switch (type) {
    case PG_TYPE_Q2_K:
    case PG_TYPE_Q3_K:
        return PG_TYPE_Q4_0;
    case PG_TYPE_Q4_K:
        return PG_TYPE_Q5_0;
    case PG_TYPE_Q5_K:
        return PG_TYPE_Q5_1;
    default:
        return PG_TYPE_Q8_0;
    }
}

enum pg_type pg_type_for_row(enum pg_type type, int64_t n)
{
    const enum pg_type smaller = smaller_block(type);
    if (n % pg_type_traits((uint32_t)type)->block == 0)
        return type;
    return n % pg_type_traits((uint32_t)smaller)->block == 0 ? smaller : PG_TYPE_F16;
}

void pg_from_float(enum pg_type type, const float *src, void *dst, int64_t n)
{
    const struct pg_type_traits *t = pg_type_traits(type);
    uint8_t *p = dst;
    PG_ASSERT(t->name && n >= 0 && n % t->block == 0);
    if (type == PG_TYPE_F32) {
        memcpy(dst, src, (size_t)n * sizeof(*src));
        return;
    }
    if (type == PG_TYPE_F16 || type == PG_TYPE_BF16) {
        for (int64_t i = 0; i < n; i++) {
            uint16_t h = type == PG_TYPE_F16 ? pg_f32_to_f16(src[i]) : pg_f32_to_bf16(src[i]);
            memcpy(p + 2 * i, &h, 2);
        }
        return;
    }
    memset(dst, 0, pg_type_bytes(type, n));
    for (int64_t b = 0; b < n / t->block; b++, p += t->block_bytes, src += t->block)
        quantize_block(&forms[type], t->block, src, p);
}
