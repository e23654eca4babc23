/* SPDX-License-Identifier: MIT
 * Marks of an answer: exact match and F1 over words, after SQuAD's normalisation.
 *
 * A text is made small, loses the punctuation of ASCII and the words a, an and the, and its words
 * are what is left between white space. Small letters are made of those of ASCII, Latin, Greek,
 * Cyrillic and Armenian, one by one: a capital sigma becomes σ even at a word's end. Where an
 * article touches a character beyond ASCII, what is a letter is known by blocks of characters.
 */
#include "eval/score.h"

#include "base/os.h"
#include "text/utf8.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

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

struct capitals {
    uint16_t first, last, step;
    int16_t to_small;
};

static const struct capitals capitals[] = {
    {0x41, 0x5A, 1, 32},    {0xC0, 0xD6, 1, 32},        {0xD8, 0xDE, 1, 32},
    {0x100, 0x12E, 2, 1},   {0x132, 0x136, 2, 1},       {0x139, 0x147, 2, 1},
    {0x14A, 0x176, 2, 1},   {0x178, 0x178, 1, -121},    {0x179, 0x17D, 2, 1},
    {0x1CD, 0x1DB, 2, 1},   {0x1DE, 0x1EE, 2, 1},       {0x1F8, 0x21E, 2, 1},
    {0x222, 0x232, 2, 1},   {0x386, 0x386, 1, 38},      {0x388, 0x38A, 1, 37},
    {0x38C, 0x38C, 1, 64},  {0x38E, 0x38F, 1, 63},      {0x391, 0x3A1, 1, 32},
    {0x3A3, 0x3AB, 1, 32},  {0x3D8, 0x3EE, 2, 1},       {0x400, 0x40F, 1, 80},
    {0x410, 0x42F, 1, 32},  {0x460, 0x480, 2, 1},       {0x48A, 0x4BE, 2, 1},
    {0x4C0, 0x4C0, 1, 15},  {0x4C1, 0x4CD, 2, 1},       {0x4D0, 0x52E, 2, 1},
    {0x531, 0x556, 1, 48},  {0x1E00, 0x1E94, 2, 1},     {0x1E9E, 0x1E9E, 1, -7615},
    {0x1EA0, 0x1EFE, 2, 1}, {0x212A, 0x212A, 1, -8383}, {0x212B, 0x212B, 1, -8262},
};

uint32_t pg_score_lower(uint32_t cp)
{
    for (size_t i = 0; i < PG_COUNT(capitals); i++) {
        const struct capitals *c = &capitals[i];
        if (cp >= c->first && cp <= c->last) {
            bool is_capital = (cp - c->first) % c->step == 0;
            return is_capital ? (uint32_t)((int32_t)cp + c->to_small) : cp;
        }
    }
    return cp;
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

/* Part of a word, so that an article that touches it is none. */
static bool is_letter(uint32_t cp)
{
    static const struct range none[] = {
        {0x00, 0x2F},     {0x3A, 0x40},     {0x5B, 0x60},     {0x7B, 0xA9},     {0xAB, 0xB1},
        {0xB4, 0xB4},     {0xB6, 0xB8},     {0xBB, 0xBB},     {0xBF, 0xBF},     {0xD7, 0xD7},
        {0xF7, 0xF7},     {0x2C2, 0x2C5},   {0x2D2, 0x2DF},   {0x300, 0x36F},   {0x2000, 0x206F},
        {0x207A, 0x207E}, {0x208A, 0x208E}, {0x20A0, 0x20F0}, {0x2190, 0x245F}, {0x2500, 0x2775},
        {0x2794, 0x2BFF}, {0x3000, 0x3004}, {0x3008, 0x3020}, {0xFE10, 0xFE6F}, {0xFF01, 0xFF0F},
        {0xFF1A, 0xFF20}, {0xFF3B, 0xFF40}, {0xFF5B, 0xFF65}, {0xFFF9, 0xFFFD}, {0x1F000, 0x1FBEF},
    };
    return !in_ranges(none, PG_COUNT(none), cp);
}

/* ------------------------------------------------------------------ normalisation ----------- */

static size_t put(char *out, uint32_t cp, const char *as_it_was, int length)
{
    if (cp == 0xFFFD) { /* a byte that is no UTF-8 stays itself */
        memcpy(out, as_it_was, (size_t)length);
        return (size_t)length;
    }
    return (size_t)pg_utf8_encode(cp, out);
}

/* Small letters, no punctuation. Returns the length, which no letter's small form increases but
 * that of U+0130, from two bytes to three. */
static size_t make_plain(const char *text, char *out)
{
    size_t n = strlen(text), n_out = 0;
    uint32_t cp;
    for (size_t at = 0; at < n;) {
        int length = pg_score_char(text + at, n - at, &cp);
        if (cp == 0x130) { /* i and the dot above it */
            memcpy(out + n_out, "i\xCC\x87", 3);
            n_out += 3;
        } else if (!is_punctuation(cp)) {
            n_out += put(out + n_out, pg_score_lower(cp), text + at, length);
        }
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

/* For free(); NULL when out of memory. */
static char *normalise(const char *text)
{
    size_t n = strlen(text), bytes;
    char *out = __builtin_add_overflow(n, n / 2 + 1, &bytes) ? NULL : malloc(bytes);
    if (out)
        squeeze(out, make_plain(text, out));
    return out;
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

static double f1_of(char **a, size_t n_a, char **b, size_t n_b)
{
    if (n_a == 0 || n_b == 0)
        return n_a == n_b; /* an empty answer is right where the truth is empty */
    double common = (double)in_common(a, n_a, b, n_b);
    double precision = common / (double)n_a, recall = common / (double)n_b;
    return common > 0 ? 2 * precision * recall / (precision + recall) : 0;
}

double pg_answer_f1(const char *answer, const char *truth)
{
    char *a = normalise(answer), *b = normalise(truth);
    size_t n_a = 0, n_b = 0;
    char **word_a = a ? cut_words(a, &n_a) : NULL, **word_b = b ? cut_words(b, &n_b) : NULL;
    double f1 = word_a && word_b ? f1_of(word_a, n_a, word_b, n_b) : (double)NAN;
    free(word_a);
    free(word_b);
    free(a);
    free(b);
    return f1;
}

double pg_exact_match(const char *answer, const char *truth)
{
    char *a = normalise(answer), *b = normalise(truth);
    double same = a && b ? strcmp(a, b) == 0 : (double)NAN;
    free(a);
    free(b);
    return same;
}
