/* SPDX-License-Identifier: MIT
 * For test_jinja.py: a JSON object a line on standard input, answered by one a line on standard
 * output.
 *
 *   {"template": TEXT}   the template from here on; or {"model": PATH}
 *   {"request": OBJECT}  {"text": TEXT, "marks": "mc…"}, a letter for each byte: markup, content;
 *                        or {"error": TEXT, "code": NUMBER}
 */
#include "base/err.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static json_t *failed(const struct pg_err *err)
{
    return json_pack("{s:s,s:i}", "error", err->text, "code", err->code);
}

static json_t *open_template(pg_chat **chat, const json_t *line)
{
    struct pg_err err;
    const json_t *source = json_object_get(line, "template");
    struct pg_chat_options opt = {PG_CHAT_OPTIONS_INIT, .source = json_string_value(source),
                                  .n_source = json_string_length(source),
                                  .model = json_string_value(json_object_get(line, "model"))};
    pg_chat_close(*chat);
    return pg_chat_open(chat, &opt, &err) ? failed(&err) : json_object();
}

static json_t *render(const pg_chat *chat, const json_t *request)
{
    struct pg_err err = {.text = "there is no template"};
    struct pg_chat_text out;
    char *text = json_dumps(request, JSON_ENCODE_ANY);
    PG_ASSERT(text);
    int rc = chat ? pg_chat_render(chat, text, strlen(text), &out, &err) : PG_EARG;
    free(text);
    if (rc)
        return failed(&err);
    size_t n = 0, at = 0;
    for (int i = 0; i < out.n; i++)
        n += out.segment[i].n;
    char *all = malloc(2 * n + 1), *marks = all + n;
    PG_ASSERT(all);
    for (int i = 0; i < out.n; at += out.segment[i++].n) {
        memcpy(all + at, out.segment[i].text, out.segment[i].n);
        memset(marks + at, out.segment[i].content ? 'c' : 'm', out.segment[i].n);
    }
    json_t *answer = json_pack("{s:s%,s:s%}", "text", all, n, "marks", marks, n);
    pg_chat_text_free(&out);
    free(all);
    return answer;
}

int main(void)
{
    char *line = NULL;
    size_t cap = 0;
    pg_chat *chat = NULL;
    while (getline(&line, &cap, stdin) > 0) {
        json_t *in = json_loads(line, JSON_ALLOW_NUL, NULL);
        PG_ASSERT(in);
        const json_t *request = json_object_get(in, "request");
        json_t *answer = request ? render(chat, request) : open_template(&chat, in);
        PG_ASSERT(answer && !json_dumpf(answer, stdout, JSON_COMPACT));
        putchar('\n');
        json_decref(answer);
        json_decref(in);
    }
    pg_chat_close(chat);
    free(line);
    return fflush(stdout) != 0;
}
