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

struct ids {
    const char *option;
    int32_t *id;
    size_t n;
};

static int tokens_parse(const char *text, struct ids *out, struct pg_err *err)
{
    size_t cap = 1;
    for (const char *p = text; *p; p++)
        cap += *p == ',';
    out->id = malloc(cap * sizeof(*out->id));
    if (!out->id)
        return cli_fail(err, PG_ENOMEM, "no memory for %zu tokens", cap);
    for (const char *p = text;; p++) {
        char *end;
        errno = 0;
        const long v = strtol(p, &end, 10);
        if (end == p || errno || v < 0 || v > INT32_MAX || (*end && *end != ','))
            return cli_fail(err, PG_EARG,
                            "--%s: \"%.40s\" does not start with a token id (1,2,3 is wanted)",
                            out->option, p);
        out->id[out->n++] = (int32_t)v;
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
    struct ids source, ids; /* of the encoder, if there is one; those whose logits are wanted */
    size_t n_vocab, batch;
};

static int write_rows(const struct job *j, const struct cli_outfile *out, struct pg_err *err)
{
    const size_t row_bytes = j->n_vocab * sizeof(float);
    float *rows = malloc(j->batch * row_bytes);
    if (!rows)
        return cli_fail(err, PG_ENOMEM, "no memory for %zu rows of %zu logits", j->batch,
                        j->n_vocab);
    int rc = npy_header(out->stream, j->ids.n, j->n_vocab) ? cli_outfile_failed(out, err) : 0;
    for (size_t at = 0; !rc && at < j->ids.n;) {
        const size_t n = j->ids.n - at < j->batch ? j->ids.n - at : j->batch;
        rc = cli_interrupted() ? cli_fail(err, PG_ECANCELLED, "interrupted")
                               : pg_session_eval(j->session, j->ids.id + at, n, rows, err);
        if (!rc && fwrite(rows, row_bytes, n, out->stream) != n)
            rc = cli_outfile_failed(out, err);
        at += n;
    }
    free(rows);
    return rc;
}

static int tokens_check(const struct job *j, const struct ids *ids, struct pg_err *err)
{
    for (size_t i = 0; i < ids->n; i++)
        if ((size_t)ids->id[i] >= j->n_vocab)
            return cli_fail(err, PG_EARG, "--%s: %d is not a token: the model has %zu", ids->option,
                            (int)ids->id[i], j->n_vocab);
    return 0;
}

static int check(const struct job *j, const struct pg_model_info *info, struct pg_err *err)
{
    if (info->decoder_start >= 0 && !j->source.n)
        return cli_fail(err, PG_EARG,
                        "the model has an encoder, whose source --tokens are; give "
                        "--decoder-tokens, too, beginning with %d",
                        info->decoder_start);
    const int rc = tokens_check(j, &j->source, err);
    return rc ? rc : tokens_check(j, &j->ids, err);
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
    j->batch = j->ids.n < (size_t)plan.n_batch ? j->ids.n : (size_t)plan.n_batch;
    rc = check(j, &info, err);
    rc = rc ? rc : pg_session_open(&j->session, e, NULL, err);
    if (!rc && j->source.n)
        rc = pg_session_encode(j->session, j->source.id, j->source.n, err);
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

/* --tokens alone, or the encoder's and the decoder's. */
static int job_parse(struct job *j, const struct cli_args *args, struct pg_err *err)
{
    const bool two = args->decoder_tokens;
    j->source.option = j->ids.option = "tokens";
    if (two)
        j->ids.option = "decoder-tokens";
    const int rc = two ? tokens_parse(args->tokens, &j->source, err) : 0;
    return rc ? rc : tokens_parse(two ? args->decoder_tokens : args->tokens, &j->ids, err);
}

int cli_logits(const struct cli_args *args)
{
    struct pg_err err = {0};
    struct pg_options opt;
    struct cli_progress progress = {0};
    struct job job = {0};
    if (!args->tokens)
        return cli_usage("logits: which tokens? give --tokens 1,2,3");
    if ((!args->output || !strcmp(args->output, "-")) && isatty(STDOUT_FILENO))
        return cli_usage("logits: the result is binary; give -o FILE.npy or redirect the output");
    int rc = job_parse(&job, args, &err), code = CLI_OK;
    if (rc) {
        code = cli_usage("%s", err.text);
    } else {
        cli_engine_options(&opt, args, &progress);
        if (!opt.n_ctx)
            opt.n_ctx = (int)job.ids.n;
        opt.n_source = (int)job.source.n;
        opt.n_logit_rows = INT_MAX; /* of a batch */
        opt.caller_bytes = 2 * (job.source.n + job.ids.n) * sizeof(int32_t);
        rc = evaluate(&opt, &job, args, &err);
        code = rc ? cli_failed(&err) : CLI_OK;
    }
    free(job.source.id);
    free(job.ids.id);
    return code;
}
