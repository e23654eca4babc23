/* SPDX-License-Identifier: MIT
 * The HTTP server, as the program starts it.
 *
 * Two threads. The caller's runs the event loop: connections, JSON, templates. The engine's opens
 * the model and then runs the scheduler; its callbacks turn tokens into text and put that into a
 * queue of the request. See server.h for who may touch what.
 */
#ifndef PG_SERVE_H
#define PG_SERVE_H

#include <pregate.h>

#include <stdatomic.h>

struct serve_options {
    const char *host;                       /* an address, or a name */
    int port;                               /* 0: any that is free */
    const char *key_file, *origins, *names; /* NULL: none. Lists have commas between */
    bool no_page;
    double drain_seconds;
    const char *alias; /* what the model is called; NULL: by its file */
    bool has_template; /* not the model's own: what is wrong with it is an error */
    /* Of the budget what is beyond the least that opens (serve_least_bytes): the server takes a
     * part of it, so that the least is what it is said to be. */
    uint64_t spare_bytes;
    int n_parallel;
    float itl_ms;
    const char *cache_dir;
    uint64_t cache_bytes;
    bool verbose;
    /* Opens the model; called once, on the engine's thread. `caller_bytes` of its memory are the
     * server's own. */
    const char *model;
    int (*open_engine)(void *user, pg_engine **out, uint64_t caller_bytes, struct pg_err *err);
    /* The template; called on the same thread. */
    int (*open_chat)(void *user, pg_chat **out, struct pg_err *err);
    int n_ctx;           /* 0: as the engine has it */
    atomic_bool *cancel; /* set when the opening is no longer wanted */
    void *user;
};

/* The server's own memory at least, in `caller_bytes` of the engine. */
uint64_t serve_least_bytes(const struct serve_options *opt);
/* Serves until a signal ends it; a second one ends the process at once. */
int serve_run(const struct serve_options *opt, struct pg_err *err);

#endif
