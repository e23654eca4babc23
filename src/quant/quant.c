/* SPDX-License-Identifier: MIT
 * Block formats: what the bytes mean, written once.
 *
 * Each quantised format has one function that takes a block apart into integers and its one or two
 * float scales (struct pg_unpacked). Conversion to float and the reference dot product are both
 * made of that, so they cannot disagree about a bit position. Blocks are read by byte offset, since
 * most block sizes are odd multiples of two and a row may begin anywhere.
 *
 *   format  offset: content
 *   Q4_0    0: d    2: 16 bytes, low nibble value i, high nibble value i + 16
 *   Q4_1    0: d    2: m    4: as Q4_0
 *   Q5_0    0: d    2: fifth bits, u32    6: as Q4_0
 *   Q5_1    0: d    2: m    4: fifth bits, u32    8: as Q4_0
 *   Q8_0    0: d    2: 32 int8
 *   Q2_K    0: 16 bytes scale | min << 4    16: 64 bytes of 2 bits    80: d    82: m
 *   Q3_K    0: 32 bytes of third bits    32: 64 bytes of 2 bits    96: 12 bytes scales    108: d
 *   Q4_K    0: d    2: m    4: 12 bytes scales, mins    16: 128 bytes of 4 bits
 *   Q5_K    0: d    2: m    4: 12 bytes scales, mins    16: 32 bytes of fifth bits    48: 4 bits
 *   Q6_K    0: 128 bytes of 4 bits    128: 64 bytes of 2 bits    192: 16 int8 scales    208: d
 */
#include "quant/quant.h"

#include <string.h>
#include <strings.h>

/* ------------------------------------------------------------------ half floats ------------- */

static uint32_t bits_of(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof(u));
    return u;
}

static float float_of(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof(f));
    return f;
}

float pg_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = (h >> 10) & 31, fraction = h & 0x3ff;
    if (exponent == 31) /* NaNs become quiet, as the instruction does it */
        return float_of(sign | 0x7f800000 | fraction << 13 | (fraction ? 0x00400000 : 0));
    if (exponent == 0)
        return float_of(sign | bits_of((float)fraction * 0x1p-24f));
    return float_of(sign | (exponent + 112) << 23 | fraction << 13);
}

uint16_t pg_f32_to_f16(float f)
{
    uint32_t u = bits_of(f), sign = (u >> 16) & 0x8000, a = u & 0x7fffffff;
    if (a > 0x7f800000)
        return (uint16_t)(sign | 0x7e00 | ((a >> 13) & 0x3ff));
    if (a >= 0x477ff000) /* 65520 and more round to infinity */
        return (uint16_t)(sign | 0x7c00);
    if (a < 0x38800000) /* subnormal: the addition to 0.5 rounds at 2^-24 for us */
        return (uint16_t)(sign | (bits_of(float_of(a) + 0.5f) - 0x3f000000));
    uint32_t rounded = a + 0xfff + ((a >> 13) & 1);
    return (uint16_t)(sign | ((rounded - (112u << 23)) >> 13));
}

float pg_bf16_to_f32(uint16_t h)
{
    return float_of((uint32_t)h << 16);
}

uint16_t pg_f32_to_bf16(float f)
{
    uint32_t u = bits_of(f);
    if ((u & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

/* ------------------------------------------------------------------ blocks ------------------ */

static float half_at(const uint8_t *p)
{
    return pg_f16_to_f32((uint16_t)(p[0] | p[1] << 8));
}

static void heads_32(struct pg_unpacked *u, float d, float m, int16_t min)
{
    u->d = d;
    u->m = m;
    u->scale[0] = u->scale[1] = 1;
    u->min[0] = u->min[1] = min;
}

/* 32 values of 4 bits and, when `fifth` is there, a fifth bit each; less `offset`. */
static void values_32(const uint8_t *nibbles, const uint8_t *fifth, int offset, int8_t *q)
{
    for (int i = 0; i < 32; i++) {
        int v = i < 16 ? nibbles[i] & 15 : nibbles[i - 16] >> 4;
        if (fifth)
            v |= (fifth[i / 8] >> (i % 8) & 1) << 4;
        q[i] = (int8_t)(v - offset);
    }
}

static void heads_q4_0(const uint8_t *p, struct pg_unpacked *u)
{
    heads_32(u, half_at(p), 0, 0);
}

static void values_q4_0(const uint8_t *p, int8_t *q)
{
    values_32(p + 2, NULL, 8, q);
}

static void heads_q4_1(const uint8_t *p, struct pg_unpacked *u)
{
    heads_32(u, half_at(p), half_at(p + 2), -1);
}

static void values_q4_1(const uint8_t *p, int8_t *q)
{
    values_32(p + 4, NULL, 0, q);
}

static void heads_q5_0(const uint8_t *p, struct pg_unpacked *u)
{
    heads_32(u, half_at(p), 0, 0);
}

static void values_q5_0(const uint8_t *p, int8_t *q)
{
    values_32(p + 6, p + 2, 16, q);
}

static void heads_q5_1(const uint8_t *p, struct pg_unpacked *u)
{
    heads_32(u, half_at(p), half_at(p + 2), -1);
}

static void values_q5_1(const uint8_t *p, int8_t *q)
{
    values_32(p + 8, p + 4, 0, q);
}

static void heads_q8_0(const uint8_t *p, struct pg_unpacked *u)
{
    heads_32(u, half_at(p), 0, 0);
}

static void values_q8_0(const uint8_t *p, int8_t *q)
{
    memcpy(q, p + 2, 32);
}

/* The K formats keep 128 values at a time: value 32 j + l of a half is in byte l, bits 2 j. */
static int two_bits(const uint8_t *p, int i)
{
    return p[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
}

static void heads_q2_k(const uint8_t *p, struct pg_unpacked *u)
{
    u->d = half_at(p + 80);
    u->m = half_at(p + 82);
    for (int g = 0; g < 16; g++) {
        u->scale[g] = p[g] & 15;
        u->min[g] = p[g] >> 4;
    }
}

static void values_q2_k(const uint8_t *p, int8_t *q)
{
    for (int i = 0; i < 256; i++)
        q[i] = (int8_t)two_bits(p + 16, i);
}

static void heads_q3_k(const uint8_t *p, struct pg_unpacked *u)
{
    const uint8_t *scales = p + 96;
    u->d = half_at(p + 108);
    u->m = 0;
    for (int g = 0; g < 16; g++) {
        int low = g < 8 ? scales[g] & 15 : scales[g - 8] >> 4;
        int high = scales[8 + g % 4] >> (g / 4 * 2) & 3;
        u->scale[g] = (int16_t)((low | high << 4) - 32);
        u->min[g] = 0;
    }
}

static void values_q3_k(const uint8_t *p, int8_t *q)
{
    for (int i = 0; i < 256; i++) {
        int third = p[i % 32] >> (i / 32) & 1;
        q[i] = (int8_t)(two_bits(p + 32, i) - (third ? 0 : 4));
    }
}

/* Eight scales and eight minima of 6 bits each in 12 bytes; each serves 32 values. */
static void heads_q4_k(const uint8_t *p, struct pg_unpacked *u)
{
    const uint8_t *s = p + 4;
    u->d = half_at(p);
    u->m = half_at(p + 2);
    for (int g = 0; g < 8; g++) {
        int scale = g < 4 ? s[g] & 63 : (s[g + 4] & 15) | s[g - 4] >> 6 << 4;
        int min = g < 4 ? s[g + 4] & 63 : s[g + 4] >> 4 | s[g] >> 6 << 4;
        u->scale[2 * g] = u->scale[2 * g + 1] = (int16_t)scale;
        u->min[2 * g] = u->min[2 * g + 1] = (int16_t)min;
    }
}

static void values_q4_k(const uint8_t *p, int8_t *q)
{
    for (int i = 0; i < 256; i++)
        q[i] = (int8_t)(p[16 + i / 64 * 32 + i % 32] >> (i % 64 / 32 * 4) & 15);
}

static void heads_q5_k(const uint8_t *p, struct pg_unpacked *u)
{
    heads_q4_k(p, u);
}

static void values_q5_k(const uint8_t *p, int8_t *q)
{
    for (int i = 0; i < 256; i++) {
        int low = p[48 + i / 64 * 32 + i % 32] >> (i % 64 / 32 * 4) & 15;
        int fifth = p[16 + i % 32] >> (i / 32) & 1;
        q[i] = (int8_t)(low | fifth << 4);
    }
}

static void heads_q6_k(const uint8_t *p, struct pg_unpacked *u)
{
    u->d = half_at(p + 208);
    u->m = 0;
    for (int g = 0; g < 16; g++) {
        u->scale[g] = (int8_t)p[192 + g];
        u->min[g] = 0;
    }
}

static void values_q6_k(const uint8_t *p, int8_t *q)
{
    for (int i = 0; i < 256; i++) {
        int low = p[i / 128 * 64 + i % 64] >> (i % 128 / 64 * 4) & 15;
        q[i] = (int8_t)((low | two_bits(p + 128, i) << 4) - 32);
    }
}

/* ------------------------------------------------------------------ to float ---------------- */

static void to_float_f32(const void *src, float *dst, int64_t n)
{
    memcpy(dst, src, (size_t)n * sizeof(*dst));
}

static void to_float_f16(const void *src, float *dst, int64_t n)
{
    const uint8_t *p = src;
    for (int64_t i = 0; i < n; i++)
        dst[i] = half_at(p + 2 * i);
}

static void to_float_bf16(const void *src, float *dst, int64_t n)
{
    const uint8_t *p = src;
    for (int64_t i = 0; i < n; i++)
        dst[i] = pg_bf16_to_f32((uint16_t)(p[2 * i] | p[2 * i + 1] << 8));
}

static void blocks_to_float(enum pg_type type, const void *src, float *dst, int64_t n)
{
    const struct pg_type_traits *t = pg_type_traits(type);
    const uint8_t *p = src;
    struct pg_unpacked u;
    for (int64_t b = 0; b < n / t->block; b++, p += t->block_bytes, dst += t->block) {
        t->unpack(p, &u);
        for (int i = 0; i < t->block; i += 16) { /* sixteen are a loop that becomes vectors */
            float d = u.d * (float)u.scale[i / 16], m = u.m * (float)u.min[i / 16];
            if (t->has_min)
                for (int k = 0; k < 16; k++)
                    dst[i + k] = d * (float)u.q[i + k] - m;
            else
                for (int k = 0; k < 16; k++)
                    dst[i + k] = d * (float)u.q[i + k];
        }
    }
}

/* ------------------------------------------------------------------ the table --------------- */

#define PG_QUANT_MAP(X)                                                                            \
    X(Q4_0, q4_0, 32, 18, PG_ACT_Q8, false)                                                        \
    X(Q4_1, q4_1, 32, 20, PG_ACT_Q8, true)                                                         \
    X(Q5_0, q5_0, 32, 22, PG_ACT_Q8, false)                                                        \
    X(Q5_1, q5_1, 32, 24, PG_ACT_Q8, true)                                                         \
    X(Q8_0, q8_0, 32, 34, PG_ACT_Q8, false)                                                        \
    X(Q2_K, q2_k, 256, 84, PG_ACT_Q8K, true)                                                       \
    X(Q3_K, q3_k, 256, 110, PG_ACT_Q8K, false)                                                     \
    X(Q4_K, q4_k, 256, 144, PG_ACT_Q8K, true)                                                      \
    X(Q5_K, q5_k, 256, 176, PG_ACT_Q8K, true)                                                      \
    X(Q6_K, q6_k, 256, 210, PG_ACT_Q8K, false)

#define X(NAME, lower, block, bytes, act, has_min)                                                 \
    static void unpack_##lower(const void *p, struct pg_unpacked *u)                               \
    {                                                                                              \
        heads_##lower(p, u);                                                                       \
        values_##lower(p, u->q);                                                                   \
    }                                                                                              \
    static void to_float_##lower(const void *src, float *dst, int64_t n)                           \
    {                                                                                              \
        blocks_to_float(PG_TYPE_##NAME, src, dst, n);                                              \
    }
PG_QUANT_MAP(X)
#undef X

static const struct pg_type_traits traits[PG_TYPE_LIMIT] = {
    [PG_TYPE_F32] = {"F32", 1, 4, PG_ACT_F32, false, NULL, NULL, to_float_f32},
    [PG_TYPE_F16] = {"F16", 1, 2, PG_ACT_F32, false, NULL, NULL, to_float_f16},
    [PG_TYPE_BF16] = {"BF16", 1, 2, PG_ACT_F32, false, NULL, NULL, to_float_bf16},
#define X(NAME, lower, block, bytes, act, has_min)                                                 \
    [PG_TYPE_##NAME] = {#NAME,   block,         bytes,          act,                               \
                        has_min, heads_##lower, unpack_##lower, to_float_##lower},
    PG_QUANT_MAP(X)
#undef X
};
static const struct pg_type_traits unknown = {.block = 1};

const struct pg_type_traits *pg_type_traits(uint32_t type)
{
    return type < PG_TYPE_LIMIT && traits[type].name ? &traits[type] : &unknown;
}

int pg_type_parse(const char *name)
{
    for (int t = 0; t < PG_TYPE_LIMIT; t++)
        if (traits[t].name && strcasecmp(name, traits[t].name) == 0)
            return t;
    return -1;
}

size_t pg_type_bytes(enum pg_type type, int64_t n)
{
    const struct pg_type_traits *t = pg_type_traits(type);
    PG_ASSERT(t->name && n >= 0 && n % t->block == 0);
    return (size_t)(n / t->block) * (size_t)t->block_bytes;
}
