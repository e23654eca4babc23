/* SPDX-License-Identifier: MIT
 * The metrics of a training as CSV, and as an SVG that needs nothing else: the loss of each step
 * thin, a mean over neighbours thick, the learning rate dashed on an axis of its own. Colours are
 * those that can be seen on light and on dark ground.
 */
#include "train_curve.h"

#include <math.h>
#include <stdlib.h>

/* ---------------------------------------------------------------- CSV ----------------------- */

int train_write_csv(const pg_trainer *t, const char *path, struct pg_err *err)
{
    struct cli_outfile f;
    struct pg_train_report r;
    const int rc = cli_outfile_open(&f, path, err);
    if (rc)
        return rc;
    fputs("step,loss,balance,sticky,misses,kl,imitate,grad_norm,lr,tokens,seconds\n", f.stream);
    for (int i = 1; pg_trainer_report_at(t, i, &r) == 0; i++)
        fprintf(f.stream, "%d,%.6g,%.6g,%.6g,%.6g,%.6g,%.6g,%.6g,%.6g,%llu,%.4g\n", r.step, r.loss,
                r.balance, r.sticky, r.misses, r.kl, r.imitate, r.grad_norm, r.lr,
                (unsigned long long)r.n_tokens, r.seconds);
    return cli_outfile_commit(&f, err);
}

/* ---------------------------------------------------------------- scales -------------------- */

enum { LEFT = 62, RIGHT = 88, TOP = 46, BOTTOM = 48, WIDTH = 720, HEIGHT = 320, POINTS = 1500 };

struct scale {
    double lo, hi, tick;
};

/* The step of 1, 2 or 5 times a power of ten that cuts lo … hi into about `n` parts; lo and hi are
 * moved outwards to ticks. */
static struct scale scale_make(double lo, double hi, int n)
{
    if (!(hi > lo))
        hi = lo + fmax(fabs(lo) * 0.1, 1e-12);
    const double raw = (hi - lo) / n, power = pow(10, floor(log10(raw))), part = raw / power;
    const double tick = power * (part <= 1 ? 1 : part <= 2 ? 2 : part <= 5 ? 5 : 10);
    return (struct scale){floor(lo / tick + 1e-9) * tick, ceil(hi / tick - 1e-9) * tick, tick};
}

static int scale_ticks(const struct scale *s)
{
    return (int)lround((s->hi - s->lo) / s->tick);
}

struct curve {
    FILE *out;
    const pg_trainer *t;
    int n;       /* steps there are */
    int memory;  /* of the mean, in steps */
    double *sum; /* [n + 1] of the losses of the first steps */
    struct scale x, loss, lr;
};

static double at_x(const struct curve *c, double v)
{
    return LEFT + WIDTH * (v - c->x.lo) / (c->x.hi - c->x.lo);
}

static double at_y(const struct scale *s, double v)
{
    return TOP + HEIGHT * (1 - (v - s->lo) / (s->hi - s->lo));
}

static int curve_make(struct curve *c)
{
    struct pg_train_report r = {.n_steps = 1};
    double lo = HUGE_VAL, hi = -HUGE_VAL, lr = 0;
    while (pg_trainer_report_at(c->t, c->n + 1, &r) == 0)
        c->n++;
    c->memory = c->n / 25 > 8 ? c->n / 25 : 8;
    c->sum = calloc((size_t)c->n + 1, sizeof(*c->sum));
    if (!c->sum)
        return PG_ENOMEM;
    for (int i = 1; i <= c->n; i++) {
        pg_trainer_report_at(c->t, i, &r);
        lo = fmin(lo, r.loss);
        hi = fmax(hi, r.loss);
        lr = fmax(lr, r.lr);
        c->sum[i] = c->sum[i - 1] + r.loss;
    }
    c->x = scale_make(0, r.n_steps, 8);
    c->x.hi = r.n_steps;
    c->loss = scale_make(c->n ? lo : 0, c->n ? hi : 1, 6);
    c->lr = scale_make(0, lr > 0 ? lr : 1, 6);
    return 0;
}

/* ---------------------------------------------------------------- parts --------------------- */

static const char style[] =
    "<style>text{font:12px system-ui,sans-serif;fill:#6f7680}.title{font-size:14px;"
    "font-weight:600}.grid{stroke:#808790;stroke-opacity:.25}.axis{stroke:#808790}"
    ".raw,.mean,.lr{fill:none;stroke:#3b82d6;stroke-linejoin:round}"
    ".raw{stroke-opacity:.4}.mean{stroke-width:2.2}"
    ".lr{stroke:#d9822b;stroke-width:1.4;stroke-dasharray:6 4}"
    ".end{text-anchor:end}.mid{text-anchor:middle}"
    "@media(prefers-color-scheme:dark){text{fill:#a4abb5}.raw,.mean{stroke:#6aa9f0}}</style>\n";

static void put_escaped(FILE *out, const char *text)
{
    for (const unsigned char *p = (const unsigned char *)text; *p; p++)
        if (*p == '<' || *p == '>' || *p == '&' || *p == '"' || *p < 0x20)
            fprintf(out, "&#%u;", *p < 0x20 ? '?' : *p);
        else
            fputc(*p, out);
}

static void put_axes(const struct curve *c)
{
    const int bottom = TOP + HEIGHT;
    for (int i = 0; i <= scale_ticks(&c->loss); i++) {
        const double v = c->loss.lo + i * c->loss.tick, y = at_y(&c->loss, v);
        fprintf(c->out,
                "<path class='grid' d='M%d %.1fh%d'/><text class='end' x='%d' y='%.1f'>%g</text>\n",
                LEFT, y, WIDTH, LEFT - 8, y + 4, fabs(v) < c->loss.tick / 2 ? 0 : v);
    }
    for (int i = 0; i <= scale_ticks(&c->lr); i++) {
        const double v = c->lr.lo + i * c->lr.tick;
        fprintf(c->out, "<text x='%d' y='%.1f'>%.3g</text>\n", LEFT + WIDTH + 8,
                at_y(&c->lr, v) + 4, v);
    }
    for (double v = c->x.lo; v <= c->x.hi * (1 + 1e-9); v += c->x.tick)
        fprintf(c->out,
                "<path class='axis' d='M%.1f %dv5'/><text class='mid' x='%.1f' y='%d'>%g</text>\n",
                at_x(c, v), bottom, at_x(c, v), bottom + 19, v);
    fprintf(c->out, "<path class='axis' d='M%d %dh%d'/>\n", LEFT, bottom, WIDTH);
    fprintf(c->out,
            "<text class='mid' x='%d' y='%d'>step</text>"
            "<text class='mid' transform='translate(15 %d) rotate(-90)'>loss, nats a token</text>"
            "<text class='mid' transform='translate(%d %d) rotate(90)'>learning rate</text>\n",
            LEFT + WIDTH / 2, bottom + 38, TOP + HEIGHT / 2, LEFT + WIDTH + RIGHT - 18,
            TOP + HEIGHT / 2);
}

static double value_loss(const struct curve *c, int step)
{
    return c->sum[step] - c->sum[step - 1];
}

/* Over steps on both sides, as many as there are on the shorter one at the ends. */
static double value_mean(const struct curve *c, int step)
{
    const int room = step - 1 < c->n - step ? step - 1 : c->n - step;
    const int half = c->memory / 2 < room ? c->memory / 2 : room;
    return (c->sum[step + half] - c->sum[step - half - 1]) / (2 * half + 1);
}

static double value_lr(const struct curve *c, int step)
{
    struct pg_train_report r = {0};
    pg_trainer_report_at(c->t, step, &r);
    return r.lr;
}

/* A line through at most POINTS points, each the mean of the steps it stands for. */
static void put_line(const struct curve *c, const char *name, const struct scale *s,
                     double (*value)(const struct curve *, int step))
{
    const int every = (c->n + POINTS - 1) / POINTS;
    fprintf(c->out, "<path class='%s' d='", name);
    for (int first = 1; first <= c->n; first += every) {
        const int n = first + every <= c->n ? every : c->n - first + 1;
        double sum = 0;
        for (int i = 0; i < n; i++)
            sum += value(c, first + i);
        fprintf(c->out, "%s%.1f %.1f", first == 1 ? "M" : "L", at_x(c, first + (n - 1) / 2.0),
                at_y(s, sum / n));
    }
    fputs("'/>\n", c->out);
}

static void put_legend(const struct curve *c, const char *title)
{
    const int x = LEFT + WIDTH;
    fprintf(c->out, "<text class='title' x='%d' y='22'>", LEFT);
    put_escaped(c->out, title);
    fprintf(c->out,
            "</text>\n<path class='raw' d='M%d 18h24'/><text x='%d' y='22'>loss</text>"
            "<path class='mean' d='M%d 18h24'/><text x='%d' y='22'>mean of %d steps</text>"
            "<path class='lr' d='M%d 18h24'/><text x='%d' y='22'>learning rate</text>\n",
            x - 374, x - 344, x - 308, x - 278, c->memory / 2 * 2 + 1, x - 108, x - 78);
}

static void put_all(const struct curve *c, const char *title)
{
    fprintf(c->out, "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 %d %d'>\n%s",
            LEFT + WIDTH + RIGHT, TOP + HEIGHT + BOTTOM, style);
    put_legend(c, title);
    put_axes(c);
    if (c->n) {
        put_line(c, "lr", &c->lr, value_lr);
        put_line(c, "raw", &c->loss, value_loss);
        put_line(c, "mean", &c->loss, value_mean);
    }
    fputs("</svg>\n", c->out);
}

int train_write_svg(const pg_trainer *t, const char *path, const char *title, struct pg_err *err)
{
    struct cli_outfile f;
    struct curve c = {.t = t};
    int rc = cli_outfile_open(&f, path, err);
    if (rc)
        return rc;
    c.out = f.stream;
    if (curve_make(&c)) {
        cli_outfile_abandon(&f);
        return cli_fail(err, PG_ENOMEM, "%s: out of memory", path);
    }
    put_all(&c, title);
    free(c.sum);
    return cli_outfile_commit(&f, err);
}
