/* SPDX-License-Identifier: MIT
 * Values to text: Python's str() and repr(), and json.dumps().
 */
#include "text/jinja_impl.h"
#include "text/utf8.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

/* ---- numbers ---- */

/* The fewest digits that are this number again; a power of ten from 1e16 and below 1e-4. */
void pg_float_repr(double x, char out[PG_FLOAT_TEXT])
{
    char digits[32], plain[24];
    int n = 0, power, precision = 0;
    if (!isfinite(x)) {
        snprintf(out, PG_FLOAT_TEXT, "%s", isnan(x) ? "nan" : x > 0 ? "inf" : "-inf");
        return;
    }
    do
        snprintf(digits, sizeof(digits), "%.*e", precision, x);
    while (++precision < 18 && strtod(digits, NULL) != x);
    power = atoi(strchr(digits, 'e') + 1);
    for (const char *p = digits; *p != 'e'; p++)
        if (*p >= '0' && *p <= '9')
            plain[n++] = *p;
    plain[n] = '\0';
    const char *sign = digits[0] == '-' ? "-" : "";
    if (power < -4 || power >= 16)
        snprintf(out, PG_FLOAT_TEXT, "%s%c%s%se%c%02d", sign, plain[0], n > 1 ? "." : "", plain + 1,
                 power < 0 ? '-' : '+', abs(power) % 1000);
    else if (power < 0)
        snprintf(out, PG_FLOAT_TEXT, "%s0.%.*s%s", sign, -power - 1, "000", plain);
    else if (n <= power + 1)
        snprintf(out, PG_FLOAT_TEXT, "%s%s%.*s.0", sign, plain, power + 1 - n, "0000000000000000");
    else
        snprintf(out, PG_FLOAT_TEXT, "%s%.*s.%s", sign, power + 1, plain, plain + power + 1);
}

/* ---- Python ---- */

static bool prints(uint32_t c)
{
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    return c == ' ' ||
           (k != UTF8PROC_CATEGORY_CC && k != UTF8PROC_CATEGORY_CF && k != UTF8PROC_CATEGORY_CS &&
            k != UTF8PROC_CATEGORY_CO && k != UTF8PROC_CATEGORY_CN && k != UTF8PROC_CATEGORY_ZL &&
            k != UTF8PROC_CATEGORY_ZP && k != UTF8PROC_CATEGORY_ZS);
}

/* Bytes that every spelling leaves as they are. */
static size_t plain_run(const char *s, size_t n)
{
    size_t i = 0;
    while (i < n && s[i] >= ' ' && s[i] < 0x7F && s[i] != '"' && s[i] != '\'' && s[i] != '\\')
        i++;
    return i;
}

static void put_quoted(struct pg_buf *b, const struct pg_value *s, bool content)
{
    bool single = s->n && memchr(s->s, '\'', s->n), dbl = s->n && memchr(s->s, '"', s->n);
    char quote = single && !dbl ? '"' : '\'', text[16];
    pg_buf_put(b, &quote, 1, content);
    for (size_t i = 0; i < s->n;) {
        size_t run = plain_run(s->s + i, s->n - i);
        pg_buf_put(b, s->s + i, run, content);
        i += run;
        if (i == s->n)
            break;
        int len = PG_MAX(pg_utf8_scan(s->s + i, s->n - i), 1), n = 0;
        uint32_t c = pg_utf8_decode(s->s + i, len);
        const char *escape = strchr("\nn\rr\tt", (int)c);
        if (c && c < 0x20 && escape)
            n = snprintf(text, sizeof(text), "\\%c", escape[1]);
        else if (c == '\\' || c == (uint32_t)quote)
            n = snprintf(text, sizeof(text), "\\%c", (char)c);
        else if (!prints(c))
            n = snprintf(text, sizeof(text),
                         c < 0x100     ? "\\x%02x"
                         : c < 0x10000 ? "\\u%04x"
                                       : "\\U%08x",
                         (unsigned)c);
        if (n)
            pg_buf_put(b, text, (size_t)n, content);
        else
            pg_buf_put(b, s->s + i, (size_t)len, content);
        i += (size_t)len;
    }
    pg_buf_put(b, &quote, 1, content);
}

static void put(struct pg_buf *b, const char *s, bool content)
{
    pg_buf_put(b, s, strlen(s), content);
}

static void print(struct pg_buf *b, const struct pg_value *v, bool content, int depth);

static void print_items(struct pg_buf *b, const struct pg_value *v, bool content, int depth)
{
    bool tuple = v->kind == PG_V_TUPLE;
    put(b, tuple ? "(" : "[", content);
    for (uint32_t i = 0; i < v->n; i++) {
        put(b, i ? ", " : "", content);
        print(b, &v->item[i], content, depth);
    }
    put(b, tuple ? v->n == 1 ? ",)" : ")" : "]", content);
}

static void print_dict(struct pg_buf *b, const struct pg_value *v, bool content, int depth)
{
    bool space = v->kind == PG_V_SPACE;
    b->run->said_arguments |= v->dict->arguments;
    put(b, space ? "<Namespace {" : "{", content);
    for (uint32_t i = 0; i < v->dict->n; i++) {
        put(b, i ? ", " : "", content);
        print(b, &v->dict->pair[i].key, content, depth);
        put(b, ": ", content);
        print(b, &v->dict->pair[i].value, content, depth);
    }
    put(b, space ? "}>" : "}", content);
}

static void print_plain(struct pg_buf *b, const struct pg_value *v, bool content)
{
    char text[PG_FLOAT_TEXT] = "";
    switch ((enum pg_value_kind)v->kind) {
    case PG_V_NONE:
        put(b, "None", content);
        break;
    case PG_V_BOOL:
        put(b, v->truth ? "True" : "False", content);
        break;
    case PG_V_INT:
        snprintf(text, sizeof(text), "%lld", (long long)v->integer);
        break;
    case PG_V_FLOAT:
        pg_float_repr(v->real, text);
        break;
    case PG_V_UNDEFINED:
        put(b, "Undefined", content);
        break;
    default:
        put(b, "<", content);
        put(b, pg_value_type(v), content);
        put(b, ">", content);
    }
    put(b, text, content);
}

static void print(struct pg_buf *b, const struct pg_value *v, bool content, int depth)
{
    if (depth == PG_JINJA_VALUES)
        b->rc = pg_jinja_fail(b->run, "values are nested deeper than %d", PG_JINJA_VALUES);
    else if (!b->rc)
        b->rc = pg_jinja_steps(b->run, 1);
    if (b->rc)
        return;
    if (v->kind == PG_V_STR)
        put_quoted(b, v, content);
    else if (pg_is_list(v))
        print_items(b, v, content, depth + 1);
    else if (v->kind == PG_V_DICT || v->kind == PG_V_SPACE)
        print_dict(b, v, content, depth + 1);
    else
        print_plain(b, v, content);
}

void pg_value_print(struct pg_buf *b, const struct pg_value *v)
{
    print(b, v, pg_value_given(v), 0);
}

int pg_value_text(struct pg_jinja_run *r, const struct pg_value *v, struct pg_value *out)
{
    struct pg_buf b = {.run = r};
    if (v->kind == PG_V_STR) {
        *out = *v;
        return 0;
    }
    if (v->kind == PG_V_UNDEFINED) {
        *out = pg_value_str("");
        return 0;
    }
    r->said_none |= v->kind == PG_V_NONE && v->content;
    pg_value_print(&b, v);
    return pg_buf_end(&b, out);
}

/* ---- JSON ---- */

struct writer {
    struct pg_buf *b;
    const struct pg_json_style *how;
    bool content;
    int depth;
};

static void write_json(struct writer *w, const struct pg_value *v);

static void write_put(struct writer *w, const char *s)
{
    put(w->b, s, w->content);
}

static void write_char(struct writer *w, const char *s, int len)
{
    static const char plain[] = "\"\"\\\\\nn\rr\tt\bb\ff";
    uint32_t c = pg_utf8_decode(s, len);
    char text[16] = "";
    for (size_t i = 0; i + 1 < sizeof(plain) && !text[0]; i += 2)
        if (c == (unsigned char)plain[i])
            snprintf(text, sizeof(text), "\\%c", plain[i + 1]);
    if (text[0])
        write_put(w, text);
    else if (c >= 0x10000 && w->how->ascii)
        snprintf(text, sizeof(text), "\\u%04x\\u%04x", (unsigned)(0xD800 + ((c - 0x10000) >> 10)),
                 (unsigned)(0xDC00 + (c & 0x3FF)));
    else if (c < 0x20 || (c > 0x7E && w->how->ascii))
        snprintf(text, sizeof(text), "\\u%04x", (unsigned)c);
    else
        pg_buf_put(w->b, s, (size_t)len, w->content);
    if (text[1] == 'u')
        write_put(w, text);
}

static void write_string(struct writer *w, const struct pg_value *s)
{
    write_put(w, "\"");
    for (size_t i = 0; i < s->n && !w->b->rc;) {
        size_t run = plain_run(s->s + i, s->n - i);
        pg_buf_put(w->b, s->s + i, run, w->content);
        i += run;
        if (i == s->n)
            break;
        int len = PG_MAX(pg_utf8_scan(s->s + i, s->n - i), 1);
        write_char(w, s->s + i, len);
        i += (size_t)len;
    }
    write_put(w, "\"");
}

static void write_break(struct writer *w)
{
    if (!w->how->lines)
        return;
    write_put(w, "\n");
    for (int i = 0; i < w->depth; i++)
        pg_buf_put(w->b, w->how->indent.s, w->how->indent.n, w->content);
}

/* Before each item. */
static void write_next(struct writer *w, uint32_t i)
{
    if (i)
        pg_buf_put(w->b, w->how->comma.s, w->how->comma.n, w->content);
    write_break(w);
}

static void write_list(struct writer *w, const struct pg_value *v)
{
    write_put(w, "[");
    w->depth++;
    for (uint32_t i = 0; i < v->n; i++) {
        write_next(w, i);
        write_json(w, &v->item[i]);
    }
    w->depth--;
    if (v->n)
        write_break(w);
    write_put(w, "]");
}

static void write_key(struct writer *w, const struct pg_value *key)
{
    if (key->kind == PG_V_STR) {
        write_string(w, key);
        return;
    }
    if (!pg_is_number(key) && key->kind != PG_V_NONE) {
        w->b->rc = pg_jinja_fail(w->b->run, "tojson: %s is no key", pg_value_type(key));
        return;
    }
    write_put(w, "\"");
    write_json(w, key);
    write_put(w, "\"");
}

static int by_key(const void *a, const void *b)
{
    const struct pg_value *x = &((const struct pg_pair *)a)->key;
    const struct pg_value *y = &((const struct pg_pair *)b)->key;
    size_t n = PG_MIN(x->n, y->n);
    int order = n ? memcmp(x->s, y->s, n) : 0;
    return order ? order : (x->n > y->n) - (x->n < y->n);
}

/* The pairs in the order in which they are written; NULL with b->rc. */
static const struct pg_pair *write_pairs(struct writer *w, const struct pg_dict *d)
{
    struct pg_jinja_run *r = w->b->run;
    if (!w->how->sorted || !d->n)
        return d->pair;
    struct pg_pair *p = pg_jinja_take(&r->pile, d->n * sizeof(*p));
    if (!p) {
        w->b->rc = pg_jinja_full(r);
        return NULL;
    }
    memcpy(p, d->pair, d->n * sizeof(*p));
    for (uint32_t i = 0; i < d->n && !w->b->rc; i++)
        w->b->rc = pg_value_need(r, &p[i].key, PG_V_STR, "tojson with sort_keys");
    if (w->b->rc)
        return NULL;
    qsort(p, d->n, sizeof(*p), by_key);
    return p;
}

static void write_dict(struct writer *w, const struct pg_dict *d)
{
    const struct pg_pair *p = write_pairs(w, d);
    write_put(w, "{");
    w->depth++;
    for (uint32_t i = 0; p && i < d->n && !w->b->rc; i++) {
        write_next(w, i);
        write_key(w, &p[i].key);
        pg_buf_put(w->b, w->how->colon.s, w->how->colon.n, w->content);
        write_json(w, &p[i].value);
    }
    w->depth--;
    if (d->n)
        write_break(w);
    write_put(w, "}");
}

static void write_number(struct writer *w, double x)
{
    char text[PG_FLOAT_TEXT];
    if (isfinite(x))
        pg_float_repr(x, text);
    else
        snprintf(text, sizeof(text), "%s", isnan(x) ? "NaN" : x > 0 ? "Infinity" : "-Infinity");
    write_put(w, text);
}

static void write_json(struct writer *w, const struct pg_value *v)
{
    struct pg_jinja_run *r = w->b->run;
    if (w->depth == PG_JINJA_VALUES)
        w->b->rc = pg_jinja_fail(r, "values are nested deeper than %d", PG_JINJA_VALUES);
    else if (!w->b->rc)
        w->b->rc = pg_jinja_steps(r, 1);
    if (w->b->rc)
        return;
    switch ((enum pg_value_kind)v->kind) {
    case PG_V_NONE:
        write_put(w, "null");
        break;
    case PG_V_BOOL:
        write_put(w, v->truth ? "true" : "false");
        break;
    case PG_V_INT:
        print_plain(w->b, v, w->content);
        break;
    case PG_V_FLOAT:
        write_number(w, v->real);
        break;
    case PG_V_STR:
        write_string(w, v);
        break;
    case PG_V_LIST:
    case PG_V_TUPLE:
        write_list(w, v);
        break;
    case PG_V_DICT:
        write_dict(w, v->dict);
        break;
    default:
        w->b->rc = pg_jinja_fail(r, "tojson: %s has no JSON", pg_value_type(v));
    }
}

/* What came from outside is content whole, so that no quote of it becomes markup. */
int pg_value_json(struct pg_jinja_run *r, const struct pg_value *v, const struct pg_json_style *how,
                  struct pg_value *out)
{
    struct pg_buf b = {.run = r};
    struct writer w = {&b, how, pg_value_given(v), 0};
    write_json(&w, v);
    return pg_buf_end(&b, out);
}
