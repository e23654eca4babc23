/* SPDX-License-Identifier: MIT
 * For test_grammar.py: fields on standard input, each followed by a 0, answered on standard output
 * in the same way. VOCAB is a GGUF file.
 *
 *   grammar_walk VOCAB texts N SEED   each schema: N random texts that its grammar lets be written
 *   grammar_walk VOCAB takes          each schema and text: 1 if the grammar takes the text, or 0
 *   grammar_walk VOCAB gbnf           each schema: its grammar
 *
 * A schema that is refused is answered by "!" and the sentence, once.
 */
#include "base/random.h"

#include "pregate.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TOKENS_MAX = 3000, CALM = 40 };

static pg_vocab *vocab;
static uint64_t seed;
static uint32_t *bits;

static void answer(const char *text, size_t n)
{
    fwrite(text, 1, n, stdout);
    putchar('\0');
}

static bool allowed(int32_t id)
{
    return bits[id / 32] >> (id % 32) & 1;
}

static int32_t any_allowed(void)
{
    int32_t chosen = -1;
    uint32_t n = 0;
    for (int32_t id = 0; id < pg_vocab_n(vocab); id++)
        if (allowed(id) && (uint32_t)(pg_random_next(&seed) >> 33) % ++n == 0)
            chosen = id;
    return chosen;
}

/* A quote if there may be one, else one of the bytes that structure is made of; -1 if none. */
static int32_t calm_allowed(void)
{
    static const char bytes[] = "\"}]0a:,b";
    size_t from = pg_random_next(&seed) % 7;
    for (size_t i = 0; i < sizeof(bytes) - 1; i++) {
        size_t at = i ? 1 + (from + i) % 7 : 0;
        int32_t id[8];
        struct pg_ids ids = {id, 8, 0};
        if (!pg_tokenize(vocab, bytes + at, 1, 0, &ids, NULL) && ids.n && allowed(id[ids.n - 1]))
            return id[ids.n - 1];
    }
    return -1;
}

static int32_t choose(const pg_matcher *m, int step)
{
    bool calm = step > CALM || pg_random_next(&seed) % 4 == 0;
    if (pg_matcher_must_end(m) || (calm && pg_matcher_may_end(m)))
        return -1;
    int32_t id = calm ? calm_allowed() : -1;
    while (id < 0 || pg_vocab_is_end(vocab, id))
        id = any_allowed();
    return id;
}

/* Writes one text; what it is comes from the detokenizer. */
static int write_text(pg_matcher *m, struct pg_err *err)
{
    struct pg_detok d = {.vocab = vocab};
    char piece[PG_PIECE_MAX];
    for (int step = 0; step < TOKENS_MAX; step++) {
        int rc = pg_matcher_must_end(m) ? 0 : pg_matcher_mask(m, bits, err);
        if (rc)
            return rc;
        int32_t id = choose(m, step);
        if (id < 0) {
            answer(piece, pg_detokenize(&d, -1, piece));
            return 0;
        }
        if ((rc = pg_matcher_accept(m, id, err)))
            return rc;
        fwrite(piece, 1, pg_detokenize(&d, id, piece), stdout);
    }
    answer("<no end>", 8);
    return 0;
}

static int write_texts(const pg_grammar *g, int n, struct pg_err *err)
{
    pg_matcher *m;
    int rc = pg_matcher_open(&m, g, vocab, err);
    for (int i = 0; i < n && !rc; i++) {
        rc = write_text(m, err);
        if (!rc)
            pg_matcher_reset(m);
    }
    pg_matcher_close(m);
    return rc;
}

static int take_text(const pg_grammar *g, const char *text, struct pg_err *err)
{
    size_t cap = 3 * strlen(text) + 8;
    int32_t *id = calloc(cap, sizeof(*id));
    struct pg_ids ids = {id, cap, 0};
    pg_matcher *m = NULL;
    int rc = id ? pg_matcher_open(&m, g, vocab, err) : PG_ENOMEM;
    rc = rc ? rc : pg_tokenize(vocab, text, strlen(text), 0, &ids, err);
    bool takes = !rc;
    for (size_t i = 0; takes && i < ids.n; i++)
        takes = pg_matcher_accept(m, id[i], err) == 0;
    takes = takes && pg_matcher_may_end(m);
    pg_matcher_close(m);
    free(id);
    if (!rc)
        answer(takes ? "1" : "0", 1);
    return rc;
}

static int answer_schema(char **argv, const char *schema, const char *text, struct pg_err *err)
{
    pg_grammar *g;
    int rc = pg_grammar_of_schema(&g, schema, strlen(schema), err);
    if (rc)
        return rc;
    if (!strcmp(argv[2], "texts"))
        rc = write_texts(g, atoi(argv[3]), err);
    else if (!strcmp(argv[2], "takes"))
        rc = take_text(g, text, err);
    else
        answer(pg_grammar_text(g), strlen(pg_grammar_text(g)));
    pg_grammar_close(g);
    return rc;
}

int main(int argc, char **argv)
{
    char *field[2] = {NULL, NULL};
    size_t cap[2] = {0, 0};
    struct pg_err err;
    if (argc < 3 || (!strcmp(argv[2], "texts") && argc < 5) || pg_vocab_open(&vocab, argv[1], &err))
        return 2;
    seed = argc > 4 ? strtoull(argv[4], NULL, 10) : 1;
    bits = calloc((size_t)pg_vocab_n(vocab) / 32 + 1, sizeof(*bits));
    bool two = !strcmp(argv[2], "takes");
    while (bits && getdelim(&field[0], &cap[0], '\0', stdin) > 0 &&
           (!two || getdelim(&field[1], &cap[1], '\0', stdin) > 0)) {
        if (answer_schema(argv, field[0], field[1], &err)) {
            putchar('!');
            answer(err.text, strlen(err.text));
        }
    }
    free(field[0]);
    free(field[1]);
    free(bits);
    pg_vocab_close(vocab);
    return fflush(stdout) != 0;
}
