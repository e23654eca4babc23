/* SPDX-License-Identifier: MIT
 * A ring of timed events for the Perfetto trace. NULL ring: recording is off and costs one branch.
 * One thread records (the engine's); worker tracks are recorded by it on their behalf.
 */
#ifndef PG_BASE_TRACE_H
#define PG_BASE_TRACE_H

#include "base/err.h"

enum pg_track { PG_TRACK_COMPUTE, PG_TRACK_STALL, PG_TRACK_READ, PG_TRACK_WORKER }; /* WORKER + i */

struct pg_trace;

int pg_trace_open(struct pg_trace **out, int n_events, struct pg_err *err);
void pg_trace_close(struct pg_trace *t);
/* name must live as long as the trace (a literal). block: among all
 * of the model; it and expert are -1 when they do not apply. */
void pg_trace_add(struct pg_trace *t, int track, const char *name, uint64_t begin_ns,
                  uint64_t end_ns, int block, int expert);
/* Chrome trace JSON by atomic rename. */
int pg_trace_save(const struct pg_trace *t, const char *path, struct pg_err *err);

#endif
