/* SPDX-License-Identifier: MIT
 * Values to blocks and back: what a type can say it says exactly, other values it misses by no more
 * than the reference quantisers are held to, and nothing that is finite becomes what is not.
 */
#include "helpers.h"

#include "quant/quant.h"

#include <float.h>
#include <math.h>
#include <string.h>

enum { N = 4096 };

static void round_trip(enum pg_type type, const float *x, float *y, int64_t n)
{
    static uint8_t blocks[4 * N];
    assert_true(pg_type_bytes(type, n) <= sizeof(blocks));
    pg_from_float(type, x, blocks, n);
    pg_type_traits((uint32_t)type)->to_float(blocks, y, n);
}

static double error_of(const float *x, const float *y)
{
    double sum = 0;
    for (int i = 0; i < N; i++)
        sum += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
    return sqrt(sum);
}

#define FOR_TYPES(type)                                                                            \
    for (uint32_t type = 0; type < PG_TYPE_LIMIT; type++)                                          \
        if (pg_type_traits(type)->name)

/* ggml holds its own quantisers, on 0.1 + 2 cos i, to an error of sqrt(sum of squares) / n of
 * 0.002, 0.004 with three bits and 0.0075 with two. */
static void test_bounds(void **state)
{
    static float x[N], y[N];
    (void)state;
    for (int i = 0; i < N; i++)
        x[i] = 0.1f + 2 * cosf((float)i);
    FOR_TYPES(type)
    {
        round_trip((enum pg_type)type, x, y, N);
        const double error = error_of(x, y) / N;
        const double most = type == PG_TYPE_Q2_K ? 0.0075 : type == PG_TYPE_Q3_K ? 0.004 : 0.002;
        print_message("           %-5s %.6f of %.4f\n", pg_type_traits(type)->name, error, most);
        assert_true(error <= most);
    }
}

/* Of normal values, relative to their size; more bits lose less. */
static void test_normal(void **state)
{
    static const enum pg_type order[] = {PG_TYPE_Q2_K, PG_TYPE_Q3_K, PG_TYPE_Q4_0, PG_TYPE_Q4_K,
                                         PG_TYPE_Q5_0, PG_TYPE_Q5_K, PG_TYPE_Q6_K, PG_TYPE_Q8_0,
                                         PG_TYPE_BF16, PG_TYPE_F16,  PG_TYPE_F32};
    static const double most[] = {0.28,  0.155,  0.088, 0.077,  0.044, 0.039,
                                  0.019, 0.0055, 0.002, 0.0003, 0};
    static float x[N], y[N], zero[N];
    uint32_t random = 7;
    (void)state;
    for (int i = 0; i < N; i++) {
        double sum = 0;
        for (int k = 0; k < 12; k++) {
            random = random * 1664525u + 1013904223u;
            sum += (double)(random >> 8) / (1 << 24);
        }
        x[i] = (float)(sum - 6) * 0.03f;
    }
    for (size_t i = 0; i < PG_COUNT(order); i++) {
        round_trip(order[i], x, y, N);
        const double error = error_of(x, y) / error_of(x, zero);
        print_message("           %-5s %.4f of %.4f\n", pg_type_traits((uint32_t)order[i])->name,
                      error, most[i]);
        assert_true(error <= most[i]);
    }
}

/* What came out of a type goes into it again nearly without loss, and floats without any. */
static void test_again(void **state)
{
    static float x[N], y[N], z[N];
    (void)state;
    for (int i = 0; i < N; i++)
        x[i] = sinf(0.37f * (float)i) + 0.3f * sinf(1.7f * (float)i);
    FOR_TYPES(type)
    {
        round_trip((enum pg_type)type, x, y, N);
        round_trip((enum pg_type)type, y, z, N);
        assert_true(error_of(y, z) <= 0.2 * error_of(x, y));
    }
}

static void test_extremes(void **state)
{
    static const float values[] = {0,      -0.0f, 1,     -1,     1e-30f, FLT_MIN / 4, 65504,
                                   -65504, 1e6f,  3e38f, -3e38f, 1e-7f,  -1e-8f,      7.5f};
    static float x[N], y[N];
    (void)state;
    FOR_TYPES(type)
    {
        const bool small = type == PG_TYPE_F16; /* has an infinity that large values round to */
        for (size_t v = 0; v < PG_COUNT(values); v++) {
            for (int i = 0; i < 256; i++)
                x[i] = values[v];
            round_trip((enum pg_type)type, x, y, 256);
            for (int i = 0; i < 256 && !(small && fabsf(values[v]) > 65504); i++)
                assert_true(isfinite(y[i]));
            if (values[v] == 0)
                for (int i = 0; i < 256; i++)
                    assert_true(y[i] == 0);
            if (fabsf(values[v]) >= 0.5f && fabsf(values[v]) < 100)
                assert_true(fabsf(y[0] / values[v] - 1) < 0.04f);
        }
        for (int i = 0; i < 256; i++) /* one large among small */
            x[i] = i == 77 ? -8 : 0.01f * (float)(i % 7);
        round_trip((enum pg_type)type, x, y, 256);
        assert_true(fabsf(y[77] + 8) < 0.2f);
    }
}

static void test_type_for_row(void **state)
{
    (void)state;
    assert_int_equal(pg_type_for_row(PG_TYPE_Q4_K, 512), PG_TYPE_Q4_K);
    assert_int_equal(pg_type_for_row(PG_TYPE_Q4_K, 96), PG_TYPE_Q5_0);
    assert_int_equal(pg_type_for_row(PG_TYPE_Q6_K, 96), PG_TYPE_Q8_0);
    assert_int_equal(pg_type_for_row(PG_TYPE_Q2_K, 32), PG_TYPE_Q4_0);
    assert_int_equal(pg_type_for_row(PG_TYPE_Q8_0, 48), PG_TYPE_F16);
    assert_int_equal(pg_type_for_row(PG_TYPE_BF16, 7), PG_TYPE_BF16);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bounds),       cmocka_unit_test(test_normal),
        cmocka_unit_test(test_again),        cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_type_for_row),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
