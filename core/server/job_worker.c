#include "server/job_worker.h"

#include "bind/bind_jobs.h"

void job_worker_start(struct host *host, const struct config *config)
{
    const struct config_value *queues = &config->values[CONFIG_JOBS_QUEUES];
    struct jobs_work_opts opts = {.max_running = (unsigned)config_number(config, CONFIG_JOBS_CONCURRENCY),
                                  .lease_ms = (uint32_t)config_number(config, CONFIG_JOBS_LEASE),
                                  .keep_ms = config_number(config, CONFIG_JOBS_KEEP),
                                  .keep_dead_ms = config_number(config, CONFIG_JOBS_KEEP_DEAD),
                                  .queues = queues->items,
                                  .n_queues = queues->n_items};
    CHECK(host->jobs); /* config_job_workers: none without PostgreSQL */
    jobs_work(host->jobs, &opts);
    job_worker_switch(host);
}

void job_worker_switch(struct host *host)
{
    struct job_generation generation = bind_jobs_generation(host->vm);
    jobs_set_generation(host->jobs, &generation);
}
