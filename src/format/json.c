/* SPDX-License-Identifier: MIT */
#include "format/json.h"

#include "base/os.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

enum { FILE_MAX = 1 << 28 };

int pg_json_load(json_t **out, const char *path, struct pg_err *err)
{
    json_error_t at;
    struct stat st;
    FILE *in;
    *out = NULL;
    PG_TRY(pg_open_text(&in, path, NULL, err));
    int rc = 0;
    if (fstat(fileno(in), &st) || st.st_size > FILE_MAX)
        rc = pg_fail(err, PG_EFORMAT, "%s: %lld bytes found, %d at most wanted", path,
                     (long long)st.st_size, FILE_MAX);
    else if (!(*out = json_loadf(in, JSON_REJECT_DUPLICATES, &at)))
        rc = pg_fail(err, PG_EFORMAT, "%s:%d: %s", path, at.line, at.text);
    fclose(in);
    return rc;
}

int pg_json_parse(json_t **out, const char *text, size_t n, struct pg_err *err)
{
    json_error_t why;
    *out = json_loadb(text, n, JSON_REJECT_DUPLICATES, &why);
    if (*out)
        return 0;
    /* Jansson says what is wrong with the text, and nothing where it was short of memory. */
    if (!why.text[0] || json_error_code(&why) == json_error_out_of_memory)
        return pg_fail(err, PG_ENOMEM, "out of memory: JSON of %zu bytes", n);
    return pg_fail(err, PG_EFORMAT, "no JSON: %s", pg_quote(why.text, strlen(why.text)).s);
}

const char *pg_json_kind(const json_t *v)
{
    switch (v ? json_typeof(v) : JSON_NULL) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "a list";
    case JSON_STRING:
        return "a text";
    case JSON_NULL:
        return v ? "null" : "nothing";
    default:
        return "a number or a truth value";
    }
}

int pg_json_wrong(const char *what, const json_t *found, const char *wanted, struct pg_err *err)
{
    return pg_fail(err, PG_EFORMAT, "%s: %s found, %s wanted", what, pg_json_kind(found), wanted);
}
