/* SPDX-License-Identifier: MIT
 * Pieces of text through the engine, several side by side; what its gates see and say is kept.
 */
#include "distil/distil.h"

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

static size_t *first_of(struct pg_collector *c, int lane)
{
    return c->first + (size_t)lane * PG_STACKS;
}

/* States lie in the order of the text, whatever runs beside what. */
static void seen(void *user, int block, int to, const struct pg_input *h, const float *logits)
{
    struct pg_collector *c = user;
    const struct pg_engine *e = c->lanes.opt.engine;
    const int stack = block >= e->model.moe_of[0].first + e->model.moe_of[0].n;
    struct pg_states *s = &c->s[stack];
    const int own = block - e->model.moe_of[stack].first;
    size_t n_expert = (size_t)s->n_expert;
    PG_ASSERT(to == block && h->n_tok == c->lanes.n_rows);
    for (int t = 0; t < h->n_tok && s->n_gate > 0; t++) {
        const struct pg_lane_row *row = &c->lanes.row[t];
        size_t at = first_of(c, row->seq->lane)[stack] + (size_t)row->at;
        memcpy(pg_states_logits(s, own, at), logits + (size_t)t * n_expert,
               n_expert * sizeof(float));
        if (own < s->n_gate) {
            const float *x = h->acts[PG_ACT_F32].f32 + (size_t)t * (size_t)s->n_embd;
            to_f16(&e->compute.k, x, pg_states_h(s, own, at), s->n_embd);
        }
    }
}

/* Room for the states of n tokens of a lane. */
static void take_room(struct pg_collector *c, int lane, int stack, int n)
{
    struct pg_states *s = &c->s[stack];
    first_of(c, lane)[stack] = s->n;
    s->n += s->n_gate > 0 ? (size_t)n : 0;
    PG_ASSERT(s->n <= s->cap);
}

static void put_piece(struct pg_collector *c, struct pg_sequence *s, int i)
{
    const struct pg_piece *p = &c->text->pieces.at[i];
    pg_piece_tokens(p, &c->text->docs, c->text->bos, s->token);
    s->n = p->n;
    take_room(c, s->lane, 0, s->n);
}

/* A target's last token is not run, but what the timeline begins with. */
static void put_pair(struct pg_collector *c, struct pg_sequence *s, int i)
{
    const struct pg_pair *p = &c->text->pairs.at[i];
    const int32_t *token = c->text->pairs.token;
    memcpy(s->source, token + p->source, (size_t)p->n_source * sizeof(*token));
    memcpy(s->token + 1, token + p->target, (size_t)(p->n_target - 1) * sizeof(*token));
    s->n_source = p->n_source;
    s->n = p->n_target;
    take_room(c, s->lane, 0, s->n_source);
    take_room(c, s->lane, 1, s->n);
}

static int take_next(void *user, struct pg_sequence *s, struct pg_err *err)
{
    struct pg_collector *c = user;
    (void)err;
    if (c->next == c->end)
        return 0;
    if (c->text->n_stacks > 1)
        put_pair(c, s, c->next++);
    else
        put_piece(c, s, c->next++);
    return 1;
}

int pg_collector_open(struct pg_collector *c, struct pg_engine *e,
                      const struct pg_distil_text *text, uint64_t total, struct pg_err *err)
{
    struct pg_lanes_options o = {.engine = e,
                                 .take = take_next,
                                 .user = c,
                                 .progress = e->opt.progress,
                                 .progress_user = e->opt.user,
                                 .what = "tokens",
                                 .total = total};
    *c = (struct pg_collector){.text = text};
    PG_TRY(pg_lanes_open(&c->lanes, &o, err));
    c->first = pg_calloc((size_t)c->lanes.n_lanes * PG_STACKS, sizeof(*c->first));
    if (!c->first) {
        pg_collector_close(c);
        return pg_fail(err, PG_ENOMEM, "out of memory");
    }
    e->gate.tap = (struct pg_gate_tap){seen, c};
    return 0;
}

void pg_collector_close(struct pg_collector *c)
{
    pg_lanes_close(&c->lanes);
    free(c->first);
    c->first = NULL;
}

int pg_collect(struct pg_collector *c, struct pg_states *s, int first, int end, struct pg_err *err)
{
    c->s = s;
    c->next = first;
    c->end = end;
    for (int i = 0; i < c->text->n_stacks; i++)
        s[i].n = 0;
    return pg_lanes_run(&c->lanes, err);
}
