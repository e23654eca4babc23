/* SPDX-License-Identifier: MIT
 * A model of a few thousand weights with a vocabulary, and a text of three stories, for tests of
 * training: qwen3moe, 3 blocks, n_embd 32, 4 experts of which a token uses 2. Matrices of attention
 * are F16, experts Q8_0, the rest F32.
 */
#ifndef PG_TESTS_TINY_TRAIN_H
#define PG_TESTS_TINY_TRAIN_H

#include "base/random.h"
#include "format/gguf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TINY_LAYERS = 3, TINY_EMBD = 32, TINY_FF = 32, TINY_EXPERTS = 4, TINY_DIM = 16 };

struct tiny_tensor {
    const char *suffix;
    enum pg_type type;
    int64_t ne[3];
};

static const struct tiny_tensor tiny_block[] = {
    {"attn_norm.weight", PG_TYPE_F32, {TINY_EMBD}},
    {"attn_q.weight", PG_TYPE_F16, {TINY_EMBD, 2 * TINY_DIM}},
    {"attn_k.weight", PG_TYPE_F16, {TINY_EMBD, TINY_DIM}},
    {"attn_v.weight", PG_TYPE_F16, {TINY_EMBD, TINY_DIM}},
    {"attn_output.weight", PG_TYPE_F16, {2 * TINY_DIM, TINY_EMBD}},
    {"attn_q_norm.weight", PG_TYPE_F32, {TINY_DIM}},
    {"attn_k_norm.weight", PG_TYPE_F32, {TINY_DIM}},
    {"ffn_norm.weight", PG_TYPE_F32, {TINY_EMBD}},
    {"ffn_gate_inp.weight", PG_TYPE_F32, {TINY_EMBD, TINY_EXPERTS}},
    {"ffn_gate_exps.weight", PG_TYPE_Q8_0, {TINY_EMBD, TINY_FF, TINY_EXPERTS}},
    {"ffn_up_exps.weight", PG_TYPE_Q8_0, {TINY_EMBD, TINY_FF, TINY_EXPERTS}},
    {"ffn_down_exps.weight", PG_TYPE_Q8_0, {TINY_FF, TINY_EMBD, TINY_EXPERTS}},
};
static const struct tiny_tensor tiny_ends[] = {
    {"token_embd.weight", PG_TYPE_F32, {TINY_EMBD, 512}},
    {"output_norm.weight", PG_TYPE_F32, {TINY_EMBD}},
};
enum { TINY_TENSORS = TINY_LAYERS * (int)PG_COUNT(tiny_block) + (int)PG_COUNT(tiny_ends) };

static const struct tiny_tensor *tiny_at(int i, char name[64])
{
    const int n = (int)PG_COUNT(tiny_block), il = i / n;
    const struct tiny_tensor *t = il < TINY_LAYERS ? &tiny_block[i % n] : &tiny_ends[i % n];
    char prefix[16] = "";
    if (il < TINY_LAYERS)
        snprintf(prefix, sizeof(prefix), "blk.%d.", il);
    snprintf(name, 64, "%s%s", prefix, t->suffix);
    return t;
}

static int tiny_keys(struct pg_gguf_writer *w, struct pg_err *err)
{
    const struct {
        const char *name;
        uint32_t v;
    } sizes[] = {{"block_count", TINY_LAYERS},       {"context_length", 64},
                 {"embedding_length", TINY_EMBD},    {"expert_feed_forward_length", TINY_FF},
                 {"attention.head_count", 2},        {"attention.head_count_kv", 1},
                 {"attention.key_length", TINY_DIM}, {"attention.value_length", TINY_DIM},
                 {"expert_count", TINY_EXPERTS},     {"expert_used_count", 2}};
    struct pg_gguf *g;
    int rc = pg_gguf_open(&g, PG_MODELS "/tinystories-moe.gguf", err);
    for (int i = 0; !rc && i < pg_gguf_n_keys(g); i++) {
        const struct pg_gguf_key *k = pg_gguf_key_at(g, i);
        if (strncmp(k->name, "qwen3moe.", 9) != 0 && strcmp(k->name, "general.alignment") != 0)
            rc = pg_gguf_writer_copy(w, k, err);
    }
    pg_gguf_close(g);
    for (size_t i = 0; !rc && i < PG_COUNT(sizes); i++) {
        char key[64];
        snprintf(key, sizeof(key), "qwen3moe.%s", sizes[i].name);
        rc = pg_gguf_writer_u32(w, key, sizes[i].v, err);
    }
    return rc;
}

/* The next block of a tensor: values of about 0.1, gains of about 1. */
static size_t tiny_values(const struct tiny_tensor *t, uint64_t stream, uint64_t at, char out[128])
{
    const bool is_gain = t->ne[1] == 0;
    for (uint64_t i = 0; i < 32; i++) {
        const int r = (int)(pg_random_at(9, stream, at + i) >> 56) - 128;
        const float x = (is_gain ? 1.0f : 0.0f) + (float)r * 0.001f;
        const uint16_t half = pg_f32_to_f16(t->type == PG_TYPE_F16 ? x : 0.001f);
        if (t->type == PG_TYPE_Q8_0) {
            out[2 + i] = (char)r;
            memcpy(out, &half, 2);
        } else if (t->type == PG_TYPE_F16) {
            memcpy(out + 2 * i, &half, 2);
        } else {
            memcpy(out + 4 * i, &x, 4);
        }
    }
    return pg_type_bytes(t->type, 32);
}

static int tiny_data(struct pg_gguf_writer *w, struct pg_err *err)
{
    char name[64], block[128];
    for (int i = 0; i < TINY_TENSORS; i++) {
        const struct tiny_tensor *t = tiny_at(i, name);
        const int64_t n = t->ne[0] * PG_MAX(t->ne[1], 1) * PG_MAX(t->ne[2], 1);
        for (int64_t at = 0; at < n; at += 32) {
            size_t bytes = tiny_values(t, (uint64_t)i, (uint64_t)at, block);
            bytes = n - at < 32 ? (size_t)(n - at) * sizeof(float) : bytes;
            PG_TRY(pg_gguf_writer_data(w, block, bytes, err));
        }
    }
    return 0;
}

/* Writes the model and the text. */
static int tiny_write(const char *model, const char *text, struct pg_err *err)
{
    struct pg_gguf_writer *w;
    FILE *f = fopen(text, "w");
    if (!f)
        return PG_EIO;
    fputs("once there was a cat who sat in the sun.\n<|endoftext|>\na dog ran home.\n"
          "<|endoftext|>\nthe bird sang a song to the moon, and the moon was happy.\n",
          f);
    fclose(f);
    PG_TRY(pg_gguf_writer_open(&w, model, err));
    int rc = tiny_keys(w, err);
    for (int i = 0; !rc && i < TINY_TENSORS; i++) {
        char name[64];
        const struct tiny_tensor *t = tiny_at(i, name);
        rc = pg_gguf_writer_tensor(w, name, t->type, t->ne[2] ? 3 : t->ne[1] ? 2 : 1, t->ne, err);
    }
    rc = rc ? rc : tiny_data(w, err);
    if (rc) {
        pg_gguf_writer_abandon(w);
        return rc;
    }
    return pg_gguf_writer_commit(w, err);
}

#endif
