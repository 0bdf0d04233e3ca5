/* What may run on the shared Redis connection (TRAPS T1), and which commands only read. One table. Pure. */
#pragma once

#include "base/slice.h"

enum redis_effect {
    REDIS_WRITES, /* or unknown: a lost reply leaves the outcome unknown */
    REDIS_READS,  /* may be lost without harm */
    REDIS_REFUSED
};

/* argc >= 1. For REDIS_REFUSED, *advice (static) says why and what to write instead. */
enum redis_effect redis_guard(const struct slice *argv, size_t argc, const char **advice);
