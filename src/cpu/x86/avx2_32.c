/* SPDX-License-Identifier: MIT
 * AVX2: the formats of 32 values a block, Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0.
 *
 * As in avx2_k.c, values() gives a row's 32 values as bytes, and panels serve more than one token.
 * Here every block ends in a float step, so the work is in the scales as much as in the products.
 */
#include "cpu/x86/avx2.h"

enum { BLOCK = 32, TILE = 2 };

struct heads {
    __m256 d, m;
};

struct panel {
    struct heads h;
    _Alignas(32) uint8_t u[8 * 32];
};

PG_INLINE bool has_min(enum pg_type t)
{
    return t == PG_TYPE_Q4_1 || t == PG_TYPE_Q5_1;
}

PG_INLINE int offset_of(enum pg_type t)
{
    return t == PG_TYPE_Q4_0 ? 8 : t == PG_TYPE_Q5_0 ? 16 : 0;
}

PG_INLINE size_t bytes_of(enum pg_type t)
{
    return t == PG_TYPE_Q4_0   ? 18
           : t == PG_TYPE_Q4_1 ? 20
           : t == PG_TYPE_Q5_0 ? 22
           : t == PG_TYPE_Q5_1 ? 24
                               : 34;
}

PG_INLINE __m256i nibbles(const uint8_t *p)
{
    __m128i v = load128(p);
    __m256i both = _mm256_set_m128i(_mm_srli_epi16(v, 4), v);
    return _mm256_and_si256(both, _mm256_set1_epi8(15));
}

/* Bit i of the word at p, as 16 in byte i. */
PG_INLINE __m256i fifth_bits(const uint8_t *p)
{
    __m256i at = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    __m256i bit = _mm256_set1_epi64x((int64_t)0x8040201008040201);
    __m256i v = _mm256_and_si256(_mm256_shuffle_epi8(broadcast32(p), at), bit);
    return _mm256_and_si256(_mm256_cmpeq_epi8(v, bit), _mm256_set1_epi8(16));
}

/* The values of the block at w, without offset; Q8_0: signed. */
PG_INLINE __m256i values(enum pg_type t, const uint8_t *w)
{
    switch (t) {
    case PG_TYPE_Q4_0:
        return nibbles(w + 2);
    case PG_TYPE_Q4_1:
        return nibbles(w + 4);
    case PG_TYPE_Q5_0:
        return _mm256_or_si256(nibbles(w + 6), fifth_bits(w + 2));
    case PG_TYPE_Q5_1:
        return _mm256_or_si256(nibbles(w + 8), fifth_bits(w + 4));
    default:
        return load(w + 2);
    }
}

PG_INLINE void heads(enum pg_type t, struct heads *h, const struct pg_rows8 *r, size_t at)
{
    if (has_min(t)) {
#define PAIR(i) load32(r->w[i] + at)
        split_halves(_mm256_setr_epi32(PAIR(0), PAIR(1), PAIR(2), PAIR(3), PAIR(4), PAIR(5),
                                       PAIR(6), PAIR(7)),
                     &h->d, &h->m);
#undef PAIR
        return;
    }
    h->d = halves_at(r, at);
    h->m = _mm256_setzero_ps();
}

/* Pairs of products in 16 bits. A signed weight gives its sign to the activation, which is never
 * -128; its magnitude, 128 at most, is unsigned: 2 * 128 * 127 fits. */
PG_INLINE __m256i products(enum pg_type t, __m256i w, __m256i x)
{
    if (t == PG_TYPE_Q8_0)
        return _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
    return _mm256_maddubs_epi16(w, x);
}

PG_INLINE __m256i add_pairs(__m256i v)
{
    return _mm256_madd_epi16(v, _mm256_set1_epi16(1));
}

/* The minimum is added, which is the reference's subtraction of its negative. */
PG_INLINE __m256 finish(enum pg_type t, const struct heads *h, __m256 acc, float dx, __m256i sum,
                        const int16_t *sums)
{
    if (has_min(t))
        return add_scaled(add_scaled(acc, h->d, dx, sum), h->m, dx, add_pairs(broadcast32(sums)));
    if (offset_of(t)) {
        __m256i factor = _mm256_set1_epi16((short)offset_of(t));
        sum = _mm256_sub_epi32(sum, _mm256_madd_epi16(broadcast32(sums), factor));
    }
    return add_scaled(acc, h->d, dx, sum);
}

/* ------------------------------------------------------------------ one token --------------- */

PG_INLINE void dots(enum pg_type t, struct heads *h, const struct pg_rows8 *r, int b,
                    const int8_t *x, __m256i v[8])
{
    size_t bytes = bytes_of(t), at = (size_t)b * bytes;
    __m256i q = load(x);
    prefetch(r, (size_t)b, 8 * bytes);
    heads(t, h, r, at);
#define ROW(i) v[i] = add_pairs(products(t, values(t, r->w[i] + at), q));
    PG_EACH_8(ROW)
#undef ROW
}

/* ------------------------------------------------------------------ more tokens ------------- */

PG_INLINE void unpack(enum pg_type t, struct panel *p, const struct pg_rows8 *r, size_t at)
{
    __m256i v[8];
    heads(t, &p->h, r, at);
#define ROW(i) v[i] = values(t, r->w[i] + at);
    PG_EACH_8(ROW)
#undef ROW
    transpose_32(v, p->u);
}

/* Keeps gcc from moving an addition behind products that do not need it, which then all wait in
 * registers that there are not. */
PG_INLINE __m256i here(__m256i v)
{
    __asm__("" : "+x"(v));
    return v;
}

/* A quad's pairs into `part` (16 bits) or, when those are full, on into `sum` (32 bits). Eight
 * quads of 4 bits fit, four of 5 bits, one of 8. */
#define PG_QUAD(i, part, sum, x)                                                                   \
    part = i % chain == 0                                                                          \
               ? products(t, w##i, broadcast32(x + 4 * i))                                         \
               : here(_mm256_add_epi16(part, products(t, w##i, broadcast32(x + 4 * i))));          \
    if (i % chain == chain - 1)                                                                    \
        sum = i < chain ? add_pairs(part) : here(_mm256_add_epi32(sum, add_pairs(part)));

/* Two tokens against a panel. */
PG_INLINE void tile(enum pg_type t, const struct panel *p, const int8_t *const x[TILE],
                    __m256i sum[TILE])
{
    const int chain = t == PG_TYPE_Q8_0 ? 1 : t == PG_TYPE_Q4_0 || t == PG_TYPE_Q4_1 ? 8 : 4;
    __m256i t0 = _mm256_setzero_si256(), t1 = t0, s0 = t0, s1 = t0;
#define QUAD(i)                                                                                    \
    __m256i w##i = load(p->u + 32 * i);                                                            \
    PG_QUAD(i, t0, s0, x[0])                                                                       \
    PG_QUAD(i, t1, s1, x[1])
    PG_EACH_8(QUAD)
#undef QUAD
    sum[0] = s0;
    sum[1] = s1;
}

#include "cpu/x86/avx2_body.h"

MATMUL(Q4_0)
MATMUL(Q4_1)
MATMUL(Q5_0)
MATMUL(Q5_1)
MATMUL(Q8_0)

void pg_avx2_fill_32(struct pg_kernels *k)
{
    k->matmul[PG_TYPE_Q4_0] = matmul_Q4_0;
    k->matmul[PG_TYPE_Q4_1] = matmul_Q4_1;
    k->matmul[PG_TYPE_Q5_0] = matmul_Q5_0;
    k->matmul[PG_TYPE_Q5_1] = matmul_Q5_1;
    k->matmul[PG_TYPE_Q8_0] = matmul_Q8_0;
}
