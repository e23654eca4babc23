/* SPDX-License-Identifier: MIT
 * Every slot of the kernel table at every level that this machine has.
 *
 *   kern           checks: each level's bits against the reference, and the reference against
 *                  float64 within a bound; numbers that are not finite included
 *   kern --bench [THREADS [FORMAT]]   measures: see kern_bench.h
 */
#include "helpers.h"

#include <math.h>
#include <stdio.h>

#include "kern/kern_bench.h"
#include "kern/kern_data.h"

#define EPS     0x1p-24 /* half a unit in the last place of 1 */
#define CANARY  0x1.234567p+100f
#define MAX_TOK 200

static struct pg_kernels ref, table[8];
static int n_tables;

static int open_levels(void **state)
{
    static const enum pg_cpu_level levels[] = {PG_CPU_AVX2, PG_CPU_AVX512, PG_CPU_NEON};
    (void)state;
    pg_kernels_ref(&ref);
    for (size_t i = 0; i < PG_COUNT(levels); i++) {
        struct pg_err err;
        int rc = pg_kernels_init(&table[n_tables], levels[i], &err);
        if (rc == PG_ENOTSUP)
            say_skipped("levels", "%s", err.text);
        else
            must(rc, &err);
        n_tables += !rc;
    }
    return 0;
}

static uint32_t bits_of(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof(u));
    return u;
}

/* The same bits, or both NaN. */
static void same(const char *level, const char *slot, const float *got, const float *want, int n)
{
    for (int i = 0; i < n; i++)
        if (bits_of(got[i]) != bits_of(want[i]) && !(isnan(got[i]) && isnan(want[i])))
            fail_msg("%s %s: element %d of %d is %a, wanted %a", level, slot, i, n, (double)got[i],
                     (double)want[i]);
}

/* ------------------------------------------------------------------ matrices ---------------- */

struct shape {
    int n, n_out, n_tok, row0, row1;
    bool permuted;
    enum wild wild;
};

/* A level's result, checked for what lies outside its range, against the reference's. */
static void check_level(const struct pg_kernels *k, const struct pg_matmul *m,
                        const struct shape *s, const float *want)
{
    size_t all = m->y_stride * (size_t)m->n_tok;
    struct pg_matmul mine = *m;
    char slot[32];
    snprintf(slot, sizeof(slot), "matmul %s", pg_type_traits(m->type)->name);
    mine.y = memory(all * sizeof(*mine.y));
    for (size_t i = 0; i < all; i++)
        mine.y[i] = CANARY;
    k->matmul[m->type](&mine, s->row0, s->row1);
    same(k->name, slot, mine.y, want, (int)all);
    free(mine.y);
}

/* The result in double, and how far from it the reference may be. Each term carries the rounding of
 * its scale, conversion and product; each of the n_terms sums one more. */
static void check_exact(const struct pg_matmul *m, const struct shape *s, int j, int r, float got)
{
    const struct pg_type_traits *t = pg_type_traits(m->type);
    int row = m->x_row ? m->x_row[j] : j, n = m->x->n;
    const uint8_t *w = (const uint8_t *)m->w + (size_t)r * pg_type_bytes(m->type, n);
    double sum = 0, size = 0;
    struct pg_unpacked u = {0};
    float value[PG_BLOCK_MAX];
    for (int i = 0; i < n; i++) {
        int in = i % t->block;
        if (in == 0) {
            const uint8_t *block = w + (size_t)(i / t->block) * (size_t)t->block_bytes;
            t->to_float(block, value, t->block);
            if (t->unpack)
                t->unpack(block, &u);
        }
        size_t at = (size_t)row * (size_t)n + (size_t)i;
        double x = t->unpack ? (double)m->x->d[at / (size_t)t->block] * m->x->q[at]
                             : (double)m->x->f32[at];
        double min = t->has_min ? (double)u.m * u.min[in / 16] : 0;
        sum += (double)value[in] * x;
        size += (fabs((double)value[in] + min) + 2 * fabs(min)) * fabs(x);
    }
    int n_terms = t->unpack ? 2 * n / t->block : n / 16 + 4;
    double bound = EPS * (n_terms + 6) * size + 1e-40;
    if (!(fabs((double)got - sum) <= bound))
        fail_msg("ref matmul %s, n %d, row %d: %.9g, exactly %.9g, may differ by %.3g", t->name,
                 s->n, r, (double)got, sum, bound);
}

static void check_shape(enum pg_type type, const struct shape *s)
{
    const struct pg_type_traits *t = pg_type_traits(type);
    size_t bytes = pg_type_bytes(type, s->n) * (size_t)s->n_out;
    struct acts x = acts_open(&ref, t->act, s->n, s->n_tok);
    /* Exactly the matrix's bytes, up to the end of the allocation, at an address that is a multiple
     * of 32 or 2 (of 4 for floats) and no more. */
    size_t shift = 32 + (t->act == PG_ACT_F32 ? 4 : 2) * (size_t)any_below(2);
    uint8_t *memory_of_w = malloc(shift + bytes);
    int32_t x_row[MAX_TOK];
    assert_non_null(memory_of_w);
    fill_weights(type, memory_of_w + shift, bytes, s->wild);
    for (int j = 0; j < s->n_tok; j++)
        x_row[j] = any_below(s->n_tok);
    struct pg_matmul m = {.w = memory_of_w + shift,
                          .type = type,
                          .x = &x.a,
                          .x_row = s->permuted ? x_row : NULL,
                          .n_tok = s->n_tok,
                          .y_stride = (size_t)(s->n_out + 3)};
    size_t all = m.y_stride * (size_t)s->n_tok;
    m.y = memory(all * sizeof(*m.y));
    for (size_t i = 0; i < all; i++)
        m.y[i] = CANARY;
    ref.matmul[type](&m, s->row0, s->row1);
    for (int j = 0; j < s->n_tok; j++)
        for (int r = 0; r < (int)m.y_stride; r++) {
            float got = m.y[(size_t)j * m.y_stride + (size_t)r];
            if (r < s->row0 || r >= s->row1)
                assert_true(bits_of(got) == bits_of(CANARY));
            else if (s->wild == TAME && j < 4)
                check_exact(&m, s, j, r, got);
        }
    for (int i = 0; i < n_tables; i++)
        check_level(&table[i], &m, s, m.y);
    free(m.y);
    free(memory_of_w);
    acts_close(&x);
}

static void test_matmul(void **state)
{
    static const int tokens[] = {1, 2, 3, 4, 5, 8, 17, 64, 65, 131};
    (void)state;
    for (int type = 0; type < PG_TYPE_LIMIT; type++) {
        const struct pg_type_traits *t = pg_type_traits((uint32_t)type);
        if (!t->name)
            continue;
        for (size_t i = 0; i < PG_COUNT(tokens); i++) {
            int blocks = 1 + any_below(t->block == 256 ? 3 : t->block == 32 ? 11 : 70);
            int n_out = 1 + any_below(40), row0 = any_below(n_out);
            int row1 = row0 + 1 + any_below(n_out - row0);
            struct shape s = {blocks * t->block, n_out, tokens[i], row0, row1, i % 2, TAME};
            check_shape((enum pg_type)type, &s);
            s.wild = i % 3 ? EXTREME : NOT_FINITE;
            s.permuted = !s.permuted;
            s.row0 = 0;
            s.row1 = n_out;
            check_shape((enum pg_type)type, &s);
        }
        struct shape one = {t->block, 1, 1, 0, 1, false, TAME};
        check_shape((enum pg_type)type, &one);
        struct shape wide = {2048, 19, 6, 3, 19, true, TAME};
        check_shape((enum pg_type)type, &wide);
        wide.n_tok = 1;
        check_shape((enum pg_type)type, &wide);
        /* Longer than what a level may keep of a row at once, and no multiple of it. */
        struct shape rows = {4096 + 3 * t->block, 18, 1, 1, 18, true, TAME};
        check_shape((enum pg_type)type, &rows);
    }
}

/* All weights and activations at the ends of their range: 16-bit sums would overflow here. */
static void test_matmul_full(void **state)
{
    static const uint8_t fills[] = {0x00, 0xff, 0x80, 0x7f};
    (void)state;
    for (int type = 0; type < PG_TYPE_LIMIT; type++) {
        const struct pg_type_traits *t = pg_type_traits((uint32_t)type);
        if (!t->name || !t->unpack)
            continue;
        for (size_t f = 0; f < PG_COUNT(fills) * 4; f++) {
            struct shape s = {512, 8, f & 1 ? 5 : 1, 0, 8, false, EXTREME};
            struct acts x = acts_open(&ref, t->act, s.n, s.n_tok);
            size_t bytes = pg_type_bytes((enum pg_type)type, s.n) * (size_t)s.n_out;
            uint8_t *w = memory(bytes);
            int at[2], n_halves = half_places((enum pg_type)type, at);
            uint16_t one = pg_f32_to_f16(1.0f);
            memset(w, fills[f / 4], bytes);
            for (size_t b = 0; b < bytes; b += (size_t)t->block_bytes)
                for (int i = 0; i < n_halves; i++)
                    memcpy(w + b + at[i], &one, sizeof(one));
            for (int i = 0; i < s.n * s.n_tok; i++)
                x.x[i] = f & 2 ? -1.0f : 1.0f;
            void (*round)(const float *, int, int8_t *, float *, int16_t *) =
                t->act == PG_ACT_Q8 ? ref.act_q8 : ref.act_q8k;
            round(x.x, s.n * s.n_tok, x.a.q, x.a.d, x.a.sums);
            float y[64];
            struct pg_matmul m = {w, (enum pg_type)type, &x.a, NULL, s.n_tok, y, 11};
            for (size_t i = 0; i < PG_COUNT(y); i++)
                y[i] = CANARY;
            ref.matmul[type](&m, 0, 8);
            for (int r = 0; r < 8; r++)
                check_exact(&m, &s, 0, r, y[r]);
            for (int i = 0; i < n_tables; i++)
                check_level(&table[i], &m, &s, y);
            free(w);
            acts_close(&x);
        }
    }
}

/* ------------------------------------------------------------------ activations ------------- */

typedef void act_fn(const float *x, int n, int8_t *q, float *d, int16_t *sums);

struct rounded {
    int8_t q[1024];
    float d[32];
    int16_t sums[64];
};

static void check_act(const char *slot, act_fn *want_fn, act_fn *const *got_fn, const float *x,
                      int n, int block)
{
    struct rounded want, got;
    memset(&want, 0x55, sizeof(want));
    want_fn(x, n, want.q, want.d, want.sums);
    for (int i = 0; i < n; i++) {
        double d = (double)want.d[i / block];
        double bound = d * (0.50001 + abs(want.q[i]) * 0x1p-11) + 1e-30; /* d has eleven bits */
        if (isfinite(d) && !(fabs((double)x[i] - d * want.q[i]) <= bound))
            fail_msg("ref %s: %g became %d times %g", slot, (double)x[i], want.q[i], d);
        assert_true(want.q[i] != -128);
    }
    for (int g = 0; g < n / 16; g++) {
        int sum = 0;
        for (int i = 0; i < 16; i++)
            sum += want.q[16 * g + i];
        assert_int_equal(want.sums[g], sum);
    }
    for (int i = 0; i < n_tables; i++) {
        memset(&got, 0x55, sizeof(got));
        got_fn[i](x, n, got.q, got.d, got.sums);
        same(table[i].name, slot, got.d, want.d, n / block);
        if (memcmp(got.q, want.q, sizeof(got.q)) || memcmp(got.sums, want.sums, sizeof(got.sums)))
            fail_msg("%s %s: not the reference's integers", table[i].name, slot);
    }
}

/* Values of all sizes; in some blocks ties of the rounding, or numbers that are none. */
static void any_values(float *x, int n, int round)
{
    static const float odd[] = {INFINITY, -INFINITY, NAN, 0, -0.0f, 1e-42f, 3e38f, -3e38f};
    float size = ldexpf(1, any_below(200) - 100);
    for (int i = 0; i < n; i++)
        x[i] = round == 0 ? 0 : round % 5 == 0 ? 1e-38f * any_float() : size * any_float();
    if (round % 4 == 1) /* amax 127, others halfway between integers */
        for (int i = 0; i < n; i++)
            x[i] = i % 32 == 7 ? 127 : (float)any_below(127) + 0.5f;
    if (round % 4 == 2)
        for (int i = 0; i < 3; i++)
            x[any_below(n)] = odd[any_below((int)PG_COUNT(odd))];
}

static void test_act(void **state)
{
    float x[1024];
    act_fn *q8[8], *q8k[8];
    (void)state;
    for (int i = 0; i < n_tables; i++) {
        q8[i] = table[i].act_q8;
        q8k[i] = table[i].act_q8k;
    }
    for (int round = 0; round < 400; round++) {
        any_values(x, 1024, round);
        check_act("act_q8", ref.act_q8, q8, x, 32 * (1 + any_below(32)), 32);
        check_act("act_q8k", ref.act_q8k, q8k, x, 256 * (1 + any_below(4)), 256);
    }
}

/* ------------------------------------------------------------------ vectors ----------------- */

enum { LONGEST = 300, PAD = 16 };

static const int lengths[] = {0,  1,  2,  7,  8,  9,   15,  16,  17, 24,
                              31, 32, 33, 48, 64, 100, 128, 255, 300};

struct vectors {
    float a[LONGEST + PAD], b[LONGEST + PAD];
    uint16_t h[LONGEST + PAD];
    int n;
};

/* round 1: extremes among them; 2: numbers that are not finite too. */
static struct vectors any_vectors(int n, int round)
{
    static const float odd[] = {0,      -0.0f, 1e-42f,   -1e-38f,   3e38f,
                                -88.0f, 89.0f, INFINITY, -INFINITY, NAN};
    struct vectors v = {.n = n};
    for (int i = 0; i < LONGEST + PAD; i++) {
        v.a[i] = any_float() * 8;
        v.b[i] = any_float() * 8;
        if (round && any_below(6) == 0)
            v.a[i] = odd[any_below(round == 1 ? 7 : 10)];
        if (round && any_below(6) == 0)
            v.b[i] = odd[any_below(round == 1 ? 7 : 10)];
        v.h[i] = round ? any_half(round == 1 ? EXTREME : NOT_FINITE) : pg_f32_to_f16(any_float());
    }
    return v;
}

/* A slot run on copies: y is what it wrote, beyond n too, which must not change. */
typedef void run_fn(const struct pg_kernels *k, const struct vectors *v, float *y);

static void run_dot(const struct pg_kernels *k, const struct vectors *v, float *y)
{
    y[0] = k->dot(v->a, v->b, v->n);
}
/* The values as rows: of all heights up to a few tiles, with and without a rest of each. */
static struct pg_table rows_of(const struct vectors *v, const void *x)
{
    const int n_row = 1 + v->n % 9;
    return v->n < n_row ? (struct pg_table){x, 1, v->n} : (struct pg_table){x, n_row, v->n / n_row};
}
static void run_dots(const struct pg_kernels *k, const struct vectors *v, float *y)
{
    const struct pg_table rows = rows_of(v, v->a);
    k->dots(&rows, v->b, 0.3f, y);
}
static void run_dots_f16(const struct pg_kernels *k, const struct vectors *v, float *y)
{
    const struct pg_table rows = rows_of(v, v->h);
    k->dots_f16(&rows, v->b, 0.3f, y);
}
static void run_axpys(const struct pg_kernels *k, const struct vectors *v, float *y)
{
    const struct pg_table rows = rows_of(v, v->a);
    k->axpys(&rows, v->b, y);
}
static void run_axpys_f16(const struct pg_kernels *k, const struct vectors *v, float *y)
{
    const struct pg_table rows = rows_of(v, v->h);
    k->axpys_f16(&rows, v->b, y);
}
static void run_axpy(const struct pg_kernels *k, const struct vectors *v, float *y)
{
    k->axpy(v->b[0], v->a, y, v->n);
}
static void run_axpy_f16(const struct pg_kernels *k, const struct vectors *v, float *y)
{
    k->axpy_f16(v->b[0], v->h, y, v->n);
}
static void run_rms_norm(const struct pg_kernels *k, const struct vectors *v, float *y)
{
    k->rms_norm(v->a, v->b, 1e-6f, y, v->n);
}
static void run_rms_norm_place(const struct pg_kernels *k, const struct vectors *v, float *y)
{
    memcpy(y, v->a, (size_t)v->n * sizeof(*y));
    k->rms_norm(y, v->b, 1e-5f, y, v->n);
}
static void run_softmax(const struct pg_kernels *k, const struct vectors *v, float *y)
{
    memcpy(y, v->a, (size_t)v->n * sizeof(*y));
    k->softmax(y, v->n);
}
static void run_silu_mul(const struct pg_kernels *k, const struct vectors *v, float *y)
{
    k->silu_mul(v->a, v->b, y, v->n);
}
static void run_silu_mul_place(const struct pg_kernels *k, const struct vectors *v, float *y)
{
    memcpy(y, v->a, (size_t)v->n * sizeof(*y));
    k->silu_mul(y, v->b, y, v->n);
}
static void run_add(const struct pg_kernels *k, const struct vectors *v, float *y)
{
    k->add(v->a, y, v->n);
}
static void run_to_f16(const struct pg_kernels *k, const struct vectors *v, float *y)
{
    uint16_t h[LONGEST + PAD] = {0};
    k->to_f16(v->a, h, v->n);
    for (int i = 0; i < LONGEST + PAD; i++)
        y[i] = h[i];
}

static const struct {
    const char *name;
    run_fn *run;
} slots[] = {
    {"dot", run_dot},
    {"dots", run_dots},
    {"dots_f16", run_dots_f16},
    {"axpys", run_axpys},
    {"axpys_f16", run_axpys_f16},
    {"axpy", run_axpy},
    {"axpy_f16", run_axpy_f16},
    {"rms_norm", run_rms_norm},
    {"rms_norm in place", run_rms_norm_place},
    {"softmax", run_softmax},
    {"silu_mul", run_silu_mul},
    {"silu_mul in place", run_silu_mul_place},
    {"add", run_add},
    {"to_f16", run_to_f16},
};

static void test_vectors(void **state)
{
    float want[LONGEST + PAD], got[LONGEST + PAD];
    (void)state;
    for (size_t s = 0; s < PG_COUNT(slots); s++)
        for (size_t l = 0; l < PG_COUNT(lengths); l++)
            for (int round = 0; round < 12; round++) {
                struct vectors v = any_vectors(lengths[l], round % 3);
                memcpy(want, v.b, sizeof(want));
                slots[s].run(&ref, &v, want);
                for (int i = 0; i < n_tables; i++) {
                    memcpy(got, v.b, sizeof(got));
                    slots[s].run(&table[i], &v, got);
                    same(table[i].name, slots[s].name, got, want, LONGEST + PAD);
                }
            }
}

/* The reference's float slots against double. */
static void test_vectors_exact(void **state)
{
    float y[LONGEST + PAD];
    (void)state;
    for (int round = 0; round < 100; round++) {
        struct vectors v = any_vectors(1 + any_below(LONGEST), 0);
        double dot = 0, half = 0, size = 0, square = 0, max = -1e9, sum = 0;
        for (int i = 0; i < v.n; i++) {
            dot += (double)v.a[i] * (double)v.b[i];
            half += (double)pg_f16_to_f32(v.h[i]) * (double)v.b[i];
            size += (fabs((double)v.a[i]) + 1) * fabs((double)v.b[i]);
            square += (double)v.a[i] * (double)v.a[i];
            max = fmax(max, (double)v.a[i]);
        }
        double bound = EPS * (v.n / 16 + 6) * size;
        assert_true(fabs((double)ref.dot(v.a, v.b, v.n) - dot) <= bound);
        const struct pg_table row = {v.h, 1, v.n};
        ref.dots_f16(&row, v.b, 1, y);
        assert_true(fabs((double)y[0] - half) <= bound);
        run_rms_norm(&ref, &v, y);
        for (int i = 0; i < v.n; i++) {
            double want = (double)v.a[i] / sqrt(square / v.n + 1e-6) * (double)v.b[i];
            assert_true(fabs((double)y[i] - want) <= fabs(want) * EPS * (v.n / 16 + 12) + 1e-40);
        }
        for (int i = 0; i < v.n; i++)
            sum += exp((double)v.a[i] - max);
        run_softmax(&ref, &v, y);
        for (int i = 0; i < v.n; i++) {
            double want = exp((double)v.a[i] - max) / sum;
            assert_true(fabs((double)y[i] - want) <= want * EPS * (v.n / 16 + 40) + 1e-40);
        }
        run_silu_mul(&ref, &v, y);
        for (int i = 0; i < v.n; i++) {
            double want = (double)v.a[i] / (1 + exp(-(double)v.a[i])) * (double)v.b[i];
            assert_true(fabs((double)y[i] - want) <= fabs(want) * EPS * 12 + 1e-40);
        }
    }
}

/* Over its whole range in steps of many lengths. 2^-23 of the result is 1 to 2 units of its last
 * place. */
static void test_exp(void **state)
{
    double worst = 0;
    (void)state;
    for (float x = -87.33f; x < 88.37f; x += 1e-4f + 1e-5f * any_float()) {
        double want = exp((double)x);
        worst = fmax(worst, fabs((double)pg_expf(x) - want) / want);
    }
    if (worst > 0x1p-23)
        fail_msg("pg_expf is off by %.3g of the result", worst);
    assert_true(pg_expf(0) == 1 && pg_expf(-0.0f) == 1);
    assert_true(pg_expf(-INFINITY) == 0 && pg_expf(-1e30f) == 0 && pg_expf(-87.4f) == 0);
    assert_true(pg_expf(INFINITY) > 2e38f && pg_expf(INFINITY) == pg_expf(1e30f));
    assert_true(isnan(pg_expf(NAN)));
}

/* Not finite in, not a number out: what the engine looks for. */
static void test_not_finite(void **state)
{
    float x[40], d[2];
    int8_t q[64];
    int16_t sums[4];
    (void)state;
    for (int bad = 0; bad < 40; bad++) {
        for (int i = 0; i < 40; i++)
            x[i] = i == bad ? NAN : any_float();
        if (bad < 32) {
            ref.act_q8(x, 32, q, d, sums);
            assert_true(isnan(d[0]));
        }
        ref.softmax(x, 40);
        for (int i = 0; i < 40; i++)
            assert_true(isnan(x[i]));
    }
}

static void test_levels(void **state)
{
    struct pg_kernels k;
    struct pg_err err;
    unsigned present = pg_kernels_present();
    (void)state;
    assert_true(present & 1u << PG_CPU_REF);
    assert_int_equal(pg_kernels_init(&k, PG_CPU_REF, &err), 0);
    assert_string_equal(k.name, "ref");
    for (int level = PG_CPU_REF; level <= PG_CPU_NEON; level++) {
        int rc = pg_kernels_init(&k, (enum pg_cpu_level)level, &err);
        assert_int_equal(rc, present & 1u << level ? 0 : PG_ENOTSUP);
        if (rc)
            continue;
        for (uint32_t t = 0; t < PG_TYPE_LIMIT; t++)
            assert_true(!k.matmul[t] == !pg_type_traits(t)->name);
        assert_true(k.act_q8 && k.act_q8k && k.dot && k.dots && k.dots_f16 && k.axpys &&
                    k.axpys_f16 && k.axpy && k.axpy_f16 && k.rms_norm && k.softmax && k.silu_mul &&
                    k.add && k.to_f16 && k.row_tile > 0);
    }
    assert_int_equal(pg_kernels_init(&k, (enum pg_cpu_level)99, &err), PG_EARG);
    assert_int_equal(pg_kernels_init(&k, PG_CPU_AUTO, &err), 0);
    struct pg_kernels highest = n_tables ? table[n_tables - 1] : ref;
    assert_string_equal(k.name, highest.name);
}

static void test_roof(void **state)
{
    double rate = -1;
    struct pg_err err;
    (void)state;
    assert_int_equal(pg_roof_dram(0, 0, &rate, &err), PG_EARG);
    assert_true(rate == 0);
    assert_int_equal(pg_roof_dram(2, 0, &rate, &err), 0);
    assert_true(rate > 1e7 && rate < 1e13);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_levels),        cmocka_unit_test(test_exp),
        cmocka_unit_test(test_act),           cmocka_unit_test(test_vectors),
        cmocka_unit_test(test_vectors_exact), cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_matmul),        cmocka_unit_test(test_matmul_full),
        cmocka_unit_test(test_roof),
    };
    if (argc > 1 && strcmp(argv[1], "--bench") == 0)
        return bench(argc > 2 ? atoi(argv[2]) : 1, argc > 3 ? argv[3] : NULL);
    return cmocka_run_group_tests(tests, open_levels, NULL);
}
