/* SPDX-License-Identifier: MIT
 * Beam search: the N most probable texts so far go on side by side, one step for all of them.
 *
 * A text's score is the sum of its tokens' log probabilities, divided by their number, so that a
 * long text does not lose to a short one. The search ends when N texts have ended and none that
 * goes on could still be better than the worst of them if it ended now: the rule, and the order
 * among equals, of Hugging Face's generate(num_beams=N, length_penalty=1, early_stopping=False).
 */
#include "cli.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct beam {
    pg_session *session; /* NULL: has ended */
    int32_t *ids;        /* [n_predict] */
    int n;
    double sum;
};

struct candidate {
    int beam;
    int32_t id;
    double sum;
};

struct search {
    const struct cli_beams *opt;
    const pg_vocab *vocab;
    struct beam *going, *next, *ended; /* [n_beams] each */
    int n_going, n_ended;
    bool full;              /* the context */
    struct candidate *best; /* [2 * n_beams], the best first */
    int n_best, n_vocab;
};

static double score(const struct beam *b)
{
    return b->sum / b->n;
}

/* ---------------------------------------------------------------- memory -------------------- */

static int beams_make(struct beam **out, const struct cli_beams *opt)
{
    *out = calloc((size_t)opt->n_beams, sizeof(**out));
    for (int i = 0; *out && i < opt->n_beams; i++) {
        (*out)[i].ids = malloc((size_t)opt->n_predict * sizeof(int32_t));
        if (!(*out)[i].ids)
            return -1;
    }
    return *out ? 0 : -1;
}

static void beams_free(struct beam *b, int n)
{
    for (int i = 0; b && i < n; i++)
        free(b[i].ids);
    free(b);
}

static int search_open(struct search *s, struct pg_err *err)
{
    const int n = s->opt->n_beams;
    s->best = malloc(2 * (size_t)n * sizeof(*s->best));
    if (!s->best || beams_make(&s->going, s->opt) || beams_make(&s->next, s->opt) ||
        beams_make(&s->ended, s->opt))
        return cli_fail(err, PG_ENOMEM, "no memory for %d beams of %d tokens", n,
                        s->opt->n_predict);
    s->going[0].session = s->opt->session;
    s->n_going = 1;
    for (int i = 1; i < n; i++) {
        const int rc = pg_session_open(&s->going[i].session, s->opt->engine, NULL, err);
        if (rc)
            return rc;
    }
    return 0;
}

static void search_close(struct search *s)
{
    for (int i = 0; s->going && i < s->opt->n_beams; i++)
        if (s->going[i].session != s->opt->session)
            pg_session_close(s->going[i].session);
    beams_free(s->going, s->opt->n_beams);
    beams_free(s->next, s->opt->n_beams);
    beams_free(s->ended, s->opt->n_beams);
    free(s->best);
}

/* ---------------------------------------------------------------- one step ------------------ */

static void put_candidate(struct search *s, struct candidate c)
{
    const int most = 2 * s->opt->n_beams;
    if (s->n_best == most && c.sum <= s->best[most - 1].sum)
        return;
    int at = s->n_best < most ? s->n_best++ : most - 1;
    for (; at > 0 && s->best[at - 1].sum < c.sum; at--)
        s->best[at] = s->best[at - 1];
    s->best[at] = c;
}

/* Twice as many continuations as there are beams: so many go on even if each beam ends once. */
static void find_best(struct search *s)
{
    s->n_best = 0;
    for (int i = 0; i < s->n_going; i++) {
        const float *logits = pg_session_logits(s->going[i].session);
        double most = (double)logits[0], sum = 0;
        for (int id = 1; id < s->n_vocab; id++)
            most = fmax(most, (double)logits[id]);
        for (int id = 0; id < s->n_vocab; id++)
            sum += exp((double)logits[id] - most);
        const double all = s->going[i].sum - most - log(sum);
        for (int id = 0; id < s->n_vocab; id++)
            put_candidate(s, (struct candidate){i, id, all + (double)logits[id]});
    }
}

static void take(struct beam *to, const struct beam *from, const struct candidate *c)
{
    memcpy(to->ids, from->ids, (size_t)from->n * sizeof(*to->ids));
    to->n = from->n;
    to->sum = c->sum;
    to->ids[to->n++] = c->id;
}

/* Among the n_beams best that have ended. */
static void keep_ended(struct search *s, const struct candidate *c)
{
    const struct beam *from = &s->going[c->beam];
    int at = s->n_ended;
    if (at == s->opt->n_beams) {
        at = 0;
        for (int i = 1; i < s->n_ended; i++)
            if (score(&s->ended[i]) < score(&s->ended[at]))
                at = i;
        if (c->sum / (from->n + 1) <= score(&s->ended[at]))
            return;
    } else {
        s->n_ended++;
    }
    take(&s->ended[at], from, c);
}

/* The texts that go on, and from which each did. */
static int branch(struct search *s, int *parent)
{
    int n = 0;
    for (int i = 0; i < s->n_best && n < s->opt->n_beams; i++) {
        const struct candidate *c = &s->best[i];
        if (!s->opt->ignore_eos && pg_vocab_is_end(s->vocab, c->id)) {
            if (i < s->opt->n_beams)
                keep_ended(s, c);
            continue;
        }
        take(&s->next[n], &s->going[c->beam], c);
        parent[n++] = c->beam;
    }
    return n;
}

/* A session follows the first text that goes on from its own, and is copied for the others into
 * those from which none does. */
static int hand_on(struct search *s, const int *parent, int n, struct pg_err *err)
{
    bool used[CLI_BEAMS_MAX] = {false};
    int spare = 0, rc = 0;
    for (int i = 0; i < s->opt->n_beams; i++) {
        const bool first = i < n && !used[parent[i]];
        s->next[i].session = first ? s->going[parent[i]].session : NULL;
        if (first)
            used[parent[i]] = true;
    }
    for (int i = 0; i < s->opt->n_beams; i++) {
        if (s->next[i].session)
            continue;
        while (used[spare])
            spare++;
        used[spare] = true;
        s->next[i].session = s->going[spare].session;
        if (i < n && !rc)
            rc = pg_session_copy(s->next[i].session, s->going[parent[i]].session, err);
    }
    struct beam *old = s->going;
    s->going = s->next;
    s->next = old;
    s->n_going = n;
    return rc;
}

static int step(struct search *s, struct pg_err *err)
{
    struct pg_row rows[CLI_BEAMS_MAX];
    for (int i = 0; i < s->n_going; i++) {
        const struct beam *b = &s->going[i];
        rows[i] = (struct pg_row){.session = b->session, .tokens = &b->ids[b->n - 1], .n = 1};
    }
    return pg_step(s->opt->engine, rows, s->n_going, err);
}

/* ---------------------------------------------------------------- the search ---------------- */

static bool is_over(const struct search *s)
{
    if (s->n_going == 0)
        return true;
    if (s->n_ended < s->opt->n_beams)
        return false;
    double worst = score(&s->ended[0]);
    for (int i = 1; i < s->n_ended; i++)
        worst = fmin(worst, score(&s->ended[i]));
    return score(&s->going[0]) <= worst;
}

static int search(struct search *s, struct pg_err *err)
{
    for (int done = 0; done < s->opt->n_predict; done++) {
        if (cli_interrupted())
            return cli_fail(err, PG_ECANCELLED, "interrupted");
        int parent[CLI_BEAMS_MAX];
        find_best(s);
        int rc = hand_on(s, parent, branch(s, parent), err);
        if (rc || is_over(s) || done + 1 == s->opt->n_predict)
            return rc;
        rc = step(s, err);
        if (rc == PG_ECONTEXT) {
            s->full = true;
            return 0;
        }
        if (rc)
            return rc;
        cli_progress_step(s->opt->progress, "beams", (uint64_t)done + 1,
                          (uint64_t)s->opt->n_predict);
    }
    return 0;
}

/* The best of those that have ended; those that go on count where fewer than the beams have. */
static const struct beam *winner(const struct search *s)
{
    const struct beam *best = NULL;
    for (int i = 0; i < s->n_ended; i++)
        if (!best || score(&s->ended[i]) > score(best))
            best = &s->ended[i];
    for (int i = 0; i < s->n_going && s->n_ended < s->opt->n_beams; i++)
        if (!best || score(&s->going[i]) > score(best))
            best = &s->going[i];
    return best;
}

int cli_beams_run(const struct cli_beams *opt, struct cli_beams_found *out, struct pg_err *err)
{
    struct search s = {.opt = opt, .vocab = pg_engine_vocab(opt->engine)};
    struct pg_model_info info;
    pg_engine_info(opt->engine, &info);
    s.n_vocab = info.n_vocab;
    int rc = search_open(&s, err);
    rc = rc ? rc : search(&s, err);
    cli_progress_clear();
    if (!rc) {
        const struct beam *b = winner(&s);
        const bool ended = !opt->ignore_eos && pg_vocab_is_end(s.vocab, b->ids[b->n - 1]);
        out->n = (size_t)(ended ? b->n - 1 : b->n);
        out->score = score(b);
        out->ended = ended;
        out->full = s.full && !ended;
        memcpy(out->ids, b->ids, out->n * sizeof(*out->ids));
    }
    search_close(&s);
    return rc;
}
