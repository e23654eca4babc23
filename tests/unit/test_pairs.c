/* SPDX-License-Identifier: MIT
 * Pairs of a source and a target, out of JSON lines and out of running text.
 */
#include "helpers.h"

#include "data/pairs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static pg_vocab *vocab;

/* A folder, and the vocabulary of a model with an encoder: its end token is 1. */
static int make_vocab(void **state)
{
    struct pg_err err;
    struct pg_synth_options o = {PG_SYNTH_OPTIONS_INIT, .shape = "switch-tiny", .type = "Q8_0"};
    if (make_dir(state))
        return 1;
    char path[128];
    o.out = in_dir(path, "model.gguf");
    must(pg_synth(&o, &err), &err);
    must(pg_vocab_open(&vocab, o.out, &err), &err);
    return 0;
}

static int drop_vocab(void **state)
{
    pg_vocab_close(vocab);
    return remove_dir(state);
}

enum { END = 1 };

/* Opens pairs of one file. */
static int open_pairs(struct pg_pairs *p, const char *path, struct pg_pairs_options o,
                      struct pg_err *err)
{
    o.vocab = vocab;
    o.paths = &path;
    o.n_paths = 1;
    return pg_pairs_open(p, &o, err);
}

/* Ids of a text; how many. */
static int ids_of(const char *text, int32_t *id, size_t cap)
{
    struct pg_ids out = {id, cap, 0};
    struct pg_err err;
    must(pg_tokenize(vocab, text, strlen(text), 0, &out, &err), &err);
    return (int)out.n;
}

/* The first n_text tokens of the text, and then the end token where `ends`. */
static void is_text(const int32_t *token, int n, const char *text, int n_text, bool ends)
{
    int32_t id[256];
    int all = ids_of(text, id, 256);
    assert_true(n_text <= all);
    assert_int_equal(n, n_text + ends);
    assert_memory_equal(token, id, (size_t)n_text * sizeof(*id));
    assert_true(!ends || token[n_text] == END);
}

/* ------------------------------------------------------------------ lines ------------------- */

static void test_lines(void **state)
{
    (void)state;
    struct pg_pairs p;
    struct pg_err err;
    int32_t id[64];
    const char *text = "{\"source\": \"the day was\", \"target\": \"happy\"}\n"
                       "\n  \r\n"
                       "{\"target\": [\"one\", \"two\"], \"other\": [1, {}], \"source\": \"\"}\r\n"
                       "{\"source\": \"she saw\", \"target\": \"\"}";
    put_text(IN_DIR("a.jsonl"), text);
    must(open_pairs(&p, IN_DIR("a.jsonl"),
                    (struct pg_pairs_options){.n_source = 64, .n_target = 64}, &err),
         &err);
    assert_int_equal(p.n, 3);
    assert_int_equal(p.n_docs, 3);
    assert_int_equal(p.n_cut, 0);
    const char *want[][2] = {{"the day was", "happy"}, {"", "one"}, {"she saw", ""}};
    for (int i = 0; i < 3; i++) {
        const struct pg_pair *x = &p.at[i];
        is_text(p.token + x->source, x->n_source, want[i][0], ids_of(want[i][0], id, 64), true);
        is_text(p.token + x->target, x->n_target, want[i][1], ids_of(want[i][1], id, 64), true);
        assert_int_equal(x->doc, i);
        assert_false(x->more);
    }
    assert_int_equal(p.longest_source, p.at[0].n_source);
    assert_int_equal(p.longest_target, p.at[0].n_target);
    pg_pairs_close(&p);
}

/* What is too long: a source keeps its end token, a target loses it. */
static void test_cut_lines(void **state)
{
    (void)state;
    struct pg_pairs p;
    struct pg_err err;
    const char *long_text = "the little day was very happy and she saw that they wanted";
    char line[256];
    int32_t id[64];
    int n = ids_of(long_text, id, 64);
    snprintf(line, sizeof(line), "{\"source\": \"%s\", \"target\": \"%s\"}\n", long_text,
             long_text);
    put_text(IN_DIR("a.jsonl"), line);
    for (int most = 2; most <= n + 2; most++) {
        struct pg_pairs_options o = {.n_source = most, .n_target = most};
        const bool cut = n + 1 > most;
        must(open_pairs(&p, IN_DIR("a.jsonl"), o, &err), &err);
        const struct pg_pair *x = &p.at[0];
        is_text(p.token + x->source, x->n_source, long_text, cut ? most - 1 : n, true);
        is_text(p.token + x->target, x->n_target, long_text, cut ? most : n, !cut);
        assert_int_equal(x->more, cut);
        assert_int_equal(p.n_cut, cut);
        pg_pairs_close(&p);
    }
}

static void test_bad_lines(void **state)
{
    (void)state;
    static const struct {
        const char *text, *said[2];
    } bad[] = {
        {"", {"a.jsonl", "no pair"}},
        {"\n\n", {"a.jsonl", "no pair"}},
        {"{\"source\": \"a\", \"target\": \"b\"}\n{\"source\": 3, \"target\": \"b\"}",
         {"line 2: source: a number", "a text wanted"}},
        {"{\"target\": \"b\"}", {"line 1: source: nothing found", "a text wanted"}},
        {"{\"source\": \"a\"}", {"line 1: target: nothing found", "a text or a list"}},
        {"{\"source\": \"a\", \"target\": []}", {"target: a list of nothing", "wanted"}},
        {"{\"source\": \"a\", \"target\": [{}]}", {"target[0]: an object found", "a text wanted"}},
        {"[1]", {"line 1: pair: a list found", "an object wanted"}},
        {"{\"source\": \"a\", \"target\": \"b\"", {"line 1: no JSON", "a.jsonl"}},
        {"{\"source\": \"a\", \"source\": \"b\", \"target\": \"b\"}", {"line 1", "duplicate"}},
        {"{\"source\": \"\\u0000\", \"target\": \"b\"}", {"line 1: no JSON", "a.jsonl"}},
        {"{\"source\": \"\xff\", \"target\": \"b\"}", {"line 1: no JSON", "a.jsonl"}},
    };
    struct pg_pairs p;
    struct pg_err err;
    for (size_t i = 0; i < PG_COUNT(bad); i++) {
        struct pg_pairs_options o = {.n_source = 8, .n_target = 8};
        put_text(IN_DIR("a.jsonl"), bad[i].text);
        assert_int_equal(open_pairs(&p, IN_DIR("a.jsonl"), o, &err), PG_EFORMAT);
        says(err.text, bad[i].said[0]);
        says(err.text, bad[i].said[1]);
        says(err.text, "a.jsonl: ");
    }
    assert_int_equal(open_pairs(&p, IN_DIR("none.jsonl"),
                                (struct pg_pairs_options){.n_source = 8, .n_target = 8}, &err),
                     PG_EIO);
    put_text(IN_DIR("a.jsonl"), "{\"source\": \"a\", \"target\": \"b\"}");
    assert_int_equal(open_pairs(&p, IN_DIR("a.jsonl"),
                                (struct pg_pairs_options){.n_source = 1, .n_target = 8}, &err),
                     PG_EARG);
}

/* ------------------------------------------------------------------ text -------------------- */

/* Every piece is where the one before ended, and together they are the document. */
static void check_pieces(const struct pg_pairs *p, int n_source, int n_target, const int32_t *id,
                         int n)
{
    const int full = n_source - 1 + n_target;
    int at = 0;
    for (int i = 0; i < p->n; i++) {
        const struct pg_pair *x = &p->at[i];
        const int text = x->n_source - 1 + x->n_target - !x->more, first = x->n_source - 1;
        assert_true(text >= 2 && text <= full);
        assert_true(x->n_source <= n_source && x->n_target <= n_target);
        assert_true(first >= 1 && x->n_target - !x->more >= 1);
        assert_memory_equal(p->token + x->source, id + at, (size_t)first * sizeof(*id));
        assert_int_equal(p->token[x->source + (size_t)first], END);
        assert_memory_equal(p->token + x->target, id + at + first,
                            (size_t)(text - first) * sizeof(*id));
        if (!x->more)
            assert_int_equal(p->token[x->target + (size_t)x->n_target - 1], END);
        if (text == full)
            assert_true(first == n_source - 1 && x->n_target == n_target && x->more);
        else
            assert_true(i == p->n - 1 && !x->more);
        at += text;
    }
    assert_true(at == n || (at == n - 1 && n % full == 1));
}

static void test_text(void **state)
{
    (void)state;
    const char *text = "the little day was very happy and she saw that they wanted one big time";
    static const int sizes[][2] = {{2, 2}, {3, 5}, {8, 3}, {9, 9}, {40, 7}, {5, 60}, {64, 64}};
    struct pg_pairs p;
    struct pg_err err;
    int32_t id[128];
    int n = ids_of(text, id, 128);
    put_text(IN_DIR("a.txt"), text);
    for (size_t i = 0; i < PG_COUNT(sizes); i++) {
        const int s = sizes[i][0], t = sizes[i][1];
        struct pg_pairs_options o = {.n_source = s, .n_target = t};
        must(open_pairs(&p, IN_DIR("a.txt"), o, &err), &err);
        check_pieces(&p, s, t, id, n);
        assert_int_equal(p.n_cut, n > s - 1 + t);
        assert_int_equal(p.n_docs, 1);
        pg_pairs_close(&p);
        o.first_only = true;
        must(open_pairs(&p, IN_DIR("a.txt"), o, &err), &err);
        assert_int_equal(p.n, 1);
        pg_pairs_close(&p);
    }
}

/* A shorter piece is divided as a full one is, here 2 to 1, its end token counted. */
static void test_part(void **state)
{
    (void)state;
    const char *text = "the little day was very happy and she saw that they wanted";
    struct pg_pairs_options o = {.n_source = 65, .n_target = 32};
    struct pg_pairs p;
    struct pg_err err;
    int32_t id[64];
    int n = ids_of(text, id, 64);
    put_text(IN_DIR("a.txt"), text);
    must(open_pairs(&p, IN_DIR("a.txt"), o, &err), &err);
    assert_int_equal(p.n, 1);
    assert_int_equal(p.at[0].n_source - 1, (n + 1) * 2 / 3);
    assert_int_equal(p.at[0].n_source - 1 + p.at[0].n_target, n + 1);
    pg_pairs_close(&p);
}

static void test_bounds(void **state)
{
    (void)state;
    struct pg_pairs all, p;
    struct pg_err err;
    struct pg_pairs_options o = {.n_source = 64, .n_target = 64};
    put_text(IN_DIR("a.txt"), "the day was\n<|endoftext|>\na\n<|endoftext|>\nshe saw the big day\n"
                              "<|endoftext|>\nthey went\n");
    must(open_pairs(&all, IN_DIR("a.txt"), o, &err), &err);
    assert_int_equal(all.n, ids_of("a", (int32_t[8]){0}, 8) > 1 ? 4 : 3);
    assert_int_equal(all.n_docs, 4);
    o.max_docs = 3;
    must(open_pairs(&p, IN_DIR("a.txt"), o, &err), &err);
    assert_int_equal(p.n_docs, 3);
    assert_int_equal(p.n, all.n - 1);
    assert_true(pg_pairs_hash(&p) != pg_pairs_hash(&all));
    pg_pairs_close(&p);
    o = (struct pg_pairs_options){.n_source = 64, .n_target = 64, .max_tokens = 1};
    must(open_pairs(&p, IN_DIR("a.txt"), o, &err), &err);
    assert_int_equal(p.n, 1);
    pg_pairs_close(&p);
    put_text(IN_DIR("b.txt"), "\n");
    assert_int_equal(open_pairs(&p, IN_DIR("b.txt"), o, &err), PG_EFORMAT);
    says(err.text, "b.txt");
    pg_pairs_close(&all);
}

/* Files of both kinds, one after the other; the same hash each time. */
static void test_files(void **state)
{
    (void)state;
    char text[128], lines[128];
    const char *paths[] = {
        put_text(in_dir(text, "a.txt"), "the day was happy"),
        put_text(in_dir(lines, "a.jsonl"), "{\"source\": \"the day\", \"target\": \"was happy\"}")};
    struct pg_pairs_options o = {
        .vocab = vocab, .paths = paths, .n_paths = 2, .n_source = 64, .n_target = 64};
    struct pg_pairs p, again;
    struct pg_err err;
    must(pg_pairs_open(&p, &o, &err), &err);
    must(pg_pairs_open(&again, &o, &err), &err);
    assert_int_equal(p.n, 2);
    assert_int_equal(p.at[1].doc, 1);
    assert_true(pg_pairs_hash(&p) == pg_pairs_hash(&again));
    again.at[0].more = true;
    assert_true(pg_pairs_hash(&p) != pg_pairs_hash(&again));
    pg_pairs_close(&p);
    pg_pairs_close(&again);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lines),     cmocka_unit_test(test_cut_lines),
        cmocka_unit_test(test_bad_lines), cmocka_unit_test(test_text),
        cmocka_unit_test(test_part),      cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_files),
    };
    return cmocka_run_group_tests(tests, make_vocab, drop_vocab);
}
