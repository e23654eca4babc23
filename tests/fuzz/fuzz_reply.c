/* SPDX-License-Identifier: MIT
 * A reply from the input: the first byte chooses a form and what is wanted, the second how the rest
 * is cut. The cuts may change nothing; without tools, and with reasoning inline, the text is what
 * was put in; nothing comes out that did not go in, but for what objects made of XML need.
 */
#include "base/err.h"
#include "text/reply.h"

#include <stdlib.h>
#include <string.h>

struct record {
    char *s;
    size_t n, cap;
    int kind, call;
};

static void add(struct record *r, const char *s, size_t n)
{
    if (r->n + n > r->cap) {
        r->cap = 2 * (r->n + n);
        r->s = realloc(r->s, r->cap);
        PG_ASSERT(r->s);
    }
    if (n)
        memcpy(r->s + r->n, s, n);
    r->n += n;
}

static void note(void *user, const struct pg_reply_part *p)
{
    struct record *r = user;
    PG_ASSERT(p->n > 0);
    if ((int)p->kind != r->kind || p->kind == PG_REPLY_CALL)
        add(r, &"TRCA"[p->kind], 1);
    r->kind = (int)p->kind;
    if (p->kind == PG_REPLY_CALL)
        PG_ASSERT(p->call == ++r->call && p->n <= 256 + 2);
    else if (p->kind == PG_REPLY_ARGUMENTS)
        PG_ASSERT(p->call == r->call);
    add(r, p->text, p->n);
}

static struct record taken_apart(uint8_t how, size_t step, const char *text, size_t n)
{
    static const char *const sources[] = {"<tool_call>",
                                          "<tool_call><function=<parameter=",
                                          "[TOOL_CALLS][/THINK]",
                                          "<|python_tag|>",
                                          "<|channel|><|message|>",
                                          "<\xEF\xBD\x9Ctool\xE2\x96\x81"
                                          "calls\xE2\x96\x81"
                                          "begin\xEF\xBD\x9C>",
                                          "</thought>",
                                          NULL};
    static const char *const prompts[] = {NULL, "<think>\n", "<|start|>assistant"};
    const char *source = sources[how & 7], *prompt = prompts[(how >> 3 & 3) % 3];
    struct record rec = {.kind = -1, .call = -1};
    const struct pg_reply_options opt = {PG_REPLY_OPTIONS_INIT,
                                         .prompt = prompt,
                                         .n_prompt = prompt ? strlen(prompt) : 0,
                                         .has_tools = !(how & 32),
                                         .inline_reasoning = how & 64,
                                         .part = note,
                                         .user = &rec};
    const struct pg_reply_form form = pg_reply_form_of(source, source ? strlen(source) : 0);
    pg_reply *r;
    PG_ASSERT(!pg_reply_open_form(&r, &opt, &form, NULL));
    for (size_t i = 0; i < n; i += step)
        PG_ASSERT(!pg_reply_text(r, text + i, PG_MIN(step, n - i), NULL));
    PG_ASSERT(!pg_reply_end(r, NULL));
    PG_ASSERT(pg_reply_n_calls(r) == rec.call + 1);
    pg_reply_close(r);
    return rec;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    const char *text = (const char *)data + 2;
    const size_t n = size - 2;
    struct record once = taken_apart(data[0], n ? n : 1, text, n);
    struct record cut = taken_apart(data[0], 1 + data[1] % 16, text, n);
    PG_ASSERT(once.n == cut.n && (!once.n || !memcmp(once.s, cut.s, once.n)));
    PG_ASSERT(once.n <= 8 * n + 16);
    free(once.s);
    free(cut.s);
    return 0;
}
