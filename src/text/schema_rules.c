/* SPDX-License-Identifier: MIT
 * Rules are written: text that grows, and the rules that every schema may use.
 */
#include "text/schema.h"

#include "base/os.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

/* ------------------------------------------------------------------ text that grows --------- */

void pg_out_put(struct pg_out *o, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    int n = vsnprintf(NULL, 0, format, ap);
    va_end(ap);
    o->failed = o->failed || n < 0 || pg_reserve(&o->s, &o->cap, o->n + (size_t)n + 1, 1);
    if (o->failed)
        return;
    va_start(ap, format);
    vsnprintf(o->s + o->n, (size_t)n + 1, format, ap);
    va_end(ap);
    o->n += (size_t)n;
}

void pg_out_free(struct pg_out *o)
{
    free(o->s);
    *o = (struct pg_out){0};
}

void pg_out_literal(struct pg_out *o, const char *s, size_t n)
{
    pg_out_put(o, "\"");
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        if (c == '"' || c == '\\')
            pg_out_put(o, "\\%c", c);
        else if (c < 0x20 || c == 0x7F)
            pg_out_put(o, "\\x%02X", c);
        else
            pg_out_put(o, "%c", c);
    }
    pg_out_put(o, "\"");
}

void pg_out_class_char(struct pg_out *o, uint32_t cp)
{
    bool plain = (cp >= '0' && cp <= '9') || (cp >= 'A' && cp <= 'Z') || (cp >= 'a' && cp <= 'z');
    if (plain)
        pg_out_put(o, "%c", (int)cp);
    else
        pg_out_put(o, "\\U%08X", cp);
}

/* ------------------------------------------------------------------ rules ------------------- */

#define HEX "[0-9a-fA-F]"

static const struct {
    const char *name;
    unsigned needs;
    const char *body;
} bases[PG_BASE_COUNT] = {
#define NEEDS(x) 1u << PG_BASE_##x
    [PG_BASE_WS] = {"ws", 0, "| \" \" | \"\\n\"{1,2} [ \\t]{0,20}"},
    [PG_BASE_PLAIN] = {"plain", 0, "[^\"\\\\\\x00-\\x1F\\x7F]"},
    [PG_BASE_CHAR] = {"char", 0,
                      "[^\"\\\\\\x00-\\x1F\\x7F] | \"\\\\\" ([\"\\\\/bfnrt] | \"u\" "
                      "([0-9a-cA-CefEF] " HEX "{3} | [dD] [0-7] " HEX "{2}))"},
    [PG_BASE_STRING] = {"string", NEEDS(CHAR), "\"\\\"\" char* \"\\\"\""},
    [PG_BASE_INTEGER] = {"integer", 0, "\"0\" | \"-\"? [1-9] [0-9]{0,15}"},
    [PG_BASE_NUMBER] = {"number", 0,
                        "\"-\"? (\"0\" | [1-9] [0-9]{0,15}) (\".\" [0-9]{1,16})? "
                        "([eE] [-+]? [0-9]{1,2})?"},
    [PG_BASE_BOOLEAN] = {"boolean", 0, "\"true\" | \"false\""},
    [PG_BASE_NULL] = {"null", 0, "\"null\""},
    [PG_BASE_VALUE] = {"value",
                       NEEDS(OBJECT) | NEEDS(ARRAY) | NEEDS(STRING) | NEEDS(NUMBER) |
                           NEEDS(BOOLEAN) | NEEDS(NULL),
                       "object | array | string | number | boolean | null"},
    [PG_BASE_MEMBER] = {"member", NEEDS(STRING) | NEEDS(VALUE) | NEEDS(WS),
                        "string ws \":\" ws value"},
    [PG_BASE_OBJECT] = {"object", NEEDS(MEMBER) | NEEDS(WS),
                        "\"{\" ws (member (ws \",\" ws member)* ws)? \"}\""},
    [PG_BASE_ARRAY] = {"array", NEEDS(VALUE) | NEEDS(WS),
                       "\"[\" ws (value (ws \",\" ws value)* ws)? \"]\""},
    /* Days as months have them; February's 29th in leap years. */
    [PG_BASE_DATE] = {"date", 0,
                      "[0-9]{4} \"-\" ((\"0\" [1-9] | \"1\" [0-2]) \"-\" (\"0\" [1-9] | \"1\" "
                      "[0-9] | \"2\" [0-8]) | (\"0\" [13-9] | \"1\" [0-2]) \"-\" (\"29\" | "
                      "\"30\") | (\"0\" [13578] | \"1\" [02]) \"-31\") | ([0-9]{2} (\"0\" [48] | "
                      "[2468] [048] | [13579] [26]) | ([02468] [048] | [13579] [26]) \"00\") "
                      "\"-02-29\""},
    [PG_BASE_TIME] = {"time", 0,
                      "([01] [0-9] | \"2\" [0-3]) \":\" [0-5] [0-9] \":\" [0-5] [0-9] (\".\" "
                      "[0-9]{1,9})? (\"Z\" | [-+] ([01] [0-9] | \"2\" [0-3]) \":\" [0-5] [0-9])"},
    [PG_BASE_DATE_TIME] = {"date-time", NEEDS(DATE) | NEEDS(TIME), "date \"T\" time"},
    [PG_BASE_UUID] = {"uuid", 0,
                      HEX "{8} \"-\" " HEX "{4} \"-\" " HEX "{4} \"-\" " HEX "{4} \"-\" " HEX
                          "{12}"},
#undef NEEDS
};

struct pg_rule_name pg_schema_base(struct pg_schema *s, enum pg_schema_base base)
{
    struct pg_rule_name name;
    unsigned before;
    s->used |= 1u << base;
    do { /* what it needs, and what that needs */
        before = s->used;
        for (int i = 0; i < PG_BASE_COUNT; i++)
            s->used |= before >> i & 1 ? bases[i].needs : 0;
    } while (s->used != before);
    snprintf(name.s, sizeof(name.s), "%s", bases[base].name);
    return name;
}

struct pg_rule_name pg_schema_new_name(struct pg_schema *s, const char *kind)
{
    struct pg_rule_name name;
    snprintf(name.s, sizeof(name.s), "%s-%d", kind, ++s->n_rules);
    return name;
}

void pg_schema_define(struct pg_schema *s, struct pg_rule_name name, struct pg_out *body)
{
    s->out.failed = s->out.failed || body->failed;
    pg_out_put(&s->out, "%s ::= %s\n", name.s, body->s ? body->s : "");
    body->n = 0;
    if (body->s)
        body->s[0] = '\0';
}

void pg_schema_define_bases(struct pg_schema *s)
{
    for (int i = 0; i < PG_BASE_COUNT; i++)
        if (s->used >> i & 1)
            pg_out_put(&s->out, "%s ::= %s\n", bases[i].name, bases[i].body);
}
