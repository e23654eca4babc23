/* SPDX-License-Identifier: MIT
 * The results of `pregate bench` as one self-contained page: text, four SVG charts, a table.
 *
 * All charts share one layout: a bar a row, rows in groups of one budget, names on the left,
 * numbers behind the bars. It is written for a reader who has never seen the program: a sentence
 * under each chart says what is seen and what is good.
 */
#include "bench.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

enum { LABEL_W = 150, PLOT_W = 520, VALUE_W = 190, ROW_H = 26, GROUP_H = 34, AXIS_H = 30 };
#define MIB       (1024.0 * 1024.0)
#define PARTS_MAX 4

/* A bar made of parts from left to right; one part for a plain bar. */
struct bar {
    double part[PARTS_MAX];
    double error;  /* half the length of the error bar, 0 = none */
    double marker; /* where a line crosses the bar, negative = none */
    char value[64];
};

struct chart {
    const char *title, *axis, *caption;
    int n_parts;
    const char *part_name[PARTS_MAX], *part_class[PARTS_MAX];
    const char *marker_name; /* NULL = no marker */
    double max;              /* 0 = as the bars need */
    void (*bar)(const struct bench *b, const struct bench_row *row, struct bar *out);
};

static void put_escaped(const char *text)
{
    for (; *text; text++)
        switch (*text) {
        case '<':
            fputs("&lt;", stdout);
            break;
        case '>':
            fputs("&gt;", stdout);
            break;
        case '&':
            fputs("&amp;", stdout);
            break;
        case '"':
            fputs("&quot;", stdout);
            break;
        default:
            if ((unsigned char)*text >= ' ' || *text == '\n')
                putchar(*text);
        }
}

static void put_row_name(const struct bench *b, const struct bench_row *row)
{
    fputs(pg_mode_name(row->mode), stdout);
    if (b->args->policies && strchr(b->args->policies, ',') && row->mode != PG_MODE_RESIDENT)
        printf(" · %s", pg_evict_name(row->evict));
}

/* ---------------------------------------------------------------- what the bars show -------- */

static void bar_speed(const struct bench *b, const struct bench_row *row, struct bar *out)
{
    out->part[0] = row->decode_tps;
    out->error = row->decode_tps_sd;
    out->marker = cli_ratio(bench_n_decoded(b), row->floor_seconds);
    snprintf(out->value, sizeof(out->value), "%.2f ± %.2f", row->decode_tps, row->decode_tps_sd);
}

static void bar_bytes(const struct bench *b, const struct bench_row *row, struct bar *out)
{
    out->part[0] = bench_per_token(b, (double)row->typical->decode.expert_bytes_read) / MIB;
    snprintf(out->value, sizeof(out->value), "%.1f MiB", out->part[0]);
}

static void bar_time(const struct bench *b, const struct bench_row *row, struct bar *out)
{
    const struct bench_rep *rep = row->typical;
    const double total = bench_per_token(b, rep->decode_seconds) * 1e3;
    out->part[0] = bench_per_token(b, rep->decode.compute_seconds) * 1e3;
    out->part[1] = bench_per_token(b, rep->decode.stall_seconds) * 1e3;
    out->part[2] = fmax(0, total - out->part[0] - out->part[1]);
    out->marker = bench_per_token(b, row->floor_seconds) * 1e3;
    snprintf(out->value, sizeof(out->value), "%.1f ms, floor %.1f", total, out->marker);
}

static void bar_found(const struct bench *b, const struct bench_row *row, struct bar *out)
{
    const struct pg_stats *d = &row->typical->decode;
    (void)b;
    out->part[0] = 100 * bench_share(row, d->hits);
    out->part[1] = 100 * bench_share(row, d->hinted_in_time);
    out->part[2] = 100 * bench_share(row, d->hinted_late);
    out->part[3] = 100 * bench_share(row, d->missed);
    if (d->expert_requests)
        snprintf(out->value, sizeof(out->value), "%.0f %% without waiting",
                 out->part[0] + out->part[1]);
    else
        snprintf(out->value, sizeof(out->value), "all in memory");
}

// clang-format off
static const struct chart charts[] = {
{"Speed", "tokens per second while writing", "Longer is better. The thin line at the end of a bar "
 "is the spread over the repetitions. The upright mark is what this machine could do at best with "
 "the same reads and the same arithmetic, if one never waited for the other.",
 1, {"measured"}, {"c1"}, "best possible", 0, bar_speed},
{"Read from disk for each token", "MiB of experts per token", "Shorter is better: an expert that is "
 "not in memory has to be read before it can be used. The cache policy, and the memory it has, "
 "decide this number.",
 1, {"read"}, {"c1"}, NULL, 0, bar_bytes},
{"Where the time of a token goes", "milliseconds per token", "Shorter is better. Computing is "
 "useful; stalled means that there was nothing to compute and a read was awaited. The upright mark "
 "is the floor: the longer of pure computing and pure reading. A bar that ends at its mark wastes "
 "nothing.",
 3, {"computing", "stalled", "other"}, {"c1", "c4", "c5"}, "floor", 0, bar_time},
{"Where wanted experts were found", "% of the experts wanted", "In memory: it was there already. "
 "Hinted in time: a hint had named it earlier and it had arrived. Hinted, late: named, but "
 "still on its way. Missed: nobody knew, and the computation had to wait for the disk.",
 4, {"in memory", "hinted in time", "hinted, late", "missed"}, {"c1", "c2", "c3", "c4"}, NULL, 100,
 bar_found},
};
// clang-format on

/* ---------------------------------------------------------------- charts -------------------- */

static double bar_length(const struct bar *bar, int n_parts)
{
    double sum = 0;
    for (int i = 0; i < n_parts; i++)
        sum += bar->part[i];
    return sum;
}

/* A round number such that about five steps of it reach `max`. */
static double axis_step(double max)
{
    const double rough = max / 5;
    const double power = pow(10, floor(log10(rough)));
    const double lead = rough / power;
    return power * (lead <= 1 ? 1 : lead <= 2 ? 2 : lead <= 5 ? 5 : 10);
}

static double chart_max(const struct bench *b, const struct chart *c)
{
    double max = c->max;
    for (int i = 0; !c->max && i < b->n_rows; i++) {
        struct bar bar = {.marker = -1};
        if (b->rows[i].error[0])
            continue;
        c->bar(b, &b->rows[i], &bar);
        max = fmax(max, fmax(bar_length(&bar, c->n_parts) + bar.error, bar.marker));
    }
    return max > 0 ? max : 1;
}

static void put_axis(double max, int height, const char *name)
{
    const double step = axis_step(max);
    for (int i = 0; i * step <= max * 1.0001; i++) {
        const double x = LABEL_W + i * step / max * PLOT_W;
        printf("<line class=grid x1=%.1f x2=%.1f y1=0 y2=%d />"
               "<text class=tick x=%.1f y=%d>%g</text>\n",
               x, x, height, x, height + 14, i * step);
    }
    printf("<text class=axis x=%d y=%d>", LABEL_W + PLOT_W / 2, height + AXIS_H);
    put_escaped(name);
    puts("</text>");
}

static void put_marks(const struct bar *bar, double end, double scale, int y)
{
    if (bar->error > 0) {
        const double x0 = LABEL_W + fmax(0, end - bar->error) * scale;
        const double x1 = LABEL_W + (end + bar->error) * scale;
        const int mid = y + ROW_H / 2 - 2;
        printf("<path class=spread d='M%.1f %dH%.1fM%.1f %dv8M%.1f %dv8' />", x0, mid, x1, x0,
               mid - 4, x1, mid - 4);
    }
    if (bar->marker >= 0)
        printf("<line class=marker x1=%.1f x2=%.1f y1=%d y2=%d />", LABEL_W + bar->marker * scale,
               LABEL_W + bar->marker * scale, y - 1, y + ROW_H - 3);
}

static void put_bar(const struct bench *b, const struct chart *c, const struct bench_row *row,
                    double max, int y)
{
    struct bar bar = {.marker = -1};
    double x = 0;
    const double scale = PLOT_W / max;
    printf("<text class=name x=%d y=%d>", LABEL_W - 10, y + 15);
    put_row_name(b, row);
    fputs("</text>", stdout);
    c->bar(b, row, &bar);
    for (int i = 0; i < c->n_parts; i++) {
        printf("<rect class=%s x=%.1f y=%d width=%.1f height=%d><title>%s: %.4g</title></rect>",
               c->part_class[i], LABEL_W + x * scale, y, fmax(0, bar.part[i]) * scale, ROW_H - 5,
               c->part_name[i], bar.part[i]);
        x += bar.part[i];
    }
    put_marks(&bar, x, scale, y);
    printf("<text x=%d y=%d>%s</text>\n", LABEL_W + PLOT_W + 14, y + 15, bar.value);
}

static void put_legend(const struct chart *c)
{
    if (c->n_parts == 1 && !c->marker_name)
        return;
    fputs("<p class=legend>", stdout);
    for (int i = 0; i < c->n_parts; i++)
        printf("<span><i class=%s></i>%s</span> ", c->part_class[i], c->part_name[i]);
    if (c->marker_name)
        printf("<span><i class=mark></i>%s</span>", c->marker_name);
    puts("</p>");
}

/* The rows that a chart shows, and the height that they need. */
static int chart_rows(const struct bench *b, int *height)
{
    int n = 0;
    uint64_t memory = 0;
    *height = 0;
    for (int i = 0; i < b->n_rows; i++) {
        const struct bench_row *row = &b->rows[i];
        if (row->error[0])
            continue;
        *height += ROW_H + (n == 0 || row->memory_bytes != memory ? GROUP_H : 0);
        memory = row->memory_bytes;
        n++;
    }
    return n;
}

static void put_bars(const struct bench *b, const struct chart *c, double max)
{
    uint64_t memory = 0;
    for (int i = 0, y = 0; i < b->n_rows; i++) {
        const struct bench_row *row = &b->rows[i];
        char size[16];
        if (row->error[0])
            continue;
        if (y == 0 || row->memory_bytes != memory) {
            memory = row->memory_bytes;
            printf("<text class=group x=0 y=%d>Budget %s</text>\n", y + GROUP_H - 12,
                   cli_size_text(memory, size));
            y += GROUP_H;
        }
        put_bar(b, c, row, max, y);
        y += ROW_H;
    }
}

static void put_chart(const struct bench *b, const struct chart *c)
{
    int height;
    const double max = chart_max(b, c);
    if (chart_rows(b, &height) == 0)
        return;
    printf("<section><h2>%s</h2>\n", c->title);
    put_legend(c);
    printf("<svg viewBox='0 0 %d %d' role=img aria-label='%s'>\n", LABEL_W + PLOT_W + VALUE_W,
           height + AXIS_H + 8, c->title);
    put_axis(max, height, c->axis);
    put_bars(b, c, max);
    printf("</svg><p>%s</p></section>\n", c->caption);
}

/* ---------------------------------------------------------------- text and table ------------ */

static const char style[] =
    "<style>:root{color-scheme:light dark;--bg:#fbfaf7;--ink:#20242a;--dim:#69707a;--line:#dedcd5;"
    "--c1:#3566a8;--c2:#3f9a76;--c3:#e0a733;--c4:#c8553d;--c5:#b9b6ae;--mark:#20242a}\n"
    "@media(prefers-color-scheme:dark){:root{--bg:#16181c;--ink:#e6e4df;--dim:#969ca6;"
    "--line:#32363d;--c1:#6f9fe0;--c2:#58b98f;--c3:#e3b34c;--c4:#e0715a;--c5:#5a5e66;"
    "--mark:#f4f2ec}}\n"
    "*{box-sizing:border-box}body{margin:0 auto;padding:2.2rem 1.2rem 4rem;max-width:62rem;"
    "background:var(--bg);color:var(--ink);font:16px/1.55 system-ui,sans-serif}\n"
    "h1{font-size:1.7rem;line-height:1.25;margin:0 0 .4rem}h2{font-size:1.15rem;margin:0 0 .5rem}"
    "p{margin:.5rem 0;max-width:46rem}section{margin:2.6rem 0}.dim,section>p{color:var(--dim)}\n"
    ".legend{display:flex;flex-wrap:wrap;gap:.2rem 1.2rem;font-size:.9rem}.legend i{"
    "display:inline-block;width:.8em;height:.8em;border-radius:2px;margin-right:.4em}"
    ".legend .mark{width:2px;height:1em;vertical-align:-.15em;border-radius:0}\n"
    "svg{width:100%;height:auto;display:block;font:13px system-ui,sans-serif;overflow:visible}"
    "svg text{fill:var(--ink)}.name{text-anchor:end}.group{font-weight:600}"
    "svg .tick,svg .axis{fill:var(--dim)}.tick,.axis{text-anchor:middle;font-size:12px}"
    ".grid{stroke:var(--line)}.spread{stroke:var(--ink);stroke-width:1.5;fill:none}"
    ".marker{stroke:var(--mark);stroke-width:2}\n"
    ".c1{fill:var(--c1);background:var(--c1)}.c2{fill:var(--c2);background:var(--c2)}"
    ".c3{fill:var(--c3);background:var(--c3)}.c4{fill:var(--c4);background:var(--c4)}"
    ".c5{fill:var(--c5);background:var(--c5)}.mark{background:var(--mark)}\n"
    ".scroll{overflow-x:auto}table{border-collapse:collapse;font-size:.82rem;white-space:nowrap;"
    "font-variant-numeric:tabular-nums}th,td{padding:.3rem .42rem;text-align:right;"
    "border-bottom:1px solid var(--line)}th{color:var(--dim);font-weight:500}"
    "th:nth-child(-n+3),td:nth-child(-n+3),td.why{text-align:left}td.why{white-space:normal;max-"
    "width:30rem;"
    "color:var(--dim)}ul{padding-left:1.2rem;max-width:46rem}li{margin:.25rem 0}</style>\n";

static void put_modes_text(const struct bench *b)
{
    static const char *const text[PG_MODE_COUNT] = {
        [PG_MODE_RESIDENT] = "the whole model is in memory; no disk at all.",
        [PG_MODE_ONDEMAND] = "an expert is read when it is wanted; the computation waits.",
        [PG_MODE_PREFETCH_ALL] = "all experts of the next block are hinted, wanted or not.",
        [PG_MODE_LOOKAHEAD] = "the next block's router is asked early; what it names is hinted.",
        [PG_MODE_HINT] = "a predictor made for it (a pre-gate) hints; the router still decides.",
        [PG_MODE_PREGATE] = "the pre-gate itself decides, one block early, so that every read is "
                            "known in time."};
    bool seen[PG_MODE_COUNT] = {false};
    puts("<ul class=dim>");
    for (int i = 0; i < b->n_rows; i++) {
        const enum pg_mode mode = b->rows[i].mode;
        if (seen[mode] || !text[mode])
            continue;
        seen[mode] = true;
        printf("<li><b>%s</b>: %s</li>\n", pg_mode_name(mode), text[mode]);
    }
    puts("</ul>");
}

/* The quickest row of the budget that begins at row i; -1 when none ran. *next: the next budget. */
static int budget_best(const struct bench *b, int i, int *next)
{
    int best = -1;
    const uint64_t memory = b->rows[i].memory_bytes;
    for (; i < b->n_rows && b->rows[i].memory_bytes == memory; i++)
        if (!b->rows[i].error[0] && (best < 0 || b->rows[i].decode_tps > b->rows[best].decode_tps))
            best = i;
    *next = i;
    return best;
}

static double ondemand_speed(const struct bench *b, uint64_t memory)
{
    for (int i = 0; i < b->n_rows; i++)
        if (b->rows[i].memory_bytes == memory && b->rows[i].mode == PG_MODE_ONDEMAND)
            return b->rows[i].decode_tps;
    return 0;
}

/* Whether any of the rows [i, next) of this mode was measured. */
static bool mode_ran(const struct bench *b, int i, int next, enum pg_mode mode)
{
    for (; i < next; i++)
        if (b->rows[i].mode == mode && !b->rows[i].error[0])
            return true;
    return false;
}

/* The modes of the rows [i, next) that could not be run at all. */
static void put_not_run(const struct bench *b, int i, int next)
{
    bool said[PG_MODE_COUNT] = {false};
    int n = 0;
    for (int at = i; at < next; at++) {
        const enum pg_mode mode = b->rows[at].mode;
        if (said[mode] || mode_ran(b, i, next, mode))
            continue;
        said[mode] = true;
        printf("%s%s", n++ ? ", " : " Not run: ", pg_mode_name(mode));
    }
    if (n)
        fputs(" (the table says why).", stdout);
}

static void put_result(const struct bench *b, const struct bench_row *row)
{
    char peak[16];
    const double base = ondemand_speed(b, row->memory_bytes);
    fputs("<b>", stdout);
    put_row_name(b, row);
    printf("</b> is the quickest, %.2f tokens per second", row->decode_tps);
    if (base > 0 && row->mode != PG_MODE_ONDEMAND)
        printf(", %.2f times <i>ondemand</i>", row->decode_tps / base);
    printf("; the process used %s at its peak.", cli_size_text(row->peak_rss_bytes, peak));
}

static void put_results(const struct bench *b)
{
    puts("<ul>");
    for (int i = 0, next = 0; i < b->n_rows; i = next) {
        char size[16];
        const int best = budget_best(b, i, &next);
        printf("<li>With %s: ", cli_size_text(b->rows[i].memory_bytes, size));
        if (best < 0)
            fputs("nothing could be run.", stdout);
        else
            put_result(b, &b->rows[best]);
        put_not_run(b, i, next);
        puts("</li>");
    }
    puts("</ul>");
}

static void put_head(const struct bench *b)
{
    char size[16], limit[16];
    const char *slash = strrchr(b->args->subject, '/');
    const char *name = slash ? slash + 1 : b->args->subject;
    const struct bench_spread dram = bench_roof(b->roof_dram, b->n_roofs);
    const struct bench_spread disk = bench_roof(b->roof_disk, b->n_roofs);
    fputs("<!doctype html><html lang=en><meta charset=utf-8>"
          "<meta name=viewport content='width=device-width,initial-scale=1'><title>",
          stdout);
    put_escaped(name);
    printf(" under a memory budget</title>\n%s<h1>", style);
    put_escaped(name);
    puts(" under a memory budget</h1>");
    puts(
        "<p>A Mixture-of-Experts model is mostly <i>experts</i>, and each token uses only a few of "
        "them. When they do not all fit in memory, those that are wanted have to be read from "
        "disk. "
        "This page compares ways to know early which ones will be wanted.</p>");
    put_results(b);
    fputs("<p class=dim>", stdout);
    if (b->model_known) {
        printf("Model: %s, %s, %s; %d blocks, %d of %d experts in each. ", b->model.arch,
               b->model.file_type, cli_size_text(b->model.file_bytes, size), b->model.n_layer,
               b->model.n_expert_used, b->model.n_expert);
    }
    fputs("Machine: ", stdout);
    put_escaped(b->machine.cpu_model);
    printf(
        ", %d CPUs, %s usable memory; reads memory at up to %.1f GB/s (%.1f to %.1f in this run) "
        "and the disk at up to %.2f GB/s (%.2f to %.2f). Prompt %d tokens, then %d tokens "
        "written, %d repetition(s), all rows in turn.</p>\n",
        b->machine.n_cpu, cli_size_text(b->machine.memory_limit, limit), dram.max * 1e-9,
        dram.min * 1e-9, dram.max * 1e-9, disk.max * 1e-9, disk.min * 1e-9, disk.max * 1e-9,
        b->args->n_prompt, b->args->n_predict, b->args->reps);
    put_modes_text(b);
}

static void put_table(const struct bench *b)
{
    puts("<section><h2>All numbers</h2><div class=scroll><table><tr><th>mode<th>eviction<th>budget"
         "<th>slots<th>prompt tok/s<th>decode tok/s<th>MiB/token<th>in memory<th>hinted<th>missed"
         "<th>stalled<th>of the floor<th>peak used</tr>");
    for (int i = 0; i < b->n_rows; i++) {
        const struct bench_row *row = &b->rows[i];
        char size[16], peak[16];
        printf("<tr><td>%s<td>%s<td>%s", pg_mode_name(row->mode), pg_evict_name(row->evict),
               cli_size_text(row->memory_bytes, size));
        if (row->error[0]) {
            fputs("<td colspan=10 class=why>", stdout);
            put_escaped(row->error);
            puts("</tr>");
            continue;
        }
        const struct pg_stats *d = &row->typical->decode;
        printf("<td>%d<td>%.1f<td>%.2f ± %.2f<td>%.1f<td>%.1f %%<td>%.1f %%<td>%.1f %%<td>%.0f "
               "%%<td>%.2f"
               "<td>%s</tr>\n",
               row->n_slots, row->prefill_tps, row->decode_tps, row->decode_tps_sd,
               bench_per_token(b, (double)d->expert_bytes_read) / MIB,
               100 * bench_share(row, d->hits),
               100 * bench_share(row, d->hinted_in_time + d->hinted_late),
               100 * bench_share(row, d->missed),
               100 * cli_ratio(d->stall_seconds, row->typical->decode_seconds),
               row->overlap_efficiency, cli_size_text(row->peak_rss_bytes, peak));
    }
    puts(
        "</table></div><p>“Of the floor” is the floor divided by the measured time: 1.00 cannot be "
        "beaten on this machine. Counters are those of writing, of the repetition with the median "
        "speed.</p></section>\n<p class=dim>Made by pregate " PG_VERSION ".</p></html>");
}

void bench_print_html(const struct bench *b)
{
    put_head(b);
    for (size_t i = 0; i < sizeof(charts) / sizeof(charts[0]); i++)
        put_chart(b, &charts[i]);
    put_table(b);
}
