/* SPDX-License-Identifier: MIT
 * Rows of `pregate load` as an SVG that needs nothing else: times to the first token and between
 * tokens on logarithmic axes, tokens a second on a linear one, each against clients or requests a
 * second. A row with failed requests has a cross. Colours can be seen on light and on dark ground.
 */
#include "load.h"

#include <math.h>
#include <string.h>

enum {
    PANELS = 3,
    LINES = 3,
    TICKS = 16,
    LEFT = 58,
    WIDTH = 216,
    STEP = LEFT + WIDTH + 22,
    TOP = 92,
    HEIGHT = 220,
    BOTTOM = 52
};

struct axis {
    double lo, hi, tick[TICKS];
    int n_ticks;
    bool log;
};

struct panel {
    const char *title;
    bool log;
    int n_lines, colour; /* of the first line */
    double (*value)(const struct load_row *r, int line);
};

static double first_ms(const struct load_row *r, int line)
{
    return 1e3 * (line == 0 ? r->first.p50 : line == 1 ? r->first.p90 : r->first.p99);
}

static double gap_ms(const struct load_row *r, int line)
{
    return 1e3 * (line == 0 ? r->gap.p50 : line == 1 ? r->gap.p90 : r->gap.p99);
}

static double tokens_a_second(const struct load_row *r, int line)
{
    (void)line;
    return cli_ratio(r->window_tokens, r->seconds);
}

static const struct panel panels[PANELS] = {
    {"to the first token, ms", true, LINES, 0, first_ms},
    {"between tokens, ms", true, LINES, 0, gap_ms},
    {"tokens a second, all together", false, 1, LINES, tokens_a_second}};
static const char *const line_names[LINES] = {"p50", "p90", "p99"};

/* ---------------------------------------------------------------- scales -------------------- */

static void add_tick(struct axis *a, double v)
{
    if (a->n_ticks < TICKS)
        a->tick[a->n_ticks++] = v;
}

/* From 1, 2 or 5 times a power of ten to another; ticks at those, or where they are many at powers
 * of ten. */
static void axis_log(struct axis *a, double lo, double hi)
{
    static const double parts[] = {1, 2, 5};
    const int first = (int)floor(log10(lo) + 1e-9), last = (int)ceil(log10(hi) - 1e-9);
    const bool few = last - first <= 3;
    a->lo = pow(10, first);
    a->hi = pow(10, last > first ? last : first + 1);
    for (int e = first; e <= last; e++)
        for (int p = 0; p < (few ? 3 : 1); p++) {
            const double v = parts[p] * pow(10, e);
            a->lo = few && v <= lo * (1 + 1e-9) ? v : a->lo;
            if (v >= hi * (1 - 1e-9)) {
                a->hi = v > a->lo ? v : a->hi;
                e = last;
                break;
            }
        }
    for (int e = first; e <= last; e++)
        for (int p = 0; p < (few ? 3 : 1); p++) {
            const double v = parts[p] * pow(10, e);
            if (v >= a->lo * (1 - 1e-9) && v <= a->hi * (1 + 1e-9))
                add_tick(a, v);
        }
}

static void axis_linear(struct axis *a, double hi)
{
    const double raw = hi / 5, power = pow(10, floor(log10(raw))), part = raw / power;
    const double tick = power * (part <= 1 ? 1 : part <= 2 ? 2 : part <= 5 ? 5 : 10);
    a->lo = 0;
    a->hi = ceil(hi / tick - 1e-9) * tick;
    for (int i = 0; i <= (int)lround(a->hi / tick); i++)
        add_tick(a, i * tick);
}

static bool shown(const struct load_row *r)
{
    return r->ran && r->n_cause[LOAD_DONE] > 0;
}

/* Whether there is anything to draw. */
static bool axis_make(struct axis *a, const struct load *l, const struct panel *p)
{
    double lo = HUGE_VAL, hi = 0;
    *a = (struct axis){.log = p->log};
    for (int i = 0; i < l->n_rows; i++)
        for (int line = 0; line < p->n_lines && shown(&l->rows[i]); line++) {
            const double v = p->value(&l->rows[i], line);
            lo = v > 0 ? fmin(lo, v) : lo;
            hi = fmax(hi, v);
        }
    if (!(hi > 0))
        return false;
    if (p->log)
        axis_log(a, lo, hi);
    else
        axis_linear(a, hi);
    return true;
}

static double at_y(const struct axis *a, double v)
{
    const double part = a->log ? log(fmax(v, a->lo) / a->lo) / log(a->hi / a->lo) : v / a->hi;
    return TOP + HEIGHT * (1 - part);
}

/* Rows stand side by side in their order, whatever their numbers. */
static double at_x(const struct load *l, int panel, int row)
{
    return panel * STEP + LEFT + WIDTH * (row + 0.5) / l->n_rows;
}

/* ---------------------------------------------------------------- parts --------------------- */

static const char style[] =
    "<style>text{font:12px system-ui,sans-serif;fill:#6f7680}.title{font-size:14px;"
    "font-weight:600}.grid{stroke:#808790;stroke-opacity:.25}.axis{stroke:#808790}"
    ".l0,.l1,.l2,.l3{fill:none;stroke-width:2;stroke-linejoin:round}.l0{stroke:#3b82d6}"
    ".l1{stroke:#d9822b}.l2{stroke:#c2528b}.l3{stroke:#2f9e6e}.d0{fill:#3b82d6}.d1{fill:#d9822b}."
    "d2{fill:#c2528b}.d3{fill:#2f9e6e}"
    ".bad{fill:none;stroke:#d64545;stroke-width:2}.end{text-anchor:end}.mid{text-anchor:middle}"
    "@media(prefers-color-scheme:dark){text{fill:#a4abb5}}</style>\n";

static void put_escaped(FILE *out, const char *text)
{
    for (const unsigned char *p = (const unsigned char *)text; *p; p++)
        if (*p == '<' || *p == '>' || *p == '&' || *p == '"' || *p < 0x20)
            fprintf(out, "&#%u;", *p < 0x20 ? '?' : *p);
        else
            fputc(*p, out);
}

static void put_axes(FILE *out, const struct load *l, int panel, const struct axis *a)
{
    const int left = panel * STEP + LEFT, bottom = TOP + HEIGHT;
    const int every = (l->n_rows + 11) / 12; /* names that fit */
    for (int i = 0; i < a->n_ticks; i++)
        fprintf(out,
                "<path class='grid' d='M%d %.1fh%d'/><text class='end' x='%d' y='%.1f'>%g</text>\n",
                left, at_y(a, a->tick[i]), WIDTH, left - 7, at_y(a, a->tick[i]) + 4, a->tick[i]);
    for (int i = 0; i < l->n_rows; i++) {
        const struct load_row *r = &l->rows[i];
        const double x = at_x(l, panel, i);
        fprintf(out, "<path class='axis' d='M%.1f %dv5'/>", x, bottom);
        if (i % every == 0)
            fprintf(out, "<text class='mid' x='%.1f' y='%d'>%g</text>\n", x, bottom + 19,
                    r->n_clients ? r->n_clients : r->rate);
        if (load_row_failed(r))
            fprintf(out, "<path class='bad' d='M%.1f %dl8 8m0 -8l-8 8'/>\n", x - 4, bottom - 12);
    }
    fprintf(out,
            "<path class='axis' d='M%d %dh%d'/><text class='mid' x='%d' y='%d'>%s</text>"
            "<text x='%d' y='%d'>%s</text>\n",
            left, bottom, WIDTH, left + WIDTH / 2, bottom + 38,
            l->rows[0].n_clients ? "clients" : "requests a second", left - 40, TOP - 16,
            panels[panel].title);
}

static void put_line(FILE *out, const struct load *l, int panel, int line, const struct axis *a)
{
    bool begun = false;
    fprintf(out, "<path class='l%d' d='", panels[panel].colour + line);
    for (int i = 0; i < l->n_rows; i++)
        if (shown(&l->rows[i])) {
            fprintf(out, "%s%.1f %.1f", begun ? "L" : "M", at_x(l, panel, i),
                    at_y(a, panels[panel].value(&l->rows[i], line)));
            begun = true;
        }
    fputs("'/>\n", out);
    for (int i = 0; i < l->n_rows; i++)
        if (shown(&l->rows[i]))
            fprintf(out, "<circle class='d%d' cx='%.1f' cy='%.1f' r='3'/>",
                    panels[panel].colour + line, at_x(l, panel, i),
                    at_y(a, panels[panel].value(&l->rows[i], line)));
    fputc('\n', out);
}

static void put_head(FILE *out, const struct load *l)
{
    bool failed = false;
    for (int i = 0; i < l->n_rows; i++)
        failed = failed || load_row_failed(&l->rows[i]);
    fprintf(out, "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 %d %d'>\n%s", PANELS * STEP,
            TOP + HEIGHT + BOTTOM, style);
    fputs("<text class='title' x='18' y='24'>", out);
    put_escaped(out, l->model);
    fputs(" at ", out);
    put_escaped(out, l->target.url);
    fputs("</text>\n", out);
    for (int line = 0; line < LINES; line++)
        fprintf(out, "<path class='l%d' d='M%d 44h22'/><text x='%d' y='48'>%s</text>", line,
                18 + line * 66, 46 + line * 66, line_names[line]);
    if (failed)
        fputs("<path class='bad' d='M220 40l8 8m0 -8l-8 8'/><text x='234' y='48'>some requests "
              "failed</text>",
              out);
    fputc('\n', out);
}

int load_write_svg(const struct load *l, const char *path, struct pg_err *err)
{
    struct cli_outfile f;
    const int rc = cli_outfile_open(&f, path, err);
    if (rc)
        return rc;
    put_head(f.stream, l);
    for (int p = 0; p < PANELS; p++) {
        struct axis a;
        const bool any = axis_make(&a, l, &panels[p]);
        put_axes(f.stream, l, p, &a);
        for (int line = panels[p].n_lines - 1; line >= 0 && any; line--)
            put_line(f.stream, l, p, line, &a);
    }
    fputs("</svg>\n", f.stream);
    return cli_outfile_commit(&f, err);
}
