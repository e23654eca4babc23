/* SPDX-License-Identifier: MIT
 * The results of `pregate bench` as a table, as CSV and as JSON.
 */
#include "bench.h"

#include <inttypes.h>
#include <string.h>

#define MIB (1024.0 * 1024.0)

static void print_head(const struct bench *b)
{
    char size[16], limit[16];
    const struct bench_spread dram = bench_roof(b->roof_dram, b->n_roofs);
    const struct bench_spread disk = bench_roof(b->roof_disk, b->n_roofs);
    printf("%s", b->args->subject);
    if (b->model_known)
        printf(": %s, %s, %s", b->model.arch, b->model.file_type,
               cli_size_text(b->model.file_bytes, size));
    printf("\n%s, %d CPUs, %s, %s usable\n", b->machine.cpu_model, b->machine.n_cpu,
           b->machine.cpu_level, cli_size_text(b->machine.memory_limit, limit));
    printf("Roofs: memory %.1f GB/s (%.1f to %.1f), disk %.2f GB/s (%.2f to %.2f)\n",
           dram.max * 1e-9, dram.min * 1e-9, dram.max * 1e-9, disk.max * 1e-9, disk.min * 1e-9,
           disk.max * 1e-9);
    if (b->n_parallel > 1)
        printf("%d texts side by side, of each: ", b->n_parallel);
    printf("%s %d tokens, decode %d tokens, repetitions %d%s%s\n\n",
           b->encodes ? "Prompt, encoded:" : "Prompt", b->args->n_prompt, b->args->n_predict,
           b->args->reps, b->args->routes ? ", routing of " : "",
           b->args->routes ? b->args->routes : "");
}

static void print_md_row(const struct bench *b, const struct bench_row *row)
{
    char size[16], peak[16];
    printf("| %-12s | %-6s | %10s | %5d |", pg_mode_name(row->mode), pg_evict_name(row->evict),
           cli_size_text(row->memory_bytes, size), row->n_slots);
    if (row->error[0]) {
        printf(" %s |\n", row->error);
        return;
    }
    const struct pg_stats *d = &row->typical->decode;
    printf(" %7.1f | %7.2f ± %-5.2f | %9.1f | %5.1f | %6.1f | %6.1f | %7.1f | %5.2f | %10s |\n",
           row->prefill_tps, row->decode_tps, row->decode_tps_sd,
           bench_per_token(b, (double)d->expert_bytes_read) / MIB, 100 * bench_share(row, d->hits),
           100 * bench_share(row, d->hinted_in_time + d->hinted_late),
           100 * bench_share(row, d->missed),
           100 * cli_ratio(d->stall_seconds, row->typical->decode_seconds), row->overlap_efficiency,
           cli_size_text(row->peak_rss_bytes, peak));
}

static void print_stopped(const struct bench *b)
{
    for (int i = 0; i < b->n_rows; i++) {
        const struct bench_row *row = &b->rows[i];
        char size[16];
        if (row->typical && cli_hints_stopped(row->mode, &row->typical->decode, b->args))
            printf(
                "%s with %s: hinted reads did not pay and were stopped (--hints on keeps them).\n",
                pg_mode_name(row->mode), cli_size_text(row->memory_bytes, size));
    }
}

void bench_print_md(const struct bench *b)
{
    print_head(b);
    puts("| mode         | evict  |     memory | slots | prefill |  decode tok/s   | MiB/token | "
         "hit % | "
         "hint % | miss % | stall % | floor |  peak used |\n"
         "|--------------|--------|-----------:|------:|--------:|----------------:|----------:|---"
         "---:|-"
         "------:|-------:|--------:|------:|-----------:|");
    for (int i = 0; i < b->n_rows; i++)
        print_md_row(b, &b->rows[i]);
    puts("\nfloor = time that computing or reading alone would take / measured decode time; 1 = "
         "cannot be beaten.\nMiB/token, hits, hints, misses and stalls are those of decoding.");
    print_stopped(b);
}

static void print_csv_text(const char *text)
{
    putchar('"');
    for (; *text; text++) {
        if (*text == '"')
            putchar('"');
        putchar(*text == '\n' ? ' ' : *text);
    }
    putchar('"');
}

void bench_print_csv(const struct bench *b)
{
    puts("mode,evict,memory_bytes,prefill_tps,decode_tps,decode_tps_sd,peak_rss_bytes,"
         "expert_bytes_read,expert_requests,hits,hinted_in_time,hinted_late,missed,stall_seconds,"
         "compute_seconds,floor_seconds,overlap_efficiency,n_slots,error");
    for (int i = 0; i < b->n_rows; i++) {
        const struct bench_row *row = &b->rows[i];
        printf("%s,%s,%" PRIu64 ",", pg_mode_name(row->mode), pg_evict_name(row->evict),
               row->memory_bytes);
        if (row->error[0]) {
            fputs(",,,,,,,,,,,,,,,", stdout);
            print_csv_text(row->error);
            putchar('\n');
            continue;
        }
        const struct pg_stats *d = &row->typical->decode;
        printf("%.9g,%.9g,%.9g,%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%" PRIu64
               ",%" PRIu64 ",%.9g,%.9g,%.9g,%.9g,%d,\n",
               row->prefill_tps, row->decode_tps, row->decode_tps_sd, row->peak_rss_bytes,
               d->expert_bytes_read, d->expert_requests, d->hits, d->hinted_in_time, d->hinted_late,
               d->missed, d->stall_seconds, d->compute_seconds, row->floor_seconds,
               row->overlap_efficiency, row->n_slots);
    }
}

/* ---------------------------------------------------------------- JSON ---------------------- */

static json_t *json_machine(const struct bench *b)
{
    const struct pg_machine *m = &b->machine;
    const struct bench_spread dram = bench_roof(b->roof_dram, b->n_roofs);
    const struct bench_spread disk = bench_roof(b->roof_disk, b->n_roofs);
    json_t *o = json_object();
    json_object_set_new(o, "cpu_model", cli_json_text(m->cpu_model, strlen(m->cpu_model)));
    json_object_set_new(o, "cpu_level", cli_json_text(m->cpu_level, strlen(m->cpu_level)));
    cli_put_size(o, "n_cpu", (uint64_t)m->n_cpu);
    cli_put_size(o, "memory_total", m->memory_total);
    cli_put_size(o, "memory_limit", m->memory_limit);
    cli_put_real(o, "roof_dram_bytes_per_s", dram.max);
    cli_put_real(o, "roof_dram_bytes_per_s_min", dram.min);
    cli_put_real(o, "roof_disk_bytes_per_s", disk.max);
    cli_put_real(o, "roof_disk_bytes_per_s_min", disk.min);
    return o;
}

static json_t *json_settings(const struct bench *b)
{
    const struct cli_args *a = b->args;
    json_t *o = json_object();
    json_object_set_new(o, "model", cli_json_text(a->subject, strlen(a->subject)));
    cli_put_size(o, "n_prompt", (uint64_t)a->n_prompt);
    cli_put_size(o, "n_decode", (uint64_t)a->n_predict);
    cli_put_size(o, "n_parallel", (uint64_t)b->n_parallel);
    json_object_set_new(o, "steady", json_boolean(a->steady));
    cli_put_size(o, "reps", (uint64_t)a->reps);
    cli_put_size(o, "seed", a->seed);
    json_object_set_new(o, "routes",
                        a->routes ? cli_json_text(a->routes, strlen(a->routes)) : json_null());
    return o;
}

static json_t *json_rep(const struct bench *b, const struct bench_rep *rep)
{
    char hash[24];
    json_t *o = json_object(), *blocks = json_array();
    for (int i = 0; i < b->model.n_layer; i++)
        json_array_append_new(blocks, cli_json_real(rep->block_seconds[i]));
    snprintf(hash, sizeof(hash), "%016" PRIx64, rep->tokens_hash);
    cli_put_real(o, "prefill_seconds", rep->prefill_seconds);
    cli_put_real(o, "decode_seconds", rep->decode_seconds);
    json_object_set_new(o, "block_seconds", blocks);
    json_object_set_new(o, "tokens_hash", json_string(hash));
    return o;
}

static json_t *json_row(const struct bench *b, const struct bench_row *row)
{
    json_t *o = json_object();
    json_object_set_new(o, "mode", json_string(pg_mode_name(row->mode)));
    cli_put_size(o, "memory_bytes", row->memory_bytes);
    json_object_set_new(o, "evict", json_string(pg_evict_name(row->evict)));
    if (row->error[0]) {
        json_object_set_new(o, "error", cli_json_text(row->error, strlen(row->error)));
        return o;
    }
    const struct pg_stats *d = &row->typical->decode;
    cli_put_real(o, "prefill_tps", row->prefill_tps);
    cli_put_real(o, "decode_tps", row->decode_tps);
    cli_put_real(o, "decode_tps_sd", row->decode_tps_sd);
    cli_put_size(o, "peak_rss_bytes", row->peak_rss_bytes);
    cli_put_size(o, "expert_bytes_read", d->expert_bytes_read);
    cli_put_size(o, "expert_requests", d->expert_requests);
    cli_put_size(o, "hits", d->hits);
    cli_put_hinted(o, d);
    cli_put_size(o, "missed", d->missed);
    cli_put_real(o, "stall_seconds", d->stall_seconds);
    cli_put_real(o, "compute_seconds", d->compute_seconds);
    cli_put_real(o, "floor_seconds", row->floor_seconds);
    cli_put_real(o, "overlap_efficiency", row->overlap_efficiency);
    cli_put_real(o, "decode_seconds", row->typical->decode_seconds);
    cli_put_size(o, "n_slots", (uint64_t)row->n_slots);
    cli_put_size(o, "reps", (uint64_t)row->n_reps);
    json_t *reps = json_array();
    for (int i = 0; i < row->n_reps; i++)
        json_array_append_new(reps, json_rep(b, &row->reps[i]));
    json_object_set_new(o, "repetitions", reps);
    json_object_set_new(o, "hints_active", json_boolean(d->hints_active));
    json_object_set_new(o, "io_path", json_string(row->io_path));
    return o;
}

int bench_print_json(const struct bench *b)
{
    json_t *o = json_object(), *rows = json_array();
    for (int i = 0; i < b->n_rows; i++)
        json_array_append_new(rows, json_row(b, &b->rows[i]));
    json_object_set_new(o, "machine", json_machine(b));
    json_object_set_new(o, "settings", json_settings(b));
    if (b->model_known)
        json_object_set_new(o, "model", cli_json_model(&b->model));
    json_object_set_new(o, "rows", rows);
    return cli_json_print(o);
}
