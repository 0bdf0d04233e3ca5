/* W3C Trace Context, level 1: the header `traceparent` that ties the calls of several services to one trace.
 * (https://www.w3.org/TR/trace-context/, 3.2) */
#pragma once

#include "base/slice.h"

struct http_request;

struct trace_context {
    char trace_id[33]; /* 32 lower-case hex digits */
    bool is_sampled;
};

/* False: the value is none, and is to be treated as if it were not there. */
bool trace_context_parse(struct slice value, struct trace_context *out) MUST_CHECK;
/* Of a request; false also when it has several. */
bool trace_context_of(const struct http_request *req, struct trace_context *out) MUST_CHECK;
/* "00-<trace>-<new span>-<flags>", NUL-terminated: for a call made on behalf of it. */
#define TRACE_PARENT_LEN 55
void trace_context_child(const struct trace_context *context, char out[TRACE_PARENT_LEN + 1]);
