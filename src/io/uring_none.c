/* SPDX-License-Identifier: MIT
 * Stands for uring.c where liburing was not there at build time.
 */
#include "io/io_impl.h"

int pg_io_open_uring(struct pg_io **out, const struct pg_io_options *opt, struct pg_err *err)
{
    (void)opt;
    *out = NULL;
    return pg_fail(err, PG_ENOTSUP, "io_uring is not part of this build");
}
