/* SPDX-License-Identifier: MIT
 * AVX2: the formats of 32 values a block, Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0.
 *
 * As in avx2_k.c, values() gives a row's 32 values as bytes, and panels serve more than one token.
 * Here every block ends in a float step, so the work is in the scales as much as in the products.
 */
#include "cpu/x86/avx2.h"

enum { BLOCK = 32 };

struct panel {
    __m256 d, m;
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

PG_INLINE void heads(enum pg_type t, const struct pg_rows8 *r, size_t at, __m256 *d, __m256 *m)
{
    if (has_min(t)) {
#define PAIR(i) load32(r->w[i] + at)
        split_halves(_mm256_setr_epi32(PAIR(0), PAIR(1), PAIR(2), PAIR(3), PAIR(4), PAIR(5),
                                       PAIR(6), PAIR(7)),
                     d, m);
#undef PAIR
        return;
    }
    *d = halves_at(r, at);
    *m = _mm256_setzero_ps();
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

/* One block into the rows' results: `sum` is that of the products, `sums` the two activation sums.
 * The minimum is added, which is the reference's subtraction of its negative. */
PG_INLINE __m256 finish(enum pg_type t, __m256 d, __m256 m, __m256 acc, float dx, __m256i sum,
                        const int16_t *sums)
{
    if (has_min(t))
        return add_scaled(add_scaled(acc, d, dx, sum), m, dx, add_pairs(broadcast32(sums)));
    if (offset_of(t)) {
        __m256i factor = _mm256_set1_epi16((short)offset_of(t));
        sum = _mm256_sub_epi32(sum, _mm256_madd_epi16(broadcast32(sums), factor));
    }
    return add_scaled(acc, d, dx, sum);
}

/* ------------------------------------------------------------------ one token --------------- */

PG_INLINE void decode(enum pg_type t, const struct pg_rows8 *r, const struct pg_tokens *x,
                      int n_blocks)
{
    size_t bytes = bytes_of(t);
    __m256 acc = _mm256_setzero_ps(), d, m;
    for (int b = 0; b < n_blocks; b++) {
        size_t at = (size_t)b * bytes;
        __m256i v[8], q = load(x->q[0] + b * BLOCK);
        prefetch(r, (size_t)b, 8 * bytes);
        heads(t, r, at, &d, &m);
#define ROW(i) v[i] = add_pairs(products(t, values(t, r->w[i] + at), q));
        PG_EACH_8(ROW)
#undef ROW
        acc = finish(t, d, m, acc, x->d[0][b], sum_each(v), x->sums[0] + b * (BLOCK / 16));
    }
    store_rows(r, x->y[0], acc);
}

/* ------------------------------------------------------------------ more tokens ------------- */

PG_INLINE void unpack(enum pg_type t, struct panel *p, const struct pg_rows8 *r, size_t at)
{
    __m256i v[8];
    heads(t, r, at, &p->d, &p->m);
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
PG_INLINE void tile_2(enum pg_type t, const struct panel *p, const int8_t *const x[2],
                      __m256i sum[2])
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

PG_INLINE void multiply(enum pg_type t, const struct panel *p, const struct pg_tokens *x, int b,
                        __m256 *acc)
{
    for (int j = 0; j < x->n; j += 2) {
        int n = PG_MIN(x->n - j, 2);
        const int8_t *q[2] = {x->q[j] + b * BLOCK, x->q[j + n - 1] + b * BLOCK};
        __m256i sum[2];
        tile_2(t, p, q, sum);
        for (int i = 0; i < n; i++)
            acc[j + i] = finish(t, p->d, p->m, acc[j + i], x->d[j + i][b], sum[i],
                                x->sums[j + i] + b * (BLOCK / 16));
    }
}

PG_INLINE void prefill(enum pg_type t, const struct pg_rows8 *r, const struct pg_tokens *x,
                       int n_blocks)
{
    struct panel p;
    __m256 acc[PG_TOKENS];
    for (int j = 0; j < x->n; j++)
        acc[j] = _mm256_setzero_ps();
    for (int b = 0; b < n_blocks; b++) {
        unpack(t, &p, r, (size_t)b * bytes_of(t));
        multiply(t, &p, x, b, acc);
    }
    for (int j = 0; j < x->n; j++)
        store_rows(r, x->y[j], acc[j]);
}

PG_INLINE void matmul(enum pg_type t, const struct pg_matmul *m, int row0, int row1)
{
    int n_blocks = m->x->n / BLOCK;
    size_t row_bytes = (size_t)n_blocks * bytes_of(t);
    struct pg_tokens x;
    for (int j = 0; j < m->n_tok; j += PG_TOKENS) {
        tokens_at(&x, m, j, BLOCK);
        for (int row = row0; row < row1; row += 8) {
            struct pg_rows8 r = rows_at(m, row_bytes, row, row1);
            if (x.n == 1 && row == row0)
                prefetch_first(&r, row_bytes);
            if (x.n == 1)
                decode(t, &r, &x, n_blocks);
            else
                prefill(t, &r, &x, n_blocks);
        }
    }
}

#define PG_32_MAP(X) X(Q4_0) X(Q4_1) X(Q5_0) X(Q5_1) X(Q8_0)

#define X(NAME)                                                                                    \
    static void matmul_##NAME(const struct pg_matmul *m, int row0, int row1)                       \
    {                                                                                              \
        matmul(PG_TYPE_##NAME, m, row0, row1);                                                     \
    }
PG_32_MAP(X)
#undef X

void pg_avx2_fill_32(struct pg_kernels *k)
{
#define X(NAME) k->matmul[PG_TYPE_##NAME] = matmul_##NAME;
    PG_32_MAP(X)
#undef X
}
