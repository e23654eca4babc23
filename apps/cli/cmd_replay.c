/* SPDX-License-Identifier: MIT
 * pregate replay: eviction policies on a recorded routing, beside Belady's optimum.
 */
#include "cli.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define SIZES_MAX 32
enum part { WHOLE, FIRST_HALF, SECOND_HALF, N_PARTS };
#define N_POLICIES (PG_EVICT_COUNT + 1)

struct replay_size {
    int n_slots;
    double ratio; /* of what one token uses */
    struct pg_replay result[N_POLICIES][N_PARTS];
};

struct replay_table {
    pg_routes *routes;
    int n_tokens, working_set, n_sizes;
    struct replay_size sizes[SIZES_MAX];
};

static const char *policy_name(int policy)
{
    return policy == PG_EVICT_BELADY ? "belady" : pg_evict_name((enum pg_evict)policy);
}

static int sizes_parse(struct replay_table *t, const struct cli_args *args)
{
    char items[SIZES_MAX][CLI_ITEM];
    const char *text = args->slots ? args->slots : args->ratios ? args->ratios : "0.5,1,2,3";
    const char *name = args->slots ? "slots" : "ratio";
    const int n = cli_list_split(text, items, SIZES_MAX);
    if (args->slots && args->ratios)
        return cli_usage("replay: give --slots or --ratio, not both");
    if (n < 0)
        return cli_usage("--%s: \"%s\" is not a list of 1 to %d numbers", name, text, SIZES_MAX);
    for (int i = 0; i < n; i++) {
        char *end;
        errno = 0;
        double v = strtod(items[i], &end);
        if (!args->slots)
            v = nearbyint(v * t->working_set);
        if (errno || *end || !(v >= 1 && v < 1e9))
            return cli_usage("--%s: \"%s\" gives no whole slot", name, items[i]);
        t->sizes[i].n_slots = (int)v;
        t->sizes[i].ratio = cli_ratio((int)v, t->working_set);
    }
    t->n_sizes = n;
    return CLI_OK;
}

static int replay_all(struct replay_table *t, struct cli_progress *progress, struct pg_err *err)
{
    const int n = t->n_tokens, half = n / 2;
    const int from[N_PARTS] = {0, 0, half}, to[N_PARTS] = {n, half, n};
    const uint64_t total = (uint64_t)(t->n_sizes * N_POLICIES * N_PARTS);
    uint64_t done = 0;
    for (int i = 0; i < t->n_sizes; i++)
        for (int p = 0; p < N_POLICIES; p++)
            for (int part = 0; part < N_PARTS; part++) {
                struct pg_replay *x = &t->sizes[i].result[p][part];
                *x = (struct pg_replay){p, t->sizes[i].n_slots, from[part], to[part], 0, 0};
                const int rc = pg_replay_run(t->routes, x, err);
                if (rc)
                    return rc;
                if (cli_progress_step(progress, "replay", ++done, total))
                    return cli_fail(err, PG_ECANCELLED, "interrupted");
            }
    return 0;
}

static double hit_rate(const struct pg_replay *r)
{
    return cli_ratio((double)r->hits, (double)r->requests);
}

static void print_table(const struct replay_table *t, enum part part, const char *title)
{
    printf("\n%s\n\n| slots | of a token |", title);
    for (int p = 0; p < N_POLICIES; p++)
        printf(" %6s |", policy_name(p));
    printf("\n|------:|-----------:|");
    for (int p = 0; p < N_POLICIES; p++)
        printf("-------:|");
    putchar('\n');
    for (int i = 0; i < t->n_sizes; i++) {
        printf("| %5d | %9.2fx |", t->sizes[i].n_slots, t->sizes[i].ratio);
        for (int p = 0; p < N_POLICIES; p++)
            printf(" %6.2f |", 100 * hit_rate(&t->sizes[i].result[p][part]));
        putchar('\n');
    }
}

static int print_json(const struct replay_table *t, const struct cli_args *args)
{
    static const char *const part_key[] = {"hit_rate", "hit_rate_first_half",
                                           "hit_rate_second_half"};
    json_t *o = json_object(), *rows = json_array();
    json_object_set_new(o, "trace", cli_json_text(args->subject, strlen(args->subject)));
    json_object_set_new(o, "n_tokens", json_integer(t->n_tokens));
    json_object_set_new(o, "n_blocks", json_integer(pg_routes_n_blocks(t->routes)));
    json_object_set_new(o, "n_layers", json_integer(pg_routes_n_blocks(t->routes))); /* old name */
    json_object_set_new(o, "n_used", json_integer(pg_routes_n_used(t->routes)));
    json_object_set_new(o, "n_expert", json_integer(pg_routes_n_expert(t->routes)));
    json_object_set_new(o, "working_set", json_integer(t->working_set));
    json_object_set_new(o, "rule", json_string("a wave never evicts its own; no bypass"));
    for (int i = 0; i < t->n_sizes; i++)
        for (int p = 0; p < N_POLICIES; p++) {
            const struct pg_replay *r = t->sizes[i].result[p];
            json_t *row = json_object();
            json_object_set_new(row, "policy", json_string(policy_name(p)));
            json_object_set_new(row, "n_slots", json_integer(t->sizes[i].n_slots));
            json_object_set_new(row, "ratio", cli_json_real(t->sizes[i].ratio));
            json_object_set_new(row, "requests", json_integer((json_int_t)r[WHOLE].requests));
            json_object_set_new(row, "hits", json_integer((json_int_t)r[WHOLE].hits));
            for (int part = 0; part < N_PARTS; part++)
                json_object_set_new(row, part_key[part], cli_json_real(hit_rate(&r[part])));
            json_array_append_new(rows, row);
        }
    json_object_set_new(o, "rows", rows);
    return cli_json_print(o);
}

static int print_text(const struct replay_table *t, const struct cli_args *args)
{
    printf(
        "%s: %d tokens, %d blocks, %d of %d experts a block; one token uses %d.\n"
        "Hits in %% of requests. belady knows the future; like all here it takes each miss into a "
        "slot, and a\nwave never evicts its own: no policy that keeps to this can do better.\n",
        args->subject, t->n_tokens, pg_routes_n_blocks(t->routes), pg_routes_n_used(t->routes),
        pg_routes_n_expert(t->routes), t->working_set);
    print_table(t, WHOLE, "Whole trace");
    if (args->split) {
        print_table(t, FIRST_HALF, "First half");
        print_table(t, SECOND_HALF, "Second half (after playing the first)");
    }
    return CLI_OK;
}

int cli_replay(const struct cli_args *args)
{
    struct pg_err err = {0};
    struct cli_progress progress = {0};
    const bool json = args->json || (args->format && !strcmp(args->format, "json"));
    if (args->format && !json && strcmp(args->format, "md"))
        return cli_usage("--format: \"%s\" is not md or json", args->format);
    struct replay_table *t = calloc(1, sizeof(*t));
    if (!t || pg_routes_open(&t->routes, args->subject, &err)) {
        free(t);
        return cli_failed(&err);
    }
    t->n_tokens = pg_routes_n_tokens(t->routes);
    t->working_set = pg_routes_n_token_experts(t->routes);
    int code = sizes_parse(t, args);
    if (!code && replay_all(t, &progress, &err))
        code = cli_failed(&err);
    if (!code)
        code = json ? print_json(t, args) : print_text(t, args);
    pg_routes_close(t->routes);
    free(t);
    return code;
}
