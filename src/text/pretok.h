/* SPDX-License-Identifier: MIT
 * Pre-tokenizers of the gpt2 model: a text is split into words, and each word is tokenized alone.
 *
 * A model file names its splitter by a label only; the patterns are facts of the published models
 * and live here. A rule has one pattern or several stages: each stage splits the pieces that the
 * stage before left, matches and the gaps between them alike.
 */
#ifndef PG_TEXT_PRETOK_H
#define PG_TEXT_PRETOK_H

#include "format/gguf.h"

#define PG_PRETOK_MAX_STAGES 6

struct pg_pretok_rule {
    const char *pattern[PG_PRETOK_MAX_STAGES];
    bool whole_words; /* a word that is a piece is that piece, whatever the merges say */
    bool add_bos;     /* unless the file says otherwise */
    bool nfc;         /* the text is put in normal form C first */
};

struct pg_pretok; /* compiled; constant, may be shared by threads */
int pg_pretok_open(struct pg_pretok **out, struct pg_str label, struct pg_err *err);
void pg_pretok_close(struct pg_pretok *p);
const struct pg_pretok_rule *pg_pretok_rule(const struct pg_pretok *p);
uint64_t pg_pretok_heap_bytes(const struct pg_pretok *p);

struct pg_splitter; /* working memory; one for each thread */
int pg_splitter_open(struct pg_splitter **out, const struct pg_pretok *p, struct pg_err *err);
void pg_splitter_close(struct pg_splitter *s);
/* Splits text, which must be valid UTF-8; pg_splitter_next gives its words in order: 1 and *word,
 * or 0 at the end. */
void pg_splitter_start(struct pg_splitter *s, struct pg_str text);
int pg_splitter_next(struct pg_splitter *s, struct pg_str *word, struct pg_err *err);

#endif
