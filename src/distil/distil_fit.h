/* SPDX-License-Identifier: MIT
 * Pre-gates fitted to states and to what routers said of them.
 */
#ifndef PG_DISTIL_DISTIL_FIT_H
#define PG_DISTIL_DISTIL_FIT_H

#include "base/arena.h"
#include "base/pool.h"
#include "base/random.h"
#include "gate/gate.h"
#include "model/model.h"

/* ------------------------------------------------------------------ states ------------------ */

/* What the gates of some tokens see and what the routers say of them, in one stack, whose MoE
 * blocks are counted from 0. */
struct pg_states {
    int n_moe, n_gate, n_embd, n_expert; /* gates: of MoE blocks [0, n_gate) */
    size_t cap, n;                       /* tokens */
    uint16_t *h;                         /* F16 [n_gate][cap][n_embd] normalised inputs */
    float *logits;                       /* [n_moe][cap][n_expert] of the routers */
};

static inline uint64_t pg_states_bytes(const struct pg_states *s, uint64_t n_tokens)
{
    return n_tokens * ((uint64_t)s->n_gate * (uint64_t)s->n_embd * sizeof(uint16_t) +
                       (uint64_t)s->n_moe * (uint64_t)s->n_expert * sizeof(float));
}
static inline uint16_t *pg_states_h(const struct pg_states *s, int gate, size_t token)
{
    return s->h + ((size_t)gate * s->cap + token) * (size_t)s->n_embd;
}
static inline float *pg_states_logits(const struct pg_states *s, int moe, size_t token)
{
    return s->logits + ((size_t)moe * s->cap + token) * (size_t)s->n_expert;
}

/* Streams of random numbers; those of passes follow the last. */
enum { PG_STREAM_DOCS, PG_STREAM_HIDDEN, PG_STREAM_PASS };

enum { PG_MINIBATCH = 256 };

/* A stack, through which other tokens go than through another. */
struct pg_fit_stack {
    struct pg_span moe; /* its MoE blocks */
    size_t max_tokens;  /* of a round */
    int n_repeats;      /* how often a pass goes over its states; 0 = once */
};

struct pg_fit_options {
    struct pg_gate_rule rule;
    int n_embd, n_hidden, level, n_threads;
    struct pg_fit_stack stack[PG_STACKS];
    int n_stacks, most;     /* passes are counted in minibatches of that one's states */
    bool decides;           /* else it hints */
    int n_rounds, n_passes; /* over the text, and over each round's states */
    uint64_t seed;
    const struct pg_kernels *k;
    struct pg_pool *pool;
    int (*progress)(void *user, const char *what, uint64_t done, uint64_t total);
    void *user;
};

/* One pre-gate under way. The four arrays are [n_values]; struct pg_fit_parts says what is where.
 */
struct pg_fit_gate {
    float *w, *m, *v;                   /* weights, and AdamW's two moments of the gradient */
    float *best;                        /* the weights with the least loss on held-out text */
    float rate;                         /* of the matrices that are multiplied with the state */
    double score, best_score;           /* less is better: last, and of the best weights */
    double loss, first_loss, best_loss; /* a token's: last, at the start, of the best weights */
    uint32_t n_steps, n_since;          /* in all; passes since the best */
    bool stopped;
    /* Of the weights it started from, and of the best when last asked. */
    struct pg_agree_block before, agree;
};

struct pg_fit {
    struct pg_fit_options opt;
    int n_gate;
    size_t n_values;
    struct pg_fit_gate *gate;       /* [n_gate] */
    int round, pass, minibatch;     /* where it is; the next to be done */
    int32_t *order[PG_STACKS];      /* [max_tokens] of this pass */
    struct pg_fit_scratch *scratch; /* [n_threads] */
};

/* Everything that a fit takes; with a measuring arena nothing is written outside *f. */
void pg_fit_carve(struct pg_fit *f, const struct pg_fit_options *opt, struct pg_arena *a);
/* Gates are numbered through the stacks. */
struct pg_fit_place {
    int stack, block; /* MoE block of the stack whose state it reads */
    int moe;          /* the same of all */
};
struct pg_fit_place pg_fit_place(const struct pg_fit_options *o, int gate);
/* Weights of a pre-gate to start from: table [n_expert, n_embd], and a hidden
 * layer that says nothing yet, its weights drawn with a standard deviation of hidden_scale, which
 * is 1 over the norm of a state. */
void pg_fit_start(struct pg_fit *f, int gate, const float *table, float hidden_scale);
/* States are [n_stacks]. Where the fit begins. The first half of held-out states is what the best
 * weights are chosen by, the second half is what agreement is measured on. */
void pg_fit_begin(struct pg_fit *f, const struct pg_states *held);
/* The passes of a round that are not done yet. PG_ECANCELLED leaves the fit where it is, and it
 * can be gone on with. */
int pg_fit_round(struct pg_fit *f, const struct pg_states *train, const struct pg_states *held,
                 struct pg_err *err);
bool pg_fit_done(const struct pg_fit *f);
/* How the experts that the best weights name agree with the router's; into each gate's `agree`. */
void pg_fit_agree(struct pg_fit *f, const struct pg_states *held);
/* The best weights; they live with the fit. */
struct pg_pregate pg_fit_pregate(const struct pg_fit *f, int gate);

/* ------------------------------------------------------------------ one gate ---------------- */

/* First values of W, D, U, b, c (distil_gate.c); `end` is how many there are. */
struct pg_fit_parts {
    size_t w, d, u, b, c, end;
};
struct pg_fit_parts pg_fit_parts(const struct pg_fit_options *o);

/* Of one thread, for one minibatch of at most PG_MINIBATCH rows. */
struct pg_fit_scratch {
    float *x, *xt;  /* [rows, n_embd] inputs, and transposed */
    float *wide;    /* [rows, n_expert + n_hidden] W h beside D h */
    float *u, *a;   /* [rows, n_hidden] */
    float *da;      /* [rows, n_hidden] derivatives by a, then by u */
    float *ones;    /* [n_hidden] */
    float *z;       /* [rows, n_expert] logits */
    float *dz;      /* the loss's derivatives by them */
    float *dwide;   /* [n_expert + n_hidden, rows] those by z and by u, transposed */
    float *at;      /* [n_hidden, rows] a transposed */
    float *ut;      /* [n_hidden, n_expert] U transposed */
    float *g;       /* [n_values] gradient */
    float *p;       /* [n_expert] what is aimed at */
    int32_t *id[2]; /* [n_used] chosen by router and pre-gate */
    float *weight;  /* [n_used] */
};
struct pg_fit_scratch pg_fit_scratch_carve(const struct pg_fit_options *o, struct pg_arena *a);

/* Tokens order[from …], or, without an order, from …; n of them. */
struct pg_fit_batch {
    const struct pg_states *states;
    const int32_t *order;
    size_t from;
    int n;
};
/* Of the gate that reads `block` of the states' stack: s->z of the batch with the weights w. */
void pg_fit_logits(const struct pg_fit *f, int block, const float *w, const struct pg_fit_batch *b,
                   const struct pg_fit_scratch *s);
/* The sum of the tokens' losses; s->dz their derivatives. */
double pg_fit_loss(const struct pg_fit *f, int block, const float *w, const struct pg_fit_batch *b,
                   const struct pg_fit_scratch *s);
/* The same, and s->g the mean of their gradients. */
double pg_fit_gradient(const struct pg_fit *f, int block, const float *w,
                       const struct pg_fit_batch *b, const struct pg_fit_scratch *s);
/* Loss of one token whose gate says z and should say p, n values; dz is its derivative by z, in
 * memory of its own. */
double pg_fit_divergence(const float *p, const float *z, int n, bool each_a_coin, float *dz);

#endif
