/* SPDX-License-Identifier: MIT
 * The server that is measured: its URL, an address that answers, and files got from it (models,
 * counters) while nothing is measured.
 */
#include "load.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

enum { FILE_MAX = 64 << 20 };

/* ---------------------------------------------------------------- URL ----------------------- */

static int bad(const char *url, const char *why)
{
    return cli_usage("load: \"%s\": %s; wanted is http://HOST[:PORT][/PATH]", url, why);
}

/* HOST, HOST:PORT, [V6] or [V6]:PORT. */
static const char *read_authority(struct load_target *t, const char *at, size_t n)
{
    const bool brackets = n && at[0] == '[';
    const char *close = brackets ? memchr(at, ']', n) : NULL;
    if (brackets && !close)
        return "a [ without a ]";
    const char *end = at + n, *after = brackets ? close + 1 : memchr(at, ':', n);
    after = after ? after : end;
    const size_t n_host = (size_t)(after - at) - (brackets ? 2 : 0);
    if (n_host == 0 || n_host >= sizeof(t->host))
        return "there is no host in it";
    snprintf(t->host, sizeof(t->host), "%.*s", (int)n_host, at + brackets);
    snprintf(t->port, sizeof(t->port), "80");
    if (after < end) {
        const size_t n_port = (size_t)(end - after) - 1;
        char number[8] = "";
        if (*after == ':' && n_port < 6)
            snprintf(number, sizeof(number), "%.*s", (int)n_port, after + 1);
        const int port = atoi(number);
        if (!number[0] || number[strspn(number, "0123456789")] || port < 1 || port > 65535)
            return "its port is not a number from 1 to 65535";
        snprintf(t->port, sizeof(t->port), "%d", port);
    }
    snprintf(t->authority, sizeof(t->authority), "%.*s", (int)n, at);
    return NULL;
}

int load_target_parse(struct load_target *t, const char *url)
{
    const char *at = url + 7;
    *t = (struct load_target){.url = url};
    if (!strncasecmp(url, "https://", 8))
        return cli_usage("load: \"%s\": TLS is not spoken here; let a local proxy do that, such as "
                         "`socat TCP-LISTEN:8443,fork,reuseaddr OPENSSL:HOST:443`, and measure "
                         "http://127.0.0.1:8443",
                         url);
    if (strncasecmp(url, "http://", 7))
        return bad(url, "it does not begin with http://");
    for (const char *c = url; *c; c++)
        if ((unsigned char)*c <= 0x20 || *c == 0x7F)
            return bad(url, "there is a blank or a control character in it");
    const size_t n = strcspn(at, "/?#");
    if (memchr(at, '@', n))
        return bad(url, "there is a user in it, whom --api-key FILE would name");
    const char *why = read_authority(t, at, n), *path = at + n;
    if (why)
        return bad(url, why);
    if (strpbrk(path, "?#"))
        return bad(url, "there is a ? or # in it");
    size_t n_path = strlen(path);
    while (n_path && path[n_path - 1] == '/')
        n_path--;
    if (n_path >= 3 && !memcmp(path + n_path - 3, "/v1", 3))
        n_path -= 3;
    if (n_path >= sizeof(t->base))
        return bad(url, "its path is too long");
    memcpy(t->base, path, n_path);
    return 0;
}

/* ---------------------------------------------------------------- sockets ------------------- */

static double seconds_left(uint64_t deadline_ns)
{
    return ((double)deadline_ns - (double)cli_now_ns()) * 1e-9;
}

/* Waits until the socket can do it: 0, or -1 with errno. */
static int wait_for(int fd, short what, uint64_t deadline_ns)
{
    struct pollfd p = {.fd = fd, .events = what};
    for (;;) {
        const double left = seconds_left(deadline_ns);
        const int n = left > 0 ? poll(&p, 1, (int)(left * 1e3) + 1) : 0;
        if (n > 0)
            return 0;
        if (n == 0)
            errno = ETIMEDOUT;
        if (n == 0 || errno != EINTR || cli_interrupted())
            return -1;
    }
}

static int socket_to(const struct sockaddr *address, socklen_t n, uint64_t deadline_ns)
{
    int error = 0;
    socklen_t n_error = sizeof(error);
    const int fd = socket(address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    int rc = connect(fd, address, n);
    if (rc && errno == EINPROGRESS) {
        rc = wait_for(fd, POLLOUT, deadline_ns);
        if (!rc && !getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &n_error) && error) {
            errno = error;
            rc = -1;
        }
    }
    if (!rc)
        return fd;
    error = errno;
    close(fd);
    errno = error;
    return -1;
}

int load_target_connect(struct load_target *t, struct pg_err *err)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
    struct addrinfo *list = NULL;
    const int rc = getaddrinfo(t->host, t->port, &hints, &list);
    if (rc)
        return cli_fail(err, PG_EIO, "%s: %s: %s", t->url, t->host, gai_strerror(rc));
    int fd = -1;
    for (const struct addrinfo *a = list; a && fd < 0 && !cli_interrupted(); a = a->ai_next) {
        fd = socket_to(a->ai_addr, a->ai_addrlen, cli_now_ns() + 5000000000u);
        if (fd >= 0) {
            memcpy(&t->address, a->ai_addr, a->ai_addrlen);
            t->n_address = a->ai_addrlen;
        }
    }
    const int error = errno;
    freeaddrinfo(list);
    if (fd >= 0)
        close(fd);
    return fd >= 0 ? 0
                   : cli_fail(err, cli_interrupted() ? PG_ECANCELLED : PG_EIO,
                              "%s: no connection: %s", t->url, strerror(error));
}

/* ---------------------------------------------------------------- files --------------------- */

static int keep(void *user, const char *bytes, size_t n)
{
    struct load_file *f = user;
    if (n > FILE_MAX - f->n)
        return -1;
    char *larger = realloc(f->data, f->n + n + 1);
    if (!larger)
        return -1;
    f->data = larger;
    memcpy(f->data + f->n, bytes, n);
    f->n += n;
    f->data[f->n] = '\0';
    return 0;
}

static int send_all(int fd, const char *bytes, size_t n, uint64_t deadline_ns)
{
    while (n) {
        const ssize_t sent = send(fd, bytes, n, MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN && wait_for(fd, POLLOUT, deadline_ns) == 0)
            continue;
        if (sent < 0)
            return -1;
        bytes += sent;
        n -= (size_t)sent;
    }
    return 0;
}

/* NULL, or what is wrong. */
static const char *receive_all(int fd, struct load_http *h, uint64_t deadline_ns)
{
    char bytes[16384];
    for (;;) {
        if (wait_for(fd, POLLIN, deadline_ns))
            return strerror(errno);
        const ssize_t n = recv(fd, bytes, sizeof(bytes), 0);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            continue;
        if (n < 0)
            return strerror(errno);
        if (n == 0)
            return load_http_close(h) ? NULL : "the reply ended in the middle";
        if (load_http_put(h, bytes, (size_t)n) < (size_t)n && h->at != LOAD_AT_END && !h->what)
            return "a reply too large to keep";
        if (h->what || h->at == LOAD_AT_END)
            return h->what;
    }
}

int load_target_get(const struct load_target *t, const char *path, double seconds,
                    struct load_file *out, struct pg_err *err)
{
    const uint64_t deadline = cli_now_ns() + (uint64_t)(seconds * 1e9);
    struct load_http h = {.body = keep, .user = out};
    char head[2048];
    *out = (struct load_file){0};
    const int n = snprintf(head, sizeof(head),
                           "GET %s%s HTTP/1.1\r\nHost: %s\r\nUser-Agent: pregate/" PG_VERSION
                           "\r\nConnection: close\r\n%s%s%s\r\n",
                           t->base, path, t->authority, t->key[0] ? "Authorization: Bearer " : "",
                           t->key, t->key[0] ? "\r\n" : "");
    const int fd = socket_to((const struct sockaddr *)&t->address, t->n_address, deadline);
    const char *why = fd < 0 || send_all(fd, head, (size_t)n, deadline)
                          ? strerror(errno)
                          : receive_all(fd, &h, deadline);
    if (fd >= 0)
        close(fd);
    out->status = h.status;
    if (!why)
        return 0;
    free(out->data);
    *out = (struct load_file){0};
    return cli_fail(err, cli_interrupted() ? PG_ECANCELLED : PG_EIO, "GET %s%s: %s", t->base, path,
                    why);
}
