#include "server/job_worker.h"

#include <stdlib.h>

struct job_worker {
    struct loop *loop;
    struct loop_task task;
    void (*on_drained)(void *data);
    void *data;
};

struct job_worker *job_worker_new(struct host *host, const struct config *config UNUSED)
{
    struct job_worker *jobs = xalloc(sizeof(*jobs));
    jobs->loop = host->loop;
    return jobs;
}

void job_worker_free(struct job_worker *jobs)
{
    if (!jobs)
        return;
    loop_defer_cancel(&jobs->task);
    free(jobs);
}

unsigned job_worker_in_flight(const struct job_worker *jobs UNUSED)
{
    return 0;
}

static void on_empty(struct loop_task *task)
{
    struct job_worker *jobs = container_of(task, struct job_worker, task);
    jobs->on_drained(jobs->data);
}

void job_worker_drain(struct job_worker *jobs, void (*on_drained)(void *data), void *data)
{
    jobs->on_drained = on_drained;
    jobs->data = data;
    loop_defer(jobs->loop, &jobs->task, on_empty);
}

void job_worker_cut(struct job_worker *jobs UNUSED) {}
