/* SPDX-License-Identifier: MIT
 * The terminal: messages, a progress line, interrupts.
 *
 * The progress line lives on stderr and is rewritten in place. It appears only on a terminal, and
 * only when the work has lasted two seconds, so that quick work stays quiet.
 */
#include "cli.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* The signal that asks for an end, or 0. A handler has no other way to tell the program. */
static volatile sig_atomic_t interrupted;
/* Whether the cursor stands behind a progress line. */
static bool line_shown;
/* Whether the user has been told that standard output cannot be written. */
static bool stdout_told;

#define PATIENCE_NS 2000000000u
#define REFRESH_NS  100000000u

uint64_t cli_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void cli_progress_clear(void)
{
    if (line_shown)
        fputs("\r\033[K", stderr);
    line_shown = false;
}

static void message(const char *fmt, va_list ap)
{
    char text[1024];
    cli_progress_clear();
    vsnprintf(text, sizeof(text), fmt, ap);
    fputs("pregate: ", stderr);
    cli_print_safe(stderr, text, strlen(text));
    fputc('\n', stderr);
}

void cli_error(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    message(fmt, ap);
    va_end(ap);
}

int cli_usage(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    message(fmt, ap);
    va_end(ap);
    return CLI_USAGE;
}

int cli_failed(const struct pg_err *err)
{
    if (err->code == PG_ECANCELLED && cli_interrupted()) {
        cli_error("interrupted");
        return cli_interrupt_code();
    }
    cli_error("%s", err->text[0] ? err->text : pg_error_text(err->code));
    if (err->code == PG_EBUDGET)
        fputs("  `pregate plan MODEL --memory SIZE` shows what the memory is needed for;\n"
              "  a smaller -c (context), -b (batch) or --kv f16 needs less.\n",
              stderr);
    else if (err->code == PG_ECONTEXT)
        fputs("  -c N makes room for N tokens.\n", stderr);
    return CLI_FAILED;
}

static void eta_text(double seconds, char out[24])
{
    if (!(seconds < 360000))
        snprintf(out, 24, "?");
    else if (seconds < 60)
        snprintf(out, 24, "%.0f s", seconds);
    else if (seconds < 3600)
        snprintf(out, 24, "%.0f min %02.0f s", (double)((int)seconds / 60),
                 (double)((int)seconds % 60));
    else
        snprintf(out, 24, "%.0f h %02.0f min", (double)((int)seconds / 3600),
                 (double)((int)seconds % 3600 / 60));
}

static void progress_draw(const struct cli_progress *p, uint64_t done, uint64_t total,
                          double seconds)
{
    enum { WIDTH = 24 };
    char bar[WIDTH + 1], rate[16], eta[24];
    const double part = total ? (double)done / (double)total : 0;
    for (int i = 0; i < WIDTH; i++)
        bar[i] = (double)i < part * WIDTH ? '#' : '.';
    bar[WIDTH] = '\0';
    const double speed = seconds > 0 ? (double)done / seconds : 0;
    /* Only tokens and bytes have a rate that says something, and only bytes come in millions. */
    const bool is_tokens = !strcmp(p->what, "prompt") || !strcmp(p->what, "tokens");
    const bool is_bytes = !is_tokens && total > 4u << 20;
    if (is_bytes)
        cli_size_text((uint64_t)speed, rate);
    else
        snprintf(rate, sizeof(rate), "%.1f tok", speed);
    const bool has_rate = is_bytes || is_tokens;
    eta_text(speed > 0 && total >= done ? (double)(total - done) / speed : 1e9, eta);
    fprintf(stderr, "\r\033[K%s [%s] %3.0f %%  %s%s%s left", p->prefix ? p->prefix : p->what, bar,
            part * 100, has_rate ? rate : "", has_rate ? "/s  " : "", eta);
    fflush(stderr);
    line_shown = true;
}

int cli_progress_step(void *user, const char *what, uint64_t done, uint64_t total)
{
    struct cli_progress *p = user;
    const uint64_t now = cli_now_ns();
    if (strncmp(p->what, what, sizeof(p->what) - 1) || done < p->last_done || !p->start_ns) {
        cli_progress_clear();
        p->start_ns = now;
        snprintf(p->what, sizeof(p->what), "%s", what);
    }
    p->last_done = done;
    const bool due = now - p->start_ns > PATIENCE_NS && now - p->shown_ns > REFRESH_NS;
    if (done >= total) {
        cli_progress_clear();
        p->start_ns = 0;
    } else if (due && isatty(STDERR_FILENO)) {
        p->shown_ns = now;
        progress_draw(p, done, total, (double)(now - p->start_ns) * 1e-9);
    }
    return cli_interrupted();
}

void cli_progress_log(void *user, enum pg_log_level level, const char *text)
{
    const struct cli_progress *p = user;
    if (level <= PG_LOG_WARN || p->verbose)
        cli_error("%s", text);
}

static void on_interrupt(int number)
{
    interrupted = number;
}

void cli_signals_install(void)
{
    static const int ends[] = {SIGINT, SIGTERM, SIGHUP};
    struct sigaction old;
    /* SA_RESETHAND: the same signal again ends a program that does not stop by itself. */
    struct sigaction act = {.sa_handler = on_interrupt, .sa_flags = (int)SA_RESETHAND};
    sigemptyset(&act.sa_mask);
    for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++) {
        sigaction(ends[i], NULL, &old);
        if (ends[i] != SIGHUP || old.sa_handler != SIG_IGN) /* nohup's wish */
            sigaction(ends[i], &act, NULL);
    }
    signal(SIGXFSZ, SIG_IGN); /* a file that may not grow is an error of its write */
    signal(SIGPIPE, SIG_IGN); /* so is a reader that has gone, and other files are still written */
}

bool cli_interrupt_forget(int number)
{
    const struct sigaction act = {.sa_handler = on_interrupt, .sa_flags = (int)SA_RESETHAND};
    if (interrupted != number)
        return false;
    interrupted = 0;
    sigaction(number, &act, NULL);
    return true;
}

int cli_interrupt_code(void)
{
    return 128 + (int)interrupted;
}

bool cli_interrupted(void)
{
    return interrupted != 0;
}

void cli_print_safe(FILE *out, const char *text, size_t n)
{
    if (!isatty(fileno(out))) {
        fwrite(text, 1, n, out);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        const unsigned char c = (unsigned char)text[i];
        /* U+0080 … U+009F are control characters too, and are two bytes in UTF-8. */
        const bool c1 = c == 0xC2 && i + 1 < n && ((unsigned char)text[i + 1] & 0xE0) == 0x80;
        if (c1) {
            fputs("\xEF\xBF\xBD", out);
            i++;
        } else if ((c < 0x20 && c != '\n' && c != '\t') || c == 0x7F) {
            fputs("\xEF\xBF\xBD", out);
        } else {
            fputc(c, out);
        }
    }
}

int cli_stdout_failed(struct pg_err *err)
{
    stdout_told = true;
    return cli_fail(err, PG_EIO, "standard output: %s", strerror(errno ? errno : EIO));
}

int cli_stdout_finish(int code)
{
    struct pg_err err;
    if (!fflush(stdout) && !ferror(stdout))
        return code;
    if (!stdout_told) {
        cli_stdout_failed(&err);
        cli_error("%s", err.text);
    }
    return code ? code : CLI_FAILED;
}
