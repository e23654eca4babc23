/* SPDX-License-Identifier: MIT
 * Any bytes as a grammar; what opens is followed over texts of a small vocabulary. The input is the
 * grammar, and after the last 0 in it choices of tokens.
 */
#include "fuzz_vocab_of_bytes.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t n = size;
    struct pg_err err = {0};
    pg_grammar *g;
    while (n > 0 && data[n - 1])
        n--;
    const uint8_t *choice = data + n;
    size_t n_choice = n ? size - n : 0;
    n = n ? n - 1 : size;
    int rc = pg_grammar_open(&g, (const char *)data, n, &err);
    PG_ASSERT(rc ? !g && err.code == rc && err.text[0] : !!g);
    if (!rc) {
        fuzz_follow(g, choice, n_choice);
        pg_grammar_close(g);
    }
    return 0;
}
