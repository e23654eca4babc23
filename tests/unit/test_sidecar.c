/* SPDX-License-Identifier: MIT
 * Sidecars: one made of the model's own routers holds what lookahead makes in memory and hints the
 * same, is found beside its model, and one that does not fit is refused with a sentence that names
 * what was found and what was wanted. Every hint passes through __wrap_pg_store_hint.
 */
#include "helpers.h"

#include "engine/engine.h"
#include "format/gguf.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define ANOTHER PG_TEST_DATA "/gen_moe/qwen3moe.gguf"
#define DENSE   PG_TEST_DATA "/stories260K/stories260K.gguf"

enum { N_MOE = 6, N_EMBD = 128, N_EXPERT = 16, N_PROMPT = 12, N_STEPS = 24, MAX_HINTS = 4096 };

static char model_path[128], bad[128], good[128];
static char good_hash[17];

/* ------------------------------------------------------------------ hints ------------------- */

struct hint {
    int block, n;
    bool certain;
    int32_t ids[N_EXPERT];
};

static struct hints {
    int n;
    struct hint list[MAX_HINTS];
} heard;

void __real_pg_store_hint(struct pg_store *s, int block, const int32_t *ids, int n, bool certain);
void __wrap_pg_store_hint(struct pg_store *s, int block, const int32_t *ids, int n, bool certain);

void __wrap_pg_store_hint(struct pg_store *s, int block, const int32_t *ids, int n, bool certain)
{
    if (heard.n < MAX_HINTS && n <= N_EXPERT) {
        struct hint *w = &heard.list[heard.n++];
        *w = (struct hint){.block = block, .n = n, .certain = certain};
        memcpy(w->ids, ids, (size_t)n * sizeof(int32_t));
    }
    __real_pg_store_hint(s, block, ids, n, certain);
}

/* ------------------------------------------------------------------ files ------------------- */

static pg_engine *open_with(const struct pg_options *opt)
{
    pg_engine *e;
    struct pg_err err;
    must(pg_engine_open(&e, opt, &err), &err);
    return e;
}

static struct pg_options options(enum pg_mode mode, const char *sidecar)
{
    return (struct pg_options){PG_OPTIONS_INIT, .model = model_path, .sidecar = sidecar,
                               .mode = mode,    .n_ctx = 64,         .n_threads = 1,
                               .n_batch = 16};
}

static void write_sidecar(const char *out, int level)
{
    struct pg_err err;
    must(pg_sidecar_write(model_path, out, level, &err), &err);
}

static int make_files(void **state)
{
    struct pg_gguf *g;
    struct pg_str hash;
    if (make_dir(state))
        return -1;
    /* A copy there, for it is read many times. */
    size_t n;
    char *bytes = whole_file(PG_MODELS "/tinystories-moe.gguf", &n);
    put_file(in_dir(model_path, "model.gguf"), bytes, n);
    free(bytes);
    in_dir(good, "good.gguf");
    in_dir(bad, "bad.gguf");
    if (pg_sidecar_write(model_path, good, 0, NULL) || pg_gguf_open(&g, good, NULL) ||
        pg_gguf_get_str(g, "pregate.base.hash", PG_GGUF_REQUIRED, &hash, NULL) || hash.n != 16)
        return -1;
    memcpy(good_hash, hash.s, 16);
    pg_gguf_close(g);
    return 0;
}

/* ------------------------------------------------------------------ the same as lookahead --- */

static void test_same_tables(void **state)
{
    (void)state;
    for (int level = 1; level < N_MOE; level++) {
        write_sidecar(bad, level);
        struct pg_options made = options(PG_MODE_LOOKAHEAD, NULL);
        struct pg_options read = options(PG_MODE_HINT, bad);
        made.lookahead = level;
        pg_engine *a = open_with(&made), *b = open_with(&read);
        assert_int_equal(b->level, level);
        assert_int_equal(pg_tables_bytes(a), (N_MOE - level) * N_EXPERT * N_EMBD * 4);
        assert_int_equal(pg_tables_bytes(b), pg_tables_bytes(a));
        assert_memory_equal(a->tables.base, b->tables.base, pg_tables_bytes(a));
        for (int i = 0; i < N_MOE; i++) {
            const struct pg_weight *x = &a->pregates[i].inp, *y = &b->pregates[i].inp;
            assert_int_equal(x->data != NULL, i < N_MOE - level);
            assert_int_equal(y->data != NULL, i < N_MOE - level);
            assert_true(x->type == y->type && x->n_in == y->n_in && x->n_out == y->n_out);
        }
        /* Not all alike, nor zero. */
        const float *table = a->tables.base;
        assert_true(level == N_MOE - 1 ||
                    memcmp(table, table + N_EXPERT * N_EMBD, N_EXPERT * N_EMBD * 4) != 0);
        assert_true(table[0] != 0 && table[0] != table[1]);
        pg_engine_close(a);
        pg_engine_close(b);
    }
}

enum { N_HIDDEN = 6, N_GATE_VALUES = N_EXPERT * (N_EMBD + 1 + N_HIDDEN) + N_HIDDEN * (N_EMBD + 1) };

/* Pre-gates with all parts, of values of no meaning. */
static void draw_gates(struct pg_pregate *gates)
{
    static float values[N_MOE][N_GATE_VALUES];
    for (int i = 0; i < N_MOE; i++) {
        const float *at = values[i];
        for (int j = 0; j < N_GATE_VALUES; j++)
            values[i][j] = (float)((j * 7919 + i * 31) % 1009 - 504) / 4096;
        gates[i].inp = (struct pg_weight){PG_TYPE_F32, N_EMBD, N_EXPERT, at};
        gates[i].bias = (struct pg_weight){PG_TYPE_F32, N_EXPERT, 1, at += N_EXPERT * N_EMBD};
        gates[i].down = (struct pg_weight){PG_TYPE_F32, N_EMBD, N_HIDDEN, at += N_EXPERT};
        gates[i].down_bias = (struct pg_weight){PG_TYPE_F32, N_HIDDEN, 1, at += N_HIDDEN * N_EMBD};
        gates[i].up = (struct pg_weight){PG_TYPE_F32, N_HIDDEN, N_EXPERT, at + N_HIDDEN};
    }
}

static void same_part(const struct pg_weight *found, const struct pg_weight *wanted, bool there)
{
    assert_int_equal(found->data != NULL, there && wanted->data);
    if (found->data) {
        size_t n = (size_t)wanted->n_in * (size_t)wanted->n_out;
        assert_true(found->n_in == wanted->n_in && found->n_out == wanted->n_out);
        assert_memory_equal(found->data, wanted->data, n * sizeof(float));
    }
}

/* Saved and read again, with all parts, with biases only, and with the matrix alone. */
static void test_saved(void **state)
{
    struct pg_options plain = options(PG_MODE_ONDEMAND, NULL), opt = options(PG_MODE_PREGATE, bad);
    pg_engine *base = open_with(&plain);
    struct pg_pregate gates[N_MOE];
    (void)state;
    for (int level = 1; level < N_MOE; level++) {
        draw_gates(gates);
        for (int i = 0; i < N_MOE; i++) {
            gates[i].down.data = level > 2 ? NULL : gates[i].down.data;
            gates[i].down_bias.data = level > 2 ? NULL : gates[i].down_bias.data;
            gates[i].up.data = level > 2 ? NULL : gates[i].up.data;
            gates[i].bias.data = level > 3 ? NULL : gates[i].bias.data;
        }
        struct pg_sidecar s = {&base->model, good_hash, level, level % 2, PG_GATE_PREGATE, gates};
        assert_int_equal(pg_sidecar_save(&s, bad, NULL), 0);
        pg_engine *e = open_with(&opt);
        assert_int_equal(e->level, level);
        assert_int_equal(e->trained_to_decide, level % 2);
        size_t n_values = level > 3   ? N_EXPERT * N_EMBD
                          : level > 2 ? N_EXPERT * (N_EMBD + 1)
                                      : N_GATE_VALUES;
        assert_int_equal(pg_tables_bytes(e), (size_t)(N_MOE - level) * n_values * sizeof(float));
        for (int i = 0; i < N_MOE; i++) {
            bool there = i < N_MOE - level;
            same_part(&e->pregates[i].inp, &gates[i].inp, there);
            same_part(&e->pregates[i].bias, &gates[i].bias, there);
            same_part(&e->pregates[i].down, &gates[i].down, there);
            same_part(&e->pregates[i].down_bias, &gates[i].down_bias, there);
            same_part(&e->pregates[i].up, &gates[i].up, there);
        }
        pg_engine_close(e);
    }
    pg_engine_close(base);
}

/* ------------------------------------------------------------------ the map ----------------- */

/* Compares what pre-gates say with the same in float64. */
struct listener {
    const struct pg_pregate *gates;
    int n_seen;
};

static void said(void *user, int block, int to, const struct pg_input *h, const float *logits)
{
    struct listener *l = user;
    const struct pg_pregate *p = &l->gates[block];
    const float *w = p->inp.data, *b = p->bias.data, *d = p->down.data, *c = p->down_bias.data;
    const float *up = p->up.data;
    for (int t = 0; to != block && t < h->n_tok; t++, l->n_seen++) {
        const float *x = h->acts[PG_ACT_F32].f32 + t * N_EMBD;
        double a[N_HIDDEN];
        for (int i = 0; i < N_HIDDEN; i++) {
            double u = (double)c[i];
            for (int j = 0; j < N_EMBD; j++)
                u += (double)d[i * N_EMBD + j] * (double)x[j];
            a[i] = u / (1 + exp(-u));
        }
        for (int e = 0; e < N_EXPERT; e++) {
            double z = (double)b[e];
            for (int j = 0; j < N_EMBD; j++)
                z += (double)w[e * N_EMBD + j] * (double)x[j];
            for (int i = 0; i < N_HIDDEN; i++)
                z += (double)up[e * N_HIDDEN + i] * a[i];
            if (fabs(z - (double)logits[t * N_EXPERT + e]) > 1e-4 * (1 + fabs(z))) {
                fail_msg("block %d row %d expert %d: %g found, %g wanted", block, t, e,
                         (double)logits[t * N_EXPERT + e], z);
            }
        }
    }
}

static void test_map(void **state)
{
    int32_t tokens[N_PROMPT + 1];
    struct pg_pregate gates[N_MOE];
    struct listener l = {.gates = gates};
    pg_session *s;
    (void)state;
    draw_gates(gates);
    for (int i = 0; i <= N_PROMPT; i++)
        tokens[i] = 3 + i * 89 % 500;
    struct pg_options plain = options(PG_MODE_ONDEMAND, NULL), opt = options(PG_MODE_HINT, bad);
    pg_engine *base = open_with(&plain);
    struct pg_sidecar file = {&base->model, good_hash, 1, false, PG_GATE_PREGATE, gates};
    assert_int_equal(pg_sidecar_save(&file, bad, NULL), 0);
    pg_engine_close(base);
    opt.n_threads = 2;
    pg_engine *e = open_with(&opt);
    assert_int_equal(pg_session_open(&s, e, NULL, NULL), 0);
    e->gate.tap = (struct pg_gate_tap){said, &l};
    assert_int_equal(pg_session_eval(s, tokens, N_PROMPT, NULL, NULL), 0);
    assert_int_equal(pg_session_eval(s, tokens + N_PROMPT, 1, NULL, NULL), 0);
    assert_int_equal(l.n_seen, (N_PROMPT + 1) * (N_MOE - 1));
    pg_session_close(s);
    pg_engine_close(e);
}

/* Evaluates the same tokens: a prompt in one batch, then steps. What was hinted is left in `heard`,
 * the logits of every token in `logits`. */
static void evaluate(struct pg_options opt, float *logits, int n_vocab)
{
    int32_t tokens[N_PROMPT + N_STEPS];
    struct pg_plan plan;
    struct pg_stats stats;
    struct pg_err err;
    pg_session *s;
    for (int i = 0; i < N_PROMPT + N_STEPS; i++)
        tokens[i] = 3 + i * 89 % 500;
    opt.hints = PG_HINTS_ON;
    assert_int_equal(pg_plan_make(&plan, &opt, &err), 0);
    opt.memory_bytes = plan.minimum + (2 << 20); /* a fifth of the experts */
    pg_engine *e = open_with(&opt);
    assert_int_equal(pg_session_open(&s, e, NULL, &err), 0);
    heard.n = 0;
    assert_int_equal(pg_session_eval(s, tokens, N_PROMPT, logits, &err), 0);
    for (int i = N_PROMPT; i < N_PROMPT + N_STEPS; i++) {
        assert_int_equal(
            pg_session_eval(s, tokens + i, 1, logits + (size_t)i * (size_t)n_vocab, &err), 0);
    }
    pg_engine_stats(e, &stats);
    assert_true(stats.expert_bytes_read > 0);
    pg_session_close(s);
    pg_engine_close(e);
}

/* The same hints for the same blocks in the same order, none that the batch's size explains
 * away; and the logits that no hint at all gives. */
static void test_same_hints(void **state)
{
    enum { N_VOCAB = 512, N_VALUES = (N_PROMPT + N_STEPS) * N_VOCAB };
    static float plain[N_VALUES], made[N_VALUES], read[N_VALUES];
    static struct hints wanted;
    (void)state;
    evaluate(options(PG_MODE_ONDEMAND, NULL), plain, N_VOCAB);
    assert_int_equal(heard.n, 0);
    for (int level = 1; level <= 2; level++) {
        struct pg_options lookahead = options(PG_MODE_LOOKAHEAD, NULL);
        lookahead.lookahead = level;
        write_sidecar(bad, level);
        evaluate(lookahead, made, N_VOCAB);
        wanted = heard;
        evaluate(options(PG_MODE_HINT, bad), read, N_VOCAB);
        assert_int_equal(wanted.n, (1 + N_STEPS) * (N_MOE - level));
        assert_int_equal(heard.n, wanted.n);
        for (int i = 0; i < wanted.n; i++) {
            assert_memory_equal(&heard.list[i], &wanted.list[i], sizeof(wanted.list[i]));
            assert_int_equal(wanted.list[i].block, level + i % (N_MOE - level));
            assert_false(wanted.list[i].certain);
            if (i >= N_MOE - level) /* a step of one token */
                assert_int_equal(wanted.list[i].n, 2);
        }
        assert_memory_equal(made, plain, sizeof(plain));
        assert_memory_equal(read, plain, sizeof(plain));
    }
}

/* ------------------------------------------------------------------ finding ----------------- */

static int try_open(const struct pg_options *opt, struct pg_err *err)
{
    pg_engine *e;
    *err = (struct pg_err){0};
    int rc = pg_engine_open(&e, opt, err);
    if (!rc) {
        pg_engine_close(e);
    } else {
        assert_null(e);
        assert_int_equal(err->code, rc);
    }
    return rc;
}

static void test_found_beside(void **state)
{
    static const char *const names[] = {"a tale.pregate.gguf", "pregate-a tale.gguf"};
    char model[128], sidecar[128];
    struct pg_err err;
    (void)state;
    assert_int_equal(symlink(model_path, in_dir(model, "a tale.gguf")), 0);
    struct pg_options opt = options(PG_MODE_HINT, NULL);
    opt.model = model;
    assert_int_equal(try_open(&opt, &err), PG_EARG);
    assert_non_null(strstr(err.text, "mode hint"));
    assert_non_null(strstr(err.text, model));
    for (size_t i = 0; i < PG_COUNT(names); i++) {
        assert_int_equal(link(good, in_dir(sidecar, names[i])), 0);
        pg_engine *e = open_with(&opt);
        assert_string_equal(e->sidecar_path, sidecar);
        pg_engine_close(e);
        opt.mode = PG_MODE_PREGATE;
        assert_int_equal(try_open(&opt, &err), 0);
        /* One that is named comes first; other modes do not look. */
        opt.sidecar = bad;
        unlink(bad);
        assert_int_equal(try_open(&opt, &err), PG_EIO);
        opt.sidecar = NULL;
        unlink(sidecar);
        assert_int_equal(try_open(&opt, &err), PG_EARG);
    }
    /* A model whose name has no ending, in the working folder. */
    char here[4096];
    assert_non_null(getcwd(here, sizeof(here)));
    assert_int_equal(chdir(test_dir), 0);
    assert_int_equal(symlink(model_path, "plain"), 0);
    assert_int_equal(link(good, "plain.pregate.gguf"), 0);
    opt.model = "plain";
    int rc = try_open(&opt, &err);
    assert_int_equal(chdir(here), 0);
    assert_int_equal(rc, 0);
}

static void test_not_found(void **state)
{
    char long_path[5000];
    struct pg_err err;
    struct pg_options opt = options(PG_MODE_HINT, bad);
    (void)state;
    unlink(bad);
    assert_int_equal(try_open(&opt, &err), PG_EIO);
    assert_non_null(strstr(err.text, bad));
    opt.sidecar = test_dir; /* a folder is no file */
    assert_true(try_open(&opt, &err) < 0);
    assert_non_null(strstr(err.text, test_dir));
    memset(long_path, 'x', sizeof(long_path) - 1);
    long_path[sizeof(long_path) - 1] = 0;
    opt.sidecar = long_path;
    assert_int_equal(try_open(&opt, &err), PG_EARG);
    assert_non_null(strstr(err.text, "4999"));
}

/* ------------------------------------------------------------------ refusals ---------------- */

/* A sidecar, right but for what is set. Blocks count from 1 here, 0 is none of them. */
struct recipe {
    const char *type, *hash, *purpose;
    bool no_type, no_hash, no_level;
    uint32_t level; /* LEVEL_0: 0 */
    int missing, renamed, transposed, typed, spoilt;
    enum pg_type type_of_it; /* of the one that is typed */
    bool extra;
    float spoiled_by;
};
#define LEVEL_0 0xffffffffu

static void add_keys(struct pg_gguf_writer *w, const struct recipe *r)
{
    const char *type = r->type ? r->type : "pregate", *hash = r->hash ? r->hash : good_hash;
    uint32_t level = r->level == LEVEL_0 ? 0 : r->level ? r->level : 1;
    assert_int_equal(pg_gguf_writer_str(w, "general.architecture", "pregate", NULL), 0);
    if (!r->no_type)
        assert_int_equal(pg_gguf_writer_str(w, "general.type", type, NULL), 0);
    if (!r->no_hash)
        assert_int_equal(pg_gguf_writer_str(w, "pregate.base.hash", hash, NULL), 0);
    if (!r->no_level)
        assert_int_equal(pg_gguf_writer_u32(w, "pregate.level", level, NULL), 0);
    if (r->purpose)
        assert_int_equal(pg_gguf_writer_str(w, "pregate.trained_for", r->purpose, NULL), 0);
}

static void add_tensor(struct pg_gguf_writer *w, const struct recipe *r, int block)
{
    char name[64];
    int64_t ne[2] = {N_EMBD, N_EXPERT};
    if (r->transposed == block) {
        ne[0] = N_EXPERT;
        ne[1] = N_EMBD;
    }
    snprintf(name, sizeof(name), "blk.%d.ffn_pregate_inp.weight",
             r->renamed == block ? 90 : block - 1);
    assert_int_equal(pg_gguf_writer_tensor(w, name, r->typed == block ? r->type_of_it : PG_TYPE_F32,
                                           2, ne, NULL),
                     0);
}

static void make(const struct recipe *r)
{
    static float table[N_EXPERT * N_EMBD];
    struct pg_gguf_writer *w;
    int n = N_MOE - 1 + r->extra;
    assert_int_equal(pg_gguf_writer_open(&w, bad, NULL), 0);
    add_keys(w, r);
    for (int block = 1; block <= n; block++)
        if (block != r->missing)
            add_tensor(w, r, block);
    for (int block = 1; block <= n; block++) {
        if (block == r->missing)
            continue;
        table[N_EXPERT * N_EMBD - 1] = block == r->spoilt ? r->spoiled_by : 0.5f;
        size_t bytes =
            block == r->typed ? pg_type_bytes(r->type_of_it, PG_COUNT(table)) : sizeof(table);
        assert_int_equal(pg_gguf_writer_data(w, table, bytes, NULL), 0);
    }
    assert_int_equal(pg_gguf_writer_commit(w, NULL), 0);
}

static void refused(const struct pg_options *opt, int code, const char *const *words, size_t n)
{
    struct pg_err err;
    int rc = try_open(opt, &err);
    if (rc != code)
        fail_msg("%d found, %d wanted: %s (%s)", rc, code, err.text, words[0]);
    assert_non_null(strstr(err.text, opt->sidecar));
    for (size_t i = 0; i < n && words[i]; i++)
        says(err.text, words[i]);
}

static void test_refused(void **state)
{
    static const struct {
        struct recipe r;
        int code;
        const char *words[3]; /* thing, found, wanted */
    } cases[] = {
        {{.hash = "0123456789abcdef"},
         PG_EFORMAT,
         {"pregate.base.hash", "'0123456789abcdef' found"}},
        {{.hash = ""}, PG_EFORMAT, {"pregate.base.hash", "'' found"}},
        {{.no_hash = true}, PG_EFORMAT, {"pregate.base.hash"}},
        {{.type = "model"}, PG_EFORMAT, {"general.type", "'model' found", "'pregate' wanted"}},
        {{.type = "pregated"}, PG_EFORMAT, {"general.type", "'pregated' found"}},
        {{.no_type = true}, PG_EFORMAT, {"general.type"}},
        {{.no_level = true}, PG_EFORMAT, {"pregate.level"}},
        {{.level = LEVEL_0}, PG_EFORMAT, {"pregate.level", "0", "1"}},
        {{.level = N_MOE}, PG_EFORMAT, {"pregate.level", "6", "5"}},
        {{.level = 0xfffffff0u}, PG_EFORMAT, {"pregate.level", "4294967280", "5"}},
        {{.level = 2}, PG_EFORMAT, {"5 tensors found", "4 pre-gates wanted"}},
        {{.purpose = "fun"}, PG_EFORMAT, {"pregate.trained_for", "'fun' found", "'decide' wanted"}},
        {{.missing = 3}, PG_EFORMAT, {"blk.2.ffn_pregate_inp.weight", "missing"}},
        {{.extra = true}, PG_EFORMAT, {"6 tensors found", "5 pre-gates wanted"}},
        {{.renamed = 3}, PG_EFORMAT, {"blk.2.ffn_pregate_inp.weight", "missing"}},
        {{.transposed = 5}, PG_EFORMAT, {"blk.4.ffn_pregate_inp.weight", "16", "128"}},
        {{.typed = 2, .type_of_it = PG_TYPE_Q8_0},
         PG_ENOTSUP,
         {"blk.1.ffn_pregate_inp.weight", "Q8_0 found", "F32, F16 or BF16 wanted"}},
        {{.spoilt = 5, .spoiled_by = NAN}, PG_EFORMAT, {"blk.4.ffn_pregate_inp.weight", "2047"}},
        {{.spoilt = 1, .spoiled_by = -INFINITY}, PG_EFORMAT, {"blk.0.", "not finite"}},
    };
    struct pg_options opt = options(PG_MODE_HINT, bad);
    (void)state;
    make(&(struct recipe){0}); /* nothing wrong: what is refused below is for its one fault */
    struct pg_err err;
    assert_int_equal(try_open(&opt, &err), 0);
    make(&(struct recipe){.purpose = "decide"});
    assert_int_equal(try_open(&opt, &err), 0);
    for (size_t i = 0; i < PG_COUNT(cases); i++) {
        make(&cases[i].r);
        opt.mode = i % 2 ? PG_MODE_HINT : PG_MODE_PREGATE;
        refused(&opt, cases[i].code, cases[i].words, 3);
    }
}

/* Parts that are not of one form, or not of the shape that the others give them. */
static void test_parts_refused(void **state)
{
    static float spoilt[N_EXPERT * N_HIDDEN];
    struct pg_options plain = options(PG_MODE_ONDEMAND, NULL), opt = options(PG_MODE_HINT, bad);
    pg_engine *base = open_with(&plain);
    size_t n_wide = (size_t)N_EMBD * ((1 << 16) + 1);
    float *wide = calloc(n_wide, sizeof(*wide));
    struct pg_pregate gates[N_MOE];
    struct pg_sidecar file = {&base->model, good_hash, 1, false, PG_GATE_PREGATE, gates};
    (void)state;
    assert_non_null(wide);
    spoilt[7] = NAN;
    for (int i = 0; i < 7; i++) {
        const char *words[2] = {0};
        draw_gates(gates);
        switch (i) {
        case 0: /* one without the layer that the first has */
            gates[2].down.data = gates[2].down_bias.data = gates[2].up.data = NULL;
            words[0] = "blk.2.ffn_pregate_down.weight";
            words[1] = "missing";
            break;
        case 1: /* the first without it */
            gates[0].down.data = NULL;
            words[0] = "24 tensors found, 5 pre-gates wanted (of 2 each)";
            break;
        case 2:
            gates[3].down.n_out = N_HIDDEN - 1;
            words[0] = "blk.3.ffn_pregate_down.weight";
            words[1] = "6";
            break;
        case 3:
            gates[1].up.n_in = N_EXPERT;
            gates[1].up.n_out = N_HIDDEN;
            words[0] = "blk.1.ffn_pregate_up.weight";
            break;
        case 4:
            gates[4].down_bias.n_in = N_HIDDEN - 2;
            words[0] = "blk.4.ffn_pregate_down.bias";
            break;
        case 5:
            gates[4].up.data = spoilt;
            words[0] = "blk.4.ffn_pregate_up.weight: value 7 is not finite";
            break;
        default:
            gates[0].down = (struct pg_weight){PG_TYPE_F32, N_EMBD, (1 << 16) + 1, wide};
            words[0] = "blk.0.ffn_pregate_down.weight";
            words[1] = "65537 rows found";
        }
        assert_int_equal(pg_sidecar_save(&file, bad, NULL), 0);
        refused(&opt, PG_EFORMAT, words, 2);
    }
    free(wide);
    pg_engine_close(base);
}

/* A sidecar that is named is never ignored, whatever the mode. */
static void test_named_in_all_modes(void **state)
{
    char missing[128];
    struct pg_plan plan;
    struct pg_err err;
    (void)state;
    in_dir(missing, "missing.gguf");
    for (int mode = PG_MODE_AUTO; mode < PG_MODE_COUNT; mode++) {
        struct pg_options opt = options((enum pg_mode)mode, missing);
        refused(&opt, PG_EIO, (const char *[]){"missing.gguf"}, 1);
        assert_int_equal(pg_plan_make(&plan, &opt, &err), PG_EIO);
        says(err.text, missing);
        opt.sidecar = model_path;
        refused(&opt, PG_EFORMAT, (const char *[]){"general.type"}, 1);
        assert_int_equal(pg_plan_make(&plan, &opt, &err), PG_EFORMAT);
        opt.sidecar = bad;
        make(&(struct recipe){.transposed = 5});
        refused(&opt, PG_EFORMAT, (const char *[]){"blk.4.ffn_pregate_inp.weight", "16"}, 2);
        make(&(struct recipe){.hash = "0123456789abcdef"});
        refused(&opt, PG_EFORMAT, (const char *[]){"pregate.base.hash"}, 1);
        opt.sidecar = good;
        assert_int_equal(try_open(&opt, &err), 0);
        opt.model = DENSE;
        assert_int_equal(try_open(&opt, &err), PG_EARG);
    }
    struct pg_options opt = options(PG_MODE_LOOKAHEAD, good);
    opt.lookahead = 3; /* that of the sidecar matters where it is used */
    assert_int_equal(try_open(&opt, &err), 0);
}

/* ------------------------------------------------------------------ mode auto --------------- */

static struct pg_plan plan_of(struct pg_options opt, enum pg_mode mode)
{
    struct pg_plan plan;
    opt.mode = mode;
    if (pg_plan_make(&plan, &opt, NULL))
        plan.n_slots = -1;
    return plan;
}

static bool is_paid(const struct pg_plan *with, const struct pg_plan *without)
{
    int lost = without->n_slots - with->n_slots, missing = without->n_expert_total;
    return with->n_slots >= 0 && 200 * lost <= 3 * (missing - without->n_slots);
}

/* Under every budget auto is a mode that fits: resident if it does; else the pre-gates that take at
 * most 1.5 % of the slots that are missing, those of a sidecar first; else none. */
static enum pg_mode auto_of(const struct pg_options *opt)
{
    struct pg_plan none = plan_of(*opt, PG_MODE_ONDEMAND), hint = {.n_slots = -1};
    struct pg_plan early = plan_of(*opt, PG_MODE_LOOKAHEAD);
    if (opt->sidecar)
        hint = plan_of(*opt, PG_MODE_HINT);
    if (plan_of(*opt, PG_MODE_RESIDENT).n_slots >= 0)
        return PG_MODE_RESIDENT;
    return is_paid(&hint, &none)    ? PG_MODE_HINT
           : is_paid(&early, &none) ? PG_MODE_LOOKAHEAD
                                    : PG_MODE_ONDEMAND;
}

/* The same for budgets a little smaller and larger, as what the process is found to hold moves a
 * little from plan to plan; else PG_MODE_COUNT. */
static enum pg_mode auto_near(const struct pg_options *opt)
{
    enum pg_mode mode = auto_of(opt);
    for (int side = -1; side < 2; side += 2) {
        struct pg_options near = *opt;
        near.memory_bytes += (uint64_t)(side * (16 << 10));
        if (auto_of(&near) != mode)
            return PG_MODE_COUNT;
    }
    return mode;
}

static void check_asked(struct pg_options opt)
{
    opt.hints = PG_HINTS_OFF;
    assert_int_equal(plan_of(opt, PG_MODE_AUTO).mode, PG_MODE_ONDEMAND);
    opt.hints = PG_HINTS_ON;
    if (plan_of(opt, PG_MODE_LOOKAHEAD).n_slots > PG_SLOTS_MIN)
        assert_int_not_equal(plan_of(opt, PG_MODE_AUTO).mode, PG_MODE_ONDEMAND);
}

static void test_auto_pays(void **state)
{
    int seen[PG_MODE_COUNT + 1] = {0};
    (void)state;
    if (SANITIZED)
        return say_skipped("auto_pays", "a sanitizer's own memory moves the plans");
    struct pg_options opt = options(PG_MODE_AUTO, NULL);
    opt.memory_bytes = 1;
    uint64_t least = plan_of(opt, PG_MODE_AUTO).minimum;
    for (uint64_t memory = least; memory < least + (14u << 20); memory += 40 << 10) {
        for (int with = 0; with < 2; with++) {
            opt = options(PG_MODE_AUTO, with ? good : NULL);
            opt.memory_bytes = memory;
            enum pg_mode mode = auto_near(&opt);
            seen[mode]++;
            if (mode == PG_MODE_COUNT)
                continue;
            assert_int_equal(plan_of(opt, PG_MODE_AUTO).mode, mode);
            if (mode != PG_MODE_RESIDENT)
                check_asked(opt);
        }
    }
    assert_true(seen[PG_MODE_HINT] > 10 && seen[PG_MODE_LOOKAHEAD] > 10);
    assert_true(seen[PG_MODE_ONDEMAND] > 10 && seen[PG_MODE_RESIDENT] > 10);
}

/* What lies beside a model is used if it is the model's and was made to hint, and no error if not.
 */
static void test_auto_beside(void **state)
{
    static const enum pg_mode wanted[] = {PG_MODE_HINT, PG_MODE_LOOKAHEAD, PG_MODE_LOOKAHEAD,
                                          PG_MODE_LOOKAHEAD};
    char model[128], sidecar[128];
    struct pg_options opt = options(PG_MODE_AUTO, NULL);
    (void)state;
    if (SANITIZED)
        return say_skipped("auto_beside", "a sanitizer's own memory moves the plans");
    assert_int_equal(symlink(model_path, in_dir(model, "auto.gguf")), 0);
    in_dir(sidecar, "auto.pregate.gguf");
    opt.model = model;
    opt.hints = PG_HINTS_ON;
    opt.memory_bytes = plan_of(opt, PG_MODE_ONDEMAND).minimum + (1 << 20);
    for (int i = 0; i < 4; i++) {
        struct pg_err err;
        pg_engine *e;
        make(&(struct recipe){.hash = i == 1 ? "0123456789abcdef" : good_hash,
                              .purpose = i == 2 ? "decide" : NULL});
        if (i == 3)
            put_file(bad, "no sidecar", 10);
        assert_int_equal(rename(bad, sidecar), 0);
        must(pg_engine_open(&e, &opt, &err), &err);
        assert_int_equal(e->opt.mode, wanted[i]);
        assert_int_equal(e->plan.mode, wanted[i]);
        assert_int_equal(e->sidecar_path[0] != 0, i == 0);
        pg_engine_close(e);
    }
    unlink(sidecar);
    unlink(model);
}

/* Types that F32 holds exactly are the same pre-gates. */
static void test_types(void **state)
{
    static const enum pg_type types[] = {PG_TYPE_F32, PG_TYPE_F16, PG_TYPE_BF16};
    struct pg_options opt = options(PG_MODE_HINT, bad);
    (void)state;
    for (size_t type = 0; type < PG_COUNT(types); type++) {
        struct pg_gguf_writer *w;
        uint16_t half[N_EXPERT * N_EMBD];
        float whole[N_EXPERT * N_EMBD];
        struct recipe r = {.type_of_it = types[type]};
        for (int i = 0; i < N_EXPERT * N_EMBD; i++) {
            whole[i] = (float)(i % 129 - 64) / 64;
            half[i] =
                types[type] == PG_TYPE_F16 ? pg_f32_to_f16(whole[i]) : pg_f32_to_bf16(whole[i]);
        }
        assert_int_equal(pg_gguf_writer_open(&w, bad, NULL), 0);
        add_keys(w, &r);
        for (r.typed = 1; r.typed < N_MOE; r.typed++)
            add_tensor(w, &r, r.typed);
        for (int block = 1; block < N_MOE; block++) {
            const void *data = type ? (const void *)half : whole;
            size_t bytes = pg_type_bytes(types[type], PG_COUNT(whole));
            assert_int_equal(pg_gguf_writer_data(w, data, bytes, NULL), 0);
        }
        assert_int_equal(pg_gguf_writer_commit(w, NULL), 0);
        pg_engine *e = open_with(&opt);
        for (int moe = 0; moe < N_MOE - 1; moe++)
            assert_memory_equal(e->pregates[moe].inp.data, whole, sizeof(whole));
        pg_engine_close(e);
    }
}

static void test_level_contradicted(void **state)
{
    struct pg_options opt = options(PG_MODE_HINT, good);
    struct pg_err err;
    (void)state;
    opt.lookahead = 1;
    assert_int_equal(try_open(&opt, &err), 0);
    opt.lookahead = 2;
    refused(&opt, PG_EARG, (const char *[]){"pregate.level", "1 found", "--lookahead 2 wanted"}, 3);
}

static void test_other_model(void **state)
{
    struct pg_options opt = options(PG_MODE_HINT, good);
    struct pg_err err;
    (void)state;
    opt.model = ANOTHER;
    refused(&opt, PG_EFORMAT, (const char *[]){"pregate"}, 1);
    opt.sidecar = model_path; /* a model is no sidecar */
    opt.model = model_path;
    refused(&opt, PG_EFORMAT, (const char *[]){"general.type"}, 1);
    opt.model = DENSE;
    opt.sidecar = good;
    assert_int_equal(try_open(&opt, &err), PG_EARG);
    assert_non_null(strstr(err.text, "no experts"));
}

static void test_truncated(void **state)
{
    size_t n, step;
    char *bytes = whole_file(good, &n);
    struct pg_options opt = options(PG_MODE_HINT, bad);
    struct pg_err err;
    (void)state;
    for (size_t at = 0; at < n; at += step) {
        step = at < 64 ? 7 : at < 1024 ? 61 : 1 + n / 16;
        put_file(bad, bytes, at);
        refused(&opt, PG_EFORMAT, (const char *[]){"bad.gguf"}, 1);
    }
    put_file(bad, bytes, n - 1);
    refused(&opt, PG_EFORMAT, (const char *[]){"bad.gguf"}, 1);
    put_file(bad, bytes, n);
    assert_int_equal(try_open(&opt, &err), 0);
    free(bytes);
}

/* Tensors of a set of files lie at offsets of different files; a sidecar is one file. */
static void test_split_set(void **state)
{
    static float table[N_EXPERT * N_EMBD];
    char path[2][128];
    struct pg_options opt = options(PG_MODE_HINT, path[0]);
    (void)state;
    for (uint32_t part = 0; part < 2; part++) {
        char name[64];
        struct pg_gguf_writer *w;
        snprintf(name, sizeof(name), "set-0000%u-of-00002.gguf", part + 1);
        assert_int_equal(pg_gguf_writer_open(&w, in_dir(path[part], name), NULL), 0);
        if (part == 0)
            add_keys(w, &(struct recipe){0});
        assert_int_equal(pg_gguf_writer_u32(w, "split.no", part, NULL), 0);
        assert_int_equal(pg_gguf_writer_u32(w, "split.count", 2, NULL), 0);
        assert_int_equal(pg_gguf_writer_u32(w, "split.tensors.count", N_MOE - 1, NULL), 0);
        int first = part ? 4 : 1, last = part ? N_MOE - 1 : 3;
        for (int block = first; block <= last; block++)
            add_tensor(w, &(struct recipe){0}, block);
        for (int block = first; block <= last; block++)
            assert_int_equal(pg_gguf_writer_data(w, table, sizeof(table), NULL), 0);
        assert_int_equal(pg_gguf_writer_commit(w, NULL), 0);
    }
    refused(&opt, PG_ENOTSUP, (const char *[]){"2 files found", "one file wanted"}, 2);
}

static void test_not_written(void **state)
{
    char nowhere[128];
    struct pg_err err;
    (void)state;
    unlink(bad);
    assert_int_equal(pg_sidecar_write(model_path, bad, N_MOE, &err), PG_EARG);
    assert_non_null(strstr(err.text, "level 6"));
    assert_non_null(strstr(err.text, "1 to 5"));
    assert_int_equal(pg_sidecar_write(model_path, bad, -1, &err), PG_EARG);
    assert_int_equal(pg_sidecar_write(DENSE, bad, 1, &err), PG_EARG);
    assert_non_null(strstr(err.text, "0 blocks with experts"));
    assert_true(pg_sidecar_write(bad, good, 1, &err) < 0);
    assert_non_null(strstr(err.text, bad));
    in_dir(nowhere, "no/such/folder.gguf");
    assert_true(pg_sidecar_write(model_path, nowhere, 1, &err) < 0);
    assert_non_null(strstr(err.text, nowhere));
    assert_int_equal(access(bad, F_OK), -1); /* a refusal leaves no file */
    struct pg_options opt = options(PG_MODE_HINT, good);
    assert_int_equal(try_open(&opt, &err), 0); /* and the old one whole */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_tables),
        cmocka_unit_test(test_saved),
        cmocka_unit_test(test_map),
        cmocka_unit_test(test_same_hints),
        cmocka_unit_test(test_found_beside),
        cmocka_unit_test(test_auto_pays),
        cmocka_unit_test(test_auto_beside),
        cmocka_unit_test(test_not_found),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_parts_refused),
        cmocka_unit_test(test_types),
        cmocka_unit_test(test_named_in_all_modes),
        cmocka_unit_test(test_level_contradicted),
        cmocka_unit_test(test_other_model),
        cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_split_set),
        cmocka_unit_test(test_not_written),
    };
    return cmocka_run_group_tests(tests, make_files, remove_dir);
}
