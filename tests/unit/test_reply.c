/* SPDX-License-Identifier: MIT
 * Replies taken apart: every form, cut into pieces at every place, gives the same parts; what is no
 * call is text; what is held back is no more than may still become a mark.
 *
 * Parts are written down as "text|R:reasoning|C:name|A:arguments", neighbours of a kind as one.
 */
#include "helpers.h"

#include "base/err.h"
#include "base/random.h"
#include "format/gguf.h"
#include "text/reply.h"
#include "text/utf8.h"
#include "text/vocab.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BAR "\xEF\xBD\x9C"
#define LOW "\xE2\x96\x81"

static const char tagged[] = "{{ '<tool_call>' }}";
static const char xml[] = "<tool_call>\n<function=example>\n<parameter=a>";
static const char mistral[] = "[TOOL_CALLS]";
static const char llama[] = "<|python_tag|>";
static const char harmony[] = "<|start|>assistant<|channel|>final<|message|>";
static const char deepseek[] = "<" BAR "tool" LOW "calls" LOW "begin" BAR ">";
static const char plain[] = "{{ messages }}";

/* ---- the record ---- */

struct record {
    char *s;
    size_t n, cap;
    int kind, call;
    size_t n_parts;
};

static void add(struct record *r, const char *s, size_t n)
{
    if (r->n + n + 1 > r->cap) {
        r->cap = 2 * (r->n + n + 1);
        r->s = realloc(r->s, r->cap);
        assert_non_null(r->s);
    }
    memcpy(r->s + r->n, s, n);
    r->n += n;
    r->s[r->n] = 0;
}

static bool whole(const char *s, size_t n)
{
    for (size_t i = 0; i < n;) {
        const int len = pg_utf8_scan(s + i, n - i);
        if (len <= 0)
            return false;
        i += (size_t)len;
    }
    return true;
}

static void note(void *user, const struct pg_reply_part *p)
{
    static const char *const names[] = {"", "R:", "C:", "A:"};
    struct record *r = user;
    assert_true(p->n > 0);
    assert_true(whole(p->text, p->n));
    const bool fresh = (int)p->kind != r->kind || p->kind == PG_REPLY_CALL;
    if (p->kind == PG_REPLY_CALL)
        assert_int_equal(p->call, ++r->call);
    else if (p->kind == PG_REPLY_ARGUMENTS)
        assert_int_equal(p->call, r->call);
    if (fresh && r->n)
        add(r, "|", 1);
    if (fresh)
        add(r, names[p->kind], strlen(names[p->kind]));
    add(r, p->text, p->n);
    r->kind = (int)p->kind;
    r->n_parts++;
}

struct how {
    const char *source, *prompt;
    bool no_tools, inlined;
};

static pg_reply *open_for(const struct how *h, struct record *to)
{
    struct pg_err err = {0};
    pg_reply *r;
    const struct pg_reply_options opt = {PG_REPLY_OPTIONS_INIT,
                                         .prompt = h->prompt,
                                         .n_prompt = h->prompt ? strlen(h->prompt) : 0,
                                         .has_tools = !h->no_tools,
                                         .inline_reasoning = h->inlined,
                                         .part = note,
                                         .user = to};
    const struct pg_reply_form form =
        pg_reply_form_of(h->source, h->source ? strlen(h->source) : 0);
    *to = (struct record){.kind = -1, .call = -1};
    add(to, "", 0);
    must(pg_reply_open_form(&r, &opt, &form, &err), &err);
    return r;
}

/* The parts of the text in pieces of `step` bytes, the first of `first`. The caller frees. */
static char *parts(const struct how *h, const char *text, size_t first, size_t step)
{
    struct pg_err err = {0};
    struct record rec;
    pg_reply *r = open_for(h, &rec);
    const size_t n = strlen(text);
    for (size_t i = 0, n_piece = first; i < n; i += n_piece, n_piece = step) {
        n_piece = PG_MIN(n_piece, n - i);
        must(pg_reply_text(r, text + i, n_piece, &err), &err);
    }
    must(pg_reply_end(r, &err), &err);
    assert_int_equal(pg_reply_n_calls(r), rec.call + 1);
    pg_reply_close(r);
    return rec.s;
}

static void gives(const struct how *h, const char *text, const char *wanted)
{
    const size_t n = strlen(text);
    for (size_t step = 1; step <= 3; step++)
        for (size_t first = 1; first <= n; first++) {
            char *got = parts(h, text, first, step);
            if (strcmp(got, wanted))
                fail_msg("%s\n of %s\ninstead of %s\n(pieces of %zu, %zu)", got, text, wanted,
                         first, step);
            free(got);
        }
}

struct sample {
    const char *source, *text, *wanted;
};

static void all_give(const struct sample *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        gives(&(struct how){.source = s[i].source}, s[i].text, s[i].wanted);
}

/* ---- forms ---- */

static void test_tagged(void **state)
{
    (void)state;
    static const struct sample samples[] = {
        {tagged, "Hello", "Hello"},
        {tagged, " Hello \n", " Hello \n"},
        {tagged,
         "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": [1, {\"b\": 2}]}}\n</tool_call>",
         "C:f|A:{\"a\": [1, {\"b\": 2}]}"},
        {tagged,
         "Let me see.\n\n<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>\n"
         "<tool_call>\n{\"name\": \"g\", \"arguments\": {\"x\": 1}}\n</tool_call>\n",
         "Let me see.|C:f|A:{}|C:g|A:{\"x\": 1}"},
        /* keys in any order; one of those that nobody wants */
        {tagged,
         "<tool_call>{\"arguments\": {\"a\": \"}\"}, \"id\": [{\"name\": 1}], \"name\": \"f\"}"
         "</tool_call>",
         "C:f|A:{\"a\": \"}\"}"},
        {tagged, "<tool_call>{\"name\":\"f\",\"parameters\":{}, \"n\": -1.5e3}</tool_call>x",
         "C:f|A:{}|x"},
        {tagged, "<tool_call>{\"name\": \"f\"}</tool_call>", "C:f|A:{}"},
        {tagged, "<tool_call>{\"name\": \"f\", \"arguments\": null}</tool_call>", "C:f|A:{}"},
        /* marks and brackets in strings */
        {tagged,
         "<tool_call>{\"name\":\"f\",\"arguments\":{\"s\":\"</tool_call>\\\"}{[\\\\\"}}</"
         "tool_call>",
         "C:f|A:{\"s\":\"</tool_call>\\\"}{[\\\\\"}"},
        {tagged, "<tool_call>{\"name\":\"f\",\"arguments\":{\"s\":\"\u00e4\u20ac\U0001F600\"}}",
         "C:f|A:{\"s\":\"\u00e4\u20ac\U0001F600\"}"},
        {tagged, "\u00e4<tool_call>{\"name\":\"\u20ac\",\"arguments\":{}}</tool_call>\u00e4",
         "\u00e4|C:\u20ac|A:{}|\u00e4"},
        /* a list of them */
        {tagged,
         "<tool_call>[{\"name\":\"f\",\"arguments\":{}}, {\"name\":\"g\",\"arguments\":{}}]"
         "</tool_call>",
         "C:f|A:{}|C:g|A:{}"},
        /* behind the arguments: a bracket too many is text */
        {tagged, "<tool_call>{\"name\":\"f\",\"arguments\":{}}}</tool_call>\nso", "C:f|A:{}|}so"},
    };
    all_give(samples, PG_COUNT(samples));
}

static void test_no_call(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "a < b, a <t, <tool, <tool_call",
        "<tool_call>",
        "<tool_call>\n",
        "<tool_call> \n  none\n</tool_call>",
        "<tool_call>{\"name\": f}</tool_call>",
        "<tool_call>{\"name\": \"\", \"arguments\": {}}</tool_call>",
        "<tool_call>{\"name\": \"a\\nb\", \"arguments\": {}}</tool_call>",
        "<tool_call>{\"name\": \"f\", \"arguments\": [1]}</tool_call>",
        "<tool_call>{\"name\": \"f\", \"arguments\": \"{}\"}</tool_call>",
        "<tool_call>{\"name\": \"f\" \"arguments\": {}}</tool_call>",
        "<tool_call>{\"name\": \"f\", }</tool_call>",
        "<tool_call>{\"name\" \"f\"}</tool_call>",
        "<tool_call>{name: \"f\"}</tool_call>",
        "<tool_call>{}</tool_call>",
        "<tool_call>{\"arguments\": {\"a\": 1}}</tool_call>",
        "<tool_call>{\"arguments\": {\"a\": 1}",
        "<tool_call>{\"name\": \"unfinis",
        "<tool_call>{\"na",
        "<tool_call>[]</tool_call>",
        "   <tool_call>[",
        "</tool_call>",
    };
    for (size_t i = 0; i < PG_COUNT(texts); i++)
        gives(&(struct how){.source = tagged}, texts[i], texts[i]);
    /* Without tools nothing is a call. */
    gives(&(struct how){.source = tagged, .no_tools = true},
          "<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>",
          "<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>");
    /* One that is none does not hide the next. */
    gives(&(struct how){.source = tagged},
          "<tool_call><tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>",
          "<tool_call>|C:f|A:{}");
}

static void test_cut_off(void **state)
{
    (void)state;
    static const struct sample samples[] = {
        {tagged, "<tool_call>{\"name\": \"f\"", "C:f"},
        {tagged, "<tool_call>{\"name\": \"f\", \"argu", "C:f"},
        {tagged, "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"x", "C:f|A:{\"a\": \"x"},
        {tagged, "<tool_call>{\"name\": \"f\", \"arguments\": {}", "C:f|A:{}"},
        {tagged, "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": </tool_call> so",
         "C:f|A:{\"a\": |so"},
        {xml, "<tool_call><function=f><parameter=a>\n1", "C:f|A:{\"a\": 1"},
        {xml, "<tool_call><function=f><parameter=a>\nab\n", "C:f|A:{\"a\": \"ab\\n"},
        {xml, "<tool_call><function=f>\n", "C:f"},
        {xml, "<tool_call><function=f", "<tool_call><function=f"},
        {mistral, "[TOOL_CALLS]get", "[TOOL_CALLS]get"},
        {mistral, "[TOOL_CALLS]get[ARGS]", "C:get"},
        {mistral, "[TOOL_CALLS]get[ARGS]{\"a", "C:get|A:{\"a"},
        {llama, "{\"name\": \"f\", ", "{\"name\": \"f\", "},
    };
    all_give(samples, PG_COUNT(samples));
}

static void test_mistral(void **state)
{
    (void)state;
    static const struct sample samples[] = {
        {mistral,
         "[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {\"a\": 1}, \"id\": \"abc123def\"}]",
         "C:f|A:{\"a\": 1}"},
        {mistral,
         "[TOOL_CALLS][{\"name\":\"f\",\"arguments\":{}},{\"name\":\"g\",\"arguments\":{}}]\n",
         "C:f|A:{}|C:g|A:{}"},
        {mistral, "So: [TOOL_CALLS]f[ARGS]{\"a\": \"[TOOL_CALLS]\"}[TOOL_CALLS]g[ARGS]{}",
         "So:|C:f|A:{\"a\": \"[TOOL_CALLS]\"}|C:g|A:{}"},
        {mistral, "[TOOL_CALLS]f[CALL_ID]x1y2[ARGS]{}", "C:f|A:{}"},
        {mistral, "[TOOL_CALLS]f{\"a\": [1]}", "C:f|A:{\"a\": [1]}"},
        {mistral, "[TOOL_CALLS]f[ARGS]no", "[TOOL_CALLS]f[ARGS]no"},
        {mistral, "[TOOL_CALLS]no name{}", "[TOOL_CALLS]no name{}"},
        {mistral, "[TOOL_CALLS] [1, 2]", "[TOOL_CALLS] [1, 2]"},
        {mistral, "[1, 2] [TOOL", "[1, 2] [TOOL"},
    };
    all_give(samples, PG_COUNT(samples));
}

static void test_bare(void **state)
{
    (void)state;
    static const struct sample samples[] = {
        {llama, "{\"name\": \"f\", \"parameters\": {\"a\": 1}}", "C:f|A:{\"a\": 1}"},
        {llama, "\n{\"type\": \"function\", \"name\": \"f\", \"parameters\": {}}\n", "C:f|A:{}"},
        {llama, "<|python_tag|>{\"name\": \"f\", \"parameters\": {}}", "C:f|A:{}"},
        {llama, "<|python_tag|>print(1)", "<|python_tag|>print(1)"},
        {llama, "{\"name\":\"f\",\"parameters\":{}}; {\"name\":\"g\",\"parameters\":{}}",
         "C:f|A:{}|C:g|A:{}"},
        {llama, "{\"name\":\"f\",\"parameters\":{}}\n{\"name\":\"g\",\"parameters\":{}}",
         "C:f|A:{}|C:g|A:{}"},
        {llama, "{\"name\": \"Ann\", \"age\": 3}", "{\"name\": \"Ann\", \"age\": 3}"},
        {llama, "{\"name\": \"Ann\"}", "{\"name\": \"Ann\"}"},
        {llama, "So: {\"name\": \"f\", \"parameters\": {}}",
         "So: {\"name\": \"f\", \"parameters\": {}}"},
        {llama, "{\"name\":\"f\",\"parameters\":{}}; and so", "C:f|A:{}|; and so"},
        {plain, "{\"name\": \"f\", \"arguments\": {\"a\": 1}}", "C:f|A:{\"a\": 1}"},
        {plain, "{\"arguments\": {\"a\": 1}, \"name\": \"f\"}", "C:f|A:{\"a\": 1}"},
        {plain, "```json\n{\"name\": \"f\", \"parameters\": {}}\n```\n", "C:f|A:{}"},
        {plain, "```json\n{\"name\": \"f\"}\n```\n", "```json\n{\"name\": \"f\"}\n```\n"},
        {plain, "```json\n[1]\n```", "```json\n[1]\n```"},
        {plain, "```c\nint a;\n```", "```c\nint a;\n```"},
        {plain, "So:\n```json\n{\"name\": \"f\", \"parameters\": {}}\n```",
         "So:\n```json\n{\"name\": \"f\", \"parameters\": {}}\n```"},
        {plain, "[{\"name\":\"f\",\"arguments\":{}},{\"name\":\"g\",\"arguments\":{}}]",
         "C:f|A:{}|C:g|A:{}"},
        {plain, "<think>so</think>\n\n{\"name\": \"f\", \"arguments\": {}}", "R:so|C:f|A:{}"},
        {NULL, "{\"name\": \"f\", \"arguments\": {}}", "{\"name\": \"f\", \"arguments\": {}}"},
    };
    all_give(samples, PG_COUNT(samples));
}

static void test_xml(void **state)
{
    (void)state;
    static const struct sample samples[] = {
        {xml,
         "I look.\n<tool_call>\n<function=read>\n<parameter=path>\n/a/\"b\"\n</parameter>\n"
         "<parameter=n>\n10\n</parameter>\n</function>\n</tool_call>",
         "I look.|C:read|A:{\"path\": \"/a/\\\"b\\\"\", \"n\": 10}"},
        {xml, "<function=f>\n</function>\n</tool_call>\n", "C:f|A:{}"},
        {xml, "<tool_call><function=f></function></tool_call><tool_call><function=g></function>",
         "C:f|A:{}|C:g|A:{}"},
        {xml, "<tool_call><function=f><parameter=a>\nx</parameter></tool_call>so",
         "C:f|A:{\"a\": \"x\"}|so"},
        {xml, "<tool_call><function=f>so</function>", "<tool_call><function=f>so</function>"},
        {xml, "<tool_call><function=></function>", "<tool_call><function=></function>"},
        {xml, "<tool_call><function=a b></function>", "<tool_call><function=a b></function>"},
        {xml, "<tool_call><function=f><parameter=a>1</parameter>so</function></tool_call>",
         "C:f|A:{\"a\": 1}|so</function>"},
        {xml, "<tool_call><function=f><parameter=a b>1</parameter>",
         "C:f|A:{}|<parameter=a b>1</parameter>"},
        {xml, "<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>", "C:f|A:{}"},
        {xml, "a <function b", "a <function b"},
    };
    static const struct {
        const char *value, *json;
    } values[] = {
        {"\n1\n", "1"},
        {"-0.5e+3", "-0.5e+3"},
        {"007", "\"007\""},
        {"1-2", "\"1-2\""},
        {"1 apple", "\"1 apple\""},
        {"true", "true"},
        {"truer", "\"truer\""},
        {"tr", "\"tr\""},
        {"false", "false"},
        {"null\n", "null"},
        {"NaN", "\"NaN\""},
        {"", "\"\""},
        {"\n\n", "\"\""},
        {"\n\n\n", "\"\\n\""},
        {"\na\n\nb\n", "\"a\\n\\nb\""},
        {"{\"a\": [1, 2]}", "{\"a\": [1, 2]}"},
        {"{\"a\": [1, 2}", "\"{\\\"a\\\": [1, 2}\""},
        {"[]", "[]"},
        {"[x]", "\"[x]\""},
        {"\"quoted\"", "\"\\\"quoted\\\"\""},
        {"a\t\\b\x01", "\"a\\t\\\\b\\u0001\""},
        {"</tool_call> < </param", "\"</tool_call> < </param\""},
        {"\u00e4\u20ac\U0001F600", "\"\u00e4\u20ac\U0001F600\""},
    };
    all_give(samples, PG_COUNT(samples));
    for (size_t i = 0; i < PG_COUNT(values); i++) {
        char text[256], wanted[256];
        snprintf(text, sizeof(text),
                 "<tool_call><function=f><parameter=k>%s</parameter></function></tool_call>",
                 values[i].value);
        snprintf(wanted, sizeof(wanted), "C:f|A:{\"k\": %s}", values[i].json);
        gives(&(struct how){.source = xml}, text, wanted);
    }
}

static void test_harmony(void **state)
{
    (void)state;
    static const char reply[] = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
                                "<|channel|>final<|message|>Yes.<|return|>";
    static const char call[] =
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary "
        "to=functions.f <|constrain|>json<|message|>{\"a\": \"<|end|>\"}<|call|>";
    static const struct sample samples[] = {
        {harmony, reply, "R:Hm.|Yes."},
        {harmony, call, "R:Hm.|C:f|A:{\"a\": \"<|end|>\"}"},
        {harmony,
         "<|channel|>commentary<|message|>First.<|end|><|start|>assistant"
         " to=functions.f<|channel|>commentary json<|message|>{}<|call|>",
         "First.|C:f|A:{}"},
        {harmony, "<|channel|>commentary to=functions.f<|message|><|call|>", "C:f|A:{}"},
        {harmony, "<|channel|>commentary to=functions.f<|message|>no",
         "<|channel|>commentary to=functions.f<|message|>no"},
        {harmony, "<|channel|>commentary to=functions.f", "<|channel|>commentary to=functions.f"},
        {harmony, "<|channel|>fin", ""},
        {harmony, "<|channel|>analysis<|message|>Hm", "R:Hm"},
        {harmony, "No marks", "No marks"},
    };
    all_give(samples, PG_COUNT(samples));
    const char *const prompt = "<|start|>user<|message|>Hi<|end|><|start|>assistant";
    const struct how begun = {.source = harmony, .prompt = prompt};
    gives(&begun, reply, "R:Hm.|Yes.");
    gives(&begun, " to=functions.f<|channel|>commentary json<|message|>{\"a\":1}<|call|>",
          "C:f|A:{\"a\":1}");
    gives(&begun, " to", " to");
    gives(&begun, "No marks", "No marks");
    gives(&(struct how){.source = harmony, .no_tools = true},
          "<|channel|>commentary to=functions.f<|message|>{\"a\": 1}<|call|>", "{\"a\": 1}");
}

static void test_deepseek(void **state)
{
    (void)state;
#define ONE(word) "<" BAR "tool" LOW "call" LOW word BAR ">"
#define ALL(word) "<" BAR "tool" LOW "calls" LOW word BAR ">"
#define SEP       "<" BAR "tool" LOW "sep" BAR ">"
    static const struct sample samples[] = {
        {deepseek,
         "So." ALL("begin") ONE("begin") "function" SEP "f\n```json\n{\"a\": 1}\n```" ONE(
             "end") "\n" ONE("begin") "function" SEP "g\n```json\n{}\n```" ONE("end") ALL("end"),
         "So.|C:f|A:{\"a\": 1}|C:g|A:{}"},
        {deepseek,
         ALL("begin") ONE("begin") "f" SEP "{\"a\": 1}" ONE("end")
             ONE("begin") "g" SEP "{}" ONE("end") ALL("end"),
         "C:f|A:{\"a\": 1}|C:g|A:{}"},
        {deepseek, ALL("begin") "no", ALL("begin") "no"},
        {deepseek, ALL("begin") ONE("begin") "f", ALL("begin") ONE("begin") "f"},
    };
    all_give(samples, PG_COUNT(samples));
}

static void test_reasoning(void **state)
{
    (void)state;
    static const struct sample samples[] = {
        {tagged, "<think>\nSo.\n</think>\n\nYes.", "R:So.|Yes."},
        {tagged, " <think>So. </think> Yes. ", "R:So.|Yes. "},
        {tagged, "<think>\n\n</think>\n\nYes.", "Yes."},
        {tagged, "<think>So.", "R:So."},
        {tagged, "<think>a </think", "R:a </think"},
        {tagged, "Use <think> so.", "Use <think> so."},
        {tagged, "</think>\nYes.", "Yes."},
        {tagged, "<think>a <think> b</think>c</think>", "R:a <think> b|c</think>"},
        {tagged,
         "<think>a\n\n b</think>\n<tool_call>\n{\"name\":\"f\",\"arguments\":{}}</tool_call>",
         "R:a\n\n b|C:f|A:{}"},
        {tagged, "<think><tool_call>{</think>a", "R:<tool_call>{|a"},
        {NULL, "<think>a</think>b", "R:a|b"},
        {"[TOOL_CALLS] [/THINK]", "[THINK]a[/THINK]b", "R:a|b"},
        {"</thought>", "<thought>a</thought>b", "R:a|b"},
        {"</thought>", "<think>a</think>b", "<think>a</think>b"},
    };
    all_give(samples, PG_COUNT(samples));
    const struct how opened = {.source = tagged, .prompt = "<|im_start|>assistant\n<think>\n"};
    gives(&opened, "So.\n</think>\n\nYes.", "R:So.|Yes.");
    gives(&opened, "\nSo.", "R:So.");
    const struct how closed = {.source = tagged, .prompt = "<think>\n\n</think>\n\n"};
    gives(&closed, "Yes.", "Yes.");
    const struct how asked = {.source = tagged, .prompt = "<think>\n<|im_end|>\nassistant\n"};
    gives(&asked, "Yes.", "Yes.");
    const struct how inlined = {.source = tagged, .inlined = true};
    gives(&inlined, "<think>\nSo.\n</think>\n\nYes.", "<think>\nSo.\n</think>\n\nYes.");
    gives(&inlined,
          "<think>\n<tool_call></think>\n<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>",
          "<think>\n<tool_call></think>|C:f|A:{}");
    const struct how channels = {.source = harmony, .inlined = true};
    gives(&channels,
          "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>"
          "Yes.",
          "<|channel|>analysis<|message|>Hm.<|end|>Yes.");
}

/* ---- what goes out when ---- */

/* After each byte: what has come out is all but what may still become a mark. */
static void test_held_back(void **state)
{
    (void)state;
    struct pg_err err = {0};
    struct record rec;
    pg_reply *r = open_for(&(struct how){.source = tagged}, &rec);
    const char *const text = "a <b <tool_cal, <tool_call>{\"name\":\"f\",\"arguments\":{\"a\":[1,";
    static const struct {
        size_t n; /* bytes put */
        const char *out;
    } at[] = {{1, "a"},
              {2, "a"},
              {3, "a"},
              {4, "a <b"},
              {14, "a <b"},
              {15, "a <b <tool_cal,"},
              {27, "a <b <tool_cal,"},
              {51, "a <b <tool_cal,"},
              {52, "a <b <tool_cal,|C:f|A:{"},
              {53, "a <b <tool_cal,|C:f|A:{\""},
              {59, "a <b <tool_cal,|C:f|A:{\"a\":[1,"}};
    size_t done = 0;
    for (size_t i = 0; i < PG_COUNT(at); i++) {
        must(pg_reply_text(r, text + done, at[i].n - done, &err), &err);
        done = at[i].n;
        assert_string_equal(rec.s, at[i].out);
    }
    assert_int_equal(done, strlen(text));
    must(pg_reply_end(r, &err), &err);
    assert_int_equal(pg_reply_end(r, &err), PG_EARG);
    assert_int_equal(pg_reply_text(r, "a", 1, &err), PG_EARG);
    says(err.text, "has ended");
    pg_reply_close(r);
    free(rec.s);
}

static char *repeated(const char *s, size_t n, const char *before, const char *after)
{
    struct record b = {0};
    add(&b, before, strlen(before));
    for (size_t i = 0; i < n; i++)
        add(&b, s, strlen(s));
    add(&b, after, strlen(after));
    return b.s;
}

static void takes_apart(const char *source, char *text, char *wanted)
{
    char *got = parts(&(struct how){.source = source}, text, 4096, 4096);
    if (strcmp(got, wanted))
        fail_msg("%.200s… instead of %.200s…", got, wanted);
    free(got);
    free(text);
    free(wanted);
}

/* Long and deep replies: bounded memory, linear time. */
static void test_large(void **state)
{
    (void)state;
    const size_t n = 100000;
    const char *const call = "<tool_call>{\"name\":\"f\",\"arguments\":{\"a\":";
    takes_apart(tagged, repeated("[", n, call, ""), repeated("[", n, "C:f|A:{\"a\":", ""));
    takes_apart(tagged, repeated("<tool_call", n, "", ""), repeated("<tool_call", n, "", ""));
    takes_apart(tagged, repeated("<tool_call>", n, "", ""), repeated("<tool_call>", n, "", ""));
    takes_apart(tagged, repeated(" ", n, "a", "b"), repeated(" ", n, "a", "b"));
    takes_apart(tagged, repeated("\n", n, "<think>a", "</think>"),
                repeated("\n", n - 32, "R:a", "")); /* all but the last that are held */
    /* A name, and what stands before it, have a bound. */
    const char *const name = "<tool_call>{\"name\":\"";
    takes_apart(tagged, repeated("n", 256, name, "\",\"arguments\":{}}"),
                repeated("n", 256, "C:", "|A:{}"));
    takes_apart(tagged, repeated("n", 257, name, "\",\"arguments\":{}}"),
                repeated("n", 257, name, "\",\"arguments\":{}}"));
    takes_apart(tagged,
                repeated("1,", n, "<tool_call>{\"arguments\":{\"a\":[", "]},\"name\":\"f\"}"),
                repeated("1,", n, "<tool_call>{\"arguments\":{\"a\":[", "]},\"name\":\"f\"}"));
    takes_apart(xml, repeated("1,", n, "<function=f><parameter=a>[", "1]</parameter></function>"),
                repeated("1,", n, "C:f|A:{\"a\": \"[", "1]\"}"));
    takes_apart(xml,
                repeated("1,", 1000, "<function=f><parameter=a>[", "1]</parameter></function>"),
                repeated("1,", 1000, "C:f|A:{\"a\": [", "1]}"));
    takes_apart(harmony, repeated("a", n, "<|channel|>", "<|message|>b"),
                repeated("a", n, "<|channel|>", "<|message|>b"));
}

/* ---- any text ---- */

static const char *const pieces[] = {"<tool_call>",
                                     "</tool_call>",
                                     "<think>",
                                     "</think>",
                                     "{",
                                     "}",
                                     "[",
                                     "]",
                                     "\"",
                                     "\\",
                                     ":",
                                     ",",
                                     "name",
                                     "arguments",
                                     "\"name\"",
                                     "\"arguments\"",
                                     "\"f\"",
                                     " ",
                                     "\n",
                                     "1",
                                     "<function=",
                                     "</function>",
                                     "<parameter=",
                                     "</parameter>",
                                     ">",
                                     "a",
                                     "[TOOL_CALLS]",
                                     "[ARGS]",
                                     "[CALL_ID]",
                                     "<|channel|>",
                                     "<|message|>",
                                     "<|start|>",
                                     "<|end|>",
                                     "analysis",
                                     " to=functions.f",
                                     "final",
                                     "```json",
                                     "```",
                                     "<|python_tag|>",
                                     ";",
                                     "\u00e4",
                                     "\U0001F600",
                                     "{\"name\":\"f\",\"arguments\":{}}",
                                     ONE("begin"),
                                     ONE("end"),
                                     ALL("begin"),
                                     ALL("end"),
                                     SEP};

static char *random_text(uint64_t *seed)
{
    struct record b = {0};
    add(&b, "", 0);
    for (size_t n = pg_random_next(seed) % 24; n > 0; n--) {
        const char *p = pieces[pg_random_next(seed) % PG_COUNT(pieces)];
        add(&b, p, strlen(p));
    }
    return b.s;
}

/* The cuts change nothing; without tools, and with reasoning inline, text is what was put in. */
static void test_any(void **state)
{
    (void)state;
    static const char *const sources[] = {tagged,  xml,      mistral, llama,
                                          harmony, deepseek, plain,   NULL};
    uint64_t seed = 1;
    for (int i = 0; i < 4000; i++) {
        char *text = random_text(&seed);
        const struct how h = {.source = sources[i % 8], .inlined = i / 8 % 2};
        char *once = parts(&h, text, strlen(text) + 1, 1);
        char *bytes = parts(&h, text, 1, 1);
        char *some = parts(&h, text, 1 + pg_random_next(&seed) % 9, 3);
        assert_string_equal(once, bytes);
        assert_string_equal(once, some);
        const struct how raw = {.source = h.source, .inlined = true, .no_tools = true};
        char *same = parts(&raw, text, 1, 2);
        assert_string_equal(same, text);
        free(once);
        free(bytes);
        free(some);
        free(same);
        free(text);
    }
}

/* ---- tokens ---- */

/* The bytes at 3, and behind them the marks. */
enum { AT_BYTES = 3, AT_MARKS = AT_BYTES + 256 };
static const struct {
    const char *text;
    int32_t type; /* 3 control, 4 user-defined, 1 a piece like any other */
} special[] = {{"<tool_call>", 4},  {"</tool_call>", 4}, {"<think>", 3},       {"</think>", 3},
               {"[TOOL_CALLS]", 3}, {"[ARGS]", 3},       {"<|python_tag|>", 1}};
enum { THINK = 2, THINK_END };

static pg_vocab *tokens(void)
{
    struct pg_err err = {0};
    struct pg_gguf_writer *w;
    struct pg_str text[AT_MARKS + PG_COUNT(special)] = {{"<unk>", 5}, {"<s>", 3}, {"</s>", 4}};
    int32_t type[PG_COUNT(text)] = {2, 3, 3};
    float score[PG_COUNT(text)] = {0};
    char bytes[256][8];
    pg_vocab *v;
    for (int b = 0; b < 256; b++) {
        snprintf(bytes[b], sizeof(bytes[b]), "<0x%02X>", b);
        text[AT_BYTES + b] = (struct pg_str){bytes[b], 6};
        type[AT_BYTES + b] = 6;
    }
    for (size_t i = 0; i < PG_COUNT(special); i++) {
        text[AT_MARKS + i] = (struct pg_str){special[i].text, strlen(special[i].text)};
        type[AT_MARKS + i] = special[i].type;
    }
    const char *path = IN_DIR("vocab.gguf");
    must(pg_gguf_writer_open(&w, path, &err), &err);
    must(pg_gguf_writer_str(w, "tokenizer.ggml.model", "llama", &err), &err);
    must(pg_gguf_writer_strs(w, "tokenizer.ggml.tokens", text, PG_COUNT(text), &err), &err);
    must(pg_gguf_writer_i32s(w, "tokenizer.ggml.token_type", type, PG_COUNT(text), &err), &err);
    must(pg_gguf_writer_f32s(w, "tokenizer.ggml.scores", score, PG_COUNT(text), &err), &err);
    must(pg_gguf_writer_commit(w, &err), &err);
    must(pg_vocab_open(&v, path, &err), &err);
    return v;
}

/* A reply is written as text, in which \x01 + m stands for the token of special[m]. */
static int32_t id_of(char c)
{
    const int b = (unsigned char)c;
    return b >= 1 && b <= (int)PG_COUNT(special) ? AT_MARKS + b - 1 : AT_BYTES + b;
}

static pg_reply *open_ids(const struct how *h, const pg_vocab *v, struct record *to)
{
    struct pg_err err = {0};
    pg_reply *r;
    const struct pg_reply_options opt = {
        PG_REPLY_OPTIONS_INIT,          .vocab = v,   .has_tools = !h->no_tools,
        .inline_reasoning = h->inlined, .part = note, .user = to};
    const struct pg_reply_form form = pg_reply_form_of(h->source, strlen(h->source));
    *to = (struct record){.kind = -1, .call = -1};
    add(to, "", 0);
    must(pg_reply_open_form(&r, &opt, &form, &err), &err);
    return r;
}

static void ids_give(const struct how *h, const pg_vocab *v, const char *reply, const char *wanted)
{
    struct pg_err err = {0};
    struct record rec;
    pg_reply *r = open_ids(h, v, &rec);
    for (size_t i = 0; reply[i]; i++)
        must(pg_reply_put(r, id_of(reply[i]), &err), &err);
    must(pg_reply_put(r, pg_vocab_eos(v), &err), &err);
    must(pg_reply_end(r, &err), &err);
    assert_string_equal(rec.s, wanted);
    pg_reply_close(r);
    free(rec.s);
}

#define T(mark)     T_##mark
#define T_TOOL      "\x01"
#define T_TOOL_END  "\x02"
#define T_THINK     "\x03"
#define T_THINK_END "\x04"
#define T_CALLS     "\x05"
#define T_ARGS      "\x06"

static void test_tokens(void **state)
{
    (void)state;
    static const char call[] = "{\"name\":\"f\",\"arguments\":{\"a\":\"</tool_call>\"}}";
    static const struct sample samples[] = {
        {tagged, "a " T(TOOL) "{\"name\":\"f\",\"arguments\":{}}" T(TOOL_END) "\nb",
         "a|C:f|A:{}|b"},
        /* spelled with other tokens it is text */
        {tagged, "<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>",
         "<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>"},
        {tagged, "<think>a</think>b", "<think>a</think>b"},
        {tagged, T(THINK) "a </think>" T(THINK_END) "b", "R:a </think>|b"},
        {tagged, "a " T(THINK) "b" T(THINK_END) "c", "a |R:b|c"},
        /* and the token is one wherever it comes */
        {tagged, T(TOOL) "{\"name\":\"f\",\"arguments\":{\"a\":\"x" T(TOOL_END) "so",
         "C:f|A:{\"a\":\"x|so"},
        {tagged, T(TOOL) "none" T(TOOL_END) "so", "<tool_call>none</tool_call>so"},
        {tagged, T(TOOL) T(TOOL) "{\"name\":\"f\"}" T(TOOL_END), "<tool_call>|C:f|A:{}"},
        {tagged, T(TOOL) "{\"name" T(TOOL) "{\"name\":\"f\"}" T(TOOL_END),
         "<tool_call>{\"name|C:f|A:{}"},
        {mistral, T(CALLS) "f" T(ARGS) "{\"a\":1}" T(CALLS) "g" T(ARGS) "{}",
         "C:f|A:{\"a\":1}|C:g|A:{}"},
        {mistral, T(CALLS) "no call", "[TOOL_CALLS]no call"},
        {llama, "<|python_tag|>{\"name\":\"f\",\"parameters\":{}}", "C:f|A:{}"},
        /* half a character, cut off by a mark and by the end */
        {tagged, "\xE2\x82" T(THINK) "a" T(THINK_END) "\xC3", "\xEF\xBF\xBD|R:a|\xEF\xBF\xBD"},
    };
    struct pg_err err = {0};
    struct record rec;
    pg_vocab *v = tokens();
    char text[128], wanted[128];
    for (size_t i = 0; i < PG_COUNT(samples); i++)
        ids_give(&(struct how){.source = samples[i].source}, v, samples[i].text, samples[i].wanted);
    snprintf(text, sizeof(text), T(TOOL) "%s" T(TOOL_END), call);
    snprintf(wanted, sizeof(wanted), "C:f|A:{\"a\":\"</tool_call>\"}");
    ids_give(&(struct how){.source = tagged}, v, text, wanted);
    /* Marks of reasoning that are control tokens print nothing by themselves. */
    const struct how raw = {.source = tagged, .no_tools = true, .inlined = true};
    ids_give(&raw, v, T(THINK) "a" T(THINK_END) T(TOOL) "b", "<think>a</think><tool_call>b");
    pg_reply *r = open_ids(&raw, v, &rec);
    assert_int_equal(pg_reply_put(r, -1, &err), PG_EARG);
    assert_int_equal(pg_reply_put(r, pg_vocab_n(v), &err), PG_EARG);
    says(err.text, "token id 266 found, 0 to 265 wanted");
    pg_reply_close(r);
    pg_reply_close(NULL);
    free(rec.s);
    pg_vocab_close(v);
}

/* Whatever the tokens: without tools, and with reasoning inline, what pg_detokenize says. */
static void test_any_tokens(void **state)
{
    (void)state;
    static const char *const sources[] = {tagged, xml, mistral, llama, harmony, deepseek, plain};
    struct pg_err err = {0};
    pg_vocab *v = tokens();
    uint64_t seed = 7;
    for (int i = 0; i < 3000; i++) {
        struct record all = {0}, rec, raw;
        struct pg_detok d = {.vocab = v};
        char piece[PG_PIECE_MAX];
        const struct how h = {.source = sources[i % 7], .inlined = true, .no_tools = true};
        const struct how with = {.source = sources[i % 7]};
        pg_reply *r = open_ids(&h, v, &raw), *other = open_ids(&with, v, &rec);
        add(&all, "", 0);
        for (size_t n = pg_random_next(&seed) % 30; n > 0; n--) {
            int32_t id = (int32_t)(pg_random_next(&seed) % (uint64_t)pg_vocab_n(v));
            if (id == AT_MARKS + THINK || id == AT_MARKS + THINK_END)
                id = AT_MARKS; /* these show */
            must(pg_reply_put(r, id, &err), &err);
            must(pg_reply_put(other, id, &err), &err);
            if (!pg_vocab_is_end(v, id))
                add(&all, piece, pg_detokenize(&d, id, piece));
        }
        add(&all, piece, pg_detokenize(&d, -1, piece));
        must(pg_reply_end(r, &err), &err);
        must(pg_reply_end(other, &err), &err);
        assert_int_equal(raw.n, all.n);
        assert_memory_equal(raw.s, all.s, all.n);
        pg_reply_close(r);
        pg_reply_close(other);
        free(all.s);
        free(rec.s);
        free(raw.s);
    }
    pg_vocab_close(v);
}

/* The form is that of the template; what is not given is named. */
static void test_open(void **state)
{
    (void)state;
    struct pg_err err = {0};
    struct record rec = {.kind = -1, .call = -1};
    pg_vocab *v = tokens();
    pg_chat *chat;
    pg_reply *r;
    const struct pg_chat_options of = {PG_CHAT_OPTIONS_INIT, .source = mistral,
                                       .n_source = strlen(mistral)};
    must(pg_chat_open(&chat, &of, &err), &err);
    struct pg_reply_options opt = {PG_REPLY_OPTIONS_INIT, .chat = chat, .has_tools = true,
                                   .user = &rec};
    assert_int_equal(pg_reply_open(&r, &opt, &err), PG_EARG);
    says(err.text, "part: none given");
    opt.part = note;
    assert_int_equal(pg_reply_open(&r, &opt, &err), PG_EARG);
    says(err.text, "vocab: none given");
    assert_null(r);
    opt.vocab = v;
    for (int i = 0; i < 2; i++) { /* without a template nothing is a call */
        const char *const reply = T(CALLS) "f" T(ARGS) "{}|";
        must(pg_reply_open(&r, &opt, &err), &err);
        for (size_t c = 0; reply[c]; c++)
            must(pg_reply_put(r, id_of(reply[c]), &err), &err);
        must(pg_reply_end(r, &err), &err);
        assert_int_equal(pg_reply_n_calls(r), 1 - i);
        pg_reply_close(r);
        opt.chat = NULL;
    }
    assert_string_equal(rec.s, "C:f|A:{}||f{}|");
    free(rec.s);
    pg_chat_close(chat);
    pg_vocab_close(v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tagged),    cmocka_unit_test(test_no_call),
        cmocka_unit_test(test_cut_off),   cmocka_unit_test(test_mistral),
        cmocka_unit_test(test_bare),      cmocka_unit_test(test_xml),
        cmocka_unit_test(test_harmony),   cmocka_unit_test(test_deepseek),
        cmocka_unit_test(test_reasoning), cmocka_unit_test(test_held_back),
        cmocka_unit_test(test_large),     cmocka_unit_test(test_any),
        cmocka_unit_test(test_tokens),    cmocka_unit_test(test_any_tokens),
        cmocka_unit_test(test_open),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
