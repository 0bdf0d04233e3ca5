/* Looks at what the parts of a worker count for themselves, and copies it into the process's metrics slot
 * (base/metrics). Nothing on a request's way does more than a handful of additions. */
#include "server/worker_metrics.h"

#include <stdlib.h>

#include "data/http_client.h"
#include "data/mail.h"
#include "data/pg.h"
#include "data/redis.h"
#include "net/timer.h"
#include "services/limit.h"
#include "services/seq.h"

enum { EVERY_MS = 500 };

struct worker_metrics {
    struct timer timer;
    struct loop_hook turn;
    const struct host *host;
    const struct http_server *http;
    const struct worker_reload *reload;
    unsigned unrouted[HTTP_N_METHODS];
    struct metrics_cell *closed[HTTP_N_CLOSES];
    uint64_t last_closed[HTTP_N_CLOSES];
};

static void look_at_pg(const struct host *host)
{
    struct pg_stats stats = {0};
    if (!host->pg)
        return;
    pg_stats(host->pg, &stats);
    metrics_set(METRIC_PG_IDLE, stats.idle);
    metrics_set(METRIC_PG_BUSY, stats.open - stats.idle);
    metrics_set(METRIC_PG_INFLIGHT, stats.in_flight);
    metrics_set(METRIC_PG_WAITERS, stats.waiting);
    metrics_sample(METRIC_PG_QUERIES, stats.queries);
    metrics_sample(METRIC_PG_ERRORS, stats.errors);
    metrics_sample(METRIC_PG_RECONNECTS, stats.reconnects);
}

static void look_at_redis(const struct host *host)
{
    if (!host->redis)
        return;
    metrics_set(METRIC_REDIS_READY, redis_is_up(host->redis));
    metrics_set(METRIC_REDIS_DOWN, !redis_is_up(host->redis));
}

static void look_at_seq(const struct host *host)
{
    struct seq_stats stats;
    if (!host->seq)
        return;
    seq_stats(host->seq, &stats);
    metrics_sample(METRIC_SEQ_NUMBERS, stats.n_numbers);
    metrics_sample(METRIC_SEQ_LEASES, stats.n_leases);
    metrics_sample(METRIC_SEQ_LEASE_ERRORS, stats.n_lease_errors);
    metrics_sample(METRIC_SEQ_WAITS, stats.n_waits);
    metrics_sample(METRIC_SEQ_DROPPED, stats.n_dropped);
}

static void look_at_limits(const struct host *host)
{
    struct limits_stats stats;
    if (!host->limits)
        return;
    limits_stats(host->limits, &stats);
    metrics_sample(METRIC_LIMIT_FALLBACKS, stats.n_fallbacks);
    metrics_sample(METRIC_LIMIT_BUSY_LOCKS, stats.n_busy);
    metrics_sample(METRIC_LIMIT_EVICTED, stats.n_evicted);
    metrics_sample(METRIC_LIMIT_ORPHANS, stats.n_orphaned);
}

static void look_at_cache(const struct host *host, bool serves_http)
{
    static const enum metric metrics[CACHE_N_COUNTERS] = {
        [CACHE_HITS_L1] = METRIC_CACHE_L1_HIT,    [CACHE_HITS_STALE] = METRIC_CACHE_L1_STALE,
        [CACHE_MISSES] = METRIC_CACHE_L1_MISS,    [CACHE_HITS_L2] = METRIC_CACHE_L2_HIT,
        [CACHE_LOADS] = METRIC_CACHE_LOADED,      [CACHE_LOAD_ERRORS] = METRIC_CACHE_LOAD_FAILED,
        [CACHE_WAITS] = METRIC_CACHE_WAITED,      [CACHE_REFUSED] = METRIC_CACHE_LOAD_REFUSED,
        [CACHE_FORGETS] = METRIC_CACHE_FORGOTTEN, [CACHE_L2_ERRORS] = METRIC_CACHE_L2_FAILED,
        [CACHE_EVICTIONS] = METRIC_CACHE_EVICTED, [CACHE_BUSY] = METRIC_CACHE_BUSY_LOCKS,
        [CACHE_ORPHANED] = METRIC_CACHE_ORPHANS,  [CACHE_DROPS] = METRIC_CACHE_L1_DROPPED};
    struct cache_l1_usage usage;
    if (!host->cache)
        return;
    for (int i = 0; i < CACHE_N_COUNTERS; i++)
        metrics_sample(metrics[i], cache_own_count(host->cache, (enum cache_counter)i));
    if (!serves_http || host->env.worker_id != 0)
        return; /* the memory is the machine's: one says how much */
    cache_usage(host->cache, &usage);
    metrics_set(METRIC_CACHE_ITEMS, usage.n_items);
    metrics_set(METRIC_CACHE_BYTES_USED, usage.bytes_used);
    metrics_set(METRIC_CACHE_BYTES_FREE, usage.bytes - usage.bytes_used);
}

static void look_at_outbound(const struct outbound *outbound)
{
    struct http_client_stats calls;
    struct mail_stats mails;
    if (outbound->http) {
        http_client_stats(outbound->http, &calls);
        metrics_set(METRIC_CLIENT_ACTIVE, calls.active);
        metrics_set(METRIC_CLIENT_WAITING, calls.waiting);
        metrics_set(METRIC_CLIENT_OPEN, calls.open_breakers);
        metrics_sample(METRIC_CLIENT_CALLS, calls.calls);
        metrics_sample(METRIC_CLIENT_FAILURES, calls.failures);
        metrics_sample(METRIC_CLIENT_TIMEOUTS, calls.timeouts);
        metrics_sample(METRIC_CLIENT_REFUSED, calls.refused);
    }
    if (outbound->mail) {
        mail_stats(outbound->mail, &mails);
        metrics_set(METRIC_MAIL_WAITING, mails.waiting);
        metrics_sample(METRIC_MAIL_SENT, mails.sent);
        metrics_sample(METRIC_MAIL_FAILED, mails.failed);
    }
}

static void look_at_http(struct worker_metrics *metrics)
{
    struct http_stats stats;
    if (!metrics->http)
        return;
    http_server_stats(metrics->http, &stats);
    metrics_set(METRIC_HTTP_IDLE, stats.idle);
    metrics_set(METRIC_HTTP_ACTIVE, stats.connections - stats.idle);
    for (unsigned i = HTTP_CLOSE_NONE + 1; i < HTTP_N_CLOSES; i++)
        metrics_sample_to(metrics->closed[i], &metrics->last_closed[i], http_server_closes(metrics->http, i));
}

static void look(struct worker_metrics *metrics)
{
    look_at_pg(metrics->host);
    look_at_redis(metrics->host);
    look_at_seq(metrics->host);
    look_at_limits(metrics->host);
    look_at_cache(metrics->host, metrics->http != NULL);
    look_at_outbound(&metrics->host->outbound);
    metrics_set(METRIC_LUA_HEAP, worker_reload_bytes(metrics->reload));
    metrics_set(METRIC_LUA_COROUTINES, worker_reload_active(metrics->reload));
    look_at_http(metrics);
}

static void on_timer(struct timer *timer)
{
    struct worker_metrics *metrics = container_of(timer, struct worker_metrics, timer);
    look(metrics);
    timer_arm(metrics->host->loop, timer, loop_now(metrics->host->loop) + EVERY_MS, on_timer);
}

static void on_turn_end(struct loop_hook *hook)
{
    worker_metrics_begin(container_of(hook, struct worker_metrics, turn));
}

/* Also before each handler: one that hangs lets no turn end. */
void worker_metrics_begin(struct worker_metrics *metrics)
{
    struct http_stats stats;
    http_server_stats(metrics->http, &stats);
    metrics_set(METRIC_HTTP_INFLIGHT, stats.in_flight);
}

static void name_series(struct worker_metrics *metrics)
{
    for (unsigned i = 0; i < HTTP_N_METHODS; i++)
        metrics->unrouted[i] = metrics_route(http_method_name(i), METRICS_UNROUTED);
    for (unsigned i = HTTP_CLOSE_NONE + 1; i < HTTP_N_CLOSES; i++) {
        struct buf labels = {0};
        metrics_label(&labels, "reason", slice_str(http_close_info(i)->metric));
        buf_byte(&labels, '\0');
        metrics->closed[i] = metrics_labelled(METRIC_HTTP_CLOSED, labels.ptr);
        buf_free(&labels);
    }
}

struct worker_metrics *worker_metrics_new(const struct host *host, const struct http_server *http,
                                          const struct worker_reload *reload)
{
    struct worker_metrics *metrics = xalloc(sizeof(*metrics));
    metrics->host = host;
    metrics->http = http;
    metrics->reload = reload;
    if (http) {
        name_series(metrics);
        loop_hook_add(host->loop, &metrics->turn, on_turn_end);
    }
    on_timer(&metrics->timer);
    return metrics;
}

void worker_metrics_stop(struct worker_metrics *metrics)
{
    if (!metrics)
        return;
    look(metrics);
    if (metrics->http)
        loop_hook_remove(&metrics->turn);
    timer_stop(metrics->host->loop, &metrics->timer);
}

void worker_metrics_free(struct worker_metrics *metrics)
{
    free(metrics);
}

void worker_metrics_request(struct worker_metrics *metrics, const struct http_request *req, int status, uint64_t us)
{
    metrics_request(req->route ? req->route->metric : metrics->unrouted[req->method], status, us);
}
