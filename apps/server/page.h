/* SPDX-License-Identifier: MIT
 * The files of apps/server/page, which tools/embed.cmake puts into the program.
 */
#ifndef PG_SERVER_PAGE_H
#define PG_SERVER_PAGE_H

#include <stddef.h>

struct page_file {
    const char *name;
    const unsigned char *data;
    size_t n;
};
extern const struct page_file page_files[]; /* a name of NULL ends it */

#endif
