/* SPDX-License-Identifier: MIT
 * Losses and gradients of every family against PyTorch in float64 (tools/dump_gradients.py). Built
 * twice: in float, which is the product, and in double, where nothing but rounding may differ.
 */
#include "helpers.h"

#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/pool.h"
#include "net/net.h"

/* Of a loss; of a gradient, as a part of the largest value of its tensor. */
#ifdef PG_NET_DOUBLE
static const double loss_tolerance = 1e-9, tolerance = 1e-6;
#else
static const double loss_tolerance = 1e-5, tolerance = 1e-3;
#endif

static const char *const cases[] = {
    "gqa_mixtral-router", "gqa_mixtral-pregate1", "qwen_scale-router", "qwen_scale-pregate1",
    "qwen3moe-router",    "qwen3moe-pregate1",    "olmoe-router",      "olmoe-pregate1",
    "mixed-router",       "mixed-pregate1",       "mixed-pregate2",    "stories260K-router",
    "switch-router",      "switch-pregate1",      "t5dense-router",    "t5gated-router",
};

struct fixture {
    json_t *want;
    char model_path[512];
    struct pg_gguf *gguf;
    struct pg_model model;
    struct pg_pool *pool;
    struct pg_net *net;
    struct pg_net_batch batch;
    pg_real *w, *g;
};

static double real(const json_t *j, const char *key)
{
    const json_t *v = json_object_get(j, key);
    assert_true(json_is_number(v));
    return json_number_value(v);
}

static int whole(const json_t *j, const char *key)
{
    const json_t *v = json_object_get(j, key);
    assert_true(json_is_integer(v));
    return (int)json_integer_value(v);
}

/* ------------------------------------------------------------------ the net ----------------- */

static const int32_t *ids(const json_t *j, const char *key, size_t n)
{
    const json_t *list = json_object_get(j, key);
    int32_t *out = calloc(n, sizeof(*out));
    assert_non_null(out);
    assert_int_equal(json_array_size(list), n);
    for (size_t i = 0; i < n; i++)
        out[i] = (int32_t)json_integer_value(json_array_get(list, i));
    return out;
}

static void open_net(struct fixture *f)
{
    struct pg_err err = {0};
    bool pregate = strcmp(json_string_value(json_object_get(f->want, "gate")), "pregate") == 0;
    struct pg_net_options opt = {
        .model = &f->model,
        .gate = pregate ? PG_GATE_PREGATE : PG_GATE_ROUTER,
        .level = whole(f->want, "level"),
        .weigher = PG_GATE_PREGATE,
        .n_seq = whole(f->want, "n_seq"),
        .seq_len = whole(f->want, "seq_len"),
        .source_len = json_object_get(f->want, "source_len") ? whole(f->want, "source_len") : 0,
        .balance_weight = (float)real(f->want, "balance_weight"),
        .sticky_weight = (float)real(f->want, "sticky_weight"),
        .sticky_cache = whole(f->want, "sticky_cache"),
    };
    size_t n = (size_t)opt.n_seq * (size_t)opt.seq_len;
    must(pg_pool_open(&f->pool, 2, &err), &err);
    opt.pool = f->pool;
    must(pg_net_open(&f->net, &opt, &err), &err);
    f->batch = (struct pg_net_batch){.token = ids(f->want, "token", n),
                                     .target = ids(f->want, "target", n),
                                     .start = ids(f->want, "start", n)};
    if (opt.source_len) {
        size_t n_source = (size_t)opt.n_seq * (size_t)opt.source_len;
        f->batch.source = ids(f->want, "source", n_source);
        f->batch.source_start = ids(f->want, "source_start", n_source);
        f->batch.source_of = ids(f->want, "source_of", n);
    }
    f->w = calloc(pg_net_params(f->net)->n_values, sizeof(pg_real));
    f->g = calloc(pg_net_params(f->net)->n_values, sizeof(pg_real));
    assert_non_null(f->w);
    assert_non_null(f->g);
}

/* The tiny models are F32, experts merged: a tensor is its values. */
static void load_param(struct fixture *f, int fd, const struct pg_param *p)
{
    const struct pg_gguf_tensor *t = pg_gguf_find_tensor(f->gguf, p->name);
    assert_non_null(t);
    assert_int_equal(t->type, PG_TYPE_F32);
    assert_int_equal(t->bytes, p->n * sizeof(float));
    float *values = malloc(t->bytes);
    assert_non_null(values);
    assert_int_equal(pread(fd, values, t->bytes, (off_t)t->offset), t->bytes);
    for (size_t i = 0; i < p->n; i++)
        f->w[p->at + i] = (pg_real)values[i];
    free(values);
}

static const pg_real *weights_of(const struct fixture *f, int il, enum pg_block_part part)
{
    struct pg_tensor_name name = pg_part_name(&f->model, il, part);
    const struct pg_param *p = pg_params_find(pg_net_params(f->net), name.s);
    assert_non_null(p);
    return f->w + p->at;
}

/* The router of the MoE block `level` on, gains folded in. */
static void fold_param(struct fixture *f, const struct pg_param *p)
{
    const char *suffix;
    int from = pg_block_of_name(&f->model, p->name, &suffix), to = 0;
    int level = whole(f->want, "level");
    while (f->model.block[to].moe != f->model.block[from].moe + level)
        to++;
    const pg_real *router = weights_of(f, to, PG_PART_ROUTER);
    const pg_real *gain_to = weights_of(f, to, PG_PART_FFN_NORM);
    const pg_real *gain_from = weights_of(f, from, PG_PART_FFN_NORM);
    for (size_t i = 0; i < p->n; i++) {
        size_t c = i % (size_t)p->n_in;
        f->w[p->at + i] = router[i] * (gain_to[c] / gain_from[c]);
    }
}

static void load_weights(struct fixture *f)
{
    const struct pg_params *params = pg_net_params(f->net);
    int fd = open(f->model_path, O_RDONLY);
    assert_true(fd >= 0);
    for (int i = 0; i < params->n; i++)
        if (!strstr(params->p[i].name, "pregate"))
            load_param(f, fd, &params->p[i]);
    for (int i = 0; i < params->n; i++)
        if (strstr(params->p[i].name, "pregate"))
            fold_param(f, &params->p[i]);
    close(fd);
}

static void setup(struct fixture *f, const char *name)
{
    char path[512];
    json_error_t at;
    struct pg_err err = {0};
    *f = (struct fixture){0};
    snprintf(path, sizeof(path), PG_TEST_DATA "/gradients/%s.json", name);
    f->want = json_load_file(path, 0, &at);
    assert_non_null(f->want);
    snprintf(f->model_path, sizeof(f->model_path), PG_TEST_DATA "/%s",
             json_string_value(json_object_get(f->want, "model")));
    must(pg_gguf_open(&f->gguf, f->model_path, &err), &err);
    must(pg_model_open(&f->model, f->gguf, &err), &err);
    open_net(f);
    load_weights(f);
}

static void teardown(struct fixture *f)
{
    free((void *)f->batch.token);
    free((void *)f->batch.target);
    free((void *)f->batch.start);
    free((void *)f->batch.source);
    free((void *)f->batch.source_start);
    free((void *)f->batch.source_of);
    free(f->w);
    free(f->g);
    pg_net_close(f->net);
    pg_pool_close(f->pool);
    pg_model_close(&f->model);
    pg_gguf_close(f->gguf);
    json_decref(f->want);
}

/* ------------------------------------------------------------------ comparing --------------- */

static double check_loss(const struct fixture *f, const char *name, double got)
{
    double want = real(f->want, name), diff = fabs(got - want) / fmax(1, fabs(want));
    /* A tied head's factor is a float in the model, whose rounding is 6e-8 at most. */
    if (!(diff <= loss_tolerance + (f->model.h.logit_scale == 1 ? 0 : 6e-8)))
        fail_msg("%s: %.12g found, %.12g wanted", name, got, want);
    return diff;
}

/* The stored places, the sum and the norm of one tensor's gradient. */
static double check_param(const struct fixture *f, const struct pg_param *p)
{
    const json_t *want = json_object_get(json_object_get(f->want, "params"), p->name);
    const json_t *at = json_object_get(want, "at"), *value = json_object_get(want, "value");
    const pg_real *g = f->g + p->at;
    double largest = real(want, "max"), sum = 0, squares = 0, worst = 0;
    if (!want)
        fail_msg("%s: PyTorch has no such parameter", p->name);
    assert_int_equal(whole(want, "n"), p->n);
    for (size_t i = 0; i < p->n; i++) {
        sum += (double)g[i];
        squares += (double)g[i] * (double)g[i];
    }
    double scale = fmax(largest, 1e-12), norm = fmax(real(want, "norm"), 1e-12);
    for (size_t i = 0; i < json_array_size(at); i++) {
        size_t place = (size_t)json_integer_value(json_array_get(at, i));
        double diff = (double)g[place] - json_number_value(json_array_get(value, i));
        worst = fmax(worst, fabs(diff) / scale);
    }
    worst = fmax(worst, fabs(sqrt(squares) - real(want, "norm")) / norm);
    worst = fmax(worst, fabs(sum - real(want, "sum")) / (norm * sqrt((double)p->n)));
    if (!(worst <= tolerance))
        fail_msg("%s: gradient differs by %.3g of its largest value", p->name, worst);
    return worst;
}

static void check_case(const char *name)
{
    struct fixture f;
    struct pg_err err = {0};
    struct pg_net_loss loss;
    double worst = 0;
    setup(&f, name);
    const struct pg_params *params = pg_net_params(f.net);
    must(pg_net_run(f.net, (struct pg_net_point){f.w, f.g, 1, NULL, 0}, &f.batch, &loss, &err),
         &err);
    double off = check_loss(&f, "total", loss.total);
    off = fmax(off, check_loss(&f, "nll", loss.nll));
    off = fmax(off, check_loss(&f, "balance", loss.balance));
    off = fmax(off, check_loss(&f, "sticky", loss.sticky));
    assert_int_equal(params->n, json_object_size(json_object_get(f.want, "params")));
    for (int i = 0; i < params->n; i++)
        worst = fmax(worst, check_param(&f, &params->p[i]));
    print_message("           %-22s %3d tensors, losses within %.1e, gradients within %.1e\n", name,
                  params->n, off, worst);
    teardown(&f);
}

static void test_every_case(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        check_case(cases[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_case)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
