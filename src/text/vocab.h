/* SPDX-License-Identifier: MIT
 * The vocabulary of a model file. Its public face (pg_tokenize, pg_detokenize, …) is in pregate.h.
 */
#ifndef PG_TEXT_VOCAB_H
#define PG_TEXT_VOCAB_H

#include "format/gguf.h"

/* Takes what it needs from the directory; does not keep g. A file without a tokenizer gives an
 * empty vocabulary: no ids, and pg_tokenize refuses. */
int pg_vocab_from_gguf(pg_vocab **out, const struct pg_gguf *g, struct pg_err *err);
uint64_t pg_vocab_heap_bytes(const pg_vocab *v);

#endif
