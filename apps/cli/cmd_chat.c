/* SPDX-License-Identifier: MIT
 * pregate chat: a conversation. Answers go to standard output and everything else to standard
 * error, so that a script can talk, too.
 */
#include "chat.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct chat {
    struct chat_talk talk;
    struct chat_lines *lines;
    bool interactive;
    bool quits, warned; /* warned: that Ctrl-C once more quits */
};

/* ---------------------------------------------------------------- /commands ----------------- */

struct command {
    const char *name, *argument, *help;
    int (*run)(struct chat *c, const char *argument, struct pg_err *err);
};

static const struct command *command_at(size_t i);

static int do_help(struct chat *c, const char *argument, struct pg_err *err)
{
    (void)c, (void)argument, (void)err;
    for (size_t i = 0; command_at(i); i++) {
        const struct command *x = command_at(i);
        fprintf(stderr, "  /%-6s %-6s %s\n", x->name, x->argument, x->help);
    }
    fputs("A line that ends with \\ goes on in the next; \"\"\" begins and ends a text of several "
          "lines.\n//… is a message that begins with /. Ctrl-C stops an answer, Ctrl-D quits.\n",
          stderr);
    return 0;
}

static int do_system(struct chat *c, const char *argument, struct pg_err *err)
{
    return chat_talk_system(&c->talk, argument, strlen(argument), err);
}

static int do_save(struct chat *c, const char *argument, struct pg_err *err)
{
    if (!*argument)
        return cli_fail(err, PG_EARG, "/save FILE: which file?");
    const int rc = chat_talk_save(&c->talk, argument, err);
    if (!rc && c->interactive)
        fprintf(stderr, "%zu messages in %s\n", json_array_size(c->talk.messages), argument);
    return rc;
}

static int do_load(struct chat *c, const char *argument, struct pg_err *err)
{
    if (!*argument)
        return cli_fail(err, PG_EARG, "/load FILE: which file?");
    const int rc = chat_talk_load(&c->talk, argument, err);
    if (!rc && c->interactive)
        fprintf(stderr, "%zu messages\n", json_array_size(c->talk.messages));
    return rc;
}

static int do_retry(struct chat *c, const char *argument, struct pg_err *err)
{
    (void)argument;
    if (c->talk.args->temp <= 0 && c->interactive)
        fputs("(--temp 0 always gives the same answer)\n", stderr);
    return chat_talk_retry(&c->talk, err);
}

static int do_stats(struct chat *c, const char *argument, struct pg_err *err)
{
    const struct chat_talk *t = &c->talk;
    const struct pg_stats p = cli_stats_since(&t->before, &t->at_prompt);
    const struct pg_stats d = cli_stats_since(&t->at_prompt, &t->at_end);
    const double n_prompt = (double)(p.n_prompt + p.n_decode);
    const double n = (double)(d.n_prompt + d.n_decode);
    char read[16], peak[16], budget[16];
    (void)argument, (void)err;
    fprintf(stderr,
            "context %zu of %d tokens | prompt %zu tokens, %zu of them kept, %.2f tok/s | answer "
            "%zu tokens %.2f tok/s | hits %.1f %% | %s read/token | peak %s of %s | %s\n",
            t->n_ids, t->n_ctx, t->n_prompt_ids, t->n_reused,
            cli_ratio(n_prompt, cli_stats_seconds(&p)), t->n_ids - t->n_prompt_ids,
            cli_ratio(n, cli_stats_seconds(&d)),
            100 * cli_ratio((double)d.hits, (double)d.expert_requests),
            cli_size_text((uint64_t)cli_ratio((double)d.expert_bytes_read, n), read),
            cli_size_text(pg_peak_rss(), peak), cli_size_text(t->plan.budget, budget),
            pg_mode_name(t->plan.mode));
    return 0;
}

static int do_clear(struct chat *c, const char *argument, struct pg_err *err)
{
    (void)argument, (void)err;
    chat_talk_clear(&c->talk);
    return 0;
}

static int do_quit(struct chat *c, const char *argument, struct pg_err *err)
{
    (void)argument, (void)err;
    c->quits = true;
    return 0;
}

static const struct command *command_at(size_t i)
{
    static const struct command commands[] = {
        {"system", "TEXT", "what the model is told first; without TEXT nothing", do_system},
        {"retry", "", "another answer to the last message", do_retry},
        {"clear", "", "begin again; what the model is told first stays", do_clear},
        {"save", "FILE", "write the conversation (JSON)", do_save},
        {"load", "FILE", "go on with one that was saved", do_load},
        {"stats", "", "speed, cache and memory of the last answer", do_stats},
        {"help", "", "this list", do_help},
        {"quit", "", "end", do_quit},
    };
    return i < sizeof(commands) / sizeof(commands[0]) ? &commands[i] : NULL;
}

static int command_run(struct chat *c, const char *line, struct pg_err *err)
{
    const size_t n = strcspn(line, " \n");
    const char *argument = line + n + strspn(line + n, " \n");
    for (size_t i = 0; command_at(i); i++) {
        const struct command *x = command_at(i);
        if (strlen(x->name) != n || memcmp(x->name, line, n) != 0)
            continue;
        if (*argument && !*x->argument)
            return cli_fail(err, PG_EARG, "/%s takes nothing, \"%s\" found", x->name, argument);
        return x->run(c, argument, err);
    }
    return cli_fail(err, PG_EARG,
                    "unknown command \"/%.*s\"; /help lists them, and // begins a "
                    "message with /",
                    n < 40 ? (int)n : 40, line);
}

/* ---------------------------------------------------------------- the loop ------------------ */

/* What a user can do about it; the conversation goes on. */
static void say_failed(const struct pg_err *err)
{
    cli_error("%s", err->text[0] ? err->text : pg_error_text(err->code));
    if (err->code == PG_ECONTEXT)
        fputs(
            "  The message was not taken. /save FILE keeps the conversation, /clear begins again;\n"
            "  -c N makes room for N tokens.\n",
            stderr);
}

/* Ctrl-C has done its work, and the next one is another. */
static bool forgive_interrupt(const struct chat *c)
{
    if (!cli_interrupted())
        return true;
    return c->interactive && cli_interrupt_forget(SIGINT);
}

static int message_take(struct chat *c, const char *text, size_t n, struct pg_err *err)
{
    char *line = malloc(n + 1);
    if (!line)
        return cli_fail(err, PG_ENOMEM, "chat: no memory for a message of %zu bytes", n);
    if (n)
        memcpy(line, text, n);
    line[n] = '\0';
    const bool command = n > 0 && line[0] == '/' && (n < 2 || line[1] != '/');
    const size_t skip = n > 1 && line[0] == '/' && !command ? 1 : 0;
    int rc = 0;
    if (command)
        rc = command_run(c, line + 1, err);
    else if (strspn(line, " \t\n") < n)
        rc = chat_talk_say(&c->talk, line + skip, n - skip, err);
    free(line);
    if (!rc && c->interactive && c->talk.stop == CHAT_STOP_CONTEXT && !command)
        cli_error(
            "the context of %d tokens is full and the answer not at its end; /save FILE keeps "
            "the conversation, /clear begins again, -c N makes room for N tokens",
            c->talk.n_ctx);
    return rc;
}

/* An interrupt with nothing typed: once more, and it is meant. */
static void on_interrupt(struct chat *c, size_t n_typed)
{
    fputc('\n', stderr);
    c->quits = c->warned && !n_typed;
    c->warned = !n_typed;
    if (c->warned && !c->quits)
        fputs("(Ctrl-C again, Ctrl-D or /quit quits)\n", stderr);
}

/* One message, or command; *code is set where the program ends because of it. */
static void turn(struct chat *c, int *code)
{
    struct pg_err err = {0};
    enum chat_line what = CHAT_MESSAGE;
    const char *text = NULL;
    size_t n = 0;
    int rc = chat_lines_read(c->lines, &what, &text, &n, &err);
    if (!forgive_interrupt(c)) {
        c->quits = true;
        return;
    }
    if (!rc && what == CHAT_INTERRUPTED) {
        on_interrupt(c, n);
        return;
    }
    c->warned = false;
    if (!rc && what == CHAT_END)
        c->quits = true;
    else if (!rc)
        rc = message_take(c, text, n, &err);
    const bool forgiven = forgive_interrupt(c);
    if (rc == PG_ECANCELLED && forgiven)
        fprintf(stderr, "(%s)\n", err.text);
    else if (rc && forgiven)
        say_failed(&err);
    if (rc && !c->interactive)
        *code = CLI_FAILED;
    c->quits |= !forgiven || *code || ferror(stdout);
}

static int chat_run(struct chat *c)
{
    struct pg_err err = {0};
    int code = CLI_OK;
    if (chat_lines_open(&c->lines, chat_talk_most(&c->talk), &err))
        return cli_failed(&err);
    if (c->interactive)
        fprintf(stderr, "%s, context of %d tokens. /help lists commands, Ctrl-D quits.\n",
                pg_mode_name(c->talk.plan.mode), c->talk.n_ctx);
    while (!c->quits)
        turn(c, &code);
    if (cli_interrupted())
        code = cli_interrupt_code();
    return code;
}

int cli_chat(const struct cli_args *args)
{
    struct pg_err err = {0};
    struct chat c = {.interactive = isatty(STDIN_FILENO)};
    if (args->think && args->no_think)
        return cli_usage("chat: --think and --no-think contradict each other");
    if (cli_grammar_check(args))
        return CLI_USAGE;
    int code;
    if (chat_talk_open(&c.talk, args, &err)) {
        code = cli_failed(&err);
        if (!c.talk.template && !args->chat_template)
            fputs("  --chat-template FILE gives one (Jinja); --chat-template chatml is built in.\n",
                  stderr);
    } else {
        code = chat_run(&c);
    }
    chat_lines_close(c.lines);
    chat_talk_close(&c.talk);
    return code;
}
