/* SPDX-License-Identifier: MIT
 * Operators, with Python's rules for numbers, texts and lists. Whole numbers have 64 bits, and what
 * does not fit is an error.
 */
#include "text/jinja_impl.h"
#include "text/utf8.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define OP_FLOOR PG_OP('/', '/')
#define OP_POWER PG_OP('*', '*')

/* ---- numbers ---- */

static int64_t whole(const struct pg_value *v)
{
    return v->kind == PG_V_BOOL ? v->truth : v->integer;
}

static double real(const struct pg_value *v)
{
    return v->kind == PG_V_FLOAT ? v->real : (double)whole(v);
}

static int too_large(struct pg_jinja_run *r)
{
    return pg_jinja_fail(r, "a number is too large, wanted one of 64 bits");
}

static int power(struct pg_jinja_run *r, int64_t a, int64_t b, int64_t *out)
{
    *out = 1;
    /* With more bits than that only 0, 1 and -1 do not overflow, which each turn leaves small. */
    b = b > 64 ? 64 + b % 2 : b;
    for (; b > 0; b--)
        if (__builtin_mul_overflow(*out, a, out))
            return too_large(r);
    return 0;
}

/* Towards minus infinity, and the remainder has the divisor's sign. */
static int floor_whole(struct pg_jinja_run *r, int op, const int64_t v[2], int64_t *out)
{
    if (v[0] == INT64_MIN && v[1] == -1)
        return op == '%' ? (*out = 0, 0) : too_large(r);
    int64_t rest = v[0] % v[1];
    bool below = rest && (rest < 0) != (v[1] < 0);
    *out = op == '%' ? rest + (below ? v[1] : 0) : v[0] / v[1] - below;
    return 0;
}

static int binary_whole(struct pg_jinja_run *r, int op, const int64_t v[2], int64_t *out)
{
    bool over = false;
    switch (op) {
    case '+':
        over = __builtin_add_overflow(v[0], v[1], out);
        break;
    case '-':
        over = __builtin_sub_overflow(v[0], v[1], out);
        break;
    case '*':
        over = __builtin_mul_overflow(v[0], v[1], out);
        break;
    case OP_POWER:
        return power(r, v[0], v[1], out);
    default:
        return floor_whole(r, op, v, out);
    }
    return over ? too_large(r) : 0;
}

static double floor_real(int op, double a, double b)
{
    double rest = fmod(a, b);
    if (rest && (rest < 0) != (b < 0))
        rest += b;
    return op == '%' ? rest : floor((a - rest) / b + 0.5);
}

static double binary_real(int op, double a, double b)
{
    switch (op) {
    case '+':
        return a + b;
    case '-':
        return a - b;
    case '*':
        return a * b;
    case '/':
        return a / b;
    case OP_POWER:
        return pow(a, b);
    default:
        return floor_real(op, a, b);
    }
}

static int binary_numbers(struct pg_jinja_run *r, int op, const struct pg_value v[2],
                          struct pg_value *out)
{
    bool reals = v[0].kind == PG_V_FLOAT || v[1].kind == PG_V_FLOAT || op == '/';
    bool content = v[0].content || v[1].content;
    if ((op == '/' || op == OP_FLOOR || op == '%') && real(&v[1]) == 0)
        return pg_jinja_fail(r, "a division by zero");
    if (op == OP_POWER && real(&v[1]) < 0) {
        if (real(&v[0]) == 0)
            return pg_jinja_fail(r, "a division by zero");
        reals = true;
    }
    if (reals) {
        *out = pg_value_float(binary_real(op, real(&v[0]), real(&v[1])));
        if (!isfinite(out->real) && isfinite(real(&v[0])) && isfinite(real(&v[1])))
            return pg_jinja_fail(r, "a number is too large");
    } else {
        int64_t i[2] = {whole(&v[0]), whole(&v[1])}, result;
        PG_TRY(binary_whole(r, op, i, &result));
        *out = pg_value_int(result);
    }
    out->content = content;
    return 0;
}

/* ---- texts and lists ---- */

static int join(struct pg_jinja_run *r, const struct pg_value v[2], struct pg_value *out)
{
    struct pg_value *item;
    if (v[0].kind == PG_V_STR) {
        struct pg_buf b = {.run = r};
        pg_buf_put_str(&b, &v[0]);
        pg_buf_put_str(&b, &v[1]);
        return pg_buf_end(&b, out);
    }
    uint8_t kind = v[0].kind;
    bool content = v[0].content || v[1].content;
    uint32_t n[2] = {v[0].n, v[1].n};
    const struct pg_value *from[2] = {v[0].item, v[1].item};
    PG_TRY(pg_value_list(r, (size_t)n[0] + n[1], &item, out));
    for (int i = 0; i < 2; i++)
        if (n[i])
            memcpy(item + (i ? n[0] : 0), from[i], n[i] * sizeof(*item));
    out->kind = kind;
    out->content = content;
    return 0;
}

static int repeat(struct pg_jinja_run *r, const struct pg_value *v, int64_t times,
                  struct pg_value *out)
{
    struct pg_value *item, from = *v;
    uint64_t n = (uint64_t)PG_MAX(times, 0);
    if (!from.n)
        n = 0;
    if (n > r->pile.limit)
        return pg_jinja_fail(r, "the template needs more than %zu bytes of memory", r->pile.limit);
    PG_TRY(pg_jinja_steps(r, n));
    if (from.kind == PG_V_STR) {
        struct pg_buf b = {.run = r};
        for (; n && !b.rc; n--)
            pg_buf_put_str(&b, &from);
        return pg_buf_end(&b, out);
    }
    PG_TRY(pg_value_list(r, n * from.n, &item, out));
    for (uint64_t i = 0; i < n; i++)
        memcpy(item + i * from.n, from.item, from.n * sizeof(*item));
    out->kind = from.kind;
    out->content = from.content;
    return 0;
}

/* ---- text % values ---- */

/* One conversion: what stands between the % and its letter goes to printf. */
static int put_converted(struct pg_buf *b, const char *spec, size_t n_spec, char letter,
                         const struct pg_value *v)
{
    struct pg_jinja_run *r = b->run;
    char format[32], text[512];
    int n = 0;
    if (letter == 's' || letter == 'r') {
        struct pg_value s;
        if (n_spec)
            return pg_jinja_fail(r, "the format %%%.*s%c is not known", (int)n_spec, spec, letter);
        PG_TRY(pg_value_text(r, v, &s));
        if (letter == 's')
            pg_buf_put_str(b, &s);
        else
            pg_value_print(b, v);
        return b->rc;
    }
    if (!pg_is_number(v))
        return pg_jinja_fail(r, "the format %%%c has %s, wanted a number", letter,
                             pg_value_type(v));
    for (size_t i = 0, n_digits = 0; i < n_spec; i++) {
        n_digits = spec[i] >= '0' && spec[i] <= '9' ? n_digits + 1 : 0;
        if (n_digits > 3 || n_spec > 12)
            return pg_jinja_fail(r, "a format has a width of %.*s", (int)PG_MIN(n_spec, 12u), spec);
    }
    if (letter == 'd' || letter == 'i' || letter == 'x') {
        if (v->kind == PG_V_FLOAT && !(fabs(v->real) < 9e18))
            return too_large(r);
        long long i = v->kind == PG_V_FLOAT ? (long long)v->real : (long long)whole(v);
        snprintf(format, sizeof(format), "%%%.*sll%c", (int)n_spec, spec, letter);
        n = snprintf(text, sizeof(text), format, i);
    } else {
        snprintf(format, sizeof(format), "%%%.*s%c", (int)n_spec, spec, letter);
        n = snprintf(text, sizeof(text), format, real(v));
    }
    if (n < 0 || (size_t)n >= sizeof(text))
        return pg_jinja_fail(r, "a formatted number has more than %zu bytes", sizeof(text));
    pg_buf_put(b, text, (size_t)n, v->content);
    return b->rc;
}

int pg_jinja_percent(struct pg_jinja_run *r, const struct pg_value v[2], struct pg_value *out)
{
    struct pg_buf b = {.run = r};
    const struct pg_value f = v[0], *arg = v[1].kind == PG_V_TUPLE ? v[1].item : &v[1];
    uint32_t n = v[1].kind == PG_V_TUPLE ? v[1].n : 1, used = 0;
    for (size_t i = 0; i < f.n;) {
        size_t end = i;
        while (end < f.n && f.s[end] != '%')
            end++;
        struct pg_value plain = pg_value_part(&f, i, end - i);
        pg_buf_put_str(&b, &plain);
        if (end == f.n)
            break;
        size_t letter = end + 1;
        while (letter < f.n && memchr("-+ #0123456789.", f.s[letter], 15))
            letter++;
        if (letter == f.n || !memchr("sdifgexr%", f.s[letter], 9))
            return pg_jinja_fail(r, "a format is not known");
        if (f.s[letter] == '%') {
            plain = pg_value_part(&f, letter, 1);
            pg_buf_put_str(&b, &plain);
        } else if (used == n) {
            return pg_jinja_fail(r, "a format wants more than the %u values that it has", n);
        } else {
            PG_TRY(put_converted(&b, f.s + end + 1, letter - end - 1, f.s[letter], &arg[used++]));
        }
        i = letter + 1;
    }
    if (used < n && v[1].kind != PG_V_DICT)
        return pg_jinja_fail(r, "a format has %u values, wanted %u", n, used);
    return pg_buf_end(&b, out);
}

/* ---- all of them ---- */

static const char *spelling(int op, char out[3])
{
    out[0] = (char)(op > 0xFF ? op >> 8 : op);
    out[1] = op > 0xFF ? (char)op : '\0';
    out[2] = '\0';
    return out;
}

int pg_jinja_binary(struct pg_jinja_run *r, int op, const struct pg_value v[2],
                    struct pg_value *out)
{
    char name[3];
    bool same = v[0].kind == v[1].kind;
    if (pg_is_number(&v[0]) && pg_is_number(&v[1]))
        return binary_numbers(r, op, v, out);
    if (op == '+' && same && (v[0].kind == PG_V_STR || pg_is_list(&v[0])))
        return join(r, v, out);
    if (op == '%' && v[0].kind == PG_V_STR)
        return pg_jinja_percent(r, v, out);
    for (int i = 0; i < 2 && op == '*'; i++) {
        const struct pg_value *times = &v[!i];
        if ((v[i].kind == PG_V_STR || pg_is_list(&v[i])) &&
            (times->kind == PG_V_INT || times->kind == PG_V_BOOL))
            return repeat(r, &v[i], whole(times), out);
    }
    for (int i = 0; i < 2; i++)
        if (v[i].kind == PG_V_UNDEFINED)
            return pg_jinja_fail(r, "'%s' is undefined", pg_quote(v[i].s, v[i].n).s);
    return pg_jinja_fail(r, "%s %s %s cannot be computed", pg_value_type(&v[0]), spelling(op, name),
                         pg_value_type(&v[1]));
}

int pg_jinja_compare(struct pg_jinja_run *r, int op, const struct pg_value v[2], bool *out)
{
    int order;
    if (op == PG_OP('=', '=') || op == PG_OP('!', '=')) {
        PG_TRY(pg_value_equal(r, v, out));
        *out = *out == (op == PG_OP('=', '='));
        return 0;
    }
    if (op == PG_OP_IN || op == PG_OP_NOT_IN) {
        PG_TRY(pg_value_in(r, v, out));
        *out = *out == (op == PG_OP_IN);
        return 0;
    }
    PG_TRY(pg_value_order(r, v, &order));
    switch (op) {
    case '<':
        *out = order < 0;
        break;
    case '>':
        *out = order > 0;
        break;
    case PG_OP('<', '='):
        *out = order <= 0;
        break;
    default:
        *out = order >= 0;
    }
    return 0;
}

/* ---- slices ---- */

/* A bound of a slice, none where it was not given. */
static int bound(struct pg_jinja_run *r, const struct pg_value *v, int64_t none, int64_t *out)
{
    *out = none;
    if (v->kind == PG_V_INT || v->kind == PG_V_BOOL)
        *out = whole(v);
    else if (v->kind != PG_V_ABSENT && v->kind != PG_V_NONE)
        return pg_jinja_fail(r, "a slice has %s, wanted whole numbers", pg_value_type(v));
    return 0;
}

static int64_t clamp(int64_t i, int64_t n, bool back)
{
    i = i < 0 ? (i < -n ? -1 : i + n) : i;
    if (back)
        return PG_MIN(i, n - 1);
    return PG_MIN(PG_MAX(i, 0), n);
}

/* Where characters of a text begin: [n + 1]; NULL: one byte each. */
static int places(struct pg_jinja_run *r, const struct pg_value *s, size_t n, uint32_t **at)
{
    *at = NULL;
    if (s->kind != PG_V_STR || n == s->n)
        return 0;
    *at = pg_jinja_take(&r->pile, (n + 1) * sizeof(**at));
    if (!*at)
        return pg_jinja_full(r);
    size_t i = 0;
    for (uint32_t b = 0; b <= s->n; b++)
        if (b == s->n || ((unsigned char)s->s[b] & 0xC0) != 0x80)
            (*at)[i++] = b;
    return 0;
}

static int slice_apart(struct pg_jinja_run *r, const struct pg_value *v, const int64_t range[4],
                       struct pg_value *out)
{
    int64_t n_out = range[3], i = range[0], step = range[2];
    struct pg_value *item, from = *v;
    uint32_t *at;
    if (from.kind != PG_V_STR) {
        PG_TRY(pg_value_list(r, (size_t)n_out, &item, out));
        for (int64_t k = 0; k < n_out; k++)
            item[k] = from.item[i + k * step];
        out->kind = from.kind;
        out->content = from.content;
        return 0;
    }
    struct pg_buf b = {.run = r};
    PG_TRY(places(r, &from, pg_str_chars(&from), &at));
    for (int64_t k = 0; k < n_out; k++) {
        size_t c = (size_t)(i + k * step), begin = at ? at[c] : c, end = at ? at[c + 1] : c + 1;
        struct pg_value part = pg_value_part(&from, begin, end - begin);
        pg_buf_put_str(&b, &part);
    }
    return pg_buf_end(&b, out);
}

/* v[0] [v[1] : v[2] : v[3]]. */
int pg_jinja_slice(struct pg_jinja_run *r, const struct pg_value v[4], struct pg_value *out)
{
    int64_t n, range[4];
    if (v[0].kind != PG_V_STR && !pg_is_list(&v[0]))
        return pg_jinja_fail(r, "a slice of %s, wanted a text or a list", pg_value_type(&v[0]));
    PG_TRY(pg_jinja_scan(r, v[0].kind == PG_V_STR ? v[0].n : 0));
    n = v[0].kind == PG_V_STR ? (int64_t)pg_str_chars(&v[0]) : v[0].n;
    PG_TRY(bound(r, &v[3], 1, &range[2]));
    if (!range[2])
        return pg_jinja_fail(r, "a slice has steps of 0");
    bool back = range[2] < 0;
    range[2] = PG_MAX(PG_MIN(range[2], n + 1), -n - 1);
    PG_TRY(bound(r, &v[1], back ? n - 1 : 0, &range[0]));
    PG_TRY(bound(r, &v[2], back ? -n - 1 : n, &range[1]));
    range[0] = clamp(range[0], n, back);
    range[1] = clamp(range[1], n, back);
    int64_t span = back ? range[0] - range[1] : range[1] - range[0];
    int64_t step = back ? -range[2] : range[2];
    range[3] = span > 0 ? (span + step - 1) / step : 0;
    if (range[2] != 1)
        return slice_apart(r, &v[0], range, out);
    if (v[0].kind == PG_V_STR) {
        size_t begin = pg_str_at(&v[0], (size_t)range[0]);
        struct pg_value rest = pg_value_part(&v[0], begin, v[0].n - begin);
        *out = pg_value_part(&rest, 0, pg_str_at(&rest, (size_t)range[3]));
        return 0;
    }
    struct pg_value part = v[0];
    part.item = v[0].n ? v[0].item + range[0] : NULL;
    part.n = (uint32_t)range[3];
    *out = part;
    return 0;
}
