/* SPDX-License-Identifier: MIT
 * The text is cut before every plain character (a starter that joins nothing before it), and each
 * cut is normalised alone:
 *   1. characters are replaced by what they decompose to, again and again;
 *   2. marks between two starters are sorted by combining class, equals staying in order;
 *   3. each mark joins the last starter, unless a mark of its class or a starter stands between.
 */
#include "text/nfc.h"
#include "base/err.h"
#include "text/nfc_table.h"
#include "text/utf8.h"

#include <stdlib.h>
#include <string.h>

enum { L_BASE = 0x1100, V_BASE = 0x1161, T_BASE = 0x11A7, S_BASE = 0xAC00 };
enum { L_COUNT = 19, V_COUNT = 21, T_COUNT = 28, S_COUNT = L_COUNT * V_COUNT * T_COUNT };

struct mark {
    uint32_t cp, class;
};

struct cut {
    struct mark *c, *sorted;
    size_t n, cap;
};

static uint32_t in_ranges(const struct pg_nfc_range *r, int n, uint32_t cp)
{
    int lo = 0, hi = n;
    while (lo < hi) {
        int mid = lo + (hi - lo) / 2;
        if (cp > r[mid].hi)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < n && cp >= r[lo].lo ? r[lo].value : 0;
}

/* The first characters with a class, or a part in changing anything, are past U+0300. */
static bool is_plain(uint32_t cp)
{
    return cp < 0x300 || !in_ranges(pg_nfc_unplain, pg_nfc_n_unplain, cp);
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

static const struct pg_nfc_pair *find_split(uint32_t cp)
{
    int lo = 0, hi = pg_nfc_n_decomposed;
    while (lo < hi) {
        int mid = lo + (hi - lo) / 2;
        if (pg_nfc_decomposed[mid].cp < cp)
            lo = mid + 1;
        else
            hi = mid;
    }
    const struct pg_nfc_pair *p = &pg_nfc_decomposed[lo];
    return lo < pg_nfc_n_decomposed && p->cp == cp ? p : NULL;
}

/* What a and b make, or 0. */
static uint32_t join(uint32_t a, uint32_t b)
{
    int lo = 0, hi = pg_nfc_n_composed;

    if (a - L_BASE < L_COUNT && b - V_BASE < V_COUNT)
        return S_BASE + ((a - L_BASE) * V_COUNT + (b - V_BASE)) * T_COUNT;
    if (a - S_BASE < S_COUNT && (a - S_BASE) % T_COUNT == 0 && b - T_BASE - 1 < T_COUNT - 1)
        return a + (b - T_BASE);
    while (lo < hi) {
        int mid = lo + (hi - lo) / 2;
        const struct pg_nfc_pair *p = &pg_nfc_composed[mid];
        if (p->a < a || (p->a == a && p->b < b))
            lo = mid + 1;
        else
            hi = mid;
    }
    const struct pg_nfc_pair *p = &pg_nfc_composed[lo];
    return lo < pg_nfc_n_composed && p->a == a && p->b == b ? p->cp : 0;
}

static int add(struct cut *cut, uint32_t cp, struct pg_err *err)
{
    if (cut->n == cut->cap) {
        size_t cap = PG_MAX(2 * cut->cap, 64);
        struct mark *c = realloc(cut->c, cap * sizeof(*c));
        if (c)
            cut->c = c;
        struct mark *sorted = c ? realloc(cut->sorted, cap * sizeof(*c)) : NULL;
        if (!sorted)
            return pg_fail(err, PG_ENOMEM, "out of memory for normalising text");
        cut->sorted = sorted;
        cut->cap = cap;
    }
    cut->c[cut->n++] = (struct mark){cp, in_ranges(pg_nfc_class, pg_nfc_n_class, cp)};
    return 0;
}

/* Only the first part of a decomposition decomposes further, so that what follows can wait on a
 * short stack: no character has more than four parts. Hangul syllables stay whole: nothing before
 * or after them looks inside but a trailing consonant, which joins the whole one. */
static int add_split(struct cut *cut, uint32_t cp, struct pg_err *err)
{
    uint32_t rest[8];
    int n = 0;
    const struct pg_nfc_pair *p;

    while ((p = find_split(cp))) {
        if (p->b) {
            PG_ASSERT(n < (int)PG_COUNT(rest));
            rest[n++] = p->b;
        }
        cp = p->a;
    }
    PG_TRY(add(cut, cp, err));
    while (n > 0)
        PG_TRY(add(cut, rest[--n], err));
    return 0;
}

/* Sorts c[from, to) by class: a counting sort, which keeps equals in order. */
static void sort_marks(struct cut *cut, size_t from, size_t to)
{
    size_t start[257] = {0};

    for (size_t i = from; i < to; i++)
        start[cut->c[i].class + 1]++;
    for (int i = 0; i < 256; i++)
        start[i + 1] += start[i];
    for (size_t i = from; i < to; i++)
        cut->sorted[start[cut->c[i].class]++] = cut->c[i];
    memcpy(cut->c + from, cut->sorted, (to - from) * sizeof(*cut->c));
}

static void sort_cut(struct cut *cut)
{
    for (size_t i = 0; i < cut->n;) {
        size_t to = i;
        while (to < cut->n && cut->c[to].class)
            to++;
        if (to - i > 1)
            sort_marks(cut, i, to);
        i = to + 1;
    }
}

static void join_cut(struct cut *cut)
{
    size_t starter = 0, kept = 0;
    bool have_starter = false;
    uint32_t last_class = 0;

    for (size_t i = 0; i < cut->n; i++) {
        struct mark m = cut->c[i];
        /* Something kept since the starter stands between, unless its class is lower. */
        bool blocked = !have_starter || (kept > starter + 1 && last_class >= m.class);
        uint32_t whole = blocked ? 0 : join(cut->c[starter].cp, m.cp);
        if (whole) {
            cut->c[starter].cp = whole;
            continue;
        }
        if (!m.class) {
            starter = kept;
            have_starter = true;
        }
        last_class = m.class;
        cut->c[kept++] = m;
    }
    cut->n = kept;
}

static size_t flush(struct cut *cut, char *out)
{
    size_t n = 0;
    sort_cut(cut);
    join_cut(cut);
    for (size_t i = 0; i < cut->n; i++)
        n += (size_t)pg_utf8_encode(cut->c[i].cp, out + n);
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
        PG_TRY(add_split(cut, cp, err));
        i += (size_t)len;
    }
    *n_out += flush(cut, out + *n_out);
    return 0;
}

int pg_nfc(const char *s, size_t n, char *out, size_t *n_out, struct pg_err *err)
{
    struct cut cut = {0};
    int rc = normalise(&cut, s, n, out, n_out, err);
    free(cut.c);
    free(cut.sorted);
    return rc;
}
