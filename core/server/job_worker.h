/* What a job worker has where a worker has its HTTP server: the jobs it runs. Its life (start, beats, drain) is
 * server/worker.c's. */
#pragma once

#include "server/host.h"

struct job_worker;

struct job_worker *job_worker_new(struct host *host, const struct config *config); /* returns owned */
void job_worker_free(struct job_worker *jobs); /* before the host's vm; NULL is fine */
unsigned job_worker_in_flight(const struct job_worker *jobs);
/* Takes no more jobs; those that run may end. on_drained is called once, from the loop, when none is left. */
void job_worker_drain(struct job_worker *jobs, void (*on_drained)(void *data), void *data);
/* They had their time: ends what still runs and hands it back to the queue, so that another process takes it at once.
 * on_drained follows, soon. After job_worker_drain. */
void job_worker_cut(struct job_worker *jobs);
