/* Turns an event into one line and hands it to the kernel in one write(2), so that lines of several
 * processes on one pipe do not mix. A descriptor that would block loses the line rather than stall the
 * loop; the next line that gets through says how many were lost. A sink (net/log_writer) does that better. */
#include "base/log.h"

#include <errno.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/metrics.h"
#include "base/redact.h"

#define LINE_KEEP_CAP 65536 /* a longer line's buffer is given back after it */

static struct {
    int fd;
    enum log_level min;
    bool is_json;
    const char *process;
    int64_t n_lost;
    bool is_cut;      /* the last line went out only in part: the next begins a line of its own */
    log_sink_fn sink; /* NULL: the descriptor */
    void *sink_data;
    bool redacts, shows_ips;
    struct buf line;
} logger = {.fd = STDERR_FILENO, .min = LOG_INFO, .redacts = true};

static const char *const level_names[] = {"debug", "info", "warn", "error"};
static const char *const level_tags[] = {"DEBUG ", "INFO  ", "WARN  ", "ERROR "};

void log_open(int fd, enum log_level min, bool json, const char *process)
{
    logger.fd = fd;
    logger.min = min;
    logger.is_json = json;
    logger.process = process;
}

void log_set_sink(log_sink_fn sink, void *data)
{
    logger.sink = sink;
    logger.sink_data = data;
}

void log_set_redact(bool is_on, bool shows_ips)
{
    logger.redacts = is_on;
    logger.shows_ips = shows_ips;
}

bool log_is_on(enum log_level level)
{
    return level >= logger.min;
}

/* ---- what may be shown ---- */

/* The field as it may be shown; what had to change lies in *texts. */
static struct log_field mask(const struct log_field *field, struct buf *texts)
{
    struct log_field shown = *field;
    if (!logger.redacts || (field->kind != LOG_INT && field->str.len == 0))
        return shown;
    if (redact_is_name(slice_str(field->key))) {
        shown.kind = LOG_STR;
        shown.str = SLICE("***");
    } else if (field->kind == LOG_STR && strcmp(field->key, "ip") == 0 && !logger.shows_ips) {
        redact_ip(field->str, texts);
        shown.str = buf_as_slice(texts);
    } else if ((field->kind == LOG_STR && redact_text(field->str, texts)) ||
               (field->kind == LOG_RAW && redact_json(field->str, texts))) {
        shown.str = buf_as_slice(texts);
    }
    return shown;
}

static void put(struct buf *line, const struct log_field *field,
                void (*write_field)(struct buf *line, const struct log_field *field))
{
    struct buf texts = {0};
    struct log_field shown = mask(field, &texts);
    write_field(line, &shown);
    buf_free(&texts);
}

/* ---- JSON ---- */

static void json_field(struct buf *line, const struct log_field *field)
{
    buf_byte(line, ',');
    json_write_string(line, slice_str(field->key));
    buf_byte(line, ':');
    switch (field->kind) {
    case LOG_STR:
        if (field->str.ptr)
            json_write_string(line, field->str);
        else
            buf_lit(line, "null");
        return;
    case LOG_INT:
        json_write_int(line, field->num);
        return;
    case LOG_RAW:
        buf_slice(line, field->str.len ? field->str : SLICE("null"));
        return;
    }
    WRONG("log field kind");
}

static void json_line(struct buf *line, enum log_level level, const char *msg, const struct log_field *fields, size_t n)
{
    char ts[CLOCK_RFC3339_LEN + 1];
    clock_rfc3339(clock_wall_ms(), ts);
    buf_printf(line, "{\"ts\":\"%s\",\"level\":\"%s\"", ts, level_names[level]);
    if (logger.process)
        json_field(line, &LOG_S("process", logger.process));
    put(line, &LOG_S("msg", msg), json_field);
    for (size_t i = 0; i < n; i++)
        put(line, &fields[i], json_field);
    if (logger.n_lost)
        json_field(line, &LOG_I("lost_lines", logger.n_lost));
    buf_byte(line, '}');
}

/* ---- text ---- */

static bool is_control(struct slice s, size_t i)
{
    unsigned char c = (unsigned char)s.ptr[i];
    bool is_c1 = c == 0xC2 && i + 1 < s.len && ((unsigned char)s.ptr[i + 1] & 0xE0) == 0x80; /* U+0080 … U+009F */
    return c < 0x20 || c == 0x7F || is_c1;
}

/* Control characters are made visible, so that a peer's bytes can neither start a line nor move a cursor. */
static void text_bytes(struct buf *line, struct slice s)
{
    for (size_t i = 0; i < s.len; i++) {
        if (s.ptr[i] == '\n')
            buf_lit(line, "\n    ");
        else if (s.ptr[i] == '\t')
            buf_byte(line, ' ');
        else if (is_control(s, i))
            buf_printf(line, "\\x%02x", (unsigned char)s.ptr[i]);
        else
            buf_byte(line, s.ptr[i]);
    }
}

static bool needs_quotes(struct slice s)
{
    for (size_t i = 0; i < s.len; i++) {
        if (s.ptr[i] == ' ' || s.ptr[i] == '\t' || s.ptr[i] == '"' || s.ptr[i] == '=')
            return true;
    }
    return s.len == 0;
}

static bool is_multiline(const struct log_field *field)
{
    return field->kind == LOG_STR && field->str.len && memchr(field->str.ptr, '\n', field->str.len);
}

static void text_field(struct buf *line, const struct log_field *field)
{
    buf_byte(line, ' ');
    buf_slice(line, slice_str(field->key));
    buf_byte(line, '=');
    switch (field->kind) {
    case LOG_STR:
        if (needs_quotes(field->str)) {
            buf_byte(line, '"');
            text_bytes(line, field->str);
            buf_byte(line, '"');
        } else {
            text_bytes(line, field->str);
        }
        return;
    case LOG_INT:
        buf_int(line, field->num);
        return;
    case LOG_RAW:
        text_bytes(line, field->str);
        return;
    }
    WRONG("log field kind");
}

static void text_message(struct buf *line, const struct log_field *field)
{
    text_bytes(line, field->str);
}

/* Tracebacks and the like follow the line, indented. */
static void text_block(struct buf *line, const struct log_field *field)
{
    buf_printf(line, "\n  %s:\n    ", field->key);
    text_bytes(line, field->str);
}

static void text_line(struct buf *line, enum log_level level, const char *msg, const struct log_field *fields, size_t n)
{
    char ts[CLOCK_RFC3339_LEN + 1];
    clock_rfc3339(clock_wall_ms(), ts);
    buf_append(line, ts + 11, 12); /* the time of day; the date is known to who watches */
    buf_byte(line, ' ');
    buf_slice(line, slice_str(level_tags[level]));
    if (logger.process) {
        buf_slice(line, slice_str(logger.process));
        buf_lit(line, ": ");
    }
    put(line, &LOG_S("msg", msg), text_message);
    for (size_t i = 0; i < n; i++)
        if (!is_multiline(&fields[i]))
            put(line, &fields[i], text_field);
    if (logger.n_lost)
        text_field(line, &LOG_I("lost_lines", logger.n_lost));
    for (size_t i = 0; i < n; i++)
        if (is_multiline(&fields[i]))
            put(line, &fields[i], text_block);
}

/* ---- out ---- */

/* Loops only to finish a line that the kernel took in part. */
static void line_write(const struct buf *line)
{
    size_t sent = 0;
    while (sent < line->len) {
        ssize_t n = write(logger.fd, line->ptr + sent, line->len - sent);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        sent += (size_t)n;
    }
    logger.is_cut = sent > 0 ? sent < line->len : logger.is_cut;
    logger.n_lost = sent == line->len ? 0 : logger.n_lost + 1;
}

static void line_send(const struct buf *line)
{
    if (!logger.sink) {
        line_write(line);
        return;
    }
    size_t n_dropped = logger.sink(logger.sink_data, buf_as_slice(line));
    if (n_dropped > 0)
        metrics_add(METRIC_LOG_DROPPED, n_dropped);
}

void log_append(struct buf *out, enum log_level level, const char *msg, const struct log_field *fields, size_t n_fields)
{
    if (logger.is_json)
        json_line(out, level, msg, fields, n_fields);
    else
        text_line(out, level, msg, fields, n_fields);
    buf_byte(out, '\n');
}

void log_event(enum log_level level, const char *msg, const struct log_field *fields, size_t n_fields)
{
    int saved_errno = errno; /* a log line must not change what its caller is about to report */
    struct buf *line = &logger.line;
    buf_clear(line);
    if (logger.is_cut)
        buf_byte(line, '\n');
    log_append(line, level, msg, fields, n_fields);
    line_send(line);
    if (line->cap > LINE_KEEP_CAP)
        buf_free(line);
    errno = saved_errno;
}
