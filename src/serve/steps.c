/* SPDX-License-Identifier: MIT */
#include "serve/scheduler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static struct pg_task *task_of(const struct pg_sequence *s)
{
    return (struct pg_task *)(uintptr_t)s->tag;
}

/* ------------------------------------------------------------------ room -------------------- */

/* The text of a lane is to be saved; of too many the oldest is forgotten. */
static void keep_for_disk(pg_scheduler *s, struct pg_task *t)
{
    const int n = t->seq->session->n_tokens;
    if (s->disk.folder < 0 || n < PG_DISK_LEAST)
        return;
    if (s->n_ended == PG_TO_SAVE) {
        free(s->ended[0].tokens);
        memmove(s->ended, s->ended + 1, sizeof(s->ended) - sizeof(s->ended[0]));
        s->n_ended--;
    }
    s->ended[s->n_ended++] = (struct pg_ended){t->tokens, n};
    t->tokens = NULL;
}

/* Its lane and its room are free again; its pages stay until they are needed. */
static void leave_lane(struct pg_task *t)
{
    pg_session *session = t->seq->session;
    t->seeded = session->seeded;
    t->random = session->random;
    pg_session_truncate(session, 0);
    pg_session_reserve(session, 0);
    t->seq = NULL;
}

static void leave_list(pg_scheduler *s, struct pg_task *t)
{
    pthread_mutex_lock(&s->lock);
    pg_task_unlink(&s->running, t);
    pthread_mutex_unlock(&s->lock);
}

/* From running to waiting, before all others. */
static void wait_again(pg_scheduler *s, struct pg_task *t)
{
    t->waits_again = true;
    leave_lane(t);
    pthread_mutex_lock(&s->lock);
    pg_task_unlink(&s->running, t);
    pg_task_link_first(&s->waiting, t);
    s->state.n_preempted++;
    pthread_mutex_unlock(&s->lock);
}

/* Only this thread changes the list, so it may be read without the lock. */
static struct pg_task *youngest(const pg_scheduler *s)
{
    struct pg_task *last = s->running.first;
    for (struct pg_task *t = last; t; t = t->next)
        last = t->order > last->order ? t : last;
    return last;
}

/* Room for n tokens of t, and for some more where there is. */
static bool grow(const struct pg_task *t, pg_session *session, int n)
{
    const int more = PG_MIN(t->n_ctx, n + PG_ROOM_STEP);
    return pg_kv_pages_of(n) <= session->kv.n_reserved || pg_session_reserve(session, more) ||
           pg_session_reserve(session, n);
}

/* The same, and the youngest give way; false when that is t itself. */
static bool grow_or_push(pg_scheduler *s, struct pg_task *t, pg_session *session, int n)
{
    while (!grow(t, session, n)) {
        struct pg_task *last = youngest(s);
        if (last == t)
            return false;
        last->n = last->seq->n;
        pg_lanes_drop(&s->lanes, last->seq);
        wait_again(s, last);
    }
    return true;
}

/* ------------------------------------------------------------------ taking ------------------ */

/* The next that waits, if there is room for it. */
static struct pg_task *admit(pg_scheduler *s, pg_session *session)
{
    pthread_mutex_lock(&s->lock);
    struct pg_task *t = pg_scheduler_next(s);
    if (t && !grow(t, session, t->n))
        t = NULL;
    if (t) {
        pg_task_unlink(&s->waiting, t);
        pg_task_link_last(&s->running, t);
        t->order = t->waits_again ? t->order : ++s->next_order;
    }
    pthread_mutex_unlock(&s->lock);
    return t;
}

/* What the pool has of the text, or a file if that has more. */
static int reuse(pg_scheduler *s, const struct pg_task *t, pg_session *session)
{
    const int most = t->n - 1, n = (int)pg_session_reuse(session, t->tokens, (size_t)most);
    if (s->disk.folder < 0)
        return n;
    const int with_disk = pg_disk_load(&s->disk, session, t->tokens, most);
    pthread_mutex_lock(&s->lock);
    s->state.n_restored += (uint64_t)PG_MAX(0, with_disk - n);
    pthread_mutex_unlock(&s->lock);
    return with_disk;
}

int pg_scheduler_take(void *user, struct pg_sequence *seq, struct pg_err *err)
{
    pg_scheduler *s = user;
    (void)err;
    struct pg_task *t = admit(s, seq->session);
    if (!t)
        return 0;
    seq->token = t->tokens;
    seq->n = t->n;
    seq->how = &t->how;
    seq->tag = (uintptr_t)t;
    seq->session->seeded = t->seeded;
    seq->session->random = t->random;
    if (!t->r.no_reuse || t->waits_again)
        seq->n_run = reuse(s, t, seq->session);
    if (!t->waits_again) {
        t->n_reused = seq->n_run;
        t->began_ns = pg_now_ns();
        pthread_mutex_lock(&s->lock);
        s->state.n_reused += (uint64_t)seq->n_run;
        pthread_mutex_unlock(&s->lock);
    }
    t->n_done = PG_MAX(t->n_done, PG_MIN(seq->n_run, (int)t->r.n_tokens));
    t->seq = seq;
    t->stop = PG_STOP_CONTEXT; /* unless something else ends it */
    return 1;
}

/* ------------------------------------------------------------------ prompts of a step ------- */

/* Positions that the tokens of the step have looked at. */
static double looked_at(const struct pg_lanes *l)
{
    double sum = 0;
    for (int i = 0; i < l->n_parts; i++)
        sum += l->part[i].n * (l->of[i]->n_run - (l->part[i].n - 1) / 2.0);
    return sum;
}

static bool reads_prompt(const struct pg_task *t)
{
    return t->seq && t->seq->runs && t->seq->n_run < t->seq->n_given;
}

/* The lock is held. */
static bool is_any_cancelled(const pg_scheduler *s)
{
    const struct pg_task *t = s->running.first;
    while (t && !t->cancelled)
        t = t->next;
    return t;
}

/* Tokens of prompts for a step of several requests: what keeps the bound, or all that there are
 * when they fit in one step and nobody writes. */
static int chunk_of_many(const struct pg_scheduler *s)
{
    int left = 0, furthest = 0;
    bool writes = false;
    for (const struct pg_task *t = s->running.first; t; t = t->next) {
        const bool reads = reads_prompt(t);
        writes |= !reads;
        left += reads ? t->seq->n_given - t->seq->n_run : 0;
        furthest = reads ? PG_MAX(furthest, t->seq->n_run) : furthest;
    }
    if (!writes && left <= s->engine->opt.n_batch)
        return s->engine->opt.n_batch;
    return pg_pace_chunk(&s->pace, (double)s->opt.itl_ms * 1e-3, furthest);
}

/* What a step may take of prompts; when there is but one request all there is room for, unless that
 * was interrupted just now: who comes and goes could keep the one from ever getting on. An
 * interrupt of the step before is over, but not one for who was cancelled since. */
static void begin_prompts(pg_scheduler *s)
{
    pthread_mutex_lock(&s->lock);
    const bool greedy = s->running.n == 1 && s->waiting.n == 0 && !s->was_interrupted &&
                        reads_prompt(s->running.first);
    s->greedy_now = greedy;
    atomic_store_explicit(&s->engine->interrupted, is_any_cancelled(s), memory_order_relaxed);
    pthread_mutex_unlock(&s->lock);
    s->n_prompt_left = greedy ? s->engine->opt.n_batch : chunk_of_many(s);
    s->n_prompt_taken = 0;
    s->n_turns++;
}

/* Of those that are not in this step yet the one that began first, or that has had the least. */
static struct pg_task *next_reader(const pg_scheduler *s, bool first)
{
    struct pg_task *best = NULL;
    for (struct pg_task *t = s->running.first; t; t = t->next) {
        if (!reads_prompt(t) || t->turn == s->n_turns)
            continue;
        if (!best || (first ? t->order < best->order : t->seq->n_run < best->seq->n_run))
            best = t;
    }
    return best;
}

/* Half of what a step may take goes to the prompt that has had the least, so that a short one is
 * not kept by a long one; the rest to the one that began first, so that all get to their end. */
struct pg_sequence *pg_scheduler_prompt(void *user, int i, int *n_most)
{
    pg_scheduler *s = user;
    if (i == 0)
        begin_prompts(s);
    struct pg_task *t = s->n_prompt_left > 0 ? next_reader(s, i == 1) : NULL;
    if (!t)
        return NULL;
    t->turn = s->n_turns;
    const int half = i == 0 && next_reader(s, true) ? (s->n_prompt_left + 1) / 2 : s->n_prompt_left;
    *n_most = PG_MIN(half, t->seq->n_given - t->seq->n_run);
    s->n_prompt_left -= *n_most;
    s->n_prompt_taken += *n_most;
    return t->seq;
}

/* ------------------------------------------------------------------ what becomes of it ------ */

void pg_scheduler_stepped(void *user)
{
    pg_scheduler *s = user;
    const struct pg_lanes *l = &s->lanes;
    const struct pg_store_stats before = s->before;
    if (s->engine->store)
        pg_store_stats(s->engine->store, &s->before);
    const uint64_t bytes = s->before.bytes_read - before.bytes_read;
    for (int i = 0; i < l->n_parts; i++) {
        if (!l->of[i]->runs) /* it has failed */
            continue;
        struct pg_task *t = task_of(l->of[i]);
        const int n = (int)t->r.n_tokens, done = PG_MIN(l->of[i]->n_run, n);
        t->bytes_read += bytes * (uint64_t)l->part[i].n / (uint64_t)l->n_rows;
        const bool more = done > t->n_done;
        if (!more) /* who gave way comes a part of its way again */
            continue;
        t->n_done = done;
        if (t->r.progress)
            t->r.progress(t->r.user, done, n);
    }
}

/* Whether the request goes on after the token, which `seq` does not have yet. */
static bool goes_on(pg_scheduler *s, struct pg_task *t, const struct pg_sequence *seq)
{
    if (t->r.n_predict && t->n_predicted == t->r.n_predict)
        t->stop = PG_STOP_LENGTH;
    else if (t->cancelled)
        t->stop = PG_STOP_CANCELLED;
    else if (seq->n < t->n_ctx)
        return grow_or_push(s, t, seq->session, seq->n + 1);
    return false;
}

int pg_scheduler_token(void *user, const struct pg_sequence *seq, int32_t token, struct pg_err *err)
{
    pg_scheduler *s = user;
    struct pg_task *t = task_of(seq);
    struct pg_token out = {.id = token, .logprob = NAN};
    (void)err;
    if (!t->first_ns)
        t->first_ns = pg_now_ns();
    if ((!t->r.ignore_eos || t->how.matcher) && pg_vocab_is_end(s->engine->vocab, token)) {
        t->stop = PG_STOP_END;
        return 0;
    }
    if (t->r.logprobs) {
        out.n_top = t->r.n_top;
        out.top_id = s->top_id;
        out.top_logprob = s->top_logprob;
        pg_logprobs(seq->session->logits, s->engine->model.h.n_vocab, &out, s->top_id,
                    s->top_logprob);
    }
    t->n_predicted++;
    s->n_written++;
    if (t->r.token && t->r.token(t->r.user, &out)) {
        t->stop = PG_STOP_CALLER;
        return 0;
    }
    if (t->how.matcher && pg_matcher_must_end(t->how.matcher)) {
        t->stop = PG_STOP_END; /* without a step for the end token */
        return 0;
    }
    if (!goes_on(s, t, seq)) {
        const bool waits = t->stop == PG_STOP_CONTEXT && seq->n < t->n_ctx;
        t->n = seq->n;
        if (waits)
            t->tokens[t->n++] = token;
        t->waits_again = waits;
        return 0;
    }
    return 1;
}

int pg_scheduler_end(void *user, const struct pg_sequence *seq, struct pg_err *err)
{
    pg_scheduler *s = user;
    struct pg_task *t = task_of(seq);
    (void)err;
    if (t->waits_again && t->stop == PG_STOP_CONTEXT) {
        wait_again(s, t);
        return 0;
    }
    keep_for_disk(s, t);
    leave_lane(t);
    leave_list(s, t);
    pg_task_end(s, t);
    return 0;
}

void pg_scheduler_failed(void *user, const struct pg_sequence *seq, const struct pg_err *err)
{
    struct pg_task *t = task_of(seq);
    t->stop = PG_STOP_ERROR;
    t->err = *err;
    leave_lane(t);
    leave_list(user, t);
    pg_task_end(user, t);
}

/* ------------------------------------------------------------------ files ------------------- */

static bool somebody_waits(void *user)
{
    pg_scheduler *s = user;
    pthread_mutex_lock(&s->lock);
    const bool waits = s->waiting.first;
    pthread_mutex_unlock(&s->lock);
    return waits;
}

/* PG_ECANCELLED: not done, somebody waits. */
static int save_one(pg_scheduler *s, const struct pg_ended *x, struct pg_err *err)
{
    pg_session *session = s->lanes.lane[0].session;
    pg_session_truncate(session, 0);
    PG_ASSERT(pg_session_reserve(session, x->n)); /* nothing runs that has room */
    pg_session_reuse(session, x->tokens, (size_t)x->n);
    const int rc = pg_disk_save(&s->disk, session, somebody_waits, s, err);
    pg_session_truncate(session, 0);
    pg_session_reserve(session, 0);
    return rc;
}

void pg_scheduler_save(pg_scheduler *s)
{
    struct pg_err err;
    while (s->n_ended > 0 && !somebody_waits(s)) {
        const struct pg_ended x = s->ended[s->n_ended - 1]; /* the youngest: its pages are there */
        const int rc = save_one(s, &x, &err);
        if (rc == PG_ECANCELLED)
            return;
        if (rc)
            pg_say(PG_LOG_OF(&s->opt), PG_LOG_WARN, "a context was not kept: %s", err.text);
        free(x.tokens);
        s->n_ended--;
    }
}

/* ------------------------------------------------------------------ a step ------------------ */

static struct pg_task *next_cancelled(pg_scheduler *s, bool *runs)
{
    struct pg_task *t;
    pthread_mutex_lock(&s->lock);
    for (t = s->running.first; t && !t->cancelled;)
        t = t->next;
    *runs = t;
    for (t = t ? t : s->waiting.first; t && !t->cancelled;)
        t = t->next;
    if (t)
        pg_task_unlink(*runs ? &s->running : &s->waiting, t);
    pthread_mutex_unlock(&s->lock);
    return t;
}

static void end_cancelled(pg_scheduler *s)
{
    struct pg_task *t;
    bool runs;
    while ((t = next_cancelled(s, &runs))) {
        if (runs) {
            pg_lanes_drop(&s->lanes, t->seq);
            leave_lane(t);
        }
        t->stop = PG_STOP_CANCELLED;
        pg_task_end(s, t);
    }
}

static void pace_step(pg_scheduler *s, uint64_t begin)
{
    const double seconds = (double)(pg_now_ns() - begin) * 1e-9;
    const double attend = (double)(s->engine->forward.attend_ns - s->attend_ns) * 1e-9;
    pg_pace_learn(&s->pace, s->n_prompt_taken, seconds - attend, attend, looked_at(&s->lanes));
}

int pg_scheduler_step(pg_scheduler *s, int *n_rows, struct pg_err *err)
{
    end_cancelled(s);
    const uint64_t begin = pg_now_ns();
    s->attend_ns = s->engine->forward.attend_ns;
    const int rc = pg_lanes_step(&s->lanes, n_rows, err);
    s->greedy_now = false;
    s->was_interrupted = rc == PG_ECANCELLED;
    if (!rc && s->n_prompt_taken > 0 && *n_rows > 0)
        pace_step(s, begin);
    pthread_mutex_lock(&s->lock);
    s->state.n_steps += *n_rows > 0;
    s->state.n_predicted = s->n_written;
    const bool idle = !s->waiting.first && !s->running.first;
    pthread_mutex_unlock(&s->lock);
    pg_scheduler_show(s, idle);
    return rc;
}
