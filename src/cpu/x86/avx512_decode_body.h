/* SPDX-License-Identifier: MIT
 * The way of one token through a matrix, for the files of avx512_decode.h. The file that includes
 * this has defined
 *
 *   BLOCK, CHUNK       values of a block, and blocks of a row that are put aside together
 *   struct format      what a format is; block_bytes among it
 *   struct chunk       a chunk put aside
 *   struct part_acts   the activations of a part
 *   part_acts_load()   fills them
 *   chunk_sums()       integer sums of chunk i of a row, at w, of which `count` blocks are there;
 *                      the others repeat the last and are not looked at
 *   chunk_floats()     float sums of a chunk of 16 rows, `count` blocks, added to acc
 */
#ifndef PG_CPU_X86_AVX512_DECODE_BODY_H
#define PG_CPU_X86_AVX512_DECODE_BODY_H

#include "cpu/x86/avx512_decode.h"

enum { CHUNK_VALUES = CHUNK * BLOCK, CHUNKS = PG_PART_VALUES / CHUNK_VALUES };

PG_INLINE void part_sums(const struct format *f, const struct pg_part *p, const struct part_acts *a,
                         struct chunk chunk[CHUNKS][PG_LANES])
{
    int n_blocks = p->n_values / BLOCK, ahead = pg_part_ahead(p);
    size_t chunk_bytes = CHUNK * (size_t)f->block_bytes;
    for (int r = 0; r < PG_LANES; r++) {
        const uint8_t *w = pg_part_row(p, r);
        size_t next = r + ahead < p->rows_left ? (size_t)ahead * p->row_bytes : 0;
        for (int i = 0; i < (n_blocks + CHUNK - 1) / CHUNK; i++, w += chunk_bytes) {
            if (next)
                pg_fetch(w + next, chunk_bytes);
            if (n_blocks - CHUNK * i >= CHUNK)
                chunk_sums(f, w, a, i, CHUNK, &chunk[i][r]);
            else
                chunk_sums(f, w, a, i, n_blocks - CHUNK * i, &chunk[i][r]);
        }
    }
}

PG_INLINE void decode(const struct format *f, const struct pg_matmul *m, int row0, int row1)
{
    const struct pg_acts *x = m->x;
    size_t first = pg_token_at(m, 0);
    struct chunk chunk[CHUNKS][PG_LANES];
    struct part_acts acts;
    struct pg_part p;
    for (int row = row0; row < row1; row += PG_LANES) {
        __m512 acc = _mm512_setzero_ps();
        for (int value = 0; value < x->n; value += PG_PART_VALUES) {
            size_t at = first + (size_t)value;
            pg_part_set(&p, m, row, row1, value);
            if (row == row0)
                pg_part_fetch_first(&p);
            if (row == row0 || x->n > PG_PART_VALUES)
                part_acts_load(&acts, f, x, at, p.n_values);
            part_sums(f, &p, &acts, chunk);
            for (int i = 0; i < p.n_values; i += CHUNK_VALUES, at += CHUNK_VALUES)
                acc = chunk_floats(f, chunk[i / CHUNK_VALUES], x, at,
                                   PG_MIN(CHUNK, (p.n_values - i) / BLOCK), acc);
        }
        _mm512_mask_storeu_ps(m->y + row, pg_first_lanes(PG_MIN(PG_LANES, row1 - row)), acc);
    }
}

/* One function a format, since its numbers must be constants. */
#define DECODE(name)                                                                               \
    void pg_avx512_decode_##name(const struct pg_matmul *m, int row0, int row1)                    \
    {                                                                                              \
        decode(&name, m, row0, row1);                                                              \
    }

#endif
