/* One worker process: serves requests on the listener it was given, or runs jobs (server/job_worker.h), until it is
 * told to drain, then exits 0. */
#pragma once

#include "server/segments.h"
#include "server/spawn.h"

/* The descriptors of a worker, in the order in which spawn_opts.fds hands them over. */
enum worker_fd {
    WORKER_CONTROL = SPAWN_FIRST_FD,
    WORKER_CONFIG,
    WORKER_BUNDLE,
    WORKER_SEGMENTS,                                /* … one descriptor for each enum segment */
    WORKER_LISTENER = WORKER_SEGMENTS + N_SEGMENTS, /* the last: job workers have none */
    WORKER_FD_END
};
enum { WORKER_N_FDS = WORKER_FD_END - SPAWN_FIRST_FD };

/* argv[1]; argv[2] is its number in that role, from 0, argv[3] how many of both there are, argv[4] the number of the
 * generation that WORKER_BUNDLE is, argv[5] its slot on the scoreboard */
#define WORKER_ROLE "--worker"
#define WORKER_ROLE_JOBS "--jobs"

int worker_main(int argc, char **argv); /* the process's exit code */
