/* SPDX-License-Identifier: MIT
 * Prompts out of a file, each as the whole request that is sent for it, so that nothing is made
 * while the clock runs.
 */
#include "load.h"

#include <stdlib.h>
#include <string.h>

enum { PROMPTS_MAX = 1 << 20 };

uint64_t load_random(uint64_t *state)
{
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* ---------------------------------------------------------------- one request --------------- */

static json_t *messages_of(const char *text, size_t n)
{
    json_t *content = json_stringn(text, n);
    return content ? json_pack("[{s:s, s:o}]", "role", "user", "content", content) : NULL;
}

/* Adds what all requests have. Takes `what`, the prompt or the messages. */
static json_t *body_of(const struct load_prompts_options *opt, json_t *what, int n_max)
{
    const struct cli_args *a = opt->args;
    json_t *o = json_object();
    json_object_set_new(o, "model", cli_json_text(opt->model, strlen(opt->model)));
    json_object_set_new(o, a->completions ? "prompt" : "messages", what);
    cli_put_size(o, "max_tokens", (uint64_t)n_max);
    if (cli_given(a, "temp"))
        cli_put_real(o, "temperature", a->temp);
    if (cli_given(a, "seed"))
        cli_put_size(o, "seed", a->seed & INT64_MAX);
    if (a->ignore_eos)
        json_object_set_new(o, "ignore_eos", json_true());
    json_object_set_new(o, "stream", json_true());
    json_object_set_new(o, "stream_options", json_pack("{s:b}", "include_usage", 1));
    return o;
}

/* Takes `what`. */
static int add_request(struct load_prompts *p, const struct load_prompts_options *opt, json_t *what,
                       int n_max)
{
    const struct load_target *t = opt->target;
    json_t *o = what ? body_of(opt, what, n_max) : NULL;
    char *body = o ? json_dumps(o, JSON_COMPACT) : NULL;
    struct load_request *r = &p->request[p->n];
    json_decref(o);
    if (!body)
        return PG_ENOMEM;
    const int n = asprintf(
        &r->bytes,
        "POST %s/v1/%s HTTP/1.1\r\nHost: %s\r\nUser-Agent: pregate/" PG_VERSION
        "\r\nContent-Type: application/json\r\nAccept: text/event-stream\r\n%s%s%sContent-Length: "
        "%zu\r\n\r\n%s",
        t->base, opt->args->completions ? "completions" : "chat/completions", t->authority,
        t->key[0] ? "Authorization: Bearer " : "", t->key, t->key[0] ? "\r\n" : "", strlen(body),
        body);
    free(body);
    if (n < 0) {
        r->bytes = NULL;
        return PG_ENOMEM;
    }
    r->n = (size_t)n;
    p->n++;
    return 0;
}

/* ---------------------------------------------------------------- files --------------------- */

struct line {
    const char *name, *text;
    size_t n;
    int number;
};

static int bad_line(const struct line *line, const char *why, struct pg_err *err)
{
    return cli_fail(err, PG_EFORMAT, "%s:%d: %s", line->name, line->number, why);
}

/* An object with a prompt or with messages, and perhaps a length of its own. */
static int add_object(struct load_prompts *p, const struct load_prompts_options *opt,
                      const struct line *line, struct pg_err *err)
{
    json_error_t e;
    json_t *o = json_loadb(line->text, line->n, JSON_REJECT_DUPLICATES, &e);
    json_t *text = json_object_get(o, "prompt"), *messages = json_object_get(o, "messages");
    const json_t *max = json_object_get(o, "max_tokens");
    const json_int_t n_max = max ? json_integer_value(max) : opt->args->n_max_tokens;
    int rc = 0;
    if (!o)
        rc = cli_fail(err, PG_EFORMAT, "%s:%d: not JSON: %s", line->name, line->number, e.text);
    else if (!json_is_string(text) == !json_is_array(messages))
        rc = bad_line(line, "wanted is an object with a text \"prompt\" or a list \"messages\"",
                      err);
    else if (messages && opt->args->completions)
        rc = bad_line(line, "\"messages\" are for --chat; --completions wants \"prompt\"", err);
    else if (n_max < 1 || n_max > INT32_MAX)
        rc = bad_line(line, "max_tokens is not a whole number of at least 1", err);
    if (!rc) {
        json_t *what = text && !opt->args->completions
                           ? messages_of(json_string_value(text), json_string_length(text))
                           : json_incref(text ? text : messages);
        rc = add_request(p, opt, what, (int)n_max);
        if (rc)
            cli_fail(err, rc, "%s: out of memory", line->name);
    }
    json_decref(o);
    return rc;
}

static int add_text(struct load_prompts *p, const struct load_prompts_options *opt,
                    const struct line *line, struct pg_err *err)
{
    json_t *what = opt->args->completions ? json_stringn(line->text, line->n)
                                          : messages_of(line->text, line->n);
    if (!what)
        return bad_line(line, "not UTF-8", err);
    const int rc = add_request(p, opt, what, opt->args->n_max_tokens);
    return rc ? cli_fail(err, rc, "%s: out of memory", line->name) : 0;
}

static bool is_blank(const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!strchr(" \t\r\v\f", text[i]) || !text[i])
            return false;
    return true;
}

static int add_lines(struct load_prompts *p, const struct load_prompts_options *opt,
                     const char *data, size_t n, struct pg_err *err)
{
    struct line line = {.name = opt->args->prompts, .number = 1};
    const char *end = data + n;
    const bool objects = data[strspn(data, " \t\r\n")] == '{';
    for (const char *at = data; at < end; line.number++) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        stop = stop ? stop : end;
        line.text = at;
        line.n = (size_t)(stop - at);
        if (line.n && at[line.n - 1] == '\r')
            line.n--;
        at = stop + 1;
        if (is_blank(line.text, line.n))
            continue;
        if (p->n == PROMPTS_MAX)
            return bad_line(&line, "more than 1048576 prompts", err);
        const int rc = (objects ? add_object : add_text)(p, opt, &line, err);
        if (rc)
            return rc;
    }
    return p->n ? 0 : cli_fail(err, PG_EARG, "%s: there is no prompt in it", line.name);
}

static size_t count_lines(const char *data, size_t n)
{
    size_t lines = 1;
    for (size_t i = 0; i < n; i++)
        lines += data[i] == '\n';
    return lines < PROMPTS_MAX ? lines : PROMPTS_MAX;
}

static void shuffle(struct load_prompts *p)
{
    for (int i = p->n - 1; p->shuffle && i > 0; i--) {
        const int j = (int)(load_random(&p->random) % (uint64_t)(i + 1)), kept = p->order[i];
        p->order[i] = p->order[j];
        p->order[j] = kept;
    }
}

static int room_make(struct load_prompts *p, size_t n, struct pg_err *err)
{
    p->request = calloc(n, sizeof(*p->request));
    p->order = calloc(n, sizeof(*p->order));
    return p->request && p->order ? 0 : cli_fail(err, PG_ENOMEM, "no memory for %zu prompts", n);
}

int load_prompts_open(struct load_prompts *p, const struct load_prompts_options *opt,
                      struct pg_err *err)
{
    const struct cli_args *a = opt->args;
    char *data = NULL;
    size_t n = 0;
    *p = (struct load_prompts){.shuffle = a->shuffle, .random = a->seed};
    int rc = a->prompts ? cli_file_read(a->prompts, &data, &n, err) : 0;
    rc = rc ? rc : room_make(p, count_lines(data, n), err);
    if (!rc && a->prompts) {
        rc = add_lines(p, opt, data, n, err);
    } else if (!rc) {
        const struct line line = {"-p", a->prompt, strlen(a->prompt), 1};
        rc = add_text(p, opt, &line, err);
    }
    free(data);
    for (int i = 0; i < p->n; i++)
        p->order[i] = i;
    shuffle(p);
    return rc;
}

void load_prompts_close(struct load_prompts *p)
{
    for (int i = 0; i < p->n; i++)
        free(p->request[i].bytes);
    free(p->request);
    free(p->order);
    *p = (struct load_prompts){0};
}

int load_prompts_next(struct load_prompts *p)
{
    if (p->at == p->n) {
        p->at = 0;
        p->n_passes++;
        shuffle(p);
    }
    return p->order[p->at++];
}
