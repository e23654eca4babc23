/* SPDX-License-Identifier: MIT */
#include "train/freeze.h"

#include <string.h>

/* Whether `name` is what the n bytes of `pattern` say. After a * that did not lead to the end, it
 * is enough to let that * take one more character. */
static bool matches(const char *pattern, size_t n, const char *name)
{
    size_t p = 0, star = n;
    const char *retry = NULL;
    while (*name) {
        if (p < n && pattern[p] == '*') {
            star = p++;
            retry = name;
        } else if (p < n && pattern[p] == *name) {
            p++;
            name++;
        } else if (retry) {
            p = star + 1;
            name = ++retry;
        } else {
            return false;
        }
    }
    while (p < n && pattern[p] == '*')
        p++;
    return p == n;
}

int pg_freeze(const struct pg_params *params, const char *list, bool *frozen, struct pg_err *err)
{
    if (!list || !*list)
        return 0;
    for (const char *at = list;; at++) {
        size_t n = strcspn(at, ",");
        bool any = false;
        for (int i = 0; i < params->n; i++) {
            bool hit = matches(at, n, params->p[i].name);
            frozen[i] = frozen[i] || hit;
            any = any || hit;
        }
        if (!any) {
            return pg_fail(err, PG_EARG, "freeze: no tensor of the model is called '%s'",
                           pg_quote(at, n).s);
        }
        at += n;
        if (!*at)
            return 0;
    }
}
