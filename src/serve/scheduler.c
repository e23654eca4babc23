/* SPDX-License-Identifier: MIT */
#include "serve/scheduler.h"

#include "base/log.h"
#include "base/ranges.h"

#include <stdlib.h>
#include <string.h>

enum { DEFAULT_WAITING = 64, DEFAULT_ITL_MS = 200 };
#define DEFAULT_CACHE ((uint64_t)4 << 30)
#define DISK_BYTES    ((uint64_t)10 << 20) /* its list, and what a file is written through */

/* ------------------------------------------------------------------ lists ------------------- */

void pg_task_link_last(struct pg_task_list *list, struct pg_task *t)
{
    struct pg_task **at = &list->first;
    while (*at)
        at = &(*at)->next;
    t->next = NULL;
    *at = t;
    list->n++;
}

void pg_task_link_first(struct pg_task_list *list, struct pg_task *t)
{
    t->next = list->first;
    list->first = t;
    list->n++;
}

void pg_task_unlink(struct pg_task_list *list, struct pg_task *t)
{
    struct pg_task **at = &list->first;
    while (*at != t)
        at = &(*at)->next;
    *at = t->next;
    t->next = NULL;
    list->n--;
}

static int n_running_of(const pg_scheduler *s, const char *owner)
{
    int n = 0;
    for (const struct pg_task *t = s->running.first; t; t = t->next)
        n += !strcmp(t->owner, owner);
    return n;
}

/* Of the owner that has the fewest running the one that came first; who gave way comes before all.
 */
struct pg_task *pg_scheduler_next(pg_scheduler *s)
{
    struct pg_task *best = NULL;
    int fewest = INT32_MAX;
    for (struct pg_task *t = s->waiting.first; t; t = t->next) {
        const int n = t->waits_again ? -1 : n_running_of(s, t->owner);
        if (n < fewest) {
            fewest = n;
            best = t;
        }
    }
    return best;
}

/* ------------------------------------------------------------------ tasks ------------------- */

static void task_free(struct pg_task *t)
{
    free(t->tokens);
    free(t);
}

static double seconds_between(uint64_t from, uint64_t to)
{
    return to > from ? (double)(to - from) * 1e-9 : 0;
}

void pg_task_end(pg_scheduler *s, struct pg_task *t)
{
    const uint64_t now = pg_now_ns(), began = t->began_ns ? t->began_ns : now;
    const uint64_t first = t->first_ns ? t->first_ns : now;
    const struct pg_request_report report = {
        .stop = t->stop,
        .err = t->err,
        .n_prompt = (int)t->r.n_tokens,
        .n_reused = t->n_reused,
        .n_predicted = t->n_predicted,
        .queue_seconds = seconds_between(t->came_ns, began),
        .prompt_seconds = seconds_between(began, first),
        .decode_seconds = seconds_between(first, now),
        .expert_bytes_read = t->bytes_read,
    };
    pthread_mutex_lock(&s->lock);
    s->state.n_done += t->stop != PG_STOP_CANCELLED && t->stop != PG_STOP_ERROR;
    s->state.n_cancelled += t->stop == PG_STOP_CANCELLED;
    s->state.n_failed += t->stop == PG_STOP_ERROR;
    pthread_mutex_unlock(&s->lock);
    if (t->r.end)
        t->r.end(t->r.user, &report);
    task_free(t);
}

static int check_request(const pg_scheduler *s, const struct pg_request *r, struct pg_err *err)
{
    const size_t n_ctx = (size_t)s->engine->opt.n_ctx;
    const int n_vocab = s->engine->model.h.n_vocab;
    if (r->n_tokens < 1)
        return pg_fail(err, PG_EARG, "the prompt has no token, one at least is wanted");
    if (r->n_tokens >= n_ctx || (size_t)r->n_predict > n_ctx - r->n_tokens)
        return pg_fail(
            err, PG_ECONTEXT,
            "prompt of %zu tokens and %d to be written found, %zu together at most wanted",
            r->n_tokens, r->n_predict ? r->n_predict : 1, n_ctx);
    for (size_t i = 0; i < r->n_tokens; i++)
        if (r->tokens[i] < 0 || r->tokens[i] >= n_vocab)
            return pg_fail(err, PG_EARG, "token id %d found, 0 to %d wanted", r->tokens[i],
                           n_vocab - 1);
    if (r->owner && strlen(r->owner) >= PG_OWNER_BYTES)
        return pg_fail(err, PG_EARG, "owner of %zu bytes found, %d at most wanted",
                       strlen(r->owner), PG_OWNER_BYTES - 1);
    return 0;
}

static int task_make(const pg_scheduler *s, const struct pg_request *r, struct pg_task **out,
                     struct pg_err *err)
{
    const int n_ctx = s->engine->opt.n_ctx, n = (int)r->n_tokens;
    struct pg_task *t = pg_calloc(1, sizeof(*t));
    *out = t;
    if (!t)
        return pg_fail(err, PG_ENOMEM, "out of memory for a request");
    t->n_ctx = r->n_predict ? n + r->n_predict : n_ctx;
    t->tokens = pg_calloc((size_t)t->n_ctx, sizeof(*t->tokens));
    if (!t->tokens)
        return pg_fail(err, PG_ENOMEM, "out of memory for a request of %d tokens", t->n_ctx);
    memcpy(t->tokens, r->tokens, (size_t)n * sizeof(*t->tokens));
    memcpy(t->owner, r->owner ? r->owner : "", r->owner ? strlen(r->owner) : 0);
    t->r = *r;
    t->how = (struct pg_sampling){PG_SAMPLING_INIT};
    if (r->sampling)
        PG_TRY(pg_options_take(PG_OPTIONS_SAMPLING, &t->how, r->sampling, err));
    t->r.sampling = &t->how;
    t->r.tokens = t->tokens;
    t->r.owner = t->owner;
    t->n = n;
    t->came_ns = pg_now_ns();
    return 0;
}

/* ------------------------------------------------------------------ for any thread ---------- */

/* A step that took all it could would keep others waiting; it is done again, smaller. */
static void interrupt(pg_scheduler *s)
{
    atomic_store_explicit(&s->engine->interrupted, true, memory_order_relaxed);
}

/* Whether the queue takes one more of the owner's. Of named owners none has all of it. Those for
 * whom there is a lane only wait for the step under way. The lock is held. */
static int check_queue(const pg_scheduler *s, const char *owner, struct pg_err *err)
{
    const int n_free = PG_MAX(0, s->opt.n_parallel - s->running.n);
    const int most = s->opt.n_waiting + n_free, of_one = PG_MAX(1, most - s->opt.n_waiting / 4);
    int n = 0;
    for (const struct pg_task *t = s->waiting.first; t && owner[0]; t = t->next)
        n += strcmp(t->owner, owner) == 0;
    if (s->waiting.n >= most)
        return pg_fail(err, PG_EBUSY, "%d requests wait, which is the most", s->waiting.n);
    if (n >= of_one)
        return pg_fail(err, PG_EBUSY, "%d requests of one owner wait, which is the most", n);
    return 0;
}

int pg_scheduler_submit(pg_scheduler *s, const struct pg_request *request, uint64_t *id,
                        struct pg_err *err)
{
    struct pg_request r = {PG_REQUEST_INIT};
    struct pg_task *t;
    PG_TRY(pg_options_take(PG_OPTIONS_REQUEST, &r, request, err));
    PG_TRY(check_request(s, &r, err));
    int rc = task_make(s, &r, &t, err);
    pthread_mutex_lock(&s->lock);
    if (!rc) {
        rc = check_queue(s, t->owner, err);
        s->state.n_refused += rc != 0;
    }
    if (!rc) {
        *id = t->id = ++s->next_id;
        s->state.n_requests++;
        s->state.n_prompt += r.n_tokens;
        pg_task_link_last(&s->waiting, t);
        if (s->greedy_now)
            interrupt(s);
        pthread_cond_signal(&s->wake);
    }
    pthread_mutex_unlock(&s->lock);
    if (rc && t)
        task_free(t);
    return rc;
}

static struct pg_task *find(const struct pg_task_list *list, uint64_t id)
{
    struct pg_task *t = list->first;
    while (t && t->id != id)
        t = t->next;
    return t;
}

void pg_scheduler_cancel(pg_scheduler *s, uint64_t id)
{
    pthread_mutex_lock(&s->lock);
    struct pg_task *t = find(&s->running, id);
    if (t && (s->greedy_now || s->running.n == 1))
        interrupt(s);
    t = t ? t : find(&s->waiting, id);
    if (t)
        t->cancelled = true;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
}

void pg_scheduler_stop(pg_scheduler *s)
{
    pthread_mutex_lock(&s->lock);
    s->stopped = true;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
}

/* ------------------------------------------------------------------ run --------------------- */

/* Nothing runs and nothing can: until something comes. */
static void sleep_until_work(pg_scheduler *s)
{
    pthread_mutex_lock(&s->lock);
    while (!s->stopped && !s->waiting.first && !s->running.first)
        pthread_cond_wait(&s->wake, &s->lock);
    pthread_mutex_unlock(&s->lock);
}

static void end_all(pg_scheduler *s, enum pg_request_stop stop, const struct pg_err *err)
{
    struct pg_task_list *lists[] = {&s->running, &s->waiting};
    for (int i = 0; i < 2; i++)
        for (;;) {
            pthread_mutex_lock(&s->lock);
            struct pg_task *t = lists[i]->first;
            if (t)
                pg_task_unlink(lists[i], t);
            pthread_mutex_unlock(&s->lock);
            if (!t)
                break;
            t->stop = stop;
            if (err)
                t->err = *err;
            pg_task_end(s, t);
        }
}

int pg_scheduler_run(pg_scheduler *s, struct pg_err *err)
{
    struct pg_err own = {0};
    int rc = 0;
    while (!s->stopped && !rc) {
        int n_rows = 0;
        rc = pg_scheduler_step(s, &n_rows, &own);
        rc = rc == PG_ECANCELLED ? 0 : rc; /* interrupted: again, as things are now */
        if (!rc && n_rows == 0) {
            pg_scheduler_save(s);
            sleep_until_work(s);
        }
    }
    s->stopped = false; /* not at the beginning: a stop may come before the run */
    if (rc) {
        end_all(s, PG_STOP_ERROR, &own);
        return pg_fail(err, rc, "%s", own.text);
    }
    return 0;
}

/* ------------------------------------------------------------------ open -------------------- */

static int n_parallel_of(const struct pg_scheduler_options *o)
{
    return o->n_parallel ? o->n_parallel : o->engine ? o->engine->opt.n_sessions : 1;
}

uint64_t pg_scheduler_bytes(const struct pg_scheduler_options *opt, int n_ctx)
{
    enum { HEAP = 64 }; /* what malloc adds */
    const uint64_t waiting = (uint64_t)(opt->n_waiting ? opt->n_waiting : DEFAULT_WAITING);
    const uint64_t task = sizeof(struct pg_task) + (uint64_t)n_ctx * sizeof(int32_t) + 2 * HEAP;
    const uint64_t lane = sizeof(struct pg_sequence) + sizeof(struct pg_row) + sizeof(void *);
    const uint64_t disk = opt->cache_dir ? PG_TO_SAVE * 4ull * (uint64_t)n_ctx + DISK_BYTES : 0;
    return disk + (waiting + (uint64_t)n_parallel_of(opt)) * task +
           (uint64_t)n_parallel_of(opt) * lane + sizeof(struct pg_scheduler) + 4096;
}

static int open_parts(pg_scheduler *s, struct pg_err *err)
{
    const struct pg_lanes_options lanes = {.engine = s->engine,
                                           .n_most = s->opt.n_parallel,
                                           .open = true,
                                           .take = pg_scheduler_take,
                                           .token = pg_scheduler_token,
                                           .end = pg_scheduler_end,
                                           .prompt = pg_scheduler_prompt,
                                           .stepped = pg_scheduler_stepped,
                                           .failed = pg_scheduler_failed,
                                           .user = s};
    s->n_picture = (size_t)s->engine->model.n_moe * (size_t)s->engine->model.h.n_expert;
    s->picture = pg_calloc(s->n_picture + 1, 1);
    s->top_id = pg_calloc(PG_TOP_LOGPROBS, sizeof(*s->top_id));
    s->top_logprob = pg_calloc(PG_TOP_LOGPROBS, sizeof(*s->top_logprob));
    if (!s->picture || !s->top_id || !s->top_logprob)
        return pg_fail(err, PG_ENOMEM, "out of memory for a scheduler");
    PG_TRY(pg_lanes_open(&s->lanes, &lanes, err));
    const struct pg_disk_options disk = {s->engine, s->opt.cache_dir, s->opt.cache_bytes,
                                         PG_LOG_OF(&s->opt)};
    if (s->opt.cache_dir)
        PG_TRY(pg_disk_open(&s->disk, &disk, err));
    s->opt.cache_dir = NULL; /* the caller's */
    pg_scheduler_show(s, true);
    return 0;
}

static int check_options(struct pg_scheduler_options *o, struct pg_err *err)
{
    const struct pg_engine *e = o->engine;
    o->n_parallel = n_parallel_of(o);
    o->n_waiting = o->n_waiting ? o->n_waiting : DEFAULT_WAITING;
    o->cache_bytes = o->cache_bytes ? o->cache_bytes : DEFAULT_CACHE;
    o->itl_ms = o->itl_ms > 0 ? o->itl_ms : DEFAULT_ITL_MS;
    if (e->model.h.n_stack > 1)
        return pg_fail(err, PG_ENOTSUP, "requests: models with an encoder are not served");
    if (o->n_parallel > PG_MIN(e->opt.n_sessions, e->opt.n_batch))
        return pg_fail(err, PG_EARG,
                       "requests at once: %d found, at most the engine's %d sessions and its batch "
                       "of %d wanted",
                       o->n_parallel, e->opt.n_sessions, e->opt.n_batch);
    return 0;
}

int pg_scheduler_open(pg_scheduler **out, const struct pg_scheduler_options *opt,
                      struct pg_err *err)
{
    struct pg_scheduler_options o = {PG_SCHEDULER_OPTIONS_INIT};
    *out = NULL;
    PG_TRY(pg_options_take(PG_OPTIONS_SCHEDULER, &o, opt, err));
    PG_TRY(check_options(&o, err));
    pg_scheduler *s = pg_calloc(1, sizeof(*s));
    if (!s)
        return pg_fail(err, PG_ENOMEM, "out of memory for a scheduler");
    s->opt = o;
    s->engine = o.engine;
    s->disk.folder = -1;
    pthread_mutex_init(&s->lock, NULL); /* both cannot fail on Linux */
    pthread_cond_init(&s->wake, NULL);
    const int rc = open_parts(s, err);
    if (rc) {
        pg_scheduler_close(s);
        return rc;
    }
    *out = s;
    return 0;
}

void pg_scheduler_close(pg_scheduler *s)
{
    if (!s)
        return;
    end_all(s, PG_STOP_CANCELLED, NULL);
    for (int i = 0; i < s->lanes.n_lanes; i++) {
        pg_session_truncate(s->lanes.lane[i].session, 0);
        pg_session_reserve(s->lanes.lane[i].session, 0);
    }
    pg_scheduler_save(s);
    for (int i = 0; i < s->n_ended; i++)
        free(s->ended[i].tokens);
    pg_disk_close(&s->disk);
    pg_lanes_close(&s->lanes);
    pthread_cond_destroy(&s->wake);
    pthread_mutex_destroy(&s->lock);
    free(s->picture);
    free(s->top_id);
    free(s->top_logprob);
    free(s);
}
