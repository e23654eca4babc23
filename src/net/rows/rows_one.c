/* SPDX-License-Identifier: MIT
 * Where there is one table of rows only: in double, and on processors that are not x86.
 */
#include "net/rows/rows.h"

#include <stddef.h>

const struct pg_row_ops *pg_row_ops(int below)
{
    return below == 0 ? &pg_row_ops_base : NULL;
}
