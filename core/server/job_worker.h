/* What a job worker does where a worker has its HTTP server: it runs the jobs that its application defines. Its life
 * (start, beats, drain) is server/worker.c's; host->jobs knows what runs. */
#pragma once

#include "server/host.h"

void job_worker_start(struct host *host, const struct config *config); /* when host->vm is ready */
/* host->vm is a new one: from now on its jobs and timetables count. Jobs that run end in the VM they began in, which
 * must stay until vm_active says 0. */
void job_worker_switch(struct host *host);
