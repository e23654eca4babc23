/* SPDX-License-Identifier: MIT
 * What is done to texts, and their methods. Each byte keeps its mark. Upper and lower case are
 * Unicode's simple mappings, and for two letters that become two.
 */
#include "text/jinja_impl.h"
#include "text/utf8.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

/* ---- characters ---- */

size_t pg_str_chars(const struct pg_value *s)
{
    size_t n = 0;
    for (uint32_t i = 0; i < s->n; i++)
        n += ((unsigned char)s->s[i] & 0xC0) != 0x80;
    return n;
}

size_t pg_str_at(const struct pg_value *s, size_t i)
{
    size_t at = 0;
    for (i++; at < s->n; at++)
        if (((unsigned char)s->s[at] & 0xC0) != 0x80 && !--i)
            break;
    return at;
}

bool pg_char_is_space(uint32_t c)
{
    return (c >= 9 && c <= 13) || (c >= 28 && c <= 32) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
           c == 0x205F || c == 0x3000;
}

/* The character at byte `at`, and its length. */
static uint32_t char_at(const struct pg_value *s, size_t at, size_t *len)
{
    int n = 1;
    if ((unsigned char)s->s[at] >= 0x80)
        n = PG_MAX(pg_utf8_scan(s->s + at, s->n - at), 1);
    *len = (size_t)n;
    return n == 1 ? (unsigned char)s->s[at] : pg_utf8_decode(s->s + at, n);
}

/* The character that ends before byte `end`, and its length. */
static uint32_t char_before(const struct pg_value *s, size_t end, size_t *len)
{
    size_t at = end - 1;
    while (at && ((unsigned char)s->s[at] & 0xC0) == 0x80)
        at--;
    *len = end - at;
    return end - at == 1 ? (unsigned char)s->s[at] : pg_utf8_decode(s->s + at, (int)(end - at));
}

/* ---- strip ---- */

static bool is_one_of(uint32_t c, const struct pg_value *chars)
{
    size_t len;
    if (!chars)
        return pg_char_is_space(c);
    for (size_t i = 0; i < chars->n; i += len)
        if (char_at(chars, i, &len) == c)
            return true;
    return false;
}

struct pg_value pg_str_strip(const struct pg_value *s, const struct pg_value *chars, int where)
{
    size_t begin = 0, end = s->n, len;
    while ((where & 1) && begin < end && is_one_of(char_at(s, begin, &len), chars))
        begin += len;
    while ((where & 2) && begin < end && is_one_of(char_before(s, end, &len), chars))
        end -= len;
    return pg_value_part(s, begin, end - begin);
}

/* The same, with the steps that it takes. */
int pg_str_trim(struct pg_jinja_run *r, const struct pg_value *s, const struct pg_value *chars,
                int where, struct pg_value *out)
{
    struct pg_value from = *s;
    *out = pg_str_strip(&from, chars, where);
    return pg_jinja_scan(r, (uint64_t)(from.n - out->n + 2) * (chars ? chars->n : 1));
}

/* ---- case ---- */

static bool is_letter(uint32_t c)
{
    return utf8proc_category((utf8proc_int32_t)c) <= UTF8PROC_CATEGORY_LO &&
           utf8proc_category((utf8proc_int32_t)c) >= UTF8PROC_CATEGORY_LU;
}

/* Whether a word of Jinja's title filter begins behind this character. */
static bool opens_word(uint32_t c)
{
    return pg_char_is_space(c) || (c < 0x80 && c && strchr("-({[<", (int)c));
}

/* Writes the character in upper or lower case, and returns the bytes; two that become two. */
static size_t change_case(uint32_t c, bool upper, char out[4])
{
    utf8proc_int32_t cp = (utf8proc_int32_t)c;
    if (upper && c == 0xDF) /* sharp s */
        memcpy(out, "SS", 2);
    if (!upper && c == 0x130) /* I with a dot */
        memcpy(out, "i\xCC\x87", 3);
    if ((upper && c == 0xDF) || (!upper && c == 0x130))
        return upper ? 2 : 3;
    return (size_t)pg_utf8_encode((uint32_t)(upper ? utf8proc_toupper(cp) : utf8proc_tolower(cp)),
                                  out);
}

int pg_str_case(struct pg_jinja_run *r, const struct pg_value *s, enum pg_case how,
                struct pg_value *out)
{
    struct pg_buf b = {.run = r};
    bool first = true;
    size_t len;
    for (size_t i = 0; i < s->n && !b.rc; i += len) {
        uint32_t c = char_at(s, i, &len);
        bool upper = how == PG_CASE_UPPER || (how != PG_CASE_LOWER && first);
        char text[4];
        pg_buf_put(&b, text, change_case(c, upper, text), s->mark ? s->mark[i] : s->content);
        first = how == PG_CASE_TITLE ? !is_letter(c) : how == PG_CASE_WORDS ? opens_word(c) : false;
    }
    return pg_buf_end(&b, out);
}

bool pg_str_is_case(const struct pg_value *s, bool upper)
{
    bool any = false;
    size_t len;
    for (size_t i = 0; i < s->n; i += len) {
        utf8proc_int32_t c = (utf8proc_int32_t)char_at(s, i, &len);
        utf8proc_category_t k = utf8proc_category(c);
        if (k == (upper ? UTF8PROC_CATEGORY_LL : UTF8PROC_CATEGORY_LU) || k == UTF8PROC_CATEGORY_LT)
            return false;
        any |= k == (upper ? UTF8PROC_CATEGORY_LU : UTF8PROC_CATEGORY_LL);
    }
    return any;
}

/* ---- numbers ---- */

/* A zero-terminated copy without white space around and _ between digits. */
static bool plain_number(const struct pg_value *s, char out[64])
{
    struct pg_value v = pg_str_strip(s, NULL, 3);
    size_t n = 0;
    if (!v.n || v.n >= 64 || v.s[0] == '_' || v.s[v.n - 1] == '_')
        return false;
    for (size_t i = 0; i < v.n; i++) {
        unsigned char c = (unsigned char)v.s[i];
        if (c == '_' && v.s[i + 1] == '_')
            return false;
        if (c <= ' ' || c >= 0x7F)
            return false;
        if (c != '_')
            out[n++] = (char)c;
    }
    out[n] = '\0';
    return true;
}

bool pg_str_to_int(const struct pg_value *s, int64_t base, int64_t *out)
{
    char text[64], *end;
    if (base < 2 || base > 36 || !plain_number(s, text))
        return false;
    errno = 0;
    *out = strtoll(text, &end, (int)base);
    return !*end && !errno;
}

bool pg_str_to_float(const struct pg_value *s, double *out)
{
    char text[64], *end;
    /* Python has no hexadecimal floats. */
    if (!plain_number(s, text) || strpbrk(text, "xX"))
        return false;
    *out = strtod(text, &end);
    return !*end;
}

/* ---- replace, join, split ---- */

/* Where `what` is next in s from byte `at` on; -1: nowhere. */
static int64_t find(const struct pg_value *s, const struct pg_value *what, size_t at)
{
    const char *p;
    if (what->n > s->n - at)
        return -1;
    if (!what->n)
        return (int64_t)at;
    p = memmem(s->s + at, s->n - at, what->s, what->n);
    return p ? p - s->s : -1;
}

/* The last place that ends at byte `end` or before. */
static int64_t find_last(const struct pg_value *s, const struct pg_value *what, size_t end)
{
    for (int64_t at = (int64_t)end - what->n; at >= 0; at--)
        if (!what->n || !memcmp(s->s + at, what->s, what->n))
            return at;
    return -1;
}

/* v: the text, what is replaced, by what; count below 0: all. */
int pg_str_replace(struct pg_jinja_run *r, const struct pg_value v[3], int64_t count,
                   struct pg_value *out)
{
    struct pg_buf b = {.run = r};
    size_t from = 0, at = 0, len;
    PG_TRY(pg_jinja_scan(r, v[0].n));
    for (int64_t found; count && (found = find(&v[0], &v[1], at)) >= 0 && !b.rc; count--) {
        struct pg_value part = pg_value_part(&v[0], from, (size_t)found - from);
        pg_buf_put_str(&b, &part);
        pg_buf_put_str(&b, &v[2]);
        from = at = (size_t)found + v[1].n;
        if (v[1].n)
            continue;
        if (at == v[0].n)
            break;
        char_at(&v[0], at, &len); /* of nothing there is one before each character and at the end */
        at += len;
    }
    struct pg_value rest = pg_value_part(&v[0], from, v[0].n - from);
    pg_buf_put_str(&b, &rest);
    return pg_buf_end(&b, out);
}

int pg_str_join(struct pg_jinja_run *r, const struct pg_value *by, const struct pg_value *list,
                struct pg_value *out)
{
    struct pg_buf b = {.run = r};
    struct pg_value s;
    for (uint32_t i = 0; i < list->n; i++) {
        if (i)
            pg_buf_put_str(&b, by);
        PG_TRY(pg_value_text(r, &list->item[i], &s));
        pg_buf_put_str(&b, &s);
    }
    return pg_buf_end(&b, out);
}

/* Values that are found one by one. */
struct growing {
    struct pg_jinja_run *run;
    struct pg_value *v;
    size_t n, cap;
};

static int grow(struct growing *g, struct pg_value v)
{
    if (g->n == g->cap) {
        struct pg_value *more, list;
        size_t cap = 2 * g->cap + 8;
        PG_TRY(pg_value_list(g->run, PG_MIN(cap, (size_t)PG_JINJA_ITEMS + (g->n > PG_JINJA_ITEMS)),
                             &more, &list));
        if (g->n == PG_JINJA_ITEMS)
            return pg_jinja_fail(g->run, "a list has more than %d values", PG_JINJA_ITEMS);
        if (g->n)
            memcpy(more, g->v, g->n * sizeof(*more));
        g->v = more;
        g->cap = list.n;
    }
    g->v[g->n++] = v;
    return 0;
}

static int grown(struct growing *g, struct pg_value *out)
{
    *out = (struct pg_value){.kind = PG_V_LIST, .n = (uint32_t)g->n, .item = g->v};
    return pg_jinja_steps(g->run, g->n);
}

static bool ends_line(uint32_t c)
{
    return (c >= 10 && c <= 13) || (c >= 28 && c <= 30) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

int pg_str_lines(struct pg_jinja_run *r, const struct pg_value *s, bool keep, struct pg_value *out)
{
    struct growing g = {.run = r};
    struct pg_value from = *s;
    size_t begin = 0, len;
    for (size_t i = 0; i < from.n; i += len) {
        if (!ends_line(char_at(&from, i, &len)))
            continue;
        if (from.s[i] == '\r' && i + 1 < from.n && from.s[i + 1] == '\n')
            len++;
        PG_TRY(grow(&g, pg_value_part(&from, begin, i - begin + (keep ? len : 0))));
        begin = i + len;
    }
    if (begin < from.n)
        PG_TRY(grow(&g, pg_value_part(&from, begin, from.n - begin)));
    return grown(&g, out);
}

/* At runs of white space. */
static int split_words(struct growing *g, const struct pg_value *s, int64_t max)
{
    struct pg_value rest = pg_str_strip(s, NULL, 1);
    size_t at = 0, len;
    while (at < rest.n && max) {
        if (!pg_char_is_space(char_at(&rest, at, &len))) {
            at += len;
            continue;
        }
        PG_TRY(grow(g, pg_value_part(&rest, 0, at)));
        rest = pg_value_part(&rest, at, rest.n - at);
        rest = pg_str_strip(&rest, NULL, 1);
        at = 0;
        max--;
    }
    return rest.n ? grow(g, rest) : 0;
}

static int split_words_back(struct growing *g, const struct pg_value *s, int64_t max)
{
    struct pg_value rest = pg_str_strip(s, NULL, 2);
    size_t end = rest.n, len;
    while (end && max) {
        if (!pg_char_is_space(char_before(&rest, end, &len))) {
            end -= len;
            continue;
        }
        PG_TRY(grow(g, pg_value_part(&rest, end, rest.n - end)));
        rest = pg_value_part(&rest, 0, end);
        rest = pg_str_strip(&rest, NULL, 2);
        end = rest.n;
        max--;
    }
    return rest.n ? grow(g, rest) : 0;
}

static int split_at(struct growing *g, const struct pg_value *s, const struct pg_value *by,
                    int64_t max)
{
    size_t from = 0;
    for (int64_t found; max && (found = find(s, by, from)) >= 0; max--) {
        PG_TRY(grow(g, pg_value_part(s, from, (size_t)found - from)));
        from = (size_t)found + by->n;
    }
    return grow(g, pg_value_part(s, from, s->n - from));
}

static int split_at_back(struct growing *g, const struct pg_value *s, const struct pg_value *by,
                         int64_t max)
{
    size_t end = s->n;
    for (int64_t found; max && (found = find_last(s, by, end)) >= 0; max--) {
        size_t from = (size_t)found + by->n;
        PG_TRY(grow(g, pg_value_part(s, from, end - from)));
        end = (size_t)found;
    }
    return grow(g, pg_value_part(s, 0, end));
}

/* ---- methods ---- */

static int need_str(struct pg_jinja_call *c, int i)
{
    return pg_value_need(c->run, &c->arg[i], PG_V_STR, "an argument");
}

/* From behind each place is compared. */
static int scan_back(struct pg_jinja_call *c, const struct pg_value *s, const struct pg_value *what)
{
    return pg_jinja_scan(c->run, (uint64_t)s->n * (1 + what->n / 16));
}

static int split(struct pg_jinja_call *c, bool back)
{
    struct growing g = {.run = c->run};
    bool words = c->arg[0].kind == PG_V_ABSENT || c->arg[0].kind == PG_V_NONE;
    int64_t max;
    PG_TRY(pg_jinja_int_arg(c, 1, -1, &max));
    PG_TRY(pg_jinja_scan(c->run, c->self.n));
    if (!words)
        PG_TRY(need_str(c, 0));
    if (back && !words)
        PG_TRY(scan_back(c, &c->self, &c->arg[0]));
    if (!words && !c->arg[0].n)
        return pg_jinja_fail(c->run, "split() at an empty text");
    if (words)
        PG_TRY((back ? split_words_back : split_words)(&g, &c->self, max));
    else
        PG_TRY((back ? split_at_back : split_at)(&g, &c->self, &c->arg[0], max));
    for (size_t i = 0, k = g.n; back && i + 1 < k; i++) {
        struct pg_value v = g.v[i];
        g.v[i] = g.v[--k];
        g.v[k] = v;
    }
    return grown(&g, c->out);
}

static int str_split(struct pg_jinja_call *c)
{
    return split(c, false);
}

static int str_rsplit(struct pg_jinja_call *c)
{
    return split(c, true);
}

static int strip(struct pg_jinja_call *c, int where)
{
    bool spaces = c->arg[0].kind == PG_V_ABSENT || c->arg[0].kind == PG_V_NONE;
    if (!spaces)
        PG_TRY(need_str(c, 0));
    return pg_str_trim(c->run, &c->self, spaces ? NULL : &c->arg[0], where, c->out);
}

static int str_strip(struct pg_jinja_call *c)
{
    return strip(c, 3);
}

static int str_lstrip(struct pg_jinja_call *c)
{
    return strip(c, 1);
}

static int str_rstrip(struct pg_jinja_call *c)
{
    return strip(c, 2);
}

static int str_splitlines(struct pg_jinja_call *c)
{
    return pg_str_lines(c->run, &c->self, pg_value_true(&c->arg[0]), c->out);
}

static bool has_end(const struct pg_value *s, const struct pg_value *end, bool at_start)
{
    if (end->n > s->n)
        return false;
    return !end->n || !memcmp(at_start ? s->s : s->s + s->n - end->n, end->s, end->n);
}

/* One text, or a tuple of which one does. */
static int has_ends(struct pg_jinja_call *c, bool at_start)
{
    const struct pg_value *list = c->arg[0].kind == PG_V_TUPLE ? c->arg[0].item : &c->arg[0];
    uint32_t n = c->arg[0].kind == PG_V_TUPLE ? c->arg[0].n : 1;
    bool found = false;
    for (uint32_t i = 0; i < n && !found; i++) {
        PG_TRY(pg_value_need(c->run, &list[i], PG_V_STR, "an argument"));
        found = has_end(&c->self, &list[i], at_start);
        PG_TRY(pg_jinja_scan(c->run, 16 + list[i].n / 16));
    }
    *c->out = pg_value_bool(found);
    return 0;
}

static int str_startswith(struct pg_jinja_call *c)
{
    return has_ends(c, true);
}

static int str_endswith(struct pg_jinja_call *c)
{
    return has_ends(c, false);
}

static int remove_end(struct pg_jinja_call *c, bool at_start)
{
    PG_TRY(need_str(c, 0));
    size_t n = has_end(&c->self, &c->arg[0], at_start) ? c->arg[0].n : 0;
    *c->out = pg_value_part(&c->self, at_start ? n : 0, c->self.n - n);
    return 0;
}

static int str_removeprefix(struct pg_jinja_call *c)
{
    return remove_end(c, true);
}

static int str_removesuffix(struct pg_jinja_call *c)
{
    return remove_end(c, false);
}

static int str_replace(struct pg_jinja_call *c)
{
    int64_t count;
    PG_TRY(need_str(c, 0));
    PG_TRY(need_str(c, 1));
    PG_TRY(pg_jinja_int_arg(c, 2, -1, &count));
    return pg_str_replace(c->run, (struct pg_value[]){c->self, c->arg[0], c->arg[1]}, count,
                          c->out);
}

static int str_upper(struct pg_jinja_call *c)
{
    return pg_str_case(c->run, &c->self, PG_CASE_UPPER, c->out);
}

static int str_lower(struct pg_jinja_call *c)
{
    return pg_str_case(c->run, &c->self, PG_CASE_LOWER, c->out);
}

static int str_title(struct pg_jinja_call *c)
{
    return pg_str_case(c->run, &c->self, PG_CASE_TITLE, c->out);
}

static int str_capitalize(struct pg_jinja_call *c)
{
    return pg_str_case(c->run, &c->self, PG_CASE_CAPITAL, c->out);
}

static int str_join(struct pg_jinja_call *c)
{
    struct pg_value list;
    PG_TRY(pg_value_items(c->run, &c->arg[0], &list));
    for (uint32_t i = 0; i < list.n; i++)
        PG_TRY(pg_value_need(c->run, &list.item[i], PG_V_STR, "join()"));
    return pg_str_join(c->run, &c->self, &list, c->out);
}

/* Places are counted in characters. */
static int where_is(struct pg_jinja_call *c, bool last, int64_t *out)
{
    PG_TRY(need_str(c, 0));
    PG_TRY(pg_jinja_scan(c->run, c->self.n));
    if (last)
        PG_TRY(scan_back(c, &c->self, &c->arg[0]));
    *out = last ? find_last(&c->self, &c->arg[0], c->self.n) : find(&c->self, &c->arg[0], 0);
    if (*out > 0) {
        struct pg_value before = pg_value_part(&c->self, 0, (size_t)*out);
        *out = (int64_t)pg_str_chars(&before);
    }
    return 0;
}

static int str_find(struct pg_jinja_call *c)
{
    int64_t at;
    PG_TRY(where_is(c, false, &at));
    *c->out = pg_value_int(at);
    return 0;
}

static int str_rfind(struct pg_jinja_call *c)
{
    int64_t at;
    PG_TRY(where_is(c, true, &at));
    *c->out = pg_value_int(at);
    return 0;
}

static int str_index(struct pg_jinja_call *c)
{
    PG_TRY(str_find(c));
    return c->out->integer < 0 ? pg_jinja_fail(c->run, "index() of a text that is not there") : 0;
}

static int str_count(struct pg_jinja_call *c)
{
    int64_t n = 0;
    PG_TRY(need_str(c, 0));
    PG_TRY(pg_jinja_scan(c->run, c->self.n));
    if (!c->arg[0].n)
        n = (int64_t)pg_str_chars(&c->self) + 1;
    for (int64_t at = 0; c->arg[0].n && (at = find(&c->self, &c->arg[0], (size_t)at)) >= 0; n++)
        at += c->arg[0].n;
    *c->out = pg_value_int(n);
    return 0;
}

/* Whether there is a character, and all are of a kind. */
static int all_are(struct pg_jinja_call *c, bool (*is)(uint32_t c))
{
    bool all = c->self.n > 0;
    size_t len;
    for (size_t i = 0; i < c->self.n && all; i += len)
        all = is(char_at(&c->self, i, &len));
    *c->out = pg_value_bool(all);
    return pg_jinja_scan(c->run, (uint64_t)c->self.n * 4);
}

static bool is_digit(uint32_t c)
{
    return utf8proc_category((utf8proc_int32_t)c) == UTF8PROC_CATEGORY_ND;
}

static bool is_letter_or_digit(uint32_t c)
{
    return is_letter(c) || is_digit(c);
}

static int str_isdigit(struct pg_jinja_call *c)
{
    return all_are(c, is_digit);
}

static int str_isalpha(struct pg_jinja_call *c)
{
    return all_are(c, is_letter);
}

static int str_isalnum(struct pg_jinja_call *c)
{
    return all_are(c, is_letter_or_digit);
}

static int str_isspace(struct pg_jinja_call *c)
{
    return all_are(c, pg_char_is_space);
}

static int str_isupper(struct pg_jinja_call *c)
{
    *c->out = pg_value_bool(pg_str_is_case(&c->self, true));
    return pg_jinja_scan(c->run, (uint64_t)c->self.n * 4);
}

static int str_islower(struct pg_jinja_call *c)
{
    *c->out = pg_value_bool(pg_str_is_case(&c->self, false));
    return pg_jinja_scan(c->run, (uint64_t)c->self.n * 4);
}

/* What stands before, is, and stands behind the first or last place of a text. */
static int partition(struct pg_jinja_call *c, bool last)
{
    struct pg_value *v, s = c->self, by = c->arg[0], nothing = pg_value_str("");
    PG_TRY(need_str(c, 0));
    PG_TRY(pg_jinja_scan(c->run, s.n));
    if (last)
        PG_TRY(scan_back(c, &s, &by));
    if (!by.n)
        return pg_jinja_fail(c->run, "partition() at an empty text");
    int64_t at = last ? find_last(&s, &by, s.n) : find(&s, &by, 0);
    PG_TRY(pg_value_list(c->run, 3, &v, c->out));
    c->out->kind = PG_V_TUPLE;
    v[0] = v[1] = v[2] = nothing;
    if (at < 0) {
        v[last ? 2 : 0] = s;
        return 0;
    }
    v[0] = pg_value_part(&s, 0, (size_t)at);
    v[1] = pg_value_part(&s, (size_t)at, by.n);
    v[2] = pg_value_part(&s, (size_t)at + by.n, s.n - (size_t)at - by.n);
    return 0;
}

static int str_partition(struct pg_jinja_call *c)
{
    return partition(c, false);
}

static int str_rpartition(struct pg_jinja_call *c)
{
    return partition(c, true);
}

/* "{} {0} {name}".format(…), without what may follow a name. */
static const struct pg_value *field(struct pg_jinja_call *c, const struct pg_value *name,
                                    uint32_t *next)
{
    const struct pg_jinja_args *args = c->all;
    int64_t i = 0;
    if (!name->n)
        return *next < args->n ? &args->v[(*next)++] : NULL;
    if (pg_str_to_int(name, 10, &i))
        return i >= 0 && i < args->n ? &args->v[i] : NULL;
    for (uint32_t k = 0; k < args->n_by_name; k++) {
        const struct pg_value *key = &args->by_name[k].key;
        if (key->n == name->n && !memcmp(key->s, name->s, key->n))
            return &args->by_name[k].value;
    }
    return NULL;
}

static int str_format(struct pg_jinja_call *c)
{
    struct pg_buf b = {.run = c->run};
    const struct pg_value *s = &c->self, *v;
    struct pg_value text;
    uint32_t next = 0;
    for (size_t i = 0, end; i < s->n; i = end) {
        char brace = s->s[i];
        bool twice = i + 1 < s->n && s->s[i + 1] == brace;
        for (end = i; end < s->n && s->s[end] != '{' && s->s[end] != '}';)
            end++;
        text = pg_value_part(s, i, end > i ? end - i : 1);
        if (end == i && !twice) {
            const char *close = memchr(s->s + i, '}', s->n - i);
            text =
                pg_value_part(s, i + 1, close && brace == '{' ? (size_t)(close - s->s) - i - 1 : 0);
            v = close && brace == '{' ? field(c, &text, &next) : NULL;
            if (!v)
                return pg_jinja_fail(c->run, "format() has no value for '%s'",
                                     pg_quote(text.s, text.n).s);
            PG_TRY(pg_value_text(c->run, v, &text));
            end = (size_t)(close - s->s) + 1;
        } else if (end == i) {
            end = i + 2;
        }
        pg_buf_put_str(&b, &text);
    }
    return pg_buf_end(&b, c->out);
}

const struct pg_jinja_function *pg_jinja_str_method(struct pg_str name)
{
    static const struct pg_jinja_function methods[] = {
        {"strip", "chars", 0, str_strip},
        {"lstrip", "chars", 0, str_lstrip},
        {"rstrip", "chars", 0, str_rstrip},
        {"split", "sep maxsplit", 0, str_split},
        {"rsplit", "sep maxsplit", 0, str_rsplit},
        {"splitlines", "keepends", 0, str_splitlines},
        {"startswith", "prefix", 1, str_startswith},
        {"endswith", "suffix", 1, str_endswith},
        {"removeprefix", "prefix", 1, str_removeprefix},
        {"removesuffix", "suffix", 1, str_removesuffix},
        {"replace", "old new count", 2, str_replace},
        {"upper", "", 0, str_upper},
        {"lower", "", 0, str_lower},
        {"title", "", 0, str_title},
        {"capitalize", "", 0, str_capitalize},
        {"join", "iterable", 1, str_join},
        {"find", "sub", 1, str_find},
        {"rfind", "sub", 1, str_rfind},
        {"index", "sub", 1, str_index},
        {"count", "sub", 1, str_count},
        {"partition", "sep", 1, str_partition},
        {"rpartition", "sep", 1, str_rpartition},
        {"isdigit", "", 0, str_isdigit},
        {"isalpha", "", 0, str_isalpha},
        {"isalnum", "", 0, str_isalnum},
        {"isspace", "", 0, str_isspace},
        {"isupper", "", 0, str_isupper},
        {"islower", "", 0, str_islower},
        {"format", "*", 0, str_format}};
    for (size_t i = 0; i < PG_COUNT(methods); i++)
        if (strlen(methods[i].name) == name.n && !memcmp(methods[i].name, name.s, name.n))
            return &methods[i];
    return NULL;
}
