/* SPDX-License-Identifier: MIT
 * Any bytes as a SentencePiece model: what is accepted has a text for some tokens and a kind.
 */
#include "make/hf_vocab.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    enum { TOKENS = 64 };
    struct pg_err err;
    struct pg_hf_vocab v = {.n = TOKENS,
                            .text = calloc(TOKENS, sizeof(char *)),
                            .score = calloc(TOKENS, sizeof(float)),
                            .type = calloc(TOKENS, sizeof(int32_t))};
    PG_ASSERT(v.text && v.score && v.type);
    if (!pg_hf_spm_parse(&v, "fuzz", bytes, n, &err)) {
        PG_ASSERT(v.text[0] && (!strcmp(v.model, "t5") || !strcmp(v.model, "llama")));
        for (int i = 0; i < TOKENS; i++)
            PG_ASSERT(!v.text[i] || (v.type[i] >= PG_HF_NORMAL && v.type[i] <= PG_HF_BYTE));
    }
    pg_hf_vocab_free(&v);
    return 0;
}
