/* SPDX-License-Identifier: MIT
 * A panel: one block (or up to eight blocks of 32) of 16 rows, taken apart and transposed so that
 * a lane is a row. It is unpacked once and met by every token of the call.
 */
#ifndef PG_CPU_X86_AVX512_PANEL_H
#define PG_CPU_X86_AVX512_PANEL_H

#include "cpu/x86/avx512_tile.h"

enum {
    PG_PANEL_VALUES = 256,
    PG_PANEL_BLOCKS = 8, /* of 32 values */
};

struct pg_panel {
    __m512i q[64]; /* [k]: values 4 k .. 4 k + 3, unsigned, less the offset that `pair` carries */
    __m512i scale[16]; /* K formats: of each 32 or 16 values, int32 */
    __m512i pair[8];   /* K formats: what two sums of 16 activations are multiplied by, int16 each:
                          the minima, or minus offset times the scales */
    __m512 d[PG_PANEL_BLOCKS], m[PG_PANEL_BLOCKS];
};

/* `at`: where the first of n_blocks blocks begins in each row. */
typedef void pg_unpack_fn(struct pg_panel *p, const struct pg_tile *t, size_t at, int n_blocks);

pg_unpack_fn pg_avx512_q4_0, pg_avx512_q4_1, pg_avx512_q5_0, pg_avx512_q5_1, pg_avx512_q8_0,
    pg_avx512_q2_k, pg_avx512_q3_k, pg_avx512_q4_k, pg_avx512_q5_k, pg_avx512_q6_k;

#endif
