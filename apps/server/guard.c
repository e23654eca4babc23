/* SPDX-License-Identifier: MIT */
#include "guard.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

static int refuse(struct pg_err *err, int code, const char *what, const char *found)
{
    err->code = code;
    snprintf(err->text, sizeof(err->text), "%s: %.200s", what, found);
    return code;
}

static int read_list(char (*out)[LIMIT_NAME + 1], int *n, const char *list, struct pg_err *err)
{
    while (list && *list) {
        const size_t len = strcspn(list, ",");
        if (len == 0 || len > LIMIT_NAME || *n == LIMIT_NAMES)
            return refuse(err, PG_EARG,
                          "a list of at most 32 names of 1 to 255 bytes is wanted, found", list);
        memcpy(out[*n], list, len);
        out[(*n)++][len] = '\0';
        list += len + (list[len] == ',');
    }
    return 0;
}

int guard_open(struct guard *g, const char *host, const char *names, const char *origins,
               struct pg_err *err)
{
    int rc = read_list(g->name, &g->n_names, host, err);
    rc = rc ? rc : read_list(g->name, &g->n_names, names, err);
    rc = rc ? rc : read_list(g->origin, &g->n_origins, origins, err);
    for (int i = 0; !rc && i < g->n_origins; i++)
        if (strncmp(g->origin[i], "http://", 7) && strncmp(g->origin[i], "https://", 8))
            rc = refuse(err, PG_EARG, "an origin is http://NAME[:PORT] or https://…, found",
                        g->origin[i]);
    return rc;
}

int guard_read_keys(struct guard *g, const char *path, struct pg_err *err)
{
    static const char blank[] = " \t\r\n";
    unsigned char key[LIMIT_KEYS][LIMIT_KEY + 1] = {{0}};
    char line[LIMIT_KEY + 3];
    int n = 0, rc = 0;
    FILE *f = fopen(path, "re");
    if (!f)
        return refuse(err, PG_EIO, "the file of keys cannot be opened", strerror(errno));
    while (!rc && fgets(line, sizeof(line), f)) {
        const size_t len = strcspn(line, blank);
        if (len > LIMIT_KEY || n == LIMIT_KEYS)
            rc = refuse(err, PG_EFORMAT, "the file of keys",
                        "at most 64 keys of at most 255 bytes are taken");
        else if (len && line[0] != '#')
            memcpy(key[n++], line, len);
    }
    if (!rc && ferror(f))
        rc = refuse(err, PG_EIO, "the file of keys cannot be read", strerror(errno));
    fclose(f);
    if (!rc && !n)
        rc = refuse(err, PG_EFORMAT, "the file of keys", "it has no key; one a line is wanted");
    if (!rc) {
        memcpy(g->key, key, sizeof(key));
        g->n_keys = n;
        g->wants_key = true;
    }
    return rc;
}

/* The host of "host", "host:port", "[address]" or "[address]:port". */
static bool host_of(struct http_text t, char out[LIMIT_NAME + 1], bool *is_v6)
{
    const char *end = t.n && t.p[0] == '[' ? memchr(t.p, ']', t.n) : memchr(t.p, ':', t.n);
    *is_v6 = t.n && t.p[0] == '[';
    if (*is_v6 && !end)
        return false;
    const size_t skip = *is_v6;
    const size_t n = end ? (size_t)(end - t.p) - skip : t.n;
    const char *rest = t.p + n + 2 * skip;
    size_t n_rest = t.n - n - 2 * skip;
    if (n == 0 || n > LIMIT_NAME || (n_rest && (rest[0] != ':' || n_rest > 6)))
        return false;
    for (size_t i = 1; i < n_rest; i++)
        if (rest[i] < '0' || rest[i] > '9')
            return false;
    memcpy(out, t.p + skip, n);
    out[n] = '\0';
    return strlen(out) == n;
}

bool guard_host(const struct guard *g, struct http_text host)
{
    char name[LIMIT_NAME + 1];
    unsigned char address[16];
    bool is_v6;
    if (!host.p || !host_of(host, name, &is_v6))
        return false;
    if (inet_pton(is_v6 ? AF_INET6 : AF_INET, name, address) == 1)
        return true;
    if (is_v6)
        return false;
    if (!strcasecmp(name, "localhost"))
        return true;
    for (int i = 0; i < g->n_names; i++)
        if (!strcasecmp(name, g->name[i]))
            return true;
    return false;
}

bool guard_origin(const struct guard *g, struct http_text origin)
{
    for (int i = 0; i < g->n_origins; i++)
        if (http_text_is(origin, g->origin[i]))
            return true;
    return false;
}

bool guard_same_origin(struct http_text origin, struct http_text host)
{
    static const char *const schemes[] = {"http://", "https://"};
    for (int i = 0; i < 2; i++) {
        const size_t n = strlen(schemes[i]);
        if (host.p && origin.n == n + host.n && !memcmp(origin.p, schemes[i], n) &&
            !strncasecmp(origin.p + n, host.p, host.n))
            return true;
    }
    return false;
}

int guard_key(const struct guard *g, struct http_text authorization, struct http_text key)
{
    unsigned char given[LIMIT_KEY + 1] = {0};
    int found = 0;
    if (!key.p && authorization.n > 7 && !strncasecmp(authorization.p, "Bearer ", 7))
        key = (struct http_text){authorization.p + 7, authorization.n - 7};
    if (!key.p || key.n > LIMIT_KEY)
        return 0;
    memcpy(given, key.p, key.n);
    for (int i = 0; i < g->n_keys; i++) {
        volatile unsigned differs = 0; /* every byte of every key is looked at */
        for (size_t at = 0; at < sizeof(given); at++)
            differs |= (unsigned)(given[at] ^ g->key[i][at]);
        found += (differs == 0) * (i + 1);
    }
    return found;
}
