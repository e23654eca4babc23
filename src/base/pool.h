/* SPDX-License-Identifier: MIT
 * A fixed set of threads that run one parallel loop at a time.
 *
 * The caller is thread 0 and takes part. Between loops the others spin for a short while (a decoded
 * token is hundreds of loops of some ten microseconds each) and then sleep.
 */
#ifndef PG_BASE_POOL_H
#define PG_BASE_POOL_H

#include "base/trace.h"

#define PG_THREADS_MAX 256

struct pg_pool;

/* task in [0, n_tasks), thread in [0, n_threads). Tasks are handed out in order, each once. */
typedef void pg_task_fn(void *arg, int task, int thread);

int pg_pool_open(struct pg_pool **out, int n_threads, struct pg_err *err);
void pg_pool_close(struct pg_pool *p);
int pg_pool_n_threads(const struct pg_pool *p);
/* From now on each loop records what its workers did, on their tracks. NULL: no more. */
void pg_pool_trace(struct pg_pool *p, struct pg_trace *trace);
/* Returns when all tasks are done. Never allocates. */
void pg_pool_run(struct pg_pool *p, pg_task_fn *fn, void *arg, int n_tasks);

#endif
