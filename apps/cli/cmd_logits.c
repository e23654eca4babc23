/* SPDX-License-Identifier: MIT
 * pregate logits: the logits of given tokens as a NumPy file, float32 [n_tokens, n_vocab].
 *
 * Rows are evaluated and written a batch at a time. The buffer of one batch is part of the plan.
 */
#include "cli.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int tokens_parse(const char *text, int32_t **out, size_t *n, struct pg_err *err)
{
    size_t cap = 1;
    for (const char *p = text; *p; p++)
        cap += *p == ',';
    *n = 0;
    *out = malloc(cap * sizeof(**out));
    if (!*out)
        return cli_fail(err, PG_ENOMEM, "no memory for %zu tokens", cap);
    for (const char *p = text;; p++) {
        char *end;
        errno = 0;
        const long v = strtol(p, &end, 10);
        if (end == p || errno || v < 0 || v > INT32_MAX || (*end && *end != ','))
            return cli_fail(err, PG_EARG,
                            "--tokens: \"%.40s\" does not start with a token id (1,2,3 is wanted)",
                            p);
        (*out)[(*n)++] = (int32_t)v;
        if (!*end)
            return 0;
        p = end;
    }
}

/* Version 1.0 of the format: the header is padded so that the data begins at a multiple of 64. */
static int npy_header(FILE *out, size_t n_rows, size_t n_columns)
{
    char text[128];
    const int n = snprintf(text, sizeof(text),
                           "{'descr': '<f4', 'fortran_order': False, 'shape': (%zu, %zu), }",
                           n_rows, n_columns);
    const int padded = (10 + n + 1 + 63) / 64 * 64 - 10;
    const unsigned char magic[10] = {0x93,
                                     'N',
                                     'U',
                                     'M',
                                     'P',
                                     'Y',
                                     1,
                                     0,
                                     (unsigned char)(padded & 255),
                                     (unsigned char)(padded >> 8)};
    fwrite(magic, 1, sizeof(magic), out);
    fprintf(out, "%-*s\n", padded - 1, text);
    return ferror(out) ? -1 : 0;
}

struct job {
    pg_session *session;
    const int32_t *ids;
    size_t n_ids, n_vocab, batch;
};

static int write_rows(const struct job *j, const struct cli_outfile *out, struct pg_err *err)
{
    const size_t row_bytes = j->n_vocab * sizeof(float);
    float *rows = malloc(j->batch * row_bytes);
    if (!rows)
        return cli_fail(err, PG_ENOMEM, "no memory for %zu rows of %zu logits", j->batch,
                        j->n_vocab);
    int rc = npy_header(out->stream, j->n_ids, j->n_vocab) ? cli_outfile_failed(out, err) : 0;
    for (size_t at = 0; !rc && at < j->n_ids;) {
        const size_t n = j->n_ids - at < j->batch ? j->n_ids - at : j->batch;
        rc = cli_interrupted() ? cli_fail(err, PG_ECANCELLED, "interrupted")
                               : pg_session_eval(j->session, j->ids + at, n, rows, err);
        if (!rc && fwrite(rows, row_bytes, n, out->stream) != n)
            rc = cli_outfile_failed(out, err);
        at += n;
    }
    free(rows);
    return rc;
}

static int tokens_check(const struct job *j, struct pg_err *err)
{
    for (size_t i = 0; i < j->n_ids; i++)
        if ((size_t)j->ids[i] >= j->n_vocab)
            return cli_fail(err, PG_EARG, "--tokens: %d is not a token: the model has %zu",
                            (int)j->ids[i], j->n_vocab);
    return 0;
}

static int evaluate(const struct pg_options *opt, struct job *j, const struct cli_args *args,
                    struct pg_err *err)
{
    pg_engine *e = NULL;
    struct pg_plan plan;
    struct pg_model_info info;
    struct cli_outfile out;
    int rc = pg_engine_open(&e, opt, err);
    if (rc)
        return rc;
    pg_engine_plan(e, &plan);
    pg_engine_info(e, &info);
    j->n_vocab = (size_t)info.n_vocab; /* of the rows; a vocabulary may have fewer words, or none */
    j->batch = j->n_ids < (size_t)plan.n_batch ? j->n_ids : (size_t)plan.n_batch;
    rc = tokens_check(j, err);
    rc = rc ? rc : pg_session_open(&j->session, e, NULL, err);
    rc = rc ? rc : cli_outfile_open(&out, args->output, err);
    if (!rc) {
        rc = write_rows(j, &out, err);
        if (rc)
            cli_outfile_abandon(&out);
        else
            rc = cli_outfile_commit(&out, err);
    }
    pg_session_close(j->session);
    pg_engine_close(e);
    return rc;
}

int cli_logits(const struct cli_args *args)
{
    struct pg_err err = {0};
    struct pg_options opt;
    struct cli_progress progress = {0};
    struct job job = {0};
    int32_t *ids = NULL;
    if (!args->tokens)
        return cli_usage("logits: which tokens? give --tokens 1,2,3");
    if ((!args->output || !strcmp(args->output, "-")) && isatty(STDOUT_FILENO))
        return cli_usage("logits: the result is binary; give -o FILE.npy or redirect the output");
    if (tokens_parse(args->tokens, &ids, &job.n_ids, &err)) {
        free(ids);
        return cli_usage("%s", err.text);
    }
    cli_engine_options(&opt, args, &progress);
    if (!opt.n_ctx)
        opt.n_ctx = (int)job.n_ids;
    opt.n_logit_rows = INT_MAX; /* of a batch */
    opt.caller_bytes = 2 * job.n_ids * sizeof(*ids);
    job.ids = ids;
    int rc = evaluate(&opt, &job, args, &err);
    free(ids);
    return rc ? cli_failed(&err) : CLI_OK;
}
