/* SPDX-License-Identifier: MIT
 * The socket that listens.
 */
#ifndef PG_SERVER_LISTEN_H
#define PG_SERVER_LISTEN_H

#include <pregate.h>

/* A socket at host:port; port 0 is any that is free. *url is "http://HOST:PORT". */
int listen_open(int *fd, char *url, size_t cap, const char *host, int port, struct pg_err *err);

#endif
