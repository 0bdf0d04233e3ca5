/* Whole lines of text to one descriptor, written by a thread of its own: who pushes never waits for a disk, a pipe or a
 * terminal. What is not written yet is bounded; beyond, lines are dropped and counted, and a line says later how many.
 *
 * Pushed from one thread. Writes on a pipe are whole lines of at most PIPE_BUF bytes where lines are that short, so
 * that processes that share one do not mix. Errors (a full disk) are tried again once a second, and told on standard
 * error once a minute: what is told elsewhere cannot come where nothing can be written. */
#pragma once

#include "base/buf.h"
#include "base/err.h"

struct log_writer;

struct log_writer_news {
    uint64_t n_dropped; /* lines, since the last time */
    int open_error;     /* errno of a reopening that failed; 0: none */
    int write_error;    /* errno of a write that failed, and is tried again; 0: none */
    const char *path;   /* of that write */
};

struct log_writer_opts {
    const char *path; /* appended to, made if it is not there; copied. NULL: */
    int fd;           /* borrowed */
    size_t max_bytes; /* of what waits, and of what is being written */
    /* On the writer's thread: appends the lines that tell of it. NULL: nobody is told. */
    void (*tell)(struct buf *out, const struct log_writer_news *news);
};

/* BLOCKING: opens the file. Returns owned, or NULL. The thread starts with the first line. */
struct log_writer *log_writer_new(const struct log_writer_opts *opts, struct err *err);
/* One or more whole lines, '\n' included. Takes what there is room for; returns how many lines were dropped. */
size_t log_writer_push(struct log_writer *writer, struct slice lines);
/* Opens the path anew, on the thread, after what has been pushed so far is written to the old file. If that fails the
 * old file stays. Nothing for a borrowed descriptor. */
void log_writer_reopen(struct log_writer *writer);
/* Waits until what has been pushed is written, max_ms at most; true: it is. Async-signal-safe. */
bool log_writer_drain(struct log_writer *writer, uint32_t max_ms);
/* BLOCKING, max_ms at most: writes what is left. A thread that is stuck in a write is left behind. */
void log_writer_free(struct log_writer *writer, uint32_t max_ms);
