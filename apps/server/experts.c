/* SPDX-License-Identifier: MIT */
#include "experts.h"
#include "server.h"
#include "sse.h"

#include <stdlib.h>
#include <string.h>

/* A page that watches. */
struct looker {
    struct server *server;
    struct conn *conn;
    struct looker *prev, *next;
};

/* ---------------------------------------------------------------- the picture --------------- */

/* A digit an expert: the bits of PG_EXPERT_…. */
static json_t *state_json(const struct server *s)
{
    const size_t n = (size_t)s->info.n_moe_layer * (size_t)s->info.n_expert;
    unsigned char *state = calloc(n + 1, 1);
    if (!state)
        return json_null();
    pg_scheduler_look(s->scheduler, state, n);
    for (size_t i = 0; i < n; i++)
        state[i] = (unsigned char)('0' + (state[i] & 7));
    json_t *j = json_stringn((const char *)state, n);
    free(state);
    return j;
}

static json_t *memory_json(const struct server *s)
{
    const struct pg_plan *p = &s->plan;
    return json_pack("{s:I, s:I, s:{s:I, s:I, s:I, s:I, s:I, s:I}}", "budget",
                     (json_int_t)p->budget, "peak", (json_int_t)pg_peak_rss(), "parts", "dense",
                     (json_int_t)p->dense, "kv", (json_int_t)p->kv, "scratch",
                     (json_int_t)p->scratch, "overhead", (json_int_t)p->overhead, "server",
                     (json_int_t)p->caller, "slots", (json_int_t)p->slots);
}

static double ratio(double a, double b)
{
    return b > 0 ? a / b : 0;
}

/* Rates are those since the picture before. */
static json_t *picture(struct server *s)
{
    struct pg_scheduler_state now;
    pg_scheduler_state(s->scheduler, &now);
    const struct pg_stats *a = &s->look.stats, *b = &now.engine;
    const uint64_t ns = server_now_ns();
    const double seconds = 1e-9 * (double)(ns - s->look.ns);
    const double tokens = (double)(b->n_decode - a->n_decode);
    const double steps = b->compute_seconds - a->compute_seconds;
    const double stall = b->stall_seconds - a->stall_seconds;
    json_t *j = json_pack(
        "{s:i, s:i, s:o, s:i, s:o, s:f, s:f, s:f, s:f, s:i, s:i}", "n_layer", s->info.n_moe_layer,
        "n_expert", s->info.n_expert, "state", state_json(s), "slots", s->plan.n_slots, "memory",
        memory_json(s), "tok_s", ratio(tokens, seconds), "hits",
        ratio((double)(b->hits - a->hits), (double)(b->expert_requests - a->expert_requests)),
        "bytes_per_token", ratio((double)(b->expert_bytes_read - a->expert_bytes_read), tokens),
        "stall", ratio(stall, stall + steps), "running", now.n_running, "waiting", now.n_waiting);
    s->look = (struct look){ns, *b};
    return j;
}

void experts_get(struct conn *c)
{
    reply_json(c, 200, picture(c->server));
}

/* ---------------------------------------------------------------- the stream ---------------- */

static void looker_close(struct looker *l)
{
    struct server *s = l->server;
    *(l->prev ? &l->prev->next : &s->lookers) = l->next;
    if (l->next)
        l->next->prev = l->prev;
    if (--s->n_lookers == 0)
        event_del(&s->on_look);
    free(l);
}

static void on_gone(void *owner)
{
    looker_close(owner);
}

static const struct conn_owner owner = {.gone = on_gone};

static void on_look(evutil_socket_t fd, short what, void *arg)
{
    struct server *s = arg;
    (void)fd, (void)what;
    json_t *j = picture(s);
    for (struct looker *l = s->lookers, *next; l; l = next) {
        struct conn *c = l->conn;
        next = l->next;
        if (!evbuffer_get_length(c->out)) /* who has not taken the last one does without this */
            sse_send(c, NULL, json_incref(j));
        conn_run(c);
    }
    json_decref(j);
}

void experts_stream(struct conn *c)
{
    struct server *s = c->server;
    const struct timeval five_a_second = {.tv_usec = 200000};
    struct looker *l = s->n_lookers < LIMIT_LOOKERS ? calloc(1, sizeof(*l)) : NULL;
    if (!l || s->phase != PHASE_READY || c->head.method == HTTP_HEAD) {
        free(l);
        reply_error(c, 503, "%d watch already, or the server ends", s->n_lookers);
        return;
    }
    *l = (struct looker){.server = s, .conn = c, .next = s->lookers};
    if (l->next)
        l->next->prev = l;
    s->lookers = l;
    if (s->n_lookers++ == 0) {
        event_assign(&s->on_look, s->base, -1, EV_PERSIST, on_look, s);
        event_add(&s->on_look, &five_a_second);
    }
    conn_own(c, &owner, l);
    conn_stream(c, SSE_TYPE);
    sse_send(c, NULL, picture(s));
}

void experts_close_all(struct server *s)
{
    while (s->lookers) {
        struct conn *c = s->lookers->conn;
        looker_close(s->lookers);
        conn_finish(c);
        conn_run(c);
    }
}
