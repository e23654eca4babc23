/* SPDX-License-Identifier: MIT
 * Bytes that grow.
 */
#ifndef PG_SERVER_BYTES_H
#define PG_SERVER_BYTES_H

#include <stdbool.h>
#include <stddef.h>

struct bytes {
    char *p; /* [n]; NULL while empty */
    size_t n, cap;
};
/* Room for n more; false, and nothing changes, when there is no memory. */
bool bytes_room(struct bytes *b, size_t n);
bool bytes_add(struct bytes *b, const void *p, size_t n);
void bytes_drop(struct bytes *b, size_t n); /* the first n */
void bytes_fini(struct bytes *b);

#endif
