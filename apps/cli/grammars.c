/* SPDX-License-Identifier: MIT
 * --grammar and --json-schema: what a text may be.
 */
#include "cli.h"

#include <stdlib.h>
#include <string.h>

int cli_grammar_check(const struct cli_args *a)
{
    if (a->grammar && a->json_schema)
        return cli_usage("%s: give --grammar or --json-schema, not both", a->command);
    return CLI_OK;
}

static int grammar_read(struct cli_grammar *g, const struct cli_args *a, struct pg_err *err)
{
    const char *value = a->grammar ? a->grammar : a->json_schema;
    char *file = NULL;
    size_t n = strlen(value);
    const bool itself = a->grammar ? strstr(value, "::=") != NULL : *value == '{';
    if (!itself && cli_file_read(value, &file, &n, err))
        return err->code;
    const char *text = file ? file : value;
    int rc;
    if (a->grammar)
        rc = pg_grammar_open(&g->grammar, text, n, err);
    else if (n)
        rc = pg_grammar_of_schema(&g->grammar, text, n, err);
    else /* to the library that is any object */
        rc = cli_fail(err, PG_EFORMAT, "the schema is empty: %s", value);
    free(file);
    return rc;
}

int cli_grammar_open(struct cli_grammar *g, const struct cli_args *a, uint64_t *bytes,
                     struct pg_err *err)
{
    pg_vocab *vocab;
    *bytes = 0;
    if (!a->grammar && !a->json_schema)
        return 0;
    int rc = grammar_read(g, a, err);
    rc = rc ? rc : pg_vocab_open(&vocab, a->subject, err);
    if (rc)
        return rc;
    const uint64_t shared = pg_matcher_bytes(NULL, vocab);
    *bytes = shared + pg_matcher_bytes(g->grammar, vocab);
    pg_vocab_close(vocab);
    return shared ? 0 : cli_fail(err, PG_ENOMEM, "no memory for the vocabulary");
}

int cli_grammar_begin(struct cli_grammar *g, const pg_engine *e, struct pg_err *err)
{
    if (g->matcher)
        pg_matcher_reset(g->matcher);
    if (g->matcher || !g->grammar)
        return 0;
    return pg_matcher_open(&g->matcher, g->grammar, pg_engine_vocab(e), err);
}

bool cli_grammar_ends(const struct cli_grammar *g)
{
    return g->matcher && pg_matcher_must_end(g->matcher);
}

void cli_grammar_close(struct cli_grammar *g)
{
    pg_matcher_close(g->matcher);
    pg_grammar_close(g->grammar);
    *g = (struct cli_grammar){0};
}
