/* SPDX-License-Identifier: MIT */
#include "format/json.h"

#include "base/os.h"

#include <stdio.h>
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
