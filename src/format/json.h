/* SPDX-License-Identifier: MIT
 * JSON from outside: a regular file of bounded size, or a text; without duplicate names.
 */
#ifndef PG_FORMAT_JSON_H
#define PG_FORMAT_JSON_H

#include "base/err.h"

#include <jansson.h>

/* For json_decref(). */
int pg_json_load(json_t **out, const char *path, struct pg_err *err);
/* The same out of n bytes of text. */
int pg_json_parse(json_t **out, const char *text, size_t n, struct pg_err *err);
/* What it is, for a sentence: "an object", "a list", … NULL: "nothing". */
const char *pg_json_kind(const json_t *v);
/* PG_EFORMAT with what was found and what is wanted. */
int pg_json_wrong(const char *what, const json_t *found, const char *wanted, struct pg_err *err);

#endif
