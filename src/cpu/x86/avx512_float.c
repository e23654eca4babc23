/* SPDX-License-Identifier: MIT
 * F32, F16 and BF16 matrices times float activations.
 *
 * The sixteen partial sums of a dot product are the lanes of a vector. Sixteen dot products are
 * computed at once, of 16 rows with one token or of 4 rows with 4 tokens, and their sums folded
 * together by a transposing tree that adds in the written order.
 */
#include "cpu/x86/avx512.h"
#include "cpu/x86/avx512_tile.h"

enum {
    DOTS = 16,
    SQUARE = 4,
    AHEAD = 2048, /* bytes of a row */
};

/* Values i to i + 15 of a row, those that the mask names. */
typedef __m512 load_fn(const uint8_t *row, size_t i, __mmask16 lanes);

PG_INLINE __m512 load_f32(const uint8_t *row, size_t i, __mmask16 lanes)
{
    return _mm512_maskz_loadu_ps(lanes, row + 4 * i);
}

PG_INLINE __m512 load_f16(const uint8_t *row, size_t i, __mmask16 lanes)
{
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lanes, row + 2 * i));
}

PG_INLINE __m512 load_bf16(const uint8_t *row, size_t i, __mmask16 lanes)
{
    __m512i v = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(lanes, row + 2 * i));
    return _mm512_castsi512_ps(_mm512_slli_epi32(v, 16));
}

/* Lane i of the result is the sum of s[i], as the tree of the reference adds it. */
PG_INLINE __m512 fold(__m512 s[DOTS])
{
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++)
        s[i] = _mm512_add_ps(_mm512_shuffle_f32x4(s[2 * i], s[2 * i + 1], 0x44),
                             _mm512_shuffle_f32x4(s[2 * i], s[2 * i + 1], 0xee));
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
        s[i] = _mm512_add_ps(_mm512_shuffle_f32x4(s[2 * i], s[2 * i + 1], 0x88),
                             _mm512_shuffle_f32x4(s[2 * i], s[2 * i + 1], 0xdd));
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
        __m512d a = _mm512_castps_pd(s[2 * i]), b = _mm512_castps_pd(s[2 * i + 1]);
        s[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)),
                             _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
    }
    __m512 v =
        _mm512_add_ps(_mm512_shuffle_ps(s[0], s[1], 0x88), _mm512_shuffle_ps(s[0], s[1], 0xdd));
    return _mm512_permutexvar_ps(
        _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), v);
}

/* Sixteen dot products: of 4 rows with 4 tokens, or of 16 rows with one. */
struct dots {
    const uint8_t *const *row;
    const float *const *x;
    int n_rows, n; /* n: values of a row */
};

/* Adds 16 products to each; s[j * n_rows + r]. */
PG_INLINE void add_16(load_fn *load, const struct dots *d, size_t i, __mmask16 lanes,
                      __m512 s[DOTS])
{
    __m512 v[SQUARE];
    int n_x = d->n_rows == SQUARE ? SQUARE : 1;
#pragma GCC unroll 4
    for (int j = 0; j < n_x; j++)
        v[j] = _mm512_maskz_loadu_ps(lanes, d->x[j] + i);
#pragma GCC unroll 16
    for (int r = 0; r < d->n_rows; r++) {
        __m512 w = load(d->row[r], i, lanes);
#pragma GCC unroll 4
        for (int j = 0; j < n_x; j++)
            s[j * d->n_rows + r] = _mm512_mask3_fmadd_ps(w, v[j], s[j * d->n_rows + r], lanes);
    }
}

/* t, value_bytes: the tile whose next values are to be ready in time; 0 bytes if they already
 * are. */
PG_INLINE __m512 sixteen_dots(load_fn *load, const struct dots *d, const struct pg_tile *t,
                              size_t value_bytes)
{
    __m512 s[DOTS];
    size_t i = 0;
#pragma GCC unroll 16
    for (int j = 0; j < DOTS; j++)
        s[j] = _mm512_setzero_ps();
    for (; i + 16 <= (size_t)d->n; i += 16) {
        if (value_bytes && i * value_bytes % 64 == 0) {
            pg_tile_fetch(t, 0, i * value_bytes + AHEAD, 64);
            pg_tile_fetch(t, 1, i * value_bytes + AHEAD, 64);
        }
        add_16(load, d, i, 0xffff, s);
    }
    if (d->n % 16)
        add_16(load, d, i, pg_first_lanes(d->n % 16), s);
    return fold(s);
}

/* All rows of the tile with one token. */
PG_INLINE void one_token(load_fn *load, const struct pg_matmul *m, struct pg_tile *t, int row,
                         int j, size_t value_bytes)
{
    const float *x = m->x->f32 + pg_token_at(m, j);
    struct dots d = {t->row, &x, PG_LANES, m->x->n};
    __m512 y = sixteen_dots(load, &d, t, j ? 0 : value_bytes);
    _mm512_mask_storeu_ps(m->y + (size_t)j * m->y_stride + row, pg_first_lanes(t->n_rows), y);
}

/* All rows of the tile with four tokens. */
PG_INLINE void four_tokens(load_fn *load, const struct pg_matmul *m, struct pg_tile *t, int row,
                           int j)
{
    const float *x[SQUARE];
    for (int i = 0; i < SQUARE; i++)
        x[i] = m->x->f32 + pg_token_at(m, j + i);
    for (int r = 0; r < t->n_rows; r += SQUARE) {
        struct dots d = {t->row + r, x, SQUARE, m->x->n};
        float y[DOTS], *out = m->y + (size_t)j * m->y_stride + row + r;
        int n_rows = PG_MIN(SQUARE, t->n_rows - r);
        _mm512_storeu_ps(y, sixteen_dots(load, &d, t, 0));
        for (int i = 0; i < SQUARE; i++, out += m->y_stride)
            memcpy(out, y + SQUARE * i, (size_t)n_rows * sizeof(*y));
    }
}

PG_INLINE void matmul(load_fn *load, const struct pg_matmul *m, int row0, int row1,
                      size_t value_bytes)
{
    struct pg_tile t;
    for (int row = row0; row < row1; row += PG_LANES) {
        int j = 0;
        pg_tile_set(&t, m, row, row1);
        for (; j + SQUARE <= m->n_tok; j += SQUARE)
            four_tokens(load, m, &t, row, j);
        for (; j < m->n_tok; j++)
            one_token(load, m, &t, row, j, value_bytes);
    }
}

static void matmul_f32(const struct pg_matmul *m, int row0, int row1)
{
    matmul(load_f32, m, row0, row1, 4);
}

static void matmul_f16(const struct pg_matmul *m, int row0, int row1)
{
    matmul(load_f16, m, row0, row1, 2);
}

static void matmul_bf16(const struct pg_matmul *m, int row0, int row1)
{
    matmul(load_bf16, m, row0, row1, 2);
}

void pg_avx512_float_fill(struct pg_kernels *k)
{
    k->matmul[PG_TYPE_F32] = matmul_f32;
    k->matmul[PG_TYPE_F16] = matmul_f16;
    k->matmul[PG_TYPE_BF16] = matmul_bf16;
}
