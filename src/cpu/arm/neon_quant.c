/* SPDX-License-Identifier: MIT
 * NEON: quantised matrices. A block is taken apart into bytes, offsets and all.
 */
#include "cpu/arm/neon.h"

#include <arm_neon.h>

/* ------------------------------------------------------------------ values ------------------ */

/* Bits of bytes, moved down by `by`, or up by -by, then masked. */
static inline uint8x16_t moved(uint8x16_t v, int by, int mask)
{
    return vandq_u8(vshlq_u8(v, vdupq_n_s8((int8_t)-by)), vdupq_n_u8((uint8_t)mask));
}

static inline void put(int8_t *q, uint8x16_t v, int offset)
{
    vst1q_s8(q, vsubq_s8(vreinterpretq_s8_u8(v), vdupq_n_s8((int8_t)offset)));
}

/* Bits 16 h to 16 h + 15 of the word at p, as 16 in sixteen bytes. */
static inline uint8x16_t fifth_bits(const uint8_t *p, int h)
{
    uint8x16_t v = vcombine_u8(vdup_n_u8(p[2 * h]), vdup_n_u8(p[2 * h + 1]));
    uint8x8_t bit = vcreate_u8(0x8040201008040201);
    return vandq_u8(vtstq_u8(v, vcombine_u8(bit, bit)), vdupq_n_u8(16));
}

static void values_32(const uint8_t *nibbles, const uint8_t *fifth, int offset, int8_t *q)
{
    uint8x16_t v = vld1q_u8(nibbles), low = moved(v, 0, 15), high = moved(v, 4, 15);
    if (fifth) {
        low = vorrq_u8(low, fifth_bits(fifth, 0));
        high = vorrq_u8(high, fifth_bits(fifth, 1));
    }
    put(q, low, offset);
    put(q + 16, high, offset);
}

/* Values 16 i to 16 i + 15 of a K block; they lie in one half of a 32-byte run. */
static uint8x16_t values_k(enum pg_type t, const uint8_t *w, int i)
{
    int half = i / 8, group = i / 2, j = group % 4, side = i % 2 * 16;
    switch (t) {
    case PG_TYPE_Q2_K:
        return moved(vld1q_u8(w + 16 + 32 * half + side), 2 * j, 3);
    case PG_TYPE_Q3_K:
        return vorrq_u8(moved(vld1q_u8(w + 32 + 32 * half + side), 2 * j, 3),
                        moved(vld1q_u8(w + side), group - 2, 4));
    case PG_TYPE_Q4_K:
        return moved(vld1q_u8(w + 16 + group / 2 * 32 + side), group % 2 * 4, 15);
    case PG_TYPE_Q5_K:
        return vorrq_u8(moved(vld1q_u8(w + 48 + group / 2 * 32 + side), group % 2 * 4, 15),
                        moved(vld1q_u8(w + 16 + side), group - 4, 16));
    default:
        return vorrq_u8(moved(vld1q_u8(w + 64 * half + j % 2 * 32 + side), j / 2 * 4, 15),
                        moved(vld1q_u8(w + 128 + 32 * half + side), 2 * j - 4, 0x30));
    }
}

static void values(enum pg_type t, const uint8_t *w, int8_t *q)
{
    switch (t) {
    case PG_TYPE_Q4_0:
        values_32(w + 2, NULL, 8, q);
        break;
    case PG_TYPE_Q4_1:
        values_32(w + 4, NULL, 0, q);
        break;
    case PG_TYPE_Q5_0:
        values_32(w + 6, w + 2, 16, q);
        break;
    case PG_TYPE_Q5_1:
        values_32(w + 8, w + 4, 0, q);
        break;
    case PG_TYPE_Q8_0:
        memcpy(q, w + 2, 32);
        break;
    default:
        for (int i = 0; i < 16; i++)
            put(q + 16 * i, values_k(t, w, i), t == PG_TYPE_Q3_K ? 4 : t == PG_TYPE_Q6_K ? 32 : 0);
    }
}

/* ------------------------------------------------------------------ products ---------------- */

/* Two products of -128 and 127 at most fit in 16 bits. */
static int32_t dot_int(const struct pg_unpacked *u, const int8_t *x, int n)
{
    int32x4_t sum = vdupq_n_s32(0);
    for (int g = 0; g < n / 16; g++) {
        int8x16_t a = vld1q_s8(u->q + 16 * g), b = vld1q_s8(x + 16 * g);
        int16x8_t p = vmull_s8(vget_low_s8(a), vget_low_s8(b));
        p = vmlal_s8(p, vget_high_s8(a), vget_high_s8(b));
        sum = vmlaq_n_s32(sum, vpaddlq_s16(p), u->scale[g]);
    }
    return vaddvq_s32(sum);
}

static void unpack_block(enum pg_type t, const uint8_t *w, struct pg_unpacked *u)
{
    pg_type_traits(t)->heads(w, u);
    values(t, w, u->q);
}

#include "cpu/quant_body.h"

void pg_neon_fill_quant(struct pg_kernels *k)
{
    for (unsigned type = 0; type < PG_TYPE_LIMIT; type++)
        if (pg_type_traits(type)->unpack)
            k->matmul[type] = matmul_quant;
}
