/* SPDX-License-Identifier: MIT
 * The `llama` model: SentencePiece's BPE. The text's spaces become U+2581, its characters are
 * symbols, and of all neighbours that together are a piece, those with the best score are joined
 * first. A character without a piece becomes its bytes' tokens, or the unknown token.
 *
 * Where no piece has a space after another character, text is joined word by word (spaces, then
 * what follows them): the same result with memory and time in proportion to the longest word.
 */
#include "text/encoder.h"
#include "text/utf8.h"

#include <stdlib.h>
#include <string.h>

#define SPACE     "\xE2\x96\x81" /* U+2581 */
#define SPACE_LEN 3

static bool is_space(const char *s, size_t n)
{
    return n >= SPACE_LEN && !memcmp(s, SPACE, SPACE_LEN);
}

/* Does the piece go on after a space that is not at its beginning? */
static bool spans_words(struct pg_str piece)
{
    bool in_word = false;
    for (size_t i = 0; i < piece.n; i++) {
        bool space = is_space(piece.s + i, piece.n - i);
        if (space && in_word)
            return true;
        in_word = !space;
        if (space)
            i += SPACE_LEN - 1;
    }
    return false;
}

/* Scores in descending order become unsigned numbers in ascending order. */
static uint32_t priority_of(float score)
{
    uint32_t bits;
    score += 0.0f; /* -0 is 0 */
    memcpy(&bits, &score, sizeof(bits));
    return bits & 0x80000000u ? bits : 0x7FFFFFFFu - bits;
}

static int load_priorities(struct pg_vocab *v, const struct pg_gguf *g, struct pg_err *err)
{
    PG_TRY(pg_vocab_scores(v, g, err));
    v->priority = pg_vocab_alloc(v, v->pieces.n, sizeof(*v->priority), err);
    if (!v->priority)
        return PG_ENOMEM;
    for (uint32_t i = 0; i < v->pieces.n; i++)
        v->priority[i] = priority_of(v->score[i]);
    free(v->score);
    v->score = NULL;
    v->heap_bytes -= v->pieces.n * sizeof(*v->score);
    return 0;
}

static void look(const struct pg_joiner *j, struct pg_sym *left, const struct pg_sym *right)
{
    left->pair = pg_strmap_find(&j->vocab->whole, j->text + left->at, left->n + right->n);
    if (left->pair >= 0)
        left->priority = j->vocab->priority[left->pair];
}

int pg_spm_load(struct pg_vocab *v, const struct pg_gguf *g, struct pg_err *err)
{
    static const bool joins[PG_PIECE_TYPES] = {[PG_PIECE_UNDEFINED] = true,
                                               [PG_PIECE_NORMAL] = true,
                                               [PG_PIECE_USER] = true,
                                               [PG_PIECE_UNUSED] = true};
    PG_TRY(load_priorities(v, g, err));
    v->space_prefix = true;
    PG_TRY(pg_gguf_get_bool(g, "tokenizer.ggml.add_space_prefix", PG_GGUF_OPTIONAL,
                            &v->space_prefix, err));
    v->add_bos = true;
    v->whole.at = pg_vocab_piece_at;
    v->whole.owner = v;
    PG_TRY(pg_strmap_init(&v->whole, v->pieces.n, v->seed, err));
    v->words_alone = true;
    for (uint32_t id = 0; id < v->pieces.n; id++) {
        struct pg_str piece = pg_pieces_text(&v->pieces, id);
        if (!piece.n || !joins[v->pieces.type[id]])
            continue;
        pg_strmap_add(&v->whole, id);
        if (spans_words(piece))
            v->words_alone = false;
    }
    return 0;
}

/* A symbol that joined nothing: its own piece, or tokens of its bytes, or the unknown token. The
 * space counts as one byte then, so that it stays one when it is printed. */
static void put_alone(struct pg_encoder *e, const char *s, uint32_t n)
{
    const pg_vocab *v = e->vocab;
    int32_t id = pg_strmap_find(&v->whole, s, n);
    if (id >= 0) {
        pg_ids_put(&e->ids, id);
        return;
    }
    if (is_space(s, n)) {
        s = " ";
        n = 1;
    }
    for (uint32_t i = 0; i < n; i++) {
        if (v->byte_id[(unsigned char)s[i]] < 0) {
            if (v->unk >= 0)
                pg_ids_put(&e->ids, v->unk);
            return;
        }
        pg_ids_put(&e->ids, v->byte_id[(unsigned char)s[i]]);
    }
}

static int encode_word(struct pg_encoder *e, const char *s, uint32_t n, struct pg_err *err)
{
    struct pg_joiner *j = &e->join;

    pg_joiner_start(j, s);
    for (uint32_t i = 0; i < n;) {
        int len = pg_utf8_scan(s + i, n - i);
        len = PG_MAX(len, 1);
        PG_TRY(pg_joiner_add(j, i, (uint32_t)len, -1, err));
        i += (uint32_t)len;
    }
    PG_TRY(pg_joiner_run(j, err));
    for (int32_t i = j->n_sym ? 0 : -1; i >= 0; i = j->sym[i].next) {
        const struct pg_sym *sym = &j->sym[i];
        if (sym->id >= 0)
            pg_ids_put(&e->ids, sym->id);
        else
            put_alone(e, s + sym->at, sym->n);
    }
    return 0;
}

/* Copies the text with its spaces escaped; returns the length. */
static int escape(struct pg_encoder *e, struct pg_str text, bool prefix, size_t *n_out,
                  struct pg_err *err)
{
    size_t n = text.n + (prefix ? SPACE_LEN : 0), at = 0;
    for (size_t i = 0; i < text.n; i++)
        n += text.s[i] == ' ' ? SPACE_LEN - 1 : 0;
    PG_TRY(pg_encoder_reserve(e, n, err));
    if (prefix) {
        memcpy(e->text, SPACE, SPACE_LEN);
        at = SPACE_LEN;
    }
    for (size_t i = 0; i < text.n; i++) {
        if (text.s[i] == ' ') {
            memcpy(e->text + at, SPACE, SPACE_LEN);
            at += SPACE_LEN;
        } else {
            e->text[at++] = text.s[i];
        }
    }
    *n_out = n;
    return 0;
}

/* The length of the word that s begins with: spaces, then everything up to the next space. */
static size_t word_len(const char *s, size_t n)
{
    size_t i = 0;
    while (is_space(s + i, n - i))
        i += SPACE_LEN;
    while (i < n && !is_space(s + i, n - i))
        i++;
    return i;
}

int pg_spm_encode(struct pg_encoder *e, struct pg_str text, bool prefix, struct pg_err *err)
{
    size_t n;

    e->join.look = look;
    e->join.vocab = e->vocab;
    PG_TRY(escape(e, text, prefix && e->vocab->space_prefix, &n, err));
    for (size_t i = 0; i < n;) {
        size_t len = e->vocab->words_alone ? word_len(e->text + i, n - i) : n - i;
        PG_TRY(encode_word(e, e->text + i, (uint32_t)len, err));
        i += len;
    }
    return 0;
}
