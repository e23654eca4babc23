/* SPDX-License-Identifier: MIT
 * Opens, runs, drains and closes. The engine's thread opens the model, so that /health and signals
 * are answered while it loads.
 */
#include "server.h"
#include "experts.h"
#include "gen.h"
#include "listen.h"
#include "notify.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* ---------------------------------------------------------------- small things -------------- */

uint64_t server_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

bool ledger_take(struct ledger *l, size_t n)
{
    const size_t before = atomic_fetch_add(&l->used, n);
    if (n <= l->total && before <= l->total - n)
        return true;
    atomic_fetch_sub(&l->used, n);
    return false;
}

void ledger_give(struct ledger *l, size_t n)
{
    atomic_fetch_sub(&l->used, n);
}

void server_id(char *out, size_t cap, const char *prefix)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    unsigned char random[24];
    size_t n = strlen(prefix);
    if (getrandom(random, sizeof(random), 0) != (ssize_t)sizeof(random))
        memset(random, 0, sizeof(random));
    snprintf(out, cap, "%s", prefix);
    for (size_t i = 0; i < sizeof(random) && n + 1 < cap; i++)
        out[n++] = letters[random[i] % (sizeof(letters) - 1)];
    out[n] = '\0';
}

void server_log(const char *level, const char *fmt, ...)
{
    char text[1024], stamp[32];
    struct timespec t;
    struct tm tm;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    for (char *p = text; *p; p++)
        if ((unsigned char)*p < ' ' || (unsigned char)*p >= 0x7F)
            *p = '?';
    clock_gettime(CLOCK_REALTIME, &t);
    gmtime_r(&t.tv_sec, &tm);
    strftime(stamp, sizeof(stamp), "%Y-%m-%dT%H:%M:%S", &tm);
    fprintf(stderr, "time=%s.%03ldZ level=%s %s\n", stamp, t.tv_nsec / 1000000, level, text);
}

void server_log_request(struct server *s, const struct conn *c)
{
    const int status = c->status ? c->status : 499;
    const double ms = 1e-6 * (double)(server_now_ns() - c->start_ns);
    const bool is_probe = c->route && c->route->flags & ROUTE_PROBE && status == 200;
    char work[160] = "";
    s->n_by_status[status / 100 < 6 ? status / 100 : 5]++;
    if (c->work.n_prompt)
        snprintf(work, sizeof(work),
                 " n_prompt=%d n_reused=%d n_predicted=%d queue_ms=%.1f prompt_ms=%.1f "
                 "decode_ms=%.1f",
                 c->work.n_prompt, c->work.n_reused, c->work.n_predicted, c->work.queue_ms,
                 c->work.prompt_ms, c->work.decode_ms);
    if (!is_probe || s->opt->verbose)
        server_log("info", "method=%.*s path=%.*s status=%d ms=%.1f%s", (int)c->head.method_text.n,
                   c->head.method_text.p ? c->head.method_text.p : "-",
                   c->head.path.n < 128 ? (int)c->head.path.n : 128,
                   c->head.path.p ? c->head.path.p : "-", status, ms, work);
}

/* ---------------------------------------------------------------- engine's thread ----------- */

static void scheduler_log(void *user, enum pg_log_level level, const char *text)
{
    const struct server *s = user;
    static const char *const names[] = {"error", "warn", "info", "debug"};
    if (level <= PG_LOG_WARN || s->opt->verbose)
        server_log(names[level], "msg=\"%s\"", text);
}

/* A model without a template still completes; what is wrong with one that was given is an error. */
static int chat_open(struct server *s, struct pg_err *err)
{
    struct pg_err why = {0};
    const int rc = s->opt->open_chat(s->opt->user, &s->chat, &why);
    if (rc && s->opt->has_template) {
        *err = why;
        return rc;
    }
    if (rc)
        memcpy(s->chat_why, why.text, sizeof(s->chat_why));
    const struct pg_chat_options plain = {PG_CHAT_OPTIONS_INIT, .source = "-", .n_source = 1};
    return pg_chat_open(&s->plain_chat, &plain, err);
}

static struct pg_scheduler_options scheduler_options(const struct serve_options *o)
{
    return (struct pg_scheduler_options){PG_SCHEDULER_OPTIONS_INIT,  .n_parallel = o->n_parallel,
                                         .n_waiting = LIMIT_WAITING, .itl_ms = o->itl_ms,
                                         .cache_dir = o->cache_dir,  .cache_bytes = o->cache_bytes};
}

static uint64_t scheduler_bytes(const struct serve_options *o)
{
    const struct pg_scheduler_options opt = scheduler_options(o);
    return pg_scheduler_bytes(&opt, o->n_ctx ? o->n_ctx : 4096);
}

/* Connections that there are, however small the budget is: two for each request that runs. */
static int conns_least(const struct serve_options *o)
{
    return LIMIT_CONNECTIONS_LEAST + 2 * o->n_parallel;
}

static size_t ledger_least(const struct serve_options *o)
{
    return LIMIT_LEDGER_LEAST + 2 * (size_t)o->n_parallel * LIMIT_CONN_BYTES;
}

uint64_t serve_least_bytes(const struct serve_options *opt)
{
    return ledger_least(opt) + scheduler_bytes(opt);
}

static int engine_open(struct server *s, struct pg_err *err)
{
    const int n_ctx = s->opt->n_ctx;
    struct pg_scheduler_options opt = scheduler_options(s->opt);
    opt.log = scheduler_log;
    opt.user = s;
    const uint64_t own = s->ledger.total + scheduler_bytes(s->opt);
    int rc = s->opt->open_engine(s->opt->user, &s->engine, own, err);
    if (rc)
        return rc;
    pg_engine_info(s->engine, &s->info);
    pg_engine_plan(s->engine, &s->plan);
    s->vocab = pg_engine_vocab(s->engine);
    s->n_ctx = n_ctx ? n_ctx : s->info.n_ctx_train < 4096 ? s->info.n_ctx_train : 4096;
    rc = chat_open(s, err);
    opt.engine = s->engine;
    return rc ? rc : pg_scheduler_open(&s->scheduler, &opt, err);
}

/* Returns whether it is still wanted. */
static bool engine_tell(struct server *s, bool over, const struct pg_err *err)
{
    pthread_mutex_lock(&s->mutex);
    s->engine_ready = true;
    s->engine_over = over;
    s->engine_err = *err;
    const bool goes_on = !s->engine_unwanted;
    pthread_mutex_unlock(&s->mutex);
    server_wake(s);
    return goes_on;
}

static void *engine_main(void *arg)
{
    struct server *s = arg;
    struct pg_err err = {0};
    int rc = engine_open(s, &err);
    if (!rc && engine_tell(s, false, &err))
        rc = pg_scheduler_run(s->scheduler, &err);
    if (rc && !err.code)
        err.code = rc;
    engine_tell(s, true, &err);
    return NULL;
}

/* ---------------------------------------------------------------- the end ------------------- */

static bool all_is_sent(const struct server *s)
{
    for (const struct conn *c = s->conns; c; c = c->next)
        if (evbuffer_get_length(c->out))
            return false;
    return true;
}

static void maybe_over(struct server *s)
{
    if (s->phase == PHASE_DRAINING && !s->n_gens && all_is_sent(s))
        event_base_loopbreak(s->base);
}

static void drain_begin(struct server *s)
{
    const double seconds = s->opt->drain_seconds;
    const struct timeval tv = {(time_t)seconds,
                               (suseconds_t)(1e6 * (seconds - (double)(time_t)seconds))};
    const struct timeval soon = {.tv_usec = 50000};
    if (s->phase == PHASE_LOADING) { /* there is nothing to finish */
        s->phase = PHASE_OVER;
        atomic_store(s->opt->cancel, true);
        event_base_loopbreak(s->base);
        return;
    }
    server_log("info", "msg=\"draining\" requests=%d seconds=%.0f", s->n_gens, seconds);
    notify_service("STOPPING=1");
    s->phase = PHASE_DRAINING;
    experts_close_all(s);
    event_add(&s->on_drained, &tv);
    event_add(&s->on_tick, &soon);
    maybe_over(s);
}

static void on_drained(evutil_socket_t fd, short what, void *arg)
{
    struct server *s = arg;
    const struct timeval more = {.tv_sec = 2};
    (void)fd, (void)what;
    if (!s->n_gens || s->is_late) { /* only readers that do not read are left */
        event_base_loopbreak(s->base);
        return;
    }
    s->is_late = true;
    for (struct gen *g = s->gens; g; g = g->next)
        gen_cancel(g);
    event_add(&s->on_drained, &more);
}

static void on_signal(evutil_socket_t number, short what, void *arg)
{
    struct server *s = arg;
    (void)what;
    struct pg_err err = {0};
    if (number == SIGHUP && s->opt->key_file) {
        if (guard_read_keys(&s->guard, s->opt->key_file, &err))
            server_log("error", "msg=\"%s; the keys from before stay\"", err.text);
        else
            server_log("info", "msg=\"keys are read\" keys=%d", s->guard.n_keys);
    } else if (s->phase == PHASE_DRAINING || s->phase == PHASE_OVER) {
        server_log("warn", "msg=\"ended by a second signal\"");
        _exit(128 + (int)number);
    } else {
        drain_begin(s);
    }
}

/* ---------------------------------------------------------------- events -------------------- */

/* For one more connection: where there are as many as may be, for that of one between requests. */
static bool has_room(struct server *s)
{
    return s->n_conns < s->conns_most || conn_idlest(s);
}

static void on_accept(evutil_socket_t fd, short what, void *arg)
{
    struct server *s = arg;
    const int on = 1;
    (void)what;
    for (int i = 0; i < LIMIT_ACCEPTS && has_room(s); i++) {
        struct conn *idlest = s->n_conns < s->conns_most ? NULL : conn_idlest(s);
        const int client = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (client < 0 && (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED))
            return;
        if (client < 0)
            break; /* no descriptors, or no memory: again after a second */
        setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
        if (idlest)
            conn_drop(idlest);
        conn_open(s, client);
    }
    if (has_room(s))
        return;
    event_del(&s->on_accept);
    s->listens = false;
}

void server_listen_again(struct server *s)
{
    if (s->listens || s->phase == PHASE_OVER || !has_room(s))
        return;
    s->listens = true;
    event_add(&s->on_accept, NULL);
}

void server_wake(struct server *s)
{
    const uint64_t one = 1;
    if (write(s->wake_fd, &one, sizeof(one)) != (ssize_t)sizeof(one))
        return; /* the counter is full: the loop is awake */
}

static void ready(struct server *s)
{
    const char *name = strrchr(s->opt->model, '/');
    s->phase = PHASE_READY;
    snprintf(s->model_id, sizeof(s->model_id), "%s",
             s->opt->alias ? s->opt->alias
             : name        ? name + 1
                           : s->opt->model);
    char *end = s->opt->alias ? NULL : strstr(s->model_id, ".gguf");
    if (end)
        *end = '\0';
    printf("listening on %s\n", s->listen_text);
    fflush(stdout);
    if (!s->chat)
        server_log("warn", "msg=\"%s: no conversations; --chat-template FILE\"", s->chat_why);
    notify_service("READY=1");
}

static void look_at_engine(struct server *s)
{
    pthread_mutex_lock(&s->mutex);
    const bool is_ready = s->engine_ready, is_over = s->engine_over;
    pthread_mutex_unlock(&s->mutex);
    if (is_over)
        event_base_loopbreak(s->base); /* its error is told at the end */
    else if (is_ready && s->phase == PHASE_LOADING)
        ready(s);
}

/* One that the engine's thread has put something into. */
static struct gen *pop_woken(struct server *s)
{
    pthread_mutex_lock(&s->mutex);
    struct gen *g = s->woken;
    if (g) {
        s->woken = g->next_woken;
        g->woken = false;
    }
    pthread_mutex_unlock(&s->mutex);
    return g;
}

static void pump_all(struct server *s)
{
    struct gen *g = NULL;
    for (int i = s->n_gens; i > 0 && (g = pop_woken(s)); i--)
        gen_pump(g);
    if (g) /* some may be left; connections get their turn before them */
        server_wake(s);
}

static void pump_now(struct server *s)
{
    s->pumped_ns = server_now_ns();
    pump_all(s);
    look_at_engine(s);
    maybe_over(s);
}

static void on_later(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    pump_now(arg);
}

/* A token that comes soon after another waits a little for the next: waking and sending cost more
 * than all else that is done for it. Meanwhile `woken` is not empty, so that nobody wakes us. */
static void on_wake(evutil_socket_t fd, short what, void *arg)
{
    struct server *s = arg;
    uint64_t count;
    (void)what;
    if (read(fd, &count, sizeof(count)) < 0)
        return;
    const uint64_t since_us = (server_now_ns() - s->pumped_ns) / 1000;
    const struct timeval tv = {.tv_usec = LIMIT_GATHER_US - (suseconds_t)since_us};
    if (since_us < LIMIT_GATHER_US && s->phase == PHASE_READY)
        event_add(&s->on_later, &tv);
    else
        pump_now(s);
}

static void on_tick(evutil_socket_t fd, short what, void *arg)
{
    struct server *s = arg;
    const uint64_t now = server_now_ns();
    (void)fd, (void)what;
    for (struct gen *g = s->gens, *next; g; g = next) {
        next = g->next;
        gen_tick(g, now);
    }
    maybe_over(s);
}

/* ---------------------------------------------------------------- open, run, close ---------- */

static void limits_of(struct server *s)
{
    const uint64_t part = s->opt->spare_bytes / LIMIT_LEDGER_PART;
    const size_t least = ledger_least(s->opt);
    s->ledger.total = part > LIMIT_LEDGER_MOST ? LIMIT_LEDGER_MOST : (size_t)part;
    s->ledger.total = s->ledger.total < least ? least : s->ledger.total;
    const size_t body = s->ledger.total / LIMIT_BODY_PART;
    s->body_most = body < LIMIT_BODY ? body : LIMIT_BODY;
    const size_t conns = s->ledger.total / 4 / LIMIT_CONN_BYTES;
    s->conns_most = conns < LIMIT_CONNECTIONS ? (int)conns : LIMIT_CONNECTIONS;
    s->conns_most = s->conns_most < conns_least(s->opt) ? conns_least(s->opt) : s->conns_most;
    struct rlimit files;
    if (!getrlimit(RLIMIT_NOFILE, &files) && files.rlim_cur < files.rlim_max) {
        files.rlim_cur = files.rlim_max < 65536 ? files.rlim_max : 65536;
        setrlimit(RLIMIT_NOFILE, &files);
    }
}

static void events_assign(struct server *s)
{
    const struct timeval second = {.tv_sec = 1};
    struct sigaction old;
    event_assign(&s->on_accept, s->base, s->listen_fd, EV_READ | EV_PERSIST, on_accept, s);
    event_assign(&s->on_wake, s->base, s->wake_fd, EV_READ | EV_PERSIST, on_wake, s);
    event_assign(&s->on_later, s->base, -1, 0, on_later, s);
    event_assign(&s->on_tick, s->base, -1, EV_PERSIST, on_tick, s);
    event_assign(&s->on_drained, s->base, -1, 0, on_drained, s);
    event_assign(&s->on_term, s->base, SIGTERM, EV_SIGNAL | EV_PERSIST, on_signal, s);
    event_assign(&s->on_int, s->base, SIGINT, EV_SIGNAL | EV_PERSIST, on_signal, s);
    event_assign(&s->on_hup, s->base, SIGHUP, EV_SIGNAL | EV_PERSIST, on_signal, s);
    s->has_events = true;
    event_add(&s->on_wake, NULL);
    event_add(&s->on_tick, &second);
    event_add(&s->on_term, NULL);
    event_add(&s->on_int, NULL);
    if (s->opt->key_file || (!sigaction(SIGHUP, NULL, &old) && old.sa_handler != SIG_IGN))
        event_add(&s->on_hup, NULL); /* else nohup's wish */
    signal(SIGPIPE, SIG_IGN);
    signal(SIGUSR1, SIG_IGN);
    server_listen_again(s);
}

static int fail(struct pg_err *err, int code, const char *what)
{
    err->code = code;
    snprintf(err->text, sizeof(err->text), "%s: %s", what, strerror(errno));
    return code;
}

static int open_all(struct server *s, struct pg_err *err)
{
    const struct serve_options *o = s->opt;
    limits_of(s);
    int rc = guard_open(&s->guard, o->host, o->names, o->origins, err);
    if (!rc && o->key_file)
        rc = guard_read_keys(&s->guard, o->key_file, err);
    rc = rc ? rc
            : listen_open(&s->listen_fd, s->listen_text, sizeof(s->listen_text), o->host, o->port,
                          err);
    if (rc)
        return rc;
    s->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    s->base = event_base_new();
    if (s->wake_fd < 0 || !s->base)
        return fail(err, PG_ESYSTEM, "the event loop");
    events_assign(s);
    if (pthread_create(&s->engine_thread, NULL, engine_main, s))
        return fail(err, PG_ESYSTEM, "the engine's thread");
    s->has_thread = true;
    return 0;
}

static void events_del(struct server *s)
{
    struct event *all[] = {&s->on_accept,  &s->on_wake, &s->on_later, &s->on_tick,
                           &s->on_drained, &s->on_term, &s->on_int,   &s->on_hup};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]) && s->has_events; i++)
        event_del(all[i]);
}

/* A stop is of the run under way: it is said again to one that had not begun. */
static void engine_stop(struct server *s)
{
    struct timespec until;
    do {
        pthread_mutex_lock(&s->mutex);
        s->engine_unwanted = true;
        const bool runs = s->engine_ready && s->scheduler;
        pthread_mutex_unlock(&s->mutex);
        if (runs)
            pg_scheduler_stop(s->scheduler);
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += 20000000;
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
    } while (pthread_timedjoin_np(s->engine_thread, NULL, &until));
}

/* The engine's thread ends first: what was asked of it is told that it is over, and is freed. */
static void close_all(struct server *s)
{
    s->phase = PHASE_OVER;
    if (s->has_thread)
        engine_stop(s);
    pg_scheduler_close(s->scheduler);
    for (struct gen *g; (g = s->gens);) {
        if (g->conn && conn_is_full(g->conn)) {
            conn_drop(g->conn);
            g->conn = NULL;
        }
        gen_pump(g);
    }
    experts_close_all(s);
    while (s->conns)
        conn_drop(s->conns);
    events_del(s);
    pg_chat_close(s->chat);
    pg_chat_close(s->plain_chat);
    pg_engine_close(s->engine);
    if (s->base)
        event_base_free(s->base);
    if (s->listen_fd >= 0)
        close(s->listen_fd);
    if (s->wake_fd >= 0)
        close(s->wake_fd);
    pthread_mutex_destroy(&s->mutex);
}

int serve_run(const struct serve_options *opt, struct pg_err *err)
{
    struct server *s = calloc(1, sizeof(*s));
    if (!s)
        return fail(err, PG_ENOMEM, "the server");
    s->opt = opt;
    s->listen_fd = s->wake_fd = -1;
    s->created = (int64_t)time(NULL);
    s->start_ns = server_now_ns();
    pthread_mutex_init(&s->mutex, NULL);
    int rc = open_all(s, err);
    if (!rc)
        event_base_dispatch(s->base);
    const bool asked = s->phase == PHASE_DRAINING || s->phase == PHASE_OVER;
    close_all(s);
    if (!rc && !asked && s->engine_err.code) {
        *err = s->engine_err;
        rc = err->code;
    }
    free(s);
    return rc;
}
