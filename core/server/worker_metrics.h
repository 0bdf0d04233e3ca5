/* What a worker counts: each answered request at once, what others keep count of (pools, Lua's heap, connections) when
 * it is looked at, twice a second. */
#pragma once

#include "base/metrics.h"
#include "http/server.h"
#include "server/host.h"
#include "server/worker_reload.h"

struct worker_metrics;
/* Borrows all; http NULL: a job worker. */
struct worker_metrics *worker_metrics_new(const struct host *host, const struct http_server *http,
                                          const struct worker_reload *reload);
/* Looks for the last time; borrows nothing any more. Requests are still counted until it is freed. */
void worker_metrics_stop(struct worker_metrics *metrics);
void worker_metrics_free(struct worker_metrics *metrics);  /* stopped */
void worker_metrics_begin(struct worker_metrics *metrics); /* a request has come */
/* The body of an http_log_fn. */
void worker_metrics_request(struct worker_metrics *metrics, const struct http_request *req, int status, uint64_t us);
