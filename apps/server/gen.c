/* SPDX-License-Identifier: MIT */
#include "gen.h"
#include "server.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---------------------------------------------------------------- life ---------------------- */

struct gen *gen_open(struct conn *c, const struct gen_api *api)
{
    struct gen *g = calloc(1, sizeof(*g));
    if (!g)
        return NULL;
    g->server = c->server;
    g->conn = c;
    g->api = api;
    g->n_choices = 1;
    g->n_logprobs = -1;
    g->how = (struct pg_sampling){PG_SAMPLING_INIT};
    g->created = (int64_t)time(NULL);
    g->start_ns = c->start_ns;
    for (int i = 0; i < LIMIT_CHOICES; i++)
        g->choice[i].gen = g, g->choice[i].index = i;
    return g;
}

static void choice_fini(struct choice *c)
{
    tokens_close(c);
    pg_matcher_close(c->matcher);
    ledger_give(&c->gen->server->ledger, c->matcher_bytes);
    bytes_fini(&c->text);
    bytes_fini(&c->reasoning);
    for (int i = 0; i < c->n_calls; i++) {
        free(c->calls[i].name);
        bytes_fini(&c->calls[i].arguments);
    }
    free(c->calls);
    json_decref(c->logprobs);
    ledger_give(&c->gen->server->ledger, c->logprobs_bytes);
}

void gen_close(struct gen *g)
{
    for (int i = 0; i < LIMIT_CHOICES; i++)
        choice_fini(&g->choice[i]);
    for (int i = 0; i < g->n_stops; i++)
        free(g->stop[i]);
    ledger_give(&g->server->ledger, g->charged);
    bytes_fini(&g->queue);
    bytes_fini(&g->taken);
    bytes_fini(&g->piece);
    pg_grammar_close(g->grammar);
    for (int i = 0; i < g->n_prompts; i++)
        free(g->prompt[i].id);
    free(g->bias_id);
    free(g->bias);
    if (g->api && g->api->forget && g->state)
        g->api->forget(g->state);
    free(g->state);
    free(g);
}

void gen_add_prompt(struct gen *g, int32_t *ids, size_t n)
{
    if (g->n_prompts < LIMIT_PROMPTS)
        g->prompt[g->n_prompts++] = (struct gen_prompt){ids, n};
    else
        free(ids);
}

int gen_n_all(const struct gen *g)
{
    return g->n_prompts * g->n_choices;
}

static void unlink_gen(struct gen *g)
{
    *(g->prev ? &g->prev->next : &g->server->gens) = g->next;
    if (g->next)
        g->next->prev = g->prev;
    g->server->n_gens--;
}

void gen_cancel(struct gen *g)
{
    for (int i = 0; i < g->n_submitted; i++)
        if (!g->choice[i].over)
            pg_scheduler_cancel(g->server->scheduler, g->choice[i].id);
}

static void on_gone(void *owner)
{
    struct gen *g = owner;
    g->conn = NULL;
    g->server->n_gone++;
    gen_cancel(g);
}

static void on_room(void *owner)
{
    gen_pump(owner);
}

static const struct conn_owner owner = {.gone = on_gone, .room = on_room};

/* ---------------------------------------------------------------- submit -------------------- */

/* Its memory is the server's. The first one leaves something with the vocabulary, which stays. */
static int matcher_open(struct choice *c, struct pg_err *err)
{
    struct gen *g = c->gen;
    struct server *s = g->server;
    if (!g->grammar)
        return 0;
    const size_t once = s->has_matched ? 0 : (size_t)pg_matcher_bytes(NULL, s->vocab);
    const size_t own = (size_t)pg_matcher_bytes(g->grammar, s->vocab);
    if (own + once > s->ledger.total) {
        err->code = PG_ENOTSUP;
        snprintf(err->text, sizeof(err->text),
                 "a grammar takes %zu KiB, and with this --memory requests have %zu", own >> 10,
                 s->ledger.total >> 10);
        return PG_ENOTSUP;
    }
    if (!ledger_take(&s->ledger, own + once)) {
        err->code = PG_ENOMEM;
        snprintf(err->text, sizeof(err->text), "there is no memory for another grammar");
        return PG_ENOMEM;
    }
    s->has_matched = true;
    c->matcher_bytes = own;
    return pg_matcher_open(&c->matcher, g->grammar, s->vocab, err);
}

static int submit_choice(struct gen *g, struct choice *c, struct pg_err *err)
{
    const struct gen_prompt *prompt = &g->prompt[c->index / g->n_choices];
    struct pg_sampling how = g->how;
    how.seed += (uint64_t)c->index;
    int rc = matcher_open(c, err);
    how.matcher = c->matcher;
    const struct pg_request r = {PG_REQUEST_INIT,
                                 .tokens = prompt->id,
                                 .n_tokens = prompt->n,
                                 .n_predict = g->n_predict,
                                 .sampling = &how,
                                 .ignore_eos =
                                     g->ignore_eos && !g->grammar, /* it ends where that does */
                                 .no_reuse = g->no_reuse,
                                 .logprobs = g->n_logprobs >= 0,
                                 .n_top = g->n_logprobs > 0 ? g->n_logprobs : 0,
                                 .owner = g->owner,
                                 .progress = tokens_progress,
                                 .token = tokens_put,
                                 .end = tokens_end,
                                 .user = c};
    rc = rc ? rc : tokens_open(c, err);
    return rc ? rc : pg_scheduler_submit(g->server->scheduler, &r, &c->id, err);
}

static void check_context(const struct gen *g, struct fault *f)
{
    const size_t n_ctx = (size_t)g->server->n_ctx, n_more = (size_t)g->n_predict;
    for (int i = 0; i < g->n_prompts && !f->status; i++) {
        const size_t n = g->prompt[i].n;
        if (n + (n_more ? n_more : 1) <= n_ctx)
            continue;
        fault_set(f, 400, g->is_chat ? "messages" : "prompt",
                  "the prompt has %zu tokens and %zu more are asked for; the context has %zu", n,
                  n_more ? n_more : 1, n_ctx);
        f->code = "context_length_exceeded";
    }
    if (!f->status && gen_n_all(g) > LIMIT_CHOICES)
        fault_set(f, 400, "n", "n: %d answers in all are more than %d", gen_n_all(g),
                  LIMIT_CHOICES);
}

void gen_submit(struct gen *g, struct fault *f)
{
    struct server *s = g->server;
    struct conn *c = g->conn;
    struct pg_err err = {0};
    const size_t n_ctx = (size_t)s->n_ctx, n = g->n_prompts ? g->prompt[0].n : 0;
    if (g->clamps && n < n_ctx && (size_t)g->n_predict > n_ctx - n)
        g->n_predict = 0;
    if (!f->status)
        check_context(g, f);
    if (f->status) {
        gen_close(g);
        return;
    }
    g->next = s->gens;
    if (g->next)
        g->next->prev = g;
    s->gens = g;
    s->n_gens++;
    conn_own(c, &owner, g);
    for (int i = 0; i < gen_n_all(g) && !err.code; i++)
        if (!submit_choice(g, &g->choice[i], &err))
            g->n_submitted++;
    for (int i = 0; i < g->n_prompts; i++) { /* the scheduler has its own; n is still of use */
        free(g->prompt[i].id);
        g->prompt[i].id = NULL;
    }
    if (!err.code)
        return;
    fault_of(f, &err);
    conn_own(c, NULL, NULL);
    g->conn = NULL;
    g->failed = true;
    gen_cancel(g);
    if (!g->n_submitted) {
        unlink_gen(g);
        gen_close(g);
    }
}

/* ---------------------------------------------------------------- answers that are kept ----- */

static struct call *call_at(struct choice *c, int i)
{
    if (i < c->n_calls)
        return &c->calls[i];
    struct call *more = realloc(c->calls, (size_t)(i + 1) * sizeof(*more));
    if (!more)
        return NULL;
    c->calls = more;
    memset(&c->calls[c->n_calls], 0, (size_t)(i + 1 - c->n_calls) * sizeof(*more));
    for (; c->n_calls <= i; c->n_calls++)
        server_id(c->calls[c->n_calls].id, sizeof(c->calls[0].id), "call_");
    return &c->calls[i];
}

static bool keep_call(struct choice *c, const struct piece *p)
{
    struct call *call = p->call >= 0 && p->call < 1024 ? call_at(c, p->call) : NULL;
    if (!call)
        return false;
    if (p->kind == PIECE_ARGUMENTS)
        return bytes_add(&call->arguments, p->text, p->n);
    free(call->name);
    call->name = strndup(p->text, p->n);
    return call->name != NULL;
}

static bool keep(struct choice *c, const struct piece *p)
{
    switch (p->kind) {
    case PIECE_TEXT:
        return bytes_add(&c->text, p->text, p->n);
    case PIECE_REASONING:
        return bytes_add(&c->reasoning, p->text, p->n);
    default:
        return keep_call(c, p);
    }
}

/* ---------------------------------------------------------------- pump ---------------------- */

static void open_stream(struct gen *g)
{
    if (g->opened)
        return;
    g->opened = true;
    g->first_ns = server_now_ns();
    if (g->stream)
        g->api->open(g);
}

static void fail(struct gen *g, const struct fault *f)
{
    struct conn *c = g->conn;
    if (g->failed || g->ended)
        return;
    g->failed = true;
    gen_cancel(g);
    if (!c)
        return;
    if (g->stream && g->opened) {
        g->api->error(g, f);
        conn_finish(c);
    } else {
        fault_reply(c, f);
    }
    g->conn = NULL;
}

/* What has been gathered of one kind goes on as one piece. */
struct gather {
    bool some;
    struct choice *choice;
    enum piece_kind kind;
    int call;
};

static void flush(struct gen *g, struct gather *now)
{
    const struct piece p = {now->kind, now->call, g->piece.p, g->piece.n};
    if (!now->some)
        return;
    now->some = false;
    g->piece.n = 0;
    if (!g->conn)
        return;
    open_stream(g);
    const bool kept =
        p.kind == PIECE_CALL || p.kind == PIECE_ARGUMENTS || !g->stream || g->api->keeps;
    if (kept && !keep(now->choice, &p)) {
        fail(g, &(struct fault){.status = 503, .text = "out of memory"});
        return;
    }
    if (g->stream)
        g->api->part(g, now->choice, &p);
}

static void gather_piece(struct gen *g, struct gather *now, const struct event_head *h,
                         const char *data)
{
    struct choice *c = &g->choice[h->choice];
    const enum piece_kind kind = (enum piece_kind)h->piece;
    if (now->some &&
        (now->choice != c || now->kind != kind || now->call != h->call || kind == PIECE_CALL))
        flush(g, now);
    *now = (struct gather){true, c, kind, h->call};
    if (!bytes_add(&g->piece, data, h->n))
        fail(g, &(struct fault){.status = 503, .text = "out of memory"});
}

/* The bytes of a token: not known of one that begins inside of a character. */
static json_t *bytes_json(const char *text, size_t n, const struct pg_detok *d)
{
    if (memmem(text, n, "\xEF\xBF\xBD", 3))
        return json_null();
    json_t *bytes = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(bytes, json_integer((unsigned char)text[i]));
    for (int i = 0; i < d->n_held; i++)
        json_array_append_new(bytes, json_integer(d->held[i]));
    return bytes;
}

static json_t *token_json(const struct server *s, int32_t id, float logprob)
{
    char text[2 * PG_PIECE_MAX + 16];
    struct pg_detok d = {.vocab = s->vocab, .not_first = true};
    size_t n = pg_detokenize(&d, id, text);
    json_t *bytes = bytes_json(text, n, &d);
    n += pg_detokenize(&d, -1, text + n);
    return json_pack("{s:i, s:s%, s:f, s:o}", "id", (int)id, "token", text, n, "logprob",
                     isfinite(logprob) ? (double)logprob : -9999.0, "bytes", bytes);
}

static void add_token(struct gen *g, struct choice *c, const char *data)
{
    struct event_token t;
    memcpy(&t, data, sizeof(t));
    const char *ids = data + sizeof(t), *logs = ids + (size_t)t.n_top * sizeof(int32_t);
    const size_t cost = (size_t)(1 + t.n_top) * LIMIT_LOGPROB_BYTES;
    if (!ledger_take(&g->server->ledger, cost)) {
        fail(g, &(struct fault){.status = 503, .text = "there is no memory for more logprobs"});
        return;
    }
    c->logprobs_bytes += cost;
    json_t *o = token_json(g->server, t.id, t.logprob), *top = json_array();
    for (int i = 0; i < t.n_top; i++) {
        int32_t id;
        float logprob;
        memcpy(&id, ids + (size_t)i * sizeof(id), sizeof(id));
        memcpy(&logprob, logs + (size_t)i * sizeof(logprob), sizeof(logprob));
        json_array_append_new(top, token_json(g->server, id, logprob));
    }
    json_object_set_new(o, "top_logprobs", top);
    if (!c->logprobs)
        c->logprobs = json_array();
    json_array_append_new(c->logprobs, o);
}

static void over_fault(struct gen *g, const struct choice *c)
{
    struct fault f = {0};
    struct pg_err err = c->report.err;
    if (c->report.stop == PG_STOP_CANCELLED)
        err.code = PG_ECANCELLED;
    if (c->report.stop == PG_STOP_CANCELLED || c->report.stop == PG_STOP_ERROR)
        fault_of(&f, &err);
    else if (c->overflow)
        fault_set(&f, 503, NULL, "the answer is not read, or is more than is kept of one");
    else
        return;
    g->server->n_slow += c->overflow;
    fail(g, &f);
}

static void account(struct gen *g)
{
    struct server *s = g->server;
    const struct pg_request_report *r = &g->choice[0].report;
    const double second = 1e-9;
    const uint64_t now = server_now_ns();
    for (int i = 0; i < g->n_submitted; i++) {
        s->prompt_seconds += g->choice[i].report.prompt_seconds;
        s->decode_seconds += g->choice[i].report.decode_seconds;
    }
    s->n_e2e++;
    s->e2e_seconds += (double)(now - g->start_ns) * second;
    s->n_ttft++;
    s->ttft_seconds += r->queue_seconds + r->prompt_seconds;
    if (!g->conn)
        return;
    g->conn->work.n_prompt = r->n_prompt;
    g->conn->work.n_reused = r->n_reused;
    g->conn->work.n_predicted = gen_n_predicted(g);
    g->conn->work.queue_ms = 1e3 * r->queue_seconds;
    g->conn->work.prompt_ms = 1e3 * r->prompt_seconds;
    g->conn->work.decode_ms = 1e3 * r->decode_seconds;
}

static void choice_over(struct gen *g, struct choice *c)
{
    c->over = true;
    g->n_over++;
    const bool all = g->n_over == g->n_submitted;
    if (all)
        account(g);
    over_fault(g, c);
    if (g->failed || !g->conn)
        return;
    open_stream(g);
    if (g->stream && g->api->choice_over)
        g->api->choice_over(g, c);
    if (!all)
        return;
    struct conn *conn = g->conn;
    g->ended = true;
    g->api->end(g);
    if (g->stream)
        conn_finish(conn);
    g->conn = NULL;
}

static void on_progress(struct gen *g, const char *data)
{
    struct event_progress at;
    memcpy(&at, data, sizeof(at));
    if (!g->conn || !g->stream || !g->api->progress)
        return;
    open_stream(g);
    g->api->progress(g, at.done, at.total);
}

static void handle(struct gen *g, struct gather *now, const struct event_head *h, const char *data)
{
    switch ((enum event_kind)h->event) {
    case EVENT_PIECE:
        gather_piece(g, now, h, data);
        break;
    case EVENT_TOKEN:
        if (g->stream && g->choice[h->choice].logprobs_bytes >= LIMIT_LOGPROBS_PART)
            flush(g, now); /* its part takes them along */
        add_token(g, &g->choice[h->choice], data);
        break;
    case EVENT_PROGRESS:
        on_progress(g, data);
        break;
    }
}

static unsigned take_queue(struct gen *g)
{
    const struct bytes empty = g->taken;
    pthread_mutex_lock(&g->server->mutex);
    if (g->woken) { /* it need not come again for what is taken now */
        struct gen **at = &g->server->woken;
        while (*at != g)
            at = &(*at)->next_woken;
        *at = g->next_woken;
        g->woken = false;
    }
    g->taken = g->queue;
    g->queue = empty;
    const unsigned over = g->over;
    g->over = 0;
    pthread_mutex_unlock(&g->server->mutex);
    return over;
}

void gen_pump(struct gen *g)
{
    struct conn *c = g->conn;
    struct gather now = {0};
    if (c && g->stream && conn_is_full(c))
        return; /* on_room comes when the reader has caught up */
    const unsigned over = take_queue(g);
    for (size_t at = 0; at + sizeof(struct event_head) <= g->taken.n;) {
        struct event_head head;
        memcpy(&head, g->taken.p + at, sizeof(head));
        handle(g, &now, &head, g->taken.p + at + sizeof(head));
        at += sizeof(head) + head.n;
    }
    flush(g, &now);
    for (int i = 0; i < g->n_submitted; i++)
        if (over & 1u << i)
            choice_over(g, &g->choice[i]);
    g->taken.n = 0;
    if (c)
        conn_run(c);
    if (g->n_over == g->n_submitted && !g->conn) {
        unlink_gen(g);
        gen_close(g);
    }
}

void gen_tick(struct gen *g, uint64_t now_ns)
{
    const uint64_t second = 1000000000;
    struct conn *c = g->conn;
    if (!c || !g->stream)
        return;
    if (!g->opened && now_ns - g->start_ns > second)
        open_stream(g);
    else if (g->opened && g->api->ping && now_ns - c->sent_ns > LIMIT_PING_SECONDS * second)
        conn_send(c, g->api->ping, strlen(g->api->ping));
    else
        return;
    conn_run(c);
}

/* ---------------------------------------------------------------- for interfaces ------------ */

const char *gen_finish_reason(const struct choice *c)
{
    if (c->report.stop == PG_STOP_LENGTH || c->report.stop == PG_STOP_CONTEXT)
        return "length";
    return c->n_calls && !c->stopped ? "tool_calls" : "stop";
}

static int sum_of_prompts(const struct gen *g, bool reused)
{
    int n = 0;
    for (int i = 0; i < g->n_submitted; i += g->n_choices)
        n += reused ? g->choice[i].report.n_reused : g->choice[i].report.n_prompt;
    return n;
}

int gen_n_prompt(const struct gen *g)
{
    return sum_of_prompts(g, false);
}

int gen_n_reused(const struct gen *g)
{
    return sum_of_prompts(g, true);
}

int gen_n_reused_now(const struct gen *g)
{
    struct pg_request_state all[256];
    const int n = pg_scheduler_requests(g->server->scheduler, all, 256);
    for (int i = 0; i < n && i < 256; i++)
        if (all[i].id == g->choice[0].id)
            return all[i].n_reused;
    return 0;
}

int gen_n_predicted(const struct gen *g)
{
    int n = 0;
    for (int i = 0; i < g->n_submitted; i++)
        n += g->choice[i].report.n_predicted;
    return n;
}

static void put_rate(json_t *o, const char *name, int n, double seconds)
{
    char key[48];
    const double rate = seconds > 0 ? n / seconds : 0;
    snprintf(key, sizeof(key), "%s_n", name);
    json_object_set_new(o, key, json_integer(n));
    snprintf(key, sizeof(key), "%s_ms", name);
    json_object_set_new(o, key, json_real(1e3 * seconds));
    snprintf(key, sizeof(key), "%s_per_token_ms", name);
    json_object_set_new(o, key, json_real(n > 0 ? 1e3 * seconds / n : 0));
    snprintf(key, sizeof(key), "%s_per_second", name);
    json_object_set_new(o, key, json_real(rate));
}

json_t *gen_timings(const struct gen *g)
{
    const struct pg_request_report *r = &g->choice[0].report;
    json_t *o = json_object();
    json_object_set_new(o, "cache_n", json_integer(r->n_reused));
    put_rate(o, "prompt", r->n_prompt - r->n_reused, r->prompt_seconds);
    put_rate(o, "predicted", r->n_predicted, r->decode_seconds);
    return o;
}

json_t *gen_timings_now(const struct gen *g)
{
    const int n = atomic_load(&g->choice[0].n_put);
    json_t *o = json_object();
    put_rate(o, "predicted", n, (double)(server_now_ns() - g->first_ns) * 1e-9);
    return o;
}

json_t *gen_take_tokens(struct choice *c)
{
    json_t *list = c->logprobs;
    c->logprobs = NULL;
    if (c->gen->stream) { /* an event is sent and freed; an answer that is whole ends the request */
        ledger_give(&c->gen->server->ledger, c->logprobs_bytes);
        c->logprobs_bytes = 0;
    }
    return list ? list : json_array();
}

json_t *gen_take_logprobs(struct choice *c)
{
    if (c->gen->n_logprobs < 0)
        return json_null();
    return json_pack("{soso}", "content", gen_take_tokens(c), "refusal", json_null());
}

json_t *gen_text(const struct bytes *b)
{
    return json_stringn(b->p ? b->p : "", b->n);
}
