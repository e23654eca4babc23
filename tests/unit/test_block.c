/* SPDX-License-Identifier: MIT
 * The table of operations is whole: a second one, plain loops in float64 that share nothing with
 * the kernels but the unpacking of weights, computes the logits of a model of each family. And a
 * wave that is acquired and computed in parts gives the bits of one in a piece.
 */
#include "helpers.h"

#include "engine/engine.h"
#include "sim/store_check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { N_TOK = 13, N_CTX = 32 };

/* ------------------------------------------------------------------ plain operations -------- */

static int n_calls[10]; /* of each operation, in the order of the table */

static void unpack_row(const struct pg_weight *w, int row, float *out)
{
    const char *data = w->data;
    pg_type_traits((uint32_t)w->type)
        ->to_float(data + (size_t)row * pg_type_bytes(w->type, w->n_in), out, w->n_in);
}

static void plain_embed(void *self, const struct pg_op_embed *o)
{
    (void)self;
    n_calls[0]++;
    for (int t = 0; t < o->n_row; t++) {
        unpack_row(o->table, o->token[t], o->x + t * o->table->n_in);
        for (int i = 0; i < o->n_freq; i++) {
            o->cosines[t * o->n_freq + i] = (float)cos(o->pos[t] * o->freq[i]);
            o->sines[t * o->n_freq + i] = (float)sin(o->pos[t] * o->freq[i]);
        }
    }
}

static void norm_one(const float *x, const struct pg_weight *gain, float eps, float *y)
{
    const float *g = gain->data;
    double sum = 0;
    for (int i = 0; i < gain->n_in; i++)
        sum += (double)x[i] * (double)x[i];
    for (int i = 0; i < gain->n_in; i++)
        y[i] = (float)((double)x[i] / sqrt(sum / gain->n_in + (double)eps) * (double)g[i]);
}

static void plain_norm(void *self, const struct pg_op_norm *o, int n)
{
    (void)self;
    n_calls[1]++;
    for (const struct pg_op_norm *end = o + n; o < end; o++)
        for (int i = 0; i < o->n_row * o->n; i += o->gain->n_in)
            norm_one(o->x + i, o->gain, o->eps, o->y + i);
}

/* y = w x + bias, of one row */
static void multiply(const struct pg_weight *w, const float *bias, const float *x, float *y)
{
    float *row = malloc((size_t)w->n_in * sizeof(float));
    assert_non_null(row);
    for (int r = 0; r < w->n_out; r++) {
        double sum = bias ? (double)bias[r] : 0;
        unpack_row(w, r, row);
        for (int i = 0; i < w->n_in; i++)
            sum += (double)row[i] * (double)x[i];
        y[r] = (float)sum;
    }
    free(row);
}

static void plain_product(void *self, const struct pg_op_product *o, int n)
{
    (void)self;
    n_calls[2]++;
    for (const struct pg_op_product *end = o + n; o < end; o++)
        for (int j = 0; j < o->n_row; j++) {
            const float *x = o->in->acts[PG_ACT_F32].f32 + (o->row ? o->row[j] : j) * o->w.n_in;
            multiply(&o->w, o->bias ? o->bias->data : NULL, x, o->y + j * o->w.n_out);
        }
}

static void plain_rope(void *self, const struct pg_op_rope *o)
{
    int n_all = o->n_head + o->n_head_kv;
    (void)self;
    n_calls[3]++;
    for (int j = 0; j < o->n_row * n_all; j++) {
        int t = j / n_all, head = j % n_all;
        float *x = head < o->n_head ? o->q + (t * o->n_head + head) * o->head_dim
                                    : o->k + (t * o->n_head_kv + head - o->n_head) * o->head_dim;
        for (int i = 0; i < o->n_freq; i++) {
            int a = o->kind == PG_ROPE_PAIRS ? 2 * i : i;
            int b = o->kind == PG_ROPE_PAIRS ? 2 * i + 1 : i + o->n_freq;
            double c = (double)o->cosines[t * o->n_freq + i], xa = (double)x[a];
            double s = (double)o->sines[t * o->n_freq + i], xb = (double)x[b];
            x[a] = (float)(xa * c - xb * s);
            x[b] = (float)(xa * s + xb * c);
        }
    }
}

static void plain_append(void *self, const struct pg_op_append *o)
{
    (void)self;
    n_calls[4]++;
    for (int t = 0; t < o->n_row; t++) {
        const struct pg_kv *kv = o->kv[t];
        const struct pg_cache *c = kv->block[o->cache].cache;
        assert_int_equal(kv->shape.type, PG_KV_F32);
        for (int head = 0; head < c->n_head; head++) {
            memcpy(pg_kv_k(kv, o->cache, head, o->pos[t]), o->k + (t * c->n_head + head) * c->k_dim,
                   (size_t)c->k_dim * sizeof(float));
            memcpy(pg_kv_v(kv, o->cache, head, o->pos[t]), o->v + (t * c->n_head + head) * c->v_dim,
                   (size_t)c->v_dim * sizeof(float));
        }
    }
}

static void attend_one(const struct pg_op_attend *o, int t, int head)
{
    const struct pg_cache *c = o->kv[t]->block[o->cache].cache;
    int head_kv = head * c->n_head / o->n_head, n = o->n_seen[t];
    const float *q = o->q + (t * o->n_head + head) * c->k_dim;
    double e[N_CTX], sum = 0;
    for (int j = 0; j < n; j++) {
        const float *k = pg_kv_k(o->kv[t], o->cache, head_kv, j);
        double dot = 0;
        for (int i = 0; i < c->k_dim; i++)
            dot += (double)q[i] * (double)k[i];
        dot *= (double)o->scale;
        if (o->bias) {
            const int width = 2 * o->bias->reach + 1, from = j - o->pos[t];
            const int at = PG_MIN(width - 1, PG_MAX(0, o->bias->reach + from));
            dot += (double)o->bias->at[head * width + at];
        }
        e[j] = exp(dot);
        sum += e[j];
    }
    for (int i = 0; i < c->v_dim; i++) {
        double out = 0;
        for (int j = 0; j < n; j++)
            out += e[j] / sum * (double)((const float *)pg_kv_v(o->kv[t], o->cache, head_kv, j))[i];
        o->out[(t * o->n_head + head) * c->v_dim + i] = (float)out;
    }
}

static void plain_attend(void *self, const struct pg_op_attend *o)
{
    (void)self;
    n_calls[5]++;
    for (int i = 0; i < o->n_row * o->n_head; i++)
        attend_one(o, i / o->n_head, i % o->n_head);
}

static double act(enum pg_activation kind, double x)
{
    static const double pi = 3.14159265358979;
    return kind == PG_RELU   ? fmax(x, 0)
           : kind == PG_GELU ? x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x * x * x)))
                             : x / (1 + exp(-x));
}

static void plain_activate(void *self, const struct pg_op_activate *o)
{
    (void)self;
    n_calls[6]++;
    for (int i = 0; i < o->n_row * o->n; i++)
        o->y[i] = (float)(act(o->kind, (double)o->gate[i]) * (o->up ? (double)o->up[i] : 1));
}

static void plain_combine(void *self, const struct pg_op_combine *o)
{
    (void)self;
    n_calls[7]++;
    for (int t = 0; t < o->n_row; t++) {
        double dot = 0;
        for (int i = 0; o->shared && i < o->n; i++)
            dot += (double)o->h[t * o->n + i] * (double)((const float *)o->shared_gate->data)[i];
        for (int i = 0; i < o->n; i++) {
            double sum = (double)o->x[t * o->n + i];
            for (int j = t * o->n_used; j < (t + 1) * o->n_used; j++)
                sum += (double)o->weight[j] * (double)o->y[o->row_of[j] * o->n + i];
            if (o->shared)
                sum += (double)o->shared[t * o->n + i] / (1 + exp(-dot));
            o->x[t * o->n + i] = (float)sum;
        }
    }
}

static void plain_add(void *self, const struct pg_op_add *o)
{
    (void)self;
    n_calls[8]++;
    for (int i = 0; i < o->n_row * o->n; i++)
        o->y[i] += o->x[i];
}

static void plain_logits(void *self, const struct pg_op_logits *o)
{
    (void)self;
    n_calls[9]++;
    for (int i = 0; i < o->n_row; i++) {
        norm_one(o->x + o->row[i] * o->output->n_in, o->gain, o->eps, o->h);
        for (int j = 0; j < o->output->n_in; j++)
            o->h[j] *= o->scale;
        multiply(o->output, NULL, o->h, o->logits + i * o->output->n_out);
    }
}

static const struct pg_ops plain = {
    plain_embed,  plain_norm,     plain_product, plain_rope, plain_append,
    plain_attend, plain_activate, plain_combine, plain_add,  plain_logits,
};

/* ------------------------------------------------------------------ tests ------------------- */

static pg_engine *open_model(const char *path, int n_threads, int n_source)
{
    struct pg_options opt = {PG_OPTIONS_INIT, .model = path,          .mode = PG_MODE_RESIDENT,
                             .n_ctx = N_CTX,  .kv_type = PG_KV_F32,   .n_batch = N_TOK,
                             .n_sessions = 2, .n_threads = n_threads, .n_source = n_source};
    struct pg_err err;
    pg_engine *e;
    must(pg_engine_open(&e, &opt, &err), &err);
    return e;
}

/* A prompt, then tokens one by one: [N_TOK + 3, n_vocab]. */
static float *logits_with(pg_engine *e, const struct pg_ops *ops)
{
    size_t n_vocab = (size_t)e->model.h.n_vocab;
    float *out = malloc((N_TOK + 3) * n_vocab * sizeof(float));
    int32_t token[N_TOK + 3];
    struct pg_err err;
    pg_session *s;
    assert_non_null(out);
    for (int i = 0; i < N_TOK + 3; i++)
        token[i] = (5 + i * 37) % e->model.h.n_vocab;
    e->forward.ops = ops;
    must(pg_session_open(&s, e, NULL, &err), &err);
    if (e->opt.n_source)
        must(pg_session_encode(s, token + 1, (size_t)e->opt.n_source, &err), &err);
    must(pg_session_eval(s, token, N_TOK, out, &err), &err);
    for (size_t i = N_TOK; i < N_TOK + 3; i++)
        must(pg_session_eval(s, token + i, 1, out + i * n_vocab, &err), &err);
    pg_session_close(s);
    return out;
}

static void compare_plain(const char *path, int n_source, enum pg_activation activation)
{
    pg_engine *e = open_model(path, 2, n_source);
    e->model.h.activation = activation;
    float *own = logits_with(e, &pg_ops_cpu), *other = logits_with(e, &plain);
    double worst = 0;
    for (int i = 0; i < (N_TOK + 3) * e->model.h.n_vocab; i++) {
        double d = fabs((double)own[i] - (double)other[i]);
        worst = d <= worst ? worst : d; /* a NaN stays */
    }
    print_message("           %-10s largest difference of a logit %.1e\n", e->model.arch, worst);
    assert_true(worst <= 1e-4);
    free(own);
    free(other);
    pg_engine_close(e);
}

static void test_plain_operations(void **state)
{
    (void)state;
    compare_plain(PG_TEST_DATA "/stories260K/stories260K.gguf", 0, PG_SILU);
    compare_plain(PG_TEST_DATA "/gguf_moe/gqa_mixtral.gguf", 0, PG_SILU);
    compare_plain(PG_TEST_DATA "/gguf_moe/qwen_moe_tiny.gguf", 0, PG_SILU);
    compare_plain(PG_TEST_DATA "/gen_moe/qwen3moe.gguf", 0, PG_SILU);
    compare_plain(PG_TEST_DATA "/gen_moe/olmoe.gguf", 0, PG_SILU);
    compare_plain(PG_TEST_DATA "/gen_moe/olmoe.gguf", 0, PG_GELU);
    compare_plain(PG_TEST_DATA "/gen_moe/olmoe.gguf", 0, PG_RELU);
    compare_plain(PG_TEST_DATA "/gen_moe/t5dense.gguf", N_TOK, PG_RELU);
    compare_plain(PG_TEST_DATA "/gen_moe/switch.gguf", 5, PG_RELU);
    compare_plain(PG_TEST_DATA "/gen_moe/switch.gguf", N_TOK, PG_GELU);
    for (size_t i = 0; i < PG_COUNT(n_calls); i++)
        assert_true(n_calls[i] > 0);
}

/* T5's bucket of a distance in whole numbers: of n, the first half has one a distance, and bucket
 * n/2 + k begins where (distance / (n/2)) ^ (n/2) is (128 / (n/2)) ^ k. */
static int bucket_of(int distance, int n)
{
    const int half = n / 2;
    int k = 0;
    if (distance < half)
        return distance;
    for (; k + 1 < n - half; k++) {
        double ratio = 1, wanted = 1;
        for (int i = 0; i < half; i++)
            ratio *= (double)distance / half;
        for (int i = 0; i <= k; i++)
            wanted *= 128.0 / half;
        if (ratio < wanted)
            break;
    }
    return half + k;
}

/* Every relative position has the bias of its bucket: of the encoder half of them for each
 * direction, of the decoder all for what lies behind. */
static void test_buckets(void **state)
{
    pg_engine *e = open_model(PG_TEST_DATA "/gen_moe/switch.gguf", 1, 5);
    const struct pg_model *m = &e->model;
    (void)state;
    for (int stack = 0; stack < 2; stack++) {
        const struct pg_position_bias *bias = &e->forward.bias[stack];
        const struct pg_weight *w = &m->block[m->h.stack[stack].first].attn_rel_b;
        const float *rows = w->data;
        const int reach = bias->reach, n = m->h.n_buckets, width = 2 * reach + 1;
        assert_int_equal(reach, 128);
        for (int from = -reach; from <= reach; from++) {
            int bucket = stack ? bucket_of(PG_MAX(0, -from), n)
                               : bucket_of(abs(from), n / 2) + (from > 0 ? n / 2 : 0);
            for (int head = 0; head < m->h.n_head; head++)
                assert_true(bias->at[head * width + reach + from] ==
                            rows[bucket * m->h.n_head + head]);
        }
    }
    pg_engine_close(e);
}

/* y of the wave that the gate wants for f->h, computed in parts of at most `most` experts. */
static void run_wave(struct pg_forward *f, int il, int most, float *y)
{
    const struct pg_route *route;
    struct pg_err err;
    size_t n = (size_t)(f->n_tok * f->model->h.n_expert_used) * (size_t)f->model->h.n_embd;
    memset(f->y, 0xff, n * sizeof(float));
    must(pg_gate_decide(f->opt.gate, f->model->block[il].moe, &f->in_h, f->pos, &route, &err),
         &err);
    pg_wave_sort(f, route);
    for (struct pg_part part = {0, most}; part.begin < f->wave.n; part.begin += most) {
        part.n = PG_MIN(most, f->wave.n - part.begin);
        pg_wave_acquire(f, il, part);
        must(pg_wave_compute(f, il, part), &err);
    }
    memcpy(y, f->y, n * sizeof(float));
}

static void test_wave_in_parts(void **state)
{
    pg_engine *e = open_model(PG_TEST_DATA "/gen_moe/olmoe.gguf", 2, 0);
    struct pg_forward *f = &e->forward;
    size_t n = (size_t)(N_TOK * e->model.h.n_expert_used) * (size_t)e->model.h.n_embd;
    float *whole = malloc(n * sizeof(float)), *parts = malloc(n * sizeof(float));
    struct pg_err err;
    (void)state;
    assert_true(whole && parts);
    free(logits_with(e, &pg_ops_cpu)); /* a step has been run */
    f->n_tok = N_TOK;
    f->pos = e->pos;
    f->err = &err;
    for (int i = 0; i < N_TOK * e->model.h.n_embd; i++)
        f->h[i] = (float)((i * 7919) % 1000) / 500 - 1;
    pg_input_set(&f->in_h, f->h, e->model.h.n_embd, N_TOK);
    run_wave(f, 0, e->model.h.n_expert, whole);
    assert_true(f->wave.n > 3);
    for (int most = 1; most < f->wave.n; most++) {
        run_wave(f, 0, most, parts);
        assert_memory_equal(whole, parts, n * sizeof(float));
    }
    pg_store_check(e->store);
    free(whole);
    free(parts);
    pg_engine_close(e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain_operations),
        cmocka_unit_test(test_buckets),
        cmocka_unit_test(test_wave_in_parts),
    };
    return cmocka_run_group_tests_name("block", tests, NULL, NULL);
}
