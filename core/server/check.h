/* The throw-away process in which new code is compiled, run and tested before any worker sees it (TRAPS T7): what it
 * does to itself, it does to nobody else. */
#pragma once

#include "server/spawn.h"

/* Its descriptors. The answer on CHECK_CONTROL is one message: CONTROL_READY with the sealed bundle, value = number of
 * routes, text = hash; or CONTROL_FAIL with what is wrong, "file:line: message" and lines of traceback. No message: it
 * died. */
enum check_fd { CHECK_CONTROL = SPAWN_FIRST_FD, CHECK_CONFIG, CHECK_FD_END };

#define CHECK_ROLE "--check" /* argv[1]; argv[2] is how many processes share the pool's budget */

int check_main(int argc, char **argv); /* the process's exit code */
