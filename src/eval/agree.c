/* SPDX-License-Identifier: MIT */
#include "eval/agree.h"

#include <stdlib.h>
#include <string.h>

static int32_t *said_of(const struct pg_agree *a, int block, int row)
{
    size_t slot = (size_t)(block % (a->level + 1));
    return a->said + (slot * (size_t)a->max_tok + (size_t)row) * (size_t)a->named.n_used;
}

/* Whether there is a pre-gate before the block, in its stack. */
static bool is_named(const struct pg_agree *a, int block)
{
    const int from = block - a->level;
    return from >= 0 && pg_moe_ahead(&a->engine->model, from, a->level) == block;
}

static void seen(void *user, int block, int to, const struct pg_input *h, const float *logits)
{
    struct pg_agree *a = user;
    const struct pg_kernels *k = &a->engine->compute.k;
    size_t n_expert = (size_t)a->rule.n_expert;
    if (to == block && !is_named(a, block))
        return;
    for (int t = 0; t < h->n_tok; t++) {
        memcpy(a->logits, logits + (size_t)t * n_expert, n_expert * sizeof(float));
        if (to != block) {
            pg_agreement_name(&a->named, k, a->logits, said_of(a, to, t), a->weight);
            continue;
        }
        pg_agreement_name(&a->rule, k, a->logits, a->id, a->weight);
        pg_agreement_add(&a->sums[block], a->logits, (struct pg_named){a->id, a->rule.n_used},
                         (struct pg_named){said_of(a, block, t), a->named.n_used});
    }
}

static int check(const struct pg_engine *e, struct pg_err *err)
{
    enum pg_mode mode = e->opt.mode;
    if (e->model.n_moe == 0)
        return pg_fail(err, PG_EARG, "the model has no experts, so no gate to compare");
    if (mode != PG_MODE_LOOKAHEAD && mode != PG_MODE_HINT) {
        return pg_fail(err, PG_EARG,
                       "agreement compares pre-gates with the routers that decide: mode lookahead "
                       "(the untrained ones) or hint (a sidecar's) wanted, %s found",
                       pg_mode_name(mode));
    }
    if (pg_n_pregates(&e->model, e->level) == 0) {
        return pg_fail(err, PG_EARG,
                       "pre-gates %d blocks early are before none of the model's %d MoE blocks",
                       e->level, e->model.n_moe);
    }
    return 0;
}

int pg_agree_open(struct pg_agree *a, struct pg_engine *e, struct pg_err *err)
{
    *a = (struct pg_agree){.engine = e};
    PG_TRY(check(e, err));
    a->rule = e->model.h.rule;
    a->named = e->gate.named;
    a->level = e->level;
    a->max_tok = e->opt.n_batch;
    size_t n_expert = (size_t)a->rule.n_expert, n_named = (size_t)a->named.n_used;
    size_t rows = (size_t)(a->level + 1) * (size_t)a->max_tok;
    a->said = pg_calloc(rows, n_named * sizeof(int32_t));
    a->logits = pg_calloc(n_expert, sizeof(float));
    a->weight = pg_calloc(n_named, sizeof(float));
    a->id = pg_calloc((size_t)a->rule.n_used, sizeof(int32_t));
    a->sums = pg_calloc((size_t)e->model.n_moe, sizeof(*a->sums));
    if (!a->said || !a->logits || !a->weight || !a->id || !a->sums) {
        pg_agree_close(a, e);
        return pg_fail(err, PG_ENOMEM, "out of memory");
    }
    e->gate.tap = (struct pg_gate_tap){seen, a};
    return 0;
}

void pg_agree_close(struct pg_agree *a, struct pg_engine *e)
{
    if (e->gate.tap.user == a)
        e->gate.tap = (struct pg_gate_tap){0};
    free(a->said);
    free(a->logits);
    free(a->weight);
    free(a->id);
    free(a->sums);
    *a = (struct pg_agree){0};
}

int pg_agree_blocks(const struct pg_agree *a, struct pg_agree_block **out, int *n,
                    struct pg_err *err)
{
    const struct pg_model *m = &a->engine->model;
    *out = pg_calloc((size_t)pg_n_pregates(m, a->level), sizeof(**out));
    *n = 0;
    if (!*out)
        return pg_fail(err, PG_ENOMEM, "out of memory");
    for (int i = 0; i < m->n_moe; i++)
        if (is_named(a, i))
            (*out)[(*n)++] = pg_agreement_of(&a->sums[i], i, a->rule.n_used);
    return 0;
}
