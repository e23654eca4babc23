/* SPDX-License-Identifier: MIT
 * The text is cut before every plain character (a starter that joins nothing before it), and each
 * cut is normalised alone:
 *   1. characters are replaced by what they decompose to (utf8proc);
 *   2. marks between two starters are sorted by combining class, equals staying in order. This is
 *      ours, since utf8proc swaps neighbours: a text of marks alone would take it quadratic time;
 *   3. each mark joins the last starter, unless a mark of its class or a starter stands between
 *      (utf8proc).
 */
#include "text/nfc.h"
#include "base/err.h"
#include "text/utf8.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

enum { MOST_PARTS = 8 }; /* of a character; Unicode has four at most */

struct cut {
    int32_t *cp, *sorted;
    size_t n, cap;
};

static int class_of(int32_t cp)
{
    return utf8proc_get_property(cp)->combining_class;
}

static size_t split(int32_t cp, int32_t parts[MOST_PARTS])
{
    utf8proc_ssize_t n =
        utf8proc_decompose_char(cp, parts, MOST_PARTS, UTF8PROC_DECOMPOSE | UTF8PROC_STABLE, NULL);
    PG_ASSERT(n > 0 && n <= MOST_PARTS);
    return (size_t)n;
}

static size_t join(int32_t *cp, size_t n)
{
    utf8proc_ssize_t left =
        utf8proc_normalize_utf32(cp, (utf8proc_ssize_t)n, UTF8PROC_COMPOSE | UTF8PROC_STABLE);
    PG_ASSERT(left >= 0 && (size_t)left <= n);
    return (size_t)left;
}

/* The first characters with a class, or a part in changing anything, are past U+0300. */
static bool is_plain(uint32_t u)
{
    if (u < 0x300)
        return true;
    int32_t cp = (int32_t)u, parts[MOST_PARTS];
    const utf8proc_property_t *p = utf8proc_get_property(cp);
    bool joins = p->comb_index >= 0x8000 && p->comb_index != UINT16_MAX;
    bool jamo = (u >= 0x1161 && u <= 0x1175) || (u >= 0x11a8 && u <= 0x11c2);
    if (p->combining_class || joins || jamo)
        return false;
    if (p->decomp_seqindex == UINT16_MAX || p->decomp_type)
        return true;
    return join(parts, split(cp, parts)) == 1 && parts[0] == cp;
}

bool pg_nfc_is_plain(const char *s, size_t n)
{
    for (size_t i = 0; i < n;) {
        int len = pg_utf8_scan(s + i, n - i);
        if (len > 1 && !is_plain(pg_utf8_decode(s + i, len)))
            return false;
        i += (size_t)PG_MAX(len, 1);
    }
    return true;
}

static int add(struct cut *cut, int32_t cp, struct pg_err *err)
{
    if (cut->n + MOST_PARTS > cut->cap) {
        size_t cap = PG_MAX(2 * cut->cap, 64);
        int32_t *c = realloc(cut->cp, cap * sizeof(*c));
        if (c)
            cut->cp = c;
        int32_t *sorted = c ? realloc(cut->sorted, cap * sizeof(*c)) : NULL;
        if (!sorted)
            return pg_fail(err, PG_ENOMEM, "out of memory for normalising text");
        cut->sorted = sorted;
        cut->cap = cap;
    }
    cut->n += split(cp, cut->cp + cut->n);
    return 0;
}

/* Sorts cp[from, to) by class: a counting sort, which keeps equals in order. */
static void sort_marks(struct cut *cut, size_t from, size_t to)
{
    size_t start[257] = {0};

    for (size_t i = from; i < to; i++)
        start[class_of(cut->cp[i]) + 1]++;
    for (int i = 0; i < 256; i++)
        start[i + 1] += start[i];
    for (size_t i = from; i < to; i++)
        cut->sorted[start[class_of(cut->cp[i])]++] = cut->cp[i];
    memcpy(cut->cp + from, cut->sorted, (to - from) * sizeof(*cut->cp));
}

static size_t flush(struct cut *cut, char *out)
{
    size_t n = 0;
    for (size_t i = 0, to; i < cut->n; i = to + 1) {
        for (to = i; to < cut->n && class_of(cut->cp[to]);)
            to++;
        if (to - i > 1)
            sort_marks(cut, i, to);
    }
    cut->n = join(cut->cp, cut->n);
    for (size_t i = 0; i < cut->n; i++)
        n += (size_t)pg_utf8_encode((uint32_t)cut->cp[i], out + n);
    cut->n = 0;
    return n;
}

static int normalise(struct cut *cut, const char *s, size_t n, char *out, size_t *n_out,
                     struct pg_err *err)
{
    *n_out = 0;
    for (size_t i = 0; i < n;) {
        int len = pg_utf8_scan(s + i, n - i);
        PG_ASSERT(len > 0);
        uint32_t cp = pg_utf8_decode(s + i, len);
        if (is_plain(cp))
            *n_out += flush(cut, out + *n_out);
        PG_TRY(add(cut, (int32_t)cp, err));
        i += (size_t)len;
    }
    *n_out += flush(cut, out + *n_out);
    return 0;
}

int pg_nfc(const char *s, size_t n, char *out, size_t *n_out, struct pg_err *err)
{
    struct cut cut = {0};
    int rc = normalise(&cut, s, n, out, n_out, err);
    free(cut.cp);
    free(cut.sorted);
    return rc;
}
