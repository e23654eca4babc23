/* SPDX-License-Identifier: MIT
 * Who may ask: names that we are called by, pages, keys.
 */
#ifndef PG_SERVER_GUARD_H
#define PG_SERVER_GUARD_H

#include "http_parse.h"
#include "limits.h"

#include <pregate.h>

struct guard {
    char name[LIMIT_NAMES][LIMIT_NAME + 1];
    char origin[LIMIT_NAMES][LIMIT_NAME + 1];
    unsigned char key[LIMIT_KEYS][LIMIT_KEY + 1]; /* zeros behind each */
    int n_names, n_origins, n_keys;
    bool wants_key;
};

int guard_open(struct guard *g, const char *host, const char *names, const char *origins,
               struct pg_err *err);
/* Keys of a file, one a line; what starts with # is none. Those from before stay on an error. */
int guard_read_keys(struct guard *g, const char *path, struct pg_err *err);

/* Any address, localhost, and configured names, with any port: a page that has its own name point
 * to us (DNS rebinding) comes with that name. */
bool guard_host(const struct guard *g, struct http_text host);
/* The page may read what we say. */
bool guard_origin(const struct guard *g, struct http_text origin);
/* The page is our own. */
bool guard_same_origin(struct http_text origin, struct http_text host);
/* "Bearer KEY", or the key alone: its number from 1, or 0. Takes as long for any text. */
int guard_key(const struct guard *g, struct http_text authorization, struct http_text key);

#endif
