/* What a worker counts: each answered request at once, what others keep count of (pools, Lua's heap, connections) when
 * it is looked at, twice a second. */
#pragma once

#include "base/metrics.h"
#include "http/server.h"
#include "server/host.h"

struct worker_metrics;
/* `host` and `http` are borrowed, and may be NULL where the process has none. */
struct worker_metrics *worker_metrics_new(const struct host *host, const struct http_server *http);
/* Looks for the last time; borrows nothing any more. Requests are still counted until it is freed. */
void worker_metrics_stop(struct worker_metrics *metrics);
void worker_metrics_free(struct worker_metrics *metrics); /* stopped */
/* The body of an http_log_fn. */
void worker_metrics_request(struct worker_metrics *metrics, const struct http_request *req, int status, uint64_t us);
