/* SPDX-License-Identifier: MIT
 * Every allocation of opening a vocabulary and of tokenizing with it is refused in turn.
 */
#include "helpers.h"

#include "fault/alloc_faults.h"
#include "text/vocab.h"

#define VOCAB PG_TEST_DATA "/vocab/"

static int tokenize(const void *vocab, struct pg_err *err)
{
    /* A letter and a mark that normal form C joins, spaces, digits, bytes that are no UTF-8, and a
     * word long enough for the symbols to be moved. */
    static const char text[] =
        "Once upon a time, it\xCC\x81s 1234 \xFF\xE6 \xE4\xBD\xA0 "
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!";
    int32_t ids[3 * sizeof(text)];
    struct pg_ids out = {ids, PG_COUNT(ids), 0};
    return pg_tokenize(vocab, text, sizeof(text) - 1, PG_TOKENIZE_SPECIAL, &out, err);
}

static int open_only(const void *path, struct pg_err *err)
{
    pg_vocab *v;
    int rc = pg_vocab_open(&v, path, err);
    PG_ASSERT(!rc || !v);
    pg_vocab_close(v);
    return rc;
}

static void each(const char *path, int n_open, int n_tokenize)
{
    pg_vocab *v;
    assert_true(fault_each(open_only, path, false, PG_ENOMEM) >= n_open);
    assert_int_equal(pg_vocab_open(&v, path, NULL), 0);
    assert_true(fault_each(tokenize, v, false, PG_ENOMEM) >= n_tokenize);
    pg_vocab_close(v);
}

static void test_gpt2(void **state)
{
    (void)state;
    each(VOCAB "mpt.excerpt.gguf", 15, 8);
    each(VOCAB "deepseek-llm.excerpt.gguf", 20, 6);
}

static void test_llama(void **state)
{
    (void)state;
    each(VOCAB "phi-3.gguf", 10, 3);
}

static void test_t5(void **state)
{
    (void)state;
    each(PG_VOCAB_MADE "/t5.gguf", 10, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_gpt2), cmocka_unit_test(test_llama),
                                       cmocka_unit_test(test_t5)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
