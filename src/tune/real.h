/* SPDX-License-Identifier: MIT
 * The number type of training. The trainer is built twice from the same sources: pg_tune in float,
 * which is the product, and pg_tune64 in double (PG_TUNE_DOUBLE), in which the tests compare every
 * derivative with finite differences.
 */
#ifndef PG_TUNE_REAL_H
#define PG_TUNE_REAL_H

#ifdef PG_TUNE_DOUBLE
typedef double pg_real;
#else
typedef float pg_real;
#endif

#endif
