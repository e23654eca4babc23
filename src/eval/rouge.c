/* SPDX-License-Identifier: MIT
 * ROUGE: how much of a reference a summary has, by n-grams (ROUGE-N) and by the longest common
 * subsequence of words (ROUGE-L). Words are runs of a-z and 0-9 after small letters are made, and
 * are not stemmed: what the package rouge-score does by default.
 */
#include "base/os.h"
#include "eval/score.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------ words ------------------- */

/* A word as it stands in one of the two texts, and the place that its number goes to. */
struct spot {
    const char *word;
    int32_t *id;
};

/* What the character is in a word, 0 if it is in none. */
static char plain(uint32_t cp)
{
    uint32_t small = cp == 0x130 ? 'i' : pg_score_lower(cp);
    return (small >= 'a' && small <= 'z') || (small >= '0' && small <= '9') ? (char)small : 0;
}

/* Words into `out`, each followed by a 0, in at most strlen(text) + 1 bytes. Returns how many. */
static size_t write_words(const char *text, char *out)
{
    size_t n = strlen(text), n_words = 0;
    bool inside = false;
    uint32_t cp;
    for (size_t at = 0; at < n;) {
        int length = pg_score_char(text + at, n - at, &cp);
        char c = plain(cp);
        if (c) {
            n_words += !inside;
            inside = true;
            *out++ = c;
        }
        if (inside && (!c || cp == 0x130)) { /* that one is an i and a dot, which is no letter */
            inside = false;
            *out++ = '\0';
        }
        at += (size_t)length;
    }
    *out = '\0';
    return n_words;
}

static int by_word(const void *a, const void *b)
{
    const struct spot *x = a, *y = b;
    return strcmp(x->word, y->word);
}

/* The same word gets the same number in both texts. */
static int number(struct pg_words w[2], char *const text[2])
{
    size_t n = w[0].n + w[1].n, at = 0;
    struct spot *spot = pg_calloc(n + 1, sizeof(*spot));
    if (!spot)
        return PG_ENOMEM;
    for (int t = 0; t < 2; t++) {
        const char *p = text[t];
        for (size_t i = 0; i < w[t].n; i++, p += strlen(p) + 1)
            spot[at++] = (struct spot){p, &w[t].id[i]};
    }
    qsort(spot, n, sizeof(*spot), by_word);
    int32_t id = 0;
    for (size_t i = 0; i < n; i++) {
        id += i > 0 && by_word(&spot[i - 1], &spot[i]) != 0;
        *spot[i].id = id;
    }
    free(spot);
    return 0;
}

int pg_words_open(struct pg_words out[2], const char *a, const char *b)
{
    const char *source[2] = {a, b};
    char *text[2] = {NULL, NULL};
    int rc = 0;
    memset(out, 0, 2 * sizeof(*out));
    for (int t = 0; t < 2 && !rc; t++) {
        text[t] = malloc(strlen(source[t]) + 1);
        out[t].n = text[t] ? write_words(source[t], text[t]) : 0;
        out[t].id = pg_calloc(out[t].n + 1, sizeof(*out[t].id));
        rc = text[t] && out[t].id && out[t].n < INT32_MAX / 2 ? 0 : PG_ENOMEM;
    }
    rc = rc ? rc : number(out, text);
    free(text[0]);
    free(text[1]);
    if (rc)
        pg_words_close(out);
    return rc;
}

void pg_words_close(struct pg_words out[2])
{
    free(out[0].id);
    free(out[1].id);
    memset(out, 0, 2 * sizeof(*out));
}

/* ------------------------------------------------------------------ ROUGE-N ----------------- */

static int by_ids(const void *a, const void *b, void *length)
{
    const int32_t *x = *(const int32_t *const *)a, *y = *(const int32_t *const *)b;
    for (int i = 0; i < *(const int *)length; i++)
        if (x[i] != y[i])
            return x[i] < y[i] ? -1 : 1;
    return 0;
}

/* Where each n-gram begins, sorted; for free(). */
static const int32_t **sorted_grams(const struct pg_words *w, int n, size_t *n_grams)
{
    *n_grams = w->n >= (size_t)n ? w->n - (size_t)n + 1 : 0;
    const int32_t **gram = pg_calloc(*n_grams + 1, sizeof(*gram));
    for (size_t i = 0; gram && i < *n_grams; i++)
        gram[i] = w->id + i;
    if (gram)
        qsort_r(gram, *n_grams, sizeof(*gram), by_ids, &n);
    return gram;
}

static struct pg_rouge rouge(double common, size_t n_summary, size_t n_reference)
{
    struct pg_rouge r = {common / (double)PG_MAX(n_summary, 1u),
                         common / (double)PG_MAX(n_reference, 1u), 0};
    double sum = r.precision + r.recall;
    r.f1 = sum > 0 ? 2 * r.precision * r.recall / sum : 0;
    return r;
}

static const struct pg_rouge unknown = {(double)NAN, (double)NAN, (double)NAN};

static struct pg_rouge rouge_of_grams(const struct pg_words w[2], int n)
{
    size_t n_a, n_b, common = 0;
    const int32_t **a = sorted_grams(&w[0], n, &n_a), **b = sorted_grams(&w[1], n, &n_b);
    bool ok = a && b;
    for (size_t i = 0, j = 0; ok && i < n_a && j < n_b;) {
        int order = by_ids(&a[i], &b[j], &n);
        common += order == 0;
        i += order <= 0;
        j += order >= 0;
    }
    free(a);
    free(b);
    return ok ? rouge((double)common, n_a, n_b) : unknown;
}

struct pg_rouge pg_rouge_n(const char *summary, const char *reference, int n)
{
    struct pg_words w[2];
    if (n < 1 || pg_words_open(w, summary, reference))
        return unknown;
    struct pg_rouge r = rouge_of_grams(w, n);
    pg_words_close(w);
    return r;
}

/* ------------------------------------------------------------------ ROUGE-L ----------------- */

/* Length of the longest common subsequence, a row of the table at a time; `row` has b->n + 1 zeros.
 */
static uint32_t common_sequence(const struct pg_words *a, const struct pg_words *b, uint32_t *row)
{
    for (size_t i = 0; i < a->n; i++) {
        uint32_t diagonal = 0;
        for (size_t j = 0; j < b->n; j++) {
            uint32_t above = row[j + 1];
            row[j + 1] = a->id[i] == b->id[j] ? diagonal + 1 : PG_MAX(above, row[j]);
            diagonal = above;
        }
    }
    return row[b->n];
}

struct pg_rouge pg_rouge_l(const char *summary, const char *reference)
{
    struct pg_words w[2];
    if (pg_words_open(w, summary, reference))
        return unknown;
    struct pg_rouge r = unknown;
    uint32_t *row = pg_calloc(w[1].n + 1, sizeof(*row));
    if (row)
        r = rouge((double)common_sequence(&w[0], &w[1], row), w[0].n, w[1].n);
    free(row);
    pg_words_close(w);
    return r;
}
