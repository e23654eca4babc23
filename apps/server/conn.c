/* SPDX-License-Identifier: MIT */
#include "conn.h"
#include "server.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---------------------------------------------------------------- timers -------------------- */

static const int timer_seconds[] = {[TIMER_IDLE] = LIMIT_IDLE_SECONDS,
                                    [TIMER_HEAD] = LIMIT_HEAD_SECONDS,
                                    [TIMER_BODY] = LIMIT_BODY_SECONDS,
                                    [TIMER_WRITE] = LIMIT_WRITE_SECONDS,
                                    [TIMER_LINGER] = LIMIT_LINGER_SECONDS};

/* A timer that runs is not wound up again, so that bytes which drip in do not put it off. */
static void timer_set(struct conn *c, enum conn_timer t)
{
    if (c->timer == t)
        return;
    c->timer = t;
    if (t == TIMER_NONE) {
        event_del(&c->on_timer);
        return;
    }
    const struct timeval tv = {.tv_sec = timer_seconds[t]};
    event_add(&c->on_timer, &tv);
}

static void timer_restart(struct conn *c, enum conn_timer t)
{
    c->timer = TIMER_NONE;
    timer_set(c, t);
}

static void timer_choose(struct conn *c)
{
    const bool some = evbuffer_get_length(c->in) > 0, was_idle = c->timer == TIMER_IDLE;
    if (evbuffer_get_length(c->out))
        timer_set(c, TIMER_WRITE);
    else if (c->state == CONN_HEAD)
        timer_set(c, some || !c->n_sent ? TIMER_HEAD : TIMER_IDLE);
    else if (c->state == CONN_BODY)
        timer_set(c, TIMER_BODY);
    else
        timer_set(c, c->state == CONN_LINGER ? TIMER_LINGER : TIMER_NONE);
    if (c->timer == TIMER_IDLE && !was_idle) {
        c->idled = ++c->server->n_idled;
        server_listen_again(c->server);
    }
}

/* Whether a request has come that was not read yet. */
static bool has_come(const struct conn *c)
{
    char byte;
    return recv(c->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0;
}

struct conn *conn_idlest(struct server *s)
{
    struct conn *idlest = NULL;
    for (struct conn *c = s->conns; c; c = c->next)
        if (c->timer == TIMER_IDLE && (!idlest || c->idled < idlest->idled) && !has_come(c))
            idlest = c;
    return idlest;
}

/* ---------------------------------------------------------------- life ---------------------- */

static void body_forget(struct conn *c)
{
    free(c->body);
    ledger_give(&c->server->ledger, c->cap_body + c->n_made);
    c->body = NULL;
    c->n_body = c->cap_body = c->n_made = 0;
}

static void request_forget(struct conn *c)
{
    body_forget(c);
    free(c->head_text);
    c->head_text = NULL;
    c->head = (struct http_head){0};
    c->route = NULL;
    c->origin = c->path_rest = (struct http_text){0};
    c->owner_kind = NULL;
    c->owner = NULL;
    c->more_headers[0] = '\0';
    c->status = 0;
    c->streams = c->chunked = false;
    memset(&c->work, 0, sizeof(c->work));
}

static void conn_free(struct conn *c)
{
    struct server *s = c->server;
    if (c->owner)
        c->owner_kind->gone(c->owner);
    if (c->head_text)
        server_log_request(s, c);
    request_forget(c);
    event_del(&c->on_read);
    event_del(&c->on_write);
    event_del(&c->on_timer);
    evbuffer_free(c->in);
    evbuffer_free(c->out);
    close(c->fd);
    *(c->prev ? &c->prev->next : &s->conns) = c->next;
    if (c->next)
        c->next->prev = c->prev;
    s->n_conns--;
    ledger_give(&s->ledger, LIMIT_CONN_BYTES);
    server_listen_again(s);
    free(c);
}

void conn_own(struct conn *c, const struct conn_owner *kind, void *owner)
{
    c->owner_kind = kind;
    c->owner = owner;
}

void conn_drop(struct conn *c)
{
    c->owner = NULL;
    conn_free(c);
}

/* ---------------------------------------------------------------- answers ------------------- */

void conn_header(struct conn *c, const char *name, const char *fmt, ...)
{
    const size_t used = strlen(c->more_headers), room = sizeof(c->more_headers) - used;
    char value[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(value, sizeof(value), fmt, ap);
    va_end(ap);
    value[strcspn(value, "\r\n")] = '\0';
    const int n = snprintf(c->more_headers + used, room, "%s: %s\r\n", name, value);
    if (n < 0 || (size_t)n >= room)
        c->more_headers[used] = '\0'; /* whole or not at all */
}

static const char *reason_of(int status)
{
    static const struct {
        int status;
        const char *text;
    } names[] = {{200, "OK"},
                 {204, "No Content"},
                 {400, "Bad Request"},
                 {401, "Unauthorized"},
                 {403, "Forbidden"},
                 {404, "Not Found"},
                 {405, "Method Not Allowed"},
                 {408, "Request Timeout"},
                 {413, "Content Too Large"},
                 {414, "URI Too Long"},
                 {417, "Expectation Failed"},
                 {429, "Too Many Requests"},
                 {431, "Request Header Fields Too Large"},
                 {500, "Internal Server Error"},
                 {501, "Not Implemented"},
                 {503, "Service Unavailable"},
                 {505, "HTTP Version Not Supported"}};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (names[i].status == status)
            return names[i].text;
    return "Unknown";
}

static void head_put(struct conn *c, int status, const char *type)
{
    c->status = status;
    c->n_sent = 1; /* what follows is another request */
    evbuffer_add_printf(c->out, "HTTP/1.1 %d %s\r\nServer: pregate\r\nConnection: %s\r\n", status,
                        reason_of(status), c->keep_alive ? "keep-alive" : "close");
    evbuffer_add_printf(c->out, "X-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\n");
    if (type)
        evbuffer_add_printf(c->out, "Content-Type: %s\r\n", type);
    if (c->origin.p)
        evbuffer_add_printf(c->out, "Access-Control-Allow-Origin: %.*s\r\nVary: Origin\r\n",
                            (int)c->origin.n, c->origin.p);
    evbuffer_add(c->out, c->more_headers, strlen(c->more_headers));
    c->more_headers[0] = '\0';
}

void conn_reply(struct conn *c, int status, const char *type, const void *body, size_t n)
{
    head_put(c, status, type);
    if (status != 204)
        evbuffer_add_printf(c->out, "Content-Length: %zu\r\n", n);
    evbuffer_add(c->out, "\r\n", 2);
    if (c->head.method != HTTP_HEAD && n)
        evbuffer_add(c->out, body, n);
    c->owner = NULL;
    c->state = CONN_FLUSH;
}

void conn_stream(struct conn *c, const char *type)
{
    c->streams = true;
    c->chunked = c->head.minor > 0;
    c->keep_alive = c->keep_alive && c->chunked;
    conn_header(c, "X-Accel-Buffering", "no");
    head_put(c, 200, type);
    if (c->chunked)
        evbuffer_add_printf(c->out, "Transfer-Encoding: chunked\r\n");
    evbuffer_add(c->out, "\r\n", 2);
}

void conn_send(struct conn *c, const void *data, size_t n)
{
    char size[24];
    if (!n)
        return;
    if (c->chunked)
        evbuffer_add(c->out, size, (size_t)snprintf(size, sizeof(size), "%zx\r\n", n));
    evbuffer_add(c->out, data, n);
    if (c->chunked)
        evbuffer_add(c->out, "\r\n", 2);
}

void conn_finish(struct conn *c)
{
    if (c->chunked)
        evbuffer_add(c->out, "0\r\n\r\n", 5);
    c->owner = NULL;
    c->state = CONN_FLUSH;
}

bool conn_is_full(const struct conn *c)
{
    return evbuffer_get_length(c->out) >= LIMIT_OUT;
}

/* ---------------------------------------------------------------- requests ------------------ */

/* The request cannot be understood, or not be read to its end: what follows is no request. */
static void refuse(struct conn *c, int status, const char *why)
{
    c->keep_alive = false;
    reply_error(c, status, "%s", why);
}

/* The head is whole: who answers, and is the body wanted? */
static void head_done(struct conn *c)
{
    struct server *s = c->server;
    const bool has_body = c->head.length != 0;
    const bool wanted_alive = c->head.keep_alive && s->phase < PHASE_DRAINING;
    c->keep_alive = wanted_alive && !has_body;
    if (!route_admit(c))
        return;
    if (c->head.length > (int64_t)s->body_most) {
        reply_error(c, 413, "the body has %lld bytes, and %zu are taken at most",
                    (long long)c->head.length, s->body_most);
        return;
    }
    c->keep_alive = wanted_alive;
    c->chunks = (struct http_chunks){0};
    c->state = CONN_BODY;
    if (c->head.wants_continue && has_body && !evbuffer_get_length(c->in))
        evbuffer_add_printf(c->out, "HTTP/1.1 100 Continue\r\n\r\n");
}

static bool head_step(struct conn *c)
{
    const char *why;
    size_t n = evbuffer_get_length(c->in);
    n = n < LIMIT_HEAD ? n : LIMIT_HEAD;
    const char *text = n ? (const char *)evbuffer_pullup(c->in, (ev_ssize_t)n) : NULL;
    if (!text)
        return false;
    if (n >= 2 && text[0] == '\r' && text[1] == '\n') { /* some clients end a body with one more */
        evbuffer_drain(c->in, 2);
        return true;
    }
    const size_t end = http_head_end(text, n);
    if (!end && n < LIMIT_HEAD)
        return false;
    c->start_ns = server_now_ns();
    c->head_text = malloc(end + 1);
    if (!end || !c->head_text) {
        refuse(c, end ? 503 : 431, end ? "out of memory" : "the headers are too long");
        return true;
    }
    memcpy(c->head_text, text, end);
    evbuffer_drain(c->in, end);
    const int bad = http_head_parse(&c->head, c->head_text, end, &why);
    if (bad)
        refuse(c, bad, why);
    else
        head_done(c);
    return true;
}

/* Room for n more bytes of the body and a 0. Charged before it is taken. */
static bool body_room(struct conn *c, size_t n)
{
    const size_t want = c->n_body + n + 1;
    if (want <= c->cap_body)
        return true;
    size_t cap = 2 * want < 4096 ? 4096 : 2 * want;
    if (c->head.length >= 0 && cap > (size_t)c->head.length + 1)
        cap = (size_t)c->head.length + 1;
    char *larger =
        ledger_take(&c->server->ledger, cap - c->cap_body) ? realloc(c->body, cap) : NULL;
    if (!larger) {
        refuse(c, 503, "the bodies of other requests take all the memory there is for them");
        return false;
    }
    c->body = larger;
    c->cap_body = cap;
    return true;
}

static void body_done(struct conn *c)
{
    if (!body_room(c, 0))
        return;
    c->body[c->n_body] = '\0';
    c->state = CONN_BUSY;
    route_call(c);
    body_forget(c);
}

static bool body_chunks(struct conn *c, struct http_text in)
{
    size_t used, n;
    if (!body_room(c, in.n))
        return true;
    const int rc = http_chunks_take(&c->chunks, in, &used, c->body + c->n_body, &n);
    c->n_body += n;
    evbuffer_drain(c->in, used);
    if (rc < 0) {
        refuse(c, 400, "the chunks of the body are malformed");
    } else if (c->n_body > c->server->body_most) {
        c->keep_alive = false;
        reply_error(c, 413, "the body has more than %zu bytes", c->server->body_most);
    } else if (rc) {
        body_done(c);
    }
    return true;
}

static bool body_step(struct conn *c)
{
    const size_t there = evbuffer_get_length(c->in);
    const bool chunked = c->head.length < 0;
    const size_t left = chunked ? there : (size_t)c->head.length - c->n_body;
    const size_t n = left < there ? left : there;
    if (!chunked && left == 0) {
        body_done(c);
        return true;
    }
    if (n == 0)
        return false;
    if (chunked) {
        const char *p = (const char *)evbuffer_pullup(c->in, (ev_ssize_t)n);
        return p && body_chunks(c, (struct http_text){p, n});
    }
    if (body_room(c, n)) {
        evbuffer_remove(c->in, c->body + c->n_body, n);
        c->n_body += n;
    }
    return true;
}

/* The answer is out. */
static bool flush_step(struct conn *c)
{
    if (evbuffer_get_length(c->out))
        return false;
    server_log_request(c->server, c);
    request_forget(c);
    if (c->keep_alive) {
        c->state = CONN_HEAD;
        return true;
    }
    /* Closed at once, what it still sends would make the kernel take the answer back. */
    shutdown(c->fd, SHUT_WR);
    c->state = CONN_LINGER;
    return false;
}

static bool step(struct conn *c)
{
    switch (c->state) {
    case CONN_HEAD:
        return head_step(c);
    case CONN_BODY:
        return body_step(c);
    case CONN_FLUSH:
        return flush_step(c);
    case CONN_BUSY:
    case CONN_LINGER:
    case CONN_DEAD:
        break;
    }
    return false;
}

/* ---------------------------------------------------------------- events -------------------- */

static void write_some(struct conn *c)
{
    if (!evbuffer_get_length(c->out))
        return;
    const int n = evbuffer_write(c->out, c->fd);
    if (n > 0) {
        c->sent_ns = server_now_ns();
        if (c->timer == TIMER_WRITE)
            timer_restart(c, TIMER_WRITE);
    } else if (n < 0 && errno != EAGAIN && errno != EINTR) {
        c->state = CONN_DEAD;
    }
    if (evbuffer_get_length(c->out))
        event_add(&c->on_write, NULL);
}

static void read_wanted(struct conn *c)
{
    const bool wanted = evbuffer_get_length(c->in) < LIMIT_READ_AHEAD;
    if (wanted && !c->reads)
        event_add(&c->on_read, NULL);
    else if (!wanted && c->reads)
        event_del(&c->on_read);
    c->reads = wanted;
}

void conn_run(struct conn *c)
{
    bool more;
    do {
        more = step(c);
        write_some(c);
    } while (c->state != CONN_DEAD && (more || (c->state == CONN_FLUSH && flush_step(c))));
    if (c->state == CONN_DEAD) {
        conn_free(c);
        return;
    }
    read_wanted(c);
    timer_choose(c);
}

static void on_read(evutil_socket_t fd, short what, void *arg)
{
    struct conn *c = arg;
    (void)what;
    const int n = evbuffer_read(c->in, fd, LIMIT_READ_AHEAD);
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
        conn_free(c);
        return;
    }
    if (c->state == CONN_LINGER) {
        c->n_lingered += n > 0 ? (size_t)n : 0;
        evbuffer_drain(c->in, evbuffer_get_length(c->in));
        if (c->n_lingered > LIMIT_LINGER)
            conn_free(c);
        return;
    }
    conn_run(c);
}

static void on_write(evutil_socket_t fd, short what, void *arg)
{
    struct conn *c = arg;
    (void)fd, (void)what;
    write_some(c);
    if (c->state == CONN_BUSY && c->owner && c->owner_kind->room && !conn_is_full(c))
        c->owner_kind->room(c->owner);
    else
        conn_run(c);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    struct conn *c = arg;
    (void)fd, (void)what;
    const enum conn_timer t = c->timer;
    c->timer = TIMER_NONE;
    const bool late = (t == TIMER_HEAD && evbuffer_get_length(c->in)) || t == TIMER_BODY;
    if (!late) {
        conn_free(c);
        return;
    }
    refuse(c, 408, "the request did not come in time");
    conn_run(c);
}

void conn_open(struct server *s, int fd)
{
    struct conn *c = calloc(1, sizeof(*c));
    struct evbuffer *in = evbuffer_new(), *out = evbuffer_new();
    if (!c || !in || !out || !ledger_take(&s->ledger, LIMIT_CONN_BYTES)) {
        free(c);
        if (in)
            evbuffer_free(in);
        if (out)
            evbuffer_free(out);
        close(fd);
        return;
    }
    *c = (struct conn){.server = s, .fd = fd, .in = in, .out = out, .next = s->conns};
    event_assign(&c->on_read, s->base, fd, EV_READ | EV_PERSIST, on_read, c);
    event_assign(&c->on_write, s->base, fd, EV_WRITE, on_write, c);
    event_assign(&c->on_timer, s->base, -1, 0, on_timer, c);
    if (c->next)
        c->next->prev = c;
    s->conns = c;
    s->n_conns++;
    conn_run(c);
}
