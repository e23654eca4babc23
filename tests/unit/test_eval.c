/* SPDX-License-Identifier: MIT
 * Evaluation beside what this file computes itself from logits, gates and greedy text; the same
 * bits for any batch, budget, mode and number of threads and sessions; and what is refused.
 */
#include "helpers.h"

#include "engine/engine.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MODEL PG_MODELS "/tinystories-moe.gguf"
#define DENSE PG_TEST_DATA "/stories260K/stories260K.gguf"

enum { N_CTX = 48, N_DOCS = 5, MAX_TOKENS = 512 };

#define BIRD                                                                                       \
    "once upon a time there was a little bird. the bird was very hungry, so it looked for a seed " \
    "under the old tree. it found a big red apple and asked the tree if it could have it. the "    \
    "tree laughed and said yes, and they were friends from then on and always."
#define SLIDE                                                                                      \
    "tim and sue went to the park. they saw a big slide. tim was scared, but sue held his hand "   \
    "and they went down together. it was so much fun that they did it again."

static const char *const docs[N_DOCS] = {BIRD, "a", "the dog ran.", SLIDE,
                                         "one day, a girl named lily found a key."};

static int make_text(void **state)
{
    char text[2048] = "";
    if (make_dir(state))
        return -1;
    for (int i = 0; i < N_DOCS; i++) {
        strcat(strcat(text, i ? "<|endoftext|>\n" : ""), docs[i]);
        strcat(text, "\n");
    }
    put_text(IN_DIR("text.txt"), text);
    return 0;
}

/* ------------------------------------------------------------------ engines ----------------- */

static struct pg_options options(enum pg_mode mode)
{
    return (struct pg_options){PG_OPTIONS_INIT, .model = MODEL,      .mode = mode,
                               .n_ctx = N_CTX,  .n_threads = 1,      .n_batch = 40,
                               .n_sessions = 3, .kv_type = PG_KV_F32};
}

static pg_engine *open_with(const struct pg_options *opt)
{
    pg_engine *e;
    struct pg_err err;
    must(pg_engine_open(&e, opt, &err), &err);
    return e;
}

static struct pg_eval_report evaluate(pg_engine *e, const struct pg_eval_options *opt)
{
    struct pg_eval_report r;
    struct pg_err err;
    must(pg_eval(e, opt, &r, &err), &err);
    return r;
}

static struct pg_eval_options text_task(enum pg_eval_task task, char path[128])
{
    return (struct pg_eval_options){PG_EVAL_OPTIONS_INIT, .task = task,
                                    .data = in_dir(path, "text.txt")};
}

static struct pg_eval_report evaluate_text(const struct pg_options *opt, enum pg_eval_task task,
                                           bool windows)
{
    char path[128];
    struct pg_eval_options o = text_task(task, path);
    pg_engine *e = open_with(opt);
    o.windows = windows;
    struct pg_eval_report r = evaluate(e, &o);
    pg_engine_close(e);
    return r;
}

/* ------------------------------------------------------------------ perplexity -------------- */

static double likelihood(const float *logits, int n_vocab, int32_t target)
{
    double sum = 0;
    for (int i = 0; i < n_vocab; i++)
        sum += exp((double)logits[i] - (double)logits[target]);
    return log(sum);
}

/* The piece's tokens from an empty context, all but the last run. */
static double piece_likelihood(pg_session *s, int n_vocab, const int32_t *token, size_t n)
{
    float *logits = calloc(n * (size_t)n_vocab, sizeof(float));
    double sum = 0;
    assert_non_null(logits);
    assert_int_equal(pg_session_truncate(s, 0), 0);
    assert_int_equal(pg_session_eval(s, token, n - 1, logits, NULL), 0);
    for (size_t i = 0; i + 1 < n; i++)
        sum += likelihood(logits + i * (size_t)n_vocab, n_vocab, token[i + 1]);
    free(logits);
    return sum;
}

static size_t ids_of(const pg_vocab *v, const char *text, int32_t ids[MAX_TOKENS])
{
    struct pg_ids out = {ids, MAX_TOKENS, 0};
    assert_int_equal(pg_tokenize(v, text, strlen(text), PG_TOKENIZE_BOS, &out, NULL), 0);
    return out.n;
}

struct expectation {
    double nll;
    uint64_t n_tokens, n_cut;
};

static struct expectation expect(const char *model, bool windows)
{
    struct pg_options opt = options(PG_MODE_AUTO);
    struct expectation x = {0, 0, 0};
    opt.model = model;
    pg_engine *e = open_with(&opt);
    pg_session *s;
    const pg_vocab *v = pg_engine_vocab(e);
    assert_int_equal(pg_session_open(&s, e, NULL, NULL), 0);
    for (int i = 0; i < N_DOCS; i++) {
        int32_t ids[MAX_TOKENS], piece[N_CTX];
        size_t n = ids_of(v, docs[i], ids);
        assert_int_equal(ids[0], pg_vocab_bos(v));
        x.n_cut += n > N_CTX;
        for (size_t from = 1; from < n && (windows || from == 1);) {
            size_t more = n - from < N_CTX - 1 ? n - from : N_CTX - 1;
            piece[0] = ids[0];
            memcpy(piece + 1, ids + from, more * sizeof(*ids));
            x.nll += piece_likelihood(s, pg_vocab_n(v), piece, more + 1);
            x.n_tokens += more;
            from += more;
        }
    }
    pg_session_close(s);
    pg_engine_close(e);
    return x;
}

static void test_ppl_of_logits(void **state)
{
    static const char *const models[] = {MODEL, DENSE};
    (void)state;
    for (int i = 0; i < 4; i++) {
        struct pg_options opt = options(PG_MODE_AUTO);
        opt.model = models[i / 2];
        struct expectation x = expect(opt.model, i % 2);
        struct pg_eval_report r = evaluate_text(&opt, PG_EVAL_PPL, i % 2);
        assert_int_equal(r.n_tokens, x.n_tokens);
        assert_int_equal(r.n_docs, N_DOCS);
        assert_int_equal(r.n_cut, x.n_cut);
        assert_true(x.n_cut == 2);
        assert_true(fabs(r.nll_per_token - x.nll / (double)x.n_tokens) < 1e-6 * r.nll_per_token);
        assert_true(r.ppl == exp(r.nll_per_token));
        pg_eval_report_free(&r);
    }
}

static void test_same_bits(void **state)
{
    struct pg_options first = options(PG_MODE_RESIDENT);
    double wanted[2];
    (void)state;
    for (int windows = 0; windows < 2; windows++) {
        struct pg_eval_report r = evaluate_text(&first, PG_EVAL_PPL, windows);
        wanted[windows] = r.nll_per_token;
    }
    assert_true(wanted[0] != wanted[1]);
    static const struct {
        enum pg_mode mode;
        int n_batch, n_sessions, n_threads;
        double spare; /* of the budget, beyond the minimum */
        bool windows;
    } with[] = {
        {PG_MODE_RESIDENT, 1, 1, 1, 1, false},    {PG_MODE_RESIDENT, 200, 8, 2, 1, true},
        {PG_MODE_ONDEMAND, 8, 1, 2, 0.01, false}, {PG_MODE_ONDEMAND, 17, 3, 1, 0.05, true},
        {PG_MODE_LOOKAHEAD, 8, 4, 1, 0.02, true}, {PG_MODE_PREFETCH_ALL, 64, 2, 2, 0.1, false},
        {PG_MODE_LOOKAHEAD, 1, 1, 1, 0.5, false}, {PG_MODE_LOOKAHEAD, 33, 2, 2, 0.2, true},
    };
    for (size_t i = 0; i < PG_COUNT(with); i++) {
        struct pg_options opt = options(with[i].mode);
        struct pg_plan plan;
        opt.n_batch = with[i].n_batch;
        opt.n_sessions = with[i].n_sessions;
        opt.n_threads = with[i].n_threads;
        opt.memory_bytes = 4u << 30;
        assert_int_equal(pg_plan_make(&plan, &opt, NULL), 0);
        opt.memory_bytes =
            plan.minimum + (1u << 20) + (uint64_t)(with[i].spare * (double)plan.expert_bytes * 1.1);
        struct pg_eval_report r = evaluate_text(&opt, PG_EVAL_PPL, with[i].windows);
        if (r.nll_per_token != wanted[with[i].windows]) {
            fail_msg("row %zu: %.17g found, %.17g wanted", i, r.nll_per_token,
                     wanted[with[i].windows]);
        }
    }
}

/* ------------------------------------------------------------------ agreement --------------- */

static void same_blocks(const struct pg_eval_report *a, const struct pg_eval_report *b)
{
    assert_int_equal(a->n_blocks, b->n_blocks);
    assert_int_equal(a->n_tokens, b->n_tokens);
    for (int i = 0; i < a->n_blocks; i++) {
        const struct pg_agree_block *x = &a->blocks[i], *y = &b->blocks[i];
        assert_int_equal(x->block, y->block);
        assert_int_equal(x->n_tokens, y->n_tokens);
        assert_true(x->recall == y->recall && x->mass == y->mass);
        assert_true(x->set_right == y->set_right);
        assert_memory_equal(x->precision, y->precision, sizeof(x->precision));
    }
}

/* A sidecar made of the routers says what lookahead says, and how rows are batched is no matter. */
static void test_hint_is_lookahead(void **state)
{
    char sidecar[128];
    (void)state;
    in_dir(sidecar, "sidecar.gguf");
    for (int level = 1; level <= 5; level += 2) {
        struct pg_options opt = options(PG_MODE_LOOKAHEAD);
        opt.lookahead = level;
        struct pg_eval_report a = evaluate_text(&opt, PG_EVAL_AGREE, false);
        assert_int_equal(pg_sidecar_write(MODEL, sidecar, level, NULL), 0);
        opt = options(PG_MODE_HINT);
        opt.sidecar = sidecar;
        opt.n_batch = 7;
        opt.n_sessions = 2;
        struct pg_eval_report b = evaluate_text(&opt, PG_EVAL_AGREE, false);
        assert_int_equal(a.n_blocks, 6 - level);
        assert_int_equal(a.n_used, 2);
        same_blocks(&a, &b);
        pg_eval_report_free(&a);
        pg_eval_report_free(&b);
    }
}

/* What the gates said while this file ran the text, a token a step: the logits as they were. */
enum { N_MOE = 6, N_EXPERT = 16 };

struct heard {
    float early[N_MOE][N_EXPERT]; /* of the block, by the pre-gate before it */
    double first[N_MOE], second[N_MOE], both[N_MOE], mass[N_MOE];
    int n_tokens;
};

/* The two largest, the lower number first among equals. */
static void best_two(const float *x, int out[2])
{
    out[0] = 0;
    for (int i = 1; i < N_EXPERT; i++)
        out[0] = x[i] > x[out[0]] ? i : out[0];
    out[1] = out[0] == 0;
    for (int i = 0; i < N_EXPERT; i++)
        out[1] = i != out[0] && x[i] > x[out[1]] ? i : out[1];
}

static void hear(void *user, int block, int to, const struct pg_input *h, const float *logits)
{
    struct heard *x = user;
    int early[2], late[2];
    assert_int_equal(h->n_tok, 1);
    if (to != block) {
        memcpy(x->early[to], logits, sizeof(x->early[to]));
    } else if (block > 0) {
        best_two(x->early[block], early);
        best_two(logits, late);
        bool first = early[0] == late[0] || early[0] == late[1];
        bool second = early[1] == late[0] || early[1] == late[1];
        double p[4] = {exp((double)logits[early[0]]), exp((double)logits[early[1]]),
                       exp((double)logits[late[0]]), exp((double)logits[late[1]])};
        x->first[block] += first;
        x->second[block] += second;
        x->both[block] += first && second;
        x->mass[block] += (p[0] + p[1]) / (p[2] + p[3]);
    }
}

static void test_agreement_of_gates(void **state)
{
    struct pg_options opt = options(PG_MODE_LOOKAHEAD);
    struct pg_eval_report r = evaluate_text(&opt, PG_EVAL_AGREE, false);
    struct heard x = {.n_tokens = 0};
    pg_session *s;
    (void)state;
    pg_engine *e = open_with(&opt);
    assert_int_equal(pg_session_open(&s, e, NULL, NULL), 0);
    e->gate.tap = (struct pg_gate_tap){hear, &x};
    for (int i = 0; i < N_DOCS; i++) {
        int32_t ids[MAX_TOKENS];
        size_t n = ids_of(e->vocab, docs[i], ids);
        pg_session_truncate(s, 0);
        for (size_t t = 0; t + 1 < n && t + 1 < N_CTX; t++, x.n_tokens++)
            assert_int_equal(pg_session_eval(s, &ids[t], 1, NULL, NULL), 0);
    }
    pg_session_close(s);
    pg_engine_close(e);
    assert_int_equal(r.n_blocks, N_MOE - 1);
    assert_int_equal(r.n_tokens, x.n_tokens);
    for (int i = 0; i < r.n_blocks; i++) {
        const struct pg_agree_block *b = &r.blocks[i];
        double n = x.n_tokens;
        assert_int_equal(b->block, i + 1);
        assert_int_equal(b->n_tokens, x.n_tokens);
        assert_true(fabs(b->precision[0] - x.first[i + 1] / n) < 1e-12);
        assert_true(fabs(b->precision[1] - x.second[i + 1] / n) < 1e-12);
        assert_true(fabs(b->recall - (x.first[i + 1] + x.second[i + 1]) / (2 * n)) < 1e-12);
        assert_true(fabs(b->set_right - x.both[i + 1] / n) < 1e-12);
        assert_true(fabs(b->mass - x.mass[i + 1] / n) < 1e-6);
        assert_true(b->recall > 0.1 && b->recall < 1 && b->mass < 1);
    }
    pg_eval_report_free(&r);
}

/* Experts that are named beyond those used: those that were named stay so and are right as often,
 * the router decides what it did, and with all of them everything is found. */
static void test_agreement_extra(void **state)
{
    struct pg_eval_report r[3];
    static const int extra[] = {0, 1, N_EXPERT};
    (void)state;
    for (int i = 0; i < 3; i++) {
        struct pg_options opt = options(PG_MODE_LOOKAHEAD);
        opt.hint_extra = extra[i];
        r[i] = evaluate_text(&opt, PG_EVAL_AGREE, false);
        assert_int_equal(r[i].n_named, PG_MIN(2 + extra[i], N_EXPERT));
        assert_int_equal(r[i].n_used, 2);
    }
    for (int b = 0; b < r[0].n_blocks; b++) {
        const struct pg_agree_block *x = &r[0].blocks[b], *y = &r[1].blocks[b];
        assert_memory_equal(x->precision, y->precision, 2 * sizeof(double));
        assert_true(x->precision[2] == 0 && y->precision[2] > 0 && y->precision[3] == 0);
        assert_true(fabs(y->recall - x->recall - y->precision[2] / 2) < 1e-12);
        assert_true(y->set_right > x->set_right && y->mass > x->mass);
        assert_true(r[2].blocks[b].recall == 1 && r[2].blocks[b].set_right == 1);
    }
    for (int i = 0; i < 3; i++)
        pg_eval_report_free(&r[i]);
}

/* ------------------------------------------------------------------ answers ----------------- */

/* The line that greedy decoding writes after these tokens. */
static void greedy_line(const int32_t *ids, size_t n, int n_predict, char out[4096])
{
    struct pg_options opt = options(PG_MODE_RESIDENT);
    const struct pg_sampling greedy = {PG_SAMPLING_INIT, .temp = 0};
    char text[4096] = "\n";
    size_t n_text = 0;
    pg_session *s;
    pg_engine *e = open_with(&opt);
    struct pg_detok d = {.vocab = pg_engine_vocab(e), .not_first = true};
    assert_int_equal(pg_session_open(&s, e, NULL, NULL), 0);
    assert_int_equal(pg_session_sync(s, ids, n, NULL), 0);
    for (int i = 0; i < n_predict; i++) {
        int32_t token;
        assert_int_equal(pg_session_next(s, &greedy, &token, NULL), 0);
        if (pg_vocab_is_end(d.vocab, token))
            break;
        n_text += pg_detokenize(&d, token, text + n_text);
    }
    text[n_text] = '\0';
    const char *from = text + strspn(text, " \t\r\n");
    memcpy(out, from, strcspn(from, "\n"));
    out[strcspn(from, "\n")] = '\0';
    assert_true(strlen(out) > 3);
    pg_session_close(s);
    pg_engine_close(e);
}

/* The prompt's tokens, `extra` of them left out from `at` on where they are more than room. */
static size_t prompt_tokens(const char *prompt, size_t room, int keep_last, int32_t *ids)
{
    pg_vocab *v;
    assert_int_equal(pg_vocab_open(&v, MODEL, NULL), 0);
    size_t n = ids_of(v, prompt, ids);
    pg_vocab_close(v);
    if (n > room) {
        size_t head = room - (size_t)keep_last;
        memmove(ids + head, ids + n - (size_t)keep_last, (size_t)keep_last * sizeof(*ids));
        n = room;
    }
    return n;
}

static json_t *question(const char *text, const char *answer, const char *other)
{
    return json_pack("{s:s, s:[{s:s}, {s:s}]}", "question", text, "answers", "text", other, "text",
                     answer);
}

static void put_json(const char *name, json_t *o)
{
    char *text = json_dumps(o, JSON_COMPACT);
    assert_non_null(text);
    put_text(IN_DIR(name), text);
    free(text);
    json_decref(o);
}

static struct pg_eval_report evaluate_items(const char *name, enum pg_eval_task task,
                                            int n_sessions, int n_batch)
{
    char path[128];
    struct pg_options opt = options(PG_MODE_RESIDENT);
    struct pg_eval_options o = {PG_EVAL_OPTIONS_INIT, .task = task, .data = in_dir(path, name),
                                .n_predict = 12};
    opt.n_sessions = n_sessions;
    opt.n_batch = n_batch;
    pg_engine *e = open_with(&opt);
    struct pg_eval_report r = evaluate(e, &o);
    pg_engine_close(e);
    return r;
}

#define LONG_TEXT                                                                                  \
    "lily had a red ball and a blue hat and a green box. tom had a dog. the dog ate the ball. "    \
    "then it was sad and went home, and lily gave it a bone to make it glad."

/* The first question is answered as the model answers it, the second with something else. */
static void test_questions(void **state)
{
    int32_t ids[MAX_TOKENS];
    char right[4096], cut[4096];
    (void)state;
    size_t n = prompt_tokens("tom has a cat.\n\nQuestion: who?\nAnswer:", 99, 0, ids);
    assert_true(n < N_CTX - 12);
    greedy_line(ids, n, 12, right);
    n = prompt_tokens(LONG_TEXT "\n\nQuestion: who?\nAnswer:", N_CTX - 12, N_CTX - 12 - 1, ids);
    assert_int_equal(n, N_CTX - 12);
    assert_int_equal(ids[0], 1);
    greedy_line(ids, n, 12, cut);
    json_t *impossible =
        json_pack("{s:s, s:b, s:[]}", "question", "why?", "is_impossible", 1, "answers");
    put_json("squad.json", json_pack("{s:s, s:[{s:[{s:s, s:[o, o, o]}]}, {s:[{s:s, s:[o]}]}]}",
                                     "version", "2", "data", "paragraphs", "context",
                                     "tom has a cat.", "qas", question("who?", right, "xyzzy"),
                                     question("who?", "xyzzy", "the"), impossible, "paragraphs",
                                     "context", LONG_TEXT, "qas", question("who?", cut, "xyzzy")));
    for (int n_sessions = 1; n_sessions <= 3; n_sessions += 2) {
        struct pg_eval_report r = evaluate_items("squad.json", PG_EVAL_QA, n_sessions, 11);
        assert_int_equal(r.n_docs, 3);
        assert_int_equal(r.n_skipped, 1);
        assert_int_equal(r.n_cut, 1);
        assert_true(fabs(r.exact_match - 200.0 / 3) < 1e-9);
        assert_true(fabs(r.f1 - 200.0 / 3) < 1e-9);
        assert_true(r.n_tokens > 3 && r.n_tokens <= 36);
    }
}

static void test_documents(void **state)
{
    int32_t ids[MAX_TOKENS], tail[MAX_TOKENS];
    char right[4096], cut[4096], text[9000];
    (void)state;
    size_t n = prompt_tokens("tom has a cat. it is big.\n\nSummary:", 99, 0, ids);
    greedy_line(ids, n, 12, right);
    size_t n_tail = prompt_tokens("a\n\nSummary:", 99, 0, tail) - prompt_tokens("a", 99, 0, tail);
    n = prompt_tokens(LONG_TEXT "\n\nSummary:", N_CTX - 12, (int)n_tail, ids);
    assert_int_equal(n, N_CTX - 12);
    greedy_line(ids, n, 12, cut);
    json_t *a = json_pack("{s:[s, s], s:[s, s]}", "source", "tom has a cat.", "it is big.",
                          "target", "xyzzy", right);
    json_t *b = json_pack("{s:s, s:s, s:i}", "document", LONG_TEXT, "summary", cut, "id", 7);
    json_t *c = json_pack("{s:s, s:s}", "article", "tom.", "highlights", "xyzzy");
    char *line[3] = {json_dumps(a, 0), json_dumps(b, 0), json_dumps(c, 0)};
    snprintf(text, sizeof(text), "%s\n\n%s\r\n%s", line[0], line[1], line[2]);
    put_text(IN_DIR("sum.jsonl"), text);
    for (int i = 0; i < 3; i++)
        free(line[i]);
    json_decref(a);
    json_decref(b);
    json_decref(c);
    struct pg_eval_report r = evaluate_items("sum.jsonl", PG_EVAL_SUMMARIZE, 2, 16);
    assert_int_equal(r.n_docs, 3);
    assert_int_equal(r.n_cut, 1);
    assert_true(fabs(r.rouge1 - 200.0 / 3) < 1e-9);
    assert_true(fabs(r.rouge2 - 200.0 / 3) < 1e-9);
    assert_true(fabs(r.rougeL - 200.0 / 3) < 1e-9);
}

/* ------------------------------------------------------------------ refusals ---------------- */

static void refused(const struct pg_options *opt, const struct pg_eval_options *o, int code,
                    const char *words)
{
    struct pg_eval_report r;
    struct pg_err err = {0};
    pg_engine *e = open_with(opt);
    int rc = pg_eval(e, o, &r, &err);
    if (rc != code || !strstr(err.text, words))
        fail_msg("%d \"%s\" found, %d \"%s\" wanted", rc, err.text, code, words);
    assert_null(e->gate.tap.seen);
    assert_int_equal(e->n_sessions, 0);
    pg_engine_close(e);
}

static void test_refusals(void **state)
{
    char path[128], other[128];
    struct pg_options opt = options(PG_MODE_ONDEMAND);
    struct pg_eval_options o = text_task(PG_EVAL_AGREE, path);
    (void)state;
    refused(&opt, &o, PG_EARG, "lookahead");
    opt = options(PG_MODE_AUTO);
    opt.model = DENSE;
    refused(&opt, &o, PG_EARG, "no experts");
    opt = options(PG_MODE_RESIDENT);
    o.task = PG_EVAL_COUNT;
    refused(&opt, &o, PG_EARG, "task");
    o = text_task(PG_EVAL_PPL, path);
    o.n_max = -1;
    refused(&opt, &o, PG_EARG, "n_max");
    o = text_task(PG_EVAL_PPL, path);
    o.data = NULL;
    refused(&opt, &o, PG_EARG, "data: none given");
    o.data = in_dir(other, "none");
    refused(&opt, &o, PG_EIO, "none");
    o.data = test_dir;
    refused(&opt, &o, PG_EARG, "a file is wanted");
    o.data = put_text(in_dir(other, "blank"), " \n\n");
    refused(&opt, &o, PG_EFORMAT, "no text");
    o.task = PG_EVAL_SUMMARIZE;
    o.n_predict = 8;
    refused(&opt, &o, PG_EFORMAT, "no summary");
    o = text_task(PG_EVAL_QA, path);
    refused(&opt, &o, PG_EFORMAT, "no JSON");
    o.n_predict = N_CTX - 1;
    refused(&opt, &o, PG_ECONTEXT, "no room");
    opt.n_ctx = 1;
    o = text_task(PG_EVAL_PPL, path);
    refused(&opt, &o, PG_EARG, "2 at least");
}

static int cancel(void *user, const char *what, uint64_t done, uint64_t total)
{
    (void)what;
    assert_true(done <= total);
    return ++*(int *)user == 2;
}

static void test_cancel(void **state)
{
    char path[128];
    int calls = 0;
    struct pg_options opt = options(PG_MODE_RESIDENT);
    struct pg_eval_options o = text_task(PG_EVAL_PPL, path);
    (void)state;
    opt.n_batch = 8;
    o.progress = cancel;
    o.user = &calls;
    refused(&opt, &o, PG_ECANCELLED, "cancelled after 16 of");
    assert_int_equal(calls, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ppl_of_logits),
        cmocka_unit_test(test_same_bits),
        cmocka_unit_test(test_hint_is_lookahead),
        cmocka_unit_test(test_agreement_of_gates),
        cmocka_unit_test(test_agreement_extra),
        cmocka_unit_test(test_questions),
        cmocka_unit_test(test_documents),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_cancel),
    };
    return cmocka_run_group_tests(tests, make_text, remove_dir);
}
