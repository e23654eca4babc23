/* SPDX-License-Identifier: MIT
 * The promise of the engine, on every tiny model, through the public header alone:
 *
 *   right   logits are those of an independent implementation, and so are the greedy tokens
 *   same    where an expert is stored, the budget, the batch, the threads, the instruction set, the
 *           way experts are read and evicted and what is hinted change no bit of a logit
 *   alone   a session gets the same bits beside others as alone, in any chunking of its prompt
 *
 *     test_models MODEL      one of the names below; a test of ctest each
 *
 * "Same" walks all of mode x budget x threads x batch; eviction, hints, instruction set, reading
 * path and depth of hints take turns, so that each value meets each mode many times.
 */
#include "helpers.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define N_PROMPT  23 /* tokens of the walk: a prompt that no batch of 7 divides, */
#define N_DECODE  6  /* then one by one */
#define N_WALK    (N_PROMPT + N_DECODE)
#define N_CTX     96
#define N_BUDGETS 4

struct model {
    const char *name, *gguf, *ref;
    const char *ids_key, *logits_key, *greedy_key;
    bool is_moe;
    double tolerance; /* of the largest difference of a logit */
};

#define MOE(name) PG_TEST_DATA "/gguf_moe/" name ".gguf", PG_TEST_DATA "/gguf_moe/" name ".ref.json"
#define GEN(name) PG_TEST_DATA "/gen_moe/" name ".gguf", PG_TEST_DATA "/gen_moe/" name ".ref.json"

/* stories260K: the reference is itself float32. tinystories-moe: its logits reach 20. */
static const struct model models[] = {
    {"full_mixtral", MOE("full_mixtral"), "input_ids", "hf_logits", NULL, true, 1e-4},
    {"gqa_mixtral", MOE("gqa_mixtral"), "input_ids", "hf_logits", NULL, true, 1e-4},
    {"mixtral_scale", MOE("mixtral_scale"), "input_ids", "hf_logits", "greedy_ids", true, 1e-4},
    {"qwen_moe_tiny", MOE("qwen_moe_tiny"), "input_ids", "hf_logits", "greedy_ids", true, 1e-4},
    {"qwen_scale", MOE("qwen_scale"), "input_ids", "hf_logits", "greedy_ids", true, 1e-4},
    {"qwen3moe", GEN("qwen3moe"), "input_ids", "logits_f64", NULL, true, 1e-4},
    {"olmoe", GEN("olmoe"), "input_ids", "logits_f64", NULL, true, 1e-4},
    {"mixed", GEN("mixed"), "input_ids", "logits_f64", NULL, true, 1e-4},
    /* full_mixtral with a tensor for each expert, qwen_moe_tiny in three files */
    {"single_mixtral", PG_TEST_DATA "/gguf_moe/single_mixtral.gguf",
     PG_TEST_DATA "/gguf_moe/full_mixtral.ref.json", "input_ids", "hf_logits", NULL, true, 1e-4},
    {"split_qwen", PG_TEST_DATA "/gguf_moe/split_qwen-00001-of-00003.gguf",
     PG_TEST_DATA "/gguf_moe/qwen_moe_tiny.ref.json", "input_ids", "hf_logits", "greedy_ids", true,
     1e-4},
    {"stories260K", PG_TEST_DATA "/stories260K/stories260K.gguf",
     PG_TEST_DATA "/stories260K/stories260K.ref.json", "prompt_ids", "logits_per_prompt_position",
     "greedy_ids", false, 1e-3},
    {"tinystories-moe", PG_MODELS "/tinystories-moe.gguf",
     PG_TEST_DATA "/tinystories/tinystories-moe.ref.json", "ids", "logits_f64", "greedy_60_ids",
     true, 1e-3},
    {"t5dense", GEN("t5dense"), "decoder_input_ids", "logits_f64", NULL, false, 1e-4},
    {"t5gated", GEN("t5gated"), "decoder_input_ids", "logits_f64", NULL, false, 1e-4},
    {"switch", GEN("switch"), "decoder_input_ids", "logits_f64", NULL, true, 1e-4},
};

static const enum pg_mode exact_modes[] = {PG_MODE_RESIDENT, PG_MODE_ONDEMAND, PG_MODE_PREFETCH_ALL,
                                           PG_MODE_LOOKAHEAD, PG_MODE_HINT};
static enum pg_cpu_level levels[5] = {PG_CPU_AUTO, PG_CPU_REF}; /* and what the machine has */
static int n_levels = 2;

struct numbers {
    double *v;
    size_t n;
};

struct fixture {
    const struct model *model;
    struct numbers ids, logits, greedy;
    int n_vocab, n_source; /* 0: no encoder */
    int32_t walk[N_WALK], source[64];
    char sidecar[128];
    float *resident; /* [N_WALK, n_vocab], KV in f32 */
    float *got;      /* the same, of the variant at hand */
    int n_moe_layer;
    uint64_t expert_bytes;
    uint64_t n_hinted; /* experts that were wanted after a hint */
    int n_evicting;    /* runs so far in which not all experts had a slot */
};

/* ------------------------------------------------------------------ helpers ----------------- */

static void flatten(const json_t *j, struct numbers *out, size_t cap)
{
    if (json_is_array(j)) {
        for (size_t i = 0; i < json_array_size(j); i++)
            flatten(json_array_get(j, i), out, cap);
    } else {
        assert_true(json_is_number(j) && out->n < cap);
        out->v[out->n++] = json_number_value(j);
    }
}

static struct numbers read_numbers(const json_t *root, const char *key)
{
    enum { CAP = 1 << 17 };
    struct numbers out = {calloc(CAP, sizeof(double)), 0};
    const json_t *j = json_object_get(root, key);
    assert_non_null(out.v);
    assert_non_null(j);
    flatten(j, &out, CAP);
    return out;
}

static struct pg_options options_of(const struct fixture *fx, enum pg_mode mode)
{
    struct pg_options opt = {
        PG_OPTIONS_INIT,        .model = fx->model->gguf, .mode = mode,   .n_threads = 1,
        .n_ctx = N_CTX,         .n_sessions = 1,          .n_batch = 512, .kv_type = PG_KV_F32,
        .sidecar = fx->sidecar, .n_source = fx->n_source};
    if (mode != PG_MODE_HINT && mode != PG_MODE_PREGATE)
        opt.sidecar = NULL;
    return opt;
}

/* A session, with a source where the model wants one. */
static pg_session *open_session(pg_engine *e, const struct fixture *fx)
{
    struct pg_err err = {0};
    pg_session *s;
    must(pg_session_open(&s, e, NULL, &err), &err);
    if (fx->n_source)
        must(pg_session_encode(s, fx->source, (size_t)fx->n_source, &err), &err);
    return s;
}

/* How many slots beside the fewest a budget has room for. */
static int more_slots(int step, const struct pg_plan *plan)
{
    const int more[N_BUDGETS] = {0, 1, plan->n_expert_total / 3, plan->n_expert_total};
    return more[step];
}

/* Opens the engine under a budget of N_BUDGETS, from the least that there is up to all experts in
 * slots. What the process holds beside the engine counts in the budget and moves by some pages from
 * one call to the next, so the least is felt for in growing steps. */
static pg_engine *open_under(struct pg_options *opt, int step)
{
    struct pg_plan plan;
    struct pg_err err = {0};
    pg_engine *e = NULL;
    opt->memory_bytes = 1;
    for (int i = 0; !e && i < 64; i++) {
        int rc = pg_plan_make(&plan, opt, &err);
        if (!rc) {
            opt->memory_bytes += (uint64_t)more_slots(step, &plan) * plan.slot_bytes;
            rc = pg_engine_open(&e, opt, &err);
        }
        if (rc) {
            assert_int_equal(rc, PG_EBUDGET);
            assert_null(e);
            opt->memory_bytes = plan.minimum - (512 << 10) + (uint64_t)i * (uint64_t)i * 1024;
        }
    }
    if (!e)
        fail_msg("no budget near the minimum opens: %s", err.text);
    return e;
}

static void walk_in(pg_session *s, const struct fixture *fx, float *logits)
{
    struct pg_err err = {0};
    size_t row = (size_t)fx->n_vocab;
    must(pg_session_eval(s, fx->walk, N_PROMPT, logits, &err), &err);
    for (size_t i = N_PROMPT; i < N_WALK; i++)
        must(pg_session_eval(s, fx->walk + i, 1, logits + i * row, &err), &err);
    assert_int_equal(pg_session_n_tokens(s), N_WALK);
    assert_memory_equal(pg_session_logits(s), logits + (N_WALK - 1) * row, row * sizeof(*logits));
}

static void check_stats(const struct fixture *fx, const struct pg_stats *st,
                        const struct pg_options *opt)
{
    assert_true(st->expert_requests ==
                st->hits + st->hinted_in_time + st->hinted_late + st->missed);
    assert_true(st->n_prompt + st->n_decode == N_WALK + (uint64_t)fx->n_source);
    assert_true(st->hint_bytes_used <= st->hint_bytes_read);
    assert_true(st->hint_bytes_read <= st->expert_bytes_read);
    assert_true(st->read_errors == 0);
    bool hints = opt->mode != PG_MODE_RESIDENT && opt->mode != PG_MODE_ONDEMAND &&
                 opt->hints != PG_HINTS_OFF;
    if (!hints)
        assert_true(st->hint_bytes_read == 0 && st->hinted_in_time == 0 && st->hinted_late == 0);
    if (opt->mode == PG_MODE_RESIDENT)
        assert_true(st->missed == 0);
}

/* Runs the walk with these options under a budget; logits of all positions go to `logits`. */
static void run(struct fixture *fx, struct pg_options *opt, int step, float *logits)
{
    struct pg_stats stats;
    struct pg_plan plan;
    struct pg_model_info info;
    pg_engine *e = open_under(opt, step);
    pg_session *s = open_session(e, fx);
    walk_in(s, fx, logits);
    pg_engine_stats(e, &stats);
    pg_engine_plan(e, &plan);
    pg_engine_info(e, &info);
    fx->n_moe_layer = fx->n_source ? info.n_moe_layer / 2 : info.n_moe_layer; /* of a stack */
    fx->expert_bytes = plan.expert_bytes;
    check_stats(fx, &stats, opt);
    if (plan.n_slots < plan.n_expert_total) {
        fx->n_evicting++;
        fx->n_hinted += stats.hinted_in_time + stats.hinted_late;
        assert_true(stats.missed + stats.hinted_in_time + stats.hinted_late > 0);
    }
    pg_session_close(s);
    pg_engine_close(e);
}

static void describe(const struct pg_options *o)
{
    print_error(
        "%s, %llu bytes, %d threads, batch %d, evict %s, hints %d, cpu %d, io %d, ahead %d\n",
        pg_mode_name(o->mode), (unsigned long long)o->memory_bytes, o->n_threads, o->n_batch,
        pg_evict_name(o->evict), (int)o->hints, (int)o->cpu, (int)o->io_path, o->lookahead);
}

static void same_bits(const struct fixture *fx, const float *want, const float *got,
                      const struct pg_options *opt)
{
    size_t row = (size_t)fx->n_vocab;
    if (!memcmp(want, got, N_WALK * row * sizeof(*got)))
        return;
    describe(opt);
    for (size_t i = 0; i < N_WALK * row; i++)
        if (memcmp(want + i, got + i, sizeof(*got)))
            fail_msg("token %zu, logit %zu: %.9g, wanted %.9g", i / row, i % row, (double)got[i],
                     (double)want[i]);
}

/* The options that take turns: a number of the walk picks one of each. */
static void take_turns(struct pg_options *opt, int turn, int n_moe_layer)
{
    static const enum pg_hints hints[] = {PG_HINTS_ON, PG_HINTS_AUTO, PG_HINTS_OFF};
    static const enum pg_io_path paths[] = {PG_IO_AUTO, PG_IO_PREAD};
    opt->evict = (enum pg_evict)(turn % PG_EVICT_COUNT);
    opt->hints = hints[(turn / 4) % 3];
    opt->cpu = levels[turn / 2 % n_levels];
    opt->io_path = paths[(turn / 3) % 2];
    opt->lookahead = n_moe_layer > 2 && opt->mode == PG_MODE_LOOKAHEAD ? 1 + (turn / 5) % 2 : 1;
}

/* Every budget x threads x batch of a mode gives the bits of `want`; of a model that takes long to
 * read, every third. */
static void same_everywhere(struct fixture *fx, enum pg_mode mode, const float *want, int turn)
{
    static const int threads[] = {1, 2}, batches[] = {1, 7, 512};
    const bool is_large = fx->expert_bytes > 4 << 20;
    int n_budgets = mode == PG_MODE_RESIDENT || !fx->model->is_moe ? 1 : N_BUDGETS;
    for (int b = 0; b < n_budgets; b++)
        for (int t = 0; t < 2; t++)
            for (int c = 0; c < 3; c++) {
                if (is_large && (b + t + c) % 3)
                    continue;
                struct pg_options opt = options_of(fx, mode);
                opt.n_threads = threads[t];
                opt.n_batch = batches[c] > fx->n_source ? batches[c] : fx->n_source + c;
                take_turns(&opt, turn++, fx->n_moe_layer);
                run(fx, &opt, b, fx->got);
                same_bits(fx, want, fx->got, &opt);
            }
}

/* ------------------------------------------------------------------ right ------------------- */

static void test_reference_logits(void **state)
{
    struct fixture *fx = *state;
    size_t n = fx->ids.n, row = (size_t)fx->n_vocab;
    float *logits = calloc(n * row, sizeof(*logits));
    int32_t ids[64];
    assert_non_null(logits);
    assert_true(n <= 64 && fx->logits.n == n * row);
    for (size_t i = 0; i < n; i++)
        ids[i] = (int32_t)fx->ids.v[i];
    for (int l = 0; l < n_levels; l++) {
        struct pg_options opt = options_of(fx, PG_MODE_RESIDENT);
        struct pg_err err = {0};
        pg_engine *e = NULL;
        pg_session *s = NULL;
        double worst = 0, error = 0, power = 0;
        opt.cpu = levels[l];
        must(pg_engine_open(&e, &opt, &err), &err);
        s = open_session(e, fx);
        must(pg_session_eval(s, ids, n, logits, &err), &err);
        for (size_t i = 0; i < n * row; i++) {
            double d = fabs((double)logits[i] - fx->logits.v[i]);
            worst = d <= worst ? worst : d; /* a NaN stays */
            error += d * d;
            power += fx->logits.v[i] * fx->logits.v[i];
        }
        struct pg_stats stats;
        pg_engine_stats(e, &stats);
        print_message("           %s: largest difference %.2e, normalised MSE %.1e\n",
                      stats.cpu_level, worst, error / power);
        assert_true(worst <= fx->model->tolerance);
        assert_true(error / power <= 1e-9);
        pg_session_close(s);
        pg_engine_close(e);
    }
    free(logits);
}

static void test_greedy_tokens(void **state)
{
    struct fixture *fx = *state;
    struct pg_options opt = options_of(fx, PG_MODE_AUTO);
    struct pg_sampling how = {PG_SAMPLING_INIT, .temp = 0};
    struct pg_err err = {0};
    pg_engine *e = NULL;
    pg_session *s = NULL;
    int32_t ids[64], token;
    for (size_t i = 0; i < fx->ids.n; i++)
        ids[i] = (int32_t)fx->ids.v[i];
    must(pg_engine_open(&e, &opt, &err), &err);
    s = open_session(e, fx);
    must(pg_session_sync(s, ids, fx->ids.n, &err), &err);
    for (size_t i = 0; i < fx->greedy.n; i++) {
        must(pg_session_next(s, &how, &token, &err), &err);
        assert_int_equal(token, (int32_t)fx->greedy.v[i]);
    }
    pg_session_close(s);
    pg_engine_close(e);
}

/* ------------------------------------------------------------------ same -------------------- */

static void test_modes_same_bits(void **state)
{
    struct fixture *fx = *state;
    size_t n_modes = fx->model->is_moe ? sizeof(exact_modes) / sizeof(*exact_modes) : 1;
    for (size_t m = 0; m < n_modes; m++)
        same_everywhere(fx, exact_modes[m], fx->resident, (int)m * 7);
    print_message("           %d runs with fewer slots than experts, %llu experts hinted\n",
                  fx->n_evicting, (unsigned long long)fx->n_hinted);
    assert_true((fx->n_evicting > 0 && fx->n_hinted > 0) || !fx->model->is_moe);
}

/* With KV in f16 the bits are others, and as independent of the rest. */
static void test_f16_kv_same_bits(void **state)
{
    struct fixture *fx = *state;
    size_t size = N_WALK * (size_t)fx->n_vocab * sizeof(float);
    float *want = malloc(size);
    assert_non_null(want);
    for (int i = 0; i < 6; i++) {
        struct pg_options opt = options_of(fx, i ? PG_MODE_ONDEMAND : PG_MODE_RESIDENT);
        if (!fx->model->is_moe)
            opt.mode = PG_MODE_RESIDENT;
        opt.kv_type = PG_KV_F16;
        opt.n_threads = 1 + i % 2;
        opt.n_batch = i % 3 && !fx->n_source ? 5 : 512;
        opt.cpu = levels[i % n_levels];
        run(fx, &opt, 0, i ? fx->got : want);
        if (i)
            same_bits(fx, want, fx->got, &opt);
    }
    assert_memory_not_equal(want, fx->resident, size);
    free(want);
}

static void test_pregate_same_bits(void **state)
{
    struct fixture *fx = *state;
    size_t size = N_WALK * (size_t)fx->n_vocab * sizeof(float);
    float *want = malloc(size);
    assert_non_null(want);
    struct pg_options opt = options_of(fx, PG_MODE_PREGATE);
    run(fx, &opt, N_BUDGETS - 1, want);
    same_everywhere(fx, PG_MODE_PREGATE, want, 3);
    /* Decided a block early, so another function. */
    assert_memory_not_equal(want, fx->resident, size);
    free(want);
}

/* ------------------------------------------------------------------ alone ------------------- */

/* The state after any chunking, cutting back and syncing is that of its tokens. */
static void test_chunks_sync_truncate(void **state)
{
    struct fixture *fx = *state;
    size_t row = (size_t)fx->n_vocab, bytes = row * sizeof(float);
    const float *want = fx->resident;
    struct pg_options opt =
        options_of(fx, fx->model->is_moe ? PG_MODE_LOOKAHEAD : PG_MODE_RESIDENT);
    struct pg_err err = {0};
    pg_session *s = NULL;
    opt.n_threads = 2;
    opt.n_batch = fx->n_source ? fx->n_source : 8;
    pg_engine *e = open_under(&opt, 0);
    s = open_session(e, fx);
    assert_null(pg_session_logits(s));
    for (size_t chunk = 1; chunk <= N_WALK; chunk += chunk < 5 ? 2 : 8) {
        assert_int_equal(pg_session_truncate(s, 0), 0);
        for (size_t at = 0; at < N_WALK; at += chunk) {
            size_t n = chunk < N_WALK - at ? chunk : N_WALK - at;
            must(pg_session_eval(s, fx->walk + at, n, fx->got + at * row, &err), &err);
        }
        assert_memory_equal(fx->got, want, N_WALK * bytes);
    }
    for (size_t keep = 1; keep < N_WALK; keep += 9) {
        assert_int_equal(pg_session_truncate(s, keep), 0);
        assert_int_equal(pg_session_n_tokens(s), keep);
        must(pg_session_eval(s, fx->walk + keep, N_WALK - keep, NULL, &err), &err);
        assert_memory_equal(pg_session_logits(s), want + (N_WALK - 1) * row, bytes);
    }
    static const size_t lengths[] = {10, 20, N_WALK, 7, 1, N_WALK};
    for (size_t i = 0; i < sizeof(lengths) / sizeof(*lengths); i++) {
        must(pg_session_sync(s, fx->walk, lengths[i], &err), &err);
        assert_int_equal(pg_session_n_tokens(s), lengths[i]);
        assert_memory_equal(pg_session_logits(s), want + (lengths[i] - 1) * row, bytes);
    }
    pg_session_close(s);
    pg_engine_close(e);
}

/* Seeded; the high bits are good enough to choose rows by. */
static unsigned draw(uint64_t *seed, unsigned below)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)(*seed >> 33) % below;
}

/* A source of its own for each session; for the first that of the fixture. */
static int source_of(const struct fixture *fx, int k, int32_t *out)
{
    const int n = fx->n_source - 5 * k;
    for (int i = 0; i < n; i++)
        out[i] = fx->source[(i * (k + 1)) % fx->n_source];
    return n;
}

/* Sources that share a step, too: all of them again, in another order than before. */
static void encode_together(struct fixture *fx, pg_engine *e, pg_session *const *s, int n)
{
    int32_t source[3][64];
    struct pg_row rows[3];
    struct pg_err err = {0};
    for (int i = 0; i < n; i++) {
        const int k = n - 1 - i;
        rows[i] =
            (struct pg_row){.session = s[k], .tokens = source[k], .n = source_of(fx, k, source[k])};
    }
    must(pg_encode(e, rows, n, &err), &err);
}

/* Sessions that share steps, in random rows, get the bits that each gets alone. */
static void steps_together(struct fixture *fx, struct pg_options *opt, uint64_t seed)
{
    enum { N_SESSIONS = 3, MOST = 9 };
    size_t row = (size_t)fx->n_vocab;
    int32_t text[N_SESSIONS][N_WALK];
    float *alone[N_SESSIONS];
    pg_session *s[N_SESSIONS] = {NULL};
    struct pg_err err = {0};
    opt->n_sessions = N_SESSIONS;
    opt->n_batch = N_SESSIONS * (fx->n_source > MOST ? fx->n_source : MOST);
    pg_engine *e = open_under(opt, 0);
    for (int k = 0; k < N_SESSIONS; k++) {
        alone[k] = calloc(N_WALK * row, sizeof(float));
        assert_non_null(alone[k]);
        for (int i = 0; i < N_WALK; i++)
            text[k][i] = k == 1   ? fx->walk[N_WALK - 1 - i]
                         : k == 2 ? fx->walk[(i * 5) % N_WALK]
                                  : fx->walk[i];
        s[k] = open_session(e, fx);
        if (fx->n_source) {
            int32_t source[64];
            const size_t n = (size_t)source_of(fx, k, source);
            must(pg_session_encode(s[k], source, n, &err), &err);
            assert_int_equal(pg_session_n_source(s[k]), n);
        }
        must(pg_session_eval(s[k], text[k], N_WALK, alone[k], &err), &err);
        assert_int_equal(pg_session_truncate(s[k], 0), 0);
    }
    if (fx->n_source)
        encode_together(fx, e, s, N_SESSIONS);
    for (int left = N_SESSIONS * N_WALK; left > 0;) {
        struct pg_row rows[N_SESSIONS];
        int who[N_SESSIONS], n_rows = 0;
        for (int k = 0; k < N_SESSIONS; k++) {
            size_t at = pg_session_n_tokens(s[k]), room = N_WALK - at;
            size_t n = 1 + (draw(&seed, 2) ? draw(&seed, MOST) : 0);
            if (!room || !draw(&seed, 4))
                continue;
            n = n < room ? n : room;
            who[n_rows] = k;
            rows[n_rows++] = (struct pg_row){.session = s[k], .tokens = text[k] + at, .n = (int)n};
            left -= (int)n;
        }
        if (!n_rows)
            continue;
        must(pg_step(e, rows, n_rows, &err), &err);
        for (int i = 0; i < n_rows; i++) {
            size_t at = pg_session_n_tokens(rows[i].session) - 1;
            assert_memory_equal(pg_session_logits(rows[i].session), alone[who[i]] + at * row,
                                row * sizeof(float));
        }
    }
    assert_true(!fx->resident || opt->mode == PG_MODE_PREGATE ||
                !memcmp(alone[0], fx->resident, N_WALK * row * sizeof(float)));
    for (int k = 0; k < N_SESSIONS; k++) {
        pg_session_close(s[k]);
        free(alone[k]);
    }
    pg_engine_close(e);
}

static void test_sessions_together(void **state)
{
    struct fixture *fx = *state;
    static const enum pg_mode modes[] = {PG_MODE_RESIDENT, PG_MODE_ONDEMAND, PG_MODE_LOOKAHEAD,
                                         PG_MODE_PREGATE};
    for (int i = 0; i < (fx->model->is_moe ? 8 : 2); i++) {
        struct pg_options opt = options_of(fx, modes[fx->model->is_moe ? i % 4 : 0]);
        opt.n_threads = 1 + i / 4;
        steps_together(fx, &opt, (uint64_t)i + 1);
    }
}

/* ------------------------------------------------------------------ refusals ---------------- */

/* No source, none of no token, one that is too long, or that has no such token. */
static void source_refused(const struct fixture *fx, pg_engine *e)
{
    struct pg_err err = {0};
    pg_session *s;
    int32_t ids[65] = {0};
    const size_t n = (size_t)fx->n_source;
    must(pg_session_open(&s, e, NULL, &err), &err);
    assert_int_equal(pg_session_eval(s, fx->walk, 1, NULL, &err), PG_EARG);
    assert_non_null(strstr(err.text, "source"));
    assert_int_equal(pg_session_encode(s, ids, 0, &err), PG_EARG);
    assert_int_equal(pg_session_encode(s, ids, n + 1, &err), PG_ECONTEXT);
    ids[n - 1] = fx->n_vocab;
    assert_int_equal(pg_session_encode(s, ids, n, &err), PG_EARG);
    assert_int_equal(pg_session_n_source(s), 0);
    struct pg_row twice[] = {{.session = s, .tokens = ids, .n = 1},
                             {.session = s, .tokens = ids, .n = 1}};
    assert_int_equal(pg_encode(e, twice, 2, &err), PG_EARG);
    pg_session_close(s);
}

static void test_budget_and_context_refused(void **state)
{
    struct fixture *fx = *state;
    struct pg_options opt = options_of(fx, fx->model->is_moe ? PG_MODE_ONDEMAND : PG_MODE_RESIDENT);
    struct pg_err err = {0};
    pg_engine *e = NULL;
    pg_session *s = NULL;
    int32_t many[N_CTX + 1];
    opt.memory_bytes = 1 << 20;
    assert_int_equal(pg_engine_open(&e, &opt, &err), PG_EBUDGET);
    assert_null(e);
    assert_true(err.code == PG_EBUDGET && strstr(err.text, "minimum"));
    e = open_under(&opt, 0);
    if (fx->n_source)
        source_refused(fx, e);
    s = open_session(e, fx);
    for (int i = 0; i <= N_CTX; i++)
        many[i] = fx->walk[i % N_WALK];
    assert_int_equal(pg_session_eval(s, many, N_CTX + 1, NULL, &err), PG_ECONTEXT);
    assert_int_equal(pg_session_n_tokens(s), 0);
    must(pg_session_eval(s, many, N_CTX, NULL, &err), &err);
    struct pg_sampling how = {PG_SAMPLING_INIT, .temp = 0};
    int32_t token;
    assert_int_equal(pg_session_next(s, &how, &token, &err), PG_ECONTEXT);
    assert_int_equal(pg_session_truncate(s, 0), 0);
    many[1] = fx->n_vocab;
    assert_int_equal(pg_session_eval(s, many, 2, NULL, &err), PG_EARG);
    many[1] = -1;
    assert_int_equal(pg_session_eval(s, many, 2, NULL, &err), PG_EARG);
    walk_in(s, fx, fx->got);
    assert_memory_equal(fx->got, fx->resident, N_WALK * (size_t)fx->n_vocab * sizeof(float));
    pg_session_close(s);
    pg_engine_close(e);
}

/* ------------------------------------------------------------------ set-up ------------------ */

static void read_reference(struct fixture *fx)
{
    json_error_t at;
    json_t *root = json_load_file(fx->model->ref, 0, &at);
    if (!root)
        fail_msg("%s:%d: %s", fx->model->ref, at.line, at.text);
    fx->ids = read_numbers(root, fx->model->ids_key);
    fx->logits = read_numbers(root, fx->model->logits_key);
    if (!strcmp(fx->model->ids_key, "decoder_input_ids")) {
        struct numbers source = read_numbers(root, "input_ids");
        assert_true(source.n <= 64);
        for (size_t i = 0; i < source.n; i++)
            fx->source[i] = (int32_t)source.v[i];
        fx->n_source = (int)source.n;
        free(source.v);
    }
    if (fx->model->greedy_key)
        fx->greedy = read_numbers(root, fx->model->greedy_key);
    json_decref(root);
    assert_true(fx->ids.n > 0 && fx->logits.n % fx->ids.n == 0);
    fx->n_vocab = (int)(fx->logits.n / fx->ids.n);
}

static struct fixture fixture; /* main picks the model, set_up fills the rest */

static void find_levels(struct fixture *fx)
{
    struct pg_options opt = options_of(fx, PG_MODE_RESIDENT);
    for (opt.cpu = PG_CPU_AVX2; opt.cpu <= PG_CPU_NEON; opt.cpu++) {
        struct pg_err err;
        pg_engine *e;
        int rc = pg_engine_open(&e, &opt, &err);
        pg_engine_close(e);
        if (rc == PG_ENOTSUP)
            say_skipped("levels", "%s", err.text);
        else
            levels[n_levels++] = opt.cpu;
    }
}

static int set_up(void **state)
{
    struct fixture *fx = *state = &fixture;
    struct pg_err err = {0};
    uint64_t seed = 42;
    read_reference(fx);
    for (int i = 0; i < N_WALK; i++)
        fx->walk[i] = i < (int)fx->ids.n ? (int32_t)fx->ids.v[i]
                                         : (int32_t)draw(&seed, (unsigned)fx->n_vocab);
    assert_int_equal(make_dir(state), 0);
    in_dir(fx->sidecar, "pregate.gguf");
    if (fx->model->is_moe)
        must(pg_sidecar_write(fx->model->gguf, fx->sidecar, 1, &err), &err);
    size_t n = N_WALK * (size_t)fx->n_vocab;
    fx->resident = calloc(n, sizeof(float));
    fx->got = calloc(n, sizeof(float));
    assert_true(fx->resident && fx->got);
    find_levels(fx);
    struct pg_options opt = options_of(fx, PG_MODE_RESIDENT);
    run(fx, &opt, 0, fx->resident);
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *fx = *state;
    free(fx->ids.v);
    free(fx->logits.v);
    free(fx->greedy.v);
    free(fx->resident);
    free(fx->got);
    return remove_dir(state);
}

int main(int argc, char **argv)
{
    for (size_t i = 0; argc == 2 && i < sizeof(models) / sizeof(*models); i++)
        if (!strcmp(argv[1], models[i].name))
            fixture.model = &models[i];
    if (!fixture.model) {
        fprintf(stderr, "usage: test_models MODEL\n");
        return 2;
    }
    struct CMUnitTest tests[8] = {
        cmocka_unit_test(test_reference_logits),  cmocka_unit_test(test_modes_same_bits),
        cmocka_unit_test(test_f16_kv_same_bits),  cmocka_unit_test(test_chunks_sync_truncate),
        cmocka_unit_test(test_sessions_together), cmocka_unit_test(test_budget_and_context_refused),
    };
    size_t n = 6;
    if (fixture.model->greedy_key) /* the others have no tokens in their reference */
        tests[n++] = (struct CMUnitTest)cmocka_unit_test(test_greedy_tokens);
    if (fixture.model->is_moe)
        tests[n++] = (struct CMUnitTest)cmocka_unit_test(test_pregate_same_bits);
    return _cmocka_run_group_tests(fixture.model->name, tests, n, set_up, tear_down);
}
