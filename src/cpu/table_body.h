/* SPDX-License-Identifier: MIT
 * The slots that go over a table, a row after the other. The file that includes this has defined
 * dot(), dot_f16(), axpy() and axpy_f16().
 */
#ifndef PG_CPU_TABLE_BODY_H
#define PG_CPU_TABLE_BODY_H

static void dots(const struct pg_table *rows, const float *q, float scale, float *y)
{
    const float *x = rows->x;
    for (int j = 0; j < rows->n_row; j++, x += rows->n)
        y[j] = dot(x, q, rows->n) * scale;
}

static void dots_f16(const struct pg_table *rows, const float *q, float scale, float *y)
{
    const uint16_t *x = rows->x;
    for (int j = 0; j < rows->n_row; j++, x += rows->n)
        y[j] = dot_f16(x, q, rows->n) * scale;
}

static void axpys(const struct pg_table *rows, const float *s, float *y)
{
    const float *x = rows->x;
    for (int j = 0; j < rows->n_row; j++, x += rows->n)
        axpy(s[j], x, y, rows->n);
}

static void axpys_f16(const struct pg_table *rows, const float *s, float *y)
{
    const uint16_t *x = rows->x;
    for (int j = 0; j < rows->n_row; j++, x += rows->n)
        axpy_f16(s[j], x, y, rows->n);
}

#endif
