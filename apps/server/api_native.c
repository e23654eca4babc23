/* SPDX-License-Identifier: MIT
 * The paths that llama-server has beside OpenAI's.
 */
#include "chat_in.h"
#include "openai.h"
#include "route.h"
#include "server.h"
#include "spec.h"
#include "sse.h"

#include <stdlib.h>
#include <string.h>

/* ---------------------------------------------------------------- health, props, slots ------ */

void native_health(struct conn *c)
{
    static const char *const why[] = {[PHASE_LOADING] = "Loading model",
                                      [PHASE_DRAINING] = "the server is shutting down",
                                      [PHASE_OVER] = "the server is shutting down"};
    const enum phase phase = c->server->phase;
    if (phase == PHASE_READY) {
        reply_json(c, 200, json_pack("{s:s}", "status", "ok"));
        return;
    }
    conn_header(c, "Retry-After", "2");
    reply_json(c, 503,
               json_pack("{s:{s:i, s:s, s:s, s:n}}", "error", "code", 503, "message", why[phase],
                         "type", "unavailable_error", "param"));
}

void native_props(struct conn *c)
{
    const struct server *s = c->server;
    struct pg_scheduler_state state;
    pg_scheduler_state(s->scheduler, &state);
    json_t *o = json_pack("{s:{s:i}, s:i, s:s, s:s, s:s, s:s, s:b}", "default_generation_settings",
                          "n_ctx", s->n_ctx, "total_slots", state.n_parallel, "model_path",
                          s->model_id, "model_alias", s->model_id, "chat_template",
                          s->chat ? pg_chat_source(s->chat) : "", "build_info",
                          "pregate " PG_VERSION, "is_sleeping", 0);
    reply_json(c, 200, o);
}

/* The value of ?name=… in the query; plain letters alone. */
static bool query_is(const struct conn *c, const char *pair)
{
    struct http_text q = c->head.query;
    const size_t n = strlen(pair);
    while (q.n >= n) {
        const char *end = memchr(q.p, '&', q.n);
        const size_t len = end ? (size_t)(end - q.p) : q.n;
        if (len == n && !memcmp(q.p, pair, n))
            return true;
        if (!end)
            return false;
        q.p += len + 1;
        q.n -= len + 1;
    }
    return false;
}

void native_slots(struct conn *c)
{
    enum { MOST = 256 };
    struct pg_request_state all[MOST];
    struct pg_scheduler_state state;
    struct server *s = c->server;
    pg_scheduler_state(s->scheduler, &state);
    if (query_is(c, "fail_on_no_slot=1") && state.n_running >= state.n_parallel) {
        reply_error(c, 503, "no slot is free");
        return;
    }
    const int n = pg_scheduler_requests(s->scheduler, all, MOST);
    json_t *list = json_array();
    for (int i = 0; i < n && i < MOST; i++)
        json_array_append_new(list,
                              json_pack("{s:i, s:I, s:b, s:b, s:i, s:i, s:i, s:i, s:i, s:f}", "id",
                                        i, "id_task", (json_int_t)all[i].id, "is_processing",
                                        !all[i].waits, "is_waiting", all[i].waits, "n_ctx",
                                        s->n_ctx, "n_prompt", all[i].n_prompt, "n_prompt_done",
                                        all[i].n_done, "n_reused", all[i].n_reused, "n_decoded",
                                        all[i].n_predicted, "seconds", all[i].seconds));
    for (int i = n; i < state.n_parallel; i++)
        json_array_append_new(
            list, json_pack("{s:i, s:i, s:b}", "id", i, "n_ctx", s->n_ctx, "is_processing", 0));
    reply_json(c, 200, list);
}

/* ---------------------------------------------------------------- text ---------------------- */

static json_t *piece_json(const pg_vocab *v, int32_t id)
{
    char text[2 * PG_PIECE_MAX + 16];
    struct pg_detok d = {.vocab = v, .not_first = true};
    size_t n = pg_detokenize(&d, id, text);
    n += pg_detokenize(&d, -1, text + n);
    return json_pack("{s:i, s:s%}", "id", id, "piece", text, n);
}

static void reply_ids(struct conn *c, const struct pg_ids *ids, bool pieces, struct fault *f)
{
    struct ledger *l = &c->server->ledger;
    const size_t weight = ids->n * (pieces ? 4 * LIMIT_JSON_VALUE : LIMIT_JSON_VALUE);
    if (!ledger_take(l, weight)) {
        fault_set(f, weight > l->total ? 413 : 503, "content",
                  "content: there is no memory to list its %zu tokens", ids->n);
        return;
    }
    json_t *list = json_array();
    for (size_t i = 0; i < ids->n; i++)
        json_array_append_new(list, pieces ? piece_json(c->server->vocab, ids->id[i])
                                           : json_integer(ids->id[i]));
    reply_json(c, 200, json_pack("{s:o}", "tokens", list));
    ledger_give(l, weight);
}

static void tokenize_body(struct conn *c, const struct in *in)
{
    bool special = false, parse = true, pieces = false;
    struct pg_err err = {0};
    const json_t *content = in_get(in, "content");
    in_bool(in, "add_special", &special);
    in_bool(in, "parse_special", &parse);
    in_bool(in, "with_pieces", &pieces);
    if (!json_is_string(content))
        in_wrong(in, "content", "a string is wanted");
    if (in->fault->status)
        return;
    const size_t n = json_string_length(content);
    const unsigned flags = (special ? PG_TOKENIZE_BOS : 0) | (parse ? PG_TOKENIZE_SPECIAL : 0);
    struct pg_ids ids = {.cap = n + 16};
    int rc;
    do {
        free(ids.id);
        ids.id = calloc(ids.cap, sizeof(*ids.id));
        rc = ids.id
                 ? pg_tokenize(c->server->vocab, json_string_value(content), n, flags, &ids, &err)
                 : PG_ENOMEM;
    } while (rc == PG_EARG && ids.n > ids.cap && (ids.cap = ids.n));
    if (rc) {
        err.code = rc;
        fault_of(in->fault, &err);
    } else {
        reply_ids(c, &ids, pieces, in->fault);
    }
    free(ids.id);
}

static void detokenize_body(struct conn *c, const struct in *in)
{
    struct bytes all = {0};
    struct pg_detok d = {.vocab = c->server->vocab, .not_first = true};
    const json_t *list = in_array(in, "tokens", LIMIT_BODY);
    if (!list)
        in_wrong(in, "tokens", "a list of tokens is wanted");
    for (size_t i = 0; i <= json_array_size(list) && !in->fault->status; i++) {
        const json_t *j = json_array_get(list, i);
        const json_int_t id = j ? json_integer_value(j) : -1;
        if (j && (!json_is_integer(j) || id < 0 || id >= pg_vocab_n(c->server->vocab)))
            in_wrong(in, "tokens", "item %zu is no token", i);
        else if (!bytes_room(&all, PG_PIECE_MAX))
            fault_set(in->fault, 503, NULL, "out of memory");
        else
            all.n += pg_detokenize(&d, (int32_t)id, all.p + all.n);
    }
    if (!in->fault->status)
        reply_json(c, 200, json_pack("{s:o}", "content", gen_text(&all)));
    bytes_fini(&all);
}

static void template_body(struct conn *c, const struct in *in)
{
    struct chat_in chat = {0};
    struct gen *g = gen_open(c, NULL);
    if (!g) {
        fault_set(in->fault, 503, NULL, "out of memory");
        return;
    }
    chat_in_read(&chat, g, in);
    char *text = in->fault->status ? NULL : chat_in_text(&chat, g, in->fault);
    if (!in->fault->status)
        reply_json(c, 200, json_pack("{s:s}", "prompt", text));
    free(text);
    gen_close(g);
    chat_in_fini(&chat);
}

static void with_body(struct conn *c, void (*act)(struct conn *c, const struct in *in))
{
    struct fault f = {0};
    json_t *body = json_body(c, &f);
    if (body)
        act(c, &(struct in){body, &f, NULL});
    if (f.status)
        fault_reply(c, &f);
    json_decref(body);
}

void native_tokenize(struct conn *c)
{
    with_body(c, tokenize_body);
}

void native_detokenize(struct conn *c)
{
    with_body(c, detokenize_body);
}

void native_apply_template(struct conn *c)
{
    with_body(c, template_body);
}

/* ---------------------------------------------------------------- completion ---------------- */

static void native_open(struct gen *g)
{
    conn_stream(g->conn, SSE_TYPE);
}

static void native_part(struct gen *g, struct choice *c, const struct piece *p)
{
    json_t *j =
        json_pack("{s:i, s:s%, s:b}", "index", c->index, "content", p->text, p->n, "stop", 0);
    if (g->n_logprobs >= 0)
        json_object_set_new(j, "completion_probabilities", gen_take_tokens(c));
    if (g->timings_per_token)
        json_object_set_new(j, "timings", gen_timings_now(g));
    sse_send(g->conn, NULL, j);
}

static void native_progress(struct gen *g, int done, int total)
{
    sse_send(g->conn, NULL,
             json_pack("{s:i, s:s, s:b, s:o}", "index", 0, "content", "", "stop", 0,
                       "prompt_progress", openai_progress(g, done, total)));
}

static void native_end(struct gen *g)
{
    struct choice *c = &g->choice[0];
    const struct pg_request_report *r = &c->report;
    const bool limit = r->stop == PG_STOP_LENGTH || r->stop == PG_STOP_CONTEXT;
    json_t *j =
        json_pack("{s:i, s:o, s:b, s:s, s:s, s:s, s:i, s:i, s:b, s:o}", "index", 0, "content",
                  g->stream ? json_string("") : gen_text(&c->text), "stop", 1, "stop_type",
                  c->stopped ? "word"
                  : limit    ? "limit"
                             : "eos",
                  "stopping_word", c->stopped ? c->stopped : "", "model", g->server->model_id,
                  "tokens_predicted", r->n_predicted, "tokens_evaluated", r->n_prompt, "truncated",
                  0, "timings", gen_timings(g));
    json_object_set_new(j, "tokens_cached", json_integer(r->n_reused));
    json_object_set_new(j, "generation_settings",
                        json_pack("{s:I, s:f, s:i, s:f, s:f}", "seed", (json_int_t)g->how.seed,
                                  "temperature", (double)g->how.temp, "top_k", g->how.top_k,
                                  "top_p", (double)g->how.top_p, "min_p", (double)g->how.min_p));
    if (g->n_logprobs >= 0)
        json_object_set_new(j, "completion_probabilities", gen_take_tokens(c));
    if (g->stream)
        sse_send(g->conn, NULL, j);
    else
        reply_json(g->conn, 200, j);
}

static const struct gen_api native_api = {.open = native_open,
                                          .part = native_part,
                                          .progress = native_progress,
                                          .end = native_end,
                                          .error = openai_error,
                                          .ping = ": ping\n\n"};

static void read_completion(struct gen *g, const struct in *in)
{
    static const char *const most[] = {"max_tokens", "n_predict", NULL};
    static const char *const refused[] = {"post_sampling_probs", "return_tokens", NULL};
    const json_t *prompt = in_get(in, "prompt");
    int n_probs = 0;
    spec_defaults_native(g);
    spec_sampling(g, in);
    spec_stops(g, in, "stop", LIMIT_STOPS);
    spec_stream(g, in);
    spec_grammar(g, in);
    if (g->n_choices != 1)
        in_wrong(in, "n", "one answer is given here; /v1/completions gives more");
    in_refuse(in, refused);
    spec_most(g, in, most);
    in_int32(in, "n_probs", 0, LIMIT_TOP_LOGPROBS, &n_probs);
    g->n_logprobs = n_probs ? n_probs : -1;
    if (json_is_string(prompt))
        spec_prompt_text(g, json_string_value(prompt), json_string_length(prompt), in->fault);
    else if (json_is_array(prompt))
        spec_prompt_ids(g, in, "prompt", prompt);
    else
        in_wrong(in, "prompt", "a text or a list of tokens is wanted");
}

static void completion_body(struct conn *c, const struct in *in)
{
    struct gen *g = openai_gen(c, &native_api, "", in->fault);
    if (!g)
        return;
    read_completion(g, in);
    gen_submit(g, in->fault);
}

void native_completion(struct conn *c)
{
    with_body(c, completion_body);
}
