/* SPDX-License-Identifier: MIT
 * Both vocabularies hold every byte, then the prefixes of some common words, so that each word is
 * built letter by letter through merges that all exist; the rest is filler that no text can reach.
 */
#include "make/synth_vocab.h"

#include "base/os.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PIECE_BYTES 32

enum { TYPE_NORMAL = 1, TYPE_UNKNOWN = 2, TYPE_CONTROL = 3, TYPE_UNUSED = 5, TYPE_BYTE = 6 };

static const char *const words[] = {
    "the",  "and",  "was",  "that",   "she",   "her",   "his",   "they", "with", "for",  "you",
    "said", "had",  "one",  "little", "day",   "time",  "very",  "saw",  "big",  "then", "wanted",
    "went", "were", "play", "mom",    "happy", "could", "there", "what", "like", "when",
};

struct vocab {
    char (*text)[PIECE_BYTES];
    struct pg_str *pieces, *merges;
    char (*merge_text)[2 * PIECE_BYTES];
    int32_t *types;
    float *scores;
    int n, n_max, n_merges;
};

static void vocab_fini(struct vocab *v)
{
    free(v->text);
    free(v->pieces);
    free(v->merges);
    free(v->merge_text);
    free(v->types);
    free(v->scores);
}

static int vocab_init(struct vocab *v, int n_max, struct pg_err *err)
{
    size_t n = (size_t)n_max;

    *v = (struct vocab){.n_max = n_max};
    v->text = pg_calloc(n, sizeof(*v->text));
    v->pieces = pg_calloc(n, sizeof(*v->pieces));
    v->merges = pg_calloc(n, sizeof(*v->merges));
    v->merge_text = pg_calloc(n, sizeof(*v->merge_text));
    v->types = pg_calloc(n, sizeof(*v->types));
    v->scores = pg_calloc(n, sizeof(*v->scores));
    if (v->text && v->pieces && v->merges && v->merge_text && v->types && v->scores)
        return 0;
    vocab_fini(v);
    return pg_fail(err, PG_ENOMEM, "no memory for a vocabulary of %d tokens", n_max);
}

static void add_piece(struct vocab *v, const char *text, int32_t type)
{
    PG_ASSERT(v->n < v->n_max && strlen(text) < PIECE_BYTES);
    int i = v->n++;
    memcpy(v->text[i], text, strlen(text) + 1);
    v->pieces[i] = (struct pg_str){v->text[i], strlen(text)};
    v->types[i] = type;
    /* Pieces that came earlier merge earlier. */
    v->scores[i] = type == TYPE_NORMAL ? -(float)i : 0;
}

static bool has_piece(const struct vocab *v, const char *text)
{
    for (int i = 0; i < v->n; i++)
        if (!strcmp(v->text[i], text))
            return true;
    return false;
}

/* Every prefix of space + word that is longer than the space, each merged from the one before it.
 */
static void add_words(struct vocab *v, const char *space)
{
    for (size_t w = 0; w < PG_COUNT(words); w++) {
        char piece[PIECE_BYTES], longer[PIECE_BYTES];
        snprintf(piece, sizeof(piece), "%s", space);
        for (const char *c = words[w]; *c; c++) {
            snprintf(longer, sizeof(longer), "%.24s%c", piece, *c);
            if (!has_piece(v, longer)) {
                int m = v->n_merges++;
                int n = snprintf(v->merge_text[m], sizeof(v->merge_text[m]), "%s %c", piece, *c);
                v->merges[m] = (struct pg_str){v->merge_text[m], (size_t)n};
                add_piece(v, longer, TYPE_NORMAL);
            }
            memcpy(piece, longer, sizeof(piece));
        }
    }
}

static void add_filler(struct vocab *v, int end)
{
    for (int i = 0; v->n < end; i++) {
        char text[PIECE_BYTES];
        snprintf(text, sizeof(text), "<fill%d>", i);
        add_piece(v, text, TYPE_UNUSED);
    }
}

/* A character below U+0800 as UTF-8. */
static void utf8(char out[3], int c)
{
    int n = 0;

    if (c < 0x80) {
        out[n++] = (char)c;
    } else {
        out[n++] = (char)(0xc0 | c >> 6);
        out[n++] = (char)(0x80 | (c & 0x3f));
    }
    out[n] = 0;
}

/* Byte-level BPE writes printable bytes as themselves and the others as U+0100 and up. */
static int byte_letter(int byte, int *n_other)
{
    bool plain = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;

    return plain ? byte : 256 + (*n_other)++;
}

static void fill_bpe(struct vocab *v)
{
    char text[3];
    int n_other = 0;

    for (int b = 0; b < 256; b++) {
        utf8(text, byte_letter(b, &n_other));
        add_piece(v, text, TYPE_NORMAL);
    }
    add_words(v, "\xc4\xa0"); /* the letter of the space */
    add_filler(v, v->n_max - 2);
    add_piece(v, "<|begin|>", TYPE_CONTROL);
    add_piece(v, "<|endoftext|>", TYPE_CONTROL);
}

static int write_bpe(struct pg_gguf_writer *w, const struct vocab *v, const char *arch,
                     struct pg_err *err)
{
    bool qwen = !strncmp(arch, "qwen", 4);

    PG_TRY(pg_gguf_writer_str(w, "tokenizer.ggml.model", "gpt2", err));
    PG_TRY(pg_gguf_writer_str(w, "tokenizer.ggml.pre", qwen ? "qwen2" : "default", err));
    PG_TRY(pg_gguf_writer_strs(w, "tokenizer.ggml.tokens", v->pieces, (uint64_t)v->n, err));
    PG_TRY(pg_gguf_writer_i32s(w, "tokenizer.ggml.token_type", v->types, (uint64_t)v->n, err));
    PG_TRY(pg_gguf_writer_strs(w, "tokenizer.ggml.merges", v->merges, (uint64_t)v->n_merges, err));
    PG_TRY(pg_gguf_writer_u32(w, "tokenizer.ggml.bos_token_id", (uint32_t)v->n - 2, err));
    PG_TRY(pg_gguf_writer_u32(w, "tokenizer.ggml.eos_token_id", (uint32_t)v->n - 1, err));
    return pg_gguf_writer_bool(w, "tokenizer.ggml.add_bos_token", false, err);
}

/* What follows the control pieces where U+2581 stands for the space. */
static void add_texts(struct vocab *v)
{
    char text[PIECE_BYTES];

    add_piece(v, "\xe2\x96\x81", TYPE_NORMAL); /* U+2581 stands for the space */
    for (int c = 33; c < 127; c++) {
        utf8(text, c);
        add_piece(v, text, TYPE_NORMAL);
    }
    add_words(v, "\xe2\x96\x81");
    add_filler(v, v->n_max);
}

static void fill_spm(struct vocab *v)
{
    char text[PIECE_BYTES];

    add_piece(v, "<unk>", TYPE_UNKNOWN);
    add_piece(v, "<s>", TYPE_CONTROL);
    add_piece(v, "</s>", TYPE_CONTROL);
    for (unsigned b = 0; b < 256; b++) {
        snprintf(text, sizeof(text), "<0x%02X>", b);
        add_piece(v, text, TYPE_BYTE);
    }
    add_texts(v);
}

static int write_spm(struct pg_gguf_writer *w, const struct vocab *v, struct pg_err *err)
{
    PG_TRY(pg_gguf_writer_str(w, "tokenizer.ggml.model", "llama", err));
    PG_TRY(pg_gguf_writer_strs(w, "tokenizer.ggml.tokens", v->pieces, (uint64_t)v->n, err));
    PG_TRY(pg_gguf_writer_f32s(w, "tokenizer.ggml.scores", v->scores, (uint64_t)v->n, err));
    PG_TRY(pg_gguf_writer_i32s(w, "tokenizer.ggml.token_type", v->types, (uint64_t)v->n, err));
    PG_TRY(pg_gguf_writer_u32(w, "tokenizer.ggml.unknown_token_id", 0, err));
    PG_TRY(pg_gguf_writer_u32(w, "tokenizer.ggml.bos_token_id", 1, err));
    PG_TRY(pg_gguf_writer_u32(w, "tokenizer.ggml.eos_token_id", 2, err));
    PG_TRY(pg_gguf_writer_bool(w, "tokenizer.ggml.add_bos_token", true, err));
    return pg_gguf_writer_bool(w, "tokenizer.ggml.add_eos_token", false, err);
}

static void fill_unigram(struct vocab *v)
{
    add_piece(v, "<pad>", TYPE_CONTROL);
    add_piece(v, "</s>", TYPE_CONTROL);
    add_piece(v, "<unk>", TYPE_UNKNOWN);
    add_texts(v);
}

static int write_unigram(struct pg_gguf_writer *w, const struct vocab *v, struct pg_err *err)
{
    PG_TRY(pg_gguf_writer_str(w, "tokenizer.ggml.model", "t5", err));
    PG_TRY(pg_gguf_writer_strs(w, "tokenizer.ggml.tokens", v->pieces, (uint64_t)v->n, err));
    PG_TRY(pg_gguf_writer_f32s(w, "tokenizer.ggml.scores", v->scores, (uint64_t)v->n, err));
    PG_TRY(pg_gguf_writer_i32s(w, "tokenizer.ggml.token_type", v->types, (uint64_t)v->n, err));
    PG_TRY(pg_gguf_writer_u32(w, "tokenizer.ggml.padding_token_id", 0, err));
    PG_TRY(pg_gguf_writer_u32(w, "tokenizer.ggml.eos_token_id", 1, err));
    PG_TRY(pg_gguf_writer_u32(w, "tokenizer.ggml.unknown_token_id", 2, err));
    PG_TRY(pg_gguf_writer_bool(w, "tokenizer.ggml.add_bos_token", false, err));
    return pg_gguf_writer_bool(w, "tokenizer.ggml.add_eos_token", true, err);
}

static int fill_and_write(struct pg_gguf_writer *w, struct vocab *v, const char *arch,
                          struct pg_err *err)
{
    if (!strcmp(arch, "switch")) {
        fill_unigram(v);
        return write_unigram(w, v, err);
    }
    if (!strcmp(arch, "llama")) {
        fill_spm(v);
        return write_spm(w, v, err);
    }
    fill_bpe(v);
    return write_bpe(w, v, arch, err);
}

int pg_synth_vocab(struct pg_gguf_writer *w, const char *arch, int n_vocab, struct pg_err *err)
{
    struct vocab v;
    PG_TRY(vocab_init(&v, n_vocab, err));
    int rc = fill_and_write(w, &v, arch, err);
    vocab_fini(&v);
    return rc;
}
