/* SPDX-License-Identifier: MIT
 * Messages out of lines. On a terminal libedit edits them and remembers them until the program
 * ends; from a pipe they are read as they are.
 */
#include "chat.h"

#include <errno.h>
#include <histedit.h>
#include <langinfo.h>
#include <locale.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <wchar.h>

struct chat_lines {
    EditLine *edit; /* NULL: a pipe */
    History *history;
    size_t most;
    bool goes_on; /* the next line belongs to the same message */
    struct chat_buf line, message;
    size_t n_lines; /* of the message */
};

static const char fence[] = "\"\"\"";

static char *prompt(EditLine *e)
{
    static char first[] = "> ", next[] = "... ";
    void *l = NULL;
    el_get(e, EL_CLIENTDATA, &l);
    return ((struct chat_lines *)l)->goes_on ? next : first;
}

/* Whether there is something to read. A signal may have come just before, or to another thread: it
 * is looked for ten times a second. */
static bool wait_for_input(void)
{
    struct pollfd in = {.fd = STDIN_FILENO, .events = POLLIN};
    int ready = 0;
    while (!ready && !cli_interrupted()) {
        ready = poll(&in, 1, 100);
        if (ready < 0 && errno == EINTR)
            ready = 0;
    }
    return ready != 0 && !cli_interrupted();
}

/* A character, for libedit: 1; 0 at the end, -1 after an interrupt. */
static int read_character(EditLine *e, wchar_t *out)
{
    mbstate_t state = {0};
    size_t n = (size_t)-2;
    (void)e;
    while (n == (size_t)-2) {
        char c;
        const ssize_t got = wait_for_input() ? read(STDIN_FILENO, &c, 1) : -1;
        if (got <= 0)
            return (int)got;
        n = mbrtowc(out, &c, 1, &state);
    }
    if (n == (size_t)-1)
        *out = L'?';
    return 1;
}

/* Characters are UTF-8 whatever the locale says; only editing asks it. */
static void locale_init(void)
{
    setlocale(LC_CTYPE, "");
    if (strcmp(nl_langinfo(CODESET), "UTF-8") != 0)
        setlocale(LC_CTYPE, "C.UTF-8");
}

static int edit_open(struct chat_lines *l, struct pg_err *err)
{
    HistEvent event;
    locale_init();
    l->history = history_init();
    l->edit = el_init("pregate", stdin, isatty(STDOUT_FILENO) ? stdout : stderr, stderr);
    if (!l->edit || !l->history)
        return cli_fail(err, PG_ENOMEM, "chat: no memory to edit lines");
    history(l->history, &event, H_SETSIZE, 200);
    el_set(l->edit, EL_CLIENTDATA, l);
    el_set(l->edit, EL_PROMPT, prompt);
    el_set(l->edit, EL_GETCFN, read_character);
    el_set(l->edit, EL_EDITOR, "emacs");
    el_set(l->edit, EL_HIST, history, l->history);
    return 0;
}

int chat_lines_open(struct chat_lines **out, size_t most, struct pg_err *err)
{
    struct chat_lines *l = *out = calloc(1, sizeof(*l));
    if (!l)
        return cli_fail(err, PG_ENOMEM, "chat: out of memory");
    l->most = most;
    const int rc = isatty(STDIN_FILENO) ? edit_open(l, err) : 0;
    if (rc) {
        chat_lines_close(l);
        *out = NULL;
    }
    return rc;
}

void chat_lines_close(struct chat_lines *l)
{
    if (!l)
        return;
    if (l->edit)
        el_end(l->edit);
    if (l->history)
        history_end(l->history);
    free(l->line.s);
    free(l->message.s);
    free(l);
}

/* ---------------------------------------------------------------- one line ------------------ */

/* What is beyond the most is read and not kept. */
static int keep(struct chat_lines *l, struct chat_buf *b, const char *s, size_t n,
                struct pg_err *err)
{
    const size_t room = l->most + 1 - b->n;
    return chat_buf_put(b, s, n < room ? n : room, err);
}

static int line_from_pipe(struct chat_lines *l, bool *ended, struct pg_err *err)
{
    int c;
    while ((c = getc(stdin)) != EOF && c != '\n') {
        const int rc = keep(l, &l->line, &(char){(char)c}, 1, err);
        if (rc)
            return rc;
    }
    *ended = c == EOF && l->line.n == 0;
    return 0;
}

static int line_from_terminal(struct chat_lines *l, bool *ended, struct pg_err *err)
{
    HistEvent event;
    int n = 0;
    el_resize(l->edit);
    el_set(l->edit, EL_PREP_TERM,
           1); /* before the prompt: what is typed behind it is echoed once */
    const char *s = el_gets(l->edit, &n);
    if (!s || n <= 0) {
        const LineInfo *at = el_line(l->edit);
        const int rc =
            keep(l, &l->line, at->buffer, (size_t)(at->lastchar - at->buffer), err); /* Ctrl-C */
        *ended = true;
        el_reset(l->edit);
        return rc;
    }
    if (n > 1)
        history(l->history, &event, H_ENTER, s);
    return keep(l, &l->line, s, (size_t)n - (s[n - 1] == '\n'), err);
}

/* ---------------------------------------------------------------- a message ----------------- */

static bool ends_with(const struct chat_buf *b, const char *word)
{
    const size_t n = strlen(word);
    return b->n >= n && !memcmp(b->s + b->n - n, word, n);
}

/* Adds the line to the message; whether more belongs to it. */
static int line_add(struct chat_lines *l, bool *fenced, bool *more, struct pg_err *err)
{
    struct chat_buf *line = &l->line;
    const size_t n = strlen(fence);
    bool begins = false;
    if (!*more && line->n >= n && !memcmp(line->s, fence, n)) {
        *fenced = begins = true;
        line->n -= n;
        memmove(line->s, line->s + n, line->n);
    }
    *more = *fenced ? !ends_with(line, fence) : ends_with(line, "\\");
    if (*fenced && !*more)
        line->n -= n;
    else if (!*fenced && *more)
        line->n--;
    /* What stands beside the marks is text; a mark alone on its line is no empty line. */
    if ((*fenced && begins && !line->n && *more) || (*fenced && !*more && !line->n))
        return 0;
    int rc = l->n_lines++ ? keep(l, &l->message, "\n", 1, err) : 0;
    return rc ? rc : keep(l, &l->message, line->n ? line->s : "", line->n, err);
}

int chat_lines_read(struct chat_lines *l, enum chat_line *what, const char **text, size_t *n,
                    struct pg_err *err)
{
    bool fenced = false, more = false, ended = false;
    l->message.n = l->n_lines = 0;
    do {
        l->line.n = 0;
        l->goes_on = more;
        int rc = l->edit ? line_from_terminal(l, &ended, err) : line_from_pipe(l, &ended, err);
        if (!rc && !ended)
            rc = line_add(l, &fenced, &more, err);
        if (rc)
            return rc;
    } while (more && !ended);
    *text = l->message.s;
    *n = l->message.n;
    *what = CHAT_MESSAGE;
    if (ended && cli_interrupted()) {
        *what = CHAT_INTERRUPTED;
        *n += l->line.n;
    } else if (ended && !l->message.n) {
        *what = CHAT_END;
    }
    if (l->message.n > l->most)
        return cli_fail(err, PG_EARG,
                        "the message has more than %zu bytes, which the context "
                        "cannot hold",
                        l->most);
    return 0;
}
