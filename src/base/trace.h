/* SPDX-License-Identifier: MIT
 * A ring of timed events for the Perfetto trace. NULL ring: recording is off and costs one branch.
 * One thread records (the engine's); worker tracks are recorded by it on their behalf.
 */
#ifndef PG_BASE_TRACE_H
#define PG_BASE_TRACE_H

#include "base/err.h"

enum pg_track { PG_TRACK_COMPUTE, PG_TRACK_STALL, PG_TRACK_READ, PG_TRACK_WORKER }; /* WORKER + i */

struct pg_trace;

struct pg_trace_event {
    const char *name; /* lives as long as the trace (a literal) */
    uint64_t begin_ns, end_ns;
    int track, block, expert; /* block: among all of the model; -1 where they do not apply */
};

int pg_trace_open(struct pg_trace **out, int n_events, struct pg_err *err);
void pg_trace_close(struct pg_trace *t);
void pg_trace_add(struct pg_trace *t, struct pg_trace_event e);
/* Chrome trace JSON by atomic rename. */
int pg_trace_save(const struct pg_trace *t, const char *path, struct pg_err *err);

#endif
