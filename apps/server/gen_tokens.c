/* SPDX-License-Identifier: MIT
 * The engine's side of a request: tokens become text, stop strings end it, and events go into the
 * queue. Everything here runs on the engine's thread, between two steps, so it is short.
 */
#include "gen.h"
#include "server.h"

#include <string.h>

/* ---------------------------------------------------------------- queue --------------------- */

static bool queue_room(struct gen *g, size_t n)
{
    const size_t cap = g->queue.cap;
    if (g->queue.n + n > LIMIT_QUEUE || !bytes_room(&g->queue, n))
        return false;
    const size_t more = g->queue.cap - cap;
    if (more && !ledger_take(&g->server->ledger, more))
        return false;
    g->charged += more;
    return true;
}

/* Puts the request where the loop looks; the mutex is held. Returns whether the loop sleeps. */
static bool queue_up(struct gen *g)
{
    struct server *s = g->server;
    const bool sleeps = !s->woken;
    if (g->woken)
        return false;
    g->woken = true;
    g->next_woken = s->woken;
    s->woken = g;
    return sleeps;
}

static void push(struct choice *c, const struct event_head *head, const void *data)
{
    struct gen *g = c->gen;
    struct server *s = g->server;
    pthread_mutex_lock(&s->mutex);
    const bool fits = queue_room(g, sizeof(*head) + head->n);
    if (fits) {
        bytes_add(&g->queue, head, sizeof(*head));
        bytes_add(&g->queue, data, head->n);
    }
    const bool wake = fits && g->stream && queue_up(g);
    pthread_mutex_unlock(&s->mutex);
    c->overflow |= !fits;
    if (wake)
        server_wake(s);
}

static void push_piece(struct choice *c, enum piece_kind kind, int call, const char *text, size_t n)
{
    const struct event_head head = {.event = EVENT_PIECE,
                                    .choice = (uint8_t)c->index,
                                    .piece = (uint8_t)kind,
                                    .call = call,
                                    .n = (uint32_t)n};
    if (n && n <= LIMIT_QUEUE)
        push(c, &head, text);
    else if (n)
        c->overflow = true;
}

/* ---------------------------------------------------------------- stop strings -------------- */

/* The first stop string in the text held; its place in *at. */
static const char *find_stop(const struct choice *c, size_t *at)
{
    const char *found = NULL;
    for (int i = 0; i < c->gen->n_stops; i++) {
        const char *stop = c->gen->stop[i];
        const char *p = memmem(c->held.p, c->held.n, stop, strlen(stop));
        if (p && (!found || (size_t)(p - c->held.p) < *at)) {
            *at = (size_t)(p - c->held.p);
            found = stop;
        }
    }
    return found;
}

/* Bytes at the end of the text held with which a stop string may begin. */
static size_t n_beginning(const struct choice *c)
{
    size_t most = 0;
    for (int i = 0; i < c->gen->n_stops; i++) {
        const char *stop = c->gen->stop[i];
        size_t n = strlen(stop) - 1;
        n = n < c->held.n ? n : c->held.n;
        while (n > most && memcmp(c->held.p + c->held.n - n, stop, n) != 0)
            n--;
        most = n > most ? n : most;
    }
    return most;
}

static void flush_held(struct choice *c)
{
    push_piece(c, PIECE_TEXT, 0, c->held.p, c->held.n);
    c->held.n = 0;
}

/* Text of the answer: what may be the beginning of a stop string waits. */
static void put_text(struct choice *c, const char *text, size_t n)
{
    size_t at = 0;
    if (c->stopped || c->enough || !n)
        return;
    if (!c->gen->n_stops) {
        push_piece(c, PIECE_TEXT, 0, text, n);
        return;
    }
    if (!bytes_add(&c->held, text, n)) {
        c->overflow = true;
        return;
    }
    c->stopped = find_stop(c, &at);
    const size_t ready = c->stopped ? at : c->held.n - n_beginning(c);
    push_piece(c, PIECE_TEXT, 0, c->held.p, ready);
    bytes_drop(&c->held, ready);
}

static void on_part(void *user, const struct pg_reply_part *p)
{
    static const enum piece_kind kinds[] = {[PG_REPLY_TEXT] = PIECE_TEXT,
                                            [PG_REPLY_REASONING] = PIECE_REASONING,
                                            [PG_REPLY_CALL] = PIECE_CALL,
                                            [PG_REPLY_ARGUMENTS] = PIECE_ARGUMENTS};
    struct choice *c = user;
    c->enough |= c->gen->one_call && p->kind == PG_REPLY_CALL && p->call > 0;
    if (p->kind == PG_REPLY_TEXT) {
        put_text(c, p->text, p->n);
    } else if (!c->stopped && !c->enough) {
        flush_held(c);
        push_piece(c, kinds[p->kind], p->call, p->text, p->n);
    }
}

/* ---------------------------------------------------------------- callbacks ----------------- */

int tokens_open(struct choice *c, struct pg_err *err)
{
    struct gen *g = c->gen;
    /* A text goes on from its prompt, so a space before its first word belongs to it; but a grammar
     * is of the text without that. */
    c->detok = (struct pg_detok){.vocab = g->server->vocab, .not_first = !g->grammar};
    if (!g->is_chat)
        return 0;
    const struct pg_reply_options opt = {PG_REPLY_OPTIONS_INIT,
                                         .chat =
                                             g->forced ? g->server->plain_chat : g->server->chat,
                                         .vocab = g->server->vocab,
                                         .prompt = g->tail,
                                         .n_prompt = g->n_tail,
                                         .has_tools = g->has_tools,
                                         .inline_reasoning = g->inline_reasoning,
                                         .part = on_part,
                                         .user = c};
    return pg_reply_open(&c->reply, &opt, err);
}

void tokens_close(struct choice *c)
{
    pg_reply_close(c->reply);
    c->reply = NULL;
    bytes_fini(&c->held);
}

static void push_logprob(struct choice *c, const struct pg_token *t)
{
    char data[sizeof(struct event_token) + LIMIT_TOP_LOGPROBS * 2 * sizeof(int32_t)];
    const int n_top = t->n_top < LIMIT_TOP_LOGPROBS ? t->n_top : LIMIT_TOP_LOGPROBS;
    const struct event_token token = {t->id, t->logprob, n_top};
    const size_t n_list = (size_t)n_top * sizeof(int32_t);
    memcpy(data, &token, sizeof(token));
    if (n_top > 0) {
        memcpy(data + sizeof(token), t->top_id, n_list);
        memcpy(data + sizeof(token) + n_list, t->top_logprob, n_list);
    }
    const struct event_head head = {.event = EVENT_TOKEN,
                                    .choice = (uint8_t)c->index,
                                    .n = (uint32_t)(sizeof(token) + 2 * n_list)};
    push(c, &head, data);
}

int tokens_put(void *user, const struct pg_token *t)
{
    struct choice *c = user;
    struct pg_err err;
    char piece[PG_PIECE_MAX];
    atomic_fetch_add(&c->n_put, 1);
    if (c->gen->n_logprobs >= 0)
        push_logprob(c, t);
    if (c->reply && pg_reply_put(c->reply, t->id, &err))
        c->overflow = true;
    if (!c->reply)
        put_text(c, piece, pg_detokenize(&c->detok, t->id, piece));
    return c->stopped || c->enough || c->overflow;
}

void tokens_progress(void *user, int done, int total)
{
    struct choice *c = user;
    const struct event_progress at = {done, total};
    const struct event_head head = {
        .event = EVENT_PROGRESS, .choice = (uint8_t)c->index, .n = sizeof(at)};
    if (c->gen->return_progress)
        push(c, &head, &at);
}

void tokens_end(void *user, const struct pg_request_report *report)
{
    struct choice *c = user;
    struct pg_err err;
    char piece[PG_PIECE_MAX];
    c->report = *report;
    if (!c->stopped && c->reply && pg_reply_end(c->reply, &err))
        c->overflow = true;
    if (!c->stopped && !c->reply)
        put_text(c, piece, pg_detokenize(&c->detok, -1, piece));
    if (!c->stopped)
        flush_held(c);
    tokens_close(c);
    /* The last thing that this thread does with it; it takes no memory. */
    struct server *s = c->gen->server;
    pthread_mutex_lock(&s->mutex);
    c->gen->over |= 1u << c->index;
    const bool wake = queue_up(c->gen);
    pthread_mutex_unlock(&s->mutex);
    if (wake)
        server_wake(s);
}
