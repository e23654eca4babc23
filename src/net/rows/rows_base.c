/* SPDX-License-Identifier: MIT
 * Rows of floats, compiled for what every machine of the family has.
 */
#include "net/rows/rows_exp32.h"

#define ROWS_TABLE pg_row_ops_base
#include "net/rows/rows_body.h"
