/* SPDX-License-Identifier: MIT
 * A vocabulary and a text from the input: opened, tokenized with, printed. The input is a small
 * language of its own rather than a file, so that most inputs get past the reader:
 *
 *   bits: 0 llama model, 1 the 256 byte tokens first, 2 types, 3 scores, 4 merges, 5 special ids,
 *         6 t5 model with a table of replacements
 *   label; count, tokens of (type, score, text); count, merges; the table; three ids; flags; the
 * text
 *
 * Strings are a length byte and that many bytes. Whatever is missing reads as zero.
 */
#include "base/err.h"
#include "text/vocab.h"

#include <stdlib.h>
#include <string.h>

struct in {
    const uint8_t *s;
    size_t n;
};

struct out {
    uint8_t *s;
    size_t n, cap;
};

static uint8_t byte(struct in *in)
{
    if (!in->n)
        return 0;
    in->n--;
    return *in->s++;
}

static void put(struct out *o, const void *data, size_t n)
{
    if (o->n + n > o->cap) {
        o->cap = 2 * (o->n + n);
        o->s = realloc(o->s, o->cap);
        PG_ASSERT(o->s);
    }
    if (n)
        memcpy(o->s + o->n, data, n);
    o->n += n;
}

static void put_u32(struct out *o, uint32_t v)
{
    put(o, &v, sizeof(v));
}

static void put_u64(struct out *o, uint64_t v)
{
    put(o, &v, sizeof(v));
}

static void put_str(struct out *o, const void *s, size_t n)
{
    put_u64(o, n);
    put(o, s, n);
}

static void put_key(struct out *o, const char *name, uint32_t kind)
{
    put_str(o, name, strlen(name));
    put_u32(o, kind);
}

static void put_array(struct out *o, const char *name, uint32_t elem, uint64_t n)
{
    put_key(o, name, PG_GGUF_ARRAY);
    put_u32(o, elem);
    put_u64(o, n);
}

static void put_text(struct out *o, struct in *in)
{
    size_t n = byte(in);
    n = PG_MIN(n, in->n);
    put_str(o, in->s, n);
    in->s += n;
    in->n -= n;
}

/* The byte tokens: <0xNN> for llama, the gpt2 alphabet otherwise. */
static void put_byte_token(struct out *o, int b, bool llama)
{
    static const char hex[] = "0123456789ABCDEF";
    bool prints = (b > 0x20 && b < 0x7F) || (b > 0xA0 && b != 0xAD);
    int cp = b;
    char s[6] = {'<', '0', 'x', hex[b >> 4], hex[b & 15], '>'};

    if (llama) {
        put_str(o, s, 6);
        return;
    }
    if (!prints)
        cp = 0x100 + (b <= 0x20 ? b : b <= 0xA0 ? b - 0x7F + 33 : 67);
    if (cp < 0x80) {
        s[0] = (char)cp;
        put_str(o, s, 1);
    } else {
        s[0] = (char)(0xC0 | cp >> 6);
        s[1] = (char)(0x80 | (cp & 0x3F));
        put_str(o, s, 2);
    }
}

static void put_tokens(struct out *o, struct in *in, uint8_t bits, uint32_t *n_keys)
{
    bool llama = bits & 1;
    uint32_t n_base = bits & 2 ? 256 : 0, n = byte(in);
    struct out types = {0}, scores = {0};

    put_array(o, "tokenizer.ggml.tokens", PG_GGUF_STRING, n_base + n);
    for (uint32_t i = 0; i < n_base + n; i++) {
        bool base = i < n_base;
        uint8_t t = base ? (llama ? 6 : 1) : byte(in);
        float score = base ? 0 : (float)(int8_t)byte(in);
        put_u32(&types, t);
        put(&scores, &score, sizeof(score));
        if (base)
            put_byte_token(o, (int)i, llama);
        else
            put_text(o, in);
    }
    if (bits & 4) {
        put_array(o, "tokenizer.ggml.token_type", PG_GGUF_I32, n_base + n);
        put(o, types.s, types.n);
    }
    if (bits & 8) {
        put_array(o, "tokenizer.ggml.scores", PG_GGUF_F32, n_base + n);
        put(o, scores.s, scores.n);
    }
    *n_keys += 1 + !!(bits & 4) + !!(bits & 8);
    free(types.s);
    free(scores.s);
}

static void put_merges(struct out *o, struct in *in)
{
    uint32_t n = byte(in);
    put_array(o, "tokenizer.ggml.merges", PG_GGUF_STRING, n);
    for (uint32_t i = 0; i < n; i++)
        put_text(o, in);
}

static void put_charsmap(struct out *o, struct in *in)
{
    size_t n = byte(in) * 8;
    n = PG_MIN(n, in->n);
    put_array(o, "tokenizer.ggml.precompiled_charsmap", PG_GGUF_U8, n);
    put(o, in->s, n);
    in->s += n;
    in->n -= n;
}

static void put_file(struct out *o, struct in *in)
{
    static const char *const labels[] = {"gpt-2",  "default",      "llama-bpe", "qwen2",
                                         "gpt-4o", "deepseek-llm", "falcon",    "other"};
    static const char *const ids[] = {"tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id",
                                      "tokenizer.ggml.unknown_token_id"};
    uint8_t bits = byte(in);
    const char *model = bits & 64  ? "t5"
                        : bits & 1 ? "llama"
                                   : "gpt2",
               *label = labels[byte(in) % PG_COUNT(labels)];
    uint32_t n_keys = 2;

    put(o, "GGUF", 4);
    put_u32(o, 3);
    put_u64(o, 0);
    put_u64(o, 0);
    put_key(o, "tokenizer.ggml.model", PG_GGUF_STRING);
    put_str(o, model, strlen(model));
    put_key(o, "tokenizer.ggml.pre", PG_GGUF_STRING);
    put_str(o, label, strlen(label));
    put_tokens(o, in, bits, &n_keys);
    if (bits & 16) {
        put_merges(o, in);
        n_keys++;
    }
    if (bits & 64) {
        put_charsmap(o, in);
        n_keys++;
    }
    for (size_t i = 0; i < PG_COUNT(ids) && bits & 32; i++, n_keys++) {
        put_key(o, ids[i], PG_GGUF_U32);
        put_u32(o, (uint32_t)(int8_t)byte(in));
    }
    memcpy(o->s + 16, &n_keys, sizeof(n_keys));
}

/* Tokenizes the rest of the input and prints it again; then prints every id there is. */
static void use(const pg_vocab *v, struct in *in)
{
    struct pg_err err = {0};
    struct pg_detok d = {.vocab = v};
    unsigned flags = byte(in);
    size_t cap = 3 * in->n + 2;
    int32_t *ids = malloc(cap * sizeof(*ids));
    char *text = malloc(in->n + 1), *piece = malloc(PG_PIECE_MAX);

    PG_ASSERT(ids && text && piece);
    if (in->n)
        memcpy(text, in->s, in->n);
    struct pg_ids out = {ids, cap, 0};
    int rc = pg_tokenize(v, text, in->n, flags & 3, &out, &err);
    size_t n = out.n;
    PG_ASSERT(rc == 0 ? n <= cap : rc == PG_EARG && n > cap);
    for (size_t i = 0; i < n && i < cap; i++) {
        PG_ASSERT(ids[i] >= 0 && ids[i] < pg_vocab_n(v));
        PG_ASSERT(pg_detokenize(&d, ids[i], piece) <= PG_PIECE_MAX);
    }
    for (int32_t id = -2; id <= pg_vocab_n(v); id++)
        PG_ASSERT(pg_detokenize(&d, id, piece) <= PG_PIECE_MAX);
    free(ids);
    free(text);
    free(piece);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct in in = {data, size};
    struct out file = {0};
    struct pg_err err = {0};
    struct pg_gguf *g = NULL;
    pg_vocab *v = NULL;

    put_file(&file, &in);
    if (!pg_gguf_parse(&g, file.s, file.n, file.n, "fuzz", &err)) {
        int rc = pg_vocab_from_gguf(&v, g, &err);
        PG_ASSERT(rc ? !v && err.code == rc && err.text[0] : !!v);
        pg_gguf_close(g);
        if (v)
            use(v, &in);
        pg_vocab_close(v);
    }
    free(file.s);
    return 0;
}
