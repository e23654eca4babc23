/* SPDX-License-Identifier: MIT */
#include "openai.h"
#include "route.h"
#include "server.h"
#include "sse.h"

#include <string.h>

struct gen *openai_gen(struct conn *c, const struct gen_api *api, const char *prefix,
                       struct fault *f)
{
    const struct http_text authorization = http_header_find(&c->head, "Authorization");
    const struct http_text key = http_header_find(&c->head, "X-Api-Key");
    struct gen *g = gen_open(c, api);
    if (!g) {
        fault_set(f, 503, NULL, "out of memory");
        return NULL;
    }
    server_id(g->id, sizeof(g->id), prefix);
    const int number = guard_key(&c->server->guard, authorization, key);
    if (number) /* without keys all are one, who may have the whole queue */
        snprintf(g->owner, sizeof(g->owner), "%d", number);
    return g;
}

json_t *openai_usage(const struct gen *g)
{
    const int n_prompt = gen_n_prompt(g), n_predicted = gen_n_predicted(g);
    return json_pack("{s:i, s:i, s:i, s:{s:i}}", "prompt_tokens", n_prompt, "completion_tokens",
                     n_predicted, "total_tokens", n_prompt + n_predicted, "prompt_tokens_details",
                     "cached_tokens", gen_n_reused(g));
}

json_t *openai_progress(const struct gen *g, int done, int total)
{
    return json_pack("{s:i, s:i, s:i, s:I}", "total", total, "cache", gen_n_reused_now(g),
                     "processed", done, "time_ms",
                     (json_int_t)((server_now_ns() - g->start_ns) / 1000000));
}

void openai_error(struct gen *g, const struct fault *f)
{
    sse_send(g->conn, NULL, fault_json(g->conn, f));
}

void openai_done(struct gen *g)
{
    conn_send(g->conn, "data: [DONE]\n\n", 14);
}

/* ---------------------------------------------------------------- models -------------------- */

static json_t *model_json(const struct server *s)
{
    const struct pg_model_info *m = &s->info;
    json_t *meta =
        json_pack("{s:i, s:i, s:i, s:I, s:I, s:i}", "n_vocab", m->n_vocab, "n_ctx_train",
                  m->n_ctx_train, "n_embd", m->n_embd, "n_params", (json_int_t)m->n_params, "size",
                  (json_int_t)m->file_bytes, "n_ctx", s->n_ctx);
    return json_pack("{s:s, s:s, s:I, s:s, s:o}", "id", s->model_id, "object", "model", "created",
                     (json_int_t)s->created, "owned_by", "pregate", "meta", meta);
}

void openai_models(struct conn *c)
{
    reply_json(c, 200, json_pack("{s:s, s:[o]}", "object", "list", "data", model_json(c->server)));
}

void openai_model(struct conn *c)
{
    if (http_text_is(c->path_rest, c->server->model_id))
        reply_json(c, 200, model_json(c->server));
    else
        reply_error(c, 404, "there is no such model; /v1/models names the one there is");
}

void openai_embeddings(struct conn *c)
{
    reply_error(c, 501, "this model writes text and has no embeddings to give");
}
