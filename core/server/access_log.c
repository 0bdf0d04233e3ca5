#include "server/access_log.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/metrics.h"
#include "base/redact.h"

struct access_log {
    struct access_log_opts opts;
    struct buf line;
};

struct access_log *access_log_new(const struct access_log_opts *opts)
{
    struct access_log *log = xalloc(sizeof(*log));
    log->opts = *opts;
    return log;
}

void access_log_free(struct access_log *log)
{
    if (!log)
        return;
    buf_free(&log->line);
    free(log);
}

/* ,"name":1.234 */
static void member_ms(struct buf *out, const char *name, uint64_t us)
{
    buf_lit(out, ",\"");
    buf_append(out, name, strlen(name));
    buf_lit(out, "\":");
    buf_int(out, (int64_t)(us / 1000));
    buf_byte(out, '.');
    for (uint64_t digit = 100; digit > 0; digit /= 10)
        buf_byte(out, (char)('0' + us / digit % 10));
}

/* Where the time went. What calls that ran side by side took is added up, so parts may be more than the whole; what is
 * left of the whole is Lua's, and ours. */
static void members_times(struct buf *out, const struct http_request *req, uint64_t us)
{
    const uint64_t *waited = req->waited_us;
    uint64_t pg = waited[HTTP_WAIT_PG], queue = waited[HTTP_WAIT_PG_QUEUE], other = waited[HTTP_WAIT_OTHER];
    uint64_t all = pg + waited[HTTP_WAIT_REDIS] + waited[HTTP_WAIT_CALL] + other;
    queue = queue < pg ? queue : pg; /* it is counted in steps of a millisecond */
    member_ms(out, "ms", us);
    member_ms(out, "lua_ms", us > all ? us - all : 0);
    member_ms(out, "pg_ms", pg - queue);
    member_ms(out, "redis_ms", waited[HTTP_WAIT_REDIS]);
    member_ms(out, "http_ms", waited[HTTP_WAIT_CALL]);
    member_ms(out, "wait_ms", other + queue);
}

static void member_ip(struct buf *out, const struct http_request *req, bool is_whole)
{
    buf_lit(out, ",\"ip\":\"");
    if (is_whole)
        buf_slice(out, slice_str(req->ip));
    else
        redact_ip(slice_str(req->ip), out);
    buf_byte(out, '"');
}

static void write_json(struct buf *out, const struct access_log_opts *opts, const struct http_request *req, int status,
                       size_t bytes, uint64_t us)
{
    char ts[CLOCK_RFC3339_LEN + 1];
    clock_rfc3339(clock_wall_ms(), ts);
    const char *method = http_method_name(req->method);
    buf_lit(out, "{\"ts\":\"");
    buf_append(out, ts, CLOCK_RFC3339_LEN);
    buf_lit(out, "\",\"level\":\"info\",\"msg\":\"request\",\"request_id\":");
    json_write_string(out, slice_str(req->id));
    buf_lit(out, ",\"method\":\"");
    buf_append(out, method, strlen(method));
    buf_lit(out, "\",\"route\":");
    if (req->route)
        json_write_string(out, slice_str(req->route->pattern));
    else
        buf_lit(out, "null");
    buf_lit(out, ",\"generation\":\"");
    buf_slice(out, req->generation);
    buf_lit(out, "\",\"status\":");
    buf_int(out, status);
    buf_lit(out, ",\"bytes\":");
    buf_int(out, (int64_t)bytes);
    members_times(out, req, us);
    member_ip(out, req, opts->shows_ips);
    buf_lit(out, "}\n");
}

/* The peer's bytes go to a terminal here: nothing below a space, nothing above ASCII. */
static void write_path(struct buf *out, struct slice path)
{
    enum { PATH_MAX_SHOWN = 100 };
    for (size_t i = 0; i < path.len && i < PATH_MAX_SHOWN; i++)
        buf_byte(out, path.ptr[i] > ' ' && path.ptr[i] < 0x7f ? path.ptr[i] : '?');
    if (path.len > PATH_MAX_SHOWN)
        buf_lit(out, "…");
}

static const char *colour_of(int status)
{
    if (status >= 500)
        return "\033[31m";
    return status >= 400 ? "\033[33m" : "\033[32m";
}

enum { CELL = 24 };

static void cell_ms(char out[CELL], uint64_t us)
{
    snprintf(out, CELL, "%llu.%llu ms", (unsigned long long)(us / 1000), (unsigned long long)(us / 100 % 10));
}

static void cell_size(char out[CELL], size_t bytes)
{
    if (bytes < 10000)
        snprintf(out, CELL, "%zu B", bytes);
    else
        snprintf(out, CELL, bytes < 10000000 ? "%.0f kB" : "%.0f MB", (double)bytes / (bytes < 10000000 ? 1e3 : 1e6));
}

/* What it waited for, if that was a tenth of a millisecond or more. */
static void write_waits(struct buf *out, const struct access_log_opts *opts, const uint64_t waited_us[HTTP_N_WAITS])
{
    static const char *const names[HTTP_N_WAITS] = {[HTTP_WAIT_OTHER] = "waiting",
                                                    [HTTP_WAIT_PG] = "postgresql",
                                                    [HTTP_WAIT_REDIS] = "redis",
                                                    [HTTP_WAIT_CALL] = "calls out"};
    const char *before = opts->is_colour ? "  \033[2m" : "  ";
    for (size_t i = 0; i < HTTP_N_WAITS; i++) {
        char ms[CELL];
        if (!names[i] || waited_us[i] < 100)
            continue;
        cell_ms(ms, waited_us[i]);
        buf_printf(out, "%s%s %s", before, names[i], ms);
        before = ", ";
    }
    if (opts->is_colour && before[0] == ',')
        buf_lit(out, "\033[0m");
}

/* 17:59:39 200 GET       1.5 ms     198 B  /api/products/mug  postgresql 1.1 ms */
static void write_text(struct buf *out, const struct access_log_opts *opts, const struct http_request *req, int status,
                       size_t bytes, uint64_t us)
{
    char ts[CLOCK_RFC3339_LEN + 1], ms[CELL], size[CELL];
    clock_rfc3339(clock_wall_ms(), ts);
    cell_ms(ms, us);
    cell_size(size, bytes);
    const char *on = opts->is_colour ? colour_of(status) : "", *off = opts->is_colour ? "\033[0m" : "";
    buf_printf(out, "%.8s %s%d%s %-6s %9s %9s  ", ts + 11, on, status, off, http_method_name(req->method), ms, size);
    write_path(out, req->path);
    write_waits(out, opts, req->waited_us);
    buf_byte(out, '\n');
}

void access_log_write(struct access_log *log, const struct http_request *req, int status, size_t bytes, uint64_t us)
{
    buf_clear(&log->line);
    if (log->opts.is_json)
        write_json(&log->line, &log->opts, req, status, bytes, us);
    else
        write_text(&log->line, &log->opts, req, status, bytes, us);
    size_t n_dropped = log_writer_push(log->opts.writer, buf_as_slice(&log->line));
    if (n_dropped > 0)
        metrics_add(METRIC_LOG_DROPPED, n_dropped);
}
