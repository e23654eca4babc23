/* SPDX-License-Identifier: MIT
 * pregate sidecar: pre-gates made out of the model's own routers.
 */
#include "cli.h"

int cli_sidecar(const struct cli_args *args)
{
    struct pg_err err = {0};
    if (!args->output)
        return cli_usage("sidecar: where to? give -o FILE");
    if (pg_sidecar_write(args->subject, args->output, args->level, &err))
        return cli_failed(&err);
    fprintf(stderr, "%s: pre-gates of level %d\n", args->output, args->level);
    return CLI_OK;
}
