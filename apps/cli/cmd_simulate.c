/* SPDX-License-Identifier: MIT
 * pregate plan --simulate: a model on a machine that need not be there, in virtual time.
 */
#include "cli.h"

#include <stdlib.h>
#include <string.h>

enum { ROWS_MAX = 256, BATCHES_MAX = 16 };

struct row {
    enum pg_mode mode;
    struct pg_sim_report r;
};

/* The rows of a table: each mode with each batch. */
struct table {
    enum pg_mode modes[PG_MODE_COUNT];
    int batches[BATCHES_MAX];
    int n_modes, n_batches, n_rows;
    struct row row[ROWS_MAX];
};

static int take_modes(struct table *t, const char *list)
{
    char names[PG_MODE_COUNT][CLI_ITEM];
    if (!list) {
        for (int mode = PG_MODE_RESIDENT; mode < PG_MODE_COUNT; mode++)
            t->modes[t->n_modes++] = (enum pg_mode)mode;
        return CLI_OK;
    }
    const int n = cli_list_split(list, names, PG_MODE_COUNT);
    for (int i = 0; i < n; i++) {
        const int mode = pg_mode_parse(names[i]);
        if (mode <= PG_MODE_AUTO)
            return cli_usage("--modes: \"%s\" is no mode to simulate; resident, ondemand, "
                             "prefetch-all, lookahead, hint and pregate are",
                             names[i]);
        t->modes[t->n_modes++] = (enum pg_mode)mode;
    }
    return n > 0 ? CLI_OK : cli_usage("--modes: \"%s\" is not a list of modes", list);
}

static int take_batches(struct table *t, const char *list)
{
    char items[BATCHES_MAX][CLI_ITEM];
    const int n = cli_list_split(list ? list : "1", items, BATCHES_MAX);
    for (int i = 0; i < n; i++) {
        char *end;
        const long v = strtol(items[i], &end, 10);
        if (*end || items[i][0] < '0' || items[i][0] > '9' || v < 1 || v > 1024)
            return cli_usage("--batches: \"%s\" is not a whole number from 1 to 1024", items[i]);
        t->batches[t->n_batches++] = (int)v;
    }
    return n > 0 ? CLI_OK
                 : cli_usage("--batches: \"%s\" is not a list of at most %d numbers", list,
                             BATCHES_MAX);
}

static int run_all(struct table *t, const struct cli_args *args, const pg_routes *routes,
                   struct pg_err *err)
{
    struct pg_sim_options o = {PG_SIM_OPTIONS_INIT,
                               .shape = args->subject,
                               .machine = args->machine,
                               .type = args->type,
                               .evict = (enum pg_evict)args->evict,
                               .hints = (enum pg_hints)args->hints,
                               .level = args->lookahead,
                               .n_steps = args->n_steps,
                               .n_source = args->n_source,
                               .n_slots = args->n_slots,
                               .cache = (float)args->cache,
                               .n_active = (float)args->active,
                               .n_active_source = (float)args->active_source,
                               .hint_right = (float)args->hint_right,
                               .routes = routes,
                               .seed = args->seed};
    for (int b = 0; b < t->n_batches; b++) {
        for (int m = 0; m < t->n_modes; m++) {
            struct row *row = &t->row[t->n_rows];
            o.mode = row->mode = t->modes[m];
            o.n_batch = t->batches[b];
            const int rc = pg_simulate(&o, &row->r, err);
            if (rc)
                return rc;
            if (cli_interrupted())
                return cli_fail(err, PG_ECANCELLED, "interrupted");
            t->n_rows++;
        }
    }
    return 0;
}

/* ---------------------------------------------------------------- table --------------------- */

static double percent(uint64_t part, uint64_t whole)
{
    return 100 * cli_ratio((double)part, (double)whole);
}

static void print_head(const struct pg_sim_report *r)
{
    char all[16], one[16];
    printf("%s, %s: %s, %d experts of %s in %d blocks (+ %d of the encoder), %d a token\n",
           r->shape, r->type, cli_size_text(r->all_bytes, all), r->n_expert,
           cli_size_text(r->expert_bytes, one), r->n_blocks,
           r->n_expert_total / r->n_expert - r->n_blocks, r->n_used);
    printf("on %s: a copy of an expert takes %.3f ms\n", r->machine, r->copy * 1e3);
    if (r->encode_compute > 0)
        printf("%d tokens of source, %d written\n\n", r->n_source, r->n_steps);
    else
        printf("%d tokens before, %d written\n\n", r->n_source, r->n_steps);
}

static void print_row(const struct row *row)
{
    const struct pg_sim_report *r = &row->r;
    char peak[16], copied[16];
    printf("| %-12s | %5d | %8.3f | %8.3f | %8.3f | %8.3f | %8.2f | %8.2f |",
           pg_mode_name(row->mode), r->n_batch, r->block * 1e3, r->block_floor * 1e3, r->step * 1e3,
           r->encode * 1e3, r->tps, r->tps_floor);
    printf(" %6.1f | %9s | %6.1f | %9s%c |\n", r->active, cli_size_text(r->step_bytes, copied),
           percent(r->hits, r->requests), cli_size_text(r->peak_bytes, peak), r->fits ? ' ' : '!');
}

static int print_table(const struct table *t)
{
    print_head(&t->row[0].r);
    puts(
        "| mode         | batch | block ms |    floor |  step ms |  encoder |    tok/s |    floor |"
        " active |    copied | hits % |       peak |\n"
        "|--------------|------:|---------:|---------:|---------:|---------:|---------:|---------:|"
        "-------:|----------:|-------:|-----------:|");
    for (int i = 0; i < t->n_rows; i++)
        print_row(&t->row[i]);
    puts("\nblock: a layer with experts, mean. floor: max(compute, bytes / copy bandwidth). "
         "encoder: ms, all\n"
         "sources. tok/s: with the encoder's share. active: distinct experts of a block's step. "
         "copied: a\n"
         "step. peak: of weights; !: more than the machine has. Nothing is measured: its file says "
         "the times.");
    return CLI_OK;
}

/* ---------------------------------------------------------------- json ---------------------- */

// clang-format off
#define SIZE(field) cli_put_size(o, #field, (uint64_t)from->field);
#define REAL(field) cli_put_real(o, #field "_seconds", from->field);

static json_t *json_row(const struct row *row)
{
    const struct pg_sim_report *from = &row->r;
    json_t *o = json_object();
    json_object_set_new(o, "mode", json_string(pg_mode_name(row->mode)));
    SIZE(n_batch)
    REAL(block) REAL(block_first) REAL(block_compute) REAL(block_floor)
    REAL(step) REAL(step_compute) REAL(step_floor)
    REAL(encode) REAL(encode_compute) REAL(encode_floor) REAL(request) REAL(window)
    cli_put_real(o, "tps", from->tps);
    cli_put_real(o, "tps_floor", from->tps_floor);
    cli_put_real(o, "encode_share", cli_ratio(from->encode, from->request));
    cli_put_real(o, "active", from->active);
    cli_put_real(o, "active_source", from->active_source);
    SIZE(step_bytes) SIZE(encode_bytes) SIZE(requests) SIZE(hits) SIZE(hinted_in_time)
    SIZE(hinted_late) SIZE(missed) SIZE(hinted_unused) SIZE(n_slots) SIZE(peak_bytes)
    json_object_set_new(o, "fits", json_boolean(from->fits));
    return o;
}

static int print_json(const struct table *t)
{
    const struct pg_sim_report *from = &t->row[0].r;
    json_t *o = json_object(), *rows = json_array();
    json_object_set_new(o, "shape", json_string(from->shape));
    json_object_set_new(o, "machine", json_string(from->machine));
    json_object_set_new(o, "type", json_string(from->type));
    SIZE(n_blocks) SIZE(n_expert) SIZE(n_used) SIZE(n_expert_total) SIZE(n_source) SIZE(n_steps)
    SIZE(expert_bytes) SIZE(dense_bytes) SIZE(all_bytes) SIZE(memory_bytes) REAL(copy)
    for (int i = 0; i < t->n_rows; i++)
        json_array_append_new(rows, json_row(&t->row[i]));
    json_object_set_new(o, "rows", rows);
    return cli_json_print(o);
}
// clang-format on

static bool has_mode(const struct table *t, enum pg_mode mode)
{
    for (int i = 0; i < t->n_modes; i++)
        if (t->modes[i] == mode)
            return true;
    return false;
}

/* Options that do nothing in the modes asked for. */
static int check_needs(const struct table *t, const struct cli_args *args)
{
    const bool looks = has_mode(t, PG_MODE_LOOKAHEAD) || has_mode(t, PG_MODE_HINT);
    const struct cli_needs needs[] = {
        {"evict", args->cache > 0 || args->n_slots, "--cache or --slots"},
        {"right", looks, "--modes lookahead or hint"},
        {"lookahead", looks || has_mode(t, PG_MODE_PREGATE), "--modes lookahead, hint or pregate"}};
    return cli_needs_check(args, needs, 3);
}

int cli_simulate(const struct cli_args *args)
{
    struct pg_err err = {0};
    pg_routes *routes = NULL;
    struct table *t = calloc(1, sizeof(*t));
    if (!t)
        return cli_usage("plan: out of memory");
    int code = take_modes(t, args->modes);
    if (!code)
        code = take_batches(t, args->batches);
    if (!code)
        code = check_needs(t, args);
    if (code) {
        free(t);
        return code;
    }
    int rc = args->routes ? pg_routes_open(&routes, args->routes, &err) : 0;
    if (!rc)
        rc = run_all(t, args, routes, &err);
    if (rc)
        code = cli_failed(&err);
    else
        code = args->json ? print_json(t) : print_table(t);
    pg_routes_close(routes);
    free(t);
    return code;
}
