/* SPDX-License-Identifier: MIT
 * T5, an encoder and a decoder, and Switch Transformers, which is T5 with experts: one a token,
 * whose probability is its weight. Positions are told by a bias that is learned for ranges of
 * distances; q · k is not scaled; the output matrix, where it is the table of tokens, gets states
 * scaled by 1 / sqrt(n_embd).
 */
#include "model/model.h"

#include <math.h>

static int get_int(const struct pg_gguf *g, const char *arch, const char *name,
                   const int64_t range[2], int *out, struct pg_err *err)
{
    char key[128];
    int64_t v = *out;
    snprintf(key, sizeof(key), "%s.%s", arch, name);
    PG_TRY(pg_gguf_get_int(g, key, PG_GGUF_OPTIONAL, range, &v, err));
    *out = (int)v;
    return 0;
}

static int hparams_of(const char *arch, const struct pg_gguf *g, struct pg_hparams *h,
                      struct pg_err *err)
{
    const bool tied = !pg_gguf_find_tensor(g, "output.weight");
    int n_decoder = h->n_layer;
    PG_TRY(get_int(g, arch, "decoder_block_count", (int64_t[]){1, 1024}, &n_decoder, err));
    PG_TRY(get_int(g, arch, "decoder_start_token_id", (int64_t[]){0, INT32_MAX}, &h->decoder_start,
                   err));
    h->n_buckets = 32;
    PG_TRY(get_int(g, arch, "attention.relative_buckets_count", (int64_t[]){4, 256}, &h->n_buckets,
                   err));
    h->n_stack = 2;
    h->stack[0] = (struct pg_stack){"enc.", 0, h->n_layer, false};
    h->stack[1] = (struct pg_stack){"dec.", h->n_layer, n_decoder, true};
    h->n_layer += n_decoder;
    h->n_rot = 0;
    h->n_ff_exp = h->n_ff;
    h->attn_scale = 1;
    h->logit_scale = tied ? 1.0f / sqrtf((float)h->n_embd) : 1;
    h->gated = pg_gguf_find_tensor(g, "enc.blk.0.ffn_gate.weight") != NULL;
    h->activation = h->gated ? PG_GELU : PG_RELU;
    return 0;
}

static int hparams_t5(const struct pg_gguf *g, struct pg_hparams *h, struct pg_err *err)
{
    return hparams_of("t5", g, h, err);
}

static int hparams_switch(const struct pg_gguf *g, struct pg_hparams *h, struct pg_err *err)
{
    return hparams_of("switch", g, h, err);
}

static int tensors(struct pg_loader *l, struct pg_block *w, int il, struct pg_err *err)
{
    const struct pg_hparams *h = pg_loader_hparams(l);
    const struct pg_stack *stack = &h->stack[pg_stack_of(h, il)];
    PG_TRY(pg_loader_attention(l, il, err));
    if (il == stack->first)
        PG_TRY(pg_loader_weight(l, il, PG_PART_REL_B, (int64_t[]){h->n_head, h->n_buckets}, err));
    if (stack->causal) {
        PG_TRY(pg_loader_cross(l, il, err));
        pg_loader_ignore(l, il, "cross_attn_rel_b.weight"); /* T5 1.0 has it, and never adds it */
    }
    return pg_loader_experts(l, w, il, err);
}

const struct pg_family pg_family_t5 = {"t5", hparams_t5, tensors};
const struct pg_family pg_family_switch = {"switch", hparams_switch, tensors};
