/* SPDX-License-Identifier: MIT
 * The trainable model in float: it says of each token what the engine says, gives the same bits
 * with any number of threads, adds gradients as it was told to, and refuses what it cannot use. Its
 * rows are those of plain loops in double, at every instruction level. (Gradients themselves:
 * test_net64.c, test_net_torch.c.)
 */
#include "net_case.h"

#include "base/os.h"
#include "cpu/kernels.h"
#include "net/net_impl.h"

#include <float.h>

static const char *const files[] = {
    "gguf_moe/full_mixtral.gguf",   "gguf_moe/single_mixtral.gguf", "gguf_moe/gqa_mixtral.gguf",
    "gguf_moe/qwen_moe_tiny.gguf",  "gen_moe/qwen3moe.gguf",        "gen_moe/olmoe.gguf",
    "stories260K/stories260K.gguf", "gen_moe/mixed.gguf",
};

/* ------------------------------------------------------------------ engine ------------------ */

enum { LEN = 40 };

static float *engine_logits(const struct net_case *c, const int32_t *tokens, int n,
                            const int32_t *source, int n_source)
{
    struct pg_options opt = {PG_OPTIONS_INIT, .model = c->path,     .mode = PG_MODE_RESIDENT,
                             .n_ctx = LEN,    .kv_type = PG_KV_F32, .n_threads = 2};
    struct pg_session_options sopt = {PG_SESSION_OPTIONS_INIT};
    struct pg_err err;
    pg_engine *e;
    pg_session *s;
    float *logits = calloc((size_t)n * (size_t)c->model.h.n_vocab, sizeof(float));
    assert_non_null(logits);
    assert_int_equal(pg_engine_open(&e, &opt, &err), 0);
    assert_int_equal(pg_session_open(&s, e, &sopt, &err), 0);
    if (source)
        assert_int_equal(pg_session_encode(s, source, (size_t)n_source, &err), 0);
    assert_int_equal(pg_session_eval(s, tokens, (size_t)n, logits, &err), 0);
    pg_session_close(s);
    pg_engine_close(e);
    return logits;
}

static double nll_of(const float *logits, int n, int target)
{
    double max = (double)logits[0], sum = 0;
    for (int i = 1; i < n; i++)
        max = fmax(max, (double)logits[i]);
    for (int i = 0; i < n; i++)
        sum += exp((double)logits[i] - max);
    return max + log(sum) - (double)logits[target];
}

/* The row's second document, from `begin` on, as the engine sees it alone; its targets one by one.
 */
static void same_as_engine(void **state)
{
    (void)state;
    for (size_t f = 0; f < PG_COUNT(files); f++) {
        struct net_case c;
        struct pg_net_options opt = {.n_seq = 2, .seq_len = LEN};
        int begin = 9, n = LEN - begin, row = LEN;
        net_case_open(&c, files[f], &opt, 2);
        net_case_fill(&c, LEN, f);
        for (int i = 0; i < LEN; i++)
            c.start[row + i] = i < begin ? 0 : begin;
        float *logits = engine_logits(&c, c.token + row + begin, n, NULL, 0);
        for (int i = 0; i < n; i += 5) {
            int target = (i * 7) % c.model.h.n_vocab;
            for (int t = 0; t < 2 * LEN; t++)
                c.target[t] = -1;
            c.target[row + begin + i] = target;
            double found = net_case_run(&c, false).nll;
            double wanted = nll_of(logits + i * c.model.h.n_vocab, c.model.h.n_vocab, target);
            if (fabs(found - wanted) > 2e-5 * fmax(1, wanted)) {
                fail_msg("%s: token %d: %.8f found, %.8f by the engine", files[f], i, found,
                         wanted);
            }
        }
        free(logits);
        net_case_close(&c);
    }
}

/* Likewise the second pair of a row, of its own source. */
static void same_as_engine_with_a_source(void **state)
{
    static const char *const tried[] = {"gen_moe/t5dense.gguf", "gen_moe/switch.gguf"};
    enum { SOURCE = 53, FIRST = 17 };
    (void)state;
    for (size_t f = 0; f < PG_COUNT(tried); f++) {
        struct net_case c;
        struct pg_net_options opt = {.n_seq = 2, .seq_len = LEN, .source_len = SOURCE};
        int begin = 9, n = LEN - begin;
        net_case_open(&c, tried[f], &opt, 2);
        net_case_fill(&c, LEN, f);
        for (int i = 0; i < LEN; i++) {
            c.start[i] = i < begin ? 0 : begin;
            c.source_of[i] = i < begin ? 0 : FIRST;
        }
        for (int i = 0; i < SOURCE; i++)
            c.source_start[i] = i < FIRST ? 0 : FIRST;
        float *logits = engine_logits(&c, c.token + begin, n, c.source + FIRST, SOURCE - FIRST);
        for (int i = 0; i < n; i += 5) {
            int target = (i * 7) % c.model.h.n_vocab;
            for (int t = 0; t < 2 * LEN; t++)
                c.target[t] = -1;
            c.target[begin + i] = target;
            double found = net_case_run(&c, false).nll;
            double wanted = nll_of(logits + i * c.model.h.n_vocab, c.model.h.n_vocab, target);
            if (fabs(found - wanted) > 2e-5 * fmax(1, wanted)) {
                fail_msg("%s: token %d: %.8f found, %.8f by the engine", tried[f], i, found,
                         wanted);
            }
        }
        free(logits);
        net_case_close(&c);
    }
}

/* ------------------------------------------------------------------ threads, sums ----------- */

static void same_bits_with_threads(const char *file, float dropout)
{
    struct net_case one, more;
    const float bias[] = {0.1f, 0.2f, 0.3f, 0.1f, 0.2f, 0.3f, 0.1f, 0.2f};
    struct pg_net_options opt = {.gate = PG_GATE_PREGATE,
                                 .level = 1,
                                 .n_seq = 5,
                                 .seq_len = 150,
                                 .source_len = strstr(file, "switch") ? 190 : 0,
                                 .balance_weight = 0.1f,
                                 .sticky_weight = 0.1f,
                                 .sticky_cache = 3,
                                 .cache_bias = bias,
                                 .kl_weight = 0.1f,
                                 .dropout = dropout};
    net_case_open(&one, file, &opt, 1);
    one.draw = 3;
    assert_true(one.model.n_moe <= (int)PG_COUNT(bias));
    net_case_fill(&one, 140, 3);
    struct pg_net_loss wanted = net_case_run(&one, true);
    for (int n_threads = 2; n_threads <= 5; n_threads += 3) {
        net_case_open(&more, file, &opt, n_threads);
        more.draw = 3;
        net_case_fill(&more, 140, 3);
        struct pg_net_loss found = net_case_run(&more, true);
        assert_memory_equal(&found, &wanted, sizeof(found));
        assert_memory_equal(more.g, one.g, one.params->n_values * sizeof(float));
        net_case_close(&more);
    }
    /* Without a gradient the loss is the same, too. */
    struct pg_net_loss again = net_case_run(&one, false);
    assert_memory_equal(&again, &wanted, sizeof(again));
    net_case_close(&one);
}

static void threads_change_no_bit(void **state)
{
    (void)state;
    same_bits_with_threads("gen_moe/mixed.gguf", 0);
    same_bits_with_threads("gen_moe/mixed.gguf", 0.1f);
    same_bits_with_threads("gen_moe/switch.gguf", 0);
    same_bits_with_threads("gen_moe/switch.gguf", 0.1f);
}

/* ------------------------------------------------------------------ dropout ----------------- */

/* As many values as asked for, others in each place, row and run, and what is left keeps the mean.
 */
static void dropped_rows(struct net_case *c, double part)
{
    enum { ROWS = 600 };
    const int n_embd = c->model.h.n_embd;
    const float times = (float)(1 / (1 - part));
    float *rows = malloc(sizeof(float) * (size_t)(4 * ROWS * n_embd));
    int n_dropped[4] = {0}, same = 0;
    assert_non_null(rows);
    pg_net_enter(c->net, 0);
    for (int place = 0; place < 4; place++) {
        c->net->draw = place < 3 ? 5 : 6;
        for (int t = 0; t < ROWS; t++) {
            float *row = rows + (size_t)(place * ROWS + t) * (size_t)n_embd;
            for (int i = 0; i < n_embd; i++)
                row[i] = 1;
            pg_net_drop_row(c->net, place == 1 ? 1 : 0, place == 2 ? PG_DROP_FFN : PG_DROP_SELF, t,
                            row);
            for (int i = 0; i < n_embd; i++) {
                assert_true(row[i] == 0 || fabsf(row[i] - times) < 1e-4f);
                n_dropped[place] += row[i] == 0;
                same += place > 0 && (row[i] == 0) == (row[i - ROWS * n_embd] == 0);
            }
        }
    }
    const double n = ROWS * n_embd, agree = part * part + (1 - part) * (1 - part);
    for (int place = 0; place < 4; place++)
        assert_true(fabs(n_dropped[place] / n - part) < 4 * sqrt(part * (1 - part) / n));
    assert_true(fabs(same / (3 * n) - agree) < 0.01);
    free(rows);
}

static void a_draw_decides_what_is_dropped(void **state)
{
    (void)state;
    struct pg_net_options opt = {.n_seq = 2, .seq_len = 33, .source_len = 40};
    struct pg_net_loss loss[4];
    for (int i = 0; i < 4; i++) { /* without dropout, without a draw, and with two */
        struct net_case c;
        opt.dropout = i ? 0.25f : 0;
        net_case_open(&c, "gen_moe/switch.gguf", &opt, 2);
        net_case_fill(&c, 20, 3);
        c.draw = i ? (uint64_t)(i - 1) : 9;
        loss[i] = net_case_run(&c, true);
        if (i == 3)
            dropped_rows(&c, 0.25);
        net_case_close(&c);
    }
    assert_memory_equal(&loss[0], &loss[1], sizeof(loss[0]));
    assert_true(loss[2].nll != loss[1].nll && loss[2].nll != loss[3].nll);
}

static void gradients_add_up(void **state)
{
    struct net_case c;
    struct pg_net_options opt = {.n_seq = 2, .seq_len = 33, .balance_weight = 0.1f};
    struct pg_net_loss loss;
    struct pg_err err;
    (void)state;
    net_case_open(&c, "gguf_moe/qwen_moe_tiny.gguf", &opt, 2);
    net_case_fill(&c, 20, 3);
    net_case_run(&c, true);
    size_t n = c.params->n_values;
    float *twice = calloc(n, sizeof(float));
    assert_non_null(twice);
    for (int i = 0; i < 2; i++)
        assert_int_equal(pg_net_run(c.net, (struct pg_net_point){c.w, twice, 0.5f, NULL, 0},
                                    &c.batch, &loss, &err),
                         0);
    for (int i = 0; i < c.params->n; i++) {
        const struct pg_param *p = &c.params->p[i];
        float max = 0, apart = 0;
        for (size_t j = p->at; j < p->at + p->n; j++) {
            max = fmaxf(max, fabsf(c.g[j]));
            apart = fmaxf(apart, fabsf(c.g[j] - twice[j]));
        }
        assert_true(max > 0 && apart <= 1e-5f * max);
    }
    free(twice);
    net_case_close(&c);
}

/* ------------------------------------------------------------------ refusals ---------------- */

static void refused(struct net_case *c, int code, const char *word)
{
    struct pg_net_loss loss;
    struct pg_err err = {0};
    assert_int_equal(
        pg_net_run(c->net, (struct pg_net_point){c->w, c->g, 1, NULL, 0}, &c->batch, &loss, &err),
        code);
    says(err.text, word);
}

static void bad_batches(void **state)
{
    struct net_case c;
    struct pg_net_options opt = {.n_seq = 2, .seq_len = 16};
    int32_t kept;
    (void)state;
    net_case_open(&c, "gen_moe/qwen3moe.gguf", &opt, 2);
    net_case_fill(&c, 20, 3);
    const struct {
        int32_t *where, value;
        const char *word;
    } bad[] = {
        {&c.token[5], -1, "token -1"},
        {&c.token[31], c.model.h.n_vocab, "ids below"},
        {&c.target[7], c.model.h.n_vocab, "ids below"},
        {&c.target[7], -2, "target -2"},
        {&c.start[0], 1, "begins at 1"},
        {&c.start[20], 5, "begins at 5"},
        {&c.start[20], -1, "begins at -1"},
    };
    for (size_t i = 0; i < PG_COUNT(bad); i++) {
        kept = *bad[i].where;
        *bad[i].where = bad[i].value;
        refused(&c, PG_EARG, bad[i].word);
        *bad[i].where = kept;
    }
    net_case_run(&c, true);
    c.w[pg_params_find(c.params, "output_norm.weight")->at] = NAN;
    refused(&c, PG_ENUMERIC, "the loss is");
    for (int t = 0; t < 32; t++)
        c.target[t] = -1;
    refused(&c, PG_EARG, "without any target");
    net_case_close(&c);
}

static void bad_sources(void **state)
{
    struct net_case c;
    struct pg_net_options opt = {.n_seq = 2, .seq_len = 16, .source_len = 20};
    int32_t kept;
    (void)state;
    net_case_open(&c, "gen_moe/switch.gguf", &opt, 2);
    net_case_fill(&c, 5, 3);
    const struct {
        int32_t *where, value;
        const char *word;
    } bad[] = {
        {&c.token[0], -1, "token -1 in place 0"},
        {&c.token[5], -1, "a row"},
        {&c.token[31], -2, "token -2 in place 15"},
        {&c.token[31], 3, "token 3 in place 15"},
        {&c.target[31], 3, "token -1 with target 3"},
        {&c.source[0], c.model.h.n_vocab, "ids below"},
        {&c.source[3], -1, "a row"},
        {&c.source_start[2], 1, "begins at 1"},
        {&c.source_of[0], 1, "source begins at 1"},
        {&c.source_of[0], -1, "source begins at -1"},
        {&c.source_of[15], 20, "source begins at 20"},
        {&c.source_of[1], 19, "source begins at"},
    };
    for (size_t i = 0; i < PG_COUNT(bad); i++) {
        kept = *bad[i].where;
        *bad[i].where = bad[i].value;
        refused(&c, PG_EARG, bad[i].word);
        *bad[i].where = kept;
    }
    net_case_run(&c, true);
    opt = c.opt;
    opt.source_len = 0;
    struct pg_net *net;
    struct pg_err err;
    assert_int_equal(pg_net_open(&net, &opt, &err), PG_EARG);
    says(err.text, "rows of 0 tokens");
    net_case_close(&c);
}

static void bad_options(void **state)
{
    struct net_case c;
    struct pg_net_options opt = {.n_seq = 2, .seq_len = 16}, bad;
    struct pg_net *net;
    struct pg_err err;
    (void)state;
    net_case_open(&c, "gen_moe/qwen3moe.gguf", &opt, 2);
    const struct {
        int n_seq, seq_len, level, cache;
        const char *word;
    } cases[] = {
        {0, 16, 0, 0, "0 rows of 16"},          {1 << 16, 1 << 16, 0, 0, "rows of 65536"},
        {2, 16, c.model.n_moe, 0, "pre-gates"}, {2, 16, -1, 0, "pre-gates"},
        {2, 16, 0, -1, "cache of -1"},
    };
    for (size_t i = 0; i < PG_COUNT(cases); i++) {
        bad = c.opt;
        bad.n_seq = cases[i].n_seq;
        bad.seq_len = cases[i].seq_len;
        bad.gate = cases[i].level ? PG_GATE_PREGATE : PG_GATE_ROUTER;
        bad.level = cases[i].level;
        bad.sticky_cache = cases[i].cache;
        assert_int_equal(pg_net_open(&net, &bad, &err), PG_EARG);
        assert_null(net);
        says(err.text, cases[i].word);
    }
    bad = c.opt;
    bad.cache_bias = &bad.balance_weight;
    assert_int_equal(pg_net_open(&net, &bad, &err), PG_EARG);
    says(err.text, "a cache of 0");
    bad = c.opt;
    bad.seq_len = 32;
    assert_true(pg_net_bytes(&bad) > pg_net_bytes(&c.opt));
    assert_null(pg_params_find(c.params, "blk.0.attn_q"));
    net_case_close(&c);
}

static void refused_model(struct net_case *c, const char *word)
{
    struct pg_net *net;
    struct pg_err err;
    assert_int_equal(pg_net_open(&net, &c->opt, &err), PG_ENOTSUP);
    assert_null(net);
    says(err.text, word);
}

/* A model whose forward pass is not the trainer's is refused, by the name of what differs. */
static void unknown_models(void **state)
{
    static const char *const tried[] = {"gen_moe/qwen3moe.gguf", "stories260K/stories260K.gguf"};
    struct pg_net_options opt = {.n_seq = 2, .seq_len = 16};
    (void)state;
    for (size_t f = 0; f < PG_COUNT(tried); f++) {
        struct net_case c;
        net_case_open(&c, tried[f], &opt, 1);
        struct pg_model *m = &c.model;
        for (enum pg_block_part part = 0; part < PG_BLOCK_PARTS; part++) {
            struct pg_weight *w = pg_block_part(&m->block[1], part), kept = *w;
            bool is_bias =
                part == PG_PART_Q_BIAS || part == PG_PART_K_BIAS || part == PG_PART_V_BIAS;
            /* Neither more tensors than are used, nor fewer. */
            *w = kept.n_in ? (struct pg_weight){0} : (struct pg_weight){PG_TYPE_F32, 8, 8, NULL};
            refused_model(&c, is_bias ? "parameters" : pg_part_name(m, 1, part).s);
            *w = kept;
        }
        m->n_params += 8; /* a tensor outside the blocks */
        refused_model(&c, "training would use");
        m->n_params -= 8;
        m->h.activation = (enum pg_activation)9;
        refused_model(&c, "activation");
        m->h.activation = PG_SILU;
        m->h.rope = (enum pg_rope_kind)7;
        refused_model(&c, "rotation: kind 7");
        m->h.rope = PG_ROPE_HALVES;
        m->cache[1].window = 4;
        refused_model(&c, "a window of 4");
        m->cache[1].window = 0;
        m->cache[0].state_bytes = 64;
        refused_model(&c, "a state of 64 bytes");
        m->cache[0].state_bytes = 0;
        net_case_close(&c);
    }
}

/* The list names each tensor of a block once, and each member of the structs. */
static void parts_of_a_block(void **state)
{
    struct pg_block layer = {0};
    struct pg_pregate gate = {0};
    (void)state;
    for (enum pg_block_part part = 0; part < PG_N_PARTS; part++) {
        struct pg_weight *w =
            part < PG_BLOCK_PARTS ? pg_block_part(&layer, part) : pg_pregate_part(&gate, part);
        assert_non_null(pg_parts[part].suffix);
        assert_int_equal(w->n_in++, 0);
        for (enum pg_block_part other = 0; other < part; other++)
            assert_string_not_equal(pg_parts[part].suffix, pg_parts[other].suffix);
    }
    assert_int_equal(layer.ffn_down_shexp.n_in, 1);
    assert_int_equal(gate.up.n_in, 1);
}

/* ------------------------------------------------------------------ rows -------------------- */

enum { MOST = 83 };

struct rows {
    float a[MOST], b[MOST], c[MOST], y[MOST], z[MOST], u[MOST];
    int n;
};

/* Within a few units of the last place of what was summed. */
static void near(const char *what, int n, double found, double wanted, double size)
{
    if (!(fabs(found - wanted) <= 4e-6 * (fabs(wanted) + size)))
        fail_msg("%s of %d: %.9g found, %.9g wanted", what, n, found, wanted);
}

static void fill_rows(struct rows *r, int n, uint64_t seed)
{
    r->n = n;
    for (int i = 0; i < n; i++) {
        r->a[i] = (float)(3 * net_uniform(&seed));
        r->b[i] = (float)(3 * net_uniform(&seed));
        r->c[i] = (float)net_uniform(&seed);
        r->y[i] = r->z[i] = r->u[i] = (float)net_uniform(&seed);
    }
}

static void check_norm(const struct pg_row_ops *ops, struct rows *r)
{
    int n = r->n;
    double squares = 0, along = 0;
    for (int i = 0; i < n; i++) {
        squares += (double)r->a[i] * (double)r->a[i];
        along += (double)r->c[i] * (double)r->b[i] * (double)r->a[i];
    }
    double s = 1 / sqrt(squares / n + 1e-5);
    float before[2][MOST];
    memcpy(before[0], r->z, sizeof(before[0]));
    memcpy(before[1], r->u, sizeof(before[1]));
    float got = ops->norm(r->a, r->b, 1e-5f, r->y, n);
    near("norm", n, (double)got, s, 0);
    struct pg_norm_back b = {r->a, r->b, r->c, r->z, got, r->z, r->u};
    ops->norm_back(&b, n);
    for (int i = 0; i < n; i++) {
        double a = (double)r->a[i], g = (double)r->b[i], d = (double)r->c[i];
        near("norm y", n, (double)r->y[i], a * s * g, 0);
        near("norm dx", n, (double)r->z[i],
             (double)before[0][i] + s * d * g - s * s * s * a * along / n, 10);
        near("norm dgain", n, (double)r->u[i], (double)before[1][i] + d * a * s, 1);
    }
}

static void check_softmax(const struct pg_row_ops *ops, struct rows *r)
{
    int n = r->n;
    double sum = 0, mean = 0, p[MOST];
    for (int i = 0; i < n; i++)
        sum += exp((double)r->a[i] * 0.7);
    for (int i = 0; i < n; i++) {
        p[i] = exp((double)r->a[i] * 0.7) / sum;
        mean += p[i] * (double)r->c[i];
    }
    memcpy(r->y, r->a, (size_t)n * sizeof(float));
    memcpy(r->u, r->c, (size_t)n * sizeof(float));
    float lse = ops->softmax(r->y, 0.7f, 2, n);
    near("softmax", n, (double)lse, log(sum), 1);
    for (int i = 0; i < n; i++) {
        near("softmax y", n, (double)r->y[i], 2 * p[i], 0);
        r->z[i] = (float)p[i];
    }
    ops->softmax_back(r->z, r->u, (float)mean, n);
    for (int i = 0; i < n; i++)
        near("softmax back", n, (double)r->u[i], p[i] * ((double)r->c[i] - mean), 1);
}

/* A window of a longer row; outside of it there are NaNs. */
static void check_window(const struct pg_row_ops *ops, struct rows *r)
{
    enum { LONG = MOST + PG_ROW_STEP };
    int n = r->n, from = n / 3;
    struct pg_window w = {from, n, (n + 2 * PG_ROW_STEP - 1) / PG_ROW_STEP * PG_ROW_STEP};
    float x[2][LONG + PG_ROW_STEP], d[LONG + PG_ROW_STEP];
    double sum = 0, mean = 0;
    for (int i = 0; i < w.n; i++) {
        bool in = i >= from && i < n;
        x[0][i] = x[1][i] = in ? r->a[i] : NAN;
        d[i] = in ? r->c[i] : NAN;
        sum += in ? exp((double)r->a[i] * 0.7) : 0;
    }
    struct pg_attend a = ops->attend(x[0], &w, 0.7f);
    near("attend", n, (double)a.lse, log(sum), 1);
    for (int i = from; i < n; i++) {
        near("attend x", n, (double)(x[0][i] * a.times), exp((double)r->a[i] * 0.7) / sum, 0);
        mean += exp((double)r->a[i] * 0.7) / sum * (double)r->c[i];
    }
    struct pg_attend_back back = {.scale = 0.7f, .lse = a.lse, .mean = (float)mean};
    ops->attend_back(x[1], d, &w, &back);
    for (int i = 0; i < w.n; i++) {
        bool in = i >= from && i < n;
        double p = in ? exp((double)r->a[i] * 0.7) / sum : 0;
        assert_true(in || (x[0][i] == 0 && x[1][i] == 0 && d[i] == 0));
        near("attend again", n, (double)x[1][i], p, 0);
        near("attend back", n, (double)d[i], in ? 0.7 * p * ((double)r->c[i] - mean) : 0, 1);
    }
}

/* f and its derivative at g, in double. */
struct value {
    double f, df;
};

static struct value silu_at(double g)
{
    double s = 1 / (1 + exp(-g));
    return (struct value){g * s, s + g * s * (1 - s)};
}

static struct value gelu_at(double g)
{
    double by = sqrt(2 / 3.14159265358979323846), t = tanh(by * (g + 0.044715 * g * g * g));
    return (struct value){0.5 * g * (1 + t),
                          0.5 * (1 + t) + 0.5 * g * (1 - t * t) * by * (1 + 0.134145 * g * g)};
}

static struct value relu_at(double g)
{
    return (struct value){g > 0 ? g : 0, g > 0};
}

static void check_act(const struct pg_act_ops *ops, struct value (*at)(double), struct rows *r,
                      bool gated)
{
    int n = r->n;
    double sum = 0;
    float act[MOST], *up = gated ? r->b : NULL, *dup = gated ? r->u : NULL;
    ops->of(r->a, up, act, n);
    struct pg_act_back b = {r->a, up, r->c, 0.25f, r->y, r->z, dup};
    float got = ops->back(&b, n);
    for (int i = 0; i < n; i++) {
        double u = gated ? (double)r->b[i] : 1, d = (double)r->c[i];
        struct value v = at((double)r->a[i]);
        sum += d * v.f * u;
        near("activation", n, (double)act[i], v.f * u, 0.1);
        near("activation again", n, (double)r->y[i], v.f * u, 0.1);
        near("dgate", n, (double)r->z[i], 0.25 * d * u * v.df, 1);
        if (gated)
            near("dup", n, (double)r->u[i], 0.25 * d * v.f, 0.1);
    }
    near("sum of an activation", n, (double)got, sum, 10);
}

static void check_acts(const struct pg_row_ops *ops, struct rows *r)
{
    for (int gated = 0; gated < 2; gated++) {
        check_act(&ops->silu, silu_at, r, gated);
        check_act(&ops->gelu, gelu_at, r, gated);
        check_act(&ops->relu, relu_at, r, gated);
    }
}

static void check_plain(const struct pg_row_ops *ops, struct rows *r)
{
    int n = r->n;
    double sum = 0;
    float before[MOST];
    memcpy(before, r->y, sizeof(before));
    ops->add(r->a, r->y, n);
    ops->axpy(0.3f, r->a, r->z, n);
    ops->scale(0.3f, r->a, r->u, n);
    for (int i = 0; i < n; i++) {
        double a = (double)r->a[i];
        sum += a * (double)r->b[i];
        near("add", n, (double)r->y[i], a + (double)before[i], 0);
        near("axpy", n, (double)r->z[i], (double)0.3f * a + (double)before[i], 1);
        near("scale", n, (double)r->u[i], (double)0.3f * a, 0);
    }
    near("dot", n, (double)ops->dot(r->a, r->b, n), sum, 100);
}

/* What lies behind the end of a row stays as it is. */
static void check_level(const struct pg_row_ops *ops)
{
    void (*const checks[])(const struct pg_row_ops *, struct rows *) = {
        check_plain, check_norm, check_softmax, check_window, check_acts};
    for (int n = 1; n < MOST; n++) {
        for (size_t i = 0; i < PG_COUNT(checks); i++) {
            struct rows r = {0};
            fill_rows(&r, n, (uint64_t)n);
            r.y[n] = r.z[n] = r.u[n] = 77;
            checks[i](ops, &r);
            assert_true(r.y[n] == 77 && r.z[n] == 77 && r.u[n] == 77);
        }
    }
}

static void rows_are_right(void **state)
{
    (void)state;
    assert_non_null(pg_row_ops(0));
    for (int below = 0; pg_row_ops(below); below++)
        check_level(pg_row_ops(below));
}

/* Far out: nothing overflows into a NaN, and a NaN is not lost. */
static void rows_at_the_edges(void **state)
{
    const struct pg_row_ops *ops = pg_row_ops(0);
    float x[5] = {-1e30f, 0, 1e30f, -200, 3}, up[5] = {1, 1, 1, 1, 1}, y[5];
    (void)state;
    ops->silu.of(x, up, y, 5);
    assert_true(fabsf(y[0]) < 1e-7f && y[1] == 0 && y[2] == 1e30f && fabsf(y[3]) < 1e-30f);
    ops->softmax(x, 1, 1, 5);
    assert_true(x[2] == 1 && x[0] == 0 && x[4] == 0);
    x[3] = NAN;
    ops->relu.of(x, NULL, y, 5);
    assert_true(isnan(y[3]) && y[0] == 0 && y[2] == 1);
    ops->gelu.of(x, NULL, y, 5);
    assert_true(isnan(y[3]));
    ops->softmax(x, 1, 1, 5);
    assert_true(isnan(x[0]) && isnan(x[4]));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_as_engine_with_a_source),
        cmocka_unit_test(same_as_engine),
        cmocka_unit_test(threads_change_no_bit),
        cmocka_unit_test(a_draw_decides_what_is_dropped),
        cmocka_unit_test(gradients_add_up),
        cmocka_unit_test(bad_batches),
        cmocka_unit_test(bad_sources),
        cmocka_unit_test(bad_options),
        cmocka_unit_test(unknown_models),
        cmocka_unit_test(parts_of_a_block),
        cmocka_unit_test(rows_are_right),
        cmocka_unit_test(rows_at_the_edges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
