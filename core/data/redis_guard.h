/* What may run on the shared Redis connection (TRAPS T1), and which commands only read. One table. Pure. */
#pragma once

#include "base/slice.h"

enum redis_effect {
    REDIS_WRITES, /* or unknown: a lost reply leaves the outcome unknown */
    REDIS_READS,  /* may be lost without harm */
    REDIS_BLOCKS, /* waits inside Redis: on a connection of its own */
    REDIS_REFUSED
};

/* argc >= 1. For REDIS_REFUSED, *advice (static) says why and what to write instead. */
enum redis_effect redis_guard(const struct slice *argv, size_t argc, const char **advice);
/* Of a command that blocks: which argument is its timeout (0: there is none, which Redis will say itself), whether that
 * counts milliseconds, whether the command only reads, and whether it can be sent again where it left off. */
struct redis_blocking {
    size_t timeout;
    bool in_ms, reads, resumes;
};
struct redis_blocking redis_guard_blocking(const struct slice *argv, size_t argc);
