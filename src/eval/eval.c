/* SPDX-License-Identifier: MIT */
#include "eval/eval.h"

#include "base/os.h"
#include "base/ranges.h"

#include <errno.h>
#include <sha256.h>
#include <stdlib.h>

const char *pg_eval_task_name(enum pg_eval_task t)
{
    static const char *const names[] = {"ppl", "agree", "qa", "summarize"};
    return (unsigned)t < PG_EVAL_COUNT ? names[t] : NULL;
}

static int check_options(struct pg_evaluation *v, const struct pg_eval_options *opt,
                         struct pg_err *err)
{
    struct pg_eval_options *o = &v->opt;
    PG_TRY(pg_options_take(PG_OPTIONS_EVAL, o, opt, err));
    if (v->engine->n_sessions > 0) {
        return pg_fail(err, PG_EARG, "%d sessions of the engine are open, none wanted",
                       v->engine->n_sessions);
    }
    return 0;
}

/* The file is read twice, to be named by its hash and to be used, which a pipe does not stand. */
static int hash_file(const char *path, char hex[65], struct pg_err *err)
{
    FILE *f;
    PG_TRY(pg_open_text(&f, path, NULL, err));
    fclose(f);
    if (!SHA256File(path, hex))
        return pg_fail_os(err, PG_EIO, errno, "%s", path);
    return 0;
}

int pg_eval(pg_engine *e, const struct pg_eval_options *opt, struct pg_eval_report *out,
            struct pg_err *err)
{
    struct pg_evaluation v = {.engine = e, .report = out};
    *out = (struct pg_eval_report){0};
    PG_TRY(check_options(&v, opt, err));
    PG_TRY(hash_file(v.opt.data, out->data_sha256, err));
    out->task = v.opt.task;
    switch (v.opt.task) {
    case PG_EVAL_PPL:
        return pg_eval_ppl(&v, err);
    case PG_EVAL_AGREE:
        return pg_eval_agree(&v, err);
    default:
        return pg_eval_write(&v, err);
    }
}

void pg_eval_report_free(struct pg_eval_report *r)
{
    if (!r)
        return;
    free((void *)r->blocks);
    *r = (struct pg_eval_report){0};
}
