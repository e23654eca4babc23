/* SPDX-License-Identifier: MIT
 * Rows of floats, compiled for AVX-512.
 */
#include "net/rows/rows_exp32.h"

#define ROWS_TABLE pg_row_ops_avx512
#include "net/rows/rows_body.h"
