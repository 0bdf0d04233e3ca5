/* One line per answered request: JSON for machines, or one tidy line for a developer's terminal. A request costs no
 * allocation and no system call: a thread writes (net/log_writer). Query strings are never logged. */
#pragma once

#include "http/request.h"
#include "net/log_writer.h"

struct access_log_opts {
    struct log_writer *writer; /* borrowed */
    bool is_json;
    bool is_colour; /* text only: the descriptor is a terminal */
    bool shows_ips; /* whole; else the network */
};

struct access_log;
struct access_log *access_log_new(const struct access_log_opts *opts); /* returns owned */
void access_log_free(struct access_log *log);
/* The body of an http_log_fn. */
void access_log_write(struct access_log *log, const struct http_request *req, int status, size_t bytes, uint64_t us);
