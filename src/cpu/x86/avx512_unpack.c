/* SPDX-License-Identifier: MIT
 * Blocks of 16 rows taken apart, a lane a row (see avx512_panel.h; layouts in quant/quant.c).
 *
 * All is made of one step: the same 16 bytes of all rows are read and transposed into four vectors
 * of four bytes a row. Packed bytes are transposed, not values, so the work is small; the bits of
 * a lane are then separated where they lie.
 */
#include "cpu/x86/avx512_panel.h"

PG_INLINE void low_high(__m512i v, __m512i *low, __m512i *high)
{
    __m512i nibble = pg_each_byte(15);
    *low = _mm512_and_si512(v, nibble);
    *high = _mm512_and_si512(_mm512_srli_epi32(v, 4), nibble);
}

/* ------------------------------------------------------------------ scales ------------------ */

/* Byte i of each lane as int32, unsigned. */
PG_INLINE __m512i byte_of(__m512i v, int i)
{
    return _mm512_and_si512(pg_shift_right(v, 8 * i), _mm512_set1_epi32(255));
}

/* Bytes a and b of each lane as two int16: zero-extended, and times 256. */
PG_INLINE __m512i bytes_to_words(__m512i v, int a, int b)
{
    __m512i base = _mm512_broadcast_i32x4(_mm_setr_epi32(0, 0x04040404, 0x08080808, 0x0c0c0c0c));
    __m512i pick = _mm512_set1_epi32(a | b << 16);
    return _mm512_maskz_shuffle_epi8(0x5555555555555555, v, _mm512_add_epi8(base, pick));
}

PG_INLINE __m512i bytes_to_high(__m512i v, int a, int b)
{
    __m512i base = _mm512_broadcast_i32x4(_mm_setr_epi32(0, 0x04040404, 0x08080808, 0x0c0c0c0c));
    __m512i pick = _mm512_set1_epi32(a << 8 | b << 24);
    return _mm512_maskz_shuffle_epi8(0xaaaaaaaaaaaaaaaa, v, _mm512_add_epi8(base, pick));
}

/* Eight scales and minima of six bits, each for 32 values, from the 16 bytes that begin Q4_K and
 * Q5_K. A minimum meets two sums of 16. */
PG_INLINE void scales_6bit(struct pg_panel *p, const struct pg_tile *t, size_t at)
{
    __m512i h[4], low = pg_each_byte(15), six = pg_each_byte(63), top = pg_each_byte(0x30);
    pg_tile_columns(t, at, h);
    p->d[0] = pg_f16_lanes(h[0]);
    p->m[0] = pg_f16_lanes(_mm512_srli_epi32(h[0], 16));
    __m512i scale[2], min[2];
    scale[0] = _mm512_and_si512(h[1], six);
    min[0] = _mm512_and_si512(h[2], six);
    scale[1] = pg_masked_or(_mm512_srli_epi32(h[1], 2), top, _mm512_and_si512(h[3], low));
    min[1] = pg_masked_or(_mm512_srli_epi32(h[2], 2), top,
                          _mm512_and_si512(_mm512_srli_epi32(h[3], 4), low));
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        p->scale[i] = byte_of(scale[i / 4], i % 4);
        p->pair[i] = bytes_to_words(min[i / 4], i % 4, i % 4);
    }
}

/* Sixteen signed scales, each for 16 values that are stored with 2^offset_bits added. */
PG_INLINE void scales_signed(struct pg_panel *p, const __m512i s[4], unsigned offset_bits)
{
    __m512i zero = _mm512_setzero_si512();
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        __m512i v = s[i / 2];
        int b = i % 2 * 2;
        p->scale[2 * i] = _mm512_srai_epi32(pg_shift_right(v, 8 * b - 24), 24);
        p->scale[2 * i + 1] = _mm512_srai_epi32(pg_shift_right(v, 8 * b - 16), 24);
        p->pair[i] =
            _mm512_sub_epi16(zero, _mm512_srai_epi16(bytes_to_high(v, b, b + 1), 8 - offset_bits));
    }
}

/* ------------------------------------------------------------------ blocks of 256 ----------- */

void pg_avx512_q4_k(struct pg_panel *p, const struct pg_tile *t, size_t at, int n_blocks)
{
    (void)n_blocks;
    scales_6bit(p, t, at);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        __m512i c[4];
        pg_tile_columns(t, at + 16 + (size_t)i * 16, c);
        __m512i *q = p->q + i / 2 * 16 + i % 2 * 4;
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++)
            low_high(c[j], q + j, q + 8 + j);
    }
}

void pg_avx512_q5_k(struct pg_panel *p, const struct pg_tile *t, size_t at, int n_blocks)
{
    (void)n_blocks;
    __m512i fifth[8], bit = pg_each_byte(16);
    scales_6bit(p, t, at);
    pg_tile_columns(t, at + 16, fifth);
    pg_tile_columns(t, at + 32, fifth + 4);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        __m512i c[4], low, high;
        pg_tile_columns(t, at + 48 + (size_t)i * 16, c);
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            int k = i % 2 * 4 + j, sub = i / 2 * 2;
            low_high(c[j], &low, &high);
            p->q[8 * sub + k] = pg_masked_or(pg_shift_right(fifth[k], sub - 4), bit, low);
            p->q[8 * sub + 8 + k] = pg_masked_or(pg_shift_right(fifth[k], sub - 3), bit, high);
        }
    }
}

void pg_avx512_q6_k(struct pg_panel *p, const struct pg_tile *t, size_t at, int n_blocks)
{
    (void)n_blocks;
    __m512i s[4], d[4], two = pg_each_byte(0x30);
    pg_tile_columns(t, at + 192, s);
    scales_signed(p, s, 5);
    pg_tile_columns(t, at + 194, d);
    p->d[0] = pg_f16_lanes(_mm512_srli_epi32(d[3], 16));
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) { /* half i / 2 of the values, 16 of its 32 bytes of high bits */
        __m512i a[4], b[4], high[4], low0, low1;
        __m512i *q = p->q + i / 2 * 32 + i % 2 * 4;
        size_t nibbles = at + (size_t)(i / 2 * 64 + i % 2 * 16);
        pg_tile_columns(t, nibbles, a);
        pg_tile_columns(t, nibbles + 32, b);
        pg_tile_columns(t, at + 128 + (size_t)i * 16, high);
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            low_high(a[j], &low0, &low1);
            q[j] = pg_masked_or(_mm512_slli_epi32(high[j], 4), two, low0);
            q[j + 16] = pg_masked_or(high[j], two, low1);
            low_high(b[j], &low0, &low1);
            q[j + 8] = pg_masked_or(_mm512_slli_epi32(high[j], 2), two, low0);
            q[j + 24] = pg_masked_or(_mm512_srli_epi32(high[j], 2), two, low1);
        }
    }
}

void pg_avx512_q3_k(struct pg_panel *p, const struct pg_tile *t, size_t at, int n_blocks)
{
    (void)n_blocks;
    __m512i c[4], s[4], third[8], two = pg_each_byte(3), one = pg_each_byte(4);
    pg_tile_columns(t, at + 94, c); /* two bytes early, to end with the block */
    p->d[0] = pg_f16_lanes(_mm512_srli_epi32(c[3], 16));
    for (int i = 0; i < 3; i++)
        c[i] = _mm512_or_si512(_mm512_srli_epi32(c[i], 16), _mm512_slli_epi32(c[i + 1], 16));
    low_high(c[0], &s[0], &s[2]);
    low_high(c[1], &s[1], &s[3]);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
        s[i] =
            _mm512_sub_epi8(pg_masked_or(pg_shift_right(c[2], 2 * i - 4), pg_each_byte(0x30), s[i]),
                            pg_each_byte(32));
    scales_signed(p, s, 2);
    pg_tile_columns(t, at, third);
    pg_tile_columns(t, at + 16, third + 4);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        pg_tile_columns(t, at + 32 + (size_t)i * 16, c);
#pragma GCC unroll 16
        for (int n = 0; n < 16; n++) {
            int k = i % 2 * 4 + n % 4, sub = i / 2 * 4 + n / 4;
            __m512i low = _mm512_and_si512(pg_shift_right(c[n % 4], n / 4 * 2), two);
            p->q[8 * sub + k] = pg_masked_or(pg_shift_right(third[k], sub - 2), one, low);
        }
    }
}

void pg_avx512_q2_k(struct pg_panel *p, const struct pg_tile *t, size_t at, int n_blocks)
{
    (void)n_blocks;
    __m512i c[4], scale[4], min[4], two = pg_each_byte(3);
    pg_tile_columns(t, at + 68, c);
    p->d[0] = pg_f16_lanes(c[3]);
    p->m[0] = pg_f16_lanes(_mm512_srli_epi32(c[3], 16));
    pg_tile_columns(t, at, c);
    for (int i = 0; i < 4; i++)
        low_high(c[i], &scale[i], &min[i]);
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++)
        p->scale[i] = byte_of(scale[i / 4], i % 4);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++)
        p->pair[i] = bytes_to_words(min[i / 2], i % 2 * 2, i % 2 * 2 + 1);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        pg_tile_columns(t, at + 16 + (size_t)i * 16, c);
#pragma GCC unroll 16
        for (int n = 0; n < 16; n++)
            p->q[i / 2 * 32 + n / 4 * 8 + i % 2 * 4 + n % 4] =
                _mm512_and_si512(pg_shift_right(c[n % 4], n / 4 * 2), two);
    }
}

/* ------------------------------------------------------------------ blocks of 32 ------------ */

/* The 16 bytes at `at`: low nibbles are values 0 to 15, high nibbles 16 to 31. */
PG_INLINE void nibbles_32(const struct pg_tile *t, size_t at, __m512i q[8])
{
    __m512i c[4];
    pg_tile_columns(t, at, c);
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++)
        low_high(c[j], q + j, q + 4 + j);
}

/* Bit i of the lane becomes bit 4 of value i. */
PG_INLINE void fifth_32(__m512i bits, __m512i q[8])
{
    /* Where in its eight bytes a byte's window of eight bits begins: four below its bit. */
    __m512i ramp = _mm512_set1_epi64(0x1f1e1d1cfffefdfc);
#pragma GCC unroll 8
    for (int k = 0; k < 8; k++) {
        __m512i from = _mm512_add_epi8(ramp, pg_each_byte(4 * k));
        q[k] = pg_masked_or(_mm512_multishift_epi64_epi8(from, bits), pg_each_byte(16), q[k]);
    }
}

void pg_avx512_q4_0(struct pg_panel *p, const struct pg_tile *t, size_t at, int n_blocks)
{
    for (int b = 0; b < n_blocks; b++, at += 18) {
        __m512i c[4];
        pg_tile_columns(t, at, c);
        p->d[b] = pg_f16_lanes(c[0]);
        nibbles_32(t, at + 2, p->q + 8 * b);
    }
}

void pg_avx512_q4_1(struct pg_panel *p, const struct pg_tile *t, size_t at, int n_blocks)
{
    for (int b = 0; b < n_blocks; b++, at += 20) {
        __m512i c[4];
        pg_tile_columns(t, at, c);
        p->d[b] = pg_f16_lanes(c[0]);
        p->m[b] = pg_f16_lanes(_mm512_srli_epi32(c[0], 16));
        nibbles_32(t, at + 4, p->q + 8 * b);
    }
}

void pg_avx512_q5_0(struct pg_panel *p, const struct pg_tile *t, size_t at, int n_blocks)
{
    for (int b = 0; b < n_blocks; b++, at += 22) {
        __m512i c[4];
        pg_tile_columns(t, at, c);
        p->d[b] = pg_f16_lanes(c[0]);
        nibbles_32(t, at + 6, p->q + 8 * b);
        fifth_32(_mm512_or_si512(_mm512_srli_epi32(c[0], 16), _mm512_slli_epi32(c[1], 16)),
                 p->q + 8 * b);
    }
}

void pg_avx512_q5_1(struct pg_panel *p, const struct pg_tile *t, size_t at, int n_blocks)
{
    for (int b = 0; b < n_blocks; b++, at += 24) {
        __m512i c[4];
        pg_tile_columns(t, at, c);
        p->d[b] = pg_f16_lanes(c[0]);
        p->m[b] = pg_f16_lanes(_mm512_srli_epi32(c[0], 16));
        nibbles_32(t, at + 8, p->q + 8 * b);
        fifth_32(c[1], p->q + 8 * b);
    }
}

void pg_avx512_q8_0(struct pg_panel *p, const struct pg_tile *t, size_t at, int n_blocks)
{
    __m512i flip = pg_each_byte(0x80);
    for (int b = 0; b < n_blocks; b++, at += 34) {
        __m512i c[4];
        pg_tile_columns(t, at, c);
        p->d[b] = pg_f16_lanes(c[0]);
        __m512i *q = p->q + 8 * b;
        pg_tile_columns(t, at + 2, q);
        pg_tile_columns(t, at + 18, q + 4);
#pragma GCC unroll 8
        for (int k = 0; k < 8; k++)
            q[k] = _mm512_xor_si512(q[k], flip);
    }
}
