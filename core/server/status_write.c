/* The three forms of what status.c has collected. A new service's numbers are a line in each. */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/json.h"
#include "server/cli.h"
#include "server/process_stats.h"
#include "server/status.h"

enum { STALE_MS = 1000 }; /* a loop that has not turned for so long is shown */

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

static int64_t age_ms(int64_t wall_ms)
{
    return wall_ms ? clock_wall_ms() - wall_ms : 0;
}

static void json_generation(struct buf *out, const struct reload_view *reload)
{
    member(out, "generation");
    buf_byte(out, '{');
    member_int(out, "number", reload->number);
    member_text(out, "hash", reload->hash);
    member_int(out, "age_s", (uint64_t)age_ms(reload->committed_wall_ms) / 1000);
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

static void json_services(struct buf *out, const struct status_report *status)
{
    member(out, "pg");
    if (status->has_pg) {
        buf_byte(out, '{');
        member_metric(out, "idle", METRIC_PG_IDLE);
        member_metric(out, "busy", METRIC_PG_BUSY);
        member_metric(out, "in_flight", METRIC_PG_INFLIGHT);
        member_metric(out, "waiting", METRIC_PG_WAITERS);
        member_metric(out, "queries", METRIC_PG_QUERIES);
        member_metric(out, "errors", METRIC_PG_ERRORS);
        member_metric(out, "reconnects", METRIC_PG_RECONNECTS);
        buf_byte(out, '}');
    } else {
        buf_lit(out, "null");
    }
    member(out, "redis");
    if (status->has_redis) {
        buf_byte(out, '{');
        member_metric(out, "ready", METRIC_REDIS_READY);
        member_metric(out, "down", METRIC_REDIS_DOWN);
        member_metric(out, "commands", METRIC_REDIS_COMMANDS);
        member_metric(out, "errors", METRIC_REDIS_ERRORS);
        buf_byte(out, '}');
    } else {
        buf_lit(out, "null");
    }
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

/* ---- a table ------------------------------------------------------------------------------------------------- */

enum { CELL = 24 };

static void cell_duration(char out[CELL], int64_t ms)
{
    int64_t s = ms / 1000;
    if (s < 120)
        snprintf(out, CELL, "%lld s", (long long)s);
    else if (s < 2 * 3600)
        snprintf(out, CELL, "%lld min", (long long)(s / 60));
    else if (s < 2 * 86400)
        snprintf(out, CELL, "%lld h %lld min", (long long)(s / 3600), (long long)(s / 60 % 60));
    else
        snprintf(out, CELL, "%lld d %lld h", (long long)(s / 86400), (long long)(s / 3600 % 24));
}

static void cell_latency(char out[CELL], uint64_t us)
{
    if (us == 0)
        snprintf(out, CELL, "-");
    else if (us < 10000)
        snprintf(out, CELL, "%.2f ms", (double)us / 1000);
    else if (us < 1000000)
        snprintf(out, CELL, "%.0f ms", (double)us / 1000);
    else
        snprintf(out, CELL, "%.1f s", (double)us / 1000000);
}

static void cell_bytes(char out[CELL], uint64_t bytes)
{
    double mib = (double)bytes / (1024 * 1024);
    snprintf(out, CELL, mib < 10 ? "%.1f MiB" : mib < 10240 ? "%.0f MiB" : "%.0f MiB", mib);
}

static void cell_rate(char out[CELL], double per_s)
{
    snprintf(out, CELL, per_s < 100 ? "%.1f" : "%.0f", per_s);
}

static void line(struct buf *out, const char *label, const char *text)
{
    buf_printf(out, "  %-11s %s\n", label, text);
}

/* The traceback is the log's. */
static void text_generation(struct buf *out, const struct reload_view *reload)
{
    char age[CELL], text[768];
    cell_duration(age, age_ms(reload->committed_wall_ms));
    snprintf(text, sizeof(text), "%u (%s), %s old", reload->number, reload->hash, age);
    line(out, "generation", text);
    snprintf(text, sizeof(text), "%llu ok, %llu failed", (unsigned long long)reload->n_ok,
             (unsigned long long)reload->n_failed);
    line(out, "reloads", text);
    if (!reload->is_last_failed)
        return;
    cell_duration(age, age_ms(reload->error_wall_ms));
    snprintf(text, sizeof(text), "failed %s ago: %.*s", age, (int)strcspn(reload->error, "\n"), reload->error);
    line(out, "", text);
}

static void text_head(struct buf *out, const struct status_report *status, bool is_colour)
{
    const char *state = status->is_stopping ? "stopping" : status->is_ready ? "ready" : "not ready";
    const char *on = !is_colour ? "" : status->is_ready ? "\033[32m" : "\033[33m";
    char up[CELL], text[768];
    buf_printf(out, "chowk %s  %s  %s  %s%s%s\n\n", CHOWK_VERSION, status->environment, status->url, on, state,
               is_colour ? "\033[0m" : "");
    cell_duration(up, status->uptime_ms);
    snprintf(text, sizeof(text), "pid %d, up %s", status->pid, up);
    line(out, "master", text);
    text_generation(out, &status->reload);
}

static void row(struct buf *out, const char *const cells[11])
{
    buf_printf(out, "  %-11s %7s  %-9s %11s %5s %9s %9s %9s %9s %9s %9s\n", cells[0], cells[1], cells[2], cells[3],
               cells[4], cells[5], cells[6], cells[7], cells[8], cells[9], cells[10]);
    while (out->ptr[out->len - 2] == ' ')
        out->len--;
    out->ptr[out->len - 1] = '\n';
}

static void text_process(struct buf *out, const struct status_process *process)
{
    char pid[CELL], up[CELL], generation[CELL], in_flight[CELL], rps[CELL], p50[CELL], p99[CELL], rss[CELL], heap[CELL];
    snprintf(pid, CELL, "%d", process->pid);
    cell_duration(up, process->uptime_ms);
    snprintf(generation, CELL, process->generation ? "%u" : "-", process->generation);
    if (process->n_generations > 1) /* old ones still finish */
        snprintf(generation + strlen(generation), CELL - strlen(generation), "+%u", process->n_generations - 1);
    snprintf(in_flight, CELL, "%llu", (unsigned long long)process->in_flight);
    cell_rate(rps, process->rate.per_s);
    cell_latency(p50, process->rate.p50_us);
    cell_latency(p99, process->rate.p99_us);
    cell_bytes(rss, process->rss);
    cell_bytes(heap, process->lua_heap);
    row(out,
        (const char *const[]){process->name, pid, process->state, up, generation, in_flight, rps, p50, p99, rss, heap});
    if (process->running.since_ms && process->beat_age_ms > STALE_MS)
        buf_printf(out, "              has not turned its loop for %llu ms: %s, request %s\n",
                   (unsigned long long)process->beat_age_ms, process->running.route, process->running.id);
}

static void text_processes(struct buf *out, const struct status_report *status, bool is_colour)
{
    buf_slice(out, is_colour ? SLICE("\n\033[2m") : SLICE("\n"));
    row(out, (const char *const[]){"process", "pid", "state", "up", "gen", "in flight", "req/s", "p50", "p99", "memory",
                                   "lua"});
    buf_slice(out, is_colour ? SLICE("\033[0m") : SLICE(""));
    for (size_t i = 0; i < status->n_processes; i++)
        text_process(out, &status->processes[i]);
    if (status->n_processes > 1) {
        char in_flight[CELL], rps[CELL], p50[CELL], p99[CELL];
        snprintf(in_flight, CELL, "%llu", (unsigned long long)metrics_sum(METRIC_HTTP_INFLIGHT));
        cell_rate(rps, status->rate.per_s);
        cell_latency(p50, status->rate.p50_us);
        cell_latency(p99, status->rate.p99_us);
        row(out, (const char *const[]){"all", "", "", "", "", in_flight, rps, p50, p99, "", ""});
    }
    buf_byte(out, '\n');
}

static unsigned long long sum(enum metric metric)
{
    return (unsigned long long)metrics_sum(metric);
}

static void text_services(struct buf *out, const struct status_report *status)
{
    const struct scoreboard_totals *totals = &status->totals;
    char text[256];
    snprintf(text, sizeof(text), "%llu deaths, %llu of them crashes; %llu stalls, %llu recycled, %u given up",
             (unsigned long long)totals->deaths, (unsigned long long)totals->crashes,
             (unsigned long long)totals->stalls, (unsigned long long)totals->recycled, totals->failed);
    line(out, "workers", text);
    if (status->has_pg) {
        snprintf(text, sizeof(text), "%llu idle and %llu busy connections, %llu calls in flight, %llu waiting",
                 sum(METRIC_PG_IDLE), sum(METRIC_PG_BUSY), sum(METRIC_PG_INFLIGHT), sum(METRIC_PG_WAITERS));
        line(out, "postgresql", text);
    }
    if (status->has_redis) {
        snprintf(text, sizeof(text), "%llu connected, %llu down; %llu commands, %llu errors", sum(METRIC_REDIS_READY),
                 sum(METRIC_REDIS_DOWN), sum(METRIC_REDIS_COMMANDS), sum(METRIC_REDIS_ERRORS));
        line(out, "redis", text);
    }
    if (sum(METRIC_SEQ_NUMBERS) > 0) {
        snprintf(text, sizeof(text), "%llu given out, %llu leases", sum(METRIC_SEQ_NUMBERS), sum(METRIC_SEQ_LEASES));
        line(out, "numbers", text);
    }
    if (sum(METRIC_LOG_DROPPED) > 0) {
        snprintf(text, sizeof(text), "%llu lines dropped", sum(METRIC_LOG_DROPPED));
        line(out, "log", text);
    }
}

void status_write_text(struct buf *out, const struct status_report *status, bool is_colour)
{
    text_head(out, status, is_colour);
    text_processes(out, status, is_colour);
    text_services(out, status);
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
