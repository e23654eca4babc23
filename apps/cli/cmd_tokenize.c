/* SPDX-License-Identifier: MIT
 * pregate tokenize: the ids of a text's bytes as they are, on one line.
 */
#include "cli.h"

#include <stdlib.h>
#include <string.h>

static int print_ids(const pg_vocab *vocab, const struct cli_args *args, const char *text, size_t n)
{
    struct pg_err err = {0};
    struct pg_ids ids = {0};
    const unsigned flags = args->special ? PG_TOKENIZE_SPECIAL : 0;
    const int rc = cli_ids_make(&ids, vocab, text, n, flags, &err);
    for (size_t i = 0; !rc && i < ids.n; i++)
        printf(i ? " %d" : "%d", (int)ids.id[i]);
    if (!rc)
        putchar('\n');
    free(ids.id);
    return rc ? cli_failed(&err) : CLI_OK;
}

int cli_tokenize(const struct cli_args *args)
{
    struct pg_err err = {0};
    pg_vocab *vocab = NULL;
    char *data = NULL;
    size_t n = args->prompt ? strlen(args->prompt) : 0;
    if (args->prompt && args->file)
        return cli_usage("tokenize: give -p TEXT or -f FILE, not both");
    if (pg_vocab_open(&vocab, args->subject, &err))
        return cli_failed(&err);
    int code = CLI_OK;
    if (!args->prompt && cli_file_read(args->file ? args->file : "-", &data, &n, &err))
        code = cli_failed(&err);
    if (!code)
        code = print_ids(vocab, args, args->prompt ? args->prompt : data, n);
    free(data);
    pg_vocab_close(vocab);
    return code;
}
