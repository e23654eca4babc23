/* SPDX-License-Identifier: MIT
 * Vocabularies for random-weight models: any text becomes tokens, common English words become few.
 */
#ifndef PG_MAKE_SYNTH_VOCAB_H
#define PG_MAKE_SYNTH_VOCAB_H

#include "format/gguf.h"

/* Writes the tokenizer.* keys: a SentencePiece vocabulary for arch "llama", a unigram one for
 * "switch", byte-level BPE for the others. n_vocab is at least 640. */
int pg_synth_vocab(struct pg_gguf_writer *w, const char *arch, int n_vocab, struct pg_err *err);

#endif
