/* SPDX-License-Identifier: MIT
 * Sizes and lists as a command line writes them.
 */
#include "cli.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* The factor of a unit, 0 for an unknown one. "M", "MB" and "MiB" are the same: memory is sold,
 * and limited by the kernel, in powers of two. */
static double unit_factor(const char *unit)
{
    static const char letters[] = "KMGT";
    if (unit[0] == '\0' || !strcasecmp(unit, "b"))
        return 1;
    const char upper = (char)(unit[0] >= 'a' ? unit[0] - 'a' + 'A' : unit[0]);
    const char *at = strchr(letters, upper);
    if (!at || (unit[1] && strcasecmp(unit + 1, "b") && strcasecmp(unit + 1, "ib")))
        return 0;
    return ldexp(1, 10 * (int)(at - letters + 1));
}

bool cli_size_parse(const char *text, uint64_t whole, uint64_t *out)
{
    /* strtod alone would also take "inf", "nan", "0x1p3" and signs. */
    const size_t n_digits = strspn(text, "0123456789.");
    if (n_digits == 0 || n_digits > 24 || strchr(".", text[0]))
        return false;
    char number[32] = {0};
    memcpy(number, text, n_digits);
    char *end;
    const double value = strtod(number, &end);
    if (*end)
        return false;
    const char *unit = text + n_digits;
    unit += strspn(unit, " ");
    const bool percent = !strcmp(unit, "%");
    if (percent && value > 100)
        return false;
    const double bytes = percent ? value / 100 * (double)whole : value * unit_factor(unit);
    if (!(bytes >= 1 && bytes < 0x1p62))
        return false;
    *out = (uint64_t)bytes;
    return true;
}

char *cli_size_text(uint64_t bytes, char out[16])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double v = (double)bytes;
    int i = 0;
    for (; v >= 1023.95 && i < 6; i++)
        v /= 1024;
    snprintf(out, 16, i == 0 ? "%.0f %s" : v < 9.995 ? "%.2f %s" : "%.1f %s", v, units[i]);
    return out;
}

int cli_list_split(const char *text, char (*items)[CLI_ITEM], int cap)
{
    int n = 0;
    for (const char *p = text;; n++) {
        const size_t len = strcspn(p, ",");
        if (len == 0 || len >= CLI_ITEM || n == cap)
            return -1;
        memcpy(items[n], p, len);
        items[n][len] = '\0';
        if (p[len] == '\0')
            return n + 1;
        p += len + 1;
    }
}

static bool take_number(const char **at, int *out)
{
    char *end;
    errno = 0;
    const long v = strtol(*at, &end, 10);
    if (errno || **at < '0' || **at > '9' || v < 1 || v > 65536)
        return false;
    *at = end;
    *out = (int)v;
    return true;
}

/* 16x256, or with the multiplication sign. */
static bool take_times(const char **text)
{
    const bool sign = !strncmp(*text, "\xC3\x97", 2), letter = **text == 'x' || **text == 'X';
    *text += sign ? 2 : letter;
    return sign || letter;
}

bool cli_batch_parse(const char *text, struct cli_batch *out)
{
    *out = (struct cli_batch){0};
    if (!take_number(&text, &out->n_seq) || !take_times(&text) ||
        !take_number(&text, &out->seq_len))
        return false;
    if (!*text)
        return true;
    out->source_len = out->seq_len;
    return take_times(&text) && take_number(&text, &out->seq_len) && !*text;
}
