/* SPDX-License-Identifier: MIT */
#include "error.h"
#include "server.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Control characters would be harmless in JSON, but are not wanted in a client's log either. */
static void clean(char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < ' ' || *text == 0x7F)
            *text = ' ';
}

/* A text cut in the middle of a character is no JSON. */
static void cut_whole(char *text)
{
    size_t n = strlen(text), back = 0;
    while (back < 4 && back < n && ((unsigned char)text[n - 1 - back] & 0xC0) == 0x80)
        back++;
    const unsigned char lead = back < n ? (unsigned char)text[n - 1 - back] : 0;
    const size_t wanted = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC0 ? 2 : 1;
    if (lead >= 0x80 && wanted != back + 1)
        text[n - 1 - back] = '\0';
}

void fault_set(struct fault *f, int status, const char *param, const char *fmt, ...)
{
    va_list ap;
    if (f->status)
        return;
    f->status = status;
    snprintf(f->param, sizeof(f->param), "%s", param ? param : "");
    va_start(ap, fmt);
    vsnprintf(f->text, sizeof(f->text), fmt, ap);
    va_end(ap);
    clean(f->text);
    cut_whole(f->text);
    cut_whole(f->param);
}

void fault_of(struct fault *f, const struct pg_err *err)
{
    const char *text = err->text[0] ? err->text : pg_error_text(err->code);
    switch (err->code) {
    case PG_EBUSY:
        fault_set(f, 429, NULL, "%s", text);
        f->code = "queue_full";
        break;
    case PG_ECONTEXT:
        fault_set(f, 400, NULL, "%s", text);
        f->code = "context_length_exceeded";
        break;
    case PG_EARG:
    case PG_EFORMAT:
    case PG_ENOTSUP:
        fault_set(f, 400, NULL, "%s", text);
        break;
    case PG_EIO: /* its text has paths of this machine in it */
        server_log("error", "msg=\"%s\"", text);
        fault_set(f, 503, NULL, "a file of the model cannot be read; the server's log has more");
        break;
    case PG_ENOMEM:
        fault_set(f, 503, NULL, "%s", text);
        break;
    case PG_ECANCELLED:
        fault_set(f, 503, NULL, "the server is shutting down");
        f->code = "shutting_down";
        break;
    default:
        fault_set(f, 500, NULL, "%s", text);
    }
}

static const char *type_of(int status)
{
    switch (status) {
    case 401:
        return "authentication_error";
    case 403:
        return "permission_error";
    case 404:
        return "not_found_error";
    case 429:
    case 503:
        return "unavailable_error";
    case 500:
        return "server_error";
    case 501:
        return "not_supported_error";
    default:
        return "invalid_request_error";
    }
}

static const char *type_of_anthropic(int status)
{
    switch (status) {
    case 413:
        return "request_too_large";
    case 429:
        return "rate_limit_error";
    case 500:
        return "api_error";
    case 503:
        return "overloaded_error";
    default:
        return status == 501 ? "invalid_request_error" : type_of(status);
    }
}

json_t *fault_json(const struct conn *c, const struct fault *f)
{
    const enum route_style style = c->route ? c->route->style : STYLE_OPENAI;
    if (style == STYLE_OLLAMA)
        return json_pack("{ss}", "error", f->text);
    if (style == STYLE_ANTHROPIC)
        return json_pack("{sss{ssss}}", "type", "error", "error", "type",
                         type_of_anthropic(f->status), "message", f->text);
    return json_pack("{s{ssssss?ss?}}", "error", "message", f->text, "type", type_of(f->status),
                     "param", f->param[0] ? f->param : NULL, "code", f->code);
}

void reply_json(struct conn *c, int status, json_t *j)
{
    char *text = j ? json_dumps(j, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(j);
    if (text)
        conn_reply(c, status, "application/json", text, strlen(text));
    else
        conn_reply(c, 500, "application/json", "{}", 2);
    free(text);
}

void fault_reply(struct conn *c, const struct fault *f)
{
    if (f->status == 429)
        conn_header(c, "Retry-After", "1");
    if (f->status == 503)
        conn_header(c, "Retry-After", "2");
    reply_json(c, f->status, fault_json(c, f));
}

void reply_error(struct conn *c, int status, const char *fmt, ...)
{
    struct fault f = {0};
    char text[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    fault_set(&f, status, NULL, "%s", text);
    fault_reply(c, &f);
}
