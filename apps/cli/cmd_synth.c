/* SPDX-License-Identifier: MIT
 * pregate synth: a random-weight model of a real shape.
 */
#include "cli.h"

#include <string.h>

static int shape_check(const char *shape)
{
    const char *names[64] = {0};
    for (int i = 0; i < 63 && (names[i] = pg_synth_shape_name(i)); i++)
        if (!strcmp(shape, names[i]))
            return CLI_OK;
    const char *near = cli_nearest(shape, names);
    if (near)
        return cli_usage("synth: unknown shape \"%s\"; did you mean %s?", shape, near);
    return cli_usage("synth: unknown shape \"%s\"; `pregate synth --list` prints them", shape);
}

int cli_synth(const struct cli_args *args)
{
    struct pg_err err = {0};
    struct cli_progress progress = {.verbose = args->verbose};
    if (args->list) {
        for (int i = 0; pg_synth_shape_name(i); i++)
            puts(pg_synth_shape_name(i));
        return CLI_OK;
    }
    const int rc = shape_check(args->subject);
    if (rc)
        return rc;
    if (!args->output)
        return cli_usage("synth: where to? give -o FILE");
    const struct pg_synth_options opt = {PG_SYNTH_OPTIONS_INIT, .shape = args->subject,
                                         .type = args->type,    .out = args->output,
                                         .seed = args->seed,    .progress = cli_progress_step,
                                         .user = &progress,     .n_layer = args->n_layers};
    const uint64_t start = cli_now_ns();
    if (pg_synth(&opt, &err))
        return cli_failed(&err);
    cli_progress_clear();
    pg_file *f;
    char size[16];
    if (pg_file_open(&f, args->output, &err))
        return cli_failed(&err);
    fprintf(stderr, "%s: %s, %d tensors, %.1f s\n", args->output,
            cli_size_text(pg_file_bytes(f), size), pg_file_n_tensors(f),
            (double)(cli_now_ns() - start) * 1e-9);
    pg_file_close(f);
    return CLI_OK;
}
