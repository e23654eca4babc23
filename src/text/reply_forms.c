/* SPDX-License-Identifier: MIT
 * Which form a chat template has. A template writes the calls of earlier turns as its model wrote
 * them, so the marks are in its source.
 */
#include "text/reply_impl.h"

#include <string.h>

#define BAR "\xEF\xBD\x9C" /* U+FF5C and U+2581, which DeepSeek's marks are spelled with */
#define LOW "\xE2\x96\x81"

struct family {
    const char *has[2]; /* of the source; the first family that has all */
    struct pg_reply_form form;
};

// clang-format off
static const struct family families[] = {
    {{"<|channel|>", "<|message|>"}, {PG_CALLS_HARMONY, {
        [PG_MARK_START] = "<|start|>", [PG_MARK_CHANNEL] = "<|channel|>",
        [PG_MARK_CONSTRAIN] = "<|constrain|>", [PG_MARK_MESSAGE] = "<|message|>",
        [PG_MARK_MESSAGE_END] = "<|end|>", [PG_MARK_RETURN] = "<|return|>",
        [PG_MARK_CALL_END] = "<|call|>"}}},
    {{"<" BAR "tool" LOW "calls" LOW "begin" BAR ">"}, {PG_CALLS_DEEPSEEK, {
        [PG_MARK_CALL] = "<" BAR "tool" LOW "calls" LOW "begin" BAR ">",
        [PG_MARK_CALL_END] = "<" BAR "tool" LOW "calls" LOW "end" BAR ">",
        [PG_MARK_ONE] = "<" BAR "tool" LOW "call" LOW "begin" BAR ">",
        [PG_MARK_ONE_END] = "<" BAR "tool" LOW "call" LOW "end" BAR ">",
        [PG_MARK_ARGS] = "<" BAR "tool" LOW "sep" BAR ">",
        [PG_MARK_FENCE] = "```json", [PG_MARK_FENCE_END] = "```"}}},
    {{"[TOOL_CALLS]"}, {PG_CALLS_MISTRAL, {
        [PG_MARK_CALL] = "[TOOL_CALLS]", [PG_MARK_ARGS] = "[ARGS]", [PG_MARK_ID] = "[CALL_ID]"}}},
    {{"<function=", "<parameter="}, {PG_CALLS_XML, {
        [PG_MARK_CALL] = "<tool_call>", [PG_MARK_CALL_END] = "</tool_call>",
        [PG_MARK_FUNCTION] = "<function=", [PG_MARK_FUNCTION_END] = "</function>",
        [PG_MARK_PARAMETER] = "<parameter=", [PG_MARK_PARAMETER_END] = "</parameter>"}}},
    {{"<tool_call>"}, {PG_CALLS_TAGGED, {
        [PG_MARK_CALL] = "<tool_call>", [PG_MARK_CALL_END] = "</tool_call>"}}},
    {{"<|python_tag|>"}, {PG_CALLS_LLAMA, {[PG_MARK_CALL] = "<|python_tag|>"}}},
    {{"<|start_header_id|>", "\"parameters\""}, {PG_CALLS_LLAMA, {
        [PG_MARK_CALL] = "<|python_tag|>"}}},
    {{""}, {PG_CALLS_PLAIN, {[PG_MARK_CALL] = "```json", [PG_MARK_CALL_END] = "```"}}},
};
// clang-format on

static const char *const thinks[][2] = {{"<think>", "</think>"},
                                        {"<thought>", "</thought>"},
                                        {"[THINK]", "[/THINK]"},
                                        {"<seed:think>", "</seed:think>"}};

static bool contains(const char *source, size_t n, const char *word)
{
    return !word || memmem(source, n, word, strlen(word));
}

static struct pg_reply_form form_of_calls(const char *source, size_t n)
{
    size_t i = 0;
    while (!contains(source, n, families[i].has[0]) || !contains(source, n, families[i].has[1]))
        i++; /* the last has every source */
    return families[i].form;
}

struct pg_reply_form pg_reply_form_of(const char *source, size_t n)
{
    struct pg_reply_form form = {.calls = PG_CALLS_NONE};
    size_t pair = 0;
    if (source)
        form = form_of_calls(source, n);
    if (form.calls == PG_CALLS_HARMONY)
        return form;
    for (size_t i = PG_COUNT(thinks); source && i-- > 0;)
        if (contains(source, n, thinks[i][1]))
            pair = i;
    form.mark[PG_MARK_THINK] = thinks[pair][0];
    form.mark[PG_MARK_THINK_END] = thinks[pair][1];
    return form;
}
