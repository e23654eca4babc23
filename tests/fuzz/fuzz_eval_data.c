/* SPDX-License-Identifier: MIT
 * Any bytes as a file of questions or of summaries; every text of what was accepted is read to its
 * end, and marked against the others. The first byte says which kind, and how many are wanted.
 */
#include "eval/eval_items.h"

#include <stdint.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

static void check_mark(double x)
{
    PG_ASSERT(x >= 0 && x <= 1);
}

static void mark(const char *a, const char *b)
{
    check_mark(pg_exact_match(a, b));
    check_mark(pg_answer_f1(a, b));
    check_mark(pg_rouge_n(a, b, 2).f1);
    check_mark(pg_rouge_l(a, b).f1);
    PG_ASSERT(pg_exact_match(a, a) == 1 && pg_answer_f1(b, b) == 1);
}

static void ask_item(const struct pg_item *item, bool questions)
{
    PG_ASSERT((item->question != NULL) == questions);
    PG_ASSERT(item->n_answers >= 1);
    for (int i = 0; i < item->n_answers; i++) {
        mark(item->passage, item->answer[i]);
        if (item->question)
            mark(item->question, item->answer[i]);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    struct pg_items items;
    struct pg_err err;
    bool questions = n && bytes[0] & 1;
    int n_max = n ? bytes[0] >> 1 : 0;

    if (!n || pg_items_parse(&items, (const char *)bytes + 1, n - 1, questions, n_max, &err))
        return 0;
    PG_ASSERT(items.n >= 1 && (!n_max || items.n <= n_max));
    for (int i = 0; i < items.n; i++)
        ask_item(&items.item[i], questions);
    pg_items_close(&items);
    return 0;
}
