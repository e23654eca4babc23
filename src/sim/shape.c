/* SPDX-License-Identifier: MIT
 * The sizes of a model: of a named shape, or out of the directory of a file.
 */
#include "sim/sim.h"

#include "base/os.h"
#include "make/synth.h"
#include "model/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A decoder whose sizes are not those of the engine's families. */
struct other {
    const char *name;
    int n_layer, n_lead; /* the first n_lead layers are dense */
    int n_embd, n_ff, n_ff_exp, n_ff_shexp, n_expert, n_used, n_vocab;
    double attention;  /* values of a layer's attention matrices */
    double kv, attend; /* values kept of a position; flop of a row that looks at it */
};

/* DeepSeek-V3: queries through 1536 values, keys and values through 512 and 64 rotated; 128 heads
 * of 128 + 64 and 128. A row looks at the compressed ones. */
static const struct other others[] = {
    {"deepseek-v3-671b", 61, 3, 7168, 18432, 2048, 2048, 256, 8, 129280,
     7168.0 * 1536 + 1536.0 * 128 * 192 + 7168.0 * 576 + 512.0 * 128 * 256 + 128.0 * 128 * 7168,
     576, 2.0 * 128 * (576 + 512)},
};

const char *pg_sim_shape_name(int i)
{
    int n = 0;
    while (pg_synth_shape_name(n))
        n++;
    if (i >= 0 && i < n)
        return pg_synth_shape_name(i);
    return i >= n && i - n < (int)PG_COUNT(others) ? others[i - n].name : NULL;
}

/* ---- by name */

/* A matrix of so many values, of a type whose rows are whole blocks. */
static struct pg_sim_piece matrix(double values, enum pg_type type)
{
    const struct pg_type_traits *t = pg_type_traits((uint32_t)type);
    double bytes = values / t->block * t->block_bytes;
    return (struct pg_sim_piece){(uint64_t)bytes, 2 * values};
}

static struct pg_sim_piece router_of(int n_embd, int n_expert)
{
    return matrix((double)n_embd * n_expert, PG_TYPE_F32);
}

static int take_layers(struct pg_sim_shape *s, int n, struct pg_err *err)
{
    s->n_layer = n;
    s->layer = pg_calloc((size_t)n, sizeof(*s->layer));
    return s->layer ? 0 : pg_fail(err, PG_ENOMEM, "out of memory");
}

/* The MoE blocks of each stack, and what is always in fast memory but the tables of tokens. */
static void count(struct pg_sim_shape *s)
{
    for (int stack = 0; stack < s->n_stack; stack++) {
        s->moe[stack].first = s->n_moe;
        for (int i = 0; i < s->layers[stack].n; i++) {
            struct pg_sim_layer *l = &s->layer[s->layers[stack].first + i];
            l->moe = l->moe ? s->n_moe++ : -1;
            s->dense_bytes += l->attention.bytes + l->cross.bytes + l->source.bytes + l->ffn.bytes +
                              l->router.bytes;
        }
        s->moe[stack].n = s->n_moe - s->moe[stack].first;
    }
}

static int open_switch(struct pg_sim_shape *s, const struct pg_synth_dims *d, enum pg_type type,
                       struct pg_err *err)
{
    const double embd = d->n_embd, n_q = d->n_q;
    PG_TRY(take_layers(s, 2 * d->n_layer, err));
    s->n_stack = 2;
    s->layers[0] = (struct pg_span){0, d->n_layer};
    s->layers[1] = (struct pg_span){d->n_layer, d->n_layer};
    for (int il = 0; il < s->n_layer; il++) {
        struct pg_sim_layer *l = &s->layer[il];
        l->attention = matrix(4 * embd * n_q, type);
        if (il >= d->n_layer) {
            l->cross = matrix(2 * embd * n_q, type);
            l->source = matrix(2 * embd * n_q, type);
        }
        l->moe = il % 2;
        if (l->moe) {
            l->expert = matrix(2 * embd * d->n_ff, type);
            l->router = router_of(d->n_embd, d->n_expert);
        } else {
            l->ffn = matrix(2 * embd * d->n_ff, type);
        }
    }
    s->head = matrix(embd * d->n_vocab, type);
    s->dense_bytes = s->head.bytes; /* which is the table of tokens, too */
    return 0;
}

static int open_decoder(struct pg_sim_shape *s, const struct pg_synth_dims *d, enum pg_type type,
                        struct pg_err *err)
{
    const double embd = d->n_embd;
    PG_TRY(take_layers(s, d->n_layer, err));
    for (int il = 0; il < s->n_layer; il++) {
        struct pg_sim_layer *l = &s->layer[il];
        l->attention = matrix(2 * embd * (d->n_q + d->n_kv), type);
        l->expert = matrix(3 * embd * d->n_ff, type);
        l->ffn = matrix(3 * embd * d->n_ff_shexp, type);
        l->router = router_of(d->n_embd, d->n_expert);
        l->moe = 1;
    }
    s->head = matrix(embd * d->n_vocab, type);
    s->dense_bytes = 2 * s->head.bytes;
    return 0;
}

static int open_other(struct pg_sim_shape *s, const struct other *d, enum pg_type type,
                      struct pg_err *err)
{
    const double embd = d->n_embd;
    PG_TRY(take_layers(s, d->n_layer, err));
    for (int il = 0; il < s->n_layer; il++) {
        struct pg_sim_layer *l = &s->layer[il];
        l->moe = il >= d->n_lead;
        l->attention = matrix(d->attention, type);
        l->ffn = matrix(3 * embd * (l->moe ? d->n_ff_shexp : d->n_ff), type);
        if (l->moe) {
            l->expert = matrix(3 * embd * d->n_ff_exp, type);
            l->router = router_of(d->n_embd, d->n_expert);
        }
    }
    s->n_expert = d->n_expert;
    s->n_used = d->n_used;
    s->head = matrix(embd * d->n_vocab, type);
    s->dense_bytes = 2 * s->head.bytes;
    s->context = (struct pg_sim_piece){(uint64_t)(2 * d->kv), d->attend};
    return 0;
}

static int open_named(struct pg_sim_shape *s, const struct pg_synth_dims *d, enum pg_type type,
                      struct pg_err *err)
{
    const uint64_t value_bytes = type == PG_TYPE_F32 ? 4 : 2;
    if (!d->n_expert)
        return pg_fail(err, PG_ENOTSUP, "%s: it has no experts, so there is nothing to simulate",
                       s->name);
    s->n_expert = d->n_expert;
    s->n_used = d->n_used;
    s->context = (struct pg_sim_piece){2 * (uint64_t)d->n_kv * value_bytes, 4.0 * d->n_q};
    return d->has_encoder ? open_switch(s, d, type, err) : open_decoder(s, d, type, err);
}

/* ---- out of a file */

static void add_weight(struct pg_sim_piece *p, const struct pg_weight *w)
{
    if (w->n_out < 1)
        return;
    p->bytes += (uint64_t)w->n_out * pg_type_bytes(w->type, w->n_in);
    p->flop += 2.0 * w->n_in * w->n_out;
}

static void add_weights(struct pg_sim_piece *p, struct pg_block *b, enum pg_block_part first,
                        enum pg_block_part last)
{
    for (int i = first; i <= (int)last; i++)
        add_weight(p, pg_block_part(b, (enum pg_block_part)i));
}

static void file_layer(struct pg_sim_layer *l, struct pg_block *b)
{
    add_weights(&l->attention, b, PG_PART_ATTN_NORM, PG_PART_Q_NORM);
    add_weights(&l->attention, b, PG_PART_K_NORM, PG_PART_REL_B);
    add_weight(&l->cross, &b->cross_attn_norm);
    add_weight(&l->cross, &b->cross_attn_q);
    add_weight(&l->cross, &b->cross_attn_output);
    add_weight(&l->source, &b->cross_attn_k);
    add_weight(&l->source, &b->cross_attn_v);
    add_weight(&l->attention, &b->ffn_norm); /* so that a block without the layer has no part */
    add_weights(&l->ffn, b, PG_PART_GATE, PG_PART_DOWN);
    add_weights(&l->ffn, b, PG_PART_SH_INP, PG_PART_SH_DOWN);
    add_weight(&l->router, &b->ffn_gate_inp);
    for (int k = 0; k < PG_SLABS; k++)
        add_weight(&l->expert, &b->exps[k]);
    l->moe = b->moe >= 0;
}

static int open_model(struct pg_sim_shape *s, struct pg_model *m, struct pg_err *err)
{
    const struct pg_hparams *h = &m->h;
    if (!m->n_moe)
        return pg_fail(err, PG_ENOTSUP, "%s: it has no experts, so there is nothing to simulate",
                       s->name);
    PG_TRY(take_layers(s, h->n_layer, err));
    s->n_stack = h->n_stack;
    for (int i = 0; i < h->n_stack; i++)
        s->layers[i] = (struct pg_span){h->stack[i].first, h->stack[i].n_layer};
    for (int il = 0; il < h->n_layer; il++)
        file_layer(&s->layer[il], &m->block[il]);
    s->n_expert = h->n_expert;
    s->n_used = h->n_expert_used;
    s->type = pg_type_traits((uint32_t)m->main_type)->name;
    s->context = (struct pg_sim_piece){4 * (uint64_t)h->n_head_kv * (uint64_t)h->head_dim,
                                       4.0 * h->n_head * h->head_dim};
    add_weight(&s->head, m->output.n_out ? &m->output : &m->token_embd);
    count(s);
    s->dense_bytes = m->dense_bytes;
    return 0;
}

static int open_file(struct pg_sim_shape *s, const char *path, struct pg_err *err)
{
    struct pg_gguf *g;
    struct pg_model m = {0};
    PG_TRY(pg_gguf_open(&g, path, err));
    int rc = pg_model_open(&m, g, err);
    if (!rc)
        rc = open_model(s, &m, err);
    pg_model_close(&m);
    pg_gguf_close(g);
    return rc;
}

/* ---- either */

static int neither(const char *name, struct pg_err *err)
{
    char known[320] = "";
    for (int i = 0; pg_sim_shape_name(i); i++) {
        const size_t n = strlen(known);
        snprintf(known + n, sizeof(known) - n, "%s%s", i ? ", " : "", pg_sim_shape_name(i));
    }
    return pg_fail(err, PG_EARG, "%s: no such file; a GGUF file is wanted, or one of %s",
                   pg_quote(name, strlen(name)).s, known);
}

static int open_any(struct pg_sim_shape *s, const char *name, int type, int otherwise,
                    struct pg_err *err)
{
    struct pg_synth_dims d;
    const struct other *other = NULL;
    for (size_t i = 0; i < PG_COUNT(others); i++)
        if (!strcmp(name, others[i].name))
            other = &others[i];
    if (!other && !pg_synth_dims(name, &d)) {
        if (access(name, F_OK))
            return neither(name, err);
        if (type >= 0)
            return pg_fail(err, PG_EARG, "%s: a file has types of its own; a named shape takes one",
                           s->name);
        return open_file(s, name, err);
    }
    const enum pg_type of = (enum pg_type)(type < 0 ? otherwise : type);
    s->type = pg_type_traits((uint32_t)of)->name;
    PG_TRY(other ? open_other(s, other, of, err) : open_named(s, &d, of, err));
    if (s->n_stack == 0) {
        s->n_stack = 1;
        s->layers[0] = (struct pg_span){0, s->n_layer};
    }
    count(s);
    return 0;
}

int pg_sim_shape_open(struct pg_sim_shape *s, const char *name, int type, int otherwise,
                      struct pg_err *err)
{
    const char *slash = strrchr(name, '/');
    *s = (struct pg_sim_shape){0};
    snprintf(s->name, sizeof(s->name), "%.63s",
             pg_quote(slash ? slash + 1 : name, strlen(slash ? slash + 1 : name)).s);
    const int rc = open_any(s, name, type, otherwise, err);
    if (rc)
        pg_sim_shape_close(s);
    return rc;
}

void pg_sim_shape_close(struct pg_sim_shape *s)
{
    free(s->layer);
    s->layer = NULL;
}
