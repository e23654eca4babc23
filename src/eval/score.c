/* SPDX-License-Identifier: MIT
 * Marks of an answer: exact match and F1 over words, after SQuAD's normalisation.
 *
 * What Python's str.lower(), re and str.split() do in SQuAD's scripts: a text is made small, with
 * the one letter that becomes two and the sigma at a word's end, loses the punctuation of ASCII and
 * the words a, an and the, and its words are what is left between white space. The tables are
 * utf8proc's; docs/decisions/011-unicode.md says how they differ from those of a given Python.
 */
#include "eval/score.h"

#include "base/os.h"
#include "text/utf8.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

/* ------------------------------------------------------------------ characters -------------- */

int pg_score_char(const char *s, size_t n, uint32_t *cp)
{
    int length = pg_utf8_scan(s, n);
    if (length <= 0) {
        *cp = 0xFFFD;
        return 1;
    }
    *cp = pg_utf8_decode(s, length);
    return length;
}

uint32_t pg_score_lower(uint32_t cp)
{
    return cp < 0x80 ? cp + (cp >= 'A' && cp <= 'Z' ? 32 : 0)
                     : (uint32_t)utf8proc_tolower((utf8proc_int32_t)cp);
}

struct range {
    uint32_t first, last;
};

static bool in_ranges(const struct range *r, size_t n, uint32_t cp)
{
    for (size_t i = 0; i < n; i++)
        if (cp >= r[i].first && cp <= r[i].last)
            return true;
    return false;
}

static bool is_white(uint32_t cp)
{
    static const struct range white[] = {
        {0x09, 0x0D},     {0x1C, 0x20},     {0x85, 0x85},     {0xA0, 0xA0},     {0x1680, 0x1680},
        {0x2000, 0x200A}, {0x2028, 0x2029}, {0x202F, 0x202F}, {0x205F, 0x205F}, {0x3000, 0x3000},
    };
    return in_ranges(white, PG_COUNT(white), cp);
}

static bool is_punctuation(uint32_t cp)
{
    static const struct range ascii[] = {{0x21, 0x2F}, {0x3A, 0x40}, {0x5B, 0x60}, {0x7B, 0x7E}};
    return in_ranges(ascii, PG_COUNT(ascii), cp);
}

static utf8proc_category_t category(uint32_t cp)
{
    return utf8proc_category((utf8proc_int32_t)cp);
}

/* Part of a word, so that an article that touches it is none: letters and numbers. */
static bool is_letter(uint32_t cp)
{
    switch (category(cp)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
        return true;
    default:
        return false;
    }
}

/* Looked through, in both directions, for a letter that makes a sigma the last of a word. */
static bool is_ignorable(uint32_t cp)
{
    static const struct range inside_words[] = {
        {0x27, 0x27},     {0x2E, 0x2E},     {0x3A, 0x3A},     {0xB7, 0xB7},
        {0x387, 0x387},   {0x55F, 0x55F},   {0x5F4, 0x5F4},   {0x2018, 0x2019},
        {0x2024, 0x2024}, {0x2027, 0x2027}, {0xFE13, 0xFE13}, {0xFE52, 0xFE52},
        {0xFE55, 0xFE55}, {0xFF07, 0xFF07}, {0xFF0E, 0xFF0E}, {0xFF1A, 0xFF1A},
    };
    switch (category(cp)) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_SK:
        return true;
    default:
        return in_ranges(inside_words, PG_COUNT(inside_words), cp);
    }
}

/* A capital or a small letter, of those that are not ignorable. */
static bool is_cased(uint32_t cp)
{
    static const struct range others[] = {
        {0xAA, 0xAA},       {0xBA, 0xBA},       {0x2160, 0x217F},   {0x24B6, 0x24E9},
        {0x1F130, 0x1F149}, {0x1F150, 0x1F169}, {0x1F170, 0x1F189},
    };
    utf8proc_category_t c = category(cp);
    return c == UTF8PROC_CATEGORY_LU || c == UTF8PROC_CATEGORY_LL || c == UTF8PROC_CATEGORY_LT ||
           in_ranges(others, PG_COUNT(others), cp);
}

/* ------------------------------------------------------------------ normalisation ----------- */

/* Whether the next character that counts is a letter with case: then no word ends before it. */
static bool goes_on(const char *s, size_t n)
{
    uint32_t cp;
    for (size_t at = 0; at < n;) {
        at += (size_t)pg_score_char(s + at, n - at, &cp);
        if (!is_ignorable(cp))
            return is_cased(cp);
    }
    return false;
}

/* The small form of the character, which `rest` follows; at most three bytes for two, and no more
 * bytes than before for others. `cased`: a letter with case is the last before it that counts. */
static size_t put_small(char *out, uint32_t cp, bool cased, const char *rest, size_t n_rest)
{
    if (cp == 0x130) { /* i and the dot above it */
        memcpy(out, "i\xCC\x87", 3);
        return 3;
    }
    bool is_last = cp == 0x3A3 && cased && !goes_on(rest, n_rest);
    return (size_t)pg_utf8_encode(is_last ? 0x3C2 : pg_score_lower(cp), out);
}

/* Small letters, no punctuation. Returns the length, half as much again as before at most. */
static size_t make_plain(const char *text, char *out)
{
    size_t n = strlen(text), n_out = 0;
    bool cased = false;
    uint32_t cp;
    for (size_t at = 0; at < n;) {
        int length = pg_score_char(text + at, n - at, &cp);
        const char *rest = text + at + length;
        if (cp == 0xFFFD) { /* a byte that is no UTF-8 stays itself */
            memcpy(out + n_out, text + at, (size_t)length);
            n_out += (size_t)length;
        } else if (!is_punctuation(cp)) {
            n_out += put_small(out + n_out, cp, cased, rest, n - (size_t)(rest - text));
        }
        if (!is_ignorable(cp))
            cased = is_cased(cp);
        at += (size_t)length;
    }
    return n_out;
}

static size_t letters_at(const char *s, size_t n)
{
    size_t at = 0;
    uint32_t cp;
    while (at < n) {
        int length = pg_score_char(s + at, n - at, &cp);
        if (!is_letter(cp))
            break;
        at += (size_t)length;
    }
    return at;
}

static bool is_article(const char *s, size_t n)
{
    return (n == 1 && *s == 'a') || (n == 2 && !memcmp(s, "an", 2)) ||
           (n == 3 && !memcmp(s, "the", 3));
}

/* Articles out, white space to single spaces between words; in place. */
static size_t squeeze(char *s, size_t n)
{
    size_t n_out = 0;
    bool gap = false;
    uint32_t cp;
    for (size_t at = 0; at < n;) {
        size_t letters = letters_at(s + at, n - at);
        size_t length = letters ? letters : (size_t)pg_score_char(s + at, n - at, &cp);
        if (letters ? is_article(s + at, letters) : is_white(cp)) {
            gap = true;
        } else {
            if (gap && n_out)
                s[n_out++] = ' '; /* the gap had a byte at least */
            memmove(s + n_out, s + at, length);
            n_out += length;
            gap = false;
        }
        at += length;
    }
    s[n_out] = '\0';
    return n_out;
}

char *pg_score_normalise(const char *text)
{
    size_t n = strlen(text), bytes;
    char *out = __builtin_add_overflow(n, n / 2 + 1, &bytes) ? NULL : malloc(bytes);
    if (out)
        squeeze(out, make_plain(text, out));
    return out;
}

bool pg_score_is_empty(const char *text)
{
    char *s = pg_score_normalise(text);
    bool empty = s && !*s;
    free(s);
    return empty;
}

/* ------------------------------------------------------------------ marks ------------------- */

/* Cuts at the spaces; for free(). */
static char **cut_words(char *text, size_t *n)
{
    size_t spaces = 0;
    for (const char *p = text; *p; p++)
        spaces += *p == ' ';
    char **word = pg_calloc(spaces + 1, sizeof(*word));
    *n = 0;
    for (char *p = text; word && *p;) {
        word[(*n)++] = p;
        p = strchr(p, ' ');
        if (!p)
            break;
        *p++ = '\0';
    }
    return word;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Words that both have, counted as often as both have them. Sorts both. */
static size_t in_common(char **a, size_t n_a, char **b, size_t n_b)
{
    size_t n = 0;
    qsort(a, n_a, sizeof(*a), by_text);
    qsort(b, n_b, sizeof(*b), by_text);
    for (size_t i = 0, j = 0; i < n_a && j < n_b;) {
        int order = strcmp(a[i], b[j]);
        n += order == 0;
        i += order <= 0;
        j += order >= 0;
    }
    return n;
}

static double f1_of(char **a, size_t n_a, char **b, size_t n_b, bool v2)
{
    if (n_a == 0 || n_b == 0)
        return v2 && n_a == n_b;
    double common = (double)in_common(a, n_a, b, n_b);
    double precision = common / (double)n_a, recall = common / (double)n_b;
    return common > 0 ? 2 * precision * recall / (precision + recall) : 0;
}

double pg_score_f1(const char *answer, const char *truth, bool v2)
{
    char *a = pg_score_normalise(answer), *b = pg_score_normalise(truth);
    size_t n_a = 0, n_b = 0;
    char **word_a = a ? cut_words(a, &n_a) : NULL, **word_b = b ? cut_words(b, &n_b) : NULL;
    double f1 = word_a && word_b ? f1_of(word_a, n_a, word_b, n_b, v2) : (double)NAN;
    free(word_a);
    free(word_b);
    free(a);
    free(b);
    return f1;
}

double pg_answer_f1(const char *answer, const char *truth)
{
    return pg_score_f1(answer, truth, true);
}

double pg_exact_match(const char *answer, const char *truth)
{
    char *a = pg_score_normalise(answer), *b = pg_score_normalise(truth);
    double same = a && b ? strcmp(a, b) == 0 : (double)NAN;
    free(a);
    free(b);
    return same;
}
