/* SPDX-License-Identifier: MIT
 * The event ring and its Chrome trace JSON.
 *
 * Events of one track nest or follow each other in the viewers, but reads overlap freely. When the
 * trace is written, each read is therefore laid into the first lane ("reads 1", "reads 2", …) whose
 * last read has ended.
 */
#include "base/trace.h"

#include "base/os.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EVENTS_MAX (1 << 26)
#define LANES_MAX  256
#define TID_READ   1000 /* the first lane; smaller numbers are the other tracks */

struct pg_trace {
    uint64_t n_added; /* the ring holds the last n_events of them */
    size_t n_events;
    struct pg_trace_event ring[];
};

int pg_trace_open(struct pg_trace **out, int n_events, struct pg_err *err)
{
    *out = NULL;
    if (n_events < 1 || n_events > EVENTS_MAX)
        return pg_fail(err, PG_EARG, "trace of %d events asked for; 1 to %d are possible", n_events,
                       EVENTS_MAX);
    struct pg_trace *t =
        pg_calloc(1, sizeof(struct pg_trace) + (size_t)n_events * sizeof(struct pg_trace_event));
    if (!t)
        return pg_fail(err, PG_ENOMEM, "no memory for a trace of %d events", n_events);
    t->n_events = (size_t)n_events;
    *out = t;
    return 0;
}

void pg_trace_close(struct pg_trace *t)
{
    free(t);
}

void pg_trace_add(struct pg_trace *t, struct pg_trace_event e)
{
    if (!t)
        return;
    e.end_ns = PG_MAX(e.begin_ns, e.end_ns);
    t->ring[t->n_added++ % t->n_events] = e;
}

/* ---- writing */

struct json_out {
    struct pg_outfile *file;
    struct pg_err *err;
    int rc;
    size_t n;
    bool comma;
    char buf[1 << 16];
};

static void put_flush(struct json_out *o)
{
    if (!o->rc && o->n)
        o->rc = pg_outfile_write(o->file, o->buf, o->n, o->err);
    o->n = 0;
}

PG_PRINTF(2, 3)
static void put(struct json_out *o, const char *fmt, ...)
{
    char text[512];
    va_list ap;

    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    PG_ASSERT(n >= 0 && (size_t)n < sizeof(text));
    if (o->n + (size_t)n > sizeof(o->buf))
        put_flush(o);
    memcpy(o->buf + o->n, text, (size_t)n);
    o->n += (size_t)n;
}

static void put_name(struct json_out *o, const char *s)
{
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if (c == '"' || c == '\\')
            put(o, "\\%c", c);
        else if (c < 0x20 || c >= 0x7f)
            put(o, "\\u%04x", c);
        else
            put(o, "%c", c);
    }
}

static void put_record(struct json_out *o)
{
    put(o, "%s\n", o->comma ? "," : "");
    o->comma = true;
}

static void put_thread(struct json_out *o, int tid, const char *name, int number)
{
    char text[32];

    if (number >= 0)
        snprintf(text, sizeof(text), "%s %d", name, number);
    else
        snprintf(text, sizeof(text), "%s", name);
    put_record(o);
    put(o, "{\"ph\":\"M\",\"name\":\"thread_name\",\"pid\":1,\"tid\":%d,", tid);
    put(o, "\"args\":{\"name\":\"%s\"}}", text);
    put_record(o);
    put(o, "{\"ph\":\"M\",\"name\":\"thread_sort_index\",\"pid\":1,\"tid\":%d,", tid);
    put(o, "\"args\":{\"sort_index\":%d}}", tid);
}

static void put_event(struct json_out *o, const struct pg_trace_event *e, int tid, uint64_t t0)
{
    uint64_t at = e->begin_ns - t0, took = e->end_ns - e->begin_ns;

    put_record(o);
    put(o, "{\"ph\":\"X\",\"pid\":1,\"tid\":%d,\"name\":\"", tid);
    put_name(o, e->name);
    put(o, "\",\"ts\":%" PRIu64 ".%03u,\"dur\":%" PRIu64 ".%03u,\"args\":{", at / 1000,
        (unsigned)(at % 1000), took / 1000, (unsigned)(took % 1000));
    if (e->block >= 0)
        put(o, "\"block\":%d%s", e->block, e->expert >= 0 ? "," : "");
    if (e->expert >= 0)
        put(o, "\"expert\":%d", e->expert);
    put(o, "}}");
}

static int by_begin(const void *a, const void *b)
{
    const struct pg_trace_event *x = *(const struct pg_trace_event *const *)a,
                                *y = *(const struct pg_trace_event *const *)b;

    if (x->begin_ns != y->begin_ns)
        return x->begin_ns < y->begin_ns ? -1 : 1;
    return x < y ? -1 : x > y;
}

static int take_lane(uint64_t lane_end[LANES_MAX], int *n_lanes, const struct pg_trace_event *e)
{
    int i = 0;

    while (i < *n_lanes && i < LANES_MAX - 1 && lane_end[i] > e->begin_ns)
        i++;
    *n_lanes = PG_MAX(*n_lanes, i + 1);
    lane_end[i] = e->end_ns;
    return i;
}

static void put_events(struct json_out *o, const struct pg_trace_event *const *sorted, size_t n)
{
    uint64_t lane_end[LANES_MAX] = {0};
    int n_lanes = 0, n_workers = 0;

    put(o, "{\"displayTimeUnit\":\"ns\",\"traceEvents\":[");
    for (size_t i = 0; i < n; i++) {
        const struct pg_trace_event *e = sorted[i];
        int tid = e->track + 1;
        if (e->track == PG_TRACK_READ)
            tid = TID_READ + take_lane(lane_end, &n_lanes, e);
        else if (e->track >= PG_TRACK_WORKER)
            n_workers = PG_MAX(n_workers, e->track - PG_TRACK_WORKER + 1);
        put_event(o, e, tid, sorted[0]->begin_ns);
    }
    put_record(o);
    put(o, "{\"ph\":\"M\",\"name\":\"process_name\",\"pid\":1,\"args\":{\"name\":\"pregate\"}}");
    put_thread(o, PG_TRACK_COMPUTE + 1, "compute", -1);
    put_thread(o, PG_TRACK_STALL + 1, "stalls", -1);
    for (int i = 0; i < n_workers; i++)
        put_thread(o, PG_TRACK_WORKER + i + 1, "worker", i);
    for (int i = 0; i < n_lanes; i++)
        put_thread(o, TID_READ + i, "reads", i + 1);
    put(o, "\n]}\n");
    put_flush(o);
}

int pg_trace_save(const struct pg_trace *t, const char *path, struct pg_err *err)
{
    if (!t)
        return pg_fail(err, PG_EARG, "%s: no trace was recorded", path);
    size_t n = t->n_added < t->n_events ? (size_t)t->n_added : t->n_events;
    struct pg_outfile file;
    PG_TRY(pg_outfile_open(&file, path, err));

    struct json_out *o = pg_calloc(1, sizeof(*o));
    const struct pg_trace_event **sorted = pg_calloc(n + 1, sizeof(*sorted));
    int rc;
    if (!o || !sorted) {
        rc = pg_fail(err, PG_ENOMEM, "%s: no memory to write the trace", path);
    } else {
        *o = (struct json_out){.file = &file, .err = err};
        for (size_t i = 0; i < n; i++)
            sorted[i] = &t->ring[i];
        qsort(sorted, n, sizeof(*sorted), by_begin);
        put_events(o, sorted, n);
        rc = o->rc ? o->rc : pg_outfile_commit(&file, err);
    }
    free(sorted);
    free(o);
    pg_outfile_abandon(&file);
    return rc;
}
