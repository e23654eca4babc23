/* SPDX-License-Identifier: MIT
 * A JSON schema becomes the text of a grammar. Shared by schema*.c and by nobody else.
 *
 *   schema.c         what a schema is made of: references, alternatives, types, enumerations
 *   schema_rules.c   text that grows, and the rules that every schema may use
 *   schema_merge.c   several schemas that hold at once, as one; whether two can hold at once
 *   schema_object.c  objects and arrays
 *   schema_string.c  lengths, formats
 *   schema_regex.c   patterns
 *   schema_number.c  ranges of numbers
 *
 * A schema is a rule of the grammar; what it is made of are rules before it. What is written may
 * say less than the schema, never more: a text of the grammar always keeps to the schema.
 */
#ifndef PG_TEXT_SCHEMA_H
#define PG_TEXT_SCHEMA_H

#include "format/json.h"

enum {
    PG_SCHEMA_TEXT_MAX = 1 << 20, /* bytes of a schema */
    PG_SCHEMA_DEPTH_MAX = 200,    /* schemas inside each other, references followed */
    PG_SCHEMA_WORK_MAX = 50000,   /* schemas that are written or merged */
    PG_SCHEMA_COUNT_MAX = 65536   /* of lengths and items: what a grammar can repeat */
};

/* Text that grows. What does not fit in memory is noted, and said at the end. */
struct pg_out {
    char *s;
    size_t n, cap;
    bool failed;
};
void pg_out_put(struct pg_out *o, const char *format, ...) PG_PRINTF(2, 3);
void pg_out_free(struct pg_out *o);
/* As a text of GBNF, quotes included. */
void pg_out_literal(struct pg_out *o, const char *s, size_t n);
/* A character as it stands in a class of GBNF. */
void pg_out_class_char(struct pg_out *o, uint32_t cp);

/* Rules that every schema may use. */
enum pg_schema_base {
    PG_BASE_WS,
    PG_BASE_PLAIN, /* a character of a text that needs no escape */
    PG_BASE_CHAR,  /* any, one escape included */
    PG_BASE_STRING,
    PG_BASE_INTEGER,
    PG_BASE_NUMBER,
    PG_BASE_BOOLEAN,
    PG_BASE_NULL,
    PG_BASE_VALUE,
    PG_BASE_MEMBER,
    PG_BASE_OBJECT,
    PG_BASE_ARRAY,
    PG_BASE_DATE,
    PG_BASE_TIME,
    PG_BASE_DATE_TIME,
    PG_BASE_UUID,
    PG_BASE_COUNT
};

struct pg_rule_name {
    char s[32];
};

/* A schema that is referred to. */
struct pg_schema_ref {
    const json_t *target;
    struct pg_rule_name name;
    bool open;     /* it is being written, and */
    int n_objects; /* so many objects and arrays were open when that began */
};

struct pg_schema {
    json_t *root;
    struct pg_out out; /* rules that are done */
    unsigned used;     /* 1 << enum pg_schema_base */
    int n_rules, n_done, depth, n_objects;
    struct pg_schema_ref *ref;
    size_t n_ref, cap_ref;
    json_t *made; /* a list: schemas that were made here */
    char path[256];
    size_t n_path;
    struct pg_err *err;
};

/* ---- schema_rules.c ---- */

struct pg_rule_name pg_schema_base(struct pg_schema *s, enum pg_schema_base base);
struct pg_rule_name pg_schema_new_name(struct pg_schema *s, const char *kind);
/* "name ::= body", and the body is empty again. */
void pg_schema_define(struct pg_schema *s, struct pg_rule_name name, struct pg_out *body);
void pg_schema_define_bases(struct pg_schema *s); /* those that were named */

/* ---- schema.c ---- */

/* Writes the rules of a schema; *name is the one to call. */
int pg_schema_rule(struct pg_schema *s, const json_t *v, struct pg_rule_name *name);
/* The same for a part of the schema under way, which messages name by `key`. */
int pg_schema_part(struct pg_schema *s, const char *key, const json_t *v,
                   struct pg_rule_name *name);
/* PG_EFORMAT or PG_ENOTSUP with the place. */
int pg_schema_fail(const struct pg_schema *s, int code, const char *format, ...) PG_PRINTF(3, 4);
/* What a $ref leads to, however often; v itself if it is none. NULL after an error. */
const json_t *pg_schema_target(struct pg_schema *s, const json_t *v);
/* A whole number of at most PG_SCHEMA_COUNT_MAX; *out stays if there is no such key. */
int pg_schema_count(const struct pg_schema *s, const json_t *v, const char *key, int64_t *out);
/* Kinds of values (1 << enum pg_kind) that a schema speaks of. */
enum pg_kind {
    PG_KIND_NULL,
    PG_KIND_BOOLEAN,
    PG_KIND_OBJECT,
    PG_KIND_ARRAY,
    PG_KIND_STRING,
    PG_KIND_INTEGER,
    PG_KIND_NUMBER,
    PG_KIND_COUNT
};
int pg_schema_kinds(const struct pg_schema *s, const json_t *v, unsigned *kinds);
/* Whether the schema has a key that says anything of values, beside those listed ("" ends). */
bool pg_schema_restricts(const json_t *v, const char *const *but);
unsigned pg_json_kinds(const json_t *value); /* of one value */
bool pg_schema_ignores(const char *key);     /* it says nothing of values */
/* A copy whose values are shared. NULL when out of memory, of which json_copy does not tell. */
json_t *pg_schema_copy(const json_t *v);

/* ---- the parts ---- */

/* A new schema, kept in s->made, that both hold for. NULL after an error. */
const json_t *pg_schema_merge(struct pg_schema *s, const json_t *a, const json_t *b);
/* No value keeps to both; false if that is not sure. */
bool pg_schema_apart(struct pg_schema *s, const json_t *a, const json_t *b, int depth);
int pg_schema_object(struct pg_schema *s, const json_t *v, struct pg_rule_name *name);
int pg_schema_array(struct pg_schema *s, const json_t *v, struct pg_rule_name *name);
int pg_schema_string(struct pg_schema *s, const json_t *v, struct pg_rule_name *name);
int pg_schema_regex(struct pg_schema *s, const char *pattern, size_t n, struct pg_out *body);
int pg_schema_integer(struct pg_schema *s, const json_t *v, struct pg_rule_name *name);
int pg_schema_number(struct pg_schema *s, const json_t *v, struct pg_rule_name *name);

#endif
