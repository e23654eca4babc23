/* SPDX-License-Identifier: MIT
 * The number type of training. The trainer is built twice from the same sources: pg_net in float,
 * which is the product, and pg_net64 in double (PG_NET_DOUBLE), in which the tests compare every
 * derivative with finite differences.
 */
#ifndef PG_NET_ROWS_REAL_H
#define PG_NET_ROWS_REAL_H

#ifdef PG_NET_DOUBLE
typedef double pg_real;
#else
typedef float pg_real;
#endif

#endif
