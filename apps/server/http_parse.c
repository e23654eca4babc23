/* SPDX-License-Identifier: MIT */
#include "http_parse.h"

#include <string.h>
#include <strings.h>

static bool is_token(unsigned char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           (c && strchr("!#$%&'*+-.^_`|~", c));
}

bool http_text_is(struct http_text t, const char *word)
{
    return t.p && t.n == strlen(word) && !memcmp(t.p, word, t.n);
}

bool http_text_is_like(struct http_text t, const char *word)
{
    return t.p && t.n == strlen(word) && !strncasecmp(t.p, word, t.n);
}

static struct http_text trim(struct http_text t)
{
    while (t.n && (t.p[0] == ' ' || t.p[0] == '\t'))
        t.p++, t.n--;
    while (t.n && (t.p[t.n - 1] == ' ' || t.p[t.n - 1] == '\t'))
        t.n--;
    return t;
}

bool http_text_lists(struct http_text t, const char *word)
{
    while (t.n) {
        const char *comma = memchr(t.p, ',', t.n);
        const size_t n = comma ? (size_t)(comma - t.p) : t.n;
        if (http_text_is_like(trim((struct http_text){t.p, n}), word))
            return true;
        t.p += n + (comma != NULL);
        t.n -= n + (comma != NULL);
    }
    return false;
}

size_t http_head_end(const char *text, size_t n)
{
    const char *end = memmem(text, n, "\r\n\r\n", 4);
    return end ? (size_t)(end - text) + 4 : 0;
}

struct http_text http_header_find(const struct http_head *h, const char *name)
{
    for (int i = 0; i < h->n_headers; i++)
        if (http_text_is_like(h->header[i].name, name))
            return h->header[i].value;
    return (struct http_text){0};
}

static int count(const struct http_head *h, const char *name)
{
    int n = 0;
    for (int i = 0; i < h->n_headers; i++)
        n += http_text_is_like(h->header[i].name, name);
    return n;
}

/* Cuts at the first `at`; false where there is none. */
static bool cut(struct http_text *rest, char at, struct http_text *first)
{
    const char *p = memchr(rest->p, at, rest->n);
    if (!p)
        return false;
    *first = (struct http_text){rest->p, (size_t)(p - rest->p)};
    rest->n -= first->n + 1;
    rest->p = p + 1;
    return true;
}

static enum http_method method_of(struct http_text t)
{
    static const char *const names[] = {
        [HTTP_GET] = "GET", [HTTP_HEAD] = "HEAD", [HTTP_POST] = "POST", [HTTP_OPTIONS] = "OPTIONS"};
    for (int i = HTTP_GET; i <= HTTP_OPTIONS; i++)
        if (http_text_is(t, names[i]))
            return (enum http_method)i;
    return HTTP_OTHER;
}

static int parse_request_line(struct http_head *h, struct http_text line, const char **why)
{
    struct http_text target;
    *why = "the request line is not METHOD /PATH HTTP/1.1";
    if (!cut(&line, ' ', &h->method_text) || !cut(&line, ' ', &target) || !h->method_text.n ||
        h->method_text.n > 16)
        return 400;
    for (size_t i = 0; i < h->method_text.n; i++)
        if (!is_token((unsigned char)h->method_text.p[i]))
            return 400;
    for (size_t i = 0; i < target.n; i++)
        if (target.p[i] <= ' ' || target.p[i] > '~')
            return 400;
    if (line.n != 8 || memcmp(line.p, "HTTP/", 5) || line.p[6] != '.')
        return 400;
    if (line.p[5] != '1' || (line.p[7] != '0' && line.p[7] != '1')) {
        *why = "only HTTP/1.0 and HTTP/1.1 are spoken";
        return 505;
    }
    if (!target.n || target.p[0] != '/')
        return 400;
    if (target.n > LIMIT_TARGET) {
        *why = "the path is too long";
        return 414;
    }
    h->minor = line.p[7] - '0';
    h->method = method_of(h->method_text);
    h->path = target;
    if (cut(&target, '?', &h->path))
        h->query = target;
    return 0;
}

static int parse_header(struct http_head *h, struct http_text line, const char **why)
{
    struct http_text name;
    if (h->n_headers == LIMIT_HEADERS) {
        *why = "there are too many headers";
        return 431;
    }
    *why = "a header is not NAME: VALUE";
    if (!cut(&line, ':', &name) || !name.n)
        return 400;
    for (size_t i = 0; i < name.n; i++)
        if (!is_token((unsigned char)name.p[i]))
            return 400;
    for (size_t i = 0; i < line.n; i++)
        if (((unsigned char)line.p[i] < ' ' && line.p[i] != '\t') || line.p[i] == 0x7F)
            return 400;
    h->header[h->n_headers++] = (struct http_header){name, trim(line)};
    return 0;
}

/* At most 18 digits, which an int64_t holds; -1 for anything else. */
static int64_t number_of(struct http_text t)
{
    int64_t v = 0;
    if (!t.n || t.n > 18)
        return -1;
    for (size_t i = 0; i < t.n; i++) {
        if (t.p[i] < '0' || t.p[i] > '9')
            return -1;
        v = 10 * v + (t.p[i] - '0');
    }
    return v;
}

static int parse_length(struct http_head *h, const char **why)
{
    const int n_lengths = count(h, "Content-Length"), n_codings = count(h, "Transfer-Encoding");
    *why = "there is more than one Content-Length or Transfer-Encoding";
    if (n_lengths + n_codings > 1)
        return 400;
    if (n_codings) {
        *why = "the only Transfer-Encoding is chunked";
        h->length = -1;
        return h->minor && http_text_is_like(http_header_find(h, "Transfer-Encoding"), "chunked")
                   ? 0
                   : 501;
    }
    *why = "Content-Length is not a number";
    if (n_lengths && (h->length = number_of(http_header_find(h, "Content-Length"))) < 0)
        return 400;
    return 0;
}

static int parse_meaning(struct http_head *h, const char **why)
{
    const int n_hosts = count(h, "Host");
    *why = "HTTP/1.1 wants one Host header";
    if (n_hosts > 1 || (h->minor && n_hosts != 1))
        return 400;
    int bad = parse_length(h, why);
    if (bad)
        return bad;
    const struct http_text expect = http_header_find(h, "Expect");
    const struct http_text connection = http_header_find(h, "Connection");
    h->wants_continue = http_text_is_like(expect, "100-continue");
    *why = "the only Expect is 100-continue";
    if (expect.p && !h->wants_continue)
        return 417;
    h->keep_alive = h->minor ? !http_text_lists(connection, "close")
                             : http_text_lists(connection, "keep-alive");
    return 0;
}

int http_head_parse(struct http_head *out, const char *text, size_t n, const char **why)
{
    *out = (struct http_head){0};
    struct http_text rest = {text, n};
    for (int i = 0;; i++) {
        const char *end = rest.n ? memmem(rest.p, rest.n, "\r\n", 2) : NULL;
        if (!end) {
            *why = "the head ends without an empty line";
            return 400;
        }
        const struct http_text line = {rest.p, (size_t)(end - rest.p)};
        rest.n -= line.n + 2;
        rest.p = end + 2;
        if (i > 0 && line.n == 0)
            return parse_meaning(out, why);
        const int bad = i == 0 ? parse_request_line(out, line, why) : parse_header(out, line, why);
        if (bad)
            return bad;
    }
}

/* ---------------------------------------------------------------- chunks -------------------- */

static int hex_of(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

static int take_size(struct http_chunks *c, char b)
{
    const int digit = hex_of(b);
    if (digit >= 0 && c->n_digits < 8) {
        c->left = 16 * c->left + (unsigned)digit;
        c->n_digits++;
        return 0;
    }
    if (digit >= 0 || !c->n_digits)
        return -1;
    if (b == '\r')
        c->state = CHUNK_LINE_END;
    else if (b == ';' || b == ' ' || b == '\t')
        c->state = CHUNK_EXTENSION;
    else
        return -1;
    return 0;
}

static int take_extension(struct http_chunks *c, char b)
{
    if (b == '\n' || ++c->n_line > LIMIT_CHUNK_LINE)
        return -1;
    if (b == '\r')
        c->state = CHUNK_LINE_END;
    return 0;
}

static int take_trailer(struct http_chunks *c, char b)
{
    if (++c->n_trailers > LIMIT_TRAILERS || b == '\n')
        return -1;
    if (b == '\r')
        c->state = CHUNK_TRAILER_LF;
    else
        c->line_empty = false;
    return 0;
}

/* One byte that is not of the body. */
static int take_frame(struct http_chunks *c, char b)
{
    switch (c->state) {
    case CHUNK_SIZE:
        return take_size(c, b);
    case CHUNK_EXTENSION:
        return take_extension(c, b);
    case CHUNK_LINE_END:
        c->line_empty = true;
        c->state = c->left ? CHUNK_DATA : CHUNK_TRAILER;
        return b == '\n' ? 0 : -1;
    case CHUNK_DATA_CR:
        c->state = CHUNK_DATA_LF;
        return b == '\r' ? 0 : -1;
    case CHUNK_DATA_LF:
        *c = (struct http_chunks){0};
        return b == '\n' ? 0 : -1;
    case CHUNK_TRAILER:
        return take_trailer(c, b);
    case CHUNK_TRAILER_LF:
        c->state = c->line_empty ? CHUNK_DONE : CHUNK_TRAILER;
        c->line_empty = true;
        return b == '\n' ? 0 : -1;
    case CHUNK_DATA:
    case CHUNK_DONE:
        break;
    }
    return -1;
}

int http_chunks_take(struct http_chunks *c, struct http_text in, size_t *n_used, char *out,
                     size_t *n_out)
{
    *n_used = *n_out = 0;
    while (*n_used < in.n && c->state != CHUNK_DONE) {
        if (c->state != CHUNK_DATA) {
            if (take_frame(c, in.p[(*n_used)++]))
                return -1;
            continue;
        }
        const size_t there = in.n - *n_used;
        const size_t n = c->left < there ? (size_t)c->left : there;
        memcpy(out + *n_out, in.p + *n_used, n);
        *n_out += n;
        *n_used += n;
        c->left -= n;
        if (!c->left)
            c->state = CHUNK_DATA_CR;
    }
    return c->state == CHUNK_DONE;
}
