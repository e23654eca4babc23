/* SPDX-License-Identifier: MIT
 * Every allocation of making a grammar and of opening a matcher is refused in turn: an error, and
 * never a grammar that says less. Going on with a text allocates nothing. Jansson's own allocations
 * are not refused: its lexer then reads another text, and says nothing.
 */
#include "helpers.h"

#include "fault/alloc_faults.h"
#include "text/vocab.h"

#define VOCAB PG_TEST_DATA "/vocab/deepseek-llm.excerpt.gguf"

static const char gbnf[] = "root ::= \"{\" (pair (\",\" pair)*)? \"}\"\n"
                           "pair ::= text \":\" (text | root | [0-9]{1,12})\n"
                           "text ::= \"\\\"\" [^\"\\\\]* \"\\\"\"\n";

static const char schema[] =
    "{\"type\":\"object\",\"properties\":{\"a\":{\"enum\":[1,0.1,\"x\"]},\"b\":{\"$ref\":\"#/$defs/"
    "b\"},"
    "\"c\":{\"type\":\"string\",\"pattern\":\"^[a-c]+x?$\"},\"d\":{\"type\":\"array\",\"items\":{"
    "\"type\":\"number\",\"minimum\":3},\"minItems\":2},\"e\":{\"oneOf\":[{\"type\":\"integer\","
    "\"maximum\":-7},{\"const\":\"k\"}]}},\"required\":[\"a\",\"z\"],\"additionalProperties\":{"
    "\"type\":\"string\",\"maxLength\":3},\"$defs\":{\"b\":{\"allOf\":[{\"type\":\"object\","
    "\"properties\":{\"p\":{\"type\":\"number\"}},\"required\":[\"p\"]},{\"type\":[\"object\","
    "\"null\"],\"properties\":{\"p\":{\"type\":\"integer\"},\"q\":{\"enum\":[1,2]}}},{"
    "\"properties\":{"
    "\"q\":{\"enum\":[2,3]}},\"required\":[\"q\"]}]}}}";

static int open_gbnf(const void *text, struct pg_err *err)
{
    pg_grammar *g;
    int rc = pg_grammar_open(&g, text, strlen(text), err);
    PG_ASSERT(!rc || !g);
    pg_grammar_close(g);
    return rc;
}

/* What comes out despite a refusal is what always comes out. */
static int open_schema(const void *wanted, struct pg_err *err)
{
    pg_grammar *g;
    int rc = pg_grammar_of_schema(&g, schema, strlen(schema), err);
    PG_ASSERT(!rc || !g);
    PG_ASSERT(rc || !strcmp(pg_grammar_text(g), wanted));
    pg_grammar_close(g);
    return rc;
}

static int open_matcher(const void *grammar, struct pg_err *err)
{
    pg_vocab *v = NULL;
    pg_matcher *m = NULL;
    int rc = pg_vocab_open(&v, VOCAB, err);
    rc = rc ? rc : pg_matcher_open(&m, grammar, v, err);
    PG_ASSERT(!rc || !m);
    pg_matcher_close(m);
    pg_vocab_close(v);
    return rc;
}

static void test_refused(void **state)
{
    pg_grammar *g;
    (void)state;
    assert_true(fault_each(open_gbnf, gbnf, false, PG_ENOMEM) > 15);
    assert_int_equal(pg_grammar_of_schema(&g, schema, strlen(schema), NULL), 0);
    assert_true(fault_each(open_schema, pg_grammar_text(g), false, PG_ENOMEM) > 60);
    assert_true(fault_each(open_matcher, g, false, PG_ENOMEM) > 25);
    pg_grammar_close(g);
}

static void test_token_path(void **state)
{
    static const char text[] = "{\"ab\":{\"c\":\"d e f\"},\"g\":12}";
    int32_t id[64];
    struct pg_ids ids = {id, PG_COUNT(id), 0};
    struct pg_err err;
    pg_grammar *g;
    pg_matcher *m;
    pg_vocab *v;
    (void)state;
    must(pg_grammar_open(&g, gbnf, strlen(gbnf), &err), &err);
    must(pg_vocab_open(&v, VOCAB, &err), &err);
    must(pg_matcher_open(&m, g, v, &err), &err);
    must(pg_tokenize(v, text, strlen(text), 0, &ids, &err), &err);
    uint32_t *bits = calloc((size_t)pg_vocab_n(v) / 32 + 1, sizeof(*bits));
    alloc_faults_begin(0, 0);
    for (int round = 0; round < 2; round++) {
        for (size_t i = 0; i < ids.n; i++) {
            must(pg_matcher_mask(m, bits, &err), &err);
            assert_true(pg_matcher_allows(m, id[i]));
            must(pg_matcher_accept(m, id[i], &err), &err);
        }
        assert_true(pg_matcher_may_end(m));
        pg_matcher_reset(m);
    }
    assert_int_equal(alloc_faults.n_calls, 0);
    assert_true(alloc_faults_clean());
    free(bits);
    pg_matcher_close(m);
    pg_vocab_close(v);
    pg_grammar_close(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_refused),
                                       cmocka_unit_test(test_token_path)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
