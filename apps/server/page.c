/* SPDX-License-Identifier: MIT
 * GET /, and the files that belong to it.
 */
#include "page.h"
#include "route.h"
#include "server.h"

#include <string.h>

static const char *type_of(const char *name)
{
    static const char *const types[][2] = {{".html", "text/html; charset=utf-8"},
                                           {".css", "text/css; charset=utf-8"},
                                           {".js", "text/javascript; charset=utf-8"},
                                           {".svg", "image/svg+xml"}};
    const char *end = strrchr(name, '.');
    for (size_t i = 0; end && i < sizeof(types) / sizeof(types[0]); i++)
        if (!strcmp(end, types[i][0]))
            return types[i][1];
    return "application/octet-stream";
}

void page_get(struct conn *c)
{
    const bool no_page = c->server->opt->no_page;
    const struct http_text wanted =
        c->path_rest.p ? c->path_rest : (struct http_text){"index.html", 10};
    const struct page_file *f = page_files;
    /* Ollama's program asks so whether there is a server. */
    if (no_page && !c->path_rest.p && c->head.method == HTTP_HEAD) {
        conn_reply(c, 200, "text/plain; charset=utf-8", NULL, 0);
        return;
    }
    while (f->name && !http_text_is(wanted, f->name))
        f++;
    if (!f->name || no_page) {
        reply_error(c, 404, "there is no such page");
        return;
    }
    conn_header(c, "Content-Security-Policy",
                "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
                "img-src 'self' data:; base-uri 'none'; form-action 'none'; "
                "frame-ancestors 'none'");
    conn_header(c, "Referrer-Policy", "no-referrer");
    conn_reply(c, 200, type_of(f->name), f->data, f->n);
}
