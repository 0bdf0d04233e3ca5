#include "server/config_log.h"

#include <fcntl.h>
#include <unistd.h>

#include "base/log.h"

enum { STOP_MS = 2000 };

static struct {
    struct log_writer *writer, *access; /* owned; access: NULL if it is the other one */
} logs;

static size_t push(void *data, struct slice lines)
{
    return log_writer_push(data, lines);
}

static enum log_level level_of(const struct config *config)
{
    static const char *const names[] = {
        [LOG_DEBUG] = "debug", [LOG_INFO] = "info", [LOG_WARN] = "warn", [LOG_ERROR] = "error"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (strcmp(names[i], config_text(config, CONFIG_LOG_LEVEL)) == 0)
            return (enum log_level)i;
    return LOG_INFO;
}

static void apply(const struct config *config, const char *process, int fd)
{
    bool is_json = strcmp(config_text(config, CONFIG_LOG_FORMAT), "json") == 0;
    log_open(fd, level_of(config), is_json, process);
    log_set_redact(config_number(config, CONFIG_LOG_REDACT) != 0,
                   strcmp(config_text(config, CONFIG_LOG_IP), "full") == 0);
}

void config_log_open(const struct config *config, const char *process)
{
    int fd = -1;
    if (config_is_set(config, CONFIG_LOG_FILE))
        fd = open(config_text(config, CONFIG_LOG_FILE), O_WRONLY | O_APPEND | O_CLOEXEC);
    apply(config, process, fd < 0 ? STDERR_FILENO : fd);
}

/* On the writer's thread. */
static void tell(struct buf *out, const struct log_writer_news *news)
{
    if (news->n_dropped > 0)
        log_append(out, LOG_WARN, "log lines dropped: they could not be written as fast as they came",
                   &LOG_I("dropped", (int64_t)news->n_dropped), 1);
    if (news->open_error)
        log_append(out, LOG_ERROR, "the log file cannot be reopened: the old one is written on",
                   &LOG_S("error", strerror(news->open_error)), 1);
    if (news->write_error) {
        const struct log_field fields[] = {LOG_S("file", news->path), LOG_S("error", strerror(news->write_error))};
        log_append(out, LOG_ERROR, "a log file cannot be written: lines wait, and those beyond log.buffer are dropped",
                   fields, ARRAY_LEN(fields));
    }
}

/* The master says at its start that a file cannot be opened. A worker that is born later serves all the same. */
static enum status open_writer(const struct config *config, enum config_key file, bool may_fail,
                               struct log_writer **out, struct err *err)
{
    struct log_writer_opts opts = {.path = config_is_set(config, file) ? config_text(config, file) : NULL,
                                   .fd = STDERR_FILENO,
                                   .max_bytes = (size_t)config_number(config, CONFIG_LOG_BUFFER),
                                   .tell = tell};
    *out = log_writer_new(&opts, err);
    if (!*out && !may_fail) {
        log_error("this process logs to standard error", LOG_S("error", err->message));
        opts.path = NULL;
        *out = log_writer_new(&opts, err);
    }
    return *out ? OK : err_prefix(err, "%s", config_keys[file].name);
}

enum status config_log_start(const struct config *config, const char *process, struct err *err)
{
    CHECK(!logs.writer);
    apply(config, process, STDERR_FILENO);
    if (open_writer(config, CONFIG_LOG_FILE, !process, &logs.writer, err) != OK)
        return ERR;
    if (config_is_set(config, CONFIG_LOG_ACCESS_FILE) &&
        open_writer(config, CONFIG_LOG_ACCESS_FILE, !process, &logs.access, err) != OK) {
        config_log_stop();
        return ERR;
    }
    log_set_sink(push, logs.writer);
    return OK;
}

struct log_writer *config_log_access(void)
{
    return logs.access ? logs.access : logs.writer;
}

void config_log_reopen(void)
{
    if (logs.writer)
        log_writer_reopen(logs.writer);
    if (logs.access)
        log_writer_reopen(logs.access);
}

void config_log_drain(uint32_t max_ms)
{
    if (logs.writer)
        (void)log_writer_drain(logs.writer, max_ms);
}

void config_log_stop(void)
{
    log_set_sink(NULL, NULL);
    log_writer_free(logs.access, STOP_MS);
    log_writer_free(logs.writer, STOP_MS);
    logs.access = logs.writer = NULL;
}
