/* SPDX-License-Identifier: MIT
 * The reply to a request for a streamed completion: HTTP, events in it, and chunks of a completion
 * in those, as OpenAI's interface has them for chat and for plain text.
 */
#include "load_wire.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FNV_BASIS 0xCBF29CE484222325u
#define FNV_PRIME 0x100000001B3u

enum { REST_MAX = 4096, COUNT_MAX = 1 << 30 };

/* The first thing that went wrong is the cause. Text of the server may be anything: one line of it,
 * without control characters. */
static int fail(struct load_reply *r, enum load_cause cause, const char *said, size_t n)
{
    if (r->cause != LOAD_GOING)
        return -1;
    r->cause = cause;
    if (n > sizeof(r->said) - 1)
        n = sizeof(r->said) - 1;
    for (size_t i = 0; i < n; i++)
        r->said[i] = (unsigned char)said[i] < 0x20 || said[i] == 0x7F ? ' ' : said[i];
    r->said[n] = '\0';
    return -1;
}

static int fail_with(struct load_reply *r, enum load_cause cause, const char *said)
{
    return fail(r, cause, said, strlen(said));
}

/* ---------------------------------------------------------------- chunks -------------------- */

static bool count_of(const json_t *usage, const char *name, int64_t *out)
{
    const json_t *v = json_object_get(usage, name);
    if (!v || json_is_null(v))
        return true;
    if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) > COUNT_MAX)
        return false;
    *out = json_integer_value(v);
    return true;
}

static bool read_usage(struct load_reply *r, const json_t *usage)
{
    if (!usage || json_is_null(usage))
        return true;
    return json_is_object(usage) && count_of(usage, "completion_tokens", &r->n_tokens) &&
           count_of(usage, "prompt_tokens", &r->n_prompt) &&
           count_of(json_object_get(usage, "prompt_tokens_details"), "cached_tokens", &r->n_cached);
}

/* Whether there is text at this key; it goes into the hash. */
static bool take_text(struct load_reply *r, const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    const char *text = json_string_value(v);
    const size_t n = json_string_length(v);
    for (size_t i = 0; i < n; i++)
        r->text_hash = (r->text_hash ^ (unsigned char)text[i]) * FNV_PRIME;
    r->text_bytes += n;
    return n > 0;
}

static bool take_choice(struct load_reply *r, const json_t *choice)
{
    const json_t *delta = json_object_get(choice, "delta");
    const char *finish = json_string_value(json_object_get(choice, "finish_reason"));
    bool any = take_text(r, choice, "text");
    any |= take_text(r, delta, "reasoning_content");
    any |= take_text(r, delta, "reasoning");
    any |= take_text(r, delta, "content");
    any |= json_array_size(json_object_get(delta, "tool_calls")) > 0;
    if (finish)
        snprintf(r->finish, sizeof(r->finish), "%s", finish);
    return any;
}

static int take_error(struct load_reply *r, const json_t *error)
{
    const json_t *message = json_is_string(error) ? error : json_object_get(error, "message");
    if (!json_is_string(message))
        return fail_with(r, LOAD_SAID_ERROR, "an error without a message");
    return fail(r, LOAD_SAID_ERROR, json_string_value(message), json_string_length(message));
}

static int take_chunk(struct load_reply *r, const json_t *chunk)
{
    const json_t *error = json_object_get(chunk, "error"), *usage = json_object_get(chunk, "usage"),
                 *choices = json_object_get(chunk, "choices"), *choice;
    size_t i;
    bool any = false;
    if (error && !json_is_null(error))
        return take_error(r, error);
    if (!json_is_array(choices) && !json_is_object(usage))
        return fail_with(r, LOAD_SSE, "an event that is no chunk of a completion");
    if (!read_usage(r, usage))
        return fail_with(r, LOAD_SSE, "usage that is no count of tokens");
    json_array_foreach(choices, i, choice)
    {
        any |= take_choice(r, choice);
    }
    if (any && ++r->n_pieces > LOAD_CHUNKS_MAX)
        return fail_with(r, LOAD_SSE, "more than a million pieces of text");
    if (any && r->piece)
        r->piece(r->user);
    return 0;
}

static int on_event(void *user, const char *data, size_t n)
{
    struct load_reply *r = user;
    if (r->is_done) /* nobody asked for more */
        return 0;
    if (n == 6 && !memcmp(data, "[DONE]", 6)) {
        r->is_done = true;
        return 0;
    }
    json_t *chunk = json_loadb(data, n, JSON_ALLOW_NUL, NULL);
    const int rc =
        chunk ? take_chunk(r, chunk) : fail_with(r, LOAD_SSE, "an event whose data is not JSON");
    json_decref(chunk);
    return rc;
}

/* ---------------------------------------------------------------- the whole ----------------- */

static void judge_rest(struct load_reply *r)
{
    json_t *o = json_loadb(r->rest ? r->rest : "", r->n_rest, 0, NULL);
    const json_t *error = json_object_get(o, "error");
    const json_t *message = json_is_string(error) ? error : json_object_get(error, "message");
    if (r->http.status == 200)
        fail_with(r, LOAD_SSE, "the reply is not a stream of events");
    else if (json_is_string(message))
        fail(r, LOAD_STATUS, json_string_value(message), json_string_length(message));
    else
        fail(r, LOAD_STATUS, r->rest ? r->rest : "", r->n_rest);
    json_decref(o);
}

/* A body that is no stream says what is wrong: its beginning is kept. */
static int keep_rest(struct load_reply *r, const char *bytes, size_t n)
{
    const size_t room = REST_MAX - r->n_rest, take = n < room ? n : room;
    if (!r->rest)
        r->rest = malloc(REST_MAX);
    if (!r->rest)
        return fail_with(r, LOAD_NOT_SENT, "out of memory");
    memcpy(r->rest + r->n_rest, bytes, take);
    r->n_rest += take;
    if (take == n)
        return 0;
    judge_rest(r);
    return -1;
}

static int on_body(void *user, const char *bytes, size_t n)
{
    struct load_reply *r = user;
    if (r->http.status != 200 || !r->http.is_stream)
        return keep_rest(r, bytes, n);
    if (load_sse_put(&r->sse, bytes, n) == 0)
        return 0;
    return fail_with(r, LOAD_SSE, r->sse.what ? r->sse.what : "an event that is no chunk");
}

/* The HTTP reply is whole. */
static void judge(struct load_reply *r)
{
    if (r->http.status != 200 || !r->http.is_stream)
        judge_rest(r);
    else if (r->is_done)
        r->cause = LOAD_DONE;
    else
        fail_with(r, LOAD_CUT, "the stream ended without [DONE]");
}

enum load_cause load_reply_put(struct load_reply *r, const char *bytes, size_t n)
{
    if (r->cause != LOAD_GOING)
        return r->cause;
    const size_t used = load_http_put(&r->http, bytes, n);
    const bool ended = r->http.at == LOAD_AT_END;
    r->closed = !ended || used < n || !r->http.keep;
    if (r->http.what)
        load_reply_give_up(r, LOAD_HTTP, r->http.what);
    else if (r->cause == LOAD_GOING && (ended || used < n))
        judge(r);
    return r->cause;
}

enum load_cause load_reply_close(struct load_reply *r)
{
    r->closed = true;
    if (r->cause == LOAD_GOING && load_http_close(&r->http))
        judge(r);
    return load_reply_give_up(r, LOAD_CUT, "the connection ended in the middle of the reply");
}

enum load_cause load_reply_give_up(struct load_reply *r, enum load_cause cause, const char *said)
{
    r->closed = true;
    if (r->cause == LOAD_GOING && r->is_done)
        r->cause = LOAD_DONE; /* only the end of the HTTP reply is missing */
    fail_with(r, cause, said);
    return r->cause;
}

void load_reply_init(struct load_reply *r, void (*piece)(void *user), void *user)
{
    *r = (struct load_reply){.piece = piece,
                             .user = user,
                             .cause = LOAD_GOING,
                             .n_tokens = -1,
                             .n_prompt = -1,
                             .n_cached = -1,
                             .text_hash = FNV_BASIS};
    r->http.body = on_body;
    r->http.user = r;
    r->sse.event = on_event;
    r->sse.user = r;
}

void load_reply_fini(struct load_reply *r)
{
    load_sse_fini(&r->sse);
    free(r->rest);
    r->rest = NULL;
    r->n_rest = 0;
}

/* ---------------------------------------------------------------- counters ------------------ */

static bool series_value(const char *at, const char *end, double *out)
{
    char number[64], *stop;
    while (at < end && (*at == ' ' || *at == '\t'))
        at++;
    size_t n = 0;
    while (at + n < end && at[n] != ' ' && at[n] != '\t' && at[n] != '\r')
        n++;
    if (n == 0 || n >= sizeof(number))
        return false;
    memcpy(number, at, n);
    number[n] = '\0';
    *out = strtod(number, &stop);
    return !*stop && *out - *out == 0;
}

/* Where the value of a line begins, if the line is of this name: after it, or after its labels. A
 * brace within a label's text does not end them. */
static const char *series_after(const char *line, const char *end, const char *name)
{
    const size_t n = strlen(name);
    bool quoted = false;
    if ((size_t)(end - line) <= n || memcmp(line, name, n))
        return NULL;
    const char *at = line + n;
    if (*at != '{')
        return *at == ' ' || *at == '\t' ? at : NULL;
    for (; at < end && (quoted || *at != '}'); at++)
        if (quoted && *at == '\\' && at + 1 < end)
            at++;
        else if (*at == '"')
            quoted = !quoted;
    return at < end ? at + 1 : NULL;
}

bool load_counter(const char *text, size_t n, const char *name, double *out)
{
    const char *end = text + n;
    bool any = false;
    *out = 0;
    for (const char *line = text; line < end;) {
        const char *stop = memchr(line, '\n', (size_t)(end - line));
        double v;
        stop = stop ? stop : end;
        const char *value = series_after(line, stop, name);
        if (value && !series_value(value, stop, &v))
            return false;
        if (value) {
            *out += v;
            any = true;
        }
        line = stop < end ? stop + 1 : end;
    }
    return any;
}
