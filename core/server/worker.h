/* One worker process: serves requests on the listener it was given until it is told to drain, then exits 0. */
#pragma once

#include "server/segments.h"
#include "server/spawn.h"

/* The descriptors of a worker, in the order in which spawn_opts.fds hands them over. */
enum worker_fd {
    WORKER_CONTROL = SPAWN_FIRST_FD,
    WORKER_CONFIG,
    WORKER_BUNDLE,
    WORKER_LISTENER,
    WORKER_SEGMENTS, /* … one descriptor for each enum segment */
    WORKER_FD_END = WORKER_SEGMENTS + N_SEGMENTS
};
enum { WORKER_N_FDS = WORKER_FD_END - SPAWN_FIRST_FD };

#define WORKER_ROLE "--worker" /* argv[1]; argv[2] is the worker's number, from 0, argv[3] how many there are */

int worker_main(int argc, char **argv); /* the process's exit code */
