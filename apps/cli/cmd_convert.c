/* SPDX-License-Identifier: MIT
 * pregate convert: a Hugging Face folder to a GGUF. pregate quantize: a GGUF in another type.
 * pregate pack: one in another layout.
 */
#include "cli.h"

static int report(const struct cli_args *args, uint64_t start_ns, int rc, struct pg_err *err)
{
    pg_file *f;
    char size[16];
    cli_progress_clear();
    if (rc || pg_file_open(&f, args->output, err))
        return cli_failed(err);
    fprintf(stderr, "%s: %s, %d tensors, %.1f s, peak %.1f MiB\n", args->output,
            cli_size_text(pg_file_bytes(f), size), pg_file_n_tensors(f),
            (double)(cli_now_ns() - start_ns) * 1e-9, (double)pg_peak_rss() / (1 << 20));
    pg_file_close(f);
    return CLI_OK;
}

int cli_convert(const struct cli_args *args)
{
    struct pg_err err = {0};
    struct cli_progress progress = {.verbose = args->verbose};
    if (!args->output)
        return cli_usage("convert: where to? give -o OUT.gguf");
    const struct pg_convert_options opt = {PG_CONVERT_OPTIONS_INIT,       .folder = args->subject,
                                           .out = args->output,           .type = args->type,
                                           .progress = cli_progress_step, .user = &progress,
                                           .n_threads = args->n_threads,  .pack = args->pack};
    const uint64_t start = cli_now_ns();
    return report(args, start, pg_convert(&opt, &err), &err);
}

int cli_quantize(const struct cli_args *args)
{
    struct pg_err err = {0};
    struct cli_progress progress = {.verbose = args->verbose};
    if (!args->output)
        return cli_usage("quantize: where to? give -o OUT.gguf");
    if (!args->type)
        return cli_usage("quantize: to what? give --type Q8_0, Q4_K, ...");
    const struct pg_quantize_options opt = {PG_QUANTIZE_OPTIONS_INIT,
                                            .model = args->subject,
                                            .out = args->output,
                                            .type = args->type,
                                            .experts_only = args->experts_only,
                                            .progress = cli_progress_step,
                                            .user = &progress,
                                            .n_threads = args->n_threads,
                                            .pack = args->pack};
    const uint64_t start = cli_now_ns();
    return report(args, start, pg_quantize(&opt, &err), &err);
}

int cli_pack(const struct cli_args *args)
{
    struct pg_err err = {0};
    struct cli_progress progress = {.verbose = args->verbose};
    if (!args->output)
        return cli_usage("pack: where to? give -o OUT.gguf");
    const struct pg_pack_options opt = {
        PG_PACK_OPTIONS_INIT, .model = args->subject,       .out = args->output,
        .undo = args->undo,   .n_threads = args->n_threads, .progress = cli_progress_step,
        .user = &progress};
    const uint64_t start = cli_now_ns();
    return report(args, start, pg_pack(&opt, &err), &err);
}
