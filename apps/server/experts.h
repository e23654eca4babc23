/* SPDX-License-Identifier: MIT
 * The picture of the expert slots, once or as a stream.
 */
#ifndef PG_SERVER_EXPERTS_H
#define PG_SERVER_EXPERTS_H

struct server;

void experts_close_all(struct server *s);

#endif
