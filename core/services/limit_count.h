/* The arithmetic of one key's count. Pure: memory and time are handed in. Redis runs the same in its script
 * (limit_redis.c); the unit tests hold both against one table. */
#pragma once

#include "services/limit.h"

/* What is remembered of one key under one rule. Zeroed = nothing yet. */
struct limit_count {
    uint64_t until_us; /* from then on it is as good as zeroed */
    union {
        struct {
            uint16_t n, first;
            uint16_t ticks[LIMIT_EXACT_MAX]; /* a ring of 1/32768ths of the window, modulo 2^16 */
        } log;
        struct {
            uint64_t start_us;
            uint32_t previous, current;
        } window;
        struct {
            uint64_t full_us; /* the "theoretical arrival time" */
        } gcra;
    };
};

/* What would happen to `quantity` more at now_us. Changes nothing but what has expired. */
void limit_count_test(struct limit_count *count, const struct limit_rule *rule, uint32_t quantity, uint64_t now_us,
                      struct limit_verdict *verdict);
/* After a test that allowed it: charges, and corrects the verdict to what is left. */
void limit_count_charge(struct limit_count *count, const struct limit_rule *rule, uint32_t quantity, uint64_t now_us,
                        struct limit_verdict *verdict);
