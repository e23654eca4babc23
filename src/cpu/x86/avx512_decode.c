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
PG_INLINE __m512 block_k(const struct format_k *f, const struct pg_tile *t, size_t at,
                         const struct acts_k *a, const float *dx, __m512 acc)
{
    __m512i sum[4], min[4], head[4];
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) {
        struct four_k four;
        __m512i s[4];
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
            pg_tile_fetch(&t, (size_t)(f->block_bytes * PG_LANES));
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

PG_INLINE void values_q6_k(const uint8_t *block, __m512i q[4])
{
    __m512i two = pg_each_byte(0x30);
    nibbles_64(block, &q[0], &q[1]);
    nibbles_64(block + 64, &q[2], &q[3]);
#pragma GCC unroll 2
    for (int h = 0; h < 2; h++) {
        __m512i bits = twice_32(block + 128 + 32 * h);
        __m512i low = _mm512_sllv_epi32(
            bits, _mm512_setr_epi32(4, 4, 4, 4, 4, 4, 4, 4, 2, 2, 2, 2, 2, 2, 2, 2));
        __m512i high = _mm512_srlv_epi32(
            bits, _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 2, 2, 2, 2, 2, 2));
        q[2 * h] = pg_masked_or(low, two, q[2 * h]);
        q[2 * h + 1] = pg_masked_or(high, two, q[2 * h + 1]);
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

static const struct layout by_nibble = {
    {0, 2, 1, 3, 4, 6, 5, 7},
    {{0, 1, 0, 1, 2, 3, 2, 3}, {4, 5, 4, 5, 6, 7, 6, 7}},
};
static const struct layout natural = {
    {0, 1, 2, 3, 4, 5, 6, 7},
    {{0, 4, 1, 5, 2, 6, 3, 7}, {8, 12, 9, 13, 10, 14, 11, 15}},
};

static const struct format_k q4_k = {&by_nibble, values_q4_k, scales_6bit, 144, 0, 0, true, true};
static const struct format_k q6_k = {&natural, values_q6_k, scales_q6_k, 210, 32, 3, false, false};

static void decode_q4_k(const struct pg_matmul *m, int row0, int row1)
{
    decode_k(&q4_k, m, row0, row1);
}

static void decode_q6_k(const struct pg_matmul *m, int row0, int row1)
{
    decode_k(&q6_k, m, row0, row1);
}

typedef void decode_fn(const struct pg_matmul *m, int row0, int row1);

static decode_fn *const decoders[PG_TYPE_LIMIT] = {
    [PG_TYPE_Q4_K] = decode_q4_k,
    [PG_TYPE_Q6_K] = decode_q6_k,
};

void pg_avx512_decode(const struct pg_matmul *m, int row0, int row1)
{
    decoders[m->type](m, row0, row1);
}
