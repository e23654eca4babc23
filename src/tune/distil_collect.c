/* SPDX-License-Identifier: MIT
 * Pieces of text through the engine, several side by side; what its gates see and say is kept.
 *
 * Each step runs as many whole pieces as there are sessions, each from an empty context, and thus
 * reads each expert that any of them wants once. A piece that is longer than the batch runs alone,
 * part after part.
 */
#include "tune/distil.h"

#include <stdlib.h>
#include <string.h>

/* Values beyond the largest of F16 become that: a state is a normalised vector, so they mean that
 * it has no other value of note. */
static void to_f16(const struct pg_kernels *k, const float *x, uint16_t *y, int n)
{
    enum { LARGEST = 0x7bff };
    k->to_f16(x, y, n);
    for (int i = 0; i < n; i++)
        if ((y[i] & 0x7fff) > LARGEST)
            y[i] = (uint16_t)((y[i] & 0x8000) | LARGEST);
}

static void seen(void *user, int block, int to, const struct pg_input *h, const float *logits)
{
    struct pg_collector *c = user;
    struct pg_states *s = c->s;
    size_t n_expert = (size_t)s->n_expert;
    PG_ASSERT(to == block && c->at + (size_t)h->n_tok <= s->cap);
    for (int t = 0; t < h->n_tok; t++) {
        size_t at = c->at + (size_t)t;
        memcpy(pg_states_logits(s, block, at), logits + (size_t)t * n_expert,
               n_expert * sizeof(float));
        if (block < s->n_gate) {
            const float *x = h->acts[PG_ACT_F32].f32 + (size_t)t * (size_t)s->n_embd;
            to_f16(&c->engine->compute.k, x, pg_states_h(s, block, at), s->n_embd);
        }
    }
    if (block == s->n_moe - 1)
        c->at += (size_t)h->n_tok;
}

int pg_collector_open(struct pg_collector *c, struct pg_engine *e,
                      const struct pg_distil_text *text, struct pg_err *err)
{
    size_t n = (size_t)e->opt.n_sessions;
    *c = (struct pg_collector){.engine = e, .text = text};
    c->session = pg_calloc(n, sizeof(*c->session));
    c->row = pg_calloc(n, sizeof(*c->row));
    c->token = pg_calloc(n * (size_t)e->opt.n_ctx, sizeof(*c->token));
    int rc = 0;
    if (!c->session || !c->row || !c->token)
        rc = pg_fail(err, PG_ENOMEM, "out of memory");
    for (; !rc && c->n_sessions < e->opt.n_sessions; c->n_sessions += !rc)
        rc = pg_session_open(&c->session[c->n_sessions], e, NULL, err);
    if (rc) {
        pg_collector_close(c);
        return rc;
    }
    e->gate.tap = (struct pg_gate_tap){seen, c};
    return 0;
}

void pg_collector_close(struct pg_collector *c)
{
    for (int i = 0; i < c->n_sessions; i++)
        pg_session_close(c->session[i]);
    free(c->session);
    free(c->row);
    free(c->token);
    *c = (struct pg_collector){0};
}

/* The next step's rows: whole pieces, as many as fit. Returns how many; *n_tok of how many tokens.
 */
static int fill_rows(struct pg_collector *c, int next, int end, size_t *n_tok)
{
    const struct pg_distil_text *text = c->text;
    size_t n_ctx = (size_t)c->engine->opt.n_ctx;
    int n = 0;
    *n_tok = 0;
    while (n < c->n_sessions && next + n < end) {
        const struct pg_distil_piece *p = &text->piece[next + n];
        if (*n_tok + (size_t)p->n > c->s->cap - c->s->n ||
            (n > 0 && *n_tok + (size_t)p->n > (size_t)c->engine->opt.n_batch))
            break;
        int32_t *token = c->token + (size_t)n * n_ctx;
        token[0] = text->bos;
        memcpy(token + p->opened, text->docs.token + p->from,
               (size_t)(p->n - p->opened) * sizeof(*token));
        pg_session_truncate(c->session[n], 0);
        c->row[n] = (struct pg_row){c->session[n], token, p->n};
        n++;
        *n_tok += (size_t)p->n;
    }
    return n;
}

int pg_collect(struct pg_collector *c, struct pg_states *s, int *next, int end, struct pg_err *err)
{
    struct pg_engine *e = c->engine;
    size_t n_tok;
    int n;
    c->s = s;
    c->at = s->n = 0;
    while ((n = fill_rows(c, *next, end, &n_tok)) > 0) {
        if (n == 1)
            PG_TRY(pg_session_eval(c->row[0].session, c->row[0].tokens, n_tok, NULL, err));
        else
            PG_TRY(pg_step_run(e, c->row, n, false, NULL, err));
        s->n += n_tok;
        *next += n;
        c->done += n_tok;
        PG_ASSERT(c->at == s->n);
        if (e->opt.progress && e->opt.progress(e->opt.user, "tokens", c->done, c->total)) {
            return pg_fail(err, PG_ECANCELLED, "cancelled after %llu of %llu tokens",
                           (unsigned long long)c->done, (unsigned long long)c->total);
        }
    }
    return 0;
}
