/* SPDX-License-Identifier: MIT
 * Quantised matrices times one token: limited by memory, so the instructions a byte of weights are
 * what counts.
 *
 * A vector holds values of one row. Its integer sums stay spread over the lanes until 16 rows have
 * one each; then a tree of transposing additions makes of them one vector, a lane a row, at about
 * three instructions a row. Floats are a lane a row again, in the written order. Offsets of stored
 * values (stored 0 .. 63 means -32 .. 31) are where the sums start: minus offset times the
 * activations, the same for all rows.
 */
#include "cpu/x86/avx512.h"
#include "cpu/x86/avx512_tile.h"

/* Each lane of four lanes apart: lane i of the result is the sums of v[0] .. v[3], lane i. */
PG_INLINE __m512i add_in_lanes(const __m512i v[4])
{
    __m512i a =
        _mm512_add_epi32(_mm512_unpacklo_epi32(v[0], v[1]), _mm512_unpackhi_epi32(v[0], v[1]));
    __m512i b =
        _mm512_add_epi32(_mm512_unpacklo_epi32(v[2], v[3]), _mm512_unpackhi_epi32(v[2], v[3]));
    return _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
}

/* Pairs of lanes of four lanes: a.0 + a.1, a.2 + a.3, the same of b. */
PG_INLINE __m512i add_lanes(__m512i a, __m512i b)
{
    return _mm512_add_epi32(_mm512_shuffle_i32x4(a, b, 0x88), _mm512_shuffle_i32x4(a, b, 0xdd));
}

PG_INLINE __m512i two_halves(const void *low, const void *high)
{
    __m512i v = _mm512_castsi256_si512(_mm256_loadu_si256(low));
    return _mm512_inserti64x4(v, _mm256_loadu_si256(high), 1);
}

PG_INLINE __m512i twice_32(const void *p)
{
    return _mm512_broadcast_i64x4(_mm256_loadu_si256(p));
}

/* ------------------------------------------------------------------ blocks of 256 ----------- */

/* How the four vectors of a block lie, by format. */
struct layout {
    uint8_t part[8];     /* vector v: 32 values from 32 part[2 v], then from 32 part[2 v + 1] */
    uint8_t scale[2][8]; /* [h][2 i + j]: the scale of lane i, of four lanes, of vector 2 h + j */
};

struct acts_k {
    __m512i q[4], start[4];
    __m512i sums[2]; /* what minima are multiplied by: 8 a lane, of 32 values or twice 16 */
    __m512i pick[2]; /* layout.scale, each for four int16 */
};

/* Of rows k, 4 + k, 8 + k, 12 + k. */
struct four_k {
    _Alignas(64) int8_t scale[4][16];
    __m512i head; /* a lane a row: 16 bytes that hold the float scales */
    __m512i min;  /* sums of minimum times activations, spread over a lane's four */
};

typedef void values_fn(const uint8_t *block, __m512i q[4]);
typedef void scales_fn(const struct pg_tile *t, size_t at, int k, const struct acts_k *a,
                       struct four_k *f);

struct format_k {
    const struct layout *layout;
    values_fn *values;
    scales_fn *scales;
    int block_bytes, offset;
    int float_at; /* dword of `head` */
    bool has_min, min_of_32;
};

PG_INLINE __m512i pick_scales(const uint8_t scale[8])
{
    int64_t bytes;
    memcpy(&bytes, scale, sizeof bytes);
    __m512i v = _mm512_cvtepu8_epi64(_mm_cvtsi64_si128(bytes));
    return _mm512_shufflehi_epi16(_mm512_shufflelo_epi16(v, 0), 0);
}

PG_INLINE void acts_k_load(struct acts_k *a, const struct format_k *f, const int8_t *q,
                           const int16_t *sums)
{
#pragma GCC unroll 4
    for (int v = 0; v < 4; v++) {
        const uint8_t *part = f->layout->part + 2 * v;
        a->q[v] = two_halves(q + 32 * part[0], q + 32 * part[1]);
        __m512i zero = _mm512_setzero_si512();
        a->start[v] = zero;
        if (f->offset)
            a->start[v] =
                _mm512_sub_epi32(zero, _mm512_dpbusd_epi32(zero, pg_each_byte(f->offset), a->q[v]));
    }
    __m128i low = pg_load_16(sums), high = pg_load_16(sums + 8);
    a->sums[0] = _mm512_broadcast_i32x4(f->min_of_32 ? _mm_hadd_epi16(low, high) : low);
    a->sums[1] = _mm512_broadcast_i32x4(high);
}

/* Sixteen parts of S of one row. Sums of four products fit 16 bits in every format. */
PG_INLINE __m512i row_k(const struct format_k *f, const uint8_t *block, const int8_t *scale,
                        const struct acts_k *a)
{
    __m512i q[4], s[4];
    f->values(block, q);
#pragma GCC unroll 4
    for (int v = 0; v < 4; v++)
        s[v] = _mm512_dpbusd_epi32(a->start[v], q[v], a->q[v]);
    __m512i words = _mm512_castsi256_si512(_mm256_cvtepi8_epi16(pg_load_16(scale)));
    __m512i sum = _mm512_madd_epi16(_mm512_packs_epi32(s[0], s[1]),
                                    _mm512_permutexvar_epi16(a->pick[0], words));
    return _mm512_dpwssd_epi32(sum, _mm512_packs_epi32(s[2], s[3]),
                               _mm512_permutexvar_epi16(a->pick[1], words));
}

/* One block of 16 rows. */
PG_INLINE __m512 block_k(const struct format_k *f, struct pg_tile *t, size_t at,
                         const struct acts_k *a, const float *dx, __m512 acc)
{
    __m512i sum[4], min[4], head[4];
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) {
        struct four_k four;
        __m512i s[4];
        pg_tile_fetch(t, (size_t)(f->block_bytes * PG_LANES / 4));
        f->scales(t, at, k, a, &four);
        head[k] = four.head;
        min[k] = four.min;
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++)
            s[i] = row_k(f, t->row[4 * i + k] + at, four.scale[i], a);
        sum[k] = add_in_lanes(s);
    }
    __m512i all = add_lanes(add_lanes(sum[0], sum[1]), add_lanes(sum[2], sum[3]));
    __m512i natural = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    __m512i floats[4];
    pg_transpose_rows(head, floats);
    __m512i both = floats[f->float_at];
    if (!f->has_min)
        return _mm512_add_ps(acc, pg_scaled(pg_f16_lanes(_mm512_srli_epi32(both, 16)), dx,
                                            _mm512_permutexvar_epi32(natural, all)));
    acc = _mm512_add_ps(acc,
                        pg_scaled(pg_f16_lanes(both), dx, _mm512_permutexvar_epi32(natural, all)));
    return _mm512_sub_ps(
        acc, pg_scaled(pg_f16_lanes(_mm512_srli_epi32(both, 16)), dx, add_in_lanes(min)));
}

PG_INLINE void decode_k(const struct format_k *f, const struct pg_matmul *m, int row0, int row1)
{
    const struct pg_acts *x = m->x;
    size_t first = (m->x_row ? (size_t)m->x_row[0] : 0) * (size_t)x->n;
    int n_blocks = x->n / 256;
    struct acts_k a;
    struct pg_tile t;
    a.pick[0] = pick_scales(f->layout->scale[0]);
    a.pick[1] = pick_scales(f->layout->scale[1]);
    for (int row = row0; row < row1; row += PG_LANES) {
        __m512 acc = _mm512_setzero_ps();
        pg_tile_set(&t, m, row, row1);
        for (int b = 0; b < n_blocks; b++) {
            size_t i = first + 256 * (size_t)b;
            acts_k_load(&a, f, x->q + i, x->sums + i / 16);
            acc = block_k(f, &t, (size_t)b * (size_t)f->block_bytes, &a, x->d + i / 256, acc);
        }
        _mm512_mask_storeu_ps(m->y + row, pg_first_lanes(t.n_rows), acc);
    }
}

/* ------------------------------------------------------------------ the formats ------------- */

/* Scales and minima of six bits: see scales_6bit in avx512_unpack.c; here a lane is a row. */
PG_INLINE void scales_6bit(const struct pg_tile *t, size_t at, int k, const struct acts_k *a,
                           struct four_k *f)
{
    f->head = pg_tile_four(t, k, at);
    __m512i low = _mm512_broadcast_i32x4(
        _mm_setr_epi8(4, 5, 6, 7, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15));
    __m512i high = _mm512_broadcast_i32x4(
        _mm_setr_epi8(-1, -1, -1, -1, 4, 5, 6, 7, -1, -1, -1, -1, 8, 9, 10, 11));
    __m512i mask =
        _mm512_broadcast_i32x4(_mm_setr_epi32(0x3f3f3f3f, 0x0f0f0f0f, 0x3f3f3f3f, 0x0f0f0f0f));
    __m512i v = _mm512_shuffle_epi8(f->head, low);
    v = _mm512_srlv_epi32(v, _mm512_broadcast_i32x4(_mm_setr_epi32(0, 0, 0, 4)));
    v = _mm512_and_si512(v, mask);
    __m512i top = _mm512_srli_epi32(_mm512_shuffle_epi8(f->head, high), 2);
    v = pg_masked_or(top, pg_each_byte(0x30), v);
    _mm512_store_si512(f->scale, v);
    f->min = _mm512_madd_epi16(_mm512_unpackhi_epi8(v, _mm512_setzero_si512()), a->sums[0]);
}

/* Bit `low` of each byte of the lower half and `high` of the upper half, moved to bit `to`; the
 * other bits are of no meaning. */
PG_INLINE __m512i bit_to(__m512i v, int low, int high, int to)
{
    __m512i from = _mm512_set1_epi64(0x3830282018100800);
    __m512i by = _mm512_inserti64x4(pg_each_byte(low - to), _mm256_set1_epi8((char)(high - to)), 1);
    return _mm512_multishift_epi64_epi8(_mm512_add_epi8(from, by), v);
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

PG_INLINE void scales_q6_k(const struct pg_tile *t, size_t at, int k, const struct acts_k *a,
                           struct four_k *f)
{
    (void)a;
    f->head = pg_tile_four(t, k, at + 194);
    f->min = _mm512_setzero_si512();
    _mm512_store_si512(f->scale, pg_tile_four(t, k, at + 192));
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

PG_INLINE void scales_q2_k(const struct pg_tile *t, size_t at, int k, const struct acts_k *a,
                           struct four_k *f)
{
    __m512i v = pg_tile_four(t, k, at), low = pg_each_byte(15), zero = _mm512_setzero_si512();
    __m512i min = _mm512_and_si512(_mm512_srli_epi32(v, 4), low);
    f->head = pg_tile_four(t, k, at + 68);
    _mm512_store_si512(f->scale, _mm512_and_si512(v, low));
    f->min = _mm512_dpwssd_epi32(_mm512_madd_epi16(_mm512_unpacklo_epi8(min, zero), a->sums[0]),
                                 _mm512_unpackhi_epi8(min, zero), a->sums[1]);
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
PG_INLINE void scales_q3_k(const struct pg_tile *t, size_t at, int k, const struct acts_k *a,
                           struct four_k *f)
{
    (void)a;
    f->head = pg_tile_four(t, k, at + 94);
    f->min = _mm512_setzero_si512();
    __m512i low =
        _mm512_broadcast_i32x4(_mm_setr_epi8(2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5, 6, 7, 8, 9));
    __m512i top = _mm512_broadcast_i32x4(
        _mm_setr_epi8(10, 11, 12, 13, 10, 11, 12, 13, 10, 11, 12, 13, 10, 11, 12, 13));
    __m512i v = _mm512_shuffle_epi8(f->head, low);
    v = _mm512_srlv_epi32(v, _mm512_broadcast_i32x4(_mm_setr_epi32(0, 0, 4, 4)));
    v = _mm512_and_si512(v, pg_each_byte(15));
    __m512i bits = _mm512_rorv_epi32(_mm512_shuffle_epi8(f->head, top),
                                     _mm512_broadcast_i32x4(_mm_setr_epi32(28, 30, 0, 2)));
    v = pg_masked_or(bits, pg_each_byte(0x30), v);
    _mm512_store_si512(f->scale, _mm512_sub_epi8(v, pg_each_byte(32)));
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

static const struct format_k q2_k = {&by_pair, values_q2_k, scales_q2_k, 84, 0, 3, true, false};
static const struct format_k q3_k = {&by_pair, values_q3_k, scales_q3_k, 110, 4, 3, false, false};
static const struct format_k q5_k = {&by_nibble, values_q5_k, scales_6bit, 176, 0, 0, true, true};
static const struct format_k q4_k = {&by_nibble, values_q4_k, scales_6bit, 144, 0, 0, true, true};
static const struct format_k q6_k = {&natural, values_q6_k, scales_q6_k, 210, 32, 3, false, false};

/* ------------------------------------------------------------------ blocks of 32 ------------ */

/* A vector holds a block of two rows. `head` is the first 16 bytes of a block. */
typedef __m512i two_rows_fn(const uint8_t *a, const uint8_t *b);

struct format_32 {
    two_rows_fn *values;
    int block_bytes, offset;
    bool has_min;
};

/* Low nibbles, then high nibbles, of 16 bytes of each row. */
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
    return _mm512_xor_si512(two_halves(a + 2, b + 2), pg_each_byte(0x80));
}

/* One block of 16 rows. */
PG_INLINE __m512 block_32(const struct format_32 *f, const struct pg_tile *t, size_t at,
                          const int8_t *q, const int16_t *sums, const float *dx, __m512 acc)
{
    __m512i x = twice_32(q), zero = _mm512_setzero_si512(), head[4], s[8];
    __m512i start = zero;
    if (f->offset)
        start = _mm512_sub_epi32(zero, _mm512_dpbusd_epi32(zero, pg_each_byte(f->offset), x));
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        const uint8_t *const *row = t->row + i / 4 * 8 + i % 4;
        s[i] = _mm512_dpbusd_epi32(start, f->values(row[0] + at, row[4] + at), x);
    }
    __m512i sum = add_lanes(add_in_lanes(s), add_in_lanes(s + 4));
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++)
        head[k] = pg_tile_four(t, k, at);
    __m512i floats[4];
    pg_transpose_rows(head, floats);
    acc = _mm512_add_ps(acc, pg_scaled(pg_f16_lanes(floats[0]), dx, sum));
    if (!f->has_min)
        return acc;
    __m512i min = _mm512_set1_epi32(-(sums[0] + sums[1]));
    return _mm512_sub_ps(acc, pg_scaled(pg_f16_lanes(_mm512_srli_epi32(floats[0], 16)), dx, min));
}

PG_INLINE void decode_32(const struct format_32 *f, const struct pg_matmul *m, int row0, int row1)
{
    const struct pg_acts *x = m->x;
    size_t first = (m->x_row ? (size_t)m->x_row[0] : 0) * (size_t)x->n;
    int n_blocks = x->n / 32;
    struct pg_tile t;
    for (int row = row0; row < row1; row += PG_LANES) {
        __m512 acc = _mm512_setzero_ps();
        pg_tile_set(&t, m, row, row1);
        for (int b = 0; b < n_blocks; b++) {
            size_t i = first + 32 * (size_t)b;
            pg_tile_fetch(&t, (size_t)(f->block_bytes * PG_LANES));
            acc = block_32(f, &t, (size_t)b * (size_t)f->block_bytes, x->q + i, x->sums + i / 16,
                           x->d + i / 32, acc);
        }
        _mm512_mask_storeu_ps(m->y + row, pg_first_lanes(t.n_rows), acc);
    }
}

static const struct format_32 q4_0 = {two_q4_0, 18, 8, false};
static const struct format_32 q4_1 = {two_q4_1, 20, 0, true};
static const struct format_32 q5_0 = {two_q5_0, 22, 16, false};
static const struct format_32 q5_1 = {two_q5_1, 24, 0, true};
static const struct format_32 q8_0 = {two_q8_0, 34, 128, false};

/* ------------------------------------------------------------------ the table --------------- */

typedef void decode_fn(const struct pg_matmul *m, int row0, int row1);

#define K_FORMATS(X)  X(Q2_K, q2_k) X(Q3_K, q3_k) X(Q4_K, q4_k) X(Q5_K, q5_k) X(Q6_K, q6_k)
#define FORMATS_32(X) X(Q4_0, q4_0) X(Q4_1, q4_1) X(Q5_0, q5_0) X(Q5_1, q5_1) X(Q8_0, q8_0)
#define DECODE_K(NAME, name)                                                                       \
    static void decode_##name(const struct pg_matmul *m, int row0, int row1)                       \
    {                                                                                              \
        decode_k(&name, m, row0, row1);                                                            \
    }
#define DECODE_32(NAME, name)                                                                      \
    static void decode_##name(const struct pg_matmul *m, int row0, int row1)                       \
    {                                                                                              \
        decode_32(&name, m, row0, row1);                                                           \
    }
K_FORMATS(DECODE_K)
FORMATS_32(DECODE_32)

#define ENTRY(NAME, name) [PG_TYPE_##NAME] = decode_##name,
static decode_fn *const decoders[PG_TYPE_LIMIT] = {K_FORMATS(ENTRY) FORMATS_32(ENTRY)};

void pg_avx512_decode(const struct pg_matmul *m, int row0, int row1)
{
    decoders[m->type](m, row0, row1);
}
