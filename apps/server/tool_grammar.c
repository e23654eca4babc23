/* SPDX-License-Identifier: MIT
 * The object of a call is put into words as a JSON schema, so that the one compiler of schemas
 * makes its rules; around it go the marks of the form. In its text the rule "root" becomes "call".
 */
#include "tool_grammar.h"
#include "server.h"
#include "spec.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

/* A form: what the template's source has in it, the mark before calls, what the object calls the
 * arguments, and the rule root, for one call and for any number. The first that fits counts;
 * docs/chat.md has the same order. mark NULL: not an object, so it cannot be forced. */
struct form {
    const char *has[2];
    const char *mark, *arguments, *one, *many;
};

#define ONE  "root ::= call\n"
#define LIST "root ::= \"[\" call \"]\"\n"
#define MANY "root ::= \"[\" call (\", \" call)* \"]\"\n"

// clang-format off
static const struct form forms[] = {
    {{"<|channel|>", "<|message|>"}, NULL, NULL, NULL, NULL},
    {{"\xEF\xBD\x9Ctool\xE2\x96\x81" "calls", ""}, NULL, NULL, NULL, NULL},
    {{"[TOOL_CALLS]", "[ARGS]"}, NULL, NULL, NULL, NULL},
    {{"[TOOL_CALLS]", ""}, "[TOOL_CALLS]", "arguments", LIST, MANY},
    {{"<function=", "<parameter="}, NULL, NULL, NULL, NULL},
    {{"<tool_call>", ""}, "<tool_call>\n", "arguments", ONE, ONE},
    {{"<|python_tag|>", ""}, "", "parameters", ONE, ONE},
    {{"<|start_header_id|>", "\"parameters\""}, "", "parameters", ONE, ONE},
    {{"", ""}, "", "arguments", ONE, ONE},
};
// clang-format on

static const struct form *form_of(const char *source)
{
    size_t i = 0;
    while (!strstr(source, forms[i].has[0]) || !strstr(source, forms[i].has[1]))
        i++; /* the last has every source */
    return forms[i].mark ? &forms[i] : NULL;
}

/* Any of the calls that are allowed, as a schema. */
static json_t *schema_of(const struct chat_in *in, const struct form *form)
{
    json_t *any = json_array();
    for (size_t i = 0; i < json_array_size(in->tools); i++) {
        const json_t *function = json_object_get(json_array_get(in->tools, i), "function");
        const char *name = json_string_value(json_object_get(function, "name"));
        json_t *parameters = json_object_get(function, "parameters");
        if (in->choice == TOOLS_NAMED && strcmp(name, in->tool) != 0)
            continue;
        parameters = json_is_object(parameters) ? json_incref(parameters)
                                                : json_pack("{s:s}", "type", "object");
        json_t *properties =
            json_pack("{s:{s:s}, s:o}", "name", "const", name, form->arguments, parameters);
        json_array_append_new(any, json_pack("{s:s, s:o, s:[s, s], s:b}", "type", "object",
                                             "properties", properties, "required", "name",
                                             form->arguments, "additionalProperties", 0));
    }
    return json_pack("{s:o}", "anyOf", any);
}

static bool is_word(char c)
{
    return isalnum((unsigned char)c) || c == '-' || c == '_';
}

/* The end of a literal or a class that begins at text[i]. */
static size_t skip_quoted(const char *text, size_t i)
{
    const char end = text[i] == '[' ? ']' : '"';
    for (i++; text[i] && text[i] != end; i++)
        i += text[i] == '\\' && text[i + 1];
    return text[i] ? i + 1 : i;
}

/* The grammar's text with its root called otherwise. */
static bool rename_root(struct bytes *out, const char *text)
{
    bool good = true;
    for (size_t i = 0, n; good && text[i]; i += n) {
        n = 1;
        if (text[i] == '"' || text[i] == '[')
            n = skip_quoted(text, i) - i;
        else if (is_word(text[i]))
            while (is_word(text[i + n]))
                n++;
        const bool is_root = n == 4 && !memcmp(text + i, "root", 4);
        good = bytes_add(out, is_root ? "call" : text + i, n);
    }
    return good;
}

const char *tool_grammar(struct gen *g, const struct chat_in *in, struct fault *f)
{
    struct pg_err err = {0};
    const struct form *form = form_of(pg_chat_source(g->server->chat));
    const struct in where = {NULL, f, NULL};
    if (!form || g->grammar)
        in_wrong(&where, "tool_choice",
                 form ? "a call and a form of the answer cannot both be forced"
                      : "a call cannot be forced in the form of this model's template");
    if (f->status)
        return NULL;
    json_t *schema = schema_of(in, form);
    spec_schema(g, &where, "tools", schema);
    json_decref(schema);
    if (f->status)
        return NULL;
    struct bytes text = {0};
    const char *root = g->one_call ? form->one : form->many;
    const bool good =
        bytes_add(&text, root, strlen(root)) && rename_root(&text, pg_grammar_text(g->grammar));
    pg_grammar_close(g->grammar);
    g->grammar = NULL;
    if (!good)
        fault_set(f, 503, NULL, "out of memory");
    else if (pg_grammar_open(&g->grammar, text.p, text.n, &err))
        spec_failed(&where, "tool_choice", &err);
    bytes_fini(&text);
    return form->mark;
}
