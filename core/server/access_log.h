/* One line per answered request: JSON for machines, or one tidy line for a developer's terminal. Lines of a loop turn
 * leave in one write (whole lines, at most 4 KiB a write, so that workers sharing a pipe do not mix). A request costs
 * no allocation and no system call of its own. */
#pragma once

#include "http/request.h"
#include "net/loop.h"

struct access_log_opts {
    struct loop *loop;
    int fd; /* borrowed */
    bool is_json;
    bool is_colour; /* text only: the descriptor is a terminal */
};

struct access_log;
struct access_log *access_log_new(const struct access_log_opts *opts); /* returns owned */
void access_log_free(struct access_log *log);                          /* writes what is left */
/* The body of an http_log_fn. */
void access_log_write(struct access_log *log, const struct http_request *req, int status, size_t bytes, uint64_t us);
