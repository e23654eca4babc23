/* SPDX-License-Identifier: MIT
 * One token, formats with blocks of 32 values: see avx512_decode.h.
 *
 * A chunk is eight blocks, put aside after two vectors of four were added: a vector
 * holds blocks i and i + 4.
 */
#include "cpu/x86/avx512_decode.h"

enum { BLOCK = 32, CHUNK = 8 };

struct chunk {
    __m512i sum; /* lanes 0 and 1, of four lanes: two parts of blocks 0 to 3; then 4 to 7 */
    uint8_t floats[CHUNK][4]; /* the first four bytes of each block */
};

struct part_acts {
    struct pg_step_acts step[PG_PART_STEPS];
};

/* Values of blocks a and b. */
typedef __m512i two_fn(const uint8_t *a, const uint8_t *b);

struct format {
    two_fn *values;
    int block_bytes, offset;
    bool has_min;
};

static void part_acts_load(struct part_acts *a, const struct format *f, const struct pg_acts *x,
                           size_t at, int n)
{
    static const uint8_t place[8] = {0, 4, 1, 5, 2, 6, 3, 7};
    for (int i = 0; i < n; i += 256)
        pg_step_acts_load(&a->step[i / 256], x->q + at + i, PG_MIN(256, n - i), place, f->offset);
}

PG_INLINE void chunk_sums(const struct format *f, const uint8_t *w, const struct part_acts *a,
                          int i, int count, struct chunk *c)
{
    const struct pg_step_acts *x = &a->step[i];
    const uint8_t *b[CHUNK];
    __m512i s[4];
#pragma GCC unroll 8
    for (int k = 0; k < CHUNK; k++)
        b[k] = w + PG_MIN(k, count - 1) * f->block_bytes;
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++)
        s[k] = _mm512_dpbusd_epi32(f->offset ? x->start[k] : _mm512_setzero_si512(),
                                   f->values(b[k], b[k + 4]), x->q[k]);
    c->sum = pg_add_in_lanes(s[0], s[1], s[2], s[3]);
#pragma GCC unroll 8
    for (int k = 0; k < CHUNK; k++)
        memcpy(c->floats[k], b[k], sizeof(c->floats[k]));
}

/* v[i]: rows j and 4 + j (i even), or 8 + j and 12 + j (i odd), j = i / 2, each with blocks 0 to 3,
 * then 4 to 7. c[b]: all rows of block b. */
PG_INLINE void blocks_apart(const __m512i v[8], __m512i c[8])
{
    __m512i low[4], high[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        low[j] = _mm512_shuffle_i32x4(v[2 * j], v[2 * j + 1], 0x88);
        high[j] = _mm512_shuffle_i32x4(v[2 * j], v[2 * j + 1], 0xdd);
    }
    pg_transpose_rows(low, c);
    pg_transpose_rows(high, c + 4);
}

PG_INLINE __m512 chunk_floats(const struct format *f, const struct chunk c[PG_LANES],
                              const struct pg_acts *x, size_t at, int count, __m512 acc)
{
    const float *dx = x->d + at / BLOCK;
    const int16_t *sums = x->sums + at / 16;
    __m512i s[8], d[8], sum[8], floats[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        const struct chunk *a = c + i / 2 + i % 2 * 8, *b = a + 4;
        s[i] = pg_add_lanes(a->sum, b->sum);
        d[i] = pg_two_halves(a->floats, b->floats);
    }
    blocks_apart(s, sum);
    blocks_apart(d, floats);
    for (int i = 0; i < count; i++) {
        acc = _mm512_add_ps(acc, pg_scaled(pg_f16_lanes(floats[i]), dx + i, sum[i]));
        if (!f->has_min)
            continue;
        __m512 d_min = pg_f16_lanes(_mm512_srli_epi32(floats[i], 16));
        __m512i min = _mm512_set1_epi32(-(sums[2 * i] + sums[2 * i + 1]));
        acc = _mm512_sub_ps(acc, pg_scaled(d_min, dx + i, min));
    }
    return acc;
}

/* ------------------------------------------------------------------ the formats ------------- */

/* Low nibbles, then high nibbles, of 16 bytes of each block. */
PG_INLINE __m512i nibbles_of_two(const uint8_t *a, const uint8_t *b)
{
    __m512i v =
        _mm512_mask_broadcast_i32x4(_mm512_broadcast_i32x4(pg_load_16(a)), 0xff00, pg_load_16(b));
    v = _mm512_srlv_epi64(v, _mm512_setr_epi64(0, 0, 4, 4, 0, 0, 4, 4));
    return _mm512_and_si512(v, pg_each_byte(15));
}

/* Bit i of the four bytes at a and at b becomes bit 4 of value i. */
PG_INLINE __m512i fifths_of_two(const uint8_t *a, const uint8_t *b, __m512i nibbles)
{
    __m512i v = _mm512_mask_blend_epi32(0xff00, pg_each_i32(a), pg_each_i32(b));
    /* Eight bits from bit i - 4 on, for i from 0 to 31. */
    __m512i from = _mm512_broadcast_i64x4(_mm256_setr_epi64x(
        0x03020100fffefdfc, 0x0b0a090807060504, 0x131211100f0e0d0c, 0x1b1a191817161514));
    return pg_masked_or(_mm512_multishift_epi64_epi8(from, v), pg_each_byte(16), nibbles);
}

PG_INLINE __m512i two_q4_0(const uint8_t *a, const uint8_t *b)
{
    return nibbles_of_two(a + 2, b + 2);
}

PG_INLINE __m512i two_q4_1(const uint8_t *a, const uint8_t *b)
{
    return nibbles_of_two(a + 4, b + 4);
}

PG_INLINE __m512i two_q5_0(const uint8_t *a, const uint8_t *b)
{
    return fifths_of_two(a + 2, b + 2, nibbles_of_two(a + 6, b + 6));
}

PG_INLINE __m512i two_q5_1(const uint8_t *a, const uint8_t *b)
{
    return fifths_of_two(a + 4, b + 4, nibbles_of_two(a + 8, b + 8));
}

PG_INLINE __m512i two_q8_0(const uint8_t *a, const uint8_t *b)
{
    return _mm512_xor_si512(pg_two_halves(a + 2, b + 2), pg_each_byte(0x80));
}

static const struct format q4_0 = {two_q4_0, 18, 8, false};
static const struct format q4_1 = {two_q4_1, 20, 0, true};
static const struct format q5_0 = {two_q5_0, 22, 16, false};
static const struct format q5_1 = {two_q5_1, 24, 0, true};
static const struct format q8_0 = {two_q8_0, 34, 128, false};

#include "cpu/x86/avx512_decode_body.h"

DECODE(q4_0)
DECODE(q4_1)
DECODE(q5_0)
DECODE(q5_1)
DECODE(q8_0)
