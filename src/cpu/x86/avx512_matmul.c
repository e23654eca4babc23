/* SPDX-License-Identifier: MIT
 * Quantised matrices times rounded activations: a lane is a row.
 *
 *   for 16 rows, for a batch of tokens:
 *       for each step of 256 values:   unpack into a panel, ask for the next rows' bytes
 *           for groups of tokens:      dot products of four bytes, with the token's four bytes
 *                                      repeated in all lanes; scales, once a block
 *
 * Nothing is summed across lanes, so float sums run over the blocks in the written order. One
 * token takes another way, see avx512_decode.h: the same sums with fewer instructions a byte.
 */
#include "cpu/x86/avx512.h"
#include "cpu/x86/avx512_panel.h"

enum {
    BATCH = 64, /* tokens that meet a panel; their accumulators are on the stack */
    GROUP = 8,  /* of them, in registers at once */
    AHEAD = 4,  /* steps that the bytes of weights are asked for before */
};

/* Tokens at one step. */
struct group {
    const int8_t *q[GROUP];
    const int16_t *sums[GROUP];
    const float *d[GROUP];
    __m512 *acc;
};

typedef void group_fn(const struct pg_panel *p, const struct group *g, int n_blocks);

struct format {
    int block, block_bytes;
    pg_unpack_fn *unpack;
    group_fn *const *group; /* [GROUP + 1], by number of tokens */
    pg_decode_fn *decode;
};

/* ------------------------------------------------------------------ blocks of 256 ----------- */

PG_INLINE void add_pairs(const struct pg_panel *p, const struct group *g, int n, __m512i *sum)
{
#pragma GCC unroll 8
    for (int t = 0; t < n; t++)
        sum[t] = _mm512_setzero_si512();
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++)
#pragma GCC unroll 8
        for (int t = 0; t < n; t++)
            sum[t] = _mm512_dpwssd_epi32(sum[t], p->pair[i], pg_each_i32(g->sums[t] + 2 * i));
}

/* Adds the sub-block of n_k vectors of values that begins at vector k. */
PG_INLINE void add_sub_block(const struct pg_panel *p, const int8_t *const q[GROUP], int n, int k,
                             int n_k, __m512i *sum)
{
    __m512i part[GROUP], scale = p->scale[k / n_k];
#pragma GCC unroll 8
    for (int t = 0; t < n; t++)
        part[t] = _mm512_setzero_si512();
#pragma GCC unroll 8
    for (int i = 0; i < n_k; i++)
#pragma GCC unroll 8
        for (int t = 0; t < n; t++)
            part[t] = _mm512_dpbusd_epi32(part[t], p->q[k + i], pg_each_i32(q[t] + 4 * (k + i)));
#pragma GCC unroll 8
    for (int t = 0; t < n; t++)
        sum[t] = _mm512_add_epi32(sum[t], _mm512_mullo_epi32(part[t], scale));
}

/* n tokens; n_k: vectors of values that share a scale; has_min: the pairs are minima. */
PG_INLINE void group_k(const struct pg_panel *p, const struct group *g, int n, int n_k,
                       bool has_min)
{
    __m512i sum[GROUP];
    const int8_t *q[GROUP];
#pragma GCC unroll 8
    for (int t = 0; t < n; t++) {
        q[t] = g->q[t];
        sum[t] = _mm512_setzero_si512();
    }
    if (!has_min)
        add_pairs(p, g, n, sum);
    for (int k = 0; k < 64; k += n_k)
        add_sub_block(p, q, n, k, n_k, sum);
#pragma GCC unroll 8
    for (int t = 0; t < n; t++)
        g->acc[t] = _mm512_add_ps(g->acc[t], pg_scaled(p->d[0], g->d[t], sum[t]));
    if (!has_min)
        return;
    add_pairs(p, g, n, sum);
#pragma GCC unroll 8
    for (int t = 0; t < n; t++)
        g->acc[t] = _mm512_sub_ps(g->acc[t], pg_scaled(p->m[0], g->d[t], sum[t]));
}

/* ------------------------------------------------------------------ blocks of 32 ------------ */

/* offset: what the stored values have too much; has_min: a minimum is added. */
PG_INLINE void group_32(const struct pg_panel *p, const struct group *g, int n_blocks, int n,
                        int offset, bool has_min)
{
    __m512 acc[GROUP];
    __m512i minus = _mm512_set1_epi16((short)-(has_min ? 1 : offset));
    const int8_t *q[GROUP];
#pragma GCC unroll 8
    for (int t = 0; t < n; t++) {
        q[t] = g->q[t];
        acc[t] = g->acc[t];
    }
    for (int b = 0; b < n_blocks; b++) {
        __m512i sum[GROUP], base[GROUP];
#pragma GCC unroll 8
        for (int t = 0; t < n; t++) {
            base[t] =
                _mm512_dpwssd_epi32(_mm512_setzero_si512(), minus, pg_each_i32(g->sums[t] + 2 * b));
            sum[t] = has_min ? _mm512_setzero_si512() : base[t];
        }
#pragma GCC unroll 8
        for (int k = 0; k < 8; k++)
#pragma GCC unroll 8
            for (int t = 0; t < n; t++)
                sum[t] = _mm512_dpbusd_epi32(sum[t], p->q[8 * b + k],
                                             pg_each_i32(q[t] + 32 * b + 4 * k));
#pragma GCC unroll 8
        for (int t = 0; t < n; t++) {
            acc[t] = _mm512_add_ps(acc[t], pg_scaled(p->d[b], g->d[t] + b, sum[t]));
            if (has_min)
                acc[t] = _mm512_sub_ps(acc[t], pg_scaled(p->m[b], g->d[t] + b, base[t]));
        }
    }
#pragma GCC unroll 8
    for (int t = 0; t < n; t++)
        g->acc[t] = acc[t];
}

/* ------------------------------------------------------------------ one function a size ----- */

#define SIZES(X, ...)                                                                              \
    X(1, __VA_ARGS__)                                                                              \
    X(2, __VA_ARGS__)                                                                              \
    X(3, __VA_ARGS__)                                                                              \
    X(4, __VA_ARGS__)                                                                              \
    X(5, __VA_ARGS__)                                                                              \
    X(6, __VA_ARGS__)                                                                              \
    X(7, __VA_ARGS__)                                                                              \
    X(8, __VA_ARGS__)
#define DEFINE_K(n, name, n_k, has_min)                                                            \
    static void name##_##n(const struct pg_panel *p, const struct group *g, int n_blocks)          \
    {                                                                                              \
        (void)n_blocks;                                                                            \
        group_k(p, g, n, n_k, has_min);                                                            \
    }
#define DEFINE_32(n, name, offset, has_min)                                                        \
    static void name##_##n(const struct pg_panel *p, const struct group *g, int n_blocks)          \
    {                                                                                              \
        group_32(p, g, n_blocks, n, offset, has_min);                                              \
    }
#define ENTRY(n, name) [n] = name##_##n,
#define TABLE(name)    static group_fn *const name[GROUP + 1] = {SIZES(ENTRY, name)};

SIZES(DEFINE_K, by_32_min, 8, true)
SIZES(DEFINE_K, by_16_min, 4, true)
SIZES(DEFINE_K, by_16, 4, false)
SIZES(DEFINE_32, plus_min, 0, true)
SIZES(DEFINE_32, less_8, 8, false)
SIZES(DEFINE_32, less_16, 16, false)
SIZES(DEFINE_32, less_128, 128, false)
TABLE(by_32_min)
TABLE(by_16_min)
TABLE(by_16)
TABLE(plus_min)
TABLE(less_8)
TABLE(less_16)
TABLE(less_128)

static const struct format formats[PG_TYPE_LIMIT] = {
    [PG_TYPE_Q4_0] = {32, 18, pg_avx512_q4_0, less_8, pg_avx512_decode_q4_0},
    [PG_TYPE_Q4_1] = {32, 20, pg_avx512_q4_1, plus_min, pg_avx512_decode_q4_1},
    [PG_TYPE_Q5_0] = {32, 22, pg_avx512_q5_0, less_16, pg_avx512_decode_q5_0},
    [PG_TYPE_Q5_1] = {32, 24, pg_avx512_q5_1, plus_min, pg_avx512_decode_q5_1},
    [PG_TYPE_Q8_0] = {32, 34, pg_avx512_q8_0, less_128, pg_avx512_decode_q8_0},
    [PG_TYPE_Q2_K] = {256, 84, pg_avx512_q2_k, by_16_min, pg_avx512_decode_q2_k},
    [PG_TYPE_Q3_K] = {256, 110, pg_avx512_q3_k, by_16, pg_avx512_decode_q3_k},
    [PG_TYPE_Q4_K] = {256, 144, pg_avx512_q4_k, by_32_min, pg_avx512_decode_q4_k},
    [PG_TYPE_Q5_K] = {256, 176, pg_avx512_q5_k, by_32_min, pg_avx512_decode_q5_k},
    [PG_TYPE_Q6_K] = {256, 210, pg_avx512_q6_k, by_16, pg_avx512_decode_q6_k},
};

/* ------------------------------------------------------------------ driver ------------------ */

struct batch {
    int n_tok;
    size_t at[BATCH]; /* of the token's first value in x */
    __m512 acc[BATCH];
};

static void batch_set(struct batch *b, const struct pg_matmul *m, int token, int n_tok)
{
    b->n_tok = n_tok;
    for (int t = 0; t < n_tok; t++) {
        b->at[t] = pg_token_at(m, token + t);
        b->acc[t] = _mm512_setzero_ps();
    }
}

/* Meets the panel of n_blocks blocks that begins at value i with every token. */
static void batch_step(struct batch *b, const struct pg_matmul *m, const struct format *f,
                       const struct pg_panel *p, int i, int n_blocks)
{
    const struct pg_acts *x = m->x;
    struct group g;
    int n_groups = (b->n_tok + GROUP - 1) / GROUP;
    for (int t = 0; t < b->n_tok; n_groups--) {
        int n = (b->n_tok - t + n_groups - 1) / n_groups;
        for (int j = 0; j < n; j++) {
            size_t at = b->at[t + j] + (size_t)i;
            g.q[j] = x->q + at;
            g.sums[j] = x->sums + at / 16;
            g.d[j] = x->d + at / (size_t)f->block;
        }
        g.acc = b->acc + t;
        f->group[n](p, &g, n_blocks);
        t += n;
    }
}

/* The first steps of a call, which no tile before has asked for. */
static void fetch_first(const struct format *f, const struct pg_tile *tile)
{
    size_t n_bytes = (size_t)(PG_PANEL_VALUES / f->block * f->block_bytes);
    for (size_t at = 0; at < AHEAD * n_bytes && at < tile->row_bytes; at += n_bytes)
        for (int half = 0; half < 2; half++)
            pg_tile_fetch(tile, half, at, PG_MIN(n_bytes, tile->row_bytes - at));
}

static void tile_batch(const struct pg_matmul *m, const struct format *f, struct pg_tile *tile,
                       struct batch *b)
{
    struct pg_panel panel;
    int step = PG_PANEL_VALUES / f->block; /* blocks */
    int n_blocks = m->x->n / f->block;
    for (int i = 0; i < n_blocks; i += step) {
        int n = PG_MIN(step, n_blocks - i);
        size_t at = (size_t)i * (size_t)f->block_bytes, n_bytes = (size_t)(n * f->block_bytes);
        pg_tile_fetch(tile, 0, at + AHEAD * n_bytes, n_bytes);
        f->unpack(&panel, tile, at, n);
        pg_tile_fetch(tile, 1, at + AHEAD * n_bytes, n_bytes);
        batch_step(b, m, f, &panel, i * f->block, n);
    }
}

static void matmul(const struct pg_matmul *m, int row0, int row1)
{
    const struct format *f = &formats[m->type];
    if (m->n_tok == 1) {
        f->decode(m, row0, row1);
        return;
    }
    struct pg_tile tile;
    struct batch b;
    for (int row = row0; row < row1; row += PG_LANES) {
        pg_tile_set(&tile, m, row, row1);
        __mmask16 lanes = pg_first_lanes(tile.n_rows);
        if (row == row0)
            fetch_first(f, &tile);
        for (int t = 0; t < m->n_tok; t += BATCH) {
            batch_set(&b, m, t, PG_MIN(BATCH, m->n_tok - t));
            tile_batch(m, f, &tile, &b);
            for (int j = 0; j < b.n_tok; j++)
                _mm512_mask_storeu_ps(m->y + (size_t)(t + j) * m->y_stride + row, lanes, b.acc[j]);
        }
    }
}

void pg_avx512_matmul_fill(struct pg_kernels *k)
{
    for (int type = 0; type < PG_TYPE_LIMIT; type++)
        if (formats[type].unpack)
            k->matmul[type] = matmul;
}
