/* SPDX-License-Identifier: MIT
 * Marks of answers and summaries beside what others give the same texts (tests/data/scores, made by
 * tools/mkscores.py), and texts that are no text.
 */
#include "helpers.h"

#include "base/err.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static json_t *pairs;

static int load(void **state)
{
    (void)state;
    pairs = json_load_file(PG_TEST_DATA "/scores/pairs.json", 0, NULL);
    return pairs ? 0 : -1;
}

static int unload(void **state)
{
    (void)state;
    json_decref(pairs);
    return 0;
}

static const char *text_of(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    assert_non_null(s);
    return s;
}

static void near(double found, double wanted, const char *what, const char *text)
{
    if (!(fabs(found - wanted) <= 1e-12))
        fail_msg("%s of \"%.60s\": %.17g found, %.17g wanted", what, text, found, wanted);
}

static void test_answers(void **state)
{
    json_t *list = json_object_get(pairs, "answers"), *o;
    size_t i;
    (void)state;
    assert_true(json_array_size(list) >= 40);
    json_array_foreach(list, i, o)
    {
        const char *a = text_of(o, "answer"), *t = text_of(o, "truth");
        double em = json_number_value(json_object_get(o, "exact_match"));
        double f1 = json_number_value(json_object_get(o, "f1"));
        near(pg_exact_match(a, t), em, "exact match", a);
        near(pg_answer_f1(a, t), f1, "F1", a);
        near(pg_answer_f1(t, a), f1, "F1 the other way round", a);
        near(pg_answer_f1(a, a), 1, "F1 with itself", a);
    }
}

static void same_rouge(struct pg_rouge r, const json_t *o, const char *key)
{
    const json_t *wanted = json_object_get(o, key);
    const char *text = text_of(o, "summary");
    near(r.precision, json_number_value(json_array_get(wanted, 0)), key, text);
    near(r.recall, json_number_value(json_array_get(wanted, 1)), key, text);
    near(r.f1, json_number_value(json_array_get(wanted, 2)), key, text);
}

static void test_summaries(void **state)
{
    json_t *list = json_object_get(pairs, "summaries"), *o;
    size_t i;
    (void)state;
    assert_true(json_array_size(list) >= 40);
    json_array_foreach(list, i, o)
    {
        const char *s = text_of(o, "summary"), *r = text_of(o, "reference");
        same_rouge(pg_rouge_n(s, r, 1), o, "rouge1");
        same_rouge(pg_rouge_n(s, r, 2), o, "rouge2");
        same_rouge(pg_rouge_l(s, r), o, "rougeL");
    }
}

static bool is_mark(double x)
{
    return x >= 0 && x <= 1;
}

/* Each byte that begins no character stands for itself, so that a text is like itself alone. */
static void test_broken_text(void **state)
{
    static const char *const broken[] = {
        "\xFF",   "\xC3",        "a\xE2\x82",       "\xED\xA0\x80 the",
        "\xF5 b", "\x80the\x80", "the \xC0\xAF end"};
    (void)state;
    for (size_t i = 0; i < PG_COUNT(broken); i++) {
        for (size_t j = 0; j < PG_COUNT(broken); j++) {
            assert_true(pg_exact_match(broken[i], broken[j]) == (i == j));
            assert_true(is_mark(pg_answer_f1(broken[i], broken[j])));
            assert_true(is_mark(pg_rouge_l(broken[i], broken[j]).f1));
        }
    }
    assert_true(isnan(pg_rouge_n("a", "a", 0).f1));
    assert_true(pg_rouge_n("a b", "a b", 3).f1 == 0);
    assert_true(pg_rouge_n("a b", "a b", INT32_MAX).f1 == 0);
}

/* Much text on one side: sorted in n log n, and a row of the table for ROUGE-L. */
static void test_long_text(void **state)
{
    enum { N = 200000 };
    char *text = malloc(2 * N + 1);
    (void)state;
    assert_non_null(text);
    for (size_t i = 0; i < N; i++)
        memcpy(text + 2 * i, i % 3 ? "b " : "c ", 2);
    text[2 * N] = '\0';
    assert_true(pg_exact_match(text, text) == 1);
    near(pg_answer_f1(text, "b c c"), 2.0 * 3 / (N + 3), "F1", "a long text");
    struct pg_rouge r = pg_rouge_l(text, "c b c");
    near(r.precision, 3.0 / N, "ROUGE-L", "a long text");
    near(r.recall, 1, "ROUGE-L", "a long text");
    near(pg_rouge_n(text, text, 2).f1, 1, "ROUGE-2", "a long text");
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answers),
        cmocka_unit_test(test_summaries),
        cmocka_unit_test(test_broken_text),
        cmocka_unit_test(test_long_text),
    };
    return cmocka_run_group_tests(tests, load, unload);
}
