/* SPDX-License-Identifier: MIT
 * Any bytes as a JSON schema: what is taken becomes a grammar that opens again from its text, and
 * is followed for some tokens. The input is the schema, and after the last 0 in it choices.
 */
#include "fuzz_vocab_of_bytes.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t n = size;
    struct pg_err err = {0};
    pg_grammar *g, *again;
    while (n > 0 && data[n - 1])
        n--;
    const uint8_t *choice = data + n;
    size_t n_choice = n ? size - n : 0;
    n = n ? n - 1 : size;
    int rc = pg_grammar_of_schema(&g, (const char *)data, n, &err);
    PG_ASSERT(rc ? !g && err.code == rc && err.text[0] : !!g);
    if (rc)
        return 0;
    const char *text = pg_grammar_text(g);
    PG_ASSERT(!pg_grammar_open(&again, text, strlen(text), &err));
    pg_grammar_close(again);
    fuzz_follow(g, choice, n_choice);
    pg_grammar_close(g);
    return 0;
}
