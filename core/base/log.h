/* Structured log: one line per event on stderr (or the descriptor given). Format is JSON in production
 * ({"ts":…,"level":"info","msg":…,"key":value…}) and tidy text in development. One write(2) a line.
 * Logged where the decision is taken, once. Not thread-safe: main thread of each process only. */
#pragma once

#include "base/slice.h"

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
bool log_is_on(enum log_level level);
void log_event(enum log_level level, const char *msg, const struct log_field *fields, size_t n_fields);

#define log_write(level, msg, ...)                                                                                     \
    (log_is_on(level) ? log_event((level), (msg), (struct log_field[]){__VA_ARGS__},                                   \
                                  sizeof((struct log_field[]){__VA_ARGS__}) / sizeof(struct log_field))                \
                      : (void)0)
#define log_debug(msg, ...) log_write(LOG_DEBUG, msg, __VA_ARGS__)
#define log_info(msg, ...) log_write(LOG_INFO, msg, __VA_ARGS__)
#define log_warn(msg, ...) log_write(LOG_WARN, msg, __VA_ARGS__)
#define log_error(msg, ...) log_write(LOG_ERROR, msg, __VA_ARGS__)
