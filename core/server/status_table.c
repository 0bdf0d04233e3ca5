/* `chowk status`: what status.c has collected, as a table that a person likes to read, in 80 columns.
 * Trouble stands out. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "server/cli.h"
#include "server/status.h"

enum { STALE_MS = 1000 }; /* a loop that has not turned for so long is shown */
enum { CELL = 24 };

static void cell_duration(char out[CELL], int64_t ms)
{
    int64_t s = ms / 1000;
    if (s < 120)
        snprintf(out, CELL, "%lld s", (long long)s);
    else if (s < 100 * 60)
        snprintf(out, CELL, "%lld min", (long long)(s / 60));
    else if (s < 2 * 86400)
        snprintf(out, CELL, "%lld h %lld min", (long long)(s / 3600), (long long)(s / 60 % 60));
    else
        snprintf(out, CELL, "%lld d %lld h", (long long)(s / 86400), (long long)(s / 3600 % 24));
}

/* One unit of it: a column is narrow. */
static void cell_age(char out[CELL], int64_t ms)
{
    cell_duration(out, ms);
    char *unit = strchr(out, ' ') + 1;
    unit[strcspn(unit, " ")] = '\0';
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
    double kib = (double)bytes / 1024;
    if (kib < 1024)
        snprintf(out, CELL, "%.0f KiB", kib);
    else
        snprintf(out, CELL, kib < 10240 ? "%.1f MiB" : "%.0f MiB", kib / 1024);
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
    cell_duration(age, status_age_ms(reload->committed_wall_ms));
    snprintf(text, sizeof(text), "%u (%s), %s old", reload->number, reload->hash, age);
    line(out, "generation", text);
    snprintf(text, sizeof(text), "%llu ok, %llu failed", (unsigned long long)reload->n_ok,
             (unsigned long long)reload->n_failed);
    line(out, "reloads", text);
    if (!reload->is_last_failed)
        return;
    cell_duration(age, status_age_ms(reload->error_wall_ms));
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
    buf_printf(out, "  %-9s %6s %-8s %6s %3s %4s %5s %7s %7s %6s %7s\n", cells[0], cells[1], cells[2], cells[3],
               cells[4], cells[5], cells[6], cells[7], cells[8], cells[9], cells[10]);
    while (out->ptr[out->len - 2] == ' ')
        out->len--;
    out->ptr[out->len - 1] = '\n';
}

static void text_process(struct buf *out, const struct status_process *process)
{
    char pid[CELL], up[CELL], generation[CELL], in_flight[CELL], rps[CELL], p50[CELL], p99[CELL], rss[CELL], heap[CELL];
    snprintf(pid, CELL, "%d", process->pid);
    cell_age(up, process->uptime_ms);
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
    row(out,
        (const char *const[]){"process", "pid", "state", "up", "gen", "busy", "req/s", "p50", "p99", "memory", "lua"});
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

/* Beginning with a word of what is wrong, if something is, so that the eye finds it. */
static void service(struct buf *out, bool is_colour, const char *label, const char *trouble, const char *fmt, ...)
    PRINTF_LIKE(5, 6);
static void service(struct buf *out, bool is_colour, const char *label, const char *trouble, const char *fmt, ...)
{
    char text[320];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    buf_printf(out, "  %-11s ", label);
    if (trouble)
        buf_printf(out, "%s%s%s; ", is_colour ? "\033[31m" : "", trouble, is_colour ? "\033[0m" : "");
    size_t first = strcspn(text, ";");
    if (text[first] && 14 + (trouble ? strlen(trouble) + 2 : 0) + strlen(text) > 80)
        buf_printf(out, "%.*s;\n%13s%s\n", (int)first, text, "", text + first + 1);
    else
        buf_printf(out, "%s\n", text);
}

static void text_pg(struct buf *out, bool is_colour)
{
    unsigned long long idle = sum(METRIC_PG_IDLE), busy = sum(METRIC_PG_BUSY), waiting = sum(METRIC_PG_WAITERS);
    service(out, is_colour, "postgresql", idle + busy == 0 ? "no connection" : NULL,
            "%llu of %llu connections busy, %llu calls in flight, %llu waiting; %llu queries, %llu errors", busy,
            idle + busy, sum(METRIC_PG_INFLIGHT), waiting, sum(METRIC_PG_QUERIES), sum(METRIC_PG_ERRORS));
}

static void text_redis(struct buf *out, bool is_colour)
{
    service(out, is_colour, "redis", sum(METRIC_REDIS_DOWN) > 0 ? "down" : NULL,
            "%llu connected, %llu down; %llu commands, %llu errors", sum(METRIC_REDIS_READY), sum(METRIC_REDIS_DOWN),
            sum(METRIC_REDIS_COMMANDS), sum(METRIC_REDIS_ERRORS));
}

static void text_cache(struct buf *out, bool is_colour)
{
    struct status_cache cache;
    char used[CELL], all[CELL];
    status_read_cache(&cache);
    if (cache.hit_ratio < 0)
        return; /* nobody asked it yet */
    cell_bytes(used, sum(METRIC_CACHE_BYTES_USED));
    cell_bytes(all, sum(METRIC_CACHE_BYTES_USED) + sum(METRIC_CACHE_BYTES_FREE));
    service(out, is_colour, "cache", NULL,
            "%.1f %% hits: %llu in memory, %llu in redis, %llu missed; %llu values, %s of %s", cache.hit_ratio * 100,
            (unsigned long long)(cache.hits_l1 + cache.stale_l1), (unsigned long long)cache.hits_l2,
            (unsigned long long)cache.misses, sum(METRIC_CACHE_ITEMS), used, all);
}

static unsigned long long labelled(enum metric metric, const char *label)
{
    return (unsigned long long)metrics_sum_labelled(metric, label);
}

static void text_limits(struct buf *out, const struct status_report *status, bool is_colour)
{
    unsigned long long failures = sum(METRIC_LIMIT_FALLBACKS) + sum(METRIC_LIMIT_BUSY_LOCKS);
    char trouble[64];
    snprintf(trouble, sizeof(trouble), "%llu failures of the store", failures);
    if (strcmp(status->limit_mode, "off") == 0)
        service(out, is_colour, "limits", NULL, "off");
    else
        service(out, is_colour, "limits", failures > 0 ? trouble : NULL,
                "%llu allowed, %llu refused, %llu reported (%s)", labelled(METRIC_LIMIT_CHECKS, "result=\"allowed\""),
                labelled(METRIC_LIMIT_CHECKS, "result=\"refused\""),
                labelled(METRIC_LIMIT_CHECKS, "result=\"reported\""), status->limit_mode);
}

static void text_jobs(struct buf *out, bool is_colour)
{
    service(out, is_colour, "jobs", NULL, "%llu running; %llu completed, %llu to be tried again, %llu dead",
            sum(METRIC_JOBS_RUNNING), labelled(METRIC_JOBS, "state=\"completed\""),
            labelled(METRIC_JOBS, "state=\"failed\""), labelled(METRIC_JOBS, "state=\"discarded\""));
}

static void text_outbound(struct buf *out, bool is_colour)
{
    if (sum(METRIC_CLIENT_CALLS) > 0)
        service(out, is_colour, "calls out", sum(METRIC_CLIENT_OPEN) > 0 ? "a host is left alone" : NULL,
                "%llu active, %llu waiting; %llu made, %llu failed", sum(METRIC_CLIENT_ACTIVE),
                sum(METRIC_CLIENT_WAITING), sum(METRIC_CLIENT_CALLS), sum(METRIC_CLIENT_FAILURES));
    if (sum(METRIC_MAIL_SENT) + sum(METRIC_MAIL_FAILED) + sum(METRIC_MAIL_WAITING) > 0)
        service(out, is_colour, "mail", NULL, "%llu waiting; %llu sent, %llu failed", sum(METRIC_MAIL_WAITING),
                sum(METRIC_MAIL_SENT), sum(METRIC_MAIL_FAILED));
}

static void text_services(struct buf *out, const struct status_report *status, bool is_colour)
{
    const struct scoreboard_totals *totals = &status->totals;
    service(out, is_colour, "workers", totals->failed > 0 ? "a crash loop: not started again" : NULL,
            "%llu deaths, %llu of them crashes; %llu stalls, %llu recycled, %u given up",
            (unsigned long long)totals->deaths, (unsigned long long)totals->crashes, (unsigned long long)totals->stalls,
            (unsigned long long)totals->recycled, totals->failed);
    if (status->has_pg)
        text_pg(out, is_colour);
    if (status->has_redis)
        text_redis(out, is_colour);
    text_cache(out, is_colour);
    text_limits(out, status, is_colour);
    if (status->has_pg)
        text_jobs(out, is_colour);
    text_outbound(out, is_colour);
    if (sum(METRIC_SEQ_NUMBERS) > 0)
        service(out, is_colour, "numbers", NULL, "%llu given out, %llu leases", sum(METRIC_SEQ_NUMBERS),
                sum(METRIC_SEQ_LEASES));
    if (sum(METRIC_LOG_DROPPED) > 0)
        service(out, is_colour, "log", "lines dropped", "%llu so far", sum(METRIC_LOG_DROPPED));
}

void status_write_text(struct buf *out, const struct status_report *status, bool is_colour)
{
    text_head(out, status, is_colour);
    text_processes(out, status, is_colour);
    text_services(out, status, is_colour);
}
