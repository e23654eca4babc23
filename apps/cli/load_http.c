/* SPDX-License-Identifier: MIT
 * An HTTP/1.1 reply, read strictly: a client that measures must not guess what a server meant.
 */
#include "load_wire.h"

#include <string.h>
#include <strings.h>

enum { INTERIM_MAX = 8 };

const char *load_cause_name(enum load_cause cause)
{
    static const char *const names[LOAD_CAUSES] = {"done",     "connect",    "status", "timeout",
                                                   "cut",      "http",       "sse",    "error",
                                                   "not_sent", "interrupted"};
    return cause < LOAD_CAUSES ? names[cause] : "going";
}

static void wrong(struct load_http *h, const char *what)
{
    h->what = what;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static void read_status(struct load_http *h)
{
    const char *s = h->line;
    if (strncmp(s, "HTTP/1.", 7) || (s[7] != '0' && s[7] != '1') || s[8] != ' ' ||
        !is_digit(s[9]) || !is_digit(s[10]) || !is_digit(s[11]) || (s[12] && s[12] != ' ')) {
        wrong(h, "the reply does not begin with an HTTP/1.1 status");
        return;
    }
    h->status = (s[9] - '0') * 100 + (s[10] - '0') * 10 + (s[11] - '0');
    h->keep = s[7] == '1';
    h->at = LOAD_AT_HEADER;
    if (h->status < 100 || h->status == 101)
        wrong(h, "a status that was not asked for");
}

static void read_length(struct load_http *h, const char *value)
{
    uint64_t v = 0;
    const size_t n = strspn(value, "0123456789");
    if (n == 0 || n > 15 || value[n]) {
        wrong(h, "a Content-Length that is no length");
        return;
    }
    for (size_t i = 0; i < n; i++)
        v = v * 10 + (uint64_t)(value[i] - '0');
    if (h->has_length && v != h->left)
        wrong(h, "two Content-Length that differ");
    h->has_length = true;
    h->left = v;
}

/* Whether a word is in a list with commas between. */
static bool has_word(const char *list, const char *word)
{
    const size_t n = strlen(word);
    for (const char *at = list; *at;) {
        at += strspn(at, " \t,");
        const size_t len = strcspn(at, " \t,");
        if (len == n && !strncasecmp(at, word, n))
            return true;
        at += len;
    }
    return false;
}

static void read_header(struct load_http *h)
{
    char *colon = strchr(h->line, ':');
    if (!colon || colon == h->line || strcspn(h->line, " \t") < (size_t)(colon - h->line)) {
        wrong(h, "a header without a name");
        return;
    }
    *colon = '\0';
    char *value = colon + 1 + strspn(colon + 1, " \t");
    for (size_t n = strlen(value); n && (value[n - 1] == ' ' || value[n - 1] == '\t'); n--)
        value[n - 1] = '\0';
    if (!strcasecmp(h->line, "content-length")) {
        read_length(h, value);
    } else if (!strcasecmp(h->line, "transfer-encoding")) {
        if (strcasecmp(value, "chunked") || h->is_chunked)
            wrong(h, "a Transfer-Encoding other than chunked");
        h->is_chunked = true;
    } else if (!strcasecmp(h->line, "connection")) {
        h->keep = has_word(value, "close") ? false : h->keep || has_word(value, "keep-alive");
    } else if (!strcasecmp(h->line, "content-type")) {
        const size_t n = strcspn(value, "; \t");
        h->is_stream = n == 17 && !strncasecmp(value, "text/event-stream", n);
    }
}

/* The empty line: what follows is said by what came before it. */
static void end_head(struct load_http *h)
{
    if (h->status < 200) {
        if (++h->n_interim > INTERIM_MAX)
            wrong(h, "interim replies without end");
        h->at = LOAD_AT_STATUS;
        return;
    }
    if (h->has_length && h->is_chunked) {
        wrong(h, "both Content-Length and Transfer-Encoding");
    } else if (h->status == 204 || h->status == 304 || (h->has_length && h->left == 0)) {
        h->at = LOAD_AT_END;
    } else if (h->is_chunked) {
        h->at = LOAD_AT_SIZE;
    } else if (h->has_length) {
        h->at = LOAD_AT_LENGTH;
    } else {
        h->at = LOAD_AT_REST;
        h->keep = false;
    }
}

static void read_size(struct load_http *h)
{
    static const char digits[] = "0123456789abcdef0123456789ABCDEF";
    const size_t n = strspn(h->line, "0123456789abcdefABCDEF");
    const char after = h->line[n];
    uint64_t v = 0;
    if (n == 0 || n > 15 || (after && after != ';' && after != ' ' && after != '\t')) {
        wrong(h, "a chunk whose size is no number");
        return;
    }
    for (size_t i = 0; i < n; i++)
        v = v * 16 + (uint64_t)(strchr(digits, h->line[i]) - digits) % 16;
    h->left = v;
    h->at = v ? LOAD_AT_CHUNK : LOAD_AT_TRAILER;
}

static void read_line(struct load_http *h)
{
    switch (h->at) {
    case LOAD_AT_STATUS:
        read_status(h);
        break;
    case LOAD_AT_HEADER:
        if (h->n_line)
            read_header(h);
        else
            end_head(h);
        break;
    case LOAD_AT_SIZE:
        read_size(h);
        break;
    case LOAD_AT_CRLF:
        if (h->n_line)
            wrong(h, "a chunk that is longer than its size");
        h->at = LOAD_AT_SIZE;
        break;
    default: /* trailers say nothing that is wanted */
        if (!h->n_line)
            h->at = LOAD_AT_END;
    }
}

static void put_in_line(struct load_http *h, char c)
{
    const bool in_head =
        h->at == LOAD_AT_STATUS || h->at == LOAD_AT_HEADER || h->at == LOAD_AT_TRAILER;
    if (in_head && ++h->n_head > LOAD_HEAD_MAX) {
        wrong(h, "headers without end");
    } else if (c == '\n') {
        if (h->n_line && h->line[h->n_line - 1] == '\r')
            h->n_line--;
        h->line[h->n_line] = '\0';
        if (memchr(h->line, '\0', h->n_line) || memchr(h->line, '\r', h->n_line))
            wrong(h, "a control character in a header");
        else
            read_line(h);
        h->n_line = 0;
    } else if (h->n_line + 1 == LOAD_LINE_MAX) {
        wrong(h, "a header line without end");
    } else {
        h->line[h->n_line++] = c;
    }
}

/* Gives a piece of the body away; whether to go on. */
static bool put_in_body(struct load_http *h, const char *bytes, size_t n)
{
    h->n_body += n;
    if (h->n_body > LOAD_BODY_MAX)
        wrong(h, "a reply of more than 256 MiB");
    if (h->at != LOAD_AT_REST) {
        h->left -= n;
        if (h->left == 0)
            h->at = h->at == LOAD_AT_CHUNK ? LOAD_AT_CRLF : LOAD_AT_END;
    }
    return !h->what && h->body(h->user, bytes, n) == 0;
}

size_t load_http_put(struct load_http *h, const char *bytes, size_t n)
{
    size_t used = 0;
    while (used < n && !h->what && h->at != LOAD_AT_END) {
        const bool in_body =
            h->at == LOAD_AT_LENGTH || h->at == LOAD_AT_CHUNK || h->at == LOAD_AT_REST;
        if (!in_body) {
            put_in_line(h, bytes[used++]);
            continue;
        }
        const size_t room = n - used;
        const size_t take = h->at == LOAD_AT_REST || h->left > room ? room : (size_t)h->left;
        used += take;
        if (!put_in_body(h, bytes + used - take, take))
            break;
    }
    return used;
}

bool load_http_close(struct load_http *h)
{
    if (h->at == LOAD_AT_REST)
        h->at = LOAD_AT_END;
    return h->at == LOAD_AT_END;
}
