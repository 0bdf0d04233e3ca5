/* What status.c has collected, for programs: JSON and /metrics. The table is status_table.c's; a new service's numbers
 * are a line in each. */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/json.h"
#include "server/cli.h"
#include "server/process_stats.h"
#include "server/status.h"

/* ---- JSON ---------------------------------------------------------------------------------------------------- */

static void member(struct buf *out, const char *name)
{
    char last = out->ptr[out->len - 1];
    if (last != '{' && last != '[')
        buf_byte(out, ',');
    json_write_string(out, slice_str(name));
    buf_byte(out, ':');
}

static void member_text(struct buf *out, const char *name, const char *text)
{
    member(out, name);
    if (text)
        json_write_string(out, slice_str(text));
    else
        buf_lit(out, "null");
}

static void member_int(struct buf *out, const char *name, uint64_t value)
{
    member(out, name);
    json_write_int(out, (int64_t)value);
}

/* Tenths are enough for a rate, and for milliseconds thousandths are exact. */
static void member_ms(struct buf *out, const char *name, uint64_t us)
{
    member(out, name);
    buf_printf(out, "%llu.%03llu", (unsigned long long)(us / 1000), (unsigned long long)(us % 1000));
}

static void member_metric(struct buf *out, const char *name, enum metric metric)
{
    member_int(out, name, metrics_sum(metric));
}

static void members_rate(struct buf *out, const struct status_rate *rate)
{
    member(out, "rps");
    buf_printf(out, "%.1f", rate->per_s);
    member_ms(out, "p50_ms", rate->p50_us);
    member_ms(out, "p99_ms", rate->p99_us);
}

static void json_process(struct buf *out, const struct status_process *process)
{
    if (out->ptr[out->len - 1] != '[')
        buf_byte(out, ',');
    buf_byte(out, '{');
    member_text(out, "name", process->name);
    member_int(out, "pid", (uint64_t)process->pid);
    member_text(out, "state", process->state);
    member_int(out, "uptime_s", (uint64_t)process->uptime_ms / 1000);
    member_int(out, "generation", process->generation);
    member_int(out, "generations_alive", process->n_generations);
    member_int(out, "in_flight", process->in_flight);
    member_int(out, "connections", process->connections);
    member_int(out, "requests", process->requests);
    members_rate(out, &process->rate);
    member_int(out, "resident_bytes", process->rss);
    member_int(out, "lua_heap_bytes", process->lua_heap);
    member_int(out, "beat_age_ms", process->beat_age_ms);
    member_text(out, "running", process->running.since_ms ? process->running.route : NULL);
    buf_byte(out, '}');
}

static void json_generation(struct buf *out, const struct reload_view *reload)
{
    member(out, "generation");
    buf_byte(out, '{');
    member_int(out, "number", reload->number);
    member_text(out, "hash", reload->hash);
    member_int(out, "age_s", (uint64_t)status_age_ms(reload->committed_wall_ms) / 1000);
    buf_byte(out, '}');
    member(out, "reloads");
    buf_byte(out, '{');
    member_int(out, "ok", reload->n_ok);
    member_int(out, "failed", reload->n_failed);
    member_text(out, "last_error", reload->is_last_failed ? reload->error : NULL);
    buf_byte(out, '}');
}

static void json_requests(struct buf *out, const struct status_report *status)
{
    member(out, "requests");
    buf_byte(out, '{');
    member_int(out, "total", status->requests);
    member_metric(out, "in_flight", METRIC_HTTP_INFLIGHT);
    member_int(out, "connections", metrics_sum(METRIC_HTTP_IDLE) + metrics_sum(METRIC_HTTP_ACTIVE));
    members_rate(out, &status->rate);
    buf_byte(out, '}');
}

static void json_supervision(struct buf *out, const struct scoreboard_totals *totals)
{
    member(out, "supervision");
    buf_byte(out, '{');
    member_int(out, "deaths", totals->deaths);
    member_int(out, "crashes", totals->crashes);
    member_int(out, "stalls", totals->stalls);
    member_int(out, "recycled", totals->recycled);
    member_int(out, "out_of_memory", totals->out_of_memory);
    member_int(out, "given_up", totals->failed);
    buf_byte(out, '}');
}

static void json_pg(struct buf *out)
{
    buf_byte(out, '{');
    member_metric(out, "idle", METRIC_PG_IDLE);
    member_metric(out, "busy", METRIC_PG_BUSY);
    member_metric(out, "in_flight", METRIC_PG_INFLIGHT);
    member_metric(out, "waiting", METRIC_PG_WAITERS);
    member_metric(out, "queries", METRIC_PG_QUERIES);
    member_metric(out, "errors", METRIC_PG_ERRORS);
    member_metric(out, "reconnects", METRIC_PG_RECONNECTS);
    buf_byte(out, '}');
}

static void json_redis(struct buf *out)
{
    buf_byte(out, '{');
    member_metric(out, "ready", METRIC_REDIS_READY);
    member_metric(out, "down", METRIC_REDIS_DOWN);
    member_metric(out, "commands", METRIC_REDIS_COMMANDS);
    member_metric(out, "errors", METRIC_REDIS_ERRORS);
    buf_byte(out, '}');
}

static void json_cache(struct buf *out)
{
    struct status_cache cache;
    status_read_cache(&cache);
    member(out, "cache");
    buf_byte(out, '{');
    member_int(out, "hits_l1", cache.hits_l1);
    member_int(out, "stale_l1", cache.stale_l1);
    member_int(out, "hits_l2", cache.hits_l2);
    member_int(out, "misses", cache.misses);
    member(out, "hit_ratio");
    if (cache.hit_ratio < 0)
        buf_lit(out, "null");
    else
        buf_printf(out, "%.4f", cache.hit_ratio);
    member_metric(out, "loads", METRIC_CACHE_LOADED);
    member_metric(out, "load_errors", METRIC_CACHE_LOAD_FAILED);
    member_metric(out, "l2_errors", METRIC_CACHE_L2_FAILED);
    member_metric(out, "evictions", METRIC_CACHE_EVICTED);
    member_metric(out, "items", METRIC_CACHE_ITEMS);
    member_metric(out, "bytes_used", METRIC_CACHE_BYTES_USED);
    member_metric(out, "bytes_free", METRIC_CACHE_BYTES_FREE);
    buf_byte(out, '}');
}

static void member_labelled(struct buf *out, const char *name, enum metric metric, const char *label)
{
    member_int(out, name, metrics_sum_labelled(metric, label));
}

static void json_limits(struct buf *out, const struct status_report *status)
{
    member(out, "limits");
    buf_byte(out, '{');
    member_text(out, "mode", status->limit_mode);
    member_labelled(out, "allowed", METRIC_LIMIT_CHECKS, "result=\"allowed\"");
    member_labelled(out, "refused", METRIC_LIMIT_CHECKS, "result=\"refused\"");
    member_labelled(out, "reported", METRIC_LIMIT_CHECKS, "result=\"reported\"");
    member_int(out, "store_failures", metrics_sum(METRIC_LIMIT_FALLBACKS) + metrics_sum(METRIC_LIMIT_BUSY_LOCKS));
    buf_byte(out, '}');
}

static void json_jobs(struct buf *out)
{
    buf_byte(out, '{');
    member_metric(out, "running", METRIC_JOBS_RUNNING);
    member_labelled(out, "completed", METRIC_JOBS, "state=\"completed\"");
    member_labelled(out, "failed", METRIC_JOBS, "state=\"failed\"");
    member_labelled(out, "discarded", METRIC_JOBS, "state=\"discarded\"");
    member_metric(out, "rescued", METRIC_JOBS_RESCUED);
    buf_byte(out, '}');
}

static void json_outbound(struct buf *out)
{
    member(out, "http_client");
    buf_byte(out, '{');
    member_metric(out, "active", METRIC_CLIENT_ACTIVE);
    member_metric(out, "waiting", METRIC_CLIENT_WAITING);
    member_metric(out, "calls", METRIC_CLIENT_CALLS);
    member_metric(out, "failures", METRIC_CLIENT_FAILURES);
    member_metric(out, "open_breakers", METRIC_CLIENT_OPEN);
    buf_byte(out, '}');
    member(out, "mail");
    buf_byte(out, '{');
    member_metric(out, "waiting", METRIC_MAIL_WAITING);
    member_metric(out, "sent", METRIC_MAIL_SENT);
    member_metric(out, "failed", METRIC_MAIL_FAILED);
    buf_byte(out, '}');
}

static void member_if(struct buf *out, const char *name, bool is_there, void (*write)(struct buf *out))
{
    member(out, name);
    if (is_there)
        write(out);
    else
        buf_lit(out, "null");
}

static void json_services(struct buf *out, const struct status_report *status)
{
    member_if(out, "pg", status->has_pg, json_pg);
    member_if(out, "redis", status->has_redis, json_redis);
    json_cache(out);
    json_limits(out, status);
    member_if(out, "jobs", status->has_pg, json_jobs);
    json_outbound(out);
    member(out, "seq");
    buf_byte(out, '{');
    member_metric(out, "numbers", METRIC_SEQ_NUMBERS);
    member_metric(out, "leases", METRIC_SEQ_LEASES);
    buf_byte(out, '}');
    member(out, "log");
    buf_byte(out, '{');
    member_metric(out, "dropped", METRIC_LOG_DROPPED);
    buf_byte(out, '}');
}

void status_write_json(struct buf *out, const struct status_report *status)
{
    char ts[CLOCK_RFC3339_LEN + 1];
    clock_rfc3339(status->started_wall_ms, ts);
    buf_byte(out, '{');
    member_text(out, "version", CHOWK_VERSION);
    member_text(out, "environment", status->environment);
    member_text(out, "url", status->url);
    member_int(out, "pid", (uint64_t)status->pid);
    member_text(out, "started", ts);
    member_int(out, "uptime_s", (uint64_t)status->uptime_ms / 1000);
    member(out, "ready");
    buf_slice(out, status->is_ready ? SLICE("true") : SLICE("false"));
    member(out, "stopping");
    buf_slice(out, status->is_stopping ? SLICE("true") : SLICE("false"));
    json_generation(out, &status->reload);
    json_requests(out, status);
    member(out, "processes");
    buf_byte(out, '[');
    for (size_t i = 0; i < status->n_processes; i++)
        json_process(out, &status->processes[i]);
    buf_byte(out, ']');
    json_supervision(out, &status->totals);
    json_services(out, status);
    buf_byte(out, '}');
}

/* ---- /metrics ------------------------------------------------------------------------------------------------ */

static const struct process_metric {
    const char *family, *type, *help;
    size_t offset;
    bool is_us;
} process_metrics[] = {
    {"process_cpu_seconds_total", "counter", "User and system time", offsetof(struct process_stats, cpu_us), true},
    {"process_resident_memory_bytes", "gauge", "Memory in use", offsetof(struct process_stats, resident_bytes), false},
    {"process_virtual_memory_bytes", "gauge", "Address space", offsetof(struct process_stats, virtual_bytes), false},
    {"process_open_fds", "gauge", "Open descriptors", offsetof(struct process_stats, open_fds), false},
    {"process_threads", "gauge", "Threads", offsetof(struct process_stats, threads), false},
};

struct process_row {
    struct buf labels;
    struct process_stats stats;
};

static size_t read_processes(struct process_row *rows, const struct status_report *status)
{
    size_t n = 0;
    for (size_t i = 0; i <= status->n_processes; i++) {
        bool is_master = i == status->n_processes;
        if (!process_stats_read(is_master ? status->pid : status->processes[i].pid, &rows[n].stats))
            continue;
        metrics_label(&rows[n++].labels, "process", slice_str(is_master ? "master" : status->processes[i].name));
    }
    return n;
}

static void metrics_of_processes(struct buf *out, const struct status_report *status, enum metrics_format format)
{
    struct process_row *rows = xalloc((status->n_processes + 1) * sizeof(*rows));
    size_t n = read_processes(rows, status);
    for (size_t m = 0; m < ARRAY_LEN(process_metrics); m++) {
        const struct process_metric *metric = &process_metrics[m];
        metrics_write_family(out, format, metric->family, metric->type, metric->help);
        for (size_t i = 0; i < n; i++) {
            uint64_t value;
            memcpy(&value, (const char *)&rows[i].stats + metric->offset, sizeof(value));
            (metric->is_us ? metrics_write_sample_us : metrics_write_sample)(out, metric->family,
                                                                             buf_as_slice(&rows[i].labels), value);
        }
    }
    metrics_write_family(out, format, "process_start_time_seconds", "gauge", "Start, in Unix time");
    for (size_t i = 0; i < n; i++) {
        metrics_write_sample_us(out, "process_start_time_seconds", buf_as_slice(&rows[i].labels),
                                (uint64_t)rows[i].stats.started_wall_ms * 1000);
        buf_free(&rows[i].labels);
    }
    free(rows);
}

static void count_own(const struct scoreboard_totals *totals, const struct reload_view *reload)
{
    metrics_sample(METRIC_RELOADS_OK, reload->n_ok);
    metrics_sample(METRIC_RELOADS_FAILED, reload->n_failed);
    metrics_sample(METRIC_WORKER_DEATHS, totals->deaths);
    metrics_sample(METRIC_WORKER_CRASHES, totals->crashes);
    metrics_sample(METRIC_WORKER_STALLS, totals->stalls);
    metrics_sample(METRIC_WORKER_RECYCLED, totals->recycled);
    metrics_sample(METRIC_LUA_MEMORY, totals->out_of_memory);
    metrics_sample(METRIC_SLOW_TURNS, totals->slow_turns);
}

static void metrics_of_server(struct buf *out, const struct status_report *status, enum metrics_format format)
{
    struct buf labels = {0};
    metrics_label(&labels, "version", slice_str(CHOWK_VERSION));
    metrics_label(&labels, "environment", slice_str(status->environment));
    metrics_write_family(out, format, "chowk_info", "gauge", "What runs; always 1");
    metrics_write_sample(out, "chowk_info", buf_as_slice(&labels), 1);
    buf_clear(&labels);
    metrics_label(&labels, "hash", slice_str(status->reload.hash));
    metrics_write_family(out, format, "chowk_generation", "gauge", "Number of the code that new requests run");
    metrics_write_sample(out, "chowk_generation", buf_as_slice(&labels), status->reload.number);
    metrics_write_family(out, format, "chowk_ready", "gauge", "1 while every worker serves and no stop has begun");
    metrics_write_sample(out, "chowk_ready", SLICE(""), status->is_ready);
    metrics_write_family(out, format, "chowk_workers_given_up", "gauge", "Workers not started again: a crash loop");
    metrics_write_sample(out, "chowk_workers_given_up", SLICE(""), status->totals.failed);
    buf_free(&labels);
}

void status_write_metrics(struct buf *out, const struct status_report *status, enum metrics_format format)
{
    count_own(&status->totals, &status->reload);
    metrics_of_server(out, status, format);
    metrics_write(out, format);
    metrics_of_processes(out, status, format);
    metrics_write_end(out, format);
}
