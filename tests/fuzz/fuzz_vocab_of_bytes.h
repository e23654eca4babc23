/* SPDX-License-Identifier: MIT
 * For fuzz targets that follow a grammar: a vocabulary of the 256 bytes, made once.
 */
#ifndef PG_TESTS_FUZZ_VOCAB_OF_BYTES_H
#define PG_TESTS_FUZZ_VOCAB_OF_BYTES_H

#include "base/err.h"
#include "text/vocab.h"

#include <stdlib.h>
#include <string.h>

struct fuzz_file {
    uint8_t s[1 << 14];
    size_t n;
};

static inline void fuzz_put(struct fuzz_file *f, const void *data, size_t n)
{
    PG_ASSERT(n <= sizeof(f->s) - f->n);
    memcpy(f->s + f->n, data, n);
    f->n += n;
}

static inline void fuzz_put_str(struct fuzz_file *f, const char *s)
{
    uint64_t n = strlen(s);
    fuzz_put(f, &n, sizeof(n));
    fuzz_put(f, s, n);
}

static inline void fuzz_put_array(struct fuzz_file *f, const char *name, uint32_t elem, uint64_t n)
{
    uint32_t kind = PG_GGUF_ARRAY;
    fuzz_put_str(f, name);
    fuzz_put(f, &kind, sizeof(kind));
    fuzz_put(f, &elem, sizeof(elem));
    fuzz_put(f, &n, sizeof(n));
}

enum { FUZZ_TOKENS = 3 + 256 };

/* <unk>, <s>, </s> and the bytes. */
static inline pg_vocab *fuzz_vocab(void)
{
    static struct fuzz_file f;
    static const char *const special[] = {"<unk>", "<s>", "</s>"};
    uint64_t counts[] = {0, 4};
    uint32_t version = 3, kind = PG_GGUF_STRING, type;
    struct pg_gguf *g;
    pg_vocab *v;
    f.n = 0;
    fuzz_put(&f, "GGUF", 4);
    fuzz_put(&f, &version, sizeof(version));
    fuzz_put(&f, counts, sizeof(counts));
    fuzz_put_str(&f, "tokenizer.ggml.model");
    fuzz_put(&f, &kind, sizeof(kind));
    fuzz_put_str(&f, "llama");
    fuzz_put_array(&f, "tokenizer.ggml.tokens", PG_GGUF_STRING, FUZZ_TOKENS);
    for (int i = 0; i < FUZZ_TOKENS; i++) {
        static const char hex[] = "0123456789ABCDEF";
        char byte[8] = {'<', '0', 'x', hex[(i - 3) >> 4 & 15], hex[(i - 3) & 15], '>'};
        fuzz_put_str(&f, i < 3 ? special[i] : byte);
    }
    fuzz_put_array(&f, "tokenizer.ggml.token_type", PG_GGUF_I32, FUZZ_TOKENS);
    for (int i = 0; i < FUZZ_TOKENS; i++) {
        type = i == 0 ? 2 : i < 3 ? 3 : 6;
        fuzz_put(&f, &type, sizeof(type));
    }
    fuzz_put_array(&f, "tokenizer.ggml.scores", PG_GGUF_F32, FUZZ_TOKENS);
    for (int i = 0; i < FUZZ_TOKENS; i++)
        fuzz_put(&f, &(uint32_t){0}, 4);
    PG_ASSERT(!pg_gguf_parse(&g, f.s, f.n, f.n, "bytes", NULL));
    PG_ASSERT(!pg_vocab_from_gguf(&v, g, NULL));
    pg_gguf_close(g);
    return v;
}

/* Goes on with one of the allowed tokens for each choice; what the mask, the single question and
 * accepting say must be the same. */
static inline void fuzz_follow(const pg_grammar *g, const uint8_t *choice, size_t n)
{
    uint32_t bits[(FUZZ_TOKENS + 31) / 32];
    struct pg_err err = {0};
    pg_vocab *v = fuzz_vocab();
    pg_matcher *m;
    int rc = pg_matcher_open(&m, g, v, &err);
    PG_ASSERT(rc ? !m && rc == PG_ENOTSUP : !!m);
    for (size_t i = 0; i <= n && i < 64 && !rc; i++) {
        rc = pg_matcher_mask(m, bits, &err);
        PG_ASSERT(rc == 0 || rc == PG_EFORMAT || rc == PG_ENOTSUP);
        int32_t id = i < n ? choice[i] + 3 : 2;
        for (int k = 0; k < FUZZ_TOKENS && !(bits[id / 32] >> (id % 32) & 1) && !rc; k++)
            id = (id + 1) % FUZZ_TOKENS;
        bool allowed = !rc && pg_matcher_allows(m, id);
        PG_ASSERT(rc || allowed);
        PG_ASSERT(rc || !pg_matcher_accept(m, id, &err));
    }
    pg_matcher_close(m);
    pg_vocab_close(v);
}

#endif
