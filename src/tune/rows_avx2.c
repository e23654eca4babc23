/* SPDX-License-Identifier: MIT
 * Rows of floats, compiled for AVX2.
 */
#include "tune/rows_exp32.h"

#define ROWS_TABLE pg_row_ops_avx2
#include "tune/rows_body.h"
