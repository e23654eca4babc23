/* SPDX-License-Identifier: MIT
 * Every allocation of opening a chat template, of rendering and of tokenizing what was rendered is
 * refused in turn.
 */
#include "helpers.h"

#include "fault/alloc_faults.h"

#include <jansson.h>

#define PHI3 PG_TEST_DATA "/vocab/phi-3.gguf"

static const char source[] =
    "{% macro m(x) %}<{{ x|upper }}>{% endmacro %}{% set n = namespace(s='') %}"
    "{% for t in messages|selectattr('role')|sort(attribute='role') %}"
    "{% set n.s = n.s ~ m(t.content) ~ t.content.split()|join(',') ~ t|tojson(indent=2) %}"
    "{% for c in t.tool_calls %}{{ 'x' + c.function.arguments }}{% endfor %}{% endfor %}{{ n.s }}";
static const char request[] =
    "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a b\"}]},"
    "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"function\":{\"name\":\"f\","
    "\"arguments\":\"{\\\"a\\\":1}\"}}]}],\"now\":0}";

/* Some refusals Jansson takes for errors of the text. */
static int understood(int rc, struct pg_err *err)
{
    if (rc == PG_EARG && strstr(err->text, "the request: no JSON"))
        return err->code = PG_ENOMEM;
    return rc;
}

static int open_source(const void *none, struct pg_err *err)
{
    struct pg_chat_options opt = {PG_CHAT_OPTIONS_INIT, .source = source,
                                  .n_source = sizeof(source) - 1};
    pg_chat *c;
    (void)none;
    int rc = pg_chat_open(&c, &opt, err);
    PG_ASSERT(!rc || !c);
    pg_chat_close(c);
    return understood(rc, err);
}

static int open_model(const void *none, struct pg_err *err)
{
    struct pg_chat_options opt = {PG_CHAT_OPTIONS_INIT, .model = PHI3};
    pg_chat *c;
    (void)none;
    int rc = pg_chat_open(&c, &opt, err);
    PG_ASSERT(!rc || !c);
    pg_chat_close(c);
    return understood(rc, err);
}

static int render(const void *chat, struct pg_err *err)
{
    struct pg_chat_text t;
    int rc = pg_chat_render(chat, request, sizeof(request) - 1, &t, err);
    PG_ASSERT(!rc == (t.n > 0));
    pg_chat_text_free(&t);
    return understood(rc, err);
}

static int tokenize(const void *vocab, struct pg_err *err)
{
    static const struct pg_segment s[] = {{"<|user|>", 8, false}, {"Hi there", 8, true}};
    int32_t id[64];
    struct pg_ids ids = {id, PG_COUNT(id), 0};
    return pg_chat_tokenize(vocab, &(struct pg_chat_text){s, 2}, &ids, err);
}

static void test_all(void **state)
{
    struct pg_chat_options opt = {PG_CHAT_OPTIONS_INIT, .source = source,
                                  .n_source = sizeof(source) - 1};
    pg_chat *c;
    pg_vocab *v;
    (void)state;
    json_set_alloc_funcs(malloc, free); /* ours, so that its allocations fail too */
    assert_true(fault_each(open_source, NULL, false, PG_ENOMEM) >= 20);
    assert_true(fault_each(open_model, NULL, false, PG_ENOMEM) >= 40);
    assert_int_equal(pg_chat_open(&c, &opt, NULL), 0);
    assert_true(fault_each(render, c, false, PG_ENOMEM) >= 40);
    pg_chat_close(c);
    assert_int_equal(pg_vocab_open(&v, PHI3, NULL), 0);
    assert_true(fault_each(tokenize, v, false, PG_ENOMEM) >= 3);
    pg_vocab_close(v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_all)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
