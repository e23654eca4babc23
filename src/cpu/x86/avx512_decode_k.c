/* SPDX-License-Identifier: MIT
 * One token, formats with blocks of 256 values: see avx512_decode.h.
 *
 * A chunk is four blocks, whose scales are taken apart together.
 */
#include "cpu/x86/avx512_decode.h"

enum { BLOCK = 256, CHUNK = 4, QUADS = PG_PART_STEPS / CHUNK };

/* A lane of four lanes for each block: parts of S, parts of M, and 16 bytes of the block that hold
 * the float scales. */
struct chunk {
    __m512i sum, min, head;
};

struct part_acts {
    struct pg_step_acts step[PG_PART_STEPS];
    __m512i sums[2][QUADS]; /* what minima are multiplied by: 8 a block, of 32 values or 16 */
    __m512i pick[2][2];     /* layout.scale, each for four int16; [1]: of the second 16 */
};

/* How the four vectors of a block lie. */
struct layout {
    uint8_t place[8];    /* see struct pg_step_acts */
    uint8_t scale[2][8]; /* [h][2 i + j]: which scales lane i, of four lanes, of vector 2 h + j */
};

/* Where there are less than four, the last ones are the same. */
struct four {
    const uint8_t *block[4];
};

typedef void values_fn(const uint8_t *block, __m512i q[4]);
/* scale: 16 bytes a block. */
typedef void scales_fn(const struct four *f, const __m512i sums[2], __m512i *scale,
                       struct chunk *c);

struct format {
    const struct layout *layout;
    values_fn *values;
    scales_fn *scales;
    int block_bytes, offset;
    int float_at; /* dword of `head` */
    bool has_min, min_of_32;
};

/* ------------------------------------------------------------------ activations ------------- */

PG_INLINE __m512i pick_scales(const uint8_t scale[8])
{
    int64_t bytes;
    memcpy(&bytes, scale, sizeof(bytes));
    __m512i v = _mm512_cvtepu8_epi64(_mm_cvtsi64_si128(bytes));
    return _mm512_shufflehi_epi16(_mm512_shufflelo_epi16(v, 0), 0);
}

static void part_acts_load(struct part_acts *a, const struct format *f, const struct pg_acts *x,
                           size_t at, int n)
{
    const int16_t *sums = x->sums + at / 16;
    __m128i low[PG_PART_STEPS] = {0}, high[PG_PART_STEPS] = {0};
    for (int h = 0; h < 2; h++) {
        a->pick[0][h] = pick_scales(f->layout->scale[h]);
        a->pick[1][h] = _mm512_add_epi16(a->pick[0][h], _mm512_set1_epi16(16));
    }
    for (int b = 0; b < n / BLOCK; b++) {
        pg_step_acts_load(&a->step[b], x->q + at + BLOCK * b, BLOCK, f->layout->place, f->offset);
        low[b] = pg_load_16(sums + 16 * b);
        high[b] = pg_load_16(sums + 16 * b + 8);
        if (f->min_of_32)
            low[b] = _mm_hadd_epi16(low[b], high[b]);
    }
    memcpy(a->sums[0], low, sizeof(low));
    memcpy(a->sums[1], high, sizeof(high));
}

/* ------------------------------------------------------------------ integers ---------------- */

/* Sixteen parts of S of one block, whose scales, int16, are where `pick` looks for them. Sums of
 * four products fit 16 bits in every format. */
PG_INLINE __m512i block_sum(const struct format *f, const uint8_t *block, __m512i scale,
                            const struct pg_step_acts *x, const __m512i pick[2])
{
    __m512i q[4], s[4];
    f->values(block, q);
#pragma GCC unroll 4
    for (int v = 0; v < 4; v++)
        s[v] = _mm512_dpbusd_epi32(f->offset ? x->start[v] : _mm512_setzero_si512(), q[v], x->q[v]);
    __m512i sum =
        _mm512_madd_epi16(_mm512_packs_epi32(s[0], s[1]), _mm512_permutexvar_epi16(pick[0], scale));
    return _mm512_dpwssd_epi32(sum, _mm512_packs_epi32(s[2], s[3]),
                               _mm512_permutexvar_epi16(pick[1], scale));
}

PG_INLINE void chunk_sums(const struct format *f, const uint8_t *w, const struct part_acts *a,
                          int i, int count, struct chunk *c)
{
    __m512i sums[2] = {a->sums[0][i], a->sums[1][i]}, s[4], all;
    struct four four;
#pragma GCC unroll 4
    for (int b = 0; b < 4; b++)
        four.block[b] = w + PG_MIN(b, count - 1) * f->block_bytes;
    f->scales(&four, sums, &all, c);
    __m512i scale[2] = {_mm512_cvtepi8_epi16(_mm512_castsi512_si256(all)),
                        _mm512_cvtepi8_epi16(_mm512_extracti64x4_epi64(all, 1))};
#pragma GCC unroll 4
    for (int b = 0; b < 4; b++)
        s[b] = block_sum(f, four.block[b], scale[b / 2], &a->step[4 * i + PG_MIN(b, count - 1)],
                         a->pick[b % 2]);
    c->sum = pg_add_in_lanes(s[0], s[1], s[2], s[3]);
}

/* ------------------------------------------------------------------ floats ------------------ */

/* v[j] lane i: rows 4 j .. 4 j + 3 of block i. c[i]: all rows of block i. */
PG_INLINE void blocks_apart(const __m512i v[4], __m512i c[4])
{
    __m512i a = _mm512_shuffle_i32x4(v[0], v[1], 0x88), b = _mm512_shuffle_i32x4(v[2], v[3], 0x88);
    __m512i e = _mm512_shuffle_i32x4(v[0], v[1], 0xdd), f = _mm512_shuffle_i32x4(v[2], v[3], 0xdd);
    c[0] = _mm512_shuffle_i32x4(a, b, 0x88);
    c[1] = _mm512_shuffle_i32x4(e, f, 0x88);
    c[2] = _mm512_shuffle_i32x4(a, b, 0xdd);
    c[3] = _mm512_shuffle_i32x4(e, f, 0xdd);
}

PG_INLINE __m512 chunk_floats(const struct format *f, const struct chunk q[PG_LANES],
                              const struct pg_acts *x, size_t at, int count, __m512 acc)
{
    const float *dx = x->d + at / BLOCK;
    __m512i s[4], m[4], d[4], sum[4], min[4], scale[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        __m512i head[4] = {q[4 * j].head, q[4 * j + 1].head, q[4 * j + 2].head, q[4 * j + 3].head};
        __m512i column[4];
        pg_transpose_rows(head, column);
        d[j] = column[f->float_at];
        s[j] = pg_add_lanes(pg_add_lanes(q[j].sum, q[4 + j].sum),
                            pg_add_lanes(q[8 + j].sum, q[12 + j].sum));
        if (f->has_min)
            m[j] =
                pg_add_in_lanes(q[4 * j].min, q[4 * j + 1].min, q[4 * j + 2].min, q[4 * j + 3].min);
    }
    pg_transpose_rows(s, sum);
    blocks_apart(d, scale);
    if (f->has_min)
        blocks_apart(m, min);
    for (int i = 0; i < count; i++) {
        __m512 high = pg_f16_lanes(_mm512_srli_epi32(scale[i], 16));
        if (!f->has_min) {
            acc = _mm512_add_ps(acc, pg_scaled(high, dx + i, sum[i]));
            continue;
        }
        acc = _mm512_add_ps(acc, pg_scaled(pg_f16_lanes(scale[i]), dx + i, sum[i]));
        acc = _mm512_sub_ps(acc, pg_scaled(high, dx + i, min[i]));
    }
    return acc;
}

/* ------------------------------------------------------------------ the formats ------------- */

/* The 16 bytes at `at` of each block. */
PG_INLINE __m512i four_at(const struct four *f, int at)
{
    __m512i v = _mm512_castsi128_si512(pg_load_16(f->block[0] + at));
    v = _mm512_mask_broadcast_i32x4(v, 0x00f0, pg_load_16(f->block[1] + at));
    v = _mm512_mask_broadcast_i32x4(v, 0x0f00, pg_load_16(f->block[2] + at));
    return _mm512_mask_broadcast_i32x4(v, 0xf000, pg_load_16(f->block[3] + at));
}

PG_INLINE __m512i twice_32(const void *p)
{
    return _mm512_broadcast_i64x4(_mm256_loadu_si256(p));
}

/* Scales and minima of six bits: see scales_6bit in avx512_unpack.c; here a lane of four lanes is a
 * block. */
PG_INLINE void scales_6bit(const struct four *f, const __m512i sums[2], __m512i *scale,
                           struct chunk *q)
{
    q->head = four_at(f, 0);
    __m512i low = _mm512_broadcast_i32x4(
        _mm_setr_epi8(4, 5, 6, 7, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15));
    __m512i high = _mm512_broadcast_i32x4(
        _mm_setr_epi8(-1, -1, -1, -1, 4, 5, 6, 7, -1, -1, -1, -1, 8, 9, 10, 11));
    __m512i mask =
        _mm512_broadcast_i32x4(_mm_setr_epi32(0x3f3f3f3f, 0x0f0f0f0f, 0x3f3f3f3f, 0x0f0f0f0f));
    __m512i v = _mm512_shuffle_epi8(q->head, low);
    v = _mm512_srlv_epi32(v, _mm512_broadcast_i32x4(_mm_setr_epi32(0, 0, 0, 4)));
    v = _mm512_and_si512(v, mask);
    __m512i top = _mm512_srli_epi32(_mm512_shuffle_epi8(q->head, high), 2);
    v = pg_masked_or(top, pg_each_byte(0x30), v);
    *scale = v;
    q->min = _mm512_madd_epi16(_mm512_unpackhi_epi8(v, _mm512_setzero_si512()), sums[0]);
}

/* Bit `low` of each byte of the lower half and `high` of the upper half, moved to bit `to`; the
 * other bits are of no meaning. */
PG_INLINE __m512i bit_to(__m512i v, int low, int high, int to)
{
    int64_t each = 0x0101010101010101, bytes = 0x3830282018100800;
    int64_t a = bytes + each * ((low - to) & 63), b = bytes + each * ((high - to) & 63);
    return _mm512_multishift_epi64_epi8(_mm512_setr_epi64(a, a, a, a, b, b, b, b), v);
}

PG_INLINE void nibbles_64(const uint8_t *p, __m512i *low, __m512i *high)
{
    __m512i v = _mm512_loadu_si512(p), nibble = pg_each_byte(15);
    *low = _mm512_and_si512(v, nibble);
    *high = _mm512_and_si512(_mm512_srli_epi32(v, 4), nibble);
}

PG_INLINE void values_q4_k(const uint8_t *block, __m512i q[4])
{
    nibbles_64(block + 16, &q[0], &q[1]);
    nibbles_64(block + 80, &q[2], &q[3]);
}

/* Vectors lie by_nibble: the fifth bits of sub-blocks 2, 2 + 2 and so on, each to bit 4. */
PG_INLINE void values_q5_k(const uint8_t *block, __m512i q[4])
{
    static const uint8_t sub[4] = {0, 1, 4, 5}; /* and two more in the upper half */
    __m512i fifth = twice_32(block + 16);
    nibbles_64(block + 48, &q[0], &q[1]);
    nibbles_64(block + 112, &q[2], &q[3]);
#pragma GCC unroll 4
    for (int v = 0; v < 4; v++)
        q[v] = pg_masked_or(bit_to(fifth, sub[v], sub[v] + 2, 4), pg_each_byte(16), q[v]);
}

PG_INLINE void values_q6_k(const uint8_t *block, __m512i q[4])
{
    nibbles_64(block, &q[0], &q[1]);
    nibbles_64(block + 64, &q[2], &q[3]);
#pragma GCC unroll 4
    for (int v = 0; v < 4; v++) {
        __m512i top = bit_to(twice_32(block + 128 + v / 2 * 32), v % 2 * 4, v % 2 * 4 + 2, 4);
        q[v] = pg_masked_or(top, pg_each_byte(0x30), q[v]);
    }
}

PG_INLINE void scales_q6_k(const struct four *f, const __m512i sums[2], __m512i *scale,
                           struct chunk *q)
{
    (void)sums;
    q->head = four_at(f, 194);
    q->min = _mm512_setzero_si512();
    *scale = four_at(f, 192);
}

/* Vectors lie by_pair: both halves of the block beside each other. */
PG_INLINE void pairs_64(const uint8_t *p, __m512i q[4])
{
    __m512i v = _mm512_loadu_si512(p), three = pg_each_byte(3);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
        q[i] = _mm512_and_si512(pg_shift_right(v, 2 * i), three);
}

PG_INLINE void values_q2_k(const uint8_t *block, __m512i q[4])
{
    pairs_64(block + 16, q);
}

PG_INLINE void scales_q2_k(const struct four *f, const __m512i sums[2], __m512i *scale,
                           struct chunk *q)
{
    __m512i v = four_at(f, 0), low = pg_each_byte(15), zero = _mm512_setzero_si512();
    __m512i min = _mm512_and_si512(_mm512_srli_epi32(v, 4), low);
    q->head = four_at(f, 68);
    *scale = _mm512_and_si512(v, low);
    q->min = _mm512_dpwssd_epi32(_mm512_madd_epi16(_mm512_unpacklo_epi8(min, zero), sums[0]),
                                 _mm512_unpackhi_epi8(min, zero), sums[1]);
}

PG_INLINE void values_q3_k(const uint8_t *block, __m512i q[4])
{
    __m512i third = twice_32(block);
    pairs_64(block + 32, q);
#pragma GCC unroll 4
    for (int v = 0; v < 4; v++)
        q[v] = pg_masked_or(bit_to(third, v, v + 4, 2), pg_each_byte(4), q[v]);
}

/* Low nibbles of bytes 0 .. 7, high nibbles of the same, and two bits of bytes 8 .. 11 on top of
 * each. The bytes lie two further, so that the read ends with the block. */
PG_INLINE void scales_q3_k(const struct four *f, const __m512i sums[2], __m512i *scale,
                           struct chunk *q)
{
    (void)sums;
    q->head = four_at(f, 94);
    q->min = _mm512_setzero_si512();
    __m512i low =
        _mm512_broadcast_i32x4(_mm_setr_epi8(2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5, 6, 7, 8, 9));
    __m512i top = _mm512_broadcast_i32x4(
        _mm_setr_epi8(10, 11, 12, 13, 10, 11, 12, 13, 10, 11, 12, 13, 10, 11, 12, 13));
    __m512i v = _mm512_shuffle_epi8(q->head, low);
    v = _mm512_srlv_epi32(v, _mm512_broadcast_i32x4(_mm_setr_epi32(0, 0, 4, 4)));
    v = _mm512_and_si512(v, pg_each_byte(15));
    __m512i bits = _mm512_rorv_epi32(_mm512_shuffle_epi8(q->head, top),
                                     _mm512_broadcast_i32x4(_mm_setr_epi32(28, 30, 0, 2)));
    v = pg_masked_or(bits, pg_each_byte(0x30), v);
    *scale = _mm512_sub_epi8(v, pg_each_byte(32));
}

static const struct layout by_nibble = {
    {0, 2, 1, 3, 4, 6, 5, 7},
    {{0, 1, 0, 1, 2, 3, 2, 3}, {4, 5, 4, 5, 6, 7, 6, 7}},
};
static const struct layout natural = {
    {0, 1, 2, 3, 4, 5, 6, 7},
    {{0, 4, 1, 5, 2, 6, 3, 7}, {8, 12, 9, 13, 10, 14, 11, 15}},
};
static const struct layout by_pair = {
    {0, 4, 1, 5, 2, 6, 3, 7},
    {{0, 2, 1, 3, 8, 10, 9, 11}, {4, 6, 5, 7, 12, 14, 13, 15}},
};

static const struct format q2_k = {&by_pair, values_q2_k, scales_q2_k, 84, 0, 3, true, false};
static const struct format q3_k = {&by_pair, values_q3_k, scales_q3_k, 110, 4, 3, false, false};
static const struct format q4_k = {&by_nibble, values_q4_k, scales_6bit, 144, 0, 0, true, true};
static const struct format q5_k = {&by_nibble, values_q5_k, scales_6bit, 176, 0, 0, true, true};
static const struct format q6_k = {&natural, values_q6_k, scales_q6_k, 210, 32, 3, false, false};

#include "cpu/x86/avx512_decode_body.h"

DECODE(q2_k)
DECODE(q3_k)
DECODE(q4_k)
DECODE(q5_k)
DECODE(q6_k)
