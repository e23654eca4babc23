/* SPDX-License-Identifier: MIT
 * Requests over libevent: one thread, no waiting. Connections are kept between requests where the
 * server lets them be. A connection that the server has closed while it was idle is found out only
 * by a request on it: that one is sent again on a new connection, once, if nothing of a reply came.
 */
#include "load.h"

#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>

#define TAIL_SECONDS 0.25 /* from [DONE] to the end of the HTTP reply */

enum { READ_MAX = 64 << 10 };

struct load_conn {
    struct load_client *client;
    struct load_exchange *exchange; /* NULL: idle */
    struct load_conn *next, *previous;
    struct bufferevent *bev;
    bool connected, used; /* used: for a request before this one */
};

/* ---------------------------------------------------------------- connections --------------- */

static void conn_unlink(struct load_conn *c)
{
    if (c->next)
        c->next->previous = c->previous;
    if (c->previous)
        c->previous->next = c->next;
    else if (c->client->idle == c)
        c->client->idle = c->next;
    c->next = c->previous = NULL;
}

static void conn_free(struct load_conn *c)
{
    if (!c)
        return;
    conn_unlink(c);
    bufferevent_free(c->bev);
    free(c);
}

static void conn_keep(struct load_conn *c)
{
    c->exchange = NULL;
    c->used = true;
    c->next = c->client->idle;
    if (c->next)
        c->next->previous = c;
    c->client->idle = c;
}

static void on_read(struct bufferevent *bev, void *user);
static void on_event(struct bufferevent *bev, short what, void *user);

static struct load_conn *conn_new(struct load_client *client)
{
    const int one = 1;
    struct load_conn *c = calloc(1, sizeof(*c));
    if (!c)
        return NULL;
    c->client = client;
    c->bev = bufferevent_socket_new(client->base, -1, BEV_OPT_CLOSE_ON_FREE);
    /* The callbacks come later: a connect that fails at once says so by what it returns. */
    if (!c->bev ||
        bufferevent_socket_connect(c->bev, (const struct sockaddr *)&client->target->address,
                                   (int)client->target->n_address)) {
        if (c->bev)
            bufferevent_free(c->bev);
        free(c);
        return NULL;
    }
    setsockopt(bufferevent_getfd(c->bev), IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    bufferevent_setwatermark(c->bev, EV_READ, 0, READ_MAX);
    bufferevent_setcb(c->bev, on_read, NULL, on_event, c);
    bufferevent_enable(c->bev, EV_READ | EV_WRITE);
    return c;
}

/* ---------------------------------------------------------------- exchanges ----------------- */

static void timer_set(struct load_exchange *x, double seconds)
{
    const struct timeval tv = {(time_t)seconds,
                               (suseconds_t)((seconds - (double)(time_t)seconds) * 1e6)};
    event_add(x->timer, &tv);
}

static void finish(struct load_exchange *x)
{
    event_del(x->timer);
    if (x->conn && (x->reply.closed || x->reply.cause != LOAD_DONE))
        conn_free(x->conn);
    else if (x->conn)
        conn_keep(x->conn);
    x->conn = NULL;
    if (!x->done_ns)
        x->done_ns = cli_now_ns();
    x->ended(x->user);
}

/* On the connection that was used last, or a new one. What fails here is said by the timer, so that
 * ended() is never called from within load_exchange_send. */
static void send_on(struct load_exchange *x, struct load_conn *c)
{
    c = c ? c : conn_new(x->client);
    if (c) {
        conn_unlink(c);
        c->exchange = x;
        x->conn = c;
    }
    if (!c || bufferevent_write(c->bev, x->request.bytes, x->request.n)) {
        load_reply_give_up(&x->reply, LOAD_NOT_SENT, "no socket or no memory for one more request");
        timer_set(x, 0);
    }
}

void load_exchange_send(struct load_exchange *x, const struct load_request *r)
{
    load_reply_fini(&x->reply);
    load_reply_init(&x->reply, x->piece, x->user);
    x->request = *r;
    x->done_ns = 0;
    x->any = x->again = false;
    timer_set(x, x->client->timeout);
    send_on(x, x->client->idle);
}

/* What there is to read, piece by piece. */
static void on_read(struct bufferevent *bev, void *user)
{
    struct load_conn *c = user;
    struct load_exchange *x = c->exchange;
    struct evbuffer *in = bufferevent_get_input(bev);
    c->client->now_ns = cli_now_ns();
    if (!x) { /* a reply that nobody has asked for */
        conn_free(c);
        return;
    }
    while (x->reply.cause == LOAD_GOING) {
        const size_t n = evbuffer_get_contiguous_space(in);
        const unsigned char *bytes = n ? evbuffer_pullup(in, (ev_ssize_t)n) : NULL;
        if (!bytes)
            break;
        x->any = true;
        load_reply_put(&x->reply, (const char *)bytes, n);
        evbuffer_drain(in, n);
    }
    if (x->reply.is_done && !x->done_ns) {
        x->done_ns = c->client->now_ns;
        timer_set(x, TAIL_SECONDS);
    }
    if (x->reply.cause != LOAD_GOING) {
        x->reply.closed |= evbuffer_get_length(in) > 0;
        finish(x);
    }
}

static void on_event(struct bufferevent *bev, short what, void *user)
{
    struct load_conn *c = user;
    struct load_exchange *x = c->exchange;
    (void)bev;
    if (what & BEV_EVENT_CONNECTED) {
        c->connected = true;
        return;
    }
    if (c->connected && what & BEV_EVENT_WRITING) /* there may still be a reply to read */
        return;
    if (!x) {
        conn_free(c);
        return;
    }
    if (c->used && !x->any && !x->again) {
        x->again = true;
        conn_free(c);
        x->conn = NULL;
        send_on(x, NULL);
        return;
    }
    if (c->connected)
        load_reply_close(&x->reply);
    else
        load_reply_give_up(&x->reply, LOAD_CONNECT,
                           evutil_socket_error_to_string(EVUTIL_SOCKET_ERROR()));
    finish(x);
}

static void on_timer(evutil_socket_t fd, short what, void *user)
{
    struct load_exchange *x = user;
    char said[80];
    (void)fd;
    (void)what;
    snprintf(said, sizeof(said), "no end within %g s", x->client->timeout);
    load_reply_give_up(&x->reply, LOAD_TIMEOUT, said);
    finish(x);
}

void load_exchange_cancel(struct load_exchange *x)
{
    load_reply_give_up(&x->reply, LOAD_INTERRUPTED, "");
    if (x->timer)
        event_del(x->timer);
    conn_free(x->conn);
    x->conn = NULL;
}

int load_exchange_open(struct load_exchange *x, struct load_client *c)
{
    x->client = c;
    x->timer = evtimer_new(c->base, on_timer, x);
    return x->timer ? 0 : PG_ENOMEM;
}

void load_exchange_close(struct load_exchange *x)
{
    load_exchange_cancel(x);
    if (x->timer)
        event_free(x->timer);
    load_reply_fini(&x->reply);
    x->timer = NULL;
}

int load_client_open(struct load_client *c, const struct load_target *t, double timeout,
                     struct pg_err *err)
{
    struct event_config *config = event_config_new();
    *c = (struct load_client){.target = t, .timeout = timeout};
    /* Timers to the microsecond; without this epoll rounds them up to milliseconds. */
    if (config && !event_config_set_flag(config, EVENT_BASE_FLAG_PRECISE_TIMER))
        c->base = event_base_new_with_config(config);
    if (config)
        event_config_free(config);
    return c->base ? 0 : cli_fail(err, PG_ESYSTEM, "libevent does not start");
}

void load_client_close(struct load_client *c)
{
    while (c->idle)
        conn_free(c->idle);
    if (c->base)
        event_base_free(c->base);
    *c = (struct load_client){0};
}
