/* SPDX-License-Identifier: MIT */
#include "listen.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* One address; the error is errno's. */
static int try_one(const struct addrinfo *a)
{
    const int on = 1;
    const int fd = socket(a->ai_family, a->ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (!bind(fd, a->ai_addr, a->ai_addrlen) && !listen(fd, 256))
        return fd;
    const int saved = errno;
    close(fd);
    errno = saved;
    return -1;
}

static void url_of(int fd, char *url, size_t cap, const char *host)
{
    struct sockaddr_storage at = {0};
    socklen_t n = sizeof(at);
    getsockname(fd, (struct sockaddr *)&at, &n);
    const in_port_t port = at.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&at)->sin6_port
                                                    : ((struct sockaddr_in *)&at)->sin_port;
    const bool v6 = strchr(host, ':') != NULL;
    snprintf(url, cap, "http://%s%s%s:%d", v6 ? "[" : "", host, v6 ? "]" : "", ntohs(port));
}

int listen_open(int *fd, char *url, size_t cap, const char *host, int port, struct pg_err *err)
{
    const struct addrinfo hints = {.ai_family = AF_UNSPEC,
                                   .ai_socktype = SOCK_STREAM,
                                   .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    struct addrinfo *list;
    char service[8];
    snprintf(service, sizeof(service), "%d", port);
    const int bad = getaddrinfo(host, service, &hints, &list);
    err->code = PG_ESYSTEM;
    if (bad) {
        snprintf(err->text, sizeof(err->text), "--host %.200s: %s", host, gai_strerror(bad));
        return PG_ESYSTEM;
    }
    *fd = -1;
    for (const struct addrinfo *a = list; a && *fd < 0; a = a->ai_next)
        *fd = try_one(a);
    const int saved = errno;
    freeaddrinfo(list);
    if (*fd < 0) {
        snprintf(err->text, sizeof(err->text), "%.200s port %d: %s; --port N takes another", host,
                 port, strerror(saved));
        return PG_ESYSTEM;
    }
    err->code = 0;
    url_of(*fd, url, cap, host);
    return 0;
}
