/* SPDX-License-Identifier: MIT
 * A JSON file from outside: a regular file of bounded size, without duplicate names.
 */
#ifndef PG_FORMAT_JSON_H
#define PG_FORMAT_JSON_H

#include "base/err.h"

#include <jansson.h>

/* For json_decref(). */
int pg_json_load(json_t **out, const char *path, struct pg_err *err);

#endif
