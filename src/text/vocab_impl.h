/* SPDX-License-Identifier: MIT
 * The inside of a vocabulary, shared by the files of this folder and by nobody else.
 *
 *   vocab.c      opens: reads the arrays, checks them, keeps what is needed in a few flat tables
 *   tokenizer.c  pg_tokenize: cuts special tokens out of the text, hands the rest to
 *   spm.c        the `llama` model: characters joined by score, bytes for what has no piece
 *   unigram.c    the `t5` model: the pieces whose scores add up to the most
 *   bpe.c        the `gpt2` model: words from pretok.c, bytes joined by merge rank
 *   merge.c      the loop that both share: join the best pair until no pair can be joined
 *   detok.c      ids to text
 *
 * A vocabulary is constant once open. pg_tokenize takes its working memory for each call, so any
 * number of threads may use one vocabulary.
 */
#ifndef PG_TEXT_VOCAB_IMPL_H
#define PG_TEXT_VOCAB_IMPL_H

#include "base/err.h"
#include "text/charsmap.h"
#include "text/sorted.h"
#include "text/strmap.h"
#include "text/token_index.h"
#include "text/vocab.h"

enum pg_piece_type { /* the numbers that tokenizer.ggml.token_type holds */
                     PG_PIECE_UNDEFINED,
                     PG_PIECE_NORMAL,
                     PG_PIECE_UNKNOWN,
                     PG_PIECE_CONTROL,
                     PG_PIECE_USER,   /* always found in the text, whole, before anything else */
                     PG_PIECE_UNUSED, /* never printed */
                     PG_PIECE_BYTE,
                     PG_PIECE_TYPES
};

enum pg_vocab_model { PG_VOCAB_NONE, PG_VOCAB_LLAMA, PG_VOCAB_GPT2, PG_VOCAB_T5 };

/* Pieces as the text has them: gpt2's are stored decoded, the others' with U+2581 for the space. */
struct pg_pieces {
    uint32_t n;
    uint32_t *at;  /* [n + 1] where each begins in text */
    uint8_t *type; /* [n] enum pg_piece_type */
    char *text;
};

struct pg_merge {
    uint32_t left, right, id;
};

#define PG_VOCAB_MAX_ENDS 32

struct pg_vocab {
    char *path; /* of its file */
    enum pg_vocab_model model;
    struct pg_pieces pieces;
    uint64_t seed;
    uint64_t heap_bytes;
    int32_t byte_id[256]; /* -1: none */
    int32_t bos, eos, unk;
    int32_t ends[PG_VOCAB_MAX_ENDS];
    int n_ends;
    bool add_bos, add_eos;

    struct pg_sorted special;     /* unknown, control and user pieces */
    struct pg_token_home *tokens; /* as a tree, once a grammar wants them */

    /* llama: every piece that joining may make. gpt2: pieces that a word may be, where the
     * pre-tokenizer's rule says that a word that is a piece is not joined from bytes. */
    struct pg_strmap whole;

    /* llama */
    uint32_t *priority; /* [n] 0 is joined first */
    bool space_prefix;
    bool words_alone; /* no piece goes on after a space: words cannot influence each other */

    /* t5; and space_prefix */
    struct pg_sorted list; /* what text may be cut into */
    struct pg_charsmap charsmap;
    float *score; /* [n] */
    float unk_score;
    bool crosses_spaces; /* a piece may go on behind a space */
    bool trim;           /* spaces at both ends go, and of several one stays */

    /* gpt2 */
    struct pg_merge *merge; /* by rank */
    uint32_t n_merge;
    uint32_t *pair; /* hash of (left, right) -> rank + 1, 0 is empty */
    uint32_t pair_mask;
    struct pg_pretok *pretok;
};

static inline struct pg_str pg_pieces_text(const struct pg_pieces *p, uint32_t id)
{
    return (struct pg_str){p->text + p->at[id], p->at[id + 1] - p->at[id]};
}

/* The unknown, control or user piece of that text, or -1. */
int32_t pg_vocab_special(const struct pg_vocab *v, const char *text);

struct pg_str pg_vocab_piece_at(const void *vocab, uint32_t id); /* for struct pg_strmap */

/* Counted in heap_bytes and zeroed; freed by pg_vocab_close. NULL with *err filled. */
void *pg_vocab_alloc(struct pg_vocab *v, uint64_t n, size_t size, struct pg_err *err);

/* Reads v->score. */
int pg_vocab_scores(struct pg_vocab *v, const struct pg_gguf *g, struct pg_err *err);

/* Finish opening, once the pieces are there. */
int pg_spm_load(struct pg_vocab *v, const struct pg_gguf *g, struct pg_err *err);
int pg_unigram_load(struct pg_vocab *v, const struct pg_gguf *g, struct pg_err *err);
int pg_bpe_load(struct pg_vocab *v, const struct pg_gguf *g, struct pg_err *err);

/* The byte that a character of the gpt2 alphabet stands for, or -1. */
int pg_bpe_alphabet(uint32_t cp);

/* Ids are counted to the end, written while there is room. */
static inline void pg_ids_put(struct pg_ids *ids, int32_t id)
{
    if (ids->n < ids->cap)
        ids->id[ids->n] = id;
    ids->n++;
}

/* What pg_tokenize works in; one for each call. */
struct pg_encoder;
int pg_spm_encode(struct pg_encoder *e, struct pg_str text, bool prefix, struct pg_err *err);
int pg_unigram_encode(struct pg_encoder *e, struct pg_str text, struct pg_err *err);
int pg_bpe_encode(struct pg_encoder *e, struct pg_str text, struct pg_err *err);

#endif
