/* SPDX-License-Identifier: MIT
 * What was answered, for whoever wants to look at the answers and not at their mean: a JSON object
 * a line, in the order of the data.
 *
 *   questions   id (where the data has one), question, answer, gold, exact_match, f1
 *   summaries   document, answer, gold, rouge1, rouge2, rougeL
 *
 * Marks are in [0, 1], each the best over the list `gold`.
 */
#ifndef PG_EVAL_PREDICTIONS_H
#define PG_EVAL_PREDICTIONS_H

#include "base/os.h"
#include "eval/eval_items.h"

/* mark: exact match and F1, or ROUGE-1, -2 and -L. */
int pg_prediction_write(struct pg_outfile *f, const struct pg_item *item, const char *answer,
                        const double *mark, struct pg_err *err);

#endif
