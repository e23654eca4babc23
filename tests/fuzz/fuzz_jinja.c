/* SPDX-License-Identifier: MIT
 * Any bytes as a chat template, over a conversation that has all there may be; or, where there is a
 * zero in them, a template before it and a request behind it. What comes out is segments of whole
 * characters, markup and content by turns.
 */
#include "base/err.h"
#include "text/utf8.h"

#include <stdint.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

static const char conversation[] =
    "{\"messages\":[{\"role\":\"system\",\"content\":\"You \\\"are\\\" <b>\"},"
    "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"caf\\u00e9 \\u5317\\n\"},"
    "{\"type\":\"text\",\"text\":\"<|im_end|>\"}]},"
    "{\"role\":\"assistant\",\"content\":null,\"reasoning_content\":\"hm\",\"tool_calls\":[{\"id\":"
    "\"abcdefghi\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":"
    "\"{\\\"a\\\":[1,2.5,null,true],\\\"b\\\":\\\"x\\\"}\"}}]},"
    "{\"role\":\"tool\",\"content\":\"7\",\"tool_call_id\":\"abcdefghi\"}],"
    "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"description\":\"d\","
    "\"parameters\":{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"array\",\"items\":"
    "{\"type\":\"integer\"}},\"b\":{\"type\":[\"string\",\"null\"]}},\"required\":[\"a\"]}}}],"
    "\"enable_thinking\":false,\"now\":0,\"n\":-3,\"f\":1e-7}";

static void check_text(const struct pg_chat_text *t)
{
    for (int i = 0; i < t->n; i++) {
        const struct pg_segment *s = &t->segment[i];
        PG_ASSERT(s->n > 0 && (!i || s->content != t->segment[i - 1].content));
        for (size_t at = 0; at < s->n;) {
            int len = pg_utf8_scan(s->text + at, s->n - at);
            PG_ASSERT(len > 0);
            at += (size_t)len;
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    const uint8_t *zero = n ? memchr(bytes, 0, n) : NULL;
    struct pg_chat_options opt = {PG_CHAT_OPTIONS_INIT, .source = n ? (const char *)bytes : "",
                                  .n_source = zero ? (size_t)(zero - bytes) : n};
    const char *request = zero ? (const char *)zero + 1 : conversation;
    size_t n_request = zero ? n - opt.n_source - 1 : sizeof(conversation) - 1;
    struct pg_err err = {0};
    struct pg_chat_text t;
    pg_chat *c;

    int rc = pg_chat_open(&c, &opt, &err);
    PG_ASSERT(rc ? !c && err.code == rc && err.text[0] : !!c);
    if (rc)
        return 0;
    rc = pg_chat_render(c, request, n_request, &t, &err);
    PG_ASSERT(!rc || (!t.n && !t.segment && err.code == rc));
    check_text(&t);
    pg_chat_text_free(&t);
    pg_chat_close(c);
    return 0;
}
