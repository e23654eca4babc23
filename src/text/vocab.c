/* SPDX-License-Identifier: MIT
 * Opening a vocabulary. Files come from strangers: every array's kind and length, every type, id
 * and piece is checked once here, so that tokenizing and printing need no checks.
 */
#include "text/pretok.h"
#include "text/utf8.h"
#include "text/vocab_impl.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const char tokens_key[] = "tokenizer.ggml.tokens";
static const char types_key[] = "tokenizer.ggml.token_type";

struct pg_str pg_vocab_piece_at(const void *vocab, uint32_t id)
{
    return pg_pieces_text(&((const struct pg_vocab *)vocab)->pieces, id);
}

void *pg_vocab_alloc(struct pg_vocab *v, uint64_t n, size_t size, struct pg_err *err)
{
    uint64_t bytes;
    void *p = NULL;

    if (!__builtin_mul_overflow(n, (uint64_t)size, &bytes) && bytes <= SIZE_MAX)
        p = calloc((size_t)PG_MAX(n, 1), size);
    if (!p)
        pg_fail(err, PG_ENOMEM, "out of memory for %llu elements of a vocabulary",
                (unsigned long long)n);
    else
        v->heap_bytes += bytes;
    return p;
}

/* ---- types ---- */

/* The byte of "<0x0A>", or -1. */
static int byte_of(struct pg_str s)
{
    int value = 0;
    if (s.n != 6 || memcmp(s.s, "<0x", 3) || s.s[5] != '>')
        return -1;
    for (int i = 3; i < 5; i++) {
        char c = s.s[i];
        if (c >= '0' && c <= '9')
            value = value * 16 + (c - '0');
        else if (c >= 'A' && c <= 'F')
            value = value * 16 + (c - 'A' + 10);
        else if (c >= 'a' && c <= 'f')
            value = value * 16 + (c - 'a' + 10);
        else
            return -1;
    }
    return value;
}

/* Old files have no types: their bytes are known by their spelling. */
static void guess_types(struct pg_vocab *v, const struct pg_gguf *g,
                        const struct pg_gguf_key *tokens)
{
    for (uint32_t i = 0; i < v->pieces.n; i++) {
        bool byte = v->model == PG_VOCAB_LLAMA && byte_of(pg_gguf_string_at(g, tokens, i)) >= 0;
        v->pieces.type[i] = byte ? PG_PIECE_BYTE : PG_PIECE_NORMAL;
    }
}

static int read_types(struct pg_vocab *v, const struct pg_gguf *g, const struct pg_gguf_key *tokens,
                      struct pg_err *err)
{
    const struct pg_gguf_key *k = pg_gguf_find(g, types_key);

    v->pieces.type = pg_vocab_alloc(v, v->pieces.n, 1, err);
    if (!v->pieces.type)
        return PG_ENOMEM;
    if (!k) {
        guess_types(v, g, tokens);
        return 0;
    }
    if (k->kind != PG_GGUF_ARRAY || (k->elem != PG_GGUF_I32 && k->elem != PG_GGUF_U32))
        return pg_fail(err, PG_EFORMAT, "%s is not an array of int32", types_key);
    if (k->n != v->pieces.n)
        return pg_fail(err, PG_EFORMAT, "%s has %llu elements, wanted %u as many as tokens",
                       types_key, (unsigned long long)k->n, v->pieces.n);
    for (uint32_t i = 0; i < v->pieces.n; i++) {
        uint32_t type;
        memcpy(&type, (const char *)k->data + i * sizeof(type), sizeof(type));
        if (type >= PG_PIECE_TYPES)
            return pg_fail(err, PG_EFORMAT, "%s[%u] is %d, wanted 0 to %d", types_key, i, (int)type,
                           PG_PIECE_TYPES - 1);
        v->pieces.type[i] = (uint8_t)type;
    }
    return 0;
}

/* ---- pieces ---- */

/* Bytes that printing the piece may write: an invalid byte becomes three, and up to three held
 * bytes of the piece before may turn out invalid. */
static size_t print_bytes(const char *s, size_t n)
{
    size_t bytes = 9;
    for (size_t i = 0; i < n;) {
        int len = pg_utf8_scan(s + i, n - i);
        size_t step = (size_t)PG_MAX(len, 1);
        bytes += len > 0 ? step : 3;
        i += step;
    }
    return bytes;
}

/* Decodes a gpt2 piece to out; returns its length, or -1 if it is not spelled in the alphabet. */
static int64_t decode_piece(const int16_t alphabet[], int n_alphabet, struct pg_str s, char *out)
{
    int64_t n = 0;
    for (size_t i = 0; i < s.n;) {
        int len = pg_utf8_scan(s.s + i, s.n - i);
        if (len <= 0)
            return -1;
        uint32_t cp = pg_utf8_decode(s.s + i, len);
        if (cp >= (uint32_t)n_alphabet || alphabet[cp] < 0)
            return -1;
        out[n++] = (char)alphabet[cp];
        i += (size_t)len;
    }
    return n;
}

enum { ALPHABET = 0x100 + 68 }; /* code points that the gpt2 alphabet may have */

/* Writes the text of piece id as it will be printed and matched; returns its length. */
static int64_t store_piece(struct pg_vocab *v, const int16_t *alphabet, uint32_t id,
                           struct pg_str file, char *out)
{
    uint8_t *type = &v->pieces.type[id];
    bool spelled = *type == PG_PIECE_NORMAL || *type == PG_PIECE_UNDEFINED ||
                   *type == PG_PIECE_UNUSED || *type == PG_PIECE_BYTE;
    int byte = *type == PG_PIECE_BYTE ? byte_of(file) : -1;
    int64_t n = -1;

    if (byte >= 0) {
        *out = (char)byte;
        return 1;
    }
    if (v->model == PG_VOCAB_GPT2 && spelled)
        n = decode_piece(alphabet, ALPHABET, file, out);
    if (*type == PG_PIECE_BYTE)
        return n == 1 ? 1 : -1;
    /* What is not spelled in the alphabet can be printed, but no text makes it. */
    if (v->model == PG_VOCAB_GPT2 && spelled && *type != PG_PIECE_UNUSED)
        *type = n < 0 ? PG_PIECE_UNDEFINED : PG_PIECE_NORMAL;
    if (n >= 0)
        return n;
    memcpy(out, file.s, file.n);
    return (int64_t)file.n;
}

static void note_byte(struct pg_vocab *v, uint32_t id)
{
    struct pg_str s = pg_pieces_text(&v->pieces, id);
    bool byte = v->pieces.type[id] == PG_PIECE_BYTE ||
                (v->model == PG_VOCAB_GPT2 && v->pieces.type[id] == PG_PIECE_NORMAL);
    if (s.n == 1 && byte && v->byte_id[(unsigned char)s.s[0]] < 0)
        v->byte_id[(unsigned char)s.s[0]] = (int32_t)id;
}

static int store_pieces(struct pg_vocab *v, const struct pg_gguf *g, const struct pg_gguf_key *k,
                        struct pg_err *err)
{
    struct pg_pieces *p = &v->pieces;
    int16_t alphabet[ALPHABET];

    for (int cp = 0; cp < ALPHABET; cp++)
        alphabet[cp] = (int16_t)pg_bpe_alphabet((uint32_t)cp);
    for (uint32_t id = 0; id < p->n; id++) {
        struct pg_str file = pg_gguf_string_at(g, k, id);
        int64_t n = store_piece(v, alphabet, id, file, p->text + p->at[id]);
        if (n < 0)
            return pg_fail(err, PG_EFORMAT,
                           "%s[%u] is the byte token '%s', wanted <0x00> to <0xFF>", tokens_key, id,
                           pg_quote(file.s, file.n).s);
        p->at[id + 1] = p->at[id] + (uint32_t)n;
        if (print_bytes(p->text + p->at[id], (size_t)n) > PG_PIECE_MAX)
            return pg_fail(err, PG_EFORMAT, "%s[%u] has %lld bytes, wanted at most %d", tokens_key,
                           id, (long long)n, PG_PIECE_MAX - 9);
        note_byte(v, id);
    }
    return 0;
}

static int read_pieces(struct pg_vocab *v, const struct pg_gguf *g, struct pg_err *err)
{
    const struct pg_gguf_key *k = pg_gguf_find(g, tokens_key);
    uint64_t bytes = 0;

    if (!k)
        return pg_fail(err, PG_EFORMAT, "%s is missing", tokens_key);
    if (k->kind != PG_GGUF_ARRAY || k->elem != PG_GGUF_STRING)
        return pg_fail(err, PG_EFORMAT, "%s is not an array of strings", tokens_key);
    if (k->n < 1 || k->n > 1u << 24)
        return pg_fail(err, PG_EFORMAT, "%s has %llu elements, wanted 1 to %u", tokens_key,
                       (unsigned long long)k->n, 1u << 24);
    v->pieces.n = (uint32_t)k->n;
    for (uint32_t i = 0; i < v->pieces.n; i++)
        bytes += pg_gguf_string_at(g, k, i).n;
    if (bytes > UINT32_MAX)
        return pg_fail(err, PG_EFORMAT, "%s has %llu bytes of text, wanted at most %u", tokens_key,
                       (unsigned long long)bytes, UINT32_MAX);
    PG_TRY(read_types(v, g, k, err));
    v->pieces.at = pg_vocab_alloc(v, (uint64_t)v->pieces.n + 1, sizeof(*v->pieces.at), err);
    v->pieces.text = v->pieces.at ? pg_vocab_alloc(v, bytes, 1, err) : NULL;
    if (!v->pieces.text)
        return PG_ENOMEM;
    PG_TRY(store_pieces(v, g, k, err));
    /* gpt2 pieces shrank when they were decoded. */
    uint64_t used = v->pieces.at[v->pieces.n];
    char *text = realloc(v->pieces.text, (size_t)PG_MAX(used, 1));
    if (text) {
        v->pieces.text = text;
        v->heap_bytes -= bytes - used;
    }
    return 0;
}

int pg_vocab_scores(struct pg_vocab *v, const struct pg_gguf *g, struct pg_err *err)
{
    static const char name[] = "tokenizer.ggml.scores";
    const struct pg_gguf_key *k = pg_gguf_find(g, name);

    if (!k)
        return pg_fail(err, PG_EFORMAT, "%s is missing, the tokenizer needs it", name);
    if (k->kind != PG_GGUF_ARRAY || k->elem != PG_GGUF_F32)
        return pg_fail(err, PG_EFORMAT, "%s is not an array of float32", name);
    if (k->n != v->pieces.n)
        return pg_fail(err, PG_EFORMAT, "%s has %llu elements, wanted %u as many as tokens", name,
                       (unsigned long long)k->n, v->pieces.n);
    v->score = pg_vocab_alloc(v, v->pieces.n, sizeof(*v->score), err);
    if (!v->score)
        return PG_ENOMEM;
    memcpy(v->score, k->data, v->pieces.n * sizeof(*v->score));
    for (uint32_t i = 0; i < v->pieces.n; i++) {
        if (!isfinite(v->score[i]))
            return pg_fail(err, PG_EFORMAT, "%s[%u] is %g, wanted a finite number", name, i,
                           (double)v->score[i]);
    }
    return 0;
}

/* ---- special tokens ---- */

/* An id that the file names. 2^32 - 1 says that there is none, as some files do. */
static int read_id(const struct pg_vocab *v, const struct pg_gguf *g, const char *key, int32_t *id,
                   struct pg_err *err)
{
    int64_t value = *id;
    PG_TRY(pg_gguf_get_int(g, key, PG_GGUF_OPTIONAL, (int64_t[]){-1, UINT32_MAX}, &value, err));
    if (value == UINT32_MAX)
        value = -1;
    if (value >= (int64_t)v->pieces.n)
        return pg_fail(err, PG_EFORMAT, "%s is %lld, wanted less than the %u tokens", key,
                       (long long)value, v->pieces.n);
    *id = (int32_t)value;
    return 0;
}

static void add_end(struct pg_vocab *v, int32_t id)
{
    if (id < 0 || pg_vocab_is_end(v, id) || v->n_ends == PG_VOCAB_MAX_ENDS)
        return;
    v->ends[v->n_ends++] = id;
}

int32_t pg_vocab_special(const struct pg_vocab *v, const char *text)
{
    struct pg_sorted_range r = pg_sorted_begin(&v->special, text[0]);
    int32_t id;

    for (size_t i = 1; text[i] && r.lo < r.hi; i++) {
        while (pg_sorted_take(&v->special, v, &r) >= 0)
            ;
        pg_sorted_step(&v->special, v, &r, text[i]);
    }
    id = pg_sorted_take(&v->special, v, &r);
    return id >= 0 && pg_pieces_text(&v->pieces, (uint32_t)id).n == strlen(text) ? id : -1;
}

/* What a chat or an editor's markup is made of is no text, even where a file calls it user-defined,
 * which would let anybody who writes it in a text end that text. */
static int32_t find_markup(struct pg_vocab *v, const char *text)
{
    int32_t id = pg_vocab_special(v, text);
    if (id >= 0 && v->pieces.type[id] == PG_PIECE_USER)
        v->pieces.type[id] = PG_PIECE_CONTROL;
    return id;
}

/* Files name one end of text; chat models have another that only its spelling tells. */
static void find_ends(struct pg_vocab *v)
{
    static const char *const ends[] = {
        "</s>",
        "<eos>",
        "<|eot_id|>",
        "<|im_end|>",
        "<|end|>",
        "<|return|>",
        "<|call|>",
        "<end_of_turn>",
        "<|endoftext|>",
        "<|eom_id|>",
        "<EOT>",
        "<|end_of_text|>",
        "<|EOT|>",
        "<end_of_utterance>",
        "<|end_turn|>",
        "[EOT]",
        "<\357\275\234end\342\226\201of\342\226\201sentence\357\275\234>",
    };
    /* The harmony format ends a message, not the turn, with <|end|>. */
    bool harmony = pg_vocab_special(v, "<|return|>") >= 0 && pg_vocab_special(v, "<|call|>") >= 0;

    for (size_t i = 0; i < PG_COUNT(ends); i++) {
        int32_t id = find_markup(v, ends[i]);
        if (!harmony || strcmp(ends[i], "<|end|>"))
            add_end(v, id);
    }
}

/* Filling in the middle: around what is to be written, and between the files it depends on. */
static void find_fill_in(struct pg_vocab *v)
{
    static const char *const markup[] = {
        "<|fim_prefix|>",
        "<|fim_suffix|>",
        "<|fim_middle|>",
        "<|fim_pad|>",
        "<|fim_repo|>",
        "<|repo_name|>",
        "<|file_sep|>",
        "<fim_prefix>",
        "<fim_suffix>",
        "<fim_middle>",
        "<fim_pad>",
        "<\357\275\234fim\342\226\201begin\357\275\234>",
        "<\357\275\234fim\342\226\201hole\357\275\234>",
        "<\357\275\234fim\342\226\201end\357\275\234>",
    };
    for (size_t i = 0; i < PG_COUNT(markup); i++)
        find_markup(v, markup[i]);
}

static int read_special_ids(struct pg_vocab *v, const struct pg_gguf *g, struct pg_err *err)
{
    int32_t eot = -1, eom = -1;
    bool old = v->model == PG_VOCAB_LLAMA; /* which had these fixed before keys named them */

    v->bos = old && v->pieces.n > 1 ? 1 : -1;
    v->eos = old && v->pieces.n > 2 ? 2 : -1;
    v->unk = old ? 0 : -1;
    if (v->model == PG_VOCAB_T5 && v->pieces.n > 2) {
        v->eos = 1;
        v->unk = 2;
    }
    PG_TRY(read_id(v, g, "tokenizer.ggml.bos_token_id", &v->bos, err));
    PG_TRY(read_id(v, g, "tokenizer.ggml.eos_token_id", &v->eos, err));
    PG_TRY(read_id(v, g, "tokenizer.ggml.unknown_token_id", &v->unk, err));
    PG_TRY(read_id(v, g, "tokenizer.ggml.eot_token_id", &eot, err));
    PG_TRY(read_id(v, g, "tokenizer.ggml.eom_token_id", &eom, err));
    PG_TRY(pg_gguf_get_bool(g, "tokenizer.ggml.add_bos_token", PG_GGUF_OPTIONAL, &v->add_bos, err));
    v->add_eos = v->model == PG_VOCAB_T5;
    PG_TRY(pg_gguf_get_bool(g, "tokenizer.ggml.add_eos_token", PG_GGUF_OPTIONAL, &v->add_eos, err));
    add_end(v, v->eos);
    add_end(v, eot);
    add_end(v, eom);
    return 0;
}

/* ---- opening and closing ---- */

static int read_model(struct pg_vocab *v, const struct pg_gguf *g, struct pg_err *err)
{
    static const struct {
        const char *name;
        enum pg_vocab_model model;
    } models[] = {{"none", PG_VOCAB_NONE},
                  {"no_vocab", PG_VOCAB_NONE},
                  {"llama", PG_VOCAB_LLAMA},
                  {"gpt2", PG_VOCAB_GPT2},
                  {"t5", PG_VOCAB_T5}};
    struct pg_str name = {"none", 4};

    PG_TRY(pg_gguf_get_str(g, "tokenizer.ggml.model", PG_GGUF_OPTIONAL, &name, err));
    for (size_t i = 0; i < PG_COUNT(models); i++) {
        if (strlen(models[i].name) == name.n && !memcmp(models[i].name, name.s, name.n)) {
            v->model = models[i].model;
            return 0;
        }
    }
    return pg_fail(err, PG_ENOTSUP, "tokenizer.ggml.model is '%s', known are llama, gpt2 and t5",
                   pg_quote(name.s, name.n).s);
}

/* Where strings land in the tables must not be the file's choice; it changes no result. */
static uint64_t make_seed(const struct pg_vocab *v)
{
    struct timespec now = {0};
    clock_gettime(CLOCK_MONOTONIC, &now);
    return pg_mix64((uint64_t)(uintptr_t)v ^ (uint64_t)now.tv_nsec << 20 ^ (uint64_t)now.tv_sec);
}

static int load(struct pg_vocab *v, const struct pg_gguf *g, struct pg_err *err)
{
    v->heap_bytes = sizeof(*v);
    v->seed = make_seed(v);
    v->bos = v->eos = v->unk = -1;
    for (int b = 0; b < 256; b++)
        v->byte_id[b] = -1;
    PG_TRY(read_model(v, g, err));
    if (v->model == PG_VOCAB_NONE)
        return 0;
    PG_TRY(read_pieces(v, g, err));
    if (v->model == PG_VOCAB_LLAMA)
        PG_TRY(pg_spm_load(v, g, err));
    else if (v->model == PG_VOCAB_T5)
        PG_TRY(pg_unigram_load(v, g, err));
    else
        PG_TRY(pg_bpe_load(v, g, err));
    PG_TRY(read_special_ids(v, g, err));
    PG_TRY(pg_sorted_init(&v->special, v,
                          1u << PG_PIECE_UNKNOWN | 1u << PG_PIECE_CONTROL | 1u << PG_PIECE_USER,
                          err));
    find_ends(v);
    find_fill_in(v);
    return 0;
}

int pg_vocab_from_gguf(pg_vocab **out, const struct pg_gguf *g, struct pg_err *err)
{
    const char *path = pg_gguf_part_path(g, 0);
    struct pg_vocab *v = *out = calloc(1, sizeof(*v));
    if (v) {
        v->path = strdup(path);
        v->tokens = pg_token_home_open();
    }
    int rc = v && v->path && v->tokens ? load(v, g, err) : pg_fail(err, PG_ENOMEM, "out of memory");
    if (rc) {
        pg_vocab_close(v);
        *out = NULL;
    }
    return rc ? pg_fail_in(err, rc, path) : 0;
}

int pg_vocab_open(pg_vocab **out, const char *path, struct pg_err *err)
{
    struct pg_gguf *g;

    *out = NULL;
    PG_TRY(pg_gguf_open(&g, path, err));
    int rc = pg_vocab_from_gguf(out, g, err);
    pg_gguf_close(g);
    if (!rc && (*out)->model == PG_VOCAB_NONE) {
        pg_vocab_close(*out);
        *out = NULL;
        return pg_fail(err, PG_ENOTSUP, "%s: the file has no vocabulary", path);
    }
    return rc;
}

void pg_vocab_close(pg_vocab *v)
{
    if (!v)
        return;
    free(v->path);
    pg_token_home_close(v->tokens);
    free(v->pieces.at);
    free(v->pieces.type);
    free(v->pieces.text);
    free(v->special.id);
    free(v->list.id);
    free(v->score);
    pg_charsmap_fini(&v->charsmap);
    free(v->priority);
    free(v->merge);
    free(v->pair);
    pg_strmap_fini(&v->whole);
    pg_pretok_close(v->pretok);
    free(v);
}

uint64_t pg_vocab_heap_bytes(const pg_vocab *v)
{
    return v->heap_bytes + pg_strmap_heap_bytes(&v->whole) + pg_charsmap_heap_bytes(&v->charsmap) +
           pg_pretok_heap_bytes(v->pretok);
}

int pg_vocab_n(const pg_vocab *v)
{
    return (int)v->pieces.n;
}

int32_t pg_vocab_bos(const pg_vocab *v)
{
    return v->bos;
}

int32_t pg_vocab_eos(const pg_vocab *v)
{
    return v->eos;
}

bool pg_vocab_is_end(const pg_vocab *v, int32_t id)
{
    for (int i = 0; i < v->n_ends; i++)
        if (v->ends[i] == id)
            return true;
    return false;
}
