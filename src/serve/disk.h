/* SPDX-License-Identifier: MIT
 * Contexts in a folder: what a text has in the pool, in whole pages, one file a text, so that it
 * outlives the room and the process.
 *
 *     header | hashes of pages | tokens | zeros to a page of memory | pages as they lie in the pool
 *
 * A file is for one model file, one way of keeping keys and values, and one function (disk_id). All
 * of it is checked before it is believed: a damaged page ends what is found of a text, and its file
 * is removed. Files appear whole; the longest unused go when there are more bytes than may be.
 */
#ifndef PG_SERVE_DISK_H
#define PG_SERVE_DISK_H

#include "engine/engine.h"

#include "base/log.h"

enum { PG_DISK_LEAST = 64 }; /* tokens of a text that is worth a file */

struct pg_disk_file {
    char name[32];
    uint64_t bytes;
    int64_t used_ns; /* when it was last written or read */
    uint64_t *chain; /* [n_pages] hash of all tokens up to the end of each page; NULL: not ours */
    int n_pages;     /* of tokens */
};

struct pg_disk {
    int folder; /* -1: none */
    char path[4096];
    uint64_t id, cap_bytes, bytes;
    struct pg_disk_file *file;
    size_t n_files, cap_files;
    size_t page_bytes;
    struct pg_log log;
};

struct pg_disk_options {
    const struct pg_engine *engine;
    const char *path;
    uint64_t cap_bytes;
    struct pg_log log;
};

int pg_disk_open(struct pg_disk *d, const struct pg_disk_options *opt, struct pg_err *err);
void pg_disk_close(struct pg_disk *d);
/* The whole pages of the session's timeline, unless a file has them, as a file. `give_up` is asked
 * after each page. */
int pg_disk_save(struct pg_disk *d, const pg_session *s, bool (*give_up)(void *user), void *user,
                 struct pg_err *err);
/* The session, which has some beginning of tokens [n] and room for all, gets more of it if a file
 * has that: returns how many it has then. */
int pg_disk_load(struct pg_disk *d, pg_session *s, const int32_t *tokens, int n);

#endif
