/* SPDX-License-Identifier: MIT
 * exp of eight doubles, for the tests: the C library's.
 */
#ifndef PG_TUNE_ROWS_EXP64_H
#define PG_TUNE_ROWS_EXP64_H

#include "tune/rows_vec.h"

#include <math.h>

static inline vec larger(vec a, vec b)
{
    for (int i = 0; i < LANES; i++) {
        b[i] = a[i] > b[i] ? a[i] : b[i];
    }
    return b;
}

static inline vec v_exp(vec x)
{
    for (int i = 0; i < LANES; i++) {
        x[i] = exp(x[i]);
    }
    return x;
}

#endif
