/* SPDX-License-Identifier: MIT
 * From logits to a token, through the public header: each choice is compared with one made in
 * float64 from pg_session_logits, and what is drawn with the probabilities that it should have.
 */
#include "helpers.h"

#include "pregate.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

enum { N_CTX = 64, MAX_VOCAB = 512 };

static pg_engine *engine;
static pg_session *session; /* each test starts it with sync */
static int n_vocab;
static int32_t prompt[N_CTX];
static size_t n_prompt;

static int open_model(void **state)
{
    static const char text[] = "once upon a time there was a little cat and a little dog and a";
    struct pg_options opt = {PG_OPTIONS_INIT, .model = PG_MODELS "/tinystories-moe.gguf",
                             .n_ctx = N_CTX,  .n_sessions = 2,
                             .n_threads = 1,  .mode = PG_MODE_RESIDENT};
    struct pg_ids out = {prompt, N_CTX / 2, 0};
    struct pg_err err;
    (void)state;
    if (pg_engine_open(&engine, &opt, &err) || pg_session_open(&session, engine, NULL, &err) ||
        pg_tokenize(pg_engine_vocab(engine), text, strlen(text), PG_TOKENIZE_BOS, &out, &err)) {
        print_error("%s\n", err.text);
        return -1;
    }
    n_prompt = out.n;
    struct pg_model_info info;
    pg_engine_info(engine, &info);
    n_vocab = info.n_vocab;
    return n_vocab > MAX_VOCAB;
}

static int close_model(void **state)
{
    (void)state;
    pg_session_close(session);
    pg_engine_close(engine);
    return 0;
}

/* The state after the first n tokens of the prompt. */
static void start(pg_session *s, size_t n)
{
    struct pg_err err;
    must(pg_session_sync(s, prompt, n, &err), &err);
}

static int32_t sample(pg_session *s, const struct pg_sampling *how)
{
    int32_t token = -1;
    struct pg_err err;
    must(pg_session_sample(s, how, &token, &err), &err);
    assert_in_range(token, 0, n_vocab - 1);
    return token;
}

/* Logits to try what the model would not say. They are the session's own until its next step. */
static float *own_logits(void)
{
    return (float *)(uintptr_t)pg_session_logits(session);
}

/* ------------------------------------------------------------------ in float64 -------------- */

struct want {
    double logit, p;
    int id;
};

static int compare(const void *a, const void *b)
{
    const struct want *x = a, *y = b;
    return x->logit != y->logit ? (x->logit < y->logit ? 1 : -1) : x->id - y->id;
}

static void penalise(const struct pg_sampling *how, size_t n_tokens, struct want *w)
{
    size_t last = how->penalty_last_n ? (size_t)how->penalty_last_n : 64;
    int count[MAX_VOCAB] = {0};
    for (size_t i = n_tokens > last ? n_tokens - last : 0; i < n_tokens; i++)
        count[prompt[i]]++;
    for (int i = 0; i < n_vocab; i++) {
        if (count[i]) {
            double repeat = how->repeat_penalty > 0 ? (double)how->repeat_penalty : 1;
            w[i].logit = w[i].logit > 0 ? w[i].logit / repeat : w[i].logit * repeat;
            w[i].logit -= (double)how->presence_penalty;
            w[i].logit -= count[i] * (double)how->frequency_penalty;
        }
    }
}

static void add_bias(const struct pg_sampling *how, struct want *w)
{
    for (int i = 0; i < how->n_bias; i++)
        w[how->bias_id[i]].logit += (double)how->bias[i];
}

static void softmax(struct want *w, int n, double temp)
{
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += exp((w[i].logit - w[0].logit) / temp);
    for (int i = 0; i < n; i++)
        w[i].p = exp((w[i].logit - w[0].logit) / temp) / sum;
}

/* Distance of a token's surprise from the entropy; more for those that have been taken. */
static double atypical(const struct want *w, double entropy)
{
    return w->p < 0 ? (double)INFINITY : fabs(-log(w->p) - entropy);
}

/* By the definition: the nearest to the entropy first, until they sum to typical_p. */
static int keep_typical(double typical_p, struct want *w, int n)
{
    double entropy = 0, sum = 0;
    struct want kept[MAX_VOCAB];
    int n_kept = 0;
    for (int i = 0; i < n; i++)
        entropy -= w[i].p * log(w[i].p);
    for (; n_kept < n && sum < typical_p; n_kept++) {
        int best = 0;
        for (int i = 1; i < n; i++)
            best = atypical(&w[i], entropy) < atypical(&w[best], entropy) ? i : best;
        kept[n_kept] = w[best];
        sum += w[best].p;
        w[best].p = -1;
    }
    memcpy(w, kept, (size_t)n_kept * sizeof(*w));
    qsort(w, (size_t)n_kept, sizeof(*w), compare);
    softmax(w, n_kept, 1);
    return n_kept;
}

/* The tokens that may be drawn after the first n_tokens of the prompt, by falling logit. Returns
 * how many; `slack` widens the set, for a sum in float may fall on the other side of a bound. */
static int allowed(const struct pg_sampling *how, size_t n_tokens, double slack, struct want *w)
{
    const float *logits = pg_session_logits(session);
    int n = n_vocab;
    for (int i = 0; i < n; i++)
        w[i] = (struct want){(double)logits[i], 0, i};
    add_bias(how, w);
    penalise(how, n_tokens, w);
    qsort(w, (size_t)n, sizeof(*w), compare);
    if (how->temp == 0)
        return 1;
    n = how->top_k > 0 && how->top_k < n ? how->top_k : n;
    while (w[n - 1].logit == (double)-INFINITY)
        n--;
    softmax(w, n, 1);
    if (how->typical_p > 0 && how->typical_p < 1)
        n = keep_typical((double)how->typical_p + slack, w, n);
    if (how->top_p > 0 && how->top_p < 1) {
        double sum = 0;
        int keep = 0;
        while (keep < n && sum < (double)how->top_p + slack)
            sum += w[keep++].p;
        n = keep;
    }
    int keep = 1;
    while (keep < n && w[keep].p >= (double)how->min_p * w[0].p * (1 - slack))
        keep++;
    softmax(w, keep, (double)how->temp);
    return keep;
}

/* ------------------------------------------------------------------ greedy ------------------ */

static int argmax(const float *x, int n)
{
    int best = 0;
    for (int i = 1; i < n; i++)
        best = x[i] > x[best] ? i : best;
    return best;
}

static void test_greedy(void **state)
{
    const struct pg_sampling greedy = {PG_SAMPLING_INIT, .seed = 3};
    const struct pg_sampling one = {PG_SAMPLING_INIT, .temp = 1.5f, .top_k = 1, .seed = 4};
    const struct pg_sampling cold = {PG_SAMPLING_INIT, .temp = 1e-44f, .seed = 5};
    (void)state;
    for (size_t n = 1; n <= n_prompt; n++) {
        start(session, n);
        int best = argmax(pg_session_logits(session), n_vocab);
        assert_int_equal(sample(session, &greedy), best);
        assert_int_equal(sample(session, NULL), best);
        assert_int_equal(sample(session, &one), best);
        assert_int_equal(sample(session, &cold), best);
    }
}

/* Of equal logits the lower id comes first, also where top_k cuts between them. */
static void test_ties(void **state)
{
    const struct pg_sampling how = {PG_SAMPLING_INIT, .temp = 1, .top_k = 5};
    bool seen[MAX_VOCAB] = {false};
    (void)state;
    start(session, n_prompt);
    float *logits = own_logits();
    for (int i = 0; i < n_vocab; i++)
        logits[i] = i % 7 == 3 ? 2.0f : -1.0f;
    logits[400] = 2.5f;
    assert_int_equal(sample(session, NULL), 400);
    logits[400] = -INFINITY; /* which is never drawn, and hurts nothing */
    assert_int_equal(sample(session, NULL), 3);
    for (int i = 0; i < 400; i++)
        seen[sample(session, &how)] = true;
    for (int i = 0; i < n_vocab; i++)
        assert_int_equal(seen[i], i % 7 == 3 && i < 5 * 7);
    pg_session_truncate(session, 0);
}

/* ------------------------------------------------------------------ drawing ----------------- */

/* Chi-square of the counts; tokens that should come less than five times count as one. */
static void check_counts(const struct want *w, int n, const int *count, int n_draws)
{
    double chi = 0, rest_p = 0, rest_count = 0;
    int bins = 0;
    for (int i = 0; i < n; i++) {
        double expect = w[i].p * n_draws, found = count[w[i].id];
        if (expect < 5) {
            rest_p += w[i].p;
            rest_count += found;
            continue;
        }
        chi += (found - expect) * (found - expect) / expect;
        bins++;
    }
    if (rest_p * n_draws >= 1) {
        double expect = rest_p * n_draws;
        chi += (rest_count - expect) * (rest_count - expect) / expect;
        bins++;
    }
    /* Mean bins - 1, variance twice that. */
    double limit = bins - 1 + 5 * sqrt(2.0 * bins);
    if (!(chi < limit))
        fail_msg("chi-square %.1f of %d bins, %.1f is the limit", chi, bins, limit);
}

static void check_draws(const struct pg_sampling *how, int n_draws)
{
    struct want w[MAX_VOCAB];
    bool may[MAX_VOCAB] = {false};
    int count[MAX_VOCAB] = {0};
    int n = allowed(how, n_prompt, 1e-4, w);
    for (int i = 0; i < n; i++)
        may[w[i].id] = true;
    for (int i = 0; i < n_draws; i++) {
        int32_t token = sample(session, how);
        if (!may[token]) {
            fail_msg("token %d is not among the %d that temp %g, top_k %d, top_p %g, min_p %g let",
                     token, n, (double)how->temp, how->top_k, (double)how->top_p,
                     (double)how->min_p);
        }
        count[token]++;
    }
    n = allowed(how, n_prompt, 0, w);
    check_counts(w, n, count, n_draws);
    /* What should come fifteen times does come: no set is cut too small. */
    for (int i = 0; i < n; i++)
        assert_true(count[w[i].id] > 0 || w[i].p * n_draws < 15);
}

static void test_draws(void **state)
{
    static const struct pg_sampling how[] = {
        {PG_SAMPLING_INIT, .temp = 1, .seed = 11},
        {PG_SAMPLING_INIT, .temp = 0.7f},
        {PG_SAMPLING_INIT, .temp = 3},
        {PG_SAMPLING_INIT, .temp = 1, .top_k = 7},
        {PG_SAMPLING_INIT, .temp = 1, .top_k = 2000000},
        {PG_SAMPLING_INIT, .temp = 1, .top_p = 0.5f},
        {PG_SAMPLING_INIT, .temp = 2, .top_p = 0.9f},
        {PG_SAMPLING_INIT, .temp = 1.5f, .min_p = 0.05f},
        {PG_SAMPLING_INIT, .temp = 1.5f, .min_p = 1},
        {PG_SAMPLING_INIT, .temp = 1.3f, .top_k = 20, .top_p = 0.95f, .min_p = 0.02f},
        {PG_SAMPLING_INIT, .temp = 1, .repeat_penalty = 1.3f, .top_p = 0.95f},
        {PG_SAMPLING_INIT, .temp = 1, .presence_penalty = 1, .frequency_penalty = 0.5f,
         .penalty_last_n = 12},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(how); i++) {
        start(session, n_prompt);
        check_draws(&how[i], i % 9 ? 400 : 2000); /* the plain one and the fullest, longer */
    }
}

static void refused(const struct pg_sampling *how, int code, const char *named)
{
    int32_t token = -7;
    struct pg_err err = {0};
    assert_int_equal(pg_session_sample(session, how, &token, &err), code);
    assert_int_equal(err.code, code);
    assert_int_equal(token, -7);
    says(err.text, named);
    assert_int_equal(pg_session_sample(session, how, &token, NULL), code);
}

static const int32_t biased[] = {5, 40, 41, 42, 300};
static const float bias[] = {4, 3, -INFINITY, -2, 2.5f};

static void test_typical_and_bias(void **state)
{
    static const struct pg_sampling how[] = {
        {PG_SAMPLING_INIT, .temp = 1, .typical_p = 0.2f},
        {PG_SAMPLING_INIT, .temp = 1, .typical_p = 0.7f},
        {PG_SAMPLING_INIT, .temp = 1, .typical_p = 1},
        {PG_SAMPLING_INIT, .temp = 1.4f, .typical_p = 0.95f, .top_k = 30, .top_p = 0.9f},
        {PG_SAMPLING_INIT, .temp = 1, .bias_id = biased, .bias = bias, .n_bias = COUNT(bias)},
        {PG_SAMPLING_INIT, .temp = 1, .bias_id = biased, .bias = bias, .n_bias = COUNT(bias),
         .repeat_penalty = 1.3f, .typical_p = 0.9f},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(how); i++) {
        start(session, n_prompt);
        check_draws(&how[i], 400);
    }
    struct pg_sampling one = {PG_SAMPLING_INIT, .bias_id = biased, .bias = bias, .n_bias = 3};
    own_logits()[41] = 1000; /* which the bias forbids */
    own_logits()[40] = 999;
    assert_int_equal(sample(session, &one), 40);
    int32_t every[MAX_VOCAB];
    float never[MAX_VOCAB];
    for (int i = 0; i < n_vocab; i++) {
        every[i] = i;
        never[i] = -INFINITY;
    }
    one =
        (struct pg_sampling){PG_SAMPLING_INIT, .bias_id = every, .bias = never, .n_bias = n_vocab};
    refused(&one, PG_EARG, "forbidden by a bias");
    pg_session_truncate(session, 0);
}

/* ------------------------------------------------------------------ grammars ---------------- */

static pg_matcher *open_matcher(const char *gbnf, pg_grammar **g)
{
    struct pg_err err;
    pg_matcher *m;
    must(pg_grammar_open(g, gbnf, strlen(gbnf), &err), &err);
    must(pg_matcher_open(&m, *g, pg_engine_vocab(engine), &err), &err);
    return m;
}

/* What is drawn is always allowed, and as the probabilities of the allowed tokens have it. */
static void test_grammar_draws(void **state)
{
    pg_grammar *g;
    pg_matcher *m = open_matcher("root ::= [a-m ]* \".\"", &g);
    struct pg_sampling how = {PG_SAMPLING_INIT, .temp = 1, .matcher = m};
    uint32_t bits[(MAX_VOCAB + 31) / 32];
    struct want w[MAX_VOCAB];
    int count[MAX_VOCAB] = {0}, n = 0;
    struct pg_err err;
    (void)state;
    start(session, n_prompt);
    must(pg_matcher_mask(m, bits, &err), &err);
    for (int i = 0; i < n_vocab; i++)
        if (bits[i / 32] >> (i % 32) & 1)
            w[n++] = (struct want){(double)pg_session_logits(session)[i], 0, i};
    assert_in_range(n, 5, n_vocab / 2);
    qsort(w, (size_t)n, sizeof(*w), compare);
    softmax(w, n, 1);
    for (int i = 0; i < 1000; i++) {
        pg_matcher_reset(m);
        int32_t token = sample(session, &how);
        assert_true(bits[token / 32] >> (token % 32) & 1);
        count[token]++;
    }
    check_counts(w, n, count, 1000);
    how.temp = 0;
    pg_matcher_reset(m);
    assert_int_equal(sample(session, &how), w[0].id);
    own_logits()[w[0].id] = -1000; /* and where the likeliest may not come */
    pg_matcher_reset(m);
    assert_int_equal(sample(session, &how), w[1].id);
    pg_matcher_close(m);
    pg_grammar_close(g);
    pg_session_truncate(session, 0);
}

/* A text that the model would not write, to its end, which is an end token. */
static void test_grammar_text(void **state)
{
    static const char wanted[] = "The 3 cats";
    char text[64 + PG_PIECE_MAX];
    pg_grammar *g;
    pg_matcher *m = open_matcher("root ::= \"The 3 cats\"", &g);
    for (int greedy = 0; greedy < 2; greedy++) {
        const struct pg_sampling how = {PG_SAMPLING_INIT, .temp = greedy ? 0.0f : 1.0f,
                                        .matcher = m};
        struct pg_detok d = {.vocab = pg_engine_vocab(engine)};
        struct pg_err err;
        size_t n = 0;
        int32_t token = -1;
        (void)state;
        start(session, 3);
        pg_matcher_reset(m);
        while (!pg_vocab_is_end(d.vocab, token)) {
            must(pg_session_next(session, &how, &token, &err), &err);
            n += pg_detokenize(&d, token, text + n);
            assert_true(n < 64);
        }
        assert_int_equal(n, strlen(wanted));
        assert_memory_equal(text, wanted, n);
        refused(&how, PG_EFORMAT, "the text has ended");
    }
    pg_matcher_close(m);
    pg_grammar_close(g);
}

/* A narrower set never holds what a wider one does not: the whole set is drawn from flat logits. */
static void test_sets_of_flat_logits(void **state)
{
    const struct pg_sampling how = {PG_SAMPLING_INIT, .temp = 1, .top_k = 10, .top_p = 0.75f};
    bool seen[MAX_VOCAB] = {false};
    (void)state;
    start(session, n_prompt);
    for (int i = 0; i < n_vocab; i++)
        own_logits()[i] = -4;
    for (int i = 0; i < 500; i++)
        seen[sample(session, &how)] = true;
    for (int i = 0; i < n_vocab; i++)
        assert_int_equal(seen[i], i < 8); /* 7 of 10 are 0.7, less than 0.75 */
    pg_session_truncate(session, 0);
}

/* ------------------------------------------------------------------ seeds ------------------- */

enum { N_TEXT = 30 };

static void write_text(const struct pg_sampling *how, int n_greedy, int32_t *text)
{
    pg_session *s;
    struct pg_err err;
    must(pg_session_open(&s, engine, NULL, &err), &err);
    start(s, n_prompt);
    for (int i = 0; i < n_greedy; i++)
        sample(s, NULL);
    for (int i = 0; i < N_TEXT; i++)
        must(pg_session_next(s, how, &text[i], &err), &err);
    assert_int_equal(pg_session_n_tokens(s), n_prompt + N_TEXT);
    pg_session_close(s);
}

static void test_seeds(void **state)
{
    int32_t text[4][N_TEXT];
    struct pg_sampling how = {PG_SAMPLING_INIT, .temp = 1, .top_p = 0.95f, .seed = 77};
    (void)state;
    write_text(&how, 0, text[0]);
    write_text(&how, 0, text[1]);
    write_text(&how, 5, text[2]); /* a greedy choice uses no randomness */
    how.seed = 78;
    write_text(&how, 0, text[3]);
    assert_memory_equal(text[0], text[1], sizeof(text[0]));
    assert_memory_equal(text[0], text[2], sizeof(text[0]));
    assert_memory_not_equal(text[0], text[3], sizeof(text[0]));
}

/* ------------------------------------------------------------------ penalties --------------- */

static void test_penalties(void **state)
{
    static const struct pg_sampling how[] = {
        {PG_SAMPLING_INIT, .repeat_penalty = 1.1f},
        {PG_SAMPLING_INIT, .repeat_penalty = 2},
        {PG_SAMPLING_INIT, .repeat_penalty = 100, .penalty_last_n = 12},
        {PG_SAMPLING_INIT, .repeat_penalty = 0.25f},
        {PG_SAMPLING_INIT, .presence_penalty = 3},
        {PG_SAMPLING_INIT, .presence_penalty = -8, .penalty_last_n = 5},
        {PG_SAMPLING_INIT, .frequency_penalty = 1.5f},
        {PG_SAMPLING_INIT, .frequency_penalty = -4},
        {PG_SAMPLING_INIT, .frequency_penalty = 2, .presence_penalty = 1, .repeat_penalty = 1.2f},
        {PG_SAMPLING_INIT, .frequency_penalty = 10000, .penalty_last_n = 2000000000},
    };
    struct want w[MAX_VOCAB];
    (void)state;
    for (size_t i = 0; i < COUNT(how); i++) {
        int changed = 0;
        for (size_t n = 2; n <= n_prompt; n++) {
            start(session, n);
            allowed(&how[i], n, 0, w);
            int32_t token = sample(session, &how[i]);
            if (token != w[0].id) { /* unless float cannot tell the two apart */
                assert_int_equal(token, w[1].id);
                assert_true(w[0].logit - w[1].logit < 1e-4);
            }
            changed += token != argmax(pg_session_logits(session), n_vocab);
        }
        assert_true(changed > 0);
    }
}

/* A token that is said all the time is not said again; the logits themselves stay. */
static void test_penalty_on_crafted(void **state)
{
    struct pg_sampling how = {PG_SAMPLING_INIT, .repeat_penalty = 2};
    int32_t a = prompt[n_prompt - 1], b = (a + 1) % n_vocab;
    (void)state;
    start(session, n_prompt);
    float *logits = own_logits();
    for (int i = 0; i < n_vocab; i++)
        logits[i] = -100;
    bool used = false;
    for (size_t i = 0; i < n_prompt; i++)
        used = used || prompt[i] == b;
    assert_false(used);
    logits[a] = 4;
    logits[b] = 2.5f;
    assert_int_equal(sample(session, NULL), a);
    assert_int_equal(sample(session, &how), b); /* 4 / 2 < 2.5 */
    logits[b] = 1.5f;
    assert_int_equal(sample(session, &how), a);
    logits[a] = -1; /* times 2 */
    logits[b] = -1.5f;
    assert_int_equal(sample(session, &how), b);
    how = (struct pg_sampling){PG_SAMPLING_INIT, .presence_penalty = 0.4f};
    assert_int_equal(sample(session, &how), a);
    how.presence_penalty = 0.6f;
    assert_int_equal(sample(session, &how), b);
    assert_true(logits[a] == -1);
    pg_session_truncate(session, 0);
}

/* ------------------------------------------------------------------ refusals ---------------- */

static void test_out_of_range(void **state)
{
    static const struct {
        const char *name;
        size_t offset;
        float lo, hi;
    } fields[] = {
#define FIELD(name, lo, hi) {#name, offsetof(struct pg_sampling, name), lo, hi}
        FIELD(temp, 0, 1e4f),
        FIELD(top_p, 0, 1),
        FIELD(min_p, 0, 1),
        FIELD(repeat_penalty, 0, 1e4f),
        FIELD(presence_penalty, -1e4f, 1e4f),
        FIELD(frequency_penalty, -1e4f, 1e4f),
        FIELD(typical_p, 0, 1),
#undef FIELD
    };
    (void)state;
    start(session, n_prompt);
    for (size_t i = 0; i < COUNT(fields); i++) {
        const float bad[] = {fields[i].lo - 1, fields[i].hi * 2, NAN, INFINITY, -INFINITY};
        for (size_t j = 0; j < COUNT(bad); j++) {
            struct pg_sampling how = {PG_SAMPLING_INIT, .temp = 1};
            memcpy((char *)&how + fields[i].offset, &bad[j], sizeof(float));
            refused(&how, PG_EARG, fields[i].name);
        }
    }
    refused(&(struct pg_sampling){PG_SAMPLING_INIT, .top_k = -1}, PG_EARG, "top_k");
    refused(&(struct pg_sampling){PG_SAMPLING_INIT, .penalty_last_n = -1}, PG_EARG,
            "penalty_last_n");
    refused(&(struct pg_sampling){PG_SAMPLING_INIT, .temp = -1}, PG_EARG, "-1 found");
    refused(&(struct pg_sampling){PG_SAMPLING_INIT, .n_bias = -1}, PG_EARG, "n_bias");
    refused(&(struct pg_sampling){PG_SAMPLING_INIT, .n_bias = 1}, PG_EARG, "there is no bias");
    for (int i = 0; i < 4; i++) {
        const int32_t id = i == 0 ? -1 : i == 1 ? n_vocab : 7;
        const float by = i == 2 ? NAN : i == 3 ? INFINITY : 1;
        const struct pg_sampling how = {PG_SAMPLING_INIT, .bias_id = &id, .bias = &by, .n_bias = 1};
        refused(&how, PG_EARG, i < 2 ? "bias_id[0]" : "bias[0]");
    }
    assert_int_equal(sample(session, NULL), argmax(pg_session_logits(session), n_vocab));
}

static void test_no_logits(void **state)
{
    (void)state;
    start(session, n_prompt);
    assert_int_equal(pg_session_truncate(session, n_prompt + 1), PG_EARG);
    assert_non_null(pg_session_logits(session));
    assert_int_equal(pg_session_truncate(session, n_prompt - 1), 0);
    assert_null(pg_session_logits(session));
    refused(&(struct pg_sampling){PG_SAMPLING_INIT}, PG_EARG, "no logits");
}

/* An option struct of an older header ends earlier; what it lacks is off. */
static void test_older_struct(void **state)
{
    struct pg_sampling how = {.size = offsetof(struct pg_sampling, top_p), .top_p = 5};
    (void)state;
    start(session, n_prompt);
    assert_int_equal(sample(session, &how), argmax(pg_session_logits(session), n_vocab));
}

static void test_logits_not_finite(void **state)
{
    static const float bad[] = {INFINITY};
    const struct pg_sampling ways[] = {
        {PG_SAMPLING_INIT},
        {PG_SAMPLING_INIT, .temp = 1},
        {PG_SAMPLING_INIT, .temp = 1, .top_k = 1},
        {PG_SAMPLING_INIT, .temp = 1, .top_k = 5, .top_p = 0.5f},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(ways); i++) {
        for (int at = 0; at < n_vocab; at += 73) {
            for (size_t j = 0; j < COUNT(bad); j++) {
                start(session, n_prompt);
                own_logits()[at] = bad[j];
                refused(&ways[i], PG_ENUMERIC, "logits");
                pg_session_truncate(session, 0);
            }
        }
        start(session, n_prompt);
        for (int at = 0; at < n_vocab; at++)
            own_logits()[at] = -INFINITY;
        refused(&ways[i], PG_ENUMERIC, "logits");
        pg_session_truncate(session, 0);
    }
    /* A penalty may make infinity of what was finite. */
    start(session, n_prompt);
    own_logits()[prompt[0]] = 30;
    refused(&(struct pg_sampling){PG_SAMPLING_INIT, .temp = 1, .repeat_penalty = 1e-38f},
            PG_ENUMERIC, "logits");
    pg_session_truncate(session, 0);
}

/* ------------------------------------------------------------------ a full context ---------- */

static size_t fill_context(pg_session *s, int32_t *text)
{
    struct pg_err err = {0};
    size_t n = 0;
    int rc;
    while (!(rc = pg_session_next(s, NULL, &text[n], &err)))
        assert_true(++n < N_CTX);
    assert_int_equal(rc, PG_ECONTEXT);
    assert_non_null(strstr(err.text, "full"));
    return n;
}

static void test_full_context(void **state)
{
    int32_t first[N_CTX], again[N_CTX];
    struct pg_session_options opt = {PG_SESSION_OPTIONS_INIT, .n_ctx = (int)n_prompt + 9};
    struct pg_err err;
    pg_session *s;
    (void)state;
    assert_int_equal(pg_session_open(&s, engine, &opt, &err), 0);
    start(s, n_prompt);
    assert_int_equal(fill_context(s, first), 9);
    assert_int_equal(pg_session_n_tokens(s), opt.n_ctx);
    /* There are still logits to choose from, but no token fits. */
    int32_t token = sample(s, NULL);
    assert_int_equal(pg_session_eval(s, &token, 1, NULL, &err), PG_ECONTEXT);
    assert_int_equal(pg_session_n_tokens(s), opt.n_ctx);
    assert_int_equal(pg_session_truncate(s, n_prompt - 3), 0);
    start(s, n_prompt);
    assert_int_equal(fill_context(s, again), 9);
    assert_memory_equal(first, again, 9 * sizeof(int32_t));
    assert_int_equal(sample(s, NULL), token);
    pg_session_close(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_greedy),
        cmocka_unit_test(test_ties),
        cmocka_unit_test(test_draws),
        cmocka_unit_test(test_typical_and_bias),
        cmocka_unit_test(test_grammar_draws),
        cmocka_unit_test(test_grammar_text),
        cmocka_unit_test(test_sets_of_flat_logits),
        cmocka_unit_test(test_seeds),
        cmocka_unit_test(test_penalties),
        cmocka_unit_test(test_penalty_on_crafted),
        cmocka_unit_test(test_out_of_range),
        cmocka_unit_test(test_no_logits),
        cmocka_unit_test(test_older_struct),
        cmocka_unit_test(test_logits_not_finite),
        cmocka_unit_test(test_full_context),
    };
    return cmocka_run_group_tests(tests, open_model, close_model);
}
