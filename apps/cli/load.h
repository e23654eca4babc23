/* SPDX-License-Identifier: MIT
 * What the files of `pregate load` share.
 *
 *   load_http.c, load_sse.c, load_reply.c   what a server sends (load_wire.h)
 *   load_target.c   the address, and files got from it one at a time
 *   load_prompts.c  prompts, as requests that are ready to be sent
 *   load_client.c   one request after the other on connections of libevent
 *   load_run.c      a row: who sends when, and what is noted of each request
 *   load_report.c   the row as text and as JSON
 *   load_curve.c    all rows as SVG
 *   cmd_load.c      the command
 */
#ifndef PG_CLI_LOAD_H
#define PG_CLI_LOAD_H

#include "cli.h"
#include "load_wire.h"

#include <netinet/in.h>
#include <sys/socket.h>

struct event;
struct event_base;

/* ---------------------------------------------------------------- the server ---------------- */

struct load_target {
    const char *url;
    char host[256], port[8], authority[300]; /* authority as a Host header has it */
    char base[512];                          /* path before /v1, no slash at its end */
    char key[512];                           /* "" = none */
    struct sockaddr_storage address;
    socklen_t n_address;
};
/* Takes a URL apart: CLI_USAGE after a message, or 0. */
int load_target_parse(struct load_target *t, const char *url);
/* Finds an address that takes connections. */
int load_target_connect(struct load_target *t, struct pg_err *err);
/* Gets one file, 64 MiB at most: 0 and its status, or an error. Waits for `seconds` at most. */
struct load_file {
    int status;
    char *data;
    size_t n;
};
int load_target_get(const struct load_target *t, const char *path, double seconds,
                    struct load_file *out, struct pg_err *err);

/* ---------------------------------------------------------------- prompts ------------------- */

struct load_request {
    char *bytes; /* head and body, as they are sent */
    size_t n;
};
struct load_prompts {
    struct load_request *request;
    int *order; /* of this pass */
    int n, at;
    int n_passes; /* how often all have been taken */
    bool shuffle;
    uint64_t random;
};
struct load_prompts_options {
    const struct cli_args *args;
    const struct load_target *target;
    const char *model;
};
int load_prompts_open(struct load_prompts *p, const struct load_prompts_options *opt,
                      struct pg_err *err);
void load_prompts_close(struct load_prompts *p);
int load_prompts_next(struct load_prompts *p); /* its number; after the last comes the first */
uint64_t load_random(uint64_t *state);         /* splitmix64 */

/* ---------------------------------------------------------------- requests ------------------ */

struct load_client {
    struct event_base *base;
    const struct load_target *target;
    double timeout;         /* seconds for a request */
    uint64_t now_ns;        /* when what is read now was seen */
    struct load_conn *idle; /* connections that wait for a request; the last used first */
};
/* One request after the other; nothing is sent before the one before has ended. */
struct load_exchange {
    struct load_client *client;
    struct load_conn *conn;
    struct load_request request; /* borrowed */
    struct load_reply reply;
    struct event *timer;
    uint64_t done_ns; /* when [DONE] was read, or the reply ended otherwise */
    bool any;         /* a byte of the reply has come */
    bool again;       /* sent a second time, since an idle connection was closed meanwhile */
    void (*piece)(void *user);
    void (*ended)(void *user); /* reply.cause says how; may send the next */
    void *user;
};
int load_client_open(struct load_client *c, const struct load_target *t, double timeout,
                     struct pg_err *err);
void load_client_close(struct load_client *c); /* its exchanges are closed */
int load_exchange_open(struct load_exchange *x, struct load_client *c);
void load_exchange_close(struct load_exchange *x);
void load_exchange_send(struct load_exchange *x, const struct load_request *r);
/* Ends what is under way, without a call of ended(). */
void load_exchange_cancel(struct load_exchange *x);

/* ---------------------------------------------------------------- rows ---------------------- */

struct load_samples {
    double *v;
    size_t n, cap;
};
struct load_summary {
    size_t n;
    double mean, sd, min, p5, p50, p90, p95, p99, max; /* percentiles by nearest rank */
};
int load_samples_add(struct load_samples *s, double v);     /* PG_ENOMEM without memory */
struct load_summary load_summarise(struct load_samples *s); /* sorts them */

enum { LOAD_COUNTERS = 16 };
struct load_counters {
    char name[LOAD_COUNTERS][CLI_ITEM];
    int n;
};

struct load_row {
    int n_clients; /* 0: open loop */
    double rate;
    /* results */
    bool ran, interrupted;
    double seconds; /* in which what is counted a second was done */
    int64_t n_sent, n_cause[LOAD_CAUSES], n_status[600];
    int64_t n_empty, n_uncounted; /* done without a token; without usage */
    int64_t n_tokens, n_pieces, n_prompt, n_cached, n_resent;
    double window_tokens;   /* that came within `seconds` */
    int64_t n_done_in_time; /* replies that ended within them */
    bool cached_known;
    struct load_samples samples_first, samples_gap, samples_whole, samples_late, samples_stream;
    struct load_summary first, gap, whole, late, stream;
    double client_cpu; /* processor time of this program, of `seconds` */
    bool counted[LOAD_COUNTERS];
    double counter[LOAD_COUNTERS];     /* differences */
    char said[LOAD_CAUSES][LOAD_SAID]; /* of the first failure of each cause */
};
int64_t load_row_failed(const struct load_row *r);

struct load {
    const struct cli_args *args;
    struct load_target target;
    struct load_prompts prompts;
    struct load_client client;
    struct load_counters counters;
    char model[256];
    struct load_row *rows;
    int n_rows, n_prompts_sent;
    struct cli_outfile out;
    bool has_out;
};
/* Runs the row; `number` is -1 for a warm-up, of which nothing is written. */
int load_row_run(struct load *l, struct load_row *row, int number, struct pg_err *err);

/* ---------------------------------------------------------------- results ------------------- */

void load_print(const struct load *l);
int load_print_json(const struct load *l);
int load_write_svg(const struct load *l, const char *path, struct pg_err *err);

#endif
