/* SPDX-License-Identifier: MIT
 * Rows of doubles: one level, for the tests.
 */
#include "net/rows/rows_exp64.h"

#define ROWS_TABLE pg_row_ops_base
#include "net/rows/rows_body.h"
