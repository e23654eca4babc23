/* SPDX-License-Identifier: MIT
 * What the vocabulary tests share: reading files, and an independent idea of what ids print.
 */
#ifndef PG_TESTS_VOCAB_CHECK_H
#define PG_TESTS_VOCAB_CHECK_H

#include "helpers.h"
#include "text/vocab.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct bytes {
    char *s;
    size_t n, cap;
};

/* NULL s: no such file. The caller frees s, which has a zero behind it. */
static inline struct bytes file_bytes(const char *path)
{
    struct bytes b = {0};
    if (!access(path, R_OK))
        b.s = whole_file(path, &b.n);
    return b;
}

static inline void bytes_add(struct bytes *b, const void *s, size_t n)
{
    if (b->n + n + 1 > b->cap) {
        b->cap = 2 * (b->n + n + 1);
        b->s = realloc(b->s, b->cap);
        assert_non_null(b->s);
    }
    memcpy(b->s + b->n, s, n);
    b->n += n;
    b->s[b->n] = 0;
}

/* The text with U+FFFD for what is not UTF-8, as the Unicode standard recommends it: one for each
 * maximal beginning of a character. Written from the table of well-formed sequences. */
static inline struct bytes lossy(const char *text, size_t n)
{
    static const struct {
        unsigned char from, to, lo, hi, len;
    } rows[] = {
        {0x00, 0x7F, 0, 0, 1},       {0xC2, 0xDF, 0x80, 0xBF, 2}, {0xE0, 0xE0, 0xA0, 0xBF, 3},
        {0xE1, 0xEC, 0x80, 0xBF, 3}, {0xED, 0xED, 0x80, 0x9F, 3}, {0xEE, 0xEF, 0x80, 0xBF, 3},
        {0xF0, 0xF0, 0x90, 0xBF, 4}, {0xF1, 0xF3, 0x80, 0xBF, 4}, {0xF4, 0xF4, 0x80, 0x8F, 4}};
    const unsigned char *s = (const unsigned char *)text;
    struct bytes out = {0};

    bytes_add(&out, "", 0);
    for (size_t i = 0; i < n;) {
        size_t have = 0, len = 0;
        for (size_t r = 0; r < sizeof(rows) / sizeof(*rows); r++) {
            if (s[i] < rows[r].from || s[i] > rows[r].to)
                continue;
            len = rows[r].len;
            have = 1;
            if (have < len && i + 1 < n && s[i + 1] >= rows[r].lo && s[i + 1] <= rows[r].hi)
                have = 2;
        }
        while (have >= 2 && have < len && i + have < n && (s[i + have] & 0xC0) == 0x80)
            have++;
        if (len && have == len)
            bytes_add(&out, s + i, len);
        else
            bytes_add(&out, "\xEF\xBF\xBD", 3);
        i += have ? have : 1;
    }
    return out;
}

/* All ids printed through a buffer of the promised size, with a guard behind it. Each step must
 * have written whole characters only. */
static inline struct bytes printed(const pg_vocab *v, const int32_t *ids, size_t n)
{
    struct pg_detok d = {.vocab = v};
    struct bytes out = {0};
    char piece[PG_PIECE_MAX + 8];

    bytes_add(&out, "", 0);
    for (size_t i = 0; i <= n; i++) {
        memset(piece, 0x7E, sizeof(piece));
        size_t len = pg_detokenize(&d, i < n ? ids[i] : -1, piece);
        assert_true(len <= PG_PIECE_MAX);
        assert_memory_equal(piece + PG_PIECE_MAX, "\x7E\x7E\x7E\x7E\x7E\x7E\x7E\x7E", 8);
        struct bytes same = lossy(piece, len);
        assert_int_equal(same.n, len);
        assert_memory_equal(same.s, piece, len);
        free(same.s);
        bytes_add(&out, piece, len);
    }
    return out;
}

static inline void assert_bytes(struct bytes have, const char *want, size_t n_want)
{
    if (have.n != n_want || memcmp(have.s, want, n_want))
        fail_msg("have %zu bytes '%s', want %zu bytes '%s'", have.n, have.s, n_want, want);
}

/* The caller frees. */
static inline int32_t *ids_of(const pg_vocab *v, const char *text, size_t n_text, unsigned flags,
                              size_t *n)
{
    struct pg_err err = {0};
    size_t cap = 3 * n_text + 2;
    struct pg_ids ids = {.id = malloc(cap * sizeof(int32_t)), .cap = cap};
    assert_non_null(ids.id);
    must(pg_tokenize(v, text, n_text, flags, &ids, &err), &err);
    *n = ids.n;
    return ids.id;
}

#endif
