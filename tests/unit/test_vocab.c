/* SPDX-License-Identifier: MIT
 * Tokenizing and printing with real vocabularies, against the ids that the reference tokenizers
 * give. Vocabularies that may not be passed on are tested when PG_VOCAB_DIR names a folder with
 * ggml-vocab-NAME.gguf, .inp and .out files.
 */
#include "unit/vocab_check.h"

#include <dirent.h>
#include <pthread.h>

#define DATA PG_TEST_DATA "/vocab/"
#define MADE PG_VOCAB_MADE "/"

static const struct vectors {
    const char *vocab, *inp, *out;
    bool lossy; /* the text is normalised beyond recognition */
} vectors[] = {
    {MADE "gpt-2.gguf", DATA "common.inp", DATA "gpt-2.out", false},
    {MADE "qwen2.gguf", DATA "common.inp", DATA "qwen2.out", false},
    {MADE "qwen35.gguf", DATA "qwen35.inp", DATA "qwen35.out", false},
    {MADE "olmoe.gguf", DATA "common.inp", DATA "olmoe.out", false},
    {MADE "mixtral.gguf", DATA "spm.inp", DATA "mixtral.out", false},
    {MADE "t5.gguf", DATA "spm.inp", DATA "t5.out", true},
    {DATA "phi-3.gguf", DATA "common.inp", DATA "phi-3.out", false},
    {DATA "deepseek-llm.excerpt.gguf", DATA "common.inp", DATA "deepseek-llm.excerpt.gguf.out",
     false},
    {DATA "deepseek-coder.excerpt.gguf", DATA "common.inp", DATA "deepseek-coder.excerpt.gguf.out",
     false},
    {DATA "o200k.excerpt.gguf", DATA "common.inp", DATA "o200k.excerpt.gguf.out", false},
    {DATA "falcon.excerpt.gguf", DATA "common.inp", DATA "falcon.excerpt.gguf.out", false},
    {DATA "mpt.excerpt.gguf", DATA "common.inp", DATA "mpt.excerpt.gguf.out", false},
};

static pg_vocab *open_vocab(const char *path)
{
    struct pg_err err = {0};
    pg_vocab *v;
    must(pg_vocab_open(&v, path, &err), &err);
    return v;
}

/* One text of a vector file and the line of its ids. It must also print as what it was. */
static void check_vector(const pg_vocab *v, const struct vectors *t, struct bytes text,
                         const char *line)
{
    size_t n;
    int32_t *ids = ids_of(v, text.s, text.n, 0, &n);
    char *end;

    for (size_t i = 0; i < n; i++, line = end) {
        long want = strtol(line, &end, 10);
        if (end == line || memchr(line, '\n', (size_t)(end - line)) || want != ids[i])
            fail_msg("%s: '%.*s': id %zu of %zu is %d, wanted %ld", t->vocab, (int)text.n, text.s,
                     i, n, (int)ids[i], want);
    }
    line += strspn(line, " ");
    if (*line && *line != '\n')
        fail_msg("%s: '%.*s': %zu ids, wanted more", t->vocab, (int)text.n, text.s, n);
    struct bytes back = printed(v, ids, n);
    if (!t->lossy)
        assert_bytes(back, text.s, text.n);
    free(back.s);
    free(ids);
}

static int check_vectors(const struct vectors *t)
{
    static const char between[] = "\n__ggml_vocab_test__\n";
    pg_vocab *v = open_vocab(t->vocab);
    struct bytes inp = file_bytes(t->inp), out = file_bytes(t->out);
    const char *at = inp.s, *line = out.s, *end = inp.s + inp.n;
    int n = 0;

    assert_non_null(inp.s);
    assert_non_null(out.s);
    while (*line) {
        const char *next = memmem(at, (size_t)(end - at), between, sizeof(between) - 1);
        struct bytes text = {(char *)at, (size_t)((next ? next : end) - at), 0};
        check_vector(v, t, text, line);
        n++;
        line += strcspn(line, "\n");
        line += *line == '\n';
        if (!next)
            break;
        at = next + sizeof(between) - 1;
    }
    free(inp.s);
    free(out.s);
    pg_vocab_close(v);
    return n;
}

static void test_vectors(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(vectors) / sizeof(*vectors); i++)
        assert_true(check_vectors(&vectors[i]) >= 46);
}

static void test_own_vectors(void **state)
{
    DIR *dir = opendir(PG_VOCAB_DIR);
    char path[3][1024];
    int n = 0;

    (void)state;
    if (!dir)
        skip_because("further vocabularies; PG_VOCAB_DIR names no folder");
    for (struct dirent *e; (e = readdir(dir));) {
        size_t len = strlen(e->d_name);
        if (strncmp(e->d_name, "ggml-vocab-", 11) || strcmp(e->d_name + len - 5, ".gguf"))
            continue;
        for (int i = 0; i < 3; i++)
            snprintf(path[i], sizeof(path[i]), "%s/%s%s", PG_VOCAB_DIR, e->d_name,
                     (const char *[]){"", ".inp", ".out"}[i]);
        FILE *f = fopen(path[2], "rb");
        if (!f)
            continue;
        fclose(f);
        check_vectors(&(struct vectors){path[0], path[1], path[2], false});
        print_message("%s passes\n", e->d_name);
        n++;
    }
    closedir(dir);
    assert_true(n > 0);
}

/* ---- special tokens ---- */

static void assert_ids(const pg_vocab *v, const char *text, unsigned flags, size_t n_want,
                       const int32_t *want)
{
    size_t n;
    int32_t *ids = ids_of(v, text, strlen(text), flags, &n);
    if (n != n_want || (n && memcmp(ids, want, n * sizeof(*ids))))
        fail_msg("'%s': %zu ids, first %d, wanted %zu", text, n, n ? (int)ids[0] : -1, n_want);
    free(ids);
}

#define IDS(...)                                                                                   \
    sizeof((int32_t[]){__VA_ARGS__}) / sizeof(int32_t), (const int32_t[])                          \
    {                                                                                              \
        __VA_ARGS__                                                                                \
    }

static void test_special_gpt2(void **state)
{
    pg_vocab *v = open_vocab(MADE "qwen2.gguf");
    size_t n;
    int32_t *ids;

    (void)state;
    /* A control token in the text is text, whatever it looks like. */
    ids = ids_of(v, "<|im_start|>user", 16, 0, &n);
    assert_true(n > 2);
    for (size_t i = 0; i < n; i++)
        assert_true(ids[i] < 151643);
    struct bytes back = printed(v, ids, n);
    assert_bytes(back, "<|im_start|>user", 16);
    free(back.s);
    free(ids);
    assert_ids(v, "<|im_start|>user", PG_TOKENIZE_SPECIAL, IDS(151644, 872));
    assert_ids(v, "<|im_end|><|im_end|>", PG_TOKENIZE_SPECIAL, IDS(151645, 151645));
    /* A user-defined one is found always. */
    assert_ids(v, "user<tool_call>", 0, IDS(872, 151657));
    assert_ids(v, "<tool_call", 0, IDS(27, 14172, 13429));
    /* Unless it is markup in all but its type. */
    assert_ids(v, "<|file_sep|>", 0, IDS(27, 91, 1192, 54775, 91, 29));
    assert_ids(v, "<|file_sep|>", PG_TOKENIZE_SPECIAL, IDS(151664));
    /* This model wants no token in front. */
    assert_ids(v, "user", PG_TOKENIZE_BOS, IDS(872));
    assert_int_equal(pg_vocab_bos(v), 151643);
    assert_int_equal(pg_vocab_eos(v), 151645);
    assert_true(pg_vocab_is_end(v, 151645));
    assert_true(pg_vocab_is_end(v, 151643));
    assert_false(pg_vocab_is_end(v, 151644));
    assert_false(pg_vocab_is_end(v, -1));
    assert_int_equal(pg_vocab_n(v), 151669);
    assert_true(pg_vocab_heap_bytes(v) > 2 << 20 && pg_vocab_heap_bytes(v) < 8 << 20);
    /* Control tokens print nothing, user-defined ones themselves. */
    back = printed(v, (const int32_t[]){151644, 872, 151657, 151645, 151669, -7, INT32_MAX}, 7);
    assert_bytes(back, "user<tool_call>", 15);
    free(back.s);
    pg_vocab_close(v);
}

static void test_special_llama(void **state)
{
    pg_vocab *v = open_vocab(MADE "mixtral.gguf");

    (void)state;
    assert_ids(v, "Hello", 0, IDS(22557));
    assert_ids(v, "Hello", PG_TOKENIZE_BOS, IDS(1, 22557));
    assert_ids(v, "<s>Hello</s>", PG_TOKENIZE_SPECIAL, IDS(1, 22557, 2));
    assert_ids(v, "<s>", 0, IDS(523, 28713, 28767));
    assert_int_equal(pg_vocab_bos(v), 1);
    assert_int_equal(pg_vocab_eos(v), 2);
    assert_true(pg_vocab_is_end(v, 2));
    /* Bytes without a piece, joined to characters again; the space in front is dropped once. */
    struct bytes back = printed(v,
                                (const int32_t[]){1, 22557, 22557, 3 + 0xF0, 3 + 0x9F, 1, 3 + 0x98,
                                                  3 + 0x8A, 3 + 0xE2, 3 + 0x96},
                                10);
    assert_bytes(back, "Hello Hello\xF0\x9F\x98\x8A\xEF\xBF\xBD", 18);
    free(back.s);
    pg_vocab_close(v);
}

/* Normalised: compatibility characters, and spaces, of which the outer ones go. */
static void test_t5(void **state)
{
    pg_vocab *v = open_vocab(MADE "t5.gguf");
    (void)state;
    assert_ids(v, "That is good", 0, IDS(466, 19, 207));
    assert_ids(v, "  \xEF\xBC\xB4hat\t is  good \n", 0, IDS(466, 19, 207));
    assert_ids(v, " \n ", 0, 0, NULL);
    assert_ids(v, "\xE6\x97\xA5\xE6\x9C\xAC", 0, IDS(3, 2)); /* unknown neighbours are one */
    assert_ids(v, "</s>", PG_TOKENIZE_SPECIAL, IDS(1));
    assert_true(pg_vocab_is_end(v, 1));
    assert_int_equal(pg_vocab_bos(v), -1);
    struct bytes text = printed(v, (const int32_t[]){466, 19, 207, 1}, 4);
    assert_bytes(text, "That is good", 12);
    free(text.s);
    pg_vocab_close(v);
}

/* OLMoE has tokens of 2 to 24 spaces beside the merges: the longest is taken, from the left. */
static void test_longest_first(void **state)
{
    pg_vocab *v = open_vocab(MADE "olmoe.gguf");
    (void)state;
    assert_ids(v, "                              ", 0, IDS(50254, 50272)); /* 24 + 6 of 30 */
    assert_ids(v, "   a", 0, IDS(50275, 66));
    pg_vocab_close(v);
}

static void test_small_room(void **state)
{
    pg_vocab *v = open_vocab(DATA "phi-3.gguf");
    struct pg_err err;
    int32_t ids[3] = {-5, -5, -5};
    struct pg_ids out = {ids, 2, 0}, none = {NULL, 0, 0};

    (void)state;
    assert_int_equal(pg_tokenize(v, "one two three", 13, 0, &out, &err), PG_EARG);
    assert_int_equal(out.n, 3);
    assert_int_equal(ids[2], -5);
    assert_int_equal(pg_tokenize(v, "one two three", 13, 0, &none, NULL), PG_EARG);
    assert_int_equal(none.n, 3);
    out.cap = 3;
    assert_int_equal(pg_tokenize(v, "one two three", 13, 0, &out, &err), 0);
    assert_int_equal(pg_tokenize(v, NULL, 0, 0, &none, &err), 0);
    assert_int_equal(none.n, 0);
    pg_vocab_close(v);
}

/* ---- any bytes, any ids ---- */

static uint32_t rng(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33);
}

static void test_any_bytes(void **state)
{
    static const char *const paths[] = {MADE "gpt-2.gguf", MADE "mixtral.gguf"};
    uint64_t seed = 7;

    (void)state;
    for (int p = 0; p < 2; p++) {
        pg_vocab *v = open_vocab(paths[p]);
        for (int round = 0; round < 500; round++) {
            char text[64];
            size_t n_text = rng(&seed) % sizeof(text), n;
            for (size_t i = 0; i < n_text; i++)
                text[i] = (char)(rng(&seed) % 4 ? 0x80 + rng(&seed) % 0x80 : rng(&seed) % 0x80);
            int32_t *ids = ids_of(v, text, n_text, 0, &n);
            struct bytes want = lossy(text, n_text), back = printed(v, ids, n);
            assert_bytes(back, want.s, want.n);
            free(want.s);
            free(back.s);
            free(ids);
        }
        pg_vocab_close(v);
    }
}

/* What a piece prints, from the file's arrays and the rules as the formats describe them. */
static void add_piece(struct bytes *out, const struct pg_gguf *g, int32_t id, bool llama)
{
    struct pg_str s = pg_gguf_string_at(g, pg_gguf_find(g, "tokenizer.ggml.tokens"), (uint64_t)id);
    const char *types = pg_gguf_find(g, "tokenizer.ggml.token_type")->data;
    int32_t type;
    unsigned value;

    memcpy(&type, types + (size_t)id * sizeof(type), sizeof(type));
    if (type == 2 || type == 3 || type == 5)
        return;
    if (type == 6 && sscanf(s.s, "<0x%2X>", &value) == 1) {
        bytes_add(out, &(char){(char)value}, 1);
        return;
    }
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.s[i];
        if (type == 4 || (c < 0x80 && c > 0x20)) {
            bytes_add(out, s.s + i, 1);
        } else if (llama && s.n - i >= 3 && !memcmp(s.s + i, "\xE2\x96\x81", 3)) {
            bytes_add(out, " ", 1);
            i += 2;
        } else if (llama) {
            bytes_add(out, s.s + i, 1);
        } else {
            unsigned cp = (c & 0x1Fu) << 6 | ((unsigned char)s.s[++i] & 0x3Fu), left = 0;
            for (unsigned b = 0; cp >= 0x100 && b < 0x100; b++) {
                bool prints = (b > 0x20 && b < 0x7F) || (b > 0xA0 && b != 0xAD);
                if (!prints && 0x100 + left++ == cp)
                    cp = b;
            }
            assert_true(cp < 0x100);
            bytes_add(out, &(char){(char)cp}, 1);
        }
    }
}

static void test_any_ids(void **state)
{
    static const char *const paths[] = {MADE "qwen2.gguf", MADE "gpt-2.gguf", MADE "mixtral.gguf"};
    /* Above are user-defined tokens that are taken for markup. */
    static const unsigned n_ids[] = {151659, 50257, 32000};
    uint64_t seed = 11;

    (void)state;
    for (int p = 0; p < 3; p++) {
        pg_vocab *v = open_vocab(paths[p]);
        struct pg_gguf *g;
        assert_int_equal(pg_gguf_open(&g, paths[p], NULL), 0);
        for (int round = 0; round < 300; round++) {
            struct bytes joined = {0};
            int32_t ids[40];
            bytes_add(&joined, "", 0);
            for (int i = 0; i < 40; i++) {
                /* Half of them single bytes, which is where characters are cut. */
                ids[i] = (int32_t)(rng(&seed) % 2 ? rng(&seed) % 259 : rng(&seed) % n_ids[p]);
                add_piece(&joined, g, ids[i], p == 2);
            }
            size_t skip = p == 2 && joined.n && joined.s[0] == ' ';
            struct bytes want = lossy(joined.s + skip, joined.n - skip), have = printed(v, ids, 40);
            assert_bytes(have, want.s, want.n);
            free(joined.s);
            free(want.s);
            free(have.s);
        }
        pg_gguf_close(g);
        pg_vocab_close(v);
    }
}

/* ---- large text ---- */

static void check_repeated(const pg_vocab *v, const char *unit, size_t n_text)
{
    size_t n_unit = strlen(unit), n;
    char *text = malloc(n_text + n_unit);
    assert_non_null(text);
    size_t len = 0;
    for (; len < n_text; len += n_unit)
        memcpy(text + len, unit, n_unit);
    int32_t *ids = ids_of(v, text, len, 0, &n);
    struct bytes back = printed(v, ids, n);
    if (back.n != len || memcmp(back.s, text, len))
        fail_msg("%zu bytes of '%s' come back as %zu", len, unit, back.n);
    free(back.s);
    free(ids);
    free(text);
}

static void test_long_runs(void **state)
{
    static const char *const units[] = {
        "a",        "A",  " ",        "\n", "7", "'", "\t \r\n ", "ab", "\xE4\xB8\x80",
        "\xCC\x81", "x ", "\xC2\x85",
    };
    static const char *const paths[] = {MADE "gpt-2.gguf", DATA "o200k.excerpt.gguf",
                                        DATA "deepseek-llm.excerpt.gguf", MADE "mixtral.gguf"};
    (void)state;
    for (int p = 0; p < 4; p++) {
        pg_vocab *v = open_vocab(paths[p]);
        for (size_t i = 0; i < sizeof(units) / sizeof(*units); i++)
            check_repeated(v, units[i], 30000);
        check_repeated(v, "a", 200000);
        check_repeated(v, "The quick brown fox, 12345 times. ", 300000);
        pg_vocab_close(v);
    }
}

/* ---- threads ---- */

static void *tokenize_again(void *vocab)
{
    static const char text[] = "Many threads, one vocabulary: \xE4\xBD\xA0\xE5\xA5\xBD 2024!\n";
    size_t n, n_first;
    int32_t *first = ids_of(vocab, text, sizeof(text) - 1, 0, &n_first);
    for (int i = 0; i < 200; i++) {
        int32_t *ids = ids_of(vocab, text, sizeof(text) - 1, 0, &n);
        assert_int_equal(n, n_first);
        assert_memory_equal(ids, first, n * sizeof(*ids));
        free(ids);
    }
    free(first);
    return NULL;
}

static void test_threads(void **state)
{
    static const char *const paths[] = {MADE "gpt-2.gguf", DATA "phi-3.gguf"};
    (void)state;
    for (int p = 0; p < 2; p++) {
        pthread_t t[4];
        pg_vocab *v = open_vocab(paths[p]);
        for (int i = 0; i < 4; i++)
            assert_int_equal(pthread_create(&t[i], NULL, tokenize_again, v), 0);
        for (int i = 0; i < 4; i++)
            pthread_join(t[i], NULL);
        pg_vocab_close(v);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors),      cmocka_unit_test(test_own_vectors),
        cmocka_unit_test(test_special_gpt2), cmocka_unit_test(test_special_llama),
        cmocka_unit_test(test_t5),           cmocka_unit_test(test_longest_first),
        cmocka_unit_test(test_small_room),   cmocka_unit_test(test_any_bytes),
        cmocka_unit_test(test_any_ids),      cmocka_unit_test(test_long_runs),
        cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
