/* SPDX-License-Identifier: MIT
 * pg_synth and pg_file through the public header: every small shape in every format, the same bytes
 * for the same seed, values of the size that was meant, and a directory that people can read.
 */
#include "helpers.h"

#include "base/os.h"
#include "format/gguf.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char path[128];

static int make_path(void **state)
{
    if (make_dir(state))
        return -1;
    in_dir(path, "model.gguf");
    return 0;
}

static void make(const char *shape, const char *type, uint64_t seed)
{
    struct pg_synth_options opt = {PG_SYNTH_OPTIONS_INIT, .shape = shape, .type = type, .out = path,
                                   .seed = seed};
    struct pg_err err;

    if (pg_synth(&opt, &err))
        fail_msg("%s %s: %s", shape, type, err.text);
}

static void test_same_seed(void **state)
{
    (void)state;
    size_t n[3];
    char *file[3];

    for (int i = 0; i < 3; i++) {
        make("qwen2moe-tiny", "Q4_K", i < 2 ? 5 : 6);
        file[i] = whole_file(path, &n[i]);
    }
    assert_true(n[0] == n[1] && n[0] == n[2]);
    assert_int_equal(memcmp(file[0], file[1], n[0]), 0);
    assert_int_not_equal(memcmp(file[0], file[2], n[0]), 0);
    for (int i = 0; i < 3; i++)
        free(file[i]);
}

/* The standard deviation of a tensor's first values, its mean in *mean. */
static double deviation(const struct pg_gguf_tensor *t, const char *bytes, double *mean)
{
    int64_t n = PG_MIN(t->ne[0] * t->ne[1] * t->ne[2], (int64_t)32768);
    float *v = malloc((size_t)n * sizeof(*v));
    double sum = 0, squares = 0;

    assert_non_null(v);
    pg_type_traits(t->type)->to_float(bytes + t->offset, v, n);
    for (int64_t i = 0; i < n; i++) {
        assert_true(isfinite(v[i]));
        sum += (double)v[i];
        squares += (double)v[i] * (double)v[i];
    }
    free(v);
    *mean = sum / (double)n;
    return sqrt(squares / (double)n - *mean * *mean);
}

/* Matrices keep the size of what passes through them, norms are about one, and the output layer is
 * not the embedding; or, where it is, that is small, and queries are as q · k is not scaled. */
static void check_values(const struct pg_gguf *g, const char *bytes)
{
    const bool tied = !pg_gguf_find_tensor(g, "output.weight");
    enum { HEAD_DIM = 64 };
    for (int i = 0; i < pg_gguf_n_tensors(g); i++) {
        const struct pg_gguf_tensor *t = pg_gguf_tensor_at(g, i);
        double mean, std = deviation(t, bytes, &mean);
        if (strstr(t->name, "norm")) {
            if (fabs(mean - 1) > 0.05 || fabs(std - 0.1) > 0.03)
                fail_msg("%s: mean %g, deviation %g", t->name, mean, std);
            continue;
        }
        double want = 1 / sqrt((double)t->ne[0]);
        if (strstr(t->name, "token_embd"))
            want = tied ? 0.1 : 1;
        else if (strstr(t->name, "attn_rel_b"))
            want = 1;
        else if (strstr(t->name, "bias"))
            want = 0.1;
        else if (strstr(t->name, "attn_output") || strstr(t->name, "attn_o."))
            want *= 0.5;
        else if (tied && strstr(t->name, "attn_q."))
            want /= sqrt(HEAD_DIM);
        else if (strstr(t->name, "ffn_down") || strstr(t->name, "ffn_gate_inp.weight"))
            want *= 2;
        if (std < want * 0.85 || std > want * 1.25 || fabs(mean) > want * 0.25)
            fail_msg("%s: %s: mean %g, deviation %g, %g wanted", t->name,
                     pg_type_traits(t->type)->name, mean, std, want);
    }
}

/* No two experts of a block may be the same bytes. */
static void check_experts(const struct pg_gguf *g, const char *bytes)
{
    for (int i = 0; i < pg_gguf_n_tensors(g); i++) {
        const struct pg_gguf_tensor *t = pg_gguf_tensor_at(g, i);
        uint64_t slab = t->bytes / (uint64_t)t->ne[2];
        for (int64_t e = 1; e < t->ne[2]; e++)
            assert_int_not_equal(
                memcmp(bytes + t->offset, bytes + t->offset + (uint64_t)e * slab, slab), 0);
    }
}

static void test_values(void **state)
{
    (void)state;
    static const char *const types[] = {"F32",  "F16",  "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1",
                                        "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"};
    const char *shape;
    size_t n;

    for (int s = 0; (shape = pg_synth_shape_name(s)); s++)
        for (size_t i = 0; i < PG_COUNT(types) && strstr(shape, "tiny"); i++) {
            struct pg_gguf *g;
            /* One shape meets all formats, the others a few. */
            if (strcmp(shape, "qwen2moe-tiny") && i != (size_t)s % PG_COUNT(types))
                continue;
            make(shape, types[i], 1);
            assert_int_equal(pg_gguf_open(&g, path, NULL), 0);
            char *bytes = whole_file(path, &n);
            check_values(g, bytes);
            check_experts(g, bytes);
            free(bytes);
            pg_gguf_close(g);
        }
}

static void test_keys(void **state)
{
    (void)state;
    struct pg_file_key k;
    struct pg_file_tensor t;
    struct pg_err err;
    pg_file *f;
    int n_seen = 0;

    make("mixtral-tiny", NULL, 3);
    assert_int_equal(pg_file_open(&f, path, &err), 0);
    assert_int_equal(pg_file_version(f), 3);
    for (int i = 0; i < pg_file_n_keys(f); i++) {
        pg_file_key_at(f, i, &k);
        assert_true(strlen(k.value) < sizeof(k.value));
        if (!strcmp(k.name, "general.architecture")) {
            assert_string_equal(k.type, "string");
            assert_string_equal(k.value, "llama");
            n_seen++;
        } else if (!strcmp(k.name, "llama.expert_count")) {
            assert_string_equal(k.type, "u32");
            assert_string_equal(k.value, "8");
            n_seen++;
        } else if (!strcmp(k.name, "llama.attention.layer_norm_rms_epsilon")) {
            assert_string_equal(k.value, "1e-05");
            n_seen++;
        } else if (!strcmp(k.name, "tokenizer.ggml.add_bos_token")) {
            assert_string_equal(k.value, "true");
            n_seen++;
        } else if (!strcmp(k.name, "tokenizer.ggml.tokens")) {
            assert_string_equal(k.type, "array[string]");
            assert_int_equal(k.n, 640);
            assert_int_equal(strncmp(k.value, "[\"<unk>\", \"<s>\", \"</s>\", ", 23), 0);
            assert_string_equal(k.value + strlen(k.value) - 6, ", ...]");
            n_seen++;
        }
    }
    assert_int_equal(n_seen, 5);
    pg_file_tensor_at(f, 0, &t);
    assert_string_equal(t.name, "token_embd.weight");
    assert_string_equal(t.type, "Q4_K");
    assert_true(t.n_dims == 2 && t.ne[0] == 256 && t.ne[1] == 640 && t.part == 0);
    assert_int_equal(t.bytes, 640 * 144);
    size_t n;
    free(whole_file(path, &n));
    assert_int_equal(pg_file_bytes(f), n);
    pg_file_close(f);
    pg_file_close(NULL);
}

/* A key with every kind of value, long and hostile text among them. */
static void test_value_text(void **state)
{
    (void)state;
    struct pg_gguf_writer *w;
    struct pg_file_key k;
    struct pg_err err;
    char text[400];
    int32_t ids[100];
    pg_file *f;

    memset(text, 'x', sizeof(text));
    text[399] = 0;
    for (int i = 0; i < 100; i++)
        ids[i] = i - 50;
    assert_int_equal(pg_gguf_writer_open(&w, path, &err), 0);
    pg_gguf_writer_str(w, "long", text, &err);
    pg_gguf_writer_str(w, "hostile", "\x1b[31mred\n\xff", &err);
    pg_gguf_writer_i32s(w, "ids", ids, 100, &err);
    pg_gguf_writer_i32s(w, "three", ids, 3, &err);
    pg_gguf_writer_i32s(w, "none", ids, 0, &err);
    pg_gguf_writer_strs(w, "texts", &(struct pg_str){text, 399}, 1, &err);
    pg_gguf_writer_f32s(w, "floats", (float[]){0.1f, INFINITY}, 2, &err);
    assert_int_equal(pg_gguf_writer_commit(w, &err), 0);
    assert_int_equal(pg_file_open(&f, path, &err), 0);
    static const char *const want[] = {
        NULL, "\\x1b[31mred\\x0a\\xff", NULL, "[-50, -49, -48]", "[]", NULL, "[0.1, inf]"};
    for (int i = 0; i < 7; i++) {
        pg_file_key_at(f, i, &k);
        assert_true(strlen(k.value) < sizeof(k.value));
        if (want[i])
            assert_string_equal(k.value, want[i]);
        else
            assert_non_null(strstr(k.value, "..."));
    }
    pg_file_close(f);
    assert_int_equal(pg_file_open(&f, test_dir, &err), PG_EARG);
    assert_null(f);
}

struct calls {
    int n, stop_at;
    uint64_t last, total;
};

static int count_calls(void *user, const char *what, uint64_t done, uint64_t total)
{
    struct calls *c = user;

    if (!what || done < c->last || done > total)
        abort();
    c->last = done;
    c->total = total;
    return ++c->n == c->stop_at;
}

static void test_progress(void **state)
{
    (void)state;
    struct calls c = {0};
    struct pg_synth_options opt = {PG_SYNTH_OPTIONS_INIT, .shape = "olmoe-tiny", .out = path,
                                   .progress = count_calls, .user = &c};
    struct pg_err err;

    assert_int_equal(pg_synth(&opt, &err), 0);
    assert_true(c.n > 10 && c.last == c.total && c.total > 1 << 20);
    unlink(path);
    c = (struct calls){.stop_at = 7};
    assert_int_equal(pg_synth(&opt, &err), PG_ECANCELLED);
    assert_int_equal(c.n, 7);
    assert_int_equal(rmdir(test_dir), 0); /* nothing was left */
    make_path(state);
}

static void test_refuses(void **state)
{
    (void)state;
    struct pg_synth_options opt = {PG_SYNTH_OPTIONS_INIT, .shape = "gpt-5", .out = path};
    struct pg_err err;

    assert_int_equal(pg_synth(&opt, &err), PG_EARG);
    assert_non_null(strstr(err.text, "\"gpt-5\""));
    assert_non_null(strstr(err.text, "olmoe-7b"));
    opt.shape = "olmoe-tiny";
    opt.type = "IQ1_S";
    assert_int_equal(pg_synth(&opt, &err), PG_EARG);
    assert_non_null(strstr(err.text, "IQ1_S"));
    opt.type = NULL;
    opt.out = NULL;
    assert_int_equal(pg_synth(&opt, &err), PG_EARG);
    opt.shape = NULL;
    assert_int_equal(pg_synth(&opt, &err), PG_EARG);
    assert_null(pg_synth_shape_name(-1));
    assert_null(pg_synth_shape_name(1000));
    struct pg_machine m;
    pg_machine_info(&m);
    assert_true(m.n_cpu >= 1 && m.memory_limit <= m.memory_total && m.cpu_level[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_seed), cmocka_unit_test(test_values),
        cmocka_unit_test(test_keys),      cmocka_unit_test(test_value_text),
        cmocka_unit_test(test_progress),  cmocka_unit_test(test_refuses),
    };

    return cmocka_run_group_tests(tests, make_path, remove_dir);
}
