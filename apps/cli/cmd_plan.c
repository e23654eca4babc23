/* SPDX-License-Identifier: MIT
 * pregate plan: how a memory budget would be spent, and what speed to expect from it.
 *
 * The expectation is a bound that needs no trace: routing is taken to be uniform, so that a wanted
 * expert is in a slot with probability n_slots / n_expert_token, a token's blocks being those of
 * the decoder where there is an encoder: while a text is written they have the slots. Real routing
 * has locality and a real policy uses it; hits are then more. Weights stream from memory once a
 * token; reads overlap with that in the modes that hint.
 */
#include "cli.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

struct plan_mode {
    int code; /* 0, or why this mode cannot run: a PG_E… */
    char why[512];
    struct pg_plan plan;
    double read_bytes; /* of experts, a token */
    double seconds;    /* a token */
};

struct plan_report {
    struct pg_plan plan;
    double roof_dram, roof_disk; /* bytes/s, 0 = not measured */
    struct plan_mode modes[PG_MODE_COUNT];
};

static double hit_rate(const struct pg_plan *p)
{
    if (p->n_expert_token <= 0)
        return 1;
    const double h = (double)p->n_slots / p->n_expert_token;
    return h < 1 ? h : 1;
}

static void mode_expect(struct plan_mode *m, int mode, const struct plan_report *r)
{
    const struct pg_plan *p = &m->plan;
    const double all = cli_ratio((double)p->expert_bytes * p->n_expert_token,
                                 p->n_expert_total); /* of its blocks */
    const double wanted = mode == PG_MODE_PREFETCH_ALL ? all : (double)p->token_expert_bytes;
    const double memory =
        cli_ratio((double)(p->token_dense_bytes + p->token_expert_bytes), r->roof_dram);
    m->read_bytes = (1 - hit_rate(p)) * wanted;
    const double disk = cli_ratio(m->read_bytes, r->roof_disk);
    /* Without a hint a block's misses wait for its router, and the disk for the block. */
    m->seconds = mode == PG_MODE_ONDEMAND ? memory + disk : fmax(memory, disk);
}

/* The plan that has been made stands in its row as it is. */
static void modes_expect(struct plan_report *r, const struct pg_options *base, int code)
{
    for (int mode = PG_MODE_RESIDENT; mode < PG_MODE_COUNT; mode++) {
        struct plan_mode *m = &r->modes[mode];
        struct pg_options opt = *base;
        struct pg_err err = {0};
        opt.mode = (enum pg_mode)mode;
        m->code = pg_plan_make(&m->plan, &opt, &err);
        const uint64_t minimum = m->plan.minimum; /* of auto it is that of another mode */
        if (!code && r->plan.mode == opt.mode) {
            m->plan = r->plan;
            m->plan.minimum = minimum;
        }
        if (m->code)
            snprintf(m->why, sizeof(m->why), "%s", err.text);
        else
            mode_expect(m, mode, r);
    }
}

static int roofs_measure(struct plan_report *r, const struct cli_args *args, struct pg_err *err)
{
    struct pg_machine machine;
    pg_machine_info(&machine);
    const int n_threads = args->n_threads ? args->n_threads : machine.n_cpu;
    int rc = pg_roof_dram(n_threads, 0.5, &r->roof_dram, err);
    return rc ? rc : pg_roof_disk(args->subject, 0.5, &r->roof_disk, err);
}

static void line(const char *what, uint64_t bytes, const char *note)
{
    char size[16];
    printf("  %-22s %12s   %s\n", what, cli_size_text(bytes, size), note);
}

static void print_parts(const struct plan_report *r)
{
    const struct pg_plan *p = &r->plan;
    char note[96], size[16];
    puts("Memory");
    line("budget", p->budget, "");
    line("dense weights", p->dense, "always in memory");
    line("KV cache", p->kv, "");
    int n = snprintf(note, sizeof(note), "steps of up to %d tokens", p->n_batch);
    if (p->n_source)
        snprintf(note + n, sizeof(note) - (size_t)n, ", a source of up to %d", p->n_source);
    line("scratch", p->scratch, note);
    line("vocabulary and program", p->overhead, "");
    snprintf(note, sizeof(note), "%d of %d experts, %s each", p->n_slots, p->n_expert_total,
             cli_size_text(p->slot_bytes, size));
    line("expert slots", p->slots, note);
    snprintf(note, sizeof(note),
             "%" PRIu64 " bytes: the smallest budget that opens with these options", p->minimum);
    line("minimum", p->minimum, note);
    puts(p->n_source ? "\nOne token of the text, in the decoder" : "\nOne token");
    line("experts it uses", p->token_expert_bytes, "");
    line("dense weights it uses", p->token_dense_bytes, "");
}

static void print_modes(const struct plan_report *r)
{
    char size[16];
    const bool measured = r->roof_dram > 0;
    printf("\nMode with this budget: %s\n", pg_mode_name(r->plan.mode));
    if (measured)
        printf("\nMeasured: memory %.1f GB/s, disk %.2f GB/s\n", r->roof_dram * 1e-9,
               r->roof_disk * 1e-9);
    printf(
        "\n| mode         | slots | read a token |%s\n|--------------|------:|-------------:|%s\n",
        measured ? " tok/s at most |" : "", measured ? "--------------:|" : "");
    for (int mode = PG_MODE_RESIDENT; mode < PG_MODE_COUNT; mode++) {
        const struct plan_mode *m = &r->modes[mode];
        printf("| %-12s |", pg_mode_name((enum pg_mode)mode));
        if (m->code) {
            printf(" no: %s\n", m->why);
            continue;
        }
        printf(" %5d | %12s |", m->plan.n_slots, cli_size_text((uint64_t)m->read_bytes, size));
        if (measured)
            printf(" %13.1f |", cli_ratio(1, m->seconds));
        putchar('\n');
    }
    puts("\nReads assume uniform routing: a wanted expert is in a slot with probability slots /\n"
         "experts, of the blocks that a token goes through. Real routing repeats itself and reads\n"
         "less; `pregate bench` measures.");
}

static json_t *json_modes(const struct plan_report *r)
{
    json_t *list = json_array();
    for (int mode = PG_MODE_RESIDENT; mode < PG_MODE_COUNT; mode++) {
        const struct plan_mode *m = &r->modes[mode];
        json_t *o = json_object();
        json_object_set_new(o, "mode", json_string(pg_mode_name((enum pg_mode)mode)));
        json_object_set_new(o, "fits", json_boolean(m->code == 0));
        if (m->code) {
            json_object_set_new(o, "error", cli_json_text(m->why, strlen(m->why)));
        } else {
            json_object_set_new(o, "n_slots", json_integer(m->plan.n_slots));
            json_object_set_new(o, "minimum", json_integer((json_int_t)m->plan.minimum));
            json_object_set_new(o, "expected_bytes_per_token", cli_json_real(m->read_bytes));
            json_object_set_new(o, "expected_tps",
                                r->roof_dram > 0 ? cli_json_real(cli_ratio(1, m->seconds))
                                                 : json_null());
        }
        json_array_append_new(list, o);
    }
    return list;
}

static int print_json(const struct plan_report *r, int code, const char *error)
{
    json_t *o = cli_json_plan(&r->plan);
    json_object_set_new(o, "fits", json_boolean(code == 0));
    if (code)
        json_object_set_new(o, "error", cli_json_text(error, strlen(error)));
    json_object_set_new(o, "assumed_routing", json_string("uniform"));
    json_object_set_new(o, "expected_hit_rate",
                        code ? json_null() : cli_json_real(hit_rate(&r->plan)));
    json_object_set_new(o, "roof_dram_bytes_per_s",
                        r->roof_dram > 0 ? cli_json_real(r->roof_dram) : json_null());
    json_object_set_new(o, "roof_disk_bytes_per_s",
                        r->roof_disk > 0 ? cli_json_real(r->roof_disk) : json_null());
    json_object_set_new(o, "modes", json_modes(r));
    return cli_json_print(o);
}

/* Options of one kind of plan that do nothing in the other. */
static int check_kind(const struct cli_args *args)
{
    static const char *const simulates[] = {"modes",  "batches", "steps",         "cache",
                                            "active", "type",    "active-source", "right",
                                            "hints",  "seed",    "routes"};
    static const char *const plans[] = {
        "experts", "memory",  "mode", "pregate", "extra",      "ctx",        "capacity",
        "batch",   "threads", "kv",   "cpu",     "no-measure", "cache-bias", "cache-margin"};
    int rc = CLI_OK;
    for (size_t i = 0; !rc && i < sizeof(simulates) / sizeof(simulates[0]); i++)
        rc = cli_needs_check(
            args, &(struct cli_needs){simulates[i], args->machine, "--simulate MACHINE"}, 1);
    for (size_t i = 0; !rc && i < sizeof(plans) / sizeof(plans[0]); i++)
        rc = cli_needs_check(
            args, &(struct cli_needs){plans[i], !args->machine, "a plan without --simulate"}, 1);
    return rc;
}

/* Says what goes with the name of a shape, where a file was wanted. */
static int plan_failed(const struct cli_args *args, const struct pg_err *err)
{
    const int code = cli_failed(err);
    const char *name;
    for (int i = 0; err->code == PG_EIO && (name = pg_sim_shape_name(i)); i++)
        if (!strcmp(args->subject, name))
            cli_error("%s is the name of a shape: --simulate MACHINE.json takes it without a file",
                      name);
    return code;
}

int cli_plan(const struct cli_args *args)
{
    if (check_kind(args))
        return CLI_USAGE;
    if (args->machine)
        return cli_simulate(args);
    struct pg_err err = {0}, roof_err = {0};
    struct cli_progress progress = {0};
    struct plan_report r = {0};
    struct pg_options opt;
    cli_engine_options(&opt, args, &progress);
    const int rc = pg_plan_make(&r.plan, &opt, &err);
    if (rc && rc != PG_EBUDGET)
        return plan_failed(args, &err);
    if (!rc && !args->no_measure && roofs_measure(&r, args, &roof_err)) {
        cli_error("no speeds: %s", roof_err.text);
        r.roof_dram = r.roof_disk = 0;
    }
    modes_expect(&r, &opt, rc);
    if (args->json) {
        const int code = print_json(&r, rc, err.text);
        return rc ? CLI_FAILED : code;
    }
    print_parts(&r);
    if (rc)
        return cli_failed(&err);
    print_modes(&r);
    return CLI_OK;
}
