#include "server/access_log.h"

#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/json.h"

enum { WRITE_MAX = 4096 }; /* PIPE_BUF: what a pipe takes whole or not at all */

struct access_log {
    struct loop_hook hook;
    struct access_log_opts opts;
    struct buf lines;
};

/* Whole lines, at most WRITE_MAX bytes a write unless one line is longer. A descriptor that would block loses lines:
 * the loop is worth more than they are. */
static void flush(struct access_log *log)
{
    size_t pos = 0;
    while (pos < log->lines.len) {
        size_t len = log->lines.len - pos;
        if (len > WRITE_MAX) {
            const char *end = memrchr(log->lines.ptr + pos, '\n', WRITE_MAX);
            if (!end)
                end = memchr(log->lines.ptr + pos, '\n', len);
            len = (size_t)(end + 1 - (log->lines.ptr + pos));
        }
        if (write(log->opts.fd, log->lines.ptr + pos, len) < 0)
            break;
        pos += len;
    }
    buf_clear(&log->lines);
}

static void on_turn_end(struct loop_hook *hook)
{
    struct access_log *log = container_of(hook, struct access_log, hook);
    if (log->lines.len > 0)
        flush(log);
}

struct access_log *access_log_new(const struct access_log_opts *opts)
{
    struct access_log *log = xalloc(sizeof(*log));
    log->opts = *opts;
    loop_hook_add(opts->loop, &log->hook, on_turn_end);
    return log;
}

void access_log_free(struct access_log *log)
{
    if (!log)
        return;
    flush(log);
    loop_hook_remove(&log->hook);
    buf_free(&log->lines);
    free(log);
}

static void write_json(struct buf *out, const struct http_request *req, int status, size_t bytes, uint64_t us)
{
    char ts[CLOCK_RFC3339_LEN + 1];
    clock_rfc3339(clock_wall_ms(), ts);
    const char *method = http_method_name(req->method);
    buf_lit(out, "{\"ts\":\"");
    buf_append(out, ts, CLOCK_RFC3339_LEN);
    buf_lit(out, "\",\"level\":\"info\",\"msg\":\"request\",\"method\":\"");
    buf_append(out, method, strlen(method));
    buf_lit(out, "\",\"route\":");
    if (req->route)
        json_write_string(out, slice_str(req->route->pattern));
    else
        buf_lit(out, "null");
    buf_lit(out, ",\"status\":");
    buf_int(out, status);
    buf_lit(out, ",\"bytes\":");
    buf_int(out, (int64_t)bytes);
    buf_lit(out, ",\"ms\":");
    buf_int(out, (int64_t)(us / 1000));
    buf_byte(out, '.');
    for (uint64_t digit = 100; digit > 0; digit /= 10)
        buf_byte(out, (char)('0' + us / digit % 10));
    buf_lit(out, ",\"id\":");
    json_write_string(out, slice_str(req->id));
    buf_lit(out, ",\"ip\":");
    json_write_string(out, slice_str(req->ip));
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

static void write_text(struct buf *out, const struct access_log_opts *opts, const struct http_request *req, int status,
                       size_t bytes, uint64_t us)
{
    char ts[CLOCK_RFC3339_LEN + 1];
    clock_rfc3339(clock_wall_ms(), ts);
    const char *on = opts->is_colour ? colour_of(status) : "", *off = opts->is_colour ? "\033[0m" : "";
    buf_printf(out, "%.8s %s%d%s %-6s ", ts + 11, on, status, off, http_method_name(req->method));
    write_path(out, req->path);
    buf_printf(out, "  %zu B  %llu.%llu ms\n", bytes, (unsigned long long)(us / 1000),
               (unsigned long long)(us / 100 % 10));
}

void access_log_write(struct access_log *log, const struct http_request *req, int status, size_t bytes, uint64_t us)
{
    if (log->opts.is_json)
        write_json(&log->lines, req, status, bytes, us);
    else
        write_text(&log->lines, &log->opts, req, status, bytes, us);
    if (log->lines.len > 16 * WRITE_MAX)
        flush(log);
}
