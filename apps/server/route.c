/* SPDX-License-Identifier: MIT */
#include "route.h"
#include "server.h"

#include <string.h>

// clang-format off
static const struct route routes[] = {
{HTTP_GET, "/", ROUTE_PUBLIC, STYLE_OPENAI, page_get},
{HTTP_GET, "/page/", ROUTE_PUBLIC | ROUTE_REST, STYLE_OPENAI, page_get},
{HTTP_GET, "/health", ROUTE_PUBLIC | ROUTE_PROBE, STYLE_OPENAI, native_health},
{HTTP_GET, "/v1/health", ROUTE_PUBLIC | ROUTE_PROBE, STYLE_OPENAI, native_health},
{HTTP_GET, "/metrics", ROUTE_PROBE, STYLE_OPENAI, metrics_get},
{HTTP_GET, "/props", 0, STYLE_OPENAI, native_props},
{HTTP_GET, "/slots", ROUTE_PROBE, STYLE_OPENAI, native_slots},
{HTTP_GET, "/experts", ROUTE_PROBE, STYLE_OPENAI, experts_get},
{HTTP_GET, "/experts/stream", 0, STYLE_OPENAI, experts_stream},
{HTTP_GET, "/models", 0, STYLE_OPENAI, openai_models},
{HTTP_GET, "/v1/models", 0, STYLE_OPENAI, openai_models},
{HTTP_GET, "/v1/models/", ROUTE_REST, STYLE_OPENAI, openai_model},
{HTTP_POST, "/tokenize", 0, STYLE_OPENAI, native_tokenize},
{HTTP_POST, "/detokenize", 0, STYLE_OPENAI, native_detokenize},
{HTTP_POST, "/apply-template", 0, STYLE_OPENAI, native_apply_template},
{HTTP_POST, "/completion", ROUTE_WORKS, STYLE_OPENAI, native_completion},
{HTTP_POST, "/completions", ROUTE_WORKS, STYLE_OPENAI, native_completion},
{HTTP_POST, "/v1/completions", ROUTE_WORKS, STYLE_OPENAI, openai_completions},
{HTTP_POST, "/chat/completions", ROUTE_WORKS, STYLE_OPENAI, openai_chat},
{HTTP_POST, "/v1/chat/completions", ROUTE_WORKS, STYLE_OPENAI, openai_chat},
{HTTP_POST, "/v1/responses", ROUTE_WORKS, STYLE_OPENAI, openai_responses},
{HTTP_POST, "/v1/messages", ROUTE_WORKS, STYLE_ANTHROPIC, anthropic_messages},
{HTTP_POST, "/v1/messages/count_tokens", 0, STYLE_ANTHROPIC, anthropic_count},
{HTTP_POST, "/api/chat", ROUTE_WORKS, STYLE_OLLAMA, ollama_chat},
{HTTP_POST, "/api/generate", ROUTE_WORKS, STYLE_OLLAMA, ollama_generate},
{HTTP_POST, "/api/show", 0, STYLE_OLLAMA, ollama_show},
{HTTP_GET, "/api/tags", 0, STYLE_OLLAMA, ollama_tags},
{HTTP_GET, "/api/ps", 0, STYLE_OLLAMA, ollama_ps},
{HTTP_GET, "/api/version", 0, STYLE_OLLAMA, ollama_version},
{HTTP_POST, "/v1/embeddings", 0, STYLE_OPENAI, openai_embeddings},
};
// clang-format on

#define N_ROUTES (sizeof(routes) / sizeof(routes[0]))

/* A name behind a route: not empty, and no further folder. */
static bool rest_is_good(struct http_text rest)
{
    return rest.n > 0 && !memchr(rest.p, '/', rest.n) && !memmem(rest.p, rest.n, "..", 2);
}

static bool path_matches(const struct route *r, struct http_text path, struct http_text *rest)
{
    const size_t n = strlen(r->path);
    if (!(r->flags & ROUTE_REST))
        return http_text_is(path, r->path);
    if (path.n <= n || memcmp(path.p, r->path, n))
        return false;
    *rest = (struct http_text){path.p + n, path.n - n};
    return rest_is_good(*rest);
}

/* Sets the route and whether the path is one of any method, and lists those methods. */
static bool find(struct conn *c, char allow[64])
{
    const enum http_method wanted = c->head.method == HTTP_HEAD ? HTTP_GET : c->head.method;
    bool known = false;
    allow[0] = '\0';
    for (size_t i = 0; i < N_ROUTES; i++) {
        const struct route *r = &routes[i];
        struct http_text rest = {0};
        if (!path_matches(r, c->head.path, &rest))
            continue;
        known = true;
        strcat(allow, r->method == HTTP_GET ? "GET, HEAD, OPTIONS" : "POST, OPTIONS");
        if (r->method == wanted || c->head.method == HTTP_OPTIONS) {
            c->route = r;
            c->path_rest = rest;
        }
        break;
    }
    return known;
}

/* Names that lead elsewhere on servers that tidy paths. */
static bool path_is_good(struct http_text p)
{
    return !memmem(p.p, p.n, "..", 2) && !memmem(p.p, p.n, "//", 2) && !memmem(p.p, p.n, "%00", 3);
}

static bool admit_page(struct conn *c)
{
    const struct guard *g = &c->server->guard;
    const struct http_text host = http_header_find(&c->head, "Host");
    const struct http_text origin = http_header_find(&c->head, "Origin");
    if (!guard_host(g, host) && (host.p || c->head.minor)) {
        reply_error(c, 403,
                    "the Host header names somebody else: an address, localhost or one of "
                    "--names is wanted");
        return false;
    }
    if (guard_origin(g, origin)) {
        c->origin = origin;
    } else if (origin.p && !guard_same_origin(origin, host)) {
        reply_error(c, 403, "pages of this origin may not ask: it is not one of --cors-origins");
        return false;
    }
    return true;
}

static bool admit_key(struct conn *c)
{
    const struct guard *g = &c->server->guard;
    const struct http_text authorization = http_header_find(&c->head, "Authorization");
    const struct http_text key = http_header_find(&c->head, "X-Api-Key");
    if (!g->wants_key || (c->route && c->route->flags & ROUTE_PUBLIC) ||
        c->head.method == HTTP_OPTIONS || guard_key(g, authorization, key))
        return true;
    struct fault f = {.code = "invalid_api_key"};
    fault_set(&f, 401, NULL, "a key is wanted: Authorization: Bearer KEY");
    conn_header(c, "WWW-Authenticate", "Bearer");
    fault_reply(c, &f);
    return false;
}

/* What a browser asks before a page may. */
static void preflight(struct conn *c, const char *allow)
{
    const struct http_text asked = http_header_find(&c->head, "Access-Control-Request-Headers");
    conn_header(c, "Allow", "%s", allow);
    if (c->origin.p) {
        conn_header(c, "Access-Control-Allow-Methods", "%s", allow);
        conn_header(c, "Access-Control-Allow-Headers", "%.*s", asked.n < 200 ? (int)asked.n : 0,
                    asked.p ? asked.p : "");
        conn_header(c, "Access-Control-Max-Age", "600");
    }
    conn_reply(c, 204, NULL, NULL, 0);
}

static bool admit_phase(struct conn *c)
{
    const enum phase phase = c->server->phase;
    if (c->route->flags & ROUTE_PUBLIC || phase == PHASE_READY)
        return true;
    if (phase == PHASE_LOADING) {
        reply_error(c, 503, "Loading model");
        return false;
    }
    if (c->route->flags & ROUTE_WORKS) {
        reply_error(c, 503, "the server is shutting down");
        return false;
    }
    return true;
}

bool route_admit(struct conn *c)
{
    char allow[64];
    const bool known = path_is_good(c->head.path) && find(c, allow);
    if (!admit_page(c) || !admit_key(c))
        return false;
    if (!known) {
        reply_error(c, 404, "there is no such path");
        return false;
    }
    if (c->head.method == HTTP_OPTIONS) {
        preflight(c, allow);
        return false;
    }
    if (!c->route) {
        conn_header(c, "Allow", "%s", allow);
        reply_error(c, 405, "this path takes %s", allow);
        return false;
    }
    return admit_phase(c);
}

void route_call(struct conn *c)
{
    c->route->handler(c);
}
