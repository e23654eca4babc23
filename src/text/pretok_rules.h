/* SPDX-License-Identifier: MIT
 * The labels that tokenizer.ggml.pre may have, and the rule that each stands for.
 */
#ifndef PG_TEXT_PRETOK_RULES_H
#define PG_TEXT_PRETOK_RULES_H

#include "text/pretok.h"

struct pg_pretok_label {
    const char *name;
    const struct pg_pretok_rule *rule;
};
extern const struct pg_pretok_label pg_pretok_labels[];
extern const int pg_pretok_n_labels;

#endif
