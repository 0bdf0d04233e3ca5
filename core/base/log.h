/* Structured log: one line per event on stderr (or the descriptor given). Format is JSON in production
 * ({"ts":…,"level":"info","msg":…,"key":value…}) and tidy text in development. One write(2) a line, or a sink that
 * writes elsewhere than on the loop. Secrets and personal data are masked on the way (base/redact).
 * Logged where the decision is taken, once. Not thread-safe: main thread of each process only. */
#pragma once

#include "base/buf.h"

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };

/* A field: build with the macros below. */
struct log_field {
    const char *key;
    enum { LOG_STR, LOG_INT, LOG_RAW } kind; /* RAW: already JSON */
    struct slice str;
    int64_t num;
};
#define LOG_S(k, text) ((struct log_field){.key = (k), .kind = LOG_STR, .str = slice_str(text)})
#define LOG_SL(k, s) ((struct log_field){.key = (k), .kind = LOG_STR, .str = (s)})
#define LOG_I(k, n) ((struct log_field){.key = (k), .kind = LOG_INT, .num = (n)})
#define LOG_J(k, s) ((struct log_field){.key = (k), .kind = LOG_RAW, .str = (s)})

void log_open(int fd, enum log_level min, bool json, const char *process /* "worker 1"; borrowed for ever */);
/* Takes a whole line, without waiting; returns how many lines were dropped. NULL: back to the descriptor. */
typedef size_t (*log_sink_fn)(void *data, struct slice line);
void log_set_sink(log_sink_fn sink, void *data);
void log_set_redact(bool is_on, bool shows_ips); /* on and false until somebody says otherwise */
bool log_is_on(enum log_level level);
/* Appends the line, in the log's format, instead of writing it. On any thread. */
void log_append(struct buf *out, enum log_level level, const char *msg, const struct log_field *fields,
                size_t n_fields);
void log_event(enum log_level level, const char *msg, const struct log_field *fields, size_t n_fields);

#define log_write(level, msg, ...)                                                                                     \
    (log_is_on(level) ? log_event((level), (msg), (struct log_field[]){__VA_ARGS__},                                   \
                                  sizeof((struct log_field[]){__VA_ARGS__}) / sizeof(struct log_field))                \
                      : (void)0)
#define log_debug(msg, ...) log_write(LOG_DEBUG, msg, __VA_ARGS__)
#define log_info(msg, ...) log_write(LOG_INFO, msg, __VA_ARGS__)
#define log_warn(msg, ...) log_write(LOG_WARN, msg, __VA_ARGS__)
#define log_error(msg, ...) log_write(LOG_ERROR, msg, __VA_ARGS__)
