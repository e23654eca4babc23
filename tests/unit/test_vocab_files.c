/* SPDX-License-Identifier: MIT
 * Vocabularies that somebody made wrong or made to harm: each is refused with a sentence that names
 * the key and the value, or does what is written here.
 */
#include "unit/vocab_check.h"

#include <math.h>
#include <unistd.h>

#define MAX_TOKENS 300
#define PATH       "test_vocab_files.gguf"

/* A vocabulary to spoil. Arrays that are NULL are not written. */
struct plan {
    const char *model, *pre;
    struct pg_str token[MAX_TOKENS];
    int32_t type[MAX_TOKENS];
    float score[MAX_TOKENS];
    uint64_t n_token, n_type, n_score;
    struct pg_str merge[8];
    uint64_t n_merge;
    bool no_merges;
    uint32_t bos, eos;
    char byte_text[256][8];
};

static void add_token(struct plan *p, const char *s, size_t n, int32_t type, float score)
{
    assert_true(p->n_token < MAX_TOKENS);
    p->token[p->n_token] = (struct pg_str){s, n};
    p->type[p->n_token] = type;
    p->score[p->n_token] = score;
    p->n_type = p->n_score = ++p->n_token;
}

static void add(struct plan *p, const char *s, int32_t type, float score)
{
    add_token(p, s, strlen(s), type, score);
}

static void add_merge(struct plan *p, const char *s)
{
    p->merge[p->n_merge++] = (struct pg_str){s, strlen(s)};
}

/* <unk> <s> </s>, then the bytes at 3, then pieces at 259. */
static struct plan *plan_llama(void)
{
    struct plan *p = calloc(1, sizeof(*p));
    assert_non_null(p);
    p->model = "llama";
    p->pre = "default";
    p->bos = 1;
    p->eos = 2;
    add(p, "<unk>", 2, 0);
    add(p, "<s>", 3, 0);
    add(p, "</s>", 3, 0);
    for (int b = 0; b < 256; b++) {
        snprintf(p->byte_text[b], sizeof(p->byte_text[b]), "<0x%02X>", b);
        add(p, p->byte_text[b], 6, 0);
    }
    add(p, "\xE2\x96\x81", 1, -1);
    add(p, "a", 1, -2);
    add(p, "b", 1, -3);
    add(p, "ab", 1, -4);
    return p;
}

/* The ASCII letters, and pieces of a and b; "ab" is 52. */
static struct plan *plan_gpt2(void)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    struct plan *p = calloc(1, sizeof(*p));
    assert_non_null(p);
    p->model = "gpt2";
    p->pre = "gpt-2";
    p->bos = p->eos = 54;
    for (int i = 0; i < 52; i++)
        add_token(p, letters + i, 1, 1, 0);
    add(p, "ab", 1, 0);
    add(p, "abc", 1, 0);
    add(p, "<|endoftext|>", 3, 0);
    add_merge(p, "a b");
    add_merge(p, "ab c");
    return p;
}

static void write_plan(const struct plan *p)
{
    struct pg_gguf_writer *w;
    assert_int_equal(pg_gguf_writer_open(&w, PATH, NULL), 0);
    if (p->model)
        assert_int_equal(pg_gguf_writer_str(w, "tokenizer.ggml.model", p->model, NULL), 0);
    if (p->pre)
        assert_int_equal(pg_gguf_writer_str(w, "tokenizer.ggml.pre", p->pre, NULL), 0);
    if (p->n_token)
        assert_int_equal(
            pg_gguf_writer_strs(w, "tokenizer.ggml.tokens", p->token, p->n_token, NULL), 0);
    if (p->n_type)
        assert_int_equal(
            pg_gguf_writer_i32s(w, "tokenizer.ggml.token_type", p->type, p->n_type, NULL), 0);
    if (p->n_score)
        assert_int_equal(
            pg_gguf_writer_f32s(w, "tokenizer.ggml.scores", p->score, p->n_score, NULL), 0);
    if (!p->no_merges)
        assert_int_equal(
            pg_gguf_writer_strs(w, "tokenizer.ggml.merges", p->merge, p->n_merge, NULL), 0);
    assert_int_equal(pg_gguf_writer_u32(w, "tokenizer.ggml.bos_token_id", p->bos, NULL), 0);
    assert_int_equal(pg_gguf_writer_u32(w, "tokenizer.ggml.eos_token_id", p->eos, NULL), 0);
    assert_int_equal(pg_gguf_writer_commit(w, NULL), 0);
}

/* Writes the plan, frees it, and opens what it made. */
static int open_plan(struct plan *p, pg_vocab **v, struct pg_err *err)
{
    write_plan(p);
    free(p);
    int rc = pg_vocab_open(v, PATH, err);
    unlink(PATH);
    return rc;
}

static pg_vocab *good(struct plan *p)
{
    struct pg_err err = {0};
    pg_vocab *v;
    must(open_plan(p, &v, &err), &err);
    return v;
}

/* Refused, and the sentence has both words. */
static void bad(struct plan *p, int code, const char *key, const char *value)
{
    struct pg_err err = {0};
    pg_vocab *v;
    int rc = open_plan(p, &v, &err);
    if (rc != code || v || !strstr(err.text, key) || !strstr(err.text, value))
        fail_msg("code %d (wanted %d): '%s', wanted '%s' and '%s'", rc, code, err.text, key, value);
}

static void assert_ids(const pg_vocab *v, const char *text, size_t n_text, unsigned flags,
                       size_t n_want, const int32_t *want)
{
    size_t n;
    int32_t *ids = ids_of(v, text, n_text, flags, &n);
    if (n != n_want || (n && memcmp(ids, want, n * sizeof(*ids))))
        fail_msg("'%.*s': %zu ids, first %d, wanted %zu", (int)n_text, text, n,
                 n ? (int)ids[0] : -1, n_want);
    free(ids);
}

#define TEXT(s) (s), sizeof(s) - 1
#define IDS(...)                                                                                   \
    sizeof((int32_t[]){__VA_ARGS__}) / sizeof(int32_t), (const int32_t[])                          \
    {                                                                                              \
        __VA_ARGS__                                                                                \
    }

/* The plans are good before they are spoiled. */
static void test_good(void **state)
{
    pg_vocab *v = good(plan_llama());
    (void)state;
    assert_ids(v, TEXT("ab b"), 0, IDS(259, 262, 259, 261));
    assert_ids(v, TEXT("a"), PG_TOKENIZE_BOS, IDS(1, 259, 260));
    assert_ids(v, TEXT("x\xC3\xA9"), 0, IDS(259, 3 + 'x', 3 + 0xC3, 3 + 0xA9));
    pg_vocab_close(v);
    v = good(plan_gpt2());
    assert_ids(v, TEXT("abcab"), 0, IDS(53, 52));
    pg_vocab_close(v);
    pg_vocab_close(NULL);
}

static struct plan *with_lengths(struct plan *p, uint64_t n_type, uint64_t n_score)
{
    p->n_type = n_type;
    p->n_score = n_score;
    return p;
}

static void test_lengths(void **state)
{
    (void)state;
    bad(with_lengths(plan_llama(), 262, 263), PG_EFORMAT, "tokenizer.ggml.token_type", "262");
    bad(with_lengths(plan_llama(), 264, 263), PG_EFORMAT, "tokenizer.ggml.token_type", "264");
    bad(with_lengths(plan_llama(), 263, 1), PG_EFORMAT, "tokenizer.ggml.scores", "1 ");
    bad(with_lengths(plan_llama(), 263, 0), PG_EFORMAT, "tokenizer.ggml.scores", "missing");
    struct plan *p = plan_llama();
    p->n_token = 0;
    bad(p, PG_EFORMAT, "tokenizer.ggml.tokens", "missing");
    p = plan_gpt2();
    p->no_merges = true;
    bad(p, PG_EFORMAT, "tokenizer.ggml.merges", "missing");
    /* Types may be missing: bytes are known by their spelling. */
    pg_vocab *v = good(with_lengths(plan_llama(), 0, 263));
    assert_ids(v, TEXT("abx"), 0, IDS(259, 262, 3 + 'x'));
    pg_vocab_close(v);
}

static void test_values(void **state)
{
    struct plan *p;
    (void)state;
    p = plan_llama();
    p->type[261] = 9;
    bad(p, PG_EFORMAT, "tokenizer.ggml.token_type[261]", "9");
    p = plan_llama();
    p->type[261] = -1;
    bad(p, PG_EFORMAT, "tokenizer.ggml.token_type[261]", "-1");
    p = plan_llama();
    p->score[260] = NAN;
    bad(p, PG_EFORMAT, "tokenizer.ggml.scores[260]", "nan");
    p = plan_llama();
    p->score[260] = -INFINITY;
    bad(p, PG_EFORMAT, "tokenizer.ggml.scores[260]", "inf");
    p = plan_llama();
    p->eos = 263;
    bad(p, PG_EFORMAT, "tokenizer.ggml.eos_token_id", "263");
    p = plan_gpt2();
    p->bos = 0x7FFFFFFF;
    bad(p, PG_EFORMAT, "tokenizer.ggml.bos_token_id", "2147483647");
    p = plan_gpt2();
    p->bos = UINT32_MAX; /* how some files say that there is none */
    pg_vocab *v = good(p);
    assert_int_equal(pg_vocab_bos(v), -1);
    pg_vocab_close(v);
}

static void test_labels(void **state)
{
    struct plan *p = plan_gpt2();
    (void)state;
    p->pre = "gpt-9";
    bad(p, PG_ENOTSUP, "'gpt-9'", "qwen2");
    p = plan_gpt2();
    p->model = "bert";
    bad(p, PG_ENOTSUP, "'bert'", "llama");
    p = plan_gpt2();
    p->model = "none";
    bad(p, PG_ENOTSUP, PATH, "no vocabulary");
    p = plan_gpt2();
    p->model = NULL;
    bad(p, PG_ENOTSUP, PATH, "no vocabulary");
    p = plan_gpt2();
    p->pre = NULL;
    pg_vocab_close(good(p));
}

/* Each label's patterns compile and lose nothing; of the rule that files without a label have,
 * which no reference has vectors for, the splitting of numbers. */
static void test_every_label(void **state)
{
    static const char *const labels[] = {
        "default",    "gpt-2",        "phi-2",          "mpt",         "olmo",
        "starcoder",  "refact",       "command-r",      "smollm",      "codeshell",
        "falcon",     "llama3",       "llama-v3",       "llama-bpe",   "dbrx",
        "smaug-bpe",  "glm4",         "chatglm-bpe",    "qwen2",       "deepseek-r1-qwen",
        "qwen35",     "stablelm2",    "hunyuan",        "grok-2",      "seed-coder",
        "bailingmoe", "bailingmoe2",  "llada-moe",      "gpt-4o",      "llama4",
        "tekken",     "deepseek-llm", "deepseek-coder", "deepseek-v3",
    };
    static const char text[] = "IT'Sabcab ab x yZ abAB  ab\n\n 1234567 ab";
    (void)state;
    for (size_t i = 0; i < sizeof(labels) / sizeof(*labels); i++) {
        struct plan *p = plan_gpt2();
        size_t n;
        p->pre = labels[i];
        for (const char *c = "'1234567"; *c; c++)
            add_token(p, c, 1, 1, 0);
        add(p, "\xC4\xA0", 1, 0); /* the space */
        add(p, "\xC4\x8A", 1, 0); /* the new line */
        add(p, "12", 1, 0);
        add(p, "34", 1, 0);
        add(p, "123", 1, 0); /* 67 */
        add(p, "1234", 1, 0);
        add_merge(p, "1 2");
        add_merge(p, "12 3");
        add_merge(p, "3 4");
        add_merge(p, "123 4");
        pg_vocab *v = good(p);
        int32_t *ids = ids_of(v, text, sizeof(text) - 1, 0, &n);
        struct bytes back = printed(v, ids, n);
        assert_bytes(back, text, sizeof(text) - 1);
        free(back.s);
        free(ids);
        if (!strcmp(labels[i], "default") || !strcmp(labels[i], "llama3"))
            assert_ids(v, TEXT("1234"), 0, IDS(67, 59));
        if (!strcmp(labels[i], "gpt-2"))
            assert_ids(v, TEXT("1234"), 0, IDS(68));
        if (!strcmp(labels[i], "qwen2"))
            assert_ids(v, TEXT("1234"), 0, IDS(56, 57, 58, 59));
        pg_vocab_close(v);
    }
}

static void test_byte_tokens(void **state)
{
    static const char *const wrong[] = {"<0x-1>", "<0xZZ>", "<0x100>", "<0x1>",  "<0x 1>",
                                        "0x41",   "",       "<0x41",   "<0X41>", "A"};
    (void)state;
    for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
        struct plan *p = plan_llama();
        add(p, wrong[i], 6, 0);
        bad(p, PG_EFORMAT, "tokenizer.ggml.tokens[263]", wrong[i]);
    }
    struct plan *p = plan_llama();
    add(p, "<0x0a>", 6, 0); /* said before, as <0x0A>: the first counts */
    pg_vocab *v = good(p);
    assert_ids(v, TEXT("\n"), 0, IDS(259, 3 + 10));
    struct bytes text = printed(v, (const int32_t[]){263}, 1);
    assert_bytes(text, "\n", 1);
    free(text.s);
    pg_vocab_close(v);
}

static void test_merges(void **state)
{
    static const char *const wrong[] = {"ab", "", " ", "a", "a ", " b"};
    static const char *const useless[] = {"x yzzy", "yzzy x", "x y", "a  "};
    (void)state;
    for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
        struct plan *p = plan_gpt2();
        add_merge(p, wrong[i]);
        bad(p, PG_EFORMAT, "tokenizer.ggml.merges[2]", wrong[i]);
    }
    struct plan *p = plan_gpt2();
    char *many = malloc(5000);
    assert_non_null(many);
    memset(many, 'a', 4999);
    many[4999] = 0;
    many[2000] = ' ';
    add_merge(p, many);
    bad(p, PG_EFORMAT, "tokenizer.ggml.merges[2]", "4999");
    free(many);
    p = plan_gpt2();
    /* What no text of this vocabulary can use is passed over. */
    for (size_t i = 0; i < sizeof(useless) / sizeof(*useless); i++)
        add_merge(p, useless[i]);
    /* Of a merge that is listed twice the first rank counts, so that "b c" comes too late. */
    add(p, "bc", 1, 0);
    add_merge(p, "b c");
    add_merge(p, "a b");
    pg_vocab *v = good(p);
    assert_ids(v, TEXT("xy"), 0, IDS(23, 24));
    assert_ids(v, TEXT("abc"), 0, IDS(53));
    pg_vocab_close(v);
}

static void test_odd_tokens(void **state)
{
    struct plan *p = plan_llama();
    (void)state;
    add(p, "", 1, 0);          /* 263: no text makes it, and it prints nothing */
    add(p, "", 4, 0);          /* 264 */
    add(p, "ab", 1, 0);        /* 265: 262 is the same and comes first */
    add(p, "a\xE2\x96", 1, 0); /* 266: half a character */
    add(p, "\xFF", 4, 0);      /* 267: user-defined, no character at all */
    add(p, "unused", 5, 0);    /* 268 */
    add(p, "<s>", 4, 0);       /* 269: a control token's text, user-defined: found as 1 or 269 */
    pg_vocab *v = good(p);
    assert_ids(v, TEXT("ab"), 0, IDS(259, 262));
    assert_ids(v, TEXT("\xFF"), 0, IDS(267));
    assert_ids(v, TEXT("<s>"), 0, IDS(269));
    assert_ids(v, TEXT("<s>"), PG_TOKENIZE_SPECIAL, IDS(1));
    struct bytes text = printed(v, (const int32_t[]){263, 264, 265, 266, 267, 268, 269}, 7);
    assert_bytes(text, TEXT("aba\xEF\xBF\xBD\xEF\xBF\xBD<s>"));
    free(text.s);
    pg_vocab_close(v);
}

static void test_gpt2_odd_tokens(void **state)
{
    struct plan *p = plan_gpt2();
    (void)state;
    add(p, "\xE6\x97\xA5", 1, 0); /* 55: not spelled in the alphabet; it prints as it is */
    add(p, "\xFF", 1, 0);         /* 56 */
    add(p, "\xC4\xA0", 1, 0);     /* 57: the space */
    pg_vocab *v = good(p);
    assert_ids(v, TEXT("ab ab"), 0, IDS(52, 57, 52));
    assert_ids(v, TEXT("\xE6\x97\xA5"), 0, 0, NULL); /* no tokens for these bytes */
    struct bytes text = printed(v, (const int32_t[]){55, 56, 57, 54, 52}, 5);
    assert_bytes(text, TEXT("\xE6\x97\xA5\xEF\xBF\xBD ab"));
    free(text.s);
    pg_vocab_close(v);
}

/* The longest piece that can be printed in PG_PIECE_MAX, and one byte more. */
static void test_huge_tokens(void **state)
{
    static char text[PG_PIECE_MAX];
    struct plan *p = plan_llama();
    int32_t ids[2] = {3 + 0xF0, 263};

    (void)state;
    memset(text, 'x', sizeof(text));
    add_token(p, text, PG_PIECE_MAX - 8, 1, 0);
    bad(p, PG_EFORMAT, "tokenizer.ggml.tokens[263]", "1016");
    p = plan_llama();
    add_token(p, text, PG_PIECE_MAX - 9, 1, 0);
    pg_vocab *v = good(p);
    struct bytes out = printed(v, ids, 2);
    assert_int_equal(out.n, PG_PIECE_MAX - 9 + 3);
    free(out.s);
    pg_vocab_close(v);
    /* Bytes that are no characters print three times as long. */
    memset(text, '\xFF', sizeof(text));
    p = plan_llama();
    add_token(p, text, PG_PIECE_MAX / 3, 1, 0);
    bad(p, PG_EFORMAT, "tokenizer.ggml.tokens[263]", "341");
    p = plan_llama();
    add_token(p, text, PG_PIECE_MAX / 3 - 3, 1, 0);
    v = good(p);
    out = printed(v, ids, 2);
    assert_int_equal(out.n, 3 * (PG_PIECE_MAX / 3 - 3) + 3);
    free(out.s);
    pg_vocab_close(v);
}

/* A piece goes on after a space: words may not be cut apart there. */
static void test_pieces_across_words(void **state)
{
    struct plan *p = plan_llama();
    (void)state;
    add(p, "b\xE2\x96\x81", 1, -0.5f); /* 263 */
    add(p,
        "b\xE2\x96\x81"
        "a",
        1, -0.25f); /* 264 */
    pg_vocab *v = good(p);
    assert_ids(v, TEXT("ab ab"), 0, IDS(259, 260, 264, 261));
    pg_vocab_close(v);
}

/* A vocabulary without the space's piece and without bytes: each character is unknown. */
static void test_unknown(void **state)
{
    struct plan *p = calloc(1, sizeof(*p));
    (void)state;
    assert_non_null(p);
    p->model = "llama";
    p->bos = p->eos = UINT32_MAX;
    add(p, "<unk>", 2, 0);
    add(p, "a", 1, 0);
    pg_vocab *v = good(p);
    assert_ids(v, TEXT("a\xE6\x97\xA5z"), 0, IDS(0, 1, 0, 0));
    pg_vocab_close(v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),
        cmocka_unit_test(test_lengths),
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_labels),
        cmocka_unit_test(test_every_label),
        cmocka_unit_test(test_byte_tokens),
        cmocka_unit_test(test_merges),
        cmocka_unit_test(test_odd_tokens),
        cmocka_unit_test(test_gpt2_odd_tokens),
        cmocka_unit_test(test_huge_tokens),
        cmocka_unit_test(test_pieces_across_words),
        cmocka_unit_test(test_unknown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
