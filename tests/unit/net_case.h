/* SPDX-License-Identifier: MIT
 * A tiny model of tests/data with all its weights in one flat vector, for the tests of training in
 * float (test_net.c) and in double (test_net64.c); and the losses and gradients that PyTorch has
 * for it (tools/dump_gradients.py).
 */
#ifndef NET_CASE_H
#define NET_CASE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "tune/net.h"

#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct net_case {
    char path[256];
    struct pg_gguf *gguf;
    struct pg_model model;
    struct pg_pool *pool;
    struct pg_net_options opt;
    struct pg_net *net;
    const struct pg_params *params;
    pg_real *w, *g;
    int32_t *token, *target, *start;
    struct pg_net_batch batch;
};

static uint64_t net_random(uint64_t *state) /* splitmix64 */
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* In [-1, 1). */
static inline double net_uniform(uint64_t *state)
{
    return (double)(net_random(state) >> 11) * 0x1p-52 - 1;
}

static void net_read_tensor(const struct net_case *c, const struct pg_gguf_tensor *t, pg_real *out)
{
    int64_t n = t->ne[0] * t->ne[1] * t->ne[2] * t->ne[3];
    void *raw = malloc(t->bytes);
    float *x = malloc((size_t)n * sizeof(float));
    int fd = open(pg_gguf_part_path(c->gguf, t->part), O_RDONLY);
    assert_true(raw && x && fd >= 0);
    assert_true(pread(fd, raw, t->bytes, (off_t)t->offset) == (ssize_t)t->bytes);
    pg_type_traits((uint32_t)t->type)->to_float(raw, x, n);
    for (int64_t i = 0; i < n; i++) {
        out[i] = (pg_real)x[i];
    }
    close(fd);
    free(raw);
    free(x);
}

/* Experts may be a tensor each. */
static void net_read_param(const struct net_case *c, const struct pg_param *p)
{
    const struct pg_gguf_tensor *t = pg_gguf_find_tensor(c->gguf, p->name);
    if (t) {
        net_read_tensor(c, t, c->w + p->at);
        return;
    }
    for (int e = 0; e < p->n_mat; e++) {
        char name[96], *exps;
        snprintf(name, sizeof(name), "%s", p->name);
        exps = strstr(name, "_exps.weight");
        assert_non_null(exps);
        snprintf(exps, 32, ".%d.weight", e);
        t = pg_gguf_find_tensor(c->gguf, name);
        assert_non_null(t);
        net_read_tensor(c, t, c->w + p->at + (size_t)e * (size_t)p->n_out * (size_t)p->n_in);
    }
}

/* A pre-gate begins as the router of the block whose state it reads would sort, made different. */
static void net_fold_pregate(const struct net_case *c, const struct pg_param *p)
{
    int il = atoi(p->name + 4), to = -1;
    char router[64], from_norm[64], to_norm[64];
    int want = c->model.layer[il].moe + c->opt.level;
    for (int i = 0; i < c->model.h.n_layer; i++) {
        to = c->model.layer[i].moe == want ? i : to;
    }
    snprintf(router, sizeof(router), "blk.%d.ffn_gate_inp.weight", to);
    snprintf(from_norm, sizeof(from_norm), "blk.%d.ffn_norm.weight", il);
    snprintf(to_norm, sizeof(to_norm), "blk.%d.ffn_norm.weight", to);
    const pg_real *r = c->w + pg_params_find(c->params, router)->at;
    const pg_real *f = c->w + pg_params_find(c->params, from_norm)->at;
    const pg_real *g = c->w + pg_params_find(c->params, to_norm)->at;
    for (size_t i = 0; i < p->n; i++) {
        c->w[p->at + i] = r[i] * g[i % (size_t)p->n_in] / f[i % (size_t)p->n_in];
    }
}

/* opt: gate, level, shape of the batch and losses; n_threads of a pool that is made. */
static void net_case_open(struct net_case *c, const char *file, const struct pg_net_options *opt,
                          int n_threads)
{
    struct pg_err err = {0};
    size_t n_tok = (size_t)(opt->n_seq * opt->seq_len);
    *c = (struct net_case){.opt = *opt};
    snprintf(c->path, sizeof(c->path), "%s/%s", PG_TEST_DATA, file);
    assert_int_equal(pg_gguf_open(&c->gguf, c->path, &err), 0);
    assert_int_equal(pg_model_open(&c->model, c->gguf, &err), 0);
    assert_int_equal(pg_pool_open(&c->pool, n_threads, &err), 0);
    c->opt.model = &c->model;
    c->opt.pool = c->pool;
    if (pg_net_open(&c->net, &c->opt, &err)) {
        fail_msg("%s: %s", file, err.text);
    }
    c->params = pg_net_params(c->net);
    c->w = calloc(c->params->n_values, sizeof(pg_real));
    c->g = calloc(c->params->n_values, sizeof(pg_real));
    c->token = calloc(3 * n_tok, sizeof(int32_t));
    assert_true(c->w && c->g && c->token);
    c->target = c->token + n_tok;
    c->start = c->target + n_tok;
    c->batch = (struct pg_net_batch){c->token, c->target, c->start};
    for (int pass = 0; pass < 2; pass++) {
        for (int i = 0; i < c->params->n; i++) {
            const struct pg_param *p = &c->params->p[i];
            bool pregate = strstr(p->name, "ffn_pregate_inp") != NULL;
            if (pass == 0 && !pregate) {
                net_read_param(c, p);
            } else if (pass == 1 && pregate) {
                net_fold_pregate(c, p);
            }
        }
    }
}

static void net_case_close(struct net_case *c)
{
    pg_net_close(c->net);
    pg_pool_close(c->pool);
    pg_model_close(&c->model);
    pg_gguf_close(c->gguf);
    free(c->w);
    free(c->g);
    free(c->token);
}

/* Random tokens; documents of up to `longest` tokens, the last of each without a target, and now
 * and then another one without. */
static inline void net_case_fill(struct net_case *c, int longest, uint64_t seed)
{
    for (int s = 0; s < c->opt.n_seq; s++) {
        for (int i = 0, begin = 0, left = 0; i < c->opt.seq_len; i++, left--) {
            int t = s * c->opt.seq_len + i;
            if (left == 0) {
                begin = i;
                left = 1 + (int)(net_random(&seed) % (uint64_t)longest);
            }
            c->token[t] = (int32_t)(net_random(&seed) % (uint64_t)c->model.h.n_vocab);
            c->target[t] = left == 1 || net_random(&seed) % 16 == 0
                               ? -1
                               : (int32_t)(net_random(&seed) % (uint64_t)c->model.h.n_vocab);
            c->start[t] = begin;
        }
    }
}

/* The loss, and the gradient in c->g when it is wanted. */
static struct pg_net_loss net_case_run(struct net_case *c, bool gradient)
{
    struct pg_net_loss loss;
    struct pg_err err = {0};
    memset(c->g, 0, c->params->n_values * sizeof(pg_real));
    if (pg_net_run(c->net, c->w, &c->batch, 1, gradient ? c->g : NULL, &loss, &err)) {
        fail_msg("%s: %s", c->path, err.text);
    }
    return loss;
}

/* ------------------------------------------------------------------ PyTorch's numbers ------- */

static double net_number(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    assert_true(json_is_number(v));
    return json_number_value(v);
}

static void net_ints(const json_t *o, const char *key, int32_t *out, int n)
{
    const json_t *list = json_object_get(o, key);
    assert_int_equal((int)json_array_size(list), n);
    for (int i = 0; i < n; i++) {
        out[i] = (int32_t)json_integer_value(json_array_get(list, (size_t)i));
    }
}

static void net_near(const char *what, double found, double wanted, double tolerance)
{
    if (!(fabs(found - wanted) <= tolerance)) {
        fail_msg("%s: %.12g found, %.12g wanted, to %.3g", what, found, wanted, tolerance);
    }
}

/* Largest difference as a part of the tensor's largest derivative, at most `tolerance`. */
static void net_check_param(const struct net_case *c, const struct pg_param *p, const json_t *ref,
                            double tolerance)
{
    const json_t *at = json_object_get(ref, "at"), *value = json_object_get(ref, "value");
    double sum = 0, squares = 0, norm = net_number(ref, "norm"), max = net_number(ref, "max");
    const pg_real *g = c->g + p->at;
    assert_int_equal((int64_t)p->n, (int64_t)net_number(ref, "n"));
    for (size_t i = 0; i < p->n; i++) {
        sum += (double)g[i];
        squares += (double)g[i] * (double)g[i];
    }
    net_near(p->name, sqrt(squares), norm, tolerance * norm);
    net_near(p->name, sum, net_number(ref, "sum"), tolerance * norm * sqrt((double)p->n));
    for (size_t i = 0; i < json_array_size(at); i++) {
        size_t j = (size_t)json_integer_value(json_array_get(at, i));
        assert_true(j < p->n);
        net_near(p->name, (double)g[j], json_number_value(json_array_get(value, i)),
                 tolerance * max);
    }
}

static void net_check_torch(const char *name, double tolerance)
{
    char path[256];
    struct net_case c;
    json_error_t e;
    snprintf(path, sizeof(path), "%s/gradients/%s.json", PG_TEST_DATA, name);
    json_t *ref = json_load_file(path, 0, &e);
    assert_non_null(ref);
    struct pg_net_options opt = {
        .gate = strcmp(json_string_value(json_object_get(ref, "gate")), "router") ? PG_GATE_PREGATE
                                                                                  : PG_GATE_ROUTER,
        .level = (int)net_number(ref, "level"),
        .n_seq = (int)net_number(ref, "n_seq"),
        .seq_len = (int)net_number(ref, "seq_len"),
        .balance_weight = (float)net_number(ref, "balance_weight"),
        .sticky_weight = (float)net_number(ref, "sticky_weight"),
        .sticky_cache = (int)net_number(ref, "sticky_cache"),
    };
    net_case_open(&c, json_string_value(json_object_get(ref, "model")), &opt, 2);
    int n_tok = opt.n_seq * opt.seq_len;
    net_ints(ref, "token", c.token, n_tok);
    net_ints(ref, "target", c.target, n_tok);
    net_ints(ref, "start", c.start, n_tok);
    struct pg_net_loss loss = net_case_run(&c, true);
    net_near("nll", loss.nll, net_number(ref, "nll"), tolerance * loss.nll);
    net_near("balance", loss.balance, net_number(ref, "balance"), tolerance * loss.balance);
    net_near("sticky", loss.sticky, net_number(ref, "sticky"), tolerance);
    net_near("total", loss.total, net_number(ref, "total"), tolerance * loss.total);
    const json_t *params = json_object_get(ref, "params");
    for (int i = 0; i < c.params->n; i++) {
        const struct pg_param *p = &c.params->p[i];
        const json_t *one = json_object_get(params, p->name);
        if (!one && strcmp(p->name, "rope_freqs.weight")) {
            fail_msg("%s: PyTorch has no %s", name, p->name);
        }
        if (one) {
            net_check_param(&c, p, one, tolerance);
        }
    }
    json_decref(ref);
    net_case_close(&c);
}

static const char *const net_torch_cases[] = {
    "gqa_mixtral-router", "gqa_mixtral-pregate1", "qwen_scale-router", "qwen_scale-pregate1",
    "qwen3moe-router",    "qwen3moe-pregate1",    "olmoe-router",      "olmoe-pregate1",
    "mixed-router",       "mixed-pregate1",       "mixed-pregate2",    "stories260K-router",
};

#endif
