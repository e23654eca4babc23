/* SPDX-License-Identifier: MIT
 * The plain C reference of every slot: it defines the order of every sum (see kernels.h), which
 * the faster levels reproduce bit for bit.
 */
#include "cpu/kernels.h"

#include <math.h>
#include <string.h>

enum { N_SUMS = 16 };

static float tree(float *s)
{
    for (int step = N_SUMS / 2; step > 0; step /= 2)
        for (int j = 0; j < step; j++)
            s[j] += s[j + step];
    return s[0];
}

/* ------------------------------------------------------------------ matrices ---------------- */

static void unpack_block(enum pg_type t, const uint8_t *w, struct pg_unpacked *u)
{
    pg_type_traits(t)->unpack(w, u);
}

static int32_t dot_int(const struct pg_unpacked *u, const int8_t *x, int n)
{
    int32_t sum = 0;
    for (int g = 0; g < n / 16; g++) {
        int32_t part = 0;
        for (int i = 16 * g; i < 16 * (g + 1); i++)
            part += u->q[i] * x[i];
        sum += u->scale[g] * part;
    }
    return sum;
}

#include "cpu/quant_body.h"

/* A row of F32, F16 or BF16 is converted a piece at a time, whole multiples of the sums. */
static float dot_row(const struct pg_type_traits *t, const uint8_t *w, const float *x, int n)
{
    enum { PIECE = 16 * N_SUMS };
    float s[N_SUMS] = {0}, piece[PIECE];
    for (int i = 0; i < n; i += PIECE) {
        int m = PG_MIN(n - i, PIECE);
        t->to_float(w + (size_t)i * (size_t)t->block_bytes, piece, m);
        for (int k = 0; k < m; k++)
            s[k % N_SUMS] = fmaf(piece[k], x[i + k], s[k % N_SUMS]);
    }
    return tree(s);
}

static void matmul_float(const struct pg_matmul *m, int row0, int row1)
{
    const struct pg_type_traits *t = pg_type_traits(m->type);
    int n = m->x->n;
    size_t row_bytes = pg_type_bytes(m->type, n);
    for (int r = row0; r < row1; r++)
        for (int j = 0; j < m->n_tok; j++)
            m->y[(size_t)j * m->y_stride + (size_t)r] = dot_row(
                t, (const uint8_t *)m->w + (size_t)r * row_bytes, m->x->f32 + pg_token_at(m, j), n);
}

/* ------------------------------------------------------------------ activations ------------- */

static uint32_t magnitude(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof(u));
    return u & 0x7fffffff;
}

static void act_block(const float *x, int n, int8_t *q, float *d, int16_t *sums)
{
    uint32_t largest = 0;
    for (int i = 0; i < n; i++)
        largest = PG_MAX(largest, magnitude(x[i]));
    float amax;
    memcpy(&amax, &largest, sizeof(amax));
    float scale = pg_act_scale(amax, n, d);
    for (int i = 0; i < n; i++) {
        float v = x[i] * scale;
        v = v < 127.0f ? v : 127.0f;
        v = v > -127.0f ? v : -127.0f;
        q[i] = (int8_t)rintf(v);
    }
    for (int g = 0; g < n / 16; g++) {
        int sum = 0;
        for (int i = 16 * g; i < 16 * (g + 1); i++)
            sum += q[i];
        sums[g] = (int16_t)sum;
    }
}

#include "cpu/act_body.h"

/* ------------------------------------------------------------------ floats ------------------ */

static float dot(const float *a, const float *b, int n)
{
    float s[N_SUMS] = {0};
    for (int i = 0; i < n; i++)
        s[i % N_SUMS] = fmaf(a[i], b[i], s[i % N_SUMS]);
    return tree(s);
}

static float dot_f16(const uint16_t *a, const float *b, int n)
{
    float s[N_SUMS] = {0};
    for (int i = 0; i < n; i++)
        s[i % N_SUMS] = fmaf(pg_f16_to_f32(a[i]), b[i], s[i % N_SUMS]);
    return tree(s);
}

static void axpy(float s, const float *x, float *y, int n)
{
    for (int i = 0; i < n; i++)
        y[i] = fmaf(s, x[i], y[i]);
}

static void axpy_f16(float s, const uint16_t *x, float *y, int n)
{
    for (int i = 0; i < n; i++)
        y[i] = fmaf(s, pg_f16_to_f32(x[i]), y[i]);
}

#include "cpu/table_body.h"

static void rms_norm(const float *x, const float *g, float eps, float *y, int n)
{
    float scale = 1.0f / sqrtf(dot(x, x, n) / (float)n + eps);
    for (int i = 0; i < n; i++)
        y[i] = x[i] * scale * g[i];
}

float pg_expf(float x)
{
    float v = x > PG_EXP_MAX ? PG_EXP_MAX : x;
    float t = fmaf(v, PG_EXP_LOG2E, PG_EXP_MAGIC), k = t - PG_EXP_MAGIC;
    float r = fmaf(k, -PG_EXP_LN2_HI, v);
    r = fmaf(k, -PG_EXP_LN2_LO, r);
    float p = PG_EXP_C6;
    p = fmaf(p, r, PG_EXP_C5);
    p = fmaf(p, r, PG_EXP_C4);
    p = fmaf(p, r, PG_EXP_C3);
    p = fmaf(p, r, PG_EXP_C2);
    p = fmaf(p, r, 1.0f);
    p = fmaf(p, r, 1.0f);
    uint32_t bits; /* of t: the magic number's, plus k; shifted up they are k as an exponent */
    memcpy(&bits, &t, sizeof(bits));
    bits = (bits + 127) << 23;
    float factor;
    memcpy(&factor, &bits, sizeof(factor));
    return x < PG_EXP_MIN ? 0 : p * factor;
}

static void softmax(float *x, int n)
{
    float max = -INFINITY, s[N_SUMS] = {0};
    for (int i = 0; i < n; i++)
        max = x[i] > max ? x[i] : max;
    for (int i = 0; i < n; i++) {
        x[i] = pg_expf(x[i] - max);
        s[i % N_SUMS] += x[i];
    }
    float scale = 1.0f / tree(s);
    for (int i = 0; i < n; i++)
        x[i] = x[i] * scale;
}

static void silu_mul(const float *gate, const float *up, float *y, int n)
{
    for (int i = 0; i < n; i++)
        y[i] = gate[i] / (1.0f + pg_expf(-gate[i])) * up[i];
}

static void add(const float *x, float *y, int n)
{
    for (int i = 0; i < n; i++)
        y[i] += x[i];
}

static void to_f16(const float *x, uint16_t *y, int n)
{
    for (int i = 0; i < n; i++)
        y[i] = pg_f32_to_f16(x[i]);
}

void pg_kernels_ref(struct pg_kernels *k)
{
    for (unsigned type = 0; type < PG_TYPE_LIMIT; type++) {
        const struct pg_type_traits *t = pg_type_traits(type);
        k->matmul[type] = !t->name ? NULL : t->unpack ? matmul_quant : matmul_float;
    }
    k->name = "ref";
    k->row_tile = 8;
    k->act_q8 = act_q8;
    k->act_q8k = act_q8k;
    k->dot = dot;
    k->dots = dots;
    k->dots_f16 = dots_f16;
    k->axpys = axpys;
    k->axpys_f16 = axpys_f16;
    k->axpy = axpy;
    k->axpy_f16 = axpy_f16;
    k->rms_norm = rms_norm;
    k->softmax = softmax;
    k->silu_mul = silu_mul;
    k->add = add;
    k->to_f16 = to_f16;
}
