/* SPDX-License-Identifier: MIT
 * The slots that round activations. The file that includes this has defined act_block(), which
 * rounds one block of n values.
 */
#ifndef PG_CPU_ACT_BODY_H
#define PG_CPU_ACT_BODY_H

static void act_q8(const float *x, int n, int8_t *q, float *d, int16_t *sums)
{
    for (int i = 0; i < n; i += 32)
        act_block(x + i, 32, q + i, d + i / 32, sums + i / 16);
}

static void act_q8k(const float *x, int n, int8_t *q, float *d, int16_t *sums)
{
    for (int i = 0; i < n; i += 256)
        act_block(x + i, 256, q + i, d + i / 256, sums + i / 16);
}

#endif
