/* SPDX-License-Identifier: MIT
 * Strings. Lengths count characters, and an escape is written for such as are one character only:
 * never half of a pair.
 */
#include "text/schema.h"

#include <string.h>

static int by_length(struct pg_schema *s, const json_t *v, struct pg_out *body)
{
    int64_t least = 0, most = -1;
    PG_TRY(pg_schema_count(s, v, "minLength", &least));
    PG_TRY(pg_schema_count(s, v, "maxLength", &most));
    if (most >= 0 && most < least)
        return pg_schema_fail(s, PG_EFORMAT, "'maxLength' is less than 'minLength'");
    const struct pg_rule_name c = pg_schema_base(s, PG_BASE_CHAR);
    pg_out_put(body, "\"\\\"\" %s{%lld,", c.s, (long long)least);
    if (most >= 0)
        pg_out_put(body, "%lld", (long long)most);
    pg_out_put(body, "} \"\\\"\"");
    return 0;
}

/* Of formats that are known; all others say nothing, as in the standard. */
static bool by_format(struct pg_schema *s, const json_t *v, struct pg_out *body)
{
    static const struct {
        const char *name;
        enum pg_schema_base base;
    } known[] = {{"date", PG_BASE_DATE},
                 {"time", PG_BASE_TIME},
                 {"date-time", PG_BASE_DATE_TIME},
                 {"uuid", PG_BASE_UUID}};
    const char *format = json_string_value(json_object_get(v, "format"));
    for (size_t i = 0; format && i < PG_COUNT(known); i++) {
        if (!strcmp(format, known[i].name)) {
            pg_out_put(body, "\"\\\"\" %s \"\\\"\"", pg_schema_base(s, known[i].base).s);
            return true;
        }
    }
    return false;
}

static int define_string(struct pg_schema *s, const json_t *v, struct pg_out *body)
{
    const json_t *pattern = json_object_get(v, "pattern");
    const bool length = json_object_get(v, "minLength") || json_object_get(v, "maxLength");
    const bool format = by_format(s, v, body);
    if ((pattern != NULL) + length + format > 1)
        return pg_schema_fail(s, PG_ENOTSUP,
                              "two of 'pattern', 'format' and a length are not supported at once");
    if (format)
        return 0;
    if (!pattern)
        return by_length(s, v, body);
    if (!json_is_string(pattern))
        return pg_schema_fail(s, PG_EFORMAT, "'pattern' is no text");
    pg_out_put(body, "\"\\\"\" (");
    PG_TRY(pg_schema_regex(s, json_string_value(pattern), json_string_length(pattern), body));
    pg_out_put(body, ") \"\\\"\"");
    return 0;
}

int pg_schema_string(struct pg_schema *s, const json_t *v, struct pg_rule_name *name)
{
    static const char *const of_strings[] = {"pattern", "minLength", "maxLength", "format"};
    struct pg_out body = {0};
    bool plain = true;
    for (size_t i = 0; i < PG_COUNT(of_strings); i++)
        plain = plain && !json_object_get(v, of_strings[i]);
    if (plain) {
        *name = pg_schema_base(s, PG_BASE_STRING);
        return 0;
    }
    int rc = define_string(s, v, &body);
    if (!rc) {
        *name = pg_schema_new_name(s, "string");
        pg_schema_define(s, *name, &body);
    }
    pg_out_free(&body);
    return rc;
}
