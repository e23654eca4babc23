/* SPDX-License-Identifier: MIT
 * A tiny model of tests/data with all its weights in one flat vector, for the tests of training in
 * float (test_net.c) and in double (test_net64.c); and the losses and gradients that PyTorch has
 * for it (tools/dump_gradients.py).
 */
#ifndef NET_CASE_H
#define NET_CASE_H

#include "helpers.h"

#include "base/random.h"
#include "net/net.h"

#include <fcntl.h>
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
    pg_real *w, *g, *ref; /* ref: of the divergence, or NULL */
    int32_t *token, *target, *start, *source_of, *source, *source_start;
    struct pg_net_batch batch;
    uint64_t draw; /* of dropout */
};

/* In [-1, 1). */
static double net_uniform(uint64_t *state)
{
    return (double)(pg_random_next(state) >> 11) * 0x1p-52 - 1;
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
    for (int64_t i = 0; i < n; i++)
        out[i] = (pg_real)x[i];
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

static const pg_real *net_part(const struct net_case *c, int il, enum pg_block_part part)
{
    return c->w + pg_params_find(c->params, pg_part_name(&c->model, il, part).s)->at;
}

/* A pre-gate begins as the router of the block whose state it reads would sort, made different. */
static void net_fold_pregate(const struct net_case *c, const struct pg_param *p)
{
    const char *suffix;
    const struct pg_model *m = &c->model;
    int il = pg_block_of_name(m, p->name, &suffix), to = -1;
    int want = m->block[il].moe + c->opt.level;
    for (int i = 0; i < m->h.n_layer; i++)
        to = m->block[i].moe == want ? i : to;
    const pg_real *r = net_part(c, to, PG_PART_ROUTER);
    const pg_real *f = net_part(c, il, PG_PART_FFN_NORM);
    const pg_real *g = net_part(c, to, PG_PART_FFN_NORM);
    for (size_t i = 0; i < p->n; i++)
        c->w[p->at + i] = r[i] * g[i % (size_t)p->n_in] / f[i % (size_t)p->n_in];
}

/* What no file has. */
static void net_draw(const struct net_case *c, const struct pg_param *p, uint64_t seed)
{
    for (size_t i = 0; i < p->n; i++)
        c->w[p->at + i] = (pg_real)(0.6 * net_uniform(&seed));
}

/* The weights that the divergence is from: those there are, moved a little. */
static void net_case_refer(const struct net_case *c)
{
    uint64_t seed = 5;
    for (size_t i = 0; c->ref && i < c->params->n_values; i++)
        c->ref[i] = c->w[i] * (pg_real)(1 + 0.1 * net_uniform(&seed));
}

/* opt: gate, level, shape of the batch and losses; n_threads of a pool that is made. */
static void net_case_open(struct net_case *c, const char *file, const struct pg_net_options *opt,
                          int n_threads)
{
    struct pg_err err = {0};
    size_t n_tok = (size_t)(opt->n_seq * opt->seq_len);
    size_t n_source = (size_t)(opt->n_seq * opt->source_len);
    *c = (struct net_case){.opt = *opt};
    snprintf(c->path, sizeof(c->path), "%s%s%s", file[0] == '/' ? "" : PG_TEST_DATA,
             file[0] == '/' ? "" : "/", file);
    assert_int_equal(pg_gguf_open(&c->gguf, c->path, &err), 0);
    assert_int_equal(pg_model_open(&c->model, c->gguf, &err), 0);
    assert_int_equal(pg_pool_open(&c->pool, n_threads, &err), 0);
    c->opt.model = &c->model;
    c->opt.pool = c->pool;
    if (pg_net_open(&c->net, &c->opt, &err))
        fail_msg("%s: %s", file, err.text);
    c->params = pg_net_params(c->net);
    c->w = calloc(c->params->n_values, sizeof(pg_real));
    c->g = calloc(c->params->n_values, sizeof(pg_real));
    c->ref = c->opt.kl_weight > 0 ? calloc(c->params->n_values, sizeof(pg_real)) : NULL;
    c->token = calloc(4 * n_tok + 2 * n_source, sizeof(int32_t));
    assert_true(c->w && c->g && c->token);
    c->target = c->token + n_tok;
    c->start = c->target + n_tok;
    c->source_of = c->start + n_tok;
    c->source = c->source_of + n_tok;
    c->source_start = c->source + n_source;
    c->batch = (struct pg_net_batch){.token = c->token,
                                     .target = c->target,
                                     .start = c->start,
                                     .source = c->source,
                                     .source_start = c->source_start,
                                     .source_of = c->source_of};
    for (int pass = 0; pass < 2; pass++) {
        for (int i = 0; i < c->params->n; i++) {
            const struct pg_param *p = &c->params->p[i];
            bool pregate = strstr(p->name, "ffn_pregate_") != NULL;
            bool matrix = strstr(p->name, "ffn_pregate_inp.weight") != NULL;
            if (pass == 0 && !pregate)
                net_read_param(c, p);
            else if (pass == 1 && pregate && !matrix)
                net_draw(c, p, (uint64_t)i);
            else if (pass == 1 && pregate)
                net_fold_pregate(c, p);
        }
    }
    net_case_refer(c);
}

static void net_case_close(struct net_case *c)
{
    pg_net_close(c->net);
    pg_pool_close(c->pool);
    pg_model_close(&c->model);
    pg_gguf_close(c->gguf);
    free(c->w);
    free(c->g);
    free(c->ref);
    free(c->token);
}

static void net_pad(int32_t *token, int32_t *start, int from, int n)
{
    for (int i = from; i < n; i++) {
        token[i] = -1;
        start[i] = from;
    }
}

/* A source for each document of a row, cut where chance has it; padding in every other row. */
static void net_case_fill_sources(struct net_case *c, uint64_t seed)
{
    const int len = c->opt.seq_len, source_len = c->opt.source_len;
    for (int s = 0; s < c->opt.n_seq; s++) {
        int32_t *start = c->start + s * len, *source = c->source + s * source_len;
        int32_t *source_start = c->source_start + s * source_len;
        int n_docs = 0, begin = 0;
        for (int i = 0; i < len; i++)
            n_docs += start[i] == i;
        int each = source_len / n_docs;
        assert_true(each > 0);
        for (int i = 0; i < len; i++) {
            begin += i > 0 && start[i] == i ? each : 0;
            c->source_of[s * len + i] = begin;
        }
        for (int i = 0; i < source_len; i++) {
            source[i] = (int32_t)(pg_random_next(&seed) % (uint64_t)c->model.h.n_vocab);
            source_start[i] = PG_MIN(i / each, n_docs - 1) * each;
        }
        if (s % 2) {
            for (int i = len - 2; i < len; i++)
                c->target[s * len + i] = -1;
            net_pad(c->token + s * len, start, len - 2, len);
            if (each * n_docs + 1 < source_len)
                net_pad(source, source_start, each * n_docs, source_len);
        }
    }
}

/* Random tokens; documents of up to `longest` tokens, the last of each without a target, and now
 * and then another one without. */
static void net_case_fill(struct net_case *c, int longest, uint64_t seed)
{
    for (int s = 0; s < c->opt.n_seq; s++) {
        for (int i = 0, begin = 0, left = 0; i < c->opt.seq_len; i++, left--) {
            int t = s * c->opt.seq_len + i;
            if (left == 0) {
                begin = i;
                left = 1 + (int)(pg_random_next(&seed) % (uint64_t)longest);
            }
            c->token[t] = (int32_t)(pg_random_next(&seed) % (uint64_t)c->model.h.n_vocab);
            c->target[t] = left == 1 || pg_random_next(&seed) % 16 == 0
                               ? -1
                               : (int32_t)(pg_random_next(&seed) % (uint64_t)c->model.h.n_vocab);
            c->start[t] = begin;
        }
    }
    if (c->opt.source_len)
        net_case_fill_sources(c, seed);
}

/* The loss, and the gradient in c->g when it is wanted. */
static struct pg_net_loss net_case_run(struct net_case *c, bool gradient)
{
    struct pg_net_loss loss;
    struct pg_err err = {0};
    memset(c->g, 0, c->params->n_values * sizeof(pg_real));
    if (pg_net_run(c->net, (struct pg_net_point){c->w, gradient ? c->g : NULL, 1, c->ref, c->draw},
                   &c->batch, &loss, &err))
        fail_msg("%s: %s", c->path, err.text);
    return loss;
}

#endif
