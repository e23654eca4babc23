/* SPDX-License-Identifier: MIT */
#include "serve/scheduler.h"

#include <string.h>

#define MS ((uint64_t)1000000)
static const uint64_t state_every = 50 * MS, picture_every = 150 * MS, picture_while = 2000 * MS;

/* The engine's numbers as they are now, which costs a look into /proc. */
static void refresh_state(pg_scheduler *s)
{
    struct pg_scheduler_state *to = &s->state;
    pg_engine_stats(s->engine, &to->engine);
    to->n_parallel = s->opt.n_parallel;
    to->n_kv = s->engine->pool.n_pages * PG_KV_PAGE;
    to->n_kv_used = s->engine->pool.n_held * PG_KV_PAGE;
    to->n_kv_kept = pg_kv_pool_kept(&s->engine->pool);
}

void pg_scheduler_show(pg_scheduler *s, bool idle)
{
    const uint64_t now = pg_now_ns();
    pthread_mutex_lock(&s->lock);
    if (idle || now - s->looked_ns >= state_every) {
        refresh_state(s);
        s->looked_ns = now;
    }
    const bool wanted = s->picture_wanted_ns && now - s->picture_wanted_ns < picture_while;
    if (s->engine->store && (idle || (wanted && now - s->picture_ns >= picture_every))) {
        pg_store_look(s->engine->store, s->picture);
        s->picture_ns = now;
    }
    pthread_mutex_unlock(&s->lock);
}

void pg_scheduler_state(pg_scheduler *s, struct pg_scheduler_state *out)
{
    pthread_mutex_lock(&s->lock);
    *out = s->state;
    out->n_running = s->running.n;
    out->n_waiting = s->waiting.n;
    pthread_mutex_unlock(&s->lock);
}

size_t pg_scheduler_look(pg_scheduler *s, uint8_t *out, size_t cap)
{
    pthread_mutex_lock(&s->lock);
    s->picture_wanted_ns = pg_now_ns();
    for (size_t i = 0; i < PG_MIN(cap, s->n_picture); i++)
        out[i] = s->picture[i];
    pthread_mutex_unlock(&s->lock);
    return s->n_picture;
}

static int put_requests(const struct pg_task_list *list, bool waits, int at,
                        struct pg_request_state *out, int cap)
{
    const uint64_t now = pg_now_ns();
    for (const struct pg_task *t = list->first; t; t = t->next, at++)
        if (at < cap)
            out[at] = (struct pg_request_state){.id = t->id,
                                                .waits = waits,
                                                .n_prompt = (int)t->r.n_tokens,
                                                .n_done = t->n_done,
                                                .n_reused = t->n_reused,
                                                .n_predicted = t->n_predicted,
                                                .seconds = (double)(now - t->came_ns) * 1e-9};
    return at;
}

int pg_scheduler_requests(pg_scheduler *s, struct pg_request_state *out, int cap)
{
    pthread_mutex_lock(&s->lock);
    int n = put_requests(&s->running, false, 0, out, cap);
    n = put_requests(&s->waiting, true, n, out, cap);
    pthread_mutex_unlock(&s->lock);
    return n;
}
