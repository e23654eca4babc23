/* SPDX-License-Identifier: MIT
 * Grammars: what is refused and how, which texts they take, and masks. Masks of random grammars
 * over small random vocabularies are compared, token by token, with an Earley parser that knows
 * nothing of the library's automata; over a real vocabulary with the way of each token alone.
 */
#include "helpers.h"

#include "base/os.h"
#include "base/random.h"
#include "format/gguf.h"
#include "text/vocab.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t seed = 1;

static uint32_t below(uint32_t n)
{
    return (uint32_t)(pg_random_next(&seed) >> 33) % n;
}

/* ------------------------------------------------------------------ text that grows --------- */

struct text {
    char *s;
    size_t n, cap;
};

static void put(struct text *t, const void *s, size_t n)
{
    assert_int_equal(pg_reserve(&t->s, &t->cap, t->n + n + 1, 1), 0);
    memcpy(t->s + t->n, s, n);
    t->n += n;
    t->s[t->n] = '\0';
}

static void put_s(struct text *t, const char *s)
{
    put(t, s, strlen(s));
}

static void put_many(struct text *t, const char *s, int n)
{
    for (int i = 0; i < n; i++)
        put_s(t, s);
}

/* ------------------------------------------------------------------ a vocabulary ------------ */

static void put_u32(struct text *t, uint32_t v)
{
    put(t, &v, sizeof(v));
}

static void put_str(struct text *t, const char *s, size_t n)
{
    uint64_t n64 = n;
    put(t, &n64, sizeof(n64));
    put(t, s, n);
}

static void put_key(struct text *t, const char *name, uint32_t kind)
{
    put_str(t, name, strlen(name));
    put_u32(t, kind);
}

static void put_array(struct text *t, const char *name, uint32_t elem, uint64_t n)
{
    put_key(t, name, PG_GGUF_ARRAY);
    put_u32(t, elem);
    put(t, &n, sizeof(n));
}

static const char *const letters[] = {
    "a", "b", "c", "\"", " ", "\xc3\xa9", "\xe5\x90\x8d", "\xf0\x9f\x98\x80"};

/* A few letters, now and then without their first byte, or with only that of another. */
static size_t random_piece(char *out)
{
    struct text t = {0};
    int n = 1 + (int)below(4);
    size_t from = below(6) == 0, cut = below(6) == 0;
    for (int i = 0; i < n; i++)
        put_s(&t, letters[below(PG_COUNT(letters))]);
    from = from && t.n > 1 ? 1 : 0;
    cut = cut && t.n > from + 1 ? 1 : 0;
    size_t len = t.n - from - cut;
    memcpy(out, t.s + from, len);
    free(t.s);
    return len;
}

enum { N_SPECIAL = 3, N_RANDOM = 250, N_VOCAB = N_SPECIAL + 256 + N_RANDOM };

/* Spells a byte in the alphabet of gpt2. */
static size_t spell(unsigned char b, char *out)
{
    int cp = b;
    if (!((b > 0x20 && b < 0x7F) || (b > 0xA0 && b != 0xAD)))
        cp = 0x100 + (b <= 0x20 ? b : b <= 0xA0 ? b - 0x7F + 33 : 67);
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    out[0] = (char)(0xC0 | cp >> 6);
    out[1] = (char)(0x80 | (cp & 0x3F));
    return 2;
}

static void put_piece(struct text *t, const char *piece, size_t n, bool llama)
{
    struct text out = {0};
    for (size_t i = 0; i < n; i++) {
        char one[2];
        if (llama && piece[i] == ' ')
            put_s(&out, "\xe2\x96\x81");
        else if (llama)
            put(&out, piece + i, 1);
        else
            put(&out, one, spell((unsigned char)piece[i], one));
    }
    put_str(t, out.s, out.n);
    free(out.s);
}

/* What each token prints. Not asked of pg_detokenize, which replaces what is no UTF-8. */
static struct printed {
    char s[32];
    size_t n;
} printed[2][N_VOCAB];

/* <unk>, <s>, </s>, 256 bytes, and random pieces. */
static void put_vocab(struct text *t, bool llama)
{
    static const char *const special[N_SPECIAL] = {"<unk>", "<s>", "</s>"};
    char piece[8];
    put(t, "GGUF", 4);
    put_u32(t, 3);
    put(t, (uint64_t[]){0, llama ? 4 : 5}, 16);
    put_key(t, "tokenizer.ggml.model", PG_GGUF_STRING);
    put_str(t, llama ? "llama" : "gpt2", llama ? 5 : 4);
    put_array(t, "tokenizer.ggml.tokens", PG_GGUF_STRING, N_VOCAB);
    for (int i = 0; i < N_VOCAB; i++) {
        struct printed *out = &printed[llama][i];
        int b = i - N_SPECIAL;
        out->s[0] = (char)b;
        out->n = b < 0 ? 0 : b < 256 ? 1 : random_piece(out->s);
        snprintf(piece, sizeof(piece), "<0x%02X>", (unsigned)b & 255);
        if (i < N_SPECIAL)
            put_str(t, special[i], strlen(special[i]));
        else if (b < 256 && llama)
            put_str(t, piece, 6);
        else
            put_piece(t, out->s, out->n, llama);
    }
    put_array(t, "tokenizer.ggml.token_type", PG_GGUF_I32, N_VOCAB);
    for (int i = 0; i < N_VOCAB; i++)
        put_u32(t, i == 0 ? 2 : i < N_SPECIAL ? 3 : i < N_SPECIAL + 256 && llama ? 6 : 1);
    put_array(t, llama ? "tokenizer.ggml.scores" : "tokenizer.ggml.merges",
              llama ? PG_GGUF_F32 : PG_GGUF_STRING, llama ? N_VOCAB : 0);
    for (int i = 0; i < N_VOCAB && llama; i++)
        put_u32(t, 0);
    if (!llama) {
        put_key(t, "tokenizer.ggml.eos_token_id", PG_GGUF_U32);
        put_u32(t, 2);
    }
}

static pg_vocab *make_vocab(bool llama)
{
    struct text t = {0};
    struct pg_gguf *g;
    struct pg_err err;
    pg_vocab *v;
    put_vocab(&t, llama);
    must(pg_gguf_parse(&g, t.s, t.n, t.n, "made here", &err), &err);
    must(pg_vocab_from_gguf(&v, g, &err), &err);
    pg_gguf_close(g);
    free(t.s);
    return v;
}

static pg_vocab *vocabs[2]; /* gpt2, llama */

static int open_vocabs(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++)
        vocabs[i] = make_vocab(i == 1);
    return 0;
}

static int close_vocabs(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++)
        pg_vocab_close(vocabs[i]);
    return 0;
}

/* ------------------------------------------------------------------ texts ------------------- */

static pg_grammar *open_grammar(const char *gbnf)
{
    struct pg_err err;
    pg_grammar *g;
    must(pg_grammar_open(&g, gbnf, strlen(gbnf), &err), &err);
    return g;
}

static int32_t byte_token(char c)
{
    return N_SPECIAL + (int32_t)(unsigned char)c;
}

/* How many bytes of the text the grammar takes, and whether it may end there. */
static size_t taken(const pg_grammar *g, const char *text, bool *ends)
{
    struct pg_err err;
    pg_matcher *m;
    size_t n = 0;
    must(pg_matcher_open(&m, g, vocabs[0], &err), &err);
    while (text[n] && !pg_matcher_accept(m, byte_token(text[n]), &err))
        n++;
    *ends = pg_matcher_may_end(m);
    pg_matcher_close(m);
    return n;
}

static const struct {
    const char *gbnf, *good[5], *bad[5];
} languages[] = {
    {"root ::= \"a\" | \"bc\"", {"a", "bc"}, {"b", "c", "ab", ""}},
    {"root ::= [a-c]* \"\\\"\"", {"\"", "abc\""}, {"d", "abc"}},
    {"root::=\"x\"+ # comment\n#another\n", {"x", "xxx"}, {"", "y"}},
    {"root ::= (\"a\" |\n \"b\"\n)? \"c\"", {"ac", "bc", "c"}, {"ab", "a"}},
    {"root ::=\n  \"a\" |\n  \"b\"\n", {"a", "b"}, {"c"}},
    {"root ::= \"ab\"{2}", {"abab"}, {"ab", "ababab"}},
    {"root ::= [0-9]{2,}", {"00", "12345"}, {"1", "1a"}},
    {"root ::= [0-9]{,2} \".\"", {".", "1.", "12."}, {"123."}},
    {"root ::= ( \"a\"{ 1 , 2 }\n){2} \"b\"", {"aab", "aaaab"}, {"ab", "aaaaab"}},
    {"root ::= \"\\x41\\u00e9\\U0001F600\\t\\r\\n\\\\\\\"\\[\\]\"",
     {"A\xc3\xa9\xf0\x9f\x98\x80\t\r\n\\\"[]"},
     {"A\xc3\xaa"}},
    {"root ::= .",
     {"a", "\n", "\xc3\xa9", "\xf4\x8f\xbf\xbf", "\xed\x9f\xbf"},
     {"\xff", "\xed\xa0\x80", "\xc0\x80", "\xf4\x90\x80\x80", "ab"}},
    {"root ::= [^a\\u00e9-\\u4e00]",
     {"b", "\xc3\xa8", "\xe4\xb8\x81", "\xf0\x90\x80\x80"},
     {"a", "\xc3\xa9", "\xe4\xb8\x80", "\xe2\x82\xac"}},
    {"root ::= [a-]", {"a", "-"}, {"b"}},
    {"root ::= [\\]\\[]", {"]", "["}, {"\\"}},
    {"root ::= \"(\" root \")\" | \"\"", {"", "()", "((()))"}, {"(", "(()", ")"}},
    {"root ::= x y\nx ::= \"a\" x | \"\"\ny ::= \"b\"\n", {"b", "aaab"}, {"a", "bb"}},
    {"root ::= (ws \"a\")* ws\nws ::= \" \"?", {"", "a a", " aa "}, {"  ", "b"}},
    {"root ::= s\ns ::= \"a\" s s | \"b\" | dead\ndead ::= \"x\" dead", {"b", "abb"}, {"x", "a"}},
    {"a-1_b ::= \"x\" root ::= a-1_b", {NULL}, {NULL}}, /* one line is one rule: refused below */
};

static void test_languages(void **state)
{
    bool ends;
    (void)state;
    for (size_t i = 0; i + 1 < PG_COUNT(languages); i++) {
        pg_grammar *g = open_grammar(languages[i].gbnf);
        assert_string_equal(pg_grammar_text(g), languages[i].gbnf);
        for (int k = 0; k < 5; k++) {
            const char *good = languages[i].good[k], *bad = languages[i].bad[k];
            if (good && (taken(g, good, &ends) != strlen(good) || !ends))
                fail_msg("%s: '%s' is refused", languages[i].gbnf, good);
            if (bad && taken(g, bad, &ends) == strlen(bad) && ends)
                fail_msg("%s: '%s' is taken", languages[i].gbnf, bad);
        }
        pg_grammar_close(g);
    }
}

/* ------------------------------------------------------------------ refusals ---------------- */

static void refused(const char *gbnf, size_t n, int code, const char *words)
{
    struct pg_err err = {0};
    pg_grammar *g = (pg_grammar *)&err;
    if (pg_grammar_open(&g, gbnf, n, &err) != code)
        fail_msg("%.60s: code %d found, %d wanted: %s", gbnf, err.code, code, err.text);
    assert_null(g);
    says(err.text, words);
}

static void test_refusals(void **state)
{
    static const struct {
        const char *gbnf, *words;
    } bad[] = {
        {"", "none of them is 'root'"},
        {"a ::= \"x\"", "none of them is 'root'"},
        {"root ::= a", "line 1, column 10: rule 'a' is not defined"},
        {"root ::= \"x\"\nroot ::= \"y\"", "line 2, column 1: the rule is defined a second time"},
        {"root = \"x\"", "line 1, column 6: '=' found, '::=' wanted"},
        {"root ::= \"x", "line 1, column 10: the text that begins here has no end"},
        {"root ::= [a", "column 10: the class that begins here has no end"},
        {"root ::= []", "the class is empty"},
        {"root ::= [z-a]", "column 11: the range ends before it begins"},
        {"root ::= (\"x\"", "column 10: the group that begins here has no end"},
        {"root ::= (\"x\"]", "column 14: ']' found, ')' wanted"},
        {"root ::= \"\\q\"", "'q' found, x, u, U"},
        {"root ::= \"\\x4\"", "a hexadecimal digit wanted"},
        {"root ::= \"\\ud800\"", "names no character"},
        {"root ::= \"\\U00110000\"", "names no character"},
        {"root ::= \"\xff\"", "UTF-8 wanted"},
        {"root ::= *", "'*' found, the end of the rule wanted"},
        {"root ::= \"a\"{", "a number or ',' wanted"},
        {"root ::= \"a\"{2,1}", "the most is less than the least"},
        {"root ::= \"a\"{1000000000}", "repeated more than 65536 times"},
        {"root ::= \"a\"{0,1000000000}", "repeated more than 65536 times"},
        {"root ::= \"a\"{99999999999999999999}", "repeated more than 65536 times"},
        {"root ::= root \"a\" | \"b\"", "rule 'root' calls itself before any character"},
        {"root ::= a\na ::= b \"x\"\nb ::= \"\" a", "calls itself before any character"},
        {"root ::= ws root | \"a\"\nws ::= \" \"*", "calls itself before any character"},
        {"root ::= \"x\" root", "rule 'root' has no end"},
        {"root ::= [\\uFFFF-\\uFFFF] a\na ::= \"b\" a | \"c\" a", "has no end"},
        {"a-1_b ::= \"x\" root ::= a-1_b", "':' found, the end of the rule wanted"},
    };
    (void)state;
    for (size_t i = 0; i < PG_COUNT(bad); i++)
        refused(bad[i].gbnf, strlen(bad[i].gbnf), PG_EFORMAT, bad[i].words);
    refused("root ::= <[1000]>", 17, PG_ENOTSUP, "column 10: tokens in a grammar");
    refused("root ::= !<[1000]>", 18, PG_ENOTSUP, "column 10: tokens in a grammar");
    refused(NULL, 0, PG_EARG, "none given");
}

/* What would take all memory or the whole stack is refused, or bounded, at once. */
static void test_hostile(void **state)
{
    struct text t = {0};
    char line[64];
    (void)state;
    put_s(&t, "root ::= ");
    put_many(&t, "(", 60000);
    refused(t.s, t.n, PG_EFORMAT, "more than 128 groups inside each other");
    t.n = 0;
    put_s(&t, "root ::= \"a\"");
    put_many(&t, "*", 60000);
    refused(t.s, t.n, PG_EFORMAT, "nested too deeply");
    t.n = 0;
    put_s(&t, "root ::= ((([a-z]{1000}){1000}){1000}){1000}");
    refused(t.s, t.n, PG_ENOTSUP, "more than 262144 positions");
    t.n = 0;
    put_s(&t, "root ::= (((\"\"{60000}){60000}){60000}){60000}");
    refused(t.s, t.n, PG_ENOTSUP, "positions");
    for (int back = 0; back < 2; back++) { /* a long chain, either way round */
        t.n = 0;
        put_s(&t, "root ::= r0\n");
        for (int i = 0; i < 60000; i++) {
            int k = back ? 59999 - i : i;
            snprintf(line, sizeof(line), "r%d ::= r%d\n", k, k + 1);
            put_s(&t, line);
        }
        put_s(&t, "r60000 ::= \"x\"\n");
        pg_grammar *g = open_grammar(t.s);
        bool ends;
        assert_int_equal(taken(g, "x", &ends), 1);
        assert_true(ends);
        pg_grammar_close(g);
    }
    t.n = 0;
    for (int i = 0; i < 70000; i++) {
        snprintf(line, sizeof(line), "r%d ::= \"x\"\n", i);
        put_s(&t, line);
    }
    refused(t.s, t.n, PG_EFORMAT, "more than 65536 rules");
    free(t.s);
}

/* ------------------------------------------------------------------ another parser ---------- */

enum { SYMBOLS = 3000, PRODUCTIONS = 4000, RHS = 8, EARLEY_TEXT = 96, ITEMS = 4000 };

/* A symbol is a range of bytes, or the left side of productions. */
struct rules {
    struct {
        bool is_byte, empty, ends;
        uint8_t lo, hi;
        int first; /* production, + 1 */
    } symbol[SYMBOLS];
    struct {
        int lhs, n, rhs[RHS], next; /* of the same left side, + 1 */
    } production[PRODUCTIONS];
    int n_symbol, n_production;
};

struct entry {
    int production, dot, origin;
};

struct earley {
    const struct rules *r;
    struct entry item[EARLEY_TEXT + 1][ITEMS];
    int n[EARLEY_TEXT + 1];
    uint32_t seen[PRODUCTIONS][RHS + 1][EARLEY_TEXT + 1];
    uint32_t mark;
};

static int new_symbol(struct rules *r)
{
    assert_true(r->n_symbol < SYMBOLS);
    memset(&r->symbol[r->n_symbol], 0, sizeof(r->symbol[0]));
    return r->n_symbol++;
}

static int bytes_symbol(struct rules *r, int lo, int hi)
{
    int s = new_symbol(r);
    r->symbol[s].is_byte = true;
    r->symbol[s].lo = (uint8_t)lo;
    r->symbol[s].hi = (uint8_t)hi;
    return s;
}

static void produce(struct rules *r, int lhs, const int *rhs, int n)
{
    assert_true(r->n_production < PRODUCTIONS && n <= RHS);
    r->production[r->n_production].lhs = lhs;
    r->production[r->n_production].n = n;
    if (n)
        memcpy(r->production[r->n_production].rhs, rhs, (size_t)n * sizeof(*rhs));
    r->production[r->n_production].next = r->symbol[lhs].first;
    r->symbol[lhs].first = ++r->n_production;
}

/* Which symbols may be empty, and which have an end at all. */
static void settle(struct rules *r)
{
    for (bool changed = true; changed;) {
        changed = false;
        for (int p = 0; p < r->n_production; p++) {
            bool empty = true, ends = true;
            for (int i = 0; i < r->production[p].n; i++) {
                int s = r->production[p].rhs[i];
                empty = empty && r->symbol[s].empty;
                ends = ends && (r->symbol[s].is_byte || r->symbol[s].ends);
            }
            int lhs = r->production[p].lhs;
            changed = changed || (empty && !r->symbol[lhs].empty) || (ends && !r->symbol[lhs].ends);
            r->symbol[lhs].empty |= empty;
            r->symbol[lhs].ends |= ends;
        }
    }
}

static bool production_ends(const struct rules *r, int p)
{
    for (int i = 0; i < r->production[p].n; i++) {
        int s = r->production[p].rhs[i];
        if (!r->symbol[s].is_byte && !r->symbol[s].ends)
            return false;
    }
    return true;
}

static void earley_add(struct earley *e, int at, struct entry x)
{
    uint32_t *seen = &e->seen[x.production][x.dot][x.origin];
    if (*seen == e->mark || !production_ends(e->r, x.production))
        return;
    *seen = e->mark;
    assert_true(e->n[at] < ITEMS);
    e->item[at][e->n[at]++] = x;
}

static void earley_predict(struct earley *e, int at, int symbol)
{
    for (int p = e->r->symbol[symbol].first; p; p = e->r->production[p - 1].next)
        earley_add(e, at, (struct entry){p - 1, 0, at});
}

/* Follows what needs no byte, until nothing new comes. */
static void earley_complete(struct earley *e, int at)
{
    for (int i = 0; i < e->n[at]; i++) {
        struct entry x = e->item[at][i];
        int n = e->r->production[x.production].n;
        if (x.dot < n) {
            int s = e->r->production[x.production].rhs[x.dot];
            if (e->r->symbol[s].is_byte)
                continue;
            earley_predict(e, at, s);
            if (e->r->symbol[s].empty)
                earley_add(e, at, (struct entry){x.production, x.dot + 1, x.origin});
            continue;
        }
        for (int k = 0; k < e->n[x.origin]; k++) {
            struct entry y = e->item[x.origin][k];
            if (y.dot < e->r->production[y.production].n &&
                e->r->production[y.production].rhs[y.dot] == e->r->production[x.production].lhs)
                earley_add(e, at, (struct entry){y.production, y.dot + 1, y.origin});
        }
    }
}

static void earley_start(struct earley *e, int root)
{
    e->n[0] = 0;
    e->mark++;
    earley_predict(e, 0, root);
    earley_complete(e, 0);
}

/* Whether a text that goes on with this byte at `at` is the beginning of one. */
static bool earley_byte(struct earley *e, int at, uint8_t b)
{
    e->n[at + 1] = 0;
    e->mark++;
    for (int i = 0; i < e->n[at]; i++) {
        struct entry x = e->item[at][i];
        if (x.dot == e->r->production[x.production].n)
            continue;
        int s = e->r->production[x.production].rhs[x.dot];
        if (e->r->symbol[s].is_byte && b >= e->r->symbol[s].lo && b <= e->r->symbol[s].hi)
            earley_add(e, at + 1, (struct entry){x.production, x.dot + 1, x.origin});
    }
    bool goes_on = e->n[at + 1] > 0;
    earley_complete(e, at + 1);
    return goes_on;
}

static bool earley_ends(const struct earley *e, int at, int root)
{
    for (int i = 0; i < e->n[at]; i++) {
        struct entry x = e->item[at][i];
        if (x.origin == 0 && e->r->production[x.production].lhs == root &&
            x.dot == e->r->production[x.production].n)
            return true;
    }
    return false;
}

/* ------------------------------------------------------------------ random grammars --------- */

struct made {
    struct rules r;
    struct text text;
    int rule[5]; /* symbols */
    int n_rule;
};

static int make_sequence(struct made *g, int depth, int first_rule);

static int make_literal(struct made *g)
{
    int rhs[RHS], n = 0, s = new_symbol(&g->r);
    put_s(&g->text, "\"");
    for (uint32_t k = below(3); k < 2; k++) {
        const char *letter = letters[below(PG_COUNT(letters))];
        put_s(&g->text, *letter == '"' ? "\\\"" : letter);
        for (const char *c = letter; *c; c++)
            rhs[n++] = bytes_symbol(&g->r, (uint8_t)*c, (uint8_t)*c);
        if (n > 4)
            break;
    }
    put_s(&g->text, "\"");
    produce(&g->r, s, rhs, n);
    return s;
}

static int make_class(struct made *g)
{
    static const int longer[][8] = {
        /* lo, hi of each byte of all characters from U+0080 on */
        {0xC2, 0xDF, 0x80, 0xBF},
        {0xE0, 0xE0, 0xA0, 0xBF, 0x80, 0xBF},
        {0xE1, 0xEC, 0x80, 0xBF, 0x80, 0xBF},
        {0xED, 0xED, 0x80, 0x9F, 0x80, 0xBF},
        {0xEE, 0xEF, 0x80, 0xBF, 0x80, 0xBF},
        {0xF0, 0xF0, 0x90, 0xBF, 0x80, 0xBF, 0x80, 0xBF},
        {0xF1, 0xF3, 0x80, 0xBF, 0x80, 0xBF, 0x80, 0xBF},
        {0xF4, 0xF4, 0x80, 0x8F, 0x80, 0xBF, 0x80, 0xBF},
    };
    int s = new_symbol(&g->r);
    if (below(2)) {
        put_s(&g->text, "[ac-e\xc3\xa8-\xc3\xaa]");
        produce(&g->r, s, (int[]){bytes_symbol(&g->r, 'a', 'a')}, 1);
        produce(&g->r, s, (int[]){bytes_symbol(&g->r, 'c', 'e')}, 1);
        int two[] = {bytes_symbol(&g->r, 0xC3, 0xC3), bytes_symbol(&g->r, 0xA8, 0xAA)};
        produce(&g->r, s, two, 2);
        return s;
    }
    put_s(&g->text, "[^b]");
    produce(&g->r, s, (int[]){bytes_symbol(&g->r, 0, 'a')}, 1);
    produce(&g->r, s, (int[]){bytes_symbol(&g->r, 'c', 0x7F)}, 1);
    for (size_t i = 0; i < PG_COUNT(longer); i++) {
        int rhs[4], n = 0;
        for (; n < 4 && longer[i][2 * n]; n++)
            rhs[n] = bytes_symbol(&g->r, longer[i][2 * n], longer[i][2 * n + 1]);
        produce(&g->r, s, rhs, n);
    }
    return s;
}

/* Puts a repetition behind the text of s. */
static int make_repeat(struct made *g, int s)
{
    int out, some;
    switch (below(5)) {
    case 0:
        put_s(&g->text, "*");
        out = new_symbol(&g->r);
        produce(&g->r, out, NULL, 0);
        produce(&g->r, out, (int[]){s, out}, 2);
        return out;
    case 1:
        put_s(&g->text, "{1,3}");
        out = new_symbol(&g->r);
        some = new_symbol(&g->r);
        produce(&g->r, some, NULL, 0);
        produce(&g->r, some, (int[]){s}, 1);
        produce(&g->r, out, (int[]){s, some, some}, 3);
        return out;
    case 2:
        put_s(&g->text, "+");
        out = new_symbol(&g->r);
        produce(&g->r, out, (int[]){s}, 1);
        produce(&g->r, out, (int[]){s, out}, 2);
        return out;
    default:
        return s;
    }
}

static int make_one(struct made *g, int depth, int first_rule)
{
    int s, rule;
    char name[24];
    switch (below(depth < 2 ? 6 : 4)) {
    case 0:
        s = make_class(g);
        break;
    case 1:
    case 2:
        if (first_rule < g->n_rule) { /* those before it may only follow a byte */
            rule = first_rule + (int)below((uint32_t)(g->n_rule - first_rule));
            snprintf(name, sizeof(name), "r%d", rule);
            put_s(&g->text, name);
            s = g->rule[rule];
            break;
        }
        s = make_literal(g);
        break;
    case 3:
        s = make_literal(g);
        break;
    default:
        put_s(&g->text, "(");
        s = make_sequence(g, depth + 1, first_rule);
        put_s(&g->text, " | ");
        int other = make_sequence(g, depth + 1, first_rule), both = new_symbol(&g->r);
        put_s(&g->text, ")");
        produce(&g->r, both, (int[]){s}, 1);
        produce(&g->r, both, (int[]){other}, 1);
        s = both;
    }
    return make_repeat(g, s);
}

static int make_sequence(struct made *g, int depth, int first_rule)
{
    int rhs[RHS], n = 0, s = new_symbol(&g->r);
    if (below(3) == 0) { /* begins with a byte, after which any rule may be called */
        put_s(&g->text, "\"c\" ");
        rhs[n++] = bytes_symbol(&g->r, 'c', 'c');
        first_rule = 0;
    }
    for (uint32_t k = below(3); k < 3; k++) {
        rhs[n++] = make_one(g, depth, first_rule);
        put_s(&g->text, " ");
    }
    produce(&g->r, s, rhs, n);
    return s;
}

static void make_grammar(struct made *g)
{
    char name[24];
    g->r.n_symbol = g->r.n_production = 0;
    g->text.n = 0;
    g->n_rule = 2 + (int)below(4);
    for (int i = 0; i < g->n_rule; i++)
        g->rule[i] = new_symbol(&g->r);
    put_s(&g->text, "root ::= r0\n");
    for (int i = 0; i < g->n_rule; i++) {
        snprintf(name, sizeof(name), "r%d ::= ", i);
        put_s(&g->text, name);
        for (uint32_t k = below(3); k < 3; k++) {
            produce(&g->r, g->rule[i], (int[]){make_sequence(g, 0, i + 1)}, 1);
            put_s(&g->text, k < 2 ? "| " : "\n");
        }
    }
    settle(&g->r);
}

struct compare {
    const struct made *g;
    struct earley *e;
    const pg_vocab *v;
    pg_matcher *m;
    int n_text;
    bool full;
    bool first_space; /* a space at the beginning need not be in the grammar */
};

static bool earley_token(struct compare *c, const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!earley_byte(c->e, c->n_text + (int)i, (uint8_t)s[i]))
            return false;
    return true;
}

static bool wanted(struct compare *c, int32_t id, const char *s, size_t n)
{
    if (pg_vocab_is_end(c->v, id))
        return earley_ends(c->e, c->n_text, c->g->rule[0]);
    if (!n)
        return false;
    return earley_token(c, s, n) ||
           (c->first_space && c->n_text == 0 && s[0] == ' ' && earley_token(c, s + 1, n - 1));
}

/* Compares all tokens; returns one of those that go on, or -1. */
static int32_t compare_all(struct compare *c)
{
    uint32_t bits[(N_VOCAB + 31) / 32];
    struct pg_err err = {0};
    int n_any = 0;
    int32_t chosen = -1;
    int rc = pg_matcher_mask(c->m, bits, &err);
    if (rc == PG_ENOTSUP) { /* too ambiguous */
        c->full = true;
        return -1;
    }
    for (int32_t id = 0; id < N_VOCAB; id++) {
        const char *s = printed[c->first_space][id].s;
        size_t n = printed[c->first_space][id].n;
        bool want = wanted(c, id, s, n), found = bits[id / 32] >> (id % 32) & 1;
        bool alone = pg_matcher_allows(c->m, id);
        if (want != found || want != alone)
            fail_msg("token %d '%.*s' after %d bytes: %d wanted, %d in the mask, %d alone\n%s", id,
                     (int)n, s, c->n_text, want, found, alone, c->g->text.s);
        n_any += want;
        if (want && !pg_vocab_is_end(c->v, id) && below((uint32_t)n_any) == 0)
            chosen = id;
        if (!want)
            assert_int_equal(pg_matcher_accept(c->m, id, &err), PG_EARG);
    }
    assert_int_equal(rc, n_any ? 0 : PG_EFORMAT);
    assert_int_equal(pg_matcher_may_end(c->m), earley_ends(c->e, c->n_text, c->g->rule[0]));
    return chosen;
}

static void walk_randomly(struct compare *c)
{
    for (int step = 0; step < 6; step++) {
        struct pg_err err;
        int32_t id = compare_all(c);
        const char *s = id < 0 ? "" : printed[c->first_space][id].s;
        size_t n = id < 0 ? 0 : printed[c->first_space][id].n;
        if (id < 0 || c->n_text + (int)n > EARLEY_TEXT - 24)
            return;
        must(pg_matcher_accept(c->m, id, &err), &err);
        bool dropped = !earley_token(c, s, n); /* the space at the beginning */
        assert_true(!dropped || (c->first_space && c->n_text == 0));
        if (c->first_space && c->n_text == 0 && s[0] == ' ')
            return; /* the text may now stand in two ways, which the other parser cannot */
        c->n_text += (int)n;
    }
}

enum { N_GRAMMARS = SANITIZED ? 25 : 64 };

static void test_random_grammars(void **state)
{
    struct made *g = calloc(1, sizeof(*g));
    struct earley *e = calloc(1, sizeof(*e));
    int n_done = 0, n_circles = 0, n_full = 0;
    (void)state;
    assert_true(g && e);
    for (int i = 0; i < N_GRAMMARS; i++) {
        struct pg_err err;
        pg_grammar *grammar;
        make_grammar(g);
        int rc = pg_grammar_open(&grammar, g->text.s, g->text.n, &err);
        if (rc) { /* a repetition of what may be empty can stand before a call */
            n_circles++;
            says(err.text, g->r.symbol[g->rule[0]].ends ? "calls itself" : "");
            continue;
        }
        assert_true(g->r.symbol[g->rule[0]].ends);
        e->r = &g->r;
        struct compare c = {.g = g, .e = e, .v = vocabs[i % 2], .first_space = i % 2};
        must(pg_matcher_open(&c.m, grammar, c.v, &err), &err);
        earley_start(e, g->rule[0]);
        walk_randomly(&c);
        pg_matcher_close(c.m);
        pg_grammar_close(grammar);
        n_done += !c.full;
        n_full += c.full;
    }
    print_message("%d grammars compared, %d refused, %d too ambiguous\n", n_done, n_circles,
                  n_full);
    assert_true(n_done > N_GRAMMARS * 3 / 4 && n_full < N_GRAMMARS / 8);
    free(g->text.s);
    free(g);
    free(e);
}

/* ------------------------------------------------------------------ a real vocabulary ------- */

static const char json[] = "root ::= value\n"
                           "value ::= object | array | string | number | \"true\" | \"null\"\n"
                           "object ::= \"{\" ws (pair (ws \",\" ws pair)*)? ws \"}\"\n"
                           "pair ::= string ws \":\" ws value\n"
                           "array ::= \"[\" ws (value (ws \",\" ws value)*)? ws \"]\"\n"
                           "string ::= \"\\\"\" char* \"\\\"\"\n"
                           "char ::= [^\"\\\\\\x00-\\x1F] | \"\\\\\" [\"\\\\/bfnrt]\n"
                           "number ::= \"-\"? [0-9]+ (\".\" [0-9]+)?\n"
                           "ws ::= [ \\n]{0,3}\n";

/* Masks of the whole vocabulary against tokens one by one, in a text that has everything. */
static void test_real_vocabulary(void **state)
{
    static const char text[] = "{\"name\": [1, -2.5, \"\xe5\x90\x8d \\\" \xc3\xa9\"], \"b\" : {}}";
    int32_t id[128];
    struct pg_ids ids = {id, PG_COUNT(id), 0};
    struct pg_err err;
    pg_vocab *v;
    pg_matcher *m;
    pg_grammar *g = open_grammar(json);
    (void)state;
    must(pg_vocab_open(&v, PG_TEST_DATA "/vocab/phi-3.gguf", &err), &err);
    must(pg_matcher_open(&m, g, v, &err), &err);
    int n = pg_vocab_n(v);
    uint32_t *bits = calloc(((size_t)n + 31) / 32, sizeof(*bits));
    must(pg_tokenize(v, text, strlen(text), 0, &ids, &err), &err);
    assert_true(ids.n > 20);
    for (size_t i = 0; i <= ids.n; i++) {
        must(pg_matcher_mask(m, bits, &err), &err);
        for (int32_t k = 0; k < n && i % 3 == 0; k++)
            assert_int_equal(pg_matcher_allows(m, k), bits[k / 32] >> (k % 32) & 1);
        assert_int_equal(pg_matcher_may_end(m), i == ids.n);
        assert_int_equal(pg_matcher_must_end(m), i == ids.n);
        if (i < ids.n)
            must(pg_matcher_accept(m, ids.id[i], &err), &err);
    }
    assert_true(bits[pg_vocab_eos(v) / 32] >> (pg_vocab_eos(v) % 32) & 1);
    must(pg_matcher_accept(m, pg_vocab_eos(v), &err), &err);
    assert_false(pg_matcher_may_end(m));
    assert_int_equal(pg_matcher_mask(m, bits, &err), PG_EFORMAT);
    says(err.text, "the text has ended");
    assert_int_equal(pg_matcher_accept(m, ids.id[0], &err), PG_EARG);
    pg_matcher_reset(m);
    must(pg_matcher_accept(m, ids.id[0], &err), &err);
    free(bits);
    pg_matcher_close(m);
    pg_grammar_close(g);
    pg_vocab_close(v);
}

/* ------------------------------------------------------------------ bounds ------------------ */

/* Texts so long and deep that room has to be made many times: the answer stays the same. */
static void test_long_text(void **state)
{
    static const char piece[] = "{\"a\":[1,\"b\",";
    uint32_t bits[(N_VOCAB + 31) / 32];
    struct pg_err err;
    pg_matcher *m;
    pg_grammar *g = open_grammar(json);
    (void)state;
    must(pg_matcher_open(&m, g, vocabs[0], &err), &err);
    for (int round = 0; round < (SANITIZED ? 3 : 12); round++) {
        for (int i = 0; i < 500; i++)
            for (const char *c = piece; *c; c++)
                must(pg_matcher_accept(m, byte_token(*c), &err), &err);
        must(pg_matcher_mask(m, bits, &err), &err);
        assert_false(pg_matcher_allows(m, byte_token('}')));
        must(pg_matcher_accept(m, byte_token('0'), &err), &err);
        for (int i = 0; i < 500; i++) {
            must(pg_matcher_accept(m, byte_token(']'), &err), &err);
            assert_false(pg_matcher_may_end(m));
            must(pg_matcher_accept(m, byte_token('}'), &err), &err);
            if (i + 1 < 500)
                must(pg_matcher_accept(m, byte_token(' '), &err), &err);
        }
        assert_true(pg_matcher_must_end(m));
        pg_matcher_reset(m);
    }
    pg_matcher_close(m);
    pg_grammar_close(g);
}

/* An ambiguous grammar works as far as there is room, and then says so: it never lets a token
 * through that it has not followed. */
static void test_ambiguous(void **state)
{
    uint32_t bits[(N_VOCAB + 31) / 32];
    struct pg_err err = {0};
    pg_matcher *m;
    pg_grammar *g = open_grammar("root ::= s \".\"\ns ::= \"a\" | \"a\" s | \"a\" s s | t s\n"
                                 "t ::= \"a\" s \"a\" | \"a\" t\n");
    int n = 0, rc = 0;
    (void)state;
    must(pg_matcher_open(&m, g, vocabs[0], &err), &err);
    for (; n < 3000 && !rc; n++)
        rc = pg_matcher_accept(m, byte_token('a'), &err);
    print_message("%d letters: %s\n", n, rc ? err.text : "no end");
    assert_true(n > 50);
    if (rc) {
        assert_int_equal(rc, PG_ENOTSUP);
        says(err.text, "in more ways at once");
    }
    rc = pg_matcher_mask(m, bits, &err);
    assert_true(rc == 0 || rc == PG_ENOTSUP);
    for (int32_t id = 0; id < N_VOCAB && rc; id++)
        assert_int_equal(bits[id / 32] >> (id % 32) & 1, 0);
    assert_false(pg_matcher_allows(m, byte_token('b')));
    pg_matcher_close(m);
    pg_grammar_close(g);
}

/* The vocabulary's tree of tokens is made by whoever comes first, and is the same for all. */
struct alone {
    pthread_t thread;
    const pg_grammar *g;
    const pg_vocab *v;
    uint32_t bits[(N_VOCAB + 31) / 32];
    int rc;
};

static void *ask_alone(void *arg)
{
    struct alone *a = arg;
    pg_matcher *m;
    a->rc = pg_matcher_open(&m, a->g, a->v, NULL);
    if (!a->rc)
        a->rc = pg_matcher_mask(m, a->bits, NULL);
    pg_matcher_close(m);
    return NULL;
}

static void test_threads(void **state)
{
    static struct alone a[4];
    pg_grammar *g = open_grammar(json);
    pg_vocab *v = make_vocab(true);
    (void)state;
    for (size_t i = 0; i < PG_COUNT(a); i++) {
        a[i].g = g;
        a[i].v = v;
        assert_int_equal(pthread_create(&a[i].thread, NULL, ask_alone, &a[i]), 0);
    }
    for (size_t i = 0; i < PG_COUNT(a); i++) {
        pthread_join(a[i].thread, NULL);
        assert_int_equal(a[i].rc, 0);
        assert_memory_equal(a[i].bits, a[0].bits, sizeof(a[0].bits));
    }
    pg_vocab_close(v);
    pg_grammar_close(g);
}

static void test_bytes(void **state)
{
    pg_grammar *g = open_grammar(json);
    (void)state;
    assert_in_range(pg_matcher_bytes(g, vocabs[0]), 1 << 20, 16 << 20);
    assert_in_range(pg_matcher_bytes(NULL, vocabs[0]), 1, 1 << 16);
    pg_grammar_close(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_languages),       cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_hostile),         cmocka_unit_test(test_random_grammars),
        cmocka_unit_test(test_real_vocabulary), cmocka_unit_test(test_long_text),
        cmocka_unit_test(test_ambiguous),       cmocka_unit_test(test_threads),
        cmocka_unit_test(test_bytes),
    };
    return cmocka_run_group_tests(tests, open_vocabs, close_vocabs);
}
