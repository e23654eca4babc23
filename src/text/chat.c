/* SPDX-License-Identifier: MIT
 * Chat templates: out of a model's file, over requests, to segments.
 */
#include "base/ranges.h"
#include "text/chat_request.h"
#include "text/jinja.h"
#include "text/utf8.h"
#include "text/vocab_impl.h"

#include <stdlib.h>
#include <string.h>

struct form {
    struct pg_jinja *template;
    enum pg_chat_parts parts;
};

struct pg_chat {
    struct form plain, tools; /* tools: for requests that have some; may be absent */
    char *bos, *eos;
};

/* ---- rendering ---- */

static int render(const struct pg_chat *c, const struct form *f, const struct pg_chat_request *q,
                  struct pg_jinja_text *out, struct pg_err *err)
{
    struct pg_jinja_input in = {.vars = q->vars,
                                .n_bytes = q->n_bytes,
                                .markup = {{"bos_token", {c->bos, strlen(c->bos)}},
                                           {"eos_token", {c->eos, strlen(c->eos)}}},
                                .now = q->now};
    return pg_jinja_render(f->template, &in, out, err);
}

static void text_free(struct pg_jinja_text *t)
{
    free(t->text);
    free(t->content);
    *t = (struct pg_jinja_text){0};
}

/* The request in one of its forms. *well: no form that the template cannot write was written. */
static int render_form(const struct pg_chat *c, const struct form *f, struct pg_chat_request *q,
                       int form, struct pg_jinja_text *out, struct pg_err *err)
{
    bool nulls = form & 1, arguments = form >> 1;
    *out = (struct pg_jinja_text){0};
    PG_TRY(pg_chat_request_choose(q, nulls, arguments, err));
    PG_TRY(render(c, f, q, out, err));
    out->said_none &= q->has_nulls && !nulls;
    out->said_arguments &= q->has_arguments && !arguments;
    return 0;
}

/* Templates differ in which form of null content and of arguments they can take. The first form is
 * what Hugging Face's users give; the others are tried in turn, and if none does well, the first
 * that gives a text is taken, or the first error. */
static int render_forms(const struct pg_chat *c, const struct form *f, struct pg_chat_request *q,
                        struct pg_jinja_text *out, struct pg_err *err)
{
    struct pg_err first = {0}, why;
    struct pg_jinja_text t;
    *out = (struct pg_jinja_text){0};
    for (int form = 0; form < 4; form++) {
        if ((form & 1) > q->has_nulls || form >> 1 > q->has_arguments)
            continue;
        int rc = render_form(c, f, q, form, &t, &why);
        bool well = !rc && !t.said_none && !t.said_arguments;
        if (well || rc == PG_ENOMEM)
            text_free(out);
        if (rc == PG_ENOMEM)
            return pg_fail(err, rc, "%s", why.text);
        if (rc)
            first = first.code ? first : why;
        else if (!out->text)
            *out = t;
        else
            text_free(&t);
        if (well)
            return 0;
    }
    return out->text ? 0 : pg_fail(err, first.code, "%s", first.text);
}

/* ---- segments ---- */

static int count_runs(const struct pg_jinja_text *t)
{
    int n = t->n > 0;
    for (size_t i = 1; i < t->n; i++)
        n += t->content[i] != t->content[i - 1];
    return n;
}

/* One block: the segments, and behind them their text. */
static int cut(const struct pg_jinja_text *t, struct pg_chat_text *out, struct pg_err *err)
{
    int n = count_runs(t);
    struct pg_segment *s = malloc((size_t)n * sizeof(*s) + t->n + 1);
    if (!s)
        return pg_fail(err, PG_ENOMEM, "out of memory for %zu bytes of text", t->n);
    char *text = (char *)(s + n);
    memcpy(text, t->text, t->n);
    text[t->n] = '\0';
    for (size_t i = 0, k = 0; i < t->n; k++) {
        const uint8_t *end = memchr(t->content + i, !t->content[i], t->n - i);
        size_t length = end ? (size_t)(end - t->content) - i : t->n - i;
        s[k] = (struct pg_segment){text + i, length, t->content[i]};
        i += length;
    }
    out->segment = s;
    out->n = n;
    return 0;
}

int pg_chat_render(const pg_chat *c, const char *request, size_t n_request,
                   struct pg_chat_text *out, struct pg_err *err)
{
    struct pg_chat_request q;
    struct pg_jinja_text t = {0};
    *out = (struct pg_chat_text){0};
    if (n_request > INT32_MAX / 4)
        return pg_fail(err, PG_EARG, "the request has %zu bytes, wanted at most %d", n_request,
                       INT32_MAX / 4);
    PG_TRY(pg_chat_request_open(&q, request, n_request, err));
    const struct form *f = q.has_tools && c->tools.template ? &c->tools : &c->plain;
    int rc = pg_chat_request_parts(&q, f->parts, err);
    rc = rc ? rc : render_forms(c, f, &q, &t, err);
    rc = rc ? rc : cut(&t, out, err);
    text_free(&t);
    pg_chat_request_close(&q);
    return rc;
}

void pg_chat_text_free(struct pg_chat_text *t)
{
    if (!t)
        return;
    free((void *)t->segment); /* ours, and handed out for reading */
    *t = (struct pg_chat_text){0};
}

/* ---- opening ---- */

#define PROBE "pgprobe"
static const char text_probe[] =
    "{\"messages\":[{\"role\":\"user\",\"content\":\"" PROBE "\"}],\"now\":0}";
static const char parts_probe[] =
    "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\","
    "\"text\":\"" PROBE "\"}]}],\"now\":0}";

/* Whether content of that form comes out, as itself. A template that fails says no. */
static int probe(const struct pg_chat *c, const struct form *f, const char *request, bool *yes,
                 struct pg_err *err)
{
    struct pg_chat_request q;
    struct pg_jinja_text t;
    struct pg_err why;
    PG_TRY(pg_chat_request_open(&q, request, strlen(request), err));
    int rc = render(c, f, &q, &t, &why);
    /* A template that writes the list as it is, in Python's way or as JSON, writes its type. */
    *yes = !rc && strstr(t.text, PROBE) && !strstr(t.text, "'type'") && !strstr(t.text, "\"type\"");
    text_free(&t);
    pg_chat_request_close(&q);
    return rc == PG_ENOMEM ? pg_fail(err, rc, "%s", why.text) : 0;
}

static int form_open(const struct pg_chat *c, struct form *f, struct pg_str source,
                     struct pg_err *err)
{
    bool texts, parts;
    PG_TRY(pg_jinja_open(&f->template, source.s, source.n, err));
    PG_TRY(probe(c, f, text_probe, &texts, err));
    PG_TRY(probe(c, f, parts_probe, &parts, err));
    f->parts = !parts ? PG_CHAT_TEXTS : texts ? PG_CHAT_BOTH : PG_CHAT_PARTS;
    return 0;
}

/* The text of a token, "" if there is none such or it is no UTF-8. */
static char *token_text(const pg_vocab *v, int32_t id)
{
    struct pg_str s = {"", 0};
    if (v && id >= 0 && v->model != PG_VOCAB_NONE)
        s = pg_pieces_text(&v->pieces, (uint32_t)id);
    for (size_t i = 0; i < s.n;) {
        int len = pg_utf8_scan(s.s + i, s.n - i);
        if (len <= 0)
            s.n = 0;
        i += (size_t)PG_MAX(len, 1);
    }
    char *out = malloc(s.n + 1);
    if (out) {
        memcpy(out, s.s, s.n);
        out[s.n] = '\0';
    }
    return out;
}

static int take_tokens(struct pg_chat *c, const struct pg_gguf *g, struct pg_err *err)
{
    pg_vocab *v = NULL;
    if (g)
        PG_TRY(pg_vocab_from_gguf(&v, g, err));
    c->bos = token_text(v, v ? v->bos : -1);
    c->eos = token_text(v, v ? v->eos : -1);
    pg_vocab_close(v);
    return c->bos && c->eos ? 0 : pg_fail(err, PG_ENOMEM, "out of memory for a chat template");
}

static const char template_key[] = "tokenizer.chat_template";

/* The template of a variant, NULL: the default; out->s NULL: there is none. */
static int find_template(const struct pg_gguf *g, const char *variant, struct pg_str *out,
                         struct pg_err *err)
{
    char key[256];
    *out = (struct pg_str){0};
    if (!variant || !strcmp(variant, "default"))
        return pg_gguf_get_str(g, template_key, PG_GGUF_OPTIONAL, out, err);
    if (strlen(variant) + sizeof(template_key) >= sizeof(key))
        return 0;
    memcpy(key, template_key, sizeof(template_key) - 1);
    key[sizeof(template_key) - 1] = '.';
    memcpy(key + sizeof(template_key), variant, strlen(variant) + 1);
    return pg_gguf_get_str(g, key, PG_GGUF_OPTIONAL, out, err);
}

static int load(struct pg_chat *c, const struct pg_chat_options *o, const struct pg_gguf *g,
                struct pg_err *err)
{
    struct pg_str plain = {o->source, o->n_source}, tools = {0};
    PG_TRY(take_tokens(c, g, err));
    if (!o->source)
        PG_TRY(find_template(g, o->variant, &plain, err));
    if (!o->source && !o->variant)
        PG_TRY(find_template(g, "tool_use", &tools, err));
    if (!plain.s && o->variant)
        return pg_fail(err, PG_ENOTSUP, "%s: no chat template '%s'", o->model,
                       pg_quote(o->variant, strlen(o->variant)).s);
    if (!plain.s)
        return pg_fail(err, PG_ENOTSUP, "%s: no chat template, %s is missing", o->model,
                       template_key);
    PG_TRY(form_open(c, &c->plain, plain, err));
    return tools.s ? form_open(c, &c->tools, tools, err) : 0;
}

int pg_chat_open(pg_chat **out, const struct pg_chat_options *opt, struct pg_err *err)
{
    struct pg_chat_options o;
    struct pg_gguf *g = NULL;
    *out = NULL;
    PG_TRY(pg_options_take(PG_OPTIONS_CHAT, &o, opt, err));
    if (!o.model && !o.source)
        return pg_fail(err, PG_EARG, "options: model and source: none given");
    if (o.model)
        PG_TRY(pg_gguf_open(&g, o.model, err));
    struct pg_chat *c = *out = calloc(1, sizeof(*c));
    int rc = c ? load(c, &o, g, err) : pg_fail(err, PG_ENOMEM, "out of memory for a chat template");
    pg_gguf_close(g);
    if (rc) {
        pg_chat_close(c);
        *out = NULL;
    }
    return rc;
}

void pg_chat_close(pg_chat *c)
{
    if (!c)
        return;
    pg_jinja_close(c->plain.template);
    pg_jinja_close(c->tools.template);
    free(c->bos);
    free(c->eos);
    free(c);
}

const char *pg_chat_source(const pg_chat *c)
{
    return pg_jinja_source(c->plain.template);
}
