/* SPDX-License-Identifier: MIT
 * Who decides: logits to probabilities, chosen experts and their weights, by the rule of
 * gate/rule_body.h; the balance loss; and back.
 */
#include "net/net_impl.h"

#define REAL pg_real
#include "gate/rule_body.h"

#include <math.h>
#include <string.h>

void pg_net_gates(const struct pg_net *n, int moe, struct pg_net_gate out[2])
{
    bool early = n->gate == PG_GATE_PREGATE;
    bool own = !early || !pg_is_decided_early(n->model, moe, n->opt.level);
    bool later = early && pg_moe_ahead(n->model, moe, n->opt.level) >= 0;
    const struct pg_net_route *now = &n->route[moe], *then = now + (later ? n->opt.level : 0);
    out[0] = own ? (struct pg_net_gate){moe, PG_PART_ROUTER, true, now->p, now->dlogits}
                 : (struct pg_net_gate){now->q ? moe : -1, PG_PART_ROUTER, false, now->q, now->dq};
    out[1] = (struct pg_net_gate){later ? moe + n->opt.level : -1, PG_PART_PREGATE, true, then->p,
                                  then->dlogits};
}

/* ------------------------------------------------------------------ forward ----------------- */

static void to_probabilities(const struct pg_net *n, pg_real *x)
{
    int n_expert = n->h->n_expert;
    if (!n->h->rule.sigmoid) {
        n->ops->softmax(x, 1, 1, n_expert);
        return;
    }
    for (int e = 0; e < n_expert; e++)
        x[e] = (pg_real)(1 / (1 + exp(-(double)x[e])));
}

void pg_net_prefer(const struct pg_net *n, int moe, int t, const uint8_t *here, pg_real *ranked)
{
    const struct pg_gate_rule *rule = &n->h->rule;
    const struct pg_gate_bias by = {n->opt.cache_form, n->bias[moe]};
    memcpy(ranked, pg_net_row(n->route[moe].p, t, rule->n_expert),
           (size_t)rule->n_expert * sizeof(ranked[0]));
    if (by.form == PG_CACHE_MARGIN)
        to_probabilities(n, ranked);
    rule_prefer(rule, by, here, ranked);
}

void pg_net_choose(const struct pg_net *n, struct pg_net_route *r, int t, const pg_real *ranked)
{
    const struct pg_gate_rule *rule = &n->h->rule;
    struct pg_gate_rule all = *rule;
    pg_real *p = pg_net_row(r->p, t, rule->n_expert), *weight = pg_net_row(r->weight, t, n->n_rank);
    int32_t *id = r->id + (size_t)t * (size_t)n->n_rank;
    all.n_used = n->n_rank;
    rule_rank(&all, ranked, id);
    to_probabilities(n, p);
    rule_weights(rule, p, id, weight);
    for (int i = rule->n_used; i < n->n_rank; i++)
        weight[i] = 0;
}

/* The router's weights of experts that a pre-gate has chosen. */
static void weigh(const struct pg_net *n, struct pg_net_route *r, int t)
{
    const struct pg_gate_rule *rule = &n->h->rule;
    pg_real *q = pg_net_row(r->q, t, rule->n_expert);
    to_probabilities(n, q);
    rule_weights_late(rule, q, r->id + (size_t)t * (size_t)n->n_rank,
                      pg_net_row(r->weight, t, n->n_rank));
}

/* z = down h + down_bias, silu(z) */
void pg_net_early(struct pg_net *n, const struct pg_net_span *s, int il)
{
    const struct pg_net_block *l = &n->block[il];
    int n_embd = n->h->n_embd, n_hidden = n->opt.pregate_hidden;
    if (n_hidden == 0 || !pg_net_has_pregate(n, il))
        return;
    pg_gemm_nt(&(struct pg_gemm){.by = &n->blas,
                                 .m = s->n,
                                 .n = n_hidden,
                                 .k = n_embd,
                                 .a = pg_net_row(l->h2, s->t0, n_embd),
                                 .lda = n_embd,
                                 .b = pg_net_w(n, il, PG_PART_PREGATE_DOWN),
                                 .ldb = n_embd,
                                 .c = pg_net_row(l->early, s->t0, n_hidden),
                                 .ldc = n_hidden});
    for (int t = s->t0; t < s->t0 + s->n; t++) {
        pg_real *z = pg_net_row(l->early, t, n_hidden);
        n->ops->add(pg_net_w(n, il, PG_PART_PREGATE_DOWN_BIAS), z, n_hidden);
        n->ops->silu.of(z, NULL, pg_net_row(l->early_act, t, n_hidden), n_hidden);
    }
}

/* logits += bias + up silu(z), what the block's pre-gate has of it. */
static void add_early(struct pg_net *n, const struct pg_net_span *s, int il, pg_real *logits)
{
    const struct pg_net_block *l = &n->block[il];
    int n_expert = n->h->n_expert, n_hidden = n->opt.pregate_hidden;
    for (int t = 0; n->opt.pregate_bias && t < s->n; t++) {
        n->ops->add(pg_net_w(n, il, PG_PART_PREGATE_BIAS), pg_net_row(logits, t, n_expert),
                    n_expert);
    }
    if (n_hidden == 0)
        return;
    pg_net_early(n, s, il);
    pg_gemm_nt(&(struct pg_gemm){.by = &n->blas,
                                 .m = s->n,
                                 .n = n_expert,
                                 .k = n_hidden,
                                 .a = pg_net_row(l->early_act, s->t0, n_hidden),
                                 .lda = n_hidden,
                                 .b = pg_net_w(n, il, PG_PART_PREGATE_UP),
                                 .ldb = n_hidden,
                                 .beta = 1,
                                 .c = logits,
                                 .ldc = n_expert});
}

void pg_net_decide(struct pg_net *n, const struct pg_net_span *s, int il)
{
    struct pg_net_gate gate[2];
    int n_expert = n->h->n_expert, n_embd = n->h->n_embd;
    pg_net_gates(n, n->model->block[il].moe, gate);
    for (int i = 0; i < 2; i++) {
        if (gate[i].to < 0)
            continue;
        struct pg_net_route *r = &n->route[gate[i].to];
        pg_gemm_nt(&(struct pg_gemm){.by = &n->blas,
                                     .m = s->n,
                                     .n = n_expert,
                                     .k = n_embd,
                                     .a = pg_net_row(n->block[il].h2, s->t0, n_embd),
                                     .lda = n_embd,
                                     .b = pg_net_w(n, il, gate[i].part),
                                     .ldb = n_embd,
                                     .c = pg_net_row(gate[i].p, s->t0, n_expert),
                                     .ldc = n_expert});
        if (gate[i].part == PG_PART_PREGATE)
            add_early(n, s, il, pg_net_row(r->p, s->t0, n_expert));
        for (int t = s->t0; t < s->t0 + s->n; t++)
            if (!gate[i].chooses)
                weigh(n, r, t);
            else if (!n->bias)
                pg_net_choose(n, r, t, pg_net_row(r->p, t, n_expert));
    }
}

/* ------------------------------------------------------------------ rows by expert ---------- */

static void sort_by_expert(const struct pg_net *n, struct pg_net_route *r)
{
    int n_expert = n->h->n_expert, n_pairs = n->n_tok * n->n_rank;
    memset(r->first, 0, (size_t)(n_expert + 1) * sizeof(r->first[0]));
    for (int i = 0; i < n_pairs; i++)
        r->first[r->id[i] + 1]++;
    for (int e = 0; e < n_expert; e++)
        r->first[e + 1] += r->first[e];
    for (int i = 0; i < n_pairs; i++) { /* first[e] moves to the end of e's rows */
        int row = r->first[r->id[i]]++;
        r->token_of[row] = i / n->n_rank;
        r->pair_of[row] = i;
        r->row_of[i] = row;
    }
    memmove(r->first + 1, r->first, (size_t)n_expert * sizeof(r->first[0]));
    r->first[0] = 0;
}

static void make_chunks(struct pg_net *n, const struct pg_net_route *r)
{
    n->n_chunks = 0;
    for (int e = 0; e < n->h->n_expert; e++) {
        for (int row = r->first[e]; row < r->first[e + 1]; row += PG_NET_ROWS) {
            int end = PG_MIN(row + PG_NET_ROWS, r->first[e + 1]);
            n->chunk[n->n_chunks++] = (struct pg_net_chunk){e, row, end - row};
        }
    }
}

/* ------------------------------------------------------------------ balance ----------------- */

/* Tokens that use expert e: all of its rows but those of runners-up and of padding. */
static int n_using(const struct pg_net *n, const struct pg_net_route *r, int e)
{
    int sum = 0;
    for (int row = r->first[e]; row < r->first[e + 1]; row++) {
        sum += r->pair_of[row] % n->n_rank < n->h->n_expert_used &&
               pg_net_is_live(n, r->token_of[row]);
    }
    return sum;
}

/* n_expert * sum of f_e P_e, f_e held constant. */
static void balance(const struct pg_net *n, struct pg_net_route *r)
{
    int n_expert = n->h->n_expert;
    int n_live = n->now->n_live;
    double n_pairs = (double)n_live * n->h->n_expert_used, sum = 0;
    double by = (double)n->opt.balance_weight * (double)n->scale / n->model->n_moe / n_live;
    for (int e = 0; e < n_expert; e++) {
        double f = n_using(n, r, e) / n_pairs, p = 0;
        for (int t = 0; t < n->n_tok; t++)
            p += pg_net_is_live(n, t) ? (double)pg_net_row(r->p, t, n_expert)[e] : 0;
        sum += f * p / n_live;
        r->d_balance[e] = (pg_real)(by * n_expert * f);
    }
    r->balance = n_expert * sum;
}

/* The divergence of what chose from what weighs, each probability taken for LEAST_P at least. */
#define LEAST_P 1e-30
static void imitate(const struct pg_net *n, struct pg_net_route *r)
{
    size_t n_expert = (size_t)n->h->n_expert, n_p = (size_t)n->n_tok * n_expert;
    double sum = 0;
    r->imitate = 0;
    if (!r->q || n->refers || n->opt.imitate_weight <= 0)
        return;
    for (size_t i = 0; i < n_p; i++) {
        double q = (double)r->q[i], p = (double)r->p[i];
        if (pg_net_is_live(n, (int)(i / n_expert)))
            sum += q * log(fmax(q, LEAST_P) / fmax(p, LEAST_P));
    }
    r->imitate = sum / n->now->n_live;
}

void pg_net_routed(struct pg_net *n, int moe)
{
    struct pg_net_route *r = &n->route[moe];
    struct pg_net_gate gate[2];
    pg_net_gates(n, moe, gate);
    for (int i = 0; i < 2; i++)
        if (gate[i].to >= 0 && gate[i].chooses)
            pg_net_cache(n, gate[i].to);
    sort_by_expert(n, r);
    make_chunks(n, r);
    balance(n, r);
    imitate(n, r);
    pg_net_sticky(n, moe);
}

/* ------------------------------------------------------------------ back -------------------- */

/* dp += what the weights of the chosen bring, and what those of runners-up would. */
static void weights_back(const struct pg_net *n, const struct pg_net_route *r, int t, pg_real *dp)
{
    const struct pg_gate_rule *rule = &n->h->rule;
    const pg_real *p = pg_net_row(r->p, t, rule->n_expert);
    size_t at = (size_t)t * (size_t)n->n_rank;
    pg_real scale = rule_scale(rule, p, r->id + at), along = 0;
    if (rule->renormalise) {
        pg_real sum = rule_sum(rule, p, r->id + at);
        for (int i = 0; i < rule->n_used && sum > LEAST_SUM; i++)
            along += n->dweight[r->row_of[at + (size_t)i]] * p[r->id[at + (size_t)i]] / sum;
    }
    for (int i = 0; i < n->n_rank; i++)
        dp[r->id[at + (size_t)i]] += scale * (n->dweight[r->row_of[at + (size_t)i]] - along);
}

/* From dp to dlogits, in place. */
static void probabilities_back(const struct pg_net *n, const pg_real *p, pg_real *d)
{
    int n_expert = n->h->n_expert;
    for (int e = 0; n->h->rule.sigmoid && e < n_expert; e++)
        d[e] *= p[e] * (1 - p[e]);
    if (!n->h->rule.sigmoid)
        n->ops->softmax_back(p, d, n->ops->dot(p, d, n_expert), n_expert);
}

/* dlogits of the pre-gate += by (p - q) */
static void imitate_row_back(const struct pg_net *n, struct pg_net_route *r, int t)
{
    int n_expert = n->h->n_expert;
    const pg_real *p = pg_net_row(r->p, t, n_expert), *q = pg_net_row(r->q, t, n_expert);
    double by = (double)n->opt.imitate_weight * (double)n->scale / n->model->n_moe / n->now->n_live;
    for (int e = 0; e < n_expert; e++)
        pg_net_row(r->dlogits, t, n_expert)[e] += (pg_real)by * (p[e] - q[e]);
}

/* The router weighs: its dq, and to the pre-gate's dlogits the estimate of net.h. */
static void late_row_back(struct pg_net *n, struct pg_net_route *r, int t)
{
    const struct pg_gate_rule *rule = &n->h->rule;
    const pg_real *q = pg_net_row(r->q, t, rule->n_expert);
    pg_real *d = pg_net_row(r->dlogits, t, rule->n_expert);
    pg_real *dq = pg_net_row(r->dq, t, rule->n_expert), scale = (pg_real)rule->scale, along = 0;
    size_t at = (size_t)t * (size_t)n->n_rank;
    pg_real sum = rule_sum_largest(rule, q, dq), least = dq[rule->n_used - 1]; /* dq lends room */
    bool shared = rule->renormalise && sum > LEAST_SUM;
    scale = rule->renormalise ? scale / PG_MAX(sum, LEAST_SUM) : scale;
    memset(dq, 0, (size_t)rule->n_expert * sizeof(dq[0]));
    for (int i = 0; i < n->n_rank; i++) {
        int32_t e = r->id[at + (size_t)i];
        pg_real by_weight = n->dweight[r->row_of[at + (size_t)i]];
        d[e] += q[e] * scale * by_weight;
        if (i >= rule->n_used)
            continue;
        dq[e] += scale * by_weight;
        along += q[e] * scale * by_weight;
    }
    for (int e = 0; shared && e < rule->n_expert; e++)
        dq[e] -= q[e] >= least ? along / sum : 0;
    probabilities_back(n, q, dq);
}

static void decide_row_back(struct pg_net *n, struct pg_net_route *r, int t)
{
    int n_expert = n->h->n_expert;
    const pg_real *p = pg_net_row(r->p, t, n_expert);
    pg_real *d = pg_net_row(r->dlogits, t, n_expert), miss;
    bool late = r->q;
    if (!pg_net_is_live(n, t)) {
        memset(d, 0, (size_t)n_expert * sizeof(d[0]));
        if (late)
            memset(pg_net_row(r->dq, t, n_expert), 0, (size_t)n_expert * sizeof(d[0]));
        return;
    }
    miss = (pg_real)((double)n->opt.sticky_weight * (double)n->scale / n->model->n_moe /
                     n->now->n_live);
    memcpy(d, r->d_balance, (size_t)n_expert * sizeof(d[0]));
    for (int e = 0; r->missed && e < n_expert; e++)
        d[e] += r->missed[(size_t)t * (size_t)n_expert + (size_t)e] ? miss : 0;
    if (!late)
        weights_back(n, r, t, d);
    probabilities_back(n, p, d);
    if (!late)
        return;
    late_row_back(n, r, t);
    imitate_row_back(n, r, t);
}

/* What add_early adds, back: dh, dearly, and the biases' sums. */
static void add_early_back(struct pg_net *n, const struct pg_net_span *s, int il,
                           const pg_real *dlogits)
{
    const struct pg_net_block *l = &n->block[il];
    int n_expert = n->h->n_expert, n_embd = n->h->n_embd, n_hidden = n->opt.pregate_hidden;
    for (int t = 0; t < s->n; t++)
        n->ops->add(dlogits + (size_t)t * (size_t)n_expert, s->part + n->sums.early_bias, n_expert);
    if (n_hidden == 0)
        return;
    pg_gemm_nn(&(struct pg_gemm){.by = &n->blas,
                                 .m = s->n,
                                 .n = n_hidden,
                                 .k = n_expert,
                                 .a = dlogits,
                                 .lda = n_expert,
                                 .b = pg_net_w(n, il, PG_PART_PREGATE_UP),
                                 .ldb = n_hidden,
                                 .c = pg_net_row(n->dearly, s->t0, n_hidden),
                                 .ldc = n_hidden});
    for (int t = s->t0; t < s->t0 + s->n; t++) {
        const pg_real *z = pg_net_row(l->early, t, n_hidden);
        const pg_real *act = pg_net_row(l->early_act, t, n_hidden);
        pg_real *d = pg_net_row(n->dearly, t, n_hidden);
        for (int i = 0; i < n_hidden; i++) { /* silu' = sigmoid (1 + z - silu) */
            pg_real sigmoid = z[i] == 0 ? (pg_real)0.5 : act[i] / z[i];
            d[i] *= sigmoid * (1 + z[i] - act[i]);
        }
        n->ops->add(d, s->part + n->sums.early_down_bias, n_hidden);
    }
    pg_gemm_nn(&(struct pg_gemm){.by = &n->blas,
                                 .m = s->n,
                                 .n = n_embd,
                                 .k = n_hidden,
                                 .a = pg_net_row(n->dearly, s->t0, n_hidden),
                                 .lda = n_hidden,
                                 .b = pg_net_w(n, il, PG_PART_PREGATE_DOWN),
                                 .ldb = n_embd,
                                 .beta = 1,
                                 .c = pg_net_row(n->dh, s->t0, n_embd),
                                 .ldc = n_embd});
}

void pg_net_decide_back(struct pg_net *n, const struct pg_net_span *s, int il)
{
    struct pg_net_gate gate[2];
    int moe = n->model->block[il].moe, n_expert = n->h->n_expert, n_embd = n->h->n_embd;
    bool own = pg_net_way_back(n, il) >= PG_WAY_WEIGH;
    for (int t = s->t0; own && t < s->t0 + s->n; t++)
        decide_row_back(n, &n->route[moe], t);
    pg_net_gates(n, moe, gate);
    for (int i = 0; i < 2; i++) {
        if (gate[i].to < 0 || (gate[i].to == moe && !own))
            continue;
        pg_gemm_nn(&(struct pg_gemm){.by = &n->blas,
                                     .m = s->n,
                                     .n = n_embd,
                                     .k = n_expert,
                                     .a = pg_net_row(gate[i].dlogits, s->t0, n_expert),
                                     .lda = n_expert,
                                     .b = pg_net_w(n, il, gate[i].part),
                                     .ldb = n_embd,
                                     .beta = 1,
                                     .c = pg_net_row(n->dh, s->t0, n_embd),
                                     .ldc = n_embd});
        if (gate[i].part == PG_PART_PREGATE)
            add_early_back(n, s, il, pg_net_row(gate[i].dlogits, s->t0, n_expert));
    }
}
