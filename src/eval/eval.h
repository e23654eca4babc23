/* SPDX-License-Identifier: MIT
 * How good a model's answers are. Shared by the files of the evaluation:
 *
 *   eval.c        checks, the hash of the data, the task
 *   eval_text.c   perplexity, and agreement of pre-gates with the routers
 *   eval_items.c  questions and documents with their answers, out of JSON
 *   eval_write.c  greedy answers to many prompts at a time, and their marks
 *   agree.c       what pre-gates say, compared with what routers say
 *   score.c       exact match and F1 of answers; rouge.c: ROUGE
 */
#ifndef PG_EVAL_EVAL_H
#define PG_EVAL_EVAL_H

#include "engine/engine.h"

struct pg_evaluation {
    struct pg_engine *engine;
    struct pg_eval_options opt; /* checked, defaults filled in */
    struct pg_eval_report *report;
};

int pg_eval_ppl(struct pg_evaluation *v, struct pg_err *err);
int pg_eval_agree(struct pg_evaluation *v, struct pg_err *err);
/* qa and summarize */
int pg_eval_write(struct pg_evaluation *v, struct pg_err *err);

#endif
