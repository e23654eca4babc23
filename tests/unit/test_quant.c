/* SPDX-License-Identifier: MIT
 * Block formats: each against values worked out here from the format's definition, bit by bit.
 */
#include "helpers.h"

#include "quant/quant.h"

#include <math.h>
#include <string.h>

/* A block under construction, a row of bits that are set one field at a time. */
struct block {
    uint8_t bytes[256];
};

static void put(struct block *b, int byte, int shift, int value)
{
    b->bytes[byte] |= (uint8_t)(value << shift);
}

static void put_half(struct block *b, int byte, float f)
{
    uint16_t h = pg_f32_to_f16(f);
    b->bytes[byte] = (uint8_t)h;
    b->bytes[byte + 1] = (uint8_t)(h >> 8);
}

/* A fixed pseudo-random sequence, the same on every machine. */
static int any(int i, int limit)
{
    uint32_t x = (uint32_t)i * 2654435761u + 12345u;
    x ^= x >> 15;
    x *= 2246822519u;
    x ^= x >> 13;
    return (int)(x % (uint32_t)limit);
}

/* d and m are powers of two, so that every value below is exact in a float. */
#define D 0.125f
#define M 0.5f

static void check(enum pg_type type, const struct block *b, const float *want)
{
    const struct pg_type_traits *t = pg_type_traits(type);
    float got[256];
    uint8_t exact[256]; /* at an odd address, of exactly the block's size */
    memcpy(exact + 1, b->bytes, (size_t)t->block_bytes);
    t->to_float(exact + 1, got, t->block);
    for (int i = 0; i < t->block; i++)
        if (got[i] != want[i])
            fail_msg("%s value %d: %g, wanted %g", t->name, i, (double)got[i], (double)want[i]);
}

static void test_q4(void **state)
{
    struct block b0 = {0}, b1 = {0};
    float want0[32], want1[32];
    (void)state;
    put_half(&b0, 0, D);
    put_half(&b1, 0, D);
    put_half(&b1, 2, M);
    for (int i = 0; i < 32; i++) {
        int v = any(i, 16);
        put(&b0, 2 + i % 16, i < 16 ? 0 : 4, v);
        put(&b1, 4 + i % 16, i < 16 ? 0 : 4, v);
        want0[i] = D * (float)(v - 8);
        want1[i] = D * (float)v + M;
    }
    check(PG_TYPE_Q4_0, &b0, want0);
    check(PG_TYPE_Q4_1, &b1, want1);
}

static void test_q5(void **state)
{
    struct block b0 = {0}, b1 = {0};
    float want0[32], want1[32];
    (void)state;
    put_half(&b0, 0, D);
    put_half(&b1, 0, D);
    put_half(&b1, 2, M);
    for (int i = 0; i < 32; i++) {
        int v = any(i + 100, 32);
        put(&b0, 6 + i % 16, i < 16 ? 0 : 4, v & 15);
        put(&b0, 2 + i / 8, i % 8, v >> 4);
        put(&b1, 8 + i % 16, i < 16 ? 0 : 4, v & 15);
        put(&b1, 4 + i / 8, i % 8, v >> 4);
        want0[i] = D * (float)(v - 16);
        want1[i] = D * (float)v + M;
    }
    check(PG_TYPE_Q5_0, &b0, want0);
    check(PG_TYPE_Q5_1, &b1, want1);
}

static void test_q8(void **state)
{
    struct block b = {0};
    float want[32];
    (void)state;
    put_half(&b, 0, D);
    for (int i = 0; i < 32; i++) {
        int v = i == 0 ? -128 : i == 1 ? 127 : any(i + 200, 256) - 128;
        put(&b, 2 + i, 0, v & 255);
        want[i] = D * (float)v;
    }
    check(PG_TYPE_Q8_0, &b, want);
}

static void test_q2_k(void **state)
{
    struct block b = {0};
    float want[256];
    (void)state;
    put_half(&b, 80, D);
    put_half(&b, 82, M);
    for (int g = 0; g < 16; g++) {
        put(&b, g, 0, any(g + 300, 16));
        put(&b, g, 4, any(g + 320, 16));
    }
    for (int i = 0; i < 256; i++) {
        int v = any(i + 400, 4), half = i / 128, quarter = i % 128 / 32;
        put(&b, 16 + 32 * half + i % 32, 2 * quarter, v);
        want[i] = D * (float)any(i / 16 + 300, 16) * (float)v - M * (float)any(i / 16 + 320, 16);
    }
    check(PG_TYPE_Q2_K, &b, want);
}

static void test_q3_k(void **state)
{
    struct block b = {0};
    float want[256];
    (void)state;
    put_half(&b, 108, D);
    for (int g = 0; g < 16; g++) {
        int s = any(g + 500, 64);
        put(&b, 96 + g % 8, g < 8 ? 0 : 4, s & 15);
        put(&b, 104 + g % 4, 2 * (g / 4), s >> 4);
    }
    for (int i = 0; i < 256; i++) {
        int v = any(i + 600, 8), half = i / 128, quarter = i % 128 / 32; /* v - 4 is the value */
        put(&b, 32 + 32 * half + i % 32, 2 * quarter, v & 3);
        put(&b, i % 32, 4 * half + quarter, v >> 2);
        want[i] = D * (float)(any(i / 16 + 500, 64) - 32) * (float)(v - 4);
    }
    check(PG_TYPE_Q3_K, &b, want);
}

/* Scale s and minimum m, six bits each, of group g of 32: the low groups lie whole in bytes g and
 * 4 + g; the high ones have their low nibbles in byte 4 + g and their top bits above the low ones.
 */
static void put_scale_k4(struct block *b, int g, int s, int m)
{
    if (g < 4) {
        put(b, 4 + g, 0, s);
        put(b, 8 + g, 0, m);
        return;
    }
    put(b, 8 + g, 0, s & 15);
    put(b, 8 + g, 4, m & 15);
    put(b, g, 6, s >> 4);
    put(b, 4 + g, 6, m >> 4);
}

static void test_q4_k_q5_k(void **state)
{
    struct block b4 = {0}, b5 = {0};
    float want4[256], want5[256];
    (void)state;
    put_half(&b4, 0, D);
    put_half(&b4, 2, M);
    for (int g = 0; g < 8; g++)
        put_scale_k4(&b4, g, any(g + 900, 64), any(g + 920, 64));
    b5 = b4;
    for (int i = 0; i < 256; i++) {
        int v = any(i + 1000, 32), pair = i / 64, high = i % 64 / 32;
        put(&b4, 16 + 32 * pair + i % 32, 4 * high, v & 15);
        put(&b5, 48 + 32 * pair + i % 32, 4 * high, v & 15);
        put(&b5, 16 + i % 32, i / 32, v >> 4);
        float s = D * (float)any(i / 32 + 900, 64), m = M * (float)any(i / 32 + 920, 64);
        want4[i] = s * (float)(v & 15) - m;
        want5[i] = s * (float)v - m;
    }
    check(PG_TYPE_Q4_K, &b4, want4);
    check(PG_TYPE_Q5_K, &b5, want5);
}

static void test_q6_k(void **state)
{
    struct block b = {0};
    float want[256];
    (void)state;
    put_half(&b, 208, D);
    for (int g = 0; g < 16; g++)
        put(&b, 192 + g, 0, (any(g + 1400, 256) - 128) & 255);
    for (int i = 0; i < 256; i++) {
        int v = any(i + 1500, 64), half = i / 128, quarter = i % 128 / 32;
        put(&b, 64 * half + 32 * (quarter % 2) + i % 32, quarter < 2 ? 0 : 4, v & 15);
        put(&b, 128 + 32 * half + i % 32, 2 * quarter, v >> 4);
        want[i] = D * (float)(any(i / 16 + 1400, 256) - 128) * (float)(v - 32);
    }
    check(PG_TYPE_Q6_K, &b, want);
}

/* ------------------------------------------------------------------ half floats ------------- */

/* The value of a half float by its definition; NaN and infinity apart. */
static double half_value(int h)
{
    int exponent = h >> 10 & 31, fraction = h & 1023;
    double v = exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24);
    return h & 0x8000 ? -v : v;
}

static void test_f16_all(void **state)
{
    (void)state;
    for (int h = 0; h < 65536; h++) {
        float f = pg_f16_to_f32((uint16_t)h);
        if ((h >> 10 & 31) == 31) {
            assert_true(h & 1023 ? isnan(f) : isinf(f) && !signbit(f) == !(h >> 15));
            uint16_t back = pg_f32_to_f16(f);
            assert_int_equal(back, h & 1023 ? h | 0x200 : h);
            continue;
        }
        assert_true((double)f == half_value(h) && !signbit(f) == !(h & 0x8000));
        assert_int_equal(pg_f32_to_f16(f), h);
    }
}

/* Between neighbours: the middle goes to the even one, all else to the nearer one. */
static void test_f16_rounds(void **state)
{
    (void)state;
    for (int h = 0; h < 0x7bff; h++) {
        float middle = (float)((half_value(h) + half_value(h + 1)) / 2);
        int even = h & 1 ? h + 1 : h;
        for (int sign = 0; sign < 2; sign++) {
            float s = sign ? -1.0f : 1.0f;
            assert_int_equal(pg_f32_to_f16(s * middle), even | sign << 15);
            assert_int_equal(pg_f32_to_f16(s * nextafterf(middle, 0)), h | sign << 15);
            assert_int_equal(pg_f32_to_f16(s * nextafterf(middle, 1e9f)), (h + 1) | sign << 15);
        }
    }
    assert_int_equal(pg_f32_to_f16(65519.996f), 0x7bff);
    assert_int_equal(pg_f32_to_f16(65520.0f), 0x7c00);
    assert_int_equal(pg_f32_to_f16(-1e30f), 0xfc00);
    assert_int_equal(pg_f32_to_f16(1e-30f), 0);
    assert_int_equal(pg_f32_to_f16(-1e-30f), 0x8000);
}

static void test_bf16_all(void **state)
{
    (void)state;
    for (int h = 0; h < 65536; h++) {
        float f = pg_bf16_to_f32((uint16_t)h), next;
        uint32_t bits = (uint32_t)h << 16, above;
        assert_memory_equal(&f, &bits, sizeof(f));
        if (isnan(f)) {
            assert_true(isnan(pg_bf16_to_f32(pg_f32_to_bf16(f))));
            continue;
        }
        assert_int_equal(pg_f32_to_bf16(f), h);
        if (isinf(f))
            continue;
        for (int tail = 1; tail < 65536; tail += 0x7fff / 4) {
            above = bits | (uint32_t)tail;
            memcpy(&next, &above, sizeof(next));
            int up = tail > 0x8000 || (tail == 0x8000 && (h & 1));
            assert_int_equal(pg_f32_to_bf16(next), h + up);
        }
        above = bits | 0x8000;
        memcpy(&next, &above, sizeof(next));
        assert_int_equal(pg_f32_to_bf16(next), h + (h & 1));
    }
    uint32_t quiet_low = 0x7f800001; /* a NaN whose upper half alone would be infinity */
    float f;
    memcpy(&f, &quiet_low, sizeof(f));
    assert_true(isnan(pg_bf16_to_f32(pg_f32_to_bf16(f))));
}

/* ------------------------------------------------------------------ the table --------------- */

static void test_traits(void **state)
{
    (void)state;
    for (uint32_t t = 0; t < 2 * PG_TYPE_LIMIT; t++) {
        const struct pg_type_traits *row = pg_type_traits(t);
        assert_non_null(row);
        if (!row->name)
            continue;
        assert_int_equal(pg_type_parse(row->name), t);
        assert_int_equal(pg_type_bytes((enum pg_type)t, 3 * row->block), 3 * row->block_bytes);
        assert_true(row->block <= PG_BLOCK_MAX && row->to_float);
    }
    assert_null(pg_type_traits(4)->name);
    assert_null(pg_type_traits(UINT32_MAX)->name);
    assert_int_equal(pg_type_parse("q4_k"), PG_TYPE_Q4_K);
    assert_int_equal(pg_type_parse("bf16"), PG_TYPE_BF16);
    assert_int_equal(pg_type_parse("Q4"), -1);
    assert_int_equal(pg_type_parse(""), -1);
    assert_int_equal(pg_type_bytes(PG_TYPE_Q6_K, (int64_t)1 << 40), ((size_t)1 << 32) * 210);
}

static void test_float_rows(void **state)
{
    uint8_t raw[13];
    float got[3];
    const float values[3] = {1.5f, -0.25f, 65504.0f};
    (void)state;
    memcpy(raw + 1, values, sizeof(values));
    pg_type_traits(PG_TYPE_F32)->to_float(raw + 1, got, 3);
    assert_memory_equal(got, values, sizeof(values));
    for (int i = 0; i < 3; i++) {
        uint16_t h = pg_f32_to_f16(values[i]);
        memcpy(raw + 1 + 2 * i, &h, 2);
    }
    pg_type_traits(PG_TYPE_F16)->to_float(raw + 1, got, 3);
    assert_memory_equal(got, values, sizeof(values));
    const uint8_t bf16[4] = {0xc0, 0x3f, 0x80, 0xbe};
    pg_type_traits(PG_TYPE_BF16)->to_float(bf16, got, 2);
    assert_memory_equal(got, values, 2 * sizeof(*values));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_q4),         cmocka_unit_test(test_q5),
        cmocka_unit_test(test_q8),         cmocka_unit_test(test_q2_k),
        cmocka_unit_test(test_q3_k),       cmocka_unit_test(test_q4_k_q5_k),
        cmocka_unit_test(test_q6_k),       cmocka_unit_test(test_f16_all),
        cmocka_unit_test(test_f16_rounds), cmocka_unit_test(test_bf16_all),
        cmocka_unit_test(test_traits),     cmocka_unit_test(test_float_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
