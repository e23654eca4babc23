/* SPDX-License-Identifier: MIT
 * Rows of floats, compiled for AVX2.
 */
#include "net/rows/rows_exp32.h"

#define ROWS_TABLE pg_row_ops_avx2
#include "net/rows/rows_body.h"
