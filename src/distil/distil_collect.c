/* SPDX-License-Identifier: MIT
 * Pieces of text through the engine, several side by side; what its gates see and say is kept.
 */
#include "distil/distil.h"

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

/* States lie in the order of the text, whatever runs beside what: a sequence is tagged with the
 * place of its first. */
static void seen(void *user, int block, int to, const struct pg_input *h, const float *logits)
{
    struct pg_collector *c = user;
    struct pg_states *s = c->s;
    size_t n_expert = (size_t)s->n_expert;
    PG_ASSERT(to == block && h->n_tok == c->lanes.n_rows);
    for (int t = 0; t < h->n_tok; t++) {
        const struct pg_lane_row *row = &c->lanes.row[t];
        size_t at = (size_t)row->seq->tag + (size_t)row->at;
        memcpy(pg_states_logits(s, block, at), logits + (size_t)t * n_expert,
               n_expert * sizeof(float));
        if (block < s->n_gate) {
            const float *x = h->acts[PG_ACT_F32].f32 + (size_t)t * (size_t)s->n_embd;
            to_f16(&c->lanes.opt.engine->compute.k, x, pg_states_h(s, block, at), s->n_embd);
        }
    }
}

static int take_piece(void *user, struct pg_sequence *s, struct pg_err *err)
{
    struct pg_collector *c = user;
    (void)err;
    if (c->next == c->end)
        return 0;
    const struct pg_piece *p = &c->text->pieces.at[c->next++];
    pg_piece_tokens(p, &c->text->docs, c->text->bos, s->token);
    s->n = p->n;
    s->tag = c->s->n;
    c->s->n += (size_t)p->n;
    PG_ASSERT(c->s->n <= c->s->cap);
    return 1;
}

int pg_collector_open(struct pg_collector *c, struct pg_engine *e,
                      const struct pg_distil_text *text, uint64_t total, struct pg_err *err)
{
    struct pg_lanes_options o = {.engine = e,
                                 .take = take_piece,
                                 .user = c,
                                 .progress = e->opt.progress,
                                 .progress_user = e->opt.user,
                                 .what = "tokens",
                                 .total = total};
    *c = (struct pg_collector){.text = text};
    PG_TRY(pg_lanes_open(&c->lanes, &o, err));
    e->gate.tap = (struct pg_gate_tap){seen, c};
    return 0;
}

void pg_collector_close(struct pg_collector *c)
{
    pg_lanes_close(&c->lanes);
}

int pg_collect(struct pg_collector *c, struct pg_states *s, int first, int end, struct pg_err *err)
{
    c->s = s;
    c->next = first;
    c->end = end;
    s->n = 0;
    return pg_lanes_run(&c->lanes, err);
}
