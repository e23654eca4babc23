/* SPDX-License-Identifier: MIT
 * GET /metrics, as Prometheus reads them.
 */
#include "bytes.h"
#include "route.h"
#include "server.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

__attribute__((format(printf, 2, 3))) static void line(struct bytes *b, const char *fmt, ...)
{
    char text[256];
    va_list ap;
    va_start(ap, fmt);
    const int n = vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    if (n > 0 && (size_t)n < sizeof(text))
        bytes_add(b, text, (size_t)n);
}

static void one(struct bytes *b, const char *type, const char *name, double value)
{
    line(b, "# TYPE pregate_%s %s\npregate_%s %.17g\n", name, type, name, value);
}

static void put_requests(struct bytes *b, const struct server *s,
                         const struct pg_scheduler_state *t)
{
    line(b, "# TYPE pregate_http_requests_total counter\n");
    for (int i = 2; i < 6; i++)
        line(b, "pregate_http_requests_total{status=\"%dxx\"} %llu\n", i,
             (unsigned long long)s->n_by_status[i]);
    one(b, "gauge", "connections", s->n_conns);
    one(b, "gauge", "requests_running", t->n_running);
    one(b, "gauge", "requests_waiting", t->n_waiting);
    one(b, "counter", "requests_total", (double)t->n_requests);
    one(b, "counter", "requests_done_total", (double)t->n_done);
    one(b, "counter", "requests_cancelled_total", (double)t->n_cancelled);
    one(b, "counter", "requests_failed_total", (double)t->n_failed);
    one(b, "counter", "requests_refused_total", (double)t->n_refused);
    one(b, "counter", "requests_preempted_total", (double)t->n_preempted);
    one(b, "counter", "clients_gone_total", (double)s->n_gone);
    one(b, "counter", "slow_readers_total", (double)s->n_slow);
    one(b, "gauge", "server_bytes", (double)atomic_load(&s->ledger.used));
    one(b, "gauge", "server_bytes_most", (double)s->ledger.total);
}

static void put_tokens(struct bytes *b, const struct server *s, const struct pg_scheduler_state *t)
{
    one(b, "counter", "prompt_tokens_total", (double)t->n_prompt);
    one(b, "counter", "prompt_tokens_reused_total", (double)t->n_reused);
    one(b, "counter", "tokens_predicted_total", (double)t->n_predicted);
    one(b, "counter", "prompt_seconds_total", s->prompt_seconds);
    one(b, "counter", "tokens_predicted_seconds_total", s->decode_seconds);
    one(b, "counter", "steps_total", (double)t->n_steps);
    one(b, "gauge", "kv_tokens_used", t->n_kv_used);
    one(b, "gauge", "kv_tokens_kept", t->n_kv_kept);
    one(b, "gauge", "kv_tokens_room", t->n_kv);
    line(b,
         "# TYPE pregate_time_to_first_token_seconds summary\n"
         "pregate_time_to_first_token_seconds_sum %.9g\n"
         "pregate_time_to_first_token_seconds_count %llu\n",
         s->ttft_seconds, (unsigned long long)s->n_ttft);
    line(b,
         "# TYPE pregate_request_seconds summary\n"
         "pregate_request_seconds_sum %.9g\npregate_request_seconds_count %llu\n",
         s->e2e_seconds, (unsigned long long)s->n_e2e);
}

static void put_experts(struct bytes *b, const struct server *s, const struct pg_stats *e)
{
    line(b, "# TYPE pregate_expert_requests_total counter\n");
    line(b, "pregate_expert_requests_total{result=\"hit\"} %llu\n", (unsigned long long)e->hits);
    line(b, "pregate_expert_requests_total{result=\"prefetched\"} %llu\n",
         (unsigned long long)(e->hinted_in_time + e->hinted_late));
    line(b, "pregate_expert_requests_total{result=\"miss\"} %llu\n", (unsigned long long)e->missed);
    line(b, "# TYPE pregate_expert_prefetch_total counter\n");
    line(b, "pregate_expert_prefetch_total{outcome=\"used\"} %llu\n",
         (unsigned long long)e->hinted_in_time);
    line(b, "pregate_expert_prefetch_total{outcome=\"late\"} %llu\n",
         (unsigned long long)e->hinted_late);
    line(b, "pregate_expert_prefetch_total{outcome=\"wasted\"} %llu\n",
         (unsigned long long)e->hinted_unused);
    one(b, "counter", "expert_bytes_read_total", (double)e->expert_bytes_read);
    one(b, "counter", "expert_stall_seconds_total", e->stall_seconds);
    one(b, "counter", "compute_seconds_total", e->compute_seconds);
    one(b, "counter", "expert_read_errors_total", (double)e->read_errors);
    one(b, "gauge", "expert_slots", s->plan.n_slots);
    one(b, "gauge", "cache_bytes", (double)s->plan.slots);
    one(b, "gauge", "memory_budget_bytes", (double)s->plan.budget);
    one(b, "gauge", "memory_peak_bytes", (double)e->peak_rss_bytes);
    one(b, "gauge", "direct_io", e->io_path && strstr(e->io_path, "direct") != NULL);
    one(b, "gauge", "hints_active", e->hints_active);
}

void metrics_get(struct conn *c)
{
    struct pg_scheduler_state state;
    struct bytes b = {0};
    pg_scheduler_state(c->server->scheduler, &state);
    put_requests(&b, c->server, &state);
    put_tokens(&b, c->server, &state);
    put_experts(&b, c->server, &state.engine);
    conn_reply(c, 200, "text/plain; version=0.0.4; charset=utf-8", b.p, b.n);
    bytes_fini(&b);
}
