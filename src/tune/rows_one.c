/* SPDX-License-Identifier: MIT
 * Where there is one table of rows only: in double, and on processors that are not x86.
 */
#include "tune/rows.h"

const struct pg_row_ops *pg_row_ops(void)
{
    return &pg_row_ops_base;
}
