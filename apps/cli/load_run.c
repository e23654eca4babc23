/* SPDX-License-Identifier: MIT
 * A row of `pregate load`: who sends when, and what is noted of each request.
 *
 * Closed loop: each of N clients sends its next request when its last has ended. Open loop:
 * requests are due at the arrivals of a Poisson process and are sent then, whatever the server
 * does; times count from when a request was due, so that a stall of either side is in them (no
 * coordinated omission).
 *
 * After a failure a client of a closed loop waits a moment: a server that is gone is not hammered.
 */
#include "load.h"

#include <event2/event.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#define TICK_NS  100000000u
#define PAUSE_US 100000

enum { SLOTS_MAX = 16384 };

/* A request under way, and room for the next. */
struct slot {
    struct load_exchange x;
    struct run *run;
    struct event *start; /* of a closed loop */
    bool busy;
    int prompt;
    int64_t number; /* among those of the row */
    uint64_t due_ns, sent_ns;
    uint64_t *piece_ns;
    size_t n_pieces, cap_pieces;
    bool lost; /* no memory for a time */
    struct slot *next_free;
};

struct run {
    struct load *load;
    struct load_row *row;
    int number;
    struct slot **slot;
    struct slot *free;
    int n_slots, cap_slots, n_busy, n_starting;
    struct event *tick, *arrival;
    uint64_t start_ns, stop_ns; /* from stop_ns on nothing is sent; 0: after n_requests */
    uint64_t last_ns;           /* end of the last reply */
    int64_t n_requests;
    double due; /* of the next arrival, seconds from the start */
    bool all_sent;
    uint64_t random;
    struct cli_progress progress;
    char what[48];
    struct pg_err *err;
    int rc;
};

/* ---------------------------------------------------------------- what is noted ------------- */

static void run_failed(struct run *r, int rc)
{
    if (!r->rc)
        r->rc = cli_fail(r->err, rc, "no memory for what is measured");
    event_base_loopbreak(r->load->client.base);
}

static double since(uint64_t from_ns, uint64_t to_ns)
{
    return to_ns > from_ns ? (double)(to_ns - from_ns) * 1e-9 : 0;
}

/* The client's time of this read is that of all pieces in it. */
static void on_piece(void *user)
{
    struct slot *s = user;
    if (s->n_pieces == s->cap_pieces) {
        const size_t want = s->cap_pieces ? 2 * s->cap_pieces : 256;
        uint64_t *larger = realloc(s->piece_ns, want * sizeof(*larger));
        if (!larger) {
            s->lost = true;
            return;
        }
        s->piece_ns = larger;
        s->cap_pieces = want;
    }
    s->piece_ns[s->n_pieces++] = s->x.client->now_ns;
}

static int64_t tokens_of(const struct load_reply *r)
{
    return r->n_tokens >= 0 ? r->n_tokens : r->n_pieces;
}

static int note_times(struct load_row *row, const struct slot *s)
{
    int rc = load_samples_add(&row->samples_whole, since(s->due_ns, s->x.done_ns));
    if (!rc && s->n_pieces)
        rc = load_samples_add(&row->samples_first, since(s->due_ns, s->piece_ns[0]));
    for (size_t i = 1; i < s->n_pieces && !rc; i++)
        rc = load_samples_add(&row->samples_gap, since(s->piece_ns[i - 1], s->piece_ns[i]));
    const int64_t n_tokens = tokens_of(&s->x.reply);
    const double writing = s->n_pieces ? since(s->piece_ns[0], s->piece_ns[s->n_pieces - 1]) : 0;
    if (!rc && n_tokens > 1 && writing > 0)
        rc = load_samples_add(&row->samples_stream, (double)(n_tokens - 1) / writing);
    return rc;
}

/* A reply's tokens lie evenly over its pieces; those count that came before the row's time was
 * over. */
static double tokens_in_time(const struct run *r, const struct slot *s)
{
    size_t n = 0;
    const double tokens = (double)tokens_of(&s->x.reply);
    for (size_t i = 0; i < s->n_pieces; i++)
        n += !r->stop_ns || s->piece_ns[i] < r->stop_ns;
    return s->n_pieces ? tokens * (double)n / (double)s->n_pieces : tokens;
}

static void note_done(struct run *r, const struct slot *s)
{
    struct load_row *row = r->row;
    const struct load_reply *reply = &s->x.reply;
    row->n_empty += s->n_pieces == 0;
    row->n_uncounted += reply->n_tokens < 0;
    row->n_tokens += tokens_of(reply);
    row->n_pieces += reply->n_pieces;
    row->n_prompt += reply->n_prompt > 0 ? reply->n_prompt : 0;
    row->n_cached += reply->n_cached > 0 ? reply->n_cached : 0;
    row->cached_known |= reply->n_cached >= 0;
    row->window_tokens += tokens_in_time(r, s);
    row->n_done_in_time += !r->stop_ns || s->x.done_ns < r->stop_ns;
    const int rc = s->lost ? PG_ENOMEM : note_times(row, s);
    if (rc)
        run_failed(r, rc);
}

static json_t *json_ns(const struct run *r, uint64_t ns)
{
    return ns < r->start_ns ? json_null() : json_integer((json_int_t)(ns - r->start_ns));
}

static json_t *json_count(int64_t n)
{
    return n < 0 ? json_null() : json_integer((json_int_t)n);
}

static json_t *json_request(const struct run *r, const struct slot *s)
{
    const struct load_reply *reply = &s->x.reply;
    char hash[24];
    json_t *o = json_object(), *times = json_array();
    for (size_t i = 0; i < s->n_pieces; i++)
        json_array_append_new(times, json_ns(r, s->piece_ns[i]));
    snprintf(hash, sizeof(hash), "%016" PRIx64, reply->text_hash);
    cli_put_size(o, "row", (uint64_t)r->number);
    cli_put_size(o, "request", (uint64_t)s->number);
    cli_put_size(o, "prompt", (uint64_t)s->prompt);
    json_object_set_new(o, "cause", json_string(load_cause_name(reply->cause)));
    json_object_set_new(o, "status", json_integer(reply->http.status));
    if (reply->said[0])
        json_object_set_new(o, "said", cli_json_text(reply->said, strlen(reply->said)));
    json_object_set_new(o, "due_ns", json_ns(r, s->due_ns));
    json_object_set_new(o, "sent_ns", json_ns(r, s->sent_ns));
    json_object_set_new(o, "first_ns", s->n_pieces ? json_ns(r, s->piece_ns[0]) : json_null());
    json_object_set_new(o, "end_ns", json_ns(r, s->x.done_ns));
    json_object_set_new(o, "piece_ns", times);
    json_object_set_new(o, "tokens", json_count(reply->n_tokens));
    json_object_set_new(o, "prompt_tokens", json_count(reply->n_prompt));
    json_object_set_new(o, "cached_tokens", json_count(reply->n_cached));
    json_object_set_new(o, "finish", cli_json_text(reply->finish, strlen(reply->finish)));
    json_object_set_new(o, "text_bytes", json_integer((json_int_t)reply->text_bytes));
    json_object_set_new(o, "text_hash", json_string(hash));
    return o;
}

static void write_request(struct run *r, const struct slot *s)
{
    FILE *out = r->load->out.stream;
    if (!r->load->has_out || r->number < 0)
        return;
    json_t *o = json_request(r, s);
    if (!o || json_dumpf(o, out, JSON_COMPACT) || fputc('\n', out) == EOF)
        run_failed(r, PG_ENOMEM); /* a full disk is found, and named, at the end */
    json_decref(o);
}

static void note(struct run *r, struct slot *s)
{
    struct load_row *row = r->row;
    const struct load_reply *reply = &s->x.reply;
    const enum load_cause cause = reply->cause;
    row->n_cause[cause]++;
    row->n_resent += s->x.again;
    if (cause == LOAD_STATUS)
        row->n_status[reply->http.status % 600]++;
    if (!row->said[cause][0] && cause != LOAD_DONE)
        memcpy(row->said[cause], reply->said, sizeof(reply->said));
    if (s->x.done_ns > r->last_ns && cause != LOAD_INTERRUPTED)
        r->last_ns = s->x.done_ns;
    if (cause == LOAD_DONE)
        note_done(r, s);
    write_request(r, s);
}

/* ---------------------------------------------------------------- sending ------------------- */

static bool may_send(const struct run *r, uint64_t now_ns)
{
    const bool more = r->stop_ns ? now_ns < r->stop_ns : r->row->n_sent < r->n_requests;
    return more && !r->rc && !cli_interrupted();
}

static void look_for_end(struct run *r)
{
    if (r->n_busy == 0 && r->n_starting == 0 && (r->row->n_clients || r->all_sent))
        event_base_loopbreak(r->load->client.base);
}

static void slot_send(struct slot *s, uint64_t due_ns)
{
    struct run *r = s->run;
    s->busy = true;
    r->n_busy++;
    s->number = r->row->n_sent++;
    s->prompt = load_prompts_next(&r->load->prompts);
    r->load->n_prompts_sent++;
    s->n_pieces = 0;
    s->lost = false;
    s->sent_ns = cli_now_ns();
    s->due_ns = due_ns ? due_ns : s->sent_ns;
    load_exchange_send(&s->x, &r->load->prompts.request[s->prompt]);
}

static void slot_start_soon(struct slot *s, int pause_us)
{
    const struct timeval tv = {0, pause_us};
    s->run->n_starting++;
    event_add(s->start, &tv);
}

static void on_start(evutil_socket_t fd, short what, void *user)
{
    struct slot *s = user;
    (void)fd;
    (void)what;
    s->run->n_starting--;
    if (may_send(s->run, cli_now_ns()))
        slot_send(s, 0);
    else
        look_for_end(s->run);
}

static void on_ended(void *user)
{
    struct slot *s = user;
    struct run *r = s->run;
    note(r, s);
    s->busy = false;
    r->n_busy--;
    if (r->row->n_clients) {
        slot_start_soon(s, s->x.reply.cause == LOAD_DONE ? 0 : PAUSE_US);
    } else {
        s->next_free = r->free;
        r->free = s;
        look_for_end(r);
    }
}

static struct slot *slot_new(struct run *r)
{
    struct slot *s = r->n_slots < r->cap_slots ? calloc(1, sizeof(*s)) : NULL;
    if (!s)
        return NULL;
    s->run = r;
    s->x.piece = on_piece;
    s->x.ended = on_ended;
    s->x.user = s;
    r->slot[r->n_slots++] = s; /* run_close takes also what is half made */
    s->start = evtimer_new(r->load->client.base, on_start, s);
    return load_exchange_open(&s->x, &r->load->client) || !s->start ? NULL : s;
}

/* An arrival for which there is no slot counts as one that was not sent. */
static void send_due(struct run *r, uint64_t due_ns)
{
    struct slot *s = r->free ? r->free : slot_new(r);
    const uint64_t now = cli_now_ns();
    if (s && r->free)
        r->free = s->next_free;
    if (load_samples_add(&r->row->samples_late, since(due_ns, now)))
        run_failed(r, PG_ENOMEM);
    if (s) {
        slot_send(s, due_ns);
        return;
    }
    r->row->n_sent++;
    r->row->n_cause[LOAD_NOT_SENT]++;
    snprintf(r->row->said[LOAD_NOT_SENT], LOAD_SAID, "%d requests were under way", r->n_busy);
}

static void next_arrival(struct run *r)
{
    const double u = (double)(load_random(&r->random) >> 11) * 0x1p-53;
    r->due += -log1p(-u) / r->row->rate;
}

static void on_arrival(evutil_socket_t fd, short what, void *user)
{
    struct run *r = user;
    (void)fd;
    (void)what;
    for (;;) {
        const uint64_t due_ns = r->start_ns + (uint64_t)(r->due * 1e9), now = cli_now_ns();
        r->all_sent = !may_send(r, due_ns);
        if (r->all_sent)
            break;
        if (due_ns > now) {
            const double wait = since(now, due_ns);
            const struct timeval tv = {(time_t)wait, (suseconds_t)((wait - floor(wait)) * 1e6)};
            event_add(r->arrival, &tv);
            break;
        }
        send_due(r, due_ns);
        next_arrival(r);
    }
    look_for_end(r);
}

/* ---------------------------------------------------------------- the row ------------------- */

static uint64_t row_total(const struct run *r)
{
    return r->stop_ns ? (r->stop_ns - r->start_ns) / TICK_NS + 1 : (uint64_t)r->n_requests + 1;
}

static void on_tick(evutil_socket_t fd, short what, void *user)
{
    struct run *r = user;
    const uint64_t total = row_total(r), now = cli_now_ns();
    uint64_t done =
        r->stop_ns ? (now - r->start_ns) / TICK_NS : (uint64_t)(r->row->n_sent - r->n_busy);
    (void)fd;
    (void)what;
    done = done < total ? done : total - 1;
    if (cli_progress_step(&r->progress, r->what, done, total))
        event_base_loopbreak(r->load->client.base);
}

static int run_open(struct run *r)
{
    const struct cli_args *a = r->load->args;
    const struct timeval tick = {0, TICK_NS / 1000};
    struct event_base *base = r->load->client.base;
    r->n_requests = r->number < 0 ? a->n_warmup : a->n_requests;
    r->random = a->seed;
    r->cap_slots = r->row->n_clients ? r->row->n_clients : SLOTS_MAX;
    r->slot = calloc((size_t)r->cap_slots, sizeof(struct slot *));
    r->tick = event_new(base, -1, EV_PERSIST, on_tick, r);
    r->arrival = evtimer_new(base, on_arrival, r);
    if (r->number < 0)
        snprintf(r->what, sizeof(r->what), "warm-up");
    else if (r->row->n_clients)
        snprintf(r->what, sizeof(r->what), "%d client%s", r->row->n_clients,
                 r->row->n_clients > 1 ? "s" : "");
    else
        snprintf(r->what, sizeof(r->what), "%g requests a second", r->row->rate);
    bool good = r->slot && r->tick && r->arrival && event_add(r->tick, &tick) == 0;
    for (int i = 0; i < r->row->n_clients && good; i++)
        good = slot_new(r) != NULL;
    return good ? 0 : cli_fail(r->err, PG_ENOMEM, "no memory for %s", r->what);
}

static void run_close(struct run *r)
{
    for (int i = 0; i < r->n_slots; i++) {
        struct slot *s = r->slot[i];
        load_exchange_close(&s->x);
        if (s->start)
            event_free(s->start);
        free(s->piece_ns);
        free(s);
    }
    if (r->tick)
        event_free(r->tick);
    if (r->arrival)
        event_free(r->arrival);
    free(r->slot);
}

static double cpu_seconds(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-6;
}

static void run_loop(struct run *r)
{
    r->start_ns = cli_now_ns();
    if (r->number >= 0 && !r->n_requests)
        r->stop_ns = r->start_ns + (uint64_t)(r->load->args->duration * 1e9);
    if (r->row->n_clients) {
        for (int i = 0; i < r->n_slots; i++)
            slot_start_soon(r->slot[i], 0);
    } else {
        const struct timeval at_once = {0, 0};
        next_arrival(r);
        event_add(r->arrival, &at_once);
    }
    if (event_base_dispatch(r->load->client.base) < 0)
        r->rc = r->rc ? r->rc : cli_fail(r->err, PG_ESYSTEM, "libevent stopped");
}

/* What is under way when the user has enough is neither done nor failed. */
static void run_finish(struct run *r)
{
    struct load_row *row = r->row;
    const uint64_t now = cli_now_ns();
    for (int i = 0; i < r->n_slots; i++) {
        struct slot *s = r->slot[i];
        if (!s->busy)
            continue;
        load_exchange_cancel(&s->x);
        s->x.done_ns = s->x.done_ns ? s->x.done_ns : now;
        note(r, s);
    }
    const uint64_t end = row->interrupted && (!r->stop_ns || now < r->stop_ns) ? now
                         : r->stop_ns                                          ? r->stop_ns
                                                                               : r->last_ns;
    row->seconds = since(r->start_ns, end);
    row->first = load_summarise(&row->samples_first);
    row->gap = load_summarise(&row->samples_gap);
    row->whole = load_summarise(&row->samples_whole);
    row->late = load_summarise(&row->samples_late);
    row->stream = load_summarise(&row->samples_stream);
    row->ran = true;
}

int load_row_run(struct load *l, struct load_row *row, int number, struct pg_err *err)
{
    struct run r = {.load = l, .row = row, .number = number, .err = err};
    const double cpu = cpu_seconds();
    const uint64_t began = cli_now_ns();
    r.rc = run_open(&r);
    if (!r.rc) {
        run_loop(&r);
        row->interrupted = cli_interrupted();
        row->client_cpu = cli_ratio(cpu_seconds() - cpu, since(began, cli_now_ns()));
        run_finish(&r);
        cli_progress_step(&r.progress, r.what, 1, 1);
    }
    run_close(&r);
    return r.rc;
}
