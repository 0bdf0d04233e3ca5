/* A circuit breaker: keeps calls away from a service that only fails, so that they fail at once instead of each waiting
 * for its time-out, and the service is not hit while it is down.
 *
 *   closed     calls pass; `failures` in a row open it, a success in between starts the count anew
 *   open       calls are refused for open_ms
 *   half open  one call at a time is let through: its success closes it, its failure opens it again
 *
 * Time is the caller's (milliseconds of the loop). Zeroed is closed. */
#pragma once

#include "base/base.h"

struct breaker_opts {
    unsigned failures; /* 0: never opens */
    uint32_t open_ms;
};

struct breaker {
    unsigned n_failures; /* in a row */
    uint64_t open_until_ms;
    bool is_open, is_probing;
};

enum breaker_outcome {
    BREAKER_SUCCESS, /* the service answered */
    BREAKER_FAILURE, /* it did not, or said that it cannot */
    BREAKER_UNKNOWN, /* given up by the caller: says nothing about the service */
};

/* True: call, and report the outcome with the same `*is_probe` exactly once. False: refuse. */
bool breaker_allow(struct breaker *breaker, uint64_t now_ms, bool *is_probe);
/* True if this opened it. */
bool breaker_report(struct breaker *breaker, const struct breaker_opts *opts, uint64_t now_ms, bool is_probe,
                    enum breaker_outcome outcome);
