/* SPDX-License-Identifier: MIT
 * The vocabulary of a Hugging Face folder: tokenizer.model or spiece.model (SentencePiece),
 * tokenizer.json (byte-level BPE), or vocab.json and merges.txt (the same), with the tokens that
 * are added to it.
 */
#ifndef PG_MAKE_HF_VOCAB_H
#define PG_MAKE_HF_VOCAB_H

#include "make/hf.h"

enum pg_hf_piece_type { /* GGUF's numbers, which are SentencePiece's */
                        PG_HF_NORMAL = 1,
                        PG_HF_UNKNOWN,
                        PG_HF_CONTROL,
                        PG_HF_USER,
                        PG_HF_UNUSED,
                        PG_HF_BYTE
};

struct pg_hf_vocab {
    char model[8]; /* tokenizer.ggml.model: "llama", "t5", "gpt2"; "none": no vocabulary */
    char rule[16]; /* tokenizer.ggml.pre, of gpt2 */
    int n;         /* tokens that the model has */
    char **text;   /* [n]; NULL: none was given */
    float *score;
    int32_t *type;
    struct pg_str *merges;
    size_t n_merges;
    void *charsmap; /* SentencePiece's normalisation */
    size_t n_charsmap;
    bool space_prefix, trim;
    int add_bos;                /* -1: not said */
    int64_t bos, eos, unk, pad; /* -1: none */
};

/* What the folder has; without any file of a vocabulary, "none". */
int pg_hf_vocab_read(struct pg_hf_vocab *v, const struct pg_hf *f, struct pg_err *err);
int pg_hf_vocab_write(const struct pg_hf_vocab *v, struct pg_gguf_writer *w, struct pg_err *err);
void pg_hf_vocab_free(struct pg_hf_vocab *v);

/* hf_spm.c: the bytes of a SentencePiece model. */
int pg_hf_spm_parse(struct pg_hf_vocab *v, const char *path, const uint8_t *data, size_t n,
                    struct pg_err *err);
/* hf_bpe.c: vocab.json and merges.txt, where they are; nothing where neither is. */
int pg_hf_bpe_read(struct pg_hf_vocab *v, const struct pg_hf *f, struct pg_err *err);

/* hf_vocab.c for the others. An id that has a text gets this one instead. */
struct pg_hf_token {
    int64_t id;
    struct pg_str text;
    float score;
    int type; /* enum pg_hf_piece_type */
};
int pg_hf_vocab_put(struct pg_hf_vocab *v, const char *path, const struct pg_hf_token *t,
                    struct pg_err *err);

#endif
