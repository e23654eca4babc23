/* SPDX-License-Identifier: MIT
 * AVX2: the K formats, 256 values a block.
 *
 * values() gives 32 values of a row as bytes; all else is the same for the five formats. Offsets
 * are left out of the bytes, so that they are unsigned as the multiply wants them, and are taken
 * off afterwards by way of the sums of the activations.
 *
 *   one token     each row's bytes meet the activations directly; eight rows at a time, since the
 *                 scales of eight rows are taken apart together and their sums are reduced together
 *   more tokens   eight rows' bytes are transposed once into a panel, four values of each row
 *                 in a 32-bit lane; a token's four values are broadcast against it
 */
#include "cpu/x86/avx2.h"

/* What eight rows' blocks say beside their values. scale[g] has the scale of group g twice in each
 * lane, off[p] those factors of the activation sums 2 p and 2 p + 1 (16 values each) that are
 * taken off: minima, or the format's offset times the scale. */
struct heads {
    __m256 d, m;
    __m256i off[8];
    _Alignas(32) int32_t scale[16][8];
};

struct panel {
    struct heads h;
    _Alignas(32) uint8_t u[64][32];
};

enum { BLOCK = 256, TILE = 4 };

PG_INLINE bool has_min(enum pg_type t)
{
    return t == PG_TYPE_Q2_K || t == PG_TYPE_Q4_K || t == PG_TYPE_Q5_K;
}

PG_INLINE int group_of(enum pg_type t) /* values with one scale */
{
    return t == PG_TYPE_Q4_K || t == PG_TYPE_Q5_K ? 32 : 16;
}

PG_INLINE size_t bytes_of(enum pg_type t)
{
    return t == PG_TYPE_Q2_K   ? 84
           : t == PG_TYPE_Q3_K ? 110
           : t == PG_TYPE_Q4_K ? 144
           : t == PG_TYPE_Q5_K ? 176
                               : 210;
}

/* Products of how many quads fit in 16 bits: largest value * 127 * 2 * chain < 32768. */
PG_INLINE int chain_of(enum pg_type t)
{
    return t == PG_TYPE_Q4_K ? 8 : t == PG_TYPE_Q6_K ? 2 : 4;
}

/* ------------------------------------------------------------------ taking apart ------------ */

/* Bits of 16-bit elements moved down by `by`, or up by -by, then masked: bytes never mix as long
 * as the mask has only bits that the shift keeps in their byte. */
PG_INLINE __m256i moved(__m256i v, int by, int mask)
{
    v = by >= 0 ? _mm256_srli_epi16(v, by) : _mm256_slli_epi16(v, -by);
    return _mm256_and_si256(v, _mm256_set1_epi8((char)mask));
}

/* Values 32 g to 32 g + 31 of the block at w, without offset. */
PG_INLINE __m256i values(enum pg_type t, const uint8_t *w, int g)
{
    int half = g / 4, j = g % 4;
    switch (t) {
    case PG_TYPE_Q2_K:
        return moved(load(w + 16 + 32 * half), 2 * j, 3);
    case PG_TYPE_Q3_K:
        return _mm256_or_si256(moved(load(w + 32 + 32 * half), 2 * j, 3), moved(load(w), g - 2, 4));
    case PG_TYPE_Q4_K:
        return moved(load(w + 16 + g / 2 * 32), g % 2 * 4, 15);
    case PG_TYPE_Q5_K:
        return _mm256_or_si256(moved(load(w + 48 + g / 2 * 32), g % 2 * 4, 15),
                               moved(load(w + 16), g - 4, 16));
    default:
        return _mm256_or_si256(moved(load(w + 64 * half + j % 2 * 32), j / 2 * 4, 15),
                               moved(load(w + 128 + 32 * half), 2 * j - 4, 0x30));
    }
}

/* Each lane: byte `a` of it and byte `b` of it, as the high bytes of its two 16-bit elements. */
PG_INLINE __m256i pick(__m256i v, int a, int b)
{
    __m128i lanes = _mm_setr_epi32(0, 0x04040404, 0x08080808, 0x0c0c0c0c);
    __m128i at = _mm_set1_epi32((int)(0x00800080u | (unsigned)a << 8 | (unsigned)b << 24));
    return _mm256_shuffle_epi8(v, _mm256_broadcastsi128_si256(_mm_add_epi8(at, lanes)));
}

PG_INLINE void put_scale(struct heads *h, int g, __m256i v)
{
    _mm256_store_si256((__m256i *)(void *)h->scale[g], v);
}

/* Bytes, unsigned, of four groups each to pairs: scales and, when wanted, factors of the sums. */
PG_INLINE void scales_unsigned(struct heads *h, int g, __m256i v)
{
    put_scale(h, g, _mm256_srli_epi16(pick(v, 0, 0), 8));
    put_scale(h, g + 1, _mm256_srli_epi16(pick(v, 1, 1), 8));
    put_scale(h, g + 2, _mm256_srli_epi16(pick(v, 2, 2), 8));
    put_scale(h, g + 3, _mm256_srli_epi16(pick(v, 3, 3), 8));
}

/* Four signed scales; the factors of the sums are the scales times 2^(8 - shift). */
PG_INLINE void scales_signed(struct heads *h, int g, __m256i v, int shift)
{
    put_scale(h, g, _mm256_srai_epi16(pick(v, 0, 0), 8));
    put_scale(h, g + 1, _mm256_srai_epi16(pick(v, 1, 1), 8));
    put_scale(h, g + 2, _mm256_srai_epi16(pick(v, 2, 2), 8));
    put_scale(h, g + 3, _mm256_srai_epi16(pick(v, 3, 3), 8));
    h->off[g / 2] = _mm256_srai_epi16(pick(v, 0, 1), shift);
    h->off[g / 2 + 1] = _mm256_srai_epi16(pick(v, 2, 3), shift);
}

/* Q4_K and Q5_K: the first sixteen bytes are d, m and the packed scales. */
PG_INLINE void heads_4(struct heads *h, const struct pg_rows8 *r, size_t at)
{
    __m128i row[8];
    __m256i c[4], six = _mm256_set1_epi8(0x3f), low = _mm256_set1_epi8(0x0f);
    __m256i top = _mm256_set1_epi8(0x30);
#define ROW(i) row[i] = load128(r->w[i] + at);
    PG_EACH_8(ROW)
#undef ROW
    transpose_16(row, c);
    split_halves(c[0], &h->d, &h->m);
    __m256i scale1 = _mm256_or_si256(_mm256_and_si256(c[3], low),
                                     _mm256_and_si256(_mm256_srli_epi32(c[1], 2), top));
    __m256i min1 = _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi32(c[3], 4), low),
                                   _mm256_and_si256(_mm256_srli_epi32(c[2], 2), top));
    __m256i min0 = _mm256_and_si256(c[2], six);
    scales_unsigned(h, 0, _mm256_and_si256(c[1], six));
    scales_unsigned(h, 4, scale1);
#define OFF(i)                                                                                     \
    h->off[i] = _mm256_srli_epi16(pick(min0, i, i), 8);                                            \
    h->off[i + 4] = _mm256_srli_epi16(pick(min1, i, i), 8);
    OFF(0) OFF(1) OFF(2) OFF(3)
#undef OFF
}

PG_INLINE void heads_2(struct heads *h, const struct pg_rows8 *r, size_t at)
{
    __m128i row[8];
    __m256i c[4], low = _mm256_set1_epi8(0x0f);
#define ROW(i) row[i] = load128(r->w[i] + at);
    PG_EACH_8(ROW)
#undef ROW
    transpose_16(row, c);
#define PAIR(i) load32(r->w[i] + at + 80)
    split_halves(
        _mm256_setr_epi32(PAIR(0), PAIR(1), PAIR(2), PAIR(3), PAIR(4), PAIR(5), PAIR(6), PAIR(7)),
        &h->d, &h->m);
#undef PAIR
#define QUARTER(i)                                                                                 \
    scales_unsigned(h, 4 * i, _mm256_and_si256(c[i], low));                                        \
    c[i] = _mm256_and_si256(_mm256_srli_epi32(c[i], 4), low);                                      \
    h->off[2 * i] = _mm256_srli_epi16(pick(c[i], 0, 1), 8);                                        \
    h->off[2 * i + 1] = _mm256_srli_epi16(pick(c[i], 2, 3), 8);
    QUARTER(0) QUARTER(1) QUARTER(2) QUARTER(3)
#undef QUARTER
}

/* The sixteen bytes from 94 on end with the twelve of the scales and d: loading from the scales on
 * would read beyond the block. */
PG_INLINE void heads_3(struct heads *h, const struct pg_rows8 *r, size_t at)
{
    __m128i row[8], order = _mm_setr_epi8(14, 15, -1, -1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13);
    __m256i c[4], low = _mm256_set1_epi8(0x0f), top = _mm256_set1_epi8(0x30);
    __m256i middle = _mm256_set1_epi8(32);
#define ROW(i) row[i] = _mm_shuffle_epi8(load128(r->w[i] + at + 94), order);
    PG_EACH_8(ROW)
#undef ROW
    transpose_16(row, c);
    split_halves(c[0], &h->d, &h->m);
#define QUARTER(i, nibbles, high)                                                                  \
    scales_signed(                                                                                 \
        h, 4 * i,                                                                                  \
        _mm256_sub_epi8(                                                                           \
            _mm256_or_si256(_mm256_and_si256(nibbles, low), _mm256_and_si256(high, top)), middle), \
        6);
    QUARTER(0, c[1], _mm256_slli_epi32(c[3], 4))
    QUARTER(1, c[2], _mm256_slli_epi32(c[3], 2))
    QUARTER(2, _mm256_srli_epi32(c[1], 4), c[3])
    QUARTER(3, _mm256_srli_epi32(c[2], 4), _mm256_srli_epi32(c[3], 2))
#undef QUARTER
}

PG_INLINE void heads_6(struct heads *h, const struct pg_rows8 *r, size_t at)
{
    __m128i row[8];
    __m256i c[4];
#define ROW(i) row[i] = load128(r->w[i] + at + 192);
    PG_EACH_8(ROW)
#undef ROW
    transpose_16(row, c);
    h->d = halves_at(r, at + 208);
    h->m = _mm256_setzero_ps();
    scales_signed(h, 0, c[0], 3);
    scales_signed(h, 4, c[1], 3);
    scales_signed(h, 8, c[2], 3);
    scales_signed(h, 12, c[3], 3);
}

PG_INLINE void heads(enum pg_type t, struct heads *h, const struct pg_rows8 *r, size_t at)
{
    switch (t) {
    case PG_TYPE_Q2_K:
        heads_2(h, r, at);
        break;
    case PG_TYPE_Q3_K:
        heads_3(h, r, at);
        break;
    case PG_TYPE_Q6_K:
        heads_6(h, r, at);
        break;
    default:
        heads_4(h, r, at);
    }
}

/* ------------------------------------------------------------------ after the products ------ */

PG_INLINE __m256i off_dot(const struct heads *h, const int16_t *sums)
{
    __m256i a = _mm256_madd_epi16(h->off[0], broadcast32(sums));
    __m256i b = _mm256_madd_epi16(h->off[1], broadcast32(sums + 2));
#define OFF(i, to)                                                                                 \
    to = _mm256_add_epi32(to, _mm256_madd_epi16(h->off[i], broadcast32(sums + 2 * i)));
    OFF(2, a)
    OFF(3, b)
    OFF(4, a)
    OFF(5, b)
    OFF(6, a)
    OFF(7, b)
#undef OFF
    return _mm256_add_epi32(a, b);
}

PG_INLINE __m256 finish(enum pg_type t, const struct heads *h, __m256 acc, float dx, __m256i sum,
                        const int16_t *sums)
{
    __m256i off = off_dot(h, sums);
    if (!has_min(t))
        return add_scaled(acc, h->d, dx, _mm256_sub_epi32(sum, off));
    return sub_scaled(add_scaled(acc, h->d, dx, sum), h->m, dx, off);
}

/* ------------------------------------------------------------------ one token --------------- */

/* Sixteen scales of a row as 16-bit numbers, those of even groups in the low half. */
PG_INLINE __m256i row_scales(enum pg_type t, const uint8_t *w)
{
    __m128i order = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
    __m128i v = load128(w + (t == PG_TYPE_Q6_K ? 192 : t == PG_TYPE_Q3_K ? 94 : 0));
    if (t == PG_TYPE_Q2_K)
        v = _mm_and_si128(v, _mm_set1_epi8(15));
    if (t == PG_TYPE_Q3_K) {
        __m128i low = _mm_bsrli_si128(v, 2), high = _mm_shuffle_epi8(v, _mm_set1_epi32(0x0d0c0b0a));
        low = _mm_unpacklo_epi64(low, _mm_srli_epi64(low, 4));
        high = _mm_srlv_epi32(high, _mm_setr_epi32(0, 2, 4, 6));
        high = _mm_slli_epi32(_mm_and_si128(high, _mm_set1_epi8(3)), 4);
        v = _mm_or_si128(_mm_and_si128(low, _mm_set1_epi8(15)), high);
        v = _mm_sub_epi8(v, _mm_set1_epi8(32));
    }
    return _mm256_cvtepi8_epi16(_mm_shuffle_epi8(v, order));
}

/* The scales of 32 values, one for each pair of products. */
PG_INLINE __m256i scale_at(enum pg_type t, const struct heads *h, __m256i scales, int g, int r)
{
    if (group_of(t) == 32)
        return _mm256_set1_epi32(h->scale[g][r]);
    return _mm256_shuffle_epi8(scales, _mm256_set1_epi16((short)(2 * g | (2 * g + 1) << 8)));
}

PG_INLINE __m256i row_dot(enum pg_type t, const struct heads *h, const uint8_t *w, const int8_t *x,
                          int r)
{
    __m256i sum = _mm256_setzero_si256(), scales = sum;
    if (group_of(t) == 16)
        scales = row_scales(t, w);
#define GROUP(g)                                                                                   \
    sum = _mm256_add_epi32(                                                                        \
        sum, _mm256_madd_epi16(_mm256_maddubs_epi16(values(t, w, g), load(x + 32 * g)),            \
                               scale_at(t, h, scales, g, r)));
    PG_EACH_8(GROUP)
#undef GROUP
    return sum;
}

PG_INLINE void dots(enum pg_type t, struct heads *h, const struct pg_rows8 *r, int b,
                    const int8_t *x, __m256i v[8])
{
    size_t bytes = bytes_of(t), at = (size_t)b * bytes;
    heads(t, h, r, at);
    for (int i = 0; i < 8; i++) {
        prefetch(r, (size_t)(8 * b + i), bytes);
        v[i] = row_dot(t, h, r->w[i] + at, x, i);
    }
}

/* ------------------------------------------------------------------ more tokens ------------- */

PG_INLINE void unpack(enum pg_type t, struct panel *p, const struct pg_rows8 *r, size_t at)
{
    heads(t, &p->h, r, at);
#define GROUP(g)                                                                                   \
    {                                                                                              \
        __m256i v[8];                                                                              \
        v[0] = values(t, r->w[0] + at, g);                                                         \
        v[1] = values(t, r->w[1] + at, g);                                                         \
        v[2] = values(t, r->w[2] + at, g);                                                         \
        v[3] = values(t, r->w[3] + at, g);                                                         \
        v[4] = values(t, r->w[4] + at, g);                                                         \
        v[5] = values(t, r->w[5] + at, g);                                                         \
        v[6] = values(t, r->w[6] + at, g);                                                         \
        v[7] = values(t, r->w[7] + at, g);                                                         \
        transpose_32(v, p->u[8 * g]);                                                              \
    }
    PG_EACH_8(GROUP)
#undef GROUP
}

/* Four tokens against a panel. */
PG_INLINE void tile(enum pg_type t, const struct panel *p, const int8_t *const x[TILE],
                    __m256i sum[TILE])
{
    int chain = chain_of(t);
    __m256i s0 = _mm256_setzero_si256(), s1 = s0, s2 = s0, s3 = s0;
    for (int q = 0; q < BLOCK / 4; q += chain) {
        __m256i t0 = _mm256_setzero_si256(), t1 = t0, t2 = t0, t3 = t0;
#define QUAD(c)                                                                                    \
    if (c < chain) {                                                                               \
        __m256i w = load(p->u[q + c]);                                                             \
        int k = 4 * (q + c);                                                                       \
        t0 = _mm256_add_epi16(t0, _mm256_maddubs_epi16(w, broadcast32(x[0] + k)));                 \
        t1 = _mm256_add_epi16(t1, _mm256_maddubs_epi16(w, broadcast32(x[1] + k)));                 \
        t2 = _mm256_add_epi16(t2, _mm256_maddubs_epi16(w, broadcast32(x[2] + k)));                 \
        t3 = _mm256_add_epi16(t3, _mm256_maddubs_epi16(w, broadcast32(x[3] + k)));                 \
    }
        PG_EACH_8(QUAD)
#undef QUAD
        __m256i scale = load(p->h.scale[4 * q / group_of(t)]);
        s0 = _mm256_add_epi32(s0, _mm256_madd_epi16(t0, scale));
        s1 = _mm256_add_epi32(s1, _mm256_madd_epi16(t1, scale));
        s2 = _mm256_add_epi32(s2, _mm256_madd_epi16(t2, scale));
        s3 = _mm256_add_epi32(s3, _mm256_madd_epi16(t3, scale));
    }
    sum[0] = s0;
    sum[1] = s1;
    sum[2] = s2;
    sum[3] = s3;
}

#include "cpu/x86/avx2_body.h"

MATMUL(Q2_K)
MATMUL(Q3_K)
MATMUL(Q4_K)
MATMUL(Q5_K)
MATMUL(Q6_K)

void pg_avx2_fill_k(struct pg_kernels *k)
{
    k->matmul[PG_TYPE_Q2_K] = matmul_Q2_K;
    k->matmul[PG_TYPE_Q3_K] = matmul_Q3_K;
    k->matmul[PG_TYPE_Q4_K] = matmul_Q4_K;
    k->matmul[PG_TYPE_Q5_K] = matmul_Q5_K;
    k->matmul[PG_TYPE_Q6_K] = matmul_Q6_K;
}
